"""Examples: parts are indexes into one shared copy."""

import numpy as np
import pytest
import torch

from serkit.training.data import Examples, epoch_order, read_data, write_data


def examples() -> Examples:
    return Examples(
        tuple("abcdef"),
        {"features": torch.arange(6.0).view(6, 1, 1), "emotion": torch.arange(6) % 2},
    )


def test_a_part_of_a_part_shares_the_tensors_and_picks_in_order():
    base = examples()
    part = base.select(list("fdb")).select(list("bf"))
    assert part.tensors["features"] is base.tensors["features"]
    assert part.ids == ("b", "f")
    assert part.gather("features").flatten().tolist() == [1.0, 5.0]
    assert part.batch(torch.tensor([1]))["features"].item() == 5.0


def test_batches_cover_a_part_and_the_last_may_be_smaller():
    part = examples().select(list("fedcb"))
    sizes = [batch["features"].flatten().tolist() for batch in part.batches(2)]
    assert sizes == [[5.0, 4.0], [3.0, 2.0], [1.0]]


def test_parts_of_files_read_only_what_a_batch_holds(tmp_path):
    n = 300
    write_data(
        tmp_path,
        [str(i) for i in range(n)],
        features=np.random.default_rng(0).random((n, 50, 40), dtype=np.float32),
        n_frames=np.full(n, 50),
        emotion=np.zeros(n, dtype=np.int64),
    )
    base = read_data(tmp_path)
    part = base.select([str(i) for i in range(0, n, 2)])
    assert part.tensors["features"].data_ptr() == base.tensors["features"].data_ptr()
    part.batch(torch.arange(4))["features"].zero_()
    assert base.tensors["features"][0].any()


def test_an_order_is_a_function_of_seed_and_epoch():
    first = epoch_order(50, seed=1, epoch=1)
    assert torch.equal(first, epoch_order(50, seed=1, epoch=1))
    assert sorted(first.tolist()) == list(range(50))
    assert not torch.equal(first, epoch_order(50, seed=1, epoch=2))
    assert not torch.equal(first, epoch_order(50, seed=2, epoch=1))


def test_examples_refuse_tensors_and_rows_of_other_length():
    with pytest.raises(ValueError, match="tensor 'features' has 2 rows, expected 1, one per id"):
        Examples(("a",), {"features": torch.zeros(2, 1, 1)})
    with pytest.raises(ValueError, match="2 rows, expected 1, one per id"):
        Examples(("a",), {"features": torch.zeros(2, 1, 1)}, torch.tensor([0, 1]))
