"""Corpora on disk and on paper: find sound files, order utterances, read and write tables.

The manifest is the contract between corpora and everything above them: one CSV row per utterance,
one column per field of :class:`serkit.types.Utterance`. Paths below the manifest's folder are
stored relative to it, so a corpus and its manifest can be moved together.

Foreign tables are read and written too: audformat's segmented CSV (``file,start,end,...`` with
pandas timedelta strings), nkululeko's CSV (``file,speaker,gender,emotion[,start,end]``), EmoBox's
JSONL (and its JSON, one object keyed by utterance) and any CSV, TSV or JSONL whose columns can be
guessed or are named.

The order of utterances is the same everywhere: class-major in alphabetical class order, natural
order of names inside a class, unlabelled utterances last. Random folds of published protocols
depend on it.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from serkit.audio import SOUND_SUFFIXES, find_sound_files, natural_key, probe
from serkit.files import write_atomically
from serkit.labels import canonical_label
from serkit.types import InputError, Utterance

__all__ = [
    "NO_LABEL",
    "CorpusCounts",
    "CorpusError",
    "ManifestFormat",
    "export_manifest",
    "import_manifest",
    "parse_seconds",
    "parse_tree",
    "read_manifest",
    "require_folder",
    "sort_utterances",
    "write_manifest",
]

logger = logging.getLogger(__name__)

"""Suffixes of files taken for sound, best quality first: of two copies the first suffix wins."""

ManifestFormat = Literal["auto", "serkit", "audformat", "nkululeko", "emobox", "table"]

_FIELDS = tuple(one.name for one in fields(Utterance))
_NUMBERS = frozenset(
    {"start_s", "end_s", "duration_s", "age", "arousal", "valence", "dominance"},
)
_REQUIRED = ("id", "path", "corpus", "speaker")
_PARTS = ("train", "dev", "test")
NO_LABEL = ("nan", "none", "null")  # as other programs write an empty cell
_UNKNOWN_SPEAKER = "unknown"

# Field of an utterance -> column names under which other people's tables hold it, likeliest first.
_GUESSES: dict[str, tuple[str, ...]] = {
    "id": ("id", "key", "utterance_id", "utt_id", "sid", "segment_id"),
    "path": (
        "file",
        "path",
        "audio",
        "wav",
        "filename",
        "file_path",
        "filepath",
        "audio_path",
        "audio_filepath",
    ),
    "label": ("label", "emotion", "emo", "category", "class", "target"),
    "speaker": ("speaker", "speaker_id", "spk", "spk_id", "actor", "talker"),
    "transcript": ("transcript", "text", "transcription", "words"),
    "sentence": ("sentence", "sentence_id", "prompt_id"),
    "start_s": ("start", "start_s", "start_time", "begin", "onset"),
    "end_s": ("end", "end_s", "end_time", "stop", "offset"),
    "duration_s": ("duration", "duration_s", "length"),
    "gender": ("gender", "sex"),
    "age": ("age",),
    "language": ("language", "lang"),
    "session": ("session", "session_id"),
    "dialogue": ("dialogue", "dialogue_id", "dialog"),
    "style": ("style",),
    "intensity": ("intensity",),
    "arousal": ("arousal", "activation"),
    "valence": ("valence",),
    "dominance": ("dominance",),
    "corpus": ("corpus", "dataset", "database"),
    "official_part": ("official_part", "split", "part", "partition", "subset"),
}
_PART_WORDS = {
    "train": "train", "training": "train", "dev": "dev", "devel": "dev", "development": "dev",
    "val": "dev", "valid": "dev", "validation": "dev", "test": "test", "testing": "test",
    "eval": "test",
}  # fmt: skip
_GENDER_WORDS = {"f": "female", "female": "female", "w": "female", "m": "male", "male": "male"}


class CorpusError(InputError):
    """A corpus folder or a table of utterances that cannot be used as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCounts:
    """What a complete copy of a corpus holds; ``None`` and empty mean 'not known in advance'.

    Attributes
    ----------
    n_utterances
        All utterances, with and without label.
    n_speakers
        Different speakers.
    per_label
        Utterances per category, in serkit's spelling.
    n_unlabelled
        Utterances without a category.
    min_duration_s, max_duration_s
        Shortest and longest utterance of the release, in seconds.
    """

    n_utterances: int | None = None
    n_speakers: int | None = None
    per_label: Mapping[str, int] = field(default_factory=dict)
    n_unlabelled: int = 0
    min_duration_s: float | None = None
    max_duration_s: float | None = None


