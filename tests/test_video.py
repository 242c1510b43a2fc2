"""Clips of every container, their time, and every way in which they can be broken."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.audio import AudioError, load_audio
from serkit.types import MissingExtraError
from serkit.video import ClipStream, VideoError, read_clip, read_sound, write_clip

av = pytest.importorskip("av")

RATE = 16_000
SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def numbered(n: int = 20, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """Grey pictures that grow brighter, (n, height, width): frame i has brightness 20 + 8 * i."""
    shades = np.clip(20 + 8 * np.arange(n), 0, 255).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None], (n, *size))


def shown(frames: np.ndarray) -> list[int]:
    """Which of the numbered pictures each frame shows."""
    return [round((frame.mean() - 20) / 8) for frame in frames.astype(float)]


def tone(seconds: float = 0.8, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(path, numbered(), fps=25, waveform=tone(), sample_rate=RATE)
    return path


def write_at(path: Path, times_ms: list[int]) -> None:
    """Write numbered pictures with time stamps of one's own."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for image, time_ms in zip(numbered(len(times_ms)), times_ms, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="gray")
            picture.pts, picture.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


# ---- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_container_gives_its_pictures_and_its_sound(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    write_clip(path, numbered(), fps=25, waveform=tone(), sample_rate=RATE)
    clip = read_clip(path)
    assert shown(clip.frames) == list(range(20))
    assert np.allclose(clip.times_s, np.arange(20) / 25)
    assert clip.frames.shape == (20, 64, 96)
    assert clip.frames.dtype == np.uint8
    assert clip.had_audio
    assert clip.had_video
    assert clip.duration_s == pytest.approx(0.8, abs=0.07)
    assert clip.notes == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_stands_where_it_was_written(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    click = np.zeros(RATE, dtype=np.float32)
    click[8000:8160] = 0.8
    write_clip(path, numbered(25), fps=25, waveform=click, sample_rate=RATE)
    waveform = read_clip(path, sample_rate=RATE).waveform
    assert waveform.dtype == np.float32
    assert np.abs(waveform).argmax() == pytest.approx(8080, abs=200)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("rate", [24, 30, 29.97])
def test_a_clip_of_the_wanted_rate_loses_and_repeats_nothing(tmp_path, suffix, rate):
    path = tmp_path / f"clip{suffix}"
    write_clip(path, numbered(28), fps=rate)
    assert shown(read_clip(path, fps=rate).frames) == list(range(28))


@pytest.mark.parametrize(("fps", "first"), [(50, [0, 0, 1, 1, 2, 2]), (12.5, [0, 2, 4, 6, 8])])
def test_pictures_are_repeated_or_left_out_for_another_rate(clip_path, fps, first):
    clip = read_clip(clip_path, fps=fps)
    assert len(clip.frames) == 0.8 * fps
    assert np.allclose(np.diff(clip.times_s), 1 / fps)
    assert np.abs(np.subtract(shown(clip.frames)[: len(first)], first)).max() <= 1


def test_a_varying_frame_rate_is_read_by_time_stamps(tmp_path):
    path = tmp_path / "vfr.mkv"
    write_at(path, [0, 40, 80, 400, 440, 480])
    clip = read_clip(path, fps=25)
    assert shown(clip.frames)[:13] == [0, 1, *[2] * 8, 3, 4, 5]


def test_a_picture_is_not_held_for_ever(tmp_path):
    path = tmp_path / "gap.mkv"
    write_at(path, [0, 40, 60_000, 60_040])
    clip = read_clip(path, fps=5)
    assert len(clip.frames) < 60
    assert clip.times_s[-1] == pytest.approx(60.0, abs=0.3)


def test_large_pictures_are_scaled_down_and_small_ones_left(clip_path, tmp_path):
    path = tmp_path / "wide.mp4"
    write_clip(path, np.zeros((2, 120, 640), dtype=np.uint8))
    assert read_clip(path, max_side=320).frames.shape == (2, 60, 320)
    assert read_clip(clip_path, max_side=4000).frames.shape[1:] == (64, 96)


def test_colours_are_red_green_and_blue(tmp_path):
    path = tmp_path / "colours.mp4"
    frames = np.zeros((3, 32, 48, 3), dtype=np.uint8)
    frames[..., 0] = 220
    write_clip(path, frames)
    clip = read_clip(path, colour="rgb")
    assert clip.frames.shape == (3, 32, 48, 3)
    red, green, blue = clip.frames.mean(axis=(0, 1, 2))
    assert red > 200
    assert max(green, blue) < 20


def test_a_clip_from_a_turned_phone_is_upright(tmp_path):
    path = tmp_path / "phone.mp4"
    frames = np.zeros((3, 32, 48), dtype=np.uint8)
    frames[:, :, :24] = 220  # bright on the left
    write_clip(path, frames)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    for number, value in enumerate((0, 1 << 16, 0, -(1 << 16), 0)):  # turned clockwise
        content[matrix + 4 * number : matrix + 4 * number + 4] = value.to_bytes(
            4, "big", signed=True
        )
    path.write_bytes(content)
    frame = read_clip(path).frames[0]
    assert frame.shape == (48, 32)
    assert frame[:20].mean() > 180  # bright at the top
    assert frame[28:].mean() < 40


def test_pictures_keep_the_size_of_the_first(tmp_path):
    path = tmp_path / "two.ts"
    with open(path, "wb") as joined:  # a transport stream may change its size at any time
        for size in ((64, 96), (96, 64)):
            part = tmp_path / "part.ts"
            with av.open(str(part), "w") as file:
                stream = file.add_stream("mpeg2video", rate=25)
                stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                for image in numbered(6, size):
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray")
                    file.mux(stream.encode(picture))
                file.mux(stream.encode(None))
            joined.write(part.read_bytes())
    assert read_clip(path).frames.shape[1:] == (64, 96)


def test_pixels_become_square(tmp_path):
    path = tmp_path / "pal.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, (64, 48))[0].copy(), "gray")))
        file.mux(stream.encode(None))
    assert read_clip(path).frames.shape[1:] == (64, 96)


def test_sound_is_resampled_and_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.mkv"
    both = np.stack([tone(rate=48_000), -0.5 * tone(rate=48_000)])
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=48_000, layout="stereo")
        packed = np.round(both.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        frame.sample_rate = 48_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    clip = read_clip(path, sample_rate=RATE)
    assert len(clip.waveform) == round(0.8 * RATE)
    assert np.abs(clip.waveform - 0.25 * tone())[200:-200].max() < 2e-3


def test_sound_that_starts_late_is_preceded_by_silence(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=25)
        picture.height, picture.width, picture.pix_fmt = 64, 96, "yuv420p"
        sound = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number, image in enumerate(numbered(25)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="gray")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(picture.encode(frame))
        samples = np.full((1, 8000), 9000, dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 8000, Fraction(1, RATE)
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
        file.mux(picture.encode(None))
    waveform = read_clip(path, sample_rate=RATE).waveform
    assert len(waveform) == pytest.approx(RATE, abs=20)
    assert (waveform[:7900] == 0).all()
    assert waveform[8100:15900].min() > 0.2


def test_a_sound_file_is_a_clip_without_pictures(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate=22_050), 22_050)
    clip = read_clip(path, sample_rate=RATE)
    assert not clip.had_video
    assert clip.frames.shape == (0, 0, 0)
    assert np.array_equal(clip.waveform, load_audio(path, sample_rate=RATE)[0])


def test_sound_is_read_without_pictures_whole_or_a_stretch(clip_path, tmp_path):
    whole = read_sound(clip_path)
    assert np.array_equal(whole, read_clip(clip_path).waveform)
    assert np.array_equal(read_sound(clip_path, start_s=0.25, end_s=0.5), whole[4_000:8_000])
    with pytest.raises(AudioError, match="the stretch 5 s to the end lies outside the file"):
        read_sound(clip_path, start_s=5)
    write_clip(tmp_path / "mute.mp4", numbered(), fps=25)
    with pytest.raises(VideoError, match=r"mute\.mp4: no sound in it"):
        read_sound(tmp_path / "mute.mp4")


def test_the_cover_of_a_record_is_no_clip(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=RATE, layout="mono")
        cover = file.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 64, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(numbered(1)[0]), format="gray")
        file.mux(cover.encode(image))
        file.mux(cover.encode(None))
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    clip = read_clip(path)
    assert not clip.had_video
    assert clip.had_audio


