"""Speech encoders against transformers itself, their promises, and every way to go wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from features.tiny_encoders import SPEECH_FAMILIES, speech_folder
from serkit.features import build_front_end, front_end_to_dict
from serkit.features.cache import Extractor
from serkit.features.pretrained import parameter_groups
from serkit.features.speech_encoder import (
    SpeechEncoder,
    SpeechEncoderConfig,
    count_frames,
    receptive_field,
)
from serkit.types import InputError, MissingExtraError

BASE = ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))  # kernels and strides of the published ones
CASES = [(family, norm) for family in SPEECH_FAMILIES for norm in ("group", "layer")]
LENGTHS = [6_000, 1, 3_210]
NO_DROPOUT = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "feat_proj", "final")} | {
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        (family, norm): speech_folder(root / f"{family}-{norm}", family, norm=norm)
        for family, norm in CASES
    }


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """Copy of a folder, to be damaged."""
    return Path(shutil.copytree(folders["wav2vec2", "group"], tmp_path / "model"))


@pytest.fixture
def waveforms() -> torch.Tensor:
    """(3, 6 000), padded with zeros."""
    x = 0.1 * torch.randn(3, 6_000, generator=torch.Generator().manual_seed(1)) + 0.02
    return x * (torch.arange(6_000) < torch.tensor(LENGTHS).unsqueeze(1))


def encoder(folder: Path, **settings) -> SpeechEncoder:
    return SpeechEncoder(SpeechEncoderConfig(model=str(folder), **settings))


def reference(folder: Path, waveform: torch.Tensor, *, do_normalize: bool = True):
    """Outputs of transformers for one waveform, prepared by its own feature extractor."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    prepare = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    values = prepare(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(values, output_hidden_states=True)


# ---- Numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_samples", "n_frames"), [(16_000, 49), (80_000, 249), (210_000, 656), (400, 1), (399, 0)]
)
def test_frames_are_counted_as_the_published_convolutions_make_them(n_samples, n_frames):
    assert count_frames(torch.tensor([n_samples]), *BASE).tolist() == [n_frames]


def test_an_utterance_too_short_for_a_frame_is_completed(tmp_path):
    kernels, strides = BASE
    folder = speech_folder(tmp_path, conv_kernel=kernels, conv_stride=strides, conv_dim=(8,) * 7)
    front_end = encoder(folder)
    assert receptive_field(*BASE) == 400
    assert front_end.n_frames(torch.tensor([1, 399, 400, 719, 720])).tolist() == [1, 1, 1, 1, 2]
    features, n_frames = front_end(0.1 * torch.ones(2, 399), torch.tensor([399, 1]))
    assert n_frames.tolist() == [1, 1]
    assert features.shape == (2, 1, 32)
    assert torch.isfinite(features).all()


@pytest.mark.parametrize(("family", "norm"), CASES)
def test_features_are_those_of_transformers(folders, waveforms, family, norm):
    front_end = encoder(folders[family, norm])
    features, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    expected = reference(folders[family, norm], waveforms[2, :3_210]).last_hidden_state[0]
    assert len(expected) == n_frames[2]
    assert torch.allclose(features[2, : n_frames[2]], expected, atol=1e-4)


@pytest.mark.parametrize(("family", "norm"), CASES)
def test_an_utterance_does_not_depend_on_its_batch(folders, waveforms, family, norm):
    front_end = encoder(folders[family, norm], trainable=True).eval()
    together, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    for row, n, frames in zip(range(3), LENGTHS, n_frames.tolist(), strict=True):
        alone, _ = front_end(waveforms[row : row + 1, :n], torch.tensor([n]))
        assert torch.allclose(together[row, :frames], alone[0], atol=1e-4)


@pytest.mark.parametrize(("family", "norm"), CASES)
def test_in_training_padding_is_kept_out_where_a_mask_can(tmp_path, waveforms, family, norm):
    folder = speech_folder(tmp_path, family, norm=norm, **NO_DROPOUT)
    front_end = encoder(folder, trainable=True).train()
    together, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    alone, _ = front_end(waveforms[2:, :3_210], torch.tensor([3_210]))
    difference = (together[2, : n_frames[2]] - alone[0]).abs().max()
    if norm == "layer" and family != "data2vec-audio":
        assert difference < 1e-4
    else:  # as published: see the module's page
        assert difference > 1e-3


def test_training_with_group_normalisation_pads_without_a_mask(tmp_path, waveforms):
    folder = speech_folder(tmp_path, **NO_DROPOUT)
    front_end = encoder(folder, trainable=True, normalise_waveform=False)
    features, n_frames = front_end.train()(waveforms, torch.tensor(LENGTHS))
    padded = reference(folder, waveforms[2], do_normalize=False).last_hidden_state[0]
    assert torch.allclose(features[2, : n_frames[2]], padded[: n_frames[2]], atol=1e-4)
    alone, _ = front_end.eval()(waveforms, torch.tensor(LENGTHS))
    assert (alone - features)[2, : n_frames[2]].abs().max() > 1e-2


