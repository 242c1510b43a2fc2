"""Speech encoders: the hidden states of wav2vec 2.0, WavLM, Whisper and their kin as features.

Families (``model_type``), all with one frame every 20 ms in what is published:

* data2vec-audio, hubert, unispeech-sat, wav2vec2, wavlm: convolutions over the waveform, and a
  transformer above.
* wav2vec2-bert (w2v-BERT 2.0): a Conformer over pairs of Kaldi's filter bank frames, each band
  brought to mean 0 and variance 1 over the utterance.
* whisper: the encoder half of Whisper over its own log-mel spectrogram; the decoder is not read.

Masking of the input in training (SpecAugment) is off; dropout and layer dropping are as in the
network's own configuration.

Padding. Whisper knows no mask and was trained on windows of 30 s with silence behind the speech: so
it is given them here, and the frames of the silence are cut off. A longer utterance is read window
by window. ``window_s`` makes the windows shorter, which costs less and is not what it was trained
on. w2v-BERT 2.0 is given a mask. In neither does an utterance depend on what it is batched with.

Of the others, networks with layer normalisation in the convolutions are given a mask, and an
utterance's features do not depend on what it is batched with. Networks with group normalisation
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
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.features.fbank import Fbank, FbankConfig
from serkit.features.mfcc import slaney_mel_matrix
from serkit.features.pretrained import (
    build_network,
    build_whisper_encoder,
    complete_architecture,
    find_folder,
    hidden_size,
    load_network,
    load_whisper_encoder,
    parameter_groups,
    read_json,
    weights_sha256,
)
from serkit.types import InputError

__all__ = ["SpeechEncoder", "SpeechEncoderConfig", "count_frames", "receptive_field"]

FAMILIES = (
    "data2vec-audio",
    "hubert",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-bert",
    "wavlm",
    "whisper",
)

_RAW = ("data2vec-audio", "hubert", "unispeech-sat", "wav2vec2", "wavlm")  # read samples
_SAMPLES_PER_FRAME = 320  # of those that read a spectrogram


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
        Whether the convolutions stay as they are in a trained network; w2v-BERT 2.0 has none below
        its transformer.
    gradient_checkpointing
        Compute layers again in the backward pass instead of keeping what they computed.
    sample_rate
        Hz; must be the network's own.
    normalise_waveform
        Bring every utterance to mean 0 and variance 1 first. ``None``: as the preprocessor file of
        the network says; where there is none, yes, but for Whisper and w2v-BERT 2.0.
    window_s
        Of Whisper, seconds that it reads at a time; ``None``: as it was trained, 30.
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
    window_s: PositiveFloat | None = None
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
            self.encoder = _load(folder, self.config.architecture or {})
        else:
            self.config = _completed(config)
            self.encoder = _build(self.config.architecture or {})
        config, architecture = self.config, self.config.architecture or {}
        self.spectrogram = _spectrogram(architecture, config.sample_rate)
        self._kernels = architecture.get("conv_kernel", ())
        self._strides = architecture.get("conv_stride", ())
        self._shortest = receptive_field(self._kernels, self._strides)
        data2vec = architecture["model_type"] == "data2vec-audio"
        self._takes_mask = data2vec or architecture.get("feat_extract_norm") == "layer"
        self._padding_leaks = self.spectrogram is None and (data2vec or not self._takes_mask)
        whisper = isinstance(self.spectrogram, LogMelWindows)
        self._stack_name = "" if whisper else "encoder"
        # data2vec-audio has the key and does not heed it.
        stable = bool(architecture.get("do_stable_layer_norm")) and not data2vec
        self._final_norm = stable or whisper
        if isinstance(config.layer, int) and self._final_norm:
            self._stack.layer_norm = nn.Identity()  # it belongs to the last layer
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
            for convolutions in self._convolutions():
                convolutions.requires_grad_(False)
        positions = getattr(self.encoder, "embed_positions", None)
        if positions is not None:
            positions.requires_grad_(False)  # sines, in Whisper
        mask_vector = getattr(self.encoder, "masked_spec_embed", None)
        if mask_vector is not None:
            mask_vector.requires_grad_(False)  # nothing is masked, so it would have no gradient
        if self.config.trainable and self.config.gradient_checkpointing:
            self.encoder.activation_checkpointing_enable({"use_reentrant": False})
        self.train(self.training)

    @property
    def _stack(self) -> Any:
        """Holder of the transformer's layers and of the normalisation behind them."""
        return self.encoder.get_submodule(self._stack_name)

    def _convolutions(self) -> list[nn.Module]:
        """Give the convolutions below the transformer."""
        names = ("feature_extractor", "conv1", "conv2")
        return [getattr(self.encoder, name) for name in names if hasattr(self.encoder, name)]

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return len(self._stack.layers)

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
            inner = f"{self._stack_name}." if self._stack_name else ""
            top = (*top, f"encoder.{inner}layer_norm.")
        return parameter_groups(names, n_layers=self.n_layers, decay=decay, top=top)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Switch training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if not self.config.trainable:
            self.encoder.eval()
        elif self.config.freeze_cnn:
            for convolutions in self._convolutions():
                convolutions.eval()  # in training mode they compute gradients anyway
        return self

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the frames of signals of given lengths; at least one."""
        if self.spectrogram is not None:
            return self.spectrogram.n_frames(n_samples)
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
        if self.config.normalise_waveform:
            waveforms = _normalise(waveforms, n_samples)
        if isinstance(self.spectrogram, LogMelWindows):
            return self._window_states(self.spectrogram, waveforms, n_samples)
        if self.spectrogram is not None:
            pairs, mask = self.spectrogram(waveforms, n_samples)
            return self._mixed(pairs, None if bool(mask.all()) else mask.long())
        length = max(self._shortest, int(n_samples.max()))
        waveforms = waveforms[:, :length]
        waveforms = F.pad(waveforms, (0, length - waveforms.shape[1]))
        n_samples = n_samples.clamp_min(self._shortest).unsqueeze(1)
        mask = None
        if self._takes_mask and bool((n_samples < length).any()):
            mask = (torch.arange(length, device=n_samples.device) < n_samples).long()
        return self._mixed(waveforms, mask)

    def _window_states(
        self, spectrogram: LogMelWindows, waveforms: Tensor, n_samples: Tensor
    ) -> Tensor:
        """Run Whisper over windows that are filled up with silence; see :meth:`_states`."""
        windows, holders = spectrogram.cut(waveforms, n_samples)
        states = self._mixed(spectrogram(windows[holders]), None)
        placed = states.new_zeros(len(windows), *states.shape[1:])
        placed[holders] = states
        n_frames = int(self.n_frames(n_samples).max())
        return placed.view(len(waveforms), -1, states.shape[2])[:, :n_frames]

    def _mixed(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Run the network, and mix its layers where that is asked for."""
        weighted = self.layer_weights is not None
        output = self.encoder(inputs, attention_mask=mask, output_hidden_states=weighted)
        last: Tensor = output.last_hidden_state
        if self.layer_weights is None:
            return last
        # The last of the collected states lacks the final normalisation, where there is one.
        states = [*output.hidden_states[:-1], last]
        mixed = torch.zeros_like(last)
        for share, state in zip(self.layer_weights.softmax(0), states, strict=True):
            mixed = mixed + share * state
        return mixed


