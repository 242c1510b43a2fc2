"""Recognizers that read and do not listen: no sound has to exist."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiment.spoken_tones import WORDS
from features.tiny_encoders import text_folder
from serkit.experiment.config import ConfigError, load_experiment
from serkit.experiment.run import run_experiment
from serkit.recognizer import Recognizer, load_recognizer
from serkit.types import InputError
from tests_support import SPEAKERS

TINY = (
    "seeds=[1]",
    "model.width=16",
    "model.n_heads=2",
    "protocol.split=speaker_folds",
    "protocol.n_folds=2",
    "training.epochs=8",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "text.max_tokens=60",
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Words whose sound files are not there."""
    path = tmp_path_factory.mktemp("words") / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "corpus", "label", "speaker", "transcript"])
        for label, texts in WORDS.items():
            for speaker in SPEAKERS:
                for number, text in enumerate(texts):
                    name = f"{label}-{speaker}-{number}"
                    writer.writerow([name, f"gone/{name}.wav", "words", label, speaker, text])
    return path


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    paths = [f"corpus.manifest='{manifest}'", f"text.model='{text_folder(folder / 'text')}'"]
    config = load_experiment("encoders/text-only", overrides=[*TINY, *paths])
    run_experiment(config, out=folder / "run", cohort=False)
    return folder / "run"


def test_transcripts_suffice(run):
    assert json.loads((run / "metrics.json").read_text())["pooled"]["uar"]["mean"] > 0.9


def test_words_alone_are_recognised(run):
    recognizer = load_recognizer(run)
    assert not recognizer.listens
    prediction = recognizer.predict_text(WORDS["b"][0], name="mail")
    assert (prediction.label, prediction.file, prediction.end_s) == ("b", "mail", 0.0)


def test_a_recognizer_without_eyes_and_ears_is_refused(run):
    config = load_recognizer(run).config
    with pytest.raises(InputError, match=r"front_end\.name = 'none' is for recognizers that read"):
        Recognizer(replace(config, text=None))


def test_a_recognizer_that_listens_wants_sound(run):
    config = load_recognizer(run).config
    listening = replace(
        config, front_end={"name": "mfcc", "preset": "moe-26"}, model=_small(config)
    )
    with pytest.raises(InputError, match="mail: this recognizer listens: give a sound file"):
        Recognizer(listening).predict_text("hello", name="mail")


def _small(config):
    return {k: v for k, v in config.model.items() if k != "n_features"}


def test_batches_of_words_are_not_measured_in_seconds():
    settings = ["corpus.name=iemocap", "training.batch_seconds=30"]
    with pytest.raises(ConfigError, match=r"text-only: training\.batch_seconds is 30, but .*none'"):
        load_experiment("encoders/text-only", overrides=settings)
    load_experiment("encoders/frozen", overrides=settings)


def test_sounds_are_no_views_of_what_is_not_heard(manifest, tmp_path):
    paths = [f"corpus.manifest='{manifest}'", f"text.model='{text_folder(tmp_path / 'text')}'"]
    term = "{loss='info_nce', output='contrast', against='contrast_augmented'}"
    more = ["model.contrastive=true", f"objective=[{{loss='cross_entropy'}}, {term}]"]
    settings = [*TINY, *paths, *more, "augmented.make={n_views=1}"]
    config = load_experiment("encoders/text-only", overrides=settings)
    with pytest.raises(InputError, match=r"front_end\.name = 'none' hears nothing: leave"):
        run_experiment(config, out=tmp_path / "run", cohort=False)
