"""A corpus of which voice and words tell one half of the label each.

Four classes: a high or a low tone, with words of the list a or b. Who only listens, or only reads,
cannot tell more than two groups of two classes apart: 50 % UAR.
"""

from __future__ import annotations

import csv
from pathlib import Path

import soundfile

from tests_support import SPEAKERS, tone

RATE = 16_000
PITCH_HZ = {"high": 440.0, "low": 150.0}
WORDS = {
    "a": ("Hello world!", "Hello again, world.", "Hello, hello again."),
    "b": ("What is the problem?", "[SIGH] I know the problem.", "I know what is the problem."),
}


def spoken_tones(folder: Path, *, n_takes: int = 3) -> Path:
    """Write the sounds and a manifest of 4 speakers x 4 classes; gives the manifest."""
    rows, seed = [], 0
    for pitch, hertz in PITCH_HZ.items():
        for words, texts in WORDS.items():
            for number, speaker in enumerate(SPEAKERS):
                for take in range(n_takes):
                    seed += 1
                    name = f"{pitch}-{words}-{speaker}-{take}"
                    factor, seconds = 1 + 0.05 * number + 0.02 * take, 0.2 + 0.03 * take
                    wave = tone(hertz * factor, seconds=seconds, rate=RATE, seed=seed)
                    soundfile.write(folder / f"{name}.wav", wave, RATE)
                    text = texts[take % len(texts)]
                    rows.append([name, f"{name}.wav", "tones", f"{pitch}-{words}", speaker, text])
    path = folder / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "corpus", "label", "speaker", "transcript"])
        writer.writerows(rows)
    return path
