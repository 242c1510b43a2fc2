"""Normalisation: statistics of valid frames alone, padding stays zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serkit.features.normalise import FeatureNorm, PitchNorm
from serkit.features.pitch import normalise_log_f0
from serkit.types import InputError

LENGTHS = torch.tensor([9, 4, 1])


def batch(*, seed: int = 0, junk: float = 0.0) -> torch.Tensor:
    """(3, 9, 5), padded with ``junk``."""
    x = 30 * torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(seed)) - 7
    x.masked_fill_((torch.arange(9) >= LENGTHS.unsqueeze(1)).unsqueeze(2), junk)
    return x


def test_none_leaves_features_as_they_are():
    x = batch()
    assert FeatureNorm("none", 5)(x, LENGTHS) is x


def test_utterance_gives_each_coefficient_zero_mean_and_unit_variance():
    y = FeatureNorm("utterance", 5)(batch(), LENGTHS)
    for row, n in zip(y[:2], LENGTHS.tolist(), strict=False):
        assert torch.allclose(row[:n].mean(0), torch.zeros(5), atol=1e-5)
        assert torch.allclose(row[:n].std(0, correction=0), torch.ones(5), atol=1e-5)
        assert (row[n:] == 0).all()


def test_utterance_takes_away_loudness():
    x = batch()
    louder = torch.where(x == 0, x, 3 * x + 11)
    norm = FeatureNorm("utterance", 5)
    assert torch.allclose(norm(x, LENGTHS), norm(louder, LENGTHS), atol=1e-4)


def test_a_constant_coefficient_does_not_explode():
    y = FeatureNorm("utterance", 5)(torch.full((1, 9, 5), -1131.37), torch.tensor([9]))
    assert y.abs().max() < 1.001  # 0 but for the rounding of the mean
    assert (FeatureNorm("utterance", 5)(batch(), LENGTHS)[2] == 0).all()  # a single frame


@pytest.mark.parametrize("kind", ["utterance", "train"])
def test_what_stands_in_the_padding_does_not_matter(kind):
    norm = FeatureNorm(kind, 5)
    norm.fit(batch(), LENGTHS)
    fitted = [buffer.clone() for buffer in norm.buffers()]
    clean = norm(batch(), LENGTHS)
    assert torch.equal(clean, norm(batch(junk=1e4), LENGTHS))
    assert all((row[n:] == 0).all() for row, n in zip(clean, LENGTHS.tolist(), strict=True))
    norm.fit(batch(junk=1e4), LENGTHS)
    assert all(map(torch.equal, fitted, norm.buffers()))


@pytest.mark.parametrize("kind", ["none", "utterance", "train"])
def test_alone_equals_in_a_batch(kind):
    norm = FeatureNorm(kind, 5)
    norm.fit(batch(), LENGTHS)
    together = norm(batch(), LENGTHS)
    for i, n in enumerate(LENGTHS.tolist()):
        alone = norm(batch()[i : i + 1, :n], LENGTHS[i : i + 1])
        assert torch.allclose(together[i, :n], alone[0], atol=1e-6)


def test_train_uses_the_statistics_it_was_fitted_with():
    norm = FeatureNorm("train", 5)
    x = batch()
    norm.fit(x, LENGTHS)
    frames = torch.cat([row[:n] for row, n in zip(x, LENGTHS.tolist(), strict=True)])
    assert torch.allclose(norm.mean, frames.mean(0))
    assert torch.allclose(norm.std, frames.std(0, correction=0))
    other = batch(seed=1)
    assert torch.allclose(norm(other, LENGTHS)[0], (other[0] - norm.mean) / norm.std, atol=1e-6)


def test_train_statistics_of_one_frame_are_finite():
    norm = FeatureNorm("train", 5)
    norm.fit(batch()[2:], LENGTHS[2:])
    assert torch.isfinite(norm(batch(), LENGTHS)).all()


def test_only_train_has_something_to_save():
    assert set(FeatureNorm("train", 5).state_dict()) == {"mean", "std"}
    for kind in ("none", "utterance"):
        norm = FeatureNorm(kind, 5)
        norm.fit(batch(), LENGTHS)
        assert not norm.state_dict()


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="normalise is 'speaker', expected one of none, utterance"):
        FeatureNorm("speaker", 5)


def test_pitch_is_scaled_as_within_an_utterance_by_the_statistics_it_was_given():
    contour = torch.tensor([5.0, -1.0, 5.2, 5.6, -1.0, 4.9])
    parts = torch.cat([torch.rand(6, 3), contour.unsqueeze(1)], dim=1).unsqueeze(0)
    norm = PitchNorm()
    norm.fit(parts)
    scaled = norm(parts)[0, :, -1]
    expected = normalise_log_f0(contour.double().numpy())
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-5)
    assert torch.equal(norm(parts)[..., :-1], parts[..., :-1])
    far = norm(torch.tensor([[[0.0, 0.0, 0.0, 1e-3]]]))
    assert 0 < float(far[0, 0, -1]) < 1e-6  # as low as can be, and a voice still


def test_pitch_of_a_part_without_voices_is_left_alone():
    norm = PitchNorm()
    norm.fit(torch.full((1, 4, 2), -1.0))
    assert (float(norm.mean), float(norm.std)) == (0.0, 1.0)
