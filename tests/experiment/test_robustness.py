"""A run judged in noise: files, honesty, resumption, and one line for every bad input."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from serkit import cli
from serkit.corpora.manifest import write_manifest
from serkit.evaluation import (
    Predictions,
    compare_runs,
    read_predictions,
    write_predictions,
)
from serkit.experiment.progress import Quiet
from serkit.experiment.robustness import N_VOICES, NoiseMaker, NoisePlan, measure_robustness
from serkit.recognizer import Recognizer, load_recognizer
from serkit.types import InputError, Utterance
from tests_support import RATE, SPEAKERS, tone


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def recognizer(tone_run):
    return load_recognizer(tone_run)


@pytest.fixture
def n_predicted(monkeypatch):
    """Count what is really recognised, not found."""
    counted = []
    predict = Recognizer.predict

    def counting(self, waveform, sample_rate, *, name="waveform", text=None):
        counted.append(name)
        return predict(self, waveform, sample_rate, name=name, text=text)

    monkeypatch.setattr(Recognizer, "predict", counting)
    return counted


def corpus_utterances(root, *, speakers=SPEAKERS) -> list[Utterance]:
    return [
        Utterance(
            id=f"{path.parent.name}/{path.stem}",
            path=path,
            corpus="tones",
            label=path.parent.parent.name,
            speaker=path.parent.name,
        )
        for path in sorted(root.rglob("*.wav"))
        if path.parent.name in speakers
    ]


@pytest.fixture(scope="module")
def measured(tone_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("noise")
    plan = NoisePlan.parse("babble,white", "40,-20")
    return measure_robustness(tone_run, plan, out=out, n_jobs=1)


def test_the_folder_holds_a_table_a_figure_and_predictions_of_every_condition(measured):
    table = rows(measured.folder / "robustness.csv")
    assert [(row["noise"], row["snr_db"]) for row in table] == [
        *(("clean", ""), ("babble", "40"), ("babble", "-20")),
        *(("white", "40"), ("white", "-20")),
    ]
    assert {row["n"] for row in table} == {"32"}
    for row in table:
        assert 0 <= float(row["ci_low"]) <= float(row["uar"]) <= float(row["ci_high"]) <= 1
    told = json.loads((measured.folder / "robustness.json").read_text())
    assert told["protocol"].startswith("leave-one-speaker-out")
    assert "sentences shared" in told["warnings"]
    assert told["settings"]["snrs_db"] == [40.0, -20.0]
    assert told["majority_baseline"]["uar"] == 0.5
    assert len(told["conditions"]) == 5
    svg = (measured.folder / "robustness.svg").read_text()
    assert svg.startswith("<svg")
    assert "var(--" not in svg
    for words in ("babble", "white", "clean, ", "majority baseline, 50.0", "(sentences shared)"):
        assert words in svg
    names = {path.stem for path in (measured.folder / "predictions").iterdir()}
    assert names == {"clean", "babble_40dB", "babble_-20dB", "white_40dB", "white_-20dB"}


def test_loud_noise_costs_more_than_faint_noise(measured):
    uar = {(row["noise"], row["snr_db"]): row["uar"] for row in measured.rows()}
    assert uar["clean", None] >= 0.8
    assert uar["babble", 40.0] >= uar["clean", None] - 0.1
    assert uar["babble", -20.0] <= 0.75
    assert uar["white", -20.0] <= 0.75


def test_clean_is_what_the_run_recorded_each_member_on_its_own_test_part(measured, tone_run):
    clean = read_predictions(measured.folder / "predictions" / "clean.csv")
    said = read_predictions(tone_run / "predictions.csv")
    assert clean.ids.tolist() == said.ids.tolist()
    assert clean.folds.tolist() == said.folds.tolist()
    np.testing.assert_allclose(clean.scores, said.scores, atol=1e-4)
    assert measured.notes == ()


def test_the_tables_can_be_compared_with_the_run(measured, tone_run):
    comparison = compare_runs([tone_run, measured.folder / "predictions" / "white_-20dB.csv"])
    assert comparison.pairs[0].test.n_utterances == 32


def test_what_was_computed_is_found_again(measured, tone_run, n_predicted):
    again = measure_robustness(
        tone_run, NoisePlan.parse("white,babble", "40,-20"), out=measured.folder, n_jobs=1
    )
    assert n_predicted == []
    assert again.rows()[0] == measured.rows()[0]
    measure_robustness(tone_run, NoisePlan.parse("white", "40,-20,7"), out=measured.folder)
    assert len(n_predicted) == 32  # 7 dB alone
    measure_robustness(tone_run, NoisePlan.parse("white", "40", seed=2), out=measured.folder)
    assert len(n_predicted) == 64  # other noise; clean stays


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of the work."""


