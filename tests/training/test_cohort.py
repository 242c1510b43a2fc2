"""Members in processes: order, errors, the same weights as alone, and no orphans."""

import os
import signal
import subprocess
import sys
import time

import pytest

from serkit.training.cohort import run_members


def double(task, tell):
    tell("member", {"epoch": task})
    return 2 * task, os.getpid()


def fail_on_two(task, tell):
    if task == 2:
        raise RuntimeError("member two is broken")
    return task


def test_results_come_in_the_order_of_the_tasks_from_several_processes():
    heard = []
    results = run_members(double, [1, 2, 3], n_jobs=2, on_event=lambda n, r: heard.append(r))
    assert [value for value, _ in results] == [2, 4, 6]
    assert os.getpid() not in {pid for _, pid in results}
    assert sorted(row["epoch"] for row in heard) == [1, 2, 3]


def test_one_job_runs_here():
    assert run_members(double, [5], n_jobs=1) == [(10, os.getpid())]


def test_an_error_of_a_member_is_raised():
    with pytest.raises(RuntimeError, match="member two is broken"):
        run_members(fail_on_two, [1, 2, 3], n_jobs=2)


PARENT = """
import sys, time, os
from serkit.training.cohort import run_members

def sleep(task, tell):
    open(os.path.join(sys.argv[1], f"{task}-{os.getpid()}"), "w").close()
    time.sleep(600)

if __name__ == "__main__":
    run_members(sleep, [1, 2], n_jobs=2)
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
