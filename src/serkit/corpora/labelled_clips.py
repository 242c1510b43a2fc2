"""A labelled clip of a video, what a complete collection of them holds, and tables of them.

Corpora of clips differ from corpora of emotion: a clip belongs to a video and a part, says
something, and is labelled by how negative or positive it is, as a whole and perhaps stream by
stream (its text, its sound, its pictures).
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serkit.corpora.manifest import NO_LABEL, CorpusError

__all__ = [
    "CLIP_PARTS",
    "CLIP_SUFFIXES",
    "ClipCheck",
    "ClipCounts",
    "LabelledClip",
    "check_clips",
    "clip_part",
    "find_clip",
    "is_unknown",
    "read_annotation",
    "read_label",
    "read_stream_annotations",
    "read_table",
    "require_unique",
]

CLIP_PARTS = ("train", "dev", "test")
# A clip is looked for under each; the first is that of the releases.
CLIP_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".flv", ".m4v", ".mpg", ".wav")

_PART_WORDS = {
    "train": "train", "training": "train", "valid": "dev", "validation": "dev", "val": "dev",
    "dev": "dev", "test": "test", "testing": "test",
}  # fmt: skip
_N_EXAMPLES = 3  # named in a line; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """A clip and what is known about it.

    Attributes
    ----------
    id
        Unique within the corpus: video, ``$_$``, clip.
    path
        Where the clip is, or would be: a reader does not look into it.
    text
        What is said; ``""``: nothing, or nobody knows.
    part
        ``train``, ``dev`` or ``test``.
    group
        The video it is cut from.
    labels : ``M`` (as a whole), ``T`` (its text), ``A`` (its sound), ``V`` (its pictures); NaN
        where unknown
    annotation
        Class in the corpus's words; ``""``: none.
    stream_annotations : ``T``, ``A``, ``V`` -> class of that stream, where one is known
    speaker
        ``None``: nobody knows.
    """

    id: str
    path: Path
    text: str
    part: str
    group: str
    labels: Mapping[str, float]
    annotation: str = ""
    stream_annotations: Mapping[str, str] = field(default_factory=dict)
    speaker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCounts:
    """What a complete copy holds; ``None`` and empty mean 'not known in advance'.

    Attributes
    ----------
    n_clips
        In all parts together.
    parts
        Part -> clips.
    signs
        Part -> clips that are labelled below, at and above 0.
    """

    n_clips: int | None = None
    parts: Mapping[str, int] = field(default_factory=dict)
    signs: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClipCheck:
    """How a copy compares with the release.

    Attributes
    ----------
    summary
        One sentence.
    differences
        Of the counts, and what is missing on disk; one line each.
    """

    summary: str
    differences: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


def check_clips(clips: Sequence[LabelledClip], expected: ClipCounts, *, corpus: str) -> ClipCheck:
    """Compare clips with what a complete copy holds, and look whether their files are there."""
    found = Counter(clip.part for clip in clips)
    differences = []
    if expected.n_clips not in (None, len(clips)):
        differences.append(f"{len(clips)} clips, expected {expected.n_clips}")
    for part, n_expected in expected.parts.items():
        if found[part] != n_expected:
            differences.append(f"{found[part]} clips in {part}, expected {n_expected}")
    for part, signs in expected.signs.items():
        got = _signs(clip.labels["M"] for clip in clips if clip.part == part)
        if got != signs:
            differences.append(f"{got} clips below, at and above 0 in {part}, expected {signs}")
    missing = [clip.path for clip in clips if not clip.path.is_file()]
    if missing:
        differences.append(f"{len(missing)} clips are listed and not there, such as {missing[0]}")
    sizes = ", ".join(f"{found[part]} {part}" for part in CLIP_PARTS)
    n_groups = len({clip.group for clip in clips})
    known = expected.n_clips is not None or bool(expected.parts)
    verdict = "complete" if known else "counts not known in advance"
    if differences:
        verdict = "; ".join(differences)
    summary = f"{corpus}: {len(clips)} clips ({sizes}) of {n_groups} videos: {verdict}"
    return ClipCheck(summary, tuple(differences))


def _signs(labels: object) -> tuple[int, int, int]:
    values = [float(value) for value in labels]  # type: ignore[attr-defined]
    return (
        sum(value < 0 for value in values),
        sum(value == 0 for value in values),
        sum(value > 0 for value in values),
    )


def find_clip(folder: Path, name: str) -> Path:
    """Find a clip by its name without suffix; where there is none, the path it would have."""
    for suffix in CLIP_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    return folder / f"{name}{CLIP_SUFFIXES[0]}"


def read_table(path: Path, *, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV, every cell as text: leading zeros stay.

    Returns
    -------
    rows
        Number of the line and column -> cell, without blanks around them; the header is line 1.

    Raises
    ------
    CorpusError
        If the file is missing, no CSV in UTF-8, or lacks a column or rows.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 text (byte {error.start}): save the table as CSV in UTF-8"
        ) from None
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read ({error.strerror}), expected a table of clips"
        ) from None
    if "\0" in text:
        raise CorpusError(f"{path}: holds a zero byte, expected a table of clips as CSV in UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        _check_header(path, columns, required)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise CorpusError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, expected {len(columns)} "
                    "as in the header: quote texts that hold a comma"
                )
            row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}): check its quotes"
        ) from None
    if not rows:
        raise CorpusError(f"{path}: holds no rows, expected one per clip")
    return rows


def _check_header(path: Path, columns: Sequence[str], required: Sequence[str]) -> None:
    for name in required:
        if name not in columns:
            got = ", ".join(columns)[:200] or "nothing"
            raise CorpusError(f"{path}: no column '{name}'; its first line is {got}")
    twice = [name for name, n in Counter(filter(None, columns)).items() if n > 1]
    if twice:
        raise CorpusError(f"{path}: two columns are called '{twice[0]}': rename one")


def read_label(cell: str, *, limit: float, where: str) -> float:
    """Read a label; an empty cell is NaN, and so is one of :data:`.manifest.NO_LABEL`.

    Parameters
    ----------
    limit
        Labels lie in [-limit, limit].
    where
        How messages call the cell.

    Raises
    ------
    CorpusError
        If it is no number, or out of range.
    """
    if is_unknown(cell):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        raise CorpusError(f"{where}: got '{cell[:40]}', expected a number or nothing") from None
    if not -limit <= value <= limit:
        raise CorpusError(f"{where}: got {cell[:40]}, expected {-limit:g} to {limit:g}")
    return value


def is_unknown(cell: str) -> bool:
    """Tell whether a cell holds no label."""
    return not cell or cell.lower() in NO_LABEL


def read_annotation(row: Mapping[str, str]) -> str:
    """Take the class of a clip from the column ``annotation``; ``""``: none."""
    cell = row.get("annotation", "")
    return "" if is_unknown(cell) else cell


def read_stream_annotations(row: Mapping[str, str]) -> dict[str, str]:
    """Take the classes of streams from the columns ``annotation_T``, ``_A``, ``_V``."""
    cells = {stream: row.get(f"annotation_{stream}", "") for stream in ("T", "A", "V")}
    return {stream: cell for stream, cell in cells.items() if not is_unknown(cell)}


def clip_part(cell: str, *, where: str) -> str:
    """Translate a part into ours.

    Raises
    ------
    CorpusError
        If it is none.
    """
    part = _PART_WORDS.get(cell.lower())
    if part is None:
        raise CorpusError(f"{where}: got '{cell[:40]}', expected train, valid or test")
    return part


def require_unique(path: Path, clips: Sequence[tuple[int, LabelledClip]]) -> None:
    """Refuse two clips of one id.

    Raises
    ------
    CorpusError
        If there are; the message names both lines.
    """
    lines: dict[str, int] = {}
    for line, clip in clips:
        first = lines.setdefault(clip.id, line)
        if first != line:
            raise CorpusError(
                f"{path}, line {line}: clip {clip.id} is in line {first} already: remove the copy"
            )
