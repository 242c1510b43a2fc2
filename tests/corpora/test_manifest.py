from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from serkit.corpora import emodb, emovo, manifest
from serkit.corpora.manifest import (
    CorpusError,
    export_manifest,
    import_manifest,
    parse_seconds,
    read_manifest,
    write_manifest,
)
from serkit.types import InputError, Utterance


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    return [
        Utterance(
            id="a/1",
            path=tmp_path / "audio" / "1.wav",
            corpus="toy",
            label="angry",
            speaker="03",
            start_s=0.1,
            end_s=1.25,
            duration_s=1.15,
            sentence="s1",
            transcript='Says "no", twice;\nthen leaves – weg.',
            gender="female",
            age=31.0,
            language="de",
            session="s",
            dialogue="d",
            style="scripted",
            intensity="strong",
            arousal=0.1,
            valence=1 / 3,
            dominance=1.0,
            official_part="dev",
        ),
        Utterance(id="b", path=Path("/elsewhere/b.wav"), corpus="toy", label=None, speaker="ä 2"),
    ]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_manifest_comes_back_as_it_was(tmp_path: Path, utterances: list[Utterance]) -> None:
    path = tmp_path / "corpus.csv"
    write_manifest(path, utterances)
    assert read_manifest(path) == utterances
    assert import_manifest(path) == utterances
    assert [name.name for name in tmp_path.iterdir()] == ["corpus.csv"]


def test_paths_below_the_manifest_are_stored_relative(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    path = tmp_path / "corpus.csv"
    write_manifest(path, utterances)
    with open(path, encoding="utf-8", newline="") as file:
        stored = [row["path"] for row in csv.DictReader(file)]
    assert stored == ["audio/1.wav", "/elsewhere/b.wav"]
    moved = tmp_path / "moved"
    moved.mkdir()
    path.rename(moved / "corpus.csv")
    assert read_manifest(moved / "corpus.csv")[0].path == moved / "audio" / "1.wav"


def test_failed_writing_leaves_the_old_manifest(
    tmp_path: Path, utterances: list[Utterance], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus.csv"
    write_manifest(path, utterances)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(manifest.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_manifest(path, utterances[:1])
    assert path.read_bytes() == before
    assert [name.name for name in tmp_path.iterdir()] == ["corpus.csv"]


def test_manifest_refuses_equal_ids(tmp_path: Path, utterances: list[Utterance]) -> None:
    with pytest.raises(CorpusError, match="row 4, column 'id': 'a/1' is already in row 2"):
        write_manifest(tmp_path / "corpus.csv", [*utterances, utterances[0]])


def test_manifest_needs_an_existing_folder(tmp_path: Path, utterances: list[Utterance]) -> None:
    with pytest.raises(CorpusError, match="does not exist: create it first"):
        write_manifest(tmp_path / "no" / "corpus.csv", utterances)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("id,path,corpus,speaker\n", "holds no rows"),
        ("id,path,corpus\n1,a,b\n", "the column 'speaker' is missing"),
        (
            "id,path,corpus,speaker,labels\n1,a,b,c,d\n",
            "unknown column 'labels' in a manifest: did you mean 'label'",
        ),
        ("id,path,corpus,speaker,zzz\n1,a,b,c,d\n", "unknown column 'zzz' in a manifest: remove"),
        ("id,path,corpus,speaker\n1,a,b,\n", "row 2, column 'speaker': empty"),
        ("id,path,corpus,speaker\n1,a,b,c\n\n1,a,b,c\n", "row 4, column 'id': '1' is already in"),
        ("id,path,corpus,speaker\n1,a,b\n", "row 2: 3 cells, expected 4"),
        ('id,path,corpus,speaker\n1,a,b,"c\n', "not valid CSV"),
        (
            "id,path,corpus,speaker,start_s\n1,a,b,c,soon\n",
            "row 2, column 'start_s': got 'soon', expected a number",
        ),
        ("id,path,corpus,speaker,age\n1,a,b,c,inf\n", "column 'age': got 'inf', expected a finite"),
        ("id,path,corpus,speaker,start_s\n1,a,b,c,-1\n", "column 'start_s': got -1, expected sec"),
        (
            "id,path,corpus,speaker,start_s,end_s\n1,a,b,c,2,1\n",
            "column 'end_s': got 1, expected more than the start at 2 s",
        ),
        ("id,path,corpus,speaker,valence\n1,a,b,c,3\n", "column 'valence': got 3, expected a rat"),
        (
            "id,path,corpus,speaker,official_part\n1,a,b,c,eval\n",
            "column 'official_part': got 'eval', expected train, dev or test",
        ),
    ],
)
def test_manifest_errors_name_file_row_and_column(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.csv", text)
    with pytest.raises(CorpusError) as caught:
        read_manifest(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_foreign_encoding_are_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file, expected a table"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(CorpusError, match="a folder, expected a table"):
        read_manifest(tmp_path)
    (tmp_path / "old.csv").write_bytes("id,path\nä,b\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"not UTF-8 text \(byte 8\)"):
        read_manifest(tmp_path / "old.csv")
    assert issubclass(CorpusError, InputError)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1.5),
        (" 2 ", 2.0),
        ("0 days 00:00:01.5", 1.5),
        ("0 days 00:00:01.500000", 1.5),
        ("1 days 01:00:00", 90000.0),
        ("1 day", 86400.0),
        ("00:01:01.25", 61.25),
        ("NaT", None),
        ("", None),
        ("nan", None),
    ],
)
def test_seconds_and_timedeltas_are_understood(text: str, seconds: float | None) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "1:2", "inf", "1 days x"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"finite|convert"):
        parse_seconds(text)


