"""Tables of clips are read as text, checked line by line, and counted against the release."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from serkit.corpora import ch_sims
from serkit.corpora.clips import CLIP_CORPORA, clip_catalogue, read_clip_corpus
from serkit.corpora.labelled_clips import LabelledClip, check_clips
from serkit.corpora.manifest import CorpusError

HEADER = "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
ROWS = (
    'video_0001,0001,"我不想嫁给李茶",-0.6,-0.8,-0.2,0.0,Negative,train\n'
    'video_0001,0002,"one, and ""two""\nlines",0.2,,,,Positive,valid\n'
    "video_0002,0010,,0,0,0,0,Neutral,test\n"
)


def released(root: Path, rows: str = ROWS, *, header: str = HEADER) -> Path:
    root.mkdir(exist_ok=True)
    (root / "label.csv").write_text(header + rows, encoding="utf-8")
    for name in ("video_0001/0001", "video_0001/0002", "video_0002/0010"):
        path = root / "Raw" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"any")
    return root


def test_a_table_gives_ids_with_their_zeros_and_labels_of_every_stream(tmp_path):
    clips = ch_sims.read(released(tmp_path))
    assert [clip.id for clip in clips] == [
        "video_0001$_$0001",
        "video_0001$_$0002",
        "video_0002$_$0010",
    ]
    assert [clip.part for clip in clips] == ["train", "dev", "test"]
    assert [clip.group for clip in clips] == ["video_0001", "video_0001", "video_0002"]
    assert clips[0].path == tmp_path / "Raw" / "video_0001" / "0001.mp4"
    assert clips[0].labels == {"M": -0.6, "T": -0.8, "A": -0.2, "V": 0.0}
    assert clips[1].text == 'one, and "two"\nlines'
    assert math.isnan(clips[1].labels["A"])
    assert clips[2].text == ""
    assert {clip.speaker for clip in clips} == {None}
    assert clips[2].annotation == "Neutral"


def test_a_table_with_a_byte_order_mark_and_windows_line_ends_is_the_same(tmp_path):
    root = released(tmp_path)
    expected = ch_sims.read(root)
    text = (HEADER + ROWS).replace("\n", "\r\n").replace('"two""\r\n', '"two""\n')
    (root / "label.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert repr(ch_sims.read(root)) == repr(expected)


def test_clips_of_another_container_are_found(tmp_path):
    root = released(tmp_path)
    (root / "Raw/video_0002/0010.mp4").rename(root / "Raw/video_0002/0010.avi")
    assert ch_sims.read(root)[2].path.suffix == ".avi"


def counted(n: dict[str, tuple[int, int, int]], root: Path) -> list[LabelledClip]:
    signs = (-0.4, 0.0, 0.4)
    return [
        LabelledClip(
            id=f"{part}{sign}{i}",
            path=root / "label.csv",
            text="",
            part=part,
            group="v",
            labels={"M": sign},
        )
        for part, numbers in n.items()
        for sign, number in zip(signs, numbers, strict=True)
        for i in range(number)
    ]


def test_the_counts_of_the_release_are_known_and_add_up(tmp_path):
    expected = ch_sims.RELEASES["ch_sims"]
    assert sum(expected.parts.values()) == expected.n_clips == 2281
    assert {part: sum(n) for part, n in expected.signs.items()} == expected.parts
    root = released(tmp_path)
    assert check_clips(counted(dict(expected.signs), root), expected, corpus="x").complete


def test_a_copy_with_other_counts_is_refused_or_said_to_be_one(tmp_path):
    root = released(tmp_path)
    with pytest.raises(CorpusError, match="3 clips, expected 2281; 1 clips in train, expected"):
        read_clip_corpus("ch_sims", root)
    clips, check = read_clip_corpus("ch_sims", root, allow_incomplete=True)
    assert len(clips) == 3
    assert "(1, 0, 0) clips below, at and above 0 in train" in check.summary
    _, check = read_clip_corpus("ch_sims", root, options={"release": "other"})
    assert check.complete
    assert "counts not known in advance" in check.summary


def test_clips_that_are_listed_and_not_there_are_said(tmp_path):
    root = released(tmp_path)
    (root / "Raw/video_0002/0010.mp4").unlink()
    with pytest.raises(CorpusError, match=r"1 clips are listed and not there, such as .*0010\.mp4"):
        read_clip_corpus("ch_sims", root, options={"release": "other"})


def test_lost_zeros_are_recognised(tmp_path):
    root = released(tmp_path, "video_0001,1,x,0,,,,,train\n")
    with pytest.raises(CorpusError, match=r"names the clip '1' where the file is 0001\.mp4"):
        ch_sims.read(root)


def test_labels_up_to_three_are_those_of_other_releases(tmp_path):
    root = released(tmp_path, "video_0001,0001,x,2.4,,,,,train\n")
    with pytest.raises(CorpusError, match=r"line 2, column 'label': got 2\.4, expected -1 to 1"):
        ch_sims.read(root)
    assert ch_sims.read(root, release="cmu_mosi")[0].labels["M"] == 2.4


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../..,0001,x,0,,,,,train\n", "column 'video_id': got '../..', expected the name"),
        ("video_0001,..,x,0,,,,,train\n", "column 'clip_id': got '..', expected the name"),
        ("a$_$b,1,x,0,,,,,train\n", r"column 'video_id': got 'a\$_\$b'"),
        (",0001,x,0,,,,,train\n", "column 'video_id': got '', expected the name"),
        ("v,1,x,nice,,,,,train\n", "column 'label': got 'nice', expected a number or nothing"),
        ("v,1,x,inf,,,,,train\n", "column 'label': got inf, expected -1 to 1"),
        ("v,1,x,0,,9,,,train\n", "column 'label_A': got 9, expected -1 to 1"),
        ("v,1,x,0,,,,,later\n", "column 'mode': got 'later', expected train, valid or test"),
        ("v,1,x,0,,,,,\n", "column 'mode': got '', expected train, valid or test"),
        ("v,1,x,0,train\n", "line 2: 5 cells, expected 9 as in the header"),
        ('v,1,"x,0,,,,,train\n', "not valid CSV"),
        ("v,1,x,0,,,,,train\nv,1,y,0,,,,,test\n", r"line 3: clip v\$_\$1 is in line 2 already"),
        ("v,1,\0,0,,,,,train\n", "holds a zero byte"),
        ("", "holds no rows"),
    ],
)
def test_a_table_that_cannot_be_understood_names_the_line(tmp_path, row, message):
    with pytest.raises(CorpusError, match=message):
        ch_sims.read(released(tmp_path, row))


def test_a_table_without_a_column_or_with_two_of_a_name_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="no column 'clip_id'; its first line is video_id, text"):
        ch_sims.read(released(tmp_path, header="video_id,text\n"))
    with pytest.raises(CorpusError, match="two columns are called 'label'"):
        ch_sims.read(released(tmp_path, header="label," + HEADER))


def test_a_folder_without_a_readable_table_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="which is missing"):
        ch_sims.read(tmp_path / "none")
    with pytest.raises(CorpusError, match=r"label\.csv: cannot be read \(No such file"):
        ch_sims.read(tmp_path)
    (tmp_path / "label.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="not UTF-8 text"):
        ch_sims.read(tmp_path)
    with pytest.raises(CorpusError, match="release 'v3', expected one of ch_sims, ch_sims_v2"):
        ch_sims.read(tmp_path, release="v3")


def test_anybodys_clips_are_read_from_a_table(tmp_path):
    table = tmp_path / "clips.csv"
    table.write_text(
        "path,text,label,label_A,part,speaker,group\n"
        "a/0001.mp4,hello,1.5,,train,anna,film\n"
        "a\\0002.mp4,,,,,,\n"
    )
    one, two = CLIP_CORPORA["table"].read(tmp_path)
    assert (one.id, one.part, one.speaker, one.group) == ("a/0001", "train", "anna", "film")
    assert one.labels["M"] == 1.5
    assert one.path == tmp_path / "a" / "0001.mp4"
    assert (two.id, two.part, two.speaker, two.group) == ("a/0002", "test", None, "a")
    assert math.isnan(two.labels["M"])
    table.write_text("path\n\na,b\n")
    with pytest.raises(CorpusError, match="line 3: 2 cells, expected 1"):
        CLIP_CORPORA["table"].read(table)
    table.write_text("path,text\n,x\n")
    with pytest.raises(CorpusError, match="column 'path': empty, expected a clip"):
        CLIP_CORPORA["table"].read(table)
    (tmp_path / "more.csv").touch()
    with pytest.raises(CorpusError, match=r"expected one CSV in .*, got clips\.csv, more\.csv"):
        CLIP_CORPORA["table"].read(tmp_path)


def test_an_unknown_corpus_or_option_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="unknown corpus of clips 'sims': known are ch_sims"):
        read_clip_corpus("sims", tmp_path)
    with pytest.raises(CorpusError, match="ch_sims: unknown option 'realease': expected one of"):
        read_clip_corpus("ch_sims", tmp_path, options={"realease": "other"})
    with pytest.raises(CorpusError, match="table: unknown option 'release': it has none"):
        read_clip_corpus("table", tmp_path, options={"release": "other"})


def test_every_corpus_of_clips_says_what_it_is():
    rows = clip_catalogue()
    assert [row["name"] for row in rows] == list(CLIP_CORPORA)
    assert rows[0]["n_clips"] == 2281
    assert all(row["title"] and row["licence"] and row["where"] for row in rows)


def test_a_manifest_of_emotion_is_a_table_of_clips(tmp_path):
    table = tmp_path / "manifest.csv"
    table.write_text(
        "id,path,label,speaker,transcript,part,annotation_A\n"
        "r1,Actor_01/01-01-03.mp4,happy,1,Kids are talking,train,sad\n"
        "r2,Actor_02/01-01-04.mp4,,2,,test,\n"
    )
    one, two = CLIP_CORPORA["table"].read(table)
    assert (one.annotation, one.text, one.speaker) == ("happy", "Kids are talking", "1")
    assert one.stream_annotations == {"A": "sad"}
    assert math.isnan(one.labels["M"])
    assert (two.annotation, two.stream_annotations) == ("", {})
    table.write_text("path,label,annotation\na.mp4,happy,sad\n")
    with pytest.raises(CorpusError, match="'label': got 'happy', expected a number"):
        CLIP_CORPORA["table"].read(table)
    table.write_text("path,label\na.mp4,inf\nb.mp4,nan\n")
    with pytest.raises(CorpusError, match="'label': got inf, expected -3 to 3"):
        CLIP_CORPORA["table"].read(table)
    table.write_text("path,label\na.mp4,happy\nb.mp4,0.4\n")
    with pytest.raises(CorpusError, match="'label': got 'happy', expected a number"):
        CLIP_CORPORA["table"].read(table)


@pytest.mark.parametrize("nothing", ["nan", "NaN", "none", "null"])
def test_what_other_programs_write_for_no_label_is_no_class_and_no_number(tmp_path, nothing):
    table = tmp_path / "clips.csv"
    table.write_text(f"path,label\na.mp4,{nothing}\nb.mp4,{nothing}\n")
    (one, _) = CLIP_CORPORA["table"].read(table)
    assert one.annotation == ""
    assert math.isnan(one.labels["M"])
    table.write_text(f"path,label\na.mp4,happy\nb.mp4,{nothing}\n")
    assert [clip.annotation for clip in CLIP_CORPORA["table"].read(table)] == ["happy", ""]
    table.write_text(f"path,annotation,annotation_T\na.mp4,{nothing},{nothing}\nb.mp4,sad,sad\n")
    one, two = CLIP_CORPORA["table"].read(table)
    assert (one.annotation, one.stream_annotations) == ("", {})
    assert (two.annotation, two.stream_annotations) == ("sad", {"T": "sad"})
