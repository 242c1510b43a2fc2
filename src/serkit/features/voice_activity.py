"""Where somebody speaks in a long recording, so that it can be cut where nobody does.

``silero`` is the network of the package ``silero-vad``, whose weights come with it; ``energy``
counts frames of 10 ms as speech that are within 35 dB of the loudest tenth of them. Either way
stretches are then joined up to a longest length, and what is still longer is cut where it is
quietest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from serkit.audio import Waveform, resample, seconds_to_samples
from serkit.types import MissingExtraError

__all__ = ["Detector", "speech_stretches"]

Detector = Literal["auto", "silero", "energy"]
Stretch = tuple[int, int]  # samples

_SILERO_RATE = 16_000  # Hz
_FRAME_S = 0.01
_RANGE_DB = 35.0  # below the loudest tenth of the frames
_FLOOR_DB = -70.0  # what is softer is silence, whatever the rest
_MIN_SPEECH_S, _MIN_SILENCE_S, _PAD_S = 0.25, 0.1, 0.03
_QUIET_S = 0.2  # over which the quietest moment is looked for


def speech_stretches(
    waveform: Waveform, sample_rate: int, *, longest_s: float = 20.0, detector: Detector = "auto"
) -> list[Stretch]:
    """Cut a recording into stretches with speech in them.

    Parameters
    ----------
    waveform : (n_samples,)
    longest_s
        Neighbouring stretches are joined up to this length, the pause between them included.
    detector
        ``auto``: silero where it is installed.

    Returns
    -------
    stretches : (start, stop) in samples, in order, none longer than ``longest_s``; none where
        nobody speaks

    Raises
    ------
    MissingExtraError
        If silero is asked for and not installed.
    """
    found = None
    if detector != "energy" and np.any(waveform):
        found = _by_silero(waveform, sample_rate, needed=detector == "silero")
    if found is None:
        found = _by_energy(waveform, sample_rate)
    longest = max(1, seconds_to_samples(longest_s, sample_rate))
    levels = _levels_db(waveform, sample_rate)
    cut = [piece for one in found for piece in _cut(one, levels, sample_rate, longest)]
    return _joined(cut, longest)


def _by_silero(waveform: Waveform, sample_rate: int, *, needed: bool) -> list[Stretch] | None:
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError:
        if needed:
            raise MissingExtraError("silero-vad", extra="asr", needed_for="vad = silero") from None
        return None
    sound = torch.from_numpy(resample(waveform, sample_rate, _SILERO_RATE).copy())
    found = get_speech_timestamps(
        sound,
        load_silero_vad(),
        threshold=0.5,
        sampling_rate=_SILERO_RATE,
        min_speech_duration_ms=round(1_000 * _MIN_SPEECH_S),
        min_silence_duration_ms=round(1_000 * _MIN_SILENCE_S),
        speech_pad_ms=round(1_000 * _PAD_S),
    )
    scale = sample_rate / _SILERO_RATE
    n = len(waveform)
    return [(round(one["start"] * scale), min(round(one["end"] * scale), n)) for one in found]


def _by_energy(waveform: Waveform, sample_rate: int) -> list[Stretch]:
    levels = _levels_db(waveform, sample_rate)
    if not len(levels):
        return []
    loud = levels > max(_FLOOR_DB, float(np.quantile(levels, 0.9)) - _RANGE_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(np.int8), [0]])))
    runs = [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]
    shortest, pause = round(_MIN_SPEECH_S / _FRAME_S), round(_MIN_SILENCE_S / _FRAME_S)
    joined: list[Stretch] = []
    for start, stop in runs:
        if joined and start - joined[-1][1] < pause:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    pad, n = seconds_to_samples(_PAD_S, sample_rate), len(waveform)
    width = _frame_length(sample_rate)
    return [
        (max(0, start * width - pad), min(n, stop * width + pad))
        for start, stop in joined
        if stop - start >= shortest
    ]


def _levels_db(waveform: Waveform, sample_rate: int) -> NDArray[np.float64]:
    """Level of each frame, the rest of the last one left out; one frame where there are fewer."""
    width = _frame_length(sample_rate)
    n = max(1, len(waveform) // width) if len(waveform) else 0
    frames = np.zeros(n * width)
    frames[: len(waveform)] = waveform[: n * width]
    power = np.square(frames).reshape(n, width).mean(1)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 1e-20))
    return levels


def _frame_length(sample_rate: int) -> int:
    return max(1, seconds_to_samples(_FRAME_S, sample_rate))


def _cut(
    stretch: Stretch, levels: NDArray[np.float64], sample_rate: int, longest: int
) -> list[Stretch]:
    """Cut a stretch at the quietest moments of the second half of what may stay together."""
    width, borders = _frame_length(sample_rate), [stretch[0]]
    quiet = max(1, round(_QUIET_S / _FRAME_S))
    while stretch[1] - borders[-1] > longest:
        first = (borders[-1] + longest // 2) // width
        around = levels[first : (borders[-1] + longest) // width]
        at = borders[-1] + longest
        if len(around) > quiet:
            mean = np.convolve(around, np.full(quiet, 1 / quiet), "valid")
            at = (first + int(mean.argmin()) + quiet // 2) * width
        borders.append(at)
    return list(pairwise([*borders, stretch[1]]))


def _joined(stretches: list[Stretch], longest: int) -> list[Stretch]:
    joined: list[Stretch] = []
    for start, stop in stretches:
        if joined and stop - joined[-1][0] <= longest:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
