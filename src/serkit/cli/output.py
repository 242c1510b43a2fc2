"""What the verbs print: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from serkit.types import InputError

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = [
    "Bars",
    "fail_if_any",
    "print_json",
    "print_result",
    "print_table",
    "require_writable",
    "write",
]


class Bars:
    """Progress on standard error: bars with time left on a terminal, plain facts elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.progress: Any = None
        self.task: TaskID | None = None

    def __enter__(self) -> Bars:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left:"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def stage(self, text: str, total: int) -> None:
        """Begin a stage of ``total`` steps."""
        if self.progress is not None:
            self.task = self.progress.add_task(text, total=total)
        elif not self.quiet:
            print(text, file=sys.stderr)

    def advance(self, done: int) -> None:
        """So many steps of the stage are done."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done)

    def say(self, line: str) -> None:
        """Print a line beside the bars."""
        if self.quiet:
            return
        if self.progress is not None:
            self.progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr)


def require_writable(option: str, out: Path | None) -> None:
    """Refuse a file that cannot be written, before there is anything to write.

    Raises
    ------
    InputError
        If it is a folder, or in none.
    """
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "is a folder" if out.is_dir() else "is in a folder that does not exist"
        raise InputError(f"{option} {out}: {what}: name a file")


def write(table: str, out: Path | None) -> None:
    """Write a table to the screen or into a file."""
    if out is None:
        sys.stdout.write(table)
        return
    try:
        out.write_text(table, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None


def fail_if_any(errors: Sequence[str], n: int) -> None:
    """Say how many files failed, and end with exit code 2 if any did."""
    if errors:
        print(
            f"serkit: {len(errors)} of {n} files could not be used; first: {errors[0]}",
            file=sys.stderr,
        )
        raise typer.Exit(2)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


class Result(Protocol):
    """What a verb has done, for programs and for people."""

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain objects."""
        ...

    def lines(self) -> list[str]:
        """Give it as sentences."""
        ...


def print_result(result: Result, *, as_json: bool) -> None:
    """Print what was done: JSON for programs, else sentences."""
    if as_json:
        print_json(result.to_dict())
    else:
        for line in result.lines():
            print(line)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print records as an aligned table; the last column takes what room is left."""
    if not rows:
        return
    header = list(rows[0])
    lines = [header, *([str(row[h]) for h in header] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
