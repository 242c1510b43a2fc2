"""Emotion from speech taken apart: a speech encoder's frames beside content, rhythm, pitch, timbre.

After Hsu, Wu, Wei: "Speech Emotion Recognition using Decomposed Speech via Multi-task Learning",
Interspeech 2023, pp. 4553-4557. Known of it in public are the abstract (parts, tasks, 77.50 %
accuracy) and the two systems it is made of: SpeechSplit (``speech_split.py``) and emotion with
transcription on wav2vec 2.0 (Cai, Yuan, Zheng, Huang, Church, Interspeech 2021). How these are
joined is **a reconstruction of ours**; the parts agree with their public codes.

The frames of a speech encoder, which is a front end, are averaged; of each stream's codes there are
mean and deviation; of the voice there is a vector, so that strangers have one. Each of these is
normalised, and together (996 numbers beside 768 features) they are classified. Further heads spell
what was said (CTC, from the frames), name the speaker (from the timbre), and decode the codes into
the mel spectrogram they came from. Encoders and decoder may come from a trained
:class:`.SpeechSplit`: :meth:`Decomposed.load_split`.

==============  =========================================================  =====================
variant         settings                                                   outputs with losses
==============  =========================================================  =====================
emotion alone   decomposition = none                                       emotion
and text        decomposition = none, n_symbols                            emotion, asr
single encoder  decomposition = single, n_symbols, n_speakers              emotion, asr, speaker,
                                                                           reconstruction
final           n_symbols, n_speakers                                      the same four
one stream off  streams                                                    as there are heads
codes only      backbone = false                                           all but asr
==============  =========================================================  =====================

The system of Cai et al. is "and text" with ``layer_norm = false``, ``mask_pooling = false`` and
``dropout = 0``; it agrees with their public code in logits, losses and gradients.

Parameters (39 features, 7 classes): 19,434,514.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask, masked_mean, run_lstm
from serkit.models.speech_split import (
    CODES,
    Decomposer,
    SpeechSplitConfig,
    SplitSizes,
    Stream,
    mean_and_deviation,
    mel_decoder,
)
from serkit.types import InputError

__all__ = ["Decomposed", "DecomposedConfig", "LoadedSplit"]

MEL_HOP_S = 0.016  # of the parts; frame j is centred at j hops

# What a SpeechSplit has as well, and of that what has columns by stream.
_SPLIT_PARTS = ("decomposer", "decoder")
_BY_STREAM = ("decoder.lstm.weight_ih_l0", "decoder.lstm.weight_ih_l0_reverse")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecomposedConfig:
    """What the network reads, and which heads it has."""

    n_features: PositiveInt = 768  # of a frame of the backbone
    n_classes: PositiveInt = 4
    n_symbols: NonNegativeInt | None = 0  # of the CTC layer, blank included; none or 0: no layer
    n_speakers: NonNegativeInt = 0  # of the training part; 0: speakers are not told apart
    backbone: bool = True  # False: codes only
    n_backbone_layers: NonNegativeInt = 0  # a BLSTM on the features; 0: they come from an encoder
    backbone_width: PositiveInt = 256  # units per direction
    decomposition: Literal["none", "split", "single"] = "split"
    # None: all that the decomposition gives. A single encoder's code is always there.
    streams: tuple[Literal["content", "rhythm", "pitch", "timbre"], ...] | None = None
    sizes: SplitSizes = field(default_factory=SplitSizes)
    pack: bool = True  # False: the parts' padding is encoded, as published
    freeze_decomposer: bool = False  # the encoders that give codes
    resample_in_training: bool = False  # what content and pitch read
    reconstruct: bool = True  # where there is a decomposition
    fusion: Literal["pooled", "frame"] = "pooled"
    n_fused: PositiveInt = 256  # numbers per frame; fusion = frame only
    frame_s: PositiveFloat = 0.02  # from one frame of the backbone to the next
    frame_offset_s: NonNegativeFloat = 0.0125  # centre of its first frame
    asr_uses_content: bool = False
    mask_pooling: bool = True  # False: the mean counts the batch's padding, as published
    layer_norm: bool = True  # of each stream
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


@dataclass(frozen=True, slots=True)
class LoadedSplit:
    """What became of a trained SpeechSplit.

    Attributes
    ----------
    taken
        Weights that are now those of the state.
    initial
        Weights of encoders and decoder, or columns of them, that are still as initialised.
    unused
        Names of the state that this network has no place for.
    """

    taken: tuple[str, ...]
    initial: tuple[str, ...]
    unused: tuple[str, ...]


class Decomposed(nn.Module):
    """The network; see the module's page.

    Parameters
    ----------
    config
        See :class:`DecomposedConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: DecomposedConfig) -> None:
        super().__init__()
        streams = _streams(config)
        _check(config, streams)
        self.config = config
        sizes: dict[str, int] = {}  # of what is pooled
        if config.backbone:
            self.recurrent = _recurrent(config) if config.n_backbone_layers else None
            sizes["backbone"] = _backbone_width(config)
        self.decomposer = _decomposer(config, streams) if streams else None
        self.decoder = None
        codes: dict[Stream, int] = {}
        if self.decomposer is not None:
            codes = self.decomposer.widths
            sizes |= {s: n if s == "timbre" else 2 * n for s, n in codes.items()}
            if config.reconstruct:
                self.decoder = mel_decoder(self.decomposer)
        if config.fusion == "frame":
            n_frame = sizes["backbone"] + sum(codes[s] for s in CODES if s in codes)
            self.fuse = nn.Linear(n_frame, config.n_fused)
            sizes = {"fused": config.n_fused} | {s: n for s, n in sizes.items() if s == "timbre"}
        self.norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(size) if config.layer_norm else nn.Identity()
                for name, size in sizes.items()
            }
        )
        self.classifier = nn.Linear(sum(sizes.values()), config.n_classes)
        if config.n_symbols:
            n_content = codes["content"] if config.asr_uses_content else 0
            self.asr = nn.Linear(_backbone_width(config) + n_content, config.n_symbols)
        if config.n_speakers:
            self.speaker = nn.Linear(codes["timbre"], config.n_speakers)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        features: Tensor | None,
        n_frames: Tensor | None,
        parts: Tensor | None = None,
        n_parts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Classify a batch.

        Parameters
        ----------
        features : (batch, n_frames, n_features), of the front end; unused without a backbone
        n_frames : (batch,), valid frames of each utterance; the rest is padding
        parts : (batch, n_parts, n_mels + 1), mel and F0; unused without a decomposition
            See :meth:`.SpeechSplit.forward`; 16 ms from one frame to the next.
        n_parts : (batch,)

        Returns
        -------
        emotion : (batch, n_classes), logits
        embedding : (batch, d), what the classifier sees
        asr : (batch, n_frames, n_symbols), logits; with ``n_asr`` (batch,), valid frames
        speaker : (batch, n_speakers), logits
        reconstruction : (batch, n_parts, n_mels), to be compared with the clipped mel; with
            ``n_reconstruction`` (batch,)

        Raises
        ------
        InputError
            If features or parts that the network reads are not given, or are too narrow.
        """
        outputs: dict[str, Tensor] = {}
        codes: dict[Stream, Tensor] = {}
        if self.decomposer is not None:
            parts, n_parts = _given("parts", parts, n_parts)
            codes = self.decomposer(parts, n_parts)
            if self.config.n_speakers:
                outputs["speaker"] = self.speaker(codes["timbre"])
            if self.decoder is not None:
                mel = self.decoder(codes, n_parts, width=parts.shape[1])
                outputs |= {"reconstruction": mel, "n_reconstruction": n_parts}
        if self.config.backbone:
            features, n_frames = _given("features", features, n_frames)
            frames = self._frames(features, n_frames)
            if self.config.n_symbols:
                read = self.dropout(frames)
                if self.config.asr_uses_content:
                    read = torch.cat([read, self._aligned("content", codes, n_parts, read)], dim=2)
                outputs |= {"asr": self.asr(read[:, : features.shape[1]]), "n_asr": n_frames}
            pooled = self._pooled(frames, n_frames, codes, n_parts)
        else:
            pooled = self._pooled_codes(codes, n_parts)
        vectors = [self.norms[name](vector) for name, vector in pooled.items()]
        embedding = torch.cat(vectors, dim=1)
        emotion = self.classifier(self.dropout(embedding))
        return {"emotion": emotion, "embedding": embedding} | outputs

    def load_split(self, state: Mapping[str, Tensor]) -> LoadedSplit:
        """Take encoders and decoder from a trained :class:`.SpeechSplit`.

        Streams that either side lacks are left out. What the decoder does with a timbre is taken
        only where it was trained with a timbre encoder of this width; with numbers of speakers
        instead, those columns of its first layer stay as initialised.

        Parameters
        ----------
        state
            Of ``SpeechSplit.state_dict()``.

        Raises
        ------
        InputError
            If weights have other shapes, or are of another network.
        """
        own = {k: v for k, v in self.state_dict().items() if k.split(".")[0] in _SPLIT_PARTS}
        taken: dict[str, Tensor] = {}
        initial = []
        for name, weight in own.items():
            if name not in state:
                initial.append(name)
            elif name in _BY_STREAM:
                taken[name], missing = self._columns(name, weight, state)
                initial += [f"{name}: columns of {stream}" for stream in missing]
            elif state[name].shape != weight.shape:
                raise InputError(
                    f"{name} of the SpeechSplit has the shape {tuple(state[name].shape)}, expected "
                    f"{tuple(weight.shape)}: give model.sizes the sizes it was trained with"
                )
            else:
                taken[name] = state[name]
        if not taken:
            raise InputError(
                f"none of the {len(state)} weights is one of this network's encoders or decoder: "
                "expected the state of a SpeechSplit, and a model with a decomposition"
            )
        self.load_state_dict(taken, strict=False)
        return LoadedSplit(tuple(taken), tuple(initial), tuple(sorted(set(state) - set(own))))

    def _columns(
        self, name: str, weight: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[Stream]]:
        """Fit the decoder's first weights to the streams there are; name those left as they are."""
        assert self.decomposer is not None
        theirs = _places(_widths_of(state, state[name].shape[1]))
        ours = _places(self.decomposer.widths)
        if len(state[name]) != len(weight):
            raise InputError(
                f"{name} of the SpeechSplit has {len(state[name])} rows, expected {len(weight)}: "
                "give model.sizes the sizes it was trained with"
            )
        filled, missing = weight.clone(), []
        for stream, place in ours.items():
            source = theirs.get(stream)
            if source is None or len(source) != len(place):
                missing.append(stream)
            else:
                filled[:, place] = state[name][:, source].to(weight)
        return filled, missing

    def _frames(self, features: Tensor, n_frames: Tensor) -> Tensor:
        """Give the backbone's frames, at least one."""
        features = F.pad(features, (0, 0, 0, max(0, 1 - features.shape[1])))
        if self.config.mask_pooling:
            valid = lengths_to_mask(n_frames, features.shape[1])
            features = features.masked_fill(~valid.unsqueeze(2), 0)
        if self.recurrent is not None:
            features = run_lstm(self.recurrent, features, n_frames.clamp_min(1))
        return features

    def _pooled(
        self,
        frames: Tensor,
        n_frames: Tensor,
        codes: Mapping[Stream, Tensor],
        n_parts: Tensor | None,
    ) -> dict[str, Tensor]:
        """Join frames and codes into one vector per stream."""
        if self.config.fusion == "pooled":
            return {"backbone": self._mean(frames, n_frames)} | self._pooled_codes(codes, n_parts)
        aligned = [self._aligned(s, codes, n_parts, frames) for s in CODES if s in codes]
        # Without a nonlinearity, the mean of the frames would be all that is seen of them.
        fused = F.relu(self.fuse(torch.cat([frames, *aligned], dim=2)))
        timbre = {s: codes[s] for s in codes if s == "timbre"}
        return {"fused": self._mean(fused, n_frames)} | timbre

    def _mean(self, frames: Tensor, n_frames: Tensor) -> Tensor:
        if not self.config.mask_pooling:
            return frames.mean(1)
        mask = lengths_to_mask(n_frames, frames.shape[1])
        return masked_mean(frames.transpose(1, 2), mask.unsqueeze(1))

    def _pooled_codes(
        self, codes: Mapping[Stream, Tensor], n_parts: Tensor | None
    ) -> dict[str, Tensor]:
        """Give mean and deviation of each stream's codes, and the timbre."""
        pooled: dict[str, Tensor] = {}
        if self.decomposer is None or n_parts is None:
            return pooled
        for stream, step in self.decomposer.steps.items():
            x = codes[stream].transpose(1, 2)
            pooled[stream] = mean_and_deviation(x, lengths_to_mask(-(-n_parts // step), x.shape[2]))
        return pooled | {s: codes[s] for s in codes if s == "timbre"}

    def _aligned(
        self, stream: Stream, codes: Mapping[Stream, Tensor], n_parts: Tensor | None, frames: Tensor
    ) -> Tensor:
        """Give a stream's codes at the times of the backbone's frames.

        A code holds for the frames of the parts it is of; between the centres of two of these,
        values are interpolated.

        Returns
        -------
        aligned : (batch, n_frames, width)
        """
        assert self.decomposer is not None
        assert n_parts is not None
        step = self.decomposer.steps[stream]
        index = torch.arange(frames.shape[1], device=frames.device)
        times_s = self.config.frame_offset_s + self.config.frame_s * index
        last = (n_parts.clamp_min(1) - 1).unsqueeze(1)
        places = torch.minimum(times_s / MEL_HOP_S, last)  # (batch, n_frames), in frames of parts
        left = places.long()
        right = torch.minimum(left + 1, last)
        weight = (places - left).to(frames.dtype).unsqueeze(2)
        code_of = [place // step for place in (left, right)]
        values = [codes[stream].gather(1, _over(c, codes[stream].shape[2])) for c in code_of]
        return (1 - weight) * values[0] + weight * values[1]


def _over(index: Tensor, width: int) -> Tensor:
    """Repeat ``(batch, n)`` over channels, as gather wants it."""
    return index.unsqueeze(2).expand(-1, -1, width)


def _places(widths: Mapping[Stream, int]) -> dict[Stream, range]:
    """Find each stream's columns among the decoder's inputs."""
    places, start = {}, 0
    for stream, width in widths.items():
        places[stream] = range(start, start + width)
        start += width
    return places


def _widths_of(state: Mapping[str, Tensor], n_columns: int) -> dict[Stream, int]:
    """Read from the weights of a SpeechSplit how wide its decoder's inputs are."""
    widths: dict[Stream, int] = {}
    for stream in CODES:
        weight = state.get(f"decomposer.encoders.{stream}.lstm.weight_hh_l0")
        if weight is not None:
            widths[stream] = 2 * weight.shape[1]
    if "decomposer.timbre.project.weight" in state:
        widths["timbre"] = n_columns - sum(widths.values())
    return widths


def _streams(config: DecomposedConfig) -> tuple[Stream, ...]:
    """Name the streams there are."""
    if config.decomposition == "split":
        return config.streams if config.streams is not None else (*CODES[1:], "timbre")
    given = config.streams if config.streams is not None else ("timbre",)
    return ("joint", *given) if config.decomposition == "single" else (config.streams or ())


def _decomposer(config: DecomposedConfig, streams: tuple[Stream, ...]) -> Decomposer:
    decomposer = Decomposer(
        SpeechSplitConfig(
            sizes=config.sizes,
            streams=streams,
            resample=config.resample_in_training,
            pack=config.pack,
        )
    )
    if config.freeze_decomposer:
        decomposer.encoders.requires_grad_(False)
    return decomposer


def _recurrent(config: DecomposedConfig) -> nn.LSTM:
    return nn.LSTM(
        config.n_features,
        config.backbone_width,
        config.n_backbone_layers,
        batch_first=True,
        bidirectional=True,
    )


def _backbone_width(config: DecomposedConfig) -> int:
    return 2 * config.backbone_width if config.n_backbone_layers else config.n_features


def _given(name: str, x: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    if x is None or lengths is None:
        raise InputError(
            f"the network reads {name}, and got none: add the front end that gives them, or leave "
            f"out {'the decomposition' if name == 'parts' else 'the backbone'}"
        )
    return x, lengths


def _check(config: DecomposedConfig, streams: tuple[Stream, ...]) -> None:
    """Refuse settings that contradict each other."""
    if config.decomposition == "none" and streams:
        raise InputError(
            f"model.streams = {list(streams)}: decomposition = none gives no stream; leave "
            "streams out, or choose split"
        )
    if config.decomposition == "split" and not streams:
        raise InputError("model.streams = []: for none of them, set decomposition to none")
    joined = sorted(set(config.streams or ()) & set(CODES))
    if config.decomposition == "single" and joined:
        raise InputError(
            f"model.streams has '{joined[0]}': a single encoder gives one code for all; beside it "
            "only timbre may be there"
        )
    if not config.backbone and not streams:
        raise InputError("model.backbone = false and no stream: nothing is left to read")
    if config.n_speakers and "timbre" not in streams:
        raise InputError(
            f"model.n_speakers = {config.n_speakers}: speakers are told apart by their timbre, "
            "and there is no such stream; set n_speakers to 0"
        )
    _check_frames(config, streams)


def _check_frames(config: DecomposedConfig, streams: tuple[Stream, ...]) -> None:
    """Refuse heads that want frames or codes that are not there."""
    if config.n_symbols and not config.backbone:
        raise InputError(
            f"model.n_symbols = {config.n_symbols}: CTC reads the backbone's frames, and backbone "
            "= false; set n_symbols to 0"
        )
    if config.asr_uses_content and not (config.n_symbols and "content" in streams):
        raise InputError(
            "model.asr_uses_content: there is no "
            + ("content stream" if config.n_symbols else "CTC layer (n_symbols)")
            + "; turn it off"
        )
    if config.fusion == "frame" and not (config.backbone and set(streams) & set(CODES)):
        raise InputError(
            "model.fusion = frame joins the backbone's frames with codes; give it a backbone and "
            "a stream of codes, or choose pooled"
        )
