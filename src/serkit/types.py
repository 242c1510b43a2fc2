"""The few plain objects that every floor of the package passes around.

Nothing here knows about torch, files or corpora. An :class:`Utterance` says where a labelled
stretch of speech is and what is known about it; a :class:`Prediction` says what a recognizer made
of one. Errors that are the input's fault derive from :class:`InputError`, whose message is one
line that a person can act on: the thing, what was got, what was expected, what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Fold", "InputError", "MissingExtraError", "Prediction", "Utterance"]


class InputError(ValueError):
    """The input's fault (exit code 2): one line that names the thing and what to do about it."""


class MissingExtraError(InputError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed: "
            f"pip install 'serkit[{extra}]'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A labelled stretch of one speaker's speech.

    Attributes
    ----------
    id
        Unique within the corpus and the same on every machine and for every layout of the release:
        the name the corpus itself uses (``03a01Fa``, ``Ses01F_impro01_F000``), else the path below
        the root, with ``/`` and without suffix.
    path
        The sound file. Readers give absolute paths; nothing is ever moved or renamed.
    corpus
        Key of the corpus, as in ``serkit.corpora.CORPORA``.
    label
        Emotion category in serkit's spelling (``serkit.labels.EMOTIONS``) or, for a user's own
        corpus, in the user's. ``None``: unlabelled.
    speaker
        Who talks; unique within the corpus. Never empty.
    start_s, end_s
        The stretch of the file, in seconds; ``end_s`` ``None`` means up to the end of the file.
    duration_s
        Length of the stretch in seconds, where a reader measured it.
    sentence
        Key of the read text (not the text): equal keys mean equal words.
    transcript
        The words, where they are known.
    arousal, valence, dominance
        Dimensional ratings scaled to [0, 1]; the corpus page says from which scale.
    style
        Manner of speaking where a corpus distinguishes (``improvised``, ``scripted``).
    official_part
        ``train``, ``dev`` or ``test`` where the corpus prescribes one.
    """

    id: str
    path: Path
    corpus: str
    label: str | None
    speaker: str
    start_s: float = 0.0
    end_s: float | None = None
    duration_s: float | None = None
    sentence: str | None = None
    transcript: str | None = None
    gender: str | None = None
    age: float | None = None
    language: str | None = None
    session: str | None = None
    dialogue: str | None = None
    style: str | None = None
    intensity: str | None = None
    arousal: float | None = None
    valence: float | None = None
    dominance: float | None = None
    official_part: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One partition of a corpus: ids of the utterances to train on, to select by, to judge by.

    ``dev`` may be empty (a fixed number of epochs needs none). Parts share no id, except that under
    published protocols which select on the test fold, ``dev`` *is* ``test``.
    """

    name: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a recognizer says of one utterance or segment.

    ``scores`` holds one number in [0, 1] per class of the recognizer, in its order; they sum to 1.
    ``label`` is the class with the highest score. Times are seconds within the file.
    """

    file: str
    start_s: float
    end_s: float
    label: str
    scores: Mapping[str, float]
    model: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def score(self) -> float:
        """Score of the predicted class, in [0, 1]."""
        return self.scores[self.label]

    def to_json(self) -> str:
        """Write the prediction as one line of JSON."""
        row = asdict(self) | {"score": self.score, "scores": dict(self.scores)}
        return json.dumps(row, ensure_ascii=False)
