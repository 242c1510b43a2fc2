"""Members of a cross-validation, trained side by side.

Each member (one fold with one seed) is a process of its own with one thread: networks this small
keep one core busy and waste a second one. Members share nothing but the features, which the
processes map from one file; so a member ends with the same weights whatever else is trained beside
it.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

__all__ = ["default_jobs", "one_thread", "run_members"]

Task = TypeVar("Task")
Result = TypeVar("Result")
Event = tuple[str, dict[str, Any]]

_END = ""  # name of the event that says a member has ended

_events: Any = None  # the worker's end of the event queue, set once per process by _start_worker


def default_jobs() -> int:
    """One member per usable core; one at a time where a GPU does the work."""
    if torch.cuda.is_available():
        return 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def run_members(
    function: Callable[[Task, Callable[[str, dict[str, Any]], None]], Result],
    tasks: Sequence[Task],
    *,
    n_jobs: int,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
) -> list[Result]:
    """Run a function over tasks in parallel processes; results in the order of the tasks.

    Parameters
    ----------
    function
        Importable ``(task, tell) -> result``; ``tell(name, row)`` reports progress.
    n_jobs
        Processes. With 1 everything runs here, one task after the other.
    on_event
        Called in this process with what the members tell.

    Raises
    ------
    Exception
        The first error of a member; members already running are finished first, so that what they
        have computed is kept.
    """

    def hear(name: str, row: dict[str, Any]) -> None:
        if on_event is not None:
            on_event(name, row)

    if n_jobs == 1 or len(tasks) <= 1:
        with one_thread():
            return [function(task, hear) for task in tasks]
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    with ProcessPoolExecutor(
        min(n_jobs, len(tasks)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(events,),
    ) as pool:
        futures: list[Future[Result]] = [pool.submit(_in_worker, function, t) for t in tasks]
        pending, n_ended = set(futures), 0
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                n_ended += _drain(events, hear, timeout_s=0.0)
                for future in finished:
                    future.result()  # raises the member's error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        # A result can overtake the last events of its member.
        while n_ended < len(tasks):
            n_ended += _drain(events, hear, timeout_s=1.0)
        return [future.result() for future in futures]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread.

    A second one gains little on a small network, and on a busy machine the two spend their time
    waiting for each other: steps forty times as slow were seen.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _drain(events: Any, hear: Callable[[str, dict[str, Any]], None], *, timeout_s: float) -> int:
    """Pass on the events that are there and return how many members ended among them."""
    n_ended = 0
    while True:
        try:
            name, row = events.get(timeout=timeout_s)
        except queue.Empty:
            return n_ended
        timeout_s = 0.0
        if name == _END:
            n_ended += 1
        else:
            hear(name, row)


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()


def _follow_parent(parent: int) -> None:
    """End with the process that started us: an orphan would train against a resumed run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _tell(name: str, row: dict[str, Any]) -> None:
    _events.put((name, row))


def _in_worker(
    function: Callable[[Task, Callable[[str, dict[str, Any]], None]], Result], task: Task
) -> Result:
    try:
        return function(task, _tell)
    finally:
        _tell(_END, {})
