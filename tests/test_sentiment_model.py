"""The model of sentiment: one path, streams that may be missing, files, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from features.tiny_encoders import text_folder
from serkit.sentiment_model import (
    FeatureSet,
    SentimentModel,
    SentimentModelConfig,
    load_sentiment_model,
)
from serkit.types import InputError

RNG = np.random.default_rng(0)
AUDIO, VISION = RNG.normal(size=(7, 3)), RNG.normal(size=(4, 2))

CONFIG = SentimentModelConfig(
    system="Self-MM",
    scale="sims",
    text={"name": "small", "n_features": 8},
    audio=FeatureSet(n_features=3, names=("a", "b", "c"), max_frames=5, made_by="toy3"),
    vision=FeatureSet(n_features=2),
    standardize="train",
    trained_on={"name": "toy"},
)


def model(**changes) -> SentimentModel:
    torch.manual_seed(0)
    built = SentimentModel(replace(CONFIG, **changes)).eval()
    built.fit_norms(torch.randn(50, 3) + 4, torch.randn(50, 2))
    return built


def test_a_clip_is_judged_in_words_and_numbers():
    found = model().predict("好", AUDIO, VISION)
    assert found["scores"].keys() == {"M", "T", "A", "V"}
    assert found["label_2"] in ("positive", "not positive")
    assert found["label_5"].endswith(("negative", "neutral", "positive"))
    assert found["modalities_used"] == ["text", "audio", "vision"]
    assert found["warnings"] == []
    json.dumps(found)


@pytest.mark.parametrize("scale", ["mosi", "mosei"])
def test_other_scales_have_other_classes(scale):
    found = model(scale=scale).predict("好", AUDIO, VISION)
    assert found["label_2"] in ("negative", "positive")
    assert -2 <= found["label_5"] <= 2
    assert -3 <= found["label_7"] <= 3


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({"text": "x"}, ["text"]),
        ({"audio": AUDIO}, ["audio"]),
        ({"vision": VISION, "text": "  "}, ["vision"]),
        ({"audio": AUDIO, "vision": np.zeros((0, 2))}, ["audio"]),
    ],
)
def test_streams_may_be_missing(given, used):
    found = model().predict(**given)
    assert found["modalities_used"] == used
    assert len(found["warnings"]) == 3 - len(used)
    letters = dict(zip(("text", "audio", "vision"), "TAV", strict=True))
    for stream, letter in letters.items():
        assert (found["scores"][letter] is None) == (stream not in used)


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="nothing to judge: this model reads text, audio, vision"):
        model().predict("", None, None)
    with pytest.raises(InputError, match="nothing to judge: this model reads audio"):
        model(modalities=("audio",)).predict("words")


def test_streams_that_the_model_leaves_out_change_nothing():
    reads_sound = model(modalities=("audio",))
    assert reads_sound.text_encoder is None
    with_all = reads_sound.predict("good", AUDIO, VISION)
    assert with_all["scores"] == reads_sound.predict(audio=AUDIO)["scores"]
    assert with_all["modalities_used"] == ["audio"]
    assert reads_sound.predict(audio=AUDIO)["warnings"] == []


def test_padding_and_company_change_nothing():
    built = model()
    alone = built.predict("good", AUDIO[:4], VISION)["scores"]["M"]
    text, n_tokens = built.read_texts(["good", "a much longer text"])
    batch = {
        "text": text,
        "n_tokens": n_tokens,
        "audio": torch.full((2, 9, 3), 99.0),
        "n_audio": torch.tensor([4, 9]),
        "vision": torch.full((2, 6, 2), 99.0),
        "n_vision": torch.tensor([4, 6]),
        "present": torch.ones(2, 3, dtype=torch.bool),
    }
    batch["audio"][0, :4] = torch.from_numpy(AUDIO[:4])
    batch["vision"][0, :4] = torch.from_numpy(VISION)
    with torch.inference_mode():
        assert float(built(batch)["fused"][0]) == pytest.approx(alone, abs=1e-6)


def test_clips_longer_than_those_trained_on_lose_their_end():
    built = model()
    longer = np.concatenate([AUDIO[:5], np.full((9, 3), 50.0)])
    assert built.predict(audio=longer)["scores"] == built.predict(audio=AUDIO[:5])["scores"]
    other = built.predict(audio=AUDIO[:4])["scores"]
    assert other != built.predict(audio=AUDIO[:5])["scores"]


def test_frames_are_standardised_by_the_training_part():
    built = model()
    norm = built.norms["audio"]
    torch.testing.assert_close(norm.mean, torch.full((3,), 4.0), atol=0.5, rtol=0)
    built.fit_norms(torch.zeros(0, 3), torch.zeros(0, 2))  # nothing to learn from: as it was
    assert not torch.equal(norm.mean, torch.zeros(3))
    plain = model(standardize="none").predict(audio=AUDIO)
    assert plain["scores"] != built.predict(audio=AUDIO)["scores"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"audio": AUDIO[:, :2]}, r"audio of shape \(7, 2\): this model reads \(n_frames, 3\) of"),
        ({"vision": VISION[0]}, r"vision of shape \(2,\)"),
        ({"audio": AUDIO, "audio_names": ("a", "x", "c")}, "column 1 is 'x', .* on 'b'"),
        ({"audio": AUDIO, "audio_names": ("a",)}, r"\(toy3\): 1 columns, it was trained on 3"),
        ({"text": np.zeros((2, 8))}, "text is an array"),
    ],
)
def test_other_features_are_refused(given, reason):
    with pytest.raises(InputError, match=reason):
        model().predict(**given)


def test_unnamed_features_and_unknown_ones_pass():
    model().predict(vision=VISION, vision_names=("x", "y"))
    model().predict(audio=AUDIO, audio_names=("a", "b", "c"))


def test_broken_numbers_are_replaced_and_told():
    audio = AUDIO.copy()
    audio[2, 1] = np.nan
    found = model(modalities=("audio",)).predict(audio=audio)
    assert found["warnings"] == ["1 values of audio were NaN or infinite, now 0"]


def test_vectors_of_tokens_take_the_place_of_words():
    reads_vectors = model(text={"name": "vectors", "n_features": 6})
    found = reads_vectors.predict(np.ones((3, 6)), AUDIO)
    assert found["modalities_used"] == ["text", "audio"]
    with pytest.raises(InputError, match="reads vectors of tokens"):
        reads_vectors.predict("words")
    with pytest.raises(InputError, match=r"text of shape \(3, 5\)"):
        reads_vectors.predict(np.ones((3, 5)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modalities": ("audio", "vision")},
        {"text": {"name": "vectors", "n_features": 6}},
        {"model": {"missing": "learned", "frame_encoder": "attention", "text_pooling": "mean"}},
    ],
)
def test_a_saved_model_says_the_same(tmp_path, changes):
    built = model(**changes)
    built.save(tmp_path / "model", card="# Card")
    for place in (tmp_path, tmp_path / "model"):
        loaded = load_sentiment_model(place)
        assert loaded.predict(audio=AUDIO, vision=VISION) == built.predict(
            audio=AUDIO, vision=VISION
        )
        assert loaded.config.audio.names == ("a", "b", "c")
        assert loaded.config.trained_on == {"name": "toy"}
    assert (tmp_path / "model" / "README.md").read_text() == "# Card"


@pytest.mark.parametrize("trainable", [True, False])
def test_a_pretrained_encoder_is_kept_with_the_model(tmp_path, trainable):
    pytest.importorskip("transformers")
    folder = text_folder(tmp_path / "bert", "bert")
    text = {"name": "pretrained", "model": str(folder), "trainable": trainable, "max_tokens": 20}
    built = model(text=text)
    assert built.text_learns == trainable
    assert bool(built.trained_encoders()) == trainable
    assert any("text_encoder" in name for name in built.trained_state()) == trainable
    built.save(tmp_path / "model")
    (folder / "config.json").unlink()
    loaded = load_sentiment_model(tmp_path / "model")
    assert loaded.predict("hello world") == built.predict("hello world")
    assert loaded.predict("hello world") != built.predict("what is")


def test_trained_states_are_of_one_model():
    one = model()
    other = model()
    one.load_trained_state(other.trained_state())
    with pytest.raises(InputError, match="state of another model"):
        one.load_trained_state({})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"modalities": ()}, "modalities are"),
        ({"modalities": ("smell",)}, "expected some of text, audio, vision"),
        ({"text": {"name": "vectors"}}, "vectors have one setting, n_features"),
        ({"text": {"name": "huge"}}, "text.name is 'huge'"),
        ({"model": {"n_audio_features": 9}}, "model.n_audio_features follows"),
        ({"model": {"n_outputs": 3}}, "follows from the classes"),
        ({"model": {"n_units": 3}}, "model.n_units: unknown setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        model(**changes)


def test_damaged_checkpoints_give_one_line(tmp_path):
    def refusal(reason: str) -> None:
        with pytest.raises(InputError, match=reason) as caught:
            load_sentiment_model(tmp_path)
        assert "\n" not in str(caught.value)

    refusal("no checkpoint .* of a model of clips")
    model().save(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    saved = json.loads(config.read_text())
    config.write_text("{")
    refusal("not valid JSON")
    config.write_text(json.dumps(saved | {"kind": "emotion"}))
    refusal("a recognizer of emotion, expected a model of clips")
    config.write_text(json.dumps(saved | {"audio": {"n_features": "many"}}))
    refusal("config.audio.n_features")
    config.write_text(json.dumps(saved | {"vision": {"n_features": 9}}))
    refusal("weights do not fit config.json")
    config.write_text(json.dumps(saved))
    weights.write_bytes(b"damaged")
    refusal("not a readable safetensors file")


CLASSES = ("angry", "happy", "sad")


def test_a_model_of_classes_gives_probabilities(tmp_path):
    built = model(classes=CLASSES)
    found = built.predict("\u597d", AUDIO)
    assert found["scores"]["V"] is None
    for letter in "MTA":
        scores = found["scores"][letter]
        assert tuple(scores) == CLASSES
        assert sum(scores.values()) == pytest.approx(1, abs=1e-6)
    assert found["label"] == max(found["scores"]["M"], key=found["scores"]["M"].__getitem__)
    assert "label_2" not in found
    built.save(tmp_path)
    loaded = load_sentiment_model(tmp_path)
    assert loaded.config.classes == CLASSES
    assert loaded.predict("\u597d", AUDIO) == found


def test_one_class_and_classes_named_twice_are_refused():
    with pytest.raises(InputError, match="at least two classes"):
        model(classes=("sad",))
    with pytest.raises(InputError, match="classes named twice"):
        model(classes=("sad", "sad"))
