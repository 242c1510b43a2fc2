"""Crowd-sourced Emotional Multimodal Actors Dataset (CREMA-D), English, 2014.

Ninety-one actors (48 men, 43 women, 20 to 74 years old, of various ethnic backgrounds) spoke twelve
sentences in six emotions; the first sentence, IEO, at three intensities, the others at one
unspecified. 7442 clips. 2443 raters judged them by voice, by face and by both; the label is the
emotion that was acted, not the one that was heard: from voice alone people recognise 41 %.
``AudioWAV`` holds 16 kHz mono; ``AudioMP3`` holds the same clips as the raters heard them.

The name of a file is ``1001_IEO_ANG_HI.wav``: actor, sentence, emotion, intensity (LO, MD, HI,
XX unspecified).

Label order of the literature: angry, disgust, fear, happy, neutral, sad.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, CorpusError, parse_tree
from serkit.types import Utterance

TITLE = "Crowd-sourced Emotional Multimodal Actors Dataset (CREMA-D)"
LANGUAGE = "en"
LICENSE = "Open Database License (ODbL) 1.0"
CITATION = (
    "H. Cao, D. G. Cooper, M. K. Keutmann, R. C. Gur, A. Nenkova, R. Verma: CREMA-D: Crowd-sourced "
    "Emotional Multimodal Actors Dataset. IEEE Transactions on Affective Computing 5(4), 2014, "
    "doi:10.1109/TAFFC.2014.2336244"
)
URL_HINT = "https://github.com/CheyneyComputerScience/CREMA-D"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=7442,
    n_speakers=91,
    per_label={
        "angry": 1271,
        "disgust": 1271,
        "fear": 1271,
        "happy": 1271,
        "neutral": 1087,
        "sad": 1271,
    },
)
NAMES = (
    "AudioWAV/1001_DFA_ANG_XX.wav",
    "AudioWAV/1001_IEO_DIS_LO.wav",
    "AudioWAV/1001_IEO_FEA_HI.wav",
    "AudioWAV/1002_IEO_HAP_MD.wav",
    "AudioWAV/1002_DFA_NEU_XX.wav",
    "AudioWAV/1040_ITH_SAD_X.wav",
)
QUIRKS = (
    "The label is the emotion acted; listeners agree with it in 41 % of the clips.",
    "1040_ITH_SAD_X.wav lacks one letter of its intensity.",
    "1076_MTI_SAD_XX.wav has no sound.",
    "Downloaded as an archive from its repository the sound files are Git LFS pointers of 130 "
    "bytes: fetch them with 'git lfs pull'.",
    "Gender and age are read from VideoDemographics.csv where it lies beside the sound folder.",
)
IGNORED = ("AudioMP3/*", "*/AudioMP3/*", "VideoFlash/*", "*/VideoFlash/*")

_LABELS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_SENTENCES = {
    "DFA": "Don't forget a jacket.",
    "IEO": "It's eleven o'clock.",
    "IOM": "I'm on my way to the meeting.",
    "ITH": "I think I have a doctor's appointment.",
    "ITS": "I think I've seen this before.",
    "IWL": "I would like a new alarm clock.",
    "IWW": "I wonder what this is about.",
    "MTI": "Maybe tomorrow it will be cold.",
    "TAI": "The airplane is almost full.",
    "TIE": "That is exactly what happened.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": None, "X": None}
_NAME = re.compile(r"(10\d\d)_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    stem = name.rpartition("/")[2]
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    speaker, sentence, emotion, intensity = match.groups()
    if sentence not in _SENTENCES or emotion not in _LABELS or intensity not in _INTENSITIES:
        return None
    return Utterance(
        id=stem,
        path=path,
        corpus="crema_d",
        label=_LABELS[emotion],
        speaker=speaker,
        sentence=sentence,
        transcript=_SENTENCES[sentence],
        language=LANGUAGE,
        intensity=_INTENSITIES[intensity],
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus from its repository, or from the folder of its sound files.

    Raises
    ------
    CorpusError
        If the folder holds nothing of it, or its ``VideoDemographics.csv`` cannot be read.
    """
    utterances = parse_tree(root, parse, corpus="crema_d", names=NAMES)
    people = _demographics(Path(root))
    described = []
    for one in utterances:
        gender, age = people.get(one.speaker, (None, None))
        described.append(replace(one, gender=gender, age=age))
    return described


def _demographics(root: Path) -> dict[str, tuple[str, float]]:
    """Gender and age of each actor, where the release's table is there."""
    tables = [folder / "VideoDemographics.csv" for folder in (root, root.absolute().parent)]
    path = next((table for table in tables if table.is_file()), None)
    if path is None:
        return {}
    people = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                people[row["ActorID"]] = (row["Sex"].lower(), float(row["Age"]))
            except (AttributeError, KeyError, TypeError, ValueError):
                raise CorpusError(
                    f"{path}, row {number}: expected the columns ActorID, Age (a number) and Sex: "
                    "get the table again from the release, or remove it"
                ) from None
    return people
