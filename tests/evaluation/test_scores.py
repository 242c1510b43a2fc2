import json

import numpy as np
import pytest
from sklearn import metrics as oracle

from serkit.evaluation import Predictions, evaluate_tables, findings, optimism, score, summarize
from serkit.evaluation.runfolder import Curves
from serkit.evaluation.summary import percent


def test_pooled_scores_agree_with_scikit_learn_per_seed(toy_predictions) -> None:
    predictions = toy_predictions()
    scores = score(predictions)
    expected = [
        oracle.balanced_accuracy_score(
            predictions.truth[predictions.seeds == seed],
            predictions.predicted[predictions.seeds == seed],
        )
        for seed in (0, 1)
    ]
    assert scores.uar == pytest.approx(np.mean(expected))
    assert scores.pooled["uar"].sd == pytest.approx(np.std(expected, ddof=1))
    assert [group.uar for group in scores.per_seed] == pytest.approx(expected)
    assert scores.confusion.sum() == len(predictions)


def test_pooled_and_fold_mean_uar_differ_when_folds_differ() -> None:
    # Fold 1: 2 of 2 sad, 1 of 4 happy; fold 2: 1 of 4 sad, 1 of 1 happy.
    truth = ["sad"] * 2 + ["happy"] * 4 + ["sad"] * 4 + ["happy"]
    predicted = ["sad"] * 2 + ["happy"] + ["sad"] * 3 + ["sad"] + ["happy"] * 3 + ["happy"]
    folds = ["1"] * 6 + ["2"] * 5
    scores = score(
        Predictions.of([str(n) for n in range(11)], truth, predicted=predicted, folds=folds)
    )
    assert scores.uar == pytest.approx((3 / 6 + 2 / 5) / 2)
    assert scores.fold_mean["uar"].mean == pytest.approx(((1 + 1 / 4) / 2 + (1 / 4 + 1) / 2) / 2)
    assert scores.pooled["uar"].sd is None


def test_a_fold_without_a_class_is_scored_over_the_others_and_noted() -> None:
    predictions = Predictions.of(
        list("abcd"),
        ["sad", "happy", "sad", "sad"],
        predicted=["sad", "happy", "sad", "happy"],
        folds=["1", "1", "2", "2"],
    )
    scores = score(predictions)
    assert scores.per_fold[1].uar == 0.5
    assert scores.per_fold[1].absent == ("happy",)
    assert any("1 of 2 folds have no test utterance" in note for note in scores.notes)


def test_a_class_absent_from_the_whole_truth_is_noted() -> None:
    predictions = Predictions.of(["a"], ["sad"], predicted=["sad"], classes=["happy", "sad"])
    scores = score(predictions)
    assert scores.uar == 1
    assert "no test utterance of happy" in scores.notes[0]


def test_speakers_tested_in_several_folds_are_noted(toy_predictions) -> None:
    assert not any("more than one fold" in note for note in score(toy_predictions()).notes)
    predictions = Predictions.of(
        list("abcd"),
        ["sad", "happy"] * 2,
        predicted=["sad"] * 4,
        speakers=["s"] * 4,
        folds=["1", "1", "2", "2"],
    )
    assert any("1 of 1 speakers are tested in more" in note for note in score(predictions).notes)


def test_seeds_that_do_not_cover_the_same_utterances_are_noted() -> None:
    predictions = Predictions.of(
        ["a", "b", "a"], ["sad", "happy", "sad"], predicted=["sad"] * 3, seeds=[0, 0, 1]
    )
    assert any("seed 1 lacks 1" in note for note in score(predictions).notes)


def test_supports_count_utterances_once_however_many_seeds(toy_predictions) -> None:
    scores = score(toy_predictions(n_seeds=3))
    assert scores.n_utterances == 360
    assert [row.support for row in scores.per_class] == [112, 80, 96, 72]
    assert scores.majority.war == pytest.approx(112 / 360)
    assert {group.n_utterances for group in scores.per_speaker} == {45}


def test_scores_become_json_without_nan() -> None:
    predictions = Predictions.of(["a"], ["sad"], predicted=["sad"], classes=["happy", "sad"])
    text = json.dumps(score(predictions).to_dict(), allow_nan=False)
    assert json.loads(text)["per_class"][0]["recall"] is None


def test_bare_tables_get_the_same_scores_as_runs(table, toy_predictions) -> None:
    path = table("id,truth,predicted", "1,sad,sad", "2,happy,sad", "3,happy,happy")
    (summary,) = evaluate_tables([path])
    assert summary.scores.uar == 0.75
    assert summary.uar.cluster == "utterance"
    assert summary.to_dict()["intervals"]["uar"]["value"] == 0.75


def test_findings_name_the_confused_pair_and_the_weakest_speaker(toy_predictions) -> None:
    text = " ".join(findings(summarize(toy_predictions())))
    assert "take happy for angry" in text
    assert "speaker 09" in text
    assert "lies above it" in text


def test_findings_say_when_nothing_was_learnt(toy_predictions) -> None:
    text = " ".join(findings(summarize(toy_predictions(skill=0.0))))
    assert "nothing was shown to be learnt" in text


def test_findings_say_when_answers_are_worse_than_chance() -> None:
    truth = ["sad", "happy"] * 20
    predicted = ["happy", "sad"] * 20
    predictions = Predictions.of([str(n) for n in range(40)], truth, predicted=predicted)
    assert "order of the labels" in findings(summarize(predictions))[0]


def test_findings_of_perfect_answers_invent_no_mistake() -> None:
    truth = ["sad", "happy"] * 20
    predictions = Predictions.of([str(n) for n in range(40)], truth, predicted=truth)
    assert len(findings(summarize(predictions))) == 1


def curves(**columns: object) -> Curves:
    n = 6
    known = {
        "folds": np.array(["1"] * 3 + ["2"] * 3),
        "seeds": np.zeros(n, dtype=np.int64),
        "epochs": np.array([1, 2, 3] * 2),
        "train_loss": np.ones(n),
        "dev_loss": np.array([0.5, 0.3, 0.4, 0.2, 0.6, 0.7]),
        "dev_uar": np.array([0.5, 0.6, 0.7, 0.4, 0.8, 0.6]),
        "dev_war": np.array([0.5, 0.6, 0.7, 0.4, 0.8, 0.6]),
        "selected": np.zeros(n, dtype=bool),
    }
    return Curves(**(known | columns))


def test_optimism_compares_three_ways_of_choosing_the_epoch() -> None:
    last, loss, accuracy = optimism(curves())
    assert last.war == pytest.approx((0.7 + 0.6) / 2)
    assert loss.war == pytest.approx((0.6 + 0.4) / 2)
    assert accuracy.war == pytest.approx((0.7 + 0.8) / 2)
    assert accuracy.mean_epoch == 2.5


def test_optimism_is_empty_where_nothing_was_measured() -> None:
    assert optimism(curves(dev_war=np.full(6, np.nan))) == ()


def test_percent_writes_a_dash_for_what_is_undefined() -> None:
    assert percent(0.5) == "50.0"
    assert percent(None) == "–"
