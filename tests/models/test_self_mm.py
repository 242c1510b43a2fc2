"""Self-MM against the public implementation (golden numbers) and against its own properties."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.golden_self_mm import (
    GOLDENS,
    HEADS,
    assert_close,
    golden_batch,
    golden_labels,
    golden_model,
    our_name,
)
from serkit.models.self_mm import SELF_MM_PRESETS, STREAMS, SelfMm, SelfMmConfig
from serkit.settings import checked
from serkit.training.unimodal_labels import self_mm_loss
from serkit.types import InputError

CASES = GOLDENS["networks"]
FEATURES = {"fused": "Feature_f", "text": "Feature_t", "audio": "Feature_a", "vision": "Feature_v"}
SIZES = [
    pytest.param("small", torch.float32, 2e-5, id="small, float32"),
    pytest.param("small", torch.float64, 2e-6, id="small, float64"),
    pytest.param("sims_size", torch.float32, 2e-4, id="size of SIMS"),
]
SMALL: dict[str, Any] = {
    "n_text_features": 12,
    "n_audio_features": 5,
    "n_vision_features": 6,
    "n_fused_units": 9,
    "n_text_units": 8,
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"frame_encoder": "attention", "text_pooling": "attention"},
    {"text_pooling": "mean", "missing": "learned"},
    {"n_outputs": 3, "encoder_dropout": 0.2, "fused_dropout": 0.2},
]


def to(batch: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}


def small_model(**settings: Any) -> SelfMm:
    torch.manual_seed(0)
    return SelfMm(checked(SelfMmConfig, SMALL | settings, where="model")).eval()


def small_batch(
    n_tokens: tuple[int, ...], n_audio: tuple[int, ...], n_vision: tuple[int, ...]
) -> dict[str, Tensor]:
    """Draw a batch; what lies behind an end is no number."""
    generator = torch.Generator().manual_seed(0)
    batch = {}
    for name, key, lengths, width in (
        ("text", "n_tokens", n_tokens, 12),
        ("audio", "n_audio", n_audio, 5),
        ("vision", "n_vision", n_vision, 6),
    ):
        x = torch.randn(len(lengths), max(lengths), width, generator=generator)
        for row, n in zip(x, lengths, strict=True):
            row[n:] = torch.nan
        batch |= {name: x, key: torch.tensor(lengths)}
    return batch


def outputs_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Give a dict that will hold what the modules put out."""
    outputs = {}
    for key, module in modules.items():
        module.register_forward_hook(lambda _, __, output, key=key: outputs.update({key: output}))
    return outputs


@pytest.mark.parametrize(("name", "dtype", "tolerance"), SIZES)
def test_network_equals_the_public_one(name, dtype, tolerance):
    case = CASES[name]
    model, golden = golden_model(case).to(dtype).eval(), case["eval"]
    vectors = outputs_of(
        {"audio_vector": model.audio_encoder, "vision_vector": model.vision_encoder}
    )
    outputs = model(**to(golden_batch(case), dtype))
    for ours, theirs in HEADS.items():
        assert_close(outputs[ours], golden[theirs], tolerance=tolerance)
    for ours, theirs in FEATURES.items():
        values, check = golden[theirs]["values"], golden[theirs]["check"]
        feature = outputs[f"feature_{ours}"]
        assert list(feature.shape) == check["shape"]
        assert_close(feature[: len(values)], values, tolerance=tolerance)
        got = torch.stack([feature.mean(), feature.std(correction=0)])
        assert_close(got, [check["mean"], check["std"]], tolerance=tolerance)
        assert_close(feature.flatten()[-5:], check["last5"], tolerance=tolerance)
    for key, vector in vectors.items():
        assert_close(vector, golden[key], tolerance=tolerance)


@pytest.mark.parametrize(("name", "dtype", "tolerance"), SIZES)
def test_losses_and_gradients_equal_those_of_the_public_network(name, dtype, tolerance):
    case = CASES[name]
    model, golden = golden_model(case).to(dtype).train(), case["train_mode_dropout_0"]
    outputs = model(**to(golden_batch(case), dtype))
    loss, parts = self_mm_loss(outputs, to(golden_labels(case), dtype))
    relative = 1e-5 if name == "small" else 1e-4
    assert loss.item() == pytest.approx(golden["total"], rel=relative)
    for ours, theirs in HEADS.items():
        assert parts[ours].item() == pytest.approx(golden["loss_per_task"][theirs], rel=relative)
    loss.backward()
    named = dict(model.named_parameters())
    assert sorted(named) == sorted(map(our_name, golden["grad_l2"]))
    for role, expected in golden["grad_l2"].items():
        norm = named[our_name(role)].grad.norm().item()
        assert norm == pytest.approx(expected, rel=10 * relative, abs=1e-6), role


def test_parameter_counts_are_the_published_ones():
    model = SelfMm(SELF_MM_PRESETS["sims"])
    assert count(model) == 381_380
    assert count(model.audio_encoder.lstm) == 3_264
    assert count(model.vision_encoder.lstm) == 198_400
    assert count(golden_model(CASES["small"])) == CASES["small"]["params"]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("corpus", SELF_MM_PRESETS)
