"""Members of a small cross-validation whose folds differ in size."""

from __future__ import annotations

import numpy as np
import torch

from serkit.features.cache import ExtractedFeatures
from serkit.recognizer import RecognizerConfig
from serkit.training.config import TrainingConfig
from serkit.training.data import write_data
from serkit.training.member import Member
from serkit.training.objectives import Term
from serkit.types import Fold


def pieces(features, owners=None) -> ExtractedFeatures:
    """Features of pieces that are all of one length; by default one piece per utterance."""
    n, n_frames = features.shape[:2]
    owners = np.arange(n) if owners is None else np.asarray(owners)
    return ExtractedFeatures(
        features.reshape(n * n_frames, -1),
        np.full(n, n_frames),
        owners,
        audio_hashes={},
        durations_s={},
        n_cached=0,
    )


def recognizer_config(
    *, dropout: float = 0.0, normalise: str = "none", n_scales: int = 3
) -> RecognizerConfig:
    return RecognizerConfig(
        system="TIM-Net",
        classes=("happy", "sad"),
        view={"kind": "fixed", "n_samples": 8192},
        front_end={"name": "mfcc", "preset": "timnet-code"},
        model={"name": "timnet", "n_scales": n_scales, "dropout": dropout},
        normalise=normalise,
    )


def training(**changes) -> TrainingConfig:
    settings = {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "save_every_s": 0}
    return TrainingConfig(**(settings | changes))


def members(
    folder,
    settings: TrainingConfig,
    *,
    test_sizes=(4, 9, 15, 22),
    dropout: float = 0.0,
    normalise: str = "none",
    n_scales: int = 3,
    n_frames: int = 17,
    gap: float = 1.0,
) -> list[Member]:
    """One member per test size, over utterances whose mean tells the class by a gap.

    Features have torch's default precision.
    """
    n = sum(test_sizes)
    rng = np.random.default_rng(0)
    emotion = np.arange(n) % 2
    features = rng.standard_normal((n, n_frames, 39)) + gap * emotion[:, None, None]
    precision = np.float32 if torch.get_default_dtype() == torch.float32 else np.float64
    ids = [f"u{i}" for i in range(n)]
    data = write_data(
        folder / ".data",
        ids,
        training=pieces(features.astype(precision)),
        emotion=emotion,
    )
    cohort, first = [], 0
    for number, size in enumerate(test_sizes):
        test = ids[first : first + size]
        rest = [i for i in ids if i not in set(test)]
        first += size
        fold = Fold(
            name=f"fold{number}", train=tuple(rest[6:]), dev=tuple(rest[:6]), test=tuple(test)
        )
        cohort.append(
            Member(
                recognizer_config(dropout=dropout, normalise=normalise, n_scales=n_scales),
                settings,
                (Term(label_smoothing=0.1),),
                fold,
                1,
                folder / "members" / f"{fold.name}-seed1",
                data,
            )
        )
    return cohort
