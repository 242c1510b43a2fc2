"""From a CTC network's frames to text: the best symbol of each frame, or a search over prefixes.

:func:`greedy_decode` takes the most probable symbol of every frame, joins repetitions and drops
blanks; it also says when each word was said. :func:`beam_decode` is the prefix search of Graves et
al. (ICML 2006) with a beam: it adds up all timings of a text, and may ask a language model.

Frames behind an utterance's length are never read. Symbol 0 is the blank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.transcripts import Symbols
from serkit.types import InputError

__all__ = [
    "BeamHypothesis",
    "Hypothesis",
    "LanguageModel",
    "Segment",
    "beam_decode",
    "greedy_decode",
]

BLANK = 0
BOUNDARIES = ("|", " ")

Prefix = tuple[int, ...]
# How likely a text's last symbol is after those before it: the prefix -> a natural logarithm.
LanguageModel = Callable[[Prefix], float]


@dataclass(frozen=True, slots=True)
class Segment:
    """A word, or a character where the symbols know no end of a word.

    Attributes
    ----------
    start_s, end_s
        From the first frame that spells it to the end of the last; seconds.
    score
        Mean probability of its frames, in [0, 1].
    """

    text: str
    start_s: float
    end_s: float
    score: float


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What :func:`greedy_decode` reads of one utterance.

    Attributes
    ----------
    ids
        Symbols, repetitions joined and blanks dropped.
    score
        Mean probability of the frames that are not blank, in [0, 1]; none if all are.
    """

    text: str
    ids: Prefix
    score: float | None
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class BeamHypothesis:
    """What :func:`beam_decode` reads of one utterance.

    Attributes
    ----------
    log_prob
        Natural logarithm of the probability of the symbols, of the timings that stayed in the beam.
    total
        The same with the language model and the bonus for length, by which hypotheses are ranked.
    """

    text: str
    ids: Prefix
    log_prob: float
    total: float


def greedy_decode(
    logits: Tensor, n_frames: Tensor, *, symbols: Symbols, frame_s: float = 0.04
) -> list[Hypothesis]:
    """Read the most probable symbol of every frame.

    Parameters
    ----------
    logits : (batch, n_frames, n_symbols)
    n_frames : (batch,), valid frames of each utterance
    frame_s
        Seconds from frame to frame.

    Raises
    ------
    InputError
        If logits and symbols, or lengths, do not belong together.
    """
    _check(logits, n_frames, symbols)
    best, ids = logits.detach().float().softmax(2).max(2)
    return [
        _read(row[:n], scores[:n], symbols, frame_s)
        for row, scores, n in zip(
            ids.cpu().numpy(), best.cpu().numpy(), n_frames.tolist(), strict=True
        )
    ]


def beam_decode(
    logits: Tensor,
    n_frames: Tensor,
    *,
    symbols: Symbols,
    beam: int = 10,
    n_candidates: int = 20,
    language_model: LanguageModel | None = None,
    weight: float = 0.5,
    bonus: float = 0.0,
) -> list[list[BeamHypothesis]]:
    """Search the most probable texts, the best of each utterance first.

    A text is ranked by ``log p(symbols | sound) + weight * log p(symbols) + bonus * n_symbols``.

    Parameters
    ----------
    logits : (batch, n_frames, n_symbols)
    n_frames : (batch,), valid frames of each utterance
    beam
        Texts that are kept from frame to frame, and given at the end.
    n_candidates
        Symbols of a frame that are considered, the most probable ones.
    language_model
        Gives the log-probability of a prefix's last symbol after those before it; none: no such
        term.
    weight, bonus
        Of the language model, and for every symbol.

    Raises
    ------
    InputError
        If logits and symbols, or lengths, do not belong together, or the beam holds nothing.
    """
    _check(logits, n_frames, symbols)
    if beam < 1 or n_candidates < 1:
        raise InputError(
            f"beam = {beam}, n_candidates = {n_candidates}: expected at least 1 of each"
        )
    log_probs = logits.detach().to("cpu", torch.float64).log_softmax(2).numpy()
    search = _Search(beam, min(n_candidates, len(symbols)), language_model, weight, bonus)
    return [
        [
            BeamHypothesis(symbols.decode(_spread(ids)), ids, log_prob, total)
            for ids, log_prob, total in search.run(rows[:n])
        ]
        for rows, n in zip(log_probs, n_frames.tolist(), strict=True)
    ]


@dataclass(slots=True)
class _Ends:
    """Log-probability of a prefix, by whether its last frame is a blank."""

    blank: float = -math.inf
    symbol: float = -math.inf

    @property
    def total(self) -> float:
        return _sum(self.blank, self.symbol)


