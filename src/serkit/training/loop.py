"""The one training loop, on Lightning Fabric.

``fit`` sees a training part and a dev part. It has no parameter through which test data could
enter; a protocol that selects on the test fold has to hand it over *as* the dev part, and is named
for it.

Randomness is a function of (seed, epoch), never of history: each epoch draws its order and its
dropout from its own derived seed. A run that was killed and resumed therefore ends with the weights
of a run that was not, without any generator state on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from serkit.evaluation.metrics import uar_of, war_of
from serkit.recognizer import Recognizer
from serkit.training.checkpoint import load_state, save_state
from serkit.training.data import Examples, derive_seed
from serkit.training.objectives import Term, total_loss
from serkit.types import InputError

__all__ = ["EpochRow", "FitResult", "TrainingConfig", "fit", "predict"]

LOG_FILE, STATE_FILE = "log.jsonl", "state.safetensors"

EpochRow = dict[str, Any]


class TrainingConfig(BaseModel):
    """How long, how fast, and which epoch is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, as in AdamW")
    clip_norm: float | None = Field(default=None, gt=0, description="gradient norm limit")
    accumulate: int = Field(default=1, ge=1, description="batches per optimiser step")
    select: Literal["best_dev", "last"] = "best_dev"
    select_by: Literal["uar", "war", "loss"] = Field(
        default="uar",
        description="dev quantity that picks the epoch; ties go to the lower dev loss",
    )
    select_every: int = Field(default=1, ge=1, description="only every n-th epoch may be selected")
    patience: int | None = Field(
        default=None, ge=1, description="stop after this many epochs without a better dev score"
    )
    min_epochs: int = Field(
        default=1, ge=1, description="no epoch before this one is selected or stops the training"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    save_every_s: float = Field(
        default=30.0, ge=0, description="seconds between resumable states; 0: every epoch"
    )
    tensorboard: bool = Field(default=False, description="write TensorBoard events beside the log")


@dataclass(frozen=True, slots=True)
class FitResult:
    """What became of a training.

    Attributes
    ----------
    history
        One row per epoch: epoch (from 1), train_loss, dev_loss, dev_uar, dev_war, seconds.
    selected_epoch
        The epoch whose weights the recognizer now holds.
    """

    history: tuple[EpochRow, ...]
    selected_epoch: int


def fit(
    recognizer: Recognizer,
    train: Examples,
    dev: Examples | None,
    config: TrainingConfig,
    *,
    objective: Sequence[Term],
    seed: int,
    folder: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> FitResult:
    """Train a recognizer; afterwards it holds the weights of the selected epoch.

    Parameters
    ----------
    train, dev
        ``dev`` may be ``None`` when ``config.select`` is ``last``.
    seed
        Decides order and dropout (the caller decides the initialisation).
    folder
        Holds ``log.jsonl`` and the resumable state. If it holds the state of the same training,
        that training goes on where it was.
    on_epoch
        Called with each epoch's row.

    Raises
    ------
    InputError
        If selection by dev is asked for without a dev part, or the folder holds another training.
    """
    if config.select == "best_dev" and (dev is None or not len(dev)):
        raise InputError(
            "training.select is 'best_dev' but there is no dev part: choose a protocol.dev rule or "
            "select = 'last'"
        )
    if not len(train):
        raise InputError("the training part is empty: check the protocol and the selected labels")
    fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    fabric.launch()
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        recognizer.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )
    wrapped, fabric_optimizer = fabric.setup(recognizer, optimizer)
    identity = _identity(config, objective, seed, train, dev)
    keeper = _Keeper(config)
    history: list[EpochRow] = []
    state_path = folder / STATE_FILE
    if state_path.exists():
        history = _resume(state_path, identity, recognizer, optimizer, keeper)
    with _Log(folder, history, tensorboard=config.tensorboard) as log:
        saved_at = time.monotonic()
        for epoch in range(len(history) + 1, config.epochs + 1):
            if keeper.exhausted(len(history)):
                break
            started = time.perf_counter()
            train_loss = _train_epoch(
                wrapped, fabric_optimizer, fabric, train, config, objective, seed=seed, epoch=epoch
            )
            row: EpochRow = {"epoch": epoch, "train_loss": train_loss}
            if dev is not None and len(dev):
                row |= _judge(recognizer, dev, config.batch_size)
            row["seconds"] = round(time.perf_counter() - started, 3)
            history.append(row)
            keeper.offer(row, recognizer)
            log.write(row)
            if on_epoch is not None:
                on_epoch(row)
            if time.monotonic() - saved_at >= config.save_every_s:
                _save(state_path, identity, recognizer, optimizer, keeper, history)
                saved_at = time.monotonic()
    if not all(math.isfinite(row["train_loss"]) for row in history[-1:]):
        raise InputError(
            f"training diverged: loss {history[-1]['train_loss']} in epoch {len(history)}; lower "
            "training.learning_rate or set training.clip_norm"
        )
    selected = keeper.restore(recognizer, last_epoch=len(history))
    recognizer.eval()
    return FitResult(tuple(history), selected)


@torch.inference_mode()
def predict(
    recognizer: Recognizer, examples: Examples, *, batch_size: int = 64
) -> dict[str, np.ndarray]:
    """Run a recognizer in evaluation mode.

    Returns
    -------
    outputs
        ``scores`` (n, n_classes), rows summing to 1; ``embedding`` (n, d) where the model has one.
    """
    recognizer.eval()
    device = next(recognizer.parameters()).device
    collected: dict[str, list[Tensor]] = {}
    for batch in examples.batches(batch_size):
        outputs = recognizer({name: t.to(device) for name, t in batch.items()})
        collected.setdefault("scores", []).append(outputs["emotion"].float().softmax(-1).cpu())
        if "embedding" in outputs:
            collected.setdefault("embedding", []).append(outputs["embedding"].float().cpu())
    return {name: torch.cat(parts).numpy() for name, parts in collected.items()}


def _train_epoch(
    model: Any,
    optimizer: Any,
    fabric: Fabric,
    train: Examples,
    config: TrainingConfig,
    objective: Sequence[Term],
    *,
    seed: int,
    epoch: int,
) -> float:
    """Run one epoch and return the mean loss per example."""
    model.train()
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    order = torch.randperm(len(train), generator=generator)
    torch.manual_seed(derive_seed(seed, "dropout", epoch))
    total, n_seen = torch.zeros((), device=fabric.device), 0
    n_batches = -(-len(order) // config.batch_size)
    for number, rows in enumerate(torch.split(order, config.batch_size), start=1):
        batch = {name: t.to(fabric.device) for name, t in train.batch(rows).items()}
        stepping = number % config.accumulate == 0 or number == n_batches
        with fabric.no_backward_sync(model, enabled=not stepping):
            loss, _ = total_loss(model(batch), batch, objective)
            fabric.backward(loss / config.accumulate)
        if stepping:
            if config.clip_norm is not None:
                clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        total += loss.detach() * len(rows)
        n_seen += len(rows)
    return float(total) / n_seen


def _judge(recognizer: Recognizer, dev: Examples, batch_size: int) -> EpochRow:
    """Score the dev part; its loss is the plain cross-entropy against hard labels."""
    scores = predict(recognizer, dev, batch_size=batch_size)["scores"]
    truth = dev.tensors["emotion"].cpu().numpy()
    likelihood = np.clip(scores[np.arange(len(truth)), truth], 1e-7, 1.0)
    confusion = np.zeros((scores.shape[1],) * 2)
    np.add.at(confusion, (truth, scores.argmax(1)), 1)
    return {
        "dev_loss": float(-np.log(likelihood).mean()),
        "dev_uar": float(uar_of(confusion)),
        "dev_war": float(war_of(confusion)),
    }


class _Keeper:
    """Keeps the weights of the best dev epoch and knows when patience is over."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.best_key: tuple[float, float] | None = None
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    def offer(self, row: EpochRow, recognizer: Recognizer) -> None:
        """Keep this epoch if it is the best so far."""
        if self.config.select == "last" or row["epoch"] < self.config.min_epochs:
            return
        if row["epoch"] % self.config.select_every:
            return
        by = self.config.select_by
        score = -row["dev_loss"] if by == "loss" else row[f"dev_{by}"]
        key = (score, -row["dev_loss"])
        if self.best_key is None or key > self.best_key:
            self.best_key, self.best_epoch = key, row["epoch"]
            self.best_weights = {
                name: tensor.detach().clone() for name, tensor in recognizer.state_dict().items()
            }

    def exhausted(self, epoch: int) -> bool:
        """Tell whether patience is over after this epoch."""
        patience = self.config.patience
        if self.config.select == "last" or patience is None or self.best_key is None:
            return False
        return epoch - self.best_epoch >= patience

    def restore(self, recognizer: Recognizer, *, last_epoch: int) -> int:
        """Put the kept weights back and return their epoch."""
        if not self.best_weights:
            return last_epoch
        recognizer.load_state_dict(self.best_weights)
        return self.best_epoch


class _Log:
    """``log.jsonl``, one row per epoch, and TensorBoard events if wanted.

    On resuming, rows beyond the saved state (written before a kill) are dropped: they come again.
    """

    def __init__(self, folder: Path, history: Sequence[EpochRow], *, tensorboard: bool) -> None:
        path = folder / LOG_FILE
        path.write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")
        self.writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(folder / "tensorboard", purge_step=len(history) + 1)

    def write(self, row: EpochRow) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name.replace("_", "/", 1), value, row["epoch"])

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.writer is not None:
            self.writer.close()


def _identity(
    config: TrainingConfig,
    objective: Sequence[Term],
    seed: int,
    train: Examples,
    dev: Examples | None,
) -> str:
    """Identify a training: a state may only be resumed by the training that wrote it."""
    unimportant = {"save_every_s", "tensorboard", "accelerator"}
    text = json.dumps(
        [
            config.model_dump(exclude=unimportant),
            [term.model_dump() for term in objective],
            seed,
            train.ids,
            dev.ids if dev is not None else None,
        ]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _save(
    path: Path,
    identity: str,
    recognizer: Recognizer,
    optimizer: torch.optim.Optimizer,
    keeper: _Keeper,
    history: Sequence[EpochRow],
) -> None:
    save_state(
        path,
        model=recognizer.state_dict(),
        best=keeper.best_weights,
        optimizer=optimizer,
        meta={
            "identity": identity,
            "history": list(history),
            "best_epoch": keeper.best_epoch,
            "best_key": keeper.best_key,
        },
    )


def _resume(
    path: Path,
    identity: str,
    recognizer: Recognizer,
    optimizer: torch.optim.Optimizer,
    keeper: _Keeper,
) -> list[EpochRow]:
    state = load_state(path)
    if state.meta["identity"] != identity:
        raise InputError(
            f"{path}: belongs to another training (other settings, seed or utterances): remove "
            f"{os.path.dirname(path)} or choose another --out"
        )
    recognizer.load_state_dict(state.model)
    state.restore_optimizer(optimizer)
    keeper.best_weights = state.best
    keeper.best_epoch = state.meta["best_epoch"]
    best_key = state.meta["best_key"]
    keeper.best_key = None if best_key is None else (best_key[0], best_key[1])
    history: list[EpochRow] = state.meta["history"]
    return history
