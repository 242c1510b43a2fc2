"""The stacked engine: every member as if it had been trained alone."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from serkit.models.native import use_readable_forms
from serkit.training.cohort import Resources, train_cohort
from serkit.training.data import read_data
from serkit.training.loop import fit
from serkit.training.member import initial_recognizer, member_outputs, train_member
from serkit.training.plan import plan_members
from serkit.training.stacked import refuse_unstackable, train_stacked, unfinished_wave
from serkit.types import InputError
from training.toy_members import members, training


def silent(name, row):
    """Hear nothing."""


def weights_of(member):
    return load_file(member.folder / "model" / "model.safetensors")


def history_of(member):
    rows = [json.loads(line) for line in (member.folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def fit_alone(member, *, compiled: bool):
    """Train a member by the loop, in the readable form or in the one that a CPU takes."""
    train, dev = member.parts(read_data(member.data))
    recognizer = initial_recognizer(member, train)
    if not compiled:
        use_readable_forms(recognizer)
    fit(
        recognizer,
        train,
        dev,
        member.training,
        objective=member.objective,
        seed=member.order_seed,
        folder=member.folder,
    )
    return recognizer.state_dict()


@pytest.fixture
def double_precision():
    """Compute in double precision, where rounding decides nothing.

    In single precision it does so every few hundred steps: a value next to zero falls on the other
    side of a ReLU, and two equal trainings part.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


FIFTY_STEPS = {"epochs": 17, "select": "last", "learning_rate": 1e-3}


