"""Losses that compare the utterances of one batch with each other.

``z`` and ``other`` are projections, (batch, d). Each loss comes in a sound form, on unit vectors
with the temperature inside the softmax, and in the form of the released code of MMER (S. Ghosh et
al., Interspeech 2023), on vectors of any length. A loss over nothing is 0, with a gradient of 0.

An utterance is compared with those of its own batch alone: accumulating gradients over several
batches adds no negatives, so 4 batches of 2 are another objective than 1 batch of 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["info_nce", "published_pairs", "published_supervised", "supervised_contrastive"]


def supervised_contrastive(z: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Draw utterances of one class together: mean over anchors of the mean over their positives.

    Citation: P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2. An anchor
    is not compared with itself, and one without another utterance of its class is left out.

    Parameters
    ----------
    z : (batch, d)
    labels : (batch,), class indices
    """
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    units = F.normalize(_at_least_float32(z), dim=1)
    log_p = _log_softmax(units @ units.T / temperature, allowed=~itself)
    positive = ((labels[:, None] == labels) & ~itself).to(log_p.dtype)
    n_positives = positive.sum(1)
    per_anchor = -(positive * log_p).sum(1) / n_positives.clamp_min(1)
    return per_anchor.sum() / (n_positives > 0).sum().clamp_min(1)


def published_supervised(z: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Give MMER's supervised loss as released.

    Minus the mean of log softmax(z z^T) over all ordered pairs of one class, those of an utterance
    with itself included, divided by the temperature: that only multiplies the loss.

    Parameters
    ----------
    z : (batch, d)
    labels : (batch,), class indices
    """
    z = _at_least_float32(z)
    log_p = F.log_softmax(z @ z.T, dim=1)
    positive = (labels[:, None] == labels).to(log_p.dtype)
    return -(positive * log_p).sum() / temperature / positive.sum().clamp_min(1)


def info_nce(
    z: Tensor, other: Tensor, *, present: Tensor, temperature: float, symmetric: bool = False
) -> Tensor:
    """Tell which of the batch's other views belongs to an utterance.

    Citation: A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive
    Predictive Coding", 2018, eq. 4, with the cosine as score.

    Parameters
    ----------
    z, other : (batch, d)
        The views; row i of both is utterance i.
    present : (batch,), bool
        Utterances that have another view; the rest are neither anchors nor negatives.
    symmetric
        Also ask which ``z`` belongs to ``other``, and take the mean of both answers.
    """
    units = F.normalize(_present_rows(z, present), dim=1)
    others = F.normalize(_present_rows(other, present), dim=1)
    scores = units @ others.T / temperature
    forth = _own_column(scores, present)
    return (forth + _own_column(scores.T, present)) / 2 if symmetric else forth


def published_pairs(z: Tensor, other: Tensor, *, present: Tensor, temperature: float) -> Tensor:
    """Give MMER's loss over two views as released: :func:`info_nce` on vectors of any length.

    Parameters
    ----------
    z, other : (batch, d)
    present : (batch,), bool
    """
    scores = _present_rows(z, present) @ _present_rows(other, present).T
    return _own_column(scores / temperature, present)


def _own_column(scores: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of scores (batch, batch) against the diagonal, over rows that are present."""
    own = _log_softmax(scores, allowed=present).diagonal()
    return -own.where(present, 0.0).sum() / present.sum().clamp_min(1)


def _present_rows(z: Tensor, present: Tensor) -> Tensor:
    # What stands in a row without a view, NaN included, must not reach the gradient of the others.
    return _at_least_float32(z).where(present[:, None], 0.0)


def _log_softmax(scores: Tensor, *, allowed: Tensor) -> Tensor:
    """Log-softmax over the allowed entries of each row; finite where a row has none."""
    return F.log_softmax(scores.masked_fill(~allowed, torch.finfo(scores.dtype).min), dim=1)


def _at_least_float32(z: Tensor) -> Tensor:
    """Leave half precision: scores divided by a small temperature need the digits."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
