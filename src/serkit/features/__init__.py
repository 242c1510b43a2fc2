"""Front ends: waveform to features, named in one explicit dict.

A front end is a module built from a frozen config; ``forward(waveforms, n_samples)`` returns
``(features, n_frames)``. Its config names the sample rate it needs and the width of a frame.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from serkit.features.fbank import FBANK_PRESETS, Fbank, FbankConfig
from serkit.features.mfcc import MFCC_PRESETS, Mfcc, MfccConfig
from serkit.features.none import NoSound, NoSoundConfig
from serkit.features.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from serkit.features.speech_parts import SPEECH_PARTS_PRESETS, SpeechParts, SpeechPartsConfig
from serkit.features.tf_mfcc import TF_MFCC_PRESETS, TfMfcc, TfMfccConfig
from serkit.settings import checked
from serkit.types import InputError

__all__ = ["FRONT_ENDS", "FrontEnd", "build_front_end", "front_end_to_dict"]

FrontEnd = Fbank | Mfcc | NoSound | SpeechEncoder | SpeechParts | TfMfcc

# name -> (module, config class, presets)
FRONT_ENDS: dict[str, tuple[type[FrontEnd], type[Any], dict[str, Any]]] = {
    "fbank": (Fbank, FbankConfig, FBANK_PRESETS),
    "mfcc": (Mfcc, MfccConfig, MFCC_PRESETS),
    "none": (NoSound, NoSoundConfig, {}),
    "speech_encoder": (SpeechEncoder, SpeechEncoderConfig, {}),
    "speech_parts": (SpeechParts, SpeechPartsConfig, SPEECH_PARTS_PRESETS),
    "tf_mfcc": (TfMfcc, TfMfccConfig, TF_MFCC_PRESETS),
}


def build_front_end(name: str, settings: dict[str, Any]) -> FrontEnd:
    """Build a front end; ``settings`` may name a ``preset`` and override single values of it.

    Raises
    ------
    InputError
        If the name, the preset or a setting is unknown, or a value is of the wrong kind.
    """
    if name not in FRONT_ENDS:
        raise InputError(
            f"front_end.name is '{name}', expected one of {', '.join(sorted(FRONT_ENDS))}"
        )
    module, config_class, presets = FRONT_ENDS[name]
    settings = dict(settings)
    preset = settings.pop("preset", None)
    if preset is not None and preset not in presets:
        raise InputError(
            f"front_end.preset is '{preset}', expected one of {', '.join(sorted(presets))}"
        )
    base = {} if preset is None else asdict(presets[preset])
    return module(checked(config_class, base | settings, where="front_end"))


def front_end_to_dict(front_end: FrontEnd) -> dict[str, Any]:
    """Give the settings that :func:`build_front_end` rebuilds the front end from."""
    return asdict(front_end.config)