@pytest.mark.parametrize("where", ["preprocessor_config.json", "processor_config.json"])
def test_the_preprocessor_file_says_whether_to_normalise(folder, waveforms, where):
    said = {"do_normalize": False, "sampling_rate": 16_000}
    content = said if where.startswith("pre") else {"feature_extractor": said}
    (folder / where).write_text(json.dumps(content))
    front_end = encoder(folder)
    assert front_end.config.normalise_waveform is False
    expected = reference(folder, waveforms[0], do_normalize=False).last_hidden_state
    assert torch.allclose(front_end(waveforms[:1], torch.tensor([6_000]))[0], expected, atol=1e-4)
    assert encoder(folder, normalise_waveform=True).config.normalise_waveform is True


# ---- Layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "norm"), CASES)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_is_the_state_behind_it(folders, waveforms, family, norm, layer):
    front_end = encoder(folders[family, norm], layer=layer)
    assert front_end.n_layers == layer
    expected = reference(folders[family, norm], waveforms[0]).hidden_states[layer]
    features, _ = front_end(waveforms[:1], torch.tensor([6_000]))
    assert torch.allclose(features, expected, atol=1e-4)


def test_the_highest_layer_is_the_last(folders, waveforms):
    highest, last = (encoder(folders["wav2vec2", "layer"], layer=layer) for layer in (2, "last"))
    assert highest.config.layer == "last"
    n_samples = torch.tensor(LENGTHS)
    assert torch.equal(highest(waveforms, n_samples)[0], last(waveforms, n_samples)[0])


def test_a_layer_that_is_not_there_is_refused(folders):
    with pytest.raises(InputError, match=r"front_end\.layer is 3, but .* has 2 layers"):
        encoder(folders["wav2vec2", "layer"], layer=3)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_weighted_layers_are_summed_with_trained_shares(folders, waveforms, norm):
    front_end = encoder(folders["hubert", norm], layer="weighted")
    states = [
        encoder(folders["hubert", norm], layer=layer)(waveforms[:1], torch.tensor([6_000]))[0]
        for layer in (0, 1, 2)
    ]
    features, _ = front_end(waveforms[:1], torch.tensor([6_000]))
    assert torch.allclose(features, sum(states) / 3, atol=1e-4)
    with torch.no_grad():
        front_end.layer_weights.copy_(torch.tensor([0.0, 2.0, 1.0]).log().clamp_min(-100))
    features, _ = front_end(waveforms[:1], torch.tensor([6_000]))
    assert torch.allclose(features, (2 * states[1] + states[2]) / 3, atol=1e-4)
    assert front_end.config.architecture["layerdrop"] == 0.0


# ---- Training ------------------------------------------------------------------------------------


def trained(front_end: SpeechEncoder) -> set[str]:
    """Second parts of the names of what is trained."""
    return {
        ".".join(name.split(".")[:2]) for name, p in front_end.named_parameters() if p.requires_grad
    }


def test_what_is_frozen(folders):
    folder = folders["hubert", "group"]
    assert trained(encoder(folder)) == set()
    assert not encoder(folder).has_trainable_parameters
    assert trained(encoder(folder, layer="weighted")) == {"layer_weights"}
    assert encoder(folder, layer="weighted").has_trainable_parameters
    above = {"encoder.feature_projection", "encoder.encoder"}
    assert trained(encoder(folder, trainable=True)) == above
    everything = encoder(folder, trainable=True, freeze_cnn=False)
    assert trained(everything) == above | {"encoder.feature_extractor"}


def test_a_frozen_encoder_has_no_dropout_in_training(folders, waveforms):
    front_end = encoder(folders["wav2vec2", "group"]).train()
    assert not front_end.encoder.training
    first, _ = front_end(waveforms, torch.tensor(LENGTHS))
    assert torch.equal(front_end(waveforms, torch.tensor(LENGTHS))[0], first)


@pytest.mark.parametrize(("family", "norm"), CASES)
@pytest.mark.parametrize("layer", ["last", "weighted", 1])
def test_what_is_trained_has_a_gradient(folders, waveforms, family, norm, layer):
    front_end = encoder(folders[family, norm], trainable=True, freeze_cnn=False, layer=layer)
    features, _ = front_end.train()(waveforms, torch.tensor(LENGTHS))
    features.square().sum().backward()
    for name, parameter in front_end.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


