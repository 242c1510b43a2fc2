"""Settings of the public mixture-of-experts code, translated into an experiment.

``adbailey1/moe`` keeps its settings in a Python file, ``configs/config.py``. The same names and
values as TOML, flat or in tables, are taken here; what is missing has that file's value. Names
that only the code of 2022 has (``MoE``, ``CLASS_WEIGHTS``, ...) choose ``moe/published-2022``,
otherwise the preset is ``moe/published-2025``. ``docs/moe.md`` lists the names.

Settings that contradict each other are refused. What the code itself ignores, or does otherwise
than one would think, becomes a note.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, StrictBool, StrictInt

from serkit.experiment.config import (
    ConfigError,
    ExperimentConfig,
    experiment_from_table,
    parse_toml,
)
from serkit.files import write_atomically
from serkit.models.expert_fusion import Backbone
from serkit.settings import checked
from serkit.types import InputError

__all__ = [
    "Translation",
    "import_config",
    "load_legacy_experiment",
    "read_legacy",
    "translate",
]

Table = dict[str, Any]
Version = Literal["2022", "2025"]

_RATE = 16_000
_VALIDATION_OVERLAP = 1.6
_LONGEST_S = 3600  # of a segment
_HIGHEST_SCORE = 3  # of an emotion in CMU-MOSEI

# Names of 2022 -> what they are called in 2025.
_NAMES_OF_2022 = {
    "ATTENTION_HEADS": "attention_head",
    "ATTENTION_HIDDEN": "attention_hidden",
    "CLASS_WEIGHTS": "USE_WEIGHTS_FOR_LOSS",
    "CLIP_LENGTH": "T_STRIDE",
    "MoE": "MIXTUREOFEXPERTS",
    "SESSION_TYPE": "impro_or_script",
    "TRAINING_OVERLAP": "T_OVERLAP",
    "VALIDATION_OVERLAP": "VAL_OVERLAP",
}
_NEW_IN_2025 = (
    "ACTIVATION",
    "EMO_THRESHOLD",
    "FC_BIAS",
    "LIKE_IEMOCAP",
    "SAVE_IND_EXPERTS",
    "SKIP_FINAL_FC",
    "SPEAKER_IND",
)
# Settings of the front end, which the preset has: name -> the value it stands for.
_FRONT_END = {
    "FEATURES_TO_USE": "mfcc",
    "HOP_SIZE": 512,
    "N_MFCC": 26,
    "RATE": _RATE,
    "WINDOW_SIZE": 2048,
}
_NEVER_READ = (
    "ALPHA_MAIN",
    "REPEAT_EXP",
    "SHOW_T_SNE",
    "TOLERANCES",
    "USE_LOSS_TO_DETERMINE_BEST_EPOCH",
)
_PLACES = (
    "EXP_DIR",
    "FEATURE_LOC",
    "SAVE_LOC",
    "SEGMENTED_AUDIO_LOCATION",
    "SEGMENTED_LABELS",
    "WAV_PATH",
)
_DERIVED = (
    "CLASS_DICT",
    "CLASS_DICT_IDX",
    "FEATURESFILENAME",
    "FOLD_FILENAME",
    "LABEL_NUM",
    "NUM_SESSIONS",
)

_CORPORA = {"cmu": "cmu_mosei", "iemocap": "iemocap", "ravdess": "ravdess"}
_STYLES = {"impro": "improvised", "script": "scripted", "all": "all", "both": "all"}
# Codes of emotions; the two versions of the code rename IEMOCAP's files differently.
_CODES_OF_RAVDESS = "neutral calm happy sad angry fear disgust surprise".split()
_CODES_OF_IEMOCAP = {
    "2022": "neutral frustrated happy excited sad angry fear surprise disgust other".split(),
    "2025": "neutral frustrated happy sad angry fear excited surprise - other disgust".split(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What an experiment follows from; names and defaults are those of the code of 2025."""

    MIXTUREOFEXPERTS: StrictBool = False
    FUSION_LEVEL: StrictInt = 0
    SKIP_FINAL_FC: StrictBool = True
    FC_BIAS: StrictBool = True
    ACTIVATION: str = "Sigmoid"
    SAVE_IND_EXPERTS: StrictBool = False
    LIKE_IEMOCAP: StrictBool = False
    MODEL_NAME: str = "test"
    MODEL_TYPE: Literal["MACNN", "MACNN_x4", "LightSERNet"] = "MACNN"
    DATASET: Literal["iemocap", "cmu", "ravdess"] = "iemocap"
    DATASET_PATH: str | None = None
    NUM_FOLDS: StrictInt = 5
    BATCH_SIZE: StrictInt | None = None
    EPOCHS: StrictInt | None = None
    SEEDS: Annotated[tuple[StrictInt, ...], Field(min_length=1)] | None = None
    USE_WEIGHTS_FOR_LOSS: StrictBool = False
    LEARNING_RATE: float | None = None
    WEIGHT_DECAY: float | None = None
    T_STRIDE: Annotated[FiniteFloat, Field(gt=0, le=_LONGEST_S)] = 2.0
    T_OVERLAP: Annotated[FiniteFloat, Field(ge=0)] | None = None
    VAL_OVERLAP: Annotated[FiniteFloat, Field(ge=0)] = _VALIDATION_OVERLAP
    SPEAKER_IND: StrictBool = False
    RUN_INFERENCE: Literal["Validation", "Test"] = "Validation"
    SKIP_TRAIN: StrictBool = False
    attention_head: Annotated[StrictInt, Field(gt=0)] = 4
    attention_hidden: Annotated[StrictInt, Field(gt=0)] = 64
    acc_type: Literal["average_no_softmax", "average_softmax", "majority_vote"] = (
        "average_no_softmax"
    )
    overlapTime: dict[str, float] | None = None  # noqa: N815  (the code's name)
    impro_or_script: Literal["impro", "script", "all", "both"] = "impro"
    EMOTIONS_TO_USE: dict[str, str] | None = None
    EMO_THRESHOLD: Annotated[FiniteFloat, Field(gt=0, lt=_HIGHEST_SCORE)] = 0.5

    @property
    def several_labels(self) -> bool:
        """Whether a clip may have several classes."""
        return self.DATASET == "cmu" and not self.LIKE_IEMOCAP


