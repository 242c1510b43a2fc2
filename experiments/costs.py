"""What networks cost: parameters, multiply-accumulates, and the time of a judgement.

``benchmarks/network_costs.py`` measures and writes ``costs.json``; the page shows that file.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from serkit.experiment.config import ExperimentConfig, load_experiment
from serkit.models.native import use_readable_forms
from serkit.recognizer import Recognizer, RecognizerConfig

__all__ = ["BACKBONES", "NETWORKS", "Cost", "Piece", "measured_networks", "piece_of", "section"]

# Presets that are laid over moe/honest.
BACKBONES = {"MACNN": (), "Light-SERNet port": ("networks/light-sernet-port",)}
NETWORKS = {
    "no experts": (),
    "no experts, twice the width": ("networks/x4",),
    "mixture of experts (level 0)": ("networks/level-0",),
    **{f"forward fusion {level}": (f"networks/forward-{level}",) for level in range(1, 7)},
    **{f"backward fusion {level}": (f"networks/backward-{level}",) for level in range(2, 8)},
    "hourglass 2-5": ("networks/hourglass-2-5",),
}
FOUR_CLASSES = ("angry", "happy", "neutral", "sad")
SEVEN_CLASSES = ("angry", "boredom", "disgust", "fear", "happy", "neutral", "sad")


@dataclass(frozen=True, slots=True)
class Cost:
    """Trained weights without batch-norm statistics, and multiply-accumulates of one piece."""

    n_parameters: int
    n_macs: int


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A network in evaluation with what its view makes of silence.

    ``features`` (1, n_frames, n_features); ``n_frames`` (1,).
    """

    recognizer: Recognizer
    features: Tensor
    n_frames: Tensor

    @torch.inference_mode()
    def judge(self) -> None:
        """Send the features through the network."""
        self.recognizer({"features": self.features, "n_frames": self.n_frames})

    def cost(self) -> Cost:
        """Count; as operations only convolutions and products of matrices."""
        readable = replace(self, recognizer=copy.deepcopy(self.recognizer))
        use_readable_forms(readable.recognizer)
        with FlopCounterMode(display=False) as counter:
            readable.judge()
        n_parameters = sum(p.numel() for p in self.recognizer.model.parameters())
        return Cost(n_parameters, counter.get_total_flops() // 2)


def piece_of(config: ExperimentConfig, classes: Sequence[str]) -> Piece:
    """Build the untrained network of an experiment and one piece of its input.

    Parameters
    ----------
    config
        An experiment whose view is of a fixed length or of segments.
    classes
        What the network tells apart.
    """
    recognizer = Recognizer(
        RecognizerConfig(
            system=config.system,
            classes=tuple(classes),
            view=config.view,
            front_end=config.front_end,
            model=config.model,
            normalise=config.normalise,
        )
    ).eval()
    n_samples = int(config.view["n_samples"])
    features, n_frames, _ = recognizer.extract(torch.zeros(1, n_samples), torch.tensor([n_samples]))
    return Piece(recognizer, features, n_frames)


def measured_networks() -> dict[tuple[str, str], Piece]:
    """Build the networks of the table: (backbone, network) -> its piece."""
    pieces = {}
    for backbone, below in BACKBONES.items():
        for network, above in NETWORKS.items():
            preset = "+".join(["moe/honest", *below, *above])
            config = load_experiment(preset, overrides=["corpus.name=ravdess"])
            pieces[backbone, network] = piece_of(config, FOUR_CLASSES)
    config = load_experiment("light_sernet/honest", overrides=["corpus.name=emodb"])
    pieces["Light-SERNet", "no experts"] = piece_of(config, SEVEN_CLASSES)
    return pieces


def section(experiments: Path) -> str:
    """Write the section from ``costs.json``."""
    measured = json.loads((experiments / "costs.json").read_text(encoding="utf-8"))
    rows = {(row["backbone"], row["network"]): row for row in measured["networks"]}
    own = rows["Light-SERNet", "no experts"]
    lines = [
        "## What experts cost",
        "",
        "Trained weights (batch-norm statistics are none), multiply-accumulates of one segment of "
        "2 s (26 coefficients by 63 frames) in evaluation, and the time that judging it takes "
        "relative to MACNN without experts. Four classes, so four experts. Counted are "
        "convolutions and products of matrices alone, without norms, pools and the front end. "
        f"Time: one segment at a time, one thread of {measured['cores']} cores, torch "
        f"{measured['torch']}, median of {measured['turns']} turns in which the networks "
        "alternate (`python benchmarks/network_costs.py`).",
        "",
        "| network | " + " | ".join(f"{b}: parameters | MACs, M | time" for b in BACKBONES) + " |",
        "|---|" + "---:|---:|---:|" * len(BACKBONES),
    ]
    for network in NETWORKS:
        cells = [_cells(rows[backbone, network]) for backbone in BACKBONES]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Light-SERNet itself (seven classes, 3 s, {own['n_features']} coefficients by "
            f"{own['n_frames']} frames): {own['n_parameters']:,} parameters, "
            f"{own['n_macs'] / 1e6:.1f} M multiply-accumulates, {own['time']:.1f} times the time.",
            "",
        ]
    )


def _cells(row: dict[str, Any]) -> str:
    return f"{row['n_parameters']:,} | {row['n_macs'] / 1e6:.1f} | {row['time']:.1f}"
