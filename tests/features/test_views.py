"""Views: centre padding and cropping as in the authors' code, or the utterance as it is."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from serkit.features.views import FixedView, WholeView, view_from_dict
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


@pytest.mark.parametrize(
    "view", [FixedView(n_samples=96_000), WholeView(), WholeView(max_samples=16_000)]
)
def test_views_survive_being_saved(view):
    assert view_from_dict(asdict(view)) == view


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, r"view\.kind is None, expected one of fixed, whole"),
        ({"kind": "sideways"}, r"view\.kind is 'sideways', expected one of fixed, whole"),
        ({"kind": "fixed"}, r"view\.n_samples: missing"),
        ({"kind": "fixed", "n_samples": 0}, r"view\.n_samples = 0: input should be greater"),
        ({"kind": "fixed", "n_samples": "long"}, r'view\.n_samples = "long": input should be'),
        ({"kind": "fixed", "n_samples": 9, "max_samples": 9}, r"view\.max_samples: unknown"),
        ({"kind": "whole", "max_samples": -1}, r"view\.max_samples = -1: input should be"),
        ({"kind": "whole", "n_samples": 9}, r"view\.n_samples: unknown setting"),
    ],
)
def test_views_that_make_no_sense_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        view_from_dict(config)
