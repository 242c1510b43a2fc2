"""Processes that torchrun starts train as one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serkit.training import crew
from serkit.training.checkpoint import load_state
from serkit.training.loop import STATE_FILE

JOB = Path(__file__).with_name("crew_job.py")


PLAN_JOB = Path(__file__).with_name("crew_plan_job.py")


def run(folder: Path, n_processes: int, *, n: int, settings=None, fails=False, job=JOB):
    folder.mkdir(exist_ok=True)
    command = [sys.executable]
    if n_processes > 1:
        command += [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={n_processes}",
        ]
    command += [str(job), str(folder), str(n), json.dumps(settings or {})]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert (done.returncode != 0) == fails, done.stderr[-3000:]


def rows_of(folder: Path, rank: int = 0) -> list[dict[str, float]]:
    rows = json.loads((folder / f"rows{rank}.json").read_text())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# 25 examples in batches of 8: the last batch has one, fewer than there are processes.
@pytest.mark.parametrize(("n", "settings"), [(24, {}), (25, {"accumulate": 2, "clip_norm": 0.5})])
def test_two_processes_end_with_the_weights_of_one(tmp_path, n, settings):
    run(tmp_path / "alone", 1, n=n, settings=settings)
    run(tmp_path / "two", 2, n=n, settings=settings)
    alone = load_file(tmp_path / "alone" / "weights0.safetensors")
    for rank in (0, 1):
        shared = load_file(tmp_path / "two" / f"weights{rank}.safetensors")
        for name, tensor in alone.items():
            torch.testing.assert_close(shared[name], tensor, rtol=1e-4, atol=1e-6)
    for one, other in zip(rows_of(tmp_path / "alone"), rows_of(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert rows_of(tmp_path / "two", 0) == rows_of(tmp_path / "two", 1)
    assert len((tmp_path / "two" / "log.jsonl").read_text().splitlines()) == 3


def test_a_crew_that_was_killed_within_an_epoch_goes_on_there(tmp_path):
    run(tmp_path / "alone", 1, n=24)
    often = {"save_every_batches": 1}
    run(tmp_path / "two", 2, n=24, settings=often | {"die": True}, fails=True)
    state = load_state(tmp_path / "two" / STATE_FILE)
    assert len(state.meta["history"]) == 1
    assert state.meta["n_batches"] == 1
    run(tmp_path / "two", 2, n=24, settings=often)
    for one, other in zip(rows_of(tmp_path / "alone"), rows_of(tmp_path / "two"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_crew_is_told_what_each_of_its_processes_takes(tmp_path):
    run(tmp_path, 2, n=0, job=PLAN_JOB)
    plan, memory = json.loads((tmp_path / "said.json").read_text())
    assert plan == "plan: 2 members, one by one, each shared by 2 processes"
    assert memory.startswith("memory: about ")
    assert memory.endswith(" per member and process")
    assert len(list(tmp_path.glob("members/*/test.safetensors"))) == 2
    run(tmp_path / "less", 2, n=0, job=PLAN_JOB, settings={"memory": 2**20})
    (refused,) = json.loads((tmp_path / "less" / "said.json").read_text())
    assert refused.startswith("memory: one member needs ")
    assert not list(tmp_path.glob("less/members/*"))


def test_without_torchrun_there_is_a_leader_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert crew.with_crew(lambda: crew.together(_never, lambda: 5)) == 5
    assert (crew.crew_size(), crew.crew_rank()) == (1, 0)


def _never() -> None:
    raise AssertionError("there is nobody to do it")
