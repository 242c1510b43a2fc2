"""Results as a spreadsheet: a summary, the pooled matrix, and one sheet per fold.

The layout follows the workbook of the original TIM-Net code (per fold a confusion matrix and a
table of precision, recall, F1 and support closed by accuracy, macro average and weighted average),
with two differences: matrices have **rows = truth, columns = prediction** and say so in their
corner cell (the original's were transposed and unlabelled), and there is a summary, which the
original lacked. A multi-label table has no confusion matrix; one sheet scores its classes instead.

Values are fractions shown as percent, so formulas can go on computing with them. Text is stored as
text: an utterance called ``=1+1`` or ``@home`` stays what it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serkit.evaluation.metrics import (
    METRIC_NAMES,
    METRICS_OF_CONFUSION,
    Counts,
    class_scores,
    grouped_confusions,
    row_shares,
)
from serkit.evaluation.multilabel import SET_METRIC_NAMES, SetScores
from serkit.evaluation.predictions import Predictions
from serkit.evaluation.runfolder import RunFolder
from serkit.evaluation.scores import Scores, Spread
from serkit.evaluation.significance import Interval
from serkit.evaluation.summary import SetSummary, Summary
from serkit.files import replacing

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

__all__ = ["Sheet", "save_sheets", "sheet_name", "write_workbook"]

ORIENTATION = "truth \\ predicted"
_FORBIDDEN = re.compile(r"[\[\]:*?/\\\x00-\x1f]")
_MAX_NAME = 31  # characters; the limit of the format
_PERCENT = "0.0%"
_HEADER_FILL = "DCE6F5"
_MAX_WIDTH = 60  # characters; wider columns push the numbers off the screen

Cell = str | float | int | None


class Sheet:
    """Rows of one sheet, written top to bottom; fractions are shown as percent.

    Rows added by :meth:`header` are bold; numbers of type float are shown as percent unless the
    row says otherwise; NaN becomes an empty cell.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[tuple[Sequence[Cell], str]] = []

    def header(self, *cells: Cell) -> None:
        """Add a row of column titles."""
        self.rows.append((cells, "header"))

    def title(self, text: str) -> None:
        """Add a bold line."""
        self.rows.append(((text,), "title"))

    def row(self, *cells: Cell) -> None:
        """Add a row whose floats are fractions."""
        self.rows.append((cells, "percent"))

    def numbers(self, *cells: Cell) -> None:
        """Add a row whose floats are plain numbers."""
        self.rows.append((cells, "plain"))

    def gap(self) -> None:
        """Leave a row empty."""
        self.rows.append(((), "plain"))


def write_workbook(path: Path | str, folder: RunFolder, summary: Summary | SetSummary) -> Path:
    """Write results.xlsx of a run; the file is replaced in one step."""
    if isinstance(summary, SetSummary):
        sheets = [_set_summary_sheet(folder, summary), _set_classes_sheet(summary)]
    else:
        sheets = [
            _summary_sheet(folder, summary),
            _pooled_sheet(summary),
            *_fold_sheets(folder.predictions),
        ]
    if folder.experts:
        sheets.insert(2, _experts_sheet(folder))
    return save_sheets(path, sheets)


def _fold_sheets(predictions: Predictions) -> list[Sheet]:
    """Make one sheet per fold and seed: confusion matrix and class table."""
    sheets = []
    seeds = np.asarray(predictions.seed_values)
    folds = predictions.fold_values
    cube = _confusions_by_fold_and_seed(predictions)
    for f, fold in enumerate(folds):
        for s, seed in enumerate(seeds.tolist()):
            if not cube[f, s].sum():
                continue
            name = f"fold {fold}" if len(seeds) == 1 else f"fold {fold} seed {seed}"
            sheet = Sheet(name)
            _matrix(sheet, cube[f, s], predictions.classes)
            sheet.gap()
            _class_table(sheet, cube[f, s], predictions.classes)
            sheets.append(sheet)
    return sheets


