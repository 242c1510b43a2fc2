r"""Scores of emotion classifiers, under both names that the field uses.

Conventions
-----------
Truth and prediction are sequences of labels (strings or integers) of equal length, one per
utterance, pooled over whatever is to be judged together. Confusion matrices have **rows = truth,
columns = prediction**; note that the workbooks of the original TIM-Net code are transposed. Values
are fractions in [0, 1]; reports print percent.

A class that never occurs in the truth has no recall. :func:`uar` averages over the classes that
do occur and warns, as scikit-learn's balanced accuracy does. Precision of a class that is never
predicted is 0, as in scikit-learn's reports.

Metrics
-------
* :func:`uar`: unweighted average recall (UAR, older papers: UA)
* :func:`war`: weighted average recall (WAR, older papers: WA) = accuracy
* :func:`f1_macro`, :func:`f1_weighted`, :func:`per_class`, :func:`confusion_matrix`
* :func:`majority_baseline`: what always naming the most frequent class scores
* :func:`expected_calibration_error`: gap between confidence and accuracy
* :func:`ccc`: concordance correlation of dimensional ratings

Utterances with several classes are judged by :mod:`serkit.evaluation.multilabel`.
:func:`serkit.evaluation.scores.score` takes all of them of a predictions table.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

__all__ = [
    "METRIC_NAMES",
    "ClassScores",
    "MajorityBaseline",
    "MetricName",
    "ccc",
    "confusion_matrix",
    "expected_calibration_error",
    "f1_macro",
    "f1_weighted",
    "majority_baseline",
    "per_class",
    "uar",
    "validate",
    "war",
]

Labels = Sequence[Hashable] | NDArray[Any]
Counts = NDArray[np.int64]
MetricName = Literal["uar", "war", "f1_macro", "f1_weighted"]

METRIC_NAMES: Mapping[MetricName, str] = {
    "uar": "UAR (UA)",
    "war": "WAR (WA, accuracy)",
    "f1_macro": "macro F1",
    "f1_weighted": "weighted F1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """Scores of one class; ``recall`` and ``f1`` are NaN where they are undefined."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    n_predicted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MajorityBaseline:
    """What a system scores that always names the most frequent class of the truth."""

    label: str
    uar: float
    war: float


def validate(truth: Labels, predicted: Labels) -> tuple[list[Hashable], list[Hashable]]:
    """Check two label sequences and return them as lists.

    Raises
    ------
    InputError
        If they are empty, differ in length, are nested, or hold a missing value.
    """
    lists = []
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if isinstance(labels, str):
            raise InputError(f"{name} is one string, '{labels}': give a sequence of labels")
        values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        for position, value in enumerate(values):
            if isinstance(value, (list, tuple, np.ndarray)):
                raise InputError(
                    f"{name} is nested at position {position}: give one label per utterance, "
                    "not scores (take the class with the highest score first)"
                )
            if value is None or value != value:
                raise InputError(f"{name} has no label at position {position} (got {value})")
        lists.append(values)
    if len(lists[0]) != len(lists[1]):
        raise InputError(
            f"{len(lists[0])} true labels but {len(lists[1])} predicted ones: give one of each per "
            "utterance, in the same order"
        )
    if not lists[0]:
        raise InputError("no labels: a metric needs at least one utterance")
    return lists[0], lists[1]


def confusion_matrix(
    truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None
) -> Counts:
    r"""Count how often each true class was predicted as each class.

    .. math:: C_{kl} = |\{i : y_i = k, \hat y_i = l\}|

    Parameters
    ----------
    truth, predicted
        One label per utterance.
    classes
        Order of rows and columns; ``None``: all labels that occur, sorted.

    Returns
    -------
    counts : (n_classes, n_classes), rows = truth, columns = prediction

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    >>> confusion_matrix(["sad", "sad", "happy"], ["sad", "happy", "happy"])
    array([[1, 0],
           [1, 1]])
    """
    return _counted(truth, predicted, classes)[0]


