"""Run a sentiment experiment: folds x seeds of one model of words, voice and face.

The order of events: read the clips, divide them into parts, look for what the parts share, train
every member (fold x seed) and select its epoch by its dev part, let each predict its test part
once, write tables and report. What is done is on disk, so that a run that was killed goes on where
it was with ``resume=True``, generated labels included.

The run folder::

    config.json       the resolved experiment
    folds.csv         who is in which part
    leaks.json        what the parts share
    members/          one folder per fold and seed: log.jsonl, outputs.safetensors, model/
    predictions.csv   one row per clip, fold and seed; see serkit.evaluation.sentiment_report
    curves.csv        one row per epoch and member
    run.json          what, on what, under which protocol, with which software
    report.html, metrics.json, results.csv
    model/            the member with the lowest dev loss
    .lock             held by the process that works here

Where classes are learned instead of numbers, the tables and the report are those of an experiment
on emotion; see :mod:`serkit.experiment.sentiment.classes`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.numpy import save_file

import serkit
from serkit.clip_data import ClipData, Frames
from serkit.evaluation.report import write_report
from serkit.evaluation.sentiment_report import write_sentiment_report
from serkit.experiment.config import ConfigError, Seeds, Strict
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.provenance import commit, machine, packages
from serkit.experiment.run_folder import Stopwatch, begin_run, in_run_folder, write_json
from serkit.experiment.sentiment.classes import (
    ClassesConfig,
    JudgedMember,
    class_card,
    class_facts,
    find_classes,
    left_out,
    require_all_classes,
    stream_uars,
    write_class_tables,
)
from serkit.experiment.sentiment.clips import (
    ClipClasses,
    ClipFold,
    clip_fingerprint,
    find_sharing,
    group_folds,
    official_fold,
    read_streams,
    require_on_scale,
    to_tensors,
)
from serkit.files import replacing, write_atomically
from serkit.models.self_mm import STREAMS
from serkit.sentiment_model import (
    TEXT_VECTORS,
    FeatureSet,
    SentimentModel,
    SentimentModelConfig,
    load_sentiment_model,
)
from serkit.training.config import TrainingConfig
from serkit.training.crew import crew_size
from serkit.training.data import Ragged, derive_seed
from serkit.training.lock import FolderLock
from serkit.training.loop import EpochRow, FitResult, fit_learner
from serkit.training.record import LOG_FILE
from serkit.training.sentiment import (
    ClassCriterion,
    ClipPart,
    ClipTensors,
    SentimentCriterion,
    judge_classes,
    judge_sentiment,
    predict_clips,
)
from serkit.training.unimodal_labels import (
    GroupRates,
    UnimodalLabels,
    UnimodalLabelsConfig,
    parameter_groups,
)
from serkit.training.workers import one_thread
from serkit.types import InputError

__all__ = ["SentimentConfig", "run_sentiment"]

OUTPUTS_FILE = "outputs.safetensors"

Stream = Literal["text", "audio", "vision"]


class StreamFiles(Strict):
    """Files that single streams are taken from, instead of ``data``."""

    text: str | None = None
    audio: str | None = None
    vision: str | None = None


class SplitConfig(Strict):
    """Who is trained on, selected by, judged by."""

    kind: Literal["official", "group"] = Field(
        default="official",
        description="official: the parts named in the data; group: folds without shared groups",
    )
    by: Literal["auto", "group", "speaker"] = Field(
        default="auto",
        description="group: the video; auto: the speaker where all are known, else the video",
    )
    n_folds: int = Field(default=5, ge=3)
    seed: int = Field(default=0, ge=0, description="shuffles the groups, nothing else")


class AsrConfig(Strict):
    """Whether the texts of a speech recogniser are read in place of people's."""

    probability: float = Field(
        default=0.0, ge=0, le=1, description="that a clip is read so in a batch that is trained on"
    )
    judged: Literal["gold", "asr"] = Field(
        default="gold", description="which text dev and test parts are read by"
    )


class RatesConfig(Strict):
    """Learning rates and weight decays of encoders; the rest has those of ``training``."""

    text: float = Field(default=5e-5, gt=0)
    audio: float = Field(default=5e-3, gt=0)
    vision: float = Field(default=5e-3, gt=0)
    text_decay: float = Field(default=1e-3, ge=0)
    audio_decay: float = Field(default=1e-2, ge=0)
    vision_decay: float = Field(default=1e-2, ge=0)


