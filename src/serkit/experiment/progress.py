"""What a run tells while it works."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Quiet"]


class Progress(Protocol):
    """What a run tells while it works; the command line draws bars from it."""

    def stage(self, text: str, total: int) -> None:
        """Begin a step of ``total`` units."""

    def advance(self, done: int) -> None:
        """Tell how much of the step is done."""

    def say(self, line: str) -> None:
        """Tell a fact worth a line."""


class Quiet:
    """Progress that nobody watches."""

    def stage(self, text: str, total: int) -> None:
        """Say nothing."""

    def advance(self, done: int) -> None:
        """Say nothing."""

    def say(self, line: str) -> None:
        """Say nothing."""
