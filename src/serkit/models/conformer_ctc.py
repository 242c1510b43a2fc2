"""Conformer for speech recognition: mel-band energies to symbols, by CTC.

Gulati et al., Interspeech 2020 (arXiv 2005.08100), in the size that small recognizers of Mandarin
have: 12 blocks of width 256. Features are normalised by statistics that the network holds, two
convolutions leave a quarter of the frames, and each encoded frame (40 ms) is classified. T frames
give ``((T - 1) // 2 - 1) // 2`` encoded ones; fewer than seven give one.

``streaming`` makes the network one that can listen while somebody speaks: convolutions look back
only, and a frame attends to its own chunk and those before it. In training the length of chunks is
drawn for every batch: among 1 to all encoded frames n; above the half, every frame sees all, else
chunks have (n mod 25) + 1 frames (WeNet: Zhang et al., arXiv 2012.05481). In evaluation it is
``chunk``, and :meth:`Conformer.stream`, which is given a few frames at a time, gives what
:meth:`Conformer.forward` gives for the whole.

With ``n_decoder_layers`` an attention decoder stands beside CTC, with ``n_reverse_layers`` one that
reads transcripts from right to left; see :mod:`serkit.models.attention_decoder`.

Parameters of the default, 80 features and 32 symbols: 33,472,544.

Deviations from the paper: two convolutions and a projection where it has convolutional subsampling
without details; layer norm in the convolution module (``conv_norm``); the kernel has 15 frames.
Lengths are respected; padding never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.models.asr_parts import (
    MIN_FEATURES,
    MIN_FRAMES,
    Cmvn,
    Subsampling,
    encoded_frames,
    take_frames,
)
from serkit.models.attention_decoder import AttentionDecoder, reversed_tokens
from serkit.models.conformer import ConformerBlock, Past, chunks_visible
from serkit.models.layers import lengths_to_mask
from serkit.types import InputError

__all__ = ["Conformer", "ConformerConfig", "ConformerState"]

LONGEST_DRAWN_CHUNK = 25  # frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerConfig:
    """Shape of the network."""

    n_features: Annotated[int, Field(ge=MIN_FEATURES)] = 80
    n_symbols: Annotated[int, Field(ge=2)] = 32  # blank included, which is 0
    width: PositiveInt = 256
    n_blocks: PositiveInt = 12
    n_heads: PositiveInt = 4
    n_ffn: PositiveInt = 2048  # hidden units of a block's feed-forward layers
    kernel: PositiveInt = 15  # encoded frames that a convolution spans
    conv_norm: Literal["layer", "batch"] = "layer"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    streaming: bool = False
    chunk: PositiveInt = 16  # encoded frames; of 40 ms
    n_left_chunks: NonNegativeInt | None = None  # seen before a frame's own; none: all
    n_decoder_layers: NonNegativeInt = 0
    n_reverse_layers: NonNegativeInt = 0
    n_decoder_ffn: PositiveInt = 1024


@dataclass(frozen=True, slots=True)
class ConformerState:
    """Where :meth:`Conformer.stream` stands.

    Attributes
    ----------
    waiting : (batch, n_frames, n_features), normalised frames of which no encoded one is made yet
    pasts
        What the blocks remember; none before the first chunk.
    """

    waiting: Tensor
    pasts: tuple[Past | None, ...]


class Conformer(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`ConformerConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    stride = 4  # frames that one encoded frame stands for

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.cmvn = Cmvn(config.n_features)
        self.subsample = Subsampling(config.n_features, n_channels=config.width, width=config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                config.width,
                n_heads=config.n_heads,
                n_ffn=config.n_ffn,
                kernel=config.kernel,
                dropout=config.dropout,
                causal=config.streaming,
                batch_norm=config.conv_norm == "batch",
            )
            for _ in range(config.n_blocks)
        )
        self.classify = nn.Linear(config.width, config.n_symbols)
        self.decoder = _decoder(config, config.n_decoder_layers)
        self.decoder_reverse = _decoder(config, config.n_reverse_layers)

    def set_cmvn(self, mean: Tensor, istd: Tensor) -> None:
        """Take over statistics of features, each ``(n_features,)``; see :meth:`Cmvn.set`."""
        self.cmvn.set(mean, istd)

    def forward(
        self,
        features: Tensor,
        n_frames: Tensor,
        tokens: Tensor | None = None,
        n_tokens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Recognise a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding
        tokens : (batch, n_tokens), integers, transcripts for the decoders; none: they are not run
        n_tokens : (batch,)

        Returns
        -------
        asr : (batch, n_encoded, n_symbols), logits; with ``n_asr`` (batch,)
        encoded : (batch, n_encoded, width), zeros as padding; with ``n_encoded`` (batch,)
        decoder, decoder_reverse : (batch, n_tokens + 1, n_symbols), logits, of decoders there are;
            each is the next symbol, from left to right and from right to left
        """
        n_encoded = encoded_frames(n_frames)
        encoded = self._encode(self.cmvn(features, n_frames), n_encoded)
        outputs = {"asr": self.classify(encoded), "n_asr": n_encoded}
        outputs |= {"encoded": encoded, "n_encoded": n_encoded}
        if tokens is not None and n_tokens is not None:
            if self.decoder is not None:
                outputs["decoder"] = self.decoder(encoded, n_encoded, tokens, n_tokens)
            if self.decoder_reverse is not None:
                backward = reversed_tokens(tokens, n_tokens)
                outputs["decoder_reverse"] = self.decoder_reverse(
                    encoded, n_encoded, backward, n_tokens
                )
        return outputs

    def _encode(self, features: Tensor, n_encoded: Tensor) -> Tensor:
        """Turn normalised frames into encoded ones, zeros behind their ends."""
        x = self.dropout(self.subsample(features))
        valid = lengths_to_mask(n_encoded, x.shape[1])
        visible = valid.unsqueeze(1)
        chunk = self._chunk(x.shape[1])
        if chunk is not None:
            seen = chunks_visible(x.shape[1], chunk=chunk, n_left_chunks=self.config.n_left_chunks)
            visible = visible & seen.to(x.device)
        for block in self.blocks:
            x, _ = block(x, valid, visible)
        encoded: Tensor = x.masked_fill(~valid.unsqueeze(2), 0)
        return encoded

    def _chunk(self, n_encoded: int) -> int | None:
        """Choose the length of chunks; none: every frame sees all."""
        if not self.config.streaming:
            return None
        if not self.training:
            return self.config.chunk
        drawn = int(torch.randint(1, n_encoded + 1, ()))
        return None if drawn > n_encoded / 2 else drawn % LONGEST_DRAWN_CHUNK + 1

    def stream(
        self, state: ConformerState | None, frames: Tensor, *, last: bool = False
    ) -> tuple[dict[str, Tensor], ConformerState]:
        """Recognise the next frames of utterances, as far as whole chunks have arrived.

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
        if not self.config.streaming:
            raise InputError(
                "model.streaming is false: this network sees whole utterances; train one with "
                "streaming = true to recognise them chunk by chunk"
            )
        n_new = torch.full((len(frames),), frames.shape[1], device=frames.device)
        waiting = self.cmvn(frames, n_new)
        pasts: tuple[Past | None, ...] = (None,) * len(self.blocks)
        if state is not None:
            waiting, pasts = torch.cat([state.waiting, waiting], dim=1), state.pasts
        encoded = [frames.new_zeros(len(frames), 0, self.config.width)]
        while waiting.shape[1] >= 4 * self.config.chunk + 3:
            piece, waiting = take_frames(waiting, self.config.chunk)
            x, pasts = self._encode_chunk(piece, pasts)
            encoded.append(x)
        if last and (pasts[0] is None or waiting.shape[1] >= MIN_FRAMES):
            x, pasts = self._encode_chunk(waiting, pasts)
            encoded.append(x)
        joined = torch.cat(encoded, dim=1)
        outputs = {"asr": self.classify(joined), "encoded": joined}
        return outputs, ConformerState(waiting, pasts)

    def _encode_chunk(
        self, piece: Tensor, pasts: tuple[Past | None, ...]
    ) -> tuple[Tensor, tuple[Past | None, ...]]:
        """Encode a chunk that sees all that the blocks remember."""
        x = self.subsample(piece)
        everything = torch.ones(1, 1, 1, dtype=torch.bool, device=x.device)
        valid = everything[0].expand(len(x), x.shape[1])
        remembered: list[Past | None] = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x, past = block(x, valid, everything, past)
            remembered.append(self._within_reach(past))
        return x, tuple(remembered)

    def _within_reach(self, past: Past) -> Past:
        """Forget what no later chunk sees."""
        if self.config.n_left_chunks is None:
            return past
        reach = self.config.n_left_chunks * self.config.chunk
        kept = past.keys_values[:, max(0, past.keys_values.shape[1] - reach) :]
        return Past(kept, past.convolved)


def _decoder(config: ConformerConfig, n_layers: int) -> AttentionDecoder | None:
    if not n_layers:
        return None
    return AttentionDecoder(
        config.width,
        n_symbols=config.n_symbols,
        n_layers=n_layers,
        n_heads=config.n_heads,
        n_ffn=config.n_decoder_ffn,
        dropout=config.dropout,
    )


def _check(config: ConformerConfig) -> None:
    """Refuse settings that contradict each other."""
    if config.width % config.n_heads:
        raise InputError(
            f"model.n_heads = {config.n_heads}: heads share the width of {config.width} equally; "
            "choose a divisor of it"
        )
    if config.kernel % 2 == 0 and not config.streaming:
        raise InputError(
            f"model.kernel = {config.kernel}: a convolution that looks both ways spans an odd "
            f"number of frames; choose {config.kernel + 1}"
        )
    if config.n_reverse_layers and not config.n_decoder_layers:
        raise InputError(
            f"model.n_reverse_layers = {config.n_reverse_layers}: the decoder from right to left "
            "stands beside the one from left to right; set n_decoder_layers as well"
        )
