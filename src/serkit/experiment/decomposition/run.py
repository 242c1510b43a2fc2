"""Train a decomposition of speech, once or once per fold, and show what its codes carry.

``[model] name = "f0_converter"`` trains SpeechSplit's other network instead, which says the pitch
of one utterance in the rhythm of another; data, parts, crops, folder and resuming are the same.

No label is used. What an experiment of emotion starts from, ``parts_from``, should be trained per
fold or on another corpus: otherwise it has heard the speakers that the experiment is tested on.

The run folder::

    config.json              the resolved settings
    model/                   the decomposition; see serkit.experiment.decomposition.model, and
                             serkit.experiment.decomposition.pitch_converter
    members/all/             log.jsonl and the state to resume from
    folds/NAME/              with per_fold, instead of these two: log.jsonl and model/ of each fold
    folds.csv                who is in which part
    metrics.json             errors, in full and while one encoder reads zeros; of a converter
                             cross-entropies, and those of what knows less
    reconstruction-*.png     spectrograms of a few utterances, whole and without each code; of a
                             converter contours
    audio/                   spectrograms to listen to
    run.json                 what, on what, with which software
    report.html
    .lock                    held by the process that works here
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

import serkit
from serkit.audio import Channel, natural_key
from serkit.corpora import channel_of
from serkit.corpora.leaks import check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import (
    write_folds_csv,
)
from serkit.evaluation.reconstruction_report import write_reconstruction_report
from serkit.experiment.config import (
    ConfigError,
    CorpusConfig,
    LabelsConfig,
    ProtocolConfig,
    Strict,
)
from serkit.experiment.decomposition.model import (
    FRONT_END,
    Decomposition,
    build_parts_front_end,
    load_decomposition,
)
from serkit.experiment.decomposition.parts_start import FOLDS_FOLDER
from serkit.experiment.decomposition.pitch_converter import PitchConverter, load_pitch_converter
from serkit.experiment.decomposition.results import summarise_folds, write_card
from serkit.experiment.decomposition.samples import draw_contours, draw_samples
from serkit.experiment.examples import mark_speakers, note_silence, speakers_of
from serkit.experiment.folds import folds_of
from serkit.experiment.originals.speech_split import read_speechsplit
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.provenance import commit, machine, packages
from serkit.experiment.reading import CorpusPart, beside_corpora, read_part
from serkit.experiment.run_folder import (
    Stopwatch,
    begin_run,
    fingerprint,
    in_run_folder,
    write_json,
)
from serkit.features import front_end_to_dict
from serkit.features.cache import ExtractedFeatures, Extractor, extract_features
from serkit.features.speech_parts import SpeechParts
from serkit.labels import map_label
from serkit.models.layers import build_in_bounds
from serkit.models.speech_split import (
    F0Converter,
    F0ConverterConfig,
    SpeechSplit,
    SpeechSplitConfig,
)
from serkit.settings import checked
from serkit.training.config import TrainingConfig
from serkit.training.crew import crew_size
from serkit.training.crops import CropConfig
from serkit.training.data import derive_seed, write_data
from serkit.training.lock import FolderLock
from serkit.training.loop import LOG_FILE
from serkit.training.speech_split import (
    SplitMember,
    forget_state,
    part_of_judgement,
    score_network,
    train_split,
)
from serkit.training.workers import Workers, default_jobs, one_thread
from serkit.types import Fold, Utterance

__all__ = ["DecompositionConfig", "run_decomposition"]

_EVERYBODY = "all"  # name of the one training that is of no fold
_RESULT_FILE = "result.json"
_NETWORK = "speech_split"  # where model.name is not given
_DEV_RULES = ("speaker", "random", "none")  # of that training


class DecompositionConfig(Strict):
    """A decomposition: of whose speech, of which streams, trained how."""

    task: Literal["decomposition"] = "decomposition"
    name: str
    title: str = ""
    system: str = "SpeechSplit"
    seed: int = Field(default=1, description="of initialisation, crops, resampling and order")
    corpus: CorpusConfig
    more_corpora: tuple[CorpusConfig, ...] = Field(
        default=(), description="further corpora to be trained on together with the first"
    )
    labels: LabelsConfig = Field(
        default=LabelsConfig(),
        description="which utterances to use; default: all, unlabelled ones too",
    )
    per_fold: bool = Field(
        default=False,
        description="one training per fold of protocol.split, each without the fold's test part; "
        "false: one training on everybody but a dev part (protocol.dev speaker, random or none)",
    )
    protocol: ProtocolConfig = ProtocolConfig()
    front_end: dict[str, Any] = Field(default={"name": FRONT_END})
    model: dict[str, Any] = Field(
        default={},
        description="name, speech_split (default) or f0_converter, and settings of that network",
    )
    crops: CropConfig = CropConfig()
    mask_padding: bool = Field(
        default=True, description="leave padding out of the loss; false: as published"
    )
    training: TrainingConfig = TrainingConfig(select_by="loss")
    n_samples: int = Field(
        default=3, ge=0, description="utterances to look at and listen to in the report"
    )
    pitch_converter: str | None = Field(
        default=None,
        description="run folder or checkpoint of a trained F0 converter, by which samples are also "
        "said with the pitch of the next one",
    )

    @model_validator(mode="after")
    def _is_judged_by_its_loss(self) -> DecompositionConfig:
        if self.training.select == "best_dev" and self.training.select_by != "loss":
            raise ValueError(
                f"training.select_by = '{self.training.select_by}': a decomposition answers "
                "nothing that could be right; set training.select_by = 'loss'"
            )
        return self

    @property
    def run_name(self) -> str:
        """Name of the default run folder."""
        corpora = [c.name or Path(str(c.manifest)).stem for c in (self.corpus, *self.more_corpora)]
        return "-".join([self.name, *(c for c in corpora if c not in self.name)])


def run_decomposition(
    config: DecompositionConfig,
    *,
    out: Path,
    corpora_dir: Path | None = None,
    resume: bool = False,
    n_jobs: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a decomposition, or one per fold.

    Parameters
    ----------
    out
        The run folder. It must not hold a run, unless ``resume`` is set and it holds this one.
    corpora_dir
        Folder below which corpora are looked for.
    n_jobs
        Folds trained side by side; default: one per core, one where a GPU does the work.
    cache_dir
        Feature cache; default ``SERKIT_CACHE`` or ``~/.cache/serkit``.

    Returns
    -------
    The path of ``report.html``.

    Raises
    ------
    InputError
        If the settings, a corpus or the run folder cannot be used, or another process runs in the
        folder.
    """
    return in_run_folder(
        out,
        config,
        lambda lock: _run(
            config,
            out,
            lock=lock,
            resume=resume,
            corpora_dir=corpora_dir,
            n_jobs=n_jobs,
            cache_dir=cache_dir,
            progress=progress or Quiet(),
        ),
        resume=resume,
    )


