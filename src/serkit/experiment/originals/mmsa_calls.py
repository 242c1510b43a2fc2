"""The calls of the MMSA platform, answered by serkit: ``get_config_regression`` and ``MMSA_run``.

Scripts written for MMSA (github.com/thuiar/MMSA) hold two calls: one gives a dict of settings by
MMSA's names, the other trains with them and some seeds. Here they are functions that look an
experiment up and run it::

    config = get_config_regression("self_mm", "sims")
    config["featurePath"] = "unaligned_39.pkl"
    MMSA_run("self_mm", "sims", config=config, seeds=[1111, 1112])

Differences: every seed keeps its own checkpoint; scores come with intervals and baselines; the run
folder under ``model_save_dir`` is one that ``serkit report`` understands; unknown keys are errors.
Models are ``self_mm`` and ``mtme``; data sets those of :data:`DATASETS`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serkit.experiment.config import (
    ConfigError,
    check_experiment,
    merge_experiment,
    preset_names,
)
from serkit.experiment.progress import Progress
from serkit.experiment.sentiment.run import SentimentConfig, run_sentiment

__all__ = ["DATASETS", "MMSA_run", "MSA_run", "get_config", "get_config_regression"]

DATASETS = ("sims", "simsv2", "mosi", "mosei")

# MMSA's name of a setting -> where an experiment has it.
_KEYS = {
    "featurePath": "data",
    "pretrained": "text.model",
    "use_finetune": "text.trainable",
    "batch_size": "training.batch_size",
    "update_epochs": "training.accumulate",
    "early_stop": "training.patience",
    "learning_rate_bert": "rates.text",
    "learning_rate_audio": "rates.audio",
    "learning_rate_video": "rates.vision",
    "learning_rate_other": "training.learning_rate",
    "weight_decay_bert": "rates.text_decay",
    "weight_decay_audio": "rates.audio_decay",
    "weight_decay_video": "rates.vision_decay",
    "weight_decay_other": "training.weight_decay",
    "a_lstm_hidden_size": "model.n_audio_hidden",
    "v_lstm_hidden_size": "model.n_vision_hidden",
    "audio_out": "model.n_audio_out",
    "video_out": "model.n_vision_out",
    "post_fusion_dim": "model.n_fused_units",
    "post_text_dim": "model.n_text_units",
    "post_audio_dim": "model.n_audio_units",
    "post_video_dim": "model.n_vision_units",
    "post_fusion_dropout": "model.fused_dropout",
    "post_text_dropout": "model.text_dropout",
    "post_audio_dropout": "model.audio_dropout",
    "post_video_dropout": "model.vision_dropout",
    "H": "labels.label_range",
    "excludeZero": "labels.exclude_zero",
}
_NAMES = ("model_name", "dataset_name")


def get_config(model: str, dataset: str) -> dict[str, Any]:
    """Give the settings of a model on a data set, by MMSA's names.

    Raises
    ------
    ConfigError
        If there is no such model or data set.
    """
    config = _experiment(model, dataset)
    plain = config.model_dump()
    settings: dict[str, Any] = {"model_name": model.lower(), "dataset_name": dataset.lower()}
    return settings | {key: _get(plain, path) for key, path in _KEYS.items()}


def get_config_regression(model_name: str, dataset_name: str) -> dict[str, Any]:
    """Do as :func:`get_config`, which is its name elsewhere."""
    return get_config(model_name, dataset_name)


def MSA_run(  # noqa: N802  (MMSA's spelling)
    model: str,
    dataset: str,
    *,
    config: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (),
    gpu_ids: Sequence[int] = (),
    num_workers: int = 0,
    model_save_dir: Path | str = "saved_models",
    res_save_dir: Path | str = "results",
    log_dir: Path | str = "logs",
    custom_feature: str | None = None,
    feature_T: str | None = None,  # noqa: N803
    feature_A: str | None = None,  # noqa: N803
    feature_V: str | None = None,  # noqa: N803
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train a model on a data set with several seeds, as MMSA does.

    Parameters
    ----------
    config
        As :func:`get_config` gives it, changed or not.
    seeds
        Empty: 1111 to 1115.
    gpu_ids
        Empty: on a GPU where there is one; else on a GPU or not at all.
    num_workers
        Without effect, for calls that have it: all clips are in memory already.
    model_save_dir
        Run folders lie there, ``<model>-<dataset>`` each; a checkpoint of every seed in them.
    res_save_dir
        The table of scores is copied there, as ``<dataset>.csv``.
    log_dir
        The curves of all seeds are copied there, as ``<model>-<dataset>.csv``.
    custom_feature
        File of features, instead of ``config['featurePath']``.
    feature_T, feature_A, feature_V
        Files that text, audio or vision are taken from instead.
    settings
        Keys of our own experiments, ``training.epochs`` and the like, laid over everything.

    Returns
    -------
    The path of ``report.html``.

    Raises
    ------
    InputError
        If there is no such model or data set, a key is unknown, or the run cannot be made; see
        :func:`serkit.experiment.sentiment.run.run_sentiment`.
    """
    experiment = _experiment(model, dataset).model_dump()
    given = dict(config or {})
    for key in _NAMES:
        wanted = {"model_name": model, "dataset_name": dataset}[key].lower()
        if given.pop(key, wanted) != wanted:
            raise ConfigError(f"config['{key}'] is not '{wanted}', for which the run is asked")
    for key, value in given.items():
        if key not in _KEYS:
            raise ConfigError(f"config['{key}']: unknown; expected one of {', '.join(_KEYS)}")
        _put(experiment, _KEYS[key], value)
    files = {"text": feature_T, "audio": feature_A, "vision": feature_V}
    experiment["streams"] |= {stream: name for stream, name in files.items() if name is not None}
    if custom_feature is not None:
        experiment["data"] = custom_feature
    if seeds:
        experiment["seeds"] = list(seeds)
    experiment["training"]["accelerator"] = "cuda" if gpu_ids else "auto"
    for key, value in (settings or {}).items():
        _put(experiment, key, value)
    name = f"{model.lower()}-{dataset.lower()}"
    report = run_sentiment(
        check_experiment(experiment, SentimentConfig, source=name),
        out=Path(model_save_dir) / name,
        resume=resume,
        progress=progress,
    )
    for folder, source, target in (
        (res_save_dir, "results.csv", f"{dataset.lower()}.csv"),
        (log_dir, "curves.csv", f"{name}.csv"),
    ):
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report.parent / source, Path(folder) / target)
    return report


MMSA_run = MSA_run


def _experiment(model: str, dataset: str) -> SentimentConfig:
    folder, corpus = model.lower(), dataset.lower()
    preset = f"{folder}/{corpus}"
    known = [name for name in preset_names() if name.partition("/")[2] in DATASETS]
    if preset not in known:
        pairs = ", ".join(" on ".join(name.split("/")) for name in known)
        raise ConfigError(f"no settings for model '{model}' on '{dataset}': there are {pairs}")
    return check_experiment(merge_experiment(preset), SentimentConfig, source=preset)


def _get(table: Mapping[str, Any], path: str) -> Any:
    value: Any = table
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key)
    return value


def _put(table: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        table = table.setdefault(key, {})
    table[last] = value
