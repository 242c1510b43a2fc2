import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import (
    DEV_RULES,
    SCRIPTS_SHARED,
    SELECTED_ON_TEST,
    SENTENCES_SHARED,
    SPEAKER_DEPENDENT,
    SPLITS,
    SplitOptions,
    dev_rule_of,
    make_folds,
    protocol_words,
    read_folds_csv,
    script_of,
    write_folds_csv,
)
from serkit.types import Fold, Utterance

EMODB_SPEAKERS = {"03": "m", "08": "f", "09": "f", "10": "m", "11": "m", "12": "m", "13": "f",
                  "14": "f", "15": "m", "16": "f"}  # fmt: skip


def utterance(uid: str, **facts: str | None) -> Utterance:
    defaults = {"corpus": "toy", "speaker": "s1", "label": "sad"}
    return Utterance(id=uid, path=Path("x.wav"), **(defaults | facts))  # type: ignore[arg-type]


def toy(
    n_speakers: int = 6, n_sentences: int = 4, corpus: str = "toy", prefix: str = ""
) -> list[Utterance]:
    """Every speaker reads every sentence in two emotions; two speakers share a session."""
    return [
        utterance(
            f"{prefix}s{s}_t{t}_{label}",
            corpus=corpus,
            speaker=f"s{s}",
            gender="female" if s % 2 else "male",
            session=f"session{s // 2}",
            sentence=f"t{t}",
            dialogue=f"d{s // 2}_t{t}",
            label=label,
        )
        for label in ("happy", "sad")
        for s in range(n_speakers)
        for t in range(n_sentences)
    ]


def ravdess() -> list[Utterance]:
    """Labels of the RAVDESS speech files, from their naming scheme alone."""
    labels = ["neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"]
    return [
        utterance(
            f"03-01-{e + 1:02d}-{i:02d}-{t:02d}-{r:02d}-{a:02d}",
            speaker=f"{a:02d}",
            gender="male" if a % 2 else "female",
            sentence=f"{t:02d}",
            label=labels[e],
        )
        for a in range(1, 25)
        for e in range(8)
        for i in (1, 2)[: 1 if e == 0 else 2]
        for t in (1, 2)
        for r in (1, 2)
    ]


def class_major(counts: dict[str, int]) -> list[Utterance]:
    return [
        utterance(f"{label}{i}", label=label)
        for label, count in counts.items()
        for i in range(count)
    ]


def speakers(utterances: list[Utterance], ids: tuple[str, ...]) -> set[str]:
    return {u.speaker for u in utterances if u.id in set(ids)}


def sentences(utterances: list[Utterance], ids: tuple[str, ...]) -> set[str | None]:
    return {u.sentence for u in utterances if u.id in set(ids)}


def legal_options(split_name: str) -> SplitOptions:
    return SplitOptions(
        n_folds={
            "speaker_folds": 3,
            "speaker_and_sentence": 3,
            "speaker_and_script": 3,
            "sentence_folds": 2,
        }.get(split_name)
    )


def material(split_name: str) -> list[Utterance]:
    if split_name == "cross_corpus":
        return toy(corpus="one", prefix="one/") + toy(corpus="two", prefix="two/")
    if split_name == "official":
        return [
            utterance(f"u{i}", speaker=f"s{i // 4}", label="sad", official_part=part)
            for i, part in enumerate(["train"] * 12 + ["dev"] * 4 + ["test"] * 4)
        ]
    return toy()


# Published supports: class-major order, sklearn's shuffled KFold with the seed 46.


@pytest.mark.parametrize(
    ("counts", "n_folds", "fold", "supports"),
    [
        ([60, 60, 60, 60, 120, 60, 60], 8, 0, [4, 7, 8, 4, 20, 12, 5]),
        ([127, 81, 46, 69, 71, 79, 62], 10, 0, [14, 8, 4, 4, 6, 6, 12]),
        ([127, 81, 46, 69, 71, 79, 62], 10, 1, [7, 12, 8, 9, 6, 5, 7]),
        ([200] * 6, 8, 0, [29, 27, 19, 21, 28, 26]),
        ([1103, 1636, 1708, 1084], 2, 0, [542, 819, 848, 557]),
    ],
)
def test_random_folds_have_the_supports_of_the_published_workbooks(
    counts: list[int], n_folds: int, fold: int, supports: list[int]
) -> None:
    utterances = class_major({f"c{i}": count for i, count in enumerate(counts)})
    options = SplitOptions(n_folds=n_folds, seed=46, dev="none")
    folds = make_folds(utterances, "random_folds", options)
    found = Counter(uid[:2] for uid in folds[fold].test)
    assert [found[f"c{i}"] for i in range(len(counts))] == supports


