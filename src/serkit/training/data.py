"""Examples: named tensors over pieces of utterances, from which parts and batches are picked.

An utterance has one piece or, where the view cuts it into segments, several; a fold names
utterances, a batch holds pieces.

For losses that compare views, an utterance may have *augmented views*: the same utterance with
another sound, other words or both. Every epoch takes one of them, as a function of (seed, epoch,
id). They are beside the batch, never in it: what is judged cannot meet them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.features.cache import ExtractedFeatures
from serkit.features.text_cache import ExtractedText

__all__ = [
    "AugmentedViews",
    "Choices",
    "Data",
    "Examples",
    "ExtractedViews",
    "Ragged",
    "derive_seed",
    "epoch_order",
    "holds_views",
    "read_data",
    "write_data",
]

_VIEWS = "augmented"  # folder
_OWN = -1  # in place of a row of choices: the utterance's own


def derive_seed(*parts: object) -> int:
    """Turn any description of a random stream into a seed, the same on every machine.

    >>> derive_seed(1, "fold00", "shuffle", 3) == derive_seed(1, "fold00", "shuffle", 3)
    True
    """
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """Order in which an epoch walks through ``n`` examples, ``(n,)``."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


class Ragged:
    """Rows of different lengths, one after the other; what is picked is padded with zeros.

    Parameters
    ----------
    values : (sum of lengths, d)
    lengths : (n,)
    """

    def __init__(self, values: Tensor, lengths: Tensor) -> None:
        self.values, self.lengths = values, lengths
        self._starts = (lengths.cumsum(0) - lengths).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Pick rows of any shape: ``(*rows.shape, longest of them, d)``."""
        chosen = rows.flatten().tolist()
        lengths = self.lengths[rows.flatten().cpu()].tolist()
        picked = self.values.new_zeros(len(chosen), max(lengths, default=0), self.values.shape[1])
        for place, row, n in zip(picked, chosen, lengths, strict=True):
            start = self._starts[row]
            place[:n] = self.values[start : start + n]
        return picked.view(*rows.shape, *picked.shape[1:])

    def to(self, device: torch.device) -> Ragged:
        """Copy the values to a device; lengths stay on the CPU."""
        return Ragged(self.values.to(device), self.lengths)


@dataclass(frozen=True, slots=True)
class Choices:
    """Sounds, or texts, that utterances have beside their own.

    Attributes
    ----------
    values : (n, n_frames, n_features) or (n, n_tokens, n_text_features)
    lengths : (n,), valid frames or tokens of each
    rows
        Row of an utterance in the examples' tensors -> rows here.
    """

    values: Tensor | Ragged
    lengths: Tensor
    rows: Mapping[int, Sequence[int]]

    def instead(self, own: Tensor, n_own: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Put choices in the place of a batch's own sounds or texts.

        Parameters
        ----------
        own : (batch, longest, d)
        n_own : (batch,)
        rows : (batch,), rows here, or -1 where the own one stays

        Returns
        -------
        values : (batch, longest of these, d)
        lengths : (batch,)
        """
        wanted = torch.tensor(rows)
        other = wanted != _OWN
        lengths = n_own.clone()
        lengths[other] = self.lengths[wanted[other]]
        longest = int(lengths.max())
        values = own.new_zeros(len(own), longest, own.shape[2])
        for place, source in ((~other, own[~other]), (other, self.values[wanted[other]])):
            kept = source[:, :longest]
            values[place, : kept.shape[1]] = kept
        return values, lengths


