"""Squeezeformer: attention and convolution, each followed by a feed-forward layer, on fewer frames.

Kim et al., "Squeezeformer: An Efficient Transformer for Automatic Speech Recognition", NeurIPS 2022
(arXiv 2206.00888). Each part of a block is normalised after its sum and sees frames that are scaled
and shifted by learnt numbers; convolutions have Swish where a Conformer has a gate. A block in the
middle halves the frames; one near the end restores their number by repeating each, and adds what
there was before. An encoded frame stands for four (40 ms).

Parameters of the default, 80 features and 32 symbols, with batch-norm statistics: 32,890,400.

Deviations: the convolutions at the entrance are plain, as in the other networks here; layer norm
may replace batch norm (``conv_norm``). Made for whole utterances. Lengths are respected; padding
never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.models.asr_parts import (
    MIN_FEATURES,
    STRIDE,
    AsrNetwork,
    Subsampling,
    check_blocks,
    encoded_frames,
)
from serkit.models.conformer import ConvolutionModule, FeedForward, RelativeAttention
from serkit.models.layers import lengths_to_mask

__all__ = ["Squeezeformer", "SqueezeformerConfig"]

HALVING_KERNEL = 5  # frames


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezeformerConfig:
    """Shape of the network."""

    n_features: Annotated[int, Field(ge=MIN_FEATURES)] = 80
    n_symbols: Annotated[int, Field(ge=2)] = 32  # blank included, which is 0
    width: PositiveInt = 256
    n_blocks: PositiveInt = 12
    halve_at: NonNegativeInt = 5  # the block, from 0, before which the frames are halved
    restore_at: NonNegativeInt = 11  # that before which their number is restored
    n_heads: PositiveInt = 4
    n_ffn: PositiveInt = 2048
    kernel: PositiveInt = 31
    conv_norm: Literal["layer", "batch"] = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class AdaptiveScale(nn.Module):
    """Scale and shift each feature by learnt numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``(batch, n_frames, width)``."""
        return x * self.scale + self.shift


class SqueezeformerBlock(nn.Module):
    """Attention, feed-forward layer, convolution, feed-forward layer."""

    def __init__(self, config: SqueezeformerConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.scales = nn.ModuleList(AdaptiveScale(width) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention = RelativeAttention(width, n_heads=config.n_heads, dropout=dropout)
        self.first = FeedForward(width, n_hidden=config.n_ffn, dropout=dropout)
        self.convolution = ConvolutionModule(
            width,
            kernel=config.kernel,
            dropout=dropout,
            batch_norm=config.conv_norm == "batch",
            gated=False,
        )
        self.second = FeedForward(width, n_hidden=config.n_ffn, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Transform ``(batch, n_frames, width)``."""
        x = self.norms[0](x + self._attended(self.scales[0](x), valid))
        x = self.norms[1](x + self.first(self.scales[1](x)))
        x = self.norms[2](x + self.convolution(self.scales[2](x), valid)[0])
        y: Tensor = self.norms[3](x + self.second(self.scales[3](x)))
        return y

    def _attended(self, x: Tensor, valid: Tensor) -> Tensor:
        keys_values = self.attention.key_value(x)
        attended: Tensor = self.dropout(self.attention(x, keys_values, valid.unsqueeze(1)))
        return attended


class Halving(nn.Module):
    """Convolve each channel over time with a stride of 2, and mix channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(
            width, width, HALVING_KERNEL, stride=2, padding=HALVING_KERNEL // 2, groups=width
        )
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``(batch, n_frames, width)`` to half as many frames, rounded up."""
        x = x.masked_fill(~valid.unsqueeze(2), 0)
        halved: Tensor = self.mix(self.convolve(x.transpose(1, 2)).transpose(1, 2))
        return halved


class Squeezeformer(AsrNetwork):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`SqueezeformerConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    stride = STRIDE

    def __init__(self, config: SqueezeformerConfig) -> None:
        super().__init__(config.n_features)
        n_blocks, halve_at = config.n_blocks, config.halve_at
        between = f"more than halve_at, {halve_at}, and at most n_blocks, {n_blocks}"
        check_blocks(config, ("restore_at", halve_at < config.restore_at <= n_blocks, between))
        self.config = config
        self.subsample = Subsampling(config.n_features, n_channels=config.width, width=config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(SqueezeformerBlock(config) for _ in range(config.n_blocks))
        self.halve = Halving(config.width)
        self.restore = nn.Linear(config.width, config.width)
        self.classify = nn.Linear(config.width, config.n_symbols)

    def encode(self, features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AsrNetwork.encode`."""
        x = self.dropout(self.norm(self.subsample(features)))
        n_encoded = encoded_frames(n_frames)
        valid = lengths_to_mask(n_encoded, x.shape[1])
        halve_at, restore_at = self.config.halve_at, self.config.restore_at
        for block in self.blocks[:halve_at]:
            x = block(x, valid)
        fine, x = x, self.halve(x, valid)
        for block in self.blocks[halve_at:restore_at]:
            x = block(x, valid[:, ::2])
        x = fine + self.restore(x.repeat_interleave(2, dim=1)[:, : fine.shape[1]])
        for block in self.blocks[restore_at:]:
            x = block(x, valid)
        return x, n_encoded
