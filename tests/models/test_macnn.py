"""MACNN against the public implementation (golden numbers) and against its own properties."""

import pytest
import torch

from serkit.models import build_model
from serkit.models.macnn import HeadFusion, Macnn, MacnnConfig
from serkit.types import InputError

GOLDEN = {
    "macnn_baseline": MacnnConfig(),
    "macnn_ravdess8": MacnnConfig(n_classes=8),
    "macnn_x4": MacnnConfig(width=2),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_evaluation_equals_the_public_network(name, dtype, moe_goldens):
    model = Macnn(GOLDEN[name])
    moe_goldens.assert_evaluation_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_training_step_equals_the_public_network(name, dtype, moe_goldens):
    model = Macnn(GOLDEN[name])
    moe_goldens.assert_training_step_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MacnnConfig(), 155_636),
        (MacnnConfig(n_classes=8), 155_896),
        (MacnnConfig(width=2), 618_468),
        (MacnnConfig(n_features=39), 155_636),
    ],
)
def test_parameter_counts_are_the_published_ones(config, expected):
    assert sum(p.numel() for p in Macnn(config).parameters()) == expected


def test_shapes_of_the_stages_are_those_of_the_paper():
    x, n_frames = torch.zeros(2, 1, 26, 63), torch.tensor([63, 63])
    shapes = []
    for stage in Macnn(MacnnConfig()).stages:
        x, n_frames = stage(x, n_frames)
        shapes.append(tuple(x.shape[1:]))
    maps = [(16, 25, 62), (32, 12, 31), (48, 6, 15), (64, 6, 15), (80, 6, 15)]
    assert shapes == [*maps, (64,), (4,)]
    assert n_frames.tolist() == [15, 15]


def test_heads_joined_along_an_axis_of_places_are_the_mean_of_heads():
    torch.manual_seed(0)
    stage = HeadFusion(5, n_heads=3, n_hidden=4)
    x = torch.randn(2, 5, 6, 7)
    parts = stage.conv(x).unflatten(1, (3, 3, 4))
    heads = []
    for head in parts.unbind(1):
        query, key, value = head.unbind(1)
        heads.append(torch.softmax(query * key, 1) * value)  # over channels
    joined = torch.relu(torch.cat(heads, dim=2)).mean((2, 3))
    torch.testing.assert_close(stage(x, torch.tensor([7, 7]))[0], joined)


def test_utterance_of_two_frames_counts_as_five():
    torch.manual_seed(0)
    model = Macnn(MacnnConfig()).eval()
    features = torch.randn(1, 2, 26)
    padded = torch.cat([features, torch.zeros(1, 3, 26)], dim=1)
    short = model(features, torch.tensor([2]))["emotion"]
    torch.testing.assert_close(short, model(padded, torch.tensor([5]))["emotion"])


def test_padding_may_hold_anything():
    torch.manual_seed(0)
    model = Macnn(MacnnConfig()).eval()
    features, n_frames = torch.randn(2, 30, 26), torch.tensor([30, 17])
    expected = model(features, n_frames)["emotion"]
    features[1, 17:] = torch.nan
    torch.testing.assert_close(model(features, n_frames)["emotion"], expected)


def test_front_ends_too_narrow_for_the_pools_are_refused():
    with pytest.raises(InputError, match=r"model\.n_features = 4: input should be .* equal to 5"):
        build_model("macnn", {"n_features": 4})
