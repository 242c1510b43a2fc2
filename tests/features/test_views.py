"""Views: centre padding and cropping as in the authors' code, or the utterance as it is."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from serkit.features.views import (
    FixedView,
    SegmentsView,
    WholeView,
    aggregate,
    cut_pieces,
    view_from_dict,
)
from serkit.types import InputError


def counting(n: int) -> torch.Tensor:
    return torch.arange(1.0, n + 1).unsqueeze(0)


def centred(x: np.ndarray, length: int) -> np.ndarray:
    """The rule written down independently: halves left, the odd one right."""
    if len(x) < length:
        left = (length - len(x)) // 2
        return np.concatenate([np.zeros(left), x, np.zeros(length - len(x) - left)])
    left = (len(x) - length) // 2
    return x[left : left + length]


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9, 10, 11, 12, 13, 30, 31])
@pytest.mark.parametrize("length", [1, 9, 10])
def test_a_fixed_view_pads_and_crops_around_the_centre(n, length):
    viewed, n_samples = FixedView(n_samples=length)(counting(n), torch.tensor([n]))
    assert viewed[0].tolist() == centred(np.arange(1.0, n + 1), length).tolist()
    assert n_samples.tolist() == [length]


def test_the_odd_zero_goes_to_the_right():
    viewed, _ = FixedView(n_samples=6)(counting(3), torch.tensor([3]))
    assert viewed[0].tolist() == [0, 1, 2, 3, 0, 0]


def test_the_odd_sample_is_cut_from_the_right():
    viewed, _ = FixedView(n_samples=2)(counting(5), torch.tensor([5]))
    assert viewed[0].tolist() == [2, 3]


def test_a_batch_of_mixed_lengths_is_viewed_as_each_would_be_alone():
    lengths = [3, 10, 17, 8]
    batch = torch.zeros(4, 17)
    for row, n in zip(batch, lengths, strict=True):
        row[:n] = counting(n)[0]
    view = FixedView(n_samples=8)
    viewed, n_samples = view(batch, torch.tensor(lengths))
    for row, n in zip(viewed, lengths, strict=True):
        assert torch.equal(row, view(counting(n), torch.tensor([n]))[0][0])
    assert n_samples.tolist() == [8] * 4
    assert n_samples.dtype == torch.int64


def test_gradients_flow_through_a_fixed_view():
    x = counting(5).requires_grad_()
    FixedView(n_samples=3)(x, torch.tensor([5]))[0].sum().backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 999, 1000, 1001, 1002, 2500, 7001, 9000])
def test_a_scaled_view_divides_by_numpy_s_percentile_of_what_is_kept(n):
    signal = np.random.default_rng(n).normal(size=n).astype(np.float32)
    kept = centred(signal, 4000) if n > 4000 else signal
    expected = np.clip(kept / np.percentile(np.abs(kept), 99.9), -1, 1)
    view = FixedView(n_samples=4000, scale="percentile")
    viewed, _ = view(torch.from_numpy(np.pad(signal, (0, 50))).unsqueeze(0), torch.tensor([n]))
    assert np.abs(viewed[0].numpy() - centred(expected, 4000)).max() < 1e-6


def test_a_scaled_view_has_one_loudness_for_each_of_a_batch():
    lengths = [3000, 0, 9000]
    batch = torch.randn(3, 9000, generator=torch.Generator().manual_seed(0))
    batch *= torch.arange(9000) < torch.tensor(lengths).unsqueeze(1)
    view = FixedView(n_samples=4000, scale="percentile")
    loud, _ = view(batch, torch.tensor(lengths))
    quiet, _ = view(1e-3 * batch, torch.tensor(lengths))
    assert torch.allclose(loud, quiet, atol=1e-5)
    assert (loud[1] == 0).all()


@pytest.mark.parametrize("n_clicks", [0, 2])
def test_a_scaled_view_leaves_silence_and_single_clicks_as_they_are(n_clicks):
    x = torch.zeros(1, 5000)
    x[0, 2500 : 2500 + n_clicks] = 0.25
    x.requires_grad_()
    viewed, _ = FixedView(n_samples=5000, scale="percentile")(x, torch.tensor([5000]))
    assert torch.equal(viewed, x)
    viewed.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_a_fixed_view_saved_before_there_was_a_scale_does_not_scale():
    assert view_from_dict({"kind": "fixed", "n_samples": 9}) == FixedView(n_samples=9, scale="none")


def test_a_whole_view_leaves_everything_as_it_is():
    batch, n = counting(7), torch.tensor([7])
    viewed, n_samples = WholeView()(batch, n)
    assert viewed is batch
    assert n_samples is n


def test_a_whole_view_cuts_at_its_maximum():
    batch = torch.cat([counting(7), counting(7)])
    viewed, n_samples = WholeView(max_samples=5)(batch, torch.tensor([7, 4]))
    assert viewed.shape == (2, 5)
    assert viewed[0].tolist() == [1, 2, 3, 4, 5]
    assert n_samples.tolist() == [5, 4]


# ---- Segments ------------------------------------------------------------------------------------

STRICT = SegmentsView(n_samples=32_000, train_hop=16_000, test_hop=6_399, strict=True, short="drop")
LENIENT = SegmentsView(n_samples=32_000, train_hop=16_000, test_hop=6_400, short="drop")


@pytest.mark.parametrize(
    ("view", "n", "train", "test"),
    [
        # As the two versions of the authors' code count.
        (STRICT, 32_000, 0, 0),
        (STRICT, 48_000, 1, 3),
        (STRICT, 64_000, 2, 6),
        (LENIENT, 31_999, 0, 0),
        (LENIENT, 32_000, 1, 1),
        (LENIENT, 48_000, 2, 3),
        (LENIENT, 64_000, 3, 6),
    ],
)
def test_segments_are_counted_as_in_the_authors_code(view, n, train, test):
    for training, expected in ((True, train), (False, test)):
        pieces, n_samples, owners = cut_pieces(
            view, torch.rand(1, n), torch.tensor([n]), training=training
        )
        assert pieces.shape == (expected, 32_000)
        assert n_samples.tolist() == [32_000] * expected
        assert owners.tolist() == [0] * expected


def test_segments_begin_every_hop_and_know_their_utterance():
    view = SegmentsView(n_samples=4, train_hop=2, test_hop=3)
    batch = torch.stack([counting(8)[0], torch.cat([counting(5)[0], torch.full((3,), 99.0)])])
    pieces, n_samples, owners = view(batch, torch.tensor([8, 5]), hop=2)
    assert pieces.tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [1, 2, 3, 4]]
    assert owners.tolist() == [0, 0, 0, 1]
    assert n_samples.tolist() == [4] * 4


@pytest.mark.parametrize(
    ("short", "expected", "n"),
    [("zeros", [[1, 2, 3, 0, 0]], [3]), ("repeat", [[1, 2, 3, 1, 2]], [5]), ("drop", [], [])],
)
def test_a_short_utterance_is_completed_repeated_or_dropped(short, expected, n):
    view = SegmentsView(n_samples=5, train_hop=2, test_hop=2, short=short)
    pieces, n_samples, owners = view(counting(3), torch.tensor([3]), hop=2)
    assert pieces.tolist() == expected
    assert n_samples.tolist() == n
    assert owners.tolist() == [0] * len(expected)


def test_an_utterance_of_one_segment_is_short_only_where_segments_must_end_before_it():
    for strict, dropped in ((True, 0), (False, 1)):
        view = SegmentsView(n_samples=5, train_hop=2, test_hop=2, short="drop", strict=strict)
        assert len(view(counting(5), torch.tensor([5]), hop=2)[0]) == dropped


def test_other_views_make_one_piece_of_each_utterance():
    batch = torch.rand(3, 9)
    pieces, _, owners = cut_pieces(
        FixedView(n_samples=4), batch, torch.tensor([9, 5, 2]), training=True
    )
    assert pieces.shape == (3, 4)
    assert owners.tolist() == [0, 1, 2]


def test_the_three_rules_of_aggregation_may_disagree():
    # Class 0 wins most segments, by a hair over class 1; one segment is far from sure of either
    # and its logit for class 2 outweighs all others, though no more probability than 1 can be won.
    logits = torch.tensor([[1.0, 0.9, -9.0], [1.0, 0.9, -9.0], [-9.0, 0.9, 30.0]])
    one = torch.zeros(3, dtype=torch.long)
    chosen = {
        rule: int(aggregate(logits, one, 1, rule=rule)[0].argmax())
        for rule in ("average_no_softmax", "average_softmax", "majority_vote")
    }
    assert chosen == {"average_no_softmax": 2, "average_softmax": 0, "majority_vote": 0}
    close = torch.tensor([[1.0, 0.99, -9.0], [1.0, 0.99, -9.0], [-9.0, 9.0, -9.0]])
    assert aggregate(close, one, 1, rule="average_softmax")[0].argmax() == 1
    assert aggregate(close, one, 1, rule="majority_vote")[0].argmax() == 0


def test_votes_are_shares_and_the_first_class_wins_a_tie():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    votes = aggregate(logits, torch.zeros(2, dtype=torch.long), 1, rule="majority_vote")
    assert votes.tolist() == [[0.5, 0.5]]
    assert votes.argmax() == 0


@pytest.mark.parametrize("rule", ["average_no_softmax", "average_softmax", "majority_vote"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_of_utterances_are_those_of_each_alone(rule, multi_label):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator)
    owners = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    together = aggregate(logits, owners, 3, rule=rule, multi_label=multi_label)
    for number in range(3):
        own = logits[owners == number]
        alone = aggregate(
            own, torch.zeros(len(own), dtype=torch.long), 1, rule=rule, multi_label=multi_label
        )
        assert torch.allclose(together[number], alone[0])
    if not multi_label:
        assert torch.allclose(together.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    "view",
    [LENIENT, STRICT, FixedView(n_samples=96_000), WholeView(), WholeView(max_samples=16_000)],
)
def test_views_survive_being_saved(view):
    assert view_from_dict(asdict(view)) == view


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"view\.kind is None, expected one of fixed, segments, whole"),
        ({"kind": "sideways"}, r"view\.kind is 'sideways', expected one of fixed, segments, whole"),
        ({"kind": "fixed"}, r"view\.n_samples: missing"),
        ({"kind": "fixed", "n_samples": 0}, r"view\.n_samples = 0: input should be greater"),
        ({"kind": "fixed", "n_samples": "long"}, r'view\.n_samples = "long": input should be'),
        ({"kind": "fixed", "n_samples": 9, "max_samples": 9}, r"view\.max_samples: unknown"),
        ({"kind": "fixed", "n_samples": 9, "scale": "peak"}, r'view\.scale = "peak": input should'),
        ({"kind": "whole", "max_samples": -1}, r"view\.max_samples = -1: input should be"),
        ({"kind": "whole", "n_samples": 9}, r"view\.n_samples: unknown setting"),
    ],
)
def test_views_that_make_no_sense_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        view_from_dict(config)
