"""Sounds and settings that several tests share."""

from __future__ import annotations

import numpy as np

SPEAKERS = ("ann", "bob", "cem", "dee")
PITCH_HZ = {"happy": 440.0, "sad": 150.0}
RATE = 22_050


def tone(frequency_hz: float, *, seconds: float = 0.4, rate: int = RATE, seed: int = 0):
    """Harmonics with a slow tremolo and a little noise, float32 in [-1, 1]."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * k * frequency_hz * t) / k for k in (1, 2, 3))
    wave = 0.2 * wave * (1 + 0.3 * np.sin(2 * np.pi * 5 * t)) + 0.01 * rng.standard_normal(len(t))
    return wave.astype(np.float32)


TINY_EXPERIMENT = """
base = "timnet/speaker-independent"
name = "tones"
seeds = [1]

[corpus]
name = "folder"
root = "{root}"

[view]
n_samples = 8192

[model]
n_scales = 3

[training]
epochs = 4
batch_size = 8
learning_rate = 5e-3
min_epochs = 1
save_every_s = 0
"""
