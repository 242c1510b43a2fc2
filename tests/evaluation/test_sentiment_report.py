"""The report of a sentiment run, from files alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from serkit.evaluation.sentiment_report import write_sentiment_report
from serkit.types import InputError

HEAD = (
    "id,part,group,fold,seed,truth,predicted,text,audio,vision,label_text,label_audio,label_vision"
)
RUN = {
    "title": "Toy",
    "name": "toy",
    "system": "Self-MM",
    "scale": "sims",
    "modalities": ["text", "audio", "vision"],
    "seeds": [1, 2],
    "protocol": {"kind": "official", "warnings": ["speakers not known"]},
    "data": {"n_clips": 20, "n_groups": 5},
    "n_parameters": 1234,
    "serkit_version": "0",
    "commit": None,
    "started": "2026-01-01T00:00:00",
    "duration_s": 1.0,
    "machine": {},
    "packages": {},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [HEAD]
    for seed in (1, 2):
        for i in range(20):
            truth = round(float(rng.choice([-1, -0.4, 0, 0.4, 1])), 1)
            part = "test" if i < 12 else "train"
            made = ",0.1,0.2,-0.3" if part == "train" else ",,,"
            lines.append(
                f"c{i},{part},g{i % 5},official,{seed},{truth},{truth / 2:.3g},0.1,,{truth}{made}"
            )
    (tmp_path / "predictions.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "curves.csv").write_text(
        "fold,seed,epoch,train_loss,dev_loss,labels_text,labels_audio,labels_vision,"
        "labels_clipped,selected\nofficial,1,1,1,1,0,0,0,0,1\nofficial,2,1,1,1,0,0,0,0,1\n"
    )
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "leaks.json").write_text(json.dumps({"lines": ["nothing <shared>"], "words": []}))
    return tmp_path


@pytest.mark.parametrize("scale", ["sims", "simsv2", "mosi", "mosei"])
def test_every_scale_has_a_page(run, scale):
    (run / "run.json").write_text(json.dumps(RUN | {"scale": scale}))
    page = write_sentiment_report(run).read_text(encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    for key in metrics["scores"]:
        assert key in page
        assert key in (run / "results.csv").read_text()
    assert "nothing &lt;shared&gt;" in page
    assert metrics["n_test"] == 12
    assert metrics["scores"]["Corr"]["mean"] == pytest.approx(1)
    assert metrics["streams"]["audio"] == {}  # no clip has it
    assert metrics["streams"]["text"]["Corr"] is None  # it is constant


def test_intervals_are_over_speakers_where_the_table_names_all_of_the_test_part(run):
    def clusters() -> tuple[str, int]:
        write_sentiment_report(run)
        interval = json.loads((run / "metrics.json").read_text())["intervals"]["MAE"]
        return interval["cluster"], interval["n_clusters"]

    assert clusters() == ("video", 5)
    table = run / "predictions.csv"
    head, *lines = table.read_text().splitlines()

    def name(speakers: list[str]) -> None:
        rows = [f"{line},{speaker}" for line, speaker in zip(lines, speakers, strict=True)]
        table.write_text("\n".join([f"{head},speaker", *rows]) + "\n")

    name([f"s{number % 4}" for number in range(40)])
    assert clusters() == ("speaker", 4)
    assert "over 4 speakers" in (run / "report.html").read_text()
    name(["", *["s1"] * 39])
    assert clusters() == ("video", 5)


def test_what_is_missing_or_damaged_gives_one_line(run):
    for name, content, reason in (
        ("run.json", "{", "not valid JSON"),
        ("run.json", "[]", "holds a list, expected an object"),
        ("predictions.csv", "a,b\n1,2\n", "expected rows with the columns id, part"),
        ("predictions.csv", f"{HEAD}\na,test,g,f,1,x,,,,,,,\n", "could not convert"),
        ("predictions.csv", f"{HEAD}\na,dev,g,f,1,1,1,,,,,,\n", "has no test clip"),
    ):
        path = run / name
        before = path.read_text()
        path.write_text(content)
        with pytest.raises(InputError, match=reason) as caught:
            write_sentiment_report(run)
        assert "\n" not in str(caught.value)
        path.write_text(before)
    for name in ("run.json", "predictions.csv"):
        before = (run / name).read_text()
        (run / name).unlink()
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            write_sentiment_report(run)
        (run / name).write_text(before)
