"""``serkit demo --clip``: from a video to what its words, its voice and its face say.

Talking faces are drawn and spoken, each with a planted sentiment; a speech recogniser learns their
words from other sentences, features are computed, a model of sentiment is trained on both what was
said and what was heard, and a clip is judged: the user's, or a fresh one of the voice and the face
that neither network has met.

The folder::

    corpus/            the synthetic clips
    words/, asr/       what the speech recogniser learned from, and its run
    features.npz       of the clips, with what was heard in them
    sentiment/         the run of the model of sentiment
    fresh/             the clips of which one is judged
    clip.json, clip.html

The speech recogniser and the model share their speakers: whoever is in the dev or test part was
heard by neither. A second call finds everything there and takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import serkit
from serkit.audio import resample
from serkit.clip_data import read_clip_data
from serkit.corpora import synthetic_clips
from serkit.corpora.labelled_clips import LabelledClip
from serkit.corpora.manifest import write_manifest
from serkit.corpora.synthetic import UNSEEN, VOICES, engine_name, speak
from serkit.evaluation.clip_page import write_clip_page
from serkit.experiment.extraction.config import ExtractConfig
from serkit.experiment.extraction.extract import extract_clips
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.run_folder import write_json
from serkit.experiment.tasks import load_task, run_task
from serkit.experiment.words import headline
from serkit.files import write_atomically
from serkit.inference.clips import ClipPrediction, ClipPredictor, read_clip_features
from serkit.inference.transcribe import Transcriber, TranscriberSettings, open_transcriber
from serkit.sentiment_model import load_sentiment_model
from serkit.types import InputError, Utterance

__all__ = [
    "CAUTION",
    "ClipDemoResult",
    "ClipDemoSize",
    "DemoClips",
    "prepare_clips",
    "run_clip_demo",
]

CAUTION = "trained on synthetic clips: says that the machinery works, not how well people are read"

_PARAMETERS = "clip_demo.json"
_SAMPLE_RATE = 16_000  # Hz
_SPEED = 0.2  # by which voices of the strongest sentiment are faster or slower, as in the clips
_WORDS_AT_ONCE = 4
_SCORES = {"fused": "M", "text": "T", "audio": "A", "vision": "V"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipDemoSize:
    """How much is made and how long is trained.

    Attributes
    ----------
    n_clips
        In all parts together.
    n_spoken
        Utterances that the speech recogniser learns from, is selected and judged by.
    asr_epochs, epochs
        Of the speech recogniser and of the model of sentiment.
    """

    n_clips: int = 120
    n_spoken: int = 400
    asr_epochs: int = 16
    epochs: int = 40


@dataclass(frozen=True, slots=True)
class DemoClips:
    """The synthetic clips, ready to be trained on.

    Attributes
    ----------
    clips
        As their corpus gives them.
    features
        Of :func:`serkit.experiment.extraction.extract.extract_clips`.
    asr
        Run folder of the speech recogniser; ``None`` where nothing can speak words.
    asr_metrics
        Its scores on sentences of its own test part.
    """

    clips: tuple[LabelledClip, ...]
    features: Path
    asr: Path | None
    asr_metrics: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipDemoResult:
    """What the demo has to show.

    Attributes
    ----------
    planted
        Score -> what it was made to be; ``None`` for a clip of the user's.
    said
        The words that were planted.
    """

    engine: str
    metrics: Mapping[str, Any]
    asr_metrics: Mapping[str, Any] | None
    model: Path
    asr: Path | None
    prediction: ClipPrediction
    planted: Mapping[str, float] | None
    said: str | None
    json_file: Path
    page: Path

    def lines(self) -> list[str]:
        """Sentences for people."""
        one = self.prediction
        lines = [
            f"A model of words, voice and face, on SYNTHETIC clips ({self.engine}):",
            *headline(self.metrics),
        ]
        if self.asr_metrics is not None:
            scores = self.asr_metrics["decodings"]["greedy"]
            lines.append(
                f"Its speech recogniser, on sentences it had not heard: character error rate "
                f"{scores['cer']:.1%}, word error rate {scores['wer']:.1%}"
            )
        else:
            lines.append("No eSpeak NG, so nothing was said that could be written down: gold texts")
        lines.append(f"The clip {one.file}:")
        if self.said is not None:
            lines.append(f"  said:    {self.said}")
        lines.append(f"  {_SOURCES[one.text_source]} {one.text or '(nothing)'}")
        if self.planted is not None:
            lines.append(f"  planted: {_in_words(self.planted)}")
        lines.append(
            f"  found:   {_in_words(one.scores)}: {', '.join(map(str, one.labels.values()))}"
        )
        lines += [f"  mind: {warning}" for warning in one.warnings]
        return [
            *lines,
            f"page:  {self.page}",
            f"model: {self.model} ({CAUTION})",
            "Next:",
            f"  {self._next()}",
            "  serkit extract YOUR_CLIPS --corpus table -o features.npz",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "engine": self.engine,
            "caution": CAUTION,
            "metrics": dict(self.metrics),
            "asr": None if self.asr_metrics is None else dict(self.asr_metrics["decodings"]),
            "model": str(self.model),
            "page": str(self.page),
            "said": self.said,
            "planted": None if self.planted is None else dict(self.planted),
            "prediction": self.prediction.to_dict(),
        }

    def _next(self) -> str:
        command = f"serkit predict YOUR.mp4 --model {self.model}"
        if self.asr is None:
            return f'{command} --text "what is said"'
        return f"{command} --transcriber own --transcriber-model {self.asr}"


_SOURCES = {"user": "text:   ", "asr": "heard:  ", "none": "heard:  "}


def run_clip_demo(
    out: Path,
    *,
    clip: Path | None = None,
    seed: int = 0,
    size: ClipDemoSize | None = None,
    cache_dir: Path | None = None,
    n_workers: int = 2,
    progress: Progress | None = None,
) -> ClipDemoResult:
    """Run the demo into a folder; what is done is found there, a stopped one goes on.

    Parameters
    ----------
    clip
        A video, a sound file or a picture; ``None``: a fresh synthetic clip, of which is known what
        was planted.
    seed
        Of the corpus.
    size
        ``None``: two or three minutes of two cores.
    cache_dir
        Of features; ``None``: :func:`serkit.features.cache.default_cache_dir`.
    n_workers
        Processes that compute features; 0: this one.

    Raises
    ------
    InputError
        If the folder holds something else, or the clip cannot be used.
    """
    size, progress = size or ClipDemoSize(), progress or Quiet()
    if clip is not None and not _is_finished(out / "sentiment"):
        _require_usable(clip)
    ready = prepare_clips(
        out, seed=seed, size=size, cache_dir=cache_dir, n_workers=n_workers, progress=progress
    )
    run = _train(ready, out / "sentiment", size, progress)
    progress.stage("judging the clip", 1)
    predictor = ClipPredictor(load_sentiment_model(run), transcriber=_listener(ready.asr))
    fresh = _fresh_clip(out, seed) if clip is None else None
    path = clip if fresh is None else fresh.path
    assert path is not None
    # A voice that babbles cannot be understood: then the words are told.
    text = fresh.text if fresh is not None and ready.asr is None else None
    prediction = predictor.predict(path, text=text)
    planted = None if fresh is None else {n: fresh.labels[key] for n, key in _SCORES.items()}
    write_atomically(out / "clip.json", json.dumps(prediction.to_dict(), indent=2) + "\n")
    page = write_clip_page(
        out / "clip.html",
        prediction.to_dict(),
        title="A fresh synthetic clip" if fresh is not None else path.name,
        caution=CAUTION,
        version=serkit.__version__,
        facts=_facts(run, ready, fresh),
        planted=planted,
    )
    progress.advance(1)
    return ClipDemoResult(
        engine=engine_name(),
        metrics=_metrics(run),
        asr_metrics=ready.asr_metrics,
        model=run / "model",
        asr=ready.asr,
        prediction=prediction,
        planted=planted,
        said=None if fresh is None else fresh.text,
        json_file=out / "clip.json",
        page=page,
    )


def prepare_clips(
    out: Path,
    *,
    seed: int = 0,
    size: ClipDemoSize | None = None,
    cache_dir: Path | None = None,
    n_workers: int = 2,
    progress: Progress | None = None,
) -> DemoClips:
    """Make synthetic clips, teach a speech recogniser their words, and compute their features.

    Raises
    ------
    InputError
        If the folder holds something else.
    """
    size, progress = size or ClipDemoSize(), progress or Quiet()
    _claim(out, {"seed": seed, "engine": engine_name(), "size": asdict(size)})
    progress.stage("drawing and speaking clips", size.n_clips)
    clips = synthetic_clips.generate(
        out / "corpus",
        n_clips=size.n_clips,
        seed=seed,
        progress=lambda done, _: progress.advance(done),
    )
    asr = None
    if engine_name().startswith("eSpeak"):
        asr = _teach_words(out, clips, seed, size, progress)
    features = out / "features.npz"
    if not features.exists():
        extract_clips(
            clips,
            ExtractConfig(),
            features,
            n_workers=n_workers,
            cache_dir=cache_dir,
            transcriber=_listener(asr),
            corpus="synthetic_clips",
            progress=progress,
        )
    return DemoClips(tuple(clips), features, asr, None if asr is None else _metrics(asr))


def _require_usable(clip: Path) -> None:
    """Refuse a clip that will not be judged, before anything is trained to judge it."""
    found = read_clip_features(clip, ExtractConfig().clip_features())
    if "ok" not in (found.audio_status, found.vision_status):
        raise InputError(f"{'; '.join(found.messages)}: nothing to judge")


def _claim(out: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a folder with the demo of other settings, or with anything else."""
    path = out / _PARAMETERS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError):
        found = {}
    if found is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: holds something else: choose a new or empty folder")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(parameters))
    elif found != parameters:
        raise InputError(
            f"{out}: holds a demo of other settings ({path.name}): choose another folder, or "
            "delete this one"
        )


