"""Features computed once: parallel extraction into a content-addressed cache.

An entry's folder is a hash of everything the features depend on but the sound, its name a hash of
the sound file's bytes and the stretch taken from it, so a changed file or setting can never meet
old features. An entry is one small safetensors file, written under a temporary name and moved into
place: concurrent writers and kills leave either a whole entry or none. An entry that cannot be read
is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from serkit.audio import (
    Channel,
    Waveform,
    file_sha256,
    load_audio,
    probe,
    silence_sha256,
    waveform_sha256,
)
from serkit.files import write_atomically
from serkit.machine import usable_cores
from serkit.types import InputError, Utterance

__all__ = ["ExtractedFeatures", "Extractor", "default_cache_dir", "extract_features"]

VERSION = 2  # raise when the same settings start to give other numbers

_GROUP = 16  # files that a worker takes at a time
_LOADED_SAMPLES = 2**24  # of loaded sound that may wait to be transformed: 64 MB per worker

Progress = Callable[[int, int], None]


def default_cache_dir() -> Path:
    """``SERKIT_CACHE`` or ``~/.cache/serkit``."""
    return Path(os.environ.get("SERKIT_CACHE", "~/.cache/serkit")).expanduser()


@dataclass(frozen=True, slots=True)
class Extractor:
    """How to turn a waveform into features, and the settings that identify the result.

    Attributes
    ----------
    function
        ``(waveforms (1, n_samples), n_samples (1,)) -> (features, n_frames)`` of the pieces that
        the utterance is taken as: ``(n_pieces, n_frames, n_features)`` and ``(n_pieces,)``.
    sample_rate
        Hz, to which files are resampled.
    channel
        ``mean`` or ``first``.
    settings
        Everything else the features depend on; must be JSON.
    """

    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    sample_rate: int
    channel: Channel
    settings: dict[str, object]

    def fingerprint(self) -> str:
        """Identify the settings."""
        text = json.dumps(
            [VERSION, self.sample_rate, self.channel, self.settings], sort_keys=True, default=str
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """Features of the pieces of a list of utterances, in its order.

    Attributes
    ----------
    features : (sum of n_frames, n_features), float32, one piece after the other
    n_frames : (n_pieces,), int64
    owners : (n_pieces,), int64, ascending: the utterance of each piece
    audio_hashes
        Utterance id -> hash of its decoded samples, for the leak check.
    durations_s
        Utterance id -> seconds.
    n_cached
        How many came from the cache.
    silent
        Ids of utterances that are digital silence.
    """

    features: NDArray[np.float32]
    n_frames: NDArray[np.int64]
    owners: NDArray[np.int64]
    audio_hashes: dict[str, str]
    durations_s: dict[str, float]
    n_cached: int
    silent: tuple[str, ...] = ()

    def heard_hashes(self) -> dict[str, str]:
        """Give the hashes by which recordings are compared: silence is nobody's twin."""
        return {uid: h for uid, h in self.audio_hashes.items() if uid not in self.silent}

    def keep(self, wanted: NDArray[np.bool_]) -> ExtractedFeatures:
        """Leave out utterances; hashes and durations stay.

        Parameters
        ----------
        wanted : (n_utterances,)
        """
        pieces = wanted[self.owners]
        numbers = np.cumsum(wanted) - 1
        return replace(
            self,
            features=self.features[np.repeat(pieces, self.n_frames)],
            n_frames=self.n_frames[pieces],
            owners=numbers[self.owners[pieces]],
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    features: NDArray[np.float32]  # (frames of all pieces, n_features), one piece after the other
    n_frames: NDArray[np.int64]  # (n_pieces,)
    audio_hash: str
    duration_s: float
    cached: bool


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A sound whose features are not in the cache, and where they will be."""

    utterance: Utterance
    path: Path
    waveform: Waveform


def extract_features(
    utterances: Sequence[Utterance],
    extractor: Extractor,
    *,
    cache_dir: Path | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> ExtractedFeatures:
    """Compute the features of utterances, or read them from the cache.

    Parameters
    ----------
    cache_dir
        ``None``: :func:`default_cache_dir`.
    n_workers
        Threads that read, decode, resample and transform; ``None``: one per core.
    progress
        Called with (done, total) from the calling thread.

    Raises
    ------
    InputError
        If files cannot be used: names the first and counts the rest. What was computed is kept.
    """
    if not utterances:
        raise InputError("no utterances to extract features from: the selection is empty")
    # One folder per settings, so that what one experiment left behind can be deleted alone.
    folder = (cache_dir or default_cache_dir()) / "features" / extractor.fingerprint()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    n_workers = n_workers or usable_cores()
    size = min(_GROUP, -(-len(utterances) // n_workers))
    groups = [utterances[i : i + size] for i in range(0, len(utterances), size)]
    problems: list[str] = []
    good: list[_Entry] = []

    def work(group: Sequence[Utterance]) -> list[_Entry | InputError]:
        return _fetch(group, extractor, folder)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism
    try:
        with ThreadPoolExecutor(n_workers) as pool:
            results = (result for group in pool.map(work, groups) for result in group)
            for done, result in enumerate(results, start=1):
                if isinstance(result, InputError):
                    problems.append(str(result))
                else:
                    good.append(result)
                if progress is not None:
                    progress(done, len(utterances))
    finally:
        torch.set_num_threads(n_threads)
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    ids = [utterance.id for utterance in utterances]
    return ExtractedFeatures(
        features=np.concatenate([entry.features for entry in good]),
        n_frames=np.concatenate([entry.n_frames for entry in good]),
        owners=np.repeat(np.arange(len(good)), [len(entry.n_frames) for entry in good]),
        audio_hashes={i: entry.audio_hash for i, entry in zip(ids, good, strict=True)},
        durations_s={i: entry.duration_s for i, entry in zip(ids, good, strict=True)},
        n_cached=sum(entry.cached for entry in good),
        silent=_silent(ids, good, extractor.sample_rate),
    )


def _silent(ids: Sequence[str], entries: Sequence[_Entry], sample_rate: int) -> tuple[str, ...]:
    """Find digital silence by its hash, which entries of any age hold."""
    lengths = [round(entry.duration_s * sample_rate) for entry in entries]
    zeros = silence_sha256(lengths)
    return tuple(
        uid
        for uid, entry, n_samples in zip(ids, entries, lengths, strict=True)
        if entry.audio_hash == zeros[n_samples]
    )


def _fetch(
    utterances: Sequence[Utterance], extractor: Extractor, folder: Path
) -> list[_Entry | InputError]:
    """Read features from the cache, or compute and store them; or say what is wrong.

    All files are loaded before the first is transformed: either step then finds its code and
    tables in the core's caches, which saves a tenth of the time.
    """
    found: list[_Entry | InputError | _Loaded] = []
    n_samples = 0
    for utterance in utterances:
        found.append(_find_or_load(utterance, extractor, folder))
        if isinstance(found[-1], _Loaded):
            n_samples += len(found[-1].waveform)
        if n_samples > _LOADED_SAMPLES:
            found[:], n_samples = _finish(found, extractor), 0
    return _finish(found, extractor)


def _find_or_load(
    utterance: Utterance, extractor: Extractor, folder: Path
) -> _Entry | InputError | _Loaded:
    try:
        path = folder / f"{_key(utterance)}.safetensors"
        entry = _read_entry(path)
        if entry is not None:
            return entry
        waveform, _ = load_audio(
            utterance.path,
            sample_rate=extractor.sample_rate,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            channel=extractor.channel,
        )
        return _Loaded(utterance, path, waveform)
    except InputError as error:
        return error


def _finish(
    found: Sequence[_Entry | InputError | _Loaded], extractor: Extractor
) -> list[_Entry | InputError]:
    """Compute and store what was loaded; the rest passes through."""
    return [_compute(one, extractor) if isinstance(one, _Loaded) else one for one in found]


def _compute(loaded: _Loaded, extractor: Extractor) -> _Entry | InputError:
    try:
        features, n_frames = _transform(loaded.waveform, extractor)
    except InputError as error:
        return InputError(f"{loaded.utterance.path}: {error}")
    entry = _Entry(
        features,
        n_frames,
        waveform_sha256(loaded.waveform),
        len(loaded.waveform) / extractor.sample_rate,
        cached=False,
    )
    _store(loaded.path, entry)
    return entry


def _key(utterance: Utterance) -> str:
    """Hash the sound that features are taken from: the file's bytes and the stretch."""
    try:
        content = file_sha256(utterance.path)
    except OSError:
        probe(utterance.path)  # says in one line what is the matter
        raise
    text = f"{content}:{utterance.start_s!r}:{utterance.end_s!r}"
    return hashlib.sha256(text.encode()).hexdigest()


def _read_entry(path: Path) -> _Entry | None:
    """Read an entry; ``None`` if it is not there, or was cut off by a full disk."""
    try:
        with safe_open(path, framework="np") as stored:
            meta = stored.metadata()
            return _Entry(
                stored.get_tensor("features"),
                stored.get_tensor("n_frames"),
                meta["audio_sha256"],
                float(meta["duration_s"]),
                cached=True,
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


@torch.inference_mode()
def _transform(
    waveform: Waveform, extractor: Extractor
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    batch = torch.from_numpy(waveform).unsqueeze(0)
    features, n_frames = extractor.function(batch, torch.tensor([len(waveform)]))
    valid = torch.arange(features.shape[1]) < n_frames.unsqueeze(1)
    return features[valid].numpy(), n_frames.numpy()


def _store(path: Path, entry: _Entry) -> None:
    content = save(
        {"features": entry.features, "n_frames": entry.n_frames},
        metadata={"audio_sha256": entry.audio_hash, "duration_s": repr(entry.duration_s)},
    )
    write_atomically(path, content)
