"""The clips of a sentiment experiment: read, divided into folds, checked, and as tensors.

Folds of one's own keep speakers apart where all of them are known, else videos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.clip_data import ClipData, ClipDataError, Frames
from serkit.evaluation.sentiment import SENTIMENT_LIMITS
from serkit.experiment.originals.mmsa_files import read_clips
from serkit.features.text_cache import extract_texts
from serkit.models.self_mm import STREAMS
from serkit.sentiment_model import TEXT_VECTORS, SentimentModel
from serkit.training.data import Ragged
from serkit.training.sentiment import ClipTensors
from serkit.transcripts import clean_transcript
from serkit.types import InputError

__all__ = [
    "STREAM_LABELS",
    "ClipClasses",
    "ClipFold",
    "Sharing",
    "chosen_clips",
    "clip_fingerprint",
    "find_sharing",
    "group_folds",
    "grouping",
    "official_fold",
    "read_streams",
    "require_on_scale",
    "to_tensors",
]

STREAM_LABELS = {"text": "T", "audio": "A", "vision": "V"}
"""Stream -> what labels and annotations of it are called in :class:`serkit.clip_data.ClipData`."""

_SHARED_VIDEOS = "videos shared by train and test"
_PAIRS = (("train", "test"), ("dev", "test"), ("train", "dev"))
_ROUNDING = 1e-6  # of labels that were kept as float32
_N_EXAMPLES = 3  # named in a line; the rest is counted


@dataclass(frozen=True, slots=True, eq=False)
class ClipFold:
    """One partition: rows of the clips to train on, to select by, to judge by."""

    name: str
    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    test: NDArray[np.int64]

    def rows(self, part: str) -> NDArray[np.int64]:
        """Give the rows of a part by its name."""
        rows: NDArray[np.int64] = getattr(self, part)
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class ClipClasses:
    """Which of some classes each clip has.

    Attributes
    ----------
    names
        In the order of their places.
    whole : (n_clips,), int64
    streams : stream -> (n_clips,), int64, what each stream by itself shows; -1 where unknown
    """

    names: tuple[str, ...]
    whole: NDArray[np.int64]
    streams: Mapping[str, NDArray[np.int64]]

    def chosen(self, rows: NDArray[np.int64]) -> ClipClasses:
        """Give those of some clips."""
        streams = {name: places[rows] for name, places in self.streams.items()}
        return ClipClasses(self.names, self.whole[rows], streams)


@dataclass(frozen=True, slots=True)
class Sharing:
    """What parts share.

    Attributes
    ----------
    lines
        Sentences for people.
    words
        What limits the claim, in a few words each.
    speaker_independent
        Whether no test clip is of a speaker who was trained on; ``None``: nobody knows.
    """

    lines: tuple[str, ...]
    words: tuple[str, ...]
    speaker_independent: bool | None = None

    @property
    def ok(self) -> bool:
        """Whether training and test parts share neither videos nor known speakers."""
        return self.speaker_independent is not False and _SHARED_VIDEOS not in self.words


def read_streams(path: Path, others: dict[str, str], locate: Callable[[str], Path]) -> ClipData:
    """Read clips, and take single streams of them from other files.

    Parameters
    ----------
    others
        Stream -> file, of the same clips.
    locate
        Finds a file.

    Raises
    ------
    ClipDataError
        If a file cannot be used, or a clip is missing in one of the others.
    """
    data = read_clips(path)
    for stream, name in others.items():
        other = read_clips(locate(name))
        place = {identity: row for row, identity in enumerate(other.ids)}
        missing = [identity for identity in data.ids if identity not in place]
        if missing:
            raise ClipDataError(f"{name}: has no clip {missing[0]} ({len(missing)} are missing)")
        data = _with_stream(data, other, stream, [place[identity] for identity in data.ids])
    return data


def _with_stream(data: ClipData, other: ClipData, stream: str, rows: list[int]) -> ClipData:
    column = STREAMS.index(stream)
    present = data.present.copy()
    present[:, column] = other.present[rows, column]
    if stream != "text":
        frames = _picked(other.frames[stream], rows)
        return replace(data, present=present, **{stream: frames})  # type: ignore[arg-type]
    return replace(
        data,
        present=present,
        texts=tuple(other.texts[row] for row in rows),
        text=None if other.text is None else _picked(other.text, rows),
        text_bert=None if other.text_bert is None else other.text_bert[rows],
    )


def _picked(frames: Frames, rows: Sequence[int]) -> Frames:
    clips = frames.rows()
    picked, _ = Frames.of([clips[row] for row in rows], names=frames.names)
    return replace(picked, n_replaced=frames.n_replaced)


def chosen_clips(data: ClipData, rows: NDArray[np.int64]) -> ClipData:
    """Give some of the clips."""
    places = rows.tolist()

    def words(all_of_them: Sequence[str]) -> tuple[str, ...]:
        return tuple(all_of_them[row] for row in places) if all_of_them else ()

    return replace(
        data,
        ids=words(data.ids),
        parts=words(data.parts),
        groups=words(data.groups),
        texts=words(data.texts),
        audio=_picked(data.audio, places),
        vision=_picked(data.vision, places),
        present=data.present[rows],
        labels={name: values[rows] for name, values in data.labels.items()},
        annotations=words(data.annotations),
        speakers=words(data.speakers),
        asr_texts=words(data.asr_texts),
        text_bert=None if data.text_bert is None else data.text_bert[rows],
        text=None if data.text is None else _picked(data.text, places),
        stream_annotations={k: words(v) for k, v in data.stream_annotations.items()},
        status={k: words(v) for k, v in data.status.items()},
    )


def require_on_scale(data: ClipData, scale: str) -> None:
    """Refuse labels that are not of a scale; what is unknown is on every scale.

    Raises
    ------
    ClipDataError
        If there are any: names the first and counts the rest.
    """
    limit = SENTIMENT_LIMITS[scale]
    for stream, values in data.labels.items():
        off = np.flatnonzero(np.abs(values) > limit + _ROUNDING)
        if len(off):
            raise ClipDataError(
                f"clip {data.ids[off[0]]} has the label {stream} = {values[off[0]]:g}, and the "
                f"scale '{scale}' goes from {-limit:g} to {limit:g} ({len(off)} clips are off it): "
                "set scale to that of the labels (mosi: -3 to 3), or divide them"
            )


def official_fold(data: ClipData) -> list[ClipFold]:
    """Take the parts as the data name them.

    Raises
    ------
    ClipDataError
        If one of them is empty.
    """
    rows = {part: data.rows_of(part) for part in ("train", "dev", "test")}
    for part, found in rows.items():
        if not len(found):
            raise ClipDataError(
                f"the data have no {part} part: take split.kind = 'group', which divides all clips"
            )
    return [ClipFold("official", **rows)]


def grouping(data: ClipData, by: str) -> str:
    """Say what folds keep apart: ``speaker`` or ``group``.

    Parameters
    ----------
    by
        ``auto``: speakers where every clip names one, else videos.
    """
    if by != "auto":
        return by
    return "speaker" if data.speakers and all(data.speakers) else "group"


def group_folds(data: ClipData, *, by: str, n_folds: int, seed: int) -> list[ClipFold]:
    """Divide all clips so that no group is in two parts of a fold.

    Groups are shuffled and given, the largest first, to the smallest of ``n_folds`` shares. Each
    share is the test part once, and the dev part of the fold before.

    Parameters
    ----------
    by
        ``group`` (the video), ``speaker``, or ``auto``, see :func:`grouping`.

    Raises
    ------
    ClipDataError
        If there are fewer groups than folds, or speakers are not known.
    """
    by = grouping(data, by)
    names = data.groups if by == "group" else data.speakers
    if not names or not all(names):
        raise ClipDataError(
            f"{len(data) - sum(map(bool, names))} of {len(data)} clips do not say who speaks: take "
            "split.by = 'group'"
        )
    groups, codes, sizes = np.unique(np.array(names), return_inverse=True, return_counts=True)
    if len(groups) < n_folds:
        advice = ", or split.by = 'group', which lets speakers be in several parts"
        raise ClipDataError(
            f"{len(groups)} {by}s cannot make {n_folds} folds: take fewer (split.n_folds)"
            + advice * (by == "speaker")
        )
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    ranked = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    share, filled = np.zeros(len(groups), dtype=np.int64), np.zeros(n_folds)
    for group in ranked:
        share[group] = filled.argmin()
        filled[share[group]] += sizes[group]
    of_clip = share[codes.reshape(-1)]
    folds = []
    for test in range(n_folds):
        dev = (test + 1) % n_folds
        folds.append(
            ClipFold(
                f"fold{test}",
                train=np.flatnonzero((of_clip != test) & (of_clip != dev)),
                dev=np.flatnonzero(of_clip == dev),
                test=np.flatnonzero(of_clip == test),
            )
        )
    return folds


def find_sharing(data: ClipData, folds: Sequence[ClipFold]) -> Sharing:
    """Find videos, speakers and texts that are in two parts of a fold."""
    axes = {"videos": data.groups, "texts": tuple(text.strip() for text in data.texts)}
    if data.speakers:
        axes["speakers"] = data.speakers
    lines, shared = [], set()
    for fold in folds:
        for axis, names in axes.items():
            values = {
                p: {names[row] for row in fold.rows(p)} - {""} for p in ("train", "dev", "test")
            }
            for one, other in _PAIRS:
                both = sorted(values[one] & values[other])
                if both:
                    shared.add((axis, one, other))
                    named = ", ".join(name[:40] for name in both[:_N_EXAMPLES])
                    more = f" and {len(both) - _N_EXAMPLES} more" * (len(both) > _N_EXAMPLES)
                    lines.append(
                        f"{fold.name}: {one} and {other} share {len(both)} {axis} ({named}{more})"
                    )
    words = []
    if ("videos", "train", "test") in shared:
        words.append(_SHARED_VIDEOS)
    dependent = ("speakers", "train", "test") in shared
    if dependent:
        words.append("speaker-dependent")
    if not data.speakers:
        words.append("speakers not known")
    elif not all(data.speakers):
        words.append("some speakers not known")
    independent = None if not data.speakers or not all(data.speakers) else True
    return Sharing(
        tuple(lines or ["no video, speaker or text is in two parts"]),
        tuple(words),
        False if dependent else independent,
    )


def clip_fingerprint(data: ClipData, classes: ClipClasses | None = None) -> str:
    """Identify clips by content: ids, parts, texts, labels and frames; not by where they lie."""
    digest = hashlib.sha256(repr((data.ids, data.parts, data.texts)).encode())
    for name in sorted(data.labels):
        digest.update(data.labels[name].tobytes())
    for frames in data.frames.values():
        digest.update(frames.values.tobytes())
        digest.update(frames.lengths.tobytes())
    if classes is not None:
        digest.update(repr(classes.names).encode())
        digest.update(classes.whole.tobytes())
        for stream in sorted(classes.streams):
            digest.update(classes.streams[stream].tobytes())
    return digest.hexdigest()[:16]


def to_tensors(
    data: ClipData,
    model: SentimentModel,
    *,
    tokens: str,
    with_asr: bool,
    cache_dir: Path | None,
    classes: ClipClasses | None = None,
) -> ClipTensors:
    """Turn clips into tensors; texts are read by the model's own encoder or its tokenizer.

    Parameters
    ----------
    tokens
        ``own``: of the encoder's tokenizer; ``stored``: those in the data.
    with_asr
        Whether the speech recogniser's texts are there as well.
    classes
        What is learned instead of numbers.

    Raises
    ------
    InputError
        If the data lack what is asked for.
    """
    has_text = torch.from_numpy(data.present[:, 0])
    text = _texts(data, data.texts, model, tokens=tokens, cache_dir=cache_dir)
    if with_asr:
        if not data.asr_texts:
            raise InputError("the data have no texts of a speech recogniser: leave out [asr]")
        if tokens == "stored" or model.text_encoder is None:
            raise InputError("texts of a speech recogniser need tokens = 'own' and a text encoder")
        heard = _texts(data, data.asr_texts, model, tokens="own", cache_dir=cache_dir)
        text = Ragged(
            torch.cat([text.values, heard.values]), torch.cat([text.lengths, heard.lengths])
        )
        has_text = torch.cat(
            [has_text, torch.tensor([bool(text.strip()) for text in data.asr_texts])]
        )
    labels, human = _numbers(data) if classes is None else _places(classes)
    return ClipTensors(
        ids=data.ids,
        text=text,
        has_text=has_text,
        audio=_ragged(data.audio),
        vision=_ragged(data.vision),
        present=torch.from_numpy(data.present[:, 1:]),
        labels=labels,
        human=human,
    )


def _numbers(data: ClipData) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the labels of clips and of their streams, (n_clips,) each."""
    labels = {
        name: torch.from_numpy(values).to(torch.float32) for name, values in data.labels.items()
    }
    unknown = torch.full((len(data),), torch.nan)
    human = {stream: labels[key] for stream, key in STREAM_LABELS.items() if key in labels}
    return labels.get("M", unknown), human


