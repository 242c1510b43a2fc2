"""TIM-Net: temporal-aware bi-directional multi-scale network.

Ye, Wen, Wei, Xu, Liu, Wang, Shan: "Temporal Modeling Matters: A Novel Temporal Emotional Modeling
Approach for Speech Emotion Recognition", ICASSP 2023 (arXiv 2211.08233); as in the authors' code,
with which this file agrees to float32 rounding in logits, losses, gradients and batch-norm
statistics.

An utterance's cepstra run through two independent chains of temporal-aware blocks, one forward and
one backward in time, with dilations 1, 2, 4, ... At every depth the two outputs are added and
averaged over time; the averages are weighted by one learned number per depth and summed. 39 numbers
reach the classifier.

Parameters with batch-norm statistics, as the authors count them: 106,992 (7 classes, 8 depths),
106,952 (6), 107,032 (8), 132,770 (4 classes, 10 depths).

Deviations, all of them off by default or without effect on the published setting:

1. Lengths are respected: the backward chain reverses each utterance's own frames and the time
   average runs over them, so padding never changes a result in evaluation. The published network
   sees fixed-length input in which padding counts as speech: then every frame is valid and the two
   are the same.
2. PyTorch's batch norm keeps the sample variance (Keras: the population variance); with thousands
   of frames per batch the difference is below 1e-4.
3. Switches for the ablations of the authors' supplement: ``bidirectional``, ``block``, ``fusion``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models import timnet_step
from serkit.models.layers import (
    lengths_to_mask,
    masked_mean,
    reverse_frames,
    track_statistics,
)
from serkit.models.native import takes_compiled_form

__all__ = ["TimNet", "TimNetConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimNetConfig:
    """Shape of the network; defaults are the authors'."""

    n_features: PositiveInt = 39
    n_classes: PositiveInt = 7
    n_filters: PositiveInt = 39
    n_scales: PositiveInt = 8  # depths; the authors use 10 for IEMOCAP's 14-second input
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    bidirectional: bool = True
    # 'tab' multiplies a block's input by its gate; 'tcn' adds the two (a plain residual block).
    block: Literal["tab", "tcn"] = "tab"
    # learned: one free weight per depth. mean: all depths alike. last: the deepest only.
    # softmax: the learned weights normalised. attention: weights from the input, one query.
    fusion: Literal["learned", "mean", "last", "softmax", "attention"] = "learned"


# Keras: epsilon 1e-3, and a momentum of 0.99 on the old value.
_EPS, _MOMENTUM = 1e-3, 0.01


class CausalConv(nn.Module):
    """Two-tap dilated convolution that sees the present and the past, then norm, ReLU, dropout."""

    def __init__(self, n_channels: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Conv1d(n_channels, n_channels, 2, dilation=dilation)
        self.norm = nn.BatchNorm1d(n_channels, eps=_EPS, momentum=_MOMENTUM)
        self.dropout = nn.Dropout1d(dropout)  # whole channels of an utterance at a time

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, n_channels, n_frames)`` to the same shape."""
        h: Tensor = self.dropout(F.relu(self.norm(self.conv(F.pad(x, (self.dilation, 0))))))
        return h

    def evaluation_arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Give weight, scale and offset: norm and bias in one, as ``evaluate_chain`` takes them."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert self.conv.bias is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        offset = norm.bias + (self.conv.bias - norm.running_mean) * scale
        return self.conv.weight, scale, offset

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Move the running statistics as batch norm does in training.

        Parameters
        ----------
        mean, var : (n_channels,), of the convolution without its bias, over ``n`` positions
        """
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert self.conv.bias is not None
        running = (norm.running_mean, norm.running_var)
        track_statistics(running, (mean + self.conv.bias, var), n, _MOMENTUM)
        norm.num_batches_tracked.add_(1)


