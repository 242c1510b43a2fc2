"""What the networks of speech recognition share.

Normalisation and subsampling of features, what becomes of encoded frames (:class:`AsrNetwork`), and
reading features as they arrive (:class:`StreamingNetwork`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask
from serkit.types import InputError

__all__ = [
    "MIN_FEATURES",
    "STRIDE",
    "AsrNetwork",
    "Cmvn",
    "StreamState",
    "StreamingNetwork",
    "Subsampling",
    "check_blocks",
    "encoded_frames",
    "sinusoids",
]

Memory = TypeVar("Memory")

MIN_FRAMES = 7  # that one encoded frame is made of
MIN_FEATURES = 7  # of which two convolutions leave one
STRIDE = 4  # frames that one encoded frame stands for


class Cmvn(nn.Module):
    """Shift and scale each feature by statistics of the training part, kept with the weights.

    Parameters
    ----------
    n_features
        Width of a frame. Until :meth:`set` is called, nothing is shifted or scaled.
    """

    mean: Tensor
    istd: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("istd", torch.ones(n_features))

    def set(self, mean: Tensor, istd: Tensor) -> None:
        """Take over statistics.

        Parameters
        ----------
        mean : (n_features,)
        istd : (n_features,), one over the standard deviation

        Raises
        ------
        InputError
            If they have another shape, or hold what is not finite.
        """
        for name, given in (("mean", mean), ("istd", istd)):
            if given.shape != self.mean.shape or not bool(torch.isfinite(given).all()):
                raise InputError(
                    f"cmvn {name}: expected {len(self.mean)} finite numbers, got shape "
                    f"{tuple(given.shape)}: compute the statistics with this front end"
                )
        self.mean.copy_(mean)
        self.istd.copy_(istd)

    def forward(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Normalise ``(batch, n_frames, n_features)``; behind the ends there are zeros."""
        normal = (features - self.mean) * self.istd
        mask = lengths_to_mask(n_frames, features.shape[1])
        return normal.masked_fill(~mask.unsqueeze(2), 0)


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions of stride 2 and a projection: a quarter of the frames."""

    def __init__(self, n_features: int, *, n_channels: int, width: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            nn.Conv2d(1, n_channels, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(n_channels, n_channels, 3, stride=2),
            nn.ReLU(),
        )
        n_left = ((n_features - 1) // 2 - 1) // 2
        self.project = nn.Linear(n_channels * n_left, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_features)`` to ``(batch, encoded frames, width)``.

        Fewer than seven frames are followed by zeros: they give one.
        """
        features = F.pad(features, (0, 0, 0, max(0, MIN_FRAMES - features.shape[1])))
        maps = self.convolve(features.unsqueeze(1))  # (batch, n_channels, n_encoded, n_left)
        projected: Tensor = self.project(maps.transpose(1, 2).flatten(2))
        return projected


def encoded_frames(n_frames: Tensor) -> Tensor:
    """Count what :class:`Subsampling` makes of utterances, ``(batch,)``; at least one."""
    halved = torch.div(n_frames - 1, 2, rounding_mode="floor")
    return torch.div(halved - 1, 2, rounding_mode="floor").clamp_min(1)


