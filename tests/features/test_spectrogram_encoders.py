"""Whisper and w2v-BERT 2.0 as front ends: against transformers, and what they promise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from features.tiny_encoders import speech_folder, w2v_bert_folder, whisper_folder
from serkit.features import build_front_end, front_end_to_dict
from serkit.features.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
from serkit.types import InputError
from tests_support import tone

RATE = 16_000
LENGTHS = [40_000, 1, 12_345, 16_000]  # Whisper's windows here are of a second


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {
        "whisper": whisper_folder(root / "whisper"),
        "w2v-bert": w2v_bert_folder(root / "w2v-bert"),
    }


@pytest.fixture(params=["whisper", "w2v-bert"])
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture
def waveforms() -> torch.Tensor:
    """(4, 40 000), with noise instead of zeros behind the ends."""
    return 0.1 * torch.randn(4, 40_000, generator=torch.Generator().manual_seed(1)) + 0.01


def encoder(folder: Path, **settings) -> SpeechEncoder:
    return SpeechEncoder(SpeechEncoderConfig(model=str(folder), **settings)).eval()


def whisper_reference(folder: Path, waveform: torch.Tensor):
    """Outputs of transformers for one second, prepared by its own feature extractor."""
    from transformers import WhisperFeatureExtractor, WhisperModel

    prepare = WhisperFeatureExtractor(feature_size=20, chunk_length=1)
    values = prepare(waveform.numpy(), sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        network = WhisperModel.from_pretrained(folder).encoder.eval()
        return network(values, output_hidden_states=True)


def w2v_bert_reference(folder: Path, waveform: torch.Tensor):
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertModel

    prepare = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, padding_value=0.0)
    values = prepare(waveform.numpy(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        network = Wav2Vec2BertModel.from_pretrained(folder).eval()
        return network(**values, output_hidden_states=True)


def test_whisper_s_frames_are_those_of_transformers(folders, waveforms):
    front_end = encoder(folders["whisper"])
    features, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    assert n_frames.tolist() == [125, 1, 39, 50]
    expected = whisper_reference(folders["whisper"], waveforms[2, :12_345]).last_hidden_state[0]
    assert torch.allclose(features[2, :39], expected[:39], atol=1e-4)
    assert not features[2, 39:].any()


def test_a_longer_utterance_is_read_by_whisper_window_by_window(folders, waveforms):
    features, _ = encoder(folders["whisper"])(waveforms[:1], torch.tensor([40_000]))
    for number in range(3):
        stretch = waveforms[0, number * RATE : (number + 1) * RATE]
        expected = whisper_reference(folders["whisper"], stretch).last_hidden_state[0]
        got = features[0, 50 * number : 50 * (number + 1)]
        assert torch.allclose(got, expected[: len(got)], atol=1e-4)


def test_w2v_bert_s_frames_are_those_of_transformers(folders, waveforms):
    front_end = encoder(folders["w2v-bert"])
    features, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    assert n_frames.tolist() == [124, 1, 37, 49]
    expected = w2v_bert_reference(folders["w2v-bert"], waveforms[2, :12_345]).last_hidden_state[0]
    assert torch.allclose(features[2, :37], expected[:37], atol=1e-3)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_is_the_state_behind_it(folders, waveforms, layer):
    for name, reference in (("whisper", whisper_reference), ("w2v-bert", w2v_bert_reference)):
        front_end = encoder(folders[name], layer=layer)
        assert front_end.n_layers == layer
        expected = reference(folders[name], waveforms[2, :12_345]).hidden_states[layer][0]
        features, n_frames = front_end(waveforms[2:3], torch.tensor([12_345]))
        n = int(n_frames)
        assert torch.allclose(features[0, :n], expected[:n], atol=1e-3)


def test_weighted_layers_are_summed_with_trained_shares(folder, waveforms):
    n_samples = torch.tensor(LENGTHS)
    states = [encoder(folder, layer=layer)(waveforms, n_samples)[0] for layer in (0, 1, 2)]
    front_end = encoder(folder, layer="weighted")
    assert torch.allclose(front_end(waveforms, n_samples)[0], sum(states) / 3, atol=1e-4)
    assert front_end.has_trainable_parameters


@pytest.mark.parametrize("training", [False, True])
def test_an_utterance_does_not_depend_on_its_batch(folder, waveforms, training):
    front_end = encoder(folder, trainable=True)
    for module in front_end.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    front_end.train(training)
    together, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    for row, n, frames in zip(range(4), LENGTHS, n_frames.tolist(), strict=True):
        alone, _ = front_end(waveforms[row : row + 1, :n], torch.tensor([n]))
        assert alone.shape[1] == frames
        assert torch.allclose(together[row, :frames], alone[0], atol=1e-4)


def test_what_is_trained_has_a_gradient_and_a_group(folder, waveforms):
    front_end = encoder(folder, trainable=True, layer="weighted").train()
    features, _ = front_end(waveforms, torch.tensor(LENGTHS))
    features.square().sum().backward()
    learning = {name for name, p in front_end.named_parameters() if p.requires_grad}
    assert {name for name, p in front_end.named_parameters() if p.grad is not None} == learning
    assert not any(name.startswith(("encoder.conv1", "encoder.embed_pos")) for name in learning)
    groups = front_end.parameter_groups(decay=0.5)
    assert {name for names, _ in groups for name in names} == learning
    assert "layer_weights" in groups[0][0]


def test_whisper_s_convolutions_are_trained_where_that_is_asked_for(folders):
    front_end = encoder(folders["whisper"], trainable=True, freeze_cnn=False)
    names = {name for name, p in front_end.named_parameters() if p.requires_grad}
    assert "encoder.conv1.weight" in names
    factors = dict(
        (name, factor) for names, factor in front_end.parameter_groups(decay=0.5) for name in names
    )
    assert factors["encoder.layer_norm.weight"] == 1.0
    assert factors["encoder.layers.0.fc1.weight"] == 0.5
    assert factors["encoder.conv1.weight"] == 0.25


def test_shorter_windows_change_what_is_attended_to_and_not_the_number_of_frames(
    folders, waveforms
):
    whole = encoder(folders["whisper"])
    halves = encoder(folders["whisper"], window_s=0.5)
    assert len(halves.encoder.embed_positions.weight) == 25
    n_samples = torch.tensor(LENGTHS)
    got, n_frames = halves(waveforms, n_samples)
    expected, expected_frames = whole(waveforms, n_samples)
    assert n_frames.tolist() == expected_frames.tolist()
    assert got.shape == expected.shape
    assert not torch.allclose(got, expected, atol=1e-2)


@pytest.mark.parametrize("layer", ["last", "weighted", 1])
def test_an_encoder_is_rebuilt_without_its_folder(folder, waveforms, tmp_path, layer):
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    window = {"window_s": 0.5} if "whisper" in folder.name else {}
    front_end = encoder(copy, layer=layer, **window)
    expected, _ = front_end(waveforms, torch.tensor(LENGTHS))
    shutil.rmtree(copy)
    settings = json.loads(json.dumps(front_end_to_dict(front_end)))
    rebuilt = build_front_end("speech_encoder", settings)
    assert rebuilt.config == front_end.config
    rebuilt.load_state_dict(front_end.state_dict())
    got, _ = rebuilt.eval()(waveforms, torch.tensor(LENGTHS))
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_recognizer_with_such_an_encoder_is_saved_and_used(folder, tmp_path, trainable):
    torch.manual_seed(0)
    recognizer = Recognizer(
        RecognizerConfig(
            system="pooled",
            classes=("happy", "sad"),
            view={"kind": "whole", "max_samples": 12_000},
            front_end={"name": "speech_encoder", "model": str(folder), "trainable": trainable},
            model={"name": "pooled", "n_projected": 8},
        )
    )
    voice = tone(200, seconds=0.5, rate=RATE)
    expected = recognizer.predict(voice, RATE)
    recognizer.save(tmp_path / "model")
    got = load_recognizer(tmp_path / "model").predict(voice, RATE)
    assert got.scores == pytest.approx(expected.scores, abs=1e-5)


def test_folders_of_whisper_s_other_classes_are_read(folders, tmp_path):
    from transformers import WhisperConfig, WhisperForAudioClassification, WhisperModel

    expected = encoder(folders["whisper"])
    WhisperModel.from_pretrained(folders["whisper"]).save_pretrained(tmp_path / "bare")
    bare = encoder(tmp_path / "bare")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(bare.state_dict()[name], tensor)
    config = WhisperConfig.from_pretrained(folders["whisper"])
    WhisperForAudioClassification(config).save_pretrained(tmp_path / "classes")
    assert encoder(tmp_path / "classes").n_layers == 2


def test_missing_tensors_of_whisper_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders["whisper"], tmp_path / "model"))
    weights = load_file(copy / "model.safetensors")
    del weights["model.encoder.conv1.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 of \d+ tensors .* the first is conv1\.weight"):
        encoder(copy)


def test_weights_of_another_size_are_refused(folders, tmp_path):
    copy = Path(shutil.copytree(folders["whisper"], tmp_path / "model"))
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"d_model": 16}))
    with pytest.raises(InputError, match="weights are damaged or do not fit"):
        encoder(copy)


def test_an_architecture_of_whisper_that_does_not_work_is_refused(folders):
    settings = front_end_to_dict(encoder(folders["whisper"]))
    settings["architecture"] |= {"encoder_attention_heads": 5}
    with pytest.raises(InputError, match=r"front_end\.architecture: not a working architecture"):
        build_front_end("speech_encoder", settings)


def test_windows_that_cannot_be_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"window_s is 2, but .* knows positions of up to 1 s"):
        encoder(folders["whisper"], window_s=2.0)
    folder = speech_folder(tmp_path)
    with pytest.raises(InputError, match=r"window_s is 2, but .* is no Whisper"):
        encoder(folder, window_s=2.0)


def test_another_spectrogram_than_whisper_s_is_refused(folders, tmp_path):
    copy = Path(shutil.copytree(folders["whisper"], tmp_path / "model"))
    (copy / "preprocessor_config.json").write_text(json.dumps({"hop_length": 80}))
    with pytest.raises(InputError, match="hop_length is 80, expected 160"):
        encoder(copy)
