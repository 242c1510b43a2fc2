"""Training of an F0 converter: to say a pitch contour whose timing was taken away from it.

What :class:`.F0Converter` reads is the contour, randomly resampled, and the rhythm of the mel; what
it has to say are the bins of the contour as it came in, by cross-entropy over frames. The authors
published the network and the loss, and no training code.

It is judged on whole utterances in two ways: on a contour that was resampled once, by draws that
are a function of the utterance, and on its own contour, of which nothing is left to be found out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from serkit.models.layers import lengths_to_mask
from serkit.models.resampling import SLOWEST, Draws, RandomResampler
from serkit.models.speech_split import (
    UNVOICED,
    F0Converter,
    F0ConverterConfig,
    SplitSizes,
    f0_bins,
)
from serkit.training.crops import Crops
from serkit.training.data import Examples, derive_seed
from serkit.training.learner import EpochRow, Trainable
from serkit.training.whole import whole_batches

__all__ = [
    "NEAR",
    "ContourCrops",
    "ConverterLearner",
    "contour_scores",
    "contour_seed",
    "judge_converter",
    "resampled_contour",
]

NEAR = 1 / 32
"""Share of the voiced bins that an answer may be off: 8 of 256, which is a quarter of the standard
deviation of an utterance's log-F0."""

_NOT_COUNTED = -100
_PROPORTIONS = tuple(step / 100 for step in range(100))  # of a mixture


class ConverterLearner(Trainable):
    """An :class:`.F0Converter` as the training loop takes it.

    Parameters
    ----------
    config
        See :class:`.F0ConverterConfig`.
    frame_rate
        Frames per second.
    """

    def __init__(self, config: F0ConverterConfig, *, frame_rate: float) -> None:
        super().__init__()
        self.converter = F0Converter(config)
        self.frame_rate = frame_rate

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Say the contours of a batch, ``f0`` (batch * n_frames, n_bins + 1)."""
        outputs = self.converter(batch["features"], batch["n_frames"])
        return {"f0": outputs["f0"].flatten(0, 1)}


@dataclass(frozen=True, slots=True)
class ContourCrops:
    """Crops, with the bins of their pitch as what is to be said.

    Attributes
    ----------
    crops
        See :class:`.Crops`.
    n_bins
        Of voiced frames.
    mask_padding
        Whether frames behind the end of a crop are left out; else they are unvoiced ones.
    """

    crops: Crops
    n_bins: int
    mask_padding: bool

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the utterances."""
        return self.crops.ids

    def __len__(self) -> int:
        return len(self.crops)

    def lengths(self) -> Tensor:
        """Count the frames that a crop of each utterance has at most, (len(self),)."""
        return self.crops.lengths()

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        """Crop some of the utterances; ``bins`` (batch * width,), -100 where nothing is asked."""
        batch = self.crops.training_batch(rows, seed=seed, epoch=epoch)
        bins = f0_bins(batch["features"][..., -1], self.n_bins)
        if self.mask_padding:
            asked = lengths_to_mask(batch["n_frames"], bins.shape[1])
            bins = bins.masked_fill(~asked, _NOT_COUNTED)
        return batch | {"bins": bins.flatten()}


def contour_seed(identity: str) -> int:
    """Give the seed by which an utterance's contour is resampled wherever it is judged."""
    return derive_seed(0, "contour", identity)


def resampled_contour(f0: Tensor, sizes: SplitSizes, *, seed: int) -> Tensor:
    """Take the timing away from a contour, as training does, and keep its length.

    Parameters
    ----------
    f0 : (n_frames,), zero or less where unvoiced
    sizes
        How long segments are.
    seed
        Decides how each is stretched.

    Returns
    -------
    resampled : (n_frames,), -1 where unvoiced, also behind an end that came early
    """
    n_frames, room = len(f0), math.ceil(SLOWEST * len(f0))
    resampler = RandomResampler(min_segment=sizes.min_segment, max_segment=sizes.max_segment)
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 2 * room // 3 // sizes.min_segment + 1)
    draws = Draws(
        torch.rand(shape, generator=generator),
        torch.randint(sizes.min_segment, sizes.max_segment + 1, shape, generator=generator),
    )
    padded = F.pad(f0.masked_fill(f0 <= 0, UNVOICED), (0, room - n_frames))[None, :, None]
    resampled, _ = resampler(padded, torch.tensor([n_frames]), draws)
    contour: Tensor = resampled[0, :n_frames, 0]
    return contour.masked_fill(contour <= 0, -1)


