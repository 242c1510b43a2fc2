"""The authors' checkpoints of MMER: written here under their names, and read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from serkit.models import mmer_import
from serkit.models.mmer import Mmer, MmerConfig
from serkit.models.mmer_import import (
    MmerWeightsError,
    convert_mmer_weights,
    load_mmer_weights,
    wav2vec2_base_shapes,
)

CONFIG = MmerConfig(n_features=24, n_text_features=24, width=24, n_heads=4)
Weights = dict[str, Any]
BLOCK = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
OUR_BLOCK = ("query", "key", "value", "out", "attention_norm", "first", "second", "output_norm")
STAGES = {
    "self_attention_v2": "words_to_words",
    "txt2img_attention": "fusion.words_to_frames",
    "img2txt_attention": "fusion.frames_to_words",
    "txt2txt_attention": "fusion.words_to_informed_frames",
}
LAYERS = {
    "model_mmi.vismap2text": "fusion.frames_as_context",
    "model_mmi.vismap2text_v2": "fusion.frames_as_queries",
    "model_mmi.gate": "fusion.gate",
    "model_mmi.classifier.linear3": "classifier",
    "model_mmi.ctc_linear": "ctc",
    "model_mmi.downsample_final": "project_pooled",
    "orgin_linear_change.0": "contrast.0",
    "orgin_linear_change.2": "contrast.2",
    "augment_linear_change.0": "contrast_augmented.0",
    "augment_linear_change.2": "contrast_augmented.2",
}


def our_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Mmer(CONFIG).state_dict()


def released_weights(*, old_names: bool = False, prefix: str = "") -> Weights:
    """Name weights as the authors do; those of the encoder are one number, to be small."""
    modules = dict(LAYERS)
    for theirs, ours in STAGES.items():
        for part, our_part in zip(BLOCK, OUR_BLOCK, strict=True):
            modules[f"model_mmi.{theirs}.layer.0.{part}"] = f"{ours}.0.{our_part}"
    state = our_weights()
    weights = {
        f"{theirs}.{kind}": state.pop(f"{ours}.{kind}")
        for theirs, ours in modules.items()
        for kind in ("weight", "bias")
    }
    assert not state
    for i, (name, shape) in enumerate(wav2vec2_base_shapes().items()):
        if old_names:
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
        weights[f"model_mmi.wav2vec2.{name}"] = torch.tensor(float(i)).expand(shape)
    weights["model_mmi.weights"] = torch.ones(13)
    return {prefix + name: value for name, value in weights.items()}


def convert(weights: Weights) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return convert_mmer_weights(weights, config=CONFIG, name="file")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("old_names", [False, True])
def test_weights_of_both_namings_are_converted(old_names, prefix):
    mmer, wav2vec2 = convert(released_weights(old_names=old_names, prefix=prefix))
    model = Mmer(CONFIG)
    model.load_state_dict(mmer)
    expected = our_weights()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert {key: tuple(value.shape) for key, value in wav2vec2.items()} == wav2vec2_base_shapes()
    assert [value.flatten()[0] for value in wav2vec2.values()] == list(range(len(wav2vec2)))


@pytest.mark.parametrize("nested", [False, True])
def test_pt_files_are_read(tmp_path, nested):
    weights = released_weights()
    torch.save({"state_dict": weights} if nested else weights, tmp_path / "1_model.pt")
    mmer, wav2vec2 = load_mmer_weights(tmp_path / "1_model.pt", config=CONFIG)
    torch.testing.assert_close(mmer, dict(our_weights()), rtol=0, atol=0)
    assert len(wav2vec2) == 211


def test_safetensors_files_are_read_in_any_precision(tmp_path, monkeypatch):
    weights = released_weights()
    kept = {"masked_spec_embed": (768,), "encoder.layer_norm.bias": (768,)}  # not 190 MB
    monkeypatch.setattr(mmer_import, "wav2vec2_base_shapes", lambda: kept)
    half = {
        key: value.half().contiguous()
        for key, value in weights.items()
        if "wav2vec2" not in key or key.removeprefix("model_mmi.wav2vec2.") in kept
    }
    save_file(half, tmp_path / "half.safetensors")
    mmer, wav2vec2 = load_mmer_weights(tmp_path / "half.safetensors", config=CONFIG)
    torch.testing.assert_close(mmer, dict(our_weights()), rtol=1e-3, atol=1e-3)
    assert set(wav2vec2) == set(kept)


def test_weights_that_nothing_needs_may_be_missing():
    weights = released_weights()
    del weights["model_mmi.weights"], weights["model_mmi.wav2vec2.masked_spec_embed"]
    _, wav2vec2 = convert(weights)
    assert set(wav2vec2_base_shapes()) - set(wav2vec2) == {"masked_spec_embed"}


@pytest.mark.parametrize(
    "key", ["model_mmi.gate.bias", "model_mmi.wav2vec2.encoder.layer_norm.bias"]
)
def test_missing_weights_are_named(key):
    weights = released_weights()
    del weights[key]
    with pytest.raises(MmerWeightsError, match=rf"file: 1 of \d+ weights are missing.*'{key}'"):
        convert(weights)


@pytest.mark.parametrize(
    "key", ["model_mmi.lstm.weight", "optimizer", "model_mmi.wav2vec2.weights"]
)
def test_unknown_weights_are_named(key):
    weights = released_weights() | {key: torch.zeros(1)}
    with pytest.raises(MmerWeightsError, match=rf"file: 1 weights are none of MMER's.*'{key}'"):
        convert(weights)


def test_weights_of_another_network_are_refused():
    with pytest.raises(MmerWeightsError, match=r"weights are missing.*'augment_linear_change\.0"):
        convert({"conv1.weight": torch.zeros(3, 3)})
    with pytest.raises(MmerWeightsError, match=r"missing.*'model_mmi\.pool_frames\.score\.weight'"):
        convert_mmer_weights(
            released_weights(),
            config=MmerConfig(
                n_features=24, n_text_features=24, width=24, n_heads=4, pooling="attention"
            ),
        )
    with pytest.raises(MmerWeightsError, match=r"is float32 of shape \(32, 24\), .*\(32, 768\)"):
        convert_mmer_weights(released_weights())


def test_names_that_mean_the_same_weight_are_refused():
    weights = released_weights() | {"module.model_mmi.gate.bias": torch.zeros(24)}
    with pytest.raises(MmerWeightsError, match=r"'model_mmi\.gate\.bias' is there twice"):
        convert(weights)
    with pytest.raises(MmerWeightsError, match=r"original0' is there twice.*old and its new name"):
        convert(released_weights() | released_weights(old_names=True))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(25), r"'model_mmi\.gate\.bias' is float32 of shape \(25,\), .*\(24,\)"),
        (torch.zeros(24, dtype=torch.int64), r"is int64 of shape \(24,\), expected float32"),
        (torch.full((24,), torch.nan), r"holds NaN or infinite values: get the file again"),
        (torch.zeros(24).to_sparse(), r"is a Tensor without plain numbers"),
        (torch.zeros(24, device="meta"), r"is a Tensor without plain numbers"),
        ([0.0] * 24, r"is a list without plain numbers"),
    ],
)
def test_wrong_values_are_refused(value, message):
    with pytest.raises(MmerWeightsError, match=message):
        convert(released_weights() | {"model_mmi.gate.bias": value})


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_executed(tmp_path, legacy):
    target = tmp_path / "harm"
    weights = released_weights() | {"extra": Hostile(target)}
    path = tmp_path / "hostile.pt"
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(MmerWeightsError, match=r"hostile\.pt: .* or one with code in it") as caught:
        load_mmer_weights(path, config=CONFIG)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_damaged_files_give_one_line(tmp_path, recwarn):
    whole = tmp_path / "whole.pt"
    torch.save({"state_dict": released_weights()}, whole)
    content = whole.read_bytes()
    pickled = pickle.dumps({"state_dict": [1, 2, 3]}, protocol=2)
    cut = [content[:5000], content[:-100], pickled[:-3]]
    for i, damaged in enumerate([b"", b"PK", b"not a file", *cut, b"\x80\x02\x85.", b"\x80\x04x"]):
        for suffix in (".pt", ".safetensors"):
            path = tmp_path / f"{i}{suffix}"
            path.write_bytes(damaged)
            with pytest.raises(MmerWeightsError, match=r"a damaged one") as caught:
                load_mmer_weights(path)
            assert "\n" not in str(caught.value)
    assert not [one for one in recwarn if "pickle protocol" in str(one.message)]


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, torch.zeros(2)])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(MmerWeightsError, match=r"holds a (list|int|Tensor), not weights"):
        load_mmer_weights(tmp_path / "other.pt")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(MmerWeightsError, match=r"1_model\.pt: no such file"):
        load_mmer_weights(tmp_path / "1_model.pt")


def test_names_of_the_encoder_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        encoder = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config())
    shapes = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    assert shapes == wav2vec2_base_shapes()
