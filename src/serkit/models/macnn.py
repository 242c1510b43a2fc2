"""MACNN: a convolutional network with attention head fusion.

Xu, Zhang, Khan: "Improve Accuracy of Speech Emotion Recognition with Attention Head Fusion", CCWC
2020 (doi 10.1109/CCWC47524.2020.9031207); as in the public code ``adbailey1/moe``, which builds
mixtures of experts from it and with which this file agrees in logits, losses, gradients and
batch-norm statistics.

The cepstra of a segment are taken as an image, coefficients by frames. Two wide kernels read it,
one along coefficients and one along frames; four 3x3 convolutions follow, pooled twice. Each
attention head multiplies query and key element by element, takes a softmax over *channels*, and
weighs the value with it; no place is weighed against another. The heads are averaged over places
and among themselves, which is what their published concatenation along an axis of places amounts
to. There is no dropout.

The stages are written for any number of copies side by side: see :class:`Stem`. The network here
has one of each; ``expert_fusion.py`` has several.

Parameters with batch-norm statistics: 156,311 (7 classes, any number of features); without them
155,636 for 4 classes, 155,896 for 8, and 618,468 for 4 classes at twice the width.

Deviations, none of which touches the published setting, segments of 63 frames:

1. Lengths are respected: each utterance gets what it would get alone, and padding never changes a
   result in evaluation. (In training, padding counts in the statistics of batch norm.) A view of
   fixed length makes every frame valid, as published.
2. Below five frames nothing would be left after pooling; such an utterance gets zeros up to five.
3. The width of every layer can be multiplied (``width``), for controls of equal size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.models import head_fusion
from serkit.models.layers import classify_in_stages, mean_over_places, widened
from serkit.models.native import takes_compiled_form
from serkit.models.norming import Pool, norm_and_pool
from serkit.models.reading import read_image

__all__ = [
    "MIN_SIZE",
    "Classifier",
    "HeadFusion",
    "Macnn",
    "MacnnConfig",
    "Stem",
    "fuse_heads",
    "macnn_stages",
]

MIN_SIZE = 5  # frames, and coefficients: 5 -> 4 -> 2 -> 1 through stem and pools


@dataclass(frozen=True, slots=True, kw_only=True)
class MacnnConfig:
    """Shape of the network; defaults are the authors'."""

    n_features: Annotated[int, Field(ge=MIN_SIZE)] = 26
    n_classes: PositiveInt = 4
    n_heads: PositiveInt = 4
    n_hidden: PositiveInt = 64  # of a head
    width: PositiveFloat = 1.0  # factor of all widths; 2: a control of four times the parameters


class Stem(nn.Module):
    """Stage 1: ten coefficients by two frames, and two coefficients by eight frames, side by side.

    This and every other stage stands for copies that work side by side, experts, in one grouped
    operation. ``n_in`` copies enter and ``n_out`` leave: as many as came, each from its own; or
    several from one, all of which see the same; or one from several, which sees them joined.
    Channels of a map are ordered by copy. A stage takes and gives a map or vector and the number
    of valid frames of each utterance.
    """

    def __init__(self, n_channels: int, *, n_out: int = 1) -> None:
        super().__init__()
        self.n_out = n_out
        self.compiled = True  # on a CPU, where that is possible
        self.conv_a = nn.Conv2d(1, n_out * n_channels, (10, 2), padding=(4, 0))
        self.norm_a = nn.BatchNorm2d(n_out * n_channels)
        self.conv_b = nn.Conv2d(1, n_out * n_channels, (2, 8), padding=(0, 3))
        self.norm_b = nn.BatchNorm2d(n_out * n_channels)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, 1, height, n_frames)`` to one coefficient and one frame less."""
        x = F.pad(x, (0, max(0, MIN_SIZE - x.shape[-1])))
        n_frames = n_frames.clamp_min(MIN_SIZE) - 1
        paths = [(self.conv_a, self.norm_a), (self.conv_b, self.norm_b)]
        maps = read_image(
            x, paths, n_frames, n_copies=self.n_out, halved=False, compiled=self.compiled
        )
        return maps, n_frames


class ConvStage(nn.Module):
    """Stages 2 to 5: a 3x3 convolution, norm, a pool in the first two, ReLU."""

    def __init__(
        self, n_channels: int, n_filters: int, *, pool: bool, n_in: int = 1, n_out: int = 1
    ) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        self.pool = pool
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(n_in * n_channels, n_out * n_filters, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(n_out * n_filters)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to half of both sizes, or the same."""
        pool: Pool = "max" if self.pool else "none"
        x = norm_and_pool(self.conv(x), self.norm, n_frames, pool=pool, compiled=self.compiled)
        return x, n_frames // 2 if self.pool else n_frames


