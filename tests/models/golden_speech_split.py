"""Golden numbers of SpeechSplit, its F0 converter and resampler, for formula weights and inputs.

Not a test module: ``test_speech_split.py`` imports it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from serkit.models.resampling import Draws
from serkit.models.speech_split import (
    F0Converter,
    F0ConverterConfig,
    SpeechSplit,
    SpeechSplitConfig,
    SplitSizes,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "speechsplit.json").read_text())
CASES = GOLDEN["cases"]
Case = dict[str, Any]
ROLES = {  # of the goldens -> ours
    "kernel": "conv.weight",
    "groupnorm_gain": "norm.weight",
    "groupnorm_bias": "norm.bias",
    "bias": "conv.bias",
}


def golden_sizes(case: Case) -> SplitSizes:
    c = case["config"]
    return SplitSizes(
        n_mels=c["dim_freq"],
        n_f0_bins=c["dim_f0"] - 1,
        content_width=c["dim_enc"],
        rhythm_width=c["dim_enc_2"],
        pitch_width=c["dim_enc_3"],
        content_units=c["dim_neck"],
        rhythm_units=c["dim_neck_2"],
        pitch_units=c["dim_neck_3"],
        content_step=c["freq"],
        rhythm_step=c["freq_2"],
        pitch_step=c["freq_3"],
        decoder_units=c["decoder_units_per_direction"],
        group_width=c["chs_grp"],
        min_segment=c["min_len_seg"],
        max_segment=c["max_len_seg"] - 1,
    )


def golden_split(case: Case, dtype: torch.dtype) -> SpeechSplit:
    config = SpeechSplitConfig(
        sizes=golden_sizes(case),
        timbre="one_hot",
        n_speakers=case["config"]["dim_spk_emb"],
        pack=False,
    )
    model = SpeechSplit(config)
    model.load_state_dict(golden_weights(case["tensors_generator"]))
    return model.to(dtype)


def golden_converter(case: Case, dtype: torch.dtype) -> F0Converter:
    units = case["config"]["f0_decoder_units_per_direction"]
    config = F0ConverterConfig(sizes=golden_sizes(case), decoder_units=units, pack=False)
    model = F0Converter(config)
    model.load_state_dict(golden_weights(case["tensors_f0_converter"]))
    return model.to(dtype)


def our_name(role: str) -> str:
    part, layer, kind = role.split(".")
    if layer.startswith("conv"):
        layer, kind = f"blocks.{layer.removeprefix('conv')}", ROLES[kind]
    layer = layer.replace("blstm", "lstm")
    part = part if part == "decoder" else f"decomposer.encoders.{part}"
    return f"{part}.{layer}.{kind}"


def golden_weights(tensors: list[dict[str, Any]]) -> dict[str, Tensor]:
    state = {}
    for tensor in tensors:
        i = np.arange(1, math.prod(tensor["shape"]) + 1, dtype=np.float64)
        values = np.sin(0.37 * i + 1.3 * tensor["k"] + 0.05 * i**1.3)
        if tensor["rule"] == "matrix":
            values *= tensor["gain"] / math.sqrt(tensor["fan_in"])
        else:
            values = 0.1 * values + (tensor["rule"] == "norm_gain")
        weight = torch.from_numpy(values.astype(np.float32)).reshape(tensor["shape"])
        state[our_name(tensor["role"])] = weight
    return state


def golden_values(*shape: int, offset: int = 0) -> np.ndarray:
    j = np.arange(1, math.prod(shape) + 1, dtype=np.float64) + offset
    x = np.sin(0.011 * j) + 0.5 * np.cos(0.0031 * j**1.3)
    return x.astype(np.float32).reshape(shape)


def golden_batch(case: Case, lengths: list[int], n_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features (batch, n_frames, n_mels + 1), lengths and speakers (batch,)."""
    n_mels, n_speakers = case["config"]["dim_freq"], case["config"]["dim_spk_emb"]
    b, t = np.arange(len(lengths))[:, None], np.arange(n_frames)[None]
    mel = np.clip(0.5 + 0.3 * golden_values(len(lengths), n_frames, n_mels), 0, 1)
    f0 = np.clip(0.5 + 0.25 * golden_values(len(lengths), n_frames, offset=5000), 0.02, 0.98)
    f0 = np.where((t + 3 * b) // 11 % 3 == 2, -1e10, f0)
    features = np.concatenate([mel, f0[..., None]], axis=2).astype(np.float32)
    speaker = (3 * b.squeeze(1) + 1) % n_speakers
    return torch.from_numpy(features), torch.tensor(lengths), torch.from_numpy(speaker)


def golden_draws(draws: list[dict[str, Any]], n_rows: int) -> Iterator[Draws]:
    for each in draws:
        yield Draws(
            torch.tensor(each["uniform01"]).view(n_rows, -1),
            torch.tensor(each["segment_lengths"]).view(n_rows, -1),
        )


def assert_checks(x: Tensor, check: dict[str, Any], *, atol: float) -> None:
    """Hold a tensor to its shape, moments, and first and last values."""
    assert list(x.shape) == check["shape"]
    flat = x.detach().double().flatten()
    got = [flat.mean(), flat.std(correction=0), flat.abs().mean(), *flat[:5], *flat[-5:]]
    expected = [check["mean"], check["std"], check["abs_mean"], *check["first5"], *check["last5"]]
    torch.testing.assert_close(torch.stack(got), torch.tensor(expected).double(), rtol=0, atol=atol)


def assert_gradients(model: nn.Module, norms: dict[str, float], *, rtol: float) -> None:
    parameters = dict(model.named_parameters())
    assert len(parameters) == len(norms)
    for role, expected in norms.items():
        gradient = parameters[our_name(role)].grad
        assert gradient is not None, role
        got = gradient.double().norm().item()
        assert abs(got - expected) <= rtol * expected + 1e-6, (role, got, expected)
