"""Augmented views of utterances: other sounds and other words of what is trained on.

Losses that compare views (``info_nce``, ``acl_published``) draw an utterance to another view of
itself. The table ``[augmented]`` says where such views come from:

* ``audio``: a folder of sound files, each named ``<voice>_<utterance id>`` or ``<utterance id>``,
  or in a folder named by the utterance's id. The longest id that a name ends with counts.
* ``texts``: a CSV with the columns ``id`` and ``text``, such as translations there and back.
* ``make``: settings of :class:`serkit.augment.AugmentSettings`, by which sounds are made here.
* ``make_texts``, ``speak``: other words made of transcripts, and words said by other voices; see
  :mod:`serkit.experiment.view_makers`.
* ``text_features``: token vectors of other words, for recognizers that read precomputed ones.

Utterances without a view
are counted and said, and left out of these losses; utterances that no fold trains on need none.

Synthetic speech is in somebody's voice. A fold whose training hears the voice of its dev or test
speakers is not independent of them, so under ``voices = "training"`` such sounds are left out of
it. Whose voice it is, the file's name tells: a beginning of utterance ids (``Ses01F_impro01_M``),
or what begins with a speaker's name. Other voices are nobody's of the corpus.
"""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from serkit.audio import find_sound_files, waveform_sha256
from serkit.augment import Augmenter, AugmentSettings
from serkit.experiment.config import AugmentedConfig, ConfigError, ExperimentConfig
from serkit.experiment.examples import encode_texts, refuse_segments, sound_settings
from serkit.experiment.progress import Progress
from serkit.experiment.reading import CorpusPart, beside_corpora
from serkit.experiment.view_makers import (
    Speaker,
    SpeakerSettings,
    TextMaker,
    TextMakerSettings,
)
from serkit.features.cache import ExtractedFeatures, Extractor, extract_features
from serkit.features.text import PrecomputedText
from serkit.features.text_cache import ExtractedText
from serkit.recognizer import Recognizer
from serkit.settings import checked
from serkit.training.data import ExtractedViews
from serkit.transcripts import clean_transcript
from serkit.types import Fold, InputError, Utterance

__all__ = ["HEARS_TEST", "FoundSound", "augmented_views", "match_sounds", "read_texts"]

HEARS_TEST = "dev and test voices in training"
"""Protocol word of runs whose augmented sounds speak in the voices that they are judged by."""

_OUTPUT = "contrast_augmented"


@dataclass(frozen=True, slots=True)
class FoundSound:
    """A sound file that is another view of an utterance.

    ``owner`` is the utterance's position; ``voices`` the speakers whose voice it may be in, none
    where that is nobody of the corpus or not told.
    """

    path: Path
    owner: int
    voices: frozenset[str]


def augmented_views(
    config: ExperimentConfig,
    part: CorpusPart,
    folds: Sequence[Fold],
    recognizer: Recognizer,
    *,
    corpora_dir: Path | None,
    cache_dir: Path | None,
    progress: Progress,
) -> tuple[ExtractedViews | None, tuple[str, ...]]:
    """Find or make the augmented views of an experiment, and extract them.

    Returns
    -------
    views
        ``None`` where the experiment wants none.
    words
        Warnings that the protocol must carry.

    Raises
    ------
    InputError
        If a folder or table is missing or cannot be used, names no utterance, or the experiment
        has no use for views.
    """
    wanted = config.augmented
    if wanted is None or not wanted.names_views:
        if _compares_views(config):
            progress.say(
                "no augmented views: the loss that compares them has nothing to learn from until "
                "[augmented] names audio, texts or make"
            )
        return None, ()
    _refuse_useless(config, wanted, part, recognizer)
    trained = {identity for fold in folds for identity in fold.train}
    owners = [i for i, utterance in enumerate(part.utterances) if utterance.id in trained]
    augmenter = _augmenter(wanted, recognizer.sample_rate, corpora_dir)
    files, texts = _files(wanted, part.utterances, set(owners), corpora_dir, progress)
    texts += _made_texts(wanted, part.utterances, owners)
    files += _spoken(
        wanted, part.utterances, owners, texts, recognizer, cache_dir=cache_dir, progress=progress
    )
    n_made = 0 if augmenter is None else augmenter.settings.n_views * len(owners)
    encoded, text_owners = _encode(
        wanted, part.utterances, owners, texts, recognizer, cache_dir=cache_dir, progress=progress
    )
    _say_counts(part.utterances, owners, files, n_made, text_owners, progress)
    speakers = {utterance.id: _speaker(utterance) for utterance in part.utterances}
    left = _files_left(files, folds, part.utterances, speakers)
    restricted = wanted.voices == "training"
    if restricted:
        _say_voices(left, len(files), progress)
    words = () if restricted or all(n == of for n, of in left.values()) else (HEARS_TEST,)
    sounds, sound_owners = _extract_sounds(
        recognizer,
        part.utterances,
        owners,
        files,
        augmenter,
        cache_dir=cache_dir,
        progress=progress,
    )
    views = ExtractedViews(
        sounds=sounds,
        texts=encoded,
        sound_owners=sound_owners,
        text_owners=np.array(text_owners, dtype=np.int64),
        voices=[*(file.voices for file in files), *[()] * n_made] if restricted else (),
        speakers=speakers if restricted else {},
    )
    return views, words


