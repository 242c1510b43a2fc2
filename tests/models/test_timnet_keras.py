"""The authors' weight files: written here in Keras 2's layout with the golden formula."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from serkit import cli
from serkit.corpora import CORPORA
from serkit.experiment.originals.timnet import import_weights
from serkit.models.timnet_keras import KerasWeightsError, load_keras_weights
from serkit.recognizer import load_recognizer
from serkit.types import InputError, MissingExtraError

h5py = pytest.importorskip("h5py")

Tensors = dict[str, np.ndarray]

_NORM = {"gamma": "gamma", "beta": "beta", "mean": "moving_mean", "var": "moving_variance"}


def keras_tensors(goldens: ModuleType, golden: dict[str, Any], *, first: int) -> Tensors:
    """Name the golden tensors as Keras does when ``first`` layers of each kind came before."""
    tensors, numbers = {}, {"conv1d": first, "batch_normalization": first, "dense": first // 30}
    layer = ""
    for k, (role, shape, _, _) in enumerate(golden["tensors"]):
        stem, _, part = role.rpartition(".")
        if part in ("kernel", "gamma") or role == "fusion.weight":
            base = {"kernel": "dense" if stem == "head" else "conv1d"}.get(
                part, "batch_normalization" if part == "gamma" else "weight_layer"
            )
            number = numbers.get(base, 0)
            numbers[base] = number + 1
            layer = f"{base}_{number}" if number else base
        weight = "kernel" if role == "fusion.weight" else _NORM.get(part, part)
        tensors[f"{layer}/{weight}:0"] = goldens.golden_fill(k, role, shape).numpy()
    return tensors


def write(path: Path, tensors: Tensors, *, nested: str = "", model: bool = False) -> Path:
    """Write tensors as Keras 2's ``save_weights`` does (or ``save``, with ``model``)."""
    layers: dict[str, list[str]] = {"input_1": []}  # layers without weights are empty groups
    for name in tensors:
        layers.setdefault(nested or name.split("/")[0], []).append(name)
    layers["dropout_5"] = []
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if model else file
        root.attrs["layer_names"] = [name.encode() for name in sorted(layers)]
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.8.0"
        for layer, names in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group.create_dataset(name, data=tensors[name])
        if model:
            file.create_group("optimizer_weights").create_dataset("Adam/iter:0", data=7)
    return path


@pytest.fixture
def emodb(goldens: ModuleType) -> Callable[..., Tensors]:
    golden = goldens.CONFIGS["emodb_188x39_n8_c7"]
    return lambda first=0: keras_tensors(goldens, golden, first=first)


@pytest.mark.parametrize("name", ["emodb_188x39_n8_c7", "iemocap_606x39_n10_c4"])
@pytest.mark.parametrize(
    ("first", "layout"),
    [(0, {}), (95, {}), (970, {}), (0, {"nested": "timnet_3"}), (62, {"model": True})],
)
def test_weights_give_the_authors_logits(goldens, tmp_path, name, first, layout):
    golden = goldens.CONFIGS[name]
    path = write(tmp_path / "w.hdf5", keras_tensors(goldens, golden, first=first), **layout)
    model = load_keras_weights(path)
    assert not model.training
    assert model.config.n_scales == golden["n_scales"]
    assert model.config.n_classes == golden["classes"]
    x = goldens.golden_input(golden["input_shape"])
    with torch.no_grad():
        out = model(x, torch.full((len(x),), x.shape[1]))
    for output, key in (("emotion", "logits"), ("embedding", "embedding")):
        expected = torch.tensor(golden["eval"][key])
        error = (out[output] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, output


def test_every_tensor_lands_in_its_place(goldens, tmp_path, emodb):
    path = write(tmp_path / "w.hdf5", emodb(first=88))
    model = load_keras_weights(path)
    for k, (role, shape, _, _) in enumerate(goldens.CONFIGS["emodb_188x39_n8_c7"]["tensors"]):
        expected = goldens.to_ours(role, goldens.golden_fill(k, role, shape))
        assert torch.equal(goldens.our_tensor(model, role).detach(), expected), role


def refusal(path: Path) -> str:
    with pytest.raises(KerasWeightsError) as caught:
        load_keras_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_files_that_are_no_weights_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.hdf5")
    for content in (b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path = tmp_path / "other.hdf5"
        path.write_bytes(content)
        assert "not an HDF5 file, or a damaged one" in refusal(path)


def test_truncated_files_are_refused(tmp_path, emodb):
    path = write(tmp_path / "w.hdf5", emodb())
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        refusal(path)


def test_missing_layers_are_counted(tmp_path, emodb):
    tensors = emodb()
    for name in [n for n in tensors if n.startswith("conv1d_33/")]:
        del tensors[name]
    path = write(tmp_path / "w.hdf5", tensors)
    assert "33 convolutions, 32 batch norms, 1 fusion layers and 1 dense" in refusal(path)
    path = write(tmp_path / "none.hdf5", {})
    assert "0 convolutions, 0 batch norms" in refusal(path)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("conv1d_7/kernel:0", lambda a: a[:1], "the kernel of convolution 8 of 34 is float32"),
        ("conv1d/kernel:0", lambda a: a[:, :20], r"shape (1, 20, 39), expected float32 of shape"),
        ("conv1d_2/bias:0", lambda a: a[:5], "the bias of convolution 3 of 34"),
        ("conv1d_2/bias:0", lambda a: a.astype(int), "is int64 of shape (39,), expected float32"),
        ("batch_normalization_4/gamma:0", lambda a: a[1:], "gamma of batch norm 5 of 32"),
        ("batch_normalization/moving_variance:0", lambda a: -a, "is negative"),
        ("dense/kernel:0", lambda a: a[:20], "the classifier's kernel is float32 of shape (20, 7)"),
        ("dense/bias:0", lambda a: a[:3], "the classifier's bias"),
        ("dense/kernel:0", lambda a: a[:, :1], "the classifier has 1 classes"),
        ("dense/kernel:0", lambda a: a * np.nan, "the classifier's kernel holds NaN"),
        ("weight_layer/kernel:0", lambda a: a[:5], r"shape (5, 1), expected float32 of shape (8,"),
        ("weight_layer/kernel:0", lambda a: a[:, 0], "the layer 'weight_layer/weight_layer'"),
        ("dense/kernel:0", lambda a: a[None, None], "kernel (1, 1, 39, 7)) is none of TIM-Net"),
    ],
)
def test_wrong_shapes_are_named(tmp_path, emodb, name, change, reason):
    tensors = emodb()
    assert name in tensors
    tensors[name] = change(tensors[name])
    assert reason in refusal(write(tmp_path / "w.hdf5", tensors))


