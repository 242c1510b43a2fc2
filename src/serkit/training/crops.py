"""Random crops of utterances, each epoch others: what a decomposition of speech is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from serkit.training.data import Examples, derive_seed

__all__ = ["CropConfig", "Crops"]

_UNVOICED = -1.0


class CropConfig(BaseModel):
    """How long crops are, in frames."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_frames: int = Field(default=64, ge=1)
    max_frames: int = Field(default=128, ge=1)
    pad_to: int | None = Field(
        default=None,
        ge=1,
        description="frames that every batch is padded to; default: its longest crop. Published: "
        "192",
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> CropConfig:
        if self.min_frames > self.max_frames:
            raise ValueError(
                f"min_frames = {self.min_frames} is more than max_frames = {self.max_frames}"
            )
        if self.pad_to is not None and self.pad_to < self.max_frames:
            raise ValueError(
                f"pad_to = {self.pad_to} is less than max_frames = {self.max_frames}: the longest "
                "crops would not fit"
            )
        return self


@dataclass(frozen=True, slots=True)
class Crops:
    """One crop of each utterance per epoch; length and start are functions of (seed, epoch, id).

    Utterances that are not longer than their crop are taken whole.

    Attributes
    ----------
    examples
        Whole utterances: ``features`` (n, n_frames, n_mels + 1), ``n_frames`` and ``speaker`` (n,).
    config
        See :class:`CropConfig`.
    """

    examples: Examples
    config: CropConfig

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the utterances."""
        return self.examples.ids

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> Tensor:
        """Count the frames that a crop of each utterance has at most, (len(self),)."""
        return self.examples.lengths().clamp_max(self.config.max_frames)

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Crop some of the utterances.

        Returns
        -------
        features : (batch, width, n_mels + 1), mel and F0; behind the end of a crop the mel is zero
            and F0 unvoiced, -1
        n_frames : (batch,), frames of each crop
        speaker : (batch,)
        parts
            The features again: what they are to be put together to.
        """
        batch = self.examples.batch(rows)
        whole = batch["features"]
        n_frames = batch["n_frames"].clone()
        starts = []
        for place, row in enumerate(rows.tolist()):
            start, length = self._draw(int(n_frames[place]), row, seed=seed, epoch=epoch)
            starts.append(start)
            n_frames[place] = length
        width = self.config.pad_to or int(n_frames.max())
        features = whole.new_zeros(len(whole), width, whole.shape[2])
        features[..., -1] = _UNVOICED
        for place, (start, length) in enumerate(zip(starts, n_frames.tolist(), strict=True)):
            features[place, :length] = whole[place, start : start + length]
        return {
            "features": features,
            "n_frames": n_frames,
            "speaker": batch["speaker"],
            "parts": features,
        }

    def _draw(self, n_frames: int, row: int, *, seed: int, epoch: int) -> tuple[int, int]:
        """Draw start and length of a crop."""
        drawn = np.random.default_rng(derive_seed(seed, "crop", epoch, self.ids[row]))
        length = int(drawn.integers(self.config.min_frames, self.config.max_frames + 1))
        if n_frames <= length:
            return 0, n_frames
        return int(drawn.integers(0, n_frames - length + 1)), length
