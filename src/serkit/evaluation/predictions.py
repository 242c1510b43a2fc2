"""The predictions table: the one file that joins training and evaluation.

One row per utterance and seed, as comma-separated text with a header line:

========== ======================================================================================
column     meaning
========== ======================================================================================
id         utterance, the same in every table that is to be compared
truth      label given by the corpus
score_<c>  one column per class in label order, numbers in [0, 1] that sum to 1 over a row
predicted  class the system chose; read where there are no score columns, else the highest score
speaker    who talks; without it every interval is over utterances and says so
corpus     key of the corpus
fold       test part the row belongs to; without it the table is one fold named ``all``
seed       integer that names the repetition; without it 0
path, sentence, transcript, start_s, end_s
           optional, for listening to mistakes and for leak checks
========== ======================================================================================

``id``, ``truth`` and either scores or ``predicted`` are all that a foreign system's table needs.
Tables separated by semicolons or tabs, as spreadsheets export them, are read too. Nothing is
dropped: a row that cannot be used is an error that names the row.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serkit.files import replacing
from serkit.types import InputError

__all__ = ["Predictions", "PredictionsError", "read_predictions", "write_predictions"]

NO_FOLD = "all"
EXTRA_COLUMNS = ("path", "sentence", "transcript", "start_s", "end_s")
_KNOWN_COLUMNS = ("id", "corpus", "speaker", "fold", "seed", "truth", "predicted")
_SCORE_PREFIX = "score_"
_SUM_TOLERANCE = 1e-3  # scores are often written with four decimals


class PredictionsError(InputError):
    """A predictions table that cannot be used; the message names the file, row and column."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What a system said of every test utterance, once per seed.

    Attributes
    ----------
    ids, truth, predicted : (n_rows,), str
    classes
        The label space in index order; every ``truth`` and ``predicted`` is among them.
    scores : (n_rows, n_classes), float64, in [0, 1], or ``None``
    speakers, corpora, folds : (n_rows,), str; speakers and corpora all empty where unknown
    seeds : (n_rows,), int64
    extras
        Further columns by name, each with one string per row (:data:`EXTRA_COLUMNS`).
    notes
        What is defined but suspicious about the table, one sentence each.
    """

    ids: NDArray[np.str_]
    truth: NDArray[np.str_]
    predicted: NDArray[np.str_]
    classes: tuple[str, ...]
    scores: NDArray[np.float64] | None = None
    speakers: NDArray[np.str_]
    corpora: NDArray[np.str_]
    folds: NDArray[np.str_]
    seeds: NDArray[np.int64]
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        truth: Sequence[str],
        *,
        classes: Sequence[str] | None = None,
        predicted: Sequence[str] | None = None,
        scores: NDArray[np.floating] | None = None,
        speakers: Sequence[str] | None = None,
        corpora: Sequence[str] | None = None,
        folds: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        extras: Mapping[str, Sequence[str]] | None = None,
        name: str = "predictions",
    ) -> Predictions:
        """Build and check a table from columns; absent ones get their neutral value.

        Parameters
        ----------
        ids, truth
            One string per row.
        classes
            Label space in index order; required with ``scores``, else collected and sorted.
        predicted
            One class per row; with ``scores`` it is only compared with the highest score.
        scores : (n_rows, n_classes)
        speakers, corpora, folds, seeds, extras
            One value per row.
        name
            How errors call the table.

        Raises
        ------
        PredictionsError
            If the table is empty, columns differ in length, a label is missing or unknown, a
            score is not a number in [0, 1], an utterance occurs twice under one seed, or some
            rows have a speaker and others none.

        Examples
        --------
        >>> table = Predictions.of(["a", "b"], ["sad", "happy"], predicted=["sad", "sad"])
        >>> table.classes, len(table), table.seed_values
        (('happy', 'sad'), 2, (0,))
        """
        n_rows = len(ids)
        if n_rows == 0:
            raise PredictionsError(f"{name}: no rows, expected at least one utterance")
        columns: dict[str, Sequence[object] | NDArray[np.floating] | None] = {
            "truth": truth,
            "predicted": predicted,
            "scores": scores,
            "speaker": speakers,
            "corpus": corpora,
            "fold": folds,
            "seed": seeds,
            **(extras or {}),
        }
        for column, values in columns.items():
            if values is not None and len(values) != n_rows:
                raise PredictionsError(
                    f"{name}: {len(values)} values in '{column}' for {n_rows} ids: "
                    "give one value per utterance"
                )
        notes: list[str] = []
        checked: NDArray[np.float64] | None = None
        if scores is not None:
            if classes is None:
                raise PredictionsError(f"{name}: scores without classes: name them in score order")
            checked = np.asarray(scores, dtype=np.float64)
            notes += _check_scores(checked, tuple(classes), ids, name)
            best = checked.argmax(axis=1)
            chosen = [str(classes[index]) for index in best]
            if predicted is not None:
                notes += _compare_choice(checked, tuple(classes), predicted)
        elif predicted is not None:
            chosen = [str(label) for label in predicted]
        else:
            raise PredictionsError(
                f"{name}: neither a column 'predicted' nor score columns 'score_<class>': "
                "add one of the two"
            )
        truth = [str(label) for label in truth]
        for column, labels in (("truth", truth), ("predicted", chosen)):
            if "" in labels:
                row = labels.index("")
                raise PredictionsError(
                    f"{name}: row {row + 1} (id {ids[row]}) has an empty '{column}': "
                    "every utterance needs a label"
                )
        if classes is None:
            space = tuple(sorted(set(truth) | set(chosen)))
        else:
            space = tuple(str(label) for label in classes)
            for column, labels in (("truth", truth), ("predicted", chosen)):
                _refuse_unknown(labels, space, ids, column, name)
        speakers = [str(speaker) for speaker in speakers] if speakers is not None else [""] * n_rows
        if "" in speakers and any(speakers):
            row = speakers.index("")
            raise PredictionsError(
                f"{name}: row {row + 1} (id {ids[row]}) has no speaker while others have: "
                "fill in or leave out the column 'speaker'"
            )
        table = cls(
            ids=np.asarray([str(key) for key in ids], dtype=np.str_),
            truth=np.asarray(truth, dtype=np.str_),
            predicted=np.asarray(chosen, dtype=np.str_),
            classes=space,
            scores=checked,
            speakers=np.asarray(speakers, dtype=np.str_),
            corpora=np.asarray([str(c) for c in corpora] if corpora else [""] * n_rows),
            folds=np.asarray([str(f) for f in folds] if folds is not None else [NO_FOLD] * n_rows),
            seeds=np.asarray(seeds if seeds is not None else [0] * n_rows, dtype=np.int64),
            extras={key: tuple(str(v) for v in column) for key, column in (extras or {}).items()},
            notes=tuple(notes),
        )
        _refuse_duplicates(table, name)
        return table

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_speakers(self) -> bool:
        """Whether the table says who talks."""
        return bool((self.speakers != "").all())

    @property
    def truth_index(self) -> NDArray[np.int64]:
        """Class indices of ``truth``, (n_rows,)."""
        return _indices(self.truth, self.classes)

    @property
    def predicted_index(self) -> NDArray[np.int64]:
        """Class indices of ``predicted``, (n_rows,)."""
        return _indices(self.predicted, self.classes)

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds that occur, ascending."""
        return tuple(int(seed) for seed in np.unique(self.seeds))

    @property
    def fold_values(self) -> tuple[str, ...]:
        """The folds that occur, in order of appearance."""
        return tuple(dict.fromkeys(self.folds.tolist()))

    @property
    def keys(self) -> tuple[str, ...]:
        """One key per row by which tables are matched: corpus (where known) and id."""
        return tuple(
            f"{corpus}/{key}" if corpus else key
            for corpus, key in zip(self.corpora.tolist(), self.ids.tolist(), strict=True)
        )


