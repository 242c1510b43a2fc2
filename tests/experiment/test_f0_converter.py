"""An F0 converter is trained like a decomposition, stored, and used beside one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from experiment.sung_syllables import RATE, sung_corpus, syllables
from serkit.cli import app
from serkit.experiment.config import ConfigError
from serkit.experiment.decomposition.model import load_decomposition
from serkit.experiment.decomposition.pitch_converter import load_pitch_converter
from serkit.experiment.decomposition.run import DecompositionConfig, run_decomposition
from serkit.experiment.reports import write_any_report
from serkit.experiment.tasks import load_task
from serkit.models.speech_split import F0Converter, F0ConverterConfig
from serkit.types import InputError

SMALLEST = (
    "model.sizes.rhythm_width=16",
    "model.sizes.pitch_width=16",
    "training.epochs=2",
    "training.save_every_s=0",
    "training.accelerator=cpu",
    "n_samples=2",
)
CONVERTER = (*SMALLEST, "model.decoder_units=8")
SPLIT = (*SMALLEST, "model.sizes.content_width=16", "model.sizes.decoder_units=8")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return sung_corpus(tmp_path_factory.mktemp("sung"), n_each=3)


def settings(corpus: Path, *overrides: str, preset: str = "f0-converter-small"):
    config = load_task(
        f"speech_split/{preset}", overrides=[f"corpus.manifest={corpus}", *overrides]
    )
    assert isinstance(config, DecompositionConfig)
    return config


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = ["train", "speech_split/f0-converter-small", "--out", str(out)]
    for override in (f"corpus.manifest={corpus}", *CONVERTER):
        arguments += ["--set", override]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


def test_a_run_leaves_a_model_scores_pictures_and_a_page(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["contours"]) == {"resampled", "own", "copy", "always"}
    for row in metrics["contours"].values():
        assert row["cross_entropy"] > 0
        assert 0 <= row["voiced"] <= 1
        assert 0 <= row["voicing"] <= 1
    rows = [json.loads(r) for r in (run / "members/all/log.jsonl").read_text().splitlines()]
    kept = rows[metrics["folds"][0]["selected_epoch"] - 1]
    assert metrics["contours"]["resampled"]["cross_entropy"] == pytest.approx(kept["dev_loss"])
    assert metrics["contours"]["resampled"]["voiced"] == pytest.approx(kept["dev_voiced"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert "always the commonest" in page
    assert "voiced frames" in metrics["finding"]
    assert metrics["finding"].split(".")[0] in page
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "| resampled |" in card
    assert "Heard in training" in card
    assert not (run / ".data").exists()


def test_its_report_is_written_again_from_the_folder(run):
    before = (run / "report.html").read_text(encoding="utf-8")
    assert write_any_report(run).read_text(encoding="utf-8") == before


def test_what_was_killed_goes_on_and_ends_the_same(run, corpus, tmp_path):
    config = settings(corpus, *CONVERTER)
    script = (
        "import sys, pathlib, os, signal\n"
        "from serkit.experiment.decomposition import run as d\n"
        "class Killer(d.Quiet):\n"
        "    def advance(self, done):\n"
        "        if (out / 'members/all/state.safetensors').exists():\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "config = d.DecompositionConfig.model_validate_json(sys.argv[2])\n"
        "d.run_decomposition(config, out=out, progress=Killer())\n"
    )
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), config.model_dump_json()],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    run_decomposition(config, out=out, resume=True)
    whole = load_file(run / "model" / "model.safetensors")
    resumed = load_file(out / "model" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)


def test_folds_have_a_converter_each(corpus, tmp_path):
    config = settings(corpus, *CONVERTER, "per_fold=true", "n_samples=0", "training.epochs=1")
    run_decomposition(config, out=tmp_path / "out", n_jobs=1)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [fold["judged_on"] for fold in metrics["folds"]] == ["test"] * 4
    for fold in metrics["folds"]:
        home = tmp_path / "out" / "folds" / fold["name"]
        assert load_pitch_converter(home).trained_on["fold"] == fold["name"]
    mean = sum(fold["contours"]["own"]["cross_entropy"] for fold in metrics["folds"]) / 4
    assert metrics["contours"]["own"]["cross_entropy"] == pytest.approx(mean)


def test_the_published_network_and_its_training_are_a_preset():
    config = load_task("speech_split/f0-converter", overrides=["corpus.name=emodb"])
    assert isinstance(config, DecompositionConfig)
    model = dict(config.model)
    assert model.pop("name") == "f0_converter"
    network = F0Converter(F0ConverterConfig(**model))
    assert sum(p.numel() for p in network.parameters()) == 3_485_849
    assert (config.training.select, config.mask_padding, config.crops.pad_to) == (
        "last",
        False,
        192,
    )
    assert config.training.epochs * 508 / 16 == pytest.approx(640_000, rel=1e-3)


def test_padding_is_counted_where_that_is_asked_for(corpus, tmp_path):
    config = settings(corpus, *CONVERTER, "training.epochs=1", preset="f0-converter")
    run_decomposition(config, out=tmp_path / "out")
    (row,) = (tmp_path / "out" / "members" / "all" / "log.jsonl").read_text().splitlines()
    assert json.loads(row)["dev_loss"] > 0


# Use ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(corpus, run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("split") / "out"
    config = settings(corpus, *SPLIT, f"pitch_converter={run}", preset="tiny")
    run_decomposition(config, out=out)
    return out


def test_a_decomposition_says_its_samples_with_the_pitch_of_the_next_one(split):
    samples = json.loads((split / "metrics.json").read_text())["samples"]
    assert [sample["pitch_of"] for sample in samples] == [samples[1]["id"], samples[0]["id"]]
    page = (split / "report.html").read_text(encoding="utf-8")
    for sample in samples:
        assert sample["panels"][-1]["name"] == "other-pitch"
        sound, _ = soundfile.read(split / "audio" / f"{sample['id']}-other-pitch.wav")
        assert len(sound) > 0
        assert f"with the pitch of {sample['pitch_of']}" in page


def test_the_pitch_of_another_utterance_takes_the_rhythm_of_this_one(run, split):
    converter, decomposition = load_pitch_converter(run), load_decomposition(split)
    one = converter.extract(syllables(1, colour=0.5, seconds=0.8), RATE)
    for seconds in (0.5, 0.8, 1.2):
        other = decomposition.extract(syllables(2, colour=1.0, seconds=seconds), RATE)
        f0 = converter.convert(one, other)
        assert f0.shape == (len(one),)
        assert ((f0 == -1) | ((f0 > 0) & (f0 <= 1))).all()
        imposed = converter.impose(one, other)
        assert torch.equal(imposed[:, :-1], one[:, :-1])
        assert torch.equal(imposed[:, -1], f0)
        assert decomposition.reconstruct(imposed).shape == (len(one), 80)
    with pytest.raises(InputError, match=r"parts of shape \(12, 80\), expected \(n_frames, 81\)"):
        converter.convert(one, torch.zeros(12, 80))


def test_what_does_not_fit_is_refused(run, split, corpus, tmp_path):
    def attempt(*overrides: str) -> None:
        config = settings(corpus, *SPLIT, *overrides, preset="tiny")
        run_decomposition(config, out=tmp_path / "out")

    with pytest.raises(ConfigError, match="give both the same settings"):
        attempt(f"pitch_converter={run}", "front_end.f0_max_hz=500")
    with pytest.raises(InputError, match="a decomposition of speech, expected a pitch converter"):
        attempt(f"pitch_converter={split}")
    with pytest.raises(InputError, match="a pitch converter, expected a decomposition of speech"):
        load_decomposition(run)
    with pytest.raises(InputError, match="of a pitch converter: looked for"):
        load_pitch_converter(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.name is 'converter': expected speech_split or"):
        attempt("model.name=converter")
    with pytest.raises(InputError, match=r"model\.streams: unknown setting"):
        attempt("model.name=f0_converter", 'model.streams=["pitch"]')
    with pytest.raises(ConfigError, match="samples of a converter are contours"):
        attempt("model.name=f0_converter", "model.decoder_units=8", f"pitch_converter={run}")
    assert not (tmp_path / "out").exists()