@pytest.mark.parametrize(("suffix", "codec"), [(".png", "png"), (".jpg", "mjpeg"), (".bmp", "bmp")])
@pytest.mark.parametrize("fps", [5, 25, 100])
def test_an_image_is_a_clip_of_one_frame(tmp_path, suffix, codec, fps):
    path = tmp_path / f"face{suffix}"
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = 64, 96
        stream.pix_fmt = {"png": "gray", "mjpeg": "yuvj420p", "bmp": "bgr24"}[codec]
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(numbered(5)[4]), format="gray")
        file.mux(stream.encode(image))
        file.mux(stream.encode(None))
    clip = read_clip(path, fps=fps)
    assert clip.frames.shape == (1, 64, 96)
    assert shown(clip.frames) == [4]
    assert not clip.had_audio


def test_frames_come_one_by_one_before_the_clip_is_read(clip_path):
    stream = ClipStream(clip_path)
    pictures = iter(stream)
    time_s, frame = next(pictures)
    assert (time_s, frame.shape) == (0.0, (64, 96))
    assert stream.waveform is None
    assert len(list(pictures)) == 19
    assert len(stream.waveform) == pytest.approx(0.8 * RATE, abs=1200)


def test_sound_alone_is_the_same_sound(clip_path):
    stream = ClipStream(clip_path, sound_only=True)
    assert list(stream) == []
    assert np.array_equal(stream.waveform, read_clip(clip_path).waveform)
    assert stream.duration_s == read_clip(clip_path).duration_s


