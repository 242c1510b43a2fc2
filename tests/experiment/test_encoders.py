"""Presets of pre-trained encoders, on tiny ones: from ten lines of TOML to a checkpoint."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import serkit
from experiment.spoken_tones import RATE, spoken_tones
from features.tiny_encoders import speech_folder
from serkit.corpora.splits import dev_rule_of
from serkit.experiment.config import ExperimentConfig, load_experiment, preset_names
from serkit.experiment.progress import Quiet
from serkit.experiment.run import run_experiment
from tests_support import tone

PRESETS = [name for name in preset_names() if name.startswith("encoders/")]
DOCS = Path(__file__).parents[2] / "docs" / "encoders.md"
TINY = (
    "seeds=[1]",
    "protocol.split=speaker_folds",
    "protocol.n_folds=2",
    "training.batch_size=8",
    "training.accumulate=2",
    "labels.map={high-a='high', high-b='high', low-a='low', low-b='low'}",
)


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return speech_folder(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return spoken_tones(tmp_path_factory.mktemp("tones"), n_takes=2)


def experiment(preset: str, manifest: Path, speech: Path, *settings: str) -> ExperimentConfig:
    paths = (f"corpus.manifest='{manifest}'", f"front_end.model='{speech}'")
    return load_experiment(preset, overrides=[*TINY, *paths, *settings])


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("corpus", ["cmu_mosei", "crema_d", "emodb", "iemocap", "ravdess"])
def test_presets_keep_speakers_apart_in_every_corpus(name, corpus):
    config = load_experiment(name, overrides=[f"corpus.name={corpus}"])
    split, dev = config.protocol.split, config.protocol.dev
    assert split in ("leave_one_speaker_out", "leave_one_session_out", "speaker_folds")
    assert dev_rule_of(split, dev) in ("speaker", "session")
    assert config.training.select == "best_dev"
    assert len(config.seeds) == 3


def test_the_presets_differ_in_what_is_read_and_trained():
    configs = {name: load_experiment(name, overrides=["corpus.name=emodb"]) for name in PRESETS}
    assert set(configs) == {
        "encoders/concat",
        "encoders/fine-tuned",
        "encoders/frozen",
        "encoders/text-only",
    }
    trained = [name for name, c in configs.items() if c.front_end.get("trainable")]
    assert trained == ["encoders/fine-tuned"]
    reading = [name for name, c in configs.items() if c.text is not None]
    assert reading == ["encoders/concat", "encoders/text-only"]
    fine_tuned = configs["encoders/fine-tuned"].training
    assert fine_tuned.encoder_learning_rate == fine_tuned.learning_rate / 10


def test_the_ten_lines_of_the_page_are_an_experiment(tmp_path):
    block = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    text = block[1]
    assert len([line for line in text.splitlines() if line]) <= 10
    (tmp_path / "wavlm.toml").write_text(text, encoding="utf-8")
    config = load_experiment(tmp_path / "wavlm.toml")
    assert "wavlm" in config.front_end["model"]
    assert config.protocol.split == "leave_one_speaker_out"
    assert len(config.seeds) == 5
    assert config.corpus.manifest is not None
    assert config.model == {"name": "pooled"}


def test_a_frozen_encoder_is_run_judged_and_used(manifest, speech, tmp_path):
    settings = ("training.epochs=12", "training.learning_rate=1e-2")
    config = experiment("encoders/frozen", manifest, speech, *settings)
    out = tmp_path / "run"
    run_experiment(config, out=out, n_jobs=1, cohort=False)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["pooled"]["uar"]["mean"] > 0.8
    assert json.loads((out / "run.json").read_text())["protocol"]["speaker_independent"] is True
    recognizer = serkit.load_recognizer(out)
    assert recognizer.predict(tone(430, rate=RATE, seed=99), RATE).label == "high"


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of a run."""


class KilledInTraining(Quiet):
    training = False

    def stage(self, text: str, total: int) -> None:
        self.training = text.startswith("training 2 members")

    def advance(self, done: int) -> None:
        if self.training and done >= 3:  # in the middle of the second member
            raise Killed


def test_a_fine_tuned_encoder_is_trained_and_resumed_exactly(manifest, speech, tmp_path):
    settings = ("training.epochs=2", "training.save_every_s=0", "refit=false")
    config = experiment("encoders/fine-tuned", manifest, speech, *settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_experiment(config, out=whole, cohort=False)
    with pytest.raises(Killed):
        run_experiment(config, out=parts, cohort=False, progress=KilledInTraining())
    assert not (parts / "predictions.csv").exists()
    run_experiment(config, out=parts, cohort=False, resume=True)
    assert rows(parts / "predictions.csv") == rows(whole / "predictions.csv")
    assert rows(parts / "curves.csv") == rows(whole / "curves.csv")


def test_fine_tuning_moves_the_encoder_but_not_its_convolutions(manifest, speech, tmp_path):
    from safetensors.torch import load_file

    settings = ("training.epochs=1", "refit=false", "training.encoder_learning_rate=1e-2")
    config = experiment("encoders/fine-tuned", manifest, speech, *settings)
    run_experiment(config, out=tmp_path / "run", cohort=False)
    member = next((tmp_path / "run" / "members").glob("fold*"))
    before = load_file(speech / "model.safetensors")
    after = load_file(member / "model" / "model.safetensors")
    after |= load_file(member / "model" / "frozen.safetensors")
    moved = {
        name
        for name, value in before.items()
        if name != "masked_spec_embed" and not value.equal(after[f"front_end.encoder.{name}"])
    }
    assert any(name.startswith("encoder.layers.") for name in moved)
    assert not any(name.startswith("feature_extractor.") for name in moved)
