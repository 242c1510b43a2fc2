"""One clip to its sentiment: what may be missing, where words come from, what is refused."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("librosa")

from serkit.cli import app
from serkit.corpora.drawn_face import draw_face
from serkit.evaluation.clip_page import write_clip_page
from serkit.features.acoustic import ACOUSTIC_SETS
from serkit.features.clip_features import ClipFeatureConfig, clip_features
from serkit.features.face import VISION_SETS
from serkit.inference.clips import (
    ClipPredictor,
    format_clip_rows,
    holds_sentiment_model,
    open_clip_predictor,
    predict_clips,
    stored_clip_config,
)
from serkit.inference.files import collect_files
from serkit.inference.transcribe import Transcript
from serkit.models.ctc_decode import Segment
from serkit.sentiment_model import FeatureSet, SentimentModel, SentimentModelConfig
from serkit.types import InputError
from serkit.video import write_clip
from tests_support import tone

RATE = 16_000
CONFIG = SentimentModelConfig(
    system="Self-MM",
    scale="sims",
    text={"name": "small", "n_features": 8},
    audio=FeatureSet(n_features=33, names=ACOUSTIC_SETS["sims33"].names(), made_by="sims33"),
    vision=FeatureSet(
        n_features=len(VISION_SETS["opencv_lite"].names),
        names=VISION_SETS["opencv_lite"].names,
        made_by="opencv_lite",
    ),
    trained_on={"name": "toy"},
)


def model(**changes) -> SentimentModel:
    torch.manual_seed(0)
    return SentimentModel(replace(CONFIG, **changes)).eval()


def sound(seconds: float) -> np.ndarray:
    return np.resize(tone(220), round(seconds * RATE)).astype(np.float32)


def faces(seconds: float, fps: float = 10.0):
    for _ in range(round(seconds * fps)):
        yield draw_face((120, 160), mouth_curve=0.5)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of clips of all kinds."""
    root = tmp_path_factory.mktemp("clips")
    for suffix in (".mp4", ".mov", ".avi", ".mkv", ".webm"):
        path = root / f"face{suffix}"
        write_clip(path, faces(1.2), fps=10, waveform=sound(1.2), sample_rate=RATE)
    write_clip(root / "long.mp4", faces(3.6), fps=10, waveform=sound(3.6), sample_rate=RATE)
    write_clip(root / "mute.mp4", faces(1.0), fps=10, waveform=None, sample_rate=RATE)
    walls = (np.full((120, 160, 3), 128, np.uint8) for _ in range(10))
    write_clip(root / "nobody.mp4", walls, fps=10, waveform=None, sample_rate=RATE)
    soundfile.write(root / "voice.wav", sound(1.2), RATE)
    import cv2

    cv2.imwrite(str(root / "face.png"), draw_face((120, 160), mouth_curve=0.5))
    (root / "empty.mp4").write_bytes(b"")
    (root / "broken.mp4").write_bytes((root / "long.mp4").read_bytes()[:600])
    (root / "notes.mp4").write_text("not a clip, but a long enough text\n" * 40)
    return root


class Heard:
    """A speech recogniser that hears two words, half a second each."""

    backend, model_id = "stub", ""

    def __init__(self, text="good day") -> None:
        self.text, self.asked = text, 0

    def transcribe(self, waveform, sample_rate, *, given=None):
        self.asked += 1
        words = enumerate(self.text.split())
        segments = tuple(Segment(word, i / 2, (i + 1) / 2, 0.9) for i, word in words)
        return Transcript(text=self.text, segments=segments, confidence=0.9, backend="stub")

    def close(self):
        """Do nothing."""


