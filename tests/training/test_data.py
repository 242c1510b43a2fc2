"""Examples: parts are indexes into one shared copy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from serkit.training.data import Examples, Ragged, epoch_order, read_data, write_data
from training.toy_members import pieces


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
        training=pieces(np.random.default_rng(0).random((n, 50, 40), dtype=np.float32)),
        emotion=np.zeros(n, dtype=np.int64),
    )
    data = read_data(tmp_path)
    assert data.evaluation is data.training
    base = data.training
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
    with pytest.raises(ValueError, match="has 2 rows, expected 1, one per piece"):
        Examples(("a",), {"features": torch.zeros(2, 1, 1)}, owners=torch.tensor([0]))
    with pytest.raises(ValueError, match="2 rows, expected 1, one per id"):
        Examples(("a",), {"features": torch.zeros(2, 1, 1)}, torch.tensor([0, 1]))


def segments() -> Examples:
    return Examples(
        tuple("abc"),
        {"features": torch.arange(6.0).view(6, 1, 1), "emotion": torch.tensor([0, 0, 0, 1, 1, 0])},
        owners=torch.tensor([0, 0, 0, 1, 1, 2]),
    )


def test_a_part_holds_all_pieces_of_its_utterances():
    part = segments().select(list("cb"))
    assert (len(part), part.ids) == (3, ("c", "b"))
    assert part.gather("features").flatten().tolist() == [5, 3, 4]
    assert part.owner_of_pieces().tolist() == [0, 1, 1]
    assert part.n_pieces().tolist() == [1, 2]
    assert part.of_utterances("emotion").tolist() == [0, 1]
    again = part.select(["b"])
    assert again.gather("features").flatten().tolist() == [3, 4]
    assert len(part.select([])) == 0


def test_rows_of_different_lengths_are_padded_to_the_longest_that_is_picked(tmp_path):
    values = torch.arange(1.0, 13).view(6, 2)
    ragged = Ragged(values, torch.tensor([1, 3, 2]))
    assert len(ragged) == 3
    picked = ragged[torch.tensor([2, 0])]
    assert picked.tolist() == [[[9, 10], [11, 12]], [[1, 2], [0, 0]]]
    square = ragged[torch.tensor([[0, 1], [2, 2]])]
    assert square.shape == (2, 2, 3, 2)
    assert square[0, 1].tolist() == values[1:4].tolist()
    write_data(
        tmp_path,
        ["a", "b", "c"],
        training=replace(
            pieces(np.zeros((3, 1, 2), dtype=np.float32)),
            features=values.numpy(),
            n_frames=np.array([1, 3, 2]),
        ),
        emotion=np.zeros(3, dtype=np.int64),
    )
    part = read_data(tmp_path).training.select(["c", "a"])
    assert torch.equal(part.batch(torch.tensor([0, 1]))["features"], picked)


def test_the_first_pieces_stand_for_utterances():
    first = segments().first(4)
    assert (len(first), first.ids) == (4, ("a", "a", "a", "b"))
    assert first.gather("features").flatten().tolist() == [0, 1, 2, 3]


def test_utterances_are_trained_on_and_judged_as_other_pieces(tmp_path):
    features = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    write_data(
        tmp_path,
        ["a", "b"],
        training=pieces(features[:3], [0, 0, 1]),
        evaluation=pieces(features, [0, 0, 0, 1, 1]),
        emotion=np.array([[0, 1], [1, 1]], dtype=np.float32),
    )
    data = read_data(tmp_path)
    assert data.training.select(["b"]).gather("features").flatten().tolist() == [2]
    assert data.evaluation.select(["b"]).gather("features").flatten().tolist() == [3, 4]
    assert data.evaluation.of_utterances("emotion").tolist() == [[0, 1], [1, 1]]
