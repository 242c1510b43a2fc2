"""The one training loop, on Lightning Fabric.

``fit`` sees a training part and a dev part. It has no parameter through which test data could
enter; a protocol that selects on the test fold has to hand it over *as* the dev part, and is named
for it.

Randomness is a function of (seed, epoch, batch), never of history: each epoch draws its order, and
each batch its dropout, from a derived seed. A run that was killed, in the middle of an epoch or
not, and resumed therefore ends with the weights of a run that was not, without any generator state
on disk.

Under torchrun every process of the :mod:`crew <.crew>` runs the same ``fit``: each computes the
loss of its share of every batch, gradients are summed, and the leader alone judges and writes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from serkit.features.views import mean_of_pieces
from serkit.recognizer import Recognizer
from serkit.training.batches import epoch_batches
from serkit.training.checkpoint import load_state, save_state
from serkit.training.config import TrainingConfig
from serkit.training.crew import crew_rank, crew_size
from serkit.training.data import Examples, derive_seed
from serkit.training.learner import Criterion, EpochRow, JudgeDev, Part, TermsCriterion
from serkit.training.objectives import Term, class_shares, penalised_parameters
from serkit.training.optimise import (
    build_optimizer,
    rate_groups,
    rate_of_row,
    set_learning_rate,
)
from serkit.training.record import (
    LOG_FILE,
    EpochLog,
    Keeper,
    identify,
    judge,
    refuse_divergence,
    refuse_empty_parts,
)
from serkit.types import InputError

__all__ = [
    "LOG_FILE",
    "STATE_FILE",
    "EpochRow",
    "FitResult",
    "TrainingConfig",
    "fit",
    "fit_learner",
    "predict",
]

STATE_FILE = "state.safetensors"

SPELLED = ("asr", "ctc")  # outputs of which each frame names a symbol; models have one at most


@dataclass(frozen=True, slots=True)
class FitResult:
    """What became of a training.

    Attributes
    ----------
    history
        One row per epoch: epoch (from 1), train_loss (penalties included), learning_rate if it
        is not constant, what the dev part was judged to be (dev_loss, dev_uar, dev_war, ...),
        seconds.
    selected_epoch
        The epoch whose weights the learner now holds.
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
    """Train a recognizer of emotion; see :func:`fit_learner`.

    Parameters
    ----------
    objective
        Terms of the loss.

    Raises
    ------
    InputError
        As there; or if the objective or a penalty names what the model does not have.
    """
    refuse_empty_parts(config, train, dev)
    weighted = any(term.class_weights != "none" for term in objective)
    n_classes = len(recognizer.labels.classes)
    criterion = TermsCriterion(
        objective,
        parameters=dict(recognizer.named_parameters()),
        penalised=penalised_parameters(recognizer, config.penalties),
        shares=class_shares(train, n_classes=n_classes) if weighted else None,
    )
    return fit_learner(
        recognizer,
        train,
        dev,
        config,
        criterion=criterion,
        judge_dev=lambda learner, part: _judge_emotion(learner, part, config.batch_size),
        seed=seed,
        folder=folder,
        on_epoch=on_epoch,
    )


