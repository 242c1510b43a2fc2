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

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch

import serkit
from serkit.corpora import channel_of
from serkit.corpora.leaks import LeakReport, check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import (
    dev_rule_of,
    protocol_words,
    write_folds_csv,
)
from serkit.evaluation.report import write_report
from serkit.experiment.augmented import augmented_views
from serkit.experiment.card import model_card
from serkit.experiment.collect import collect_outputs, judge_experts, judge_heard
from serkit.experiment.config import ExperimentConfig
from serkit.experiment.decomposition.parts_start import find_start
from serkit.experiment.examples import (
    encode_transcripts,
    extract_parts,
    extract_sound,
    find_symbols,
    leave_out_short,
    mark_emotions,
    mark_speakers,
    note_silence,
    parts_with_pitch,
    require_same_vectors,
    speakers_of,
    spell,
)
from serkit.experiment.folds import folds_of
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.provenance import commit, machine, packages
from serkit.experiment.reading import CorpusPart, read_experiment_corpus
from serkit.experiment.run_folder import (
    Stopwatch,
    begin_run,
    fingerprint,
    in_run_folder,
    write_json,
)
from serkit.files import write_atomically
from serkit.labels import LabelSpace, classes_of
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.cohort import Resources, train_cohort
from serkit.training.crew import together
from serkit.training.data import derive_seed, read_data, write_data
from serkit.training.lock import FolderLock
from serkit.training.loop import EpochRow, TrainingConfig, fit
from serkit.training.member import Member, fit_statistics, load_parts, member_outputs
from serkit.training.objectives import Term
from serkit.training.plan import Plan
from serkit.training.workers import one_thread
from serkit.transcripts import Symbols
from serkit.types import Fold, InputError

