"""Shared layers against torch's own: packed sequences, convolutions and norms one by one."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from serkit.models.layers import mean_over_places, rectify_valid, run_lstm

LENGTHS = torch.tensor([9, 1, 6, 4])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_packed_sequences_in_outputs_and_gradients(bidirectional, n_layers, bias):
    torch.manual_seed(0)
    lstm = nn.LSTM(
        5, 4, n_layers, bias=bias, batch_first=True, bidirectional=bidirectional
    ).double()
    x = torch.randn(4, 9, 5, dtype=torch.float64, requires_grad=True)
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True)
    y = run_lstm(lstm, x, LENGTHS)
    torch.testing.assert_close(y, expected)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((z * weight).sum(), [x, *lstm.parameters()]) for z in (y, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_lies_between_the_layers_only():
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 64, 2, batch_first=True, dropout=0.9)
    x = torch.randn(4, 9, 5)
    assert not torch.equal(run_lstm(lstm, x, LENGTHS), run_lstm(lstm, x, LENGTHS))
    assert run_lstm(lstm, x, LENGTHS)[0].count_nonzero() == 9 * 64
    lstm.eval()
    assert torch.equal(run_lstm(lstm, x, LENGTHS), run_lstm(lstm, x, LENGTHS))


def test_rectified_maps_are_zero_behind_an_utterances_end():
    x = torch.randn(2, 3, 4, 5)
    expected = x.relu()
    expected[1, ..., 2:] = 0
    assert torch.equal(rectify_valid(x, torch.tensor([5, 2])), expected)


def test_mean_over_places_counts_valid_frames_only():
    x = torch.randn(2, 3, 4, 5)
    means = mean_over_places(x, torch.tensor([5, 2]))
    torch.testing.assert_close(means[0], x[0].mean((1, 2)))
    torch.testing.assert_close(means[1], x[1, ..., :2].mean((1, 2)))
