"""The first stage of a network that reads an image of one channel, on a CPU, compiled.

:func:`serkit.models.reading.read_image` is the definition; tests hold the two together. The
arithmetic is in ``first_stage.cpp``, where its idea is explained; this module lays out kernels and
image and makes one autograd node of the stage in training. It serves images in float32 on a CPU and
gives float32, or bfloat16 as convolutions under autocast do; all else, and machines without a C++
compiler, take the readable form.

A bias that feeds batch norm cancels; it only moves the running mean, and its gradient is zero
instead of rounding noise.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models.native import load_native, longs, n_valid_frames, pointer

__all__ = ["Image", "Layout", "Stage", "available", "flat_kernels", "layout"]

_SOURCE = "first_stage.cpp"


def available() -> bool:
    """Tell whether the compiled stage can be used on this machine."""
    return load_native(_SOURCE) is not None


def _library() -> ctypes.CDLL:
    library = load_native(_SOURCE)
    assert library is not None, "the caller asks available() first"
    return library


@dataclass(frozen=True, slots=True)
class Layout:
    """Kernels side by side, as taps of the smallest box that holds them all.

    Attributes
    ----------
    box : top, bottom, left, right
        How far the box reaches from an output's place; bottom and right are exclusive.
    taps : (n_taps,), places of the box, row by row, that some kernel has
    starts : (n_vectors + 1,)
        Each vector of channels has the entries from its own start up to the next.
    vector, tap : (n_entries,), which vector and which of ``taps`` an entry is
    n_lanes
        Channels in a vector.
    """

    box: tuple[int, int, int, int]
    taps: Tensor
    starts: Tensor
    vector: Tensor
    tap: Tensor
    n_lanes: int

    @property
    def box_size(self) -> tuple[int, int]:
        """Rows and columns of the box."""
        top, bottom, left, right = self.box
        return bottom - top, right - left

    def pack(self, per_channel: Tensor) -> Tensor:
        """Turn ``(n_channels, n_taps)`` into ``(n_entries, n_lanes)``, as the library reads it."""
        return self._vectors(per_channel)[self.vector, :, self.tap].contiguous()

    def unpack(self, packed: Tensor, n_channels: int) -> Tensor:
        """Undo :meth:`pack`; taps that a channel's vector does not have are zero."""
        n_vectors = len(self.starts) - 1
        dense = packed.new_zeros(n_vectors, len(self.taps), self.n_lanes)
        dense[self.vector, self.tap] = packed
        return dense.transpose(1, 2).flatten(0, 1)[:n_channels]

    def pack_channels(self, values: Tensor) -> Tensor:
        """Complete ``(n_channels,)`` to whole vectors, with zeros."""
        return F.pad(values, (0, -len(values) % self.n_lanes)).contiguous()

    def _vectors(self, per_channel: Tensor) -> Tensor:
        padded = F.pad(per_channel, (0, 0, 0, -len(per_channel) % self.n_lanes))
        return padded.view(-1, self.n_lanes, per_channel.shape[1])


