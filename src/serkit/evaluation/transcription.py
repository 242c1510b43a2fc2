r"""Scores of what a system heard: word and character error rates.

Conventions
-----------
``references`` holds what was said, one text per utterance, ``hypotheses`` what the system heard.
Both are compared as they are given, case and punctuation included: clean them alike first, with
:func:`serkit.transcripts.ctc_clean`. Only white space is collapsed.

A rate is that of the whole corpus, all edits over all words that were said, so long utterances
count more than short ones and a rate may exceed 1. An **empty** reference says that nothing was
said: words heard there are insertions. A reference of ``None`` says that the words are not known:
the utterance is left out. Both are counted.

Metrics
-------
* :func:`wer`: word error rate
* :func:`cer`: character error rate, spaces between words included
* :func:`score_transcription`: both, with the kinds of errors
* :func:`error_rate_interval`: how sure a rate is about other speakers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import jiwer
import numpy as np
from numpy.typing import NDArray

from serkit.evaluation.metrics import Counts, ratio
from serkit.evaluation.predictions import Predictions
from serkit.evaluation.scores import jsonable
from serkit.evaluation.significance import Interval, interval_of_counts
from serkit.types import InputError

__all__ = [
    "ErrorRate",
    "TranscriptionScores",
    "Unit",
    "cer",
    "error_counts",
    "error_rate_interval",
    "score_transcription",
    "wer",
]

Unit = Literal["word", "character"]

_RATE_OF: dict[Unit, str] = {"word": "wer", "character": "cer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRate:
    """Edits that turn the references into what was heard.

    ``rate`` is their number over ``n_said``, the units of all references; NaN where that is 0.
    """

    rate: float
    substitutions: int
    deletions: int
    insertions: int
    n_said: int

    @classmethod
    def of(cls, counts: Counts) -> ErrorRate:
        """Add up rows of :func:`error_counts`."""
        substitutions, deletions, insertions, n_said = counts.sum(axis=0).tolist()
        return cls(
            rate=float(_rates(counts.sum(axis=0))),
            substitutions=substitutions,
            deletions=deletions,
            insertions=insertions,
            n_said=n_said,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionScores:
    """Everything that is said about what a system heard.

    Attributes
    ----------
    words, characters
        Errors by unit.
    n_utterances
        Utterances with a reference, empty ones included.
    n_empty
        Those among them in which nothing was said.
    n_unknown
        Utterances left out, because it is not known what was said.
    """

    words: ErrorRate
    characters: ErrorRate
    n_utterances: int
    n_empty: int
    n_unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Give plain numbers, ready for JSON; NaN becomes ``None``."""
        plain: dict[str, Any] = jsonable(asdict(self))
        return plain


def wer(references: Sequence[str | None], hypotheses: Sequence[str]) -> float:
    r"""Word error rate.

    .. math:: \frac{\sum_i S_i + D_i + I_i}{\sum_i N_i}

    with the substitutions, deletions and insertions of the shortest edit of reference i, and its
    number of words; NaN where nothing was said at all.

    Citation: V. I. Levenshtein, "Binary codes capable of correcting deletions, insertions, and
    reversals", Soviet Physics Doklady 10(8), 1966. Computed by jiwer.

    Raises
    ------
    InputError
        If the lists differ in length.

    Examples
    --------
    >>> wer(["the cat sat", "yes", None], ["the cat", "yes yes", "hm"])
    0.5
    """
    return ErrorRate.of(error_counts(references, hypotheses)).rate


def cer(references: Sequence[str | None], hypotheses: Sequence[str]) -> float:
    """Character error rate: :func:`wer` with characters for words.

    Raises
    ------
    InputError
        If the lists differ in length.

    Examples
    --------
    >>> cer(["a cat"], ["a hat"])
    0.2
    """
    return ErrorRate.of(error_counts(references, hypotheses, unit="character")).rate


def error_counts(
    references: Sequence[str | None], hypotheses: Sequence[str], *, unit: Unit = "word"
) -> Counts:
    """Count the errors in each utterance.

    Returns
    -------
    counts : (n_utterances, 4)
        Substitutions, deletions, insertions, units of the reference; 0 where it is ``None``.

    Raises
    ------
    InputError
        If the lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise InputError(
            f"{len(references)} references and {len(hypotheses)} hypotheses: expected one of each "
            "per utterance"
        )
    rows = [_errors_of(*pair, unit) for pair in zip(references, hypotheses, strict=True)]
    return np.asarray(rows, dtype=np.int64).reshape(-1, 4)


def score_transcription(
    references: Sequence[str | None], hypotheses: Sequence[str]
) -> TranscriptionScores:
    """Judge what a system heard.

    Raises
    ------
    InputError
        If the lists differ in length, or no reference is known.
    """
    words = error_counts(references, hypotheses)
    known = [text for text in references if text is not None]
    if not known:
        raise InputError(
            f"none of {len(references)} utterances has a reference transcript: give a corpus that "
            "says what was said"
        )
    return TranscriptionScores(
        words=ErrorRate.of(words),
        characters=ErrorRate.of(error_counts(references, hypotheses, unit="character")),
        n_utterances=len(known),
        n_empty=sum(not text.split() for text in known),
        n_unknown=len(references) - len(known),
    )


def error_rate_interval(
    predictions: Predictions,
    references: Sequence[str | None],
    hypotheses: Sequence[str],
    *,
    unit: Unit = "word",
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of an error rate under resampling of speakers; a mean over seeds.

    Parameters
    ----------
    predictions
        Says who speaks in each row, and under which seed; its emotions are not looked at.
    references, hypotheses
        One per row of it.
    n, seed
        As in :func:`serkit.evaluation.significance.bootstrap_interval`.

    Raises
    ------
    InputError
        If the lists do not fit the table, or nothing was said under some seed.
    """
    if len(references) != len(predictions.ids):
        raise InputError(
            f"{len(references)} references for a table of {len(predictions.ids)} rows: expected "
            "one per row"
        )
    counts = error_counts(references, hypotheses, unit=unit)
    seeds = np.asarray(predictions.seed_values)
    seed_index = np.searchsorted(seeds, predictions.seeds)

    def by_cluster(codes: Counts, n_clusters: int) -> Counts:
        sums = np.zeros((n_clusters, len(seeds), counts.shape[1]), dtype=np.int64)
        np.add.at(sums, (codes, seed_index), counts)
        return sums

    n_said = np.bincount(seed_index, weights=counts[:, -1])
    if not n_said.all():
        raise InputError(
            f"seed {seeds[n_said == 0][0]}: no row has a reference with a {unit} in it: no interval"
        )
    return interval_of_counts(
        predictions, by_cluster, _rates, metric=_RATE_OF[unit], n=n, seed=seed
    )


def _errors_of(reference: str | None, hypothesis: str, unit: Unit) -> tuple[int, int, int, int]:
    if reference is None:
        return 0, 0, 0, 0
    compare = jiwer.process_words if unit == "word" else jiwer.process_characters
    found = compare(" ".join(reference.split()), " ".join(hypothesis.split()))
    n_said = found.hits + found.substitutions + found.deletions
    return found.substitutions, found.deletions, found.insertions, n_said


def _rates(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Error rates of sums of :func:`error_counts`, (..., 4) -> (...)."""
    return ratio(counts[..., :3].sum(axis=-1), counts[..., 3])
