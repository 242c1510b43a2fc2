"""A run folder as training leaves it, made up: the numbers are drawn, the sounds are tones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

from serkit.evaluation import Predictions, write_predictions

CLASSES = ("angry", "happy", "neutral", "sad")
# Row: truth. Angry and happy are hard to tell apart, as they are for real systems.
_LOGITS = np.array(
    [
        [2.0, 1.3, -0.3, -0.9],
        [1.2, 1.6, 0.2, -0.7],
        [-0.6, 0.2, 1.9, 0.6],
        [-1.0, -0.6, 0.9, 2.2],
    ]
)
_COUNTS = (14, 10, 12, 9)  # utterances per speaker and class


def toy_predictions(
    *,
    n_speakers: int = 8,
    n_seeds: int = 2,
    skill: float = 1.0,
    speakers_per_fold: int = 2,
    noise_seed: int = 0,
    audio_dir: Path | None = None,
) -> Predictions:
    """Draw scores of a system; ``skill`` 0 is chance, larger is better."""
    generator = np.random.default_rng(noise_seed)
    rows: list[tuple[str, str, str, int, str, str]] = []
    truth_index: list[int] = []
    speaker_gain: list[float] = []
    gains = np.random.default_rng(7).uniform(0.45, 1.25, n_speakers)
    for seed in range(n_seeds):
        for number in range(n_speakers):
            speaker = f"{number + 3:02d}"
            fold = f"{number // speakers_per_fold + 1}"
            for index, label in enumerate(CLASSES):
                for take in range(_COUNTS[index]):
                    key = f"{speaker}/{label}_{take:02d}"
                    path = "" if audio_dir is None else str(audio_dir / f"{speaker}_{label}.wav")
                    rows.append((key, speaker, fold, seed, label, path))
                    truth_index.append(index)
                    speaker_gain.append(gains[number])
    ids, speakers, folds, seeds, truth, paths = (list(column) for column in zip(*rows, strict=True))
    logits = skill * np.asarray(speaker_gain)[:, None] * _LOGITS[truth_index]
    logits = 1.6 * (logits + 0.9 * generator.standard_normal(logits.shape))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    extras = {
        "sentence": [f"s{key[-2:]}" for key in ids],
        "transcript": [f"Sentence number {int(key[-2:]) + 1}." for key in ids],
    }
    if audio_dir is not None:
        extras["path"] = paths
    return Predictions.of(
        ids,
        truth,
        classes=CLASSES,
        scores=scores,
        speakers=speakers,
        corpora=["toy"] * len(ids),
        folds=folds,
        seeds=seeds,
        extras=extras,
    )


def toy_sets(
    *, n_speakers: int = 8, n_seeds: int = 2, skill: float = 1.0, noise_seed: int = 0
) -> Predictions:
    """Draw probabilities of a multi-label system over utterances with one or two classes."""
    generator = np.random.default_rng(noise_seed)
    truth_generator = np.random.default_rng(3)
    n = 40  # utterances per speaker
    members = truth_generator.random((n_speakers * n, len(CLASSES))) < (0.2, 0.3, 0.0, 0.25)
    members[:, CLASSES.index("neutral")] = ~members.any(axis=1)
    truth = ["+".join(c for c, has in zip(CLASSES, row, strict=True) if has) for row in members]
    logits = skill * np.where(members, 1.0, -1.0) + 1.2 * generator.standard_normal(
        (n_seeds, *members.shape)
    )
    return Predictions.of(
        [f"clip_{number:03d}" for number in range(len(truth))] * n_seeds,
        truth * n_seeds,
        classes=CLASSES,
        scores=1 / (1 + np.exp(-logits.reshape(-1, len(CLASSES)))),
        speakers=[f"video_{number // n}" for number in range(len(truth))] * n_seeds,
        corpora=["toy"] * len(truth) * n_seeds,
        folds=[f"{number // (2 * n)}" for number in range(len(truth))] * n_seeds,
        seeds=[seed for seed in range(n_seeds) for _ in truth],
        multi_label=True,
    )


def write_toy_set_run(run_dir: Path) -> Path:
    """Write the run folder of a multi-label system."""
    run_dir = write_toy_run(run_dir, synthetic=False, name="toy-sets")
    predictions = toy_sets()
    write_predictions(run_dir / "predictions.csv", predictions)
    run = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    run |= {"multi_label": True, "title": "Four experts on clips with several emotions"}
    (run_dir / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return run_dir


def write_toy_run(
    run_dir: Path,
    *,
    skill: float = 1.0,
    speakers_per_fold: int = 2,
    selection: str = "best_dev",
    synthetic: bool = True,
    name: str = "toy-timnet",
    noise_seed: int = 0,
    n_epochs: int = 40,
) -> Path:
    """Write every file of a run folder, and a few seconds of tones beside it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    audio_dir = run_dir.parent / f"{run_dir.name}-tones"
    audio_dir.mkdir(exist_ok=True)
    for number in range(8):
        for index, label in enumerate(CLASSES):
            time_s = np.arange(int(1.2 * 16_000)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * (110 + 20 * number + 60 * index) * time_s)
            soundfile.write(audio_dir / f"{number + 3:02d}_{label}.wav", tone, 16_000)
    predictions = toy_predictions(
        skill=skill,
        speakers_per_fold=speakers_per_fold,
        noise_seed=noise_seed,
        audio_dir=audio_dir,
    )
    write_predictions(run_dir / "predictions.csv", predictions)
    dependent = selection == "best_test"
    run = {
        "serkit_version": "0.1.0",
        "name": name,
        "title": "TIM-Net on the embedded synthetic corpus",
        "system": "TIM-Net",
        "corpus": {
            "name": "toy",
            "title": "Synthetic Voices" if synthetic else "Toy Voices",
            "n_utterances": 360,
            "n_speakers": 8,
            "licence": "CC0-1.0",
            "citation": "none needed",
            "fingerprint": "sha256:5c7e0f1b",
            "check": "360 of 360 utterances, all readable",
            "complete": True,
            "synthetic": synthetic,
            "quirks": ["voices differ in pitch only"],
        },
        "protocol": {
            "split": "leave_one_speaker_out" if speakers_per_fold == 1 else "speaker_folds",
            "n_folds": len(predictions.fold_values),
            "dev": "one speaker of the training part",
            "selection": selection,
            "warnings": ["speaker-dependent", "selected on test"] if dependent else [],
            "speaker_independent": not dependent,
        },
        "labels": list(CLASSES),
        "n_parameters": 106_872,
        "seeds": [0, 1],
        "commit": "0123abc",
        "started": "2026-01-05T10:00:00+00:00",
        "duration_s": 83.4,
        "machine": {"system": "Linux", "cpu_cores": 2, "device": "cpu"},
        "packages": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.0"},
    }
    config = {
        "system": "timnet",
        "corpus": {"name": "toy"},
        "split": {"rule": "speaker_folds", "n_folds": 4},
        "training": {"epochs": n_epochs, "learning_rate": 0.001, "batch_size": 64},
    }
    leaks = {
        "ok": True,
        "lines": [
            "No speaker is in two parts of any fold (8 speakers, 4 folds).",
            "No identical audio in two parts (360 files hashed).",
            "Sentences are shared by design: every speaker reads the same ones.",
        ],
    }
    for file_name, content in (("run", run), ("config", config), ("leaks", leaks)):
        (run_dir / f"{file_name}.json").write_text(json.dumps(content), encoding="utf-8")
    _write_curves(run_dir / "curves.csv", predictions, n_epochs, selection)
    _write_embeddings(run_dir / "embeddings.npz", predictions)
    return run_dir


