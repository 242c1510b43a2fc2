"""Mixtures of experts and fusion networks: copies of a backbone, shared before, merged after.

As in the public code ``adbailey1/moe`` (2022 to 2025), with which this file agrees in logits,
losses, gradients and batch-norm statistics. No paper with scores of it is known.

A backbone is seven stages (``macnn.py``, ``light_sernet_port.py``, ``light_sernet.py``). Here the
stages up to ``share_until`` exist once, those from ``merge_at`` on exist once, and those between
exist once per expert:

* a mixture of experts (nothing shared, nothing merged) has one whole network per class, whose one
  logit says "this emotion or not"; the logits side by side are those of the classes, and each
  expert has a loss of its own besides. No gate chooses between experts: all of them always speak;
* forward fusion shares the first stages;
* backward fusion joins the experts' channels, from where one wider stage and the rest of the
  backbone go on. Its experts belong to no class;
* both together make an hourglass, which was not published.

:func:`published_settings` translates the published ``FUSION_LEVEL``.

Experts side by side are one grouped operation: their channels stand one after the other, a
convolution has a group per expert, and batch norm, which knows nothing of neighbours, is that of
each. :func:`split_experts` and :func:`join_experts` convert to and from weights of one each.
On a CPU this saves overhead and memory traffic, not arithmetic; see ``docs/performance.md``.

Parameters with batch-norm statistics: 1,091,447 (mixture of MACNN experts, 7 classes, any number of
features). Without them, for 4 classes: 621,764 (MACNN) and 1,691,652 (port); fused at level 3
564,740 and 1,465,860, at level -4 295,604 and 981,444 (the published class counts 1,024 more there,
of layers that it never uses).

Deviations, none of which touches the published setting:

1. Any number of classes (published: 4) and, where they are merged, of experts.
2. Lengths are respected as by the backbones.
3. The published port puts a sigmoid before the classifier in backward fusion, and only there:
   ``sigmoid_embedding``, off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import to_image
from serkit.models.light_sernet import LightSernetConfig, light_sernet_stages
from serkit.models.light_sernet_port import LightSernetPortConfig, light_sernet_port_stages
from serkit.models.macnn import MIN_SIZE, MacnnConfig, macnn_stages
from serkit.types import InputError

__all__ = [
    "Backbone",
    "ExpertFusionConfig",
    "FusionNet",
    "join_experts",
    "published_settings",
    "split_experts",
]

Backbone = Literal["macnn", "light_sernet_port", "light_sernet"]

N_STAGES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFusionConfig:
    """Shape of the network; the default is a mixture of whole MACNN experts."""

    n_features: Annotated[int, Field(ge=MIN_SIZE)] = 26
    n_classes: PositiveInt = 4
    backbone: Backbone = "macnn"
    n_experts: PositiveInt | None = None  # one per class
    # Stages 1 to share_until are common to all experts; 7: there are none.
    share_until: Annotated[int, Field(ge=0, le=N_STAGES)] = 0
    # Stages from merge_at on exist once and see all experts' channels; 8: never merged.
    merge_at: Annotated[int, Field(ge=2, le=N_STAGES + 1)] = N_STAGES + 1
    # concat: experts' logits are the classes'. mixer: a linear layer on their sigmoids.
    head: Literal["concat", "mixer"] = "concat"
    mixer_bias: bool = True
    sigmoid_embedding: bool = False
    n_heads: PositiveInt = 4  # of MACNN
    n_hidden: PositiveInt = 64  # of a head of MACNN
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # of both Light-SERNets
    width: PositiveFloat = 1.0  # factor of all widths


def published_settings(
    backbone: Backbone, level: int | None, *, final_layer: bool = False
) -> dict[str, Any]:
    """Translate a published ``FUSION_LEVEL`` into settings of the model ``expert_fusion``.

    Parameters
    ----------
    backbone
        ``macnn`` or ``light_sernet_port``.
    level
        0: a mixture of whole experts. 1 to 6: that many stages are shared. -2 to -7: merged at that
        stage. -1: no experts, twice the width (22 for the published port). ``None``: the backbone.
    final_layer
        ``SKIP_FINAL_FC`` turned off: a linear layer mixes the experts' sigmoids.

    Raises
    ------
    InputError
        If there is no such level, or it has no experts that a final layer could mix.
    """
    if level is not None and not -N_STAGES <= level < N_STAGES:
        raise InputError(
            f"fusion level is {level}, expected 0 (mixture of experts), 1 to 6 (forward fusion), "
            "-7 to -2 (backward fusion) or -1 (no experts, twice the width)"
        )
    if final_layer and (level is None or level < 0):
        raise InputError(f"fusion level {level} has no final layer; levels 0 to 6 have one")
    settings: dict[str, Any] = {"backbone": backbone}
    if level is None or level == -1:
        return settings | {"share_until": N_STAGES, "width": 1 if level is None else 2}
    if level < 0:
        return settings | {
            "merge_at": -level,
            "sigmoid_embedding": backbone == "light_sernet_port",
        }
    settings["share_until"] = level
    if final_layer:
        settings["head"] = "mixer"
        settings["mixer_bias"] = backbone == "light_sernet_port" or level == 0
    return settings


def _copies(config: ExpertFusionConfig) -> list[tuple[int, int]]:
    """Count the copies that enter and leave each stage."""
    n_experts = config.n_experts or config.n_classes
    copied = range(config.share_until + 1, config.merge_at)
    leaving = [n_experts if stage in copied else 1 for stage in range(1, N_STAGES + 1)]
    return list(zip([1, *leaving], leaving, strict=False))


def _check(config: ExpertFusionConfig) -> None:
    """Refuse settings that contradict each other."""
    if config.share_until == N_STAGES:
        if config.merge_at <= N_STAGES or config.head == "mixer":
            raise InputError(
                "model.share_until = 7: without experts nothing can be merged or mixed; "
                "leave merge_at and head out, or share less"
            )
        return
    if config.share_until >= config.merge_at - 1:
        raise InputError(
            f"model.merge_at = {config.merge_at}: no stage is left to experts when stages up to "
            f"{config.share_until} are shared; merge at {config.share_until + 2} or later"
        )
    if config.merge_at <= N_STAGES:
        if config.head == "mixer":
            raise InputError(
                "model.head = 'mixer': experts that are merged have no logits to mix; "
                "leave merge_at or head out"
            )
    elif config.n_experts not in (None, config.n_classes):
        raise InputError(
            f"model.n_experts = {config.n_experts}: experts that are not merged have a class each, "
            f"expected {config.n_classes}; leave n_experts out"
        )


def _stages(config: ExpertFusionConfig, copies: list[tuple[int, int]]) -> nn.ModuleList:
    """Build the backbone's stages."""
    n_outputs = 1 if copies[-1][1] > 1 or _has_experts(config) else config.n_classes
    match config.backbone:
        case "macnn":
            macnn = MacnnConfig(
                n_heads=config.n_heads, n_hidden=config.n_hidden, width=config.width
            )
            return macnn_stages(macnn, copies, n_outputs=n_outputs)
        case "light_sernet_port":
            port = LightSernetPortConfig(dropout=config.dropout, width=config.width)
            return light_sernet_port_stages(port, copies, n_outputs=n_outputs)
        case "light_sernet":
            original = LightSernetConfig(dropout=config.dropout, width=config.width)
            return light_sernet_stages(original, copies, n_outputs=n_outputs)


