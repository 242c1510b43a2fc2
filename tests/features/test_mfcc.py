"""MFCC against the published feature code (golden numbers), librosa, and its own promises."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from serkit.audio import load_audio
from serkit.features import build_front_end, front_end_to_dict
from serkit.features.mfcc import MFCC_PRESETS, Mfcc, MfccConfig, dct_matrix, slaney_mel_matrix
from serkit.features.views import FixedView
from serkit.types import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "mfcc.json").read_text())
TIMNET = GOLDEN["timnet"]["cases"]
MOE = GOLDEN["moe"]["cases"]["two_segments_of_40000"]
TOLERANCE = 1e-3  # values reach 1000; float32 against float64 differs by 1e-4

SILENCE = np.sqrt(128) * -100.0  # c0 of a frame whose 128 bands lie at the floor of -100 dB


def golden_signal(n_samples: int, rate: int) -> np.ndarray:
    n = np.arange(n_samples, dtype=np.float64)
    tone = np.sin(2 * np.pi * (200 + 150 * n / n_samples) * n / rate)
    tremolo = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * n / rate)
    return (0.5 * tone * tremolo + 0.01 * np.sin(0.7 * n**1.01)).astype(np.float32)


def speech_like(n_samples: int, *, rate: int = 22_050, seed: int = 0) -> np.ndarray:
    """Syllables of a wavering voice with pauses between them, and breath."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / rate
    pitch = 150 + 40 * np.sin(2 * np.pi * 0.7 * t + seed) + 20 * rng.normal()
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, None) ** 2
    return (0.1 * voice * syllables + 1e-3 * rng.normal(size=n_samples)).astype(np.float32)


