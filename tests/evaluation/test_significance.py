import itertools
import time

import numpy as np
import pytest
import scipy.stats

from serkit.evaluation import (
    Predictions,
    binary_uar,
    bootstrap_interval,
    holm,
    paired_test,
    set_interval,
    uar,
)
from serkit.evaluation.significance import _student_quantile
from serkit.types import InputError


def replace(predictions: Predictions, **columns: object) -> Predictions:
    known = {
        "ids": predictions.ids.tolist(),
        "truth": predictions.truth.tolist(),
        "classes": predictions.classes,
        "predicted": predictions.predicted.tolist(),
        "speakers": predictions.speakers.tolist(),
        "seeds": predictions.seeds.tolist(),
    }
    return Predictions.of(**(known | columns))


@pytest.mark.parametrize("metric", ["uar", "war", "f1_macro", "f1_weighted"])
def test_the_interval_holds_the_score_and_repeats_with_its_seed(toy_predictions, metric) -> None:
    first = bootstrap_interval(toy_predictions(), metric)
    assert first.low < first.value < first.high
    assert first == bootstrap_interval(toy_predictions(), metric)
    assert first != bootstrap_interval(toy_predictions(), metric, seed=1)
    assert (first.cluster, first.n_clusters, first.note) == ("speaker", 8, "")


def test_the_interval_agrees_with_resampling_rows_by_hand(toy_predictions) -> None:
    predictions = toy_predictions(n_seeds=1)
    speakers = np.unique(predictions.speakers)
    rows = {name: np.flatnonzero(predictions.speakers == name) for name in speakers}
    generator = np.random.default_rng(5)
    values = []
    for _ in range(1000):
        drawn = np.concatenate([rows[n] for n in generator.choice(speakers, len(speakers))])
        values.append(uar(predictions.truth[drawn], predictions.predicted[drawn]))
    interval = bootstrap_interval(predictions)
    # Eight speakers: 95 % is read off at the 0.57th and 99.43th percentile.
    assert interval.low == pytest.approx(np.quantile(values, 0.0057), abs=0.015)
    assert interval.high == pytest.approx(np.quantile(values, 0.9943), abs=0.015)


def test_speakers_who_differ_widen_the_interval_beyond_that_over_utterances(toy_predictions):
    predictions = toy_predictions(skill=1.5)
    by_speaker = bootstrap_interval(predictions)
    by_utterance = bootstrap_interval(predictions, cluster="utterance")
    assert by_speaker.high - by_speaker.low > by_utterance.high - by_utterance.low
    assert by_utterance.n_clusters == 360


def test_seeds_are_averaged_not_counted_as_more_data(toy_predictions) -> None:
    predictions = toy_predictions(n_seeds=1)
    columns = {
        name: getattr(predictions, name).tolist() * 3
        for name in ("ids", "truth", "predicted", "speakers")
    }
    tripled = replace(predictions, **columns, seeds=np.repeat([0, 1, 2], len(predictions)).tolist())
    assert bootstrap_interval(tripled).low == pytest.approx(bootstrap_interval(predictions).low)


def test_fewer_than_three_speakers_give_an_interval_over_utterances_that_says_so(toy_predictions):
    interval = bootstrap_interval(toy_predictions(n_speakers=2))
    assert interval.cluster == "utterance"
    assert "there are 2 speakers" in interval.note
    assert "understates" in interval.note
    one = bootstrap_interval(toy_predictions(n_speakers=1))
    assert "there is 1 speaker" in one.note


def test_a_table_without_speakers_gives_an_interval_over_utterances_that_says_so(toy_predictions):
    interval = bootstrap_interval(replace(toy_predictions(), speakers=None))
    assert interval.cluster == "utterance"
    assert "does not say who talks" in interval.note


