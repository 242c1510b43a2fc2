"""The predictions table: the one file that joins training and evaluation.

One row per utterance and seed, as comma-separated text with a header line:

========== ======================================================================================
column     meaning
========== ======================================================================================
id         utterance, the same in every table that is to be compared
truth      label given by the corpus; ``truth_set`` in a multi-label table, see below
score_<c>  one column per class in label order, numbers in [0, 1] that sum to 1 over a row
predicted  class the system chose; read where there are no score columns, else the highest score
speaker    who talks; without it every interval is over utterances and says so
corpus     key of the corpus
fold       test part the row belongs to; without it the table is one fold named ``all``
seed       integer that names the repetition; without it 0
path, sentence, transcript, start_s, end_s
           optional, for listening to mistakes and for leak checks
========== ======================================================================================

**Several classes per utterance.** The name of the truth column alone says what a table is: with a
column ``truth_set`` it is multi-label, with ``truth`` it is not. A set is written as its classes
joined by ``+`` (``happy+sad``; read in any order, written alphabetically) and a true set is never
empty. Score columns are then independent probabilities, the predicted set holds every class with a
score above 0.5, and the column of the system's choice is called ``predicted_set``; it may be empty.
Mixed names are refused, and so are joined classes in a column ``truth`` or ``predicted``.

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
SET_MARK = "+"  # joins the classes of a set
SET_THRESHOLD = 0.5  # a class belongs to the predicted set above it
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
        Of a multi-label table sets: classes joined by ``+`` in alphabetical order.
    classes
        The label space in index order; every ``truth`` and ``predicted`` is made of them.
    scores : (n_rows, n_classes), float64, in [0, 1], or ``None``
    speakers, corpora, folds : (n_rows,), str; speakers and corpora all empty where unknown
    seeds : (n_rows,), int64
    extras
        Further columns by name, each with one string per row (:data:`EXTRA_COLUMNS`).
    notes
        What is defined but suspicious about the table, one sentence each.
    multi_label
        Whether an utterance may have several classes.
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
    multi_label: bool = False

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
        multi_label: bool = False,
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
            One class per row; with ``scores`` it is only compared with what they say.
        scores : (n_rows, n_classes)
        speakers, corpora, folds, seeds, extras
            One value per row.
        multi_label
            Whether ``truth`` and ``predicted`` are sets, their classes joined by ``+``.
        name
            How errors call the table.

        Raises
        ------
        PredictionsError
            If the table is empty, columns differ in length, a label is missing or unknown, a
            score is not a number in [0, 1], an utterance occurs twice under one seed, some rows
            have a speaker and others none, or sets stand where one class is expected.

        Examples
        --------
        >>> table = Predictions.of(["a", "b"], ["sad", "happy"], predicted=["sad", "sad"])
        >>> table.classes, len(table), table.seed_values
        (('happy', 'sad'), 2, (0,))
        >>> sets = Predictions.of(
        ...     ["a", "b"],
        ...     ["sad+happy", "sad"],
        ...     classes=["happy", "sad"],
        ...     scores=np.array([[0.7, 0.6], [0.1, 0.4]]),
        ...     multi_label=True,
        ... )
        >>> sets.truth.tolist(), sets.predicted.tolist()
        (['happy+sad', 'sad'], ['happy+sad', ''])
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
        truth_name, predicted_name = _choice_columns(multi_label)
        truth = [str(label) for label in truth]
        given = None if predicted is None else [str(label) for label in predicted]
        if multi_label:
            truth = _canonical_sets(truth, ids, truth_name, name)
            given = given and _canonical_sets(given, ids, predicted_name, name)
        notes: list[str] = []
        checked: NDArray[np.float64] | None = None
        if scores is not None:
            if classes is None:
                raise PredictionsError(f"{name}: scores without classes: name them in score order")
            checked = np.asarray(scores, dtype=np.float64)
            _check_scores(checked, tuple(classes), ids, name)
            choose = _choose_sets if multi_label else _choose_classes
            chosen, notes = choose(checked, tuple(classes), given)
        elif given is not None:
            chosen = given
        else:
            raise PredictionsError(
                f"{name}: neither a column '{predicted_name}' nor score columns 'score_<class>': "
                "add one of the two"
            )
        for column, labels in ((truth_name, truth), (predicted_name, chosen)):
            if "" in labels and not (multi_label and column == predicted_name):
                row = labels.index("")
                raise PredictionsError(
                    f"{name}: row {row + 1} (id {ids[row]}) has an empty '{column}': "
                    "every utterance needs a label"
                )
        space = _label_space(truth + chosen, classes, multi_label=multi_label, name=name)
        for column, labels in ((truth_name, truth), (predicted_name, chosen)):
            if not multi_label:
                _refuse_sets(labels, space, ids, column, name, declared=classes is not None)
            _refuse_unknown(labels, space, ids, column, name, multi_label=multi_label)
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
            multi_label=multi_label,
        )
        _refuse_duplicates(table, name)
        return table

    def __len__(self) -> int:
        return len(self.ids)

    def _indices(self, labels: NDArray[np.str_]) -> NDArray[np.int64]:
        if self.multi_label:
            raise InputError(
                "the predictions have several classes per utterance, but one is needed here: use "
                "the multi-label metrics"
            )
        index = {label: number for number, label in enumerate(self.classes)}
        return np.asarray([index[label] for label in labels.tolist()], dtype=np.int64)

    @property
    def has_speakers(self) -> bool:
        """Whether the table says who talks."""
        return bool((self.speakers != "").all())

    @property
    def truth_index(self) -> NDArray[np.int64]:
        """Class indices of ``truth``, (n_rows,); a multi-label table has none."""
        return self._indices(self.truth)

    @property
    def predicted_index(self) -> NDArray[np.int64]:
        """Class indices of ``predicted``, (n_rows,); a multi-label table has none."""
        return self._indices(self.predicted)

    @property
    def truth_sets(self) -> NDArray[np.bool_]:
        """Which classes ``truth`` holds, (n_rows, n_classes)."""
        return _members(self.truth, self.classes)

    @property
    def predicted_sets(self) -> NDArray[np.bool_]:
        """Which classes ``predicted`` holds, (n_rows, n_classes)."""
        return _members(self.predicted, self.classes)

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
    multi_label = _is_multi_label(header, path)
    truth_name, predicted_name = _choice_columns(multi_label)
    for required in ("id", truth_name):
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
    elif classes is None and predicted_name in columns:
        _refuse_numbers(columns[truth_name], columns[predicted_name], ids, path)
    predictions = Predictions.of(
        ids,
        columns[truth_name],
        classes=classes,
        predicted=columns.get(predicted_name),
        scores=scores,
        speakers=columns.get("speaker"),
        corpora=columns.get("corpus"),
        folds=columns.get("fold"),
        seeds=_integers(columns["seed"], ids, path) if "seed" in columns else None,
        extras={name: columns[name] for name in EXTRA_COLUMNS if name in columns},
        multi_label=multi_label,
        name=str(path),
    )
    for note in predictions.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return predictions


def write_predictions(path: Path | str, predictions: Predictions) -> Path:
    """Write a predictions table; a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    truth_name, predicted_name = _choice_columns(predictions.multi_label)
    columns: dict[str, Iterable[object]] = {
        "id": predictions.ids.tolist(),
        "corpus": predictions.corpora.tolist(),
        "speaker": predictions.speakers.tolist(),
        "fold": predictions.folds.tolist(),
        "seed": predictions.seeds.tolist(),
        truth_name: predictions.truth.tolist(),
        predicted_name: predictions.predicted.tolist(),
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


def join_classes(members: NDArray[np.bool_], classes: Sequence[str]) -> list[str]:
    """Write sets, (n_rows, n_classes), as strings: classes in alphabetical order, joined by ``+``.

    >>> join_classes(np.array([[True, True], [False, False]]), ["sad", "happy"])
    ['happy+sad', '']
    """
    order = sorted(range(len(classes)), key=lambda index: classes[index])
    return [SET_MARK.join(classes[index] for index in order if row[index]) for row in members]


def _choice_columns(multi_label: bool) -> tuple[str, str]:
    """Name the columns of the truth and of the system's choice."""
    return ("truth_set", "predicted_set") if multi_label else ("truth", "predicted")


def _is_multi_label(header: Sequence[str], path: Path) -> bool:
    """Whether the header is that of a multi-label table; refuse one that says both."""
    multi_label = "truth_set" in header
    for other in _choice_columns(not multi_label):
        if other in header:
            raise PredictionsError(
                f"{path}: a column '{other}' "
                + ("beside 'truth_set'" if multi_label else "without 'truth_set'")
                + ": a multi-label table has truth_set and predicted_set, any other table truth "
                "and predicted"
            )
    return multi_label


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


def _refuse_numbers(
    truth: Sequence[str], predicted: Sequence[str], ids: Sequence[str], path: Path
) -> None:
    """Refuse a table that says how much of something there is; whole numbers may be classes."""
    try:
        numbers = np.asarray([truth, predicted], dtype=np.float64)
    except ValueError:
        return
    broken = (numbers != np.round(numbers)).any(axis=0)
    if broken.any():
        row = int(broken.argmax())
        raise PredictionsError(
            f"{path}: row {row + 1} (id {ids[row]}): truth '{truth[row]}' and predicted "
            f"'{predicted[row]}' are numbers, expected classes: sentiment is judged by 'serkit "
            "report RUN', tables of others by serkit.evaluation.sentiment"
        )


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
) -> None:
    """Refuse scores that are no numbers in [0, 1]."""
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


