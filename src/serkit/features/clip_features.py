"""A clip becomes what a tri-modal model reads: acoustic frames, face frames, and what went wrong.

One pass over the clip gives both. A stream that is not there, or of which nothing is usable, is one
frame of zeros with a status that says so, never no frame: a corpus keeps all of its clips, and a
model is told which streams to leave out. Which words are spoken is not asked here; the sound is
handed on for that.

The same clip and settings give the same bits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serkit.audio import AudioError, Waveform
from serkit.features.acoustic import ACOUSTIC_SETS, acoustic_features
from serkit.features.face import (
    NO_FACE_RULES,
    VISION_SETS,
    FaceFeatures,
    NoFaceRule,
    read_openface,
    settle,
)
from serkit.types import InputError
from serkit.video import ClipStream, VideoError

__all__ = ["ClipFeatureConfig", "ClipFeatures", "StreamStatus", "clip_features"]

StreamStatus = Literal["ok", "no_audio", "no_video", "no_face", "decode_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFeatureConfig:
    """Everything the features of a clip depend on.

    Attributes
    ----------
    acoustic
        Key of :data:`serkit.features.acoustic.ACOUSTIC_SETS`.
    vision
        Key of :data:`serkit.features.face.VISION_SETS`.
    fps
        Pictures per second; ``None``: what the vision set was made for. A table of OpenFace has its
        own.
    average_over
        Consecutive pictures that become one frame; ``None``: as the vision set does.
    no_face
        What becomes of pictures without a face, see :func:`serkit.features.face.settle`.
    min_confidence
        Below which a row of OpenFace counts as one without a face, in [0, 1].
    max_side
        Pixels; larger pictures are scaled down to it.
    landmarker
        MediaPipe's ``.task`` file.
    """

    acoustic: str = "sims33"
    vision: str = "opencv_lite"
    fps: float | None = None
    average_over: int | None = None
    no_face: NoFaceRule = "skip"
    min_confidence: float = 0.0
    max_side: int = 480
    landmarker: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeatures:
    """Features of one clip.

    Attributes
    ----------
    audio : (n_audio_frames, n_audio_features), float32
    vision : (n_vision_frames, n_vision_features), float32
    audio_status, vision_status
        ``ok``, or why the stream is one frame of zeros.
    face_present : (n_vision_frames,), whether there is a face in the frame
    n_pictures, n_with_face
        Pictures that were looked at, and those with a face, before any rule.
    waveform : (n_samples,), float32, or None where there is no sound
    sample_rate
        Hz, of ``waveform``: that of the acoustic set.
    duration_s
        Length of what was decoded.
    messages
        What was wrong, one line each.
    """

    audio: NDArray[np.float32]
    vision: NDArray[np.float32]
    audio_status: StreamStatus
    vision_status: StreamStatus
    face_present: NDArray[np.bool_]
    n_pictures: int
    n_with_face: int
    waveform: Waveform | None
    sample_rate: int
    duration_s: float
    messages: tuple[str, ...]


def clip_features(
    path: Path | str,
    config: ClipFeatureConfig | None = None,
    *,
    openface_table: Path | str | None = None,
) -> ClipFeatures:
    """Compute the features of one clip.

    Parameters
    ----------
    path
        A clip, a sound file or an image.
    config
        ``None``: all defaults.
    openface_table
        The table of an ``openface`` vision set; ``None``: beside the clip, with suffix ``.csv``.

    Returns
    -------
    found
        A clip that cannot be decoded gives two streams of zeros with status ``decode_error``; a
        table of OpenFace that cannot be read gives one.

    Raises
    ------
    InputError
        If a setting is unknown or out of range, or a model file is missing.
    MissingExtraError
        If a package is not installed.
    """
    config = config or ClipFeatureConfig()
    _check(config)
    chosen = VISION_SETS[config.vision]
    stream = ClipStream(
        path,
        sample_rate=ACOUSTIC_SETS[config.acoustic].sample_rate,
        fps=chosen.fps if config.fps is None else config.fps,
        max_side=config.max_side,
        colour=chosen.colour,
        sound_only=chosen.function is None,
    )
    try:
        vision_status, found, vision_notes = _vision(stream, config, openface_table)
        audio_status, audio, audio_notes = _audio(stream, config)
    except (VideoError, AudioError) as error:
        return _undecodable(config, str(error))
    settled = settle(
        found, no_face=config.no_face, average_over=config.average_over or chosen.average_over
    )
    return ClipFeatures(
        audio=audio,
        vision=settled.features,
        audio_status=audio_status,
        vision_status=vision_status,
        face_present=settled.present,
        n_pictures=len(found.present),
        n_with_face=int(found.present.sum()),
        waveform=stream.waveform,
        sample_rate=stream.sample_rate,
        duration_s=stream.duration_s,
        messages=(*stream.notes, *vision_notes, *audio_notes),
    )


def _vision(
    stream: ClipStream, config: ClipFeatureConfig, table: Path | str | None
) -> tuple[StreamStatus, FaceFeatures, list[str]]:
    """Decode the clip, and find the face in it or in the table."""
    chosen = VISION_SETS[config.vision]
    if chosen.function is not None:
        found = chosen.function(stream, config.landmarker)
    else:
        deque(stream, maxlen=0)  # decodes the sound
        table = Path(stream.path).with_suffix(".csv") if table is None else table
        try:
            found = read_openface(
                table, columns=config.vision, min_confidence=config.min_confidence
            )
        except InputError as error:
            nobody = np.zeros((0, len(chosen.names)), dtype=np.float32)
            return "decode_error", FaceFeatures(nobody, np.zeros(0, np.bool_)), [str(error)]
    if found.present.any():
        return "ok", found, []
    if len(found.present):
        return "no_face", found, [f"{stream.path}: no face found in any picture"]
    return "no_video", found, [f"{stream.path}: no pictures in it"]


def _audio(
    stream: ClipStream, config: ClipFeatureConfig
) -> tuple[StreamStatus, NDArray[np.float32], list[str]]:
    """Compute the acoustic stream; silence counts as no sound."""
    waveform = stream.waveform
    if waveform is None or not waveform.any():
        why = "no sound in it" if waveform is None else "its sound is digital silence"
        nothing = np.zeros((1, ACOUSTIC_SETS[config.acoustic].n_features), dtype=np.float32)
        return "no_audio", nothing, [f"{stream.path}: {why}"]
    found = acoustic_features(waveform, stream.sample_rate, name=config.acoustic)
    notes = []
    if found.n_replaced:
        notes.append(
            f"{stream.path}: {found.n_replaced} acoustic values were NaN or infinite, now 0"
        )
    return "ok", found.features, notes


def _undecodable(config: ClipFeatureConfig, message: str) -> ClipFeatures:
    acoustic = ACOUSTIC_SETS[config.acoustic]
    return ClipFeatures(
        audio=np.zeros((1, acoustic.n_features), dtype=np.float32),
        vision=np.zeros((1, len(VISION_SETS[config.vision].names)), dtype=np.float32),
        audio_status="decode_error",
        vision_status="decode_error",
        face_present=np.zeros(1, dtype=np.bool_),
        n_pictures=0,
        n_with_face=0,
        waveform=None,
        sample_rate=acoustic.sample_rate,
        duration_s=0.0,
        messages=(message,),
    )


def _check(config: ClipFeatureConfig) -> None:
    for key, value, known in (
        ("acoustic", config.acoustic, ACOUSTIC_SETS),
        ("vision", config.vision, VISION_SETS),
        ("no_face", config.no_face, NO_FACE_RULES),
    ):
        if value not in known:
            raise InputError(f"{key} is '{value}', expected one of {', '.join(known)}")
    if config.average_over is not None and config.average_over < 1:
        raise InputError(f"average_over is {config.average_over}, expected 1 or more")
    if not 0 <= config.min_confidence <= 1:
        raise InputError(f"min_confidence is {config.min_confidence:g}, expected 0 to 1")
