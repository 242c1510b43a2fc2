"""Speech is taken apart, stored, put together; and the codes carry what they are named for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from experiment.sung_syllables import RATE, sung_corpus, syllables
from serkit.experiment.config import ConfigError
from serkit.experiment.decomposition.model import build_parts_front_end, load_decomposition
from serkit.experiment.decomposition.run import DecompositionConfig, run_decomposition
from serkit.experiment.tasks import load_task
from serkit.features.pitch import track_f0
from serkit.features.resynthesis import mel_to_sound
from serkit.features.speech_parts import SpeechPartsConfig
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.types import InputError

PANELS = ["truth", "full", "no-content", "no-rhythm", "no-pitch"]
SMALLEST = (
    "model.sizes.content_width=16",
    "model.sizes.pitch_width=16",
    "model.sizes.timbre_width=16",
    "model.sizes.decoder_units=8",
    "training.epochs=2",
    "training.save_every_s=0",
    "training.accelerator=cpu",
    "n_samples=1",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return sung_corpus(tmp_path_factory.mktemp("sung"), n_each=3)


def settings(corpus: Path, *overrides: str, preset: str = "tiny") -> DecompositionConfig:
    config = load_task(
        f"speech_split/{preset}",
        overrides=[f"corpus.manifest={corpus}", *SMALLEST, *overrides],
    )
    assert isinstance(config, DecompositionConfig)
    return config


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_decomposition(settings(corpus), out=out, cache_dir=out.parent / "cache")
    return out


@pytest.fixture(scope="module")
def run_of_folds(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "out"
    config = settings(corpus, "per_fold=true", "n_samples=0")
    run_decomposition(config, out=out, n_jobs=1, cache_dir=out.parent / "cache")
    return out


# The run and its folder --------------------------------------------------------------------------


def test_a_run_leaves_a_model_pictures_sounds_and_a_page_that_needs_nothing_else(run):
    metrics = json.loads((run / "metrics.json").read_text())
    (sample,) = metrics["samples"]
    assert [panel["name"] for panel in sample["panels"]] == PANELS
    assert (run / f"reconstruction-{sample['id']}.png").read_bytes().startswith(b"\x89PNG")
    for panel in PANELS:
        sound, rate = soundfile.read(run / "audio" / f"{sample['id']}-{panel}.wav")
        assert rate == RATE
        assert 0 < np.abs(sound).max() < 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:audio/wav;base64,") == len(PANELS)
    assert page.count("data:image/png;base64,") == 1
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert len((run / "members" / "all" / "log.jsonl").read_text().splitlines()) == 2
    assert not (run / ".data").exists()
    assert "Heard in training" in (run / "model" / "README.md").read_text(encoding="utf-8")


def test_each_epoch_says_what_the_dev_error_is_without_each_stream(run):
    row = json.loads((run / "members" / "all" / "log.jsonl").read_text().splitlines()[0])
    for stream in ("content", "rhythm", "pitch", "timbre"):
        assert row[f"dev_mse_without_{stream}"] > 0
    assert row["dev_loss"] > 0


def test_the_stored_error_is_that_of_the_kept_epoch(run):
    metrics = json.loads((run / "metrics.json").read_text())
    rows = (run / "members" / "all" / "log.jsonl").read_text().splitlines()
    kept = json.loads(rows[metrics["folds"][0]["selected_epoch"] - 1])
    assert metrics["folds"][0]["mse"]["full"] == pytest.approx(kept["dev_loss"], rel=1e-6)


def test_the_checkpoint_says_whom_it_heard_and_comes_back(run, corpus):
    saved = json.loads((run / "model" / "config.json").read_text())
    assert saved["task"] == "decomposition"
    assert saved["trained_on"]["speakers"] == [["sung", s] for s in ("ann", "bea", "cem", "dan")]
    loaded = load_decomposition(run)
    stored = load_file(run / "model" / "model.safetensors")
    assert stored.keys() == loaded.split.state_dict().keys()
    waveform, rate = soundfile.read(corpus.parent / "ann0.wav", dtype="float32")
    parts = loaded.extract(waveform, rate)
    assert parts.shape == (1 + len(waveform) // 256, 81)
    again = load_decomposition(run / "model").reconstruct(parts)
    torch.testing.assert_close(again, loaded.reconstruct(parts))


def test_an_emotion_experiment_finds_the_parts_it_was_trained_on(run):
    recognizer = Recognizer(
        RecognizerConfig(
            system="decomposed",
            classes=("happy", "sad"),
            view={"kind": "whole"},
            front_end={"name": "fbank"},
            parts={"name": "speech_parts"},
            model={"name": "decomposed", "decomposition": "none"},
        )
    )
    saved = json.loads((run / "model" / "config.json").read_text())
    assert saved["front_end"] == recognizer.parts_settings()


def test_folds_have_a_decomposition_each_that_never_heard_the_test_speaker(run_of_folds):
    homes = sorted((run_of_folds / "folds").iterdir())
    assert len(homes) == 4
    for home in homes:
        saved = json.loads((home / "model" / "config.json").read_text())
        heard = {speaker for _, speaker in saved["trained_on"]["speakers"]}
        (unheard,) = {"ann", "bea", "cem", "dan"} - heard
        assert unheard in home.name
        assert load_decomposition(home).trained_on["fold"] == home.name
    metrics = json.loads((run_of_folds / "metrics.json").read_text())
    assert [fold["judged_on"] for fold in metrics["folds"]] == ["test"] * 4
    assert not (run_of_folds / "model").exists()


@pytest.mark.slow
def test_folds_trained_side_by_side_end_the_same(run_of_folds, corpus, tmp_path):
    config = settings(corpus, "per_fold=true", "n_samples=0")
    run_decomposition(config, out=tmp_path / "two", n_jobs=2, cache_dir=tmp_path / "cache")
    for home in (run_of_folds / "folds").iterdir():
        alone = load_file(home / "model" / "model.safetensors")
        other = load_file(tmp_path / "two" / "folds" / home.name / "model" / "model.safetensors")
        for name, tensor in alone.items():
            torch.testing.assert_close(other[name], tensor)


def test_a_run_of_numbered_speakers_in_192_frames(corpus, tmp_path):
    config = settings(corpus, "training.learning_rate=1e-3", preset="paper")
    run_decomposition(config, out=tmp_path / "out", cache_dir=tmp_path / "cache")
    loaded = load_decomposition(tmp_path / "out")
    assert loaded.split.config.n_speakers == 4
    assert loaded.number_of("sung/bea") == 1
    assert loaded.number_of("sung/somebody") == -100
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["folds"][0]["selected_epoch"] == 2


def test_a_single_encoder_has_one_panel_without_its_code(corpus, tmp_path):
    config = settings(corpus, preset="single")
    run_decomposition(config, out=tmp_path / "out", cache_dir=tmp_path / "cache")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    panels = [panel["name"] for panel in metrics["samples"][0]["panels"]]
    assert panels == ["truth", "full", "no-joint"]


def test_two_corpora_are_trained_on_together(corpus, tmp_path):
    (tmp_path / "second").mkdir()
    lines = sung_corpus(tmp_path / "second", n_each=2).read_text().splitlines()
    second = tmp_path / "second" / "renamed.csv"
    rows = [f"other-{line.replace(',sung,', ',other,')}" for line in lines[1:]]
    second.write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    config = settings(corpus, f'more_corpora=[{{manifest="{second.as_posix()}"}}]', "n_samples=0")
    run_decomposition(config, out=tmp_path / "out", cache_dir=tmp_path / "cache")
    loaded = load_decomposition(tmp_path / "out")
    assert loaded.trained_on["corpora"] == ["other", "sung"]
    assert len(loaded.trained_on["speakers"]) == 8


def test_what_was_killed_goes_on_and_ends_the_same(run, corpus, tmp_path):
    config = settings(corpus)
    script = (
        "import sys, pathlib, os, signal\n"
        "from serkit.experiment.decomposition.run import *\n"
        "from serkit.experiment.decomposition import run as d\n"
        "class Killer(d.Quiet):\n"
        "    def advance(self, done):\n"
        "        if (out / 'members/all/state.safetensors').exists():\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "config = DecompositionConfig.model_validate_json(sys.argv[2])\n"
        "run_decomposition(config, out=out, cache_dir=out.parent / 'cache', progress=Killer())\n"
    )
    # The second epoch's row is told after the first one's state has been written.
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", script, str(out), config.model_dump_json()],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (out / "model").exists()
    with pytest.raises(ConfigError, match="holds a run already"):
        run_decomposition(config, out=out)
    run_decomposition(config, out=out, resume=True, cache_dir=tmp_path / "cache")
    whole = load_file(run / "model" / "model.safetensors")
    resumed = load_file(out / "model" / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)
    rows = (out / "members" / "all" / "log.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]


def test_a_finished_run_is_shown_again_without_training(run, corpus, tmp_path):
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    run_decomposition(settings(corpus), out=run, resume=True, cache_dir=tmp_path / "cache")
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before


# Settings ----------------------------------------------------------------------------------------


def test_without_folds_the_dev_part_is_of_other_speakers(corpus, tmp_path):
    config = settings(corpus, "protocol.n_dev=2", "n_samples=0")
    run_decomposition(config, out=tmp_path / "out", cache_dir=tmp_path / "cache")
    rows = (tmp_path / "out" / "folds.csv").read_text().splitlines()[1:]
    speakers = {
        part: {row.split(",")[2][:3] for row in rows if row.split(",")[1] == part}
        for part in ("train", "dev")
    }
    assert len(speakers["dev"]) == 2
    assert not speakers["train"] & speakers["dev"]


def test_settings_that_cannot_be_are_refused(corpus, tmp_path):
    def attempt(*overrides: str) -> None:
        config = settings(corpus, *overrides)
        run_decomposition(config, out=tmp_path / "out", cache_dir=tmp_path / "cache")

    with pytest.raises(ConfigError, match="nothing that could be right"):
        attempt("training.select_by=uar")
    with pytest.raises(ConfigError, match="without per_fold expected one of speaker, random, none"):
        attempt("protocol.dev=session")
    with pytest.raises(ConfigError, match="4 speakers leaves nobody to train on"):
        attempt("protocol.n_dev=4")
    with pytest.raises(InputError, match="a decomposition is of the front end 'speech_parts'"):
        attempt("front_end.name=fbank")
    with pytest.raises(InputError, match=r"model\.widths: unknown setting"):
        attempt("model.widths=3")
    with pytest.raises(ConfigError, match="no utterances are left"):
        attempt('labels.keep=["happy"]')
    with pytest.raises(ConfigError, match="need different ids"):
        attempt(f'more_corpora=[{{manifest="{corpus.as_posix()}"}}]')
    assert not (tmp_path / "out").exists()


def test_what_is_no_decomposition_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"of a decomposition of speech.*give folds/NAME"):
        load_decomposition(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 1, "classes": []}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="a recognizer of emotion, expected a decomposition"):
        load_decomposition(tmp_path)
    saved = json.loads((run / "model" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"format": 99}))
    with pytest.raises(InputError, match="checkpoint format 99, expected 1"):
        load_decomposition(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="damaged or incomplete checkpoint"):
        load_decomposition(tmp_path)
    with pytest.raises(InputError, match=r"front_end\.name is None"):
        build_parts_front_end({})


# Swapping and sound ------------------------------------------------------------------------------


def test_swapping_takes_streams_of_another_utterance(run):
    loaded = load_decomposition(run)
    one = loaded.extract(syllables(1, colour=0.5, seconds=0.8), RATE)
    other = loaded.extract(syllables(2, colour=1.0, seconds=1.2), RATE)
    longer = torch.zeros(len(other), 81)
    longer[:, 80] = -1
    longer[: len(one)] = one
    nothing = loaded.swap(one, other, taken=())
    torch.testing.assert_close(nothing, loaded.reconstruct(longer))
    everything = loaded.swap(one, other, taken=loaded.split.config.streams)
    torch.testing.assert_close(everything, loaded.reconstruct(other))
    mixed = loaded.swap(one, other, taken=("rhythm", "pitch", "timbre"))
    assert mixed.shape == (len(other), 80)
    assert not torch.equal(mixed, everything)
    assert len(loaded.to_sound(mixed)) == (len(other) - 1) * 256
    with pytest.raises(InputError, match="taken 'words': no such stream"):
        loaded.swap(one, other, taken=("words",))


def test_a_spectrogram_becomes_a_sound_of_that_spectrogram_and_pitch(run):
    loaded = load_decomposition(run)
    wave = syllables(7, colour=0.5)
    parts = loaded.extract(wave, RATE)
    sound = loaded.to_sound(parts[:, :80])
    again = loaded.extract(sound, RATE)
    assert len(again) == len(parts)
    loud = parts[:, :80].mean(1) > parts[:, :80].mean()
    assert (again[loud, :80] - parts[loud, :80]).abs().mean() < 0.03  # 3 dB
    f0, f0_again = (track_f0(x.astype(np.float64), RATE) for x in (wave, sound))
    n = min(len(f0), len(f0_again))
    both = (f0[:n] > 0) & (f0_again[:n] > 0)
    assert both.sum() > 30
    assert np.median(np.abs(np.log2(f0[:n][both] / f0_again[:n][both]))) < 1 / 24


def test_a_spectrogram_of_another_shape_has_no_sound():
    for shape in ((50, 79), (3, 80), (50,)):
        with pytest.raises(InputError, match=r"expected \(n_frames, 80\) with at least 5 frames"):
            mel_to_sound(np.zeros(shape), SpeechPartsConfig())