_SETTINGS = tuple(_Settings.__dataclass_fields__)
_KNOWN = (*_SETTINGS, *_NAMES_OF_2022, *_FRONT_END, *_NEVER_READ, *_PLACES, *_DERIVED)


@dataclass(frozen=True, slots=True)
class _Network:
    """Backbone and fusion level; ``None``: the backbone alone, -1: at twice its width."""

    backbone: Backbone
    level: int | None

    @property
    def has_experts(self) -> bool:
        """Whether experts give logits of their own."""
        return self.level is not None and self.level >= 0

    def presets(self) -> list[str]:
        """Name what is laid over the protocol."""
        names = ["light-sernet-port"] if self.backbone == "light_sernet_port" else []
        if self.level is not None:
            kind = "forward" if self.level > 0 else "backward"
            named = {-1: "x4", 0: "level-0"}
            names.append(named.get(self.level, f"{kind}-{abs(self.level)}"))
        return [f"networks/{name}" for name in names]


@dataclass(frozen=True, slots=True)
class Translation:
    """An experiment as a table, and what is to be known about it, one sentence each."""

    table: Table
    notes: tuple[str, ...]

    def to_toml(self, *, source: str) -> str:
        """Write it as an experiment file; the notes are comments above it."""
        comments = [f"Translated from {source}.", *(f"Note: {note}." for note in self.notes)]
        lines = (" ".join(comment.split()) for comment in comments)  # settings may hold breaks
        return "".join(f"# {line}\n" for line in lines) + _toml(self.table)


