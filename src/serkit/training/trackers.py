"""Trackers: what shows a training's curves, beside the ``log.jsonl`` that is always written.

Each tracker is an adapter of four calls, :class:`Tracker`, and one of :data:`TRACKERS`:

* ``none``: nothing.
* ``tensorboard``: events below ``tensorboard/`` in the run folder.
* ``wandb``: Weights & Biases, offline in ``wandb/`` of the run folder; at the end the command that
  uploads the run is said. Online only where :attr:`TrackerConfig.online` asks for it, and then with
  the login that wandb finds; nobody is ever asked for a key, and serkit reads none.
* ``mlflow``: a database and files in ``mlflow/`` of the run folder.
* ``trackio``: its own local database, never a hosted one.

No service is needed for a training, and none can stop one: where a tracker is not installed or
fails, :func:`open_tracker` has it said in one line, once, and the training goes on without it.

A training that is resumed is told to its tracker from its first epoch on, as a new run of the same
name; the run that was cut off stays as it was (TensorBoard's events are replaced).
"""

from __future__ import annotations

import contextvars
import importlib
import io
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serkit.training.lock import FolderLock
from serkit.types import InputError, MissingExtraError

__all__ = [
    "TRACKERS",
    "Tracker",
    "TrackerConfig",
    "TrackerName",
    "open_tracker",
    "tracked_values",
]

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
Say = Callable[[str], None]

_LONGEST_TAG = 64  # characters that wandb takes
_LONGEST_PARAM = 500  # characters that every version of mlflow takes
_PARAMS_AT_ONCE = 100  # that mlflow takes
_WAITS, _WAIT_S = 600, 0.2  # mlflow's database takes some seconds to make, for each member in turn
_PARTS = {"train": "train", "dev": "val", "test": "test"}
_MEASURES = {"uar": "ua", "war": "wa"}


class TrackerConfig(BaseModel):
    """Where the curves of a training are shown, beside its own log."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: TrackerName = Field(
        default="none", description="none, tensorboard, wandb (offline), mlflow or trackio"
    )
    project: str = Field(
        default="serkit", min_length=1, description="project (mlflow: experiment) of the runs"
    )
    online: bool = Field(
        default=False, description="wandb alone: send to its server, with the login that it finds"
    )

    @model_validator(mode="after")
    def _only_wandb_goes_online(self) -> TrackerConfig:
        if self.online and self.kind != "wandb":
            raise ValueError(
                f"online is for kind = 'wandb', and this kind is '{self.kind}': leave it out"
            )
        return self


class Tracker(Protocol):
    """What is told of one training: a start, then values and files, then the end."""

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        """Begin a run; ``config`` may be nested."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tell the values of a step, which is an epoch's number, by keys such as ``val/ua``."""

    def artifact(self, path: Path) -> None:
        """Keep a file with the run, where the tracker keeps files."""

    def finish(self, summary: Mapping[str, float]) -> None:
        """End the run with what became of it."""


def open_tracker(config: TrackerConfig, folder: Path, *, say: Say) -> Tracker:
    """Make a tracker that never raises.

    Parameters
    ----------
    folder
        The run folder; what a tracker stores is put into a folder of its own in it.
    say
        Called with the one line of a tracker that fails, and with what to do at a run's end.
    """
    return _Guarded(TRACKERS[config.kind](config, folder, say), config.kind, say)


