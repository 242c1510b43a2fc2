"""Members of a cross-validation, trained side by side.

On a CPU each member (one fold with one seed) is trained in a process of its own with one thread.
Members share nothing but the features, which the processes map from one file; so a member ends with
the same weights whatever else is trained beside it. On a CUDA device all members are one stacked
program; see :mod:`.stacked`. Under torchrun all its processes share one member after the other; see
:mod:`.crew`. Before any of it, a member is tried for two steps and what it took is made into a
plan: how many at once, in how much memory, and for a cohort, for how long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from serkit.training.crew import crew_size, together
from serkit.training.data import holds_views
from serkit.training.member import Member, Tell, train_member
from serkit.training.memory import format_size, free_memory, usage
from serkit.training.plan import Plan, Shared, plan_members, plan_one_by_one
from serkit.training.probe import probe_here, probe_member, probe_stack
from serkit.training.stacked import (
    refuse_unstackable,
    stack_device,
    stackable,
    state_path,
    train_stacked,
    unfinished_wave,
)
from serkit.training.workers import Workers, default_jobs, one_thread
from serkit.types import InputError

__all__ = ["Resources", "train_cohort"]

# Of what is free when a run begins; the rest is left to whatever else the machine does.
_SHARE_OF_FREE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a cohort may use.

    Attributes
    ----------
    n_jobs
        Members side by side in processes; ``None``: one per core.
    memory
        Bytes for this process, the data and all members together, under torchrun for all its
        processes on this machine; or of the CUDA device where one trains a stack or one member
        after the other. ``None``: most of what is free.
    cohort
        ``False``: one member after the other, in this process.

    Raises
    ------
    InputError
        If one after the other is asked for together with a number of jobs.
    """

    n_jobs: int | None = None
    memory: int | None = None
    cohort: bool = True

    def __post_init__(self) -> None:
        if not self.cohort and (self.n_jobs or 1) > 1:
            raise InputError(
                "--no-cohort trains one member after the other in this process: leave out --jobs"
            )


def train_cohort(
    members: Sequence[Member],
    resources: Resources,
    *,
    on_event: Tell,
    say: Callable[[str], None],
) -> Plan:
    """Train the members that are not finished.

    Parameters
    ----------
    on_event
        Called with a member's name and the row of each of its epochs, and with ``{"finished":
        True}`` at its end.
    say
        Called with the lines of the plan, before the training.

    Raises
    ------
    InputError
        If not even one member fits into the memory.
    Exception
        The first error of a member; members already running are finished first.
    """
    waiting = [member for member in members if not member.finished]
    if crew_size() > 1:
        resources = _for_a_crew(resources)
    for member in members:
        if member.finished:
            on_event(member.name, {"finished": True})
    if waiting and resources.cohort and _engine(waiting[0]) == "stacked":
        return _stacked(members, waiting, resources, on_event=on_event, say=say)
    n_jobs = resources.n_jobs or default_jobs()
    if not waiting:
        return Plan("one by one", n_members=0, n_at_once=1, n_waves=0)
    if resources.cohort and (min(n_jobs, len(waiting)) > 1 or resources.memory):
        return _in_processes(waiting, resources, n_jobs=n_jobs, on_event=on_event, say=say)
    return _one_by_one(waiting, resources, on_event=on_event, say=say)


def _one_by_one(
    waiting: Sequence[Member],
    resources: Resources,
    *,
    on_event: Tell,
    say: Callable[[str], None],
) -> Plan:
    largest, n_here = _largest(waiting), 1
    if stack_device(largest.training).type == "cuda":
        shared = Shared(parent=0, libraries=0, data=0)
        budget = resources.memory or int(_SHARE_OF_FREE * torch.cuda.mem_get_info()[0])
    else:
        n_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if crew_size() > 1 else 1
        here = usage()
        shared = Shared(here.private, here.mapped, _size_of(largest))
        budget = resources.memory or _most_of_what_is_free()
    with one_thread():
        # A crew that gave up in the middle of a step would wait for each other.
        limit = max(budget - shared.total, 0) if crew_size() == 1 else None
        own = together(partial(probe_here, largest), partial(probe_here, largest, limit=limit))
        plan = plan_one_by_one(
            len(waiting),
            own,
            shared=shared,
            budget=budget,
            n_together=crew_size(),
            n_here=n_here,
        )
        _announce(plan, say)
        for member in waiting:
            train_member(member, on_event)
    return plan


