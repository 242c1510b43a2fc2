"""Many recordings, one recognizer: predictions in order, broken files as rows with their error.

Files are decoded, resampled and recognised in threads, one file each; a file that cannot be used
costs its own row and nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from serkit.audio import SOUND_SUFFIXES, find_sound_files
from serkit.recognizer import Recognizer
from serkit.types import InputError, Prediction

__all__ = ["OutputFormat", "PredictionRow", "collect_files", "format_rows", "predict_files"]

OutputFormat = Literal["table", "csv", "json", "jsonl"]


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One file: a prediction, or the reason why there is none."""

    file: str
    prediction: Prediction | None
    error: str = ""


def collect_files(paths: Sequence[Path | str]) -> list[Path]:
    """List the sound files that paths name; folders are searched by suffix, files are taken.

    Files that are named come back even if they are missing or no sound: each is a row of its own.

    Raises
    ------
    InputError
        If a folder holds no sound file, or there is nothing at all.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = find_sound_files(path)
        if not found:
            raise InputError(
                f"{path}: no sound files in this folder (looked for {', '.join(SOUND_SUFFIXES)})"
            )
        files += found
    if not files:
        raise InputError("no files to recognise: name files or folders")
    return files


def predict_files(
    recognizer: Recognizer, files: Sequence[Path], *, n_workers: int | None = None
) -> Iterator[PredictionRow]:
    """Recognise files, in order, as they are done.

    Parameters
    ----------
    n_workers
        Files at a time; default: one per core.
    """

    def one(path: Path) -> PredictionRow:
        try:
            return PredictionRow(str(path), recognizer.predict_file(path))
        except InputError as error:
            return PredictionRow(str(path), None, str(error))

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the files are the parallelism
    try:
        with ThreadPoolExecutor(n_workers or os.cpu_count() or 1) as pool:
            yield from pool.map(one, files)
    finally:
        torch.set_num_threads(n_threads)


def format_rows(
    rows: Sequence[PredictionRow], classes: Sequence[str], output_format: OutputFormat
) -> str:
    """Write rows as text: aligned table, CSV, JSON array, or one JSON object per line.

    Every format holds file, start_s, end_s, label, score, one score per class, model, notes, error.
    """
    if output_format == "json":
        return json.dumps([_record(row) for row in rows], indent=2, ensure_ascii=False) + "\n"
    if output_format == "jsonl":
        return "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in rows)
    if output_format == "csv":
        buffer = io.StringIO()
        names = ["file", "start_s", "end_s", "label", "score"]
        names += [f"score_{c}" for c in classes] + ["model", "notes", "error"]
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_flat(row, classes) for row in rows)
        return buffer.getvalue()
    return _aligned(rows, classes)


def _record(row: PredictionRow) -> dict[str, Any]:
    if row.prediction is None:
        return {"file": row.file, "error": row.error}
    record: dict[str, Any] = json.loads(row.prediction.to_json())
    return record


def _flat(row: PredictionRow, classes: Sequence[str]) -> dict[str, object]:
    p = row.prediction
    if p is None:
        return {"file": row.file, "error": row.error}
    return {
        "file": p.file,
        "start_s": f"{p.start_s:.3f}",
        "end_s": f"{p.end_s:.3f}",
        "label": p.label,
        "score": f"{p.score:.4f}",
        **{f"score_{c}": f"{p.scores[c]:.4f}" for c in classes},
        "model": p.model,
        "notes": "; ".join(p.notes),
    }


def _aligned(rows: Sequence[PredictionRow], classes: Sequence[str]) -> str:
    header = ["file", "seconds", "label", *classes]
    table = [header]
    for row in rows:
        p = row.prediction
        if p is not None:
            scores = [f"{p.scores[c]:.2f}" for c in classes]
            table.append([row.file, f"{p.end_s - p.start_s:.2f}", p.label, *scores])
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    # Names and labels to the left, numbers to the right.
    left = {0, 2}
    lines = [
        "  ".join(
            cell.ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    lines += [f"error: {row.error}" for row in rows if row.prediction is None]
    return "\n".join(lines) + "\n"
