"""The words of the command line and of the model card, which are made of metrics.json."""

import json

import pytest

from serkit.evaluation import evaluate_tables, write_predictions, write_report
from serkit.experiment.card import model_card
from serkit.experiment.words import headline


@pytest.fixture(params=["write_toy_run", "write_toy_set_run"])
def files(request, toy, tmp_path) -> tuple[dict, dict, dict]:
    """Content of run.json, metrics.json and config.json."""
    run = getattr(toy, request.param)(tmp_path / "run")
    for figure in ("curves.csv", "embeddings.npz"):
        (run / figure).unlink()
    content = json.loads((run / "run.json").read_text())
    content["coverage"] = {"n_utterances": 400, "n_judged": 360, "reason": "shorter than 2 s"}
    (run / "run.json").write_text(json.dumps(content))
    write_report(run, audio=False)
    names = ("run.json", "metrics.json", "config.json")
    return tuple(json.loads((run / name).read_text()) for name in names)


def test_the_headline_says_every_score_the_baseline_and_what_is_not_judged(files) -> None:
    _, metrics, _ = files
    lines = headline(metrics)
    names = [metrics["metric_names"][key] for key in metrics["intervals"]]
    for name, line in zip(names, lines, strict=False):
        assert line.startswith(f"  {name}")
        assert "95 % interval over 8 speakers" in line
    assert lines[len(names)].startswith("  always '")
    assert "  mind: 40 of 400 utterances (10.0 %) are not judged: shorter than 2 s" in lines


def test_the_baseline_line_names_the_other_metrics(toy, tmp_path) -> None:
    single = write_predictions(tmp_path / "single.csv", toy.toy_predictions(n_seeds=1))
    sets = write_predictions(tmp_path / "sets.csv", toy.toy_sets(n_seeds=1))
    lines = [headline(summary.to_dict())[-1] for summary in evaluate_tables([single, sets])]
    assert lines[0].startswith("  always 'angry'        25.0 %   (WAR 31.1 %)")
    assert "always 'neutral'" in lines[1]
    assert "exact match" in lines[1]
    assert "two-class UAR 50.0 %" in lines[1]


def test_the_card_is_a_table_of_all_scores_and_names_what_is_not_judged(files) -> None:
    run, metrics, config = files
    card = model_card(run, metrics, config)
    for key in metrics["intervals"]:
        mean = metrics["pooled"][key]["mean"]
        assert f"| {metrics['metric_names'][key]} | {mean:.1%}, 95% interval" in card
    rows = card[card.index("|---|---|") : card.index("## Trained on")].strip().splitlines()
    assert all(row.count("|") == 3 for row in rows)
    assert "40 of 400 utterances (10.0 %) are not judged: shorter than 2 s." in card
    assert ("several of them" in card) == bool(run.get("multi_label"))
