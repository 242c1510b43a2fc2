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

from serkit.models.asr_parts import MIN_FEATURES, Cmvn, Subsampling, encoded_frames
from serkit.models.conformer import ConvolutionModule, FeedForward, RelativeAttention
from serkit.models.layers import lengths_to_mask
from serkit.types import InputError

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


class EfficientConformer(nn.Module):
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

    stride = 8  # frames that one encoded frame stands for

    def __init__(self, config: EfficientConformerConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.cmvn = Cmvn(config.n_features)
        self.subsample = Subsampling(config.n_features, n_channels=config.width, width=config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            EfficientBlock(
                config,
                group=config.group if i <= config.halve_at else 1,
                stride=2 if i == config.halve_at else 1,
            )
            for i in range(config.n_blocks)
        )
        self.classify = nn.Linear(config.width, config.n_symbols)

    def set_cmvn(self, mean: Tensor, istd: Tensor) -> None:
        """Take over statistics of features, each ``(n_features,)``; see :meth:`Cmvn.set`."""
        self.cmvn.set(mean, istd)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Recognise a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        asr : (batch, n_encoded, n_symbols), logits; with ``n_asr`` (batch,)
        encoded : (batch, n_encoded, width), zeros as padding; with ``n_encoded`` (batch,)
        """
        x = self.dropout(self.subsample(self.cmvn(features, n_frames)))
        n_encoded = encoded_frames(n_frames)
        valid = lengths_to_mask(n_encoded, x.shape[1])
        for block in self.blocks:
            x, valid = block(x, valid), valid[:, :: block.stride]
        x = x.masked_fill(~valid.unsqueeze(2), 0)
        outputs = {"asr": self.classify(x), "n_asr": valid.sum(1)}
        return outputs | {"encoded": x, "n_encoded": outputs["n_asr"]}


def _check(config: EfficientConformerConfig) -> None:
    """Refuse settings that contradict each other."""
    for name, holds, expected in (
        ("n_heads", config.width % config.n_heads == 0, f"a divisor of width, {config.width}"),
        ("kernel", config.kernel % 2 == 1, "an odd number"),
        ("halve_at", config.halve_at < config.n_blocks, f"less than n_blocks, {config.n_blocks}"),
    ):
        if not holds:
            raise InputError(f"model.{name} is {getattr(config, name)}, expected {expected}")
