"""One checkpoint judged on a manifest: a predictions table with the truth beside what it says.

Any checkpoint will do, one made of other people's weights too. ``serkit evaluate`` and ``serkit
compare`` read the table. Nothing here knows whom a checkpoint was trained on beyond what it says
itself, so nothing keeps those speakers apart: that is for the manifest to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.audio import load_audio
from serkit.corpora.manifest import import_manifest
from serkit.evaluation.predictions import Predictions, write_predictions
from serkit.experiment.experts import expert_class, expert_truth
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.reading import beside_corpora
from serkit.features.text import PrecomputedText, PrecomputedTextConfig
from serkit.labels import map_label
from serkit.machine import usable_cores
from serkit.recognizer import Recognizer, load_recognizer
from serkit.training.workers import one_thread
from serkit.types import InputError, Utterance

__all__ = ["ScoredManifest", "score_manifest", "score_utterances"]

Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class ScoredManifest:
    """What was written, and what to mind about it.

    Attributes
    ----------
    path
        The predictions table.
    n_utterances
        Those that were to be recognised.
    notes
        What to know before its scores are believed.
    errors
        Why utterances are not in the table, one sentence for each.
    """

    path: Path
    n_utterances: int
    notes: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Sentences for people."""
        return [*(f"mind: {note}" for note in self.notes), f"predictions: {self.path}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "predictions": str(self.path),
            "n_utterances": self.n_utterances,
            "notes": list(self.notes),
            "errors": list(self.errors),
        }


def score_manifest(
    model: Path | str,
    manifest: Path | str,
    out: Path | str,
    *,
    corpora_dir: Path | None = None,
    label_map: Mapping[str, str] | None = None,
    text_features: Path | str | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> ScoredManifest:
    """Let a checkpoint recognise the utterances of a manifest, and write down scores and truth.

    Parameters
    ----------
    model
        Checkpoint folder, run folder, or name.
    manifest
        A table of utterances, ours or another toolkit's.
    out
        The predictions table to write (CSV).
    corpora_dir
        Where a manifest of a relative name is looked for if it is not here.
    label_map
        Classes of the manifest that count as others: ``{"excited": "happy"}``.
    text_features
        Folder or ``.npz`` file of token vectors by utterance id, read instead of transcripts.
    n_workers
        Utterances at a time; default: one per core.

    Raises
    ------
    InputError
        If the checkpoint or the manifest cannot be used, no utterance has a class that the
        checkpoint knows, or none can be recognised: names the first and counts the rest.

    Notes
    -----
    For a single expert of a mixture, every class but its own is the other one. An utterance that
    cannot be recognised, such as a silent file, is left out of the table and told in ``errors``.
    """
    progress = progress or Quiet()
    manifest = beside_corpora(str(manifest), corpora_dir)
    recognizer = load_recognizer(model)
    multi = recognizer.config.multi_label
    own = expert_class(recognizer)
    keep = recognizer.labels.classes if own is None else None
    table = import_manifest(manifest)
    judged: list[tuple[Utterance, str]] = []
    for utterance in table:
        label = map_label(
            utterance.label,
            mapping=label_map or {},
            keep=keep,
            multi=multi or own is not None,
        )
        label = label if own is None else expert_truth(label, own)
        if label is not None:
            judged.append((utterance, label))
    # An expert whose class is called otherwise there would be judged by its opposite alone.
    if not judged or (own is not None and own not in {label for _, label in judged}):
        labels = sorted({str(u.label) for u in table if u.label})
        wanted = own or ", ".join(recognizer.labels.classes)
        raise InputError(
            f"{manifest}: no utterance has a label among the classes of {model}, {wanted}: it has "
            f"{', '.join(labels) or 'none'}; name them as the checkpoint does, or map them"
        )
    return score_utterances(
        recognizer,
        judged,
        out,
        n_left_out=len(table) - len(judged),
        text_features=text_features,
        n_workers=n_workers,
        progress=progress,
    )


def score_utterances(
    recognizer: Recognizer,
    judged: Sequence[tuple[Utterance, str]],
    out: Path | str,
    *,
    n_left_out: int = 0,
    text_features: Path | str | None = None,
    n_workers: int | None = None,
    progress: Progress,
) -> ScoredManifest:
    """Let a recognizer recognise utterances, and write down scores and truth.

    Parameters
    ----------
    judged
        Each utterance with its class, in the recognizer's words.
    n_left_out
        Utterances beside them that have another class.
    out, text_features, n_workers
        See :func:`score_manifest`.

    Raises
    ------
    InputError
        If none can be recognised: names the first and counts the rest.
    """
    utterances = [utterance for utterance, _ in judged]
    vectors = _vectors(recognizer, utterances, text_features)
    rows = _scores(recognizer, utterances, vectors, n_workers=n_workers, progress=progress)
    errors = tuple(str(row) for row in rows if isinstance(row, InputError))
    heard = [(one, row) for one, row in zip(judged, rows, strict=True) if isinstance(row, list)]
    if not heard:
        raise InputError(errors[0] + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))
    scores = np.array([row for _, row in heard], dtype=np.float64)
    if not recognizer.config.multi_label:
        scores /= scores.sum(1, keepdims=True)  # float32 rounding
    write_predictions(out, _table(recognizer, [one for one, _ in heard], scores))
    notes = _notes(recognizer, len(judged), n_left_out=n_left_out, n_errors=len(errors))
    return ScoredManifest(Path(out), len(judged), notes, errors)


