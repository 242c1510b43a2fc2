"""Small pieces that several models share: masks, masked pooling, reversal by length."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["lengths_to_mask", "masked_mean", "reverse_frames"]


def lengths_to_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark the valid positions of padded sequences.

    Parameters
    ----------
    lengths : (batch,), integers

    Returns
    -------
    mask : (batch, width), bool, True where a position is valid
    """
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the last axis, counting only positions where the mask is True.

    Parameters
    ----------
    x : (batch, n_channels, n_frames)
    mask : (batch, 1, n_frames), bool

    Returns
    -------
    mean : (batch, n_channels)
    """
    weight = mask.to(x.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)
    return (x * weight).sum(-1)


def reverse_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence within its own length; padding stays where it is.

    Parameters
    ----------
    x : (batch, n_channels, n_frames)
    lengths : (batch,)
    """
    position = torch.arange(x.shape[-1], device=x.device)
    mirrored = lengths.unsqueeze(1) - 1 - position  # (batch, n_frames)
    index = torch.where(mirrored >= 0, mirrored, position)
    return x.gather(-1, index.unsqueeze(1).expand_as(x))
