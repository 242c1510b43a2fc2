"""Where an experiment's encoders of speech parts start from, and whom those have heard already.

A decomposition that was trained on the speech of test speakers, labels or not, has seen part of the
test. The experiment goes on, and says so in every report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serkit.checkpoints import CONFIG_FILE, WEIGHTS_FILE
from serkit.experiment.config import ConfigError, ExperimentConfig
from serkit.experiment.reading import beside_corpora
from serkit.recognizer import Recognizer
from serkit.training.member import load_parts
from serkit.types import Fold, Utterance

__all__ = ["FOLDS_FOLDER", "PartsStart", "find_start"]

FOLDS_FOLDER = "folds"  # of a decomposition that was trained once per fold

HEARD_TEST = "pre-trained on the speech of test speakers"


@dataclass(frozen=True, slots=True)
class PartsStart:
    """Weights to start from: one file for all folds, or one for each.

    Attributes
    ----------
    weights
        Fold -> file; ``""`` stands for all others.
    warnings
        What reports say of it.
    """

    weights: Mapping[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def of_fold(self, name: str) -> Path | None:
        """Find the weights of a fold."""
        return self.weights.get(name, self.weights.get(""))


def find_start(
    config: ExperimentConfig,
    folds: Sequence[Fold],
    utterances: Sequence[Utterance],
    recognizer: Recognizer,
    corpora_dir: Path | None,
) -> PartsStart:
    """Find the decomposition that ``parts_from`` names, and try whether it fits.

    Parameters
    ----------
    recognizer
        Its encoders and decoder are overwritten.

    Raises
    ------
    InputError
        If it is none, was trained on other features, lacks a fold, or has other sizes.
    """
    if config.parts_from is None:
        return PartsStart()
    root = beside_corpora(config.parts_from, corpora_dir)
    by_fold = (root / FOLDS_FOLDER).is_dir()
    if by_fold:
        homes = {fold.name: root / FOLDS_FOLDER / fold.name / "model" for fold in folds}
    else:
        homes = {"": root if (root / CONFIG_FILE).exists() and _is_model(root) else root / "model"}
    by_id = {u.id: u for u in utterances}
    heard = False
    for fold in folds:
        front_end, known = _read(homes.get(fold.name) or homes[""])
        if front_end != recognizer.parts_settings():
            raise ConfigError(
                f"{root}: was trained on the parts {front_end}, and [parts] is "
                f"{recognizer.parts_settings()}: give both the same settings"
            )
        tested = {(by_id[i].corpus, by_id[i].speaker) for i in fold.test}
        heard = heard or bool(known & tested)
    weights = {name: home / WEIGHTS_FILE for name, home in homes.items()}
    for path in weights.values():
        load_parts(recognizer, path)
    return PartsStart(weights, (HEARD_TEST,) if heard else ())


def _is_model(folder: Path) -> bool:
    return (folder / WEIGHTS_FILE).exists()


def _read(folder: Path) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """Give what a decomposition hears by, and the speakers, with their corpora, whom it heard."""
    try:
        stored = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        known = {(corpus, speaker) for corpus, speaker in stored["trained_on"]["speakers"]}
        task, front_end = stored["task"], stored["front_end"]
    except (OSError, ValueError, LookupError, TypeError):
        task, front_end, known = None, {}, set()
    if task != "decomposition" or not _is_model(folder):
        raise ConfigError(
            f"parts_from: {folder} is no trained decomposition: give the folder of a run of "
            "'serkit train speech_split/...', for a corpus whose folds it was trained for"
        )
    return front_end, known
