"""Crops are random as a function of seed, epoch and utterance, and of nothing else."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from serkit.training.crops import CropConfig, Crops
from serkit.training.data import Examples, Ragged

LENGTHS = (40, 64, 130, 300)


def crops(**settings) -> Crops:
    n_frames = torch.tensor(LENGTHS)
    # Every frame of the mel says where it is, and F0 is voiced throughout.
    values = torch.cat([torch.arange(n).float() for n in LENGTHS]).unsqueeze(1).repeat(1, 4)
    values[:, 3] = 0.5
    examples = Examples(
        ("a", "b", "c", "d"),
        {
            "features": Ragged(values, n_frames),
            "n_frames": n_frames,
            "speaker": torch.tensor([0, 1, 0, -100]),
        },
    )
    return Crops(examples, CropConfig(**settings))


def batch_of(part: Crops, *, seed: int = 1, epoch: int = 1):
    return part.training_batch(torch.arange(len(part)), seed=seed, epoch=epoch)


def test_a_crop_is_a_stretch_of_its_utterance():
    for epoch in range(1, 30):
        batch = batch_of(crops(), epoch=epoch)
        for row, n in enumerate(batch["n_frames"].tolist()):
            frames = batch["features"][row, :n, 0]
            assert torch.equal(frames.diff(), torch.ones(n - 1))
            assert frames[-1] < LENGTHS[row]


def test_lengths_are_uniform_between_the_two_and_short_utterances_are_whole():
    drawn = torch.stack([batch_of(crops(), epoch=epoch)["n_frames"] for epoch in range(1, 400)])
    assert set(drawn[:, 0].tolist()) == {40}
    assert set(drawn[:, 1].tolist()) == {64}
    assert set(drawn[:, 3].tolist()) == set(range(64, 129))
    assert drawn[:, 3].float().mean() == pytest.approx(96, abs=3)


def test_starts_reach_both_ends():
    starts = [int(batch_of(crops(), epoch=epoch)["features"][2, 0, 0]) for epoch in range(1, 200)]
    assert min(starts) == 0
    assert max(starts) > 50


def test_behind_the_end_the_mel_is_zero_and_f0_unvoiced():
    batch = batch_of(crops())
    assert batch["features"].shape == (4, int(batch["n_frames"].max()), 4)
    assert batch["features"][0, 40:, :3].eq(0).all()
    assert batch["features"][0, 40:, 3].eq(-1).all()
    assert batch["features"][0, :40, 3].eq(0.5).all()


def test_batches_are_padded_to_what_is_asked_for():
    assert batch_of(crops(pad_to=192))["features"].shape == (4, 192, 4)


def test_the_target_is_what_is_read_and_speakers_go_along():
    batch = batch_of(crops())
    assert torch.equal(batch["parts"], batch["features"])
    assert batch["speaker"].tolist() == [0, 1, 0, -100]


def test_a_crop_depends_on_seed_epoch_and_utterance_not_on_its_batch():
    part = crops()
    whole = batch_of(part, seed=5, epoch=3)
    alone = part.training_batch(torch.tensor([3]), seed=5, epoch=3)
    n = int(alone["n_frames"])
    assert int(whole["n_frames"][3]) == n
    assert torch.equal(whole["features"][3, :n], alone["features"][0, :n])
    others = [batch_of(part, seed=5, epoch=4), batch_of(part, seed=6, epoch=3)]
    for other in others:
        assert not torch.equal(other["features"][3, :40], whole["features"][3, :40])


def test_the_lengths_for_batching_are_those_of_crops():
    assert crops().lengths().tolist() == [40, 64, 128, 128]
    assert len(crops()) == 4


def test_a_crop_that_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="min_frames = 9 is more than max_frames = 8"):
        CropConfig(min_frames=9, max_frames=8)
    with pytest.raises(ValidationError, match="pad_to = 100 is less than max_frames = 128"):
        CropConfig(pad_to=100)
