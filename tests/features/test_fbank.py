"""Mel-band energies: against kaldi-native-fbank, against a second account of the chain, by rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from serkit.features import build_front_end
from serkit.features.fbank import Fbank, FbankConfig
from serkit.types import InputError


def speech_like(n_samples: int, seed: int = 0) -> torch.Tensor:
    """A chirp in noise with an offset, ``(n_samples,)``."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(n_samples) / 16_000
    chirp = 0.3 * torch.sin(2 * torch.pi * (200 + 900 * t) * t)
    return chirp + 0.05 * torch.randn(n_samples, generator=generator) + 0.02


def one_by_one(waveform: np.ndarray, *, reflect: bool) -> np.ndarray:
    """The chain in plain NumPy, frame by frame and bin by bin."""
    samples, n = waveform.astype(np.float64) * 32_768, len(waveform)
    n_frames = (n + 80) // 160 if reflect else 1 + (n - 400) // 160
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    edges = np.linspace(*(1127 * np.log(1 + np.array([20, 8000]) / 700)), 82)
    rows = []
    for f in range(n_frames):
        first = f * 160 + (80 - 200 if reflect else 0)
        frame = np.empty(400)
        for i in range(400):
            at = first + i
            while not 0 <= at < n:
                at = -at - 1 if at < 0 else 2 * n - 1 - at
            frame[i] = samples[at]
        frame -= frame.mean()
        frame = np.concatenate([[frame[0] * 0.03], frame[1:] - 0.97 * frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        bands = np.zeros(80)
        for k in range(257):
            mel = 1127 * np.log(1 + k * 16_000 / 512 / 700)
            for b in range(80):
                left, centre, right = edges[b : b + 3]
                if left < mel < right:
                    rising, falling = (mel - left), (right - mel)
                    weight = (
                        rising / (centre - left) if mel <= centre else falling / (right - centre)
                    )
                    bands[b] += weight * power[k]
        rows.append(np.log(np.maximum(bands, 2.0**-23)))
    return np.array(rows)


@pytest.mark.parametrize("edge", ["snip", "reflect"])
@pytest.mark.parametrize("n_samples", [400, 4_000, 16_123])
def test_energies_are_those_of_kaldi(edge, n_samples):
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = edge == "snip"
    options.mel_opts.num_bins = 80
    waveform = speech_like(n_samples)
    reference = knf.OnlineFbank(options)
    reference.accept_waveform(16_000, (waveform * 32_768).tolist())
    reference.input_finished()
    expected = np.stack([reference.get_frame(i) for i in range(reference.num_frames_ready)])
    features, n_frames = Fbank(FbankConfig(edge=edge))(waveform[None], torch.tensor([n_samples]))
    assert n_frames.tolist() == [len(expected)]
    np.testing.assert_allclose(features[0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("edge", ["snip", "reflect"])
def test_energies_are_those_of_the_chain_spelled_out(edge):
    waveform = speech_like(1_300)
    expected = one_by_one(waveform.numpy(), reflect=edge == "reflect")
    features, _ = Fbank(FbankConfig(edge=edge))(waveform[None], torch.tensor([1_300]))
    np.testing.assert_allclose(features[0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("edge", ["snip", "reflect"])
@pytest.mark.parametrize("target_db", [None, -20.0])
def test_neighbours_and_padding_change_nothing(edge, target_db):
    front_end = Fbank(FbankConfig(edge=edge, target_db=target_db))
    lengths = [9_000, 1, 500, 80, 4_321]
    waveforms = torch.zeros(5, 11_000)
    for i, n in enumerate(lengths):
        waveforms[i, :n] = speech_like(n, seed=i)
    together, n_frames = front_end(waveforms, torch.tensor(lengths))
    for row, n, frames in zip(range(5), lengths, n_frames.tolist(), strict=True):
        alone, alone_frames = front_end(waveforms[row : row + 1, :n], torch.tensor([n]))
        assert alone_frames.tolist() == [frames]
        torch.testing.assert_close(together[row, :frames], alone[0], atol=1e-3, rtol=0)
        assert not together[row, frames:].any()


def test_loudness_is_brought_to_the_target():
    front_end = Fbank(FbankConfig(target_db=-20.0))
    waveform = speech_like(8_000)[None]
    scaled = waveform * (0.1 / waveform.square().mean().sqrt())
    expected, _ = Fbank(FbankConfig())(scaled, torch.tensor([8_000]))
    for factor in (1.0, 1e-4, 3.0):
        features, _ = front_end(factor * waveform, torch.tensor([8_000]))
        torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)


def test_silence_stays_silence():
    features, n_frames = Fbank(FbankConfig(target_db=-20.0))(
        torch.zeros(1, 1_600), torch.tensor([1_600])
    )
    assert n_frames.tolist() == [8]
    torch.testing.assert_close(features, torch.full((1, 8, 80), -15.9424), atol=1e-3, rtol=0)


def test_no_samples_give_one_frame_of_silence():
    for edge in ("snip", "reflect"):
        features, n_frames = Fbank(FbankConfig(edge=edge))(torch.zeros(1, 0), torch.tensor([0]))
        assert n_frames.tolist() == [1]
        assert features.shape == (1, 1, 80)


def test_dither_is_for_training_alone():
    front_end = Fbank(FbankConfig(dither=1.0))
    silence, n = torch.zeros(1, 1_600), torch.tensor([1_600])
    torch.manual_seed(0)
    heard, _ = front_end.train()(silence, n)
    assert heard.mean() > 0
    quiet, _ = front_end.eval()(silence, n)
    assert (quiet < -15).all()


def test_energies_have_gradients():
    waveform = speech_like(2_000)[None].requires_grad_()
    Fbank(FbankConfig(target_db=-20.0))(waveform, torch.tensor([2_000]))[0].sum().backward()
    assert waveform.grad is not None
    assert torch.isfinite(waveform.grad).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop_length": 500}, r"front_end\.hop_length is 500, expected at most win_length, 400"),
        ({"f_max_hz": 9_000.0}, r"front_end\.f_max_hz is 9000\.0, expected at most half .* 8000"),
        ({"f_min_hz": 8_000.0}, r"front_end\.f_min_hz is 8000\.0, expected less than 8000"),
        ({"preset": "htk"}, r"front_end\.preset is 'htk', expected one of asr, kaldi"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_front_end("fbank", settings)
