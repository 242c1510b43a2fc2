from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from serkit import corpora
from serkit.corpora import cmu_mosei
from serkit.corpora.check import verify_audio
from serkit.corpora.cmu_mosei import label_of
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import SplitOptions, make_folds
from serkit.types import MissingExtraError, Utterance

h5py = pytest.importorskip("h5py")

LABELS = "Labels/CMU_MOSEI_Labels.csd"
SAD = (0, 0, 2, 0, 0, 0, 0)  # sentiment and the six emotions


@pytest.fixture
def release(contract: ModuleType, tmp_path: Path) -> Path:
    root: Path = contract.build_tree(tmp_path, cmu_mosei.NAMES, contract.files_of("cmu_mosei"))
    return root


def by_id(utterances: list[Utterance]) -> dict[str, Utterance]:
    return {one.id: one for one in utterances}


def with_labels(root: Path, contract: ModuleType, videos: dict[str, Any], **options: str) -> Path:
    (root / LABELS).write_bytes(contract.mosei_labels(videos, **options))
    return root


# The label rule. Scores: happy, sad, angry, surprise, disgust, fear.


@pytest.mark.parametrize(
    ("scores", "threshold", "label"),
    [
        ((0, 0, 0, 0, 0, 0), 0.5, "neutral"),
        ((1 / 3, 0, 0, 0, 0, 0), 0.5, None),  # one of three raters
        ((1 / 3, 0, 0, 0, 0, 0), 0.3, "happy"),
        ((0.29, 0, 0, 0, 0, 0), 0.2, "happy"),
        ((0.29, 0, 0, 0, 0, 0), 0.3, "neutral"),
        ((0, 0, 0, 1 / 3, 0, 0), 0.5, None),
        ((0.5, 0, 0, 0, 0, 0), 0.5, None),  # strictly above
        ((1, 0, 0, 0, 0, 0), 1.0, None),
        ((0, 0, 2 / 3, 0, 0, 0), 0.5, "angry"),
        ((0, 0, 0, 2, 0, 0), 0.5, None),  # surprise alone
        ((0, 0, 0, 2, 1, 3), 0.5, None),
        ((0, 0.6, 0, 2, 0, 3), 0.5, "sad"),  # with others that are no classes
        ((2, 1, 0, 0, 0, 0), 0.5, "happy"),
        ((1, 1, 0, 0, 0, 0), 0.5, None),  # a tie
    ],
)
def test_one_label_is_made_as_published_where_the_rules_agree(
    scores: tuple[float, ...], threshold: float, label: str | None
) -> None:
    assert label_of(scores, threshold=threshold) == label
    assert label_of(scores, threshold=threshold, conflicts="first_two") == label


@pytest.mark.parametrize(
    ("scores", "highest", "first_two"),
    [
        ((1, 2, 3, 0, 0, 0), "angry", "sad"),
        ((1, 1, 3, 0, 0, 0), "angry", None),
        ((1, 3, 3, 0, 0, 0), None, "sad"),
        ((3, 1, 3, 0, 0, 0), None, "happy"),
        ((2, 2, 2, 0, 0, 0), None, None),
    ],
)
def test_three_way_conflicts_go_to_the_highest_or_as_published_to_the_first_two(
    scores: tuple[float, ...], highest: str | None, first_two: str | None
) -> None:
    assert label_of(scores) == highest
    assert label_of(scores, conflicts="first_two") == first_two


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ((1, 1, 0, 0, 0, 0), "happy+sad"),
        ((1, 2, 3, 1, 0, 0), "angry+happy+sad"),
        ((0, 0, 3, 0, 2, 0), "angry"),
        ((0, 0, 0, 0, 2, 2), None),
        ((0, 0, 0, 0, 0, 0), "neutral"),
        ((1 / 3, 0, 0, 0, 0, 0), None),
    ],
)
def test_several_labels_are_joined_in_alphabetical_order(
    scores: tuple[float, ...], label: str | None
) -> None:
    assert label_of(scores, multi_label=True) == label


