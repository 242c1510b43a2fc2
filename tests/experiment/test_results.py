"""The results page: made from the kept results, by files that exist."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import summarise
from gap_figure import GapRow, draw_gap

from serkit.experiment.config import load_experiment
from serkit.types import InputError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
KEPT = sorted((ROOT / "experiments" / "results").glob("*.json"))


def kept_copies(folder: Path) -> list[Path]:
    folder.mkdir()
    for path in KEPT:
        (folder / path.name).write_bytes(path.read_bytes())
    return sorted(folder.iterdir())


def change(path: Path, **values) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    for dotted, value in values.items():
        inner = result
        *parts, last = dotted.split("__")
        for part in parts:
            inner = inner[part]
        inner[last] = value
    path.write_text(json.dumps(result), encoding="utf-8")


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_page_is_what_the_command_writes():
    assert summarise.page() == (DOCS / "results.md").read_text(encoding="utf-8")


def test_the_figures_are_what_the_command_draws():
    figures = summarise.figures()
    assert {path.name for path in DOCS.glob("gap-*.svg")} == set(figures)
    for name, svg in figures.items():
        assert svg == (DOCS / name).read_text(encoding="utf-8"), name
        assert f"({name})" in (DOCS / "results.md").read_text(encoding="utf-8")


def test_figures_show_every_kept_score_with_the_words_of_its_protocol():
    figures = summarise.figures()
    for path in KEPT:
        result = json.loads(path.read_text(encoding="utf-8"))
        shown = texts(figures[f"gap-timnet-{result['corpus']['name']}.svg"])
        assert f"{100 * result['pooled']['uar']['mean']:.1f}" in shown
        if "speaker-dependent" in result["protocol"]["warnings"]:
            assert "speaker-dependent" in shown
    for svg in figures.values():
        assert "speaker-dependent, selected on test" in texts(svg)


def test_every_result_has_an_experiment_file():
    claims = [claim for found in summarise.read_claims().values() for claim in found]
    assert {claim.config.name for claim in claims if claim.result} == {p.stem for p in KEPT}


def test_an_experiment_of_a_protocol_without_a_place_in_the_order_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(summarise, "EXPERIMENTS", tmp_path)
    (tmp_path / "timnet").mkdir()
    (tmp_path / "timnet" / "emodb-lenient.toml").write_text(
        'base = "timnet/base"\nname = "timnet-emodb-lenient"\ncorpus.name = "emodb"\n'
        'protocol.split = "random_folds"\n',
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="protocol 'lenient' has no place"):
        summarise.read_claims()


def test_experiments_of_one_corpus_are_of_one_length_so_that_protocols_are_compared():
    for found in summarise.read_claims().values():
        assert len({claim.config.training.epochs for claim in found}) == 1


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_result_comes_from_its_file_or_the_page_says_by_what_it_differs(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    experiment = load_experiment(ROOT / summarise._file(result["name"]))
    config = experiment.model_dump(mode="json")
    assert config["name"] == result["name"]
    for part in ("protocol", "training"):
        defaults = type(getattr(experiment, part))().model_dump(mode="json")
        theirs = result["config"][part]
        for key, ours in config[part].items():
            if key != "epochs":  # keys that came later had their defaults
                assert theirs.get(key, defaults[key]) == ours, (part, key)
    for part in ("model", "front_end", "view", "objective"):
        assert config[part] == result["config"][part], part
    same = (config["training"]["epochs"], config["seeds"]) == (
        result["config"]["training"]["epochs"],
        result["config"]["seeds"],
    )
    row = next(line for line in summarise.page().splitlines() if f"[{result['name']}]" in line)
    assert ("the file now asks for" in row) != same


def test_results_hold_no_paths_and_no_utterances():
    for path in KEPT:
        text = path.read_text(encoding="utf-8")
        assert '"root"' not in text
        assert ".wav" not in text


def test_a_gap_is_told_between_runs_of_one_length_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(summarise, "RESULTS", tmp_path / "results")
    by_name = {path.stem: path for path in kept_copies(tmp_path / "results")}
    stricter = by_name["timnet-emodb-speaker-independent"]
    change(stricter, pooled__uar__mean=0.6, protocol__epochs=100)
    easier = stricter.with_name("timnet-emodb-random-nested.json")
    easier.write_bytes(stricter.read_bytes())
    change(easier, name="timnet-emodb-random-nested", pooled__uar__mean=0.85)
    assert "knowing the speaker" in summarise.page()
    assert "**25.0**, from 85.0 to 60.0" in summarise.page()
    change(easier, protocol__epochs=80)
    assert "not told by runs of 80 and 100 epochs" in summarise.page()
    easier.unlink()
    assert "**25.0**" not in summarise.page()
    assert "not run yet" in summarise.page()


def test_a_corpus_without_any_result_has_no_section(tmp_path, monkeypatch):
    monkeypatch.setattr(summarise, "RESULTS", tmp_path / "results")
    for path in kept_copies(tmp_path / "results"):
        if "emodb" not in path.name:
            path.unlink()
    assert "RAVDESS" not in summarise.page()
    assert list(summarise.figures()) == ["gap-timnet-emodb.svg"]


def test_seeds_are_drawn_one_by_one_where_they_were_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(summarise, "RESULTS", tmp_path / "results")
    for path in kept_copies(tmp_path / "results"):
        change(path, per_seed=[{"seed": 1, "uar": 0.5}, {"seed": 2, "uar": 0.6}])
    svg = summarise.figures()["gap-timnet-emodb.svg"]
    assert svg.count('class="seed"') == 1 + 2 * len([p for p in KEPT if "emodb" in p.name])


def test_a_finished_run_is_kept_with_its_seeds_and_without_its_folders(
    tone_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(summarise, "RESULTS", tmp_path)
    summarise.keep(tone_run)
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert [row["seed"] for row in kept["per_seed"]] == kept["seeds"]
    assert "root" not in kept["config"]["corpus"]


def test_words_stand_at_both_marks_of_a_row_unless_they_are_near():
    def drawn(authors: float) -> int:
        row = GapRow(name="x", words="speaker-dependent", mean=40, low=35, high=45, authors=authors)
        return texts(draw_gap([row], title="t", chance=10)).count("speaker-dependent")

    assert (drawn(90), drawn(50)) == (2, 1)
