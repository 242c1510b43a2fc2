"""The learning rate of every epoch, and which optimiser is built."""

import math

import pytest
import torch
from pydantic import ValidationError

from serkit.training.config import Schedule, TrainingConfig
from serkit.training.optimise import build_optimizer, learning_rate, rate_of_row


def rates(config: TrainingConfig) -> list[float]:
    return [learning_rate(config, epoch) for epoch in range(1, config.epochs + 1)]


def test_macnn_divides_by_ten_after_the_epochs_it_was_published_with():
    steps = Schedule(kind="steps", first=12, every=10, factor=0.1)
    by_epoch = rates(TrainingConfig(epochs=50, learning_rate=1e-3, schedule=steps))
    # Published epochs count from 0: 10 is the last at the full rate.
    assert by_epoch[:11] == [1e-3] * 11
    for first, rate in ((11, 1e-4), (21, 1e-5), (31, 1e-6), (41, 1e-7)):
        assert by_epoch[first : first + 9] == pytest.approx([rate] * 9)


def test_light_sernet_decays_from_its_sixtieth_epoch_on():
    steps = Schedule(kind="steps", first=61, every=20, factor=math.exp(-0.15))
    by_epoch = rates(TrainingConfig(epochs=300, learning_rate=1e-4, schedule=steps))
    assert by_epoch[59] == 1e-4
    for n_steps, first in enumerate(range(60, 300, 20), start=1):
        expected = 1e-4 * math.exp(-0.15 * n_steps)
        assert by_epoch[first : first + 20] == pytest.approx([expected] * 20)


def test_warm_up_rises_to_the_full_rate():
    by_epoch = rates(TrainingConfig(epochs=5, learning_rate=0.4, warmup_epochs=3))
    assert by_epoch == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_a_row_says_the_rate_only_where_it_changes():
    assert rate_of_row(TrainingConfig(), 3) == {}
    assert rate_of_row(TrainingConfig(learning_rate=0.4, warmup_epochs=1), 1) == {
        "learning_rate": 0.2
    }
    steps = Schedule(kind="steps", first=2, every=1, factor=0.5)
    config = TrainingConfig(learning_rate=0.4, schedule=steps)
    assert rate_of_row(config, 1) == {"learning_rate": 0.4}
    assert rate_of_row(config, 3) == {"learning_rate": pytest.approx(0.1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "steps", "first": 12}, "needs first, every and factor"),
        ({"factor": 0.1}, "are for kind = 'steps', and this kind is 'constant'"),
    ],
)
def test_a_schedule_that_says_too_little_or_too_much_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Schedule(**settings)


@pytest.mark.parametrize(
    ("name", "expected"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_the_optimiser_is_the_one_that_is_named(name, expected):
    config = TrainingConfig(optimizer=name, beta1=0.8, adam_eps=1e-6, weight_decay=0.02)
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(2))], config)
    assert type(optimizer) is expected
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, (0.8, 0.999), 1e-6)
    assert group["weight_decay"] == 0.02


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        # epoch, share of its batches that are done -> share of the rate
        ({"kind": "linear", "warmup": 0.5}, [(1, 0.25, 0.5), (1, 0.5, 1.0), (2, 1.0, 0.8)]),
        ({"kind": "linear"}, [(1, 0.25, 0.9375), (4, 1.0, 0.0)]),
        ({"kind": "inverse_sqrt", "warmup": 1.0}, [(1, 0.5, 0.5), (1, 1.0, 1.0), (4, 1.0, 0.5)]),
    ],
)
def test_schedules_within_epochs(schedule, shares):
    epochs = 8 if schedule.get("warmup") == 0.5 else 4
    config = TrainingConfig(epochs=epochs, learning_rate=2.0, schedule=schedule)
    for epoch, done, share in shares:
        assert learning_rate(config, epoch, done=done) == pytest.approx(2.0 * share)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "linear", "factor": 0.5}, "first, every and factor are for kind = 'steps'"),
        ({"kind": "constant", "warmup": 1}, "warmup is for kind = 'linear' or 'inverse_sqrt'"),
        ({"kind": "inverse_sqrt"}, "needs warmup"),
    ],
)
def test_contradictions_of_a_schedule_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(schedule=schedule)
