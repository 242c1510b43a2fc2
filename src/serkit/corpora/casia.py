"""CASIA Chinese emotional speech corpus, the openly circulating part, Mandarin, 2005.

The Institute of Automation of the Chinese Academy of Sciences recorded four professional speakers
(two women, two men) in six emotions: 9600 utterances, 300 texts read in every emotion and 100 texts
of its own for each. The part that circulates, and that the literature calls CASIA, has fifty of
the common texts, numbered 201 to 250: 1200 utterances, 200 per class, every combination once.
Mono; 16 kHz, other copies have 22.05 kHz.

As released a file is ``liuchanhg/angry/201.wav``: speaker, emotion, text. Copies sorted by class,
``angry/201-angry-liuchanhg.wav``, keep the speaker in the name. Where only class folders and
numbers are left, the speaker is lost: such files get the speaker ``unknown``, and no split can
keep speakers apart.

Published label order (TIM-Net): angry, fear, happy, neutral, sad, surprise.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, parse_tree
from serkit.labels import canonical_label
from serkit.types import Utterance

TITLE = "CASIA Chinese emotional speech corpus (50 common texts)"
LANGUAGE = "zh"
LICENSE = "by licence from the publisher, for research"
CITATION = (
    "Institute of Automation, Chinese Academy of Sciences: CASIA Mandarin emotional speech corpus. "
    "Chinese Linguistic Data Consortium, CLDC-SPC-2005-010"
)
URL_HINT = "http://www.chineseldc.org"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=1200,
    n_speakers=4,
    per_label=dict.fromkeys(("angry", "fear", "happy", "neutral", "sad", "surprise"), 200),
)
NAMES = (
    "liuchanhg/angry/201.wav",
    "liuchanhg/fear/202.wav",
    "wangzhe/happy/203.wav",
    "wangzhe/neutral/250.wav",
    "zhaoquanyin/sad/201.wav",
    "ZhaoZuoxiang/surprise/201.wav",
)
QUIRKS = (
    "The first speaker's folder is spelled 'liuchanhg' in the release.",
    "Copies with class folders and bare numbers have lost the speakers; they read as 'unknown'.",
    "All four speakers read the same fifty texts in every emotion.",
)

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"
_LABELS = ("angry", "fear", "happy", "neutral", "sad", "surprise")
_SPEAKERS = {
    "liuchanhg": ("liuchanhg", "female"),
    "liuchang": ("liuchanhg", "female"),
    "wangzhe": ("wangzhe", "male"),
    "zhaoquanyin": ("zhaoquanyin", "female"),
    "zhaozuoxiang": ("ZhaoZuoxiang", "male"),
}
_NUMBER = re.compile(r"\d{1,3}")


def parse(path: Path, name: str) -> Utterance | None:
    """Read a file's name and folders; ``None`` if it is not one of this corpus."""
    *folders, stem = name.split("/")
    words = [*folders[-2:], *re.split(r"[-_]", stem)]
    labels = {canonical_label(word) for word in words} & set(_LABELS)
    numbers = [word for word in words if _NUMBER.fullmatch(word)]
    if len(labels) != 1 or not numbers:
        return None
    label, number = labels.pop(), numbers[-1].zfill(3)
    speakers = [_SPEAKERS[word.lower()] for word in words if word.lower() in _SPEAKERS]
    speaker, gender = speakers[-1] if speakers else (_UNKNOWN, None)
    return Utterance(
        # Without a speaker nothing but the whole name tells the four readings of a text apart.
        id=f"{speaker}/{label}/{number}" if speakers else name,
        path=path,
        corpus="casia",
        label=label,
        speaker=speaker,
        sentence=number,
        gender=gender,
        language=LANGUAGE,
    )


def read(root: Path) -> list[Utterance]:
    """Read the corpus: speaker folders with class folders in them, or class folders only."""
    utterances = parse_tree(root, parse, corpus="casia", names=NAMES)
    n_unknown = sum(one.speaker == _UNKNOWN for one in utterances)
    if n_unknown:
        logger.warning(
            "casia: the speaker of %d of %d utterances is lost in this layout (expected %s); "
            "splits that keep speakers apart are impossible with this copy",
            n_unknown,
            len(utterances),
            NAMES[0],
        )
    return utterances