def read_legacy(path: Path) -> Translation:
    """Read a file of such settings and translate it.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML, or :func:`translate` refuses what it holds.
    """
    advice = ": write the settings of config.py as TOML, such as MIXTUREOFEXPERTS = true"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}){advice}") from None
    settings = parse_toml(text, source=path, advice=advice)
    try:
        return translate(settings)
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_legacy_experiment(
    path: Path, *, overrides: Sequence[str] = ()
) -> tuple[ExperimentConfig, tuple[str, ...]]:
    """Read a file of such settings as an experiment, with the notes of its translation.

    Raises
    ------
    ConfigError
        As :func:`read_legacy`, or if an override cannot be used.
    """
    translation = read_legacy(path)
    config = experiment_from_table(translation.table, source=str(path), overrides=overrides)
    return config, translation.notes


def import_config(path: Path, out: Path | None) -> tuple[str, tuple[str, ...]]:
    """Translate a file into an experiment file.

    Parameters
    ----------
    out
        The experiment file to write; ``None``: none is written.

    Returns
    -------
    text, notes
        Content of the experiment file.

    Raises
    ------
    InputError
        If the file cannot be used (see :func:`read_legacy`), or ``out`` exists or cannot be
        written.
    """
    if out is not None and out.exists():
        raise InputError(f"{out}: already exists: remove it, or name another file")
    translation = read_legacy(path)
    experiment_from_table(translation.table, source=str(path))  # a number may be out of range
    text = translation.to_toml(source=path.name)
    if out is not None:
        try:
            write_atomically(out, text)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    return text, translation.notes


def translate(settings: Mapping[str, Any]) -> Translation:
    """Translate the code's settings.

    Parameters
    ----------
    settings
        By the code's names, flat or in tables.

    Raises
    ------
    InputError
        If a name is unknown or stated twice, a value is of the wrong kind, settings contradict each
        other, or ask for what serkit has not.
    """
    flat = _flat(settings)
    version = _version(flat)
    named = {_NAMES_OF_2022.get(name, name): value for name, value in flat.items()}
    legacy = checked(
        _Settings, {k: v for k, v in named.items() if k in _SETTINGS}, where="settings"
    )
    legacy = replace(legacy, ACTIVATION=_bare(legacy.ACTIVATION))
    _refuse_what_has_no_counterpart(legacy, flat, version)
    network = _network(legacy)
    table: Table = {
        "base": [f"moe/published-{version}", *network.presets()],
        "name": legacy.MODEL_NAME,
    }
    if legacy.SEEDS is not None:
        table["seeds"] = list(legacy.SEEDS)
    parts = {
        "corpus": _corpus(legacy),
        "labels": _labels(legacy, version),
        "protocol": _protocol(legacy, version),
        "view": _view(legacy, version),
        "model": _model(legacy, network),
        "training": _training(legacy),
        "objective": _objective(legacy, network, version),
    }
    table |= {name: part for name, part in parts.items() if part}
    return Translation(table, tuple(_notes(legacy, network, version, flat)))


def _flat(settings: Mapping[str, Any]) -> Table:
    """Take settings out of their tables; tables that are values themselves stay."""
    flat: Table = {}
    for name, value in settings.items():
        if name in _KNOWN:
            found = {name: value}
        elif isinstance(value, Mapping):
            found = _flat(value)
        else:
            # The code's names come in either case, and so do slips.
            by_lower = {known.lower(): known for known in _KNOWN}
            near = difflib.get_close_matches(name.lower(), by_lower, n=1)
            hint = f"did you mean {by_lower[near[0]]}?" if near else f"known: {', '.join(_KNOWN)}"
            raise InputError(f"{name}: not a setting of the code; {hint}")
        for one in found:
            if one in flat:
                raise InputError(f"{one} is stated twice: keep one")
        flat |= found
    return flat


