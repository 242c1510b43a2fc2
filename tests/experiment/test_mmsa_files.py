"""MMSA's feature files: read without running them, written so that they are read again."""

import os
import pickle
from typing import Any

import numpy as np
import pytest

from experiment.toy_clips import toy_clips
from serkit.clip_data import ClipDataError, write_clip_data
from serkit.experiment.originals.mmsa_files import read_clips, read_mmsa_pickle, write_mmsa_pickle


def split(n: int, first: int, *, length: int = 5, aligned: bool = False) -> dict[str, Any]:
    """One part of a file as MMSA has it; a clip has 1 to 5 frames and as many tokens."""
    rng = np.random.default_rng(first)
    lengths = 1 + np.arange(n) % length
    valid = np.arange(length) < lengths[:, None]
    content: dict[str, Any] = {
        "id": [f"video{(first + i) // 2}$_${i:04d}" for i in range(n)],
        "raw_text": np.array([f"这是 {i}" for i in range(n)]),
        "text": rng.normal(size=(n, length, 7)).astype(np.float32),
        "text_bert": np.stack([valid * 9, valid, 0 * valid], axis=1).astype(np.float32),
        "audio": rng.normal(size=(n, length, 3)) * valid[:, :, None],
        "vision": rng.normal(size=(n, length, 4)).astype(np.float32) * valid[:, :, None],
        "annotations": np.array(["Negative", "Neutral", "Positive"] * n, dtype=object)[:n],
        "regression_labels": np.linspace(-1, 1, n).astype(np.float32),
        "regression_labels_T": np.zeros(n),
        "classification_labels": np.arange(n) % 3,
    }
    if not aligned:
        content["audio_lengths"] = lengths.tolist()
        content["vision_lengths"] = [np.int64(i) for i in lengths]
    return content


