from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from serkit import corpora
from serkit.audio import file_sha256
from serkit.corpora import (
    CORPORA,
    casia,
    crema_d,
    emodb,
    emovo,
    folder,
    iemocap,
    ravdess,
    savee,
    table,
    tess,
)
from serkit.corpora.check import verify_audio
from serkit.corpora.manifest import CorpusCounts, CorpusError
from serkit.types import Utterance


def by_id(utterances: list[Utterance]) -> dict[str, Utterance]:
    return {one.id: one for one in utterances}


def test_unknown_corpus_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"unknown corpus 'emodbb'.*did you mean emodb"):
        corpora.read_corpus("emodbb", tmp_path)


@pytest.mark.parametrize(
    ("alias", "key"),
    [("Emo-DB", "emodb"), ("RAVDE", "ravdess"), ("cremad", "crema_d"), (" SAVEE ", "savee")],
)
def test_names_of_the_literature_lead_to_the_corpus(alias: str, key: str) -> None:
    assert corpora.get_corpus(alias) == (key, CORPORA[key])


def test_channels_are_averaged_except_where_two_microphones_were_recorded() -> None:
    assert corpora.channel_of("emovo") == "first"
    assert corpora.channel_of("emodb") == "mean"


def test_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="emodb: unknown option 'mood': this reader has none"):
        corpora.read_corpus("emodb", tmp_path, options={"mood": "x"})
    with pytest.raises(CorpusError, match="folder: unknown option 'mood': expected one of speaker"):
        corpora.read_corpus("folder", tmp_path, options={"mood": "x"})


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emodb").write_text("")
    with pytest.raises(CorpusError, match=r"expected the corpus folder at .*which is a file"):
        emodb.read(tmp_path / "emodb")


def test_folder_of_another_corpus_shows_what_was_got_and_expected(
    contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, savee.NAMES)
    with pytest.raises(CorpusError, match=r"got 8 sound files, such as .*a01\.wav.*03a01Fa\.wav"):
        emodb.read(tmp_path)


def test_emodb_may_be_given_as_its_wav_folder(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, emodb.NAMES)
    outer, inner = emodb.read(tmp_path), emodb.read(tmp_path / "wav")
    assert outer == inner
    one = by_id(outer)["16b10Aa"]
    assert (one.label, one.speaker, one.sentence) == ("fear", "16", "b10")
    assert (one.gender, one.age, one.language) == ("female", 31.0, "de")
    assert one.transcript == "Die wird auf dem Platz sein, wo wir sie immer hinlegen."


