"""What each code of a trained decomposition carries: without it, its own is lost, and no other.

All four codes in one network, trained for minutes on sung vowels; judged on utterances that were
not trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from experiment.sung_syllables import sung_corpus, syllables
from experiment.sung_vowels import COLOURS, RATE, sing, vowel_corpus
from serkit.evaluation.reconstruction import (
    envelope_correlation,
    pitch_kept,
    shape_correlation,
    spectral_shape,
)
from serkit.experiment.decomposition.model import Decomposition, load_decomposition
from serkit.experiment.decomposition.run import DecompositionConfig, run_decomposition
from serkit.experiment.tasks import load_task
from serkit.features.pitch import track_f0

pytestmark = pytest.mark.slow

N_UTTERANCES = 6
N_MELS = 80
# A code of rhythm for every 16 frames, not 8: else the vowels fit into it as well, which learns
# first, because what it reads is not resampled.
SETTINGS = (
    "protocol.dev=random",
    "crops.max_frames=80",
    "model.sizes.content_units=4",
    "model.sizes.pitch_units=4",
    "model.sizes.rhythm_step=16",
    "training.batch_size=6",
    "training.epochs=120",
    "n_samples=0",
)

Mel = NDArray[np.float32]


def train(manifest: Path, folder: Path, *settings: str) -> Decomposition:
    config = load_task("speech_split/tiny", overrides=[f"corpus.manifest={manifest}", *settings])
    assert isinstance(config, DecompositionConfig)
    run_decomposition(config, out=folder / "run", cache_dir=folder / "cache")
    return load_decomposition(folder / "run")


@pytest.fixture(scope="module")
def decomposition(tmp_path_factory) -> Decomposition:
    root = tmp_path_factory.mktemp("vowels")
    return train(vowel_corpus(root, n_each=20), root, *SETTINGS)


@pytest.fixture(scope="module")
def truths(decomposition) -> dict[tuple[int, str], torch.Tensor]:
    """Parts of utterances that nobody trained on, each sung by all voices."""
    return {
        (number, voice): decomposition.extract(sing(90_000 + number, colour=colour), RATE)
        for number in range(N_UTTERANCES)
        for voice, colour in COLOURS.items()
    }


def pitch_hz(decomposition: Decomposition, mel: Mel) -> NDArray[np.float64]:
    return track_f0(decomposition.to_sound(torch.as_tensor(mel)).astype(np.float64), RATE)


@pytest.fixture(scope="module")
def measured(decomposition, truths) -> Callable[..., dict[str, float]]:
    """Means over utterances of what was kept, 1 being all of it."""
    mels = {key: parts[:, :N_MELS].numpy() for key, parts in truths.items()}
    sung = {key: pitch_hz(decomposition, mel) for key, mel in mels.items() if key[1] == "bea"}

    def voice(told: dict[tuple[int, str], Mel]) -> float:
        """How much of the difference between voices in one utterance is heard again."""
        true, again = (
            np.array([average_shape(told[key], loud=mels[key]) for key in mels]).reshape(
                N_UTTERANCES, len(COLOURS), -1
            )
            for told in (mels, told)
        )
        true, again = (x - x.mean(1, keepdims=True) for x in (true, again))
        return float((true * again).sum() / np.square(true).sum())

    def measure(*without: str) -> dict[str, float]:
        told = {
            key: decomposition.reconstruct(parts, without=without).clamp(0, 1).numpy()
            for key, parts in truths.items()
        }
        melodies = [pitch_kept(f0, pitch_hz(decomposition, told[key])) for key, f0 in sung.items()]
        kept = {
            "timing": float(np.mean([envelope_correlation(mels[k], told[k]) for k in mels])),
            "vowels": float(np.mean([shape_correlation(mels[k], told[k]) for k in mels])),
            "melody": float(np.mean([correlation for correlation, _ in melodies])),
            "semitones": float(np.mean([spread for _, spread in melodies])),
            "voice": voice(told),
        }
        # pytest -s: the table of docs/decomposed.md
        print(f"without {without or 'nothing'}:", {name: round(x, 2) for name, x in kept.items()})
        return kept

    return measure


def average_shape(mel: Mel, *, loud: Mel) -> NDArray[np.floating]:
    level = loud.mean(1)
    return spectral_shape(mel)[level >= level.mean()].mean(0)


@pytest.fixture(scope="module")
def full(measured) -> dict[str, float]:
    return measured()


def test_with_all_codes_everything_is_said_again(full):
    assert full["timing"] > 0.8
    assert full["vowels"] > 0.4
    assert full["melody"] > 0.6
    assert full["voice"] > 0.55


def test_without_rhythm_the_timing_is_lost(measured):
    assert measured("rhythm")["timing"] < 0.5


def test_without_content_the_vowels_are_lost_and_all_else_stays(measured, full):
    left = measured("content")
    assert left["vowels"] < 0.65 * full["vowels"]
    assert left["timing"] > 0.9 * full["timing"]
    assert left["melody"] > 0.85 * full["melody"]
    assert left["voice"] > 0.85 * full["voice"]


def test_without_pitch_the_melody_is_lost_and_all_else_stays(measured, full):
    left = measured("pitch")
    assert left["melody"] < 0.7 * full["melody"]
    assert left["semitones"] < 0.75 * full["semitones"]
    assert left["timing"] > 0.9 * full["timing"]
    assert left["vowels"] > 0.85 * full["vowels"]
    assert left["voice"] > 0.85 * full["voice"]


def test_without_timbre_the_voice_is_lost_and_the_timing_stays(measured, full):
    left = measured("timbre")
    assert left["voice"] < 0.3 * full["voice"]
    assert left["timing"] > 0.85 * full["timing"]


def test_the_melody_of_another_utterance_is_heard(tmp_path):
    # Where no other code can carry it: beside the others, part of a melody goes into these, since
    # they read a spectrogram that shows harmonics.
    manifest = sung_corpus(tmp_path, n_each=20)
    settings = [*SETTINGS, 'model.streams=["pitch", "timbre"]', "training.epochs=25"]
    loaded = train(manifest, tmp_path, *settings)
    one = loaded.extract(syllables(901, colour=0.6), RATE)
    other = loaded.extract(syllables(902, colour=0.6), RATE)
    swapped = loaded.swap(one, other, taken=("pitch",))
    melody, theirs, own = (
        pitch_hz(loaded, mel.clamp(0, 1).numpy())
        for mel in (swapped, loaded.reconstruct(other), loaded.reconstruct(one))
    )
    assert pitch_kept(theirs, melody)[0] > 0.7
    assert pitch_kept(own, melody)[0] < 0.6