def test_timedeltas_agree_with_pandas(tmp_path: Path, utterances: list[Utterance]) -> None:
    import pandas as pd

    one = replace(utterances[0], start_s=3661.25, end_s=90000.000001)
    export_manifest(tmp_path / "a.csv", [one], format="audformat")
    row = pd.read_csv(tmp_path / "a.csv").iloc[0]
    assert pd.Timedelta(row["start"]).total_seconds() == 3661.25
    assert pd.Timedelta(row["end"]).total_seconds() == 90000.000001
    assert parse_seconds(str(pd.Timedelta(seconds=3661.25))) == 3661.25


@pytest.mark.parametrize("format", ["audformat", "nkululeko"])
def test_segment_tables_come_back(
    format: manifest.ManifestFormat, tmp_path: Path, utterances: list[Utterance]
) -> None:
    path = tmp_path / "toy.csv"
    export_manifest(path, utterances, format=format)
    header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header[:3] == ["file", "start", "end"]
    first, second = import_manifest(path)
    assert (first.path, first.start_s, first.end_s) == (utterances[0].path, 0.1, 1.25)
    assert first.id == "audio/1@0.100-1.250"
    for name in ("label", "speaker", "gender", "age", "language", "transcript", "sentence"):
        assert getattr(first, name) == getattr(utterances[0], name)
    assert (second.label, second.speaker, second.end_s) == (None, "ä 2", None)


def test_nkululeko_table_of_whole_files_has_its_four_columns_first(
    tmp_path: Path, utterances: list[Utterance]
) -> None:
    whole = [replace(one, start_s=0.0, end_s=None) for one in utterances]
    export_manifest(tmp_path / "toy.csv", whole, format="nkululeko")
    header = (tmp_path / "toy.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header[:4] == ["file", "speaker", "gender", "emotion"]
    assert [one.id for one in import_manifest(tmp_path / "toy.csv")] == ["audio/1", "elsewhere/b"]


def test_plain_seconds_and_several_segments_of_a_file_are_read(tmp_path: Path) -> None:
    text = (
        "file,start,end,emotion,sex\nd/x.wav,0,1.5,Anger,F\n"
        "d/x.wav,1.5,0 days 00:00:03,joy,m\nd/x.wav,3,,hangry,\n"
    )
    utterances = import_manifest(write(tmp_path / "call.csv", text), corpus="calls")
    assert [one.id for one in utterances] == [
        "d/x@0.000-1.500",
        "d/x@1.500-3.000",
        "d/x@3.000",
    ]
    assert [one.label for one in utterances] == ["angry", "happy", "hangry"]
    assert [one.gender for one in utterances] == ["female", "male", None]
    assert {one.corpus for one in utterances} == {"calls"}


def test_table_without_speakers_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.csv", "audio,label\na.wav,sad\n")
    with caplog.at_level(logging.WARNING):
        (one,) = import_manifest(path)
    assert one.speaker == "unknown"
    assert "the speaker of 1 of 1 utterances is not known" in caplog.text


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\n1,2\n", None, "no column holds the sound file; the table has a, b"),
        ("file\nx.wav\n", {"speaker": "who"}, "no column 'who' for speaker; the table has file"),
        ("file\nx.wav\n", {"speeker": "file"}, "unknown field 'speeker' among the columns: did"),
        ("file\nx.wav\n", {"qqq": "file"}, "unknown field 'qqq' among the columns: expected one"),
        ("file,label\n,sad\n", None, "row 2, column 'file': empty, expected a sound file"),
        ("file,start\nx.wav,soon\n", None, "row 2, column 'start': got 'soon', expected seconds"),
        ("file,activation\nx.wav,4\n", None, "leave it out with columns={'arousal': ''}"),
        ("file,split\nx.wav,fold1\n", None, "leave it out with columns={'official_part': ''}"),
        ("file\nx.wav\nx.wav\n", None, "row 3, column 'id': 'x' is already in row 2"),
    ],
)
def test_table_errors_name_file_row_and_column(
    text: str, columns: dict[str, str] | None, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(CorpusError) as caught:
        import_manifest(path, columns=columns)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_column_named_empty_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "file,split,speaker\nx.wav,fold1,ann\n")
    (one,) = import_manifest(path, columns={"official_part": ""})
    assert one.official_part is None


def test_parts_have_many_names(tmp_path: Path) -> None:
    text = "file,split,speaker\na.wav,Valid,x\nb.wav,training,x\nc.wav,eval,x\n"
    utterances = import_manifest(write(tmp_path / "t.csv", text))
    assert [one.official_part for one in utterances] == ["dev", "train", "test"]


