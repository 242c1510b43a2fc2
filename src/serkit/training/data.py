"""Examples: named tensors over pieces of utterances, from which parts and batches are picked.

An utterance has one piece or, where the view cuts it into segments, several; a fold names
utterances, a batch holds pieces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.features.cache import ExtractedFeatures
from serkit.features.text_cache import ExtractedText

__all__ = ["Data", "Examples", "Ragged", "derive_seed", "epoch_order", "read_data", "write_data"]


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
    """

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor | Ragged]
    rows: Tensor | None = None
    owners: Tensor | None = None

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
            return Examples(tuple(ids), self.tensors, self.base_rows(chosen))
        counts = self.n_pieces()
        ends = counts.cumsum(0)
        pieces = [torch.arange(int(ends[i] - counts[i]), int(ends[i])) for i in chosen.tolist()]
        rows = torch.cat([torch.empty(0, dtype=torch.long), *pieces])
        owners = torch.repeat_interleave(torch.arange(len(ids)), counts[chosen])
        return Examples(tuple(ids), self.tensors, self.base_rows(rows), owners)

    def first(self, n: int) -> Examples:
        """Pick the first ``n`` pieces, or all, as if each were an utterance."""
        rows = torch.arange(min(n, len(self)))
        ids = tuple(self.ids[i] for i in self.owner_of_pieces()[rows].tolist())
        return Examples(ids, self.tensors, self.base_rows(rows))

    def n_pieces(self) -> Tensor:
        """Count the pieces of each utterance, ``(len(self.ids),)``."""
        return torch.bincount(self.owner_of_pieces(), minlength=len(self.ids))

    def owner_of_pieces(self) -> Tensor:
        """Give the position in ``ids`` of each piece's utterance, ``(len(self),)``."""
        return torch.arange(len(self.ids)) if self.owners is None else self.owners

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
        """Copy the tensors to a device; where each piece is stays on the CPU."""
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


def write_data(
    folder: Path,
    ids: Sequence[str],
    *,
    training: ExtractedFeatures,
    evaluation: ExtractedFeatures | None = None,
    emotion: NDArray[np.int64] | NDArray[np.float32],
    text: ExtractedText | None = None,
    ctc: NDArray[np.int64] | None = None,
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
    """
    folder.mkdir(parents=True, exist_ok=True)
    if text is not None:
        np.save(folder / "text.npy", text.text)
        np.save(folder / "n_tokens.npy", text.n_tokens)
    if ctc is not None:
        np.save(folder / "ctc.npy", ctc)
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
    if (folder / "text.npy").exists():
        n_tokens = _map(folder / "n_tokens.npy")
        shared |= {"text": _rows(_map(folder / "text.npy"), n_tokens), "n_tokens": n_tokens}
    if (folder / "ctc.npy").exists():
        shared["ctc"] = _map(folder / "ctc.npy")
    training = _map_examples(folder / "training", ids, shared)
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
        **shared,
    }
    owners = torch.from_numpy(np.load(folder / "owners.npy"))
    one_each = torch.equal(owners, torch.arange(len(ids)))
    return Examples(ids, tensors, owners=None if one_each else owners)


def _map(path: Path) -> Tensor:
    # 'c': mapped from the file and never written back.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _rows(values: Tensor, lengths: Tensor) -> Tensor | Ragged:
    """Tell rows apart: as one tensor where all have one length."""
    if len(lengths) and bool((lengths == lengths[0]).all()):
        return values.view(len(lengths), -1, values.shape[-1])
    return Ragged(values, lengths)