def _largest(members: Sequence[Member]) -> Member:
    """Pick the member with most to train on."""
    return max(members, key=lambda member: len(member.fold.train))


def _for_a_crew(resources: Resources) -> Resources:
    """Train one member after the other: torchrun's processes share each of them.

    Raises
    ------
    InputError
        If members side by side are asked for.
    """
    if resources.n_jobs is not None:
        raise InputError(
            "under torchrun its processes train one member after the other, together: leave out "
            "--jobs, or start serkit without torchrun to train members side by side"
        )
    return Resources(cohort=False, memory=resources.memory)


def _engine(member: Member) -> str:
    config = member.training
    if config.cohort != "auto":
        return config.cohort
    on_gpu = config.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    fits = stackable(config, member.objective) and member.recognizer.stackable
    fits = fits and not holds_views(member.data)
    return "stacked" if on_gpu and fits else "processes"


def _in_processes(
    waiting: Sequence[Member],
    resources: Resources,
    *,
    n_jobs: int,
    on_event: Tell,
    say: Callable[[str], None],
) -> Plan:
    largest = _largest(waiting)
    budget = resources.memory or _most_of_what_is_free()
    with Workers(on_event) as workers:
        (probe,) = workers.run(probe_member, [largest], at_once=1)
        plan = plan_members(
            waiting,
            probe,
            engine="processes",
            shared=Shared.of(usage(), probe, data=_size_of(largest)),
            n_jobs=n_jobs,
            budget=budget,
        )
        _announce(plan, say)
        workers.run(train_member, waiting, at_once=plan.n_at_once)
    return plan


def _stacked(
    members: Sequence[Member],
    waiting: Sequence[Member],
    resources: Resources,
    *,
    on_event: Tell,
    say: Callable[[str], None],
) -> Plan:
    config = waiting[0].training
    refuse_unstackable(
        config,
        waiting[0].objective,
        augmented=holds_views(waiting[0].data),
        several_streams=not waiting[0].recognizer.stackable,
    )
    begun = unfinished_wave(members)
    names = {member.name for member in begun}
    rest = [member for member in waiting if member.name not in names]
    data = _size_of(waiting[0])
    if stack_device(config).type == "cuda":
        budget = resources.memory or int(_SHARE_OF_FREE * torch.cuda.mem_get_info()[0])
        probe = probe_stack(waiting, on_event)
        torch.cuda.empty_cache()
        shared = Shared(parent=probe.once, libraries=0, data=data)
    else:
        budget = resources.memory or _most_of_what_is_free()
        with Workers(on_event) as workers:
            (probe,) = workers.run(probe_stack, [waiting], at_once=1)
        shared = Shared.of(usage(), probe, data=data)
    plan = plan_members(
        [*begun, *rest], probe, engine="stacked", shared=shared, n_jobs=len(members), budget=budget
    )
    if len(begun) > plan.n_at_once:
        raise InputError(
            f"memory: {len(begun)} members were begun as one stack, {plan.n_at_once} fit into "
            f"{format_size(budget)}: raise --memory, or remove {state_path(members)} to start them "
            "again"
        )
    _announce(plan, say)
    waves = [rest[i : i + plan.n_at_once] for i in range(0, len(rest), plan.n_at_once)]
    with one_thread():
        for wave in [begun, *waves] if begun else waves:
            train_stacked(wave, on_event)
    return plan


def _most_of_what_is_free() -> int:
    here = usage()
    return here.private + here.mapped + int(_SHARE_OF_FREE * free_memory())


def _size_of(member: Member) -> int:
    """Bytes of the data that all members share."""
    return sum(path.stat().st_size for path in member.data.rglob("*") if path.is_file())


def _announce(plan: Plan, say: Callable[[str], None]) -> None:
    for line in plan.lines():
        say(line)
