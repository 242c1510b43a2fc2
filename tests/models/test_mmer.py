"""MMER against the public implementation (golden numbers) and against its own properties."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models import build_model
from serkit.models.mmer import Mmer, MmerConfig
from serkit.models.mmer_import import wav2vec2_base_shapes
from serkit.types import InputError

CASES = json.loads((Path(__file__).parents[1] / "goldens" / "mmer.json").read_text())["cases"]
ROLES = {  # of the goldens -> ours
    "text_self_block": "words_to_words.0",
    "text_queries_speech_block(Q)": "fusion.words_to_frames.0",
    "speech_queries_text_block(P)": "fusion.frames_to_words.0",
    "text_queries_P_block(R)": "fusion.words_to_informed_frames.0",
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.out_projection": "out",
    "norm_after_attention": "attention_norm",
    "ffn.first": "first",
    "ffn.second": "second",
    "norm_after_ffn": "output_norm",
    "speech_projection_for_Q(A1)": "fusion.frames_as_context",
    "speech_projection_for_P(A2)": "fusion.frames_as_queries",
    "gate": "fusion.gate",
    "emotion_classifier": "classifier",
    "ctc_head": "ctc",
    "fused_down_projection": "project_pooled",
    "original_view_head.first": "contrast.0",
    "original_view_head.second": "contrast.2",
    "augmented_view_head.first": "contrast_augmented.0",
    "augmented_view_head.second": "contrast_augmented.2",
}
SIZES = [
    pytest.param("narrow", torch.float64, id="narrow, float64"),
    pytest.param("narrow", torch.float32, id="narrow, float32"),
    pytest.param("full_width", torch.float32, id="full width"),
]
SMALL: dict[str, Any] = {
    "n_features": 20,
    "n_text_features": 12,
    "n_symbols": 9,
    "width": 16,
    "n_heads": 4,
}


def golden_values(n: int, k: int) -> np.ndarray:
    i = np.arange(1, n + 1, dtype=np.float64)
    return np.sin(0.37 * i + 1.3 * k + 0.05 * i**1.3)


def golden_input(*shape: int, offset: int) -> Tensor:
    j = np.arange(1, math.prod(shape) + 1, dtype=np.float64) + offset
    x = np.sin(0.011 * j) + 0.5 * np.cos(0.0031 * j**1.3)
    return torch.from_numpy(x.astype(np.float32)).reshape(shape)


def our_name(role: str) -> str:
    for theirs in sorted(ROLES, key=len, reverse=True):
        role = role.replace(theirs, ROLES[theirs])
    return role


def golden_model(name: str, dtype: torch.dtype) -> Mmer:
    sizes = CASES[name]["config"]
    width = sizes["width"]
    model = Mmer(
        MmerConfig(
            n_features=width,
            n_text_features=width,
            width=width,
            n_heads=sizes["heads"],
            n_ffn=sizes["ffn"],
            n_classes=sizes["classes"],
            n_symbols=sizes["ctc_symbols"],
            dropout=0.0,
        )
    )
    model.load_state_dict(golden_weights(name))
    return model.to(dtype)


@lru_cache
def golden_weights(name: str) -> dict[str, Tensor]:
    state = {}
    for tensor in CASES[name]["tensors"]:
        values = golden_values(math.prod(tensor["shape"]), tensor["k"])
        if tensor["rule"] == "matrix":
            values *= tensor["gain"] / math.sqrt(tensor["fan_in"])
        else:
            values = 0.1 * values + (tensor["rule"] == "norm_gain")
        weight = torch.from_numpy(values.astype(np.float32)).reshape(tensor["shape"])
        state[our_name(tensor["role"])] = weight
    return state


def golden_batch(case: dict[str, Any], dtype: torch.dtype, *, view: str = "") -> dict[str, Tensor]:
    """Text with zeros behind its ends, and frames with anything behind theirs."""
    width, batch = case["config"]["width"], case["batch"]
    n_text, n_frames = batch[f"{view}text_len"], batch[f"{view}frames"]
    offset = 2000 if view else 0
    text = golden_input(len(n_text), max(n_text), width, offset=offset)
    for row, n in zip(text, n_text, strict=True):
        row[n:] = 0
    features = golden_input(len(n_frames), max(n_frames), width, offset=offset + 1000)
    return {
        "features": features.to(dtype),
        "n_frames": torch.tensor(n_frames),
        "text": text.to(dtype),
        "n_text": torch.tensor(n_text),
    }


def golden_outputs(model: Mmer, case: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs of the original view, and the contrast of the augmented one."""
    outputs = model(**golden_batch(case, dtype))
    augmented = model(**golden_batch(case, dtype, view="aug_"))
    return outputs | {
        "u_augmented": augmented["embedding"],
        "z_augmented": augmented["contrast_augmented"],
    }


