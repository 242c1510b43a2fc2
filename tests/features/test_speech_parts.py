"""Mel bands and pitch against SpeechSplit's own functions (golden numbers), and their promises."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.known_pitch import known_pitch
from serkit.features import build_front_end
from serkit.features.pitch import UNVOICED, normalise_log_f0, track_f0
from serkit.features.speech_parts import SpeechParts, SpeechPartsConfig
from serkit.types import InputError, MissingExtraError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "speech_parts.json").read_text())
CASES = GOLDEN["features"]["mel"]
CONFIG = SpeechPartsConfig()


def golden_wave(n_samples: int) -> np.ndarray:
    i = np.arange(1, n_samples + 1)
    t = i / 16_000
    phase = 2 * np.pi * (140 * t + 30 * t**2)
    glide = 0.3 * np.sin(phase) + 0.15 * np.sin(2 * phase + 0.3) + 0.08 * np.sin(5 * phase + 1.1)
    return glide + 0.02 * np.sin(0.9 * i) + 0.05


def extract(waveform: np.ndarray, config: SpeechPartsConfig = CONFIG) -> torch.Tensor:
    """Features of one utterance, (n_frames, n_mels + 1)."""
    batch = torch.from_numpy(np.asarray(waveform)).unsqueeze(0)
    return SpeechParts(config)(batch, torch.tensor([batch.shape[1]]))[0][0]


# ---- The authors' functions ----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["samples"]))
def test_the_high_pass_is_the_speechsplit_authors_filter(case):
    sound = SpeechParts(CONFIG).filtered(golden_wave(case["samples"])) / 0.96
    expected = case["highpassed_check"]
    assert list(sound.shape) == expected["shape"]
    assert np.abs(sound[:5] - expected["first5"]).max() < 1e-6
    assert np.abs(sound[-5:] - expected["last5"]).max() < 1e-6
    assert sound.mean() == pytest.approx(expected["mean"], abs=1e-6)
    assert sound.std() == pytest.approx(expected["std"], abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["samples"]))
def test_mel_bands_are_those_of_the_speechsplit_authors(case):
    features = extract(golden_wave(case["samples"])).numpy()  # double precision throughout
    mel, expected = features[:, :80], case["features_check"]
    assert list(mel.shape) == expected["shape"] == [case["frames"], 80]
    assert np.abs(mel[3] - case["features_frame_3"]).max() < 1e-6
    assert np.abs(mel[:, 10] - case["features_bin_10"]).max() < 1e-6
    assert np.abs(mel[0, :5] - expected["first5"]).max() < 1e-6
    assert np.abs(mel[-1, -5:] - expected["last5"]).max() < 1e-6
    assert mel.mean() == pytest.approx(expected["mean"], abs=1e-6)
    assert np.abs(mel).mean() == pytest.approx(expected["abs_mean"], abs=1e-6)
    assert mel.std() == pytest.approx(expected["std"], abs=1e-6)


# ---- Frames, lengths, silence --------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [0, 1, 2, 17, 255, 256, 257, 512, 8191, 8192, 8193])
@pytest.mark.parametrize("tracker", ["nccf", "pyin"])
def test_mel_bands_and_pitch_have_a_frame_every_hop(n_samples, tracker):
    if tracker == "pyin":
        pytest.importorskip("librosa")
    features = extract(golden_wave(n_samples), replace(CONFIG, f0_tracker=tracker))
    assert features.shape == (n_samples // 256 + 1, 81)
    assert torch.isfinite(features).all()
    assert SpeechParts(CONFIG).n_frames(torch.tensor([n_samples])).tolist() == [len(features)]


def test_silence_lies_at_the_floor_and_is_unvoiced():
    features = extract(np.zeros(5000))
    assert torch.allclose(features[:-1, :80], torch.tensor(-0.16, dtype=torch.float64))
    assert (features[:, 80] == UNVOICED).all()


def test_no_value_reaches_into_the_padding():
    voices = [known_pitch("female", 20, seed=seed, seconds=1).waveform for seed in range(3)]
    lengths = [len(voice) for voice in voices]
    batch = torch.randn(3, max(lengths) + 700, generator=torch.Generator().manual_seed(0))
    for row, voice in zip(batch, voices, strict=True):
        row[: len(voice)] = torch.from_numpy(voice)  # noise behind it: no zeros to lean on
    together, n_frames = SpeechParts(CONFIG)(batch, torch.tensor(lengths))
    for row, voice, n in zip(together, voices, n_frames.tolist(), strict=True):
        assert torch.equal(row[:n], extract(voice))
        assert (row[n:] == 0).all()


# ---- Pitch ---------------------------------------------------------------------------------------


def test_the_last_column_is_the_pitch_of_the_filtered_sound():
    front_end = SpeechParts(replace(CONFIG, f0_norm="none"))
    voice = known_pitch("male", None, seed=1).waveform.astype(np.float64)
    f0_hz = track_f0(front_end.filtered(voice), 16_000)
    contour = extract(voice, front_end.config)[:, 80].numpy()
    voiced = f0_hz > 0
    assert 0.2 < voiced.mean() < 0.9
    assert (contour[~voiced] == UNVOICED).all()
    assert np.abs(np.exp(contour[voiced]) - f0_hz[voiced]).max() < 1e-9
    normalised = extract(voice)[:, 80].numpy()
    assert np.abs(normalised - normalise_log_f0(contour)).max() < 1e-12
    assert normalised[voiced].mean() == pytest.approx(0.5)


def test_presets_search_the_range_of_a_gender():
    ranges = {
        name: build_front_end("speech_parts", {"preset": name}).config
        for name in ("speechsplit", "speechsplit-male", "speechsplit-female")
    }
    assert {name: (c.f0_min_hz, c.f0_max_hz) for name, c in ranges.items()} == {
        "speechsplit": (50, 600),
        "speechsplit-male": (50, 250),
        "speechsplit-female": (100, 600),
    }


# ---- Dither --------------------------------------------------------------------------------------


def test_dither_is_drawn_by_content_and_lifts_silence_a_little():
    config = replace(CONFIG, dither=1e-6)
    voice = known_pitch("male", None, seed=2).waveform
    first, again = extract(voice, config), extract(voice.copy(), config)
    assert torch.equal(first, again)
    assert not torch.equal(first, extract(voice))
    assert torch.allclose(first[:, 80], extract(voice)[:, 80], atol=1e-3)
    sound = SpeechParts(config).filtered(np.zeros(4000))
    assert 0.4e-6 < np.abs(sound).max() <= 0.5e-6


# ---- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"f0_tracker": "rapt"}, "pitch tracker is 'rapt', expected one of nccf, pyin, pyworld"),
        ({"f0_norm": "speaker"}, r"front_end\.f0_norm = \"speaker\""),
        ({"f0_min_hz": 700.0}, "searched from 700 to 600 Hz, expected an upward range within"),
        ({"n_fft": 1023}, r"front_end\.n_fft is 1023, expected an even number"),
        ({"sample_rate": 8000}, r"f_max_hz is 7600.0, expected at most half the sample rate, 4000"),
        ({"f_min_hz": 7600.0}, r"front_end\.f_min_hz is 7600.0, expected less than 7600"),
        ({"high_pass_hz": 8000.0}, r"front_end\.high_pass_hz is 8000.0, expected less than 8000"),
        ({"dither": -1.0}, r"front_end\.dither = -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_front_end("speech_parts", settings)


@pytest.mark.parametrize(("tracker", "package"), [("pyin", "librosa"), ("pyworld", "pyworld")])
def test_a_tracker_without_its_package_is_refused_before_any_work(tracker, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*pip install 'serkit\[pitch\]'"):
        build_front_end("speech_parts", {"f0_tracker": tracker})
