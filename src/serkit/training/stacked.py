"""Members of a cross-validation, trained as one stacked program (see :mod:`.stack`).

Meant for GPUs, where one small network leaves most of the device idle; it runs on a CPU as well,
and is tested there. Each member keeps its own initialisation, order, statistics, optimiser,
selection and log, and leaves the same files as one that was trained alone. At every step the
members whose batches have one size are stepped together, so the last, smaller batches of folds of
different sizes never mix; a member that has ended is dropped from the stack.

Dropout draws for all members from one stream, a function of their seeds and epochs: statistically
the same as alone, not draw by draw. Without dropout the weights are the same up to rounding.

The state of a wave is one file, saved every ``save_every_s`` and whenever a member has ended. A
killed wave is resumed with the same members, so that dropout is the same as well.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from serkit.recognizer import Recognizer
from serkit.training.checkpoint import load_state, save_state
from serkit.training.config import TrainingConfig
from serkit.training.data import Data, Examples, derive_seed, epoch_order, read_data
from serkit.training.learner import EpochRow
from serkit.training.member import Member, Tell, finish_member, initial_recognizer
from serkit.training.objectives import UNSTACKABLE, Term, class_shares
from serkit.training.optimise import rate_of_row
from serkit.training.record import (
    EpochLog,
    Keeper,
    identify,
    judge,
    refuse_divergence,
    refuse_empty_parts,
)
from serkit.training.stack import Stack
from serkit.types import InputError

__all__ = [
    "device_data",
    "refuse_unstackable",
    "stack_device",
    "stack_of",
    "stackable",
    "state_path",
    "train_stacked",
    "unfinished_wave",
]

STATE_FILE = "stack.safetensors"


def stack_device(config: TrainingConfig) -> torch.device:
    """Device that a stack is trained on."""
    if config.accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.accelerator)


def stackable(config: TrainingConfig, objective: Sequence[Term] = ()) -> bool:
    """Tell whether a stack can train with these settings and terms."""
    settings_fit = (
        config.accumulate == 1
        and config.precision == "32-true"
        and config.batch_seconds is None
        and not config.schedule.within_epochs
        and not config.shortest_first
    )
    return settings_fit and not any(term.loss in UNSTACKABLE for term in objective)


def refuse_unstackable(
    config: TrainingConfig,
    objective: Sequence[Term] = (),
    *,
    augmented: bool = False,
    several_streams: bool = False,
) -> None:
    """Refuse settings, terms, views and streams that a stack cannot train with.

    Raises
    ------
    InputError
        If there are any.
    """
    if augmented:
        raise InputError(
            "training.cohort = 'stacked' cannot train with augmented views: set training.cohort = "
            "'processes'"
        )
    if several_streams:
        raise InputError(
            "training.cohort = 'stacked' cannot train a recognizer with a pre-trained encoder or a "
            "second stream: set training.cohort = 'processes'"
        )
    for term in objective:
        if term.loss in UNSTACKABLE:
            raise InputError(
                f"training.cohort = 'stacked' cannot train the loss '{term.loss}': set "
                "training.cohort = 'processes'"
            )
    if not stackable(config):
        raise InputError(
            "training.cohort = 'stacked' trains with accumulate = 1, precision = '32-true', a "
            "schedule by epoch, and without batch_seconds and shortest_first, got "
            f"{config.accumulate}, '{config.precision}', '{config.schedule.kind}', "
            f"{config.batch_seconds} and {config.shortest_first}: change them, or set "
            "training.cohort = 'processes'"
        )
    if config.accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "training.accelerator is 'cuda', but torch sees no CUDA device: see 'serkit doctor' or "
            "set training.accelerator = 'auto'"
        )
    if config.compile and stack_device(config).type != "cuda":
        raise InputError(
            "training.compile is for CUDA devices, and this training runs on "
            f"'{stack_device(config).type}': set training.compile = false"
        )


@dataclass(slots=True)
class _Trained:
    """A member in the stack."""

    member: Member
    train: Examples
    dev: Examples | None
    keeper: Keeper
    identity: str
    history: list[EpochRow] = field(default_factory=list)

    @classmethod
    def of(cls, member: Member, data: Data) -> _Trained:
        train, dev = member.parts(data)
        refuse_empty_parts(member.training, train, dev)
        identity = identify(
            member.training,
            [term.model_dump() for term in member.objective],
            seed=member.order_seed,
            train=train,
            dev=dev,
        )
        return cls(member, train, dev, Keeper(member.training), identity)

    @property
    def ended(self) -> bool:
        epoch = len(self.history)
        return epoch >= self.member.training.epochs or self.keeper.exhausted(epoch)


def unfinished_wave(members: Sequence[Member]) -> list[Member]:
    """Find the members of a wave that was stopped; none if there was none.

    Raises
    ------
    InputError
        If its state is damaged or belongs to another cohort.
    """
    path = state_path(members)
    if not path.exists():
        return []
    by_name = {member.name: member for member in members}
    names = [entry["name"] for entry in load_state(path).meta.get("members", [])]
    if not names or not set(names) <= set(by_name):
        raise _another_training(path)
    wave = [by_name[name] for name in names]
    if all(member.finished for member in wave):
        path.unlink()
        return []
    return wave


def train_stacked(wave: Sequence[Member], tell: Tell) -> None:
    """Train a wave of members together; see :func:`serkit.training.member.train_member`.

    Raises
    ------
    InputError
        If a part is empty, a stored state belongs to another training, or a member diverged; the
        others are finished first.
    """
    config, path = wave[0].training, state_path(wave)
    data = device_data(wave[0])
    active = [_Trained.of(member, data) for member in wave]
    stack = stack_of(wave, data)
    if path.exists():
        _resume(path, stack, active)
    diverged: list[InputError] = []
    with ExitStack() as stacked_logs:
        logs = {t.member.name: stacked_logs.enter_context(_open_log(t)) for t in active}
        saved_at = time.monotonic()
        while active:
            ended = [row for row, trained in enumerate(active) if trained.ended]
            for row in ended:
                try:
                    _finish(active[row], stack.state_dict(row), data, tell)
                except InputError as error:
                    diverged.append(error)
            active = [trained for row, trained in enumerate(active) if row not in ended]
            if ended:
                stack.drop(ended)
            else:
                _train_round(stack, active, data.training)
                _judge_round(stack, active, data.evaluation)
                for trained in active:
                    logs[trained.member.name].write(trained.history[-1])
                    tell(trained.member.name, trained.history[-1])
            if active and (ended or time.monotonic() - saved_at >= config.save_every_s):
                _save(path, stack, active)
                saved_at = time.monotonic()
    path.unlink(missing_ok=True)
    if diverged:
        raise diverged[0]


def device_data(member: Member) -> Data:
    """Put the data of a cohort on its device, once for all members.

    On a CPU they stay mapped from their files.
    """
    return read_data(member.data).to(stack_device(member.training))


def stack_of(members: Sequence[Member], data: Data) -> Stack:
    """Stack members as they are before their first epoch."""
    config = members[0].training
    parts = [data.training.select(member.fold.train) for member in members]
    recognizers = [initial_recognizer(m, part) for m, part in zip(members, parts, strict=True)]
    n_classes = len(members[0].recognizer.classes)
    return Stack(
        recognizers,
        config,
        objective=members[0].objective,
        shares=torch.stack([class_shares(part, n_classes=n_classes) for part in parts]),
        device=stack_device(config),
    )


def _train_round(stack: Stack, active: Sequence[_Trained], examples: Examples) -> None:
    """Train every member for its next epoch and begin the row of that epoch."""
    began = time.perf_counter()
    config = active[0].member.training
    epoch = len(active[0].history) + 1  # a wave begins, stops and goes on together
    orders = [
        t.train.base_rows(epoch_order(len(t.train), seed=t.member.order_seed, epoch=epoch))
        for t in active
    ]
    stream = [f"{t.member.order_seed}-{epoch}" for t in active]
    torch.manual_seed(derive_seed("stacked dropout", *stream))
    totals = torch.zeros(len(active), device=stack.weights.device)
    for members, rows in _batches(orders, config.batch_size):
        losses = stack.step(members, examples.batch(rows), epoch=epoch)
        totals[members.to(totals.device)] += losses * rows.shape[1]
    means = totals.cpu() / torch.tensor([len(order) for order in orders])
    share_s = (time.perf_counter() - began) / len(active)
    for trained, loss in zip(active, means.tolist(), strict=True):
        row: EpochRow = {"epoch": epoch, "train_loss": loss} | rate_of_row(config, epoch)
        trained.history.append(row | {"seconds": share_s})


def _judge_round(stack: Stack, active: Sequence[_Trained], examples: Examples) -> None:
    """Score every member's dev part, complete the row and keep the weights if they are best."""
    began = time.perf_counter()
    size = active[0].member.training.batch_size
    empty = torch.empty(0, dtype=torch.long)
    orders = [empty if t.dev is None else t.dev.base_rows(torch.arange(len(t.dev))) for t in active]
    logits: list[list[Tensor]] = [[] for _ in active]
    for members, rows in _batches(orders, size):
        batch_logits = stack.logits(members, examples.batch(rows)).cpu()
        for number, own in zip(members.tolist(), batch_logits, strict=True):
            logits[number].append(own)
    share_s = (time.perf_counter() - began) / len(active)
    for number, trained in enumerate(active):
        row = trained.history[-1]
        seconds = row.pop("seconds") + share_s
        dev = trained.dev
        if dev is not None:
            joined = torch.cat(logits[number])
            scores = stack.recognizer.pool(joined, dev.owner_of_pieces(), len(dev.ids))
            row |= judge(scores.numpy(), dev.of_utterances("emotion").cpu().numpy())
        row["seconds"] = round(seconds, 3)
        trained.keeper.offer(row, stack.state_dict(number))


