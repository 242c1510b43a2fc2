"""TIM-Net's compiled training step against its definition, and how compiled parts are found."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.two_forms import assert_near, needs_compiler
from serkit.models import native, timnet_step
from serkit.models.timnet import TimNet, TimNetConfig


def twins(*, n_scales: int = 4, dropout: float = 0.0, width: int = 39) -> tuple[TimNet, TimNet]:
    """Build the same network twice: compiled in float32, readable in float64."""
    torch.manual_seed(0)
    config = TimNetConfig(
        n_classes=5, n_features=11, n_filters=width, n_scales=n_scales, dropout=dropout
    )
    compiled = TimNet(config).train()
    with torch.no_grad():
        for parameter in compiled.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases and norms away from 0 and 1
    readable = copy.deepcopy(compiled).double()
    for chain in (readable.forward_chain, readable.backward_chain):
        assert chain is not None
        assert chain.compiled
        chain.compiled = False
    return compiled, readable


def step(model: TimNet, features: Tensor, n_frames: Tensor) -> float:
    labels = torch.arange(len(features)) % 5
    dtype = model.head.weight.dtype
    logits = model(features.to(dtype), n_frames)["emotion"]
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    loss.backward()
    return loss.item()


@needs_compiler
@pytest.mark.parametrize(
    ("batch", "n_frames", "width"),
    # The largest dilation is 8: up to 8 frames the older tap sees nothing but zeros. Batches on
    # both sides of a vector's 4 to 16 lanes; widths on both sides of every register blocking.
    [
        *((1, 50, 39), (3, 1, 39), (3, 7, 5), (3, 8, 1), (17, 9, 39)),
        *((16, 40, 16), (33, 12, 30), (5, 13, 64), (64, 31, 39)),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_compiled_step_equals_the_definition(
    batch: int, n_frames: int, width: int, ragged: bool
) -> None:
    compiled, readable = twins(width=width)
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, n_frames, 11, generator=generator)
    lengths = torch.full((batch,), n_frames)
    if ragged:
        lengths = torch.randint(1, n_frames + 1, (batch,), generator=generator)
        features = features * (torch.arange(n_frames) < lengths.unsqueeze(1)).unsqueeze(2)
    losses = [step(model, features, lengths) for model in (compiled, readable)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name, ours), theirs in zip(
        compiled.named_parameters(), readable.parameters(), strict=True
    ):
        assert theirs.grad is not None
        gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
        assert_near(gradient, theirs.grad, 1e-3, name)
    for (name, ours), theirs in zip(compiled.named_buffers(), readable.buffers(), strict=True):
        assert_near(ours, theirs.double(), 1e-5, name)


@needs_compiler
@pytest.mark.parametrize(("batch", "n_frames", "width"), [(1, 50, 39), (33, 7, 30), (16, 1, 64)])
def test_compiled_evaluation_equals_the_definition(batch: int, n_frames: int, width: int) -> None:
    compiled, readable = twins(width=width)
    features = torch.randn(batch, n_frames, 11)
    for model in (compiled, readable):
        step(model, features, torch.full((batch,), n_frames))  # moves the running statistics
        model.eval()
    lengths = torch.randint(1, n_frames + 1, (batch,))
    with torch.no_grad():
        ours, theirs = compiled(features, lengths), readable(features.double(), lengths)
    for name in ("emotion", "embedding"):
        assert_near(ours[name], theirs[name], 1e-5, name)
    # With gradients wanted, evaluation takes the readable form, which gives them.
    assert compiled(features, lengths)["emotion"].requires_grad
    torch.testing.assert_close(compiled(features, lengths)["emotion"], ours["emotion"])


@needs_compiler
def test_a_mean_far_from_zero_leaves_the_variance_exact() -> None:
    compiled, readable = twins(n_scales=1)
    features = torch.randn(8, 60, 11) + 1000.0
    for model in (compiled, readable):
        step(model, features, torch.full((8,), 60))
    ours = compiled.forward_chain.blocks[0].first.norm.running_var
    theirs = readable.forward_chain.blocks[0].first.norm.running_var
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-4)


@needs_compiler
def test_weights_stay_together_over_fifty_steps() -> None:
    torch.manual_seed(3)
    compiled = TimNet(TimNetConfig(n_classes=5, n_scales=3, dropout=0.0)).train()
    readable = copy.deepcopy(compiled)
    for chain in (readable.forward_chain, readable.backward_chain):
        assert chain is not None
        chain.compiled = False
    models = (compiled, readable)
    # Not Adam: it divides by a gradient's size, so rounding of gradients near zero becomes steps of
    # full length; the readable form in float32 and in float64 then part by 5e-4 as well.
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    for _ in range(50):
        features, n_frames = torch.randn(20, 30, 39), torch.randint(5, 31, (20,))
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            step(model, features, n_frames)
            optimizer.step()
    cancelled = ".conv.bias"  # before batch norm: rounding noise in the one, zero in the other
    expected = readable.state_dict()
    for name, ours in compiled.state_dict().items():
        if not name.endswith(cancelled):
            theirs = expected[name]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


@needs_compiler
def test_only_convolution_biases_go_without_a_gradient() -> None:
    compiled, _ = twins()
    step(compiled, torch.randn(3, 20, 11), torch.full((3,), 20))
    without = {name for name, p in compiled.named_parameters() if p.grad is None}
    assert without == {
        f"{chain}.blocks.{depth}.{half}.conv.bias"
        for chain in ("forward_chain", "backward_chain")
        for depth in range(4)
        for half in ("first", "second")
    }


@needs_compiler
def test_a_step_that_was_propagated_back_lends_its_memory_to_the_next() -> None:
    compiled, _ = twins()
    features, n_frames = torch.randn(3, 20, 11), torch.full((3,), 20)
    first = compiled(features, n_frames)["emotion"].sum()
    second = compiled(2 * features, n_frames)["emotion"].sum()
    first.backward(retain_graph=True)
    once = compiled.head.weight.grad.clone()
    with pytest.raises(RuntimeError, match="once only"):
        first.backward()
    second.backward()  # was not overwritten by the first
    assert torch.isfinite(compiled.head.weight.grad - once).all()
    loans = sum(map(len, compiled.forward_chain._workspace._free.values()))
    step(compiled, features, n_frames)
    assert sum(map(len, compiled.forward_chain._workspace._free.values())) == loans


@needs_compiler
def test_a_gradient_for_the_input_takes_the_readable_form() -> None:
    compiled, readable = twins()
    features = torch.randn(3, 20, 11)
    gradients = []
    for model in (compiled, readable):
        x = features.to(model.head.weight.dtype, copy=True).requires_grad_()
        step(model, x, torch.tensor([20, 5, 13]))
        gradients.append(x.grad)
    assert_near(gradients[0], gradients[1], 1e-3, "features")


def test_diverged_weights_give_a_loss_that_is_not_a_number() -> None:
    compiled, _ = twins()
    with torch.no_grad():
        compiled.forward_chain.blocks[1].first.conv.weight[0, 0, 0] = math.nan
    assert math.isnan(step(compiled, torch.randn(3, 20, 11), torch.full((3,), 20)))


@pytest.mark.parametrize("compiled", [True, False])
def test_dropout_silences_whole_channels_of_single_utterances(compiled: bool) -> None:
    p, n_frames = 0.3, 60
    torch.manual_seed(0)
    chain = TimNet(TimNetConfig(dropout=p, n_scales=1)).train().forward_chain
    chain.compiled = compiled
    silent = []
    for _ in range(30):
        x = torch.randn(16, n_frames, 39)
        pooled = chain(x, torch.full((16,), n_frames))[:, 0]
        # A silenced channel leaves half of what it gates, in every frame.
        half = chain.entry(x.transpose(1, 2)).mean(2) / 2
        silent.append((pooled - half).abs() < 1e-5)
    fraction = torch.stack(silent).double().mean().item()
    assert fraction == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / (30 * 16 * 39)))


@needs_compiler
def test_compiled_and_readable_dropout_have_the_same_statistics() -> None:
    compiled, readable = twins(n_scales=2, dropout=0.2)
    features, n_frames = torch.randn(48, 12, 11), torch.full((48,), 12)
    moments = []
    for model in (compiled, readable):
        torch.manual_seed(1)
        with torch.no_grad():
            x = features.to(model.head.weight.dtype)
            drawn = torch.stack([model(x, n_frames)["embedding"] for _ in range(50)]).double()
        moments.append((drawn.mean((0, 1)), drawn.std(0).mean(0)))
    (mean_compiled, std_compiled), (mean_readable, std_readable) = moments
    error = std_readable / math.sqrt(50 * 48)
    assert ((mean_compiled - mean_readable).abs() < 6 * error).all()
    torch.testing.assert_close(std_compiled, std_readable, rtol=0.1, atol=0)


@needs_compiler
def test_layout_and_back() -> None:
    x = 1 + torch.arange(17 * 3 * 2, dtype=torch.float32).view(17, 3, 2)
    tiles = timnet_step.to_tiles(x)
    n_tiles, n_frames, n_channels, n_lanes = tiles.shape
    assert (n_tiles, n_frames, n_channels) == (-(-17 // n_lanes), 3, 2)
    back = tiles.permute(0, 3, 1, 2).flatten(0, 1)
    assert torch.equal(back[:17], x)
    assert not back[17:].any()
    assert int(timnet_step.Layout.of(torch.full((17,), 3)).valid.sum()) == 17


# How compiled parts are found


@pytest.fixture
def fresh_home(tmp_path, monkeypatch):
    """An empty cache folder, and no part loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (native.load_native, native._folder):
        function.cache_clear()
    yield tmp_path
    for function in (native.load_native, native._folder):
        function.cache_clear()


