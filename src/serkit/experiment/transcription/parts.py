"""Who is trained on, selected by and judged by in a transcription experiment; what is spelled.

Utterances without words, or of a length that is not wanted, are left out; every report counts them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from serkit.audio import file_sha256, probe
from serkit.corpora import channel_of
from serkit.corpora.leaks import LeakReport, check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import protocol_words
from serkit.experiment.config import ConfigError, CorpusConfig, Strict
from serkit.experiment.progress import Progress
from serkit.experiment.reading import read_part
from serkit.transcripts import CtcStyle, Symbols, ctc_clean
from serkit.types import Fold, InputError, Utterance

__all__ = [
    "LengthConfig",
    "PartsConfig",
    "SpokenCorpus",
    "TextConfig",
    "channel_of_corpus",
    "corpus_symbols",
    "read_spoken_corpus",
    "read_symbols",
    "spelled",
]

BLANK, UNKNOWN, BOUNDARY, EDGE = "<blank>", "<unk>", "|", "<eos>"

_NO_CASE = Symbols((BLANK, BOUNDARY))
_CHINESE_SPACE = re.compile(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])")
_SPACES = ("<space>", "<sp>")  # as vocabulary files of other systems call the end of a word


class PartsConfig(Strict):
    """How utterances are divided."""

    split: Literal["auto", "sentence", "speaker", "official"] = Field(
        default="auto",
        description="sentence, speaker: no part shares them; official: the parts the corpus "
        "prescribes; auto: those where there are any, else sentence",
    )
    dev_fraction: float = Field(
        default=0.1, gt=0, lt=0.5, description="of the sentences or speakers, at least one"
    )
    test_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    seed: int = Field(default=0, ge=0, description="shuffles sentences or speakers")


class TextConfig(Strict):
    """What a recogniser is to spell."""

    style: CtcStyle = Field(
        default="spoken", description="what is cleaned from a transcript; see serkit.transcripts"
    )
    symbols: str = Field(
        default="corpus",
        description="corpus (the characters of the training part), a vocab.json, or a text file "
        "with one symbol per line",
    )
    min_count: int = Field(
        default=2, ge=1, description="corpus: rarer characters of the training part have no symbol"
    )
    unknown: Literal["drop", "<unk>"] = Field(
        default="<unk>", description="what becomes of characters without a symbol"
    )


class LengthConfig(Strict):
    """How long utterances may be."""

    shortest_s: float = Field(default=0.5, ge=0)
    longest_s: float = Field(default=20.0, gt=0)


@dataclass(frozen=True, slots=True)
class SpokenCorpus:
    """A corpus divided into parts.

    Attributes
    ----------
    fold
        Ids of the parts.
    utterances
        By id; durations are known, transcripts are as they were written, and ``sentence`` is a key
        of the words.
    description
        What a report says of the corpus.
    split
        The rule that divided it.
    counts
        Utterances left out, by reason.
    leaks, warnings
        What the parts share.
    """

    fold: Fold
    utterances: dict[str, Utterance]
    description: dict[str, Any]
    split: str
    counts: dict[str, int]
    leaks: LeakReport
    warnings: tuple[str, ...]

    def part(self, name: str) -> list[Utterance]:
        """Give the utterances of ``train``, ``dev`` or ``test``."""
        return [self.utterances[one] for one in getattr(self.fold, name)]


def read_spoken_corpus(
    corpus: CorpusConfig,
    *,
    parts: PartsConfig,
    length: LengthConfig,
    dev: str | None,
    test: str | None,
    corpora_dir: Path | None,
    progress: Progress,
) -> SpokenCorpus:
    """Read a corpus with transcripts and divide it.

    Parameters
    ----------
    dev, test
        Manifests of these parts, where they are separate.

    Raises
    ------
    InputError
        If a corpus cannot be read, has no transcripts, or is too small to be divided so.
    """
    if corpus.features is not None:
        raise ConfigError("corpus.features: a speech recogniser is trained on sound: leave it out")
    whole = read_part(corpus, corpora_dir, progress)
    counts: Counter[str] = Counter()
    own = _usable(whole.utterances, length, counts)
    beside = {
        name: _usable(
            read_part(CorpusConfig(manifest=path), corpora_dir, progress).utterances, length, counts
        )
        for name, path in (("dev", dev), ("test", test))
        if path is not None
    }
    beside = {name: _renamed(found, name, own) for name, found in beside.items()}
    split, divided = _divide(own, parts, given=frozenset(beside))
    divided |= beside
    for name in ("train", "dev", "test"):
        if not divided[name]:
            raise ConfigError(
                f"the {name} part is empty after division by {split}: "
                f"{len(own)} utterances with words of a length from {length.shortest_s:g} to "
                f"{length.longest_s:g} s were read; name another protocol.split or manifests"
            )
    fold = Fold(
        name="all",
        **{name: tuple(u.id for u in divided[name]) for name in ("train", "dev", "test")},
    )
    everybody = {u.id: u for found in divided.values() for u in found}
    leaks = _leaks(fold, everybody, split if not beside else "")
    words = protocol_words("official", "none", separates=leaks.kept_apart)
    return SpokenCorpus(
        fold, everybody, whole.description, split, dict(counts), leaks, tuple(words)
    )


def channel_of_corpus(name: str) -> Literal["mean", "first"]:
    """Tell which channel of a corpus's files is heard."""
    try:
        return channel_of(name)
    except CorpusError:
        return "mean"


