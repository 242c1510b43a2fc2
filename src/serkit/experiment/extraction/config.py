"""How the features of clips are made, from our TOML or from the JSON of the platform MMSA.

Our file says what differs from the defaults::

    [audio]
    set = "sims33"

    [video]
    set = "opencv_lite"
    no_face = "hold"

A file that ends in ``.json`` is one of MMSA's feature extraction tool, which names a ``tool`` per
section. Where a set of serkit has the same content it is taken; anything else is refused, for other
features under a familiar name would be worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from serkit.experiment.config import ConfigError, Strict, check_experiment, parse_toml
from serkit.features.acoustic import ACOUSTIC_SETS
from serkit.features.clip_features import ClipFeatureConfig
from serkit.features.face import VISION_SETS, NoFaceRule

__all__ = ["AudioConfig", "ExtractConfig", "VideoConfig", "load_extract_config"]

Table = dict[str, Any]

_SECTIONS = ("audio", "video", "text", "align")
# The content of MMSA's presets, by the names of librosa.
_LIBROSA70 = {
    "chroma_stft", "chroma_cqt", "chroma_cens", "mfcc", "rms", "spectral_centroid",
    "spectral_bandwidth", "spectral_contrast", "spectral_flatness", "spectral_rolloff",
    "poly_features", "tonnetz", "zero_crossing_rate",
}  # fmt: skip
_SIMS33 = {"zero_crossing_rate", "mfcc", "chroma_cqt"}
_SIMS33_MFCC = {"n_mfcc": 20, "htk": True}
# What a feature's settings may be; one name is misspelt in MMSA's own presets.
_PRESET = {
    "n_fft": 512, "win_length": 512, "frame_length": 512, "hop_length": 128, "hop_lenth": 128,
    "n_mfcc": 13,
}  # fmt: skip
_EGEMAPS = {"Functionals": "egemaps", "LowLevelDescriptors": "egemaps_lld"}
_OPENFACE = {
    "openface177": {"landmark_2D", "head_pose", "action_units"},
    "openface709": {
        "landmark_2D", "landmark_3D", "pdmparams", "head_pose", "action_units", "gaze",
    },
}  # fmt: skip
_MESH = {
    "refine_landmarks": True, "min_detection_confidence": 0.35, "min_tracking_confidence": 0.5,
    "max_num_faces": 1, "static_image_mode": False,
}  # fmt: skip


class AudioConfig(Strict):
    """Acoustic frames."""

    set: str = Field(default="sims33", description=f"one of {', '.join(ACOUSTIC_SETS)}")


class VideoConfig(Strict):
    """Face frames."""

    set: str = Field(default="opencv_lite", description=f"one of {', '.join(VISION_SETS)}")
    fps: float | None = Field(
        default=None, gt=0, description="pictures per second; default: what the set was made for"
    )
    average_over: int | None = Field(
        default=None, ge=1, description="pictures that become one frame; default: as the set does"
    )
    no_face: NoFaceRule = Field(
        default="skip", description="pictures without a face: skip, zero or hold (the last face)"
    )
    min_confidence: float = Field(
        default=0.0, ge=0, le=1, description="rows of OpenFace below it count as without a face"
    )
    max_side: int = Field(default=480, ge=16, description="pixels; larger pictures are reduced")
    landmarker: str | None = Field(default=None, description="MediaPipe's .task file")
    tables: str | None = Field(
        default=None,
        description="folder of OpenFace's tables, <video>/<clip>.csv; default: beside each clip",
    )


class ExtractConfig(Strict):
    """What is computed of each clip."""

    audio: AudioConfig = AudioConfig()
    video: VideoConfig = VideoConfig()

    def clip_features(self) -> ClipFeatureConfig:
        """Give the settings of one clip."""
        return ClipFeatureConfig(
            acoustic=self.audio.set,
            vision=self.video.set,
            fps=self.video.fps,
            average_over=self.video.average_over,
            no_face=self.video.no_face,
            min_confidence=self.video.min_confidence,
            max_side=self.video.max_side,
            landmarker=self.video.landmarker,
        )


def load_extract_config(path: Path | str | None = None) -> tuple[ExtractConfig, list[str]]:
    """Read settings of an extraction.

    Parameters
    ----------
    path
        Ours (``.toml``) or MMSA's (``.json``); ``None``: all defaults.

    Returns
    -------
    config
    notes
        What the file asks for and is done elsewhere, or how its words were understood.

    Raises
    ------
    ConfigError
        If the file is missing or cannot be read, a key or a tool is unknown, or what a tool would
        compute has no equivalent here.
    """
    source = "the settings" if path is None else str(path)
    table: Table = {}
    notes: list[str] = []
    if path is not None:
        text = _text(Path(path))
        if Path(path).suffix == ".json":
            table, notes = _from_mmsa(_json(text, source), source)
        else:
            table = parse_toml(text, source=source, advice="; MMSA's files end in .json")
    config = check_experiment(table, ExtractConfig, source=source)
    for key, value, known in (
        ("audio.set", config.audio.set, ACOUSTIC_SETS),
        ("video.set", config.video.set, VISION_SETS),
    ):
        if value not in known:
            raise ConfigError(f"{source}: {key} is '{value}', expected one of {', '.join(known)}")
    return config, notes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text, expected .toml or MMSA's .json") from None


def _json(text: str, source: str) -> Table:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid JSON ({error})") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{source}: expected an object of {', '.join(_SECTIONS)}")
    return table


def _from_mmsa(table: Table, source: str) -> tuple[Table, list[str]]:
    """Translate MMSA's settings."""
    for name, section in table.items():
        if name not in _SECTIONS:
            raise ConfigError(f"{source}: section '{name}', expected {', '.join(_SECTIONS)}")
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: section '{name}' is no object")
    if "align" in table:
        raise ConfigError(
            f"{source}: align: frames are kept as they are here, one length per stream: leave it "
            "out"
        )
    found: Table = {}
    notes = []
    if "audio" in table:
        found["audio"] = {"set": _acoustic_set(table["audio"], f"{source}: audio")}
        notes.append(f"audio: acoustic set {found['audio']['set']}")
    if "video" in table:
        found["video"] = _video(table["video"], f"{source}: video")
        notes.append(f"video: vision set {found['video']['set']}")
    for name in ("audio", "video"):
        if name not in table:
            notes.append(f"{name}: no section, the default is taken")
    if "text" in table:
        notes.append(
            "text: the words are kept, and a model that is trained on them brings its own encoder; "
            "the section's settings are not used"
        )
    return found, notes


