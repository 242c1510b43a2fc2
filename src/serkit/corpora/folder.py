r"""Anybody's recordings, sorted into one sub-folder per class.

The names of the sub-folders are the labels; known English emotion words are translated into
serkit's spelling (``Anger`` -> ``angry``), others are kept. Speakers come from

* second-level folders, ``angry/anna/take 1.wav``; or
* a regular expression searched for in the name below the root, whose group ``speaker`` (or whose
  only group) is the speaker: ``speaker_pattern=r"(spk\d+)_"``; or
* nothing: then every speaker is ``unknown``, which is said loudly, because a score on voices that
  the model was trained on does not tell how it does on others.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from serkit.corpora.manifest import CorpusCounts, CorpusError, parse_tree
from serkit.labels import canonical_label
from serkit.types import Utterance

TITLE = "Your recordings: one sub-folder per class"
LANGUAGE = ""
LICENSE = "yours"
CITATION = ""
URL_HINT = "sort sound files into class/speaker/file"
MANNER = "natural"
EXPECTED = CorpusCounts()
NAMES = (
    "angry/anna/take 1.wav",
    "angry/ben/take 1.wav",
    "neutral/anna/take 1.wav",
    "neutral/ben/take 10.wav",
    "neutral/ben/take 2.wav",
)
QUIRKS = ("Without speaker folders or a speaker pattern all speakers are 'unknown'.",)
OPTIONS = ("speaker_pattern",)

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"


def read(root: Path, *, speaker_pattern: str | None = None) -> list[Utterance]:
    r"""Read every sound file that lies in a class folder.

    Parameters
    ----------
    root
        The folder that holds the class folders.
    speaker_pattern
        Regular expression with a group named ``speaker``, or with one group.

    Raises
    ------
    CorpusError
        If there are no class folders with sound files, the pattern is not a regular expression with
        such a group, or it does not match a file.
    """
    pattern = None if speaker_pattern is None else _compile(speaker_pattern)

    def parse(path: Path, name: str) -> Utterance | None:
        label, *folders = name.split("/")[:-1] or [""]
        if not label:
            return None
        speaker = folders[0] if folders else _UNKNOWN
        if pattern is not None:
            match = pattern.search(name)
            speaker = match["speaker" if "speaker" in pattern.groupindex else 1] if match else ""
            if not speaker:
                raise CorpusError(
                    f"folder: the speaker pattern '{speaker_pattern}' finds no speaker in '{name}'"
                )
        return Utterance(
            id=name, path=path, corpus="folder", label=canonical_label(label), speaker=speaker
        )

    utterances = parse_tree(root, parse, corpus="folder", names=NAMES)
    n_unknown = sum(one.speaker == _UNKNOWN for one in utterances)
    if n_unknown:
        logger.warning(
            "folder: the speaker of %d of %d files below %s is unknown, so no split can keep "
            "speakers apart and scores will be optimistic: use class/speaker/file or a "
            "speaker_pattern",
            n_unknown,
            len(utterances),
            root,
        )
    return utterances


def _compile(speaker_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(speaker_pattern)
    except re.error as error:
        raise CorpusError(
            f"folder: the speaker pattern '{speaker_pattern}' is not a regular expression: {error}"
        ) from None
    if pattern.groups != 1 and "speaker" not in pattern.groupindex:
        raise CorpusError(
            f"folder: the speaker pattern '{speaker_pattern}' has {pattern.groups} groups, "
            "expected one, or one named (?P<speaker>...)"
        )
    return pattern