def test_a_clip_is_judged_by_all_that_is_in_it(clips):
    listener = Heard()
    found = ClipPredictor(model(), transcriber=listener).predict(clips / "long.mp4")
    assert found.modalities_used == ("text", "audio", "vision")
    assert (found.text, found.text_source, listener.asked) == ("good day", "asr", 1)
    assert found.faces.frames >= found.faces.with_face > 20
    assert all(value is not None for value in found.scores.values())
    assert found.warnings == ()
    told = json.loads(found.to_json())
    assert told.keys() >= {"file", "text", "text_source", "asr", "faces", "scores", "label_2"}
    assert told.keys() >= {"label_3", "label_5", "modalities_used", "warnings", "timings_ms"}
    assert told["asr"]["segments"][0]["text"] == "good"


def test_serving_gives_the_scores_of_the_stored_features(clips):
    """The frames of a clip are those of an extraction, whatever the rule for missing faces."""
    for no_face in ("skip", "hold", "zero"):
        config = ClipFeatureConfig(no_face=no_face, average_over=2)
        stored = clip_features(clips / "long.mp4", config)
        expected = model().predict("hello", stored.audio, stored.vision)["scores"]
        found = ClipPredictor(model(), clip_config=config).predict(clips / "long.mp4", text="hello")
        assert found.scores["fused"] == pytest.approx(expected["M"], abs=1e-6)
        assert found.scores["vision"] == pytest.approx(expected["V"], abs=1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".avi", ".mkv", ".webm"])
def test_every_container_is_read(clips, suffix):
    found = ClipPredictor(model()).predict(clips / f"face{suffix}")
    assert found.modalities_used == ("audio", "vision")


@pytest.mark.parametrize(
    ("name", "text", "without", "used"),
    [
        ("voice.wav", None, (), ("audio",)),
        ("face.png", None, (), ("vision",)),
        ("mute.mp4", None, (), ("vision",)),
        (None, "words alone", (), ("text",)),
        ("face.mp4", "hello", ("vision",), ("text", "audio")),
        ("face.mp4", "hello", ("audio",), ("text", "vision")),
        ("face.mp4", "hello", ("text",), ("audio", "vision")),
        ("face.mp4", "hello", (), ("text", "audio", "vision")),
    ],
)
def test_any_streams_are_enough(clips, name, text, without, used):
    path = None if name is None else clips / name
    found = ClipPredictor(model()).predict(path, text=text, without=without)
    assert found.modalities_used == used
    for stream in ("text", "audio", "vision"):
        assert (found.scores[stream] is None) == (stream not in used)
        assert any(f"no {stream}" in w for w in found.warnings) == (stream not in used)
    assert found.scores["fused"] is not None


def test_sound_and_picture_may_be_two_files(clips):
    predictor = ClipPredictor(model())
    found = predictor.predict(audio=clips / "voice.wav", image=clips / "face.png")
    assert found.modalities_used == ("audio", "vision")
    alone = predictor.predict(clips / "voice.wav")
    assert found.scores["audio"] == pytest.approx(alone.scores["audio"], abs=1e-6)


def test_the_users_words_come_before_those_heard(clips):
    listener = Heard()
    found = ClipPredictor(model(), transcriber=listener).predict(clips / "face.mp4", text="my own")
    assert (found.text, found.text_source, listener.asked) == ("my own", "user", 0)


def test_hearing_nothing_is_a_warning(clips):
    found = ClipPredictor(model(), transcriber=Heard("")).predict(clips / "face.mp4")
    assert (found.text_source, found.scores["text"]) == ("none", None)
    assert any("heard no words" in warning for warning in found.warnings)


def test_windows_cover_the_clip_and_have_their_own_words(clips):
    found = ClipPredictor(model(), transcriber=Heard()).predict(clips / "long.mp4")
    windows = found.over_time
    assert windows[0].start_s == 0
    assert windows[-1].end_s == pytest.approx(found.duration_s, abs=1e-3)
    assert [w.end_s - w.start_s for w in windows] == pytest.approx([2.0] * len(windows), abs=2e-3)
    assert windows[0].text is not None
    assert windows[-1].text is None  # both words are over
    assert all(w.audio is not None and w.vision is not None for w in windows)