def test_leave_one_session_out_has_the_published_sizes_of_iemocap() -> None:
    # Four-class utterances by speaker, female then male, of sessions 1 to 5.
    sizes = [(528, 557), (481, 542), (522, 629), (528, 503), (590, 651)]
    utterances = [
        utterance(f"Ses{n}{sex}_{i}", speaker=f"Ses{n}{sex}", gender=sex, session=str(n))
        for n, pair in enumerate(sizes, start=1)
        for sex, size in zip("FM", pair, strict=True)
        for i in range(size)
    ]
    folds = make_folds(utterances, "leave_one_session_out")
    assert [len(fold.test) for fold in folds] == [1085, 1023, 1151, 1031, 1241]
    assert [len(fold.dev) for fold in folds] == [1023, 1151, 1031, 1241, 1085]
    halves = make_folds(utterances, "leave_one_session_out", SplitOptions(dev="other_speaker"))
    assert [len(fold.test) for fold in halves] == [size for pair in sizes for size in pair]


def test_random_folds_are_exactly_those_of_scikit_learn() -> None:
    from sklearn.model_selection import KFold

    utterances = toy()
    folds = make_folds(utterances, "random_folds", SplitOptions(n_folds=5, seed=7, dev="none"))
    expected = KFold(5, shuffle=True, random_state=7).split(np.arange(len(utterances)))
    for fold, (train, test) in zip(folds, expected, strict=True):
        assert fold.train == tuple(utterances[i].id for i in train)
        assert fold.test == tuple(utterances[i].id for i in test)


# Properties of every split.


@pytest.mark.parametrize("split_name", SPLITS)
def test_every_split_tests_every_utterance_once_and_shares_no_id(split_name: str) -> None:
    utterances = material(split_name)
    folds = make_folds(utterances, split_name, legal_options(split_name))
    for fold in folds:
        parts = [*fold.train, *fold.dev, *fold.test]
        assert len(parts) == len(set(parts))
        assert fold.train
        assert fold.test
        assert fold.dev
        assert set(parts) <= {u.id for u in utterances}
        if split_name not in ("speaker_and_sentence", "speaker_and_script", "rotating_folds"):
            assert len(parts) == len(utterances)
    tested = Counter(uid for fold in folds for uid in fold.test)
    # Of 48 utterances the last of five dealt folds has nine.
    n_expected = {"official": 4, "rotating_folds": 39, "rotating_folds_held_out": 9}
    assert len(tested) == n_expected.get(split_name, len(utterances))
    assert set(tested.values()) == {4 if split_name == "rotating_folds_held_out" else 1}
    assert len({fold.name for fold in folds}) == len(folds)


@pytest.mark.parametrize("split_name", SPLITS)
@pytest.mark.parametrize("dev", ["speaker", "random", "none"])
def test_splits_keep_apart_what_they_promise_under_every_dev_rule(
    split_name: str, dev: str
) -> None:
    utterances = material(split_name)
    options = SplitOptions(n_folds=legal_options(split_name).n_folds, dev=dev)
    by_id = {u.id: u for u in utterances}
    for fold in make_folds(utterances, split_name, options):
        for axis in SPLITS[split_name].separates:

            def values(ids: tuple[str, ...], axis: str = axis) -> set[tuple[str, str | None]]:
                members = [by_id[uid] for uid in ids]
                if axis == "script":
                    return {(member.corpus, script_of(member)) for member in members}
                return {(member.corpus, getattr(member, axis)) for member in members}

            assert not values(fold.test) & values(fold.train)
            assert not values(fold.test) & values(fold.dev)