# Reading.


def test_clips_are_stretches_of_their_recordings(release: Path) -> None:
    found = by_id(cmu_mosei.read(release))
    assert {key: one.label for key, one in found.items()} == {
        "--qXJuDtHPw_0": "angry",
        "-3g5yACwYnA_0": "neutral",
        "102858_0": "sad",
        "_0efYOjQYRc_0": "happy",
        "hh04W3xXa5s_0": "happy",
    }
    one = found["-3g5yACwYnA_0"]
    assert (one.start_s, one.end_s) == (pytest.approx(0.1), 0.5)
    assert one.speaker == one.session == one.dialogue == "-3g5yACwYnA"
    assert (one.transcript, one.official_part) == ("One word.", None)
    assert found["102858_0"].transcript is None
    early, late = found["hh04W3xXa5s_0"], found["_0efYOjQYRc_0"]
    assert (early.start_s, early.end_s) == (0.0, pytest.approx(0.4))
    assert (late.start_s, late.end_s) == (0.0, 0.5)
    assert verify_audio(list(found.values()), workers=1, decode=True).problems == ()


def test_clips_are_numbered_as_stored_whether_kept_or_not(
    release: Path, contract: ModuleType
) -> None:
    clips = [(0.2, 0.4, *SAD), (0.1, 0.3, 0, 0.4, 0, 0, 0, 0, 0), (0.0, 0.2, *SAD)]
    with_labels(release, contract, {"102858": clips})
    found = by_id(cmu_mosei.read(release))
    assert list(found) == ["102858_0", "102858_2"]
    assert found["102858_2"].start_s == 0.0


def test_options_of_the_rule_reach_it_and_the_summary(release: Path) -> None:
    options = {"threshold": 0.3, "multi_label": True}
    utterances, check = corpora.load_corpus("CMU-MOSEI", release, options=options)
    found = by_id(utterances)
    assert found["-3g5yACwYnA_1"].label == "happy"
    assert found["hh04W3xXa5s_0"].label == "happy+sad"
    assert check.summary == (
        "cmu_mosei: complete, 6 utterances, 5 speakers, 5 classes; read with multi_label = True, "
        "threshold = 0.3"
    )


