"""Small pieces that several models share: bounds, masks, pooling, reversal, recurrence, stages.

Maps of convolutional networks, ``(batch, n_channels, height, n_frames)``, lie in memory with
channels last: on a CPU, pools and the statistics of batch norm are then several times as fast. The
first of them, that of :func:`serkit.models.reading.read_image`, lies so, and what follows keeps to
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.types import InputError

__all__ = [
    "build_in_bounds",
    "classify_in_stages",
    "halve",
    "lengths_to_mask",
    "mask_frames",
    "masked_mean",
    "mean_over_places",
    "rectify_valid",
    "reverse_frames",
    "run_lstm",
    "to_image",
    "track_statistics",
    "widened",
]


Network = TypeVar("Network", bound=nn.Module)

_MAX_WEIGHTS = 500_000_000  # 2 GB in single precision, more than any published system here has


def build_in_bounds(network: Callable[[Any], Network], config: Any) -> Network:
    """Build a network unless its settings make it too large, for which it is counted first.

    Raises
    ------
    InputError
        If it has more than 500 million weights, or a size that no tensor can have.
    """
    try:
        with torch.device("meta"):  # shapes without memory
            n_weights = sum(p.numel() for p in network(config).parameters())
    except NotImplementedError:  # a network that computes while it is built
        n_weights = 0
    except (RuntimeError, OverflowError, TypeError) as error:  # no integer that torch takes
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"model: a network of these sizes cannot be built ({reason})") from error
    if n_weights > _MAX_WEIGHTS:
        raise InputError(
            f"model: a network of these sizes has {n_weights:,} weights, expected at most "
            f"{_MAX_WEIGHTS:,}: lower the numbers of units, heads or layers"
        )
    return network(config)


def widened(n_channels: int, factor: float) -> int:
    """Count the channels of a layer that is wider by a factor; at least one.

    >>> widened(16, 2), widened(80, 7**0.5)
    (32, 212)
    """
    return max(1, round(n_channels * factor))


def lengths_to_mask(lengths: Tensor, width: int) -> Tensor:
    """Mark the valid positions of padded sequences.

    Parameters
    ----------
    lengths : (batch,), integers

    Returns
    -------
    mask : (batch, width), bool, True where a position is valid
    """
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the last axis, counting only positions where the mask is True.

    Parameters
    ----------
    x : (batch, n_channels, n_frames)
    mask : (batch, 1, n_frames), bool

    Returns
    -------
    mean : (batch, n_channels)
    """
    weight = mask.to(x.dtype) / mask.sum(-1, keepdim=True).clamp_min(1)
    return (x * weight).sum(-1)