def test_presets_survive_as_plain_settings_and_run(corpus):
    config = SELF_MM_PRESETS[corpus]
    again = checked(SelfMmConfig, json.loads(json.dumps(asdict(config))), where="model")
    assert again == config
    model = SelfMm(config).eval()
    lengths = torch.tensor([2, 3])
    outputs = model(
        torch.randn(2, 3, 768),
        lengths,
        torch.randn(2, 3, config.n_audio_features),
        lengths,
        torch.randn(2, 3, config.n_vision_features),
        lengths,
    )
    assert outputs["fused"].isfinite().all()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_batch_of_n_equals_n_batches_of_one(settings):
    model = small_model(**settings)
    batch = small_batch((5, 3, 1, 2), (7, 1, 30, 2), (4, 0, 2, 9))
    present = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 1, 1]]).bool()
    together = model(**batch, present=present)
    for row in range(4):
        alone = {key: x[row : row + 1] for key, x in batch.items()}
        for name, length in (("text", "n_tokens"), ("audio", "n_audio"), ("vision", "n_vision")):
            alone[name] = alone[name][:, : int(alone[length])]
        got = model(**alone, present=present[row : row + 1])
        assert got.keys() == together.keys()
        for key, output in got.items():
            torch.testing.assert_close(output[0], together[key][row], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_outputs_have_the_documented_shapes(settings):
    model = small_model(**settings)
    outputs = model(**small_batch((5, 3), (7, 1), (4, 2)))
    n_outputs = settings.get("n_outputs", 1)
    shape = (2,) if n_outputs == 1 else (2, n_outputs)
    expected = dict.fromkeys(("fused", *STREAMS), shape) | {"present": (2, 3)}
    expected |= {f"feature_{name}": (2, width) for name, width in model.feature_widths.items()}
    assert {key: tuple(x.shape) for key, x in outputs.items()} == expected


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_parameter_of_every_variant_is_trained(settings):
    model = small_model(**settings).train()
    outputs = model(**small_batch((5, 3, 0, 2), (7, 0, 30, 2), (0, 6, 2, 9)))
    sum(outputs[name].square().sum() for name in ("fused", *STREAMS)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_stream_of_length_0_is_one_that_is_missing(settings):
    model = small_model(**settings)
    batch = small_batch((5, 3), (7, 1), (4, 2))
    for column, (name, length) in enumerate(
        (("text", "n_tokens"), ("audio", "n_audio"), ("vision", "n_vision"))
    ):
        present = torch.ones(2, 3, dtype=torch.bool)
        present[1, column] = False
        lengths = batch[length].clone()
        lengths[1] = 0
        outputs = model(**batch | {length: lengths})
        torch.testing.assert_close(outputs, model(**batch, present=present))
        assert outputs["present"].tolist() == present.tolist()
        assert outputs["fused"].isfinite().all()
        empty = {name: batch[name][:, :0], length: torch.zeros(2, dtype=torch.int64)}
        assert model(**batch | empty)["fused"].isfinite().all()


def test_a_missing_stream_changes_nothing_but_what_reads_it():
    model = small_model()
    batch = small_batch((5, 3), (7, 1), (4, 2))
    whole = model(**batch)
    present = torch.tensor([[True, True, True], [True, False, True]])
    outputs = model(**batch, present=present)
    for name in ("text", "vision"):
        assert torch.equal(outputs[name], whole[name])
    for name in ("fused", "audio"):
        assert torch.equal(outputs[name][0], whole[name][0])
        assert outputs[name][1] != whole[name][1]


def test_a_learned_missing_vector_starts_as_zeros_and_is_used():
    plain, learned = small_model(), small_model(missing="learned")
    batch = small_batch((5, 3), (7, 0), (4, 2))
    torch.testing.assert_close(learned(**batch), plain(**batch))
    nn.init.ones_(learned.missing["audio"])
    outputs, before = learned(**batch), plain(**batch)
    assert torch.equal(outputs["fused"][0], before["fused"][0])
    assert outputs["fused"][1] != before["fused"][1]


def test_switches_that_are_not_used_leave_the_published_loss_exactly():
    case = CASES["small"]
    batch, labels = golden_batch(case), golden_labels(case)
    expected, parts = self_mm_loss(golden_model(case)(**batch), labels)
    present = torch.ones(4, 3, dtype=torch.bool)
    outputs = golden_model(case, missing="learned")(**batch, present=present)
    for each in (outputs, {key: x for key, x in outputs.items() if key != "present"}):
        loss, summands = self_mm_loss(each, labels)
        assert loss.item() == expected.item()
        assert summands == parts


def test_the_text_vector_is_that_of_the_first_position_or_of_all_valid_ones():
    batch = small_batch((5, 3), (7, 1), (4, 2))
    later = batch | {"text": batch["text"].clone()}
    later["text"][:, 1] += 1
    first, mean = small_model(), small_model(text_pooling="mean")
    assert torch.equal(first(**later)["text"], first(**batch)["text"])
    assert not torch.equal(mean(**later)["text"], mean(**batch)["text"])


def test_settings_of_the_wrong_kind_are_refused():
    with pytest.raises(InputError, match=r"model\.frame_encoder = \"gru\""):
        small_model(frame_encoder="gru")


@pytest.mark.parametrize("frame_encoder", ["lstm", "attention"])
@pytest.mark.parametrize("stream", STREAMS)
def test_sentiment_in_any_one_stream_is_learnt(stream, frame_encoder):
    model = small_model(frame_encoder=frame_encoder, text_dropout=0.0, audio_dropout=0.0).train()
    lengths = [3 + row % 5 for row in range(96)]
    batch = small_batch(tuple(lengths), tuple(lengths), tuple(lengths))
    truth = torch.linspace(-1, 1, 96)[torch.randperm(96)]
    batch[stream][:, :, 0] = 3 * truth.unsqueeze(1)
    train, test = (
        {key: x[part] for key, x in batch.items()} for part in (slice(64), slice(64, 96))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        labels = dict.fromkeys(("fused", *STREAMS), truth[:64])
        self_mm_loss(model(**train), labels)[0].backward()
        optimizer.step()
    outputs = model.eval()(**test)
    found = torch.corrcoef(torch.stack([outputs["fused"].detach(), truth[64:]]))[0, 1]
    assert found > 0.7
