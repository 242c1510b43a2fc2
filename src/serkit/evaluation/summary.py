"""One table judged in full: scores, intervals, and what they say in words.

:func:`summarize` is what ``serkit evaluate``, ``serkit compare`` and ``serkit report`` share, so a
number cannot differ between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.evaluation.metrics import MetricName, row_shares
from serkit.evaluation.multilabel import (
    SET_METRIC_NAMES,
    SetMetricName,
    SetScores,
    score_sets,
    set_interval,
)
from serkit.evaluation.predictions import Predictions, read_predictions
from serkit.evaluation.runfolder import Curves
from serkit.evaluation.scores import Scores, jsonable, score
from serkit.evaluation.significance import Interval, bootstrap_interval

__all__ = [
    "OptimismRow",
    "SetSummary",
    "Summary",
    "evaluate_tables",
    "findings",
    "findings_of_sets",
    "judge",
    "optimism",
    "percent",
    "summarize",
    "summarize_sets",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summary:
    """Scores of one table with the intervals of UAR and WAR."""

    name: str
    scores: Scores
    uar: Interval
    war: Interval

    @property
    def intervals(self) -> Mapping[MetricName, Interval]:
        """The intervals by metric, the leading one first."""
        return {"uar": self.uar, "war": self.war}

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON."""
        return {
            "name": self.name,
            **self.scores.to_dict(),
            "intervals": {key: value.to_dict() for key, value in self.intervals.items()},
            "findings": list(findings(self)),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SetSummary:
    """Scores of one multi-label table with the intervals of all its metrics."""

    name: str
    scores: SetScores
    intervals: Mapping[SetMetricName, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON."""
        return {
            "name": self.name,
            **self.scores.to_dict(),
            "intervals": {key: value.to_dict() for key, value in self.intervals.items()},
            "findings": list(findings_of_sets(self)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimismRow:
    """What one rule of choosing the epoch on the test fold would have reported."""

    rule: str
    uar: float
    war: float
    mean_epoch: float


def summarize(
    predictions: Predictions, *, name: str = "", n_replicates: int = 2000, seed: int = 0
) -> Summary:
    """Score a table and put intervals, clustered by speaker, around UAR and WAR."""
    return Summary(
        name=name,
        scores=score(predictions),
        uar=bootstrap_interval(predictions, "uar", n=n_replicates, seed=seed),
        war=bootstrap_interval(predictions, "war", n=n_replicates, seed=seed),
    )


def summarize_sets(
    predictions: Predictions, *, name: str = "", n_replicates: int = 2000, seed: int = 0
) -> SetSummary:
    """Score a multi-label table and put intervals, clustered by speaker, around every metric."""
    return SetSummary(
        name=name,
        scores=score_sets(predictions),
        intervals={
            metric: set_interval(predictions, metric, n=n_replicates, seed=seed)
            for metric in SET_METRIC_NAMES
        },
    )


def judge(predictions: Predictions, *, name: str = "") -> Summary | SetSummary:
    """Summarise a table of either kind."""
    if predictions.multi_label:
        return summarize_sets(predictions, name=name)
    return summarize(predictions, name=name)


def evaluate_tables(paths: Sequence[Path | str]) -> list[Summary | SetSummary]:
    """Score bare predictions tables, ours or a foreign system's, in the order given.

    Raises
    ------
    PredictionsError
        If a table cannot be used.
    """
    return [judge(read_predictions(path), name=str(path)) for path in paths]


_PCT = "\u00a0%"  # a number and its sign stay on one line


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction in percent, without the sign; a dash where it is undefined.

    >>> percent(0.98765), percent(float("nan"))
    ('98.8', '–')
    """
    if value is None or not np.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f}"


def findings(summary: Summary) -> tuple[str, ...]:
    """Say in whole sentences what the numbers show."""
    scores = summary.scores
    sentences = [_against_chance(summary)]
    pair = most_confused(scores)
    if pair is not None:
        truth, predicted, share = pair
        sentences.append(
            f"The commonest mistake is to take {truth} for {predicted}: {percent(share, 0)}{_PCT} "
            f"of the {truth} utterances."
        )
    ranked = sorted(
        (row for row in scores.per_class if np.isfinite(row.recall)), key=lambda row: row.recall
    )
    if len(ranked) > 1 and ranked[-1].recall > ranked[0].recall:
        sentences.append(
            f"Best recognised is {ranked[-1].label} (recall {percent(ranked[-1].recall)}{_PCT}), "
            f"worst {ranked[0].label} ({percent(ranked[0].recall)}{_PCT})."
        )
    speakers = sorted(scores.per_speaker, key=lambda group: group.uar)
    if len(speakers) > 1 and speakers[-1].uar > speakers[0].uar:
        sentences.append(
            f"It depends on who talks: from speaker {speakers[0].name} with a UAR of "
            f"{percent(speakers[0].uar)}{_PCT} to speaker {speakers[-1].name} with "
            f"{percent(speakers[-1].uar)}{_PCT}."
        )
    return tuple(sentences)


def findings_of_sets(summary: SetSummary) -> tuple[str, ...]:
    """Say in whole sentences what the numbers of a multi-label table show."""
    scores, interval = summary.scores, summary.intervals["binary_uar"]
    share = f"A two-class UAR of {percent(interval.value)}{_PCT}, averaged over the classes,"
    if interval.low > 0.5:
        sentences = [f"{share} is above chance (50{_PCT}), and so is the whole interval."]
    elif interval.high < 0.5:
        sentences = [f"{share} is below chance (50{_PCT}): the order of the labels may be wrong."]
    else:
        sentences = [
            f"{share} is no proof of skill: its interval, {percent(interval.low)} to "
            f"{percent(interval.high)}{_PCT}, contains chance (50{_PCT})."
        ]
    ranked = sorted(
        (row for row in scores.per_class if np.isfinite(row.uar)), key=lambda row: row.uar
    )
    if len(ranked) > 1 and ranked[-1].uar > ranked[0].uar:
        sentences.append(
            f"Best told apart is {ranked[-1].label} (two-class UAR "
            f"{percent(ranked[-1].uar)}{_PCT}), worst {ranked[0].label} "
            f"({percent(ranked[0].uar)}{_PCT})."
        )
    empty = f"{percent(scores.share_empty)}{_PCT} of the answers are empty"
    sentences.append(
        f"An utterance has {scores.n_true:.2f} classes on average and is given "
        f"{scores.n_predicted:.2f}; {empty if scores.share_empty else 'no answer is empty'}."
    )
    return tuple(sentences)


def most_confused(scores: Scores) -> tuple[str, str, float] | None:
    """Truth, prediction and share of the truth of the commonest mistake; ``None`` without any."""
    share = row_shares(scores.confusion)
    np.fill_diagonal(share, 0)
    row, column = np.unravel_index(int(share.argmax()), share.shape)
    if share[row, column] == 0:
        return None
    return scores.classes[row], scores.classes[column], float(share[row, column])


def optimism(curves: Curves) -> tuple[OptimismRow, ...]:
    """Compare three rules of choosing the epoch, where the dev part is the test fold.

    UAR and WAR are averaged over folds and seeds. Only the first rule is fair: the other two look
    at the labels they are judged by. Empty where a training run has no measured epoch.
    """
    picks: dict[str, list[int]] = {
        "last epoch": [],
        "lowest loss on the test fold": [],
        "highest accuracy on the test fold": [],
    }
    for _, _, rows in curves.members():
        measured = rows[np.isfinite(curves.dev_war[rows]) & np.isfinite(curves.dev_loss[rows])]
        if not len(measured):
            return ()
        picks["last epoch"].append(int(measured[-1]))
        picks["lowest loss on the test fold"].append(
            int(measured[curves.dev_loss[measured].argmin()])
        )
        picks["highest accuracy on the test fold"].append(
            int(measured[curves.dev_war[measured].argmax()])
        )
    return tuple(
        OptimismRow(
            rule=rule,
            uar=float(curves.dev_uar[rows].mean()),
            war=float(curves.dev_war[rows].mean()),
            mean_epoch=float(curves.epochs[rows].mean()),
        )
        for rule, rows in picks.items()
    )


def summary_json(
    summary: Summary | SetSummary, *, run: dict[str, Any], optimism_rows: Any
) -> dict[str, Any]:
    """Content of metrics.json: the run in short, then everything of the summary."""
    content: dict[str, Any] = jsonable({**run, **summary.to_dict(), "optimism": optimism_rows})
    return content


def _against_chance(summary: Summary) -> str:
    """Compare the interval of UAR with what the majority class reaches."""
    scores, interval = summary.scores, summary.uar
    base = scores.majority
    naming = f"always answering “{base.label}” would give {percent(base.uar)}{_PCT}"
    if interval.low > base.uar:
        ratio = scores.uar / base.uar
        return (
            f"A UAR of {percent(scores.uar)}{_PCT} is {ratio:.1f} times the level of chance, and "
            f"the whole interval lies above it ({naming})."
        )
    if interval.high < base.uar:
        return (
            f"A UAR of {percent(scores.uar)}{_PCT} is below the level of chance ({naming}): "
            "nothing was learnt, or the order of the labels is wrong."
        )
    return (
        f"The interval of the UAR, {percent(interval.low)} to {percent(interval.high)}{_PCT}, "
        f"contains the level of chance ({naming}): nothing was shown to be learnt."
    )