def _version(flat: Table) -> Version:
    old = [name for name in flat if name in _NAMES_OF_2022]
    new = [name for name in flat if name in (*_NAMES_OF_2022.values(), *_NEW_IN_2025)]
    if old and new:
        raise InputError(
            f"{old[0]} is a setting of the code of 2022 and {new[0]} one of 2025: keep to one "
            "version"
        )
    return "2022" if old else "2025"


def _bare(activation: str) -> str:
    """Take the name of a class out of ``nn.Sigmoid()``."""
    return activation.strip().removesuffix("()").rpartition(".")[2]


def _refuse_what_has_no_counterpart(legacy: _Settings, flat: Table, version: Version) -> None:
    for name, expected in _FRONT_END.items():
        if flat.get(name, expected) != expected:
            raise InputError(
                f"{name} = {flat[name]}: the preset is made for {expected}; leave it out, and "
                "change keys of front_end in the translated experiment (serkit import-config)"
            )
    name = legacy.MODEL_NAME
    if not name.strip() or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"MODEL_NAME = {name!r}: the run folder has this name; expected a name without "
            "separators, such as 'test'"
        )
    if len(set(legacy.SEEDS or ())) < len(legacy.SEEDS or ()):
        raise InputError(f"SEEDS = {list(legacy.SEEDS or ())}: holds a seed twice; keep one")
    if legacy.SKIP_TRAIN:
        raise InputError(
            "SKIP_TRAIN = true trains nothing: a finished run is judged again by 'serkit report "
            "RUN', and 'serkit predict' uses its recognizer; leave SKIP_TRAIN out to train"
        )
    for emotion, factor in (legacy.overlapTime or {}).items():
        if factor != 1:
            raise InputError(
                f"overlapTime.{emotion} = {factor:g}: a hop of its own for each class is not "
                "supported: leave overlapTime out, or weigh the classes (USE_WEIGHTS_FOR_LOSS)"
            )
    if legacy.USE_WEIGHTS_FOR_LOSS and legacy.several_labels:
        raise InputError(
            "USE_WEIGHTS_FOR_LOSS = true: the code has no class weights for clips of several "
            "classes; leave it out, or set LIKE_IEMOCAP = true"
        )
    if version == "2022":
        for name, value in (("DATASET", "cmu"), ("MODEL_TYPE", "LightSERNet")):
            if getattr(legacy, name) == value:
                raise InputError(
                    f"{name} = {value} came to the code in 2025, after "
                    f"{', '.join(n for n in flat if n in _NAMES_OF_2022)}: use the names of 2025"
                )


def _network(legacy: _Settings) -> _Network:
    """Find backbone and level.

    Raises
    ------
    InputError
        If there is no such network, or the code would train another one than the level says.
    """
    level, mixture, kind = legacy.FUSION_LEVEL, legacy.MIXTUREOFEXPERTS, legacy.MODEL_TYPE
    backbone: Backbone = "light_sernet_port" if kind == "LightSERNet" else "macnn"
    if kind == "MACNN_x4":
        if mixture or level not in (0, -1):
            raise InputError(
                "MODEL_TYPE = MACNN_x4 is one network without experts: leave MIXTUREOFEXPERTS "
                "and FUSION_LEVEL out, or choose MODEL_TYPE = MACNN"
            )
        return _Network(backbone, -1)
    doubled = {"macnn": -1, "light_sernet_port": 22}[backbone]
    if level in (-1, 22):
        if mixture:
            raise InputError(
                f"FUSION_LEVEL = {level} is a network of twice the width without experts, and "
                "MIXTUREOFEXPERTS is true, for which the code builds none: set MIXTUREOFEXPERTS = "
                "false, or a level of 0 to 6 or -7 to -2"
            )
        if level != doubled:
            raise InputError(
                f"FUSION_LEVEL = {level}: the network of twice the width is {doubled} for "
                f"MODEL_TYPE = {kind}"
            )
        return _Network(backbone, -1)
    if not -7 <= level <= 6:
        instead = "; merging after stage 7 is level 0 with SKIP_FINAL_FC = false" * (level == -8)
        raise InputError(
            f"FUSION_LEVEL = {level}: expected 0 (mixture of experts), 1 to 6 (forward fusion), "
            f"-7 to -2 (backward fusion) or, without experts, {doubled} (twice the width){instead}"
        )
    if not mixture and level != 0:
        raise InputError(
            f"FUSION_LEVEL = {level} needs MIXTUREOFEXPERTS = true; without it the code trains the "
            "plain network: set it, or FUSION_LEVEL = 0"
        )
    return _Network(backbone, level if mixture else None)


