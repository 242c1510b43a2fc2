"""The folder of a run: who may use it, what goes into it, and how long the work took.

Runs of all tasks keep the same rules: a folder holds one run, one process works in it at a time,
and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from serkit.experiment.config import ConfigError, Strict
from serkit.files import write_atomically
from serkit.training.lock import LOCK_FILE, FolderLock
from serkit.types import InputError, Utterance

__all__ = ["Stopwatch", "begin_run", "fingerprint", "in_run_folder", "write_json"]

Result = TypeVar("Result")


def in_run_folder(
    out: Path, config: Strict, work: Callable[[FolderLock], Result], *, resume: bool
) -> Result:
    """Do the work of a run while no other process may work in its folder.

    Parameters
    ----------
    work
        Called with the lock; calls :func:`begin_run` once it knows that there is something to do.

    Raises
    ------
    ConfigError
        If the folder holds something else, or this run and ``resume`` is not set.
    InputError
        If another process runs in it.
    """
    _refuse_other_runs(out, config, resume=resume)
    with FolderLock(out) as lock:
        if (out / "config.json").exists():
            lock.take()
        return work(lock)


def _refuse_other_runs(out: Path, config: Strict, *, resume: bool) -> None:
    """Refuse a folder that holds something else, or this run without ``resume``."""
    path = out / "config.json"
    if path.exists():
        if not resume:
            raise ConfigError(
                f"{out}: holds a run already: --resume goes on with it, --out names another folder"
            )
        try:
            # Through the model: a run begun before a key existed has its default.
            stored: Strict | None = type(config).model_validate_json(
                path.read_text(encoding="utf-8")
            )
        except ValidationError:
            stored = None
        if stored != config:
            raise ConfigError(
                f"{out}: holds a run of other settings: choose another --out, or resume with the "
                "settings in its config.json"
            )
    elif out.is_file() or (out.is_dir() and any(p.name != LOCK_FILE for p in out.iterdir())):
        raise ConfigError(f"{out}: exists and is no run folder: choose another --out")


def begin_run(out: Path, config: Strict, lock: FolderLock, *, resume: bool) -> None:
    """Make the run folder, lock it and put the resolved experiment into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.take()
        # Again: another process may have used the folder while this one read the corpus.
        _refuse_other_runs(out, config, resume=resume)
        write_json(out / "config.json", config.model_dump(mode="json"))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def write_json(path: Path, value: Any) -> None:
    """Write plain objects as JSON; a kill leaves the old file or the new one."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def fingerprint(utterances: Sequence[Utterance], hashes: dict[str, str]) -> str:
    """Identify the data by content: ids, sound, labels, speakers; not by where they lie."""
    rows = sorted((u.id, hashes[u.id], str(u.label), u.speaker) for u in utterances)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


class Stopwatch:
    """Seconds of work on a run, over all its sittings; a kill loses the last one or two."""

    def __init__(self, out: Path) -> None:
        self._path = out / ".data" / "seconds.json"
        self._began = self._noted = time.monotonic()
        self._before = 0.0
        # The first is there after a kill, the second where a finished run is shown again.
        for path, key in ((self._path, "seconds"), (out / "run.json", "duration_s")):
            if path.exists():
                self._before = float(json.loads(path.read_text(encoding="utf-8"))[key])
                break

    @property
    def seconds(self) -> float:
        """Seconds of all sittings so far."""
        return self._before + time.monotonic() - self._began

    def note(self) -> None:
        """Put the time so far on disk, at most once a second."""
        if time.monotonic() - self._noted >= 1.0:
            write_json(self._path, {"seconds": self.seconds})
            self._noted = time.monotonic()
