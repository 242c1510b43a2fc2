"""An experiment from corpus to report and checkpoint, on tones whose class is audible."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

import serkit
from serkit.corpora.leaks import check_leaks
from serkit.corpora.splits import read_folds_csv
from serkit.experiment.config import ConfigError, load_experiment
from serkit.experiment.progress import Quiet
from serkit.experiment.run import run_experiment
from serkit.training.lock import FolderLock
from serkit.types import InputError
from tests_support import RATE, tone


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_what_it_promises(tone_run):
    names = {path.name for path in tone_run.iterdir()}
    assert names == {
        ".lock",
        "config.json",
        "curves.csv",
        "embeddings.npz",
        "folds.csv",
        "leaks.json",
        "members",
        "metrics.json",
        "model",
        "predictions.csv",
        "report.html",
        "results.xlsx",
        "run.json",
    }


def test_several_classes_in_one_label_are_refused_where_each_utterance_has_one(
    tiny_experiment, tone_corpus, tmp_path
):
    table = tmp_path / "joined.csv"
    table.write_text(
        "id,path,label,speaker\n"
        + "".join(
            f"u{i},{path.as_posix()},{'happy+sad' if i % 3 else 'sad'},s{i % 4}\n"
            for i, path in enumerate(sorted(tone_corpus.rglob("*.wav")))
        )
    )
    config = load_experiment(
        "timnet/speaker-independent", overrides=[f"corpus.manifest='{table.as_posix()}'"]
    )
    with pytest.raises(InputError, match=r"'happy\+sad' holds several classes: set labels\.multi"):
        run_experiment(config, out=tmp_path / "out", progress=Quiet())


def test_a_corpus_with_silent_files_is_trained_on_and_says_so(
    tiny_experiment, tone_corpus, tmp_path
):
    root = tmp_path / "tones"
    shutil.copytree(tone_corpus, root)
    for speaker in ("ann", "bob"):  # of one length: no recording that two speakers share
        soundfile.write(root / "sad" / speaker / "silent.wav", np.zeros(4000), RATE)
    said = []
    progress = Quiet()
    progress.say = said.append
    settings = [f"corpus.root='{root.as_posix()}'", "training.epochs=1", "refit=false"]
    config = load_experiment(tiny_experiment, overrides=settings)
    run_experiment(config, out=tmp_path / "out", n_jobs=1, progress=progress)
    (line,) = (line for line in said if "silence" in line)
    assert line.startswith("mind: 2 of 34 utterances are digital silence (sad/ann/silent, ")
    assert "2 of 34 utterances are digital silence" in (tmp_path / "out/report.html").read_text()
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 34


def test_every_utterance_is_predicted_once_by_a_fold_that_did_not_hear_its_speaker(tone_run):
    predictions = rows(tone_run / "predictions.csv")
    assert len(predictions) == 32
    assert len({row["id"] for row in predictions}) == 32
    for fold in read_folds_csv(tone_run / "folds.csv"):
        speakers = {part: {i.split("/")[1] for i in getattr(fold, part)} for part in PARTS}
        assert not speakers["train"] & speakers["test"]
        assert not speakers["train"] & speakers["dev"]
        assert not speakers["dev"] & speakers["test"]
        tested = {row["id"] for row in predictions if row["fold"] == fold.name}
        assert tested == set(fold.test)


PARTS = ("train", "dev", "test")


def test_an_audible_class_is_learned(tone_run):
    metrics = json.loads((tone_run / "metrics.json").read_text())
    assert metrics["pooled"]["uar"]["mean"] > 0.8


def test_run_json_says_what_was_done(tone_run):
    run = json.loads((tone_run / "run.json").read_text())
    assert run["protocol"]["speaker_independent"] is True
    assert run["protocol"]["selection"] == "best_dev"
    assert run["corpus"]["n_speakers"] == 4
    assert run["labels"] == ["happy", "sad"]
    assert json.loads((tone_run / "leaks.json").read_text())["ok"] is True


def test_the_recognizer_to_keep_knows_an_unheard_tone(tone_run):
    recognizer = serkit.load_recognizer(tone_run)
    assert recognizer.predict(tone(430, seed=99), RATE).label == "happy"
    assert recognizer.predict(tone(160, seed=98), RATE).label == "sad"
    card = (tone_run / "model" / "README.md").read_text()
    assert "leave_one_speaker_out" in card
    assert "SENTENCES SHARED" in card


def test_curves_mark_the_selected_epoch_of_every_member(tone_run):
    curves = rows(tone_run / "curves.csv")
    selected = [row for row in curves if row["selected"] == "1"]
    assert len(selected) == 4
    assert len(curves) == 4 * 12


def test_a_run_folder_is_not_used_twice(tone_run, tiny_experiment):
    config = load_experiment(tiny_experiment)
    with pytest.raises(ConfigError, match="holds a run already"):
        run_experiment(config, out=tone_run)
    with pytest.raises(ConfigError, match="holds a run of other settings"):
        run_experiment(config, out=tone_run, resume=True)


def test_a_folder_that_is_no_run_is_left_alone(tiny_experiment, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is no run folder"):
        run_experiment(load_experiment(tiny_experiment), out=tmp_path)


def test_published_protocols_carry_their_words(tiny_experiment, tmp_path):
    config = load_experiment(
        tiny_experiment,
        overrides=[
            "protocol.split=random_folds",
            "protocol.n_folds=2",
            "protocol.dev=test",
            "training.epochs=2",
            "refit=false",
        ],
    )
    run_experiment(config, out=tmp_path / "run", n_jobs=1)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["protocol"]["selection"] == "best_test"
    assert "speaker-dependent" in run["protocol"]["warnings"]
    assert "selected on test" in run["protocol"]["warnings"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "selected on test" in page
    assert "speaker-dependent" in page


def test_folds_of_another_run_can_be_used(tone_run, tiny_experiment, tmp_path):
    path = json.dumps(str(tone_run / "folds.csv"))
    config = load_experiment(
        tiny_experiment,
        overrides=[f"protocol.folds_file={path}", "training.epochs=1", "refit=false"],
    )
    run_experiment(config, out=tmp_path / "run", n_jobs=1)
    ours, theirs = rows(tmp_path / "run" / "folds.csv"), rows(tone_run / "folds.csv")
    assert ours == theirs
    assert json.loads((tmp_path / "run" / "run.json").read_text())["protocol"][
        "speaker_independent"
    ]


def test_missing_classes_are_named(tiny_experiment, tmp_path):
    config = load_experiment(tiny_experiment, overrides=["labels.keep=['happy','furious']"])
    with pytest.raises(ConfigError, match=r"furious, which the corpus does not have.*happy, sad"):
        run_experiment(config, out=tmp_path / "run")


def test_a_corpus_without_a_folder_says_where_to_put_it(tmp_path):
    config = load_experiment("timnet/base", overrides=["corpus.name=emodb"])
    with pytest.raises(ConfigError, match="no folder given: pass --corpora DIR"):
        run_experiment(config, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no folder 'emodb' in .*get the corpus from"):
        run_experiment(config, out=tmp_path / "run", corpora_dir=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_named(tiny_experiment, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        run_experiment(load_experiment(tiny_experiment), out=tmp_path / "file" / "run", n_jobs=1)


def test_a_broken_file_in_a_corpus_is_named_and_nothing_computed_is_lost(
    tone_corpus, tiny_experiment, tmp_path
):
    import shutil

    root = tmp_path / "tones"
    shutil.copytree(tone_corpus, root)
    victim = root / "sad" / "dee" / "sad-dee-3.wav"
    victim.write_bytes(victim.read_bytes()[:500])
    config = load_experiment(
        tiny_experiment, overrides=[f"corpus.root={json.dumps(str(root))}", "training.epochs=1"]
    )
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match=r"sad-dee-3.wav: truncated"):
        run_experiment(config, out=tmp_path / "run", n_jobs=1, cache_dir=cache)
    assert len(list(cache.rglob("*.safetensors"))) == 31


def test_a_second_process_in_a_run_folder_is_told(tiny_experiment, tmp_path):
    config = load_experiment(tiny_experiment, overrides=["training.epochs=1", "refit=false"])
    out = tmp_path / "run"
    run_experiment(config, out=out, n_jobs=1)
    with FolderLock(out) as other:
        other.take()
        with pytest.raises(InputError, match="another serkit is at work in this run folder"):
            run_experiment(config, out=out, resume=True, n_jobs=1)
    run_experiment(config, out=out, resume=True, n_jobs=1)


def test_a_new_folder_that_another_process_took_meanwhile_is_left_to_it(
    tiny_experiment, tmp_path, monkeypatch
):
    config = load_experiment(tiny_experiment, overrides=["training.epochs=1"])
    out = tmp_path / "run"

    def check_while_another_begins(*arguments, **settings):
        out.mkdir()
        (out / "config.json").write_text("{}")
        return check_leaks(*arguments, **settings)

    monkeypatch.setattr("serkit.experiment.run.check_leaks", check_while_another_begins)
    with pytest.raises(ConfigError, match="holds a run already"):
        run_experiment(config, out=out, n_jobs=1)


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of a run."""


