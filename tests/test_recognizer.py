"""Save, load, predict: and everything that is wrong with a checkpoint or a waveform."""

import json
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
from serkit.types import InputError
from tests_support import RATE, tone

CONFIG = RecognizerConfig(
    system="TIM-Net",
    classes=("happy", "sad"),
    view={"kind": "fixed", "n_samples": 8192},
    front_end={"name": "mfcc", "preset": "timnet-code"},
    model={"name": "timnet", "n_scales": 3},
    normalise="train",
    trained_on={"name": "toy", "corpus": "tones"},
)


@pytest.fixture
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    model = Recognizer(CONFIG).eval()
    model.norm.mean.uniform_(-1, 1)
    return model


@pytest.fixture
def checkpoint(recognizer, tmp_path):
    return recognizer.save(tmp_path / "model", card="# card\n")


def test_saved_and_loaded_recognizers_agree(recognizer, checkpoint):
    loaded = load_recognizer(checkpoint)
    wave = tone(300)
    assert loaded.predict(wave, RATE) == recognizer.predict(wave, RATE)
    assert loaded.config.trained_on == CONFIG.trained_on
    assert (checkpoint / "README.md").read_text() == "# card\n"
    assert {path.name for path in checkpoint.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }


def test_config_spells_everything_out(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["sample_rate"] == 22050
    assert config["front_end"]["n_mfcc"] == 39
    assert config["model"]["n_filters"] == 39
    assert config["classes"] == ["happy", "sad"]


def test_prediction_names_scores_and_times(recognizer):
    prediction = recognizer.predict(tone(300, seconds=0.5), RATE, name="clip")
    assert prediction.file == "clip"
    assert prediction.end_s == pytest.approx(0.5)
    assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-6)
    assert prediction.label == max(prediction.scores, key=prediction.scores.get)
    assert json.loads(prediction.to_json())["score"] == prediction.score


def test_other_rates_and_stereo_are_taken(recognizer):
    wave = tone(300, rate=48_000)
    stereo = np.stack([wave, wave])
    one, two = recognizer.predict(wave, 48_000), recognizer.predict(stereo, 48_000)
    assert one.scores == pytest.approx(two.scores)


def test_long_recordings_are_averaged_over_stretches(recognizer):
    wave = np.concatenate([tone(150, seconds=2), tone(440, seconds=2)])
    borders = recognizer.windows(wave)
    assert borders[0][0] == 0
    assert borders[-1][1] == len(wave)
    assert all(stop - start == 8192 for start, stop in borders)
    prediction = recognizer.predict(wave, RATE)
    scores = recognizer.score([wave[a:b] for a, b in borders]).mean(0)
    assert list(prediction.scores.values()) == pytest.approx(scores.tolist(), abs=1e-5)
    assert prediction.notes == (f"mean of {len(borders)} stretches",)


def test_up_to_twice_the_view_the_middle_is_taken_as_in_training(recognizer):
    assert recognizer.windows(np.ones(2 * 8192, dtype=np.float32)) == [(0, 2 * 8192)]


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0), "at least one sample"),
        (np.zeros(100), "digital silence"),
        (np.full(100, np.nan), "NaN or infinite"),
        (np.zeros((2, 3, 4)), "expected \\(n_samples,\\)"),
    ],
)
def test_waveforms_that_cannot_be_used_are_refused(recognizer, wave, message):
    with pytest.raises(InputError, match=message):
        recognizer.predict(wave, RATE)


def test_one_sample_is_enough(recognizer):
    assert recognizer.predict(np.array([0.1]), RATE).label in CONFIG.classes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "holds a list, expected an object"),
        ('{"format": 99}', "checkpoint format 99, expected 1"),
        ('{"format": 1}', "damaged or incomplete"),
    ],
)
def test_damaged_configs_are_refused(checkpoint, text, message):
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_recognizer(checkpoint)


HOP_OF_ONE = {"kind": "segments", "n_samples": 32_000, "train_hop": 1, "test_hop": 6400}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", {"name": "evil"}, "model.name is 'evil'"),
        ("model", {"name": "timnet", "system": "rm"}, "model.system: unknown setting"),
        ("front_end", {"name": "wav2vec9"}, "front_end.name is 'wav2vec9'"),
        ("front_end", {"name": "mfcc", "colour": 1}, "front_end.colour: unknown setting"),
        ("model", {"name": "timnet", "n_scales": 0}, "model.n_scales = 0: input should be"),
        ("model", {"name": "timnet", "dropout": "x"}, 'model.dropout = "x": input should be'),
        ("front_end", {"name": "mfcc", "window": "x"}, 'front_end.window = "x": input should be'),
        ("view", {"kind": "fixed"}, "view.n_samples: missing"),
        ("view", {"kind": "fixed", "n_samples": -5}, "view.n_samples = -5: input should be"),
        ("view", {"kind": "sideways"}, "view.kind is 'sideways'"),
        ("classes", ["happy"], "at least two classes"),
        ("classes", ["happy", "sad", "new"], "weights do not fit"),
        ("model", {"name": "timnet", "n_classes": 3}, "model.n_classes = 3, expected 2, one for"),
        ("model", {"name": "timnet", "n_filters": 10**6}, "model: a network of these sizes has"),
        ("view", HOP_OF_ONE, "view.train_hop = 1, expected at least 1/1000 of view.n_samples"),
        ("view", {"kind": "fixed", "n_samples": 10**13}, "view.n_samples = 10+, expected at most"),
        ("front_end", {"name": "mfcc", "sample_rate": 10**12}, "sample_rate = 10+ Hz, expected at"),
        ("channel", "x", "channel is 'x', expected one of mean, first"),
        ("trained_on", 5, "trained_on is 5, expected a table"),
    ],
)
def test_configs_that_lie_are_refused(checkpoint, key, value, message):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    if key == "classes":
        config["model"].pop("n_classes")
    path.write_text(json.dumps(config | {key: value}))
    with pytest.raises(InputError, match=message):
        load_recognizer(checkpoint)


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("content", [pickle.dumps(Bomb()), b"", b"\xff" * 64])
def test_hostile_weights_are_refused_and_never_unpickled(
    checkpoint, content, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_recognizer(checkpoint)
    assert not (tmp_path / "exploded").exists()


def test_truncated_weights_are_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_recognizer(checkpoint)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weight: torch.full_like(weight, torch.nan), "weights that are not finite"),
        (lambda weight: weight.long(), "as torch.int64, expected floating-point"),
    ],
)
def test_weights_that_make_answers_worthless_are_refused(checkpoint, damage, message):
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"model.head.weight": damage(weights["model.head.weight"])}, path)
    with pytest.raises(InputError, match=f"'model.head.weight' .*{message}"):
        load_recognizer(checkpoint)


def test_scores_that_are_not_finite_are_no_answer(recognizer):
    recognizer.norm.mean.fill_(torch.nan)
    with pytest.raises(InputError, match="'toy' gave scores that are not finite"):
        recognizer.predict(tone(300), RATE)


def test_weights_without_config_are_no_checkpoint(checkpoint):
    shutil.move(checkpoint / "config.json", checkpoint / "config.bak")
    with pytest.raises(InputError, match="no checkpoint"):
        load_recognizer(checkpoint)


def test_predict_file_reads_the_file(recognizer, tmp_path):
    wave = tone(300)
    soundfile.write(tmp_path / "clip.flac", wave, RATE, subtype="PCM_24")
    from_file = recognizer.predict_file(tmp_path / "clip.flac")
    assert from_file.scores == pytest.approx(recognizer.predict(wave, RATE).scores, abs=1e-3)
