"""How sure a score is, and whether two systems differ: by resampling speakers.

Utterances of one speaker resemble each other, so the number of independent observations in a
corpus is closer to its number of speakers than to its number of utterances. Everything here
therefore resamples or swaps **whole speakers** (the cluster bootstrap; C. A. Field, A. H. Welsh,
"Bootstrapping clustered data", J. R. Statist. Soc. B 69(3), 2007). Several seeds of one system are
repeated measurements, not new observations: inside each replicate the metric is averaged over
them.

Plain percentile intervals over few speakers are too narrow, as if a normal were used where
Student's t belongs. The percentiles are therefore moved outwards by the ratio of the two, the
*expanded percentile interval* of T. C. Hesterberg, "What Teachers Should Know About the
Bootstrap", The American Statistician 69(4), 2015: for 95 % over 8 speakers, the 0.6th and 99.4th
percentile.

With fewer than three speakers (or an unknown number) clusters of one utterance are used instead,
and the result says so: it then tells nothing about how the system would fare with other speakers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import (
    Counts,
    MetricName,
    grouped_confusions,
    metric_of_confusion,
)
from serkit.evaluation.predictions import SET_MARK, Predictions
from serkit.types import InputError

__all__ = ["Interval", "PairedTest", "bootstrap_interval", "holm", "paired_test"]

Cluster = Literal["speaker", "utterance"]
PairedMetric = Literal["uar", "war", "binary_uar"]

MIN_SPEAKERS = 3
MAX_EXACT_CLUSTERS = 12  # 2 ** 12 = 4096 ways to swap: fewer than the Monte Carlo draws
_CHUNK = 250  # replicates per matrix product, to bound memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A score with its bootstrap interval.

    ``cluster`` says what was resampled (``speaker`` or ``utterance``, of clips also ``video`` or
    ``clip``) and ``n_clusters`` how many there are; ``note`` is a sentence where the interval is
    not the one asked for, else empty.
    """

    metric: str
    value: float
    low: float
    high: float
    level: float
    n_replicates: int
    cluster: str
    n_clusters: int
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers and strings."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """Difference of two systems on the same utterances, first minus second.

    Attributes
    ----------
    difference, low, high
        Difference of the metric (fractions, not percent) and its bootstrap interval.
    p
        Two-sided probability of a difference at least as large if the two systems were
        exchangeable speaker by speaker.
    p_smallest
        The smallest p that this number of speakers can give at all.
    exact
        Whether all ways to swap were enumerated; else ``n_permutations`` were drawn.
    n_unmatched
        Utterances of the first and of the second table without a partner; they are not used.
    notes
        What limits the result, one sentence each.
    """

    metric: PairedMetric
    difference: float
    low: float
    high: float
    level: float
    p: float
    p_smallest: float
    exact: bool
    n_permutations: int
    cluster: Cluster
    n_speakers: int
    n_utterances: int
    n_unmatched: tuple[int, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers and strings."""
        return asdict(self) | {"n_unmatched": list(self.n_unmatched), "notes": list(self.notes)}


def bootstrap_interval(
    predictions: Predictions,
    metric: MetricName = "uar",
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    cluster: Cluster = "speaker",
) -> Interval:
    """Interval of a pooled score under resampling of speakers.

    Parameters
    ----------
    metric
        ``uar``, ``war``, ``f1_macro`` or ``f1_weighted``.
    n
        Number of bootstrap replicates.
    seed
        Of the resampling; equal seeds give equal intervals.
    level
        Coverage aimed at, between 0 and 1.
    cluster
        What is resampled as a whole.

    Raises
    ------
    InputError
        If the metric is unknown, ``level`` is not between 0 and 1 or ``n`` is below 1.
    """
    return interval_of_counts(
        predictions,
        partial(_cluster_counts, predictions),
        metric_of_confusion(metric),
        metric=metric,
        n=n,
        seed=seed,
        level=level,
        cluster=cluster,
    )


