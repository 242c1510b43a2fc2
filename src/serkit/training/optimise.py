"""The optimiser, and its learning rate as a function of the epoch.

The rate never depends on what was done before: a training that was killed and resumed goes on with
the rate of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from serkit.training.config import TrainingConfig

__all__ = [
    "OPTIMIZERS",
    "build_optimizer",
    "learning_rate",
    "rate_groups",
    "rate_of_row",
    "set_learning_rate",
]

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Sequence[dict[str, Any]], config: TrainingConfig
) -> torch.optim.Optimizer:
    """Build the optimiser of one member; :class:`.stacked_adam.StackedAdam` is that of a stack.

    Parameters
    ----------
    parameters
        Parameters, or groups of them as :func:`rate_groups` gives them.
    """
    optimizer: torch.optim.Optimizer = OPTIMIZERS[config.optimizer](
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )
    return optimizer


def rate_groups(learner: Any, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group a learner's trained parameters by their factor of the learning rate.

    Pre-trained encoders have ``encoder_learning_rate`` in their last layer and ``layer_decay``
    times the rate of the layer above in each below; all else has the factor 1. A group may have a
    ``weight_decay`` of its own.
    """
    base = (config.encoder_learning_rate or config.learning_rate) / config.learning_rate
    groups: list[dict[str, Any]] = []
    for encoder in learner.trained_encoders():
        named = dict(encoder.named_parameters())
        groups += [
            {"params": [named[name] for name in names], "factor": base * factor}
            for names, factor in encoder.parameter_groups(decay=config.layer_decay)
        ]
    grouped = {id(p) for group in groups for p in group["params"]}
    others = [p for p in learner.parameters() if p.requires_grad and id(p) not in grouped]
    return [{"params": others, "factor": 1.0}, *groups]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, *, epoch: int, done: float = 1.0
) -> None:
    """Give every group of :func:`rate_groups` its rate; see :func:`learning_rate`."""
    rate = learning_rate(config, epoch, done=done)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(config: TrainingConfig, epoch: int, *, done: float = 1.0) -> float:
    """Give the rate of a step.

    After ``n`` epochs of warm-up, at 1 / (n + 1), 2 / (n + 1), ... of it, the rate is the full one.
    A schedule of steps multiplies it by ``factor`` from epoch ``first`` on, and by another
    ``factor`` ``every`` so many epochs. See :class:`.config.Schedule` for the others.

    Parameters
    ----------
    epoch
        From 1.
    done
        Share of the epoch's batches that have been seen with this step, in (0, 1].
    """
    rate = config.learning_rate * min(1.0, epoch / (config.warmup_epochs + 1))
    if config.schedule.within_epochs:
        return rate * _share_of_rate(config, epoch - 1 + done)
    first, every, factor = config.schedule.first, config.schedule.every, config.schedule.factor
    if first is None or every is None or factor is None or epoch < first:
        return rate
    n_steps = 1 + (epoch - first) // every
    return rate * factor**n_steps


def _share_of_rate(config: TrainingConfig, time: float) -> float:
    """Share of the full rate after some epochs, which may be a fraction."""
    warmup = config.schedule.warmup or 0.0
    if time < warmup:
        return time / warmup
    if config.schedule.kind == "inverse_sqrt":
        return float((warmup / time) ** 0.5)
    return max((config.epochs - time) / max(config.epochs - warmup, 1e-9), 0.0)


def rate_of_row(config: TrainingConfig, epoch: int) -> dict[str, float]:
    """Give what the row of an epoch says of the rate: nothing if it is the same in all epochs."""
    if config.schedule.kind == "constant" and not config.warmup_epochs:
        return {}
    return {"learning_rate": learning_rate(config, epoch)}
