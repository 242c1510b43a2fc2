"""Weights of MMER as its authors publish them: ``.pt`` files of a whole training model.

Such a file is a dict with one key, ``state_dict``. It holds the fusion and wav2vec 2.0 base under
``model_mmi.``, the contrastive projections beside them, all under ``module.`` when several GPUs had
trained; and neither settings nor classes, which were happy, angry, neutral and sad. The same names
in a safetensors file are read as well. Old releases of PyTorch call the two parts of a normalised
weight ``weight_g`` and ``weight_v``; new ones, and what is given here, call them
``parametrizations.weight.original0`` and ``original1``.

Every weight is accounted for by name and by shape. Two may be missing: ``weights``, which nothing
uses and which is left out, and ``masked_spec_embed``, by which wav2vec 2.0 replaces frames that are
masked in training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from serkit.models.mmer import Mmer, MmerConfig
from serkit.types import InputError

__all__ = [
    "MmerWeightsError",
    "convert_mmer_weights",
    "load_mmer_weights",
    "wav2vec2_base_shapes",
]

_ENCODER = "model_mmi.wav2vec2."
_UNUSED = "model_mmi.weights"
_MODULES = {  # ours -> theirs
    "ctc": "model_mmi.ctc_linear",
    "words_to_words": "model_mmi.self_attention_v2.layer",
    "fusion.frames_as_context": "model_mmi.vismap2text",
    "fusion.frames_as_queries": "model_mmi.vismap2text_v2",
    "fusion.words_to_frames": "model_mmi.txt2img_attention.layer",
    "fusion.frames_to_words": "model_mmi.img2txt_attention.layer",
    "fusion.words_to_informed_frames": "model_mmi.txt2txt_attention.layer",
    "fusion.gate": "model_mmi.gate",
    "project_pooled": "model_mmi.downsample_final",
    "classifier": "model_mmi.classifier.linear3",
    "contrast": "orgin_linear_change",
    "contrast_augmented": "augment_linear_change",
}
_LAYERS = {  # of a block
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "first": "intermediate.dense",
    "second": "output.dense",
    "output_norm": "output.LayerNorm",
}
_NORMALISED = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_HELP = "expected a checkpoint of MMER as its authors publish it"


class MmerWeightsError(InputError):
    """A weight file that cannot be used; the message names the file and the reason."""


def load_mmer_weights(
    path: Path | str, *, config: MmerConfig | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read one of the authors' checkpoints; nothing in it is executed.

    Parameters
    ----------
    path
        A ``.pt`` file, or the same weights as ``.safetensors``.
    config
        See :func:`convert_mmer_weights`.

    Returns
    -------
    mmer, wav2vec2
        See :func:`convert_mmer_weights`.

    Raises
    ------
    MmerWeightsError
        If the file is missing, damaged, holds more than weights, or its weights are not MMER's.
    """
    path = Path(path)
    if not path.is_file():
        raise MmerWeightsError(f"{path}: no such file; {_HELP}")
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                # Whether the file can be read is said below, in one line.
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle fails with whatever error the first wrong byte leads to.
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        kind = "safetensors" if isinstance(error, SafetensorError) else "PyTorch weight"
        raise MmerWeightsError(
            f"{path}: not a {kind} file, a damaged one, or one with code in it ({reason}); {_HELP}"
        ) from None
    if isinstance(loaded, dict) and set(loaded) == {"state_dict"}:
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise MmerWeightsError(f"{path}: holds a {type(loaded).__name__}, not weights; {_HELP}")
    return convert_mmer_weights(loaded, config=config, name=str(path))