def _batches(orders: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk through all orders side by side; batches of one size go together.

    Yields
    ------
    members : (n,), positions in ``orders``
    rows : (n, size), what is next in each of them
    """
    pieces = [torch.split(order, batch_size) if len(order) else () for order in orders]
    for number in range(max(map(len, pieces))):
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for position, own in enumerate(pieces):
            if number < len(own):
                groups[len(own[number])].append(position)
        for members in groups.values():
            yield torch.tensor(members), torch.stack([pieces[m][number] for m in members])


def _finish(trained: _Trained, weights: Mapping[str, Tensor], data: Data, tell: Tell) -> None:
    """Store what a member that was trained alone would have stored."""
    member, history = trained.member, trained.history
    refuse_divergence(history)
    recognizer = Recognizer(member.recognizer)
    recognizer.load_state_dict(weights)
    selected = trained.keeper.restore(recognizer, last_epoch=len(history))
    recognizer.to(stack_device(member.training))
    finish_member(member, recognizer, data, selected_epoch=selected)
    tell(member.name, {"finished": True})


def _open_log(trained: _Trained) -> EpochLog:
    folder, config = trained.member.folder, trained.member.training
    folder.mkdir(parents=True, exist_ok=True)
    return EpochLog(
        folder,
        trained.history,
        tracker=config.tracker,
        settings=config.model_dump(mode="json"),
    )


def state_path(members: Sequence[Member]) -> Path:
    """File that the state of a wave is kept in."""
    return members[0].folder.parent / STATE_FILE


def _save(path: Path, stack: Stack, active: Sequence[_Trained]) -> None:
    best = {
        f"{row}.{name}": tensor
        for row, trained in enumerate(active)
        for name, tensor in trained.keeper.best_weights.items()
    }
    members = [
        {"name": t.member.name, "identity": t.identity, "history": t.history} | t.keeper.to_meta()
        for t in active
    ]
    save_state(
        path,
        model=stack.tensors(),
        best=best,
        optimizer={"all": stack.optimizer.state()},
        meta={"members": members},
    )


def _resume(path: Path, stack: Stack, active: Sequence[_Trained]) -> None:
    state = load_state(path)
    stored = [(entry["name"], entry["identity"]) for entry in state.meta["members"]]
    if stored != [(t.member.name, t.identity) for t in active]:
        raise _another_training(path)
    stack.load(state.model)
    stack.optimizer.resume(state.optimizer["all"])
    best: list[dict[str, Tensor]] = [{} for _ in active]
    for key, tensor in state.best.items():
        row, _, name = key.partition(".")
        best[int(row)][name] = tensor.to(stack.weights.device)
    for trained, weights, entry in zip(active, best, state.meta["members"], strict=True):
        trained.keeper.resume(entry, weights)
        trained.history = entry["history"]


def _another_training(path: Path) -> InputError:
    return InputError(
        f"{path}: belongs to another training (other settings, seeds or utterances): remove it to "
        "start these members again, or choose another --out"
    )
