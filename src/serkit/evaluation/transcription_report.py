"""The report of a transcription run: one self-contained page and one file of numbers.

Everything is computed from files in the run folder. ``transcripts.csv`` has one row per utterance
of the test part: ``id, speaker, seconds, said``, and a column with what was heard for each way of
decoding. ``train/log.jsonl`` has a row per epoch.

The headline is the rate of the whole test part, all edits over all characters that were said;
``cer_macro`` is the mean of the utterances' own rates, as some systems report it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serkit.evaluation.predictions import Predictions
from serkit.evaluation.report import render_page
from serkit.evaluation.transcription import (
    Unit,
    error_counts,
    error_rate_interval,
    score_transcription,
)
from serkit.files import write_atomically
from serkit.types import InputError

__all__ = ["write_transcription_report"]

N_WORST = 20
_COLUMNS = ("id", "speaker", "seconds", "said")
_UNITS: dict[str, Unit] = {"cer": "character", "wer": "word"}


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns of transcripts.csv; ``heard`` by way of decoding."""

    ids: list[str]
    speakers: list[str]
    said: list[str]
    heard: dict[str, list[str]]


def write_transcription_report(run_dir: Path | str) -> Path:
    """Write report.html and metrics.json into a run folder.

    Returns
    -------
    path of report.html

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    run_dir = Path(run_dir)
    run, table = _json(run_dir / "run.json"), _read_table(run_dir / "transcripts.csv")
    metrics = {
        "n_test": len(table.ids),
        "decodings": {name: _judge(table, heard) for name, heard in table.heard.items()},
        "parts": run["parts"],
        "left_out": run["left_out"],
        "warnings": run["protocol"]["warnings"],
    }
    text = json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"
    write_atomically(run_dir / "metrics.json", text)
    content = {
        "run": run,
        "metrics": metrics,
        "worst": _worst(table),
        "epochs": _epochs(run_dir / "train" / "log.jsonl"),
        "config": json.dumps(_json(run_dir / "config.json"), indent=2, ensure_ascii=False),
    }
    page = render_page("transcription.html.j2", content)
    write_atomically(run_dir / "report.html", page)
    return run_dir / "report.html"


def _judge(table: _Table, heard: Sequence[str]) -> dict[str, Any]:
    """Score one way of decoding."""
    scores = score_transcription(table.said, heard).to_dict()
    judged: dict[str, Any] = {"scores": scores}
    speakers = None if set(table.speakers) <= {"", "unknown"} else table.speakers
    rows = Predictions.of(
        table.ids,
        ["speech"] * len(table.ids),
        predicted=["speech"] * len(table.ids),
        classes=("speech",),
        speakers=speakers,
    )
    for name, unit in _UNITS.items():
        counts = error_counts(table.said, heard, unit=unit)
        n_said = counts[:, 3]
        known = n_said > 0
        judged[name] = float(counts[:, :3].sum() / n_said.sum())
        judged[f"{name}_macro"] = float((counts[known, :3].sum(1) / n_said[known]).mean())
        interval = error_rate_interval(rows, table.said, heard, unit=unit)
        judged[f"{name}_interval"] = asdict(interval)
    return judged


def _worst(table: _Table) -> list[dict[str, Any]]:
    """List the utterances with the most errors for their length, under the first decoding."""
    heard = next(iter(table.heard.values()))
    counts = error_counts(table.said, heard, unit="character")
    edits = counts[:, :3].sum(1)
    rates = edits / np.maximum(counts[:, 3], 1)
    order = np.argsort(-rates, kind="stable")[:N_WORST]
    return [
        {
            "id": table.ids[i],
            "speaker": table.speakers[i],
            "said": table.said[i],
            "heard": heard[i],
            "edits": int(edits[i]),
            "rate": float(rates[i]),
        }
        for i in order.tolist()
        if edits[i]
    ]


def _epochs(path: Path) -> list[Mapping[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def _read_table(path: Path) -> _Table:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    columns = list(rows[0]) if rows else []
    decodings = [name for name in columns if name not in _COLUMNS]
    if not set(_COLUMNS) <= set(columns) or not decodings:
        raise InputError(
            f"{path}: expected rows with the columns {', '.join(_COLUMNS)} and one for what was "
            "heard"
        )
    return _Table(
        [row["id"] for row in rows],
        [row["speaker"] for row in rows],
        [row["said"] for row in rows],
        {name: [row[name] for row in rows] for name in decodings},
    )
