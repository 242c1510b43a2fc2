from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from serkit.audio import find_sound_files
from serkit.corpora import emodb
from serkit.corpora.check import check_corpus, count, verify_audio
from serkit.corpora.manifest import CorpusCounts
from serkit.types import Utterance

_EXPECTED = CorpusCounts(n_utterances=4, n_speakers=2, per_label={"happy": 2, "sad": 2})


def utterance(path: Path, *, label: str | None = "sad", **values: object) -> Utterance:
    fields = {"id": path.stem, "path": path, "corpus": "toy", "label": label, "speaker": "one"}
    return Utterance(**(fields | values))  # type: ignore[arg-type]


def test_complete_copy_is_one_line() -> None:
    utterances = [
        utterance(Path(f"{label}{speaker}"), label=label, speaker=speaker)
        for label in ("happy", "sad")
        for speaker in ("one", "two")
    ]
    check = check_corpus(utterances, _EXPECTED, corpus="toy")
    assert check.complete
    assert check.lines() == ["toy: complete, 4 utterances, 2 speakers, 2 classes"]


def test_differences_are_said_per_count() -> None:
    utterances = [
        *(utterance(Path(f"sad{i}")) for i in range(3)),
        utterance(Path("calm"), label="calm"),
        utterance(Path("open"), label=None),
    ]
    check = check_corpus(utterances, _EXPECTED, corpus="toy", names=["a.wav"], unexpected=["x.wav"])
    assert not check.complete
    assert check.summary == (
        "toy: incomplete, 5 of 4 utterances; 1 of 2 speakers (one); calm 1 of 0; happy 0 of 2; "
        "sad 3 of 2; unlabelled 1 of 0"
    )
    assert check.lines()[1:] == [
        "Found 1 of 2 speakers: one.",
        "Too many: 1 utterances of 'calm', expected 0.",
        "Missing: 2 of 2 utterances of 'happy'.",
        "Too many: 3 utterances of 'sad', expected 2.",
        "Files are looked for under names such as a.wav.",
        "Not read: 1 file that no utterance uses, x.wav.",
    ]


def test_corpus_of_unknown_size_is_never_incomplete() -> None:
    check = check_corpus([utterance(Path("one"))], CorpusCounts(), corpus="folder")
    assert check.complete
    assert check.summary == "folder: 1 utterances, 1 speakers, 1 classes"


def test_count_keeps_unlabelled_apart() -> None:
    counts = count([utterance(Path("a")), utterance(Path("b"), label=None)])
    assert (counts.n_utterances, counts.n_unlabelled, dict(counts.per_label)) == (2, 1, {"sad": 1})


def test_every_kind_of_broken_file_is_named(contract: ModuleType, tmp_path: Path) -> None:
    good = contract.write_noise(tmp_path / "good.wav")
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(good.read_bytes()[:1000])
    pointer = tmp_path / "pointer.wav"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    noise = tmp_path / "text.wav"
    noise.write_text("not audio")
    paths = [good, empty, cut, pointer, noise, tmp_path / "missing.wav"]
    check = verify_audio([utterance(path) for path in paths], workers=2)
    assert not check.complete
    assert [one.duration_s for one in check.utterances] == [0.5, None, None, None, None, None]
    problems = "\n".join(check.problems)
    for name, words in {
        "empty.wav": "the file is empty",
        "cut.wav": "truncated",
        "pointer.wav": "a Git LFS pointer",
        "text.wav": "cannot be decoded",
        "missing.wav": "no such file",
    }.items():
        assert f"{name}: {words}" in problems
    assert check.summary == "6 files opened, 0.00 h of speech, 5 faults"


def test_decoding_finds_silence_that_headers_hide(tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(800), 8000)
    assert verify_audio([utterance(path)]).complete
    check = verify_audio([utterance(path)], decode=True)
    assert "digital silence" in check.problems[0]


def test_stretches_must_lie_in_the_file(contract: ModuleType, tmp_path: Path) -> None:
    path = contract.write_noise(tmp_path / "dialogue.wav", seconds=1.0)
    turns = [
        utterance(path, id="a", start_s=0.2, end_s=0.5),
        utterance(path, id="b", start_s=0.5, end_s=1.02),
        utterance(path, id="c", start_s=0.5, end_s=2.0),
        utterance(path, id="d", start_s=1.5),
    ]
    check = verify_audio(turns, workers=1)
    assert [one.duration_s for one in check.utterances] == [
        pytest.approx(0.3),
        pytest.approx(0.5),
        None,
        None,
    ]
    assert "c is said to end at 2 s (start 0.5 s), but the file lasts 1.000 s" in check.problems[0]
    assert len(check.problems) == 2


def test_copy_cut_to_one_length_is_noticed(contract: ModuleType, tmp_path: Path) -> None:
    paths = [
        contract.write_noise(tmp_path / f"{i}.wav", seed=i, seconds=2.0, sample_rate=22050)
        for i in range(12)
    ]
    utterances = [utterance(path) for path in paths]
    check = verify_audio(utterances, expected=emodb.EXPECTED)
    assert not check.complete
    assert "12 of 12 files last exactly 2.000 s at 22050 Hz" in check.problems[0]
    free = verify_audio(utterances)
    assert free.complete
    assert "cut or padded to one length" in free.notes[0]
    assert free.notes[0] in free.lines()


def test_lengths_outside_the_release_are_faults(contract: ModuleType, tmp_path: Path) -> None:
    short = contract.write_noise(tmp_path / "short.wav", seconds=0.5)
    long = contract.write_noise(tmp_path / "long.wav", seconds=9.5)
    check = verify_audio([utterance(short), utterance(long)], expected=emodb.EXPECTED)
    assert "lasts 0.500 s, the shortest of the release 1.226 s" in check.problems[0]
    assert "lasts 9.500 s, the longest of the release 8.978 s" in check.problems[1]


def test_sound_files_are_found_through_links_but_once(contract: ModuleType, tmp_path: Path) -> None:
    contract.write_noise(tmp_path / "real" / "b" / "10.wav")
    contract.write_noise(tmp_path / "real" / "b" / "9.WAV")
    contract.write_noise(tmp_path / "real" / "__MACOSX" / "x.wav")
    contract.write_noise(tmp_path / "real" / ".trash" / "x.wav")
    (tmp_path / "real" / "b" / "notes.txt").write_text("")
    root = tmp_path / "root"
    root.mkdir()
    try:
        os.symlink(tmp_path / "real", root / "link")
        os.symlink(root, tmp_path / "real" / "loop")
    except OSError:
        pytest.skip("no links on this file system")
    found = [path.relative_to(root).as_posix() for path in find_sound_files(root)]
    assert found == ["link/b/9.WAV", "link/b/10.wav"]
