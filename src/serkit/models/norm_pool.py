"""What follows a convolution, on a CPU, compiled: batch norm, pool, ReLU, zeros behind the ends.

:func:`serkit.models.norming.norm_and_pool` is the definition; tests hold the two together. The
arithmetic is in ``norm_pool.cpp``, where its idea is explained; this module makes one autograd node
of it in training, which keeps the map it was given and nothing else. It serves float32 and bfloat16
on a CPU; all else, and machines without a C++ compiler, take the readable form.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from serkit.models.native import MAX_LANES, load_native, longs, n_valid_frames, pointer

__all__ = ["NormPool", "Windows", "available", "evaluate"]

_SOURCE = "norm_pool.cpp"


def available() -> bool:
    """Tell whether the compiled form can be used on this machine."""
    return load_native(_SOURCE) is not None


class Windows(NamedTuple):
    """Places that are pooled into one: side by side, from the map's first row and frame on.

    Attributes
    ----------
    rows, cols
        Size of a window.
    maximum
        The largest of whole windows; what is left at the map's edges has no say. Else averages, of
        what there is of a window.
    """

    rows: int
    cols: int
    maximum: bool


class NormPool(torch.autograd.Function):
    """The form in training mode.

    ``apply(x, gamma, beta, n_frames, eps, windows)``

    x : (batch, n_channels, height, n_frames), float32 or bfloat16
    gamma, beta : (n_channels,), float32
    n_frames : (batch,), valid frames of ``x``

    Returns
    -------
    outputs : (batch, n_channels, height, n_frames), pooled, of the type of ``x``, with the
        channels last in memory
    mean, var : (n_channels,), float64, of the batch, before the norm; var is the population's
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        n_frames: Tensor,
        eps: float,
        windows: Windows,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run it; see the class."""
        call = _Calls(x, n_frames, windows)
        places = _channels_last(x)
        mean, var = call.statistics(places)
        inverse = (var + eps).rsqrt()
        scale = gamma * inverse
        affine = torch.stack((scale, beta - scale * mean, mean)).float()
        ctx.call = call
        ctx.save_for_backward(places, affine, mean, inverse, scale)
        ctx.mark_non_differentiable(mean, var)
        return call.forward(places, affine[0], affine[1]), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate to the map and both parameters."""
        places, affine, mean, inverse, scale = ctx.saved_tensors
        gradient = _channels_last(gradient)
        sums, products = ctx.call.backward_sums(places, affine, gradient)
        along = products * inverse  # of gradient times normed map
        n_places = math.prod(ctx.call.size)
        slope = -scale * inverse * along / n_places
        constant = -scale * sums / n_places - slope * mean
        line = torch.stack((slope, constant)).float()
        grad_map = ctx.call.backward_map(places, affine, line, gradient)
        return grad_map, along.float(), sums.float(), None, None, None


def evaluate(
    x: Tensor, scale: Tensor, offset: Tensor, n_frames: Tensor, windows: Windows
) -> Tensor:
    """Run the form in evaluation mode, where the norm is a scale and an offset per channel."""
    return _Calls(x, n_frames, windows).forward(_channels_last(x), scale, offset)


class _Calls:
    """The functions of the library, for maps of one size."""

    def __init__(self, x: Tensor, n_frames: Tensor, windows: Windows) -> None:
        library = load_native(_SOURCE)
        assert library is not None, "the caller asks available() first"
        self.library = library
        self.dtype = x.dtype
        batch, self.n_channels, height, width = x.shape
        self.size = (batch, height, width)
        self._n_valid = n_valid_frames(n_frames, width)
        self._windows = windows

    def statistics(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Average each channel, and give its variance, float64."""
        batch, height, width = self.size
        shift = places[0, 0].mean(0, dtype=torch.float32)  # takes most of a large mean away
        totals, scratch = self._sums()
        head = longs(self.dtype == torch.bfloat16, batch, height * width, self.n_channels)
        self.library.serkit_statistics(*head, *map(pointer, (places, shift, totals, scratch)))
        above, squares = totals.sum(0) / math.prod(self.size)
        return shift + above, (squares - above.square()).clamp_min(0)

    def forward(self, places: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        batch, *size = self.size
        rows, cols, maximum = self._windows
        pairs = zip(size, (rows, cols), strict=True)
        pooled = (n // window if maximum else -(-n // window) for n, window in pairs)
        out = torch.empty(batch, *pooled, self.n_channels, dtype=self.dtype)
        self._call("serkit_forward", places, scale, offset, out)
        return out.permute(0, 3, 1, 2)

    def backward_sums(
        self, places: Tensor, affine: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum the gradient before the ReLU, and its products with the centred map."""
        totals, scratch = self._sums()
        self._call("serkit_backward_sums", places, *affine, gradient, totals, scratch)
        sums, products = totals.sum(0)
        return sums, products

    def backward_map(
        self, places: Tensor, affine: Tensor, line: Tensor, gradient: Tensor
    ) -> Tensor:
        """Propagate to the map; ``line`` is the part of the statistics: slope and constant."""
        out = torch.empty_like(places)
        self._call("serkit_backward_map", places, *affine[:2], *line, gradient, out)
        return out.permute(0, 3, 1, 2)

    def _sums(self) -> tuple[Tensor, Tensor]:
        totals = torch.empty(self.size[0], 2, self.n_channels, dtype=torch.float64)
        return totals, torch.empty(2, self.n_channels + MAX_LANES)

    def _call(self, function: str, places: Tensor, *arrays: Tensor) -> None:
        windows = self._windows
        head = (self.dtype == torch.bfloat16, windows.maximum, windows.rows, windows.cols)
        numbers = longs(*head, *self.size, self.n_channels)
        getattr(self.library, function)(*numbers, *map(pointer, (places, self._n_valid, *arrays)))


def _channels_last(x: Tensor) -> Tensor:
    """View ``(batch, n_channels, height, n_frames)`` as its places, each with its channels."""
    return x.permute(0, 2, 3, 1).contiguous()
