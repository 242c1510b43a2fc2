"""Sentiment experiments whose heads tell classes apart, end to end on toy clips."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from experiment.toy_clips import (
    EMOTIONS,
    read_metrics,
    read_table,
    small_experiment,
    toy_clips,
    toy_emotions,
)
from serkit.cli import app
from serkit.clip_data import ClipData, write_clip_data
from serkit.evaluation.predictions import read_predictions
from serkit.experiment.config import ConfigError
from serkit.experiment.reports import write_any_report
from serkit.experiment.sentiment.classes import ClassesConfig, find_classes
from serkit.experiment.sentiment.clips import chosen_clips
from serkit.experiment.sentiment.run import SentimentConfig, run_sentiment
from serkit.experiment.words import headline
from serkit.sentiment_model import load_sentiment_model
from serkit.types import InputError


def config(data: Path | str, *overrides: str, preset: str = "self_mm/classes") -> SentimentConfig:
    return small_experiment(data, *overrides, preset=preset)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clip_data(toy_emotions(), tmp_path_factory.mktemp("clips") / "toy.npz")


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_sentiment(config(clips), out=out)
    return out


def test_a_run_is_judged_as_any_system_of_emotion_is(finished):
    found = read_metrics(finished)
    assert found["classes"] == list(EMOTIONS)
    assert found["pooled"]["uar"]["mean"] > 0.8
    assert found["pooled"]["uar"]["n"] == 2
    assert found["majority_baseline"]["uar"] == pytest.approx(1 / 3)
    assert found["intervals"]["uar"]["cluster"] == "speaker"
    assert {row["name"] for row in found["per_speaker"]} <= {f"speaker{i}" for i in range(6)}
    lines = headline(found)
    assert any("UAR" in line for line in lines)
    assert any(line.startswith("  always '") for line in lines)
    assert lines[-1].startswith("  mind: ")
    page = (finished / "report.html").read_text(encoding="utf-8")
    for word in ("angry", "judged on gold transcripts", "speaker-dependent", "Leak check"):
        assert word in page
    assert (finished / "results.xlsx").exists()
    assert write_any_report(finished) == finished / "report.html"


def test_predictions_hold_the_test_part_with_speakers_and_scores(finished):
    rows = read_table(finished / "predictions.csv")
    data = toy_emotions()
    test = {data.ids[row] for row in data.rows_of("test")}
    assert {row["id"] for row in rows} == test
    assert len(rows) == 2 * len(test)
    for row in rows:
        place = data.ids.index(row["id"])
        assert row["truth"] == data.annotations[place].lower()
        assert row["speaker"] == data.speakers[place]
        scores = {name: float(row[f"score_{name}"]) for name in EMOTIONS}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == max(scores, key=scores.__getitem__)
    curves = read_table(finished / "curves.csv")
    assert curves[0].keys() >= {"train_loss", "dev_loss", "dev_uar", "dev_war", "selected"}
    for seed in ("1", "2"):
        own = [row for row in curves if row["seed"] == seed]
        (kept,) = (row for row in own if row["selected"] == "1")
        assert float(kept["dev_uar"]) == max(float(row["dev_uar"]) for row in own)


def test_each_stream_has_a_table_of_the_clips_that_have_it(finished):
    data = toy_emotions()
    test = data.rows_of("test")
    assert not data.present[test].all()
    for column, stream in enumerate(("text", "audio", "vision")):
        found = read_predictions(finished / "streams" / f"{stream}.csv")
        there = {data.ids[row] for row in test if data.present[row, column]}
        assert set(found.ids.tolist()) == there
        assert found.classes == EMOTIONS
        assert (found.truth == found.predicted).mean() > 0.5
    card = (finished / "model" / "README.md").read_text(encoding="utf-8")
    for words in ("UAR of the head of audio alone", "the class of the clip", "SPEAKER-DEPENDENT"):
        assert words in card


def test_runs_are_compared_and_evaluated_from_the_command_line(finished, clips, tmp_path):
    voice = tmp_path / "voice"
    run_sentiment(config(clips, 'modalities=["audio"]', "training.epochs=6"), out=voice)
    assert {path.name for path in (voice / "streams").iterdir()} == {"audio.csv"}
    assert "judged on gold transcripts" not in read_metrics(voice)["warnings"]
    done = CliRunner().invoke(app, ["compare", str(finished), str(voice)])
    assert done.exit_code == 0, done.output
    streams = [str(path) for path in sorted((finished / "streams").glob("*.csv"))]
    done = CliRunner().invoke(app, ["evaluate", *streams])
    assert done.exit_code == 0, done.output


def test_the_model_serves_what_was_judged(finished):
    model = load_sentiment_model(finished)
    assert model.config.classes == EMOTIONS
    data = toy_emotions()
    card = (finished / "model" / "README.md").read_text()
    seed = "1" if "seed 1 of" in card else "2"
    rows = [row for row in read_table(finished / "predictions.csv") if row["seed"] == seed]
    for row in rows[::5]:
        place = data.ids.index(row["id"])
        there = data.present[place]
        found = model.predict(
            data.texts[place],
            data.audio.rows()[place] if there[1] else None,
            data.vision.rows()[place] if there[2] else None,
        )
        for name in EMOTIONS:
            assert found["scores"]["M"][name] == pytest.approx(
                float(row[f"score_{name}"]), abs=1e-5
            )
        assert found["label"] == row["predicted"]


def test_streams_learn_what_people_named_in_them(clips, tmp_path):
    run_sentiment(config(clips, "labels.label_source=human", "seeds=[1]"), out=tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["protocol"]["stream_heads"] == "human"
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "what people named in it" in card
    data = toy_emotions()
    model = load_sentiment_model(tmp_path / "run")
    odd = [
        row
        for row in range(len(data))
        if data.present[row].all()
        and data.stream_annotations["V"][row] != data.annotations[row].lower()
    ]
    right = []
    for row in odd:
        said = model.predict(vision=data.vision.rows()[row])["scores"]["V"]
        right.append(max(said, key=said.__getitem__) == data.stream_annotations["V"][row])
    assert np.mean(right) > 0.7


def test_a_killed_run_goes_on_and_a_finished_one_is_not_repeated(finished, clips):
    before = (finished / "predictions.csv").read_bytes()
    run_sentiment(config(clips), out=finished, resume=True)
    assert (finished / "predictions.csv").read_bytes() == before


def test_folds_of_own_clips_keep_speakers_apart(clips, tmp_path):
    settings = config(
        clips, "split.kind=group", "split.n_folds=3", "training.epochs=2", "seeds=[1]"
    )
    assert settings.split.by == "auto"
    run_sentiment(settings, out=tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["protocol"]["split"] == "speaker_folds"
    assert run["protocol"]["speaker_independent"] is True
    found = read_metrics(tmp_path / "run")
    assert "speaker-dependent" not in found["warnings"]
    assert found["n_utterances"] == 96
    assert found["n_folds"] == 3
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "speaker-independent" in page
    by_video = config(
        clips, "split.kind=group", "split.by=group", "training.epochs=1", "seeds=[1]",
        "split.n_folds=3",
    )  # fmt: skip
    run_sentiment(by_video, out=tmp_path / "video")
    assert "speaker-dependent" in read_metrics(tmp_path / "video")["warnings"]


def test_numbers_are_cut_into_the_classes_of_ch_sims(tmp_path):
    path = write_clip_data(toy_clips(), tmp_path / "numbers.npz")
    run_sentiment(
        config(
            path, "classes.source=label", "classes.n=5", "seeds=[1]", "training.epochs=4",
            "labels.label_source=human",
        ),
        out=tmp_path / "run",
    )  # fmt: skip
    found = read_metrics(tmp_path / "run")
    order = ["negative", "weakly negative", "neutral", "weakly positive", "positive"]
    assert found["classes"] == [name for name in order if name in found["classes"]]
    assert len(found["classes"]) == 5


def test_classes_are_spelled_alike_merged_and_kept():
    data = toy_emotions(annotations=tuple(("Anger", "joy", "SAD")[i % 3] for i in range(96)))
    same, classes = find_classes(data, ClassesConfig(), scale="sims", streams=True)
    assert same is data
    assert classes.names == EMOTIONS
    assert classes.whole.tolist() == [i % 3 for i in range(96)]
    assert set(classes.streams) == {"text", "audio", "vision"}
    merged = ClassesConfig(map={"Anger": "negative", "sad": "negative"})
    _, two = find_classes(data, merged, scale="sims", streams=False)
    assert two.names == ("happy", "negative")
    assert not two.streams
    fewer, kept = find_classes(
        data, ClassesConfig(keep=("happy", "sad")), scale="sims", streams=True
    )
    assert len(fewer) == 64
    assert kept.names == ("happy", "sad")
    assert set(kept.whole.tolist()) == {0, 1}
    assert -1 in kept.streams["audio"]  # streams that show what is not kept
    rows = np.array([5, 2])
    two_clips = chosen_clips(data, rows)
    assert two_clips.ids == (data.ids[5], data.ids[2])
    np.testing.assert_array_equal(two_clips.audio.rows()[0], data.audio.rows()[5])


def test_clips_of_other_classes_are_left_out_and_counted(clips, tmp_path):
    run_sentiment(
        config(clips, 'classes.keep=["happy", "sad"]', "training.epochs=1", "seeds=[1]"),
        out=tmp_path / "run",
    )
    found = read_metrics(tmp_path / "run")
    assert found["classes"] == ["happy", "sad"]
    assert "32 clips of other classes left out" in found["warnings"]


def test_cuts_lie_where_ch_sims_has_them():
    labels = {
        "M": np.array([-0.7, -0.1, 0.0, 0.1, 0.2, 1.0] * 16),
        "A": np.array([np.nan, 1.0, 1.0, 1.0, 1.0, 1.0] * 16),
    }
    _, classes = find_classes(
        toy_clips(labels=labels), ClassesConfig(source="label", n=3), scale="sims", streams=True
    )
    assert classes.names == ("negative", "neutral", "positive")
    assert classes.whole[:6].tolist() == [0, 0, 1, 1, 2, 2]
    assert classes.streams["audio"][:6].tolist() == [-1, 2, 2, 2, 2, 2]


def nameless() -> ClipData:
    return toy_emotions(annotations=("", *("sad", "happy") * 47, "sad"))


def one_rare() -> ClipData:
    data = toy_emotions()
    rare = [data.parts.index("test")]
    names = ["happy" if i % 2 else "sad" for i in range(96)]
    names[rare[0]] = "fear"
    return replace(data, annotations=tuple(names))


@pytest.mark.parametrize(
    ("make", "overrides", "reason"),
    [
        (nameless, [], r"has no annotation \(1 have none\)"),
        (lambda: toy_emotions(annotations=()), [], r"has no annotation \(96 have none\)"),
        (lambda: toy_emotions(annotations=("sad",) * 96), [], r"have 1 class \(sad\)"),
        (toy_emotions, ['classes.keep=["joyous"]'], "keep names 'joyous', .* angry, happy, sad"),
        (toy_emotions, ["classes.source=label"], r"no label of sentiment to cut .* \(96 have"),
        (toy_clips, ["classes.source=label", "scale=mosi"], "borders of CH-SIMS, and the scale is"),
        (one_rare, [], "official: no clip to train on is 'fear'"),
        (
            lambda: toy_emotions(stream_annotations={}),
            ["labels.label_source=human"],
            "the data name no class of a stream; set it to clip",
        ),
        (toy_emotions, ["model.n_outputs=4"], "n_outputs follows from the classes"),
        (
            toy_emotions,
            ["split.kind=group", "split.n_folds=8"],
            "6 speakers cannot make 8 folds: .* or split.by = 'group', which lets speakers",
        ),
        (
            lambda: toy_emotions(speakers=("", *("anna",) * 95)),
            ["split.kind=group", "split.by=speaker"],
            "1 of 96 clips do not say who speaks",
        ),
    ],
)
def test_wrong_data_leave_no_run_behind(tmp_path, make, overrides, reason):
    path = write_clip_data(make(), tmp_path / "clips.npz")
    with pytest.raises(InputError, match=reason) as caught:
        run_sentiment(config(path, *overrides), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("preset", "overrides", "reason"),
    [
        ("self_mm/honest", ["target=classes"], "generated for numbers alone; for classes take"),
        ("self_mm/classes", ["labels.label_source=blend"], "generated for numbers alone"),
        ("self_mm/classes", ["weighting=disagreement"], "for classes take 'even'"),
        ("self_mm/honest", ["classes.n=5"], "set target = 'classes'"),
        ("self_mm/honest", ["labels.label_source=clip"], "'clip' is for target = 'classes'"),
        ("self_mm/classes", ["classes.n=4"], "classes.n"),
    ],
)
def test_settings_without_a_meaning_are_refused(preset, overrides, reason):
    with pytest.raises(ConfigError, match=reason):
        config("x.npz", *overrides, preset=preset)


def test_synthetic_clips_of_emotions_are_learned_and_judged(tmp_path):
    for package in ("av", "cv2", "librosa"):
        pytest.importorskip(package)
    from serkit.corpora.synthetic_clips import ClipLook, generate
    from serkit.experiment.extraction.config import ExtractConfig
    from serkit.experiment.extraction.extract import extract_clips

    made = generate(
        tmp_path / "clips",
        n_clips=36,
        emotions=("happy", "sad"),
        disagree=0.0,
        look=ClipLook(height=96, width=128, fps=4),
    )
    features = tmp_path / "features.npz"
    extract_clips(
        made, ExtractConfig(), features, n_workers=0, cache_dir=tmp_path / "cache",
        corpus="synthetic_clips",
    )  # fmt: skip
    out = tmp_path / "run"
    run_sentiment(config(features, "training.epochs=25", "seeds=[1]"), out=out)
    found = read_metrics(out)
    assert found["classes"] == ["happy", "sad"]
    assert found["pooled"]["uar"]["mean"] >= 0.9  # one test voice, whose words are learned
    assert found["warnings"].count("SYNTHETIC") == 1
    assert "SYNTHETIC" in (out / "model" / "README.md").read_text()
    clip = next(one for one in made if one.part == "test")
    done = CliRunner().invoke(
        app,
        ["predict", str(clip.path), "--model", str(out), "--text", clip.text, "--format", "json"],
    )
    assert done.exit_code == 0, done.output
    (told,) = json.loads(done.stdout)
    assert told["label"] == clip.annotation
    assert told["scores"]["fused"].keys() == {"happy", "sad"}
    assert told["pairs"].keys() == {"text+audio", "text+vision", "audio+vision"}
    assert sum(told["pairs"]["audio+vision"].values()) == pytest.approx(1, abs=1e-5)
