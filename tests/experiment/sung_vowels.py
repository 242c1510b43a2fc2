"""A corpus in which what is said, when, how high and by whom are independent of each other.

Utterances are vowels of random kinds and lengths between silences, sung on a random melody; each
voice has a colour of its own. So each of the four codes of a decomposition has one thing to carry,
and what an utterance lost without it can be measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiment.sung_syllables import RATE, write_sung

COLOURS = {"ann": 0.2, "bea": 0.5, "cem": 0.8, "dan": 1.1}  # how fast harmonics fall off

# Of a, i, u and e: what a vocal tract resonates at, in Hz, with the width and strength of either.
_FORMANTS_HZ = np.array([(800, 1300), (300, 2400), (320, 800), (500, 1900)], dtype=np.float64)
_WIDTHS_HZ, _STRENGTHS = (120.0, 180.0), (1.0, 0.8)
_GLIDE = RATE // 40  # samples from one vowel to the next


def sing(seed: int, *, colour: float, seconds: float = 1.3) -> NDArray[np.float32]:
    """Sing one utterance, (n_samples,); the same seed is the same utterance in any colour."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    f0 = 220 * 2 ** np.interp(t, np.linspace(0, seconds, 4), rng.uniform(-0.4, 0.4, 4))
    loud, vowel, at = np.zeros(n), np.zeros(n, dtype=int), rng.uniform(0.05, 0.2)
    while at < seconds - 0.1:
        length = rng.uniform(0.12, 0.4)
        inside = (t > at) & (t < at + length)
        loud[inside] = np.sin(np.pi * (t[inside] - at) / length) ** 0.3
        vowel[t > at - 0.03] = rng.integers(len(_FORMANTS_HZ))
        at += length + rng.uniform(0.06, 0.25)
    glide = np.full(_GLIDE, 1 / _GLIDE)
    padded = np.pad(_FORMANTS_HZ[vowel], ((_GLIDE // 2, _GLIDE - 1 - _GLIDE // 2), (0, 0)), "edge")
    tracks = [np.convolve(track, glide, "valid") for track in padded.T]
    wave, phase = np.zeros(n), 2 * np.pi * np.cumsum(f0) / RATE
    for k in range(1, 25):
        resonance = sum(
            strength / (1 + ((k * f0 - track) / width) ** 2)
            for track, width, strength in zip(tracks, _WIDTHS_HZ, _STRENGTHS, strict=True)
        )
        below = k * f0 < 0.47 * RATE
        wave += np.where(below, (resonance + 0.01) / k**colour, 0) * np.sin(k * phase)
    hiss = 0.0005 * rng.standard_normal(n)
    return (0.5 * wave / np.abs(wave).max() * loud + hiss).astype(np.float32)


def vowel_corpus(folder: Path, *, n_each: int) -> Path:
    """Write the sounds and a manifest without labels; gives the manifest."""
    waves = {
        speaker: [sing(1000 * number + take, colour=colour) for take in range(n_each)]
        for number, (speaker, colour) in enumerate(COLOURS.items())
    }
    return write_sung(folder, "vowels", waves)