def test_what_is_left_out_is_counted_in_the_log(
    release: Path, contract: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    nan, inf = float("nan"), float("inf")
    clips = [
        (0.0, 0.4, *SAD),
        (0.0, 0.4, 0, nan, 2, 0, 0, 0, 0),
        (0.0, 0.4, 0, 4, 0, 0, 0, 0, 0),
        (0.0, 0.4, 0, -1, 2, 0, 0, 0, 0),
        (0.0, inf, *SAD),
        (nan, 0.4, *SAD),
        (0.4, 0.4, *SAD),
        (0.42, 9.0, *SAD),  # 0.08 s of it are in the recording
        (7.0, 9.0, *SAD),
        (0.0, 0.4, 0, 0.4, 0, 0, 0, 0, 0),
    ]
    with_labels(release, contract, {"102858": clips, "absent": clips[:1]})
    with caplog.at_level(logging.INFO):
        utterances, check = corpora.load_corpus("cmu_mosei", release, allow_incomplete=True)
    assert [one.id for one in utterances] == ["102858_0"]
    assert "1 of 11 clips are read; 6 without sound scores and times, 2 outside" in caplog.text
    assert "1 dropped by the label rule, 1 without recording" in caplog.text
    assert check.differences() == ["1 of 2 utterances", "1 of 2 speakers (102858)"]


def test_missing_recordings_make_the_copy_incomplete(release: Path) -> None:
    (release / cmu_mosei.NAMES[0]).unlink()
    with pytest.raises(CorpusError, match=r"incomplete, 4 of 5 utterances; 4 of 5 speakers"):
        corpora.read_corpus("cmu_mosei", release)
    assert len(corpora.read_corpus("cmu_mosei", release, allow_incomplete=True)) == 4


def test_recordings_may_lie_anywhere_and_in_any_format(
    contract: ModuleType, tmp_path: Path
) -> None:
    names = [f"flat/{Path(name).stem}.flac" for name in cmu_mosei.NAMES]
    contract.build_tree(tmp_path, names, contract.files_of("cmu_mosei"))
    assert len(cmu_mosei.read(tmp_path)) == 5


def test_a_damaged_recording_is_left_to_the_check_of_the_audio(release: Path) -> None:
    (release / cmu_mosei.NAMES[3]).write_bytes(b"RIFF")
    utterances = cmu_mosei.read(release)
    assert by_id(utterances)["_0efYOjQYRc_0"].end_s == 9.0
    (problem,) = verify_audio(utterances, workers=1).problems
    assert "_0efYOjQYRc.wav" in problem


def test_words_that_cannot_be_read_are_passed_over(release: Path) -> None:
    text = "-3g5yACwYnA___0___early___0.5___Odd.\nno line\n-3g5yACwYnA___1___0.1___0.51___A___b.\n"
    (release / "Transcript/Segmented/Combined/-3g5yACwYnA.txt").write_text(text)
    assert by_id(cmu_mosei.read(release))["-3g5yACwYnA_0"].transcript == "A___b."


def test_splits_by_speaker_and_session_keep_videos_apart(release: Path) -> None:
    utterances = cmu_mosei.read(release, threshold=0.3)
    video = {one.id: one.session for one in utterances}
    for split_name, options in (
        ("speaker_folds", SplitOptions(n_folds=3)),
        ("leave_one_speaker_out", SplitOptions()),
        ("leave_one_session_out", SplitOptions()),
    ):
        for fold in make_folds(utterances, split_name, options):
            parts = [{video[uid] for uid in part} for part in (fold.train, fold.dev, fold.test)]
            assert sum(map(len, parts)) == len(set().union(*parts))


# Official folds.

FOLDS = {
    "train": ["--qXJuDtHPw", "102858", "elsewhere"],
    "dev": ["_0efYOjQYRc"],
    "test": ["hh04W3xXa5s"],
}


def test_official_folds_come_from_json_or_from_the_sdk_and_leave_other_videos_out(
    release: Path, tmp_path: Path
) -> None:
    (release / "folds.json").write_text(json.dumps(FOLDS))
    names = {"train": "standard_train_fold", "dev": "standard_valid_fold"}
    source = "import os\n" + "\n\n".join(
        f"{names.get(part, 'standard_test_fold')}={videos!r}" for part, videos in FOLDS.items()
    )
    (tmp_path / "cmu_mosei_std_folds.py").write_text(source)
    utterances = cmu_mosei.read(release, folds="folds.json")
    assert utterances == cmu_mosei.read(release, folds=tmp_path / "cmu_mosei_std_folds.py")
    (fold,) = make_folds(utterances, "official")
    assert fold.train == ("--qXJuDtHPw_0", "102858_0")
    assert (fold.dev, fold.test) == (("_0efYOjQYRc_0",), ("hh04W3xXa5s_0",))


def test_a_python_file_of_folds_is_never_run(release: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    source = f"open({str(trap)!r}, 'w')\ntrain = dev = test = [str(open({str(trap)!r}, 'w'))]\n"
    (release / "folds.py").write_text(source)
    with pytest.raises(CorpusError, match=r"folds\.py: cannot be read \(malformed node"):
        cmu_mosei.read(release, folds="folds.py")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("folds.json", "{", "cannot be read"),
        ("folds.json", "[" * 100_000, "cannot be read"),
        ("folds.json", "[]", "got a list; expected lists of videos"),
        ("folds.json", '{"train": ["a"], "dev": []}', "no list of videos for the part test"),
        ("folds.json", '{"train": ["a"], "dev": [1], "test": []}', "for the part dev"),
        ("folds.json", '{"train": ["a"], "dev": [], "test": ["a"]}', "'a' is in train and in test"),
        ("folds.json", " " * 1_000_001, "1000001 bytes are no folds"),
        ("folds.py", "train = [", "cannot be read"),
        ("folds.py", "train = {[]: 1}", "cannot be read"),
        ("folds.py", "train\0", "cannot be read"),
    ],
)
def test_faulty_folds_are_refused_in_one_line(
    name: str, text: str, message: str, release: Path
) -> None:
    (release / name).write_text(text)
    with pytest.raises(CorpusError, match=re.escape(message)) as caught:
        cmu_mosei.read(release, folds=name)
    assert "\n" not in str(caught.value)


