"""What the one training loop asks of a network, of its examples and of its loss.

A recognizer of emotion, a speech recogniser and an autoencoder are trained by the same loop. They
differ in these four: the network, the part it is trained on, the criterion, and how a dev part is
judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from serkit.training.objectives import Penalised, Term, total_loss, with_penalties

__all__ = [
    "Criterion",
    "EpochRow",
    "Forgetful",
    "JudgeDev",
    "Learner",
    "Part",
    "TermsCriterion",
    "Trainable",
]

EpochRow = dict[str, Any]

JudgeDev = Callable[[Any, Any], EpochRow]
"""(learner, dev part) -> what the row of an epoch says of the dev part."""


class Learner(Protocol):
    """A network, as an ``nn.Module`` whose ``forward(batch)`` gives a dict of named outputs."""

    @property
    def frame_rate(self) -> float:
        """Rows of ``Part.lengths`` per second."""
        ...

    def trained_state(self) -> dict[str, Tensor]:
        """Give what training can change."""
        ...

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`trained_state` gave."""
        ...

    def trained_encoders(self) -> Sequence[Any]:
        """Give its pre-trained encoders, which have learning rates of their own."""
        ...


class Trainable(nn.Module):
    """A network all of which is trained, with no pre-trained encoder in it: most learners."""

    frame_rate: float = 1.0

    def trained_state(self) -> dict[str, Tensor]:
        """Give what training can change."""
        return self.state_dict()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`trained_state` gave."""
        self.load_state_dict(dict(state))

    def trained_encoders(self) -> Sequence[Any]:
        """Give its pre-trained encoders: none."""
        return ()


class Part(Protocol):
    """Examples to train on."""

    @property
    def ids(self) -> tuple[str, ...]:
        """What the examples are; a stored training goes on with the same ones alone."""
        ...

    def __len__(self) -> int: ...

    def lengths(self) -> Tensor:
        """Count the frames of each example, (len(self),)."""
        ...

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Make a batch of some examples: what is random in it is a function of seed and epoch."""
        ...


class Criterion(Protocol):
    """The loss of a batch, with what it remembers from batch to batch."""

    def describe(self) -> Any:
        """Say what it is, as plain objects: part of the identity of a training."""
        ...

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, share: float
    ) -> Tensor:
        """Compute the loss of this process's ``share`` of a batch, a scalar.

        The losses of all shares sum to that of the batch; 1 where one process has all of it.
        """
        ...

    def remember(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, epoch: int
    ) -> None:
        """See a batch again after its gradients, outputs detached."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Give what it remembers."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`state` gave."""
        ...


class Forgetful:
    """The part of a criterion that remembers nothing."""

    def remember(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, epoch: int
    ) -> None:
        """See a batch again: nothing is kept of it."""

    def state(self) -> dict[str, Tensor]:
        """Give what it remembers: nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`state` gave: nothing."""


class TermsCriterion(Forgetful):
    """The terms and penalties of an experiment file.

    Parameters
    ----------
    terms
        See :class:`.objectives.Term`.
    parameters
        The learner's parameters by name, which ``penalised`` names.
    shares : (n_classes,), see :func:`.objectives.class_shares`; ``None``: no term is weighted
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        parameters: Mapping[str, Tensor] | None = None,
        penalised: Sequence[Penalised] = (),
        shares: Tensor | None = None,
    ) -> None:
        self.terms, self.penalised, self.shares = tuple(terms), tuple(penalised), shares
        self.parameters = dict(parameters or {})

    def describe(self) -> Any:
        """Say what it is."""
        return [term.model_dump() for term in self.terms]

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, share: float
    ) -> Tensor:
        """Sum the weighted terms, and the penalties."""
        shares = None
        if self.shares is not None:
            shares = self.shares.to(next(iter(outputs.values())).device)
        summed, _ = total_loss(outputs, batch, self.terms, shares=shares, share=share)
        return with_penalties(summed, self.parameters, self.penalised, share=share)