@dataclass(frozen=True, slots=True)
class AugmentedViews:
    """Other views of utterances: each is a sound with a text.

    Where an utterance has several sounds and several texts, each sound goes with each text. Without
    choices of one of them, its views have its own.

    Attributes
    ----------
    sounds, texts
        ``None`` where no utterance has any.
    voices
        Speakers that each of the sounds may be a voice of.
    speakers
        Utterance id -> its speaker; empty where any voice may be heard.
    """

    sounds: Choices | None
    texts: Choices | None
    voices: Sequence[Collection[str]] = ()
    speakers: Mapping[str, str] = field(default_factory=dict)

    def without_voices_of(self, ids: Sequence[str]) -> AugmentedViews:
        """Leave out sounds in the voice of a speaker of these utterances."""
        if self.sounds is None or not self.speakers:
            return self
        barred = {self.speakers[identity] for identity in ids}
        left = {
            utterance: [row for row in rows if barred.isdisjoint(self.voices[row])]
            for utterance, rows in self.sounds.rows.items()
        }
        return replace(self, sounds=replace(self.sounds, rows=left))

    def pick(self, utterance: int, seed: int) -> tuple[int, int]:
        """Take one view: rows of its sound and of its text, -1 for the utterance's own."""
        sounds = (self.sounds.rows.get(utterance) if self.sounds else None) or (_OWN,)
        texts = (self.texts.rows.get(utterance) if self.texts else None) or (_OWN,)
        text, sound = divmod(seed % (len(sounds) * len(texts)), len(sounds))
        return sounds[sound], texts[text]

    def beside(
        self, batch: Mapping[str, Tensor], utterances: Sequence[int], seeds: Sequence[int]
    ) -> dict[str, Tensor]:
        """Give a view of each utterance of a batch; of one that has none, the utterance itself.

        Parameters
        ----------
        batch
            ``features``, ``n_frames`` and, where there are texts, ``text`` and ``n_tokens``.
        utterances, seeds : (batch,)

        Returns
        -------
        views
            ``augmented_features``, ``augmented_n_frames``, and with texts ``augmented_text`` and
            ``augmented_n_tokens``, shaped as in the batch; ``has_view`` (batch,), bool.
        """
        picks = [self.pick(row, seed) for row, seed in zip(utterances, seeds, strict=True)]
        views = {"has_view": torch.tensor([pick != (_OWN, _OWN) for pick in picks])}
        for choices, number, values, lengths in (
            (self.sounds, 0, "features", "n_frames"),
            (self.texts, 1, "text", "n_tokens"),
        ):
            if values not in batch:
                continue
            pair = batch[values], batch[lengths]
            if choices is not None:
                pair = choices.instead(*pair, [pick[number] for pick in picks])
            views[f"augmented_{values}"], views[f"augmented_{lengths}"] = pair
        return views


@dataclass(frozen=True, slots=True)
class Examples:
    """Pieces of utterances as tensors that are shared: a part of a fold is an index into them.

    Attributes
    ----------
    ids
        Utterance ids.
    tensors
        For example ``features`` (n, n_frames, n_features), ``n_frames`` (n,), ``emotion`` (n,);
        :class:`Ragged` where rows are of different lengths.
    rows
        (len(self),) row of each piece in the tensors; ``None``: they hold these pieces, in this
        order.
    owners
        (len(self),) ascending, position in ``ids`` of each piece's utterance; ``None``: each
        utterance is one piece.
    views
        Augmented views, for utterances that are one piece each.
    """

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor | Ragged]
    rows: Tensor | None = None
    owners: Tensor | None = None
    views: AugmentedViews | None = None

    def __post_init__(self) -> None:
        n = len(self.ids) if self.owners is None else len(self.owners)
        per = "id" if self.owners is None else "piece"
        if self.rows is not None:
            if len(self.rows) != n:
                raise ValueError(f"{len(self.rows)} rows, expected {n}, one per {per}")
            return
        for name, tensor in self.tensors.items():
            if len(tensor) != n:
                raise ValueError(
                    f"tensor '{name}' has {len(tensor)} rows, expected {n}, one per {per}"
                )

    def __len__(self) -> int:
        """Count the pieces."""
        return len(self.ids) if self.owners is None else len(self.owners)

    def select(self, ids: Sequence[str]) -> Examples:
        """Pick utterances by id, in the given order; nothing is copied."""
        position = {identity: number for number, identity in enumerate(self.ids)}
        chosen = torch.tensor([position[identity] for identity in ids], dtype=torch.long)
        if self.owners is None:
            return Examples(tuple(ids), self.tensors, self.base_rows(chosen), views=self.views)
        counts = self.n_pieces()
        ends = counts.cumsum(0)
        pieces = [torch.arange(int(ends[i] - counts[i]), int(ends[i])) for i in chosen.tolist()]
        rows = torch.cat([torch.empty(0, dtype=torch.long), *pieces])
        owners = torch.repeat_interleave(torch.arange(len(ids)), counts[chosen])
        return Examples(tuple(ids), self.tensors, self.base_rows(rows), owners)

    def first(self, n: int) -> Examples:
        """Pick the first ``n`` pieces, or all, as if each were an utterance."""
        return self.pieces(torch.arange(min(n, len(self))))

    def pieces(self, rows: Tensor) -> Examples:
        """Pick some pieces, as if each were an utterance."""
        ids = tuple(self.ids[i] for i in self.owner_of_pieces()[rows].tolist())
        return Examples(ids, self.tensors, self.base_rows(rows), views=self.views)

    def without_voices_of(self, ids: Sequence[str]) -> Examples:
        """Leave out augmented sounds in the voice of a speaker of these utterances."""
        if self.views is None:
            return self
        return replace(self, views=self.views.without_voices_of(ids))

    def n_pieces(self) -> Tensor:
        """Count the pieces of each utterance, ``(len(self.ids),)``."""
        return torch.bincount(self.owner_of_pieces(), minlength=len(self.ids))

    def owner_of_pieces(self) -> Tensor:
        """Give the position in ``ids`` of each piece's utterance, ``(len(self),)``."""
        return torch.arange(len(self.ids)) if self.owners is None else self.owners

    def lengths(self) -> Tensor:
        """Count the frames of each piece, ``(len(self),)``."""
        return self.gather("n_frames")

    def gather(self, name: str) -> Tensor:
        """Copy one tensor's rows of these pieces."""
        return self.tensors[name][self.base_rows(torch.arange(len(self)))]

    def of_utterances(self, name: str) -> Tensor:
        """Copy what is the same for all pieces of an utterance, one row per utterance."""
        if self.owners is None:
            return self.gather(name)
        counts = self.n_pieces()
        return self.tensors[name][self.base_rows(counts.cumsum(0) - counts)]

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Copy some of these pieces, as one batch."""
        chosen = self.base_rows(rows)
        return {name: tensor[chosen] for name, tensor in self.tensors.items()}

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Copy some of these pieces as one batch, with a view of each where there are any."""
        batch = self.batch(rows)
        if self.views is None:
            return batch
        seeds = [derive_seed(seed, "view", epoch, self.ids[row]) for row in rows.tolist()]
        return batch | self.views.beside(batch, self.base_rows(rows).tolist(), seeds)

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Walk through the pieces; the last batch may be smaller."""
        rows = torch.arange(len(self)) if order is None else order
        for first in range(0, len(rows), batch_size):
            yield self.batch(rows[first : first + batch_size])

    def base_rows(self, rows: Tensor) -> Tensor:
        """Turn rows of these pieces into rows of the shared tensors."""
        return rows if self.rows is None else self.rows[rows]

    def to(self, device: torch.device) -> Examples:
        """Copy the tensors to a device, without views; where each piece is stays on the CPU."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Examples(self.ids, tensors, self.rows, self.owners)


