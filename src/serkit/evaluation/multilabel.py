r"""Scores of systems that may give an utterance several emotions, or none.

Conventions
-----------
Truth and prediction are boolean arrays, (n_utterances, n_classes): whether the utterance has the
class. Each class is a question of its own, answered yes or no, so there is a sensitivity (the share
of yes that is found, its *recall*) and a specificity (the share of no that is left alone).

A class that no utterance has, has no recall: means over classes are over those that occur. A class
that every utterance has, has no specificity; its two-class UAR is its recall alone. Precision of a
class that is never named is 0.

Metrics
-------
* :func:`mean_recall`: mean of the classes' recalls, the UA of multi-label papers. Naming every
  class every time makes it 1, so it says nothing without one of the others.
* :func:`exact_match`: share of utterances whose set is right as a whole, their WA
* :func:`binary_uar`: mean of the classes' two-class UARs. The two-class UAR, the mean of
  sensitivity and specificity, is what the literature on CMU-MOSEI calls *weighted accuracy*;
  chance is one half.
* :func:`macro_f1`: mean of the classes' F1
* :func:`set_class_scores`: each class by itself
* :func:`majority_set`: what always giving the most frequent set scores

:func:`score_sets` takes all of them of a predictions table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import Counts, ratio
from serkit.evaluation.predictions import Predictions, join_classes
from serkit.evaluation.scores import Spread, codes_of, jsonable, scattered_speakers, uneven_seeds
from serkit.evaluation.significance import Interval, interval_of_counts
from serkit.types import InputError

__all__ = [
    "SET_METRIC_NAMES",
    "MajoritySet",
    "SetClassScores",
    "SetGroup",
    "SetMetricName",
    "SetScores",
    "binary_uar",
    "exact_match",
    "macro_f1",
    "majority_set",
    "mean_recall",
    "score_sets",
    "set_class_scores",
    "set_interval",
]

Sets = NDArray[np.bool_]
SetMetricName = Literal["mean_recall", "exact_match", "binary_uar", "f1_macro"]

SET_METRIC_NAMES: Mapping[SetMetricName, str] = {
    "mean_recall": "mean recall (UA)",
    "exact_match": "exact match (WA)",
    "binary_uar": "two-class UAR (MOSEI weighted accuracy)",
    "f1_macro": "macro F1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SetClassScores:
    """Scores of one class against all others; NaN where undefined.

    ``uar`` is the two-class UAR, the mean of ``recall`` (sensitivity) and ``specificity``;
    ``support`` is the number of utterances that have the class.
    """

    label: str
    precision: float
    recall: float
    specificity: float
    uar: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MajoritySet:
    """What a system scores that always gives the most frequent set of the truth."""

    label: str
    mean_recall: float
    exact_match: float
    binary_uar: float
    f1_macro: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGroup:
    """Scores of one part of a table: a fold or a seed; ``absent`` names classes nobody has."""

    name: str
    seed: int | None
    n_utterances: int
    mean_recall: float
    exact_match: float
    binary_uar: float
    f1_macro: float
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetScores:
    """Everything that is said about a multi-label predictions table.

    Attributes
    ----------
    pooled
        Metric name -> mean and sd over seeds of the metric pooled over folds.
    fold_mean
        Metric name -> mean and sd over folds of the metric per fold (averaged over seeds).
    per_class
        From counts added over folds and seeds; supports are counts of utterances.
    per_seed, per_fold, per_fold_seed
        Scores of the parts; folds averaged over seeds.
    n_true, n_predicted
        Mean number of classes of an utterance, and of those the system gives it.
    share_empty
        Share of the utterances that the system gives no class.
    notes
        What is defined but suspicious, one sentence each.
    """

    classes: tuple[str, ...]
    n_utterances: int
    n_speakers: int
    n_folds: int
    seeds: tuple[int, ...]
    pooled: Mapping[SetMetricName, Spread]
    fold_mean: Mapping[SetMetricName, Spread]
    per_class: tuple[SetClassScores, ...]
    per_seed: tuple[SetGroup, ...]
    per_fold: tuple[SetGroup, ...]
    per_fold_seed: tuple[SetGroup, ...]
    majority: MajoritySet
    n_true: float
    n_predicted: float
    share_empty: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON; NaN becomes ``None``."""
        plain: dict[str, Any] = jsonable(
            {
                "multi_label": True,
                "classes": self.classes,
                "n_utterances": self.n_utterances,
                "n_speakers": self.n_speakers,
                "n_folds": self.n_folds,
                "seeds": self.seeds,
                "metric_names": dict(SET_METRIC_NAMES),
                "pooled": {name: asdict(value) for name, value in self.pooled.items()},
                "fold_mean": {name: asdict(value) for name, value in self.fold_mean.items()},
                "per_class": [asdict(row) for row in self.per_class],
                "per_seed": [asdict(row) for row in self.per_seed],
                "per_fold": [asdict(row) for row in self.per_fold],
                "per_fold_seed": [asdict(row) for row in self.per_fold_seed],
                "majority_baseline": asdict(self.majority),
                "classes_per_utterance": {"truth": self.n_true, "predicted": self.n_predicted},
                "share_empty": self.share_empty,
                "notes": self.notes,
            }
        )
        return plain


