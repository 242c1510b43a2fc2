"""A run folder, read back: what training leaves behind and evaluation works from.

============== ==================================================================================
file           content
============== ==================================================================================
predictions.csv the predictions table (required)
run.json       system, corpus, protocol, labels, seeds, commit, machine, packages; where they apply
               multi_label, coverage and experts, see below
config.json    the resolved experiment
leaks.json     ``ok`` and ``lines``: what the leak check found
curves.csv     fold, seed, epoch, train_loss, dev_loss, dev_uar, dev_war, selected
embeddings.npz id, fold, seed, embedding of the test utterances (first seed)
============== ==================================================================================

In run.json, ``multi_label`` says whether an utterance may have several classes; the predictions
table must agree, and ``dev_uar`` and ``dev_war`` of the curves are then mean recall (UA) and exact
match (WA). ``coverage`` holds ``n_utterances``, ``n_judged`` and, where they differ, the
``reason``. ``heard`` holds, of systems that spell what is said, ``wer``, ``wer_sd``, ``cer``,
``n_utterances`` and ``n_words``. ``experts`` holds, per class, ``uar``, ``war`` and ``f1`` of that
expert's own yes or no, averaged over seeds.

Every file but the first may be missing; :attr:`RunFolder.missing` then says what cannot be shown.
A path to a bare predictions table is read as a folder of which nothing else is left.
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.predictions import Predictions, read_predictions
from serkit.types import InputError

__all__ = ["Curves", "Embeddings", "RunFolder", "RunFolderError", "read_run", "refuse_other_task"]

_LEFT_OUT = {
    "run.json": "what was trained, on which corpus and under which protocol",
    "config.json": "the configuration",
    "leaks.json": "the leak check",
    "curves.csv": "the learning curves",
    "embeddings.npz": "the map of embeddings",
}
_CURVE_COLUMNS = ("train_loss", "dev_loss", "dev_uar", "dev_war")
EMOTION = "emotion"  # task of a run.json that names none
SELECTED_ON_TEST = "selected on test"
SPEAKER_DEPENDENT = "speaker-dependent"


class RunFolderError(InputError):
    """A run folder that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curves:
    """Learning curves, one row per fold, seed and epoch; NaN where nothing was measured.

    ``folds`` (n_rows,) str; ``seeds`` and ``epochs`` (n_rows,) int64; ``selected`` (n_rows,) bool
    marks the epoch whose weights were kept.
    """

    folds: NDArray[np.str_]
    seeds: NDArray[np.int64]
    epochs: NDArray[np.int64]
    train_loss: NDArray[np.float64]
    dev_loss: NDArray[np.float64]
    dev_uar: NDArray[np.float64]
    dev_war: NDArray[np.float64]
    selected: NDArray[np.bool_]

    def members(self) -> list[tuple[str, int, NDArray[np.int64]]]:
        """Fold, seed and row numbers in epoch order of each training run, as they appear."""
        pairs = list(dict.fromkeys(zip(self.folds.tolist(), self.seeds.tolist(), strict=True)))
        members = []
        for fold, seed in pairs:
            rows = np.flatnonzero((self.folds == fold) & (self.seeds == seed))
            members.append((fold, seed, rows[np.argsort(self.epochs[rows], kind="stable")]))
        return members

    @property
    def has_dev(self) -> bool:
        """Whether anything was measured on a dev part."""
        return bool(np.isfinite(self.dev_loss).any() or np.isfinite(self.dev_uar).any())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Penultimate layer of test utterances: ids and folds (n,), seeds (n,), vectors (n, d)."""

    ids: NDArray[np.str_]
    folds: NDArray[np.str_]
    seeds: NDArray[np.int64]
    vectors: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunFolder:
    """Everything a report needs; the mappings hold what the JSON files hold.

    ``missing`` pairs the name of an absent file with what the report leaves out without it.
    """

    path: Path
    predictions: Predictions
    run: Mapping[str, Any]
    config: Mapping[str, Any]
    leaks: Mapping[str, Any] | None
    curves: Curves | None
    embeddings: Embeddings | None
    missing: tuple[tuple[str, str], ...]

    @property
    def corpus(self) -> Mapping[str, Any]:
        """The corpus part of run.json; empty where unknown."""
        return _mapping(self.run.get("corpus"))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The protocol part of run.json; empty where unknown."""
        return _mapping(self.run.get("protocol"))

    @property
    def name(self) -> str:
        """Short name: from run.json, else of the folder or table."""
        return str(self.run.get("name") or _name_of(self.path))

    @property
    def title(self) -> str:
        """Title for people; falls back to the name."""
        return str(self.run.get("title") or self.name)

    @property
    def system(self) -> str:
        """What was trained; falls back to the name."""
        return str(self.run.get("system") or self.name)

    @property
    def corpus_title(self) -> str:
        """Corpus as people write it; falls back to the table's column, then to a phrase."""
        known = self.corpus.get("title") or self.corpus.get("name")
        return str(known or self.corpus_name or "an unnamed corpus")

    @property
    def corpus_name(self) -> str:
        """Key of the corpus, several joined by ``+``; empty where unknown."""
        if self.corpus.get("name"):
            return str(self.corpus["name"])
        names = dict.fromkeys(self.predictions.corpora.tolist())
        return "+".join(name for name in names if name)

    @property
    def split(self) -> str:
        """The rule that made the folds, in words; empty where unknown."""
        split = str(self.protocol.get("split") or "")
        words = split.replace("_", "-")
        n_folds = self.protocol.get("n_folds")
        if not n_folds or split.startswith("leave_one"):
            return words
        if words.endswith("folds"):
            return f"{n_folds} {words.replace('-', ' ')}"
        return f"{words} ({n_folds} fold{'' if n_folds == 1 else 's'})" if words else ""

    @property
    def selection(self) -> str:
        """How the epoch was chosen, in words; empty where unknown."""
        rule = str(self.protocol.get("selection") or "")
        return {
            "best_dev": "epoch chosen on the dev part",
            "last": "last epoch",
            "best_test": "epoch chosen on the test fold",
        }.get(rule, rule.replace("_", " "))

    @property
    def warning_words(self) -> tuple[str, ...]:
        """What limits the claim, as words for badges, tables and sheets."""
        words = [str(word) for word in self.protocol.get("warnings") or ()]
        if self.protocol.get("speaker_independent") is False:
            words.append(SPEAKER_DEPENDENT)
        if self.protocol.get("selection") == "best_test":
            words.append(SELECTED_ON_TEST)
        if self.corpus.get("synthetic"):
            words.append("SYNTHETIC")
        if self.corpus.get("complete") is False:
            words.append("incomplete corpus")
        if self.leaks is not None and self.leaks.get("ok") is False:
            words.append("leak check failed")
        return tuple(dict.fromkeys(words))

    @property
    def protocol_words(self) -> str:
        """Split, selection and warnings in one phrase."""
        parts = [self.split, self.selection, *self.warning_words]
        return ", ".join(part for part in parts if part) or "protocol unknown"

    @property
    def selected_on_test(self) -> bool:
        """Whether the epoch was chosen by looking at the test fold."""
        return SELECTED_ON_TEST in self.warning_words

    @property
    def coverage(self) -> Mapping[str, Any] | None:
        """The coverage part of run.json; ``None`` where unknown."""
        return _mapping(self.run.get("coverage")) or None

    @property
    def not_judged(self) -> str:
        """How many utterances the scores leave out and why; empty where none is or unknown."""
        if self.coverage is None:
            return ""
        n, n_judged = self.coverage["n_utterances"], self.coverage["n_judged"]
        if n_judged == n:
            return ""
        share = f"{100 * (n - n_judged) / n:.1f} %"
        reason = str(self.coverage.get("reason") or "reason unknown").rstrip(".")
        return f"{n - n_judged} of {n} utterances ({share}) are not judged: {reason}"

    @property
    def heard(self) -> Mapping[str, Any]:
        """``wer``, ``cer`` and what they were counted on; empty where nothing was spelled."""
        return _mapping(self.run.get("heard"))

    @property
    def experts(self) -> Mapping[str, Mapping[str, float]]:
        """Each expert's ``uar``, ``war`` and ``f1`` by class; empty where there are no experts."""
        return _mapping(self.run.get("experts"))

    @property
    def n_parameters(self) -> int | None:
        """Number of parameters of one model, where run.json says so."""
        number = self.run.get("n_parameters")
        return int(number) if isinstance(number, (int, float)) else None