def match_sounds(
    folder: Path, utterances: Sequence[Utterance]
) -> tuple[list[FoundSound], list[Path]]:
    """Find the utterances that sound files are named after; see the module's page.

    Returns
    -------
    sounds
        In natural order of their paths.
    others
        Files that are named after no utterance.

    Raises
    ------
    InputError
        If there is no such folder, or no file in it is named after an utterance.
    """
    if not folder.is_dir():
        raise InputError(
            f"augmented.audio: no folder {folder}: give the one that holds the augmented sounds"
        )
    position = {utterance.id: number for number, utterance in enumerate(utterances)}
    voices = _Voices(utterances)
    sounds, others = [], []
    for path in find_sound_files(folder):
        identity, voice = _split_name(path.relative_to(folder), position)
        if identity is None:
            others.append(path)
        else:
            sounds.append(FoundSound(path, position[identity], voices.of(voice)))
    if not sounds:
        raise InputError(
            f"augmented.audio: none of {len(others)} sound files in {folder} is named after an "
            f"utterance: expected names such as voice_{utterances[0].id}.wav"
        )
    return sounds, others


def read_texts(path: Path) -> list[tuple[str, str]]:
    """Read pairs of utterance id and text from a CSV.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, or a row lacks a value.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"id", "text"}.difference(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"augmented.texts: {path}: no column {' and '.join(sorted(missing))}, got "
                    f"{', '.join(reader.fieldnames or ()) or 'nothing'}: expected id and text"
                )
            rows = [(reader.line_num, row["id"], row["text"]) for row in reader]
    except OSError as error:
        raise InputError(f"augmented.texts: {path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"augmented.texts: {path}: is no CSV in UTF-8 ({error})") from None
    for line, identity, text in rows:
        if not identity or text is None:
            raise InputError(
                f"augmented.texts: {path}, line {line}: expected an id and a text, got only one"
            )
    return [(identity, text) for _, identity, text in rows]


def _compares_views(config: ExperimentConfig) -> bool:
    return any(_OUTPUT in (term.output, term.against) for term in config.objective)


def _refuse_useless(
    config: ExperimentConfig, wanted: AugmentedConfig, part: CorpusPart, recognizer: Recognizer
) -> None:
    refuse_segments(recognizer.view, "augmented")
    if not _compares_views(config):
        raise ConfigError(
            f"[augmented] gives views, and no term of the objective compares them: add one with "
            f"loss = 'info_nce' and against = '{_OUTPUT}', or leave [augmented] out"
        )
    _refuse_unread(wanted, recognizer)
    if not recognizer.listens and (wanted.audio or wanted.make or wanted.speak):
        raise ConfigError(
            "front_end.name = 'none' hears nothing: leave augmented.audio, make and speak out"
        )
    if part.authors is not None:
        raise ConfigError(
            "[augmented] is for sound, and corpus.features gives none: leave one of them out"
        )


def _refuse_unread(wanted: AugmentedConfig, recognizer: Recognizer) -> None:
    """Refuse words in a form that the recognizer does not read."""
    for name in ("texts", "make_texts"):
        if getattr(wanted, name) is None or _only_spoken(wanted):
            continue
        if recognizer.text_encoder is None:
            raise ConfigError(
                f"augmented.{name} is for recognizers that read, and this one has no [text]: add "
                f"it, or leave augmented.{name} out"
            )
        if recognizer.reads_vectors:
            raise ConfigError(
                f"augmented.{name} gives words, and text.name = 'precomputed' reads vectors: give "
                "augmented.text_features instead"
            )
    if wanted.text_features is not None and not recognizer.reads_vectors:
        raise ConfigError(
            "augmented.text_features is for text.name = 'precomputed': give augmented.texts instead"
        )


def _only_spoken(wanted: AugmentedConfig) -> bool:
    """Tell whether augmented texts are there to be said, which needs nobody who reads."""
    return wanted.speak is not None and wanted.speak.get("texts") == "augmented"


def _made_texts(
    wanted: AugmentedConfig, utterances: Sequence[Utterance], owners: Sequence[int]
) -> list[tuple[int, str]]:
    if wanted.make_texts is None:
        return []
    settings = checked(TextMakerSettings, wanted.make_texts, where="augmented.make_texts")
    return TextMaker(settings)(_transcripts(utterances, owners))


def _spoken(
    wanted: AugmentedConfig,
    utterances: Sequence[Utterance],
    owners: Sequence[int],
    texts: Sequence[tuple[int, str]],
    recognizer: Recognizer,
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> list[FoundSound]:
    """Let texts be said; by voices that are nobody's of the corpus."""
    if wanted.speak is None:
        return []
    settings = checked(SpeakerSettings, wanted.speak, where="augmented.speak")
    speaker = Speaker(settings, sample_rate=recognizer.sample_rate, cache_dir=cache_dir)
    said = _transcripts(utterances, owners) if settings.texts == "own" else texts
    progress.stage("speaking", len(said))
    return [
        FoundSound(path, owner, frozenset())
        for owner, path in speaker(said, [utterance.label for utterance in utterances])
    ]


