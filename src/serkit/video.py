"""Clips in, sound and pictures out: one pass of FFmpeg (through PyAV), nothing written to disk.

Policies, the same everywhere in serkit:

* Any container that FFmpeg knows (MP4, MOV, MKV, WebM, AVI, ...), told by content. A sound file is
  a clip without pictures and is read by :mod:`serkit.audio`; an image is a clip of one frame.
* Pictures are taken at equal distances of time, by the time stamps in the file: where a recording's
  frame rate varies, pictures are repeated or left out, so that frame and sound stay together.
* Pictures are scaled down to a longest side while they are decoded, turned upright as the file
  says, and have square pixels. :class:`ClipStream` hands them on one by one, so that the length of
  a clip costs no memory; :func:`read_clip` collects them.
* Sound is mono float32, its channels averaged. Where it starts late or has a gap, there is silence.
* What is broken at the end of a clip is left out and said in a note. A clip of which less than half
  can be decoded is refused.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.audio import (
    CONTAINER_SUFFIXES,
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    Channel,
    Waveform,
    load_audio,
    resample,
    stretch_samples,
)
from serkit.files import replacing
from serkit.types import InputError, MissingExtraError

if TYPE_CHECKING:
    from av.container import InputContainer

__all__ = [
    "Clip",
    "ClipStream",
    "Colour",
    "Frame",
    "VideoError",
    "load_sound",
    "read_clip",
    "read_sound",
    "write_clip",
]

Frame = NDArray[np.uint8]
Colour = Literal["grey", "rgb"]

MAX_FPS = 240

_PIXELS: dict[Colour, str] = {"grey": "gray", "rgb": "rgb24"}
# Their header says how long a clip is; of others FFmpeg guesses.
_TELL_DURATION = ("mov", "matroska")
_SOUND_FILES = ("aiff", "au", "flac", "mp3", "ogg", "w64", "wav")
# FFmpeg finds pictures in any text, and playlists that name other files or hosts.
_NO_CLIPS = ("tty", "bin", "hls", "dash", "concat", "concatf", "sdp", "imf")
_LONGEST_HOLD_S = 10  # for which a picture is repeated where the next one is missing
_LEAST_GAP_S = 0.05  # less is rounding of time stamps, or the delay of an encoder
_LONGEST_GAP_S = 600  # of silence; more is a broken time stamp
# Suffix -> format, codec of the pictures, codec of the sound.
_WRITTEN = {
    ".avi": ("avi", "mpeg4", "pcm_s16le"),
    ".mkv": ("matroska", "mpeg4", "aac"),
    ".mov": ("mov", "mpeg4", "aac"),
    ".mp4": ("mp4", "mpeg4", "aac"),
    ".webm": ("webm", "libvpx", "libopus"),
}


class VideoError(InputError):
    """A clip that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip in memory.

    Attributes
    ----------
    waveform : (n_samples,), float32, or None where the clip has no sound
    sample_rate
        Hz.
    frames : (n_frames, height, width), or with a last axis of 3 for colour; uint8
    times_s : (n_frames,), seconds from the start of the clip
    duration_s
        Length of what was decoded.
    notes
        What was wrong with the clip, one line each.
    """

    waveform: Waveform | None
    sample_rate: int
    frames: Frame
    times_s: NDArray[np.float64]
    duration_s: float
    notes: tuple[str, ...]

    @property
    def had_audio(self) -> bool:
        """Whether the clip has sound."""
        return self.waveform is not None

    @property
    def had_video(self) -> bool:
        """Whether the clip has pictures."""
        return len(self.frames) > 0


class ClipStream:
    """One pass over a clip: iterate once for its pictures, then ask for its sound.

    Iterating gives ``(time_s, frame)``, the frame ``(height, width)`` or ``(height, width, 3)``,
    uint8. A clip without pictures gives none, but has to be iterated as well. Pictures that are
    repeated are the same object.

    Parameters
    ----------
    path
        The clip, a sound file or an image.
    sample_rate
        Hz, of the sound that is wanted.
    fps
        Pictures per second that are wanted.
    max_side
        Pixels; larger pictures are scaled down to it.
    colour
        ``grey`` or ``rgb``.
    sound_only
        Leave the pictures undecoded.

    Raises
    ------
    VideoError
        If ``sample_rate``, ``fps`` or ``max_side`` is out of range. When iterated: if the file is
        missing, a directory, empty, no clip, or less than half of it can be decoded.
    MissingExtraError
        When iterated: if PyAV is not installed.

    Attributes
    ----------
    waveform : (n_samples,), float32, or None where there is no sound; after the last picture
    duration_s
        Length of what was decoded; after the last picture.
    notes
        What was wrong with the clip; after the last picture.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        sample_rate: int = 16_000,
        fps: float = 25.0,
        max_side: int = 480,
        colour: Colour = "grey",
        sound_only: bool = False,
    ) -> None:
        _check_range("sample_rate", sample_rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)
        _check_range("fps", fps, 0.1, MAX_FPS)
        _check_range("max_side", max_side, 16, 8192)
        self.path = os.fspath(path)
        self.sample_rate = sample_rate
        self.fps = Fraction(fps).limit_denominator(1001)
        self.max_side = max_side
        self.colour = colour
        self.sound_only = sound_only
        self.waveform: Waveform | None = None
        self.duration_s = 0.0
        self.notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[float, Frame]]:
        """Decode the clip."""
        with _opened(self.path) as container:
            pictures = [s for s in container.streams.video if not _is_cover(s)][:1]
            sounds = list(container.streams.audio[:1])
            for stream in pictures + sounds:
                self._refuse_unknown(stream)
            if not pictures and not sounds:
                raise VideoError(
                    f"{self.path}: holds neither pictures nor sound ({container.format.name}); "
                    "expected a clip"
                )
            if not pictures and container.format.name in _SOUND_FILES:
                self.waveform, _ = load_audio(self.path, sample_rate=self.sample_rate)
                self.duration_s = len(self.waveform) / self.sample_rate
                return
            yield from self._decode(container, pictures + sounds)

    def _decode(self, container: InputContainer, streams: list[Any]) -> Iterator[Any]:
        start = _start(container)
        grid = _Grid(self.fps, self.max_side, self.colour, aspect=_aspect(streams[0]))
        sound = _Sound(self.path)
        damage: list[str] = []
        for frame in _decoded(container, streams, damage, sound_only=self.sound_only):
            time = None if frame.pts is None else frame.pts * frame.time_base - start
            if hasattr(frame, "samples"):
                sound.take(frame, time)
            elif self.sound_only:
                grid.skip(frame, time)
            else:
                yield from grid.take(frame, time)
        still = container.format.name.endswith(("_pipe", "image2"))
        yield from grid.finish(still=still)
        self.duration_s = max(float(grid.end), sound.duration_s)
        self.waveform = sound.at_rate(self.sample_rate)
        if not grid.n_taken and not sound.n_samples:
            raise VideoError(
                f"{self.path}: damaged: nothing in it can be decoded{_first(damage)}; get the file "
                "again from its source"
            )
        self.notes = self._judge(_promised_s(container, streams), damage)

    def _refuse_unknown(self, stream: Any) -> None:
        if stream.codec_context is None:
            raise VideoError(
                f"{self.path}: a {stream.type} stream in a format that FFmpeg does not know: "
                "damaged, or to be converted to MP4 first"
            )

    def _judge(self, promised_s: float, damage: list[str]) -> tuple[str, ...]:
        """Refuse a clip of which too little could be decoded; else say what is missing."""
        if self.duration_s < promised_s / 2:
            raise VideoError(
                f"{self.path}: truncated: the header promises {promised_s:.2f} s, "
                f"{self.duration_s:.2f} s can be decoded{_first(damage)}; get the file again from "
                "its source"
            )
        if self.duration_s < promised_s - max(0.5, promised_s / 20):
            return (
                f"{self.path}: cut off: the header promises {promised_s:.2f} s, "
                f"{self.duration_s:.2f} s were decoded",
            )
        if damage:
            return (f"{self.path}: {len(damage)} packets could not be decoded{_first(damage)}",)
        return ()


