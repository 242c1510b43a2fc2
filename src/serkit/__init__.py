"""serkit: speech emotion recognition, honestly judged.

The names below are loaded when they are first used, so that ``import serkit`` costs nothing.

>>> import serkit
>>> serkit.uar(["sad", "sad", "happy"], ["sad", "happy", "happy"])
0.75
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from serkit.types import InputError, Prediction, Utterance

if TYPE_CHECKING:
    from serkit.corpora import CORPORA, read_corpus
    from serkit.evaluation import uar
    from serkit.features import FRONT_ENDS
    from serkit.models import MODELS
    from serkit.recognizer import Recognizer, load_recognizer

__version__ = "0.1.0"

__all__ = [
    "CORPORA",
    "FRONT_ENDS",
    "MODELS",
    "InputError",
    "Prediction",
    "Recognizer",
    "Utterance",
    "load_recognizer",
    "read_corpus",
    "uar",
]

_HOMES = {
    "CORPORA": "serkit.corpora",
    "FRONT_ENDS": "serkit.features",
    "MODELS": "serkit.models",
    "Recognizer": "serkit.recognizer",
    "load_recognizer": "serkit.recognizer",
    "read_corpus": "serkit.corpora",
    "uar": "serkit.evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'serkit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
