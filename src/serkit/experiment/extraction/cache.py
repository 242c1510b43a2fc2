"""The cache of clips' features: one file per clip, named by its content and every setting.

What is in here is imported by every process that reads clips, and so imports little.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from serkit.audio import file_sha256
from serkit.features.clip_features import ClipFeatureConfig, clip_features
from serkit.files import write_atomically
from serkit.types import InputError

__all__ = [
    "ClipOutcome",
    "ClipTask",
    "extract_to_cache",
    "fingerprint",
    "read_entry",
    "versions",
]

VERSION = 1  # raise when the same settings start to give other numbers

_PACKAGES = ("av", "opencv-python-headless", "librosa", "opensmile", "mediapipe")


@dataclass(frozen=True, slots=True)
class ClipTask:
    """What a process needs to know."""

    path: Path
    config: ClipFeatureConfig
    table: Path | None  # of OpenFace
    folder: Path  # of the cache


@dataclass(frozen=True, slots=True)
class ClipOutcome:
    """What became of a clip: an entry of the cache, or why there is none."""

    entry: Path | None
    cached: bool = False
    messages: tuple[str, ...] = ()
    trace: str = ""

    @classmethod
    def killed(cls) -> ClipOutcome:
        """Say that the process died which read it."""
        why = "the process that read it was killed: it is damaged, or memory ran out"
        return cls(None, messages=(why,))


def extract_to_cache(task: ClipTask) -> ClipOutcome:
    """Compute a clip's features into the cache, or find them there."""
    try:
        entry = task.folder / f"{_key(task)}.safetensors"
    except OSError as error:
        return ClipOutcome(None, messages=(f"cannot be read ({error.strerror})",))
    if _readable(entry):
        return ClipOutcome(entry, cached=True)
    try:
        found = clip_features(task.path, task.config, openface_table=task.table)
    except InputError:  # of the settings, or of what is installed
        raise
    except Exception as error:
        message = " ".join(f"internal error: {type(error).__name__}: {error}".split())
        return ClipOutcome(None, messages=(message,), trace=traceback.format_exc())
    # Messages begin with the path, and the entry is found by clips of the same content elsewhere.
    messages = tuple(line.removeprefix(f"{task.path}: ") for line in found.messages)
    if found.audio_status == "decode_error":
        return ClipOutcome(None, messages=messages)
    told = {
        "audio_status": found.audio_status,
        "vision_status": found.vision_status,
        "n_pictures": found.n_pictures,
        "n_with_face": found.n_with_face,
        "duration_s": found.duration_s,
        "messages": messages,
    }
    content = save(
        {"audio": found.audio, "vision": found.vision}, metadata={"told": json.dumps(told)}
    )
    try:
        write_atomically(entry, content)
    except OSError as error:
        raise InputError(f"{entry}: cannot be written ({error.strerror})") from None
    return ClipOutcome(entry)


def _key(task: ClipTask) -> str:
    """Hash what the features are made from: the clip, and the table of OpenFace or its absence."""
    parts = [file_sha256(task.path)]
    if task.table is not None:
        parts.append(file_sha256(task.table) if task.table.is_file() else f"none: {task.table}")
    return hashlib.sha256(":".join(parts).encode()).hexdigest()


def read_entry(entry: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """Read acoustic frames, face frames, and what was told with them.

    Raises
    ------
    InputError
        If the entry cannot be read.
    """
    try:
        with safe_open(entry, framework="np") as stored:
            told = json.loads(stored.metadata()["told"])
            return stored.get_tensor("audio"), stored.get_tensor("vision"), told
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{entry}: was damaged meanwhile ({error}): run again") from None


def _readable(entry: Path) -> bool:
    try:
        with safe_open(entry, framework="np") as stored:
            return "told" in stored.metadata()
    except (OSError, SafetensorError, TypeError):
        return False


def fingerprint(config: ClipFeatureConfig) -> str:
    """Identify everything but the clip that its features depend on."""
    settings = asdict(config)
    if config.landmarker is not None and os.path.isfile(config.landmarker):
        settings["landmarker"] = file_sha256(config.landmarker)
    text = json.dumps([VERSION, settings, versions()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Give the versions of the packages that features depend on, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
