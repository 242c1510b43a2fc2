"""What a reconstructed spectrogram kept of the true one: its pictures and its measures.

Spectrograms here are those of the front end ``speech_parts``: 0 is -100 dB, 1 is 0 dB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "contours_png",
    "envelope_correlation",
    "panels_png",
    "pitch_kept",
    "shape_correlation",
    "spectral_shape",
]

Floats = NDArray[np.floating[Any]]

_N_CEPSTRA = 12  # of a width that formants have, and harmonics of a voice have not

_INK, _MUTED, _LINE = "#16202c", "#566372", "#dfe4ea"
_STYLE: Any = {  # keys as matplotlib spells them, which its stubs type one by one
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def envelope_correlation(truth: Floats, said: Floats) -> float:
    """Correlate how loud frames are, which tells whether the timing is kept.

    Parameters
    ----------
    truth, said : (n_frames, n_mels)

    Returns
    -------
    correlation
        Of the frames' mean levels; 0 where one of them does not vary.
    """
    return _correlation(truth.clip(0, 1).mean(1), said.clip(0, 1).mean(1))


def shape_correlation(truth: Floats, said: Floats) -> float:
    """Correlate how the shape of the spectrum moves, to tell whether the sounds of speech are kept.

    Parameters
    ----------
    truth, said : (n_frames, n_mels)

    Returns
    -------
    correlation
        Of all numbers of :func:`spectral_shape`, each less its mean over the utterance, in the
        frames that are at least as loud as the mean frame of the truth; 0 where fewer than ten
        frames are, or one of the two does not move.
    """
    level = truth.clip(0, 1).mean(1)
    loud = level >= level.mean()
    if loud.sum() < 10:
        return 0.0
    one, other = (spectral_shape(mel)[loud] for mel in (truth, said))
    return _correlation((one - one.mean(0)).ravel(), (other - other.mean(0)).ravel())


def spectral_shape(mel: Floats) -> Floats:
    """Give cepstra 1 to 12 of a spectrogram: its shape without its level and without harmonics.

    Parameters
    ----------
    mel : (n_frames, n_mels)

    Returns
    -------
    cepstra : (n_frames, 12)
    """
    cepstra: Floats = dct(mel.clip(0, 1), axis=1, norm="ortho")[:, 1 : _N_CEPSTRA + 1]
    return cepstra


def pitch_kept(truth_hz: Floats, said_hz: Floats) -> tuple[float, float]:
    """Compare two pitch contours of the same length, ``(n_frames,)`` in Hz, 0 where unvoiced.

    Returns
    -------
    correlation
        Of log-F0, over frames that are voiced in both; 0 where fewer than ten are, or one of them
        does not vary.
    spread
        Standard deviation of the second contour over its voiced frames, in semitones; 0 where fewer
        than ten are voiced.
    """
    both = (truth_hz > 0) & (said_hz > 0)
    voiced = said_hz[said_hz > 0]
    spread = 12 * float(np.log2(voiced).std()) if len(voiced) >= 10 else 0.0
    if both.sum() < 10:
        return 0.0, spread
    return _correlation(np.log(truth_hz[both]), np.log(said_hz[both])), spread


def _correlation(one: Floats, other: Floats) -> float:
    deviations = one.std() * other.std()
    if deviations < 1e-9:
        return 0.0
    return float(((one - one.mean()) * (other - other.mean())).mean() / deviations)


def panels_png(panels: Mapping[str, Floats], *, seconds_per_frame: float, title: str) -> bytes:
    """Draw spectrograms of one utterance below each other, as a bitmap on white.

    Parameters
    ----------
    panels
        Name -> (n_frames, n_mels), all of one length.
    """
    with _figure(9.4, 0.5 + 1.45 * len(panels)) as figure:
        rows = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        for axes, (name, mel) in zip(rows, panels.items(), strict=True):
            axes.imshow(
                np.clip(mel, 0, 1).T,
                origin="lower",
                aspect="auto",
                vmin=0,
                vmax=1,
                cmap="magma",
                interpolation="nearest",
                extent=(0, len(mel) * seconds_per_frame, 0, mel.shape[1]),
            )
            axes.set_title(name)
            axes.set_ylabel("mel band")
        rows[-1].set_xlabel("s")
        figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", color=_MUTED, fontsize=9)
        return _png(figure)


def contours_png(contours: Mapping[str, Floats], *, seconds_per_frame: float, title: str) -> bytes:
    """Draw pitch contours of one utterance below each other, as a bitmap on white.

    Parameters
    ----------
    contours
        Name -> (n_frames,), in [0, 1] where voiced, below 0 elsewhere; all of one length.
    """
    with _figure(9.4, 0.5 + 1.2 * len(contours)) as figure:
        rows = np.atleast_1d(figure.subplots(len(contours), 1, sharex=True))
        for axes, (name, contour) in zip(rows, contours.items(), strict=True):
            voiced = np.where(contour >= 0, contour, np.nan)
            axes.plot(np.arange(len(contour)) * seconds_per_frame, voiced, ".", color=_INK, ms=2.5)
            axes.set_ylim(0, 1)
            axes.set_title(name)
            axes.set_ylabel("pitch")
        rows[-1].set_xlim(0, max(map(len, contours.values())) * seconds_per_frame)
        rows[-1].set_xlabel("s")
        figure.suptitle(title.replace("$", r"\$"), x=0.01, ha="left", color=_MUTED, fontsize=9)
        return _png(figure)


@contextmanager
def _figure(width_in: float, height_in: float) -> Iterator[Figure]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", dpi=110)
        FigureCanvasAgg(figure)
        yield figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
