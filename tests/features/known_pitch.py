"""Speech-like sound whose fundamental frequency is known at every sample.

A voice is the sum of the harmonics of a gliding F0 with jitter and shimmer, 12 dB less per octave,
sent through the resonances of one vowel that turns into another, with some breath. Voiced stretches
are divided by hisses (noise of one resonance) and by silence; noise is added to the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from serkit.noise import mix, pink, speech_shaped, white

RATE = 16_000
F0_HZ = {"male": (75.0, 220.0), "female": (140.0, 450.0)}  # base F0 lies in the middle of these
FORMANT_SCALE = {"male": 1.0, "female": 1.17}
VOWELS_HZ = (
    (730, 1090, 2440, 3400), (270, 2290, 3010, 3600), (300, 870, 2240, 3300),
    (530, 1840, 2480, 3500), (570, 840, 2410, 3300), (490, 1350, 1690, 3300),
)  # fmt: skip
BANDWIDTHS_HZ = (70.0, 90.0, 130.0, 200.0)
NOISES = ("white", "pink", "speech_shaped")
RAMP_S = 0.012  # a voice begins and ends within


@dataclass(frozen=True)
class KnownPitch:
    """A waveform and its F0 in Hz at every sample, 0 where there is no voice."""

    waveform: NDArray[np.float32]
    f0_hz: NDArray[np.float64]

    def at_frames(self, hop_length: int) -> NDArray[np.float64]:
        """F0 at the centres of frames, ``(n_samples // hop_length + 1,)``."""
        return np.append(self.f0_hz, 0.0)[: len(self.f0_hz) + 1 : hop_length]


def known_pitch(
    gender: str, snr_db: float | None, *, seed: int, seconds: float = 2.5
) -> KnownPitch:
    """Make one utterance; ``snr_db`` of noise whose kind is drawn, ``None``: none."""
    rng = np.random.default_rng([seed, list(F0_HZ).index(gender)])
    sounds, contours = [np.zeros(int(RATE * rng.uniform(0.1, 0.3)))], []
    contours.append(np.zeros(len(sounds[0])))
    while sum(map(len, sounds)) < RATE * seconds:
        level = 10 ** (rng.uniform(-12, 0) / 20)
        voice, f0_hz = _voice(gender, rng)
        gap = _hiss(rng) if rng.random() < 0.6 else np.zeros(int(RATE * rng.uniform(0.05, 0.35)))
        sounds += [level * voice, level * gap]
        contours += [f0_hz, np.zeros(len(gap))]
    sound, f0_hz = np.concatenate(sounds), np.concatenate(contours)
    sound = (0.3 * sound / np.abs(sound).max()).astype(np.float32)
    kind = NOISES[rng.integers(len(NOISES))]
    if snr_db is not None:
        sound = mix(sound, _noise(kind, len(sound), rng), snr_db)
    return KnownPitch(sound, f0_hz)


def _noise(kind: str, n_samples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    if kind == "white":
        return white(n_samples, rng)
    return {"pink": pink, "speech_shaped": speech_shaped}[kind](n_samples, RATE, rng)


def _voice(
    gender: str, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make one voiced stretch of 0.12 to 0.8 s and its F0."""
    n_samples = int(RATE * rng.uniform(0.12, 0.8))
    f0_hz = _glide(n_samples, gender, rng)
    jitter = np.exp(rng.uniform(0.002, 0.01) * _per_period(f0_hz, rng))
    shimmer = np.exp(rng.uniform(0.02, 0.1) * _per_period(f0_hz, rng))
    phase = 2 * np.pi * np.cumsum(f0_hz * jitter) / RATE
    tilt = rng.uniform(1.5, 2.2)  # 9 to 13 dB per octave
    source = np.zeros(n_samples)
    for k in range(1, int(RATE / 2 / f0_hz.min()) + 1):
        source += np.where(k * f0_hz * 1.03 < RATE / 2, np.sin(k * phase) / k**tilt, 0.0)
    source *= shimmer
    breath = lfilter([1.0, -0.9], [1.0], rng.standard_normal(n_samples))
    breath *= 1 + 0.5 * np.sin(phase)
    source += 10 ** (rng.uniform(-45, -25) / 20) * source.std() * breath
    first, second = rng.choice(len(VOWELS_HZ), 2, replace=False)
    blend = np.linspace(0, 1, n_samples)
    scale = FORMANT_SCALE[gender] * rng.uniform(0.92, 1.08)
    voice = (1 - blend) * _vowel(source, first, scale) + blend * _vowel(source, second, scale)
    return voice / np.abs(voice).max() * _envelope(n_samples, rng), f0_hz


def _glide(n_samples: int, gender: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a smooth contour through four places within the voice's range, with a vibrato."""
    low, high = np.log(F0_HZ[gender])
    middle = rng.uniform(0.25, 0.75)
    places = np.clip(middle + rng.uniform(0.05, 0.3) * rng.standard_normal(4), 0, 1)
    t = np.linspace(0, 3, n_samples)
    weights = np.sin(0.5 * np.pi * (t - np.floor(t))) ** 2  # smooth steps between the places
    left = np.minimum(np.floor(t).astype(int), 2)
    weights = np.where(t >= 3, 1.0, weights)
    contour = places[left] * (1 - weights) + places[left + 1] * weights
    vibrato = rng.uniform(0, 0.02) * np.sin(2 * np.pi * 5.5 * np.arange(n_samples) / RATE)
    return np.exp(low + contour * (high - low) + vibrato)


def _per_period(f0_hz: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw one standard normal number per period, held through it."""
    period = np.cumsum(f0_hz / RATE).astype(int)
    return rng.standard_normal(period[-1] + 1)[period]


def _vowel(source: NDArray[np.float64], vowel: int, scale: float) -> NDArray[np.float64]:
    for formant_hz, bandwidth_hz in zip(VOWELS_HZ[vowel], BANDWIDTHS_HZ, strict=True):
        source = _resonance(source, scale * formant_hz, bandwidth_hz)
    return source / source.std()


def _resonance(
    source: NDArray[np.float64], centre_hz: float, bandwidth_hz: float
) -> NDArray[np.float64]:
    radius = np.exp(-np.pi * bandwidth_hz / RATE)
    pole = -2 * radius * np.cos(2 * np.pi * centre_hz / RATE)
    return lfilter([1 + pole + radius**2], [1.0, pole, radius**2], source)


def _hiss(rng: np.random.Generator) -> NDArray[np.float64]:
    n_samples = int(RATE * rng.uniform(0.05, 0.18))
    hiss = _resonance(rng.standard_normal(n_samples), rng.uniform(1800, 6500), 1500.0)
    level = 10 ** (rng.uniform(-25, -6) / 20)
    return level * hiss / np.abs(hiss).max() * _envelope(n_samples, rng)


def _envelope(n_samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rise and fall by a raised cosine, and swell by up to 6 dB in between."""
    ramp = int(RATE * RAMP_S)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(ramp) + 1) / (ramp + 1))
    swell = 10 ** (rng.uniform(-6, 6) * np.linspace(0, 1, n_samples) / 20)
    swell[:ramp] *= rise
    swell[-ramp:] *= rise[::-1]
    return swell / swell.max()
