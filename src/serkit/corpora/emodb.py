"""Berlin Database of Emotional Speech (EMO-DB), German, 2005.

Ten actors (five women, five men) spoke ten everyday sentences, five short and five long, in seven
emotions in an anechoic chamber in Berlin in 1999. Of about 800 recordings the release keeps the 535
that at least 80 % of twenty listeners recognised and 60 % judged natural. 16 kHz mono, 16 bit;
1.23 to 8.98 s.

The name of a file says everything, ``03a01Fa.wav``: speaker ``03``, sentence ``a01``, emotion
``F``, version ``a``. The emotion letter is the first of the German word: W Wut (anger),
L Langeweile (boredom), E Ekel (disgust), A Angst (fear), F Freude (happiness), T Trauer (sadness),
N neutral.

Published label order (TIM-Net): angry, boredom, disgust, fear, happy, neutral, sad.
"""

from __future__ import annotations

import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.types import Utterance

TITLE = "Berlin Database of Emotional Speech (EMO-DB)"
LANGUAGE = "de"
LICENSE = "free to use; re-released as CC0"
CITATION = (
    "F. Burkhardt, A. Paeschke, M. Rolfes, W. F. Sendlmeier, B. Weiss: A Database of German "
    "Emotional Speech. Interspeech 2005"
)
URL_HINT = "http://emodb.bilderbar.info"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=535,
    n_speakers=10,
    per_label={
        "angry": 127,
        "boredom": 81,
        "disgust": 46,
        "fear": 69,
        "happy": 71,
        "neutral": 79,
        "sad": 62,
    },
    min_duration_s=1.2255,
    max_duration_s=8.97825,
)
NAMES = (
    "wav/03a01Fa.wav",
    "wav/03a01Nc.wav",
    "wav/03a01Wa.wav",
    "wav/08a01Lc.wav",
    "wav/08a02Tb.wav",
    "wav/13b03Ed.wav",
    "wav/16a01Ec.wav",
    "wav/16b10Aa.wav",
)
QUIRKS = (
    "The release is a selection: classes and speakers are unbalanced (46 disgust, 127 anger).",
    "Every speaker reads the same ten sentences, so splits by utterance share sentences.",
    "Copies cut to exactly 2.000 s at 22050 Hz are in circulation.",
)

_LABELS = {
    "W": "angry",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happy",
    "N": "neutral",
    "T": "sad",
}
_SPEAKERS = {
    "03": ("male", 31),
    "08": ("female", 34),
    "09": ("female", 21),
    "10": ("male", 32),
    "11": ("male", 26),
    "12": ("male", 30),
    "13": ("female", 32),
    "14": ("female", 35),
    "15": ("male", 25),
    "16": ("female", 31),
}
_SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    stem = name.rpartition("/")[2]
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    speaker, sentence, letter, _ = match.groups()
    if speaker not in _SPEAKERS or sentence not in _SENTENCES or letter not in _LABELS:
        return None
    gender, age = _SPEAKERS[speaker]
    return Utterance(
        id=stem,
        path=path,
        corpus="emodb",
        label=_LABELS[letter],
        speaker=speaker,
        sentence=sentence,
        transcript=_SENTENCES[sentence],
        gender=gender,
        age=float(age),
        language=LANGUAGE,
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus from its folder or from the ``wav`` folder in it."""
    return parse_tree(root, parse, corpus="emodb", names=NAMES)
