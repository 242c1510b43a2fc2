"""The first stage of networks that read an image of one channel: kernels side by side.

Here is the definition. Kernels with few taps over an image of one channel are cheap, and carrying
their maps through memory is not: on a CPU the whole stage is computed by compiled code that stores
none of them, see ``first_stage.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models import first_stage
from serkit.models.layers import halve, rectify_valid, track_statistics
from serkit.models.native import takes_compiled_form

__all__ = ["read_image"]

Paths = Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]]


def read_image(
    x: Tensor,
    paths: Paths,
    n_frames: Tensor,
    *,
    n_copies: int,
    halved: bool,
    compiled: bool,
) -> Tensor:
    """Read one map with several kernels side by side, each followed by its norm, and ReLU.

    Parameters
    ----------
    x : (batch, 1, height, n_frames)
    paths
        Convolutions with a bias that give maps of one size, and their norms.
    n_frames : (batch,), valid frames of these maps; zeros follow
    n_copies
        Each convolution has the channels of so many copies, one after the other.
    halved
        Average the maps as :func:`halve` does, in both directions.
    compiled
        Compute it by compiled code on a CPU, where that is possible.

    Returns
    -------
    joined : (batch, n_channels, height, n_frames), channels ordered by copy, then by path
    """
    if compiled and _takes_compiled_form(x, paths):
        return _read_compiled(x, paths, n_frames, n_copies, halved)
    convs, norms = zip(*paths, strict=True)
    maps = _convolve_side_by_side(x, convs, n_copies)
    maps = rectify_valid(_norm_by_path(maps, norms, n_copies), n_frames)
    return halve(maps, n_frames, height=True) if halved else maps


def _convolve_side_by_side(x: Tensor, convs: Sequence[nn.Conv2d], n_copies: int) -> Tensor:
    """Multiply matrices for each path: its kernels of all copies see the same patches.

    The result has its channels last in memory.
    """
    parts = []
    for conv in convs:
        assert conv.bias is not None
        assert not isinstance(conv.padding, str)
        columns = F.unfold(x, conv.kernel_size, padding=conv.padding)  # (batch, n_taps, n_places)
        kernel = conv.weight.flatten(1).t().expand(len(x), -1, -1)
        part = torch.baddbmm(conv.bias, columns.transpose(1, 2), kernel)
        parts.append(part.view(len(x), -1, n_copies, part.shape[2] // n_copies))
    joined = torch.cat(parts, dim=3).flatten(2)  # (batch, n_places, n_channels)
    height, width = _size_after(x, convs[0])
    return joined.view(len(x), height, width, -1).permute(0, 3, 1, 2)


def _size_after(x: Tensor, conv: nn.Conv2d) -> tuple[int, int]:
    height, width = (
        x.shape[2 + axis] + 2 * int(conv.padding[axis]) - conv.kernel_size[axis] + 1
        for axis in (0, 1)
    )
    return height, width


def _takes_compiled_form(x: Tensor, paths: Paths) -> bool:
    conv, norm = paths[0]
    return (
        takes_compiled_form(x, conv.weight, training=norm.training)
        and not x.requires_grad
        and first_stage.available()
    )


def _read_compiled(
    x: Tensor,
    paths: Paths,
    n_frames: Tensor,
    n_copies: int,
    halved: bool,
) -> Tensor:
    convs, norms = zip(*paths, strict=True)
    layout = first_stage.layout(convs, n_copies)
    size = _size_after(x, convs[0])
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    image = first_stage.Image(x, layout, size, n_frames, pool=1 + halved, dtype=dtype)
    kernels = first_stage.flat_kernels(convs, n_copies, layout)
    gamma, beta, mean, var = _joined_norms(norms, n_copies)
    bias = _by_copy([conv.bias for conv in convs], n_copies)
    if not norms[0].training:
        scale = gamma / (var + norms[0].eps).sqrt()
        return image.forward(scale.unsqueeze(1) * kernels, beta + scale * (bias - mean))
    outputs: Tensor
    outputs, *statistics = first_stage.Stage.apply(  # type: ignore[no-untyped-call]
        image, kernels, bias, gamma, beta, norms[0].eps
    )
    momentum = norms[0].momentum
    assert momentum is not None
    track_statistics((mean, var), statistics, len(x) * size[0] * size[1], momentum)
    _keep_statistics(norms, mean, var, n_copies)
    return outputs


def _by_copy(tensors: Sequence[Tensor], n_copies: int) -> Tensor:
    """Join along the first axis: what all have of the first copy, of the second, ..."""
    parts = [tensor.view(n_copies, -1, *tensor.shape[1:]) for tensor in tensors]
    return torch.cat(parts, dim=1).flatten(0, 1)


def _joined_norms(norms: Sequence[nn.BatchNorm2d], n_copies: int) -> list[Tensor]:
    """Weights, biases, running means and variances of paths of one width, in one row each."""
    return [
        _by_copy([getattr(norm, name) for norm in norms], n_copies)
        for name in ("weight", "bias", "running_mean", "running_var")
    ]


def _norm_by_path(x: Tensor, norms: Sequence[nn.BatchNorm2d], n_copies: int) -> Tensor:
    """Norm joined maps of paths of one width in one go; each norm keeps its own statistics."""
    weight, bias, mean, var = _joined_norms(norms, n_copies)
    training, momentum = norms[0].training, norms[0].momentum
    assert momentum is not None
    y = F.batch_norm(x, mean, var, weight, bias, training, momentum, norms[0].eps)
    if training:
        _keep_statistics(norms, mean, var, n_copies)
    return y


def _keep_statistics(
    norms: Sequence[nn.BatchNorm2d], mean: Tensor, var: Tensor, n_copies: int
) -> None:
    """Give each norm its part of joined running statistics."""
    means, variances = (t.view(n_copies, len(norms), -1).unbind(1) for t in (mean, var))
    for norm, own_mean, own_var in zip(norms, means, variances, strict=True):
        buffers = dict(norm.named_buffers())
        buffers["running_mean"].copy_(own_mean.flatten())
        buffers["running_var"].copy_(own_var.flatten())
        buffers["num_batches_tracked"].add_(1)
