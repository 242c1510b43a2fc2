import numpy as np
import pytest
from sklearn import metrics as oracle

from serkit.evaluation import Predictions, bootstrap_interval, compare_runs, paired_test, score
from serkit.evaluation.multilabel import (
    SET_METRIC_NAMES,
    binary_uar,
    exact_match,
    macro_f1,
    majority_set,
    mean_recall,
    score_sets,
    set_class_scores,
    set_interval,
)
from serkit.evaluation.summary import findings_of_sets, summarize_sets
from serkit.types import InputError


@pytest.fixture
def sets(toy) -> Predictions:
    return toy.toy_sets()


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.random((60, 4)) < 0.4
    truth[~truth.any(axis=1), 0] = True
    return truth, generator.random((60, 4)) < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_overall_scores_are_those_of_scikit_learn(seed) -> None:
    truth, predicted = arrays(seed)
    assert mean_recall(truth, predicted) == pytest.approx(
        oracle.recall_score(truth, predicted, average="macro")
    )
    assert exact_match(truth, predicted) == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert macro_f1(truth, predicted) == pytest.approx(
        oracle.f1_score(truth, predicted, average="macro")
    )
    by_class = [oracle.balanced_accuracy_score(truth[:, k], predicted[:, k]) for k in range(4)]
    assert binary_uar(truth, predicted) == pytest.approx(np.mean(by_class))


@pytest.mark.parametrize("seed", range(3))
def test_the_scores_of_a_class_are_those_of_scikit_learn(seed) -> None:
    truth, predicted = arrays(seed)
    for k, row in enumerate(set_class_scores(truth, predicted, tuple("abcd"))):
        ours = (row.recall, row.specificity, row.precision, row.f1, row.uar)
        assert ours == pytest.approx(
            (
                oracle.recall_score(truth[:, k], predicted[:, k]),
                oracle.recall_score(truth[:, k], predicted[:, k], pos_label=False),
                oracle.precision_score(truth[:, k], predicted[:, k]),
                oracle.f1_score(truth[:, k], predicted[:, k]),
                oracle.balanced_accuracy_score(truth[:, k], predicted[:, k]),
            )
        )
        assert row.support == truth[:, k].sum()


def test_a_class_nobody_has_is_left_out_of_the_means_and_one_all_have_has_its_recall() -> None:
    truth = np.array([[True, False], [True, False]])
    predicted = np.array([[True, True], [False, False]])
    assert mean_recall(truth, predicted) == 0.5
    assert binary_uar(truth, predicted) == 0.5
    everybody, nobody = set_class_scores(truth, predicted, ("everybody", "nobody"))
    assert np.isnan([everybody.specificity, nobody.recall, nobody.uar]).all()
    assert (nobody.precision, nobody.support) == (0.0, 0)


def test_naming_everything_finds_all_and_tells_nothing_apart() -> None:
    truth, _ = arrays(0)
    everything = np.ones_like(truth)
    assert mean_recall(truth, everything) == 1.0
    assert binary_uar(truth, everything) == 0.5


def test_the_majority_is_the_most_frequent_whole_set() -> None:
    truth = np.array([[True, True], [True, True], [True, False], [False, True], [False, True]])
    baseline = majority_set(truth, ("sad", "happy"))
    assert baseline.label == "happy"  # as frequent as happy+sad, and before it
    assert (baseline.exact_match, baseline.mean_recall) == (0.4, 0.5)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), r"shape \(2, 2\) and predicted ones of shape \(2, 3\)"),
        (np.ones((0, 2)), np.ones((0, 2)), "expected"),
        (np.ones(2), np.ones(2), r"expected \(n_utterances, n_classes\)"),
        (np.array([[1, 0], [0, 0]]), np.ones((2, 2)), "utterance 1 has no class \\(1 of 2"),
    ],
)
def test_arrays_that_cannot_be_judged_are_refused(truth, predicted, message) -> None:
    with pytest.raises(InputError, match=message):
        mean_recall(truth, predicted)


def test_scores_of_a_table_are_pooled_per_seed_and_averaged(sets) -> None:
    scores = score_sets(sets)
    assert (scores.n_utterances, scores.n_speakers, scores.n_folds) == (320, 8, 4)
    by_seed = [
        oracle.accuracy_score(sets.truth[sets.seeds == s], sets.predicted[sets.seeds == s])
        for s in (0, 1)
    ]
    assert scores.pooled["exact_match"].mean == pytest.approx(np.mean(by_seed))
    assert scores.pooled["exact_match"].sd == pytest.approx(np.std(by_seed, ddof=1))
    assert [group.exact_match for group in scores.per_seed] == pytest.approx(by_seed)
    assert len(scores.per_fold_seed) == 8
    assert scores.fold_mean["binary_uar"].mean == pytest.approx(
        np.mean([group.binary_uar for group in scores.per_fold])
    )
    assert sum(row.support for row in scores.per_class) == pytest.approx(320 * scores.n_true)
    assert scores.notes == ()


