"""Training of a decomposition of speech: to say an utterance again, through narrow codes.

One member is one training: of a fold, whose test part it never meets, or of a whole corpus. The
same members train an F0 converter, see :mod:`.f0_converter`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serkit.models.speech_split import (
    F0Converter,
    F0ConverterConfig,
    SpeechSplit,
    SpeechSplitConfig,
)
from serkit.training.config import TrainingConfig
from serkit.training.crew import together
from serkit.training.crops import CropConfig, Crops
from serkit.training.data import Examples, derive_seed, read_data
from serkit.training.f0_converter import (
    ContourCrops,
    ConverterLearner,
    contour_scores,
    judge_converter,
)
from serkit.training.learner import EpochRow, JudgeDev, Part, TermsCriterion, Trainable
from serkit.training.loop import STATE_FILE, FitResult, fit_learner
from serkit.training.objectives import Term
from serkit.training.whole import whole_batches
from serkit.types import Fold

__all__ = [
    "SplitLearner",
    "SplitMember",
    "error_of_the_mean",
    "error_without",
    "forget_state",
    "part_of_judgement",
    "reconstruction_errors",
    "score_network",
    "train_split",
]


class SplitLearner(Trainable):
    """A :class:`.SpeechSplit` as the training loop takes it.

    Parameters
    ----------
    config
        See :class:`.SpeechSplitConfig`.
    frame_rate
        Frames per second.
    """

    def __init__(self, config: SpeechSplitConfig, *, frame_rate: float) -> None:
        super().__init__()
        self.split = SpeechSplit(config)
        self.frame_rate = frame_rate

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take a batch of :class:`.Crops` apart and put it together again."""
        outputs: dict[str, Tensor] = self.split(
            batch["features"], batch["n_frames"], batch["speaker"]
        )
        return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMember:
    """What one training needs; picklable, the features stay in the files under ``data``."""

    model: SpeechSplitConfig | F0ConverterConfig
    frame_rate: float
    crops: CropConfig
    training: TrainingConfig
    mask_padding: bool
    fold: Fold
    seed: int
    folder: Path
    data: Path

    def part(self, ids: tuple[str, ...]) -> Examples:
        """Pick whole utterances."""
        return read_data(self.data).evaluation.select(ids)


def train_split(
    member: SplitMember, on_epoch: Callable[[EpochRow], None]
) -> tuple[SpeechSplit | F0Converter, FitResult]:
    """Train a decomposition, or an F0 converter; torchrun's other processes take part.

    Returns
    -------
    network
        With the weights of the selected epoch.
    result
    """
    learner, result = together(partial(_fit, member, None), lambda: _fit(member, on_epoch))
    return (learner.split if isinstance(learner, SplitLearner) else learner.converter), result


def forget_state(member: SplitMember) -> None:
    """Remove the state that a training is resumed from, once its result is stored."""
    (member.folder / STATE_FILE).unlink(missing_ok=True)


def _fit(
    member: SplitMember, on_epoch: Callable[[EpochRow], None] | None
) -> tuple[SplitLearner | ConverterLearner, FitResult]:
    torch.manual_seed(derive_seed(member.seed, member.fold.name, "initialisation"))
    learner, train, term, judge_dev = _what_to_learn(
        member, Crops(member.part(member.fold.train), member.crops)
    )
    result = fit_learner(
        learner,
        train,
        member.part(member.fold.dev) if member.fold.dev else None,
        member.training,
        criterion=TermsCriterion((term,)),
        judge_dev=judge_dev,
        seed=derive_seed(member.seed, member.fold.name),
        folder=member.folder,
        on_epoch=on_epoch,
    )
    return learner, result


