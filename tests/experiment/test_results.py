"""The results page: made from the kept results, by files that exist."""

import json
import runpy
from pathlib import Path

from serkit.experiment.config import load_experiment

ROOT = Path(__file__).parents[2]
SUMMARISE = runpy.run_path(str(ROOT / "experiments" / "summarise.py"))


def test_the_page_is_what_the_command_writes():
    assert SUMMARISE["page"]() == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_every_result_comes_from_an_experiment_file_with_the_same_settings():
    kept = sorted((ROOT / "experiments" / "results").glob("*.json"))
    assert kept
    for path in kept:
        result = json.loads(path.read_text(encoding="utf-8"))
        file = ROOT / SUMMARISE["_file"](result["name"])
        config = load_experiment(file).model_dump(mode="json")
        assert config["name"] == result["name"]
        for part in ("protocol", "training", "model", "front_end", "view", "seeds", "objective"):
            ours = config[part]
            theirs = result["config"][part]
            if isinstance(ours, dict):  # keys that came later have their defaults
                theirs = {key: value for key, value in theirs.items() if key in ours}
            assert ours == theirs, (path.name, part)


def test_results_hold_no_paths_and_no_utterances():
    for path in (ROOT / "experiments" / "results").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert '"root"' not in text
        assert ".wav" not in text