def test_a_short_clip_is_one_window(clips):
    found = ClipPredictor(model()).predict(clips / "face.mp4", text="hello")
    (window,) = found.over_time
    assert window.fused == pytest.approx(found.scores["fused"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gone.mp4", "gone.mp4: no such file"),
        ("empty.mp4", "empty.mp4: .*empty"),
        ("broken.mp4", "broken.mp4: "),
        ("notes.mp4", "notes.mp4: "),
        ("nobody.mp4", r"nobody.mp4: no face found.*nobody.mp4: no sound in it: nothing to judge"),
    ],
)
def test_a_clip_that_cannot_be_used_is_one_clear_line(clips, name, why):
    with pytest.raises(InputError, match=why) as caught:
        ClipPredictor(model()).predict(clips / name)
    assert "\n" not in str(caught.value)


def test_nothing_and_unknown_streams_are_refused(clips):
    with pytest.raises(InputError, match="name a clip, a sound file or a picture"):
        ClipPredictor(model()).predict()
    with pytest.raises(InputError, match="without smell: expected one of text, audio, vision"):
        ClipPredictor(model()).predict(clips / "face.mp4", without=["smell"])


def test_settings_of_the_extraction_come_with_the_checkpoint():
    kept = {"audio": {"set": "sims33"}, "video": {"set": "opencv_lite", "fps": 5.0, "tables": "x"}}
    found = stored_clip_config(model(trained_on={"extraction": kept}))
    assert (found.acoustic, found.vision, found.fps) == ("sims33", "opencv_lite", 5.0)
    with pytest.raises(InputError, match=r"trained_on\.extraction\.smell"):
        stored_clip_config(model(trained_on={"extraction": {"video": {"smell": 1}}}))


def test_other_features_are_refused():
    with pytest.raises(InputError, match="audio features have 70 columns, this model reads 33"):
        ClipPredictor(model(), clip_config=ClipFeatureConfig(acoustic="librosa70"))
    with pytest.raises(InputError, match="audio features are not those of this model"):
        ClipPredictor(model(), clip_config=ClipFeatureConfig(acoustic="sims33_f0"))
    with pytest.raises(InputError, match="vision is 'eyes', expected one of"):
        ClipPredictor(model(), clip_config=ClipFeatureConfig(vision="eyes"))
    unknown = replace(CONFIG.audio, made_by="")
    with pytest.raises(InputError, match="does not say which acoustic features"):
        ClipPredictor(model(audio=unknown))


@pytest.mark.parametrize(("scale", "limit"), [("sims", 1.0), ("mosi", 3.0)])
def test_scores_end_where_the_scale_does(clips, scale, limit):
    loud = model(scale=scale)
    with torch.no_grad():
        for name, value in loud.named_parameters():
            if name.endswith("layer3.bias"):
                value.fill_(-9.0 if "audio" in name else 9.0)
    found = ClipPredictor(loud).predict(clips / "long.mp4", text="good")
    assert found.scores == {"fused": limit, "text": limit, "audio": -limit, "vision": limit}
    assert {one.audio for one in found.over_time} == {-limit}
    assert found.labels["label_2"] == "positive"


def test_a_broken_clip_costs_its_own_row(clips, tmp_path):
    predictor = ClipPredictor(model())
    files = [clips / "face.mp4", clips / "empty.mp4", clips / "voice.wav"]
    rows = list(predict_clips(predictor, files, texts={files[0]: "hello, you"}))
    assert [row.prediction is None for row in rows] == [False, True, False]
    table = list(csv.DictReader(io.StringIO(format_clip_rows(rows, "csv"))))
    assert [row["file"] for row in table] == [str(path) for path in files]
    assert table[0]["text"] == "hello, you"
    assert "empty" in table[1]["error"]
    assert table[2]["score_vision"] == ""
    assert len(json.loads(format_clip_rows(rows, "json"))) == 3
    assert len(format_clip_rows(rows, "jsonl").splitlines()) == 3
    assert len(format_clip_rows(rows, "table").splitlines()) == 4
    with pytest.raises(InputError, match="format xml: expected table"):
        format_clip_rows(rows, "xml")


