"""What the networks of experts and fusion cost, relative to MACNN without experts, in one run.

    python benchmarks/network_costs.py [--turns 15]

Parameters and multiply-accumulates are counted. For the time, the networks take turns at judging
one segment, with one thread; the ratio of medians of processor time is kept. The result goes to
experiments/costs.json, from which experiments/summarise.py makes a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from costs import Piece, measured_networks  # noqa: E402

REFERENCE = ("MACNN", "no experts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pieces = measured_networks()
    medians = judge_in_turns(pieces, arguments.turns)
    networks = [
        {
            "backbone": backbone,
            "network": network,
            "n_frames": piece.features.shape[1],
            "n_features": piece.features.shape[2],
            **asdict(piece.cost()),
            "time": round(medians[backbone, network] / medians[REFERENCE], 2),
        }
        for (backbone, network), piece in pieces.items()
    ]
    described = {
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "turns": arguments.turns,
        "networks": networks,
    }
    path = EXPERIMENTS / "costs.json"
    path.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    for row in networks:
        print(
            f"{row['backbone']:<18} {row['network']:<30} {row['n_parameters']:>9,} parameters "
            f"{row['n_macs'] / 1e6:8.1f} M MACs, time x {row['time']:.2f}"
        )


def judge_in_turns(
    pieces: dict[tuple[str, str], Piece], n_turns: int
) -> dict[tuple[str, str], float]:
    """Give each network's median seconds."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in pieces}
    for turn in range(n_turns + 2):
        for key, piece in pieces.items():
            started = time.process_time()
            piece.judge()
            if turn >= 2:  # the first two warm up
                times[key].append(time.process_time() - started)
    return {key: statistics.median(values) for key, values in times.items()}


if __name__ == "__main__":
    main()