def corpus_symbols(
    transcripts: Iterable[str], *, min_count: int, unknown: Literal["drop", "<unk>"]
) -> Symbols:
    """Collect the characters of a training part, the commonest first, in lower case.

    Characters that occur fewer than ``min_count`` times are left out. The last symbol, ``<eos>``,
    begins and ends transcripts for attention decoders; the end of a word has a symbol where the
    transcripts have spaces.

    >>> corpus_symbols(["Ja, so so.", "so?"], min_count=2, unknown="<unk>").symbols
    ('<blank>', '<unk>', '|', 'o', 's', '<eos>')
    """
    found = Counter(char for text in transcripts for char in spelled(text).lower())
    boundary = [BOUNDARY] if found.pop(" ", 0) else []
    kept = sorted((-n, char) for char, n in found.items() if n >= min_count)
    symbols = (BLANK, UNKNOWN, *boundary, *(char for _, char in kept), EDGE)
    return Symbols(symbols, unknown)


def spelled(text: str | None, *, style: CtcStyle = "spoken", symbols: Symbols = _NO_CASE) -> str:
    """Make of a transcript what is to be spelled; Chinese has no spaces where it is punctuated.

    >>> spelled("你好, 世界! OK?")
    '你好世界 OK'
    """
    clean = ctc_clean(text, style=style, symbols=symbols)
    return _CHINESE_SPACE.sub("", clean) if style == "spoken" else clean


def read_symbols(path: Path, *, unknown: Literal["drop", "<unk>"]) -> Symbols:
    """Read symbols from a ``vocab.json``, or from a text file with one per line, the blank first.

    A line may hold a count behind its symbol; ``<space>`` is the end of a word.

    Raises
    ------
    InputError
        If the file cannot be read or holds no symbols.
    """
    if path.suffix == ".json":
        return Symbols.read(path, unknown=unknown)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from None
    names = [line.split("\t")[0].split(" ")[0].strip() for line in lines if line.strip()]
    try:
        return Symbols(tuple(BOUNDARY if one in _SPACES else one for one in names), unknown)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _usable(
    utterances: Sequence[Utterance], length: LengthConfig, counts: Counter[str]
) -> list[Utterance]:
    """Leave out what has no words or another length than is wanted; measure the others."""
    kept = []
    for one in utterances:
        words = spelled(one.transcript).lower()
        if not words:
            counts["no transcript" if one.transcript is None else "no words in the transcript"] += 1
            continue
        seconds = one.duration_s
        if seconds is None:
            end_s = one.end_s if one.end_s is not None else probe(one.path).duration_s
            seconds = end_s - one.start_s
        if seconds < length.shortest_s:
            counts[f"shorter than {length.shortest_s:g} s"] += 1
        elif seconds > length.longest_s:
            counts[f"longer than {length.longest_s:g} s"] += 1
        else:
            kept.append(replace(one, duration_s=seconds, sentence=words))
    if not kept:
        reasons = ", ".join(f"{n} {why}" for why, n in counts.items()) or "it is empty"
        raise InputError(
            f"no utterance of the corpus can be used ({reasons}): give one with transcripts, or "
            "set length.shortest_s and length.longest_s"
        )
    return kept


