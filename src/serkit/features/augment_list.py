"""A list of augmentations from a file, applied in its order while a recognizer is trained.

The file is JSON, a list of entries, or TOML, ``[[augment]]`` tables::

    [
      {"type": "noise", "params": {"snr_db": [10, 50]}, "prob": 0.5},
      {"type": "speed"},
      {"type": "specaug", "params": {"n_time_masks": 1}}
    ]

=============  ==============================================================  ====
type           what is done, by default                                        prob
=============  ==============================================================  ====
``noise``      1 or 2 noises added at 10 to 50 dB: made, or recordings         0.5
``resample``   to 8, 32, 44.1 or 48 kHz and back                               0.0
``speed``      played at 0.9, 1 or 1.1 of the speed; no others beyond these    1.0
``shift``      moved by up to 5 ms, zeros following                            1.0
``volume``     up to 15 dB louder or softer                                    1.0
``reverb``     put into a room, made or of recorded impulse responses          0.0
``specaug``    :func:`serkit.features.spec_augment.spec_augment`               1.0
``specsub``    :func:`serkit.features.spec_augment.spec_sub`                   1.0
=============  ==============================================================  ====

The last two change features, the others waveforms. What befalls an utterance is a function of
(seed, epoch, id, place in the list): the same on every machine and in every order. A change of
volume does nothing where the front end brings utterances to one loudness.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, PositiveInt
from torch import Tensor

from serkit.audio import Waveform, find_sound_files, load_audio, require_sound, resample
from serkit.augment import (
    NoiseKind,
    add_noise,
    change_gain,
    change_speed,
    reverberate,
    room_impulse,
)
from serkit.features.spec_augment import (
    SpecAugmentSettings,
    SpecSubSettings,
    spec_augment,
    spec_sub,
)
from serkit.noise import loop, mix
from serkit.settings import checked
from serkit.types import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "AugmentEntry",
    "AugmentList",
    "NoiseSettings",
    "ResampleSettings",
    "ReverbSettings",
    "ShiftSettings",
    "SpeedSettings",
    "VolumeSettings",
]

Range = tuple[float, float]
Seconds = Annotated[float, Field(ge=0.01, le=10)]
Speed = Annotated[float, Field(ge=0.9, le=1.1)]
Rate = Annotated[int, Field(ge=1_000, le=192_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """Noise: its ratio to speech; recordings (a sound file or folder), or else kinds to make."""

    snr_db: Range = (10.0, 50.0)
    max_repetitions: PositiveInt = 2
    recordings: str | None = None
    kinds: Annotated[tuple[NoiseKind, ...], Field(min_length=1)] = get_args(NoiseKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResampleSettings:
    """Sample rates to go through, in Hz."""

    rates_hz: Annotated[tuple[Rate, ...], Field(min_length=1)] = (8_000, 32_000, 44_100, 48_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedSettings:
    """Factors of tempo and pitch to draw from."""

    factors: Annotated[tuple[Speed, ...], Field(min_length=1)] = (0.9, 1.0, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftSettings:
    """The farthest move, either way, in milliseconds."""

    max_shift_ms: Annotated[float, Field(ge=0, le=1_000)] = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSettings:
    """Lowest and highest change of level."""

    gain_db: Range = (-15.0, 15.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverbSettings:
    """Rooms: seconds in which sound falls by 60 dB, or recorded impulse responses instead."""

    rt60_s: tuple[Seconds, Seconds] = (0.2, 0.6)
    impulses: str | None = None


WaveformEffect = Callable[[Waveform, int, np.random.Generator], Waveform]
FeatureEffect = Callable[[Tensor, np.random.Generator], Tensor]

# type -> (what it changes, its settings, how likely it is if the file does not say)
TYPES: dict[str, tuple[Literal["audio", "feature"], type[Any], float]] = {
    "noise": ("audio", NoiseSettings, 0.5),
    "resample": ("audio", ResampleSettings, 0.0),
    "speed": ("audio", SpeedSettings, 1.0),
    "shift": ("audio", ShiftSettings, 1.0),
    "volume": ("audio", VolumeSettings, 1.0),
    "reverb": ("audio", ReverbSettings, 0.0),
    "specaug": ("feature", SpecAugmentSettings, 1.0),
    "specsub": ("feature", SpecSubSettings, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentEntry:
    """One entry of the list.

    Attributes
    ----------
    type
        See :mod:`serkit.features.augment_list`.
    params
        Settings of the type; absent ones take its defaults.
    prob
        How likely it is applied; the type's own if absent.
    aug_type
        What the type changes; may be left out.
    """

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    prob: Annotated[float, Field(ge=0, le=1)] | None = None
    aug_type: Literal["audio", "feature"] | None = None


class AugmentList:
    """Applies a list of augmentations to utterances.

    Parameters
    ----------
    entries
        In the order in which they are applied.
    seed
        Of all that is drawn.
    where
        How messages call the list, such as its file.

    Attributes
    ----------
    entries
        As they were given.

    Raises
    ------
    InputError
        If an entry is of no known type, a setting is unknown or out of bounds, or recordings that
        it names cannot be used.
    """

    def __init__(
        self, entries: Sequence[Mapping[str, Any]], *, seed: int = 0, where: str = "augment"
    ) -> None:
        self.entries = tuple(entries)
        self._seed = seed
        self._waveform_effects: list[tuple[int, float, WaveformEffect]] = []
        self._feature_effects: list[tuple[int, float, FeatureEffect]] = []
        for place, values in enumerate(entries):
            name = f"{where}[{place}]"
            entry = checked(AugmentEntry, _table(values, name), where=name)
            settings, prob = _settings(entry, name)
            if TYPES[entry.type][0] == "audio":
                waveform_effect = _waveform_effect(entry.type, settings, name)
                self._waveform_effects.append((place, prob, waveform_effect))
            else:
                feature_effect = _feature_effect(entry.type, settings)
                self._feature_effects.append((place, prob, feature_effect))

    @classmethod
    def read(cls, path: Path | str | None, *, seed: int = 0) -> AugmentList:
        """Read a list from a file; no file is no augmentation.

        Raises
        ------
        InputError
            If the file cannot be read or holds no list, or an entry of it is refused.
        """
        if path is None:
            return cls([], seed=seed)
        return cls(_entries(Path(path)), seed=seed, where=str(path))

    def waveform(
        self, waveform: Waveform, sample_rate: int, *, epoch: int, utterance_id: str
    ) -> Waveform:
        """Apply what changes waveforms; silence stays as it is.

        Parameters
        ----------
        waveform : (n_samples,), float32

        Returns
        -------
        changed : (n_changed,), float32; a change of speed changes the length
        """
        if not np.any(waveform):
            return waveform
        for place, prob, effect in self._waveform_effects:
            generator = self._generator(place, epoch, utterance_id)
            if generator.random() < prob and np.any(waveform):
                waveform = effect(waveform, sample_rate, generator)
        return waveform

    def features(self, features: Tensor, *, epoch: int, utterance_id: str) -> Tensor:
        """Apply what changes features.

        Parameters
        ----------
        features : (n_frames, n_features), of one utterance, without padding

        Returns
        -------
        changed : (n_frames, n_features)
        """
        for place, prob, effect in self._feature_effects:
            generator = self._generator(place, epoch, utterance_id)
            if generator.random() < prob:
                features = effect(features, generator)
        return features

    def __len__(self) -> int:
        return len(self._waveform_effects) + len(self._feature_effects)

    def _generator(self, place: int, epoch: int, utterance_id: str) -> np.random.Generator:
        text = f"augment_list:{self._seed}:{epoch}:{place}:{utterance_id}"
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _entries(path: Path) -> list[Any]:
    """Read the entries of a file."""
    try:
        content = path.read_text(encoding="utf-8")
        values = tomllib.loads(content) if path.suffix == ".toml" else json.loads(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is neither JSON nor (as *.toml) TOML: {reason}") from None
    if path.suffix == ".toml":
        others = sorted(set(values) - {"augment"})
        if others:
            raise InputError(f"{path}: unknown table '{others[0]}'; expected [[augment]] alone")
        values = values.get("augment", [])
    if not isinstance(values, list):
        raise InputError(
            f'{path}: expected a list of augmentations, such as [{{"type": "speed"}}], got '
            f"{type(values).__name__}"
        )
    return values


def _table(values: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(
            f'{name} = {json.dumps(values)}: expected an object, such as {{"type": "speed"}}'
        )
    return values


def _settings(entry: AugmentEntry, name: str) -> tuple[Any, float]:
    """Check an entry's parameters; give them and its probability."""
    if entry.type not in TYPES:
        raise InputError(f"{name}.type is '{entry.type}', expected one of {', '.join(TYPES)}")
    stage, kind, prob = TYPES[entry.type]
    if entry.aug_type not in (None, stage):
        raise InputError(
            f"{name}.aug_type is '{entry.aug_type}', but {entry.type} changes the {stage}: leave "
            "aug_type out"
        )
    settings = checked(kind, entry.params, where=f"{name}.params")
    for key in ("snr_db", "gain_db", "rt60_s"):
        low, high = getattr(settings, key, (0, 0))
        if not -100 <= low <= high <= 100:
            raise InputError(
                f"{name}.params.{key} = [{low:g}, {high:g}]: expected the lowest and the highest "
                "value, from -100 to 100"
            )
    return settings, prob if entry.prob is None else entry.prob


