"""Many recordings, one recognizer: predictions in order, broken files as rows with their error.

Files are decoded, resampled and recognised in threads, one file each; a file that cannot be used
costs its own row and nothing else.

For recognizers that read what is said, the words come from :func:`texts_of_files`, or from a
:class:`Transcriber` that listens to the recording.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from serkit.audio import Waveform
from serkit.features.text import read_text_features
from serkit.inference.files import refuse_folder
from serkit.machine import usable_cores
from serkit.recognizer import Recognizer
from serkit.types import InputError, Prediction

__all__ = [
    "OutputFormat",
    "PredictionRow",
    "Transcriber",
    "format_rows",
    "predict_files",
    "refuse_unread",
    "text_features_of_files",
    "texts_of_files",
]

OutputFormat = Literal["table", "csv", "json", "jsonl"]


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One file: a prediction, or the reason why there is none."""

    file: str
    prediction: Prediction | None
    error: str = ""


class Transcriber(Protocol):
    """Hears what is said: any callable of this form, such as one around a speech recogniser."""

    def __call__(self, waveform: Waveform, sample_rate: int) -> str:
        """Write down what is said.

        Parameters
        ----------
        waveform : (n_samples,), float32 in [-1, 1], at the file's own rate
        sample_rate : Hz
        """
        ...


def texts_of_files(
    files: Sequence[Path], *, text: str | None = None, table: Path | None = None
) -> dict[Path, str] | None:
    """Find what is said in files.

    Parameters
    ----------
    text
        What is said in the one file that there is.
    table
        CSV with the columns ``file`` and ``text``; relative names start at the working directory,
        as those of ``files`` do. Rows of other files are left alone.

    Returns
    -------
    texts : of the files of which they are known; ``None`` if neither ``text`` nor ``table`` is
        given

    Raises
    ------
    InputError
        If both are given, there are several files for one text, or the table cannot be used or
        names none of the files.
    """
    if text is not None and table is not None:
        raise InputError("got --text and --texts: give one of them")
    if text is not None:
        if len(files) != 1:
            raise InputError(
                f"--text says what one file holds, got {len(files)} files: give --texts, a CSV "
                "with the columns file and text"
            )
        return {files[0]: text}
    if table is None:
        return None
    written = _read_texts(table)
    texts = {path: written[_place(path)] for path in files if _place(path) in written}
    if not texts:
        raise InputError(
            f"{table}: none of its {len(written)} rows names one of the {len(files)} files, the "
            f"first of which is {files[0]}: name files as they are given to the command"
        )
    return texts


def refuse_unread(recognizer: Recognizer, option: str, *, has_vectors: bool) -> None:
    """Refuse words that would be left unread.

    Parameters
    ----------
    option
        By which they were given, such as ``--text``.
    has_vectors
        Whether token vectors were given as well.

    Raises
    ------
    InputError
        If the recognizer does not read what is said, or reads the vectors.
    """
    if recognizer.text_encoder is None:
        raise InputError(
            f"{option}: this recognizer hears voices alone and does not read what is said: leave "
            f"{option} out"
        )
    if has_vectors:
        raise InputError(f"got {option} and --text-features: give one of them")


def text_features_of_files(files: Sequence[Path], given: Path | None) -> dict[Path, Path] | None:
    """Find the token vectors of what is said in files.

    Parameters
    ----------
    given
        A ``.npy`` file for the one file that there is, or a folder with one named after each.

    Returns
    -------
    vectors : sound file -> ``.npy`` file, which may be missing; ``None`` if nothing is given

    Raises
    ------
    InputError
        If one file is given for several.
    """
    if given is None:
        return None
    if given.is_dir():
        return {path: given / f"{path.stem}.npy" for path in files}
    if len(files) != 1:
        raise InputError(
            f"--text-features {given}: one file for {len(files)} sound files: give a folder with a "
            ".npy file named after each"
        )
    return {files[0]: given}


def predict_files(
    recognizer: Recognizer,
    files: Sequence[Path],
    *,
    n_workers: int | None = None,
    texts: Mapping[Path, str] | None = None,
    transcribe: Transcriber | None = None,
    text_features: Mapping[Path, Path] | None = None,
) -> Iterator[PredictionRow]:
    """Recognise files, in order, as they are done.

    Parameters
    ----------
    files
        As :func:`serkit.inference.files.collect_files` gives them.
    n_workers
        Files at a time; default: one per core.
    texts
        What is said in each file, for a recognizer that reads it; others leave it unread.
    transcribe
        Asked for what is said in files without a text, if the recognizer reads; called from
        several threads. A row made this way has a note with what it heard.
    text_features
        Files with the token vectors of what is said, read instead of texts; see
        :meth:`serkit.recognizer.Recognizer.predict`.
    """

    def one(path: Path) -> PredictionRow:
        try:
            refuse_folder(path)
            if recognizer.reads_vectors or text_features is not None:
                return PredictionRow(str(path), _predict_vectors(recognizer, path, text_features))
            text = None if texts is None else texts.get(path)
            if recognizer.text_encoder is None or text is not None:
                return PredictionRow(str(path), recognizer.predict_file(path, text=text))
            if transcribe is not None:
                return PredictionRow(str(path), _predict_heard(recognizer, path, transcribe))
            if texts is not None:
                raise InputError(
                    f"{path}: this recognizer reads what is said as well, and no row of the texts "
                    "names this file: add one, with an empty text if nothing is said"
                )
            return PredictionRow(str(path), recognizer.predict_file(path))
        except InputError as error:
            return PredictionRow(str(path), None, str(error))

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the files are the parallelism
    try:
        with ThreadPoolExecutor(n_workers or usable_cores()) as pool:
            yield from pool.map(one, files)
    finally:
        torch.set_num_threads(n_threads)


def _predict_heard(recognizer: Recognizer, path: Path, transcribe: Transcriber) -> Prediction:
    waveform, sample_rate = recognizer.load_sound(path)
    text = transcribe(waveform, sample_rate)
    prediction = recognizer.predict(waveform, sample_rate, name=str(path), text=text)
    return replace(prediction, notes=(*prediction.notes, f"heard: {text}"))


def _predict_vectors(
    recognizer: Recognizer, path: Path, text_features: Mapping[Path, Path] | None
) -> Prediction:
    file = None if text_features is None else text_features.get(path)
    vectors = None if file is None else read_text_features(file)
    return recognizer.predict_file(path, text_features=vectors)


def _read_texts(path: Path) -> dict[str, str]:
    """Read a table of texts, by the place of each file."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not {"file", "text"} <= set(columns):
        raise InputError(
            f"{path}: has the columns {', '.join(columns) or '(none)'}, expected file and text"
        )
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if not row["file"] or row["text"] is None or None in row:
            raise InputError(
                f"{path}, row {number}: expected a file and its text, each in one cell: put a text "
                "with commas in double quotes"
            )
        place = _place(row["file"])
        if texts.setdefault(place, row["text"]) != row["text"]:
            raise InputError(f"{path}, row {number}: another text for {row['file']}: keep one")
    return texts


def _place(name: Path | str) -> str:
    """Spell the place of a file in one way."""
    return os.path.abspath(os.path.expanduser(name))


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
