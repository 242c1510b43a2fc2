"""Training steps in bfloat16 against float32, on one core, in one run.

    python benchmarks/precision.py [--batch 32] [--turns 7]

Both precisions take turns on the same batch; the medians of the seconds of a step (forward and
backward) and their ratio are printed for each network. A gain needs a processor that multiplies
bfloat16 by itself (AVX-512 BF16 or AMX); ``training.precision = "bf16-mixed"`` is the setting.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F

from serkit.models import build_model
from serkit.models.native import use_readable_forms
from serkit.models.timnet import TimNet

# name, model, settings, frames, features: segments of 2 s, and 3 s for Light-SERNet
NETWORKS: tuple[tuple[str, str, dict[str, Any], int, int], ...] = (
    ("MACNN", "macnn", {}, 63, 26),
    ("MACNN x4", "macnn", {"width": 2}, 63, 26),
    ("four MACNN experts", "expert_fusion", {}, 63, 26),
    ("Light-SERNet", "light_sernet", {}, 184, 40),
    ("TIM-Net, readable form", "timnet", {}, 188, 39),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, model_name, settings, n_frames, n_features in NETWORKS:
        single, half = measure(
            build_model(model_name, {"n_classes": 4, "n_features": n_features} | settings),
            torch.randn(arguments.batch, n_frames, n_features),
            turns=arguments.turns,
        )
        print(
            f"{name:24} float32 {1e3 * single:7.1f} ms, bfloat16 {1e3 * half:7.1f} ms per step: "
            f"x {single / half:.2f}"
        )


def measure(model: torch.nn.Module, features: torch.Tensor, *, turns: int) -> tuple[float, float]:
    """Time steps in both precisions by turns; medians in seconds."""
    if isinstance(model, TimNet):  # its compiled form is in float32 whatever is asked for
        use_readable_forms(model)
    model.train()
    truth = torch.arange(len(features)) % 4
    n_frames = torch.full((len(features),), features.shape[1])
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(turns + 1):
        for half in seconds:
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = model(features, n_frames)["emotion"].float()
            F.cross_entropy(logits, truth).backward()
            if turn:  # the first pays for what is set up once
                seconds[half].append(time.perf_counter() - began)
    return statistics.median(seconds[False]), statistics.median(seconds[True])


if __name__ == "__main__":
    main()
