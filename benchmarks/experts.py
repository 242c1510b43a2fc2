"""Experts side by side against plain networks one by one, in one run.

    python benchmarks/experts.py [--backbone macnn] [--experts 4] [--batch 1 32 128]
        [--repeats 9] [--threads 1] [--precision float32] [--keep-memory]

A mixture of whole experts is computed as one grouped network, and as it is usually written: a loop
over networks of plain layers, all frames valid, one optimiser over all. Both take turns on the same
segments of 63 frames, at a step of training (forward, backward, Adam) and at evaluation. Printed
are the medians of processor time, their ratio, and the ratio of the best turns, which a busy
machine disturbs less; only ratios are claims. The convolutions' arithmetic is the same in both,
and the rate at which this core multiplies matrices says what it takes at least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.machine import keep_freed_memory
from serkit.models.expert_fusion import ExpertFusionConfig, FusionNet

N_FRAMES, N_FEATURES = 63, 26
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PlainMacnn(nn.Module):
    """MACNN in plain layers, with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(n, m, 3, padding=1) for n, m in ((16, 32), (32, 48), (48, 64), (64, 80))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (32, 48, 64, 80))
        self.paths = nn.ModuleList(
            [nn.Conv2d(1, 8, (10, 2), padding=(4, 0)), nn.Conv2d(1, 8, (2, 8), padding=(0, 3))]
        )
        self.path_norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(80, 64, 1) for _ in range(3)) for _ in range(4)
        )
        self.last = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, 1, n_features, n_frames)`` to logits ``(batch, 1)``."""
        paths = zip(self.paths, self.path_norms, strict=True)
        x = torch.cat([F.relu(norm(conv(x))) for conv, norm in paths], dim=1)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if number < 2:
                x = F.max_pool2d(x, 2)
        heads = [torch.softmax(query(x) * key(x), 1) * value(x) for query, key, value in self.heads]
        return self.last(F.relu(torch.cat(heads, dim=2)).mean((2, 3)))


class PlainLightSernet(nn.Module):
    """Light-SERNet in plain layers, with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Conv2d(1, 32, (n, m), padding=(n // 2, m // 2)) for n, m in ((1, 11), (9, 1), (3, 3))
        )
        self.path_norms = nn.ModuleList(nn.BatchNorm2d(32, 1e-3, 0.01) for _ in range(3))
        widths = ((96, 64, 3), (64, 96, 3), (96, 128, 3), (128, 160, 3), (160, 320, 1))
        self.convs = nn.ModuleList(
            nn.Conv2d(n, m, k, padding=k // 2, bias=False) for n, m, k in widths
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(m, 1e-3, 0.01) for _, m, _ in widths)
        self.last = nn.Linear(320, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, 1, n_features, n_frames)`` to logits ``(batch, 1)``."""
        paths = zip(self.paths, self.path_norms, strict=True)
        x = torch.cat([self._pool(F.relu(norm(conv(x))), 2) for conv, norm in paths], dim=1)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if number < 4:
                x = self._pool(x, 2 if number < 2 else 1)
        return self.last(F.dropout(x.mean((2, 3)), 0.3, self.training))

    def _pool(self, x: Tensor, rows: int) -> Tensor:
        return F.avg_pool2d(x, (rows, 2), ceil_mode=True, count_include_pad=False)


PLAIN: dict[str, type[nn.Module]] = {"macnn": PlainMacnn, "light_sernet": PlainLightSernet}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=PLAIN, default="macnn")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument(
        "--keep-memory", action="store_true", help="have the C library (glibc) keep freed memory"
    )
    arguments = parser.parse_args()
    if arguments.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    dtype = PRECISIONS[arguments.precision]
    print(f"matrix product: {product_rate(dtype):.0f} GFLOP/s")
    model = FusionNet(ExpertFusionConfig(backbone=arguments.backbone, n_classes=arguments.experts))
    experts = nn.ModuleList(PLAIN[arguments.backbone]() for _ in range(arguments.experts))
    assert n_parameters(experts) == n_parameters(model)
    optimizers = [torch.optim.Adam(module.parameters()) for module in (experts, model)]

    def classify(form: int, features: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if form == 0:
                image = features.transpose(1, 2).unsqueeze(1)
                return torch.cat([expert(image) for expert in experts], dim=1)
            return model(features, torch.full((len(features),), N_FRAMES))["experts"]

    def train(form: int, features: Tensor) -> None:
        (experts, model)[form].train()
        optimizers[form].zero_grad()
        truth = F.one_hot(torch.arange(len(features)) % arguments.experts, arguments.experts)
        logits = classify(form, features).float()
        F.binary_cross_entropy_with_logits(logits, truth.float()).backward()
        optimizers[form].step()

    @torch.inference_mode()
    def evaluate(form: int, features: Tensor) -> None:
        (experts, model)[form].eval()
        classify(form, features)

    # Processor time counts a thread that waits for another; wall time does not.
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for n_segments in arguments.batch:
        features = torch.randn(n_segments, N_FRAMES, N_FEATURES)
        repeats = max(3, arguments.repeats * 32 // max(n_segments, 8))
        for name, run in (("training", train), ("evaluation", evaluate)):
            compare(f"{name} of {n_segments}", run, features, repeats=repeats, clock=clock)


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def product_rate(dtype: torch.dtype) -> float:
    """Best of five products of large matrices, in GFLOP/s."""
    n, matrix = 2048, torch.randn(2048, 2048).to(dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2e-9 * n**3 / min(seconds)


def compare(
    name: str,
    run: Callable[[int, Tensor], None],
    features: Tensor,
    *,
    repeats: int,
    clock: Callable[[], float],
) -> None:
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 2):
        for form in (0, 1):
            started = clock()
            run(form, features)
            if repeat >= 2:  # the first two warm up
                times[form].append(clock() - started)
    medians = [1e3 * statistics.median(values) for values in times]
    best = min(times[0]) / min(times[1])
    print(
        f"{name:<18} one by one {medians[0]:.1f} ms, side by side {medians[1]:.1f} ms, "
        f"ratio {medians[0] / medians[1]:.2f}, of best turns {best:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
