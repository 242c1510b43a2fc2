"""Recognizers made of pre-trained encoders: frozen or trained, with text or without."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.tiny_encoders import (
    SPEECH_FAMILIES,
    speech_folder,
    text_folder,
    w2v_bert_folder,
    whisper_folder,
)
from serkit.features import speech_encoder
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
from serkit.training.config import TrainingConfig
from serkit.training.optimise import build_optimizer, rate_groups, set_learning_rate
from serkit.transcripts import WAV2VEC2
from serkit.types import InputError
from tests_support import tone

RATE = 16_000
FAMILIES = [(family, norm) for family in SPEECH_FAMILIES for norm in ("group", "layer")]
FAMILIES += [("wav2vec2-bert", ""), ("whisper", "")]
MMER = {"name": "mmer", "width": 16, "n_heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return speech_folder(tmp_path_factory.mktemp("speech"), norm="layer")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text"))


def pooled(folder: Path, **front_end) -> RecognizerConfig:
    return RecognizerConfig(
        system="pooled",
        classes=("happy", "sad"),
        view={"kind": "whole", "max_samples": 12_000},
        front_end={"name": "speech_encoder", "model": str(folder), **front_end},
        model={"name": "pooled", "n_projected": 8},
    )


def reading(speech: Path, text: dict[str, object], **front_end) -> RecognizerConfig:
    config = pooled(speech, **front_end)
    return replace(config, model=MMER, text=text, symbols=WAV2VEC2.symbols)


def build(config: RecognizerConfig) -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(config).eval()


def waves() -> list[np.ndarray]:
    return [tone(200, seconds=0.5, rate=RATE), tone(350, seconds=0.3, rate=RATE)]


def batch_of(recognizer: Recognizer, texts: list[str] | None = None) -> dict[str, torch.Tensor]:
    n_samples = torch.tensor([len(w) for w in waves()])
    padded = torch.zeros(2, int(n_samples.max()))
    for row, wave in zip(padded, waves(), strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    features, n_frames, _ = recognizer.extract(padded, n_samples)
    batch = {"features": features, "n_frames": n_frames}
    if texts is not None:
        batch["text"], batch["n_tokens"] = recognizer.extract_text(texts)
    return batch


def test_a_frozen_encoder_is_applied_once_and_not_trained(speech):
    recognizer = build(pooled(speech))
    batch = batch_of(recognizer)
    assert batch["features"].shape == (2, int(batch["n_frames"].max()), 32)
    recognizer(batch)["emotion"].sum().backward()
    assert all(p.grad is None for p in recognizer.front_end.parameters())
    head = sum(p.numel() for p in recognizer.model.parameters())
    assert recognizer.n_parameters == head
    assert recognizer.trained_encoders() == []


def test_a_trained_encoder_works_on_the_sound_in_every_step(speech):
    recognizer = build(pooled(speech, trainable=True))
    batch = batch_of(recognizer)
    assert batch["features"].shape == (2, 8000, 1)
    recognizer.train()(batch)["emotion"].sum().backward()
    grads = {name: p.grad for name, p in recognizer.front_end.named_parameters()}
    assert any(g is not None and g.any() for g in grads.values())
    assert all(g is None for name, g in grads.items() if "feature_extractor" in name)
    assert recognizer.trained_encoders() == [recognizer.front_end]


def test_frozen_and_trained_encoders_give_the_same_before_training(speech):
    frozen, trained = build(pooled(speech)), build(pooled(speech, trainable=True))
    trained.model.load_state_dict(frozen.model.state_dict())
    np.testing.assert_allclose(frozen.score(waves()), trained.score(waves()), atol=1e-5)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_checkpoint_needs_neither_encoder_s_folder(speech, text, trainable, tmp_path):
    own_speech, own_text = tmp_path / "speech", tmp_path / "text"
    shutil.copytree(speech, own_speech)
    shutil.copytree(text, own_text)
    words = {"name": "pretrained", "model": str(own_text), "max_tokens": 60}
    recognizer = build(reading(own_speech, words | {"trainable": trainable}, trainable=trainable))
    expected = recognizer.score(waves(), ["hello world", "what is the problem"])
    recognizer.save(tmp_path / "model")
    shutil.rmtree(own_speech)
    shutil.rmtree(own_text)
    loaded = load_recognizer(tmp_path / "model")
    got = loaded.score(waves(), ["hello world", "what is the problem"])
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert loaded.symbols == recognizer.symbols


def test_every_family_is_held_to_the_promise_below():
    assert {family for family, _ in FAMILIES} == set(speech_encoder.FAMILIES)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(("family", "norm"), FAMILIES)
def test_a_batch_is_judged_as_its_utterances_alone(tmp_path, family, norm, trainable):
    if family == "whisper":
        folder = whisper_folder(tmp_path)
    elif family == "wav2vec2-bert":
        folder = w2v_bert_folder(tmp_path)
    else:
        folder = speech_folder(tmp_path, family, norm=norm)
    recognizer = build(pooled(folder, trainable=trainable))
    several = [*waves(), tone(90, seconds=0.7, rate=RATE), waves()[1]]
    together = recognizer.score(several)
    alone = np.concatenate([recognizer.score([wave]) for wave in several])
    # Scores of random heads are close to each other: closer than the frames have to be.
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 5e-5


@pytest.mark.parametrize("name", ["pretrained", "small"])
def test_what_is_said_changes_the_scores(speech, text, name):
    settings = {"name": name} | ({"model": str(text), "max_tokens": 60} if name != "small" else {})
    recognizer = build(reading(speech, settings))
    one = recognizer.predict(waves()[0], RATE, text="hello")
    other = recognizer.predict(waves()[0], RATE, text="what is the problem")
    assert one.scores != other.scores
    with pytest.raises(InputError, match="reads what is said as well: give the words with --text"):
        recognizer.predict(waves()[0], RATE)


def test_events_in_brackets_are_not_read(speech, text):
    words = {"name": "pretrained", "model": str(text), "max_tokens": 60}
    recognizer = build(reading(speech, words))
    plain = recognizer.extract_text(["hello world"])[0]
    assert torch.equal(recognizer.extract_text(["[LAUGHTER] hello (so) world"])[0], plain)


def test_outputs_of_the_tasks_have_their_lengths_and_symbols(speech, text):
    words = {"name": "pretrained", "model": str(text), "max_tokens": 60, "trainable": True}
    recognizer = build(reading(speech, words, trainable=True)).train()
    batch = batch_of(recognizer, ["hello world", ""])
    assert batch["text"].shape[2] == 1
    outputs = recognizer(batch)
    assert outputs["ctc"].shape[2] == 32
    assert outputs["n_ctc"].tolist() == recognizer.front_end.n_frames(batch["n_frames"]).tolist()
    sum(o.sum() for o in outputs.values() if o.is_floating_point()).backward()
    assert recognizer.text_encoder is not None
    assert any(p.grad is not None for p in recognizer.text_encoder.parameters())


def test_encoders_learn_at_their_own_rate_which_falls_from_layer_to_layer(speech):
    recognizer = build(pooled(speech, trainable=True))
    config = TrainingConfig(
        learning_rate=1e-2,
        encoder_learning_rate=1e-3,
        layer_decay=0.5,
        schedule={"kind": "steps", "first": 2, "every": 9, "factor": 0.1},
    )
    groups = rate_groups(recognizer, config)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in recognizer.parameters() if p.requires_grad}
    optimizer = build_optimizer(groups, config)
    set_learning_rate(optimizer, config, epoch=1)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1e-2, 1e-3, 5e-4, 2.5e-4])
    set_learning_rate(optimizer, config, epoch=2)
    assert [g["lr"] for g in optimizer.param_groups][:2] == pytest.approx([1e-3, 1e-4])


def test_frozen_weights_are_not_kept_for_resuming(speech):
    recognizer = build(pooled(speech))
    state = {name: t.clone() for name, t in recognizer.trained_state().items()}
    assert state.keys() == {f"model.{name}" for name in recognizer.model.state_dict()}
    with torch.no_grad():
        for parameter in recognizer.model.parameters():
            parameter.add_(1.0)
    encoder = {name: t.clone() for name, t in recognizer.front_end.state_dict().items()}
    recognizer.load_trained_state(state)
    assert all(torch.equal(t, state[name]) for name, t in recognizer.trained_state().items())
    assert all(torch.equal(t, encoder[n]) for n, t in recognizer.front_end.state_dict().items())
    with pytest.raises(InputError, match=r"state of another recognizer: '.*' is in one of them"):
        build(pooled(speech, trainable=True)).load_trained_state(state)


def test_checkpoints_share_frozen_weights_on_disk(speech, tmp_path):
    recognizer, shared = build(pooled(speech)), tmp_path / "frozen.safetensors"
    expected = recognizer.score(waves())
    for name in ("a", "b"):
        recognizer.save(tmp_path / name, frozen=shared)
    recognizer.save(tmp_path / "a", frozen=shared)  # once more, over its own link
    files = [tmp_path / name / "frozen.safetensors" for name in ("a", "b")]
    assert all(file.samefile(shared) for file in files)
    assert (tmp_path / "a" / "model.safetensors").stat().st_size < shared.stat().st_size / 5
    np.testing.assert_array_equal(load_recognizer(tmp_path / "b").score(waves()), expected)
    moved = shutil.copytree(tmp_path / "b", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "b")
    shared.unlink()
    np.testing.assert_array_equal(load_recognizer(moved).score(waves()), expected)


def test_frozen_weights_are_copied_where_there_are_no_links(speech, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("serkit.recognizer.os.link", refuse)
    recognizer = build(pooled(speech))
    recognizer.save(tmp_path / "a", frozen=tmp_path / "frozen.safetensors")
    loaded = load_recognizer(tmp_path / "a")
    np.testing.assert_array_equal(loaded.score(waves()), recognizer.score(waves()))


def test_a_checkpoint_without_its_frozen_weights_is_refused(speech, tmp_path):
    build(pooled(speech)).save(tmp_path / "a")
    (tmp_path / "a" / "frozen.safetensors").unlink()
    with pytest.raises(InputError, match=r"weights do not fit config\.json"):
        load_recognizer(tmp_path / "a")


def test_statistics_of_features_that_change_are_refused(speech):
    with pytest.raises(InputError, match="the front end is trained and its features keep changing"):
        Recognizer(replace(pooled(speech, trainable=True), normalise="train"))
