"""The command: verbs, exit codes, one line for every bad input."""

import csv
import json
import pickle
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from serkit import cli
from serkit.cli import app
from tests_support import RATE, tone


@pytest.fixture
def serkit(monkeypatch, capsys):
    """Run the command in this process; gives exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def error_line(result) -> str:
    """Check that a result is the input's fault in one line, and return the line."""
    code, _, err = result
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("serkit: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_help_lists_the_verbs(serkit):
    code, out, _ = serkit("--help")
    assert code == 0
    for verb in ("demo", "corpora", "prepare", "train", "evaluate", "compare", "report", "predict"):
        assert verb in out


def test_start_up_is_quick_and_free_of_torch():
    # Relative to torch's own start, so that a slow machine does not decide.
    def seconds(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - begin

    heavy = "import sys; assert not {'torch', 'pandas', 'matplotlib', 'sklearn'} & set(sys.modules)"
    for module in ("serkit", "serkit.cli", "serkit.corpora", "serkit.evaluation"):
        subprocess.run([sys.executable, "-c", f"import {module}; {heavy}"], check=True)
    assert seconds("import serkit.cli") < seconds("import torch")


def test_corpora_are_listed(serkit):
    code, out, _ = serkit("corpora")
    assert code == 0
    assert "emodb" in out
    assert "ravdess" in out
    code, out, _ = serkit("corpora", "--json")
    emodb = next(c for c in json.loads(out) if c["name"] == "emodb")
    assert emodb["n_utterances"] == 535


def test_doctor_says_what_is_there(serkit):
    code, out, _ = serkit("doctor")
    assert code == 0
    assert "torch" in out
    assert {row["what"] for row in json.loads(serkit("doctor", "--json")[1])} >= {"Python", "torch"}


def test_presets_and_keys_are_listed(serkit):
    assert "timnet/speaker-independent" in serkit("train", "--list")[1]
    assert "training.epochs" in serkit("train", "--keys")[1]


def test_train_evaluate_compare_report_predict(serkit, tiny_experiment, tmp_path, monkeypatch):
    out = tmp_path / "run"
    code, stdout, _ = serkit(
        "train", tiny_experiment, "--out", out, "--jobs", 1, "--set", "training.epochs=3"
    )
    assert code == 0
    assert "UAR (UA)" in stdout
    assert "mind: sentences shared" in stdout

    code, stdout, _ = serkit("evaluate", out / "predictions.csv", "--json")
    assert code == 0
    assert json.loads(stdout)[0]["n_utterances"] == 32

    book = tmp_path / "book.xlsx"
    code, stdout, _ = serkit("compare", out, out / "predictions.csv", "--xlsx", book)
    assert code == 0
    assert book.exists()

    (out / "report.html").unlink()
    assert serkit("report", out)[0] == 0
    assert (out / "report.html").exists()

    clip = tmp_path / "clip.wav"
    soundfile.write(clip, tone(440), RATE)
    code, stdout, _ = serkit("predict", clip, "--model", out, "--format", "json")
    assert code == 0
    assert json.loads(stdout)[0]["label"] in ("happy", "sad")


def test_train_prints_json_for_programs(serkit, tiny_experiment, tmp_path):
    code, stdout, _ = serkit(
        *("train", tiny_experiment, "--out", tmp_path / "run", "--jobs", 1, "--json"),
        *("--set", "training.epochs=1", "--set", "refit=false"),
    )
    assert code == 0
    assert set(json.loads(stdout)) == {"report", "metrics"}


def test_prepare_writes_a_manifest_that_trains(serkit, tone_corpus, tiny_experiment, tmp_path):
    manifest = tmp_path / "tones.csv"
    code, stdout, _ = serkit("prepare", "folder", tone_corpus, "-o", manifest)
    assert code == 0
    assert "32 utterances" in stdout
    code, stdout, _ = serkit(
        *("train", tiny_experiment, "--out", tmp_path / "run", "--jobs", 1),
        *("--set", f"corpus={{manifest={json.dumps(str(manifest))}}}"),
        *("--set", "training.epochs=1", "--set", "refit=false"),
    )
    assert code == 0


def test_an_incomplete_corpus_is_reported_and_not_silently_used(serkit, tmp_path):
    root = tmp_path / "emodb"
    root.mkdir()
    for name in ("03a01Fa", "03a01Nc", "08a01Fa", "08a02Wb"):
        soundfile.write(root / f"{name}.wav", tone(200, seconds=1.5, rate=16_000), 16_000)
    manifest = tmp_path / "m.csv"
    code, stdout, _ = serkit("prepare", "emodb", root, "-o", manifest)
    assert code == 2
    assert "4 of 535 utterances" in stdout
    assert not manifest.exists()
    code, stdout, _ = serkit("prepare", "emodb", root, "-o", manifest, "--allow-incomplete")
    assert code == 0
    assert manifest.exists()
    line = error_line(
        serkit("train", "timnet/base", "--set", "corpus.name=emodb", "--corpora", tmp_path,
               "--out", tmp_path / "run")
    )  # fmt: skip
    assert "4 of 535" in line
    assert "allow" in line


def test_results_on_an_incomplete_corpus_say_so(serkit, tmp_path):
    root = tmp_path / "emodb"
    root.mkdir()
    for speaker in ("03", "08", "09"):
        for i, name in enumerate(("a01Fa", "a02Fa", "a01Wc", "a02Wb")):
            wave = tone(200 + 50 * i, seconds=0.5, rate=16_000, seed=int(speaker + str(i)))
            soundfile.write(root / f"{speaker}{name}.wav", wave, 16_000)
    out = tmp_path / "run"
    code, _, err = serkit(
        *("train", "timnet/speaker-independent", "--corpora", tmp_path, "--out", out),
        *("--jobs", 1, "--set", "corpus.name=emodb", "--set", "corpus.allow_incomplete=true"),
        *("--set", "training.epochs=1", "--set", "training.min_epochs=1", "--set", "seeds=[1]"),
        *("--set", "model.n_scales=2"),
    )
    assert code == 0, err
    assert "incomplete" in (out / "report.html").read_text().lower()
    assert "INCOMPLETE CORPUS" in (out / "model" / "README.md").read_text()
    assert not json.loads((out / "run.json").read_text())["corpus"]["complete"]


# --- every bad input in one line -------------------------------------------------------------


def stereo(channels: int, rate: int, **kwargs):
    return lambda path: soundfile.write(
        path, np.stack([tone(300, rate=rate)] * channels, axis=1), rate, **kwargs
    )


USABLE = {
    "8-bit": stereo(1, 8_000, subtype="PCM_U8"),
    "96 kHz": stereo(2, 96_000, subtype="PCM_24"),
    "7.1": stereo(8, 48_000),
    "wrong extension": lambda path: soundfile.write(path, tone(300), RATE, format="FLAC"),
}


@pytest.mark.parametrize("kind", sorted(USABLE))
def test_unusual_sound_is_recognised(serkit, tone_run, tmp_path, kind):
    clip = tmp_path / "clip.wav"
    USABLE[kind](clip)
    code, out, _ = serkit("predict", clip, "--model", tone_run, "--format", "csv")
    assert code == 0
    assert next(csv.DictReader(out.splitlines()))["label"] in ("happy", "sad")


def truncated(path):
    soundfile.write(path, tone(300), RATE)
    path.write_bytes(path.read_bytes()[:2000])


BAD = {
    "missing": (lambda path: None, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
    "truncated": (truncated, "truncated: the header promises"),
    "silent": (lambda p: soundfile.write(p, np.zeros(9000), RATE), "digital silence"),
    "NaN": (
        lambda p: soundfile.write(p, np.full(9000, np.nan), RATE, subtype="FLOAT"),
        "NaN or infinite",
    ),
    "no samples": (lambda p: soundfile.write(p, np.zeros(0), RATE), "holds no samples"),
    "text": (lambda path: path.write_text("I am a poem"), "cannot be decoded as audio"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1])), "cannot be decoded as audio"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_sound_is_one_line_and_the_good_file_is_still_recognised(
    serkit, tone_run, tmp_path, kind
):
    make, message = BAD[kind]
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    soundfile.write(good, tone(440), RATE)
    make(bad)
    out = tmp_path / "out.csv"
    result = serkit(
        "predict", bad, good, "--model", tone_run, "--format", "csv", "--out", out, "--jobs", 1
    )
    line = error_line(result)
    assert "1 of 2 files could not be used" in line
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert re.search(message, first["error"])
    assert second["label"] == "happy"


def test_a_folder_without_sound_is_one_line(serkit, tone_run, tmp_path):
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "good.wav", tone(440), RATE)
    result = serkit(
        "predict", tmp_path / "empty", tmp_path / "good.wav", "--model", tone_run, "--jobs", 1
    )
    assert "1 of 2 files could not be used; first:" in error_line(result)
    assert "no sound files or videos in this folder" in error_line(result)
    assert "happy" in result[1]


def test_a_hostile_checkpoint_is_one_line_and_runs_nothing(serkit, tone_run, tmp_path):
    hostile = tmp_path / "model"
    hostile.mkdir()
    (hostile / "config.json").write_bytes((tone_run / "model" / "config.json").read_bytes())
    mark = tmp_path / "exploded"
    (hostile / "model.safetensors").write_bytes(pickle.dumps(Bomb(str(mark))))
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, tone(440), RATE)
    line = error_line(serkit("predict", clip, "--model", hostile))
    assert "not a readable safetensors file" in line
    assert not mark.exists()


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_bad_arguments_are_one_line(serkit, tone_run, tmp_path):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, tone(440), RATE)
    assert "no checkpoint" in error_line(serkit("predict", clip, "--model", tmp_path / "none"))
    assert "expected one of" in error_line(
        serkit("predict", clip, "--model", tone_run, "--format", "xml")
    )
    assert "is in a folder that does not exist" in error_line(
        serkit("predict", clip, "--model", tone_run, "--out", tmp_path / "no" / "where.csv")
    )
    assert "is a folder: name a file" in error_line(
        serkit("score", "t.csv", "--model", tone_run, "--out", tmp_path)
    )
    assert "--xlsx" in error_line(serkit("compare", tone_run, tone_run, "--xlsx", tmp_path))
    assert "'--jobs': Input should be greater" in error_line(
        serkit("predict", clip, "--model", tone_run, "--jobs", "-1")
    )
    assert "unknown corpus 'emobd'" in error_line(serkit("prepare", "emobd", tmp_path))
    assert "name an experiment" in error_line(serkit("train"))
    assert "No such command" in error_line(serkit("trian"))
    assert "No such option" in error_line(serkit("doctor", "--loud"))
    assert "unknown key" in error_line(
        serkit("train", "timnet/base", "--set", "corpus.name=emodb", "--set", "training.lr=1")
    )
    assert "expected one of" in error_line(serkit("prepare", "folder", tmp_path, "--format", "xml"))