def judge_converter(learner: ConverterLearner, dev: Examples) -> EpochRow:
    """Judge the dev part; its loss is that on resampled contours."""
    resampled = _say(learner.converter, dev, resample=True)
    own = _say(learner.converter, dev, resample=False)
    n_bins = learner.converter.config.sizes.n_f0_bins
    return {
        "dev_loss": resampled.cross_entropy(),
        "dev_loss_own": own.cross_entropy(),
        "dev_voiced": _voiced(resampled.truth, resampled.said, n_bins),
    }


def contour_scores(
    converter: F0Converter, train: Examples, judged: Examples
) -> dict[str, dict[str, float]]:
    """Measure how well contours are said, and what knows less would score.

    Returns
    -------
    scores
        ``resampled`` and ``own``, by what the network reads, see the module's page; ``copy``, which
        answers with the resampled contour frame by frame; ``always``, which gives the commonest bin
        of the training part, and to ``voiced`` the commonest voiced one. Of each:
        ``cross_entropy`` in nats per frame; ``voiced``, the share of voiced frames that are
        answered by a voiced bin at most :data:`NEAR` off; ``voicing``, the share of all frames
        rightly called voiced or not. So that a copy has a finite cross-entropy, it is mixed with
        the shares of the bins in the training part, in the proportion that suits the judged part
        best.
    """
    n_bins = converter.config.sizes.n_f0_bins
    read, own = (_say(converter, judged, resample=resample) for resample in (True, False))
    shares = _bin_shares(train, n_bins)
    likely = shares[read.truth]
    copied = (read.read == read.truth).double()
    mixtures = [-(p * copied + (1 - p) * likely).log().mean().item() for p in _PROPORTIONS]
    commonest = shares.argmax().expand_as(read.truth)
    commonest_voiced = (1 + shares[1:].argmax()).expand_as(read.truth)
    return {
        way: {
            "cross_entropy": cross_entropy,
            "voiced": _voiced(read.truth, voiced, n_bins),
            "voicing": float(((said > 0) == (read.truth > 0)).double().mean()),
        }
        for way, cross_entropy, said, voiced in (
            ("resampled", read.cross_entropy(), read.said, read.said),
            ("own", own.cross_entropy(), own.said, own.said),
            ("copy", min(mixtures), read.read, read.read),
            ("always", float(-likely.log().mean()), commonest, commonest_voiced),
        )
    }


@dataclass(frozen=True, slots=True)
class _Said:
    """Frames of all utterances, one after the other: bins, and what the right one was given."""

    truth: Tensor
    read: Tensor
    said: Tensor
    log_likelihood: Tensor

    def cross_entropy(self) -> float:
        return float(-self.log_likelihood.double().mean())


@torch.inference_mode()
def _say(converter: F0Converter, examples: Examples, *, resample: bool) -> _Said:
    """Let the network say contours, of which it reads the resampled ones or themselves."""
    converter.eval()
    device = next(converter.parameters()).device
    sizes = converter.config.sizes
    collected: list[tuple[Tensor, ...]] = []
    for rows, batch in whole_batches(examples, alone=not converter.config.pack):
        features, n_frames = batch["features"].clone(), batch["n_frames"]
        truth = f0_bins(features[..., -1], sizes.n_f0_bins)
        if resample:
            for place, row in enumerate(rows.tolist()):
                n, seed = int(n_frames[place]), contour_seed(examples.ids[row])
                f0 = features[place, :n, -1]
                features[place, :n, -1] = resampled_contour(f0, sizes, seed=seed)
        logits = converter(features.to(device), n_frames.to(device))["f0"].float().cpu()
        given = logits.log_softmax(2).gather(2, truth.unsqueeze(2)).squeeze(2)
        valid = lengths_to_mask(n_frames, truth.shape[1])
        read = f0_bins(features[..., -1], sizes.n_f0_bins)
        collected.append(tuple(x[valid] for x in (truth, read, logits.argmax(2), given)))
    return _Said(*(torch.cat(frames) for frames in zip(*collected, strict=True)))


def _voiced(truth: Tensor, said: Tensor, n_bins: int) -> float:
    """Give the share of voiced frames that are answered nearly right; 0 where there are none."""
    near = (said > 0) & ((said - truth).abs() <= NEAR * n_bins)
    return float(near[truth > 0].double().mean()) if (truth > 0).any() else 0.0


def _bin_shares(examples: Examples, n_bins: int) -> Tensor:
    """Count how often each bin occurs, and once more, (n_bins + 1,); shares sum to 1."""
    counts = torch.ones(n_bins + 1, dtype=torch.float64)
    for _, batch in whole_batches(examples, alone=False):
        bins = f0_bins(batch["features"][..., -1], n_bins)
        valid = lengths_to_mask(batch["n_frames"], bins.shape[1])
        counts += torch.bincount(bins[valid], minlength=n_bins + 1)
    return counts / counts.sum()
