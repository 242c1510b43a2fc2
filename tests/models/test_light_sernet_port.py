"""The port of Light-SERNet against the public one (golden numbers) and its own properties."""

import pytest
import torch

from serkit.models.light_sernet_port import LightSernetPort, LightSernetPortConfig

GOLDEN = {
    "lsn_port_baseline": LightSernetPortConfig(dropout=0.0),
    "lsn_port_x4": LightSernetPortConfig(dropout=0.0, width=2),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_evaluation_equals_the_public_network(name, dtype, moe_goldens):
    model = LightSernetPort(GOLDEN[name])
    moe_goldens.assert_evaluation_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_training_step_equals_the_public_network(name, dtype, moe_goldens):
    model = LightSernetPort(GOLDEN[name])
    moe_goldens.assert_training_step_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize(("width", "expected"), [(1, 423_876), (2, 1_687_428)])
def test_parameter_counts_are_the_published_ones(width, expected):
    model = LightSernetPort(LightSernetPortConfig(width=width))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_shapes_of_the_stages_are_those_of_the_port():
    x, n_frames = torch.zeros(2, 1, 26, 63), torch.tensor([63, 63])
    shapes = []
    for stage in LightSernetPort(LightSernetPortConfig()).stages:
        x, n_frames = stage(x, n_frames)
        shapes.append(tuple(x.shape[1:]))
    maps = [(n, 15, 102) for n in (32, 64, 96, 128, 160)]
    assert shapes == [*maps, (320,), (4,)]
    assert n_frames.tolist() == [104, 104]
