"""Features made different: warped in time, with bands and stretches erased, or replaced.

:func:`spec_augment` is SpecAugment (Park et al., Interspeech 2019, arXiv 1904.08779), its masks
bounded by shares of the features' width and length; :func:`spec_sub` is SpecSub (Wu et al., U2++,
arXiv 2106.05642), which overwrites stretches with what was said before them. Both are functions of
one utterance's features and a NumPy generator; lengths stay, and what is too short to be warped or
masked stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

__all__ = ["SpecAugmentSettings", "SpecSubSettings", "spec_augment", "spec_sub"]

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecAugmentSettings:
    """How much :func:`spec_augment` changes; widths are drawn up to the largest, from nothing.

    Attributes
    ----------
    max_warp
        Frames by which a moment moves; one side of it is drawn out, the other pushed together.
    n_freq_masks, max_freq_share
        Erased ranges of bands, and their largest share of all bands.
    n_time_masks, max_time_share
        Erased stretches, and their largest share of all frames.
    fill
        What is put in their place: the mean of the utterance's features, or 0.
    """

    max_warp: NonNegativeInt = 5
    n_freq_masks: NonNegativeInt = 2
    max_freq_share: Share = 0.15
    n_time_masks: NonNegativeInt = 2
    max_time_share: Share = 0.05
    fill: Literal["mean", "zero"] = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecSubSettings:
    """How much :func:`spec_sub` changes: number of substitutions, largest length in frames."""

    n_substitutions: NonNegativeInt = 3
    max_frames: PositiveInt = 30


def spec_augment(
    features: Tensor,
    generator: np.random.Generator,
    *,
    settings: SpecAugmentSettings | None = None,
) -> Tensor:
    """Warp features in time, and erase ranges of bands and stretches of time.

    Parameters
    ----------
    features : (n_frames, n_features), of one utterance, without padding
    settings
        The defaults if none are given.

    Returns
    -------
    changed : (n_frames, n_features)
    """
    settings = settings or SpecAugmentSettings()
    if not features.numel():
        return features
    fill = features.mean() if settings.fill == "mean" else features.new_zeros(())
    features = _warped(features, generator, settings.max_warp).clone()
    n_frames, n_features = features.shape
    for _ in range(settings.n_freq_masks):
        first, end = _range(n_features, settings.max_freq_share, generator)
        features[:, first:end] = fill
    for _ in range(settings.n_time_masks):
        first, end = _range(n_frames, settings.max_time_share, generator)
        features[first:end] = fill
    return features


def spec_sub(
    features: Tensor, generator: np.random.Generator, *, settings: SpecSubSettings | None = None
) -> Tensor:
    """Overwrite stretches of frames with earlier ones of the same utterance.

    Parameters
    ----------
    features : (n_frames, n_features), of one utterance, without padding
    settings
        The defaults if none are given.

    Returns
    -------
    changed : (n_frames, n_features)
    """
    settings = settings or SpecSubSettings()
    n_frames = len(features)
    if n_frames < 2:
        return features
    changed = features.clone()
    for _ in range(settings.n_substitutions):
        first = int(generator.integers(1, n_frames))
        n = int(generator.integers(1, settings.max_frames + 1))
        n = min(n, n_frames - first)
        source = first - int(generator.integers(1, first + 1))
        changed[first : first + n] = features[source : source + n]
    return changed


def _range(size: int, max_share: float, generator: np.random.Generator) -> tuple[int, int]:
    """Draw a range of at most a share of ``size``; it may be empty."""
    n = int(generator.integers(int(max_share * size) + 1))
    first = int(generator.integers(size - n + 1))
    return first, first + n


def _warped(features: Tensor, generator: np.random.Generator, max_warp: int) -> Tensor:
    """Move a moment by up to ``max_warp`` frames; less where the utterance is too short for it."""
    n_frames = len(features)
    reach = min(max_warp, (n_frames - 2) // 2)  # either side keeps a frame
    if reach < 1:
        return features
    moment = int(generator.integers(reach + 1, n_frames - reach))
    moved = moment + int(generator.integers(-reach, reach + 1))
    left, right = features[:moment], features[moment:]
    return torch.cat([_stretched(left, moved), _stretched(right, n_frames - moved)])


def _stretched(features: Tensor, n_frames: int) -> Tensor:
    """Resample frames by linear interpolation, ``(n, n_features) -> (n_frames, n_features)``."""
    if len(features) == n_frames:
        return features
    return F.interpolate(features.T.unsqueeze(0), size=n_frames, mode="linear")[0].T
