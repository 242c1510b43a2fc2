"""Features of clips for models that read words, voice and face: in memory, and as a file.

A :class:`ClipData` holds every clip of a corpus, with the part that it belongs to, what is said in
it, and its acoustic and face frames one after the other, without padding. A stream that a clip does
not have is one frame of zeros, never none, and ``present`` says so. Values that are no finite
numbers are replaced by 0 and counted.

On disk it is a ``.npz`` with the numbers and, beside it, a ``.json`` with everything that has
words: ids, texts, names of columns, how the features were made. Nothing in either is pickled.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.files import replacing, write_atomically
from serkit.types import InputError

__all__ = [
    "CLIP_STREAMS",
    "LABELS",
    "PARTS",
    "ClipData",
    "ClipDataError",
    "Frames",
    "finite",
    "read_clip_data",
    "write_clip_data",
]

VERSION = 1  # of the format; raised when an older serkit could misread a newer file

PARTS = ("train", "dev", "test")
CLIP_STREAMS = ("text", "audio", "vision")
"""Columns of ``present``."""

LABELS = ("M", "T", "A", "V")
"""Whose sentiment: of the clip as a whole, its text, its sound, its pictures."""

_LISTS = ("ids", "parts", "groups", "speakers", "texts", "asr_texts", "annotations")


class ClipDataError(InputError):
    """Features of clips that cannot be used; the message names the file or the clip."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """One stream of all clips.

    Attributes
    ----------
    values : (sum of lengths, n_features), float32, one clip after the other
    lengths : (n_clips,), int64, at least 1
    names
        Of the columns; empty where nobody knows.
    n_replaced
        Values that were NaN or infinite, now 0.
    """

    values: NDArray[np.float32]
    lengths: NDArray[np.int64]
    names: tuple[str, ...] = ()
    n_replaced: int = 0

    @classmethod
    def of(
        cls, rows: Sequence[NDArray[Any]], *, names: Sequence[str] = ()
    ) -> tuple[Frames, NDArray[np.bool_]]:
        """Lay the frames of clips one after the other.

        Parameters
        ----------
        rows : (n_frames, n_features) each; a clip without any has (0, n_features)

        Returns
        -------
        frames
        present : (n_clips,), False where a clip had no frame and now has one of zeros
        """
        width = rows[0].shape[1]
        there = np.array([len(row) > 0 for row in rows])
        filled = [row if len(row) else np.zeros((1, width), np.float32) for row in rows]
        lengths = np.array([len(row) for row in filled], dtype=np.int64)
        values, n_replaced = finite(np.concatenate(filled))
        return cls(values, lengths, tuple(names), n_replaced), there

    @property
    def n_features(self) -> int:
        """Width of a frame."""
        return int(self.values.shape[1])

    def rows(self) -> list[NDArray[np.float32]]:
        """Give the frames clip by clip, as views."""
        return np.split(self.values, np.cumsum(self.lengths)[:-1])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ClipData:
    """Features of all clips of a corpus.

    Attributes
    ----------
    ids
        Unique.
    parts
        ``train``, ``dev`` or ``test`` for each clip.
    groups
        The video each clip is cut from.
    texts
        What is said; ``""``: nothing, or nobody knows.
    audio, vision, present
        See :class:`Frames`; ``present`` (n_clips, 3), bool, for text, audio and vision.
    labels : ``M``, ``T``, ``A``, ``V`` -> (n_clips,), float64; NaN where unknown
    annotations
        Class of each clip in the corpus's words; empty where it has none.
    speakers
        Empty where nobody knows.
    asr_texts
        What a speech recogniser understood; empty where none listened.
    text_bert : (n_clips, 3, n_tokens), int64: token numbers, which are valid, segments
    text
        Vectors of tokens computed beforehand.
    stream_annotations : ``T``, ``A``, ``V`` -> one class per clip; ``""`` where unknown
    status
        Stream -> one word per clip: ``ok`` or why the stream is not there.
    settings
        How the features were made, as plain objects.

    Raises
    ------
    ClipDataError
        If lists do not match, ids repeat, a part is unknown, or an array has the wrong shape.
    """

    ids: tuple[str, ...]
    parts: tuple[str, ...]
    groups: tuple[str, ...]
    texts: tuple[str, ...]
    audio: Frames
    vision: Frames
    present: NDArray[np.bool_]
    labels: Mapping[str, NDArray[np.float64]]
    annotations: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    asr_texts: tuple[str, ...] = ()
    text_bert: NDArray[np.int64] | None = None
    text: Frames | None = None
    stream_annotations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    status: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check it."""
        _check_lists(self)
        _check_arrays(self)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def frames(self) -> dict[str, Frames]:
        """The streams of numbers by name; ``text`` where its vectors are there."""
        streams = {"audio": self.audio, "vision": self.vision}
        return streams if self.text is None else {"text": self.text, **streams}

    @property
    def n_replaced(self) -> dict[str, int]:
        """Count the values of each stream that were NaN or infinite."""
        return {name: frames.n_replaced for name, frames in self.frames.items()}

    def rows_of(self, part: str) -> NDArray[np.int64]:
        """Find the clips of a part, (n_clips of it,)."""
        return np.flatnonzero(np.array(self.parts) == part)


