"""Run an experiment: corpora x splits x recognizer x seeds, into one run folder.

The order of events: read the corpus, extract features (or find them in the cache), make the folds,
check them for leaks, train every member (fold x seed), let each predict its test part once, write
tables and report, train one last recognizer on everything. Whatever is done is on disk, so that a
run that was killed goes on where it was with ``resume=True``.

The run folder::

    config.json       the resolved experiment
    folds.csv         who is in which part
    leaks.json        what the parts share
    members/          one folder per fold and seed: log.jsonl, test.safetensors, model/
    predictions.csv   one row per test utterance and seed
    curves.csv        one row per epoch and member
    embeddings.npz    penultimate layer of the test utterances (first seed)
    run.json          what, on what, under which protocol, with which software
    report.html, results.xlsx, metrics.json
    model/            the recognizer trained on everything
    .lock             held by the process that works here
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

import serkit
from serkit.corpora import channel_of, get_corpus, load_corpus
from serkit.corpora.leaks import LeakReport, check_leaks
from serkit.corpora.manifest import CorpusError, import_manifest, sort_utterances
from serkit.corpora.splits import (
    SPLITS,
    SplitOptions,
    dev_rule_of,
    make_folds,
    protocol_words,
    read_folds_csv,
    write_folds_csv,
)
from serkit.evaluation.report import write_report
from serkit.experiment.author_files import AuthorCorpus, read_author_corpus
from serkit.experiment.card import model_card
from serkit.experiment.collect import collect_outputs, judge_experts
from serkit.experiment.config import ConfigError, CorpusConfig, ExperimentConfig
from serkit.features.cache import (
    ExtractedFeatures,
    Extractor,
    default_cache_dir,
    extract_features,
)
from serkit.features.views import SegmentsView
from serkit.files import write_atomically
from serkit.labels import LabelSpace, classes_of, map_label, targets
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.cohort import Resources, train_cohort
from serkit.training.data import derive_seed, read_data, write_data
from serkit.training.lock import LOCK_FILE, FolderLock
from serkit.training.loop import fit
from serkit.training.member import Member, member_outputs
from serkit.training.plan import Plan
from serkit.training.workers import one_thread
from serkit.types import Fold, InputError, Utterance

__all__ = ["CorpusPart", "Progress", "read_experiment_corpus", "run_experiment"]


class Progress(Protocol):
    """What a run tells while it works; the command line draws bars from it."""

    def stage(self, text: str, total: int) -> None:
        """Begin a step of ``total`` units."""

    def advance(self, done: int) -> None:
        """Tell how much of the step is done."""

    def say(self, line: str) -> None:
        """Tell a fact worth a line."""


class Quiet:
    """Progress that nobody watches."""

    def stage(self, text: str, total: int) -> None:
        """Say nothing."""

    def advance(self, done: int) -> None:
        """Say nothing."""

    def say(self, line: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class CorpusPart:
    """Utterances of one corpus, with what a report says about it.

    ``authors`` is set where ready-made features are used instead of sound.
    """

    utterances: list[Utterance]
    description: dict[str, Any]
    authors: AuthorCorpus | None = None


def run_experiment(
    config: ExperimentConfig,
    *,
    out: Path,
    corpora_dir: Path | None = None,
    resume: bool = False,
    n_jobs: int | None = None,
    memory: int | None = None,
    cohort: bool = True,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run all folds and seeds of an experiment.

    Parameters
    ----------
    out
        The run folder. It must not hold a run, unless ``resume`` is set and it holds this one.
    corpora_dir
        Folder below which corpora are looked for.
    n_jobs, memory, cohort
        Members trained side by side, bytes of memory they may take, and whether they are trained
        side by side at all; see :class:`serkit.training.cohort.Resources`.
    cache_dir
        Feature cache; default ``SERKIT_CACHE`` or ``~/.cache/serkit``.

    Returns
    -------
    The path of ``report.html``.

    Raises
    ------
    InputError
        If the experiment, the corpus or the run folder cannot be used, or another process runs in
        the folder.
    """
    progress = progress or Quiet()
    resources = Resources(n_jobs=n_jobs, memory=memory, cohort=cohort)
    _refuse_other_runs(out, config, resume=resume)
    with FolderLock(out) as lock:
        if (out / "config.json").exists():
            lock.take()
        return _run(
            config,
            out,
            lock=lock,
            resume=resume,
            corpora_dir=corpora_dir,
            resources=resources,
            cache_dir=cache_dir,
            progress=progress,
        )