def _run(
    config: DecompositionConfig,
    out: Path,
    *,
    lock: FolderLock,
    resume: bool,
    corpora_dir: Path | None,
    n_jobs: int | None,
    cache_dir: Path | None,
    progress: Progress,
) -> Path:
    started, stopwatch, made_by = datetime.now(timezone.utc), Stopwatch(out), commit()
    front_end = build_parts_front_end(config.front_end)
    sources = [
        _read(c, front_end, corpora_dir=corpora_dir, labels=config.labels, progress=progress)
        for c in (config.corpus, *config.more_corpora)
    ]
    parts = [part for part, _ in sources]
    for part in parts:
        progress.say(part.description["check"])
    utterances = _joined(parts)
    model = _model_config(config, utterances)
    n_parameters = sum(p.numel() for p in _network(model).parameters())
    converter = _converter(config, front_end, corpora_dir)
    extracted = [
        _extract(front_end, part, cache_dir=cache_dir, progress=progress) if made is None else made
        for part, made in sources
    ]
    hashes = {key: value for each in extracted for key, value in each.audio_hashes.items()}
    heard = {key: value for each in extracted for key, value in each.heard_hashes().items()}
    parts = [
        note_silence(part, each, progress) for part, each in zip(parts, extracted, strict=True)
    ]
    folds = _folds(config, utterances, heard)
    description = _describe(parts) | {"fingerprint": fingerprint(utterances, hashes)}
    begin_run(out, config, lock, resume=resume)
    write_folds_csv(folds, out / "folds.csv")
    speakers = speakers_of(utterances)
    data = write_data(
        out / ".data",
        [u.id for u in utterances],
        training=_stacked(extracted),
        emotion=np.full(len(utterances), -100, dtype=np.int64),  # nobody asks
        speaker=_numbered(utterances, speakers),
    )
    by_id = {u.id: u for u in utterances}
    jobs = [
        _Job(
            SplitMember(
                model=model,
                frame_rate=front_end.config.sample_rate / front_end.config.hop_length,
                crops=config.crops,
                training=config.training,
                mask_padding=config.mask_padding,
                fold=fold,
                seed=config.seed,
                folder=_home(config, out, fold),
                data=data,
            ),
            home=_home(config, out, fold) / "model" if config.per_fold else out / "model",
            front_end={"name": FRONT_END} | front_end_to_dict(front_end),
            speakers=speakers if isinstance(model, SpeechSplitConfig) and model.n_speakers else (),
            title=_title(config, description),
            trained_on=_trained_on(fold, by_id, description),
        )
        for fold in folds
    ]
    _train(jobs, n_jobs, stopwatch=stopwatch, progress=progress)
    progress.stage("saying a few utterances again", config.n_samples)
    samples = _samples(config, jobs[0], by_id, out, converter=converter, progress=progress)
    write_json(out / "metrics.json", _metrics(jobs, out, samples))
    write_json(
        out / "run.json",
        {
            "serkit_version": serkit.__version__,
            "task": config.task,
            "name": config.name,
            "title": _title(config, description),
            "system": config.system,
            "corpus": description,
            "protocol": _protocol(config, folds),
            "network": config.model.get("name", _NETWORK),
            "streams": list(model.streams) if isinstance(model, SpeechSplitConfig) else [],
            "n_parameters": n_parameters,
            "seed": config.seed,
            "commit": made_by,
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(stopwatch.seconds, 1),
            "machine": machine(),
            "packages": packages(),
        },
    )
    report = write_reconstruction_report(out)
    shutil.rmtree(out / ".data", ignore_errors=True)
    return report


