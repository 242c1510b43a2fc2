"""What the training loop needs for a model of sentiment: clips, their labels, their judgement.

The clips of all parts lie in one :class:`ClipTensors`; a :class:`ClipPart` is some of them, and
:class:`.unimodal_labels.UnimodalLabels` counts by places in it. Where a speech recogniser listened
too, each clip of a batch is read as people wrote it down, or as the recogniser understood it: a
function of (seed, epoch, id).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.models.self_mm import STREAMS
from serkit.sentiment_model import SentimentModel
from serkit.training.data import Ragged, derive_seed
from serkit.training.learner import EpochRow
from serkit.training.unimodal_labels import UnimodalLabels, self_mm_loss

__all__ = ["ClipPart", "ClipTensors", "SentimentCriterion", "judge_sentiment", "predict_clips"]

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
    labels : (n,), NaN where unknown
    human : (n,) each, people's labels of streams; NaN where unknown
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
        ``fused``, ``text``, ``audio``, ``vision``, (n,) each; NaN where a clip lacks the stream.
    """
    model.eval()
    device = next(model.parameters()).device
    collected: dict[str, list[Tensor]] = {name: [] for name in ("fused", *STREAMS)}
    for rows in torch.split(torch.arange(len(part)), batch_size):
        batch = part.training_batch(rows, seed=0, epoch=0)
        outputs = model({name: t.to(device) for name, t in batch.items()})
        collected["fused"].append(outputs["fused"].float().cpu())
        for column, name in enumerate(STREAMS):
            there = outputs["present"][:, column]
            collected[name].append(outputs[name].float().masked_fill(~there, torch.nan).cpu())
    return {name: torch.cat(parts).numpy() for name, parts in collected.items()}