def reverse_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse each sequence within its own length; padding stays where it is.

    Parameters
    ----------
    x : (batch, n_channels, n_frames)
    lengths : (batch,)
    """
    position = torch.arange(x.shape[-1], device=x.device)
    mirrored = lengths.unsqueeze(1) - 1 - position  # (batch, n_frames)
    index = torch.where(mirrored >= 0, mirrored, position)
    return x.gather(-1, index.unsqueeze(1).expand_as(x))


def run_lstm(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """Run a recurrent layer over sequences of different lengths.

    What ``pack_padded_sequence`` gives, without packing: on a CPU, the gradient of a packed
    sequence fills a tensor of the size of the whole batch for each of its frames.

    Parameters
    ----------
    lstm
        With ``batch_first``, of any number of layers, in one direction or both.
    x : (batch, n_frames, d)
    lengths : (batch,), at least 1

    Returns
    -------
    y : (batch, n_frames, n_units or twice as many), zeros behind the ends
    """
    mask = lengths_to_mask(lengths.to(x.device), x.shape[1]).unsqueeze(2)
    per_direction = 2 + 2 * lstm.bias
    weights = [getattr(lstm, name) for layer in lstm._all_weights for name in layer]
    n_directions = 2 if lstm.bidirectional else 1
    state = x.new_zeros(1, len(x), lstm.hidden_size)
    for layer in range(lstm.num_layers):
        ys = []
        for direction in range(n_directions):
            first = (layer * n_directions + direction) * per_direction
            own = weights[first : first + per_direction]
            read = _mirrored(x, lengths) if direction else x
            y, *_ = torch.lstm(
                read, (state, state), own, lstm.bias, 1, 0.0, lstm.training, False, True
            )
            ys.append(_mirrored(y, lengths) if direction else y)
        x = torch.cat(ys, dim=2) if len(ys) > 1 else ys[0]
        if layer + 1 < lstm.num_layers:
            x = F.dropout(x, lstm.dropout, lstm.training)
    return x * mask


def _mirrored(x: Tensor, lengths: Tensor) -> Tensor:
    return reverse_frames(x.transpose(1, 2), lengths.to(x.device)).transpose(1, 2)


def to_image(features: Tensor, n_frames: Tensor) -> Tensor:
    """Turn ``(batch, n_frames, n_features)`` into ``(batch, 1, n_features, n_frames)``.

    What lies behind an utterance's end is replaced by zeros, whatever it is.
    """
    return mask_frames(features.transpose(1, 2).unsqueeze(1), n_frames)


def mask_frames(x: Tensor, n_frames: Tensor) -> Tensor:
    """Put zeros behind the ends of maps, ``(batch, n_channels, height, n_frames)``."""
    mask = lengths_to_mask(n_frames, x.shape[-1])
    return x.masked_fill(~mask[:, None, None], 0)


def rectify_valid(x: Tensor, n_frames: Tensor) -> Tensor:
    """ReLU with zeros behind the ends of maps, in place: ``x`` is lost.

    Parameters
    ----------
    x : (batch, n_channels, height, n_frames), finite, from an operation whose gradient does not
        need its result: a convolution, batch norm or a pool
    n_frames : (batch,)
    """
    mask = lengths_to_mask(n_frames, x.shape[-1])[:, None, None]
    return x.mul_(mask.to(x.dtype)).relu_()  # half a dozen times as fast as filling by a mask


def mean_over_places(x: Tensor, n_frames: Tensor) -> Tensor:
    """Average ``(batch, n_channels, height, n_frames)`` over height and valid frames."""
    mask = lengths_to_mask(n_frames, x.shape[-1])
    weight = mask.to(x.dtype) / (x.shape[2] * n_frames.unsqueeze(1))
    weights = weight.unsqueeze(1).expand(-1, x.shape[2], -1).flatten(1)  # (batch, n_places)
    places = x.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, n_places, n_channels)
    return torch.bmm(weights.unsqueeze(1), places).squeeze(1)


def halve(x: Tensor, n_frames: Tensor, *, height: bool) -> Tensor:
    """Average pairs of frames, and of rows where ``height``; what has no partner stays alone.

    Parameters
    ----------
    x : (batch, n_channels, height, n_frames), zeros behind an utterance's end
    n_frames : (batch,), of which half, rounded up, are valid in the result
    """
    pooled = F.avg_pool2d(x, (1 + height, 2), ceil_mode=True, count_include_pad=False)
    # The last frame of an utterance must not be averaged with padding.
    valid = lengths_to_mask(n_frames, x.shape[-1]).to(x.dtype).unsqueeze(1)
    share = F.avg_pool1d(valid, 2, ceil_mode=True, count_include_pad=False)  # 0, one half or 1
    return pooled / share.clamp_min(0.5).unsqueeze(1)


@torch.no_grad()
def track_statistics(
    running: Sequence[Tensor], batch: Sequence[Tensor], n: int, momentum: float
) -> None:
    """Move running statistics as batch norm does in training.

    Parameters
    ----------
    running
        Mean and variance, changed in place.
    batch
        Those of a batch; the variance is the population's.
    n
        Places that were averaged.
    momentum
        Weight of the batch.
    """
    mean, var = batch
    own = (mean, var * (n / max(1, n - 1)))  # a running variance is that of a sample
    for kept, new in zip(running, own, strict=True):
        kept.lerp_(new.to(kept.dtype), momentum)


def classify_in_stages(
    stages: nn.ModuleList, features: Tensor, n_frames: Tensor
) -> dict[str, Tensor]:
    """Send a batch through stages ``(x, n_frames) -> (x, n_frames)``, the last a classifier.

    Parameters
    ----------
    features : (batch, n_frames, n_features)
    n_frames : (batch,)

    Returns
    -------
    emotion : (batch, n_classes), logits
    embedding : what the classifier was given
    """
    x, n = to_image(features, n_frames), n_frames
    for stage in stages[:-1]:
        x, n = stage(x, n)
    logits, _ = stages[-1](x, n)
    return {"emotion": logits, "embedding": x}
