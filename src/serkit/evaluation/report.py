"""The report of a run: one self-contained page, one workbook, one file of numbers.

:func:`write_report` turns a run folder into ``report.html`` (style, figures and the sound of a few
mistakes inside the file; nothing is loaded from elsewhere), ``results.xlsx`` and ``metrics.json``.
The page is written for somebody who was not there: what was trained on what and how it was tested
comes first, with every word that limits the claim in plain sight. Where an utterance may have
several classes, the page shows what has a meaning there: no confusion matrix, no calibration, no
map and no mistakes.

Sound: up to six mistakes are embedded as 16-bit mono WAV so that they can be listened to. Mind the
corpus's licence before passing such a page on, or leave them out with ``audio=False``.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.audio import load_audio
from serkit.evaluation import figures
from serkit.evaluation.metrics import METRIC_NAMES, row_shares
from serkit.evaluation.multilabel import SET_METRIC_NAMES, SetGroup, SetScores
from serkit.evaluation.predictions import Predictions
from serkit.evaluation.runfolder import RunFolder, read_run
from serkit.evaluation.scores import GroupScores, Scores, Spread
from serkit.evaluation.significance import Interval
from serkit.evaluation.summary import (
    OptimismRow,
    SetSummary,
    Summary,
    findings,
    findings_of_sets,
    judge,
    optimism,
    percent,
    summary_json,
)
from serkit.evaluation.workbook import write_workbook
from serkit.files import write_atomically
from serkit.types import InputError

__all__ = ["Mistake", "confident_mistakes", "render_page", "write_report"]

MAX_MISTAKES = 6
MAX_WAV_BYTES = 220_000  # grows by a third as base64, to just under 300 kB of page
_CLIP_RATES = (16_000, 8_000)  # Hz; telephone quality for what would be too long otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A wrong answer given with confidence.

    ``audio`` is a data URI, or empty, and then ``audio_note`` says why; it also says where a clip
    was shortened.
    """

    id: str
    speaker: str
    fold: str
    truth: str
    predicted: str
    score: float
    truth_score: float
    transcript: str
    audio: str
    audio_note: str


