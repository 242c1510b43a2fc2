"""Recurrence over sequences of different lengths, against torch's packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from serkit.models.layers import run_lstm

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
