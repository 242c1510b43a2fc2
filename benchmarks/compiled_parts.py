"""The compiled first stage against its readable form, on one core, in one run.

    python benchmarks/first_stage.py [--batch 32] [--turns 7]

Networks with either form take turns at a training step (forward and backward) and at evaluation of
the same batch; the medians of processor time and their ratio are printed, in single precision and
in bfloat16. ``make bench`` runs it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.machine import keep_freed_memory
from serkit.models import build_model, first_stage
from serkit.models.native import use_readable_forms

# name, model, settings, frames, features: 3 s for Light-SERNet, and segments of 2 s
NETWORKS: tuple[tuple[str, str, dict[str, Any], int, int], ...] = (
    ("Light-SERNet", "light_sernet", {}, 184, 40),
    ("four Light-SERNet experts", "expert_fusion", {"backbone": "light_sernet"}, 63, 26),
    ("Light-SERNet, the port", "light_sernet_port", {}, 63, 26),
    ("MACNN", "macnn", {}, 63, 26),
    ("four MACNN experts", "expert_fusion", {}, 63, 26),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    if not first_stage.available():
        raise SystemExit("no C++ compiler here, so there is nothing to compare: see serkit doctor")
    torch.set_num_threads(1)
    keep_freed_memory()  # as serkit train does
    for name, model_name, settings, n_frames, n_features in NETWORKS:
        compiled = build_model(model_name, {"n_classes": 4, "n_features": n_features} | settings)
        readable = copy.deepcopy(compiled)
        use_readable_forms(readable)
        features = torch.randn(arguments.batch, n_frames, n_features)
        ratios = [
            f"{what} x {slow / fast:.2f} ({1e3 * slow:.0f} to {1e3 * fast:.0f} ms)"
            for half in (False, True)
            for what, (slow, fast) in measure(
                (readable, compiled), features, half=half, turns=arguments.turns
            ).items()
        ]
        print(f"{name:26} {', '.join(ratios)}", flush=True)


def measure(
    forms: tuple[nn.Module, nn.Module], features: Tensor, *, half: bool, turns: int
) -> dict[str, tuple[float, float]]:
    """Time both forms by turns; medians in seconds of processor time."""
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    precision = "bfloat16" if half else "float32"
    for turn in range(turns + 1):
        for form, model in enumerate(forms):
            for training in (True, False):
                began = time.process_time()
                step(model, features, half=half, training=training)
                if turn:  # the first pays for what is set up once
                    what = f"{'training' if training else 'evaluation'} {precision}"
                    seconds.setdefault(what, ([], []))[form].append(time.process_time() - began)
    return {what: (statistics.median(a), statistics.median(b)) for what, (a, b) in seconds.items()}


def step(model: nn.Module, features: Tensor, *, half: bool, training: bool) -> None:
    """Forward, and backward in training."""
    n_frames = torch.full((len(features),), features.shape[1])
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model.train(training)(features, n_frames)["emotion"].float()
        if training:
            F.cross_entropy(logits, torch.arange(len(features)) % 4).backward()


if __name__ == "__main__":
    main()
