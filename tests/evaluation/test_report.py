import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.evaluation import (
    Predictions,
    PredictionsError,
    read_predictions,
    write_predictions,
    write_report,
)
from serkit.evaluation.figures import embedding_figure, speakers_figure
from serkit.evaluation.report import MAX_WAV_BYTES, confident_mistakes
from serkit.evaluation.runfolder import Embeddings
from serkit.evaluation.scores import GroupScores
from serkit.types import InputError

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects what a browser would fetch, headings and ids, and checks that tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
                self.fetched.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    run = toy.write_toy_run(tmp_path_factory.mktemp("runs") / "run")
    write_report(run)
    return run


def test_the_three_files_are_written_and_nothing_else(finished) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "config.json",
        "curves.csv",
        "embeddings.npz",
        "leaks.json",
        "metrics.json",
        "predictions.csv",
        "report.html",
        "results.xlsx",
        "run.json",
    ]


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(value.startswith(("#", "data:")) for value in page.fetched)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "<script" not in text
    assert len(page.ids) == len(set(page.ids))


def test_the_first_screen_says_what_this_is_and_what_limits_it(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    first = text[text.index("<h1>") : text.index("Confusion matrix and classes")]
    assert "TIM-Net on Synthetic Voices, 4 speaker folds, epoch chosen on the dev part, 2" in first
    assert '<li class="badge bad">SYNTHETIC</li>' in first
    assert '<li class="badge good">speaker-independent</li>' in first
    assert "UAR (UA)" in first
    assert "WAR (WA, accuracy)" in first
    assert "majority baseline" in first
    assert "The speech is synthetic" in first


def test_every_section_is_there(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "What to make of it",
        "Confusion matrix and classes",
        "Scores by speaker",
        "Scores by fold",
        "Learning curves",
        "Calibration",
        "Embeddings of test utterances",
        "Most confident mistakes",
        "Leak check",
        "Environment and configuration",
        "Definitions",
    ]
    assert text.count('role="img"') == 6
    assert text.count("<title id=") == 4


def test_mistakes_are_embedded_as_small_mono_16_bit_wav(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    clips = re.findall(r'src="data:audio/wav;base64,([^"]+)"', text)
    assert len(clips) == 6
    for clip in clips:
        assert len(clip) < 300_000
        info = soundfile.info(io.BytesIO(base64.b64decode(clip)))
        assert (info.subtype, info.channels) == ("PCM_16", 1)


def test_metrics_json_holds_the_numbers_of_the_page(finished) -> None:
    numbers = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert f"{100 * numbers['pooled']['uar']['mean']:.1f}" in text
    assert numbers["warnings"] == ["SYNTHETIC"]
    assert numbers["intervals"]["uar"]["n_clusters"] == 8
    assert numbers["missing_files"] == []


def test_a_report_is_the_same_when_written_again(finished) -> None:
    before = (finished / "report.html").read_bytes()
    write_report(finished)
    assert (finished / "report.html").read_bytes() == before


def test_no_path_of_the_machine_is_shown(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert str(finished.parent) not in text


OPTIONAL = {
    "curves.csv": "Learning curves",
    "embeddings.npz": "Embeddings of test utterances",
    "leaks.json": "Leak check",
    "config.json": "Resolved configuration",
}


@pytest.mark.parametrize(
    "missing", [["curves.csv", "leaks.json"], ["embeddings.npz", "config.json"]]
)
def test_a_missing_file_is_named_and_its_section_left_out(finished, tmp_path, missing) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in missing:
        (run / name).unlink()
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    for name, heading in OPTIONAL.items():
        assert (heading not in text) == (name in missing)
        assert (f"<code>{name}</code> is missing" in text) == (name in missing)


def test_predictions_alone_are_enough(tmp_path, table) -> None:
    (tmp_path / "run").mkdir()
    rows = [f"{n},{'sad' if n % 2 else 'happy'},sad" for n in range(20)]
    table("id,truth,predicted", *rows, name="run/predictions.csv")
    text = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert '<li class="badge bad">protocol unknown</li>' in text
    assert "<code>run.json</code> is missing" in text
    assert "does not say who talks" in text
    assert "<dt>fold</dt><dd>1</dd>" in text
    assert "<dt>test utterances</dt><dd>20</dd>" in text
    assert "holds no scores" in text


def test_a_run_selected_on_test_shows_what_that_is_worth(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run", selection="best_test")
    (run / "embeddings.npz").unlink()
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    assert '<li class="badge bad">selected on test</li>' in text
    assert "Optimism of choosing the epoch on the test fold" in text
    assert "test part unseen" not in text
    rules = json.loads((run / "metrics.json").read_text())["optimism"]
    assert rules[2]["war"] > rules[0]["war"]


def test_leave_one_speaker_out_maps_each_fold_by_itself(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run", speakers_per_fold=1)
    (run / "curves.csv").unlink()
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    assert "6 largest folds" in text
    assert "Fold 6 (n = 45)" in text


def test_names_that_are_markup_or_mathematics_are_shown_as_written(tmp_path, toy) -> None:
    run = toy.write_toy_run(tmp_path / "run")
    (run / "curves.csv").unlink()
    predictions = toy.toy_predictions()
    odd = {"03": "<script>alert(1)</script>", "04": "$x_1$ & $y", "05": "说话人"}
    renamed = Predictions.of(
        predictions.ids.tolist(),
        predictions.truth.tolist(),
        classes=predictions.classes,
        scores=predictions.scores,
        speakers=[odd.get(name, name) for name in predictions.speakers.tolist()],
        folds=predictions.folds.tolist(),
        seeds=predictions.seeds.tolist(),
        corpora=predictions.corpora.tolist(),
    )
    write_predictions(run / "predictions.csv", renamed)
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "$x_1$ &amp; $y" in text
    assert "说话人" in text
    assert Page(text).open == []


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.9, "surer than it should be"), (0.51, "about as sure"), (0.3, "less sure than it could")],
)
def test_the_page_says_whether_the_system_is_too_sure(tmp_path, score, verdict) -> None:
    rest = (1 - score) / 4
    scores = np.array([[score] + [rest] * 4] * 40)
    truth = ["a", "b"] * 20
    ids = [str(number) for number in range(40)]
    predictions = Predictions.of(ids, truth, classes="abcde", scores=scores)
    write_predictions(tmp_path / "predictions.csv", predictions)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert verdict in text


def test_a_failed_leak_check_cannot_be_overlooked(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run")
    for figure in ("curves.csv", "embeddings.npz"):
        (run / figure).unlink()
    (run / "leaks.json").write_text('{"ok": false, "lines": ["Speaker 03 is in two parts."]}')
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    assert '<li class="badge bad">leak check failed</li>' in text
    assert "Speaker 03 is in two parts." in text


def mistakes_of(path: str, **extras: str):
    predictions = Predictions.of(
        ["a"],
        ["sad"],
        classes=["happy", "sad"],
        scores=np.array([[0.9, 0.1]]),
        extras={"path": [path]} | {key: [value] for key, value in extras.items()},
    )
    (mistake,) = confident_mistakes(predictions)
    return mistake


def test_sound_that_cannot_be_played_is_explained_without_its_folder(tmp_path) -> None:
    mistake = mistakes_of(str(tmp_path / "gone.wav"))
    assert mistake.audio == ""
    assert mistake.audio_note == "not playable: gone.wav: no such file"
    (tmp_path / "text.wav").write_text("no sound")
    assert "cannot be decoded" in mistakes_of(str(tmp_path / "text.wav")).audio_note
    assert mistakes_of("").audio_note == "the table names no sound file"


@pytest.mark.parametrize(
    ("seconds", "rate", "note"), [(3, 16_000, ""), (9, 8_000, ""), (30, 8_000, "first 14 of 30 s")]
)
def test_long_utterances_are_thinned_then_shortened(tmp_path, seconds, rate, note) -> None:
    soundfile.write(tmp_path / "long.wav", np.full((seconds * 22_050, 2), 0.1), 22_050)
    mistake = mistakes_of(str(tmp_path / "long.wav"))
    data = base64.b64decode(mistake.audio.split(",")[1])
    assert len(data) <= MAX_WAV_BYTES
    assert soundfile.info(io.BytesIO(data)).samplerate == rate
    assert mistake.audio_note == note


def test_only_the_utterance_is_cut_from_a_longer_recording(tmp_path) -> None:
    soundfile.write(tmp_path / "session.wav", np.full(16_000 * 10, 0.1), 16_000)
    mistake = mistakes_of(str(tmp_path / "session.wav"), start_s="2", end_s="3.5")
    data = base64.b64decode(mistake.audio.split(",")[1])
    assert soundfile.info(io.BytesIO(data)).duration == pytest.approx(1.5)


def test_mistakes_are_ranked_by_the_score_averaged_over_seeds() -> None:
    predictions = Predictions.of(
        ["a", "b", "a", "b"],
        ["sad"] * 4,
        classes=["happy", "sad"],
        scores=np.array([[1.0, 0.0], [0.8, 0.2], [0.1, 0.9], [0.8, 0.2]]),
        seeds=[0, 0, 1, 1],
    )
    mistakes = confident_mistakes(predictions, audio=False)
    assert [m.id for m in mistakes] == ["b", "a"]
    assert mistakes[0].score == pytest.approx(0.8)
    assert confident_mistakes(predictions, audio=False, n=1)[0].id == "b"


def test_a_file_is_no_run_folder(tmp_path, table) -> None:
    with pytest.raises(InputError, match="a report needs a run folder"):
        write_report(table("id,truth,predicted", "1,sad,sad"))


def test_many_speakers_are_drawn_without_names() -> None:
    speakers = [
        GroupScores(
            name=f"speaker-{number}",
            seed=None,
            n_utterances=5,
            uar=number / 100,
            war=0.5,
            f1_macro=0.5,
            f1_weighted=0.5,
            uar_sd=None,
            absent=(),
        )
        for number in range(91)
    ]
    svg = speakers_figure(speakers, pooled_uar=0.5, baseline_uar=0.2)
    assert "91 speakers, best on top" in svg
    assert "speaker-3 " not in svg


def test_embeddings_of_too_few_or_unknown_utterances_are_explained(toy_predictions) -> None:
    predictions = toy_predictions()
    few = Embeddings(
        ids=predictions.ids[:5],
        folds=predictions.folds[:5],
        seeds=predictions.seeds[:5],
        vectors=np.eye(5),
    )
    svg, words = embedding_figure(few, predictions)
    assert svg == ""
    assert "No fold has 12" in words


def test_constant_embeddings_are_mapped_without_a_crash(toy_predictions) -> None:
    predictions = toy_predictions(n_seeds=1)
    dead = Embeddings(
        ids=predictions.ids,
        folds=predictions.folds,
        seeds=predictions.seeds,
        vectors=np.zeros((len(predictions), 8)),
    )
    svg, _ = embedding_figure(dead, predictions)
    assert svg.startswith("<svg")


def test_importing_evaluation_loads_nothing_heavy() -> None:
    code = (
        "import sys, serkit.evaluation; "
        "heavy = {'torch','pandas','sklearn','matplotlib','jinja2','openpyxl'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_damaged_table_stops_the_report(tmp_path) -> None:
    (tmp_path / "predictions.csv").write_text("id,truth\n")
    with pytest.raises(PredictionsError, match="no rows"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(PredictionsError):
        read_predictions(tmp_path / "predictions.csv")


@pytest.fixture(scope="module")
def finished_sets(toy, tmp_path_factory) -> Path:
    run = toy.write_toy_set_run(tmp_path_factory.mktemp("runs") / "run")
    write_report(run)
    return run


def test_a_multi_label_page_shows_what_has_a_meaning_there(finished_sets) -> None:
    text = (finished_sets / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "What to make of it",
        "Classes",
        "Scores by fold",
        "Learning curves",
        "Leak check",
        "Environment and configuration",
        "Definitions",
    ]
    for words in ("mean recall (UA)", "exact match (WA)", "two-class UAR", "recall (sensitivity)"):
        assert words in text
    assert "is above chance" in text


def test_multi_label_metrics_json_holds_the_numbers_of_the_page(finished_sets) -> None:
    numbers = json.loads((finished_sets / "metrics.json").read_text(encoding="utf-8"))
    text = (finished_sets / "report.html").read_text(encoding="utf-8")
    assert numbers["multi_label"] is True
    assert list(numbers["intervals"]) == ["mean_recall", "exact_match", "binary_uar", "f1_macro"]
    for value in numbers["pooled"].values():
        assert f"{100 * value['mean']:.1f}" in text


def test_coverage_and_experts_are_shown_where_a_run_has_them(tmp_path, write_toy_run) -> None:
    run = write_toy_run(tmp_path / "run")
    for figure in ("curves.csv", "embeddings.npz"):
        (run / figure).unlink()
    content = json.loads((run / "run.json").read_text())
    content["coverage"] = {"n_utterances": 400, "n_judged": 360, "reason": "shorter than 2 s"}
    content["experts"] = {"angry": {"uar": 0.812, "war": 0.9, "f1": 0.7}}
    (run / "run.json").write_text(json.dumps(content))
    text = write_report(run, audio=False).read_text(encoding="utf-8")
    caution = "40 of 400 utterances (10.0 %) are not judged: shorter than 2 s"
    assert f"<li>{caution}.</li>" in text
    assert '<tr><th scope="row">angry</th><td>81.2</td><td>90.0</td><td>70.0</td></tr>' in text
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["not_judged"] == caution
    assert numbers["coverage"]["n_judged"] == 360
    assert numbers["experts"] == content["experts"]


def test_a_page_without_experts_has_no_table_of_them(finished) -> None:
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert "Experts" not in text
    assert "not judged" not in text