def interval_of_counts(
    predictions: Predictions,
    count: Callable[[Counts, int], Counts],
    function: Callable[[NDArray[Any]], NDArray[np.float64]],
    *,
    metric: str,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    cluster: Cluster = "speaker",
) -> Interval:
    """Interval of any score that is a function of counts which add up over utterances.

    Parameters
    ----------
    count
        Takes the cluster of each row, (n_rows,), and the number of clusters; gives the counts of
        each cluster and seed, (n_clusters, n_seeds, ...).
    function
        Counts (..., n_seeds, ...) -> scores (..., n_seeds).
    metric
        Name of the score.
    n, seed, level, cluster
        As in :func:`bootstrap_interval`.

    Raises
    ------
    InputError
        If ``level`` is not between 0 and 1 or ``n`` is below 1.
    """
    _check_resampling(n, level)
    codes, n_clusters, kind, note = _clusters(predictions, cluster)
    counts = count(codes, n_clusters)
    flat = counts.reshape(n_clusters, -1)
    weights = np.ones(n_clusters, dtype=np.int64)
    if kind == "utterance":
        # Thousands of utterances show few distinct outcomes; drawing outcomes with their
        # frequencies is the same distribution at a fraction of the cost.
        flat, weights = np.unique(flat, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    flat = flat.astype(np.float64)
    replicates = []
    for first in range(0, n, _CHUNK):
        size = min(_CHUNK, n - first)
        drawn = generator.multinomial(n_clusters, weights / n_clusters, size=size)
        sums = (drawn @ flat).reshape(size, *counts.shape[1:])
        replicates.append(np.nanmean(function(sums), axis=1))
    tail = _tail(level, n_clusters)
    low, high = np.quantile(np.concatenate(replicates), [tail, 1 - tail])
    value = float(np.mean(function(counts.sum(axis=0))))
    return Interval(
        metric=metric,
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        n_replicates=n,
        cluster=kind,
        n_clusters=n_clusters,
        note=note,
    )


def paired_test(
    a: Predictions,
    b: Predictions,
    *,
    metric: PairedMetric = "uar",
    n: int = 2000,
    n_permutations: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedTest:
    """Compare two systems on the utterances that both judged.

    Rows are matched by utterance id; only utterances present under every seed of both tables are
    used. The interval is a cluster bootstrap of the difference. The p-value comes from swapping
    the two systems' outputs for whole speakers: all 2^n_speakers ways up to 12 speakers, else
    ``n_permutations`` random ones (the observed one counted, so p is never 0). Once the truth is
    fixed, these metrics are linear in the number of right answers per class (of a multi-label
    table: per class, yes and no apart), which makes a swap a change of sign.

    Parameters
    ----------
    a, b
        The two systems' tables; the sign of the result is a minus b.
    metric
        ``uar`` or ``war``; of multi-label tables ``binary_uar``.
    n, n_permutations, seed, level
        Of the resampling.

    Raises
    ------
    InputError
        If the metric is not one of the tables, no utterance is in both of them, or they disagree
        about a truth, a speaker or, where there are several to an utterance, the classes.
    """
    _check_paired(a, b, metric)
    _check_resampling(n, level)
    # A foreign table may not name its corpus; ids alone have to do then.
    by_corpus = bool(a.corpora[0]) and bool(b.corpora[0])
    right_a, truth_a, speakers_a = _right_by_utterance(a, a.classes, by_corpus=by_corpus)
    right_b, truth_b, speakers_b = _right_by_utterance(b, a.classes, by_corpus=by_corpus)
    common = [key for key in right_a if key in right_b]
    if not common:
        raise InputError(
            f"no utterance id is in both tables (first: '{a.ids[0]}' against '{b.ids[0]}'): "
            "a paired test needs the same utterances under the same ids"
        )
    for key in common:
        if truth_a[key] != truth_b[key]:
            raise InputError(
                f"utterance {key}: truth is '{truth_a[key]}' in one table and '{truth_b[key]}' in "
                "the other: score both against the same labels"
            )
        if speakers_a[key] and speakers_b[key] and speakers_a[key] != speakers_b[key]:
            raise InputError(
                f"utterance {key}: speaker is '{speakers_a[key]}' in one table and "
                f"'{speakers_b[key]}' in the other"
            )
    speakers = [speakers_a[key] or speakers_b[key] for key in common]
    known = all(speakers)
    n_speakers = len(set(speakers)) if known else 0
    notes = []
    kind: Cluster = "speaker"
    if n_speakers < MIN_SPEAKERS:
        kind = "utterance"
        notes.append(_too_few(n_speakers, known=known))
    groups = speakers if kind == "speaker" else common
    group_names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    group = np.asarray([group_names[name] for name in groups], dtype=np.int64)
    asked = _questions([truth_a[key] for key in common], metric, a.classes)
    gain = np.asarray([right_a[key] - right_b[key] for key in common], dtype=np.float64)
    n_groups = len(group_names)
    gains = np.zeros((n_groups, *asked.shape[1:]), dtype=np.float64)
    np.add.at(gains, group, asked * gain[:, :, None])
    sizes = np.zeros(gains.shape, dtype=np.int64)
    np.add.at(sizes, group, asked)

    generator = np.random.default_rng(seed)
    low, high = _difference_interval(gains, sizes, generator, n=n, level=level)
    effects = _balanced(gains, sizes.sum(axis=0))  # what each cluster adds to the difference
    difference = float(effects.sum())
    p, p_smallest, exact = _sign_flip(effects, generator, n_permutations)
    if not np.any(effects):
        notes.append("both systems are right equally often for every " + kind)
    elif p_smallest > 0.05:
        notes.append(
            f"{n_groups} {kind}s cannot give p below {p_smallest:.3g} however large the "
            "difference: read the interval, not p"
        )
    n_unmatched = (len(set(a.keys)) - len(common), len(set(b.keys)) - len(common))
    if any(n_unmatched):
        notes.append(
            f"{n_unmatched[0]} utterances of the first and {n_unmatched[1]} of the second table "
            "have no partner under every seed and are left out"
        )
    return PairedTest(
        metric=metric,
        difference=difference,
        low=low,
        high=high,
        level=level,
        p=p,
        p_smallest=p_smallest,
        exact=exact,
        n_permutations=2**n_groups if exact else n_permutations,
        cluster=kind,
        n_speakers=n_speakers,
        n_utterances=len(common),
        n_unmatched=n_unmatched,
        notes=tuple(notes),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for their number by Holm's step-down rule.

    Citation: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6(2), 1979, 65-70.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def _check_paired(a: Predictions, b: Predictions, metric: PairedMetric) -> None:
    """Refuse a metric that the tables do not have, and questions of one that the other lacks."""
    if metric not in get_args(PairedMetric):
        raise InputError(
            f"no paired test of '{metric}', expected one of {', '.join(get_args(PairedMetric))}"
        )
    of_sets = metric == "binary_uar"
    if a.multi_label != of_sets or b.multi_label != of_sets:
        raise InputError(
            f"a paired test of {metric} needs two tables with "
            f"{'several classes' if of_sets else 'one class'} per utterance: test multi-label "
            "tables by binary_uar, others by uar or war"
        )
    if of_sets and set(a.classes) != set(b.classes):
        raise InputError(
            f"classes are {', '.join(a.classes)} in one table and {', '.join(b.classes)} in the "
            "other: a mean over classes needs the same ones"
        )


def _check_resampling(n: int, level: float) -> None:
    if n < 1:
        raise InputError(f"{n} bootstrap replicates: expected at least 1, usually 2000")
    if not 0 < level < 1:
        raise InputError(f"interval level {level:g}: expected a fraction between 0 and 1, say 0.95")


def _tail(level: float, n_clusters: int) -> float:
    """Share of replicates outside either end of the interval, fewer for fewer clusters.

    >>> round(_tail(0.95, 8), 4), round(_tail(0.95, 10_000), 4)
    (0.0057, 0.025)
    """
    if n_clusters < 2:
        return 0.0
    z = math.sqrt(n_clusters / (n_clusters - 1)) * _student_quantile(level, n_clusters - 1)
    return NormalDist().cdf(-z)


def _student_quantile(level: float, freedom: int) -> float:
    """Find t with P(|T| <= t) = level, by halving.

    For integer degrees of freedom the distribution has a closed form in theta = atan(t / sqrt(n)):
    M. Abramowitz, I. A. Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    if freedom > 1000:  # differs from the normal by less than 0.2 %
        return NormalDist().inv_cdf((1 + level) / 2)

    def inside(theta: float) -> float:
        sine, cosine = math.sin(theta), math.cos(theta)
        odd = freedom % 2
        term = cosine if odd else 1.0
        total = term if freedom > 1 else 0.0
        for number in range(2 + odd, freedom - 1, 2):
            term *= cosine * cosine * (number - 1) / number
            total += term
        return 2 / math.pi * (theta + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _too_few(n_speakers: int, *, known: bool) -> str:
    if not known:
        reason = "the table does not say who talks"
    else:
        reason = f"there {'is 1 speaker' if n_speakers == 1 else f'are {n_speakers} speakers'}"
    return (
        f"resampled over utterances because {reason} (at least {MIN_SPEAKERS} are needed): this "
        "understates the uncertainty about other speakers"
    )


def _clusters(predictions: Predictions, cluster: Cluster) -> tuple[Counts, int, Cluster, str]:
    """Give each row the number of its cluster, and say what clusters are."""
    note = ""
    if cluster == "speaker":
        known = predictions.has_speakers
        names, codes = np.unique(predictions.speakers, return_inverse=True)
        if known and len(names) >= MIN_SPEAKERS:
            return codes.astype(np.int64), len(names), "speaker", note
        note = _too_few(len(names) if known else 0, known=known)
    elif cluster != "utterance":
        raise InputError(f"no cluster '{cluster}', expected speaker or utterance")
    names, codes = np.unique(np.asarray(predictions.keys), return_inverse=True)
    return codes.astype(np.int64), len(names), "utterance", note


def _cluster_counts(predictions: Predictions, codes: Counts, n_clusters: int) -> Counts:
    """Confusion counts, (n_clusters, n_seeds, n_classes, n_classes)."""
    seeds = np.asarray(predictions.seed_values)
    n_classes = len(predictions.classes)
    counts = grouped_confusions(
        predictions.truth_index,
        predictions.predicted_index,
        codes * len(seeds) + np.searchsorted(seeds, predictions.seeds),
        n_groups=n_clusters * len(seeds),
        n_classes=n_classes,
    )
    return counts.reshape(n_clusters, len(seeds), n_classes, n_classes)


def _right_by_utterance(
    predictions: Predictions, classes: Sequence[str], *, by_corpus: bool
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str], dict[str, str]]:
    """Share of seeds that got each utterance right, its truth and its speaker.

    There is one share, or in a multi-label table one per class, in the order of ``classes``. Where
    several folds test an utterance, each counts. One that is not tested under every seed is left
    out.
    """
    n_seeds = len(predictions.seed_values)
    if predictions.multi_label:
        columns = [predictions.classes.index(label) for label in classes]
        hits = (predictions.truth_sets == predictions.predicted_sets)[:, columns]
    else:
        hits = (predictions.truth == predictions.predicted)[:, None]
    right: dict[str, list[NDArray[np.bool_]]] = {}
    seeds: dict[str, set[int]] = {}
    truth: dict[str, str] = {}
    speakers: dict[str, str] = {}
    for key, label, hit, speaker, seed in zip(
        predictions.keys if by_corpus else predictions.ids.tolist(),
        predictions.truth.tolist(),
        hits,
        predictions.speakers.tolist(),
        predictions.seeds.tolist(),
        strict=True,
    ):
        right.setdefault(key, []).append(hit)
        seeds.setdefault(key, set()).add(seed)
        truth[key] = label
        speakers[key] = speaker
    full = {
        key: np.sum(rows, axis=0) / len(rows)
        for key, rows in right.items()
        if len(seeds[key]) == n_seeds
    }
    return full, truth, speakers


def _questions(
    truth: Sequence[str], metric: PairedMetric, classes: Sequence[str]
) -> NDArray[np.bool_]:
    """Tell where the answer to each utterance counts, (n_utterances, n_classes, n_sides).

    UAR asks an utterance of its class alone, WAR asks all of one class, and the two-class UAR asks
    each of every class, on the side of those that have it or of those that do not.
    """
    if metric == "war":
        return np.ones((len(truth), 1, 1), dtype=np.bool_)
    if metric == "uar":
        labels = np.asarray(truth)
        return np.asarray(labels[:, None, None] == np.unique(labels)[None, :, None])
    has = np.asarray([[label in text.split(SET_MARK) for label in classes] for text in truth])
    return np.stack([has, ~has], axis=2)


def _balanced(gain: NDArray[np.float64], size: NDArray[Any]) -> NDArray[np.float64]:
    """Average gain per answer over the sides of a class, and that over the classes.

    Both are (..., n_classes, n_sides); the first side holds the utterances of the class. A side
    without answers is left out, and so is a class that no utterance has.
    """
    present = size > 0
    share = np.divide(gain, size, out=np.zeros_like(gain), where=present)
    per_class = share.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
    occurs = present[..., 0]
    return np.asarray((per_class * occurs).sum(axis=-1) / occurs.sum(axis=-1))


def _difference_interval(
    gains: NDArray[np.float64],
    sizes: Counts,
    generator: np.random.Generator,
    *,
    n: int,
    level: float,
) -> tuple[float, float]:
    """Bootstrap the balanced mean of gains; both (n_clusters, n_classes, n_sides)."""
    flat = np.concatenate([gains.reshape(len(gains), -1), sizes.reshape(len(sizes), -1)], axis=1)
    rows, weights = np.unique(flat, axis=0, return_counts=True)
    drawn = generator.multinomial(len(gains), weights / len(gains), size=n)
    sums = (drawn @ rows).reshape(n, 2, *gains.shape[1:])
    replicates = _balanced(sums[:, 0], sums[:, 1])
    tail = _tail(level, len(gains))
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def _sign_flip(
    effects: NDArray[np.float64], generator: np.random.Generator, n_permutations: int
) -> tuple[float, float, bool]:
    """Two-sided p of the sum under random signs, the smallest reachable p, and whether exact."""
    n_groups = len(effects)
    p_smallest = min(1.0, 2.0 ** (1 - n_groups))  # all signs as observed, or all reversed
    observed = abs(float(effects.sum())) - 1e-12  # sums in another order must still count as equal
    if n_groups <= MAX_EXACT_CLUSTERS:
        bits = (np.arange(2**n_groups)[:, None] >> np.arange(n_groups)) & 1
        sums = (1 - 2 * bits) @ effects
        return float((np.abs(sums) >= observed).mean()), p_smallest, True
    hits = 0
    for first in range(0, n_permutations, _CHUNK):
        size = min(_CHUNK, n_permutations - first)
        signs = 1 - 2 * generator.integers(0, 2, size=(size, n_groups))
        hits += int((np.abs(signs @ effects) >= observed).sum())
    return (hits + 1) / (n_permutations + 1), max(p_smallest, 1 / (n_permutations + 1)), False
