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

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models.fused_tab import FusedBlock, frames_first, utterances_first
from serkit.models.layers import lengths_to_mask, masked_mean, reverse_frames

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

    def fused_arguments(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Give weight, gamma, beta and a fresh dropout mask as :class:`FusedBlock` takes them."""
        keep = 1.0 - self.dropout.p
        mask = None
        if keep < 1.0:
            mask = torch.empty(self.conv.out_channels, batch).bernoulli_(keep).div_(keep)
        gamma, beta = self.norm.weight.unsqueeze(1), self.norm.bias.unsqueeze(1)
        return self.conv.weight, gamma, beta, mask

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, var: Tensor, n: int) -> None:
        """Move the running statistics as batch norm does in training.

        Parameters
        ----------
        mean, var : (n_channels, 1), of the convolution without its bias, over ``n`` positions
        """
        norm = self.norm
        unbiased = var.squeeze(1) * (n / max(n - 1, 1))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert self.conv.bias is not None
        norm.running_mean.lerp_(mean.squeeze(1) + self.conv.bias, _MOMENTUM)
        norm.running_var.lerp_(unbiased, _MOMENTUM)
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
        # Training on a CPU takes the same step in another form; see serkit.models.fused_tab.
        self.fused = config.block == "tab"
        self.entry = nn.Conv1d(config.n_features, config.n_filters, 1)
        self.blocks = nn.ModuleList(
            TemporalAwareBlock(
                config.n_filters, dilation=2**depth, dropout=config.dropout, kind=config.block
            )
            for depth in range(config.n_scales)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return every block's output, each ``(batch, n_filters, n_frames)``."""
        if self.fused and self.training and x.device.type == "cpu":
            return self._forward_fused(x)
        x = self.entry(x)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def _forward_fused(self, x: Tensor) -> list[Tensor]:
        batch, n_columns = x.shape[0], x.shape[0] * x.shape[2]
        h = torch.addmm(
            self.entry.bias.unsqueeze(1),  # type: ignore[union-attr]
            self.entry.weight.squeeze(2),
            frames_first(x),
        )
        outputs = []
        for block in self.blocks:
            assert isinstance(block, TemporalAwareBlock)
            first, second = block.first, block.second
            h, mean1, var1, mean2, var2 = FusedBlock.apply(  # type: ignore[no-untyped-call]
                h,
                *first.fused_arguments(batch),
                *second.fused_arguments(batch),
                first.dilation * batch,
                batch,
                _EPS,
            )
            first.update_statistics(mean1, var1, n_columns)
            second.update_statistics(mean2, var2, n_columns)
            outputs.append(utterances_first(h, batch))
        return outputs


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
        x = features.transpose(1, 2)  # (batch, n_features, n_frames)
        mask = lengths_to_mask(n_frames, x.shape[2]).unsqueeze(1)  # (batch, 1, n_frames)
        scales = self._pool(self.forward_chain(x), mask)  # (batch, n_scales, n_filters)
        if self.backward_chain is not None:
            # Not flipped back before pooling: a mean over time does not care.
            scales = scales + self._pool(self.backward_chain(reverse_frames(x, n_frames)), mask)
        embedding = self._fuse(scales)
        return {"emotion": self.head(embedding), "embedding": embedding}

    @staticmethod
    def _pool(outputs: list[Tensor], mask: Tensor) -> Tensor:
        return torch.stack([masked_mean(x, mask) for x in outputs], dim=1)

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
