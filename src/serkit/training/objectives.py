"""Objectives as data: a list of terms {output, target, loss, weight}, summed by one function.

Multi-task learning is a longer list in the experiment file, not another loop. Weight penalties are
a list as well; they look at parameters instead of outputs.

Class weights need each class's share of the training part, n_c / N, which :func:`class_shares`
counts once per training. They weigh the training loss alone; a dev part is judged without.

Transcripts are learnt by :mod:`.ctc`, and utterances compared by :mod:`.contrastive`. The latter
see one batch at a time: with accumulated gradients, negatives still come from one batch each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from serkit.recognizer import Recognizer
from serkit.training.contrastive import (
    info_nce,
    published_pairs,
    published_supervised,
    supervised_contrastive,
)
from serkit.training.ctc import ctc_loss
from serkit.training.data import Examples
from serkit.types import InputError

__all__ = [
    "LOSSES",
    "UNSTACKABLE",
    "ClassWeights",
    "Penalised",
    "Penalty",
    "Term",
    "class_shares",
    "class_weights",
    "penalised_parameters",
    "total_loss",
    "with_penalties",
]

ClassWeights = Literal["none", "balanced", "one_minus_share", "rarest_share"]

# The losses that each option of a term means something to.
_OPTIONS = {
    "label_smoothing": ("cross_entropy",),
    "gamma": ("focal",),
    "reduction": ("bce",),
    "class_weights": ("cross_entropy", "focal", "bce"),
    "ctc_reduction": ("ctc",),
    "zero_infinity": ("ctc",),
    "mask_padding": ("reconstruction",),
    "temperature": ("supcon", "scl_published", "info_nce", "acl_published"),
    "against": ("info_nce", "acl_published"),
    "symmetric": ("info_nce",),
}

UNSTACKABLE = ("ctc", "reconstruction")
"""Losses that torch cannot map over the members of a stack."""


class Term(BaseModel):
    """One summand of the loss.

    Losses take class indices (batch,); ``mse`` and ``l1`` take numbers of the output's shape, and
    ``bce`` takes either indices or a 0 or 1 for each class, (batch, n_classes).

    ``ctc`` takes logits (batch, n_frames, n_symbols) whose symbol 0 is the blank, the valid frames
    (batch,) from the output ``n_<output>``, and symbols (batch, n) padded with -100.

    ``reconstruction`` takes frames (batch, n_frames, d), their valid numbers from the output
    ``n_<output>``, and a target whose first d columns, clipped to [0, 1], are what they should be:
    the mean squared error over the valid frames.

    ``cross_entropy`` leaves out examples whose target is -100, which means that nobody knows it,
    unless the target is the emotion.

    The contrastive losses take vectors (batch, d): ``supcon`` and ``scl_published`` draw those of
    one class together; ``info_nce`` and ``acl_published`` draw an utterance to its other view, the
    output ``against``, whatever the target. Utterances without one are False in the batch's
    ``has_view`` and left out of both.

    With ``class_weights``, an example of class c counts ``w_c`` times in a mean over the batch. In
    ``bce`` every class is a question of its own, and its yes and its no have a weight each; the
    sum is divided by the batch size.

    ================  ==========================  ===============================
    class_weights     cross_entropy, focal: w_c   bce: weight of a yes, of a no
    ================  ==========================  ===============================
    balanced          N / (n_classes n_c)         N / (2 n_c), N / (2 (N - n_c))
    one_minus_share   1 - n_c / N                 1 - n_c / N, n_c / N
    rarest_share      min n / n_c                 1, n_c / N
    ================  ==========================  ===============================
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str = Field(default="emotion", description="name of the model's output")
    target: str = Field(default="emotion", description="name of the batch's target")
    loss: Literal[
        "cross_entropy",
        "focal",
        "bce",
        "mse",
        "l1",
        "ctc",
        "reconstruction",
        "supcon",
        "scl_published",
        "info_nce",
        "acl_published",
    ] = Field(default="cross_entropy")
    weight: float = Field(default=1.0, description="factor of this term")
    label_smoothing: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="cross_entropy only: y (1 - e) + e / n_classes"
    )
    gamma: float = Field(
        default=2.0, ge=0.0, description="focal only: cross-entropy times (1 - p) ** gamma"
    )
    reduction: Literal["sum", "mean"] = Field(
        default="sum",
        description="bce only: sum or mean over classes of each one's mean over the batch",
    )
    class_weights: ClassWeights = Field(
        default="none", description="by the classes' shares of the training part"
    )
    ctc_reduction: Literal["sum", "mean"] = Field(
        default="mean",
        description="ctc only: sum over the batch, or mean over it of each utterance's loss per "
        "symbol",
    )
    zero_infinity: bool = Field(
        default=True,
        description="ctc only: skip utterances without symbols or too short for theirs",
    )
    mask_padding: bool = Field(
        default=True,
        description="reconstruction only: leave the batch's padding out; false: as published",
    )
    temperature: float = Field(
        default=0.07, gt=0.0, description="contrastive losses only: what scores are divided by"
    )
    against: str | None = Field(
        default=None, description="info_nce and acl_published only: output with the other view"
    )
    symmetric: bool = Field(
        default=False, description="info_nce only: mean of both directions between the views"
    )

    @model_validator(mode="after")
    def _options_belong_to_the_loss(self) -> Term:
        for option, losses in _OPTIONS.items():
            value = getattr(self, option)
            if value != type(self).model_fields[option].default and self.loss not in losses:
                raise ValueError(
                    f"{option} = {value} is for {' or '.join(losses)}, and this loss is "
                    f"{self.loss}: leave {option} out or choose another loss"
                )
        if self.class_weights != "none" and self.target != "emotion":
            raise ValueError(
                f"class_weights are those of the target emotion, and this target is {self.target}: "
                "leave class_weights out"
            )
        if self.against is None and self.loss in _OPTIONS["against"]:
            raise ValueError(
                f"{self.loss} compares two views: name the output with the other one as against"
            )
        return self


