"""Ready-made features of TIM-Net's authors: the files ``CASIA.npy``, ``EMODB.npy``, ...

Such a file is a pickled dict inside a NumPy file: ``x`` float32 (n_utterances, n_frames, 39), the
cepstra of the front end ``timnet-code``, and ``y`` float32 one-hot (n_utterances, n_classes). Rows
are class-major in alphabetical class order; inside a class they follow the natural order of the
file names. There are no speakers and no names in it. With N rows of T frames and C classes it has
431 + 4 * N * (39 * T + C) bytes.

A pickle is a program, and loading one runs it. Here its instructions are *read*, with the standard
library's disassembler, and the few that make a dict of arrays are understood: nothing it names is
imported and nothing it asks for is called, so a file from anywhere is safe to open. Sizes that it
claims are compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import ast
import hashlib
import math
import mmap
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

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
# What the pickle of a dict of arrays names, written by NumPy 1 and by NumPy 2.
_KNOWN_NAMES = frozenset(
    {
        "numpy ndarray",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "numpy.core.numeric _frombuffer",
        "numpy._core.numeric _frombuffer",
    }
)
_NUMBER_CODES = frozenset(
    {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"},
)


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
        content = _read_pickle(data)
    except _RefusedError as refused:
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


# The pickle, read as data


class _RefusedError(Exception):
    """The pickle wants something that no dict of arrays needs."""


@dataclass(slots=True)
class _Name:
    """A global that the pickle names; never looked up."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """A NumPy dtype in the making: code such as ``f4`` or ``O8``, byte order."""

    code: str
    order: str = "="


@dataclass(slots=True)
class _Empty:
    """An array in the making; the value comes with BUILD."""

    value: Any = None


class _Mark:
    """Where a tuple, or a run of list or dict items, begins on the stack."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {
        "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_PUT, _GET = frozenset({"BINPUT", "LONG_BINPUT"}), frozenset({"BINGET", "LONG_BINGET"})
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _read_pickle(data: mmap.mmap) -> Any:
    """Follow the instructions that build dicts, lists, tuples and arrays of numbers.

    Raises
    ------
    _RefusedError
        If there is any other instruction, or a global that is not in ``_KNOWN_NAMES``.
    ValueError, LookupError, TypeError
        If the pickle is cut off or makes no sense.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", data))):
        if count == _MAX_INSTRUCTIONS:
            raise _RefusedError(f"its pickle has more than {_MAX_INSTRUCTIONS} instructions")
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MEMOIZE" or name in _PUT:
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif name in _GET:
            stack.append(memo[cast("int", argument)])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in _SHORT_TUPLES:
            stack.append(tuple(_pop(stack, _SHORT_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("APPEND", "APPENDS"):
            _extend(stack, _pop(stack, 1) if name == "APPEND" else _pop_to_mark(stack))
        elif name in ("SETITEM", "SETITEMS"):
            _set_items(stack, _pop(stack, 2) if name == "SETITEM" else _pop_to_mark(stack))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_known(" ".join([str(argument)] if argument else _pop(stack, 2))))
        elif name == "REDUCE":
            function, arguments = _pop(stack, 2)
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            _build(stack[-2], stack.pop())
        elif name == "STOP":
            return _value(stack.pop())
        else:
            raise _RefusedError(f"its pickle holds the instruction {name}")
    raise ValueError("no STOP")  # genops says so itself; this is for the reader


def _pop(stack: list[Any], n: int) -> list[Any]:
    if len(stack) < n:
        raise IndexError("stack underflow")
    taken = stack[len(stack) - n :]
    del stack[len(stack) - n :]
    return taken


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    taken = []
    while (top := stack.pop()) is not _MARK:
        taken.append(top)
    return taken[::-1]


def _extend(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise TypeError("items for no list")
    stack[-1].extend(items)


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise TypeError("items for no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise _RefusedError("its pickle holds a dict whose keys are not words")
        stack[-1][key] = _value(value)


def _known(name: str) -> _Name:
    if name not in _KNOWN_NAMES:
        raise _RefusedError(f"its pickle asks for '{name.replace(' ', '.')[:80]}'")
    return _Name(name.rpartition(" ")[2])


def _reduce(function: Any, arguments: Any) -> Any:
    """Do what the known functions would do, as far as data is concerned."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise _RefusedError("its pickle calls something that is no function")
    match function.name, arguments:
        case "_reconstruct", (_Name("ndarray"), _, _):
            return _Empty()
        case "dtype", (str() as code, *_):
            return _Dtype(code)
        case "_frombuffer", (bytes() | bytearray() as buffer, _Dtype() as dtype, shape, order):
            return _array(buffer, dtype, shape, fortran=order == "F")
    raise _RefusedError(f"its pickle calls '{function.name}' in an unknown way")


def _build(target: Any, state: Any) -> None:
    match target, state:
        case _Dtype(), (_, str() as order, *_) if order in ("<", ">", "|", "="):
            target.order = order
        case _Empty(), (_, shape, _Dtype() as dtype, bool() as fortran, content):
            target.value = _array(content, dtype, shape, fortran=fortran)
        case _:
            raise _RefusedError("its pickle sets the state of something that is no array")


def _array(content: Any, dtype: _Dtype, shape: Any, *, fortran: bool) -> Any:
    """Make an array of numbers from its bytes, or unwrap an array that holds one object."""
    if dtype.code in ("O", "O8", "O4"):
        if shape != () or not isinstance(content, list) or len(content) != 1:
            raise TypeError("an array of objects that is not a single dict")
        return _value(content[0])
    if dtype.code not in _NUMBER_CODES:
        raise TypeError(f"an array of '{dtype.code[:20]}', expected numbers")
    if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
        raise TypeError("an array without bytes or shape")
    if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array of impossible shape")
    number = np.dtype(("" if dtype.order == "=" else dtype.order) + dtype.code)
    n_bytes = math.prod(shape) * number.itemsize
    if n_bytes != len(content):
        raise ValueError(f"an array claims {n_bytes} bytes and has {len(content)}")
    flat: NDArray[Any] = np.frombuffer(content, dtype=number)
    return flat.reshape(shape, order="F" if fortran else "C")


def _value(thing: Any) -> Any:
    return thing.value if isinstance(thing, _Empty) else thing


def _kind(thing: Any) -> str:
    if isinstance(thing, np.ndarray):
        return "an array"
    return {"NoneType": "nothing"}.get(type(thing).__name__, f"a {type(thing).__name__}")