def mean_recall(truth: Sets, predicted: Sets) -> float:
    r"""Mean over classes of the share of their utterances that is found (UA).

    .. math:: \frac{1}{K} \sum_k \frac{TP_k}{TP_k + FN_k}

    over the K classes that occur in the truth.

    Citation: M.-L. Zhang, Z.-H. Zhou, "A Review on Multi-Label Learning Algorithms", IEEE TKDE
    26(8), 2014, sec. 2.2 (macro-averaged recall).

    Parameters
    ----------
    truth, predicted : (n_utterances, n_classes), bool

    Raises
    ------
    InputError
        If the shapes differ, there is no row, or an utterance has no class.

    Examples
    --------
    >>> truth = np.array([[True, True], [True, False]])
    >>> mean_recall(truth, np.array([[True, False], [True, False]]))
    0.5
    """
    return float(_mean_recall_of(_counted(truth, predicted)))


def exact_match(truth: Sets, predicted: Sets) -> float:
    r"""Share of utterances whose whole set is right (subset accuracy, WA).

    .. math:: \frac{1}{N} \sum_i [Y_i = \hat Y_i]

    Citation: as for :func:`mean_recall` (subset accuracy).

    Parameters
    ----------
    truth, predicted : (n_utterances, n_classes), bool

    Raises
    ------
    InputError
        If the shapes differ, there is no row, or an utterance has no class.

    Examples
    --------
    >>> truth = np.array([[True, True], [True, False]])
    >>> exact_match(truth, np.array([[True, False], [True, False]]))
    0.5
    """
    return float(_exact_match_of(_counted(truth, predicted)))


def binary_uar(truth: Sets, predicted: Sets) -> float:
    r"""Mean over classes of the two-class UAR, the *weighted accuracy* of the MOSEI literature.

    .. math:: \frac{1}{K} \sum_k \frac12
        \left( \frac{TP_k}{TP_k + FN_k} + \frac{TN_k}{TN_k + FP_k} \right)

    over the K classes that occur in the truth.

    Citation: A. Zadeh, P. P. Liang, S. Poria, E. Cambria, L.-P. Morency, "Multimodal Language
    Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph", ACL 2018, who
    take the name from E. Tong et al., ACL 2017.

    Parameters
    ----------
    truth, predicted : (n_utterances, n_classes), bool

    Raises
    ------
    InputError
        If the shapes differ, there is no row, or an utterance has no class.

    Examples
    --------
    Naming every class every time is worth no more than chance:

    >>> truth = np.array([[True, False], [False, True]])
    >>> binary_uar(truth, np.ones((2, 2), dtype=bool))
    0.5
    """
    return float(_binary_uar_of(_counted(truth, predicted)))


def macro_f1(truth: Sets, predicted: Sets) -> float:
    r"""Mean over classes of F1, the harmonic mean of precision and recall.

    .. math:: \frac{1}{K} \sum_k \frac{2 TP_k}{2 TP_k + FP_k + FN_k}

    over classes that occur in truth or prediction.

    Citation: as for :func:`mean_recall` (macro-averaged F1).

    Parameters
    ----------
    truth, predicted : (n_utterances, n_classes), bool

    Raises
    ------
    InputError
        If the shapes differ, there is no row, or an utterance has no class.

    Examples
    --------
    >>> truth = np.array([[True, True], [True, False]])
    >>> macro_f1(truth, np.array([[True, False], [True, False]]))
    0.5
    """
    return float(_macro_f1_of(_counted(truth, predicted)))