def _transcripts(utterances: Sequence[Utterance], owners: Sequence[int]) -> list[tuple[int, str]]:
    """Give the transcripts of those utterances that have any, without events in brackets."""
    return [
        (owner, clean_transcript(str(utterances[owner].transcript)))
        for owner in owners
        if utterances[owner].transcript is not None
    ]


def _encode(
    wanted: AugmentedConfig,
    utterances: Sequence[Utterance],
    owners: Sequence[int],
    texts: Sequence[tuple[int, str]],
    recognizer: Recognizer,
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> tuple[ExtractedText | None, list[int]]:
    """Encode texts, or read the vectors of them; and the utterance of each."""
    encoder = recognizer.text_encoder
    if wanted.text_features is not None and isinstance(encoder, PrecomputedText):
        own = replace(encoder.config, folder=wanted.text_features)
        found = PrecomputedText(own).find([utterances[owner].id for owner in owners])
        rows = [(owner, found.get(utterances[owner].id)) for owner in owners]
        known = [(owner, row) for owner, row in rows if row is not None]
        if not known:
            return None, []
        lengths = np.array([len(row) for _, row in known])
        vectors = np.concatenate([row for _, row in known])
        return ExtractedText(vectors, lengths), [owner for owner, _ in known]
    if not texts or encoder is None or recognizer.reads_vectors:
        return None, []
    encoded = encode_texts(
        recognizer, [text for _, text in texts], cache_dir=cache_dir, progress=progress
    )
    return encoded, [owner for owner, _ in texts]


def _augmenter(
    wanted: AugmentedConfig, sample_rate: int, corpora_dir: Path | None
) -> Augmenter | None:
    if wanted.make is None:
        return None
    settings = checked(AugmentSettings, wanted.make, where="augmented.make")
    if settings.impulses is not None:
        impulses = str(beside_corpora(settings.impulses, corpora_dir))
        settings = replace(settings, impulses=impulses)
    return Augmenter(settings, sample_rate=sample_rate)


def _files(
    wanted: AugmentedConfig,
    utterances: Sequence[Utterance],
    owners: set[int],
    corpora_dir: Path | None,
    progress: Progress,
) -> tuple[list[FoundSound], list[tuple[int, str]]]:
    """Find sound files and texts of the utterances that are trained on."""
    sounds: list[FoundSound] = []
    texts: list[tuple[int, str]] = []
    if wanted.audio is not None:
        folder = beside_corpora(wanted.audio, corpora_dir)
        found, others = match_sounds(folder, utterances)
        sounds = [sound for sound in found if sound.owner in owners]
        if others:
            progress.say(
                f"{len(others)} sound files in {folder} are named after no utterance of this run "
                f"and are not used, the first is {others[0].name}"
            )
    if wanted.texts is not None:
        path = beside_corpora(wanted.texts, corpora_dir)
        position = {utterance.id: number for number, utterance in enumerate(utterances)}
        rows = read_texts(path)
        known = [(position[identity], text) for identity, text in rows if identity in position]
        texts = [(owner, text) for owner, text in known if owner in owners]
        if not known:
            raise InputError(
                f"augmented.texts: {path}: none of {len(rows)} ids is one of this run: expected "
                f"ids such as {utterances[0].id}"
            )
        if len(known) < len(rows):
            progress.say(
                f"{len(rows) - len(known)} of {len(rows)} texts in {path} have an id that is none "
                "of this run and are not used"
            )
    return sounds, texts


def _say_counts(
    utterances: Sequence[Utterance],
    owners: Sequence[int],
    files: Sequence[FoundSound],
    n_made: int,
    text_owners: Sequence[int],
    progress: Progress,
) -> None:
    having = {file.owner for file in files}.union(text_owners)
    without = [] if n_made else [utterances[i].id for i in owners if i not in having]
    missing = f"; {len(without)} have none, the first is {without[0]}" if without else ""
    progress.say(
        f"augmented views of {len(owners)} utterances that are trained on: {len(files)} sound "
        f"files, {n_made} sounds made, {len(text_owners)} texts{missing}"
    )


def _speaker(utterance: Utterance) -> str:
    return f"{utterance.corpus}/{utterance.speaker}"  # unique in a run of two corpora


def _files_left(
    files: Sequence[FoundSound],
    folds: Sequence[Fold],
    utterances: Sequence[Utterance],
    speakers: dict[str, str],
) -> dict[str, tuple[int, int]]:
    """Count a fold's sound files: those not in the voice of its dev and test speakers, and all."""
    counts = {}
    for fold in folds:
        barred = {speakers[identity] for identity in (*fold.dev, *fold.test)}
        train = set(fold.train)
        own = [file for file in files if utterances[file.owner].id in train]
        counts[fold.name] = sum(barred.isdisjoint(file.voices) for file in own), len(own)
    return counts


def _say_voices(heard: dict[str, tuple[int, int]], n_files: int, progress: Progress) -> None:
    """Say how many files are left out for their voices; refuse folds that are left with none."""
    if all(n == of for n, of in heard.values()):
        return
    for fold, (n, of) in heard.items():
        if not n and of:
            raise InputError(
                f"augmented.audio: all {of} sounds of {fold} are in the voices of its dev or test "
                "speakers: add sounds in other voices, or set augmented.voices = 'any'"
            )
    fewest, most = min(n for n, _ in heard.values()), max(n for n, _ in heard.values())
    progress.say(
        f"of {n_files} augmented sound files, {fewest} to {most} are used in a fold: the others "
        "are not trained on there, or in the voice of a dev or test speaker"
    )


def _extract_sounds(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    owners: Sequence[int],
    files: Sequence[FoundSound],
    augmenter: Augmenter | None,
    *,
    cache_dir: Path | None,
    progress: Progress,
) -> tuple[ExtractedFeatures | None, np.ndarray]:
    """Extract the sounds of files, then those that are made; and the utterance of each."""
    works: list[tuple[list[Utterance], Extractor]] = []
    if files:
        found = [replace(utterances[f.owner], path=f.path, start_s=0.0, end_s=None) for f in files]
        works.append((found, _extractor(recognizer, None, 0)))
    n_views = 0 if augmenter is None else augmenter.settings.n_views
    originals = [utterances[owner] for owner in owners]
    works += [(originals, _extractor(recognizer, augmenter, view)) for view in range(n_views)]
    if not works:
        return None, np.array([], dtype=np.int64)
    progress.stage("augmented sounds", sum(len(chosen) for chosen, _ in works))
    extracted: list[ExtractedFeatures] = []
    for chosen, extractor in works:
        before = sum(len(one.n_frames) for one in extracted)

        def advance(done: int, _total: int, before: int = before) -> None:
            progress.advance(before + done)

        extracted.append(extract_features(chosen, extractor, cache_dir=cache_dir, progress=advance))
    return _joined(extracted), np.array([*(f.owner for f in files), *[*owners] * n_views])


def _extractor(recognizer: Recognizer, augmenter: Augmenter | None, view: int) -> Extractor:
    settings = sound_settings(recognizer)
    if augmenter is not None:
        settings |= {"augmented": augmenter.identity(), "augmented_view": view}
    return Extractor(
        function=partial(_features, recognizer, augmenter, view),
        sample_rate=recognizer.sample_rate,
        channel=recognizer.config.channel,
        settings=settings,
    )


def _features(
    recognizer: Recognizer,
    augmenter: Augmenter | None,
    view: int,
    waveforms: Tensor,
    n_samples: Tensor,
) -> tuple[Tensor, Tensor]:
    if augmenter is not None:
        waveform = waveforms[0].numpy()
        # By content, as the cache: a sound's name does not change what is made of it.
        made = augmenter(waveform, key=waveform_sha256(waveform), view=view)
        waveforms, n_samples = torch.from_numpy(made)[None], torch.tensor([len(made)])
    features, n_frames, _ = recognizer.extract(waveforms, n_samples, training=True)
    return features, n_frames


def _joined(extracted: Sequence[ExtractedFeatures]) -> ExtractedFeatures:
    n_frames = np.concatenate([one.n_frames for one in extracted])
    return ExtractedFeatures(
        features=np.concatenate([one.features for one in extracted]),
        n_frames=n_frames,
        owners=np.arange(len(n_frames)),
        audio_hashes={},
        durations_s={},
        n_cached=sum(one.n_cached for one in extracted),
    )


def _split_name(path: Path, ids: dict[str, int]) -> tuple[str | None, str]:
    """Split a file's path below the folder into the utterance's id and the voice's name."""
    name = path.with_suffix("").as_posix()
    for folder in (path.parent.as_posix(), path.parent.name):
        if folder in ids:
            stem = path.stem
            own = stem[: -len(folder)] if stem.endswith(folder) else stem
            return folder, _voice_name(own)
    for start in _word_starts(name):
        if name[start:] in ids:
            return name[start:], _voice_name(name[:start])
    return None, ""


def _word_starts(name: str) -> Iterator[int]:
    yield 0
    for i in range(1, len(name)):
        if not name[i - 1].isalnum():
            yield i


def _voice_name(text: str) -> str:
    return text.rstrip("_-. /").rpartition("/")[2]


class _Voices:
    """Tells speakers by names of voices."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        pairs = sorted((u.id, _speaker(u)) for u in utterances)
        self._ids = [identity for identity, _ in pairs]
        self._speakers_of_ids = [speaker for _, speaker in pairs]
        names = {(u.speaker, _speaker(u)) for u in utterances if u.speaker != "unknown"}
        self._names = sorted(names, key=lambda pair: -len(pair[0]))
        self._known: dict[str, frozenset[str]] = {"": frozenset()}

    def of(self, voice: str) -> frozenset[str]:
        """Find the speakers that a name may stand for."""
        if voice not in self._known:
            self._known[voice] = self._by_ids(voice) or self._by_names(voice)
        return self._known[voice]

    def _by_ids(self, voice: str) -> frozenset[str]:
        first = last = bisect_left(self._ids, voice)
        while last < len(self._ids) and self._ids[last].startswith(voice):
            last += 1
        return frozenset(self._speakers_of_ids[first:last])

    def _by_names(self, voice: str) -> frozenset[str]:
        longest = next((name for name, _ in self._names if voice.startswith(name)), None)
        return frozenset(speaker for name, speaker in self._names if name == longest)
