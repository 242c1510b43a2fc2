"""Acoustic feature sets against librosa and openSMILE, and on sounds that are hardly any."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from serkit.audio import resample
from serkit.features.acoustic import ACOUSTIC_SETS, acoustic_features
from serkit.types import InputError, MissingExtraError

WITH_LIBROSA = ["sims33", "sims33_f0", "librosa70"]
WITH_SMILE = ["egemaps_lld", "egemaps"]
SPEECH_HZ = 200.0


def voice(seconds: float, *, rate: int, pitch_hz: float = SPEECH_HZ) -> np.ndarray:
    """Harmonics of one pitch that swell and fade, with breath."""
    t = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * k * pitch_hz * t) / k for k in range(1, 12))
    breath = 1e-3 * np.random.default_rng(0).standard_normal(len(t))
    return (0.1 * wave * (1 + np.sin(2 * np.pi * 3 * t)) + breath).astype(np.float32)


@pytest.fixture(params=WITH_LIBROSA + WITH_SMILE)
def name(request) -> str:
    pytest.importorskip("opensmile" if request.param in WITH_SMILE else "librosa")
    return request.param


@pytest.fixture
def librosa():
    return pytest.importorskip("librosa")


def test_every_set_has_a_name_for_each_column_and_frames_at_its_rate(name):
    chosen = ACOUSTIC_SETS[name]
    assert len(chosen.names()) == len(set(chosen.names())) == chosen.n_features
    found = acoustic_features(voice(2.0, rate=16_000), 16_000, name=name)
    assert found.features.dtype == np.float32
    assert found.features.shape[1] == chosen.n_features
    wanted = 1 if chosen.frames_per_s is None else 2.0 * chosen.frames_per_s
    assert abs(len(found.features) - wanted) < 5
    assert found.n_replaced == 0


@pytest.mark.parametrize("n_samples", [1, 200, 1500, 9000])
@pytest.mark.parametrize("kind", ["silence", "click", "noise"])
def test_silent_and_short_sounds_give_finite_frames_without_a_warning(
    name, n_samples, kind, recwarn
):
    waveform = np.zeros(n_samples, dtype=np.float32)
    if kind == "click":
        waveform[0] = 1.0
    if kind == "noise":
        waveform += np.random.default_rng(0).standard_normal(n_samples).astype(np.float32) / 10
    features = acoustic_features(waveform, 16_000, name=name).features
    assert len(features) >= 1
    assert np.isfinite(features).all()
    assert [str(warning.message) for warning in recwarn] == []


def test_the_same_sound_gives_the_same_bits(name):
    waveform = voice(0.7, rate=16_000)
    one, other = (acoustic_features(waveform, 16_000, name=name).features for _ in range(2))
    assert np.array_equal(one, other)


def test_sims33_is_what_librosa_says_of_four_seconds(librosa):
    waveform = voice(4.0, rate=22_050)
    features = acoustic_features(waveform, 22_050, name="sims33").features
    common = {"y": waveform, "hop_length": 512}
    expected = np.concatenate(
        [
            librosa.feature.zero_crossing_rate(**common),
            librosa.feature.mfcc(**common, sr=22_050, n_mfcc=20, htk=True),
            librosa.feature.chroma_cqt(**common, sr=22_050),
        ]
    ).T
    assert features.shape == (173, 33)
    assert np.abs(features - expected).max() < 1e-4


def test_a_short_sound_differs_from_librosa_in_its_chroma_alone_and_little(librosa):
    waveform = voice(0.8, rate=22_050)
    features = acoustic_features(waveform, 22_050, name="sims33").features
    with pytest.warns(UserWarning, match="too large for input signal"):
        chroma = librosa.feature.chroma_cqt(y=waveform, sr=22_050, hop_length=512).T
    cepstra = librosa.feature.mfcc(y=waveform, sr=22_050, hop_length=512, htk=True).T
    assert np.abs(features[:, 1:21] - cepstra).max() < 1e-4
    assert np.abs(features[:, 21:] - chroma).max() < 0.05
    assert np.abs(features[:8, 21:] - chroma[:8]).max() < 0.01


def test_the_first_column_of_sims33_is_no_pitch_and_that_of_sims33_f0_is(librosa):
    waveform = voice(1.0, rate=22_050)
    plain = acoustic_features(waveform, 22_050, name="sims33").features
    pitched = acoustic_features(waveform, 22_050, name="sims33_f0").features
    assert np.array_equal(plain[:, 1:], pitched[:, 1:])
    assert plain[:, 0].max() < 1
    voiced = pitched[:, 0] > 0
    assert voiced.mean() > 0.6
    assert np.abs(np.exp(pitched[voiced, 0]) - SPEECH_HZ).max() < 5
    silent = acoustic_features(np.zeros(9000, np.float32), 22_050, name="sims33_f0").features
    assert (silent[:, 0] == -1).all()


def test_librosa70_holds_librosas_own_columns(librosa):
    waveform = voice(4.0, rate=22_050)
    features = acoustic_features(waveform, 22_050, name="librosa70").features
    names = ACOUSTIC_SETS["librosa70"].names()
    framing = {"y": waveform, "sr": 22_050, "n_fft": 512, "hop_length": 128}
    expected = {
        "mfcc_0": librosa.feature.mfcc(**framing, n_mfcc=13)[0],
        "chroma_cqt_c": librosa.feature.chroma_cqt(y=waveform, sr=22_050, hop_length=128)[0],
        "chroma_cens_a": librosa.feature.chroma_cens(y=waveform, sr=22_050, hop_length=128)[9],
        "spectral_centroid": librosa.feature.spectral_centroid(**framing)[0],
        "spectral_bandwidth": librosa.feature.spectral_bandwidth(**framing)[0],
        "spectral_contrast_6": librosa.feature.spectral_contrast(**framing)[6],
        "spectral_rolloff": librosa.feature.spectral_rolloff(**framing)[0],
        "spectral_line_1": librosa.feature.poly_features(**framing)[1],
        "zero_crossing_rate": librosa.feature.zero_crossing_rate(
            waveform, frame_length=512, hop_length=128
        )[0],
    }
    for name, column in expected.items():
        assert np.allclose(features[:, names.index(name)], column, rtol=1e-3, atol=1e-4), name


def test_a_sound_of_another_rate_is_resampled_first(librosa):
    waveform = voice(1.0, rate=48_000)
    there = acoustic_features(resample(waveform, 48_000, 22_050), 22_050, name="sims33")
    assert np.array_equal(
        acoustic_features(waveform, 48_000, name="sims33").features, there.features
    )


def test_egemaps_is_what_opensmile_says():
    opensmile = pytest.importorskip("opensmile")
    waveform = voice(1.0, rate=16_000)
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    expected = smile.process_signal(waveform, 16_000)
    assert ACOUSTIC_SETS["egemaps"].names() == tuple(expected.columns)
    features = acoustic_features(waveform, 16_000, name="egemaps").features
    assert np.array_equal(features, expected.to_numpy(dtype=np.float32))


def test_values_that_are_no_numbers_become_zero_and_are_counted(monkeypatch):
    broken = np.array([[1.0, np.nan, np.inf], [-np.inf, 2.0, 3.0]], dtype=np.float32)
    chosen = ACOUSTIC_SETS["sims33"]
    fake = type(chosen)(chosen.sample_rate, 43.0, 3, lambda: ("a", "b", "c"), lambda _: broken)
    monkeypatch.setitem(ACOUSTIC_SETS, "sims33", fake)
    found = acoustic_features(np.ones(10, np.float32), 22_050, name="sims33")
    assert found.n_replaced == 3
    assert found.features.tolist() == [[1, 0, 0], [0, 2, 3]]


def test_an_unknown_set_and_no_samples_are_refused():
    with pytest.raises(InputError, match="acoustic set 'mfcc', expected one of sims33, sims33_f0"):
        acoustic_features(np.ones(10, np.float32), 16_000, name="mfcc")
    with pytest.raises(InputError, match="acoustic set 'egemaps': the sound has no samples"):
        acoustic_features(np.ones(0, np.float32), 16_000, name="egemaps")


@pytest.mark.parametrize(("name", "package"), [("sims33", "librosa"), ("egemaps", "opensmile")])
def test_a_missing_package_names_the_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*serkit\[acoustic\]"):
        acoustic_features(np.ones(2000, np.float32), 16_000, name=name)
