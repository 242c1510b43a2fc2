"""Sentences of a small grammar, spoken."""

import pytest

from serkit.audio import probe
from serkit.corpora import spoken_words
from serkit.corpora.manifest import CorpusError, read_manifest
from serkit.corpora.spoken_words import MANIFEST, draw_sentences, generate_words


def test_sentences_are_all_different_and_a_function_of_the_seed():
    drawn = draw_sentences(500, seed=1)
    assert len(set(drawn)) == 500
    assert drawn == draw_sentences(500, seed=1) != draw_sentences(500, seed=2)


@pytest.mark.parametrize("n", [0, 10**9])
def test_no_more_sentences_than_the_grammar_has(n):
    with pytest.raises(CorpusError, match="expected 1 to"):
        draw_sentences(n)


def test_voices_take_turns_and_the_manifest_says_what_they_say(tmp_path):
    pytest.importorskip("espeakng_loader")
    done = []
    made = generate_words(
        tmp_path, n_sentences=4, n_voices=2, progress=lambda i, n: done.append((i, n))
    )
    assert [one.speaker for one in made] == ["f1", "m1", "f1", "m1"]
    assert done[-1] == (4, 4)
    assert read_manifest(tmp_path / MANIFEST) == made
    assert made[0].transcript == draw_sentences(4)[0]
    assert probe(made[0].path).duration_s == pytest.approx(made[0].duration_s)
    assert generate_words(tmp_path, n_sentences=9) == made  # what is there is taken


def test_without_a_synthesiser_of_words_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_words, "engine_name", lambda: "formant fallback")
    with pytest.raises(CorpusError, match=r"serkit\[demo\]"):
        generate_words(tmp_path)


def test_unknown_numbers_of_voices_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="expected 1 to 6"):
        generate_words(tmp_path, n_voices=7)