class AsrNetwork(nn.Module, ABC):
    """A network that encodes normalised features and classifies each encoded frame.

    A subclass has ``stride``, the frames that one encoded frame stands for, a layer ``classify``
    and :meth:`encode`.

    Parameters
    ----------
    n_features
        Width of a frame.
    """

    stride: int
    classify: nn.Linear

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.cmvn = Cmvn(n_features)

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
        x, n_encoded = self.encode(self.cmvn(features, n_frames), n_frames)
        x = x.masked_fill(~lengths_to_mask(n_encoded, x.shape[1]).unsqueeze(2), 0)
        outputs = {"asr": self.classify(x), "n_asr": n_encoded}
        return outputs | {"encoded": x, "n_encoded": n_encoded}

    @abstractmethod
    def encode(self, features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Encode normalised features.

        Parameters
        ----------
        features, n_frames
            As in :meth:`forward`; padding is zeros.

        Returns
        -------
        encoded : (batch, n_encoded, width), anything as padding
        n_encoded : (batch,)
        """


@dataclass(frozen=True, slots=True)
class StreamState(Generic[Memory]):
    """Where :meth:`StreamingNetwork.stream` stands.

    Attributes
    ----------
    waiting : (batch, n_frames, n_features), normalised frames of which no encoded one is made yet
    memories
        What each layer remembers; empty before the first encoded frame.
    """

    waiting: Tensor
    memories: tuple[Memory, ...]


class StreamingNetwork(AsrNetwork, Generic[Memory]):
    """A network that may be made for recognising utterances as they arrive.

    A subclass has :meth:`n_ready` and :meth:`encode_piece` as well.

    Parameters
    ----------
    n_features
        Width of a frame.
    streaming
        Whether it is made for that.
    """

    def __init__(self, n_features: int, *, streaming: bool) -> None:
        super().__init__(n_features)
        self.streaming = streaming

    def stream(
        self, state: StreamState[Memory] | None, frames: Tensor, *, last: bool = False
    ) -> tuple[dict[str, Tensor], StreamState[Memory]]:
        """Recognise the next frames of utterances, as far as enough of them have arrived.

        Call it in evaluation mode. Joined, the outputs are those of :meth:`forward`.

        Parameters
        ----------
        state
            What the call before gave; none at the beginning.
        frames : (batch, n_frames, n_features), all valid; any number of them, also none
        last
            Whether the utterances end here; then nothing is held back.

        Returns
        -------
        outputs
            ``asr`` and ``encoded``, as :meth:`forward` gives them, of the frames that are new.
        state
            For the next call.

        Raises
        ------
        InputError
            If the network is not made for streaming.
        """
        if not self.streaming:
            raise InputError(
                "model.streaming is false: this network reads whole utterances; train one with "
                "streaming = true to recognise them as they arrive"
            )
        n_new = torch.full((len(frames),), frames.shape[1], device=frames.device)
        waiting: Tensor = self.cmvn(frames, n_new)
        memories: tuple[Memory, ...] = ()
        if state is not None:
            waiting, memories = torch.cat([state.waiting, waiting], dim=1), state.memories
        encoded = [frames.new_zeros(len(frames), 0, self.classify.in_features)]
        while n_encoded := self.n_ready(waiting.shape[1], begun=bool(memories), last=last):
            # Three frames of the piece are part of the next encoded one as well.
            piece, waiting = waiting[:, : STRIDE * n_encoded + 3], waiting[:, STRIDE * n_encoded :]
            x, memories = self.encode_piece(piece, memories)
            encoded.append(x)
        joined = torch.cat(encoded, dim=1)
        outputs = {"asr": self.classify(joined), "encoded": joined}
        return outputs, StreamState(waiting, memories)

    def n_ready(self, n_waiting: int, *, begun: bool, last: bool) -> int:
        """Count the encoded frames to make next of what waits; 0 where it goes on waiting.

        This gives as many as there can be. The first piece of an utterance that ends here gives
        one, however short it is.
        """
        if n_waiting >= MIN_FRAMES or (last and not begun):
            return int(encoded_frames(torch.tensor(n_waiting)))
        return 0

    @abstractmethod
    def encode_piece(
        self, piece: Tensor, memories: tuple[Memory, ...]
    ) -> tuple[Tensor, tuple[Memory, ...]]:
        """Encode the next frames.

        Parameters
        ----------
        piece : (batch, n_frames, n_features), normalised
        memories
            As in :class:`StreamState`.

        Returns
        -------
        encoded : (batch, n_encoded, width)
        memories
            With these frames in them.
        """


def check_blocks(config: Any, *rules: tuple[str, bool, str]) -> None:
    """Refuse settings of blocks of attention and convolution that contradict each other.

    Parameters
    ----------
    config
        Settings of a network, ``width``, ``n_heads`` and ``kernel`` among them.
    rules
        What holds for this network besides: the name of a setting, whether it is as it should be,
        and what is expected of it.

    Raises
    ------
    InputError
        If one is not.
    """
    for name, holds, expected in (
        ("n_heads", config.width % config.n_heads == 0, f"a divisor of width, {config.width}"),
        ("kernel", config.kernel % 2 == 1, "an odd number"),
        *rules,
    ):
        if not holds:
            raise InputError(f"model.{name} is {getattr(config, name)}, expected {expected}")


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places, from fast to slow, ``(n,) -> (n, width)``."""
    slowness = torch.exp(torch.arange(0.0, width, 2) * (-math.log(10_000.0) / width))
    angle = places.unsqueeze(1) * slowness.to(places.device)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width]
