"""A corpus in which timing and melody are independent of each other, and audible.

Utterances are tones of random lengths between silences, on a random melody; each speaker has a
colour of his own. Nothing is said, so there is no content.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
COLOURS = {"ann": 0.4, "bea": 0.6, "cem": 0.8, "dan": 1.0}  # how fast harmonics fall off


def syllables(seed: int, *, colour: float, seconds: float = 1.3) -> np.ndarray:
    """Sing one utterance, (n_samples,), float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    f0 = 350 * 2 ** np.interp(t, np.linspace(0, seconds, 4), rng.uniform(-0.4, 0.4, 4))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    wave = sum(np.sin(k * phase) / k**colour for k in range(1, 7))
    loud, at = np.zeros(len(t)), rng.uniform(0.05, 0.2)
    while at < seconds - 0.1:
        length = rng.uniform(0.15, 0.45)
        inside = (t > at) & (t < at + length)
        loud[inside] = np.sin(np.pi * (t[inside] - at) / length) ** 0.3
        at += length + rng.uniform(0.1, 0.3)
    return (0.1 * wave * loud + 0.0003 * rng.standard_normal(len(t))).astype(np.float32)


def sung_corpus(folder: Path, *, n_each: int = 4) -> Path:
    """Write the sounds and a manifest without labels; gives the manifest."""
    waves = {
        speaker: [syllables(100 * number + take, colour=colour) for take in range(n_each)]
        for number, (speaker, colour) in enumerate(COLOURS.items())
    }
    return write_sung(folder, "sung", waves)


def write_sung(folder: Path, corpus: str, waves: Mapping[str, Sequence[np.ndarray]]) -> Path:
    """Write what each speaker sings, and a manifest without labels; gives the manifest."""
    path = folder / f"{corpus}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "corpus", "label", "speaker"])
        for speaker, own in waves.items():
            for take, wave in enumerate(own):
                name = f"{speaker}{take}"
                soundfile.write(folder / f"{name}.wav", wave, RATE)
                writer.writerow([name, f"{name}.wav", corpus, "", speaker])
    return path