def read_clip(
    path: Path | str,
    *,
    sample_rate: int = 16_000,
    fps: float = 25.0,
    max_side: int = 480,
    colour: Colour = "grey",
) -> Clip:
    """Read a whole clip into memory; :class:`ClipStream` explains the settings and takes long ones.

    A second of grey pictures of 480 x 270 at 25 per second takes 3 MB.

    Raises
    ------
    VideoError
        If a setting is out of range, or the file is missing, a directory, empty, no clip, or less
        than half of it can be decoded.
    MissingExtraError
        If PyAV is not installed.
    """
    stream = ClipStream(path, sample_rate=sample_rate, fps=fps, max_side=max_side, colour=colour)
    times_s, frames = [], []
    for time_s, frame in stream:
        times_s.append(time_s)
        frames.append(frame)
    no_frames = np.empty((0, 0, 0) if colour == "grey" else (0, 0, 0, 3), dtype=np.uint8)
    return Clip(
        waveform=stream.waveform,
        sample_rate=sample_rate,
        frames=np.stack(frames) if frames else no_frames,
        times_s=np.array(times_s),
        duration_s=stream.duration_s,
        notes=stream.notes,
    )


def read_sound(
    path: Path | str,
    *,
    sample_rate: int = 16_000,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> Waveform:
    """Read the sound of a clip, or a stretch of it, and leave its pictures undecoded.

    Parameters
    ----------
    path
        A clip or a sound file.
    sample_rate
        Hz, of the sound that is wanted.
    start_s, end_s
        The stretch to read, in seconds; ``None`` means to the end.

    Returns
    -------
    waveform : (n_samples,), float32

    Raises
    ------
    InputError
        As for :func:`read_clip`; if there is no sound in the clip, or the stretch lies outside it.
    MissingExtraError
        If PyAV is not installed.
    """
    stream = ClipStream(path, sample_rate=sample_rate, sound_only=True)
    for _ in stream:
        pass
    if stream.waveform is None:
        raise VideoError(f"{path}: no sound in it")
    first, stop = stretch_samples(stream.path, start_s, end_s, len(stream.waveform), sample_rate)
    return stream.waveform[first:stop]


def load_sound(
    path: Path | str,
    *,
    clip_rate: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    channel: Channel = "mean",
) -> tuple[Waveform, int]:
    """Read sound from whatever holds it: a sound file, or a clip by its suffix.

    Parameters
    ----------
    clip_rate
        Hz, of the sound of a clip; a sound file keeps its own rate.
    start_s, end_s
        The stretch to read, in seconds; ``None`` means to the end.
    channel
        Of a sound file, see :func:`serkit.audio.load_audio`; those of a clip are averaged.

    Returns
    -------
    waveform : (n_samples,), float32
    sample_rate : Hz

    Raises
    ------
    InputError
        As :func:`serkit.audio.load_audio` and :func:`read_sound` do.
    """
    if Path(path).suffix.lower() not in CONTAINER_SUFFIXES:
        return load_audio(path, start_s=start_s, end_s=end_s, channel=channel)
    return read_sound(path, sample_rate=clip_rate, start_s=start_s, end_s=end_s), clip_rate


def write_clip(
    path: Path | str,
    frames: Iterable[Frame] | None,
    *,
    fps: float = 25.0,
    waveform: Waveform | None = None,
    sample_rate: int = 16_000,
) -> None:
    """Write a clip: MPEG-4 pictures and AAC sound, or what the suffix's format is used to.

    Parameters
    ----------
    path
        Ends in ``.mp4``, ``.mov``, ``.mkv``, ``.avi`` or ``.webm``. Replaced in one step.
    frames
        Pictures of one size, ``(height, width)`` or ``(height, width, 3)``, uint8; ``None`` for a
        clip without.
    waveform : (n_samples,), float32, or None for a clip without sound

    Raises
    ------
    VideoError
        If the suffix is unknown, there is nothing to write, or pictures are not uint8 or not all
        of one size.
    MissingExtraError
        If PyAV is not installed.
    """
    av = _require_av()
    path = Path(path)
    if path.suffix.lower() not in _WRITTEN:
        raise VideoError(f"{path}: suffix '{path.suffix}', expected {', '.join(_WRITTEN)}")
    kind, picture_codec, sound_codec = _WRITTEN[path.suffix.lower()]
    pictures = iter(() if frames is None else frames)
    first = next(pictures, None)
    if first is None and waveform is None:
        raise VideoError(f"{path}: neither pictures nor sound to write")
    options = {"fflags": "+bitexact"}  # no time of writing, no random numbers: equal in, equal out
    with replacing(path) as part, av.open(str(part), "w", format=kind, options=options) as file:
        # Streams first: a header is written with the first packet.
        picture = None
        if first is not None:
            picture = _picture_stream(file, picture_codec, first, fps, path)
        sound = None
        if waveform is not None:
            sound = file.add_stream(sound_codec, rate=sample_rate, layout="mono")
        if picture is not None:
            _encode_pictures(file, picture, chain([first], pictures), path)
        if sound is not None:
            _encode_sound(file, sound, np.asarray(waveform, dtype=np.float32), sample_rate)


class _Grid:
    """Pictures at equal distances of time.

    A picture belongs to the nearest point of the grid, the last of several to the point they
    share, and a point without picture shows the one before it.
    """

    def __init__(self, fps: Fraction, max_side: int, colour: Colour, *, aspect: float) -> None:
        self.fps = fps
        self.max_side = max_side
        self.colour = colour
        self.aspect = aspect  # width of a pixel over its height
        self.end = Fraction(0)  # seconds
        self.n_taken = 0
        self._size: tuple[int, int] | None = None  # of all pictures, decided by the first
        self._shown: Any = None  # the picture that waits for the next one
        self._slot = 0  # where it starts to be shown

    def take(self, frame: Any, time: Fraction | None) -> Iterator[tuple[float, Frame]]:
        """Hand in the next picture; get those before it."""
        time = self.end if time is None else time
        slot = max(self._slot, int(time * self.fps + Fraction(1, 2)))
        if self._shown is not None:
            yield from self._show(slot)
        self._shown, self._slot = frame, slot
        self.skip(frame, time)

    def skip(self, frame: Any, time: Fraction | None) -> None:
        """Count a picture, or a packet of one, without showing it."""
        time = self.end if time is None else time
        length = frame.duration * frame.time_base if frame.duration else 1 / self.fps
        # Some formats know no duration, and say that the last picture is shown for a millisecond.
        self.end = max(self.end, time + max(length, 1 / self.fps / 3))
        self.n_taken += 1

    def finish(self, *, still: bool) -> Iterator[tuple[float, Frame]]:
        """Get what is left; of a still image one picture."""
        if self._shown is None:
            return
        # The first point after the end, of which rounded time stamps may be a little short.
        stop = math.ceil(self.end * self.fps - Fraction(1, 4))
        if still or self.n_taken == 1:
            stop = self._slot + 1 if still else max(stop, self._slot + 1)
        yield from self._show(stop)

    def _show(self, stop: int) -> Iterator[tuple[float, Frame]]:
        stop = min(stop, self._slot + int(_LONGEST_HOLD_S * self.fps) + 1)
        if stop <= self._slot:
            return
        self._size = self._size or _size(self._shown, self.max_side, aspect=self.aspect)
        image = _image(self._shown, self._size, self.colour)
        for slot in range(self._slot, stop):
            yield float(slot / self.fps), image


class _Sound:
    """The sound of a clip, put together by its time stamps."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.n_samples = 0
        self._chunks: list[Waveform] = []
        self._to_float: Any = None
        self._rate = 0

    @property
    def duration_s(self) -> float:
        """Seconds so far."""
        return self.n_samples / self._rate if self._rate else 0.0

    def take(self, frame: Any, time: Fraction | None) -> None:
        """Append decoded samples of any format."""
        import av

        if self._to_float is None:
            self._rate = frame.sample_rate
            _check_range(f"{self.path}: sample rate", self._rate, MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)
            self._to_float = av.AudioResampler(format="fltp", layout=frame.layout, rate=self._rate)
        if time is not None:
            self._fill_gap(float(time) - self.duration_s)
        for converted in self._to_float.resample(frame):
            self._append(converted.to_ndarray().mean(axis=0, dtype=np.float32))

    def at_rate(self, sample_rate: int) -> Waveform | None:
        """Give the whole sound, resampled; ``None`` if there is none."""
        if not self.n_samples:
            return None
        waveform = np.concatenate(self._chunks)
        if not np.isfinite(waveform).all():
            raise VideoError(f"{self.path}: the sound holds NaN or infinite samples: export again")
        return resample(waveform, self._rate, sample_rate)

    def _fill_gap(self, gap_s: float) -> None:
        if _LEAST_GAP_S < gap_s < _LONGEST_GAP_S:
            self._append(np.zeros(round(gap_s * self._rate), dtype=np.float32))

    def _append(self, samples: Waveform) -> None:
        self._chunks.append(samples)
        self.n_samples += len(samples)


def _size(frame: Any, max_side: int, *, aspect: float) -> tuple[int, int]:
    """Give the width and height, with square pixels, that an upright picture shall have."""
    width, height = frame.width * aspect, frame.height
    scale = min(1.0, max_side / max(width, height))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    return size[::-1] if _quarter_turns(frame) % 2 else size


def _image(frame: Any, size: tuple[int, int], colour: Colour) -> Frame:
    """Turn a decoded picture into an upright array."""
    turns = _quarter_turns(frame)
    width, height = size[::-1] if turns % 2 else size
    scaled = frame.reformat(width=width, height=height, format=_PIXELS[colour])
    image: Frame = np.rot90(scaled.to_ndarray(), k=turns)
    return np.ascontiguousarray(image)


def _quarter_turns(frame: Any) -> int:
    """Tell how often a picture has to be turned to the left."""
    turns: int = round(frame.rotation / 90) % 4
    return turns


@contextmanager
def _opened(path: str) -> Iterator[InputContainer]:
    """Open a clip, or say in one line why it is none."""
    av = _require_av()
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise VideoError(f"{path}: is a directory, expected a clip") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise VideoError(f"{path!r}: cannot be read ({reason})") from None
    with file:
        if not os.fstat(file.fileno()).st_size:
            raise VideoError(f"{path}: the file is empty (0 bytes): copy or export it again")
        try:
            # An open file rather than its name: a name may be an address or a list of files.
            container = av.open(file, "r", options={"protocol_whitelist": "none"})
        except (av.error.FFmpegError, ValueError, EOFError) as error:
            raise VideoError(
                f"{path}: truncated or no clip ({_reason(error)}); expected MP4, MOV, MKV, WebM, "
                "AVI or another format of FFmpeg"
            ) from None
        with container:
            if container.format.name in _NO_CLIPS:
                raise VideoError(
                    f"{path}: is no clip (text, or a list of files: {container.format.name}); "
                    "expected MP4, MOV, MKV, WebM, AVI or another format of FFmpeg"
                )
            yield container


def _decoded(
    container: InputContainer, streams: list[Any], damage: list[str], *, sound_only: bool
) -> Iterator[Any]:
    """Decode packet by packet; what is broken is noted and passed over.

    With ``sound_only``, packets of pictures are handed on as they are.
    """
    import av

    for stream in streams:
        # One thread: the same pictures every time, and as many clips at a time as there are cores.
        stream.codec_context.thread_count = 1
    try:
        for packet in container.demux(streams):
            if sound_only and packet.stream.type == "video":
                if packet.size:  # the last one is empty
                    yield packet
                continue
            try:
                yield from packet.decode()
            except av.error.FFmpegError as error:
                damage.append(_reason(error))
    except av.error.FFmpegError as error:
        damage.append(_reason(error))


def _start(container: InputContainer) -> Fraction:
    """Give the time stamp, in seconds, at which the first of the streams starts."""
    starts = [
        stream.start_time * stream.time_base
        for stream in [*container.streams.video, *container.streams.audio]
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=Fraction(0))


def _aspect(stream: Any) -> float:
    """Give the width of a stream's pixels over their height; 1 where it does not say."""
    return float(getattr(stream, "sample_aspect_ratio", None) or 1)


def _promised_s(container: InputContainer, streams: list[Any]) -> float:
    """Give the length that the header promises; 0 where FFmpeg would have to guess."""
    name = container.format.name
    if name == "avi":  # of which the container's length is that of what is there
        pictures = [s for s in streams if s.type == "video" and s.average_rate]
        lengths = [s.frames / s.average_rate for s in pictures]
        lengths += [s.duration * s.time_base for s in streams if s.type == "audio" and s.duration]
        return float(max(lengths, default=0))
    if name.startswith(_TELL_DURATION) and container.duration:
        return container.duration / 1_000_000
    return 0.0


def _first(damage: list[str]) -> str:
    return f" ({damage[0]})" if damage else ""


def _is_cover(stream: Any) -> bool:
    """Tell the picture on a record's sleeve from a video."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _picture_stream(file: Any, codec: str, first: Frame, fps: float, path: Path) -> Any:
    _refuse_odd_picture(path, first, first.shape)
    rate = Fraction(fps).limit_denominator(1001)
    stream = file.add_stream(codec, rate=rate)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    # Half a byte per pixel and second keeps what is drawn recognisable at any size.
    stream.bit_rate = max(400_000, int(4 * first.shape[0] * first.shape[1] * rate / 10))
    return stream


def _encode_pictures(file: Any, stream: Any, frames: Iterable[Any], path: Path) -> None:
    import av

    shape = None
    for number, image in enumerate(frames):
        shape = shape or image.shape
        _refuse_odd_picture(path, image, shape)
        pixels = "gray" if image.ndim == 2 else "rgb24"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=pixels)
        picture.pts, picture.time_base = number, 1 / stream.average_rate
        file.mux(stream.encode(picture))
    file.mux(stream.encode(None))


def _encode_sound(file: Any, stream: Any, waveform: Waveform, sample_rate: int) -> None:
    import av

    for first in range(0, len(waveform), sample_rate):
        chunk = np.ascontiguousarray(waveform[None, first : first + sample_rate])
        frame = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, first
        frame.time_base = Fraction(1, sample_rate)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _refuse_odd_picture(path: Path, image: Frame, shape: tuple[int, ...]) -> None:
    fine = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if not fine or image.dtype != np.uint8 or image.shape != shape:
        raise VideoError(
            f"{path}: a picture of {image.dtype} and shape {image.shape}, expected uint8 and "
            f"{shape if image.shape != shape else '(height, width) or (height, width, 3)'}"
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise VideoError(f"{name} is {value:g}, expected {low:g} to {high:g}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def _require_av() -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise MissingExtraError("av", extra="video", needed_for="reading clips") from None
    return av
