"""Error rates: by hand, with nothing said, with nothing known, and their intervals."""

import math

import numpy as np
import pytest

from serkit.evaluation.predictions import Predictions
from serkit.evaluation.transcription import (
    cer,
    error_counts,
    error_rate_interval,
    score_transcription,
    wer,
)
from serkit.types import InputError

SAID = ["the cat sat on it", "", "yes", None]
HEARD = ["a cat on it now", "hm", "yes", "who knows"]


def test_kinds_of_errors_are_counted_per_utterance():
    expected = [[1, 1, 1, 5], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert error_counts(SAID, HEARD).tolist() == expected
    assert error_counts(["a cat", "x"], ["a  hat ", ""], unit="character").tolist() == [
        [1, 0, 0, 5],
        [0, 1, 0, 1],
    ]
    assert error_counts([], []).shape == (0, 4)


def distance(a: list[str], b: list[str]) -> int:
    """Edits between two sequences, by the textbook's table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_edits_are_as_few_as_possible():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcd"), size=n)) for n in rng.integers(0, 9, size=120)]
    said, heard = texts[:60], texts[60:]
    edits = [distance(a.split(), b.split()) for a, b in zip(said, heard, strict=True)]
    assert error_counts(said, heard)[:, :3].sum(axis=1).tolist() == edits
    edits = [distance(list(a), list(b)) for a, b in zip(said, heard, strict=True)]
    assert error_counts(said, heard, unit="character")[:, :3].sum(axis=1).tolist() == edits
    assert cer(said, heard) == pytest.approx(sum(edits) / sum(map(len, said)))


def test_a_rate_is_all_edits_over_all_words():
    assert wer(SAID, HEARD) == pytest.approx(4 / 6)
    assert wer(["yes"], ["yes it is"]) == 2.0
    assert math.isnan(wer(["", None], ["hm", "hm"]))


def test_what_was_said_in_silence_and_what_is_not_known_are_counted():
    scores = score_transcription(SAID, HEARD)
    assert (scores.n_utterances, scores.n_empty, scores.n_unknown) == (3, 1, 1)
    words = scores.words
    assert (words.substitutions, words.deletions, words.insertions, words.n_said) == (1, 1, 2, 6)
    assert words.rate == wer(SAID, HEARD)
    assert scores.characters.rate == cer(SAID, HEARD)
    assert score_transcription([""], ["hm"]).to_dict()["words"]["rate"] is None


def table(speakers, seeds=None):
    n = len(speakers)
    return Predictions.of(
        [f"u{i}" for i in range(n)],
        ["sad", "happy"] * (n // 2),
        predicted=["sad"] * n,
        speakers=speakers,
        seeds=seeds,
    )


def test_the_interval_resamples_speakers():
    speakers = [f"s{i // 4}" for i in range(24)]
    said = ["one two three four"] * 24
    heard = ["one two three four" if i < 12 else "one two six four" for i in range(24)]
    interval = error_rate_interval(table(speakers), said, heard, n=500)
    assert interval.metric == "wer"
    assert (interval.cluster, interval.n_clusters) == ("speaker", 6)
    assert interval.value == pytest.approx(wer(said, heard)) == pytest.approx(1 / 8)
    assert interval.low == 0
    assert interval.high == pytest.approx(0.25)
    letters = error_rate_interval(table(speakers), said, heard, unit="character", n=50)
    assert (letters.metric, letters.value) == ("cer", pytest.approx(cer(said, heard)))


def test_seeds_are_averaged():
    ids = ["a", "b", "c", "a", "b", "c"]
    rows = Predictions.of(
        ids,
        ["sad", "happy", "sad"] * 2,
        predicted=["sad"] * 6,
        speakers=["x", "y", "z"] * 2,
        seeds=[1, 1, 1, 2, 2, 2],
    )
    heard = ["yes"] * 3 + ["no"] * 3
    interval = error_rate_interval(rows, ["yes"] * 6, heard, n=20)
    assert (interval.value, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_lists_that_do_not_fit_and_references_without_words_are_refused():
    with pytest.raises(InputError, match="2 references and 1 hypotheses"):
        wer(["a", "b"], ["a"])
    with pytest.raises(InputError, match="none of 2 utterances has a reference transcript"):
        score_transcription([None, None], ["a", "b"])
    with pytest.raises(InputError, match="1 references for a table of 4 rows"):
        error_rate_interval(table(["s"] * 4), ["a"], ["a"])
    with pytest.raises(InputError, match="seed 0: no row has a reference with a word in it"):
        error_rate_interval(table(["s"] * 4), [None, "", "", None], ["a"] * 4)
