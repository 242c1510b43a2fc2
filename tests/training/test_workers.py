"""Workers: order, errors, killed processes, and no orphans."""

import os
import signal
import subprocess
import sys
import time

import pytest

from serkit.training.workers import Workers, one_thread
from serkit.types import InputError


def double(task, tell):
    tell("member", {"epoch": task})
    return 2 * task, os.getpid()


def fail_on_two(task, tell):
    if task == 2:
        raise RuntimeError("member two is broken")
    return task


def die(task, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_tasks_from_as_many_processes_as_asked_for():
    heard = []
    with Workers(lambda name, row: heard.append(row)) as workers:
        ((_, first),) = workers.run(double, [0], at_once=1)
        results = workers.run(double, [1, 2, 3, 4], at_once=2)
    assert [value for value, _ in results] == [2, 4, 6, 8]
    processes = {pid for _, pid in results}
    assert os.getpid() not in processes
    assert first in processes  # the first worker was used again
    assert len(processes) == 2
    assert sorted(row["epoch"] for row in heard) == [0, 1, 2, 3, 4]


def test_an_error_of_a_task_is_raised():
    with pytest.raises(RuntimeError, match="member two is broken"), Workers(print) as workers:
        workers.run(fail_on_two, [1, 2, 3], at_once=2)


def test_a_killed_worker_is_the_want_of_memory():
    with pytest.raises(InputError, match=r"was killed.*--resume"), Workers(print) as workers:
        workers.run(die, [1], at_once=1)


def test_one_thread_is_for_a_while():
    import torch

    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


PARENT = """
import sys, time, os
from serkit.training.workers import Workers

def sleep(task, tell):
    open(os.path.join(sys.argv[1], f"{task}-{os.getpid()}"), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    with Workers(print) as workers:
        workers.run(sleep, [1, 2], at_once=2)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    marks = tmp_path / "marks"
    marks.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(marks)])
    deadline = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [int(path.name.split("-")[1]) for path in marks.iterdir()]
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
