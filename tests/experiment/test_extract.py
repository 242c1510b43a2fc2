"""A corpus of clips becomes one file: always the same, and nothing is lost silently."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("cv2")
pytest.importorskip("librosa")

from serkit.clip_data import read_clip_data
from serkit.corpora.clips import read_clip_corpus
from serkit.corpora.synthetic_clips import ClipLook, generate
from serkit.experiment.config import ConfigError
from serkit.experiment.extraction import cache as clip_cache
from serkit.experiment.extraction.config import ExtractConfig, load_extract_config
from serkit.experiment.extraction.extract import FeatureExtraction, extract_clips, run_dataset
from serkit.experiment.originals.mmsa_files import read_mmsa_pickle
from serkit.experiment.progress import Quiet
from serkit.features.face import VISION_SETS
from serkit.types import InputError

CONFIG = ExtractConfig.model_validate({"video": {"fps": 12.5}})
EMPTY, TRUNCATED = 0, 1  # rows of the corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Twelve clips: one without a byte, one cut off, and one each without sound, pictures, face."""
    root = tmp_path_factory.mktemp("clips") / "corpus"
    missing = {"face": 1, "sound": 1, "pictures": 1}
    clips = generate(root, n_clips=12, seed=3, n_speakers=3, missing=missing, look=ClipLook(fps=10))
    clips[EMPTY].path.write_bytes(b"")
    content = clips[TRUNCATED].path.read_bytes()
    clips[TRUNCATED].path.write_bytes(content[: len(content) // 3])
    return root


@pytest.fixture(scope="module")
def clips(root):
    return read_clip_corpus("synthetic_clips", root)[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache that tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def extracted(clips, cache, tmp_path_factory):
    """The clips, extracted in this process with all defaults but the number of failures."""
    out = tmp_path_factory.mktemp("out") / "features.npz"
    return extract_clips(
        clips, CONFIG, out, n_workers=0, cache_dir=cache, max_failures=1, corpus="synthetic_clips"
    )


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.parent.iterdir())}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_workers_give_the_same_bytes_as_this_process(extracted, clips, cache, tmp_path):
    some = clips[:6]
    alone, beside = tmp_path / "alone" / "features.npz", tmp_path / "beside" / "features.npz"
    extract_clips(some, CONFIG, alone, n_workers=0, cache_dir=cache, max_failures=1)
    found = extract_clips(
        some, CONFIG, beside, n_workers=2, cache_dir=tmp_path / "cache", max_failures=1
    )
    assert found.n_cached == 0
    assert files_of(beside) == files_of(alone)


def test_rows_keep_the_order_and_the_words_of_the_table(extracted, clips):
    data = read_clip_data(extracted.path)
    assert data.ids == tuple(clip.id for clip in clips)
    assert data.parts == tuple(clip.part for clip in clips)
    assert data.texts == tuple(clip.text for clip in clips)
    assert data.speakers == tuple(clip.speaker for clip in clips)
    assert data.groups == tuple(clip.group for clip in clips)
    for name in "MTAV":
        expected = [clip.labels[name] for clip in clips]
        np.testing.assert_array_equal(data.labels[name], expected)
    assert data.audio.n_features == 33
    assert data.vision.names == VISION_SETS["opencv_lite"].names
    assert (data.settings["acoustic"], data.settings["vision"]) == ("sims33", "opencv_lite")
    assert data.settings["corpus"] == "synthetic_clips"


def test_streams_that_are_not_there_are_masked_and_reported(extracted, clips, root):
    made = json.loads((root / "synthetic_clips.json").read_text())["clips"]
    data = extracted.data
    expected = {"audio": ["ok"] * 12, "vision": ["ok"] * 12}
    for row, clip in enumerate(clips):
        if row in (EMPTY, TRUNCATED):
            expected["audio"][row] = expected["vision"][row] = "decode_error"
        elif made[clip.id]["missing"] == "sound":
            expected["audio"][row] = "no_audio"
        elif made[clip.id]["missing"]:
            lack = made[clip.id]["missing"]
            expected["vision"][row] = {"face": "no_face", "pictures": "no_video"}[lack]
    assert data.status["audio"] == tuple(expected["audio"])
    assert data.status["vision"] == tuple(expected["vision"])
    assert data.present[:, 0].all()
    for column, stream in ((1, "audio"), (2, "vision")):
        there = np.array(expected[stream]) == "ok"
        np.testing.assert_array_equal(data.present[:, column], there)
        lengths = data.frames[stream].lengths
        assert (lengths[~there] == 1).all()
        assert (lengths[there] > 5).all()
    rows = rows_of(extracted.path.with_name("features.failures.csv"))
    assert [(r["id"], r["stream"], r["status"]) for r in rows[:2]] == [
        (clips[EMPTY].id, "audio", "decode_error"),
        (clips[EMPTY].id, "vision", "decode_error"),
    ]
    assert "empty (0 bytes)" in rows[0]["message"]
    assert len(rows) == sum(s != "ok" for one in expected.values() for s in one)
    table = rows_of(extracted.path.with_name("features.clips.csv"))
    assert [row["audio"] for row in table] == expected["audio"]
    assert not extracted.path.with_name("features.log").exists()


def test_too_many_failures_are_an_error_after_all_is_written(extracted, clips, cache, tmp_path):
    out = tmp_path / "f.npz"
    with pytest.raises(InputError, match=r"of 12 clips failed \(.*more than the 1\.0% of"):
        extract_clips(clips, CONFIG, out, n_workers=0, cache_dir=cache)
    assert read_clip_data(out).ids == extracted.data.ids
    assert (tmp_path / "f.failures.csv").is_file()


def test_a_second_run_finds_the_first_in_the_cache(extracted, clips, cache, tmp_path):
    again = extract_clips(
        clips, CONFIG, tmp_path / "f.npz", n_workers=0, cache_dir=cache, max_failures=1
    )
    assert again.n_cached == 10  # all that could be read
    assert "10 of 12 from the cache" in again.lines()[0]
    assert again.clips_per_minute is None
    assert "per minute" not in " ".join(again.lines())


def test_a_stopped_run_goes_on_where_it_was(extracted, clips, cache, tmp_path):
    class Impatient(Quiet):
        def advance(self, done: int) -> None:
            if done == 4:
                raise KeyboardInterrupt

    out, whole = tmp_path / "out" / "features.npz", tmp_path / "whole" / "features.npz"
    some = clips[:6]
    settings = {"n_workers": 0, "cache_dir": tmp_path / "cache", "max_failures": 1.0}
    with pytest.raises(KeyboardInterrupt):
        extract_clips(some, CONFIG, out, progress=Impatient(), **settings)
    assert not out.exists()
    again = extract_clips(some, CONFIG, out, **settings)
    assert again.n_cached == 2  # of four clips, two can be read
    assert again.n_computed == 2  # of six, the other two are damaged
    rate = f"{120 / again.compute_s:.3g} clips per minute"
    assert again.lines()[1] == f"2 computed in {again.compute_s:.1f} s: {rate}"
    extract_clips(some, CONFIG, whole, n_workers=0, cache_dir=cache, max_failures=1)
    assert files_of(out) == files_of(whole)


def test_a_damaged_entry_of_the_cache_is_computed_again(extracted, clips, cache, tmp_path):
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    entry = next(copy.rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:5])
    again = extract_clips(
        clips, CONFIG, tmp_path / "f.npz", n_workers=0, cache_dir=copy, max_failures=1
    )
    assert again.n_cached == 9
    np.testing.assert_array_equal(again.data.audio.values, extracted.data.audio.values)
    entry.write_bytes(b"")
    with pytest.raises(InputError, match="was damaged meanwhile"):
        clip_cache.read_entry(entry)