def _read(
    config: CorpusConfig,
    front_end: SpeechParts,
    *,
    corpora_dir: Path | None,
    labels: LabelsConfig,
    progress: Progress,
) -> tuple[CorpusPart, ExtractedFeatures | None]:
    """Read a corpus; with its features, where the manifest is a pickle of SpeechSplit's authors."""
    if config.manifest is None or Path(config.manifest).suffix != ".pkl":
        return _selected(read_part(config, corpora_dir, progress), labels), None
    if labels != LabelsConfig():
        raise ConfigError(f"{config.manifest}: has no labels: leave [labels] out")
    path = beside_corpora(config.manifest, corpora_dir)
    return read_speechsplit(path, n_mels=front_end.config.n_mels)


def _selected(part: CorpusPart, labels: LabelsConfig) -> CorpusPart:
    """Leave out what the labels say, if they say anything."""
    if labels.keep is None and not labels.map:
        return part
    kept = []
    for utterance in part.utterances:
        label = map_label(utterance.label, mapping=labels.map, keep=labels.keep, multi=labels.multi)
        if label is not None:
            kept.append(replace(utterance, label=label))
    return replace(part, utterances=kept)


def _joined(parts: Sequence[CorpusPart]) -> list[Utterance]:
    utterances = [u for part in parts for u in part.utterances]
    if not utterances:
        raise ConfigError("no utterances are left to train on: check labels.keep")
    seen: dict[str, str] = {}
    for utterance in utterances:
        if utterance.id in seen:
            raise ConfigError(
                f"utterance '{utterance.id}' is in {seen[utterance.id]} and in {utterance.corpus}: "
                "corpora that are trained on together need different ids"
            )
        seen[utterance.id] = utterance.corpus
    return utterances


