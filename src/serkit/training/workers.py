"""Processes that do one task at a time, with one thread each.

Networks this small keep one core busy and waste a second one, so tasks run side by side in
processes. A worker lives until the end and is used again; it ends with the process that started it.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from serkit.machine import keep_freed_memory, usable_cores
from serkit.types import InputError

__all__ = ["Workers", "default_jobs", "one_thread"]

Task = TypeVar("Task")
Result = TypeVar("Result")
Hear = Callable[[str, dict[str, Any]], None]

_END = ""  # name of the event that says a task has ended

_events: Any = None  # the worker's end of the event queue, set once per process by _start_worker


def default_jobs() -> int:
    """One member per usable core; one at a time where a GPU does the work."""
    return 1 if torch.cuda.is_available() else usable_cores()


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


class Workers:
    """Worker processes, started as they are needed.

    Parameters
    ----------
    hear
        Called in this process with what the tasks tell.
    """

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._context = multiprocessing.get_context("spawn")
        self._events: Any = self._context.Queue()
        # One pool per process, so that exactly as many exist as were asked for.
        self._pools: list[ProcessPoolExecutor] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, function: Callable[[Task, Hear], Result], tasks: Sequence[Task], *, at_once: int
    ) -> list[Result]:
        """Run a function over tasks, so many at once; results in the order of the tasks.

        Parameters
        ----------
        function
            Importable ``(task, tell) -> result``; ``tell(name, row)`` reports progress.

        Raises
        ------
        Exception
            The first error of a task; tasks already running are finished first, so that what they
            have computed is kept.
        InputError
            If a worker was killed.
        """
        n_workers = min(at_once, len(tasks))
        while len(self._pools) < n_workers:
            self._pools.append(self._start())
        idle = self._pools[:n_workers]
        waiting = list(reversed(list(enumerate(tasks))))
        running: dict[Future[Result], tuple[int, ProcessPoolExecutor]] = {}
        results: dict[int, Result] = {}
        errors: list[BaseException] = []
        n_ended = 0
        while running or (waiting and not errors):
            while idle and waiting and not errors:
                number, task = waiting.pop()
                pool = idle.pop()
                running[pool.submit(_in_worker, function, task)] = (number, pool)
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            n_ended += self._drain(timeout_s=0.0)
            for future in finished:
                number, pool = running.pop(future)
                error = future.exception()
                if error is None:
                    results[number] = future.result()
                    idle.append(pool)
                else:
                    errors.append(error)
        if errors:
            raise _explained(errors[0])
        # A result can overtake the last events of its task.
        while n_ended < len(tasks):
            n_ended += self._drain(timeout_s=1.0)
        return [results[number] for number in range(len(tasks))]

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_start_worker, initargs=(self._events,)
        )

    def _drain(self, *, timeout_s: float) -> int:
        """Pass on the events that are there and return how many tasks ended among them."""
        n_ended = 0
        while True:
            try:
                name, row = self._events.get(timeout=timeout_s)
            except queue.Empty:
                return n_ended
            timeout_s = 0.0
            if name == _END:
                n_ended += 1
            else:
                self._hear(name, row)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return InputError(
            "a training process was killed, most likely for want of memory: go on with --resume "
            "and a smaller --memory or fewer --jobs"
        )
    return error


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    keep_freed_memory()
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, args=(os.getppid(),), daemon=True).start()


def _follow_parent(parent: int) -> None:
    """End with the process that started us: an orphan would train against a resumed run."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _tell(name: str, row: dict[str, Any]) -> None:
    _events.put((name, row))


def _in_worker(function: Callable[[Task, Hear], Result], task: Task) -> Result:
    try:
        return function(task, _tell)
    finally:
        _tell(_END, {})
