import csv
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serkit.audio import load_audio
from serkit.corpora import synthetic
from serkit.corpora.leaks import check_leaks
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import SPLITS, SplitOptions, make_folds
from serkit.corpora.synthetic import (
    PROSODY,
    SENTENCES,
    UNSEEN,
    VOICES,
    engine_name,
    generate,
    median_f0_hz,
    read,
    speak,
)
from serkit.types import Utterance


def has_espeak() -> bool:
    return engine_name().startswith("eSpeak")


@pytest.fixture(params=["espeak", "fallback"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines in turn; eSpeak NG only where it is installed."""
    if request.param == "fallback":
        monkeypatch.setattr(synthetic, "_espeak", lambda: None)
    elif not has_espeak():
        pytest.skip("needs serkit[demo]")
    return str(request.param)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The corpus that the engine of that name speaks; it is in force when this is called."""
    roots: dict[str, Path] = {}

    def by(engine: str) -> Path:
        if engine not in roots:
            roots[engine] = tmp_path_factory.mktemp(engine) / "corpus"
            generate(roots[engine], n_speakers=2, n_sentences=2)
        return roots[engine]

    return by


@pytest.fixture
def small(tmp_path: Path, engine: str, spoken: Callable[[str], Path]) -> list[Utterance]:
    """Two voices reading two sentences, in a folder of the test's own."""
    shutil.copytree(spoken(engine), tmp_path / "corpus")
    return read(tmp_path / "corpus")


def measure(utterances: list[Utterance]) -> dict[str, dict[str, float]]:
    """Mean duration, level, median F0, F0 range and brightness of each emotion."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for utterance in utterances:
        waveform, rate = load_audio(utterance.path)
        track = synthetic._f0_track(waveform, rate)
        power = np.abs(np.fft.rfft(waveform)) ** 2
        frequency = np.fft.rfftfreq(len(waveform), 1 / rate)
        bright = power[frequency > 1000].sum() / power[(frequency > 60) & (frequency < 1000)].sum()
        assert utterance.label
        rows.setdefault(utterance.label, []).append(
            (
                len(waveform) / rate,
                20 * np.log10(np.sqrt(np.mean(waveform**2))),
                float(np.median(track)),
                12 * np.log2(np.percentile(track, 90) / np.percentile(track, 10)),
                10 * np.log10(bright),
            )
        )
    names = ("duration_s", "level_db", "f0_hz", "f0_range", "bright_db")
    return {
        label: dict(zip(names, np.mean(values, axis=0), strict=True))
        for label, values in rows.items()
    }


def test_the_emotions_differ_as_the_rules_say(tmp_path: Path, engine: str) -> None:
    heard = measure(generate(tmp_path / "corpus", n_speakers=4, n_sentences=2))
    angry, happy, neutral, sad = (heard[k] for k in ("angry", "happy", "neutral", "sad"))
    assert angry["level_db"] > neutral["level_db"] + 3
    assert neutral["level_db"] > sad["level_db"] + 3
    assert angry["level_db"] > happy["level_db"] > sad["level_db"]
    assert angry["duration_s"] < neutral["duration_s"] < sad["duration_s"]
    assert happy["duration_s"] < sad["duration_s"]
    assert happy["f0_hz"] > angry["f0_hz"] > neutral["f0_hz"] > sad["f0_hz"]
    assert happy["f0_range"] > neutral["f0_range"] + 1 > sad["f0_range"] + 1
    assert angry["bright_db"] > happy["bright_db"] > neutral["bright_db"] > sad["bright_db"]


def test_spoken_sentences_last_one_to_five_seconds(small: list[Utterance]) -> None:
    for utterance in small:
        waveform, rate = load_audio(utterance.path)
        assert rate == 16000
        assert 1.0 < len(waveform) / rate < 5.0
        assert utterance.duration_s == pytest.approx(len(waveform) / rate, abs=1e-3)
        assert 0.01 < np.abs(waveform).max() < 1.0
        assert np.sqrt(np.mean(waveform**2)) > 0.005


def test_utterances_say_all_that_is_known(small: list[Utterance], engine: str) -> None:
    assert len(small) == 2 * 4 * 2
    assert [u.label for u in small] == [e for e in sorted(PROSODY) for _ in range(4)]
    assert {(u.speaker, u.gender) for u in small} == {("f1", "female"), ("m1", "male")}
    assert {u.sentence for u in small} == {"s1", "s2"}
    words = {u.transcript for u in small}
    if engine == "espeak":
        assert "The garden gate stands next to the water." in words
    else:
        assert words == {None}


def test_sentences_have_five_to_nine_words_and_one_pause() -> None:
    for sentence in SENTENCES.values():
        assert 5 <= len(sentence.replace("|", "").split()) <= 9
        assert sentence.count("|") == 1


def test_voices_are_balanced_and_two_are_never_used(tmp_path: Path) -> None:
    used = [voice for voice in VOICES if voice not in UNSEEN]
    assert len(used) == 6
    assert [VOICES[v].gender for v in used] == ["female", "male"] * 3
    assert sorted(VOICES[v].gender for v in UNSEEN) == ["female", "male"]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, small: list[Utterance]) -> None:
    one = generate(tmp_path / "one", n_speakers=2, n_sentences=1, seed=3)
    other = generate(tmp_path / "other", n_speakers=2, n_sentences=1, seed=3)
    assert [u.path.read_bytes() for u in one] == [u.path.read_bytes() for u in other]
    assert not {u.path.read_bytes() for u in one} & {u.path.read_bytes() for u in small}
    table = (tmp_path / "one" / "synthetic.csv").read_bytes()
    assert table == (tmp_path / "other" / "synthetic.csv").read_bytes()


def test_an_utterance_does_not_depend_on_what_else_is_generated(
    tmp_path: Path, small: list[Utterance]
) -> None:
    # Fewer sentences, but more voices and takes: 2 voices x 4 emotions of one sentence are in both.
    other = {u.id: u for u in generate(tmp_path / "other", n_speakers=3, n_sentences=1, takes=2)}
    common = [utterance for utterance in small if utterance.id in other]
    assert len(common) == 8
    for utterance in common:
        assert utterance.path.read_bytes() == other[utterance.id].path.read_bytes()


def test_another_process_makes_the_same_sound() -> None:
    if not has_espeak():
        pytest.skip("needs serkit[demo]")
    code = (
        "from serkit.corpora.synthetic import speak; from serkit.audio import waveform_sha256\n"
        "speak('Something else first.', 'm2', 'angry')\n"
        "print(waveform_sha256(speak('Two plain words.', 'f4', 'happy', 5)[0]))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    from serkit.audio import waveform_sha256

    here = waveform_sha256(speak("Two plain words.", "f4", "happy", 5)[0])
    assert {run.stdout.strip() for run in runs} == {here}


def test_generating_again_only_reads(tmp_path: Path, small: list[Utterance]) -> None:
    before = {u.path: u.path.stat().st_mtime_ns for u in small}
    calls: list[tuple[int, int]] = []
    again = generate(
        tmp_path / "corpus", n_speakers=2, n_sentences=2, progress=lambda *n: calls.append(n)
    )
    assert again == small == read(tmp_path / "corpus")
    assert not calls
    assert {u.path: u.path.stat().st_mtime_ns for u in again} == before


def test_other_parameters_replace_a_generated_corpus(
    tmp_path: Path, small: list[Utterance]
) -> None:
    (tmp_path / "corpus" / ".DS_Store").write_bytes(b"\0")  # what a file manager leaves behind
    calls: list[tuple[int, int]] = []
    fewer = generate(
        tmp_path / "corpus",
        n_speakers=2,
        n_sentences=1,
        sample_rate=8000,
        progress=lambda *n: calls.append(n),
    )
    assert len(fewer) == 8
    assert calls[-1] == (8, 8)
    assert load_audio(fewer[0].path)[1] == 8000
    assert [entry.name for entry in tmp_path.iterdir()] == ["corpus"]


def test_a_damaged_corpus_is_generated_again(tmp_path: Path, small: list[Utterance]) -> None:
    small[0].path.unlink()
    with pytest.raises(
        CorpusError, match=r"15 of 16 utterances below .* generate the corpus again"
    ):
        read(tmp_path / "corpus")
    assert generate(tmp_path / "corpus", n_speakers=2, n_sentences=2) == small


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, engine: str) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "corpus", n_speakers=2, n_sentences=1, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["thesis.docx", "f1/my take.wav"])
def test_other_peoples_files_are_never_replaced(tmp_path: Path, name: str) -> None:
    path = tmp_path / "corpus" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    with pytest.raises(CorpusError, match=f"holds '{name}', which is none of the generated"):
        generate(tmp_path / "corpus", n_speakers=2, n_sentences=1)
    assert path.read_bytes() == b"precious"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("x")
    with pytest.raises(CorpusError, match="is a file, expected a folder"):
        generate(tmp_path / "corpus")
    with pytest.raises(CorpusError, match="cannot be made"):
        generate(tmp_path / "corpus" / "below")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"n_speakers": 1}, "n_speakers = 1: expected 2 to 6"),
        ({"n_speakers": 7}, "n_speakers = 7"),
        ({"n_sentences": 13}, "n_sentences = 13: expected 1 to 12"),
        ({"takes": 0}, "takes = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"sample_rate": 100}, "sample_rate = 100: expected 8000 to 48000"),
    ],
)
def test_numbers_out_of_bounds_are_refused(
    tmp_path: Path, numbers: dict[str, int], message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        generate(tmp_path / "corpus", **numbers)  # type: ignore[arg-type]


def test_reading_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no utterance of this corpus"):
        read(tmp_path)


def test_the_table_tells_the_median_f0_of_each_utterance(
    tmp_path: Path, small: list[Utterance]
) -> None:
    with open(tmp_path / "corpus" / "synthetic.csv", encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert set(rows) == {u.id for u in small}
    for row in rows.values():
        ratio = float(row["f0_median_hz"]) / VOICES[row["speaker"]].f0_hz
        assert 0.7 < ratio < 2.0
    parameters = json.loads((tmp_path / "corpus" / "synthetic.json").read_text())
    assert parameters["engine"] == engine_name()


@pytest.mark.parametrize("f0_hz", [90.0, 123.4, 210.0, 330.0])
def test_the_measured_f0_is_that_of_a_pulse_train(f0_hz: float) -> None:
    time_s = np.arange(16000) / 16000
    pulses = sum(np.cos(2 * np.pi * f0_hz * k * time_s) for k in range(1, 12))
    assert median_f0_hz(np.float32(0.05) * pulses.astype(np.float32), 16000) == pytest.approx(
        f0_hz, rel=0.005
    )


def test_silence_has_no_f0() -> None:
    assert np.isnan(median_f0_hz(np.zeros(16000, dtype=np.float32), 16000))
    assert np.isnan(median_f0_hz(np.zeros(10, dtype=np.float32), 16000))


@pytest.mark.parametrize("emotion", PROSODY)
def test_engines_meet_the_pitch_they_are_asked_for(engine: str, emotion: str) -> None:
    for name in VOICES:
        manner = synthetic._manner(VOICES[name], PROSODY[emotion], np.random.default_rng(1), 1)
        if engine == "espeak":
            espeak = synthetic._espeak()
            assert espeak
            waveform, rate = espeak.say(SENTENCES["s1"], "en", manner), espeak.sample_rate
        else:
            waveform = synthetic._formant_speech(SENTENCES["s1"], manner, np.random.default_rng(1))
            rate = 16000
        tolerance = 0.12 if engine == "espeak" else 0.05
        found = median_f0_hz(waveform.astype(np.float32), rate)
        assert found == pytest.approx(manner.f0_hz, rel=tolerance)


def test_speaking_gives_a_clip_at_the_wanted_rate(engine: str) -> None:
    waveform, rate = speak("Cats & dogs < birds.", UNSEEN[0], "sad", 2, sample_rate=22050)
    assert rate == 22050
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert 0.5 < len(waveform) / rate < 4
    again, _ = speak("Cats & dogs < birds.", UNSEEN[0], "sad", 2, sample_rate=22050)
    np.testing.assert_array_equal(waveform, again)


def test_what_was_said_before_leaves_no_trace(engine: str) -> None:
    texts = [
        "Oh.",
        "Many interesting photographers remember unbelievable communities everywhere they went",
        SENTENCES["s5"].replace("| ", ""),
        SENTENCES["s11"],
    ]
    first = [speak(text, "m2", "sad", 1)[0] for text in texts]
    for text, waveform in list(zip(texts, first, strict=True))[::-1]:
        for between in ("a", "The road bends."):
            speak(between, "f3", "happy", 7)
            np.testing.assert_array_equal(speak(text, "m2", "sad", 1)[0], waveform)


def test_different_words_sound_different(engine: str) -> None:
    one, other = speak("A red house.", seed=1)[0], speak("The longer evening walk.", seed=1)[0]
    assert abs(len(one) - len(other)) > 1000


@pytest.mark.parametrize(
    ("text", "voice", "emotion", "message"),
    [
        ("Hello.", "f9", "sad", "unknown voice 'f9': expected one of f1"),
        ("Hello.", "f1", "bored", "unknown emotion 'bored': expected one of angry"),
        (" ... ", "f1", "sad", "nothing to say"),
    ],
)
def test_unspeakable_requests_are_refused(
    text: str, voice: str, emotion: str, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        speak(text, voice, emotion)


def test_a_missing_engine_is_announced_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    synthetic._espeak.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert engine_name() == "formant fallback (no real words)"
            assert engine_name() == "formant fallback (no real words)"
    finally:
        synthetic._espeak.cache_clear()
    assert len(caplog.records) == 1
    assert "pip install 'serkit[demo]'" in caplog.text


def test_the_corpus_splits_without_leaks(small: list[Utterance]) -> None:
    folds = make_folds(small, "speaker_and_sentence", SplitOptions(dev="none"))
    report = check_leaks(small, folds, separates=SPLITS["speaker_and_sentence"].separates)
    report.raise_if_broken()


@pytest.mark.slow
def test_the_task_can_be_learned_and_is_not_trivial(tmp_path: Path, engine: str) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    librosa = pytest.importorskip("librosa")
    utterances = generate(tmp_path / "corpus")
    features = []
    for utterance in utterances:
        waveform, rate = load_audio(utterance.path)
        mfcc = librosa.feature.mfcc(y=waveform, sr=rate, n_mfcc=39)
        features.append(np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1)]))
    vectors, labels = np.array(features), np.array([u.label for u in utterances])
    index = {u.id: i for i, u in enumerate(utterances)}
    predicted = np.empty_like(labels)
    for fold in make_folds(utterances, "leave_one_speaker_out"):
        train = [index[uid] for uid in (*fold.train, *fold.dev)]
        test = [index[uid] for uid in fold.test]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000))
        predicted[test] = model.fit(vectors[train], labels[train]).predict(vectors[test])
    assert 0.65 < balanced_accuracy_score(labels, predicted) < 0.95
