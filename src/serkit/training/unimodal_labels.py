"""Labels that a network gives its own streams: what the training of Self-MM adds to a loop.

A corpus says how positive a clip is as a whole, and seldom how positive its words, its voice and
its face are by themselves. Self-MM (:mod:`serkit.models.self_mm`) makes such labels up. For every
clip of the training part it remembers the features of its four heads, and for every head the mean
feature, the *centre*, of clips with a positive label and of those with a negative one. How much
nearer a clip lies to one centre than to the other says how it leans::

    leaning = (distance to negative - distance to positive) / distance to positive

A stream that leans further than the fused head has a label further out than the clip's own y: the
mean of y * leaning / fused leaning and y + leaning - fused leaning, clipped to the range of the
labels. Labels of epoch n move towards it by 2 / (n + 1).

The order within a batch is part of the definition: loss with the labels as they are;
:meth:`UnimodalLabels.update`, which gives new labels to the batch from the second epoch on (with
the centres as they are), stores its features, and takes all centres anew. Clips not yet seen count,
with features of zeros.

Deviations from the authors' code, which ``floor=0`` otherwise reproduces:

1. Where a stream has no clip of one sign left, its centre there stays the last one that it had, and
   while it never had one, its labels stay as they are. As published, the centre, and then every
   label of the stream, is no number any more: it happens whenever small parts disagree.
2. The fused leaning, by which is divided, is kept from zero by ``floor``. The share of labels that
   are clipped is counted, because clipping hides where the division went.
3. A clip without a stream neither gets a label for it nor counts for its centres.
4. People's labels may stand in for generated ones, or be mixed with them. They never enter the
   generation.

Labels are generated for numbers alone: to lean between a positive and a negative centre, and to be
shifted and stretched, has no counterpart among classes that have no order. Heads of classes learn
what people named, or the class of the clip: :class:`serkit.training.sentiment.ClassCriterion`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from serkit.models.self_mm import STREAMS, SelfMm
from serkit.types import InputError

__all__ = [
    "GROUP_RATES",
    "LABEL_RANGES",
    "GroupRates",
    "UnimodalLabels",
    "UnimodalLabelsConfig",
    "parameter_groups",
    "self_mm_loss",
]

_HEADS = ("fused", *STREAMS)
_POSITIVE, _NEGATIVE = 0, 1

LABEL_RANGES = {"sims": 1.0, "simsv2": 3.0, "mosi": 3.0, "mosei": 3.0}
"""Published largest size of a generated label; that of SIMS v2 is beyond the corpus's own 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnimodalLabelsConfig:
    """How labels of streams are made.

    Attributes
    ----------
    label_range
        Largest size of a generated label.
    distance
        ``l2``: as in the authors' code; ``l2sq``: its square, as in the paper.
    exclude_zero
        Whether a label of 0 counts for neither centre; else it is positive.
    floor
        Least size of the fused leaning where it divides; 0: as published.
    label_source
        ``generated``; ``human``: people's where there are any; ``blend``: of both; ``clip``: that
        of the clip as a whole. Numbers have the first three, classes ``human`` and ``clip``.
    human_share
        Weight of people's labels in a blend.
    """

    label_range: PositiveFloat = 1.0
    distance: Literal["l2", "l2sq"] = "l2"
    exclude_zero: bool = True
    floor: Annotated[float, Field(ge=0)] = 1e-3
    label_source: Literal["generated", "human", "blend", "clip"] = "generated"
    human_share: Annotated[float, Field(ge=0, le=1)] = 0.5


