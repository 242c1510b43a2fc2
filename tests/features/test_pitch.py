"""Pitch: the own tracker on sound of known F0 and against pYIN, the back-ends, the contours."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from features.known_pitch import KnownPitch, known_pitch
from serkit.features.pitch import (
    F0_RANGES_HZ,
    N_F0_BINS,
    PITCH_TRACKERS,
    UNVOICED,
    F0Statistics,
    f0_statistics,
    log_f0,
    normalise_log_f0,
    quantise_f0,
    track_f0,
)
from serkit.types import InputError, MissingExtraError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "speech_parts.json").read_text())
RATE, HOP = 16_000, 256
LEVELS_DB = (None, 20, 10, 5)


@pytest.fixture(scope="module")
def voices() -> list[KnownPitch]:
    """Eight utterances of 1.5 s and more."""
    return [
        known_pitch(gender, snr_db, seed=40 + i, seconds=1.5)
        for i, snr_db in enumerate(LEVELS_DB)
        for gender in ("male", "female")
    ]


def errors(voices: list[KnownPitch], tracker: str) -> tuple[float, float, float]:
    """Gross errors among frames both call voiced, wrong decisions on voicing, median cents."""
    true_hz = np.concatenate([voice.at_frames(HOP) for voice in voices])
    f0_hz = np.concatenate([track_f0(voice.waveform, RATE, tracker=tracker) for voice in voices])
    both = (true_hz > 0) & (f0_hz > 0)
    ratio = f0_hz[both] / true_hz[both]
    gross = np.mean(np.abs(ratio - 1) > 0.2)
    voicing = np.mean((true_hz > 0) != (f0_hz > 0))
    return float(gross), float(voicing), float(np.median(np.abs(1200 * np.log2(ratio))))


def sung(f0_hz: float, *, rate: int = RATE, seconds: float = 0.5) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return 0.1 * sum(np.sin(2 * np.pi * k * f0_hz * t) / k for k in range(1, 6))


def available(tracker: str) -> str:
    """Skip a test whose tracker's package is missing or cannot be imported."""
    if tracker == "pyin":
        pytest.importorskip("librosa")
    if tracker == "pyworld":
        pytest.importorskip("pyworld", exc_type=ImportError)
    return tracker


# ---- Quality -------------------------------------------------------------------------------------


def test_the_own_tracker_makes_no_more_errors_than_pyin(voices):
    pytest.importorskip("librosa")
    gross, voicing, cents = errors(voices, "nccf")
    pyin_gross, pyin_voicing, pyin_cents = errors(voices, "pyin")
    assert gross <= pyin_gross + 1e-9
    assert voicing < 0.5 * pyin_voicing
    assert cents < pyin_cents


def test_the_own_tracker_is_right_within_known_bounds(voices):
    gross, voicing, cents = errors(voices, "nccf")
    assert gross < 0.005
    assert voicing < 0.04
    assert cents < 8


