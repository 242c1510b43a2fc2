"""SpeechSplit: speech taken apart into what, when, how high and who, and put together again.

Qian, Zhang, Chang, Cox, Hasegawa-Johnson: "Unsupervised Speech Decomposition via Triple Information
Bottleneck", ICML 2020 (arXiv 2004.11284); as in the authors' public code
``auspicious3000/SpeechSplit``, with which this file agrees in codes, outputs, losses and gradients.

Three encoders read an utterance, each through a bottleneck that is too narrow for the rest: content
and rhythm read the mel spectrogram, pitch the quantised F0. What content and pitch read is randomly
resampled in training, before and after every convolution, both alike; so only rhythm can tell how
long things last. Each encoder gives one code per 8 frames: the forward half of a BLSTM at the last
of them, the backward half at the first. A decoder reads the codes, repeated for their frames, and
the speaker, and says the mel spectrogram again. To read only rhythm and pitch and say the quantised
F0 is the work of :class:`F0Converter`.

What training compares ``reconstruction`` with is the mel as it came in, clipped to [0, 1] and not
resampled; zeros behind the end, where these are counted (published), or only the first
``n_reconstruction`` frames.

Parameters: 19,437,800 with the 82 speakers of the authors' setting, 19,142,888 with 10. Content
2,865,920, rhythm 52,632, pitch 1,060,864, decoder 15,458,384 and 15,163,472. The F0 converter has
3,485,849.

Deviations:

1. A speaker may be described by an encoder of his voice (``timbre = "encoder"``, the default)
   instead of his number, which a stranger does not have: mean and standard deviation of a
   convolution of the mel, projected to 64 numbers.
2. Padding does not count: an utterance gets what it would get alone, lengthened by silence to the
   next multiple of 8 frames. As published, ``pack = False``, the padding of the batch is silence
   that is encoded, and shares in the mean and variance of the group norms.
3. Encoders may be left out. ``joint`` is one encoder in place of all three, with a code as wide as
   theirs together, of the mel alone and without resampling: the system that taking apart must beat.
4. Sequences of any length are padded inside, to whole codes and, in training, to the 1.5 times
   their length that resampling may give them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from serkit.models.layers import lengths_to_mask, masked_mean, run_lstm
from serkit.models.resampling import SLOWEST, RandomResampler
from serkit.types import InputError

__all__ = [
    "CODES",
    "UNVOICED",
    "Decoder",
    "Decomposer",
    "F0Converter",
    "F0ConverterConfig",
    "SpeechSplit",
    "SpeechSplitConfig",
    "SplitSizes",
    "Stream",
    "f0_bins",
]

Stream = Literal["content", "rhythm", "pitch", "joint", "timbre"]

CODES: tuple[Stream, ...] = ("joint", "content", "rhythm", "pitch")
"""Streams with a code for every few frames, in the order of the decoder's inputs."""

_WARPED: tuple[Stream, ...] = ("content", "pitch")  # by resampling
_STRAIGHT: tuple[Stream, ...] = ("joint", "rhythm")

UNVOICED = -1e10
"""F0 of a frame without voice: so low that no interpolation with a voiced one is positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSizes:
    """Widths of the network; defaults are the authors'."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid"}

    n_mels: PositiveInt = 80
    n_f0_bins: PositiveInt = 256  # of voiced frames
    content_width: PositiveInt = 512  # channels of the convolutions
    rhythm_width: PositiveInt = 128
    pitch_width: PositiveInt = 256
    content_units: PositiveInt = 8  # per direction; a code has twice as many numbers
    rhythm_units: PositiveInt = 1
    pitch_units: PositiveInt = 32
    content_step: PositiveInt = 8  # frames per code
    rhythm_step: PositiveInt = 8
    pitch_step: PositiveInt = 8
    decoder_units: PositiveInt = 512  # per direction
    n_decoder_layers: PositiveInt = 3
    group_width: PositiveInt = 16  # channels of a group of the group norms
    timbre_width: PositiveInt = 128  # channels of the convolution
    n_timbre: PositiveInt = 64
    min_segment: PositiveInt = 19  # frames that are resampled by one factor
    max_segment: PositiveInt = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSplitConfig:
    """What the network takes speech apart into."""

    sizes: SplitSizes = field(default_factory=SplitSizes)
    streams: tuple[Stream, ...] = ("content", "rhythm", "pitch", "timbre")
    timbre: Literal["encoder", "one_hot"] = "encoder"
    n_speakers: NonNegativeInt = 0  # one_hot only
    resample: bool = True  # in training
    pack: bool = True  # False: padding counts