@pytest.mark.parametrize("split_name", SPLITS)
def test_splits_are_deterministic(split_name: str) -> None:
    utterances = material(split_name)
    options = legal_options(split_name)
    assert make_folds(utterances, split_name, options) == make_folds(
        utterances, split_name, options
    )


@pytest.mark.parametrize("split_name", sorted(set(SPLITS) - {"random_folds", "stratified_folds"}))
@pytest.mark.parametrize("dev", [None, "random"])
def test_membership_does_not_depend_on_the_order_of_utterances(
    split_name: str, dev: str | None
) -> None:
    utterances = material(split_name)
    shuffled = random.Random(1).sample(utterances, len(utterances))
    options = SplitOptions(n_folds=legal_options(split_name).n_folds, dev=dev)
    for one, other in zip(
        make_folds(utterances, split_name, options),
        make_folds(shuffled, split_name, options),
        strict=True,
    ):
        assert one.name == other.name
        for part in ("train", "dev", "test"):
            assert set(getattr(one, part)) == set(getattr(other, part))


def test_parts_keep_the_given_order() -> None:
    utterances = toy()
    position = {u.id: i for i, u in enumerate(utterances)}
    for fold in make_folds(utterances, "speaker_folds", SplitOptions(n_folds=3)):
        for ids in (fold.train, fold.dev, fold.test):
            assert [position[uid] for uid in ids] == sorted(position[uid] for uid in ids)


# Single splits.


def test_leave_one_speaker_out_rotates_the_dev_speaker_in_natural_order() -> None:
    utterances = [
        utterance(f"{s}-{i}", speaker=s, label="sad") for s in ("a10", "a9", "a1") for i in range(3)
    ]
    folds = make_folds(utterances, "leave_one_speaker_out")
    assert [fold.name for fold in folds] == ["speaker-a1", "speaker-a9", "speaker-a10"]
    assert [speakers(utterances, fold.dev) for fold in folds] == [{"a9"}, {"a10"}, {"a1"}]


def test_two_dev_speakers_are_of_both_genders() -> None:
    utterances = [
        utterance(f"{s}-{i}", speaker=s, gender=g) for s, g in EMODB_SPEAKERS.items()
        for i in range(3)
    ]  # fmt: skip
    for fold in make_folds(utterances, "leave_one_speaker_out", SplitOptions(n_dev=2)):
        chosen = speakers(utterances, fold.dev)
        assert sorted(EMODB_SPEAKERS[s] for s in chosen) == ["f", "m"]


def test_six_speaker_folds_of_ravdess_hold_two_women_and_two_men_each() -> None:
    utterances = ravdess()
    assert len(utterances) == 1440
    folds = make_folds(utterances, "speaker_folds", SplitOptions(n_folds=6))
    for fold in folds:
        actors = speakers(utterances, fold.test)
        assert sorted(int(actor) % 2 for actor in actors) == [0, 0, 1, 1]
    assert len(folds) == 6


def test_speaker_folds_balance_classes() -> None:
    # Four speakers have only one class each, four the other: each fold must get both.
    utterances = [
        utterance(f"{s}-{i}", speaker=f"s{s}", label="sad" if s < 4 else "happy", gender="female")
        for s in range(8)
        for i in range(5)
    ]
    for fold in make_folds(utterances, "speaker_folds", SplitOptions(n_folds=4)):
        assert {u.label for u in utterances if u.id in fold.test} == {"sad", "happy"}


def test_rotating_folds_are_dealt_in_turn_and_the_last_is_never_touched() -> None:
    utterances = toy()
    options = SplitOptions(n_folds=5, seed=111111, dev="test")
    folds = make_folds(utterances, "rotating_folds", options)
    assert [len(fold.test) for fold in folds] == [10, 10, 10, 9]
    assert [fold.name for fold in folds] == ["fold-01", "fold-02", "fold-03", "fold-04"]
    seen = {uid for fold in folds for uid in (*fold.train, *fold.dev, *fold.test)}
    assert len(seen) == len(utterances) - 9
    for fold in folds:
        assert fold.dev == fold.test
        assert {*fold.train} == {uid for other in folds if other is not fold for uid in other.test}


