"""Sentiment scores: against the public implementations' numbers, by hand, and by scikit-learn."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle

from serkit.evaluation.sentiment import (
    SENTIMENT_METRICS,
    SIMS_CLASSES,
    mosi_classes,
    mosi_scores,
    sentiment_baselines,
    sentiment_class_scores,
    sentiment_confusions,
    sentiment_interval,
    sentiment_spread,
    sims_classes,
    sims_scores,
)
from serkit.types import InputError

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "sims_metrics.json").read_text())
EDGES = [-1.5, -1.0, -0.7, -0.1, 0.0, 0.1, 0.7, 1.0, 1.5]


def arrays(case):
    return tuple(np.asarray(case[side], dtype=case["dtype"]) for side in ("true", "pred"))


def assert_close(got, expected, *, tolerance):
    for key, value in expected.items():
        wanted = value if value is None else pytest.approx(value, abs=tolerance)
        assert got[key] == wanted, key


def drawn(n=60, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.choice(np.linspace(-1, 1, 11), n)
    return truth, np.clip(truth + generator.normal(0, 0.4, n), -1, 1)


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=lambda case: case["name"])
def test_scores_equal_those_of_the_public_implementations(case):
    truth, predicted = arrays(case)
    sims, mosi = sims_scores(truth, predicted), mosi_scores(truth, predicted)
    assert_close(sims, case["sims_unrounded"], tolerance=1e-7)
    assert_close(sims, case["sims_rounded4"], tolerance=5.01e-5)
    assert_close(mosi, case["mosi_rounded4"], tolerance=5.01e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_classes_of_single_values_are_the_public_ones(dtype):
    for row in GOLDENS["class_of_value"]:
        value = np.asarray([row["value"]], dtype=dtype)
        got = {f"{n}_class": int(sims_classes(value, n)[0]) for n in (2, 3, 5)}
        assert got == row[dtype], row["value"]


def test_class_scores_are_the_public_ones_with_their_defect():
    (case,) = GOLDENS["classification_mode"]
    scores, truth = np.asarray(case["scores"]), case["true_class"]
    published = sentiment_class_scores(truth, scores, published=True)
    assert published == pytest.approx(case["rounded4"], abs=5e-5)
    sound = sentiment_class_scores(truth, scores)
    assert sound["Non0_acc_2"] == pytest.approx(4 / 5)  # two of three positive clips are found
    del published["Non0_acc_2"], published["Non0_F1_score"]
    assert {key: sound[key] for key in published} == published


@pytest.mark.parametrize(
    ("n_classes", "expected"),
    [
        (2, [0, 0, 0, 0, 0, 1, 1, 1, 1]),
        (3, [0, 0, 0, 0, 1, 1, 2, 2, 2]),
        (5, [0, 0, 0, 1, 2, 2, 3, 4, 4]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_border_belongs_to_the_class_below(n_classes, expected, dtype):
    assert sims_classes(np.asarray(EDGES, dtype), n_classes).tolist() == expected
    above = np.nextafter(np.asarray(EDGES[2:-2], dtype), dtype(2))
    assert sims_classes(above, 5).tolist() == [1, 2, 2, 3, 4]


def test_borders_are_compared_in_the_precision_of_the_numbers():
    tenth = np.asarray([0.1], np.float32)
    assert sims_classes(tenth, 3).tolist() == [1]
    assert sims_classes(tenth.astype(np.float64), 3).tolist() == [2]


def test_sims_clips_first_and_mosi_does_not():
    truth, predicted = [2.0, -1.0], [3.0, -1.4]
    assert sims_scores(truth, predicted)["MAE"] == 0
    assert mosi_scores(truth, predicted)["MAE"] == pytest.approx(0.7)
    assert mosi_scores([3.0, -3.0], [3.9, -3.6])["Mult_acc_7"] == 1


def test_zero_is_negative_in_sims_and_positive_or_left_out_in_mosi():
    truth, predicted = [0.0, 0.5, -0.5], [-0.2, 0.4, -0.4]
    assert sims_scores(truth, predicted)["Mult_acc_2"] == 1
    mosi = mosi_scores(truth, predicted)
    assert mosi["Has0_acc_2"] == pytest.approx(2 / 3)
    assert mosi["Non0_acc_2"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn_and_numpy(seed):
    truth, predicted = drawn(seed=seed)
    scores = sims_scores(truth, predicted)
    positive = truth > 0, predicted > 0
    assert scores["F1_score"] == pytest.approx(oracle.f1_score(*positive, average="weighted"))
    assert scores["F1_macro"] == pytest.approx(oracle.f1_score(*positive, average="macro"))
    assert scores["MAE"] == pytest.approx(np.abs(truth - predicted).mean())
    assert scores["Corr"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
    polar = truth != 0
    expected = oracle.f1_score(truth[polar] > 0, predicted[polar] > 0, average="weighted")
    assert mosi_scores(truth, predicted)["Non0_F1_score"] == pytest.approx(expected)


def test_correlation_of_tiny_differences_exists_and_of_none_does_not():
    truth = np.linspace(-1, 1, 11)
    assert sims_scores(truth, 0.3 + 1e-9 * truth)["Corr"] == pytest.approx(1)
    assert sims_scores(truth, np.full(11, 0.1))["Corr"] is None
    assert sims_scores(truth, np.full(11, 0.1, np.float32))["Corr"] is None
    assert sims_scores([0.2], [0.3])["Corr"] is None


def test_what_is_left_of_only_neutral_clips_has_no_score():
    scores = mosi_scores([0.0, 0.0], [0.3, -0.3])
    assert scores["Non0_acc_2"] is None
    assert scores["Non0_F1_score"] is None
    assert scores["Has0_acc_2"] == 0.5


def test_confusions_have_rows_of_the_truth_and_give_the_accuracies():
    truth, predicted = drawn()
    confusions = sentiment_confusions(truth, predicted)
    expected = oracle.confusion_matrix(sims_classes(truth, 5), sims_classes(predicted, 5))
    assert confusions["Mult_acc_5"].tolist() == expected.tolist()
    for key, confusion in confusions.items():
        accuracy = np.trace(confusion) / confusion.sum()
        assert accuracy == pytest.approx(sims_scores(truth, predicted)[key])
        assert len(confusion) in SIMS_CLASSES


def test_the_majority_of_the_test_part_of_sims_is_the_published_row():
    train = np.repeat([-0.6, 0.0, 0.6], [742, 207, 419])
    test = np.repeat([-0.6, 0.0, 0.6], [248, 69, 140])
    majority = sentiment_baselines(train, test)["majority"]
    # As EF-LSTM in the table of MMSA, which has learnt nothing.
    assert majority["Mult_acc_2"] == pytest.approx(0.6937, abs=5e-5)
    assert majority["F1_score"] == pytest.approx(0.5682, abs=5e-5)
    assert majority["Mult_acc_3"] == pytest.approx(0.5427, abs=5e-5)
    assert majority["MAE"] is None
    assert majority["Corr"] is None


def test_baselines_know_the_training_part_alone():
    train, test = [-0.8, -0.8, 0.4, 0.6], [0.2, 0.6, 1.0, -0.2]
    baselines = sentiment_baselines(train, test)
    assert baselines["mean"] == sims_scores(test, np.full(4, -0.15))
    assert baselines["median"] == sims_scores(test, np.full(4, -0.2))
    assert baselines["majority"]["Mult_acc_2"] == 0.25  # two of each: the more negative
    mosi = sentiment_baselines([0.0, 0.0, -1.0, 2.0, 2.0], [0.0, -2.0, 1.0, 1.0], corpus="mosi")
    assert mosi["majority"]["Has0_acc_2"] == 0.75
    assert mosi["majority"]["Non0_acc_2"] == pytest.approx(2 / 3)


def test_every_corpus_has_its_scores():
    truth, predicted = drawn()
    assert SENTIMENT_METRICS["simsv2"](truth, predicted) == sims_scores(truth, predicted)
    assert SENTIMENT_METRICS["mosei"](truth, predicted) == mosi_scores(truth, predicted)


@pytest.mark.parametrize("metric", list(sims_scores(*drawn())))
def test_an_interval_holds_the_score_and_repeats(metric):
    truth, predicted = drawn(120)
    groups = [f"video{position // 8}" for position in range(120)]
    interval = sentiment_interval(truth, predicted, groups, metric=metric, n=300)
    assert interval.value == pytest.approx(sims_scores(truth, predicted)[metric])
    assert interval.low < interval.value < interval.high
    assert interval.n_clusters == 15
    assert interval == sentiment_interval(truth, predicted, groups, metric=metric, n=300)


def test_an_interval_is_wider_where_clips_of_a_group_fail_together():
    truth = np.tile([-0.6, 0.6], 60)
    wrong = np.repeat([0, 1, 0, 1, 0, 0], 20)
    predicted = np.where(wrong, -truth, truth)
    groups = np.repeat([f"s{k}" for k in range(6)], 20)
    together = sentiment_interval(truth, predicted, groups, metric="Mult_acc_2", n=500)
    apart = sentiment_interval(truth, predicted, np.arange(120), metric="Mult_acc_2", n=500)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_an_interval_of_several_seeds_is_that_of_their_mean():
    truth, predicted = drawn(60)
    groups = np.arange(60) // 6
    seeds = np.stack([predicted, predicted * 0.5])
    interval = sentiment_interval(truth, seeds, groups, n=200)
    mean = np.mean([sims_scores(truth, row)["MAE"] for row in seeds])
    assert interval.value == pytest.approx(mean)
    twice = sentiment_interval(truth, [predicted, predicted], groups, n=200)
    once = sentiment_interval(truth, predicted, groups, n=200)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))


def test_two_groups_are_too_few_to_resample():
    truth, predicted = drawn(20)
    interval = sentiment_interval(truth, predicted, ["a", "b"] * 10, n=100)
    assert "there are 2 speakers" in interval.note
    interval = sentiment_interval(truth, predicted, ["a", "b"] * 10, cluster="video", n=100)
    assert (interval.cluster, interval.n_clusters) == ("clip", 20)
    assert interval.note.startswith("resampled over clips because there are 2 videos")


def test_a_replicate_without_a_correlation_counts_as_0():
    groups = np.repeat(["a", "b", "c"], 2)
    truth, predicted = [-1, -1, 0, 0, 1, 1], [-1, -1, 0, 0, 1, 1]
    interval = sentiment_interval(truth, predicted, groups, metric="Corr", n=300)
    assert interval.value == pytest.approx(1)
    assert interval.low == 0


def test_spread_over_seeds_counts_the_scores_that_exist():
    rows = [{"MAE": 0.4, "Corr": None}, {"MAE": 0.6, "Corr": 0.5}]
    table = sentiment_spread(rows)
    assert table["MAE"].mean == 0.5
    assert table["MAE"].sd == pytest.approx(math.sqrt(0.02))
    assert (table["Corr"].mean, table["Corr"].sd, table["Corr"].n) == (0.5, None, 1)
    assert list(sentiment_spread([{"MAE": 0.4, "Corr": None}])) == ["MAE"]


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([], [], "truth of shape"),
        ([[0.1], [0.2]], [0.1, 0.2], r"truth of shape \(2, 1\)"),
        (["a"], [0.1], "truth of shape .* expected one number per clip"),
        ([0.1, math.nan], [0.1, 0.2], "truth is nan at position 1"),
        ([0.1, 0.2], [math.inf, 0.2], "predicted is inf at position 0"),
        ([0.1, 0.2], [0.1], "2 true labels but 1 predictions"),
    ],
)
def test_what_cannot_be_scored_is_refused(truth, predicted, message):
    for function in (sims_scores, mosi_scores):
        with pytest.raises(InputError, match=message):
            function(truth, predicted)


def test_unknown_classes_corpora_and_scores_are_refused():
    truth, predicted = drawn()
    with pytest.raises(InputError, match="CH-SIMS has 2, 3 or 5 classes, got 7"):
        sims_classes(truth, 7)
    with pytest.raises(InputError, match="CMU-MOSI has 5 or 7 classes, got 3"):
        mosi_classes(truth, 3)
    with pytest.raises(InputError, match="no scores for 'iemocap', expected one of sims"):
        sentiment_baselines(truth, truth, corpus="iemocap")
    with pytest.raises(InputError, match="no score 'UAR' of sims, expected one of Mult_acc_2"):
        sentiment_interval(truth, predicted, np.arange(60), metric="UAR")
    with pytest.raises(InputError, match="Corr does not exist for these predictions"):
        sentiment_interval(truth, np.zeros(60), np.arange(60), metric="Corr")
    with pytest.raises(InputError, match=r"predictions of shape \(1, 60\) and 2 groups"):
        sentiment_interval(truth, predicted, ["a", "b"])


def test_what_is_no_choice_of_three_is_refused():
    scores = np.zeros((2, 3))
    with pytest.raises(InputError, match=r"scores of shape \(2, 2\): expected"):
        sentiment_class_scores([0, 1], scores[:, :2])
    with pytest.raises(InputError, match="class 3: expected 0 negative"):
        sentiment_class_scores([0, 3], scores)
    with pytest.raises(InputError, match="not finite"):
        sentiment_class_scores([0, 1], scores + math.nan)
    with pytest.raises(InputError, match="every clip is neutral"):
        sentiment_class_scores([1, 1], scores)


def test_seeds_that_cannot_be_averaged_are_refused():
    with pytest.raises(InputError, match="no scores"):
        sentiment_spread([])
    with pytest.raises(InputError, match="different names"):
        sentiment_spread([{"MAE": 0.1}, {"Corr": 0.1}])
