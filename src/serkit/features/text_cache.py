"""Texts encoded once: each distinct text has an entry in a content-addressed cache.

An entry's folder is a hash of the text encoder's settings, weights included, its name a hash of the
text, as for sound (:mod:`serkit.features.cache`). An entry that cannot be read is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from serkit.features.cache import default_cache_dir
from serkit.files import write_atomically

__all__ = ["ExtractedText", "extract_texts"]

VERSION = 1  # raise when the same settings start to give other numbers


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """Tokens of a list of texts, in its order.

    Attributes
    ----------
    text : (sum of n_tokens, n_text_features), one text after the other
    n_tokens : (n_texts,), int64
    """

    text: NDArray[Any]
    n_tokens: NDArray[np.int64]


@torch.inference_mode()
def extract_texts(
    texts: Sequence[str],
    function: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    *,
    settings: Mapping[str, Any] | None,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExtractedText:
    """Encode texts, or read them from the cache; one at a time, so that no padding touches them.

    Parameters
    ----------
    function
        ``texts -> (text (n_texts, n_tokens, n_text_features), n_tokens (n_texts,))``.
    settings
        What the result depends on beside the text, as JSON; ``None``: nothing is cached.
    cache_dir
        ``None``: :func:`serkit.features.cache.default_cache_dir`.
    progress
        Called with the number of distinct texts that are done.
    """
    folder = None if settings is None else _folder(settings, cache_dir or default_cache_dir())
    encoded: dict[str, NDArray[Any]] = {}
    for text in texts:
        if text not in encoded:
            encoded[text] = _encode(text, function, folder)
            if progress is not None:
                progress(len(encoded))
    rows = [encoded[text] for text in texts]
    return ExtractedText(np.concatenate(rows), np.array([len(row) for row in rows]))


def _folder(settings: Mapping[str, Any], cache_dir: Path) -> Path:
    identity = json.dumps([VERSION, settings], sort_keys=True, default=str)
    folder = cache_dir / "text" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _encode(
    text: str,
    function: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    folder: Path | None,
) -> NDArray[Any]:
    path = None if folder is None else folder / f"{_name(text)}.safetensors"
    row = None if path is None else _read_entry(path)
    if row is not None:
        return row
    tokens, n_tokens = function([text])
    computed: NDArray[Any] = tokens[0, : int(n_tokens[0])].cpu().numpy()
    if path is not None:
        write_atomically(path, save({"text": np.ascontiguousarray(computed)}))
    return computed


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_entry(path: Path) -> NDArray[Any] | None:
    """Read an entry; ``None`` if it is not there, or was cut off by a full disk."""
    try:
        return load_file(path)["text"]
    except (OSError, SafetensorError, KeyError):
        return None
