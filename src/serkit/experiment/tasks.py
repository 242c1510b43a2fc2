"""What can be trained: one entry per task, each with its settings and its run.

An experiment file names its ``task``; without one it is about emotion. All tasks share the layers
of TOML, the run folder's rules and the one training loop.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from serkit.experiment.config import (
    ConfigError,
    ExperimentConfig,
    Strict,
    check_experiment,
    merge_experiment,
)
from serkit.experiment.sentiment import SentimentConfig

__all__ = ["TASKS", "load_task"]

TASKS: dict[str, type[Strict]] = {
    "emotion": ExperimentConfig,
    "sentiment": SentimentConfig,
}


def load_task(path_or_preset: Path | str, *, overrides: Sequence[str] = ()) -> Strict:
    """Read an experiment of any task; see :func:`.config.load_experiment`.

    Raises
    ------
    ConfigError
        As there, or if the task is unknown.
    """
    merged = merge_experiment(path_or_preset, overrides=overrides)
    task = merged.get("task", "emotion")
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"{path_or_preset}: task is '{task}', expected one of {', '.join(TASKS)}{hint}"
        )
    return check_experiment(merged, TASKS[task], source=str(path_or_preset))
