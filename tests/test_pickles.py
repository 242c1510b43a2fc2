"""Pickles read as data: words as well as numbers, and no program."""

import mmap
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serkit.pickles import PickleRefusedError, read_pickle


def read(tmp_path: Path, pickled: bytes, *, words: bool = True, limit: int = 10_000) -> Any:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return read_pickle(data, max_instructions=limit, words=words)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_words_and_numbers_are_read(tmp_path, protocol):
    content = {
        "words": np.array(["a", "好的"]),
        "objects": np.array(["a", "bc"], dtype=object),
        "numbers": np.arange(6.0).reshape(2, 3),
        "nothing": np.zeros((0, 3), np.float32),
        "scalars": [np.float32(0.5), np.int64(7), np.str_("x")],
        "plain": [1, 2.5, None, True, "text", ("a", 1), 1 << 40],
        "arrays": [np.ones(2), np.zeros(1, bool)],
        "big": np.arange(3, dtype=">i4"),
        "nested": {"a": {"b": []}},
    }
    found = read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert found.keys() == content.keys()
    for name in ("words", "objects", "numbers", "nothing", "big"):
        np.testing.assert_array_equal(found[name], content[name])
    for name in ("scalars", "plain", "nested"):
        assert found[name] == content[name]
    for one, other in zip(found["arrays"], content["arrays"], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_in_tuples_are_read(tmp_path, protocol):
    content = [["p226", np.ones((1, 3), np.float32), (np.zeros((2, 4)), np.arange(2.0), 2, "001")]]
    ((speaker, vector, (mel, f0, n_frames, name)),) = read(
        tmp_path, pickle.dumps(content, protocol=protocol), words=False
    )
    assert (speaker, n_frames, name) == ("p226", 2, "001")
    assert vector.shape == (1, 3)
    assert mel.shape == (2, 4)
    np.testing.assert_array_equal(f0, [0, 1])


def test_words_in_arrays_are_asked_for(tmp_path):
    for words in (np.array(["a"]), np.array(["a", "b"], dtype=object)):
        with pytest.raises(TypeError, match=r"expected numbers|not a single dict"):
            read(tmp_path, pickle.dumps(words), words=False)


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_programs_are_refused(tmp_path, protocol):
    mark = tmp_path / "marker"
    for bomb in (
        Call(os.system, f"echo > {mark}"),
        Call(eval, "1"),
        Call(np.load, "x"),
        Call(bytearray, 9),
    ):
        with pytest.raises(PickleRefusedError, match="asks for"):
            read(tmp_path, pickle.dumps([{"a": bomb}], protocol=protocol))
    assert not mark.exists()


def test_bytes_of_a_claimed_size_are_not_made(tmp_path):
    with pytest.raises(PickleRefusedError, match="calls 'bytes' in an unknown way"):
        read(tmp_path, pickle.dumps([Call(bytes, (10**12,))], protocol=2))


def test_containers_of_anything_else_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not a list of words"):
        read(tmp_path, pickle.dumps(np.array([{"a": 1}, None], dtype=object)))
    with pytest.raises(PickleRefusedError, match="keys are not words"):
        read(tmp_path, pickle.dumps({1: 2}))
    with pytest.raises(PickleRefusedError, match="the instruction EMPTY_SET"):
        read(tmp_path, pickle.dumps({"a": {1, 2}}))
    with pytest.raises(PickleRefusedError, match="more than 20 instructions"):
        read(tmp_path, pickle.dumps(list(range(99))), limit=20)
    with pytest.raises(TypeError, match="expected numbers"):
        read(tmp_path, pickle.dumps(np.array(["2020-01-01"], dtype="M8[D]")))
