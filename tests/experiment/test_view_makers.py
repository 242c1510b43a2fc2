"""Words and voices made for utterances: by rules, by functions, by programs, by eSpeak NG."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import soundfile

from serkit.corpora import synthetic
from serkit.experiment.view_makers import Speaker, SpeakerSettings, TextMaker, TextMakerSettings
from serkit.settings import checked
from serkit.types import InputError, MissingExtraError

RATE = 16_000
TEXTS = [(3, "I know what the problem is today"), (5, "Hello"), (7, "")]

MODULE = """
import numpy as np

def louder(text, n_views):
    return [text.upper() + "!" * i for i in range(n_views + 1)]

def sounds(text, sample_rate):
    return None if text == "Hello" else np.full(len(text) * 100, 0.1) * sample_rate / 16000

def one_text(text, n_views):
    return text

def numbers(text, n_views):
    return [1, 2]

def samples_in_pairs(text, sample_rate):
    return np.zeros((2, 2))

def no_numbers(text, sample_rate):
    return np.array([np.nan])

def broken(text, number):
    raise RuntimeError("out\\nof order")

constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "my_makers.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_makers", raising=False)


def make(**settings) -> TextMaker:
    return TextMaker(checked(TextMakerSettings, settings, where="augmented.make_texts"))


def speaker(tmp_path, *, sample_rate: int = RATE, **settings) -> Speaker:
    checked_settings = checked(SpeakerSettings, settings, where="augmented.speak")
    return Speaker(checked_settings, sample_rate=sample_rate, cache_dir=tmp_path / "cache")


def program(tmp_path, source: str) -> list[str]:
    (tmp_path / "program.py").write_text(source, encoding="utf-8")
    return [sys.executable, str(tmp_path / "program.py")]


# ---- Words ---------------------------------------------------------------------------------------


def test_words_are_dropped_in_their_order():
    made = make(kind="drop_words", n_views=4, share=0.3)(TEXTS)
    words = TEXTS[0][1].split()
    assert {owner for owner, _ in made} == {3}  # of one word none can be spared
    for _, text in made:
        left = text.split()
        assert len(left) == 5
        assert [word for word in words if word in left] == left
    assert len({text for _, text in made}) > 1


def test_neighbours_are_swapped():
    made = make(kind="swap_words", n_views=4, share=0.1)(TEXTS)
    words = TEXTS[0][1].split()
    assert {owner for owner, _ in made} == {3}
    for _, text in made:
        moved = [i for i, word in enumerate(text.split()) if word != words[i]]
        assert len(moved) == 2
        assert moved[1] == moved[0] + 1


def test_what_is_made_is_a_function_of_seed_text_and_view():
    settings = {"kind": "drop_words", "n_views": 3}
    assert make(**settings)(TEXTS) == make(**settings)(TEXTS)
    assert make(**settings)(TEXTS) != make(**settings, seed=1)(TEXTS)
    assert make(**settings | {"n_views": 1})(TEXTS)[0] == make(**settings)(TEXTS)[0]


def test_a_function_makes_texts_and_no_more_than_asked_for():
    made = make(kind="function", function="my_makers:louder", n_views=2)(TEXTS)
    assert made[:2] == [(3, TEXTS[0][1].upper()), (3, TEXTS[0][1].upper() + "!")]
    assert [text for owner, text in made if owner == 5] == ["HELLO", "HELLO!"]
    assert [text for owner, text in made if owner == 7] == ["!"]  # the other is the text itself