class SentimentConfig(Strict):
    """A whole experiment: all folds x seeds of one claim."""

    task: Literal["sentiment"] = "sentiment"
    name: str
    title: str = ""
    system: str
    seeds: Seeds = Field(default=(1,), min_length=1)
    data: str | None = Field(
        default=None, description="features of clips: our .npz, or a pickle of MMSA"
    )
    streams: StreamFiles = StreamFiles()
    target: Literal["number", "classes"] = Field(
        default="number", description="number: how positive a clip is; classes: see classes"
    )
    classes: ClassesConfig = ClassesConfig()
    scale: Literal["sims", "simsv2", "mosi", "mosei"] = Field(
        default="sims", description="whose scale the labels have, and whose scores are computed"
    )
    modalities: tuple[Stream, ...] = Field(default=("text", "audio", "vision"), min_length=1)
    text: dict[str, Any] = Field(
        default_factory=lambda: {"name": "small"},
        description="text encoder: small, pretrained, or vectors (those in the data)",
    )
    tokens: Literal["own", "stored"] = Field(
        default="own", description="stored: token numbers in the data, instead of a tokenizer's"
    )
    asr: AsrConfig = AsrConfig()
    standardize: Literal["none", "train"] = "none"
    max_frames: Literal["none", "train"] = Field(
        default="none",
        description="train: clips lose what is beyond the mean length of the training part and "
        "three standard deviations",
    )
    model: dict[str, Any] = Field(default_factory=dict, description="settings of Self-MM")
    labels: UnimodalLabelsConfig = UnimodalLabelsConfig()
    weighting: Literal["disagreement", "even"] = Field(
        default="disagreement", description="how the error of a stream counts"
    )
    rates: RatesConfig = RatesConfig()
    training: TrainingConfig = TrainingConfig(optimizer="adam", select_by="loss")
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _training_is_understood(self) -> SentimentConfig:
        if self.training.encoder_learning_rate is not None or self.training.layer_decay != 1:
            raise ValueError(
                "encoder_learning_rate and layer_decay are not used here: set rates.text"
            )
        if self.training.penalties:
            raise ValueError("penalties are not used here: set weight_decay and those of rates")
        return self

    @model_validator(mode="after")
    def _target_has_a_meaning(self) -> SentimentConfig:
        source = self.labels.label_source
        if self.target == "number":
            if source == "clip":
                raise ValueError("labels.label_source = 'clip' is for target = 'classes'")
            if self.classes != ClassesConfig():
                raise ValueError("classes is set, and a number is learned: set target = 'classes'")
            return self
        if source not in ("clip", "human"):
            raise ValueError(
                f"labels.label_source = '{source}': labels of streams are generated for numbers "
                "alone; for classes take 'clip' (that of the clip) or 'human' (people's)"
            )
        if self.weighting != "even":
            raise ValueError(
                "weighting = 'disagreement' measures how far numbers are apart: for classes take "
                "'even'"
            )
        return self

    @property
    def run_name(self) -> str:
        """Name of the default run folder."""
        return f"{self.name}-{Path(str(self.data)).stem}"


_ClipCriterion = ClassCriterion | SentimentCriterion


@dataclass(frozen=True, slots=True)
class _Member:
    """A fold with a seed."""

    fold: ClipFold
    seed: int
    folder: Path

    @property
    def order_seed(self) -> int:
        return derive_seed(self.seed, self.fold.name)

    @property
    def finished(self) -> bool:
        return (self.folder / OUTPUTS_FILE).exists()


