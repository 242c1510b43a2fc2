import os

import numpy as np
import pytest

from serkit.evaluation import Predictions, PredictionsError, read_predictions, write_predictions

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
        ([HEADER, "1,s,1,0,sad,0.5,0.5"] * 1 + ["1,s,2,0,sad,0.5,0.5"], "occurs a second time"),
        ([HEADER, "1,s,1,zero,sad,0.5,0.5"], "'zero' in column 'seed'"),
        ([HEADER, "1,s,1,0,,0.5,0.5"], "empty 'truth'"),
        ([HEADER, "1,s,1,0,sad,0.5,0.5", "2,,1,0,sad,0.5,0.5"], "row 2 .* has no speaker"),
        ([HEADER, "1,s,1,0,sad,0.5"], "row 1 has 6 cells, the header 7"),
        (["<html><body>not found</body></html>"], "no column 'id'"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(table, lines, message) -> None:
    with pytest.raises(PredictionsError, match=message) as caught:
        read_predictions(table(*lines))
    assert "\n" not in str(caught.value)


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
