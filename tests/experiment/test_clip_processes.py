"""Processes that read clips: every result arrives, whoever dies is named, nobody stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from serkit.experiment.extraction.processes import results_of
from serkit.types import InputError


def square_with_care(task: int) -> tuple[int, int, str | None]:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 40:
        raise InputError("forty is refused")
    return task * task, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def test_results_name_their_task_and_come_from_processes_with_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    found = dict(results_of(square_with_care, [5, 6, 7], n_workers=2))
    assert {number: result[0] for number, result in found.items()} == {0: 25, 1: 36, 2: 49}
    assert {result[2] for result in found.values()} == {"1"}
    assert os.getpid() not in {result[1] for result in found.values()}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "NUMBA_NUM_THREADS" not in os.environ


def test_a_process_that_dies_of_a_task_is_replaced():
    found = dict(results_of(square_with_care, [1, 3, 2], n_workers=1))
    assert found[1] is None
    assert (found[0][0], found[2][0]) == (1, 4)
    assert found[0][1] != found[2][1]


def test_an_input_error_ends_the_run():
    with pytest.raises(InputError, match="forty is refused"):
        list(results_of(square_with_care, [40], n_workers=1))


def test_processes_end_when_nobody_wants_more_results():
    results = results_of(square_with_care, list(range(4, 30)), n_workers=1)
    _, (_, pid, _) = next(results)
    results.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process is still there")


def test_a_script_that_would_start_itself_again_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from serkit.experiment.extraction.processes import results_of\n"
        "print(list(results_of(abs, [1], n_workers=1)))\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1
    assert "a process that reads clips does not start" in ran.stderr
