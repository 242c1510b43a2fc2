"""What the training loop needs for a model of clips: clips, their labels, their judgement.

The clips of all parts lie in one :class:`ClipTensors`; a :class:`ClipPart` is some of them, and
:class:`.unimodal_labels.UnimodalLabels` counts by places in it. Where a speech recogniser listened
too, each clip of a batch is read as people wrote it down, or as the recogniser understood it: a
function of (seed, epoch, id).

What is learned is a number, by :class:`SentimentCriterion`, or one of several classes, by
:class:`ClassCriterion`. Labels are then places of classes instead of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from serkit.models.self_mm import STREAMS
from serkit.sentiment_model import SentimentModel
from serkit.training.data import Ragged, derive_seed
from serkit.training.learner import EpochRow, Forgetful
from serkit.training.objectives import ClassWeights, class_weights
from serkit.training.record import judge
from serkit.training.unimodal_labels import UnimodalLabels, self_mm_loss
from serkit.types import InputError

__all__ = [
    "ClassCriterion",
    "ClipPart",
    "ClipTensors",
    "SentimentCriterion",
    "judge_classes",
    "judge_sentiment",
    "predict_clips",
]

_LARGEST_SEED = 2**63


@dataclass(frozen=True, slots=True, eq=False)
class ClipTensors:
    """All clips of a corpus.

    Attributes
    ----------
    text
        Tokens or vectors of n clips; of 2 n, where a speech recogniser listened, its texts last.
    has_text : (n,) or (2 n,), bool
    audio, vision
        Frames of n clips.
    present : (n, 2), bool, for audio and vision
    labels : (n,), numbers, NaN where unknown; or places of classes, int64
    human : (n,) each, people's labels of streams; NaN, or -1, where unknown
    """

    ids: tuple[str, ...]
    text: Ragged
    has_text: Tensor
    audio: Ragged
    vision: Ragged
    present: Tensor
    labels: Tensor
    human: Mapping[str, Tensor] = field(default_factory=dict)


class ClipPart:
    """Some clips: what is trained on, selected by, or judged.

    Parameters
    ----------
    clips
        All of them.
    rows : (n,), which of those
    asr_share
        Probability that a clip is read as the speech recogniser understood it.
    """

    def __init__(self, clips: ClipTensors, rows: Tensor, *, asr_share: float = 0.0) -> None:
        self.clips, self.rows, self.asr_share = clips, rows, asr_share

    @property
    def ids(self) -> tuple[str, ...]:
        """What the clips are."""
        return tuple(self.clips.ids[row] for row in self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> Tensor:
        """Count the acoustic frames of each clip."""
        return self.clips.audio.lengths[self.rows]

    def labels(self) -> Tensor:
        """Give the labels of the clips, (n,)."""
        return self.clips.labels[self.rows]

    def human(self) -> dict[str, Tensor]:
        """Give people's labels of the streams, (n,) each."""
        return {name: labels[self.rows] for name, labels in self.clips.human.items()}

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Make a batch of some places of this part; see :class:`.learner.Part`.

        Returns
        -------
        batch
            What :meth:`serkit.sentiment_model.SentimentModel.forward` reads, and ``rows``, the
            places themselves.
        """
        clips, chosen = self.clips, self.rows[rows]
        words = chosen + len(clips.ids) * self._heard(chosen, seed=seed, epoch=epoch)
        return {
            "text": clips.text[words],
            "n_tokens": clips.text.lengths[words],
            "audio": clips.audio[chosen],
            "n_audio": clips.audio.lengths[chosen],
            "vision": clips.vision[chosen],
            "n_vision": clips.vision.lengths[chosen],
            "present": torch.cat([clips.has_text[words].unsqueeze(1), clips.present[chosen]], 1),
            "rows": rows,
        }

    def _heard(self, chosen: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Draw which clips are read as the speech recogniser understood them, (batch,), 0 or 1."""
        if self.asr_share in (0.0, 1.0):
            return torch.full_like(chosen, int(self.asr_share))
        limit = self.asr_share * _LARGEST_SEED
        draws = [derive_seed(seed, "asr", epoch, self.clips.ids[row]) for row in chosen.tolist()]
        return torch.tensor([int(draw < limit) for draw in draws])


