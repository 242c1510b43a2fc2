"""The report of a decomposition: curves, what each code carries, utterances to look at and hear.

That of an F0 converter has contours in their place.

Everything is read from the run folder: ``run.json``, ``metrics.json``, ``log.jsonl`` of each
training, and of each sample ``reconstruction-<utterance>.png`` and
``audio/<utterance>-<panel>.wav``. Sounds that are small enough are inside the page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serkit.evaluation.figures import series_figure
from serkit.evaluation.report import render_page
from serkit.files import write_atomically
from serkit.types import InputError

__all__ = ["AUDIO_FOLDER", "sample_name", "write_reconstruction_report"]

AUDIO_FOLDER = "audio"

_MAX_WAV_BYTES = 300_000  # nine seconds

Rows = Sequence[Mapping[str, Any]]


def write_reconstruction_report(run_dir: Path | str) -> Path:
    """Write report.html into the folder of a decomposition's run.

    Returns
    -------
    path of report.html

    Raises
    ------
    InputError
        If the folder is not of such a run.
    """
    run_dir = Path(run_dir)
    run, metrics = (_read(run_dir / name) for name in ("run.json", "metrics.json"))
    logs = [_read_rows(run_dir / fold["log"]) for fold in metrics["folds"]]
    shared = {
        "run": run,
        "metrics": metrics,
        "samples": [_sample(run_dir, sample) for sample in metrics["samples"]],
        "config": (run_dir / "config.json").read_text(encoding="utf-8"),
    }
    if "contours" in metrics:
        page = render_page("f0_converter.html.j2", shared | {"curves": _converter_curves(logs)})
    else:
        codes = [name for name in metrics["mean"] if name.startswith("without_")]
        page = render_page(
            "decomposition.html.j2", shared | {"codes": codes, "curves": _curves(logs)}
        )
    write_atomically(run_dir / "report.html", page)
    return run_dir / "report.html"


def sample_name(utterance_id: str) -> str:
    """Name the files of an utterance whose id may hold folders.

    >>> sample_name("f1/f1_sad_s2_1")
    'f1_f1_sad_s2_1'
    """
    return utterance_id.replace("/", "_").replace("\\", "_")


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}): expected the folder of a finished run"
        ) from None
    return content


def _read_rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _curves(logs: Sequence[Rows]) -> str:
    """Draw the errors by epoch."""
    losses = {"training crops": "train_loss", "dev part": "dev_loss"}
    without = {
        key.removeprefix("dev_mse_without_"): key
        for key in logs[0][0]
        if key.startswith("dev_mse_without_")
    }
    panels = {"Mean squared error": losses}
    if without:
        panels["Dev part, without"] = {"nothing": "dev_loss"} | without
    return _panels_by_epoch("reconstruction", panels, logs)


def _converter_curves(logs: Sequence[Rows]) -> str:
    """Draw cross-entropies by epoch and, where there is a dev part, the share said nearly right."""
    panels = {
        "Cross-entropy": {
            "train": "train_loss",
            "dev": "dev_loss",
            "dev, own contour": "dev_loss_own",
        }
    }
    if "dev_voiced" in logs[0][0]:
        panels["Dev part, voiced frames nearly right"] = {"share": "dev_voiced"}
    return _panels_by_epoch("contours", panels, logs)


def _panels_by_epoch(
    name: str, panels: Mapping[str, Mapping[str, str]], logs: Sequence[Rows]
) -> str:
    """Draw panels of title -> words -> key in the rows, of what there is."""
    return series_figure(
        name,
        {
            title: {words: runs for words, key in keys.items() if (runs := _runs(logs, key))}
            for title, keys in panels.items()
        },
    )


def _runs(logs: Sequence[Rows], key: str) -> list[tuple[Any, Any]]:
    """Give (epochs, values) of each training that has such a quantity."""
    return [
        (np.array([row["epoch"] for row in rows]), np.array([row[key] for row in rows]))
        for rows in logs
        if rows and key in rows[0]
    ]


def _sample(run_dir: Path, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Embed picture and sounds of an utterance."""
    name = sample_name(sample["id"])
    picture = (run_dir / f"reconstruction-{name}.png").read_bytes()
    panels = []
    for panel in sample["panels"]:
        wav = run_dir / AUDIO_FOLDER / f"{name}-{panel['name']}.wav"
        sound = wav.read_bytes()
        small = len(sound) <= _MAX_WAV_BYTES
        panels.append(
            dict(panel)
            | {
                "audio": f"data:audio/wav;base64,{_base64(sound)}" if small else "",
                "file": f"{AUDIO_FOLDER}/{wav.name}",
            }
        )
    picture_uri = f"data:image/png;base64,{_base64(picture)}"
    return dict(sample) | {"picture": picture_uri, "panels": panels}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