class UnimodalLabels(nn.Module):
    """Labels, features and centres of a training part; all of it is in ``state_dict()``.

    Parameters
    ----------
    labels : (n_clips,), of the clips as a whole
    widths
        Width of each feature, as :attr:`serkit.models.self_mm.SelfMm.feature_widths`.
    config
        See :class:`UnimodalLabelsConfig`.
    human : (n_clips,) each, people's labels by stream; NaN where a clip has none

    Raises
    ------
    InputError
        If labels do not match, are not finite, people's are asked for and there are none, or the
        clip's own are.
    """

    epoch: Tensor
    n_generated: Tensor
    n_clipped: Tensor

    def __init__(
        self,
        labels: Tensor,
        widths: Mapping[str, int],
        *,
        config: UnimodalLabelsConfig,
        human: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        labels = labels.to(torch.float32)
        _check_labels(labels, config, human)
        self.config = config
        for name in _HEADS:
            self.register_buffer(f"labels_{name}", labels.clone())
            self.register_buffer(f"features_{name}", labels.new_zeros(len(labels), widths[name]))
            self.register_buffer(f"centres_{name}", labels.new_zeros(2, widths[name]))
            self.register_buffer(f"has_centre_{name}", torch.zeros(2, dtype=torch.bool))
            self.register_buffer(f"counts_{name}", torch.ones(len(labels), dtype=torch.bool))
        nothing = torch.full_like(labels, math.nan)
        for name in STREAMS:
            theirs = (human or {}).get(name, nothing)
            self.register_buffer(f"human_{name}", theirs.to(labels).clone())
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("n_generated", torch.zeros((), dtype=torch.int64))
        self.register_buffer("n_clipped", torch.zeros((), dtype=torch.int64))

    def labels(self, rows: Tensor) -> dict[str, Tensor]:
        """Give the labels of some clips.

        Parameters
        ----------
        rows : (batch,), places within the training part

        Returns
        -------
        fused, text, audio, vision : (batch,)

        Raises
        ------
        InputError
            If there is no such place.
        """
        rows = self._checked(rows)
        source = self.config.label_source
        share = {"generated": 0.0, "human": 1.0, "blend": self.config.human_share}[source]
        labels = {"fused": self._table("labels", "fused")[rows]}
        for name in STREAMS:
            generated = self._table("labels", name)[rows]
            human = self._table("human", name)[rows]
            mixed = share * human + (1 - share) * generated
            labels[name] = generated if share == 0 else torch.where(human.isnan(), generated, mixed)
        return labels

    @torch.no_grad()
    def update(self, rows: Tensor, outputs: Mapping[str, Tensor], *, epoch: int) -> None:
        """Learn from a batch, after its loss: new labels, features, centres.

        Parameters
        ----------
        rows : (batch,), places within the training part
        outputs
            Of the network: ``feature_fused``, ..., (batch, width); ``present``, (batch, 3), bool,
            where streams may be missing.
        epoch
            From 1; the first gives no labels.

        Raises
        ------
        InputError
            If there is no such place.
        """
        rows = self._checked(rows)
        features = {name: self._feature(name, outputs) for name in _HEADS}
        there = self._there(outputs, rows)
        if epoch != int(self.epoch):
            self.epoch.fill_(epoch)
            self.n_generated.zero_()
            self.n_clipped.zero_()
        if epoch > 1:
            for name in STREAMS:
                self._relabel(name, rows, features, there[name], epoch=epoch)
        for name in _HEADS:
            kept = rows[there[name]]
            self._table("features", name)[kept] = features[name][there[name]]
            self._table("counts", name)[rows] = there[name]
            self._recentre(name)

    @property
    def clipped_share(self) -> float | None:
        """Share of the labels generated so far in this epoch that were clipped; None: no labels."""
        n = int(self.n_generated)
        return int(self.n_clipped) / n if n else None

    def centre(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Give the positive and the negative centre of a head, (width,), where there is one."""
        centres, has = self._table("centres", name), self._table("has_centre", name)
        positive, negative = (centres[sign] if has[sign] else None for sign in (0, 1))
        return positive, negative

    def _relabel(
        self,
        name: str,
        rows: Tensor,
        features: Mapping[str, Tensor],
        there: Tensor,
        *,
        epoch: int,
    ) -> None:
        has_centres = [self._table("has_centre", head).all() for head in ("fused", name)]
        if not all(has_centres):
            return
        label = self._table("labels", "fused")[rows]
        fused, own = (self._leaning(head, features[head]) for head in ("fused", name))
        by_ratio = label * own / (_away_from_zero(fused, self.config.floor) + 1e-8)
        by_shift = label + own - fused
        proposal = 0.5 * by_ratio + 0.5 * by_shift
        limit = self.config.label_range
        table = self._table("labels", name)
        step = 2 / (epoch + 1)
        moved = (1 - step) * table[rows] + step * proposal.clamp(-limit, limit)
        table[rows[there]] = moved[there]
        self.n_generated += there.sum()
        self.n_clipped += ((proposal.abs() > limit) & there).sum()

    def _leaning(self, name: str, features: Tensor) -> Tensor:
        """Compute how much nearer features (batch, width) are to the positive centre, (batch,)."""
        centres = self._table("centres", name)
        offsets = features.unsqueeze(1) - centres  # (batch, 2, width)
        distances: Tensor = torch.linalg.vector_norm(offsets, dim=2)
        if self.config.distance == "l2sq":
            distances = distances.square()
        positive, negative = distances[:, _POSITIVE], distances[:, _NEGATIVE]
        return (negative - positive) / (positive + 1e-8)

    def _recentre(self, name: str) -> None:
        labels, counts = self._table("labels", name), self._table("counts", name)
        positive = labels > 0 if self.config.exclude_zero else labels >= 0
        masks = torch.stack([positive, labels < 0]) & counts  # (2, n_clips)
        n = masks.sum(1)
        features, centres = self._table("features", name), self._table("centres", name)
        means = masks.to(features.dtype) @ features / n.clamp_min(1).unsqueeze(1)
        centres.copy_(torch.where((n > 0).unsqueeze(1), means, centres))
        self._table("has_centre", name).logical_or_(n > 0)

    def _there(self, outputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        everyone = torch.ones(len(rows), len(STREAMS), dtype=torch.bool, device=rows.device)
        present = outputs.get("present", everyone).to(rows.device)
        columns = {name: present[:, column] for column, name in enumerate(STREAMS)}
        return columns | {"fused": everyone[:, 0]}

    def _feature(self, name: str, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs[f"feature_{name}"].detach().to(self._table("features", name))

    def _checked(self, rows: Tensor) -> Tensor:
        n = len(self._table("labels", "fused"))
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n:
            raise InputError(
                f"rows {int(rows.min())} to {int(rows.max())} of a training part of {n} clips: "
                "expected places within it, from 0"
            )
        return rows.to(self.epoch.device)

    def _table(self, kind: str, name: str) -> Tensor:
        table: Tensor = getattr(self, f"{kind}_{name}")
        return table


def self_mm_loss(
    outputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    *,
    weighting: Literal["disagreement", "even"] = "disagreement",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum the absolute errors of the fused output and of the streams.

    As published, the error of a stream counts tanh(|its label - the clip's|) times: a stream is
    taught where it disagrees with the clip. ``even`` counts all errors once, for people's labels.

    Parameters
    ----------
    outputs
        Of the network: ``fused``, ``text``, ``audio``, ``vision``, (batch,) each; ``present``,
        (batch, 3), bool, where streams may be missing: the mean of a stream is over those it has.
    labels
        By the same names, (batch,) each, as :meth:`UnimodalLabels.labels` gives them.

    Returns
    -------
    loss : scalar
    parts
        The summands by name, detached.

    Raises
    ------
    InputError
        If outputs are anything but one number per clip.
    """
    whole = labels["fused"]
    for name in _HEADS:
        if outputs[name].shape != whole.shape:
            raise InputError(
                f"output '{name}' of shape {tuple(outputs[name].shape)} for labels of shape "
                f"{tuple(whole.shape)}: expected one number per clip; for classes use cross_entropy"
            )
    parts = {"fused": (outputs["fused"] - whole).abs().mean()}
    for column, name in enumerate(STREAMS):
        errors = (outputs[name] - labels[name]).abs()
        if weighting == "disagreement":
            errors = (labels[name] - whole).abs().tanh() * errors
        if "present" in outputs:
            present = outputs["present"][:, column]
            # A stream that no clip of the batch has is not taught.
            parts[name] = errors.masked_fill(~present, 0).sum() / present.sum().clamp_min(1)
        else:
            parts[name] = errors.mean()
    fused, *streams = parts.values()
    return sum(streams, start=fused), {name: part.detach() for name, part in parts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRates:
    """Learning rates and weight decays of the parts of the network, and the batch size with them.

    ``accumulate`` batches are summed, not averaged, before each step.
    """

    batch_size: int = 32
    accumulate: int = 4
    text_rate: float = 5e-5
    audio_rate: float = 5e-3
    vision_rate: float = 5e-3
    other_rate: float = 1e-3
    text_decay: float = 1e-3
    audio_decay: float = 1e-2
    vision_decay: float = 1e-2
    other_decay: float = 1e-3


GROUP_RATES: dict[str, GroupRates] = {
    "sims": GroupRates(),
    "simsv2": GroupRates(
        batch_size=16,
        audio_rate=1e-3,
        vision_rate=1e-3,
        text_decay=1e-2,
        audio_decay=0.0,
        vision_decay=0.0,
    ),
    "mosi": GroupRates(batch_size=16, audio_decay=1e-3, vision_decay=1e-3),
    "mosei": GroupRates(vision_rate=1e-4, audio_decay=0.0, vision_decay=0.0, other_decay=1e-2),
}
"""The published rates by corpus, for :class:`torch.optim.Adam`."""


def parameter_groups(
    model: SelfMm, text_encoder: nn.Module | None, rates: GroupRates
) -> list[dict[str, Any]]:
    """Group trained parameters as published, for ``torch.optim.Adam``.

    Parameters
    ----------
    text_encoder
        ``None``: the text's vectors are given, and there are three groups.

    Returns
    -------
    groups
        ``text``, ``text_plain`` (its biases and layer norms, without decay), ``audio`` and
        ``vision`` (their encoders) and ``other`` (all heads), without those that are empty; each
        with ``name``, ``params``, ``lr`` and ``weight_decay``.
    """
    settings = {
        "text": (rates.text_rate, rates.text_decay),
        "text_plain": (rates.text_rate, 0.0),
        "audio": (rates.audio_rate, rates.audio_decay),
        "vision": (rates.vision_rate, rates.vision_decay),
        "other": (rates.other_rate, rates.other_decay),
    }
    found: dict[str, list[nn.Parameter]] = {name: [] for name in settings}
    for name, parameter in text_encoder.named_parameters() if text_encoder is not None else ():
        plain = "bias" in name or "LayerNorm.weight" in name
        found["text_plain" if plain else "text"].append(parameter)
    for name, parameter in model.named_parameters():
        encoder = {"audio_encoder": "audio", "vision_encoder": "vision"}
        found[encoder.get(name.split(".")[0], "other")].append(parameter)
    groups = []
    for name, (rate, decay) in settings.items():
        trained = [parameter for parameter in found[name] if parameter.requires_grad]
        if trained:
            groups.append({"name": name, "params": trained, "lr": rate, "weight_decay": decay})
    return groups


def _away_from_zero(x: Tensor, floor: float) -> Tensor:
    """Give values at least the size of ``floor``, with their sign; 0 counts as positive."""
    size = x.abs().clamp_min(floor)
    return torch.where(x < 0, -size, size)


def _check_labels(
    labels: Tensor, config: UnimodalLabelsConfig, human: Mapping[str, Tensor] | None
) -> None:
    if labels.ndim != 1 or not len(labels) or not labels.isfinite().all():
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: expected one finite number per clip of the "
            "training part"
        )
    for name, theirs in (human or {}).items():
        if name not in STREAMS or theirs.shape != labels.shape:
            raise InputError(
                f"people's labels of '{name}', {tuple(theirs.shape)}: expected those of "
                f"{', '.join(STREAMS)}, {tuple(labels.shape)} each"
            )
    if config.label_source == "clip":
        raise InputError(
            "label_source = clip: numbers have generated labels of streams, people's or both; this "
            "is for classes"
        )
    known = [theirs for theirs in (human or {}).values() if not theirs.isnan().all()]
    if config.label_source != "generated" and not known:
        raise InputError(
            f"label_source = {config.label_source}: the corpus has no label of a stream; set it to "
            "generated"
        )
