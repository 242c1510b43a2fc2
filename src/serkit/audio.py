"""Sound files in, mono float32 out: one loader, one resampler, one rounding rule.

Policies, the same everywhere in serkit:

* Decoding is libsndfile's (WAV of any width, a-law, mu-law, FLAC, OGG, MP3, AIFF, ...); the format
  is recognised by content, never by suffix.
* Samples are float32 in [-1, 1]; 8-bit and integer formats are scaled by their full range.
* Channels are averaged, or the first is taken where a corpus recorded two microphones whose mean
  would comb-filter (EMOVO).
* Resampling is soxr at its 'HQ' quality, which is also librosa's default since 0.10.
* Seconds become samples through :func:`seconds_to_samples` alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

__all__ = [
    "SOUND_SUFFIXES",
    "AudioError",
    "AudioInfo",
    "Channel",
    "Waveform",
    "file_sha256",
    "find_sound_files",
    "load_audio",
    "natural_key",
    "probe",
    "require_sound",
    "resample",
    "seconds_to_samples",
    "waveform_sha256",
]

Waveform = NDArray[np.float32]
Channel = Literal["mean", "first"]

# By these a folder is searched; a file that is named is read whatever its suffix.
SOUND_SUFFIXES = (
    ".wav", ".flac", ".aiff", ".aif", ".au", ".w64", ".sph", ".ogg", ".opus", ".mp3",
)  # fmt: skip

MIN_SAMPLE_RATE = 1_000  # Hz; anything lower is a broken header, not speech
MAX_SAMPLE_RATE = 768_000  # Hz
_UNKNOWN_LENGTH = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # data sizes that streaming writers leave in a WAV


class AudioError(InputError):
    """A sound file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a sound file's header says."""

    n_samples: int
    sample_rate: int
    n_channels: int
    encoding: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Convert a time to a number of samples, rounding half up.

    >>> seconds_to_samples(0.0125, 22050), seconds_to_samples(2.0, 16000)
    (276, 32000)
    """
    return int(np.floor(seconds * sample_rate + 0.5))


def probe(path: Path | str) -> AudioInfo:
    """Read the header of a sound file.

    Raises
    ------
    AudioError
        If the file is missing, a directory, empty, truncated or not audio.
    """
    import soundfile

    path = _existing_file(path)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise _not_audio(path, error) from None
    if not MIN_SAMPLE_RATE <= info.samplerate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{path}: sample rate {info.samplerate} Hz in the header, expected "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz: the file is damaged"
        )
    _refuse_truncated_wav(path)
    if info.frames <= 0:
        raise AudioError(f"{path}: the file holds no samples: record or export it again")
    return AudioInfo(info.frames, info.samplerate, info.channels, info.subtype)


def load_audio(
    path: Path | str,
    *,
    sample_rate: int | None = None,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: Channel = "mean",
) -> tuple[Waveform, int]:
    """Read a sound file, or a stretch of it, as mono float32.

    Parameters
    ----------
    path
        Any format libsndfile reads, whatever its suffix.
    sample_rate
        Wanted rate in Hz; ``None`` keeps the file's own.
    start_s, end_s
        The stretch to read, in seconds; ``None`` means to the end.
    channel
        ``mean`` averages the channels, ``first`` takes channel 0.

    Returns
    -------
    waveform : (n_samples,), float32, in [-1, 1] for integer formats
    sample_rate : Hz

    Raises
    ------
    AudioError
        If the file is missing, a directory, empty, truncated, not audio, holds NaN or infinite
        samples, or the stretch lies outside it.
    """
    import soundfile

    path = _existing_file(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            file_rate, n_declared = file.samplerate, file.frames
            if not MIN_SAMPLE_RATE <= file_rate <= MAX_SAMPLE_RATE:
                probe(path)  # raises with the reason
            first = seconds_to_samples(start_s, file_rate)
            stop = n_declared if end_s is None else seconds_to_samples(end_s, file_rate)
            # Turn borders in transcriptions may exceed the file by a rounding error, not by more.
            stop = min(stop, n_declared) if stop - n_declared <= file_rate // 20 else stop
            if n_declared > 0 and not 0 <= first < stop <= n_declared:
                end = "the end" if end_s is None else f"{end_s:g} s"
                raise AudioError(
                    f"{path}: the stretch {start_s:g} s to {end} lies outside the file, which "
                    f"lasts {n_declared / file_rate:.3f} s"
                )
            if first:
                file.seek(first)
            samples = file.read(stop - first, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _not_audio(path, error) from None
    _refuse_truncated_wav(path)
    if len(samples) == 0:
        raise AudioError(f"{path}: the file holds no samples: record or export it again")
    if len(samples) < stop - first:
        raise AudioError(
            f"{path}: truncated: the header promises {stop - first} samples, {len(samples)} can be "
            "decoded; get the file again from its source"
        )
    take_first = channel == "first" or samples.shape[1] == 1
    waveform: Waveform = samples[:, 0] if take_first else samples.mean(axis=1)
    if not np.isfinite(waveform).all():
        n_bad = int((~np.isfinite(waveform)).sum())
        raise AudioError(
            f"{path}: {n_bad} of {len(waveform)} samples are NaN or infinite: export the file again"
        )
    if sample_rate is not None and sample_rate != file_rate:
        waveform = resample(waveform, file_rate, sample_rate)
        file_rate = sample_rate
    return np.ascontiguousarray(waveform, dtype=np.float32), file_rate


def resample(waveform: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Resample with soxr 'HQ'; the result has ``ceil(n_samples * to_rate / from_rate)`` samples.

    Parameters
    ----------
    waveform : (n_samples,), float32
    from_rate, to_rate
        Hz.
    """
    if from_rate == to_rate:
        return waveform
    import soxr

    n_wanted = -(-len(waveform) * to_rate // from_rate)
    resampled = soxr.resample(waveform, from_rate, to_rate, quality="HQ").astype(np.float32)
    # soxr rounds the length its own way; librosa pads or cuts to the ceiling, and so do we.
    if len(resampled) < n_wanted:
        return np.pad(resampled, (0, n_wanted - len(resampled)))
    return np.ascontiguousarray(resampled[:n_wanted])


def require_sound(waveform: Waveform, name: object) -> None:
    """Refuse digital silence: there is nothing in it to recognise.

    Raises
    ------
    AudioError
        If every sample is zero.
    """
    if not np.any(waveform):
        raise AudioError(
            f"{name}: digital silence, all {len(waveform)} samples are zero: check the recording"
        )


def file_sha256(path: Path | str) -> str:
    """Hash a file's bytes: the key under which features of it are cached."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def waveform_sha256(waveform: Waveform) -> str:
    """Hash decoded samples: equal for equal sound in another container or with other tags."""
    return hashlib.sha256(np.ascontiguousarray(waveform).tobytes()).hexdigest()


def natural_key(text: str) -> tuple[tuple[int | str, ...], str]:
    """Sort key that counts numbers as numbers and ignores case.

    >>> sorted(["a10", "a2", "A1"], key=natural_key)
    ['A1', 'a2', 'a10']
    """
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


def find_sound_files(root: Path) -> list[Path]:
    """List sound files below a folder, in natural order of their paths.

    Files are chosen by suffix (:data:`SOUND_SUFFIXES`, any case). Hidden files and folders are
    passed over, as are the ``__MACOSX`` folders that archives bring along. Links to folders are
    followed once.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up the tree
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and name != "__MACOSX"
        )
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SOUND_SUFFIXES
        ]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


def _existing_file(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path}: is a directory, expected a sound file")
    if not path.exists():
        raise AudioError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes): copy or export it again")
    return path


def _not_audio(path: Path, error: Exception) -> AudioError:
    reason = str(error).split(": ", 1)[-1].rstrip(".")
    hint = ""
    if path.suffix.lower() in {".m4a", ".mp4", ".mkv", ".webm", ".mov", ".avi", ".aac", ".wma"}:
        hint = "; export its sound track as WAV or FLAC first"
    return AudioError(
        f"{path}: cannot be decoded as audio ({reason}); expected WAV, FLAC, OGG, MP3 or another "
        f"format of libsndfile{hint}"
    )


def _refuse_truncated_wav(path: Path) -> None:
    """Compare a RIFF data chunk's declared size with the bytes that are there.

    libsndfile silently shortens such files; a corpus copy cut off in transfer would train
    unnoticed.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                available = size - file.tell()
                if length not in _UNKNOWN_LENGTH and length > available:
                    raise AudioError(
                        f"{path}: truncated: the header promises {length} bytes of sound, "
                        f"{available} are there; get the file again from its source"
                    )
                return
            file.seek(length + (length & 1), 1)
