"""Features of clips: what they must be, and how they are kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiment.toy_clips import toy_clips
from serkit.clip_data import (
    ClipData,
    ClipDataError,
    Frames,
    read_clip_data,
    write_clip_data,
)


def assert_equal(one: ClipData, other: ClipData) -> None:
    for name in ("ids", "parts", "groups", "texts", "annotations", "speakers", "asr_texts"):
        assert getattr(one, name) == getattr(other, name)
    for name, frames in one.frames.items():
        np.testing.assert_array_equal(frames.values, other.frames[name].values)
        np.testing.assert_array_equal(frames.lengths, other.frames[name].lengths)
        assert frames.names == other.frames[name].names
        assert frames.n_replaced == other.frames[name].n_replaced
    np.testing.assert_array_equal(one.present, other.present)
    assert one.labels.keys() == other.labels.keys()
    for name, values in one.labels.items():
        np.testing.assert_array_equal(values, other.labels[name])
    assert one.status == other.status
    assert one.settings == other.settings


def full() -> ClipData:
    n = 8
    rng = np.random.default_rng(0)
    text, _ = Frames.of([rng.normal(size=(i + 1, 5)) for i in range(n)])
    return toy_clips(
        n,
        speakers=tuple("ab" * 4),
        asr_texts=tuple("好" for _ in range(n)),
        text_bert=rng.integers(0, 9, (n, 3, 4)),
        text=text,
        status={"audio": ("ok",) * n},
    )


@pytest.mark.parametrize("make", [full, lambda: toy_clips(8)])
def test_what_is_written_is_read(tmp_path, make):
    data = make()
    read = read_clip_data(write_clip_data(data, tmp_path / "clips.npz"))
    assert_equal(data, read)
    if data.text_bert is None:
        assert read.text_bert is None
    else:
        np.testing.assert_array_equal(data.text_bert, read.text_bert)


def test_a_clip_without_frames_gets_one_of_zeros():
    frames, present = Frames.of([np.ones((2, 3)), np.zeros((0, 3)), np.ones((1, 3))])
    assert frames.lengths.tolist() == [2, 1, 1]
    assert present.tolist() == [True, False, True]
    assert frames.rows()[1].tolist() == [[0, 0, 0]]


def test_numbers_that_are_none_become_zero_and_are_counted():
    frames, _ = Frames.of([np.array([[1.0, np.nan], [-np.inf, 1e300]])])
    assert frames.values.tolist() == [[1, 0], [0, 0]]
    assert frames.n_replaced == 3


def with_frames(**changes):
    audio = toy_clips(8).audio
    return {"audio": replace(audio, **changes)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ids": ("a",) * 8}, "two clips have the id a"),
        ({"ids": ()}, "no clips"),
        ({"texts": ("x",)}, "1 texts for 8 clips"),
        ({"speakers": ("x",)}, "1 speakers for 8 clips"),
        ({"status": {"audio": ("ok",)}}, "1 words of status.audio for 8 clips"),
        ({"parts": ("valid",) * 8}, "part is 'valid', expected one of train, dev, test"),
        ({"present": np.ones((8, 2), bool)}, "present of shape"),
        ({"labels": {"M": np.zeros(3)}}, r"labels 'M' of shape \(3,\)"),
        ({"labels": {"X": np.zeros(8)}}, "expected M, T, A or V"),
        ({"text_bert": np.zeros((8, 2, 4), np.int64)}, "text_bert of shape"),
        (with_frames(values=np.zeros((4, 4))), "expected .* of float32"),
        (with_frames(lengths=np.zeros(8, np.int64)), "of at least 1 for each clip"),
        (with_frames(lengths=np.ones(8, np.int64)), "its lengths sum to 8"),
        (with_frames(names=("a",)), "4 columns and 1 names"),
        (
            with_frames(values=np.full((8, 4), np.nan, np.float32), lengths=np.ones(8, np.int64)),
            "audio holds NaN or infinite",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, reason):
    with pytest.raises(ClipDataError, match=reason):
        toy_clips(8, **changes)


def test_files_that_are_something_else_give_one_line(tmp_path):
    path = write_clip_data(toy_clips(8), tmp_path / "clips.npz")
    beside = tmp_path / "clips.json"
    words = beside.read_text(encoding="utf-8")

    def refusal(reason: str, at=path) -> None:
        with pytest.raises(ClipDataError, match=reason) as caught:
            read_clip_data(at)
        assert "\n" not in str(caught.value)

    refusal("are kept in a .npz", at=tmp_path / "clips.pkl")
    refusal("other.npz: no such file", at=tmp_path / "other.npz")
    beside.unlink()
    refusal("clips.json: cannot be read")
    beside.write_text(words + " ", encoding="utf-8")
    refusal("does not belong to clips.json")
    beside.write_text("{", encoding="utf-8")
    refusal("not valid JSON")
    beside.write_text(json.dumps({"schema": 99}), encoding="utf-8")
    refusal("schema 99, expected 1")
    beside.write_text(words, encoding="utf-8")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refusal("not a readable .npz")
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    refusal("not a readable .npz|does not belong")
    path.unlink()
    refusal("no such file")
    with np.load(write_clip_data(toy_clips(8), path)) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "audio"}
    np.savez(path, **arrays)
    refusal("incomplete")
    with pytest.raises(ClipDataError, match="cannot be written"):
        write_clip_data(toy_clips(8), tmp_path / "missing" / "clips.npz")


def test_classes_of_streams_are_kept(tmp_path):
    words = tuple("happy" if i % 2 else "" for i in range(len(toy_clips())))
    named = replace(toy_clips(), stream_annotations={"A": words})
    write_clip_data(named, tmp_path / "clips.npz")
    assert read_clip_data(tmp_path / "clips.npz").stream_annotations == {"A": words}
    write_clip_data(toy_clips(), tmp_path / "plain.npz")
    assert "stream_annotations" not in (tmp_path / "plain.json").read_text()
    for wrong in ({"A": ("sad",) * 50}, {"M": words}):
        with pytest.raises(ClipDataError, match=r"annotations of the stream '[AM]' for"):
            replace(toy_clips(), stream_annotations=wrong)
