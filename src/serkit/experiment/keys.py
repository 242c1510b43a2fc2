"""What can be set in an experiment file: every key with its kind, default and meaning.

The keys of tables such as ``[model]`` are those of the part that the experiment chooses: fields of
its settings' dataclass, whose meaning is what the comments beside the fields, or the ``Attributes``
of the docstring, say.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from serkit.experiment.config import ExperimentConfig, Strict
from serkit.experiment.decomposition.model import FRONT_END
from serkit.experiment.decomposition.run import DecompositionConfig
from serkit.experiment.sentiment.run import SentimentConfig
from serkit.experiment.transcription.run import TranscriptionConfig
from serkit.features import FRONT_ENDS
from serkit.features.fbank import FBANK_PRESETS, FbankConfig
from serkit.features.text import TEXT_ENCODERS, PrecomputedTextConfig
from serkit.features.views import VIEWS
from serkit.models import MODELS
from serkit.models.asr import ASR_MODELS
from serkit.models.self_mm import SelfMmConfig
from serkit.models.speech_split import F0ConverterConfig, SpeechSplitConfig

__all__ = ["explain_keys"]

Table = Mapping[str, Any]

_FRONT_ENDS = {name: kind for name, (_, kind, _) in FRONT_ENDS.items()}
_TEXTS = {name: kind for name, (_, kind) in TEXT_ENCODERS.items()}
_TEXTS["precomputed"] = PrecomputedTextConfig

# Task -> table -> the key that chooses, what it chooses from, and what it is where it is not given.
_CHOICES: dict[type[Strict], dict[str, tuple[str, Mapping[str, type[Any]], str | None]]] = {
    ExperimentConfig: {
        "front_end": ("name", _FRONT_ENDS, None),
        "view": ("kind", VIEWS, None),
        "text": ("name", _TEXTS, None),
        "parts": ("name", _FRONT_ENDS, None),
        "model": ("name", {name: kind for name, (_, kind) in MODELS.items()}, None),
    },
    DecompositionConfig: {
        "front_end": ("name", {FRONT_END: _FRONT_ENDS[FRONT_END]}, FRONT_END),
        "model": (
            "name",
            {"speech_split": SpeechSplitConfig, "f0_converter": F0ConverterConfig},
            "speech_split",
        ),
    },
    SentimentConfig: {
        "text": ("name", _TEXTS, "small"),
        "model": ("name", {"self_mm": SelfMmConfig}, "self_mm"),
    },
    TranscriptionConfig: {
        "front_end": ("name", {"fbank": FbankConfig}, "fbank"),
        "model": ("name", {name: kind for name, (_, kind) in ASR_MODELS.items()}, None),
    },
}
_PRESETS = {"fbank": FBANK_PRESETS} | {name: p for name, (_, _, p) in FRONT_ENDS.items()}


def explain_keys(kind: type[Strict] = ExperimentConfig, given: Table | None = None) -> str:
    """List every key of an experiment file with its kind, default and meaning.

    Parameters
    ----------
    kind
        Settings of its task.
    given
        What an experiment says, as :func:`.config.merge_experiment` gives it: its values are shown
        where they differ from the default, and its model, front ends and view by their own keys.
        ``None``: no experiment is chosen.
    """
    chosen = {} if given is None else _chosen(kind, given)
    lines = list(_explain(kind, "", given or {}, chosen))
    if given is None:
        lines += [
            "Tables that are a dict hold name (view: kind) and settings of what it names, such as "
            "model.name and those of that model: serkit train EXPERIMENT --keys lists them.",
        ]
    if kind is ExperimentConfig:
        lines.append("by_corpus.NAME.<any key>: takes effect when corpus.name is NAME")
    return "\n".join(lines)


def _chosen(kind: type[Strict], given: Table) -> dict[str, tuple[str, str, type[Any]]]:
    """Find what an experiment's tables choose: table -> key, name, settings."""
    chosen = {}
    for table, (key, known, usual) in _CHOICES[kind].items():
        stated = given.get(table) or ({} if usual else None)
        name = str(usual if stated is None else stated.get(key, usual))
        if stated is not None and name in known:
            chosen[table] = key, name, known[name]
    return chosen