def _feature_effect(kind: str, settings: Any) -> FeatureEffect:
    return partial(spec_augment if kind == "specaug" else spec_sub, settings=settings)


def _waveform_effect(kind: str, settings: Any, name: str) -> WaveformEffect:
    if kind == "noise":
        return partial(
            _noise, settings, _Recordings(settings.recordings, f"{name}.params.recordings")
        )
    if kind == "reverb":
        return partial(_reverb, settings, _Recordings(settings.impulses, f"{name}.params.impulses"))
    plain: dict[str, Callable[[Any, Waveform, int, np.random.Generator], Waveform]] = {
        "resample": _resample,
        "speed": _speed,
        "shift": _shift,
        "volume": _volume,
    }
    return partial(plain[kind], settings)


class _Recordings:
    """Sound files to draw from; each is read once per sample rate, when it is first drawn."""

    def __init__(self, path: str | None, name: str) -> None:
        self._read: dict[tuple[Path, int], Waveform] = {}
        self.paths: list[Path] = []
        if path is None:
            return
        root = Path(path).expanduser()
        self.paths = find_sound_files(root) if root.is_dir() else [root]
        if not self.paths or not self.paths[0].is_file():
            raise InputError(f"{name}: no sound files in {root}: expected a sound file or a folder")

    def draw(self, sample_rate: int, generator: np.random.Generator) -> Waveform:
        path = self.paths[generator.integers(len(self.paths))]
        if (path, sample_rate) not in self._read:
            waveform = load_audio(path, sample_rate=sample_rate)[0]
            require_sound(waveform, path)
            self._read[path, sample_rate] = waveform
        return self._read[path, sample_rate]


