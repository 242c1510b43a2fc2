"""Speech encoders: the hidden states of wav2vec 2.0, HuBERT, WavLM and their kin as features.

Families (``model_type``): data2vec-audio, hubert, unispeech-sat, wav2vec2, wavlm. They share a
convolutional network over the waveform (one frame every 20 ms in all published ones) and a
transformer above it. Masking of the input in training (SpecAugment) is off; dropout and layer
dropping are as in the network's own configuration.

Padding. Networks with layer normalisation in the convolutions are given a mask, and an utterance's
features do not depend on what it is batched with. Networks with group normalisation
(``feat_extract_norm = "group"``: the base models) were trained without a mask, and their first
layer normalises over time, padding included. In training they see padded batches without a mask,
as published; in evaluation only utterances of equal length go through them together, so there too
an utterance's features are its own. So it is for data2vec-audio, which has a mask, but convolves
its positions in several steps, which lets padding in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.features.pretrained import (
    build_network,
    complete_architecture,
    find_folder,
    hidden_size,
    load_network,
    parameter_groups,
    read_json,
    weights_sha256,
)
from serkit.types import InputError

__all__ = ["SpeechEncoder", "SpeechEncoderConfig", "count_frames", "receptive_field"]

FAMILIES = ("data2vec-audio", "hubert", "unispeech-sat", "wav2vec2", "wavlm")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEncoderConfig:
    """Which network, which of its layers, and what of it is trained.

    Attributes
    ----------
    model
        A local folder, or an identifier on the Hugging Face hub that is in the local cache.
    revision
        Branch, tag or commit, for identifiers.
    layer
        ``last``: the network's output. A number: the state after so many transformer layers, 0 for
        what enters the first; the layers above are dropped. ``weighted``: the sum of all states,
        with weights that are trained even where the network is frozen, so that its features cannot
        be cached; layer dropping is off, because it would leave states out.
    trainable
        Whether the network is trained. If not, it has no dropout in training either.
    freeze_cnn
        Whether the convolutions stay as they are in a trained network.
    gradient_checkpointing
        Compute layers again in the backward pass instead of keeping what they computed.
    sample_rate
        Hz; must be the network's own.
    normalise_waveform
        Bring every utterance to mean 0 and variance 1 first. ``None``: as the preprocessor file of
        the network says; where there is none, yes.
    weights_sha256
        Hash of the weights file. Filled in; where it is given, other weights are refused.
    architecture
        Configuration of the network, filled in from its folder. Where it is given, the folder is
        not needed: the network is built with random weights, for a checkpoint to fill.
    """

    model: str
    revision: str | None = None
    layer: Literal["last", "weighted"] | NonNegativeInt = "last"
    trainable: bool = False
    freeze_cnn: bool = True
    gradient_checkpointing: bool = False
    sample_rate: PositiveInt = 16_000
    normalise_waveform: bool | None = None
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    architecture: dict[str, Any] | None = None

    @property
    def n_features(self) -> int:
        """Width of one frame; known once the encoder has been built.

        Raises
        ------
        InputError
            If ``architecture`` is not filled in.
        """
        return hidden_size(self.architecture, model=self.model, where="front_end")


class SpeechEncoder(nn.Module):
    """Waveforms to hidden states.

    Parameters
    ----------
    config
        See :class:`SpeechEncoderConfig`; the attribute ``config`` is the completed one.

    Raises
    ------
    InputError
        If the network cannot be found, is damaged, is of an unknown family or rate, or has fewer
        layers than asked for.
    """

    encoder: Any

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__()
        if config.architecture is None:
            folder = find_folder(config.model, config.revision, where="front_end")
            self.config = _completed_from(folder, config)
            self.encoder = load_network(folder, self.config.architecture or {})
        else:
            self.config = _completed(config)
            where = "front_end.architecture"
            self.encoder = build_network(self.config.architecture or {}, where=where)
        config, architecture = self.config, self.config.architecture or {}
        self._kernels, self._strides = architecture["conv_kernel"], architecture["conv_stride"]
        self._shortest = receptive_field(self._kernels, self._strides)
        data2vec = architecture["model_type"] == "data2vec-audio"
        self._takes_mask = data2vec or architecture["feat_extract_norm"] == "layer"
        self._padding_leaks = data2vec or not self._takes_mask
        # data2vec-audio has the key and does not heed it.
        self._final_norm = bool(architecture.get("do_stable_layer_norm")) and not data2vec
        if isinstance(config.layer, int) and self._final_norm:
            self.encoder.encoder.layer_norm = nn.Identity()  # it belongs to the last layer
            self._final_norm = False
        self.layer_weights: nn.Parameter | None = None
        if config.layer == "weighted":
            # Equal shares at first: softmax of zeros.
            self.layer_weights = nn.Parameter(torch.zeros(self.n_layers + 1))
        self._freeze()

    def _freeze(self) -> None:
        """Mark what is not trained, and leave training mode there."""
        self.encoder.requires_grad_(self.config.trainable)
        if self.config.freeze_cnn:
            self.encoder.feature_extractor.requires_grad_(False)
        mask_vector = getattr(self.encoder, "masked_spec_embed", None)
        if mask_vector is not None:
            mask_vector.requires_grad_(False)  # nothing is masked, so it would have no gradient
        if self.config.trainable and self.config.gradient_checkpointing:
            self.encoder.activation_checkpointing_enable({"use_reentrant": False})
        self.train(self.training)

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return len(self.encoder.encoder.layers)

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether training changes the features: they can be cached only if not."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def parameter_groups(self, *, decay: float = 1.0) -> list[tuple[list[str], float]]:
        """Group the trained parameters by layer, with factors of the learning rate.

        See :func:`serkit.features.pretrained.parameter_groups`; the weights of layers have the
        factor 1.
        """
        names = [name for name, p in self.named_parameters() if p.requires_grad]
        top: tuple[str, ...] = ("layer_weights",)
        if self._final_norm:
            top = (*top, "encoder.encoder.layer_norm.")
        return parameter_groups(names, n_layers=self.n_layers, decay=decay, top=top)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Switch training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if not self.config.trainable:
            self.encoder.eval()
        elif self.config.freeze_cnn:
            self.encoder.feature_extractor.eval()  # in training mode it computes gradients anyway
        return self

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames of signals of given lengths; at least one."""
        return count_frames(n_samples.clamp_min(self._shortest), self._kernels, self._strides)

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the hidden states of a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples), float32 in [-1, 1]
        n_samples : (batch,), valid samples of each; an utterance too short for one frame is
            completed with zeros

        Returns
        -------
        features : (batch, n_frames, n_features); frames beyond an utterance's own are zero
        n_frames : (batch,)
        """
        n_frames = self.n_frames(n_samples)
        if self.encoder.training or not self._padding_leaks:
            states = self._states(waveforms, n_samples)
        else:
            width = self.config.n_features
            states = waveforms.new_zeros(len(waveforms), int(n_frames.max()), width)
            for length in sorted(set(n_samples.tolist())):
                rows = n_samples == length
                equal = self._states(waveforms[rows], n_samples[rows])
                states[rows, : equal.shape[1]] = equal.to(states.dtype)
        valid = torch.arange(states.shape[1], device=n_frames.device) < n_frames.unsqueeze(1)
        return states.masked_fill(~valid.unsqueeze(2), 0.0), n_frames

    def _states(self, waveforms: Tensor, n_samples: Tensor) -> Tensor:
        """Run the network, ``(batch, n_samples) -> (batch, n_frames, n_features)``."""
        length = max(self._shortest, int(n_samples.max()))
        waveforms = waveforms[:, :length]
        if self.config.normalise_waveform:
            waveforms = _normalise(waveforms, n_samples)
        waveforms = F.pad(waveforms, (0, length - waveforms.shape[1]))
        n_samples = n_samples.clamp_min(self._shortest).unsqueeze(1)
        mask = None
        if self._takes_mask and bool((n_samples < length).any()):
            mask = (torch.arange(length, device=n_samples.device) < n_samples).long()
        weighted = self.layer_weights is not None
        output = self.encoder(waveforms, attention_mask=mask, output_hidden_states=weighted)
        last: Tensor = output.last_hidden_state
        if self.layer_weights is None:
            return last
        # The last of the collected states lacks the final normalisation, where there is one.
        states = [*output.hidden_states[:-1], last]
        mixed = torch.zeros_like(last)
        for share, state in zip(self.layer_weights.softmax(0), states, strict=True):
            mixed = mixed + share * state
        return mixed


def count_frames(n_samples: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Count what convolutions without padding make of signals of given lengths, ``(batch,)``."""
    for kernel, stride in zip(kernels, strides, strict=True):
        n_samples = torch.div(n_samples - kernel, stride, rounding_mode="floor") + 1
    return n_samples.clamp_min(0)


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Count the samples under one frame.

    >>> receptive_field([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2])
    400
    """
    n_samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        n_samples = (n_samples - 1) * stride + kernel
    return n_samples


def _normalise(waveforms: Tensor, n_samples: Tensor) -> Tensor:
    """Bring each utterance to mean 0 and variance 1, ``(batch, n_samples)``; padding becomes 0."""
    valid = torch.arange(waveforms.shape[1], device=n_samples.device) < n_samples.unsqueeze(1)
    n = n_samples.clamp_min(1).unsqueeze(1)
    centred = (waveforms - (waveforms * valid).sum(1, keepdim=True) / n) * valid
    variance = centred.square().sum(1, keepdim=True) / n
    return centred / (variance + 1e-7).sqrt()


def _completed_from(folder: Path, config: SpeechEncoderConfig) -> SpeechEncoderConfig:
    """Fill in what the folder of a network says, and refuse what contradicts it."""
    architecture = read_json(folder / "config.json")
    preprocessor = _preprocessor(folder)
    rate = preprocessor.get("sampling_rate", config.sample_rate)
    if rate != config.sample_rate:
        raise InputError(
            f"front_end.sample_rate is {config.sample_rate}, but '{config.model}' was trained at "
            f"{rate}: set it to that"
        )
    normalise = config.normalise_waveform
    if normalise is None:
        normalise = bool(preprocessor.get("do_normalize", True))
    return _completed(
        replace(
            config,
            layer="last" if config.layer == architecture.get("num_hidden_layers") else config.layer,
            normalise_waveform=normalise,
            weights_sha256=weights_sha256(
                folder, expected=config.weights_sha256, where="front_end"
            ),
            architecture=architecture,
        ),
        where=str(folder / "config.json"),
    )


def _completed(
    config: SpeechEncoderConfig, *, where: str = "front_end.architecture"
) -> SpeechEncoderConfig:
    """Complete the architecture, and fit it to the other settings."""
    architecture = complete_architecture(config.architecture or {}, families=FAMILIES, where=where)
    if architecture.get("add_adapter"):
        raise InputError(f"{where}: add_adapter is true; shortened outputs are not supported")
    architecture |= {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    n_layers = architecture["num_hidden_layers"]
    if config.layer == "weighted":
        architecture["layerdrop"] = 0.0
    elif isinstance(config.layer, int):
        if config.layer > n_layers:
            raise InputError(
                f"front_end.layer is {config.layer}, but '{config.model}' has {n_layers} layers"
            )
        architecture["num_hidden_layers"] = config.layer
    return replace(
        config,
        normalise_waveform=config.normalise_waveform is not False,
        architecture=architecture,
    )


def _preprocessor(folder: Path) -> dict[str, Any]:
    """Read how a network wants its waveforms; empty where its folder does not say."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        nested = read_json(folder / "processor_config.json").get("feature_extractor")
        return nested if isinstance(nested, dict) else {}
    return {}