def _has_experts(config: ExpertFusionConfig) -> bool:
    """Tell whether experts give logits of their own."""
    return config.share_until < N_STAGES < config.merge_at


class FusionNet(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`ExpertFusionConfig`.

    Attributes
    ----------
    copies
        For each of the seven stages, how many copies enter and leave it.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: ExpertFusionConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.copies = _copies(config)
        self.stages = _stages(config, self.copies)
        self.mixer: nn.Linear | None = None
        if config.head == "mixer":
            self.mixer = nn.Linear(config.n_classes, config.n_classes, bias=config.mixer_bias)

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features)
        n_frames : (batch,), valid frames of each utterance; the rest is padding

        Returns
        -------
        emotion : (batch, n_classes), logits
        experts : (batch, n_classes), each expert's logit for "this emotion", unless merged
        embedding : (batch, n_channels), what the classifier sees, expert by expert
        """
        x, n = to_image(features, n_frames), n_frames
        for stage in self.stages[:-1]:
            x, n = stage(x, n)
        embedding = torch.sigmoid(x) if self.config.sigmoid_embedding else x
        logits, _ = self.stages[-1](embedding, n)
        outputs = {"emotion": logits, "embedding": embedding}
        if _has_experts(self.config):
            outputs["experts"] = logits
        if self.mixer is not None:
            outputs["emotion"] = self.mixer(torch.sigmoid(logits))
        return outputs

    def n_copies(self, key: str) -> int:
        """Count the experts whose weights lie one after the other in an entry of the state."""
        part, _, rest = key.partition(".")
        return self.copies[int(rest.split(".")[0])][1] if part == "stages" else 1


def split_experts(model: FusionNet) -> list[dict[str, Tensor]]:
    """Give each expert's weights, with all that is shared in each.

    Those of a network that neither merges nor mixes are the weights of the backbone with one
    output: ``Macnn(MacnnConfig(n_classes=1))`` loads them.

    Returns
    -------
    states : one state per expert, in order
    """
    n_experts = max(n_out for _, n_out in model.copies)
    states: list[dict[str, Tensor]] = [{} for _ in range(n_experts)]
    for key, tensor in model.state_dict().items():
        shared = tensor.ndim == 0 or model.n_copies(key) == 1
        parts = [tensor] * n_experts if shared else tensor.chunk(n_experts)
        for state, part in zip(states, parts, strict=True):
            state[key] = part.clone()
    return states


def join_experts(model: FusionNet, states: Sequence[dict[str, Tensor]]) -> None:
    """Put experts' weights, as :func:`split_experts` gives them, into a network.

    Raises
    ------
    InputError
        If there are more or fewer experts than in the network, an entry is missing or unknown, or
        experts disagree on what they share.
    """
    n_experts = max(n_out for _, n_out in model.copies)
    if len(states) != n_experts:
        raise InputError(f"got weights of {len(states)} experts, expected {n_experts}")
    keys = model.state_dict().keys()
    for number, state in enumerate(states):
        if state.keys() != keys:
            key = min(state.keys() ^ keys)
            problem = f"unknown entry '{key}'" if key in state else f"no entry '{key}'"
            raise InputError(f"expert {number} has {problem}: join experts of the same network")
    joined = {}
    for key in keys:
        parts = [state[key] for state in states]
        if parts[0].ndim == 0:  # batch norm's count of batches, which nothing depends on
            joined[key] = parts[0]
        elif model.n_copies(key) > 1:
            joined[key] = torch.cat(parts)
        elif all(torch.equal(part, parts[0]) for part in parts):
            joined[key] = parts[0]
        else:
            raise InputError(
                f"experts differ in '{key}', which they share here: join experts that were trained "
                "with these stages in common, or share fewer"
            )
    model.load_state_dict(joined)
