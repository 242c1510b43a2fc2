"""Experiment files: strict TOML, one base, one difference.

An experiment file states only what differs from its ``base``, which is a preset that ships with
serkit (``timnet/speaker-independent``) or another file, relative to the one that names it. Several
bases are laid over each other in their order: ``base = ["moe/honest", "networks/level-0"]``, on the
command line ``moe/honest+networks/level-0``. Presets in a folder of :data:`FRAGMENTS` hold what is
theirs alone, a network, and need another one below them.

Layers are laid over each other from the bottom: the base with what it says for this corpus
(``[by_corpus.NAME]``), then the file, then what the file says for this corpus, then ``--set
a.b=c``. Tables merge key by key, except that a table which names another ``split``, ``name`` or
``kind`` than the layer below replaces it: settings of one protocol or model mean nothing to
another.

Every key is checked; an unknown one is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from serkit.features.normalise import Normalise
from serkit.training.loop import TrainingConfig
from serkit.training.objectives import Term
from serkit.transcripts import CtcStyle
from serkit.types import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AugmentedConfig",
    "ConfigError",
    "CorpusConfig",
    "CtcConfig",
    "ExperimentConfig",
    "LabelsConfig",
    "ProtocolConfig",
    "Seeds",
    "Strict",
    "check_experiment",
    "experiment_from_table",
    "load_experiment",
    "merge_experiment",
    "parse_toml",
    "preset_names",
]

Table = dict[str, Any]

_DISCRIMINATORS = ("split", "name", "kind")

FRAGMENTS = ("networks", "variants")  # folders of presets that are to be laid over another


class ConfigError(InputError):
    """An experiment file that cannot be used; the message names the file and the key."""


class Strict(BaseModel):
    """Settings of which every key is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)


StrictConfig = TypeVar("StrictConfig", bound=Strict)


class CorpusConfig(Strict):
    """Which utterances."""

    name: str | None = Field(default=None, description="key of a corpus, as 'serkit corpora' lists")
    root: str | None = Field(
        default=None, description="its folder; relative to --corpora. Default: a folder of its name"
    )
    manifest: str | None = Field(
        default=None, description="a manifest or table of utterances, instead of name and root"
    )
    features: str | None = Field(
        default=None,
        description="a feature file of TIM-Net's authors, such as CASIA.npy, used instead of sound",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="options of the reader")
    allow_incomplete: bool = Field(
        default=False, description="go on with a copy that differs from the release, and say so"
    )


class LabelsConfig(Strict):
    """Which classes."""

    keep: tuple[str, ...] | None = Field(default=None, description="classes to keep; default: all")
    map: dict[str, str] = Field(default_factory=dict, description="merge classes before keeping")
    multi: bool = Field(
        default=False, description="several classes may hold at once, joined by '+' in the corpus"
    )


class CtcConfig(Strict):
    """What a CTC layer learns to spell."""

    symbols: str = Field(
        default="wav2vec2",
        description="wav2vec2 (its 32), corpus (the characters of its transcripts) or a vocab.json",
    )
    style: CtcStyle = Field(
        default="spoken", description="what is cleaned from a transcript; see serkit.transcripts"
    )


class AugmentedConfig(Strict):
    """Other views of the utterances that are trained on, for losses that compare views."""

    audio: str | None = Field(
        default=None,
        description="folder of sounds, each named <voice>_<utterance id> or <utterance id>, or in "
        "a folder named by the id",
    )
    texts: str | None = Field(
        default=None, description="CSV with the columns id and text; an id may have several rows"
    )
    make: dict[str, Any] | None = Field(
        default=None,
        description="sounds made from the utterance's own: n_views, effects, probability, ranges "
        "and impulses; see serkit.augment",
    )
    make_texts: dict[str, Any] | None = Field(
        default=None,
        description="texts made from transcripts: kind (drop_words, swap_words, function, command),"
        " n_views, share; see serkit.experiment.view_makers",
    )
    speak: dict[str, Any] | None = Field(
        default=None,
        description="texts said in other voices: back_end (espeak, module:function), voices, texts",
    )
    text_features: str | None = Field(
        default=None,
        description="folder or .npz of token vectors of other texts, by utterance id, for text.name"
        " = precomputed",
    )
    voices: Literal["training", "any"] = Field(
        default="training",
        description="training: no fold hears sounds in the voice of its dev or test speakers",
    )

    @property
    def names_views(self) -> bool:
        """Tell whether there are to be any; a preset may only say in whose voices."""
        tables = (self.make, self.make_texts, self.speak)
        return any(one is not None for one in (self.audio, self.texts, self.text_features, *tables))


