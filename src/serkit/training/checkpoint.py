"""Resumable training states: one safetensors file, replaced atomically, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from serkit.files import replacing
from serkit.types import InputError

__all__ = ["TrainingState", "load_state", "save_state"]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a training needs to go on."""

    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[str, dict[str, Tensor]]
    criterion: dict[str, Tensor]
    meta: dict[str, Any]


def save_state(
    path: Path,
    *,
    model: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: Mapping[str, Mapping[str, Tensor]],
    meta: Mapping[str, Any],
    criterion: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a state; a kill at any moment leaves the old one or the new one.

    Parameters
    ----------
    optimizer
        Parameter by parameter, its moments and step count. Keys hold no dot.
    meta
        Plain objects for JSON.
    criterion
        What the loss remembers from batch to batch.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"criterion.{name}": tensor for name, tensor in (criterion or {}).items()}
    for key, values in optimizer.items():
        tensors |= {f"optimizer.{key}.{name}": tensor for name, tensor in values.items()}
    # Contiguous copies: safetensors refuses views that share memory.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={"meta": json.dumps(meta)})


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises
    ------
    InputError
        If the file is not a training state.
    """
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "criterion": {}}
    optimizer: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as stored:
            meta = json.loads(stored.metadata()["meta"])
            for key in stored.keys():
                group, _, name = key.partition(".")
                if group == "optimizer":
                    index, _, quantity = name.partition(".")
                    optimizer.setdefault(index, {})[quantity] = stored.get_tensor(key)
                else:
                    groups[group][name] = stored.get_tensor(key)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable training state ({error}): remove it to start this member again"
        ) from None
    return TrainingState(groups["model"], groups["best"], optimizer, groups["criterion"], meta)