# Tables of labels.

TABLE = """Video,start,end,happiness,sadness,anger,surprise,disgust,fear,gender
102858.wav,0.0,0.4,0,1.0,0,0,0,0,x
102858,0.1,0.4,0,,0,0,0,0,x
hh04W3xXa5s,0,0.4,2,0,0,0,0,0,x
102858,0.2,0.4,0,0,0,0,0,0,x
"""


def test_a_table_of_labels_stands_in_for_the_label_file(release: Path) -> None:
    (release / LABELS).unlink()
    (release / "labels.csv").write_text(TABLE)
    found = by_id(cmu_mosei.read(release, labels="labels.csv"))
    assert {key: one.label for key, one in found.items()} == {
        "hh04W3xXa5s_0": "happy",
        "102858_2": "neutral",
        "102858_0": "sad",
    }
    assert (found["102858_2"].start_s, found["102858_2"].end_s) == (0.2, 0.4)


def test_a_table_without_times_names_clips_that_were_cut(
    contract: ModuleType, tmp_path: Path
) -> None:
    text = "file\thappy\tsad\tangry\tsurprise\tdisgust\tfear\n"
    text += (
        "Audio\\Segmented\\_0efYOjQYRc_0.wav\t0\t0\t3\t0\t0\t0\n102858_12.wav\t1\t0\t0\t0\t0\t0\n"
    )
    clips = ["Audio/Segmented/_0efYOjQYRc_0.wav", "Audio/Segmented/102858_12.wav"]
    contract.build_tree(tmp_path, clips, {"labels.tsv": text})
    angry, happy = cmu_mosei.read(tmp_path, labels=tmp_path / "labels.tsv")
    assert (angry.id, angry.speaker, angry.label) == ("_0efYOjQYRc_0", "_0efYOjQYRc", "angry")
    assert (happy.id, happy.speaker, happy.end_s) == ("102858_12", "102858", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the column video is missing.*an empty file"),
        (TABLE.replace(",end", ",stop"), "the column end is missing"),
        (TABLE.replace("1.0", "much"), "line 2: 'much' in the column sadness is not a number"),
        (TABLE.replace("102858,0.1", ",0.1"), "line 3: the clip has no name"),
        ("file,happy,sad,angry,surprise,disgust,fear\na_0,1,0,0,0,0,0\na_0.wav,1,0,0,0,0,0\n",
         "the clip 'a_0' stands there twice"),
        ("fileä,happy\n", "not a UTF-8 table"),
    ],
)  # fmt: skip
def test_faulty_tables_are_refused_in_one_line(text: str, message: str, release: Path) -> None:
    (release / "labels.csv").write_text(text, encoding="latin-1")
    with pytest.raises(CorpusError, match=message) as caught:
        cmu_mosei.read(release, labels="labels.csv")
    assert "\n" not in str(caught.value)


# What cannot be used.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "threshold = 0: expected a number between 0 and 3"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"threshold": "0.5 "}, "expected a number"),
        ({"threshold": True}, "threshold = True"),
        ({"multi_label": 1}, "multi_label = 1: expected true or false"),
        ({"conflicts": "first"}, "expected argmax or first_two"),
        ({"conflicts": "first_two", "multi_label": True}, "has no meaning with multi_label"),
        ({"labels": "none.csv"}, "none.csv: the option labels is the path of a file"),
        ({"labels": 3}, "labels = 3: expected the path of a file"),
        ({"folds": "none.json"}, "the option folds is the path of a file"),
    ],
)
def test_options_without_meaning_are_refused(
    options: dict[str, Any], message: str, release: Path
) -> None:
    with pytest.raises(CorpusError, match=re.escape(message)):
        corpora.read_corpus("cmu_mosei", release, options=options)


