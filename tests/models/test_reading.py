"""The first stage against single convolutions and norms, and its compiled form against it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.two_forms import assert_near, needs_compiler
from serkit.models import first_stage
from serkit.models.reading import Paths, read_image

# Kernel sizes and paddings of paths that give maps of one size.
SMALL = (((5, 2), (2, 0)), ((1, 4), (0, 1)))
MACNN = (((10, 2), (4, 0)), ((2, 8), (0, 3)))
LIGHT_SERNET = (((1, 11), (0, 5)), ((9, 1), (4, 0)), ((3, 3), (1, 1)))


class Stage(nn.Module):
    """Paths with weights, norms and statistics away from those they begin with."""

    def __init__(self, kernels, n_channels: int, n_copies: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        n_all = n_channels * n_copies
        self.convs = nn.ModuleList(nn.Conv2d(1, n_all, size, padding=pad) for size, pad in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n_all, momentum=0.03) for _ in kernels)
        self.n_copies = n_copies
        for norm in self.norms:
            nn.init.normal_(norm.weight)  # of either sign
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)

    @property
    def paths(self) -> Paths:
        return list(zip(self.convs, self.norms, strict=True))

    def forward(self, x: Tensor, n_frames: Tensor, *, halved: bool, compiled: bool) -> Tensor:
        return read_image(
            x, self.paths, n_frames, n_copies=self.n_copies, halved=halved, compiled=compiled
        )


def full(x: Tensor, kernels) -> Tensor:
    """Every frame of every output is valid."""
    (_, width), (_, padding) = kernels[0]
    return torch.full((len(x),), x.shape[-1] + 2 * padding - width + 1)


@pytest.mark.parametrize("training", [True, False])
def test_joined_paths_equal_convolutions_and_norms_one_by_one(training):
    joined = Stage(SMALL, 3, n_copies=2).double().train(training)
    alone = copy.deepcopy(joined)
    x = torch.randn(3, 1, 7, 9, dtype=torch.float64)
    got = joined(x, full(x, SMALL), halved=False, compiled=False)
    a, b = (norm(conv(x)) for conv, norm in alone.paths)
    expected = torch.cat([a[:, :3], b[:, :3], a[:, 3:], b[:, 3:]], dim=1).relu()
    torch.testing.assert_close(got, expected)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(joined.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(joined.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_maps_have_their_channels_last(compiled):
    stage, x = Stage(SMALL, 4), torch.randn(2, 1, 7, 9)
    maps = stage(x, full(x, SMALL), halved=False, compiled=compiled)
    assert maps.is_contiguous(memory_format=torch.channels_last)


@needs_compiler
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize(
    ("kernels", "n_channels", "n_copies", "size"),
    [
        # channels on both sides of a vector's 4 to 16, shared by paths and not
        *((SMALL, n, copies, (7, 9)) for n, copies in ((1, 1), (3, 2), (5, 7))),
        (MACNN, 8, 1, (26, 63)),
        (MACNN, 8, 4, (5, 5)),
        (MACNN, 12, 3, (26, 10)),
        (LIGHT_SERNET, 32, 1, (40, 50)),
        (LIGHT_SERNET, 32, 2, (13, 1)),
        (LIGHT_SERNET, 17, 1, (1, 8)),
    ],
)
def test_compiled_form_equals_the_definition(kernels, n_channels, n_copies, size, halved, ragged):
    compiled = Stage(kernels, n_channels, n_copies).train()
    readable = copy.deepcopy(compiled).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 1, *size, generator=generator) * 3 + 2
    n_frames = full(x, kernels)
    if ragged:
        n_frames = torch.randint(1, int(n_frames[0]) + 1, (5,), generator=generator)
    for _ in range(2):  # the second step has moved statistics behind it
        got = compiled(x, n_frames, halved=halved, compiled=True)
        expected = readable(x.double(), n_frames, halved=halved, compiled=True)  # not in float64
        assert_near(got, expected, 1e-5)
        weight = torch.randn(expected.shape, generator=generator)
        (got * weight).sum().backward()
        (expected * weight).sum().backward()
    for (name, one), other in zip(compiled.named_parameters(), readable.parameters(), strict=True):
        if name.startswith("convs") and name.endswith("bias"):  # cancels in the norm
            assert torch.equal(one.grad, torch.zeros_like(one))
            assert other.grad.abs().max() < 1e-9 * weight.numel()
        else:
            assert_near(one.grad, other.grad, 1e-4)
    for one, other in zip(compiled.buffers(), readable.buffers(), strict=True):
        assert_near(one, other, 1e-5)
    with torch.no_grad():
        got = compiled.eval()(x, n_frames, halved=halved, compiled=True)
        expected = readable.eval()(x.double(), n_frames, halved=halved, compiled=True)
    assert_near(got, expected, 1e-5)


@needs_compiler
@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("n_channels", [5, 32])
def test_under_autocast_the_compiled_form_rounds_its_outputs_alone(n_channels, halved):
    stage = Stage(SMALL, n_channels)
    exact, x = copy.deepcopy(stage), torch.randn(3, 1, 7, 9)
    with torch.autocast("cpu", torch.bfloat16):
        got = stage(x, full(x, SMALL), halved=halved, compiled=True)
    expected = exact(x, full(x, SMALL), halved=halved, compiled=True)
    assert torch.equal(got, expected.bfloat16())
    weight = torch.randn(expected.shape).bfloat16()
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(stage.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = stage.eval()(x, full(x, SMALL), halved=halved, compiled=True)
    assert got.dtype == torch.bfloat16


@needs_compiler
def test_an_image_far_from_zero_leaves_statistics_and_gradients_exact():
    # Cepstra in decibels: the first coefficient is some hundreds below the others.
    compiled = Stage(MACNN, 8).train()
    readable = copy.deepcopy(compiled).double()
    x = torch.randn(8, 1, 26, 63)
    x[:, :, 0] -= 500
    for stage, image in ((compiled, x), (readable, x.double())):
        maps = stage(image, full(x, MACNN), halved=False, compiled=True)
        maps.square().sum().backward()
    for one, other in zip(compiled.buffers(), readable.buffers(), strict=True):
        assert_near(one, other, 1e-5)
    for one, other in zip(compiled.parameters(), readable.parameters(), strict=True):
        if other.grad.abs().max() > 1e-6:
            assert_near(one.grad, other.grad, 1e-3)


@needs_compiler
def test_a_stage_that_judged_first_is_trained_afterwards():
    first_stage._layout.cache_clear()
    stage, x = Stage(SMALL, 4).eval(), torch.randn(2, 1, 7, 9)
    with torch.inference_mode():
        stage(x, full(x, SMALL), halved=True, compiled=True)
    stage.train()(x, full(x, SMALL), halved=True, compiled=True).sum().backward()
    assert stage.convs[0].weight.grad is not None


@needs_compiler
def test_what_is_no_number_stays_none():
    stage, x = Stage(SMALL, 4), torch.randn(2, 1, 7, 9)
    x[1, 0, 3, 3] = float("nan")
    for training in (True, False):
        with torch.set_grad_enabled(training):
            maps = stage.train(training)(x, full(x, SMALL), halved=True, compiled=True)
        assert maps[1].isnan().any()


@needs_compiler
def test_gradients_in_evaluation_and_of_the_image_take_the_readable_form():
    stage, x = Stage(SMALL, 4).eval(), torch.randn(2, 1, 7, 9)
    maps = stage(x, full(x, SMALL), halved=True, compiled=True)
    maps.sum().backward()
    assert stage.convs[0].bias.grad.abs().max() > 0
    wanted = x.clone().requires_grad_()
    stage.train()(wanted, full(x, SMALL), halved=True, compiled=True).square().sum().backward()
    assert wanted.grad is not None
