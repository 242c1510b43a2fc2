"""Trackers: what they are told, and that none of them can stop a training."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from serkit.training import trackers
from serkit.training.lock import FolderLock
from serkit.training.trackers import (
    TRACKERS,
    TrackerConfig,
    TrackerName,
    open_tracker,
    tracked_values,
)

ROWS: list[dict[str, Any]] = [
    {"epoch": 1, "train_loss": 1.5, "dev_loss": 1.2, "dev_uar": 0.4, "seconds": 0.5},
    {"epoch": 2, "train_loss": 1.0, "dev_loss": 1.1, "dev_uar": 0.5, "seconds": 0.5},
]
CONFIG = {"system": "toy", "training": {"epochs": 2, "schedule": {"kind": "constant"}}}


def track(kind: TrackerName, folder: Path, *, online: bool = False) -> list[str]:
    """Tell a tracker of a short training, and return what it said."""
    said: list[str] = []
    config = TrackerConfig(kind=kind, project="toy", online=online)
    tracker = open_tracker(config, folder, say=said.append)
    tracker.start("ser_speaker-03_s0", group="study", tags=["speaker-dependent"], config=CONFIG)
    for row in ROWS:
        tracker.log(tracked_values(row), row["epoch"])
    confusion = folder / "confusion.csv"
    folder.mkdir(exist_ok=True)
    confusion.write_text("angry,sad\n", encoding="utf-8")
    tracker.artifact(confusion)
    tracker.finish({"test/ua": 0.45})
    return said


class FakeRun:
    """Writes down what it is called with; fails in the calls that it is told to fail in."""

    def __init__(self, calls: list[str], failing: str, folder: Path) -> None:
        self.calls, self.failing = calls, failing
        self.dir = str(folder / "wandb" / "offline-run-1-x" / "files")
        self.info = SimpleNamespace(run_id="1")
        self.summary = SimpleNamespace(update=self._note("summary"))

    def _note(self, name: str) -> Any:
        def call(*args: Any, **settings: Any) -> FakeRun:
            self.calls.append(name)
            if name == self.failing:
                raise RuntimeError("no room\nleft")
            return self

        return call

    def __getattr__(self, name: str) -> Any:
        return self._note(name)


def fake(monkeypatch: pytest.MonkeyPatch, name: str, module: Any) -> None:
    monkeypatch.setitem(sys.modules, name, module)


# What is told.


def test_every_tracker_has_a_name_that_can_be_chosen() -> None:
    assert tuple(TRACKERS) == get_args(TrackerName)


def test_rows_are_named_by_part_and_measure_and_what_is_no_number_is_left_out() -> None:
    row = {
        "epoch": 7,
        "train_loss": 0.5,
        "train_loss_ctc": 2,
        "train_weight_ctc": 0.1,
        "learning_rate": 1e-3,
        "learning_rate_encoder": 1e-5,
        "grad_norm": 3.0,
        "dev_loss": math.nan,
        "dev_uar": 0.6,
        "dev_war": 0.7,
        "dev_wer": 0.2,
        "test_uar": 0.5,
        "stopped": True,
        "note": "text",
        "recalls": [0.5, 0.7],
    }
    values = tracked_values(row)
    assert math.isnan(values.pop("val/loss"))
    assert values == {
        "train/loss": 0.5,
        "train/loss_ctc": 2.0,
        "train/weight_ctc": 0.1,
        "lr/all": 1e-3,
        "lr/encoder": 1e-5,
        "grad_norm": 3.0,
        "val/ua": 0.6,
        "val/wa": 0.7,
        "val/wer": 0.2,
        "test/ua": 0.5,
    }


def test_only_wandb_goes_online() -> None:
    assert TrackerConfig() == TrackerConfig(kind="none", online=False)
    assert TrackerConfig(kind="wandb", online=True).online
    with pytest.raises(
        ValidationError, match="online is for kind = 'wandb', and this kind is 'mlf"
    ):
        TrackerConfig(kind="mlflow", online=True)


def test_no_tracker_leaves_nothing(tmp_path: Path) -> None:
    assert track("none", tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.csv"]


def test_tensorboard_has_the_values_of_the_last_sitting_only(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert track("tensorboard", tmp_path) == []
    assert track("tensorboard", tmp_path) == []  # the same training, resumed
    events = EventAccumulator(str(tmp_path / "tensorboard" / "ser_speaker-03_s0")).Reload()
    assert {"train/loss", "val/loss", "val/ua", "seconds", "test/ua"} == set(
        events.Tags()["scalars"]
    )
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("val/ua")] == [(1, 0.4), (2, 0.5)]
    (about,) = {e.tensor_proto.string_val[0] for e in events.Tensors("about/text_summary")}
    assert json.loads(about)["tags"] == ["speaker-dependent"]


def test_mlflow_keeps_runs_in_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    out = tmp_path / "out"
    assert track("mlflow", out) == []
    assert track("mlflow", out) == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{(out / 'mlflow/mlflow.db').as_posix()}")
    experiment = client.get_experiment_by_name("toy")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_name for run in runs] == ["ser_speaker-03_s0"] * 2
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert (run.data.tags["group"], run.data.tags["tags"]) == ("study", "speaker-dependent")
    assert run.data.params["training.schedule.kind"] == "constant"
    assert run.data.metrics["test/ua"] == 0.45
    history = client.get_metric_history(run.info.run_id, "val/ua")
    assert [(m.step, m.value) for m in history] == [(1, 0.4), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["confusion.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_wandb_stays_offline_and_says_the_command_that_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    out = tmp_path / "my run"
    (line,) = track("wandb", out)
    (stored,) = (out / "wandb").glob("offline-run-*")
    assert line == f"to upload this run: wandb sync '{stored}'"
    assert list(stored.glob("*.wandb"))
    assert (stored / "files" / "confusion.csv").exists()


# Where trackio keeps its databases is fixed when it is imported: hence a process of its own.
_TRACKIO = """
import sys
from pathlib import Path
from serkit.training.trackers import TrackerConfig, open_tracker
folder, said = Path(sys.argv[1]), []
folder.mkdir()
(folder / "confusion.csv").write_text("angry,sad")
one, other = (
    open_tracker(TrackerConfig(kind="trackio", project="toy"), folder, say=said.append)
    for _ in range(2)
)
one.start("one", group="study", tags=["selected on test"], config={"epochs": 2})
other.start("other", group="study", tags=[], config={})
for step in (1, 2):
    one.log({"val/ua": step / 4}, step)
    other.log({"val/ua": step / 8}, step)
