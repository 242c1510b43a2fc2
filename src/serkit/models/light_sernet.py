"""Light-SERNet: a small fully convolutional network.

Aftab, Morsali, Ghaemmaghami, Champagne: "LIGHT-SERNET: A Lightweight Fully Convolutional Neural
Network for Speech Emotion Recognition", ICASSP 2022 (arXiv 2110.03435); as in the authors' code,
with which this file agrees in logits, losses, gradients and batch-norm statistics.

Three convolutions read the cepstra side by side, one along frames, one along coefficients, one
along both; their channels are joined. Four 3x3 convolutions follow, each pooled by averages, two in
both directions and two in time alone; a 1x1 convolution widens to 320 channels, whose mean is
classified.

Parameters with batch-norm statistics: 463,431 (7 classes, any number of features), 462,468 (4);
without them 461,703 and 460,740. The "0.88 MB" often quoted are the latter in float16.

Deviations, none of which touches the published setting, utterances of 3 or 7 seconds sharp:

1. Lengths are respected: each utterance gets what it would get alone, and padding never changes a
   result in evaluation. (In training, padding counts in the statistics of batch norm.) A view of
   fixed length makes every frame valid, as published.
2. Maps lie with coefficients first and frames last, as everywhere in this package, so kernels are
   the authors' transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import classify_in_stages, widened
from serkit.models.macnn import Classifier
from serkit.models.norming import Pool, norm_and_pool
from serkit.models.reading import read_image

__all__ = ["LightSernet", "LightSernetConfig", "light_sernet_stages"]

# Keras: epsilon 1e-3, and a momentum of 0.99 on the old value.
_EPS, _MOMENTUM = 1e-3, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSernetConfig:
    """Shape of the network; defaults are the authors'."""

    n_features: PositiveInt = 40
    n_classes: PositiveInt = 7
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    width: PositiveFloat = 1.0  # factor of all widths


def _norm(n_channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n_channels, eps=_EPS, momentum=_MOMENTUM)


class Stem(nn.Module):
    """Stage 1: eleven frames, nine coefficients, and three by three, side by side; pooled.

    For copies side by side, here and in the other stages, see ``macnn.Stem``.
    """

    def __init__(self, n_channels: int, *, n_out: int = 1) -> None:
        super().__init__()
        self.n_out = n_out
        self.compiled = True  # on a CPU, where that is possible
        n_all = n_out * n_channels
        self.conv_frames = nn.Conv2d(1, n_all, (1, 11), padding=(0, 5))
        self.norm_frames = _norm(n_all)
        self.conv_coefs = nn.Conv2d(1, n_all, (9, 1), padding=(4, 0))
        self.norm_coefs = _norm(n_all)
        self.conv_both = nn.Conv2d(1, n_all, 3, padding=1)
        self.norm_both = _norm(n_all)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, 1, height, n_frames)`` to half of both sizes."""
        paths = [
            (self.conv_frames, self.norm_frames),
            (self.conv_coefs, self.norm_coefs),
            (self.conv_both, self.norm_both),
        ]
        halved = read_image(
            x, paths, n_frames, n_copies=self.n_out, halved=True, compiled=self.compiled
        )
        return halved, (n_frames + 1) // 2


class ConvStage(nn.Module):
    """Stages 2 to 5: a 3x3 convolution, norm, ReLU and a pool."""

    def __init__(
        self, n_channels: int, n_filters: int, *, pool_height: bool, n_in: int = 1, n_out: int = 1
    ) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        self.pool_height = pool_height
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(
            n_in * n_channels, n_out * n_filters, 3, padding=1, groups=groups, bias=False
        )
        self.norm = _norm(n_out * n_filters)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to half of the frames, or of both."""
        pool: Pool = "halve" if self.pool_height else "halve_frames"
        x = norm_and_pool(self.conv(x), self.norm, n_frames, pool=pool, compiled=self.compiled)
        return x, (n_frames + 1) // 2


class Summary(nn.Module):
    """Stage 6: a 1x1 convolution, norm, ReLU and the mean over places."""

    def __init__(self, n_channels: int, n_filters: int, *, n_in: int = 1, n_out: int = 1) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(n_in * n_channels, n_out * n_filters, 1, groups=groups, bias=False)
        self.norm = _norm(n_out * n_filters)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to ``(batch, n_out * n_filters)``."""
        x = self.conv(x)
        return norm_and_pool(x, self.norm, n_frames, pool="mean", compiled=self.compiled), n_frames


def light_sernet_stages(
    config: LightSernetConfig, copies: list[tuple[int, int]], *, n_outputs: int
) -> nn.ModuleList:
    """Build the seven stages; parameters as of ``macnn.macnn_stages``."""
    stem, *convs, summary, last = copies
    n_stem = widened(32, config.width)  # of each kernel
    widths = [3 * n_stem, *(widened(n, config.width) for n in (64, 96, 128, 160, 320))]
    stages: list[nn.Module] = [Stem(n_stem, n_out=stem[1])]
    for i, (n_in, n_out) in enumerate(convs):
        stages.append(
            ConvStage(widths[i], widths[i + 1], pool_height=i < 2, n_in=n_in, n_out=n_out)
        )
    stages.append(Summary(widths[4], widths[5], n_in=summary[0], n_out=summary[1]))
    stages.append(
        Classifier(widths[5], n_outputs, dropout=config.dropout, n_in=last[0], n_out=last[1])
    )
    for stage, (_, n_out) in zip(stages, copies, strict=True):
        _initialise(stage, n_out)
    return nn.ModuleList(stages)


@torch.no_grad()
def _initialise(stage: nn.Module, n_out: int) -> None:
    """Initialise as Keras does by default, each copy for itself."""
    for module in stage.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            for weight in module.weight.chunk(n_out):
                nn.init.xavier_uniform_(weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LightSernet(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`LightSernetConfig`.
    """

    def __init__(self, config: LightSernetConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = light_sernet_stages(config, [(1, 1)] * 7, n_outputs=config.n_classes)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, 320 * width), means over places before the classifier
        """
        return classify_in_stages(self.stages, features, n_frames)