def save_sheets(path: Path | str, sheets: Sequence[Sheet]) -> Path:
    """Write sheets to an .xlsx file, atomically, under valid and distinct names."""
    from openpyxl import Workbook

    path = Path(path)
    book = Workbook()
    book.remove(book.active)
    taken: set[str] = set()
    for sheet in sheets:
        name = sheet_name(sheet.name, taken=taken)
        taken.add(name.lower())
        _fill(book.create_sheet(name), sheet)
    with replacing(path) as part:
        book.save(part)
    return path


def sheet_name(wanted: str, *, taken: set[str]) -> str:
    r"""Make a sheet name that spreadsheets accept and that differs from the taken ones.

    At most 31 characters, none of ``[]:*?/\``, no apostrophe at either end; ``taken`` holds names
    in lower case.

    >>> sheet_name("fold a/b", taken=set()), sheet_name("Fold 1", taken={"fold 1"})
    ('fold a_b', 'Fold 1 (2)')
    """
    clean = _FORBIDDEN.sub("_", wanted).strip().strip("'") or "sheet"
    name = clean[:_MAX_NAME].strip().strip("'")
    number = 2
    # 'History' is a name that Excel keeps for itself.
    while name.lower() in taken or name.lower() == "history":
        suffix = f" ({number})"
        name = clean[: _MAX_NAME - len(suffix)].rstrip().rstrip("'") + suffix
        number += 1
    return name


def _confusions_by_fold_and_seed(predictions: Predictions) -> Counts:
    seeds = np.asarray(predictions.seed_values)
    fold_number = {fold: number for number, fold in enumerate(predictions.fold_values)}
    fold_index = np.asarray([fold_number[fold] for fold in predictions.folds.tolist()])
    n_classes = len(predictions.classes)
    counts = grouped_confusions(
        predictions.truth_index,
        predictions.predicted_index,
        fold_index * len(seeds) + np.searchsorted(seeds, predictions.seeds),
        n_groups=len(fold_number) * len(seeds),
        n_classes=n_classes,
    )
    return counts.reshape(len(fold_number), len(seeds), n_classes, n_classes)


def _summary_sheet(folder: RunFolder, summary: Summary) -> Sheet:
    scores = summary.scores
    sheet = _titled_sheet(folder, scores)
    sheet.numbers("orientation", "all confusion matrices: rows = truth, columns = predicted")
    sheet.gap()
    _score_table(sheet, scores, METRIC_NAMES)
    if scores.calibration_error is not None:
        sheet.row("expected calibration error", scores.calibration_error)
    sheet.gap()
    _interval_table(sheet, summary.intervals, METRIC_NAMES)
    sheet.gap()
    sheet.header("majority baseline", "UAR (UA)", "WAR (WA)")
    sheet.row(f"always {scores.majority.label}", scores.majority.uar, scores.majority.war)
    sheet.gap()
    _fold_table(sheet, scores, METRIC_NAMES)
    if scores.per_speaker:
        sheet.gap()
        sheet.header("speaker", None, "utterances", "UAR (UA)", "WAR (WA, accuracy)")
        for group in scores.per_speaker:
            sheet.row(group.name, None, group.n_utterances, group.uar, group.war)
    _notes(sheet, scores.notes, summary.intervals)
    return sheet


def _set_summary_sheet(folder: RunFolder, summary: SetSummary) -> Sheet:
    scores = summary.scores
    sheet = _titled_sheet(folder, scores)
    sheet.numbers("classes per utterance, truth", scores.n_true)
    sheet.numbers("classes per utterance, predicted", scores.n_predicted)
    sheet.row("answers without a class", scores.share_empty)
    sheet.gap()
    _score_table(sheet, scores, SET_METRIC_NAMES)
    sheet.gap()
    _interval_table(sheet, summary.intervals, SET_METRIC_NAMES)
    sheet.gap()
    sheet.header("majority baseline", *SET_METRIC_NAMES.values())
    values = (getattr(scores.majority, name) for name in SET_METRIC_NAMES)
    sheet.row(f"always {scores.majority.label}", *values)
    sheet.gap()
    _fold_table(sheet, scores, SET_METRIC_NAMES)
    _notes(sheet, scores.notes, summary.intervals)
    return sheet