class HeadFusion(nn.Module):
    """Stage 6: attention heads, averaged over places and among themselves.

    Queries, keys and values of all heads are channels of one 1x1 convolution, ordered by copy,
    head, and query, key, value. It is computed as a product of matrices per copy, with the places
    of all utterances as rows, so that the softmax runs over neighbours in memory.
    """

    def __init__(
        self, n_channels: int, *, n_heads: int, n_hidden: int, n_in: int = 1, n_out: int = 1
    ) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        self.shape = (n_out, n_heads, 3, n_hidden)
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(n_in * n_channels, math.prod(self.shape), 1, groups=groups)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to ``(batch, n_out * n_hidden)``."""
        batch, _, height, width = x.shape
        n_out, n_heads, _, n_hidden = self.shape
        groups, n_places = self.conv.groups, batch * height * width
        rows = x.permute(0, 2, 3, 1).reshape(n_places, groups, -1).transpose(0, 1)
        weight = self.conv.weight.view(groups, -1, rows.shape[2]).transpose(1, 2)
        assert self.conv.bias is not None
        shape = (groups, batch, height, width, n_out // groups, n_heads, 3, n_hidden)
        if self._takes_compiled_form(x):
            parts, bias = torch.bmm(rows, weight), self.conv.bias.view(groups, *shape[4:])
            fused: Tensor = head_fusion.FuseHeads.apply(parts.view(shape), bias, n_frames)  # type: ignore[no-untyped-call]
        else:
            parts = torch.baddbmm(self.conv.bias.view(groups, 1, -1), rows, weight)
            fused = fuse_heads(parts.view(shape), n_frames)
        return fused.transpose(0, 1).flatten(1), n_frames

    def _takes_compiled_form(self, x: Tensor) -> bool:
        return (
            self.compiled
            and takes_compiled_form(x, self.conv.weight, training=self.training, half=True)
            and head_fusion.available()
        )


def fuse_heads(parts: Tensor, n_frames: Tensor) -> Tensor:
    """Weigh values by a softmax of query times key; average over places and heads.

    Here is the definition; on a CPU ``head_fusion.py`` does it in one pass.

    Parameters
    ----------
    parts : (n_groups, batch, height, n_frames, n_copies, n_heads, 3, n_hidden)
        Queries, keys and values.
    n_frames : (batch,), valid frames, at least 1

    Returns
    -------
    fused : (n_groups, batch, n_copies, n_hidden)
    """
    query, key, value = parts.unbind(6)
    heads = (query * key).softmax(-1) * F.relu(value)
    maps = heads.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)
    means = mean_over_places(maps, n_frames.repeat(len(parts)))
    return means.view(*heads.shape[:2], *heads.shape[4:]).mean(3)


class Classifier(nn.Module):
    """Stage 7: dropout, where there is any, and a linear layer for each copy."""

    def __init__(
        self,
        n_channels: int,
        n_outputs: int,
        *,
        dropout: float = 0.0,
        n_in: int = 1,
        n_out: int = 1,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        # A convolution over a single place is a linear layer that knows groups.
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv1d(n_in * n_channels, n_out * n_outputs, 1, groups=groups)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_in * n_channels)`` to logits ``(batch, n_out * n_outputs)``."""
        return self.conv(self.dropout(x).unsqueeze(-1)).squeeze(-1), n_frames


def macnn_stages(
    config: MacnnConfig, copies: list[tuple[int, int]], *, n_outputs: int
) -> nn.ModuleList:
    """Build the seven stages.

    Parameters
    ----------
    config
        Its ``n_classes`` has no say.
    copies
        ``n_in`` and ``n_out`` of each stage; see :class:`Stem`.
    n_outputs
        Logits of each copy of the classifier.
    """
    stem, *convs, heads, last = copies
    n_stem = widened(8, config.width)  # of either kernel
    widths = [2 * n_stem, *(widened(n, config.width) for n in (32, 48, 64, 80))]
    n_hidden = widened(config.n_hidden, config.width)
    stages: list[nn.Module] = [Stem(n_stem, n_out=stem[1])]
    for i, (n_in, n_out) in enumerate(convs):
        stages.append(ConvStage(widths[i], widths[i + 1], pool=i < 2, n_in=n_in, n_out=n_out))
    stages.append(
        HeadFusion(
            widths[-1], n_heads=config.n_heads, n_hidden=n_hidden, n_in=heads[0], n_out=heads[1]
        )
    )
    stages.append(Classifier(n_hidden, n_outputs, n_in=last[0], n_out=last[1]))
    return nn.ModuleList(stages)


class Macnn(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`MacnnConfig`.
    """

    def __init__(self, config: MacnnConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = macnn_stages(config, [(1, 1)] * 7, n_outputs=config.n_classes)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, width * n_hidden), the fused heads before the classifier
        """
        return classify_in_stages(self.stages, features, n_frames)
