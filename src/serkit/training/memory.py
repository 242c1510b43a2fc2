"""Memory in bytes: what people write, what is free, what a process has used.

On Linux all numbers come from ``/proc`` and the control groups this process is in (containers and
batch systems limit memory through them), and memory of a process's own is told apart from files it
maps, which processes share. Elsewhere there are documented stand-ins: half of the physical memory
counts as free, and the whole peak of a process as its own, so that a plan errs towards fewer
members at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serkit.types import InputError

__all__ = ["Usage", "format_size", "free_memory", "parse_size", "usage"]

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip

# Where neither /proc nor the standard library can tell: more than TIM-Net takes with batches of 64.
_UNKNOWN_USAGE = 2**30
_UNKNOWN_FREE = 4 * 2**30


def parse_size(text: str) -> int:
    """Read an amount of memory.

    >>> parse_size("8GiB"), parse_size("1.5 MB"), parse_size("4096")
    (8589934592, 1500000, 4096)

    Raises
    ------
    InputError
        If the text is no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text, flags=re.ASCII)
    n_bytes = int(float(match[1]) * _UNITS.get(match[2].lower(), 0)) if match else 0
    if n_bytes <= 0:
        raise InputError(
            f"memory '{text}': expected an amount such as 8GiB, 500MiB, 2GB or a number of bytes"
        )
    return n_bytes


def format_size(n_bytes: float) -> str:
    """Write an amount of memory for people.

    >>> format_size(8589934592), format_size(735 * 2**20)
    ('8.0 GiB', '735 MiB')
    """
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:.1f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB"


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a process, in bytes.

    Attributes
    ----------
    private
        Its own, now.
    private_peak
        The most it has had of its own.
    mapped
        Of files it maps: libraries and data, one copy for all processes.
    """

    private: int
    private_peak: int
    mapped: int


def usage(*, proc: Path = Path("/proc")) -> Usage:
    """Measure this process.

    Linux: resident memory that no file backs; its peak is the peak of all resident memory less the
    mapped files (which stay resident once touched). Elsewhere: the standard library's peak, all of
    it taken as the process's own; a round gigabyte where even that is missing.
    """
    try:
        status = (proc / "self" / "status").read_text(encoding="ascii", errors="replace")
        kib = {m[1]: int(m[2]) for m in re.finditer(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
        mapped = kib["RssFile"] + kib["RssShmem"]
        private_peak = max(kib["VmHWM"] - mapped, kib["RssAnon"])
        return Usage(kib["RssAnon"] * 1024, private_peak * 1024, mapped * 1024)
    except (OSError, KeyError):
        peak = _portable_peak()
        return Usage(peak, peak, 0)


def _portable_peak() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return _UNKNOWN_USAGE
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, the other systems KiB.
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def free_memory(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Tell how much memory can be had without pushing anything out.

    Linux: what the kernel calls available, or what a control group leaves where that is less.
    Elsewhere: half of the physical memory; 4 GiB where not even that is known (Windows).
    """
    try:
        meminfo = (proc / "meminfo").read_text(encoding="ascii")
        available = int(re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return _portable_free()
    return max(0, min([available, *_left_by_groups(proc, groups)]))


def _portable_free() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_FREE


def _left_by_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Give what each limited control group above this process leaves, version 2 and version 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = groups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        # A container sees its own group as the root of the tree, under a path it cannot see.
        for level in (folder, *folder.parents):
            if level.is_relative_to(root) and (left := _left_by_group(level, *names)) is not None:
                yield left


def _left_by_group(folder: Path, limit: str, current: str, inactive: str) -> int | None:
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        used = int((folder / current).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    if not most.isdigit():  # "max"
        return None
    # Cached files are counted as used and given up on demand.
    match = re.search(rf"^{inactive} (\d+)$", stat, re.MULTILINE)
    return int(most) - used + (int(match[1]) if match else 0)
