"""The report of a sentiment run: one self-contained page, numbers, and a table as MMSA writes it.

Everything is computed from files in the run folder. ``predictions.csv`` has one row per clip, fold
and seed: ``id, part, group, speaker, fold, seed, truth, predicted``; what the streams say by
themselves, ``text, audio, vision``, empty where a clip lacks the stream; and for clips that were
trained on the labels that the training gave their streams in the end, ``label_text, label_audio,
label_vision``. Intervals are over speakers where the table names that of every test clip, else over
videos (``group``).

``results.csv`` holds one line, mean and standard deviation over seeds of every score, times 100, as
the platform MMSA (github.com/thuiar/MMSA) does, the error as well.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation import figures
from serkit.evaluation.metrics import row_shares
from serkit.evaluation.report import render_page
from serkit.evaluation.sentiment import (
    SENTIMENT_METRICS,
    SIMS_CLASSES,
    sentiment_baselines,
    sentiment_confusions,
    sentiment_interval,
    sentiment_spread,
)
from serkit.files import write_atomically
from serkit.types import InputError

__all__ = ["write_sentiment_report"]

STREAMS = ("text", "audio", "vision")

_COLUMNS = (
    "id,part,group,fold,seed,truth,predicted,text,audio,vision,label_text,label_audio,label_vision"
).split(",")
_SPEAKER = "speaker"  # may be missing

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows of predictions.csv; numbers are NaN where a cell is empty."""

    words: Mapping[str, NDArray[np.str_]]
    numbers: Mapping[str, Values]

    def rows(self, part: str, seed: str | None = None) -> NDArray[np.bool_]:
        """Choose the rows of a part, of one seed or all."""
        chosen: NDArray[np.bool_] = self.words["part"] == part
        return chosen if seed is None else chosen & (self.words["seed"] == seed)


def write_sentiment_report(run_dir: Path | str) -> Path:
    """Write report.html, metrics.json and results.csv into a run folder.

    Returns
    -------
    path of report.html

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    run_dir = Path(run_dir)
    run, table = _json(run_dir / "run.json"), _read_table(run_dir / "predictions.csv")
    metrics = _metrics(run, table)
    text = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
    write_atomically(run_dir / "metrics.json", text)
    write_atomically(run_dir / "results.csv", _results(run, metrics))
    page = render_page("sentiment.html.j2", _content(run_dir, run, metrics, table))
    write_atomically(run_dir / "report.html", page)
    return run_dir / "report.html"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not rows or not set(columns) <= rows[0].keys():
        raise InputError(f"{path}: expected rows with the columns {', '.join(columns)}")
    return rows


def _read_table(path: Path) -> _Table:
    rows = _read_csv(path, _COLUMNS)
    words = {name: np.array([row[name] for row in rows]) for name in _COLUMNS[:5]}
    words[_SPEAKER] = np.array([row.get(_SPEAKER, "") for row in rows])
    try:
        numbers = {
            # float32, as the scores are defined; 0.1 lies on a border then, not above it.
            name: np.array([row[name] or "nan" for row in rows], dtype=np.float32)
            for name in _COLUMNS[5:]
        }
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    table = _Table(words, numbers)
    if not table.rows("test").any():
        raise InputError(f"{path}: has no test clip")
    return table


def _metrics(run: Mapping[str, Any], table: _Table) -> dict[str, Any]:
    scale = run["scale"]
    seeds = [str(seed) for seed in run["seeds"]]
    judged = SENTIMENT_METRICS[scale]
    per_seed = [
        judged(table.numbers["truth"][rows], table.numbers["predicted"][rows])
        for rows in (table.rows("test", seed) for seed in seeds)
    ]
    first = table.rows("test", seeds[0])
    truth = table.numbers["truth"][first]
    stacked = np.stack([table.numbers["predicted"][table.rows("test", seed)] for seed in seeds])
    spreads = sentiment_spread(per_seed)
    by_speaker = bool((table.words[_SPEAKER][first] != "").all())
    of_cluster = partial(
        sentiment_interval,
        truth,
        stacked,
        table.words[_SPEAKER if by_speaker else "group"][first].tolist(),
        cluster="speaker" if by_speaker else "video",
        corpus=scale,
    )
    intervals = {
        key: asdict(of_cluster(metric=key))
        for key in spreads
        if all(scores[key] is not None for scores in per_seed)
    }
    known = table.numbers["truth"][table.rows("train", seeds[0])]
    confusions = [sentiment_confusions(truth, row, corpus=scale) for row in stacked]
    return {
        "task": "sentiment",
        "title": run["title"],
        "scale": scale,
        "seeds": run["seeds"],
        "n_test": len(truth),
        "warnings": run["protocol"]["warnings"],
        "scores": {
            key: asdict(spreads[key]) if key in spreads else {"mean": None, "sd": None, "n": 0}
            for key in per_seed[0]
        },
        "per_seed": dict(zip(seeds, per_seed, strict=True)),
        "intervals": intervals,
        "baselines": sentiment_baselines(known, truth, corpus=scale),
        "streams": {
            stream: _of_stream(table, stream, seeds, scale)
            for stream in STREAMS
            if stream in run["modalities"]
        },
        "confusions": {
            name: np.sum([one[name] for one in confusions], axis=0).tolist()
            for name in confusions[0]
        },
    }


def _of_stream(
    table: _Table, stream: str, seeds: Sequence[str], scale: str
) -> dict[str, float | None]:
    """Score what a stream says by itself, mean over seeds, of the clips that have it."""
    scores = []
    for seed in seeds:
        rows = table.rows("test", seed) & np.isfinite(table.numbers[stream])
        if rows.any():
            pair = table.numbers["truth"][rows], table.numbers[stream][rows]
            scores.append(SENTIMENT_METRICS[scale](*pair))
    if not scores:
        return {}
    spreads = sentiment_spread(scores)
    return {key: spreads[key].mean if key in spreads else None for key in scores[0]}


def _results(run: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Write the table as MMSA does: cells of (mean, deviation), times 100."""
    cells = []
    for key in metrics["scores"]:
        values = [scores[key] for scores in metrics["per_seed"].values()]
        known = 100 * np.array([value for value in values if value is not None])
        pair = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
        cells.append(str(tuple(round(float(value), 2) for value in pair)))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["Model", *metrics["scores"]])
    writer.writerow([run["name"], *cells])
    return buffer.getvalue()


