"""Batches: every piece once, none too long, the same on every resume."""

from __future__ import annotations

import pytest
import torch

from serkit.training.batches import epoch_batches
from serkit.training.data import epoch_order

LENGTHS = torch.randint(10, 300, (500,), generator=torch.Generator().manual_seed(0))


def cut(max_frames: float | None, *, epoch: int = 1, batch_size: int = 8) -> list[torch.Tensor]:
    return epoch_batches(LENGTHS, batch_size=batch_size, max_frames=max_frames, seed=3, epoch=epoch)


@pytest.mark.parametrize("max_frames", [None, 5.0, 400.0, 1e9])
def test_every_piece_is_in_one_batch(max_frames):
    batches = cut(max_frames)
    assert sorted(torch.cat(batches).tolist()) == list(range(500))
    assert all(1 <= len(batch) <= 8 for batch in batches)


def test_no_batch_is_longer_than_allowed_unless_a_piece_is():
    for batch in cut(400.0):
        longest = int(LENGTHS[batch].max())
        assert len(batch) == 1 or longest * len(batch) <= 400


def test_batches_of_similar_lengths_hold_less_padding():
    def padding(batches):
        padded = sum(len(batch) * int(LENGTHS[batch].max()) for batch in batches)
        return padded - int(LENGTHS.sum())

    assert padding(cut(1e9)) < 0.1 * padding(cut(None))


def test_batches_are_a_function_of_seed_and_epoch():
    assert all(map(torch.equal, cut(400.0), cut(400.0)))
    first, second = (torch.cat(cut(400.0, epoch=epoch)) for epoch in (1, 2))
    assert not torch.equal(first, second)


def test_short_and_long_batches_alternate():
    lengths = [int(LENGTHS[batch].max()) for batch in cut(1e9)]
    assert lengths != sorted(lengths)


def test_without_a_limit_the_order_is_that_of_the_epoch():
    assert torch.equal(torch.cat(cut(None)), epoch_order(500, seed=3, epoch=1))


def test_the_first_epoch_may_go_from_short_to_long():
    n_frames = torch.tensor([5, 1, 4, 2, 3])
    settings = {"batch_size": 2, "seed": 0, "shortest_first": True}
    first = epoch_batches(n_frames, max_frames=None, epoch=1, **settings)
    assert [n_frames[rows].tolist() for rows in first] == [[1, 2], [3, 4], [5]]
    fewer = epoch_batches(n_frames, max_frames=4, epoch=1, **settings)
    assert [n_frames[rows].tolist() for rows in fewer] == [[1, 2], [3], [4], [5]]
    second = epoch_batches(n_frames, max_frames=None, epoch=2, **settings)
    assert sorted(torch.cat(second).tolist()) == [0, 1, 2, 3, 4]
    assert [len(rows) for rows in second] == [2, 2, 1]
