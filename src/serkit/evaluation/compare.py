"""Runs side by side, with a paired test where a test makes sense.

Runs on the same corpus are tested against the first of them, utterance by utterance and clustered
by speaker (:func:`serkit.evaluation.significance.paired_test`); p-values of several tests are
adjusted by Holm's rule. What is tested is UAR, or where utterances may have several classes the
two-class UAR; tables of the two kinds are not compared. When two runs differ in protocol or in
their folds, the test is still given, because the effect of a protocol is worth knowing, but its row
says that the difference is not one between systems alone. Where nothing can be paired, the row says
why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serkit.evaluation.metrics import METRIC_NAMES
from serkit.evaluation.multilabel import SET_METRIC_NAMES
from serkit.evaluation.runfolder import RunFolder, read_run
from serkit.evaluation.scores import Spread, jsonable
from serkit.evaluation.significance import Interval, PairedMetric, PairedTest, holm, paired_test
from serkit.evaluation.summary import SetSummary, Summary, percent, summarize, summarize_sets
from serkit.evaluation.workbook import Cell, Sheet, save_sheets, table_sheet
from serkit.types import InputError

__all__ = ["ComparedPair", "ComparedRun", "Comparison", "compare_runs"]

_NAMES = dict[str, str]([*METRIC_NAMES.items(), *SET_METRIC_NAMES.items()])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedRun:
    """One row of the comparison."""

    name: str
    folder: RunFolder
    summary: Summary | SetSummary

    @property
    def names(self) -> Mapping[Any, str]:
        """What its metrics are called."""
        return SET_METRIC_NAMES if self.folder.predictions.multi_label else METRIC_NAMES

    @property
    def intervals(self) -> Mapping[Any, Interval]:
        """Interval of each metric that is printed."""
        return self.summary.intervals

    def pooled(self, metric: Any) -> Spread:
        """Give a metric pooled over folds, mean and deviation over seeds."""
        spreads: Mapping[Any, Spread] = self.summary.scores.pooled
        return spreads[metric]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """A run against the first run on its corpus; the first on a further corpus against the first.

    ``test`` is ``None`` where nothing can be paired, and ``caveats`` then says why; ``p_adjusted``
    is p after Holm's rule over all tests of the comparison.
    """

    corpus: str
    run: str
    against: str
    test: PairedTest | None
    p_adjusted: float | None
    caveats: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        if self.test is None or self.p_adjusted is None:
            return f"{self.run} and {self.against} cannot be compared: {'; '.join(self.caveats)}."
        points = 100 * self.test.difference
        direction = "above" if points >= 0 else "below"
        sure = "significantly " if self.p_adjusted <= 0.05 else "not significantly "
        return (
            f"{self.run} is {sure}{direction} {self.against}: {points:+.1f} points of "
            f"{_short(self.test.metric)}, "
            f"interval {100 * self.test.low:+.1f} to {100 * self.test.high:+.1f}, "
            f"p = {_p(self.p_adjusted)}."
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Several runs, and pairs of them on the same corpus."""

    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]

    @property
    def _tested(self) -> str:
        return _short(_tested_metric(self.runs[0].folder))

    def rows(self) -> list[dict[str, str]]:
        """One record of ready text per run, for printing."""
        rows = []
        for run in self.runs:
            scores, n_parameters = run.summary.scores, run.folder.n_parameters
            row = {
                "run": run.name,
                "corpus": run.folder.corpus_title,
                "protocol": run.folder.protocol_words,
            }
            for metric, interval in run.intervals.items():
                row[f"{run.names[metric]} %"] = percent(run.pooled(metric).mean)
                row[f"{_short(metric)} interval"] = (
                    f"{percent(interval.low)} to {percent(interval.high)}"
                )
            baseline = [percent(getattr(scores.majority, metric)) for metric in run.intervals]
            row |= {
                f"majority {' / '.join(map(_short, run.intervals))} %": " / ".join(baseline),
                "utterances": str(scores.n_utterances),
                "speakers": str(scores.n_speakers or "?"),
                "seeds": str(len(scores.seeds)),
                "parameters": "?" if n_parameters is None else f"{n_parameters:,}",
            }
            rows.append(row)
        return rows

    def pair_rows(self) -> list[dict[str, str]]:
        """One record of ready text per tested pair, for printing."""
        rows = []
        for pair in self.pairs:
            test = pair.test
            remarks = "; ".join(pair.caveats + (() if test is None else test.notes))
            rows.append(
                {
                    "corpus": pair.corpus,
                    "run": pair.run,
                    "against": pair.against,
                    f"{self._tested} difference": (
                        "–" if test is None else f"{100 * test.difference:+.1f}"
                    ),
                    "interval": (
                        "–" if test is None else f"{100 * test.low:+.1f} to {100 * test.high:+.1f}"
                    ),
                    "p": "–" if test is None else _p(test.p),
                    "p (Holm)": "–" if pair.p_adjusted is None else _p(pair.p_adjusted),
                    "speakers": "–" if test is None else str(test.n_speakers or "?"),
                    "utterances": "–" if test is None else str(test.n_utterances),
                    "remarks": remarks,
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON."""
        content: dict[str, Any] = jsonable(
            {
                "runs": [
                    {
                        "run": run.name,
                        "corpus": run.folder.corpus_title,
                        "system": run.folder.system,
                        "protocol": run.folder.protocol_words,
                        "warnings": run.folder.warning_words,
                        "n_parameters": run.folder.n_parameters,
                        **run.summary.to_dict(),
                    }
                    for run in self.runs
                ],
                "pairs": [
                    {
                        "corpus": pair.corpus,
                        "run": pair.run,
                        "against": pair.against,
                        "p_adjusted": pair.p_adjusted,
                        "caveats": pair.caveats,
                        "verdict": pair.verdict,
                        "test": None if pair.test is None else pair.test.to_dict(),
                    }
                    for pair in self.pairs
                ],
            }
        )
        return content

    def write_xlsx(self, path: Path | str) -> Path:
        """Write one workbook over all runs: summary, corpora, tests, recalls, folds.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        sheets = [self._summary_sheet()]
        if len({run.folder.corpus_title for run in self.runs}) > 1:
            sheets += [self._corpora_sheet(metric) for metric in self.runs[0].intervals]
        if self.pairs:
            sheets.append(self._tests_sheet())
        sheets.append(self._classes_sheet("recall", "recall per class"))
        if self.runs[0].folder.predictions.multi_label:
            sheets.append(self._classes_sheet("uar", "two-class UAR per class"))
        sheets.append(self._folds_sheet())
        try:
            return save_sheets(path, sheets)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"{path}: cannot be written ({reason}): name a file in a folder that exists"
            ) from None

    def _summary_sheet(self) -> Sheet:
        rows: list[dict[str, Cell]] = []
        for run in self.runs:
            scores = run.summary.scores
            fold_mean: Mapping[Any, Spread] = scores.fold_mean
            row: dict[str, Cell] = {
                "run": run.name,
                "system": run.folder.system,
                "corpus": run.folder.corpus_title,
                "protocol": run.folder.protocol_words,
                "limits": ", ".join(run.folder.warning_words) or "none noted",
            }
            for metric, name in run.names.items():
                row[name] = run.pooled(metric).mean
                if metric in run.intervals:
                    row[f"{_short(metric)} sd over seeds"] = run.pooled(metric).sd
                    row[f"{_short(metric)} low"] = run.intervals[metric].low
                    row[f"{_short(metric)} high"] = run.intervals[metric].high
            for metric in run.intervals:
                row[f"mean of folds {_short(metric)}"] = fold_mean[metric].mean
                row[f"majority {_short(metric)}"] = getattr(scores.majority, metric)
            interval = next(iter(run.intervals.values()))
            rows.append(
                row
                | {
                    "utterances": scores.n_utterances,
                    "speakers": scores.n_speakers or None,
                    "folds": scores.n_folds,
                    "seeds": len(scores.seeds),
                    "parameters": run.folder.n_parameters,
                    "interval over": f"{interval.cluster}s",
                    "notes": "; ".join(filter(None, (interval.note, *scores.notes))),
                }
            )
        return table_sheet("summary", rows)

    def _corpora_sheet(self, metric: str) -> Sheet:
        """Systems by corpora: the table papers print."""
        corpora = list(dict.fromkeys(run.folder.corpus_title for run in self.runs))
        lines = list(
            dict.fromkeys((run.folder.system, _protocol_key(run.folder)) for run in self.runs)
        )
        sheet = Sheet(f"{_short(metric)} by corpus")
        sheet.header("system", "protocol", *corpora)
        for system, protocol in lines:
            cells: list[Cell] = []
            for corpus in corpora:
                values = [
                    run.pooled(metric).mean
                    for run in self.runs
                    if (run.folder.system, _protocol_key(run.folder)) == (system, protocol)
                    and run.folder.corpus_title == corpus
                ]
                # Two runs of one system on one corpus are not averaged: they are listed apart.
                cells.append(
                    values[0] if len(values) == 1 else " / ".join(percent(v) for v in values)
                )
            sheet.row(system, protocol, *cells)
        return sheet

    def _tests_sheet(self) -> Sheet:
        rows: list[dict[str, Cell]] = []
        for pair in self.pairs:
            test = pair.test
            rows.append(
                {
                    "corpus": pair.corpus,
                    "run": pair.run,
                    "against": pair.against,
                    f"{self._tested} difference": None if test is None else test.difference,
                    "low": None if test is None else test.low,
                    "high": None if test is None else test.high,
                    "p": None if test is None else _p(test.p),
                    "p (Holm)": None if pair.p_adjusted is None else _p(pair.p_adjusted),
                    "speakers": None if test is None else test.n_speakers or None,
                    "utterances": None if test is None else test.n_utterances,
                    "verdict": pair.verdict,
                    "remarks": "; ".join(pair.caveats + (() if test is None else test.notes)),
                }
            )
        return table_sheet("tests", rows)

    def _classes_sheet(self, score: str, title: str) -> Sheet:
        classes = list(
            dict.fromkeys(label for run in self.runs for label in run.summary.scores.classes)
        )
        rows: list[dict[str, Cell]] = []
        for run in self.runs:
            values = {row.label: getattr(row, score) for row in run.summary.scores.per_class}
            rows.append(
                {"run": run.name, "corpus": run.folder.corpus_title}
                | {label: values.get(label) for label in classes}
            )
        return table_sheet(title, rows)

    def _folds_sheet(self) -> Sheet:
        rows: list[dict[str, Cell]] = [
            {
                "run": run.name,
                "corpus": run.folder.corpus_title,
                "fold": group.name,
                "seed": group.seed,
                "utterances": group.n_utterances,
            }
            | {run.names[metric]: getattr(group, metric) for metric in run.intervals}
            for run in self.runs
            for group in run.summary.scores.per_fold_seed
        ]
        return table_sheet("folds", rows)


def compare_runs(
    paths: Sequence[Path | str], *, n_replicates: int = 2000, seed: int = 0
) -> Comparison:
    """Read, score and compare runs.

    Parameters
    ----------
    paths
        Run folders or bare predictions tables; the first on each corpus is the one compared with.
    n_replicates, seed
        Of the resampling behind intervals and tests.

    Raises
    ------
    InputError
        If no run is given, one cannot be read, or some have several classes per utterance and
        others one.
    """
    if not paths:
        raise InputError("no runs to compare: give at least one run folder")
    folders = [read_run(path) for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        if folder.predictions.multi_label != folders[0].predictions.multi_label:
            kinds = ("one class", "several classes")
            raise InputError(
                f"{path}: has {kinds[folder.predictions.multi_label]} per utterance, {paths[0]} "
                f"{kinds[folders[0].predictions.multi_label]}: compare runs of one kind"
            )
    summarise = summarize_sets if folders[0].predictions.multi_label else summarize
    names = _distinct_names(folders)
    runs = tuple(
        ComparedRun(
            name=name,
            folder=folder,
            summary=summarise(folder.predictions, name=name, n_replicates=n_replicates, seed=seed),
        )
        for name, folder in zip(names, folders, strict=True)
    )
    first: dict[str, ComparedRun] = {}
    pairs: list[ComparedPair] = []
    for run in runs:
        corpus = _corpus_key(run, first)
        if corpus in first:
            pairs.append(_pair(run, first[corpus], n_replicates=n_replicates, seed=seed))
        else:
            if first:
                pairs.append(_untested(run, runs[0]))
            first[corpus] = run
    tested = [index for index, pair in enumerate(pairs) if pair.test is not None]
    adjusted = holm([test.p for pair in pairs if (test := pair.test) is not None])
    for index, p in zip(tested, adjusted, strict=True):
        pairs[index] = replace(pairs[index], p_adjusted=p)
    return Comparison(runs=runs, pairs=tuple(pairs))


def _corpus_key(run: ComparedRun, first: dict[str, ComparedRun]) -> str:
    """Key of the run's corpus; a table that names none belongs where its utterances occur."""
    if run.folder.corpus_name:
        return run.folder.corpus_name.lower()
    ids = set(run.folder.predictions.ids.tolist())
    for corpus, other in first.items():
        if not ids.isdisjoint(other.folder.predictions.ids.tolist()):
            return corpus
    return f"unnamed corpus of {run.name}"


def _pair(run: ComparedRun, against: ComparedRun, *, n_replicates: int, seed: int) -> ComparedPair:
    caveats = _differences(run.folder, against.folder)
    test: PairedTest | None = None
    try:
        test = paired_test(
            run.folder.predictions,
            against.folder.predictions,
            metric=_tested_metric(run.folder),
            n=n_replicates,
            seed=seed,
        )
    except InputError as error:
        caveats = [f"not tested: {error}", *caveats]
    return ComparedPair(
        corpus=against.folder.corpus_title,
        run=run.name,
        against=against.name,
        test=test,
        p_adjusted=None,
        caveats=tuple(caveats),
    )


def _untested(run: ComparedRun, against: ComparedRun) -> ComparedPair:
    """Say that runs on two corpora are not tested against each other."""
    corpora = f"{run.folder.corpus_title} and {against.folder.corpus_title}"
    return ComparedPair(
        corpus=run.folder.corpus_title,
        run=run.name,
        against=against.name,
        test=None,
        p_adjusted=None,
        caveats=(f"not tested: no utterances in common ({corpora})",),
    )


def _tested_metric(folder: RunFolder) -> PairedMetric:
    return "binary_uar" if folder.predictions.multi_label else "uar"


def _short(metric: str) -> str:
    """Name a metric without what stands in brackets behind it.

    >>> _short("uar"), _short("binary_uar")
    ('UAR', 'two-class UAR')
    """
    return _NAMES[metric].split(" (")[0]


def _differences(a: RunFolder, b: RunFolder) -> list[str]:
    """Say what apart from the system differs between two runs."""
    caveats = []
    if a.run and b.run:
        if _protocol_key(a) != _protocol_key(b):
            caveats.append(
                f"protocols differ ({_protocol_key(a)} against {_protocol_key(b)}): the difference "
                "is not one between systems alone"
            )
        if a.corpus.get("fingerprint") != b.corpus.get("fingerprint"):
            caveats.append("corpus fingerprints differ: not the same copy of the corpus")
        if tuple(a.predictions.classes) != tuple(b.predictions.classes):
            caveats.append("label spaces differ: the tasks are not equally hard")
    elif a.run or b.run:
        unknown = b if a.run else a
        caveats.append(
            f"protocol of {unknown.name} is unknown (a bare table): make sure that it was trained "
            "on the same folds"
        )
    if not caveats and not _same_folds(a, b):
        caveats.append(
            "utterances are in different folds: the systems were not trained on the same parts"
        )
    return caveats


def _same_folds(a: RunFolder, b: RunFolder) -> bool:
    """Whether the utterances of both are grouped alike, whatever the folds are called."""
    if len(a.predictions.fold_values) == 1 or len(b.predictions.fold_values) == 1:
        return len(a.predictions.fold_values) == len(b.predictions.fold_values)
    folds_a = dict(zip(a.predictions.ids.tolist(), a.predictions.folds.tolist(), strict=True))
    folds_b = dict(zip(b.predictions.ids.tolist(), b.predictions.folds.tolist(), strict=True))
    pairs = {(fold, folds_b[key]) for key, fold in folds_a.items() if key in folds_b}
    n_a, n_b = len({a for a, _ in pairs}), len({b for _, b in pairs})
    return len(pairs) == n_a == n_b


def _protocol_key(folder: RunFolder) -> str:
    """Protocol without words on the corpus, which is the same for runs that are paired."""
    limits = [w for w in folder.warning_words if w not in ("SYNTHETIC", "incomplete corpus")]
    return (
        ", ".join(part for part in (folder.split, folder.selection, *limits) if part) or "unknown"
    )


def _distinct_names(folders: Sequence[RunFolder]) -> list[str]:
    names = [folder.name for folder in folders]
    counts = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    distinct = []
    for name, folder in zip(names, folders, strict=True):
        if counts[name] > 1:
            seen[name] = seen.get(name, 0) + 1
            own = folder.path.resolve()
            own = own.parent if own.name == "predictions.csv" else own
            name = f"{name} [{own.name if own.name != name else seen[name]}]"
        distinct.append(name)
    if len(set(distinct)) < len(distinct):
        distinct = [f"{name} #{number}" for number, name in enumerate(distinct, start=1)]
    return distinct


def _p(p: float) -> str:
    """Write a p-value with two significant digits."""
    if np.isnan(p):
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
