"""Frames to one vector to classes: the plain head on the frames of a pre-trained encoder.

The default is the head of the SUPERB benchmark for emotion (Yang et al., Interspeech 2021, arXiv
2105.01051), which is also that of ``Wav2Vec2ForSequenceClassification``: each frame is projected to
256 numbers, the projections are averaged over the utterance, and a linear layer follows, without a
nonlinearity. The mean may be joined by the standard deviation, or replaced by a mean whose weights
are learnt (one query, as in self-attentive pooling), and a hidden layer may stand before the
classes. What a larger system on the same frames adds is what it gains over this one.

Parameters with batch-norm statistics (there is none): 12,039 (39 features, 7 classes).

Deviations: none. Lengths are respected; padding never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask, masked_mean

__all__ = ["Pooled", "PooledConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledConfig:
    """Shape of the head; the default is SUPERB's."""

    n_features: PositiveInt = 768
    n_classes: PositiveInt = 4
    n_projected: PositiveInt | None = 256  # numbers per frame; None: the frames as they are
    pooling: Literal["mean", "mean_std", "attention"] = "mean"
    n_hidden: PositiveInt | None = None  # units between the pooled vector and the classes
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Pooled(nn.Module):
    """The head; see the module's page.

    Parameters
    ----------
    config
        See :class:`PooledConfig`.
    """

    def __init__(self, config: PooledConfig) -> None:
        super().__init__()
        self.config = config
        width = config.n_projected or config.n_features
        self.project = nn.Linear(config.n_features, width) if config.n_projected else nn.Identity()
        self.query = nn.Linear(width, 1, bias=False) if config.pooling == "attention" else None
        n_pooled = 2 * width if config.pooling == "mean_std" else width
        hidden: list[nn.Module] = []
        if config.n_hidden is not None:
            hidden = [nn.Dropout(config.dropout), nn.Linear(n_pooled, config.n_hidden), nn.ReLU()]
        self.hidden = nn.Sequential(*hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.n_hidden or n_pooled, config.n_classes)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, d), what the classifier sees
        """
        x = self.project(features)
        mask = lengths_to_mask(n_frames, x.shape[1])  # (batch, n_frames)
        embedding = self.hidden(self._pool(x, mask))
        return {"emotion": self.classify(self.dropout(embedding)), "embedding": embedding}

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Turn ``(batch, n_frames, width)`` into one vector each."""
        if self.query is not None:
            scores = self.query(x).squeeze(-1).masked_fill(~mask, -torch.inf)
            return torch.einsum("bt,btd->bd", scores.softmax(-1), x)
        x, mask = x.transpose(1, 2), mask.unsqueeze(1)
        mean = masked_mean(x, mask)
        if self.config.pooling == "mean":
            return mean
        variance = masked_mean((x - mean.unsqueeze(-1)).square(), mask)
        # The root of zero, which one frame alone has, has no finite gradient.
        return torch.cat([mean, variance.clamp_min(1e-8).sqrt()], dim=1)