def _acoustic_set(section: Mapping[str, Any], where: str) -> str:
    _only(section, ("tool", "sample_rate", "args", "features"), where)
    args = section.get("args") or section.get("features") or {}
    _require_object(args, f"{where}.args")
    tool = section.get("tool")
    if tool == "librosa":
        name = _librosa_set(args, where)
    elif tool == "opensmile":
        name = _opensmile_set(args, where)
    else:
        raise ConfigError(f"{where}.tool is {tool!r}, expected 'librosa' or 'opensmile'")
    wanted, fixed = section.get("sample_rate"), ACOUSTIC_SETS[name].sample_rate
    if wanted not in (None, fixed):
        raise ConfigError(
            f"{where}.sample_rate is {wanted!r}: the set {name} is made at {fixed}: leave it out"
        )
    return name


def _librosa_set(args: Mapping[str, Any], where: str) -> str:
    names = set(args)
    settings = [
        (f"{where}.args.{name}.{key}", key, value)
        for name, one in args.items()
        if isinstance(one, dict)
        for key, value in one.items()
    ]
    if not names or names == _LIBROSA70:
        for place, key, value in settings:
            if _PRESET.get(key) != value:
                raise ConfigError(f"{place} is {value!r}, the set librosa70 has {_PRESET.get(key)}")
        return "librosa70"
    plain = {name: one or {} for name, one in args.items()}
    if names == _SIMS33 and plain == {name: {} for name in names} | {"mfcc": _SIMS33_MFCC}:
        return "sims33"
    raise ConfigError(
        f"{where}.args: no set has just {', '.join(sorted(map(str, names)))}; leave them out for "
        "librosa70, or write a .toml with one of " + ", ".join(ACOUSTIC_SETS)
    )


def _opensmile_set(args: Mapping[str, Any], where: str) -> str:
    _only(args, ("feature_set", "feature_level", "start", "end"), f"{where}.args")
    if args.get("feature_set") != "eGeMAPSv02":
        raise ConfigError(
            f"{where}.args.feature_set is {args.get('feature_set')!r}, expected 'eGeMAPSv02'"
        )
    for key in ("start", "end"):
        if args.get(key) is not None:
            raise ConfigError(f"{where}.args.{key} is {args[key]!r}: clips are taken whole here")
    level = args.get("feature_level")
    if not isinstance(level, str) or level not in _EGEMAPS:
        raise ConfigError(
            f"{where}.args.feature_level is {level!r}, expected one of {', '.join(_EGEMAPS)}"
        )
    return _EGEMAPS[level]


def _video(section: Mapping[str, Any], where: str) -> Table:
    own = ("landmarker", "tables")  # keys of ours, for what its tool finds by itself
    _only(section, ("tool", "fps", "average_over", "args", "multiFace", *own), where)
    args = section.get("args") or {}
    _require_object(args, f"{where}.args")
    several = section.get("multiFace") or {}
    if isinstance(several, dict) and several.get("enable"):
        raise ConfigError(f"{where}.multiFace: the largest face is taken here: leave it out")
    tool = section.get("tool")
    if tool == "openface":
        name = _openface_set(args, where)
    elif tool == "mediapipe":
        name = _mediapipe_set(args, where)
    else:
        raise ConfigError(f"{where}.tool is {tool!r}, expected 'openface' or 'mediapipe'")
    kept = ("fps", "average_over", *own)
    return {"set": name, **{key: section[key] for key in kept if section.get(key) is not None}}


def _openface_set(args: Mapping[str, Any], where: str) -> str:
    wanted = {key for key, value in args.items() if value}
    if not wanted:
        return "openface177"
    for name, groups in _OPENFACE.items():
        if wanted == groups:
            return name
    raise ConfigError(
        f"{where}.args: no set has just {', '.join(sorted(map(str, wanted)))}; expected "
        + ", or ".join(", ".join(sorted(groups)) for groups in _OPENFACE.values())
    )


def _mediapipe_set(args: Mapping[str, Any], where: str) -> str:
    wanted = {key for key, value in args.items() if value} - {"visualize_dir"}
    if wanted - {"face_mesh"}:
        raise ConfigError(
            f"{where}.args: {', '.join(sorted(map(str, wanted)))}, expected 'face_mesh' alone: "
            "hands, bodies and drawings of them have no equivalent"
        )
    mesh = args.get("face_mesh")
    if isinstance(mesh, dict):
        for key, value in mesh.items():
            if _MESH.get(key) != value:
                raise ConfigError(
                    f"{where}.args.face_mesh.{key} is {value!r}, the set mediapipe has "
                    f"{_MESH.get(key)!r}"
                )
    return "mediapipe"


def _only(section: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown; known: {', '.join(known)}")


def _require_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, expected an object")
