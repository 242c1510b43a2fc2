"""Adam and AdamW for many members at once: each has moments, step count and gradient norm its own.

The same arithmetic as :class:`torch.optim.Adam` and :class:`torch.optim.AdamW`, with one row per
member. Those optimisers themselves cannot be used: they count the steps of all rows together, and
folds of different sizes take different numbers of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from serkit.training.config import TrainingConfig

__all__ = ["StackedAdam", "clip_rows"]


class StackedAdam:
    """State of the optimiser; ``config.optimizer`` says which of the two it is.

    Attributes
    ----------
    exp_avg, exp_avg_sq : (n_members, n_parameters)
    step : (n_members,), integers
    """

    def __init__(self, weights: Tensor, config: TrainingConfig) -> None:
        self.config = config
        self.exp_avg = torch.zeros_like(weights)
        self.exp_avg_sq = torch.zeros_like(weights)
        self.step = torch.zeros(len(weights), dtype=torch.long, device=weights.device)

    @torch.no_grad()
    def update(
        self, weights: Tensor, gradients: Tensor, rows: Tensor | slice, *, learning_rate: float
    ) -> None:
        """Take one step with some of the members; their rows of ``weights`` change.

        Parameters
        ----------
        weights : (n_members, n_parameters)
        gradients : (n_rows, n_parameters)
        rows : (n_rows,), members that take the step
        """
        c = self.config
        if c.optimizer == "adam":  # weight decay is a part of the gradient
            gradients = torch.add(gradients, weights[rows], alpha=c.weight_decay)
            shrunk = weights[rows]
        else:
            shrunk = weights[rows] * (1 - learning_rate * c.weight_decay)
        self.step[rows] += 1
        step = self.step[rows].to(weights.dtype).unsqueeze(1)
        correction1, correction2 = _correction(c.beta1, step), _correction(c.beta2, step)
        exp_avg = torch.lerp(self.exp_avg[rows], gradients, 1 - c.beta1)
        exp_avg_sq = torch.addcmul(
            self.exp_avg_sq[rows] * c.beta2, gradients, gradients, value=1 - c.beta2
        )
        change = exp_avg / ((exp_avg_sq / correction2).sqrt() + c.adam_eps) / correction1
        weights[rows] = shrunk - learning_rate * change
        self.exp_avg[rows], self.exp_avg_sq[rows] = exp_avg, exp_avg_sq

    def keep(self, rows: Tensor) -> None:
        """Forget all members but these."""
        self.exp_avg, self.exp_avg_sq = self.exp_avg[rows], self.exp_avg_sq[rows]
        self.step = self.step[rows]

    def state(self) -> dict[str, Tensor]:
        """Give what :meth:`resume` goes on from."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "step": self.step}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a stored state."""
        self.exp_avg.copy_(state["exp_avg"])
        self.exp_avg_sq.copy_(state["exp_avg_sq"])
        self.step.copy_(state["step"])


def _correction(beta: float, step: Tensor) -> Tensor:
    """Compute ``1 - beta ** step`` without losing its digits in single precision."""
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))


def clip_rows(gradients: Tensor, limit: float) -> Tensor:
    """Scale each member's gradient down to a norm of ``limit``, as ``clip_grad_norm_`` does.

    Parameters
    ----------
    gradients : (n_members, n_parameters)
    """
    norm: Tensor = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    return gradients * (limit / (norm + 1e-6)).clamp(max=1.0)
