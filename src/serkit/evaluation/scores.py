"""A predictions table judged: pooled, per fold, per seed and per speaker.

*Pooled* means that the confusion counts of all folds are added and the metric is taken once, which
is how published cross-validation results of this field are computed; *fold-mean* averages the
metric over folds. The two differ for UAR as soon as folds differ in their class counts, so both
are given under their names, each with its spread: over seeds and over folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import (
    METRIC_NAMES,
    METRICS_OF_CONFUSION,
    ClassScores,
    Counts,
    MajorityBaseline,
    MetricName,
    class_scores,
    expected_calibration_error,
    grouped_confusions,
    majority_baseline,
)
from serkit.evaluation.predictions import Predictions

__all__ = ["GroupScores", "Scores", "Spread", "jsonable", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A mean with its sample standard deviation (``None`` for a single value)."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise values; the deviation divides by n - 1."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(mean=float(np.mean(values)), sd=sd, n=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScores:
    """Scores of one part of a table: a fold, a seed or a speaker.

    ``n_utterances`` counts utterances once however many seeds there are; ``absent`` names classes
    without an utterance in this part, over which its UAR cannot be taken.
    """

    name: str
    seed: int | None
    n_utterances: int
    uar: float
    war: float
    f1_macro: float
    f1_weighted: float
    uar_sd: float | None
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Everything that is said about a predictions table.

    Attributes
    ----------
    pooled
        Metric name -> mean and sd over seeds of the metric pooled over folds.
    fold_mean
        Metric name -> mean and sd over folds of the metric per fold (averaged over seeds).
    confusion : (n_classes, n_classes), counts added over folds and seeds, rows = truth
    per_class
        Precision, recall and F1 of that matrix; supports are counts of utterances.
    per_seed, per_fold, per_fold_seed, per_speaker
        Scores of the parts; folds and speakers averaged over seeds.
    calibration_error
        ``None`` where the table holds no scores.
    notes
        What is defined but suspicious, one sentence each.
    """

    classes: tuple[str, ...]
    n_utterances: int
    n_speakers: int
    n_folds: int
    seeds: tuple[int, ...]
    pooled: Mapping[MetricName, Spread]
    fold_mean: Mapping[MetricName, Spread]
    confusion: Counts
    per_class: tuple[ClassScores, ...]
    per_seed: tuple[GroupScores, ...]
    per_fold: tuple[GroupScores, ...]
    per_fold_seed: tuple[GroupScores, ...]
    per_speaker: tuple[GroupScores, ...]
    majority: MajorityBaseline
    calibration_error: float | None
    notes: tuple[str, ...]

    @property
    def uar(self) -> float:
        """Unweighted average recall, pooled over folds, mean over seeds."""
        return self.pooled["uar"].mean

    @property
    def war(self) -> float:
        """Accuracy, pooled over folds, mean over seeds."""
        return self.pooled["war"].mean

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON; NaN becomes ``None``."""
        plain: dict[str, Any] = jsonable(
            {
                "classes": self.classes,
                "n_utterances": self.n_utterances,
                "n_speakers": self.n_speakers,
                "n_folds": self.n_folds,
                "seeds": self.seeds,
                "metric_names": dict(METRIC_NAMES),
                "pooled": {name: asdict(value) for name, value in self.pooled.items()},
                "fold_mean": {name: asdict(value) for name, value in self.fold_mean.items()},
                "confusion": {"rows": "truth", "columns": "predicted", "counts": self.confusion},
                "per_class": [asdict(row) for row in self.per_class],
                "per_seed": [asdict(row) for row in self.per_seed],
                "per_fold": [asdict(row) for row in self.per_fold],
                "per_fold_seed": [asdict(row) for row in self.per_fold_seed],
                "per_speaker": [asdict(row) for row in self.per_speaker],
                "majority_baseline": asdict(self.majority),
                "expected_calibration_error": self.calibration_error,
                "notes": self.notes,
            }
        )
        return plain


def score(predictions: Predictions) -> Scores:
    """Judge a predictions table: pooled, per fold, per seed and per speaker.

    Pooled values add the confusion counts of all folds of one seed; their spread is over seeds.
    Fold-mean values average the metric over folds (each averaged over seeds first); their spread
    is over folds.
    """
    classes = predictions.classes
    n_classes = len(classes)
    truth, predicted = predictions.truth_index, predictions.predicted_index
    seeds = predictions.seed_values
    folds = predictions.fold_values
    seed_index = np.searchsorted(np.asarray(seeds), predictions.seeds)
    fold_index = codes_of(predictions.folds, folds)
    speakers = tuple(sorted(set(predictions.speakers.tolist()))) if predictions.has_speakers else ()

    cube = grouped_confusions(
        truth,
        predicted,
        fold_index * len(seeds) + seed_index,
        n_groups=len(folds) * len(seeds),
        n_classes=n_classes,
    ).reshape(len(folds), len(seeds), n_classes, n_classes)
    by_seed = cube.sum(axis=0)  # (n_seeds, n_classes, n_classes)
    confusion = by_seed.sum(axis=0)

    notes = list(predictions.notes)
    absent = [label for label, row in zip(classes, confusion, strict=True) if not row.sum()]
    if absent:
        notes.append(
            f"no test utterance of {', '.join(absent)}: UAR is the mean recall of the "
            f"{n_classes - len(absent)} classes that occur"
        )
    notes += uneven_seeds(predictions)
    per_fold = [
        _group(folds[f], cube[f], classes, seed=None, n_seeds=len(seeds)) for f in range(len(folds))
    ]
    holes = [group.name for group in per_fold if len(group.absent) > len(absent)]
    if len(folds) > 1 and holes:
        notes.append(
            f"{len(holes)} of {len(folds)} folds have no test utterance of some class (first: fold "
            f"{holes[0]}): their UAR is over the classes that occur, read the pooled one"
        )
    per_speaker: list[GroupScores] = []
    if speakers:
        speaker_index = codes_of(predictions.speakers, speakers)
        speaker_cube = grouped_confusions(
            truth,
            predicted,
            speaker_index * len(seeds) + seed_index,
            n_groups=len(speakers) * len(seeds),
            n_classes=n_classes,
        ).reshape(len(speakers), len(seeds), n_classes, n_classes)
        per_speaker = [
            _group(name, matrix, classes, seed=None, n_seeds=len(seeds))
            for name, matrix in zip(speakers, speaker_cube, strict=True)
        ]
        notes += scattered_speakers(predictions)
    n_utterances = len(set(predictions.keys))
    first_truth = dict(zip(predictions.keys, predictions.truth.tolist(), strict=True))
    return Scores(
        classes=classes,
        n_utterances=n_utterances,
        n_speakers=len(speakers),
        n_folds=len(folds),
        seeds=seeds,
        pooled={
            name: Spread.of(np.atleast_1d(metric(by_seed)).tolist())
            for name, metric in METRICS_OF_CONFUSION.items()
        },
        fold_mean={
            name: Spread.of([getattr(group, name) for group in per_fold])
            for name in METRICS_OF_CONFUSION
        },
        confusion=confusion,
        per_class=tuple(
            _with_support(row, list(first_truth.values()).count(row.label))
            for row in class_scores(confusion, classes)
        ),
        per_seed=tuple(
            _group(f"seed {seed}", by_seed[s : s + 1], classes, seed=seed, n_seeds=1)
            for s, seed in enumerate(seeds)
        ),
        per_fold=tuple(per_fold),
        per_fold_seed=tuple(
            _group(folds[f], cube[f, s : s + 1], classes, seed=seed, n_seeds=1)
            for f in range(len(folds))
            for s, seed in enumerate(seeds)
            if cube[f, s].sum()
        ),
        per_speaker=tuple(per_speaker),
        majority=majority_baseline(list(first_truth.values())),
        calibration_error=(
            None
            if predictions.scores is None
            else expected_calibration_error(predictions.scores, truth)
        ),
        notes=tuple(notes),
    )


def jsonable(value: Any) -> Any:
    """Turn arrays, tuples and NaN into what JSON knows, recursively."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def codes_of(labels: NDArray[np.str_], names: Sequence[str]) -> Counts:
    """Give each label the number of its name, (n_rows,)."""
    index = {name: number for number, name in enumerate(names)}
    return np.asarray([index[label] for label in labels.tolist()], dtype=np.int64)


