"""One member of a cross-validation: a fold with a seed, from initialisation to test scores.

The test part is predicted once, after the training has ended, by the weights that it selected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

from serkit.files import replacing
from serkit.models.decomposed import Decomposed
from serkit.recognizer import FROZEN_FILE, Recognizer, RecognizerConfig
from serkit.training.config import TrainingConfig
from serkit.training.crew import together
from serkit.training.data import Data, Examples, derive_seed, read_data
from serkit.training.loop import STATE_FILE, FitResult, fit, predict
from serkit.training.objectives import Term
from serkit.types import Fold, InputError

__all__ = [
    "Member",
    "Tell",
    "finish_member",
    "fit_statistics",
    "initial_recognizer",
    "load_parts",
    "member_outputs",
    "train_member",
]

OUTPUTS_FILE = "test.safetensors"

Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Member:
    """What a member needs; picklable, the features stay in the files under ``data``."""

    recognizer: RecognizerConfig
    training: TrainingConfig
    objective: tuple[Term, ...]
    fold: Fold
    seed: int
    folder: Path
    data: Path
    parts_from: Path | None = None  # weights of a trained decomposition to start from

    @property
    def name(self) -> str:
        """Fold and seed."""
        return f"{self.fold.name}-seed{self.seed}"

    @property
    def order_seed(self) -> int:
        """Seed of order and dropout."""
        return derive_seed(self.seed, self.fold.name)

    @property
    def finished(self) -> bool:
        """Tell whether its test part has been predicted."""
        return (self.folder / OUTPUTS_FILE).exists()

    def parts(self, data: Data) -> tuple[Examples, Examples | None]:
        """Pick its training part and its dev part, ``None`` where that is empty.

        Augmented sounds in the voices of its dev and test speakers are left out of training, unless
        the data let any voice be heard.
        """
        dev = data.evaluation.select(self.fold.dev) if self.fold.dev else None
        train = data.training.select(self.fold.train)
        return train.without_voices_of([*self.fold.dev, *self.fold.test]), dev


def train_member(member: Member, tell: Tell) -> None:
    """Train a member and store what it says of its test part; skipped where that is done.

    ``tell(name, row)`` is called after every epoch and with ``{"finished": True}`` at the end.
    """
    if member.finished:
        tell(member.name, {"finished": True})
        return
    recognizer, data, result = together(
        partial(_fit_member, member, _silence), lambda: _fit_member(member, tell)
    )
    finish_member(member, recognizer, data, selected_epoch=result.selected_epoch)
    tell(member.name, {"finished": True})


def _fit_member(member: Member, tell: Tell) -> tuple[Recognizer, Data, FitResult]:
    data = read_data(member.data)
    train, dev = member.parts(data)
    recognizer = initial_recognizer(member, train)
    result = fit(
        recognizer,
        train,
        dev,
        member.training,
        objective=member.objective,
        seed=member.order_seed,
        folder=member.folder,
        on_epoch=lambda row: tell(member.name, row),
    )
    return recognizer, data, result


def _silence(_name: str, _row: dict[str, Any]) -> None:
    """Tell nobody."""


def initial_recognizer(member: Member, train: Examples) -> Recognizer:
    """Build a member's recognizer with the weights and the statistics it starts from."""
    torch.manual_seed(derive_seed(member.seed, member.fold.name, "initialisation"))
    recognizer = Recognizer(member.recognizer)
    if member.parts_from is not None:
        load_parts(recognizer, member.parts_from)
    fit_statistics(recognizer, train)
    return recognizer


def fit_statistics(recognizer: Recognizer, train: Examples) -> None:
    """Take the statistics that a recognizer normalises with from its training part."""
    if recognizer.norm.kind == "train":  # the other kinds need no copy of the training part
        recognizer.norm.fit(train.gather("features"), train.gather("n_frames"))
    if recognizer.pitch_norm is not None:
        recognizer.pitch_norm.fit(train.gather("parts"))


def load_parts(recognizer: Recognizer, weights: Path) -> None:
    """Start a recognizer's encoders and decoder of speech parts from a trained decomposition.

    Raises
    ------
    InputError
        If its model has no such parts, or the weights are not theirs.
    """
    if not isinstance(recognizer.model, Decomposed):
        raise InputError(
            f"parts_from is for model.name = 'decomposed', and this model is "
            f"'{recognizer.model_name}': leave it out"
        )
    try:
        recognizer.model.load_split(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{weights}: not readable weights ({error})") from None


def finish_member(
    member: Member, recognizer: Recognizer, data: Data, *, selected_epoch: int
) -> None:
    """Store a trained member's recognizer and what it says of the test part."""
    recognizer.save(
        member.folder / "model",
        card=f"# {member.recognizer.system}, {member.name}\n\nOne fold of a cross-validation, "
        f"trained on {len(member.fold.train)} utterances; weights of epoch {selected_epoch}.\n",
        # Members start from the same pre-trained encoders and leave frozen ones as they are; a
        # decomposition may be another one in every fold.
        frozen=None if member.parts_from else member.folder.parent / FROZEN_FILE,
    )
    outputs = predict(recognizer, data.evaluation.select(member.fold.test))
    with replacing(member.folder / OUTPUTS_FILE) as part:
        save_file(outputs, part, metadata={"selected_epoch": str(selected_epoch)})
    (member.folder / STATE_FILE).unlink(missing_ok=True)


def member_outputs(member: Member) -> tuple[dict[str, np.ndarray], int]:
    """Read a finished member's test outputs (see :func:`predict`) and its selected epoch."""
    with safe_open(member.folder / OUTPUTS_FILE, framework="np") as stored:
        outputs = {name: stored.get_tensor(name) for name in stored.keys()}
        return outputs, int(stored.metadata()["selected_epoch"])