def write_report(run_dir: Path | str, *, audio: bool = True) -> Path:
    """Write report.html, results.xlsx and metrics.json into a run folder.

    Parameters
    ----------
    run_dir
        A run folder; only its predictions.csv is required, what else is missing is named in the
        report.
    audio
        Whether to embed the sound of confident mistakes.

    Returns
    -------
    path of report.html

    Raises
    ------
    InputError
        If ``run_dir`` is no folder, or a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if run_dir.is_file():
        raise InputError(
            f"{run_dir}: is a file, a report needs a run folder; use 'serkit evaluate' for a table"
        )
    folder = read_run(run_dir)
    summary = judge(folder.predictions, name=folder.name)
    rows = optimism(folder.curves) if folder.curves is not None and folder.selected_on_test else ()
    write_workbook(run_dir / "results.xlsx", folder, summary)
    numbers = summary_json(
        summary, run=_run_in_short(folder), optimism_rows=[asdict(row) for row in rows]
    )
    text = json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"
    write_atomically(run_dir / "metrics.json", text)
    shared = _shared(folder, summary, rows)
    if isinstance(summary, SetSummary):
        page = render_page("multilabel.html.j2", shared | _of_sets(summary))
    else:
        mistakes = confident_mistakes(folder.predictions, run_dir=run_dir, audio=audio)
        page = render_page("report.html.j2", shared | _of_classes(folder, summary, mistakes))
    write_atomically(run_dir / "report.html", page)
    return run_dir / "report.html"


def confident_mistakes(
    predictions: Predictions,
    *,
    run_dir: Path | None = None,
    audio: bool = True,
    n: int = MAX_MISTAKES,
) -> tuple[Mistake, ...]:
    """Find the utterances that are wrong with the highest score, averaged over seeds.

    Parameters
    ----------
    run_dir
        Where relative paths of sound files start.
    audio
        Whether to decode and embed their sound.
    n
        How many at most.

    Returns
    -------
    mistakes, most confident first; empty where the table holds no scores
    """
    if predictions.scores is None:
        return ()
    first_row: dict[str, int] = {}
    members: dict[str, list[int]] = {}
    for row, key in enumerate(predictions.keys):
        first_row.setdefault(key, row)
        members.setdefault(key, []).append(row)
    truth = predictions.truth_index
    wrong = []
    for key, row in first_row.items():
        scores = predictions.scores[members[key]].mean(axis=0)
        best = int(scores.argmax())
        if best != truth[row]:
            wrong.append((float(scores[best]), row, best, float(scores[truth[row]])))
    wrong.sort(key=lambda item: (-item[0], item[1]))
    mistakes = []
    for score, row, best, truth_score in wrong[:n]:
        sound, note = _clip(predictions, row, run_dir) if audio else ("", "sound left out")
        mistakes.append(
            Mistake(
                id=str(predictions.ids[row]),
                speaker=str(predictions.speakers[row]),
                fold=str(predictions.folds[row]),
                truth=str(predictions.truth[row]),
                predicted=predictions.classes[best],
                score=score,
                truth_score=truth_score,
                transcript=_extra(predictions, "transcript", row),
                audio=sound,
                audio_note=note,
            )
        )
    return tuple(mistakes)


def _extra(predictions: Predictions, name: str, row: int) -> str:
    column = predictions.extras.get(name)
    return column[row] if column else ""


def _clip(predictions: Predictions, row: int, run_dir: Path | None) -> tuple[str, str]:
    """Sound of one utterance as a data URI, and a remark."""
    written = _extra(predictions, "path", row)
    if not written:
        return "", "the table names no sound file"
    path = Path(written)
    if not path.is_absolute() and run_dir is not None:
        path = run_dir / path
    try:
        start_s, end_s = (_extra(predictions, name, row) for name in ("start_s", "end_s"))
        waveform, rate = load_audio(
            path,
            sample_rate=_CLIP_RATES[0],
            start_s=float(start_s) if start_s else 0.0,
            end_s=float(end_s) if end_s else None,
        )
        note = ""
        max_samples = (MAX_WAV_BYTES - 44) // 2  # 44 bytes of header, 2 per sample
        if len(waveform) > max_samples:
            from serkit.audio import resample

            waveform, rate = resample(waveform, rate, _CLIP_RATES[1]), _CLIP_RATES[1]
        if len(waveform) > max_samples:
            note = f"first {max_samples / rate:.0f} of {len(waveform) / rate:.0f} s"
            waveform = waveform[:max_samples]
    except (InputError, OSError, ValueError) as error:
        # The page shows no paths of the machine it was made on.
        return "", f"not playable: {str(error).replace(str(path), Path(written).name)}"
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(waveform, -1, 1), rate, format="WAV", subtype="PCM_16")
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", note


def _run_in_short(folder: RunFolder) -> dict[str, Any]:
    return {
        "title": folder.title,
        "system": folder.system,
        "corpus": dict(folder.corpus) or {"name": folder.corpus_name},
        "protocol": dict(folder.protocol),
        "warnings": folder.warning_words,
        "n_parameters": folder.n_parameters,
        "coverage": folder.coverage,
        "not_judged": folder.not_judged,
        "experts": dict(folder.experts),
        "heard": dict(folder.heard),
        "commit": folder.run.get("commit"),
        "serkit_version": folder.run.get("serkit_version"),
        "missing_files": [name for name, _ in folder.missing],
    }


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """Fill one of the templates in, such as ``report.html.j2``."""
    from importlib.resources import files

    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    def load(name: str) -> str:
        return files("serkit.evaluation").joinpath("templates", name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["spread"] = _spread
    environment.filters["svg"] = Markup  # our own drawings, whose text is escaped already
    return environment.get_template(template).render(content)


def _shared(
    folder: RunFolder, summary: Summary | SetSummary, optimism_rows: Sequence[OptimismRow]
) -> dict[str, Any]:
    """Gather what every page shows, whether an utterance has one class or several."""
    scores = summary.scores
    sets = isinstance(summary, SetSummary)
    names: Mapping[Any, str] = SET_METRIC_NAMES if sets else METRIC_NAMES
    intervals: Mapping[Any, Interval] = summary.intervals
    pooled: Mapping[Any, Spread] = scores.pooled
    curves = folder.curves
    dev_name = "test fold" if folder.selected_on_test else "dev"
    # What the columns dev_uar and dev_war of the curves hold.
    curve_names = ("mean recall (UA)", "exact match (WA)") if sets else ("UAR (UA)", "WAR (WA)")
    return {
        "folder": folder,
        "version": folder.run.get("serkit_version"),
        "trained": str(folder.run.get("started") or "")[:10],
        "scores": scores,
        "sentence": _sentence(folder, scores),
        "facts": _facts(folder, scores),
        "badges": _badges(folder),
        "cautions": _cautions(folder, scores.notes, next(iter(intervals.values()))),
        "headline": [
            _headline(names[key], interval, pooled[key], getattr(scores.majority, key))
            for key, interval in intervals.items()
        ],
        "interval": next(iter(intervals.values())),
        "metric_names": names,
        "folds": _fold_rows(scores, names),
        "curves": (
            ""
            if curves is None
            else figures.curves_figure(curves, dev_name=dev_name, score_name=curve_names[0])
        ),
        "n_curves": 0 if curves is None else len(curves.members()),
        "curve_names": curve_names,
        "dev_name": dev_name,
        "experts": folder.experts,
        "heard": folder.heard,
        "optimism": optimism_rows,
        "environment": _environment(folder),
        "config": json.dumps(folder.config, indent=2, ensure_ascii=False) if folder.config else "",
    }


def _of_classes(folder: RunFolder, summary: Summary, mistakes: Sequence[Mistake]) -> dict[str, Any]:
    """Gather what only the page of a table with one class per utterance shows."""
    scores = summary.scores
    embedding, embedding_words = "", ""
    if folder.embeddings is not None:
        embedding, embedding_words = figures.embedding_figure(folder.embeddings, folder.predictions)
    speakers = ""
    if len(scores.per_speaker) > 1:
        speakers = figures.speakers_figure(
            scores.per_speaker, pooled_uar=scores.uar, baseline_uar=scores.majority.uar
        )
    return {
        "findings": findings(summary),
        "shares": row_shares(scores.confusion).tolist(),
        "counts": scores.confusion.tolist(),
        "averages": _averages(summary),
        "speakers": speakers,
        "reliability": figures.reliability_figure(folder.predictions),
        "confidence": _confidence(folder.predictions),
        "embedding": embedding,
        "embedding_words": embedding_words,
        "mistakes": mistakes,
    }


def _of_sets(summary: SetSummary) -> dict[str, Any]:
    """Gather what only the page of a multi-label table shows."""
    return {"findings": findings_of_sets(summary)}


def _sentence(folder: RunFolder, scores: Scores | SetScores) -> str:
    """Say what this is, in one line."""
    seeds = len(scores.seeds)
    parts = [
        f"{folder.system} on {folder.corpus_title}" if folder.run else folder.corpus_title,
        folder.split or "protocol unknown",
        folder.selection,
        f"{seeds} seed{'' if seeds == 1 else 's'}",
    ]
    return ", ".join(part for part in parts if part) + "."


def _facts(folder: RunFolder, scores: Scores | SetScores) -> list[tuple[str, str]]:
    facts = [
        ("test utterances", f"{scores.n_utterances:,}"),
        ("speakers", str(scores.n_speakers) if scores.n_speakers else "unknown"),
        ("folds", str(scores.n_folds)),
        ("seeds", str(len(scores.seeds))),
        ("classes", str(len(scores.classes))),
    ]
    facts = [(words.removesuffix("s") if n == "1" else words, n) for words, n in facts]
    if folder.n_parameters is not None:
        facts.append(("parameters", f"{folder.n_parameters:,}"))
    if isinstance(scores, SetScores):
        facts.append(("classes per utterance", f"{scores.n_true:.2f}"))
    elif scores.calibration_error is not None:
        facts.append(("calibration error", f"{percent(scores.calibration_error)} %"))
    return facts


def _badges(folder: RunFolder) -> list[tuple[str, str]]:
    """List the words of the badge row; ``bad`` ones limit the claim, ``good`` ones support it."""
    badges = [(word, "bad") for word in folder.warning_words]
    if not folder.protocol:
        badges.append(("protocol unknown", "bad"))
    words = folder.warning_words
    if folder.protocol.get("speaker_independent") and "speaker-dependent" not in words:
        badges.append(("speaker-independent", "good"))
    if folder.protocol.get("selection") in ("best_dev", "last") and not folder.selected_on_test:
        badges.append(("test part unseen until the end", "good"))
    if folder.leaks is not None and folder.leaks.get("ok"):
        badges.append(("leak check passed", "good"))
    return badges


def _cautions(folder: RunFolder, notes: Sequence[str], interval: Interval) -> list[str]:
    """Sentences that explain the warning words and everything suspicious about the numbers."""
    words = folder.warning_words
    cautions = []
    if "SYNTHETIC" in words:
        cautions.append(
            "The speech is synthetic: the score shows that the machinery works, not how well the "
            "system would do with people."
        )
    if "speaker-dependent" in words:
        cautions.append(
            "Speaker-dependent: the same voices were trained on and tested on. New speakers will "
            "be recognised less well."
        )
    if folder.selected_on_test:
        cautions.append(
            "Selected on test: the epoch was chosen by looking at the test fold, so the score is "
            "optimistic."
        )
    if "incomplete corpus" in words:
        check = str(folder.corpus.get("check") or "").rstrip(".")
        cautions.append(
            "The corpus copy is incomplete"
            + (f" ({check})" if check else "")
            + ": the score cannot be set beside published ones."
        )
    if folder.not_judged:
        cautions.append(f"{folder.not_judged}.")
    cautions += [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes]
    if interval.note:
        cautions.append(f"Intervals are {interval.note}.")
    elif interval.n_clusters < 10:
        cautions.append(f"The intervals rest on {interval.n_clusters} voices and are rough.")
    return cautions


def _confidence(predictions: Predictions) -> str:
    """Say whether the system is surer than it is right, on average."""
    if predictions.scores is None:
        return ""
    sure = float(predictions.scores.max(axis=1).mean())
    right = float((predictions.truth == predictions.predicted).mean())
    if abs(sure - right) < 0.02:
        verdict = "about as sure as it should be"
    else:
        verdict = "surer than it should be" if sure > right else "less sure than it could be"
    return (
        f"On average the system is {percent(sure)}\u00a0% sure and {percent(right)}\u00a0% right: "
        f"{verdict}."
    )


def _headline(name: str, interval: Interval, spread: Spread, baseline: float) -> dict[str, Any]:
    return {
        "name": name,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "level": f"{100 * interval.level:g}",
        "over": f"{interval.n_clusters} {interval.cluster}s",
        "sd": spread.sd,
        "n_seeds": spread.n,
        "baseline": baseline,
    }


def _averages(summary: Summary) -> list[tuple[str, float, float, float]]:
    """List the closing rows of the class table: name, precision, recall, F1."""
    rows = summary.scores.per_class
    pooled = summary.scores.pooled
    seen = [row for row in rows if row.support or row.n_predicted]
    n = sum(row.support for row in rows)
    return [
        (
            "macro average",
            float(np.mean([row.precision for row in seen])),
            pooled["uar"].mean,
            pooled["f1_macro"].mean,
        ),
        (
            "weighted average",
            sum(row.precision * row.support for row in rows) / n,
            pooled["war"].mean,
            pooled["f1_weighted"].mean,
        ),
    ]


def _fold_rows(scores: Scores | SetScores, names: Mapping[Any, str]) -> list[dict[str, Any]]:
    by_fold: dict[str, list[GroupScores | SetGroup]] = {}
    for group in scores.per_fold_seed:
        by_fold.setdefault(group.name, []).append(group)
    return [
        {
            "name": group.name,
            "n": group.n_utterances,
            "absent": group.absent,
            **{
                name: Spread.of([getattr(part, name) for part in by_fold[group.name]])
                for name in names
            },
        }
        for group in scores.per_fold
    ]


def _spread(spread: Spread) -> str:
    """Write mean and deviation in percent.

    >>> _spread(Spread(mean=0.5, sd=0.012, n=2))
    '50.0 ± 1.2'
    """
    if spread.sd is None:
        return percent(spread.mean)
    return f"{percent(spread.mean)} ± {percent(spread.sd)}"


def _environment(folder: RunFolder) -> list[tuple[str, str]]:
    """Lines of the environment table: what is needed to do it again."""
    run = folder.run
    lines: list[tuple[str, str]] = []
    corpus = folder.corpus
    for words, value in (
        ("serkit", run.get("serkit_version")),
        ("commit", run.get("commit")),
        ("started", run.get("started")),
        ("duration", _duration(run.get("duration_s"))),
        ("corpus", corpus.get("title") or corpus.get("name")),
        ("corpus check", corpus.get("check")),
        ("corpus licence", corpus.get("licence")),
        ("corpus citation", corpus.get("citation")),
        ("corpus fingerprint", corpus.get("fingerprint")),
    ):
        if value:
            lines.append((words, str(value)))
    lines += [("corpus quirk", str(quirk)) for quirk in corpus.get("quirks") or ()]
    for group in ("machine", "packages"):
        content = run.get(group)
        if isinstance(content, Mapping):
            text = ", ".join(f"{key} {value}" for key, value in content.items())
            lines.append((group, text))
    return lines


def _duration(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
