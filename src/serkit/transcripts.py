"""Transcripts: what is cleaned from them, and the symbols that they are spelled in.

A transcript says more than its words: corpora write laughter as ``[LAUGHTER]`` or ``{LG}``, pauses
as a dot of their own. :data:`CTC_STYLES` names ways to make of it what a network can learn to
spell; all but ``spoken`` are those of published systems, faults included. :class:`Symbols` turns
the result into integers and a network's frames back into text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from serkit.types import InputError

__all__ = [
    "CTC_STYLES",
    "WAV2VEC2",
    "CtcStyle",
    "Symbols",
    "clean_transcript",
    "ctc_clean",
    "strip_events",
]

CtcStyle = Literal["spoken", "mmer", "cai", "cai_timit", "cai_buckwalter"]

_UNKNOWN = ("<unk>", "[UNK]")
_BOUNDARIES = ("|", " ")
_MISSING = "NULL"  # what the published systems spell where there is no transcript


@dataclass(frozen=True, slots=True)
class Symbols:
    """What a network for connectionist temporal classification (CTC) tells apart, in index order.

    Attributes
    ----------
    symbols
        The first is the blank. Characters stand for themselves, ``|`` (or else a space) for the
        end of a word; longer symbols, such as ``<s>``, stand for nothing that is written.
    unknown
        What becomes of characters without a symbol: ``drop`` leaves them out, as published systems
        do; ``<unk>`` spells them with the symbol ``<unk>`` or ``[UNK]``.

    Raises
    ------
    InputError
        If a symbol is empty or there twice, the first is a character, or ``<unk>`` is asked for
        and not there.
    """

    symbols: tuple[str, ...]
    unknown: Literal["drop", "<unk>"] = "drop"

    def __post_init__(self) -> None:
        if len(self.symbols) < 2 or len(self.symbols[0]) < 2:
            raise InputError(
                f"symbols {list(self.symbols[:3])}: expected the blank first, as in '<pad>', and "
                "then the characters"
            )
        twice = [symbol for symbol, count in Counter(self.symbols).items() if count > 1]
        if twice or "" in self.symbols:
            raise InputError(f"symbols named twice, or empty: {twice or ['']}: name each once")
        if self.unknown == "<unk>" and self._index_of_unknown() is None:
            raise InputError(
                f"unknown = '<unk>', but none of {len(self.symbols)} symbols is "
                f"{' or '.join(_UNKNOWN)}: add it or set unknown = 'drop'"
            )

    @classmethod
    def of_texts(
        cls, texts: Iterable[str | None], *, unknown: Literal["drop", "<unk>"] = "drop"
    ) -> Symbols:
        """Collect the characters of what is said, in upper case.

        Give the transcripts of a training part: characters that only the test part has are unknown
        to whoever is trained on the other.

        >>> Symbols.of_texts(["Ja, so.", "[LAUGHTER] Grün!"]).symbols
        ('<pad>', '<unk>', '|', 'A', 'G', 'J', 'N', 'O', 'R', 'S', 'Ü')
        """
        found = {char for text in texts for char in _words(text or "").upper()}
        return cls(("<pad>", "<unk>", "|", *sorted(found - {" "})), unknown)

    @classmethod
    def read(cls, path: Path | str, *, unknown: Literal["drop", "<unk>"] = "drop") -> Symbols:
        """Read a ``vocab.json``: one object with each symbol's index.

        Raises
        ------
        InputError
            If the file cannot be read, is no such object, has an index twice or leaves one out, or
            its index 0 is not the blank.
        """
        try:
            content = Path(path).read_text(encoding="utf-8")
            pairs = json.loads(content, object_pairs_hook=lambda pairs: pairs)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError):
            raise InputError(f"{path}: is not JSON: get the file again from its release") from None
        if not _are_indices(pairs):
            raise InputError(
                f"{path}: expected one JSON object of symbols and their indices, such as "
                '{"<pad>": 0, "|": 1, "A": 2}'
            )
        by_index = sorted((index, symbol) for symbol, index in pairs)
        for expected, (index, symbol) in enumerate(by_index):
            if index != expected:
                fault = f"nothing has the index {expected}"
                if index < expected:
                    fault = f"'{symbol}' has the index {index}, which is taken or negative"
                raise InputError(f"{path}: {fault}: number the symbols from 0 without holes")
        try:
            return cls(tuple(symbol for _, symbol in by_index), unknown)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Spell a text; white space ends a word, and case does not matter unless both have symbols.

        >>> WAV2VEC2.encode("It's 5!")
        [10, 6, 27, 12, 4]
        """
        index = {symbol: i for i, symbol in enumerate(self.symbols)}
        boundary = next((index[mark] for mark in _BOUNDARIES if mark in index), None)
        unknown = self._index_of_unknown() if self.unknown == "<unk>" else None
        found = [
            boundary if char.isspace() else index.get(char, unknown) for char in self.cased(text)
        ]
        return [i for i in found if i is not None]

    def decode(self, ids: Iterable[int]) -> str:
        """Read what frames spell, one symbol each: repetitions are one, and blanks are nothing.

        Words are separated by one space.

        >>> WAV2VEC2.decode([18, 18, 0, 5, 15, 0, 15, 15, 4, 4, 16, 12])
        'WELL US'

        Raises
        ------
        InputError
            If an id is no symbol.
        """
        return self.written(i for i, _ in groupby(ids))

    def written(self, ids: Iterable[int]) -> str:
        """Write what :meth:`encode` spelled, repetitions and all; words separated by one space.

        >>> WAV2VEC2.written(WAV2VEC2.encode("well, all"))
        'WELL ALL'

        Raises
        ------
        InputError
            If an id is no symbol.
        """
        text = ""
        for i in ids:
            if not 0 <= i < len(self.symbols):
                raise InputError(f"symbol {i}: expected 0 to {len(self.symbols) - 1}")
            symbol = self.symbols[i]
            if len(symbol) == 1:
                text += " " if symbol in _BOUNDARIES else symbol
        return " ".join(text.split())

    def cased(self, text: str) -> str:
        """Write characters without a symbol in the other case, where that has one.

        >>> WAV2VEC2.cased("Straße 5")
        'STRASSE 5'
        """
        known = set(self.symbols)
        return "".join(_in_case_of(known, char) for char in text)

    def _index_of_unknown(self) -> int | None:
        return next((i for i, symbol in enumerate(self.symbols) if symbol in _UNKNOWN), None)


