"""Spectrogram and pitch contour, the two streams that SpeechSplit takes speech apart from.

Features of a frame are the 80 mel bands of K. Qian et al., "Unsupervised speech decomposition via
triple information bottleneck" (ICML 2020), followed by one value of pitch. Per utterance:

1. Where a whole number of hops is given, one sample of 1e-6 is appended, as the authors do.
2. High-pass filter, forwards and backwards, so that it delays nothing; gain of 0.96.
3. Magnitudes of centred Hann windows (the borders mirrored), Slaney mel bands,
   ``20 log10(max(1e-5, band)) - 16`` decibels, of which -100 becomes 0 and 0 becomes 1. Values lie
   above -0.16 and are not clipped: the authors clip to [0, 1] when they make a batch.
4. Pitch of the filtered sound by one of :data:`serkit.features.pitch.PITCH_TRACKERS`. **Unvoiced
   frames are -1**, whatever ``f0_norm`` is, and voiced ones never are below 0.

What differs from the authors' code: the tracker (theirs is RAPT), unvoiced frames of -1 instead of
-1e10, which no norm or float32 sum would survive, no dither unless asked for, and signals shorter
than half a window, which are mirrored as often as it takes. Whoever interpolates between frames
must send unvoiced ones far below zero first: halfway between a voice and none there is no voice.

Filter and tracker see each utterance at its true length, on the CPU and in double precision; no
gradient reaches the waveform.

Presets (:data:`SPEECH_PARTS_PRESETS`): ``speechsplit`` searches pitch from 50 to 600 Hz,
``speechsplit-male`` and ``speechsplit-female`` in the authors' ranges for one gender.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from scipy.signal import butter, filtfilt
from torch import Tensor, nn

from serkit.features.mfcc import slaney_mel_matrix
from serkit.features.pitch import F0_RANGES_HZ, log_f0, normalise_log_f0, refuse_search, track_f0
from serkit.types import InputError

__all__ = ["SPEECH_PARTS_PRESETS", "SpeechParts", "SpeechPartsConfig"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechPartsConfig:
    """Everything the features depend on; lengths in samples, frequencies in Hz."""

    sample_rate: PositiveInt = 16_000
    n_fft: PositiveInt = 1024  # also the length of the periodic Hann window
    hop_length: PositiveInt = 256
    n_mels: PositiveInt = 80
    f_min_hz: NonNegativeFloat = 90.0
    f_max_hz: PositiveFloat = 7600.0
    high_pass_hz: PositiveFloat = 30.0
    dither: NonNegativeFloat = 0.0  # width of uniform noise drawn by content; published: 1e-6
    f0_tracker: str = "nccf"
    f0_min_hz: PositiveFloat = F0_RANGES_HZ["auto"][0]
    f0_max_hz: PositiveFloat = F0_RANGES_HZ["auto"][1]
    # 'utterance': log-F0 scaled to [0, 1] by the utterance's own mean and spread. 'none': log-F0,
    # for statistics of a speaker or a corpus to be applied later.
    f0_norm: Literal["utterance", "none"] = "utterance"

    @property
    def n_features(self) -> int:
        """Width of one frame: the mel bands, then pitch."""
        return self.n_mels + 1


SPEECH_PARTS_PRESETS = {
    name: SpeechPartsConfig(f0_min_hz=f0_min_hz, f0_max_hz=f0_max_hz)
    for name, (f0_min_hz, f0_max_hz) in {
        "speechsplit": F0_RANGES_HZ["auto"],
        "speechsplit-male": F0_RANGES_HZ["male"],
        "speechsplit-female": F0_RANGES_HZ["female"],
    }.items()
}

_APPENDED = 1e-6  # the sample that follows a whole number of hops
_FILTER_ORDER = 5
_GAIN = 0.96
_QUIETEST = 1e-5  # magnitude of a band: -100 dB
_REFERENCE_DB = 16.0
_FRAMES_AT_ONCE = 256  # small enough for a CPU core's caches


class SpeechParts(nn.Module):
    """Waveforms to mel bands and pitch.

    Parameters
    ----------
    config
        See :class:`SpeechPartsConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: SpeechPartsConfig) -> None:
        super().__init__()
        _refuse_contradictions(config)
        self.config = config
        self._mel = slaney_mel_matrix(
            sample_rate=config.sample_rate,
            n_fft=config.n_fft,
            n_mels=config.n_mels,
            f_min_hz=config.f_min_hz,
            f_max_hz=config.f_max_hz,
        )
        self._window = np.hanning(config.n_fft + 1)[:-1]
        self._high_pass = butter(
            _FILTER_ORDER, config.high_pass_hz, "highpass", fs=config.sample_rate
        )

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames of signals of given lengths: one every hop, the first centred on 0."""
        return 1 + torch.div(n_samples, self.config.hop_length, rounding_mode="floor")

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features of a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples), in [-1, 1]
        n_samples : (batch,), valid samples of each

        Returns
        -------
        features : (batch, n_frames, n_mels + 1), the mel bands and, last, pitch; frames beyond an
            utterance's own are zero
        n_frames : (batch,)
        """
        n_frames = self.n_frames(n_samples)
        shape = (len(waveforms), int(n_frames.max()), self.config.n_features)
        features = waveforms.new_zeros(shape)
        lengths = zip(n_samples.tolist(), n_frames.tolist(), strict=True)
        for row, waveform, (n, frames) in zip(features, waveforms, lengths, strict=True):
            sound = self.filtered(waveform[:n].detach().cpu().double().numpy())
            parts = np.column_stack([self.spectrogram(sound), self.pitch(sound)])
            row[:frames] = torch.from_numpy(parts).to(row)
        return features, n_frames

    def filtered(self, waveform: Floats) -> Floats:
        """Take low rumble away and scale, ``(n_samples,)`` to the same or one sample more."""
        c = self.config
        sound = waveform
        if len(sound) % c.hop_length == 0:
            sound = np.append(sound, _APPENDED)
        padding = min(3 * (_FILTER_ORDER + 1), len(sound) - 1)  # scipy's own, where it fits
        sound = np.asarray(_GAIN * filtfilt(*self._high_pass, sound, padlen=padding))
        if c.dither > 0:
            # The same sound gets the same noise, wherever it lies and whatever is around it.
            generator = np.random.default_rng(zlib.crc32(waveform.tobytes()))
            sound += c.dither * (generator.random(len(sound)) - 0.5)
        return sound

    def spectrogram(self, sound: Floats) -> Floats:
        """Mel bands of a filtered waveform, ``(n_samples,) -> (n_frames, n_mels)``."""
        c = self.config
        mirrored = np.pad(sound, c.n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(mirrored, c.n_fft)[:: c.hop_length]
        bands = [
            np.abs(np.fft.rfft(frames[first : first + _FRAMES_AT_ONCE] * self._window)) @ self._mel
            for first in range(0, len(frames), _FRAMES_AT_ONCE)
        ]
        decibel = 20 * np.log10(np.maximum(_QUIETEST, np.concatenate(bands))) - _REFERENCE_DB
        return (decibel + 100) / 100

    def pitch(self, sound: Floats) -> Floats:
        """Log-F0 of a filtered waveform, normalised if so configured, ``(n_frames,)``."""
        c = self.config
        contour = log_f0(
            track_f0(
                sound,
                c.sample_rate,
                f_min_hz=c.f0_min_hz,
                f_max_hz=c.f0_max_hz,
                hop_length=c.hop_length,
                tracker=c.f0_tracker,
            )
        )
        return normalise_log_f0(contour) if c.f0_norm == "utterance" else contour


def _refuse_contradictions(c: SpeechPartsConfig) -> None:
    """Check the settings against each other.

    Raises
    ------
    InputError
        If two of them contradict each other.
    """
    half_rate = c.sample_rate / 2
    for name, holds, expected in (
        ("n_fft", c.n_fft % 2 == 0, "an even number"),
        ("f_max_hz", c.f_max_hz <= half_rate, f"at most half the sample rate, {half_rate:g}"),
        ("f_min_hz", c.f_min_hz < c.f_max_hz, f"less than {c.f_max_hz:g}"),
        ("high_pass_hz", c.high_pass_hz < half_rate, f"less than {half_rate:g}"),
    ):
        if not holds:
            raise InputError(f"front_end.{name} is {getattr(c, name)}, expected {expected}")
    refuse_search(
        c.f0_tracker, sample_rate=c.sample_rate, f_min_hz=c.f0_min_hz, f_max_hz=c.f0_max_hz
    )