def test_parts_can_be_switched_off_and_the_network_trains_all_the_same(
    fresh_home, monkeypatch
) -> None:
    monkeypatch.setenv("SERKIT_NATIVE", "0")
    assert native.compiler() is None
    assert not timnet_step.available()
    compiled, _ = twins()
    assert math.isfinite(step(compiled, torch.randn(3, 20, 11), torch.full((3,), 20)))


def test_a_compiler_that_fails_leaves_the_readable_form(fresh_home, monkeypatch) -> None:
    broken = fresh_home / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert not timnet_step.available()
    assert not list(fresh_home.rglob("*.part"))


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_used(fresh_home) -> None:
    folder = fresh_home / "serkit" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    used = native._folder()
    assert used != folder
    used.rmdir()
    native._folder.cache_clear()
    folder.chmod(0o700)
    assert native._folder() == folder


@needs_compiler
def test_a_part_is_compiled_anew_when_a_header_changes(fresh_home, monkeypatch) -> None:
    monkeypatch.setattr(native, "__file__", str(fresh_home / "native.py"))
    part, header = fresh_home / "part.cpp", fresh_home / "number.h"
    part.write_text('#include "number.h"\nextern "C" int number() { return NUMBER; }\n')
    for number in (1, 2):
        header.write_text(f"#define NUMBER {number}\n")
        native.load_native.cache_clear()
        assert native.load_native("part.cpp").number() == number


@needs_compiler
@pytest.mark.slow
def test_processes_that_compile_at_once_end_with_one_file(fresh_home) -> None:
    code = "from serkit.models import timnet_step; assert timnet_step.available()"
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert len(list(fresh_home.rglob("*.so"))) == 1
    assert not list(fresh_home.rglob("*.part"))
