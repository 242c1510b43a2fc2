"""What follows a convolution: batch norm, a pool, ReLU, and zeros behind the ends.

Here is the definition. Each of these operations is cheap, and carrying a map through memory for all
of them is not: on a CPU they are done by compiled code in one pass, see ``norm_pool.py``.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models import norm_pool
from serkit.models.layers import halve, mean_over_places, rectify_valid, track_statistics
from serkit.models.native import takes_compiled_form

__all__ = ["Pool", "norm_and_pool"]

# max: the largest of two by two, before the ReLU; what has no partner is lost. halve, halve_frames:
# averages of two by two, or of two frames, see layers.halve. mean: of all places.
Pool: TypeAlias = Literal["none", "max", "halve", "halve_frames", "mean"]


def norm_and_pool(
    x: Tensor, norm: nn.BatchNorm2d, n_frames: Tensor, *, pool: Pool, compiled: bool
) -> Tensor:
    """Norm, pool and rectify a map.

    Parameters
    ----------
    x : (batch, n_channels, height, n_frames), of a convolution; lost
    norm
        In training it counts every place, padding too, and keeps running statistics.
    n_frames : (batch,), valid frames of ``x``, at least 1
    compiled
        Compute it by compiled code on a CPU, where that is possible.

    Returns
    -------
    y : (batch, n_channels, height, n_frames), pooled, with zeros behind the ends; or, of the mean,
        (batch, n_channels)
    """
    if compiled and _takes_compiled_form(x, norm, pool):
        return _compiled_form(x, norm, n_frames, pool)
    y = norm(x)
    match pool:
        case "none":
            return rectify_valid(y, n_frames)
        case "max":  # before the ReLU, which commutes with a maximum and then has less to do
            return rectify_valid(F.max_pool2d(y, 2), n_frames // 2)
        case "halve" | "halve_frames":
            return halve(rectify_valid(y, n_frames), n_frames, height=pool == "halve")
        case "mean":
            return mean_over_places(F.relu(y), n_frames)


def _takes_compiled_form(x: Tensor, norm: nn.BatchNorm2d, pool: Pool) -> bool:
    batch, _, height, width = x.shape
    smallest = 2 if pool == "max" else 1
    return (
        takes_compiled_form(x, norm.weight, training=norm.training, half=True)
        and batch * height * width > 1  # else there is no variance, and PyTorch says so
        and min(height, width) >= smallest
        and norm_pool.available()
    )


def _windows(pool: Pool, height: int, width: int) -> norm_pool.Windows:
    match pool:
        case "none":
            return norm_pool.Windows(1, 1, maximum=False)
        case "max":
            return norm_pool.Windows(2, 2, maximum=True)
        case "halve":
            return norm_pool.Windows(2, 2, maximum=False)
        case "halve_frames":
            return norm_pool.Windows(1, 2, maximum=False)
        case "mean":
            return norm_pool.Windows(height, width, maximum=False)


def _compiled_form(x: Tensor, norm: nn.BatchNorm2d, n_frames: Tensor, pool: Pool) -> Tensor:
    batch, _, height, width = x.shape
    windows = _windows(pool, height, width)
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    y: Tensor
    if norm.training:
        y, *statistics = norm_pool.NormPool.apply(  # type: ignore[no-untyped-call]
            x, norm.weight, norm.bias, n_frames, norm.eps, windows
        )
        assert norm.momentum is not None
        assert norm.num_batches_tracked is not None
        track_statistics((mean, var), statistics, batch * height * width, norm.momentum)
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
    else:
        scale = norm.weight / (var + norm.eps).sqrt()
        y = norm_pool.evaluate(x, scale, norm.bias - scale * mean, n_frames, windows)
    return y.flatten(1) if pool == "mean" else y
