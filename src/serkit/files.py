"""Files that are replaced in one step: a reader meets the old content or the new, never half of it.

The new content is written beside the file, under a name that no other process or thread has, and
then takes the file's place. It has the permissions of any new file.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_atomically"]


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give the path of an empty file; what the block makes of it takes the place of ``path``.

    Where the block fails, ``path`` stays as it was and nothing is left beside it.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # some writers make files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path | str, content: str | bytes) -> None:
    """Replace a file's content; text is written as UTF-8, its line ends as they are.

    Raises
    ------
    OSError
        If the folder does not exist or cannot be written to.
    """
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