__all__ = ["run_experiment"]


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
    return in_run_folder(
        out,
        config,
        lambda lock: _run(
            config,
            out,
            lock=lock,
            resume=resume,
            corpora_dir=corpora_dir,
            resources=resources,
            cache_dir=cache_dir,
            progress=progress,
        ),
        resume=resume,
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
    started, stopwatch, made_by = datetime.now(timezone.utc), Stopwatch(out), commit()
    part = read_experiment_corpus(config, corpora_dir=corpora_dir, progress=progress)
    progress.say(part.description["check"])
    multi = config.labels.multi
    labels = LabelSpace.of(c for u in part.utterances for c in classes_of(u.label, multi=multi))
    _refuse_joined(labels, multi=multi)
    folds, _ = _folds(config, part)  # what cannot be is refused before hours of features
    symbols = find_symbols(config, part)
    recognizer_config = _recognizer_config(config, labels, part, symbols)
    recognizer = Recognizer(recognizer_config)
    start = find_start(config, folds, part.utterances, recognizer, corpora_dir)
    if recognizer.reads_vectors:  # now that they are identified, no member has to
        recognizer_config = replace(recognizer_config, text=recognizer.text_settings())
    if part.authors is not None:
        features = [part.authors.extracted(recognizer, part.utterances)]
    else:
        features = extract_sound(
            recognizer, part.utterances, cache_dir=cache_dir, progress=progress
        )
    part = note_silence(part, features[0], progress)
    part, features, coverage = leave_out_short(part, features, recognizer, progress)
    hashes = features[0].audio_hashes
    content = fingerprint(part.utterances, hashes)
    folds, separates = _folds(config, part)
    leaks = check_leaks(
        part.utterances, folds, separates=separates, audio_hashes=features[0].heard_hashes()
    )
    leaks.raise_if_broken()
    views, heard = augmented_views(
        config,
        part,
        folds,
        recognizer,
        corpora_dir=corpora_dir,
        cache_dir=cache_dir,
        progress=progress,
    )
    # Only now is there something to go on with: a wrong folder or split leaves no run behind.
    begin_run(out, config, lock, resume=resume)
    require_same_vectors(out, recognizer)
    write_folds_csv(folds, out / "folds.csv")
    write_json(out / "leaks.json", {"ok": True} | leaks.to_dict())
    protocol = _protocol(config, folds, leaks)
    protocol["warnings"] += [*heard, *start.warnings]
    if config.parts is not None and config.pitch_norm == "speaker":
        protocol["warnings"].append("pitch normalised by all recordings of a test speaker")
    for word in protocol["warnings"]:
        progress.say(f"this protocol is: {word}")

    trained_on = {
        "name": config.name,
        "corpus": part.description["title"],
        "licence": part.description["licence"],
        "fingerprint": content,
        "protocol": protocol,
        "serkit_version": serkit.__version__,
    }
    recognizer_config = replace(recognizer_config, trained_on=trained_on)
    data = write_data(
        out / ".data",
        [u.id for u in part.utterances],
        training=features[0],
        evaluation=features[1] if len(features) > 1 else None,
        emotion=mark_emotions(part.utterances, labels, multi=multi),
        text=encode_transcripts(
            recognizer, part.utterances, cache_dir=cache_dir, progress=progress
        ),
        ctc=spell(config, part.utterances, symbols),
        parts=extract_parts(
            recognizer,
            part.utterances,
            by_speaker=config.pitch_norm == "speaker",
            cache_dir=cache_dir,
            progress=progress,
        ),
        speaker=mark_speakers(part.utterances, recognizer_config.speakers),
        views=views,
    )
    # The members map the features from the file; a second copy here would cost memory to no end.
    del features, views
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
            start.of_fold(fold.name),
        )
        for seed in config.seeds
        for fold in folds
    ]
    plan = _train(members, resources, stopwatch=stopwatch, progress=progress)
    collect_outputs(out, members, part.utterances, labels, multi_label=multi, symbols=symbols)
    style = config.ctc.style if config.ctc is not None else "spoken"
    write_json(
        out / "run.json",
        {
            "serkit_version": serkit.__version__,
            "name": config.name,
            "title": config.title or f"{config.system} on {part.description['title']}",
            "system": config.system,
            "corpus": part.description | {"fingerprint": content},
            "protocol": protocol,
            "labels": list(labels.classes),
            "multi_label": multi,
            "coverage": coverage,
            "experts": judge_experts(members, part.utterances, labels),
            "heard": judge_heard(members, part.utterances, symbols, style),
            "n_parameters": recognizer.n_parameters,
            "seeds": list(config.seeds),
            "commit": made_by,
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(stopwatch.seconds, 1),
            "plan": plan.to_dict(),
            "machine": machine(),
            "packages": packages(),
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


def _recognizer_config(
    config: ExperimentConfig, labels: LabelSpace, part: CorpusPart, symbols: Symbols | None
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
        text=config.text,
        parts=parts_with_pitch(config),
        pitch_norm="corpus" if config.pitch_norm == "corpus" else "given",
        symbols=symbols.symbols if symbols else (),
        # Those whom nobody is trained on are told apart as badly as before, and never asked about.
        speakers=speakers_of(part.utterances) if _tells_speakers(config) else (),
    )


def _tells_speakers(config: ExperimentConfig) -> bool:
    return any(term.target == "speaker" for term in config.objective)


def _folds(config: ExperimentConfig, part: CorpusPart) -> tuple[list[Fold], frozenset[str]]:
    test: tuple[str, ...] = ()
    if config.protocol.split == "cross_corpus" and config.test_corpus is not None:
        # The first corpus is listed first, so what is not in it belongs to the second.
        corpora = sorted({u.corpus for u in part.utterances})
        test = tuple(c for c in corpora if c != part.utterances[0].corpus)
    return folds_of(config.protocol, part.utterances, test_corpora=test)


def _refuse_joined(labels: LabelSpace, *, multi: bool) -> None:
    """Refuse several classes in one label where each utterance has one."""
    joined = [name for name in labels.classes if "+" in name]
    if joined and not multi:
        raise InputError(
            f"the label '{joined[0]}' holds several classes: set labels.multi = true, or map it to "
            "one with labels.map"
        )


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
    words = protocol_words(
        split,
        dev if dev != "test" or on_test else "none",
        separates=found,
        scripts_shared=leaks.scripts_shared,
    )
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
    stopwatch: Stopwatch,
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
    progress.stage("training the recognizer to keep, on everything", epochs)
    job = partial(
        _fit_everything,
        recognizer_config,
        data,
        training,
        objective=config.objective,
        seed=config.seeds[0],
        folder=out / "members" / "everything",
        parts_from=members[0].parts_from,
    )
    with one_thread():
        recognizer = together(job, lambda: job(on_epoch=lambda r: progress.advance(r["epoch"])))
    recognizer.save(out / "model")


def _fit_everything(
    recognizer_config: RecognizerConfig,
    data: Path,
    training: TrainingConfig,
    *,
    objective: tuple[Term, ...],
    seed: int,
    folder: Path,
    parts_from: Path | None,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> Recognizer:
    examples = read_data(data).training
    torch.manual_seed(derive_seed(seed, "everything", "initialisation"))
    recognizer = Recognizer(recognizer_config)
    if parts_from is not None:
        load_parts(recognizer, parts_from)
    fit_statistics(recognizer, examples)
    fit(
        recognizer,
        examples,
        None,
        training,
        objective=objective,
        seed=derive_seed(seed, "everything"),
        folder=folder,
        on_epoch=on_epoch,
    )
    return recognizer


def _write_card(out: Path) -> None:
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_atomically(out / "model" / "README.md", model_card(run, metrics, config))
