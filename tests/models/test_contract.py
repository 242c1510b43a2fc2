"""Every model keeps the contract; TIM-Net's two forms of a training step are one."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from serkit import models
from serkit.models import MODELS, build_model
from serkit.models.timnet import TimNet, TimNetConfig
from serkit.types import InputError

# Parts of models, and importers of other programs' weights.
_HELPERS = {"__init__", "layers", "fused_tab", "timnet_keras"}

ASSERTIONS = (
    "assert_header",
    "assert_config_survives",
    "assert_outputs",
    "assert_every_parameter_learns",
    "assert_padding_is_inert",
    "assert_batch_is_inert",
    "assert_memorizes",
)


@pytest.mark.parametrize("assertion", ASSERTIONS)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_keeps_the_contract(name: str, assertion: str, contract: ModuleType) -> None:
    getattr(contract, assertion)(name)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_survives_a_checkpoint(name: str, contract: ModuleType, tmp_path: Path) -> None:
    contract.assert_checkpoint_survives(name, tmp_path)


def test_every_file_in_models_is_listed() -> None:
    folder = Path(models.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - _HELPERS
    homes = {model.__module__.rpartition(".")[2] for model, _ in MODELS.values()}
    missing = sorted(files - homes)
    assert not missing, (
        f"{missing[0]}.py is in serkit/models but no model of it is in the dict: add "
        f'"{missing[0]}": (Model, ModelConfig) to MODELS in serkit/models/__init__.py'
    )
    assert homes <= files


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.name is 'timnot', expected one of .*timnet"):
        build_model("timnot", {})
    with pytest.raises(InputError, match=r"model\.depth: unknown setting; .*n_scales"):
        build_model("timnet", {"depth": 8})


# TIM-Net: the step written for the CPU and the step written to be read


def twins(*, n_scales: int = 4, dropout: float = 0.0) -> tuple[TimNet, TimNet]:
    """Build the same network twice, one for each form of the step, in float64."""
    torch.manual_seed(0)
    config = TimNetConfig(n_classes=5, n_scales=n_scales, dropout=dropout)
    fused = TimNet(config).double().train()
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases and norms away from 0 and 1
    readable = copy.deepcopy(fused)
    assert fused.backward_chain is not None
    assert readable.backward_chain is not None
    assert fused.forward_chain.fused
    assert fused.backward_chain.fused
    readable.forward_chain.fused = readable.backward_chain.fused = False
    return fused, readable


def step(model: TimNet, features: Tensor, n_frames: Tensor) -> float:
    labels = torch.arange(len(features)) % 5
    loss = F.cross_entropy(model(features, n_frames)["emotion"], labels, label_smoothing=0.1)
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(
    ("batch", "n_frames"),
    # The largest dilation is 8: from 1 to 8 frames the older tap sees nothing but zeros.
    [(1, 50), (2, 1), (1, 2), (3, 7), (3, 8), (3, 9), (8, 40), (64, 12)],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_fused_and_readable_steps_are_equal(batch: int, n_frames: int, ragged: bool) -> None:
    fused, readable = twins()
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, n_frames, 39, generator=generator, dtype=torch.float64)
    lengths = torch.full((batch,), n_frames)
    if ragged:
        lengths = torch.randint(1, n_frames + 1, (batch,), generator=generator)
        features = features * (torch.arange(n_frames) < lengths.unsqueeze(1)).unsqueeze(2)
    losses = [step(model, features, lengths) for model in (fused, readable)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    for (name, ours), theirs in zip(fused.named_parameters(), readable.parameters(), strict=True):
        assert theirs.grad is not None
        gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
        torch.testing.assert_close(gradient, theirs.grad, rtol=1e-7, atol=1e-10, msg=name)
    for (name, ours), theirs in zip(fused.named_buffers(), readable.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12, msg=name)


def test_fused_and_readable_gradients_reach_the_input_alike() -> None:
    fused, readable = twins()
    features = torch.randn(3, 20, 39, dtype=torch.float64)
    gradients = []
    for model in (fused, readable):
        x = features.clone().requires_grad_()
        step(model, x, torch.tensor([20, 5, 13]))
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-12)


def test_only_convolution_biases_go_without_a_gradient_in_the_fused_step() -> None:
    fused, readable = twins()
    for model in (fused, readable):
        step(model, torch.randn(3, 20, 39, dtype=torch.float64), torch.full((3,), 20))
    without = {name for name, p in fused.named_parameters() if p.grad is None}
    assert without == {
        f"{chain}.blocks.{depth}.{half}.conv.bias"
        for chain in ("forward_chain", "backward_chain")
        for depth in range(4)
        for half in ("first", "second")
    }
    cancelled = [p.grad.abs().max() for n, p in readable.named_parameters() if n in without]
    assert max(cancelled) < 1e-12


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_masks_of_the_fused_step_keep_the_mean(p: float) -> None:
    torch.manual_seed(0)
    half = TimNet(TimNetConfig(dropout=p)).forward_chain.blocks[0].first
    masks = torch.stack([half.fused_arguments(64)[3] for _ in range(40)])
    assert masks.shape == (40, 39, 64)  # one factor per channel and utterance, none per frame
    assert masks.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    spread = 4 / math.sqrt(masks.numel())  # four standard errors of a fraction, at most
    assert (masks == 0).double().mean().item() == pytest.approx(p, abs=spread / 2)
    assert masks.double().mean().item() == pytest.approx(1, abs=spread * math.sqrt(p / (1 - p)))
    assert (masks[0] != masks[1]).any()
    assert half.fused_arguments(64)[3] is not half.fused_arguments(64)[3]


def test_no_dropout_needs_no_mask() -> None:
    half = TimNet(TimNetConfig(dropout=0.0)).forward_chain.blocks[0].first
    assert half.fused_arguments(8)[3] is None


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_silences_whole_channels_of_single_utterances(fused: bool) -> None:
    p, n_frames = 0.3, 60
    torch.manual_seed(0)
    chain = TimNet(TimNetConfig(dropout=p, n_scales=1)).train().forward_chain
    chain.fused = fused
    silent, open_share = [], []
    for _ in range(30):
        x = torch.randn(16, 39, n_frames)
        (out,) = chain(x)
        # A silenced channel leaves half of what it gates, in every frame.
        closed = (out / chain.entry(x) - 0.5).abs() < 1e-4
        silent.append(closed.all(2))
        open_share.append(1 - closed.double().mean(2)[~silent[-1]].mean())
    fraction = torch.stack(silent).double().mean().item()
    assert fraction == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / (30 * 16 * 39)))
    # Elsewhere the ReLU, whose input batch norm has centred, is open in half of the frames.
    assert torch.stack(open_share).mean().item() == pytest.approx(0.5, abs=0.05)


def test_fused_and_readable_dropout_have_the_same_statistics() -> None:
    fused, readable = twins(n_scales=2, dropout=0.2)
    features, n_frames = torch.randn(48, 12, 39, dtype=torch.float64), torch.full((48,), 12)
    moments = []
    for model in (fused, readable):
        torch.manual_seed(1)
        with torch.no_grad():
            drawn = torch.stack([model(features, n_frames)["embedding"] for _ in range(50)])
        moments.append((drawn.mean((0, 1)), drawn.std(0).mean(0)))
    (mean_fused, std_fused), (mean_readable, std_readable) = moments
    error = std_readable / math.sqrt(50 * 48)
    assert ((mean_fused - mean_readable).abs() < 6 * error).all()
    torch.testing.assert_close(std_fused, std_readable, rtol=0.1, atol=0)
