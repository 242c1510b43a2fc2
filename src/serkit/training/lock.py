"""A folder that one process at a time may work in.

The operating system holds the lock and releases it when the process ends, however it ends; the
file it is held on stays, so that nobody can lock a file that another has just removed.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import IO

from serkit.types import InputError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


__all__ = ["LOCK_FILE", "FolderLock"]

LOCK_FILE = ".lock"

_logger = logging.getLogger(__name__)


class FolderLock:
    """Holds a folder from :meth:`take` to the end of the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self) -> None:
        """Lock the folder, which must exist; without effect where this lock holds it already.

        Raises
        ------
        InputError
            If another process works in the folder, or it cannot be written.
        """
        if self._file is not None:
            return
        try:
            self._file = (self._folder / LOCK_FILE).open("ab")
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be written ({error.strerror})") from None
        try:
            _lock(self._file)
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"{self._folder}: another serkit is at work in this run folder: wait for it, or "
                "choose another --out"
            ) from None
        except OSError as error:  # a file system without locks is no reason not to train
            _logger.warning("%s: cannot be locked (%s)", self._folder, error.strerror)
