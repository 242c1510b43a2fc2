"""A cohort: the same weights as one by one, and a plan that keeps its word."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from serkit.training.cohort import Resources, train_cohort
from serkit.types import InputError
from training.toy_members import members, training


def train(cohort, resources=None):
    heard, said = [], []
    plan = train_cohort(
        cohort,
        resources or Resources(),
        on_event=lambda name, row: heard.append((name, row)),
        say=said.append,
    )
    return plan, heard, said


def outputs(cohort):
    return [
        load_file(m.folder / "model" / "model.safetensors")
        | load_file(m.folder / "test.safetensors")
        for m in cohort
    ]


def test_in_processes_or_one_by_one_the_members_are_identical(tmp_path):
    alone = members(tmp_path / "a", training(), dropout=0.1)
    beside = members(tmp_path / "b", training(), dropout=0.1)
    plan, heard, said = train(alone, Resources(cohort=False))
    assert plan.engine == "one by one"
    assert said == ["plan: 4 members, one by one in this process"]
    assert [name for name, row in heard if row.get("finished")] == [m.name for m in alone]
    plan, heard, said = train(beside, Resources(n_jobs=2))
    assert (plan.engine, plan.n_at_once, plan.n_waves) == ("processes", 2, 2)
    assert said[0].startswith("plan: 4 members in processes, 2 at once, 2 rounds")
    assert len([name for name, row in heard if "epoch" in row]) == 16
    for ours, theirs in zip(outputs(alone), outputs(beside), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)


def test_finished_members_are_not_trained_again(tmp_path):
    cohort = members(tmp_path, training(epochs=1), test_sizes=(10, 9))
    train(cohort, Resources(n_jobs=1))
    plan, heard, said = train(cohort, Resources(n_jobs=2))
    assert plan.n_members == 0
    assert heard == [(m.name, {"finished": True}) for m in cohort]
    assert said == []


def test_a_limit_too_low_for_one_member_is_refused_before_anything_is_trained(tmp_path):
    cohort = members(tmp_path, training(), test_sizes=(10, 9))
    with pytest.raises(InputError, match=r"memory: one member needs .* the limit is 1 MiB"):
        train(cohort, Resources(memory=2**20))
    assert not (tmp_path / "members").exists()


def test_one_by_one_goes_with_neither_jobs_nor_a_limit():
    with pytest.raises(InputError, match="leave out --memory and --jobs"):
        Resources(cohort=False, memory=2**30)
    with pytest.raises(InputError, match="leave out --memory and --jobs"):
        Resources(cohort=False, n_jobs=2)


SCRIPT = """
import sys
from pathlib import Path
from serkit.training.cohort import Resources, train_cohort
from training.toy_members import members, training

if __name__ == "__main__":
    settings = training(epochs=2, batch_size=64)
    cohort = members(Path(sys.argv[1]), settings, test_sizes=(60,) * 6, n_frames=187)
    plan = train_cohort(cohort, Resources(n_jobs=2), on_event=lambda *_: None, say=lambda _: None)
    print(plan.peak_bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc")
def test_the_memory_a_run_really_takes_is_within_a_tenth_of_the_plan(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0
    while run.poll() is None:
        peak = max(peak, sum(map(proportional_bytes, tree(run.pid))))
        time.sleep(0.02)
    planned = int(run.stdout.read())
    assert planned == pytest.approx(peak, rel=0.1)


def proportional_bytes(pid: int) -> int:
    """Bytes of a process, those it shares with others divided among them."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    return sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:")) * 1024


def tree(root: int) -> list[int]:
    """Return a process and all that it has started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")")[-1].split()[1])
        except OSError:
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
