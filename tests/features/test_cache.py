"""The feature cache: equal, never stale, and whole whatever happens to its writers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

from serkit.audio import load_audio, waveform_sha256
from serkit.features import build_front_end, cache
from serkit.features.cache import Extractor, default_cache_dir, extract_features
from serkit.features.views import WholeView
from serkit.types import InputError, Utterance
from tests_support import tone

RATE = 16_000


def make_files(folder: Path, n: int = 6) -> list[Utterance]:
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for i in range(n):
        path = folder / f"{i}.wav"
        sound = tone(150 + 40 * i, seconds=0.2 + 0.05 * i, rate=RATE, seed=i)
        soundfile.write(path, sound, RATE)
        utterances.append(
            Utterance(id=f"u{i}", path=path, corpus="tones", label=None, speaker="ann")
        )
    return utterances


def extractor(preset: str = "librosa-default", **settings: object) -> Extractor:
    front_end = build_front_end("mfcc", {"preset": preset, **settings})
    view = WholeView()
    return Extractor(
        lambda waveforms, n_samples: front_end(*view(waveforms, n_samples)),
        sample_rate=front_end.config.sample_rate,
        channel="mean",
        settings={"preset": preset, **settings},
    )


@pytest.fixture
def utterances(tmp_path) -> list[Utterance]:
    return make_files(tmp_path / "sounds")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


# ---- What comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("sound_rate", [RATE, 22_050])
def test_digital_silence_is_told_from_the_cache_as_well(sound_rate, utterances, folder):
    for one, n_samples in zip(utterances, (4000, 4000, 7001), strict=False):
        soundfile.write(one.path, np.zeros(n_samples), sound_rate)
    for n_cached in (0, 6):
        got = extract_features(utterances, extractor(), cache_dir=folder)
        assert got.n_cached == n_cached
        assert got.silent == ("u0", "u1", "u2")
        assert got.heard_hashes().keys() == {"u3", "u4", "u5"}


def test_features_are_the_front_end_s_own_in_the_order_of_the_utterances(utterances, folder):
    one = extractor()
    got = extract_features(utterances[::-1], one, cache_dir=folder, n_workers=3)
    assert got.n_cached == 0
    assert got.features.shape == (got.n_frames.sum(), 20)
    assert got.owners.tolist() == list(range(6))
    rows = np.split(got.features, np.cumsum(got.n_frames)[:-1])
    for row, n, utterance in zip(rows, got.n_frames, utterances[::-1], strict=True):
        waveform, _ = load_audio(utterance.path, sample_rate=22_050)
        expected, n_frames = one.function(
            torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)])
        )
        assert n == n_frames
        assert np.array_equal(row, expected[0].numpy())
        assert got.audio_hashes[utterance.id] == waveform_sha256(waveform)
        assert got.durations_s[utterance.id] == len(waveform) / 22_050


def test_a_second_run_reads_the_cache_and_is_equal(utterances, folder):
    first = extract_features(utterances, extractor(), cache_dir=folder)
    again = extract_features(utterances, extractor(), cache_dir=folder)
    assert (first.n_cached, again.n_cached) == (0, 6)
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.n_frames, again.n_frames)
    assert first.audio_hashes == again.audio_hashes
    assert first.durations_s == again.durations_s


def test_the_number_of_workers_changes_nothing(utterances, tmp_path):
    one = extract_features(utterances, extractor(), cache_dir=tmp_path / "1", n_workers=1)
    four = extract_features(utterances, extractor(), cache_dir=tmp_path / "4", n_workers=4)
    assert np.array_equal(one.features, four.features)


def test_torch_s_threads_are_given_back(utterances, folder):
    before = torch.get_num_threads()
    extract_features(utterances, extractor(), cache_dir=folder)
    assert torch.get_num_threads() == before
    with pytest.raises(InputError):
        extract_features(
            [replace(utterances[0], path=folder / "none.wav")], extractor(), cache_dir=folder
        )
    assert torch.get_num_threads() == before


def test_progress_is_told_once_per_utterance(utterances, folder):
    seen: list[tuple[int, int]] = []
    extract_features(
        utterances, extractor(), cache_dir=folder, progress=lambda *now: seen.append(now)
    )
    assert seen == [(i, 6) for i in range(1, 7)]


def test_the_cache_lies_where_the_environment_says(utterances, tmp_path, monkeypatch):
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "elsewhere"))
    assert default_cache_dir() == tmp_path / "elsewhere"
    extract_features(utterances[:1], extractor())
    assert len(entries(tmp_path / "elsewhere")) == 1
    monkeypatch.delenv("SERKIT_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "serkit"


# ---- Never stale ---------------------------------------------------------------------------------


def test_other_settings_never_meet_old_features(utterances, folder):
    extract_features(utterances, extractor(), cache_dir=folder)
    for other in (
        extractor("moe-26"),
        extractor(n_mfcc=13),
        replace(extractor(), channel="first"),
        replace(extractor(), sample_rate=16_000),
        replace(extractor(), settings={"preset": "librosa-default", "view": {"kind": "fixed"}}),
    ):
        assert extract_features(utterances, other, cache_dir=folder).n_cached == 0
    assert extract_features(utterances, extractor(), cache_dir=folder).n_cached == 6


def test_a_newer_version_of_the_code_never_meets_old_features(utterances, folder, monkeypatch):
    extract_features(utterances, extractor(), cache_dir=folder)
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert extract_features(utterances, extractor(), cache_dir=folder).n_cached == 0


def test_another_stretch_of_a_file_has_features_of_its_own(utterances, folder):
    whole = utterances[5]
    parts = [
        whole,
        replace(whole, id="a", start_s=0.1),
        replace(whole, id="b", end_s=0.1),
        replace(whole, id="c", start_s=0.1, end_s=0.2),
    ]
    got = extract_features(parts, extractor(), cache_dir=folder)
    assert got.n_cached == 0
    assert len(set(got.audio_hashes.values())) == 4
    assert got.durations_s["c"] == pytest.approx(0.1, abs=1e-4)
    assert extract_features(parts, extractor(), cache_dir=folder).n_cached == 4


def test_a_changed_file_is_extracted_again_and_a_moved_one_is_not(utterances, folder, tmp_path):
    before = extract_features(utterances, extractor(), cache_dir=folder)
    soundfile.write(utterances[0].path, tone(900, seconds=0.2, rate=RATE), RATE)
    os.rename(utterances[1].path, tmp_path / "moved.wav")
    changed = [utterances[0], replace(utterances[1], path=tmp_path / "moved.wav"), *utterances[2:]]
    after = extract_features(changed, extractor(), cache_dir=folder)
    assert after.n_cached == 5
    first = before.n_frames[0]
    assert first == after.n_frames[0]
    assert not np.array_equal(before.features[:first], after.features[:first])
    assert np.array_equal(before.features[first:], after.features[first:])


def test_two_names_of_one_sound_share_an_entry(utterances, folder, tmp_path):
    copy = tmp_path / "copy.wav"
    copy.write_bytes(utterances[0].path.read_bytes())
    both = [utterances[0], replace(utterances[0], id="copy", path=copy)]
    got = extract_features(both, extractor(), cache_dir=folder)
    assert len(entries(folder)) == 1
    assert extract_features(both[1:], extractor(), cache_dir=folder).n_cached == 1
    assert got.audio_hashes["u0"] == got.audio_hashes["copy"]


# ---- Damage --------------------------------------------------------------------------------------


def test_a_damaged_entry_is_computed_again(utterances, folder):
    first = extract_features(utterances, extractor(), cache_dir=folder)
    whole = [path.read_bytes() for path in entries(folder)]
    damage = [
        b"",
        whole[1][: len(whole[1]) // 2],
        os.urandom(100),
        whole[3].replace(b'"features"', b'"fixtures"'),
        whole[4].replace(b'"duration_s"', b'"duration_x"'),
    ]
    for path, content in zip(entries(folder), damage, strict=False):
        path.write_bytes(content)
    again = extract_features(utterances, extractor(), cache_dir=folder)
    assert again.n_cached == 1
    assert np.array_equal(first.features, again.features)
    assert extract_features(utterances, extractor(), cache_dir=folder).n_cached == 6


def test_a_broken_file_is_named_and_the_good_ones_are_kept(utterances, folder):
    utterances[1].path.write_bytes(b"no sound")
    utterances[3].path.unlink()
    utterances[4].path.write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.wav: cannot be decoded .* \(and 2 more files\)$"):
        extract_features(utterances, extractor(), cache_dir=folder)
    assert len(entries(folder)) == 3
    good = [utterances[i] for i in (0, 2, 5)]
    assert extract_features(good, extractor(), cache_dir=folder).n_cached == 3
    with pytest.raises(InputError, match=r"3\.wav: no such file$"):
        extract_features([*good, utterances[3]], extractor(), cache_dir=folder)


def test_a_directory_in_place_of_a_file_is_refused(utterances, folder, tmp_path):
    with pytest.raises(InputError, match="is a directory, expected a sound file"):
        extract_features([replace(utterances[0], path=tmp_path)], extractor(), cache_dir=folder)


def test_an_empty_selection_is_refused(folder):
    with pytest.raises(InputError, match="no utterances to extract features from"):
        extract_features([], extractor(), cache_dir=folder)


def test_a_write_that_fails_leaves_nothing_behind(utterances, folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        extract_features(utterances, extractor(), cache_dir=folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]


# ---- Several processes, and killed ones ----------------------------------------------------------

CHILD = """
import json, sys, time
from pathlib import Path