def test_the_held_out_fold_of_the_rotation_is_the_one_that_the_other_split_never_touches() -> None:
    utterances = toy()
    rotating = make_folds(utterances, "rotating_folds", SplitOptions(seed=3, dev="test"))
    held_out = make_folds(utterances, "rotating_folds_held_out", SplitOptions(seed=3))
    seen = {uid for fold in rotating for uid in fold.test}
    for fold, same in zip(held_out, rotating, strict=True):
        assert fold.test == tuple(u.id for u in utterances if u.id not in seen)
        assert (fold.train, fold.dev) == (same.train, same.test)
    others = make_folds(utterances, "rotating_folds_held_out", SplitOptions(seed=4))
    assert others != held_out


def test_another_dev_rule_leaves_the_rotating_fold_unused() -> None:
    utterances = toy()
    with_dev = make_folds(utterances, "rotating_folds_held_out")
    for fold, same in zip(
        make_folds(utterances, "rotating_folds_held_out", SplitOptions(dev="none")),
        with_dev,
        strict=True,
    ):
        assert (fold.train, fold.dev, fold.test) == (same.train, (), same.test)


def test_stratified_folds_keep_class_shares() -> None:
    utterances = class_major({"happy": 40, "sad": 20})
    for fold in make_folds(utterances, "stratified_folds", SplitOptions(n_folds=10)):
        assert Counter(uid.rstrip("0123456789") for uid in fold.test) == {"happy": 4, "sad": 2}


def test_shuffled_speakers_have_the_sizes_of_speakers_and_not_their_voices() -> None:
    utterances = [
        utterance(f"{s}-{label}-{i}", speaker=s, label=label)
        for s, n in (("a", 8), ("b", 10), ("c", 12))
        for label in ("happy", "sad")
        for i in range(n + 2 * (label == "sad"))
    ]
    options = SplitOptions(seed=3, dev="test")
    folds = make_folds(utterances, "shuffled_speakers", options)
    honest = make_folds(utterances, "leave_one_speaker_out", options)
    label_of = {u.id: u.label for u in utterances}
    for fold, speaker in zip(folds, honest, strict=True):
        assert fold.name == speaker.name
        assert Counter(map(label_of.get, fold.test)) == Counter(map(label_of.get, speaker.test))
        assert speakers(utterances, fold.test) == speakers(utterances, fold.train) == set("abc")
    assert sorted(uid for fold in folds for uid in fold.test) == sorted(label_of)
    other = make_folds(utterances, "shuffled_speakers", SplitOptions(seed=4, dev="test"))
    assert [fold.test for fold in other] != [fold.test for fold in folds]


def test_leave_one_session_out_takes_a_training_session_as_dev() -> None:
    utterances = toy()
    folds = make_folds(utterances, "leave_one_session_out")
    assert [fold.name for fold in folds] == [f"session-session{i}" for i in range(3)]
    assert speakers(utterances, folds[0].test) == {"s0", "s1"}
    assert speakers(utterances, folds[0].dev) == {"s2", "s3"}
    assert speakers(utterances, folds[2].dev) == {"s0", "s1"}


def test_other_speaker_halves_each_session_into_test_and_dev() -> None:
    utterances = toy()
    folds = make_folds(utterances, "leave_one_session_out", SplitOptions(dev="other_speaker"))
    assert len(folds) == 6
    assert folds[0].name == "session-session0_test-s0"
    for index, fold in enumerate(folds):
        assert speakers(utterances, fold.test) == {f"s{index}"}
        assert speakers(utterances, fold.dev) == {f"s{index ^ 1}"}
        assert len(speakers(utterances, fold.train)) == 4


def test_speaker_and_sentence_shares_neither_with_training() -> None:
    utterances = toy()
    options = SplitOptions(n_folds=3, n_sentence_folds=2, dev="speaker_and_sentence")
    folds = make_folds(utterances, "speaker_and_sentence", options)
    assert len(folds) == 6
    for fold in folds:
        parts = (fold.train, fold.dev, fold.test)
        for of in (speakers, sentences):
            sets = [of(utterances, ids) for ids in parts]
            assert sum(map(len, sets)) == len(set[str | None]().union(*sets))


def test_official_parts_are_taken_as_they_are() -> None:
    (fold,) = make_folds(material("official"), "official")
    assert (len(fold.train), len(fold.dev), len(fold.test)) == (12, 4, 4)