def _places(classes: ClipClasses) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the classes of clips and of their streams, (n_clips,) each."""
    streams = {name: torch.from_numpy(places) for name, places in classes.streams.items()}
    return torch.from_numpy(classes.whole), streams


def _ragged(frames: Frames) -> Ragged:
    return Ragged(torch.from_numpy(frames.values), torch.from_numpy(frames.lengths))


def _texts(
    data: ClipData,
    texts: Sequence[str],
    model: SentimentModel,
    *,
    tokens: str,
    cache_dir: Path | None,
) -> Ragged:
    if "text" not in model.config.modalities:
        return Ragged(torch.zeros(len(data), 1), torch.ones(len(data), dtype=torch.int64))
    if model.text_encoder is None:
        if data.text is None:
            raise InputError(
                f"text.name is '{TEXT_VECTORS}', and the data have no vectors of tokens: take a "
                "text encoder"
            )
        return _ragged(data.text)
    if tokens == "stored":
        return _stored(data, model)
    if model.text_learns:
        ids, n_tokens = model.text_encoder.tokenize([clean_transcript(text) for text in texts])
        return _cut(ids.unsqueeze(-1), n_tokens)
    settings: dict[str, Any] = dict(model.complete_config().text)
    found = extract_texts(texts, model.read_texts, settings=settings, cache_dir=cache_dir)
    return Ragged(torch.from_numpy(found.text), torch.from_numpy(found.n_tokens))


def _stored(data: ClipData, model: SentimentModel) -> Ragged:
    """Take the token numbers in the data."""
    if data.text_bert is None:
        raise InputError("tokens = 'stored', and the data have no text_bert: take tokens = 'own'")
    assert model.text_encoder is not None
    architecture = getattr(model.text_encoder.config, "architecture", None)
    if architecture is None:
        raise InputError("tokens = 'stored' are BERT's: take text.name = 'pretrained'")
    stored = torch.from_numpy(data.text_bert[:, :2, : model.text_encoder.config.max_tokens])
    ids, n_tokens = stored[:, 0], stored[:, 1].sum(1).clamp_min(1)
    largest = int(ids.max())
    if largest >= architecture["vocab_size"] or int(ids.min()) < 0:
        raise InputError(
            f"the data hold token number {largest}, and the text encoder knows "
            f"{architecture['vocab_size']}: they were made for another network"
        )
    if model.text_learns:
        return _cut(ids.unsqueeze(-1), n_tokens)
    with torch.inference_mode():
        pairs = zip(torch.split(ids, 64), torch.split(n_tokens, 64), strict=True)
        parts = [model.read_tokens(*pair)[0] for pair in pairs]
    return _cut(torch.cat(parts), n_tokens)


def _cut(padded: Tensor, lengths: Tensor) -> Ragged:
    """Cut the padding off, (n, longest, d)."""
    valid = torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
    return Ragged(padded[valid].clone(), lengths)
