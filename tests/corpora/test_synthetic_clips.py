"""Synthetic clips hold what was planted in them, and the same every time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from serkit.corpora import synthetic_clips
from serkit.corpora.clips import read_clip_corpus
from serkit.corpora.manifest import CorpusError
from serkit.corpora.synthetic_clips import (
    EMOTION_WORDS,
    MISSING,
    SHARES,
    WORDS,
    ClipLook,
    generate,
    sentence,
)

pytest.importorskip("av")

from serkit.video import read_clip

SMALL = ClipLook(height=48, width=64, fps=5)
GONE = {"sound": "A", "face": "V", "pictures": "V"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips") / "corpus"
    generate(root, n_clips=12, seed=1, n_speakers=3, missing=dict.fromkeys(MISSING, 1), look=SMALL)
    return root


@pytest.fixture(scope="module")
def made(root) -> dict[str, dict[str, str]]:
    return json.loads((root / "synthetic_clips.json").read_text())["clips"]


def test_the_folder_is_laid_out_as_ch_sims_and_complete(root):
    clips, check = read_clip_corpus("synthetic_clips", root)
    assert check.complete
    assert len(clips) == 12
    assert clips[0].id == "video_0001$_$0001"
    as_released, _ = read_clip_corpus("ch_sims", root, options={"release": "other"})
    assert [clip.path for clip in as_released] == [clip.path for clip in clips]


def test_parts_share_neither_speakers_nor_videos(root):
    clips = synthetic_clips.read(root)
    for name in ("speaker", "group"):
        parts = {part: {getattr(c, name) for c in clips if c.part == part} for part in
                 ("train", "dev", "test")}  # fmt: skip
        assert all(parts.values())
        assert sum(map(len, parts.values())) == len(set().union(*parts.values()))


def test_the_label_is_the_stated_mix_of_what_is_there(root):
    for clip in synthetic_clips.read(root):
        there = {s: share for s, share in SHARES.items() if not math.isnan(clip.labels[s])}
        mixed = sum(share * clip.labels[s] for s, share in there.items()) / sum(there.values())
        assert abs(clip.labels["M"] - mixed) <= 0.1 + 1e-9
        assert round(clip.labels["M"] * 5) == pytest.approx(clip.labels["M"] * 5)


def test_the_words_carry_the_label_of_the_text(root):
    for clip in synthetic_clips.read(root):
        found = [WORDS[word] for word in clip.text.strip(".").split() if word in WORDS]
        assert np.mean(found) == pytest.approx(clip.labels["T"])


@pytest.mark.parametrize("label", [-1.0, -0.2, 0.0, 0.6, 1.0])
def test_every_label_has_several_sentences(label):
    assert len({sentence(label, (0, key)) for key in range(20)}) > 5


def test_streams_that_disagree_have_the_other_sign(tmp_path):
    plans = synthetic_clips._plans(400, 3, 4, 0.5, {})
    odd = [plan for plan in plans if plan.disagrees]
    assert len(odd) == 200
    for plan in odd:
        others = [plan.labels[stream] for stream in SHARES if stream != plan.disagrees]
        assert all(np.sign(plan.labels[plan.disagrees]) == -np.sign(other) for other in others)
    agree = [plan for plan in plans if not plan.disagrees]
    spread = [np.ptp([plan.labels[stream] for stream in SHARES]) for plan in agree]
    assert max(spread) <= 0.4 + 1e-9


def test_what_is_missing_is_missing_from_the_clip_and_the_labels(root, made):
    clips = {clip.id: clip for clip in synthetic_clips.read(root)}
    lacking = {told["missing"]: clips[uid] for uid, told in made.items() if told["missing"]}
    assert set(lacking) == set(MISSING)
    for what, clip in lacking.items():
        found = read_clip(clip.path, fps=5)
        assert found.had_audio == (what != "sound")
        assert found.had_video == (what != "pictures")
        assert math.isnan(clip.labels[GONE[what]])
        assert clip.text
    plain = read_clip(lacking["face"].path, fps=5)
    assert np.ptp(plain.frames[0]) < 20


def test_the_mouth_opens_with_the_sound():
    waveform = np.concatenate([np.zeros(8000), 0.5 * np.ones(8000)]).astype(np.float32)
    assert synthetic_clips._openings(waveform, 4.0).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert synthetic_clips._openings(np.zeros(8000, np.float32), 4.0).tolist() == [0.0, 0.0]


def test_the_same_parameters_give_the_same_bytes_and_others_do_not(root, tmp_path):
    def content(folder: Path) -> dict[str, bytes]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    missing = dict.fromkeys(MISSING, 1)
    generate(tmp_path / "same", n_clips=12, seed=1, n_speakers=3, missing=missing, look=SMALL)
    assert content(tmp_path / "same") == content(root)
    generate(tmp_path / "other", n_clips=3, seed=2, n_speakers=3, look=SMALL)
    generate(tmp_path / "third", n_clips=3, seed=3, n_speakers=3, look=SMALL)
    one, other = content(tmp_path / "other"), content(tmp_path / "third")
    assert not set(one.values()) & set(other.values())


def test_a_corpus_that_is_there_is_read_and_progress_is_told(root, tmp_path):
    seen: list[tuple[int, int]] = []
    missing = dict.fromkeys(MISSING, 1)
    generate(
        root, n_clips=12, seed=1, n_speakers=3, missing=missing, look=SMALL,
        progress=lambda *args: seen.append(args),
    )  # fmt: skip
    assert not seen
    generate(
        tmp_path / "new", n_clips=3, n_speakers=3, look=SMALL,
        progress=lambda *args: seen.append(args),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_with_anything_else_in_it_is_left_alone(root, tmp_path):
    (tmp_path / "thesis.tex").write_text("all I have")
    with pytest.raises(CorpusError, match="holds something else than synthetic clips"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CorpusError, match="holds synthetic clips of other parameters"):
        generate(root, n_clips=12, seed=2)


def test_a_corpus_with_a_clip_missing_is_refused(tmp_path):
    clips = generate(tmp_path / "c", n_clips=3, n_speakers=3, look=SMALL)
    clips[1].path.unlink()
    with pytest.raises(CorpusError, match=r"is missing: delete .* and generate it again"):
        generate(tmp_path / "c", n_clips=3, n_speakers=3, look=SMALL)
    (tmp_path / "c" / "synthetic_clips.json").write_text("{}")
    with pytest.raises(CorpusError, match="does not say what the clips"):
        synthetic_clips.read(tmp_path / "c")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clips": 2}, "n_clips = 2: expected 6 to 9999"),
        ({"n_speakers": 2}, "n_speakers = 2: expected 3 to 6"),
        ({"disagree": 1.5}, "disagree = 1.5: expected 0 to 1"),
        ({"seed": -1}, "seed = -1"),
        ({"missing": {"nose": 1}}, "missing nose = 1: expected a number of clips for face"),
        ({"missing": {"face": 500}}, "clips that lack something = 500"),
    ],
)
def test_a_number_out_of_range_is_refused(tmp_path, settings, message):
    with pytest.raises(CorpusError, match=message):
        generate(tmp_path / "c", **settings)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="cannot be made"):
        generate(tmp_path / "file" / "corpus", n_clips=6)


def test_clips_of_emotions_name_what_they_and_their_streams_show(tmp_path):
    emotions = ("angry", "happy", "neutral", "sad")
    clips = generate(
        tmp_path / "c", n_clips=24, n_speakers=3, disagree=0.5, emotions=emotions,
        missing={"sound": 2}, look=SMALL,
    )  # fmt: skip
    made = json.loads((tmp_path / "c" / "synthetic_clips.json").read_text())["clips"]
    assert {clip.annotation for clip in clips} == set(emotions)
    assert sum("A" not in clip.stream_annotations for clip in clips) == 2
    n_odd = 0
    for clip in clips:
        assert math.isnan(clip.labels["M"])
        odd = made[clip.id]["disagrees"]
        n_odd += bool(odd)
        for stream, shown in clip.stream_annotations.items():
            assert (shown == clip.annotation) == (stream != odd)
        said = {word.strip(".") for word in clip.text.split()}
        assert len(said & set(EMOTION_WORDS[clip.stream_annotations["T"]])) == 2
        assert clip.path.is_file()
    assert 6 <= n_odd <= 12
    again = generate(
        tmp_path / "c", n_clips=24, n_speakers=3, disagree=0.5, emotions=emotions,
        missing={"sound": 2}, look=SMALL,
    )  # fmt: skip
    assert [clip.id for clip in again] == [clip.id for clip in clips]


@pytest.mark.parametrize("emotions", [("sad",), ("sad", "sad"), ("sad", "smug")])
def test_emotions_that_cannot_be_shown_are_refused(tmp_path, emotions):
    with pytest.raises(CorpusError, match="expected two or more of angry, happy, neutral, sad"):
        generate(tmp_path / "c", n_clips=6, emotions=emotions)
