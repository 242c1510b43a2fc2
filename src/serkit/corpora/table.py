"""Anybody's recordings, listed in a table: CSV, TSV or JSONL, one row per utterance.

Columns are guessed by their usual names (``file``, ``path``, ``audio`` or ``wav``; ``label`` or
``emotion``; ``speaker`` or ``speaker_id``; ``text`` or ``transcript``; ``start``, ``end``;
``gender``; and so on), or named: ``columns={"path": "clip", "label": "mood"}``. An empty name
leaves a field out.
Sound files are looked up relative to the table's folder. Times are seconds or pandas timedeltas.
Known English emotion words are translated into serkit's spelling, others are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, CorpusError, import_manifest, sort_utterances
from serkit.types import Utterance

TITLE = "Your recordings: a table of files and labels"
LANGUAGE = ""
LICENSE = "yours"
CITATION = ""
URL_HINT = "write a CSV with the columns file, label, speaker"
MANNER = "natural"
EXPECTED = CorpusCounts()
NAMES = (
    "clips/one.wav",
    "clips/two.wav",
    "clips/three.wav",
    "clips/four.wav",
)
QUIRKS = ("Without a speaker column all speakers are 'unknown'.",)
OPTIONS = ("columns",)

_SUFFIXES = (".csv", ".tsv", ".jsonl")


def read(root: Path, *, columns: Mapping[str, str] | None = None) -> list[Utterance]:
    """Read a table, or the only table in a folder.

    Parameters
    ----------
    root
        The table, or the folder that holds it.
    columns
        Field of an utterance -> column of the table.

    Raises
    ------
    CorpusError
        If there is not exactly one table, or it cannot be understood.
    """
    root = Path(root)
    if root.is_dir():
        tables = sorted(
            path
            for path in root.iterdir()
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        )
        if len(tables) != 1:
            got = ", ".join(path.name for path in tables) or "none"
            raise CorpusError(
                f"table: expected one table ({', '.join(_SUFFIXES)}) in {root}, got {got}: "
                "give the path of the table"
            )
        root = tables[0]
    utterances = import_manifest(root, format="table", corpus="table", columns=columns)
    return sort_utterances(utterances)
