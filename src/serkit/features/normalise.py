"""Feature normalisation between front end and model.

* ``none``: as the front end gives them (TIM-Net as published: raw decibel-scale cepstra).
* ``utterance``: zero mean, unit variance per utterance and coefficient; takes away loudness.
* ``train``: zero mean, unit variance with statistics of the *training part of the fold* alone; they
  are saved with the weights.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from serkit.types import InputError

__all__ = ["FeatureNorm", "Normalise", "PitchNorm"]

Normalise = Literal["none", "utterance", "train"]

_MIN_STD = 1e-5  # a constant coefficient (padding, silence) stays 0 instead of exploding


class FeatureNorm(nn.Module):
    """One of the three kinds above; padding frames stay zero.

    Raises
    ------
    InputError
        If ``kind`` is none of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: Normalise, n_features: int) -> None:
        super().__init__()
        if kind not in get_args(Normalise):
            raise InputError(
                f"normalise is {kind!r}, expected one of {', '.join(get_args(Normalise))}"
            )
        self.kind = kind
        if kind == "train":
            self.register_buffer("mean", torch.zeros(n_features))
            self.register_buffer("std", torch.ones(n_features))

    @torch.no_grad()
    def fit(self, features: Tensor, n_frames: Tensor) -> None:
        """Take the statistics of the training part; without effect for the other kinds.

        Parameters
        ----------
        features : (n_utterances, n_frames, n_features)
        n_frames : (n_utterances,)
        """
        if self.kind != "train":
            return
        valid = torch.arange(features.shape[1], device=features.device) < n_frames.unsqueeze(1)
        frames = features[valid].double()
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0, correction=0).clamp_min(_MIN_STD))

    def forward(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Normalise ``(batch, n_frames, n_features)``."""
        if self.kind == "none":
            return features
        valid = torch.arange(features.shape[1], device=features.device) < n_frames.unsqueeze(1)
        valid = valid.unsqueeze(2)
        if self.kind == "train":
            mean, std = self.mean, self.std
        else:
            count = n_frames.view(-1, 1, 1).to(features.dtype)
            mean = (features * valid).sum(1, keepdim=True) / count
            spread = ((features - mean) * valid).square().sum(1, keepdim=True) / count
            std = spread.sqrt().clamp_min(_MIN_STD)
        return ((features - mean) / std).masked_fill(~valid, 0.0)


class PitchNorm(nn.Module):
    """Scales log-F0, the last column of speech parts, with the statistics of a training part.

    As within an utterance (:func:`serkit.features.pitch.normalise_log_f0`): the mean becomes 0.5,
    four standard deviations either way 0 and 1. How high a voice is, which an utterance's own
    statistics take away, is kept.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    @torch.no_grad()
    def fit(self, parts: Tensor) -> None:
        """Take the statistics of a training part, (n, n_frames, d); zero or less is unvoiced."""
        voiced = parts[..., -1][parts[..., -1] > 0].double()
        if len(voiced) > 1:
            self.mean.copy_(voiced.mean())
            self.std.copy_(voiced.std(correction=0).clamp_min(_MIN_STD))

    def forward(self, parts: Tensor) -> Tensor:
        """Scale ``(batch, n_frames, d)``; unvoiced frames stay as they are."""
        pitch = parts[..., -1:]
        z = ((pitch - self.mean) / (4 * self.std)).clamp(-1, 1)
        # A voice four deviations below the mean is a voice still: exactly 0 would mean none.
        scaled = ((z + 1) / 2).clamp_min(torch.finfo(parts.dtype).tiny)
        return torch.cat([parts[..., :-1], torch.where(pitch > 0, scaled, pitch)], dim=-1)
