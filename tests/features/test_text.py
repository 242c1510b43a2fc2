"""Text encoders against transformers itself, their promises, and every way to go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from features.tiny_encoders import text_folder
from serkit.features.text import (
    FAMILIES,
    TEXT_ENCODERS,
    build_text_encoder,
    read_text_features,
    text_encoder_to_dict,
)
from serkit.types import InputError

TEXTS = ["I know what the problem is", "", "hello there world, again"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("texts")
    return {family: text_folder(root / family, family) for family in FAMILIES}


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """Copy of a folder, to be damaged."""
    return Path(shutil.copytree(folders["roberta"], tmp_path / "model"))


def encoder(folder: Path, **settings):
    return build_text_encoder("pretrained", {"model": str(folder), "max_tokens": 60, **settings})


@pytest.fixture(params=[*FAMILIES, "small"])
def any_encoder(request, folders):
    if request.param == "small":
        torch.manual_seed(0)
        return build_text_encoder("small", {})
    return encoder(folders[request.param], trainable=True).eval()


# ---- What every text encoder promises ------------------------------------------------------------


def test_vectors_have_the_promised_shape_and_padding_is_zero(any_encoder):
    ids, n_tokens = any_encoder.tokenize(TEXTS)
    assert ids.dtype == n_tokens.dtype == torch.int64
    text, n_vectors = any_encoder(ids, n_tokens)
    assert torch.equal(n_vectors, n_tokens)
    assert text.shape == (3, int(n_tokens.max()), any_encoder.config.n_features)
    assert text.dtype == torch.float32
    for row, n in zip(text, n_tokens.tolist(), strict=True):
        assert (row[n:] == 0).all()
        assert row[:n].abs().amax(1).min() > 0


def test_an_empty_text_has_its_two_borders(any_encoder):
    _, n_tokens = any_encoder.tokenize([""])
    assert n_tokens.tolist() == [2]


def test_a_text_does_not_depend_on_its_batch_or_padding(any_encoder):
    ids, n_tokens = any_encoder.tokenize(TEXTS)
    padded = torch.nn.functional.pad(ids, (0, 3), value=7)  # what follows must not matter
    together, _ = any_encoder(padded, n_tokens)
    for row, text in enumerate(TEXTS):
        alone, n = any_encoder(*any_encoder.tokenize([text]))
        assert torch.allclose(together[row, : int(n)], alone[0], atol=1e-5)


def test_a_long_text_loses_its_end(any_encoder):
    name = "small" if any_encoder.config.n_features == 64 else "pretrained"
    settings = text_encoder_to_dict(any_encoder) | {"max_tokens": 5}
    short = build_text_encoder(name, settings)
    ids, n_tokens = short.tokenize(["I know what the problem is"])
    whole, n_whole = any_encoder.tokenize(["I know what the problem is"])
    assert n_tokens.tolist() == [5]
    assert ids[0, :4].tolist() == whole[0, :4].tolist()
    assert ids[0, -1] == whole[0, int(n_whole) - 1]


def test_every_trained_parameter_has_a_gradient(any_encoder):
    text, _ = any_encoder.train()(*any_encoder.tokenize(TEXTS))
    text.square().sum().backward()
    assert any_encoder.has_trainable_parameters
    assert all(parameter.grad is not None for parameter in any_encoder.parameters())


def test_an_encoder_is_rebuilt_from_its_own_settings_and_weights(any_encoder):
    name = "small" if any_encoder.config.n_features == 64 else "pretrained"
    settings = json.loads(json.dumps(text_encoder_to_dict(any_encoder)))
    settings |= {} if name == "small" else {"model": "/a/folder/that/is/gone"}
    rebuilt = build_text_encoder(name, settings).eval()
    rebuilt.load_state_dict(any_encoder.state_dict())
    ids, n_tokens = rebuilt.tokenize(TEXTS)
    assert torch.equal(ids, any_encoder.tokenize(TEXTS)[0])
    expected, _ = any_encoder.eval()(ids, n_tokens)
    assert torch.allclose(rebuilt(ids, n_tokens)[0], expected, atol=1e-5)


# ---- Pre-trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_transformers(folders, family):
    from transformers import AutoModel, PreTrainedTokenizerFast

    tokens = PreTrainedTokenizerFast.from_pretrained(folders[family])(
        TEXTS, padding=True, return_tensors="pt"
    )
    ids, n_tokens = encoder(folders[family]).tokenize(TEXTS)
    assert torch.equal(ids, tokens["input_ids"])
    assert torch.equal(n_tokens, tokens["attention_mask"].sum(1))
    model = AutoModel.from_pretrained(folders[family]).eval()
    with torch.no_grad():
        expected = model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
    text, _ = encoder(folders[family])(ids, n_tokens)
    assert torch.allclose(text, expected * tokens["attention_mask"].unsqueeze(2), atol=1e-5)


def test_a_frozen_encoder_has_no_dropout_and_no_gradients(folders):
    frozen = encoder(folders["roberta"]).train()
    assert not frozen.has_trainable_parameters
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    first, _ = frozen(*frozen.tokenize(TEXTS))
    assert torch.equal(frozen(*frozen.tokenize(TEXTS))[0], first)


def test_checkpointing_gives_the_same_gradients(folders):
    gradients = []
    for checkpointing in (False, True):
        trained = encoder(
            folders["roberta"], trainable=True, gradient_checkpointing=checkpointing
        ).train()
        assert trained.encoder.is_activation_checkpointing is checkpointing
        torch.manual_seed(3)  # of the dropout
        trained(*trained.tokenize(TEXTS))[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in trained.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-5)


def test_learning_rates_fall_from_the_last_layer_down(folders):
    groups = encoder(folders["roberta"], trainable=True).parameter_groups(decay=0.5)
    assert [factor for _, factor in groups] == [1.0, 0.5, 0.25]
    assert all(name.startswith("encoder.encoder.layer.1.") for name in groups[0][0])
    assert all(name.startswith("encoder.embeddings.") for name in groups[2][0])


def test_settings_identify_the_weights(folders):
    hashes = {encoder(folders[family]).config.weights_sha256 for family in ("bert", "roberta")}
    assert len(hashes) == 2
    with pytest.raises(InputError, match=r"text\.weights_sha256 is 0{64}, but the weights"):
        encoder(folders["roberta"], weights_sha256="0" * 64)


def test_more_tokens_than_positions_are_refused(folders):
    with pytest.raises(InputError, match=r"text\.max_tokens is 63, but .* has 62 positions"):
        encoder(folders["roberta"], max_tokens=63)
    assert encoder(folders["bert"], max_tokens=64).config.max_tokens == 64
    with pytest.raises(InputError, match=r"text\.max_tokens is 65, but .* has 64 positions"):
        encoder(folders["bert"], max_tokens=65)


def test_the_longest_text_has_positions(folders):
    for family, longest in (("roberta", 62), ("bert", 64)):
        full = encoder(folders[family], max_tokens=longest)
        text, n_tokens = full(*full.tokenize(["hello " * 100]))
        assert n_tokens.tolist() == [longest]
        assert torch.isfinite(text).all()


def test_a_missing_model_says_how_to_get_it():
    with pytest.raises(InputError, match=r"text\.model '/no/such/folder' is no folder"):
        encoder(Path("/no/such/folder"))


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file: make it once with Auto"):
        encoder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {}, r"tokenizer\.json of .* is damaged"),
        (
            lambda saved: saved["model"]["vocab"].update({f"w{i}": 13 + i for i in range(100)}),
            "knows 113 tokens, its network 100",
        ),
        (lambda saved: saved.update(post_processor=None), "marks neither begin nor end"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(folder, change, message):
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    replacement = change(saved)
    path.write_text(json.dumps(saved if replacement is None else replacement))
    with pytest.raises(InputError, match=message):
        encoder(folder)


def test_an_architecture_without_its_tokenizer_is_refused(folders):
    settings = text_encoder_to_dict(encoder(folders["roberta"])) | {"tokenizer": None}
    with pytest.raises(InputError, match=r"text\.tokenizer: missing beside text\.architecture"):
        build_text_encoder("pretrained", settings)


def test_a_speech_encoder_is_no_text_encoder(folders):
    settings = text_encoder_to_dict(encoder(folders["roberta"]))
    settings["architecture"]["model_type"] = "wav2vec2"
    with pytest.raises(InputError, match=r"text\.architecture: model_type is 'wav2vec2'"):
        build_text_encoder("pretrained", settings)


def test_the_width_is_unknown_before_the_encoder_is_built():
    _, config_class = TEXT_ENCODERS["pretrained"]
    with pytest.raises(InputError, match="is not known yet: use the config of the built encoder"):
        _ = config_class(model="someone/tiny").n_features


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(
        InputError, match=r"text\.name is 'bert', expected one of pretrained, small"
    ):
        build_text_encoder("bert", {})
    with pytest.raises(InputError, match=r"text\.n_feature: unknown setting; did you mean"):
        build_text_encoder("small", {"n_feature": 8})
    with pytest.raises(InputError, match=r"text\.n_features = 7"):
        build_text_encoder("small", {"n_features": 7})


# ---- From scratch --------------------------------------------------------------------------------


def test_the_small_encoder_reads_any_script():
    small = build_text_encoder("small", {"n_features": 8})
    ids, n_tokens = small.tokenize(["aé", "中"])
    assert n_tokens.tolist() == [5, 5]
    assert ids[0].tolist() == [1, 3 + 0x61, 3 + 0xC3, 3 + 0xA9, 2]
    assert small(ids, n_tokens)[0].shape == (2, 5, 8)


# ---- Vectors computed elsewhere ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (1, 5, 8), (1, 8), (1, 1, 8)])
def test_published_vectors_are_read(tmp_path, shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "a.npy", vectors)
    read = read_text_features(tmp_path / "a.npy")
    assert read.dtype == np.float32
    assert np.array_equal(read, vectors.reshape(shape[-2:]).astype(np.float32))
    assert len(read_text_features(tmp_path / "a.npy", n_tokens=shape[-2])) == shape[-2]


def test_another_number_of_tokens_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 5, 8)))
    with pytest.raises(InputError, match=r"a\.npy: has vectors of 5 tokens, but the text has 6"):
        read_text_features(tmp_path / "a.npy", n_tokens=6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(5), r"has shape \(5,\), expected \(n_tokens, n_features\)"),
        (np.zeros((2, 5, 8)), r"has shape \(2, 5, 8\)"),
        (np.zeros((0, 8)), r"has shape \(0, 8\)"),
        (np.full((2, 3), np.nan), "NaN or infinite"),
        (np.zeros((2, 3), dtype=np.int64), "holds int64, expected one array of floating-point"),
        (np.array([[None]]), "not a readable .npy file"),
        (b"no array", "not a readable .npy file"),
        (b"", "not a readable .npy file"),
        (None, "not a readable .npy file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        read_text_features(path)
