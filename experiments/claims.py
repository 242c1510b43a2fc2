"""Experiment files with the results that were kept of them: what the results page is made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.corpora.splits import SENTENCES_SHARED, SPEAKER_DEPENDENT, protocol_words
from serkit.experiment.config import ExperimentConfig, load_experiment
from serkit.types import InputError

__all__ = ["EXPERIMENTS", "OTHER", "Claim", "Group", "Result", "count", "read_groups", "results_of"]

EXPERIMENTS = Path(__file__).resolve().parent

OTHER = "trainings"  # folder of experiments on something else than emotion in voices

Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An experiment file, with the result that was kept of it, if any.

    ``variant`` is what the file's name says after the corpus: a protocol or a network.
    """

    file: str  # relative to the folder of experiments
    variant: str
    config: ExperimentConfig
    result: Result | None

    @property
    def link(self) -> str:
        """Where a page in ``docs`` finds the file."""
        return f"../experiments/{self.file}"

    @property
    def words(self) -> list[str]:
        """Warning words, without the one that all protocols but the strictest carry."""
        p = self.config.protocol
        words = (
            self.result["protocol"]["warnings"] if self.result else protocol_words(p.split, p.dev)
        )
        return [w for w in words if w != SENTENCES_SHARED]

    @property
    def epochs(self) -> int:
        """How long was trained at most or, without a result, is to be."""
        return self.result["protocol"]["epochs"] if self.result else self.config.training.epochs

    @property
    def protocol(self) -> str:
        """Split and choice of the epoch, with the words."""
        protocol = self.config.protocol
        split = protocol.split.replace("_", "-")
        selection = self.config.training.select
        if self.result is not None:
            ran = self.result["protocol"]
            selection = ran["selection"]
            if not protocol.split.startswith("leave_one"):
                split = f"{split}, {ran['n_folds']} folds"
        independent = "" if SPEAKER_DEPENDENT in self.words else ", speaker-independent"
        words = f": **{', '.join(self.words)}**" if self.words else ""
        return f"{split}{independent}; epoch: {selection.replace('_', ' ')}{words}"

    @property
    def overtaken(self) -> str:
        """Say by what the result differs from the experiment file of today; often nothing."""
        if self.result is None:
            return ""
        asked = []
        if self.epochs != self.config.training.epochs:
            asked.append(f"{self.config.training.epochs} epochs")
        if tuple(self.result["seeds"]) != self.config.seeds:
            asked.append(count(len(self.config.seeds), "seed"))
        return f" (the file now asks for {' and '.join(asked)})" if asked else ""

    def score(self, metric: str) -> str:
        """Mean over seeds with standard deviation, in percent; of a claim with a result."""
        assert self.result is not None
        pooled, sd = (self.result["pooled"][metric][key] for key in ("mean", "sd"))
        return f"{100 * pooled:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")

    def interval(self, metric: str) -> str:
        """Interval over speakers, in percent; of a claim with a result."""
        assert self.result is not None
        ends = self.result["intervals"][metric]
        return f"{100 * ends['low']:.1f} to {100 * ends['high']:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The claims of one folder on one corpus: a section of the page.

    ``corpus`` is the first part of the files' names; it may say more than the corpus, such as
    ``ravdess4`` for four of its classes.
    """

    folder: str
    corpus: str
    claims: tuple[Claim, ...]

    @property
    def name(self) -> str:
        """Such as ``timnet-emodb``."""
        return f"{self.folder}-{self.corpus}"

    @property
    def results(self) -> list[Result]:
        """The results of those claims that have one."""
        return results_of(self.claims)


def read_groups(experiments: Path) -> list[Group]:
    """Read the experiments with their results; corpora of which none has a result are left out.

    Raises
    ------
    InputError
        If an experiment is not called after its file.
    """
    claims: dict[tuple[str, str], list[Claim]] = {}
    for path in sorted(experiments.glob("*/*.toml")):
        folder = path.parent.name
        if folder == OTHER:
            continue
        config = load_experiment(path)
        if config.name != f"{folder}-{path.stem}":
            raise InputError(
                f"{path}: the experiment is called '{config.name}', expected "
                f"'{folder}-{path.stem}' after its file: rename one of them"
            )
        corpus, _, variant = path.stem.partition("-")
        kept = experiments / "results" / f"{config.name}.json"
        result = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
        claims.setdefault((folder, corpus), []).append(
            Claim(file=f"{folder}/{path.name}", variant=variant, config=config, result=result)
        )
    groups = [
        Group(folder=folder, corpus=corpus, claims=tuple(found))
        for (folder, corpus), found in claims.items()
    ]
    return [group for group in groups if group.results]


def results_of(claims: Sequence[Claim]) -> list[Result]:
    """Give the results of those claims that have one."""
    return [claim.result for claim in claims if claim.result is not None]


def count(number: int, thing: str) -> str:
    """Write a number of things.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")
