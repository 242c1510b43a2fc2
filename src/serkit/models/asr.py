"""Networks for speech recognition, named in one explicit dict.

Such a network, an :class:`serkit.models.asr_parts.AsrNetwork`, maps features and their lengths to a
dict of named outputs: ``asr`` (logits of each encoded frame; symbol 0 is the blank of CTC) with its
lengths ``n_asr``, and ``encoded`` with ``n_encoded``, what the logits are made from. It holds the
statistics that normalise its features (``set_cmvn``). :mod:`serkit.models.ctc_decode`
makes text of the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, cast

from serkit.models.conformer_ctc import Conformer, ConformerConfig
from serkit.models.deepspeech2 import DeepSpeech2, DeepSpeech2Config
from serkit.models.efficient_conformer import EfficientConformer, EfficientConformerConfig
from serkit.models.layers import build_in_bounds
from serkit.models.squeezeformer import Squeezeformer, SqueezeformerConfig
from serkit.settings import checked
from serkit.types import InputError

__all__ = ["ASR_MODELS", "AsrModel", "asr_model_to_dict", "build_asr_model"]

AsrModel = Conformer | DeepSpeech2 | EfficientConformer | Squeezeformer

ASR_MODELS: dict[str, tuple[type[AsrModel], type[Any]]] = {
    "conformer": (Conformer, ConformerConfig),
    "deepspeech2": (DeepSpeech2, DeepSpeech2Config),
    "efficient_conformer": (EfficientConformer, EfficientConformerConfig),
    "squeezeformer": (Squeezeformer, SqueezeformerConfig),
}


def build_asr_model(name: str, settings: dict[str, Any]) -> AsrModel:
    """Build a network from its name and settings.

    Raises
    ------
    InputError
        If the name or a setting is unknown, a value is of the wrong kind, or the network is too
        large.
    """
    if name not in ASR_MODELS:
        raise InputError(f"model.name is '{name}', expected one of {', '.join(sorted(ASR_MODELS))}")
    model, config = ASR_MODELS[name]
    build = cast("Callable[[Any], AsrModel]", model)
    return build_in_bounds(build, checked(config, settings, where="model"))


def asr_model_to_dict(model: AsrModel) -> dict[str, Any]:
    """Give the settings that :func:`build_asr_model` rebuilds the network from."""
    return asdict(model.config)