def test_sound_that_ends_before_the_pictures_is_not_taken_for_cut_off(tmp_path):
    path = tmp_path / "short.mp4"
    write_clip(path, numbered(50), waveform=tone(0.2), sample_rate=RATE)
    stream = ClipStream(path, sound_only=True)
    assert list(stream) == []
    assert stream.notes == ()
    assert len(stream.waveform) == pytest.approx(0.2 * RATE, abs=1200)


def test_reading_twice_gives_the_same_bits(clip_path):
    one, other = read_clip(clip_path), read_clip(clip_path)
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.waveform, other.waveform)


# ---- What is broken ------------------------------------------------------------------------------


def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        read_clip(tmp_path / "gone.mp4")
    with pytest.raises(VideoError, match="is a directory, expected a clip"):
        read_clip(tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty \(0 bytes\)"):
        read_clip(tmp_path / "empty.mp4")
    with pytest.raises(VideoError, match="cannot be read"):
        read_clip("a\0b.mp4")


def test_noise_is_no_clip(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(VideoError, match=r"noise\.mp4: truncated or no clip .*expected MP4"):
        read_clip(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "not a clip\n" * 50),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("words.srt", "1\n00:00:00,000 --> 00:00:01,000\nhello\n"),
    ],
)
def test_texts_and_lists_of_files_are_no_clips(tmp_path, clip_path, name, content):
    (tmp_path / "clip.mp4").write_bytes(clip_path.read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(VideoError, match=r"no clip|neither pictures nor sound"):
        read_clip(tmp_path / name)


def test_a_name_is_never_an_address():
    with pytest.raises(VideoError, match="no such file"):
        read_clip("http://localhost/clip.mp4")


def test_a_clip_without_its_table_of_contents_is_truncated(tmp_path, clip_path):
    path = tmp_path / "cut.mp4"
    content = clip_path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match=r"cut\.mp4: truncated or no clip"):
        read_clip(path)


