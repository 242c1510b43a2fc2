"""Noise that is added to speech: makers of it, and the mixing at a signal-to-noise ratio.

Every maker takes a NumPy generator, so that equal generators give equal noise, and gives noise of
any level: :func:`mix` sets it. The ratio is taken over the whole utterance, pauses included, from
mean squares: ``10 log10(P_speech / P_noise)``. The speech keeps its level, and nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

__all__ = ["babble", "hum", "loop", "mix", "pink", "speech_shaped", "white"]

Noise = NDArray[np.float32]

LOWEST_HZ = 20.0  # pink noise has as much power per octave below hearing as in it
MAINS_HZ = 50.0
HIGHEST_HUM_HZ = 1_000.0
FLAT_UNTIL_HZ = 500.0  # the long-term spectrum of speech, roughly
FALL_DB_PER_OCTAVE = 9.0
SYLLABLES_HZ = (2.0, 8.0)
DEEPEST_PAUSE = 0.1  # of the mean amplitude
SHORTEST_ENVELOPE_S = 4.0  # so that some of its frequencies lie between those of syllables


def white(n_samples: int, generator: np.random.Generator) -> Noise:
    """Make noise of equal power per hertz, ``(n_samples,)``."""
    return generator.standard_normal(n_samples).astype(np.float32)


def pink(n_samples: int, sample_rate: int, generator: np.random.Generator) -> Noise:
    """Make noise of equal power per octave (``1/f``) from 20 Hz up, ``(n_samples,)``."""
    frequencies = np.fft.rfftfreq(n_samples, 1 / sample_rate)
    heard = frequencies >= LOWEST_HZ
    gains = np.where(heard, 1 / np.sqrt(np.maximum(frequencies, LOWEST_HZ)), 0.0)
    return _shaped(n_samples, gains, generator)


def hum(n_samples: int, sample_rate: int, generator: np.random.Generator) -> Noise:
    """Make mains hum, ``(n_samples,)``: 50 Hz and its harmonics up to 1 kHz.

    The amplitude of the k-th harmonic is ``1/k``, its phase random.
    """
    times = np.arange(n_samples) / sample_rate
    highest = min(HIGHEST_HUM_HZ, sample_rate / 2)
    harmonics = np.arange(1, int(highest // MAINS_HZ) + 1)
    wave = np.zeros(n_samples)
    for k, phase in zip(harmonics, generator.uniform(0, 2 * np.pi, len(harmonics)), strict=True):
        wave += np.sin(2 * np.pi * k * MAINS_HZ * times + phase) / k
    return wave.astype(np.float32)


def babble(voices: Sequence[Noise], n_samples: int, generator: np.random.Generator) -> Noise:
    """Sum voices of equal level, each begun somewhere and repeated, ``(n_samples,)``.

    Parameters
    ----------
    voices
        Waveforms with sound in them, at one sample rate.

    Raises
    ------
    InputError
        If a voice is silent.
    """
    total = np.zeros(n_samples)
    for voice in voices:
        repeated = loop(voice, n_samples, generator)  # refuses a silent one
        total += repeated / np.sqrt(_power(voice))
    return total.astype(np.float32)


def speech_shaped(n_samples: int, sample_rate: int, generator: np.random.Generator) -> Noise:
    """Make noise with the long-term spectrum and the syllable rhythm of speech in general.

    The spectrum is flat to 500 Hz and falls by 9 dB per octave above; the amplitude follows
    random noise between 2 and 8 Hz. It holds nobody's voice.
    """
    frequencies = np.fft.rfftfreq(n_samples, 1 / sample_rate)
    octaves = np.log2(np.maximum(frequencies, FLAT_UNTIL_HZ) / FLAT_UNTIL_HZ)
    gains = np.where(frequencies >= LOWEST_HZ, 10 ** (-FALL_DB_PER_OCTAVE * octaves / 20), 0.0)
    carrier = _shaped(n_samples, gains, generator)
    n_envelope = max(n_samples, round(SHORTEST_ENVELOPE_S * sample_rate))
    slow = np.fft.rfftfreq(n_envelope, 1 / sample_rate)
    band = ((slow >= SYLLABLES_HZ[0]) & (slow <= SYLLABLES_HZ[1])).astype(float)
    rhythm = _shaped(n_envelope, band, generator)
    envelope = np.maximum(1 + rhythm / np.sqrt(_power(rhythm)), DEEPEST_PAUSE)
    noise: Noise = (carrier * envelope[:n_samples]).astype(np.float32)
    return noise


def loop(noise: Noise, n_samples: int, generator: np.random.Generator) -> Noise:
    """Take ``n_samples`` of a recording from a random place on, beginning again at its end.

    The place is one with sound, so that a recording full of pauses gives no silence.

    Raises
    ------
    InputError
        If the recording is silent.
    """
    places = np.flatnonzero(noise)
    if not len(places):
        raise InputError("digital silence cannot serve as noise: leave the recording out")
    start = int(places[generator.integers(len(places))])
    return np.resize(np.roll(noise, -start), n_samples)


def mix(speech: Noise, noise: Noise, snr_db: float) -> Noise:
    """Add noise to speech at a signal-to-noise ratio in dB, over the whole of both.

    Parameters
    ----------
    speech, noise : (n_samples,)
    snr_db
        Of the mean squares.

    Returns
    -------
    noisy : (n_samples,), float32; samples may lie beyond [-1, 1]

    Raises
    ------
    InputError
        If the lengths differ, or speech or noise is silent.
    """
    if len(speech) != len(noise):
        raise InputError(f"{len(noise)} samples of noise for {len(speech)} of speech: cut to equal")
    for name, wave in (("speech", speech), ("noise", noise)):
        if not np.any(wave):
            raise InputError(f"the {name} is digital silence, which has no signal-to-noise ratio")
    gain = np.sqrt(_power(speech) / (_power(noise) * 10 ** (snr_db / 10)))
    noisy: Noise = (speech + gain * noise).astype(np.float32)
    return noisy


def _power(wave: Noise) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64)))


def _shaped(n_samples: int, gains: NDArray[np.float64], generator: np.random.Generator) -> Noise:
    """Shape white noise by one gain per frequency of its Fourier transform."""
    spectrum = np.fft.rfft(generator.standard_normal(n_samples))
    shaped: Noise = np.fft.irfft(spectrum * gains, n_samples).astype(np.float32)
    return shaped
