"""Feature files of the MMSA platform: the pickles that CH-SIMS, CMU-MOSI and CMU-MOSEI come as.

Such a file holds a dict of ``train``, ``valid`` and ``test``, each with as many rows of everything
as it has clips: ``id`` (video, ``$_$``, clip), ``raw_text``, ``text`` (vectors of tokens),
``text_bert`` (token numbers, which are valid, segments), ``audio`` and ``vision`` (zeros behind a
clip's end), ``audio_lengths`` and ``vision_lengths`` (absent where frames are aligned with tokens),
``annotations`` and ``regression_labels``, of text, audio and vision as well where people gave them.
Older files have ``classification_labels`` too, of clips and streams, 0 negative, 1 neutral, 2
positive: they are the annotations of streams, and of clips that have no ``annotations``.

The files are read by :mod:`serkit.pickles`, which runs nothing. Other keys at the top are left
alone. Values that are no finite numbers become 0 and are counted; MMSA replaces minus infinity in
``audio`` alone. Where lengths are absent they are those of the tokens, or else the whole width.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.clip_data import LABELS, ClipData, ClipDataError, Frames, read_clip_data
from serkit.files import replacing
from serkit.pickles import PickleRefusedError, read_pickle

__all__ = ["read_clips", "read_mmsa_pickle", "write_mmsa_pickle"]

SPLITS = {"train": "train", "valid": "dev", "test": "test"}
SEPARATOR = "$_$"

_MAX_INSTRUCTIONS = 20_000_000  # a list of words takes two or three for each
_LABELS = {
    "M": "regression_labels",
    "T": "regression_labels_T",
    "A": "regression_labels_A",
    "V": "regression_labels_V",
}
_CLASSES = {"Negative": 0, "Neutral": 1, "Positive": 2}
_TABLES = (".csv", ".tsv")  # of the clips themselves
_HELP = "expected a feature file of MMSA, a pickled dict of train, valid and test"

Split = Mapping[str, Any]


def read_clips(path: Path | str) -> ClipData:
    """Read features of clips from our own file (``.npz``) or a pickle of MMSA.

    Raises
    ------
    ClipDataError
        If the file cannot be used.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in _TABLES:
        corpus = "" if path.is_dir() else " --corpus table"
        raise ClipDataError(
            f"{path}: holds no features of clips: make them with 'serkit extract {path}{corpus} -o "
            "features.npz'"
        )
    return read_clip_data(path) if path.suffix == ".npz" else read_mmsa_pickle(path)


def read_mmsa_pickle(path: Path | str) -> ClipData:
    """Read a feature file of MMSA without running the pickle.

    Raises
    ------
    ClipDataError
        If the file is missing, damaged, asks for anything that a dict of arrays does not need, or
        lacks something.
    """
    path = Path(path)
    content = _content(path)
    if not isinstance(content, dict) or not any(name in content for name in SPLITS):
        raise ClipDataError(f"{path}: holds no train, valid or test; {_HELP}")
    splits = {part: content[name] for name, part in SPLITS.items() if name in content}
    for part, split in splits.items():
        _check_split(path, part, split)
    splits = {part: split for part, split in splits.items() if len(split["id"])}
    if not splits:
        raise ClipDataError(f"{path}: holds no clip; {_HELP}")
    try:
        return _assemble(splits)
    except ClipDataError as error:
        raise ClipDataError(f"{path}: {error}") from None
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ClipDataError(f"{path}: its parts do not fit each other ({reason})") from None


