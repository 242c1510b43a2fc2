"""Clips made of numbers in which every stream knows a part of the label."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serkit.clip_data import ClipData, Frames
from serkit.experiment.sentiment.run import SentimentConfig
from serkit.experiment.tasks import load_task

N_AUDIO, N_VISION = 4, 6

SMALL = (
    "split.kind=official",
    "seeds=[1, 2]",
    "training.epochs=12",
    "training.batch_size=16",
    "training.save_every_s=0",
    "text.n_features=16",
)


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


EMOTIONS = ("angry", "happy", "sad")
_SHIFTS = {"angry": (6.0, 0.0), "happy": (0.0, 6.0), "sad": (-4.0, -4.0)}


def toy_emotions(n: int = 96, *, seed: int = 0, missing: float = 0.1, **changes: Any) -> ClipData:
    """Make clips that show an emotion, in most of their streams; no clip has a number.

    In a fifth of the clips one stream shows another emotion, and ``stream_annotations`` says so.
    """
    data = toy_clips(n, seed=seed, missing=missing)
    rng = np.random.default_rng((seed, 1))
    meant = [EMOTIONS[i % len(EMOTIONS)] for i in range(n)]
    shown = {stream: list(meant) for stream in "TAV"}
    for row in rng.permutation(n)[: n // 5]:
        shown["TAV"[rng.integers(3)]][row] = EMOTIONS[rng.integers(3)]
    words = {"angry": "outrage", "happy": "lovely", "sad": "gloomy"}
    texts = [
        words[name] if there else ""
        for name, there in zip(shown["T"], data.present[:, 0], strict=True)
    ]
    audio, vision = (
        _shifted(frames, shown[stream], data.present[:, column])
        for stream, column, frames in (("A", 1, data.audio), ("V", 2, data.vision))
    )
    found = replace(
        data,
        texts=tuple(texts),
        audio=audio,
        vision=vision,
        labels={"M": np.full(n, np.nan)},
        annotations=tuple(name.capitalize() for name in meant),
        stream_annotations={stream: tuple(names) for stream, names in shown.items()},
        speakers=tuple(f"speaker{i // 4 % 6}" for i in range(n)),
    )
    return replace(found, **changes)


def _shifted(frames: Frames, names: list[str], present: np.ndarray) -> Frames:
    rows = []
    for frame, name, there in zip(frames.rows(), names, present, strict=True):
        moved = frame.copy()
        moved[:, 0] = 0
        moved[:, :2] += np.array(_SHIFTS[name], np.float32) if there else 0
        rows.append(moved)
    return Frames.of(rows, names=frames.names)[0]


def small_experiment(data: Path | str, *overrides: str, preset: str) -> SentimentConfig:
    """Load a preset with settings that toy clips are learned with in seconds."""
    settings = [f"data={json.dumps(str(data))}", *SMALL, *overrides]
    loaded = load_task(preset, overrides=settings)
    assert isinstance(loaded, SentimentConfig)
    return loaded


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV of a run folder."""
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def read_metrics(run: Path) -> dict[str, Any]:
    """Read what a run scored."""
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))
