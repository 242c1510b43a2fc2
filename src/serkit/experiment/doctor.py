"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import os
import sys
from importlib import metadata

import torch

from serkit.features.cache import default_cache_dir
from serkit.models import first_stage, head_fusion, native, norm_pool, timnet_step

__all__ = ["examine"]

# package -> (extra that brings it, what it is for)
_OPTIONAL = {
    "espeakng-loader": ("demo", "real words in the synthetic corpus"),
    "h5py": ("keras-weights", "reading the authors' Keras weights and CMU-MOSEI's label file"),
    "transformers": ("encoders", "pre-trained speech and text encoders"),
    "av": ("video", "reading video"),
    "opencv-python-headless": ("video", "finding faces"),
    "librosa": ("acoustic", "acoustic features of multimodal corpora, pYIN"),
    "opensmile": ("acoustic", "eGeMAPS; free for research only"),
    "faster-whisper": ("asr", "transcribing with Whisper"),
    "vosk": ("asr", "transcribing with Vosk"),
}
_CORE = ("torch", "numpy", "soundfile", "soxr", "scikit-learn", "lightning-fabric", "safetensors")


def examine() -> list[dict[str, str]]:
    """Look at Python, the packages, the accelerator and the folders.

    Returns
    -------
    findings
        Records of ``what``, ``state`` and ``advice`` (empty where nothing is to be done).
    """
    rows = [_row("Python", sys.version.split()[0])]
    rows += [_row(name, _version(name) or "missing") for name in _CORE]
    for name, (extra, purpose) in _OPTIONAL.items():
        version = _version(name)
        advice = "" if version else f"pip install 'serkit[{extra}]'"
        rows.append(_row(f"{name} ({purpose})", version or "not installed", advice))
    rows += [_accelerator(), _compiled()]
    if _version("torchaudio"):
        rows.append(
            _row(
                "torchaudio",
                _version("torchaudio") or "",
                "not needed; if other packages fail to import it, pip uninstall torchaudio",
            )
        )
    corpora = os.environ.get("SERKIT_CORPORA")
    if corpora is None:
        rows.append(_row("corpora", "SERKIT_CORPORA not set", "pass --corpora DIR or set it"))
    elif not os.path.isdir(corpora):
        rows.append(_row("corpora", f"SERKIT_CORPORA = {corpora}: no such folder", "correct it"))
    else:
        rows.append(_row("corpora", corpora))
    cache = default_cache_dir()
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    writable = os.access(parent, os.W_OK)
    advice = "" if writable else "set SERKIT_CACHE to a folder you may write to"
    rows.append(_row("cache", f"{cache}{'' if writable else ' (not writable)'}", advice))
    return rows


def _accelerator() -> dict[str, str]:
    if torch.cuda.is_available():
        return _row("accelerator", torch.cuda.get_device_name())
    if torch.backends.mps.is_available():
        return _row("accelerator", "Apple GPU (mps)")
    if torch.version.cuda is None:
        return _row("accelerator", "none: CPU build of PyTorch", "fine for TIM-Net; see the README")
    return _row("accelerator", "none found: CUDA build without a usable GPU")


def _compiled() -> dict[str, str]:
    what = "networks compiled for this CPU"
    if all(part.available() for part in (timnet_step, first_stage, norm_pool, head_fusion)):
        return _row(what, "yes")
    compiler = native.compiler()
    if compiler is None:
        return _row(what, "no", "for training 2 to 3 times as fast install a C++ compiler (g++)")
    return _row(what, f"no: {compiler} cannot build it", "try another compiler: CXX=g++")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _row(what: str, state: str, advice: str = "") -> dict[str, str]:
    return {"what": what, "state": state, "advice": advice}