def _describe(parts: Sequence[CorpusPart]) -> dict[str, Any]:
    """Say what reports tell of the corpora, several joined by a bar."""
    described: dict[str, Any] = {
        key: " | ".join(str(part.description[key]) for part in parts)
        for key in ("name", "title", "licence", "citation", "check")
    }
    utterances = [u for part in parts for u in part.utterances]
    known = {(u.corpus, u.speaker) for u in utterances if u.speaker != "unknown"}
    return described | {
        "n_utterances": len(utterances),
        "n_speakers": len(known),
        "complete": all(part.description["complete"] for part in parts),
        "synthetic": any(part.description["synthetic"] for part in parts),
    }


def _model_config(
    config: DecompositionConfig, utterances: Sequence[Utterance]
) -> SpeechSplitConfig | F0ConverterConfig:
    """Complete the network's settings by the number of speakers where those are numbered."""
    settings = dict(config.model)
    name = settings.pop("name", _NETWORK)
    if name == "f0_converter":
        return checked(F0ConverterConfig, settings, where="model")
    if name != _NETWORK:
        raise ConfigError(f"model.name is '{name}': expected {_NETWORK} or f0_converter")
    streams = settings.get("streams", SpeechSplitConfig().streams)
    if settings.get("timbre") == "one_hot" and "timbre" in streams:
        settings.setdefault("n_speakers", len(speakers_of(utterances)))
    return checked(SpeechSplitConfig, settings, where="model")


def _network(model: SpeechSplitConfig | F0ConverterConfig) -> SpeechSplit | F0Converter:
    if isinstance(model, F0ConverterConfig):
        return build_in_bounds(F0Converter, model)
    return build_in_bounds(SpeechSplit, model)


def _converter(
    config: DecompositionConfig, front_end: SpeechParts, corpora_dir: Path | None
) -> PitchConverter | None:
    """Load the converter that samples are said with."""
    if config.pitch_converter is None:
        return None
    if config.model.get("name", _NETWORK) != _NETWORK:
        raise ConfigError("pitch_converter: samples of a converter are contours: leave it out")
    folder = beside_corpora(config.pitch_converter, corpora_dir)
    converter = load_pitch_converter(folder)
    if converter.front_end.config != front_end.config:
        raise ConfigError(
            f"pitch_converter: {folder} was trained on the parts {converter.front_end.config}, and "
            f"[front_end] is {front_end.config}: give both the same settings"
        )
    return converter


def _extract(
    front_end: SpeechParts, part: CorpusPart, *, cache_dir: Path | None, progress: Progress
) -> ExtractedFeatures:
    """Compute spectrogram and pitch, under the settings that an experiment's parts have."""
    extractor = Extractor(
        function=front_end,
        sample_rate=front_end.config.sample_rate,
        channel=_channel(part),
        settings={
            "view": {"kind": "whole"},
            "front_end": {"name": FRONT_END} | front_end_to_dict(front_end),
        },
    )
    progress.stage("spectrograms and pitch", len(part.utterances))
    extracted = extract_features(
        part.utterances,
        extractor,
        cache_dir=cache_dir,
        progress=lambda done, _: progress.advance(done),
    )
    progress.say(
        f"spectrograms and pitch of {len(part.utterances)} utterances, {extracted.n_cached} of "
        "them from the cache"
    )
    return extracted


def _channel(part: CorpusPart) -> Channel:
    try:
        return channel_of(part.description["name"])
    except CorpusError:
        return "mean"


def _stacked(extracted: Sequence[ExtractedFeatures]) -> ExtractedFeatures:
    """Put the features of several corpora one after the other."""
    n_frames = np.concatenate([each.n_frames for each in extracted])
    return replace(
        extracted[0],
        features=np.concatenate([each.features for each in extracted]),
        n_frames=n_frames,
        owners=np.arange(len(n_frames)),
    )


def _numbered(utterances: Sequence[Utterance], speakers: Sequence[str]) -> NDArray[np.int64]:
    numbers = mark_speakers(utterances, speakers)
    return np.full(len(utterances), -100, dtype=np.int64) if numbers is None else numbers


