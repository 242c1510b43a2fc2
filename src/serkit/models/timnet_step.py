"""A TIM-Net chain on a CPU, compiled: the same numbers, several times faster.

:class:`serkit.models.timnet.Chain` is the definition; tests hold the two together. The arithmetic
is in ``timnet_step.cpp``, where its layout is explained; this module lays out the maps, lends them
memory, and makes one autograd node of a chain in training. It serves float32 on a CPU; all else,
and machines without a C++ compiler, take the readable form.

The bias of a convolution that feeds batch norm cancels; it only moves the running mean, and its
gradient is zero instead of rounding noise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from serkit.models.native import load_native, longs, pointer

__all__ = ["ChainStep", "Layout", "Workspace", "available", "evaluate_chain", "to_tiles"]

_SOURCE = "timnet_step.cpp"


def available() -> bool:
    """Tell whether the compiled step can be used on this machine."""
    return load_native(_SOURCE) is not None


def to_tiles(x: Tensor) -> Tensor:
    """Lay out ``(batch, n_frames, n_channels)`` as ``(n_tiles, n_frames, n_channels, n_lanes)``.

    A lane holds an utterance; the last tile's spare lanes hold zeros.
    """
    lanes = _in_lanes(x)
    return lanes.permute(0, 2, 3, 1).contiguous()


def _in_lanes(x: Tensor) -> Tensor:
    """Cut the first axis, utterances, into ``(n_tiles, n_lanes)``, with zeros at the end."""
    n_lanes = int(_library().serkit_lanes())
    padding = [0, 0] * (x.ndim - 1) + [0, -len(x) % n_lanes]
    return F.pad(x, padding).view(-1, n_lanes, *x.shape[1:])


def _library() -> ctypes.CDLL:
    library = load_native(_SOURCE)
    assert library is not None, "the caller asks available() first"
    return library


class Workspace:
    """Memory for maps, lent for one step and used again in the next.

    Maps of a step are tens of megabytes; taken fresh from the system each time, their pages alone
    would cost a tenth of the step.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, ...], list[Tensor]] = {}

    def take(self, *shape: int) -> Tensor:
        """Lend a float32 tensor; what it holds is undefined."""
        free = self._free.get(shape)
        return free.pop() if free else torch.empty(shape)

    def give_back(self, tensors: Sequence[Tensor]) -> None:
        """Take tensors back; the lender must not look at them again."""
        for tensor in tensors:
            self._free.setdefault(tuple(tensor.shape), []).append(tensor)


@dataclass(frozen=True, slots=True)
class Layout:
    """Who is in the lanes of a batch.

    Attributes
    ----------
    valid : (n_tiles, n_lanes), 1 where a lane holds an utterance
    length : (n_tiles, n_lanes), int32, frames that count in the mean over time
    batch
        Utterances.
    """

    valid: Tensor
    length: Tensor
    batch: int

    @classmethod
    def of(cls, n_frames: Tensor) -> Layout:
        """Make the layout of utterances with so many valid frames, ``(batch,)``."""
        valid = _in_lanes(torch.ones(len(n_frames)))
        return cls(valid, _in_lanes(n_frames.to(torch.int32)), len(n_frames))