def layout(convs: Sequence[nn.Conv2d], n_copies: int) -> Layout:
    """Lay out the kernels of :func:`serkit.models.reading.read_image`."""
    shapes = tuple(
        (_pair(conv.kernel_size), _pair(conv.padding), conv.out_channels // n_copies)
        for conv in convs
    )
    return _layout(shapes, n_copies)


@functools.cache
@torch.inference_mode(False)  # kept, and so met by trainings as well as by who judges first
def _layout(
    shapes: tuple[tuple[tuple[int, int], tuple[int, int], int], ...], n_copies: int
) -> Layout:
    n_lanes = int(_library().serkit_lanes())
    spans = [
        (-pad_h, height - pad_h, -pad_w, width - pad_w)
        for (height, width), (pad_h, pad_w), _ in shapes
    ]
    tops, bottoms, lefts, rights = zip(*spans, strict=True)
    box = (min(tops), max(bottoms), min(lefts), max(rights))
    members = torch.zeros(len(spans), box[1] - box[0], box[3] - box[2], dtype=torch.bool)
    for path, (top, bottom, left, right) in enumerate(spans):
        members[path, top - box[0] : bottom - box[0], left - box[2] : right - box[2]] = True
    members = members.flatten(1)
    taps = members.any(0).nonzero().flatten()
    widths = torch.tensor([n_channels for *_, n_channels in shapes])
    path_of = torch.arange(len(shapes)).repeat_interleave(widths).repeat(n_copies)
    needed = F.pad(members[path_of][:, taps], (0, 0, 0, -len(path_of) % n_lanes))
    vector, tap = needed.view(-1, n_lanes, len(taps)).any(1).nonzero().unbind(1)
    n_vectors = len(needed) // n_lanes
    starts = torch.searchsorted(vector.contiguous(), torch.arange(n_vectors + 1))
    return Layout(box, taps, starts, vector, tap, n_lanes)


def _pair(numbers: Any) -> tuple[int, int]:
    height, width = numbers
    return int(height), int(width)


def flat_kernels(convs: Sequence[nn.Conv2d], n_copies: int, layout: Layout) -> Tensor:
    """Join kernels as ``(n_channels, n_taps)``, channels ordered by copy, then by path."""
    n_rows, n_cols = layout.box_size
    parts = []
    for conv in convs:
        (height, width), (pad_h, pad_w) = _pair(conv.kernel_size), _pair(conv.padding)
        top, left = -pad_h - layout.box[0], -pad_w - layout.box[2]
        margins = (left, n_cols - left - width, top, n_rows - top - height)
        parts.append(F.pad(conv.weight, margins).view(n_copies, -1, n_rows * n_cols))
    return torch.cat(parts, dim=1).flatten(0, 1)[:, layout.taps]


class Image:
    """A batch of images with margins, and where taps and valid frames of the outputs are.

    Parameters
    ----------
    x : (batch, 1, height, n_frames), float32
    layout
        Of the kernels.
    size
        Height and frames of the outputs before the pool.
    n_valid : (batch,), valid frames of the outputs
    pool
        1, or 2 for averages of two by two.
    dtype
        Of the outputs: float32 or bfloat16.
    """

    def __init__(
        self,
        x: Tensor,
        layout: Layout,
        size: tuple[int, int],
        n_valid: Tensor,
        *,
        pool: int,
        dtype: torch.dtype,
    ) -> None:
        self.library = _library()
        self.layout, self.pool, self.dtype, self.batch = layout, pool, dtype, len(x)
        self.height, self.width = size
        top, bottom, left, right = layout.box
        below = self.height + bottom - x.shape[2] + pool - 1
        beside = self.width + right - x.shape[3] + int(self.library.serkit_slack())
        self.padded = F.pad(x[:, 0], (-left, beside, -top, below)).contiguous()
        row = self.padded.shape[2]
        n_cols = layout.box_size[1]
        offsets = layout.taps // n_cols * row + layout.taps % n_cols
        self._tap_offsets, self._entry_offsets = offsets, offsets[layout.tap]
        self._n_valid = n_valid_frames(n_valid, self.width)
        self._sizes = longs(self.batch, self.height, self.width, row, row * self.padded.shape[1])

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``(n_taps,)`` and covariance ``(n_taps, n_taps)`` of the taps, float64."""
        n_taps, n_lanes = len(self.layout.taps), self.layout.n_lanes
        mean = torch.empty(n_taps, dtype=torch.float64)
        covariance = torch.empty(n_taps, n_taps, dtype=torch.float64)
        scratch = torch.empty(n_taps, self.width + n_lanes, dtype=torch.float64)
        arrays = (self._tap_offsets, mean, covariance, scratch)
        self.library.serkit_moments(
            *self._sizes, pointer(self.padded), ctypes.c_long(n_taps), *map(pointer, arrays)
        )
        return mean, covariance

    def forward(self, kernels: Tensor, start: Tensor) -> Tensor:
        """Compute pooled ReLU outputs.

        Parameters
        ----------
        kernels : (n_channels, n_taps), float32, with the norm's factor
        start : (n_channels,), float32, the norm's summand

        Returns
        -------
        outputs : (batch, n_channels, height, n_frames), with the channels last in memory
        """
        height, width = (-(-size // self.pool) for size in (self.height, self.width))
        out = torch.empty(self.batch, height, width, len(kernels), dtype=self.dtype)
        self._call("serkit_forward", kernels, start, out)
        return out.permute(0, 3, 1, 2)

    def backward(self, kernels: Tensor, start: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the gradient behind the ReLU over places, and its products with the taps.

        Parameters
        ----------
        kernels, start : as of :meth:`forward`
        gradient : as its outputs

        Returns
        -------
        sums : (n_channels,), float64
        products : (n_channels, n_taps), float64
        """
        n_lanes, n_entries = self.layout.n_lanes, len(self.layout.tap)
        sums = torch.empty(len(self.layout.starts) - 1, n_lanes, dtype=torch.float64)
        products = torch.empty(n_entries, n_lanes, dtype=torch.float64)
        scratch = torch.empty(n_entries, n_lanes)
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        self._call("serkit_backward", kernels, start, gradient, sums, products, scratch)
        n_channels = len(kernels)
        return sums.flatten()[:n_channels], self.layout.unpack(products, n_channels)

    def _call(self, function: str, kernels: Tensor, start: Tensor, *arrays: Tensor) -> None:
        layout = self.layout
        numbers = longs(len(kernels), len(layout.starts) - 1)
        packed = (layout.pack(kernels), layout.pack_channels(start))
        shared = (layout.starts, self._entry_offsets, *packed, self.padded, self._n_valid)
        head = longs(self.dtype == torch.bfloat16, self.pool)
        arguments = (*head, *self._sizes, *numbers, *map(pointer, (*shared, *arrays)))
        getattr(self.library, function)(*arguments)


class Stage(torch.autograd.Function):
    """The stage in training mode.

    ``apply(image, kernels, bias, gamma, beta, eps)``

    image : :class:`Image`
    kernels : (n_channels, n_taps), see :func:`flat_kernels`
    bias, gamma, beta : (n_channels,), of the convolutions and of the norms

    Returns
    -------
    outputs : (batch, n_channels, height, n_frames), pooled
    mean, var : (n_channels,), of the batch, before the norm; var is the population's
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Image,
        kernels: Tensor,
        bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the stage; see the class."""
        tap_mean, covariance = image.moments()
        exact = kernels.double()
        with torch.autocast("cpu", enabled=False):
            mean, spread = exact @ tap_mean, exact @ covariance  # spread: (n_channels, n_taps)
        var = (spread * exact).sum(1).clamp_min(0)
        scale = gamma / (var + eps).sqrt()
        folded, start = (scale.unsqueeze(1) * exact).float(), (beta - scale * mean).float()
        ctx.image, ctx.eps = image, eps
        ctx.save_for_backward(kernels, gamma, tap_mean, spread, mean, var, folded, start)
        statistics = (mean + bias).float(), var.float()
        ctx.mark_non_differentiable(*statistics)
        return image.forward(folded, start), *statistics

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate to every parameter."""
        kernels, gamma, tap_mean, spread, mean, var, folded, start = ctx.saved_tensors
        sums, products = ctx.image.backward(folded, start, gradient)
        inverse = (var + ctx.eps).rsqrt()
        # Of the normed outputs x: sums of gradient * x, and of x * tap over all places.
        along = inverse * ((products * kernels).sum(1) - mean * sums)
        centred = products - sums.unsqueeze(1) * tap_mean - (along * inverse).unsqueeze(1) * spread
        grad_kernels = (gamma * inverse).unsqueeze(1) * centred
        return (
            None,
            grad_kernels.float(),
            torch.zeros_like(start),
            along.float(),
            sums.float(),
            None,
        )
