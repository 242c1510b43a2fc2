import doctest
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from serkit.evaluation import metrics
from serkit.types import InputError

CLASSES = ("angry", "boredom", "fear", "happy", "sad")
SEEDS = range(12)


def random_labels(seed: int) -> tuple[list[str], list[str]]:
    """Labels in which every class occurs in the truth, with very different frequencies."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(len(CLASSES), 0.8))
    n = int(generator.integers(1, 200))
    truth = list(generator.choice(CLASSES, n, p=weights)) + list(CLASSES)
    keep = generator.random(len(truth)) < generator.random()
    guesses = generator.choice(CLASSES[: int(generator.integers(1, 6))], len(truth))
    predicted = [t if k else g for t, k, g in zip(truth, keep, guesses, strict=True)]
    return [str(label) for label in truth], [str(label) for label in predicted]


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_agree_with_scikit_learn(seed: int) -> None:
    truth, predicted = random_labels(seed)
    assert metrics.uar(truth, predicted) == pytest.approx(
        oracle.recall_score(truth, predicted, average="macro", zero_division=0)
    )
    assert metrics.uar(truth, predicted) == pytest.approx(
        oracle.balanced_accuracy_score(truth, predicted)
    )
    assert metrics.war(truth, predicted) == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert metrics.f1_macro(truth, predicted) == pytest.approx(
        oracle.f1_score(truth, predicted, average="macro", zero_division=0)
    )
    assert metrics.f1_weighted(truth, predicted) == pytest.approx(
        oracle.f1_score(truth, predicted, average="weighted", zero_division=0)
    )
    assert np.array_equal(
        metrics.confusion_matrix(truth, predicted, classes=CLASSES),
        oracle.confusion_matrix(truth, predicted, labels=CLASSES),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_class_scores_agree_with_scikit_learn(seed: int) -> None:
    truth, predicted = random_labels(seed)
    precision, recall, f1, support = oracle.precision_recall_fscore_support(
        truth, predicted, labels=CLASSES, zero_division=0
    )
    rows = metrics.per_class(truth, predicted, classes=CLASSES)
    assert [row.label for row in rows] == list(CLASSES)
    assert [row.precision for row in rows] == pytest.approx(list(precision))
    assert [row.recall for row in rows] == pytest.approx(list(recall))
    assert [row.f1 for row in rows] == pytest.approx(list(f1))
    assert [row.support for row in rows] == list(support)


def test_uar_ignores_class_size() -> None:
    truth = ["neutral"] * 98 + ["angry"] * 2
    assert metrics.uar(truth, ["neutral"] * 100) == 0.5
    assert metrics.war(truth, ["neutral"] * 100) == 0.98


def test_uar_and_war_are_equal_when_classes_are_balanced() -> None:
    truth = ["a", "b", "c"] * 20
    predicted = ["a"] * 30 + ["b"] * 30
    assert metrics.uar(truth, predicted) == pytest.approx(metrics.war(truth, predicted))


def test_uar_is_over_present_classes_and_warns_about_absent_ones() -> None:
    with pytest.warns(UserWarning, match=r"no utterance of fear in the truth.*2 classes"):
        value = metrics.uar(["sad", "happy"], ["sad", "fear"], classes=["fear", "happy", "sad"])
    assert value == 0.5


def test_uar_warns_when_a_class_is_predicted_that_never_occurs() -> None:
    with pytest.warns(UserWarning, match="no utterance of fear"):
        assert metrics.uar(["sad", "happy"], ["sad", "fear"]) == 0.5


def test_an_absent_class_has_no_recall_and_an_unpredicted_one_no_precision() -> None:
    rows = metrics.per_class(["sad", "sad"], ["happy", "sad"], classes=["fear", "happy", "sad"])
    fear, happy, _ = rows
    assert math.isnan(fear.recall)
    assert math.isnan(fear.f1)
    assert fear.precision == 0
    assert math.isnan(happy.recall)
    assert happy.f1 == 0


def test_labels_may_be_integers_and_arrays() -> None:
    truth, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert metrics.uar(truth, predicted) == 0.75


def test_perfect_answers_score_one_everywhere() -> None:
    truth = ["a", "b", "b", "c"]
    for metric in (metrics.uar, metrics.war, metrics.f1_macro, metrics.f1_weighted):
        assert metric(truth, truth) == 1.0


def test_majority_baseline_scores_what_always_answering_the_same_scores() -> None:
    truth = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    baseline = metrics.majority_baseline(truth)
    constant = [baseline.label] * len(truth)
    assert baseline.label == "a"
    assert baseline.uar == pytest.approx(metrics.uar(truth, constant))
    assert baseline.war == pytest.approx(metrics.war(truth, constant))


def naive_calibration_error(scores: np.ndarray, target: np.ndarray, n_bins: int) -> float:
    """The definition, bin by bin."""
    confidence, choice = scores.max(1), scores.argmax(1)
    error = 0.0
    for number in range(n_bins):
        low, high = number / n_bins, (number + 1) / n_bins
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs((choice == target)[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    return error


@pytest.mark.parametrize("n_bins", [1, 7, 15])
@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_follows_its_definition(seed: int, n_bins: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet(np.ones(4), 300)
    target = generator.integers(0, 4, 300)
    assert metrics.expected_calibration_error(scores, target, n_bins) == pytest.approx(
        naive_calibration_error(scores, target, n_bins)
    )


def test_calibration_error_is_zero_for_certain_and_right_answers() -> None:
    assert metrics.expected_calibration_error(np.eye(3), [0, 1, 2]) == 0


@pytest.mark.parametrize("seed", range(4))
def test_ccc_agrees_with_its_correlation_form(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.random(50)
    y = 0.4 * x + 0.3 * generator.random(50)
    pearson = np.corrcoef(x, y)[0, 1]
    expected = 2 * pearson * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert metrics.ccc(x, y) == pytest.approx(expected)


def test_ccc_punishes_scale_and_offset_and_knows_constants() -> None:
    x = [0.1, 0.4, 0.9]
    assert metrics.ccc(x, [v + 0.3 for v in x]) < 1
    assert metrics.ccc(x, [0.5, 0.5, 0.5]) == 0
    assert metrics.ccc([0.5, 0.5], [0.5, 0.5]) == 1


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], "at least one utterance"),
        (["a"], ["a", "b"], "1 true labels but 2 predicted"),
        (["a", None], ["a", "a"], "truth has no label at position 1"),
        (["a", "a"], ["a", float("nan")], "predicted has no label at position 1"),
        (["a"], [["a"]], "predicted is nested"),
        ("a", ["a"], "truth is one string"),
        (["a", 1], ["a", 1], "labels of different kinds"),
    ],
)
def test_label_sequences_that_make_no_sense_are_refused(truth, predicted, message) -> None:
    with pytest.raises(InputError, match=message):
        metrics.uar(truth, predicted)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [(["c"], ["a"], "true label 'c' is not among"), (["a"], ["c"], "predicted label 'c'")],
)
def test_labels_outside_the_classes_are_refused(truth, predicted, message) -> None:
    with pytest.raises(InputError, match=message):
        metrics.war(truth, predicted, classes=["a", "b"])


@pytest.mark.parametrize(
    ("scores", "target", "n_bins", "message"),
    [
        (np.ones((2, 2)) / 2, [0], 15, "scores of shape"),
        (np.ones((2, 2)) / 2, [0, 1], 0, "at least one"),
        (np.array([[3.0, -1.0]]), [0], 15, "softmax"),
    ],
)
def test_scores_that_cannot_be_calibrated_are_refused(scores, target, n_bins, message) -> None:
    with pytest.raises(InputError, match=message):
        metrics.expected_calibration_error(scores, target, n_bins)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [([0.1], [0.1, 0.2], "one of each"), ([0.1, math.nan], [0.1, 0.2], "not finite")],
)
def test_ratings_that_cannot_be_compared_are_refused(truth, predicted, message) -> None:
    with pytest.raises(InputError, match=message):
        metrics.ccc(truth, predicted)


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no metric 'auc'.*uar"):
        metrics.metric_of_confusion("auc")


def test_metrics_of_stacked_matrices_equal_those_of_each() -> None:
    cube = np.random.default_rng(0).integers(0, 9, (5, 3, 4, 4))
    cube[0, 0, 2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in metrics.METRICS_OF_CONFUSION.values():
            single = [[float(metric(matrix)) for matrix in row] for row in cube]
            assert np.allclose(metric(cube), single)


@pytest.mark.parametrize(
    "name", ["metrics", "predictions", "significance", "summary", "report", "workbook", "scores"]
)
def test_examples_in_the_docstrings_hold(name: str) -> None:
    module = __import__(f"serkit.evaluation.{name}", fromlist=[name])
    assert doctest.testmod(module).failed == 0