class ChainStep(torch.autograd.Function):
    """All blocks of one chain in training mode.

    ``apply(features, layout, masks, eps, workspace, entry_weight, entry_bias, *blocks)``

    features : (n_tiles, n_frames, n_features, n_lanes)
    masks : (n_blocks, 2, n_tiles, n_channels, n_lanes), inverted-dropout factors
    entry_weight, entry_bias : (n_channels, n_features, 1), (n_channels,)
    blocks : for every block weight (n_channels, n_channels, 2), gamma (n_channels,) and beta
        (n_channels,) of its first half, then of its second; block k has dilation 2**k

    Returns
    -------
    pooled : (batch, n_blocks, n_channels), sums of every block's output over its valid frames
    statistics : (n_blocks, 2, 2, n_channels), of each half batch mean and population variance
        before the norm, without the convolution's bias
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        layout: Layout,
        masks: Tensor,
        eps: float,
        workspace: Workspace,
        entry_weight: Tensor,
        entry_bias: Tensor,
        *blocks: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the chain; see the class."""
        n_blocks, n_channels = len(blocks) // 6, len(entry_bias)
        call = _Calls(features, layout, n_channels, eps, workspace)
        x = call.entry_forward(features, entry_weight, entry_bias)
        maps = [x]
        weights = [
            (first.contiguous(), second.contiguous())
            for first, second in zip(blocks[0::6], blocks[3::6], strict=True)
        ]
        gamma = torch.stack(blocks[1::3]).view(n_blocks, 2, n_channels)
        beta = torch.stack(blocks[2::3]).view(n_blocks, 2, n_channels)
        norms = torch.empty(n_blocks, 2, 5, n_channels)
        pooled = torch.empty(n_blocks, len(features), n_channels, features.shape[3])
        for k in range(n_blocks):
            affine = (gamma[k], beta[k])
            y1, y2, output = call.block_forward(
                k, maps[-1], weights[k], affine, masks[k], norms[k], pooled[k]
            )
            maps += [y1, y2, output]
        workspace.give_back([maps.pop()])  # nothing looks back at the last output
        ctx.call, ctx.maps = call, maps
        ctx.save_for_backward(features, masks, gamma, beta, norms, *(w for p in weights for w in p))
        statistics = norms[:, :, :2].clone()
        ctx.mark_non_differentiable(statistics)
        return _per_utterance(pooled, layout.batch), statistics

    @staticmethod
    def backward(ctx: Any, grad_pooled: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Propagate to every parameter."""
        features, masks, gamma, beta, norms, *weights = ctx.saved_tensors
        call, maps = ctx.call, ctx.maps
        if not maps:
            raise RuntimeError("a chain's step can be propagated back once only")
        n_blocks = len(gamma)
        tiles = _in_lanes(grad_pooled).permute(2, 0, 3, 1).contiguous()
        grad = call.take_map().zero_()
        inner = call.take_map()
        per_block: list[tuple[Tensor, ...]] = []
        for k in reversed(range(n_blocks)):
            x, y1, y2 = maps[3 * k : 3 * k + 3]
            pair, affine = (weights[2 * k], weights[2 * k + 1]), (gamma[k], beta[k])
            per_block.append(
                call.block_backward(
                    k, (x, y1, y2), pair, affine, masks[k], norms[k], tiles[k], grad, inner
                )
            )
        grad_weight, grad_bias = call.entry_backward(features, grad)
        call.workspace.give_back([*maps, grad, inner])
        maps.clear()
        grads = [g for block in reversed(per_block) for g in block]
        return (None, None, None, None, None, grad_weight, grad_bias, *grads)


def evaluate_chain(
    features: Tensor,
    layout: Layout,
    workspace: Workspace,
    entry: tuple[Tensor, Tensor],
    blocks: Sequence[tuple[Tensor, Tensor, Tensor]],
) -> Tensor:
    """Run a chain in evaluation mode.

    Parameters
    ----------
    features : (n_tiles, n_frames, n_features, n_lanes)
    entry
        Weight (n_channels, n_features, 1) and bias (n_channels,).
    blocks
        For both halves of every block in turn weight (n_channels, n_channels, 2), scale and offset
        (n_channels,): half = ReLU(scale * convolution without bias + offset).

    Returns
    -------
    pooled : (batch, n_blocks, n_channels), as of :class:`ChainStep`
    """
    n_channels = len(entry[1])
    call = _Calls(features, layout, n_channels, 0.0, workspace)
    x = call.entry_forward(features, *entry)
    pooled = torch.empty(len(blocks) // 2, len(features), n_channels, features.shape[3])
    for k, (first, second) in enumerate(zip(blocks[0::2], blocks[1::2], strict=True)):
        scale, offset = torch.stack((first[1], second[1])), torch.stack((first[2], second[2]))
        call.block_evaluate(k, x, (first[0], second[0]), (scale, offset), pooled[k])
    workspace.give_back([x])
    return _per_utterance(pooled, layout.batch)


def _per_utterance(pooled: Tensor, batch: int) -> Tensor:
    """Turn ``(n_blocks, n_tiles, n_channels, n_lanes)`` into ``(batch, n_blocks, n_channels)``."""
    return pooled.permute(1, 3, 0, 2).flatten(0, 1)[:batch]


class _Calls:
    """The functions of the library, for one batch."""

    def __init__(
        self, features: Tensor, layout: Layout, n_channels: int, eps: float, workspace: Workspace
    ) -> None:
        self.library = _library()
        self.library.serkit_scratch.restype = ctypes.c_long
        self.workspace = workspace
        n_tiles, n_frames, n_features, n_lanes = features.shape
        self.shape = (n_tiles, n_frames, n_channels, n_lanes)
        self.n_features = n_features
        self.layout, self.eps = layout, eps
        self.scratch_size = int(
            self.library.serkit_scratch(*longs(n_frames, n_channels, n_features))
        )

    def take_map(self) -> Tensor:
        return self.workspace.take(*self.shape)

    def entry_forward(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = self.take_map()
        self._call("serkit_entry_forward", self._entry(), features, weight, bias, output)
        return output

    def entry_backward(self, features: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = torch.empty(self.shape[2], self.n_features, 1), torch.empty(self.shape[2])
        self._call("serkit_entry_backward", self._entry(), features, grad, weight, bias)
        return weight, bias

    def block_forward(
        self,
        depth: int,
        x: Tensor,
        weights: tuple[Tensor, Tensor],
        affine: tuple[Tensor, Tensor],
        mask: Tensor,
        norms: Tensor,
        pooled: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = (self.take_map(), self.take_map(), self.take_map())
        y1, y2, output = maps
        arrays = (x, *weights, *affine, mask, y1, y2, norms, output, pooled)
        self._call("serkit_block_forward", self._block(depth), *arrays)
        return maps

    def block_evaluate(
        self,
        depth: int,
        x: Tensor,
        weights: tuple[Tensor, Tensor],
        affine: tuple[Tensor, Tensor],
        pooled: Tensor,
    ) -> None:
        """Replace a block's input by its output."""
        n_tiles, n_frames, n_channels, _ = self.shape
        numbers = longs(n_tiles, n_frames, n_channels, 2**depth)
        head = (*numbers, pointer(self.layout.valid), pointer(self.layout.length))
        self._call("serkit_block_evaluate", head, x, *weights, *affine, x, pooled)

    def block_backward(
        self,
        depth: int,
        maps: tuple[Tensor, Tensor, Tensor],
        weights: tuple[Tensor, Tensor],
        affine: tuple[Tensor, Tensor],
        mask: Tensor,
        norms: Tensor,
        grad_pooled: Tensor,
        grad: Tensor,
        inner: Tensor,
    ) -> tuple[Tensor, ...]:
        """Turn ``grad`` into the gradient of the input and return those of the parameters."""
        x, y1, y2 = maps
        weight1, weight2 = torch.empty_like(weights[0]), torch.empty_like(weights[1])
        gamma, beta = torch.empty_like(affine[0]), torch.empty_like(affine[1])
        self._call(
            "serkit_block_backward",
            self._block(depth),
            *(x, *weights, *affine, mask, y1, y2, norms, grad_pooled, grad),
            *(weight1, weight2, gamma, beta, inner),
        )
        return weight1, gamma[0], beta[0], weight2, gamma[1], beta[1]

    def _entry(self) -> tuple[Any, ...]:
        n_tiles, n_frames, n_channels, _ = self.shape
        numbers = longs(n_tiles, n_frames, n_channels, self.n_features)
        return (*numbers, pointer(self.layout.valid))

    def _block(self, depth: int) -> tuple[Any, ...]:
        n_tiles, n_frames, n_channels, _ = self.shape
        return (
            *longs(n_tiles, n_frames, n_channels, 2**depth),
            pointer(self.layout.valid),
            pointer(self.layout.length),
            ctypes.c_double(self.layout.batch * n_frames),
            ctypes.c_float(self.eps),
        )

    def _call(self, function: str, head: tuple[Any, ...], *arrays: Tensor) -> None:
        scratch = self.workspace.take(self.scratch_size)
        getattr(self.library, function)(*head, *map(pointer, arrays), pointer(scratch))
        self.workspace.give_back([scratch])