def _folds(
    config: DecompositionConfig, utterances: Sequence[Utterance], hashes: dict[str, str]
) -> list[Fold]:
    """Say who is trained on in each training, by whom its epoch is chosen, whom it never hears."""
    if not config.per_fold:
        return [_all_but_a_dev_part(config.protocol, utterances)]
    folds, separates = folds_of(config.protocol, utterances)
    if config.protocol.folds_file is None:
        leaks = check_leaks(utterances, folds, separates=separates, audio_hashes=hashes)
        leaks.raise_if_broken()
    return folds


def _all_but_a_dev_part(protocol: ProtocolConfig, utterances: Sequence[Utterance]) -> Fold:
    rule = protocol.dev or "speaker"
    if rule not in _DEV_RULES:
        raise ConfigError(
            f"protocol.dev is '{rule}': without per_fold expected one of {', '.join(_DEV_RULES)}"
        )
    drawn = np.random.default_rng(derive_seed(protocol.split_seed, "dev part"))
    if rule == "speaker":
        speakers = sorted({(u.corpus, u.speaker) for u in utterances}, key=_by_name)
        if protocol.n_dev >= len(speakers):
            raise ConfigError(
                f"protocol.n_dev = {protocol.n_dev} of {len(speakers)} speakers leaves nobody to "
                "train on: set protocol.dev = 'random' or a smaller number"
            )
        chosen = {speakers[i] for i in drawn.permutation(len(speakers))[: protocol.n_dev]}
        dev = {u.id for u in utterances if (u.corpus, u.speaker) in chosen}
    elif rule == "random":
        n_dev = max(1, round(protocol.dev_fraction * len(utterances)))
        dev = {utterances[i].id for i in drawn.permutation(len(utterances))[:n_dev]}
    else:
        dev = set()
    return Fold(
        name=_EVERYBODY,
        train=tuple(u.id for u in utterances if u.id not in dev),
        dev=tuple(u.id for u in utterances if u.id in dev),
        test=(),
    )


def _by_name(pair: tuple[str, str]) -> tuple[Any, Any]:
    return natural_key(pair[0]), natural_key(pair[1])


def _home(config: DecompositionConfig, out: Path, fold: Fold) -> Path:
    return out / (FOLDS_FOLDER if config.per_fold else "members") / fold.name


def _title(config: DecompositionConfig, description: Mapping[str, Any]) -> str:
    return config.title or f"{config.system} on {description['title']}"


