"""Resumable training states: one safetensors file, replaced atomically, never unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from serkit.types import InputError

__all__ = ["TrainingState", "load_state", "save_state"]


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a training needs to go on."""

    model: dict[str, Tensor]
    best: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    meta: dict[str, Any]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Put moments and step counts back; the settings stay the optimizer's own."""
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": self.optimizer, "param_groups": groups})


def save_state(
    path: Path,
    *,
    model: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    meta: Mapping[str, Any],
) -> None:
    """Write a state; a kill at any moment leaves the old one or the new one."""
    tensors = {f"model.{name}": tensor for name, tensor in model.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in values.items()}
    # Contiguous copies: safetensors refuses views that share memory.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"meta": json.dumps(meta)})
    os.replace(part, path)


def load_state(path: Path) -> TrainingState:
    """Read a state.

    Raises
    ------
    InputError
        If the file is not a training state.
    """
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}}
    optimizer: dict[int, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as stored:
            meta = json.loads(stored.metadata()["meta"])
            for key in stored.keys():
                group, _, name = key.partition(".")
                if group == "optimizer":
                    index, _, quantity = name.partition(".")
                    optimizer.setdefault(int(index), {})[quantity] = stored.get_tensor(key)
                else:
                    groups[group][name] = stored.get_tensor(key)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable training state ({error}): remove it to start this member again"
        ) from None
    return TrainingState(groups["model"], groups["best"], optimizer, meta)
