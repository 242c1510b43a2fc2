"""The compiled fusion of attention heads against the readable one, which is the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.two_forms import assert_near, needs_compiler
from serkit.models.head_fusion import FuseHeads
from serkit.models.macnn import HeadFusion, fuse_heads

pytestmark = needs_compiler

# bfloat16 has 8 bits, and results are rounded once.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-8}


def make_parts(*shape: int, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale


def no_bias(parts: Tensor) -> Tensor:
    return torch.zeros(len(parts), *parts.shape[4:])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "n_frames"),
    [
        # hidden channels on both sides of a vector's 4 to 16
        ((1, 3, 2, 5, 1, 4, 3, 1), [5, 5, 5]),
        ((1, 3, 2, 5, 1, 3, 3, 5), [5, 1, 3]),
        ((4, 2, 6, 15, 1, 4, 3, 64), [15, 7]),
        ((1, 2, 3, 4, 3, 2, 3, 17), [1, 4]),
        ((2, 1, 1, 1, 2, 1, 3, 48), [1]),
    ],
)
def test_compiled_form_equals_the_definition(shape, n_frames, dtype):
    parts = make_parts(*shape).to(dtype).requires_grad_()
    bias = make_parts(shape[0], *shape[4:]).requires_grad_()
    exact, exact_bias = (x.detach().double().requires_grad_() for x in (parts, bias))
    got = FuseHeads.apply(parts, bias, torch.tensor(n_frames))
    biased = exact + exact_bias.view(shape[0], 1, 1, 1, *shape[4:])
    expected = fuse_heads(biased, torch.tensor(n_frames))
    assert got.dtype == dtype
    assert_near(got, expected, TOLERANCE[dtype], least=0.0)
    weight = make_parts(*expected.shape).to(dtype)
    (got * weight).sum().backward()
    (expected * weight.double()).sum().backward()
    assert_near(parts.grad, exact.grad, 2 * TOLERANCE[dtype], least=0.0)
    assert_near(bias.grad, exact_bias.grad, 1e-5, least=0.0)


def test_large_scores_overflow_nowhere():
    parts = make_parts(1, 2, 2, 3, 1, 2, 3, 20, scale=100.0).requires_grad_()
    exact = parts.detach().double().requires_grad_()
    got = FuseHeads.apply(parts, no_bias(parts), torch.tensor([3, 2]))
    expected = fuse_heads(exact, torch.tensor([3, 2]))
    assert_near(got, expected, 1e-5, least=0.0)
    got.sum().backward()
    expected.sum().backward()
    assert_near(parts.grad, exact.grad, 1e-4, least=0.0)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_no_number_stays_none(part):
    parts = make_parts(1, 2, 2, 3, 2, 2, 3, 20)
    parts[0, 1, 1, 1, 1, 0, part, 7] = float("nan")
    n_frames = torch.tensor([3, 3])
    got = FuseHeads.apply(parts, no_bias(parts), n_frames)
    assert torch.equal(got.isnan(), fuse_heads(parts, n_frames).isnan())
    assert got.isnan().any()


def test_what_lies_behind_an_end_has_no_say():
    parts = make_parts(1, 2, 2, 5, 1, 2, 3, 20)
    got = FuseHeads.apply(parts, no_bias(parts), torch.tensor([5, 2]))
    parts[:, 1, :, 2:] = 7.0
    assert torch.equal(FuseHeads.apply(parts, no_bias(parts), torch.tensor([5, 2])), got)


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (3, 3), (1, 3), (3, 1)])
def test_a_stage_takes_it_in_training_and_evaluation(n_in, n_out):
    torch.manual_seed(0)
    stage = HeadFusion(6, n_heads=2, n_hidden=5, n_in=n_in, n_out=n_out)
    x, n_frames = torch.randn(2, 6 * n_in, 3, 4, requires_grad=True), torch.tensor([4, 2])
    got, _ = stage(x, n_frames)
    assert "FuseHeads" in _nodes(got)
    got.square().sum().backward()
    grads = [x.grad, *(p.grad for p in stage.parameters())]
    x.grad = None
    stage.zero_grad()
    stage.compiled = False
    expected, _ = stage(x, n_frames)
    assert "FuseHeads" not in _nodes(expected)
    expected.square().sum().backward()
    torch.testing.assert_close(got, expected)
    others = [x.grad, *(p.grad for p in stage.parameters())]
    torch.testing.assert_close(grads, others, rtol=1e-4, atol=1e-6)
    stage.compiled = True
    with torch.no_grad():
        torch.testing.assert_close(stage.eval()(x, n_frames)[0], expected)


def test_autocast_to_float16_takes_the_readable_form():
    stage, x = HeadFusion(6, n_heads=2, n_hidden=5), torch.randn(2, 6, 3, 4)
    with torch.autocast("cpu", torch.float16):
        y, _ = stage(x, torch.tensor([4, 4]))
    assert y.dtype == torch.float16
    assert "FuseHeads" not in _nodes(y)


def _nodes(y: Tensor) -> str:
    """Name the operations that made a tensor."""
    names, nodes = [], [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.append(type(node).__name__)
            nodes += [following for following, _ in node.next_functions]
    return " ".join(names)
