"""Views: how a system sees an utterance that is longer or shorter than it wants.

A view acts on the waveform, before the front end, and is the same in training and in serving.

* ``fixed``: every utterance becomes exactly ``n_samples`` long. Shorter ones get zeros on both
  sides (an odd zero goes to the right), longer ones lose both ends (TIM-Net, as in the authors'
  code). The padding counts as speech afterwards, as published. ``scale = "percentile"`` brings
  what is kept to one loudness first (Light-SERNet, as in the authors' code).
* ``whole``: every utterance as it is, up to ``max_samples``; the rest is cut off at the end.
* ``segments``: every utterance becomes overlapping segments of one length, which are trained on as
  examples of their own; the logits of an utterance's segments are joined by :func:`aggregate`
  (mixture of experts, as in the authors' code).

What a view makes of an utterance are *pieces*: one, or for ``segments`` any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from serkit.settings import checked
from serkit.types import InputError

__all__ = [
    "VIEWS",
    "Aggregation",
    "FixedView",
    "SegmentsView",
    "View",
    "WholeView",
    "aggregate",
    "cut_pieces",
    "mean_of_pieces",
    "view_from_dict",
]

Aggregation = Literal["average_no_softmax", "average_softmax", "majority_vote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedView:
    """Centre padding and centre cropping to one length.

    Attributes
    ----------
    n_samples
        The length, at the recognizer's rate.
    scale
        ``percentile``: what cropping leaves of an utterance is divided by the 99.9th percentile of
        its amplitude and clipped to [-1, 1] before it is padded; it stays as it is where that
        percentile is zero. ``none``: amplitudes are left alone.
    """

    n_samples: PositiveInt
    scale: Literal["none", "percentile"] = "none"
    kind: Literal["fixed"] = "fixed"

    def __call__(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cut or pad a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples)
        n_samples : (batch,), valid samples

        Returns
        -------
        waveforms : (batch, self.n_samples)
        n_samples : (batch,), all equal to ``self.n_samples``
        """
        length = self.n_samples
        viewed = waveforms.new_zeros(len(waveforms), length)
        # Row by row: one gather over the batch costs ten times as much as these copies.
        for row, n in enumerate(n_samples.tolist()):
            first = max(0, n - length) // 2
            kept = waveforms[row, first : min(n, first + length)]
            if self.scale == "percentile":
                kept = _scaled(kept)
            start = (length - len(kept)) // 2
            viewed[row, start : start + len(kept)] = kept
        return viewed, torch.full_like(n_samples, length)