def test_a_table_and_its_arrays_have_the_same_scores(toy) -> None:
    sets = toy.toy_sets(n_seeds=1)
    truth, predicted = sets.truth_sets, sets.predicted_sets
    pooled = score_sets(sets).pooled
    for name, metric in (
        ("mean_recall", mean_recall),
        ("exact_match", exact_match),
        ("binary_uar", binary_uar),
        ("f1_macro", macro_f1),
    ):
        assert pooled[name].mean == pytest.approx(metric(truth, predicted))


def test_what_is_suspicious_about_a_multi_label_table_is_said() -> None:
    predictions = Predictions.of(
        ["1", "2", "3"],
        ["a", "a+b", "a"],
        predicted=["a", "", "a"],
        classes=["a", "b", "c"],
        speakers=["x", "y", "x"],
        folds=["1", "2", "2"],
        multi_label=True,
    )
    scores = score_sets(predictions)
    words = "; ".join(scores.notes)
    assert "no test utterance has c: means are over the 2 classes" in words
    assert "b is never given" in words
    assert "1 of 2 folds have no test utterance of some class (first: fold 1)" in words
    assert "1 of 2 speakers are tested in more than one fold" in words
    assert scores.share_empty == pytest.approx(1 / 3)


@pytest.mark.parametrize("metric", SET_METRIC_NAMES)
def test_the_interval_holds_the_score_and_is_over_speakers(sets, metric) -> None:
    interval = set_interval(sets, metric, n=500)
    assert interval.low < interval.value < interval.high
    assert interval.value == pytest.approx(score_sets(sets).pooled[metric].mean)
    assert (interval.cluster, interval.n_clusters) == ("speaker", 8)
    assert interval == set_interval(sets, metric, n=500)


def test_the_interval_agrees_with_resampling_rows_by_hand(toy) -> None:
    sets = toy.toy_sets(n_seeds=1)
    truth, predicted = sets.truth_sets, sets.predicted_sets
    speakers = np.unique(sets.speakers)
    rows = {name: np.flatnonzero(sets.speakers == name) for name in speakers}
    generator = np.random.default_rng(5)
    values = []
    for _ in range(1000):
        drawn = np.concatenate([rows[n] for n in generator.choice(speakers, len(speakers))])
        values.append(binary_uar(truth[drawn], predicted[drawn]))
    interval = set_interval(sets, "binary_uar")
    assert interval.low == pytest.approx(np.quantile(values, 0.0057), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(values, 0.9943), abs=0.01)


@pytest.mark.parametrize(
    ("skill", "words"),
    [(1.0, "is above chance"), (0.0, "is no proof of skill"), (-1.0, "is below chance")],
)
def test_the_findings_compare_with_chance(toy, skill, words) -> None:
    summary = summarize_sets(toy.toy_sets(skill=skill), n_replicates=300)
    sentences = findings_of_sets(summary)
    assert words in sentences[0]
    assert "An utterance has" in sentences[-1]


def test_the_two_kinds_of_tables_are_not_mixed(sets, toy_predictions, tmp_path, toy) -> None:
    single = toy_predictions(n_seeds=1)
    with pytest.raises(InputError, match="one class per utterance: multi-label scores need"):
        score_sets(single)
    with pytest.raises(InputError, match="one class per utterance"):
        set_interval(single, "exact_match")
    with pytest.raises(InputError, match="no metric 'uar', expected one of mean_recall"):
        set_interval(sets, "uar")
    with pytest.raises(InputError, match="several classes per utterance"):
        score(sets)
    with pytest.raises(InputError, match="several classes per utterance"):
        bootstrap_interval(sets)
    with pytest.raises(InputError, match="test of war needs two tables with one class"):
        paired_test(sets, sets, metric="war")
    with pytest.raises(InputError, match="test of binary_uar needs two tables with several"):
        paired_test(sets, single, metric="binary_uar")
    runs = [toy.write_toy_run(tmp_path / "one"), toy.write_toy_set_run(tmp_path / "several")]
    with pytest.raises(InputError, match=r"several: has several classes per utterance, .*one one"):
        compare_runs(runs)
