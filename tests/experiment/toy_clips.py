"""Clips made of numbers in which every stream knows a part of the label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from serkit.clip_data import ClipData, Frames

N_AUDIO, N_VISION = 4, 6


def toy_clips(n: int = 96, *, seed: int = 0, missing: float = 0.1, **changes: Any) -> ClipData:
    """Make clips whose label is the sum of three parts: of the words, the voice and the face.

    The word says its part in a letter; the frames of voice and face have it as their mean, among
    noise. Videos hold four clips.
    """
    rng = np.random.default_rng(seed)
    parts_of_label = rng.choice([-1.0, -0.5, 0.5, 1.0], size=(n, 3)) / 3
    present = rng.random((n, 3)) >= missing
    present[~present.any(1), 0] = True
    parts_of_label *= present
    letters = {-1: "awful", -0.5: "poor", 0.5: "good", 1: "great"}
    texts = [
        letters[round(float(3 * value), 1)] if there else ""
        for value, there in zip(parts_of_label[:, 0], present[:, 0], strict=True)
    ]
    audio, has_audio = _stream(rng, parts_of_label[:, 1], present[:, 1], N_AUDIO)
    vision, has_vision = _stream(rng, parts_of_label[:, 2], present[:, 2], N_VISION)
    data = ClipData(
        ids=tuple(f"video{i // 4:03d}$_${i % 4:04d}" for i in range(n)),
        parts=tuple(("train", "train", "train", "dev", "test")[i // 4 % 5] for i in range(n)),
        groups=tuple(f"video{i // 4:03d}" for i in range(n)),
        texts=tuple(texts),
        audio=audio,
        vision=vision,
        present=np.stack([present[:, 0], has_audio, has_vision], axis=1),
        labels={"M": parts_of_label.sum(1), **dict(zip("TAV", parts_of_label.T, strict=True))},
        annotations=tuple(
            "Positive" if value > 0 else "Negative" for value in parts_of_label.sum(1)
        ),
        settings={"acoustic": "toy4", "vision": "toy6"},
    )
    return replace(data, **changes)


def _stream(
    rng: np.random.Generator, levels: np.ndarray, present: np.ndarray, width: int
) -> tuple[Frames, np.ndarray]:
    rows = []
    for level, there in zip(levels, present, strict=True):
        frames = rng.normal(size=(int(rng.integers(3, 12)), width)) / 4 + 7
        frames[:, 0] += 6 * level
        rows.append(frames.astype(np.float32) if there else np.zeros((0, width), np.float32))
    return Frames.of(rows, names=[f"column{i}" for i in range(width)])
