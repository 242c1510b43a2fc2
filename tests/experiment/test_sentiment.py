"""Sentiment experiments end to end, on clips whose streams each know a part of the label."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiment.toy_clips import read_metrics, read_table, small_experiment, toy_clips
from features.tiny_encoders import text_folder
from serkit.clip_data import ClipData, Frames, write_clip_data
from serkit.evaluation.sentiment import sims_scores
from serkit.experiment.config import ConfigError
from serkit.experiment.originals.mmsa_files import write_mmsa_pickle
from serkit.experiment.progress import Quiet
from serkit.experiment.sentiment.clips import (
    find_sharing,
    group_folds,
    grouping,
    official_fold,
)
from serkit.experiment.sentiment.run import SentimentConfig, run_sentiment
from serkit.experiment.tasks import load_task
from serkit.experiment.words import headline
from serkit.sentiment_model import load_sentiment_model
from serkit.training.sentiment import ClipPart
from serkit.types import InputError


def config(data: Path | str, *overrides: str, preset: str = "self_mm/honest") -> SentimentConfig:
    return small_experiment(data, *overrides, preset=preset)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    return write_clip_data(toy_clips(), tmp_path_factory.mktemp("clips") / "toy.npz")


@pytest.fixture(scope="module")
def finished(clips, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_sentiment(config(clips), out=out)
    return out


def test_a_run_leaves_everything_behind(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.json", "folds.csv", "leaks.json", "members", "predictions.csv", "curves.csv",
        "run.json", "report.html", "metrics.json", "results.csv", "model",
    }  # fmt: skip
    assert ".data" not in names
    rows = read_table(finished / "predictions.csv")
    assert len(rows) == 2 * 96
    assert {row["seed"] for row in rows} == {"1", "2"}
    for row in rows:
        assert (row["label_text"] != "") == (row["part"] == "train")
    curves = read_table(finished / "curves.csv")
    assert len(curves) == 2 * 12
    assert sum(row["selected"] == "1" for row in curves) == 2
    assert float(curves[0]["labels_text"]) == 0  # the first epoch makes no labels
    assert float(curves[-1]["labels_text"]) > 0


def test_it_learns_and_is_shown_beside_what_knows_nothing(finished):
    found = read_metrics(finished)
    assert found["scores"]["MAE"]["mean"] < 0.5 * found["baselines"]["median"]["MAE"]
    assert found["scores"]["Mult_acc_2"]["mean"] > found["baselines"]["majority"]["Mult_acc_2"]
    assert found["scores"]["MAE"]["n"] == 2
    assert found["intervals"]["MAE"]["low"] < found["scores"]["MAE"]["mean"]
    rows = [r for r in read_table(finished / "predictions.csv") if r["part"] == "test"]
    one = [r for r in rows if r["seed"] == "1"]
    truth = np.array([r["truth"] for r in one], np.float32)
    predicted = np.array([r["predicted"] for r in one], np.float32)
    assert found["per_seed"]["1"] == sims_scores(truth, predicted)
    selected = [r for r in read_table(finished / "curves.csv") if r["selected"] == "1"]
    for row in selected:
        others = [r for r in read_table(finished / "curves.csv") if r["seed"] == row["seed"]]
        assert float(row["dev_loss"]) == min(float(r["dev_loss"]) for r in others)


def test_the_report_is_one_page_that_says_what_limits_it(finished):
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "judged on gold transcripts" in page
    assert "speakers not known" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in page
    for word in ("majority", "Mult_acc_5", "weakly negative", "share clipped"):
        assert word in page
    card = (finished / "model" / "README.md").read_text(encoding="utf-8")
    assert "JUDGED ON GOLD TRANSCRIPTS" in card
    assert "| MAE |" in card


def test_runs_on_synthetic_clips_say_so_and_intervals_are_over_known_speakers(tmp_path):
    data = toy_clips(
        speakers=tuple(f"speaker{i // 4 % 6}" for i in range(96)),
        settings={"acoustic": "toy4", "vision": "toy6", "corpus": "synthetic_clips"},
    )
    path = write_clip_data(data, tmp_path / "clips.npz")
    settings = ("split.kind=group", "split.n_folds=3", "training.epochs=1", "seeds=[1]")
    out = tmp_path / "run"
    run_sentiment(config(path, *settings), out=out)
    metrics = read_metrics(out)
    assert metrics["warnings"][0] == "SYNTHETIC"
    interval = metrics["intervals"]["MAE"]
    assert (interval["cluster"], interval["n_clusters"], interval["note"]) == ("speaker", 6, "")
    assert any("interval over 6 speakers" in line for line in headline(metrics))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<li class="badge bad">SYNTHETIC</li>' in page
    assert "The interval is over 6 speakers." in page
    assert "SYNTHETIC" in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_the_screen_shows_every_score_beside_what_knows_nothing(finished):
    lines = headline(read_metrics(finished))
    assert len(lines) == 8
    assert lines[0].startswith("  Mult_acc_2")
    assert all("knowing nothing" in line for line in lines[:7])
    assert lines[-1] == "  mind: speakers not known, judged on gold transcripts"


def test_results_are_written_as_mmsa_does(finished):
    (row,) = read_table(finished / "results.csv")
    mean, deviation = (float(x) for x in row["MAE"].strip("()").split(","))
    values = [100 * scores["MAE"] for scores in read_metrics(finished)["per_seed"].values()]
    assert mean == pytest.approx(np.mean(values), abs=0.006)
    assert deviation == pytest.approx(np.std(values), abs=0.006)


def test_the_model_serves_what_was_judged(finished):
    model = load_sentiment_model(finished)
    data = toy_clips()
    runs = json.loads((finished / "model" / "config.json").read_text())
    assert runs["audio"]["names"] == [f"column{i}" for i in range(4)]
    assert runs["audio"]["made_by"] == "toy4"
    seed = "1" if "seed 1" in (finished / "model" / "README.md").read_text() else "2"
    rows = [r for r in read_table(finished / "predictions.csv") if r["seed"] == seed]
    for row in rows[::7]:
        place = data.ids.index(row["id"])
        there = data.present[place]
        found = model.predict(
            data.texts[place],
            data.audio.rows()[place] if there[1] else None,
            data.vision.rows()[place] if there[2] else None,
        )
        assert found["scores"]["M"] == pytest.approx(float(row["predicted"]), abs=1e-5)
    with pytest.raises(InputError, match="toy4"):
        model.predict(audio=np.zeros((3, 9)))


def test_the_fused_output_beats_every_stream_alone(clips, finished, tmp_path):
    fused = read_metrics(finished)["scores"]["MAE"]["mean"]
    for stream in ("text", "audio", "vision"):
        out = tmp_path / stream
        run_sentiment(config(clips, f'modalities=["{stream}"]', "seeds=[1]"), out=out)
        found = read_metrics(out)
        assert found["streams"].keys() == {stream}
        assert found["scores"]["MAE"]["mean"] > 1.5 * fused
        assert ("judged on gold transcripts" in found["warnings"]) == (stream == "text")


class Killed(BaseException):
    """A kill, as far as a test can have one."""


def test_a_killed_run_goes_on_as_if_nothing_had_happened(clips, tmp_path, monkeypatch):
    short = config(clips, "training.epochs=4", "training.save_every_batches=1")
    run_sentiment(short, out=tmp_path / "whole")
    batch = ClipPart.training_batch
    n_calls = 0

    def killed(self, rows, *, seed, epoch):
        nonlocal n_calls
        n_calls += 1
        if n_calls in (17, 29, 44):
            raise Killed
        return batch(self, rows, seed=seed, epoch=epoch)

    monkeypatch.setattr(ClipPart, "training_batch", killed)
    n_kills = 0
    while True:
        try:
            run_sentiment(short, out=tmp_path / "killed", resume=True)
            break
        except Killed:
            n_kills += 1
    assert n_kills == 3
    for name in ("predictions.csv", "curves.csv", "metrics.json", "folds.csv"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_finished_run_is_not_repeated(finished, clips):
    before = (finished / "predictions.csv").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        run_sentiment(config(clips), out=finished)
    run_sentiment(config(clips), out=finished, resume=True)
    assert (finished / "predictions.csv").read_bytes() == before


def test_folds_keep_videos_apart_and_judge_every_clip_once(clips, tmp_path):
    run_sentiment(
        config(clips, "split.kind=group", "split.n_folds=3", "training.epochs=2", "seeds=[1]"),
        out=tmp_path / "run",
    )
    rows = [r for r in read_table(tmp_path / "run" / "predictions.csv") if r["part"] == "test"]
    assert sorted(r["id"] for r in rows) == sorted(toy_clips().ids)
    by_fold: dict[str, dict[str, set[str]]] = {}
    for row in read_table(tmp_path / "run" / "folds.csv"):
        video = row["id"].split("$")[0]
        by_fold.setdefault(row["fold"], {}).setdefault(row["part"], set()).add(video)
    assert len(by_fold) == 3
    for parts in by_fold.values():
        assert not parts["train"] & parts["test"] | parts["train"] & parts["dev"]
        assert not parts["dev"] & parts["test"]
    words = json.loads((tmp_path / "run" / "leaks.json").read_text())["words"]
    assert words == ["speakers not known"]


def test_official_parts_that_share_a_video_or_a_speaker_say_so():
    parts = ("train", "test", "dev", "train") * 24
    data = toy_clips(parts=parts, speakers=("anna",) * 96)
    found = find_sharing(data, official_fold(data))
    assert found.words == ("videos shared by train and test", "speaker-dependent")
    assert any("train and test share 24 videos (video000, " in line for line in found.lines)
    assert (found.speaker_independent, found.ok) == (False, False)
    by_speaker = toy_clips(speakers=tuple("abcd" * 24))
    for by in ("speaker", "auto"):
        for fold in group_folds(by_speaker, by=by, n_folds=4, seed=0):
            speakers = [{by_speaker.speakers[i] for i in fold.rows(p)} for p in ("train", "test")]
            assert not speakers[0] & speakers[1]


def test_videos_are_kept_apart_where_a_speaker_is_not_known():
    some = toy_clips(speakers=("", *"abc") * 24)
    assert grouping(some, "auto") == "group"
    folds = group_folds(some, by="auto", n_folds=4, seed=0)
    for fold in folds:
        videos = [{some.groups[i] for i in fold.rows(p)} for p in ("train", "test")]
        assert not videos[0] & videos[1]
    found = find_sharing(some, folds)
    assert found.words == ("speaker-dependent", "some speakers not known")
    nobody = find_sharing(toy_clips(), official_fold(toy_clips()))
    assert (nobody.speaker_independent, nobody.ok) == (None, True)


def test_statistics_are_those_of_the_training_part_alone(clips, tmp_path):
    data = toy_clips()
    test = np.repeat(np.array(data.parts) != "train", data.audio.lengths)
    values = data.audio.values.copy()
    values[test] = 1e4
    audio = Frames(values, data.audio.lengths, data.audio.names)
    other = write_clip_data(toy_clips(audio=audio), tmp_path / "other.npz")
    for name, path in (("one", clips), ("other", other)):
        run_sentiment(config(path, "training.epochs=1", "seeds=[1]"), out=tmp_path / name)
    norms = [load_sentiment_model(tmp_path / name).norms["audio"] for name in ("one", "other")]
    np.testing.assert_array_equal(norms[0].mean, norms[1].mean)
    limit = load_sentiment_model(tmp_path / "one").config.audio.max_frames
    there = data.present[data.rows_of("train"), 1]
    lengths = data.audio.lengths[data.rows_of("train")][there]
    assert limit == int(lengths.mean() + 3 * lengths.std())


def test_texts_of_a_recogniser_are_read_where_asked(tmp_path):
    heard = tuple("awful" if text else "" for text in toy_clips().texts)
    path = write_clip_data(toy_clips(asr_texts=heard), tmp_path / "heard.npz")
    quick = ("training.epochs=3", "seeds=[1]")
    run_sentiment(config(path, *quick), out=tmp_path / "gold")
    run_sentiment(config(path, *quick, "asr.judged=asr"), out=tmp_path / "asr")
    run_sentiment(config(path, *quick, "asr.probability=1.0"), out=tmp_path / "noise")
    gold, asr, noise = (
        [row["predicted"] for row in read_table(tmp_path / name / "predictions.csv")]
        for name in ("gold", "asr", "noise")
    )
    assert gold != asr
    assert gold != noise
    assert "judged on ASR text" in read_metrics(tmp_path / "asr")["warnings"]


def bert_clips(folder: Path, tmp_path: Path) -> Path:
    """Clips with token numbers of the tiny network's own vocabulary, as a pickle of MMSA."""
    data = toy_clips()
    good = np.array([label > 0 for label in data.labels["T"]])
    tokens = np.zeros((96, 3, 5), dtype=np.int64)
    tokens[:, 0, :3] = np.stack([np.full(96, 0), np.where(good, 4, 9), np.full(96, 2)], axis=1)
    tokens[:, 1, :3] = 1
    return write_mmsa_pickle(toy_clips(text_bert=tokens), tmp_path / "unaligned.pkl")


