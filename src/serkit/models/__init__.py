"""One file per published system, named in one explicit dict.

A model maps features and their lengths, and text where it reads any, to a dict of named outputs:
``emotion`` (logits) always, ``embedding`` (the vector before the classifier) where it has one.
Adding a model is one file here, one line below; ``tests/models/test_contract.py`` does the rest.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from serkit.models.decomposed import Decomposed, DecomposedConfig
from serkit.models.expert_fusion import ExpertFusionConfig, FusionNet
from serkit.models.layers import build_in_bounds
from serkit.models.light_sernet import LightSernet, LightSernetConfig
from serkit.models.light_sernet_port import LightSernetPort, LightSernetPortConfig
from serkit.models.macnn import Macnn, MacnnConfig
from serkit.models.mmer import Mmer, MmerConfig
from serkit.models.pooled import Pooled, PooledConfig
from serkit.models.timnet import TimNet, TimNetConfig
from serkit.settings import checked
from serkit.types import InputError

__all__ = ["MODELS", "build_model", "model_to_dict"]

MODELS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "decomposed": (Decomposed, DecomposedConfig),
    "expert_fusion": (FusionNet, ExpertFusionConfig),
    "light_sernet": (LightSernet, LightSernetConfig),
    "light_sernet_port": (LightSernetPort, LightSernetPortConfig),
    "macnn": (Macnn, MacnnConfig),
    "mmer": (Mmer, MmerConfig),
    "pooled": (Pooled, PooledConfig),
    "timnet": (TimNet, TimNetConfig),
}


def build_model(name: str, settings: dict[str, Any]) -> nn.Module:
    """Build a model from its name and settings.

    Raises
    ------
    InputError
        If the name or a setting is unknown, a value is of the wrong kind, or the network is too
        large.
    """
    if name not in MODELS:
        raise InputError(f"model.name is '{name}', expected one of {', '.join(sorted(MODELS))}")
    model, config = MODELS[name]
    return build_in_bounds(model, checked(config, settings, where="model"))


def model_to_dict(model: nn.Module) -> dict[str, Any]:
    """Give the settings that :func:`build_model` rebuilds the model from."""
    return asdict(model.config)  # type: ignore[call-overload,no-any-return]