class Penalty(BaseModel):
    """A price on the size of weights, added to the training loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: str = Field(
        description="names of the model's parameters; * stands for anything, [1-5] for a digit"
    )
    kind: Literal["squared", "norm"] = Field(
        default="squared",
        description="squared: sum of squares; norm: Euclidean length of each parameter, and of "
        "each expert's own where experts lie side by side",
    )
    weight: float = Field(gt=0, description="factor of this penalty")


@dataclass(frozen=True, slots=True)
class Beside:
    """What a loss may use besides its output and target.

    ``shares`` is ``None`` where the term is not weighted by class.
    """

    outputs: Mapping[str, Tensor]
    batch: Mapping[str, Tensor]
    shares: Tensor | None

    def output(self, name: str) -> Tensor:
        """Find an output of the model.

        Raises
        ------
        InputError
            If the model does not give it.
        """
        if name not in self.outputs:
            raise InputError(
                f"objective wants the output '{name}', the model gives {sorted(self.outputs)}"
            )
        return self.outputs[name]

    def target(self, name: str) -> Tensor:
        """Find a target of the batch.

        Raises
        ------
        InputError
            If the batch does not hold it.
        """
        if name not in self.batch:
            raise InputError(
                f"objective wants the target '{name}', the batch holds {sorted(self.batch)}"
            )
        return self.batch[name]


@dataclass(frozen=True, slots=True)
class Penalised:
    """A parameter under a penalty; its copies lie one after the other along the first axis."""

    name: str
    n_copies: int
    penalty: Penalty


def total_loss(
    outputs: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    terms: Sequence[Term],
    *,
    shares: Tensor | None = None,
    share: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the weighted terms.

    Parameters
    ----------
    shares : (n_classes,), see :func:`class_shares`; ``None``: no term is weighted by class
    share
        Part of a larger batch that this one is: means over the batch count for that much, so that
        the losses of all parts sum to that of the whole. Class-weighted and contrastive terms are
        those of each part by itself.

    Returns
    -------
    loss : scalar
    parts
        Unweighted value of each term, keyed ``output/loss``; scalars, on the outputs' device.

    Raises
    ------
    InputError
        If a term names an output the model does not give or a target the batch does not hold, or
        the target is not of the kind that its loss takes.
    """
    parts: dict[str, Tensor] = {}
    summands = []
    for term in terms:
        beside = Beside(outputs, batch, shares if term.class_weights != "none" else None)
        value = LOSSES[term.loss](
            beside.output(term.output), beside.target(term.target), term, beside
        )
        parts[f"{term.output}/{term.loss}"] = value.detach()
        is_sum = term.loss == "ctc" and term.ctc_reduction == "sum"
        summands.append(term.weight * (1.0 if is_sum else share) * value)
    return sum(summands[1:], start=summands[0]), parts