def _corpus(legacy: _Settings) -> Table:
    corpus: Table = {"name": _CORPORA[legacy.DATASET]}
    if legacy.DATASET_PATH is not None:
        corpus["root"] = legacy.DATASET_PATH
    if legacy.DATASET == "iemocap":
        corpus["options"] = {"style": _STYLES[legacy.impro_or_script]}
    elif legacy.DATASET == "cmu":
        options: Table = {"threshold": legacy.EMO_THRESHOLD}
        options |= {"multi_label": True} if legacy.several_labels else {"conflicts": "first_two"}
        corpus["options"] = options
    return corpus


def _labels(legacy: _Settings, version: Version) -> Table:
    labels: Table = {"multi": True} if legacy.several_labels else {}
    if legacy.EMOTIONS_TO_USE is None:
        return labels
    if legacy.DATASET == "cmu":
        raise InputError(
            "EMOTIONS_TO_USE: the rule that makes CMU-MOSEI's labels has the classes angry, happy, "
            "neutral and sad; leave it out"
        )
    codes = _CODES_OF_RAVDESS if legacy.DATASET == "ravdess" else _CODES_OF_IEMOCAP[version]
    by_code = {f"{number:02d}": name for number, name in enumerate(codes, start=1) if name != "-"}
    for code in legacy.EMOTIONS_TO_USE:
        if code not in by_code:
            raise InputError(
                f"EMOTIONS_TO_USE: no emotion has the code '{code}' in {legacy.DATASET} of "
                f"{version}; known: {', '.join(f'{c} {name}' for c, name in by_code.items())}"
            )
    kept = {by_code[code] for code in legacy.EMOTIONS_TO_USE}
    if {"happy", "excited"} <= kept:  # the code calls both happy
        labels["map"] = {"excited": "happy"}
        kept.remove("excited")
    if len(kept) < 2:
        raise InputError(
            f"EMOTIONS_TO_USE: keeps {' and '.join(kept) or 'no class'}, expected at least two "
            "classes; leave it out for the usual ones"
        )
    return labels | {"keep": sorted(kept)}


def _protocol(legacy: _Settings, version: Version) -> Table:
    # The code shuffles once, with its first seed.
    dealt = {"n_folds": legacy.NUM_FOLDS}
    shuffled = dealt | {"split_seed": 111111 if legacy.SEEDS is None else legacy.SEEDS[0]}
    if not legacy.SPEAKER_IND:
        if version == "2022" and legacy.RUN_INFERENCE == "Test":
            return {"split": "rotating_folds_held_out", "dev": "rotating"} | shuffled
        return {"split": "rotating_folds", "dev": "test"} | shuffled
    if legacy.DATASET == "iemocap":
        return {"split": "leave_one_session_out", "dev": "test"}
    return {"split": "speaker_folds", "dev": "test"} | dealt


def _view(legacy: _Settings, version: Version) -> Table:
    view: Table = {}
    length = legacy.T_STRIDE
    judged = legacy.VAL_OVERLAP if version == "2022" else _VALIDATION_OVERLAP
    if length != 2 or legacy.T_OVERLAP is not None or judged != _VALIDATION_OVERLAP:
        trained = length / 2 if legacy.T_OVERLAP is None else legacy.T_OVERLAP
        # The code of 2025 cuts 6400 down to 6399 in floating point.
        to_samples = int if version == "2025" else round
        view = {
            "n_samples": round(length * _RATE),
            "train_hop": round(_hop_s(length, trained) * _RATE),
            "test_hop": to_samples(_hop_s(length, judged) * _RATE),
        }
        _refuse_no_samples(view, legacy)
    if legacy.acc_type != "average_no_softmax":
        view["aggregation"] = legacy.acc_type
    return view


