"""Run a transcription experiment: one corpus with transcripts, one speech recogniser.

The order of events: read the corpus, divide it, collect the symbols of the training part, train and
keep the epoch with the lowest character error rate of the dev part, recognise the test part once,
write tables, report and model. What is done is on disk: a run that was killed, in the middle of an
epoch as well, goes on where it was with ``resume=True``.

The run folder::

    config.json       the resolved experiment
    folds.csv         who is in which part
    leaks.json        what the parts share
    train/            log.jsonl and state.safetensors, from which a stopped training goes on
    transcripts.csv   what was said and heard in each utterance of the test part
    run.json          what, on what, under which protocol, with which software
    report.html, metrics.json
    model/            the speech recogniser
    .lock             held by the process that works here
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

import serkit
from serkit.audio import Channel
from serkit.corpora.splits import write_folds_csv
from serkit.evaluation.transcription_report import write_transcription_report
from serkit.experiment.config import ConfigError, CorpusConfig, Strict
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.provenance import commit, machine, packages
from serkit.experiment.run_folder import Stopwatch, begin_run, in_run_folder, write_json
from serkit.experiment.transcription.parts import (
    LengthConfig,
    PartsConfig,
    SpokenCorpus,
    TextConfig,
    channel_of_corpus,
    corpus_symbols,
    read_spoken_corpus,
    read_symbols,
    spelled,
)
from serkit.features.augment_list import AugmentList
from serkit.files import write_atomically
from serkit.speech_recogniser import (
    Decoding,
    SpeechRecogniser,
    SpeechRecogniserConfig,
    load_matching,
    load_speech_recogniser,
)
from serkit.training.asr_part import (
    AsrCriterion,
    AsrPart,
    Spoken,
    feature_statistics,
    hear_part,
    judge_transcripts,
)
from serkit.training.config import TrainingConfig
from serkit.training.crew import together
from serkit.training.data import derive_seed
from serkit.training.lock import FolderLock
from serkit.training.loop import STATE_FILE, EpochRow, fit_learner
from serkit.transcripts import Symbols
from serkit.types import InputError, Utterance

__all__ = ["DEFAULT_AUGMENT", "TranscriptionConfig", "run_transcription"]

DEFAULT_AUGMENT: tuple[Mapping[str, Any], ...] = tuple(
    {"type": kind} for kind in ("noise", "speed", "shift", "volume", "specaug", "specsub")
)
"""What ``augment = "default"`` stands for: each as :mod:`serkit.features.augment_list` has it."""

_STRIDE_MARGIN = 3  # frames that a subsampling of stride 4 loses at the end


class ObjectiveConfig(Strict):
    """Weights of the losses of a network with attention decoders."""

    ctc_weight: float = Field(default=0.3, ge=0, le=1, description="of CTC; attention has the rest")
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    reverse_weight: float = Field(
        default=0.3, ge=0, le=1, description="share of the decoder from right to left"
    )


class TranscriptionConfig(Strict):
    """A whole experiment: one speech recogniser."""

    task: Literal["transcription"] = "transcription"
    name: str
    title: str = ""
    system: str
    seed: int = 1
    corpus: CorpusConfig
    dev_manifest: str | None = Field(default=None, description="table of a separate dev part")
    test_manifest: str | None = Field(default=None, description="table of a separate test part")
    protocol: PartsConfig = PartsConfig()
    length: LengthConfig = LengthConfig()
    text: TextConfig = TextConfig()
    front_end: dict[str, Any] = Field(default_factory=lambda: {"preset": "asr"})
    model: dict[str, Any]
    objective: ObjectiveConfig = ObjectiveConfig()
    augment: str = Field(
        default="none", description="none, default, or a file; see serkit.features.augment_list"
    )
    training: TrainingConfig = TrainingConfig(select_by="cer")
    decoding: tuple[Decoding, ...] = Field(default=("greedy", "beam"), min_length=1)
    n_statistics: int = Field(
        default=10_000, ge=1, description="utterances that the features' statistics are taken from"
    )
    memory_mib: float = Field(
        default=1024.0, ge=0, description="sound and features kept from epoch to epoch"
    )
    start_from: str | None = Field(
        default=None,
        description="checkpoint to start from; what has another shape there is left out",
    )

    @property
    def run_name(self) -> str:
        """Name of the default run folder."""
        corpus = self.corpus.name or Path(str(self.corpus.manifest)).stem
        return self.name if corpus in self.name else f"{self.name}-{corpus}"


def run_transcription(
    config: TranscriptionConfig,
    *,
    out: Path,
    corpora_dir: Path | None = None,
    resume: bool = False,
    resume_from: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train a speech recogniser and judge it.

    Parameters
    ----------
    out
        The run folder. It must not hold a run, unless ``resume`` is set and it holds this one.
    corpora_dir
        Folder below which corpora, manifests and vocabularies are looked for.
    resume
        Go on from the last state in the folder, if there is one.
    resume_from
        A copy of a state (``train/state.safetensors``) of this very training; it is gone on from
        instead of the last one, which stays until the next is saved.

    Returns
    -------
    The path of ``report.html``.

    Raises
    ------
    InputError
        If the experiment, the corpus or the run folder cannot be used, or another process runs in
        the folder.
    """
    if resume_from is not None and not resume_from.is_file():
        raise InputError(f"{resume_from}: no such state: expected a copy of train/{STATE_FILE}")
    return in_run_folder(
        out,
        config,
        lambda lock: _run(
            config,
            out,
            lock=lock,
            resume=resume or resume_from is not None,
            resume_from=resume_from,
            corpora_dir=corpora_dir,
            progress=progress or Quiet(),
        ),
        resume=resume or resume_from is not None,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """All that a process needs to train; what is large lies in ``examples``."""

    recogniser: SpeechRecogniserConfig
    training: TrainingConfig
    objective: ObjectiveConfig
    seed: int
    examples: Path
    folder: Path
    channel: Channel
    memory_mib: float
    start_from: Path | None
    resume_from: Path | None


def _run(
    config: TranscriptionConfig,
    out: Path,
    *,
    lock: FolderLock,
    resume: bool,
    resume_from: Path | None,
    corpora_dir: Path | None,
    progress: Progress,
) -> Path:
    started, stopwatch, made_by = datetime.now(timezone.utc), Stopwatch(out), commit()
    augment = _read_augment(config, corpora_dir)
    corpus = read_spoken_corpus(
        config.corpus,
        parts=config.protocol,
        length=config.length,
        dev=config.dev_manifest,
        test=config.test_manifest,
        corpora_dir=corpora_dir,
        progress=progress,
    )
    _tell(corpus, progress)
    symbols = _find_symbols(config, corpus, corpora_dir)
    channel = channel_of_corpus(str(corpus.description["name"]))
    settings = SpeechRecogniserConfig(
        system=config.system,
        symbols=symbols.symbols,
        unknown=symbols.unknown,
        style=config.text.style,
        front_end=config.front_end,
        model=config.model,
        augment=tuple(dict(entry) for entry in augment),
        trained_on=_trained_on(config, corpus),
    )
    plain = SpeechRecogniser(settings)
    start = None
    if config.start_from is not None:
        start = _beside(config.start_from, corpora_dir)
        skipped = load_matching(plain, start)
        if skipped:
            progress.say(
                f"start_from: {len(skipped)} tensors have another shape or are new, and are not "
                f"taken over: {', '.join(skipped[:4])}{' ...' if len(skipped) > 4 else ''}"
            )
    spoken = {
        name: _spell(corpus.part(name), symbols, config.text) for name in ("train", "dev", "test")
    }
    begin_run(out, config, lock, resume=resume)
    write_folds_csv([corpus.fold], out / "folds.csv")
    write_json(out / "leaks.json", {"ok": True} | corpus.leaks.to_dict())
    parts = {
        name: AsrPart(found, plain.front_end, channel=channel, memory_mib=config.memory_mib)
        for name, found in spoken.items()
    }
    counts = corpus.counts | _too_long(parts, plain.model.stride)
    recogniser = _trained(out)
    if recogniser is not None and resume_from is not None:
        raise InputError(
            f"{out}: its training is over, so nothing goes on from {resume_from}: start another "
            "run, with start_from to begin with these weights"
        )
    if recogniser is None:
        job = _prepare(config, out, settings, parts, channel=channel, start=start)
        job = replace(job, resume_from=resume_from)
        recogniser = _train(job, stopwatch=stopwatch, progress=progress)
        recogniser.save(out / "model")
    progress.stage("recognising the test part", 1)
    _write_transcripts(out / "transcripts.csv", recogniser, parts["test"], config)
    write_json(
        out / "run.json",
        {
            "task": "transcription",
            "serkit_version": serkit.__version__,
            "name": config.name,
            "title": config.title or f"{config.system} on {corpus.description['title']}",
            "system": config.system,
            "corpus": corpus.description,
            "protocol": recogniser.config.trained_on["protocol"],
            "parts": {name: _describe_part(part) for name, part in parts.items()},
            "left_out": counts,
            "decoding": list(config.decoding),
            "augment": [dict(entry) for entry in augment],
            "n_symbols": len(symbols),
            "n_parameters": recogniser.n_parameters,
            "seed": config.seed,
            "commit": made_by,
            "started": started.isoformat(timespec="seconds"),
            "duration_s": round(stopwatch.seconds, 1),
            "machine": machine(),
            "packages": packages(),
        },
    )
    report = write_transcription_report(out)
    _write_card(out, recogniser)
    progress.advance(1)
    shutil.rmtree(out / ".data", ignore_errors=True)
    return report


def _read_augment(
    config: TranscriptionConfig, corpora_dir: Path | None
) -> tuple[Mapping[str, Any], ...]:
    """Read and check what is to be made different in training."""
    if config.augment == "none":
        return ()
    if config.augment == "default":
        return DEFAULT_AUGMENT
    return AugmentList.read(_beside(config.augment, corpora_dir)).entries


def _beside(name: str, corpora_dir: Path | None) -> Path:
    path = Path(name).expanduser()
    below = path if corpora_dir is None else corpora_dir / path
    return below if below.exists() and not path.exists() else path


def _tell(corpus: SpokenCorpus, progress: Progress) -> None:
    fold = corpus.fold
    progress.say(str(corpus.description["check"]))
    progress.say(
        f"parts by {corpus.split}: {len(fold.train)} utterances to train on, {len(fold.dev)} to "
        f"select by, {len(fold.test)} to judge by"
    )
    for why, n in corpus.counts.items():
        progress.say(f"left out: {n} ({why})")
    for word in corpus.warnings:
        progress.say(f"this protocol is: {word}")


def _find_symbols(
    config: TranscriptionConfig, corpus: SpokenCorpus, corpora_dir: Path | None
) -> Symbols:
    text = config.text
    if text.symbols != "corpus":
        return read_symbols(_beside(text.symbols, corpora_dir), unknown=text.unknown)
    if text.style != "spoken":
        raise ConfigError(
            f"text.style = '{text.style}' leaves out what has no symbol, so it needs a file of "
            "them: set text.symbols, or text.style = spoken"
        )
    said = [str(u.transcript) for u in corpus.part("train")]
    return corpus_symbols(said, min_count=text.min_count, unknown=text.unknown)


def _spell(utterances: Sequence[Utterance], symbols: Symbols, text: TextConfig) -> list[Spoken]:
    found = []
    for one in utterances:
        words = spelled(one.transcript, style=text.style, symbols=symbols)
        found.append(Spoken(one, words, tuple(symbols.encode(words))))
    return found


def _too_long(parts: Mapping[str, AsrPart], stride: int) -> dict[str, int]:
    """Count utterances whose words need more frames than they have."""
    n = 0
    for part in parts.values():
        frames = ((part.lengths() - _STRIDE_MARGIN) // stride).clamp_min(1).tolist()
        for one, n_frames in zip(part.spoken, frames, strict=True):
            same = sum(a == b for a, b in zip(one.symbols, one.symbols[1:], strict=False))
            n += len(one.symbols) + same > n_frames
    return {"kept, though too short for their words: CTC learns nothing of them": n} if n else {}


def _trained_on(config: TranscriptionConfig, corpus: SpokenCorpus) -> dict[str, Any]:
    return {
        "name": config.name,
        "corpus": corpus.description["title"],
        "licence": corpus.description["licence"],
        "protocol": {
            "split": corpus.split,
            "selection": config.training.select,
            "select_by": config.training.select_by,
            "warnings": list(corpus.warnings),
        },
        "serkit_version": serkit.__version__,
    }


def _prepare(
    config: TranscriptionConfig,
    out: Path,
    settings: SpeechRecogniserConfig,
    parts: Mapping[str, AsrPart],
    *,
    channel: Channel,
    start: Path | None,
) -> _Job:
    """Put what is trained on where every process can read it."""
    mean, istd = feature_statistics(parts["train"], most=config.n_statistics)
    content = {
        "mean": mean.tolist(),
        "istd": istd.tolist(),
        "parts": {
            name: [
                asdict(one.utterance)
                | {"path": str(one.utterance.path)}
                | {"said": one.text, "symbols": one.symbols}
                for one in parts[name].spoken
            ]
            for name in ("train", "dev")
        },
    }
    examples, folder = out / ".data" / "examples.json", out / "train"
    examples.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    write_json(examples, content)
    return _Job(
        settings,
        config.training,
        config.objective,
        config.seed,
        examples,
        folder,
        channel,
        config.memory_mib,
        start_from=start,
        resume_from=None,
    )


def _train(job: _Job, *, stopwatch: Stopwatch, progress: Progress) -> SpeechRecogniser:
    progress.stage("training the speech recogniser", job.training.epochs)

    def hear(row: EpochRow) -> None:
        progress.advance(row["epoch"])
        stopwatch.note()

    return together(partial(_fit, job), lambda: _fit(job, on_epoch=hear))


def _fit(job: _Job, *, on_epoch: Callable[[EpochRow], None] | None = None) -> SpeechRecogniser:
    """Train, in every process of a crew."""
    content = json.loads(job.examples.read_text(encoding="utf-8"))
    torch.manual_seed(derive_seed(job.seed, "initialisation"))
    recogniser = SpeechRecogniser(job.recogniser)
    recogniser.model.set_cmvn(torch.tensor(content["mean"]), torch.tensor(content["istd"]))
    if job.start_from is not None:
        load_matching(recogniser, job.start_from)
    train, dev = (
        AsrPart(
            [_spoken(row) for row in content["parts"][name]],
            recogniser.front_end,
            augment=AugmentList(augment, seed=job.seed),
            memory_mib=job.memory_mib,
            channel=job.channel,
        )
        for name, augment in (("train", job.recogniser.augment), ("dev", ()))
    )
    fit_learner(
        recogniser,
        train,
        dev,
        job.training,
        criterion=AsrCriterion(**job.objective.model_dump()),
        judge_dev=partial(judge_transcripts, batch_size=job.training.batch_size),
        seed=job.seed,
        folder=job.folder,
        on_epoch=on_epoch,
        resume_from=job.resume_from,
    )
    return recogniser


def _spoken(row: dict[str, Any]) -> Spoken:
    text, symbols = row.pop("said"), tuple(row.pop("symbols"))
    return Spoken(Utterance(**row | {"path": Path(row["path"])}), text, symbols)


def _trained(out: Path) -> SpeechRecogniser | None:
    """Load the recogniser of a run whose training is over."""
    if not (out / "model" / "config.json").exists():
        return None
    return load_speech_recogniser(out / "model")


def _describe_part(part: AsrPart) -> dict[str, Any]:
    found = [one.utterance for one in part.spoken]
    return {
        "n_utterances": len(found),
        "n_speakers": len({u.speaker for u in found if u.speaker != "unknown"}),
        "n_sentences": len({u.sentence for u in found}),
        "hours": round(sum(u.duration_s or 0.0 for u in found) / 3600, 3),
    }


def _write_transcripts(
    path: Path, recogniser: SpeechRecogniser, part: AsrPart, config: TranscriptionConfig
) -> None:
    """Recognise the test part once, in every way of decoding."""
    heard, _ = hear_part(
        recogniser, part, batch_size=config.training.batch_size, decodings=config.decoding
    )
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "speaker", "seconds", "said", *config.decoding])
    for number, one in enumerate(part.spoken):
        utterance = one.utterance
        texts = [heard[decoding][number].text for decoding in config.decoding]
        writer.writerow(
            [utterance.id, utterance.speaker, f"{utterance.duration_s:.3f}", one.text, *texts]
        )
    write_atomically(path, buffer.getvalue())