@dataclass(frozen=True, slots=True)
class _Search:
    """A prefix search; see :func:`beam_decode`."""

    beam: int
    n_candidates: int
    language_model: LanguageModel | None
    weight: float
    bonus: float

    def run(self, log_probs: NDArray[np.float64]) -> list[tuple[Prefix, float, float]]:
        """Search in the frames of one utterance; give prefixes, log-probabilities and totals."""
        prior: dict[Prefix, float] = {(): 0.0}  # what does not depend on the sound
        kept: dict[Prefix, _Ends] = {(): _Ends(blank=0.0)}
        for frame in log_probs:
            grown = self._grow(kept, frame)
            for prefix in grown:
                if prefix not in prior:
                    prior[prefix] = prior[prefix[:-1]] + self._gain(prefix)
            ranked = sorted(grown, key=lambda prefix: -(grown[prefix].total + prior[prefix]))
            kept = {prefix: grown[prefix] for prefix in ranked[: self.beam]}
        return [(prefix, ends.total, ends.total + prior[prefix]) for prefix, ends in kept.items()]

    def _grow(self, kept: dict[Prefix, _Ends], frame: NDArray[np.float64]) -> dict[Prefix, _Ends]:
        """Continue every prefix by one frame."""
        grown: dict[Prefix, _Ends] = {}
        candidates = np.argsort(-frame, kind="stable")[: self.n_candidates]
        for prefix, ends in kept.items():
            total = ends.total
            for symbol in candidates.tolist():
                log_prob = float(frame[symbol])
                if symbol == BLANK:
                    same = grown.setdefault(prefix, _Ends())
                    same.blank = _sum(same.blank, total + log_prob)
                    continue
                longer = grown.setdefault((*prefix, symbol), _Ends())
                if prefix and symbol == prefix[-1]:
                    # Spoken on, unless a blank lies between.
                    same = grown.setdefault(prefix, _Ends())
                    same.symbol = _sum(same.symbol, ends.symbol + log_prob)
                    longer.symbol = _sum(longer.symbol, ends.blank + log_prob)
                else:
                    longer.symbol = _sum(longer.symbol, total + log_prob)
        return {prefix: ends for prefix, ends in grown.items() if ends.total > -math.inf}

    def _gain(self, prefix: Prefix) -> float:
        if self.language_model is None:
            return self.bonus
        return self.weight * self.language_model(prefix) + self.bonus


def _sum(one: float, other: float) -> float:
    """Add probabilities by their logarithms; for single numbers far faster than NumPy."""
    low, high = (one, other) if one < other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _spread(ids: Prefix) -> list[int]:
    """Put blanks between symbols, so that equal neighbours are read as two."""
    return [one for symbol in ids for one in (symbol, BLANK)]


def _read(
    ids: NDArray[np.int64], scores: NDArray[np.float32], symbols: Symbols, frame_s: float
) -> Hypothesis:
    """Read the frames of one utterance."""
    spoken = ids != BLANK
    runs = [
        (symbol, [at for at, _ in run])
        for symbol, run in groupby(enumerate(ids.tolist()), key=lambda pair: pair[1])
    ]
    runs = [(symbol, frames) for symbol, frames in runs if symbol != BLANK]
    return Hypothesis(
        text=symbols.decode(ids.tolist()),
        ids=tuple(symbol for symbol, _ in runs),
        score=float(scores[spoken].mean()) if spoken.any() else None,
        segments=tuple(_segment(word, scores, symbols, frame_s) for word in _words(runs, symbols)),
    )


Runs = list[tuple[int, list[int]]]  # symbols and the frames that spell each


def _words(runs: Runs, symbols: Symbols) -> list[Runs]:
    """Group the symbols that are written by word, or singly if nothing marks the end of one."""
    marks = {i for i, symbol in enumerate(symbols.symbols) if symbol in BOUNDARIES}
    written = [(i, frames) for i, frames in runs if len(symbols.symbols[i]) == 1]
    if not marks:
        return [[run] for run in written]
    groups = groupby(written, key=lambda run: run[0] in marks)
    return [list(group) for is_mark, group in groups if not is_mark]


def _segment(word: Runs, scores: NDArray[np.float32], symbols: Symbols, frame_s: float) -> Segment:
    frames = [frame for _, run in word for frame in run]
    return Segment(
        text="".join(symbols.symbols[i] for i, _ in word),
        start_s=round(frames[0] * frame_s, 6),
        end_s=round((frames[-1] + 1) * frame_s, 6),
        score=float(scores[frames].mean()),
    )


def _check(logits: Tensor, n_frames: Tensor, symbols: Symbols) -> None:
    if logits.ndim != 3 or logits.shape[2] != len(symbols):
        raise InputError(
            f"decoding got logits {tuple(logits.shape)}, expected (batch, n_frames, "
            f"{len(symbols)}): decode with the symbols that the network was trained with"
        )
    if n_frames.shape != logits.shape[:1] or (
        len(n_frames) and int(n_frames.max()) > logits.shape[1]
    ):
        raise InputError(
            f"decoding got {logits.shape[1]} frames of {len(logits)} utterances and the lengths "
            f"{n_frames.tolist()[:5]}: expected one length each, at most as many as there are"
        )
