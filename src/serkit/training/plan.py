"""How many members fit into memory at once, and how long they take together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from serkit.machine import usable_cores
from serkit.training.member import Member
from serkit.training.memory import Usage, format_size
from serkit.training.probe import Probe
from serkit.types import InputError

__all__ = ["Plan", "Shared", "plan_members", "plan_one_by_one"]

# After hours a process holds a little more than after two steps.
_LATER = 1.05


@dataclass(frozen=True, slots=True)
class Plan:
    """How the members of a cohort share the machine; ``None`` where it was not measured.

    Attributes
    ----------
    engine
        ``one by one``, ``processes`` or ``stacked``.
    n_members
        Members still to train.
    n_at_once, n_waves
        Members side by side, and how often that many are taken up.
    member_bytes, peak_bytes, budget_bytes
        Memory that one member adds, that all take at most with this process, that they may take.
    expected_s
        Seconds, if no member stops early.
    n_together
        Processes that share each member.
    """

    engine: str
    n_members: int
    n_at_once: int
    n_waves: int
    member_bytes: int | None = None
    peak_bytes: int | None = None
    budget_bytes: int | None = None
    expected_s: float | None = None
    n_together: int = 1

    def lines(self) -> list[str]:
        """Sentences for people; none where no member is left."""
        if self.member_bytes is None or self.peak_bytes is None or self.budget_bytes is None:
            return []
        memory = (
            f"memory: about {format_size(self.peak_bytes)} of {format_size(self.budget_bytes)} at "
            f"the peak, {format_size(self.member_bytes)} per member"
        )
        members = _count(self.n_members, "member")
        if self.expected_s is None:
            alone = self.n_together == 1
            where = " in this process" if alone else f", each shared by {self.n_together} processes"
            each = "" if alone else " and process"
            return [f"plan: {members}, one by one{where}", memory + each]
        where = "stacked" if self.engine == "stacked" else "in processes"
        return [
            f"plan: {members} {where}, {self.n_at_once} at once, "
            f"{_count(self.n_waves, 'round')}; about {format_duration(self.expected_s)}, less if "
            "members stop early",
            memory,
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Shared:
    """Bytes that are there once, however many members are trained.

    Attributes
    ----------
    parent
        This process's own, or what a stack takes once.
    libraries
        Program files that the processes map.
    data
        Features and labels, which all members index into.
    """

    parent: int
    libraries: int
    data: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parent + self.libraries + self.data

    @classmethod
    def of(cls, parent: Usage, probe: Probe, *, data: int) -> Shared:
        """Take this process, what a probe mapped, and the size of the data."""
        return cls(parent.private + probe.once, max(parent.mapped, probe.libraries), data)


def plan_one_by_one(
    n_members: int, own: int, *, shared: Shared, budget: int, n_together: int = 1, n_here: int = 1
) -> Plan:
    """Plan to train in this process, or in those of a crew, for what a trial has counted.

    Parameters
    ----------
    own
        Bytes that a member takes in each process.
    budget
        Bytes for the processes of this machine, or for one on its CUDA device.
    n_together, n_here
        Processes that share each member, and how many of them share that memory.

    Raises
    ------
    InputError
        If a member does not fit.
    """
    each = int(own * _LATER)
    around = n_here * shared.parent + shared.libraries + shared.data
    _refuse_more_than(budget, n_here * each, around)
    return Plan(
        "one by one",
        n_members,
        n_at_once=1,
        n_waves=n_members,
        member_bytes=each,
        peak_bytes=around + n_here * each,
        budget_bytes=budget,
        n_together=n_together,
    )


def _refuse_more_than(budget: int, own: int, around: int) -> None:
    """Refuse a member that does not fit beside what is there anyway."""
    if own + around > budget:
        raise InputError(
            f"memory: one member needs {format_size(own + around)} ({format_size(own)} of its "
            f"own, {format_size(around)} for this process, libraries and data), the limit is "
            f"{format_size(budget)}: raise --memory to that, or lower training.batch_size"
        )


def plan_members(
    members: Sequence[Member],
    probe: Probe,
    *,
    engine: str,
    shared: Shared,
    n_jobs: int,
    budget: int,
) -> Plan:
    """Plan for what a probe has measured.

    Parameters
    ----------
    n_jobs
        Members at once, if memory allows.
    budget
        Bytes for this process, the data and the members together.

    Raises
    ------
    InputError
        If not even one member fits.
    """
    each = int(probe.member * _LATER)
    _refuse_more_than(budget, each, shared.total)
    n_fitting = (budget - shared.total) // max(each, 1)
    n_at_once = min(n_jobs, len(members), n_fitting)
    # Processes share the cores; a stack was measured as it runs.
    parallel = 1 if engine == "stacked" else min(n_at_once, usable_cores())
    return Plan(
        engine,
        n_members=len(members),
        n_at_once=n_at_once,
        n_waves=-(-len(members) // n_at_once),
        member_bytes=each,
        peak_bytes=shared.total + n_at_once * each,
        budget_bytes=budget,
        expected_s=round(sum(_seconds(m, probe) for m in members) / parallel, 1),
    )


def _seconds(member: Member, probe: Probe) -> float:
    size = member.training.batch_size
    n_steps = math.ceil(len(member.fold.train) * probe.train_pieces / size)
    n_evaluations = math.ceil(len(member.fold.dev) * probe.evaluation_pieces / size)
    return member.training.epochs * (n_steps * probe.step_s + n_evaluations * probe.evaluation_s)


def format_duration(seconds: float) -> str:
    """Write a duration for people.

    >>> format_duration(42.4), format_duration(754), format_duration(11000)
    ('42 s', '13 min', '3.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
