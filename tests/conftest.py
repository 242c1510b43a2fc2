"""A corpus whose label is audible: happy speaks high, sad speaks low."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy and torch start their threads, here and in every process a test starts: sounds and
# networks in tests are tiny, and on a busy machine threads spend their time waiting for each other.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Pre-trained encoders in tests are made here, never fetched.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import soundfile

from tests_support import PITCH_HZ, RATE, SPEAKERS, TINY_EXPERIMENT, tone


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory) -> Path:
    """Four speakers x two emotions x four takes, one folder per class, one per speaker."""
    root = tmp_path_factory.mktemp("tones")
    seed = 0
    for emotion, pitch in PITCH_HZ.items():
        for number, speaker in enumerate(SPEAKERS):
            folder = root / emotion / speaker
            folder.mkdir(parents=True)
            for take in range(4):
                seed += 1
                wave = tone(pitch * (1 + 0.05 * number + 0.02 * take), seed=seed)
                soundfile.write(folder / f"{emotion}-{speaker}-{take}.wav", wave, RATE)
    return root


@pytest.fixture
def tiny_experiment(tone_corpus, tmp_path) -> Path:
    """An experiment on the tones that takes seconds."""
    path = tmp_path / "tones.toml"
    path.write_text(TINY_EXPERIMENT.format(root=tone_corpus.as_posix()), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def private_folders(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's own cache, models or corpora."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("SERKIT_CACHE", str(base / "cache"))
    monkeypatch.setenv("SERKIT_MODELS", str(base / "models"))


@pytest.fixture(scope="session")
def tone_run(tone_corpus, tmp_path_factory) -> Path:
    """A finished run on the tones, with report and checkpoint."""
    from serkit.experiment.config import load_experiment
    from serkit.experiment.run import run_experiment

    folder = tmp_path_factory.mktemp("run")
    path = folder / "tones.toml"
    path.write_text(TINY_EXPERIMENT.format(root=tone_corpus.as_posix()), encoding="utf-8")
    config = load_experiment(path, overrides=["training.epochs=12"])
    out = folder / "out"
    run_experiment(config, out=out, n_jobs=1, cache_dir=folder / "cache")
    return out
