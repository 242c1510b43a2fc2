"""Sentiment experiments whose heads tell classes apart instead of saying a number.

A class is what the data call it (``annotation``), such as an emotion or CH-SIMS's Negative, Neutral
and Positive, or the number of sentiment cut by CH-SIMS's borders. Names are in small letters, and
emotions in serkit's spelling, so that a run can be compared with one that hears voices alone.

What a single head learns: the class of the clip, or what people named in its stream. Nothing is
generated, see :mod:`serkit.training.unimodal_labels`.

The run folder is that of any experiment on emotion, so that ``serkit report``, ``compare`` and
``evaluate`` read it. Besides, ``streams/`` has one predictions table for each stream: what its
own head said of the test clips that have it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from serkit.clip_data import ClipData
from serkit.evaluation.predictions import Predictions, read_predictions, write_predictions
from serkit.evaluation.scores import score
from serkit.evaluation.sentiment import SIMS_CLASSES, sims_classes
from serkit.evaluation.summary import percent
from serkit.experiment.config import Strict
from serkit.experiment.sentiment.clips import (
    STREAM_LABELS,
    ClipClasses,
    ClipFold,
    chosen_clips,
    grouping,
)
from serkit.files import write_atomically
from serkit.labels import canonical_label, map_label
from serkit.models.self_mm import STREAMS
from serkit.training.objectives import ClassWeights
from serkit.types import InputError

__all__ = [
    "ClassesConfig",
    "JudgedMember",
    "class_card",
    "class_facts",
    "find_classes",
    "left_out",
    "require_all_classes",
    "stream_uars",
    "write_class_tables",
]

_CURVES = ("train_loss", "dev_loss", "dev_uar", "dev_war")


class ClassesConfig(Strict):
    """Which classes are told apart, where ``target`` is ``classes``."""

    source: Literal["annotation", "label"] = Field(
        default="annotation",
        description="annotation: the class that the data name; label: the number of sentiment, cut",
    )
    n: Literal[2, 3, 5] = Field(
        default=3, description="of a cut: how many classes, at the borders of CH-SIMS"
    )
    map: dict[str, str] = Field(default_factory=dict, description="class -> class, to merge some")
    keep: tuple[str, ...] | None = Field(
        default=None, description="classes to learn; clips of others are left out"
    )
    class_weights: ClassWeights = Field(
        default="none",
        description="balanced, one_minus_share, rarest_share: clips of rare classes count more, as "
        "in objectives of emotion",
    )


def find_classes(
    data: ClipData, config: ClassesConfig, *, scale: str, streams: bool
) -> tuple[ClipData, ClipClasses]:
    """Find the class of every clip, and leave out clips of classes that are not kept.

    Parameters
    ----------
    scale
        That of the numbers.
    streams
        Whether classes of single streams are asked for.

    Raises
    ------
    InputError
        If a clip has no class, there are fewer than two, or nobody named those of streams.
    """
    named = _cut(data, config.n, scale) if config.source == "label" else _annotated(data)
    whole = _mapped(named["M"], config)
    rows = np.array([row for row, name in enumerate(whole) if name is not None], dtype=np.int64)
    found = {name for name in whole if name is not None}
    ordered = SIMS_CLASSES[config.n] if config.source == "label" else ()
    names = (*(name for name in ordered if name in found), *sorted(found - set(ordered)))
    for name in config.keep or ():
        if _spelled(name) not in names:
            known = ", ".join(sorted({_spelled(word) for word in named["M"]}))
            raise InputError(f"classes.keep names '{name}', which no clip is: they are {known}")
    if len(names) < 2:
        raise InputError(
            f"the clips have {len(names)} class ({', '.join(names) or 'none'}): at least two are "
            "told apart, see classes.keep and classes.map"
        )
    of_streams = {
        stream: _placed(_mapped(named[key], config), names)
        for stream, key in STREAM_LABELS.items()
        if streams and key in named
    }
    if streams and not any((places >= 0).any() for places in of_streams.values()):
        raise InputError(
            "labels.label_source = human: the data name no class of a stream; set it to clip"
        )
    classes = ClipClasses(names, _placed(whole, names), of_streams).chosen(rows)
    return (data if len(rows) == len(data) else chosen_clips(data, rows)), classes


def _placed(words: Sequence[str | None], names: Sequence[str]) -> NDArray[np.int64]:
    """Find the place of each class; -1 for what is none of them."""
    places = {name: number for number, name in enumerate(names)}
    return np.array([-1 if word is None else places.get(word, -1) for word in words], np.int64)


def _annotated(data: ClipData) -> dict[str, Sequence[str]]:
    """Take the classes that the data name."""
    words = data.annotations or ("",) * len(data)
    unknown = [row for row, word in enumerate(words) if not word.strip()]
    if unknown:
        raise InputError(
            f"clip {data.ids[unknown[0]]} has no annotation ({len(unknown)} have none): leave such "
            "clips out, or take classes.source = 'label'"
        )
    return {"M": words, **data.stream_annotations}


def _cut(data: ClipData, n: int, scale: str) -> dict[str, Sequence[str]]:
    """Cut numbers into classes; those of streams that are unknown into none."""
    if scale not in ("sims", "simsv2"):
        raise InputError(
            f"classes.source = 'label' cuts at the borders of CH-SIMS, and the scale is {scale}: "
            "name classes in the data, and take classes.source = 'annotation'"
        )
    labels = data.labels.get("M", np.full(len(data), np.nan))
    unknown = np.flatnonzero(~np.isfinite(labels))
    if len(unknown):
        raise InputError(
            f"clip {data.ids[unknown[0]]} has no label of sentiment to cut into classes "
            f"({len(unknown)} have none): leave such clips out"
        )
    named: dict[str, Sequence[str]] = {}
    for key, values in data.labels.items():
        # float32, as the borders are defined; 0.1 lies on one then, not above it.
        numbers = np.clip(np.nan_to_num(values), -1, 1).astype(np.float32)
        words = [SIMS_CLASSES[n][place] for place in sims_classes(numbers, n)]
        known = np.isfinite(values)
        named[key] = [word if there else "" for word, there in zip(words, known, strict=True)]
    return named


def _mapped(words: Sequence[str], config: ClassesConfig) -> list[str | None]:
    """Spell classes alike, merge and select them; ``None``: not kept, or unknown."""
    merged = {_spelled(one): _spelled(other) for one, other in config.map.items()}
    kept = None if config.keep is None else [_spelled(word) for word in config.keep]
    return [
        map_label(_spelled(word), mapping=merged, keep=kept) if word.strip() else None
        for word in words
    ]


def _spelled(word: str) -> str:
    return canonical_label(word).lower()


def require_all_classes(folds: Sequence[ClipFold], classes: ClipClasses) -> None:
    """Refuse folds in which a class cannot be learned.

    Raises
    ------
    InputError
        If one has no clip in a training part.
    """
    for fold in folds:
        counts = np.bincount(classes.whole[fold.train], minlength=len(classes.names))
        if not counts.all():
            raise InputError(
                f"{fold.name}: no clip to train on is '{classes.names[int(counts.argmin())]}': "
                "take other folds, or leave the class out (classes.keep)"
            )


@dataclass(frozen=True, slots=True)
class JudgedMember:
    """What a member left behind: scores, (n_clips of the part, n_classes), and its epochs."""

    fold: ClipFold
    seed: int
    scores: Mapping[str, NDArray[Any]]
    selected_epoch: int
    log: Path


def write_class_tables(
    out: Path, members: Sequence[JudgedMember], data: ClipData, classes: ClipClasses
) -> None:
    """Write predictions.csv, a table for each stream, and curves.csv."""
    (out / "streams").mkdir(exist_ok=True)
    for head in ("fused", *STREAMS):
        table = _table(members, data, classes, head)
        if table is not None:
            name = "predictions" if head == "fused" else f"streams/{head}"
            write_predictions(out / f"{name}.csv", table)
    rows = [["fold", "seed", "epoch", *_CURVES, "selected"]]
    for member in members:
        for line in member.log.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            cells = [f"{row[key]:.6g}" for key in _CURVES]
            kept = str(int(row["epoch"] == member.selected_epoch))
            rows.append([member.fold.name, str(member.seed), str(row["epoch"]), *cells, kept])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_atomically(out / "curves.csv", buffer.getvalue())


def _table(
    members: Sequence[JudgedMember], data: ClipData, classes: ClipClasses, head: str
) -> Predictions | None:
    """Join what a head said of test clips; ``None`` where no test clip has the stream."""
    rows, scores, folds, seeds = [], [], [], []
    for member in members:
        said = member.scores[f"test.{head}"]
        there = np.isfinite(said).all(axis=1)
        rows += member.fold.test[there].tolist()
        scores.append(said[there])
        folds += [member.fold.name] * int(there.sum())
        seeds += [member.seed] * int(there.sum())
    if not rows:
        return None
    speakers = data.speakers if all(data.speakers) else ()
    return Predictions.of(
        [data.ids[row] for row in rows],
        [classes.names[classes.whole[row]] for row in rows],
        classes=classes.names,
        scores=np.concatenate(scores),
        speakers=[speakers[row] for row in rows] if speakers else None,
        corpora=[str(data.settings.get("corpus", ""))] * len(rows),
        folds=folds,
        seeds=seeds,
        extras={"transcript": [" ".join(data.texts[row].split()) for row in rows]},
        name=f"scores of the {head} head",
    )


def class_facts(
    data: ClipData,
    classes: ClipClasses,
    folds: Sequence[ClipFold],
    *,
    words: Sequence[str],
    speaker_independent: bool | None,
    split: Mapping[str, Any],
    label_source: str,
) -> dict[str, Any]:
    """Say what a report on emotion shows, as parts of run.json.

    Parameters
    ----------
    words
        What limits the claim.
    speaker_independent
        ``None``: nobody knows.
    split
        Its settings.
    label_source
        What heads of single streams learned.
    """
    corpus = str(data.settings.get("corpus", ""))
    known = bool(data.speakers) and all(data.speakers)
    by = {"speaker": "speaker", "group": "video"}[grouping(data, split["by"])]
    return {
        "labels": list(classes.names),
        "multi_label": False,
        "corpus": {
            "name": corpus,
            "title": corpus or "clips",
            "synthetic": corpus == "synthetic_clips",
            "n_utterances": len(data),
            "n_speakers": len(set(data.speakers)) if known else None,
        },
        "protocol": {
            **split,
            "split": "official" if split["kind"] == "official" else f"{by}_folds",
            "n_folds": len(folds),
            "selection": "best_dev",
            "speaker_independent": speaker_independent,
            "stream_heads": label_source,
            "warnings": list(words),
        },
    }


def left_out(n_read: int, n_kept: int) -> list[str]:
    """Say how many clips of other classes were left out, in a few words, if any were."""
    return [f"{n_read - n_kept} clips of other classes left out"] if n_read > n_kept else []


def stream_uars(out: Path) -> dict[str, float]:
    """Score each stream's own head by the tables of a run folder."""
    paths = {stream: out / "streams" / f"{stream}.csv" for stream in STREAMS}
    return {
        stream: score(read_predictions(path)).uar
        for stream, path in paths.items()
        if path.is_file()
    }