@dataclass(frozen=True, slots=True, kw_only=True)
class F0ConverterConfig:
    """Shape of the F0 converter; of the sizes, those of the encoders are used."""

    sizes: SplitSizes = field(default_factory=SplitSizes)
    decoder_units: PositiveInt = 256  # per direction
    n_decoder_layers: PositiveInt = 2
    resample: bool = True
    pack: bool = True


def f0_bins(f0: Tensor, n_bins: int = 256) -> Tensor:
    """Quantise an F0 contour.

    Parameters
    ----------
    f0
        In (0, 1]; zero or less where unvoiced.

    Returns
    -------
    bins : integers of the same shape, 0 where unvoiced, else 1 to ``n_bins``

    >>> f0_bins(torch.tensor([-1.0, 0.0, 0.001, 0.5, 1.0])).tolist()
    [0, 0, 1, 129, 256]
    """
    bins = 1 + (f0.clamp(0, 1) * (n_bins - 1)).round().long()  # ties go to the even number
    return bins.where(f0 > 0, 0)


def whole(lengths: Tensor, step: int) -> Tensor:
    """Lengthen to the next multiple of a step, at least one."""
    return (lengths.clamp_min(1) + step - 1) // step * step


class ConvBlock(nn.Module):
    """Convolution over five frames, group norm, ReLU."""

    def __init__(self, n_in: int, width: int, *, group_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_in, width, 5, padding=2)
        nn.init.xavier_uniform_(self.conv.weight, gain=nn.init.calculate_gain("relu"))
        self.norm = nn.GroupNorm(width // group_width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map ``(batch, n_in, n_frames)`` and a mask ``(batch, n_frames)`` to ``width`` channels.

        Both ends of an utterance are seen as zeros, and so is what is given.
        """
        mask = mask.unsqueeze(1)
        x = self.conv(x * mask)  # (batch, width, n_frames)
        groups = torch.unflatten(x, 1, (self.norm.num_groups, -1)).flatten(2)
        counted = mask.repeat(1, 1, x.shape[1] // self.norm.num_groups)
        mean = masked_mean(groups, counted).unsqueeze(2)
        variance = masked_mean((groups - mean).square(), counted).unsqueeze(2)
        x = ((groups - mean) * (variance + self.norm.eps).rsqrt()).view_as(x)
        x = x * self.norm.weight.unsqueeze(1) + self.norm.bias.unsqueeze(1)
        return F.relu(x) * mask


class Encoder(nn.Module):
    """Convolutions, and a narrow BLSTM that is read once per ``step`` frames."""

    def __init__(
        self,
        n_in: int,
        width: int,
        *,
        n_blocks: int,
        n_units: int,
        n_layers: int,
        step: int,
        group_width: int,
    ) -> None:
        super().__init__()
        self.step = step
        self.n_out = 2 * n_units
        self.blocks = nn.ModuleList(
            ConvBlock(width if i else n_in, width, group_width=group_width) for i in range(n_blocks)
        )
        self.lstm = nn.LSTM(width, n_units, n_layers, batch_first=True, bidirectional=True)

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Turn channels ``(batch, width, n_frames)`` into codes ``(batch, n_codes, n_out)``."""
        y = run_lstm(self.lstm, x.transpose(1, 2), lengths)
        forward, backward = y.chunk(2, dim=2)
        return torch.cat([forward[:, self.step - 1 :: self.step], backward[:, :: self.step]], dim=2)


def _encoder(stream: Stream, sizes: SplitSizes) -> Encoder:
    """Build the encoder of a stream that has codes."""
    content, rhythm, pitch = sizes.content_units, sizes.rhythm_units, sizes.pitch_units
    n_in, width, n_blocks, n_units, n_layers, step = {
        "content": (sizes.n_mels, sizes.content_width, 3, content, 2, sizes.content_step),
        "rhythm": (sizes.n_mels, sizes.rhythm_width, 1, rhythm, 1, sizes.rhythm_step),
        "pitch": (sizes.n_f0_bins + 1, sizes.pitch_width, 3, pitch, 1, sizes.pitch_step),
        "joint": (
            sizes.n_mels,
            sizes.content_width,
            3,
            content + rhythm + pitch,
            2,
            sizes.content_step,
        ),
    }[stream]
    return Encoder(
        n_in,
        width,
        n_blocks=n_blocks,
        n_units=n_units,
        n_layers=n_layers,
        step=step,
        group_width=sizes.group_width,
    )


class TimbreEncoder(nn.Module):
    """The voice of an utterance, whatever it says: statistics of a convolution of the mel."""

    def __init__(self, sizes: SplitSizes) -> None:
        super().__init__()
        width = sizes.timbre_width
        self.block = ConvBlock(sizes.n_mels, width, group_width=sizes.group_width)
        self.project = nn.Linear(2 * width, sizes.n_timbre)

    def forward(self, mel: Tensor, n_frames: Tensor) -> Tensor:
        """Map ``(batch, n_frames, n_mels)`` to ``(batch, n_timbre)``."""
        mask = lengths_to_mask(n_frames, mel.shape[1])
        x = self.block(mel.transpose(1, 2), mask)
        vector: Tensor = self.project(mean_and_deviation(x, mask))
        return vector


def mean_and_deviation(x: Tensor, mask: Tensor) -> Tensor:
    """Pool ``(batch, n_channels, n_frames)`` over valid frames to ``(batch, 2 * n_channels)``."""
    mask = mask.unsqueeze(1)
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean.unsqueeze(2)).square(), mask)
    # The root of zero, which one frame alone has, has no finite gradient.
    return torch.cat([mean, variance.clamp_min(1e-8).sqrt()], dim=1)


