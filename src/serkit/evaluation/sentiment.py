"""Scores of systems that say how negative or positive a clip is, as one number.

Conventions
-----------
Truth and prediction are numbers, one per clip: CH-SIMS labels lie in [-1, 1], those of CMU-MOSI and
CMU-MOSEI in [-3, 3]. Besides error and correlation, the field cuts both into classes and counts how
often they agree. Keys are those of the MMSA platform (github.com/thuiar/MMSA), with which these
scores agree; values are fractions, not rounded.

* **CH-SIMS**, version 1 and 2: truth and prediction are first clipped to [-1, 1], for every score.
  Two classes are cut at 0, which is negative; three at -0.1 and 0.1; five at -0.7, -0.1, 0.1 and
  0.7. A border belongs to the class below it, and is compared in the precision of the numbers: in
  float32, 0.1 lies on the border; widened to float64 it would lie above.
* **CMU-MOSI, CMU-MOSEI**: nothing is clipped for error and correlation. *Has0* cuts at 0, which is
  positive; *Non0* leaves out clips whose truth is 0, and cuts at 0, which is negative. Five and
  seven classes are the numbers clipped to [-2, 2] and [-3, 3] and rounded, halves to even.

``F1_score`` is weighted by the classes' shares of the truth; ``F1_macro``, which MMSA does not
give, counts classes alike. ``Corr`` is Pearson's correlation, and ``None`` where truth or
prediction is constant.

A system that always says *negative* has 69.4 % of ``Mult_acc_2`` on the test part of CH-SIMS: read
every score beside :func:`sentiment_baselines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import (
    Counts,
    f1_macro_of,
    f1_weighted,
    f1_weighted_of,
    ratio,
    war,
    war_of,
)
from serkit.evaluation.predictions import Predictions
from serkit.evaluation.scores import Spread
from serkit.evaluation.significance import Interval, interval_of_counts
from serkit.types import InputError

__all__ = [
    "SENTIMENT_LIMITS",
    "SENTIMENT_METRICS",
    "SIMS_CLASSES",
    "mosi_classes",
    "mosi_scores",
    "sentiment_baselines",
    "sentiment_class_scores",
    "sentiment_confusions",
    "sentiment_interval",
    "sentiment_spread",
    "sims_classes",
    "sims_scores",
]

Numbers = Sequence[float] | NDArray[Any]
Values = NDArray[np.floating[Any]]
SentimentScores = dict[str, float | None]

SIMS_CLASSES: Mapping[int, tuple[str, ...]] = {
    2: ("not positive", "positive"),
    3: ("negative", "neutral", "positive"),
    5: ("negative", "weakly negative", "neutral", "weakly positive", "positive"),
}

_SIMS_BORDERS = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}
_MOSI_LIMITS = {5: 2, 7: 3}
_N_MOMENTS = 7


def sims_classes(values: Numbers, n_classes: int) -> Counts:
    """Cut numbers into the classes of CH-SIMS.

    Parameters
    ----------
    values : (n_clips,)
    n_classes
        2, 3 or 5; their names are in ``SIMS_CLASSES``.

    Returns
    -------
    index : (n_clips,), of each number's class, most negative first

    Raises
    ------
    InputError
        If there is no such number of classes, or the values are no finite numbers.

    Examples
    --------
    >>> sims_classes([-1.0, -0.7, 0.0, 0.1, 0.2], 5).tolist()
    [0, 0, 2, 2, 3]
    """
    if n_classes not in _SIMS_BORDERS:
        raise InputError(f"CH-SIMS has 2, 3 or 5 classes, got {n_classes}")
    numbers = _numbers("values", values)
    borders = np.asarray(_SIMS_BORDERS[n_classes], dtype=numbers.dtype)
    return np.asarray(np.searchsorted(borders, numbers, side="left"), dtype=np.int64)


def mosi_classes(values: Numbers, n_classes: int) -> Counts:
    """Round numbers to the classes of CMU-MOSI and CMU-MOSEI.

    Parameters
    ----------
    values : (n_clips,)
    n_classes
        5 (-2 to 2) or 7 (-3 to 3).

    Returns
    -------
    index : (n_clips,), of each number's class, most negative first

    Raises
    ------
    InputError
        If there is no such number of classes, or the values are no finite numbers.

    Examples
    --------
    >>> mosi_classes([-2.5, -0.5, 0.5, 1.5, 4.0], 7).tolist()
    [1, 3, 3, 5, 6]
    """
    if n_classes not in _MOSI_LIMITS:
        raise InputError(f"CMU-MOSI has 5 or 7 classes, got {n_classes}")
    limit = _MOSI_LIMITS[n_classes]
    rounded = np.round(np.clip(_numbers("values", values), -limit, limit))
    return np.asarray(rounded, dtype=np.int64) + limit


def _at_least_zero(values: Values) -> Counts:
    return np.asarray(values >= 0, dtype=np.int64)


def _above_zero(values: Values) -> Counts:
    return np.asarray(values > 0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Split:
    """One way to cut numbers into classes, and the names of its scores."""

    n_classes: int
    classes: Callable[[Values], Counts]
    accuracy: str
    f1: str | None = None
    f1_macro: str | None = None
    without_zero: bool = False  # leaves out clips whose truth is 0


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How a corpus is judged; ``limit``: what both sides are clipped to first."""

    splits: tuple[_Split, ...]
    limit: float | None


