"""Clips become two streams and a status each; nothing is ever of length 0, or different twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.corpora.drawn_face import draw_face
from serkit.features.acoustic import acoustic_features
from serkit.features.clip_features import ClipFeatureConfig, clip_features
from serkit.features.face import VISION_SETS
from serkit.types import InputError, MissingExtraError
from serkit.video import read_clip, write_clip

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("librosa")

RATE = 16_000
N_FACE = len(VISION_SETS["opencv_lite"].names)


def tone(seconds: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


def faces(n: int = 25) -> list[np.ndarray]:
    return [
        draw_face((120, 160), centre=(0.45 + 0.004 * i, 0.5), size=0.8, mouth_open=0.3 * (i % 3))
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, faces(), waveform=tone(), sample_rate=RATE)
    return path


def write_table(path: Path, n_rows: int, *, success: int = 1) -> None:
    names = ("frame", "confidence", "success", *VISION_SETS["openface709"].names)
    lines = [", ".join(names)]
    lines += [", ".join(map(str, [i, 0.9, success, *[i] * 709])) for i in range(n_rows)]
    path.write_text("\n".join(lines))


def test_a_clip_becomes_acoustic_frames_and_face_frames(clip_path):
    found = clip_features(clip_path)
    assert (found.audio_status, found.vision_status) == ("ok", "ok")
    assert found.audio.shape[1] == 33
    assert len(found.audio) == pytest.approx(43, abs=4)
    assert found.vision.shape == (found.n_with_face, N_FACE)
    assert found.n_pictures == 25
    assert found.n_with_face >= 23
    assert found.face_present.all()
    assert found.sample_rate == 22_050
    assert found.duration_s == pytest.approx(1.0, abs=0.1)
    assert found.messages == ()


def test_the_audio_stream_is_that_of_the_sound_that_is_handed_on(clip_path):
    found = clip_features(clip_path, ClipFeatureConfig(acoustic="librosa70"))
    again = acoustic_features(found.waveform, found.sample_rate, name="librosa70")
    assert np.array_equal(found.audio, again.features)
    assert np.array_equal(found.waveform, read_clip(clip_path, sample_rate=22_050).waveform)


@pytest.mark.parametrize("vision", ["opencv_lite", "openface709"])
def test_the_same_clip_gives_the_same_bits(clip_path, tmp_path, vision):
    write_table(tmp_path / "t.csv", 30)
    one, other = (
        clip_features(
            clip_path, ClipFeatureConfig(vision=vision), openface_table=tmp_path / "t.csv"
        )
        for _ in range(2)
    )
    assert np.array_equal(one.audio, other.audio)
    assert np.array_equal(one.vision, other.vision)
    assert np.array_equal(one.waveform, other.waveform)


def test_rates_and_averages_are_as_configured(clip_path):
    config = ClipFeatureConfig(fps=12.5, average_over=2, no_face="zero")
    found = clip_features(clip_path, config)
    assert found.n_pictures == 13
    assert len(found.vision) == len(found.face_present) == 7


def test_pictures_without_a_face_follow_the_rule(tmp_path):
    path = tmp_path / "half.mp4"
    blank = np.full((120, 160, 3), 120, dtype=np.uint8)
    write_clip(path, faces(10) + [blank] * 10)
    n_frames = {
        rule: len(clip_features(path, ClipFeatureConfig(no_face=rule)).vision)
        for rule in ("skip", "zero", "hold")
    }
    assert n_frames["skip"] <= 11
    assert n_frames["zero"] == n_frames["hold"] == 20
    zero, hold = (
        clip_features(path, ClipFeatureConfig(no_face=rule)).vision[-1] for rule in ("zero", "hold")
    )
    assert (zero == 0).all()
    assert hold[0] == 0
    assert (hold[1:5] > 0).all()


def test_a_clip_without_a_face_keeps_its_sound(tmp_path):
    path = tmp_path / "wall.mp4"
    write_clip(
        path, [np.full((64, 96), 90, dtype=np.uint8)] * 10, waveform=tone(), sample_rate=RATE
    )
    found = clip_features(path)
    assert (found.audio_status, found.vision_status) == ("ok", "no_face")
    assert found.vision.shape == (1, N_FACE)
    assert (found.vision == 0).all()
    assert found.face_present.tolist() == [False]
    assert (found.n_pictures, found.n_with_face) == (10, 0)
    assert found.messages == (f"{path}: no face found in any picture",)


@pytest.mark.parametrize(
    ("waveform", "message"), [(None, "no sound in it"), (np.zeros(9000), "digital silence")]
)
def test_a_clip_without_sound_keeps_its_face(tmp_path, waveform, message):
    path = tmp_path / "mute.mkv"
    write_clip(path, faces(6), waveform=waveform, sample_rate=RATE)
    found = clip_features(path)
    assert (found.audio_status, found.vision_status) == ("no_audio", "ok")
    assert found.audio.tolist() == [[0.0] * 33]
    assert message in found.messages[0]


def test_a_sound_file_has_no_pictures(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), RATE)
    found = clip_features(path)
    assert (found.audio_status, found.vision_status) == ("ok", "no_video")
    assert found.vision.shape == (1, N_FACE)
    assert found.messages == (f"{path}: no pictures in it",)


def test_an_image_is_one_face_frame(tmp_path):
    import cv2

    path = tmp_path / "face.png"
    cv2.imwrite(str(path), faces(1)[0])
    found = clip_features(path)
    assert (found.audio_status, found.vision_status) == ("no_audio", "ok")
    assert found.vision.shape == (1, N_FACE)


@pytest.mark.parametrize("content", [None, b"", b"not a clip" * 50])
def test_a_clip_that_cannot_be_decoded_has_two_empty_streams(tmp_path, content):
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    found = clip_features(path)
    assert (found.audio_status, found.vision_status) == ("decode_error", "decode_error")
    assert found.audio.shape == (1, 33)
    assert found.vision.shape == (1, N_FACE)
    assert found.waveform is None
    assert len(found.messages) == 1
    assert "broken.mp4" in found.messages[0]


def test_a_cut_off_sound_file_is_a_decode_error(tmp_path):
    path = tmp_path / "cut.wav"
    soundfile.write(path, tone(), RATE)
    path.write_bytes(path.read_bytes()[:3000])
    found = clip_features(path)
    assert found.audio_status == "decode_error"
    assert "truncated" in found.messages[0]


def test_notes_of_a_damaged_clip_are_handed_on(tmp_path):
    path = tmp_path / "cut.mkv"
    rng = np.random.default_rng(0)
    write_clip(path, rng.integers(0, 255, (75, 64, 96)).astype(np.uint8), waveform=tone(3.0))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])
    found = clip_features(path)
    assert found.audio_status == "ok"
    assert "cut off: the header promises" in found.messages[0]


def test_tables_of_openface_stand_beside_the_clip_or_where_one_says(clip_path, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_path.read_bytes())
    write_table(tmp_path / "clip.csv", 7)
    config = ClipFeatureConfig(vision="openface709")
    beside = clip_features(path, config)
    assert (beside.vision_status, beside.vision.shape) == ("ok", (3, 709))
    assert beside.vision[:, 0].tolist() == [1, 4, 6]
    assert beside.audio_status == "ok"
    assert np.array_equal(beside.audio, clip_features(path).audio)
    named = clip_features(clip_path, config, openface_table=tmp_path / "clip.csv")
    assert np.array_equal(named.vision, beside.vision)


def test_a_missing_table_and_one_without_faces_leave_the_sound(clip_path, tmp_path):
    config = ClipFeatureConfig(vision="openface709")
    found = clip_features(clip_path, config)
    assert (found.audio_status, found.vision_status) == ("ok", "decode_error")
    assert found.vision.shape == (1, 709)
    assert "run OpenFace first" in found.messages[0]
    write_table(tmp_path / "none.csv", 5, success=0)
    nobody = clip_features(clip_path, config, openface_table=tmp_path / "none.csv")
    assert nobody.vision_status == "no_face"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"acoustic": "fbank"}, "acoustic is 'fbank', expected one of sims33"),
        ({"vision": "dlib"}, "vision is 'dlib', expected one of opencv_lite"),
        ({"no_face": "guess"}, "no_face is 'guess', expected one of skip, zero, hold"),
        ({"average_over": 0}, "average_over is 0, expected 1 or more"),
        ({"min_confidence": 2.0}, "min_confidence is 2, expected 0 to 1"),
        ({"fps": 0.0}, "fps is 0, expected 0.1 to 240"),
        ({"vision": "mediapipe"}, "needs a model file"),
    ],
)
def test_settings_that_make_no_sense_are_refused(clip_path, settings, message):
    with pytest.raises(InputError, match=message):
        clip_features(clip_path, ClipFeatureConfig(**settings))


def test_a_missing_package_is_no_fault_of_the_clip(monkeypatch, clip_path):
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"serkit\[video\]"):
        clip_features(clip_path)
