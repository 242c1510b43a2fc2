"""Formula weights and inputs of Self-MM, and the authors' numbers for them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serkit.models.self_mm import SelfMm, SelfMmConfig

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "self_mm.json").read_text())
ROLES = {  # of the goldens -> ours
    "audio.": "audio_encoder.",
    "vision.": "vision_encoder.",
    "fusion_head": "heads.fused",
    "text_head": "heads.text",
    "audio_head": "heads.audio",
    "vision_head": "heads.vision",
}
HEADS = {"fused": "M", "text": "T", "audio": "A", "vision": "V"}


def golden_input(*shape: int, offset: int = 0) -> Tensor:
    j = np.arange(1, math.prod(shape) + 1, dtype=np.float64) + offset
    x = np.sin(0.011 * j) + 0.5 * np.cos(0.0031 * j**1.3)
    return torch.from_numpy(x.astype(np.float32)).reshape(shape)


def golden_weight(tensor: dict[str, Any]) -> Tensor:
    i = np.arange(1, math.prod(tensor["shape"]) + 1, dtype=np.float64)
    values = np.sin(0.37 * i + 1.3 * tensor["k"] + 0.05 * i**1.3)
    if tensor["rule"] == "matrix":
        values *= tensor["gain"] / math.sqrt(tensor["fan_in"])
    else:
        values = 0.1 * values + (tensor["rule"] == "norm_gain")
    return torch.from_numpy(values.astype(np.float32)).reshape(tensor["shape"])


def our_name(role: str) -> str:
    for theirs, ours in ROLES.items():
        if role.startswith(theirs):
            return role.replace(theirs, ours, 1)
    return role


def golden_config(sizes: dict[str, Any], **settings: Any) -> SelfMmConfig:
    return SelfMmConfig(
        n_text_features=sizes["text_in"],
        n_audio_features=sizes["audio_in"],
        n_vision_features=sizes["video_in"],
        n_audio_hidden=sizes["a_h"],
        n_vision_hidden=sizes["v_h"],
        n_audio_out=sizes["a_out"],
        n_vision_out=sizes["v_out"],
        n_fused_units=sizes["pf"],
        n_text_units=sizes["pt"],
        n_audio_units=sizes["pa"],
        n_vision_units=sizes["pv"],
        text_dropout=0.0,
        audio_dropout=0.0,
        **settings,
    )


def golden_model(case: dict[str, Any], **settings: Any) -> SelfMm:
    """Build the network of a case; tensors of the text stub are left out."""
    model = SelfMm(golden_config(case["config"], **settings))
    model.load_state_dict(
        {
            our_name(tensor["role"]): golden_weight(tensor)
            for tensor in case["tensors"]
            if not tensor["role"].startswith("text_stub")
        },
        strict=not settings,
    )
    return model


def zeros_behind(x: Tensor, lengths: list[int]) -> Tensor:
    for row, n in zip(x, lengths, strict=True):
        row[n:] = 0
    return x


def golden_batch(case: dict[str, Any]) -> dict[str, Tensor]:
    sizes, n_audio, n_vision = case["config"], case["audio_lengths"], case["vision_lengths"]
    n, (most_audio, most_vision) = len(n_audio), case["padded_lengths"]
    audio = golden_input(n, most_audio, sizes["audio_in"], offset=3000)
    vision = golden_input(n, most_vision, sizes["video_in"], offset=9000)
    return {
        "text": golden_input(n, case["text_positions"], sizes["text_in"]),
        "n_tokens": torch.full((n,), case["text_positions"]),
        "audio": zeros_behind(audio, n_audio),
        "n_audio": torch.tensor(n_audio),
        "vision": zeros_behind(vision, n_vision),
        "n_vision": torch.tensor(n_vision),
    }


def golden_labels(case: dict[str, Any]) -> dict[str, Tensor]:
    golden = case["train_mode_dropout_0"]
    labels = {"fused": golden["labels_M"]} | golden["labels_TAV"]
    return {name: torch.tensor(values) for name, values in labels.items()}


def assert_close(got: Tensor, expected: Any, *, tolerance: float) -> None:
    wanted = torch.tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got.detach(), wanted, rtol=0, atol=tolerance)
