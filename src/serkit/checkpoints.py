"""The folder that every trained network is kept in: its settings, its weights and a card.

A folder is a checkpoint once ``config.json`` is in it, which is written last. Nothing is ever
unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.files import replacing, write_atomically
from serkit.types import InputError

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "load_tensors",
    "save_tensors",
    "write_checkpoint",
]

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


def write_checkpoint(
    folder: Path, *, config: Mapping[str, Any], weights: Mapping[str, Tensor], card: str
) -> Path:
    """Write a checkpoint; a kill leaves the old one, or none."""
    folder.mkdir(parents=True, exist_ok=True)
    # Weights first: a folder without config.json is not a checkpoint yet.
    save_tensors(folder / WEIGHTS_FILE, weights)
    write_atomically(folder / CARD_FILE, card)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CONFIG_FILE, text)
    return folder


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a file, which is there whole or not at all."""
    with replacing(path) as part:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
