"""Other words, and other voices, made for utterances: the makers behind ``[augmented]``.

``[augmented.make_texts]`` makes other texts of transcripts (:class:`TextMaker`): by dropping words
or swapping neighbours, by a Python function, or by a program, such as one that translates there and
back. ``[augmented.speak]`` says texts in another voice (:class:`Speaker`): by eSpeak NG, or by a
Python function around a speech synthesiser.

Functions and programs are named in the experiment file and are run as they stand: use files that
you trust. A checkpoint never names any.

* A function is ``module:function``, of a module that can be imported (set PYTHONPATH). For texts it
  is called with (text, n_views) and gives up to so many texts; for sounds with (text, sample_rate)
  and gives a waveform (n_samples,) in [-1, 1] at that rate, or ``None``.
* A program is a list, its name and arguments. It runs once, reads one JSON object per line,
  ``{"id": "0", "text": "...", "n_views": 2}``, and writes one per line,
  ``{"id": "0", "texts": ["...", "..."]}``, in any order.

What is not given, or says the same as the utterance itself, is no view of it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
from pydantic import Field, NonNegativeInt, PositiveInt

from serkit.audio import Waveform, file_sha256
from serkit.corpora import synthetic
from serkit.features.cache import default_cache_dir
from serkit.files import replacing
from serkit.types import InputError, MissingExtraError

__all__ = ["Speaker", "SpeakerSettings", "TextMaker", "TextMakerSettings"]

Text = tuple[int, str]  # an utterance's position, and a text


@dataclass(frozen=True, slots=True, kw_only=True)
class TextMakerSettings:
    """How other texts are made.

    Attributes
    ----------
    kind
        ``drop_words``, ``swap_words`` (neighbours), ``function`` or ``command``.
    n_views
        Texts made of each transcript.
    share
        Of the words that are dropped, or swapped with the next one; at least one is.
    function
        ``module:function``; see the module's page.
    command
        Name and arguments of a program; see the module's page.
    seed
        Of what is dropped and swapped.
    """

    kind: Literal["drop_words", "swap_words", "function", "command"]
    n_views: PositiveInt = 1
    share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    function: str | None = None
    command: tuple[str, ...] = ()
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if (self.kind == "function") != (self.function is not None):
            raise InputError(
                f"augmented.make_texts: kind is '{self.kind}' and function is {self.function!r}: "
                "kind = 'function' and function = 'module:function' belong together"
            )
        if (self.kind == "command") != bool(self.command):
            raise InputError(
                f"augmented.make_texts: kind is '{self.kind}' and command is {list(self.command)}: "
                "kind = 'command' and command = ['program', 'argument'] belong together"
            )


class TextMaker:
    """Makes other texts of transcripts.

    Parameters
    ----------
    settings
        See :class:`TextMakerSettings`.

    Raises
    ------
    InputError
        If there is no such function.
    """

    def __init__(self, settings: TextMakerSettings) -> None:
        self.settings = settings
        self._function: Callable[..., Any] | None = None
        if settings.function is not None:
            self._function = _load(settings.function, where="augmented.make_texts")

    def __call__(self, transcripts: Sequence[Text]) -> list[Text]:
        """Make texts; those of an utterance in their order, without what it says itself.

        Raises
        ------
        InputError
            If the function or the program fails, or gives something else than texts.
        """
        settings = self.settings
        if settings.kind == "command":
            made = self._asked(transcripts)
        elif self._function is not None:
            made = [self._called(self._function, text) for _, text in transcripts]
        else:
            change = _drop if settings.kind == "drop_words" else _swap
            made = [
                [
                    change(text, settings.share, _generator(settings.seed, text, view))
                    for view in range(settings.n_views)
                ]
                for _, text in transcripts
            ]
        return [
            (owner, other)
            for (owner, text), others in zip(transcripts, made, strict=True)
            for other in list(others)[: settings.n_views]
            if other.split() != text.split()
        ]

    def _called(self, function: Callable[..., Any], text: str) -> list[str]:
        where = f"augmented.make_texts: {self.settings.function}"
        given = _safely(function, text, self.settings.n_views, where=where)
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InputError(f"{where}: gave {type(given).__name__}, expected a list of texts")
        return _all_texts(given, where)

    def _asked(self, transcripts: Sequence[Text]) -> list[list[str]]:
        """Run the program once for all texts."""
        where = f"augmented.make_texts: {self.settings.command[0]}"
        questions = [
            json.dumps(
                {"id": str(owner), "text": text, "n_views": self.settings.n_views},
                ensure_ascii=False,
            )
            for owner, text in transcripts
        ]
        try:
            done = subprocess.run(
                list(self.settings.command),
                input="\n".join(questions) + "\n",
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: cannot be run ({error})") from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise InputError(f"{where}: ended with exit code {done.returncode} ({last[:200]})")
        answers = {str(owner): list[str]() for owner, _ in transcripts}
        for number, line in enumerate(done.stdout.splitlines(), start=1):
            if line.strip():
                identity, texts = _answer(line, f"{where}, line {number} of its output")
                answers[identity] = texts
        return [answers[str(owner)] for owner, _ in transcripts]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerSettings:
    """How texts are said.

    Attributes
    ----------
    back_end
        ``espeak``, or ``module:function``; see the module's page.
    voices
        Of eSpeak NG: keys of :data:`serkit.corpora.synthetic.VOICES`. Each says each text, in the
        emotion of the utterance where the synthetic corpus knows it.
    texts
        ``own``: what the utterance says. ``augmented``: its augmented texts.
    """

    back_end: str = "espeak"
    voices: Annotated[tuple[str, ...], Field(min_length=1)] = ("f1",)
    texts: Literal["own", "augmented"] = "own"


class Speaker:
    """Says texts, into files that are kept in the cache.

    Parameters
    ----------
    settings
        See :class:`SpeakerSettings`.
    sample_rate
        Hz.
    cache_dir
        ``None``: :func:`serkit.features.cache.default_cache_dir`.

    Raises
    ------
    InputError
        If there is no such function or voice.
    MissingExtraError
        If eSpeak NG is not installed.
    """

    def __init__(
        self, settings: SpeakerSettings, *, sample_rate: int, cache_dir: Path | None
    ) -> None:
        self.settings, self.sample_rate = settings, sample_rate
        self._function: Callable[..., Any] | None = None
        if settings.back_end != "espeak":
            self._function = _load(settings.back_end, where="augmented.speak")
            identity: list[Any] = [settings.back_end, _source_sha256(self._function)]
        else:
            unknown = [name for name in settings.voices if name not in synthetic.VOICES]
            if unknown:
                raise InputError(
                    f"augmented.speak: no voice '{unknown[0]}': expected some of "
                    f"{', '.join(synthetic.VOICES)}"
                )
            if not synthetic.engine_name().startswith("eSpeak"):
                raise MissingExtraError(
                    "espeakng-loader", extra="demo", needed_for="augmented.speak with eSpeak NG"
                )
            identity = [synthetic.engine_name()]
        digest = hashlib.sha256(json.dumps([*identity, sample_rate]).encode()).hexdigest()
        self.folder = (cache_dir or default_cache_dir()) / "spoken" / digest[:32]

    def __call__(
        self, texts: Sequence[Text], labels: Sequence[str | None]
    ) -> Iterator[tuple[int, Path]]:
        """Say texts, or find that they were said before.

        Parameters
        ----------
        labels
            Of the utterances that texts are of.

        Yields
        ------
        owner, path
            An utterance's position, and a sound file. Texts without a word have none.

        Raises
        ------
        InputError
            If the function fails, or gives something else than a waveform.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        voices = self.settings.voices if self._function is None else ("",)
        for owner, text in texts:
            if not any(char.isalnum() for char in text):
                continue
            emotion = labels[owner] if labels[owner] in synthetic.PROSODY else "neutral"
            for voice in voices:
                manner = [text, voice, emotion] if self._function is None else [text]
                name = hashlib.sha256(json.dumps(manner).encode()).hexdigest()
                path = self.folder / f"{name}.wav"
                if path.exists() or self._say(text, voice, str(emotion), path):
                    yield owner, path

    def _say(self, text: str, voice: str, emotion: str, path: Path) -> bool:
        """Write a text's sound; tell whether there is any."""
        if self._function is None:
            said, _ = synthetic.speak(text, voice, emotion, sample_rate=self.sample_rate)
        else:
            where = f"augmented.speak: {self.settings.back_end}"
            given = _safely(self._function, text, self.sample_rate, where=where)
            if given is None:
                return False
            said = _waveform(given, where)
        with replacing(path) as part, part.open("wb") as file:
            soundfile.write(file, said, self.sample_rate, format="WAV", subtype="FLOAT")
        return True


