"""Examples in memory: named tensors over the same utterances, cut into batches by index."""

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

__all__ = ["Examples", "derive_seed", "read_data", "write_data"]


def derive_seed(*parts: object) -> int:
    """Turn any description of a random stream into a seed, the same on every machine.

    >>> derive_seed(1, "fold00", "shuffle", 3) == derive_seed(1, "fold00", "shuffle", 3)
    True
    """
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits


@dataclass(frozen=True, slots=True)
class Examples:
    """Utterances as tensors; the first axis of each is the utterance.

    Attributes
    ----------
    ids
        Utterance ids.
    tensors
        For example ``features`` (n, n_frames, n_features), ``n_frames`` (n,), ``emotion`` (n,).
    """

    ids: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if len(tensor) != len(self.ids):
                raise ValueError(
                    f"tensor '{name}' has {len(tensor)} rows, expected {len(self.ids)}, one per id"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, ids: Sequence[str]) -> Examples:
        """Pick utterances by id, in the given order."""
        position = {identity: row for row, identity in enumerate(self.ids)}
        rows = torch.tensor([position[identity] for identity in ids], dtype=torch.long)
        return Examples(tuple(ids), {name: t[rows] for name, t in self.tensors.items()})

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Pick rows, as one batch."""
        return {name: tensor[rows] for name, tensor in self.tensors.items()}

    def batches(
        self, batch_size: int, *, order: Tensor | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Walk through the examples; the last batch may be smaller."""
        rows = torch.arange(len(self)) if order is None else order
        for first in range(0, len(rows), batch_size):
            yield self.batch(rows[first : first + batch_size])


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
