"""Conformer blocks: attention with relative positions, convolution, half-step feed-forward layers.

Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", Interspeech
2020 (arXiv 2005.08100). Distances between frames enter attention as in Transformer-XL (Dai et al.,
arXiv 1901.02860, section 3.3): a term of content and one of distance, each with a bias of its own.

A block runs on whole utterances, or on stretch after stretch of them with what it remembers of the
stretches before (:class:`Past`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models.asr_parts import sinusoids

__all__ = [
    "ConformerBlock",
    "ConvolutionModule",
    "FeedForward",
    "FrameNorm",
    "Past",
    "RelativeAttention",
    "chunks_visible",
]

MASKED = -1e9  # a score so low that its weight is 0; finite, so that padding gives no NaN


@dataclass(frozen=True, slots=True)
class Past:
    """What a block remembers of earlier frames.

    Attributes
    ----------
    keys_values : (batch, n_past, 2 * width), that later frames attend to
    convolved : (batch, n_before, width), that later frames are convolved with
    """

    keys_values: Tensor
    convolved: Tensor


def chunks_visible(n_frames: int, *, chunk: int, n_left_chunks: int | None) -> Tensor:
    """Tell which frames see which, if each sees its own chunk and those before.

    Parameters
    ----------
    chunk
        Frames of a chunk.
    n_left_chunks
        Chunks before its own that a frame sees; none: all.

    Returns
    -------
    visible : (n_frames, n_frames), bool, True where the row's frame sees the column's
    """
    own = torch.arange(n_frames) // chunk
    ahead = own.unsqueeze(0) - own.unsqueeze(1)
    visible = ahead <= 0
    return visible if n_left_chunks is None else visible & (ahead >= -n_left_chunks)


class FeedForward(nn.Sequential):
    """Two linear layers with Swish between them."""

    def __init__(self, width: int, *, n_hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, n_hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, width),
            nn.Dropout(dropout),
        )


class RelativeAttention(nn.Module):
    """Self-attention in which the distance between frames counts.

    Parameters
    ----------
    width
        Of a frame.
    group
        Neighbouring frames that attend as one; see :meth:`attend`.
    """

    def __init__(self, width: int, *, n_heads: int, dropout: float, group: int = 1) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.distance = nn.Linear(width, group * width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, 1, group * width // n_heads))
        self.distance_bias = nn.Parameter(torch.zeros(n_heads, 1, group * width // n_heads))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys_values: Tensor, visible: Tensor) -> Tensor:
        """Let frames attend to themselves and those before them.

        Parameters
        ----------
        x : (batch, n_queries, width)
        keys_values : (batch, n_keys, 2 * width), ``key_value`` of frames, of which the last are x
        visible : (batch or 1, n_queries or 1, n_keys), bool

        Returns
        -------
        y : (batch, n_queries, width)
        """
        key, value = keys_values.chunk(2, dim=2)
        y: Tensor = self.out(self.attend(self.query(x), key, value, visible))
        return y

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
        """Attend between projected frames, or groups of them, ``(batch, n, group * width)``."""
        # Distances from query to key, farthest back first.
        distances = torch.arange(key.shape[1] - 1, -query.shape[1], -1.0, device=key.device)
        waves = sinusoids(distances, self.distance.in_features).to(query.dtype)
        query, key, value, place = (
            torch.unflatten(x, 2, (self.n_heads, -1)).transpose(1, 2)
            for x in (query, key, value, self.distance(waves).unsqueeze(0))
        )  # (batch or 1, n_heads, n, group * width / n_heads)
        by_content = (query + self.content_bias) @ key.transpose(2, 3)
        by_distance = _aligned((query + self.distance_bias) @ place.transpose(2, 3), key.shape[2])
        scores = (by_content + by_distance) / math.sqrt(query.shape[3])
        weights = self.dropout(scores.masked_fill(~visible.unsqueeze(1), MASKED).softmax(3))
        heads: Tensor = (weights @ value).transpose(1, 2).flatten(2)
        return heads


def _aligned(scores: Tensor, n_keys: int) -> Tensor:
    """Turn scores by distance into scores by key.

    Row i of ``(..., n_queries, n_queries + n_keys - 1)`` begins n_queries - 1 - i places too early;
    one more column, read in rows of the old length, moves each by what it lacks.
    """
    *outer, n_queries, n_distances = scores.shape
    wider = F.pad(scores, (1, 0)).reshape(*outer, n_distances + 1, n_queries)
    return wider[..., 1:, :].reshape(*outer, n_queries, n_distances)[..., :n_keys]


class FrameNorm(nn.Module):
    """Batch or layer normalisation of frames; padding has no part in the statistics."""

    def __init__(self, width: int, *, batch: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if batch else nn.LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalise ``(batch, n_frames, width)`` where ``valid`` ``(batch, n_frames)`` is True."""
        if isinstance(self.norm, nn.LayerNorm):
            normal: Tensor = self.norm(x)
            return normal
        frames = x[valid]
        if self.training and len(frames) == 1:  # one frame has no spread to learn from
            return x
        return torch.zeros_like(x).masked_scatter(valid.unsqueeze(2), self.norm(frames))


