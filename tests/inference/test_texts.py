"""Words beside the sound: given in the command, in a table, or heard by a transcriber."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from serkit import cli
from serkit.inference.predictor import predict_files, texts_of_files
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.types import InputError
from tests_support import tone

RATE = 16_000


@pytest.fixture(scope="module")
def reader() -> Recognizer:
    torch.manual_seed(0)
    config = RecognizerConfig(
        system="reader",
        classes=("happy", "sad"),
        view={"kind": "whole"},
        front_end={"name": "mfcc", "preset": "moe-26"},
        model={"name": "mmer", "width": 8, "n_heads": 2, "n_symbols": 0},
        text={"name": "small", "n_features": 8},
    )
    return Recognizer(config).eval()


@pytest.fixture
def clips(tmp_path) -> list[Path]:
    paths = [tmp_path / "one.wav", tmp_path / "two.wav"]
    for path, pitch in zip(paths, (150, 440), strict=True):
        soundfile.write(path, tone(pitch, rate=RATE), RATE)
    return paths


def table(folder: Path, text: str) -> Path:
    path = folder / "texts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def predict(recognizer: Recognizer, files: list[Path], **how):
    return list(predict_files(recognizer, files, n_workers=1, **how))


def test_a_text_is_that_of_the_one_file(clips):
    assert texts_of_files(clips[:1], text="hello") == {clips[0]: "hello"}
    assert texts_of_files(clips) is None
    with pytest.raises(InputError, match=r"--text says what one file holds, got 2 files"):
        texts_of_files(clips, text="hello")
    with pytest.raises(InputError, match="got --text and --texts: give one of them"):
        texts_of_files(clips, text="hello", table=Path("texts.csv"))


def test_names_in_a_table_start_where_the_command_is_run(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path, f'text,file\n"hello, world",./one.wav\n,{clips[1]}\nx,other.wav\n')
    files = [Path("one.wav"), Path("two.wav")]
    assert texts_of_files(files, table=path) == {files[0]: "hello, world", files[1]: ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,words\none.wav,hello\n", r"has the columns file, words, expected file and text"),
        ("", r"has the columns \(none\)"),
        ("file,text\none.wav,hello, world\n", r"row 2: .* put a text with commas in double quotes"),
        ("file,text\none.wav\n", r"row 2: expected a file and its text"),
        ("file,text\n,hello\n", r"row 2: expected a file and its text"),
        ("file,text\none.wav,a\n./one.wav,b\n", r"row 3: another text for \./one\.wav"),
        ("file,text\nthree.wav,a\n", r"none of its 1 rows names one of the 2 files"),
    ],
)
def test_tables_that_cannot_be_used_are_named(clips, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"texts\.csv.*{message}"):
        texts_of_files(clips, table=table(tmp_path, content))


def test_a_table_that_is_no_text_is_named(clips, tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        texts_of_files(clips, table=tmp_path / "gone.csv")
    path = tmp_path / "texts.csv"
    path.write_bytes(b"file,text\none.wav,gr\xfcn\n")
    with pytest.raises(InputError, match=r"texts\.csv: not a CSV file in UTF-8"):
        texts_of_files(clips, table=path)


def test_words_reach_the_recognizer(reader, clips):
    rows = predict(reader, clips, texts={clips[0]: "hello", clips[1]: "again"})
    for row, text in zip(rows, ("hello", "again"), strict=True):
        expected = reader.predict_file(row.file, text=text).scores
        assert row.prediction is not None
        assert row.prediction.scores == pytest.approx(expected, abs=1e-6)


def test_a_file_without_words_is_a_row_with_its_error(reader, clips):
    rows = predict(reader, clips, texts={clips[0]: "hello"})
    assert rows[0].prediction is not None
    assert rows[1].error.startswith(f"{clips[1]}: this recognizer reads what is said as well, and")
    rows = predict(reader, clips)
    assert all("give the words with --text" in row.error for row in rows)


def test_a_transcriber_is_asked_for_words_that_are_not_known(reader, clips):
    heard = []

    def transcribe(waveform: np.ndarray, sample_rate: int) -> str:
        heard.append((waveform.shape, sample_rate))
        return "again"

    rows = predict(reader, clips, texts={clips[0]: "hello"}, transcribe=transcribe)
    assert heard == [((6400,), RATE)]
    first, second = (row.prediction for row in rows)
    assert first is not None
    assert second is not None
    assert first.notes == ()
    assert second.notes == ("heard: again",)
    assert second.scores == reader.predict_file(clips[1], text="again").scores


def test_a_recognizer_that_does_not_read_asks_nobody(tone_run, clips):
    import serkit

    def transcribe(waveform: np.ndarray, sample_rate: int) -> str:
        raise AssertionError("asked")

    rows = predict(serkit.load_recognizer(tone_run), clips, transcribe=transcribe)
    assert all(row.prediction is not None for row in rows)


def test_vectors_are_refused_where_nothing_reads_them(reader, tone_run, clips, tmp_path):
    import serkit

    np.save(tmp_path / "one.npy", np.zeros((3, 8), dtype=np.float32))
    files = {clips[0]: tmp_path / "one.npy"}
    (row,) = predict(reader, clips[:1], text_features=files)
    assert "the text encoder of this recognizer was trained, and no other computes" in row.error
    (row,) = predict(serkit.load_recognizer(tone_run), clips[:1], text_features=files)
    assert "this recognizer does not read what is said: leave out --text-features" in row.error


def test_the_command_takes_a_text_or_a_table(reader, clips, tmp_path, monkeypatch, capsys):
    model = reader.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, list, str]:
        words = ["serkit", "predict", *arguments, "--model", str(model), "--format", "json"]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), json.loads(captured.out or "[]"), captured.err

    code, rows, _ = command("one.wav", "--text", "hello")
    assert code == 0
    expected = reader.predict_file(clips[0], text="hello").scores
    assert rows[0]["scores"] == pytest.approx(expected, abs=1e-5)
    texts = table(tmp_path, "file,text\none.wav,hello\ntwo.wav,again\n")
    code, rows, _ = command("one.wav", "two.wav", "--texts", str(texts))
    assert code == 0
    assert rows[0]["scores"] == pytest.approx(expected, abs=1e-5)
    code, rows, err = command("one.wav")
    assert code == 2
    assert "reads what is said" in rows[0]["error"]
    assert len(err.splitlines()) <= 2
    code, _, err = command("one.wav", "two.wav", "--text", "hello")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("reads", "given", "message"),
    [
        (False, ("--text", "hello"), "--text: this recognizer hears voices alone"),
        (False, ("--texts", "texts.csv"), "leave --texts out"),
        (False, ("--transcriber", "own"), "leave --transcriber out"),
        (True, ("--text", "hello", "--text-features", "."), "got --text and --text-features"),
        (True, ("--transcriber-model", "vosk"), "--transcriber-model vosk: name the --transcriber"),
    ],
)
def test_words_that_nobody_would_read_are_refused(
    reads, given, message, reader, tone_run, clips, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    table(tmp_path, "file,text\none.wav,hello\n")
    model = reader.save(tmp_path / "model") if reads else tone_run
    done = CliRunner().invoke(cli.app, ["predict", "one.wav", "--model", str(model), *given])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