def pickled(tmp_path, content: Any, *, protocol: int = 4):
    path = tmp_path / "unaligned.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def whole(**options: Any) -> dict[str, Any]:
    return {
        "train": split(6, 0, **options),
        "valid": split(2, 100, **options),
        "test": split(3, 200, **options),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_every_protocol_are_read(tmp_path, protocol):
    content = whole() | {"config": {"audio": {"tool": "librosa", "x": 0.5}}, "other": [1, None]}
    data = read_mmsa_pickle(pickled(tmp_path, content, protocol=protocol))
    assert len(data) == 11
    assert data.parts == ("train",) * 6 + ("dev",) * 2 + ("test",) * 3
    assert data.groups[:3] == ("video0", "video0", "video1")
    assert data.texts[1] == "这是 1"
    assert data.annotations[2] == "Positive"
    assert data.audio.lengths[:6].tolist() == [1, 2, 3, 4, 5, 1]
    train = content["train"]
    np.testing.assert_array_equal(data.audio.rows()[2], train["audio"][2, :3].astype(np.float32))
    np.testing.assert_array_equal(data.vision.rows()[4], train["vision"][4])
    np.testing.assert_array_equal(data.text_bert[:6], train["text_bert"])
    assert data.text.lengths[:6].tolist() == [1, 2, 3, 4, 5, 1]
    np.testing.assert_allclose(data.labels["M"][:6], train["regression_labels"])
    assert data.labels.keys() == {"M", "T"}
    assert data.present.all()


def test_aligned_files_have_the_lengths_of_their_tokens(tmp_path):
    data = read_mmsa_pickle(pickled(tmp_path, whole(aligned=True)))
    assert data.audio.lengths[:6].tolist() == [1, 2, 3, 4, 5, 1]
    content = whole(aligned=True)
    for part in content.values():
        del part["text_bert"]
    data = read_mmsa_pickle(pickled(tmp_path, content))
    assert set(data.audio.lengths.tolist()) == {5}


def test_broken_numbers_are_replaced_and_counted(tmp_path):
    content = whole()
    content["train"]["audio"][4, 0, :2] = -np.inf, np.nan
    content["train"]["vision_lengths"][0] = 0
    data = read_mmsa_pickle(pickled(tmp_path, content))
    assert data.n_replaced == {"text": 0, "audio": 2, "vision": 0}
    assert data.audio.rows()[4][0, :2].tolist() == [0, 0]
    assert data.present[0].tolist() == [True, True, False]
    assert data.vision.lengths[0] == 1


def test_what_is_written_is_read_again(tmp_path):
    data = toy_clips(40)
    read = read_clips(write_mmsa_pickle(data, tmp_path / "out.pkl"))
    order = [data.ids.index(identity) for identity in read.ids]
    assert sorted(order) == list(range(40))
    assert read.parts == tuple(data.parts[row] for row in order)
    assert read.texts == tuple(data.texts[row] for row in order)
    np.testing.assert_array_equal(read.present, data.present[order])
    np.testing.assert_allclose(read.labels["M"], data.labels["M"][order], atol=1e-7)
    assert read.labels.keys() == {"M", "T", "A", "V"}
    for name in ("audio", "vision"):
        ours, theirs = data.frames[name].rows(), read.frames[name].rows()
        limit = int(data.frames[name].lengths.mean() + 3 * data.frames[name].lengths.std())
        for row, frames in zip(order, theirs, strict=True):
            np.testing.assert_array_equal(frames, ours[row][:limit])
    with open(tmp_path / "out.pkl", "rb") as file:
        content = pickle.load(file)
    assert content["train"]["classification_labels"].max() == 2


def test_long_clips_lose_their_end(tmp_path):
    data = toy_clips(40, missing=0.0)
    long = np.arange(4 * 500, dtype=np.float32).reshape(500, 4)
    from serkit.clip_data import Frames

    audio, _ = Frames.of([long, *data.audio.rows()[1:]])
    written = write_mmsa_pickle(toy_clips(40, missing=0.0, audio=audio), tmp_path / "out.pkl")
    read = read_mmsa_pickle(written)
    frames = read.audio.rows()[read.ids.index(data.ids[0])]
    assert len(frames) == int(audio.lengths.mean() + 3 * audio.lengths.std()) < 500
    np.testing.assert_array_equal(frames, long[: len(frames)])


def test_streams_labels_without_all_values_are_left_out(tmp_path):
    labels = dict(toy_clips(40).labels)
    labels["T"] = np.where(np.arange(40) == 3, np.nan, labels["T"])
    path = write_mmsa_pickle(toy_clips(40, labels=labels), tmp_path / "out.pkl")
    assert read_mmsa_pickle(path).labels.keys() == {"M", "A", "V"}


def test_our_own_files_are_read_by_their_name(tmp_path):
    path = write_clip_data(toy_clips(8), tmp_path / "clips.npz")
    assert read_clips(path).ids == toy_clips(8).ids


class Bomb:
    def __init__(self, order: str) -> None:
        self.order = order

    def __reduce__(self) -> Any:
        return os.system, (self.order,)


@pytest.mark.parametrize("place", ["top", "train", "list"])
def test_hostile_pickles_are_refused_and_not_run(tmp_path, place):
    mark = tmp_path / "marker"
    bomb, content = Bomb(f"echo done > {mark}"), whole()
    if place == "top":
        content["config"] = bomb
    elif place == "train":
        content["train"]["z"] = bomb
    else:
        content["train"]["id"][0] = bomb
    with pytest.raises(ClipDataError, match="refused: its pickle asks for") as caught:
        read_mmsa_pickle(pickled(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def without(*keys: str):
    content = whole()
    for key in keys:
        del content["train"][key]
    return content


def changed(key: str, value: Any):
    content = whole()
    content["train"][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds no train, valid or test"),
        ({"x": 1}, "holds no train, valid or test"),
        ({"train": 3}, "train is no dict"),
        ({"train": split(0, 0)}, "holds no clip"),
        (without("audio"), "train has no 'audio'"),
        (without("regression_labels"), "train has no 'regression_labels'"),
        (changed("raw_text", ["a"]), "train has 6 ids and 1 rows of 'raw_text'"),
        (changed("audio", np.zeros((6, 5))), "'audio' of train is no array of three axes"),
        (changed("audio", np.zeros((6, 5, 9))), "another width in each part"),
        (changed("audio_lengths", [1]), "lengths of 'audio' for 11 clips"),
        (changed("regression_labels", np.zeros(2)), "labels 'M' of shape"),
        (changed("text_bert", np.full((6, 3, 5), np.nan)), "no token numbers"),
        (changed("text_bert", np.zeros((6, 3, 9))), "do not fit each other"),
        (changed("audio_lengths", ["a"] * 6), "do not fit each other"),
    ],
)
def test_files_that_lack_something_give_one_line(tmp_path, content, reason):
    path = pickled(tmp_path, content)
    with pytest.raises(ClipDataError, match=reason) as caught:
        read_mmsa_pickle(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello world", "no pickle, or damaged"),
        (pickle.dumps(whole())[:900], "no pickle, or damaged"),
    ],
)
def test_damaged_files_give_one_line(tmp_path, data, reason):
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(ClipDataError, match=reason):
        read_mmsa_pickle(path)
    with pytest.raises(ClipDataError, match="cannot be read"):
        read_mmsa_pickle(tmp_path / "missing.pkl")
    with pytest.raises(ClipDataError, match="cannot be written"):
        write_mmsa_pickle(toy_clips(8), tmp_path / "missing" / "x.pkl")


def test_clips_without_features_are_told_how_to_get_them(tmp_path):
    with pytest.raises(
        ClipDataError, match=r"make them with 'serkit extract .*c\.csv --corpus table"
    ):
        read_clips(tmp_path / "c.csv")
    with pytest.raises(ClipDataError, match=r"make them with 'serkit extract \S+ -o features.npz'"):
        read_clips(tmp_path)


def test_classes_of_older_files_are_read_and_written_again(tmp_path):
    content = whole()
    for part in ("train", "valid", "test"):
        n = len(content[part]["id"])
        del content[part]["annotations"]
        content[part]["classification_labels_A"] = np.arange(n)[::-1] % 3
    data = read_mmsa_pickle(pickled(tmp_path, content))
    assert data.annotations[:3] == ("Negative", "Neutral", "Positive")
    assert data.stream_annotations.keys() == {"A"}
    assert data.stream_annotations["A"][:3] == ("Positive", "Neutral", "Negative")
    again = read_mmsa_pickle(write_mmsa_pickle(data, tmp_path / "again.pkl"))
    assert again.stream_annotations == data.stream_annotations
    content["test"]["classification_labels_A"] = np.array([0, 1, 3])
    with pytest.raises(ClipDataError, match=r"'classification_labels_A' holds 3: expected 0"):
        read_mmsa_pickle(pickled(tmp_path, content))
