"""Mixtures of experts against the public implementation and against their backbones."""

import pytest
import torch
import torch.nn.functional as F

from serkit.models import build_model
from serkit.models.expert_fusion import (
    ExpertFusionConfig,
    FusionNet,
    join_experts,
    published_settings,
    split_experts,
)
from serkit.models.light_sernet import LightSernet, LightSernetConfig
from serkit.models.light_sernet_port import LightSernetPort, LightSernetPortConfig
from serkit.models.macnn import Macnn, MacnnConfig
from serkit.types import InputError

PREFIX = {"macnn": "macnn_moe", "light_sernet_port": "lsn_port_moe"}
LEVELS = {"macnn": [*range(7), *range(-7, -1)], "light_sernet_port": [0, 1, 3, 6, -7, -4, -2]}
GOLDEN = {
    f"{PREFIX[backbone]}_{level}": published_settings(backbone, level)
    for backbone in PREFIX
    for level in LEVELS[backbone]
} | {
    f"{PREFIX[backbone]}_{level}_fc": published_settings(backbone, level, final_layer=True)
    for backbone, level in (("macnn", 0), ("macnn", 3), ("light_sernet_port", 0))
}
GOLDEN |= {
    "macnn_baseline": published_settings("macnn", None),
    "macnn_ravdess8": published_settings("macnn", None) | {"n_classes": 8},
    "macnn_x4": published_settings("macnn", -1),
    "lsn_port_baseline": published_settings("light_sernet_port", None),
    "lsn_port_x4": published_settings("light_sernet_port", -1),
}

# Level: parameters with MACNN, with the port.
PARAMETERS = {
    None: (155_636, 423_876),
    -1: (618_468, 1_687_428),
    0: (621_764, 1_691_652),
    1: (620_756, 1_688_004),
    2: (606_644, 1_632_324),
    3: (564_740, 1_465_860),
    4: (481_220, 1_133_316),
    5: (342_260, 579_396),
    6: (155_636, 423_876),
    -7: (622_532, 1_695_492),
    -6: (619_460, 1_689_732),
    -5: (434_420, 1_535_172),
    -4: (295_604, 981_444),
    -3: (212_228, 649_092),
    -2: (170_468, 482_820),
}


def fusion(**settings) -> FusionNet:
    torch.manual_seed(0)
    return FusionNet(ExpertFusionConfig(**{"dropout": 0.0} | settings))


def backbone_of(name: str, n_classes: int, **settings):
    torch.manual_seed(0)
    if name == "macnn":
        return Macnn(MacnnConfig(n_classes=n_classes, **settings))
    if name == "light_sernet":
        return LightSernet(LightSernetConfig(n_classes=n_classes, **{"dropout": 0.0} | settings))
    return LightSernetPort(LightSernetPortConfig(n_classes=n_classes, dropout=0.0, **settings))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 20, 26, generator=generator), torch.tensor([20, 7, 13])


