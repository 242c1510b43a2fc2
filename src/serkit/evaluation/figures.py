"""Figures of the report: matplotlib drawings as inline SVG that follows the page's colours.

Figures are drawn on their own canvas objects (never through pyplot, which keeps global state).
Text and lines are drawn in placeholder colours that are afterwards replaced by CSS variables of
the page, so one drawing serves the light and the dark scheme and the printed page. Every figure
carries a title for screen readers.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import reliability
from serkit.evaluation.predictions import Predictions
from serkit.evaluation.runfolder import Curves, Embeddings
from serkit.evaluation.scores import GroupScores
from serkit.evaluation.significance import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FULL_WIDTH_IN",
    "HUES",
    "MUTED",
    "SECOND",
    "curves_figure",
    "embedding_figure",
    "figure_canvas",
    "legend_above",
    "noise_figure",
    "reliability_figure",
    "series_figure",
    "speakers_figure",
    "to_svg",
    "truth_figure",
]

# Placeholders that cannot occur otherwise -> what the page's style sheet calls them.
INK, MUTED, GRID, ACCENT, SECOND, PANEL = (
    "#010203",
    "#020304",
    "#030405",
    "#040506",
    "#050607",
    "#060708",
)
_CSS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    PANEL: "var(--panel)",
}
# Ten hues of middle lightness, legible on white and on near-black; shapes repeat the distinction.
HUES = (
    "#3f73d8",
    "#e07b28",
    "#2f9e6e",
    "#cf4257",
    "#8a5fd0",
    "#1b9bb0",
    "#b58a0a",
    "#c5559a",
    "#7b8794",
    "#6d9130",
)
# What the placeholders are in a file of its own, which has no page around it.
_ON_WHITE = {
    INK: "#16202c",
    MUTED: "#566372",
    GRID: "#dfe4ea",
    ACCENT: "#2c62c9",
    SECOND: "#b4531a",
    PANEL: "#ffffff",
}
_IN_BITMAP = {ACCENT: HUES[0], SECOND: HUES[1]}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h")
FULL_WIDTH_IN = 9.4
_MAX_POINTS_AS_VECTOR = 6_000  # beyond this a bitmap inside the SVG is smaller
_MAX_CURVE_POINTS = 150  # per line; more cannot be told apart in print
_MAX_NAMED_SPEAKERS = 40
_MAX_EMBEDDED = 1_000  # points per map; t-SNE takes about a second for so many
_MAX_MAPS = 6
_MIN_MAPPED = 12  # a map of fewer utterances shows nothing


def speakers_figure(
    speakers: Sequence[GroupScores], *, pooled_uar: float, baseline_uar: float
) -> str:
    """Draw the UAR of each speaker against the pooled one and the majority baseline."""
    ranked = sorted(speakers, key=lambda group: -group.uar)
    named = len(ranked) <= _MAX_NAMED_SPEAKERS
    height = 0.9 + (0.27 * len(ranked) if named else 3.2)
    with figure_canvas(FULL_WIDTH_IN, height) as figure:
        axes = figure.subplots()
        position = np.arange(len(ranked))
        values = 100 * np.asarray([group.uar for group in ranked])
        axes.barh(
            position, values, height=0.66 if named else 1.0, color=ACCENT, alpha=0.8, linewidth=0
        )
        spread = [100 * (group.uar_sd or 0.0) for group in ranked]
        if named and any(spread):
            axes.errorbar(
                values, position, xerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5
            )
        _reference_line(axes, 100 * pooled_uar, "all speakers pooled", INK, "-")
        _reference_line(axes, 100 * baseline_uar, "majority baseline", SECOND, "--")
        axes.set_xlim(0, 100)
        axes.set_ylim(len(ranked) - 0.4, -0.6)
        if named:
            axes.set_yticks(position, [f"{_plain(g.name)}  (n = {g.n_utterances})" for g in ranked])
        axes.set_ylabel("speaker" if named else f"{len(ranked)} speakers, best on top")
        axes.set_xlabel("UAR (UA), %")
        axes.set_title("UAR by speaker")
        axes.grid(visible=False, axis="y")
        legend_above(axes)
        return to_svg(
            figure,
            name="speakers",
            alt="UAR of each speaker in percent: "
            + ", ".join(f"{g.name} {100 * g.uar:.0f}" for g in ranked[:_MAX_NAMED_SPEAKERS]),
        )


def curves_figure(curves: Curves, *, dev_name: str, score_name: str = "UAR (UA)") -> str:
    """Draw loss and dev scores by epoch: one thin line per fold and seed, and their mean."""
    short = score_name.split(" (")[0]
    members = curves.members()
    n_panels = 1 + (curves.has_dev and bool(np.isfinite(curves.dev_uar).any()))
    with figure_canvas(FULL_WIDTH_IN, 3.5) as figure:
        panels = np.atleast_1d(figure.subplots(1, n_panels))
        loss, score = panels[0], panels[-1]
        as_bitmap = len(members) * _MAX_CURVE_POINTS > 4 * _MAX_POINTS_AS_VECTOR
        _draw_lines(loss, curves, curves.train_loss, members, ACCENT, "train", as_bitmap)
        if np.isfinite(curves.dev_loss).any():
            _draw_lines(loss, curves, curves.dev_loss, members, SECOND, dev_name, as_bitmap)
        loss.set_title("Loss")
        loss.set_ylabel("loss")
        loss.set_ylim(bottom=0)
        legend_above(loss)
        if n_panels == 2:
            _draw_lines(score, curves, 100 * curves.dev_uar, members, SECOND, dev_name, as_bitmap)
            kept = np.flatnonzero(curves.selected & np.isfinite(curves.dev_uar))
            if len(kept):
                score.plot(
                    curves.epochs[kept],
                    100 * curves.dev_uar[kept],
                    "o",
                    color=INK,
                    markersize=4,
                    markeredgewidth=0,
                    label="epoch kept",
                )
            score.set_title(short[0].upper() + short[1:])
            score.set_ylabel(f"{score_name}, %")
            score.set_ylim(0, 100)
            legend_above(score)
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.set_xlim(0, curves.epochs.max())
        return to_svg(
            figure,
            name="curves",
            alt=f"Learning curves of {len(members)} training runs: loss"
            + (f" and {short} on the {dev_name} part" if n_panels == 2 else "")
            + f" over {int(curves.epochs.max())} epochs",
        )


def reliability_figure(predictions: Predictions, *, n_bins: int = 15) -> str:
    """Draw how often the system is right against how sure it says it is."""
    if predictions.scores is None:
        return ""
    bins = reliability(predictions.scores, predictions.truth_index, n_bins)
    filled = bins.n > 0
    centers, width = (bins.edges[:-1] + bins.edges[1:]) / 2, 1 / n_bins
    with figure_canvas(4.6, 4.1) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        upper.bar(
            100 * centers[filled],
            100 * bins.accuracy[filled],
            width=92 * width,
            color=ACCENT,
            alpha=0.8,
            linewidth=0,
            label="right",
        )
        upper.plot([0, 100], [0, 100], "--", color=INK, linewidth=1, label="perfectly calibrated")
        upper.set_title("Reliability")
        upper.set_ylim(0, 100)
        upper.set_ylabel("accuracy, %")
        legend_above(upper)
        lower.bar(100 * centers, 100 * bins.n / bins.n.sum(), width=92 * width, color=MUTED)
        lower.set_ylabel("share, %")
        lower.set_xlabel("confidence (highest score), %")
        lower.set_xlim(0, 100)
        return to_svg(
            figure,
            name="reliability",
            alt="Reliability diagram: "
            + ", ".join(
                f"{100 * c:.0f} % sure, {100 * a:.0f} % right"
                for c, a in zip(bins.confidence[filled], bins.accuracy[filled], strict=True)
            ),
        )


def embedding_figure(embeddings: Embeddings, predictions: Predictions) -> tuple[str, str]:
    """Map test embeddings with t-SNE; returns the SVG and what it shows, in words.

    Folds come from different trained networks, whose coordinates do not match, so utterances of
    different folds never share a map. Where folds test several speakers, the largest of them is
    shown twice, by class and by speaker: clusters by speaker betray a system that hears who talks
    rather than how. Where every fold tests one speaker, the largest folds are shown by class.
    """
    seed = int(embeddings.seeds.min())
    row_of = {
        key: row
        for row, key in enumerate(zip(predictions.ids, predictions.seeds.tolist(), strict=True))
    }
    rows = np.asarray(
        [
            row_of.get(key, -1)
            for key in zip(embeddings.ids.tolist(), embeddings.seeds.tolist(), strict=True)
        ]
    )
    usable = (rows >= 0) & (embeddings.seeds == seed) & np.isfinite(embeddings.vectors).all(axis=1)
    maps = []  # (fold, points, rows of the predictions table)
    for fold in dict.fromkeys(embeddings.folds[usable].tolist()):
        members = np.flatnonzero(usable & (embeddings.folds == fold))
        if len(members) >= _MIN_MAPPED:
            maps.append((fold, members))
    if not maps:
        return "", f"No fold has {_MIN_MAPPED} or more test utterances with embeddings."
    maps.sort(key=lambda item: -len(item[1]))
    n_speakers = {fold: len(set(predictions.speakers[rows[m]].tolist())) for fold, m in maps}
    several = [item for item in maps if n_speakers[item[0]] > 1]
    classes = predictions.classes
    if several or not predictions.has_speakers:
        fold, members = (several or maps)[0]
        points, members = _tsne(embeddings.vectors, members)
        truth = predictions.truth[rows[members]]
        speakers = predictions.speakers[rows[members]]
        two = predictions.has_speakers
        with figure_canvas(FULL_WIDTH_IN if two else 4.8, 4.7) as figure:
            panels = np.atleast_1d(figure.subplots(1, 1 + two))
            _scatter(panels[0], points, truth, classes)
            panels[0].set_title(f"Fold {_plain(fold)} by class (truth)")
            if two:
                names = tuple(sorted(set(speakers.tolist())))
                _scatter(panels[1], points, speakers, names)
                panels[1].set_title(f"Fold {_plain(fold)} by speaker ({len(names)})")
            svg = to_svg(
                figure,
                name="embedding",
                alt=f"t-SNE maps of {len(members)} test utterances of fold {fold}, coloured by "
                "class" + (" and by speaker" if two else ""),
            )
        whose = f"fold {fold}, the largest" if len(maps) > 1 else "the test part"
        words = (
            f"{len(members)} test utterances of {whose}, seed {seed}. Folds are different networks "
            "whose coordinates do not match, so they are not mixed in one map. "
        )
        if two:
            words += (
                "If the right panel falls into clusters and the left one does not, the network "
                "hears who talks rather than how."
            )
        return svg, words
    shown = maps[:_MAX_MAPS]
    n_columns = min(3, len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    with figure_canvas(FULL_WIDTH_IN, 0.5 + 2.7 * n_rows) as figure:
        panels = np.atleast_1d(figure.subplots(n_rows, n_columns)).ravel()
        for axes, (fold, members) in zip(panels, shown, strict=False):
            points, members = _tsne(embeddings.vectors, members)
            _scatter(axes, points, predictions.truth[rows[members]], classes, legend=False)
            axes.set_title(f"Fold {_plain(fold)} (n = {len(members)})")
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        handles, labels = _class_handles(classes)
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(classes), 9))
        svg = to_svg(
            figure,
            name="embedding",
            alt=f"t-SNE maps of the test utterances of {len(shown)} folds, coloured by class",
        )
    return svg, (
        f"Test utterances of the {len(shown)} largest folds, seed {seed}. Every fold tests one "
        "speaker and is a network of its own, whose coordinates do not match the others', so each "
        "has its own map and a colouring by speaker would show nothing."
    )


def truth_figure(truth: NDArray[np.floating[Any]], predicted: NDArray[np.floating[Any]]) -> str:
    """Draw predicted numbers against true ones, (n,) each."""
    low = float(min(truth.min(), predicted.min()))
    high = float(max(truth.max(), predicted.max()))
    with figure_canvas(4.8, 4.4) as figure:
        axes = figure.subplots()
        axes.plot([low, high], [low, high], "--", color=INK, linewidth=1, label="truth")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.scatter(
            truth,
            predicted,
            s=20 if len(truth) < 300 else 11,
            alpha=0.55,
            linewidths=0,
            rasterized=len(truth) > _MAX_POINTS_AS_VECTOR,
            color=HUES[0],
        )
        axes.set_xlabel("truth")
        axes.set_ylabel("predicted")
        axes.set_title("Truth and prediction")
        return to_svg(
            figure,
            name="truth",
            alt=f"Predicted against true numbers of {len(truth)} clips, from {low:.1f} to "
            f"{high:.1f}",
        )


def series_figure(
    name: str,
    panels: Mapping[str, Mapping[str, Sequence[tuple[NDArray[Any], NDArray[np.float64]]]]],
) -> str:
    """Draw quantities by epoch: one thin line per training run, and their mean.

    Parameters
    ----------
    name
        Of the figure, unique on its page.
    panels
        Title -> quantity -> (epochs, values) of each run.
    """
    with figure_canvas(FULL_WIDTH_IN, 3.5) as figure:
        for axes, (title, lines) in zip(
            np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True
        ):
            for number, (quantity, runs) in enumerate(lines.items()):
                color = HUES[number % len(HUES)]
                by_epoch: dict[int, list[float]] = {}
                for epochs, values in runs:
                    axes.plot(epochs, values, color=color, linewidth=0.7, alpha=0.35)
                    for epoch, value in zip(epochs.tolist(), values.tolist(), strict=True):
                        by_epoch.setdefault(int(epoch), []).append(value)
                shared = sorted(e for e, known in by_epoch.items() if 2 * len(known) >= len(runs))
                means = [float(np.mean(by_epoch[epoch])) for epoch in shared]
                axes.plot(shared, means, color=color, linewidth=1.9, label=_plain(quantity))
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.set_ylim(bottom=0)
            legend_above(axes)
        return to_svg(
            figure,
            name=name,
            alt="; ".join(f"{title}: {', '.join(lines)}" for title, lines in panels.items())
            + ", by epoch",
        )


def noise_figure(
    lines: Mapping[str, Mapping[float, Interval]],
    *,
    clean: Interval,
    baseline_uar: float,
    title: str,
) -> str:
    """Draw UAR over the signal-to-noise ratio, as a file of its own on white.

    Parameters
    ----------
    lines
        Kind of noise -> ratio in dB -> UAR.
    clean, baseline_uar
        UAR without noise, and of always answering the commonest class.
    """
    with figure_canvas(FULL_WIDTH_IN, 4.2) as figure:
        axes = figure.subplots()
        ratios = sorted({ratio for line in lines.values() for ratio in line})
        # Side by side, or the intervals would hide each other.
        step = 0.012 * max(ratios[-1] - ratios[0], 1.0)
        for number, (kind, line) in enumerate(lines.items()):
            intervals = [line[ratio] for ratio in sorted(line)]
            values = 100 * np.asarray([interval.value for interval in intervals])
            low = 100 * np.asarray([interval.low for interval in intervals])
            high = 100 * np.asarray([interval.high for interval in intervals])
            axes.errorbar(
                np.asarray(sorted(line)) + step * (number - (len(lines) - 1) / 2),
                values,
                yerr=np.maximum([values - low, high - values], 0),
                label=_plain(kind),
                linewidth=1.9,
                elinewidth=0.9,
                markersize=5,
                **_point_style(number),
            )
        for value, text, color, style in (
            (100 * clean.value, "clean", INK, "--"),
            (100 * baseline_uar, "majority baseline", SECOND, ":"),
        ):
            axes.axhline(
                value, color=color, linestyle=style, linewidth=1.3, label=f"{text}, {value:.1f}"
            )
        axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axes.set_ylim(0, 100)
        axes.set_xlabel("signal-to-noise ratio, dB")
        axes.set_ylabel("UAR (UA), %")
        axes.set_title(_plain(title), pad=24)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(lines) + 2, borderaxespad=0.1
        )
        svg = to_svg(
            figure,
            name="noise",
            alt=f"{title}: UAR in percent, clean {100 * clean.value:.0f}; "
            + "; ".join(
                f"{kind} "
                + ", ".join(f"{100 * line[r].value:.0f} at {r:g} dB" for r in sorted(line))
                for kind, line in lines.items()
            ),
        )
    return _alone(svg)


def _alone(svg: str) -> str:
    """Make a figure for a page into a file: colours and font spelled out, on white."""
    for placeholder, variable in _CSS.items():
        svg = svg.replace(variable, _ON_WHITE[placeholder])
    svg = svg.replace("var(--font)", "system-ui, 'DejaVu Sans', Arial, sans-serif")
    return svg.replace('style="max-width:', 'style="background:#ffffff;max-width:', 1) + "\n"


def _tsne(
    vectors: NDArray[np.float64], members: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Standardise one fold's vectors and map them to the plane."""
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    if len(members) > _MAX_EMBEDDED:
        generator = np.random.default_rng(42)
        members = np.sort(generator.choice(members, _MAX_EMBEDDED, replace=False))
    standardised = StandardScaler().fit_transform(vectors[members])
    perplexity = min(30.0, (len(members) - 1) / 3)
    # PCA needs two directions to start from; constant vectors have none.
    flat = np.linalg.matrix_rank(standardised) < 2
    tsne = TSNE(2, perplexity=perplexity, random_state=42, init="random" if flat else "pca")
    # On a busy machine its many short parallel loops wait for each other, fifty times as long.
    with threadpool_limits(1):
        return np.asarray(tsne.fit_transform(standardised), dtype=np.float64), members


