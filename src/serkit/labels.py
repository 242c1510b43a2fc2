"""Emotion categories: one spelling for all corpora, and the ordered label space of a recognizer.

Corpora name the same category in many ways (``anger``, ``angry``, ``W`` for *Wut*, ``rab`` for
*rabbia*). Readers translate their own codes into :data:`EMOTIONS`; :func:`canonical_label`
translates the English words met in folder names and tables. The order of a label space is the
order of the class indices; serkit sorts alphabetically, which is also TIM-Net's order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

__all__ = ["EMOTIONS", "LabelSpace", "canonical_label", "classes_of", "map_label", "targets"]

EMOTIONS = (
    "angry",
    "boredom",
    "calm",
    "contempt",
    "disgust",
    "excited",
    "fear",
    "frustrated",
    "happy",
    "neutral",
    "other",
    "sad",
    "surprise",
)

# Word -> spelling in EMOTIONS. 'excited' stays itself: merging it with 'happy' is a choice that
# an experiment states (labels.map), because it changes the task.
_SYNONYMS = {
    "anger": "angry",
    "ang": "angry",
    "bored": "boredom",
    "calmness": "calm",
    "disgusted": "disgust",
    "dis": "disgust",
    "excitement": "excited",
    "exc": "excited",
    "afraid": "fear",
    "anxiety": "fear",
    "fearful": "fear",
    "fea": "fear",
    "frustration": "frustrated",
    "fru": "frustrated",
    "happiness": "happy",
    "hap": "happy",
    "joy": "happy",
    "neu": "neutral",
    "sadness": "sad",
    "pleasant surprise": "surprise",
    "surprised": "surprise",
    "sur": "surprise",
}


def canonical_label(word: str) -> str:
    """Translate an English emotion word into serkit's spelling; unknown words come back as given.

    >>> canonical_label("Anger"), canonical_label("joy"), canonical_label("hangry")
    ('angry', 'happy', 'hangry')
    """
    key = word.strip().lower().replace("_", " ")
    if key in EMOTIONS:
        return key
    return _SYNONYMS.get(key, word.strip())


@dataclass(frozen=True, slots=True)
class LabelSpace:
    """The classes a recognizer tells apart, in index order.

    >>> space = LabelSpace(("angry", "happy"))
    >>> space.index("happy"), space[0], len(space)
    (1, 'angry', 2)
    """

    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise InputError(
                f"a label space needs at least two classes, got {list(self.classes)}: "
                "check the corpus's labels and the experiment's labels.keep"
            )
        twice = [name for name, count in Counter(self.classes).items() if count > 1]
        if twice:
            raise InputError(f"classes named twice in one label space: {twice}")

    @classmethod
    def of(cls, labels: Iterable[str | None]) -> LabelSpace:
        """Collect the classes that occur, sorted alphabetically; ``None`` is skipped."""
        return cls(tuple(sorted({label for label in labels if label is not None})))

    def index(self, label: str) -> int:
        """Index of a class.

        Raises
        ------
        InputError
            If the label is not in the space.
        """
        try:
            return self.classes.index(label)
        except ValueError:
            raise InputError(
                f"label '{label}' is not among the classes {', '.join(self.classes)}"
            ) from None

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> str:
        return self.classes[index]


def classes_of(label: str | None, *, multi: bool = True) -> tuple[str, ...]:
    """Split a label into its classes: with ``multi``, ``+`` joins what holds at the same time.

    >>> classes_of("happy+sad"), classes_of("happy+sad", multi=False), classes_of(None)
    (('happy', 'sad'), ('happy+sad',), ())
    """
    if label is None:
        return ()
    return tuple(label.split("+")) if multi else (label,)


def map_label(
    label: str | None,
    *,
    mapping: Mapping[str, str],
    keep: Sequence[str] | None,
    multi: bool = False,
) -> str | None:
    """Merge and select categories: ``mapping`` first, then ``keep``; ``None`` drops the utterance.

    With ``multi`` this is done with every class of the label; what is left is joined again.

    >>> map_label("excited", mapping={"excited": "happy"}, keep=["happy", "sad"])
    'happy'
    >>> map_label("fear", mapping={}, keep=["happy", "sad"]) is None
    True
    >>> map_label("sad+excited+fear", mapping={"excited": "happy"}, keep=["happy"], multi=True)
    'happy'
    """
    mapped = {mapping.get(one, one) for one in classes_of(label, multi=multi)}
    kept = sorted(one for one in mapped if keep is None or one in keep)
    return "+".join(kept) or None


def targets(labels: Sequence[str], space: LabelSpace, *, multi: bool = True) -> NDArray[np.float32]:
    """Mark the classes of each label.

    Returns
    -------
    targets : (n_labels, n_classes), 0 or 1

    Raises
    ------
    InputError
        If a class is not in the space.
    """
    marked = np.zeros((len(labels), len(space)), dtype=np.float32)
    for row, label in zip(marked, labels, strict=True):
        row[[space.index(one) for one in classes_of(label, multi=multi)]] = 1
    return marked
