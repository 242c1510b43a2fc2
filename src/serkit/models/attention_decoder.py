"""Transformer decoders that spell a transcript symbol by symbol, beside CTC.

The hybrid of Watanabe et al. (IEEE J. Sel. Top. Signal Process. 11(8), 2017): the encoder of a CTC
network also feeds a decoder (Vaswani et al., 2017) that predicts each symbol from those before; a
second one may read transcripts from right to left (U2++, Wu et al., arXiv 2106.05642). They are
trained with the encoder, and shape it; recognition by CTC does without them.

The last symbol of the vocabulary begins and ends every transcript.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models.asr_parts import sinusoids
from serkit.models.layers import lengths_to_mask, reverse_frames
from serkit.types import InputError

__all__ = ["AttentionDecoder", "attention_loss", "decoder_targets", "reversed_tokens"]

IGNORED = -100


class AttentionDecoder(nn.Module):
    """A transformer decoder, normalised before its layers."""

    def __init__(
        self, width: int, *, n_symbols: int, n_layers: int, n_heads: int, n_ffn: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_symbols, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, n_heads, n_ffn, dropout, batch_first=True, norm_first=True
            )
            for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, n_symbols)

    def forward(
        self, encoded: Tensor, n_encoded: Tensor, tokens: Tensor, n_tokens: Tensor
    ) -> Tensor:
        """Predict each symbol of transcripts, and their ends, from the symbols before.

        Parameters
        ----------
        encoded : (batch, n_encoded, width)
        n_encoded : (batch,)
        tokens : (batch, n_tokens), integers; what stands behind the ends does not count
        n_tokens : (batch,)

        Returns
        -------
        logits : (batch, n_tokens + 1, n_symbols)
        """
        edge = self.embed.num_embeddings - 1
        valid = lengths_to_mask(n_tokens, tokens.shape[1])
        symbols = F.pad(tokens.masked_fill(~valid, edge), (1, 0), value=edge)
        x = self.embed(symbols) * math.sqrt(self.embed.embedding_dim)
        places = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)
        x = self.dropout(x + sinusoids(places, x.shape[2]).to(x.dtype))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        silent = ~lengths_to_mask(n_encoded, encoded.shape[1])
        for layer in self.layers:
            x = layer(x, encoded, tgt_mask=later, memory_key_padding_mask=silent)
        logits: Tensor = self.classify(self.norm(x))
        return logits


def decoder_targets(tokens: Tensor, n_tokens: Tensor, *, n_symbols: int) -> Tensor:
    """Put the end of transcripts behind them, and -100 behind that.

    Parameters
    ----------
    tokens : (batch, n_tokens), integers
    n_tokens : (batch,)

    Returns
    -------
    targets : (batch, n_tokens + 1), what :class:`AttentionDecoder` is to predict
    """
    width = tokens.shape[1] + 1
    targets = F.pad(tokens, (0, 1)).masked_fill(~lengths_to_mask(n_tokens, width), IGNORED)
    return targets.scatter(1, n_tokens.unsqueeze(1), n_symbols - 1)


def attention_loss(
    outputs: dict[str, Tensor],
    tokens: Tensor,
    n_tokens: Tensor,
    *,
    smoothing: float = 0.1,
    reverse_weight: float = 0.3,
) -> Tensor:
    """Cross-entropy of the decoders, summed over symbols, divided by the batch size.

    Parameters
    ----------
    outputs
        Of a network: logits ``decoder`` (batch, n_tokens + 1, n_symbols), and ``decoder_reverse``
        of the same shape where it has a second decoder.
    tokens : (batch, n_tokens), integers, from left to right
    n_tokens : (batch,)
    smoothing
        Share of probability that is spread over all symbols.
    reverse_weight
        Share of the second decoder's loss, if there is one.

    Raises
    ------
    InputError
        If logits and tokens do not belong together.
    """
    forward = _cross_entropy(outputs["decoder"], tokens, n_tokens, smoothing)
    if "decoder_reverse" not in outputs:
        return forward
    backward = reversed_tokens(tokens, n_tokens)
    reverse = _cross_entropy(outputs["decoder_reverse"], backward, n_tokens, smoothing)
    return (1 - reverse_weight) * forward + reverse_weight * reverse


def reversed_tokens(tokens: Tensor, n_tokens: Tensor) -> Tensor:
    """Reverse transcripts ``(batch, n_tokens)``, each within its own length."""
    return reverse_frames(tokens.unsqueeze(1), n_tokens).squeeze(1)


def _cross_entropy(logits: Tensor, tokens: Tensor, n_tokens: Tensor, smoothing: float) -> Tensor:
    if logits.shape[:2] != (len(tokens), tokens.shape[1] + 1):
        raise InputError(
            f"attention loss got logits {tuple(logits.shape)} for tokens {tuple(tokens.shape)}: "
            "expected one more position than tokens"
        )
    targets = decoder_targets(tokens, n_tokens, n_symbols=logits.shape[2])
    total = F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return total / len(tokens)
