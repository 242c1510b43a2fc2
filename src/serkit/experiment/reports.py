"""The report of a run of any task, written again from what is in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from serkit.evaluation.reconstruction_report import write_reconstruction_report
from serkit.evaluation.report import write_report
from serkit.evaluation.sentiment_report import write_sentiment_report
from serkit.evaluation.transcription_report import write_transcription_report

__all__ = ["REPORTS", "write_any_report"]

REPORTS: dict[str, Callable[[Path], Path]] = {
    "decomposition": write_reconstruction_report,
    "emotion": write_report,
    "sentiment": write_sentiment_report,
    "transcription": write_transcription_report,
}


def write_any_report(run: Path) -> Path:
    """Write ``report.html`` and the tables beside it.

    Raises
    ------
    InputError
        If the folder is no run, or what it holds cannot be shown.
    """
    try:
        task = json.loads((run / "run.json").read_text(encoding="utf-8")).get("task", "emotion")
    except (OSError, ValueError, AttributeError):
        task = "emotion"  # whose report says what is missing
    return REPORTS.get(task, write_report)(run)