class LogMelWindows(nn.Module):
    """Whisper's spectrogram: windows of one length, cut from signals, to logarithms of mel bands.

    Parameters
    ----------
    n_mels
        Bands, from 0 Hz to half the rate.
    n_positions
        Frames of the network in a window.
    sample_rate
        Hz.
    """

    hann: Tensor
    mel: Tensor

    n_fft, hop_length = 400, 160  # samples; the network takes every second spectrum

    def __init__(self, *, n_mels: int, n_positions: int, sample_rate: int) -> None:
        super().__init__()
        self.window_length = n_positions * _SAMPLES_PER_FRAME
        matrix = slaney_mel_matrix(
            sample_rate=sample_rate, n_fft=self.n_fft, n_mels=n_mels, f_min_hz=0.0, f_max_hz=None
        )
        self.register_buffer("hann", torch.hann_window(self.n_fft), persistent=False)
        self.register_buffer("mel", torch.from_numpy(matrix).float(), persistent=False)

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the network's frames that hold something of signals of given lengths."""
        return _ceil_div(n_samples.clamp_min(1), _SAMPLES_PER_FRAME)

    def cut(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Cut signals into windows, with silence behind their ends.

        Parameters
        ----------
        waveforms : (batch, n_samples)
        n_samples : (batch,)

        Returns
        -------
        windows : (batch * n_windows, window_length)
        holders : (batch * n_windows,), bool, whether a window holds something of its signal
        """
        n_windows = _ceil_div(n_samples.clamp_min(1), self.window_length)
        most = int(n_windows.max())
        length = most * self.window_length
        at = torch.arange(waveforms.shape[1], device=n_samples.device)
        waveforms = waveforms.masked_fill(at >= n_samples.unsqueeze(1), 0.0)[:, :length]
        windows = F.pad(waveforms, (0, length - waveforms.shape[1])).view(-1, self.window_length)
        holders = torch.arange(most, device=n_windows.device) < n_windows.unsqueeze(1)
        return windows, holders.flatten()

    def forward(self, windows: Tensor) -> Tensor:
        """Compute the spectrogram, ``(n, window_length) -> (n, n_mels, n_spectra)``."""
        spectrum = torch.stft(
            windows, self.n_fft, self.hop_length, window=self.hann, return_complex=True
        )
        power = spectrum[..., :-1].abs().square()
        log = (self.mel.T @ power).clamp_min(1e-10).log10()
        # What lies 80 dB below the loudest of the window counts as silence.
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0


class FbankPairs(nn.Module):
    """What w2v-BERT 2.0 reads: frames of Kaldi's filter bank in pairs, normalised per band.

    Parameters
    ----------
    n_mels
        Bands; a pair is twice as wide.
    sample_rate
        Hz.
    """

    def __init__(self, *, n_mels: int, sample_rate: int) -> None:
        super().__init__()
        self.fbank = Fbank(FbankConfig(sample_rate=sample_rate, n_mels=n_mels))

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Count the pairs in signals of given lengths; at least one."""
        return (self.fbank.n_frames(n_samples) // 2).clamp_min(1)

    def forward(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the pairs of a batch.

        Parameters
        ----------
        waveforms : (batch, n_samples)
        n_samples : (batch,)

        Returns
        -------
        pairs : (batch, n_pairs, 2 * n_mels); what lies beyond a signal's own is zero
        valid : (batch, n_pairs), bool
        """
        at = torch.arange(waveforms.shape[1], device=n_samples.device)
        waveforms = waveforms.masked_fill(at >= n_samples.unsqueeze(1), 0.0)
        bands, n_bands = self.fbank(waveforms, n_samples)
        valid = torch.arange(bands.shape[1], device=n_bands.device) < n_bands.unsqueeze(1)
        valid = valid.unsqueeze(2)
        n = n_bands.view(-1, 1, 1)
        centred = (bands - bands.sum(1, keepdim=True) / n) * valid
        variance = centred.square().sum(1, keepdim=True) / (n - 1).clamp_min(1)
        normal = centred / (variance + 1e-7).sqrt()
        n_pairs = self.n_frames(n_samples)
        most = int(n_pairs.max())
        normal = F.pad(normal, (0, 0, 0, max(0, 2 * most - normal.shape[1])))[:, : 2 * most]
        held = torch.arange(most, device=n_pairs.device) < n_pairs.unsqueeze(1)
        pairs = normal.reshape(len(normal), most, -1)
        return pairs.masked_fill(~held.unsqueeze(2), 0.0), held


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


def _ceil_div(numerator: Tensor, denominator: int) -> Tensor:
    return torch.div(numerator + denominator - 1, denominator, rounding_mode="floor")


def _spectrogram(
    architecture: dict[str, Any], sample_rate: int
) -> LogMelWindows | FbankPairs | None:
    """Build what lies before networks that do not read samples."""
    match architecture["model_type"]:
        case "whisper":
            return LogMelWindows(
                n_mels=architecture["num_mel_bins"],
                n_positions=architecture["max_source_positions"],
                sample_rate=sample_rate,
            )
        case "wav2vec2-bert":
            n_mels = architecture["feature_projection_input_dim"] // 2
            return FbankPairs(n_mels=n_mels, sample_rate=sample_rate)
    return None


def _build(architecture: dict[str, Any]) -> nn.Module:
    where = "front_end.architecture"
    if architecture["model_type"] == "whisper":
        return build_whisper_encoder(architecture, where=where)
    return build_network(architecture, where=where)


def _load(folder: Path, architecture: dict[str, Any]) -> nn.Module:
    if architecture["model_type"] == "whisper":
        return load_whisper_encoder(folder, architecture)
    return load_network(folder, architecture)


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
    if normalise is None and architecture.get("model_type") in _RAW:
        normalise = bool(preprocessor.get("do_normalize", True))
    for key, expected in (("n_fft", LogMelWindows.n_fft), ("hop_length", LogMelWindows.hop_length)):
        if (
            architecture.get("model_type") == "whisper"
            and preprocessor.get(key, expected) != expected
        ):
            raise InputError(
                f"{folder / 'preprocessor_config.json'}: {key} is {preprocessor[key]}, expected "
                f"{expected} as in every published Whisper"
            )
    return _completed(
        replace(
            config,
            layer="last"
            if config.layer == architecture.get(_layers_key(architecture))
            else config.layer,
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
    whisper = architecture["model_type"] == "whisper"
    _shorten_window(config, architecture)
    layers_key = _layers_key(architecture)
    n_layers = architecture[layers_key]
    if config.layer == "weighted":
        architecture["encoder_layerdrop" if whisper else "layerdrop"] = 0.0
    elif isinstance(config.layer, int):
        if config.layer > n_layers:
            raise InputError(
                f"front_end.layer is {config.layer}, but '{config.model}' has {n_layers} layers"
            )
        architecture[layers_key] = config.layer
    normalise = config.normalise_waveform
    if normalise is None:
        normalise = architecture["model_type"] in _RAW
    return replace(config, normalise_waveform=normalise, architecture=architecture)


def _layers_key(architecture: dict[str, Any]) -> str:
    """Name the number of transformer layers; Whisper counts those of its two halves apart."""
    return "encoder_layers" if architecture.get("model_type") == "whisper" else "num_hidden_layers"


def _shorten_window(config: SpeechEncoderConfig, architecture: dict[str, Any]) -> None:
    """Fit the number of positions of Whisper to ``window_s``."""
    if config.window_s is None:
        return
    if architecture["model_type"] != "whisper":
        raise InputError(
            f"front_end.window_s is {config.window_s:g}, but '{config.model}' is no Whisper and "
            "has no windows: leave it out"
        )
    n_known = architecture["max_source_positions"]
    n_wanted = round(config.window_s * config.sample_rate / _SAMPLES_PER_FRAME)
    if not 1 <= n_wanted <= n_known:
        longest = n_known * _SAMPLES_PER_FRAME / config.sample_rate
        raise InputError(
            f"front_end.window_s is {config.window_s:g}, but '{config.model}' knows positions of "
            f"up to {longest:g} s: set it to that or less, or leave it out"
        )
    architecture["max_source_positions"] = n_wanted


def _preprocessor(folder: Path) -> dict[str, Any]:
    """Read how a network wants its waveforms; empty where its folder does not say."""
    if (folder / "preprocessor_config.json").is_file():
        return read_json(folder / "preprocessor_config.json")
    if (folder / "processor_config.json").is_file():
        nested = read_json(folder / "processor_config.json").get("feature_extractor")
        return nested if isinstance(nested, dict) else {}
    return {}
