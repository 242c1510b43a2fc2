"""The tables of Cai et al.: what they say of a turn, and that their folds are recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from serkit import corpora
from serkit.corpora import cai
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import SplitOptions, make_folds
from serkit.transcripts import ctc_clean, strip_events

# A turn's row after its name, in the order of cai.NAMES; two recordings of one session.
ROWS = {
    "Ses01F_impro01_F000": 'e0,"EXCUSE ME ."',
    "Ses01F_impro01_M011": 'e2,"I  DON\'T UNDERSTAND ."',
    "Ses01F_impro02_F000": 'e3,"DID YOU GET THE MAIL ."',
    "Ses01F_impro03_F000": 'e1,"HE WON  {LG} ."',
    "Ses01M_script01_1_F003": 'e0,"WELL, NO ."',
}
FOLDS = {"01F": list(ROWS)[:4], "01M": list(ROWS)[4:]}


def table(turns: Sequence[str], rows: Mapping[str, str] = ROWS) -> str:
    return "file,emotion,text\n" + "".join(f"/their/wavs/{t}.wav,{rows[t]}\n" for t in turns)


def tables() -> dict[str, str]:
    files = {}
    for name, test in FOLDS.items():
        train = [turn for turn in ROWS if turn not in test]
        files[f"iemocap/iemocap_{name}.test.csv"] = table(test)
        files[f"iemocap/iemocap_{name}.train.csv"] = table(train)
    return files


@pytest.fixture
def root(contract: ModuleType, tmp_path: Path) -> Path:
    built: Path = contract.build_tree(tmp_path / "corpus", cai.NAMES, tables())
    return built


def test_corpus_keeps_the_contract_with_its_tables(
    contract: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contract.TEXTS, "cai", tables())
    contract.assert_contract("cai", cai, tmp_path)


def test_a_turn_has_the_emotion_and_the_words_of_the_table_and_the_rest_of_its_name(
    root: Path,
) -> None:
    turns = {turn.id: turn for turn in cai.read(root)}
    assert {uid: turn.label for uid, turn in turns.items()} == {
        "Ses01F_impro01_F000": "neutral",
        "Ses01F_impro01_M011": "angry",
        "Ses01F_impro02_F000": "sad",
        "Ses01F_impro03_F000": "happy",
        "Ses01M_script01_1_F003": "neutral",
    }
    one = turns["Ses01F_impro01_M011"]
    assert one.path == root / cai.NAMES[1]
    assert (one.speaker, one.session, one.dialogue) == ("Ses01M", "Ses01", "Ses01F_impro01")
    assert (one.transcript, one.style) == ("I  DON'T UNDERSTAND .", "improvised")


def test_events_in_texts_can_be_spelled_as_published_or_left_out(root: Path) -> None:
    text = next(turn.transcript for turn in cai.read(root) if turn.label == "happy")
    assert text is not None
    assert ctc_clean(text, style="cai") == "HE WON LG "
    assert ctc_clean(text) == "HE WON"
    assert strip_events(text) == "HE WON ."


def test_the_folds_of_the_tables_are_those_by_recording(root: Path) -> None:
    computed = make_folds(cai.read(root), "recording_folds", SplitOptions(dev="none"))
    stored = cai.read_folds(root)
    assert [fold.name for fold in stored] == ["01F", "01M"]
    for one, other in zip(computed, stored, strict=True):
        assert one.name == f"recording-Ses{other.name}"
        assert sorted(one.train) == sorted(other.train)
        assert sorted(one.test) == sorted(other.test)
        assert one.dev == other.dev == ()


def test_one_pair_of_tables_is_enough_for_every_turn(root: Path) -> None:
    for path in root.glob("iemocap/*01M*"):
        path.unlink()
    assert len(cai.read(root)) == len(ROWS)
    assert [len(fold.test) for fold in cai.read_folds(root)] == [4]


def test_sound_may_lie_in_a_folder_of_its_own(
    contract: ModuleType, root: Path, tmp_path: Path
) -> None:
    contract.build_tree(tmp_path / "tables", [], tables())
    turns, check = corpora.load_corpus(
        "cai", tmp_path / "tables", allow_incomplete=True, options={"wavs": str(root)}
    )
    assert turns == cai.read(root)
    assert "read with wavs =" in check.summary
    with pytest.raises(CorpusError, match=r"list 5 turns, but .* has the sound of none \(first"):
        cai.read(tmp_path / "tables")
    with pytest.raises(CorpusError, match="expected the corpus folder"):
        cai.read(tmp_path / "tables", wavs=tmp_path / "nowhere")


def test_turns_of_other_emotions_are_no_news(contract: ModuleType, root: Path) -> None:
    contract.write_noise(root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M099.wav")
    contract.write_noise(root / "Session1/dialog/wav/Ses01F_impro01.wav")
    turns, check = corpora.load_corpus("cai", root, allow_incomplete=True)
    assert (len(turns), check.unexpected) == (len(ROWS), ())


def write(root: Path, name: str, text: str) -> None:
    (root / "iemocap" / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,emotion\na.wav,e0\n", r"header 'file,emotion', expected file,emotion,text"),
        ("", "got the header '', expected"),
        ("file,emotion,text\nSes01F_impro01_F000.wav,e4,X\n", r"line 2: got .*one of e0, e1, e2"),
        ("file,emotion,text\nSes01F_impro01_F000.wav,e0\n", r"line 2: got .*and a text"),
        ("file,emotion,text\nclip.wav,e0,X\n", r"line 2: got 'clip.wav,e0,X', expected the file"),
        (table([*FOLDS["01F"], "Ses01F_impro01_F000"]), "lists Ses01F_impro01_F000 twice"),
        ('file,emotion,text\n"a"b,e0,X\n', r"not a table in UTF-8 \(.*\): get it again"),
        (
            "file,emotion,text\nSes01F_impro01_F000.wav,e3,NO .\n",
            "Ses01F_impro01_F000 has another emotion or text than in the tables before it",
        ),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(root: Path, text: str, message: str) -> None:
    write(root, "iemocap_01M.train.csv", text)
    with pytest.raises(CorpusError, match=message) as caught:
        cai.read(root)
    assert "\n" not in str(caught.value)


def test_a_table_in_another_encoding_or_unreadable_is_refused(root: Path) -> None:
    path = root / "iemocap" / "iemocap_01M.train.csv"
    path.write_bytes(b"file,emotion,text\nSes01F_impro01_F000.wav,e0,\xff\n")
    with pytest.raises(CorpusError, match="not a table in UTF-8"):
        cai.read(root)
    write(root, "iemocap_01M.train.csv", table(FOLDS["01F"]))
    (root / "iemocap" / "iemocap_01M.test.csv").unlink()
    (root / "iemocap" / "iemocap_01M.test.csv").mkdir()
    with pytest.raises(CorpusError, match="cannot be read"):
        cai.read_folds(root)


def test_tables_come_in_pairs_and_once(root: Path, tmp_path: Path) -> None:
    write(root, "iemocap_01F.test.csv", table(["Ses01M_script01_1_F003"]))
    with pytest.raises(CorpusError, match=r"is in the train table of fold 01F too \(1 turns"):
        cai.read_folds(root)
    (root / "second").mkdir()
    (root / "second" / "iemocap_01M.test.csv").write_text(table([]))
    with pytest.raises(CorpusError, match=r"has no iemocap_01M\.train\.csv beside it"):
        cai.read_folds(root)
    (root / "second" / "iemocap_01M.train.csv").write_text(table([]))
    with pytest.raises(CorpusError, match="two pairs of tables for the fold 01M"):
        cai.read_folds(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no tables below"):
        cai.read_folds(tmp_path / "empty")
