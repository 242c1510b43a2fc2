"""Compiled parts of Light-SERNet and MACNN against their readable forms, in one run.

    python benchmarks/compiled_parts.py [--batch 32] [--turns 7] [--threads 1]

Networks with no part compiled, with the first stage, with norm and pool behind the convolutions as
well, and with the fusion of heads as well take turns at a training step (forward and backward) and
at evaluation of the same batch. Printed are the median of the readable form and how many times as
fast the others are, in single precision and in bfloat16: in processor time on one thread, in wall
time on several. ``make bench`` runs it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.machine import keep_freed_memory
from serkit.models import build_model, first_stage, light_sernet, light_sernet_port, macnn
from serkit.models.native import use_readable_forms

# name, model, settings, frames, features: 3 s for Light-SERNet, and segments of 2 s
NETWORKS: tuple[tuple[str, str, dict[str, Any], int, int], ...] = (
    ("Light-SERNet", "light_sernet", {}, 184, 40),
    ("four Light-SERNet experts", "expert_fusion", {"backbone": "light_sernet"}, 63, 26),
    ("Light-SERNet, the port", "light_sernet_port", {}, 63, 26),
    ("MACNN", "macnn", {}, 63, 26),
    ("four MACNN experts", "expert_fusion", {}, 63, 26),
)


PARTS = (
    ("first stage", (macnn.Stem, light_sernet.Stem, light_sernet_port.Stem)),
    (
        "norm and pool",
        (
            macnn.ConvStage,
            light_sernet.ConvStage,
            light_sernet.Summary,
            light_sernet_port.ConvStage,
            light_sernet_port.Summary,
        ),
    ),
    ("heads", (macnn.HeadFusion,)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not first_stage.available():
        raise SystemExit("no C++ compiler here, so there is nothing to compare: see serkit doctor")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as serkit train does
    # Processor time counts a thread that waits for another; wall time does not.
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for name, model_name, settings, n_frames, n_features in NETWORKS:
        model = build_model(model_name, {"n_classes": 4, "n_features": n_features} | settings)
        forms = in_forms(model)
        features = torch.randn(arguments.batch, n_frames, n_features)
        for half in (False, True):
            times = measure(list(forms.values()), features, half, arguments.turns, clock)
            for what, (slow, *faster) in times.items():
                ratios = [
                    f"{part} x {slow / fast:.2f}"
                    for part, fast in zip(list(forms)[1:], faster, strict=True)
                ]
                print(f"{name:26} {what}: {1e3 * slow:.0f} ms, {', '.join(ratios)}", flush=True)


def in_forms(model: nn.Module) -> dict[str, nn.Module]:
    """Give the readable form of a network, and forms with one part more compiled each."""
    forms = {"readable": model}
    use_readable_forms(model)
    for name, kinds in PARTS:
        form = copy.deepcopy(list(forms.values())[-1])
        modules: list[Any] = [module for module in form.modules() if isinstance(module, kinds)]
        for module in modules:
            module.compiled = True
        if modules:
            forms[name] = form
    return forms


def measure(
    forms: list[nn.Module],
    features: Tensor,
    half: bool,
    turns: int,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Time all forms by turns; medians in seconds."""
    seconds: dict[str, list[list[float]]] = {}
    precision = "bfloat16" if half else "float32"
    for turn in range(turns + 1):
        for form, model in enumerate(forms):
            for training in (True, False):
                began = clock()
                step(model, features, half=half, training=training)
                if turn:  # the first pays for what is set up once
                    what = f"{'training' if training else 'evaluation'} {precision}"
                    times = seconds.setdefault(what, [[] for _ in forms])
                    times[form].append(clock() - began)
    return {what: [statistics.median(own) for own in times] for what, times in seconds.items()}


def step(model: nn.Module, features: Tensor, *, half: bool, training: bool) -> None:
    """Forward, and backward in training."""
    n_frames = torch.full((len(features),), features.shape[1])
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model.train(training)(features, n_frames)["emotion"].float()
        if training:
            F.cross_entropy(logits, torch.arange(len(features)) % 4).backward()


if __name__ == "__main__":
    main()
