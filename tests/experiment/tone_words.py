"""Words whose letters are tones: speech that a small recogniser learns in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

LETTERS = {"a": 300, "e": 700, "k": 1_500, "o": 3_000}  # Hz
RATE = 16_000


def say(text: str, *, seed: int = 0) -> np.ndarray:
    """Sound a text: 120 ms per letter, with a gap of 40 ms; a space is a longer gap."""
    generator = np.random.default_rng(seed)
    silence = np.zeros(640)
    pieces = [silence]
    for char in text:
        if char == " ":
            pieces.append(np.zeros(3_000))
            continue
        at = np.arange(1_920) / RATE
        pieces += [0.2 * np.sin(2 * np.pi * LETTERS[char] * at), silence]
    sound = np.concatenate([*pieces, np.zeros(1_600)])
    return (sound + 0.002 * generator.standard_normal(len(sound))).astype(np.float32)


def texts(n: int, *, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        words = [
            "".join(generator.choice(list(LETTERS), size=generator.integers(2, 4)))
            for _ in range(2)
        ]
        found[" ".join(words)] = None
    return list(found)


def manifest(folder: Path, n: int = 60, *, name: str = "tones.jsonl", speakers: int = 3) -> Path:
    """Write sound and a table in the form of MASR, with a speaker."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, text in enumerate(texts(n)):
        sound = say(text, seed=number)
        soundfile.write(folder / f"u{number:03d}.wav", sound, RATE, subtype="PCM_16")
        row = {
            "audio_filepath": f"u{number:03d}.wav",
            "text": text,
            "duration": len(sound) / RATE,
        }
        if speakers:
            row["speaker"] = f"s{number % speakers}"
        lines.append(json.dumps(row))
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name
