"""Readers of published corpora, and of anybody's own recordings.

One module per corpus, listed in :data:`CORPORA`. Each says in its docstring where the corpus comes
from and what is odd about it, and offers the same names: ``TITLE``, ``LANGUAGE``, ``LICENSE``,
``CITATION``, ``URL_HINT``, ``MANNER``, ``EXPECTED``, ``NAMES``, ``QUIRKS`` and ``read(root)``.
Three names are optional: ``parse(path, name)``, where everything about an utterance is in the name
of its file; ``CHANNEL``, where the channels must not be averaged; ``IGNORED``, glob patterns of
sound files that belong to the release but are no utterances. ``OPTIONS`` names the keyword
arguments that ``read`` takes beyond the root. Where what a complete copy holds depends on them,
``read_with_counts(root, ...)`` returns the utterances and the counts that stand for ``EXPECTED``.

Readers take the layout as released. They read names and labels only; whether the sound files are
sound is for :func:`serkit.corpora.check.verify_audio`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from serkit.audio import Channel, find_sound_files
from serkit.corpora import (
    cai,
    casia,
    cmu_mosei,
    crema_d,
    emodb,
    emovo,
    folder,
    iemocap,
    ravdess,
    savee,
    synthetic,
    table,
    tess,
)
from serkit.corpora.check import CorpusCheck, check_corpus
from serkit.corpora.manifest import CorpusCounts, CorpusError
from serkit.types import Utterance

__all__ = [
    "ALIASES",
    "CORPORA",
    "CorpusError",
    "catalogue",
    "channel_of",
    "get_corpus",
    "load_corpus",
    "read_corpus",
]

CORPORA: dict[str, ModuleType] = {
    "cai": cai,
    "casia": casia,
    "cmu_mosei": cmu_mosei,
    "crema_d": crema_d,
    "emodb": emodb,
    "emovo": emovo,
    "folder": folder,
    "iemocap": iemocap,
    "ravdess": ravdess,
    "savee": savee,
    "synthetic": synthetic,
    "table": table,
    "tess": tess,
}

ALIASES: dict[str, str] = {
    "berlin": "emodb",
    "cmu-mosei": "cmu_mosei",
    "crema": "crema_d",
    "crema-d": "crema_d",
    "cremad": "crema_d",
    "csv": "table",
    "emo-db": "emodb",
    "emo_db": "emodb",
    "mosei": "cmu_mosei",
    "ravde": "ravdess",
}
"""Names of the literature, in lower case -> key in :data:`CORPORA`."""


def get_corpus(name: str) -> tuple[str, ModuleType]:
    """Return the key and the module of a corpus, given any of its names, in any case.

    Raises
    ------
    CorpusError
        If there is no such corpus; the message has the nearest names.
    """
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key not in CORPORA:
        near = difflib.get_close_matches(key, [*CORPORA, *ALIASES], n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise CorpusError(f"unknown corpus '{name}': known are {', '.join(sorted(CORPORA))}{hint}")
    return key, CORPORA[key]


def channel_of(name: str) -> Channel:
    """Tell how a corpus's channels become one: ``mean``, or ``first`` where averaging harms."""
    channel: Channel = getattr(get_corpus(name)[1], "CHANNEL", "mean")
    return channel


def read_corpus(
    name: str,
    root: Path | str,
    *,
    allow_incomplete: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[Utterance]:
    """Read a corpus as released.

    Parameters
    ----------
    name
        Key in :data:`CORPORA` or one of :data:`ALIASES`.
    root
        The folder the release was unpacked into; for ``table`` also a file.
    allow_incomplete
        Accept a copy with missing or additional utterances.
    options
        Keyword arguments of the reader, as its ``OPTIONS`` lists them:
        ``{"speaker_pattern": ...}`` for ``folder``, ``{"columns": {...}}`` for ``table``,
        ``{"style": "improvised"}`` for ``iemocap``.

    Returns
    -------
    utterances, class-major in alphabetical class order, natural order of names inside a class

    Raises
    ------
    CorpusError
        If the corpus is unknown, the folder holds nothing of it, or the copy is incomplete.
    """
    utterances, _ = load_corpus(name, root, allow_incomplete=allow_incomplete, options=options)
    return utterances


def load_corpus(
    name: str,
    root: Path | str,
    *,
    allow_incomplete: bool = False,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[Utterance], CorpusCheck]:
    """Read a corpus as :func:`read_corpus` does, and return the check of its counts as well.

    The check's summary states the options, so that whatever quotes it says what was read.
    """
    key, module = get_corpus(name)
    root = Path(root)
    for option in options or {}:
        known: tuple[str, ...] = getattr(module, "OPTIONS", ())
        if option not in known:
            raise CorpusError(
                f"{key}: unknown option '{option}': "
                + (f"expected one of {', '.join(known)}" if known else "this reader has none")
            )
    utterances, expected = _read(module, root, options or {})
    check = check_corpus(
        utterances,
        expected,
        corpus=key,
        names=module.NAMES,
        unexpected=_unused(root, utterances, getattr(module, "IGNORED", ())),
        options=options,
    )
    if not check.complete and not allow_incomplete:
        raise CorpusError(
            f"{check.summary}; below {root}; get the rest, or accept this copy with "
            "--allow-incomplete (allow_incomplete=True)"
        )
    return utterances, check


def catalogue() -> list[dict[str, Any]]:
    """List every corpus with size, language, manner, licence and where to get it."""
    return [
        {
            "name": name,
            "title": module.TITLE,
            "n_utterances": module.EXPECTED.n_utterances,
            "n_speakers": module.EXPECTED.n_speakers,
            "classes": sorted(module.EXPECTED.per_label),
            "language": module.LANGUAGE,
            "manner": module.MANNER,
            "licence": module.LICENSE,
            "where": module.URL_HINT,
            "citation": module.CITATION,
            "aliases": sorted(alias for alias, key in ALIASES.items() if key == name),
        }
        for name, module in sorted(CORPORA.items())
    ]


def _read(
    module: ModuleType, root: Path, options: Mapping[str, Any]
) -> tuple[list[Utterance], CorpusCounts]:
    """Read, and tell what a complete copy holds under these options."""
    if hasattr(module, "read_with_counts"):
        counted: tuple[list[Utterance], CorpusCounts] = module.read_with_counts(root, **options)
        return counted
    return module.read(root, **options), module.EXPECTED


def _unused(root: Path, utterances: list[Utterance], ignored: tuple[str, ...]) -> list[str]:
    """Sound files below the root, relative to it, that no utterance uses."""
    if not root.is_dir():
        return []
    root = root.absolute()
    used = {utterance.path for utterance in utterances}
    names = [
        path.relative_to(root).as_posix() for path in find_sound_files(root) if path not in used
    ]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in ignored)]