def noisy_clip(path: Path, n: int = 100) -> bytes:
    """Write a clip of ``n`` frames whose bytes are spread evenly over its time."""
    frames = np.random.default_rng(0).integers(0, 255, (n, 64, 96)).astype(np.uint8)
    write_clip(path, frames, waveform=tone(n / 25), sample_rate=RATE)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_what_is_left_of_a_clip_is_read_with_a_note(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    content = noisy_clip(path)
    path.write_bytes(content[: len(content) * 4 // 5])
    clip = read_clip(path)
    assert 60 < len(clip.frames) < 95
    assert len(clip.notes) == 1
    assert "cut off: the header promises 4" in clip.notes[0]


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_clip_that_is_mostly_missing_is_refused(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    content = noisy_clip(path)
    path.write_bytes(content[: len(content) * 3 // 10])
    with pytest.raises(VideoError, match=r"truncated: the header promises 4\.\d+ s, [01]\.\d\d s"):
        read_clip(path)


def test_broken_packets_are_passed_over_and_noted(tmp_path):
    path = tmp_path / "broken.mp4"
    content = bytearray(noisy_clip(path))
    start = content.index(b"mdat")
    end = start + int.from_bytes(content[start - 4 : start], "big")
    at = start + (end - start) * 9 // 10
    content[at : end - 4] = bytes(end - 4 - at)
    path.write_bytes(content)
    clip = read_clip(path)
    assert len(clip.frames) >= 80
    assert any("packets could not be decoded" in note for note in clip.notes)


def test_a_stream_of_unknown_format_is_refused(tmp_path):
    path = tmp_path / "odd.mkv"
    write_clip(path, numbered(), waveform=tone())
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO", b"V_ZZZZZ/ISO"))
    with pytest.raises(VideoError, match=r"a video stream in a format that FFmpeg does not know"):
        read_clip(path)


def test_a_clip_of_which_nothing_can_be_decoded_is_refused(tmp_path):
    path = tmp_path / "broken.mp4"
    write_clip(path, numbered())
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat")
    end = start + int.from_bytes(content[start - 4 : start], "big") - 4
    content[start + 4 : end] = bytes(end - start - 4)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"damaged: nothing in it can be decoded"):
        read_clip(path)


def test_a_broken_sound_file_says_so_as_everywhere(tmp_path):
    path = tmp_path / "cut.wav"
    soundfile.write(path, tone(), RATE)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(AudioError, match="truncated: the header promises"):
        read_clip(path)


def test_a_sound_with_nan_is_refused(tmp_path):
    path = tmp_path / "nan.mkv"
    samples = tone()[None].copy()
    samples[0, 5] = np.nan
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(VideoError, match="holds NaN or infinite samples"):
        read_clip(path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"fps": 0}, "fps is 0, expected 0.1 to 240"),
        ({"sample_rate": 10}, "sample_rate is 10, expected 1000"),
        ({"max_side": 1}, "max_side is 1, expected 16"),
    ],
)
def test_settings_out_of_range_are_refused(clip_path, setting, message):
    with pytest.raises(VideoError, match=message):
        read_clip(clip_path, **setting)


def test_a_missing_package_names_the_extra(monkeypatch, clip_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"'av'.*serkit\[video\]"):
        read_clip(clip_path)


# ---- What is written -----------------------------------------------------------------------------


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4", "a.mkv", "b.mkv"):
        write_clip(tmp_path / name, numbered(), waveform=tone(), sample_rate=RATE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


def test_a_clip_may_have_sound_alone(tmp_path):
    write_clip(tmp_path / "a.mp4", None, waveform=tone(), sample_rate=RATE)
    clip = read_clip(tmp_path / "a.mp4")
    assert not clip.had_video
    assert clip.had_audio


def test_odd_sizes_can_be_written(tmp_path):
    write_clip(tmp_path / "odd.mp4", numbered(3, (65, 97)))
    assert read_clip(tmp_path / "odd.mp4").frames.shape == (3, 65, 97)


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(VideoError, match=r"suffix '\.txt', expected \.avi"):
        write_clip(tmp_path / "a.txt", numbered())
    with pytest.raises(VideoError, match="neither pictures nor sound to write"):
        write_clip(tmp_path / "a.mp4", None)
    with pytest.raises(VideoError, match=r"float32 and shape \(4, 6\), expected uint8"):
        write_clip(tmp_path / "a.mp4", [np.zeros((4, 6), dtype=np.float32)])
    with pytest.raises(VideoError, match=r"shape \(30, 40\), expected uint8 and \(64, 96\)"):
        write_clip(tmp_path / "a.mp4", [numbered()[0], np.zeros((30, 40), dtype=np.uint8)])
    assert list(tmp_path.iterdir()) == []
