"""Pickles read as data: dicts, lists, tuples, words and arrays of numbers, and nothing else.

A pickle is a program, and loading one runs it. Here its instructions are *read*, with the standard
library's disassembler, and the few that make containers of arrays are understood: nothing it names
is imported and nothing it asks for is called, so a file from anywhere is safe to open. Sizes that
it claims are compared with the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import math
import mmap
import pickletools
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["PickleRefusedError", "read_pickle"]

# What pickles of arrays name, written by NumPy 1 and by NumPy 2.
_KNOWN_NAMES = frozenset(
    {
        "__builtin__ bytes",
        "_codecs encode",
        "numpy ndarray",
        "numpy dtype",
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
        "numpy.core.multiarray scalar",
        "numpy._core.multiarray scalar",
        "numpy.core.numeric _frombuffer",
        "numpy._core.numeric _frombuffer",
    }
)
_NUMBER_CODES = frozenset(
    {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"},
)


class PickleRefusedError(Exception):
    """The pickle wants something that no container of arrays needs."""


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
        "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_PUT, _GET = frozenset({"BINPUT", "LONG_BINPUT"}), frozenset({"BINGET", "LONG_BINGET"})
_SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(data: mmap.mmap, *, max_instructions: int, words: bool = False) -> Any:
    """Follow the instructions that build dicts, lists, tuples and arrays.

    Parameters
    ----------
    data
        Read from where it stands; afterwards it stands behind the last instruction read.
    max_instructions
        More are refused.
    words
        Whether arrays may hold words as well; else they hold numbers, or one object.

    Raises
    ------
    PickleRefusedError
        If there is any other instruction, or a global that is not in ``_KNOWN_NAMES``.
    ValueError, LookupError, TypeError, ArithmeticError, MemoryError
        If the pickle is cut off or makes no sense.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("Any", data))):
        if count == max_instructions:
            raise PickleRefusedError(f"its pickle has more than {max_instructions} instructions")
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
            stack.append(_reduce(function, arguments, words=words))
        elif name == "BUILD":
            _build(stack[-2], stack.pop(), words=words)
        elif name == "STOP":
            return _value(stack.pop())
        else:
            raise PickleRefusedError(f"its pickle holds the instruction {name}")
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
    stack[-1].extend(map(_value, items))


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise TypeError("items for no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise PickleRefusedError("its pickle holds a dict whose keys are not words")
        stack[-1][key] = _value(value)


def _known(name: str) -> _Name:
    if name not in _KNOWN_NAMES:
        raise PickleRefusedError(f"its pickle asks for '{name.replace(' ', '.')[:80]}'")
    return _Name(name.rpartition(" ")[2])


def _reduce(function: Any, arguments: Any, *, words: bool) -> Any:
    """Do what the known functions would do, as far as data is concerned."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise PickleRefusedError("its pickle calls something that is no function")
    match function.name, arguments:
        case "_reconstruct", (_Name("ndarray"), _, _):
            return _Empty()
        case "dtype", (str() as code, *_):
            return _Dtype(code)
        case "_frombuffer", (bytes() | bytearray() as buffer, _Dtype() as dtype, shape, order):
            return _array(buffer, dtype, shape, fortran=order == "F", words=words)
        case "scalar", (_Dtype() as dtype, bytes() as content):
            return _array(content, dtype, (), fortran=False, words=words).item()
        case "encode", (str() as text, "latin1" | "latin-1"):
            return text.encode("latin1")
        case "bytes", ():
            return b""
    raise PickleRefusedError(f"its pickle calls '{function.name}' in an unknown way")


def _build(target: Any, state: Any, *, words: bool) -> None:
    match target, state:
        case _Dtype(), (_, str() as order, *_) if order in ("<", ">", "|", "="):
            target.order = order
        case _Empty(), (_, shape, _Dtype() as dtype, bool() as fortran, content):
            target.value = _array(content, dtype, shape, fortran=fortran, words=words)
        case _:
            raise PickleRefusedError("its pickle sets the state of something that is no array")


def _array(content: Any, dtype: _Dtype, shape: Any, *, fortran: bool, words: bool) -> Any:
    """Make an array from its bytes, or of its objects, or unwrap one that holds one object."""
    if not isinstance(shape, tuple):
        raise TypeError("an array without bytes or shape")
    if dtype.code in ("O", "O8", "O4"):
        if words and shape != ():
            return _array_of_words(content, shape)
        if shape != () or not isinstance(content, list) or len(content) != 1:
            raise TypeError("an array of objects that is not a single dict")
        return _value(content[0])
    lettered = words and dtype.code[:1] == "U" and dtype.code[1:].isdecimal()
    if dtype.code not in _NUMBER_CODES and not lettered:
        raise TypeError(f"an array of '{dtype.code[:20]}', expected numbers")
    if not isinstance(content, bytes | bytearray):
        raise TypeError("an array without bytes or shape")
    if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array of impossible shape")
    number = np.dtype(("" if dtype.order in "=|" else dtype.order) + dtype.code)
    n_bytes = math.prod(shape) * number.itemsize
    if n_bytes != len(content):
        raise ValueError(f"an array claims {n_bytes} bytes and has {len(content)}")
    if not n_bytes:
        return np.zeros(shape, dtype=number)
    flat: NDArray[Any] = np.frombuffer(content, dtype=number)
    return flat.reshape(shape, order="F" if fortran else "C")


def _array_of_words(content: Any, shape: tuple[Any, ...]) -> NDArray[Any]:
    known = isinstance(content, list) and all(isinstance(c, str | int | float) for c in content)
    if not known or shape != (len(content),):
        raise TypeError("an array of objects that is not a list of words")
    array = np.empty(len(content), dtype=object)
    array[:] = content
    return array


def _value(thing: Any) -> Any:
    if isinstance(thing, tuple):  # made of what was on the stack, arrays in the making included
        return tuple(each.value if isinstance(each, _Empty) else each for each in thing)
    return thing.value if isinstance(thing, _Empty) else thing