def _explain(
    model: type[BaseModel],
    prefix: str,
    given: Any,
    chosen: Mapping[str, tuple[str, str, type[Any]]],
) -> Iterator[str]:
    """Explain the keys of checked settings."""
    for name, field in model.model_fields.items():
        here = given.get(name, MISSING) if isinstance(given, Mapping) else MISSING
        if not prefix and name in chosen:
            yield from _explain_table(name, {} if here is MISSING else here, *chosen[name])
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
        if inner is not None:
            yield from _explain(inner, f"{prefix}{name}.", here, {})
            continue
        settings = next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)
        if settings is not None:
            yield from _explain_fields(settings, f"{prefix}{name}.", here, skip="")
            continue
        default = (
            MISSING
            if field.is_required()
            else field.get_default(call_default_factory=True, validated_data={})
        )
        yield _line(f"{prefix}{name}", field.annotation, default, here, field.description or "")


def _explain_table(
    table: str, given: Table, key: str, name: str, settings: type[Any]
) -> Iterator[str]:
    """Explain a table whose keys are those of what it chooses."""
    yield f"{table}.{key}  here {name!r}, whose settings are"
    here = dict(given)
    presets = _PRESETS.get(name, {})
    if key == "name" and presets:
        preset = here.pop("preset", None)
        note = f"one of {', '.join(presets)}: values for the keys below"
        yield _line(f"{table}.preset", str | None, None, preset, note)
        if preset in presets:
            here = asdict(presets[preset]) | here
    yield from _explain_fields(settings, f"{table}.", here, skip=key)


def _explain_fields(settings: type[Any], prefix: str, given: Any, *, skip: str) -> Iterator[str]:
    """Explain the fields of a dataclass of settings."""
    kinds, notes = get_type_hints(settings), _notes(settings)
    for field in fields(settings):
        if field.name == skip:
            continue
        here = given.get(field.name, MISSING) if isinstance(given, Mapping) else MISSING
        if is_dataclass(kinds[field.name]):
            yield from _explain_fields(kinds[field.name], f"{prefix}{field.name}.", here, skip="")
            continue
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        note = notes.get(field.name, "")
        yield _line(f"{prefix}{field.name}", kinds[field.name], default, here, note)


def _line(key: str, annotation: Any, default: Any, here: Any, note: str) -> str:
    words = [_words(annotation), "required" if default is MISSING else f"default {default!r}"]
    plain = list(default) if isinstance(default, tuple) else default
    if here is not MISSING and here not in (default, plain):
        words.append(f"here {here!r}")
    return f"{key}  ({'; '.join(words)})" + (f"  {note}" if note else "")


def _words(annotation: Any) -> str:
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_words, get_args(annotation)))
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__.replace("NoneType", "None")
    return str(annotation).replace("typing.", "")


def _notes(settings: type[Any]) -> dict[str, str]:
    """Read what the source of a dataclass says of its fields; nothing where there is no source."""
    try:
        lines = inspect.getsource(settings).splitlines()
    except OSError:
        return {}
    notes = dict(_attributes(inspect.getdoc(settings) or ""))
    (body,) = ast.parse("\n".join(lines)).body
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            said = [line.strip() for line in lines[above : node.lineno - 1]]
            said.append(lines[(node.end_lineno or 0) - 1][node.end_col_offset :].strip())
            words = " ".join(part.lstrip("# ") for part in said if part.startswith("#"))
            if words:
                notes[node.target.id] = words
    return notes


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """Read the section ``Attributes`` of a docstring in NumPy form."""
    _, _, section = docstring.partition("Attributes\n----------\n")
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?: +\S.*\n?|\n(?= ))+)", section, re.MULTILINE):
        for name in names.split(","):
            plain = re.sub(r":\w+:`[~.]*([^`]*)`", r"\1", text).replace("``", "'")
            yield name.strip(), " ".join(plain.split())
