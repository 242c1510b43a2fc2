"""Every network, profile and corpus of the mixture of experts, from sound files to a report."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import serkit
from serkit.corpora import load_corpus
from serkit.corpora.splits import read_folds_csv
from serkit.experiment.config import load_experiment, preset_names
from serkit.experiment.run import run_experiment
from tests_support import tone

RATE = 16_000
PITCH_HZ = {
    "angry": 500.0,
    "calm": 120.0,
    "disgust": 900.0,
    "excited": 380.0,
    "fear": 700.0,
    "happy": 300.0,
    "neutral": 220.0,
    "sad": 150.0,
    "surprise": 1200.0,
}
RAVDESS_CODES = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
IEMOCAP_CODES = {"angry": "ang", "excited": "exc", "neutral": "neu", "sad": "sad"}
# Each video's clips: mean scores of happy, sad, angry, surprise, disgust, fear.
MOSEI_CLIPS = {
    "neutral": (0, 0, 0, 0, 0, 0),
    "happy": (2, 0, 0, 0, 0, 0),
    "sad": (0, 2, 0, 0, 0, 0),
    "angry": (0, 0, 2, 0, 0, 0),
    "happy and sad": (2, 0.8, 0, 0, 0, 0),
    "slightly angry": (0, 0, 0.4, 0, 0, 0),
}
N_ACTORS, N_SESSIONS, N_VIDEOS = 4, 3, 4

SMALL = ["corpus.allow_incomplete=true", "seeds=[1]", "training.epochs=1", "model.width=0.25"]
ROTATING = ["protocol.split=rotating_folds", "protocol.n_folds=3", "protocol.dev=test"]
TWO_CLASSES = ['labels.keep=["angry","sad"]']
SPEAKERS = ["protocol.split=speaker_folds", "protocol.n_folds=3", "protocol.n_dev=1"]


def clip(emotion: str, *, seed: int) -> np.ndarray:
    """Speak an emotion's tone for 2.1 to 2.9 seconds."""
    return tone(PITCH_HZ[emotion], seconds=2.1 + 0.2 * (seed % 5), rate=RATE, seed=seed)


def write_ravdess(root: Path) -> None:
    for actor in range(1, N_ACTORS + 1):
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir(parents=True)
        for code, emotion in enumerate(RAVDESS_CODES, start=1):
            name = f"03-01-{code:02d}-01-{1 + actor % 2:02d}-01-{actor:02d}.wav"
            soundfile.write(folder / name, clip(emotion, seed=10 * actor + code), RATE)


def write_iemocap(root: Path) -> None:
    for session in range(1, N_SESSIONS + 1):
        evaluations = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        evaluations.mkdir(parents=True)
        for offset, style in enumerate(("impro", "script")):
            dialogue = f"Ses0{session}F_{style}01"
            sounds = root / f"Session{session}" / "sentences" / "wav" / dialogue
            sounds.mkdir(parents=True)
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"]
            for number, (emotion, code) in enumerate(IEMOCAP_CODES.items()):
                turn = f"{dialogue}_{'FM'[number % 2]}{number:03d}"
                seed = 100 * session + 10 * offset + number
                soundfile.write(sounds / f"{turn}.wav", clip(emotion, seed=seed), RATE)
                lines.append(f"[{number}.0 - {number + 1}.0]\t{turn}\t{code}\t[2.5, 3.0, 4.5]")
            (evaluations / f"{dialogue}.txt").write_text("\n".join(lines), encoding="utf-8")


