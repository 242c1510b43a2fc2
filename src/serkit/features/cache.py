"""Features computed once: parallel extraction into a content-addressed cache.

The key of an entry is a hash of the sound file's bytes, the stretch taken from it and everything
the features depend on, so a changed file or setting can never meet old features. An entry is one
small safetensors file, written under a temporary name and moved into place: concurrent writers and
kills leave either a whole entry or none. An entry that cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from serkit.audio import Channel, Waveform, file_sha256, load_audio, waveform_sha256
from serkit.types import InputError, Utterance

__all__ = ["ExtractedFeatures", "Extractor", "default_cache_dir", "extract_features"]

VERSION = 1  # raise when the same settings start to give other numbers

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
        ``(waveforms (batch, n_samples), n_samples (batch,)) -> (features, n_frames)``.
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
    """Features of a list of utterances, in its order, padded with zeros.

    Attributes
    ----------
    features : (n_utterances, n_frames, n_features), float32
    n_frames : (n_utterances,), int64
    audio_hashes
        Utterance id -> hash of its decoded samples, for the leak check.
    durations_s
        Utterance id -> seconds.
    n_cached
        How many came from the cache.
    """

    features: NDArray[np.float32]
    n_frames: NDArray[np.int64]
    audio_hashes: dict[str, str]
    durations_s: dict[str, float]
    n_cached: int


@dataclass(frozen=True, slots=True)
class _Entry:
    features: NDArray[np.float32]
    audio_hash: str
    duration_s: float
    cached: bool


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
    folder = (cache_dir or default_cache_dir()) / "features"
    fingerprint = extractor.fingerprint()
    n_workers = n_workers or os.cpu_count() or 1
    problems: list[str] = []
    entries: list[_Entry | None] = []

    def one(utterance: Utterance) -> _Entry | InputError:
        try:
            return _fetch(utterance, extractor, fingerprint, folder)
        except InputError as error:
            return error

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism
    try:
        with ThreadPoolExecutor(n_workers) as pool:
            for done, entry in enumerate(pool.map(one, utterances), start=1):
                if isinstance(entry, InputError):
                    problems.append(str(entry))
                    entries.append(None)
                else:
                    entries.append(entry)
                if progress is not None:
                    progress(done, len(utterances))
    finally:
        torch.set_num_threads(n_threads)
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise InputError(problems[0] + more)
    good = [entry for entry in entries if entry is not None]
    width = max(len(entry.features) for entry in good)
    stacked = np.zeros((len(good), width, good[0].features.shape[1]), dtype=np.float32)
    for row, entry in zip(stacked, good, strict=True):
        row[: len(entry.features)] = entry.features
    ids = [utterance.id for utterance in utterances]
    return ExtractedFeatures(
        features=stacked,
        n_frames=np.array([len(entry.features) for entry in good], dtype=np.int64),
        audio_hashes={i: entry.audio_hash for i, entry in zip(ids, good, strict=True)},
        durations_s={i: entry.duration_s for i, entry in zip(ids, good, strict=True)},
        n_cached=sum(entry.cached for entry in good),
    )


def _fetch(utterance: Utterance, extractor: Extractor, fingerprint: str, folder: Path) -> _Entry:
    """Read one utterance's features from the cache, or compute and store them."""
    stretch = f"{utterance.start_s!r}:{utterance.end_s!r}"
    if not utterance.path.is_file():
        load_audio(utterance.path)  # raises with the reason
    content = file_sha256(utterance.path)
    key = hashlib.sha256(f"{fingerprint}:{content}:{stretch}".encode()).hexdigest()
    path = folder / key[:2] / f"{key}.safetensors"
    try:
        with safe_open(path, framework="np") as stored:
            meta = stored.metadata()
            return _Entry(
                stored.get_tensor("features"),
                meta["audio_sha256"],
                float(meta["duration_s"]),
                cached=True,
            )
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        pass  # not there yet, or cut off by a full disk: compute it
    waveform, rate = load_audio(
        utterance.path,
        sample_rate=extractor.sample_rate,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        channel=extractor.channel,
    )
    entry = _Entry(
        _transform(waveform, extractor),
        waveform_sha256(waveform),
        len(waveform) / rate,
        cached=False,
    )
    _store(path, entry)
    return entry


@torch.inference_mode()
def _transform(waveform: Waveform, extractor: Extractor) -> NDArray[np.float32]:
    batch = torch.from_numpy(waveform).unsqueeze(0)
    features, n_frames = extractor.function(batch, torch.tensor([len(waveform)]))
    return features[0, : int(n_frames[0])].contiguous().numpy()


def _store(path: Path, entry: _Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(
            {"features": entry.features},
            part,
            metadata={
                "audio_sha256": entry.audio_hash,
                "duration_s": repr(entry.duration_s),
            },
        )
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
