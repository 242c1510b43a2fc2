"""``serkit demo``: the whole path on the embedded synthetic corpus, in two minutes.

Six voices speak eight sentences in four emotions; a recognizer is judged leave-one-speaker-out,
reported, trained once more on everything, and asked about a new sentence by a new voice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from serkit.corpora import synthetic
from serkit.experiment.config import load_experiment
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.run import run_experiment
from serkit.experiment.words import headline
from serkit.recognizer import load_recognizer
from serkit.types import Prediction

__all__ = ["DemoResult", "run_demo"]

# Voice and sentence are in no part of the corpus.
_VOICE, _SENTENCE, _INTENDED = synthetic.UNSEEN[0], "s9", "angry"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo has to show."""

    engine: str
    metrics: dict[str, Any]
    report: Path
    model: Path
    unseen: Path
    intended: str
    prediction: Prediction

    def lines(self) -> list[str]:
        """Sentences for people."""
        scores = ", ".join(f"{c} {s:.2f}" for c, s in self.prediction.scores.items())
        return [
            f"Leave-one-speaker-out on SYNTHETIC speech ({self.engine}):",
            *headline(self.metrics),
            f"report: {self.report}",
            f"model:  {self.model}",
            f"An unseen voice, {self.unseen.name}, speaking '{self.intended}':",
            f"  recognised as '{self.prediction.label}' ({scores})",
            "Next:",
            f"  serkit predict YOUR.wav --model {self.model}",
            "  serkit train timnet/speaker-independent --set corpus.name=emodb --corpora DIR",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "engine": self.engine,
            "metrics": self.metrics,
            "report": str(self.report),
            "model": str(self.model),
            "unseen": {"intended": self.intended} | json.loads(self.prediction.to_json()),
        }


def run_demo(
    out: Path, *, n_jobs: int | None = None, progress: Progress | None = None
) -> DemoResult:
    """Run the demo into a folder; a finished demo is shown again, a stopped one goes on.

    Raises
    ------
    InputError
        If the folder holds something else.
    """
    progress = progress or Quiet()
    config = load_experiment("timnet/demo")
    report = run_experiment(config, out=out, resume=True, n_jobs=n_jobs, progress=progress)
    unseen = _unseen_clip(out)
    prediction = load_recognizer(out).predict_file(unseen)
    return DemoResult(
        engine=synthetic.engine_name(),
        metrics=json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        report=report,
        model=out / "model",
        unseen=unseen,
        intended=_INTENDED,
        prediction=prediction,
    )


def _unseen_clip(folder: Path) -> Path:
    waveform, sample_rate = synthetic.speak(
        synthetic.SENTENCES[_SENTENCE], _VOICE, _INTENDED, seed=1
    )
    path = folder / f"unseen-{_VOICE}-{_INTENDED}.wav"
    soundfile.write(path, waveform, sample_rate, subtype="PCM_16")
    return path
