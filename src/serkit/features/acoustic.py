"""Named sets of frame-wise acoustic features, as tri-modal systems use them.

=============== ======= ======= ======= ==========================================================
set             columns rate    frames  what
=============== ======= ======= ======= ==========================================================
``sims33``      33      22 050  43/s    zero-crossing rate, 20 MFCC, 12 chroma (constant Q)
``sims33_f0``   33      22 050  43/s    the same with log-F0 in the first column
``librosa70``   70      22 050  172/s   chroma, MFCC and shape of the spectrum, 512-sample windows
``egemaps_lld`` 25      16 000  100/s   low-level descriptors of eGeMAPS v02 (openSMILE)
``egemaps``     88      16 000  1       functionals of eGeMAPS v02: one vector per utterance
=============== ======= ======= ======= ==========================================================

``sims33`` is what CH-SIMS was released with, and it has a trap: its paper calls the first column
log-F0, but the code that computed it takes the zero-crossing rate, and the authors of the tool
confirm it. So here: ``sims33`` for whatever is compared with that corpus, ``sims33_f0`` for a
pitch (-1 where nothing is voiced). The two have equal shapes and must not be mixed.

Chroma needs three seconds for its longest filters. Shorter sounds are extended by silence for it,
which moves values towards their end by a few hundredths against librosa alone.

openSMILE's licence allows research and no commercial use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.audio import Waveform, resample
from serkit.features.pitch import log_f0, track_f0
from serkit.types import InputError, MissingExtraError

__all__ = ["ACOUSTIC_SETS", "AcousticFeatures", "AcousticSet", "acoustic_features"]

Matrix = NDArray[np.float32]

_SIMS_HOP = 512  # samples
_FINE_HOP = 128
_FINE_WINDOW = 512
_LONGEST_FILTER = 1024 << 6  # samples: a window of 1024, in the lowest of seven octaves
_LEAST_EGEMAPS = 1600  # samples; of less than 50 ms openSMILE makes no frame
_CQT_BINS = 36  # per octave
_PITCH_CLASSES = ("c", "c_sharp", "d", "d_sharp", "e", "f", "f_sharp", "g", "g_sharp", "a",
                  "a_sharp", "b")  # fmt: skip


@dataclass(frozen=True, slots=True)
class AcousticSet:
    """One set of features.

    Attributes
    ----------
    sample_rate
        Hz, that ``function`` wants.
    frames_per_s
        ``None``: one vector per utterance.
    n_features
        Number of columns.
    names
        Gives the names of the columns; those of openSMILE need the package.
    function
        ``(n_samples,)`` at ``sample_rate`` to ``(n_frames, n_features)``; may hold NaN.
    """

    sample_rate: int
    frames_per_s: float | None
    n_features: int
    names: Callable[[], tuple[str, ...]]
    function: Callable[[Waveform], Matrix]


@dataclass(frozen=True, slots=True, eq=False)
class AcousticFeatures:
    """Features of one utterance.

    Attributes
    ----------
    features : (n_frames, n_features), float32, finite
    n_replaced
        Values that were NaN or infinite and are 0 now.
    """

    features: Matrix
    n_replaced: int


def acoustic_features(waveform: Waveform, sample_rate: int, *, name: str) -> AcousticFeatures:
    """Compute one of :data:`ACOUSTIC_SETS`; the waveform is resampled to its rate.

    Parameters
    ----------
    waveform : (n_samples,), float32; may be silent or shorter than a window
    sample_rate
        Hz.
    name
        Key of :data:`ACOUSTIC_SETS`.

    Raises
    ------
    InputError
        If the name is unknown or there are no samples.
    MissingExtraError
        If librosa or openSMILE is needed and not installed.
    """
    if name not in ACOUSTIC_SETS:
        raise InputError(f"acoustic set '{name}', expected one of {', '.join(ACOUSTIC_SETS)}")
    if not len(waveform):
        raise InputError(f"acoustic set '{name}': the sound has no samples")
    chosen = ACOUSTIC_SETS[name]
    values = chosen.function(resample(waveform, sample_rate, chosen.sample_rate))
    broken = ~np.isfinite(values)
    features = np.where(broken, 0, values).astype(np.float32)
    return AcousticFeatures(features, int(broken.sum()))


def _sims33(waveform: Waveform) -> Matrix:
    librosa = _require_librosa()
    crossings = librosa.feature.zero_crossing_rate(waveform, hop_length=_SIMS_HOP)
    return _joined(crossings, _sims_timbre(waveform))


def _sims33_f0(waveform: Waveform) -> Matrix:
    """Put log-F0 in the first column, as :func:`serkit.features.pitch.log_f0` spells it."""
    pitch = log_f0(track_f0(waveform, 22_050, hop_length=_SIMS_HOP))
    return _joined(pitch[None], _sims_timbre(waveform))


def _sims_timbre(waveform: Waveform) -> Matrix:
    """Compute MFCC and chroma, (32, n_frames)."""
    librosa = _require_librosa()
    extended = _extended(waveform)
    common = {"y": extended, "sr": 22_050, "hop_length": _SIMS_HOP}
    cepstra = librosa.feature.mfcc(**common, n_mfcc=20, htk=True)
    chroma = librosa.feature.chroma_cqt(**common, tuning=_tuning(extended))
    n_frames = 1 + len(waveform) // _SIMS_HOP
    timbre: Matrix = np.concatenate([cepstra, chroma])[:, :n_frames]
    return timbre


def _librosa70(waveform: Waveform) -> Matrix:
    librosa = _require_librosa()
    feature = librosa.feature
    extended = _extended(waveform)
    rate, hop, window = 22_050, _FINE_HOP, _FINE_WINDOW
    tuning = _tuning(extended)
    magnitude = np.abs(librosa.stft(extended, n_fft=window, hop_length=hop))
    constant_q = np.abs(
        librosa.cqt(
            extended,
            sr=rate,
            hop_length=hop,
            fmin=librosa.note_to_hz("C1"),
            n_bins=7 * _CQT_BINS,
            bins_per_octave=_CQT_BINS,
            tuning=tuning,
        )
    )
    chroma = feature.chroma_cqt(C=constant_q, sr=rate, hop_length=hop)
    framing = {"frame_length": window, "hop_length": hop}
    blocks = [
        feature.chroma_stft(S=magnitude**2, sr=rate, n_fft=window, tuning=tuning),
        chroma,
        feature.chroma_cens(C=constant_q, sr=rate, hop_length=hop),
        feature.mfcc(y=extended, sr=rate, n_mfcc=13, n_fft=window, hop_length=hop),
        feature.rms(y=extended, **framing),
        feature.spectral_centroid(S=magnitude, sr=rate),
        feature.spectral_bandwidth(S=magnitude, sr=rate),
        feature.spectral_contrast(S=magnitude, sr=rate),
        feature.spectral_flatness(S=magnitude),
        feature.spectral_rolloff(S=magnitude, sr=rate),
        feature.poly_features(S=magnitude, sr=rate),
        feature.tonnetz(chroma=chroma, sr=rate),
    ]
    n_frames = 1 + len(waveform) // hop
    crossings = feature.zero_crossing_rate(waveform, **framing)
    return _joined(*(block[:, :n_frames] for block in [*blocks, crossings]))


def _egemaps(waveform: Waveform, *, level: Literal["lld", "functionals"]) -> Matrix:
    short = max(0, _LEAST_EGEMAPS - len(waveform))
    table = _smile(level).process_signal(np.pad(waveform, (0, short)), 16_000)
    values: Matrix = table.to_numpy(dtype=np.float32)
    return values


def _egemaps_lld(waveform: Waveform) -> Matrix:
    return _egemaps(waveform, level="lld")


def _egemaps_functionals(waveform: Waveform) -> Matrix:
    return _egemaps(waveform, level="functionals")


def _smile(level: Literal["lld", "functionals"]) -> Any:
    try:
        import opensmile
    except ModuleNotFoundError:
        raise MissingExtraError("opensmile", extra="acoustic", needed_for="eGeMAPS") from None
    levels = opensmile.FeatureLevel
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=levels.LowLevelDescriptors if level == "lld" else levels.Functionals,
    )


def _extended(waveform: Waveform) -> Waveform:
    """Extend a short sound by silence, up to the longest filter."""
    return np.pad(waveform, (0, max(0, _LONGEST_FILTER - len(waveform))))


def _tuning(waveform: Waveform) -> float:
    """Estimate by how much of a bin the louder half of all pitches is out of tune.

    This is ``librosa.estimate_tuning``, but 0 where there is no pitch.
    """
    librosa = _require_librosa()
    pitches, magnitudes = librosa.piptrack(y=waveform, sr=22_050)
    found = pitches > 0
    if not found.any():
        return 0.0
    loud = found & (magnitudes >= np.median(magnitudes[found]))
    return float(librosa.pitch_tuning(pitches[loud], bins_per_octave=_CQT_BINS))


def _joined(*blocks: NDArray[Any]) -> Matrix:
    """Join blocks of (columns, n_frames) to (n_frames, all columns)."""
    joined: Matrix = np.ascontiguousarray(np.concatenate(blocks).T, dtype=np.float32)
    return joined


def _require_librosa() -> Any:
    try:
        import librosa
    except ModuleNotFoundError:
        raise MissingExtraError(
            "librosa", extra="acoustic", needed_for="an acoustic feature set"
        ) from None
    return librosa


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(n))


def _chroma_names(kind: str) -> tuple[str, ...]:
    return tuple(f"chroma_{kind}_{pitch}" for pitch in _PITCH_CLASSES)


def _sims33_names() -> tuple[str, ...]:
    return ("zero_crossing_rate", *_numbered("mfcc", 20), *_chroma_names("cqt"))


def _sims33_f0_names() -> tuple[str, ...]:
    return ("log_f0", *_sims33_names()[1:])


def _librosa70_names() -> tuple[str, ...]:
    return (
        *_chroma_names("stft"),
        *_chroma_names("cqt"),
        *_chroma_names("cens"),
        *_numbered("mfcc", 13),
        "rms",
        "spectral_centroid",
        "spectral_bandwidth",
        *_numbered("spectral_contrast", 7),
        "spectral_flatness",
        "spectral_rolloff",
        *_numbered("spectral_line", 2),
        *_numbered("tonnetz", 6),
        "zero_crossing_rate",
    )


def _egemaps_lld_names() -> tuple[str, ...]:
    return tuple(_smile("lld").feature_names)


def _egemaps_names() -> tuple[str, ...]:
    return tuple(_smile("functionals").feature_names)


ACOUSTIC_SETS: dict[str, AcousticSet] = {
    "sims33": AcousticSet(22_050, 22_050 / _SIMS_HOP, 33, _sims33_names, _sims33),
    "sims33_f0": AcousticSet(22_050, 22_050 / _SIMS_HOP, 33, _sims33_f0_names, _sims33_f0),
    "librosa70": AcousticSet(22_050, 22_050 / _FINE_HOP, 70, _librosa70_names, _librosa70),
    "egemaps_lld": AcousticSet(16_000, 100.0, 25, _egemaps_lld_names, _egemaps_lld),
    "egemaps": AcousticSet(16_000, None, 88, _egemaps_names, _egemaps_functionals),
}
