"""Texts are encoded once, in order, and found again by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from serkit.features.text_cache import extract_texts

TEXTS = ["a dog", "kids", "a dog"]
SETTINGS = {"name": "letters", "weights_sha256": "0" * 64}


class Letters:
    """Encodes a text as its letters' numbers, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        (text,) = texts
        self.asked.append(text)
        letters = torch.tensor([[float(ord(c)), 1.0] for c in text])
        padded = torch.nn.functional.pad(letters, (0, 0, 0, 3), value=-1.0)
        return padded.unsqueeze(0), torch.tensor([len(text)])


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_tokens_stand_in_the_order_of_the_texts_without_padding(tmp_path):
    letters = Letters()
    got = extract_texts(TEXTS, letters, settings=SETTINGS, cache_dir=tmp_path)
    assert got.n_tokens.tolist() == [5, 4, 5]
    assert got.text.shape == (14, 2)
    assert got.text[:, 0].tolist() == [ord(c) for c in "a dogkidsa dog"]
    assert letters.asked == ["a dog", "kids"]  # each text once


def test_a_second_run_reads_the_cache(tmp_path):
    first = extract_texts(TEXTS, Letters(), settings=SETTINGS, cache_dir=tmp_path)
    again = Letters()
    second = extract_texts(TEXTS, again, settings=SETTINGS, cache_dir=tmp_path)
    assert again.asked == []
    assert np.array_equal(first.text, second.text)
    assert len(entries(tmp_path)) == 2


def test_other_settings_never_meet_old_vectors(tmp_path):
    extract_texts(TEXTS, Letters(), settings=SETTINGS, cache_dir=tmp_path)
    other = Letters()
    extract_texts(TEXTS, other, settings=SETTINGS | {"weights_sha256": "1"}, cache_dir=tmp_path)
    assert other.asked == ["a dog", "kids"]


@pytest.mark.parametrize("content", [b"", b"not a tensor"])
def test_a_damaged_entry_is_computed_again(tmp_path, content):
    first = extract_texts(TEXTS, Letters(), settings=SETTINGS, cache_dir=tmp_path)
    entries(tmp_path)[0].write_bytes(content)
    again = Letters()
    second = extract_texts(TEXTS, again, settings=SETTINGS, cache_dir=tmp_path)
    assert len(again.asked) == 1
    assert np.array_equal(first.text, second.text)


def test_without_settings_nothing_is_kept(tmp_path):
    seen: list[int] = []
    extract_texts(TEXTS, Letters(), settings=None, cache_dir=tmp_path, progress=seen.append)
    assert entries(tmp_path) == []
    assert seen == [1, 2]