def _write_card(out: Path, recogniser: SpeechRecogniser) -> None:
    """Write the model card, with the scores, into the checkpoint."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    rows = "\n".join(
        f"| {name} | {scores['cer']:.1%} | {scores['wer']:.1%} |"
        for name, scores in metrics["decodings"].items()
    )
    words = [word.upper() for word in run["protocol"]["warnings"]]
    if run["corpus"]["synthetic"]:
        words.insert(0, "SYNTHETIC SPEECH")
    warning = f"\n**{' · '.join(words)}**\n" if words else ""
    trained_on = replace(
        recogniser.config,
        trained_on=dict(recogniser.config.trained_on)
        | {"test": {k: v["cer"] for k, v in metrics["decodings"].items()}},
    )
    recogniser.config = trained_on
    recogniser.save(
        out / "model",
        card=f"""# {run["title"]}
{warning}
Writes down what is said. {run["n_parameters"]:,} parameters, {run["n_symbols"]} symbols.

| decoding | character error rate | word error rate |
|---|---|---|
{rows}

On {metrics["n_test"]} utterances of the test part; parts by {run["protocol"]["split"]}, the epoch
by {run["protocol"]["select_by"]} of the dev part.

Trained on {run["corpus"]["title"]}. Licence: {run["corpus"]["licence"]}. Expect more errors with
other voices, microphones and words than those it was trained on. Written by serkit
{run["serkit_version"]}.
""",
    )
