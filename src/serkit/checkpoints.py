"""The folder that every trained network is kept in: its settings, its weights and a card.

A folder is a checkpoint once ``config.json`` is in it, which is written last. It says of which kind
it is, ``task`` or ``kind``; recognizers of emotion say nothing. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkit.files import replacing, write_atomically
from serkit.types import InputError

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "EMOTION",
    "WEIGHTS_FILE",
    "checkpoint_kind",
    "find_checkpoint",
    "load_tensors",
    "read_checkpoint_config",
    "save_tensors",
    "write_checkpoint",
]

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"

EMOTION = "emotion"  # kind of a checkpoint that names none


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a checkpoint holds, and how it comes about and is used."""

    name: str
    trained_by: str
    used_by: str


_KINDS: Mapping[str, _Kind] = {
    EMOTION: _Kind(
        "recognizer of emotion",
        "'serkit train' or 'serkit demo'",
        "'serkit predict' on recordings, with 'score' and 'robustness'",
    ),
    "transcription": _Kind(
        "speech recogniser",
        "'serkit train asr/conformer'",
        "'serkit transcribe', or 'serkit predict --transcriber own --transcriber-model'",
    ),
    "sentiment": _Kind(
        "model of clips", "'serkit train self_mm/honest'", "'serkit predict' on clips"
    ),
    "decomposition": _Kind(
        "decomposition of speech",
        "'serkit train speech_split/...' (where each fold has its own, give folds/NAME of the run)",
        "'serkit train decomposed/... --set parts_from=RUN'",
    ),
    "pitch_converter": _Kind(
        "pitch converter",
        "'serkit train speech_split/f0-converter-small'",
        "'serkit train speech_split/... --set pitch_converter=RUN'",
    ),
}


def find_checkpoint(name_or_folder: Path | str, kind: str = EMOTION) -> Path:
    """Find a checkpoint: a checkpoint folder, a run folder, or a name under ``SERKIT_MODELS``.

    Parameters
    ----------
    kind
        What is looked for; :func:`read_checkpoint_config` refuses others.

    Raises
    ------
    InputError
        If nothing of that name is a checkpoint; the message lists the places looked in.
    """
    models = Path(os.environ.get("SERKIT_MODELS", "~/.cache/serkit/models")).expanduser()
    given = Path(name_or_folder).expanduser()
    places = [given, given / "model", models / str(name_or_folder)]
    for place in places:
        if (place / CONFIG_FILE).is_file() and (place / WEIGHTS_FILE).is_file():
            return place
    wanted = _KINDS[kind]
    of_what = "" if kind == EMOTION else f" of a {wanted.name}"
    raise InputError(
        f"no checkpoint '{name_or_folder}'{of_what}: looked for {CONFIG_FILE} and "
        f"{WEIGHTS_FILE} in {', '.join(map(str, places))}; train one with {wanted.trained_by}"
    )


def checkpoint_kind(name_or_folder: Path | str) -> str | None:
    """Tell what kind of checkpoint a name or folder is; ``None`` where there is no readable one."""
    try:
        saved = _read_json(find_checkpoint(name_or_folder) / CONFIG_FILE)
    except InputError:
        return None
    return _kind_of(saved)


def read_checkpoint_config(folder: Path, kind: str, *, version: int) -> dict[str, Any]:
    """Read the settings of a checkpoint.

    Parameters
    ----------
    folder
        That of the checkpoint itself.
    kind, version
        What the caller can load.

    Raises
    ------
    InputError
        If they are damaged, or of another kind or version; the message says which command uses it.
    """
    path = folder / CONFIG_FILE
    saved = _read_json(path)
    found, wanted = _KINDS.get(_kind_of(saved)), _KINDS[kind]
    if found is not None and found is not wanted:
        raise InputError(
            f"{folder}: a {found.name}, expected a {wanted.name}: it is used by {found.used_by}"
        )
    if found is None or saved.get("format") != version:
        raise InputError(
            f"{path}: checkpoint format {saved.get('format')!r}, expected {version} of a "
            f"{wanted.name}: not a serkit checkpoint, or one of another version"
        )
    return saved


def _kind_of(saved: Mapping[str, Any]) -> str:
    return str(saved.get("task") or saved.get("kind") or EMOTION)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(saved, dict):
        raise InputError(f"{path}: holds a {type(saved).__name__}, expected an object")
    return saved


def write_checkpoint(
    folder: Path, *, config: Mapping[str, Any], weights: Mapping[str, Tensor], card: str
) -> Path:
    """Write a checkpoint; a kill leaves the old one, or none."""
    folder.mkdir(parents=True, exist_ok=True)
    # Weights first: a folder without config.json is not a checkpoint yet.
    save_tensors(folder / WEIGHTS_FILE, weights)
    write_atomically(folder / CARD_FILE, card)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CONFIG_FILE, text)
    return folder


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors into a file, which is there whole or not at all."""
    with replacing(path) as part:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors from a file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
