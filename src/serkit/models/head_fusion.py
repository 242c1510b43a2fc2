"""Attention heads of MACNN on a CPU, compiled: softmax, value, and means over places and heads.

:func:`serkit.models.macnn.fuse_heads` is the definition; tests hold the two together. The
arithmetic is in ``head_fusion.cpp``, where its idea is explained; this module makes one autograd
node of it, which keeps queries, keys and values and nothing else. It serves float32 and bfloat16 on
a CPU; all else, and machines without a C++ compiler, take the readable form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from serkit.models.native import MAX_LANES, load_native, longs, n_valid_frames, pointer

__all__ = ["FuseHeads", "available"]

_SOURCE = "head_fusion.cpp"


def available() -> bool:
    """Tell whether the compiled form can be used on this machine."""
    return load_native(_SOURCE) is not None


class FuseHeads(torch.autograd.Function):
    """The compiled form.

    ``apply(parts, bias, n_frames)``

    parts, n_frames : as of :func:`serkit.models.macnn.fuse_heads`, but without the bias
    bias : (n_groups, n_copies, n_heads, 3, n_hidden), float32

    Returns
    -------
    fused : (n_groups, batch, n_copies, n_hidden), of the type of ``parts``
    """

    @staticmethod
    def forward(ctx: Any, parts: Tensor, bias: Tensor, n_frames: Tensor) -> Tensor:
        """Run it; see the class."""
        parts, n_valid = parts.contiguous(), n_valid_frames(n_frames, parts.shape[3])
        groups, batch, _, _, n_copies, _, _, n_hidden = parts.shape
        out = torch.empty(groups, batch, n_copies, n_hidden, dtype=parts.dtype)
        _call("serkit_forward", parts, bias, n_valid, out)
        ctx.save_for_backward(parts, bias, n_valid)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Propagate to queries, keys and values, and to their bias."""
        parts, bias, n_valid = ctx.saved_tensors
        out = torch.empty_like(parts)
        per_utterance = torch.empty(len(parts), parts.shape[1], *bias.shape[1:])
        arrays = (bias, n_valid, gradient.contiguous(), out, per_utterance)
        _call("serkit_backward", parts, *arrays)
        return out, per_utterance.sum(1), None


def _call(function: str, parts: Tensor, *arrays: Tensor) -> None:
    library = load_native(_SOURCE)
    assert library is not None, "the caller asks available() first"
    groups, batch, height, width, n_copies, n_heads, _, n_hidden = parts.shape
    sizes = (groups, batch, height, width, n_copies, n_heads, n_hidden)
    scratch = torch.empty(n_copies + 2, n_hidden + MAX_LANES)
    numbers = longs(parts.dtype == torch.bfloat16, *sizes)
    getattr(library, function)(*numbers, *map(pointer, (parts, *arrays, scratch)))