def finite(values: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """Replace NaN and infinite values by 0, and count them."""
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and then 0
        numbers = np.array(values, dtype=np.float32)
    broken = ~np.isfinite(numbers)
    numbers[broken] = 0
    return numbers, int(broken.sum())


def write_clip_data(data: ClipData, path: Path | str) -> Path:
    """Write the two files.

    Parameters
    ----------
    path
        Ends in ``.npz``; the other file has the same name with ``.json``.

    Returns
    -------
    path

    Raises
    ------
    ClipDataError
        If the path ends in anything else, or cannot be written.
    """
    path = _npz(path)
    words = {
        "schema": VERSION,
        **{name: list(getattr(data, name)) for name in _LISTS},
        "columns": {name: list(frames.names) for name, frames in data.frames.items()},
        "n_replaced": data.n_replaced,
        "status": {name: list(values) for name, values in data.status.items()},
        "settings": dict(data.settings),
    }
    if data.stream_annotations:
        words["stream_annotations"] = {k: list(v) for k, v in data.stream_annotations.items()}
    text = json.dumps(words, ensure_ascii=False, indent=1) + "\n"
    arrays: dict[str, NDArray[Any]] = {"present": data.present, "words_sha256": _digest(text)}
    for name, frames in data.frames.items():
        arrays |= {name: frames.values, f"n_{name}": frames.lengths}
    if data.text_bert is not None:
        arrays["text_bert"] = data.text_bert
    arrays |= {f"label_{name}": values for name, values in data.labels.items()}
    try:
        write_atomically(path.with_suffix(".json"), text)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ClipDataError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def read_clip_data(path: Path | str) -> ClipData:
    """Read what :func:`write_clip_data` wrote.

    Raises
    ------
    ClipDataError
        If a file is missing, damaged, of another version, or belongs to another one.
    """
    path = _npz(path)
    if not path.is_file():
        raise ClipDataError(f"{path}: no such file")
    words, text = _read_words(path.with_suffix(".json"))
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:120]
        raise ClipDataError(f"{path}: not a readable .npz of numbers ({reason})") from None
    if not np.array_equal(arrays.get("words_sha256", ()), _digest(text)):
        raise ClipDataError(
            f"{path}: does not belong to {path.with_suffix('.json').name} beside it, or one of the "
            "two was changed: write both again"
        )
    try:
        return _assemble(words, arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ClipDataError(f"{path}: incomplete ({error}): write it again") from None
    except ClipDataError as error:
        raise ClipDataError(f"{path}: {error}") from None


def _assemble(words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ClipData:
    def frames(name: str) -> Frames:
        return Frames(
            arrays[name],
            arrays[f"n_{name}"],
            tuple(words["columns"][name]),
            int(words["n_replaced"][name]),
        )

    return ClipData(
        **{name: tuple(words[name]) for name in _LISTS},
        audio=frames("audio"),
        vision=frames("vision"),
        present=arrays["present"],
        labels={name: arrays[f"label_{name}"] for name in LABELS if f"label_{name}" in arrays},
        text_bert=arrays.get("text_bert"),
        text=frames("text") if "text" in arrays else None,
        stream_annotations={
            name: tuple(values) for name, values in words.get("stream_annotations", {}).items()
        },
        status={name: tuple(values) for name, values in words["status"].items()},
        settings=words["settings"],
    )


def _npz(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix != ".npz":
        raise ClipDataError(f"{path}: features of clips are kept in a .npz with a .json beside it")
    return path


def _read_words(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
        words = json.loads(text)
    except OSError as error:
        raise ClipDataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ClipDataError(f"{path}: not valid JSON ({error})") from None
    schema = words.get("schema") if isinstance(words, dict) else None
    if schema != VERSION:
        raise ClipDataError(
            f"{path}: schema {schema!r}, expected {VERSION}: not features of clips, or those of "
            "another version"
        )
    return words, text


def _digest(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8)


def _check_lists(data: ClipData) -> None:
    n = len(data.ids)
    if not n:
        raise ClipDataError("no clips: features of at least one are needed")
    optional = ("annotations", "speakers", "asr_texts")
    for name in _LISTS:
        values = getattr(data, name)
        if len(values) != n and (values or name not in optional):
            raise ClipDataError(f"{len(values)} {name} for {n} clips: expected one for each")
    for name, values in data.status.items():
        if len(values) != n:
            raise ClipDataError(f"{len(values)} words of status.{name} for {n} clips")
    for name, values in data.stream_annotations.items():
        if name not in LABELS[1:] or len(values) != n:
            raise ClipDataError(
                f"{len(values)} annotations of the stream '{name}' for {n} clips: expected one for "
                "each, of T, A or V"
            )
    seen: set[str] = set()
    for identity, part in zip(data.ids, data.parts, strict=True):
        if identity in seen:
            raise ClipDataError(f"two clips have the id {identity}: give each its own")
        seen.add(identity)
        if part not in PARTS:
            raise ClipDataError(
                f"clip {identity}: part is '{part}', expected one of {', '.join(PARTS)}"
            )


def _check_arrays(data: ClipData) -> None:
    n = len(data.ids)
    for name, frames in data.frames.items():
        if frames.values.ndim != 2 or frames.values.dtype != np.float32:
            raise ClipDataError(
                f"{name} of shape {frames.values.shape} and kind {frames.values.dtype}: expected "
                "(n_frames, n_features) of float32"
            )
        if frames.lengths.shape != (n,) or not (frames.lengths >= 1).all():
            raise ClipDataError(f"lengths of {name}: expected one of at least 1 for each clip")
        if int(frames.lengths.sum()) != len(frames.values):
            raise ClipDataError(
                f"{name} has {len(frames.values)} frames, and its lengths sum to "
                f"{int(frames.lengths.sum())}"
            )
        if frames.names and len(frames.names) != frames.n_features:
            raise ClipDataError(
                f"{name} has {frames.n_features} columns and {len(frames.names)} names of them"
            )
        if not np.isfinite(frames.values).all():
            raise ClipDataError(f"{name} holds NaN or infinite values: replace them first")
    if data.present.shape != (n, len(CLIP_STREAMS)) or data.present.dtype != np.bool_:
        raise ClipDataError(f"present of shape {data.present.shape}: expected ({n}, 3), bool")
    for name, values in data.labels.items():
        if name not in LABELS or values.shape != (n,):
            raise ClipDataError(
                f"labels '{name}' of shape {values.shape}: expected M, T, A or V, ({n},)"
            )
    tokens = data.text_bert
    if tokens is not None and (tokens.shape[:2] != (n, 3) or tokens.ndim != 3):
        raise ClipDataError(f"text_bert of shape {tokens.shape}: expected ({n}, 3, n_tokens)")