def _titled_sheet(folder: RunFolder, scores: Scores | SetScores) -> Sheet:
    sheet = Sheet("summary")
    sheet.title(folder.title)
    sheet.numbers("system", folder.system)
    sheet.numbers("corpus", folder.corpus_title)
    sheet.numbers("protocol", folder.protocol_words)
    sheet.numbers("limits", ", ".join(folder.warning_words) or "none noted")
    sheet.numbers("utterances", scores.n_utterances)
    if folder.not_judged:
        sheet.numbers("coverage", folder.not_judged)
    sheet.numbers("speakers", scores.n_speakers or "unknown")
    sheet.numbers("seeds", ", ".join(str(seed) for seed in scores.seeds))
    if folder.n_parameters is not None:
        sheet.numbers("parameters", folder.n_parameters)
    return sheet


def _score_table(sheet: Sheet, scores: Scores | SetScores, names: Mapping[Any, str]) -> None:
    pooled: Mapping[Any, Spread] = scores.pooled
    fold_mean: Mapping[Any, Spread] = scores.fold_mean
    sheet.header("score", "pooled over folds", "sd over seeds", "mean of folds", "sd over folds")
    for name, words in names.items():
        folds = fold_mean[name]
        sheet.row(words, pooled[name].mean, pooled[name].sd, folds.mean, folds.sd)


def _interval_table(
    sheet: Sheet, intervals: Mapping[Any, Interval], names: Mapping[Any, str]
) -> None:
    sheet.header("interval", "low", "high", "level", "resampled over", "clusters")
    for name, interval in intervals.items():
        sheet.row(
            names[name],
            interval.low,
            interval.high,
            interval.level,
            f"{interval.cluster}s",
            interval.n_clusters,
        )


def _fold_table(sheet: Sheet, scores: Scores | SetScores, names: Mapping[Any, str]) -> None:
    """Write the scores of every fold and seed, and what they come to."""
    pooled: Mapping[Any, Spread] = scores.pooled
    fold_mean: Mapping[Any, Spread] = scores.fold_mean
    sheet.header("fold", "seed", "utterances", *names.values())
    for group in scores.per_fold_seed:
        values = (getattr(group, name) for name in names)
        sheet.row(group.name, group.seed, group.n_utterances, *values)
    sheet.row("mean of folds", None, None, *(fold_mean[name].mean for name in names))
    sheet.row("sd over folds", None, None, *(fold_mean[name].sd for name in names))
    for group in scores.per_seed:
        values = (getattr(group, name) for name in names)
        sheet.row("pooled", group.seed, group.n_utterances, *values)
    if len(scores.seeds) > 1:
        sheet.row("pooled, mean", None, None, *(pooled[name].mean for name in names))
        sheet.row("pooled, sd", None, None, *(pooled[name].sd for name in names))


def _notes(sheet: Sheet, notes: Sequence[str], intervals: Mapping[Any, Interval]) -> None:
    about_intervals = dict.fromkeys(interval.note for interval in intervals.values())
    notes = [*notes, *filter(None, about_intervals)]
    if notes:
        sheet.gap()
        sheet.header("notes")
        for note in notes:
            sheet.numbers(note)


def _set_classes_sheet(summary: SetSummary) -> Sheet:
    sheet = Sheet("classes")
    sheet.header(
        "class",
        "recall (sensitivity)",
        "specificity",
        SET_METRIC_NAMES["binary_uar"],
        "precision",
        "f1-score",
        "support",
    )
    for row in summary.scores.per_class:
        sheet.row(
            row.label, row.recall, row.specificity, row.uar, row.precision, row.f1, row.support
        )
    return sheet


def _experts_sheet(folder: RunFolder) -> Sheet:
    sheet = Sheet("experts")
    sheet.title("each expert's own yes or no, mean over seeds")
    sheet.header("expert", "two-class UAR", "two-class WAR", "macro F1")
    for label, row in folder.experts.items():
        sheet.row(label, float(row["uar"]), float(row["war"]), float(row["f1"]))
    return sheet


