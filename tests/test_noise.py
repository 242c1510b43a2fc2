"""Noise: spectra as named, ratios as asked, equal generators give equal noise."""

import numpy as np
import pytest

from serkit.noise import babble, hum, loop, mix, pink, speech_shaped, white
from serkit.types import InputError
from tests_support import tone

RATE = 16_000


def maker(kind: str, n_samples: int, seed: int):
    generator = np.random.default_rng(seed)
    if kind == "white":
        return white(n_samples, generator)
    if kind == "babble":
        voices = [tone(100 + 37 * k, rate=RATE, seed=k) for k in range(8)]
        return babble(voices, n_samples, generator)
    made = {"pink": pink, "hum": hum, "speech_shaped": speech_shaped}[kind]
    return made(n_samples, RATE, generator)


def power_spectrum(wave, rate=RATE):
    return np.fft.rfftfreq(len(wave), 1 / rate), np.abs(np.fft.rfft(wave.astype(float))) ** 2


def band_power_db(wave, low_hz: float, high_hz: float) -> float:
    frequencies, power = power_spectrum(wave)
    return 10 * np.log10(power[(frequencies >= low_hz) & (frequencies < high_hz)].sum())


KINDS = ("white", "pink", "hum", "babble", "speech_shaped")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("snr_db", [30, 5, 0, -7.5])
def test_the_measured_ratio_is_the_one_asked_for(kind, snr_db):
    speech = tone(220, seconds=1.3, rate=RATE)
    noisy = mix(speech, maker(kind, len(speech), 3), snr_db)
    added = noisy.astype(float) - speech
    measured = 10 * np.log10(np.mean(speech.astype(float) ** 2) / np.mean(added**2))
    assert measured == pytest.approx(snr_db, abs=0.05)
    assert noisy.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_equal_generators_give_equal_noise_and_others_other_noise(kind):
    first, again, other = (maker(kind, 4001, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (4001,)
    assert first.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_noise_of_a_hundredth_of_a_second_has_sound(kind):
    assert np.any(maker(kind, RATE // 50, 1))


def test_pink_noise_has_equal_power_in_every_octave_and_none_below_hearing():
    wave = pink(20 * RATE, RATE, np.random.default_rng(5))
    octaves = [band_power_db(wave, low, 2 * low) for low in (31.25 * 2**k for k in range(8))]
    assert np.ptp(octaves) < 1.0
    slope = np.polyfit(range(8), np.array(octaves) - 3.0103 * np.arange(8), 1)[0]
    assert slope == pytest.approx(-3.01, abs=0.15)  # dB per octave, of the density
    assert band_power_db(wave, 0.1, 19.9) < min(octaves) - 60


def test_white_noise_has_equal_power_per_hertz():
    wave = white(20 * RATE, np.random.default_rng(5))
    assert band_power_db(wave, 1000, 2000) == pytest.approx(
        band_power_db(wave, 5000, 6000), abs=0.3
    )


def test_hum_peaks_at_decaying_harmonics_of_the_mains_and_nowhere_else():
    frequencies, power = power_spectrum(hum(2 * RATE, RATE, np.random.default_rng(1)))
    loudest = np.sort(frequencies[np.argsort(power)[-20:]])
    assert loudest.tolist() == [50.0 * k for k in range(1, 21)]
    at = {f: p for f, p in zip(frequencies, power, strict=True)}
    assert at[100.0] / at[50.0] == pytest.approx(1 / 4, rel=1e-3)
    assert at[500.0] / at[50.0] == pytest.approx(1 / 100, rel=1e-3)
    assert at[75.0] < 1e-6 * at[1000.0]


def test_hum_stays_below_half_a_low_sample_rate():
    frequencies, power = power_spectrum(hum(1000, 1000, np.random.default_rng(1)), 1000)
    assert frequencies[power > 1e-3 * power.max()].max() <= 500


def test_babble_gives_every_voice_the_same_share():
    pitches = (200, 320, 440, 560, 680, 800)
    voices = [
        10.0**-k * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE).astype(np.float32)
        for k, pitch in enumerate(pitches)
    ]
    wave = babble(voices, 3 * RATE, np.random.default_rng(2))
    shares = [band_power_db(wave, pitch - 5, pitch + 5) for pitch in pitches]
    assert np.ptp(shares) < 0.2


def test_speech_shaped_noise_falls_like_speech_and_has_its_rhythm():
    wave = speech_shaped(20 * RATE, RATE, np.random.default_rng(4))
    density = [band_power_db(wave, low, 2 * low) - 10 * np.log10(low) for low in (1000, 2000, 4000)]
    assert np.diff(density) == pytest.approx([-9, -9], abs=0.5)
    blocks = wave[: 200 * 1600].reshape(200, 1600).std(axis=1)
    assert blocks.max() > 4 * blocks.min()


def test_a_recording_is_repeated_from_a_random_place_with_sound():
    recording = np.zeros(10, dtype=np.float32)
    recording[6:] = (1, 2, 3, 4)
    for seed in range(20):
        taken = loop(recording, 25, np.random.default_rng(seed))
        assert taken[0] != 0
        assert np.array_equal(taken[10:20], taken[:10])
        assert sorted(taken[:10].tolist()) == sorted(recording.tolist())


def test_silence_and_unequal_lengths_are_refused():
    silence, speech = np.zeros(100, dtype=np.float32), np.ones(100, dtype=np.float32)
    generator = np.random.default_rng(0)
    with pytest.raises(InputError, match="digital silence cannot serve as noise"):
        loop(silence, 10, generator)
    with pytest.raises(InputError, match="digital silence cannot serve as noise"):
        babble([speech, silence], 10, generator)
    with pytest.raises(InputError, match="the noise is digital silence"):
        mix(speech, silence, 0)
    with pytest.raises(InputError, match="the speech is digital silence"):
        mix(silence, speech, 0)
    with pytest.raises(InputError, match="50 samples of noise for 100 of speech"):
        mix(speech, speech[:50], 0)