def extract(front_end: Mfcc, *signals: np.ndarray, width: int | None = None) -> torch.Tensor:
    """Features of a padded batch, (batch, n_frames, n_mfcc)."""
    batch = torch.zeros(len(signals), width or max(map(len, signals)))
    for row, signal in zip(batch, signals, strict=True):
        row[: len(signal)] = torch.from_numpy(signal)
    features, n_frames = front_end(batch, torch.tensor([len(signal) for signal in signals]))
    assert n_frames.tolist() == [1 + len(s) // front_end.config.hop_length for s in signals]
    return features


def tiny(**settings: object) -> Mfcc:
    base = MfccConfig(sample_rate=800, n_fft=64, win_length=64, hop_length=16, n_mels=8, n_mfcc=4)
    return Mfcc(replace(base, **settings))


# ---- Golden numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMNET)
@pytest.mark.parametrize("edge", ["zeros", "reflect"])
def test_values_are_those_of_the_timnet_authors_code(name, edge):
    case = TIMNET[name]
    signal = torch.from_numpy(golden_signal(case["samples"], 22_050)).unsqueeze(0)
    view = FixedView(n_samples=case["target"])
    front_end = build_front_end("mfcc", {"preset": "timnet-code", "edge": edge})
    features, n_frames = front_end(*view(signal, torch.tensor([case["samples"]])))
    assert list(features[0].shape) == case["shape"]
    assert n_frames.tolist() == case["shape"][:1]
    frames = case["frames" if edge == "zeros" else "reflect_frames"]
    expected = np.array(case[f"values_edge_{edge}"])
    assert np.abs(features[0, frames].numpy() - expected).max() < TOLERANCE
    if edge == "zeros":
        assert np.abs(features[0].mean(0).numpy() - case["mean_over_frames"]).max() < TOLERANCE
        spread = features[0].std(0, correction=0).numpy()
        assert np.abs(spread - case["std_over_frames"]).max() < TOLERANCE


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize("edge", ["zeros", "reflect"])
def test_values_are_those_of_the_mixture_of_experts_code(segment, edge):
    start, stop = MOE["segments"][segment]
    signal = golden_signal(MOE["samples"], 16_000)[start:stop]
    front_end = Mfcc(replace(MFCC_PRESETS["moe-26"], edge=edge))
    features = extract(front_end, signal)[0].T.numpy()  # (n_mfcc, n_frames)
    assert list(features.shape) == MOE["shape"][1:]
    frames = list(range(63))
    if edge == "reflect":
        frames = MOE["reflect_frames"]
    elif segment == 1:
        frames = MOE["segment1_frames"]
    expected = np.array(MOE[f"segment{segment}_edge_{edge}"])
    assert np.abs(features[:, frames] - expected).max() < TOLERANCE


def test_the_edge_changes_two_frames_at_either_end_and_none_behind_padding():
    for name, case in TIMNET.items():
        signal = torch.from_numpy(golden_signal(case["samples"], 22_050)).unsqueeze(0)
        viewed = FixedView(n_samples=case["target"])(signal, torch.tensor([case["samples"]]))
        zeros, reflect = (
            Mfcc(MfccConfig(n_mfcc=39, edge=edge))(*viewed)[0][0] for edge in ("zeros", "reflect")
        )
        differs = ((zeros - reflect).abs().amax(1) > 0.01).nonzero()[:, 0].tolist()
        assert differs == case["frames_where_reflect_differs"], name


# ---- librosa -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", MFCC_PRESETS)
@pytest.mark.parametrize("n_samples", [1, 511, 512, 3000, 66_150])
def test_values_equal_librosa_s(preset, n_samples):
    librosa = pytest.importorskip("librosa")
    c = MFCC_PRESETS[preset]
    signal = speech_like(n_samples, rate=c.sample_rate)
    expected = librosa.feature.mfcc(
        y=signal,
        sr=c.sample_rate,
        n_mfcc=c.n_mfcc,
        n_fft=c.n_fft,
        win_length=c.win_length,
        hop_length=c.hop_length,
        window=c.window,
    ).T
    features = extract(Mfcc(c), signal)[0].numpy()
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() < 5e-3


def test_other_bands_and_no_ceiling_equal_librosa_s():
    librosa = pytest.importorskip("librosa")
    signal = speech_like(9000)
    expected = librosa.feature.mfcc(
        y=signal, sr=22_050, n_mfcc=13, n_mels=40, fmin=80, fmax=7600, n_fft=1024, hop_length=256
    ).T
    config = MfccConfig(
        n_mfcc=13,
        n_mels=40,
        f_min_hz=80,
        f_max_hz=7600,
        n_fft=1024,
        win_length=1024,
        hop_length=256,
    )
    assert np.abs(extract(Mfcc(config), signal)[0].numpy() - expected).max() < 5e-3
    power = librosa.feature.melspectrogram(y=signal, sr=22_050)
    loud = librosa.feature.mfcc(S=librosa.power_to_db(power, top_db=None), n_mfcc=20).T
    assert np.abs(extract(Mfcc(MfccConfig(top_db=None)), signal)[0].numpy() - loud).max() < 5e-3


@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(22_050, 2048, 128), (16_000, 512, 40)])
def test_mel_bands_equal_librosa_s(rate, n_fft, n_mels):
    librosa = pytest.importorskip("librosa")
    expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels, dtype=np.float64).T
    ours = slaney_mel_matrix(sample_rate=rate, n_fft=n_fft, n_mels=n_mels)
    assert np.abs(ours - expected).max() < 1e-12


@pytest.mark.corpus
def test_values_equal_librosa_s_on_real_speech():
    librosa = pytest.importorskip("librosa")
    root = os.environ.get("SERKIT_CORPORA")
    files = sorted(Path(root or "").glob("emodb/wav/*.wav"))[:20]
    if root is None or not files:
        pytest.skip("needs SERKIT_CORPORA with emodb/wav")
    front_end = Mfcc(MFCC_PRESETS["timnet-code"])
    for path in files:
        signal, rate = librosa.load(path)
        expected = librosa.feature.mfcc(y=signal, sr=rate, n_mfcc=39).T
        waveform, _ = load_audio(path, sample_rate=22_050)
        assert np.abs(extract(front_end, waveform)[0].numpy() - expected).max() < 5e-3


# ---- Batches, padding, silence -------------------------------------------------------------------