def uar(truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None) -> float:
    r"""Unweighted average recall (UAR, also UA): every class counts the same, however rare.

    .. math:: \mathrm{UAR} = \frac{1}{K} \sum_{k=1}^{K} \frac{C_{kk}}{\sum_l C_{kl}}

    over the K classes that occur in the truth. Equal to macro recall and balanced accuracy.

    Citation: B. Schuller, S. Steidl, A. Batliner, "The INTERSPEECH 2009 Emotion Challenge", Proc.
    Interspeech 2009, which made it the measure of the field.

    Parameters
    ----------
    truth, predicted
        One label per utterance.
    classes
        The label space; one that is absent from the truth is left out of the mean with a warning.

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    Three of four right, but only one of the two classes' recalls is 1:

    >>> round(uar(["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"]), 4)
    0.8333
    """
    counts, names = _counted(truth, predicted, classes)
    absent = [str(name) for name, row in zip(names, counts, strict=True) if not row.sum()]
    if absent:
        warnings.warn(
            f"no utterance of {', '.join(absent)} in the truth: UAR is the mean recall of the "
            f"{len(names) - len(absent)} classes that occur",
            stacklevel=2,
        )
    return float(uar_of(counts))


def war(truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None) -> float:
    r"""Weighted average recall (WAR, also WA): recalls weighted by class size, i.e. accuracy.

    .. math:: \mathrm{WAR} = \sum_k \frac{N_k}{N} \frac{C_{kk}}{N_k} = \frac{1}{N} \sum_k C_{kk}

    Citation: as for :func:`uar`.

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    >>> war(["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"])
    0.75
    """
    return float(war_of(_counted(truth, predicted, classes)[0]))


def f1_macro(
    truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None
) -> float:
    r"""Mean over classes of F1, the harmonic mean of precision and recall.

    .. math:: F_1 = \frac{1}{K} \sum_k \frac{2 C_{kk}}{\sum_l C_{kl} + \sum_l C_{lk}}

    over classes that occur in truth or prediction (the mean of F1s, not the F1 of means).

    Citation: J. Opitz, S. Burst, "Macro F1 and Macro F1", arXiv:1911.03347, on the two readings.

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    >>> round(f1_macro(["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"]), 4)
    0.7333
    """
    return float(f1_macro_of(_counted(truth, predicted, classes)[0]))


def f1_weighted(
    truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None
) -> float:
    r"""F1 of each class weighted by its share of the truth.

    .. math:: F_1^w = \sum_k \frac{N_k}{N} \frac{2 C_{kk}}{\sum_l C_{kl} + \sum_l C_{lk}}

    Citation: as for :func:`f1_macro`.

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    >>> round(f1_weighted(["sad", "sad", "sad", "happy"], ["sad", "sad", "happy", "happy"]), 4)
    0.7667
    """
    return float(f1_weighted_of(_counted(truth, predicted, classes)[0]))


def per_class(
    truth: Labels, predicted: Labels, *, classes: Sequence[Hashable] | None = None
) -> tuple[ClassScores, ...]:
    r"""Precision, recall, F1 and support of each class, in class order.

    .. math:: P_k = \frac{C_{kk}}{\sum_l C_{lk}} \quad R_k = \frac{C_{kk}}{\sum_l C_{kl}}

    Precision of a class that is never predicted is 0; recall of one that never occurs is NaN.

    Citation: C. J. van Rijsbergen, "Information Retrieval", 2nd ed., Butterworths 1979, ch. 7.

    Raises
    ------
    InputError
        If the sequences do not match or hold a label that is not among ``classes``.

    Examples
    --------
    >>> happy, sad = per_class(["sad", "sad", "happy"], ["sad", "happy", "happy"])
    >>> happy.precision, happy.recall, sad.precision, sad.support
    (0.5, 1.0, 1.0, 2)
    """
    counts, names = _counted(truth, predicted, classes)
    return class_scores(counts, tuple(str(name) for name in names))


def majority_baseline(truth: Labels) -> MajorityBaseline:
    r"""Score of the system that has learnt nothing but the most frequent class.

    .. math:: \mathrm{WAR}_0 = \max_k N_k / N \qquad \mathrm{UAR}_0 = 1 / K

    Ties go to the first class in sorted order.

    Raises
    ------
    InputError
        If there are no labels.

    Examples
    --------
    >>> majority_baseline(["sad", "sad", "sad", "happy"])
    MajorityBaseline(label='sad', uar=0.5, war=0.75)
    """
    labels, _ = validate(truth, truth)
    names = _sorted_labels(labels)
    support = [labels.count(name) for name in names]
    best = int(np.argmax(support))
    return MajorityBaseline(
        label=str(names[best]), uar=1 / len(names), war=support[best] / len(labels)
    )