class KilledAt(Quiet):
    def __init__(self, done):
        self.done = done

    def advance(self, done):
        if done == self.done:
            raise Killed


def test_a_kill_loses_at_most_one_condition_of_one_member(tone_run, tmp_path, n_predicted):
    plan = NoisePlan.parse("pink", "10,0")
    with pytest.raises(Killed):
        measure_robustness(tone_run, plan, out=tmp_path, n_jobs=1, progress=KilledAt(45))
    # Eight utterances per member and condition: 40 are kept.
    n_predicted.clear()
    killed = measure_robustness(tone_run, plan, out=tmp_path, n_jobs=1)
    assert len(n_predicted) == 3 * 32 - 40
    whole = measure_robustness(tone_run, plan, out=tmp_path / "whole", n_jobs=2)
    assert killed.rows() == whole.rows()


def test_another_serkit_at_work_in_the_folder_is_named(tone_run, tmp_path):
    from serkit.training.lock import FolderLock

    with FolderLock(tmp_path) as other:
        other.take()
        with pytest.raises(InputError, match="another serkit is at work"):
            measure_robustness(tone_run, NoisePlan.parse("pink", "0"), out=tmp_path)


def test_babble_is_eight_utterances_of_speakers_other_than_the_tested_one(tone_corpus):
    utterances = corpus_utterances(tone_corpus)
    noises = NoiseMaker(utterances, seed=1)
    for utterance in utterances:
        voices = noises.voices(utterance)
        assert len({voice.id for voice in voices}) == N_VOICES
        assert utterance.speaker not in {voice.speaker for voice in voices}
    both = {voice.label for u in utterances if u.label == "sad" for voice in noises.voices(u)}
    assert both == {"happy", "sad"}  # whatever the class of the tested utterance


def test_noise_depends_on_seed_kind_and_utterance_alone(tone_corpus, recognizer):
    utterances = corpus_utterances(tone_corpus)
    first, other = utterances[0], utterances[1]
    noises, later = NoiseMaker(utterances, seed=1), NoiseMaker(utterances, seed=1)
    later.make("pink", other, 500, recognizer)
    for kind in ("babble", "pink", "hum", "white"):
        made = noises.make(kind, first, 5000, recognizer)
        assert np.array_equal(made, later.make(kind, first, 5000, recognizer))
        assert not np.array_equal(made, noises.make(kind, other, 5000, recognizer))
        reseeded = NoiseMaker(utterances, seed=2).make(kind, first, 5000, recognizer)
        assert not np.array_equal(made, reseeded)


def test_without_other_speakers_noise_in_the_rhythm_of_speech_stands_in(tone_corpus, recognizer):
    alone = corpus_utterances(tone_corpus, speakers=("ann",))
    noises = NoiseMaker(alone, seed=1)
    assert noises.voices(alone[0]) == []
    noise = noises.make("babble", alone[0], RATE, recognizer)
    power = np.abs(np.fft.rfft(noise.astype(float))) ** 2  # one bin per hertz
    assert power[100:500].mean() > 50 * power[4000:8000].mean()
    stranger = Utterance(id="x", path=alone[0].path, corpus="tones", label=None, speaker="unknown")
    assert NoiseMaker(corpus_utterances(tone_corpus), seed=1).voices(stranger) == []


def test_a_checkpoint_is_judged_by_a_table_with_a_warning(tone_run, tone_corpus, tmp_path):
    table = corpus_utterances(tone_corpus, speakers=("ann",))
    table.append(
        Utterance(id="odd", path=table[0].path, corpus="tones", label="furious", speaker="eve")
    )
    manifest = tmp_path / "table.csv"
    write_manifest(manifest, table)
    plan = NoisePlan.parse("babble", "10")
    result = measure_robustness(tone_run, plan, manifest=manifest, out=tmp_path / "out", n_jobs=1)
    assert [row["n"] for row in result.rows()] == [8, 8]
    told = "\n".join(result.lines())
    assert "mind: training speakers not kept apart" in told
    assert "1 of 9 utterances have a label that is not among the classes" in told
    assert "babble: 8 of 8 utterances have no 8 of other known speakers" in told
    with pytest.raises(InputError, match="--manifest: name the folder to write with --out"):
        measure_robustness(tone_run, plan, manifest=manifest)
    write_manifest(manifest, table[-1:])
    with pytest.raises(InputError, match="no utterance has a label among the classes happy, sad"):
        measure_robustness(tone_run, plan, manifest=manifest, out=tmp_path / "out")


