"""An F0 converter learns to place pitch by rhythm, and is measured against what knows less."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from serkit.features.cache import ExtractedFeatures
from serkit.models.speech_split import F0Converter, F0ConverterConfig, SplitSizes, f0_bins
from serkit.training.config import TrainingConfig
from serkit.training.crops import CropConfig, Crops
from serkit.training.data import Examples, Ragged, write_data
from serkit.training.f0_converter import (
    ContourCrops,
    contour_scores,
    contour_seed,
    resampled_contour,
)
from serkit.training.speech_split import SplitMember, score_network, train_split
from serkit.types import Fold

N_MELS, N_BINS = 8, 16
SIZES = SplitSizes(
    n_mels=N_MELS,
    n_f0_bins=N_BINS,
    content_width=16,
    rhythm_width=16,
    pitch_width=32,
    timbre_width=16,
    rhythm_units=2,
    pitch_units=16,
)
CONFIG = F0ConverterConfig(sizes=SIZES, decoder_units=32, n_decoder_layers=1)


def notes(seed: int, *, n_frames: int = 96) -> np.ndarray:
    """Make parts of tones between silences, each on one of three pitches."""
    rng = np.random.default_rng(seed)
    parts = np.zeros((n_frames, N_MELS + 1), np.float32)
    parts[:, -1] = -1
    at = int(rng.integers(2, 8))
    while at < n_frames - 6:
        length = int(rng.integers(8, 20))
        parts[at : at + length, :-1] = 0.7
        parts[at : at + length, -1] = rng.choice([0.15, 0.5, 0.85])
        at += length + int(rng.integers(4, 10))
    parts[:, :-1] += 0.03 * rng.standard_normal((n_frames, N_MELS))
    return parts


def examples_of(parts: list[np.ndarray]) -> Examples:
    n_frames = torch.tensor([len(each) for each in parts])
    return Examples(
        tuple(f"u{i}" for i in range(len(parts))),
        {
            "features": Ragged(torch.from_numpy(np.concatenate(parts)), n_frames),
            "n_frames": n_frames,
            "speaker": torch.full((len(parts),), -100),
        },
    )


def member_of(folder: Path, *, n: int, n_dev: int, epochs: int) -> SplitMember:
    parts = [notes(seed) for seed in range(n)]
    ids = tuple(f"u{i}" for i in range(n))
    unknown = np.full(n, -100)
    data = write_data(
        folder / "data",
        ids,
        training=ExtractedFeatures(
            np.concatenate(parts), np.array([len(p) for p in parts]), np.arange(n), {}, {}, 0
        ),
        emotion=unknown,
        speaker=unknown,
    )
    return SplitMember(
        model=CONFIG,
        frame_rate=62.5,
        crops=CropConfig(min_frames=64, max_frames=96),
        training=TrainingConfig(
            epochs=epochs,
            batch_size=16,
            learning_rate=5e-3,
            clip_norm=1.0,
            select_by="loss",
            accelerator="cpu",
        ),
        mask_padding=True,
        fold=Fold(name="all", train=ids[n_dev:], dev=ids[:n_dev], test=()),
        seed=1,
        folder=folder / "member",
        data=data,
    )


@pytest.mark.slow
def test_the_pitch_that_is_wanted_is_said_in_the_rhythm_that_is_read(tmp_path):
    member = member_of(tmp_path, n=192, n_dev=32, epochs=20)
    converter, _ = train_split(member, lambda row: None)
    assert isinstance(converter, F0Converter)
    scores = score_network(converter, member, member.fold.dev)["contours"]
    said, copy, always = (scores[way] for way in ("resampled", "copy", "always"))
    assert said["cross_entropy"] < 0.6 * min(copy["cross_entropy"], always["cross_entropy"])
    gross_error = {way: 1 - row["voiced"] for way, row in scores.items()}
    assert gross_error["resampled"] < 0.5 * gross_error["always"]
    assert gross_error["resampled"] < 0.5 * gross_error["copy"]
    assert gross_error["own"] < 0.1
    assert said["voicing"] > 0.9
    # One tone after another in the rhythm of an unheard utterance, all on another's pitch.
    rhythm = torch.from_numpy(notes(1000))
    for pitch in (0.15, 0.85):
        features = rhythm.clone()
        features[:, -1] = pitch  # a contour without any timing
        bins = converter(features.unsqueeze(0), torch.tensor([96]))["f0"][0].argmax(1)
        voiced = rhythm[:, -1] > 0
        wanted = int(f0_bins(torch.tensor(pitch), N_BINS))
        right = (bins[voiced] == wanted).float().mean()
        assert right > 0.6, f"pitch {pitch}: {right:.2f}"


def test_crops_ask_for_the_bins_of_their_own_pitch():
    examples = examples_of([notes(1, n_frames=40), notes(2, n_frames=90)])
    crops = Crops(examples, CropConfig(min_frames=30, max_frames=50, pad_to=64))
    rows = torch.arange(2)
    plain = crops.training_batch(rows, seed=1, epoch=1)
    for mask_padding in (True, False):
        part = ContourCrops(crops, N_BINS, mask_padding)
        assert (part.ids, len(part)) == (crops.ids, 2)
        assert torch.equal(part.lengths(), crops.lengths())
        batch = part.training_batch(rows, seed=1, epoch=1)
        bins = batch["bins"].view(2, 64)
        for row, n in enumerate(plain["n_frames"].tolist()):
            assert torch.equal(bins[row, :n], f0_bins(plain["features"][row, :n, -1], N_BINS))
            assert set(bins[row, n:].tolist()) == {-100 if mask_padding else 0}


def test_a_resampled_contour_has_the_same_pitches_at_other_times():
    f0 = torch.from_numpy(notes(3, n_frames=200)[:, -1])
    resampled = resampled_contour(f0, SIZES, seed=contour_seed("a"))
    assert resampled.shape == f0.shape
    assert not torch.equal(resampled, f0)
    voiced = resampled[resampled > 0]
    assert len(voiced) > 40
    assert float(voiced.min()) >= 0.15
    assert float(voiced.max()) <= 0.85 + 1e-6
    assert set(resampled[resampled <= 0].tolist()) == {-1.0}
    assert torch.equal(resampled, resampled_contour(f0, SIZES, seed=contour_seed("a")))
    assert not torch.equal(resampled, resampled_contour(f0, SIZES, seed=contour_seed("b")))


def test_what_knows_less_is_measured_by_hand():
    contour = np.full((8, N_MELS + 1), -1, np.float32)
    contour[:, :-1] = 0
    contour[:6, -1] = 1.0  # bin 16, in six of eight frames
    judged = examples_of([contour])
    torch.manual_seed(0)
    scores = contour_scores(F0Converter(CONFIG), judged, judged)
    shares = {16: 7 / 25, 0: 3 / 25}  # counts of 8 frames, and once more for each of 17 bins
    expected = -(6 * math.log(shares[16]) + 2 * math.log(shares[0])) / 8
    assert scores["always"]["cross_entropy"] == pytest.approx(expected)
    assert scores["always"]["voiced"] == 1
    assert scores["always"]["voicing"] == 0.75
    assert set(scores) == {"resampled", "own", "copy", "always"}
    assert 0 < scores["copy"]["cross_entropy"] <= expected + 1e-9


def test_utterances_without_a_voice_have_no_share_of_voiced_frames():
    silent = np.zeros((20, N_MELS + 1), np.float32)
    silent[:, -1] = -1
    judged = examples_of([silent])
    torch.manual_seed(0)
    scores = contour_scores(F0Converter(CONFIG), judged, judged)
    assert {row["voiced"] for row in scores.values()} == {0.0}