class ProtocolConfig(Strict):
    """Who is trained on, selected by, judged by; see docs/protocols.md."""

    split: str = "leave_one_speaker_out"
    n_folds: int | None = Field(default=None, ge=2)
    n_sentence_folds: int = Field(default=2, ge=2)
    split_seed: int = Field(default=0, ge=0, description="shuffles random splits, nothing else")
    dev: str | None = Field(default=None, description="dev rule; default: the split's own")
    n_dev: int = Field(default=1, ge=1, description="speakers or sentences in the dev part")
    dev_fraction: float = Field(default=0.1, gt=0, lt=1)
    folds_file: str | None = Field(default=None, description="folds.csv to use instead of a split")
    only: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="names of the folds to run; default: all"
    )


def _refuse_repeated_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("holds a seed twice, whose members would be the same")
    return seeds


Seeds = Annotated[tuple[int, ...], AfterValidator(_refuse_repeated_seeds)]


class ExperimentConfig(Strict):
    """A whole experiment: all folds x seeds of one claim."""

    task: Literal["emotion"] = "emotion"
    name: str
    title: str = ""
    system: str
    seeds: Seeds = Field(default=(1,), min_length=1, description="one member per fold for each")
    corpus: CorpusConfig
    test_corpus: CorpusConfig | None = Field(
        default=None, description="second corpus, for the split cross_corpus"
    )
    labels: LabelsConfig = LabelsConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    front_end: dict[str, Any]
    view: dict[str, Any]
    normalise: Normalise = "none"
    text: dict[str, Any] | None = Field(
        default=None, description="text encoder, for models that read what is said as well"
    )
    ctc: CtcConfig | None = Field(
        default=None, description="give models with a CTC layer the transcripts to spell"
    )
    parts: dict[str, Any] | None = Field(
        default=None,
        description="second front end, for models that read spectrogram and pitch as well",
    )
    pitch_norm: Literal["utterance", "speaker", "corpus"] = Field(
        default="utterance",
        description="whose mean and spread the pitch of [parts] is scaled by: the utterance's own, "
        "those of all its speaker's utterances (the utterance's own in prediction), or the "
        "training part's",
    )
    parts_from: str | None = Field(
        default=None,
        description="run folder or checkpoint of a trained decomposition, from whose weights the "
        "model's encoders and decoder start",
    )
    augmented: AugmentedConfig | None = Field(
        default=None, description="other views of utterances, for losses that compare views"
    )
    model: dict[str, Any]
    objective: tuple[Term, ...] = (Term(),)
    training: TrainingConfig = TrainingConfig()
    refit: bool = Field(
        default=True, description="after the folds, train one recognizer on everything, to be used"
    )

    @property
    def run_name(self) -> str:
        """Name of the default run folder: the experiment's, with the corpus if that is not in it.

        Presets are named after their protocol alone and used with many corpora.
        """
        corpus = self.corpus.name or Path(str(self.corpus.manifest)).stem
        return self.name if corpus in self.name else f"{self.name}-{corpus}"


def preset_names(*, fragments: bool = False) -> list[str]:
    """Names of the experiments that ship with serkit, such as ``timnet/speaker-independent``.

    With ``fragments`` those that need another below them, such as ``networks/level-0``.
    """
    root = resources.files("serkit.experiment") / "presets"
    return sorted(
        f"{system.name}/{file.name.removesuffix('.toml')}"
        for system in root.iterdir()
        if system.is_dir() and (system.name in FRAGMENTS) == fragments
        for file in system.iterdir()
        if file.name.endswith(".toml")
    )