_SIMS = _Scheme(
    (
        _Split(2, partial(sims_classes, n_classes=2), "Mult_acc_2", "F1_score", "F1_macro"),
        _Split(3, partial(sims_classes, n_classes=3), "Mult_acc_3"),
        _Split(5, partial(sims_classes, n_classes=5), "Mult_acc_5"),
    ),
    limit=1.0,
)
_MOSI = _Scheme(
    (
        _Split(2, _at_least_zero, "Has0_acc_2", "Has0_F1_score", "Has0_F1_macro"),
        _Split(2, _above_zero, "Non0_acc_2", "Non0_F1_score", "Non0_F1_macro", without_zero=True),
        _Split(5, partial(mosi_classes, n_classes=5), "Mult_acc_5"),
        _Split(7, partial(mosi_classes, n_classes=7), "Mult_acc_7"),
    ),
    limit=None,
)
_SCHEMES = {"sims": _SIMS, "simsv2": _SIMS, "mosi": _MOSI, "mosei": _MOSI}


def sims_scores(truth: Numbers, predicted: Numbers) -> SentimentScores:
    """Score predictions as CH-SIMS is scored.

    Parameters
    ----------
    truth, predicted : (n_clips,)

    Returns
    -------
    scores
        ``Mult_acc_2``, ``Mult_acc_3``, ``Mult_acc_5``, ``F1_score`` and ``F1_macro`` of the two
        classes, ``MAE``, ``Corr``; ``None`` where a score does not exist.

    Raises
    ------
    InputError
        If the sequences do not match, or hold anything but finite numbers.

    Examples
    --------
    >>> scores = sims_scores([-1.0, 0.0, 0.6], [-0.5, 0.1, 0.8])
    >>> round(scores["Mult_acc_2"], 4), scores["Mult_acc_3"], round(scores["MAE"], 4)
    (0.6667, 1.0, 0.2667)
    """
    return _scores(_SIMS, truth, predicted)


def mosi_scores(truth: Numbers, predicted: Numbers) -> SentimentScores:
    """Score predictions as CMU-MOSI and CMU-MOSEI are scored.

    Parameters
    ----------
    truth, predicted : (n_clips,)

    Returns
    -------
    scores
        ``Has0_acc_2``, ``Has0_F1_score``, ``Has0_F1_macro``, the same as ``Non0``, ``Mult_acc_5``,
        ``Mult_acc_7``, ``MAE``, ``Corr``; ``None`` where a score does not exist.

    Raises
    ------
    InputError
        If the sequences do not match, or hold anything but finite numbers.

    Examples
    --------
    >>> scores = mosi_scores([-1.8, 0.0, 2.6], [-0.5, -0.1, 1.8])
    >>> round(scores["Has0_acc_2"], 4), scores["Non0_acc_2"], round(scores["Mult_acc_7"], 4)
    (0.6667, 1.0, 0.3333)
    """
    return _scores(_MOSI, truth, predicted)


SENTIMENT_METRICS: Mapping[str, Callable[[Numbers, Numbers], SentimentScores]] = {
    "sims": sims_scores,
    "simsv2": sims_scores,
    "mosi": mosi_scores,
    "mosei": mosi_scores,
}