def test_recordings_of_the_user_are_looped_and_added(tone_run, tmp_path, n_predicted):
    folder = tmp_path / "mine" / "street"
    folder.mkdir(parents=True)
    soundfile.write(folder / "short.wav", tone(3000, seconds=0.05, rate=48_000), 48_000)
    soundfile.write(folder / "long.flac", tone(2000, seconds=2.0, rate=8_000), 8_000)
    plan = NoisePlan.parse("recorded", "0", noise_dir=tmp_path / "mine")
    result = measure_robustness(tone_run, plan, out=tmp_path / "out", n_jobs=1)
    assert [row["noise"] for row in result.rows()] == ["clean", "recorded"]
    assert result.settings["n_noise_files"] == 2
    n_predicted.clear()
    soundfile.write(folder / "long.flac", tone(2500, seconds=2.0, rate=8_000), 8_000)
    measure_robustness(tone_run, plan, out=tmp_path / "out", n_jobs=1)
    assert len(n_predicted) == 32  # other noise under the same name


@pytest.fixture
def moved_run(tone_run, tmp_path):
    """A run whose sound is no longer where it was."""
    run = tmp_path / "moved"
    shutil.copytree(tone_run, run)
    table = (run / "predictions.csv").read_text()
    root = json.loads((run / "config.json").read_text())["corpus"]["root"]
    assert root in table
    (run / "predictions.csv").write_text(table.replace(root, "/gone"))
    return run


def test_sound_that_was_moved_is_found_through_the_corpus(moved_run, measured):
    result = measure_robustness(moved_run, NoisePlan.parse("white", "40"), n_jobs=1)
    assert result.folder == moved_run / "robustness"
    assert result.rows()[0] == measured.rows()[0]


