from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from serkit import corpora
from serkit.corpora import CORPORA

_HELPERS = {"__init__", "check", "leaks", "manifest", "splits", "drawn_face", "spoken_words"}
_HELPERS |= {"ch_sims", "clip_table", "clips", "labelled_clips", "synthetic_clips"}  # of clips


@pytest.mark.parametrize("key", sorted(CORPORA))
def test_corpus_keeps_the_contract(key: str, contract: ModuleType, tmp_path: Path) -> None:
    contract.assert_contract(key, CORPORA[key], tmp_path)


def test_every_file_in_corpora_is_listed() -> None:
    folder = Path(corpora.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - _HELPERS
    missing = sorted(files - set(CORPORA))
    assert not missing, (
        f"{missing[0]}.py is in serkit/corpora but not in its dict: add "
        f'"{missing[0]}": {missing[0]} to CORPORA in serkit/corpora/__init__.py'
    )
    assert set(CORPORA) <= files


def test_corpora_are_listed_alphabetically_and_aliases_lead_somewhere() -> None:
    assert list(CORPORA) == sorted(CORPORA)
    assert set(corpora.ALIASES.values()) <= set(CORPORA)
    assert not set(corpora.ALIASES) & set(CORPORA)
