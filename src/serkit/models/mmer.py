"""MMER: speech frames and words that attend to each other, with three auxiliary tasks.

Ghosh, Tyagi, Ramaneswaran, Srivastava, Manocha: "MMER: Multimodal Multi-task Learning for Speech
Emotion Recognition", Interspeech 2023 (arXiv 2203.16794); as in the authors' public code
``Sreyan88/MMER``, with which this file agrees in logits, embeddings, losses and gradients. The two
encoders are front ends: this is what stands behind wav2vec 2.0 and RoBERTa.

Words first attend to themselves (X). Then words attend to frames (Q: what was heard at each word);
frames attend to words (P) and words to those frames (R: each word, knowing the voice). A gate made
of R and Q opens Q, and [R ; gate * Q] is pooled over words and projected. Beside it stand the
pooled frames themselves: together they are the utterance's vector u, which a linear layer
classifies. Every attention is a whole transformer block, normalised after each sum.

Auxiliary tasks train the same network: characters by CTC from the frames; and two contrastive
losses on projections of u. One compares utterances of a batch, the other the utterance with an
augmented view of itself: other words for the same sentence, another voice. The augmented view is a
second batch through the same network, of which ``contrast_augmented`` is read.

Parameters (39 features, 7 classes): 33,202,968. As published, with 768 features and 4 classes, the
fusion, classifier and CTC layer have 31,924,260 and the contrastive projections 3,542,016; with the
94,371,712 of wav2vec 2.0 base this is 129,837,988. (The authors' model counts 13 more, weights of
layers that it never uses.)

Deviations, none of which changes a number of the published setting:

1. Padding is cut off exactly, in attention (published: -10000 is added) and in pooling, and may
   hold anything.
2. An utterance without a word, or without a frame, has one of zeros.
3. Widths, heads, depth, pooling and the parts of the fusion can be chosen; words of another width
   than the network's are projected to it.
4. ``streams`` leaves one side out, or puts the pooled sides next to each other without attention
   between them: the plain systems that the fusion should beat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask, masked_mean
from serkit.types import InputError

__all__ = ["CrossBlock", "Mmer", "MmerConfig"]

Pooling = Literal["max", "mean", "attention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MmerConfig:
    """Shape of the network; defaults are the authors'."""

    n_features: PositiveInt = 768  # of a speech frame
    n_text_features: PositiveInt = 768  # of a word, or piece of one
    n_classes: PositiveInt = 4
    n_symbols: NonNegativeInt | None = 32  # of the CTC layer, blank included; none or 0: no layer
    streams: Literal["both", "concat", "speech", "text"] = "both"  # concat: both, not fused
    width: PositiveInt = 768
    n_heads: PositiveInt = 12
    n_ffn: PositiveInt | None = None  # hidden units of a block; none: four times the width
    n_blocks: PositiveInt = 1  # of each attention
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    pooling: Pooling = "max"  # over frames, and over words
    gate: bool = True
    text_self_attention: bool = True
    contrastive: bool = True