def _run(
    config: ExperimentConfig,
    out: Path,
    *,
    lock: FolderLock,
    resume: bool,
    corpora_dir: Path | None,
    resources: Resources,
    cache_dir: Path | None,
    progress: Progress,
) -> Path:
    started, stopwatch, commit = datetime.now(timezone.utc), _Stopwatch(out), _commit()
    part = read_experiment_corpus(config, corpora_dir=corpora_dir, progress=progress)
    progress.say(part.description["check"])
    multi = config.labels.multi
    labels = LabelSpace.of(c for u in part.utterances for c in classes_of(u.label, multi=multi))
    recognizer_config = _recognizer_config(config, labels, part)
    recognizer = Recognizer(recognizer_config)
    if part.authors is not None:
        features = [part.authors.extracted(recognizer, part.utterances)]
    else:
        features = _extract(recognizer, part.utterances, cache_dir=cache_dir, progress=progress)
    part, features, coverage = _leave_out(part, features, recognizer, progress)
    hashes = features[0].audio_hashes
    fingerprint = _fingerprint(part.utterances, hashes)
    folds, separates = _folds(config, part)
    leaks = check_leaks(part.utterances, folds, separates=separates, audio_hashes=hashes)
    leaks.raise_if_broken()
    # Only now is there something to go on with: a wrong folder or split leaves no run behind.
    _begin(out, config, lock, resume=resume)
    write_folds_csv(folds, out / "folds.csv")
    _write_json(out / "leaks.json", {"ok": True} | leaks.to_dict())
    protocol = _protocol(config, folds, leaks)
    for word in protocol["warnings"]:
        progress.say(f"this protocol is: {word}")

    trained_on = {
        "name": config.name,
        "corpus": part.description["title"],
        "licence": part.description["licence"],
        "fingerprint": fingerprint,
        "protocol": protocol,
        "serkit_version": serkit.__version__,
    }
    recognizer_config = replace(recognizer_config, trained_on=trained_on)
    data = write_data(
        out / ".data",
        [u.id for u in part.utterances],
        training=features[0],
        evaluation=features[1] if len(features) > 1 else None,
        emotion=_emotion(part.utterances, labels, multi=multi),
    )
    # The members map the features from the file; a second copy here would cost memory to no end.
    del features
    part = replace(part, authors=None)
    members = [
        Member(
            recognizer_config,
            config.training,
            config.objective,
            fold,
            seed,
            out / "members" / f"{fold.name}-seed{seed}",
            data,
        )
        for seed in config.seeds
        for fold in folds
    ]
    plan = _train(members, resources, stopwatch=stopwatch, progress=progress)
    collect_outputs(out, members, part.utterances, labels, multi_label=multi)
    _write_json(
        out / "run.json",
        {
            "serkit_version": serkit.__version__,
            "name": config.name,
            "title": config.title or f"{config.system} on {part.description['title']}",
            "system": config.system,
            "corpus": part.description | {"fingerprint": fingerprint},
            "protocol": protocol,
            "labels": list(labels.classes),
            "multi_label": multi,
            "coverage": coverage,
            "experts": judge_experts(members, part.utterances, labels),
            "n_parameters": recognizer.n_parameters,
            "seeds": list(config.seeds),
            "commit": commit,
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(stopwatch.seconds, 1),
            "plan": plan.to_dict(),
            "machine": _machine(),
            "packages": _packages(),
        },
    )
    if config.refit:
        _refit(out, config, members, recognizer_config, data, progress)
    progress.stage("writing the report", 1)
    report = write_report(out)
    if config.refit:
        _write_card(out)
    progress.advance(1)
    shutil.rmtree(out / ".data", ignore_errors=True)
    return report


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
        parts = [_read_one(config.corpus, corpora_dir, progress)]
    if config.test_corpus is not None:
        parts.append(_read_one(config.test_corpus, corpora_dir, progress))
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
    path = _beside_corpora(str(corpus.features), corpora_dir)
    key, _ = get_corpus(str(corpus.name))
    root = None if corpus.root is None else _find_root(key, corpus, corpora_dir)
    authors = read_author_corpus(config, path, root=root)
    description = _describe(key, authors.summary, complete=authors.complete)
    return CorpusPart(authors.utterances, description, authors)


