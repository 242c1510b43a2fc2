"""Connectionist temporal classification: how likely frames spell a transcript, over all timings.

Citation: A. Graves, S. Fernández, F. Gomez, J. Schmidhuber, "Connectionist Temporal
Classification", ICML 2006.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from serkit.types import InputError

__all__ = ["BLANK", "ctc_loss"]

BLANK = 0


def ctc_loss(
    logits: Tensor,
    n_frames: Tensor,
    symbols: Tensor,
    *,
    reduction: Literal["sum", "mean"],
    zero_infinity: bool,
) -> Tensor:
    """Minus the log-probability of the transcripts.

    Parameters
    ----------
    logits : (batch, n_frames, n_symbols)
        Symbol 0 is the blank.
    n_frames : (batch,)
        Valid frames of each utterance.
    symbols : (batch, n), integers
        The transcripts, padded with -100.
    reduction
        ``sum``: over the batch; ``mean``: each utterance's divided by its number of symbols, mean
        over the batch.
    zero_infinity
        Utterances without symbols, or with more than their frames can spell, count 0. Otherwise
        the latter make the loss infinite.

    Raises
    ------
    InputError
        If the transcripts have another shape, or a symbol that the logits have not.
    """
    _require_symbols(symbols, logits)
    n_symbols = (symbols >= 0).sum(1)
    counted = torch.ones_like(n_symbols, dtype=torch.bool)
    if zero_infinity:
        counted = (n_symbols > 0) & (_frames_needed(symbols) <= n_frames)
    if not counted.any():
        return logits[:0].sum()
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = F.ctc_loss(
        logits[counted].log_softmax(2, dtype=dtype).transpose(0, 1),
        symbols[counted].clamp_min(0),
        n_frames[counted],
        n_symbols[counted],
        blank=BLANK,
        reduction="none",
        zero_infinity=zero_infinity,
    )
    if reduction == "sum":
        return losses.sum()
    return (losses / n_symbols[counted].clamp_min(1)).sum() / len(symbols)


def _frames_needed(symbols: Tensor) -> Tensor:
    """Count the frames that spell a transcript: one per symbol, and a blank between equal ones."""
    repeated = (symbols[:, 1:] == symbols[:, :-1]) & (symbols[:, 1:] >= 0)
    return (symbols >= 0).sum(1) + repeated.sum(1)


def _require_symbols(symbols: Tensor, logits: Tensor) -> None:
    if symbols.ndim != 2 or symbols.is_floating_point() or len(symbols) != len(logits):
        raise InputError(
            f"ctc wants a target of symbols ({len(logits)}, n), padded with -100, got "
            f"{symbols.dtype} {tuple(symbols.shape)}: name the transcripts as the term's target"
        )
    # Torch reads beyond the logits' memory for a symbol that they have not.
    if symbols.numel() and int(symbols.max()) >= logits.shape[2]:
        raise InputError(
            f"ctc got the symbol {int(symbols.max())}, the output tells {logits.shape[2]} apart: "
            "build it for as many symbols as the transcripts are spelled in"
        )
