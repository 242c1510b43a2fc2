"""Readers of corpora of clips: voice, words and face together, labelled by sentiment.

One module per corpus, listed in :data:`CLIP_CORPORA`. Each offers ``TITLE``, ``LANGUAGE``,
``LICENSE``, ``CITATION``, ``URL_HINT``, ``MANNER``, ``QUIRKS``, ``EXPECTED`` (the
counts of a complete copy), ``OPTIONS`` (the keyword arguments of ``read`` beyond the root),
``read(root, ...)`` and ``read_with_counts(root, ...)``, whose counts are those under the options.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from serkit.corpora import ch_sims, clip_table, synthetic_clips
from serkit.corpora.labelled_clips import ClipCheck, ClipCounts, LabelledClip, check_clips
from serkit.corpora.manifest import CorpusError

__all__ = ["CLIP_CORPORA", "clip_catalogue", "read_clip_corpus"]

CLIP_CORPORA: dict[str, ModuleType] = {
    "ch_sims": ch_sims,
    "synthetic_clips": synthetic_clips,
    "table": clip_table,
}


def read_clip_corpus(
    name: str,
    root: Path | str,
    *,
    allow_incomplete: bool = False,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[LabelledClip], ClipCheck]:
    """Read a corpus of clips as released, and check its counts.

    Parameters
    ----------
    name
        Key in :data:`CLIP_CORPORA`.
    root
        The folder the release was unpacked into; for ``table`` also a file.
    allow_incomplete
        Accept a copy with other counts, or with clips that are listed and not there.
    options
        Keyword arguments of the reader, as its ``OPTIONS`` lists them.

    Returns
    -------
    clips, in the order of the table
    check

    Raises
    ------
    CorpusError
        If the corpus or an option is unknown, the folder holds nothing of it, or the copy is
        incomplete.
    """
    if name not in CLIP_CORPORA:
        raise CorpusError(f"unknown corpus of clips '{name}': known are {', '.join(CLIP_CORPORA)}")
    module = CLIP_CORPORA[name]
    for option in options or {}:
        if option not in module.OPTIONS:
            known = (
                f"expected one of {', '.join(module.OPTIONS)}" if module.OPTIONS else "it has none"
            )
            raise CorpusError(f"{name}: unknown option '{option}': {known}")
    found: tuple[list[LabelledClip], ClipCounts] = module.read_with_counts(
        Path(root), **(options or {})
    )
    clips, expected = found
    check = check_clips(clips, expected, corpus=name)
    if not check.complete and not allow_incomplete:
        advice = "--allow-incomplete (allow_incomplete=True)"
        if name == "ch_sims":
            advice += ", or name another release (option release)"
        raise CorpusError(f"{check.summary}; below {root}; get the rest, or go on with {advice}")
    return clips, check


def clip_catalogue() -> list[dict[str, Any]]:
    """List every corpus of clips with size, language, manner, licence and where to get it."""
    return [
        {
            "name": name,
            "title": module.TITLE,
            "n_clips": module.EXPECTED.n_clips,
            "language": module.LANGUAGE,
            "manner": module.MANNER,
            "licence": module.LICENSE,
            "where": module.URL_HINT,
            "citation": module.CITATION,
        }
        for name, module in CLIP_CORPORA.items()
    ]
