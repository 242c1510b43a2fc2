"""Augmented views in training: what is picked, when, and what learns from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from serkit.features.text_cache import ExtractedText
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.cohort import Resources, train_cohort
from serkit.training.config import TrainingConfig
from serkit.training.data import ExtractedViews, holds_views, read_data, write_data
from serkit.training.loop import fit
from serkit.training.member import Member
from serkit.training.objectives import Term, total_loss
from serkit.types import Fold, InputError
from training.toy_members import pieces

# Utterances and the values that all frames or tokens of a view have.
IDS = [f"u{i}" for i in range(8)]
SPEAKERS = {f"u{i}": f"s{i // 2}" for i in range(8)}
SOUNDS = [(0, 100), (2, 120), (2, 121), (3, 130), (4, 140), (5, 150), (6, 160)]
VOICES = [["s1"], ["s3"], [], ["s0"], ["s0"], ["s1", "s3"], ["s3"]]
TEXTS = [(1, 210), (2, 220), (2, 221), (6, 260)]
N_FEATURES = 39


def constant(values, lengths, width: int) -> np.ndarray:
    return np.repeat(np.array(values, dtype=np.float32), lengths)[:, None] * np.ones(
        (1, width), dtype=np.float32
    )


def write(folder, *, sounds=SOUNDS, texts=TEXTS, restricted=True, read=True):
    rng = np.random.default_rng(0)
    n_frames = np.array([5, 7, 5, 6, 9, 5, 5, 8])
    own = replace(
        pieces(np.zeros((8, 1, N_FEATURES), dtype=np.float32)),
        features=rng.standard_normal((n_frames.sum(), N_FEATURES)).astype(np.float32),
        n_frames=n_frames,
    )
    lengths = [4 + i for i in range(len(sounds))]
    other = replace(
        pieces(np.zeros((len(sounds), 1, N_FEATURES), dtype=np.float32)),
        features=constant([value for _, value in sounds], lengths, N_FEATURES),
        n_frames=np.array(lengths, dtype=np.int64),
    )
    words = ExtractedText(np.ones((16, 4), dtype=np.float32), np.full(8, 2))
    other_words = ExtractedText(constant([v for _, v in texts], 3, 4), np.full(len(texts), 3))
    views = ExtractedViews(
        sounds=other if sounds else None,
        sound_owners=np.array([owner for owner, _ in sounds], dtype=np.int64),
        texts=other_words if texts else None,
        text_owners=np.array([owner for owner, _ in texts], dtype=np.int64),
        voices=VOICES if restricted else (),
        speakers=SPEAKERS if restricted else {},
    )
    return write_data(
        folder,
        IDS,
        training=own,
        emotion=np.arange(8) % 2,
        text=words if read else None,
        views=views,
    )


def picks(part, *, seed: int = 1, epoch: int = 1):
    """Utterance -> value of its sound and its text, None for its own."""
    batch = part.training_batch(torch.arange(len(part)), seed=seed, epoch=epoch)
    sounds = batch["augmented_features"][:, 0, 0].tolist()
    texts = batch["augmented_text"][:, 0, 0].tolist()
    return {
        name: (sound if sound >= 100 else None, text if text >= 200 else None)
        for name, sound, text in zip(part.ids, sounds, texts, strict=True)
    }


def test_each_utterance_gets_one_of_its_own_views_or_itself(tmp_path):
    part = read_data(write(tmp_path, restricted=False)).training
    seen = [picks(part, epoch=epoch) for epoch in range(30)]
    assert {p["u0"] for p in seen} == {(100, None)}
    assert {p["u1"] for p in seen} == {(None, 210)}
    assert {p["u2"] for p in seen} == {(120, 220), (120, 221), (121, 220), (121, 221)}
    assert {p["u7"] for p in seen} == {(None, None)}
    batch = part.training_batch(torch.arange(8), seed=1, epoch=1)
    assert batch["has_view"].tolist() == [True] * 7 + [False]


def test_views_are_padded_to_their_own_longest_and_know_their_lengths(tmp_path):
    part = read_data(write(tmp_path, restricted=False)).training
    batch = part.training_batch(torch.tensor([7, 3, 5]), seed=1, epoch=1)
    assert batch["augmented_n_frames"].tolist() == [8, 7, 9]
    assert batch["augmented_features"].shape == (3, 9, N_FEATURES)
    assert not batch["augmented_features"][1, 7:].any()
    torch.testing.assert_close(batch["augmented_features"][0, :8], batch["features"][0, :8])
    assert batch["augmented_n_tokens"].tolist() == [2, 2, 2]
    assert batch["n_frames"].tolist() == [8, 6, 5]


def test_a_pick_depends_on_seed_epoch_and_id_alone(tmp_path):
    whole = read_data(write(tmp_path, restricted=False)).training
    part = whole.select(["u6", "u2", "u1"])
    again = read_data(tmp_path).training.select(["u2"])
    for epoch in range(8):
        expected = picks(whole, epoch=epoch)
        got = picks(part, epoch=epoch) | picks(again, epoch=epoch)
        assert got == {name: expected[name] for name in got}
    assert [picks(part, seed=1, epoch=e) for e in range(8)] != [
        picks(part, seed=2, epoch=e) for e in range(8)
    ]


def test_what_is_judged_meets_no_view(tmp_path):
    data = read_data(write(tmp_path))
    assert data.evaluation.views is None
    batch = data.evaluation.select(["u2"]).batch(torch.tensor([0]))
    assert not [name for name in batch if name.startswith("augmented")]
    assert batch["has_view"].tolist() == [False]


def test_without_views_every_utterance_is_said_to_have_none(tmp_path):
    features = np.zeros((2, 3, N_FEATURES), dtype=np.float32)
    write_data(tmp_path, ["a", "b"], training=pieces(features), emotion=np.arange(2))
    batch = read_data(tmp_path).training.training_batch(torch.arange(2), seed=1, epoch=1)
    assert batch["has_view"].tolist() == [False, False]
    assert "augmented_features" not in batch
    assert not holds_views(tmp_path)


def member(folder, data, **training) -> Member:
    settings = {"epochs": 3, "batch_size": 3, "select": "last", "save_every_s": 0}
    return Member(
        recognizer_config(),
        TrainingConfig(**(settings | training)),
        OBJECTIVE,
        Fold(name="fold0", train=("u0", "u1", "u2", "u3", "u4"), dev=("u5",), test=("u6", "u7")),
        1,
        folder / "member",
        data,
    )


def recognizer_config() -> RecognizerConfig:
    return RecognizerConfig(
        system="MMER",
        classes=("happy", "sad"),
        view={"kind": "whole"},
        front_end={"name": "mfcc", "preset": "timnet-code"},
        model={"name": "mmer", "width": 8, "n_heads": 2, "n_symbols": 0, "streams": "speech"},
    )


OBJECTIVE = (
    Term(),
    Term(output="contrast", against="contrast_augmented", loss="info_nce", weight=0.5),
)


def test_no_voice_of_a_dev_or_test_speaker_is_heard_in_training(tmp_path):
    restricted, free = write(tmp_path / "a"), write(tmp_path / "b", restricted=False)
    train, _ = member(tmp_path, restricted).parts(read_data(restricted))
    seen = [picks(train, epoch=epoch) for epoch in range(20)]
    # s2 speaks in the dev part, s3 in the test part.
    assert {p["u2"] for p in seen} == {(121, 220), (121, 221)}
    assert {p["u0"] for p in seen} == {(100, None)}
    anything, _ = member(tmp_path, free).parts(read_data(free))
    assert {picks(anything, epoch=epoch)["u2"][0] for epoch in range(20)} == {120, 121}


def test_an_utterance_whose_voices_are_all_barred_has_no_view(tmp_path):
    data = read_data(write(tmp_path, texts=[]))
    part = data.training.select(["u5", "u4"]).without_voices_of(["u2"])
    batch = part.training_batch(torch.arange(2), seed=1, epoch=1)
    assert batch["has_view"].tolist() == [False, True]


@pytest.mark.parametrize("loss", ["info_nce", "acl_published"])
def test_both_views_teach_both_heads_and_only_the_first_is_classified(tmp_path, loss):
    part = read_data(write(tmp_path, read=False)).training
    batch = part.training_batch(torch.arange(4), seed=1, epoch=1)
    torch.manual_seed(0)
    recognizer = Recognizer(recognizer_config()).train()
    terms = (Term(output="contrast", against="contrast_augmented", loss=loss),)
    value, _ = total_loss(recognizer(batch), batch, terms)
    value.backward()
    heads = (recognizer.model.contrast, recognizer.model.contrast_augmented)
    assert all(p.grad is not None and p.grad.any() for head in heads for p in head.parameters())
    assert recognizer.model.classifier.weight.grad is None
    alone = {name: batch[name] for name in ("features", "n_frames")}
    torch.manual_seed(0)
    with_views = recognizer(batch)
    torch.manual_seed(0)
    without = recognizer(alone)
    assert torch.equal(with_views["emotion"], without["emotion"])
    assert not torch.equal(with_views["contrast_augmented"], without["contrast_augmented"])
    recognizer.eval()
    for name, output in recognizer(alone).items():
        assert torch.equal(output, recognizer(batch)[name])


def trained(folder, part, settings, *, stop_after=None):
    torch.manual_seed(4)
    recognizer = Recognizer(recognizer_config())

    def stop(row):
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    fit(
        recognizer,
        part,
        None,
        settings,
        objective=OBJECTIVE,
        seed=5,
        folder=folder,
        on_epoch=stop,
    )
    return recognizer


def test_resumed_equals_uninterrupted(tmp_path):
    part = read_data(write(tmp_path / "data", read=False, restricted=False)).training
    settings = TrainingConfig(
        epochs=5, batch_size=3, learning_rate=1e-2, select="last", save_every_s=0
    )
    whole = trained(tmp_path / "a", part, settings).state_dict()
    for epoch in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b", part, settings, stop_after=epoch)
    resumed = trained(tmp_path / "b", part, settings).state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    without = trained(tmp_path / "c", replace(part, views=None), settings).state_dict()
    assert not all(torch.equal(without[name], tensor) for name, tensor in whole.items())


def test_stacks_refuse_augmented_views(tmp_path):
    stacked = member(tmp_path, write(tmp_path / "data", read=False), cohort="stacked")
    with pytest.raises(InputError, match="'stacked' cannot train with augmented views: set"):
        train_cohort([stacked], Resources(), on_event=lambda *_: None, say=lambda _: None)