@pytest.mark.parametrize("layer", ["last", "weighted"])
def test_checkpointing_gives_the_same_gradients(folders, waveforms, layer):
    gradients = []
    for checkpointing in (False, True):
        front_end = encoder(
            folders["wavlm", "layer"],
            trainable=True,
            layer=layer,
            gradient_checkpointing=checkpointing,
        ).train()
        assert front_end.encoder.is_activation_checkpointing is checkpointing
        torch.manual_seed(3)  # of the dropout
        features, _ = front_end(waveforms, torch.tensor(LENGTHS))
        features.square().sum().backward()
        gradients.append([p.grad for p in front_end.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-5)


def test_learning_rates_fall_from_the_last_layer_down(folders):
    front_end = encoder(
        folders["wav2vec2", "layer"], trainable=True, freeze_cnn=False, layer="weighted"
    )
    groups = front_end.parameter_groups(decay=0.5)
    assert [factor for _, factor in groups] == [1.0, 0.5, 0.25]
    assert sorted(name for names, _ in groups for name in names) == sorted(
        name for name, _ in front_end.named_parameters()
    )
    top, first, below = (names for names, _ in groups)
    assert {"layer_weights", "encoder.encoder.layer_norm.weight"} <= set(top)
    assert all(name.startswith("encoder.encoder.layers.0.") for name in first)
    assert "encoder.feature_extractor.conv_layers.1.conv.weight" in below
    assert "encoder.encoder.pos_conv_embed.conv.bias" in below
    flat = encoder(folders["wav2vec2", "group"], trainable=True).parameter_groups()
    assert {factor for _, factor in flat} == {1.0}
    assert "encoder.encoder.layer_norm.weight" in flat[-1][0]  # before the layers, in this form


def test_frozen_parameters_are_in_no_group(folders):
    assert encoder(folders["wav2vec2", "group"]).parameter_groups(decay=0.9) == []
    assert parameter_groups([], n_layers=2, decay=0.9) == []


# ---- Saved and found again -----------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["last", "weighted", 1])
@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_encoder_is_rebuilt_without_its_folder(tmp_path, waveforms, norm, layer):
    folder = speech_folder(tmp_path / "model", "wavlm", norm=norm, layerdrop=0.1)
    front_end = encoder(folder, layer=layer)
    expected, _ = front_end(waveforms, torch.tensor(LENGTHS))
    shutil.rmtree(folder)
    settings = json.loads(json.dumps(front_end_to_dict(front_end)))
    rebuilt = build_front_end("speech_encoder", settings)
    assert rebuilt.config == front_end.config
    assert trained(rebuilt) == trained(front_end)
    rebuilt.load_state_dict(front_end.state_dict())
    got, _ = rebuilt(waveforms, torch.tensor(LENGTHS))
    assert torch.allclose(got, expected, atol=1e-5)  # where weights lie in memory changes last bits


def test_settings_identify_the_weights(folder):
    def fingerprint() -> str:
        return Extractor(print, 16_000, "mean", asdict(encoder(folder).config)).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    changed = encoder(folder).encoder
    with torch.no_grad():
        changed.feature_projection.projection.bias.add_(1e-3)
    changed.save_pretrained(folder)
    assert fingerprint() != first


def test_other_weights_than_expected_are_refused(folder):
    known = encoder(folder).config.weights_sha256
    assert encoder(folder, weights_sha256=known).config.weights_sha256 == known
    with pytest.raises(InputError, match=r"front_end\.weights_sha256 is 0{64}, but the weights"):
        encoder(folder, weights_sha256="0" * 64)


def test_weights_in_parts_are_read(folder):
    whole = encoder(folder)
    (folder / "model.safetensors").unlink()
    whole.encoder.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    parts = encoder(folder)
    assert parts.config.weights_sha256 != whole.config.weights_sha256
    for name, tensor in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], tensor)


def test_a_network_with_a_head_is_read_without_a_word(tmp_path, capfd):
    """Published folders hold more than the encoder, under names with a prefix."""
    from transformers import AutoConfig, AutoModelForCTC

    plain = speech_folder(tmp_path / "plain")
    model = AutoModelForCTC.from_config(AutoConfig.from_pretrained(plain))
    model.save_pretrained(tmp_path / "ctc")
    capfd.readouterr()
    loaded = encoder(tmp_path / "ctc").state_dict()
    assert capfd.readouterr() == ("", "")
    expected = model.wav2vec2.state_dict()
    assert all(torch.equal(tensor, expected[name[8:]]) for name, tensor in loaded.items())


def test_transformers_is_imported_only_when_it_is_used():
    code = "import sys, serkit.cli, serkit.recognizer; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Everything that can be wrong ----------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("SERKIT_DOWNLOAD", raising=False)
    return tmp_path / "hub"