import torch

from serkit.features import build_front_end
from serkit.features.cache import Extractor, extract_features
from serkit.types import Utterance

sounds, cache, pause_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
front_end = build_front_end("mfcc", {"preset": "librosa-default"})

def slowly(waveforms, n_samples):
    time.sleep(pause_s)
    return front_end(waveforms, n_samples)

extractor = Extractor(slowly, 22_050, "mean", {"preset": "librosa-default"})
utterances = [
    Utterance(id=p.stem, path=p, corpus="tones", label=None, speaker="ann")
    for p in sorted(sounds.glob("*.wav"))
]
print("ready", flush=True)
sys.stdin.readline()
got = extract_features(utterances, extractor, cache_dir=cache, n_workers=2)
print(json.dumps([got.n_cached, float(got.features.astype("float64").sum())]))
"""


def child(sounds: Path, folder: Path, *, pause_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(sounds), str(folder), str(pause_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def start(one: subprocess.Popen[str]) -> None:
    """Let a child go when it has imported what it needs."""
    assert one.stdout is not None
    assert one.stdout.readline() == "ready\n"
    assert one.stdin is not None
    one.stdin.write("go\n")
    one.stdin.flush()


def test_concurrent_writers_leave_whole_entries_and_nothing_else(tmp_path, folder):
    utterances = make_files(tmp_path / "many", 40)
    other = child(tmp_path / "many", folder, pause_s=0.0)
    start(other)
    ours = extract_features(utterances, extractor(), cache_dir=folder, n_workers=2)
    theirs = json.loads(other.communicate(timeout=120)[0])
    assert other.returncode == 0
    assert theirs[1] == pytest.approx(ours.features.astype(np.float64).sum(), rel=1e-6)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == entries(folder)
    assert len(files) == 40
    for path in files:
        assert np.isfinite(load_file(path)["features"]).all()
    assert extract_features(utterances, extractor(), cache_dir=folder).n_cached == 40


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_extraction_leaves_whole_entries_and_the_next_run_goes_on(tmp_path, folder):
    utterances = make_files(tmp_path / "many", 40)
    victim = child(tmp_path / "many", folder, pause_s=0.05)
    start(victim)
    deadline = time.monotonic() + 60
    while len(entries(folder)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.kill()
    victim.communicate()
    survivors = entries(folder)
    assert 5 <= len(survivors) < 40
    for path in survivors:
        assert load_file(path)["features"].shape[1] == 20
    got = extract_features(utterances, extractor(), cache_dir=folder)
    assert got.n_cached == len(survivors)
    fresh = extract_features(utterances, extractor(), cache_dir=tmp_path / "fresh")
    # Here and in the child other numbers of threads may have rounded otherwise.
    np.testing.assert_allclose(got.features, fresh.features, atol=1e-3)
