"""Training step of TIM-Net on a CPU: the compiled form against the readable one, in one run.

    python benchmarks/timnet_step.py [--batch 64] [--frames 188] [--repeats 7]

Both forms take turns on the same data with one thread; the medians of processor time and their
ratio are printed. Only the ratio is a claim.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from serkit.models.native import use_readable_forms
from serkit.models.timnet import TimNet, TimNetConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=188)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(arguments.batch, arguments.frames, 39)
    n_frames = torch.full((arguments.batch,), arguments.frames)
    truth = torch.randint(0, 7, (arguments.batch,))

    def step(model: TimNet) -> float:
        started = time.process_time()
        model.zero_grad()
        F.cross_entropy(model(features, n_frames)["emotion"], truth).backward()
        return time.process_time() - started

    forms = {"readable": TimNet(TimNetConfig()), "compiled": TimNet(TimNetConfig())}
    use_readable_forms(forms["readable"])
    times: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(arguments.repeats + 2):
        for name, model in forms.items():
            seconds = step(model)
            if repeat >= 2:  # the first two warm up
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<10} {1e3 * seconds:7.1f} ms of processor time per step")
    print(f"ratio readable / compiled: {medians['readable'] / medians['compiled']:.2f}")


if __name__ == "__main__":
    main()
