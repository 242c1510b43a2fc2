"""Interactive Emotional Dyadic Motion Capture database (IEMOCAP), English, 2008.

Ten actors in five sessions, a woman and a man each, improvised eight scenes and played three
scripts; about twelve hours, 10 039 turns. Three raters or more gave every turn categories, and two
or more rated valence, activation and dominance from 1 to 5. 16 kHz.

Labels come from ``Session*/dialog/EmoEvaluation/*.txt``, one line per turn::

    [6.2901 - 8.2357]  Ses01F_impro01_F000  neu  [2.5000, 2.5000, 2.5000]

with valence, activation, dominance in this order. The category is the majority's; ``xxx`` (no
majority) reads as no label, ``oth`` as *other*. Ratings are scaled from 1..5 to 0..1, activation is
called arousal. Words come from ``dialog/transcriptions``. The sound of a turn is
``sentences/wav/<dialogue>/<turn>``; where these files are absent, the turn's stretch of
``dialog/wav/<dialogue>``.

In ``Ses01F_impro01_M003`` the first F says who wore the motion-capture markers in this recording;
the speaker of the turn is given by the *last* letter, M. Speakers are named ``Ses01F`` ...
``Ses05M`` here. The dialogue, ``Ses01F_impro01``, names the recording and then the script or scene,
with a letter where there are several takes; the splits ``recording_folds`` and
``speaker_and_script`` go by that.

Published class selections: angry 1103, happy + excited 1636, neutral 1708, sad 1084 (5531 turns;
TIM-Net's order angry, happy, neutral, sad); improvised turns only with excited for happy (2659):
``style="improvised"`` reads those alone, 4784 of all turns.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from serkit.audio import SOUND_SUFFIXES, find_sound_files
from serkit.corpora.manifest import (
    CorpusCounts,
    CorpusError,
    require_folder,
    sort_utterances,
)
from serkit.types import Utterance

TITLE = "Interactive Emotional Dyadic Motion Capture database (IEMOCAP)"
LANGUAGE = "en"
LICENSE = "by licence from the publisher, for research; no redistribution"
CITATION = (
    "C. Busso, M. Bulut, C.-C. Lee, A. Kazemzadeh, E. Mower, S. Kim, J. N. Chang, S. Lee, "
    "S. S. Narayanan: IEMOCAP: Interactive emotional dyadic motion capture database. Language "
    "Resources and Evaluation 42(4), 2008, 335-359"
)
URL_HINT = "https://sail.usc.edu/iemocap/"
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=10039,
    n_speakers=10,
    per_label={
        "angry": 1103,
        "disgust": 2,
        "excited": 1041,
        "fear": 40,
        "frustrated": 1849,
        "happy": 595,
        "neutral": 1708,
        "other": 3,
        "sad": 1084,
        "surprise": 107,
    },
    n_unlabelled=2507,
)
NAMES = (
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav",
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M002.wav",
    "Session1/sentences/wav/Ses01M_script01_1/Ses01M_script01_1_F000.wav",
    "Session1/sentences/wav/Ses01M_script01_1/Ses01M_script01_1_M000.wav",
    "Session1/sentences/wav/Ses01M_script01_1/Ses01M_script01_1_M001.wav",
    "Session5/sentences/wav/Ses05F_impro05/Ses05F_impro05_F000.wav",
    "Session5/sentences/wav/Ses05F_impro05/Ses05F_impro05_F001.wav",
    "Session5/sentences/wav/Ses05F_impro05/Ses05F_impro05_M000.wav",
    "Session5/sentences/wav/Ses05F_impro05/Ses05F_impro05_M001.wav",
)
QUIRKS = (
    "The letter after the session number tells who wore markers, not who speaks: folds made from "
    "it (01F to 05M in the literature; here recording_folds) share speakers between train and "
    "test.",
    "Turns of one dialogue overlap in time; the partner may be audible.",
    "All sessions play the same scripts: scripted turns repeat words across sessions.",
    "A few ratings lie above the scale's 5; they are cut to 1.",
    "Transcripts hold bracketed events such as [LAUGHTER]; they are kept.",
)
IGNORED = ("*Session[1-5]/dialog/*", "dialog/*")
OPTIONS = ("style",)

Style = Literal["improvised", "scripted", "all"]

logger = logging.getLogger(__name__)

_N_TURNS = {"improvised": 4784, "scripted": 5255}

_LABELS = {
    "ang": "angry",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fear",
    "fru": "frustrated",
    "hap": "happy",
    "neu": "neutral",
    "oth": "other",
    "sad": "sad",
    "sur": "surprise",
    "xxx": None,
}
_TURN = re.compile(r"(Ses0[1-5])[FM]_(impro|script)\w*_([FM])\d{3}")
_EVALUATION = re.compile(
    r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\S+)\s+"
    r"\[\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)\s*\]"
)
_TRANSCRIPT = re.compile(r"(\S+)\s+\[[\d.]+\s*-\s*[\d.]+\]\s*:\s*(.*)")


def parse(path: Path, name: str) -> Utterance | None:
    """Read the name of a turn: all but label, ratings and words; ``None`` if it is not a turn's."""
    turn = name.rpartition("/")[2]
    match = _TURN.fullmatch(turn)
    if match is None:
        return None
    session, style, letter = match.groups()
    return Utterance(
        id=turn,
        path=path,
        corpus="iemocap",
        label=None,
        speaker=session + letter,
        gender="female" if letter == "F" else "male",
        language=LANGUAGE,
        session=session,
        dialogue=turn.rpartition("_")[0],
        style="improvised" if style == "impro" else "scripted",
    )