one.artifact(folder / "confusion.csv")
one.finish({"test/ua": 0.45})
other.finish({})
assert not said, said
"""


def test_trackio_keeps_runs_at_once_apart_in_its_local_database(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    local = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        local.pop(variable, None)
    done = subprocess.run(
        [sys.executable, "-c", _TRACKIO, str(tmp_path / "out")],
        env=local,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    with closing(sqlite3.connect(tmp_path / "trackio" / "toy.db")) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics").fetchall()
    told = [(name, step, *json.loads(values).items()) for name, step, values in rows]
    assert sorted(told) == [
        ("one", 1, ("val/ua", 0.25)),
        ("one", 2, ("test/ua", 0.45)),
        ("one", 2, ("val/ua", 0.5)),
        ("other", 1, ("val/ua", 0.125)),
        ("other", 2, ("val/ua", 0.25)),
    ]


# What cannot happen.


@pytest.mark.parametrize("kind", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_said_once(
    kind: TrackerName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, kind, None)
    (line,) = track(kind, tmp_path)
    assert line == (
        f"the tracker {kind} failed, the training goes on without it: this tracker needs "
        f"the package '{kind}', which is not installed: pip install 'serkit[{kind}]'"
    )


@pytest.mark.parametrize("failing", ["init", "log", "save", "summary", "finish"])
def test_a_tracker_that_fails_is_said_once_and_told_no_more(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run = FakeRun(calls, failing, tmp_path)
    fake(monkeypatch, "wandb", SimpleNamespace(init=run.init, Settings=lambda **_: None))
    (line,) = track("wandb", tmp_path)
    assert line == (
        "the tracker wandb failed, the training goes on without it: RuntimeError('no room\\nleft')"
    )
    assert calls[-1] == failing


def test_a_fault_inside_an_installed_tracker_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text("import nowhere_to_be_found\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    (line,) = track("trackio", tmp_path / "out")
    assert "No module named 'nowhere_to_be_found'" in line


def test_an_interrupted_training_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise KeyboardInterrupt

    fake(monkeypatch, "wandb", SimpleNamespace(init=init, Settings=lambda **_: None))
    with pytest.raises(KeyboardInterrupt):
        track("wandb", tmp_path)


@pytest.mark.parametrize(("online", "mode"), [(False, "offline"), (True, "online")])
def test_wandb_is_told_its_mode_and_folder_and_never_asks_for_a_key(
    online: bool, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    run = FakeRun([], "", tmp_path)

    def login(**how: Any) -> bool:
        asked.append(how)
        return True

    def init(**given: Any) -> FakeRun:
        settings.update(given)
        return run

    module = SimpleNamespace(login=login, init=init, Settings=lambda **given: given)
    fake(monkeypatch, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "online")
    said = track("wandb", tmp_path, online=online)
    assert (settings["mode"], settings["dir"]) == (mode, str(tmp_path))
    assert (settings["name"], settings["group"]) == ("ser_speaker-03_s0", "study")
    assert asked == ([{"prompt": False}] if online else [])
    assert bool(said) != online


def test_wandb_online_without_a_login_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "wandb", SimpleNamespace(login=lambda prompt: False))
    (line,) = track("wandb", tmp_path, online=True)
    assert "wandb has no login for online = true: log in with 'wandb login'" in line


@pytest.mark.parametrize("variable", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])
def test_trackio_never_goes_to_a_server(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "somewhere")
    (line,) = track("trackio", tmp_path)
    assert f"{variable} is set, which would send the run away: unset it" in line


def test_mlflow_says_what_its_slim_package_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "mlflow", SimpleNamespace())
    fake(monkeypatch, "mlflow.entities", SimpleNamespace())
    fake(monkeypatch, "sqlalchemy", None)
    (line,) = track("mlflow", tmp_path)
    assert "needs the package 'sqlalchemy'" in line
    assert line.endswith("pip install 'serkit[mlflow]'")


def test_members_take_turns_in_making_the_database_and_do_not_wait_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow", "mlflow.entities", "sqlalchemy", "alembic"):
        fake(monkeypatch, name, SimpleNamespace())
    monkeypatch.setattr(trackers, "_WAITS", 2)
    (tmp_path / "mlflow").mkdir()
    with FolderLock(tmp_path / "mlflow") as lock:
        lock.take()
        (line,) = track("mlflow", tmp_path)
    assert "another process has kept its database for 0.4 s" in line