def test_another_dev_rule_carves_from_all_that_is_not_officially_test() -> None:
    (fold,) = make_folds(material("official"), "official", SplitOptions(dev="none"))
    assert (len(fold.train), len(fold.dev), len(fold.test)) == (16, 0, 4)


def test_cross_corpus_tells_speakers_of_two_corpora_apart() -> None:
    utterances = material("cross_corpus")  # both corpora call their speakers s0 to s5
    options = SplitOptions(train_corpora=("one",), test_corpora=("two",))
    (fold,) = make_folds(utterances, "cross_corpus", options)
    assert fold.name == "one-to-two"
    assert len(fold.test) == len(utterances) // 2
    assert all(uid.startswith("one/") for uid in (*fold.train, *fold.dev))


def test_cross_corpus_without_names_leaves_each_corpus_out_once() -> None:
    folds = make_folds(material("cross_corpus"), "cross_corpus")
    assert [fold.name for fold in folds] == ["two-to-one", "one-to-two"]


def test_same_speaker_names_in_two_corpora_are_two_speakers() -> None:
    folds = make_folds(material("cross_corpus"), "leave_one_speaker_out")
    assert len(folds) == 12
    assert folds[0].name == "speaker-one-s0"


# Dev rules.


def test_dev_rule_test_is_the_test_part() -> None:
    for fold in make_folds(toy(), "random_folds", SplitOptions(dev="test")):
        assert fold.dev == fold.test


def test_random_dev_takes_its_share_of_every_class() -> None:
    utterances = class_major({"happy": 50, "sad": 100, "angry": 2})
    options = SplitOptions(n_folds=2, dev="random", dev_fraction=0.2)
    for fold in make_folds(utterances, "random_folds", options):
        train, dev = (
            Counter(uid.rstrip("0123456789") for uid in part) for part in (fold.train, fold.dev)
        )
        for label in ("happy", "sad"):
            assert dev[label] == round(0.2 * (dev[label] + train[label]))