def class_shares(train: Examples, *, n_classes: int) -> Tensor:
    """Count what share of the training part each class has.

    Returns
    -------
    shares : (n_classes,), n_c / N; where several classes may hold they need not sum to 1
    """
    return _as_questions(train.gather("emotion"), n_classes, torch.get_default_dtype()).mean(0)


def class_weights(kind: ClassWeights, shares: Tensor) -> Tensor:
    """Weigh an example of each class; finite for classes without examples.

    Parameters
    ----------
    kind
        See :class:`Term`.
    shares : (n_classes,), see :func:`class_shares`

    Returns
    -------
    weights : (n_classes,)
    """
    if kind == "none":
        return torch.ones_like(shares)
    if kind == "balanced":
        return _inverse(shares) / len(shares)
    if kind == "one_minus_share":
        return 1 - shares
    rarest = shares.where(shares > 0, torch.inf).min()
    return rarest * _inverse(shares)


def penalised_parameters(
    recognizer: Recognizer, penalties: Sequence[Penalty]
) -> tuple[Penalised, ...]:
    """Find the trained parameters that penalties name.

    Raises
    ------
    InputError
        If a penalty names none.
    """
    model = recognizer.model
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    copies_of: Callable[[str], int] | None = getattr(model, "n_copies", None)  # of experts
    found = []
    for penalty in penalties:
        matching = [name for name in names if fnmatchcase(name, penalty.parameters)]
        if not matching:
            raise InputError(
                f"training.penalties names '{penalty.parameters}', which is no parameter of "
                f"{type(model).__name__}: expected one of its {len(names)}, such as "
                f"{', '.join(names[:6])}"
            )
        for name in matching:
            n_copies = 1 if copies_of is None else copies_of(name)
            found.append(Penalised(f"model.{name}", n_copies, penalty))
    return tuple(found)


def with_penalties(
    loss: Tensor,
    tensors: Mapping[str, Tensor],
    penalised: Sequence[Penalised],
    *,
    share: float = 1.0,
) -> Tensor:
    """Add the penalties to a loss.

    Parameters
    ----------
    loss : scalar
    tensors
        The recognizer's parameters by name.
    share
        As in :func:`total_loss`.
    """
    for each in penalised:
        tensor = tensors[each.name]
        if each.penalty.kind == "squared":
            size = tensor.square().sum()
        else:
            copies = tensor.reshape(each.n_copies, -1)
            size = torch.linalg.vector_norm(copies, dim=1).sum()
        loss = loss + share * each.penalty.weight * size
    return loss


def _cross_entropy(output: Tensor, target: Tensor, term: Term, beside: Beside) -> Tensor:
    _require_indices(target, term)
    if term.target != "emotion":
        known = target >= 0
        if not known.any():
            return output[:0].sum()
        output, target = output[known], target[known]
    if beside.shares is None:
        return F.cross_entropy(output, target, label_smoothing=term.label_smoothing)
    losses = F.cross_entropy(output, target, label_smoothing=term.label_smoothing, reduction="none")
    return _weighted_mean(losses, target, term, beside.shares)


def _focal(output: Tensor, target: Tensor, term: Term, beside: Beside) -> Tensor:
    _require_indices(target, term)
    losses = F.cross_entropy(output, target, reduction="none")
    missing = -torch.expm1(-losses)  # 1 - p of the true class
    # The floor keeps the gradient finite for gamma < 1 where the network is certain.
    losses = missing.clamp_min(torch.finfo(missing.dtype).tiny) ** term.gamma * losses
    if beside.shares is None:
        return losses.mean()
    return _weighted_mean(losses, target, term, beside.shares)


def _bce(output: Tensor, target: Tensor, term: Term, beside: Beside) -> Tensor:
    n_classes = output.shape[-1]
    if target.shape not in (output.shape, output.shape[:-1]):
        raise InputError(
            f"bce wants the target '{term.target}' as {tuple(output.shape)} or class indices "
            f"{tuple(output.shape[:-1])}, got {tuple(target.shape)}"
        )
    truth = _as_questions(target, n_classes, output.dtype)
    weights = None
    if beside.shares is not None:
        yes, no = _answer_weights(term, beside.shares.to(output.dtype))
        weights = truth * yes + (1 - truth) * no
    losses = F.binary_cross_entropy_with_logits(output, truth, weights, reduction="none").mean(0)
    return losses.sum() if term.reduction == "sum" else losses.mean()


