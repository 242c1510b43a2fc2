"""Data folders of SpeechSplit's authors: metadata in a pickle, spectrogram and pitch ready-made.

A folder that their preparation left behind::

    spmel/train.pkl                 of each speaker [name, one-hot vector, file, file, ...]
    spmel/SPEAKER/UTTERANCE.npy     spectrogram (n_frames, 80)
    raptf0/SPEAKER/UTTERANCE.npy    pitch (n_frames,): in [0, 1], and -1e10 where unvoiced
    spk2gen.pkl                     name of a speaker -> 'M' or 'F'

``demo.pkl`` is a list as well, and holds (spectrogram, pitch, n_frames, name) in place of files.
Speakers are numbered anew: in the authors' file the vector has a width of 82, however many there
are. Their genders are read where ``spk2gen.pkl`` lies beside the folders; the authors use them
before, to search for pitch.

Both streams are what :mod:`serkit.features.speech_parts` gives, but for the pitch tracker, which is
RAPT, and frames without voice. Pickles are read by :mod:`serkit.pickles`, which runs nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.experiment.reading import CorpusPart
from serkit.features.cache import ExtractedFeatures
from serkit.pickles import PickleRefusedError, read_pickle
from serkit.types import InputError, Utterance

__all__ = ["SpeechSplitFileError", "read_speechsplit"]

CORPUS = "speechsplit"

_PITCH_FOLDER, _GENDERS = "raptf0", "spk2gen.pkl"
_HELP = "expected a train.pkl or demo.pkl of SpeechSplit's authors"
_MAX_INSTRUCTIONS = 2_000_000  # a list of 44,000 files has 90,000
_FRAME_S = 256 / 16_000
_GENDER_WORDS = {"M": "male", "F": "female"}

Parts = NDArray[np.float32]


class SpeechSplitFileError(InputError):
    """A prepared folder that cannot be used; the message names the file and the reason."""


def read_speechsplit(path: Path, *, n_mels: int = 80) -> tuple[CorpusPart, ExtractedFeatures]:
    """Read what a metadata pickle points to.

    Parameters
    ----------
    path
        ``train.pkl``, in the folder of the spectrograms, or ``demo.pkl``.
    n_mels
        Width of the spectrograms.

    Returns
    -------
    part
        Utterances without labels; the path of each is that of its spectrogram, or of the pickle.
    extracted
        Their spectrograms and pitch, (n_frames, n_mels + 1), -1 where unvoiced.

    Raises
    ------
    SpeechSplitFileError
        If a file is missing, damaged, not of this kind, or asks for anything that data do not need.
    """
    rows = _read(path)
    if not isinstance(rows, list) or not rows:
        raise SpeechSplitFileError(f"{path}: holds no list of speakers; {_HELP}")
    genders = _genders(path.parent.parent / _GENDERS)
    utterances: list[Utterance] = []
    features: list[Parts] = []
    for number, row in enumerate(rows):
        speaker, items = _speaker(path, number, row)
        for name, source, mel, f0 in _utterances(path, speaker, items):
            parts = _joined(source, mel, f0, n_mels=n_mels)
            features.append(parts)
            utterances.append(
                Utterance(
                    id=name,
                    path=source,
                    corpus=CORPUS,
                    label=None,
                    speaker=speaker,
                    gender=genders.get(speaker),
                    duration_s=len(parts) * _FRAME_S,
                )
            )
    if not utterances:
        raise SpeechSplitFileError(f"{path}: its speakers have no utterances; {_HELP}")
    n_frames = np.array([len(parts) for parts in features], dtype=np.int64)
    extracted = ExtractedFeatures(
        features=np.concatenate(features),
        n_frames=n_frames,
        owners=np.arange(len(n_frames)),
        audio_hashes={
            u.id: hashlib.sha256(parts.tobytes()).hexdigest()
            for u, parts in zip(utterances, features, strict=True)
        },
        durations_s={u.id: u.duration_s or 0.0 for u in utterances},
        n_cached=0,
    )
    return CorpusPart(utterances, _description(path, utterances, len(rows))), extracted


def _description(path: Path, utterances: list[Utterance], n_speakers: int) -> dict[str, Any]:
    return {
        "name": CORPUS,
        "title": f"{path.parent.name}/{path.name}",
        "licence": "not stated",
        "citation": "",
        "quirks": [],
        "check": f"{path.name}: ready-made spectrogram and pitch (RAPT) of {len(utterances)} "
        f"utterances by {n_speakers} speakers",
        "complete": True,
        "synthetic": False,
    }


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise EOFError("the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read_pickle(data, max_instructions=_MAX_INSTRUCTIONS)
    except OSError as error:
        raise SpeechSplitFileError(f"{path}: cannot be read ({error.strerror}); {_HELP}") from None
    except PickleRefusedError as refused:
        raise SpeechSplitFileError(
            f"{path}: refused: {refused}, which names and numbers never do: it is not what it "
            "claims to be, do not open it with other programs"
        ) from None
    except (ArithmeticError, EOFError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SpeechSplitFileError(f"{path}: no pickle, or damaged ({reason}); {_HELP}") from None


def _genders(path: Path) -> dict[str, str]:
    """Read who is a man and who a woman, where that is known."""
    if not path.exists():
        return {}
    genders = _read(path)
    known = isinstance(genders, dict) and all(
        isinstance(letter, str) and letter in _GENDER_WORDS for letter in genders.values()
    )
    if not known:
        raise SpeechSplitFileError(f"{path}: expected a dict of speakers with 'M' or 'F' each")
    return {speaker: _GENDER_WORDS[letter] for speaker, letter in genders.items()}


def _speaker(path: Path, number: int, row: Any) -> tuple[str, list[Any]]:
    """Take the row of a speaker apart: name, vector, which is not needed, and utterances."""
    if (
        not isinstance(row, list)
        or len(row) < 2
        or not isinstance(row[0], str)
        or not row[0]
        or not isinstance(row[1], np.ndarray)
    ):
        raise SpeechSplitFileError(
            f"{path}: speaker {number} is not [name, one-hot vector, utterance, ...]; {_HELP}"
        )
    return row[0], row[2:]


def _utterances(
    path: Path, speaker: str, items: list[Any]
) -> Iterator[tuple[str, Path, NDArray[Any], NDArray[Any]]]:
    """Give name, file, spectrogram and pitch of each utterance of a speaker."""
    for item in items:
        match item:
            case str():
                place = _inside(path, item)
                mel = path.parent / place
                f0 = path.parent.parent / _PITCH_FOLDER / place
                yield str(place.with_suffix("")), mel, _load(mel), _load(f0)
            case (np.ndarray() as mel_frames, np.ndarray() as f0_frames, int() as n, str() as name):
                n = max(n, 0)
                yield f"{speaker}/{name}", path, mel_frames[:n], f0_frames[:n]
            case _:
                raise SpeechSplitFileError(
                    f"{path}: an utterance of speaker '{speaker}' is neither a file nor "
                    f"(spectrogram, pitch, n_frames, name); {_HELP}"
                )


def _inside(path: Path, item: str) -> PurePosixPath:
    """Refuse files outside the folder."""
    place = PurePosixPath(item.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or place.suffix != ".npy":
        raise SpeechSplitFileError(
            f"{path}: points to '{item[:80]}', expected a .npy file below {path.parent}"
        )
    return place


def _load(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SpeechSplitFileError(f"{path}: cannot be read as an array ({reason})") from None
    return array


def _joined(path: Path, mel: NDArray[Any], f0: NDArray[Any], *, n_mels: int) -> Parts:
    """Check a spectrogram and a contour and set them side by side."""
    f0 = f0.reshape(-1) if f0.ndim == 2 and f0.shape[1] == 1 else f0
    if mel.ndim != 2 or mel.shape[1] != n_mels or f0.shape != mel.shape[:1] or not len(mel):
        raise SpeechSplitFileError(
            f"{path}: a spectrogram of shape {mel.shape} and pitch of shape {f0.shape}, expected "
            f"(n_frames, {n_mels}) and (n_frames,)"
        )
    joined = np.column_stack([mel, np.where(f0 < 0, -1.0, f0)]).astype(np.float32)
    if not np.isfinite(joined).all() or joined[:, -1].max() > 1:
        raise SpeechSplitFileError(
            f"{path}: has values that are no numbers, or pitch above 1: expected pitch scaled to "
            "[0, 1], as the authors' make_spect_f0 does"
        )
    return joined
