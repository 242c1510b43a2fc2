"""Light-SERNet as ported for mixtures of experts: another network of the same name and widths.

The port to PyTorch in the public code ``adbailey1/moe``, with which this file agrees in logits,
losses, gradients and batch-norm statistics. ``light_sernet.py`` is what the paper describes; this
is what that code builds its "Light-SERNet" experts from. It differs:

* the three paths of the stem are joined one after the other in *time*, not as channels;
* kernels and pools are transposed: what the paper does along frames is done along coefficients;
* every pool is preceded by a frame of zeros as large as its map, so sizes stay and each pool
  shrinks what the map holds of the utterance; the mean at the end is mostly a mean of frame;
* the 1x1 convolution has a border of zeros, which batch norm makes constants.

It needs 656 million multiplications for a segment of 63 frames, MACNN 25 million.

Parameters with batch-norm statistics: 426,567 (7 classes, any number of features); without them
423,876 for 4 classes, and 1,687,428 for 4 classes at twice the width.

Deviations, none of which touches the published setting, 26 coefficients by 63 frames:

1. The published sizes of the zero frames hold for that input alone; here they follow from the
   rule that gives them there, for any number of coefficients and frames.
2. Lengths are respected: each utterance gets what it would get alone, framed by its own length,
   and padding never changes a result in evaluation. (In training, padding counts in the statistics
   of batch norm.) A view of fixed length makes every frame valid, as published.
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

from serkit.models.layers import classify_in_stages, widened
from serkit.models.macnn import Classifier
from serkit.models.norming import norm_and_pool
from serkit.models.reading import read_image

__all__ = ["LightSernetPort", "LightSernetPortConfig", "light_sernet_port_stages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LightSernetPortConfig:
    """Shape of the network; defaults are the port's."""

    n_features: PositiveInt = 26
    n_classes: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    width: PositiveFloat = 1.0  # factor of all widths; 2: a control of four times the parameters


def _shift(x: Tensor, by: Tensor, width: int) -> Tensor:
    """Move maps to the right, each by its own number of frames, into maps of zeros.

    Parameters
    ----------
    x : (batch, n_channels, height, n_frames)
    by : (batch,)

    Returns
    -------
    shifted : (batch, n_channels, height, width)
    """
    source = torch.arange(width, device=x.device) - by.unsqueeze(1)  # (batch, width)
    inside = (source >= 0) & (source < x.shape[-1])
    index = source.clamp(0, x.shape[-1] - 1)[:, None, :, None]
    places = x.permute(0, 2, 3, 1)  # so that channels stay last in memory
    moved = places.gather(2, index.expand(-1, x.shape[2], -1, x.shape[1])).permute(0, 3, 1, 2)
    return moved.mul_(inside.to(x.dtype)[:, None, None])


class Stem(nn.Module):
    """Stage 1: eleven coefficients, nine frames, and three by three; pooled, joined in time.

    For copies side by side, here and in the other stages, see ``macnn.Stem``.
    """

    def __init__(self, n_channels: int, *, n_out: int = 1) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        n_all = n_out * n_channels
        self.conv_coefs = nn.Conv2d(1, n_all, (11, 1), padding=(5, 0))
        self.norm_coefs = nn.BatchNorm2d(n_all)
        self.conv_frames = nn.Conv2d(1, n_all, (1, 9), padding=(0, 4))
        self.norm_frames = nn.BatchNorm2d(n_all)
        self.conv_both = nn.Conv2d(1, n_all, 3, padding=1)
        self.norm_both = nn.BatchNorm2d(n_all)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, 1, height, n_frames)`` to about half the height, 3/2 of the frames."""
        paths = [
            (self.conv_coefs, self.norm_coefs),
            (self.conv_frames, self.norm_frames),
            (self.conv_both, self.norm_both),
        ]
        x = read_image(x, paths, n_frames, n_copies=1, halved=False, compiled=self.compiled)
        x = F.avg_pool2d(F.pad(x, (2, 3, 2, 3)), 2)
        n_pooled = (n_frames + 5) // 2
        width = 3 * x.shape[-1]
        joined = [_shift(y, i * n_pooled, width) for i, y in enumerate(x.chunk(3, dim=1))]
        return joined[0] + joined[1] + joined[2], 3 * n_pooled


class ConvStage(nn.Module):
    """Stages 2 to 5: a 3x3 convolution, norm, ReLU, a frame of zeros and a pool.

    ``early`` says where the odd row and frame of zeros go: behind the map, or before it.
    """

    def __init__(
        self,
        n_channels: int,
        n_filters: int,
        *,
        pool_frames: bool,
        early: bool,
        n_in: int = 1,
        n_out: int = 1,
    ) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        self.pool_frames, self.early = pool_frames, early
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(
            n_in * n_channels, n_out * n_filters, 3, padding=1, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(n_out * n_filters)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to the same sizes."""
        x = norm_and_pool(self.conv(x), self.norm, n_frames, pool="none", compiled=self.compiled)
        odd = 0 if self.early else 1
        height = x.shape[2]
        above = (height + odd) // 2
        x = F.pad(x, (0, 0, above, height - above))
        if self.pool_frames:
            x = _shift(x, (n_frames + odd) // 2, 2 * x.shape[-1])
        return F.avg_pool2d(x, (2, 1 + self.pool_frames)), n_frames


class Summary(nn.Module):
    """Stage 6: a 1x1 convolution with a border, norm, ReLU and the mean over places."""

    def __init__(self, n_channels: int, n_filters: int, *, n_in: int = 1, n_out: int = 1) -> None:
        super().__init__()
        self.compiled = True  # on a CPU, where that is possible
        groups = math.gcd(n_in, n_out)
        self.conv = nn.Conv2d(
            n_in * n_channels, n_out * n_filters, 1, padding=1, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(n_out * n_filters)

    def forward(self, x: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_channels, height, n_frames)`` to ``(batch, n_out * n_filters)``."""
        x, n_frames = self.conv(x), n_frames + 2
        return norm_and_pool(x, self.norm, n_frames, pool="mean", compiled=self.compiled), n_frames


def light_sernet_port_stages(
    config: LightSernetPortConfig, copies: list[tuple[int, int]], *, n_outputs: int
) -> nn.ModuleList:
    """Build the seven stages; parameters as of ``macnn.macnn_stages``."""
    stem, *convs, summary, last = copies
    widths = [widened(n, config.width) for n in (32, 64, 96, 128, 160, 320)]
    stages: list[nn.Module] = [Stem(widths[0], n_out=stem[1])]
    for i, (n_in, n_out) in enumerate(convs):
        stages.append(
            ConvStage(
                widths[i],
                widths[i + 1],
                pool_frames=i < 2,
                early=i % 2 == 0,
                n_in=n_in,
                n_out=n_out,
            )
        )
    stages.append(Summary(widths[4], widths[5], n_in=summary[0], n_out=summary[1]))
    stages.append(
        Classifier(widths[5], n_outputs, dropout=config.dropout, n_in=last[0], n_out=last[1])
    )
    return nn.ModuleList(stages)


class LightSernetPort(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`LightSernetPortConfig`.
    """

    def __init__(self, config: LightSernetPortConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = light_sernet_port_stages(config, [(1, 1)] * 7, n_outputs=config.n_classes)

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