class SentimentCriterion:
    """Absolute errors against labels of which the training makes some up.

    Parameters
    ----------
    labels
        Of the training part.
    weighting
        See :func:`.unimodal_labels.self_mm_loss`.
    """

    def __init__(
        self, labels: UnimodalLabels, *, weighting: Literal["disagreement", "even"]
    ) -> None:
        self.labels, self.weighting = labels, weighting

    def describe(self) -> Any:
        """Say what it is."""
        return {"weighting": self.weighting} | asdict(self.labels.config)

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, share: float
    ) -> Tensor:
        """Compute the loss with the labels as they are."""
        self.labels.to(outputs["fused"].device)
        labels = self.labels.labels(batch["rows"])
        loss, _ = self_mm_loss(outputs, labels, weighting=self.weighting)
        return loss * share

    def remember(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, epoch: int
    ) -> None:
        """Make new labels of a batch."""
        self.labels.update(batch["rows"], outputs, epoch=epoch)

    def state(self) -> dict[str, Tensor]:
        """Give the labels, features and centres."""
        return self.labels.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take them."""
        self.labels.load_state_dict(dict(state))

    def row(self) -> EpochRow:
        """Say how far labels of streams have moved from those of their clips, and were clipped."""
        tables = self.generated()
        whole = self.labels.labels(torch.arange(len(tables["text"])))["fused"].cpu()
        drift = {f"labels_{name}": float((tables[name] - whole).abs().mean()) for name in STREAMS}
        return drift | {"labels_clipped": self.labels.clipped_share or 0.0}

    def generated(self) -> dict[str, Tensor]:
        """Give the labels of the streams as they are now, (n_clips,) each."""
        state = self.labels.state_dict()
        return {name: state[f"labels_{name}"].cpu() for name in STREAMS}


class ClassCriterion(Forgetful):
    """Cross-entropies of all heads, against the class of the clip or people's classes of streams.

    The heads of single streams are serkit's own: Self-MM is published for numbers, whose labels of
    streams are generated. A stream learns from the clips that have it, and counts as much as the
    fused head.

    Parameters
    ----------
    labels : (n_clips,), int64, the class of each clip of the training part
    human : (n_clips,) each, of streams; where it is -1, the class of the clip stands in. Empty:
        that of the clip everywhere.
    weights
        How much a clip counts in the mean over a batch, by the share of its class in ``labels``, of
        each head its own; see :class:`.objectives.Term`.

    Raises
    ------
    InputError
        If a clip has no class.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        human: Mapping[str, Tensor] | None = None,
        weights: ClassWeights = "none",
    ) -> None:
        if labels.ndim != 1 or labels.dtype != torch.int64 or not (labels >= 0).all():
            raise InputError(
                f"labels of shape {tuple(labels.shape)} and kind {labels.dtype}: expected one "
                "class per clip by its place, int64, from 0"
            )
        human = human or {}
        self.weights: ClassWeights = weights
        self.labels = {"fused": labels}
        for name in STREAMS:
            own = human.get(name, labels)
            self.labels[name] = torch.where(own >= 0, own, labels)

    def describe(self) -> Any:
        """Say what it is."""
        counts = {name: labels.bincount().tolist() for name, labels in self.labels.items()}
        return counts if self.weights == "none" else counts | {"weights": self.weights}

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor], *, share: float
    ) -> Tensor:
        """Sum the cross-entropies of the fused head and of the streams, a scalar."""
        loss = torch.zeros((), device=outputs["fused"].device)
        rows = batch["rows"].cpu()
        for name, labels in self.labels.items():
            truth = labels[rows].to(loss.device)
            errors = F.cross_entropy(outputs[name], truth, reduction="none")
            counts = labels.bincount(minlength=outputs[name].shape[1])
            shares = (counts / len(labels)).to(errors)
            weights = class_weights(self.weights, shares)[truth]
            if name != "fused":
                weights = weights.masked_fill(~outputs["present"][:, STREAMS.index(name)], 0)
            # A stream that no clip of the batch has is not taught.
            least = torch.finfo(weights.dtype).tiny
            loss = loss + (weights * errors).sum() / weights.sum().clamp_min(least)
        return loss * share

    def row(self) -> EpochRow:
        """Say what an epoch changed in the labels: nothing."""
        return {}

    def generated(self) -> dict[str, Tensor]:
        """Give labels that were made up: there are none."""
        return {}


def judge_classes(model: SentimentModel, dev: ClipPart, *, batch_size: int) -> EpochRow:
    """Judge a dev part by the fused output: ``dev_loss``, ``dev_uar``, ``dev_war``, ``dev_f1``."""
    scores = predict_clips(model, dev, batch_size=batch_size)["fused"]
    return judge(scores, dev.labels().numpy())


def judge_sentiment(model: SentimentModel, dev: ClipPart, *, batch_size: int) -> EpochRow:
    """Judge a dev part: ``dev_loss`` is the mean absolute error of the fused output."""
    predicted = predict_clips(model, dev, batch_size=batch_size)["fused"]
    return {"dev_loss": float(np.abs(predicted - dev.labels().numpy()).mean())}


@torch.inference_mode()
def predict_clips(
    model: SentimentModel, part: ClipPart, *, batch_size: int = 64
) -> dict[str, NDArray[np.float32]]:
    """Run a model in evaluation mode.

    Returns
    -------
    outputs
        ``fused``, ``text``, ``audio``, ``vision``, (n,) each, or probabilities of classes,
        (n, n_classes); NaN where a clip lacks the stream.
    """
    model.eval()
    device = next(model.parameters()).device
    collected: dict[str, list[Tensor]] = {name: [] for name in ("fused", *STREAMS)}
    for rows in torch.split(torch.arange(len(part)), batch_size):
        batch = part.training_batch(rows, seed=0, epoch=0)
        outputs = model({name: t.to(device) for name, t in batch.items()})
        collected["fused"].append(model.read_out(outputs["fused"]).float().cpu())
        for column, name in enumerate(STREAMS):
            there = outputs["present"][:, column]
            scores = model.read_out(outputs[name]).float()
            scores[~there] = torch.nan
            collected[name].append(scores.cpu())
    return {name: torch.cat(parts).numpy() for name, parts in collected.items()}
