"""TensorFlow's MFCC against the Light-SERNet authors' code (golden numbers) and its promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.fft import dct

from serkit.features import build_front_end
from serkit.features.tf_mfcc import TF_MFCC_PRESETS, TfMfcc, TfMfccConfig, htk_mel_matrix
from serkit.features.views import FixedView
from serkit.types import InputError
from tests_support import tone

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "mfcc.json").read_text())
LIGHT_SERNET = GOLDEN["light_sernet"]
CASES = LIGHT_SERNET["cases"]
PRESET = TF_MFCC_PRESETS["light-sernet"]
TOLERANCE = 1e-4


def golden_signal(n_samples: int, rate: int = 16_000) -> np.ndarray:
    n = np.arange(n_samples, dtype=np.float64)
    glide = np.sin(2 * np.pi * (200 + 150 * n / n_samples) * n / rate)
    tremolo = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * n / rate)
    common = 0.5 * glide * tremolo + 0.01 * np.sin(0.7 * n**1.01)
    return (common + 0.02 * np.sin(0.37 * n**2)).astype(np.float32)


def viewed_golden_signal(case: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    signal = torch.from_numpy(golden_signal(case["samples"])).unsqueeze(0)
    view = FixedView(n_samples=case["target"], scale="percentile")
    return view(signal, torch.tensor([case["samples"]]))


def extract(front_end: TfMfcc, *signals: np.ndarray, width: int | None = None) -> torch.Tensor:
    """Features of a padded batch, (batch, n_frames, n_mfcc)."""
    batch = torch.zeros(len(signals), width or max(map(len, signals)))
    for row, signal in zip(batch, signals, strict=True):
        row[: len(signal)] = torch.from_numpy(signal)
    return front_end(batch, torch.tensor([len(signal) for signal in signals]))[0]


# ---- The authors' code ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_view_is_the_light_sernet_authors_segment(name):
    case = CASES[name]
    waveform = viewed_golden_signal(case)[0][0].numpy()
    golden = case["waveform"]
    assert np.abs(waveform[golden["positions"]] - golden["values"]).max() < 1e-6
    assert waveform.mean() == pytest.approx(golden["mean"], abs=1e-6)
    assert waveform.std() == pytest.approx(golden["std"], abs=1e-6)
    at_limit = (np.abs(waveform) == 1).mean()
    # In float32 the percentile itself may be a sample, which then lies at the limit or does not.
    assert at_limit == pytest.approx(golden["fraction_at_limit"], abs=1.1 / len(waveform))


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_light_sernet_authors_code(name):
    case = CASES[name]
    front_end = build_front_end("tf_mfcc", {"preset": "light-sernet"})
    features, n_frames = front_end(*viewed_golden_signal(case))
    assert list(features[0].shape) == case["shape"]
    assert n_frames.tolist() == case["shape"][:1]
    expected = np.array(case["mfcc_before_clip"]).clip(-10, 10)
    assert np.abs(features[0, case["frames"]].numpy() - expected).max() < TOLERANCE
    mean = features[0].mean(0).numpy()
    assert np.abs(mean - case["mfcc_mean_over_frames"]).max() < TOLERANCE
    clipped = (features[0].abs() == 10).float().mean().item()
    assert clipped == pytest.approx(case["fraction_clipped"], abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_unclipped_values_are_those_of_the_light_sernet_authors_code(name):
    case = CASES[name]
    features, _ = TfMfcc(replace(PRESET, clip=None))(*viewed_golden_signal(case))
    expected = np.array(case["mfcc_before_clip"])  # down to -221
    got = features[0, case["frames"]].numpy()
    assert np.allclose(got, expected, rtol=2e-6, atol=TOLERANCE)


def test_mel_bands_are_those_of_tensorflow():
    golden = LIGHT_SERNET["mel_matrix"]
    matrix = htk_mel_matrix(
        sample_rate=16_000, n_fft=1024, n_mels=128, f_min_hz=80.0, f_max_hz=7600.0
    )
    assert list(matrix.shape) == golden["shape"]
    assert matrix.sum() == pytest.approx(golden["total"], rel=1e-5)
    assert matrix.max() == pytest.approx(golden["max"], rel=1e-5)
    bands = matrix[:, golden["bands"]]
    assert np.abs(bands.sum(0) - golden["column_sums"]).max() < 1e-4
    assert (bands > 0).argmax(0).tolist() == golden["first_nonzero_bin"]
    assert (512 - (bands[::-1] > 0).argmax(0)).tolist() == golden["last_nonzero_bin"]


# ---- The definition, written down once more ------------------------------------------------------


def test_other_settings_follow_the_definition():
    c = TfMfccConfig(
        sample_rate=8000, n_fft=512, win_length=400, hop_length=160, n_mels=30, n_mfcc=13,
        f_min_hz=0.0, f_max_hz=4000.0, clip=None,
    )  # fmt: skip
    signal = tone(300.0, rate=8000)
    starts = range(0, len(signal) - 399, 160)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.array([signal[i : i + 400] * window for i in starts])
    magnitude = np.abs(np.fft.rfft(frames, 512))
    edges = 700 * (np.exp(np.linspace(0, np.log1p(4000 / 700), 32)) - 1)
    bands = np.zeros((len(frames), 30))
    for k in range(1, 257):
        for j in range(30):
            low, mid, high, here = np.log1p(np.array([*edges[j : j + 3], k * 8000 / 512]) / 700)
            weight = min((here - low) / (mid - low), (high - here) / (high - mid))
            bands[:, j] += max(0.0, weight) * magnitude[:, k]
    expected = dct(np.log(bands + 1e-6))[:, :13] / np.sqrt(2 * 30)
    features = extract(TfMfcc(c), signal)[0].numpy()
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < TOLERANCE


# ---- Lengths, silence, gradients, export ---------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "n_frames"),
    [(0, 1), (1, 1), (1023, 1), (1024, 1), (1279, 1), (1280, 2), (32_000, 122), (112_000, 434)],
)
def test_there_is_a_frame_wherever_a_whole_window_fits_and_at_least_one(n_samples, n_frames):
    assert TfMfcc(PRESET).n_frames(torch.tensor([n_samples])).tolist() == [n_frames]


def test_an_utterance_shorter_than_a_window_gets_one_frame_of_its_samples_and_zeros():
    signal = tone(300.0, rate=16_000)[:700]
    short = extract(TfMfcc(PRESET), signal)
    padded = extract(TfMfcc(PRESET), np.pad(signal, (0, 324)))
    assert short.shape == (1, 1, 40)
    assert torch.equal(short, padded)


def test_no_frame_reaches_into_the_padding():
    signals = [tone(300.0, rate=16_000)[:n] for n in (5000, 1, 1100, 6400)]
    together = extract(TfMfcc(PRESET), *signals, width=9000)
    for row, signal, n_frames in zip(together, signals, (16, 1, 1, 22), strict=True):
        alone = extract(TfMfcc(PRESET), signal)[0]
        assert len(alone) == n_frames
        assert torch.allclose(row[:n_frames], alone, atol=1e-4)
        assert (row[n_frames:] == 0).all()


def test_silence_lies_at_the_floor():
    floor = np.sqrt(2 * 128) * np.log(1e-6)
    features = extract(TfMfcc(replace(PRESET, clip=None)), np.zeros(3000, "f"))[0]
    assert torch.allclose(features[:, 0], torch.tensor(floor, dtype=torch.float32))
    assert features[:, 1:].abs().max() < 1e-3


def test_gradients_are_right():
    config = TfMfccConfig(
        sample_rate=800, n_fft=64, win_length=60, hop_length=16, n_mels=8, n_mfcc=4,
        f_min_hz=0.0, f_max_hz=400.0, clip=None,
    )  # fmt: skip
    front_end = TfMfcc(config).double()
    x = torch.randn(1, 120, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: front_end(w, torch.tensor([120]))[0], (x,))


def test_gradients_are_finite_for_padded_speech_and_silence():
    x = torch.zeros(2, 9000)
    x[0, 2000:8400] = torch.from_numpy(tone(300.0, rate=16_000))
    x.requires_grad_()
    TfMfcc(PRESET)(x, torch.tensor([9000, 7000]))[0].square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad[0, 2000:8400].abs().max() > 0


def test_it_can_be_exported():
    front_end = TfMfcc(PRESET)
    x = torch.from_numpy(tone(300.0, rate=16_000)).unsqueeze(0)
    n = torch.tensor([x.shape[1]])
    exported = torch.export.export(front_end, (x, n)).module()
    assert torch.allclose(exported(x, n)[0], front_end(x, n)[0], atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_values_of_the_cpu():
    front_end = TfMfcc(PRESET)
    batch = viewed_golden_signal(CASES["pad_40001_to_48000"])
    expected, _ = front_end(*batch)
    got, _ = front_end.cuda()(*(tensor.cuda() for tensor in batch))
    assert torch.allclose(got.cpu(), expected, atol=1e-3)


def test_no_checkpoint_stores_what_follows_from_the_settings():
    assert not TfMfcc(PRESET).state_dict()


# ---- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "moe-26"}, r"front_end\.preset is 'moe-26', expected one of light-sernet"),
        ({"top_db": 80.0}, r"front_end\.top_db: unknown setting"),
        ({"clip": 0.0}, r"front_end\.clip = 0.0: input should be greater than 0"),
        ({"n_mfcc": 129}, r"front_end\.n_mfcc is 129, expected at most n_mels, 128"),
        ({"win_length": 2048}, r"front_end\.win_length is 2048, expected at most n_fft, 1024"),
        ({"sample_rate": 8000}, r"f_max_hz is 7600.0, expected at most half the sample rate, 4000"),
        ({"f_min_hz": 7600.0}, r"f_min_hz is 7600.0, expected less than 7600"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_front_end("tf_mfcc", settings)