def _pooled_sheet(summary: Summary) -> Sheet:
    scores = summary.scores
    sheet = Sheet("pooled")
    n_seeds = len(scores.seeds)
    if n_seeds > 1:
        sheet.title(f"counts added over {scores.n_folds} folds and {n_seeds} seeds")
    else:
        sheet.title(f"counts added over {scores.n_folds} folds")
    _matrix(sheet, scores.confusion, scores.classes)
    sheet.gap()
    sheet.title("share of each true class")
    sheet.header(ORIENTATION, *scores.classes)
    for label, values in zip(scores.classes, row_shares(scores.confusion).tolist(), strict=True):
        sheet.row(label, *values)
    sheet.gap()
    _class_table(sheet, scores.confusion, scores.classes)
    return sheet


def _matrix(sheet: Sheet, confusion: Counts, classes: Sequence[str]) -> None:
    sheet.header(ORIENTATION, *classes)
    for label, counts in zip(classes, confusion.tolist(), strict=True):
        sheet.row(label, *counts)


def _class_table(sheet: Sheet, confusion: Counts, classes: tuple[str, ...]) -> None:
    """Write the table of the original: classes, then accuracy, macro avg, weighted avg."""
    rows = class_scores(confusion, classes)
    sheet.header("class", "precision", "recall", "f1-score", "support")
    for row in rows:
        sheet.row(row.label, row.precision, row.recall, row.f1, row.support)
    total = int(confusion.sum())
    accuracy = float(METRICS_OF_CONFUSION["war"](confusion))
    present = [row for row in rows if row.support]
    weights = [row.support / total for row in present]
    macro_precision = Spread.of([row.precision for row in rows if row.support or row.n_predicted])
    weighted_precision = sum(
        weight * row.precision for weight, row in zip(weights, present, strict=True)
    )
    sheet.row("accuracy", accuracy, accuracy, accuracy, total)
    sheet.row(
        "macro avg",
        macro_precision.mean,
        float(METRICS_OF_CONFUSION["uar"](confusion)),
        float(METRICS_OF_CONFUSION["f1_macro"](confusion)),
        total,
    )
    sheet.row(
        "weighted avg",
        weighted_precision,
        accuracy,
        float(METRICS_OF_CONFUSION["f1_weighted"](confusion)),
        total,
    )


def _fill(worksheet: Worksheet, sheet: Sheet) -> None:
    from openpyxl.styles import Alignment, Font, PatternFill
    from openpyxl.utils import get_column_letter

    widths: dict[int, int] = {}
    for number, (cells, kind) in enumerate(sheet.rows, start=1):
        for column, value in enumerate(cells, start=1):
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                continue
            cell = worksheet.cell(row=number, column=column)
            if isinstance(value, str):
                _set_text(cell, value)
            else:
                cell.value = value
                if isinstance(value, float) and kind == "percent":
                    cell.number_format = _PERCENT
            if kind in ("header", "title"):
                cell.font = Font(bold=True, size=13 if kind == "title" else 11)
            if kind == "header":
                cell.fill = PatternFill("solid", fgColor=_HEADER_FILL)
                if column > 1:
                    cell.alignment = Alignment(horizontal="right")
            if len(cells) > 1:
                shown = len(value) if isinstance(value, str) else 8
                widths[column] = min(max(widths.get(column, 8), shown + 2), _MAX_WIDTH)
    for column, width in widths.items():
        worksheet.column_dimensions[get_column_letter(column)].width = width


def _set_text(cell: Any, text: str) -> None:
    """Store text as text; control characters, which the format forbids, become question marks."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    cell.value = ILLEGAL_CHARACTERS_RE.sub("?", text)[:32_767]  # the format's limit per cell
    cell.data_type = "s"
    # Keeps the cell text if somebody edits it in a spreadsheet program.
    cell.quotePrefix = text[:1] in ("=", "+", "-", "@")


def table_sheet(name: str, rows: Sequence[Mapping[str, Cell]]) -> Sheet:
    """Make a sheet of records that share their keys; the first record names the columns."""
    sheet = Sheet(name)
    if rows:
        sheet.header(*rows[0])
        for row in rows:
            sheet.row(*row.values())
    return sheet
