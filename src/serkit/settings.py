"""Settings of parts, checked: a dict from a file becomes a frozen dataclass, or one clear line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from serkit.types import InputError

__all__ = ["checked"]

Settings = TypeVar("Settings")


def checked(kind: type[Settings], values: Mapping[str, Any], *, where: str) -> Settings:
    """Build a settings dataclass from plain values, by its annotations.

    Parameters
    ----------
    kind
        The dataclass.
    values
        Key by key; absent keys take the dataclass's defaults.
    where
        How messages call the table, such as ``model``.

    Raises
    ------
    InputError
        If a key is unknown or missing, or a value is of the wrong kind.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
            raise InputError(f"{where}.{key}: unknown setting; {hint}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join([where, *map(str, problem["loc"])])
        if problem["type"] == "missing":
            raise InputError(f"{key}: missing; give it a value") from None
        got = json.dumps(problem["input"], default=str)
        text = problem["msg"].removeprefix("Value error, ")
        message = text[0].lower() + text[1:]
        raise InputError(f"{key} = {got}: {message}") from None
