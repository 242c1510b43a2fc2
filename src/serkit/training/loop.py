"""The one training loop, on Lightning Fabric.

``fit`` sees a training part and a dev part. It has no parameter through which test data could
enter; a protocol that selects on the test fold has to hand it over *as* the dev part, and is named
for it.

Randomness is a function of (seed, epoch), never of history: each epoch draws its order and its
dropout from its own derived seed. A run that was killed and resumed therefore ends with the weights
of a run that was not, without any generator state on disk.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from serkit.features.views import mean_of_pieces
from serkit.recognizer import Recognizer
from serkit.training.batches import epoch_batches
from serkit.training.checkpoint import load_state, save_state
from serkit.training.config import TrainingConfig
from serkit.training.data import Examples, derive_seed
from serkit.training.objectives import (
    Term,
    class_shares,
    penalised_parameters,
    total_loss,
    with_penalties,
)
from serkit.training.optimise import (
    build_optimizer,
    rate_groups,
    rate_of_row,
    set_learning_rate,
)
from serkit.training.record import (
    LOG_FILE,
    EpochLog,
    EpochRow,
    Keeper,
    identify,
    judge,
    refuse_divergence,
    refuse_empty_parts,
)
from serkit.types import InputError

__all__ = ["LOG_FILE", "STATE_FILE", "EpochRow", "FitResult", "TrainingConfig", "fit", "predict"]

STATE_FILE = "state.safetensors"


@dataclass(frozen=True, slots=True)
class FitResult:
    """What became of a training.

    Attributes
    ----------
    history
        One row per epoch: epoch (from 1), train_loss (penalties included), learning_rate if it
        is not constant, dev_loss, dev_uar, dev_war, seconds.
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
        If the training part is empty, selection by dev is asked for without a dev part, the folder
        holds another training, the objective or a penalty names what the model does not have, or
        the training diverged.
    """
    refuse_empty_parts(config, train, dev)
    # Fabric announces mixed precision once per process, and each member is a process.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    fabric.launch()
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = build_optimizer(rate_groups(recognizer, config), config)
    wrapped, fabric_optimizer = fabric.setup(recognizer, optimizer)
    penalised = penalised_parameters(recognizer, config.penalties)
    parameters = dict(recognizer.named_parameters())
    shares = class_shares(train, n_classes=len(recognizer.labels.classes)).to(fabric.device)

    def loss_of(batch: Mapping[str, Tensor]) -> Tensor:
        summed, _ = total_loss(wrapped(batch), batch, objective, shares=shares)
        return with_penalties(summed, parameters, penalised)

    identity = identify(config, objective, seed=seed, train=train, dev=dev)
    keeper = Keeper(config)
    history: list[EpochRow] = []
    n_frames, max_frames = train.gather("n_frames"), None
    if config.batch_seconds is not None:
        max_frames = config.batch_seconds * recognizer.frame_rate
    state_path = folder / STATE_FILE
    if state_path.exists():
        history = _resume(state_path, identity, recognizer, optimizer, keeper)
    with EpochLog(folder, history, tensorboard=config.tensorboard) as log:
        saved_at = time.monotonic()
        for epoch in range(len(history) + 1, config.epochs + 1):
            if keeper.exhausted(len(history)):
                break
            started = time.perf_counter()
            set_learning_rate(optimizer, config, epoch=epoch)
            batches = epoch_batches(
                n_frames,
                batch_size=config.batch_size,
                max_frames=max_frames,
                seed=seed,
                epoch=epoch,
            )
            torch.manual_seed(derive_seed(seed, "dropout", epoch))
            copies = (train.training_batch(rows, seed=seed, epoch=epoch) for rows in batches)
            train_loss = _train_epoch(
                wrapped, loss_of, fabric_optimizer, fabric, copies, config, n_batches=len(batches)
            )
            row: EpochRow = {"epoch": epoch, "train_loss": train_loss}
            row |= rate_of_row(config, epoch)
            if dev is not None and len(dev):
                scores = predict(recognizer, dev, batch_size=config.batch_size)["scores"]
                row |= judge(scores, dev.of_utterances("emotion").numpy())
            row["seconds"] = round(time.perf_counter() - started, 3)
            history.append(row)
            keeper.offer(row, recognizer.trained_state())
            log.write(row)
            if on_epoch is not None:
                on_epoch(row)
            if time.monotonic() - saved_at >= config.save_every_s:
                _save(state_path, identity, recognizer, optimizer, keeper, history)
                saved_at = time.monotonic()
    refuse_divergence(history)
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
        ``logits`` (n_pieces, n_classes) of every piece; ``n_pieces`` (n,) of each utterance;
        ``scores`` (n, n_classes), what the view makes of them; ``embedding`` (n, d), mean over the
        pieces, where the model has one; ``experts`` (n, n_classes), sigmoid of each expert's mean
        logit, where the model has experts.
    """
    recognizer.eval()
    device = next(recognizer.parameters()).device
    collected: dict[str, list[Tensor]] = {}
    for batch in examples.batches(batch_size):
        outputs = recognizer({name: t.to(device) for name, t in batch.items()})
        for name in ("emotion", "embedding", "experts"):
            if name in outputs:
                collected.setdefault(name, []).append(outputs[name].float().cpu())
    joined = {name: torch.cat(parts) for name, parts in collected.items()}
    owners, n = examples.owner_of_pieces(), len(examples.ids)
    pooled = {
        "logits": joined["emotion"],
        "n_pieces": examples.n_pieces(),
        "scores": recognizer.pool(joined["emotion"], owners, n),
    }
    if "embedding" in joined:
        pooled["embedding"] = mean_of_pieces(joined["embedding"], owners, n)
    if "experts" in joined:
        pooled["experts"] = mean_of_pieces(joined["experts"], owners, n).sigmoid()
    return {name: tensor.numpy() for name, tensor in pooled.items()}