class KilledInTraining(Quiet):
    def stage(self, text, total):
        self.training = text.startswith("training 4 members")

    def advance(self, done):
        if self.training and done >= 2:
            raise Killed


def test_the_duration_of_a_run_is_that_of_all_its_sittings(tiny_experiment, tmp_path, monkeypatch):
    config = load_experiment(tiny_experiment, overrides=["training.epochs=3", "refit=false"])
    out = tmp_path / "run"
    clock = {"now": 0.0, "tick": 100.0}

    def monotonic():
        clock["now"] += clock["tick"]
        return clock["now"]

    monkeypatch.setattr("serkit.experiment.run_folder.time.monotonic", monotonic)
    with pytest.raises(Killed):
        run_experiment(config, out=out, n_jobs=1, progress=KilledInTraining())
    clock["tick"] = 0.0
    run_experiment(config, out=out, resume=True, n_jobs=1)
    first = json.loads((out / "run.json").read_text())["duration_s"]
    assert first >= 100
    run_experiment(config, out=out, resume=True, n_jobs=1)  # a finished run, shown again
    assert json.loads((out / "run.json").read_text())["duration_s"] == first


def test_a_run_in_processes_keeps_its_plan(tiny_experiment, tmp_path):
    config = load_experiment(tiny_experiment, overrides=["training.epochs=1", "refit=false"])
    out = tmp_path / "run"
    run_experiment(config, out=out, n_jobs=2, memory=64 * 2**30)
    plan = json.loads((out / "run.json").read_text())["plan"]
    assert (plan["engine"], plan["n_members"], plan["n_at_once"], plan["n_waves"]) == (
        *("processes", 4),
        *(2, 2),
    )
    assert 0 < plan["member_bytes"] < plan["peak_bytes"] < plan["budget_bytes"] == 64 * 2**30


def serkit_train(experiment, out, *more) -> list[str]:
    return [sys.executable, "-m", "serkit.cli", "train", str(experiment), "--out", str(out), *more]


def test_a_run_killed_and_resumed_equals_one_that_was_not(tiny_experiment, tmp_path):
    settings = ["training.epochs=10", "refit=false"]
    settings += ["protocol.split=speaker_folds", "protocol.n_folds=2"]
    config = load_experiment(tiny_experiment, overrides=settings)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_experiment(config, out=whole, n_jobs=1)
    options = [word for setting in settings for word in ("--set", setting)]
    victim = subprocess.Popen(
        serkit_train(tiny_experiment, parts, *options, "--jobs", "1"),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    # Wait until one member is in the middle of its training.
    while time.monotonic() < deadline and not any(
        len(log.read_text().splitlines()) >= 3 for log in parts.glob("members/*/log.jsonl")
    ):
        time.sleep(0.02)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (parts / "predictions.csv").exists()
    run_experiment(config, out=parts, n_jobs=1, resume=True)
    assert rows(parts / "predictions.csv") == rows(whole / "predictions.csv")
    assert rows(parts / "curves.csv") == rows(whole / "curves.csv")
