"""Losses, weight penalties and gradients of the published systems, on their networks."""

import pytest
import torch

from models.test_light_sernet import CONFIGS as LIGHT_SERNET
from models.test_light_sernet import filled, our_tensor
from serkit.models.expert_fusion import published_settings
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.objectives import (
    Penalty,
    Term,
    penalised_parameters,
    total_loss,
    with_penalties,
)

KERNELS = "stages.[1-5].conv.weight"  # of stages 2 to 6
PORT = {
    "lsn_port_baseline": None,
    "lsn_port_x4": -1,
    "lsn_port_moe_0": 0,
    "lsn_port_moe_1": 1,
    "lsn_port_moe_-7": -7,
}


def recognizer(n_classes: int, n_mfcc: int, **model) -> Recognizer:
    return Recognizer(
        RecognizerConfig(
            system="test",
            classes=tuple(f"class{i}" for i in range(n_classes)),
            view={"kind": "fixed", "n_samples": 32000},
            front_end={"name": "mfcc", "preset": "librosa-default", "n_mfcc": n_mfcc},
            model={"dropout": 0.0} | model,
        )
    )


@pytest.mark.parametrize("name", PORT)
def test_the_ports_total_is_main_and_experts_and_the_norm_of_every_experts_kernels(
    name, moe_goldens
):
    golden = moe_goldens.CONFIGS[name]
    settings = published_settings("light_sernet_port", PORT[name])
    ours = recognizer(4, 26, name="expert_fusion", **settings)
    moe_goldens.fill(ours.model, golden, torch.float64).train()
    features, n_frames = moe_goldens.golden_input(golden["input_shape"])
    outputs = ours.model(features.double(), n_frames)
    terms = [Term(), Term(output="experts", loss="bce")]
    batch = {"emotion": torch.tensor(golden["labels"])}
    loss, _ = total_loss(outputs, batch, terms[: 1 + ("experts" in outputs)])
    penalty = Penalty(parameters=KERNELS, kind="norm", weight=1e-6)
    found = penalised_parameters(ours, [penalty])
    total = with_penalties(loss, dict(ours.named_parameters()), found)
    expected = golden["train"]
    assert total.item() == pytest.approx(expected["loss_plus_1e-6_l2"], rel=2e-6)
    assert (total - loss).item() == pytest.approx(1e-6 * expected["l2_sum_of_norms"], rel=1e-5)


@pytest.mark.parametrize("name", LIGHT_SERNET)
@pytest.mark.parametrize(
    ("loss", "total", "column"), [("cross_entropy", "ce_plus_l2", 3), ("focal", "focal_plus_l2", 4)]
)
def test_light_sernets_total_and_its_gradients_are_the_authors(name, loss, total, column, goldens):
    golden = LIGHT_SERNET[name]
    ours = recognizer(golden["classes"], 40, name="light_sernet").double()
    network, features, n_frames = filled(golden, goldens, torch.float64)
    ours.model.load_state_dict(network.state_dict())
    outputs = ours.model.train()(features, n_frames)
    batch = {"emotion": torch.tensor(golden["labels"])}
    value, _ = total_loss(outputs, batch, [Term(loss=loss)])
    found = penalised_parameters(ours, [Penalty(parameters=KERNELS, weight=1e-6)])
    value = with_penalties(value, dict(ours.named_parameters()), found)
    assert value.item() == pytest.approx(golden["train"][total], rel=1e-6)
    value.backward()
    for row in golden["tensors"]:
        if not row[0].endswith((".mean", ".var")):
            gradient = our_tensor(ours.model, row[0]).grad.norm().item()
            assert gradient == pytest.approx(row[column], rel=1e-5, abs=1e-5), row[0]
