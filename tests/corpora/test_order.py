"""The order of utterances, which the random folds of published protocols depend on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from serkit.audio import natural_key
from serkit.corpora import CORPORA
from serkit.corpora.manifest import sort_utterances
from serkit.types import Utterance


def utterance(name: str, label: str | None) -> Utterance:
    return Utterance(id=name, path=Path(name), corpus="toy", label=label, speaker="one")


def test_numbers_in_names_count_as_numbers() -> None:
    names = ["a10", "a2", "B1", "a1", "a02", ""]
    assert sorted(names, key=natural_key) == ["", "a1", "a02", "a2", "a10", "B1"]


def test_names_inside_a_class_are_ordered_as_if_they_lay_in_one_folder() -> None:
    ids = ["z/2", "a/10", "a/2", "b/1"]
    assert [one.id for one in sort_utterances(utterance(name, "sad") for name in ids)] == [
        "b/1",
        "a/2",
        "z/2",
        "a/10",
    ]


def test_classes_come_alphabetically_and_unlabelled_last() -> None:
    shuffled = [utterance("1", None), utterance("2", "sad"), utterance("3", "angry")]
    assert [one.label for one in sort_utterances(shuffled)] == ["angry", "sad", None]


@pytest.mark.parametrize(
    ("key", "n_folds", "fold", "supports"),
    [
        ("emodb", 10, 0, [14, 8, 4, 4, 6, 6, 12]),
        ("emodb", 10, 1, [7, 12, 8, 9, 6, 5, 7]),
        ("savee", 8, 0, [4, 7, 8, 4, 20, 12, 5]),
        ("casia", 8, 0, [29, 27, 19, 21, 28, 26]),
        ("iemocap", 2, 0, [542, 819, 848, 557]),
    ],
)
def test_random_folds_have_the_published_class_supports(
    key: str, n_folds: int, fold: int, supports: list[int]
) -> None:
    from sklearn.model_selection import KFold

    per_label = dict(CORPORA[key].EXPECTED.per_label)
    if key == "iemocap":
        per_label["happy"] += per_label["excited"]
        per_label = {label: per_label[label] for label in ("angry", "happy", "neutral", "sad")}
    utterances = [
        utterance(f"{label}{i}", label) for label, n in per_label.items() for i in range(n)
    ]
    random.Random(0).shuffle(utterances)
    labels = [one.label for one in sort_utterances(utterances)]
    splits = list(KFold(n_folds, shuffle=True, random_state=46).split(labels))
    counts = Counter(labels[i] for i in splits[fold][1])
    assert [counts[label] for label in sorted(per_label)] == supports