def _teach_words(
    out: Path, clips: list[LabelledClip], seed: int, size: ClipDemoSize, progress: Progress
) -> Path:
    """Train the speech recogniser, with the voices that the model is trained on."""
    run = out / "asr"
    if _is_finished(run):
        return run
    voices = sorted({str(clip.speaker) for clip in clips if clip.part == "train"})
    table = _speak_words(out / "words", voices, seed=seed, n=size.n_spoken, progress=progress)
    config = load_task(
        "asr/clips-demo",
        overrides=[
            f"corpus.manifest={json.dumps(str(table))}",
            f"training.epochs={size.asr_epochs}",
        ],
    )
    run_task(config, out=run, resume=True, progress=progress)
    return run


def _speak_words(folder: Path, voices: list[str], *, seed: int, n: int, progress: Progress) -> Path:
    """Speak sentences as in the clips, and rows of their words of sentiment, in all manners."""
    table = folder / "words.csv"
    if table.exists():
        return table
    progress.stage("speaking words", n)
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng((seed, 1))
    utterances = []
    for number in range(n):
        voice, label = voices[number % len(voices)], float(generator.integers(-5, 6)) / 5
        text = " ".join(generator.permutation(list(synthetic_clips.WORDS))[:_WORDS_AT_ONCE])
        if number // len(voices) % 2:
            text = synthetic_clips.sentence(label, (seed, 1, number))
        manner = "neutral" if label == 0 else "happy" if label > 0 else "sad"
        said, _ = speak(text, voice, manner, seed=number, sample_rate=_SAMPLE_RATE)
        sound = resample(said, round(_SAMPLE_RATE * (1 + _SPEED * label)), _SAMPLE_RATE)
        path = folder / f"{voice}_{number:04d}.wav"
        soundfile.write(path, sound, _SAMPLE_RATE, subtype="PCM_16")
        utterances.append(
            Utterance(
                id=path.stem,
                path=path,
                corpus="synthetic_words",
                label=None,
                speaker=voice,
                transcript=" ".join(text.replace("|", " ").split()),
                sentence=text,
                language="en",
                duration_s=len(sound) / _SAMPLE_RATE,
            )
        )
        progress.advance(number + 1)
    write_manifest(table, utterances)
    return table


