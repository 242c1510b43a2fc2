"""No front end: for recognizers that read what is said, and do not listen.

Every utterance has one frame of one zero, so that all else works as for those that listen. In a run
no sound is opened, and none has to exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

__all__ = ["NoSound", "NoSoundConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSoundConfig:
    """Sample rate, in Hz, to which sound would be brought if there were any."""

    sample_rate: PositiveInt = 16_000

    @property
    def n_features(self) -> int:
        """Width of the frame."""
        return 1


class NoSound(nn.Module):
    """Waveforms to nothing.

    Parameters
    ----------
    config
        See :class:`NoSoundConfig`.
    """

    def __init__(self, config: NoSoundConfig) -> None:
        super().__init__()
        self.config = config

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames: one."""
        return torch.ones_like(n_samples)

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Leave sound unheard.

        Parameters
        ----------
        waveforms : (batch, n_samples)
        n_samples : (batch,)

        Returns
        -------
        features : (batch, 1, 1), zero
        n_frames : (batch,), one each
        """
        return waveforms.new_zeros(len(waveforms), 1, 1), self.n_frames(n_samples)