def read(root: Path, *, style: Style = "all") -> list[Utterance]:
    """Read the corpus from the folder that holds ``Session1`` ... ``Session5``.

    Turns whose sound is not there are left out.

    Parameters
    ----------
    root
        The folder of the full release.
    style
        ``improvised`` or ``scripted`` keeps the turns of that style alone.

    Raises
    ------
    CorpusError
        If the style is unknown, there are no evaluations or no sound of that style below the
        folder, or an evaluation cannot be read.
    """
    if style not in get_args(Style):
        raise CorpusError(
            f"iemocap: unknown style '{style}': expected one of {', '.join(get_args(Style))}"
        )
    turns = [turn for turn in _all_turns(root) if style in ("all", turn.style)]
    if not turns:
        raise CorpusError(
            f"iemocap: no {style} turns below {root}: get the rest of the release, or choose "
            "style 'all'"
        )
    return turns


def read_with_counts(root: Path, *, style: Style = "all") -> tuple[list[Utterance], CorpusCounts]:
    """Read as :func:`read` does, and say how many turns of that style the release holds."""
    turns = read(root, style=style)
    if style == "all":
        return turns, EXPECTED
    return turns, CorpusCounts(n_utterances=_N_TURNS[style], n_speakers=EXPECTED.n_speakers)


def _all_turns(root: Path) -> list[Utterance]:
    """Read the turns of both styles, in serkit's order."""
    root = require_folder(root, "iemocap")
    evaluations = [
        path
        for path in sorted(root.glob("**/dialog/EmoEvaluation/*.txt"))
        if not path.name.startswith(".")
    ]
    if not evaluations:
        raise CorpusError(
            f"iemocap: no Session*/dialog/EmoEvaluation/*.txt below {root}: "
            "give the folder of the full release; the sound files alone carry no labels"
        )
    sounds = {path.stem: path for path in reversed(find_sound_files(root))}
    found: dict[str, Utterance] = {}
    n_turns = n_cut = 0
    for evaluation in evaluations:
        words = _transcripts(evaluation.parent.parent / "transcriptions" / evaluation.name)
        for utterance in _turns(evaluation):
            n_turns += 1
            utterance = replace(utterance, transcript=words.get(utterance.id))
            if utterance.id in sounds:
                path = sounds[utterance.id]
                found.setdefault(
                    utterance.id, replace(utterance, path=path, start_s=0.0, end_s=None)
                )
            elif utterance.dialogue in sounds:
                n_cut += 1
                found.setdefault(utterance.id, replace(utterance, path=sounds[utterance.dialogue]))
    if not found:
        raise CorpusError(
            f"iemocap: {n_turns} turns are labelled below {root}, but neither sentences/wav nor "
            f"dialog/wav has sound for any (suffixes {', '.join(SOUND_SUFFIXES)})"
        )
    if n_cut:
        logger.info("iemocap: %d turns are read as stretches of their dialogue's file", n_cut)
    return sort_utterances(found.values())


def _turns(evaluation: Path) -> list[Utterance]:
    """Read the turns of one dialogue: labels, ratings, times; the sound file is yet unknown."""
    turns = []
    for number, line in enumerate(_lines(evaluation), start=1):
        if not re.match(r"\[\s*\d", line):  # raters' single votes and the header
            continue
        match = _EVALUATION.match(line)
        utterance = parse(evaluation, match[3]) if match else None
        if match is None or utterance is None or match[4] not in _LABELS:
            raise CorpusError(
                f"{evaluation}, row {number}: got '{line.strip()}', expected "
                "'[start - end] turn label [valence, activation, dominance]' with a label of "
                f"{', '.join(_LABELS)}"
            )
        valence, arousal, dominance = (_unit(float(match[i])) for i in (5, 6, 7))
        turns.append(
            replace(
                utterance,
                label=_LABELS[match[4]],
                start_s=float(match[1]),
                end_s=float(match[2]),
                arousal=arousal,
                valence=valence,
                dominance=dominance,
            )
        )
    return turns


def _transcripts(path: Path) -> dict[str, str]:
    """Read the words of each turn of one dialogue; empty where the release's file is absent."""
    if not path.is_file():
        return {}
    matches = (_TRANSCRIPT.match(line) for line in _lines(path))
    return {match[1]: match[2].strip() for match in matches if match}


def _lines(path: Path) -> list[str]:
    # A few bytes of the release are not UTF-8; every byte is a Latin-1 letter.
    return path.read_text(encoding="latin-1").splitlines()


def _unit(rating: float) -> float:
    """Scale 1..5 to 0..1."""
    return min(max((rating - 1) / 4, 0.0), 1.0)
