"""Examples: named tensors over the same utterances, from which parts and batches are picked."""

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

__all__ = ["Examples", "derive_seed", "epoch_order", "read_data", "write_data"]


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


@dataclass(frozen=True, slots=True)
class Examples:
    """Utterances as tensors that are shared, not copied: a part of a fold is an index into them.

    Attributes
    ----------
    ids
        Utterance ids.
    tensors
        For example ``features`` (n, n_frames, n_features), ``n_frames`` (n,), ``emotion`` (n,).
    rows
        (len(ids),) row of each utterance in the tensors; ``None``: they hold these utterances, in
        this order.
    """

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rows is not None:
            if len(self.rows) != len(self.ids):
                raise ValueError(f"{len(self.rows)} rows, expected {len(self.ids)}, one per id")
            return
        for name, tensor in self.tensors.items():
            if len(tensor) != len(self.ids):
                raise ValueError(
                    f"tensor '{name}' has {len(tensor)} rows, expected {len(self.ids)}, one per id"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, ids: Sequence[str]) -> Examples:
        """Pick utterances by id, in the given order; nothing is copied."""
        position = {identity: row for row, identity in enumerate(self.ids)}
        chosen = torch.tensor([position[identity] for identity in ids], dtype=torch.long)
        return Examples(tuple(ids), self.tensors, self.base_rows(chosen))

    def gather(self, name: str) -> Tensor:
        """Copy one tensor's rows of these utterances."""
        return self.tensors[name][self.base_rows(torch.arange(len(self)))]

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Copy some of these utterances, as one batch."""
        chosen = self.base_rows(rows)
        return {name: tensor[chosen] for name, tensor in self.tensors.items()}

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Walk through the examples; the last batch may be smaller."""
        rows = torch.arange(len(self)) if order is None else order
        for first in range(0, len(rows), batch_size):
            yield self.batch(rows[first : first + batch_size])

    def base_rows(self, rows: Tensor) -> Tensor:
        """Turn rows of these utterances into rows of the shared tensors."""
        return rows if self.rows is None else self.rows[rows]


def write_data(
    folder: Path,
    ids: Sequence[str],
    *,
    features: NDArray[np.float32],
    n_frames: NDArray[np.int64],
    emotion: NDArray[np.int64],
) -> Path:
    """Write examples where every member can map them from; see :func:`read_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "features.npy", features)
    np.save(folder / "n_frames.npy", n_frames)
    np.save(folder / "emotion.npy", emotion)
    (folder / "ids.json").write_text(json.dumps(list(ids)), encoding="utf-8")
    return folder


def read_data(folder: Path) -> Examples:
    """Map the examples that :func:`write_data` left, shared between processes."""
    ids = tuple(json.loads((folder / "ids.json").read_text(encoding="utf-8")))
    tensors = {
        # 'c': mapped from the file and never written back.
        name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))
        for name in ("features", "n_frames", "emotion")
    }
    return Examples(ids, tensors)
