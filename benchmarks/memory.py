"""Peak memory of this process and its descendants while something runs.

Memory that processes share, such as a mapped feature file or the pages of a library, is counted
once: what is summed is the proportional set size that Linux reports.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

__all__ = ["PeakMemory"]

PROC = Path("/proc")


class PeakMemory:
    """Sample while the ``with`` block runs; afterwards :attr:`mebibytes` holds the peak.

    Attributes
    ----------
    mebibytes
        Largest sum over the process tree; ``None`` where the system does not tell.
    """

    def __init__(self, *, every_s: float = 0.1) -> None:
        self.every_s = every_s
        self.mebibytes: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        if (PROC / "self" / "smaps_rollup").exists():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def _sample(self) -> None:
        while True:
            total = sum(_pss_kibibytes(pid) for pid in _tree(os.getpid())) / 1024
            self.mebibytes = max(self.mebibytes or 0.0, total)
            if self._done.wait(self.every_s):
                return

    def __str__(self) -> str:
        """Say the peak, or that there is none."""
        return "not measured" if self.mebibytes is None else f"{self.mebibytes:.0f} MiB"


def _tree(root: int) -> list[int]:
    """List a process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                # The command's name comes first, in brackets, and may hold anything.
                status = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # it has ended
                continue
            parent = int(status.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _pss_kibibytes(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