@pytest.mark.parametrize("preset", MFCC_PRESETS)
def test_an_utterance_has_the_same_features_alone_and_in_a_padded_batch(preset):
    front_end = Mfcc(MFCC_PRESETS[preset])
    signals = [speech_like(n, seed=n) for n in (9000, 1, 5120, 20_000, 511)]
    together = extract(front_end, *signals, width=24_000)
    for row, signal in zip(together, signals, strict=True):
        alone = extract(front_end, signal)[0]
        assert torch.allclose(row[: len(alone)], alone, atol=1e-3)
        assert (row[len(alone) :] == 0).all()


def test_every_device_gets_the_values_of_the_cpu(monkeypatch):
    """On a GPU and in an export all frames are transformed at once; only the path differs."""
    signals = [speech_like(n, seed=n) for n in (9000, 2500, 20_000)] + [np.zeros(700, "f")]
    for preset, config in MFCC_PRESETS.items():
        front_end = Mfcc(config)
        rows = extract(front_end, *signals)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            at_once = extract(front_end, *signals)
        assert rows.shape == at_once.shape
        assert torch.allclose(rows, at_once, atol=1e-3), preset


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_values_of_the_cpu():
    front_end = Mfcc(MFCC_PRESETS["timnet-code"])
    signals = torch.from_numpy(np.stack([speech_like(40_000, seed=i) for i in range(3)]))
    n_samples = torch.tensor([40_000] * 3)
    expected, _ = front_end(signals, n_samples)
    got, _ = front_end.cuda()(signals.cuda(), n_samples.cuda())
    assert torch.allclose(got.cpu(), expected, atol=5e-3)


def test_silence_around_speech_costs_nothing_and_changes_nothing():
    """Zeros inside, before and after: equal to transforming every frame one by one."""
    signal = np.zeros(30_000, dtype=np.float32)
    signal[7001:9000] = speech_like(1999)
    signal[16_000:20_003] = speech_like(4003)
    front_end = Mfcc(MfccConfig(n_mfcc=39, top_db=None))
    features = extract(front_end, signal)[0]
    padded = torch.from_numpy(np.pad(signal, 1024))
    for k in (0, 11, 13, 14, 17, 18, 24, 29, 31, 40, 41, 42, 58):
        window = padded[512 * k : 512 * k + 2048].unsqueeze(0)
        centre = front_end(window, torch.tensor([2048]))[0][0, 2]  # the frame that is the window
        assert torch.allclose(features[k], centre, atol=1e-3), k


def test_silence_lies_at_the_floor():
    for signal in (np.zeros(3000, "f"), np.zeros(1, "f")):
        features = extract(Mfcc(MfccConfig()), signal)[0]
        assert torch.allclose(features[:, 0], torch.tensor(SILENCE, dtype=torch.float32))
        assert features[:, 1:].abs().max() < 1e-3


def test_nothing_lies_further_than_top_db_below_an_utterance_s_own_peak():
    signal = np.concatenate([0.5 * speech_like(4096), np.zeros(8192, "f")])
    quiet = extract(Mfcc(MfccConfig()), 1e-3 * signal, signal)
    loudest = Mfcc(MfccConfig(top_db=None, n_mfcc=128))
    peak = (extract(loudest, signal)[0] @ torch.from_numpy(dct_matrix(128, 128).T).float()).max()
    assert quiet[1, -1, 0].item() == pytest.approx(np.sqrt(128) * (peak.item() - 80), abs=0.01)
    assert quiet[0, -1, 0].item() == pytest.approx(SILENCE, abs=0.01)