def golden_losses(outputs: dict[str, Tensor], case: dict[str, Any]) -> dict[str, Tensor]:
    """The published losses, in their own words."""
    batch, temperature = case["batch"], case["config"]["temperature"]
    labels, targets = torch.tensor(batch["labels"]), torch.tensor(batch["ctc_targets"])
    z, z_augmented = outputs["contrast"], outputs["z_augmented"]
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    rows = torch.arange(len(labels))
    losses = {
        "ce": F.cross_entropy(outputs["emotion"], labels),
        "ctc_sum": F.ctc_loss(
            outputs["ctc"].log_softmax(2).transpose(0, 1),
            targets[targets >= 0],
            outputs["n_ctc"],
            (targets >= 0).sum(1),
            reduction="sum",
        ),
        "scl_as_published": -(z @ z.T).log_softmax(1)[same].mean() / temperature,
        "acl_as_published": F.cross_entropy(z @ z_augmented.T / temperature, rows),
    }
    ce, *others = losses.values()
    return losses | {"total": ce + 0.1 * sum(others)}


def valid_rows(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.cat([row[:n] for row, n in zip(x, lengths.tolist(), strict=True)])


def outputs_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Give a dict that will hold what the modules put out."""
    outputs = {}
    for key, module in modules.items():
        module.register_forward_hook(lambda _, __, output, key=key: outputs.update({key: output}))
    return outputs


def assert_close(got: Tensor, expected: Any, *, tolerance: float) -> None:
    wanted = torch.tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got.detach(), wanted, rtol=0, atol=tolerance)


def assert_checked(x: Tensor, expected: dict[str, Any], *, tolerance: float) -> None:
    """Compare a tensor with what the goldens keep of it."""
    assert list(x.shape) == expected["shape"]
    flat = x.detach().flatten()
    got = [flat.mean(), flat.std(correction=0), flat.abs().mean(), *flat[:5], *flat[-5:]]
    numbers = [expected[key] for key in ("mean", "std", "abs_mean")]
    numbers += expected["first5"] + expected["last5"]
    assert_close(torch.stack(got), numbers, tolerance=tolerance)


@pytest.mark.parametrize(("name", "dtype"), SIZES)
def test_network_equals_the_public_one(name, dtype):
    case = CASES[name]
    model, results = golden_model(name, dtype), case["results"]
    tolerance = 2e-5 if name == "narrow" else 2e-4
    out = golden_outputs(model.eval(), case, dtype)
    assert_close(out["emotion"], results["logits"], tolerance=tolerance)
    for key, ours in (
        ("u", "embedding"),
        ("u_augmented", "u_augmented"),
        ("Z", "contrast"),
        ("Z_augmented", "z_augmented"),
    ):
        thinned = isinstance(results[key], dict)
        expected = results[key]["sample_every_16th"] if thinned else results[key]
        assert_close(out[ours][:, :: 16 if thinned else 1], expected, tolerance=tolerance)


@pytest.mark.parametrize(("name", "dtype"), SIZES)
def test_stages_equal_those_of_the_public_network(name, dtype):
    case = CASES[name]
    model, results = golden_model(name, dtype).eval(), case["results"]
    tolerance = 2e-5 if name == "narrow" else 2e-4
    of_words = {
        "Xt": model.words_to_words,
        "Q": model.fusion.words_to_frames,
        "R": model.fusion.words_to_informed_frames,
        "M": model.fusion,
    }
    of_frames = {
        "A1": model.fusion.frames_as_context,
        "A2": model.fusion.frames_as_queries,
        "P": model.fusion.frames_to_words,
        "ctc_logits": model.ctc,
    }
    pooled = {
        "a_pooled": model.pool_frames,
        "m_pooled": model.pool_words,
        "m_projected": model.project_pooled,
    }
    stages = outputs_of(of_words | of_frames | pooled)
    batch = golden_batch(case, dtype)
    model(**batch)
    for key, expected in results["stages_valid_positions_only"].items():
        rows = valid_rows(stages[key], batch["n_text" if key in of_words else "n_frames"])
        assert_checked(rows, expected, tolerance=tolerance)
    # Words behind an end are zeros in the goldens as well; frames are not.
    for key in of_words | pooled:
        expected = results["stages_all_positions"][key]
        assert_checked(stages[key], expected, tolerance=tolerance)


@pytest.mark.parametrize(("name", "dtype"), SIZES)
def test_gradients_equal_those_of_the_public_network(name, dtype):
    case = CASES[name]
    model, golden = golden_model(name, dtype).train(), case["results"]["train_mode_dropout_0"]
    tolerance = 1e-4 if name == "narrow" else 1e-3
    losses = golden_losses(golden_outputs(model, case, dtype), case)
    got = {key: loss.item() for key, loss in losses.items()}
    assert got == pytest.approx({key: golden[key] for key in got}, rel=tolerance / 10)
    losses["total"].backward()
    named = dict(model.named_parameters())
    roles = [tensor["role"] for tensor in case["tensors"]]
    zero = golden["grad_theoretically_zero"]
    assert sorted(named) == sorted(map(our_name, roles))
    assert sorted([*golden["grad_l2"], *zero]) == sorted(roles)
    for role, expected in golden["grad_l2"].items():
        norm = named[our_name(role)].grad.norm().item()
        assert norm == pytest.approx(expected, rel=tolerance, abs=1e-6), role
    for role in zero:
        assert named[our_name(role)].grad.norm().item() < 1e-3, role


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        model = Mmer(MmerConfig())
    heads = count(model.contrast) + count(model.contrast_augmented)
    unused = 13  # of the authors' model
    assert heads == 3_542_016
    assert count(model) - heads + unused == 31_924_273
    encoder = sum(map(math.prod, wav2vec2_base_shapes().values()))
    assert encoder == 94_371_712
    assert encoder + count(model) == 129_837_988


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small_batch(n_frames: list[int], n_text: list[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(len(n_frames), max(n_frames), 20, generator=generator),
        "n_frames": torch.tensor(n_frames),
        "text": torch.randn(len(n_text), max(n_text), 12, generator=generator),
        "n_text": torch.tensor(n_text),
    }


VARIANTS: list[dict[str, Any]] = [
    {},
    {"pooling": "mean"},
    {"pooling": "attention", "n_blocks": 2, "n_ffn": 7},
    {"gate": False, "text_self_attention": False, "contrastive": False, "n_symbols": None},
    {"n_text_features": 12, "width": 12},
    {"streams": "concat"},
    {"streams": "concat", "text_self_attention": False},
    {"streams": "speech", "pooling": "mean"},
    {"streams": "text", "n_symbols": 0},
]


def small_model(**settings: Any) -> Mmer:
    torch.manual_seed(0)
    return build_model("mmer", SMALL | settings).eval()


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_batch_of_n_equals_n_batches_of_one(settings):
    model = small_model(**settings)
    batch = small_batch([5, 30, 1, 12], [7, 1, 3, 2])
    batch["features"][0, 5:] = torch.nan  # whatever lies behind an end
    batch["text"][1, 1:] = torch.nan
    together = model(**batch)
    for row, (frames, tokens) in enumerate(zip(batch["n_frames"], batch["n_text"], strict=True)):
        alone = model(
            features=batch["features"][row : row + 1, :frames],
            n_frames=batch["n_frames"][row : row + 1],
            text=batch["text"][row : row + 1, :tokens],
            n_text=batch["n_text"][row : row + 1],
        )
        assert alone.keys() == together.keys()
        for key, output in alone.items():
            expected = together[key][row, :frames] if key == "ctc" else together[key][row]
            torch.testing.assert_close(output[0], expected, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_parameter_of_every_variant_is_trained(settings):
    model = small_model(**settings).train()
    outputs = model(**small_batch([5, 30, 1, 12], [7, 1, 3, 2]))
    sum(value.square().sum() for key, value in outputs.items() if key != "n_ctc").backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_outputs_have_the_documented_shapes(settings):
    model = small_model(**settings)
    config = model.config
    outputs = model(**small_batch([5, 9, 2], [3, 1, 4]))
    width = {"speech": 20, "text": config.width}.get(config.streams, 20 + config.width)
    shapes = {"emotion": (3, 4), "embedding": (3, width)}
    if config.n_symbols:
        shapes |= {"ctc": (3, 9, 9), "n_ctc": (3,)}
        assert outputs["n_ctc"].tolist() == [5, 9, 2]
    if config.contrastive:
        shapes |= {"contrast": (3, config.width), "contrast_augmented": (3, config.width)}
    assert {key: tuple(value.shape) for key, value in outputs.items()} == shapes


def test_evaluation_is_deterministic_and_training_draws_dropout():
    model = small_model()
    batch = small_batch([5, 9, 2], [3, 1, 4])
    first, second = model(**batch), model(**batch)
    assert all(torch.equal(first[key], second[key]) for key in first)
    model.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(**batch)["emotion"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], first["emotion"])


def test_frames_are_classified_without_dropout():
    model = small_model(streams="speech", dropout=0.5)
    batch = small_batch([5, 9], [1, 1])
    expected = model(**batch)
    trained = model.train()(**batch)
    assert torch.equal(trained["emotion"], expected["emotion"])
    assert not torch.equal(trained["ctc"], expected["ctc"])


def test_words_and_voice_both_matter():
    model = small_model()
    batch = small_batch([9, 9], [4, 4])
    before = model(**batch)["embedding"]
    for key, part in (("features", slice(20, None)), ("text", slice(20, None))):
        moved = model(**batch | {key: batch[key].flip(0)})["embedding"]
        # Not the pooled frames alone: the fused half hears the voice and the words.
        assert not torch.allclose(moved[:, part], before[:, part], atol=1e-3), key


def test_utterance_without_words_has_one_of_zeros():
    model = small_model()
    batch = small_batch([5, 9], [3, 2])
    batch["n_text"][1] = 0
    zeros = batch | {"text": batch["text"].clone(), "n_text": torch.tensor([3, 1])}
    zeros["text"][1] = 0
    outputs = model(**batch)
    torch.testing.assert_close(outputs, model(**zeros))
    nothing = torch.zeros(1, 0, 12), torch.tensor([0])
    alone = model(batch["features"][1:], batch["n_frames"][1:], *nothing)
    torch.testing.assert_close(alone["emotion"], outputs["emotion"][1:])


def test_streams_need_only_what_they_read():
    batch = small_batch([5, 9], [3, 2])
    speech = small_model(streams="speech")
    expected = speech(**batch)["emotion"]
    assert torch.equal(speech(batch["features"], batch["n_frames"])["emotion"], expected)
    text = small_model(streams="text", n_symbols=0)
    expected = text(**batch)["emotion"]
    assert torch.equal(text(None, None, batch["text"], batch["n_text"])["emotion"], expected)


def test_missing_streams_are_refused():
    batch = small_batch([5, 9], [3, 2])
    with pytest.raises(InputError, match=r"streams = both: the network reads text, and got none"):
        small_model()(batch["features"], batch["n_frames"])
    with pytest.raises(InputError, match=r"streams = concat: the network reads features"):
        small_model(streams="concat")(None, None, batch["text"], batch["n_text"])


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match=r"n_heads = 5: heads share the width of 768 equally"):
        build_model("mmer", {"n_heads": 5})
    with pytest.raises(InputError, match=r"n_symbols = 32: CTC reads speech.*set n_symbols to 0"):
        build_model("mmer", {"streams": "text"})
    with pytest.raises(InputError, match=r"model\.pooling = \"last\""):
        build_model("mmer", {"pooling": "last"})
