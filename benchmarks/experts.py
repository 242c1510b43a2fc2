"""Experts side by side against the same experts one by one, on one core, in one run.

    python benchmarks/experts.py [--backbone macnn] [--experts 4] [--batch 32] [--repeats 7]

A mixture of whole experts is computed as one grouped network, and as the networks of one output
each that its weights are split into. Both take turns on the same segments of 63 frames; the medians
of processor time and their ratios are printed, for a training step, for evaluation of the batch,
and for a single segment. Only the ratios are claims.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models import build_model
from serkit.models.expert_fusion import Backbone, ExpertFusionConfig, FusionNet, split_experts

N_FRAMES, N_FEATURES = 63, 26
FORMS = ("one by one", "side by side")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=get_args(Backbone), default="macnn")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = FusionNet(ExpertFusionConfig(backbone=arguments.backbone, n_classes=arguments.experts))
    experts = [build_model(arguments.backbone, {"n_classes": 1}) for _ in range(arguments.experts)]
    for expert, state in zip(experts, split_experts(model), strict=True):
        expert.load_state_dict(state)
    features = torch.randn(arguments.batch, N_FRAMES, N_FEATURES)
    truth = F.one_hot(torch.arange(arguments.batch) % arguments.experts).float()
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.cat([expert(x, lengths(x))["emotion"] for expert in experts], dim=1),
        lambda x: model(x, lengths(x))["experts"],
    ]
    modules = [nn.ModuleList(experts), model]

    def train(form: int) -> None:
        modules[form].train().zero_grad()
        logits = forms[form](features)
        F.binary_cross_entropy_with_logits(logits, truth).backward()

    @torch.inference_mode()
    def evaluate(form: int, n_segments: int) -> None:
        modules[form].eval()
        forms[form](features[:n_segments])

    compare("training step", train, arguments.repeats)
    compare("evaluation", lambda form: evaluate(form, arguments.batch), arguments.repeats)
    compare("one segment", lambda form: evaluate(form, 1), 5 * arguments.repeats)


def lengths(features: Tensor) -> Tensor:
    return torch.full((len(features),), N_FRAMES)


def compare(name: str, run: Callable[[int], None], repeats: int) -> None:
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 2):
        for form in (0, 1):
            started = time.process_time()
            run(form)
            if repeat >= 2:  # the first two warm up
                times[form].append(time.process_time() - started)
    medians = [1e3 * statistics.median(values) for values in times]
    described = ", ".join(f"{f} {ms:.1f} ms" for f, ms in zip(FORMS, medians, strict=True))
    print(f"{name:<14} {described}, ratio {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