def _scatter(
    axes: Axes,
    points: NDArray[np.float64],
    labels: NDArray[np.str_],
    names: Sequence[str],
    *,
    legend: bool = True,
) -> None:
    for number, name in enumerate(names):
        chosen = labels == name
        axes.scatter(
            points[chosen, 0],
            points[chosen, 1],
            s=20 if len(points) < 300 else 11,
            alpha=0.85,
            linewidths=0,
            rasterized=len(points) > _MAX_POINTS_AS_VECTOR,
            **_point_style(number),
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")
    for spine in axes.spines.values():
        spine.set_visible(True)
    if legend:
        shown = names[:12]
        handles, texts = _class_handles(shown)
        if len(shown) < len(names):
            texts[-1] += f" and {len(names) - len(shown)} more"
        axes.legend(
            handles,
            texts,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.08),
            ncols=min(len(shown), 4),
        )


def _class_handles(names: Sequence[str]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles = []
    for number, _ in enumerate(names):
        style = _point_style(number)
        handles.append(Line2D([], [], linestyle="", markersize=5.5, markeredgewidth=0, **style))
    return handles, [_plain(name) for name in names]


def _point_style(number: int) -> dict[str, Any]:
    return {"color": HUES[number % len(HUES)], "marker": _MARKERS[number % len(_MARKERS)]}


def _draw_lines(
    axes: Axes,
    curves: Curves,
    values: NDArray[np.float64],
    members: Sequence[tuple[str, int, NDArray[np.int64]]],
    color: str,
    label: str,
    as_bitmap: bool,
) -> None:
    by_epoch: dict[int, list[float]] = {}
    for _, _, rows in members:
        measured = rows[np.isfinite(values[rows])]
        for epoch, value in zip(curves.epochs[measured], values[measured], strict=True):
            by_epoch.setdefault(int(epoch), []).append(float(value))
        thinned = measured[:: max(1, math.ceil(len(measured) / _MAX_CURVE_POINTS))]
        axes.plot(
            curves.epochs[thinned],
            values[thinned],
            color=_IN_BITMAP[color] if as_bitmap else color,  # a bitmap keeps no placeholder
            linewidth=0.7,
            alpha=min(0.45, max(0.06, 2.5 / len(members))),
            rasterized=as_bitmap,
        )
    # Where runs stop at different epochs, a mean over the few that go on would mislead.
    epochs = sorted(epoch for epoch, known in by_epoch.items() if 2 * len(known) >= len(members))
    axes.plot(
        epochs,
        [float(np.mean(by_epoch[epoch])) for epoch in epochs],
        color=color,
        linewidth=1.9,
        label=label if len(members) == 1 else f"{label}, mean of {len(members)}",
    )


def _reference_line(axes: Axes, value: float, text: str, color: str, style: str) -> None:
    axes.axvline(value, color=color, linestyle=style, linewidth=1.3, label=f"{text}, {value:.1f}")


def legend_above(axes: Axes) -> None:
    """Put the legend to the right of the title, which stands on the left."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)


def _plain(text: str) -> str:
    """Escape what matplotlib would read as mathematics."""
    return text.replace("$", r"\$")


_STYLE: Any = {  # keys as matplotlib spells them, which its stubs type one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "serkit",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "figure.facecolor": "none",
}


@contextmanager
def figure_canvas(width_in: float, height_in: float) -> Iterator[Figure]:
    """Give an empty figure in the report's style; the style ends with the block."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained", dpi=160)
        FigureCanvasAgg(figure)
        yield figure


def to_svg(figure: Figure, *, name: str, alt: str) -> str:
    """Write a figure as an SVG element that takes its colours and font from the page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Names in other scripts are drawn by the browser's fonts, not by matplotlib's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    for placeholder, variable in _CSS.items():
        svg = svg.replace(placeholder, variable)
    svg = svg.replace("'DejaVu Sans', sans-serif", "var(--font)").replace(
        "'DejaVu Sans'", "var(--font)"
    )
    # Ids must not repeat among the figures of one page.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    width = float(re.findall(r'width="([\d.]+)pt"', svg)[0])
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    attributes = (
        f'role="img" aria-labelledby="{name}-title" style="max-width:{width * 4 / 3:.0f}px"'
    )
    svg = svg.replace("<svg ", f"<svg {attributes} ", 1)
    end = svg.index(">") + 1
    return f'{svg[:end]}<title id="{name}-title">{escape(alt)}</title>{svg[end:]}'