def load_experiment(
    path_or_preset: Path | str, *, overrides: Sequence[str] = ()
) -> ExperimentConfig:
    """Read an experiment.

    Parameters
    ----------
    path_or_preset
        A TOML file, or the name of a preset; several joined by ``+`` are laid over each other, and
        the later ones are added to the experiment's name.
    overrides
        ``key.key=value`` strings; values are TOML, and bare words are strings.

    Raises
    ------
    ConfigError
        If a file is missing or not TOML, a key is unknown, a value is of the wrong kind, or the
        experiment names no corpus.
    """
    merged = merge_experiment(path_or_preset, overrides=overrides)
    return check_experiment(merged, ExperimentConfig, source=str(path_or_preset))


def merge_experiment(path_or_preset: Path | str, *, overrides: Sequence[str] = ()) -> Table:
    """Lay the layers of an experiment of any task over each other; see :func:`load_experiment`.

    Raises
    ------
    ConfigError
        If a file is missing or not TOML, or an override cannot be read.
    """
    first, *others = str(path_or_preset).split("+")
    if str(path_or_preset).endswith(".toml"):  # whose path may hold a +
        first, others = str(path_or_preset), []
    if first in preset_names(fragments=True):
        raise ConfigError(
            f"{first}: holds a network alone: lay it over an experiment, as in moe/honest+{first}"
        )
    layers = [
        layer for one in (first, *others) for layer in _layers(one, relative_to=None, seen=())
    ]
    added = [one.rpartition("/")[2] for one in others]
    return _merge(layers, added=added, overrides=overrides)


def experiment_from_table(
    table: Mapping[str, Any], *, source: str, overrides: Sequence[str] = ()
) -> ExperimentConfig:
    """Read an experiment that is a table already, such as one translated from other settings.

    Parameters
    ----------
    table
        As a file would hold it; bases that are files are relative to the working directory.
    source
        How messages call it.
    overrides
        As of :func:`load_experiment`.

    Raises
    ------
    ConfigError
        As :func:`load_experiment` does.
    """
    layers = _with_bases(source, dict(table), folder=None, seen=())
    merged = _merge(layers, added=(), overrides=overrides)
    return check_experiment(merged, ExperimentConfig, source=source)


def _merge(
    layers: list[tuple[str, Table]], *, added: Sequence[str], overrides: Sequence[str]
) -> Table:
    """Lay layers over each other, the deepest first."""
    last = _override_table(overrides)
    corpus = _corpus_key([table for _, table in layers] + [last])
    merged: Table = {}
    for layer, table in layers:
        by_corpus = table.pop("by_corpus", {})
        if not isinstance(by_corpus, dict):
            raise ConfigError(f"{layer}: by_corpus must be a table of corpora")
        merged = _lay_over(merged, table)
        merged = _lay_over(merged, by_corpus.get(corpus, {}))
    if added:
        merged["name"] = "-".join([str(merged["name"]), *added])
    return _lay_over(merged, last)


def check_experiment(
    merged: Mapping[str, Any], kind: type[StrictConfig], *, source: str
) -> StrictConfig:
    """Check every key of an experiment.

    Parameters
    ----------
    kind
        Settings of its task.
    source
        How messages call it.

    Raises
    ------
    ConfigError
        If a key is unknown or missing, or a value is of the wrong kind.
    """
    if "corpus" not in merged and "corpus" in kind.model_fields:
        raise ConfigError(
            f"{source}: names no corpus: add [corpus] name = ... or --set corpus.name=emodb"
        )
    try:
        config = kind.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_problem(error, kind)}") from None
    corpus = getattr(config, "corpus", None)
    if corpus is not None and corpus.name is None and corpus.manifest is None:
        raise ConfigError(f"{source}: corpus.name or corpus.manifest is needed")
    if isinstance(config, ExperimentConfig):
        _refuse_contradictions(config, source)
    return config


