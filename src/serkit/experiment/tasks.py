"""What can be trained: one entry per task, each with its settings and its run.

An experiment file names its ``task``; without one it is about emotion. All tasks share the layers
of TOML, the run folder's rules and the one training loop.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkit.experiment.config import (
    ConfigError,
    ExperimentConfig,
    Strict,
    check_experiment,
    merge_experiment,
)
from serkit.experiment.decomposition.run import DecompositionConfig, run_decomposition
from serkit.experiment.keys import explain_keys
from serkit.experiment.originals.decomposed import legacy_overrides
from serkit.experiment.progress import Progress
from serkit.experiment.run import run_experiment
from serkit.experiment.sentiment.run import SentimentConfig, run_sentiment
from serkit.experiment.transcription.run import TranscriptionConfig, run_transcription
from serkit.types import InputError

__all__ = ["TASKS", "AnyConfig", "explain_task", "load_task", "run_task"]

AnyConfig = DecompositionConfig | ExperimentConfig | SentimentConfig | TranscriptionConfig

TASKS: dict[str, type[Strict]] = {
    "decomposition": DecompositionConfig,
    "emotion": ExperimentConfig,
    "sentiment": SentimentConfig,
    "transcription": TranscriptionConfig,
}


def load_task(path_or_preset: Path | str, *, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read an experiment of any task; see :func:`.config.load_experiment`.

    Parameters
    ----------
    path_or_preset
        May also be the name of a run of the decomposed system, such as ``tmp_01F``; see
        :mod:`serkit.experiment.originals.decomposed`.

    Raises
    ------
    ConfigError
        As there, or if the task is unknown.
    """
    source = str(path_or_preset)
    preset, meant = legacy_overrides(source)
    merged = merge_experiment(preset, overrides=[*meant, *overrides])
    config = check_experiment(merged, _kind_of(merged, source), source=source)
    assert isinstance(config, AnyConfig)  # so is every value of TASKS
    return config


def explain_task(path_or_preset: Path | str, *, overrides: Sequence[str] = ()) -> str:
    """List the keys of an experiment's task, with its values; see :func:`.keys.explain_keys`.

    Raises
    ------
    ConfigError
        If there is no such experiment, or its task is unknown.
    """
    source = str(path_or_preset)
    preset, meant = legacy_overrides(source)
    merged = merge_experiment(preset, overrides=[*meant, *overrides])
    return explain_keys(_kind_of(merged, source), merged)


def _kind_of(merged: Mapping[str, Any], source: str) -> type[Strict]:
    task = merged.get("task", "emotion")
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{source}: task is '{task}', expected one of {', '.join(TASKS)}{hint}")
    return TASKS[task]


def run_task(
    config: AnyConfig,
    *,
    out: Path,
    corpora_dir: Path | None = None,
    resume: bool = False,
    resume_from: Path | None = None,
    n_jobs: int | None = None,
    memory: int | None = None,
    cohort: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Run an experiment of any task; see :func:`.run.run_experiment`.

    Parameters
    ----------
    resume_from
        Of a speech recogniser: see :func:`.transcription.run.run_transcription`.

    Returns
    -------
    The path of its ``report.html``.

    Raises
    ------
    InputError
        As there, or if resources are given that the task has no use for.
    """
    if resume_from is not None and not isinstance(config, TranscriptionConfig):
        raise InputError(
            f"--resume-from is for speech recognisers, and this experiment's task is "
            f"'{config.task}', whose members go on by themselves: take --resume"
        )
    if isinstance(config, ExperimentConfig):
        return run_experiment(
            config,
            out=out,
            corpora_dir=corpora_dir,
            resume=resume,
            n_jobs=n_jobs,
            memory=memory,
            cohort=cohort,
            progress=progress,
        )
    if memory is not None or not cohort:
        raise InputError(
            f"--memory and --no-cohort are for experiments on emotion, and this one's task is "
            f"'{config.task}': leave them out"
        )
    if isinstance(config, DecompositionConfig):
        return run_decomposition(
            config,
            out=out,
            corpora_dir=corpora_dir,
            resume=resume,
            n_jobs=n_jobs,
            progress=progress,
        )
    if n_jobs is not None:
        raise InputError(
            f"--jobs trains folds side by side, and the task '{config.task}' trains one network: "
            "leave it out"
        )
    if isinstance(config, TranscriptionConfig):
        return run_transcription(
            config,
            out=out,
            corpora_dir=corpora_dir,
            resume=resume,
            resume_from=resume_from,
            progress=progress,
        )
    return run_sentiment(config, out=out, corpora_dir=corpora_dir, resume=resume, progress=progress)
