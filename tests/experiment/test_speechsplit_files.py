"""Folders that SpeechSplit's authors prepare, made here in their layout, are trained on."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from serkit.experiment.config import ConfigError
from serkit.experiment.decomposition.model import load_decomposition
from serkit.experiment.decomposition.run import DecompositionConfig, run_decomposition
from serkit.experiment.originals.speech_split import SpeechSplitFileError, read_speechsplit
from serkit.experiment.tasks import load_task

SPEAKERS = ("p226", "p231", "p999")
UNVOICED = -1e10


def spoken(seed: int, *, n_frames: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Make a spectrogram and a pitch contour of the kinds that the authors store."""
    rng = np.random.default_rng(seed)
    mel = rng.uniform(-0.16, 1.0, (n_frames, 80)).astype(np.float32)
    f0 = rng.uniform(0, 1, n_frames).astype(np.float32)
    f0[:5] = UNVOICED
    return mel, f0


def prepared(root: Path, *, protocol: int = 3) -> Path:
    """Write a folder as the authors' scripts leave it; gives its train.pkl."""
    (root / "spmel").mkdir(parents=True)
    rows = []
    for number, speaker in enumerate(SPEAKERS):
        one_hot = np.zeros(82, dtype=np.float32)
        one_hot[number] = 1
        row = [speaker, one_hot]
        for take in range(3):
            mel, f0 = spoken(10 * number + take, n_frames=40 + 10 * take)
            name = f"{speaker}/{speaker}_{take:03d}.npy"
            for folder, array in (("spmel", mel), ("raptf0", f0)):
                (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
                np.save(root / folder / name, array)
            row.append(name)
        rows.append(row)
    dump(root / "spmel" / "train.pkl", rows, protocol=protocol)
    return root / "spmel" / "train.pkl"


def dump(path: Path, content: object, *, protocol: int = 3) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_utterances_speakers_and_features_are_those_of_the_files(tmp_path, protocol):
    part, extracted = read_speechsplit(prepared(tmp_path, protocol=protocol))
    assert [u.id for u in part.utterances[:2]] == ["p226/p226_000", "p226/p226_001"]
    assert [u.speaker for u in part.utterances[::3]] == list(SPEAKERS)
    assert {u.gender for u in part.utterances} == {None}
    assert extracted.n_frames.tolist() == [40, 50, 60] * 3
    mel, f0 = spoken(0)
    np.testing.assert_array_equal(extracted.features[:40, :80], mel)
    np.testing.assert_array_equal(extracted.features[:40, 80], np.where(f0 < 0, -1, f0))
    assert len(set(extracted.audio_hashes.values())) == 9
    assert extracted.durations_s["p226/p226_000"] == pytest.approx(0.64)
    assert "9 utterances by 3 speakers" in part.description["check"]


def test_genders_are_those_of_the_map(tmp_path):
    path = prepared(tmp_path)
    dump(tmp_path / "spk2gen.pkl", {"p226": "M", "p231": "F", "p000": "F"})
    part, _ = read_speechsplit(path)
    assert {u.speaker: u.gender for u in part.utterances} == {
        "p226": "male",
        "p231": "female",
        "p999": None,
    }
    dump(tmp_path / "spk2gen.pkl", {"p226": "x"})
    with pytest.raises(SpeechSplitFileError, match=r"spk2gen\.pkl: expected a dict of speakers"):
        read_speechsplit(path)


def test_the_pickle_of_a_demonstration_holds_its_utterances(tmp_path):
    (tmp_path / "spmel").mkdir()
    path = tmp_path / "spmel" / "demo.pkl"
    mel, f0 = spoken(5, n_frames=30)
    longer = np.concatenate([f0, np.full(3, UNVOICED, np.float32)])
    vector = np.zeros((1, 82), dtype=np.float32)
    dump(path, [["p226", vector, (mel, longer[:30], 30, "003002"), (mel, f0, np.int64(20), "x")]])
    part, extracted = read_speechsplit(path)
    assert [u.id for u in part.utterances] == ["p226/003002", "p226/x"]
    assert extracted.n_frames.tolist() == [30, 20]
    np.testing.assert_array_equal(extracted.features[30:, :80], mel[:20])


@pytest.mark.parametrize("network", ["tiny", "f0-converter-small"])
def test_both_networks_are_trained_on_such_a_folder(tmp_path, network):
    path = prepared(tmp_path / "assets")
    sizes = ["model.sizes.rhythm_width=16", "model.sizes.pitch_width=16"]
    if network == "tiny":
        sizes += ["model.timbre=one_hot", "model.sizes.content_width=16"]
    config = load_task(
        f"speech_split/{network}",
        overrides=[
            f"corpus.manifest={path}",
            *sizes,
            "training.epochs=1",
            "training.accelerator=cpu",
            "n_samples=1",
        ],
    )
    assert isinstance(config, DecompositionConfig)
    run_decomposition(config, out=tmp_path / "out")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["corpus"]["n_speakers"] == 3
    assert "ready-made" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert saved["trained_on"]["speakers"] == [["speechsplit", s] for s in SPEAKERS]
    if network == "tiny":
        assert load_decomposition(tmp_path / "out").speakers == tuple(
            f"speechsplit/{speaker}" for speaker in SPEAKERS
        )


def test_labels_cannot_be_asked_of_it(tmp_path):
    path = prepared(tmp_path / "assets")
    config = load_task(
        "speech_split/tiny", overrides=[f"corpus.manifest={path}", 'labels.keep=["happy"]']
    )
    assert isinstance(config, DecompositionConfig)
    with pytest.raises(ConfigError, match="has no labels"):
        run_decomposition(config, out=tmp_path / "out")


class Call:
    def __reduce__(self) -> object:
        return os.system, ("touch executed",)


def test_a_program_in_the_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = prepared(tmp_path / "assets")
    dump(path, [["p226", Call()]])
    with pytest.raises(SpeechSplitFileError, match=r"refused: .*system"):
        read_speechsplit(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"p226": 1}, "holds no list of speakers"),
        ([], "holds no list of speakers"),
        ([["p226"]], "speaker 0 is not"),
        ([["p226", "p226/a.npy"]], "speaker 0 is not"),
        ([["p226", np.zeros(2, np.float32)]], "its speakers have no utterances"),
        ([["p226", np.zeros(2, np.float32), 7]], "neither a file nor"),
        ([["p226", np.zeros(2, np.float32), "../../secret.npy"]], "expected a .npy file below"),
        ([["p226", np.zeros(2, np.float32), "/etc/secret.npy"]], "expected a .npy file below"),
        ([["p226", np.zeros(2, np.float32), "p226/none.npy"]], "cannot be read as an array"),
        (
            [["p226", np.zeros(2, np.float32), (np.zeros((4, 79)), np.zeros(4), 4, "a")]],
            r"spectrogram of shape \(4, 79\) and pitch of shape \(4,\), expected \(n_frames, 80\)",
        ),
        (
            [["p226", np.zeros(2, np.float32), (np.zeros((4, 80)), np.full(4, 5.1), 4, "a")]],
            "pitch above 1",
        ),
        (
            [["p226", np.zeros(2, np.float32), (np.full((4, 80), np.nan), np.zeros(4), 4, "a")]],
            "values that are no numbers",
        ),
    ],
)
def test_what_is_no_such_folder_is_refused_in_one_line(tmp_path, content, message):
    path = prepared(tmp_path / "assets")
    dump(path, content)
    with pytest.raises(SpeechSplitFileError, match=message) as raised:
        read_speechsplit(path)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    path = prepared(tmp_path / "assets")
    with pytest.raises(SpeechSplitFileError, match="cannot be read"):
        read_speechsplit(path.with_name("other.pkl"))
    path.write_bytes(b"")
    with pytest.raises(SpeechSplitFileError, match="the file is empty"):
        read_speechsplit(path)
    path.write_bytes(b"\x80\x04]")
    with pytest.raises(SpeechSplitFileError, match="no pickle, or damaged"):
        read_speechsplit(path)
    array = np.empty(1, dtype=object)
    array[0] = Call()
    path = prepared(tmp_path / "again")
    np.save(path.parent / "p226" / "p226_000.npy", array, allow_pickle=True)
    with pytest.raises(SpeechSplitFileError, match="cannot be read as an array"):
        read_speechsplit(path)
