import json

import pytest
from openpyxl import load_workbook

from serkit.evaluation import SET_METRIC_NAMES, compare_runs, write_predictions
from serkit.types import InputError


@pytest.fixture
def three_runs(tmp_path, write_toy_run):
    return [
        write_toy_run(tmp_path / "a", name="timnet", skill=0.6),
        write_toy_run(tmp_path / "b", name="better", skill=2.5, noise_seed=1),
        write_toy_run(tmp_path / "c", name="similar", skill=0.6, noise_seed=2),
    ]


def test_runs_are_listed_and_tested_against_the_first_with_holm(three_runs) -> None:
    comparison = compare_runs(three_runs)
    assert [row["run"] for row in comparison.rows()] == ["timnet", "better", "similar"]
    assert comparison.rows()[0]["parameters"] == "106,872"
    better, similar = comparison.pairs
    assert (better.run, better.against) == ("better", "timnet")
    assert better.test is not None
    assert better.p_adjusted == pytest.approx(2 * better.test.p)
    assert "better is significantly above timnet" in better.verdict
    assert "similar is not significantly" in similar.verdict
    assert better.caveats == ()
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_different_protocols_are_named_beside_the_test(tmp_path, write_toy_run) -> None:
    honest = write_toy_run(tmp_path / "a", name="honest")
    selected = write_toy_run(tmp_path / "b", name="selected", selection="best_test", noise_seed=1)
    (pair,) = compare_runs([honest, selected]).pairs
    assert pair.test is not None
    assert "protocols differ" in pair.caveats[0]
    assert "selected on test" in pair.caveats[0]
    assert "protocols differ" in compare_runs([honest, selected]).pair_rows()[0]["remarks"]


def test_different_folds_under_one_protocol_are_named(
    tmp_path, write_toy_run, toy_predictions
) -> None:
    a = write_toy_run(tmp_path / "a")
    b = write_toy_run(tmp_path / "b")
    write_predictions(b / "predictions.csv", toy_predictions(speakers_per_fold=4, noise_seed=1))
    (pair,) = compare_runs([a, b]).pairs
    assert pair.caveats == (
        "utterances are in different folds: the systems were not trained on the same parts",
    )


def test_folds_that_only_have_other_names_are_the_same(tmp_path, write_toy_run) -> None:
    a, b = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", noise_seed=1)
    text = (b / "predictions.csv").read_text().splitlines()
    renamed = [text[0]]
    for line in text[1:]:
        parts = line.split(",")
        parts[3] = f"part-{parts[3]}"
        renamed.append(",".join(parts))
    (b / "predictions.csv").write_text("\n".join(renamed) + "\n")
    (pair,) = compare_runs([a, b]).pairs
    assert pair.caveats == ()


def test_other_copies_and_other_label_spaces_are_named(tmp_path, write_toy_run) -> None:
    a, b = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", noise_seed=1)
    run = json.loads((b / "run.json").read_text())
    run["corpus"]["fingerprint"] = "another"
    (b / "run.json").write_text(json.dumps(run))
    (pair,) = compare_runs([a, b]).pairs
    assert "fingerprints differ" in pair.caveats[0]


def test_a_foreign_table_is_compared_where_its_utterances_are(
    tmp_path, write_toy_run, toy_predictions
) -> None:
    run = write_toy_run(tmp_path / "a")
    other = toy_predictions(noise_seed=1, n_seeds=1)
    lines = ["id,truth,predicted"]
    lines += [",".join(row) for row in zip(other.ids, other.truth, other.predicted, strict=True)]
    (tmp_path / "theirs.csv").write_text("\n".join(lines))
    (pair,) = compare_runs([run, tmp_path / "theirs.csv"]).pairs
    assert pair.test is not None
    assert pair.test.n_speakers == 8
    assert "protocol of theirs is unknown" in pair.caveats[0]


def test_runs_with_nothing_in_common_say_why_they_are_not_tested(
    tmp_path, write_toy_run, toy_predictions
) -> None:
    a, b = write_toy_run(tmp_path / "a", name="a"), write_toy_run(tmp_path / "b", name="b")
    text = (b / "predictions.csv").read_text().replace("/angry_", "/x_").replace("/sad_", "/y_")
    text = text.replace("/happy_", "/z_").replace("/neutral_", "/w_")
    (b / "predictions.csv").write_text(text)
    comparison = compare_runs([a, b])
    (pair,) = comparison.pairs
    assert pair.test is None
    assert pair.p_adjusted is None
    assert "not tested: no utterance id is in both tables" in pair.verdict
    assert comparison.pair_rows()[0]["p"] == "–"


def other_corpus(run, name: str) -> None:
    content = json.loads((run / "run.json").read_text())
    content["corpus"] |= {"name": name, "title": name.upper()}
    (run / "run.json").write_text(json.dumps(content))


