"""What one member takes: two training steps and one evaluation batch on the real data, measured.

Where members are trained in processes of their own, one is tried in such a process. Where they are
trained in this one, whose memory holds much else, the tensors of the steps are counted instead
(:func:`probe_here`).
"""

from __future__ import annotations

import re
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from serkit.recognizer import Recognizer
from serkit.training.batches import epoch_batches
from serkit.training.config import TrainingConfig
from serkit.training.data import Data, Examples, read_data
from serkit.training.loop import fit, predict
from serkit.training.member import Member, Tell, initial_recognizer
from serkit.training.memory import format_size, usage
from serkit.training.stacked import device_data, stack_device, stack_of
from serkit.training.trackers import TrackerConfig
from serkit.types import InputError

__all__ = ["Probe", "probe_here", "probe_member", "probe_stack"]

_N_STACKED = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured.

    Attributes
    ----------
    member
        Bytes that one member takes: all that its process has of its own, or its place in a stack.
    once
        Bytes that a stack takes however many members it has.
    libraries
        Bytes of program files that a process maps and shares with the other processes.
    step_s
        Seconds of one training step of one member at the full batch size.
    evaluation_s
        Seconds of one evaluation batch of one member.
    train_pieces, evaluation_pieces
        Pieces that an utterance is trained on and judged as, on average.
    """

    member: int
    libraries: int
    step_s: float
    evaluation_s: float
    train_pieces: float = 1.0
    evaluation_pieces: float = 1.0
    once: int = 0


def probe_member(member: Member, tell: Tell) -> Probe:
    """Train a member for two steps and evaluate a batch; nothing of it is kept.

    Times are those of the first batch. Where utterances differ in length, the largest batch is
    tried as well, for the memory it takes.

    Call it in a process of its own, as members are trained: the peak of a process is that of its
    whole life.
    """
    data = read_data(member.data)
    train, _ = member.parts(data)
    recognizer = initial_recognizer(member, train)
    batch = train.first(member.training.batch_size)
    with tempfile.TemporaryDirectory(prefix="serkit-probe-") as folder:
        result = fit(
            recognizer,
            batch,
            batch,
            _two_steps(member.training),
            objective=member.objective,
            seed=member.order_seed,
            folder=Path(folder),
        )
    began = time.perf_counter()
    predict(recognizer, batch, batch_size=member.training.batch_size)
    evaluation_s = time.perf_counter() - began
    largest = train.pieces(_largest_batch(train, member.training, recognizer.frame_rate))
    if _size(largest) > _size(batch):
        _fit_two_steps(member, recognizer, largest, largest)
    used = usage()
    return Probe(
        member=used.private_peak,
        libraries=used.mapped - _mapped_below(member.data),
        # The first step also pays for what is set up once.
        step_s=max(result.history[-1]["seconds"] - evaluation_s, 1e-3),
        evaluation_s=evaluation_s,
        train_pieces=len(data.training) / len(data.training.ids),
        evaluation_pieces=len(data.evaluation) / len(data.evaluation.ids),
    )


def probe_here(member: Member, *, limit: int | None = None) -> int:
    """Train a member for two steps in this process; nothing of it is kept.

    The batch is the largest that it will meet. In a crew all processes call it together, each with
    its share of the batch.

    Parameters
    ----------
    limit
        Bytes at which to give up; ``None``: never.

    Returns
    -------
    bytes
        Of tensors at the peak, those of the data aside: weights, gradients, moments, the best
        weights and what a step keeps. On a CUDA device, of its memory, as its allocator counts.

    Raises
    ------
    InputError
        If more than the limit is needed, or more than the device has.
    """
    train, dev = member.parts(read_data(member.data))
    recognizer = initial_recognizer(member, train)
    batch = train.pieces(_largest_batch(train, member.training, recognizer.frame_rate))
    device = stack_device(member.training)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # starts CUDA where nothing has
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _fit_two_steps(member, recognizer, batch, dev)
        except torch.OutOfMemoryError:
            if limit is None:
                raise
            raise InputError(
                f"memory: two steps with {len(batch)} utterances do not fit into that of the CUDA "
                "device: lower training.batch_size"
            ) from None
        peak = _peak(device)
        del recognizer
        torch.cuda.empty_cache()
        return peak
    weights = {t.data_ptr(): t.nbytes for t in recognizer.state_dict().values()}
    tensors = _TensorBytes(sum(weights.values()), limit=limit)
    with tensors:
        _fit_two_steps(member, recognizer, batch, dev)
    return tensors.peak


def _fit_two_steps(
    member: Member, recognizer: Recognizer, batch: Examples, dev: Examples | None
) -> None:
    with tempfile.TemporaryDirectory(prefix="serkit-probe-") as folder:
        fit(
            recognizer,
            batch,
            None if dev is None else dev.first(1),
            _two_steps(member.training),
            objective=member.objective,
            seed=member.order_seed,
            folder=Path(folder),
        )


def _two_steps(training: TrainingConfig) -> TrainingConfig:
    """Make the settings of a trial with a single batch."""
    # A dev part costs the copy of the best weights as well.
    return training.model_copy(
        update={
            "epochs": 2,
            "min_epochs": 1,
            "select_every": 1,
            "save_every_s": 0.0,
            "accumulate": 1,
            "tracker": TrackerConfig(),
        }
    )


def _largest_batch(train: Examples, config: TrainingConfig, frame_rate: float) -> Tensor:
    """Pick the rows of the batch that takes most memory."""
    n_frames = train.lengths()
    if config.batch_seconds is None:
        return n_frames.argsort(descending=True, stable=True)[: config.batch_size]
    batches = epoch_batches(
        n_frames,
        batch_size=config.batch_size,
        max_frames=config.batch_seconds * frame_rate,
        seed=0,
        epoch=1,
    )
    return max(batches, key=lambda rows: len(rows) * int(n_frames[rows].max()))


def _size(batch: Examples) -> int:
    """Count the frames of a batch, padding too."""
    return len(batch) * int(batch.lengths().max())


class _TensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make, for as long as they live.

    Parameters
    ----------
    at_first
        Bytes to start from.
    limit
        Bytes at which to give up.
    """

    def __init__(self, at_first: int, *, limit: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = at_first
        self._limit = limit
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what an operation makes; what it is given was there before, or is counted."""
        for given in tree_leaves((args, kwargs)):
            self._count(given, made=False)
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            self._count(result, made=True)
        return results

    def _count(self, value: Any, *, made: bool) -> None:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            return
        storage = value.untyped_storage()
        identity, n_bytes = id(storage), storage.nbytes() if made else 0
        if identity in self._known:
            return

        def forget(_: object) -> None:
            del self._known[identity]
            self._now -= n_bytes

        self._known[identity] = weakref.ref(storage, forget)
        self._now += n_bytes
        self.peak = max(self.peak, self._now)
        if self._limit is not None and self._now > self._limit:
            raise InputError(
                f"memory: one member needs more than the {format_size(self._limit)} that are left "
                "beside this process, libraries and data: raise --memory, or lower "
                "training.batch_size"
            )


def probe_stack(members: Sequence[Member], tell: Tell) -> Probe:
    """Train a stack of one and a stack of some for two steps each; nothing of it is kept.

    What the second takes more than the first is what a member takes. On a CPU call it in a process
    of its own.
    """
    data, device = device_data(members[0]), stack_device(members[0].training)
    some = members[:_N_STACKED]
    at_first = _peak(device)
    _try_stack(members[:1], data)
    with_one = _peak(device)
    step_s, evaluation_s = _try_stack(some, data)
    each = (_peak(device) - with_one) // (len(some) - 1) if len(some) > 1 else with_one - at_first
    return Probe(
        member=each,
        once=max(with_one - at_first - each, 0),
        libraries=usage().mapped - _mapped_below(members[0].data),
        step_s=step_s,
        evaluation_s=evaluation_s,
        train_pieces=len(data.training) / len(data.training.ids),
        evaluation_pieces=len(data.evaluation) / len(data.evaluation.ids),
    )


def _try_stack(members: Sequence[Member], data: Data) -> tuple[float, float]:
    """Train for two steps and evaluate a batch; seconds of the second step and of the batch."""
    parts = [member.parts(data)[0] for member in members]
    size = min(members[0].training.batch_size, *map(len, parts), len(parts[0]))
    rows = torch.stack([part.base_rows(torch.arange(size)) for part in parts])
    stack, everyone = stack_of(members, data), torch.arange(len(members))
    times = []
    for work in (stack.step, stack.step, stack.logits):
        began = time.perf_counter()
        work(everyone, data.training.batch(rows)).cpu()  # waits for the device
        times.append((time.perf_counter() - began) / len(members))
    return times[1], times[2]


def _peak(device: torch.device) -> int:
    """Most bytes held so far: on a GPU of its memory, else of this process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return usage().private_peak


def _mapped_below(folder: Path) -> int:
    """Count the bytes in memory of files below a folder that this process maps (Linux)."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    below, total = False, 0
    for line in lines:
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            below = str(folder.resolve()) in line
        elif below and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
