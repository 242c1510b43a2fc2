"""Token vectors computed elsewhere: found by utterance id, checked, and written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from features.tiny_encoders import text_folder
from serkit.features.text import (
    PrecomputedTextConfig,
    build_text_encoder,
    build_text_input,
    text_encoder_to_dict,
    write_text_features,
)
from serkit.types import InputError

LENGTHS = {"a": 3, "b/c": 1, "d": 5}


def vectors() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {i: generator.standard_normal((n, 4), dtype=np.float32) for i, n in LENGTHS.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    for identity, rows in vectors().items():
        path = tmp_path / "vectors" / f"{identity}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows[None] if identity == "a" else rows)
    return tmp_path / "vectors"


@pytest.fixture
def archive(tmp_path) -> Path:
    return write_archive(tmp_path / "vectors.npz")


def write_archive(path: Path, **changes) -> Path:
    found = vectors()
    arrays = {
        "ids": np.array(list(found)),
        "lengths": np.array([len(rows) for rows in found.values()]),
        "values": np.concatenate(list(found.values())),
    }
    np.savez(path, **(arrays | changes))
    return path


def precomputed(path: Path, **settings):
    return build_text_input("precomputed", {"folder": str(path), **settings})


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_vectors_are_found_by_id(request, form):
    encoder = precomputed(request.getfixturevalue(form))
    assert encoder.config.n_features == 4
    read = encoder.read(["d", "a"])
    assert read.n_tokens.tolist() == [5, 3]
    np.testing.assert_array_equal(read.text, np.concatenate([vectors()["d"], vectors()["a"]]))
    assert encoder.read(["b/c"]).n_tokens.tolist() == [1]
    assert not encoder.has_trainable_parameters


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_settings_identify_the_vectors_and_stand_without_them(request, form):
    path = request.getfixturevalue(form)
    settings = json.loads(json.dumps(text_encoder_to_dict(precomputed(path))))
    assert len(settings["sha256"]) == 64
    assert precomputed(path, sha256=settings["sha256"]).config.n_features == 4
    with pytest.raises(InputError, match=r"text\.sha256 is 0{64}, but the vectors in .* again"):
        precomputed(path, sha256="0" * 64)
    rebuilt = build_text_input("precomputed", settings | {"folder": "/gone"})
    assert rebuilt.config.n_features == 4


def test_other_vectors_have_another_hash(folder):
    before = precomputed(folder).config.sha256
    np.save(folder / "d.npy", vectors()["d"] + 1)
    assert precomputed(folder).config.sha256 != before


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_utterances_without_vectors_are_counted(request, form):
    encoder = precomputed(request.getfixturevalue(form))
    with pytest.raises(InputError, match=r"2 of 3 utterances have no vectors in .* first is x"):
        encoder.read(["a", "x", "y"])


def test_vectors_of_several_widths_are_refused(folder):
    np.save(folder / "d.npy", np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(InputError, match=r"the vectors of d in .* have 3 numbers, expected 4"):
        precomputed(folder).read(["a", "d"])


def test_a_folder_without_vectors_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"text\.folder: no vectors in"):
            precomputed(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": np.array([3, 1, 4])}, "do not fit, expected"),
        ({"lengths": np.array([3, 0, 6])}, "do not fit, expected"),
        ({"ids": np.array(["a"])}, "do not fit, expected"),
        ({"values": np.zeros((9, 4), dtype=int)}, "do not fit, expected"),
        ({"values": np.full((9, 4), np.nan)}, "holds NaN or infinite values"),
        ({"ids": np.array(["a", "b", None])}, r"no readable \.npz file with the arrays ids"),
    ],
)
def test_archives_that_cannot_be_used_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        precomputed(write_archive(tmp_path / "bad.npz", **changes))


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_damaged_archives_are_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"no readable \.npz file"):
        precomputed(tmp_path / "bad.npz")


def test_an_archive_without_lengths_is_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", ids=np.array(["a"]))
    with pytest.raises(InputError, match=r"no readable \.npz file .*lengths"):
        precomputed(tmp_path / "bad.npz")


def test_texts_are_refused(folder):
    with pytest.raises(InputError, match="got 2 texts, but this recognizer reads vectors that"):
        precomputed(folder).tokenize(["one", "two"])


def test_vectors_pass_unchanged(folder):
    text, n_tokens = torch.zeros(2, 3, 4), torch.tensor([3, 1])
    assert precomputed(folder)(text, n_tokens) == (text, n_tokens)


def test_the_width_is_unknown_before_the_vectors_are_looked_at():
    with pytest.raises(InputError, match=r"text\.width of the vectors in 'x' is not known yet"):
        _ = PrecomputedTextConfig(folder="x").n_features


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(InputError, match="expected one of precomputed, pretrained, small"):
        build_text_input("glove", {})


@pytest.mark.parametrize("name", ["pretrained", "small"])
def test_vectors_that_an_encoder_wrote_are_its_own(tmp_path, name):
    settings = {}
    if name == "pretrained":
        settings = {"model": str(text_folder(tmp_path / "model")), "max_tokens": 60}
    torch.manual_seed(0)
    encoder = build_text_encoder(name, settings)
    texts = {"one": "Hello [SIGH] world", "two/three": ""}
    folder = write_text_features(tmp_path / "vectors", encoder, texts)
    read = precomputed(folder).read(list(texts))
    with torch.no_grad():
        expected, _ = encoder(*encoder.tokenize(["Hello world"]))
    np.testing.assert_allclose(read.text[: read.n_tokens[0]], expected[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("identity", ["a/../../x", "../x", "/x", "..\\x"])
def test_ids_that_lead_outside_the_folder_are_refused(tmp_path, identity):
    encoder = build_text_encoder("small", {})
    with pytest.raises(InputError, match="leads outside"):
        write_text_features(tmp_path / "vectors", encoder, {"one": "hello", identity: "hello"})
    assert not list(tmp_path.rglob("*.npy"))