def class_card(
    run: Mapping[str, Any], metrics: Mapping[str, Any], streams: Mapping[str, float], *, chosen: str
) -> str:
    """Write the model card.

    Parameters
    ----------
    streams
        Stream -> UAR of its own head.
    chosen
        Which member the model is.
    """
    words = [word.upper() for word in run["protocol"]["warnings"]]
    warning = f"\n**{' · '.join(words)}**\n" if words else ""
    names, baseline = metrics["metric_names"], metrics["majority_baseline"]
    rows = "\n".join(
        f"| {names[key]} | {percent(spread['mean'])} | {percent(baseline.get(key))} |"
        for key, spread in metrics["pooled"].items()
    )
    heads = "\n".join(
        f"| UAR of the head of {name} alone | {percent(uar)} | |" for name, uar in streams.items()
    )
    learned = {"clip": "the class of the clip", "human": "what people named in it"}
    return f"""# {run["title"]}
{warning}
Tells {", ".join(run["labels"])} apart, from {", ".join(run["modalities"])}.
{run["n_parameters"]:,} trained parameters.

## How well

Test part, pooled over folds, mean over {len(run["seeds"])} seeds. This model is one of them,
{chosen}: the one with the lowest loss on its dev part.

| | score, % | always {baseline["label"]}, % |
|---|---|---|
{rows}
{heads}

Heads of single streams learned {learned[run["protocol"]["stream_heads"]]}. Classes and these heads
are serkit's: Self-MM is published for numbers, whose labels of streams are generated.

## Trained on

{run["data"]["n_clips"]} clips of {run["data"]["n_groups"]} videos, features of
{run["data"]["n_features"]} columns, fingerprint `{run["data"]["fingerprint"]}`; split:
{run["protocol"]["split"]}. A model inherits the cautions of its corpus's licence.

## Limits

It reads features of the kind it was trained on, and no others. A score is the model's belief about
the classes above, not a measurement of what a person feels; expect lower scores on other material
and other languages.

## Reproduce

Written by serkit {run["serkit_version"]} (commit {run["commit"] or "not known"}). The resolved
experiment is `config.json` in the run folder.
"""
