"""A run on token vectors that were computed elsewhere, and what its checkpoint asks for."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from experiment.spoken_tones import PITCH_HZ, RATE, spoken_tones
from features.tiny_encoders import text_folder
from serkit.experiment.config import load_experiment
from serkit.experiment.run import run_experiment
from serkit.features.text import build_text_encoder, write_text_features
from serkit.inference.files import collect_files
from serkit.inference.predictor import predict_files, text_features_of_files
from serkit.recognizer import load_recognizer
from serkit.types import InputError
from tests_support import tone

TINY = (
    "seeds=[1]",
    "front_end={name='mfcc', preset='moe-26'}",
    "model.width=16",
    "model.n_heads=2",
    "protocol.split=speaker_folds",
    "protocol.n_folds=2",
    "training.epochs=3",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "normalise=train",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Manifest without transcripts, and vectors of what is said."""
    root = tmp_path_factory.mktemp("vectors")
    (root / "tones").mkdir()
    with open(spoken_tones(root / "tones", n_takes=2), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    manifest = root / "tones" / "bare.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "path", "corpus", "label", "speaker"])
        writer.writeheader()
        writer.writerows({name: row[name] for name in writer.fieldnames} for row in rows)
    settings = {"model": str(text_folder(root / "encoder")), "max_tokens": 60}
    encoder = build_text_encoder("pretrained", settings)
    texts = {row["id"]: row["transcript"] for row in rows}
    folder = write_text_features(root / "vectors", encoder, texts)
    return {"manifest": manifest, "vectors": folder}


def experiment(places: dict[str, Path], *settings: str):
    text = f"text={{name='precomputed', folder='{places['vectors']}'}}"
    paths = (f"corpus.manifest='{places['manifest']}'", text)
    return load_experiment("encoders/concat", overrides=[*TINY, *paths, *settings])


@pytest.fixture(scope="module")
def run(places, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    run_experiment(experiment(places, "training.epochs=25"), out=out, cohort=False)
    return out


def test_a_run_reads_vectors_where_nothing_is_transcribed(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["pooled"]["uar"]["mean"] > 0.6  # either half of the label alone gives 0.5
    stored = json.loads((run / "model" / "config.json").read_text())["text"]
    assert stored["name"] == "precomputed"
    assert stored["width"] == 32
    assert stored["sha256"] == json.loads((run / "text.json").read_text())["sha256"]


def test_a_checkpoint_asks_for_vectors(run, places, tmp_path):
    shutil.copytree(run / "model", tmp_path / "model")
    recognizer = load_recognizer(tmp_path / "model")
    wave = tone(PITCH_HZ["low"], seconds=0.25, rate=RATE, seed=7)
    vectors = np.load(places["vectors"] / "high-b-ann-0.npy")
    assert recognizer.predict(wave, RATE, text_features=vectors).label == "low-b"
    with pytest.raises(InputError, match=r"token vectors .* give --text-features FILE\.npy"):
        recognizer.predict(wave, RATE, text="What is the problem?")
    with pytest.raises(InputError, match=r"shape \(3, 5\), expected \(n_tokens, 32\)"):
        recognizer.predict(wave, RATE, text_features=np.zeros((3, 5), dtype=np.float32))


def test_files_are_recognised_with_their_vectors(run, places, tmp_path):
    (tmp_path / "sounds").mkdir()
    for name in ("high-a-ann-0", "low-b-bob-0"):
        wave = tone(PITCH_HZ[name.split("-")[0]], seconds=0.25, rate=RATE, seed=3)
        soundfile.write(tmp_path / "sounds" / f"{name}.wav", wave, RATE)
    recognizer, files = load_recognizer(run), collect_files([tmp_path / "sounds"])
    found = text_features_of_files(files, places["vectors"])
    rows = list(predict_files(recognizer, files, text_features=found))
    assert [row.prediction.label for row in rows if row.prediction] == ["high-a", "low-b"]
    one = text_features_of_files(files[:1], places["vectors"] / "high-a-ann-0.npy")
    assert next(predict_files(recognizer, files[:1], text_features=one)).prediction is not None
    missing = text_features_of_files(files[:1], tmp_path / "gone.npy")
    assert (
        "not a readable .npy"
        in next(predict_files(recognizer, files[:1], text_features=missing)).error
    )
    assert "--text-features" in next(predict_files(recognizer, files[:1])).error
    with pytest.raises(InputError, match="one file for 2 sound files: give a folder"):
        text_features_of_files(files, places["vectors"] / "high-a-ann-0.npy")


def test_a_run_is_not_resumed_with_other_vectors(places, tmp_path):
    own = Path(shutil.copytree(places["vectors"], tmp_path / "vectors"))
    config = experiment({**places, "vectors": own}, "refit=false", "training.epochs=1")
    out = tmp_path / "run"
    run_experiment(config, out=out, cohort=False)
    run_experiment(config, out=out, cohort=False, resume=True)
    np.save(own / "high-a-ann-0.npy", np.zeros((2, 32), dtype=np.float32))
    with pytest.raises(InputError, match="was begun with other token vectors than there are in"):
        run_experiment(config, out=out, cohort=False, resume=True)


def test_utterances_without_vectors_are_named(places, tmp_path):
    own = Path(shutil.copytree(places["vectors"], tmp_path / "vectors"))
    (own / "high-a-ann-0.npy").unlink()
    config = experiment({**places, "vectors": own})
    with pytest.raises(InputError, match=r"1 of 32 utterances have no vectors in .* high-a-ann-0"):
        run_experiment(config, out=tmp_path / "run", cohort=False)