def _refuse_contradictions(config: ExperimentConfig, source: str) -> None:
    second = config.test_corpus
    if second is not None and (config.corpus.features or second.features):
        raise ConfigError(
            f"{source}: corpus.features cannot be joined with a second corpus: leave out "
            "test_corpus, or take the sound of both"
        )
    if config.corpus.features and (config.corpus.name is None or config.corpus.manifest):
        raise ConfigError(
            f"{source}: corpus.features goes with corpus.name, whose classes give the labels, and "
            "not with corpus.manifest"
        )
    if config.front_end.get("name") == "none" and config.training.batch_seconds is not None:
        raise ConfigError(
            f"{source}: training.batch_seconds is {config.training.batch_seconds:g}, but "
            "front_end.name = 'none' hears nothing and has no seconds: set training.batch_size "
            "instead"
        )


def _layers(
    name: str, *, relative_to: Path | None, seen: tuple[str, ...]
) -> list[tuple[str, Table]]:
    """Collect an experiment's files, the deepest base first."""
    if name in seen:
        raise ConfigError(f"{name}: names itself as base ({' -> '.join([*seen, name])})")
    path = Path(name) if relative_to is None else relative_to / name
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"{path}: no such experiment file{_hint(name)}")
        text, folder = path.read_text(encoding="utf-8"), path.parent
    elif name in preset_names() + preset_names(fragments=True):
        preset = resources.files("serkit.experiment") / "presets" / f"{name}.toml"
        text, folder = preset.read_text(encoding="utf-8"), None
    else:
        raise ConfigError(
            f"no experiment '{name}': expected a .toml file, a preset (serkit train --list shows "
            f"them), or several joined by +{_hint(name)}"
        )
    return _with_bases(name, parse_toml(text, source=name), folder=folder, seen=seen)


def parse_toml(text: str, *, source: object, advice: str = "") -> Table:
    """Parse TOML.

    Raises
    ------
    ConfigError
        If it is none; the message names the source and ends with the advice.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML ({error}){advice}") from None


def _with_bases(
    name: str, table: Table, *, folder: Path | None, seen: tuple[str, ...]
) -> list[tuple[str, Table]]:
    """Put the bases that a table names below it."""
    base = table.pop("base", [])
    below = [
        layer
        for one in (base if isinstance(base, list) else [base])
        for layer in _layers(
            str(one),
            relative_to=folder if str(one).endswith(".toml") else None,
            seen=(*seen, name),
        )
    ]
    return [*below, (name, table)]


def _hint(name: str) -> str:
    known = preset_names() + preset_names(fragments=True)
    near = [preset for preset in known if preset.startswith(f"{name.rstrip('/')}/")]
    near = near or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _corpus_key(tables: Sequence[Table]) -> str | None:
    """Find the corpus that the topmost layer names."""
    from serkit.corpora import ALIASES

    for table in reversed(tables):
        corpus = table.get("corpus")
        if isinstance(corpus, dict) and isinstance(corpus.get("name"), str):
            key = str(corpus["name"]).strip().lower()
            return ALIASES.get(key, key)
    return None


def _lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """Merge two tables; see the module's page."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            renamed = any(
                d in value and d in under and value[d] != under[d] for d in _DISCRIMINATORS
            )
            merged[key] = dict(value) if renamed else _lay_over(under, value)
        else:
            merged[key] = value
    return merged


def _override_table(overrides: Sequence[str]) -> Table:
    table: Table = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(
                f"--set {override}: expected key.key=value, such as training.epochs=50"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        inner = table
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"--set {override}: '{part}' was already set to a value")
        inner[parts[-1]] = value
    return table


def _first_problem(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say the first problem of a validation in one line."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1], kind)
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
        return f"unknown key '{where}'{hint}"
    if problem["type"] == "missing":
        return f"key '{where}' is missing: state it, or a base that does (base = 'timnet/base')"
    got = json.dumps(problem["input"], default=str)
    text = problem["msg"].removeprefix("Value error, ")
    message = text[0].lower() + text[1:]
    return f"{where} = {got}: {message}" if where else message  # of the whole file


def _known_keys(location: Sequence[int | str], kind: type[BaseModel]) -> list[str]:
    model: Any = kind
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[str(part)].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return sorted(model.model_fields)
