"""Surrey Audio-Visual Expressed Emotion (SAVEE), British English, 2009.

Four male speakers (DC, JE, JK, KL; postgraduates and researchers at the University of Surrey, 27 to
31 years old) read TIMIT sentences in seven emotions: fifteen per emotion and thirty neutral ones,
120 per speaker, 480 in all. 44.1 kHz mono.

As released a file is ``AudioData/DC/sa01.wav``; other copies have all files in one folder as
``DC_sa01.wav``. The letters are a anger, d disgust, f fear, h happiness, n neutral, sa sadness,
su surprise; the digits number the sentence within the emotion.

Of the fifteen sentences of an emotion three are common to all emotions, two are written for this
emotion and ten are its own; the thirty neutral ones repeat the common and the twelve
emotion-specific sentences. Numbers 01 to 03 are taken for the common ones here. Which neutral
number repeats which emotional sentence is not in the file names, so those keys differ although the
words are the same.

Published label order (TIM-Net): angry, disgust, fear, happy, neutral, sad, surprise.
"""

from __future__ import annotations

import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.types import Utterance

TITLE = "Surrey Audio-Visual Expressed Emotion (SAVEE)"
LANGUAGE = "en"
LICENSE = "free for research after registration; no redistribution"
CITATION = (
    "S. Haq, P. J. B. Jackson: Multimodal Emotion Recognition. In: Machine Audition: Principles, "
    "Algorithms and Systems, IGI Global 2010, 398-423"
)
URL_HINT = "http://kahlan.eps.surrey.ac.uk/savee/"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=480,
    n_speakers=4,
    per_label={
        "angry": 60,
        "disgust": 60,
        "fear": 60,
        "happy": 60,
        "neutral": 120,
        "sad": 60,
        "surprise": 60,
    },
)
NAMES = (
    "AudioData/DC/a01.wav",
    "AudioData/DC/d04.wav",
    "AudioData/DC/f15.wav",
    "AudioData/DC/h02.wav",
    "AudioData/JE/n01.wav",
    "AudioData/JE/n30.wav",
    "AudioData/JK/sa03.wav",
    "AudioData/KL/su10.wav",
)
QUIRKS = (
    "Four speakers, all male: leave-one-speaker-out has four folds and a wide interval.",
    "Neutral has twice as many utterances as any other class.",
    "Numbers 01 to 03 are taken for the three common sentences; neutral repeats twelve "
    "emotion-specific sentences under numbers that the names do not tell, so leaving one sentence "
    "out may leave its neutral reading in.",
)

_LABELS = {
    "a": "angry",
    "d": "disgust",
    "f": "fear",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprise",
}
_N_COMMON = 3
_NAME = re.compile(r"(?:.*/)?(DC|JE|JK|KL)[/_](sa|su|a|d|f|h|n)(\d\d)")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    speaker, code, number = match.groups()
    if not 1 <= int(number) <= (30 if code == "n" else 15):
        return None
    common = int(number) <= _N_COMMON
    return Utterance(
        id=f"{speaker}_{code}{number}",
        path=path,
        corpus="savee",
        label=_LABELS[code],
        speaker=speaker,
        sentence=f"common{number}" if common else f"{code}{number}",
        gender="male",
        language=LANGUAGE,
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus: a folder per speaker, at any depth, or all files in one folder."""
    return parse_tree(root, parse, corpus="savee", names=NAMES)
