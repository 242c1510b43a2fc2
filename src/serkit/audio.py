"""Sound files in, mono float32 out: one loader, one resampler, one rounding rule.

Policies, the same everywhere in serkit:

* Decoding is libsndfile's (WAV of any width, a-law, mu-law, FLAC, OGG, MP3, AIFF, ...), except that
  plain 16-bit WAV is read as it lies: the same numbers in less than half the time. The format is
  recognised by content, never by suffix.
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
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

if TYPE_CHECKING:
    import soundfile

__all__ = [
    "SOUND_SUFFIXES",
    "AudioError",
    "AudioInfo",
    "Channel",
    "Waveform",
    "file_sha256",
    "find_files",
    "find_sound_files",
    "load_audio",
    "natural_key",
    "probe",
    "require_sound",
    "resample",
    "seconds_to_samples",
    "silence_sha256",
    "stretch_samples",
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
MAX_SAMPLES = 2**31  # 12 hours at 48 kHz; of an unknown length libsndfile says 2**63 - 1
_UNKNOWN_LENGTH = 0x7FFF0000  # bytes; writers to a pipe leave 0, or this and more, as data size
_MP3_SLACK = 2 * 1152  # samples; an MP3 without a length header has its length estimated
# First and third word of the file -> byte order, name of the chunk that holds the sound.
_CHUNKED = {
    (b"RIFF", b"WAVE"): ("<", b"data"),
    (b"RIFX", b"WAVE"): (">", b"data"),
    (b"FORM", b"AIFF"): (">", b"SSND"),
    (b"FORM", b"AIFC"): (">", b"SSND"),
}
# What libsndfile does not read; serkit.video does.
CONTAINER_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".flv", ".m4a", ".aac", ".wma",
)  # fmt: skip


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

    path = os.fspath(path)
    head, _ = _check_head(path)
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise _not_audio(path, head, error) from None
    _refuse_odd_rate(path, info.samplerate)
    _refuse_odd_length(path, info.frames)
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
    path = os.fspath(path)
    head, plain = _check_head(path)
    if plain is not None:
        first, stop = stretch_samples(path, start_s, end_s, plain.n_samples, plain.sample_rate)
        samples, file_rate = plain.read(path, first, stop), plain.sample_rate
    else:
        samples, file_rate = _decode(path, head, start_s, end_s)
    if channel == "first":
        samples = samples[:, :1]
    if plain is None and not np.isfinite(samples).all():
        n_bad = int((~np.isfinite(samples)).sum())
        raise AudioError(
            f"{path}: {n_bad} of {samples.size} samples are NaN or infinite: export the file again"
        )
    waveform = samples[:, 0] if samples.shape[1] == 1 else _mean(samples)
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
    resampled: Waveform = soxr.resample(waveform, from_rate, to_rate, quality="HQ")
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
    return hashlib.sha256(np.ascontiguousarray(waveform).data).hexdigest()


def silence_sha256(lengths: Iterable[int]) -> dict[int, str]:
    """Give what :func:`waveform_sha256` gives of digital silence, by the number of samples."""
    zeros, known, done = hashlib.sha256(), {}, 0
    for n_samples in sorted(set(lengths)):  # each goes on from the one before
        zeros.update(bytes((n_samples - done) * np.dtype(np.float32).itemsize))
        known[n_samples], done = zeros.copy().hexdigest(), n_samples
    return known


def natural_key(text: str) -> tuple[tuple[int | str, ...], str]:
    """Sort key that counts numbers as numbers and ignores case.

    >>> sorted(["a10", "a2", "A1"], key=natural_key)
    ['A1', 'a2', 'a10']
    """
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


def find_sound_files(root: Path) -> list[Path]:
    """List sound files below a folder, as :func:`find_files` does by :data:`SOUND_SUFFIXES`."""
    return find_files(root, SOUND_SUFFIXES)


def find_files(root: Path, suffixes: Collection[str]) -> list[Path]:
    """List files below a folder, in natural order of their paths.

    Files are chosen by suffix, in any case. Hidden files and folders are passed over, as are the
    ``__MACOSX`` folders that archives bring along. Links to folders are followed once.
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
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found, key=lambda path: natural_key(path.as_posix()))


@dataclass(frozen=True, slots=True)
class _PlainWav:
    """Where 16-bit samples lie in a WAV."""

    at: int  # bytes
    n_samples: int
    n_channels: int
    sample_rate: int

    def read(self, path: str, first: int, stop: int) -> NDArray[np.float32]:
        """Read samples as ``(n_samples, n_channels)``."""
        n_values, at = (stop - first) * self.n_channels, self.at + 2 * first * self.n_channels
        values = np.fromfile(path, dtype="<i2", count=n_values, offset=at)
        samples: NDArray[np.float32] = np.multiply(values, np.float32(2**-15), dtype=np.float32)
        return samples.reshape(-1, self.n_channels)