def write_mmsa_pickle(data: ClipData, path: Path | str) -> Path:
    """Write features of clips as MMSA reads them.

    A stream is padded to the mean of its lengths and three standard deviations more, over all
    clips, as MMSA's own extraction does; longer clips lose their end.

    Raises
    ------
    ClipDataError
        If the file cannot be written.
    """
    path = Path(path)
    padded = {name: _padded(frames) for name, frames in data.frames.items()}
    content = {name: _split_of(data, padded, data.rows_of(part)) for name, part in SPLITS.items()}
    try:
        with replacing(path) as part, part.open("wb") as file:
            pickle.dump(content, file, protocol=4)
    except OSError as error:
        raise ClipDataError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _content(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise ClipDataError(f"{path}: the file is empty; {_HELP}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_pickle(data, max_instructions=_MAX_INSTRUCTIONS, words=True)
    except OSError as error:
        raise ClipDataError(f"{path}: cannot be read ({error.strerror}); {_HELP}") from None
    except PickleRefusedError as refused:
        raise ClipDataError(
            f"{path}: refused: {refused}, which features of clips never do: the file is not what "
            "it claims to be, do not open it with other programs"
        ) from None
    except ClipDataError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ClipDataError(f"{path}: no pickle, or damaged ({reason}); {_HELP}") from None


def _check_split(path: Path, part: str, split: Any) -> None:
    if not isinstance(split, dict):
        raise ClipDataError(f"{path}: {part} is no dict; {_HELP}")
    for key in ("id", "audio", "vision", "regression_labels"):
        if key not in split:
            known = ", ".join(sorted(split)) or "nothing"
            raise ClipDataError(f"{path}: {part} has no '{key}', it has {known[:200]}; {_HELP}")
    n = len(split["id"])
    for key in ("raw_text", "text", "text_bert", "audio", "vision", "annotations"):
        got = len(split[key]) if key in split else n
        if got != n:
            raise ClipDataError(f"{path}: {part} has {n} ids and {got} rows of '{key}'")
    for key in ("text", "text_bert", "audio", "vision"):
        if key in split and (not isinstance(split[key], np.ndarray) or split[key].ndim != 3):
            raise ClipDataError(f"{path}: '{key}' of {part} is no array of three axes")


def _assemble(splits: Mapping[str, Split]) -> ClipData:
    ids = _words(splits, "id")
    tokens = _tokens(splits)
    n_tokens = None if tokens is None else tokens[:, 1].sum(axis=1).astype(np.int64)
    audio, has_audio = _frames(splits, "audio", n_tokens)
    vision, has_vision = _frames(splits, "vision", n_tokens)
    texts = _words(splits, "raw_text") if _everywhere(splits, "raw_text") else ("",) * len(ids)
    vectors, has_text = None, np.array([bool(text.strip()) for text in texts])
    if _everywhere(splits, "text"):
        vectors, has_vectors = _frames(splits, "text", n_tokens)
        has_text = has_text if any(texts) else has_vectors
    elif n_tokens is not None and not any(texts):
        has_text = n_tokens > 0
    return ClipData(
        ids=ids,
        parts=tuple(part for part, split in splits.items() for _ in split["id"]),
        groups=tuple(identity.split(SEPARATOR)[0] for identity in ids),
        texts=texts,
        audio=audio,
        vision=vision,
        present=np.stack([has_text, has_audio, has_vision], axis=1),
        labels={
            name: np.concatenate([_numbers(split[key]) for split in splits.values()])
            for name, key in _LABELS.items()
            if _everywhere(splits, key)
        },
        annotations=(
            _words(splits, "annotations")
            if _everywhere(splits, "annotations")
            else _classes(splits, "classification_labels")
        ),
        text_bert=tokens,
        text=vectors,
        stream_annotations={
            name: words
            for name in LABELS[1:]
            if (words := _classes(splits, f"classification_labels_{name}"))
        },
    )


def _everywhere(splits: Mapping[str, Split], key: str) -> bool:
    return all(key in split for split in splits.values())


def _words(splits: Mapping[str, Split], key: str) -> tuple[str, ...]:
    return tuple(str(word) for split in splits.values() for word in split[key])


def _classes(splits: Mapping[str, Split], key: str) -> tuple[str, ...]:
    """Name the classes of clips; none where there are no such labels."""
    if not _everywhere(splits, key):
        return ()
    places = np.concatenate([_numbers(split[key]) for split in splits.values()])
    unknown = places[~np.isin(places, tuple(_CLASSES.values()))]
    if len(unknown):
        raise ClipDataError(
            f"'{key}' holds {unknown[0]:g}: expected 0 (negative), 1 (neutral) or 2 (positive)"
        )
    names = tuple(_CLASSES)
    return tuple(names[int(place)] for place in places)


def _numbers(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _tokens(splits: Mapping[str, Split]) -> NDArray[np.int64] | None:
    if not _everywhere(splits, "text_bert"):
        return None
    tokens = np.concatenate([np.asarray(split["text_bert"]) for split in splits.values()])
    if not np.isfinite(tokens.astype(np.float64)).all():
        raise ClipDataError("'text_bert' holds values that are no token numbers")
    return tokens.astype(np.int64)


def _frames(
    splits: Mapping[str, Split], key: str, n_tokens: NDArray[np.int64] | None
) -> tuple[Frames, NDArray[np.bool_]]:
    """Cut the padding off a stream."""
    padded = [np.asarray(split[key]) for split in splits.values()]
    widths = {rows.shape[1:] for rows in padded}
    if len({width for _, width in widths}) != 1:
        raise ClipDataError(f"'{key}' has another width in each part: {sorted(widths)}")
    if key != "text" and _everywhere(splits, f"{key}_lengths"):
        lengths = np.concatenate([_numbers(split[f"{key}_lengths"]) for split in splits.values()])
    elif n_tokens is not None:
        lengths = n_tokens.astype(np.float64)
    else:
        lengths = np.concatenate([np.full(len(rows), rows.shape[1], float) for rows in padded])
    rows = [row for part in padded for row in part]
    if len(lengths) != len(rows):
        raise ClipDataError(f"{len(lengths)} lengths of '{key}' for {len(rows)} clips")
    return Frames.of([row[: max(0, int(n))] for row, n in zip(rows, lengths, strict=True)])


def _padded(frames: Frames) -> NDArray[np.float32]:
    """Pad a stream, (n_clips, length, n_features)."""
    length = max(1, int(frames.lengths.mean() + 3 * frames.lengths.std()))
    padded = np.zeros((len(frames.lengths), length, frames.n_features), dtype=np.float32)
    for place, row in zip(padded, frames.rows(), strict=True):
        place[: len(row)] = row[:length]
    return padded


def _split_of(
    data: ClipData, padded: Mapping[str, NDArray[np.float32]], rows: NDArray[np.int64]
) -> dict[str, Any]:
    def chosen(words: Sequence[str]) -> list[str]:
        return [words[row] for row in rows]

    split: dict[str, Any] = {"id": chosen(data.ids), "raw_text": chosen(data.texts)}
    split |= {name: values[rows] for name, values in padded.items()}
    for column, name in enumerate(("audio", "vision"), start=1):
        lengths = np.minimum(data.frames[name].lengths[rows], padded[name].shape[1])
        split[f"{name}_lengths"] = np.where(data.present[rows, column], lengths, 0).tolist()
    if data.text_bert is not None:
        split["text_bert"] = data.text_bert[rows]
    if data.annotations:
        split["annotations"] = chosen(data.annotations)
        classes = [_CLASSES.get(word.capitalize(), -1) for word in split["annotations"]]
        if min(classes, default=0) >= 0:
            split["classification_labels"] = np.array(classes, dtype=np.int64)
    for name, words in data.stream_annotations.items():
        places = [_CLASSES.get(word.capitalize(), -1) for word in chosen(words)]
        if min(places, default=0) >= 0:
            split[f"classification_labels_{name}"] = np.array(places, dtype=np.int64)
    for name, values in data.labels.items():
        if name == "M" or not np.isnan(values).any():
            split[_LABELS[name]] = values[rows].astype(np.float32)
    return split