def set_class_scores(
    truth: Sets, predicted: Sets, classes: tuple[str, ...]
) -> tuple[SetClassScores, ...]:
    """Score each class against all others, in class order.

    Parameters
    ----------
    truth, predicted : (n_utterances, n_classes), bool
    classes
        Names of the columns.

    Raises
    ------
    InputError
        If the shapes differ, there is no row, or an utterance has no class.

    Examples
    --------
    >>> truth = np.array([[True, True], [True, False], [False, True], [False, True]])
    >>> predicted = np.array([[True, False], [True, False], [True, True], [False, True]])
    >>> happy, sad = set_class_scores(truth, predicted, ("happy", "sad"))
    >>> happy.recall, happy.specificity, happy.uar, happy.support
    (1.0, 0.5, 0.75, 2)
    >>> sad.precision, round(sad.f1, 4)
    (1.0, 0.8)
    """
    support = np.asarray(truth).sum(axis=0)
    return _class_scores_of(_counted(truth, predicted), classes, support)


def majority_set(truth: Sets, classes: tuple[str, ...]) -> MajoritySet:
    """Score the system that has learnt nothing but the most frequent set of the truth.

    Ties go to the first set in alphabetical order.

    Parameters
    ----------
    truth : (n_utterances, n_classes), bool
    classes
        Names of the columns.

    Raises
    ------
    InputError
        If there is no row, or an utterance has no class.

    Examples
    --------
    >>> truth = np.array([[True, True], [True, False], [True, False]])
    >>> majority_set(truth, ("happy", "sad")).label
    'happy'
    """
    names = np.asarray(join_classes(truth, classes))
    distinct, first, counts = np.unique(names, return_index=True, return_counts=True)
    best = int(counts.argmax())
    values = _values(_counted(truth, np.broadcast_to(truth[first[best]], truth.shape)))
    return MajoritySet(label=str(distinct[best]), **{key: float(v) for key, v in values.items()})


def score_sets(predictions: Predictions) -> SetScores:
    """Judge a multi-label predictions table: pooled, per class, per fold and per seed.

    Pooling and means over folds are those of :func:`serkit.evaluation.scores.score`.

    Raises
    ------
    InputError
        If the table is not multi-label.
    """
    _refuse_single_label(predictions)
    classes, seeds, folds = predictions.classes, predictions.seed_values, predictions.fold_values
    truth, predicted = predictions.truth_sets, predictions.predicted_sets
    fold_index = codes_of(predictions.folds, folds)
    seed_index = np.searchsorted(np.asarray(seeds), predictions.seeds)
    counts = _summed(
        _outcomes(truth, predicted),
        fold_index * len(seeds) + seed_index,
        n_groups=len(folds) * len(seeds),
    ).reshape(len(folds), len(seeds), -1)
    by_seed = counts.sum(axis=0)  # (n_seeds, n_outcomes)
    per_fold = tuple(_group(fold, counts[f], classes) for f, fold in enumerate(folds))
    _, first_rows = np.unique(np.asarray(predictions.keys), return_index=True)
    once = truth[np.sort(first_rows)]  # each utterance once, however many seeds
    pooled = _values(by_seed)
    n_speakers = len(set(predictions.speakers.tolist())) if predictions.has_speakers else 0
    return SetScores(
        classes=classes,
        n_utterances=len(once),
        n_speakers=n_speakers,
        n_folds=len(folds),
        seeds=seeds,
        pooled={name: Spread.of(values.tolist()) for name, values in pooled.items()},
        fold_mean={
            name: Spread.of([getattr(group, name) for group in per_fold])
            for name in SET_METRIC_NAMES
        },
        per_class=_class_scores_of(by_seed.sum(axis=0), classes, once.sum(axis=0)),
        per_seed=tuple(
            _group(f"seed {seed}", by_seed[s : s + 1], classes, seed=seed)
            for s, seed in enumerate(seeds)
        ),
        per_fold=per_fold,
        per_fold_seed=tuple(
            _group(fold, counts[f, s : s + 1], classes, seed=seed)
            for f, fold in enumerate(folds)
            for s, seed in enumerate(seeds)
            if counts[f, s].any()
        ),
        majority=majority_set(once, classes),
        n_true=float(once.sum(axis=1).mean()),
        n_predicted=float(predicted.sum(axis=1).mean()),
        share_empty=float((~predicted.any(axis=1)).mean()),
        notes=(*predictions.notes, *_notes(predictions, once, predicted, per_fold)),
    )