def _vectors(
    recognizer: Recognizer, utterances: Sequence[Utterance], folder: Path | str | None
) -> Vectors:
    """Find the token vectors of utterances, for a recognizer that is to read such."""
    if folder is None and not recognizer.reads_vectors:
        return {}
    if folder is None:
        raise InputError(
            "this checkpoint reads token vectors that were computed elsewhere: give the folder of "
            "those of the utterances with --text-features (text_features=...)"
        )
    recognizer.require_vectors_fit(str(folder))
    assert recognizer.text_encoder is not None
    ids = [utterance.id for utterance in utterances]
    width = recognizer.text_encoder.config.n_features
    read = PrecomputedText(PrecomputedTextConfig(folder=str(folder), width=width)).read(ids)
    return dict(zip(ids, np.split(read.text, np.cumsum(read.n_tokens)[:-1]), strict=True))


def _scores(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    vectors: Vectors,
    *,
    n_workers: int | None,
    progress: Progress,
) -> list[list[float] | InputError]:
    progress.stage("recognising", len(utterances))
    rows: list[list[float] | InputError] = []
    with one_thread(), ThreadPoolExecutor(n_workers or usable_cores()) as pool:
        for row in pool.map(partial(_score, recognizer, vectors), utterances):
            rows.append(row)
            progress.advance(len(rows))
    return rows


def _score(
    recognizer: Recognizer, vectors: Vectors, utterance: Utterance
) -> list[float] | InputError:
    try:
        waveform, _ = load_audio(
            utterance.path,
            sample_rate=recognizer.sample_rate,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            channel=recognizer.config.channel,
        )
        prediction = recognizer.predict(
            waveform,
            recognizer.sample_rate,
            name=utterance.id,
            text=utterance.transcript,
            text_features=vectors.get(utterance.id),
        )
    except InputError as error:
        return error
    return list(prediction.scores.values())


def _table(
    recognizer: Recognizer, judged: Sequence[tuple[Utterance, str]], scores: NDArray[np.float64]
) -> Predictions:
    utterances = [utterance for utterance, _ in judged]
    speakers = [u.speaker for u in utterances]
    if set(speakers) == {"unknown"}:
        speakers = [""] * len(speakers)  # else the evaluation would count one speaker
    return Predictions.of(
        ids=[u.id for u in utterances],
        truth=[label for _, label in judged],
        classes=recognizer.labels.classes,
        scores=scores,
        corpora=[u.corpus for u in utterances],
        speakers=speakers,
        multi_label=recognizer.config.multi_label,
        extras={
            "path": [str(u.path) for u in utterances],
            "sentence": [u.sentence or "" for u in utterances],
            "transcript": [u.transcript or "" for u in utterances],
            "start_s": [f"{u.start_s:g}" for u in utterances],
            "end_s": ["" if u.end_s is None else f"{u.end_s:g}" for u in utterances],
        },
    )


def _notes(
    recognizer: Recognizer, n_judged: int, *, n_left_out: int, n_errors: int
) -> tuple[str, ...]:
    trained_on = recognizer.config.trained_on
    notes = [
        f"trained on {trained_on.get('corpus', 'an unnamed corpus')}; nothing keeps its speakers "
        "apart from those of the manifest"
    ]
    warnings = (trained_on.get("protocol") or {}).get("warnings") or ()
    notes += [f"the checkpoint is: {warning}" for warning in warnings]
    own = expert_class(recognizer)
    if own is not None:
        notes.append(f"every class but {own} counts as {recognizer.labels.classes[1]}")
    if n_left_out:
        notes.append(
            f"{n_left_out} of {n_judged + n_left_out} utterances have a label that is not among "
            f"the classes {', '.join(recognizer.labels.classes)}, and are left out"
        )
    if n_errors:
        notes.append(
            f"{n_errors} of {n_judged} utterances cannot be recognised and are not in the table: "
            "what is computed from it is about the others alone"
        )
    return tuple(notes)