def tracked_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Name what an epoch's row holds as trackers group it; what is no number is left out.

    >>> tracked_values({"epoch": 3, "train_loss": 0.5, "train_loss_ctc": 2.0, "dev_uar": 0.6})
    {'train/loss': 0.5, 'train/loss_ctc': 2.0, 'val/ua': 0.6}
    >>> tracked_values({"learning_rate": 1e-3, "grad_norm": 2.0, "seconds": 9})
    {'lr/all': 0.001, 'grad_norm': 2.0, 'seconds': 9.0}
    """
    return {
        _key(name): float(value)
        for name, value in row.items()
        if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _key(name: str) -> str:
    if name.startswith("learning_rate"):
        return f"lr/{name.removeprefix('learning_rate').lstrip('_') or 'all'}"
    part, _, measure = name.partition("_")
    if not measure or part not in _PARTS:
        return name
    return f"{_PARTS[part]}/{_MEASURES.get(measure, measure)}"


class _Guarded:
    """Lets a tracker's first failure be said, and calls it no more."""

    def __init__(self, tracker: Tracker, kind: TrackerName, say: Say) -> None:
        self.tracker: Tracker | None = tracker
        self.kind = kind
        self.say = say

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        self._try(lambda one: one.start(run_name, group=group, tags=tags, config=config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda one: one.log(values, step))

    def artifact(self, path: Path) -> None:
        self._try(lambda one: one.artifact(path))

    def finish(self, summary: Mapping[str, float]) -> None:
        self._try(lambda one: one.finish(summary))

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            call(self.tracker)
        except Exception as error:  # whatever it is, it is no reason to lose a training
            self.tracker = None
            fault = str(error) if isinstance(error, InputError) else f"{error!r}"
            self.say(
                f"the tracker {self.kind} failed, the training goes on without it: "
                f"{' '.join(fault.split())[:500]}"
            )


class _Nothing:
    def __init__(self, config: TrackerConfig, folder: Path, say: Say) -> None:
        pass

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        pass

    def log(self, values: Mapping[str, float], step: int) -> None:
        pass

    def artifact(self, path: Path) -> None:
        pass

    def finish(self, summary: Mapping[str, float]) -> None:
        pass


class _TensorBoard:
    """Events in ``tensorboard/RUN``; files are not kept, TensorBoard has no place for them."""

    def __init__(self, config: TrackerConfig, folder: Path, say: Say) -> None:
        self.folder = folder / "tensorboard"
        self.writer: Any = None
        self.last_step = 0

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # All steps are told again after a kill: what an earlier sitting wrote of them is dropped.
        self.writer = SummaryWriter(self.folder / run_name, purge_step=1)
        about = {"group": group, "tags": list(tags), "config": config}
        text = json.dumps(about, indent=2, default=str)
        self.writer.add_text("about", "".join(f"    {line}\n" for line in text.splitlines()), 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.last_step = step

    def artifact(self, path: Path) -> None:
        pass

    def finish(self, summary: Mapping[str, float]) -> None:
        self.log(summary, self.last_step)
        self.writer.close()


class _Wandb:
    def __init__(self, config: TrackerConfig, folder: Path, say: Say) -> None:
        self.config, self.folder, self.say = config, folder, say
        self.run: Any = None

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        wandb = _import("wandb", "wandb", extra="wandb")
        # Without `prompt` wandb would wait at a terminal for somebody to type a key.
        if self.config.online and not wandb.login(prompt=False):
            raise InputError(
                "wandb has no login for online = true: log in with 'wandb login', or leave out "
                "online and upload the run later"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.config.project,
            name=run_name,
            group=group,
            tags=[tag[:_LONGEST_TAG] for tag in tags],
            config=dict(config),
            dir=str(self.folder.absolute()),
            mode="online" if self.config.online else "offline",
            reinit="create_new",  # members that are trained as one stack have their runs at once
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True
            ),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def artifact(self, path: Path) -> None:
        path = path.absolute()
        self.run.save(str(path), base_path=str(path.parent), policy="now")

    def finish(self, summary: Mapping[str, float]) -> None:
        stored = Path(self.run.dir).parent
        self.run.summary.update(dict(summary))
        self.run.finish()
        if not self.config.online:
            self.say(f"to upload this run: wandb sync {shlex.quote(str(stored))}")


class _Mlflow:
    """Runs in ``mlflow/mlflow.db``, files in ``mlflow/artifacts``: nothing global is set."""

    def __init__(self, config: TrackerConfig, folder: Path, say: Say) -> None:
        self.config = config
        self.folder = (folder / "mlflow").absolute()
        self.entities: Any = None
        self.client: Any = None
        self.run_id = ""
        self.last_step = 0

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is on by default
        mlflow = _import("mlflow", "mlflow", extra="mlflow")
        self.entities = _import("mlflow.entities", "mlflow", extra="mlflow")
        for package in ("sqlalchemy", "alembic"):  # the slim mlflow comes without its database
            _import(package, package, extra="mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
        self.folder.mkdir(parents=True, exist_ok=True)
        experiment = self._open(mlflow)
        run = self.client.create_run(
            experiment, run_name=run_name, tags={"group": group, "tags": ", ".join(tags)}
        )
        self.run_id = run.info.run_id
        params = [
            self.entities.Param(key, value[:_LONGEST_PARAM]) for key, value in _flat(config).items()
        ]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self.client.log_batch(self.run_id, params=params[first : first + _PARAMS_AT_ONCE])

    def _open(self, mlflow: Any) -> str:
        """Open the database and return the experiment's id; members take turns in making both."""
        uri = f"sqlite:///{(self.folder / 'mlflow.db').as_posix()}"
        for _ in range(_WAITS):
            with FolderLock(self.folder) as lock:
                try:
                    lock.take()
                except InputError:
                    time.sleep(_WAIT_S)
                    continue
                self.client = mlflow.MlflowClient(tracking_uri=uri)
                found = self.client.get_experiment_by_name(self.config.project)
                if found is not None:
                    return str(found.experiment_id)
                # Without a place of their own files would go below the working directory.
                place = (self.folder / "artifacts").as_uri()
                return str(
                    self.client.create_experiment(self.config.project, artifact_location=place)
                )
        raise InputError(
            f"{self.folder}: another process has kept its database for {_WAITS * _WAIT_S:g} s: see "
            "what it does"
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self.entities.Metric(key, value, now_ms, step) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)
        self.last_step = step

    def artifact(self, path: Path) -> None:
        self.client.log_artifact(self.run_id, str(path))

    def finish(self, summary: Mapping[str, float]) -> None:
        if summary:
            self.log(summary, self.last_step)
        self.client.set_terminated(self.run_id)


class _Trackio:
    def __init__(self, config: TrackerConfig, folder: Path, say: Say) -> None:
        self.config = config
        self.run: Any = None
        self.last_step = 0

    def start(
        self, run_name: str, *, group: str, tags: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        for variable in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
            if os.environ.get(variable):
                raise InputError(
                    f"{variable} is set, which would send the run away: unset it; serkit tracks "
                    "with trackio on this machine alone"
                )
        with redirect_stdout(io.StringIO()):
            trackio = _import("trackio", "trackio", extra="trackio")
            # In a context of its own: trackio would end the run that is current there.
            self.run = contextvars.Context().run(
                trackio.init,
                self.config.project,
                name=run_name,
                group=group,
                config={"tags": list(tags), **config},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)
        self.last_step = step

    def artifact(self, path: Path) -> None:
        self.run.log_artifact(path, type="file")

    def finish(self, summary: Mapping[str, float]) -> None:
        with redirect_stdout(io.StringIO()):
            if summary:
                self.run.log(dict(summary), step=self.last_step)
            self.run.finish()


TRACKERS: Mapping[TrackerName, Callable[[TrackerConfig, Path, Say], Tracker]] = {
    "none": _Nothing,
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def _import(module: str, package: str, *, extra: str) -> Any:
    """Import a tracker's package, untyped: the types of these packages take minutes to follow."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(package, extra=extra, needed_for="this tracker") from None


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings: ``{"training": {"epochs": 3}}`` is ``training.epochs``."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