def test_emobox_lines_get_speaker_and_label_from_the_reader(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "emovo"
    folder.mkdir(parents=True)
    wav = tmp_path / "downloads" / "emovo" / "f2" / "gio-f2-b2.wav"
    wav.parent.mkdir(parents=True)
    wav.write_bytes(b"")
    record = {
        "key": "emovo-gio-f2-b2",
        "dataset": "emovo",
        "wav": "downloads/emovo/f2/gio-f2-b2.wav",
        "type": "raw",
        "sample_rate": 48000,
        "num_frame": 96256.0,
        "task": "category",
        "length": 2.005333333333333,
        "emo": "gio",
        "channel": 1,
    }
    path = write(folder / "emovo.jsonl", json.dumps(record) + "\n")
    (one,) = import_manifest(path)
    assert (one.id, one.path) == ("emovo-gio-f2-b2", wav)
    assert (one.label, one.speaker, one.gender) == ("happy", "f2", "female")
    assert one.duration_s == pytest.approx(2.00533, abs=1e-5)
    assert one.transcript == emovo._SENTENCES["b2"]
    keyed = {record["key"]: {key: record[key] for key in ("wav", "length", "emo", "dataset")}}
    assert import_manifest(write(folder / "emovo.json", json.dumps(keyed))) == [one]


def test_json_lines_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": f"{name}.wav", "text": "so nice", "duration": 1.5} for name in ("a", "b")
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    found = import_manifest(write(tmp_path / "train.json", text), corpus="spoken")
    assert found == import_manifest(write(tmp_path / "train.jsonl", text), corpus="spoken")
    assert [(u.path.name, u.transcript) for u in found] == [
        ("a.wav", "so nice"),
        ("b.wav", "so nice"),
    ]
    whole = write(tmp_path / "list.json", json.dumps(lines, indent=1))
    assert import_manifest(whole, corpus="spoken") == found


def test_emobox_of_an_unknown_corpus_keeps_what_its_lines_say(tmp_path: Path) -> None:
    record = {
        "key": "k",
        "dataset": "mine",
        "wav": "x.wav",
        "label": {"emotion": "Joy"},
        "speaker": {"id": "s1", "gender": "F"},
        "text": "Hello",
        "tags": ["x"],
        "ok": True,
        "note": None,
    }
    (one,) = import_manifest(write(tmp_path / "a.jsonl", json.dumps(record)), format="emobox")
    assert (one.label, one.speaker, one.gender) == ("happy", "s1", "female")
    assert (one.transcript, one.corpus) == ("Hello", "mine")


def test_emobox_file_comes_back(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, emodb.NAMES)
    utterances = emodb.read(tmp_path)
    path = tmp_path / "emodb.jsonl"
    export_manifest(path, utterances)
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert {"key", "dataset", "wav", "type", "length", "emo", "channel"} <= set(first)
    assert (first["sample_rate"], first["num_frame"]) == (8000, 4000)
    back = import_manifest(path)
    assert [replace(one, id="", duration_s=None) for one in back] == [
        replace(one, id="") for one in utterances
    ]


def test_emobox_cannot_hold_stretches(tmp_path: Path, utterances: list[Utterance]) -> None:
    with pytest.raises(CorpusError, match="EmoBox tables hold whole files only, but a/1 is"):
        export_manifest(tmp_path / "a.jsonl", utterances)


def test_unknown_format_is_refused(tmp_path: Path, utterances: list[Utterance]) -> None:
    with pytest.raises(CorpusError, match="cannot write the format 'table': choose serkit"):
        export_manifest(tmp_path / "a.csv", utterances, format="table")
    with pytest.raises(CorpusError, match="unknown format 'kaldi': choose"):
        import_manifest(tmp_path / "a.csv", format="kaldi")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "{bad", "not valid JSON"),
        ("a.json", "{bad", "not valid JSON"),
        ("a.json", '{"path": "a.wav"}\n{bad', "not valid JSON"),
        ("a.jsonl", "[1]\n", r"row 1: got [1], expected an object"),
        ("a.json", '{"k": 1}', "row 1: got 1, expected an object"),
    ],
)
def test_broken_json_is_said(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        import_manifest(write(tmp_path / name, text))
    assert message in str(caught.value)


def test_tables_written_by_pandas_are_read(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"path": ["a.wav", "b.wav"], "emotion": ["sad", None], "speaker": [3, 8]})
    frame.to_csv(tmp_path / "t.csv")  # with the unnamed index column
    utterances = import_manifest(tmp_path / "t.csv")
    assert [(one.label, one.speaker) for one in utterances] == [("sad", "3"), (None, "8")]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "NULL"])
@pytest.mark.parametrize("header", ["id,path,corpus,speaker,label", "key,file,dataset,spk,emotion"])
def test_words_for_no_label_are_no_class(word: str, header: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f"{header}\n1,a.wav,mine,x,sad\n2,b.wav,mine,x,{word}\n", encoding="utf-8")
    assert [one.label for one in import_manifest(table)] == ["sad", None]
