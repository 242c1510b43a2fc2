"""The worked example of docs/adding-a-corpus.md is executed and held to the contract."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from serkit import corpora

_PAGE = Path(__file__).parents[2] / "docs" / "adding-a-corpus.md"


def test_documented_example_keeps_the_contract(
    contract: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 1
    file = tmp_path / "kitchen.py"
    file.write_text(blocks[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("kitchen", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(corpora, "CORPORA", {**corpora.CORPORA, "kitchen": module})
    contract.assert_contract("kitchen", module, tmp_path)


def test_documented_line_has_the_form_of_the_dict() -> None:
    assert '    "kitchen": kitchen,\n' in _PAGE.read_text("utf-8")
    source = Path(corpora.__file__).read_text("utf-8")
    assert '    "emodb": emodb,\n' in source