def sort_utterances(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Order utterances class-major: classes alphabetically, natural order of names inside a class.

    The name is the last part of the id, as if the files of one class lay in one folder; equal names
    are ordered by the whole id. Unlabelled utterances come last. Sort again after merging labels.
    """

    def key(utterance: Utterance) -> tuple[bool, str, Any, Any]:
        name = utterance.id.rpartition("/")[2]
        label = utterance.label
        return label is None, label or "", natural_key(name), natural_key(utterance.id)

    return sorted(utterances, key=key)


def require_folder(root: Path, corpus: str) -> Path:
    """Return the absolute folder of a corpus.

    Raises
    ------
    CorpusError
        If there is no such folder.
    """
    root = Path(root)
    if not root.is_dir():
        what = "a file" if root.exists() else "missing"
        raise CorpusError(
            f"{corpus}: expected the corpus folder at {root}, which is {what}: "
            "give the folder that the release was unpacked into"
        )
    return root.absolute()


def parse_tree(
    root: Path,
    parse: Callable[[Path, str], Utterance | None],
    *,
    corpus: str,
    names: Sequence[str],
) -> list[Utterance]:
    """Read every sound file below a folder whose name a corpus understands.

    Parameters
    ----------
    root
        Folder of the corpus.
    parse
        Given the file and its name below ``root`` (``/`` between folders, no suffix), returns the
        utterance, or ``None`` for a file that is not one of the corpus.
    corpus
        Key of the corpus, for messages.
    names
        Examples of relative paths, for messages.

    Returns
    -------
    utterances in serkit's order. Of several files that make the same utterance (a second copy of
    the tree, the same recording as MP3) the first is kept, best suffix first.

    Raises
    ------
    CorpusError
        If the folder is missing or holds no file of the corpus.
    """
    root = require_folder(root, corpus)
    files = find_sound_files(root)
    found: dict[str, Utterance] = {}
    for path in sorted(files, key=lambda one: SOUND_SUFFIXES.index(one.suffix.lower())):
        name = path.relative_to(root).with_suffix("").as_posix()
        utterance = parse(path, name)
        if utterance is not None:
            found.setdefault(utterance.id, utterance)
    if not found:
        got = f"{len(files)} sound files, such as {files[0].relative_to(root)}" if files else ""
        raise CorpusError(
            f"{corpus}: no utterance of this corpus below {root}: got {got or 'no sound files'}, "
            f"expected names such as {names[0]}: is this the right folder?"
        )
    return sort_utterances(found.values())


def write_manifest(path: Path | str, utterances: Iterable[Utterance]) -> None:
    """Write a manifest: CSV, one row per utterance, in the given order.

    Sound files below the manifest's folder are stored relative to it, others absolutely. The file
    appears at once or not at all.

    Raises
    ------
    CorpusError
        If two utterances share an id, or the folder does not exist.
    """
    path = Path(path)
    utterances = list(utterances)
    _require_unique_ids(path, enumerate(utterances, start=2))
    rows = []
    for utterance in utterances:
        row = {name: _cell(getattr(utterance, name)) for name in _FIELDS}
        row["path"] = _stored_path(utterance.path, path.absolute().parent)
        rows.append(row)
    _write_rows(path, _FIELDS, rows)


def read_manifest(path: Path | str) -> list[Utterance]:
    """Read a manifest written by :func:`write_manifest`, in its order.

    Raises
    ------
    CorpusError
        If the file is missing or empty, a column is unknown or missing, or a cell cannot be
        understood; the message names the file, the row and the column. The header is row 1.
    """
    path = Path(path)
    columns, rows = _read_rows(path)
    for column in columns:
        if column not in _FIELDS:
            near = difflib.get_close_matches(column, _FIELDS, n=1)
            raise CorpusError(
                f"{path}: unknown column '{column}' in a manifest: "
                + (f"did you mean '{near[0]}'?" if near else "remove it, or import the table")
            )
    for column in _REQUIRED:
        if column not in columns:
            raise CorpusError(
                f"{path}: the column '{column}' is missing; a manifest needs {', '.join(_REQUIRED)}"
            )
    numbered = [(number, _utterance(path, number, row)) for number, row in rows]
    _require_unique_ids(path, numbered)
    return [utterance for _, utterance in numbered]


def import_manifest(
    path: Path | str,
    *,
    format: ManifestFormat = "auto",
    corpus: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Utterance]:
    """Read a table of utterances, ours or another toolkit's.

    Parameters
    ----------
    path
        A ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` file; the last may hold JSON lines as well.
        Sound files are looked up relative to its folder.
    format
        ``auto`` decides by suffix and columns.
    corpus
        Name to give to the utterances; by default the table's own, or the name of the file.
    columns
        Field of an utterance -> name of the column that holds it, where guessing is not wanted:
        ``{"path": "clip", "label": "mood"}``. An empty name leaves the field out.

    Returns
    -------
    utterances in the order of the table. Categories are translated into serkit's spelling where
    they are known English words; speakers that the table does not name are called ``unknown``.

    Raises
    ------
    CorpusError
        If the file cannot be understood; the message names the file, the row and the column.
    """
    path = Path(path)
    if format not in get_args(ManifestFormat):
        raise CorpusError(
            f"{path}: unknown format '{format}': choose {', '.join(get_args(ManifestFormat))}"
        )
    if format == "serkit":
        return read_manifest(path)
    found, rows = _read_rows(path)
    if format == "auto":
        format = _detect(path, found) if columns is None else "table"
        if format == "serkit":
            return read_manifest(path)
    where = _columns(path, found, columns or {})
    numbered = []
    for number, row in rows:
        name = corpus or _text(row, where, "corpus") or path.stem
        utterance = _foreign_utterance(path, number, row, where, name)
        if format == "emobox":
            utterance = _with_reader(utterance, path)
        numbered.append((number, utterance))
    _require_unique_ids(path, numbered)
    utterances = [utterance for _, utterance in numbered]
    n_unknown = sum(utterance.speaker == _UNKNOWN_SPEAKER for utterance in utterances)
    if n_unknown:
        logger.warning(
            "%s: the speaker of %d of %d utterances is not known; splits that keep speakers apart "
            "are impossible without a speaker column",
            path,
            n_unknown,
            len(utterances),
        )
    return utterances


def export_manifest(
    path: Path | str, utterances: Iterable[Utterance], *, format: ManifestFormat = "auto"
) -> None:
    """Write utterances as a table for another toolkit.

    Parameters
    ----------
    path
        File to write.
    format
        ``auto`` writes EmoBox for ``.jsonl`` and serkit's manifest otherwise.

    Raises
    ------
    CorpusError
        If the format cannot hold the utterances (EmoBox knows whole files only).
    """
    path = Path(path)
    utterances = list(utterances)
    if format == "auto":
        format = "emobox" if path.suffix.lower() == ".jsonl" else "serkit"
    if format == "serkit":
        write_manifest(path, utterances)
    elif format == "emobox":
        _export_emobox(path, utterances)
    elif format in ("audformat", "nkululeko"):
        _export_segments(path, utterances, format=format)
    else:
        raise CorpusError(
            f"{path}: cannot write the format '{format}': "
            "choose serkit, audformat, nkululeko or emobox"
        )


def parse_seconds(text: str) -> float | None:
    """Read a time: plain seconds, or a timedelta as pandas writes it; empty and NaT mean 'open'.

    >>> parse_seconds("1.5"), parse_seconds("0 days 00:01:01.500000"), parse_seconds("NaT")
    (1.5, 61.5, None)

    Raises
    ------
    ValueError
        If the text is neither.
    """
    text = text.strip()
    if text.lower() in ("", "nat", "nan", "none", "null"):
        return None
    match = re.fullmatch(
        r"(?:(\d+) days?)?\s*\+?(?:(\d+):(\d\d):(\d\d(?:\.\d+)?))?", text, flags=re.ASCII
    )
    if match and any(match.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {text}")
    return value


def _detect(path: Path, columns: Sequence[str]) -> ManifestFormat:
    """Tell formats apart by suffix and columns."""
    if path.suffix.lower() in (".jsonl", ".json"):
        return "emobox" if {"key", "wav", "dataset"} <= set(columns) else "table"
    if set(_REQUIRED) <= set(columns):
        return "serkit"
    if list(columns[:3]) == ["file", "start", "end"]:
        return "audformat"
    if {"file", "speaker", "emotion"} <= set(columns):
        return "nkululeko"
    return "table"


def _columns(path: Path, found: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    """Field of an utterance -> column of the table."""
    where: dict[str, str] = {}
    for name, column in wanted.items():
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            raise CorpusError(
                f"unknown field '{name}' among the columns: "
                + (
                    f"did you mean '{near[0]}'?"
                    if near
                    else f"expected one of {', '.join(_FIELDS)}"
                )
            )
        if column and column not in found:
            raise CorpusError(
                f"{path}: no column '{column}' for {name}; the table has {', '.join(found)}"
            )
        where[name] = column
    lowered: dict[str, str] = {}
    for column in found:
        lowered.setdefault(column.strip().lower(), column)
    taken = set(where.values())
    for name, guesses in _GUESSES.items():
        for guess in guesses:
            column = lowered.get(guess, "")
            if name not in where and column and column not in taken:
                where[name] = column
                taken.add(column)
    where = {name: column for name, column in where.items() if column}
    if "path" not in where:
        raise CorpusError(
            f"{path}: no column holds the sound file; the table has {', '.join(found)}, expected "
            "one of file, path, audio, wav: name it with columns={'path': ...}"
        )
    return where


def _foreign_utterance(
    path: Path, number: int, row: Mapping[str, str], where: Mapping[str, str], corpus: str
) -> Utterance:
    """Turn one row of somebody's table into an utterance."""
    values = {name: _text(row, where, name) for name in _FIELDS if name in where}
    file = values.pop("path", "")
    if not file:
        raise CorpusError(
            f"{path}, row {number}, column '{where['path']}': empty, expected a sound file"
        )
    stored = file.replace("\\", "/")
    cells: dict[str, str] = {name: value for name, value in values.items() if value}
    cells["path"] = stored
    cells["corpus"] = corpus
    cells.setdefault("speaker", _UNKNOWN_SPEAKER)
    if "label" in cells:
        cells["label"] = canonical_label(cells["label"])
    if "gender" in cells:
        cells["gender"] = _GENDER_WORDS.get(cells["gender"].lower(), cells["gender"])
    if "official_part" in cells:
        part = cells["official_part"].lower()
        cells["official_part"] = _PART_WORDS.get(part, part)
    for name in ("start_s", "end_s", "duration_s"):
        if name in cells:
            seconds = _seconds(path, number, where[name], cells.pop(name))
            if seconds is not None:
                cells[name] = repr(seconds)
    if "id" not in cells:
        cells["id"] = PurePosixPath(stored).with_suffix("").as_posix().lstrip("/")
        if "start_s" in cells or "end_s" in cells:
            start, end = float(cells.get("start_s", 0)), cells.get("end_s")
            if start or end:
                cells["id"] += f"@{start:.3f}-{float(end):.3f}" if end else f"@{start:.3f}"
    return _utterance(path, number, cells, where=where)


def _with_reader(utterance: Utterance, table: Path) -> Utterance:
    """Complete an EmoBox row, which names no speaker, by what the corpus's reader sees in its path.

    EmoBox keeps each corpus's own codes ('gio', 'ps') and writes paths relative to its repository,
    two folders above the table.
    """
    from serkit.corpora import ALIASES, CORPORA

    folder = table.absolute().parent
    if utterance.path.is_relative_to(folder):
        stored = utterance.path.relative_to(folder)
        above = [base / stored for base in folder.parents if (base / stored).is_file()]
        if above and not utterance.path.is_file():
            utterance = replace(utterance, path=above[0])
    name = utterance.corpus.lower()
    parse = getattr(CORPORA.get(ALIASES.get(name, name)), "parse", None)
    known: Utterance | None = None
    if parse is not None:
        known = parse(utterance.path, utterance.path.with_suffix("").as_posix())
    if known is None:
        return utterance
    return replace(
        known,
        id=utterance.id,
        label=known.label or utterance.label,
        speaker=known.speaker if utterance.speaker == _UNKNOWN_SPEAKER else utterance.speaker,
        duration_s=utterance.duration_s,
        transcript=utterance.transcript or known.transcript,
        official_part=utterance.official_part,
    )


def _export_segments(path: Path, utterances: Sequence[Utterance], *, format: str) -> None:
    """Write ``file,start,end,...`` for audformat or ``file,speaker,gender,emotion,...``."""
    folder = path.absolute().parent
    whole = all(not one.start_s and one.end_s is None for one in utterances)
    tags = ["speaker", "gender", "emotion"]
    extra = {"age": "age", "language": "language", "text": "transcript", "sentence": "sentence"}
    if format == "audformat":
        columns = ["file", "start", "end", "emotion", "speaker", "gender", *extra]
    else:
        columns = ["file", *tags] if whole else ["file", "start", "end", *tags]
        columns += extra
    rows = []
    for one in utterances:
        values = {
            "file": _stored_path(one.path, folder),
            "start": _timedelta(one.start_s),
            "end": "" if one.end_s is None else _timedelta(one.end_s),
            "emotion": one.label or "",
            "speaker": one.speaker,
            "gender": one.gender or "",
        } | {column: _cell(getattr(one, name)) for column, name in extra.items()}
        rows.append({column: values[column] for column in columns})
    _write_rows(path, columns, rows)


def _export_emobox(path: Path, utterances: Sequence[Utterance]) -> None:
    folder = path.absolute().parent
    lines = []
    for one in utterances:
        if one.start_s or one.end_s is not None:
            raise CorpusError(
                f"{path}: EmoBox tables hold whole files only, but {one.id} is the stretch from "
                f"{one.start_s:g} s of {one.path.name}: cut the file first or export audformat"
            )
        info = probe(one.path)
        record: dict[str, object] = {
            "key": f"{one.corpus}-{one.id.replace('/', '-')}",
            "dataset": one.corpus,
            "wav": _stored_path(one.path, folder),
            "type": "raw",
            "sample_rate": info.sample_rate,
            "num_frame": info.n_samples,
            "task": "category",
            "length": info.duration_s,
            "emo": one.label or "",
            "channel": info.n_channels,
            "spk": one.speaker,
        }
        record |= {"gender": one.gender} if one.gender else {}
        record |= {"text": one.transcript} if one.transcript else {}
        lines.append(json.dumps(record, ensure_ascii=False))
    _write_text(path, "".join(line + "\n" for line in lines))


def _utterance(
    path: Path, number: int, cells: Mapping[str, str], *, where: Mapping[str, str] | None = None
) -> Utterance:
    """Build an utterance from text cells, checking each."""
    names = where or {}

    def fail(name: str, problem: str) -> CorpusError:
        return CorpusError(f"{path}, row {number}, column '{names.get(name, name)}': {problem}")

    def leave_out(name: str) -> str:
        return f", or leave it out with columns={{'{name}': ''}}" if where else ""

    values: dict[str, Any] = {"label": None}
    for name in _FIELDS:
        cell = cells.get(name, "")
        if not cell or (name == "label" and cell.strip().lower() in NO_LABEL):
            continue
        if name in _NUMBERS:
            try:
                values[name] = float(cell)
            except ValueError:
                raise fail(name, f"got '{cell}', expected a number") from None
            if not math.isfinite(values[name]):
                raise fail(name, f"got '{cell}', expected a finite number")
        else:
            values[name] = cell
    for name in _REQUIRED:
        if name not in values:
            raise fail(name, f"empty, but every utterance needs a {name}")
    start_s, end_s = values.get("start_s", 0.0), values.get("end_s")
    if start_s < 0:
        raise fail("start_s", f"got {start_s:g}, expected seconds from the start of the file")
    if end_s is not None and end_s <= start_s:
        raise fail("end_s", f"got {end_s:g}, expected more than the start at {start_s:g} s")
    for name in ("arousal", "valence", "dominance"):
        if not 0 <= values.get(name, 0) <= 1:
            raise fail(
                name,
                f"got {values[name]:g}, expected a rating scaled to 0..1: rescale the column"
                + leave_out(name),
            )
    if values.get("official_part") not in (None, *_PARTS):
        raise fail(
            "official_part",
            f"got '{values['official_part']}', expected train, dev or test"
            + leave_out("official_part"),
        )
    values["path"] = Path(os.path.normpath(path.absolute().parent / values["path"]))
    return Utterance(**values)


def _require_unique_ids(path: Path, numbered: Iterable[tuple[int, Utterance]]) -> None:
    rows: dict[str, int] = {}
    for number, utterance in numbered:
        first = rows.setdefault(utterance.id, number)
        if first != number:
            raise CorpusError(
                f"{path}, row {number}, column 'id': '{utterance.id}' is already in row {first}; "
                "ids must be unique: remove the copy or add an id column"
            )


def _text(row: Mapping[str, str], where: Mapping[str, str], name: str) -> str:
    return (row.get(where[name]) or "").strip() if name in where else ""


def _seconds(path: Path, number: int, column: str, text: str) -> float | None:
    try:
        return parse_seconds(text)
    except ValueError:
        raise CorpusError(
            f"{path}, row {number}, column '{column}': got '{text}', expected seconds (1.5) or a "
            "timedelta (0 days 00:00:01.500000)"
        ) from None


def _cell(value: object) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _timedelta(seconds: float) -> str:
    """Write seconds as pandas writes a timedelta."""
    microseconds = round(seconds * 1e6)
    minutes, rest = divmod(microseconds, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} days {hours:02}:{minutes:02}:{rest // 1_000_000:02}.{rest % 1_000_000:06}"


def _stored_path(file: Path, folder: Path) -> str:
    """Relative to the folder where the file lies below it, else absolute."""
    file = file.absolute()
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and the rows with their numbers; the first line of the file is row 1."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise CorpusError(f"{path}: {what}, expected a table of utterances (CSV, TSV or JSONL)")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 text (byte {error.start}): save the table as CSV in UTF-8"
        ) from None
    if path.suffix.lower() in (".jsonl", ".json") or text.lstrip().startswith("{"):
        records = _json_records(path, text)
        columns = list(dict.fromkeys(name for _, record in records for name in record))
        rows = records
    else:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
        reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
        rows, columns = [], []
        try:
            for number, cells in enumerate(reader, start=1):
                if not any(cell.strip() for cell in cells):
                    continue
                if not columns:
                    columns = [cell.strip() for cell in cells]
                    continue
                if len(cells) != len(columns):
                    raise CorpusError(
                        f"{path}, row {number}: {len(cells)} cells, expected {len(columns)} as in "
                        f"the header: quote cells that hold a '{delimiter}'"
                    )
                rows.append((number, dict(zip(columns, cells, strict=True))))
        except csv.Error as error:
            raise CorpusError(
                f"{path}, line {reader.line_num}: not valid CSV ({error}): check its quotes"
            ) from None
        columns = [column for column in columns if column]
    if not rows:
        raise CorpusError(f"{path}: holds no rows, expected one per utterance")
    return columns, rows


def _delimiter(text: str) -> str:
    """Choose the commonest of comma, semicolon and tab in the header line."""
    header = text.lstrip().partition("\n")[0]
    return max(",;\t", key=header.count)


def _json_records(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """Rows of JSON lines, whatever the suffix; of a list, or of an object keyed by utterance."""
    loaded: list[tuple[int, object]]
    try:
        if path.suffix.lower() == ".json" and not _holds_lines(text):
            whole = json.loads(text)
            items: Iterable[object] = whole if isinstance(whole, list) else [whole]
            if isinstance(whole, dict):
                items = [
                    {"key": key, **value} if isinstance(value, dict) else value
                    for key, value in whole.items()
                ]
            loaded = list(enumerate(items, start=1))
        else:
            loaded = [
                (number, json.loads(line))
                for number, line in enumerate(text.splitlines(), start=1)
                if line.strip()
            ]
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: not valid JSON ({error}): one object per line") from None
    rows = []
    for number, record in loaded:
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, row {number}: got {record!r}, expected an object")
        rows.append((number, _flat(record)))
    return rows


def _holds_lines(text: str) -> bool:
    """Tell whether the first line is a whole object, and others follow."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        return False


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested objects: ``{"speaker": {"id": "03", "gender": "f"}}`` has two columns."""
    flat: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            for inner, cell in _flat(value).items():
                flat.setdefault(key if inner in ("id", "name", "value", "label") else inner, cell)
        elif isinstance(value, bool | list):
            continue  # no field of an utterance is a flag or a list
        elif value is not None:
            flat[key] = str(value)
    return flat


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(path, buffer.getvalue())


def _write_text(path: Path, text: str) -> None:
    """Replace a file in one step; refuse to write where there is no folder."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise CorpusError(f"{path}: the folder {folder} does not exist: create it first")
    write_atomically(path, text)
