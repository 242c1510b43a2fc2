"""From videos to a page about one: the demo of clips, small; and, slowly, what it is worth."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("librosa")

from serkit.corpora import synthetic_clips
from serkit.corpora.synthetic import engine_name
from serkit.evaluation.clip_page import loudness_db, write_clip_page
from serkit.experiment import clip_demo
from serkit.experiment.clip_demo import CAUTION, ClipDemoSize, prepare_clips, run_clip_demo
from serkit.experiment.sentiment.run import run_sentiment
from serkit.experiment.tasks import load_task
from serkit.types import InputError
from serkit.video import VideoError, write_clip

SMALL = ClipDemoSize(n_clips=24, n_spoken=40, asr_epochs=1, epochs=2)
STREAMS = {"text": "T", "audio": "A", "vision": "V"}
SPEAKS = engine_name().startswith("eSpeak")


def prediction(path: Path, **changes):
    window = {"fused": 0.2, "text": None, "audio": 0.1, "vision": -0.4}
    return {
        "file": str(path),
        "duration_s": 1.0,
        "text": "so <nice>",
        "text_source": "asr",
        "asr": {
            "backend": "own",
            "language": None,
            "confidence": 0.8,
            "segments": [{"text": "so", "start_s": 0.1, "end_s": 0.3, "score": 0.9}],
        },
        "faces": {"frames": 10, "with_face": 9},
        "scores": window,
        "label_2": "positive",
        "label_3": "positive",
        "label_5": "weakly positive",
        "modalities_used": ["audio", "vision"],
        "warnings": ["no text: judged without it"],
        "timings_ms": {"features": 12.3},
        "over_time": [{"start_s": 0.0, "end_s": 1.0} | window],
    } | changes


@pytest.fixture
def clip(tmp_path) -> Path:
    pictures = (np.full((96, 128, 3), 12 * n, np.uint8) for n in range(10))
    wave = (0.1 * np.sin(np.arange(16_000) / 5)).astype(np.float32)
    write_clip(tmp_path / "clip.mp4", pictures, fps=10, waveform=wave, sample_rate=16_000)
    return tmp_path / "clip.mp4"


def test_the_page_holds_everything_and_fetches_nothing(clip, tmp_path):
    page = write_clip_page(
        tmp_path / "clip.html",
        prediction(clip),
        title="A clip",
        caution=CAUTION,
        facts=[("model", "toy")],
        planted={"fused": 0.4, "vision": -0.6},
    ).read_text()
    assert page.count("data:image/jpeg;base64,") == 10
    assert page.count("<svg") == 2
    assert "so &lt;nice&gt;" in page
    assert CAUTION in page
    assert "+0.40" in page
    assert "no text: judged without it" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_page_of_a_voice_has_no_pictures(tmp_path):
    soundfile.write(tmp_path / "voice.wav", np.ones(8_000, np.float32) / 9, 16_000)
    one = prediction(tmp_path / "voice.wav", asr=None, text="", text_source="none")
    page = write_clip_page(tmp_path / "p.html", one, title="x", caution="y").read_text()
    assert "data:image/jpeg" not in page
    assert "Nobody knows." in page


def test_a_clip_that_went_away_has_no_page(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        write_clip_page(tmp_path / "p.html", prediction(tmp_path / "x"), title="x", caution="y")


def test_loudness_is_measured_in_steps():
    wave = np.concatenate([np.zeros(1_600), np.ones(1_600), np.full(400, 0.1)]).astype(np.float32)
    times, decibels = loudness_db(wave, 16_000)
    assert times == pytest.approx([0.025, 0.075, 0.125, 0.175, 0.225])
    assert decibels[:4] == pytest.approx([-60, -60, 0, 0])
    assert len(loudness_db(np.zeros(0, np.float32), 16_000)[0]) == 1


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        run_clip_demo(tmp_path, size=SMALL)
    (tmp_path / "clip_demo.json").write_text('{"seed": 7}')
    with pytest.raises(InputError, match="holds a demo of other settings"):
        run_clip_demo(tmp_path, size=SMALL)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("cut.mp4", "cut.mp4: "),
        ("notes.mp4", "notes.mp4: "),
        ("folder.mp4", "director"),
        ("silent.wav", "digital silence: nothing to judge"),
        ("wall.mp4", "no face found.*no sound in it: nothing to judge"),
    ],
)
def test_a_clip_that_cannot_be_judged_is_refused_before_anything_is_made(clip, tmp_path, name, why):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    (tmp_path / "notes.mp4").write_text("not a clip, but a long enough text\n" * 40)
    (tmp_path / "folder.mp4").mkdir()
    soundfile.write(tmp_path / "silent.wav", np.zeros(8_000, np.float32), 16_000)
    walls = (np.full((96, 128, 3), 128, np.uint8) for _ in range(5))
    write_clip(tmp_path / "wall.mp4", walls, fps=10)
    with pytest.raises(InputError, match=why) as caught:
        run_clip_demo(tmp_path / "demo", clip=tmp_path / name, size=SMALL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_demo_goes_from_clips_to_a_page_and_the_second_call_trains_nothing(
    tmp_path, monkeypatch
):
    out = tmp_path / "demo"
    first = run_clip_demo(out, size=SMALL, cache_dir=tmp_path / "cache", n_workers=0)
    assert first.planted.keys() == {"fused", "text", "audio", "vision"}
    assert (first.asr is not None) == SPEAKS
    assert json.loads(first.json_file.read_text()) == first.prediction.to_dict()
    assert CAUTION in first.page.read_text()
    json.dumps(first.to_dict())

    def no_training(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(clip_demo, "run_task", no_training)
    own = next((out / "corpus").rglob("*.mp4"))
    again = run_clip_demo(out, clip=own, size=SMALL, cache_dir=tmp_path / "cache", n_workers=0)
    assert again.planted is None
    assert again.prediction.file == str(own)
    assert again.metrics == first.metrics
    assert any("planted" in line for line in first.lines())
    assert not any("planted" in line for line in again.lines())


@pytest.mark.slow
def test_without_a_synthesiser_of_words_the_text_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_demo, "engine_name", lambda: "formant synthesis")
    result = run_clip_demo(tmp_path / "d", size=SMALL, cache_dir=tmp_path / "cache", n_workers=0)
    assert result.asr is None
    assert (result.prediction.text_source, result.prediction.text) == ("user", result.said)
    assert any("gold texts" in line for line in result.lines())


@pytest.fixture(scope="module")
def gold_clips(tmp_path_factory) -> tuple[Path, Path]:
    """The clips of the demo, with their own words."""
    root = tmp_path_factory.mktemp("gold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_demo, "engine_name", lambda: "nothing that speaks words")
        ready = prepare_clips(root / "demo", cache_dir=root / "cache")
    return ready.features, root


def trained(features: Path, out: Path, streams: list[str]) -> Path:
    overrides = [
        f"data={json.dumps(str(features))}",
        f"modalities={json.dumps(streams)}",
        "seeds=[1, 2, 3]",
    ]
    run_sentiment(load_task("self_mm/clips-demo", overrides=overrides), out=out)
    return out


def correlation(run: Path) -> float:
    metrics = json.loads((run / "metrics.json").read_text())
    return metrics["scores"]["Corr"]["mean"]


def agreement(run: Path, corpus: Path) -> dict[str, float]:
    """Of the clips where a stream was planted to contradict: how often its label moved that way."""
    made = json.loads((corpus / "synthetic_clips.json").read_text())["clips"]
    planted = {clip.id: clip.labels for clip in synthetic_clips.read(corpus)}
    moved = {stream: [] for stream in STREAMS}
    for row in csv.DictReader((run / "predictions.csv").open()):
        for stream, letter in STREAMS.items():
            if row["part"] == "train" and made[row["id"]]["disagrees"] == letter:
                away = planted[row["id"]][letter] - planted[row["id"]]["M"]
                found = float(row[f"label_{stream}"]) - float(row["truth"])
                moved[stream].append(found * away > 0)
    return {stream: float(np.mean(found)) for stream, found in moved.items()}


@pytest.mark.slow
def test_three_streams_say_more_than_any_one_and_labels_move_apart_as_planted(gold_clips):
    features, root = gold_clips
    together = trained(features, root / "all", list(STREAMS))
    alone = {stream: trained(features, root / stream, [stream]) for stream in STREAMS}
    assert correlation(together) > 0.85
    assert all(correlation(run) < correlation(together) - 0.02 for run in alone.values())
    assert agreement(together, root / "demo" / "corpus")["text"] > 0.65
