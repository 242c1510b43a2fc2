"""Ready-made features of TIM-Net's authors: the files ``CASIA.npy``, ``EMODB.npy``, ...

Such a file is a pickled dict inside a NumPy file: ``x`` float32 (n_utterances, n_frames, 39), the
cepstra of the front end ``timnet-code``, and ``y`` float32 one-hot (n_utterances, n_classes). Rows
are class-major in alphabetical class order; inside a class they follow the natural order of the
file names. There are no speakers and no names in it. With N rows of T frames and C classes it has
431 + 4 * N * (39 * T + C) bytes.

A pickle is a program, and loading one runs it; :mod:`serkit.pickles`, which reads this one, runs
nothing, so a file from anywhere is safe to open.
"""

from __future__ import annotations

import ast
import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.pickles import PickleRefusedError, read_pickle
from serkit.types import InputError

__all__ = ["AuthorFeatures", "AuthorFileError", "read_author_features"]

N_FEATURES = 39

# First half of the SHA-256 of the files that the authors published -> their name for the corpus.
ORIGINALS = {
    "efd5329c6e57749c": "CASIA",
    "4554af87cddf39d3": "EMODB",
    "6aaba2ae44479344": "EMOVO",
    "229a8d379e362513": "RAVDE",
    "5a2aac79f64590be": "SAVEE",
}

_HELP = "expected a file such as the authors' EMODB.npy, a pickled dict of x and y"
_MAX_HEADER = 10_000  # bytes; the authors' files have 118
_MAX_INSTRUCTIONS = 1000  # the authors' files have about a hundred


class AuthorFileError(InputError):
    """A feature file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class AuthorFeatures:
    """What one of the authors' files holds.

    Attributes
    ----------
    x : (n_utterances, n_frames, 39), float32, read-only; every frame is valid
    y : (n_utterances,), int64, class index; classes are in alphabetical order
    n_classes
        Width of the one-hot labels.
    original
        The authors' name for the corpus if the file is, byte for byte, one that they published.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    n_classes: int
    original: str | None = None

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Utterances per class, in index order."""
        return tuple(int(n) for n in np.bincount(self.y, minlength=self.n_classes))

    @property
    def class_major(self) -> bool:
        """Whether the rows of a class stand together and classes follow in index order."""
        return bool((np.diff(self.y) >= 0).all())


def read_author_features(path: Path | str) -> AuthorFeatures:
    """Read a feature file of TIM-Net's authors without running the pickle inside.

    Parameters
    ----------
    path
        A ``.npy`` file as the authors' code writes it, with any version of NumPy.

    Raises
    ------
    AuthorFileError
        If the file is missing, cut off, not such a file, asks for anything that a dict of arrays
        does not need, or holds arrays of wrong shape, NaN or labels that are not one-hot.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise AuthorFileError(f"{path}: the file is empty; {_HELP}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                x, y = _read_arrays(path, data)
                digest = hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise AuthorFileError(f"{path}: cannot be read ({error.strerror}); {_HELP}") from None
    return _checked(path, x, y, ORIGINALS.get(digest[:16]))


def _read_arrays(path: Path, data: mmap.mmap) -> tuple[NDArray[Any], NDArray[Any]]:
    shape, descr = _read_header(path, data)
    if (shape, descr) != ((), "|O"):
        raise AuthorFileError(
            f"{path}: holds one plain array ({str(descr)[:40]}, shape {str(shape)[:40]}) and no "
            f"labels; {_HELP}"
        )
    try:
        content = read_pickle(data, max_instructions=_MAX_INSTRUCTIONS)
    except PickleRefusedError as refused:
        raise AuthorFileError(
            f"{path}: refused: {refused}, which a dict of arrays never does: the file is not what "
            "it claims to be, do not open it with other programs"
        ) from None
    except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise AuthorFileError(
            f"{path}: cut off or damaged at byte {data.tell()} of {len(data)} ({reason}): get the "
            "file again"
        ) from None
    if not isinstance(content, dict):
        raise AuthorFileError(f"{path}: holds {_kind(content)}, not a dict; {_HELP}")
    for key in ("x", "y"):
        if key not in content:
            keys = ", ".join(f"'{name}'"[:40] for name in list(content)[:5]) or "nothing"
            raise AuthorFileError(f"{path}: the dict has no '{key}', it has {keys}; {_HELP}")
        if not isinstance(content[key], np.ndarray):
            raise AuthorFileError(
                f"{path}: '{key}' is {_kind(content[key])}, expected an array of numbers; {_HELP}"
            )
    return content["x"], content["y"]


def _read_header(path: Path, data: mmap.mmap) -> tuple[Any, Any]:
    """Read shape and dtype from the header of a NumPy file; leave ``data`` behind it."""
    magic = data.read(8)  # six bytes of name, two of version
    size = data.read(2 if magic[6:] == b"\x01\x00" else 4)
    text = data.read(min(int.from_bytes(size, "little"), _MAX_HEADER))
    try:
        if magic[:6] != b"\x93NUMPY":
            raise ValueError("wrong magic")
        header = ast.literal_eval(text.decode("latin-1").strip())
        return header["shape"], header["descr"]
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError):
        raise AuthorFileError(f"{path}: not a NumPy file; {_HELP}") from None


def _checked(path: Path, x: NDArray[Any], y: NDArray[Any], original: str | None) -> AuthorFeatures:
    """Check shapes and values and turn one-hot labels into class indices."""
    if x.ndim != 3 or x.shape[2] != N_FEATURES or not x.shape[0] or not x.shape[1]:
        raise AuthorFileError(
            f"{path}: x has shape {x.shape}, expected (n_utterances, n_frames, {N_FEATURES}): "
            "features of another front end cannot be used here"
        )
    if x.dtype.kind != "f":
        raise AuthorFileError(f"{path}: x holds {x.dtype.name}, expected float32")
    if y.ndim != 2 or len(y) != len(x) or y.shape[1] < 2:
        raise AuthorFileError(
            f"{path}: y has shape {y.shape}, expected ({len(x)}, n_classes), a one-hot row for "
            "each row of x"
        )
    ones = y == 1
    wrong = np.flatnonzero((ones.sum(1) != 1) | ((y != 0) & ~ones).any(1))
    if len(wrong):
        raise AuthorFileError(
            f"{path}: row {wrong[0]} of y is not one-hot (and {len(wrong) - 1} more), expected a "
            "single 1 among zeros: soft labels or class indices cannot be used here"
        )
    x = x.astype(np.float32, copy=False)
    broken = np.flatnonzero(~np.isfinite(x).all((1, 2)))
    if len(broken):
        raise AuthorFileError(
            f"{path}: row {broken[0]} of x holds NaN or infinite values (and {len(broken) - 1} "
            "more rows): the file is damaged, get it again"
        )
    x.flags.writeable = False
    return AuthorFeatures(x, ones.argmax(1).astype(np.int64), y.shape[1], original)


def _kind(thing: Any) -> str:
    if isinstance(thing, np.ndarray):
        return "an array"
    return {"NoneType": "nothing"}.get(type(thing).__name__, f"a {type(thing).__name__}")