def test_failing_clips_can_be_left_out_or_zeros_or_the_end(extracted, clips, cache, tmp_path):
    common = {"n_workers": 0, "cache_dir": cache, "max_failures": 1.0}
    skipped = extract_clips(clips, CONFIG, tmp_path / "s.npz", on_failure="skip", **common)
    failed = {failure.id for failure in extracted.failures}
    assert skipped.data.ids == tuple(clip.id for clip in clips if clip.id not in failed)
    assert skipped.failures == extracted.failures
    zeros = extract_clips(clips, CONFIG, tmp_path / "z.npz", on_failure="zero", **common)
    assert zeros.data.present.all()
    assert not zeros.data.audio.rows()[EMPTY].any()
    with pytest.raises(InputError, match=r"0001\.mp4: audio decode_error \(the file is empty"):
        extract_clips(clips, CONFIG, tmp_path / "r.npz", on_failure="raise", **common)
    with pytest.raises(InputError, match="all 1 clips failed, nothing is left to write"):
        extract_clips(clips[:1], CONFIG, tmp_path / "n.npz", on_failure="skip", **common)


def test_an_error_of_our_own_is_reported_with_its_traceback(clips, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(clip_cache, "clip_features", broken)
    out = tmp_path / "f.npz"
    found = extract_clips(
        clips[:2], CONFIG, out, n_workers=0, cache_dir=tmp_path / "cache", max_failures=1
    )
    assert found.failures[0].message == "internal error: RuntimeError: not foreseen"
    assert "Traceback" in (tmp_path / "f.log").read_text()


def test_a_recogniser_listens_to_every_clip_with_sound(extracted, clips, cache, tmp_path):
    heard: list[int] = []

    def transcribe(waveform, sample_rate):
        heard.append(len(waveform))
        assert sample_rate == 16_000
        if len(heard) == 3:
            raise RuntimeError("no idea")
        return SimpleNamespace(text=" hello ")

    recogniser = SimpleNamespace(transcribe=transcribe, backend="fake", model_id="1")
    common = {"n_workers": 0, "cache_dir": cache, "max_failures": 1.0}
    out = tmp_path / "f.npz"
    found = extract_clips(clips, CONFIG, out, transcriber=recogniser, **common)
    data = read_clip_data(out)
    n_sound = extracted.data.status["audio"].count("ok")
    assert len(heard) == n_sound
    assert data.asr_texts.count("hello") == n_sound - 1
    assert data.texts == extracted.data.texts
    assert data.status["asr"].count("asr_failed") == 1
    assert data.settings["asr"] == "fake 1"
    assert "transcription: RuntimeError: no idea" in [f.message for f in found.failures]
    plain = extract_clips(
        clips[2:4], CONFIG, tmp_path / "g.npz", transcriber=lambda *_: "words", **common
    )
    assert "words" in plain.data.asr_texts
    assert plain.data.settings["asr"] == "unnamed"

    def missing(*_):
        raise InputError("no model")

    with pytest.raises(InputError, match="no model"):
        extract_clips(clips, CONFIG, tmp_path / "h.npz", transcriber=missing, **common)


def test_a_pickle_for_mmsa_is_written(extracted, clips, cache, tmp_path):
    out = tmp_path / "features.pkl"
    extract_clips(clips, CONFIG, out, n_workers=0, cache_dir=cache, max_failures=1)
    back = read_mmsa_pickle(out)
    assert set(back.ids) == set(extracted.data.ids)
    assert back.audio.n_features == 33
    np.testing.assert_allclose(sorted(back.labels["M"]), sorted(extracted.data.labels["M"]))


def test_both_forms_of_the_call_read_a_folder_laid_out_as_ch_sims(
    extracted, root, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("SERKIT_CACHE", str(cache))
    settings = tmp_path / "extract.toml"
    settings.write_text("[video]\nfps = 12.5\n")
    for name, call in (
        ("a.npz", FeatureExtraction(settings).run_dataset),
        ("b.npz", lambda *given: run_dataset(CONFIG, *given)),
    ):
        with pytest.raises(InputError, match="clips failed"):
            call(root, tmp_path / name, 0)
        found = read_clip_data(tmp_path / name)
        np.testing.assert_array_equal(found.vision.values, extracted.data.vision.values)
        assert found.speakers == ()


def test_tables_of_openface_are_found_beside_the_clip_or_in_a_folder(clips, tmp_path):
    config = ExtractConfig.model_validate(
        {"video": {"set": "openface177", "tables": str(tmp_path / "tables")}}
    )
    two = clips[3:5]
    table = tmp_path / "tables" / two[0].group / f"{two[0].path.stem}.csv"
    table.parent.mkdir(parents=True)
    names = ("frame", "confidence", "success", *VISION_SETS["openface177"].names)
    rows = [", ".join(map(str, [i, 0.9, 1, *[i] * 177])) for i in range(4)]
    table.write_text("\n".join([", ".join(names), *rows]))
    common = {"n_workers": 0, "cache_dir": tmp_path / "cache", "max_failures": 1.0}
    found = extract_clips(two, config, tmp_path / "f.npz", **common)
    assert found.data.vision.lengths.tolist() == [4, 1]
    assert found.data.status["vision"] == ("ok", "decode_error")
    table.write_text("\n".join([", ".join(names), *rows[:2]]))
    found = extract_clips(two, config, tmp_path / "g.npz", **common)
    assert found.data.vision.lengths.tolist() == [2, 1]
    beside = ExtractConfig.model_validate({"video": {"set": "openface177"}})
    found = extract_clips(two[:1], beside, tmp_path / "h.npz", **common)
    assert f"{two[0].path.stem}.csv" in found.failures[0].message


def test_an_output_that_is_there_is_not_replaced_unasked(extracted, clips, cache):
    with pytest.raises(InputError, match="is there already: choose another name, or replace it"):
        extract_clips(clips, CONFIG, extracted.path, cache_dir=cache)
    before = files_of(extracted.path)
    extract_clips(
        clips, CONFIG, extracted.path, n_workers=0, cache_dir=cache, max_failures=1,
        overwrite=True, corpus="synthetic_clips",
    )  # fmt: skip
    assert files_of(extracted.path) == before


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("f.csv", {}, r"suffix '\.csv', expected \.npz or \.pkl"),
        ("f.npz", {"n_workers": -1}, "-1 workers: expected 0"),
        ("f.npz", {"on_failure": "cry"}, "--on-failure cry: expected one of mask, skip"),
        ("f.npz", {"max_failures": 2.0}, "--max-failures 2: expected a share, 0 to 1"),
        ("file/f.npz", {}, "file: cannot be made"),
    ],
)
def test_a_setting_out_of_range_is_refused(clips, tmp_path, out, settings, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        extract_clips(clips, CONFIG, tmp_path / out, cache_dir=tmp_path / "c", **settings)
    with pytest.raises(InputError, match="no clips to compute features of"):
        extract_clips([], CONFIG, tmp_path / "f.npz")


def test_a_missing_model_file_ends_the_run_at_once(clips, tmp_path):
    config = ExtractConfig.model_validate({"video": {"set": "mediapipe"}})
    with pytest.raises(InputError, match="needs a model file"):
        extract_clips(clips, config, tmp_path / "f.npz", n_workers=0, cache_dir=tmp_path / "c")


FET = {
    "librosa": ({"audio": {"tool": "librosa", "sample_rate": None}}, "librosa70", "opencv_lite"),
    "sims": (
        {"audio": {"tool": "librosa", "args": {
            "zero_crossing_rate": {}, "mfcc": {"n_mfcc": 20, "htk": True}, "chroma_cqt": {}}}},
        "sims33", "opencv_lite",
    ),
    "smile": (
        {"audio": {"tool": "opensmile", "sample_rate": 16000, "args": {
            "feature_set": "eGeMAPSv02", "feature_level": "Functionals", "start": None}},
         "video": {"tool": "mediapipe", "fps": 25, "args": {"face_mesh": {
            "refine_landmarks": True, "min_detection_confidence": 0.35}, "visualize": False}},
         "text": {"model": "bert", "pretrained": "bert-base-chinese"}},
        "egemaps", "mediapipe",
    ),
    "openface": (
        {"video": {"tool": "openface", "fps": 30, "average_over": 3, "args": {
            "landmark_2D": True, "head_pose": True, "action_units": True, "gaze": False}}},
        "sims33", "openface177",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FET)
def test_settings_of_mmsas_tool_are_understood(tmp_path, name):
    table, acoustic, vision = FET[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table))
    config, notes = load_extract_config(path)
    assert (config.audio.set, config.video.set) == (acoustic, vision)
    assert notes
    if name == "openface":
        assert (config.video.fps, config.video.average_over) == (30, 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"audio": {"tool": "wav2vec"}}, "audio.tool is 'wav2vec', expected 'librosa' or 'opens"),
        ({"audio": {"tool": "librosa", "hop": 1}}, "audio.hop: unknown; known: tool"),
        ({"audio": {"tool": "librosa", "sample_rate": 8000}}, "is made at 22050: leave it out"),
        ({"audio": {"tool": "librosa", "args": {"rms": {}}}}, "no set has just rms"),
        ({"audio": {"tool": "librosa", "args": [1]}}, r"audio.args is \[1\], expected an object"),
        (
            {"audio": {"tool": "opensmile", "args": {"feature_set": "ComParE_2016"}}},
            "feature_set is 'ComParE_2016', expected 'eGeMAPSv02'",
        ),
        (
            {"audio": {"tool": "opensmile", "args": {"feature_set": "eGeMAPSv02"}}},
            "feature_level is None, expected one of Functionals",
        ),
        (
            {"audio": {"tool": "opensmile", "args": {"feature_set": "eGeMAPSv02", "end": 3}}},
            "args.end is 3: clips are taken whole",
        ),
        ({"video": {"tool": "vggface"}}, "video.tool is 'vggface', expected 'openface' or"),
        ({"video": {"tool": "openface", "args": {"gaze": True}}}, "no set has just gaze"),
        ({"video": {"tool": "mediapipe", "args": {"holistic": {"a": 1}}}}, "hands, bodies and"),
        (
            {"video": {"tool": "mediapipe", "args": {"face_mesh": {"refine_landmarks": False}}}},
            "refine_landmarks is False, the set mediapipe has True",
        ),
        ({"video": {"tool": "openface", "multiFace": {"enable": True}}}, "the largest face is"),
        ({"align": {"model": "x"}}, "align: frames are kept as they are"),
        ({"sound": {}}, "section 'sound', expected audio, video, text, align"),
        ({"audio": 1}, "section 'audio' is no object"),
        ([], "expected an object of audio"),
    ],
)
def test_what_has_no_equivalent_is_refused_in_one_line(tmp_path, table, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message) as caught:
        load_extract_config(path)
    assert "\n" not in str(caught.value)