def _renamed(
    utterances: Sequence[Utterance], part: str, others: Sequence[Utterance]
) -> list[Utterance]:
    """Tell utterances of a separate manifest from those of the same name in the main one."""
    taken = {one.id for one in others}
    return [replace(u, id=f"{part}/{u.id}" if u.id in taken else u.id) for u in utterances]


def _divide(
    utterances: Sequence[Utterance], parts: PartsConfig, *, given: frozenset[str]
) -> tuple[str, dict[str, list[Utterance]]]:
    """Divide utterances into the parts that are not given."""
    prescribed = {u.official_part for u in utterances}
    split = parts.split
    if split == "auto":
        split = (
            "official"
            if {"train", "test"} <= prescribed and None not in prescribed
            else ("sentence")
        )
    divided: dict[str, list[Utterance]] = {"train": list(utterances), "dev": [], "test": []}
    if given == {"dev", "test"}:
        return "manifests", divided
    if split == "official":
        for name in divided:
            divided[name] = [u for u in utterances if u.official_part == name]
        if divided["dev"] or "dev" in given:
            return split, divided
        if not divided["train"]:
            return split, divided
        drawn = _draw(divided["train"], _words_of, {"dev": parts.dev_fraction}, parts.seed)
        return "official, dev by sentence", divided | drawn
    group = _words_of if split == "sentence" else _speaker_of
    if split == "speaker" and any(u.speaker == "unknown" for u in utterances):
        raise ConfigError(
            "protocol.split = speaker, but the corpus does not say who speaks: set "
            "protocol.split = sentence"
        )
    shares = {"test": parts.test_fraction, "dev": parts.dev_fraction}
    wanted = {name: share for name, share in shares.items() if name not in given}
    return split, divided | _draw(utterances, group, wanted, parts.seed)


def _words_of(utterance: Utterance) -> str:
    return str(utterance.sentence)


def _speaker_of(utterance: Utterance) -> str:
    return f"{utterance.corpus}:{utterance.speaker}"


def _draw(
    utterances: Sequence[Utterance],
    group: Callable[[Utterance], str],
    shares: dict[str, float],
    seed: int,
) -> dict[str, list[Utterance]]:
    """Draw groups for some parts; the rest is trained on. The order of utterances is no matter."""
    groups = sorted({group(u) for u in utterances}, key=lambda name: _rank(name, seed))
    if len(groups) <= len(shares):
        raise ConfigError(
            f"{len(groups)} different sentences or speakers cannot be divided into "
            f"{len(shares) + 1} parts: name another protocol.split or separate manifests"
        )
    part_of: dict[str, str] = {}
    at = 0
    for name, share in shares.items():
        n = max(1, round(share * len(groups)))
        part_of |= dict.fromkeys(groups[at : at + n], name)
        at += n
    return {
        name: [u for u in utterances if part_of.get(group(u), "train") == name]
        for name in ("train", *shares)
    }


def _rank(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _leaks(fold: Fold, utterances: dict[str, Utterance], split: str) -> LeakReport:
    """Look for what the parts share; what the split promises to keep apart must be."""
    promised = frozenset({split}) & {"sentence", "speaker"}
    known: dict[Path, str] = {}
    hashes = {}
    for one in utterances.values():
        if one.path not in known:
            known[one.path] = file_sha256(one.path)
        hashes[one.id] = f"{known[one.path]}:{one.start_s}:{one.end_s}"
    leaks = check_leaks(list(utterances.values()), [fold], separates=promised, audio_hashes=hashes)
    leaks.raise_if_broken()
    return leaks