def greatest_difference(ours, theirs) -> float:
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.usefixtures("double_precision")
def test_after_fifty_steps_each_of_four_members_has_the_weights_of_one_trained_alone(tmp_path):
    settings = training(**FIFTY_STEPS)
    cohort = members(tmp_path / "stacked", settings, n_scales=2)
    n_steps = [17 * -(-len(member.fold.train) // 8) for member in cohort]
    assert min(n_steps) > 50
    assert len(set(n_steps)) == 3  # folds of different sizes
    train_stacked(cohort, silent)
    for ours, alone in zip(cohort, members(tmp_path / "alone", settings, n_scales=2), strict=True):
        assert greatest_difference(weights_of(ours), fit_alone(alone, compiled=False)) < 1e-4


# An epsilon far above rounding: Adam then steps in proportion to the gradient. With a small one it
# makes full steps of gradients that are zero but for rounding, as those of a bias before batch norm
# are, and no two single-precision trainings stay together, however they are computed.
PROPORTIONAL = {"adam_eps": 1.0, "learning_rate": 0.3}


def test_after_fifty_steps_the_stack_has_the_weights_of_the_form_that_a_cpu_takes(tmp_path):
    settings = training(**(FIFTY_STEPS | PROPORTIONAL))
    cohort = members(tmp_path / "stacked", settings, n_scales=2)
    before = [initial_recognizer(m, m.parts(read_data(m.data))[0]).state_dict() for m in cohort]
    train_stacked(cohort, silent)
    alone = members(tmp_path / "alone", settings, n_scales=2)
    for ours, other, initial in zip(cohort, alone, before, strict=True):
        assert greatest_difference(weights_of(ours), fit_alone(other, compiled=True)) < 1e-4
        moved = (weights_of(ours)["model.head.weight"] - initial["model.head.weight"]).abs().max()
        assert moved > 1e-2


SELECTING = {
    "epochs": 12,
    "patience": 2,
    "clip_norm": 0.5,
    "weight_decay": 0.01,
    "select_by": "war",
}


@pytest.mark.usefixtures("double_precision")
def test_selection_patience_clipping_and_every_file_are_as_alone(tmp_path):
    settings = training(**SELECTING)
    # There is nothing to learn, so patience is soon over.
    stacked = members(tmp_path / "a", settings, normalise="train", gap=0.0, n_scales=1)
    alone = members(tmp_path / "b", settings, normalise="train", gap=0.0, n_scales=1)
    train_stacked(stacked, silent)
    for member in alone:
        train_member(member, silent)
    assert len({len(history_of(member)) for member in stacked}) > 1  # they ended one by one
    for ours, theirs in zip(stacked, alone, strict=True):
        names = sorted(str(p.relative_to(ours.folder)) for p in ours.folder.rglob("*"))
        assert names == sorted(str(p.relative_to(theirs.folder)) for p in theirs.folder.rglob("*"))
        scores, selected = member_outputs(ours)
        expected_scores, expected = member_outputs(theirs)
        assert selected == expected
        assert abs(scores["scores"] - expected_scores["scores"]).max() < 1e-3
        assert scores["embedding"].shape == expected_scores["embedding"].shape
        for row, expected_row in zip(history_of(ours), history_of(theirs), strict=True):
            assert row == pytest.approx(expected_row, abs=1e-3)
    assert not (tmp_path / "a" / "members" / "stack.safetensors").exists()


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of a training."""


def die_after(n_epochs: int):
    heard = []

    def tell(name, row):
        heard.append(row)
        if row.get("epoch", 0) > n_epochs:
            raise Killed

    return tell


@pytest.mark.parametrize("n_epochs", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted_with_dropout(tmp_path, n_epochs):
    settings = training(epochs=7, patience=3, min_epochs=2)
    whole = members(tmp_path / "whole", settings, dropout=0.2, n_scales=1)
    parts = members(tmp_path / "parts", settings, dropout=0.2, n_scales=1)
    train_stacked(whole, silent)
    with pytest.raises(Killed):
        train_stacked(parts, die_after(n_epochs))
    begun = unfinished_wave(parts)
    assert {member.name for member in begun} >= {m.name for m in parts if not m.finished}
    train_stacked(begun, silent)
    assert all(member.finished for member in parts)
    for ours, theirs in zip(parts, whole, strict=True):
        assert history_of(ours) == history_of(theirs)
        assert member_outputs(ours)[1] == member_outputs(theirs)[1]
        expected = weights_of(theirs)
        assert all(tensor.equal(expected[name]) for name, tensor in weights_of(ours).items())


def test_a_cohort_is_stacked_where_the_settings_say_so(tmp_path):
    cohort = members(tmp_path, training(epochs=1, cohort="stacked"), n_scales=1)
    heard, said = [], []
    plan = train_cohort(
        cohort, Resources(), on_event=lambda name, row: heard.append(name), say=said.append
    )
    assert (plan.engine, plan.n_at_once, plan.n_waves) == ("stacked", 4, 1)
    assert said[0].startswith("plan: 4 members stacked, 4 at once, 1 round; about ")
    assert all(member.finished for member in cohort)
    assert sorted(heard) == sorted(2 * [member.name for member in cohort])


def test_members_that_do_not_fit_together_are_trained_in_waves(tmp_path, monkeypatch):
    cohort = members(tmp_path, training(epochs=2, cohort="stacked"), n_scales=1)
    monkeypatch.setattr("serkit.training.cohort.plan_members", plan_for_two)
    heard = []
    train_cohort(
        cohort, Resources(), on_event=lambda name, row: heard.append((name, row)), say=silent_line
    )
    ended = [name for name, row in heard if row.get("finished")]
    assert ended == [member.name for member in cohort]
    begun = [name for name, row in heard if row.get("epoch") == 1]
    assert heard.index((ended[1], {"finished": True})) < [n for n, _ in heard].index(begun[2])


def plan_for_two(*arguments, **settings):
    return replace(plan_members(*arguments, **settings), n_at_once=2)


def silent_line(line):
    """Read nothing."""


def test_a_stack_that_was_begun_and_no_longer_fits_is_not_torn_apart(tmp_path, monkeypatch):
    cohort = members(tmp_path, training(epochs=3, cohort="stacked"), n_scales=1)
    with pytest.raises(Killed):
        train_stacked(cohort, die_after(1))
    monkeypatch.setattr("serkit.training.cohort.plan_members", plan_for_two)
    with pytest.raises(InputError, match=r"4 members were begun as one stack, 2 fit into"):
        train_cohort(cohort, Resources(), on_event=silent, say=silent_line)


def test_a_stack_of_another_training_is_refused(tmp_path):
    with pytest.raises(Killed):
        train_stacked(members(tmp_path, training()), die_after(1))
    with pytest.raises(InputError, match="belongs to another training"):
        train_stacked(members(tmp_path, training(learning_rate=1e-4)), silent)
    with pytest.raises(InputError, match="belongs to another training"):
        unfinished_wave(members(tmp_path, training())[:2])
    (tmp_path / "members" / "stack.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="not a readable training state"):
        unfinished_wave(members(tmp_path, training()))


def test_the_state_of_members_that_have_all_ended_is_put_away(tmp_path):
    cohort = members(tmp_path, training(epochs=2))
    with pytest.raises(Killed):
        train_stacked(cohort, die_after(1))
    for member in cohort:
        train_member(member, silent)
    assert unfinished_wave(cohort) == []
    assert not (tmp_path / "members" / "stack.safetensors").exists()


def test_a_member_that_diverges_is_said_after_the_others_are_finished(tmp_path):
    cohort = members(tmp_path, training(epochs=2, select="last"))
    features = read_data(cohort[0].data).training.tensors["features"].numpy().copy()
    features[10] = float("nan")  # the second member tests it, the others train on it
    np.save(cohort[0].data / "training" / "features.npy", features)
    with pytest.raises(InputError, match="training diverged"):
        train_stacked(cohort, silent)
    assert [member.finished for member in cohort] == [False, True, False, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_trains_the_same_members(tmp_path):
    settings = training(**(FIFTY_STEPS | PROPORTIONAL), accelerator="cpu")
    here = members(tmp_path / "a", settings, n_scales=2)
    there = members(tmp_path / "b", settings.model_copy(update={"accelerator": "cuda"}), n_scales=2)
    train_stacked(here, silent)
    train_stacked(there, silent)
    for a, b in zip(here, there, strict=True):
        assert greatest_difference(weights_of(a), weights_of(b)) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 2}, r"got 2, '32-true', 'constant', None and False"),
        ({"precision": "bf16-mixed"}, "set training.cohort = 'processes'"),
        ({"compile": True, "accelerator": "cpu"}, "training.compile is for CUDA devices"),
        ({"accelerator": "cuda"}, "torch sees no CUDA device"),
    ],
)
def test_settings_that_a_stack_cannot_take_are_refused(changes, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        refuse_unstackable(training(**changes))