@pytest.mark.parametrize("n_samples", [0, 1, 255, 256, 1000, 96_000])
def test_there_is_a_frame_every_hop(n_samples):
    front_end = Mfcc(MFCC_PRESETS["librosa-default"])
    assert front_end.n_frames(torch.tensor([n_samples])).tolist() == [1 + n_samples // 512]


def test_one_sample_is_enough():
    for config in MFCC_PRESETS.values():
        features = extract(Mfcc(config), np.ones(1, dtype=np.float32))
        assert features.shape == (1, 1, config.n_mfcc)
        assert torch.isfinite(features).all()


# ---- Gradients, precision, export ----------------------------------------------------------------


@pytest.mark.parametrize("edge", ["zeros", "reflect"])
def test_gradients_are_right(edge):
    front_end = tiny(edge=edge, top_db=None).double()
    x = torch.randn(1, 120, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: front_end(w, torch.tensor([120]))[0], (x,))


def test_gradients_are_finite_for_padded_speech_and_silence():
    front_end = Mfcc(MFCC_PRESETS["timnet-code"])
    x = torch.zeros(2, 20_000)
    x[0, 3000:12_000] = torch.from_numpy(speech_like(9000))
    x.requires_grad_()
    front_end(x, torch.tensor([20_000, 15_000]))[0].square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad[0, 3000:12_000].abs().max() > 0


def test_it_can_be_exported():
    front_end = Mfcc(MFCC_PRESETS["timnet-code"])
    x = torch.from_numpy(speech_like(9600)).unsqueeze(0)
    n = torch.tensor([9600])
    exported = torch.export.export(front_end, (x, n)).module()
    assert torch.allclose(exported(x, n)[0], front_end(x, n)[0], atol=1e-3)


def test_no_checkpoint_stores_what_follows_from_the_settings():
    assert not Mfcc(MfccConfig()).state_dict()


# ---- Settings ------------------------------------------------------------------------------------


def test_reflect_refuses_mixed_lengths_and_short_signals():
    front_end = Mfcc(MfccConfig(edge="reflect"))
    with pytest.raises(
        InputError, match=r"one length per batch, got \[2000, 3000\] samples padded"
    ):
        front_end(torch.zeros(2, 3000), torch.tensor([3000, 2000]))
    with pytest.raises(InputError, match="needs more than 1024 samples, got 1024"):
        front_end(torch.zeros(1, 1024), torch.tensor([1024]))
    assert torch.isfinite(extract(front_end, speech_like(1025))).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "whisper"}, "front_end.preset is 'whisper', expected one of librosa-default"),
        ({"n_mfc": 39}, r"front_end\.n_mfc: unknown setting; did you mean 'n_mfcc'"),
        ({"n_mfcc": 0}, r"front_end\.n_mfcc = 0: input should be greater than 0"),
        ({"n_mfcc": 129}, r"front_end\.n_mfcc is 129, expected at most n_mels, 128"),
        ({"win_length": 4096}, r"front_end\.win_length is 4096, expected at most n_fft, 2048"),
        ({"preset": "timnet-paper", "n_fft": 1024}, r"win_length is 1102, .* n_fft, 1024"),
        ({"n_fft": 2049}, r"front_end\.n_fft is 2049, expected an even number"),
        ({"hop_length": 0.5}, r"front_end\.hop_length = 0.5: input should be a valid integer"),
        ({"window": "blackman"}, r'front_end\.window = "blackman": input should be'),
        ({"edge": "wrap"}, r'front_end\.edge = "wrap": input should be'),
        ({"top_db": -80.0}, r"front_end\.top_db = -80.0: input should be greater than 0"),
        ({"f_max_hz": 12_000.0}, r"f_max_hz is 12000.0, expected at most half the sample rate"),
        ({"f_min_hz": 8000.0, "f_max_hz": 8000.0}, r"f_min_hz is 8000.0, expected less than 8000"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_front_end("mfcc", settings)


def test_an_unknown_front_end_is_refused():
    with pytest.raises(InputError, match=r"front_end\.name is 'plp', expected one of .*mfcc"):
        build_front_end("plp", {})


def test_a_preset_can_be_overridden_setting_by_setting():
    front_end = build_front_end("mfcc", {"preset": "timnet-code", "n_mfcc": 13})
    assert front_end.config == replace(MFCC_PRESETS["timnet-code"], n_mfcc=13)
    assert front_end_to_dict(front_end)["n_mfcc"] == 13


def test_bands_that_no_bin_feeds_stay_at_the_floor():
    """More bands than a short window resolves: odd, but defined, as in librosa."""
    front_end = Mfcc(MfccConfig(n_fft=128, win_length=128, hop_length=64, n_mels=128))
    features = extract(front_end, speech_like(2000))
    assert torch.isfinite(features).all()
