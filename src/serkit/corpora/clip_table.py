"""Anybody's clips, listed in a CSV: one row per clip.

The column ``path`` is needed, relative to the table's folder. Others are taken where they are
there: ``id`` (otherwise the path without its suffix), ``text``, ``part`` (``train``, ``dev`` or
``test``; otherwise ``test``), ``group`` (the video; otherwise the folder of the clip), ``speaker``,
``annotation``, a class, and ``annotation_T``, ``annotation_A`` and ``annotation_V``, those of the
streams; and the labels ``label``, ``label_T``, ``label_A`` and ``label_V`` from -3 to 3.

A manifest of emotion (see :mod:`.manifest`) is such a table too, if its files are videos: where
``label`` holds words alone and there is no ``annotation``, they are the classes, and ``transcript``
stands in for ``text``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from serkit.corpora.labelled_clips import (
    ClipCounts,
    LabelledClip,
    clip_part,
    is_unknown,
    read_annotation,
    read_label,
    read_stream_annotations,
    read_table,
    require_unique,
)
from serkit.corpora.manifest import CorpusError

TITLE = "Your clips: a table of files, texts and labels"
LANGUAGE = ""
LICENSE = "yours"
CITATION = ""
URL_HINT = "write a CSV with the columns path, text, label, part, speaker, group"
MANNER = "natural"
QUIRKS = ("Without a column 'part' all clips are test: enough to judge by, not to train on.",)
EXPECTED = ClipCounts()
OPTIONS: tuple[str, ...] = ()

_LABELS = {"M": "label", "T": "label_T", "A": "label_A", "V": "label_V"}
_LIMIT = 3.0  # of labels


def read(root: Path) -> list[LabelledClip]:
    """Read a table, in its order.

    Parameters
    ----------
    root
        The table, or the folder that holds it as its only CSV.

    Raises
    ------
    CorpusError
        If there is not exactly one table, or it cannot be understood.
    """
    table = _find_table(Path(root))
    rows = read_table(table, required=("path",))
    of_emotion = _holds_words([row for _, row in rows])
    numbered = [
        (line, _clip(table, _named(row) if of_emotion else row, f"{table}, line {line}"))
        for line, row in rows
    ]
    require_unique(table, numbered)
    return [clip for _, clip in numbered]


def read_with_counts(root: Path) -> tuple[list[LabelledClip], ClipCounts]:
    """Read; how many there should be nobody knows."""
    return read(root), EXPECTED


def _find_table(root: Path) -> Path:
    if not root.is_dir():
        return root
    tables = sorted(path for path in root.glob("*.csv") if not path.name.startswith("."))
    if len(tables) != 1:
        got = ", ".join(path.name for path in tables) or "none"
        raise CorpusError(f"table: expected one CSV in {root}, got {got}: give the table's path")
    return tables[0]


def _holds_words(rows: Sequence[Mapping[str, str]]) -> bool:
    """Tell whether the column ``label`` holds classes rather than numbers."""
    if "annotation" in rows[0]:
        return False
    cells = [cell for row in rows if not is_unknown(cell := row.get("label", ""))]
    return bool(cells) and not any(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _named(row: Mapping[str, str]) -> dict[str, str]:
    """Give a row of a manifest of emotion the columns of a table of clips."""
    others = {key: cell for key, cell in row.items() if key != "label"}
    text = row.get("text") or row.get("transcript", "")
    return others | {"annotation": row["label"], "text": text}


def _clip(table: Path, row: Mapping[str, str], where: str) -> LabelledClip:
    stored = row["path"].replace("\\", "/")
    if not stored:
        raise CorpusError(f"{where}, column 'path': empty, expected a clip")
    return LabelledClip(
        id=row.get("id") or PurePosixPath(stored).with_suffix("").as_posix().lstrip("/"),
        path=Path(os.path.normpath(table.absolute().parent / stored)),
        text=row.get("text", ""),
        part=clip_part(row.get("part") or "test", where=f"{where}, column 'part'"),
        group=row.get("group") or PurePosixPath(stored).parent.as_posix(),
        labels={
            stream: read_label(
                row.get(column, ""), limit=_LIMIT, where=f"{where}, column '{column}'"
            )
            for stream, column in _LABELS.items()
        },
        annotation=read_annotation(row),
        stream_annotations=read_stream_annotations(row),
        speaker=row.get("speaker") or None,
    )