def _write_curves(path: Path, predictions: Predictions, n_epochs: int, selection: str) -> None:
    generator = np.random.default_rng(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow("fold seed epoch train_loss dev_loss dev_uar dev_war selected".split())
        for fold in predictions.fold_values:
            for seed in predictions.seed_values:
                epochs = np.arange(1, n_epochs + 1)
                offset = generator.normal(0, 0.05)
                train = 0.35 + 1.1 * np.exp(-epochs / 9) + generator.normal(0, 0.01, n_epochs)
                dev = (
                    0.75
                    + offset
                    + 0.7 * np.exp(-epochs / 7)
                    + 0.0035 * epochs
                    + generator.normal(0, 0.02, n_epochs)
                )
                uar = (
                    0.64 - offset - 0.4 * np.exp(-epochs / 8) + generator.normal(0, 0.02, n_epochs)
                )
                war = uar + 0.01
                kept = {
                    "best_dev": int(uar.argmax()),
                    "best_test": int(war.argmax()),
                    "last": n_epochs - 1,
                }[selection]
                for row, epoch in enumerate(epochs):
                    writer.writerow(
                        [
                            fold,
                            seed,
                            epoch,
                            *(f"{v:.5f}" for v in (train[row], dev[row], uar[row], war[row])),
                            int(row == kept),
                        ]
                    )


def _write_embeddings(path: Path, predictions: Predictions) -> None:
    generator = np.random.default_rng(2)
    first = predictions.seeds == 0
    truth = predictions.truth_index[first]
    centers = 1.1 * generator.standard_normal((len(CLASSES), 39))
    speaker_names, speaker = np.unique(predictions.speakers[first], return_inverse=True)
    shifts = 0.3 * generator.standard_normal((len(speaker_names), 39))
    vectors = centers[truth] + shifts[speaker] + generator.standard_normal((len(truth), 39))
    np.savez(
        path,
        id=predictions.ids[first],
        fold=predictions.folds[first],
        seed=predictions.seeds[first],
        embedding=vectors.astype(np.float32),
    )
