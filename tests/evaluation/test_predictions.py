import os

import numpy as np
import pytest

from serkit.evaluation import Predictions, PredictionsError, read_predictions, write_predictions
from serkit.types import InputError

HEADER = "id,speaker,fold,seed,truth,score_happy,score_sad"


def test_a_written_table_reads_back_the_same(tmp_path, toy_predictions) -> None:
    before = toy_predictions(audio_dir=tmp_path)
    after = read_predictions(write_predictions(tmp_path / "predictions.csv", before))
    assert after.classes == before.classes
    for name in ("ids", "truth", "predicted", "speakers", "corpora", "folds", "seeds"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert np.allclose(after.scores, before.scores, atol=1e-9)
    assert dict(after.extras) == dict(before.extras)
    assert after.notes == ()


def test_float32_scores_survive_writing_exactly(tmp_path) -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(3), 50).astype(np.float32)
    ids = [str(number) for number in range(50)]
    before = Predictions.of(ids, ["a"] * 50, classes="abc", scores=scores)
    after = read_predictions(write_predictions(tmp_path / "p.csv", before))
    assert np.array_equal(after.scores.astype(np.float32), scores)


def test_a_foreign_table_needs_only_id_truth_and_predicted(table) -> None:
    predictions = read_predictions(table("id,truth,predicted", "1,sad,sad", "2,happy,sad"))
    assert predictions.classes == ("happy", "sad")
    assert predictions.scores is None
    assert not predictions.has_speakers
    assert predictions.fold_values == ("all",)
    assert predictions.seed_values == (0,)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_tables_from_spreadsheets_are_read(table, mark) -> None:
    lines = ("\ufeffid,truth,predicted", "1,sad,sad", '2,"happy",sad')
    predictions = read_predictions(table(*(line.replace(",", mark) for line in lines)))
    assert predictions.truth.tolist() == ["sad", "happy"]


def test_scores_decide_over_the_predicted_column_and_say_so(table) -> None:
    path = table(
        "id,truth,predicted,score_happy,score_sad", "1,sad,happy,0.1,0.9", "2,sad,sad,0.2,0.8"
    )
    with pytest.warns(UserWarning, match="differs from the highest score in 1 of 2 rows"):
        predictions = read_predictions(path)
    assert predictions.predicted.tolist() == ["sad", "sad"]


def test_scores_that_do_not_sum_to_one_are_noted(table) -> None:
    path = table(HEADER, "1,s,1,0,sad,0.5,0.9", "2,s,1,0,sad,0.5,0.5")
    with pytest.warns(UserWarning, match="1 of 2 rows do not sum to 1"):
        read_predictions(path)


def test_label_order_can_be_given_for_a_table_without_scores(table) -> None:
    path = table("id,truth,predicted", "1,sad,sad")
    assert read_predictions(path, classes=["sad", "happy"]).classes == ("sad", "happy")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("truth,", "")], "no column 'truth'"),
        (["utterance,truth,predicted", "1,sad,sad"], "no column 'id'; got utterance"),
        (["id,truth", "1,sad"], "neither a column 'predicted' nor score columns"),
        ([HEADER], "no rows below the header"),
        (["id,id,truth,predicted", "1,1,sad,sad"], "column 'id' occurs twice"),
        ([HEADER, "1,s,1,0,angry,0.5,0.5"], r"row 1 \(id 1\): truth 'angry' is not among"),
        ([HEADER, "1,s,1,0,sad,nan,0.5"], "score of 'happy' is nan.*1 of 1 rows"),
        ([HEADER, "1,s,1,0,sad,,0.5"], "'' in column 'score_happy' is not a number"),
        ([HEADER, "1,s,1,0,sad,-2,3"], "score of 'happy' is -2, expected 0 to 1"),
        ([HEADER, "1,s,1,0,sad,0.5,0.5", "1,s,1,0,sad,0.4,0.6"], "occurs a second time in fold 1"),
        ([HEADER, "1,s,1,zero,sad,0.5,0.5"], "'zero' in column 'seed'"),
        ([HEADER, "1,s,1,0,,0.5,0.5"], "empty 'truth'"),
        ([HEADER, "1,s,1,0,sad,0.5,0.5", "2,,1,0,sad,0.5,0.5"], "row 2 .* has no speaker"),
        ([HEADER, "1,s,1,0,sad,0.5"], "row 1 has 6 cells, the header 7"),
        (["<html><body>not found</body></html>"], "no column 'id'"),
        (
            ["id,truth,predicted", "1,1,1", "2,-0.4,0.13"],
            r"row 2 \(id 2\): .* numbers, expected cl",
        ),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(table, lines, message) -> None:
    with pytest.raises(PredictionsError, match=message) as caught:
        read_predictions(table(*lines))
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_classes(table) -> None:
    assert read_predictions(table("id,truth,predicted", "1,0,2", "2,2,2")).classes == ("0", "2")


def test_the_same_utterance_may_occur_under_every_seed(table) -> None:
    path = table(HEADER, "1,s,1,0,sad,0.4,0.6", "1,s,1,1,sad,0.4,0.6")
    assert read_predictions(path).seed_values == (0, 1)