def read_predictions(path: Path | str, *, classes: Sequence[str] | None = None) -> Predictions:
    """Read a predictions table, ours or a foreign system's.

    Parameters
    ----------
    path
        Text with a header line; commas, semicolons or tabs between the columns.
    classes
        Label order for a table without score columns; with them their order holds.

    Raises
    ------
    PredictionsError
        If the file is missing, no such table, or any row cannot be used.
    """
    path = Path(path)
    text = _read_text(path)
    header_line = text.split("\n", 1)[0]
    delimiter = next((mark for mark in ",;\t" if mark in header_line), ",")
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row
        ]
    except csv.Error as error:
        raise PredictionsError(f"{path}: not a table of comma-separated text ({error})") from None
    header = [name.strip() for name in rows[0]]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise PredictionsError(f"{path}: column '{twice[0]}' occurs twice in the header")
    for required in ("id", "truth"):
        if required not in header:
            raise PredictionsError(
                f"{path}: no column '{required}'; got {_listed(header)}, expected at least id, "
                "truth and either predicted or score_<class> columns"
            )
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise PredictionsError(
                f"{path}: row {number} has {len(row)} cells, the header {len(header)}: "
                "quote cells that contain the separator"
            )
    if len(rows) == 1:
        raise PredictionsError(f"{path}: no rows below the header, expected one per utterance")
    columns = dict(zip(header, zip(*rows[1:], strict=True), strict=True))
    ids = columns["id"]
    score_columns = [name for name in header if name.startswith(_SCORE_PREFIX)]
    scores = None
    if score_columns:
        scores = np.stack([_floats(columns[name], name, ids, path) for name in score_columns], 1)
        classes = [name.removeprefix(_SCORE_PREFIX) for name in score_columns]
    predictions = Predictions.of(
        ids,
        columns["truth"],
        classes=classes,
        predicted=columns.get("predicted"),
        scores=scores,
        speakers=columns.get("speaker"),
        corpora=columns.get("corpus"),
        folds=columns.get("fold"),
        seeds=_integers(columns["seed"], ids, path) if "seed" in columns else None,
        extras={name: columns[name] for name in EXTRA_COLUMNS if name in columns},
        name=str(path),
    )
    for note in predictions.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return predictions