WAV2VEC2 = Symbols(("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"))
"""The 32 symbols of English wav2vec 2.0 (Baevski et al., NeurIPS 2020), in their order."""


def strip_events(text: str) -> str:
    """Leave out event codes in brackets or braces, and collapse white space.

    Parentheses stay: corpora put quiet or doubtful words in them.

    >>> strip_events("[LAUGHTER] No {BR} way (really).")
    'No way (really).'
    """
    return " ".join(re.sub(r"\[[^\[\]]*\]|\{[^{}]*\}", " ", text).split())


def clean_transcript(text: str) -> str:
    """Prepare a transcript for a text encoder as MMER does.

    Everything from an opening parenthesis or bracket to the next closing one of either kind is left
    out, where both are on one line; spaces are collapsed, other white space is not.

    >>> clean_transcript("Oh my god. [LAUGHTER] No (sighs) way.")
    'Oh my god. No way.'
    """
    return re.sub(" +", " ", re.sub(r"[(\[][^)\]\n]*[)\]]", "", text)).strip()


def ctc_clean(text: str | None, *, style: CtcStyle = "spoken", symbols: Symbols = WAV2VEC2) -> str:
    """Make of a transcript what a network is to spell.

    ==================  ==========================================================================
    ``spoken``          what is said: without events and punctuation, in the case of the symbols;
                        what they lack stays, for :meth:`Symbols.encode` to drop or to mark
    ``mmer``            MMER: characters without a symbol deleted (event codes become words, lower
                        case vanishes), spaces collapsed
    ``cai``             X. Cai et al., Interspeech 2021: the same with double spaces left
    ``cai_timit``       the same after hyphens became spaces, and case does not matter
    ``cai_buckwalter``  hyphens become spaces, ``^`` becomes ``v``, the word ``sil`` is left out;
                        nothing is deleted
    ==================  ==========================================================================

    An utterance without a transcript has nothing to spell under ``spoken``; the published ones make
    it ``NULL``.

    >>> ctc_clean("[LAUGHTER] Well, what's that -- 'gin?"), ctc_clean("{LG} OK .", style="mmer")
    ("WELL WHAT'S THAT GIN", 'LG OK')
    """
    if text is None:
        return "" if style == "spoken" else _MISSING
    return CTC_STYLES[style](text, symbols)


def _spoken(text: str, symbols: Symbols) -> str:
    return symbols.cased(_words(text))


def _mmer(text: str, symbols: Symbols) -> str:
    return " ".join(_cai(text, symbols).split())


def _cai(text: str, symbols: Symbols) -> str:
    return _with_symbols_only(" ".join(text.split()), set(symbols.symbols))


def _cai_timit(text: str, symbols: Symbols) -> str:
    either_case = {form for one in symbols.symbols for form in (one.upper(), one.lower())}
    return _with_symbols_only(" ".join(text.replace("-", " ").split()), either_case)


def _cai_buckwalter(text: str, _symbols: Symbols) -> str:
    words = text.translate(str.maketrans("-^", " v")).split()
    return " ".join(word for word in words if word != "sil")


CTC_STYLES: Mapping[CtcStyle, Callable[[str, Symbols], str]] = {
    "spoken": _spoken,
    "mmer": _mmer,
    "cai": _cai,
    "cai_timit": _cai_timit,
    "cai_buckwalter": _cai_buckwalter,
}


def _words(text: str) -> str:
    """Leave letters, their marks, digits and apostrophes within words; one space between words."""
    plain = unicodedata.normalize("NFC", strip_events(text)).replace("’", "'")
    words = "".join(_as_said(char) for char in plain).split()
    return " ".join(word.strip("'") for word in words if word.strip("'"))


def _as_said(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":  # joiners and soft hyphens, which part no words
        return ""
    return char if char == "'" or category[0] in "LMN" else " "


def _in_case_of(known: set[str], char: str) -> str:
    forms = (char, char.upper(), char.lower())
    return next((form for form in forms if known.issuperset(form)), char)


def _with_symbols_only(text: str, known: set[str]) -> str:
    return "".join(char for char in text if char == " " or char in known)


def _are_indices(pairs: Any) -> bool:
    """Tell whether parsed JSON is one object of integers (a list of pairs, see the hook)."""
    return isinstance(pairs, list) and all(
        isinstance(pair, tuple) and type(pair[1]) is int for pair in pairs
    )
