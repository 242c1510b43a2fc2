"""Toronto Emotional Speech Set (TESS), Canadian English, 2010.

Two actresses, 26 (YAF) and 64 (OAF) years old, spoke 200 words in the carrier phrase 'Say the
word ...' in seven emotions: 2800 recordings, 400 per class. 24 414 Hz mono.

The name of a file is ``OAF_back_angry.wav``: speaker, word, emotion, where ``ps`` is 'pleasant
surprise'. Folders per speaker and emotion (``OAF_Fear``, ``YAF_pleasant_surprised``) come and go
with the copy; only the file's own name counts.

Label order here: angry, disgust, fear, happy, neutral, sad, surprise.
"""

from __future__ import annotations

import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.types import Utterance

TITLE = "Toronto Emotional Speech Set (TESS)"
LANGUAGE = "en"
LICENSE = "CC BY-NC-ND 4.0"
CITATION = (
    "M. K. Pichora-Fuller, K. Dupuis: Toronto emotional speech set (TESS). Borealis 2020, "
    "doi:10.5683/SP2/E8H2MF"
)
URL_HINT = "https://doi.org/10.5683/SP2/E8H2MF"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=2800,
    n_speakers=2,
    per_label=dict.fromkeys(
        ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), 400
    ),
)
NAMES = (
    "OAF_angry/OAF_back_angry.wav",
    "OAF_disgust/OAF_bar_disgust.wav",
    "OAF_Fear/OAF_base_fear.wav",
    "OAF_neutral/OA_bite_neutral.wav",
    "YAF_happy/YAF_back_happy.wav",
    "YAF_sad/YAF_bar_sad.wav",
    "YAF_pleasant_surprised/YAF_base_ps.wav",
)
QUIRKS = (
    "Two speakers: a model evaluated speaker-independently has heard one voice in training.",
    "OA_bite_neutral.wav lacks a letter; it is speaker OAF, and its id is OAF_bite_neutral.",
    "All words are read in every emotion by both speakers: random splits share words and voices.",
    "Some redistributions hold the whole tree twice; the second copy is not read.",
)

_LABELS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprise",
    "sad": "sad",
}
_SPEAKERS = {"OAF": ("OAF", 64.0), "OA": ("OAF", 64.0), "YAF": ("YAF", 26.0)}
_NAME = re.compile(r"(OAF|OA|YAF)_([A-Za-z]+)_([a-z]+)")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    match = _NAME.fullmatch(name.rpartition("/")[2])
    if match is None:
        return None
    code, word, emotion = match.groups()
    if emotion not in _LABELS:
        return None
    speaker, age = _SPEAKERS[code]
    return Utterance(
        id=f"{speaker}_{word}_{emotion}",
        path=path,
        corpus="tess",
        label=_LABELS[emotion],
        speaker=speaker,
        sentence=word.lower(),
        transcript=f"Say the word {word.lower()}.",
        gender="female",
        age=age,
        language=LANGUAGE,
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus: folders per speaker and emotion, or all files in one folder."""
    return parse_tree(root, parse, corpus="tess", names=NAMES)