def _listener(asr: Path | None) -> Transcriber | None:
    return None if asr is None else open_transcriber("own", TranscriberSettings(model=asr))


def _train(ready: DemoClips, run: Path, size: ClipDemoSize, progress: Progress) -> Path:
    """Train the model of sentiment on what was said and, half the time, on what was heard."""
    if _is_finished(run):
        return run
    overrides = [
        f"data={json.dumps(str(ready.features))}",
        f"training.epochs={size.epochs}",
    ]
    if read_clip_data(ready.features).asr_texts:
        overrides += ["asr.probability=0.5", "asr.judged=asr"]
    config = load_task("mtme/clips-demo", overrides=overrides)
    run_task(config, out=run, resume=True, progress=progress)
    return run


def _fresh_clip(out: Path, seed: int) -> LabelledClip:
    """Make clips that are in no part, and take that of the speaker who was not trained on."""
    n_voices = len(VOICES) - len(UNSEEN)
    clips = synthetic_clips.generate(out / "fresh", n_clips=n_voices, seed=seed + 1)
    return next(clip for clip in clips if clip.part == "test")


def _facts(run: Path, ready: DemoClips, fresh: LabelledClip | None) -> list[tuple[str, str]]:
    metrics = _metrics(run)
    scores = metrics["scores"]
    facts = [
        ("model", f"{metrics.get('title') or 'mtme on synthetic clips'}: {run / 'model'}"),
        ("correlation on the test speaker", f"{scores['Corr']['mean']:.2f}"),
        ("mean error on the test speaker", f"{scores['MAE']['mean']:.2f}"),
    ]
    if ready.asr_metrics is not None:
        rates = ready.asr_metrics["decodings"]["greedy"]
        facts.append(("speech recogniser's character error rate", f"{rates['cer']:.1%}"))
    if fresh is not None:
        facts.append(("what was said", fresh.text))
    return facts


def _is_finished(run: Path) -> bool:
    """Tell whether a run has left its model and its report."""
    return (run / "model" / "config.json").exists() and (run / "report.html").exists()


def _metrics(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def _in_words(scores: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {'–' if value is None or np.isnan(value) else f'{value:+.2f}'}"
        for name, value in scores.items()
    )
