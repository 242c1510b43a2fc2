"""TIM-Net against the authors' implementation (golden numbers) and against its own properties."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from serkit.models.timnet import TimNet, TimNetConfig


@pytest.fixture(params=["emodb_188x39_n8_c7", "iemocap_606x39_n10_c4"])
def golden(request, goldens):
    return goldens.CONFIGS[request.param]


def test_every_golden_network_is_tested(goldens):
    assert sorted(goldens.CONFIGS) == ["emodb_188x39_n8_c7", "iemocap_606x39_n10_c4"]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_evaluation_equals_the_authors_network(golden, goldens, dtype, tolerance):
    model = goldens.golden_model(golden, dtype).eval()
    x = goldens.golden_input(golden["input_shape"]).to(dtype)
    with torch.no_grad():
        out = model(x, torch.full((len(x),), x.shape[1]))
    for name, key in (("emotion", "logits"), ("embedding", "embedding")):
        expected = torch.tensor(golden["eval"][key], dtype=dtype)
        error = (out[name] - expected).abs().max() / expected.abs().max()
        assert error < tolerance, name


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_training_step_equals_the_authors_network(golden, goldens, dtype, tolerance, compiled):
    model = goldens.golden_model(golden, dtype).train()
    model.forward_chain.compiled = model.backward_chain.compiled = compiled
    x = goldens.golden_input(golden["input_shape"]).to(dtype)
    labels = torch.tensor(golden["labels"])
    logits = model(x, torch.full((len(x),), x.shape[1]))["emotion"]
    hard = F.cross_entropy(logits, labels)
    loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert loss.item() == pytest.approx(golden["train"]["loss_smoothed_0p1"], rel=tolerance)
    assert hard.item() == pytest.approx(golden["train"]["loss_hard_labels"], rel=tolerance)
    loss.backward()
    n = x.shape[0] * x.shape[1]
    for k, (role, shape, _, last) in enumerate(golden["tensors"]):
        tensor = goldens.our_tensor(model, role)
        if role.endswith(".mean"):
            torch.testing.assert_close(
                tensor[:3].double(), torch.tensor(last, dtype=torch.float64), rtol=1e-4, atol=1e-6
            )
        elif role.endswith(".var"):
            # Keras keeps the population variance, torch the sample variance.
            old = goldens.golden_fill(k, role, shape).to(dtype)
            population = 0.99 * old + (tensor - 0.99 * old) * (n - 1) / n
            torch.testing.assert_close(
                population[:3].double(),
                torch.tensor(last, dtype=torch.float64),
                rtol=1e-4,
                atol=1e-6,
            )
        else:
            gradient = 0.0 if tensor.grad is None else tensor.grad.norm().item()
            relative = max(tolerance * 10, 1e-6)
            assert gradient == pytest.approx(last, rel=relative, abs=1e-5), role


@pytest.mark.parametrize(
    ("n_classes", "n_scales", "expected"),
    [(7, 8, 106_992), (6, 8, 106_952), (8, 8, 107_032), (4, 10, 132_770)],
)
def test_parameter_counts_are_the_published_ones(n_classes, n_scales, expected):
    model = TimNet(TimNetConfig(n_classes=n_classes, n_scales=n_scales))
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    trainable = sum(p.numel() for p in model.parameters())
    assert trainable + statistics == expected
    assert statistics == 2 * n_scales * 2 * 78


def small(**changes) -> TimNet:
    torch.manual_seed(0)
    settings = {"n_features": 5, "n_filters": 6, "n_classes": 3, "n_scales": 3} | changes
    return TimNet(TimNetConfig(**settings)).eval()


def test_gate_lies_between_one_half_and_one():
    model = small()
    x = torch.randn(2, 5, 30)
    entry = model.forward_chain.entry(x)
    for depth, out in enumerate(model.forward_chain.outputs(x.transpose(1, 2))):
        ratio = (out / entry)[entry.abs() > 1e-3]
        assert (ratio >= 2.0 ** -(depth + 1) - 1e-5).all()
        assert (ratio < 1.0).all()


def test_forward_chain_is_causal():
    model = small()
    x = torch.randn(1, 40, 5)
    y = x.clone()
    y[:, 25] += 1
    chain = model.forward_chain
    for a, b in zip(chain.outputs(x), chain.outputs(y), strict=True):
        assert torch.equal(a[:, :, :25], b[:, :, :25])
        assert not torch.equal(a[:, :, 25:], b[:, :, 25:])


def test_reversing_time_and_swapping_chains_changes_nothing():
    model = small()
    x, n = torch.randn(2, 20, 5), torch.tensor([20, 20])
    before = model(x, n)["emotion"]
    model.forward_chain, model.backward_chain = model.backward_chain, model.forward_chain
    torch.testing.assert_close(model(x.flip(1), n)["emotion"], before)


@pytest.mark.parametrize("fusion", ["learned", "mean", "last", "softmax", "attention"])
@pytest.mark.parametrize("block", ["tab", "tcn"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_ablations_train(fusion, block, bidirectional):
    model = small(fusion=fusion, block=block, bidirectional=bidirectional).train()
    out = model(torch.randn(4, 12, 5), torch.full((4,), 12))["emotion"]
    F.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
    # The bias of a convolution before batch norm cancels: the compiled step gives it no gradient.
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(name.endswith("conv.bias") for name in without)
    assert not without or block == "tab"


def test_initialisation_is_glorot_uniform_with_zero_biases():
    model = TimNet(TimNetConfig())
    convs = [m for m in model.modules() if isinstance(m, nn.Conv1d) and m.kernel_size == (2,)]
    assert max(c.weight.abs().max().item() for c in convs) == pytest.approx(0.1961, abs=1e-3)
    assert all((c.bias == 0).all() for c in convs)
    assert model.head.weight.abs().max().item() <= 0.3612
    assert model.scale_weight.abs().max().item() <= 0.05
