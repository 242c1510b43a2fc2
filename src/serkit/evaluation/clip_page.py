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
from serkit.evaluation.figures import (
    FULL_WIDTH_IN,
    HUES,
    MUTED,
    SECOND,
    figure_canvas,
    legend_above,
    to_svg,
)
from serkit.evaluation.report import render_page
from serkit.files import write_atomically
from serkit.video import Frame, read_clip

__all__ = ["loudness_db", "write_clip_page"]

_N_PICTURES = 10
_PICTURE_SIDE = 160  # pixels
_LOUDNESS_HOP_S = 0.05
_QUIETEST_DB = -60.0
_SCORES = ("fused", "text", "audio", "vision")


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
            "labels": {k: v for k, v in prediction.items() if k.startswith("label")},
            "streams": _SCORES,
            "of_classes": _of_classes(prediction),
            "rows": _rows(prediction, planted or {}),
            "windows": _windows(prediction),
            "pictures": pictures,
            "loudness": loudness,
            "over_time": _scores_figure(prediction),
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
    with figure_canvas(FULL_WIDTH_IN, 1.5) as figure:
        axes = figure.subplots()
        axes.fill_between(times, _QUIETEST_DB, decibels, color=HUES[0], alpha=0.35, linewidth=0)
        axes.plot(times, decibels, color=HUES[0], linewidth=1.1)
        axes.set_xlim(0, len(waveform) / sample_rate)
        axes.set_ylim(_QUIETEST_DB, 0)
        axes.set_xlabel("seconds")
        axes.set_ylabel("dB")
        axes.set_title("Loudness")
        return to_svg(figure, name="loudness", alt="Loudness of the sound over time")


def _of_classes(prediction: Mapping[str, Any]) -> bool:
    """Tell whether a model of classes was asked: then a score is a probability for each."""
    return isinstance(prediction["scores"]["fused"], Mapping)


def _rows(
    prediction: Mapping[str, Any], planted: Mapping[str, float]
) -> list[tuple[str, list[float | None]]]:
    """Lay out what the streams say: a row of numbers, or one for each class."""
    scores = prediction["scores"]
    if _of_classes(prediction):
        return [
            (name, [None if scores[one] is None else scores[one][name] for one in _SCORES])
            for name in scores["fused"]
        ]
    rows = [("found", [scores[one] for one in _SCORES])]
    return [*rows, ("planted", [planted.get(one) for one in _SCORES])] if planted else rows


def _windows(prediction: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Give what the windows say in order: the score of each stream, or of each class, fused."""
    windows = prediction["over_time"]
    if not _of_classes(prediction):
        return {name: [window[name] for window in windows] for name in _SCORES}
    return {
        name: [None if window["fused"] is None else window["fused"][name] for window in windows]
        for name in prediction["scores"]["fused"]
    }


def _scores_figure(prediction: Mapping[str, Any]) -> str:
    """Draw the score of each stream, or of each class, at the middle of the windows."""
    windows, of_classes = prediction["over_time"], _of_classes(prediction)
    times = np.array([(window["start_s"] + window["end_s"]) / 2 for window in windows])
    with figure_canvas(FULL_WIDTH_IN, 2.9) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=MUTED, linewidth=0.9)
        for number, (name, found) in enumerate(_windows(prediction).items()):
            values = [np.nan if value is None else value for value in found]
            if np.isnan(values).all():
                continue
            fused = name == "fused"
            axes.plot(
                times,
                values,
                marker="o",
                color=SECOND if fused else HUES[(number - 1) % len(HUES)],
                linewidth=2.4 if fused else 1.2,
                markersize=5 if fused else 3,
                label=name,
            )
        low, high = axes.get_ylim()
        axes.set_ylim(-0.05 if of_classes else min(low, -1.05), max(high, 1.05))
        axes.set_xlim(0, max((float(window["end_s"]) for window in windows), default=0) or 1)
        axes.set_xlabel("seconds (middle of the window)")
        what = "probability" if of_classes else "sentiment"
        axes.set_ylabel(what)
        axes.set_title(f"{what.capitalize()} over time")
        legend_above(axes)
        return to_svg(
            figure,
            name="scores",
            alt=f"{what.capitalize()} in {len(windows)} windows, line by line as in the table",
        )


def _jpeg(frame: Frame) -> str:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, frame, format="jpeg")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
