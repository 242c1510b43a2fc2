"""The loss of transcripts: published sums, and what cannot be spelled."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from serkit.training.cohort import Resources, train_cohort
from serkit.training.objectives import Term, total_loss
from serkit.training.stacked import stackable
from serkit.types import InputError
from training.toy_members import members, training

GOLDENS = json.loads(
    (Path(__file__).parents[1] / "goldens" / "text_normalisation.json").read_text()
)["ser_asr_loss"]


def value_of(logits, n_frames, symbols, **options):
    term = Term(output="ctc", target="transcript", loss="ctc", **options)
    outputs = {"ctc": logits, "n_ctc": torch.as_tensor(n_frames)}
    loss, _ = total_loss(outputs, {"transcript": torch.as_tensor(symbols)}, [term])
    return loss


def filled(tensor):
    """A weight by the formula of the recorded numbers."""
    i = np.arange(np.prod(tensor["shape"]), dtype=np.float64) + 1
    wave = np.sin(0.37 * i + 1.3 * tensor["k"] + 0.05 * i**1.3)
    scale = 0.1 if tensor["rule"] == "bias" else tensor["gain"] / np.sqrt(tensor["fan_in"])
    return torch.from_numpy((scale * wave).reshape(tensor["shape"]).astype(np.float32))


def head_of(golden):
    weight, bias, *_ = (filled(tensor).requires_grad_() for tensor in golden["tensors"])
    shape = (len(golden["samples"]), golden["padded_frames"], golden["hidden"])
    i = np.arange(np.prod(shape), dtype=np.float64) + 1
    frames = (np.sin(0.011 * i) + 0.5 * np.cos(0.0031 * i**1.3)).reshape(shape)
    return torch.from_numpy(frames.astype(np.float32)), weight, bias


@pytest.mark.parametrize("golden", [g for g in GOLDENS if g["alpha"]])
def test_sums_and_gradients_are_the_published_ones(golden):
    frames, weight, bias = head_of(golden)
    loss = value_of(
        frames @ weight.T + bias,
        golden["ctc_input_lengths"],
        golden["ctc_targets"],
        ctc_reduction="sum",
        zero_infinity=False,
    )
    assert loss.item() == pytest.approx(golden["ctc_sum"], rel=1e-5)
    (golden["alpha"] * loss).backward()
    for name, parameter in (("ctc_head.weight", weight), ("ctc_head.bias", bias)):
        assert parameter.grad.norm().item() == pytest.approx(golden["grad_l2"][name], rel=1e-4)


def by_enumeration(logits, symbols):
    """Minus the log of the summed probability of every path that spells the symbols."""
    log_p = logits.log_softmax(1)
    paths = []
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        if [s for s, _ in itertools.groupby(path) if s] == symbols:
            paths.append(sum(log_p[t, s] for t, s in enumerate(path)))
    return -torch.stack(paths).logsumexp(0)


LOGITS = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
# A plain one, one with a repetition, one without symbols, one whose repetition has no room.
SYMBOLS = [[1, 2, -100], [2, 2, 1], [-100, -100, -100], [1, 1, 1]]
N_FRAMES = [5, 4, 5, 4]


def test_what_cannot_be_spelled_counts_0():
    plain = by_enumeration(LOGITS[0], [1, 2])
    repeated = by_enumeration(LOGITS[1, :4], [2, 2, 1])
    logits = LOGITS.clone().requires_grad_()
    summed = value_of(logits, N_FRAMES, SYMBOLS, ctc_reduction="sum")
    torch.testing.assert_close(summed, plain + repeated)
    torch.testing.assert_close(value_of(logits, N_FRAMES, SYMBOLS), (plain / 2 + repeated / 3) / 4)
    summed.backward()
    assert (logits.grad[2:] == 0).all()
    assert (logits.grad[1, 4:] == 0).all()
    assert logits.grad.isfinite().all()


def test_without_zero_infinity_it_counts_as_published():
    options = {"ctc_reduction": "sum", "zero_infinity": False}
    silence = -LOGITS[2:3].log_softmax(2)[..., 0].sum()
    nothing = torch.full((1, 2), -100)
    torch.testing.assert_close(value_of(LOGITS[2:3], [5], nothing, **options), silence)
    assert value_of(LOGITS, N_FRAMES, SYMBOLS, **options).item() == float("inf")


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_batch_without_transcripts_is_0_with_a_gradient_of_0(n, reduction):
    logits = LOGITS.clone().requires_grad_()
    symbols = torch.full((4, n), -100)
    loss = value_of(logits, N_FRAMES, symbols, ctc_reduction=reduction)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_an_utterance_without_frames_counts_0():
    expected = value_of(LOGITS[:1], [5], SYMBOLS[:1], ctc_reduction="sum")
    value = value_of(LOGITS[:2], [5, 0], SYMBOLS[:2], ctc_reduction="sum")
    torch.testing.assert_close(value, expected)


def test_half_precision_is_left():
    logits = LOGITS.bfloat16()
    value = value_of(logits, N_FRAMES, SYMBOLS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, value_of(logits.float(), N_FRAMES, SYMBOLS))


def test_other_targets_symbols_and_options_are_refused():
    for symbols in ([0, 1, 2, 0], torch.zeros(4, 2), SYMBOLS[:2]):
        with pytest.raises(InputError, match=r"ctc wants a target of symbols \(4, n\), padded"):
            value_of(LOGITS, N_FRAMES, symbols)
    with pytest.raises(InputError, match="ctc got the symbol 3, the output tells 3 apart"):
        value_of(LOGITS[:1], [5], [[3]])
    with pytest.raises(InputError, match="objective wants the output 'n_ctc'"):
        total_loss(
            {"ctc": LOGITS},
            {"transcript": torch.tensor(SYMBOLS)},
            [Term(output="ctc", target="transcript", loss="ctc")],
        )
    with pytest.raises(ValidationError, match="ctc_reduction = sum is for ctc"):
        Term(ctc_reduction="sum")
    with pytest.raises(ValidationError, match="zero_infinity = False is for ctc"):
        Term(zero_infinity=False)


def test_a_stack_refuses_the_loss_before_anything_is_trained(tmp_path):
    objective = (Term(), Term(output="ctc", target="transcript", loss="ctc", weight=0.1))
    settings = training(cohort="stacked")
    assert stackable(settings, (Term(),))
    assert not stackable(settings, objective)
    cohort = [replace(member, objective=objective) for member in members(tmp_path, settings)]
    with pytest.raises(InputError, match="cohort = 'stacked' cannot train the loss 'ctc': set"):
        train_cohort(cohort, Resources(), on_event=lambda name, row: None, say=print)
    assert not (tmp_path / "members").exists()