def test_a_program_makes_texts_of_all_at_once(tmp_path):
    source = """
import json, sys
for line in reversed(sys.stdin.readlines()):
    asked = json.loads(line)
    if asked["text"]:
        print(json.dumps({"id": asked["id"], "texts": [asked["text"] + " é"] * asked["n_views"]}))
"""
    made = make(kind="command", command=program(tmp_path, source), n_views=1)(TEXTS)
    assert made == [(3, TEXTS[0][1] + " é"), (5, "Hello é")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "translate"}, r"make_texts\.kind = .*'drop_words', 'swap_words'"),
        ({"kind": "drop_words", "function": "a:b"}, "kind is 'drop_words' and function is 'a:b'"),
        ({"kind": "function"}, "kind is 'function' and function is None"),
        ({"kind": "command"}, r"kind is 'command' and command is \[\]"),
        ({"kind": "swap_words", "command": ["x"]}, "kind is 'swap_words' and command is"),
        ({"kind": "function", "function": "my_makers"}, "'my_makers', expected module:function"),
        ({"kind": "function", "function": "no_such:f"}, "'no_such:f' cannot be imported .*PYTHON"),
        ({"kind": "function", "function": "my_makers:f"}, "'my_makers:f' cannot be imported"),
        ({"kind": "function", "function": "my_makers:constant"}, "is a int, expected a function"),
        ({"kind": "command", "command": ["/no/such/program"]}, "cannot be run"),
        ({"kind": "function", "function": "my_makers:one_text"}, "gave str, expected a list of"),
        ({"kind": "function", "function": "my_makers:numbers"}, "gave a int among texts"),
        (
            {"kind": "function", "function": "my_makers:broken"},
            r"failed on 'I know what .*' \(RuntimeError: out of order\)",
        ),
    ],
)
def test_makers_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make(**settings)(TEXTS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.exit('no words today')", r"ended with exit code 1 \(no words today\)"),
        ("raise SystemExit(3)", r"ended with exit code 3 \(it said nothing\)"),
        ("print('hello')", "line 1 of its output: not valid JSON"),
        ("print('[1]')", r"line 1 of its output: got \[1\], expected"),
        ('print(\'{"id": "3", "texts": [1]}\')', "gave a int among texts"),
    ],
)
def test_programs_that_go_wrong_are_one_line(tmp_path, source, message):
    with pytest.raises(InputError, match=message) as caught:
        make(kind="command", command=program(tmp_path, source))(TEXTS)
    assert "\n" not in str(caught.value)


# ---- Voices --------------------------------------------------------------------------------------


def test_a_function_speaks_and_what_it_leaves_out_is_no_view(tmp_path):
    speak = speaker(tmp_path, back_end="my_makers:sounds")
    said = list(speak(TEXTS, [None] * 8))
    assert [owner for owner, _ in said] == [3]  # not "Hello", and not what has no word
    wave, rate = soundfile.read(said[0][1])
    assert (len(wave), rate) == (100 * len(TEXTS[0][1]), RATE)
    before = said[0][1].stat().st_mtime_ns
    assert list(speak(TEXTS, [None] * 8)) == said
    assert said[0][1].stat().st_mtime_ns == before


def test_sounds_are_kept_by_rate_and_by_the_function_s_source(tmp_path, monkeypatch):
    first = speaker(tmp_path, back_end="my_makers:sounds").folder
    assert speaker(tmp_path, back_end="my_makers:sounds", sample_rate=8_000).folder != first
    (tmp_path / "my_makers.py").write_text(MODULE + "\n# changed\n", encoding="utf-8")
    assert speaker(tmp_path, back_end="my_makers:sounds").folder != first


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("samples_in_pairs", r"gave float64 of shape \(2, 2\), expected"),
        ("numbers", "gave int64 of shape"),
        ("no_numbers", "gave NaN or infinite samples"),
        ("broken", r"augmented\.speak: my_makers:broken: failed on"),
    ],
)
def test_functions_that_do_not_speak_are_refused(tmp_path, function, message):
    with pytest.raises(InputError, match=message):
        list(speaker(tmp_path, back_end=f"my_makers:{function}")(TEXTS, [None] * 8))


def test_espeak_says_texts_in_each_voice_and_in_the_emotion(tmp_path):
    pytest.importorskip("espeakng_loader")
    speak = speaker(tmp_path, voices=["f1", "m1"])
    said = list(speak(TEXTS[1:], [None] * 8))
    assert [owner for owner, _ in said] == [5, 5]
    sounds = [soundfile.read(path)[0] for _, path in said]
    assert all(len(sound) > RATE / 4 and np.abs(sound).max() > 0.01 for sound in sounds)
    angry = list(speak(TEXTS[1:], ["angry"] * 8))
    assert angry[0][1] != said[0][1]
    assert list(speak(TEXTS[1:], ["boredom"] * 8)) == said


def test_an_unknown_voice_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"augmented\.speak: no voice 'nobody': expected some of"):
        speaker(tmp_path, voices=["nobody"])


def test_without_espeak_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "engine_name", lambda: "formant fallback (no real words)")
    with pytest.raises(MissingExtraError, match=r"pip install 'serkit\[demo\]'"):
        speaker(tmp_path)
