"""Logarithms of mel-band energies as Kaldi computes them (Povey et al., ASRU 2011).

The usual features of speech recognition. Samples are counted as 16-bit integers; every frame loses
its mean, is pre-emphasised and weighed by Povey's window (a Hann window to the power of 0.85); the
power spectrum is summed into triangular bands on the mel scale ``1127 ln(1 + f / 700)``; of each
band the natural logarithm is taken, at least that of float32's epsilon. Values agree with
``kaldi-native-fbank``.

``edge`` says where frames lie. ``snip`` (Kaldi's default): only where a whole window fits, the
first at sample 0. ``reflect`` (Kaldi's ``--snip-edges=false``): one every hop, the signal mirrored
at its two ends. A signal too short for any frame gets one, of its samples and zeros under ``snip``,
of its mirror images under ``reflect``; Kaldi makes none.

Presets (:data:`FBANK_PRESETS`):

* ``kaldi``: 80 bands from 20 Hz to 8 kHz, 25 ms windows every 10 ms.
* ``asr``: the same of utterances brought to one loudness, -20 dB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.features.mfcc import MelBands, power_spectrum, triangles
from serkit.types import InputError

__all__ = ["FBANK_PRESETS", "Fbank", "FbankConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FbankConfig:
    """Everything the energies depend on; lengths in samples, frequencies in Hz."""

    sample_rate: PositiveInt = 16_000
    win_length: Annotated[int, Field(ge=2)] = 400  # zeros follow up to the next power of two
    hop_length: PositiveInt = 160
    n_mels: PositiveInt = 80
    f_min_hz: NonNegativeFloat = 20.0
    f_max_hz: PositiveFloat | None = None  # None: half the sample rate
    pre_emphasis: Annotated[float, Field(ge=0, le=1)] = 0.97
    edge: Literal["snip", "reflect"] = "snip"
    dither: NonNegativeFloat = 0.0  # noise in 16-bit steps, root mean square; in training only
    target_db: float | None = None  # loudness of each utterance, 0 dB is a root mean square of 1

    @property
    def n_features(self) -> int:
        """Width of one frame."""
        return self.n_mels

    @property
    def n_fft(self) -> int:
        """Length of the Fourier transform."""
        return 1 << (self.win_length - 1).bit_length()


FBANK_PRESETS = {
    "kaldi": FbankConfig(),
    "asr": replace(FbankConfig(), target_db=-20.0),
}

_FULL_SCALE = 32_768.0  # a sample of 1 as a 16-bit integer
_FLOOR = float(np.finfo(np.float32).eps)  # of a band's energy
_SILENCE = 1e-32  # mean square; raised to -20 dB it would need 300 dB


class Fbank(nn.Module):
    """Waveforms to logarithms of mel-band energies.

    Parameters
    ----------
    config
        See :class:`FbankConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    window: Tensor

    def __init__(self, config: FbankConfig) -> None:
        super().__init__()
        _refuse_contradictions(config)
        self.config = config
        self.mel = MelBands(_mel_matrix(config))
        hann = torch.hann_window(config.win_length, periodic=False, dtype=torch.float64)
        # A function of the config, as the bands are, so no checkpoint stores it.
        self.register_buffer("window", hann.pow(0.85).float(), persistent=False)

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames of signals of given lengths; at least one."""
        c = self.config
        if c.edge == "snip":
            behind_first = (n_samples - c.win_length).clamp_min(0)
            return 1 + torch.div(behind_first, c.hop_length, rounding_mode="floor")
        rounded = n_samples + c.hop_length // 2
        return torch.div(rounded, c.hop_length, rounding_mode="floor").clamp_min(1)

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the energies of a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples), float32 in [-1, 1]
        n_samples : (batch,), valid samples of each; what follows must be zero

        Returns
        -------
        features : (batch, n_frames, n_mels); frames beyond an utterance's own are zero
        n_frames : (batch,)
        """
        c = self.config
        n_frames = self.n_frames(n_samples)
        if c.target_db is not None:
            waveforms = _at_loudness(waveforms, n_samples, c.target_db)
        if c.edge == "reflect":
            waveforms = self._mirrored(waveforms, n_samples)
        waveforms = F.pad(waveforms, (0, max(0, c.win_length - waveforms.shape[1])))
        frames = waveforms.unfold(1, c.win_length, c.hop_length)
        # Pieces of 256 frames: large enough to keep a CPU busy, small enough for its caches.
        pieces = torch.split(frames, max(1, 256 // max(1, len(frames))), dim=1)
        features = torch.cat([self._energies(piece) for piece in pieces], dim=1)
        valid = torch.arange(features.shape[1], device=features.device) < n_frames.unsqueeze(1)
        return features.masked_fill(~valid.unsqueeze(2), 0.0), n_frames

    def _mirrored(self, waveforms: Tensor, n_samples: Tensor) -> Tensor:
        """Continue each signal by its mirror images, from where the first frame begins."""
        c = self.config
        width = max(1, waveforms.shape[1])
        last = int(self.n_frames(torch.tensor(width))) - 1
        before = c.win_length // 2 - c.hop_length // 2
        at = torch.arange(last * c.hop_length + c.win_length, device=waveforms.device) - before
        n = n_samples.clamp_min(1).unsqueeze(1)
        at = at.remainder(2 * n)  # (batch, n_mirrored); two images are one period
        at = torch.where(at < n, at, 2 * n - 1 - at)
        return F.pad(waveforms, (0, width - waveforms.shape[1])).gather(1, at)

    def _energies(self, frames: Tensor) -> Tensor:
        """Energies of each frame, ``(..., win_length) -> (..., n_mels)``."""
        c = self.config
        frames = frames * _FULL_SCALE
        if self.training and c.dither:
            frames = frames + c.dither * torch.randn_like(frames)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - c.pre_emphasis * before) * self.window
        energies: Tensor = self.mel(power_spectrum(frames, c.n_fft))
        return energies.clamp_min(_FLOOR).log()


def _at_loudness(waveforms: Tensor, n_samples: Tensor, target_db: float) -> Tensor:
    """Bring utterances to one root mean square; silence stays silence."""
    power = waveforms.square().sum(1) / n_samples.clamp_min(1)
    gain = 10 ** (target_db / 20) * power.clamp_min(_SILENCE).rsqrt()
    return waveforms * torch.where(power > _SILENCE, gain, 1.0).unsqueeze(1)


def _mel_matrix(config: FbankConfig) -> NDArray[np.float64]:
    """Bands of height 1, triangular on the mel scale, ``(n_fft // 2 + 1, n_mels)``."""
    half_rate = config.sample_rate / 2
    hz = np.linspace(0.0, half_rate, config.n_fft // 2 + 1)
    lowest, highest = _mel(np.array([config.f_min_hz, config.f_max_hz or half_rate]))
    return triangles(_mel(hz), np.linspace(lowest, highest, config.n_mels + 2))


def _mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(hz / 700.0)


def _refuse_contradictions(config: FbankConfig) -> None:
    half_rate = config.sample_rate / 2
    f_max_hz = config.f_max_hz or half_rate
    for name, holds, expected in (
        (
            "hop_length",
            config.hop_length <= config.win_length,
            f"at most win_length, {config.win_length}",
        ),
        ("f_max_hz", f_max_hz <= half_rate, f"at most half the sample rate, {half_rate:g}"),
        ("f_min_hz", config.f_min_hz < f_max_hz, f"less than {f_max_hz:g}"),
    ):
        if not holds:
            raise InputError(f"front_end.{name} is {getattr(config, name)}, expected {expected}")
