"""Sound again from the spectrogram of :mod:`.speech_parts`, so that one can listen to it.

Mel bands are spread over the frequencies they came from by multiplicative updates, which keep
magnitudes positive; phases are found by the fast Griffin-Lim algorithm (Griffin, Lim 1984;
Perraudin, Balazs, Søndergaard 2013). It sounds hollow, as bands and phases are lost; what is to be
compared should all come from here, the truth as well.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.features.mfcc import slaney_mel_matrix
from serkit.features.speech_parts import SpeechPartsConfig
from serkit.types import InputError

__all__ = ["mel_to_sound"]

_REFERENCE_DB, _LOWEST_DB = 16.0, -100.0  # of the spectrogram: its 1 and its 0
_SPREADING_STEPS = 40
_MOMENTUM = 0.99
_PEAK = 0.9


def mel_to_sound(
    mel: NDArray[np.floating], config: SpeechPartsConfig, *, n_iterations: int = 60, seed: int = 0
) -> NDArray[np.float32]:
    """Resynthesise a spectrogram.

    Parameters
    ----------
    mel : (n_frames, n_mels), as the front end gives it or a decoder says it; clipped to [0, 1]
    config
        Of the front end that it is of.
    n_iterations
        Of the search for phases.
    seed
        Of the phases it begins with.

    Returns
    -------
    sound : ((n_frames - 1) * hop_length,), scaled down where it would leave [-0.9, 0.9]

    Raises
    ------
    InputError
        If the spectrogram has another width, or fewer frames than one window covers.
    """
    shortest = 1 + config.n_fft // config.hop_length
    if mel.ndim != 2 or mel.shape[1] != config.n_mels or len(mel) < shortest:
        raise InputError(
            f"a spectrogram of shape {mel.shape}, expected (n_frames, {config.n_mels}) with at "
            f"least {shortest} frames"
        )
    magnitude = torch.from_numpy(_spread(mel, config).T.copy())  # (n_bins, n_frames)
    sound = _with_phases(magnitude, config, n_iterations=n_iterations, seed=seed)
    peak = float(sound.abs().max())
    return (sound * min(1.0, _PEAK / max(peak, 1e-9))).float().numpy()


def _spread(mel: NDArray[np.floating], config: SpeechPartsConfig) -> NDArray[np.float64]:
    """Find magnitudes whose mel bands are the given ones, (n_frames, n_fft // 2 + 1)."""
    decibel = np.clip(mel, 0, 1).astype(np.float64) * -_LOWEST_DB + _LOWEST_DB + _REFERENCE_DB
    bands = 10 ** (decibel / 20)
    matrix = slaney_mel_matrix(
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        f_min_hz=config.f_min_hz,
        f_max_hz=config.f_max_hz,
    )
    magnitude: NDArray[np.float64] = bands @ (matrix / np.maximum(matrix.sum(0), 1e-12)).T
    wanted = bands @ matrix.T
    for _ in range(_SPREADING_STEPS):
        magnitude *= wanted / np.maximum((magnitude @ matrix) @ matrix.T, 1e-12)
    return magnitude


def _with_phases(
    magnitude: Tensor, config: SpeechPartsConfig, *, n_iterations: int, seed: int
) -> Tensor:
    """Find a sound with these magnitudes, (n_samples,), float64."""
    window = torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64)
    n_samples = (magnitude.shape[1] - 1) * config.hop_length

    def to_sound(spectrum: Tensor) -> Tensor:
        return torch.istft(
            spectrum, config.n_fft, config.hop_length, window=window, length=n_samples
        )

    generator = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator, dtype=torch.float64)
    spectrum = torch.polar(magnitude, angles)
    before = torch.zeros_like(spectrum)
    for _ in range(n_iterations):
        consistent = torch.stft(
            to_sound(spectrum),
            config.n_fft,
            config.hop_length,
            window=window,
            return_complex=True,
        )
        ahead = consistent + _MOMENTUM * (consistent - before)
        spectrum = torch.polar(magnitude, ahead.angle())
        before = consistent
    return to_sound(spectrum)
