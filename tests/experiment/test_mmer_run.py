"""MMER from manifest to prediction, where voice and words tell one half of the label each."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from experiment.spoken_tones import PITCH_HZ, RATE, WORDS, spoken_tones
from features.tiny_encoders import speech_folder, text_folder
from serkit.experiment.config import load_experiment
from serkit.experiment.run import run_experiment
from serkit.types import InputError
from tests_support import tone

TINY = (
    "seeds=[1]",
    "text.max_tokens=60",
    "model.width=16",
    "model.n_heads=2",
    "protocol.split=speaker_folds",
    "protocol.n_folds=2",
    "training.epochs=12",
    "training.batch_size=8",
    "training.accumulate=1",
    "training.learning_rate=3e-3",
)
ALONE = ("refit=false", 'objective=[{loss="cross_entropy"}]')


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("places")
    (folder / "tones").mkdir()
    return [
        f"corpus.manifest='{spoken_tones(folder / 'tones')}'",
        f"front_end.model='{speech_folder(folder / 'speech')}'",
        f"text.model='{text_folder(folder / 'text')}'",
    ]


@pytest.fixture(scope="module")
def run(places, tmp_path_factory) -> Path:
    """MMER with a trained speech encoder and a frozen text encoder."""
    out = tmp_path_factory.mktemp("mmer") / "run"
    config = load_experiment("mmer/honest", overrides=[*TINY, *places])
    run_experiment(config, out=out, cohort=False)
    return out


def uar(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text())["pooled"]["uar"]["mean"])


def test_presets_differ_as_their_sources_do():
    configs = {
        name: load_experiment(f"mmer/{name}", overrides=["corpus.name=iemocap"])
        for name in ("as-published", "paper", "honest")
    }
    published, paper, honest = (configs[name] for name in ("as-published", "paper", "honest"))
    assert published.protocol.split == "leave_one_session_out"
    assert published.protocol.dev == "test"
    assert [(t.loss, t.weight) for t in published.objective] == [
        ("cross_entropy", 1.0),
        ("ctc", 0.1),
        ("scl_published", 0.1),
        ("acl_published", 0.1),
    ]
    ctc = published.objective[1]
    assert (ctc.ctc_reduction, ctc.zero_infinity) == ("sum", False)
    training = published.training
    assert (training.batch_size, training.accumulate, training.learning_rate) == (2, 4, 5e-5)
    assert (training.weight_decay, training.epochs, training.select_by) == (0.01, 100, "uar")
    assert published.labels.map == {"excited": "happy"}
    assert paper.objective == published.objective
    assert (paper.training.batch_size, paper.training.learning_rate) == (4, 1e-5)
    assert honest.protocol.dev == "session"
    assert [t.loss for t in honest.objective] == ["cross_entropy", "ctc", "supcon", "info_nce"]
    assert honest.objective[1].ctc_reduction == "mean"
    assert len(honest.seeds) == 3
    assert honest.front_end == published.front_end
    assert honest.front_end["trainable"] is True


def test_transcripts_in_lower_case_are_spelled_in_every_preset():
    from serkit.transcripts import ctc_clean

    for name in ("as-published", "paper", "honest"):
        config = load_experiment(f"mmer/{name}", overrides=["corpus.name=iemocap"])
        assert config.ctc is not None
        assert ctc_clean("Excuse me.", style=config.ctc.style) == "EXCUSE ME"


def test_voice_and_words_together_tell_what_neither_tells_alone(run, places, tmp_path):
    for stream, more in (("speech", ()), ("text", ("model.n_symbols=0",))):
        settings = [*TINY, *places, *ALONE, *more, f"model.streams={stream}"]
        config = load_experiment("mmer/honest", overrides=settings)
        run_experiment(config, out=tmp_path / stream, cohort=False)
        assert uar(tmp_path / stream) < 0.65
    assert uar(run) > 0.8


@pytest.mark.parametrize("preset", ["encoders/text-only", "encoders/concat"])
def test_plain_systems_on_words_are_run(preset, places, tmp_path):
    settings = [*TINY, "refit=false", "training.epochs=25"]
    settings += places if preset == "encoders/concat" else [places[0], places[2]]
    config = load_experiment(preset, overrides=settings)
    run_experiment(config, out=tmp_path / "run", cohort=False)
    assert (uar(tmp_path / "run") > 0.8) == (preset == "encoders/concat")


def test_the_published_objective_trains_where_nothing_is_augmented(places, tmp_path):
    settings = [*TINY, *places, "protocol.dev=test", "training.epochs=1", "refit=false"]
    config = load_experiment("mmer/as-published", overrides=settings)
    run_experiment(config, out=tmp_path / "run", cohort=False)
    protocol = json.loads((tmp_path / "run" / "run.json").read_text())["protocol"]
    assert "selected on test" in protocol["warnings"]


def test_a_saved_model_reads_and_listens_in_another_process(run, tmp_path):
    clips = {f"{p}-{w}": tmp_path / f"{p}-{w}.wav" for p in PITCH_HZ for w in WORDS}
    lines = ["file,text"]
    for name, path in clips.items():
        pitch, words = name.split("-")
        wave = tone(PITCH_HZ[pitch] * 1.03, seconds=0.25, rate=RATE, seed=77)
        soundfile.write(path, wave, RATE)
        lines.append(f'{path.name},"{WORDS[words][0]}"')
    (tmp_path / "texts.csv").write_text("\n".join(lines), encoding="utf-8")
    command = [sys.executable, "-m", "serkit.cli", "predict", "--model", str(run)]

    def predicted(*arguments: str) -> dict[str, str]:
        words = [*command, "--format", "json", *arguments]
        done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
        return {row["file"]: row["label"] for row in json.loads(done.stdout)}

    names = [path.name for path in clips.values()]
    found = predicted(*names, "--texts", "texts.csv")
    assert found == {path.name: name for name, path in clips.items()}
    assert predicted("low-a.wav", "--text", WORDS["b"][0]) == {"low-a.wav": "low-b"}


def test_utterances_without_transcript_are_named(places, tmp_path):
    with open(places[0].split("'")[1], newline="", encoding="utf-8") as file:
        cut = [",".join(row[:-1]) for row in csv.reader(file)]
    bare = Path(places[0].split("'")[1]).with_name("bare.csv")
    bare.write_text("\n".join(cut) + "\n", encoding="utf-8")
    settings = [*TINY, *places, f"corpus.manifest='{bare}'"]
    config = load_experiment("mmer/honest", overrides=settings)
    with pytest.raises(InputError, match="48 of 48 utterances have no transcript, the first is"):
        run_experiment(config, out=tmp_path / "run", cohort=False)
