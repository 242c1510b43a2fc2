"""EMOVO, the first corpus of acted emotional speech in Italian, 2014.

Six actors (three women, three men) of the Fondazione Ugo Bordoni spoke fourteen sentences in the
six basic emotions and neutrally: 588 recordings, 84 per class, every combination once. 48 kHz,
16 bit, two channels.

As released a file is ``f1/dis-f1-b1.wav``: emotion, speaker, sentence. Emotions: dis disgusto
(disgust), gio gioia (joy), neu neutro, pau paura (fear), rab rabbia (anger), sor sorpresa
(surprise), tri tristezza (sadness). Sentences: b short, l long, n nonsense, d questions.

The channels are two microphones at different distances: their mean is a comb filter, so the first
channel is used.

Published label order (TIM-Net): angry, disgust, fear, happy, neutral, sad, surprise.
"""

from __future__ import annotations

import re
from pathlib import Path

from serkit.audio import Channel
from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.types import Utterance

TITLE = "EMOVO Corpus: an Italian Emotional Speech Database"
LANGUAGE = "it"
LICENSE = "free for research"
CITATION = (
    "G. Costantini, I. Iaderola, A. Paoloni, M. Todisco: EMOVO Corpus: an Italian Emotional Speech "
    "Database. LREC 2014, 3501-3504"
)
URL_HINT = "http://voice.fub.it/activities/corpora/emovo/index.html"
MANNER = "acted"
CHANNEL: Channel = "first"
EXPECTED = CorpusCounts(
    n_utterances=588,
    n_speakers=6,
    per_label=dict.fromkeys(
        ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), 84
    ),
)
NAMES = (
    "f1/dis-f1-b1.wav",
    "f1/gio-f1-l4.wav",
    "f2/neu-f2-n5.wav",
    "f3/pau-f3-d2.wav",
    "m1/rab-m1-b2.wav",
    "m2/sor-m2-n1.wav",
    "m3/tri-m3-l1.wav",
)
QUIRKS = (
    "Two microphones in two channels: averaging them comb-filters; the first channel is used.",
    "All speakers read the same fourteen sentences, three of them without sense.",
)

_LABELS = {
    "dis": "disgust",
    "gio": "happy",
    "neu": "neutral",
    "pau": "fear",
    "rab": "angry",
    "sor": "surprise",
    "tri": "sad",
}
_SENTENCES = {
    "b1": "Gli operai si alzano presto.",
    "b2": "I vigili sono muniti di pistola.",
    "b3": "La cascata fa molto rumore.",
    "l1": "L'autunno prossimo Tony partirà per la Spagna nella prima metà di ottobre.",
    "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
    "l3": "Un attimo dopo s'è incamminato ed è inciampato.",
    "l4": "Vorrei il numero telefonico del Signor Piatti.",
    "n1": "La casa forte vuole col pane.",
    "n2": "La forza trova il passo e l'aglio rosso.",
    "n3": "Il gatto sta scorrendo nella pera.",
    "n4": "Insalata pastasciutta coscia d'agnello limoncello.",
    "n5": "Uno quarantatré dieci mille cinquantasette venti.",
    "d1": "Sabato sera cosa farà?",
    "d2": "Porti con te quella cosa?",
}
_NAME = re.compile(r"([a-z]{3})-([fm][1-3])-([a-z]\d)", flags=re.IGNORECASE)


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name; ``None`` if it is not one of this corpus."""
    stem = name.rpartition("/")[2].lower()
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    emotion, speaker, sentence = match.groups()
    if emotion not in _LABELS or sentence not in _SENTENCES:
        return None
    return Utterance(
        id=stem,
        path=path,
        corpus="emovo",
        label=_LABELS[emotion],
        speaker=speaker,
        sentence=sentence,
        transcript=_SENTENCES[sentence],
        gender="female" if speaker[0] == "f" else "male",
        language=LANGUAGE,
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus: a folder per speaker, or all files in one folder."""
    return parse_tree(root, parse, corpus="emovo", names=NAMES)