def _refuse_no_samples(view: Table, legacy: _Settings) -> None:
    usual = legacy.VAL_OVERLAP == _VALIDATION_OVERLAP
    settings = {
        "n_samples": "T_STRIDE",
        "train_hop": "T_OVERLAP",
        "test_hop": "T_STRIDE" if usual else "VAL_OVERLAP",
    }
    for key, name in settings.items():
        if view[key] < 1:
            raise InputError(
                f"{name} = {getattr(legacy, name)}: makes {key} {view[key]} samples at {_RATE} Hz, "
                "expected at least 1; change T_STRIDE or the overlap"
            )


def _hop_s(length_s: float, overlap_s: float) -> float:
    """Turn an overlap into a hop; an overlap of the whole length stands for half of it."""
    return length_s - overlap_s if overlap_s < length_s else length_s / 2


def _model(legacy: _Settings, network: _Network) -> Table:
    model: Table = {}
    if network.backbone == "macnn":
        heads = {"n_heads": (legacy.attention_head, 4), "n_hidden": (legacy.attention_hidden, 64)}
        model = {name: value for name, (value, usual) in heads.items() if value != usual}
    elif network.level is not None and network.level < -1:
        model["sigmoid_embedding"] = True
    if network.has_experts and not legacy.SKIP_FINAL_FC:
        if _may_choose_mixer(network):
            if legacy.ACTIVATION != "Sigmoid":
                raise InputError(
                    f"ACTIVATION = {legacy.ACTIVATION}: before the final layer stands a sigmoid "
                    "here; leave ACTIVATION out, or set SKIP_FINAL_FC = true"
                )
            bias = legacy.FC_BIAS
        else:
            bias = network.backbone == "light_sernet_port"
        model |= {"head": "mixer", "mixer_bias": bias}
    return model


def _may_choose_mixer(network: _Network) -> bool:
    """Tell whether the code reads ``FC_BIAS`` and ``ACTIVATION`` for this network."""
    return network == _Network("macnn", 0)


def _training(legacy: _Settings) -> Table:
    training = {
        "batch_size": legacy.BATCH_SIZE,
        "epochs": legacy.EPOCHS,
        "learning_rate": legacy.LEARNING_RATE,
        "weight_decay": legacy.WEIGHT_DECAY,
    }
    return {name: value for name, value in training.items() if value is not None}


def _objective(legacy: _Settings, network: _Network, version: Version) -> list[Table]:
    if not legacy.several_labels and not legacy.USE_WEIGHTS_FOR_LOSS:
        return []  # the network's own
    main: Table = {"output": "emotion", "loss": "cross_entropy"}
    if legacy.several_labels:
        main |= {"loss": "bce", "reduction": "mean"}
    objective = [main, *([{"output": "experts", "loss": "bce"}] if network.has_experts else [])]
    if legacy.USE_WEIGHTS_FOR_LOSS:
        kind = "rarest_share" if version == "2022" else "one_minus_share"
        objective = [term | {"class_weights": kind} for term in objective]
    return objective


