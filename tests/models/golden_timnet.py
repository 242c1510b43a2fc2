"""Golden numbers of TIM-Net: what the authors' network gives for formula weights and inputs.

Not a test module: ``conftest.py`` hands it out as the fixture ``goldens``.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from serkit.models.timnet import TimNet, TimNetConfig

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "timnet.json").read_text())
CONFIGS = GOLDEN["configs"]


def golden_input(shape: list[int]) -> torch.Tensor:
    n = int(np.prod(shape))
    i = np.arange(1, n + 1, dtype=np.float64)
    b = np.arange(n) // (n // shape[0])
    u = np.sin(0.011 * i) + 0.5 * np.cos(0.0031 * i**1.3)
    return torch.from_numpy((u * (1 + 0.5 * b) + 0.3 * b).astype(np.float32)).reshape(shape)


def golden_fill(k: int, role: str, shape: list[int]) -> torch.Tensor:
    n = int(np.prod(shape))
    s = np.sin(0.37 * np.arange(1, n + 1, dtype=np.float64) ** 1.5 + 1.3 * k)
    kind = role.rsplit(".", 1)[-1]
    if role == "fusion.weight":
        values = 0.5 + 0.3 * s
    elif kind == "kernel":
        gain = 2.0
        if ".block" in role and ".conv1." in role:
            gain *= 1.5 ** int(role.split(".block")[1].split(".")[0])
        values = gain / np.sqrt(np.prod(shape[:-1])) * s
    elif kind in ("bias", "beta", "mean"):
        values = 0.1 * s
    elif kind == "gamma":
        values = 1 + 0.1 * s
    else:
        values = 1 + 0.5 * s**2
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def our_tensor(model: TimNet, role: str) -> torch.Tensor:
    """Find the tensor of the network that a golden role names."""
    if role == "fusion.weight":
        return model.scale_weight
    if role.startswith("head."):
        return model.head.weight if role.endswith("kernel") else model.head.bias
    part, *rest = role.split(".")
    if part == "entry":
        conv = {"fwd": model.forward_chain, "bwd": model.backward_chain}[rest[0]].entry
        return conv.weight if rest[1] == "kernel" else conv.bias
    chain = {"fwd": model.forward_chain, "bwd": model.backward_chain}[part]
    block = chain.blocks[int(rest[0].removeprefix("block"))]
    half = block.first if rest[1].endswith("1") else block.second
    owner, name = (
        (half.conv, {"kernel": "weight", "bias": "bias"})
        if rest[1].startswith("conv")
        else (
            half.norm,
            {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"},
        )
    )
    return getattr(owner, name[rest[2]])


def to_ours(role: str, value: torch.Tensor) -> torch.Tensor:
    """Keras layout to torch layout."""
    if role == "fusion.weight":
        return value[:, 0]
    if role.endswith("kernel"):
        return value.permute(*range(value.dim() - 1, -1, -1))
    return value


def golden_model(golden: dict, dtype: torch.dtype) -> TimNet:
    model = TimNet(
        TimNetConfig(n_classes=golden["classes"], n_scales=golden["n_scales"], dropout=0.0)
    )
    for k, (role, shape, total, _) in enumerate(golden["tensors"]):
        value = golden_fill(k, role, shape)
        assert value.double().sum().item() == pytest.approx(total, rel=1e-4, abs=1e-4), role
        with torch.no_grad():
            our_tensor(model, role).copy_(to_ours(role, value))
    return model.to(dtype)
