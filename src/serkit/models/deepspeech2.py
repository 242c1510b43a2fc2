"""Deep Speech 2: convolutions and recurrent layers from mel-band energies to symbols, by CTC.

Amodei et al., "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", ICML 2016
(arXiv 1512.02595). Features are normalised by statistics that the network holds, two convolutions
leave a quarter of the frames (see :mod:`serkit.models.asr_parts`), five LSTM layers follow, each
with a layer norm behind it, and every encoded frame (40 ms) is classified.

With ``streaming`` the LSTMs run forward only, and ``stream``, which is given a few frames at a
time, gives what ``forward`` gives for the whole; otherwise they run both ways.

Parameters of the default, 80 features and 32 symbols: 118,241,664.

Deviations from the paper: LSTMs instead of simple recurrent layers, layer norm instead of batch
norm, and narrower convolutions (3 x 3, 32 channels). Lengths are respected; padding never changes
a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models.asr_parts import (
    MIN_FEATURES,
    STRIDE,
    StreamingNetwork,
    Subsampling,
    encoded_frames,
)
from serkit.models.layers import run_lstm

__all__ = ["DeepSpeech2", "DeepSpeech2Config"]

LstmState = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeech2Config:
    """Shape of the network."""

    n_features: Annotated[int, Field(ge=MIN_FEATURES)] = 80
    n_symbols: Annotated[int, Field(ge=2)] = 32  # blank included, which is 0
    n_channels: PositiveInt = 32  # of the convolutions
    n_layers: PositiveInt = 5
    n_hidden: PositiveInt = 1024  # units of an LSTM, of each direction
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # behind each layer
    streaming: bool = False


class DeepSpeech2(StreamingNetwork[LstmState]):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`DeepSpeech2Config`.
    """

    stride = STRIDE

    def __init__(self, config: DeepSpeech2Config) -> None:
        super().__init__(config.n_features, streaming=config.streaming)
        self.config = config
        n_out = config.n_hidden * (1 if config.streaming else 2)
        self.subsample = Subsampling(
            config.n_features, n_channels=config.n_channels, width=config.n_hidden
        )
        self.lstms = nn.ModuleList(
            nn.LSTM(
                n_out if layer else config.n_hidden,
                config.n_hidden,
                batch_first=True,
                bidirectional=not config.streaming,
            )
            for layer in range(config.n_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(n_out) for _ in range(config.n_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(n_out, config.n_symbols)

    def encode(self, features: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AsrNetwork.encode`."""
        x, n_encoded = self.subsample(features), encoded_frames(n_frames)
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            assert isinstance(lstm, nn.LSTM)
            x = self.dropout(norm(run_lstm(lstm, x, n_encoded)))
        return x, n_encoded

    def encode_piece(
        self, piece: Tensor, memories: tuple[LstmState, ...]
    ) -> tuple[Tensor, tuple[LstmState, ...]]:
        """See :meth:`StreamingNetwork.encode_piece`."""
        x, after = self.subsample(piece), []
        for lstm, norm, before in zip_longest(self.lstms, self.norms, memories):
            x, state = lstm(x, before)
            after.append(state)
            x = norm(x)
        return x, tuple(after)
