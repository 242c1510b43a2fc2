"""Find the corpus of an experiment, read it, and select its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serkit.corpora import get_corpus, load_corpus
from serkit.corpora.manifest import CorpusError, import_manifest, sort_utterances
from serkit.experiment.config import ConfigError, CorpusConfig, ExperimentConfig
from serkit.experiment.originals.timnet import AuthorCorpus, read_author_corpus
from serkit.experiment.progress import Progress
from serkit.features.cache import default_cache_dir
from serkit.labels import classes_of, map_label
from serkit.types import Utterance

__all__ = ["CorpusPart", "beside_corpora", "read_experiment_corpus", "read_part"]


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """Utterances of one corpus, with what a report says about it.

    ``authors`` is set where ready-made features are used instead of sound.
    """

    utterances: list[Utterance]
    description: dict[str, Any]
    authors: AuthorCorpus | None = None


def read_experiment_corpus(
    config: ExperimentConfig, *, corpora_dir: Path | None, progress: Progress
) -> CorpusPart:
    """Read the corpus (or two, for cross-corpus) of an experiment and select its classes.

    Raises
    ------
    InputError
        If a corpus is not found or incomplete, or no utterance is left.
    """
    if config.corpus.features is not None:
        parts = [_read_authors(config, corpora_dir)]
    else:
        parts = [read_part(config.corpus, corpora_dir, progress)]
    if config.test_corpus is not None:
        parts.append(read_part(config.test_corpus, corpora_dir, progress))
    utterances = []
    for part in parts:
        kept = []
        for utterance in part.utterances:
            label = map_label(
                utterance.label,
                mapping=config.labels.map,
                keep=config.labels.keep,
                multi=config.labels.multi,
            )
            if label is not None:
                kept.append(replace(utterance, label=label))
        # Random folds are defined by the class-major order, which merging classes disturbs.
        utterances += sort_utterances(kept)
    present = {c for u in utterances for c in classes_of(u.label, multi=config.labels.multi)}
    missing = [label for label in config.labels.keep or () if label not in present]
    if missing:
        raise ConfigError(
            f"labels.keep names {', '.join(missing)}, which the corpus does not have: it has "
            f"{', '.join(sorted({u.label for p in parts for u in p.utterances if u.label}))}"
        )
    description = dict(parts[0].description)
    if len(parts) == 2:
        for key in ("name", "title", "licence", "citation", "check"):
            description[key] = " | ".join(str(p.description[key]) for p in parts)
        description["quirks"] = [quirk for p in parts for quirk in p.description["quirks"]]
        description["complete"] = all(p.description["complete"] for p in parts)
        description["synthetic"] = any(p.description["synthetic"] for p in parts)
    description["n_utterances"] = len(utterances)
    speakers = {(u.corpus, u.speaker) for u in utterances if u.speaker != "unknown"}
    description["n_speakers"] = len(speakers)
    return CorpusPart(utterances, description, parts[0].authors)


def _read_authors(config: ExperimentConfig, corpora_dir: Path | None) -> CorpusPart:
    corpus = config.corpus
    path = beside_corpora(str(corpus.features), corpora_dir)
    key, _ = get_corpus(str(corpus.name))
    root = None if corpus.root is None else _find_root(key, corpus, corpora_dir)
    authors = read_author_corpus(config, path, root=root)
    description = _describe(key, authors.summary, complete=authors.complete)
    return CorpusPart(authors.utterances, description, authors)


def beside_corpora(name: str, corpora_dir: Path | None) -> Path:
    """Find a file: as it is named or, where it is not there, below the folder of corpora."""
    path = Path(name).expanduser()
    if not path.is_absolute() and not path.exists() and corpora_dir is not None:
        path = corpora_dir / path
    return path


def read_part(config: CorpusConfig, corpora_dir: Path | None, progress: Progress) -> CorpusPart:
    """Read one corpus, whatever its classes.

    Raises
    ------
    InputError
        If it is not found, incomplete or damaged.
    """
    if config.manifest is not None:
        path = beside_corpora(config.manifest, corpora_dir)
        utterances = import_manifest(path)
        names = sorted({u.corpus for u in utterances})
        known = names[0] if len(names) == 1 else ""
        summary = f"manifest {path.name}: {len(utterances)} utterances of {', '.join(names)}"
        return CorpusPart(utterances, _describe(known, summary, complete=True, fallback=path.stem))
    assert config.name is not None  # load_experiment has seen to it
    key, module = get_corpus(config.name)
    root = _find_root(key, config, corpora_dir)
    if key == "synthetic" and config.root is None:
        progress.stage(f"synthetic corpus, spoken by {module.engine_name()}", 1)
        module.generate(root, progress=lambda done, total: progress.advance(done // total))
    utterances, check = load_corpus(
        key, root, allow_incomplete=config.allow_incomplete, options=config.options
    )
    return CorpusPart(utterances, _describe(key, check.summary, complete=check.complete))


def _describe(key: str, check: str, *, complete: bool, fallback: str = "") -> dict[str, Any]:
    try:
        key, module = get_corpus(key)
    except CorpusError:
        module = None
    return {
        "name": key or fallback,
        "title": getattr(module, "TITLE", key or fallback),
        "licence": getattr(module, "LICENSE", "not stated"),
        "citation": getattr(module, "CITATION", ""),
        "quirks": list(getattr(module, "QUIRKS", ())),
        "check": check,
        "complete": complete,
        "synthetic": key == "synthetic",
    }


def _find_root(key: str, config: CorpusConfig, corpora_dir: Path | None) -> Path:
    if config.root is not None:
        root = Path(config.root).expanduser()
        return root if root.is_absolute() or corpora_dir is None else corpora_dir / root
    if key == "synthetic":
        return default_cache_dir() / "synthetic"
    if corpora_dir is None:
        raise ConfigError(
            f"corpus {key}: no folder given: pass --corpora DIR (a folder that holds '{key}'), set "
            "SERKIT_CORPORA, or set corpus.root"
        )
    wanted = key.replace("_", "")
    if corpora_dir.is_dir():
        for folder in sorted(corpora_dir.iterdir()):
            if folder.is_dir() and folder.name.replace("-", "").replace("_", "").lower() == wanted:
                return folder
    raise ConfigError(
        f"corpus {key}: no folder '{key}' in {corpora_dir}: set corpus.root to its folder, or get "
        f"the corpus from {get_corpus(key)[1].URL_HINT}"
    )
