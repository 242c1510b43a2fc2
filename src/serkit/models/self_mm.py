"""Self-MM: words, voice and face, fused to one number of sentiment, and each judged by itself.

Yu, Xu, Yuan, Wu: "Learning Modality-Specific Representations with Self-Supervised Multi-Task
Learning for Multimodal Sentiment Analysis", AAAI 2021 (arXiv 2102.04830); as in the authors' code,
also part of the platform ``thuiar/MMSA``, with which this file agrees in outputs and gradients. The
text encoder is a front end: this is what stands behind BERT.

Of the text the vector at its first position is taken. The frames of the voice and of the face each
go through an LSTM, whose last state is projected. The three vectors in a row are the input of the
fused head, and each alone is that of a head of its own. A head is two layers, of which the first
gives the *feature* by which labels are generated (:mod:`serkit.training.unimodal_labels`), and one
output, without bounds. Only the fused output is a prediction: the others are there to be trained.

Parameters, as published for CH-SIMS, without the text encoder: 381,380.

Deviations, none of which changes a number of the published setting:

1. A batch may hold one clip (the authors' own repository fails there; MMSA does not).
2. A stream that is missing, by ``present`` or because its length is 0, has a vector of zeros, or a
   learned one. The published network fails at a length of 0.
3. Text can be pooled over its tokens, and attention can stand where the LSTMs do.
4. With more than one output, heads give logits of classes.

With these switches, labels of people beside the generated ones, and the text of a speech recogniser
in place of the true one, this is also what serkit understands by *mtme*, a variant that is known by
name alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask, masked_mean, run_lstm

__all__ = ["SELF_MM_PRESETS", "STREAMS", "SelfMm", "SelfMmConfig"]

STREAMS = ("text", "audio", "vision")
"""What is read, in the order of the fused vector and of ``present``."""

Rate = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfMmConfig:
    """Shape of the network; defaults are those published for CH-SIMS.

    Attributes
    ----------
    n_text_features, n_audio_features, n_vision_features
        Numbers per token, and per frame.
    n_outputs
        1: a number; more: logits of so many classes.
    frame_encoder
        ``lstm``: the last state of a recurrent layer; ``attention``: a mean of the frames, through
        a layer of as many units, with learned weights.
    n_audio_hidden, n_vision_hidden, n_audio_out, n_vision_out
        Units of the frame encoders, and width of the vectors that are projected from them.
    text_pooling
        ``first``: the vector at position 0, BERT's [CLS]; others for encoders that have no such.
    n_fused_units, n_text_units, n_audio_units, n_vision_units
        Units of either layer of each head.
    encoder_dropout
        Of the frame encoders' states.
    fused_dropout, text_dropout, audio_dropout, vision_dropout
        Of what each head reads.
    missing
        What stands for the vector of a stream that is not there.
    """

    n_text_features: PositiveInt = 768
    n_audio_features: PositiveInt = 33
    n_vision_features: PositiveInt = 709
    n_outputs: PositiveInt = 1
    frame_encoder: Literal["lstm", "attention"] = "lstm"
    n_audio_hidden: PositiveInt = 16
    n_vision_hidden: PositiveInt = 64
    n_audio_out: PositiveInt = 16
    n_vision_out: PositiveInt = 32
    text_pooling: Literal["first", "mean", "attention"] = "first"
    n_fused_units: PositiveInt = 128
    n_text_units: PositiveInt = 64
    n_audio_units: PositiveInt = 16
    n_vision_units: PositiveInt = 32
    encoder_dropout: Rate = 0.0
    fused_dropout: Rate = 0.0
    text_dropout: Rate = 0.1
    audio_dropout: Rate = 0.1
    vision_dropout: Rate = 0.0
    missing: Literal["zero", "learned"] = "zero"


SELF_MM_PRESETS: dict[str, SelfMmConfig] = {
    "sims": SelfMmConfig(),
    "simsv2": SelfMmConfig(
        n_audio_features=25,
        n_vision_features=177,
        n_audio_units=32,
        text_dropout=0.0,
    ),
    "mosi": SelfMmConfig(
        n_audio_features=5,
        n_vision_features=20,
        n_vision_hidden=32,
        n_text_units=32,
    ),
    "mosei": SelfMmConfig(
        n_audio_features=74,
        n_vision_features=35,
        n_vision_hidden=32,
        n_text_units=32,
        fused_dropout=0.1,
        text_dropout=0.0,
        audio_dropout=0.0,
    ),
}
"""The published sizes by corpus, with BERT's 768 numbers per token and MMSA's frames."""


class AttentionPool(nn.Module):
    """A mean of valid positions with learned weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` and lengths of at least 1 to ``(batch, width)``."""
        mask = lengths_to_mask(lengths, x.shape[1])
        scores = self.score(x).squeeze(2).masked_fill(~mask, -torch.inf)
        return torch.einsum("bl,blw->bw", scores.softmax(1), x)


class TextPool(nn.Module):
    """The vectors of a text as one."""

    def __init__(self, config: SelfMmConfig) -> None:
        super().__init__()
        self.pooling = config.text_pooling
        attends = self.pooling == "attention"
        self.attend = AttentionPool(config.n_text_features) if attends else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` and lengths of at least 1 to ``(batch, width)``."""
        if self.attend is not None:
            pooled: Tensor = self.attend(x, lengths)
            return pooled
        if self.pooling == "mean":
            return masked_mean(x.transpose(1, 2), lengths_to_mask(lengths, x.shape[1]).unsqueeze(1))
        return x[:, 0]


class LstmEncoder(nn.Module):
    """The last state of a recurrent layer, projected."""

    def __init__(self, n_features: int, n_hidden: int, n_out: int, *, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, n_hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_features)`` and lengths of at least 1 to ``(batch, n_out)``."""
        states = run_lstm(self.lstm, x, lengths)
        last = states[torch.arange(len(x), device=x.device), lengths.to(x.device) - 1]
        y: Tensor = self.linear(self.dropout(last))
        return y


