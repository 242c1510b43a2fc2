"""Settings of a training: how long, how fast, which epoch is kept, and on what it is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serkit.training.objectives import Penalty
from serkit.training.trackers import TrackerConfig

__all__ = ["Schedule", "TrainingConfig"]


class Schedule(BaseModel):
    """How the learning rate goes on.

    ``linear`` and ``inverse_sqrt`` change it from step to step: it rises from 0 during ``warmup``
    epochs, then falls linearly to 0 at the last epoch's end, or with the root of the time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["constant", "steps", "linear", "inverse_sqrt"] = "constant"
    warmup: float | None = Field(
        default=None, ge=0, description="linear, inverse_sqrt: epochs of rising; may be a fraction"
    )
    first: int | None = Field(default=None, ge=2, description="steps: first epoch at a lower rate")
    every: int | None = Field(default=None, ge=1, description="steps: epochs from step to step")
    factor: float | None = Field(default=None, gt=0, description="steps: of the rate at each step")

    @model_validator(mode="after")
    def _steps_are_described(self) -> Schedule:
        given = [value is not None for value in (self.first, self.every, self.factor)]
        if self.kind == "steps" and not all(given):
            raise ValueError("kind = 'steps' needs first, every and factor: state all three")
        if self.kind != "steps" and any(given):
            raise ValueError(
                f"first, every and factor are for kind = 'steps', and this kind is '{self.kind}': "
                "leave them out or set kind = 'steps'"
            )
        if not self.within_epochs and self.warmup is not None:
            raise ValueError(
                f"warmup is for kind = 'linear' or 'inverse_sqrt', and this kind is '{self.kind}': "
                "leave it out, or take training.warmup_epochs"
            )
        if self.kind == "inverse_sqrt" and not self.warmup:
            raise ValueError("kind = 'inverse_sqrt' needs warmup, in epochs: it is the time's unit")
        return self

    @property
    def within_epochs(self) -> bool:
        """Tell whether the rate changes from step to step."""
        return self.kind in ("linear", "inverse_sqrt")


class TrainingConfig(BaseModel):
    """How long, how fast, and which epoch is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=64, ge=1)
    batch_seconds: float | None = Field(
        default=None,
        gt=0,
        description="most seconds of a training batch, padding included; utterances of similar "
        "lengths then go together, at most batch_size of them",
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_learning_rate: float | None = Field(
        default=None, gt=0, description="of trained encoders' last layer; default: learning_rate"
    )
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="rate of an encoder's layer to that of the one above"
    )
    schedule: Schedule = Schedule()
    warmup_epochs: int = Field(
        default=0, ge=0, description="epochs in which the rate rises linearly to the full one"
    )
    optimizer: Literal["adamw", "adam"] = "adamw"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(
        default=0.0, ge=0, description="adamw: decoupled; adam: added to the gradient"
    )
    penalties: tuple[Penalty, ...] = Field(
        default=(), description="prices on the size of weights, added to the training loss"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="gradient norm limit")
    accumulate: int = Field(default=1, ge=1, description="batches per optimiser step")
    accumulate_by: Literal["mean", "sum"] = Field(
        default="mean", description="what is made of the gradients of those batches"
    )
    remainder: Literal["step", "drop"] = Field(
        default="step",
        description="what becomes of the last batches of an epoch that are fewer than accumulate: "
        "a step of their own, or nothing, as in some published code",
    )
    select: Literal["best_dev", "last"] = "best_dev"
    select_by: Literal["uar", "war", "loss", "cer"] = Field(
        default="uar",
        description="dev quantity that picks the epoch; ties go to the lower dev loss",
    )
    select_every: int = Field(default=1, ge=1, description="only every n-th epoch may be selected")
    patience: int | None = Field(
        default=None, ge=1, description="stop after this many epochs without a better dev score"
    )
    min_epochs: int = Field(
        default=1, ge=1, description="no epoch before this one is selected or stops the training"
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    cohort: Literal["auto", "processes", "stacked"] = Field(
        default="auto",
        description="how folds x seeds are trained side by side: in processes, or stacked into one "
        "program; auto: stacked on a CUDA device, processes elsewhere",
    )
    compile: bool = Field(
        default=False,
        description="stacked on a CUDA device only: torch.compile the step (not yet tried on one)",
    )
    save_every_s: float = Field(
        default=30.0, ge=0, description="seconds between resumable states; 0: every epoch"
    )
    save_every_batches: int | None = Field(
        default=None, ge=1, description="resumable states within an epoch, after so many batches"
    )
    shortest_first: bool = Field(
        default=False, description="the first epoch goes from short to long instead of shuffled"
    )
    tracker: TrackerConfig = TrackerConfig()
