"""The stacked optimiser against torch's own."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from serkit.training.config import TrainingConfig
from serkit.training.optimise import build_optimizer
from serkit.training.stacked_adam import StackedAdam, clip_rows


@pytest.mark.parametrize(("weight_decay", "beta1"), [(0.0, 0.93), (0.1, 0.9), (0.0, 0.0)])
@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_every_row_moves_as_under_torch_whatever_steps_the_others_take(
    optimizer, weight_decay, beta1
):
    generator = torch.Generator().manual_seed(0)
    config = TrainingConfig(
        optimizer=optimizer,
        learning_rate=0.01,
        beta1=beta1,
        beta2=0.999,
        weight_decay=weight_decay,
        adam_eps=1e-6,
    )
    weights = torch.randn(3, 20, generator=generator)
    alone = [torch.nn.Parameter(row.clone()) for row in weights]
    optimizers = [build_optimizer([p], config) for p in alone]
    stacked = StackedAdam(weights, config)
    for number in range(30):
        rows = torch.tensor([0, 1, 2] if number % 3 else [0, 2])
        gradients = torch.randn(len(rows), 20, generator=generator)
        everyone = slice(None) if len(rows) == 3 else rows
        rate = 0.01 if number < 15 else 0.004
        stacked.update(weights, gradients, everyone, learning_rate=rate)
        for row, gradient in zip(rows.tolist(), gradients, strict=True):
            alone[row].grad = gradient.clone()
            optimizers[row].param_groups[0]["lr"] = rate
            optimizers[row].step()
    assert stacked.step.tolist() == [30, 20, 30]
    for row, parameter in zip(weights, alone, strict=True):
        torch.testing.assert_close(row, parameter.detach(), rtol=1e-5, atol=1e-6)


def test_every_row_is_clipped_by_its_own_norm():
    gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    clipped = clip_rows(gradients, 1.0)
    for row, gradient in zip(clipped, gradients, strict=True):
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = gradient.clone()
        clip_grad_norm_([parameter], 1.0)
        torch.testing.assert_close(row, parameter.grad)


def test_what_is_left_after_dropping_goes_on_and_can_be_stored():
    config = TrainingConfig()
    weights = torch.zeros(3, 2)
    optimizer = StackedAdam(weights, config)
    optimizer.update(weights, torch.ones(1, 2), torch.tensor([2]), learning_rate=1e-3)
    optimizer.keep(torch.tensor([0, 2]))
    assert optimizer.step.tolist() == [0, 1]
    other = StackedAdam(torch.zeros(2, 2), config)
    other.resume(optimizer.state())
    assert other.step.tolist() == [0, 1]
    assert other.exp_avg.equal(optimizer.exp_avg)
