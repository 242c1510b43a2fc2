"""A page about one clip: what was seen and heard in it, and what a model made of that over time.

Everything is inside the page, pictures too; nothing in it is a script or comes from elsewhere.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.audio import Waveform
from serkit.evaluation.figures import _HUES, _MUTED, _SECOND, _figure, _legend_above, _svg
from serkit.evaluation.report import render_page
from serkit.files import write_atomically
from serkit.video import Frame, read_clip

__all__ = ["loudness_db", "write_clip_page"]

_N_PICTURES = 10
_PICTURE_SIDE = 160  # pixels
_LOUDNESS_HOP_S = 0.05
_QUIETEST_DB = -60.0
_SCORES = ("fused", "text", "audio", "vision")
_FULL_WIDTH_IN = 9.4


def write_clip_page(
    path: Path | str,
    prediction: Mapping[str, Any],
    *,
    title: str,
    caution: str,
    version: str = "",
    facts: Sequence[tuple[str, str]] = (),
    planted: Mapping[str, float] | None = None,
) -> Path:
    """Write the page of one clip.

    Parameters
    ----------
    path
        Of the page.
    prediction
        As :meth:`serkit.inference.clips.ClipPrediction.to_dict` gives it; the file that it names
        is read once more, for its pictures and its sound.
    caution
        What the model was trained on, and what its answers are worth.
    version
        Of serkit.
    facts
        Name and value of further rows of the table at the end.
    planted
        What each score is known to be, where the clip was made to show it.

    Raises
    ------
    VideoError
        If the clip cannot be read any more.
    """
    clip = read_clip(
        prediction["file"], sample_rate=16_000, fps=12.5, max_side=_PICTURE_SIDE, colour="rgb"
    )
    chosen = np.unique(np.linspace(0, len(clip.frames) - 1, _N_PICTURES).round().astype(int))
    pictures = [
        {"uri": _jpeg(clip.frames[number]), "time_s": float(clip.times_s[number])}
        for number in (chosen if clip.had_video else ())
    ]
    loudness = None
    if clip.waveform is not None:
        loudness = _loudness_figure(clip.waveform, clip.sample_rate)
    page = render_page(
        "clip.html.j2",
        {
            "title": title,
            "caution": caution,
            "version": version,
            "p": prediction,
            "labels": {k: v for k, v in prediction.items() if k.startswith("label_")},
            "scores": {name: prediction["scores"][name] for name in _SCORES},
            "planted": dict(planted or {}),
            "pictures": pictures,
            "loudness": loudness,
            "over_time": _scores_figure(prediction["over_time"]),
            "facts": list(facts),
        },
    )
    write_atomically(Path(path), page)
    return Path(path)


def loudness_db(waveform: Waveform, sample_rate: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Measure loudness in steps of 50 ms.

    Returns
    -------
    times_s : (n_steps,), the middle of each step
    decibels : (n_steps,), against full scale, not below -60
    """
    hop = max(1, round(_LOUDNESS_HOP_S * sample_rate))
    starts = np.arange(0, max(len(waveform), 1), hop)
    padded = np.pad(np.asarray(waveform, np.float64), (0, len(starts) * hop - len(waveform)))
    power = np.square(padded).reshape(-1, hop).mean(axis=1)
    decibels = 10 * np.log10(np.maximum(power, 10 ** (_QUIETEST_DB / 10)))
    return (starts + hop / 2) / sample_rate, decibels


def _loudness_figure(waveform: Waveform, sample_rate: int) -> str:
    times, decibels = loudness_db(waveform, sample_rate)
    with _figure(_FULL_WIDTH_IN, 1.5) as figure:
        axes = figure.subplots()
        axes.fill_between(times, _QUIETEST_DB, decibels, color=_HUES[0], alpha=0.35, linewidth=0)
        axes.plot(times, decibels, color=_HUES[0], linewidth=1.1)
        axes.set_xlim(0, len(waveform) / sample_rate)
        axes.set_ylim(_QUIETEST_DB, 0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("dB")
        axes.set_title("Loudness")
        return _svg(figure, name="loudness", alt="Loudness of the sound over time")


def _scores_figure(windows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the score of each stream at the middle of its windows."""
    times = np.array([(window["start_s"] + window["end_s"]) / 2 for window in windows])
    with _figure(_FULL_WIDTH_IN, 2.9) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=_MUTED, linewidth=0.9)
        for number, name in enumerate(_SCORES):
            values = [np.nan if w[name] is None else w[name] for w in windows]
            if np.isnan(values).all():
                continue
            fused = name == "fused"
            axes.plot(
                times,
                values,
                marker="o",
                color=_SECOND if fused else _HUES[number - 1],
                linewidth=2.4 if fused else 1.2,
                markersize=5 if fused else 3,
                label=name,
            )
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -1.05), max(high, 1.05))
        axes.set_xlim(0, max((float(window["end_s"]) for window in windows), default=0) or 1)
        axes.set_xlabel("seconds (middle of the window)")
        axes.set_ylabel("sentiment")
        axes.set_title("Sentiment over time")
        _legend_above(axes)
        return _svg(
            figure,
            name="scores",
            alt=f"Sentiment in {len(windows)} windows, of the clip as a whole and of each stream",
        )


def _jpeg(frame: Frame) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, frame, format="jpeg")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