def _scaled(waveform: Tensor) -> Tensor:
    """Divide by the 99.9th percentile of the amplitude, interpolated as numpy does, and clip."""
    if not len(waveform):
        return waveform
    position = 0.999 * (len(waveform) - 1)
    # The loudest thousandth is enough: sorting everything takes thirty times as long.
    loudest = waveform.abs().topk(len(waveform) - int(position)).values
    level = torch.lerp(loudest[-1], loudest[-2:][0], position % 1.0)
    return (waveform / torch.where(level > 0, level, 1.0)).clamp(-1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeView:
    """The utterance as it is, at most ``max_samples`` from its beginning."""

    max_samples: PositiveInt | None = None
    kind: Literal["whole"] = "whole"

    def __call__(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cut a batch; shapes as in :class:`FixedView`."""
        if self.max_samples is None:
            return waveforms, n_samples
        return waveforms[:, : self.max_samples], n_samples.clamp_max(self.max_samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentsView:
    """Overlapping segments of one length (samples at the recognizer's rate).

    Attributes
    ----------
    n_samples
        Length of a segment.
    train_hop, test_hop
        From one segment's begin to the next, in training and wherever an utterance is judged.
    strict
        ``False``: segments begin every hop as long as they end with the utterance or before it.
        ``True``: as long as they end before it, as in the later of the authors' two versions; an
        utterance of exactly one segment's length is then too short.
    short
        What becomes of an utterance that is too short for a segment. ``drop``: it is neither
        trained on nor judged, as published. ``zeros``: it is one segment, completed with zeros that
        count as no speech. ``repeat``: it is one segment, repeated until that is full.
    aggregation
        See :func:`aggregate`.

    What is left at the end of an utterance and fills no segment is not used, as published.
    """

    n_samples: PositiveInt
    train_hop: PositiveInt
    test_hop: PositiveInt
    strict: bool = False
    short: Literal["drop", "zeros", "repeat"] = "zeros"
    aggregation: Aggregation = "average_no_softmax"
    kind: Literal["segments"] = "segments"

    def n_segments(self, n_samples: int, *, hop: int) -> int:
        """Count the segments of an utterance; 0 where it is too short.

        >>> view = SegmentsView(n_samples=32000, train_hop=16000, test_hop=6400)
        >>> view.n_segments(48000, hop=16000), view.n_segments(31999, hop=16000)
        (2, 0)
        """
        beyond = n_samples - self.n_samples
        if self.strict:
            return max(0, -(-beyond // hop))
        return max(0, beyond // hop + 1)

    def __call__(
        self, waveforms: Tensor, n_samples: Tensor, *, hop: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cut a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples)
        n_samples : (batch,), valid samples

        Returns
        -------
        segments : (n_segments, self.n_samples)
        n_samples : (n_segments,)
        owners : (n_segments,), the row of the batch that each was cut from
        """
        segments, lengths, owners = [], [], []
        for row, n in enumerate(n_samples.tolist()):
            count = self.n_segments(n, hop=hop)
            if count:
                end = (count - 1) * hop + self.n_samples
                segments.append(waveforms[row, :end].unfold(0, self.n_samples, hop))
                lengths += [self.n_samples] * count
            elif self.short != "drop":
                piece = waveforms[row, : min(n, self.n_samples)]
                if self.short == "repeat":
                    piece = piece.repeat(-(-self.n_samples // len(piece)))[: self.n_samples]
                lengths.append(len(piece))
                segments.append(F.pad(piece, (0, self.n_samples - len(piece))).unsqueeze(0))
                count = 1
            owners += [row] * count
        joined = torch.cat([waveforms.new_zeros(0, self.n_samples), *segments])
        return joined, n_samples.new_tensor(lengths), n_samples.new_tensor(owners)


View = FixedView | WholeView | SegmentsView

VIEWS: dict[str, type[FixedView] | type[WholeView] | type[SegmentsView]] = {
    "fixed": FixedView,
    "segments": SegmentsView,
    "whole": WholeView,
}


def cut_pieces(
    view: View, waveforms: Tensor, n_samples: Tensor, *, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a view.

    Parameters
    ----------
    waveforms : (batch, n_samples)
    n_samples : (batch,)
    training
        Whether the pieces are trained on, or judged.

    Returns
    -------
    pieces : (n_pieces, n_samples)
    n_samples : (n_pieces,)
    owners : (n_pieces,), the row of the batch that each was taken from
    """
    if isinstance(view, SegmentsView):
        return view(waveforms, n_samples, hop=view.train_hop if training else view.test_hop)
    pieces, n_samples = view(waveforms, n_samples)
    return pieces, n_samples, torch.arange(len(pieces), device=n_samples.device)


def aggregate(
    logits: Tensor, owners: Tensor, n: int, *, rule: Aggregation, multi_label: bool = False
) -> Tensor:
    """Join the logits of each utterance's pieces into its scores.

    Parameters
    ----------
    logits : (n_pieces, n_classes)
    owners : (n_pieces,), in [0, n)
    rule
        ``average_no_softmax``: softmax of the mean logits. ``average_softmax``: mean of the
        pieces' softmax. ``majority_vote``: share of the pieces whose highest logit is the class's.
        With one piece the first two are the same.
    multi_label
        Sigmoids in place of softmax, and in place of the highest logit every one above 0.

    Returns
    -------
    scores : (n, n_classes), in [0, 1]; rows sum to 1 unless ``multi_label``
    """

    def distribution(values: Tensor) -> Tensor:
        return values.sigmoid() if multi_label else values.softmax(-1)

    if rule == "average_no_softmax":
        return distribution(mean_of_pieces(logits, owners, n))
    if rule == "average_softmax":
        return mean_of_pieces(distribution(logits), owners, n)
    votes = logits > 0 if multi_label else F.one_hot(logits.argmax(-1), logits.shape[-1])
    return mean_of_pieces(votes.to(logits.dtype), owners, n)


def mean_of_pieces(values: Tensor, owners: Tensor, n: int) -> Tensor:
    """Average what pieces have, ``(n_pieces, d)``, over each utterance, ``(n, d)``."""
    counts = torch.bincount(owners, minlength=n).unsqueeze(1)
    return values.new_zeros(n, values.shape[1]).index_add_(0, owners, values) / counts


def view_from_dict(config: dict[str, object]) -> View:
    """Build a view from its saved form.

    Raises
    ------
    InputError
        If ``kind`` names no view, a key does not belong to it, or a value is of the wrong kind.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in VIEWS:
        raise InputError(f"view.kind is {kind!r}, expected one of {', '.join(VIEWS)}")
    return checked(VIEWS[kind], config, where="view")
