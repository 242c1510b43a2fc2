"""Mel-frequency cepstral coefficients in batched torch, equal to librosa's.

The chain is that of ``librosa.feature.mfcc`` (McFee et al., 2015, with its defaults of 0.9.2 and
later): centred frames, windowed STFT, power spectrogram, Slaney mel bands with area normalisation,
decibels clipped ``top_db`` below the utterance's own maximum, orthonormal DCT-II. It is
differentiable, runs on CPU and GPU, and takes padded batches with lengths.

Presets (:data:`MFCC_PRESETS`):

* ``timnet-code``: 39 coefficients as the authors' *code* of TIM-Net computes them (92.9 ms Hann
  windows every 23.2 ms). Their paper says otherwise; the published feature files agree with the
  code.
* ``timnet-paper``: what the TIM-Net *paper* says (50 ms Hamming windows every 12.5 ms).
* ``moe-26``: 26 coefficients at 16 kHz, as in the mixture-of-experts code.
* ``librosa-default``: 20 coefficients, everything librosa's default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from serkit.audio import seconds_to_samples

__all__ = ["MFCC_PRESETS", "Mfcc", "MfccConfig", "dct_matrix", "slaney_mel_matrix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MfccConfig:
    """Everything the coefficients depend on; lengths in samples, frequencies in Hz."""

    sample_rate: int = 22_050
    n_mfcc: int = 20
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 512
    window: Literal["hann", "hamming"] = "hann"
    n_mels: int = 128
    f_min_hz: float = 0.0
    f_max_hz: float | None = None  # None: half the sample rate
    top_db: float | None = 80.0
    # Zeros since librosa 0.9; 'reflect' is what 0.8.1 and older did. It changes the two first and
    # two last frames of every signal without 1024 zeros at its border.
    edge: Literal["zeros", "reflect"] = "zeros"

    @property
    def n_features(self) -> int:
        """Width of one frame."""
        return self.n_mfcc


MFCC_PRESETS = {
    "librosa-default": MfccConfig(),
    "timnet-code": MfccConfig(n_mfcc=39),
    "timnet-paper": MfccConfig(
        n_mfcc=39,
        win_length=seconds_to_samples(0.050, 22_050) - 1,  # 1102: the authors' 50 ms, rounded down
        hop_length=seconds_to_samples(0.0125, 22_050),
        window="hamming",
    ),
    "moe-26": replace(MfccConfig(), sample_rate=16_000, n_mfcc=26),
}

_AMIN = 1e-10  # power floor before the logarithm: -100 dB


class Mfcc(nn.Module):
    """Waveforms to cepstra.

    Parameters
    ----------
    config
        See :class:`MfccConfig`.
    """

    mel: Tensor
    window: Tensor
    dct: Tensor

    def __init__(self, config: MfccConfig) -> None:
        super().__init__()
        self.config = config
        window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[config.window](
            config.win_length, periodic=True, dtype=torch.float64
        )
        side = config.n_fft - config.win_length
        if side < 0:
            raise ValueError(
                f"win_length {config.win_length} exceeds n_fft {config.n_fft}: enlarge n_fft"
            )
        window = F.pad(window, (side // 2, side - side // 2))
        mel = slaney_mel_matrix(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            n_mels=config.n_mels,
            f_min_hz=config.f_min_hz,
            f_max_hz=config.f_max_hz,
        )
        used = mel > 0
        self._last_low_bin = 1 + int(np.flatnonzero(used[:, : config.n_mels // 2].any(1))[-1])
        self._first_high_bin = int(np.flatnonzero(used[:, config.n_mels // 2 :].any(1))[0])
        # All three are functions of the config, so no checkpoint stores them.
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel).float(), persistent=False)
        dct = torch.from_numpy(dct_matrix(config.n_mels, config.n_mfcc)).float()
        self.register_buffer("dct", dct, persistent=False)

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames of signals of given lengths: one every hop, the first centred on 0."""
        return 1 + torch.div(n_samples, self.config.hop_length, rounding_mode="floor")

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

        Raises
        ------
        ValueError
            With ``edge='reflect'`` if the batch mixes lengths: the mirror image of one signal would
            run into the padding of another.
        """
        c = self.config
        half = c.n_fft // 2
        if c.edge == "reflect":
            if bool((n_samples != waveforms.shape[1]).any()):
                raise ValueError("edge='reflect' needs signals of one length per batch")
            padded = F.pad(waveforms.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
        else:
            padded = F.pad(waveforms, (half, half))
        n_frames = self.n_frames(n_samples)
        frames = padded.unfold(1, c.n_fft, c.hop_length)  # (batch, n_frames, n_fft)
        frames = frames[:, : 1 + waveforms.shape[1] // c.hop_length]
        if c.n_fft % c.hop_length or torch.compiler.is_exporting():
            mel = self._mel_power(frames)  # (batch, n_frames, n_mels)
        else:
            # Padding is silent and a third of a typical corpus: transform only what sounds.
            sounding = self._sounding(padded, frames.shape[1])
            mel = frames.new_zeros(*frames.shape[:2], c.n_mels)
            mel[sounding] = self._mel_power(frames[sounding])
        decibel = 10.0 * torch.log10(mel.clamp_min(_AMIN))
        valid = torch.arange(mel.shape[1], device=mel.device) < n_frames.unsqueeze(1)
        if c.top_db is not None:
            peak = decibel.masked_fill(~valid.unsqueeze(2), -torch.inf).amax(dim=(1, 2))
            decibel = torch.maximum(decibel, (peak - c.top_db)[:, None, None])
        features = decibel @ self.dct  # (batch, n_frames, n_mfcc)
        return features.masked_fill(~valid.unsqueeze(2), 0.0), n_frames

    def _mel_power(self, frames: Tensor) -> Tensor:
        """Windowed frames to mel band powers, ``(..., n_fft) -> (..., n_mels)``."""
        squares = torch.view_as_real(torch.fft.rfft(frames * self.window)).square()
        power = squares[..., 0] + squares[..., 1]  # eight times as fast as .sum(-1) on a CPU
        # Each half of the bands needs only its own bins: half the arithmetic of one product.
        low, high, n_low = self.config.n_mels // 2, self._first_high_bin, self._last_low_bin
        return torch.cat(
            [
                power[..., :n_low] @ self.mel[:n_low, :low],
                power[..., high:] @ self.mel[high:, low:],
            ],
            dim=-1,
        )

    def _sounding(self, padded: Tensor, n_frames: int) -> Tensor:
        """Tell which frames hold anything but zeros, ``(batch, n_frames)``."""
        hop = self.config.hop_length
        per_frame = self.config.n_fft // hop
        blocks = padded[:, : (n_frames + per_frame - 1) * hop].reshape(len(padded), -1, hop)
        sounding: Tensor = (blocks != 0).any(-1).unfold(1, per_frame, 1).any(-1)
        return sounding


def slaney_mel_matrix(
    *,
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min_hz: float = 0.0,
    f_max_hz: float | None = None,
) -> NDArray[np.float64]:
    """Triangular bands on Slaney's mel scale (linear below 1 kHz), each of unit area.

    Returns
    -------
    matrix : (n_fft // 2 + 1, n_mels)

    References
    ----------
    M. Slaney, Auditory Toolbox, Technical Report 1998-010, Interval Research.
    """
    hz_per_mel = 200.0 / 3.0
    break_hz, break_mel = 1000.0, 15.0
    log_step = np.log(6.4) / 27.0

    def to_mel(hz: float) -> float:
        return (
            hz / hz_per_mel
            if hz < break_hz
            else break_mel + float(np.log(hz / break_hz)) / log_step
        )

    top = sample_rate / 2 if f_max_hz is None else f_max_hz
    mels = np.linspace(to_mel(f_min_hz), to_mel(top), n_mels + 2)
    edges = np.where(
        mels < break_mel, mels * hz_per_mel, break_hz * np.exp(log_step * (mels - break_mel))
    )
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    ramps = edges[:, None] - bins[None, :]  # (n_mels + 2, n_bins)
    widths = np.diff(edges)
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    bands = np.maximum(0.0, np.minimum(rising, falling))
    return np.ascontiguousarray((bands * (2.0 / (edges[2:] - edges[:-2]))[:, None]).T)


def dct_matrix(n_inputs: int, n_outputs: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II as a matrix to multiply from the right, ``(n_inputs, n_outputs)``."""
    n = np.arange(n_inputs)[:, None]
    k = np.arange(n_outputs)[None, :]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * n_inputs)) * np.sqrt(2.0 / n_inputs)
    matrix[:, 0] /= np.sqrt(2.0)
    return np.asarray(matrix)
