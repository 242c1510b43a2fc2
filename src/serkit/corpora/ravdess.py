"""Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS), the speech part, 2018.

Twenty-four professional actors (twelve women, twelve men) spoke two sentences in North American
English in eight emotions, each twice at normal and at strong intensity; neutral has normal
intensity only. 1440 recordings; 48 kHz, 16 bit; 2.9 to 5.3 s with silence at both ends.

The name of a file has seven fields, ``03-01-06-01-02-01-12.wav``: modality (03 audio only), vocal
channel (01 speech, 02 song), emotion (01 neutral, 02 calm, 03 happy, 04 sad, 05 angry, 06 fearful,
07 disgust, 08 surprised), intensity (01 normal, 02 strong), sentence, repetition, actor (odd
numbers are men). Song and the sound of the videos are left out.

Published label order (TIM-Net): angry, calm, disgust, fear, happy, neutral, sad, surprise.
"""

from __future__ import annotations

import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.types import Utterance

TITLE = "Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS), speech"
LANGUAGE = "en"
LICENSE = "CC BY-NC-SA 4.0"
CITATION = (
    "S. R. Livingstone, F. A. Russo: The Ryerson Audio-Visual Database of Emotional Speech and "
    "Song (RAVDESS). PLoS ONE 13(5), 2018, doi:10.1371/journal.pone.0196391"
)
URL_HINT = "https://doi.org/10.5281/zenodo.1188976"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=1440,
    n_speakers=24,
    per_label={
        "angry": 192,
        "calm": 192,
        "disgust": 192,
        "fear": 192,
        "happy": 192,
        "neutral": 96,
        "sad": 192,
        "surprise": 192,
    },
    min_duration_s=2.936,
    max_duration_s=5.272,
)
NAMES = (
    "Actor_01/03-01-01-01-01-01-01.wav",
    "Actor_01/03-01-02-01-01-01-01.wav",
    "Actor_01/03-01-03-02-01-02-01.wav",
    "Actor_01/03-01-04-01-02-01-01.wav",
    "Actor_12/03-01-05-02-02-02-12.wav",
    "Actor_12/03-01-06-01-02-01-12.wav",
    "Actor_12/03-01-07-02-01-01-12.wav",
    "Actor_24/03-01-08-01-02-02-24.wav",
)
QUIRKS = (
    "Models trained on it inherit the caution 'non-commercial'.",
    "03-01-03-01-02-01-07 and 03-01-03-01-02-02-07 carry identical audio in every public copy.",
    "Two sentences in all: every split by speaker shares its sentences.",
    "Some redistributions hold the whole tree twice; the second copy is not read.",
    "The silence before and after speech varies little and may carry information on the take.",
)
IGNORED = (
    # Song is part of the release, but no speech.
    "*[0-9][0-9]-02-[0-9][0-9]-[0-9][0-9]-[0-9][0-9]-[0-9][0-9]-[0-9][0-9].*",
)

_LABELS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
_INTENSITIES = {"01": "normal", "02": "strong"}
_SENTENCES = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
_NAME = re.compile(r"03-01-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    stem = name.rpartition("/")[2]
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    emotion, intensity, sentence, repetition, actor = match.groups()
    if (
        emotion not in _LABELS
        or intensity not in _INTENSITIES
        or sentence not in _SENTENCES
        or repetition not in ("01", "02")
        or not 1 <= int(actor) <= 24
    ):
        return None
    return Utterance(
        id=stem,
        path=path,
        corpus="ravdess",
        label=_LABELS[emotion],
        speaker=actor,
        sentence=sentence,
        transcript=_SENTENCES[sentence],
        gender="male" if int(actor) % 2 else "female",
        language=LANGUAGE,
        intensity=_INTENSITIES[intensity],
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus: ``Actor_*`` folders, the folder above them, or all files in one folder."""
    return parse_tree(root, parse, corpus="ravdess", names=NAMES)
