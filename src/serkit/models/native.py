"""Compiled parts: one C++ file, built for the machine it runs on, called through ctypes.

Modules that call a part have a switch, ``compiled``.

A part is an accelerator and never a definition: whoever calls :func:`load_native` has a form in
PyTorch to go on with where this returns ``None`` (no C++ compiler, or ``SERKIT_NATIVE=0``).

A part is compiled at first use, in some seconds, and kept in ``~/.cache/serkit/native`` (below
``XDG_CACHE_HOME`` where that is set) under a hash of its source, the headers beside it, the
compiler and the instruction set: a home folder that different machines share holds one file for
each kind. The folder is this user's alone; one that others could write to is not used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serkit.files import replacing

__all__ = [
    "MAX_LANES",
    "compiler",
    "load_native",
    "longs",
    "n_valid_frames",
    "pointer",
    "takes_compiled_form",
    "use_readable_forms",
]

_FLAGS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    *("-shared", "-fPIC", "-w"),
)
_TIMEOUT_S = 300

MAX_LANES = 16  # numbers in a vector of any machine, see vectors.h


def compiler() -> str | None:
    """Path of the C++ compiler: ``CXX``, or c++, g++, clang++; ``None`` where parts are off."""
    if os.environ.get("SERKIT_NATIVE") == "0":
        return None
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found is not None:
            return found
    return None


@functools.cache
def load_native(name: str) -> ctypes.CDLL | None:
    """Compile a part, or find it compiled, and load it.

    Parameters
    ----------
    name
        File name of the C++ source, beside this module.

    Returns
    -------
    The library, or ``None`` where there is no compiler that can build it.
    """
    cxx = compiler()
    if cxx is None:
        return None
    source = Path(__file__).parent / name
    headers = sorted(source.parent.glob("*.h"))
    code = b"".join(file.read_bytes() for file in (source, *headers))
    for target in ("-march=native", "-mcpu=native"):  # the latter is what some ARM compilers know
        described = _describe(cxx, target)
        if described is None:
            continue
        content = code + described + repr(_FLAGS).encode()
        key = hashlib.sha256(content).hexdigest()[:32]
        library = _folder() / f"{source.stem}-{key}.so"
        if library.exists() or _compile(cxx, target, source, library):
            return ctypes.CDLL(str(library))
    return None


def takes_compiled_form(x: Tensor, weight: Tensor, *, training: bool, half: bool = False) -> bool:
    """Tell whether a compiled part can do what is wanted of it.

    That is a step of training, or evaluation without gradients; by weights in float32, with or
    without autocast to bfloat16, on a CPU; in plain PyTorch, neither compiled nor mapped over
    members.

    Parameters
    ----------
    x
        What the part reads.
    weight
        One of the weights that act on it.
    training
        Mode of the module that asks.
    half
        The part reads bfloat16 as well as float32.
    """
    autocast = torch.is_autocast_enabled("cpu")
    return (
        training == torch.is_grad_enabled()
        and x.device.type == "cpu"
        and (x.dtype == torch.float32 or (half and x.dtype == torch.bfloat16))
        and weight.dtype == torch.float32
        and (not autocast or torch.get_autocast_dtype("cpu") == torch.bfloat16)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def longs(*numbers: int) -> tuple[ctypes.c_long, ...]:
    """Turn integers into arguments of a part's functions."""
    return tuple(ctypes.c_long(n) for n in numbers)


def n_valid_frames(n_frames: Tensor, width: int) -> Tensor:
    """Give numbers of valid frames as parts read them: at most as many as there are."""
    return n_frames.to(torch.int64).clamp(0, width).contiguous()


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Turn a contiguous tensor into an argument of a part's functions."""
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def use_readable_forms(model: nn.Module) -> None:
    """Have every part of a model computed by PyTorch alone.

    For whoever looks at its operations: mapping them over members, or counting them.
    """
    for module in model.modules():
        part: Any = module
        if getattr(part, "compiled", False):
            part.compiled = False


def _describe(cxx: str, target: str) -> bytes | None:
    """Macros that compiler and instruction set define: they identify both."""
    command = [cxx, target, "-x", "c++", "-E", "-dM", os.devnull]
    try:
        result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _compile(cxx: str, target: str, source: Path, library: Path) -> bool:
    """Compile, and tell whether that went well; processes may do so at the same time."""
    try:
        with replacing(library) as part:
            command = [cxx, target, *_FLAGS, str(source), "-o", str(part)]
            subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@functools.cache
def _folder() -> Path:
    """Find a folder that only this user can write to: what lies in it is loaded as code."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "serkit" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="serkit-native-"))
    private = not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & 0o022
    )
    if private and os.access(folder, os.W_OK):
        return folder
    return Path(tempfile.mkdtemp(prefix="serkit-native-"))
