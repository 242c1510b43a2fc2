"""The folds that are published of IEMOCAP: by recording, by speaker, by session, by script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from serkit import corpora
from serkit.corpora import iemocap
from serkit.corpora.leaks import check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import SPLITS, SplitOptions, make_folds, protocol_words
from serkit.labels import map_label
from serkit.types import Fold, Utterance

EMOTIONS = ("neutral", "happy", "angry", "sad")

# Turns of the four classes (excited counted as happy) by who speaks.
BY_SPEAKER = {
    "1F": (171, 132, 147, 78), "1M": (213, 146, 82, 116),
    "2F": (135, 166, 67, 113), "2M": (227, 161, 70, 84),
    "3F": (130, 128, 92, 172), "3M": (190, 158, 148, 133),
    "4F": (76, 185, 205, 62), "4M": (182, 118, 122, 81),
    "5F": (221, 159, 78, 132), "5M": (163, 283, 92, 113),
}  # fmt: skip
# The same turns by who wears the markers, as in the folds 01F to 05M.
BY_RECORDING = {
    "1F": (226, 117, 97, 67), "1M": (158, 161, 132, 127),
    "2F": (209, 148, 65, 83), "2M": (153, 179, 72, 114),
    "3F": (156, 145, 88, 147), "3M": (164, 141, 152, 158),
    "4F": (128, 174, 177, 74), "4M": (130, 129, 150, 69),
    "5F": (192, 236, 78, 138), "5M": (192, 206, 92, 107),
}  # fmt: skip
CODES = {"neutral": "neu", "happy": "exc", "angry": "ang", "sad": "sad"}
DIALOGUES = ("impro01", "impro02", "script01_1", "script01_1b", "script02_1")


def joint_counts() -> Iterator[tuple[str, str, str, int]]:
    """Recording, speaker, emotion, number of turns: one assignment with both tables' sums."""
    for session in "12345":
        women, men, first, second = (
            table[session + letter] for table in (BY_SPEAKER, BY_RECORDING) for letter in "FM"
        )
        for i, emotion in enumerate(EMOTIONS):
            both = round(women[i] * first[i] / (women[i] + men[i]))
            yield f"Ses0{session}F", "F", emotion, both
            yield f"Ses0{session}F", "M", emotion, first[i] - both
            yield f"Ses0{session}M", "F", emotion, women[i] - both
            yield f"Ses0{session}M", "M", emotion, second[i] - women[i] + both


def turns_of_the_release() -> Iterator[tuple[str, str]]:
    """Name and label code of every turn, spread over a few dialogues of each recording."""
    numbers = Counter[str]()
    for recording, speaker, emotion, n_turns in joint_counts():
        for i in range(n_turns):
            prefix = f"{recording}_{DIALOGUES[i % len(DIALOGUES)]}_{speaker}"
            code = "hap" if emotion == "happy" and i % 3 == 0 else CODES[emotion]
            yield f"{prefix}{numbers[prefix]:03d}", code
            numbers[prefix] += 1


def files_of_the_release() -> dict[str, str]:
    """Evaluations with these turns, and in each dialogue two of other labels."""
    lines: dict[str, list[str]] = {}
    for turn, code in turns_of_the_release():
        lines.setdefault(turn.rpartition("_")[0], []).append(f"{turn}\t{code}")
    for dialogue, own in lines.items():
        own += [f"{dialogue}_F900\tfru", f"{dialogue}_M901\txxx"]
    return {
        f"Session{dialogue[4]}/dialog/EmoEvaluation/{dialogue}.txt": "".join(
            f"[{i}.0000 - {i + 1}.0000]\t{line}\t[2.5000, 3.0000, 4.5000]\n"
            for i, line in enumerate(own)
        )
        for dialogue, own in lines.items()
    }