def _content(
    run_dir: Path, run: Mapping[str, Any], metrics: Mapping[str, Any], table: _Table
) -> dict[str, Any]:
    seeds = [str(seed) for seed in run["seeds"]]
    truth = table.numbers["truth"][table.rows("test", seeds[0])]
    predicted = np.mean(
        [table.numbers["predicted"][table.rows("test", seed)] for seed in seeds], axis=0
    )
    return {
        "run": run,
        "metrics": metrics,
        "headline": _headline(metrics),
        "clusters": _clusters(metrics),
        "sharing": _json(run_dir / "leaks.json"),
        "matrices": _matrices(metrics),
        "scatter": figures.truth_figure(truth, predicted),
        "curves": _curves_figure(run_dir / "curves.csv"),
        "labels": _label_rows(table),
        "environment": _environment(run),
        "config": json.dumps(_json(run_dir / "config.json"), indent=2, ensure_ascii=False),
    }


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the rows of the table of scores."""
    return [
        {
            "key": key,
            "spread": spread,
            "interval": metrics["intervals"].get(key),
            "baselines": [
                metrics["baselines"][name][key] for name in ("majority", "mean", "median")
            ],
            "streams": {name: scores.get(key) for name, scores in metrics["streams"].items()},
        }
        for key, spread in metrics["scores"].items()
    ]


def _clusters(metrics: Mapping[str, Any]) -> str:
    """Say what the intervals are over."""
    for interval in metrics["intervals"].values():
        note = f" ({interval['note']})" if interval["note"] else ""
        return f"{interval['n_clusters']} {interval['cluster']}s{note}"
    return "nothing: no score exists for every seed"


def _matrices(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    matrices = []
    for name, counts in metrics["confusions"].items():
        n = len(counts)
        if metrics["scale"] in ("sims", "simsv2"):
            classes: Sequence[str] = SIMS_CLASSES[n]
        elif n == 2:
            classes = ("negative", "positive")
        else:
            classes = [str(number - n // 2) for number in range(n)]
        shares = row_shares(np.array(counts)).tolist()
        matrices.append({"name": name, "classes": classes, "counts": counts, "shares": shares})
    return matrices


def _curves_figure(path: Path) -> str:
    columns = ("fold", "seed", "epoch", "train_loss", "dev_loss", "labels_clipped")
    rows = _read_csv(path, columns)
    members: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        members.setdefault((row["fold"], row["seed"]), []).append(row)

    def lines(column: str) -> list[tuple[NDArray[Any], NDArray[np.float64]]]:
        return [
            (
                np.array([int(row["epoch"]) for row in member]),
                np.array([float(row[column]) for row in member]),
            )
            for member in members.values()
        ]

    return figures.series_figure(
        "curves",
        {
            "Loss": {"train": lines("train_loss"), "dev": lines("dev_loss")},
            "Generated labels": {
                **{stream: lines(f"labels_{stream}") for stream in STREAMS},
                "share clipped": lines("labels_clipped"),
            },
        },
    )


def _label_rows(table: _Table) -> list[tuple[str, float, float, float]]:
    """Say of each stream how its labels differ from those of the clips in the end."""
    train = table.rows("train")
    rows = []
    for stream in STREAMS:
        made, truth = table.numbers[f"label_{stream}"][train], table.numbers["truth"][train]
        moved = np.abs(made - truth)
        flipped = (made * truth < 0).mean()
        rows.append((stream, float(moved.mean()), float((moved > 0.1).mean()), float(flipped)))
    return rows


def _environment(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("serkit", str(run["serkit_version"])),
        ("commit", str(run["commit"] or "not known")),
        ("started", str(run["started"])),
        ("duration", f"{run['duration_s']} s"),
        ("data", ", ".join(f"{key} {value}" for key, value in run["data"].items())),
    ]
    for group in ("machine", "packages"):
        lines.append((group, ", ".join(f"{k} {v}" for k, v in run[group].items())))
    return lines
