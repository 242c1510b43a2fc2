"""Measures of what a reconstructed spectrogram kept."""

from __future__ import annotations

import numpy as np
import pytest

from serkit.evaluation.reconstruction import (
    envelope_correlation,
    pitch_kept,
    shape_correlation,
    spectral_shape,
)

BANDS = np.arange(80)


def moving_peak(n_frames: int = 60, *, seed: int = 0) -> np.ndarray:
    """A broad peak that wanders over the bands, louder in the second half."""
    rng = np.random.default_rng(seed)
    centre = 40 + 25 * np.sin(np.linspace(0, rng.uniform(5, 20), n_frames) + rng.uniform(0, 6))
    level = np.where(np.arange(n_frames) < n_frames // 2, 0.3, 0.5)[:, None]
    return level + 0.2 * np.exp(-(((BANDS - centre[:, None]) / 10) ** 2))


def test_the_shape_of_a_spectrum_is_neither_its_level_nor_its_harmonics():
    mel = moving_peak()
    ripple = 0.05 * np.cos(2 * np.pi * BANDS / 4)
    assert spectral_shape(mel).shape == (60, 12)
    np.testing.assert_allclose(spectral_shape(mel + 0.1), spectral_shape(mel), atol=1e-9)
    np.testing.assert_allclose(spectral_shape(mel + ripple), spectral_shape(mel), atol=0.02)
    assert shape_correlation(mel, mel) == pytest.approx(1)
    assert shape_correlation(mel, mel + 0.1 + ripple) == pytest.approx(1)
    assert abs(shape_correlation(mel, moving_peak(seed=3))) < 0.6


def test_what_another_mean_spectrum_says_in_the_same_movement_has_kept_the_shape():
    mel = moving_peak()
    tilted = mel + 0.2 * BANDS / 80
    assert shape_correlation(mel, tilted) == pytest.approx(1)
    assert not np.allclose(spectral_shape(mel).mean(0), spectral_shape(tilted).mean(0), atol=0.1)


def test_what_does_not_move_or_is_too_short_has_no_shape_to_keep():
    mel = moving_peak()
    assert shape_correlation(mel, np.full_like(mel, 0.4)) == 0
    assert shape_correlation(mel[:9], mel[:9]) == 0


def test_timing_is_the_correlation_of_levels():
    mel = moving_peak()
    assert envelope_correlation(mel, mel) == pytest.approx(1)
    assert envelope_correlation(mel, mel[::-1]) < 0
    assert envelope_correlation(mel, np.zeros_like(mel)) == 0


def test_a_melody_is_compared_where_both_have_a_voice():
    hertz = np.where(np.arange(60) % 20 < 5, 0, 200 * 2 ** (np.sin(np.arange(60) / 9) / 6))
    assert pitch_kept(hertz, 1.5 * hertz)[0] == pytest.approx(1)  # an interval higher
    flat = np.where(hertz > 0, 200.0, 0.0)
    assert pitch_kept(hertz, flat) == pytest.approx((0, 0))
    assert pitch_kept(hertz, np.zeros(60)) == (0, 0)
    semitones = 12 * np.log2(hertz[hertz > 0]).std()
    assert pitch_kept(hertz, hertz)[1] == pytest.approx(semitones)
