"""Recognizers of one kind as one program: weights along a first axis, one forward pass for all.

``torch.func`` maps a recognizer's forward pass over the members, which turns their convolutions
into one grouped convolution. Trained weights are the rows of one matrix, so that gradient norms and
the optimiser are a few operations for all members. No loss depends on another member's row: the
gradient of their sum holds each member's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from serkit.models.native import use_readable_forms
from serkit.recognizer import Recognizer
from serkit.training.config import TrainingConfig
from serkit.training.objectives import Term, penalised_parameters, total_loss, with_penalties
from serkit.training.optimise import learning_rate
from serkit.training.stacked_adam import StackedAdam, clip_rows

__all__ = ["Stack"]

Batch = Mapping[str, Tensor]


class Stack:
    """Members that are trained together.

    Parameters
    ----------
    recognizers
        One per member, with its own initial weights; they are left as they are.
    config
        Optimiser settings; ``config.compile`` compiles the training step.
    objective
        See :func:`serkit.training.objectives.total_loss`.
    shares : (n_members, n_classes), see :func:`serkit.training.objectives.class_shares`

    Raises
    ------
    InputError
        If a penalty names no parameter.
    """

    def __init__(
        self,
        recognizers: Sequence[Recognizer],
        config: TrainingConfig,
        *,
        objective: Sequence[Term],
        shares: Tensor,
        device: torch.device,
    ) -> None:
        self.config = config
        self._template = Recognizer(recognizers[0].config).to(device)
        use_readable_forms(self._template)  # compiled ones cannot be mapped over members
        stacked, buffers = stack_module_state(list(recognizers))
        trained = {name for name, p in self._template.named_parameters() if p.requires_grad}
        self._shapes = {name: stacked[name].shape[1:] for name in stacked if name in trained}
        flat = [stacked[name].detach().flatten(1) for name in self._shapes]
        self.weights = torch.cat(flat, dim=1).to(device)  # (n_members, n_parameters)
        # What training does not change by gradients: statistics, and weights that are frozen.
        self._others: dict[str, Tensor] = {
            name: tensor.detach().to(device)
            for name, tensor in (stacked | buffers).items()
            if name not in trained
        }
        self.optimizer = StackedAdam(self.weights, config)
        self._shares = shares.to(device)
        penalised = penalised_parameters(self._template, config.penalties)
        self._stored = list(recognizers[0].state_dict())

        def loss(tensors: dict[str, Tensor], batch: Batch, shares: Tensor) -> Tensor:
            outputs = functional_call(self._template, tensors, (batch,))
            summed, _ = total_loss(outputs, batch, objective, shares=shares)
            return with_penalties(summed, tensors, penalised)

        def logits(tensors: dict[str, Tensor], batch: Batch) -> Tensor:
            emotion: Tensor = functional_call(self._template, tensors, (batch,))["emotion"]
            return emotion.float()

        self._losses: Callable[..., Tensor] = vmap(loss, randomness="different")
        if config.compile:
            self._losses = torch.compile(self._losses)
        self._logits: Callable[..., Tensor] = vmap(logits)

    def __len__(self) -> int:
        return len(self.weights)

    def step(self, rows: Tensor, batch: Batch, *, epoch: int = 1) -> Tensor:
        """Train some of the members on a batch each.

        Parameters
        ----------
        rows : (n_rows,), ascending
        batch
            Tensors (n_rows, batch_size, ...).
        epoch
            From 1; decides the learning rate.

        Returns
        -------
        losses : (n_rows,)
        """
        self._template.train()
        chosen = self._chosen(rows)
        weights = self.weights[chosen].detach().requires_grad_()
        others = {name: tensor[chosen] for name, tensor in self._others.items()}
        losses = self._losses(self._named(weights) | others, batch, self._shares[chosen])
        (gradients,) = torch.autograd.grad(losses.sum(), weights)
        if self.config.clip_norm is not None:
            gradients = clip_rows(gradients, self.config.clip_norm)
        rate = learning_rate(self.config, epoch)
        self.optimizer.update(self.weights, gradients, chosen, learning_rate=rate)
        if isinstance(chosen, Tensor):  # batch norm has changed copies
            for name, tensor in others.items():
                self._others[name][chosen] = tensor
        return losses.detach()

    @torch.no_grad()
    def logits(self, rows: Tensor, batch: Batch) -> Tensor:
        """Classify a batch each with some of the members.

        Returns
        -------
        logits : (n_rows, batch_size, n_classes)
        """
        self._template.eval()
        chosen = self._chosen(rows)
        others = {name: tensor[chosen] for name, tensor in self._others.items()}
        return self._logits(self._named(self.weights[chosen]) | others, batch)

    @property
    def recognizer(self) -> Recognizer:
        """The recognizer that stands for all of them; its weights mean nothing."""
        return self._template

    def state_dict(self, row: int) -> dict[str, Tensor]:
        """Give one member's weights and statistics, as its recognizer stores them."""
        tensors = self._named(self.weights) | self._others
        return {name: tensors[name][row] for name in self._stored}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights and statistics of all members; first axis: the member."""
        tensors = self._named(self.weights) | self._others
        return {name: tensors[name] for name in self._stored}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what :meth:`tensors` gave."""
        own = self._named(self.weights) | self._others
        for name in self._stored:
            own[name].copy_(tensors[name])

    def drop(self, rows: Sequence[int]) -> None:
        """Take members out."""
        left = [row for row in range(len(self)) if row not in rows]
        kept = torch.tensor(left, dtype=torch.long, device=self.weights.device)
        self.weights = self.weights[kept]
        self._others = {name: tensor[kept] for name, tensor in self._others.items()}
        self._shares = self._shares[kept]
        self.optimizer.keep(kept)

    def _chosen(self, rows: Tensor) -> Tensor | slice:
        """Index by a slice where all members are meant: nothing is copied then."""
        return slice(None) if len(rows) == len(self) else rows.to(self.weights.device)

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """View ``(n_rows, n_parameters)`` as the parameters of the recognizer."""
        pieces = torch.split(weights, [shape.numel() for shape in self._shapes.values()], dim=1)
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.view(-1, *shape) for (name, shape), piece in named}
