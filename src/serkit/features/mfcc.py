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

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.audio import seconds_to_samples
from serkit.types import InputError

__all__ = [
    "MFCC_PRESETS",
    "MelBands",
    "Mfcc",
    "MfccConfig",
    "dct_matrix",
    "power_spectrum",
    "refuse_contradictions",
    "slaney_mel_matrix",
    "triangles",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MfccConfig:
    """Everything the coefficients depend on; lengths in samples, frequencies in Hz."""

    sample_rate: PositiveInt = 22_050
    n_mfcc: PositiveInt = 20
    n_fft: PositiveInt = 2048
    win_length: PositiveInt = 2048
    hop_length: PositiveInt = 512
    window: Literal["hann", "hamming"] = "hann"
    n_mels: PositiveInt = 128
    f_min_hz: NonNegativeFloat = 0.0
    f_max_hz: float | None = None  # None: half the sample rate
    top_db: PositiveFloat | None = 80.0
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

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    window: Tensor
    dct: Tensor

    def __init__(self, config: MfccConfig) -> None:
        super().__init__()
        refuse_contradictions(asdict(config))
        self.config = config
        window = {"hann": torch.hann_window, "hamming": torch.hamming_window}[config.window](
            config.win_length, periodic=True, dtype=torch.float64
        )
        side = config.n_fft - config.win_length
        window = F.pad(window, (side // 2, side - side // 2))
        self.mel = MelBands(
            slaney_mel_matrix(
                sample_rate=config.sample_rate,
                n_fft=config.n_fft,
                n_mels=config.n_mels,
                f_min_hz=config.f_min_hz,
                f_max_hz=config.f_max_hz,
            )
        )
        # Functions of the config, as the bands are, so no checkpoint stores them.
        self.register_buffer("window", window.float(), persistent=False)
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
        InputError
            With ``edge='reflect'`` if the batch mixes lengths (the mirror image of one signal would
            run into the padding of another) or is not longer than half an ``n_fft``.
        """
        c = self.config
        half = c.n_fft // 2
        if c.edge == "reflect":
            if bool((n_samples != waveforms.shape[1]).any()):
                raise InputError(
                    f"front_end.edge 'reflect' needs signals of one length per batch, got "
                    f"{sorted(set(n_samples.tolist()))[:5]} samples padded to "
                    f"{waveforms.shape[1]}: extract them one by one, or use 'zeros'"
                )
            if waveforms.shape[1] <= half:
                raise InputError(
                    f"front_end.edge 'reflect' needs more than {half} samples, got "
                    f"{waveforms.shape[1]}: use 'zeros' for signals so short"
                )
            waveforms = F.pad(waveforms.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
            half = 0
        n_frames = self.n_frames(n_samples)
        if waveforms.device.type == "cpu" and not torch.compiler.is_exporting():
            return self._row_by_row(waveforms, half, n_frames), n_frames
        frames = F.pad(waveforms, (half, half)).unfold(1, c.n_fft, c.hop_length)
        valid = torch.arange(frames.shape[1], device=frames.device) < n_frames.unsqueeze(1)
        bands = self.mel(power_spectrum(frames * self.window, c.n_fft))
        return self._cepstra(bands, valid.unsqueeze(2)), n_frames

    def _row_by_row(self, waveforms: Tensor, half: int, n_frames: Tensor) -> Tensor:
        """Transform only what sounds, in pieces that stay within a CPU core's caches.

        Silence, which a fixed view adds to most utterances, gives one and the same frame. Frame 0
        begins ``half`` samples before the waveform.
        """
        n_fft, hop = self.config.n_fft, self.config.hop_length
        width = 1 + (waveforms.shape[1] + 2 * half - n_fft) // hop
        features = waveforms.new_zeros(len(waveforms), width, self.config.n_mfcc)
        silence = waveforms.new_zeros(1, n_fft // 2 + 1)
        for i, (waveform, n) in enumerate(zip(waveforms, n_frames.tolist(), strict=True)):
            begin, end = self._sounding(waveform, half, n)
            power = [silence]
            if end > begin:
                start, stop = begin * hop - half, (end - 1) * hop + n_fft - half
                stretch = F.pad(waveform, (-start, stop - len(waveform)))
                pieces = torch.split(stretch.unfold(0, n_fft, hop), 32)
                power += (power_spectrum(piece * self.window, n_fft) for piece in pieces)
            cepstra = self._cepstra(self.mel(torch.cat(power)))
            features[i, :n] = cepstra[0]
            features[i, begin:end] = cepstra[1:]
        return features

    def _sounding(self, waveform: Tensor, half: int, n_frames: int) -> tuple[int, int]:
        """Find the range of frames that hold anything but zeros; empty, (0, 0), in silence."""
        marks = (waveform.detach().numpy() != 0).tobytes()
        first, last = marks.find(1), marks.rfind(1)
        if first < 0:
            return 0, 0
        begin = max(0, (first + half - self.config.n_fft) // self.config.hop_length + 1)
        return begin, min(n_frames, (last + half) // self.config.hop_length + 1)

    def _cepstra(self, mel: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mel band powers to coefficients, ``(..., n_frames, n_mels) -> (..., n_frames, n_mfcc)``.

        ``valid`` ``(..., n_frames, 1)`` excludes padding from the peak and makes it zero.
        """
        decibel = 10.0 * torch.log10(mel.clamp_min(_AMIN))
        if self.config.top_db is not None:
            heard = decibel if valid is None else decibel.masked_fill(~valid, -torch.inf)
            peak = heard.amax(dim=(-2, -1), keepdim=True)
            decibel = torch.maximum(decibel, peak - self.config.top_db)
        cepstra = decibel @ self.dct
        return cepstra if valid is None else cepstra.masked_fill(~valid, 0.0)


def refuse_contradictions(settings: Mapping[str, Any]) -> None:
    """Check the settings of a cepstral front end against each other.

    Raises
    ------
    InputError
        If two of them contradict each other.
    """
    c, half_rate = settings, settings["sample_rate"] / 2
    f_max_hz = half_rate if c["f_max_hz"] is None else c["f_max_hz"]
    for name, holds, expected in (
        ("n_fft", c["n_fft"] % 2 == 0, "an even number"),
        ("win_length", c["win_length"] <= c["n_fft"], f"at most n_fft, {c['n_fft']}"),
        ("n_mfcc", c["n_mfcc"] <= c["n_mels"], f"at most n_mels, {c['n_mels']}"),
        ("f_max_hz", f_max_hz <= half_rate, f"at most half the sample rate, {half_rate:g}"),
        ("f_min_hz", c["f_min_hz"] < f_max_hz, f"less than {f_max_hz:g}"),
    ):
        if not holds:
            raise InputError(f"front_end.{name} is {c[name]}, expected {expected}")


def power_spectrum(frames: Tensor, n_fft: int) -> Tensor:
    """Power of windowed frames, zeros added: ``(..., win_length) -> (..., n_fft // 2 + 1)``."""
    # In place: a fresh tensor of this size costs more than the arithmetic.
    squares = torch.view_as_real(torch.fft.rfft(frames, n_fft)).square_()
    return squares[..., 0] + squares[..., 1]  # eight times as fast as .sum(-1) on a CPU


class MelBands(nn.Module):
    """Sum a spectrum into mel bands: the product with a mel matrix, without most of its zeros.

    Parameters
    ----------
    matrix : (n_bins, n_mels)
    """

    blocks: Tensor

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        super().__init__()
        blocks, self._bins = _blocks(matrix)
        self._n_mels = matrix.shape[1]
        self.register_buffer("blocks", torch.from_numpy(blocks).float(), persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Weigh and sum, ``(..., n_bins) -> (..., n_mels)``."""
        blocks = torch.split(self.blocks, [n_bins for _, n_bins in self._bins])
        bands = [
            spectrum.narrow(-1, first, n_bins) @ block
            for (first, n_bins), block in zip(self._bins, blocks, strict=True)
        ]
        return torch.cat(bands, dim=-1)[..., : self._n_mels]


def _blocks(mel: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """Cut a mel matrix into blocks of 16 bands with only the bins that feed them.

    A bin feeds two bands at most: the products by blocks have an eighth of the arithmetic of the
    whole product.

    Returns
    -------
    blocks : (n_bins of all blocks, 16), one below the other
    bins : (first bin, n_bins) of each block
    """
    width = 16
    mel = np.pad(mel, ((0, 0), (0, -mel.shape[1] % width)))
    blocks, bins = [], []
    for block in np.split(mel, mel.shape[1] // width, axis=1):
        fed = np.flatnonzero(block.any(axis=1))
        first, n_bins = (int(fed[0]), int(fed[-1] - fed[0]) + 1) if len(fed) else (0, 1)
        blocks.append(block[first : first + n_bins])
        bins.append((first, n_bins))
    return np.concatenate(blocks), bins


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
    bands = triangles(np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1), edges)
    return bands * (2.0 / (edges[2:] - edges[:-2]))


def triangles(bins: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Triangular bands of height 1, each from one edge over the next to the one after.

    Parameters
    ----------
    bins : (n_bins,), where the bins lie
    edges : (n_bands + 2,), on the same axis, increasing

    Returns
    -------
    matrix : (n_bins, n_bands)
    """
    ramps = edges[None, :] - bins[:, None]  # (n_bins, n_bands + 2)
    widths = np.diff(edges)
    rising = -ramps[:, :-2] / widths[:-1]
    falling = ramps[:, 2:] / widths[1:]
    return np.maximum(0.0, np.minimum(rising, falling))


def dct_matrix(n_inputs: int, n_outputs: int) -> NDArray[np.float64]:
    """Orthonormal DCT-II as a matrix to multiply from the right, ``(n_inputs, n_outputs)``."""
    n = np.arange(n_inputs)[:, None]
    k = np.arange(n_outputs)[None, :]
    matrix = np.cos(np.pi * k * (2 * n + 1) / (2 * n_inputs)) * np.sqrt(2.0 / n_inputs)
    matrix[:, 0] /= np.sqrt(2.0)
    return np.asarray(matrix)