def convert_mmer_weights(
    weights: Mapping[str, Tensor], *, config: MmerConfig | None = None, name: str = "weights"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Give the weights of the authors' model the names of ours.

    Parameters
    ----------
    weights
        By the authors' names.
    config
        Of the network that they are for. None: as published.
    name
        What messages call the weights.

    Returns
    -------
    mmer
        For :class:`serkit.models.mmer.Mmer`, complete.
    wav2vec2
        For wav2vec 2.0 base, under its usual names; ``masked_spec_embed`` may be missing.

    Raises
    ------
    MmerWeightsError
        If a weight is missing, unknown, of another shape, or holds NaN or infinite values.
    """
    found = _stripped(weights, name)
    found.pop(_UNUSED, None)
    with torch.device("meta"):
        model = Mmer(config or MmerConfig())
    ours = {key: (_released(key), tuple(value.shape)) for key, value in model.state_dict().items()}
    encoder = {key: (_ENCODER + key, shape) for key, shape in wav2vec2_base_shapes().items()}
    if _ENCODER + "masked_spec_embed" not in found:
        del encoder["masked_spec_embed"]
    expected = dict([*ours.values(), *encoder.values()])
    _check_names(set(found), set(expected), name)
    for key, shape in expected.items():
        _check_values(found[key], shape, f"{name}: the weight '{key}'")
    return (
        {key: found[theirs].float() for key, (theirs, _) in ours.items()},
        {key: found[theirs].float() for key, (theirs, _) in encoder.items()},
    )


def _stripped(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Bring the names of all variants of the file to one."""
    found = {}
    for key, value in weights.items():
        stripped = str(key).removeprefix("module.")
        stem, _, last = stripped.rpartition(".")
        if last in _NORMALISED:
            stripped = f"{stem}.{_NORMALISED[last]}"
        if stripped in found:
            raise MmerWeightsError(
                f"{name}: the weight '{stripped}' is there twice, with and without the prefix "
                "'module.' or under its old and its new name; remove one"
            )
        found[stripped] = value
    return found


def _released(key: str) -> str:
    """Translate the name of one of our weights into the authors'."""
    module = max((m for m in _MODULES if key.startswith(f"{m}.")), key=len, default=None)
    if module is None:
        return f"model_mmi.{key}"  # of a part that the published network does not have
    rest = key.removeprefix(f"{module}.")
    if not _MODULES[module].endswith(".layer"):
        return f"{_MODULES[module]}.{rest}"
    number, layer, kind = rest.split(".")
    return f"{_MODULES[module]}.{number}.{_LAYERS[layer]}.{kind}"


def wav2vec2_base_shapes() -> dict[str, tuple[int, ...]]:
    """List the weights of wav2vec 2.0 base, with their shapes."""
    width, n_channels = 768, 512
    shapes: dict[str, tuple[int, ...]] = {"masked_spec_embed": (width,)}

    def add(stem: str, *weight: int) -> None:
        shapes[f"{stem}.weight"] = weight
        shapes[f"{stem}.bias"] = weight[:1]

    kernels = (10, 3, 3, 3, 3, 2, 2)
    for i, kernel in enumerate(kernels):
        shape = (n_channels, n_channels if i else 1, kernel)
        shapes[f"feature_extractor.conv_layers.{i}.conv.weight"] = shape
    add("feature_extractor.conv_layers.0.layer_norm", n_channels)
    add("feature_projection.layer_norm", n_channels)
    add("feature_projection.projection", width, n_channels)
    position = "encoder.pos_conv_embed.conv"
    shapes[f"{position}.bias"] = (width,)
    shapes[f"{position}.{_NORMALISED['weight_g']}"] = (1, 1, 128)
    shapes[f"{position}.{_NORMALISED['weight_v']}"] = (width, width // 16, 128)
    add("encoder.layer_norm", width)
    for i in range(12):
        layer = f"encoder.layers.{i}"
        for part in ("q", "k", "v", "out"):
            add(f"{layer}.attention.{part}_proj", width, width)
        add(f"{layer}.layer_norm", width)
        add(f"{layer}.feed_forward.intermediate_dense", 4 * width, width)
        add(f"{layer}.feed_forward.output_dense", width, 4 * width)
        add(f"{layer}.final_layer_norm", width)
    return shapes


def _check_names(found: set[str], expected: set[str], name: str) -> None:
    if missing := sorted(expected - found):
        raise MmerWeightsError(
            f"{name}: {len(missing)} of {len(expected)} weights are missing, the first is "
            f"'{missing[0]}'; {_HELP}"
        )
    if unknown := sorted(found - expected):
        raise MmerWeightsError(
            f"{name}: {len(unknown)} weights are none of MMER's, the first is "
            f"'{unknown[0][:100]}'; {_HELP}"
        )


def _check_values(value: object, shape: tuple[int, ...], what: str) -> None:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_meta:
        raise MmerWeightsError(f"{what} is a {type(value).__name__} without plain numbers; {_HELP}")
    if tuple(value.shape) != shape or not value.is_floating_point():
        got = f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")
        raise MmerWeightsError(f"{what} is {got}, expected float32 of shape {shape}")
    if not value.isfinite().all():
        raise MmerWeightsError(f"{what} holds NaN or infinite values: get the file again")
