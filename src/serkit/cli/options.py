"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["CorporaDir", "Jobs", "Json"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CorporaDir = Annotated[
    Optional[Path],
    typer.Option("--corpora", envvar="SERKIT_CORPORA", help="Folder that holds the corpora."),
]

Jobs = Annotated[
    Optional[int],
    typer.Option(
        min=1, help="Members (a fold with a seed) trained side by side. Default: one per core."
    ),
]
