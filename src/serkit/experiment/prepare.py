"""Verify a corpus as released and write its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.corpora import get_corpus, load_corpus
from serkit.corpora.check import AudioCheck, CorpusCheck, verify_audio
from serkit.corpora.manifest import CorpusError, export_manifest

__all__ = ["Prepared", "prepare_corpus"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found, and whether it may be used."""

    counts: CorpusCheck
    sound: AudioCheck
    manifest: Path | None
    usable: bool

    def lines(self) -> list[str]:
        """Sentences for people."""
        lines = [*self.counts.lines(), *self.sound.lines()]
        if self.manifest is not None:
            lines.append(f"manifest: {self.manifest}")
        elif not self.usable:
            lines.append("no manifest written: --allow-incomplete goes on with what is there")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "corpus": self.counts.corpus,
            "complete": self.counts.complete and self.sound.complete,
            "differences": self.counts.differences(),
            "unexpected": list(self.counts.unexpected),
            "problems": list(self.sound.problems),
            "notes": list(self.sound.notes),
            "manifest": None if self.manifest is None else str(self.manifest),
        }


def prepare_corpus(
    name: str,
    root: Path,
    *,
    out: Path | None = None,
    manifest_format: str = "serkit",
    allow_incomplete: bool = False,
    decode: bool = False,
) -> Prepared:
    """Read a corpus, check counts and sound files, write a manifest unless something is wrong.

    Raises
    ------
    InputError
        If the corpus is unknown, the folder holds nothing of it, or the manifest cannot be written.
    """
    formats = ("serkit", "audformat", "nkululeko", "emobox")
    if manifest_format not in formats:
        raise CorpusError(f"--format {manifest_format}: expected one of {', '.join(formats)}")
    key, module = get_corpus(name)
    utterances, counts = load_corpus(key, root, allow_incomplete=True)
    sound = verify_audio(utterances, expected=module.EXPECTED, decode=decode)
    usable = allow_incomplete or (counts.complete and sound.complete)
    if out is None or not usable:
        return Prepared(counts, sound, None, usable)
    export_manifest(out, sound.utterances, format=manifest_format)  # type: ignore[arg-type]
    return Prepared(counts, sound, out, usable)