def _drop(text: str, share: float, generator: np.random.Generator) -> str:
    """Leave out some of the words, never all."""
    words = text.split()
    n = min(max(1, round(share * len(words))), len(words) - 1)
    dropped = set(generator.permutation(len(words))[: max(0, n)].tolist())
    return " ".join(word for i, word in enumerate(words) if i not in dropped)


def _swap(text: str, share: float, generator: np.random.Generator) -> str:
    """Let some of the words change places with the next one."""
    words = text.split()
    if len(words) < 2:
        return text
    n = max(1, round(share * len(words)))
    for i in generator.permutation(len(words) - 1)[:n]:
        words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


def _generator(seed: int, text: str, view: int) -> np.random.Generator:
    digest = hashlib.sha256(f"texts:{seed}:{view}:{text}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _answer(line: str, where: str) -> tuple[str, list[str]]:
    """Read one line of a program's output."""
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(answer, dict) or not isinstance(answer.get("texts"), list):
        raise InputError(f'{where}: got {line[:80]}, expected {{"id": ..., "texts": [...]}}')
    return str(answer.get("id")), _all_texts(answer["texts"], where)


def _all_texts(given: Sequence[Any], where: str) -> list[str]:
    for text in given:
        if not isinstance(text, str):
            raise InputError(f"{where}: gave a {type(text).__name__} among texts, expected strings")
    return list(given)


def _waveform(given: Any, where: str) -> Waveform:
    waveform = np.asarray(given)
    if waveform.ndim != 1 or not len(waveform) or waveform.dtype.kind != "f":
        raise InputError(
            f"{where}: gave {waveform.dtype} of shape {waveform.shape}, expected floating-point "
            "samples (n_samples,)"
        )
    if not np.isfinite(waveform).all():
        raise InputError(f"{where}: gave NaN or infinite samples")
    return waveform.astype(np.float32)


def _load(name: str, *, where: str) -> Callable[..., Any]:
    """Import a function of the user's."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise InputError(f"{where}: got '{name}', expected module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{where}: '{name}' cannot be imported ({error}): set PYTHONPATH to the folder of "
            f"{module}.py"
        ) from None
    if not callable(found):
        raise InputError(f"{where}: '{name}' is a {type(found).__name__}, expected a function")
    loaded: Callable[..., Any] = found
    return loaded


def _safely(function: Callable[..., Any], text: str, number: int, *, where: str) -> Any:
    """Call a function of the user's; what it raises becomes one line."""
    try:
        return function(text, number)
    except Exception as error:  # anything can go wrong in there
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{where}: failed on '{text[:40]}' ({type(error).__name__}: {reason})"
        ) from error


def _source_sha256(function: Callable[..., Any]) -> str | None:
    """Identify the file that a function is written in, where there is one."""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return None
    return None if file is None else file_sha256(file)
