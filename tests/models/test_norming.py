"""Norm, pool and ReLU in their compiled form against the readable one, which is the definition."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from models.two_forms import assert_near, needs_compiler
from serkit.models.norming import Pool, norm_and_pool

pytestmark = needs_compiler

POOLS = get_args(Pool)
# bfloat16 has 8 bits: results are rounded once, gradients of the map once.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.0**-8}


def make_norm(n_channels: int) -> nn.BatchNorm2d:
    """Make a norm with weights of either sign and statistics away from those it begins with."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(n_channels, momentum=0.03)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    return norm


def make_map(size: tuple[int, int, int, int], dtype: torch.dtype, mean: float = 2.0) -> Tensor:
    """Draw a map with its channels last in memory, as convolutions give it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, generator=generator) * 3 + mean
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def assert_forms_agree(
    norm: nn.BatchNorm2d, x: Tensor, n_frames: Tensor, pool: Pool, tolerance: float
) -> None:
    """Compare two steps of training, the second with statistics of the first, and evaluation."""
    readable = copy.deepcopy(norm).double()
    compiled_x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    readable_x = x.double().requires_grad_()
    for _ in range(2):
        got = norm_and_pool(compiled_x, norm, n_frames, pool=pool, compiled=True)
        expected = norm_and_pool(readable_x, readable, n_frames, pool=pool, compiled=True)
        assert "NormPool" in type(got.grad_fn).__name__ + str(got.grad_fn.next_functions)
        assert got.dtype == x.dtype
        assert_near(got, expected, tolerance)
        weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
        weight = weight.to(x.dtype)  # of one value in both forms
        (got * weight).sum().backward()
        (expected * weight.double()).sum().backward()
    assert_near(compiled_x.grad, readable_x.grad, 4 * tolerance)
    for one, other in zip(norm.parameters(), readable.parameters(), strict=True):
        assert_near(one.grad, other.grad, 1e-4)
    for one, other in zip(norm.buffers(), readable.buffers(), strict=True):
        assert_near(one, other, 1e-5)
    norm.eval()
    readable.eval()
    with torch.no_grad():
        got = norm_and_pool(x, norm, n_frames, pool=pool, compiled=True)
        expected = norm_and_pool(x.double(), readable, n_frames, pool=pool, compiled=True)
    assert got.dtype == x.dtype
    assert_near(got, expected, tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("size", "n_frames"),
    [
        # channels on both sides of a vector's 4 to 16, heights and widths even and odd
        ((3, 1, 4, 6), [6, 6, 6]),
        ((3, 17, 5, 7), [7, 3, 1]),
        ((2, 48, 12, 31), [31, 30]),
        ((4, 40, 2, 2), [2, 1, 2, 1]),
        ((5, 6, 3, 9), [0, 9, 4, 5, 2]),
        ((1, 32, 25, 62), [62]),
    ],
)
def test_compiled_form_equals_the_definition(size, n_frames, pool, dtype):
    n_valid = torch.tensor(n_frames)
    if pool == "mean":  # that of no place is no number
        n_valid = n_valid.clamp_min(1)
    assert_forms_agree(make_norm(size[1]), make_map(size, dtype), n_valid, pool, TOLERANCE[dtype])


@pytest.mark.parametrize("pool", POOLS)
def test_an_utterance_has_the_same_part_in_a_step_wherever_it_stands(pool):
    norm, n_frames = make_norm(20), torch.tensor([7, 3, 5, 6])
    x, order = make_map((4, 20, 5, 7), torch.bfloat16), torch.tensor([0, 3, 1, 2])

    def run(image: Tensor, lengths: Tensor) -> Tensor:
        return norm_and_pool(image, norm.eval(), lengths, pool=pool, compiled=True)

    with torch.no_grad():
        assert torch.equal(run(x[order], n_frames[order]), run(x, n_frames)[order])


@pytest.mark.parametrize("pool", ["none", "halve", "halve_frames", "mean"])
@pytest.mark.parametrize("size", [(3, 5, 1, 7), (3, 5, 6, 1), (7, 5, 1, 1)])
def test_a_map_smaller_than_a_window_is_averaged_all_the_same(size, pool):
    n_frames = torch.full((size[0],), size[3])
    assert_forms_agree(make_norm(5), make_map(size, torch.float32), n_frames, pool, 1e-5)


def test_what_pytorch_refuses_is_refused():
    norm = make_norm(5)
    with pytest.raises(RuntimeError, match="Output size is too small"):
        norm_and_pool(
            make_map((3, 5, 1, 7), torch.float32), norm, torch.ones(3), pool="max", compiled=True
        )
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_and_pool(
            make_map((1, 5, 1, 1), torch.float32), norm, torch.ones(1), pool="none", compiled=True
        )


def test_a_mean_far_from_zero_leaves_statistics_and_gradients_exact():
    x = make_map((8, 20, 12, 31), torch.float32, mean=1000.0)
    norm, n_frames = make_norm(20), torch.full((8,), 31)
    readable = copy.deepcopy(norm).double()
    for one, image in ((norm, x), (readable, x.double())):
        norm_and_pool(image, one, n_frames, pool="none", compiled=True).square().sum().backward()
    for one, other in zip(norm.buffers(), readable.buffers(), strict=True):
        assert_near(one, other, 1e-5)
    for one, other in zip(norm.parameters(), readable.parameters(), strict=True):
        assert_near(one.grad, other.grad, 1e-3)


def test_of_equals_the_first_takes_the_gradient():
    norm = make_norm(3)
    nn.init.ones_(norm.bias)
    x = make_map((2, 3, 4, 4), torch.float32)
    x[:, :, :2, :2] = x[:, :, :1, :1]
    grads = []
    for compiled in (True, False):
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm_and_pool(image, norm, torch.tensor([4, 4]), pool="max", compiled=compiled)
        y.square().sum().backward()
        grads.append(image.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pool", POOLS)
def test_what_is_no_number_stays_none(pool):
    norm, x = make_norm(4).eval(), make_map((2, 4, 4, 6), torch.float32)
    x[1, 2, 2, 3] = float("nan")
    both = []
    for compiled in (True, False):
        with torch.no_grad():
            y = norm_and_pool(x.clone(), norm, torch.tensor([6, 6]), pool=pool, compiled=compiled)
        both.append(y.isnan())
    assert both[0].sum() == 1
    assert torch.equal(*both)
    y = norm_and_pool(x, norm.train(), torch.tensor([6, 6]), pool=pool, compiled=True)
    assert y[:, 2].isnan().all()
    assert not y[:, :2].isnan().any()


def test_maps_have_their_channels_last_whatever_they_were_given():
    x = torch.randn(2, 5, 4, 6, requires_grad=True)  # frames last
    y = norm_and_pool(x, make_norm(5), torch.tensor([6, 6]), pool="max", compiled=True)
    assert y.is_contiguous(memory_format=torch.channels_last)
    last = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        y, norm_and_pool(last, make_norm(5), torch.tensor([6, 6]), pool="max", compiled=True)
    )


def test_gradients_in_evaluation_take_the_readable_form():
    norm = make_norm(4).eval()
    x = make_map((2, 4, 4, 6), torch.float32).requires_grad_()
    norm_and_pool(x, norm, torch.tensor([6, 6]), pool="none", compiled=True).sum().backward()
    assert x.grad.abs().max() > 0


@torch.no_grad()
def test_mapped_over_members_it_takes_the_readable_form():
    norm, x = make_norm(4).eval(), torch.randn(3, 2, 4, 4, 6)

    def run(image: Tensor) -> Tensor:
        return norm_and_pool(image, norm, torch.tensor([6, 6]), pool="max", compiled=True)

    alone = torch.stack([run(image) for image in x])
    torch.testing.assert_close(torch.func.vmap(run)(x), alone)