@dataclass(frozen=True, slots=True)
class Data:
    """All utterances of a run: as they are trained on, and as they are judged.

    The two differ where a view cuts segments with another hop for each; else they are one object.
    """

    training: Examples
    evaluation: Examples

    def to(self, device: torch.device) -> Data:
        """Copy the tensors to a device."""
        training = self.training.to(device)
        shared = self.evaluation is self.training
        return Data(training, training if shared else self.evaluation.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedViews:
    """Augmented sounds and texts as they are extracted.

    Attributes
    ----------
    sounds, texts
        One piece each, in any order; ``None``: there are none.
    sound_owners, text_owners : (n_sounds,), (n_texts,), the utterance that each is a view of
    voices, speakers
        See :class:`AugmentedViews`.
    """

    sounds: ExtractedFeatures | None
    texts: ExtractedText | None
    sound_owners: NDArray[np.int64]
    text_owners: NDArray[np.int64]
    voices: Sequence[Collection[str]] = ()
    speakers: Mapping[str, str] = field(default_factory=dict)


def write_data(
    folder: Path,
    ids: Sequence[str],
    *,
    training: ExtractedFeatures,
    evaluation: ExtractedFeatures | None = None,
    emotion: NDArray[np.int64] | NDArray[np.float32],
    text: ExtractedText | None = None,
    ctc: NDArray[np.int64] | None = None,
    parts: ExtractedFeatures | None = None,
    speaker: NDArray[np.int64] | None = None,
    views: ExtractedViews | None = None,
) -> Path:
    """Write examples where every member can map them from; see :func:`read_data`.

    Parameters
    ----------
    training
        Features of the utterances as they are trained on.
    evaluation
        The same as they are judged; ``None``: they are judged as they are trained on.
    emotion : (n_utterances,) or, where several classes may hold, (n_utterances, n_classes)
    text
        What is said, for models that read it; then every utterance is one piece.
    ctc : (n_utterances, n_symbols), what is to be spelled, -100 as padding
    parts
        Features of a second front end, for models that read such; one piece per utterance.
    speaker : (n_utterances,), who talks, -100 where nobody knows
    views
        Augmented views to train on; then every utterance is one piece.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if views is not None:
        _write_views(folder / _VIEWS, views)
    if text is not None:
        np.save(folder / "text.npy", text.text)
        np.save(folder / "n_tokens.npy", text.n_tokens)
    if parts is not None:
        np.save(folder / "parts.npy", parts.features)
        np.save(folder / "n_parts.npy", parts.n_frames)
    for name, target in (("ctc", ctc), ("speaker", speaker)):
        if target is not None:
            np.save(folder / f"{name}.npy", target)
    for use, extracted in (("training", training), ("evaluation", evaluation)):
        if extracted is None:
            continue
        (folder / use).mkdir(exist_ok=True)
        np.save(folder / use / "features.npy", extracted.features)
        np.save(folder / use / "n_frames.npy", extracted.n_frames)
        np.save(folder / use / "owners.npy", extracted.owners)
        np.save(folder / use / "emotion.npy", emotion[extracted.owners])
    (folder / "ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    return folder


def read_data(folder: Path) -> Data:
    """Map the examples that :func:`write_data` left, shared between processes."""
    ids = tuple(json.loads((folder / "ids.json").read_text(encoding="utf-8")))
    shared: dict[str, Tensor | Ragged] = {}
    for name, lengths in (("text", "n_tokens"), ("parts", "n_parts")):
        if (folder / f"{name}.npy").exists():
            n = _map(folder / f"{lengths}.npy")
            shared |= {name: _rows(_map(folder / f"{name}.npy"), n), lengths: n}
    for name in ("ctc", "speaker"):
        if (folder / f"{name}.npy").exists():
            shared[name] = _map(folder / f"{name}.npy")
    training = _map_examples(folder / "training", ids, shared)
    if holds_views(folder):
        training = replace(training, views=_map_views(folder / _VIEWS))
        return Data(training, replace(training, views=None))
    if not (folder / "evaluation").exists():
        return Data(training, training)
    return Data(training, _map_examples(folder / "evaluation", ids, shared))


def _map_examples(
    folder: Path, ids: tuple[str, ...], shared: Mapping[str, Tensor | Ragged]
) -> Examples:
    n_frames = _map(folder / "n_frames.npy")
    tensors = {
        "features": _rows(_map(folder / "features.npy"), n_frames),
        "n_frames": n_frames,
        "emotion": _map(folder / "emotion.npy"),
        "has_view": torch.zeros(len(n_frames), dtype=torch.bool),
        **shared,
    }
    owners = torch.from_numpy(np.load(folder / "owners.npy"))
    one_each = torch.equal(owners, torch.arange(len(ids)))
    return Examples(ids, tensors, owners=None if one_each else owners)


def holds_views(folder: Path) -> bool:
    """Tell whether examples in a folder have augmented views."""
    return (folder / _VIEWS).exists()


def _write_views(folder: Path, views: ExtractedViews) -> None:
    folder.mkdir(exist_ok=True)
    if views.sounds is not None:
        np.save(folder / "features.npy", views.sounds.features)
        np.save(folder / "n_frames.npy", views.sounds.n_frames)
        np.save(folder / "sound_owners.npy", views.sound_owners)
    if views.texts is not None:
        np.save(folder / "text.npy", views.texts.text)
        np.save(folder / "n_tokens.npy", views.texts.n_tokens)
        np.save(folder / "text_owners.npy", views.text_owners)
    content = {"voices": [sorted(v) for v in views.voices], "speakers": dict(views.speakers)}
    (folder / "voices.json").write_text(json.dumps(content), encoding="utf-8")


def _map_views(folder: Path) -> AugmentedViews:
    content = json.loads((folder / "voices.json").read_text(encoding="utf-8"))
    return AugmentedViews(
        _map_choices(folder, "features", "n_frames", "sound_owners"),
        _map_choices(folder, "text", "n_tokens", "text_owners"),
        content["voices"],
        content["speakers"],
    )


def _map_choices(folder: Path, values: str, lengths: str, owners: str) -> Choices | None:
    if not (folder / f"{values}.npy").exists():
        return None
    rows: dict[int, list[int]] = {}
    for row, owner in enumerate(np.load(folder / f"{owners}.npy").tolist()):
        rows.setdefault(owner, []).append(row)
    n = _map(folder / f"{lengths}.npy")
    return Choices(_rows(_map(folder / f"{values}.npy"), n), n, rows)


def _map(path: Path) -> Tensor:
    # 'c': mapped from the file and never written back.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _rows(values: Tensor, lengths: Tensor) -> Tensor | Ragged:
    """Tell rows apart: as one tensor where all have one length."""
    if len(lengths) and bool((lengths == lengths[0]).all()):
        return values.view(len(lengths), -1, values.shape[-1])
    return Ragged(values, lengths)