def test_bad_limits_are_one_line(serkit, tiny_experiment, tmp_path):
    train = ("train", tiny_experiment, "--out", tmp_path / "run", "--set", "training.epochs=1")
    assert "expected an amount such as 8GiB" in error_line(serkit(*train, "--memory", "lots"))
    assert not (tmp_path / "run").exists()
    assert "leave out --jobs" in error_line(serkit(*train, "--jobs", 2, "--no-cohort"))
    assert "jobs" in error_line(serkit(*train, "--jobs", 0))
    line = error_line(serkit(*train, "--memory", "1MiB"))
    assert "one member needs" in line
    assert "the limit is 1 MiB" in line
    # What failed for want of memory goes on with more of it.
    code, _, err = serkit(*train, "--resume", "--no-cohort", "--set", "refit=true")
    assert code == 0
    assert "plan: 4 members, one by one in this process" in err


def test_bad_tables_and_runs_are_one_line(serkit, tmp_path):
    table = tmp_path / "p.csv"
    table.write_text("id,truth\na,sad\n")
    assert "p.csv" in error_line(serkit("evaluate", table))
    assert "no such" in error_line(serkit("evaluate", tmp_path / "none.csv")).lower()
    assert str(tmp_path) in error_line(serkit("report", tmp_path))
    assert str(tmp_path) in error_line(serkit("compare", tmp_path, tmp_path))


def test_our_own_faults_exit_with_one(serkit, monkeypatch):
    def broken():
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("serkit.corpora.catalogue", broken)
    code, _, err = serkit("corpora")
    assert code == 1
    assert "internal error: ZeroDivisionError: ours" in err
    assert "Traceback" not in err
    assert "Traceback" in serkit("corpora", "--debug")[2]


def test_interrupting_says_how_to_go_on(serkit, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("serkit.corpora.catalogue", interrupted)
    code, _, err = serkit("corpora")
    assert code == 130
    assert "--resume" in err


def test_a_clip_to_judge_goes_with_the_flag():
    result = CliRunner().invoke(app, ["demo", "clip.mp4"])
    assert "a clip to judge goes with --clip" in str(result.exception)