def read_run(path: Path | str) -> RunFolder:
    """Read a run folder, or a bare predictions table.

    Raises
    ------
    RunFolderError
        If there is no predictions table, the run is of another task, or a file of the folder is
        damaged.
    PredictionsError
        If the predictions table cannot be used.
    """
    path = Path(path)
    if path.is_file():
        return RunFolder(
            path=path,
            predictions=read_predictions(path),
            run={},
            config={},
            leaks=None,
            curves=None,
            embeddings=None,
            missing=tuple(_LEFT_OUT.items()),
        )
    if not path.exists():
        raise RunFolderError(f"{path}: no such run folder")
    refuse_other_task(path)
    if not (path / "predictions.csv").is_file():
        raise RunFolderError(
            f"{path}: holds no predictions.csv, so it is no finished run: give the folder that "
            "'serkit train' wrote, or resume the training"
        )
    run = _read_json(path / "run.json")
    _check_run(run or {}, path / "run.json")
    labels = run.get("labels") if run else None
    predictions = read_predictions(path / "predictions.csv", classes=labels or None)
    if run and bool(run.get("multi_label")) != predictions.multi_label:
        kinds = ("one class", "several classes")
        raise RunFolderError(
            f"{path}: run.json says {kinds[bool(run.get('multi_label'))]} per utterance, the "
            f"columns of predictions.csv {kinds[predictions.multi_label]}: correct 'multi_label'"
        )
    config = _read_json(path / "config.json")
    curves = path / "curves.csv"
    embeddings = path / "embeddings.npz"
    folder = RunFolder(
        path=path,
        predictions=predictions,
        run=run or {},
        config=config or {},
        leaks=_read_json(path / "leaks.json"),
        curves=_read_curves(curves) if curves.is_file() else None,
        embeddings=_read_embeddings(embeddings) if embeddings.is_file() else None,
        missing=tuple((n, what) for n, what in _LEFT_OUT.items() if not (path / n).is_file()),
    )
    return folder


