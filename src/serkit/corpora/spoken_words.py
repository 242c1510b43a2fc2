"""Sentences of a small grammar, spoken by the synthesiser: something to learn to spell in minutes.

The embedded corpus (:mod:`.synthetic`) has a dozen sentences, which a speech recogniser learns by
heart. These are drawn from about forty words, each sentence once: sentences that nobody has heard,
in voices that were heard. It shows that a recogniser learns; how well one understands people, only
a corpus of people shows. It has no emotions, so it is a manifest and not one of the corpora.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from serkit.corpora.manifest import CorpusError, read_manifest, write_manifest
from serkit.corpora.synthetic import UNSEEN, VOICES, engine_name, speak
from serkit.types import Utterance

__all__ = ["MANIFEST", "draw_sentences", "generate_words"]

MANIFEST = "spoken_words.csv"

_GRAMMAR: tuple[tuple[str, ...], ...] = (
    ("the", "my", "your", "one"),
    ("old", "small", "quiet", "tall", "young", "clever"),
    ("doctor", "teacher", "child", "horse", "bird", "friend"),
    ("sees", "finds", "follows", "paints", "likes", "brings"),
    ("a red", "a blue", "the green", "his", "her"),
    ("house", "garden", "window", "book", "apple", "boat", "river"),
    ("in the morning", "at night", "near the sea", "on sunday", "again"),
)


def draw_sentences(n: int, *, seed: int = 0) -> list[str]:
    """Draw different sentences.

    Raises
    ------
    CorpusError
        If the grammar has fewer.
    """
    sizes = [len(words) for words in _GRAMMAR]
    n_possible = int(np.prod(sizes))
    if not 1 <= n <= n_possible:
        raise CorpusError(f"{n} sentences: expected 1 to {n_possible}, as many as the grammar has")
    drawn = np.random.default_rng(seed).choice(n_possible, size=n, replace=False)
    places = zip(*np.unravel_index(drawn, sizes), strict=True)
    return [
        " ".join(words[int(place)] for words, place in zip(_GRAMMAR, chosen, strict=True))
        for chosen in places
    ]


def generate_words(
    root: Path,
    *,
    n_sentences: int = 600,
    n_voices: int = 6,
    seed: int = 0,
    sample_rate: int = 16_000,
    progress: Callable[[int, int], None] | None = None,
) -> list[Utterance]:
    """Speak sentences into a folder and write the manifest :data:`MANIFEST`.

    Parameters
    ----------
    root
        Folder; made if it is not there. A manifest in it is taken as it is.
    n_voices
        1 to 6; they take turns.
    progress
        Called with the sentences done and their number.

    Returns
    -------
    utterances, without emotion

    Raises
    ------
    CorpusError
        If there are fewer sentences or voices, or the synthesiser cannot speak words.
    """
    if (root / MANIFEST).exists():
        return read_manifest(root / MANIFEST)
    voices = [name for name in VOICES if name not in UNSEEN]
    if not 1 <= n_voices <= len(voices):
        raise CorpusError(f"{n_voices} voices: expected 1 to {len(voices)}")
    if not engine_name().startswith("eSpeak"):
        raise CorpusError(
            "spoken words need eSpeak NG, which is not installed: pip install 'serkit[demo]'"
        )
    sentences = draw_sentences(n_sentences, seed=seed)
    (root / "wav").mkdir(parents=True, exist_ok=True)
    utterances = []
    for number, text in enumerate(sentences):
        voice = voices[number % n_voices]
        one = _write(root, number, text, voice=voice, seed=seed, sample_rate=sample_rate)
        utterances.append(one)
        if progress is not None:
            progress(number + 1, n_sentences)
    write_manifest(root / MANIFEST, utterances)
    return utterances


def _write(
    root: Path, number: int, text: str, *, voice: str, seed: int, sample_rate: int
) -> Utterance:
    import soundfile

    waveform, rate = speak(text, voice, seed=seed * 100_000 + number, sample_rate=sample_rate)
    path = root / "wav" / f"{voice}_{number:05d}.wav"
    soundfile.write(path, waveform, rate, subtype="PCM_16")
    spoken = Utterance(
        id=path.stem, path=path, corpus="spoken_words", label=None, speaker=voice, transcript=text
    )
    return replace(
        spoken,
        gender=VOICES[voice].gender,
        language="en",
        sentence=text.replace(" ", "-"),
        duration_s=len(waveform) / rate,
    )