def _mse(output: Tensor, target: Tensor, _term: Term, _beside: Beside) -> Tensor:
    return F.mse_loss(output, target)


def _l1(output: Tensor, target: Tensor, _term: Term, _beside: Beside) -> Tensor:
    return F.l1_loss(output, target)


def _reconstruction(output: Tensor, target: Tensor, term: Term, beside: Beside) -> Tensor:
    if target.ndim != 3 or target.shape[2] < output.shape[2]:
        raise InputError(
            f"reconstruction wants a target of frames (batch, n_frames, {output.shape[2]} or "
            f"more), got {tuple(target.shape)}: name the parts as the term's target"
        )
    errors = (output - target[:, : output.shape[1], : output.shape[2]].clamp(0, 1)).square().mean(2)
    if not term.mask_padding:
        return errors.mean()
    n_frames = beside.output(f"n_{term.output}")
    valid = torch.arange(errors.shape[1], device=errors.device) < n_frames.unsqueeze(1)
    return (errors * valid).sum() / valid.sum().clamp_min(1)


def _ctc(output: Tensor, target: Tensor, term: Term, beside: Beside) -> Tensor:
    return ctc_loss(
        output,
        beside.output(f"n_{term.output}"),
        target,
        reduction=term.ctc_reduction,
        zero_infinity=term.zero_infinity,
    )


def _supcon(output: Tensor, target: Tensor, term: Term, _beside: Beside) -> Tensor:
    _require_indices(target, term)
    return supervised_contrastive(output, target, temperature=term.temperature)


def _scl_published(output: Tensor, target: Tensor, term: Term, _beside: Beside) -> Tensor:
    _require_indices(target, term)
    return published_supervised(output, target, temperature=term.temperature)


def _info_nce(output: Tensor, _target: Tensor, term: Term, beside: Beside) -> Tensor:
    return info_nce(
        output,
        beside.output(str(term.against)),
        present=_has_view(output, beside),
        temperature=term.temperature,
        symmetric=term.symmetric,
    )


def _acl_published(output: Tensor, _target: Tensor, term: Term, beside: Beside) -> Tensor:
    return published_pairs(
        output,
        beside.output(str(term.against)),
        present=_has_view(output, beside),
        temperature=term.temperature,
    )


LOSSES: dict[str, Callable[[Tensor, Tensor, Term, Beside], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "bce": _bce,
    "mse": _mse,
    "l1": _l1,
    "ctc": _ctc,
    "reconstruction": _reconstruction,
    "supcon": _supcon,
    "scl_published": _scl_published,
    "info_nce": _info_nce,
    "acl_published": _acl_published,
}


def _has_view(output: Tensor, beside: Beside) -> Tensor:
    """Tell which utterances have another view, (batch,), bool; all where the batch is silent."""
    everyone = torch.ones(len(output), dtype=torch.bool, device=output.device)
    return beside.batch.get("has_view", everyone)


def _require_indices(target: Tensor, term: Term) -> None:
    if target.ndim != 1 or target.is_floating_point():
        raise InputError(
            f"{term.loss} wants the target '{term.target}' as class indices (batch,), got "
            f"{target.dtype} {tuple(target.shape)}: where several classes may hold, use loss = "
            "'bce'"
        )


def _as_questions(target: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """Turn class indices (n,) into a 0 or 1 for each class (n, n_classes), if they are not yet."""
    if target.ndim == 2:
        return target.to(dtype)
    return (target.unsqueeze(-1) == torch.arange(n_classes, device=target.device)).to(dtype)


def _weighted_mean(losses: Tensor, target: Tensor, term: Term, shares: Tensor) -> Tensor:
    """Average losses (batch,) by the weights of the examples' classes."""
    own = class_weights(term.class_weights, shares.to(losses.dtype)).gather(0, target)
    # All weights are 0 where only one class was trained on and 1 - n_c / N is asked for.
    return (own * losses).sum() / own.sum().clamp_min(torch.finfo(own.dtype).tiny)


def _answer_weights(term: Term, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a yes and of a no to each class, (n_classes,) each."""
    if term.class_weights == "balanced":
        return _inverse(shares) / 2, _inverse(1 - shares) / 2
    if term.class_weights == "one_minus_share":
        return 1 - shares, shares
    return torch.ones_like(shares), shares


def _inverse(shares: Tensor) -> Tensor:
    """Give 1 / share, and 0 for what never occurs."""
    return (1 / shares).where(shares > 0, 0.0)