def refuse_other_task(path: Path) -> None:
    """Refuse the folder of a run that does not tell emotions apart.

    Raises
    ------
    RunFolderError
        If it is one.
    """
    task = (_read_json(path / "run.json") or {}).get("task", EMOTION)
    if task != EMOTION:
        raise RunFolderError(
            f"{path}: a finished run of the task '{task}', expected one that tells emotions apart: "
            f"its own scores are in its metrics.json and report.html ('serkit report {path}')"
        )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name_of(path: Path) -> str:
    path = path.resolve()
    if path.is_dir() or path.name == "predictions.csv":
        return path.name if path.is_dir() else path.parent.name
    return path.stem


def _read_json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(
            f"{path}: not JSON ({error}): restore it, or delete it to report without it"
        ) from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: holds a {type(content).__name__}, expected a JSON object")
    return content


def _check_run(run: Mapping[str, Any], path: Path) -> None:
    """Refuse a coverage, experts or error rates that cannot be shown."""
    coverage = run.get("coverage")
    if coverage is not None:
        n_judged, n = (_mapping(coverage).get(key) for key in ("n_judged", "n_utterances"))
        if not (isinstance(n_judged, int) and isinstance(n, int) and 0 < n_judged <= n):
            raise RunFolderError(
                f"{path}: coverage is {coverage}, expected n_utterances and n_judged, at least 1 "
                "and at most n_utterances"
            )
    heard = _mapping(run.get("heard"))
    if heard and not all(isinstance(heard.get(name), (int, float)) for name in ("wer", "cer")):
        raise RunFolderError(f"{path}: heard is {dict(heard)}, expected numbers as wer and cer")
    experts = run.get("experts")
    if experts is not None:
        if not isinstance(experts, Mapping) or not all(map(_is_expert, experts.values())):
            raise RunFolderError(
                f"{path}: experts is {experts}, expected uar, war and f1 of every class"
            )


def _is_expert(row: object) -> bool:
    values = [_mapping(row).get(name) for name in ("uar", "war", "f1")]
    return all(isinstance(value, (int, float)) for value in values)


def _read_curves(path: Path) -> Curves:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    needed = ("fold", "seed", "epoch")
    if not rows or not all(name in rows[0] for name in needed):
        raise RunFolderError(
            f"{path}: no rows with the columns {', '.join(needed)}: delete it to report without it"
        )
    try:
        columns = {
            name: np.asarray([_number(row.get(name)) for row in rows], dtype=np.float64)
            for name in _CURVE_COLUMNS
        }
        return Curves(
            folds=np.asarray([row["fold"] for row in rows], dtype=np.str_),
            seeds=np.asarray([int(row["seed"]) for row in rows], dtype=np.int64),
            epochs=np.asarray([int(row["epoch"]) for row in rows], dtype=np.int64),
            selected=np.asarray([row.get("selected") in ("1", "True", "true") for row in rows]),
            **columns,
        )
    except (ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path}: a cell is not a number ({error}): delete the file to report without it"
        ) from None


def _number(cell: str | None) -> float:
    return float(cell) if cell and cell.strip() else math.nan


def _read_embeddings(path: Path) -> Embeddings:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            embeddings = Embeddings(
                ids=arrays["id"].astype(np.str_),
                folds=arrays["fold"].astype(np.str_),
                seeds=arrays["seed"].astype(np.int64),
                vectors=arrays["embedding"].astype(np.float64),
            )
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise RunFolderError(
            f"{path}: cannot be read as arrays id, fold, seed, embedding ({error}): delete it to "
            "report without it"
        ) from None
    n = len(embeddings.ids)
    if embeddings.vectors.ndim != 2 or not (
        n == len(embeddings.folds) == len(embeddings.seeds) == len(embeddings.vectors)
    ):
        raise RunFolderError(
            f"{path}: arrays of different lengths (embedding {embeddings.vectors.shape}, id {n})"
        )
    return embeddings