def fit_learner(
    learner: Any,
    train: Part,
    dev: Any | None,
    config: TrainingConfig,
    *,
    criterion: Criterion,
    judge_dev: JudgeDev,
    seed: int,
    folder: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    resume_from: Path | None = None,
) -> FitResult:
    """Train a network; afterwards it holds the weights of the selected epoch.

    Parameters
    ----------
    learner
        An ``nn.Module`` that is a :class:`.learner.Learner`.
    train, dev
        ``dev`` may be ``None`` when ``config.select`` is ``last``.
    judge_dev
        Called after each epoch with the learner and the dev part.
    seed
        Decides order and dropout (the caller decides the initialisation).
    folder
        Holds ``log.jsonl`` and the resumable state. If it holds the state of the same training,
        that training goes on where it was.
    on_epoch
        Called with each epoch's row.
    groups
        Parameters with rates of their own, as :func:`.optimise.rate_groups` gives them;
        ``None``: those.
    resume_from
        A state of the same training to go on from, instead of the folder's.

    Raises
    ------
    InputError
        If the training part is empty, selection by dev is asked for without a dev part, the state
        is that of another training, an epoch has no step, or the training diverged.
    """
    refuse_empty_parts(config, train, dev)
    fabric = _launch(config)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = build_optimizer(groups or rate_groups(learner, config), config)
    wrapped, fabric_optimizer = fabric.setup(learner, optimizer)
    identity = identify(config, criterion.describe(), seed=seed, train=train, dev=dev)
    run = _Run(
        config=config,
        learner=learner,
        optimizer=optimizer,
        criterion=criterion,
        keeper=Keeper(config),
        identity=identity,
        path=folder / STATE_FILE,
    )
    if resume_from is not None or run.path.exists():
        run.resume(resume_from or run.path)
    n_frames, max_frames = train.lengths(), None
    if config.batch_seconds is not None:
        max_frames = config.batch_seconds * learner.frame_rate
    leads = crew_rank() == 0
    with EpochLog(
        folder,
        run.history,
        tracker=config.tracker,
        settings=config.model_dump(mode="json"),
        write=leads,
    ) as log:
        for epoch in range(len(run.history) + 1, config.epochs + 1):
            if run.keeper.exhausted(len(run.history)):
                break
            batches = epoch_batches(
                n_frames,
                batch_size=config.batch_size,
                max_frames=max_frames,
                seed=seed,
                epoch=epoch,
                shortest_first=config.shortest_first,
            )
            _train_epoch(run, wrapped, fabric_optimizer, fabric, train, batches, seed=seed)
            row: EpochRow = {"epoch": epoch, "train_loss": run.mean_loss()}
            run.end_epoch()
            row |= rate_of_row(config, epoch)
            if leads and dev is not None and len(dev):
                row |= judge_dev(learner, dev)
            row["seconds"] = round(run.seconds(), 3)
            row = fabric.broadcast(row)
            run.history.append(row)
            run.keeper.offer(row, learner.trained_state())
            log.write(row)
            if leads and on_epoch is not None:
                on_epoch(row)
            if run.due():
                run.save()
    refuse_divergence(run.history)
    selected = run.keeper.restore(learner, last_epoch=len(run.history))
    learner.eval()
    return FitResult(tuple(run.history), selected)


class _ExactInputs(MixedPrecision):
    """Half precision for operations; what enters a network is not rounded.

    Fabric's own rounds it as well, and so in training alone, not where a network is judged: cepstra
    of some hundred decibels come in steps of two then.
    """

    @classmethod
    def of(cls, config: TrainingConfig) -> _ExactInputs:
        """Make the precision of a training other than in single precision."""
        assert config.precision != "32-true"
        device = config.accelerator
        if device == "auto":  # in Fabric's order
            mps = torch.backends.mps.is_available()
            device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
        return cls(config.precision, device)

    def convert_input(self, data: Any) -> Any:
        """Leave inputs as they are."""
        return data


def _launch(config: TrainingConfig) -> Fabric:
    # Fabric announces mixed precision once per process, and each member is a process.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    plugins = None if config.precision == "32-true" else _ExactInputs.of(config)
    if crew_size() == 1:
        fabric = Fabric(accelerator=config.accelerator, devices=1, plugins=plugins)
    else:
        n_here = int(os.environ.get("LOCAL_WORLD_SIZE", crew_size()))
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=n_here,
            num_nodes=crew_size() // n_here,
            plugins=plugins,
            # Models have parts that a batch may not reach, such as the head of a missing target.
            strategy=DDPStrategy(find_unused_parameters=True),
        )
    fabric.launch()
    return fabric