def n_parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def move_statistics(model):
    """Give batch norm statistics that differ from channel to channel."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if buffer.ndim:
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(0.2 * noise if name.endswith("mean") else 0.5 + noise)
    return model.eval()


def test_every_golden_network_is_tested(moe_goldens):
    assert sorted(GOLDEN) == sorted(moe_goldens.CONFIGS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_evaluation_equals_the_public_network(name, dtype, moe_goldens):
    model = fusion(**GOLDEN[name])
    moe_goldens.assert_evaluation_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", GOLDEN)
def test_training_step_equals_the_public_network(name, dtype, moe_goldens):
    model = fusion(**GOLDEN[name])
    moe_goldens.assert_training_step_is_golden(model, moe_goldens.CONFIGS[name], dtype)


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_of_the_public_networks(name, moe_goldens):
    expected = moe_goldens.CONFIGS[name]["parameters_trainable"]
    assert n_parameters(fusion(**GOLDEN[name])) == expected


@pytest.mark.parametrize("level", PARAMETERS)
def test_parameters_by_level(level):
    counts = tuple(n_parameters(fusion(**published_settings(name, level))) for name in PREFIX)
    assert counts == PARAMETERS[level]


@pytest.mark.parametrize(
    ("backbone", "level", "expected"),
    [
        ("macnn", 0, 20),
        ("macnn", 3, 16),
        ("light_sernet_port", 0, 20),
        ("light_sernet_port", 2, 20),
    ],
)
def test_final_layer_adds_few_parameters(backbone, level, expected):
    with_layer = fusion(**published_settings(backbone, level, final_layer=True))
    without = fusion(**published_settings(backbone, level))
    assert n_parameters(with_layer) - n_parameters(without) == expected


@pytest.mark.parametrize("level", range(7))
@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port", "light_sernet"])
def test_experts_side_by_side_equal_experts_one_by_one(backbone, level):
    model = move_statistics(fusion(**published_settings(backbone, level)))
    features, n_frames = batch()
    together = model(features, n_frames)["experts"]
    alone = []
    for state in split_experts(model):
        expert = backbone_of(backbone, 1)
        expert.load_state_dict(state)
        alone.append(expert.eval()(features, n_frames)["emotion"])
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"merge_at": 4}, {"share_until": 2}, {"head": "mixer"}, {}])
def test_splitting_and_joining_experts_loses_nothing(settings):
    model = move_statistics(fusion(**settings))
    again = fusion(**settings)
    torch.nn.init.ones_(again.stages[2].conv.weight)
    join_experts(again, split_experts(model))
    expected = model.state_dict()
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


def test_experts_that_do_not_belong_together_are_refused():
    model = fusion(share_until=2)
    states = split_experts(model)
    with pytest.raises(InputError, match="got weights of 3 experts, expected 4"):
        join_experts(model, states[:3])
    states[1]["stages.0.conv_a.weight"] += 1
    with pytest.raises(InputError, match=r"differ in 'stages\.0\.conv_a\.weight'.*share fewer"):
        join_experts(model, states)
    states[2]["mixer.weight"] = torch.zeros(4, 4)
    with pytest.raises(InputError, match=r"expert 2 has unknown entry 'mixer\.weight'"):
        join_experts(model, states)
    del states[0]["stages.4.norm.bias"]
    with pytest.raises(InputError, match=r"expert 0 has no entry 'stages\.4\.norm\.bias'"):
        join_experts(model, states)


@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port"])
def test_level_6_is_the_backbone(backbone):
    single = move_statistics(backbone_of(backbone, 4))
    model = fusion(**published_settings(backbone, 6)).eval()
    model.load_state_dict(single.state_dict())  # the rows of one classifier, one per expert
    features, n_frames = batch()
    expected = single(features, n_frames)["emotion"]
    torch.testing.assert_close(model(features, n_frames)["emotion"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port", "light_sernet"])
@pytest.mark.parametrize("merge_at", range(2, 8))
def test_one_merged_expert_is_the_backbone(backbone, merge_at):
    single = move_statistics(backbone_of(backbone, 4))
    model = fusion(backbone=backbone, n_experts=1, merge_at=merge_at).eval()
    model.load_state_dict(single.state_dict())
    features, n_frames = batch()
    expected = single(features, n_frames)["emotion"]
    assert torch.equal(model(features, n_frames)["emotion"], expected)


@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port"])
@pytest.mark.parametrize("level", range(-7, -1))
def test_merging_experts_that_are_alike_is_the_backbone(backbone, level):
    single = move_statistics(backbone_of(backbone, 4))
    settings = published_settings(backbone, level) | {"sigmoid_embedding": False}
    model = fusion(**settings).eval()
    state = single.state_dict()
    widened = f"stages.{-level - 1}.conv.weight"
    states = []
    for _ in range(4):
        states.append(dict(state))
        # Four times the same channels, each with a quarter of the weight.
        states[-1][widened] = torch.cat([state[widened] / 4] * 4, dim=1)
    join_experts(model, states)
    features, n_frames = batch()
    expected = single(features, n_frames)["emotion"]
    got = model(features, n_frames)["emotion"]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port"])
def test_experts_that_are_alike_say_the_same(backbone):
    model = fusion(backbone=backbone)
    join_experts(model, [move_statistics(backbone_of(backbone, 1)).state_dict()] * 4)
    logits = model.eval()(*batch())["experts"]
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 4))


@pytest.mark.parametrize("n_classes", [2, 7, 8])
@pytest.mark.parametrize("settings", [{}, {"share_until": 4}, {"merge_at": 5, "n_experts": 3}])
def test_any_number_of_classes(n_classes, settings):
    model = fusion(n_classes=n_classes, **settings)
    out = model(*batch())
    assert out["emotion"].shape == (3, n_classes)
    assert ("experts" in out) == ("merge_at" not in settings)
    if "experts" in out:
        assert out["experts"].shape == (3, n_classes)


def test_hourglass_shares_splits_and_merges():
    model = fusion(share_until=2, merge_at=5, n_experts=3).train()
    assert model.copies == [(1, 1), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1), (1, 1)]
    out = model(*batch())
    assert "experts" not in out
    F.cross_entropy(out["emotion"], torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("backbone", ["macnn", "light_sernet_port", "light_sernet"])
@pytest.mark.parametrize("level", [0, 3, -4])
def test_padding_changes_nothing_in_evaluation(backbone, level):
    model = move_statistics(fusion(**published_settings(backbone, level)))
    features, n_frames = batch()
    together = model(features, n_frames)["emotion"]
    for row, n in enumerate(n_frames.tolist()):
        alone = model(features[row : row + 1, :n], n_frames[row : row + 1])["emotion"]
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share_until": 7, "merge_at": 7}, r"share_until = 7: .*nothing can be merged or mixed"),
        ({"share_until": 7, "head": "mixer"}, r"share_until = 7: .*nothing can be merged or mixed"),
        ({"share_until": 3, "merge_at": 4}, r"merge_at = 4: no stage is left .*at 5 or later"),
        ({"head": "mixer", "merge_at": 4}, r"head = 'mixer': .*no logits to mix"),
        ({"n_experts": 3}, r"n_experts = 3: .*expected 4; leave n_experts out"),
        ({"merge_at": 1}, r"merge_at = 1: input should be greater than or equal to 2"),
        ({"backbone": "macmm"}, r"backbone = \"macmm\": input should be 'macnn', "),
    ],
)
def test_contradictory_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_model("expert_fusion", settings)


@pytest.mark.parametrize("level", [7, 22, -8])
def test_unknown_levels_are_refused(level):
    with pytest.raises(InputError, match=f"fusion level is {level}, expected 0 .*-7 to -2"):
        published_settings("macnn", level)


@pytest.mark.parametrize("level", [None, -1, -4])
def test_final_layer_needs_experts(level):
    with pytest.raises(InputError, match=f"fusion level {level} has no final layer"):
        published_settings("macnn", level, final_layer=True)