def test_two_thousand_replicates_cost_less_than_scoring_two_hundred_tables() -> None:
    generator = np.random.default_rng(0)
    n, classes = 7000, [f"c{k}" for k in range(8)]
    truth = generator.choice(classes, n).tolist()
    predicted = generator.choice(classes, n).tolist()
    speakers = generator.integers(0, 91, n).astype(str).tolist()
    ids = [str(k) for k in range(n)]
    predictions = Predictions.of(ids, truth, predicted=predicted, speakers=speakers)
    uar(truth, predicted)  # warms up
    begin = time.process_time()
    for _ in range(20):
        uar(truth, predicted)
    one_table = (time.process_time() - begin) / 20
    for cluster in ("speaker", "utterance"):
        begin = time.process_time()
        bootstrap_interval(predictions, cluster=cluster)
        assert time.process_time() - begin < 200 * one_table, cluster


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 23, 90, 999, 5000])
def test_student_quantiles_agree_with_scipy(level, freedom) -> None:
    expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
    assert _student_quantile(level, freedom) == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n_speakers", [5, 10, 24])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(n_speakers) -> None:
    generator = np.random.default_rng(4)
    hits, n_trials, n_each = 0, 300, 40
    for trial in range(n_trials):
        skill = np.clip(generator.normal(0.6, 0.12, n_speakers), 0, 1)
        right = generator.random((n_speakers, n_each)) < skill[:, None]
        truth = np.tile(["a", "b"], n_speakers * n_each // 2)
        other = np.where(truth == "a", "b", "a")
        predicted = np.where(right.ravel(), truth, other)
        predictions = Predictions.of(
            [str(k) for k in range(truth.size)],
            truth.tolist(),
            predicted=predicted.tolist(),
            speakers=np.repeat(np.arange(n_speakers), n_each).astype(str).tolist(),
        )
        interval = bootstrap_interval(predictions, n=2000, seed=trial)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.88 <= hits / n_trials <= 0.985  # plain percentiles: 0.82 over five speakers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "auc"}, "no metric 'auc'"),
        ({"n": 0}, "0 bootstrap replicates"),
        ({"level": 95}, "interval level 95"),
        ({"cluster": "city"}, "no cluster 'city'"),
    ],
)
def test_resampling_that_makes_no_sense_is_refused(toy_predictions, arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(toy_predictions(), **arguments)


def test_the_paired_difference_is_the_difference_of_the_scores(toy_predictions) -> None:
    a, b = toy_predictions(skill=1.4), toy_predictions(skill=0.8, noise_seed=1, n_seeds=3)
    for metric in ("uar", "war"):
        test = paired_test(a, b, metric=metric)
        expected = bootstrap_interval(a, metric).value - bootstrap_interval(b, metric).value
        assert test.difference == pytest.approx(expected)
        assert test.low < test.difference < test.high
    assert test.exact
    assert test.n_permutations == 256
    assert (test.n_speakers, test.n_utterances) == (8, 360)


def test_a_clear_difference_is_significant_and_none_is_not(toy_predictions) -> None:
    a = toy_predictions(skill=2.0)
    assert paired_test(a, toy_predictions(skill=0.3, noise_seed=1)).p == pytest.approx(2 / 256)
    same = paired_test(a, a)
    assert (same.difference, same.p) == (0, 1)
    assert "right equally often" in same.notes[0]
    assert paired_test(a, toy_predictions(skill=2.0, noise_seed=9)).p > 0.05


def test_the_exact_p_agrees_with_swapping_whole_speakers_by_hand(toy_predictions) -> None:
    a = toy_predictions(n_speakers=5, n_seeds=1, skill=1.2)
    b = toy_predictions(n_speakers=5, n_seeds=1, skill=0.9, noise_seed=4)
    names = np.unique(a.speakers)

    def difference(swapped: tuple[bool, ...]) -> float:
        swap = np.isin(a.speakers, names[list(swapped)])
        left = np.where(swap, b.predicted, a.predicted)
        right = np.where(swap, a.predicted, b.predicted)
        return uar(a.truth, left) - uar(a.truth, right)

    observed = abs(difference((False,) * 5))
    all_ways = [abs(difference(w)) for w in itertools.product([False, True], repeat=5)]
    expected = np.mean([value >= observed - 1e-12 for value in all_ways])
    assert paired_test(a, b).p == pytest.approx(expected)


def test_the_paired_difference_of_sets_is_that_of_their_two_class_uar(toy) -> None:
    a, b = toy.toy_sets(skill=1.4), toy.toy_sets(skill=0.8, noise_seed=1, n_seeds=3)
    test = paired_test(a, b, metric="binary_uar")
    values = [set_interval(table, "binary_uar", n=1).value for table in (a, b)]
    assert test.difference == pytest.approx(values[0] - values[1])
    assert test.low < test.difference < test.high
    assert (test.n_speakers, test.n_utterances, test.n_permutations) == (8, 320, 256)
    assert test.p == pytest.approx(2 / 256)


def test_the_exact_p_of_sets_agrees_with_swapping_whole_speakers_by_hand(toy) -> None:
    a = toy.toy_sets(n_speakers=5, n_seeds=1, skill=1.2)
    b = toy.toy_sets(n_speakers=5, n_seeds=1, skill=1.0, noise_seed=4)
    names = np.unique(a.speakers)

    def difference(swapped: tuple[bool, ...]) -> float:
        swap = np.isin(a.speakers, names[list(swapped)])[:, None]
        left = np.where(swap, b.predicted_sets, a.predicted_sets)
        right = np.where(swap, a.predicted_sets, b.predicted_sets)
        return binary_uar(a.truth_sets, left) - binary_uar(a.truth_sets, right)

    observed = abs(difference((False,) * 5))
    all_ways = [abs(difference(w)) for w in itertools.product([False, True], repeat=5)]
    expected = np.mean([value >= observed - 1e-12 for value in all_ways])
    assert paired_test(a, b, metric="binary_uar").p == pytest.approx(expected)


def test_the_order_of_classes_does_not_matter_to_a_paired_test_of_sets(toy) -> None:
    a, b = toy.toy_sets(), toy.toy_sets(noise_seed=1)
    other = replace(b, classes=b.classes[::-1], multi_label=True)
    expected = paired_test(a, b, metric="binary_uar").difference
    assert paired_test(a, other, metric="binary_uar").difference == pytest.approx(expected)


def test_a_class_that_all_have_and_one_that_none_has_count_as_in_the_score() -> None:
    truth = ["calm", "calm+sad", "calm", "calm+sad"]

    def table(predicted: list[str]) -> Predictions:
        return Predictions.of(
            list("pqrs"), truth, predicted=predicted, classes=["calm", "fear", "sad"],
            multi_label=True,
        )  # fmt: skip

    a, b = table(["calm", "calm+sad", "fear", "calm"]), table(["", "sad", "calm+fear+sad", "sad"])
    values = [binary_uar(t.truth_sets, t.predicted_sets) for t in (a, b)]
    test = paired_test(a, b, metric="binary_uar")
    assert test.difference == pytest.approx(values[0] - values[1])


def test_sets_of_other_classes_are_not_paired(toy) -> None:
    a = toy.toy_sets()
    wider = replace(a, classes=(*a.classes, "fear"), multi_label=True)
    with pytest.raises(InputError, match=r"neutral, sad in one table and .*, fear in the other"):
        paired_test(a, wider, metric="binary_uar")


def test_too_few_speakers_for_significance_are_named(toy_predictions) -> None:
    a = toy_predictions(n_speakers=4, skill=3.0)
    test = paired_test(a, toy_predictions(n_speakers=4, skill=0.0, noise_seed=1))
    assert test.p_smallest == 0.125
    assert test.p >= 0.125
    assert "4 speakers cannot give p below 0.125" in test.notes[0]


def test_many_speakers_are_swapped_at_random_and_p_is_never_zero(toy_predictions) -> None:
    a = toy_predictions(n_speakers=20, skill=2.0)
    test = paired_test(a, toy_predictions(n_speakers=20, skill=0.2, noise_seed=1))
    assert not test.exact
    assert 0 < test.p <= 1 / 5000


def test_two_speakers_are_tested_over_utterances_in_so_many_words(toy_predictions) -> None:
    a, b = toy_predictions(n_speakers=2), toy_predictions(n_speakers=2, noise_seed=1)
    test = paired_test(a, b)
    assert test.cluster == "utterance"
    assert "there are 2 speakers" in test.notes[0]


def test_only_common_utterances_are_used_and_the_others_counted(toy_predictions) -> None:
    a, b = toy_predictions(), toy_predictions(n_speakers=6, noise_seed=1)
    test = paired_test(a, b)
    assert test.n_utterances == 270
    assert test.n_unmatched == (90, 0)
    assert any("90 utterances of the first" in note for note in test.notes)


def test_an_utterance_missing_under_one_seed_is_left_out(toy_predictions) -> None:
    a = toy_predictions()
    keep = np.arange(len(a)) != len(a) - 1
    columns = {
        name: getattr(a, name)[keep].tolist()
        for name in ("ids", "truth", "predicted", "speakers", "seeds")
    }
    assert paired_test(replace(a, **columns), toy_predictions(noise_seed=1)).n_utterances == 359


def test_a_foreign_table_without_speakers_or_corpus_borrows_them(toy_predictions) -> None:
    a = toy_predictions()
    foreign = replace(toy_predictions(noise_seed=1), speakers=None)
    assert paired_test(a, foreign).n_speakers == 8


def test_tables_that_cannot_be_paired_are_refused(toy_predictions) -> None:
    a = toy_predictions(n_seeds=1)
    with pytest.raises(InputError, match="no utterance id is in both"):
        paired_test(a, replace(a, ids=[f"x{key}" for key in a.ids]))
    other = ["sad" if label == "angry" else label for label in a.truth.tolist()]
    with pytest.raises(InputError, match="truth is 'angry' in one table and 'sad'"):
        paired_test(a, replace(a, truth=other))
    with pytest.raises(InputError, match="speaker is '03' in one table and 'x'"):
        paired_test(a, replace(a, speakers=["x"] * len(a)))
    with pytest.raises(InputError, match="no paired test of 'f1_macro'"):
        paired_test(a, a, metric="f1_macro")


def test_holm_is_monotone_bounded_and_leaves_one_test_alone() -> None:
    assert holm([]) == ()
    assert holm([0.04]) == (0.04,)
    assert holm([0.01, 0.02, 0.03, 0.9]) == pytest.approx((0.04, 0.06, 0.06, 0.9))
    assert holm([0.5, 0.6]) == (1.0, 1.0)
