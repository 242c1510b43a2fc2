"""Light-SERNet against the authors' implementation (golden numbers) and its own properties."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from serkit.models.light_sernet import LightSernet, LightSernetConfig

CONFIGS = json.loads((Path(__file__).parents[1] / "goldens" / "light_sernet.json").read_text())[
    "configs"
]
NORM = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
PATHS = {"time": "frames", "coef": "coefs", "both": "both"}


@pytest.fixture(params=["emodb_3s_184x40_c7", "iemocap_7s_434x40_c4"])
def golden(request):
    return CONFIGS[request.param]


def test_every_golden_network_is_tested():
    assert sorted(CONFIGS) == ["emodb_3s_184x40_c7", "iemocap_7s_434x40_c4"]


def our_tensor(model, role):
    stage, layer, kind = role.split(".")
    kinds = {"kernel": "weight"} | ({} if layer.startswith(("conv", "dense")) else NORM)
    layer = layer.split("(")[0].replace("dense", "conv").replace("bn", "norm")
    name, _, path = layer.partition("_")
    module = getattr(model.stages[int(stage[1:]) - 1], f"{name}_{PATHS[path]}" if path else name)
    return getattr(module, kinds.get(kind, kind))


def to_ours(role, value):
    """Keras: (frames, coefficients, in, out), or (in, out) for the dense layer."""
    if not role.endswith("kernel"):
        return value
    value = value.permute(*range(value.dim() - 1, -1, -1))
    return value.unsqueeze(-1) if value.dim() == 2 else value


def filled(golden, goldens, dtype):
    model = LightSernet(LightSernetConfig(n_classes=golden["classes"], dropout=0.0))
    for k, (role, shape, total, *_) in enumerate(golden["tensors"]):
        value = goldens.golden_fill(k, role, shape)
        assert value.double().sum().item() == pytest.approx(total, rel=1e-4, abs=1e-4), role
        with torch.no_grad():
            our_tensor(model, role).copy_(to_ours(role, value))
    x = goldens.golden_input(golden["input_shape"]).squeeze(-1).to(dtype)
    return model.to(dtype), x, torch.full((len(x),), x.shape[1])


def assert_close(got, expected, tolerance):
    expected = torch.tensor(expected, dtype=got.dtype)
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_evaluation_equals_the_authors_network(golden, goldens, dtype, tolerance):
    model, x, n_frames = filled(golden, goldens, dtype)
    with torch.no_grad():
        out = model.eval()(x, n_frames)
    assert_close(out["emotion"], golden["eval"]["logits"], tolerance)
    assert_close(out["emotion"].softmax(1), golden["eval"]["softmax"], tolerance)
    assert_close(out["embedding"][:, :16], golden["eval"]["embedding_first16"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_stages_equal_the_authors_stages(golden, goldens, dtype, tolerance):
    model, features, n = filled(golden, goldens, dtype)
    x = features.transpose(1, 2).unsqueeze(1)
    with torch.no_grad():
        for number, stage in enumerate(model.eval().stages[:5], start=1):
            x, n = stage(x, n)
            shape, mean, std, first = golden["eval"]["stages"][f"S{number}.out"]
            theirs = x.permute(0, 3, 2, 1)
            assert list(theirs.shape) == shape
            assert theirs.mean().item() == pytest.approx(mean, rel=tolerance)
            assert theirs.std(correction=0).item() == pytest.approx(std, rel=tolerance)
            assert_close(theirs.flatten()[:5], first, 10 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_training_step_equals_the_authors_network(golden, goldens, dtype, tolerance):
    model, x, n_frames = filled(golden, goldens, dtype)
    logits = model.train()(x, n_frames)["emotion"]
    ce = F.cross_entropy(logits, torch.tensor(golden["labels"]))
    l2 = 1e-6 * sum(stage.conv.weight.square().sum() for stage in model.stages[1:6])
    assert ce.item() == pytest.approx(golden["train"]["ce"], rel=tolerance)
    assert l2.item() == pytest.approx(golden["train"]["l2_penalty"], rel=tolerance)
    (ce + l2).backward()
    for role, _, _, *last in golden["tensors"]:
        tensor = our_tensor(model, role)
        if role.endswith(".mean"):
            torch.testing.assert_close(tensor[:3].double(), exact(last[0]), rtol=1e-4, atol=1e-6)
        elif role.endswith(".var"):
            # The authors' fused kernel keeps the sample variance, as torch does.
            torch.testing.assert_close(tensor[:3].double(), exact(last[1]), rtol=1e-4, atol=1e-6)
        else:
            gradient = tensor.grad.norm().item()
            assert gradient == pytest.approx(last[0], rel=10 * tolerance, abs=1e-5), role


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("n_classes", "trainable", "everything"), [(4, 460_740, 462_468), (7, 461_703, 463_431)]
)
def test_parameter_counts_are_the_published_ones(n_classes, trainable, everything):
    model = LightSernet(LightSernetConfig(n_classes=n_classes))
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
    n_trainable = sum(p.numel() for p in model.parameters())
    assert (n_trainable, n_trainable + statistics) == (trainable, everything)


def test_last_frame_is_not_averaged_with_padding():
    torch.manual_seed(0)
    model = LightSernet(LightSernetConfig()).eval()
    features = torch.randn(2, 24, 40)
    together = model(features, torch.tensor([24, 13]))["emotion"]
    torch.testing.assert_close(
        model(features[1:, :13], torch.tensor([13]))["emotion"], together[1:]
    )


def test_initialisation_is_glorot_uniform_with_zero_biases():
    model = LightSernet(LightSernetConfig())
    kernel = model.stages[2].conv.weight  # fan-in 9 * 64, fan-out 9 * 96
    assert kernel.abs().max().item() == pytest.approx((6 / (9 * 160)) ** 0.5, rel=1e-2)
    assert (model.stages[0].conv_both.bias == 0).all()
    assert (model.stages[6].conv.bias == 0).all()
