"""Decomposed speech from manifest to prediction: its variants, its start, its error rates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from experiment.spoken_tones import spoken_tones
from serkit import load_recognizer
from serkit.audio import load_audio
from serkit.experiment.config import ConfigError, load_experiment
from serkit.experiment.run import run_experiment
from serkit.models.speech_split import SpeechSplit, SpeechSplitConfig, SplitSizes
from serkit.types import InputError

SIZES = {
    "content_width": 16,
    "rhythm_width": 16,
    "pitch_width": 16,
    "content_units": 2,
    "pitch_units": 2,
    "decoder_units": 8,
    "n_decoder_layers": 1,
    "timbre_width": 16,
    "n_timbre": 8,
}
TINY = (
    "seeds=[1]",
    "model.backbone_width=8",
    "model.n_backbone_layers=1",
    *(f"model.sizes.{name}={value}" for name, value in SIZES.items()),
    "protocol.split=speaker_folds",
    "protocol.n_folds=2",
    "training.batch_size=8",
    "training.learning_rate=3e-3",
    "training.accelerator=cpu",
    "refit=false",
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tones")
    return f"corpus.manifest='{spoken_tones(folder, n_takes=2)}'"


def run(preset: str, out: Path, *settings: str) -> Path:
    config = load_experiment(preset, overrides=[*TINY, *settings])
    run_experiment(config, out=out, cohort=False)
    return out


@pytest.fixture(scope="module")
def final(manifest, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("final") / "run"
    more = ("training.epochs=12", "refit=true", "training.patience=12")
    return run("decomposed/small+variants/final", out, manifest, *more)


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_the_final_system_learns_and_says_what_it_heard(final):
    assert metrics(final)["pooled"]["uar"]["mean"] > 0.4  # by the pitch, two groups of two: 0.5
    heard = metrics(final)["heard"]
    assert heard["n_utterances"] == 32
    assert 0 < heard["wer"] <= 2
    with open(final / "predictions.csv", newline="", encoding="utf-8") as file:
        assert "heard" in next(csv.reader(file))
    assert "word error rate (WER)" in (final / "report.html").read_text()


def test_the_checkpoint_predicts_without_knowing_the_speaker(final, tmp_path):
    recognizer = load_recognizer(final / "model")
    config = json.loads((final / "model" / "config.json").read_text())
    assert len(config["speakers"]) == 4
    path = next(Path(r["path"]) for r in csv.DictReader(open(final / "predictions.csv")))
    waveform, rate = load_audio(path)
    together = recognizer.score([waveform, np.concatenate([waveform, waveform])])
    alone = recognizer.score([waveform])
    assert rate == recognizer.sample_rate
    np.testing.assert_allclose(together[0], alone[0], atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "heads"),
    [
        ("ser-only", {"emotion"}),
        ("ser-asr", {"emotion", "asr"}),
        ("single-encoder", {"emotion", "asr", "speaker", "reconstruction"}),
        ("no-rhythm", {"emotion", "asr", "speaker", "reconstruction"}),
        ("no-timbre", {"emotion", "asr", "reconstruction"}),
        ("codes-only", {"emotion", "speaker", "reconstruction"}),
        ("no-transcription", {"emotion", "speaker", "reconstruction"}),
        ("no-speaker", {"emotion", "asr", "reconstruction"}),
        ("no-reconstruction", {"emotion", "asr", "speaker"}),
    ],
)
def test_variants_train_for_an_epoch(variant, heads, manifest, tmp_path):
    more = ["training.epochs=1", 'protocol.only=["fold-01"]']
    preset = f"decomposed/small+variants/{variant}"
    config = load_experiment(preset, overrides=[*TINY, manifest, *more])
    assert {term.output for term in config.objective} == heads
    run_experiment(config, out=tmp_path / "run", cohort=False)
    assert ("heard" in metrics(tmp_path / "run") and bool(metrics(tmp_path / "run")["heard"])) == (
        "asr" in heads
    )
    assert len(list((tmp_path / "run" / "members").glob("*-seed1"))) == 1


def stage_one(folder: Path, parts: dict, *, speakers: list[list[str]]) -> None:
    """Leave a decomposition as its training does."""
    folder.mkdir(parents=True)
    network = SpeechSplit(SpeechSplitConfig(sizes=SplitSizes(**SIZES)))
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "format": 1,
        "task": "decomposition",
        "front_end": parts,
        "trained_on": {"speakers": speakers},
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_members_start_from_a_decomposition_and_reports_say_whom_it_heard(
    final, manifest, tmp_path
):
    parts = json.loads((final / "model" / "config.json").read_text())["parts"]
    more = ["training.epochs=1", "model.freeze_decomposer=true", "model.n_speakers=4"]
    with open(final / "predictions.csv", newline="", encoding="utf-8") as file:
        tested = sorted({row["speaker"] for row in csv.DictReader(file)})
    for name, speakers, heard in (
        ("another", [["other", "x"]], False),
        ("same", [["tones", speaker] for speaker in tested], True),
    ):
        stage_one(tmp_path / name / "model", parts, speakers=speakers)
        settings = [manifest, *more, f"parts_from='{tmp_path / name}'"]
        out = run("decomposed/small+variants/final", tmp_path / f"run-{name}", *settings)
        warnings = json.loads((out / "run.json").read_text())["protocol"]["warnings"]
        assert ("pre-trained on the speech of test speakers" in warnings) == heard
        start = load_file(tmp_path / name / "model" / "model.safetensors")
        (member,) = (out / "members").glob("fold-01-seed1/model")
        kept = load_file(member / "frozen.safetensors")
        same = [name for name in kept if name.startswith("model.decomposer.encoders")]
        assert same
        for name in same:
            np.testing.assert_array_equal(kept[name], start[name.removeprefix("model.")])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nothing", "is no trained decomposition"),
        ("others", "was trained on the parts"),
        ("damaged", "is no trained decomposition"),
        ("wider", "give model.sizes the sizes it was trained with"),
    ],
)
def test_what_cannot_be_started_from_is_refused_before_any_work(
    wrong, message, final, manifest, tmp_path, monkeypatch
):
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "cache"))
    parts = json.loads((final / "model" / "config.json").read_text())["parts"]
    settings = [manifest, f"parts_from='{tmp_path / wrong}'"]
    if wrong != "nothing":
        parts |= {"n_mels": 40} if wrong == "others" else {}
        stage_one(tmp_path / wrong / "model", parts, speakers=[])
    if wrong == "damaged":
        (tmp_path / wrong / "model" / "config.json").write_text('["decomposition"]')
    if wrong == "wider":
        settings.append("model.sizes.content_width=32")
    with pytest.raises(InputError, match=message):
        run("decomposed/small+variants/final", tmp_path / "run", *settings)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_parts_go_with_whole_utterances_at_one_rate(manifest, tmp_path):
    for settings, message in (
        (["parts.sample_rate=8000", "parts.f_max_hz=3900"], "set one sample_rate for both"),
        (
            [
                "view.kind=segments",
                "view.n_samples=8000",
                "view.train_hop=8000",
                "view.test_hop=8000",
            ],
            "a view of whole utterances",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run("decomposed/small+variants/final", tmp_path / "run", manifest, *settings)


def test_an_unknown_fold_is_refused(manifest, tmp_path):
    with pytest.raises(ConfigError, match=r"names the fold 'nobody', expected some of fold-01"):
        run("decomposed/small", tmp_path / "run", manifest, 'protocol.only=["nobody"]')


@pytest.mark.parametrize("scale", ["speaker", "corpus"])
def test_pitch_is_scaled_by_more_than_the_utterance(scale, manifest, tmp_path):
    more = ["training.epochs=1", 'protocol.only=["fold-01"]', "refit=true"]
    out = run(
        "decomposed/small+variants/codes-only",
        tmp_path / "run",
        manifest,
        *more,
        f"pitch_norm={scale}",
    )
    warnings = json.loads((out / "run.json").read_text())["protocol"]["warnings"]
    assert any("all recordings of a test speaker" in word for word in warnings) == (
        scale == "speaker"
    )
    state = load_file(out / "model" / "model.safetensors")
    if scale == "corpus":  # tones of 150 to 560 Hz
        assert np.log(200) < float(state["pitch_norm.mean"]) < np.log(400)
    assert ("pitch_norm.mean" in state) == (scale == "corpus")


def test_the_scale_of_pitch_is_stated_once(manifest, tmp_path):
    with pytest.raises(ConfigError, match="follows from pitch_norm"):
        run(
            "decomposed/small+variants/final",
            tmp_path / "run",
            manifest,
            "parts.f0_norm=none",
        )