def _train_epoch(
    model: Any,
    loss_of: Callable[[Mapping[str, Tensor]], Tensor],
    optimizer: Any,
    fabric: Fabric,
    batches: Iterable[Mapping[str, Tensor]],
    config: TrainingConfig,
    *,
    n_batches: int,
) -> float:
    """Run one epoch and return the mean loss per example."""
    model.train()
    total, n_seen = torch.zeros((), device=fabric.device), 0
    for number, copied in enumerate(batches, start=1):
        batch = {name: t.to(fabric.device) for name, t in copied.items()}
        stepping = number % config.accumulate == 0 or number == n_batches
        with fabric.no_backward_sync(model, enabled=not stepping):
            loss = loss_of(batch)
            fabric.backward(loss / config.accumulate)
        if stepping:
            if config.clip_norm is not None:
                clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        n = len(batch["n_frames"])
        total += loss.detach() * n
        n_seen += n
    return float(total) / n_seen


def _save(
    path: Path,
    identity: str,
    recognizer: Recognizer,
    optimizer: torch.optim.Optimizer,
    keeper: Keeper,
    history: Sequence[EpochRow],
) -> None:
    save_state(
        path,
        model=recognizer.trained_state(),
        best=keeper.best_weights,
        optimizer={
            str(index): {name: torch.as_tensor(value) for name, value in values.items()}
            for index, values in optimizer.state_dict()["state"].items()
        },
        meta={"identity": identity, "history": list(history)} | keeper.to_meta(),
    )


def _resume(
    path: Path,
    identity: str,
    recognizer: Recognizer,
    optimizer: torch.optim.Optimizer,
    keeper: Keeper,
) -> list[EpochRow]:
    state = load_state(path)
    if state.meta["identity"] != identity:
        raise InputError(
            f"{path}: belongs to another training (other settings, seed or utterances): remove "
            f"{os.path.dirname(path)} or choose another --out"
        )
    recognizer.load_trained_state(state.model)
    groups = optimizer.state_dict()["param_groups"]  # the settings stay the optimizer's own
    moments = {int(index): values for index, values in state.optimizer.items()}
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    keeper.resume(state.meta, state.best)
    history: list[EpochRow] = state.meta["history"]
    return history
