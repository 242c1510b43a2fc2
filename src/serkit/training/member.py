"""One member of a cross-validation: a fold with a seed, from initialisation to test scores.

The test part is predicted once, after ``fit`` has returned, by the weights that ``fit`` selected.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.data import derive_seed, read_data
from serkit.training.loop import STATE_FILE, TrainingConfig, fit, predict
from serkit.training.objectives import Term
from serkit.types import Fold

__all__ = ["Member", "member_outputs", "train_member"]

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

    @property
    def name(self) -> str:
        """Fold and seed."""
        return f"{self.fold.name}-seed{self.seed}"


def train_member(member: Member, tell: Tell) -> None:
    """Train a member and store what it says of its test part; skipped where that is done.

    ``tell(name, row)`` is called after every epoch and with ``{"finished": True}`` at the end.
    """
    if (member.folder / OUTPUTS_FILE).exists():
        tell(member.name, {"finished": True})
        return
    examples = read_data(member.data)
    train, dev = examples.select(member.fold.train), examples.select(member.fold.dev)
    torch.manual_seed(derive_seed(member.seed, member.fold.name, "initialisation"))
    recognizer = Recognizer(member.recognizer)
    recognizer.norm.fit(train.tensors["features"], train.tensors["n_frames"])
    result = fit(
        recognizer,
        train,
        dev if len(dev) else None,
        member.training,
        objective=member.objective,
        seed=derive_seed(member.seed, member.fold.name),
        folder=member.folder,
        on_epoch=lambda row: tell(member.name, row),
    )
    recognizer.save(
        member.folder / "model",
        card=f"# {member.recognizer.system}, {member.name}\n\nOne fold of a cross-validation, "
        f"trained on {len(train)} utterances; weights of epoch {result.selected_epoch}.\n",
    )
    outputs = predict(recognizer, examples.select(member.fold.test))
    part = member.folder / "test.part"
    save_file(outputs, part, metadata={"selected_epoch": str(result.selected_epoch)})
    os.replace(part, member.folder / OUTPUTS_FILE)
    (member.folder / STATE_FILE).unlink(missing_ok=True)
    tell(member.name, {"finished": True})


def member_outputs(member: Member) -> tuple[dict[str, np.ndarray], int]:
    """Read a finished member's test outputs (see :func:`predict`) and its selected epoch."""
    with safe_open(member.folder / OUTPUTS_FILE, framework="np") as stored:
        outputs = {name: stored.get_tensor(name) for name in stored.keys()}
        return outputs, int(stored.metadata()["selected_epoch"])