def _judge_emotion(recognizer: Recognizer, dev: Examples, batch_size: int) -> EpochRow:
    scores = predict(recognizer, dev, batch_size=batch_size)["scores"]
    return judge(scores, dev.of_utterances("emotion").numpy())


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
        logit, where the model has experts; ``heard`` (n, n_frames), the most probable symbol of
        each frame and the blank behind the last, where the model spells what is said.
    """
    recognizer.eval()
    device = next(recognizer.parameters()).device
    collected: dict[str, list[Tensor]] = {}
    heard: list[Tensor] = []
    for batch in examples.batches(batch_size):
        outputs = recognizer({name: t.to(device) for name, t in batch.items()})
        for name in ("emotion", "embedding", "experts"):
            if name in outputs:
                collected.setdefault(name, []).append(outputs[name].float().cpu())
        heard += [
            row for name in SPELLED if name in outputs for row in _best_symbols(outputs, name)
        ]
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
    if heard:
        pooled["heard"] = pad_sequence(heard, batch_first=True)
    return {name: tensor.numpy() for name, tensor in pooled.items()}


def _best_symbols(outputs: Mapping[str, Tensor], name: str) -> Tensor:
    """Read the most probable symbol of every frame, (batch, n_frames), blanks behind the last."""
    best = outputs[name].argmax(2).cpu()
    valid = torch.arange(best.shape[1]) < outputs[f"n_{name}"].cpu().unsqueeze(1)
    return (best * valid).to(torch.int16)


@dataclass(slots=True)
class _Run:
    """What a training has come to; all of it goes into the resumable state."""

    config: TrainingConfig
    learner: Any
    optimizer: torch.optim.Optimizer
    criterion: Criterion
    keeper: Keeper
    identity: str
    path: Path
    history: list[EpochRow] = field(default_factory=list)
    n_batches: int = 0  # of the epoch at hand that are done
    loss_sum: float | Tensor = 0.0  # over the examples of those
    n_seen: int = 0
    seconds_before: float = 0.0  # of the epoch at hand, before a kill
    began: float = field(default_factory=time.perf_counter)
    saved_at: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Time spent on the epoch at hand."""
        return self.seconds_before + time.perf_counter() - self.began

    def count(self, loss: Tensor, n: int) -> None:
        """Count a batch as done."""
        self.n_batches += 1
        self.n_seen += n
        self.loss_sum = self.loss_sum + loss * n

    def mean_loss(self) -> float:
        """Average the loss over the examples that all processes have seen in this epoch."""
        return self._summed() / max(self.n_seen, 1)

    def end_epoch(self) -> None:
        """Count anew."""
        self.n_batches, self.loss_sum, self.n_seen = 0, 0.0, 0

    def _summed(self) -> float:
        total = torch.as_tensor(self.loss_sum, dtype=torch.float64).cpu()
        if crew_size() > 1:
            dist.all_reduce(total)
        return float(total)

    def due(self) -> bool:
        """Tell whether it is time to save after an epoch."""
        return time.monotonic() - self.saved_at >= self.config.save_every_s

    def due_within(self) -> bool:
        """Tell whether it is time to save in the middle of an epoch."""
        every = self.config.save_every_batches
        if every is not None and self.n_batches % every == 0:
            return True
        # 0 asks for a state after every epoch, not after every step; and clocks differ in a crew,
        # which has to save together.
        return self.config.save_every_s > 0 and crew_size() == 1 and self.due()

    def save(self) -> None:
        """Write the state, in the leader; in the middle of an epoch all call it together."""
        loss_sum = self._summed() if self.n_batches else 0.0
        if crew_rank() == 0:
            optimizer = {
                str(index): {name: torch.as_tensor(value) for name, value in values.items()}
                for index, values in self.optimizer.state_dict()["state"].items()
            }
            save_state(
                self.path,
                model=self.learner.trained_state(),
                best=self.keeper.best_weights,
                optimizer=optimizer,
                criterion=self.criterion.state(),
                meta={
                    "identity": self.identity,
                    "history": self.history,
                    "n_batches": self.n_batches,
                    "loss_sum": loss_sum,
                    "n_seen": self.n_seen,
                    "seconds": self.seconds(),
                }
                | self.keeper.to_meta(),
            )
        self.saved_at = time.monotonic()

    def resume(self, path: Path) -> None:
        """Go on from a stored state.

        Raises
        ------
        InputError
            If it is that of another training.
        """
        state = load_state(path)
        if state.meta["identity"] != self.identity:
            advice = f"remove {os.path.dirname(path)} or choose another --out"
            if path != self.path:
                advice = "name a state of this one"
            raise InputError(
                f"{path}: belongs to another training (other settings, seed or utterances): "
                f"{advice}"
            )
        self.learner.load_trained_state(state.model)
        groups = self.optimizer.state_dict()["param_groups"]  # the settings stay its own
        moments = {int(index): values for index, values in state.optimizer.items()}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.criterion.load_state(state.criterion)
        self.keeper.resume(state.meta, state.best)
        self.history = state.meta["history"]
        self.n_batches, self.n_seen = state.meta["n_batches"], state.meta["n_seen"]
        # The leader alone counts what all processes had seen.
        self.loss_sum = state.meta["loss_sum"] if crew_rank() == 0 else 0.0
        self.seconds_before = state.meta["seconds"] if self.n_batches else 0.0