def write_mosei(root: Path) -> None:
    sounds = root / "Audio" / "Full" / "WAV_16000"
    sounds.mkdir(parents=True)
    with open(root / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("video start end happy sad angry surprise disgust fear".split())
        for video in range(N_VIDEOS):
            waves: list[np.ndarray] = []
            for number, (kind, scores) in enumerate(MOSEI_CLIPS.items()):
                start_s = sum(map(len, waves)) / RATE
                waves.append(clip(kind.split()[-1], seed=10 * video + number))
                end_s = start_s + len(waves[-1]) / RATE
                writer.writerow((f"video{video}", start_s, end_s, *scores))
            soundfile.write(sounds / f"video{video}.wav", np.concatenate(waves), RATE)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """A folder of small corpora, laid out as released, spoken in tones."""
    folder = tmp_path_factory.mktemp("corpora")
    write_ravdess(folder / "ravdess")
    write_iemocap(folder / "iemocap")
    write_mosei(folder / "cmu_mosei")
    return folder


@pytest.fixture(scope="module")
def run(corpora, tmp_path_factory):
    """Run an experiment on one of the corpora, once for the same settings; gives its folder."""
    finished = {}

    def run(experiment: str, corpus: str, *overrides: str) -> Path:
        key = (experiment, corpus, *overrides)
        if key not in finished:
            settings = [f"corpus.name={corpus}", *SMALL, *overrides]
            out = tmp_path_factory.mktemp("runs") / "run"
            config = load_experiment(experiment, overrides=settings)
            run_experiment(config, out=out, corpora_dir=corpora, n_jobs=1, cohort=False)
            finished[key] = out
        return finished[key]

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the drawing of figures, which takes longer than all the rest of a small run."""
    monkeypatch.setattr("serkit.evaluation.figures.to_svg", lambda *_, **__: "<svg></svg>")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def facts(out: Path) -> dict:
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


def assert_complete(out: Path, *, multi_label: bool = False) -> dict:
    """Every test utterance has scores, and the report is there; gives run.json."""
    run = facts(out)
    predictions = rows(out / "predictions.csv")
    tested = [i for fold in read_folds_csv(out / "folds.csv") for i in fold.test]
    assert [row["id"] for row in predictions] == tested
    for row in predictions:
        scores = [float(row[f"score_{label}"]) for label in run["labels"]]
        assert min(scores) >= 0
        assert max(scores) <= 1
        assert multi_label or sum(scores) == pytest.approx(1)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["intervals"])
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "results.xlsx").exists()
    return run


def assert_usable(out: Path) -> None:
    """The recognizer trained on everything knows what to say of a new clip."""
    recognizer = serkit.load_recognizer(out)
    prediction = recognizer.predict(clip("sad", seed=99), RATE)
    assert set(prediction.scores) == set(facts(out)["labels"])
    assert recognizer.config.trained_on["protocol"]["split"] == facts(out)["protocol"]["split"]


NETWORKS = [name for name in preset_names(fragments=True) if name.startswith("networks/")]
NETWORKS.remove("networks/light-sernet-port")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("backbone", ["macnn", "port"])
@pytest.mark.parametrize("network", ["", *NETWORKS])
def test_every_network_is_trained_and_judged(run, backbone, network):
    below = ["moe/published-2025", *(["networks/light-sernet-port"] if backbone == "port" else [])]
    width = (0.25 if backbone == "macnn" else 0.1) * (2 if network == "networks/x4" else 1)
    settings = [*ROTATING, *TWO_CLASSES, f"model.width={width}", "refit=false"]
    out = run("+".join([*below, *filter(None, [network])]), "ravdess", *settings)
    facts = assert_complete(out)
    has_experts = "level" in network or "forward" in network
    assert set(facts["experts"]) == ({"angry", "sad"} if has_experts else set())


PROFILES = {
    "light_sernet/as-described": [*SPEAKERS, "protocol.dev=test"],
    "light_sernet/base": SPEAKERS,
    "light_sernet/honest": SPEAKERS,
    "light_sernet/paper": [],
    "moe/base": SPEAKERS,
    "moe/head-fusion-paper": [],  # speaker-dependent, as are the published ones
    "moe/honest": SPEAKERS,
    "moe/published-2022": [],
    "moe/published-2025": [],
}


def test_every_profile_is_tested():
    named = [name for name in preset_names() if name.startswith(("moe/", "light_sernet/"))]
    assert sorted([*PROFILES, "moe/cmu-mosei-multi"]) == sorted(named)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_trained_judged_and_used(run, profile):
    out = run(profile, "ravdess", *TWO_CLASSES, *PROFILES[profile])
    facts = assert_complete(out)
    assert_usable(out)
    assert facts["protocol"]["speaker_independent"] == bool(PROFILES[profile])
    on_test = profile.endswith(("paper", "published-2025", "as-described"))
    assert ("selected on test" in facts["protocol"]["warnings"]) == on_test


@pytest.mark.parametrize("style", ["improvised", "scripted", "all"])
def test_every_style_of_iemocap_is_trained_and_judged(run, style):
    out = run("moe/honest+networks/level-0", "iemocap", f"corpus.options.style={style}")
    facts = assert_complete(out)
    assert len(rows(out / "predictions.csv")) == N_SESSIONS * 4 * (2 if style == "all" else 1)
    assert facts["labels"] == ["angry", "excited", "neutral", "sad"]
    assert set(facts["experts"]) == set(facts["labels"])
    assert facts["protocol"]["split"] == "leave_one_session_out"
    assert_usable(out)


def test_all_eight_classes_of_ravdess_are_trained_and_judged(run):
    settings = [*SPEAKERS, f"labels.keep={json.dumps(RAVDESS_CODES)}", "refit=false"]
    out = run("moe/honest+networks/forward-3", "ravdess", *settings)
    facts = assert_complete(out)
    assert len(facts["labels"]) == len(facts["experts"]) == 8
    assert len(rows(out / "predictions.csv")) == N_ACTORS * 8


MOSEI = [*SPEAKERS, "corpus.options.labels=labels.csv"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("threshold", "n_clips"), [(0.3, 6), (0.5, 5), (1.0, 5)])
def test_cmu_mosei_with_one_class_to_a_clip_at_every_threshold(run, threshold, n_clips):
    settings = [*MOSEI, f"corpus.options.threshold={threshold}", "refit=false"]
    out = run("moe/honest+networks/backward-7", "cmu_mosei", *settings)
    facts = assert_complete(out)
    truths = [row["truth"] for row in rows(out / "predictions.csv")]
    assert len(truths) == N_VIDEOS * n_clips
    assert set(truths) == set(facts["labels"]) == {"angry", "happy", "neutral", "sad"}


@pytest.mark.parametrize(("threshold", "joint", "n_clips"), [(0.3, 1, 6), (0.5, 1, 5), (1.0, 0, 5)])
def test_cmu_mosei_with_several_classes_to_a_clip_at_every_threshold(
    run, threshold, joint, n_clips
):
    settings = [*MOSEI, f"corpus.options.threshold={threshold}"]
    out = run("moe/cmu-mosei-multi", "cmu_mosei", *settings)
    facts = assert_complete(out, multi_label=True)
    assert facts["multi_label"] is True
    truths = [row["truth_set"] for row in rows(out / "predictions.csv")]
    assert len(truths) == N_VIDEOS * n_clips
    assert truths.count("happy+sad") == N_VIDEOS * joint
    assert set(facts["experts"]) == set(facts["labels"]) == {"angry", "happy", "neutral", "sad"}
    assert_usable(out)


def test_four_folds_rotate_and_the_fifth_is_never_used_in_2025_and_judges_all_in_2022(run, corpora):
    everything = {
        u.id for u in load_corpus("ravdess", corpora / "ravdess", allow_incomplete=True)[0]
    }
    kept = {i for i in everything if i.split("-")[2] in ("04", "05")}
    rotating, held_out = (
        read_folds_csv(run(f"moe/published-{year}", "ravdess", *TWO_CLASSES) / "folds.csv")
        for year in (2025, 2022)
    )
    assert len(rotating) == len(held_out) == 4
    for fold, others in ((f, [g for g in rotating if g is not f]) for f in rotating):
        assert fold.dev == fold.test
        assert set(fold.train) == {i for other in others for i in other.test}
    unused = kept - {i for fold in rotating for i in fold.test}
    assert len(unused) == len(kept) // 5
    for fold, before in zip(held_out, rotating, strict=True):
        assert set(fold.test) == unused
        assert (set(fold.dev), set(fold.train)) == (set(before.test), set(before.train))


@pytest.mark.parametrize(
    ("experiment", "corpus", "settings"),
    [
        ("moe/honest", "ravdess", [*TWO_CLASSES, *SPEAKERS]),
        ("moe/honest+networks/level-0", "iemocap", ["corpus.options.style=all"]),
        ("moe/cmu-mosei-multi", "cmu_mosei", [*MOSEI, "corpus.options.threshold=0.5"]),
    ],
)
def test_nobody_is_in_two_parts_of_the_honest_profile(run, corpora, experiment, corpus, settings):
    options = {"labels": "labels.csv"} if corpus == "cmu_mosei" else None
    utterances, _ = load_corpus(corpus, corpora / corpus, allow_incomplete=True, options=options)
    speaker = {u.id: u.speaker for u in utterances}
    folds = read_folds_csv(run(experiment, corpus, *settings) / "folds.csv")
    assert {speaker[i] for fold in folds for i in fold.test} == set(speaker.values())
    for fold in folds:
        parts = [{speaker[i] for i in part} for part in (fold.train, fold.dev, fold.test)]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_a_mixture_that_was_killed_in_a_fold_ends_as_one_that_was_not(run, corpora, tmp_path):
    settings = [
        *ROTATING,
        *TWO_CLASSES,
        "training.epochs=20",
        "training.save_every_s=0",
        "refit=false",
    ]
    settings += ["training.schedule={kind='steps',first=3,every=3,factor=0.9}"]
    name = "moe/published-2025+networks/level-0"
    whole, parts = run(name, "ravdess", *settings), tmp_path / "parts"
    settings = ["corpus.name=ravdess", *SMALL, *settings]
    victim = subprocess.Popen(
        [
            *(sys.executable, "-m", "serkit.cli", "train", name, "--no-cohort"),
            *("--corpora", str(corpora), "--out", str(parts)),
            *(word for setting in settings for word in ("--set", setting)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    # Wait until the second member is in the middle of its training, past a step of the schedule.
    second = parts / "members" / "fold-02-seed1"
    while time.monotonic() < deadline:
        log = second / "log.jsonl"
        if log.exists() and len(log.read_text().splitlines()) >= 4:
            break
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert (second / "state.safetensors").exists()
    assert not (parts / "predictions.csv").exists()
    config = load_experiment(name, overrides=settings)
    run_experiment(config, out=parts, corpora_dir=corpora, n_jobs=1, cohort=False, resume=True)
    assert rows(parts / "predictions.csv") == rows(whole / "predictions.csv")
    assert rows(parts / "curves.csv") == rows(whole / "curves.csv")
    assert facts(parts)["experts"] == facts(whole)["experts"]
    rates = [json.loads(line)["learning_rate"] for line in log.read_text().splitlines()]
    assert rates == pytest.approx([1e-3 * 0.9 ** (epoch // 3) for epoch in range(1, 21)])
