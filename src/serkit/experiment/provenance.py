"""With which software, on which machine, a run was made."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["commit", "machine", "packages"]


def commit() -> str | None:
    """Commit of the serkit that runs, where it runs from a checkout."""
    here = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None:
        return None
    shown = subprocess.run(
        [git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--match="],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip() or None if shown.returncode == 0 else None


def machine() -> dict[str, Any]:
    """Describe the machine without naming it."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def packages() -> dict[str, str]:
    """Give the versions of the packages that numbers depend on."""
    names = (
        "torch",
        "numpy",
        "soundfile",
        "soxr",
        "scikit-learn",
        "lightning-fabric",
        "safetensors",
    )
    return {name: metadata.version(name) for name in names}