@pytest.mark.parametrize("preset", ["self_mm/sims", "mtme/sims"])
def test_published_settings_run_on_files_of_mmsa(tmp_path, preset):
    pytest.importorskip("transformers")
    folder = text_folder(tmp_path / "bert", "bert")
    settings = load_task(
        preset,
        overrides=[
            f"data={json.dumps(str(bert_clips(folder, tmp_path)))}",
            f"text.model={json.dumps(str(folder))}",
            "text.max_tokens=20",
            "seeds=[1]",
            "training.epochs=2",
            "training.batch_size=8",
        ],
    )
    run_sentiment(settings, out=tmp_path / "run", cache_dir=tmp_path / "cache")
    model = load_sentiment_model(tmp_path / "run")
    assert model.text_learns
    assert model.predict("hello", np.zeros((3, 4)), None)["modalities_used"] == ["text", "audio"]


@pytest.mark.parametrize("tokens", ["own", "stored"])
def test_frozen_encoders_read_once(tmp_path, tokens):
    pytest.importorskip("transformers")
    folder = text_folder(tmp_path / "bert", "bert")
    settings = config(
        bert_clips(folder, tmp_path),
        "text.name=pretrained",
        f"text.model={json.dumps(str(folder))}",
        "text.max_tokens=20",
        f"tokens={tokens}",
        "seeds=[1]",
        "training.epochs=2",
    ).model_copy(update={"text": {"name": "pretrained", "model": str(folder), "max_tokens": 20}})
    run_sentiment(settings, out=tmp_path / "run", cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache" / "text").exists() == (tokens == "own")
    assert not load_sentiment_model(tmp_path / "run").text_learns


def test_streams_can_come_from_other_files(clips, tmp_path):
    order = np.random.default_rng(0).permutation(96)
    data = toy_clips()
    rows = data.audio.rows()
    audio, _ = Frames.of([np.concatenate([rows[i], rows[i]], axis=1) for i in order])
    other = write_clip_data(
        toy_clips(audio=audio, ids=tuple(data.ids[i] for i in order)), tmp_path / "other.npz"
    )
    quick = ("training.epochs=1", "seeds=[1]")
    run_sentiment(config(clips, *quick, f"streams.audio={other}"), out=tmp_path / "run")
    assert load_sentiment_model(tmp_path / "run").config.audio.n_features == 8
    fewer = write_clip_data(toy_clips(48), tmp_path / "fewer.npz")
    with pytest.raises(InputError, match=r"has no clip video012.* \(48 are missing\)"):
        run_sentiment(config(clips, *quick, f"streams.text={fewer}"), out=tmp_path / "none")


def test_data_below_the_folder_of_corpora_are_found(clips, tmp_path):
    out = tmp_path / "run"
    settings = config(clips.name, "training.epochs=1", "seeds=[1]")
    run_sentiment(settings, out=out, corpora_dir=clips.parent)
    assert settings.run_name == "self-mm-honest-toy"
    assert (out / "report.html").exists()


def unlabelled() -> ClipData:
    return toy_clips(labels={"M": np.where(np.arange(96) == 5, np.nan, 0.5)})


def off_scale(stream: str, value: float) -> ClipData:
    labels = dict(toy_clips().labels)
    labels[stream] = np.where(np.arange(96) % 48 == 5, value, labels[stream])
    return toy_clips(labels=labels)


@pytest.mark.parametrize(
    ("make", "overrides", "reason"),
    [
        (
            lambda: off_scale("M", 2.4),
            [],
            r"video001\$_\$0001 has the label M = 2\.4.*-1 to 1 \(2 ",
        ),
        (lambda: off_scale("A", -np.inf), [], "has the label A = -inf"),
        (lambda: off_scale("M", 9), ["scale=mosi"], "'mosi' goes from -3 to 3"),
        (toy_clips, ["text={name='vectors'}"], "vectors have one setting"),
        (toy_clips, ["text={name='vectors', n_features=4}"], "the data have no vectors of tokens"),
        (toy_clips, ["tokens=stored"], "the data have no text_bert"),
        (toy_clips, ["asr.judged=asr"], "no texts of a speech recogniser"),
        (toy_clips, ["split.kind=group", "split.n_folds=90"], "24 groups cannot make 90 folds"),
        (toy_clips, ["split.kind=group", "split.by=speaker"], "do not say who speaks"),
        (lambda: toy_clips(parts=("train",) * 96), [], "have no dev part"),
        (unlabelled, [], r"has no label of sentiment \(1 have none\)"),
        (
            lambda: toy_clips(text_bert=np.ones((96, 3, 4), np.int64)),
            ["tokens=stored"],
            "are BERT's",
        ),
    ],
)
def test_wrong_data_leave_no_run_behind(tmp_path, make, overrides, reason):
    path = write_clip_data(make(), tmp_path / "clips.npz")
    with pytest.raises(InputError, match=reason) as caught:
        run_sentiment(config(path, *overrides), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_human_labels_that_are_not_there_are_refused(tmp_path):
    labels = {"M": toy_clips().labels["M"]}
    path = write_clip_data(toy_clips(labels=labels), tmp_path / "clips.npz")
    with pytest.raises(InputError, match="no label of a stream"):
        run_sentiment(config(path, "labels.label_source=human"), out=tmp_path / "run")


def test_settings_that_would_do_nothing_are_refused():
    for override, reason in (
        ("training.encoder_learning_rate=1e-5", "set rates.text"),
        ("training.penalties=[{parameters='model', weight=1.0}]", "penalties are not used"),
        ("labels.limit=3", "labels.limit"),
        ("smell=1", "unknown key 'smell'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            config("x.npz", override)
    with pytest.raises(ConfigError, match="names no data"):
        run_sentiment(load_task("self_mm/sims"), out=Path("never"))


def test_torchrun_is_refused(monkeypatch):
    monkeypatch.setattr("serkit.experiment.sentiment.run.crew_size", lambda: 2)
    with pytest.raises(InputError, match="without torchrun"):
        run_sentiment(load_task("self_mm/sims"), out=Path("never"))


def test_progress_is_told(clips, tmp_path):
    class Heard(Quiet):
        def __init__(self) -> None:
            self.stages: list[tuple[str, int]] = []
            self.done: list[int] = []
            self.lines: list[str] = []

        def stage(self, text: str, total: int) -> None:
            self.stages.append((text, total))

        def advance(self, done: int) -> None:
            self.done.append(done)

        def say(self, line: str) -> None:
            self.lines.append(line)

    heard = Heard()
    run_sentiment(config(clips, "training.epochs=2"), out=tmp_path / "run", progress=heard)
    assert ("training 2 members", 4) in heard.stages
    assert max(heard.done) == 4
    assert "mind: judged on gold transcripts" in heard.lines
