"""Whole utterances, a few at a time: what networks that are trained on crops are judged by."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from serkit.training.data import Examples

__all__ = ["whole_batches"]

_FRAMES_AT_ONCE = 4096  # padding included


def whole_batches(examples: Examples, *, alone: bool) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Walk through utterances, those of similar lengths together, the longest first.

    Parameters
    ----------
    alone
        One at a time, for networks to which padding counts.

    Yields
    ------
    rows : (batch,), of the examples
    batch
        See :meth:`.Examples.batch`.
    """
    lengths = examples.lengths()
    order = lengths.argsort(descending=True, stable=True)
    first = 0
    while first < len(order):
        n = 1 if alone else max(1, _FRAMES_AT_ONCE // int(lengths[order[first]].clamp_min(1)))
        rows = order[first : first + n]
        yield rows, examples.batch(rows)
        first += n
