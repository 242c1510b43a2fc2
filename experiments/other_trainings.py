"""The section of the results page on trainings that are not about emotion in voices alone.

A decomposition, a speech recogniser, a fusion of voice, words and face: one network each, with
scores of its own kind. Their experiment files lie in ``trainings``; what a run claims is kept
beside them, under the same name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from claims import OTHER

from serkit.experiment.tasks import load_task
from serkit.experiment.words import headline

__all__ = ["is_other", "keep", "kept", "section"]

# Of metrics.json; the rest is about single utterances or long.
_KEPT = ("task", "finding", "mean", "mse_of_mean", "decodings", "scores", "intervals", "baselines")
_KEPT += ("warnings", "n_test", "parts")


def is_other(run: Path) -> bool:
    """Tell whether a run is of another task than to recognise emotion."""
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return bool(described.get("task", "emotion") != "emotion")


def keep(run: Path, experiments: Path) -> str:
    """Store what a finished run claims, and give its name."""
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    names = ("name", "task", "system", "n_parameters", "commit", "started", "duration_s")
    kept = {name: described[name] for name in (*names, "machine", "packages")}
    kept["metrics"] = {name: metrics[name] for name in _KEPT if name in metrics}
    path = experiments / OTHER / f"{described['name']}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(described["name"])


def kept(experiments: Path) -> list[dict[str, Any]]:
    """Read what was kept, in the order of the names."""
    paths = sorted((experiments / OTHER).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def section(experiments: Path) -> str:
    """Write the section: what each training says of itself."""
    lines = ["## Other trainings", ""]
    for result in kept(experiments):
        path = experiments / OTHER / f"{result['name']}.toml"
        load_task(path)  # which must still be one
        lines += [
            f"**[{result['system']}](../experiments/{OTHER}/{path.name})** ({result['name']}), "
            f"{result['n_parameters']:,} parameters, {result['duration_s'] / 60:.0f} minutes on "
            f"{result['machine']['cores']} busy cores:",
            "",
            "```",
            *headline(result["metrics"]),
            "```",
            "",
        ]
    lines += [
        "The clips and the sentences are synthetic: their scores say that the machinery learns, "
        "and nothing about people.",
        "",
    ]
    return "\n".join(lines)