SENTIMENT_LIMITS: Mapping[str, float] = {"sims": 1.0, "simsv2": 1.0, "mosi": 3.0, "mosei": 3.0}
"""Labels of each corpus lie between minus this and this."""


def sentiment_confusions(
    truth: Numbers, predicted: Numbers, *, corpus: str = "sims"
) -> dict[str, Counts]:
    """Count how often each true class was predicted as each class, for every cut of a corpus.

    Returns
    -------
    confusions
        By the name of the accuracy, (n_classes, n_classes), rows = truth, columns = prediction.

    Raises
    ------
    InputError
        As :func:`sims_scores`, or if the corpus is unknown.
    """
    scheme = _scheme(corpus)
    blocks, _ = _blocks(scheme, _outcomes(scheme, *_pair(truth, predicted)).sum(axis=0))
    return {
        split.accuracy: block.astype(np.int64)
        for split, block in zip(scheme.splits, blocks, strict=True)
    }


def sentiment_class_scores(
    truth: Sequence[int] | NDArray[Any],
    scores: NDArray[Any],
    *,
    published: bool = False,
) -> dict[str, float]:
    """Score a system that chooses among negative, neutral and positive.

    *Has0* holds negative and neutral against positive, *Non0* leaves out clips that are neutral;
    in both, the system chooses by its scores of negative and positive alone.

    Parameters
    ----------
    truth : (n_clips,), 0 negative, 1 neutral, 2 positive
    scores : (n_clips, 3), higher is surer
    published
        Count ``Non0`` as MMSA does, which compares the place of the higher of two scores (0 or 1)
        with the class (0 or 2): every positive clip counts as wrong.

    Returns
    -------
    scores
        ``Has0_acc_2``, ``Has0_F1_score``, ``Non0_acc_2``, ``Non0_F1_score``, ``Acc_3``,
        ``F1_score_3``.

    Raises
    ------
    InputError
        If shapes do not match, a class is none of the three, a score is not finite, or every clip
        is neutral.
    """
    classes, numbers = np.asarray(truth), np.asarray(scores)
    if classes.ndim != 1 or not len(classes) or numbers.shape != (len(classes), 3):
        raise InputError(
            f"truth of shape {classes.shape} and scores of shape {numbers.shape}: expected "
            "(n_clips,) and (n_clips, 3)"
        )
    unknown = classes[~np.isin(classes, (0, 1, 2))]
    if len(unknown):
        raise InputError(f"class {unknown[0]}: expected 0 negative, 1 neutral or 2 positive")
    if not np.isfinite(numbers).all():
        raise InputError("scores hold values that are not finite")
    polar = classes != 1
    if not polar.any():
        raise InputError("every clip is neutral: Non0 needs a negative or positive one")
    positive = (numbers[:, 2] > numbers[:, 0]).astype(np.int64)
    chosen = positive[polar] if published else 2 * positive[polar]
    pairs = {
        "Has0": ((classes == 2).astype(np.int64), positive),
        "Non0": (classes[polar].astype(np.int64), chosen),
        "3": (classes.astype(np.int64), numbers.argmax(axis=1)),
    }
    return {
        "Has0_acc_2": war(*pairs["Has0"]),
        "Has0_F1_score": f1_weighted(*pairs["Has0"]),
        "Non0_acc_2": war(*pairs["Non0"]),
        "Non0_F1_score": f1_weighted(*pairs["Non0"]),
        "Acc_3": war(*pairs["3"]),
        "F1_score_3": f1_weighted(*pairs["3"]),
    }


def sentiment_baselines(
    train: Numbers, test: Numbers, *, corpus: str = "sims"
) -> dict[str, SentimentScores]:
    """Score what knows nothing of a clip, only the labels of the training part.

    Parameters
    ----------
    train, test : (n_train,) and (n_test,), labels

    Returns
    -------
    baselines
        ``majority``: always the most frequent class of the training part, for every cut its own,
        ties to the more negative; it has neither error nor correlation. ``mean`` and ``median``:
        always that number of the training part, the latter the hardest to beat in ``MAE``.

    Raises
    ------
    InputError
        As :func:`sims_scores`, or if the corpus is unknown.
    """
    scheme = _scheme(corpus)
    known = _clipped(scheme, _numbers("train", train))
    truth = _numbers("test", test)
    baselines = {"majority": _majority(scheme, known, truth)}
    for name, value in (("mean", np.mean(known)), ("median", np.median(known))):
        baselines[name] = _scores(scheme, truth, np.full(len(truth), value, dtype=known.dtype))
    return baselines