def run_sentiment(
    config: SentimentConfig,
    *,
    out: Path,
    corpora_dir: Path | None = None,
    resume: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Run all folds and seeds of an experiment, one after the other.

    Parameters
    ----------
    out
        The run folder. It must not hold a run, unless ``resume`` is set and it holds this one.
    corpora_dir
        Folder below which ``data`` is looked for as well.
    cache_dir
        Cache of frozen text encoders; default ``SERKIT_CACHE`` or ``~/.cache/serkit``.

    Returns
    -------
    The path of ``report.html``.

    Raises
    ------
    InputError
        If the experiment, the data or the run folder cannot be used, or another process runs in
        the folder.
    """
    if crew_size() > 1:
        raise InputError(
            "a model of clips is trained by one process, which keeps its generated labels: start "
            "'serkit train' without torchrun"
        )
    progress = progress or Quiet()
    return in_run_folder(
        out,
        config,
        lambda lock: _run(
            config,
            out,
            lock=lock,
            resume=resume,
            corpora_dir=corpora_dir,
            cache_dir=cache_dir,
            progress=progress,
        ),
        resume=resume,
    )


def _run(
    config: SentimentConfig,
    out: Path,
    *,
    lock: FolderLock,
    resume: bool,
    corpora_dir: Path | None,
    cache_dir: Path | None,
    progress: Progress,
) -> Path:
    started, stopwatch, made_by = datetime.now(timezone.utc), Stopwatch(out), commit()
    progress.stage("reading the clips", 1)
    data, classes, n_read = _read(config, corpora_dir)
    folds = _folds(config, data)
    if classes is not None:
        require_all_classes(folds, classes)
    sharing = find_sharing(data, folds)
    synthetic = ["SYNTHETIC"] if data.settings.get("corpus") == "synthetic_clips" else []
    words = [*synthetic, *sharing.words, *_words_of(config)]
    model = SentimentModel(_model_config(config, data, classes, folds[0], trained_on={}))
    clips = to_tensors(
        data,
        model,
        tokens=config.tokens,
        with_asr=config.asr.probability > 0 or config.asr.judged == "asr",
        cache_dir=cache_dir,
        classes=classes,
    )
    progress.advance(1)
    # Only now is there something to go on with: wrong data or settings leave no run behind.
    begin_run(out, config, lock, resume=resume)
    (out / ".data").mkdir(exist_ok=True)  # what the stopwatch needs
    write_atomically(out / "folds.csv", _folds_csv(data, folds))
    write_json(
        out / "leaks.json",
        {"ok": sharing.ok, "lines": list(sharing.lines), "words": list(sharing.words)},
    )
    for word in words:
        progress.say(f"mind: {word}")
    members = [
        _Member(fold, seed, out / "members" / f"{fold.name}-seed{seed}")
        for seed in config.seeds
        for fold in folds
    ]
    trained_on = {
        "name": config.name,
        "extraction": dict(data.settings.get("extraction") or {}),
        "data": Path(str(config.data)).name,
        "fingerprint": clip_fingerprint(data, classes),
        "warnings": words,
        "serkit_version": serkit.__version__,
    }
    progress.stage(f"training {len(members)} members", len(members) * config.training.epochs)
    for number, member in enumerate(members):
        _train_member(
            config,
            member,
            clips,
            _model_config(config, data, classes, member.fold, trained_on=trained_on),
            tell=_Teller(progress, stopwatch, before=number * config.training.epochs),
        )
    protocol = config.split.model_dump() | {"warnings": words, "folds": len(folds)}
    facts: dict[str, Any] = {"task": "sentiment", "scale": config.scale, "protocol": protocol}
    if classes is None:
        _collect(out, members, data)
    else:
        write_class_tables(out, [_judged(member) for member in members], data, classes)
        # What follows is judged and shown as any system's classes of emotion are.
        facts = {"task": "emotion"} | class_facts(
            data,
            classes,
            folds,
            words=[*words, *left_out(n_read, len(data))],
            speaker_independent=sharing.speaker_independent,
            split=config.split.model_dump(),
            label_source=config.labels.label_source,
        )
    write_json(
        out / "run.json",
        facts
        | {
            "serkit_version": serkit.__version__,
            "name": config.name,
            "title": config.title or f"{config.system} on {Path(str(config.data)).name}",
            "system": config.system,
            "modalities": list(config.modalities),
            "data": _describe(data) | {"fingerprint": trained_on["fingerprint"]},
            "n_parameters": model.n_parameters,
            "seeds": list(config.seeds),
            "commit": made_by,
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(stopwatch.seconds, 1),
            "machine": machine(),
            "packages": packages(),
        },
    )
    progress.stage("writing the report", 1)
    report = write_sentiment_report(out) if classes is None else write_report(out)
    _keep_best(out, members)
    shutil.rmtree(out / ".data", ignore_errors=True)
    progress.advance(1)
    return report


def _read(
    config: SentimentConfig, corpora_dir: Path | None
) -> tuple[ClipData, ClipClasses | None, int]:
    """Read the clips to learn from and, where those are learned, their classes; count all read."""
    if config.data is None:
        raise ConfigError(
            f"{config.name}: names no data: add data = 'FILE', our .npz or a pickle of MMSA, or "
            "--set data=FILE"
        )

    def locate(name: str) -> Path:
        below = None if corpora_dir is None else corpora_dir / name
        return below if below is not None and below.exists() else Path(name)

    others = {stream: name for stream, name in config.streams.model_dump().items() if name}
    data = read_streams(locate(config.data), others, locate)
    if config.target == "number" or config.classes.source == "label":
        try:
            require_on_scale(data, config.scale)
        except InputError as error:
            raise InputError(f"{config.data}: {error}") from None
    if config.target == "classes":
        with_streams = config.labels.label_source == "human"
        try:
            chosen, classes = find_classes(
                data, config.classes, scale=config.scale, streams=with_streams
            )
        except InputError as error:
            raise InputError(f"{config.data}: {error}") from None
        return chosen, classes, len(data)
    labels = data.labels.get("M", np.full(len(data), np.nan))
    unknown = np.flatnonzero(~np.isfinite(labels))
    if len(unknown):
        raise InputError(
            f"{config.data}: clip {data.ids[unknown[0]]} has no label of sentiment ({len(unknown)} "
            "have none): leave such clips out"
        )
    return data, None, len(data)


def _folds(config: SentimentConfig, data: ClipData) -> list[ClipFold]:
    split = config.split
    if split.kind == "official":
        return official_fold(data)
    return group_folds(data, by=split.by, n_folds=split.n_folds, seed=split.seed)


def _words_of(config: SentimentConfig) -> list[str]:
    if "text" not in config.modalities:
        return []
    return ["judged on gold transcripts" if config.asr.judged == "gold" else "judged on ASR text"]


def _model_config(
    config: SentimentConfig,
    data: ClipData,
    classes: ClipClasses | None,
    fold: ClipFold,
    *,
    trained_on: dict[str, Any],
) -> SentimentModelConfig:
    text = dict(config.text)
    if text.get("name") == TEXT_VECTORS and data.text is not None:
        text.setdefault("n_features", data.text.n_features)

    def of(frames: Frames, column: int, key: str) -> FeatureSet:
        limit = None
        if config.max_frames == "train":
            there = data.present[fold.train, column]
            lengths = frames.lengths[fold.train][there]
            limit = max(1, int(lengths.mean() + 3 * lengths.std())) if len(lengths) else 1
        made_by = str(data.settings.get(key, ""))
        return FeatureSet(
            n_features=frames.n_features, names=frames.names, max_frames=limit, made_by=made_by
        )

    return SentimentModelConfig(
        system=config.system,
        scale=config.scale,
        text=text,
        audio=of(data.audio, 1, "acoustic"),
        vision=of(data.vision, 2, "vision"),
        model=config.model,
        modalities=config.modalities,
        standardize=config.standardize,
        trained_on=trained_on,
        classes=() if classes is None else classes.names,
    )


@dataclass(slots=True)
class _Teller:
    """Tells how far the training is, over all members."""

    progress: Progress
    stopwatch: Stopwatch
    before: int

    def __call__(self, row: EpochRow) -> None:
        self.progress.advance(self.before + row["epoch"])
        self.stopwatch.note()


def _train_member(
    config: SentimentConfig,
    member: _Member,
    clips: ClipTensors,
    model_config: SentimentModelConfig,
    *,
    tell: _Teller,
) -> None:
    """Train a member and store what it says of all its clips; skipped where that is done."""
    if not member.finished:
        torch.manual_seed(derive_seed(member.seed, member.fold.name, "initialisation"))
        model = SentimentModel(model_config)
        # A large text encoder gains by threads; nothing else here does.
        with nullcontext() if model.trained_encoders() else one_thread():
            result, criterion, parts = _fit(config, member, clips, model, tell=tell)
            _store(config, member, model, result, criterion, parts)
    tell({"epoch": config.training.epochs})


def _fit(
    config: SentimentConfig,
    member: _Member,
    clips: ClipTensors,
    model: SentimentModel,
    *,
    tell: _Teller,
) -> tuple[FitResult, _ClipCriterion, dict[str, ClipPart]]:
    judged = 1.0 if config.asr.judged == "asr" else 0.0
    shares = {"train": config.asr.probability, "dev": judged, "test": judged}
    parts = {
        name: ClipPart(clips, torch.from_numpy(member.fold.rows(name)), asr_share=share)
        for name, share in shares.items()
    }
    train, dev = parts["train"], parts["dev"]
    if config.standardize == "train":
        model.fit_norms(
            audio=_frames_of(clips.audio, train.rows[clips.present[train.rows, 0]]),
            vision=_frames_of(clips.vision, train.rows[clips.present[train.rows, 1]]),
        )
    criterion = _criterion(config, train, model)
    judge_dev = judge_classes if config.target == "classes" else judge_sentiment
    batch_size = config.training.batch_size
    result = fit_learner(
        model,
        train,
        dev,
        config.training,
        criterion=criterion,
        judge_dev=lambda learner, part: (
            judge_dev(learner, part, batch_size=batch_size) | criterion.row()
        ),
        seed=member.order_seed,
        folder=member.folder,
        on_epoch=tell,
        groups=_groups(config, model),
    )
    return result, criterion, parts


def _criterion(config: SentimentConfig, train: ClipPart, model: SentimentModel) -> _ClipCriterion:
    """Build the loss of a training part."""
    if config.target == "classes":
        return ClassCriterion(
            train.labels(), human=train.human(), weights=config.classes.class_weights
        )
    labels = UnimodalLabels(
        train.labels(), model.model.feature_widths, config=config.labels, human=train.human()
    )
    return SentimentCriterion(labels, weighting=config.weighting)


def _frames_of(stream: Ragged, rows: torch.Tensor) -> torch.Tensor:
    """Give the frames of some clips one after the other, (n_frames, n_features)."""
    ends = stream.lengths.cumsum(0)
    stretches = [stream.values[ends[row] - stream.lengths[row] : ends[row]] for row in rows]
    return torch.cat([stream.values[:0], *stretches])


def _groups(config: SentimentConfig, model: SentimentModel) -> list[dict[str, Any]]:
    """Group the parameters, each group with its factor of the learning rate."""
    training = config.training
    rates = GroupRates(
        text_rate=config.rates.text,
        audio_rate=config.rates.audio,
        vision_rate=config.rates.vision,
        other_rate=training.learning_rate,
        text_decay=config.rates.text_decay,
        audio_decay=config.rates.audio_decay,
        vision_decay=config.rates.vision_decay,
        other_decay=training.weight_decay,
    )
    encoder = model.text_encoder if model.text_learns else None
    return [
        {
            "params": group["params"],
            "weight_decay": group["weight_decay"],
            "factor": group["lr"] / training.learning_rate,
        }
        for group in parameter_groups(model.model, encoder, rates)
    ]


def _store(
    config: SentimentConfig,
    member: _Member,
    model: SentimentModel,
    result: FitResult,
    criterion: _ClipCriterion,
    parts: dict[str, ClipPart],
) -> None:
    """Predict all parts, the test part for the first and only time, and write it down."""
    model.to("cpu")
    tensors: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        # Clips that were trained on are judged as they are served: by one kind of text.
        judged = ClipPart(part.clips, part.rows, asr_share=parts["test"].asr_share)
        outputs = predict_clips(model, judged, batch_size=config.training.batch_size)
        tensors |= {f"{name}.{key}": values for key, values in outputs.items()}
    for stream, labels in criterion.generated().items():
        tensors[f"labels.{stream}"] = labels.numpy()
    model.save(member.folder / "model")
    losses = [row["dev_loss"] for row in result.history if row["epoch"] == result.selected_epoch]
    meta = {"selected_epoch": result.selected_epoch, "dev_loss": losses[0]}
    with replacing(member.folder / OUTPUTS_FILE) as part_path:
        save_file(tensors, part_path, metadata={"meta": json.dumps(meta)})


def _outputs(member: _Member) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with safe_open(member.folder / OUTPUTS_FILE, framework="np") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}
        return tensors, json.loads(stored.metadata()["meta"])


def _judged(member: _Member) -> JudgedMember:
    scores, meta = _outputs(member)
    return JudgedMember(
        member.fold, member.seed, scores, meta["selected_epoch"], member.folder / LOG_FILE
    )


_CURVES = ("train_loss", "dev_loss", *(f"labels_{name}" for name in STREAMS), "labels_clipped")


def _collect(out: Path, members: Sequence[_Member], data: ClipData) -> None:
    """Join what the members left into predictions.csv and curves.csv."""
    heads = ("fused", *STREAMS)
    rows = [
        ["id", "part", "group", "speaker", "fold", "seed", "truth", "predicted", *STREAMS]
        + [f"label_{name}" for name in STREAMS]
    ]
    curves = [["fold", "seed", "epoch", *_CURVES, "selected"]]
    speakers = data.speakers or ("",) * len(data)
    for member in members:
        tensors, meta = _outputs(member)
        for part in ("train", "dev", "test"):
            for place, clip in enumerate(member.fold.rows(part)):
                numbers = [data.labels["M"][clip], *(tensors[f"{part}.{h}"][place] for h in heads)]
                if part == "train":
                    numbers += [tensors[f"labels.{name}"][place] for name in STREAMS]
                else:
                    numbers += [np.nan] * len(STREAMS)
                rows.append(
                    [data.ids[clip], part, data.groups[clip], speakers[clip]]
                    + [member.fold.name, str(member.seed)]
                    + ["" if np.isnan(number) else f"{number:.9g}" for number in numbers]
                )
        for line in (member.folder / LOG_FILE).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kept = str(int(row["epoch"] == meta["selected_epoch"]))
            cells = [f"{row[key]:.6g}" for key in _CURVES]
            curves.append([member.fold.name, str(member.seed), str(row["epoch"]), *cells, kept])
    write_atomically(out / "predictions.csv", _csv(rows))
    write_atomically(out / "curves.csv", _csv(curves))


def _folds_csv(data: ClipData, folds: Sequence[ClipFold]) -> str:
    rows = [["fold", "part", "id"]]
    for fold in folds:
        for part in ("train", "dev", "test"):
            rows += [[fold.name, part, data.ids[row]] for row in fold.rows(part)]
    return _csv(rows)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _describe(data: ClipData) -> dict[str, Any]:
    return {
        "n_clips": len(data),
        "n_groups": len(set(data.groups)),
        "n_features": {name: frames.n_features for name, frames in data.frames.items()},
        "n_replaced": data.n_replaced,
        "n_missing": dict(zip(STREAMS, (~data.present).sum(axis=0).tolist(), strict=True)),
        "settings": dict(data.settings),
    }


def _keep_best(out: Path, members: Sequence[_Member]) -> None:
    """Hand out the member with the lowest dev loss, with its model card."""
    best = min(members, key=lambda member: float(_outputs(member)[1]["dev_loss"]))
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    model = load_sentiment_model(best.folder / "model")
    if model.config.classes:
        chosen = f"seed {best.seed} of {best.fold.name}"
        card = class_card(run, metrics, stream_uars(out), chosen=chosen)
    else:
        card = _card(run, metrics, best)
    model.save(out / "model", card=card)


def _card(run: dict[str, Any], metrics: dict[str, Any], member: _Member) -> str:
    words = [word.upper() for word in run["protocol"]["warnings"]]
    warning = f"\n**{' · '.join(words)}**\n" if words else ""
    rows = "\n".join(
        f"| {key} | {_number(spread['mean'])} | {_number(metrics['baselines']['majority'][key])} | "
        f"{_number(metrics['baselines']['mean'][key])} |"
        for key, spread in metrics["scores"].items()
    )
    return f"""# {run["title"]}
{warning}
Says how negative or positive a clip is, as one number, from {", ".join(run["modalities"])}.
{run["n_parameters"]:,} trained parameters.

## How well

Test part, mean over {len(run["seeds"])} seeds. This model is one of them, seed {member.seed} of
{member.fold.name}: the one with the lowest loss on its dev part.

| | score | always the commonest class | always the mean |
|---|---|---|---|
{rows}

## Trained on

{run["data"]["n_clips"]} clips of {run["data"]["n_groups"]} videos, features of
{run["data"]["n_features"]} columns, fingerprint `{run["data"]["fingerprint"]}`. Labels and scale of
{run["scale"]}. A model inherits the cautions of its corpus's licence.

## Limits

It reads features of the kind it was trained on, and no others. What people say of clips of
actors is not what the actors felt; expect lower scores on other material and other languages.

## Reproduce

Written by serkit {run["serkit_version"]} (commit {run["commit"] or "not known"}). The resolved
experiment is `config.json` in the run folder.
"""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