class ConvolutionModule(nn.Module):
    """Gate, convolve each channel over time, normalise, project.

    Parameters
    ----------
    width
        Channels.
    kernel
        Frames that the convolution spans; odd, unless it is causal.
    causal
        Whether it looks at no later frame.
    batch_norm
        Batch normalisation instead of layer normalisation.
    gated
        A gated linear unit at the entrance, or else Swish.
    stride
        Frames from one that is kept to the next.
    """

    def __init__(
        self,
        width: int,
        *,
        kernel: int,
        dropout: float,
        causal: bool = False,
        batch_norm: bool = False,
        gated: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.n_before = kernel - 1 if causal else (kernel - 1) // 2
        self.n_behind = kernel - 1 - self.n_before
        self.enter = nn.Linear(width, 2 * width if gated else width)
        self.gate: nn.Module = nn.GLU(dim=2) if gated else nn.SiLU()
        self.convolve = nn.Conv1d(width, width, kernel, groups=width, stride=stride)
        self.norm = FrameNorm(width, batch=batch_norm)
        self.leave = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve frames with their neighbours.

        Parameters
        ----------
        x : (batch, n_frames, width)
        valid : (batch, n_frames), bool
        before : (batch, n_before, width), the entrance's frames before these; none: zeros

        Returns
        -------
        y : (batch, n_frames, width); with a stride, each ``stride``-th frame
        before : (batch, n_before, width), for the frames after these
        """
        x = self.gate(self.enter(x)).masked_fill(~valid.unsqueeze(2), 0)
        if before is None:
            before = x.new_zeros(len(x), self.n_before, x.shape[2])
        x = torch.cat([before, x], dim=1)
        before = x[:, x.shape[1] - self.n_before :]
        x = self.convolve(F.pad(x, (0, 0, 0, self.n_behind)).transpose(1, 2)).transpose(1, 2)
        stride = self.convolve.stride[0]
        y = self.leave(F.silu(self.norm(x, valid[:, ::stride])))
        return self.dropout(y), before


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, attention, convolution, the other half; then a layer norm."""

    def __init__(
        self,
        width: int,
        *,
        n_heads: int,
        n_ffn: int,
        kernel: int,
        dropout: float,
        causal: bool,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        self.first_norm, self.attention_norm, self.convolution_norm, self.second_norm = (
            nn.LayerNorm(width) for _ in range(4)
        )
        self.first = FeedForward(width, n_hidden=n_ffn, dropout=dropout)
        self.attention = RelativeAttention(width, n_heads=n_heads, dropout=dropout)
        self.convolution = ConvolutionModule(
            width, kernel=kernel, dropout=dropout, causal=causal, batch_norm=batch_norm
        )
        self.second = FeedForward(width, n_hidden=n_ffn, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor, visible: Tensor, past: Past | None = None
    ) -> tuple[Tensor, Past]:
        """Transform frames.

        Parameters
        ----------
        x : (batch, n_frames, width)
        valid : (batch, n_frames), bool
        visible : (batch or 1, n_frames or 1, n_past + n_frames), bool
        past
            What the block gave with the frames before these; none at the beginning.

        Returns
        -------
        y : (batch, n_frames, width)
        past
            With these frames in it.
        """
        x = x + 0.5 * self.first(self.first_norm(x))
        normal = self.attention_norm(x)
        keys_values = self.attention.key_value(normal)
        if past is not None:
            keys_values = torch.cat([past.keys_values, keys_values], dim=1)
        x = x + self.dropout(self.attention(normal, keys_values, visible))
        before = None if past is None else past.convolved
        convolved, before = self.convolution(self.convolution_norm(x), valid, before)
        x = x + convolved
        x = x + 0.5 * self.second(self.second_norm(x))
        return self.norm(x), Past(keys_values, before)
