"""Conformer for speech recognition: mel-band energies to symbols, by CTC.

Gulati et al., Interspeech 2020 (arXiv 2005.08100), in the size that small recognizers of Mandarin
have: 12 blocks of width 256. Features are normalised by statistics that the network holds, two
convolutions leave a quarter of the frames, and each encoded frame (40 ms) is classified. T frames
give ``((T - 1) // 2 - 1) // 2`` encoded ones; fewer than seven give one.

``streaming`` makes the network one that can listen while somebody speaks: convolutions look back
only, and a frame attends to its own chunk and those before it. In training the length of chunks is
drawn for every batch: among 1 to all encoded frames n; above the half, every frame sees all, else
chunks have (n mod 25) + 1 frames (WeNet: Zhang et al., arXiv 2012.05481). In evaluation it is
``chunk``, and ``stream``, which is given a few frames at a time, gives what ``forward`` gives for
the whole.

With ``n_decoder_layers`` an attention decoder stands beside CTC, with ``n_reverse_layers`` one that
reads transcripts from right to left; see :mod:`serkit.models.attention_decoder`.

Parameters of the default, 80 features and 32 symbols: 33,472,544.

Deviations from the paper: two convolutions and a projection where it has convolutional subsampling
without details; layer norm in the convolution module (``conv_norm``); the kernel has 15 frames.
Lengths are respected; padding never changes a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.models.asr_parts import (
    MIN_FEATURES,
    STRIDE,
    StreamingNetwork,
    Subsampling,
    encoded_frames,
)
from serkit.models.attention_decoder import AttentionDecoder, reversed_tokens
from serkit.models.conformer import ConformerBlock, Past, chunks_visible
from serkit.models.layers import lengths_to_mask
from serkit.types import InputError

__all__ = ["Conformer", "ConformerConfig"]

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


class Conformer(StreamingNetwork[Past]):
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

    stride = STRIDE

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config.n_features, streaming=config.streaming)
        _check(config)
        self.config = config
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
        outputs = super().forward(features, n_frames)
        if tokens is not None and n_tokens is not None:
            encoded, n_encoded = outputs["encoded"], outputs["n_encoded"]
            if self.decoder is not None:
                outputs["decoder"] = self.decoder(encoded, n_encoded, tokens, n_tokens)
            if self.decoder_reverse is not None:
                backward = reversed_tokens(tokens, n_tokens)
                outputs["decoder_reverse"] = self.decoder_reverse(
                    encoded, n_encoded, backward, n_tokens
                )
        return outputs

    def encode(self, features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AsrNetwork.encode`."""
        x = self.dropout(self.subsample(features))
        n_encoded = encoded_frames(n_frames)
        valid = lengths_to_mask(n_encoded, x.shape[1])
        visible = valid.unsqueeze(1)
        chunk = self._chunk(x.shape[1])
        if chunk is not None:
            seen = chunks_visible(x.shape[1], chunk=chunk, n_left_chunks=self.config.n_left_chunks)
            visible = visible & seen.to(x.device)
        for block in self.blocks:
            x, _ = block(x, valid, visible)
        return x, n_encoded

    def _chunk(self, n_encoded: int) -> int | None:
        """Choose the length of chunks; none: every frame sees all."""
        if not self.config.streaming:
            return None
        if not self.training:
            return self.config.chunk
        drawn = int(torch.randint(1, n_encoded + 1, ()))
        return None if drawn > n_encoded / 2 else drawn % LONGEST_DRAWN_CHUNK + 1

    def n_ready(self, n_waiting: int, *, begun: bool, last: bool) -> int:
        """See :meth:`StreamingNetwork.n_ready`; before the end these are whole chunks."""
        if n_waiting >= STRIDE * self.config.chunk + 3:
            return self.config.chunk
        return super().n_ready(n_waiting, begun=begun, last=last) if last else 0

    def encode_piece(
        self, piece: Tensor, memories: tuple[Past, ...]
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """See :meth:`StreamingNetwork.encode_piece`; a chunk sees all that is remembered."""
        x = self.subsample(piece)
        everything = torch.ones(1, 1, 1, dtype=torch.bool, device=x.device)
        valid = everything[0].expand(len(x), x.shape[1])
        remembered = []
        for block, past in zip_longest(self.blocks, memories):
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