def test_folders_are_searched_for_clips(clips, tmp_path):
    names = {path.name for path in collect_files([clips])}
    assert {"face.mp4", "face.webm", "voice.wav"} <= names
    assert "face.png" not in names
    files = collect_files([tmp_path, clips / "voice.wav"])
    empty, voice = predict_clips(ClipPredictor(model()), files)
    assert empty.error.startswith(f"{tmp_path}: no sound files or videos in this folder")
    assert voice.prediction is not None


def test_a_checkpoint_is_recognised_and_opened(clips, tmp_path):
    assert not holds_sentiment_model(tmp_path)
    model().save(tmp_path / "run" / "model")
    assert holds_sentiment_model(tmp_path / "run")
    predictor = open_clip_predictor(tmp_path / "run", transcriber="none")
    assert predictor.predict(clips / "voice.wav").modalities_used == ("audio",)


def test_clips_are_judged_from_the_command_line(clips, tmp_path):
    model().save(tmp_path / "model")
    arguments = ["predict", str(clips / "face.mp4"), "--model", str(tmp_path / "model")]
    done = CliRunner().invoke(app, [*arguments, "--text", "hello", "--format", "json"])
    assert done.exit_code == 0, done.output
    (told,) = json.loads(done.stdout)
    assert told["modalities_used"] == ["text", "audio", "vision"]
    table = tmp_path / "out.csv"
    done = CliRunner().invoke(
        app, [*arguments, "--without", "vision", "--format", "csv", "--out", str(table)]
    )
    assert done.exit_code == 0, done.output
    assert ",audio,none," in table.read_text()
    wrong = CliRunner().invoke(app, [*arguments, "--text-features", str(tmp_path)])
    assert "is for recognizers of emotion" in str(wrong.exception)
    (tmp_path / "empty.mp4").write_bytes(b"")
    mixed = ["predict", str(tmp_path / "empty.mp4"), *arguments[1:]]
    assert CliRunner().invoke(app, mixed).exit_code == 2


def test_a_model_of_classes_says_how_likely_each_is(clips, tmp_path):
    names = ("angry", "happy", "sad")
    predictor = ClipPredictor(model(classes=names), transcriber=Heard())
    found = predictor.predict(clips / "long.mp4")
    for score in (*found.scores.values(), *found.pairs.values()):
        assert tuple(score) == names
        assert sum(score.values()) == pytest.approx(1, abs=1e-5)
    assert found.labels.keys() == {"label"}
    assert found.pairs.keys() == {"text+audio", "text+vision", "audio+vision"}
    silent = predictor.predict(clips / "long.mp4", without=["audio"])
    assert silent.scores["fused"] == pytest.approx(found.pairs["text+vision"], abs=1e-6)
    assert silent.scores["audio"] is None
    assert silent.pairs == {}
    assert silent.over_time[0].fused.keys() == set(names)
    rows = list(predict_clips(predictor, [clips / "voice.wav", clips / "long.mp4"]))
    table = list(csv.DictReader(io.StringIO(format_clip_rows(rows, "csv"))))
    assert table[0]["score_vision_happy"] == ""
    assert float(table[1]["score_text+audio_sad"]) == pytest.approx(
        found.pairs["text+audio"]["sad"], abs=1e-4
    )
    assert table[1]["label"] == found.labels["label"]
    best = found.labels["label"]
    assert f"{best} {found.scores['fused'][best]:.2f}" in format_clip_rows(rows, "table")
    told = json.loads(format_clip_rows(rows, "jsonl").splitlines()[1])
    assert told["label"] == best
    assert told["pairs"]["text+audio"].keys() == set(names)
    page = write_clip_page(tmp_path / "clip.html", told, title="x", caution="y").read_text()
    assert "Probability over time" in page
    for name in names:
        assert f'<th scope="row">{name}</th>' in page
