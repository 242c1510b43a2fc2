"""Virtual environments for the tools that serkit is measured against: made once, then reused.

They lie in the folder ``bench`` of serkit's cache (``SERKIT_CACHE`` or ``~/.cache/serkit``), so
nothing foreign is installed beside serkit, and are made again when a file of ``requirements``
changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serkit.features.cache import default_cache_dir

__all__ = ["Unavailable", "environment", "last_line"]

REQUIREMENTS = Path(__file__).parent / "requirements"


class Unavailable(Exception):  # noqa: N818  (not an error: the rest of a benchmark goes on)
    """A foreign tool cannot be measured here; the message is one line that says why."""


def environment(
    name: str, requirements: Sequence[str], *, without_dependencies: Sequence[str] = ()
) -> Path:
    """Return the Python of an environment that holds what files of requirements list.

    Parameters
    ----------
    name
        Folder of the environment.
    requirements, without_dependencies
        Names of files in ``requirements``; of the latter only the packages themselves are taken.

    Raises
    ------
    Unavailable
        If the environment cannot be made, for example without a network.
    """
    folder = default_cache_dir() / "bench" / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / "ready"
    files = [REQUIREMENTS / file for file in (*requirements, *without_dependencies)]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {name} into {folder} (once)", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)], name)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--retries", "1"]
    for file in requirements:
        _call([*pip, "-r", str(REQUIREMENTS / file)], name)
    for file in without_dependencies:
        _call([*pip, "--no-deps", "-r", str(REQUIREMENTS / file)], name)
    ready.write_text(wanted, encoding="utf-8")
    return python


def last_line(text: str) -> str:
    """Return the line of a failed command's output that says most: its last error or last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no output"])[-1]


def _call(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{name} cannot be installed: {last_line(done.stderr or done.stdout)}")
