"""Many files at once: order, formats, and broken ones among good ones."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import soundfile

import serkit
from serkit.audio import load_audio
from serkit.inference.files import collect_files
from serkit.inference.predictor import format_rows, predict_files
from serkit.types import InputError
from serkit.video import write_clip
from tests_support import RATE, tone


@pytest.fixture
def folder(tmp_path):
    for name, pitch in (("a2.wav", 150), ("a10.flac", 440), ("sub/b.ogg", 430)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, tone(pitch), RATE)
    (tmp_path / "notes.txt").write_text("no sound")
    return tmp_path


@pytest.fixture
def recognizer(tone_run):
    return serkit.load_recognizer(tone_run)


def test_folders_are_searched_and_files_are_taken(folder):
    names = [path.relative_to(folder).as_posix() for path in collect_files([folder])]
    assert names == ["a2.wav", "a10.flac", "sub/b.ogg"]
    assert collect_files([folder / "notes.txt"]) == [folder / "notes.txt"]


def test_an_empty_folder_costs_its_own_row(folder, recognizer):
    (folder / "empty").mkdir()
    files = collect_files([folder / "empty", folder / "sub"])
    assert files == [folder / "empty", folder / "sub" / "b.ogg"]
    empty, sound = predict_files(recognizer, files)
    assert empty.error.startswith(f"{folder / 'empty'}: no sound files or videos in this folder")
    assert sound.prediction is not None


def test_of_a_video_the_sound_is_judged(folder, recognizer):
    pytest.importorskip("av")
    waveform, _ = load_audio(folder / "a2.wav")
    grey = [np.full((48, 64), 128, np.uint8)] * 10
    write_clip(folder / "sub" / "said.mkv", grey, fps=10, waveform=waveform, sample_rate=RATE)
    write_clip(folder / "sub" / "mute.mp4", grey, fps=10)
    rows = predict_files(recognizer, collect_files([folder / "sub", folder / "a2.wav"]))
    _, mute, video, sound = rows
    assert mute.error == f"{folder / 'sub' / 'mute.mp4'}: no sound in it"
    assert video.prediction.scores == pytest.approx(sound.prediction.scores, abs=0.05)


def test_the_extra_that_reads_videos_is_named(folder, recognizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (folder / "said.mp4").write_bytes(b"....ftyp")
    (row,) = predict_files(recognizer, [folder / "said.mp4"])
    assert "pip install 'serkit[video]'" in row.error


def test_no_path_is_refused():
    with pytest.raises(InputError, match="nothing to read: name files or folders"):
        collect_files([])


def test_broken_files_are_rows_and_the_rest_goes_on(folder, recognizer):
    (folder / "bad.wav").write_bytes(b"RIFF....")
    rows = list(predict_files(recognizer, collect_files([folder]), n_workers=2))
    labels = {row.file.rsplit("/", 1)[-1]: row.prediction for row in rows}
    assert labels["bad.wav"] is None
    assert labels["a2.wav"].label == "sad"
    assert labels["a10.flac"].label == "happy"
    assert next(row.error for row in rows if row.prediction is None).startswith(str(folder))


@pytest.mark.parametrize("output_format", ["csv", "json", "jsonl", "table"])
def test_every_format_holds_every_row(folder, recognizer, output_format):
    rows = list(predict_files(recognizer, [*collect_files([folder]), folder / "gone.wav"]))
    text = format_rows(rows, recognizer.labels.classes, output_format)
    if output_format == "csv":
        records = list(csv.DictReader(io.StringIO(text)))
        assert float(records[0]["score_happy"]) + float(records[0]["score_sad"]) == pytest.approx(
            1, abs=1e-3
        )
    elif output_format == "json":
        records = json.loads(text)
        assert records[0]["scores"]["sad"] > 0.5
    elif output_format == "jsonl":
        records = [json.loads(line) for line in text.splitlines()]
    else:
        assert text.splitlines()[0].split() == ["file", "seconds", "label", "happy", "sad"]
        assert text.splitlines()[-1].startswith("error: ")
        return
    assert len(records) == 4
    assert "no such file" in records[-1]["error"]
