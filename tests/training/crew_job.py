"""Run by torchrun, or alone: trains a small network and leaves its weights and its rows."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.crew import crew_rank, together, with_crew
from serkit.training.data import Examples
from serkit.training.loop import TrainingConfig, fit
from serkit.training.objectives import Penalty, Term

N_CLASSES, N_SYMBOLS = 3, 5


def recognizer() -> Recognizer:
    """Without batch normalisation, whose statistics are those of each process's share."""
    torch.manual_seed(5)
    return Recognizer(
        RecognizerConfig(
            system="pooled",
            classes=("happy", "neutral", "sad"),
            view={"kind": "whole"},
            front_end={"name": "mfcc", "preset": "timnet-code"},
            model={"name": "pooled", "n_projected": 16, "n_hidden": 8},
        )
    )


def examples(n: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    emotion = torch.arange(n) % N_CLASSES
    features = torch.randn(n, 9, 39, generator=generator) + emotion.view(-1, 1, 1)
    n_frames = torch.randint(3, 10, (n,), generator=generator)
    return Examples(
        tuple(f"u{i}" for i in range(n)),
        {"features": features, "n_frames": n_frames, "emotion": emotion},
    )


class Mortal(Examples):
    """Ends its process, as a kill would, when the second batch of the second epoch begins."""

    def training_batch(self, rows, *, seed, epoch):
        if epoch == 2 and 23 in rows.tolist():
            os._exit(9)
        return super().training_batch(rows, seed=seed, epoch=epoch)


def train(folder: Path, n: int, *, die: bool = False, **settings: object) -> Recognizer:
    learner = recognizer()
    part = examples(n, 0)
    if die:
        part = Mortal(part.ids, part.tensors)
    config = TrainingConfig(
        **{
            "epochs": 3,
            "batch_size": 8,
            "save_every_s": 0,
            "accelerator": "cpu",
            "penalties": (Penalty(parameters="classify.weight", weight=0.1),),
            **settings,
        }
    )
    result = fit(learner, part, examples(7, 1), config, objective=(Term(),), seed=3, folder=folder)
    (folder / f"rows{crew_rank()}.json").write_text(json.dumps(result.history))
    save_file(learner.state_dict(), folder / f"weights{crew_rank()}.safetensors")
    return learner


def main(folder: Path, n: int, settings: dict[str, object]) -> None:
    job = partial(train, folder, n, **settings)
    with_crew(lambda: together(job, job))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