def expected_calibration_error(
    scores: NDArray[np.floating], truth_index: Sequence[int] | NDArray[np.integer], n_bins: int = 15
) -> float:
    r"""Mean gap between how sure a system is and how often it is right (ECE).

    .. math:: \mathrm{ECE} = \sum_b \frac{|B_b|}{N} | \mathrm{acc}(B_b) - \mathrm{conf}(B_b) |

    over equally wide bins of the highest score, each closed on the right.

    Citation: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017, eq. 3; 15 bins as there.

    Parameters
    ----------
    scores : (n_utterances, n_classes), in [0, 1]
    truth_index : (n_utterances,), index of the true class
    n_bins
        Number of bins, at least 1.

    Raises
    ------
    InputError
        If the shapes do not match or a score lies outside [0, 1].

    Examples
    --------
    Always 80 % sure, right every second time:

    >>> expected_calibration_error(np.array([[0.8, 0.2], [0.8, 0.2]]), [0, 1])
    0.3
    """
    bins = reliability(scores, truth_index, n_bins)
    share = bins.n / bins.n.sum()
    gaps = np.abs(np.nan_to_num(bins.accuracy) - np.nan_to_num(bins.confidence))
    return float(round(float((share * gaps).sum()), 12))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Bins of a reliability diagram; accuracy and confidence of an empty bin are NaN."""

    edges: NDArray[np.float64]
    n: Counts
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]


def reliability(
    scores: NDArray[np.floating], truth_index: Sequence[int] | NDArray[np.integer], n_bins: int = 15
) -> Reliability:
    """Group utterances by their highest score; see :func:`expected_calibration_error`.

    Raises
    ------
    InputError
        If the shapes do not match or a score lies outside [0, 1].
    """
    scores = np.asarray(scores, dtype=np.float64)
    target = np.asarray(truth_index, dtype=np.int64)
    if scores.ndim != 2 or target.shape != scores.shape[:1] or not len(scores):
        raise InputError(
            f"scores of shape {scores.shape} and true indices of shape {target.shape}: expected "
            "(n_utterances, n_classes) and (n_utterances,)"
        )
    if n_bins < 1:
        raise InputError(f"{n_bins} bins: calibration needs at least one")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1 + 1e-6):
        raise InputError(
            "scores outside [0, 1] or not finite: calibration needs probabilities, apply softmax "
            "to logits first"
        )
    confidence = np.minimum(scores.max(axis=1), 1.0)
    right = scores.argmax(axis=1) == target
    edges = np.linspace(0, 1, n_bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    n = np.bincount(index, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(index, weights=right, minlength=n_bins) / n
        mean_confidence = np.bincount(index, weights=confidence, minlength=n_bins) / n
    return Reliability(edges=edges, n=n, accuracy=accuracy, confidence=mean_confidence)


def ccc(truth: Sequence[float] | NDArray[Any], predicted: Sequence[float] | NDArray[Any]) -> float:
    r"""Concordance correlation coefficient of one dimension (arousal, valence or dominance).

    .. math:: \rho_c = \frac{2 s_{xy}}{s_x^2 + s_y^2 + (\bar x - \bar y)^2}

    with variances that divide by N. It is 1 only for equal values: unlike Pearson's correlation it
    punishes a wrong scale or offset. Take it once over a whole test part, never averaged over
    batches. Two constant, equal sequences give 1; a constant prediction otherwise gives 0.

    Citation: L. I.-K. Lin, "A Concordance Correlation Coefficient to Evaluate Reproducibility",
    Biometrics 45(1), 1989, 255-268.

    Parameters
    ----------
    truth, predicted : (n_utterances,)

    Raises
    ------
    InputError
        If the sequences are empty, differ in shape or hold values that are not finite.

    Examples
    --------
    >>> ccc([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    1.0
    >>> round(ccc([0.1, 0.5, 0.9], [0.3, 0.5, 0.7]), 4)
    0.8
    """
    x = np.asarray(truth, dtype=np.float64)
    y = np.asarray(predicted, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise InputError(
            f"ratings of shape {x.shape} and predictions of shape {y.shape}: expected one of each "
            "per utterance"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("ratings or predictions hold values that are not finite")
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    spread = float(x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    return 1.0 if spread == 0 else 2 * covariance / spread


def grouped_confusions(
    truth: Counts, predicted: Counts, group: Counts, *, n_groups: int, n_classes: int
) -> Counts:
    """Count one confusion matrix per group in a single pass: (n_groups, n_classes, n_classes)."""
    flat = (group * n_classes + truth) * n_classes + predicted
    counts = np.bincount(flat, minlength=n_groups * n_classes * n_classes)
    return counts.reshape(n_groups, n_classes, n_classes)


def uar_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """UAR of confusion matrices, (..., n_classes, n_classes) -> (...); NaN without any count."""
    support = confusion.sum(axis=-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    present = support > 0
    recall = np.divide(right, support, out=np.zeros(right.shape), where=present)
    return ratio(recall.sum(axis=-1), present.sum(axis=-1))


def war_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """WAR of confusion matrices, (..., n_classes, n_classes) -> (...)."""
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return ratio(right, confusion.sum(axis=(-2, -1)))


def f1_macro_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Macro F1 of confusion matrices, (..., n_classes, n_classes) -> (...)."""
    f1, seen = _f1(confusion)
    return ratio(f1.sum(axis=-1), seen.sum(axis=-1))


def f1_weighted_of(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Weighted F1 of confusion matrices, (..., n_classes, n_classes) -> (...)."""
    f1, _ = _f1(confusion)
    support = confusion.sum(axis=-1)
    return ratio((f1 * support).sum(axis=-1), support.sum(axis=-1))


METRICS_OF_CONFUSION: Mapping[MetricName, Callable[[NDArray[Any]], NDArray[np.float64]]] = {
    "uar": uar_of,
    "war": war_of,
    "f1_macro": f1_macro_of,
    "f1_weighted": f1_weighted_of,
}


def metric_of_confusion(name: str) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    """Look up a metric by name.

    Raises
    ------
    InputError
        If there is no metric of that name.
    """
    for known, metric in METRICS_OF_CONFUSION.items():
        if name == known:
            return metric
    raise InputError(f"no metric '{name}', expected one of {', '.join(get_args(MetricName))}")


def class_scores(confusion: Counts, classes: tuple[str, ...]) -> tuple[ClassScores, ...]:
    """Read precision, recall and F1 of each class off a confusion matrix."""
    f1, seen = _f1(confusion)
    rows = []
    for index, label in enumerate(classes):
        right = int(confusion[index, index])
        support, n_predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        rows.append(
            ClassScores(
                label=label,
                precision=right / n_predicted if n_predicted else 0.0,
                recall=right / support if support else math.nan,
                f1=float(f1[index]) if seen[index] else math.nan,
                support=support,
                n_predicted=n_predicted,
            )
        )
    return tuple(rows)


def row_shares(confusion: Counts) -> NDArray[np.float64]:
    """Divide each row of a confusion matrix by its sum; rows without a count stay 0."""
    support = confusion.sum(axis=-1, keepdims=True)
    shares = np.zeros(confusion.shape, dtype=np.float64)
    np.divide(confusion, support, out=shares, where=support > 0)
    return shares


def _counted(
    truth: Labels, predicted: Labels, classes: Sequence[Hashable] | None
) -> tuple[Counts, list[Hashable]]:
    true_labels, predicted_labels = validate(truth, predicted)
    if classes is None:
        names = _sorted_labels(true_labels + predicted_labels)
    else:
        names = list(classes)
    index = {name: number for number, name in enumerate(names)}
    for column, labels in (("true", true_labels), ("predicted", predicted_labels)):
        unknown = next((label for label in labels if label not in index), None)
        if unknown is not None:
            raise InputError(
                f"{column} label '{unknown}' is not among the classes "
                f"{', '.join(str(name) for name in names)}"
            )
    counts = grouped_confusions(
        np.asarray([index[label] for label in true_labels], dtype=np.int64),
        np.asarray([index[label] for label in predicted_labels], dtype=np.int64),
        np.zeros(len(true_labels), dtype=np.int64),
        n_groups=1,
        n_classes=len(names),
    )
    return counts[0], names


def _sorted_labels(labels: list[Hashable]) -> list[Hashable]:
    try:
        return sorted(set(labels))  # type: ignore[type-var]
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise InputError(
            f"labels of different kinds ({', '.join(kinds)}): use strings or integers throughout"
        ) from None


def _f1(confusion: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """F1 of each class and whether the class occurs in truth or prediction."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    seen = total > 0
    return np.divide(2 * right, total, out=np.zeros(right.shape), where=seen), seen


def ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide element by element; NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator)
    shares = np.full(numerator.shape, math.nan, dtype=np.float64)
    np.divide(numerator, denominator, out=shares, where=denominator > 0)
    return shares
