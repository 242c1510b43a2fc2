"""The stack with every kind of term, penalty and schedule: each member as if trained alone."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from serkit.training.member import train_member
from serkit.training.objectives import Term
from serkit.training.stacked import train_stacked
from training.toy_members import members, training

SETTINGS = {
    "epochs": 6,
    "select": "last",
    "optimizer": "adam",
    "weight_decay": 0.01,
    "warmup_epochs": 1,
    "schedule": {"kind": "steps", "first": 4, "every": 2, "factor": 0.3},
    # Far above rounding, so that steps are in proportion to the gradient.
    "adam_eps": 1.0,
    "learning_rate": 0.3,
}
TIMNET = {"name": "timnet", "n_scales": 1, "dropout": 0.0}
EXPERTS = {"name": "expert_fusion", "share_until": 1, "n_heads": 1, "n_hidden": 4}
WEIGHTED = tuple(
    Term(loss=loss, class_weights=weights)
    for loss in ("cross_entropy", "focal", "bce")
    for weights in ("balanced", "one_minus_share", "rarest_share")
)
ON_HEAD = (
    {"parameters": "head.*", "weight": 0.01},
    {"parameters": "head.weight", "kind": "norm", "weight": 0.1},
)
ON_KERNELS = ({"parameters": "stages.[1-5].conv.weight", "kind": "norm", "weight": 0.01},)
WITH_EXPERTS = (Term(), Term(output="experts", loss="bce", class_weights="one_minus_share"))


@pytest.fixture
def double_precision():
    """Compute in double precision, where rounding decides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cohort(folder, *, model, objective, penalties):
    """Two members whose training parts differ in size and in the shares of their classes."""
    settings = training(**SETTINGS, penalties=penalties)
    both = []
    for every, member in zip((2, 4), members(folder, settings)[1:3], strict=True):
        train = tuple(u for i, u in enumerate(member.fold.train) if i % every)
        both.append(
            replace(
                member,
                recognizer=replace(member.recognizer, model=model),
                objective=objective,
                fold=replace(member.fold, train=(*train, member.fold.train[0])),
            )
        )
    return both


def history_of(member):
    rows = [json.loads(line) for line in (member.folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def silent(name, row):
    """Hear nothing."""


def weights_of(member):
    return load_file(member.folder / "model" / "model.safetensors")


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("model", "objective", "penalties"),
    [(TIMNET, WEIGHTED, ON_HEAD), (EXPERTS, WITH_EXPERTS, ON_KERNELS)],
    ids=["timnet", "experts"],
)
def test_terms_weights_penalties_and_rates_are_as_alone(tmp_path, model, objective, penalties):
    parts = {"model": model, "objective": objective, "penalties": penalties}
    stacked, alone = cohort(tmp_path / "a", **parts), cohort(tmp_path / "b", **parts)
    train_stacked(stacked, silent)
    for member in alone:
        train_member(member, silent)
    for ours, theirs in zip(stacked, alone, strict=True):
        expected = weights_of(theirs)
        for name, tensor in weights_of(ours).items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
        for row, expected_row in zip(history_of(ours), history_of(theirs), strict=True):
            assert row == pytest.approx(expected_row, abs=1e-4)
    rates = [row["learning_rate"] for row in history_of(stacked[0])]
    assert rates == pytest.approx([0.15, 0.3, 0.3, 0.09, 0.09, 0.027])


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of a training."""


def test_a_resumed_stack_goes_on_with_the_rate_of_its_epoch(tmp_path):
    def die(name, row):
        if row.get("epoch", 0) > 3:
            raise Killed

    parts = {"model": TIMNET, "objective": WEIGHTED, "penalties": ON_HEAD}
    whole, resumed = cohort(tmp_path / "a", **parts), cohort(tmp_path / "b", **parts)
    train_stacked(whole, silent)
    with pytest.raises(Killed):
        train_stacked(resumed, die)
    train_stacked(resumed, silent)
    for ours, theirs in zip(resumed, whole, strict=True):
        assert history_of(ours) == history_of(theirs)
        expected = weights_of(theirs)
        assert all(tensor.equal(expected[name]) for name, tensor in weights_of(ours).items())
