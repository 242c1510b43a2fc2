"""Objectives as data: a list of terms {output, target, loss, weight}, summed by one function.

Multi-task learning is a longer list in the experiment file, not another loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

__all__ = ["LOSSES", "Term", "total_loss"]


class Term(BaseModel):
    """One summand of the loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str = Field(default="emotion", description="name of the model's output")
    target: str = Field(default="emotion", description="name of the batch's target")
    loss: Literal["cross_entropy", "mse", "l1"] = Field(default="cross_entropy")
    weight: float = Field(default=1.0, description="factor of this term")
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="cross_entropy only: y (1 - e) + e / n_classes"
    )


def _cross_entropy(output: Tensor, target: Tensor, term: Term) -> Tensor:
    return F.cross_entropy(output, target, label_smoothing=term.label_smoothing)


def _mse(output: Tensor, target: Tensor, _: Term) -> Tensor:
    return F.mse_loss(output, target)


def _l1(output: Tensor, target: Tensor, _: Term) -> Tensor:
    return F.l1_loss(output, target)


LOSSES: dict[str, Callable[[Tensor, Tensor, Term], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "l1": _l1,
}


def total_loss(
    outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], terms: Sequence[Term]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the weighted terms.

    Returns
    -------
    loss : scalar
    parts
        Unweighted value of each term, keyed ``output/loss``; scalars, on the outputs' device.

    Raises
    ------
    ValueError
        If a term names an output the model does not give or a target the batch does not hold.
    """
    parts: dict[str, Tensor] = {}
    summands = []
    for term in terms:
        if term.output not in outputs:
            raise ValueError(
                f"objective wants the output '{term.output}', the model gives {sorted(outputs)}"
            )
        if term.target not in batch:
            raise ValueError(
                f"objective wants the target '{term.target}', the batch holds {sorted(batch)}"
            )
        value = LOSSES[term.loss](outputs[term.output], batch[term.target], term)
        parts[f"{term.output}/{term.loss}"] = value.detach()
        summands.append(term.weight * value)
    return sum(summands[1:], start=summands[0]), parts