@pytest.mark.parametrize("suffix", [".flac", ".WAV", ".ogg", ".aiff"])
def test_any_sound_format_is_read_like_wav(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "Actor_01" / f"03-01-06-01-02-01-01{suffix}"
    path.parent.mkdir()
    soundfile.write(path, np.zeros(800), 8000)
    (one,) = ravdess.read(tmp_path)
    assert (one.id, one.label, one.speaker) == ("03-01-06-01-02-01-01", "fear", "01")
    assert (one.sentence, one.intensity, one.gender) == ("02", "normal", "male")
    assert one.transcript == "Dogs are sitting by the door."


def test_ravdess_is_the_same_flat_nested_and_as_released(
    contract: ModuleType, tmp_path: Path
) -> None:
    trees = {
        "released": ravdess.NAMES,
        "flat": [name.split("/")[1] for name in ravdess.NAMES],
        "nested": [f"audio_speech_actors_01-24/{name}" for name in ravdess.NAMES],
    }
    read = {
        layout: [one.id for one in ravdess.read(contract.build_tree(tmp_path / layout, names))]
        for layout, names in trees.items()
    }
    assert read["released"] == read["flat"] == read["nested"]


def test_ravdess_leaves_song_and_video_sound_out(contract: ModuleType, tmp_path: Path) -> None:
    song = "Actor_01/03-02-06-01-02-01-01.wav"
    video = "Actor_01/01-01-06-01-02-01-01.wav"
    nonsense = "Actor_01/03-01-09-01-02-01-01.wav"
    contract.build_tree(tmp_path, [*ravdess.NAMES, song, video, nonsense])
    utterances, check = corpora.load_corpus("ravdess", tmp_path, allow_incomplete=True)
    assert len(utterances) == len(ravdess.NAMES)
    assert check.unexpected == (video, nonsense)
    assert any("Not read: 2 files that no utterance uses" in line for line in check.lines())


def test_second_copy_of_a_tree_is_reported_and_not_read_twice(
    contract: ModuleType, tmp_path: Path
) -> None:
    copies = [f"audio_speech_actors_01-24/{name}" for name in ravdess.NAMES]
    contract.build_tree(tmp_path, [*ravdess.NAMES, *copies])
    utterances, check = corpora.load_corpus("ravdess", tmp_path, allow_incomplete=True)
    assert len(utterances) == len(check.unexpected) == len(ravdess.NAMES)


def test_savee_is_the_same_as_released_and_flat(contract: ModuleType, tmp_path: Path) -> None:
    flat = ["_".join(name.split("/")[1:]) for name in savee.NAMES]
    released = savee.read(contract.build_tree(tmp_path / "released", savee.NAMES))
    assert [one.id for one in released] == [
        one.id for one in savee.read(contract.build_tree(tmp_path / "flat", flat))
    ]
    found = by_id(released)
    assert found["JK_sa03"].label == "sad"
    assert found["KL_su10"].label == "surprise"
    assert {one.gender for one in released} == {"male"}


def test_savee_sentences_are_shared_between_emotions_only_where_they_are_common(
    tmp_path: Path,
) -> None:
    names = [
        f"DC/{code}{number:02}"
        for code in ("a", "d", "f", "h", "n", "sa", "su")
        for number in range(1, 31 if code == "n" else 16)
    ]
    utterances = [savee.parse(tmp_path, name) for name in names]
    emotions: dict[str, set[str]] = {}
    for one in utterances:
        assert one is not None
        assert one.sentence is not None
        emotions.setdefault(one.sentence, set()).add(one.label or "")
    shared = {sentence for sentence, labels in emotions.items() if len(labels) > 1}
    assert shared == {"common01", "common02", "common03"}
    assert savee.parse(tmp_path, "DC/a16") is None
    assert savee.parse(tmp_path, "DC/n31") is None


def test_emovo_knows_fourteen_sentences_and_six_speakers(tmp_path: Path) -> None:
    codes = "b1 b2 b3 l1 l2 l3 l4 n1 n2 n3 n4 n5 d1 d2".split()
    utterances = [
        emovo.parse(tmp_path, f"{speaker}/{emotion}-{speaker}-{code}")
        for speaker in ("f1", "f2", "f3", "m1", "m2", "m3")
        for emotion in ("dis", "gio", "neu", "pau", "rab", "sor", "tri")
        for code in codes
    ]
    found = [one for one in utterances if one is not None]
    assert len(found) == emovo.EXPECTED.n_utterances == 588
    assert Counter(one.label for one in found) == emovo.EXPECTED.per_label
    assert len({one.transcript for one in found}) == 14
    assert emovo.parse(tmp_path, "f1/dis-f1-x1") is None


def test_casia_finds_the_speaker_in_folders_or_in_the_name(
    contract: ModuleType, tmp_path: Path
) -> None:
    sorted_by_class = ["angry/201-angry-liuchanhg.wav", "sad/202-sad-ZhaoZuoxiang.wav"]
    utterances = casia.read(contract.build_tree(tmp_path, sorted_by_class))
    assert [(one.id, one.gender) for one in utterances] == [
        ("liuchanhg/angry/201", "female"),
        ("ZhaoZuoxiang/sad/202", "male"),
    ]


def test_casia_says_when_the_speakers_are_lost(
    contract: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contract.build_tree(tmp_path, ["angry/201.wav", "happy/202.wav"])
    with caplog.at_level(logging.WARNING):
        utterances, check = corpora.load_corpus("casia", tmp_path, allow_incomplete=True)
    assert {one.speaker for one in utterances} == {"unknown"}
    assert "the speaker of 2 of 2 utterances is lost in this layout" in caplog.text
    assert any("speakers are not known from this layout" in line for line in check.lines())


def test_crema_d_reads_intensity_people_and_the_name_that_lacks_a_letter(
    contract: ModuleType, tmp_path: Path
) -> None:
    people = '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
    mp3 = "AudioMP3/1001_DFA_ANG_XX.wav"
    contract.build_tree(tmp_path, [*crema_d.NAMES, mp3], {"VideoDemographics.csv": people})
    utterances, check = corpora.load_corpus("crema_d", tmp_path, allow_incomplete=True)
    found = by_id(utterances)
    assert found["1001_IEO_DIS_LO"].intensity == "low"
    assert found["1040_ITH_SAD_X"].intensity is None
    assert (found["1001_DFA_ANG_XX"].gender, found["1001_DFA_ANG_XX"].age) == ("male", 51.0)
    assert found["1002_DFA_NEU_XX"].gender is None
    assert len({*crema_d._SENTENCES.values()}) == 12
    assert len(check.unexpected) == 1  # of the two copies one is used
    assert crema_d.read(tmp_path / "AudioWAV")[0].age == 51.0


def test_crema_d_refuses_a_broken_table_of_people(contract: ModuleType, tmp_path: Path) -> None:
    texts = {"VideoDemographics.csv": "ActorID,Age,Sex\n1001,old,Male\n"}
    contract.build_tree(tmp_path, crema_d.NAMES, texts)
    with pytest.raises(CorpusError, match=r"VideoDemographics\.csv, row 2: expected the columns"):
        crema_d.read(tmp_path)


def test_tess_reads_the_misnamed_file_as_its_speaker_says(
    contract: ModuleType, tmp_path: Path
) -> None:
    utterances = tess.read(contract.build_tree(tmp_path / "nested", tess.NAMES))
    flat = [name.split("/")[1] for name in tess.NAMES]
    again = tess.read(contract.build_tree(tmp_path / "flat", flat))
    assert [one.id for one in utterances] == [one.id for one in again]
    found = by_id(utterances)
    assert found["OAF_bite_neutral"].speaker == "OAF"
    assert found["YAF_base_ps"].label == "surprise"
    assert found["YAF_base_ps"].transcript == "Say the word base."
    assert found["YAF_base_ps"].sentence == found["OAF_base_fear"].sentence == "base"


def test_iemocap_speaker_is_the_turns_and_not_the_recordings(
    contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES, contract.TEXTS["iemocap"])
    one = by_id(iemocap.read(tmp_path))["Ses01F_impro01_M000"]
    assert (one.speaker, one.gender, one.session) == ("Ses01M", "male", "Ses01")
    assert (one.dialogue, one.style, one.label) == ("Ses01F_impro01", "improvised", "angry")
    assert (one.valence, one.arousal, one.dominance) == (0.375, 0.5, 0.875)
    assert one.transcript == "Words of turn 1."
    assert (one.start_s, one.end_s) == (0.0, None)
    assert by_id(iemocap.read(tmp_path))["Ses01M_script01_1_F000"].style == "scripted"


def test_iemocap_without_majority_has_no_label_and_other_is_other(
    contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES, contract.TEXTS["iemocap"])
    utterances = iemocap.read(tmp_path)
    assert utterances[-1].id == "Ses05F_impro05_M001"
    assert utterances[-1].label is None
    assert by_id(utterances)["Ses05F_impro05_M000"].label == "other"


def test_iemocap_cuts_turns_from_dialogues_where_sentence_files_are_absent(
    contract: ModuleType, tmp_path: Path
) -> None:
    dialogue = "Session1/dialog/wav/Ses01F_impro01.wav"
    contract.build_tree(tmp_path, [], contract.TEXTS["iemocap"])
    contract.write_noise(tmp_path / dialogue, seconds=2.0)
    utterances = iemocap.read(tmp_path)
    assert len(utterances) == 4  # the other dialogues have no sound
    one = by_id(utterances)["Ses01F_impro01_M001"]
    assert (one.path.name, one.start_s, one.end_s) == ("Ses01F_impro01.wav", 1.0, 1.4)
    measured = by_id(list(verify_audio(utterances, workers=1).utterances))
    assert measured[one.id].duration_s == pytest.approx(0.4)


def test_iemocap_reads_the_hidden_files_of_its_release_as_nothing(
    contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES, contract.TEXTS["iemocap"])
    hidden = tmp_path / "Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt"
    hidden.write_bytes(b"\x00\x05\x16\x07[1")
    assert len(iemocap.read(tmp_path)) == len(iemocap.NAMES)


def test_iemocap_second_copy_of_a_session_is_read_once(
    contract: ModuleType, tmp_path: Path
) -> None:
    texts = contract.TEXTS["iemocap"]
    copies = {f"copy/{name}": text for name, text in texts.items()}
    contract.build_tree(tmp_path, iemocap.NAMES, {**texts, **copies})
    assert len(iemocap.read(tmp_path)) == len(iemocap.NAMES)


def test_iemocap_ratings_above_the_scale_are_cut(contract: ModuleType, tmp_path: Path) -> None:
    line = "[0.0 - 0.4]\tSes01F_impro01_F000\tneu\t[1.0000, 5.5000, 5.0000]\n"
    evaluation = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    contract.build_tree(tmp_path, iemocap.NAMES[:1], {evaluation: line})
    (one,) = iemocap.read(tmp_path)
    assert (one.valence, one.arousal, one.dominance) == (0.0, 1.0, 1.0)
    assert one.transcript is None


@pytest.mark.parametrize(("style", "n_turns"), [("improvised", 8), ("scripted", 3), ("all", 11)])
def test_iemocap_keeps_the_turns_of_one_style(
    style: str, n_turns: int, contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES, contract.TEXTS["iemocap"])
    utterances = corpora.read_corpus(
        "iemocap", tmp_path, allow_incomplete=True, options={"style": style}
    )
    assert len(utterances) == n_turns
    assert style == "all" or {one.style for one in utterances} == {style}
    assert utterances == [one for one in iemocap.read(tmp_path) if style in ("all", one.style)]


def test_iemocap_counts_are_those_of_the_style_and_the_summary_states_it(
    contract: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES, contract.TEXTS["iemocap"])
    options = {"style": "improvised"}
    with pytest.raises(CorpusError, match=r"8 of 4784 utterances.*; read with style = improvised"):
        corpora.load_corpus("iemocap", tmp_path, options=options)
    monkeypatch.setattr(iemocap, "_N_TURNS", {"improvised": 8})
    monkeypatch.setattr(iemocap, "EXPECTED", CorpusCounts(n_utterances=11, n_speakers=4))
    _, check = corpora.load_corpus("iemocap", tmp_path, options=options)
    assert check.complete
    assert check.summary == (
        "iemocap: complete, 8 utterances, 4 speakers, 7 classes; read with style = improvised"
    )
    _, check = corpora.load_corpus("iemocap", tmp_path)
    assert check.summary == "iemocap: complete, 11 utterances, 4 speakers, 10 classes"


def test_iemocap_refuses_a_style_that_is_unknown_or_absent(
    contract: ModuleType, tmp_path: Path
) -> None:
    improvised = [name for name in iemocap.NAMES if "impro" in name]
    contract.build_tree(tmp_path, improvised, contract.TEXTS["iemocap"])
    with pytest.raises(CorpusError, match="no scripted turns below"):
        iemocap.read(tmp_path, style="scripted")
    with pytest.raises(CorpusError, match="unknown style 'impro': expected one of improvised"):
        iemocap.read(tmp_path, style="impro")  # type: ignore[arg-type]


def test_iemocap_styles_add_up_to_the_release() -> None:
    assert sum(iemocap._N_TURNS.values()) == iemocap.EXPECTED.n_utterances


def test_iemocap_needs_evaluations(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, iemocap.NAMES)
    with pytest.raises(CorpusError, match="give the folder of the full release"):
        iemocap.read(tmp_path)


def test_iemocap_needs_sound(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, [], contract.TEXTS["iemocap"])
    with pytest.raises(CorpusError, match=r"11 turns are labelled .* has sound for any"):
        iemocap.read(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tbad\t[2.5000, 2.5000, 2.5000]",
        "[6.2901 - 8.2357]\tSes09F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]",
        "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu",
    ],
)
def test_iemocap_names_the_line_it_cannot_read(
    line: str, contract: ModuleType, tmp_path: Path
) -> None:
    evaluation = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    contract.build_tree(tmp_path, iemocap.NAMES, {evaluation: f"% header\n\n{line}\n"})
    with pytest.raises(CorpusError, match=r"Ses01F_impro01\.txt, row 3: got '\["):
        iemocap.read(tmp_path)


def test_folder_takes_speakers_from_second_level_folders(
    contract: ModuleType, tmp_path: Path
) -> None:
    utterances = folder.read(contract.build_tree(tmp_path, folder.NAMES))
    assert {one.speaker for one in utterances} == {"anna", "ben"}
    assert [one.id for one in utterances][-2:] == ["neutral/ben/take 2", "neutral/ben/take 10"]


def test_folder_takes_speakers_from_a_pattern(contract: ModuleType, tmp_path: Path) -> None:
    contract.build_tree(tmp_path, ["Joy/p01_x.wav", "Joy/p02_x.wav", "hangry/p02_y.wav"])
    for pattern in (r"(p\d+)_", r"(?P<speaker>p\d+)_([xy])"):
        utterances = corpora.read_corpus("folder", tmp_path, options={"speaker_pattern": pattern})
        assert [(one.label, one.speaker) for one in utterances] == [
            ("hangry", "p02"),
            ("happy", "p01"),
            ("happy", "p02"),
        ]


def test_folder_without_speakers_says_so_loudly(
    contract: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contract.build_tree(tmp_path, ["happy/1.wav", "sad/1.wav", "stray.wav"])
    with caplog.at_level(logging.WARNING):
        utterances, check = corpora.load_corpus("folder", tmp_path)
    assert {one.speaker for one in utterances} == {"unknown"}
    assert "no split can keep speakers apart" in caplog.text
    assert check.unexpected == ("stray.wav",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression"),
        ("p1", "has 0 groups, expected one"),
        ("(x)(y)", "has 2 groups"),
        ("(q)_", "finds no speaker in 'happy/1'"),
    ],
)
def test_folder_refuses_a_pattern_without_a_speaker(
    pattern: str, message: str, contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, ["happy/1.wav"])
    with pytest.raises(CorpusError, match=re.escape(message)):
        folder.read(tmp_path, speaker_pattern=pattern)


def test_table_may_be_a_file_or_a_folder_with_one_table(
    contract: ModuleType, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path, table.NAMES, contract.TEXTS["table"])
    assert table.read(tmp_path) == table.read(tmp_path / "clips.csv")
    (tmp_path / "more.tsv").write_text("file\tlabel\nclips/one.wav\tsad\n")
    with pytest.raises(CorpusError, match=r"expected one table .* got clips\.csv, more\.tsv"):
        table.read(tmp_path)


def test_table_columns_may_be_named(contract: ModuleType, tmp_path: Path) -> None:
    text = "clip;mood;who\nclips/one.wav;tense;ann\nclips/two.wav;calm;ben\n"
    contract.build_tree(tmp_path, table.NAMES, {"clips.csv": text})
    columns = {"path": "clip", "label": "mood", "speaker": "who"}
    utterances = corpora.read_corpus("table", tmp_path, options={"columns": columns})
    assert [(one.label, one.speaker) for one in utterances] == [("calm", "ben"), ("tense", "ann")]


def test_counts_agree_with_the_literature() -> None:
    totals = {
        "casia": 1200,
        "crema_d": 7442,
        "emodb": 535,
        "emovo": 588,
        "iemocap": 10039,
        "ravdess": 1440,
        "savee": 480,
        "tess": 2800,
    }
    for key, total in totals.items():
        assert CORPORA[key].EXPECTED.n_utterances == total
    counts: CorpusCounts = iemocap.EXPECTED
    four = {label: counts.per_label[label] for label in ("angry", "neutral", "sad")}
    assert four == {"angry": 1103, "neutral": 1708, "sad": 1084}
    assert counts.per_label["happy"] + counts.per_label["excited"] == 1636


@pytest.mark.corpus
@pytest.mark.parametrize("key", ["emodb", "ravdess"])
def test_real_copy_is_complete_and_sound(key: str, corpora_dir: Path) -> None:
    utterances, check = corpora.load_corpus(key, corpora_dir / key)
    assert check.lines() == [check.summary]
    assert check.complete
    audio = verify_audio(utterances, expected=CORPORA[key].EXPECTED)
    assert audio.lines() == [audio.summary]
    assert audio.complete


@pytest.mark.corpus
def test_ravdess_holds_one_recording_twice(corpora_dir: Path) -> None:
    found = by_id(ravdess.read(corpora_dir / "ravdess"))
    twice = [found[f"03-01-03-01-02-{repetition}-07"].path for repetition in ("01", "02")]
    assert file_sha256(twice[0]) == file_sha256(twice[1])


@pytest.mark.corpus
def test_real_emodb_has_the_speakers_and_sentences_of_its_documentation(corpora_dir: Path) -> None:
    utterances = emodb.read(corpora_dir / "emodb")
    assert {one.speaker for one in utterances} == set(emodb._SPEAKERS)
    assert {one.sentence for one in utterances} == set(emodb._SENTENCES)
