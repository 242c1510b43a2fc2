"""The plan: how many fit, what is said, and what is refused."""

import math
from dataclasses import replace

import pytest

from serkit.training.plan import Plan, Shared, plan_members, plan_one_by_one
from serkit.training.probe import Probe
from serkit.types import InputError
from training.toy_members import members, training

MIB = 2**20
PROBE = Probe(member=100 * MIB, libraries=50 * MIB, step_s=0.5, evaluation_s=0.1)
SHARED = Shared(parent=200 * MIB, libraries=50 * MIB, data=10 * MIB)


@pytest.fixture
def cohort(tmp_path):
    return members(tmp_path, training(epochs=10))


def plan(cohort, *, engine="processes", n_jobs=4, budget=2**30) -> Plan:
    return plan_members(cohort, PROBE, engine=engine, shared=SHARED, n_jobs=n_jobs, budget=budget)


@pytest.mark.parametrize(
    ("budget", "n_jobs", "n_at_once", "n_waves"),
    [(1000, 9, 4, 1), (1000, 3, 3, 2), (599, 4, 3, 2), (470, 4, 2, 2), (365, 4, 1, 4)],
)
def test_jobs_memory_and_members_limit_how_many_run_at_once(
    cohort, budget, n_jobs, n_at_once, n_waves
):
    made = plan(cohort, n_jobs=n_jobs, budget=budget * MIB)
    assert (made.n_at_once, made.n_waves) == (n_at_once, n_waves)
    assert made.peak_bytes == (260 + n_at_once * 105) * MIB <= budget * MIB


def test_a_limit_that_not_even_one_member_keeps_says_how_much_is_needed(cohort):
    with pytest.raises(InputError, match=r"one member needs 365 MiB .*the limit is 364 MiB"):
        plan(cohort, budget=364 * MIB)


def test_the_expected_time_counts_the_steps_of_every_member(cohort, monkeypatch):
    monkeypatch.setattr("serkit.training.plan.usable_cores", lambda: 2)
    steps = sum(-(-len(m.fold.train) // 8) for m in cohort)
    seconds = 10 * (steps * 0.5 + len(cohort) * 0.1)
    assert plan(cohort).expected_s == pytest.approx(seconds / 2, abs=0.1)
    assert plan(cohort, engine="stacked").expected_s == pytest.approx(seconds, abs=0.1)


def test_the_expected_time_counts_the_segments_of_an_utterance(cohort, monkeypatch):
    segmented = replace(PROBE, train_pieces=2.5, evaluation_pieces=6.0)
    monkeypatch.setattr("serkit.training.plan.usable_cores", lambda: 1)
    made = plan_members(
        cohort[:1], segmented, engine="processes", shared=SHARED, n_jobs=1, budget=2**30
    )
    n_steps = math.ceil(2.5 * len(cohort[0].fold.train) / 8)
    n_evaluations = math.ceil(6 * len(cohort[0].fold.dev) / 8)
    assert made.expected_s == pytest.approx(10 * (n_steps * 0.5 + n_evaluations * 0.1), abs=0.1)


def test_a_plan_is_two_lines_in_plain_words(cohort):
    first, second = plan(cohort, n_jobs=2).lines()
    assert first.startswith("plan: 4 members in processes, 2 at once, 2 rounds; about ")
    assert second == "memory: about 470 MiB of 1.0 GiB at the peak, 105 MiB per member"


def test_one_by_one_a_plan_says_what_a_member_takes():
    first, second = plan_one_by_one(1, 100 * MIB, shared=SHARED, budget=2**30).lines()
    assert first == "plan: 1 member, one by one in this process"
    assert second == "memory: about 365 MiB of 1.0 GiB at the peak, 105 MiB per member"
    with pytest.raises(InputError, match=r"one member needs 365 MiB .*the limit is 364 MiB"):
        plan_one_by_one(1, 100 * MIB, shared=SHARED, budget=364 * MIB)


def test_in_a_crew_every_process_takes_as_much():
    made = plan_one_by_one(2, 100 * MIB, shared=SHARED, budget=2**30, n_together=4, n_here=2)
    assert made.peak_bytes == (2 * (200 + 105) + 50 + 10) * MIB
    assert made.lines() == [
        "plan: 2 members, one by one, each shared by 4 processes",
        "memory: about 670 MiB of 1.0 GiB at the peak, 105 MiB per member and process",
    ]


def test_nothing_is_said_where_no_member_is_left():
    assert Plan("one by one", n_members=0, n_at_once=1, n_waves=0).lines() == []


def test_what_is_shared_is_counted_once():
    from serkit.training.memory import Usage

    shared = Shared.of(Usage(7, 9, 3), PROBE, data=5)
    assert shared == Shared(parent=7, libraries=50 * MIB, data=5)
    assert shared.total == 12 + 50 * MIB