class TemporalAwareBlock(nn.Module):
    """Two causal convolutions whose sigmoid gates the block's input (paper, section 2.2)."""

    def __init__(
        self, n_channels: int, *, dilation: int, dropout: float, kind: Literal["tab", "tcn"]
    ) -> None:
        super().__init__()
        self.kind = kind
        self.first = CausalConv(n_channels, dilation=dilation, dropout=dropout)
        self.second = CausalConv(n_channels, dilation=dilation, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, n_channels, n_frames)`` to the same shape."""
        h = self.second(self.first(x))
        # ReLU comes before the sigmoid, so the gate lies in [0.5, 1): never closed.
        return x * torch.sigmoid(h) if self.kind == "tab" else x + h


class Chain(nn.Module):
    """One direction: a 1x1 convolution, then blocks of doubling dilation."""

    def __init__(self, config: TimNetConfig) -> None:
        super().__init__()
        # On a CPU the same is done by compiled code, where that is possible.
        self.compiled = config.block == "tab"
        self.dropout = config.dropout
        self.entry = nn.Conv1d(config.n_features, config.n_filters, 1)
        self.blocks = nn.ModuleList(
            TemporalAwareBlock(
                config.n_filters, dilation=2**depth, dropout=config.dropout, kind=config.block
            )
            for depth in range(config.n_scales)
        )
        self._workspace = timnet_step.Workspace()

    def forward(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Average every block's output over an utterance's valid frames.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,)

        Returns
        -------
        scales : (batch, n_scales, n_filters)
        """
        if self._takes_compiled_form(features):
            return self._compiled_form(features, n_frames)
        mask = lengths_to_mask(n_frames, features.shape[1]).unsqueeze(1)
        return torch.stack([masked_mean(x, mask) for x in self.outputs(features)], dim=1)

    def outputs(self, features: Tensor) -> Iterator[Tensor]:
        """Yield every block's output, each ``(batch, n_filters, n_frames)``."""
        x = self.entry(features.transpose(1, 2))
        for block in self.blocks:
            x = block(x)
            yield x

    def _takes_compiled_form(self, features: Tensor) -> bool:
        return (
            self.compiled
            and takes_compiled_form(features, self.entry.weight, training=self.training)
            and not features.requires_grad
            and timnet_step.available()
        )

    def _compiled_form(self, features: Tensor, n_frames: Tensor) -> Tensor:
        tiles, layout = timnet_step.to_tiles(features), timnet_step.Layout.of(n_frames)
        if self.training:
            sums, statistics = self._train_step(tiles, layout)
            for half, (mean, var) in zip(self._halves(), statistics.flatten(0, 1), strict=True):
                half.update_statistics(mean, var, features.shape[0] * features.shape[1])
        else:
            entry = (self.entry.weight, self._entry_bias)
            halves = [half.evaluation_arguments() for half in self._halves()]
            sums = timnet_step.evaluate_chain(tiles, layout, self._workspace, entry, halves)
        return sums / n_frames.clamp(min=1).view(-1, 1, 1)

    def _train_step(self, tiles: Tensor, layout: timnet_step.Layout) -> tuple[Tensor, Tensor]:
        keep = 1.0 - self.dropout
        n_tiles, _, _, n_lanes = tiles.shape
        masks = torch.empty(len(self.blocks), 2, n_tiles, len(self._entry_bias), n_lanes)
        masks.bernoulli_(keep).div_(keep).mul_(layout.valid.unsqueeze(1))
        parameters = [
            parameter
            for half in self._halves()
            for parameter in (half.conv.weight, half.norm.weight, half.norm.bias)
        ]
        step = timnet_step.ChainStep.apply
        workspace, entry = self._workspace, (self.entry.weight, self._entry_bias)
        sums, statistics = step(tiles, layout, masks, _EPS, workspace, *entry, *parameters)  # type: ignore[no-untyped-call]
        return sums, statistics

    @property
    def _entry_bias(self) -> Tensor:
        assert self.entry.bias is not None
        return self.entry.bias

    def _halves(self) -> Iterator[CausalConv]:
        for block in self.blocks:
            assert isinstance(block, TemporalAwareBlock)
            yield from (block.first, block.second)


class TimNet(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`TimNetConfig`.
    """

    def __init__(self, config: TimNetConfig) -> None:
        super().__init__()
        self.config = config
        self.forward_chain = Chain(config)
        self.backward_chain = Chain(config) if config.bidirectional else None
        if config.fusion in ("learned", "softmax"):
            self.scale_weight = nn.Parameter(torch.empty(config.n_scales))
        elif config.fusion == "attention":
            self.query = nn.Parameter(torch.empty(config.n_filters))
        self.head = nn.Linear(config.n_filters, config.n_classes)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        """Initialise as Keras does by default; torch's own defaults are narrower."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.fusion in ("learned", "softmax"):
            nn.init.uniform_(self.scale_weight, -0.05, 0.05)
        elif self.config.fusion == "attention":
            nn.init.normal_(self.query, std=self.config.n_filters**-0.5)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, n_filters), the fused vector before the classifier
        """
        scales = self.forward_chain(features, n_frames)  # (batch, n_scales, n_filters)
        if self.backward_chain is not None:
            # Not flipped back: a mean over time does not care.
            backwards = reverse_frames(features.transpose(1, 2), n_frames).transpose(1, 2)
            scales = scales + self.backward_chain(backwards, n_frames)
        embedding = self._fuse(scales)
        return {"emotion": self.head(embedding), "embedding": embedding}

    def _fuse(self, scales: Tensor) -> Tensor:
        """Weigh the depths, ``(batch, n_scales, n_filters) -> (batch, n_filters)``."""
        match self.config.fusion:
            case "learned":
                return torch.einsum("bsf,s->bf", scales, self.scale_weight)
            case "softmax":
                return torch.einsum("bsf,s->bf", scales, self.scale_weight.softmax(0))
            case "attention":
                score = scales @ self.query / self.config.n_filters**0.5
                return torch.einsum("bsf,bs->bf", scales, score.softmax(1))
            case "mean":
                return scales.mean(1)
            case "last":
                return scales[:, -1]