def _notes(legacy: _Settings, network: _Network, version: Version, flat: Table) -> list[str]:
    """Say what the experiment does otherwise than one would read in the settings."""
    notes = _notes_on_the_network(legacy, network) + _notes_on_judging(legacy, version)
    never = [name for name in flat if name in _NEVER_READ]
    if version == "2025" and legacy.VAL_OVERLAP != _VALIDATION_OVERLAP:
        never.append("VAL_OVERLAP")
    if never:
        notes.append(f"{', '.join(never)}: without effect, as in the code, which never reads them")
    places = [name for name in flat if name in _PLACES]
    if places:
        notes.append(
            f"{', '.join(places)}: not used; the run folder is chosen with --out, features are "
            "kept in the cache, and corpora are looked for below --corpora"
        )
    derived = [name for name in flat if name in _DERIVED]
    if derived:
        notes.append(f"{', '.join(derived)}: not used; follows from the corpus and its labels")
    if legacy.DATASET != "cmu" and (legacy.LIKE_IEMOCAP or "EMO_THRESHOLD" in flat):
        notes.append("LIKE_IEMOCAP and EMO_THRESHOLD are for DATASET = cmu alone")
    if legacy.DATASET != "iemocap" and legacy.impro_or_script != "impro":
        notes.append("impro_or_script is for DATASET = iemocap alone")
    return notes


def _notes_on_the_network(legacy: _Settings, network: _Network) -> list[str]:
    notes = []
    if not legacy.SKIP_FINAL_FC and not network.has_experts:
        notes.append(
            "SKIP_FINAL_FC = false has no effect: only experts at levels 0 to 6 have a final layer"
        )
    chosen = [f"FC_BIAS = {str(legacy.FC_BIAS).lower()}"] if not legacy.FC_BIAS else []
    chosen += [f"ACTIVATION = {legacy.ACTIVATION}"] if legacy.ACTIVATION != "Sigmoid" else []
    if chosen and (legacy.SKIP_FINAL_FC or not _may_choose_mixer(network)):
        notes.append(
            f"{' and '.join(chosen)} without effect: the code reads them for MACNN at level 0 with "
            "SKIP_FINAL_FC = false alone"
        )
    if network.backbone != "macnn" and (legacy.attention_head, legacy.attention_hidden) != (4, 64):
        notes.append("attention_head and attention_hidden are for MACNN alone")
    if network.backbone == "light_sernet_port" and network.level not in (None, -1, 0, 1, -7):
        notes.append(
            f"the code itself stops with an error at level {network.level} of LightSERNet; here "
            "the penalty is put on the kernels that there are"
        )
    if legacy.SAVE_IND_EXPERTS:
        notes.append(
            "SAVE_IND_EXPERTS: experts are not kept at epochs of their own; 'serkit export-experts "
            "RUN' writes each expert of a trained recognizer"
        )
    return notes


def _notes_on_judging(legacy: _Settings, version: Version) -> list[str]:
    notes = [
        "the code reports each metric at the epoch that is best by that metric; here one epoch is "
        "selected, by UAR (UA) unless training.select_by says otherwise"
    ]
    if legacy.RUN_INFERENCE == "Test" and version == "2025":
        notes.append(
            "RUN_INFERENCE = Test judges the fold that chose the epoch once more, in the code of "
            "2025 as here: moe/published-2022 has a test fold of its own"
        )
    if legacy.SPEAKER_IND:
        notes.append(
            "SPEAKER_IND: the code never uses its last fold of speakers; here every fold is judged "
            "once, and trained on with the others"
        )
        if legacy.DATASET == "iemocap":
            notes.append("NUM_FOLDS has no effect: a fold is a session")
    return notes


def _toml(table: Mapping[str, Any]) -> str:
    """Write a table, and tables one level below it; deeper ones are inline."""
    lines = [f"{name} = {_value(value)}" for name, value in table.items() if not _is_section(value)]
    for name, value in table.items():
        if _is_section(value):
            heading = f"\n[{name}]" if isinstance(value, Mapping) else f"\n[[{name}]]"
            for section in [value] if isinstance(value, Mapping) else value:
                lines += [heading, *(f"{key} = {_value(v)}" for key, v in section.items())]
    return "\n".join(lines) + "\n"


def _is_section(value: Any) -> bool:
    tables = value if isinstance(value, list) else [value]
    return bool(tables) and all(isinstance(one, Mapping) for one in tables)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(v)}" for key, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