@pytest.mark.parametrize("model", ["facebook/wav2vec2-base", "/no/such/folder", "a b"])
def test_a_missing_model_says_how_to_get_it(empty_cache, model):
    with pytest.raises(InputError) as caught:
        encoder(Path(model))
    message = str(caught.value)
    assert f"front_end.model '{model}' is no folder" in message
    assert str(empty_cache) in message
    assert f"hf download {model} --revision COMMIT --local-dir DIR" in message
    assert "SERKIT_DOWNLOAD=1" in message
    assert "\n" not in message


def test_a_model_in_the_cache_is_found(empty_cache, folders):
    commit = "a" * 40
    cached = empty_cache / "models--someone--tiny"
    shutil.copytree(folders["wav2vec2", "group"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    assert encoder(Path("someone/tiny")).n_layers == 2
    assert encoder(Path("someone/tiny"), revision=commit).n_layers == 2
    with pytest.raises(InputError, match="and revision v2 of it is not in the cache"):
        encoder(Path("someone/tiny"), revision="v2")


@pytest.mark.parametrize("revision", [None, "main"])
def test_only_a_commit_is_downloaded(empty_cache, monkeypatch, revision):
    monkeypatch.setenv("SERKIT_DOWNLOAD", "1")
    with pytest.raises(InputError, match=r"front_end\.revision is .*expected a commit"):
        encoder(Path("someone/tiny"), revision=revision)


def test_a_download_asks_for_no_pickles(empty_cache, monkeypatch, folders):
    asked = []

    def download(model, *, revision, local_files_only=False, allow_patterns=None):
        if local_files_only:
            raise FileNotFoundError
        asked.append((model, revision, allow_patterns))
        return folders["wav2vec2", "group"]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("SERKIT_DOWNLOAD", "1")
    assert encoder(Path("someone/tiny"), revision="b" * 40).n_layers == 2
    assert asked == [("someone/tiny", "b" * 40, ["*.json", "*.txt", "*.safetensors"])]


def test_a_failed_download_is_one_line(empty_cache, monkeypatch):
    monkeypatch.setenv("SERKIT_DOWNLOAD", "1")  # while the hub is off, see conftest.py
    with pytest.raises(InputError, match=r"front_end\.model 'someone/tiny' could not be fetched"):
        encoder(Path("someone/tiny"), revision="b" * 40)


def test_without_transformers_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serkit\[encoders\]'"):
        encoder(folder)
    with pytest.raises(MissingExtraError, match=r"pip install 'serkit\[encoders\]'"):
        encoder(Path("someone/tiny"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, r"config\.json: no such file"),
        ("config.json", "{", r"config\.json: not valid JSON"),
        ("config.json", "[]", r"config\.json: holds a list, expected an object"),
        ("config.json", '{"model_type": "bert"}', "model_type is 'bert', expected one of data2vec"),
        (
            "config.json",
            '{"model_type": "wav2vec2", "hidden_size": "wide"}',
            "not a valid architecture",
        ),
        (
            "config.json",
            '{"model_type": "wav2vec2", "add_adapter": true}',
            "add_adapter is true",
        ),
        (
            "preprocessor_config.json",
            '{"sampling_rate": 8000}',
            "sample_rate is 16000, but .* 8000",
        ),
        ("model.safetensors", None, r"holds no model\.safetensors"),
        ("model.safetensors", "short", r"model\.safetensors: weights are damaged"),
    ],
)
def test_a_damaged_folder_is_refused(folder, file, content, message):
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        encoder(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_width_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(InputError, match=r"model\.safetensors: weights are damaged or do not fit"):
        encoder(folder)


def test_truncated_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.safetensors: weights are damaged"):
        encoder(folder)


def test_missing_tensors_are_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"1 of \d+ tensors .* the first is encoder\.layers\.1\.at"
    ):
        encoder(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights can run code"):
        encoder(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "damaged, it names no parts"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', r"model-1\.safetensors: missing"),
    ],
)
def test_a_damaged_index_is_refused(folder, index, message):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message):
        encoder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"front_end\.architecture: model_type is 'gpt2'"),
        ({"hidden_size": "wide"}, r"front_end\.architecture: not a valid architecture"),
        ({"num_attention_heads": 5}, r"front_end\.architecture: not a working architecture"),
    ],
)
def test_a_damaged_architecture_is_refused(folder, changes, message):
    settings = asdict(encoder(folder).config)
    settings["architecture"] |= changes
    with pytest.raises(InputError, match=message):
        build_front_end("speech_encoder", settings)


def test_the_width_is_unknown_before_the_encoder_is_built():
    with pytest.raises(InputError, match="is not known yet: use the config of the built encoder"):
        _ = SpeechEncoderConfig(model="someone/tiny").n_features