class AttentionEncoder(nn.Module):
    """Frames through a layer, averaged with learned weights, projected."""

    def __init__(self, n_features: int, n_hidden: int, n_out: int, *, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(n_features, n_hidden)
        self.attend = AttentionPool(n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_features)`` and lengths of at least 1 to ``(batch, n_out)``."""
        y: Tensor = self.linear(self.dropout(self.attend(self.layer(x).tanh(), lengths)))
        return y


class Head(nn.Module):
    """Two layers and an output; what the first gives is the feature."""

    def __init__(self, n_in: int, n_units: int, n_outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer1 = nn.Linear(n_in, n_units)
        self.layer2 = nn.Linear(n_units, n_units)
        self.layer3 = nn.Linear(n_units, n_outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, n_in)`` to outputs ``(batch, n_outputs)`` and ``(batch, n_units)``."""
        feature = F.relu(self.layer1(self.dropout(x)))
        return self.layer3(F.relu(self.layer2(feature))), feature


class SelfMm(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`SelfMmConfig`.
    """

    def __init__(self, config: SelfMmConfig) -> None:
        super().__init__()
        self.config = config
        encoder = LstmEncoder if config.frame_encoder == "lstm" else AttentionEncoder
        self.text_pool = TextPool(config)
        self.audio_encoder = encoder(
            config.n_audio_features,
            config.n_audio_hidden,
            config.n_audio_out,
            dropout=config.encoder_dropout,
        )
        self.vision_encoder = encoder(
            config.n_vision_features,
            config.n_vision_hidden,
            config.n_vision_out,
            dropout=config.encoder_dropout,
        )
        widths = (config.n_text_features, config.n_audio_out, config.n_vision_out)
        dropouts = (config.text_dropout, config.audio_dropout, config.vision_dropout)
        self.heads = nn.ModuleDict(
            {
                name: Head(n_in, units, config.n_outputs, dropout=dropout)
                for (name, units), n_in, dropout in zip(
                    self.feature_widths.items(),
                    (sum(widths), *widths),
                    (config.fused_dropout, *dropouts),
                    strict=True,
                )
            }
        )
        if config.missing == "learned":
            self.missing = nn.ParameterDict(
                {name: torch.zeros(width) for name, width in zip(STREAMS, widths, strict=True)}
            )

    @property
    def feature_widths(self) -> dict[str, int]:
        """Width of each feature, the fused one first."""
        config = self.config
        return {
            "fused": config.n_fused_units,
            "text": config.n_text_units,
            "audio": config.n_audio_units,
            "vision": config.n_vision_units,
        }

    def forward(
        self,
        text: Tensor,
        n_tokens: Tensor,
        audio: Tensor,
        n_audio: Tensor,
        vision: Tensor,
        n_vision: Tensor,
        present: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Judge a batch.

        Parameters
        ----------
        text : (batch, n_tokens, n_text_features), of the text encoder
        n_tokens : (batch,), valid tokens of each clip; the rest is padding, and may hold anything
        audio : (batch, n_frames, n_audio_features)
        n_audio : (batch,)
        vision : (batch, n_frames, n_vision_features)
        n_vision : (batch,)
        present : (batch, 3), bool: whether the clip has text, audio, vision; ``None``: all it has
            a length of. What it does not have may hold anything as well.

        Returns
        -------
        fused, text, audio, vision : (batch,), or logits (batch, n_outputs) if that is above 1
        feature_fused, feature_text, feature_audio, feature_vision : (batch, units of the head)
        present : (batch, 3), bool; False also where a length is 0
        """
        there = torch.stack([n_tokens, n_audio, n_vision], dim=1) > 0
        if present is not None:
            there = there & present
        vectors = [
            self._vector(name, encode, x, lengths, there[:, column])
            for column, (name, encode, x, lengths) in enumerate(
                (
                    ("text", self.text_pool, text, n_tokens),
                    ("audio", self.audio_encoder, audio, n_audio),
                    ("vision", self.vision_encoder, vision, n_vision),
                )
            )
        ]
        inputs = dict(zip(STREAMS, vectors, strict=True)) | {"fused": torch.cat(vectors, dim=1)}
        outputs = {"present": there}
        for name, head in self.heads.items():
            output, outputs[f"feature_{name}"] = head(inputs[name])
            outputs[name] = output.squeeze(1) if self.config.n_outputs == 1 else output
        return outputs

    def _vector(
        self, name: str, encode: nn.Module, x: Tensor, lengths: Tensor, there: Tensor
    ) -> Tensor:
        """Encode one stream, ``(batch, length, width)`` to ``(batch, width)``."""
        x = F.pad(x, (0, 0, 0, max(0, 1 - x.shape[1])))
        mask = lengths_to_mask(lengths, x.shape[1]) & there.unsqueeze(1)
        vector: Tensor = encode(x.masked_fill(~mask.unsqueeze(2), 0), lengths.clamp_min(1))
        if self.config.missing == "learned":
            return torch.where(there.unsqueeze(1), vector, self.missing[name])
        return vector.masked_fill(~there.unsqueeze(1), 0)
