"""Efficient Conformer: a Conformer that halves its frames once more, and attends in groups.

Burchi, Vielzeuf: "Efficient Conformer: Progressive Downsampling and Grouped Attention for
Automatic Speech Recognition", ASRU 2021 (arXiv 2109.01163), in the shape that WeNet gave it: width
256 throughout, a convolution of stride 2 in the fourth block (an encoded frame stands for eight, 80
ms), and in the first four blocks attention between groups of three frames, a ninth of the
arithmetic. T frames give ``((T - 1) // 2 - 1) // 2`` and half of that, rounded up.

Parameters of the default, 80 features and 32 symbols: 34,000,928.

Deviations: the sum around the convolution that halves skips every second frame as it is, without a
projection, because the width stays. Made for whole utterances. Lengths are respected; padding never
changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
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

__all__ = ["EfficientConformer", "EfficientConformerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientConformerConfig:
    """Shape of the network."""

    n_features: Annotated[int, Field(ge=MIN_FEATURES)] = 80
    n_symbols: Annotated[int, Field(ge=2)] = 32  # blank included, which is 0
    width: PositiveInt = 256
    n_blocks: PositiveInt = 12
    halve_at: NonNegativeInt = 3  # the block, from 0, whose convolution has a stride of 2
    group: PositiveInt = 3  # frames that attend as one, up to the halving block
    n_heads: PositiveInt = 4
    n_ffn: PositiveInt = 2048
    kernel: PositiveInt = 15
    conv_norm: Literal["layer", "batch"] = "layer"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class GroupedAttention(RelativeAttention):
    """Attention in which neighbouring frames are one long vector; padding in it is zeros."""

    def __init__(self, width: int, *, n_heads: int, dropout: float, group: int) -> None:
        super().__init__(width, n_heads=n_heads, dropout=dropout, group=group)
        self.group = group

    def forward(self, x: Tensor, keys_values: Tensor, visible: Tensor) -> Tensor:
        """See :meth:`RelativeAttention.forward`; ``visible`` is (batch, 1, n_frames)."""
        n_frames, valid = x.shape[1], visible.transpose(1, 2)
        key, value = keys_values.chunk(2, dim=2)
        query, key, value = (
            self._grouped(part.masked_fill(~valid, 0)) for part in (self.query(x), key, value)
        )
        heads = self.attend(query, key, value, visible[:, :, :: self.group])
        frames = torch.unflatten(heads, 2, (self.group, -1)).flatten(1, 2)[:, :n_frames]
        y: Tensor = self.out(frames)
        return y

    def _grouped(self, x: Tensor) -> Tensor:
        """Turn ``(batch, n_frames, width)`` into ``(batch, n_groups, group * width)``."""
        padded = F.pad(x, (0, 0, 0, -x.shape[1] % self.group))
        return torch.unflatten(padded, 1, (-1, self.group)).flatten(2)


class EfficientBlock(nn.Module):
    """A Conformer block with grouped attention, or a convolution that halves the frames."""

    def __init__(self, config: EfficientConformerConfig, *, group: int, stride: int) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.stride = stride
        self.first_norm, self.attention_norm, self.convolution_norm, self.second_norm = (
            nn.LayerNorm(width) for _ in range(4)
        )
        self.first = FeedForward(width, n_hidden=config.n_ffn, dropout=dropout)
        self.attention = GroupedAttention(
            width, n_heads=config.n_heads, dropout=dropout, group=group
        )
        self.convolution = ConvolutionModule(
            width,
            kernel=config.kernel,
            dropout=dropout,
            batch_norm=config.conv_norm == "batch",
            stride=stride,
        )
        self.second = FeedForward(width, n_hidden=config.n_ffn, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Transform ``(batch, n_frames, width)``; with a stride, every second frame stays."""
        x = x + 0.5 * self.first(self.first_norm(x))
        normal = self.attention_norm(x)
        keys_values = self.attention.key_value(normal)
        x = x + self.dropout(self.attention(normal, keys_values, valid.unsqueeze(1)))
        convolved, _ = self.convolution(self.convolution_norm(x), valid)
        x = x[:, :: self.stride] + convolved
        x = x + 0.5 * self.second(self.second_norm(x))
        y: Tensor = self.norm(x)
        return y


class EfficientConformer(AsrNetwork):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`EfficientConformerConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    stride = 2 * STRIDE

    def __init__(self, config: EfficientConformerConfig) -> None:
        super().__init__(config.n_features)
        n_blocks, halve_at = config.n_blocks, config.halve_at
        check_blocks(config, ("halve_at", halve_at < n_blocks, f"less than n_blocks, {n_blocks}"))
        self.config = config
        self.subsample = Subsampling(config.n_features, n_channels=config.width, width=config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            EfficientBlock(
                config,
                group=config.group if i <= halve_at else 1,
                stride=2 if i == halve_at else 1,
            )
            for i in range(n_blocks)
        )
        self.classify = nn.Linear(config.width, config.n_symbols)

    def encode(self, features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AsrNetwork.encode`."""
        x = self.dropout(self.subsample(features))
        valid = lengths_to_mask(encoded_frames(n_frames), x.shape[1])
        for block in self.blocks:
            x, valid = block(x, valid), valid[:, :: block.stride]
        return x, valid.sum(1)
