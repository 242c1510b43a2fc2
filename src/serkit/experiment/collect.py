"""What the members of a run left, joined: predictions, curves, embeddings, experts, words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import f1_macro_of, uar_of, war_of
from serkit.evaluation.predictions import Predictions, write_predictions
from serkit.evaluation.transcription import score_transcription
from serkit.files import write_atomically
from serkit.labels import LabelSpace, targets
from serkit.training.member import Member, member_outputs
from serkit.training.record import LOG_FILE
from serkit.transcripts import CtcStyle, Symbols, ctc_clean
from serkit.types import Utterance

__all__ = ["collect_outputs", "judge_experts", "judge_heard"]


def collect_outputs(
    out: Path,
    members: Sequence[Member],
    utterances: Sequence[Utterance],
    labels: LabelSpace,
    *,
    multi_label: bool,
    symbols: Symbols | None = None,
) -> None:
    """Join what the members left into predictions.csv, curves.csv and embeddings.npz."""
    by_id = {u.id: u for u in utterances}
    rows: list[tuple[Utterance, str, int]] = []
    scores: list[np.ndarray] = []
    embeddings: list[np.ndarray] = []
    heard: list[str] = []
    embedded: list[tuple[str, str, int]] = []
    curves = ["fold,seed,epoch,train_loss,dev_loss,dev_uar,dev_war,selected"]
    first_seed = members[0].seed
    for member in members:
        outputs, selected = member_outputs(member)
        rows += [(by_id[i], member.fold.name, member.seed) for i in member.fold.test]
        scores.append(outputs["scores"])
        if symbols is not None and "heard" in outputs:
            heard += [symbols.decode(row) for row in outputs["heard"].tolist()]
        if member.seed == first_seed and "embedding" in outputs:
            embeddings.append(outputs["embedding"])
            embedded += [(i, member.fold.name, member.seed) for i in member.fold.test]
        for line in (member.folder / LOG_FILE).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            cells = [row.get(k, "") for k in ("train_loss", "dev_loss", "dev_uar", "dev_war")]
            numbers = ",".join("" if c == "" else f"{c:.6g}" for c in cells)
            kept = int(row["epoch"] == selected)
            curves.append(f"{member.fold.name},{member.seed},{row['epoch']},{numbers},{kept}")
    speakers = [u.speaker for u, _, _ in rows]
    if set(speakers) == {"unknown"}:
        speakers = [""] * len(rows)  # else the evaluation would count one speaker
    write_atomically(out / "curves.csv", "\n".join(curves) + "\n")
    stacked = np.concatenate(scores).astype(np.float64)
    if not multi_label:
        stacked /= stacked.sum(1, keepdims=True)  # float32 rounding
    write_predictions(
        out / "predictions.csv",
        Predictions.of(
            ids=[u.id for u, _, _ in rows],
            truth=[str(u.label) for u, _, _ in rows],
            classes=labels.classes,
            scores=stacked,
            corpora=[u.corpus for u, _, _ in rows],
            speakers=speakers,
            folds=[fold for _, fold, _ in rows],
            seeds=[seed for _, _, seed in rows],
            multi_label=multi_label,
            extras={
                "path": [str(u.path) for u, _, _ in rows],
                "sentence": [u.sentence or "" for u, _, _ in rows],
                "transcript": [u.transcript or "" for u, _, _ in rows],
                "start_s": [f"{u.start_s:g}" for u, _, _ in rows],
                "end_s": ["" if u.end_s is None else f"{u.end_s:g}" for u, _, _ in rows],
            }
            | ({"heard": heard} if heard else {}),
        ),
    )
    if embeddings:
        np.savez_compressed(
            out / "embeddings.npz",
            id=np.array([i for i, _, _ in embedded]),
            fold=np.array([fold for _, fold, _ in embedded]),
            seed=np.array([seed for _, _, seed in embedded]),
            embedding=np.concatenate(embeddings),
        )


def judge_experts(
    members: Sequence[Member], utterances: Sequence[Utterance], labels: LabelSpace
) -> dict[str, dict[str, float]]:
    """Judge by itself how each expert tells its own class from the rest.

    Returns
    -------
    experts
        Class -> ``uar``, ``war`` and ``f1`` (macro) of its own two-class decision, each the mean
        over seeds of what all its folds' test parts give together. Empty where the model has no
        experts.
    """
    by_id = {u.id: u for u in utterances}
    confusions: dict[int, NDArray[np.float64]] = {}
    for member in members:
        outputs, _ = member_outputs(member)
        if "experts" not in outputs:
            return {}
        truth = targets([str(by_id[i].label) for i in member.fold.test], labels)
        confusion = confusions.setdefault(member.seed, np.zeros((len(labels), 2, 2)))
        decided = outputs["experts"] > 0.5
        for number in range(len(labels)):
            pair = (truth[:, number].astype(int), decided[:, number].astype(int))
            np.add.at(confusion[number], pair, 1)
    stacked = np.stack(list(confusions.values()))  # (n_seeds, n_classes, 2, 2)
    metrics = {"uar": uar_of, "war": war_of, "f1": f1_macro_of}
    means = {name: metric(stacked).mean(0) for name, metric in metrics.items()}
    return {
        label: {name: float(values[number]) for name, values in means.items()}
        for number, label in enumerate(labels.classes)
    }


def judge_heard(
    members: Sequence[Member],
    utterances: Sequence[Utterance],
    symbols: Symbols | None,
    style: CtcStyle,
) -> dict[str, Any]:
    """Judge what the members heard on their test parts.

    Returns
    -------
    heard
        ``wer`` and ``cer`` of all test parts together, each the mean over seeds, with ``wer_sd``
        where there are several; ``n_utterances`` with a transcript and their ``n_words``. Empty
        where nothing spells, or nothing is known of what was said.
    """
    said = {
        u.id: None
        if u.transcript is None or symbols is None
        else symbols.written(symbols.encode(ctc_clean(u.transcript, style=style, symbols=symbols)))
        for u in utterances
    }
    pairs: dict[int, list[tuple[str | None, str]]] = {}
    for member in members:
        outputs, _ = member_outputs(member)
        if symbols is None or "heard" not in outputs:
            return {}
        texts = [symbols.decode(row) for row in outputs["heard"].tolist()]
        known = (said[i] for i in member.fold.test)
        pairs.setdefault(member.seed, []).extend(zip(known, texts, strict=True))
    if not any(text is not None for seed in pairs.values() for text, _ in seed):
        return {}
    scores = [score_transcription(*zip(*seed, strict=True)) for seed in pairs.values()]
    wers = [score.words.rate for score in scores]
    return {
        "wer": float(np.mean(wers)),
        "wer_sd": float(np.std(wers, ddof=1)) if len(wers) > 1 else None,
        "cer": float(np.mean([score.characters.rate for score in scores])),
        "n_utterances": scores[0].n_utterances,
        "n_words": scores[0].words.n_said,
    }