def test_one_workbook_holds_systems_by_corpora_and_the_tests(three_runs, tmp_path) -> None:
    other_corpus(three_runs[2], "emodb")
    comparison = compare_runs(three_runs)
    assert [pair.test is None for pair in comparison.pairs] == [False, True]
    book = load_workbook(comparison.write_xlsx(tmp_path / "all.xlsx"))
    assert book.sheetnames == [
        "summary",
        "UAR by corpus",
        "WAR by corpus",
        "tests",
        "recall per class",
        "folds",
    ]
    summary = list(book["summary"].iter_rows(values_only=True))
    assert len(summary) == 4
    assert summary[1][0] == "timnet"
    uar = list(book["UAR by corpus"].iter_rows(values_only=True))
    assert uar[0] == ("system", "protocol", "Synthetic Voices", "EMODB")
    assert "/" in uar[1][2]
    assert uar[1][3] == pytest.approx(comparison.runs[2].summary.scores.uar)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, write_toy_run) -> None:
    runs = [write_toy_run(tmp_path / folder) for folder in ("x", "y")]
    names = [row["run"] for row in compare_runs(runs).rows()]
    assert names == ["toy-timnet [x]", "toy-timnet [y]"]


def test_one_run_alone_is_a_table_without_tests(tmp_path, write_toy_run) -> None:
    comparison = compare_runs([write_toy_run(tmp_path / "a")])
    assert comparison.pairs == ()
    assert load_workbook(comparison.write_xlsx(tmp_path / "a.xlsx")).sheetnames == [
        "summary",
        "recall per class",
        "folds",
    ]


def test_tables_with_several_classes_per_utterance_are_compared_by_two_class_uar(
    tmp_path, toy
) -> None:
    runs = [toy.write_toy_set_run(tmp_path / name) for name in ("a", "b")]
    write_predictions(runs[1] / "predictions.csv", toy.toy_sets(skill=1.6, noise_seed=1))
    bare = tmp_path / "theirs.csv"
    write_predictions(bare, toy.toy_sets(noise_seed=2, n_seeds=1))
    comparison = compare_runs([*runs, bare])
    better, similar = comparison.pairs
    assert better.test is not None
    assert (better.test.metric, better.test.n_speakers) == ("binary_uar", 8)
    assert better.p_adjusted == pytest.approx(2 * better.test.p)
    assert "is significantly above toy-sets [a]" in better.verdict
    assert "points of two-class UAR" in better.verdict
    assert "theirs is not significantly" in similar.verdict
    row = comparison.rows()[0]
    assert row["two-class UAR (MOSEI weighted accuracy) %"] != "–"
    assert row["majority mean recall / exact match / two-class UAR / macro F1 %"].count("/") == 3
    assert comparison.pair_rows()[0]["two-class UAR difference"].startswith("+")
    json.dumps(comparison.to_dict(), allow_nan=False)
    book = load_workbook(compare_runs(runs).write_xlsx(tmp_path / "sets.xlsx"))
    sheets = ["summary", "tests", "recall per class", "two-class UAR per class", "folds"]
    assert book.sheetnames == sheets
    folds = list(book["folds"].iter_rows(values_only=True))
    assert folds[0][5:] == tuple(SET_METRIC_NAMES.values())
    header, first, *_ = book["two-class UAR per class"].iter_rows(values_only=True)
    uar = dict(zip(header, first, strict=True))
    mean = comparison.runs[0].summary.scores.pooled["binary_uar"].mean
    assert sum(uar[label] for label in toy.CLASSES) / 4 == pytest.approx(mean)


def test_sets_over_other_classes_say_why_they_are_not_tested(tmp_path, toy) -> None:
    run, bare = toy.write_toy_set_run(tmp_path / "a"), tmp_path / "b.csv"
    text = (run / "predictions.csv").read_text()
    bare.write_text(text.replace("sad", "gloomy"))
    (pair,) = compare_runs([run, bare]).pairs
    assert pair.test is None
    assert "not tested: classes are" in pair.verdict


def test_no_run_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="no runs to compare"):
        compare_runs([])


def test_runs_on_two_corpora_say_why_they_are_not_tested(tmp_path, write_toy_run) -> None:
    a, b = write_toy_run(tmp_path / "a", name="a"), write_toy_run(tmp_path / "b", name="b")
    other_corpus(b, "emodb")
    comparison = compare_runs([a, b])
    (pair,) = comparison.pairs
    assert pair.verdict == (
        "b and a cannot be compared: not tested: no utterances in common (EMODB and Synthetic "
        "Voices)."
    )
    assert comparison.pair_rows()[0]["p"] == "–"


@pytest.mark.parametrize("place", ["none/all.xlsx", "a"])
def test_a_workbook_that_cannot_be_written_is_one_line(tmp_path, write_toy_run, place) -> None:
    comparison = compare_runs([write_toy_run(tmp_path / "a")])
    with pytest.raises(InputError, match="cannot be written") as caught:
        comparison.write_xlsx(tmp_path / place)
    assert "\n" not in str(caught.value)
