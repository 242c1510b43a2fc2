"""Transcripts: the published cleanings against recorded results, the honest one by example."""

import json
from pathlib import Path

import pytest

from serkit.transcripts import WAV2VEC2, Symbols, clean_transcript, ctc_clean, strip_events
from serkit.types import InputError

GOLDEN = json.loads((Path(__file__).parent / "goldens" / "text_normalisation.json").read_text())
STYLES = {
    "mmer": "mmer_ctc",
    "cai": "cai_default",
    "cai_timit": "cai_timit",
    "cai_buckwalter": "cai_buckwalter_words",
}


@pytest.mark.parametrize("style", STYLES)
def test_transcripts_are_cleaned_as_published(style):
    rows = [row for row in GOLDEN["rows"] if STYLES[style] in row]
    assert len(rows) >= 27
    for row in rows:
        assert ctc_clean(row["input"], style=style) == row[STYLES[style]], row["input"]


def test_symbols_are_those_of_wav2vec2():
    assert WAV2VEC2.symbols == tuple(GOLDEN["vocabulary"])


@pytest.mark.parametrize(("style", "key"), [("cai", "cai_default_ids"), ("mmer", "mmer_ctc_ids")])
def test_cleaned_transcripts_are_spelled_as_published(style, key):
    for row in GOLDEN["rows"]:
        assert WAV2VEC2.encode(ctc_clean(row["input"], style=style)) == row[key], row["input"]


def test_text_for_an_encoder_is_cleaned_as_published():
    for row in GOLDEN["rows"]:
        if "mmer_text_branch" in row:
            assert clean_transcript(row["input"]) == row["mmer_text_branch"]


def test_events_are_left_out_and_doubtful_words_are_not():
    assert strip_events("{LG}  CAT\tBABIES .") == "CAT BABIES ."
    assert strip_events("[open (umm) yes") == "[open (umm) yes"
    assert strip_events("[LAUGHTER]") == ""


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("{LG} CAT BABIES .", "CAT BABIES"),
        ("Oh my god. [LAUGHTER] No (sighs) way.", "OH MY GOD NO SIGHS WAY"),
        ("'Cause it\u2019s up-to-date\u2014'til  NOW!", "CAUSE IT'S UP TO DATE TIL NOW"),
        ("Stra\u00dfe zero\u200bwidth", "STRASSE ZEROWIDTH"),
        ("Zu\u0308rich 3", "ZüRICH 3"),
        (" ' -- ...", ""),
        (None, ""),
    ],
)
def test_what_is_said_has_neither_events_nor_punctuation(text, spoken):
    assert ctc_clean(text) == spoken


def test_a_vocabulary_in_lower_case_is_spelled_in_lower_case():
    symbols = Symbols(("<pad>", "|", "i", "t", "'", "s"))
    assert ctc_clean("IT'S!", symbols=symbols) == "it's"
    assert symbols.encode("IT'S it") == [2, 3, 4, 5, 1, 2, 3]


def test_unknown_characters_are_dropped_or_marked():
    assert WAV2VEC2.encode("A5B") == [7, 24]
    marking = Symbols(WAV2VEC2.symbols, unknown="<unk>")
    assert marking.encode("A5B") == [7, 3, 24]
    assert marking.decode([7, 3, 24]) == "AB"


def test_words_are_parted_by_a_space_or_by_nothing_where_there_is_no_bar():
    assert Symbols(("<pad>", " ", "A")).encode("A A") == [2, 1, 2]
    assert Symbols(("<pad>", "A", "B")).encode("A B") == [1, 2]


def test_frames_are_read_without_repetitions_and_blanks():
    spelled = WAV2VEC2.encode("WELL WHAT'S THAT")
    frames = [symbol for one in spelled for symbol in (one, one, 0)]
    assert WAV2VEC2.decode(frames) == "WELL WHAT'S THAT"
    assert WAV2VEC2.decode([1, 4, 4, 7, 0, 7, 4, 2]) == "AA"
    assert WAV2VEC2.decode([]) == ""
    with pytest.raises(InputError, match="symbol 32: expected 0 to 31"):
        WAV2VEC2.decode([32])


def test_symbols_of_texts_are_their_characters():
    symbols = Symbols.of_texts(["[BR] das Stück, 'ja'", None, "JA"], unknown="<unk>")
    assert symbols.symbols == ("<pad>", "<unk>", "|", *"ACDJKSTÜ")
    assert symbols.decode(symbols.encode(ctc_clean("Das Stück", symbols=symbols))) == "DAS STÜCK"
    assert symbols.encode("Y") == [1]


def test_a_vocabulary_file_is_read_in_the_order_of_its_indices(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"|": 1, "É": 2, "<pad>": 0}), encoding="utf-8")
    assert Symbols.read(path).symbols == ("<pad>", "|", "É")
    path.write_text(json.dumps({s: i for i, s in enumerate(GOLDEN["vocabulary"])}))
    assert Symbols.read(path) == WAV2VEC2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"<pad>": 0, "A"', r"vocab\.json: is not JSON"),
        ("[" * 100_000, r"vocab\.json: is not JSON"),
        (b'{"<pad>": 0, "\xff": 1}', r"vocab\.json: is not JSON"),
        ('["<pad>", "A"]', r"vocab\.json: expected one JSON object of symbols"),
        ('{"<pad>": 0, "A": "1"}', "expected one JSON object of symbols"),
        ('{"<pad>": false, "A": true}', "expected one JSON object of symbols"),
        ('{"<pad>": 0, "A": 2}', "nothing has the index 1: number the symbols from 0"),
        ('{"<pad>": 0, "A": 1, "B": 1}', "'B' has the index 1, which is taken or negative"),
        ('{"<pad>": -1, "A": 0}', "'<pad>' has the index -1, which is taken or negative"),
        ('{"<pad>": 0, "A": 1, "A": 2}', r"vocab\.json: symbols named twice, or empty: \['A'\]"),
        ('{"<pad>": 0, "": 1}', r"symbols named twice, or empty: \[''\]"),
        ('{"A": 0, "<pad>": 1}', "expected the blank first, as in '<pad>'"),
        ("{}", "expected the blank first"),
    ],
)
def test_a_damaged_vocabulary_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "vocab.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        Symbols.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_vocabulary_file_and_a_missing_mark_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Symbols.read(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"unknown = '<unk>', but none of 2 symbols is <unk>"):
        Symbols(("<pad>", "A"), unknown="<unk>")