def _choose_classes(
    scores: NDArray[np.float64], classes: tuple[str, ...], given: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Take the class with the highest score of each row; and notes on what does not fit."""
    notes = []
    off = np.abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE
    if off.any():
        notes.append(
            f"scores of {int(off.sum())} of {len(scores)} rows do not sum to 1, so calibration "
            "figures mean little"
        )
    index = {label: number for number, label in enumerate(classes)}
    best = scores.max(axis=1)
    n_differ = sum(
        label not in index or scores[row, index[label]] < best[row] - 1e-6
        for row, label in enumerate(given or ())
    )
    if n_differ:
        notes.append(
            f"column 'predicted' differs from the highest score in {n_differ} of {len(scores)} "
            "rows; the scores decide"
        )
    return [str(classes[number]) for number in scores.argmax(axis=1)], notes


def _choose_sets(
    scores: NDArray[np.float64], classes: tuple[str, ...], given: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Take the classes above one half of each row; and notes on what does not fit."""
    notes = []
    if (np.abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE).all():
        notes.append(
            "scores of every row sum to 1, as those of a softmax do: at most one class per "
            f"utterance can pass {SET_THRESHOLD}"
        )
    chosen = join_classes(scores > SET_THRESHOLD, classes)
    n_differ = sum(ours != theirs for ours, theirs in zip(chosen, given or chosen, strict=True))
    if n_differ:
        notes.append(
            f"column 'predicted_set' differs from the classes with a score above {SET_THRESHOLD} "
            f"in {n_differ} of {len(scores)} rows; the scores decide"
        )
    return chosen, notes


def _canonical_sets(sets: list[str], ids: Sequence[str], column: str, name: str) -> list[str]:
    """Put the classes of each set into alphabetical order."""
    canonical = []
    for row, text in enumerate(sets):
        members = [member.strip() for member in text.split(SET_MARK)] if text else []
        if "" in members or len(set(members)) < len(members):
            raise PredictionsError(
                f"{name}: row {row + 1} (id {ids[row]}): {column} '{text}' is no set of classes: "
                f"join each class once by '{SET_MARK}', such as happy{SET_MARK}sad"
            )
        canonical.append(SET_MARK.join(sorted(members)))
    return canonical


def _label_space(
    labels: list[str], classes: Sequence[str] | None, *, multi_label: bool, name: str
) -> tuple[str, ...]:
    """Give the classes in index order: as declared, else those that occur, sorted."""
    if classes is None:
        found = {part for label in set(labels) for part in label.split(SET_MARK) if part}
        return tuple(sorted(found if multi_label else set(labels)))
    space = tuple(str(label) for label in classes)
    joined = [label for label in space if SET_MARK in label]
    if multi_label and joined:
        raise PredictionsError(
            f"{name}: class '{joined[0]}' contains '{SET_MARK}', which joins classes in a "
            "multi-label table: rename it"
        )
    return space


def _refuse_sets(
    labels: Sequence[str],
    space: tuple[str, ...],
    ids: Sequence[str],
    column: str,
    name: str,
    *,
    declared: bool,
) -> None:
    """Refuse joined classes where one is expected; a declared class may be called what it likes."""
    for row, label in enumerate(labels):
        if SET_MARK not in label or (declared and label in space):
            continue
        if set(label.split(SET_MARK)) <= set(space):
            raise PredictionsError(
                f"{name}: row {row + 1} (id {ids[row]}): {column} '{label}' joins several "
                "classes: a multi-label table calls its columns truth_set and predicted_set"
            )


def _refuse_unknown(
    labels: Sequence[str],
    classes: tuple[str, ...],
    ids: Sequence[str],
    column: str,
    name: str,
    *,
    multi_label: bool,
) -> None:
    for row, label in enumerate(labels):
        for part in label.split(SET_MARK) if multi_label else (label,):
            if part and part not in classes:
                raise PredictionsError(
                    f"{name}: row {row + 1} (id {ids[row]}): {column} '{part}' is not among the "
                    f"classes {', '.join(classes)}: map or drop it before scoring"
                )


def _refuse_duplicates(table: Predictions, name: str) -> None:
    seen: set[tuple[str, str, int]] = set()
    columns = (table.keys, table.folds.tolist(), table.seeds.tolist())
    for row, key in enumerate(zip(*columns, strict=True)):
        if key in seen:
            raise PredictionsError(
                f"{name}: row {row + 1}: id {table.ids[row]} occurs a second time in fold {key[1]} "
                f"under seed {key[2]}: a fold tests every utterance once per seed"
            )
        seen.add(key)


def _members(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.bool_]:
    distinct, rows = np.unique(labels, return_inverse=True)
    sets = [set(text.split(SET_MARK)) for text in distinct.tolist()]
    return np.asarray([[c in members for c in classes] for members in sets], dtype=np.bool_)[rows]


def _listed(names: Sequence[str], n_shown: int = 8) -> str:
    shown = ", ".join(names[:n_shown]) or "nothing"
    return shown if len(names) <= n_shown else f"{shown} and {len(names) - n_shown} more"
