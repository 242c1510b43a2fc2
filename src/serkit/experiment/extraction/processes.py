"""Processes that read clips, one at a time each, and may die of one.

A damaged clip can bring down the decoder, and a long one the system's memory. Each process is
handed a single clip at a time, so that whoever dies names the clip that did it; a new process takes
its place. (:class:`serkit.training.workers.Workers` treats that as the end of the run.) At the end
processes finish the clip they are at; they end also when this process is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from serkit.types import InputError

__all__ = ["results_of"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_PATIENCE_S = 10.0  # for a process to finish its clip


def results_of(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, n_workers: int
) -> Generator[tuple[int, Result | None]]:
    """Run a function over tasks in processes with one thread each.

    Parameters
    ----------
    function
        Importable.

    Yields
    ------
    number, result
        As they end; ``None``: the process died of the task.

    Raises
    ------
    InputError
        The first that a task raises (other errors are the function's own to catch), or if
        processes do not start.
    """
    waiting = list(reversed(list(enumerate(tasks))))
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.number is not None for worker in workers):
            while waiting and len(workers) < n_workers:
                workers.append(_start(function))
            for worker in workers:
                if waiting and worker.number is None:
                    _hand(worker, waiting.pop())
            busy = [worker for worker in workers if worker.number is not None]
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                kind, result = _receive(worker)
                if kind == "started":
                    worker.started = True
                    continue
                if kind == "died":
                    workers.remove(worker)
                number, worker.number = worker.number, None
                assert number is not None
                yield number, result
    finally:
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(_PATIENCE_S)
            worker.process.terminate()


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    number: int | None = None  # of the task it is at
    started: bool = False


def _start(function: Callable[[Any], Any]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(function, theirs), daemon=True)
    with _environment():
        process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return _Worker(process, ours)


def _hand(worker: _Worker, task: tuple[int, Any]) -> None:
    worker.number = task[0]
    try:
        worker.pipe.send(task[1])
    except OSError:  # it died while nobody looked, which its pipe will say
        return


def _receive(worker: _Worker) -> tuple[str, Any]:
    """Take a message: ``started``, ``result``, or ``died`` if that is what the process did."""
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError):
        if not worker.started:
            raise InputError(
                "a process that reads clips does not start: in a script of your own, start the "
                "extraction below if __name__ == '__main__', or use 0 workers"
            ) from None
        worker.pipe.close()
        worker.process.join()
        return "died", None
    if kind == "input error":
        raise InputError(value)
    return kind, value


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Serve until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    answer: tuple[str, Any] = ("started", None)
    while True:
        try:
            pipe.send(answer)
            task = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # taking large libraries down takes seconds
        try:
            answer = ("result", function(task))
        except InputError as error:
            answer = ("input error", str(error))


@contextmanager
def _environment() -> Iterator[None]:
    """Let processes that are started here compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ |= dict.fromkeys(_THREADS, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