def _train_epoch(
    run: _Run,
    model: Any,
    optimizer: Any,
    fabric: Fabric,
    train: Part,
    batches: Sequence[Tensor],
    *,
    seed: int,
) -> None:
    """Train with the batches of an epoch that are not done."""
    config, epoch = run.config, len(run.history) + 1
    if config.remainder == "drop" and len(batches) < config.accumulate:
        raise InputError(
            f"training.accumulate is {config.accumulate} with remainder = 'drop', and an epoch has "
            f"{len(batches)} batches: no step would be made; take remainder = 'step'"
        )
    scale = 1 / config.accumulate if config.accumulate_by == "mean" else 1.0
    run.began = time.perf_counter()
    if not run.n_batches:
        run.seconds_before = 0.0
    model.train()
    for number, rows in enumerate(batches[run.n_batches :], start=run.n_batches + 1):
        own, share = _own_share(rows)
        copied = train.training_batch(own, seed=seed, epoch=epoch)
        batch = {name: t.to(fabric.device) for name, t in copied.items()}
        torch.manual_seed(derive_seed(seed, "dropout", epoch, number, *_own_stream()))
        ends = number == len(batches) and config.remainder == "step"
        stepping = number % config.accumulate == 0 or ends
        with fabric.no_backward_sync(model, enabled=not stepping):
            outputs = model(batch)
            loss = run.criterion.loss(outputs, batch, share=share)
            # Gradients are averaged over the processes, and the shares' losses are summands.
            fabric.backward(loss * (crew_size() * scale))
        if stepping:
            if config.clip_norm is not None:
                clip_grad_norm_(model.parameters(), config.clip_norm)
            set_learning_rate(run.optimizer, config, epoch=epoch, done=number / len(batches))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        run.criterion.remember({k: v.detach() for k, v in outputs.items()}, batch, epoch=epoch)
        run.count(loss.detach(), len(rows))
        if stepping and number < len(batches) and run.due_within():
            run.save()
    optimizer.zero_grad(set_to_none=True)  # of batches that were dropped


def _own_share(rows: Tensor) -> tuple[Tensor, float]:
    """Give this process's rows of a batch, and what share of it they are."""
    own = rows.tensor_split(crew_size())[crew_rank()]
    if len(own):
        return own, len(own) / len(rows)
    # A batch smaller than the crew: the others' gradients are waited for with a loss of 0.
    return rows[:1], 0.0


def _own_stream() -> tuple[int, ...]:
    """Tell the dropout of followers from the leader's, which is that of a process alone."""
    return (crew_rank(),) if crew_rank() else ()
