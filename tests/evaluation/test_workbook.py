import json

import numpy as np
import pytest
from openpyxl import load_workbook
from sklearn import metrics as oracle

from serkit.evaluation import Predictions, read_run, summarize, write_predictions
from serkit.evaluation.summary import judge
from serkit.evaluation.workbook import Sheet, save_sheets, sheet_name, write_workbook


def cells(sheet) -> list[list[object]]:
    return [list(row) for row in sheet.iter_rows(values_only=True)]


def find(rows: list[list[object]], first: object) -> list[object]:
    return next(row for row in rows if row[0] == first)


@pytest.fixture
def book(tmp_path, write_toy_run):
    folder = read_run(write_toy_run(tmp_path / "run"))
    path = write_workbook(tmp_path / "results.xlsx", folder, summarize(folder.predictions))
    return load_workbook(path), folder.predictions


def test_there_is_a_summary_a_pooled_sheet_and_one_per_fold_and_seed(book) -> None:
    workbook, _ = book
    assert workbook.sheetnames[:4] == ["summary", "pooled", "fold 1 seed 0", "fold 1 seed 1"]
    assert len(workbook.sheetnames) == 2 + 4 * 2


def test_rows_of_the_matrix_are_the_truth_and_the_corner_says_so(book) -> None:
    workbook, predictions = book
    rows = cells(workbook["fold 2 seed 1"])
    assert rows[0][:5] == ["truth \\ predicted", *predictions.classes]
    chosen = (predictions.folds == "2") & (predictions.seeds == 1)
    expected = oracle.confusion_matrix(
        predictions.truth[chosen], predictions.predicted[chosen], labels=predictions.classes
    )
    assert np.array_equal([row[1:5] for row in rows[1:5]], expected)
    assert not np.array_equal(expected, expected.T)


def test_the_class_table_is_that_of_scikit_learn(book) -> None:
    workbook, predictions = book
    rows = cells(workbook["fold 2 seed 1"])
    chosen = (predictions.folds == "2") & (predictions.seeds == 1)
    report = oracle.classification_report(
        predictions.truth[chosen], predictions.predicted[chosen], output_dict=True
    )
    for name in (*predictions.classes, "macro avg", "weighted avg"):
        # The matrix above names the classes too: the class table is the later one.
        row = [row for row in rows if row[0] == name][-1]
        expected = [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert row[1:5] == pytest.approx(expected), name
    accuracy = find(rows, "accuracy")
    assert accuracy[1:4] == pytest.approx([report["accuracy"]] * 3)


def test_the_summary_names_protocol_limits_orientation_and_both_aggregations(book) -> None:
    workbook, predictions = book
    rows = cells(workbook["summary"])
    assert find(rows, "limits")[1] == "SYNTHETIC"
    assert "rows = truth" in find(rows, "orientation")[1]
    scores = summarize(predictions).scores
    line = find(rows, "UAR (UA)")
    assert line[1] == pytest.approx(scores.uar)
    assert line[3] == pytest.approx(scores.fold_mean["uar"].mean)
    assert len([row for row in rows if row[0] == "1"]) == 2


def test_text_that_looks_like_a_formula_stays_text(tmp_path) -> None:
    evil = ("=1+1", "+cmd", "-2", "@home", "\x07bell")
    predictions = Predictions.of(
        [str(k) for k in range(5)],
        list(evil),
        predicted=list(evil),
        folds=["=HYPERLINK()"] * 5,
        speakers=list(evil),
    )
    write_predictions(tmp_path / "predictions.csv", predictions)
    folder = read_run(tmp_path)
    path = write_workbook(tmp_path / "results.xlsx", folder, summarize(folder.predictions))
    workbook = load_workbook(path)
    assert workbook.sheetnames == ["summary", "pooled", "fold =HYPERLINK()"]
    kinds = {
        cell.data_type
        for sheet in workbook
        for row in sheet.iter_rows()
        for cell in row
        if cell.value
    }
    assert "f" not in kinds
    assert "=1+1" in [row[0] for row in cells(workbook["pooled"])]
    assert "?bell" in [row[0] for row in cells(workbook["pooled"])]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("fold a[b]:*?/\\c", "fold a_b______c"),
        ("x" * 40, "x" * 31),
        ("'quoted'", "quoted"),
        ("", "sheet"),
        ("History", "History (2)"),
        ("taken", "taken (2)"),
        ("TAKEN", "TAKEN (2)"),
    ],
)
def test_sheet_names_become_valid_and_distinct(wanted, expected) -> None:
    assert sheet_name(wanted, taken={"taken"}) == expected


def test_long_names_that_agree_in_front_stay_apart(tmp_path) -> None:
    names = [f"{'speaker' * 6} {number}" for number in range(12)]
    workbook = load_workbook(save_sheets(tmp_path / "b.xlsx", [Sheet(name) for name in names]))
    assert len(set(workbook.sheetnames)) == 12
    assert max(len(name) for name in workbook.sheetnames) <= 31


def test_undefined_values_are_empty_cells(tmp_path) -> None:
    predictions = Predictions.of(["a"], ["sad"], predicted=["sad"], classes=["happy", "sad"])
    write_predictions(tmp_path / "predictions.csv", predictions)
    (tmp_path / "run.json").write_text('{"labels": ["happy", "sad"]}')
    folder = read_run(tmp_path)
    path = write_workbook(tmp_path / "results.xlsx", folder, summarize(folder.predictions))
    rows = cells(load_workbook(path)["fold all"])
    happy = [row for row in rows if row[0] == "happy"][-1]
    assert happy[1:5] == [0, None, None, 0]


def test_a_multi_label_workbook_scores_each_class_instead_of_matrices(tmp_path, toy) -> None:
    folder = read_run(toy.write_toy_set_run(tmp_path / "run"))
    summary = judge(folder.predictions)
    workbook = load_workbook(write_workbook(tmp_path / "results.xlsx", folder, summary))
    assert workbook.sheetnames == ["summary", "classes"]
    rows = cells(workbook["summary"])
    assert find(rows, "exact match (WA)")[1] == pytest.approx(
        summary.scores.pooled["exact_match"].mean
    )
    assert len([row for row in rows if row[0] == "1"]) == 2
    happy = find(cells(workbook["classes"]), "happy")
    expected = summary.scores.per_class[1]
    assert happy[1:4] == pytest.approx([expected.recall, expected.specificity, expected.uar])


def test_experts_and_coverage_are_in_the_workbook_where_a_run_has_them(tmp_path, write_toy_run):
    run = write_toy_run(tmp_path / "run")
    content = json.loads((run / "run.json").read_text())
    content["experts"] = {"sad": {"uar": 0.8, "war": 0.9, "f1": 1}}
    content["coverage"] = {"n_utterances": 720, "n_judged": 360, "reason": "too short"}
    (run / "run.json").write_text(json.dumps(content))
    folder = read_run(run)
    path = write_workbook(tmp_path / "results.xlsx", folder, judge(folder.predictions))
    workbook = load_workbook(path)
    assert workbook.sheetnames[:3] == ["summary", "pooled", "experts"]
    assert find(cells(workbook["experts"]), "sad") == ["sad", 0.8, 0.9, 1.0]
    assert find(cells(workbook["summary"]), "coverage")[1].startswith("360 of 720 utterances")
