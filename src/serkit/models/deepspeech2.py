"""Deep Speech 2: convolutions and recurrent layers from mel-band energies to symbols, by CTC.

Amodei et al., "Deep Speech 2: End-to-End Speech Recognition in English and Mandarin", ICML 2016
(arXiv 1512.02595). Features are normalised by statistics that the network holds, two convolutions
leave a quarter of the frames (see :mod:`serkit.models.asr_parts`), five LSTM layers follow, each
with a layer norm behind it, and every encoded frame (40 ms) is classified.

With ``streaming`` the LSTMs run forward only, and :meth:`DeepSpeech2.stream`, which is given a few
frames at a time, gives what :meth:`DeepSpeech2.forward` gives for the whole; otherwise they run
both ways.

Parameters of the default, 80 features and 32 symbols: 118,241,664.

Deviations from the paper: LSTMs instead of simple recurrent layers, layer norm instead of batch
norm, and narrower convolutions (3 x 3, 32 channels). Lengths are respected; padding never changes
a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models.asr_parts import (
    MIN_FEATURES,
    MIN_FRAMES,
    Cmvn,
    Subsampling,
    encoded_frames,
    take_frames,
)
from serkit.models.layers import lengths_to_mask, run_lstm
from serkit.types import InputError

__all__ = ["DeepSpeech2", "DeepSpeech2Config", "DeepSpeech2State"]

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


@dataclass(frozen=True, slots=True)
class DeepSpeech2State:
    """Where :meth:`DeepSpeech2.stream` stands.

    Attributes
    ----------
    waiting : (batch, n_frames, n_features), normalised frames of which no encoded one is made yet
    lstms
        States of the layers; none before the first encoded frame.
    """

    waiting: Tensor
    lstms: tuple[LstmState | None, ...]


class DeepSpeech2(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`DeepSpeech2Config`.
    """

    stride = 4  # frames that one encoded frame stands for

    def __init__(self, config: DeepSpeech2Config) -> None:
        super().__init__()
        self.config = config
        self.cmvn = Cmvn(config.n_features)
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
        encoded : (batch, n_encoded, d), zeros as padding; with ``n_encoded`` (batch,)
        """
        x = self.subsample(self.cmvn(features, n_frames))
        n_encoded, width = encoded_frames(n_frames), x.shape[1]
        for lstm, norm in zip(self.lstms, self.norms, strict=True):
            assert isinstance(lstm, nn.LSTM)
            x = self.dropout(norm(run_lstm(lstm, x, n_encoded)))
        x = x.masked_fill(~lengths_to_mask(n_encoded, width).unsqueeze(2), 0)
        outputs = {"asr": self.classify(x), "n_asr": n_encoded}
        return outputs | {"encoded": x, "n_encoded": n_encoded}

    def stream(
        self, state: DeepSpeech2State | None, frames: Tensor, *, last: bool = False
    ) -> tuple[dict[str, Tensor], DeepSpeech2State]:
        """Recognise the next frames of utterances.

        Call it in evaluation mode. Joined, the outputs are those of :meth:`forward`.

        Parameters
        ----------
        state
            What the call before gave; none at the beginning.
        frames : (batch, n_frames, n_features), all valid; any number of them, also none
        last
            Whether the utterances end here; matters where they have fewer than seven frames.

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
                "model.streaming is false: this network reads utterances both ways; train one "
                "with streaming = true to recognise them as they arrive"
            )
        n_new = torch.full((len(frames),), frames.shape[1], device=frames.device)
        waiting = self.cmvn(frames, n_new)
        lstms: tuple[LstmState | None, ...] = (None,) * len(self.lstms)
        if state is not None:
            waiting, lstms = torch.cat([state.waiting, waiting], dim=1), state.lstms
        encoded = frames.new_zeros(len(frames), 0, self.classify.in_features)
        if waiting.shape[1] >= MIN_FRAMES or (last and lstms[0] is None):
            n_encoded = int(encoded_frames(torch.tensor(waiting.shape[1])))
            piece, waiting = take_frames(waiting, n_encoded)
            encoded, lstms = self._encode_piece(piece, lstms)
        outputs = {"asr": self.classify(encoded), "encoded": encoded}
        return outputs, DeepSpeech2State(waiting, lstms)

    def _encode_piece(
        self, piece: Tensor, states: tuple[LstmState | None, ...]
    ) -> tuple[Tensor, tuple[LstmState | None, ...]]:
        x, after = self.subsample(piece), []
        for lstm, norm, before in zip(self.lstms, self.norms, states, strict=True):
            x, state = lstm(x, before)
            after.append(state)
            x = norm(x)
        return x, tuple(after)
