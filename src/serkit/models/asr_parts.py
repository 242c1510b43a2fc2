"""What the networks of speech recognition share: normalisation, subsampling, frames that wait."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask
from serkit.types import InputError

__all__ = [
    "MIN_FEATURES",
    "MIN_FRAMES",
    "Cmvn",
    "Subsampling",
    "encoded_frames",
    "sinusoids",
    "take_frames",
]

MIN_FRAMES = 7  # that one encoded frame is made of
MIN_FEATURES = 7  # of which two convolutions leave one
STRIDE = 4


class Cmvn(nn.Module):
    """Shift and scale each feature by statistics of the training part, kept with the weights.

    Parameters
    ----------
    n_features
        Width of a frame. Until :meth:`set` is called, nothing is shifted or scaled.
    """

    mean: Tensor
    istd: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("istd", torch.ones(n_features))

    def set(self, mean: Tensor, istd: Tensor) -> None:
        """Take over statistics.

        Parameters
        ----------
        mean : (n_features,)
        istd : (n_features,), one over the standard deviation

        Raises
        ------
        InputError
            If they have another shape, or hold what is not finite.
        """
        for name, given in (("mean", mean), ("istd", istd)):
            if given.shape != self.mean.shape or not bool(torch.isfinite(given).all()):
                raise InputError(
                    f"cmvn {name}: expected {len(self.mean)} finite numbers, got shape "
                    f"{tuple(given.shape)}: compute the statistics with this front end"
                )
        self.mean.copy_(mean)
        self.istd.copy_(istd)

    def forward(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Normalise ``(batch, n_frames, n_features)``; behind the ends there are zeros."""
        normal = (features - self.mean) * self.istd
        mask = lengths_to_mask(n_frames, features.shape[1])
        return normal.masked_fill(~mask.unsqueeze(2), 0)


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions of stride 2 and a projection: a quarter of the frames."""

    def __init__(self, n_features: int, *, n_channels: int, width: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            nn.Conv2d(1, n_channels, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(n_channels, n_channels, 3, stride=2),
            nn.ReLU(),
        )
        n_left = ((n_features - 1) // 2 - 1) // 2
        self.project = nn.Linear(n_channels * n_left, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_features)`` to ``(batch, encoded frames, width)``.

        Fewer than seven frames are followed by zeros: they give one.
        """
        features = F.pad(features, (0, 0, 0, max(0, MIN_FRAMES - features.shape[1])))
        maps = self.convolve(features.unsqueeze(1))  # (batch, n_channels, n_encoded, n_left)
        projected: Tensor = self.project(maps.transpose(1, 2).flatten(2))
        return projected


def encoded_frames(n_frames: Tensor) -> Tensor:
    """Count what :class:`Subsampling` makes of utterances, ``(batch,)``; at least one."""
    halved = torch.div(n_frames - 1, 2, rounding_mode="floor")
    return torch.div(halved - 1, 2, rounding_mode="floor").clamp_min(1)


def take_frames(waiting: Tensor, n_encoded: int) -> tuple[Tensor, Tensor]:
    """Cut off the frames that the next encoded ones are made of.

    Returns
    -------
    piece : (batch, at most 4 * n_encoded + 3, n_features)
    waiting : what later encoded frames are made of; three frames of the piece are among them
    """
    return waiting[:, : STRIDE * n_encoded + 3], waiting[:, STRIDE * n_encoded :]


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places, from fast to slow, ``(n,) -> (n, width)``."""
    slowness = torch.exp(torch.arange(0.0, width, 2) * (-math.log(10_000.0) / width))
    angle = places.unsqueeze(1) * slowness.to(places.device)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