def test_layers_of_another_network_are_named(tmp_path, emodb):
    tensors = emodb() | {"lstm/recurrent_kernel:0": np.zeros((4, 16), np.float32)}
    path = write(tmp_path / "w.hdf5", tensors)
    assert "the layer 'lstm/lstm' (recurrent_kernel (4, 16)) is none of" in refusal(path)


def test_layers_named_by_hand_are_refused_because_their_order_is_lost(tmp_path, emodb):
    tensors = {
        name.replace("conv1d_5/", "first/").replace("conv1d_6/", "second/"): value
        for name, value in emodb(first=3).items()
    }
    path = write(tmp_path / "w.hdf5", tensors)
    assert "two layers of kind convolution have the number 0" in refusal(path)


def test_a_file_that_claims_huge_layers_allocates_nothing(tmp_path, emodb):
    path = write(tmp_path / "w.hdf5", emodb())
    with h5py.File(path, "r+") as file:
        for name, shape in (("kernel:0", (39, 10**10)), ("bias:0", (10**10,))):
            del file[f"dense/dense/{name}"]
            file.create_dataset(f"dense/dense/{name}", shape=shape, chunks=True, dtype="f4")
    assert "the classifier has 10000000000 classes, expected 2 to 100" in refusal(path)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serkit\[keras-weights\]'"):
        load_keras_weights(tmp_path / "w.hdf5")


# As a checkpoint


def test_imported_weights_make_a_checkpoint(goldens, tmp_path, emodb, capsys, monkeypatch):
    path = write(tmp_path / "w.hdf5", emodb(first=12))
    out = tmp_path / "checkpoint"
    command = ["serkit", "import-weights", str(path), "--corpus", "berlin", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as finished:
        cli.main()
    assert finished.value.code == 0
    printed = capsys.readouterr().out
    assert "angry, boredom, disgust, fear, happy, neutral, sad" in printed
    assert "speaker-dependent, sentences shared, possibly selected on test" in printed
    recognizer = load_recognizer(out)
    assert recognizer.labels.classes == tuple(sorted(CORPORA["emodb"].EXPECTED.per_label))
    assert recognizer.n_parameters == 106_992
    assert recognizer.config.view == {"kind": "fixed", "n_samples": 96_000}
    trained_on = recognizer.config.trained_on
    assert "imported from the authors' Keras weights" in trained_on["origin"]
    assert trained_on["protocol"]["speaker_independent"] is False
    assert "POSSIBLY SELECTED ON TEST" in (out / "README.md").read_text("utf-8")
    golden = goldens.CONFIGS["emodb_188x39_n8_c7"]
    x = goldens.golden_input(golden["input_shape"])
    with torch.no_grad():
        logits = recognizer({"features": x, "n_frames": torch.tensor([188, 188])})["emotion"]
    expected = torch.tensor(golden["eval"]["logits"])
    assert (logits - expected).abs().max() / expected.abs().max() < 1e-4
    noise = np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32)
    prediction = recognizer.predict(noise, 22_050)
    assert prediction.model == "timnet-authors-emodb"
    assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)


def test_ten_depths_and_merged_classes_are_those_of_iemocap(goldens, tmp_path):
    golden = goldens.CONFIGS["iemocap_606x39_n10_c4"]
    path = write(tmp_path / "w.hdf5", keras_tensors(goldens, golden, first=0))
    imported = import_weights(path, "iemocap", tmp_path / "out")
    assert imported.classes == ("angry", "happy", "neutral", "sad")
    assert imported.to_dict()["n_scales"] == 10
    assert load_recognizer(tmp_path / "out").config.view["n_samples"] == 310_000


def test_weights_of_another_corpus_are_refused(tmp_path, emodb):
    path = write(tmp_path / "w.hdf5", emodb())
    with pytest.raises(InputError, match=r"has 7 classes, corpus casia has 6 \(angry, .*--corpus"):
        import_weights(path, "casia", tmp_path / "out")
    with pytest.raises(InputError, match=r"corpus table has 0 \(none known\)"):
        import_weights(path, "table", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_written_to(tmp_path, emodb):
    path = write(tmp_path / "w.hdf5", emodb())
    with pytest.raises(InputError, match="not an empty folder: choose another -o"):
        import_weights(path, "emodb", tmp_path)