def _beside_corpora(name: str, corpora_dir: Path | None) -> Path:
    """Find a file: as it is named or, where it is not there, below the folder of corpora."""
    path = Path(name).expanduser()
    if not path.is_absolute() and not path.exists() and corpora_dir is not None:
        path = corpora_dir / path
    return path


def _read_one(config: CorpusConfig, corpora_dir: Path | None, progress: Progress) -> CorpusPart:
    if config.manifest is not None:
        path = _beside_corpora(config.manifest, corpora_dir)
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


def _recognizer_config(
    config: ExperimentConfig, labels: LabelSpace, part: CorpusPart
) -> RecognizerConfig:
    name = part.description["name"].split(" | ")[0]
    try:
        channel = channel_of(name)
    except CorpusError:
        channel = "mean"
    if part.authors is not None:
        channel = "mean"  # the authors' loader, whatever the corpus
    return RecognizerConfig(
        system=config.system,
        classes=labels.classes,
        view=config.view,
        front_end=config.front_end,
        model=config.model,
        normalise=config.normalise,
        channel=channel,
        multi_label=config.labels.multi,
    )


def _extract(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> list[ExtractedFeatures]:
    """Extract features as they are trained on and, where that differs, as they are judged."""
    view = recognizer.view
    differ = isinstance(view, SegmentsView) and view.train_hop != view.test_hop
    extracted = []
    for training in (True, False) if differ else (True,):
        extractor = Extractor(
            function=partial(_features, recognizer, training),
            sample_rate=recognizer.sample_rate,
            channel=recognizer.config.channel,
            settings={
                "view": dict(recognizer.config.view),
                "front_end": recognizer.front_end_settings(),
            }
            | ({"training": training} if differ else {}),
        )
        progress.stage("features" if training else "features of test segments", len(utterances))
        features = extract_features(
            utterances,
            extractor,
            cache_dir=cache_dir,
            progress=lambda done, _: progress.advance(done),
        )
        pieces = f" in {len(features.n_frames)} segments" if differ else ""
        progress.say(
            f"features of {len(utterances)} utterances{pieces}, {features.n_cached} of them from "
            "the cache"
        )
        extracted.append(features)
    return extracted


def _features(
    recognizer: Recognizer, training: bool, waveforms: Tensor, n_samples: Tensor
) -> tuple[Tensor, Tensor]:
    features, n_frames, _ = recognizer.extract(waveforms, n_samples, training=training)
    return features, n_frames


def _leave_out(
    part: CorpusPart,
    features: list[ExtractedFeatures],
    recognizer: Recognizer,
    progress: Progress,
) -> tuple[CorpusPart, list[ExtractedFeatures], dict[str, Any]]:
    """Leave out utterances that the view drops, and say how many they are.

    Raises
    ------
    InputError
        If none is left.
    """
    n = len(part.utterances)
    wanted = np.bincount(features[-1].owners, minlength=n) > 0
    n_judged = int(wanted.sum())
    coverage: dict[str, Any] = {"n_utterances": n, "n_judged": n_judged}
    if n_judged == n:
        return part, features, coverage
    assert isinstance(recognizer.view, SegmentsView)  # no other view drops
    seconds = recognizer.view.n_samples / recognizer.sample_rate
    coverage["reason"] = f"shorter than a segment of {seconds:g} s"
    if not n_judged:
        raise InputError(
            f"all {n} utterances are {coverage['reason']}: set view.short = 'zeros' or 'repeat'"
        )
    progress.say(f"{n - n_judged} of {n} utterances are left out: {coverage['reason']}")
    kept = [u for u, want in zip(part.utterances, wanted, strict=True) if want]
    return replace(part, utterances=kept), [f.keep(wanted) for f in features], coverage


def _emotion(
    utterances: Sequence[Utterance], labels: LabelSpace, *, multi: bool
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Class indices (n,) or, where several classes may hold, marks (n, n_classes)."""
    names = [str(u.label) for u in utterances]
    return targets(names, labels) if multi else np.array([labels.index(name) for name in names])


def _folds(config: ExperimentConfig, part: CorpusPart) -> tuple[list[Fold], frozenset[str]]:
    protocol = config.protocol
    if protocol.folds_file is not None:
        return read_folds_csv(protocol.folds_file, utterances=part.utterances), frozenset()
    corpora = sorted({u.corpus for u in part.utterances})
    test: tuple[str, ...] = ()
    if protocol.split == "cross_corpus" and config.test_corpus is not None:
        # The first corpus is listed first, so what is not in it belongs to the second.
        test = tuple(c for c in corpora if c != part.utterances[0].corpus)
    options = SplitOptions(
        n_folds=protocol.n_folds,
        n_sentence_folds=protocol.n_sentence_folds,
        seed=protocol.split_seed,
        dev=protocol.dev,
        n_dev=protocol.n_dev,
        dev_fraction=protocol.dev_fraction,
        train_corpora=tuple(c for c in corpora if c not in test) if test else (),
        test_corpora=test,
    )
    folds = make_folds(part.utterances, protocol.split, options)
    return folds, SPLITS[protocol.split].separates


def _protocol(config: ExperimentConfig, folds: Sequence[Fold], leaks: LeakReport) -> dict[str, Any]:
    p = config.protocol
    if p.folds_file is not None:
        # Folds of unknown origin promise nothing; what they keep apart was found by looking.
        split = "official"
        found: frozenset[str] | None = leaks.kept_apart
        dev = "test" if all(f.dev == f.test for f in folds) else "none"
    else:
        split, dev = p.split, dev_rule_of(p.split, p.dev)
        found = leaks.kept_apart if p.split == "official" else None
    selection = config.training.select
    on_test = dev == "test" and selection == "best_dev"
    words = protocol_words(split, dev if dev != "test" or on_test else "none", separates=found)
    return {
        "split": p.folds_file or p.split,
        "n_folds": len(folds),
        "split_seed": p.split_seed,
        "dev": dev,
        "selection": "best_test" if on_test else selection,
        "select_by": config.training.select_by,
        "epochs": config.training.epochs,
        "warnings": list(words),
        "speaker_independent": "speaker" in leaks.kept_apart,
    }


def _train(
    members: Sequence[Member],
    resources: Resources,
    *,
    stopwatch: _Stopwatch,
    progress: Progress,
) -> Plan:
    epochs = members[0].training.epochs
    progress.stage(f"training {len(members)} members", len(members) * epochs)
    done: dict[str, int] = {}

    def hear(name: str, row: dict[str, Any]) -> None:
        done[name] = epochs if row.get("finished") else row["epoch"]
        progress.advance(sum(done.values()))
        stopwatch.note()

    return train_cohort(members, resources, on_event=hear, say=progress.say)


class _Stopwatch:
    """Seconds of work on a run, over all its sittings; a kill loses the last one or two."""

    def __init__(self, out: Path) -> None:
        self._path = out / ".data" / "seconds.json"
        self._began = self._noted = time.monotonic()
        self._before = 0.0
        # The first is there after a kill, the second where a finished run is shown again.
        for path, key in ((self._path, "seconds"), (out / "run.json", "duration_s")):
            if path.exists():
                self._before = float(json.loads(path.read_text(encoding="utf-8"))[key])
                break

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def note(self) -> None:
        """Put the time so far on disk, at most once a second."""
        if time.monotonic() - self._noted >= 1.0:
            _write_json(self._path, {"seconds": self.seconds})
            self._noted = time.monotonic()


def _refit(
    out: Path,
    config: ExperimentConfig,
    members: Sequence[Member],
    recognizer_config: RecognizerConfig,
    data: Path,
    progress: Progress,
) -> None:
    """Train the recognizer that is handed out: on everything, for the median selected epoch."""
    if (out / "model" / "config.json").exists():
        return
    epochs = round(statistics.median(member_outputs(member)[1] for member in members))
    training = config.training.model_copy(update={"epochs": epochs, "select": "last"})
    examples = read_data(data).training
    seed = config.seeds[0]
    progress.stage("training the recognizer to keep, on everything", epochs)
    torch.manual_seed(derive_seed(seed, "everything", "initialisation"))
    recognizer = Recognizer(recognizer_config)
    recognizer.norm.fit(examples.gather("features"), examples.gather("n_frames"))
    with one_thread():
        fit(
            recognizer,
            examples,
            None,
            training,
            objective=config.objective,
            seed=derive_seed(seed, "everything"),
            folder=out / "members" / "everything",
            on_epoch=lambda row: progress.advance(row["epoch"]),
        )
    recognizer.save(out / "model")


def _write_card(out: Path) -> None:
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_atomically(out / "model" / "README.md", model_card(run, metrics, config))


def _refuse_other_runs(out: Path, config: ExperimentConfig, *, resume: bool) -> None:
    """Refuse a folder that holds something else, or this run without ``resume``."""
    path = out / "config.json"
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{out}: holds a run already: --resume goes on with it, --out names another folder"
            )
        try:
            # Through the model: a run begun before a key existed has its default.
            stored = ExperimentConfig.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError:
            stored = None
        if stored != config:
            raise ConfigError(
                f"{out}: holds a run of other settings: choose another --out, or resume with the "
                "settings in its config.json"
            )
    elif out.is_file() or (out.is_dir() and any(p.name != LOCK_FILE for p in out.iterdir())):
        raise ConfigError(f"{out}: exists and is no run folder: choose another --out")


def _begin(out: Path, config: ExperimentConfig, lock: FolderLock, *, resume: bool) -> None:
    """Make the run folder, lock it and put the resolved experiment into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.take()
        # Again: another process may have used the folder while this one read the corpus.
        _refuse_other_runs(out, config, resume=resume)
        _write_json(out / "config.json", config.model_dump(mode="json"))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _fingerprint(utterances: Sequence[Utterance], hashes: dict[str, str]) -> str:
    """Identify the data by content: ids, sound, labels, speakers; not by where they lie."""
    rows = sorted((u.id, hashes[u.id], str(u.label), u.speaker) for u in utterances)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def _commit() -> str | None:
    """Commit of the serkit that runs, where it runs from a checkout."""
    here = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None:
        return None
    shown = subprocess.run(
        [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--match="],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip() or None if shown.returncode == 0 else None


def _machine() -> dict[str, Any]:
    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _packages() -> dict[str, str]:
    names = (
        "torch",
        "numpy",
        "soundfile",
        "soxr",
        "scikit-learn",
        "lightning-fabric",
        "safetensors",
    )
    return {name: metadata.version(name) for name in names}
