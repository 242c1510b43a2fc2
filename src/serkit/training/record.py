"""What a training knows of itself: its rows per epoch, its best weights, its identity."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serkit.evaluation.metrics import f1_macro_of, uar_of, war_of
from serkit.evaluation.multilabel import exact_match, macro_f1, mean_recall
from serkit.training.config import TrainingConfig
from serkit.training.learner import EpochRow, Learner, Part
from serkit.training.trackers import TrackerConfig, open_tracker, tracked_values
from serkit.types import InputError

__all__ = [
    "LOG_FILE",
    "EpochLog",
    "Keeper",
    "identify",
    "judge",
    "refuse_divergence",
    "refuse_empty_parts",
]

LOG_FILE = "log.jsonl"

_logger = logging.getLogger(__name__)

_BETTER_BELOW = ("loss", "cer")  # dev quantities of which less is better


class Keeper:
    """Keeps the weights of the best dev epoch and knows when patience is over."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.best_key: tuple[float, float] | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    def offer(self, row: EpochRow, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights of this epoch if it is the best so far."""
        if self.config.select == "last" or row["epoch"] < self.config.min_epochs:
            return
        if row["epoch"] % self.config.select_every:
            return
        by = self.config.select_by
        if f"dev_{by}" not in row:
            raise InputError(
                f"training.select_by is '{by}', and this dev part is judged by "
                f"{', '.join(sorted(k.removeprefix('dev_') for k in row if k.startswith('dev_')))}"
            )
        score = -row[f"dev_{by}"] if by in _BETTER_BELOW else row[f"dev_{by}"]
        key = (score, -row["dev_loss"])
        if self.best_key is None or key > self.best_key:
            self.best_key, self.best_epoch = key, row["epoch"]
            self.best_weights = {name: t.detach().clone() for name, t in weights.items()}

    def exhausted(self, epoch: int) -> bool:
        """Tell whether patience is over after this epoch."""
        patience = self.config.patience
        if self.config.select == "last" or patience is None or self.best_key is None:
            return False
        return epoch - self.best_epoch >= patience

    def restore(self, learner: Learner, *, last_epoch: int) -> int:
        """Put the kept weights back and return their epoch."""
        if not self.best_weights:
            return last_epoch
        learner.load_trained_state(self.best_weights)
        return self.best_epoch

    def to_meta(self) -> dict[str, Any]:
        """Give what a stored state says beside the weights."""
        return {"best_epoch": self.best_epoch, "best_key": self.best_key}

    def resume(self, meta: Mapping[str, Any], best_weights: Mapping[str, Tensor]) -> None:
        """Go on from a stored state."""
        self.best_weights = dict(best_weights)
        self.best_epoch = meta["best_epoch"]
        best_key = meta["best_key"]
        self.best_key = None if best_key is None else (best_key[0], best_key[1])


class EpochLog:
    """``log.jsonl``, one row per epoch, which a tracker is told as well; see :mod:`.trackers`.

    On resuming, rows beyond the saved state (written before a kill) are dropped: they come again.
    With ``write=False``, in processes that follow another's training, nothing is written.
    """

    def __init__(
        self,
        folder: Path,
        history: Sequence[EpochRow],
        *,
        tracker: TrackerConfig,
        settings: Mapping[str, Any],
        write: bool = True,
    ) -> None:
        self.file: Any = None
        if not write:
            return
        path = folder / LOG_FILE
        path.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")
        # Members lie side by side in one folder; what is tracked of them is put beside them.
        self.tracker = open_tracker(tracker, folder.parent, say=_logger.warning)
        self.tracker.start(folder.name, group=folder.parent.parent.name, tags=(), config=settings)
        for row in history:
            self.tracker.log(tracked_values(row), row["epoch"])

    def write(self, row: EpochRow) -> None:
        """Add the row of an epoch."""
        if self.file is None:
            return
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        self.tracker.log(tracked_values(row), row["epoch"])

    def __enter__(self) -> EpochLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
            self.tracker.finish({})


def judge(scores: NDArray[np.float32], truth: NDArray[np.integer | np.floating]) -> EpochRow:
    """Score the dev part; its loss is the plain cross-entropy against hard labels.

    Parameters
    ----------
    scores : (n, n_classes); rows sum to 1 unless several classes may hold
    truth : (n,) class indices or, where several may hold, (n, n_classes) of 0 and 1. The loss is
        then the mean over all decisions, UAR the mean recall of the classes that occur, WAR the
        share of utterances with every decision right.
    """
    if truth.ndim == 2:
        return _judge_decisions(scores, truth > 0.5)
    indices = truth.astype(np.int64)
    likelihood = np.clip(scores[np.arange(len(truth)), indices], 1e-7, 1.0)
    confusion = np.zeros((scores.shape[1],) * 2)
    np.add.at(confusion, (indices, scores.argmax(1)), 1)
    return {
        "dev_loss": float(-np.log(likelihood).mean()),
        "dev_uar": float(uar_of(confusion)),
        "dev_war": float(war_of(confusion)),
        "dev_f1": float(f1_macro_of(confusion)),
    }


def _judge_decisions(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> EpochRow:
    decided = scores > 0.5
    likelihood = np.clip(np.where(truth, scores, 1 - scores), 1e-7, 1.0)
    return {
        "dev_loss": float(-np.log(likelihood).mean()),
        "dev_uar": mean_recall(truth, decided),
        "dev_war": exact_match(truth, decided),
        "dev_f1": macro_f1(truth, decided),
    }


def identify(
    config: TrainingConfig, criterion: Any, *, seed: int, train: Part, dev: Any | None
) -> str:
    """Identify a training: a state may only be resumed by the training that wrote it.

    Parameters
    ----------
    criterion
        What the loss is, as plain objects.
    """
    unimportant = {
        "save_every_s",
        "save_every_batches",
        "tracker",
        "accelerator",
        "cohort",
        "compile",
    }
    settings = config.model_dump(exclude=unimportant)
    for key in ("accumulate_by", "remainder"):
        # States from before these existed are of trainings with their defaults.
        if settings[key] == TrainingConfig.model_fields[key].default:
            del settings[key]
    text = json.dumps(
        [
            settings,
            criterion,
            seed,
            train.ids,
            dev.ids if dev is not None else None,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_empty_parts(config: TrainingConfig, train: Part, dev: Any | None) -> None:
    """Refuse to train on nothing, or to select by nothing.

    Raises
    ------
    InputError
        If the training part is empty, or selection by dev is asked for without a dev part.
    """
    if config.select == "best_dev" and (dev is None or not len(dev)):
        raise InputError(
            "training.select is 'best_dev' but there is no dev part: choose a protocol.dev rule or "
            "select = 'last'"
        )
    if not len(train):
        raise InputError("the training part is empty: check the protocol and the selected labels")


def refuse_divergence(history: Sequence[EpochRow]) -> None:
    """Refuse the result of a training whose last loss is no number.

    Raises
    ------
    InputError
        If it is not.
    """
    if history and not math.isfinite(history[-1]["train_loss"]):
        raise InputError(
            f"training diverged: loss {history[-1]['train_loss']} in epoch {len(history)}; lower "
            "training.learning_rate or set training.clip_norm"
        )