def test_sound_that_is_nowhere_is_named(moved_run, tone_corpus, tmp_path):
    config = json.loads((moved_run / "config.json").read_text())
    config["corpus"]["root"] = str(tmp_path / "less")
    shutil.copytree(tone_corpus, tmp_path / "less")
    next((tmp_path / "less").rglob("sad-dee-0.wav")).unlink()
    (moved_run / "config.json").write_text(json.dumps(config))
    plan = NoisePlan.parse("white", "40")
    with pytest.raises(InputError, match=r"no sound of utterance .*sad-dee-0"):
        measure_robustness(moved_run, plan)
    (moved_run / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json does not tell the corpus"):
        measure_robustness(moved_run, plan)


def test_sound_that_cannot_be_read_is_named(tone_run, tone_corpus, tmp_path):
    gone = replace(corpus_utterances(tone_corpus)[0], path=tmp_path / "gone.wav")
    manifest, plan = tmp_path / "table.csv", NoisePlan.parse("pink", "0")
    write_manifest(manifest, [gone])
    with pytest.raises(InputError, match=r"gone.wav: cannot be read \(No such file"):
        measure_robustness(tone_run, plan, manifest=manifest, out=tmp_path / "out")
    soundfile.write(tmp_path / "gone.wav", np.zeros(8000), RATE)
    with pytest.raises(InputError, match=r"gone.wav: digital silence"):
        measure_robustness(tone_run, plan, manifest=manifest, out=tmp_path / "out")


def test_what_cannot_be_judged_under_is_refused(tmp_path):
    with pytest.raises(InputError, match="--noise rain: unknown noise, expected babble, pink"):
        NoisePlan.parse("pink,rain", "0")
    for word in ("loud", "nan", "inf"):
        with pytest.raises(InputError, match=f"--snr {word}: not a number, expected dB"):
            NoisePlan.parse("pink", f"10,{word}")
    for word in ("-61", "1e9"):
        with pytest.raises(InputError, match=f"--snr {word}: expected -60 to 120 dB"):
            NoisePlan.parse("pink", f"10,{word}")
    with pytest.raises(InputError, match="--noise recorded: name the folder"):
        NoisePlan.parse("recorded", "0")
    for noise, snr in (("", "0"), ("pink", " , ")):
        with pytest.raises(InputError, match="nothing to judge under"):
            NoisePlan.parse(noise, snr)
    assert NoisePlan.parse("pink,pink", "0,0.0", noise_dir=tmp_path).kinds == ("pink", "recorded")


def test_a_folder_without_noise_is_refused(tone_run, tmp_path):
    plan = NoisePlan.parse("recorded", "0", noise_dir=tmp_path)
    with pytest.raises(InputError, match=r"--noise-dir .*: no sound files in this folder"):
        measure_robustness(tone_run, plan, out=tmp_path / "out")
    soundfile.write(tmp_path / "still.wav", np.zeros(800), 8_000)
    with pytest.raises(InputError, match=r"still.wav: digital silence"):
        measure_robustness(tone_run, plan, out=tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named(tone_run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        measure_robustness(tone_run, NoisePlan.parse("pink", "0"), out=tmp_path / "file" / "out")


def test_runs_without_members_are_refused(tone_run, tmp_path):
    plan = NoisePlan.parse("pink", "0")
    with pytest.raises(InputError, match="no folder 'members', so no trained fold to judge"):
        measure_robustness(tone_run / "model", plan)
    with pytest.raises(InputError, match="no such run folder"):
        measure_robustness(tmp_path / "gone", plan)
    (tmp_path / "run.json").write_text('{"task": "transcription"}')
    with pytest.raises(InputError, match="a finished run of the task 'transcription'"):
        measure_robustness(tmp_path, plan)
    run = tmp_path / "run"
    shutil.copytree(tone_run, run)
    shutil.rmtree(next((run / "members").glob("*dee-seed1")))
    with pytest.raises(InputError, match=r"no checkpoint .*dee-seed1"):
        measure_robustness(run, plan)


def test_several_classes_per_utterance_are_refused(tmp_path):
    (tmp_path / "members").mkdir()
    table = Predictions.of(
        ["a", "b"],
        ["happy+sad", "sad"],
        classes=["happy", "sad"],
        scores=np.array([[0.7, 0.6], [0.1, 0.4]]),
        multi_label=True,
    )
    write_predictions(tmp_path / "predictions.csv", table)
    with pytest.raises(InputError, match="several classes per utterance, expected one"):
        measure_robustness(tmp_path, NoisePlan.parse("pink", "0"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"multi_label": True}, "several classes per utterance, expected one"),
        (
            {
                "front_end": {"name": "none"},
                "text": {"name": "precomputed", "folder": "vectors", "width": 4},
                "model": {"name": "mmer", "streams": "text", "n_symbols": 0},
            },
            "hears no sound",
        ),
    ],
)
def test_checkpoints_whose_answers_in_noise_mean_nothing_are_refused(
    recognizer, tone_corpus, tmp_path, settings, message
):
    folder = Recognizer(replace(recognizer.config, normalise="none", **settings)).save(
        tmp_path / "m"
    )
    manifest = tmp_path / "table.csv"
    write_manifest(manifest, corpus_utterances(tone_corpus))
    with pytest.raises(InputError, match=message):
        measure_robustness(
            folder, NoisePlan.parse("pink", "0"), manifest=manifest, out=tmp_path / "out"
        )


def test_tables_of_an_earlier_call_are_removed(tone_run, tmp_path):
    measure_robustness(tone_run, NoisePlan.parse("pink", "40"), out=tmp_path, n_jobs=1)
    measure_robustness(tone_run, NoisePlan.parse("white", "40"), out=tmp_path, n_jobs=1)
    names = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert names == {"clean.csv", "white_40dB.csv"}


def serkit(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_the_command_prints_a_table_or_json_and_names_bad_input(
    tone_run, tmp_path, monkeypatch, capsys
):
    asked = ("robustness", tone_run, "--noise", "pink", "--snr", "5", "--out", tmp_path)
    assert serkit(monkeypatch, *asked, "--jobs", 1) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["noise", "SNR", "dB", "UAR", "interval", "WAR", "n"]
    assert shown[2].split()[:2] == ["pink", "5"]
    assert shown[-1] == f"figure: {tmp_path / 'robustness.svg'}"
    assert serkit(monkeypatch, *asked, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["conditions"]) == 2
    assert serkit(monkeypatch, "robustness", tone_run, "--snr", "loud") == 2
    line = capsys.readouterr().err
    assert line == "serkit: --snr loud: not a number, expected dB such as 20,10,5,0\n"