def _check_head(path: str) -> tuple[bytes, _PlainWav | None]:
    """Read the first bytes of a file, which tell what it is; refuse what is cut off.

    libsndfile silently shortens a WAV or AIFF that holds less sound than its header declares; a
    corpus copy cut off in transfer would train unnoticed.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(512)
            form, at, declared = _find_sound(file, head)
            available = os.fstat(file.fileno()).st_size - at
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: is a directory, expected a sound file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path!r}: cannot be read ({reason})") from None
    if not head:
        raise AudioError(f"{path}: the file is empty (0 bytes): copy or export it again")
    if at and available < declared < _UNKNOWN_LENGTH:
        raise AudioError(
            f"{path}: truncated: the header promises {declared} bytes of sound, {available} are "
            "there; get the file again from its source"
        )
    return head, _plain_wav(form, at, declared) if head[:4] == b"RIFF" else None


def _find_sound(file: FileIO, head: bytes) -> tuple[bytes, int, int]:
    """Walk a WAV or AIFF: its format chunk, where the sound begins, the bytes it promises.

    Nothing and 0 for what is not there, or for another kind of file.
    """
    order, wanted = _CHUNKED.get((head[:4], head[8:12]), ("", b""))
    form, at = b"", 12
    while order:
        chunk = head[at : at + 24]
        if len(chunk) < 24:  # a long chunk of tags comes before the sound
            file.seek(at)
            chunk = file.read(24)
            if len(chunk) < 8:
                break
        name, length = struct.unpack(f"{order}4sI", chunk[:8])
        at += 8
        if name == wanted:
            return form, at, length
        if name == b"fmt ":
            form = chunk[8:]
        at += length + (length & 1)
    return b"", 0, 0


def _plain_wav(form: bytes, at: int, n_bytes: int) -> _PlainWav | None:
    """Tell from a WAV's format chunk whether the sound is plain 16-bit samples of known length."""
    if len(form) < 16 or not 0 < n_bytes < _UNKNOWN_LENGTH:
        return None
    tag, n_channels, rate, _, width, bits = struct.unpack("<HHIIHH", form[:16])
    plain = tag == 1 and bits == 16 and width == 2 * n_channels > 0 and n_bytes >= width
    if not plain or not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        return None
    return _PlainWav(at, n_bytes // width, n_channels, rate)


def stretch_samples(
    path: str, start_s: float, end_s: float | None, n_samples: int, sample_rate: int
) -> tuple[int, int]:
    """Turn a stretch in seconds into samples of a file.

    Returns
    -------
    first, stop : the samples ``[first, stop)``, at least one

    Raises
    ------
    AudioError
        If it lies outside the file.
    """
    first = seconds_to_samples(start_s, sample_rate)
    stop = n_samples if end_s is None else seconds_to_samples(end_s, sample_rate)
    # Turn borders in transcriptions may exceed the file by a rounding error, not by more.
    if stop - n_samples <= sample_rate // 20:
        stop = min(stop, n_samples)
    if not 0 <= first < stop <= n_samples:
        end = "the end" if end_s is None else f"{end_s:g} s"
        raise AudioError(
            f"{path}: the stretch {start_s:g} s to {end} lies outside the file, which lasts "
            f"{n_samples / sample_rate:.3f} s"
        )
    return first, stop


def _decode(
    path: str, head: bytes, start_s: float, end_s: float | None
) -> tuple[NDArray[np.float32], int]:
    """Decode a stretch with libsndfile, ``(n_samples, n_channels)`` and its rate."""
    import soundfile

    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise _not_audio(path, head, error) from None
    with file:
        _refuse_odd_rate(path, file.samplerate)
        _refuse_odd_length(path, file.frames)
        first, stop = stretch_samples(path, start_s, end_s, file.frames, file.samplerate)
        try:
            if first:
                file.seek(first)
            samples: NDArray[np.float32] = file.read(stop - first, "float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path}: damaged or truncated ({_reason(error)}); get the file again from its "
                "source"
            ) from None
        rate: int = file.samplerate
        slack = _MP3_SLACK if file.format == "MP3" else 0
    if not len(samples) or len(samples) + slack < stop - first:
        raise AudioError(
            f"{path}: truncated: the header promises {stop - first} samples, {len(samples)} can be "
            "decoded; get the file again from its source"
        )
    return samples, rate


def _mean(samples: NDArray[np.float32]) -> Waveform:
    """Average the channels: a product, five times as fast as ``.mean(axis=1)``."""
    n_channels = samples.shape[1]
    mean: Waveform = samples @ np.full(n_channels, 1 / n_channels, dtype=np.float32)
    return mean


def _refuse_odd_length(path: str, n_samples: int) -> None:
    if n_samples <= 0:
        raise AudioError(f"{path}: the file holds no samples: record or export it again")
    if n_samples > MAX_SAMPLES:
        raise AudioError(
            f"{path}: the header does not tell how long the sound is, as in a FLAC written to a "
            "pipe: encode it again into a file"
        )


def _not_audio(path: str, head: bytes, error: soundfile.LibsndfileError) -> AudioError:
    hint = ""
    if path.lower().endswith(CONTAINER_SUFFIXES) or head[4:8] == b"ftyp":
        hint = "; export its sound track as WAV or FLAC first"
    return AudioError(
        f"{path}: cannot be decoded as audio ({_reason(error)}); expected WAV, FLAC, OGG, MP3 or "
        f"another format of libsndfile{hint}"
    )


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).rstrip(".")


def _refuse_odd_rate(path: str, sample_rate: int) -> None:
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"{path}: sample rate {sample_rate} Hz in the header, expected "
            f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz: the file is damaged"
        )