def _noise(
    settings: NoiseSettings,
    recordings: _Recordings,
    waveform: Waveform,
    sample_rate: int,
    generator: np.random.Generator,
) -> Waveform:
    speech = waveform
    for _ in range(generator.integers(1, settings.max_repetitions + 1)):
        snr_db = generator.uniform(*settings.snr_db)
        if recordings.paths:
            noise = loop(recordings.draw(sample_rate, generator), len(speech), generator)
            speech = mix(speech, noise, snr_db)
        else:
            kind = settings.kinds[generator.integers(len(settings.kinds))]
            speech = add_noise(speech, sample_rate, kind=kind, snr_db=snr_db, generator=generator)
    return speech


def _reverb(
    settings: ReverbSettings,
    impulses: _Recordings,
    waveform: Waveform,
    sample_rate: int,
    generator: np.random.Generator,
) -> Waveform:
    if impulses.paths:
        return reverberate(waveform, impulses.draw(sample_rate, generator))
    rt60_s = generator.uniform(*settings.rt60_s)
    impulse = room_impulse(sample_rate, rt60_s=rt60_s, generator=generator)
    return reverberate(waveform, impulse)


def _resample(
    settings: ResampleSettings,
    waveform: Waveform,
    sample_rate: int,
    generator: np.random.Generator,
) -> Waveform:
    rate = settings.rates_hz[generator.integers(len(settings.rates_hz))]
    there = resample(waveform, sample_rate, rate)
    back = resample(there, rate, sample_rate)[: len(waveform)]
    return np.pad(back, (0, len(waveform) - len(back)))


def _speed(
    settings: SpeedSettings, waveform: Waveform, _sample_rate: int, generator: np.random.Generator
) -> Waveform:
    factor = settings.factors[generator.integers(len(settings.factors))]
    return waveform if factor == 1 else change_speed(waveform, factor)


def _shift(
    settings: ShiftSettings, waveform: Waveform, sample_rate: int, generator: np.random.Generator
) -> Waveform:
    farthest = min(round(settings.max_shift_ms * sample_rate / 1_000), len(waveform))
    n = int(generator.integers(-farthest, farthest + 1))
    shifted = np.zeros_like(waveform)
    shifted[max(n, 0) : len(waveform) + min(n, 0)] = waveform[
        max(-n, 0) : len(waveform) - max(n, 0)
    ]
    return shifted


def _volume(
    settings: VolumeSettings, waveform: Waveform, _sample_rate: int, generator: np.random.Generator
) -> Waveform:
    return change_gain(waveform, generator.uniform(*settings.gain_db))
