"""What trainings of a decomposition, or of an F0 converter, came to: numbers and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serkit.models.speech_split import F0Converter, SpeechSplit
from serkit.training.f0_converter import NEAR

__all__ = ["summarise_folds", "write_card"]

Scores = Mapping[str, Any]

_NEAR = f"1/{round(1 / NEAR)} of the bins"


def summarise_folds(folds: Sequence[Scores]) -> dict[str, Any]:
    """Average what was measured of each training, and say it in a sentence or two.

    Parameters
    ----------
    folds
        Of each ``judged_on`` and what :func:`.score_network` gives.

    Returns
    -------
    summary
        ``finding``, and ``mean`` and ``mse_of_mean``, or ``contours``.
    """
    judged_on = folds[0]["judged_on"]
    if "contours" in folds[0]:
        contours = {
            way: _mean_of([fold["contours"][way] for fold in folds]) for way in folds[0]["contours"]
        }
        return {"finding": _finding_of_contours(contours, judged_on), "contours": contours}
    mean = _mean_of([fold["mse"] for fold in folds])
    mse_of_mean = float(np.mean([fold["mse_of_mean"] for fold in folds]))
    return {
        "finding": _finding(mean, mse_of_mean, judged_on),
        "mean": mean,
        "mse_of_mean": mse_of_mean,
    }


def _mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _finding(mean: Mapping[str, float], mse_of_mean: float, judged_on: str) -> str:
    """Say how good a decomposition is."""
    explained = 1 - mean["full"] / mse_of_mean
    share = f"{100 * explained:.0f} % of the variance of the spectrogram"
    if explained <= 0:
        found = f"On the {judged_on} part it is no better than always saying the mean frame."
    else:
        found = f"On the {judged_on} part it says {share} again."
    without = {k: v / mean["full"] for k, v in mean.items() if k != "full"}
    ranked = sorted(without.items(), key=lambda item: -item[1])
    factors = ", ".join(
        f"{value:.2f} times as large {name.replace('_', ' ')}" for name, value in ranked
    )
    return f"{found} The error becomes {factors}."


def _finding_of_contours(contours: Mapping[str, Mapping[str, float]], judged_on: str) -> str:
    """Say how good an F0 converter is, beside what knows less."""
    said, copy, always = (contours[way] for way in ("resampled", "copy", "always"))
    known = min(copy["cross_entropy"], always["cross_entropy"])
    verdict = "" if said["cross_entropy"] < known else "It is no better than what knows less. "
    return (
        f"{verdict}On the {judged_on} part {100 * said['voiced']:.0f} % of the voiced frames of "
        f"contours whose timing was taken away are said again, at most {_NEAR} off "
        f"(the resampled contour as it is: {100 * copy['voiced']:.0f} %, always the commonest "
        f"voiced bin: {100 * always['voiced']:.0f} %). Cross-entropy {said['cross_entropy']:.2f} "
        f"nats per frame, of those two {copy['cross_entropy']:.2f} and "
        f"{always['cross_entropy']:.2f}."
    )


def write_card(
    title: str,
    network: SpeechSplit | F0Converter,
    trained_on: Mapping[str, Any],
    *,
    judged_on: str,
    scores: Scores,
) -> str:
    """Write the card of a checkpoint.

    Parameters
    ----------
    trained_on
        What the checkpoint says of its training.
    judged_on
        Part that ``scores``, of :func:`.score_network`, are of.
    """
    speakers = ", ".join(f"{corpus}/{speaker}" for corpus, speaker in trained_on["speakers"])
    if isinstance(network, F0Converter):
        does = "Says the pitch contour of one utterance in the rhythm of another."
        measured = _contour_table(judged_on, scores)
    else:
        streams = ", ".join(network.config.streams)
        does = f"Takes speech apart into {streams}, and puts it together again."
        measured = _error_table(judged_on, scores)
    return f"""# {title}

{does}
Training: {trained_on["fold"]}. No label was used.

## How well

{measured}

## Trained on

{trained_on["n_utterances"]} utterances. Heard in training or in choosing the epoch: {speakers}.
Licence: {trained_on["licence"]}. A model inherits the cautions of its corpus's licence.
What starts from this model must not be tested on these speakers.

Written by serkit {trained_on["serkit_version"]}, corpus fingerprint `{trained_on["fingerprint"]}`.
"""


def _error_table(judged_on: str, scores: Scores) -> str:
    rows = [f"| {name.replace('_', ' ')} | {value:.5f} |" for name, value in scores["mse"].items()]
    table = "\n".join([*rows, f"| always the mean frame | {scores['mse_of_mean']:.5f} |"])
    return (
        "Mean squared error of the mel spectrogram (0 is -100 dB, 1 is 0 dB) over the "
        f"{judged_on} part, whole\nand while one encoder reads zeros.\n\n| | |\n|---|---|\n{table}"
    )


def _contour_table(judged_on: str, scores: Scores) -> str:
    rows = [
        f"| {way} | {row['cross_entropy']:.3f} | {100 * row['voiced']:.1f} | "
        f"{100 * row['voicing']:.1f} |"
        for way, row in scores["contours"].items()
    ]
    return "\n".join(
        [
            f"Over the {judged_on} part: cross-entropy in nats per frame, voiced frames at most "
            f"{_NEAR}",
            "off in per cent, frames rightly called voiced or not in per cent. Read is a resampled",
            "contour, or the utterance's own; it must beat a copy of the resampled one, and always",
            "giving the commonest bins.",
            "",
            "| | cross-entropy | pitch | voicing |",
            "|---|---|---|---|",
            *rows,
        ]
    )