def test_a_preset_with_other_frames_is_refused(tmp_path):
    names = (
        "chroma_stft chroma_cqt chroma_cens mfcc rms spectral_centroid spectral_bandwidth "
        "spectral_contrast spectral_flatness spectral_rolloff poly_features tonnetz "
        "zero_crossing_rate"
    ).split()
    path = tmp_path / "config.json"
    args: dict[str, dict[str, int]] = {name: {"hop_length": 128} for name in names}
    path.write_text(json.dumps({"audio": {"tool": "librosa", "args": args}}))
    assert load_extract_config(path)[0].audio.set == "librosa70"
    args["rms"] = {"hop_length": 256}
    path.write_text(json.dumps({"audio": {"tool": "librosa", "args": args}}))
    with pytest.raises(ConfigError, match=r"args\.rms\.hop_length is 256, the set librosa70 has"):
        load_extract_config(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "not valid JSON"),
        ("a.toml", b"[", "not valid TOML"),
        ("a.toml", b"[audio]\nsett = 1", r"unknown key 'audio\.sett'; did you mean 'set'"),
        ("a.toml", b"[audio]\nset = 'mfcc'", r"audio\.set is 'mfcc', expected one of sims33"),
        ("a.toml", b"[video]\nset = 'eyes'", r"video\.set is 'eyes', expected one of opencv_lite"),
        ("a.toml", b"[video]\nfps = 0", "fps = 0: input should be greater than 0"),
        ("a.toml", b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_a_file_of_settings_that_cannot_be_used_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_extract_config(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_extract_config(tmp_path / "none.toml")


def test_a_corpus_is_extracted_from_the_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from serkit.cli import app

    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "cache"))
    generate(tmp_path / "clips", n_clips=6, n_speakers=3)
    out = tmp_path / "features.npz"
    arguments = ["extract", str(tmp_path / "clips"), "--corpus", "synthetic_clips", "-o", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--workers", "0", "--json"])
    assert done.exit_code == 0, done.output
    assert len(read_clip_data(out)) == 6
    told = json.loads(done.stdout)
    assert told["n_computed"] == 6
    assert told["clips_per_minute"] > 0
    again = CliRunner().invoke(app, [*arguments, "--workers", "0"])
    assert again.exit_code != 0  # the file is there
    wrong = CliRunner().invoke(app, [*arguments, "--on-failure", "weep", "--overwrite"])
    assert "expected one of mask, skip, zero, raise" in str(wrong.exception)
