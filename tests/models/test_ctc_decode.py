"""Frames to text: what repetitions, blanks and lengths mean, and what a search finds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from serkit.models.ctc_decode import Segment, beam_decode, greedy_decode
from serkit.transcripts import Symbols
from serkit.types import InputError

SYMBOLS = Symbols(("<blank>", "<unk>", "|", "A", "B", "C", "<eos>"))
CJK = Symbols(("<blank>", "<unk>", "你", "好", "<eos>"))


def spelled(ids: list[int], *, n_symbols: int = len(SYMBOLS), height: float = 5.0) -> torch.Tensor:
    """Logits in which each frame's symbol stands out, ``(1, n_frames, n_symbols)``."""
    return height * torch.nn.functional.one_hot(torch.tensor([ids]), n_symbols).float()


def random_logits(n_frames: int, n_symbols: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(1, n_frames, n_symbols, generator=generator)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([3, 3, 0, 4, 4, 4], "AB"),
        ([3, 0, 3], "AA"),
        ([0, 0, 0], ""),
        ([2, 3, 2, 0, 2, 4, 2], "A B"),
        ([1, 3, 6], "A"),
    ],
)
def test_repetitions_are_one_and_blanks_are_nothing(ids, text):
    (found,) = greedy_decode(spelled(ids), torch.tensor([len(ids)]), symbols=SYMBOLS)
    assert found.text == text


def test_padding_is_not_read():
    logits = spelled([3, 4, 5, 5, 5])
    (found,) = greedy_decode(logits, torch.tensor([2]), symbols=SYMBOLS)
    assert (found.text, found.ids) == ("AB", (3, 4))
    ((best, *_),) = beam_decode(logits, torch.tensor([2]), symbols=SYMBOLS)
    assert best.text == "AB"
    (nothing,) = greedy_decode(logits, torch.tensor([0]), symbols=SYMBOLS)
    assert (nothing.text, nothing.score, nothing.segments) == ("", None, ())


def test_the_score_is_the_mean_probability_of_frames_that_are_no_blanks():
    logits = torch.zeros(1, 3, 7)
    logits[0, :, 3] = torch.tensor([2.0, 1.0, -9.0])
    logits[0, 2, 0] = 9.0
    probs = logits.softmax(2)[0, :, 3]
    (found,) = greedy_decode(logits, torch.tensor([3]), symbols=SYMBOLS)
    assert found.score == pytest.approx(float(probs[:2].mean()))
    (nothing,) = greedy_decode(spelled([0, 0]), torch.tensor([2]), symbols=SYMBOLS)
    assert nothing.score is None


def test_words_have_times():
    ids = [0, 3, 3, 0, 4, 2, 0, 5, 1]
    (found,) = greedy_decode(spelled(ids), torch.tensor([9]), symbols=SYMBOLS, frame_s=0.04)
    probability = float(spelled(ids).softmax(2).max())
    assert found.segments == (
        Segment("AB", 0.04, 0.2, pytest.approx(probability)),
        Segment("C", 0.28, 0.32, pytest.approx(probability)),
    )


def test_characters_have_times_where_words_have_no_ends():
    logits = spelled([2, 0, 3, 3], n_symbols=len(CJK))
    (found,) = greedy_decode(logits, torch.tensor([4]), symbols=CJK, frame_s=0.1)
    assert found.text == "你好"
    assert [(s.text, s.start_s, s.end_s) for s in found.segments] == [
        ("你", 0.0, 0.1),
        ("好", 0.2, 0.4),
    ]


def enumerated(logits: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every text, the sum over all paths."""
    probs = logits[0].double().softmax(1)
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        ids = tuple(i for i, _ in itertools.groupby(path) if i != 0)
        probability = math.prod(float(probs[t, i]) for t, i in enumerate(path))
        found[ids] = found.get(ids, 0.0) + probability
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_sums_all_timings(seed):
    symbols = Symbols(("<blank>", "A", "B"))
    logits = random_logits(6, 3, seed)
    expected = enumerated(logits)
    (found,) = beam_decode(logits, torch.tensor([6]), symbols=symbols, beam=1_000)
    assert {one.ids: math.exp(one.log_prob) for one in found} == pytest.approx(expected)
    assert found[0].ids == max(expected, key=lambda ids: expected[ids])
    totals = [one.total for one in found]
    assert totals == sorted(totals, reverse=True)
    assert sum(math.exp(one.log_prob) for one in found) == pytest.approx(1)


def test_a_search_finds_what_the_best_frames_hide():
    # Two frames: blank is each frame's best, yet A has more paths than silence.
    symbols = Symbols(("<blank>", "A"))
    logits = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    (greedy,) = greedy_decode(logits, torch.tensor([2]), symbols=symbols)
    ((best, *_),) = beam_decode(logits, torch.tensor([2]), symbols=symbols)
    assert greedy.text == ""
    assert best.text == "A"
    assert math.exp(best.log_prob) == pytest.approx(0.64)


def test_equal_neighbours_stay_two():
    ((best, *_),) = beam_decode(spelled([3, 0, 3]), torch.tensor([3]), symbols=SYMBOLS)
    assert best.text == "AA"


def test_a_language_model_changes_the_ranking():
    logits = torch.zeros(1, 1, 7)
    logits[0, 0, 3], logits[0, 0, 4] = 2.0, 1.9
    asked: list[tuple[int, ...]] = []

    def likes_b(prefix: tuple[int, ...]) -> float:
        asked.append(prefix)
        return 0.0 if prefix[-1] == 4 else -3.0

    n = torch.tensor([1])
    ((without, *_),) = beam_decode(logits, n, symbols=SYMBOLS)
    ((best, *_),) = beam_decode(
        logits, n, symbols=SYMBOLS, language_model=likes_b, weight=0.5, bonus=0.25
    )
    assert (without.text, best.text) == ("A", "B")
    assert best.total == pytest.approx(best.log_prob + 0.25)
    assert len(asked) == len(set(asked)), "each prefix is asked for once"


def test_a_bonus_favours_long_texts():
    symbols = Symbols(("<blank>", "A"))
    logits, n = torch.tensor([[[0.8, 0.2], [0.8, 0.2]]]).log(), torch.tensor([2])
    ((without, *_),) = beam_decode(logits, n, symbols=symbols)
    ((best, *_),) = beam_decode(logits, n, symbols=symbols, bonus=2.0)
    assert (without.text, best.text) == ("", "A")


def test_no_frames_are_an_empty_text():
    ((best,),) = beam_decode(torch.zeros(1, 0, 7), torch.tensor([0]), symbols=SYMBOLS)
    assert (best.text, best.log_prob) == ("", 0.0)


@pytest.mark.parametrize("decode", [greedy_decode, beam_decode])
def test_what_does_not_belong_together_is_refused(decode):
    with pytest.raises(InputError, match=r"logits \(1, 4, 5\), expected \(batch, n_frames, 7\)"):
        decode(torch.zeros(1, 4, 5), torch.tensor([4]), symbols=SYMBOLS)
    with pytest.raises(InputError, match=r"4 frames of 1 utterances and the lengths \[5\]"):
        decode(torch.zeros(1, 4, 7), torch.tensor([5]), symbols=SYMBOLS)


def test_a_beam_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"beam = 0, n_candidates = 20: expected at least 1"):
        beam_decode(torch.zeros(1, 4, 7), torch.tensor([4]), symbols=SYMBOLS, beam=0)