def _what_to_learn(
    member: SplitMember, crops: Crops
) -> tuple[SplitLearner | ConverterLearner, Part, Term, JudgeDev]:
    """Give the network, what it is trained on, what it is to say there, and its judge."""
    model = member.model
    if isinstance(model, F0ConverterConfig):
        learner = ConverterLearner(model, frame_rate=member.frame_rate)
        contours = ContourCrops(crops, model.sizes.n_f0_bins, member.mask_padding)
        return learner, contours, Term(output="f0", target="bins"), judge_converter
    term = Term(
        output="reconstruction",
        target="parts",
        loss="reconstruction",
        mask_padding=member.mask_padding,
    )
    return SplitLearner(model, frame_rate=member.frame_rate), crops, term, _judge


def score_network(
    network: SpeechSplit | F0Converter, member: SplitMember, ids: tuple[str, ...]
) -> dict[str, Any]:
    """Measure a trained network on some utterances.

    Returns
    -------
    scores
        Of a decomposition ``mse``, see :func:`reconstruction_errors`, and ``mse_of_mean``, see
        :func:`error_of_the_mean`; of an F0 converter ``contours``, see :func:`.contour_scores`.
    """
    train, judged = member.part(member.fold.train), member.part(ids)
    if isinstance(network, F0Converter):
        return {"contours": contour_scores(network, train, judged)}
    return {
        "mse_of_mean": error_of_the_mean(train, judged, network.config.sizes.n_mels),
        "mse": reconstruction_errors(network, judged),
    }


def _judge(learner: SplitLearner, dev: Examples) -> EpochRow:
    """Judge the dev part: its loss, and what it is without each stream."""
    errors = reconstruction_errors(learner.split, dev)
    return {"dev_loss": errors.pop("full")} | {f"dev_mse_{k}": v for k, v in errors.items()}


def reconstruction_errors(split: SpeechSplit, examples: Examples) -> dict[str, float]:
    """Measure how well whole utterances are said again, and what each stream adds to it.

    Returns
    -------
    errors
        Mean squared error over all valid frames and bands, of the mel clipped to [0, 1]: ``full``,
        and for each stream ``without_<stream>``, where its encoder reads zeros.
    """
    streams = split.config.streams
    return {"full": error_without(split, examples)} | {
        f"without_{stream}": error_without(split, examples, without=(stream,)) for stream in streams
    }


@torch.inference_mode()
def error_without(
    split: SpeechSplit, examples: Examples, *, without: Collection[str] = ()
) -> float:
    """Measure the error of the reconstruction while some encoders read zeros."""
    split.eval()
    device = next(split.parameters()).device
    summed, n_numbers = 0.0, 0
    for _, copied in whole_batches(examples, alone=not split.config.pack):
        batch = {name: t.to(device) for name, t in copied.items()}
        features, n_frames = batch["features"], batch["n_frames"]
        said = split.reconstruct(features, n_frames, batch["speaker"], without=without).float()
        mel = features[..., : said.shape[2]].clamp(0, 1)
        valid = torch.arange(said.shape[1], device=device) < n_frames.unsqueeze(1)
        summed += float((said - mel).square()[valid].double().sum())
        n_numbers += int(valid.sum()) * said.shape[2]
    return summed / n_numbers


def part_of_judgement(fold: Fold) -> tuple[str, tuple[str, ...]]:
    """Say by which part a training is judged in the end, the least known one, and its ids."""
    for name, ids in (("test", fold.test), ("dev", fold.dev)):
        if ids:
            return name, ids
    return "training", fold.train


def error_of_the_mean(train: Examples, judged: Examples, n_mels: int) -> float:
    """Measure the error of answering every frame with the mean frame of the training part.

    It is what a reconstruction must beat: a network that ignores what it reads learns this.
    """
    mean = _all_frames(train, n_mels).mean(0)
    return float((_all_frames(judged, n_mels) - mean).square().mean())


def _all_frames(examples: Examples, n_mels: int) -> Tensor:
    """Join the valid frames of all utterances, (n_frames, n_mels), float64."""
    frames = []
    for _, batch in whole_batches(examples, alone=False):
        valid = torch.arange(batch["features"].shape[1]) < batch["n_frames"].unsqueeze(1)
        frames.append(batch["features"][valid][:, :n_mels].clamp(0, 1).double())
    return torch.cat(frames)
