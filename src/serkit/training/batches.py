"""Which pieces go together in a batch, as a function of seed and epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from serkit.training.data import derive_seed, epoch_order

__all__ = ["epoch_batches"]

_POOL = 64  # batches' worth of pieces that are sorted among themselves


def epoch_batches(
    n_frames: Tensor,
    *,
    batch_size: int,
    max_frames: float | None,
    seed: int,
    epoch: int,
    shortest_first: bool = False,
) -> list[Tensor]:
    """Cut an epoch into batches.

    Without ``max_frames`` they are consecutive stretches of :func:`.data.epoch_order`. With it,
    pieces of similar lengths go together: the order is taken in large pools, each is sorted by
    length and cut wherever the next piece would make the batch, padding included, longer than
    ``max_frames``; then the batches are shuffled.

    Parameters
    ----------
    n_frames : (n_pieces,)
    batch_size
        Most pieces of a batch.
    max_frames
        Most frames of a batch, padding included; a longer piece is a batch of its own.
    shortest_first
        The first epoch goes from short pieces to long ones, as speech recognisers learn best.

    Returns
    -------
    batches : rows of each batch, ``(batch,)``; every row is in exactly one
    """
    limit = torch.inf if max_frames is None else max_frames
    if shortest_first and epoch == 1:
        ranked = n_frames.argsort(stable=True)
        return _cut(ranked, n_frames, batch_size=batch_size, max_frames=limit)
    order = epoch_order(len(n_frames), seed=seed, epoch=epoch)
    if max_frames is None:
        return list(torch.split(order, batch_size))
    batches: list[Tensor] = []
    for pool in torch.split(order, _POOL * batch_size):
        ranked = pool[n_frames[pool].argsort(stable=True)]
        batches += _cut(ranked, n_frames, batch_size=batch_size, max_frames=limit)
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches", epoch))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _cut(ranked: Tensor, n_frames: Tensor, *, batch_size: int, max_frames: float) -> list[Tensor]:
    """Cut rows, ranked by length, into batches."""
    batches: list[Tensor] = []
    first = 0
    for last, length in enumerate(n_frames[ranked].tolist()):
        # The piece at hand is the longest so far: all would be padded to it.
        n = last + 1 - first
        if n > 1 and (n > batch_size or n * length > max_frames):
            batches.append(ranked[first:last])
            first = last
    return [*batches, ranked[first:]]
