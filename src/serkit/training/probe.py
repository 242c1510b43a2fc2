"""What one member takes: two training steps and one evaluation batch on the real data, measured."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from serkit.training.data import Data, read_data
from serkit.training.loop import fit, predict
from serkit.training.member import Member, Tell, initial_recognizer
from serkit.training.memory import usage
from serkit.training.stacked import device_data, stack_device, stack_of

__all__ = ["Probe", "probe_member", "probe_stack"]

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

    Call it in a process of its own, as members are trained: the peak of a process is that of its
    whole life.
    """
    data = read_data(member.data)
    train, _ = member.parts(data)
    recognizer = initial_recognizer(member, train)
    batch = train.first(member.training.batch_size)
    training = member.training.model_copy(
        # A dev part costs the copy of the best weights as well.
        update={"epochs": 2, "min_epochs": 1, "select_every": 1, "save_every_s": 0.0}
    )
    with tempfile.TemporaryDirectory(prefix="serkit-probe-") as folder:
        result = fit(
            recognizer,
            batch,
            batch,
            training,
            objective=member.objective,
            seed=member.order_seed,
            folder=Path(folder),
        )
    began = time.perf_counter()
    predict(recognizer, batch, batch_size=member.training.batch_size)
    evaluation_s = time.perf_counter() - began
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