def test_random_dev_follows_its_seed() -> None:
    one, same, other = (
        make_folds(toy(), "leave_one_speaker_out", SplitOptions(dev="random", seed=seed))[0].dev
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("split_name", SPLITS)
def test_each_split_has_a_default_dev_rule_that_exists(split_name: str) -> None:
    assert dev_rule_of(split_name, None) in DEV_RULES
    assert SPLITS[split_name].summary
    assert all(rule.summary for rule in DEV_RULES.values())


# Words.


@pytest.mark.parametrize(
    ("split_name", "dev", "words"),
    [
        ("leave_one_speaker_out", None, (SENTENCES_SHARED,)),
        ("speaker_and_sentence", "speaker_and_sentence", ()),
        ("speaker_and_sentence", "speaker", ("dev shares sentences with train",)),
        ("leave_one_speaker_out", "random", (SENTENCES_SHARED, "dev shares speakers with train")),
        ("leave_one_sentence_out", None, (SPEAKER_DEPENDENT,)),
        ("cross_corpus", None, ()),
        ("official", None, ("official parts",)),
        ("random_folds", "test", (SPEAKER_DEPENDENT, SENTENCES_SHARED, SELECTED_ON_TEST)),
        ("leave_one_session_out", "test", (SENTENCES_SHARED, SELECTED_ON_TEST)),
        ("rotating_folds", "test", (SPEAKER_DEPENDENT, SENTENCES_SHARED, SELECTED_ON_TEST)),
        ("rotating_folds_held_out", None, (SPEAKER_DEPENDENT, SENTENCES_SHARED)),
    ],
)
def test_protocols_carry_their_warning_words(
    split_name: str, dev: str | None, words: tuple[str, ...]
) -> None:
    assert protocol_words(split_name, dev) == words


def test_words_of_official_parts_follow_what_was_found() -> None:
    assert protocol_words("official", separates={"speaker"}) == (
        SENTENCES_SHARED,
        "dev shares speakers with train",
    )
    assert protocol_words("official", "none", separates=()) == (SPEAKER_DEPENDENT, SENTENCES_SHARED)


def test_words_name_scripts_where_they_were_found_shared() -> None:
    assert protocol_words("leave_one_session_out", scripts_shared=True) == (SCRIPTS_SHARED,)
    assert protocol_words("random_folds", "test", scripts_shared=True) == (
        SPEAKER_DEPENDENT,
        SCRIPTS_SHARED,
        SELECTED_ON_TEST,
    )
    assert protocol_words("official", separates={"speaker", "script"}) == (
        "dev shares speakers with train",
        "dev shares scripts with train",
    )


# Errors.


@pytest.mark.parametrize(
    ("split_name", "options", "message"),
    [
        ("leave_one_speeker_out", {}, "did you mean 'leave_one_speaker_out'"),
        ("speaker_folds", {"dev": "speakr"}, "unknown dev rule 'speakr', did you mean 'speaker'"),
        ("speaker_folds", {"n_folds": 7}, "needs at least 7 speakers, got 6"),
        ("sentence_folds", {"n_folds": 5}, "needs at least 5 sentences, got 4"),
        ("random_folds", {"n_folds": 49}, "49 folds need at least as many utterances, got 48"),
        ("stratified_folds", {"n_folds": 25}, "'happy' has 24"),
        ("leave_one_speaker_out", {"n_folds": 3}, "n_folds = 3 has no meaning.*speaker_folds"),
        ("leave_one_sentence_out", {"n_folds": 3}, "n_folds = 3 has no meaning.*sentence_folds"),
        ("official", {"n_folds": 3}, "n_folds = 3 has no meaning"),
        ("cross_corpus", {"n_folds": 3}, "n_folds = 3 has no meaning"),
        ("official", {}, "48 of 48 utterances have no official part"),
        ("cross_corpus", {}, "at least two corpora, got only 'toy'"),
        ("cross_corpus", {"train_corpora": ("tpy",)}, "'tpy', did you mean 'toy'"),
        (
            "cross_corpus",
            {"train_corpora": ("toy",), "test_corpora": ("toy",)},
            "both as train and as test",
        ),
        ("speaker_folds", {"n_folds": 1}, "n_folds = 1: expected at least 2"),
        ("speaker_and_sentence", {"n_sentence_folds": 1}, "n_sentence_folds = 1"),
        ("speaker_folds", {"n_dev": 0}, "choose dev rule 'none'"),
        ("speaker_folds", {"dev": "random", "dev_fraction": 1.0}, "a share between 0 and 1"),
        ("random_folds", {"seed": -1}, "seed = -1"),
        ("leave_one_speaker_out", {"n_dev": 5}, "needs at least 6 speakers, got 5.*take fewer"),
        ("leave_one_speaker_out", {"dev": "other_speaker"}, "belongs to the split leave_one_sess"),
        ("leave_one_speaker_out", {"dev": "official"}, "belongs to the split official"),
        ("rotating_folds", {"dev": "rotating"}, "belongs to the split rotating_folds_held_out"),
        ("official", {"dev": "rotating"}, "48 of 48 utterances have no official part"),
        ("rotating_folds", {"n_folds": 2}, "at least 3 are needed"),
        ("rotating_folds_held_out", {"n_folds": 49}, "49 folds need at least as many"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(
    split_name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        make_folds(toy(), split_name, SplitOptions(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split_name", "axis"),
    [
        ("leave_one_session_out", "session"),
        ("leave_one_sentence_out", "sentence"),
        ("speaker_and_sentence", "sentence"),
    ],
)
def test_missing_session_or_sentence_names_are_refused(split_name: str, axis: str) -> None:
    utterances = [utterance(f"u{i}", speaker=f"s{i}") for i in range(6)]
    with pytest.raises(CorpusError, match=f"6 of 6 utterances name no {axis}"):
        make_folds(utterances, split_name)


def test_speakers_in_two_sessions_are_refused_as_sessions() -> None:
    utterances = [
        utterance(f"u{i}", speaker="s1", session=f"session{i}", label="sad") for i in range(3)
    ]
    with pytest.raises(CorpusError, match="do not keep speakers apart"):
        make_folds(utterances, "leave_one_session_out")


def test_dev_sessions_with_a_training_speaker_are_refused() -> None:
    utterances = [
        utterance(f"u{s}-{n}", speaker=f"s{s}", session=f"session{n}")
        for s in range(3)
        for n in range(2)
    ]
    with pytest.raises(CorpusError, match="train and dev would share the speaker"):
        make_folds(utterances, "leave_one_speaker_out", SplitOptions(dev="session"))


def test_a_session_of_one_speaker_cannot_be_halved() -> None:
    utterances = [utterance(f"u{i}", speaker=f"s{i}", session=f"x{i}") for i in range(3)]
    with pytest.raises(CorpusError, match="needs two speakers in each session"):
        make_folds(utterances, "leave_one_session_out", SplitOptions(dev="other_speaker"))


def test_no_utterances_and_repeated_ids_are_refused() -> None:
    with pytest.raises(CorpusError, match="no utterances to split"):
        make_folds([], "random_folds")
    with pytest.raises(CorpusError, match="id 'u' occurs 2 times"):
        make_folds([utterance("u"), utterance("u", corpus="other")], "random_folds")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train"] * 4, "no utterance has the official part 'test'"),
        (["train", "train", "test"], "prescribes no dev part"),
        (["train", "test", "unused"], "1 of 3 utterances have no official part"),
    ],
)
def test_incomplete_official_parts_are_refused(parts: list[str], message: str) -> None:
    utterances = [utterance(f"u{i}", official_part=part) for i, part in enumerate(parts)]
    with pytest.raises(CorpusError, match=message):
        make_folds(utterances, "official")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_corpora": ("one", "two")}, "none is left to test on"),
        ({"test_corpora": ("one", "two")}, "none is left to train on"),
    ],
)
def test_cross_corpus_needs_both_sides(options: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make_folds(material("cross_corpus"), "cross_corpus", SplitOptions(**options))  # type: ignore[arg-type]


def test_an_empty_training_part_is_refused() -> None:
    # Only s0 reads t1: testing s0 on t0 leaves nobody to train on.
    utterances = [
        utterance(f"{speaker}{sentence}", speaker=speaker, sentence=sentence)
        for speaker, sentence in (("s0", "t0"), ("s0", "t1"), ("s1", "t0"))
    ]
    with pytest.raises(CorpusError, match="the training part is empty"):
        make_folds(utterances, "speaker_and_sentence", SplitOptions(dev="none"))


# Folds as a file.


@pytest.mark.parametrize("dev", [None, "none", "test"])
def test_folds_survive_the_way_through_a_file(tmp_path: Path, dev: str | None) -> None:
    utterances = toy()
    folds = make_folds(utterances, "leave_one_speaker_out", SplitOptions(dev=dev))
    write_folds_csv(folds, tmp_path / "folds.csv")
    assert read_folds_csv(tmp_path / "folds.csv", utterances=utterances) == folds


def test_a_folds_file_begins_with_its_columns(tmp_path: Path) -> None:
    fold = Fold(name="one", train=("a", "ü,b"), dev=(), test=("c",))
    write_folds_csv([fold], tmp_path / "folds.csv")
    text = (tmp_path / "folds.csv").read_text(encoding="utf-8")
    assert text == 'fold,part,id\none,train,a\none,train,"ü,b"\none,test,c\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column fold is missing.*an empty file"),
        ("fold,id\n1,a\n", "column part is missing"),
        ("fold,part,id\n", "names no fold"),
        ("fold,part,id\n1,eval,a\n", "line 2: part 'eval', expected train, dev or test"),
        ("fold,part,id\n1,train,\n", "line 2: empty fold or id"),
        ("fold,part,id\n1,train\n", "line 2: empty fold or id"),
        ("fold,part,id\n1,train,s0_t0_hapy\n", "did you mean 's0_t0_happy'"),
        ("fold,part,id\n1,train,s0_t0_sad\n1,train,s0_t0_sad\n", "line 3: .* stands twice"),
        ("fold,part,id\n1,train,s0_t0_sad\n", "fold '1' has no test part"),
    ],
)
def test_faulty_folds_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=message):
        read_folds_csv(path, utterances=toy())


def test_missing_and_binary_folds_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        read_folds_csv(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CorpusError, match="not a UTF-8 table"):
        read_folds_csv(tmp_path / "x.csv")
