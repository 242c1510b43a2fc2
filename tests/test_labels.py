"""One spelling for emotion categories, and label spaces in a fixed order."""

from __future__ import annotations

import pytest

from serkit.labels import EMOTIONS, LabelSpace, canonical_label, map_label
from serkit.types import InputError


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_serkit_s_own_words_stay_as_they_are(emotion):
    assert canonical_label(emotion) == emotion
    assert canonical_label(f" {emotion.upper()} ") == emotion


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Anger", "angry"),
        ("joy", "happy"),
        ("ANXIETY", "fear"),
        ("pleasant_surprise", "surprise"),
        ("Fru", "frustrated"),
        ("exc", "excited"),
    ],
)
def test_english_words_are_translated(word, label):
    assert canonical_label(word) == label


def test_unknown_words_come_back_as_given():
    assert canonical_label(" Hangry ") == "Hangry"


def test_excited_is_not_merged_with_happy_unasked():
    assert canonical_label("excitement") == "excited"


def test_a_label_space_is_sorted_and_knows_its_indices():
    space = LabelSpace.of(["sad", None, "angry", "sad", "happy"])
    assert space.classes == ("angry", "happy", "sad")
    assert [space.index(name) for name in space.classes] == [0, 1, 2]
    assert (space[2], len(space)) == ("sad", 3)


def test_a_label_space_keeps_a_given_order():
    assert LabelSpace(("sad", "angry")).index("angry") == 1


def test_a_label_space_of_fewer_than_two_classes_is_refused():
    with pytest.raises(InputError, match=r"at least two classes, got \['sad'\]"):
        LabelSpace.of(["sad", "sad", None])


def test_a_class_named_twice_is_refused():
    with pytest.raises(InputError, match=r"named twice in one label space: \['sad'\]"):
        LabelSpace(("sad", "happy", "sad"))


def test_a_label_outside_the_space_is_refused():
    with pytest.raises(InputError, match="label 'calm' is not among the classes angry, sad"):
        LabelSpace(("angry", "sad")).index("calm")


def test_mapping_comes_before_keeping():
    mapping = {"excited": "happy", "boredom": "neutral"}
    keep = ["happy", "neutral", "sad"]
    labels = ["excited", "boredom", "sad", "fear", "happy", None]
    mapped = [map_label(label, mapping=mapping, keep=keep) for label in labels]
    assert mapped == ["happy", "neutral", "sad", None, "happy", None]


def test_without_a_selection_every_label_is_kept():
    assert map_label("fear", mapping={}, keep=None) == "fear"
    assert map_label(None, mapping={}, keep=None) is None


def test_mapping_is_no_chain():
    assert map_label("a", mapping={"a": "b", "b": "c"}, keep=None) == "b"
