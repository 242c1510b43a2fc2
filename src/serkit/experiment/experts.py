"""Single experts of a mixture as recognizers of their own, and recognizers joined from experts.

An expert says with one logit z whether its emotion is there. As a recognizer it has two classes,
the emotion and ``not <emotion>``, whose logits are z and 0: their softmax is the sigmoid of z. What
experts share with each other is in each.

Experts that share nothing may be joined from several runs or epochs; those that share a trunk only
with the experts they were trained with. Either way the network was never trained or selected as a
whole, so what is joined is called *post-hoc assembled*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from serkit.checkpoints import find_checkpoint
from serkit.labels import classes_of
from serkit.models import model_to_dict
from serkit.models.expert_fusion import FusionNet, split_experts
from serkit.models.expert_fusion import join_experts as join_weights
from serkit.recognizer import Recognizer, load_recognizer
from serkit.types import InputError

__all__ = ["ASSEMBLED", "expert_class", "expert_truth", "export_experts", "join_experts"]

ASSEMBLED = "post-hoc assembled"

_BACKBONE_SETTINGS = {
    "light_sernet": ("dropout", "width"),
    "light_sernet_port": ("dropout", "width"),
    "macnn": ("n_heads", "n_hidden", "width"),
}
_CLASSIFIER = ("stages.6.conv.weight", "stages.6.conv.bias")


def expert_class(recognizer: Recognizer) -> str | None:
    """Name the class that an exported expert is for; ``None`` where it is no single expert."""
    classes = recognizer.labels.classes
    is_expert = "expert_of" in recognizer.config.trained_on
    return classes[0] if is_expert and classes[1:] == (_other(classes[0]),) else None


def expert_truth(label: str | None, expert_class: str) -> str | None:
    """Say what is true of an utterance for an expert: everything but its class is the other one.

    >>> expert_truth("angry", "angry"), expert_truth("happy+sad", "angry")
    ('angry', 'not angry')
    """
    held = classes_of(label)
    return None if not held else expert_class if expert_class in held else _other(expert_class)


def _other(label: str) -> str:
    return f"not {label}"


def export_experts(source: Path | str, out: Path) -> list[Path]:
    """Write each expert of a trained recognizer as a checkpoint of its own.

    Parameters
    ----------
    source
        Checkpoint folder, run folder, or name.
    out
        Folder to write; must not exist, or be empty. Each class has a folder in it.

    Returns
    -------
    folders, in the order of the classes

    Raises
    ------
    InputError
        If there is no such checkpoint, its network has no experts with a class each, or ``out``
        holds something or cannot be written.
    """
    mixture = load_recognizer(source)
    model = mixture.model
    if not isinstance(model, FusionNet) or model.copies[-1][1] == 1:
        raise InputError(
            f"{source}: its network ({mixture.model_name}) has no expert per class: export from a "
            "mixture of experts or forward fusion (networks/level-0, networks/forward-1 to -6)"
        )
    _require_empty(out)
    folders = []
    origin = str(find_checkpoint(source))
    for label, weights in zip(mixture.labels.classes, split_experts(model), strict=True):
        expert = _alone(mixture, model, label, weights, origin=origin)
        card = (
            f"# {expert.config.system}\n\nOne expert, taken out of {origin}. Its score for "
            f"*{label}* is the one it had there as an expert; it competes with no other expert.\n"
        )
        # A label may hold what no name of a folder can.
        name = quote(label, safe=" ").replace(".", "%2E")
        folders.append(_save(expert, out / name, card=card))
    return folders


def join_experts(sources: Sequence[Path | str], out: Path) -> Path:
    """Join exported experts, one per class, into one recognizer.

    Parameters
    ----------
    sources
        Folders that :func:`export_experts` wrote.
    out
        Checkpoint folder to write; must not exist, or be empty.

    Raises
    ------
    InputError
        If a folder holds no exported expert, two are of one class, they hear or are built
        differently, share a trunk in which they differ, came from a network with a final layer, or
        ``out`` holds something or cannot be written.
    """
    if len(sources) < 2:
        raise InputError(f"got {len(sources)} expert, expected one for each of two or more classes")
    experts = sorted((_Expert.load(source) for source in sources), key=lambda e: e.label)
    _require_fitting(experts)
    _require_empty(out)
    first = experts[0].recognizer
    names = [str(e.recognizer.config.trained_on.get("name", "")) for e in experts]
    joined = Recognizer(
        replace(
            first.config,
            system=f"{experts[0].origin['system']}, {ASSEMBLED}",
            classes=tuple(e.label for e in experts),
            model=dict(experts[0].origin["model"]) | {"n_classes": len(experts)},
            multi_label=experts[0].origin["multi_label"],
            trained_on={
                "name": "+".join(names),
                "origin": ASSEMBLED,
                "sources": [e.recognizer.config.trained_on for e in experts],
                "protocol": {"warnings": [ASSEMBLED]},
            },
        )
    )
    assert isinstance(joined.model, FusionNet)
    joined.norm.load_state_dict(first.norm.state_dict())
    join_weights(joined.model, [expert.weights() for expert in experts])
    lines = "".join(f"* {e.label}: {e.origin['checkpoint']}\n" for e in experts)
    card = (
        f"# {joined.config.system}\n\n**{ASSEMBLED.upper()}**\n\nJoined from experts that were "
        "not trained or selected as one network; no score of it is known.\n\n" + lines
    )
    return _save(joined, out, card=card)


@dataclass(frozen=True, slots=True)
class _Expert:
    """An exported expert; ``origin`` says what network it was taken from."""

    source: str
    label: str
    origin: Mapping[str, Any]
    recognizer: Recognizer

    @classmethod
    def load(cls, source: Path | str) -> _Expert:
        """Load an exported expert.

        Raises
        ------
        InputError
            If the checkpoint is none, does not say what it was taken from, or was taken from a
            network with a final layer.
        """
        recognizer = load_recognizer(source)
        origin = recognizer.config.trained_on.get("expert_of")
        if origin is None:
            raise InputError(f"{source}: is no single expert: export some with export-experts")
        told = {"checkpoint", "head", "model", "multi_label", "system"}
        if (
            not isinstance(origin, Mapping)
            or not told <= origin.keys()
            or not isinstance(origin["model"], Mapping)
            or origin["model"].get("name") != "expert_fusion"
        ):
            raise InputError(
                f"{source}: trained_on.expert_of is damaged: expected {', '.join(sorted(told))} of "
                "an expert_fusion network; export the expert again"
            )
        if origin["head"] != "concat":
            raise InputError(
                f"{source}: was trained below a final layer, which an expert alone does not have: "
                "join experts of a network without one"
            )
        return cls(str(source), recognizer.labels[0], origin, recognizer)

    def weights(self) -> dict[str, Tensor]:
        """Give the weights as :func:`split_experts` does, with the one logit."""
        state = self.recognizer.model.state_dict()
        return state | {name: state[name][:1] for name in _CLASSIFIER}

    def hearing(self) -> tuple[Any, ...]:
        """Give what experts of one recognizer have in common, beside its shared stages."""
        recognizer, origin = self.recognizer, self.origin
        return (
            recognizer.front_end_settings(),
            recognizer.view,
            recognizer.config.normalise,
            recognizer.config.channel,
            {k: v for k, v in origin["model"].items() if k != "n_classes"},
            origin["multi_label"],
        )


def _alone(
    mixture: Recognizer,
    model: FusionNet,
    label: str,
    weights: dict[str, Tensor],
    *,
    origin: str,
) -> Recognizer:
    """Build the recognizer of one expert."""
    fusion = model_to_dict(model)
    backbone = fusion["backbone"]
    trained_on = dict(mixture.config.trained_on)
    view = dict(mixture.config.view)
    if view["kind"] == "segments":
        view["aggregation"] = "average_no_softmax"  # what an expert is judged by
    expert = Recognizer(
        replace(
            mixture.config,
            system=f"{mixture.config.system}, expert {label}",
            classes=(label, _other(label)),
            view=view,
            model={"name": backbone}
            | {name: fusion[name] for name in _BACKBONE_SETTINGS[backbone]},
            multi_label=False,
            trained_on=trained_on
            | {
                "name": f"{trained_on.get('name', mixture.config.system)}-{label}",
                "expert_of": {
                    "checkpoint": origin,
                    "system": mixture.config.system,
                    "head": model.config.head,
                    "multi_label": mixture.config.multi_label,
                    "model": {
                        "name": "expert_fusion",
                        **{name: fusion[name] for name in _BACKBONE_SETTINGS[backbone]},
                        "backbone": backbone,
                        "share_until": fusion["share_until"],
                    },
                },
            },
        )
    )
    own = {name: tensor for name, tensor in weights.items() if name.startswith("stages.")}
    for name in _CLASSIFIER:
        own[name] = torch.cat([own[name], torch.zeros_like(own[name])])
    expert.model.load_state_dict(own)
    expert.norm.load_state_dict(mixture.norm.state_dict())
    return expert.eval()


def _require_fitting(experts: Sequence[_Expert]) -> None:
    """Refuse experts that cannot be of one network."""
    first = experts[0]
    for before, expert in pairwise(experts):
        if expert.label == before.label:
            raise InputError(
                f"{before.source} and {expert.source} are both experts for '{expert.label}': give "
                "one for each class"
            )
    for expert in experts[1:]:
        alike = expert.hearing() == first.hearing()
        norm = expert.recognizer.norm.state_dict()
        for name, statistic in first.recognizer.norm.state_dict().items():
            alike = alike and torch.equal(norm[name], statistic)
        if not alike:
            raise InputError(
                f"{first.source} and {expert.source} differ in front end, view, normalisation or "
                "network: join experts that hear alike and are built alike"
            )


def _require_empty(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder: choose another --out")


def _save(recognizer: Recognizer, folder: Path, *, card: str) -> Path:
    try:
        return recognizer.save(folder, card=card)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
