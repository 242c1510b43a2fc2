"""Fundamental frequency (F0): tracking, normalisation of its logarithm, and bins.

Three spellings of a contour, one number per frame, and in all of them a frame whose value is zero
or less is unvoiced:

* **F0 in Hz**, 0 where unvoiced, from :func:`track_f0`. :data:`PITCH_TRACKERS` names the trackers;
  ``nccf`` is serkit's own, the others need optional packages.
* **log-F0**, the natural logarithm, from :func:`log_f0`; unvoiced frames are :data:`UNVOICED`.
* **normalised log-F0** in [0, 1], from :func:`normalise_log_f0`: 0.5 is the mean, the borders are
  four standard deviations away; unvoiced frames are :data:`UNVOICED`. :func:`quantise_f0` makes 257
  bins of it, as SpeechSplit (K. Qian et al., ICML 2020) does.

Statistics are the utterance's own, or those that :func:`f0_statistics` takes from many contours: of
one speaker, or of a corpus. An utterance's own remove its level of pitch, which tells of arousal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.audio import seconds_to_samples
from serkit.features.pitch_tracker import BAND_HZ, nccf_f0
from serkit.types import InputError, MissingExtraError

__all__ = [
    "F0_RANGES_HZ",
    "N_F0_BINS",
    "PITCH_TRACKERS",
    "UNVOICED",
    "F0Statistics",
    "PitchTracker",
    "f0_statistics",
    "log_f0",
    "normalise_log_f0",
    "quantise_f0",
    "refuse_search",
    "track_f0",
]

Floats = NDArray[np.float64]

UNVOICED = -1.0  # finite, near the voiced values, and below all of them
N_F0_BINS = 257  # one for unvoiced frames, 256 for voiced ones
F0_RANGES_HZ = {"auto": (50.0, 600.0), "male": (50.0, 250.0), "female": (100.0, 600.0)}

_LOWEST_HZ = 20.0  # the lowest that is searched; below 1 Hz the logarithm would be negative
_HIGHEST_HZ = BAND_HZ / 2  # two harmonics must pass the filter of the own tracker
_LOWEST_RATE = 4_000  # Hz
_PYIN_WINDOW_S = 0.064
_SHORTEST_FOR_DIO_S = 0.2
_STD_OFFSET = 1e-6  # a monotonous contour has no spread to divide by


class PitchTracker(Protocol):
    """What every tracker is: a waveform of at least one sample to F0 in Hz, 0 where unvoiced."""

    def __call__(
        self,
        waveform: NDArray[np.floating],
        sample_rate: int,
        *,
        f_min_hz: float,
        f_max_hz: float,
        hop_length: int,
    ) -> Floats:
        """Track, ``(n_samples,) -> (n_samples // hop_length + 1,)``."""


def track_f0(
    waveform: NDArray[np.floating],
    sample_rate: int,
    *,
    f_min_hz: float = 50.0,
    f_max_hz: float = 600.0,
    hop_length: int = 256,
    tracker: str = "nccf",
) -> Floats:
    """Track the fundamental frequency of one utterance.

    Parameters
    ----------
    waveform : (n_samples,), any level
    sample_rate
        Hz.
    f_min_hz, f_max_hz
        The range that is searched, such as one of :data:`F0_RANGES_HZ`.
    hop_length
        Samples from one frame to the next; the first is centred on sample 0, so there are as many
        as a centred spectrogram has.
    tracker
        A name in :data:`PITCH_TRACKERS`.

    Returns
    -------
    f0_hz : (n_samples // hop_length + 1,), 0 in unvoiced frames

    Raises
    ------
    InputError
        If the waveform is not one-dimensional and finite, or the tracker or the range is none.
    MissingExtraError
        If the tracker's package is not installed.
    """
    refuse_search(tracker, sample_rate=sample_rate, f_min_hz=f_min_hz, f_max_hz=f_max_hz)
    if waveform.ndim != 1:
        raise InputError(f"a waveform of shape {waveform.shape}, expected (n_samples,): mono")
    if not np.isfinite(waveform).all():
        raise InputError("the waveform holds NaN or infinite samples: pitch cannot be tracked")
    if not waveform.any():
        return np.zeros(len(waveform) // hop_length + 1)
    return PITCH_TRACKERS[tracker](
        waveform, sample_rate, f_min_hz=f_min_hz, f_max_hz=f_max_hz, hop_length=hop_length
    )


def refuse_search(tracker: str, *, sample_rate: int, f_min_hz: float, f_max_hz: float) -> None:
    """Check the settings of a pitch tracker, and that its package can be imported.

    Raises
    ------
    InputError
        If the tracker is unknown, or the range or the sample rate makes no sense.
    MissingExtraError
        If the tracker's package is not installed.
    """
    if tracker not in PITCH_TRACKERS:
        raise InputError(
            f"the pitch tracker is '{tracker}', expected one of {', '.join(PITCH_TRACKERS)}"
        )
    if sample_rate < _LOWEST_RATE:
        raise InputError(
            f"a sample rate of {sample_rate} Hz, expected at least {_LOWEST_RATE} to track pitch"
        )
    if not _LOWEST_HZ <= f_min_hz < f_max_hz <= _HIGHEST_HZ:
        raise InputError(
            f"pitch is searched from {f_min_hz:g} to {f_max_hz:g} Hz, expected an upward range "
            f"within {_LOWEST_HZ:g} to {_HIGHEST_HZ:g}"
        )
    # A package whose import fails may look imported to threads that wait for it.
    if tracker in _PACKAGES:
        _PACKAGES[tracker]()


def pyin_f0(
    waveform: NDArray[np.floating],
    sample_rate: int,
    *,
    f_min_hz: float,
    f_max_hz: float,
    hop_length: int,
) -> Floats:
    """Track by pYIN (M. Mauch and S. Dixon, 2014) as librosa has it, in windows of 64 ms.

    Raises
    ------
    MissingExtraError
        If librosa is not installed.
    """
    librosa = _import_librosa()
    two_periods = int(np.ceil(2 * sample_rate / f_min_hz)) + 2
    f0_hz, voiced, _ = librosa.pyin(
        np.asarray(waveform, dtype=np.float64),
        fmin=f_min_hz,
        fmax=f_max_hz,
        sr=sample_rate,
        frame_length=max(seconds_to_samples(_PYIN_WINDOW_S, sample_rate), two_periods),
        hop_length=hop_length,
    )
    return np.where(voiced, f0_hz, 0.0)


def dio_f0(
    waveform: NDArray[np.floating],
    sample_rate: int,
    *,
    f_min_hz: float,
    f_max_hz: float,
    hop_length: int,
) -> Floats:
    """Track by DIO, refined by StoneMask (M. Morise, 2009 and 2016), as pyworld has them.

    Raises
    ------
    MissingExtraError
        If pyworld is not installed, or the setuptools that it wants.
    """
    pyworld = _import_pyworld()
    n_frames = len(waveform) // hop_length + 1
    behind = max(hop_length, seconds_to_samples(_SHORTEST_FOR_DIO_S, sample_rate) - len(waveform))
    signal = np.pad(np.asarray(waveform, dtype=np.float64), (0, behind))
    f0_hz, times_s = pyworld.dio(
        signal,
        sample_rate,
        f0_floor=f_min_hz,
        f0_ceil=f_max_hz,
        frame_period=1000 * hop_length / sample_rate,
    )
    f0_hz = pyworld.stonemask(signal, f0_hz, times_s, sample_rate)
    return np.asarray(f0_hz[:n_frames])


def _import_librosa() -> Any:
    try:
        import librosa
    except ModuleNotFoundError:
        raise MissingExtraError(
            "librosa", extra="pitch", needed_for="the pitch tracker 'pyin'"
        ) from None
    return librosa


def _import_pyworld() -> Any:
    needed_for = "the pitch tracker 'pyworld'"
    try:
        import pyworld
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":  # dropped by setuptools 81
            raise MissingExtraError(
                "setuptools<81", extra="pitch", needed_for=f"{needed_for} (its pkg_resources)"
            ) from None
        raise MissingExtraError("pyworld", extra="pitch", needed_for=needed_for) from None
    return pyworld


PITCH_TRACKERS: dict[str, PitchTracker] = {"nccf": nccf_f0, "pyin": pyin_f0, "pyworld": dio_f0}
_PACKAGES = {"pyin": _import_librosa, "pyworld": _import_pyworld}


def log_f0(f0_hz: Floats) -> Floats:
    """Take the natural logarithm of voiced frames; unvoiced ones become :data:`UNVOICED`.

    >>> log_f0(np.array([0.0, 100.0])).round(4)
    array([-1.    ,  4.6052])
    """
    voiced = f0_hz > 0
    return np.where(voiced, np.log(np.where(voiced, f0_hz, 1.0)), UNVOICED)


@dataclass(frozen=True, slots=True)
class F0Statistics:
    """Mean and population standard deviation of voiced log-F0."""

    mean: float
    std: float


def f0_statistics(contours: Iterable[Floats]) -> F0Statistics:
    """Take the statistics of the voiced frames of one speaker's, or a corpus's, contours.

    Parameters
    ----------
    contours
        Log-F0 of each utterance, ``(n_frames,)``; zero or less is unvoiced.

    Raises
    ------
    InputError
        If fewer than two frames of them all are voiced.
    """
    contours = list(contours)
    voiced = np.concatenate([contour[contour > 0] for contour in contours] or [np.empty(0)])
    if len(voiced) < 2:
        raise InputError(
            f"{len(voiced)} voiced frames in {len(contours)} contours, expected at least 2 to take "
            "statistics of F0 from"
        )
    return F0Statistics(float(voiced.mean()), float(voiced.std()))


def normalise_log_f0(contour: Floats, statistics: F0Statistics | None = None) -> Floats:
    """Scale voiced log-F0 to [0, 1]: the mean to 0.5, four standard deviations to 0 and 1.

    Parameters
    ----------
    contour : (n_frames,), log-F0; zero or less is unvoiced
    statistics
        Of the speaker or the corpus; ``None``: the utterance's own.

    Returns
    -------
    normalised : (n_frames,); unvoiced frames are :data:`UNVOICED`, and so is every frame where
        fewer than two are voiced
    """
    voiced = contour > 0
    if voiced.sum() < 2:
        return np.full(len(contour), UNVOICED)
    statistics = statistics or f0_statistics([contour])
    z = (contour - statistics.mean) / (4 * (statistics.std + _STD_OFFSET))
    return np.where(voiced, (np.clip(z, -1, 1) + 1) / 2, UNVOICED)


def quantise_f0(normalised: Tensor) -> Tensor:
    """Turn normalised log-F0 into bins: 0 where unvoiced, else 1 to 256, halves rounded to even.

    A voiced frame at exactly 0, four standard deviations below the mean, counts as unvoiced.

    Parameters
    ----------
    normalised : any shape, zero or less or in (0, 1]

    Returns
    -------
    bins : the same shape, int64, below :data:`N_F0_BINS`

    Raises
    ------
    InputError
        If a value is above 1.

    >>> quantise_f0(torch.tensor([-1.0, 0.0, 0.5, 1.0])).tolist()
    [0, 0, 129, 256]
    """
    if bool((normalised > 1).any()):
        raise InputError(
            f"F0 of {float(normalised.max()):.3g}, expected at most 1: normalise the contour first"
        )
    voiced = 1 + torch.round(normalised * (N_F0_BINS - 2))
    return torch.where(normalised > 0, voiced, 0.0).long()