def write_predictions(path: Path | str, predictions: Predictions) -> Path:
    """Write a predictions table; a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    columns: dict[str, Iterable[object]] = {
        "id": predictions.ids.tolist(),
        "corpus": predictions.corpora.tolist(),
        "speaker": predictions.speakers.tolist(),
        "fold": predictions.folds.tolist(),
        "seed": predictions.seeds.tolist(),
        "truth": predictions.truth.tolist(),
        "predicted": predictions.predicted.tolist(),
    }
    if predictions.scores is not None:
        for name, scores in zip(predictions.classes, predictions.scores.T, strict=True):
            # Nine digits give every float32 back exactly.
            columns[_SCORE_PREFIX + name] = [format(score, ".9g") for score in scores.tolist()]
    columns.update(predictions.extras)
    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise PredictionsError(
            f"{path}: is a directory, expected a predictions table such as "
            f"{path / 'predictions.csv'}"
        )
    if not path.exists():
        raise PredictionsError(f"{path}: no such file, expected a predictions table")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise PredictionsError(
            f"{path}: not text in UTF-8; expected comma-separated text with a header line "
            "(save a spreadsheet as CSV UTF-8)"
        ) from None
    if "\0" in text:
        raise PredictionsError(f"{path}: not text, holds zero bytes; expected a table")
    if not text.strip():
        raise PredictionsError(f"{path}: the file is empty, expected a table with a header line")
    return text.lstrip("\r\n")


def _floats(
    column: Sequence[str], name: str, ids: Sequence[str], path: Path
) -> NDArray[np.float64]:
    try:
        return np.asarray(column, dtype=np.float64)
    except ValueError:
        for row, cell in enumerate(column):
            try:
                float(cell)
            except ValueError:
                raise PredictionsError(
                    f"{path}: row {row + 1} (id {ids[row]}): '{cell}' in column '{name}' is not a "
                    "number; expected a score between 0 and 1 with a decimal point"
                ) from None
        raise


def _integers(column: Sequence[str], ids: Sequence[str], path: Path) -> list[int]:
    for row, cell in enumerate(column):
        if not cell.strip().lstrip("+-").isdecimal():
            raise PredictionsError(
                f"{path}: row {row + 1} (id {ids[row]}): '{cell}' in column 'seed' is no integer"
            )
    return [int(cell) for cell in column]


def _check_scores(
    scores: NDArray[np.float64], classes: tuple[str, ...], ids: Sequence[str], name: str
) -> list[str]:
    """Refuse scores that are no numbers in [0, 1]; return a note if rows do not sum to 1."""
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise PredictionsError(
            f"{name}: scores of shape {scores.shape} for {len(classes)} classes, expected "
            "(n_rows, n_classes)"
        )
    bad = ~np.isfinite(scores)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise PredictionsError(
            f"{name}: row {row + 1} (id {ids[row]}): score of '{classes[column]}' is "
            f"{scores[row, column]}, and {int(bad.any(axis=1).sum())} of {len(scores)} rows hold "
            "such values: the model diverged or the table was joined wrongly"
        )
    outside = (scores < 0) | (scores > 1 + 1e-6)
    if outside.any():
        row, column = (int(index) for index in np.argwhere(outside)[0])
        raise PredictionsError(
            f"{name}: row {row + 1} (id {ids[row]}): score of '{classes[column]}' is "
            f"{scores[row, column]:g}, expected 0 to 1: apply softmax to logits first"
        )
    off = np.abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE
    if off.any():
        return [
            f"scores of {int(off.sum())} of {len(scores)} rows do not sum to 1, so calibration "
            "figures mean little"
        ]
    return []


def _compare_choice(
    scores: NDArray[np.float64], classes: tuple[str, ...], predicted: Sequence[str]
) -> list[str]:
    index = {label: number for number, label in enumerate(classes)}
    best = scores.max(axis=1)
    n_differ = sum(
        label not in index or scores[row, index[label]] < best[row] - 1e-6
        for row, label in enumerate(predicted)
    )
    if not n_differ:
        return []
    return [
        f"column 'predicted' differs from the highest score in {n_differ} of {len(scores)} rows; "
        "the scores decide"
    ]


def _refuse_unknown(
    labels: Sequence[str], classes: tuple[str, ...], ids: Sequence[str], column: str, name: str
) -> None:
    for row, label in enumerate(labels):
        if label not in classes:
            raise PredictionsError(
                f"{name}: row {row + 1} (id {ids[row]}): {column} '{label}' is not among the "
                f"classes {', '.join(classes)}: map or drop it before scoring"
            )


def _refuse_duplicates(table: Predictions, name: str) -> None:
    seen: set[tuple[str, int]] = set()
    for row, key in enumerate(zip(table.keys, table.seeds.tolist(), strict=True)):
        if key in seen:
            raise PredictionsError(
                f"{name}: row {row + 1}: id {table.ids[row]} occurs a second time under seed "
                f"{key[1]}: every utterance is tested once per seed"
            )
        seen.add(key)


def _indices(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.int64]:
    index = {label: number for number, label in enumerate(classes)}
    return np.asarray([index[label] for label in labels.tolist()], dtype=np.int64)


def _listed(names: Sequence[str], n_shown: int = 8) -> str:
    shown = ", ".join(names[:n_shown]) or "nothing"
    return shown if len(names) <= n_shown else f"{shown} and {len(names) - n_shown} more"