@pytest.fixture(scope="module")
def four_classes(contract: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """All turns of the four classes, read from a layout such as the release's."""
    files = files_of_the_release()
    dialogues = [name.replace("EmoEvaluation", "wav").replace("txt", "wav") for name in files]
    root = contract.build_tree(tmp_path_factory.mktemp("iemocap"), dialogues, files)
    selected = []
    for turn in corpora.read_corpus("iemocap", root, allow_incomplete=True):
        label = map_label(turn.label, mapping={"excited": "happy"}, keep=EMOTIONS)
        if label is not None:
            selected.append(replace(turn, label=label))
    return selected


def counts(utterances: list[Utterance], ids: tuple[str, ...]) -> tuple[int, ...]:
    chosen = set(ids)
    found = Counter(turn.label for turn in utterances if turn.id in chosen)
    return tuple(found[emotion] for emotion in EMOTIONS)


def speakers(utterances: list[Utterance], ids: tuple[str, ...]) -> set[str]:
    chosen = set(ids)
    return {turn.speaker for turn in utterances if turn.id in chosen}


def scripts(ids: tuple[str, ...]) -> set[str]:
    """What is played, whoever plays it in whichever take."""
    return {uid.split("_", 1)[1].rpartition("_")[0].rstrip("b") for uid in ids}


def folds_of(
    utterances: list[Utterance], split_name: str, dev: str | None = "none"
) -> dict[str, Fold]:
    folds = make_folds(utterances, split_name, SplitOptions(dev=dev))
    return {fold.name: fold for fold in folds}


def test_leave_one_speaker_out_has_the_published_counts(four_classes: list[Utterance]) -> None:
    folds = folds_of(four_classes, "leave_one_speaker_out")
    assert {
        name.removeprefix("speaker-Ses0"): counts(four_classes, fold.test)
        for name, fold in folds.items()
    } == BY_SPEAKER


def test_recording_folds_have_the_published_counts(four_classes: list[Utterance]) -> None:
    folds = folds_of(four_classes, "recording_folds")
    assert {
        name.removeprefix("recording-Ses0"): counts(four_classes, fold.test)
        for name, fold in folds.items()
    } == BY_RECORDING
    sizes = [507, 578, 505, 518, 536, 615, 553, 478, 644, 597]
    assert [len(fold.test) for fold in folds.values()] == sizes
    assert [len(fold.train) for fold in folds.values()] == [5531 - size for size in sizes]


def test_leave_one_session_out_has_the_published_counts(four_classes: list[Utterance]) -> None:
    folds = folds_of(four_classes, "leave_one_session_out", dev=None)
    assert [len(fold.test) for fold in folds.values()] == [1085, 1023, 1151, 1031, 1241]
    for fold in folds.values():
        n_speakers = [len(speakers(four_classes, p)) for p in (fold.train, fold.dev, fold.test)]
        assert n_speakers == [6, 2, 2]


def test_each_recording_shares_both_its_speakers_between_train_and_test(
    four_classes: list[Utterance],
) -> None:
    for name, fold in folds_of(four_classes, "recording_folds").items():
        session = name.removeprefix("recording-")[:-1]
        assert speakers(four_classes, fold.test) == {f"{session}F", f"{session}M"}
        assert speakers(four_classes, fold.test) < speakers(four_classes, fold.train)


def test_recordings_pass_for_nothing_but_speaker_dependent(four_classes: list[Utterance]) -> None:
    assert protocol_words("recording_folds") == ("speaker-dependent", "sentences shared")
    folds = list(folds_of(four_classes, "recording_folds").values())
    promised = SPLITS["recording_folds"].separates
    report = check_leaks(four_classes, folds, separates=promised)
    assert not report.broken
    assert not report.kept_apart
    with pytest.raises(CorpusError, match="train and test share 10 speakers in 10 of 10 folds"):
        check_leaks(four_classes, folds, separates={"speaker"}).raise_if_broken()


@pytest.mark.parametrize(
    ("split_name", "dev", "kept_apart"),
    [
        ("leave_one_speaker_out", "session_partner", {"speaker", "session"}),
        ("leave_one_session_out", "session", {"speaker", "session"}),
        ("leave_one_session_out", "other_speaker", {"speaker", "session"}),
        ("speaker_and_script", "speaker_and_script", {"speaker", "script"}),
    ],
)
def test_folds_by_speaker_pass_the_leak_check(
    four_classes: list[Utterance], split_name: str, dev: str, kept_apart: set[str]
) -> None:
    folds = list(folds_of(four_classes, split_name, dev).values())
    report = check_leaks(four_classes, folds, separates=SPLITS[split_name].separates)
    report.raise_if_broken()
    assert report.kept_apart == kept_apart


def test_the_session_partner_is_dev_and_not_trained_on(four_classes: list[Utterance]) -> None:
    folds = folds_of(four_classes, "leave_one_speaker_out", "session_partner")
    assert len(folds) == 10
    for fold in folds.values():
        (tested,) = speakers(four_classes, fold.test)
        (partner,) = speakers(four_classes, fold.dev)
        assert (partner[:-1], partner != tested) == (tested[:-1], True)
        assert len(speakers(four_classes, fold.train) - {tested, partner}) == 8
        assert len(fold.train) + len(fold.dev) + len(fold.test) == 5531
    assert protocol_words("leave_one_speaker_out", "session_partner") == ("sentences shared",)


@pytest.mark.parametrize("split_name", ["leave_one_session_out", "speaker_folds"])
def test_without_a_partner_in_training_there_is_no_session_partner(split_name: str) -> None:
    alone = [
        Utterance(
            id=f"{name}{i}", path=Path("x.wav"), corpus="toy", label="sad", speaker=name,
            session=f"session {name}",
        )
        for name in "abc"
        for i in range(2)
    ]  # fmt: skip
    with pytest.raises(CorpusError, match="'session_partner' finds nobody in training"):
        folds_of(alone, split_name, "session_partner")


@pytest.mark.parametrize("dev", ["speaker", "speaker_and_script", "session_partner"])
def test_a_script_in_test_is_in_no_other_part_in_any_take(
    four_classes: list[Utterance], dev: str
) -> None:
    folds = folds_of(four_classes, "speaker_and_script", dev)
    assert len(folds) == 10  # five groups of speakers, two of scripts
    for fold in folds.values():
        assert not scripts(fold.test) & scripts(fold.train + fold.dev)
        assert not speakers(four_classes, fold.test) & speakers(four_classes, fold.train + fold.dev)
        if dev == "speaker_and_script":
            assert not scripts(fold.dev) & scripts(fold.train)
    tested = Counter(uid for fold in folds.values() for uid in fold.test)
    assert (len(tested), set(tested.values())) == (5531, {1})
    assert any(uid.startswith("Ses01F_script01_1b_") for uid in tested)


def test_scripts_apart_need_no_warning_of_shared_sentences() -> None:
    assert protocol_words("speaker_and_script", "speaker_and_script") == ()
    assert protocol_words("speaker_and_script") == ("dev shares scripts with train",)


def named(*turns: str) -> list[Utterance]:
    """Read turns by the names of their files alone."""
    read = [iemocap.parse(Path(f"{turn}.wav"), turn) for turn in turns]
    assert None not in read
    return [turn for turn in read if turn is not None]


def test_scripts_shared_across_sessions_are_a_note_and_a_warning() -> None:
    turns = named(
        "Ses01F_script01_1_F000", "Ses01F_impro02_M000", "Ses01M_script03_2_M000",
        "Ses02M_script01_1b_M003", "Ses02F_impro02_F001", "Ses02F_script02_2_F000",
    )  # fmt: skip
    split = SPLITS["leave_one_session_out"]
    folds = make_folds(turns, "leave_one_session_out", SplitOptions(dev="none"))
    report = check_leaks(turns, folds, separates=split.separates)
    assert not report.broken
    assert "script" not in report.kept_apart
    line = "note: train and test share 2 scripts in folds session-Ses01 and session-Ses02"
    assert f"{line} (impro02, script01_1)" in report.lines()
    assert report.scripts_shared
    words = protocol_words("leave_one_session_out", scripts_shared=report.scripts_shared)
    assert "scripts shared" in words


def test_a_shared_script_breaks_the_promise_to_keep_scripts_apart() -> None:
    turns = named("Ses01F_script01_1_F000", "Ses02M_script01_1b_M003", "Ses03F_impro02_F001")
    fold = Fold(name="one", train=(turns[0].id, turns[2].id), dev=(), test=(turns[1].id,))
    promised = SPLITS["speaker_and_script"].separates
    with pytest.raises(CorpusError, match=r"share 1 script in fold one \(script01_1\)"):
        check_leaks(turns, [fold], separates=promised).raise_if_broken()
    apart = Fold(name="two", train=(turns[0].id, turns[1].id), dev=(), test=(turns[2].id,))
    report = check_leaks(turns, [apart], separates=promised)
    assert not report.findings
    assert report.kept_apart == {"speaker", "script", "session"}


def test_only_names_like_these_are_read_as_scripts_where_none_are_promised() -> None:
    videos = [
        Utterance(
            id=f"clip{i}", path=Path(f"{i}.mp4"), corpus="videos", label="sad", speaker=video,
            dialogue=video,
        )
        for i, video in enumerate(("3Fq_g", "pTw_g"))
    ]  # fmt: skip
    fold = Fold(name="one", train=("clip0",), dev=(), test=("clip1",))
    report = check_leaks(videos, [fold], separates={"speaker"})
    assert not report.findings
    assert "script" not in report.kept_apart
    promised = check_leaks(videos, [fold], separates={"script"})
    assert [finding.items for finding in promised.broken] == [("g",)]


def test_recordings_and_scripts_need_the_names_of_dialogues(four_classes: list[Utterance]) -> None:
    unnamed = [replace(turn, dialogue=None) for turn in four_classes[::700]]
    for split_name in ("recording_folds", "speaker_and_script"):
        with pytest.raises(CorpusError, match="8 of 8 utterances name no dialogue"):
            folds_of(unnamed, split_name)


def test_recordings_take_no_number_of_folds(four_classes: list[Utterance]) -> None:
    with pytest.raises(CorpusError, match="one fold per recording, n_folds = 5 has no meaning"):
        make_folds(four_classes, "recording_folds", SplitOptions(n_folds=5))


def test_recordings_of_two_corpora_are_told_apart_and_a_plain_name_is_a_recording() -> None:
    utterances = [
        Utterance(
            id=f"{corpus}{i}", path=Path("x.wav"), corpus=corpus, label="sad", speaker=f"s{i}",
            dialogue=f"talk{i}",
        )
        for corpus in ("one", "two")
        for i in range(2)
    ]  # fmt: skip
    folds = folds_of(utterances, "recording_folds")
    assert {name: fold.test for name, fold in folds.items()} == {
        "recording-one-talk0": ("one0",),
        "recording-one-talk1": ("one1",),
        "recording-two-talk0": ("two0",),
        "recording-two-talk1": ("two1",),
    }