def _trained_on(
    fold: Fold, by_id: Mapping[str, Utterance], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Say whom a training heard; who chose its epoch was heard as well."""
    heard = [by_id[i] for i in (*fold.train, *fold.dev)]
    return {
        "corpora": sorted({u.corpus for u in heard}),
        "speakers": [list(pair) for pair in sorted({(u.corpus, u.speaker) for u in heard})],
        "n_utterances": len(fold.train),
        "fingerprint": description["fingerprint"],
        "licence": description["licence"],
        "fold": fold.name,
        "serkit_version": serkit.__version__,
    }


@dataclass(frozen=True, slots=True)
class _Job:
    """One training, and what becomes of it; picklable."""

    member: SplitMember
    home: Path  # of the model
    front_end: Mapping[str, Any]
    speakers: tuple[str, ...]
    title: str
    trained_on: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.member.fold.name

    @property
    def result(self) -> Path:
        return self.member.folder / _RESULT_FILE


def _train(
    jobs: Sequence[_Job], n_jobs: int | None, *, stopwatch: Stopwatch, progress: Progress
) -> None:
    """Train what is not trained yet, side by side where that is possible."""
    epochs = jobs[0].member.training.epochs
    progress.stage(
        "training" if len(jobs) == 1 else f"training {len(jobs)} folds", len(jobs) * epochs
    )
    done: dict[str, int] = {}

    def hear(name: str, row: dict[str, Any]) -> None:
        done[name] = epochs if row.get("finished") else row["epoch"]
        progress.advance(sum(done.values()))
        stopwatch.note()

    at_once = min(n_jobs or default_jobs(), len(jobs))
    if at_once == 1 or crew_size() > 1:
        with one_thread():
            for job in jobs:
                _work(job, hear)
        return
    with Workers(hear) as workers:
        workers.run(_work, jobs, at_once=at_once)


def _work(job: _Job, tell: Callable[[str, dict[str, Any]], None]) -> None:
    """Train one decomposition, store it and measure it; skipped where that is done."""
    if not job.result.exists():
        member = job.member
        network, result = train_split(member, lambda row: tell(job.name, row))
        judged_on, ids = part_of_judgement(member.fold)
        scores = score_network(network, member, ids)
        epochs = {"selected_epoch": result.selected_epoch, "n_epochs": len(result.history)}
        trained_on = dict(job.trained_on) | epochs
        card = write_card(job.title, network, trained_on, judged_on=judged_on, scores=scores)
        _trained(job, network, trained_on).save(job.home, card=card)
        write_json(
            job.result,
            {
                "name": job.name,
                "judged_on": judged_on,
                "n_judged": len(ids),
                "n_train": len(member.fold.train),
                "n_dev": len(member.fold.dev),
                **epochs,
                **scores,
            },
        )
        forget_state(member)
    tell(job.name, {"finished": True})


def _trained(
    job: _Job, network: SpeechSplit | F0Converter, trained_on: Mapping[str, Any]
) -> Decomposition | PitchConverter:
    """Put what was trained together with its front end."""
    front_end = build_parts_front_end(job.front_end)
    if isinstance(network, F0Converter):
        return PitchConverter(front_end=front_end, network=network, trained_on=trained_on)
    return Decomposition(
        front_end=front_end, split=network, speakers=job.speakers, trained_on=trained_on
    )


def _samples(
    config: DecompositionConfig,
    job: _Job,
    by_id: Mapping[str, Utterance],
    out: Path,
    *,
    converter: PitchConverter | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Draw utterances of the part that the first training is judged by, of different speakers."""
    part, ids = part_of_judgement(job.member.fold)
    order = np.random.default_rng(derive_seed(config.seed, "samples")).permutation(len(ids))
    seen: dict[str, int] = {}
    ranked = []
    for utterance in (by_id[ids[i]] for i in order):
        turn = seen[utterance.speaker] = seen.get(utterance.speaker, 0) + 1
        ranked.append((turn, utterance))
    chosen = [utterance for _, utterance in sorted(ranked, key=lambda pair: pair[0])]
    examples = job.member.part(tuple(u.id for u in chosen))
    with one_thread(), torch.inference_mode():
        if isinstance(job.member.model, F0ConverterConfig):
            samples = draw_contours(
                load_pitch_converter(job.home),
                examples,
                n_samples=config.n_samples,
                out=out,
                on_sample=progress.advance,
            )
        else:
            samples = draw_samples(
                load_decomposition(job.home),
                examples,
                n_samples=config.n_samples,
                out=out,
                on_sample=progress.advance,
                converter=converter,
            )
    return [
        sample | {"speaker": by_id[sample["id"]].speaker, "fold": job.name, "part": part}
        for sample in samples
    ]


def _metrics(jobs: Sequence[_Job], out: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    folds = [
        json.loads(job.result.read_text(encoding="utf-8"))
        | {"log": (job.member.folder / LOG_FILE).relative_to(out).as_posix()}
        for job in jobs
    ]
    return {
        "task": "decomposition",
        **summarise_folds(folds),
        "folds": folds,
        "samples": samples,
    }


def _protocol(config: DecompositionConfig, folds: Sequence[Fold]) -> dict[str, Any]:
    if config.per_fold:
        split = config.protocol.folds_file or config.protocol.split
        words = f"one training for each of {len(folds)} folds of {split}, without its test part"
        return {"per_fold": True, "split": split, "words": words, "warnings": []}
    n_dev, n_train = len(folds[0].dev), len(folds[0].train)
    return {
        "per_fold": False,
        "split": "none",
        "words": f"{n_train} utterances are trained on, the epoch is chosen by {n_dev} others",
        "warnings": ["has heard the whole corpus"],
    }
