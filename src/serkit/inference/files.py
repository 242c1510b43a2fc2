"""The files that a command is given, by name or in folders.

What cannot be used costs its own row and nothing else, so nothing is refused here that is named: a
missing file and a folder without anything in it come back as they are, and who reads them says why
they cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serkit.audio import CONTAINER_SUFFIXES, SOUND_SUFFIXES, find_files
from serkit.types import InputError

__all__ = ["collect_files", "refuse_folder"]

# Files that are named are taken whatever their suffix.
_SUFFIXES = (*CONTAINER_SUFFIXES, *SOUND_SUFFIXES)


def collect_files(paths: Sequence[Path | str]) -> list[Path]:
    """List the files that paths name; folders are searched for sound files and videos by suffix.

    Returns
    -------
    files : in the order of ``paths``; a folder without any stands for itself

    Raises
    ------
    InputError
        If there is no path at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = find_files(path, _SUFFIXES) if path.is_dir() else []
        files += found or [path]
    if not files:
        raise InputError("nothing to read: name files or folders")
    return files


def refuse_folder(path: Path) -> None:
    """Say that nothing was found in a folder; a file is left to who reads it.

    Raises
    ------
    InputError
        If ``path`` is a folder.
    """
    if path.is_dir():
        raise InputError(
            f"{path}: no sound files or videos in this folder, by suffix; a file that is named is "
            "read whatever its suffix"
        )