def test_files_that_are_no_tables_are_refused(tmp_path) -> None:
    with pytest.raises(PredictionsError, match="no such file"):
        read_predictions(tmp_path / "nothing.csv")
    with pytest.raises(PredictionsError, match="is a directory"):
        read_predictions(tmp_path)
    (tmp_path / "empty.csv").write_bytes(b"\n\n")
    with pytest.raises(PredictionsError, match="file is empty"):
        read_predictions(tmp_path / "empty.csv")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(PredictionsError, match="not text in UTF-8"):
        read_predictions(tmp_path / "book.xlsx")
    (tmp_path / "zeros.csv").write_bytes(b"id,truth\0,predicted\n")
    with pytest.raises(PredictionsError, match="zero bytes"):
        read_predictions(tmp_path / "zeros.csv")
    (tmp_path / "huge.csv").write_text('id,truth,predicted\n1,sad,"' + "x" * 200_000)
    with pytest.raises(PredictionsError, match="not a table"):
        read_predictions(tmp_path / "huge.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": [], "truth": []}, "no rows"),
        ({"predicted": ["sad"]}, "1 values in 'predicted' for 2 ids"),
        ({"scores": np.ones((2, 2)) / 2}, "scores without classes"),
        ({"scores": np.ones((2, 2)) / 2, "classes": ["sad"]}, "scores of shape"),
        ({"predicted": ["sad", "odd"], "classes": ["sad"]}, "predicted 'odd' is not among"),
    ],
)
def test_columns_that_do_not_fit_are_refused(arguments, message) -> None:
    with pytest.raises(PredictionsError, match=message):
        Predictions.of(**({"ids": ["1", "2"], "truth": ["sad", "sad"]} | arguments))


def test_a_failed_write_leaves_the_old_table_and_no_litter(tmp_path, toy_predictions, monkeypatch):
    path = write_predictions(tmp_path / "p.csv", toy_predictions(n_seeds=1))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(path, toy_predictions(n_seeds=2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["p.csv"]


SETS = "id,truth_set,score_happy,score_sad"


def test_the_column_truth_set_makes_a_table_multi_label(table) -> None:
    path = table(SETS, "1,sad+happy,0.7,0.6", "2,sad,0.5,0.2")
    predictions = read_predictions(path)
    assert predictions.multi_label
    assert predictions.truth.tolist() == ["happy+sad", "sad"]
    assert predictions.predicted.tolist() == ["happy+sad", ""]
    assert predictions.truth_sets.tolist() == [[True, True], [False, True]]
    assert predictions.predicted_sets.tolist() == [[True, True], [False, False]]


def test_a_written_multi_label_table_reads_back_the_same(tmp_path, toy) -> None:
    before = toy.toy_sets()
    after = read_predictions(write_predictions(tmp_path / "predictions.csv", before))
    assert after.multi_label
    assert after.notes == ()
    for name in ("ids", "truth", "predicted", "speakers", "folds", "seeds"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert np.allclose(after.scores, before.scores, atol=1e-9)


def test_predicted_sets_alone_are_enough_and_may_be_empty(table) -> None:
    predictions = read_predictions(table("id,truth_set,predicted_set", "1,sad+fear,sad", "2,sad,"))
    assert predictions.classes == ("fear", "sad")
    assert predictions.predicted.tolist() == ["sad", ""]


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (["id,truth_set,score_a,score_b", "1,a,0.7,0.3", "2,b,0.2,0.8"], "as those of a softmax"),
        (
            ["id,truth_set,predicted_set,score_a,score_b", "1,a,b,0.7,0.6", "2,b,b,0.2,0.9"],
            "above 0.5 in 1 of 2 rows",
        ),
    ],
)
def test_suspicious_multi_label_scores_are_noted(table, lines, note) -> None:
    with pytest.warns(UserWarning, match=note):
        read_predictions(table(*lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["id,truth,truth_set,predicted", "1,a,a,a"], "column 'truth' beside 'truth_set'"),
        (["id,truth_set,predicted", "1,a,a"], "column 'predicted' beside 'truth_set'"),
        (["id,truth,predicted_set", "1,a,a"], "column 'predicted_set' without 'truth_set'"),
        (["id,truth_set", "1,a"], "neither a column 'predicted_set' nor"),
        ([SETS, "1,,0.7,0.3"], r"row 1 \(id 1\) has an empty 'truth_set'"),
        ([SETS, "1,sad+,0.7,0.3"], "'sad\\+' is no set of classes"),
        ([SETS, "1,sad+sad,0.7,0.3"], "is no set of classes: join each class once"),
        ([SETS, "1,sad,0.7,0.3", "2,sad+fear,0.7,0.3"], r"row 2 .*: truth_set 'fear' is not among"),
        (["id,truth_set,score_a+b,score_c", "1,c,0.7,0.3"], "class 'a\\+b' contains"),
        ([SETS.replace("_set", ""), "1,happy+sad,0.7,0.3"], "truth 'happy\\+sad' joins several"),
        (["id,truth,predicted", "1,a,a", "2,b,a+b"], "predicted 'a\\+b' joins several classes"),
    ],
)
def test_contradictions_about_sets_are_refused_in_one_line(table, lines, message) -> None:
    with pytest.raises(PredictionsError, match=message) as caught:
        read_predictions(table(*lines))
    assert "\n" not in str(caught.value)


def test_a_single_class_may_be_called_what_it_likes(table) -> None:
    path = table("id,truth,score_a+b,score_a,score_b", "1,a+b,0.6,0.2,0.2")
    assert read_predictions(path).truth.tolist() == ["a+b"]


def test_a_multi_label_table_has_no_class_indices(toy) -> None:
    with pytest.raises(InputError, match="several classes per utterance, but one is needed"):
        _ = toy.toy_sets().truth_index