@pytest.mark.parametrize("f0_hz", [52.0, 80.0, 110.0, 199.0, 333.0, 450.0, 590.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_steady_tone_is_tracked_at_every_pitch_and_rate(f0_hz, rate):
    tracked = track_f0(sung(f0_hz, rate=rate), rate, hop_length=rate // 100)
    inner = tracked[5:-5]
    assert (inner > 0).all()
    assert np.abs(1200 * np.log2(inner / f0_hz)).max() < 20


@pytest.mark.parametrize("gender", ["male", "female"])
def test_f0_stays_within_the_range_that_is_searched(gender, voices):
    low, high = F0_RANGES_HZ[gender]
    for voice in voices:
        f0_hz = track_f0(voice.waveform, RATE, f_min_hz=low, f_max_hz=high)
        voiced = f0_hz[f0_hz > 0]
        assert (voiced >= low).all()
        assert (voiced <= high).all()


# ---- Frames, silence, invariances ----------------------------------------------------------------


@pytest.mark.parametrize("tracker", PITCH_TRACKERS)
@pytest.mark.parametrize("n_samples", [0, 1, 2, 100, 255, 256, 257, 8192, 8193, 8447])
def test_there_is_a_frame_every_hop(tracker, n_samples):
    signal = sung(150.0, seconds=1)[:n_samples]
    f0_hz = track_f0(signal, RATE, tracker=available(tracker))
    assert f0_hz.shape == (n_samples // HOP + 1,)
    assert f0_hz.dtype == np.float64
    assert np.isfinite(f0_hz).all()
    assert (f0_hz >= 0).all()


@pytest.mark.parametrize("tracker", PITCH_TRACKERS)
def test_digital_silence_is_unvoiced(tracker):
    assert not track_f0(np.zeros(8000), RATE, tracker=available(tracker)).any()


def test_what_is_no_voice_is_unvoiced():
    rng = np.random.default_rng(0)
    assert not track_f0(np.full(8000, 0.3), RATE).any()  # an offset
    assert not track_f0(1e-9 * sung(150.0), RATE).any()  # rounding
    assert (track_f0(rng.standard_normal(32_000), RATE) > 0).mean() < 0.02


def test_level_and_offset_do_not_change_the_pitch(voices):
    waveform = voices[2].waveform.astype(np.float64)
    expected = track_f0(waveform, RATE)
    for changed in (0.01 * waveform, -waveform, waveform + 0.1):
        got = track_f0(changed, RATE)
        assert ((got > 0) == (expected > 0)).mean() > 0.99
        both = (got > 0) & (expected > 0)
        assert np.allclose(got[both], expected[both], rtol=1e-3)


def test_the_same_sound_gives_the_same_bits(voices):
    waveform = voices[0].waveform
    assert np.array_equal(track_f0(waveform, RATE), track_f0(waveform.copy(), RATE))


def test_time_reversal_mirrors_the_contour():
    waveform = known_pitch("female", 20, seed=9).waveform
    waveform = waveform[: len(waveform) // HOP * HOP + 1]  # a frame is centred on the last sample
    forwards, backwards = track_f0(waveform, RATE), track_f0(waveform[::-1].copy(), RATE)[::-1]
    assert ((forwards > 0) == (backwards > 0)).mean() > 0.98
    both = (forwards > 0) & (backwards > 0)
    assert np.abs(np.log2(forwards[both] / backwards[both])).max() < 0.05


# ---- Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tracker": "rapt"}, "pitch tracker is 'rapt', expected one of nccf, pyin, pyworld"),
        ({"f_min_hz": 300.0, "f_max_hz": 200.0}, "searched from 300 to 200 Hz, expected an upward"),
        ({"f_min_hz": 5.0}, "searched from 5 to 600 Hz, expected an upward range within 20 to 600"),
        ({"f_max_hz": 900.0}, "searched from 50 to 900 Hz, expected an upward range"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        track_f0(sung(150.0), RATE, **settings)


def test_a_sample_rate_too_low_for_pitch_is_refused():
    with pytest.raises(InputError, match="a sample rate of 1000 Hz, expected at least 4000"):
        track_f0(sung(150.0), 1000)


def test_a_waveform_of_two_channels_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 800\), expected \(n_samples,\): mono"):
        track_f0(np.ones((2, 800)), RATE)


def test_a_waveform_with_nan_is_refused():
    with pytest.raises(InputError, match="holds NaN or infinite samples"):
        track_f0(np.array([0.0, np.nan]), RATE)


@pytest.mark.parametrize(("tracker", "package"), [("pyin", "librosa"), ("pyworld", "pyworld")])
def test_a_missing_package_is_named_with_its_extra(tracker, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'serkit\[pitch\]'"):
        track_f0(sung(150.0), RATE, tracker=tracker)


def test_a_pyworld_without_pkg_resources_is_explained(monkeypatch):
    def without_pkg_resources(name, *rest, **named):
        if name == "pyworld":
            raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")
        return import_(name, *rest, **named)

    import_ = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_pkg_resources)
    with pytest.raises(
        MissingExtraError, match=r"'pyworld' \(its pkg_resources\).*'setuptools<81'"
    ):
        track_f0(sung(150.0), RATE, tracker="pyworld")


# ---- Normalisation and bins ----------------------------------------------------------------------


def test_normalisation_and_bins_are_those_of_the_speechsplit_authors():
    golden = GOLDEN["features"]["f0_normalisation"]
    contour, expected = np.array(golden["log_f0"]), np.array(golden["normalised"])
    normalised = normalise_log_f0(contour)
    voiced = contour > 0
    # They add nothing to the spread; 1e-6 moves the borders by a few millionths.
    assert np.abs(normalised - expected)[voiced].max() < 5e-6
    assert (normalised[~voiced] == UNVOICED).all()
    assert quantise_f0(torch.from_numpy(normalised)).tolist() == golden["bins"]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, "bins_from_float32_torch"),
        (torch.float64, "bins_from_float64_numpy"),
    ],
)
def test_bins_are_those_of_the_speechsplit_authors(dtype, expected):
    golden = GOLDEN["f0_quantiser"]
    bins = quantise_f0(torch.tensor(golden["values"], dtype=dtype))
    assert bins.tolist() == golden[expected]
    assert bins.dtype == torch.int64
    assert golden["one_hot_width"] == N_F0_BINS == int(bins.max()) + 1


def test_halves_are_rounded_to_even():
    values = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=torch.float64) / 255
    assert quantise_f0(values).tolist() == [1, 3, 3, 5]


def test_a_contour_that_is_not_normalised_gets_no_bins():
    with pytest.raises(InputError, match=r"F0 of 5\.3, expected at most 1: normalise"):
        quantise_f0(torch.tensor([0.2, 5.3]))


def test_statistics_of_a_speaker_keep_the_level_of_an_utterance():
    low, high = (log_f0(np.array([0.0, f, 1.1 * f, 1.2 * f])) for f in (100.0, 150.0))
    speaker = f0_statistics([low, high])
    voiced = np.concatenate([low[1:], high[1:]])
    assert speaker == F0Statistics(voiced.mean(), voiced.std())
    assert np.allclose(normalise_log_f0(low), normalise_log_f0(high))
    assert (normalise_log_f0(low, speaker)[1:] < 0.5).all()
    assert (normalise_log_f0(high, speaker)[1:] > 0.5).all()


def test_far_pitch_is_clipped_to_the_borders():
    statistics = F0Statistics(mean=5.0, std=0.1)
    got = normalise_log_f0(np.array([-1.0, 3.0, 5.0, 7.0]), statistics)
    assert got.tolist() == [UNVOICED, 0.0, 0.5, 1.0]


def test_a_monotonous_contour_lies_at_the_mean():
    assert normalise_log_f0(np.array([5.0, 5.0, -1.0])).tolist() == [0.5, 0.5, UNVOICED]


@pytest.mark.parametrize("contour", [[], [-1.0, -1.0], [-1.0, 5.0, -1.0]])
def test_fewer_than_two_voiced_frames_count_as_none(contour):
    got = normalise_log_f0(np.array(contour))
    assert got.tolist() == [UNVOICED] * len(contour)
    assert not quantise_f0(torch.from_numpy(got)).any()


@pytest.mark.parametrize(("contours", "n"), [([], 0), ([np.array([-1.0, 5.0])], 1)])
def test_statistics_of_too_few_voiced_frames_are_refused(contours, n):
    with pytest.raises(InputError, match=f"{n} voiced frames in {n} contours, expected at least 2"):
        f0_statistics(contours)
