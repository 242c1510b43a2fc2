"""The files that a command is given, by name or in folders.

What cannot be used costs its own row and nothing else, so nothing is refused here that is named: a
missing file and a folder without anything in it come back as they are, and who reads them says why
they cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serkit.audio import SOUND_SUFFIXES, find_files
from serkit.types import InputError

__all__ = ["CLIP_SUFFIXES", "collect_files", "refuse_folder"]

CLIP_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
"""What is looked for in folders, beside sound files; files that are named are taken whatever."""


def collect_files(paths: Sequence[Path | str], *, clips: bool = False) -> list[Path]:
    """List the files that paths name; folders are searched by suffix, files are taken.

    Parameters
    ----------
    clips
        Whether folders are searched for videos as well as for sound files.

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
        found = find_files(path, _suffixes(clips)) if path.is_dir() else []
        files += found or [path]
    if not files:
        raise InputError("nothing to read: name files or folders")
    return files


def refuse_folder(path: Path, *, clips: bool = False) -> None:
    """Say that nothing was found in a folder; a file is left to who reads it.

    Raises
    ------
    InputError
        If ``path`` is a folder.
    """
    if path.is_dir():
        kind, wanted = "clips" if clips else "sound files", ", ".join(_suffixes(clips))
        raise InputError(f"{path}: no {kind} in this folder (looked for {wanted})")


def _suffixes(clips: bool) -> tuple[str, ...]:
    return (*CLIP_SUFFIXES, *SOUND_SUFFIXES) if clips else SOUND_SUFFIXES