def sentiment_interval(
    truth: Numbers,
    predicted: Numbers | Sequence[Numbers],
    groups: Sequence[str] | NDArray[Any],
    *,
    cluster: Literal["speaker", "video"] = "speaker",
    metric: str = "MAE",
    corpus: str = "sims",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a score under resampling of whole groups: speakers, or source videos.

    A replicate in which the score does not exist, such as a correlation of equal predictions,
    counts as 0. Where there are too few groups, clips are resampled, and a note says so; see
    :mod:`serkit.evaluation.significance`.

    Parameters
    ----------
    truth : (n_clips,)
    predicted : (n_clips,), or (n_seeds, n_clips), of which each replicate takes the mean score
    groups : (n_clips,), whom each clip belongs to
    cluster
        What groups are.
    metric
        A key of the corpus's scores.
    n, seed, level
        As in :func:`serkit.evaluation.significance.bootstrap_interval`.

    Raises
    ------
    InputError
        If shapes do not match, the corpus or metric is unknown, or the score does not exist.
    """
    scheme = _scheme(corpus)
    rows = np.atleast_2d(np.asarray(predicted))
    names = [str(name) for name in groups]
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise InputError(
            f"predictions of shape {rows.shape} and {len(names)} groups: expected (n_clips,) or "
            "(n_seeds, n_clips), and one group per clip"
        )
    outcomes = np.stack([_outcomes(scheme, *_pair(truth, row)) for row in rows], axis=1)
    whole = _values(scheme, outcomes.sum(axis=0))
    if metric not in whole:
        raise InputError(f"no score '{metric}' of {corpus}, expected one of {', '.join(whole)}")
    if np.isnan(whole[metric]).any():
        raise InputError(f"{metric} does not exist for these predictions: it has no interval")

    def count(codes: Counts, n_clusters: int) -> Any:
        sums = np.zeros((n_clusters, *outcomes.shape[1:]))
        np.add.at(sums, codes, outcomes)
        return sums

    clips = [str(position) for position in range(len(names))]
    same = ["clip"] * len(names)  # classes play no part: the table carries groups alone
    found = interval_of_counts(
        Predictions.of(clips, same, predicted=same, speakers=names),
        count,
        lambda sums: np.nan_to_num(_values(scheme, sums)[metric]),
        metric=metric,
        n=n,
        seed=seed,
        level=level,
    )
    called = {"speaker": cluster, "utterance": "clip"}
    note = found.note
    for theirs, ours in called.items():
        note = note.replace(theirs, ours)
    return replace(found, cluster=called[found.cluster], note=note)


def sentiment_spread(scores: Sequence[SentimentScores]) -> dict[str, Spread]:
    """Mean and standard deviation of every score over seeds.

    Where a score does not exist for some seeds, its ``n`` is that of the others; where it exists
    for none, it is left out.

    Parameters
    ----------
    scores
        What one seed after the other scored.

    Raises
    ------
    InputError
        If there are no scores, or seeds were scored differently.

    Examples
    --------
    >>> sentiment_spread([{"MAE": 0.4, "Corr": None}, {"MAE": 0.6, "Corr": 0.5}])["MAE"].mean
    0.5
    """
    if not scores:
        raise InputError("no scores: a mean needs those of at least one seed")
    keys = list(scores[0])
    if any(list(row) != keys for row in scores):
        raise InputError("scores of seeds have different names: judge all by the same corpus")
    found = {key: [row[key] for row in scores] for key in keys}
    kept = {key: [v for v in values if v is not None] for key, values in found.items()}
    return {key: Spread.of(values) for key, values in kept.items() if values}


def _scheme(corpus: str) -> _Scheme:
    if corpus not in _SCHEMES:
        raise InputError(f"no scores for '{corpus}', expected one of {', '.join(_SCHEMES)}")
    return _SCHEMES[corpus]


def _numbers(name: str, values: Numbers) -> Values:
    """Check numbers, and keep their precision."""
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "fiu":
        raise InputError(
            f"{name} of shape {array.shape} and kind {array.dtype}: expected one number per clip, "
            "(n_clips,)"
        )
    if not np.isfinite(array).all():
        position = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{name} is {array[position]} at position {position}: expected a number")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _pair(truth: Numbers, predicted: Numbers) -> tuple[Values, Values]:
    x, y = _numbers("truth", truth), _numbers("predicted", predicted)
    if len(x) != len(y):
        raise InputError(
            f"{len(x)} true labels but {len(y)} predictions: give one of each per clip, in the "
            "same order"
        )
    return x, y


def _clipped(scheme: _Scheme, values: Values) -> Values:
    return values if scheme.limit is None else np.clip(values, -scheme.limit, scheme.limit)


def _scores(scheme: _Scheme, truth: Numbers, predicted: Numbers) -> SentimentScores:
    return _plain(_values(scheme, _outcomes(scheme, *_pair(truth, predicted)).sum(axis=0)))


def _plain(values: Mapping[str, NDArray[np.float64]]) -> SentimentScores:
    return {key: None if np.isnan(value) else float(value) for key, value in values.items()}


def _outcomes(scheme: _Scheme, truth: Values, predicted: Values) -> NDArray[np.float64]:
    """Count what each clip adds to the scores, (n_clips, n_outcomes).

    For every split one cell of its confusion matrix; then 1, the error, and moments about the first
    clip, so that those of equal numbers are exactly 0.
    """
    truth, predicted = _clipped(scheme, truth), _clipped(scheme, predicted)
    cells = []
    for split in scheme.splits:
        place = split.classes(truth) * split.n_classes + split.classes(predicted)
        cell = np.eye(split.n_classes**2)[place]
        cells.append(cell * (truth != 0)[:, None] if split.without_zero else cell)
    error = np.abs(predicted.astype(np.float64) - truth)
    x, y = truth.astype(np.float64) - truth[0], predicted.astype(np.float64) - predicted[0]
    moments = np.stack([np.ones(len(x)), error, x, y, x * x, y * y, x * y], axis=1)
    return np.concatenate([*cells, moments], axis=1)


def _blocks(
    scheme: _Scheme, sums: NDArray[np.float64]
) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Divide sums of outcomes (..., n_outcomes) into confusions and moments."""
    blocks, start = [], 0
    for split in scheme.splits:
        n = split.n_classes
        blocks.append(sums[..., start : start + n * n].reshape(*sums.shape[:-1], n, n))
        start += n * n
    return blocks, sums[..., -_N_MOMENTS:]


def _values(scheme: _Scheme, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute all scores from sums of outcomes, (..., n_outcomes) -> (...) each."""
    blocks, moments = _blocks(scheme, sums)
    values = _class_values(scheme, blocks)
    values["MAE"] = ratio(moments[..., 1], moments[..., 0])
    values["Corr"] = _correlation(moments)
    return values


def _class_values(
    scheme: _Scheme, confusions: Sequence[NDArray[Any]]
) -> dict[str, NDArray[np.float64]]:
    values = {}
    for split, confusion in zip(scheme.splits, confusions, strict=True):
        values[split.accuracy] = war_of(confusion)
        if split.f1 is not None and split.f1_macro is not None:
            values[split.f1] = f1_weighted_of(confusion)
            values[split.f1_macro] = f1_macro_of(confusion)
    return values


def _correlation(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson's correlation from moments, (..., 7) -> (...); NaN where a side is constant."""
    n, _, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    x_variance, y_variance = xx - x * x / n, yy - y * y / n
    # A difference of rounding errors is no spread.
    varies = (x_variance > 1e-12 * xx) & (y_variance > 1e-12 * yy)
    covariance = xy - x * y / n
    scale = np.sqrt(np.where(varies, x_variance * y_variance, 0.0))
    return np.clip(ratio(covariance, scale), -1, 1)


def _majority(scheme: _Scheme, train: Values, test: Values) -> SentimentScores:
    truth = _clipped(scheme, test)
    confusions = []
    for split in scheme.splits:
        known = train[train != 0] if split.without_zero else train
        judged = truth[truth != 0] if split.without_zero else truth
        counts = np.bincount(split.classes(known), minlength=split.n_classes)
        confusion = np.zeros((split.n_classes, split.n_classes))
        confusion[:, counts.argmax()] = np.bincount(
            split.classes(judged), minlength=split.n_classes
        )
        confusions.append(confusion)
    return _plain(_class_values(scheme, confusions)) | {"MAE": None, "Corr": None}
