import json

import numpy as np
import pytest

from serkit.evaluation import RunFolderError, read_run


def change_json(path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_a_whole_run_folder_is_read(tmp_path, write_toy_run) -> None:
    folder = read_run(write_toy_run(tmp_path / "run"))
    assert folder.missing == ()
    assert folder.system == "TIM-Net"
    assert folder.split == "4 speaker folds"
    assert folder.warning_words == ("SYNTHETIC",)
    assert folder.protocol_words == "4 speaker folds, epoch chosen on the dev part, SYNTHETIC"
    assert folder.curves is not None
    assert len(folder.curves.members()) == 8
    assert folder.embeddings is not None
    assert folder.embeddings.vectors.shape == (360, 39)


def test_every_limit_of_the_protocol_becomes_a_word_once(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run", selection="best_test")
    content = json.loads((run / "run.json").read_text())
    change_json(run / "run.json", corpus=content["corpus"] | {"complete": False})
    change_json(run / "leaks.json", ok=False)
    assert read_run(run).warning_words == (
        "speaker-dependent",
        "selected on test",
        "SYNTHETIC",
        "incomplete corpus",
        "leak check failed",
    )


def test_files_that_are_missing_are_named_with_what_they_would_show(tmp_path, write_toy_run):
    run = write_toy_run(tmp_path / "run")
    for name in ("run.json", "config.json", "leaks.json", "curves.csv", "embeddings.npz"):
        (run / name).unlink()
    folder = read_run(run)
    assert [name for name, _ in folder.missing] == [
        "run.json",
        "config.json",
        "leaks.json",
        "curves.csv",
        "embeddings.npz",
    ]
    assert folder.protocol_words == "protocol unknown"
    assert (folder.name, folder.corpus_name, folder.n_parameters) == ("run", "toy", None)


def test_a_bare_table_is_a_run_of_which_nothing_else_is_left(table) -> None:
    folder = read_run(table("id,truth,predicted", "1,sad,sad", "2,happy,sad", name="theirs.csv"))
    assert (folder.name, folder.system) == ("theirs", "theirs")
    assert folder.corpus_title == "an unnamed corpus"
    assert len(folder.missing) == 5


def test_labels_of_the_run_order_the_classes_of_a_table_without_scores(tmp_path) -> None:
    (tmp_path / "predictions.csv").write_text("id,truth,predicted\n1,sad,sad\n")
    (tmp_path / "run.json").write_text('{"labels": ["sad", "happy"]}')
    assert read_run(tmp_path).predictions.classes == ("sad", "happy")


def test_leave_one_speaker_out_needs_no_number_of_folds(tmp_path, write_toy_run) -> None:
    assert read_run(write_toy_run(tmp_path / "r", speakers_per_fold=1)).split == (
        "leave-one-speaker-out"
    )


def test_curves_without_a_dev_part_are_read(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run")
    header = "fold,seed,epoch,train_loss,dev_loss,dev_uar,dev_war,selected\n"
    (run / "curves.csv").write_text(header + "1,0,1,0.9,,,,0\n1,0,2,0.8,,,,1\n")
    curves = read_run(run).curves
    assert curves is not None
    assert not curves.has_dev
    assert curves.selected.tolist() == [False, True]


@pytest.mark.parametrize("task", ["decomposition", "sentiment", "transcription"])
def test_a_run_of_another_task_is_not_called_unfinished(tmp_path, task) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"task": task}))
    with pytest.raises(RunFolderError, match=f"finished run of the task '{task}'.*serkit report"):
        read_run(tmp_path)


def test_folders_that_are_no_finished_run_are_refused(tmp_path) -> None:
    with pytest.raises(RunFolderError, match="no such run folder"):
        read_run(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match=r"holds no predictions\.csv"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", "not JSON"),
        ("config.json", "[]", "holds a list, expected a JSON object"),
        ("curves.csv", "epoch\n1\n", "no rows with the columns fold, seed, epoch"),
        ("curves.csv", "fold,seed,epoch,train_loss\n1,0,x,1\n", "a cell is not a number"),
        ("embeddings.npz", "nonsense", "cannot be read as arrays"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, write_toy_run, name, content, message):
    run = write_toy_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(RunFolderError, match=message) as caught:
        read_run(run)
    assert name in str(caught.value)


def test_embeddings_that_would_run_code_or_do_not_fit_are_refused(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run")
    ids = np.array(["a", "b"])
    zeros = np.zeros(2, dtype=np.int64)
    np.savez(run / "embeddings.npz", id=ids, fold=ids, seed=zeros, embedding=np.zeros((3, 4)))
    with pytest.raises(RunFolderError, match="different lengths"):
        read_run(run)
    pickled = np.array([{"a": 1}, None], dtype=object)
    np.savez(run / "embeddings.npz", id=pickled, fold=ids, seed=zeros, embedding=np.zeros((2, 4)))
    with pytest.raises(RunFolderError, match="cannot be read as arrays"):
        read_run(run)


def test_coverage_is_said_only_where_utterances_are_left_out(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run")
    assert read_run(run).not_judged == ""
    change_json(run / "run.json", coverage={"n_utterances": 360, "n_judged": 360})
    assert read_run(run).not_judged == ""
    part = {"n_utterances": 400, "n_judged": 360, "reason": "shorter than 2 s"}
    change_json(run / "run.json", coverage=part)
    expected = "40 of 400 utterances (10.0 %) are not judged: shorter than 2 s"
    assert read_run(run).not_judged == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coverage": {"n_utterances": 3, "n_judged": 4}}, "coverage is .*at most n_utterances"),
        ({"coverage": {"n_judged": 4}}, "expected n_utterances and n_judged"),
        ({"experts": {"sad": {"uar": 0.5}}}, "expected uar, war and f1 of every class"),
        ({"experts": [1]}, "expected uar, war and f1"),
        ({"multi_label": True}, "run.json says several classes per utterance, the columns of"),
    ],
)
def test_a_run_json_that_contradicts_itself_is_refused(
    tmp_path, write_toy_run, changes, message
) -> None:
    run = write_toy_run(tmp_path / "run")
    change_json(run / "run.json", **changes)
    with pytest.raises(RunFolderError, match=message):
        read_run(run)