def set_interval(
    predictions: Predictions, metric: SetMetricName, *, n: int = 2000, seed: int = 0
) -> Interval:
    """Interval of a pooled multi-label score under resampling of speakers.

    Parameters
    ----------
    metric
        A key of :data:`SET_METRIC_NAMES`.
    n, seed
        As in :func:`serkit.evaluation.significance.bootstrap_interval`.

    Raises
    ------
    InputError
        If the metric is unknown or the table is not multi-label.
    """
    if metric not in _METRICS_OF_COUNTS:
        raise InputError(f"no metric '{metric}', expected one of {', '.join(SET_METRIC_NAMES)}")
    _refuse_single_label(predictions)
    return interval_of_counts(
        predictions,
        partial(_cluster_counts, predictions),
        _METRICS_OF_COUNTS[metric],
        metric=metric,
        n=n,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _Tally:
    """Counts by name: per class (..., n_classes), and of whole sets (...)."""

    hits: NDArray[Any]
    false_alarms: NDArray[Any]
    misses: NDArray[Any]
    exact: NDArray[Any]
    n: NDArray[Any]

    @classmethod
    def of(cls, counts: NDArray[Any]) -> _Tally:
        """Take (sums of) rows of :func:`_outcomes` apart."""
        n_classes = (counts.shape[-1] - 2) // 3
        hits, false_alarms, misses = (
            counts[..., k * n_classes : (k + 1) * n_classes] for k in range(3)
        )
        return cls(hits, false_alarms, misses, counts[..., -2], counts[..., -1])

    @property
    def positives(self) -> NDArray[Any]:
        return np.asarray(self.hits + self.misses)

    @property
    def negatives(self) -> NDArray[Any]:
        return np.asarray(self.n[..., None] - self.positives)

    @property
    def recall(self) -> NDArray[np.float64]:
        return ratio(self.hits, self.positives)

    @property
    def specificity(self) -> NDArray[np.float64]:
        return ratio(self.negatives - self.false_alarms, self.negatives)

    @property
    def uar(self) -> NDArray[np.float64]:
        specificity = self.specificity
        return np.where(np.isnan(specificity), self.recall, (self.recall + specificity) / 2)

    @property
    def f1(self) -> NDArray[np.float64]:
        return ratio(2 * self.hits, 2 * self.hits + self.false_alarms + self.misses)


def _mean_recall_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    return _mean_over_classes(_Tally.of(counts).recall)


def _exact_match_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    return ratio(_Tally.of(counts).exact, _Tally.of(counts).n)


def _binary_uar_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    return _mean_over_classes(_Tally.of(counts).uar)


def _macro_f1_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    return _mean_over_classes(_Tally.of(counts).f1)


_METRICS_OF_COUNTS: Mapping[SetMetricName, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "mean_recall": _mean_recall_of,
    "exact_match": _exact_match_of,
    "binary_uar": _binary_uar_of,
    "f1_macro": _macro_f1_of,
}


def _mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the classes that have a value; NaN where none has."""
    return ratio(np.nan_to_num(values).sum(axis=-1), np.isfinite(values).sum(axis=-1))


def _values(counts: NDArray[Any]) -> dict[SetMetricName, NDArray[np.float64]]:
    return {name: metric(counts) for name, metric in _METRICS_OF_COUNTS.items()}


def _outcomes(truth: Sets, predicted: Sets) -> Counts:
    """Count what each row adds to the scores, (n_rows, 3 * n_classes + 2).

    Hits, false alarms and misses of every class, whether the set is right as a whole, and 1.
    """
    exact = (truth == predicted).all(axis=1, keepdims=True)
    ones = np.ones_like(exact)
    columns = (truth & predicted, ~truth & predicted, truth & ~predicted, exact, ones)
    return np.asarray(np.concatenate(columns, axis=1), dtype=np.int64)


def _counted(truth: Sets, predicted: Sets) -> Counts:
    """Check two arrays and add up their outcomes, (n_outcomes,)."""
    truth, predicted = np.asarray(truth, dtype=np.bool_), np.asarray(predicted, dtype=np.bool_)
    if truth.ndim != 2 or truth.shape != predicted.shape or not len(truth):
        raise InputError(
            f"true sets of shape {truth.shape} and predicted ones of shape {predicted.shape}: "
            "expected (n_utterances, n_classes) for both"
        )
    empty = np.flatnonzero(~truth.any(axis=1))
    if len(empty):
        raise InputError(
            f"utterance {empty[0]} has no class ({len(empty)} of {len(truth)} have none): give a "
            "class of its own, such as neutral, to utterances without emotion"
        )
    return np.asarray(_outcomes(truth, predicted).sum(axis=0))


def _summed(outcomes: Counts, group: Counts, *, n_groups: int) -> Counts:
    """Add up the rows of each group, (n_groups, n_outcomes)."""
    columns = [np.bincount(group, weights=column, minlength=n_groups) for column in outcomes.T]
    return np.stack(columns, axis=1).astype(np.int64)


def _cluster_counts(predictions: Predictions, codes: Counts, n_clusters: int) -> Counts:
    """Outcomes of each cluster and seed, (n_clusters, n_seeds, n_outcomes)."""
    seeds = np.asarray(predictions.seed_values)
    return _summed(
        _outcomes(predictions.truth_sets, predictions.predicted_sets),
        codes * len(seeds) + np.searchsorted(seeds, predictions.seeds),
        n_groups=n_clusters * len(seeds),
    ).reshape(n_clusters, len(seeds), -1)


def _class_scores_of(
    counts: Counts, classes: tuple[str, ...], support: Counts
) -> tuple[SetClassScores, ...]:
    tally = _Tally.of(counts)
    named = tally.hits + tally.false_alarms
    return tuple(
        SetClassScores(
            label=label,
            precision=float(tally.hits[k] / named[k]) if named[k] else 0.0,
            recall=float(tally.recall[k]),
            specificity=float(tally.specificity[k]),
            uar=float(tally.uar[k]),
            f1=float(tally.f1[k]),
            support=int(support[k]),
        )
        for k, label in enumerate(classes)
    )


def _group(
    name: str, counts: Counts, classes: tuple[str, ...], *, seed: int | None = None
) -> SetGroup:
    """Score one part from its outcomes, (n_seeds, n_outcomes)."""
    used = counts[counts.any(axis=1)]
    positives = _Tally.of(used).positives.sum(axis=0)
    return SetGroup(
        name=name,
        seed=seed,
        n_utterances=int(_Tally.of(used).n.max()),
        **{key: float(values.mean()) for key, values in _values(used).items()},
        absent=tuple(label for label, n in zip(classes, positives, strict=True) if not n),
    )


def _notes(
    predictions: Predictions, truth: Sets, predicted: Sets, per_fold: tuple[SetGroup, ...]
) -> list[str]:
    classes = np.asarray(predictions.classes)
    notes = []
    absent = classes[~truth.any(axis=0)].tolist()
    if absent:
        notes.append(
            f"no test utterance has {', '.join(absent)}: means are over the "
            f"{len(classes) - len(absent)} classes that occur"
        )
    never = classes[truth.any(axis=0) & ~predicted.any(axis=0)].tolist()
    if never:
        notes.append(f"{', '.join(never)} is never given: no score of it passes 0.5")
    holes = [group.name for group in per_fold if len(group.absent) > len(absent)]
    if len(per_fold) > 1 and holes:
        notes.append(
            f"{len(holes)} of {len(per_fold)} folds have no test utterance of some class (first: "
            f"fold {holes[0]}): their means are over the classes that occur, read the pooled ones"
        )
    notes += uneven_seeds(predictions)
    if predictions.has_speakers:
        notes += scattered_speakers(predictions)
    return notes


def _refuse_single_label(predictions: Predictions) -> None:
    if not predictions.multi_label:
        raise InputError(
            "the predictions have one class per utterance: multi-label scores need a table with a "
            "column 'truth_set'"
        )
