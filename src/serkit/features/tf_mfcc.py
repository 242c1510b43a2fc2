"""Mel-frequency cepstral coefficients as TensorFlow's signal operations give them.

The chain of Light-SERNet's code (A. Aftab et al., ICASSP 2022) differs from librosa's, which is
:mod:`serkit.features.mfcc`, at every step: frames only where a whole window fits, the magnitude
spectrum, HTK mel bands of height 1 without the constant bin, the natural logarithm, a first
coefficient that is sqrt(2) times the orthonormal one, and clipping at the end. An utterance shorter
than one window, of which that code makes no frame, gets one: its samples followed by zeros.

Presets (:data:`TF_MFCC_PRESETS`):

* ``light-sernet``: 40 coefficients at 16 kHz, 64 ms windows every 16 ms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.features.mfcc import (
    MelBands,
    dct_matrix,
    power_spectrum,
    refuse_contradictions,
    triangles,
)

__all__ = ["TF_MFCC_PRESETS", "TfMfcc", "TfMfccConfig", "htk_mel_matrix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TfMfccConfig:
    """Everything the coefficients depend on; lengths in samples, frequencies in Hz."""

    sample_rate: PositiveInt = 16_000
    n_mfcc: PositiveInt = 40
    n_fft: PositiveInt = 1024
    win_length: PositiveInt = 1024  # of a periodic Hann window; zeros follow up to n_fft
    hop_length: PositiveInt = 256
    n_mels: PositiveInt = 128
    f_min_hz: NonNegativeFloat = 80.0
    f_max_hz: PositiveFloat = 7600.0
    clip: PositiveFloat | None = 10.0  # largest coefficient, either sign

    @property
    def n_features(self) -> int:
        """Width of one frame."""
        return self.n_mfcc


TF_MFCC_PRESETS = {"light-sernet": TfMfccConfig()}

_LOG_OFFSET = 1e-6  # added to each band before the logarithm, as in the authors' code
_TINY_POWER = 1e-30  # keeps the square root's gradient finite; far below the offset


class TfMfcc(nn.Module):
    """Waveforms to cepstra.

    Parameters
    ----------
    config
        See :class:`TfMfccConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    window: Tensor
    dct: Tensor

    def __init__(self, config: TfMfccConfig) -> None:
        super().__init__()
        refuse_contradictions(asdict(config))
        self.config = config
        self.mel = MelBands(
            htk_mel_matrix(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                n_mels=config.n_mels,
                f_min_hz=config.f_min_hz,
                f_max_hz=config.f_max_hz,
            )
        )
        window = torch.hann_window(config.win_length, periodic=True, dtype=torch.float64)
        dct = dct_matrix(config.n_mels, config.n_mfcc)
        dct[:, 0] *= np.sqrt(2.0)
        # Functions of the config, as the bands are, so no checkpoint stores them.
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("dct", torch.from_numpy(dct).float(), persistent=False)

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the windows that fit into signals of given lengths; at least one."""
        behind_first = (n_samples - self.config.win_length).clamp_min(0)
        return 1 + torch.div(behind_first, self.config.hop_length, rounding_mode="floor")

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the coefficients of a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples), float32 in [-1, 1]
        n_samples : (batch,), valid samples of each; what follows must be zero

        Returns
        -------
        features : (batch, n_frames, n_mfcc); frames beyond an utterance's own are zero
        n_frames : (batch,)
        """
        c = self.config
        n_frames = self.n_frames(n_samples)
        waveforms = F.pad(waveforms, (0, max(0, c.win_length - waveforms.shape[1])))
        frames = waveforms.unfold(1, c.win_length, c.hop_length)
        # Pieces of 256 frames: large enough to keep a CPU busy, small enough for its caches.
        pieces = torch.split(frames, max(1, 256 // len(frames)), dim=1)
        features = torch.cat([self._cepstra(piece) for piece in pieces], dim=1)
        valid = torch.arange(features.shape[1], device=features.device) < n_frames.unsqueeze(1)
        return features.masked_fill(~valid.unsqueeze(2), 0.0), n_frames

    def _cepstra(self, frames: Tensor) -> Tensor:
        """Coefficients of each frame, ``(..., win_length) -> (..., n_mfcc)``."""
        c = self.config
        magnitude = (power_spectrum(frames * self.window, c.n_fft) + _TINY_POWER).sqrt()
        cepstra = torch.log(self.mel(magnitude) + _LOG_OFFSET) @ self.dct
        return cepstra if c.clip is None else cepstra.clamp(-c.clip, c.clip)


def htk_mel_matrix(
    *, sample_rate: int, n_fft: int, n_mels: int, f_min_hz: float, f_max_hz: float
) -> NDArray[np.float64]:
    """Bands of height 1, triangular on HTK's mel scale; the bin at 0 Hz is left out.

    Returns
    -------
    matrix : (n_fft // 2 + 1, n_mels)

    References
    ----------
    S. Young et al., The HTK Book, section 5.4.
    """
    mels = 1127.0 * np.log1p(np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1) / 700.0)
    lowest, highest = 1127.0 * np.log1p(np.array([f_min_hz, f_max_hz]) / 700.0)
    matrix = triangles(mels, np.linspace(lowest, highest, n_mels + 2))
    matrix[0] = 0.0
    return matrix