def test_labels_without_any_recording_are_refused(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, [], contract.files_of("cmu_mosei"))
    with pytest.raises(CorpusError, match=r"none of 6 labelled clips .*5 without recording"):
        cmu_mosei.read(tmp_path)


def test_a_label_file_of_another_name_is_found_where_it_is_the_only_one(release: Path) -> None:
    copy = (release / LABELS).rename(release / "CMU_MOSEI_All_Labels.csd")
    (release / "Labels/._CMU_MOSEI_Labels.csd").write_bytes(b"\0")
    assert len(cmu_mosei.read(release)) == 5
    (release / "CMU_MOSEI_LabelsEmotions.csd").write_bytes(copy.read_bytes())
    with pytest.raises(CorpusError, match=r"several label files below .*: name one with the"):
        cmu_mosei.read(release)
    assert len(cmu_mosei.read(release, labels=copy.name)) == 5


def test_without_h5py_the_extra_is_named(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serkit\[cmu-mosei\]'"):
        cmu_mosei.read(release)


def test_the_older_label_files_with_six_columns_are_refused(release: Path) -> None:
    with h5py.File(release / LABELS, "w") as file:
        file["Emotion Labels/data/102858/intervals"] = np.zeros((1, 2))
        file["Emotion Labels/data/102858/features"] = np.zeros((1, 6))
    with pytest.raises(CorpusError, match=r"'102858/features' is .*expected numbers of shape \(n"):
        cmu_mosei.read(release)


def _wrong_sequence(file: Any) -> None:
    file["data/102858/intervals"] = np.zeros((1, 2))


def _a_number_in_place_of_a_sequence(file: Any) -> None:
    file["All Labels"] = 3


def _unequal_rows(file: Any) -> None:
    file["x/data/102858/intervals"] = np.zeros((2, 2))
    file["x/data/102858/features"] = np.zeros((1, 7))


def _a_promise_of_a_terabyte(file: Any) -> None:
    file.create_dataset("x/data/102858/intervals", shape=(2**36, 2), dtype="f8", chunks=(1024, 2))


def _texts(file: Any) -> None:
    file["x/data/102858/intervals"] = [[b"a", b"b"]]


def _link_to_nowhere(file: Any) -> None:
    file["x/data/102858/intervals"] = h5py.SoftLink("/nowhere")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_wrong_sequence, "expected one computational sequence"),
        (_a_number_in_place_of_a_sequence, "expected one computational sequence"),
        (_unequal_rows, "has 2 intervals and 1 rows of scores"),
        (_a_promise_of_a_terabyte, r"expected numbers of shape \(n, 2\)"),
        (_texts, r"expected numbers of shape \(n, 2\)"),
        (_link_to_nowhere, r"expected numbers of shape \(n, 2\)"),
    ],
)
def test_another_hdf5_file_is_refused_in_one_line(build: Any, message: str, release: Path) -> None:
    with h5py.File(release / LABELS, "w") as file:
        build(file)
    with pytest.raises(CorpusError, match=message) as caught:
        cmu_mosei.read(release)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_damaged_label_file_is_refused_in_one_line(release: Path) -> None:
    whole = (release / LABELS).read_bytes()
    generator = np.random.default_rng(0)
    copies = [whole[: round(len(whole) * share)] for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)]
    for _ in range(60):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 40):
            damaged[place] = int(generator.integers(0, 256))
        copies.append(bytes(damaged))
    refusals = []
    for copy in copies:
        (release / LABELS).write_bytes(copy)
        try:
            cmu_mosei.read(release)
        except CorpusError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not any("\n" in refusal for refusal in refusals)