class Decomposer(nn.Module):
    """The encoders: an utterance becomes a sequence of codes per stream, and a timbre.

    Parameters
    ----------
    config
        See :class:`SpeechSplitConfig`.

    Attributes
    ----------
    steps
        Frames per code of each stream that has codes.
    widths
        Numbers in a code, or in the timbre, of each stream; in the order of the decoder's inputs.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: SpeechSplitConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        sizes = config.sizes
        encoders = {stream: _encoder(stream, sizes) for stream in CODES if stream in config.streams}
        self.encoders = nn.ModuleDict({str(stream): e for stream, e in encoders.items()})
        self.steps = {stream: encoder.step for stream, encoder in encoders.items()}
        self.widths = {stream: encoder.n_out for stream, encoder in encoders.items()}
        if "timbre" in config.streams:
            one_hot = config.timbre == "one_hot"
            self.widths["timbre"] = config.n_speakers if one_hot else sizes.n_timbre
        learnt = "timbre" in config.streams and config.timbre == "encoder"
        self.timbre = TimbreEncoder(sizes) if learnt else None
        self.resampler = RandomResampler(
            min_segment=sizes.min_segment, max_segment=sizes.max_segment
        )

    def forward(
        self,
        features: Tensor,
        n_frames: Tensor,
        speaker: Tensor | None = None,
        *,
        without: Collection[str] = (),
    ) -> dict[Stream, Tensor]:
        """Take a batch apart.

        Parameters
        ----------
        features : (batch, n_frames, n_mels + 1)
            Mel, clipped to [0, 1] here, and F0 in (0, 1], zero or less where unvoiced.
        n_frames : (batch,)
        speaker : (batch,), number; -100, or none for all: unknown
        without
            Streams whose encoder gets zeros to read.

        Returns
        -------
        codes : by stream, (batch, n_codes, width); timbre (batch, width)

        Raises
        ------
        InputError
            If columns are missing, or a stream or a speaker is unknown.
        """
        sizes = self.config.sizes
        _check_input(features, n_frames, sizes)
        unknown = sorted(set(without) - set(self.config.streams))
        if unknown:
            raise InputError(
                f"without '{unknown[0]}': no such stream; known: {', '.join(self.config.streams)}"
            )
        n_whole = _ceil(features.shape[1], self._multiple)
        features = F.pad(features, (0, 0, 0, max(0, n_whole - features.shape[1])))
        valid = lengths_to_mask(n_frames, n_whole).unsqueeze(2)
        mel = features[..., : sizes.n_mels].clamp(0, 1).masked_fill(~valid, 0)
        f0 = features[..., sizes.n_mels :]
        f0 = f0.masked_fill(~(valid & (f0 > 0)), UNVOICED)
        codes = self._warped(mel, f0, n_frames, without) | self._straight(mel, n_frames, without)
        if "timbre" in self.config.streams:
            timbre = self._timbre(mel, n_frames, speaker)
            codes["timbre"] = timbre * ("timbre" not in without)
        return codes

    def _encoder(self, stream: Stream) -> Encoder:
        encoder = self.encoders[stream]
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def _multiple(self) -> int:
        """What a number of frames must be a multiple of."""
        return math.lcm(*self.steps.values())

    def _warped(
        self, mel: Tensor, f0: Tensor, n_frames: Tensor, without: Collection[str]
    ) -> dict[Stream, Tensor]:
        """Encode content and pitch, whose rhythm is destroyed in training."""
        encoders = {s: self._encoder(s) for s in _WARPED if s in self.encoders}
        if not encoders:
            return {}
        resampled = self.config.resample and self.training
        x, n_whole = torch.cat([mel, f0], dim=2), mel.shape[1]
        if resampled:
            longest = math.ceil(SLOWEST * int(n_frames.max()))
            room = _ceil(max(longest, n_whole), self._multiple)
            x, n_frames = self.resampler(F.pad(x, (0, 0, 0, room - n_whole)), n_frames)
        n = self._counted(n_frames, x.shape[1])
        n_bins = self.config.sizes.n_f0_bins
        pitch = F.one_hot(f0_bins(x[..., -1], n_bins), n_bins + 1).to(mel.dtype)
        inputs = {"content": x[..., :-1], "pitch": pitch}
        xs = [inputs[s].transpose(1, 2) * (s not in without) for s in encoders]
        for blocks in zip(*(encoder.blocks for encoder in encoders.values()), strict=True):
            mask = lengths_to_mask(n, x.shape[1])
            xs = [block(x, mask) for block, x in zip(blocks, xs, strict=True)]
            if resampled:
                both, n = self.resampler(torch.cat(xs, dim=1).transpose(1, 2), n)
                n = self._counted(n, both.shape[1])
                xs = list(both.transpose(1, 2).split([x.shape[1] for x in xs], dim=1))
        return {
            stream: encoder.read(x, n)[:, : n_whole // encoder.step]
            for (stream, encoder), x in zip(encoders.items(), xs, strict=True)
        }

    def _straight(
        self, mel: Tensor, n_frames: Tensor, without: Collection[str]
    ) -> dict[Stream, Tensor]:
        """Encode what keeps its rhythm."""
        n = self._counted(n_frames, mel.shape[1])
        mask = lengths_to_mask(n, mel.shape[1])
        codes: dict[Stream, Tensor] = {}
        for stream in _STRAIGHT:
            if stream in self.encoders:
                encoder = self._encoder(stream)
                x = mel.transpose(1, 2) * (stream not in without)
                for block in encoder.blocks:
                    x = block(x, mask)
                codes[stream] = encoder.read(x, n)
        return codes

    def _counted(self, lengths: Tensor, width: int) -> Tensor:
        """Count the frames of each row that are encoded: whole codes, or all with the padding."""
        if self.config.pack:
            return whole(lengths, self._multiple).clamp_max(width)
        return torch.full_like(lengths, width)

    def _timbre(self, mel: Tensor, n_frames: Tensor, speaker: Tensor | None) -> Tensor:
        if self.timbre is not None:
            vector: Tensor = self.timbre(mel, n_frames)
            return vector
        n_speakers = self.config.n_speakers
        if speaker is None:
            return mel.new_zeros(len(mel), n_speakers)
        if (speaker >= n_speakers).any():
            raise InputError(
                f"speaker number {int(speaker.max())}: the network knows {n_speakers}, from 0; "
                "give strangers -100"
            )
        return (speaker.unsqueeze(1) == torch.arange(n_speakers, device=mel.device)).to(mel.dtype)


class Decoder(nn.Module):
    """Codes, repeated for their frames, and timbre become frames.

    Parameters
    ----------
    steps, widths
        Of the streams, see :class:`Decomposer`.
    """

    def __init__(
        self,
        steps: Mapping[Stream, int],
        widths: Mapping[Stream, int],
        *,
        n_units: int,
        n_layers: int,
        n_out: int,
        pack: bool,
    ) -> None:
        super().__init__()
        self.steps, self.widths, self.pack = dict(steps), dict(widths), pack
        self.lstm = nn.LSTM(
            sum(widths.values()), n_units, n_layers, batch_first=True, bidirectional=True
        )
        self.linear = nn.Linear(2 * n_units, n_out)

    def forward(self, codes: Mapping[Stream, Tensor], n_frames: Tensor, *, width: int) -> Tensor:
        """Say what the codes stand for.

        Parameters
        ----------
        codes
            Of :meth:`Decomposer.forward`, or of several utterances mixed.
        n_frames : (batch,)
        width
            Frames to give.

        Returns
        -------
        frames : (batch, width, n_out); unless padding counts, zeros behind the ends
        """
        multiple = math.lcm(*self.steps.values())
        n_whole = _ceil(width, multiple)
        parts = [codes[s].repeat_interleave(step, dim=1) for s, step in self.steps.items()]
        if "timbre" in self.widths:
            parts.append(codes["timbre"].unsqueeze(1).expand(-1, n_whole, -1))
        n = whole(n_frames, multiple) if self.pack else torch.full_like(n_frames, n_whole)
        frames: Tensor = self.linear(run_lstm(self.lstm, torch.cat(parts, dim=2), n))[:, :width]
        if self.pack:
            frames = frames.masked_fill(~lengths_to_mask(n_frames, width).unsqueeze(2), 0)
        return frames


class SpeechSplit(nn.Module):
    """Encoders and decoder; see the module's page.

    Parameters
    ----------
    config
        See :class:`SpeechSplitConfig`.

    Raises
    ------
    InputError
        If settings contradict each other.
    """

    def __init__(self, config: SpeechSplitConfig) -> None:
        super().__init__()
        self.config = config
        self.decomposer = Decomposer(config)
        self.decoder = mel_decoder(self.decomposer)

    def forward(
        self, features: Tensor, n_frames: Tensor, speaker: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Take a batch apart and put it together again.

        Parameters
        ----------
        features : (batch, n_frames, n_mels + 1)
            Mel, clipped to [0, 1] here, and F0 in (0, 1], zero or less where unvoiced.
        n_frames : (batch,), valid frames of each utterance; the rest is padding
        speaker : (batch,), number; -100, or none for all: unknown. Unused by a timbre encoder.

        Returns
        -------
        reconstruction : (batch, n_frames, n_mels), to be compared with the clipped mel as it came
            in, over all frames or over the valid ones; with ``n_reconstruction`` (batch,)
        content, rhythm, pitch, joint : (batch, n_codes, width), of the streams there are; with
            ``n_codes`` (batch,), the valid ones of the first of these
        timbre : (batch, width)

        Raises
        ------
        InputError
            If columns are missing, or a speaker is unknown.
        """
        codes = self.decomposer(features, n_frames, speaker)
        outputs: dict[str, Tensor] = {**codes}
        steps = list(self.decomposer.steps.values())
        if steps:
            outputs["n_codes"] = -(-n_frames // steps[0])
        outputs["reconstruction"] = self.decoder(codes, n_frames, width=features.shape[1])
        outputs["n_reconstruction"] = n_frames
        return outputs

    def reconstruct(
        self,
        features: Tensor,
        n_frames: Tensor,
        speaker: Tensor | None = None,
        *,
        without: Collection[str] = (),
    ) -> Tensor:
        """Reconstruct while some encoders get zeros to read: shows what each stream carries.

        Parameters
        ----------
        features, n_frames, speaker
            See :meth:`forward`.
        without
            Names of streams, such as ``{"content"}``.

        Returns
        -------
        reconstruction : (batch, n_frames, n_mels)

        Raises
        ------
        InputError
            If columns are missing, or a stream or a speaker is unknown.
        """
        codes = self.decomposer(features, n_frames, speaker, without=without)
        mel: Tensor = self.decoder(codes, n_frames, width=features.shape[1])
        return mel


class F0Converter(nn.Module):
    """Says the F0 contour that fits a rhythm; needed only to convert voices.

    In training it reads a resampled contour and has to place it by the rhythm of the mel. What
    training compares ``f0`` with are the bins of the contour as it came in, :func:`f0_bins`.

    Parameters
    ----------
    config
        See :class:`F0ConverterConfig`.
    """

    def __init__(self, config: F0ConverterConfig) -> None:
        super().__init__()
        self.config = config
        self.decomposer = Decomposer(
            SpeechSplitConfig(
                sizes=config.sizes,
                streams=("rhythm", "pitch"),
                resample=config.resample,
                pack=config.pack,
            )
        )
        self.decoder = Decoder(
            self.decomposer.steps,
            self.decomposer.widths,
            n_units=config.decoder_units,
            n_layers=config.n_decoder_layers,
            n_out=config.sizes.n_f0_bins + 1,
            pack=config.pack,
        )

    def forward(self, features: Tensor, n_frames: Tensor) -> dict[str, Tensor]:
        """Say a contour in the rhythm of the mel.

        Parameters
        ----------
        features : (batch, n_frames, n_mels + 1), as of :class:`SpeechSplit`; to convert, the mel of
            one utterance and the F0 of another
        n_frames : (batch,)

        Returns
        -------
        f0 : (batch, n_frames, n_f0_bins + 1), logits; with ``n_f0`` (batch,)
        rhythm, pitch : (batch, n_codes, width)
        """
        codes = self.decomposer(features, n_frames)
        logits = self.decoder(codes, n_frames, width=features.shape[1])
        return {**codes, "f0": logits, "n_f0": n_frames}


def mel_decoder(decomposer: Decomposer) -> Decoder:
    """Build the decoder that fits the encoders."""
    sizes = decomposer.config.sizes
    return Decoder(
        decomposer.steps,
        decomposer.widths,
        n_units=sizes.decoder_units,
        n_layers=sizes.n_decoder_layers,
        n_out=sizes.n_mels,
        pack=decomposer.config.pack,
    )


def _ceil(n: int, step: int) -> int:
    return -(-max(n, 1) // step) * step


def _check(config: SpeechSplitConfig) -> None:
    """Refuse settings that contradict each other."""
    sizes = config.sizes
    _check_streams(config.streams)
    for name in ("content_width", "rhythm_width", "pitch_width", "timbre_width"):
        if getattr(sizes, name) % sizes.group_width:
            raise InputError(
                f"{name} = {getattr(sizes, name)}: groups of the group norm have "
                f"{sizes.group_width} channels; choose a multiple, or another group_width"
            )
    if sizes.min_segment > sizes.max_segment:
        raise InputError(
            f"min_segment = {sizes.min_segment} is more than max_segment = {sizes.max_segment}"
        )
    one_hot = config.timbre == "one_hot" and "timbre" in config.streams
    if one_hot != bool(config.n_speakers):
        raise InputError(
            f"n_speakers = {config.n_speakers} and timbre = {config.timbre}: a number of speakers "
            "goes with timbre = one_hot, and only with it"
        )


def _check_streams(streams: Sequence[Stream]) -> None:
    if not streams or len(set(streams)) < len(streams):
        raise InputError(f"streams = {list(streams)}: expected one or more, none of them twice")
    apart = [stream for stream in streams if stream in ("content", "rhythm", "pitch")]
    if "joint" in streams and apart:
        raise InputError(
            f"streams = {list(streams)}: joint stands in place of content, rhythm and pitch; "
            f"leave out joint or {', '.join(apart)}"
        )


def _check_input(features: Tensor, n_frames: Tensor, sizes: SplitSizes) -> None:
    n_columns = sizes.n_mels + 1
    if features.ndim != 3 or len(features) != len(n_frames) or features.shape[2] != n_columns:
        raise InputError(
            f"parts of speech have the shape {tuple(features.shape)}, expected ({len(n_frames)}, "
            f"n_frames, {n_columns}): {sizes.n_mels} of mel, and F0"
        )
