"""Views: how a system sees an utterance that is longer or shorter than it wants.

A view acts on the waveform, before the front end, and is the same in training and in serving.

* ``fixed``: every utterance becomes exactly ``n_samples`` long. Shorter ones get zeros on both
  sides (an odd zero goes to the right), longer ones lose both ends (TIM-Net, as in the authors'
  code). The padding counts as speech afterwards, as published.
* ``whole``: every utterance as it is, up to ``max_samples``; the rest is cut off at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from serkit.settings import checked
from serkit.types import InputError

__all__ = ["FixedView", "View", "WholeView", "view_from_dict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedView:
    """Centre padding and centre cropping to one length (samples at the recognizer's rate)."""

    n_samples: PositiveInt
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
            if n >= length:
                start = (n - length) // 2
                viewed[row] = waveforms[row, start : start + length]
            else:
                start = (length - n) // 2
                viewed[row, start : start + n] = waveforms[row, :n]
        return viewed, torch.full_like(n_samples, length)


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


View = FixedView | WholeView


def view_from_dict(config: dict[str, object]) -> View:
    """Build a view from its saved form.

    Raises
    ------
    InputError
        If ``kind`` names no view, a key does not belong to it, or a value is of the wrong kind.
    """
    kinds: dict[object, type[FixedView] | type[WholeView]] = {
        "fixed": FixedView,
        "whole": WholeView,
    }
    kind = config.get("kind")
    if kind not in kinds:
        raise InputError(f"view.kind is {kind!r}, expected one of {', '.join(map(str, kinds))}")
    return checked(kinds[kind], config, where="view")
