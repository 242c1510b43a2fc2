"""The processes that torchrun starts: one leads, the others take part in its trainings.

The leader (rank 0) does everything that a single process does: it reads corpora, extracts, judges
and writes. The followers wait; when the leader trains, they train along, each on its share of every
batch. What they need is on disk before they are called, so they must see the leader's files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from serkit.types import InputError

__all__ = ["crew_rank", "crew_size", "together", "with_crew"]

Result = TypeVar("Result")

# Followers wait while the leader extracts features or judges; that may take many hours.
_PATIENCE = timedelta(days=7)


def crew_size() -> int:
    """Count the processes that train together: 1 where torchrun started none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def crew_rank() -> int:
    """Tell which of them this process is; the leader is 0."""
    return dist.get_rank() if crew_size() > 1 else 0


def with_crew(lead: Callable[[], Result]) -> Result | None:
    """Lead, or follow, as torchrun says; without torchrun, just lead.

    Returns
    -------
    What ``lead`` returns; ``None`` in a follower.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return lead()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        if dist.get_rank() == 0:
            try:
                return lead()
            finally:
                _broadcast(None)
        _follow()
        return None
    finally:
        dist.destroy_process_group()


def together(job: Callable[[], Any], lead: Callable[[], Result]) -> Result:
    """Let the followers do a job while the leader does its part of it.

    Parameters
    ----------
    job
        Picklable. It must train with the same settings, and on the same examples, as ``lead``.
    """
    if crew_size() > 1:
        _broadcast(job)
    return lead()


def _follow() -> None:
    while (job := _broadcast(None)) is not None:
        try:
            job()
        except InputError:
            # The leader meets the same error, and tells.
            continue


def _broadcast(job: Callable[[], Any] | None) -> Callable[[], Any] | None:
    """Send the leader's job to everybody, and give it."""
    sent = [job]
    dist.broadcast_object_list(sent, src=0, device=torch.device("cpu"))
    return sent[0]