def _group(
    name: str, cube: Counts, classes: tuple[str, ...], *, seed: int | None, n_seeds: int
) -> GroupScores:
    """Score one part from its confusion matrices, (n_seeds, n_classes, n_classes)."""
    used = cube[cube.sum(axis=(1, 2)) > 0]
    values = {key: metric(used) for key, metric in METRICS_OF_CONFUSION.items()}
    absent = tuple(
        label for label, n in zip(classes, used.sum(axis=(0, 2)).tolist(), strict=True) if not n
    )
    return GroupScores(
        name=name,
        seed=seed,
        n_utterances=int(used.sum(axis=(1, 2)).max()),
        uar=float(values["uar"].mean()),
        war=float(values["war"].mean()),
        f1_macro=float(values["f1_macro"].mean()),
        f1_weighted=float(values["f1_weighted"].mean()),
        uar_sd=float(values["uar"].std(ddof=1)) if n_seeds > 1 and len(used) > 1 else None,
        absent=absent,
    )


def _with_support(row: ClassScores, support: int) -> ClassScores:
    """Replace a support counted over seeds by the number of utterances."""
    return ClassScores(**(asdict(row) | {"support": support}))


def uneven_seeds(predictions: Predictions) -> list[str]:
    """Say when some seeds lack utterances that others have."""
    keys = np.asarray(predictions.keys)
    sets = {seed: set(keys[predictions.seeds == seed].tolist()) for seed in predictions.seed_values}
    everything = set().union(*sets.values())
    short = [
        f"seed {s} lacks {len(everything - ids)}" for s, ids in sets.items() if ids != everything
    ]
    if not short:
        return []
    return [f"seeds do not cover the same {len(everything)} utterances: {', '.join(short)}"]


def scattered_speakers(predictions: Predictions) -> list[str]:
    """Say when speakers are tested in several folds: then other folds trained on their voices."""
    folds: dict[str, set[str]] = {}
    for speaker, fold in zip(
        predictions.speakers.tolist(), predictions.folds.tolist(), strict=True
    ):
        folds.setdefault(speaker, set()).add(fold)
    n_scattered = sum(len(names) > 1 for names in folds.values())
    if not n_scattered:
        return []
    return [
        f"{n_scattered} of {len(folds)} speakers are tested in more than one fold: unless each "
        "fold left all their other utterances out of training, the result is speaker-dependent"
    ]
