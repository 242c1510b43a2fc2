"""How a trained recognizer fares in noise: every member judged on its own test part, made noisy.

The test part of a member is what its run tested it on, so the judgement is as honest as the run:
who was kept out of training stays out. Each utterance is resampled to the recognizer's rate, noise
is added there at a signal-to-noise ratio over the whole utterance (:mod:`serkit.noise`), and the
result takes the way of every recording, :meth:`Recognizer.predict`.

The noise of an utterance is a function of (seed, kind, corpus, id): the same at every ratio, for
every member, on every machine. *Babble* is the sum of eight utterances of other speakers of the
judged corpus, drawn without regard to their class, so that it tells nothing of the label and holds
no voice of the tested speaker. Where there are no such eight, noise with the spectrum and rhythm of
speech stands in, and a note says so.

The output folder::

    robustness.csv   one row per condition: UAR with its interval over speakers, WAR
    robustness.json  the same, with protocol, settings and notes
    robustness.svg   UAR over the ratio
    predictions/     one predictions table per condition, for 'serkit evaluate' and 'serkit compare'
    .scores/         what each member said under each condition; found again, it is not computed
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

import serkit
from serkit.audio import Waveform, file_sha256, find_sound_files, load_audio, require_sound
from serkit.checkpoints import CONFIG_FILE, WEIGHTS_FILE, find_checkpoint
from serkit.corpora.manifest import import_manifest
from serkit.evaluation.figures import noise_figure
from serkit.evaluation.predictions import Predictions, write_predictions
from serkit.evaluation.runfolder import RunFolder, read_run, refuse_other_task
from serkit.evaluation.scores import jsonable
from serkit.evaluation.significance import Interval
from serkit.evaluation.summary import Summary, summarize
from serkit.experiment.config import ExperimentConfig
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.reading import read_experiment_corpus
from serkit.files import replacing, write_atomically
from serkit.machine import usable_cores
from serkit.noise import babble, hum, loop, mix, pink, speech_shaped, white
from serkit.recognizer import Recognizer, load_recognizer
from serkit.training.data import derive_seed
from serkit.training.lock import FolderLock
from serkit.training.workers import one_thread
from serkit.types import InputError, Utterance

__all__ = ["NOISES", "Condition", "NoiseMaker", "NoisePlan", "Robustness", "measure_robustness"]

RECORDED = "recorded"  # from the user's folder
NOISES = ("babble", "pink", "hum", "white", RECORDED)

UNKNOWN = "unknown"  # what manifests call a speaker they do not name
N_VOICES = 8
MIN_SNR_DB, MAX_SNR_DB = -60.0, 120.0
MAX_PART = 500  # utterances judged at a time, so that memory does not grow with the corpus
FORMAT = 1  # of what lies in .scores; raised when the same settings give other scores


@dataclass(frozen=True, slots=True)
class Condition:
    """One kind of noise at one ratio; ``clean`` without one."""

    kind: str
    snr_db: float | None

    @property
    def name(self) -> str:
        """Kind and ratio, fit for a file name."""
        return self.kind if self.snr_db is None else f"{self.kind}_{self.snr_db:g}dB"


CLEAN = Condition("clean", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisePlan:
    """What to judge under.

    Attributes
    ----------
    kinds
        Of :data:`NOISES`; ``recorded`` takes sound files of ``noise_dir``.
    snrs_db
        Ratios in dB.
    noise_dir
        Folder of the user's own noise recordings.
    seed
        Of the noise.
    all_seeds
        Judge the members of every seed of the run, not only of its first.
    """

    kinds: tuple[str, ...]
    snrs_db: tuple[float, ...]
    noise_dir: Path | None = None
    seed: int = 1
    all_seeds: bool = False

    @classmethod
    def parse(
        cls,
        noise: str,
        snr: str,
        *,
        noise_dir: Path | None = None,
        seed: int = 1,
        all_seeds: bool = False,
    ) -> NoisePlan:
        """Read lists separated by commas; a folder of noise adds the kind ``recorded``.

        Raises
        ------
        InputError
            If a kind is unknown, a ratio is no number from -60 to 120, or ``recorded`` has no
            folder.

        Examples
        --------
        >>> NoisePlan.parse("pink,hum", "20,0").kinds
        ('pink', 'hum')
        """
        kinds = _words(noise)
        for kind in kinds:
            if kind not in NOISES:
                raise InputError(f"--noise {kind}: unknown noise, expected {', '.join(NOISES)}")
        if noise_dir is not None and RECORDED not in kinds:
            kinds.append(RECORDED)
        if RECORDED in kinds and noise_dir is None:
            raise InputError(f"--noise {RECORDED}: name the folder of recordings with --noise-dir")
        snrs = []
        for word in _words(snr):
            try:
                snrs.append(float(word))
            except ValueError:
                snrs.append(math.nan)
            if not math.isfinite(snrs[-1]):
                raise InputError(f"--snr {word}: not a number, expected dB such as 20,10,5,0")
            if not MIN_SNR_DB <= snrs[-1] <= MAX_SNR_DB:
                raise InputError(
                    f"--snr {word}: expected {MIN_SNR_DB:g} to {MAX_SNR_DB:g} dB, such as 20,10,5,0"
                )
        if not kinds or not snrs:
            raise InputError("nothing to judge under: name a kind with --noise and dB with --snr")
        return cls(
            kinds=tuple(dict.fromkeys(kinds)),
            snrs_db=tuple(dict.fromkeys(snrs)),
            noise_dir=noise_dir,
            seed=seed,
            all_seeds=all_seeds,
        )

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Clean first, then kind by kind."""
        return (CLEAN, *(Condition(kind, snr) for kind in self.kinds for snr in self.snrs_db))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A recognizer and utterances that it is judged by; their ``label`` is the truth."""

    checkpoint: Path
    fold: str
    seed: int
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who is judged, on what, and what must be said about it.

    ``said`` is what the run itself recorded of these utterances, where there is a run.
    """

    parts: tuple[Part, ...]
    title: str
    protocol: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    said: Predictions | None = None

    @property
    def utterances(self) -> list[Utterance]:
        """Every utterance once."""
        return list({(u.corpus, u.id): u for p in self.parts for u in p.utterances}.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Robustness:
    """Scores under every condition, in the order of the plan, and where the files are."""

    folder: Path
    subject: Subject
    settings: Mapping[str, Any]
    summaries: Mapping[Condition, Summary]
    notes: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One record per condition; scores are fractions."""
        return [
            {
                "noise": condition.kind,
                "snr_db": condition.snr_db,
                "uar": summary.uar.value,
                "war": summary.war.value,
                "ci_low": summary.uar.low,
                "ci_high": summary.uar.high,
                "n": summary.scores.n_utterances,
            }
            for condition, summary in self.summaries.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give plain lists, numbers and strings, ready for JSON."""
        clean = self.summaries[CLEAN]
        plain: dict[str, Any] = jsonable(
            {
                "serkit_version": serkit.__version__,
                "title": self.subject.title,
                "protocol": self.subject.protocol,
                "warnings": self.subject.warnings,
                "settings": self.settings,
                "interval": {
                    "level": clean.uar.level,
                    "cluster": clean.uar.cluster,
                    "n_clusters": clean.uar.n_clusters,
                    "note": clean.uar.note,
                },
                "majority_baseline": {
                    "label": clean.scores.majority.label,
                    "uar": clean.scores.majority.uar,
                    "war": clean.scores.majority.war,
                },
                "conditions": self.rows(),
                "notes": self.notes,
            }
        )
        return plain

    def table(self) -> list[dict[str, str]]:
        """One record per condition for the screen, in percent."""
        return [
            {
                "noise": row["noise"],
                "SNR dB": "" if row["snr_db"] is None else f"{row['snr_db']:g}",
                "UAR": f"{100 * row['uar']:.1f}",
                "interval": f"{100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f}",
                "WAR": f"{100 * row['war']:.1f}",
                "n": str(row["n"]),
            }
            for row in self.rows()
        ]

    def lines(self) -> list[str]:
        """Say the baseline, what limits the claim, and where the figure is."""
        majority = self.summaries[CLEAN].scores.majority
        lines = [f"always '{majority.label}': UAR {100 * majority.uar:.1f}"]
        lines += [f"mind: {word}" for word in (*self.subject.warnings, *self.notes)]
        return [*lines, f"figure: {self.folder / 'robustness.svg'}"]

    def figure(self) -> str:
        """Draw UAR over the ratio, as SVG."""
        lines: dict[str, dict[float, Interval]] = {}
        for condition, summary in self.summaries.items():
            if condition.snr_db is not None:
                lines.setdefault(condition.kind, {})[condition.snr_db] = summary.uar
        clean = self.summaries[CLEAN]
        words = f" ({', '.join(self.subject.warnings)})" if self.subject.warnings else ""
        return noise_figure(
            lines,
            clean=clean.uar,
            baseline_uar=clean.scores.majority.uar,
            title=f"{self.subject.title} in noise{words}",
        )


def measure_robustness(
    run: Path,
    plan: NoisePlan,
    *,
    out: Path | None = None,
    corpora_dir: Path | None = None,
    manifest: Path | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
) -> Robustness:
    """Judge the members of a run, or one checkpoint, clean and in noise.

    Parameters
    ----------
    run
        A run folder; with ``manifest`` whatever :func:`serkit.checkpoints.find_checkpoint` finds.
    out
        Output folder; default: ``robustness`` in the run folder.
    corpora_dir
        Where the corpus of the run is looked for if its sound is no longer where it was.
    manifest
        Table of utterances to judge one checkpoint by; nothing keeps apart who it was trained on.
    n_jobs
        Utterances at a time; default: one per core.

    Raises
    ------
    InputError
        If the run holds no members, these are multi-label or hear no sound, or sound, noise or
        the output folder cannot be used.
    """
    progress = progress or Quiet()
    if manifest is None:
        subject = _subject_of_run(run, plan, corpora_dir=corpora_dir, progress=progress)
    else:
        subject = _subject_of_checkpoint(run, manifest)
        if out is None:
            raise InputError("--manifest: name the folder to write with --out")
    out = out or run / "robustness"
    noises = NoiseMaker(subject.utterances, seed=plan.seed, files=_noise_files(plan))
    with FolderLock(_made(out)) as lock, one_thread():  # the utterances are the parallelism
        lock.take()
        stored = [
            {condition: out / ".scores" / f"{key}.npy" for condition, key in keys.items()}
            for keys in _keys(subject, plan, noises)
        ]
        with ThreadPoolExecutor(n_jobs or usable_cores()) as pool:
            _judge(subject.parts, stored, noises, pool, progress)
        robustness = _collect(out, subject, plan, noises, stored)
        _write(robustness)
    return robustness


class NoiseMaker:
    """Makes the noise of any utterance of a corpus.

    Parameters
    ----------
    utterances
        What babble is drawn from.
    seed
        With kind, corpus and id of an utterance it decides the noise.
    files
        Recordings for the kind ``recorded``.
    """

    def __init__(
        self, utterances: Sequence[Utterance], *, seed: int, files: Sequence[Path] = ()
    ) -> None:
        self.seed = seed
        self.files = tuple(files)
        known = [u for u in utterances if u.speaker != UNKNOWN]
        self._others = {
            speaker: [u for u in known if _speaker(u) != speaker]
            for speaker in dict.fromkeys(map(_speaker, known))
        }

    def voices(self, utterance: Utterance) -> list[Utterance]:
        """Draw the utterances whose sum is babble for this one.

        They are of other speakers; none where these have too few utterances, or where it is not
        known who speaks.
        """
        others = self._others.get(_speaker(utterance), [])
        if len(others) < N_VOICES:
            return []
        chosen = self._generator("voices", utterance).choice(len(others), N_VOICES, replace=False)
        return [others[i] for i in chosen]

    def make(
        self, kind: str, utterance: Utterance, n_samples: int, recognizer: Recognizer
    ) -> Waveform:
        """Make ``n_samples`` of a kind of noise for an utterance, at the recognizer's rate."""
        rate, generator = recognizer.sample_rate, self._generator(kind, utterance)
        if kind == "white":
            return white(n_samples, generator)
        if kind == "pink":
            return pink(n_samples, rate, generator)
        if kind == "hum":
            return hum(n_samples, rate, generator)
        if kind == RECORDED:
            path = self.files[generator.integers(len(self.files))]
            return loop(load_audio(path, sample_rate=rate)[0], n_samples, generator)
        voices = [_load(voice, recognizer) for voice in self.voices(utterance)]
        if not voices:
            return speech_shaped(n_samples, rate, generator)
        return babble(voices, n_samples, generator)

    def _generator(self, what: str, utterance: Utterance) -> np.random.Generator:
        seed = derive_seed(self.seed, "noise", what, utterance.corpus, utterance.id)
        return np.random.default_rng(seed)


def _subject_of_run(
    run: Path, plan: NoisePlan, *, corpora_dir: Path | None, progress: Progress
) -> Subject:
    refuse_other_task(run)
    if run.exists() and not (run / "members").is_dir():
        raise InputError(
            f"{run}: no folder 'members', so no trained fold to judge: give the run folder that "
            "'serkit train' wrote, or judge a checkpoint by a table with --manifest"
        )
    folder = read_run(run)
    table = folder.predictions
    if table.multi_label:
        raise InputError(f"{run}: several classes per utterance, expected one: not judged in noise")
    seeds = table.seed_values if plan.all_seeds else (int(table.seeds[0]),)
    _load_judgeable(find_checkpoint(_member(run, table.fold_values[0], seeds[0])))
    tested = _tested(folder, corpora_dir=corpora_dir, progress=progress)
    parts: list[Part] = []
    for seed in seeds:
        for fold in table.fold_values:
            rows = np.flatnonzero((table.folds == fold) & (table.seeds == seed))
            checkpoint = find_checkpoint(_member(run, fold, seed))
            parts += _parts(checkpoint, fold, seed, [tested[row] for row in rows])
    return Subject(
        parts=tuple(parts),
        title=folder.title,
        protocol=folder.protocol_words,
        warnings=folder.warning_words,
        said=table,
    )


def _subject_of_checkpoint(name: Path, manifest: Path) -> Subject:
    checkpoint = find_checkpoint(name)
    recognizer = _load_judgeable(checkpoint)
    classes = recognizer.labels.classes
    table = import_manifest(manifest)
    judged = [utterance for utterance in table if utterance.label in classes]
    if not judged:
        raise InputError(
            f"{manifest}: no utterance has a label among the classes {', '.join(classes)}: name "
            "them as the checkpoint does"
        )
    notes = ["nothing keeps apart who the checkpoint was trained on: speakers may be shared"]
    if len(judged) < len(table):
        notes.append(
            f"{len(table) - len(judged)} of {len(table)} utterances have a label that is not "
            "among the classes, and are left out"
        )
    trained_on = recognizer.config.trained_on
    return Subject(
        parts=tuple(_parts(checkpoint, "all", 0, judged)),
        title=f"{trained_on.get('name', recognizer.config.system)} on {manifest.stem}",
        protocol="one checkpoint on a table",
        warnings=("training speakers not kept apart",),
        notes=tuple(notes),
    )


def _member(run: Path, fold: str, seed: int) -> Path:
    return run / "members" / f"{fold}-seed{seed}" / "model"


def _load_judgeable(checkpoint: Path) -> Recognizer:
    """Load a recognizer, and refuse one whose answers in noise would mean nothing."""
    recognizer = load_recognizer(checkpoint)
    if recognizer.config.multi_label:
        raise InputError(
            f"{checkpoint}: several classes per utterance, expected one: not judged in noise"
        )
    if not recognizer.listens:
        raise InputError(
            f"{checkpoint}: hears no sound (front_end.name = 'none'), so noise cannot change its "
            "answers: judge a recognizer that listens"
        )
    return recognizer


def _parts(
    checkpoint: Path, fold: str, seed: int, utterances: Sequence[Utterance]
) -> Iterator[Part]:
    for first in range(0, len(utterances), MAX_PART):
        yield Part(
            checkpoint=checkpoint,
            fold=fold,
            seed=seed,
            utterances=tuple(utterances[first : first + MAX_PART]),
        )


def _tested(folder: RunFolder, *, corpora_dir: Path | None, progress: Progress) -> list[Utterance]:
    """Find the sound of every row of a run's predictions table."""
    table = folder.predictions
    paths, starts, ends, transcripts = (
        table.extras.get(name, ("",) * len(table))
        for name in ("path", "start_s", "end_s", "transcript")
    )
    utterances = [
        Utterance(
            id=str(table.ids[row]),
            path=Path(paths[row]),
            corpus=str(table.corpora[row]),
            label=str(table.truth[row]),
            speaker=str(table.speakers[row]) or UNKNOWN,
            start_s=float(starts[row] or 0),
            end_s=float(ends[row]) if ends[row] else None,
            transcript=transcripts[row],
        )
        for row in range(len(table))
    ]
    if all(utterance.path.is_file() for utterance in utterances):
        return utterances
    try:
        config = ExperimentConfig.model_validate(folder.config)
    except ValidationError:
        raise InputError(
            f"{folder.path}: the sound is not where predictions.csv says, and config.json does "
            "not tell the corpus: put the sound back, or train again"
        ) from None
    part = read_experiment_corpus(config, corpora_dir=corpora_dir, progress=progress)
    found = {(u.corpus, u.id): u for u in part.utterances if u.path.is_file()}
    for number, utterance in enumerate(utterances):
        source = found.get((utterance.corpus, utterance.id))
        if source is None:
            raise InputError(
                f"{folder.path}: no sound of utterance {utterance.id}: it is neither where "
                "predictions.csv says nor in the corpus"
            )
        utterances[number] = replace(
            utterance, path=source.path, start_s=source.start_s, end_s=source.end_s
        )
    return utterances


def _noise_files(plan: NoisePlan) -> list[Path]:
    if plan.noise_dir is None:
        return []
    files = find_sound_files(plan.noise_dir)
    if not files:
        raise InputError(f"--noise-dir {plan.noise_dir}: no sound files in this folder")
    for path in files:
        require_sound(load_audio(path)[0], path)
    return files


def _made(out: Path) -> Path:
    try:
        for folder in (out / "predictions", out / ".scores"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    return out


def _keys(subject: Subject, plan: NoisePlan, noises: NoiseMaker) -> list[dict[Condition, str]]:
    """Name each part's scores under each condition by all that decides them."""
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            try:
                digests[path] = file_sha256(path)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        return digests[path]

    def sound(utterance: Utterance) -> list[Any]:
        u = utterance
        return [u.corpus, u.id, digest(u.path), u.start_s, u.end_s]

    def sources(kind: str, part: Part) -> list[Any]:
        if kind == "babble":
            return [[sound(voice) for voice in noises.voices(u)] for u in part.utterances]
        return [digest(path) for path in noises.files] if kind == RECORDED else []

    keys: list[dict[Condition, str]] = []
    for part in subject.parts:
        judged = [
            FORMAT,
            serkit.__version__,
            [digest(part.checkpoint / name) for name in (CONFIG_FILE, WEIGHTS_FILE)],
            [sound(u) for u in part.utterances],
        ]
        made: dict[str, list[Any]] = {k: [plan.seed, sources(k, part)] for k in plan.kinds}
        keys.append(
            {c: _hashed([judged, c.kind, c.snr_db, made.get(c.kind)]) for c in plan.conditions}
        )
    return keys


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _judge(
    parts: Sequence[Part],
    stored: Sequence[Mapping[Condition, Path]],
    noises: NoiseMaker,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    """Store the scores of every part under every condition, except those that are there."""
    n_conditions = len(stored[0])
    progress.stage("judging in noise", n_conditions * sum(len(p.utterances) for p in parts))
    done = 0
    for part, paths in zip(parts, stored, strict=True):
        missing = [condition for condition, path in paths.items() if not path.exists()]
        done += (n_conditions - len(missing)) * len(part.utterances)
        progress.advance(done)
        if not missing:
            continue
        recognizer = load_recognizer(part.checkpoint)
        speech = list(pool.map(_load, part.utterances, repeat(recognizer)))
        for kind, conditions in groupby(missing, key=lambda condition: condition.kind):
            noise = speech  # not added to the clean ones
            if kind != CLEAN.kind:
                lengths = map(len, speech)
                made = pool.map(
                    noises.make, repeat(kind), part.utterances, lengths, repeat(recognizer)
                )
                noise = list(made)
            for condition in conditions:
                scores = []
                for row in pool.map(
                    _score, repeat(recognizer), repeat(condition), part.utterances, speech, noise
                ):
                    scores.append(row)
                    done += 1
                    progress.advance(done)
                with replacing(paths[condition]) as file, open(file, "wb") as opened:
                    np.save(opened, np.asarray(scores, dtype=np.float32))


def _load(utterance: Utterance, recognizer: Recognizer) -> Waveform:
    """Read an utterance at the recognizer's rate."""
    u = utterance
    waveform, _ = load_audio(
        u.path,
        sample_rate=recognizer.sample_rate,
        start_s=u.start_s,
        end_s=u.end_s,
        channel=recognizer.config.channel,
    )
    require_sound(waveform, u.path)
    return waveform


def _score(
    recognizer: Recognizer,
    condition: Condition,
    utterance: Utterance,
    speech: Waveform,
    noise: Waveform,
) -> list[float]:
    heard = speech if condition.snr_db is None else mix(speech, noise, condition.snr_db)
    prediction = recognizer.predict(
        heard, recognizer.sample_rate, name=utterance.id, text=utterance.transcript
    )
    return list(prediction.scores.values())


def _collect(
    out: Path,
    subject: Subject,
    plan: NoisePlan,
    noises: NoiseMaker,
    stored: Sequence[Mapping[Condition, Path]],
) -> Robustness:
    """Join what was stored into one predictions table per condition, and judge each."""
    recognizer = load_recognizer(subject.parts[0].checkpoint)
    classes = recognizer.labels.classes
    summaries: dict[Condition, Summary] = {}
    notes = [*subject.notes]
    for kind in NOISES:  # of an earlier call
        for path in (out / "predictions").glob(f"{kind}_*dB.csv"):
            path.unlink()
    for condition in plan.conditions:
        scores = np.concatenate([np.load(paths[condition]) for paths in stored]).astype(np.float64)
        table = _table(subject, classes, scores / scores.sum(1, keepdims=True))
        write_predictions(out / "predictions" / f"{condition.name}.csv", table)
        summaries[condition] = summarize(table, name=condition.name)
        if condition == CLEAN:
            notes += _differences(subject, table)
    n_lonely = sum(not noises.voices(u) for u in subject.utterances)
    if "babble" in plan.kinds and n_lonely:
        notes.append(
            f"babble: {n_lonely} of {len(subject.utterances)} utterances have no {N_VOICES} of "
            "other known speakers beside them; noise with the spectrum and rhythm of speech stands "
            "in"
        )
    settings = {
        "noises": plan.kinds,
        "snrs_db": plan.snrs_db,
        "noise_dir": None if plan.noise_dir is None else str(plan.noise_dir),
        "n_noise_files": len(noises.files),
        "noise_seed": plan.seed,
        "seeds": list(dict.fromkeys(part.seed for part in subject.parts)),
        "sample_rate": recognizer.sample_rate,
        "snr": "10 log10 of mean squares over the whole utterance, after resampling",
    }
    return Robustness(
        folder=out, subject=subject, settings=settings, summaries=summaries, notes=tuple(notes)
    )


def _table(subject: Subject, classes: Sequence[str], scores: NDArray[np.float64]) -> Predictions:
    rows = [(u, part) for part in subject.parts for u in part.utterances]
    speakers = [u.speaker for u, _ in rows]
    if set(speakers) == {UNKNOWN}:
        speakers = [""] * len(rows)  # else the evaluation would count one speaker
    return Predictions.of(
        ids=[u.id for u, _ in rows],
        truth=[str(u.label) for u, _ in rows],
        classes=classes,
        scores=scores,
        corpora=[u.corpus for u, _ in rows],
        speakers=speakers,
        folds=[part.fold for _, part in rows],
        seeds=[part.seed for _, part in rows],
        extras={
            "path": [str(u.path) for u, _ in rows],
            "start_s": [f"{u.start_s:g}" for u, _ in rows],
            "end_s": ["" if u.end_s is None else f"{u.end_s:g}" for u, _ in rows],
        },
    )


def _differences(subject: Subject, clean: Predictions) -> list[str]:
    """Say where the clean judgement is not the one that the run recorded."""
    if subject.said is None:
        return []
    said = subject.said
    recorded = dict(
        zip(zip(said.keys, said.seeds.tolist(), strict=True), said.predicted, strict=True)
    )
    keys = zip(clean.keys, clean.seeds.tolist(), strict=True)
    n = sum(recorded[key] != label for key, label in zip(keys, clean.predicted, strict=True))
    if not n:
        return []
    return [
        f"clean: {n} of {len(clean)} predictions differ from the run's own: long recordings are "
        "served in stretches, else the sound or serkit has changed since"
    ]


def _write(robustness: Robustness) -> None:
    out, rows = robustness.folder, robustness.rows()
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_atomically(out / "robustness.csv", buffer.getvalue())
    text = json.dumps(robustness.to_dict(), indent=2, ensure_ascii=False)
    write_atomically(out / "robustness.json", text + "\n")
    write_atomically(out / "robustness.svg", robustness.figure())


def _speaker(utterance: Utterance) -> tuple[str, str]:
    return utterance.corpus, utterance.speaker


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