class CrossBlock(nn.Module):
    """A transformer block whose queries may attend to another sequence, normalised after sums."""

    def __init__(self, width: int, *, n_heads: int, n_ffn: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)  # BERT's epsilon
        self.first = nn.Linear(width, n_ffn)
        self.second = nn.Linear(n_ffn, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Let one sequence attend to another.

        Parameters
        ----------
        x : (batch, n_queries, width)
        context : (batch, n_keys, width)
        mask : (batch, n_keys), bool, True where the context is valid

        Returns
        -------
        y : (batch, n_queries, width)
        """
        query, key, value = (
            torch.unflatten(y, 2, (self.n_heads, -1)).transpose(1, 2)
            for y in (self.query(x), self.key(context), self.value(context))
        )  # (batch, n_heads, n_queries or n_keys, width / n_heads)
        # Written out: torch.func has no efficient rule for the fused function on a CPU.
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(3)
        heads = (self.dropout(weights) @ value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.dropout(self.out(heads)))
        y: Tensor = self.output_norm(x + self.dropout(self.second(F.gelu(self.first(x)))))
        return y


class Attention(nn.ModuleList):
    """Blocks one after the other: of one sequence on itself, or on another that stays as it is."""

    def __init__(self, config: MmerConfig) -> None:
        super().__init__(
            CrossBlock(
                config.width,
                n_heads=config.n_heads,
                n_ffn=config.n_ffn or 4 * config.width,
                dropout=config.dropout,
            )
            for _ in range(config.n_blocks)
        )

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor) -> Tensor:
        """See :meth:`CrossBlock.forward`; without a context, ``x`` attends to itself."""
        for block in self:
            x = block(x, x if context is None else context, mask)
        return x


class Fusion(nn.Module):
    """Words that know the voice, beside what was heard at each word."""

    def __init__(self, config: MmerConfig) -> None:
        super().__init__()
        self.frames_as_context = nn.Linear(config.n_features, config.width)
        self.frames_as_queries = nn.Linear(config.n_features, config.width)
        self.words_to_frames = Attention(config)  # Q
        self.frames_to_words = Attention(config)  # P
        self.words_to_informed_frames = Attention(config)  # R
        self.gate = nn.Linear(2 * config.width, config.width) if config.gate else None

    def forward(
        self, frames: Tensor, frame_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> Tensor:
        """Fuse both sequences, word by word.

        Parameters
        ----------
        frames : (batch, n_frames, n_features)
        frame_mask : (batch, n_frames), bool
        words : (batch, n_tokens, width)
        word_mask : (batch, n_tokens), bool

        Returns
        -------
        fused : (batch, n_tokens, 2 * width)
        """
        heard = self.words_to_frames(words, self.frames_as_context(frames), frame_mask)
        informed = self.frames_to_words(self.frames_as_queries(frames), words, word_mask)
        spoken = self.words_to_informed_frames(words, informed, frame_mask)
        if self.gate is not None:
            heard = heard * self.gate(torch.cat([spoken, heard], dim=2)).sigmoid()
        return torch.cat([spoken, heard], dim=2)


class Pool(nn.Module):
    """Join a sequence into one vector."""

    def __init__(self, pooling: Pooling, width: int) -> None:
        super().__init__()
        self.pooling = pooling
        if pooling == "attention":
            self.score = nn.Linear(width, 1, bias=False)  # a bias would cancel in the softmax

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map ``(batch, length, width)`` and a mask ``(batch, length)`` to ``(batch, width)``."""
        if self.pooling == "max":
            return x.masked_fill(~mask.unsqueeze(2), -torch.inf).amax(1)
        if self.pooling == "mean":
            return masked_mean(x.transpose(1, 2), mask.unsqueeze(1))
        scores = self.score(x).squeeze(2).masked_fill(~mask, -torch.inf)
        return torch.einsum("bl,blw->bw", scores.softmax(1), x)


class Mmer(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`MmerConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: MmerConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        width, fused = config.width, config.streams == "both"
        n_embedding = 0
        if config.streams != "text":
            self.pool_frames = Pool(config.pooling, config.n_features)
            n_embedding += config.n_features
            if config.n_symbols:
                self.ctc = nn.Linear(config.n_features, config.n_symbols)
        if config.streams != "speech":
            same = config.n_text_features == width
            self.project_words = nn.Identity() if same else nn.Linear(config.n_text_features, width)
            self.words_to_words = Attention(config) if config.text_self_attention else None  # X
            self.fusion = Fusion(config) if fused else None
            self.pool_words = Pool(config.pooling, 2 * width if fused else width)
            self.project_pooled = nn.Linear(2 * width, width) if fused else nn.Identity()
            n_embedding += width
        self.classifier = nn.Linear(n_embedding, config.n_classes)
        if config.contrastive:
            self.contrast = _projection(n_embedding, width)
            self.contrast_augmented = _projection(n_embedding, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        features: Tensor | None,
        n_frames: Tensor | None,
        text: Tensor | None = None,
        n_text: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features), of the speech encoder; unused if streams = text
        n_frames : (batch,), valid frames of each utterance; the rest is padding
        text : (batch, n_tokens, n_text_features), of the text encoder; unused if streams = speech
        n_text : (batch,), valid tokens of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, n_features + width), or the part of it that ``streams`` leaves
        ctc : (batch, n_frames, n_symbols), logits; with ``n_ctc`` (batch,), valid frames
        contrast, contrast_augmented : (batch, width), the embedding as the original view, and as
            the augmented view, of an utterance

        Raises
        ------
        InputError
            If speech or text that the network reads is not given.
        """
        outputs: dict[str, Tensor] = {}
        pooled = []
        if self.config.streams != "text":
            frames, frame_mask, lengths = self._valid("features", features, n_frames)
            pooled.append(self.pool_frames(frames, frame_mask))
            if self.config.n_symbols:
                outputs |= {"ctc": self.ctc(self.dropout(frames)), "n_ctc": lengths}
        if self.config.streams != "speech":
            words, word_mask, _ = self._valid("text", text, n_text)
            words = self.project_words(self.dropout(words))
            if self.words_to_words is not None:
                words = self.words_to_words(words, None, word_mask)
            if self.fusion is not None:
                words = self.fusion(frames, frame_mask, words, word_mask)
            pooled.append(self.project_pooled(self.pool_words(words, word_mask)))
        embedding = torch.cat(pooled, dim=1)
        if self.config.contrastive:
            outputs["contrast"] = self.contrast(embedding)
            outputs["contrast_augmented"] = self.contrast_augmented(embedding)
        return {"emotion": self.classifier(embedding), "embedding": embedding} | outputs

    def _valid(
        self, name: str, x: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Put zeros behind the ends of sequences; give them, their mask and their lengths."""
        if x is None or lengths is None:
            raise InputError(
                f"model.streams = {self.config.streams}: the network reads {name}, and got none; "
                "add the front end that gives them, or choose the stream that there is"
            )
        x = F.pad(x, (0, 0, 0, max(0, 1 - x.shape[1])))
        x = x.masked_fill(~lengths_to_mask(lengths, x.shape[1]).unsqueeze(2), 0)
        return x, lengths_to_mask(lengths.clamp_min(1), x.shape[1]), lengths


def _check(config: MmerConfig) -> None:
    """Refuse settings that contradict each other."""
    if config.width % config.n_heads:
        raise InputError(
            f"model.n_heads = {config.n_heads}: heads share the width of {config.width} equally; "
            "choose a divisor of it"
        )
    if config.streams == "text" and config.n_symbols:
        raise InputError(
            f"model.n_symbols = {config.n_symbols}: CTC reads speech, and model.streams = text "
            "leaves it out; set n_symbols to 0"
        )


def _projection(n_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, width), nn.GELU(), nn.Linear(width, width))
