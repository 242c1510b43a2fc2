"""One loader for every kind of sound file, and one clear line for every kind of broken one."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serkit.audio import (
    AudioError,
    file_sha256,
    find_sound_files,
    load_audio,
    natural_key,
    probe,
    require_sound,
    resample,
    seconds_to_samples,
    waveform_sha256,
)

RATE = 16_000


def noise(n_samples: int = 4000, n_channels: int = 1, *, seed: int = 0) -> np.ndarray:
    """Quiet coloured noise, (n_samples,) or (n_samples, n_channels), float64 within 0.5."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.normal(0, 1, (n_samples, n_channels)), axis=0)
    x -= np.linspace(x[0], x[-1], n_samples)
    x *= 0.5 / np.abs(x).max()
    return x[:, 0] if n_channels == 1 else x


def wav_bytes(
    data: bytes,
    *,
    rate: int = RATE,
    bits: int = 16,
    n_channels: int = 1,
    declared: int | None = None,
    tags: bytes = b"",
    big_endian: bool = False,
) -> bytes:
    """A WAV byte by byte, so that its header can lie."""
    order = ">" if big_endian else "<"
    width = n_channels * bits // 8
    form = struct.pack(f"{order}HHIIHH", 1, n_channels, rate, rate * width % 2**32, width, bits)
    size = len(data) if declared is None else declared
    body = b"WAVEfmt " + struct.pack(f"{order}I", 16) + form + tags
    body += b"data" + struct.pack(f"{order}I", size) + data
    return (b"RIFX" if big_endian else b"RIFF") + struct.pack(f"{order}I", len(body)) + body


def pcm16(x: np.ndarray) -> bytes:
    return np.round(x * 32767).astype("<i2").tobytes()


@pytest.fixture
def sound(tmp_path):
    """Write a sound and give its path."""

    def write(name: str, x: np.ndarray, rate: int = RATE, **how: str | float) -> Path:
        path = tmp_path / name
        soundfile.write(path, x, rate, **how)
        return path

    return write


@pytest.fixture
def raw(tmp_path):
    """Write bytes and give their path."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


# ---- What can be read ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-24),  # float32 has 24 bits of its own
        ("FLOAT", 2**-24),
        ("DOUBLE", 2**-24),
        ("ALAW", 2**-5),
        ("ULAW", 2**-5),
    ],
)
def test_samples_of_every_width_come_back_to_their_own_precision(sound, subtype, step):
    x = noise()
    waveform, rate = load_audio(sound("x.wav", x, subtype=subtype))
    assert (rate, waveform.dtype, waveform.shape) == (RATE, np.float32, x.shape)
    assert np.abs(waveform - x).max() <= step


def test_integers_are_scaled_by_their_full_range(raw):
    path = raw("edge.wav", wav_bytes(np.array([-32768, -1, 0, 1, 32767], "<i2").tobytes()))
    assert load_audio(path)[0].tolist() == [-1, -(2**-15), 0, 2**-15, 32767 / 32768]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW"])
def test_numbers_equal_the_decoder_s_own_floats(sound, subtype):
    path = sound("x.wav", noise(), subtype=subtype)
    assert np.array_equal(load_audio(path)[0], soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize("n_channels", [1, 2, 8])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF"])
def test_16_bits_are_the_same_in_every_container(sound, n_channels, kind):
    """Plain WAV is read without libsndfile, the others with it."""
    path = sound("x", noise(1000, n_channels), format=kind, subtype="PCM_16")
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0]
    for start, stop in ((0, 1000), (0, 16), (160, 320), (984, 1000)):
        got, _ = load_audio(path, start_s=start / RATE, end_s=stop / RATE, channel="first")
        assert np.array_equal(got, expected[start:stop, 0])


def test_a_stray_byte_behind_the_last_sample_is_passed_over(raw):
    data = pcm16(noise(100))
    for extra in (b"\x01", b"\x01\x02\x03"):
        path = raw("odd.wav", wav_bytes(data + extra, n_channels=2))
        assert len(load_audio(path)[0]) == probe(path).n_samples == 50


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_the_file_s_own_rate_is_kept_unless_another_is_asked_for(sound, rate):
    path = sound("x.wav", noise(rate // 2), rate)
    waveform, got = load_audio(path)
    assert (len(waveform), got) == (rate // 2, rate)
    waveform, got = load_audio(path, sample_rate=RATE)
    assert (len(waveform), got) == (RATE // 2, RATE)
    assert probe(path).duration_s == 0.5


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("x.flac", 4e-5), ("x.aiff", 4e-5), ("x.au", 4e-5), ("x.ogg", 0.1), ("x.mp3", 0.1)],
)
def test_formats_are_read_at_their_full_length(sound, name, tolerance):
    t = np.arange(RATE) / RATE
    x = 0.4 * np.sin(2 * np.pi * 300 * t) * np.hanning(RATE)
    path = sound(name, x)
    waveform, rate = load_audio(path)
    assert (rate, len(waveform)) == (RATE, RATE)
    assert np.abs(waveform - x).max() < tolerance
    assert probe(path).n_samples == RATE


def test_big_endian_wav_is_read(raw):
    x = noise(200)
    path = raw("x.wav", wav_bytes(pcm16(x)[: 2 * 200], big_endian=True))
    swapped = np.frombuffer(pcm16(x), ">i2") / 32768
    assert np.allclose(load_audio(path)[0], swapped, atol=1e-7)


@pytest.mark.parametrize("name", ["x.mp3", "x.txt", "x", "x.flac", "X.WAV"])
def test_the_format_is_recognised_by_content_not_by_suffix(raw, name):
    path = raw(name, wav_bytes(pcm16(noise())))
    assert len(load_audio(path)[0]) == probe(path).n_samples == 4000


@pytest.mark.parametrize(
    "name", ["wüt end.wav", "愤怒 01.wav", "a: b.wav", "rabbia'\".wav", "%s.wav"]
)
def test_names_may_hold_spaces_and_any_letters(sound, name):
    assert len(load_audio(sound(name, noise()))[0]) == 4000
    assert len(load_audio(str(sound(name, noise())))[0]) == 4000


@pytest.mark.parametrize("declared", [0x7FFF0000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_whose_length_is_unknown_is_read(raw, declared):
    path = raw("pipe.wav", wav_bytes(pcm16(noise()), declared=declared))
    assert len(load_audio(path)[0]) == probe(path).n_samples == 4000


def test_tags_before_the_sound_do_not_hide_it(raw):
    tags = b"LIST" + struct.pack("<I", 3001) + bytes(3002)  # odd sizes are padded
    path = raw("tags.wav", wav_bytes(pcm16(noise()), tags=tags))
    assert len(load_audio(path)[0]) == 4000


def test_an_mp3_without_a_length_header_is_read(sound, raw):
    """Its length is only estimated; a few samples less are no truncation."""
    x = np.random.default_rng(0).normal(0, 0.1, 48_000)
    how = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    whole = sound("x.mp3", x, 44_100, **how).read_bytes()
    # The first frame holds nothing but the length; its own size follows from its bit rate.
    kbit_s = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[whole[2] >> 4]
    second = 144_000 * kbit_s // 44_100 + (whole[2] >> 1 & 1)
    assert whole[second : second + 2] == whole[:2]
    waveform, _ = load_audio(raw("y.mp3", whole[second:]))
    assert abs(len(waveform) - 48_000) < 2000


def test_probe_says_what_the_header_says(sound):
    info = probe(sound("x.flac", noise(3000, 2), 48_000, subtype="PCM_24"))
    assert (info.n_samples, info.sample_rate, info.n_channels) == (3000, 48_000, 2)
    assert info.encoding == "PCM_24"
    assert info.duration_s == 0.0625


# ---- Channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_channels", [2, 3, 8])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_channels_are_averaged_or_the_first_is_taken(sound, n_channels, subtype):
    x = noise(2000, n_channels)
    path = sound("x.wav", x, subtype=subtype)
    mean, _ = load_audio(path)
    first, _ = load_audio(path, channel="first")
    assert mean.shape == first.shape == (2000,)
    assert np.abs(mean - x.mean(axis=1)).max() < 1e-4
    assert np.abs(first - x[:, 0]).max() < 1e-4
    assert mean.flags.c_contiguous
    assert first.flags.c_contiguous


def test_the_mean_of_two_channels_is_exact(sound):
    path = sound("x.wav", noise(2000, 2), subtype="PCM_16")
    both = soundfile.read(path, dtype="float32")[0]
    assert np.array_equal(load_audio(path)[0], (both[:, 0] + both[:, 1]) / 2)


def test_one_channel_is_the_same_either_way(sound):
    path = sound("x.wav", noise())
    assert np.array_equal(load_audio(path)[0], load_audio(path, channel="first")[0])


def test_the_first_channel_can_be_resampled(sound):
    x = noise(3200, 2)
    path = sound("x.wav", x, subtype="FLOAT")
    waveform, _ = load_audio(path, channel="first", sample_rate=8000)
    expected = resample(np.ascontiguousarray(x[:, 0], dtype=np.float32), RATE, 8000)
    assert np.abs(waveform - expected).max() < 1e-6


# ---- Stretches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.wav", "x.flac"])
def test_a_stretch_is_what_slicing_the_whole_gives(sound, name):
    path = sound(name, noise(RATE))
    whole, _ = load_audio(path)
    part, _ = load_audio(path, start_s=0.25, end_s=0.75)
    assert np.array_equal(part, whole[4000:12_000])
    assert np.array_equal(load_audio(path, start_s=0.9)[0], whole[14_400:])


def test_a_stretch_may_exceed_the_file_by_a_rounding_error_only(sound):
    path = sound("x.wav", noise(RATE))
    assert len(load_audio(path, start_s=0.5, end_s=1.04)[0]) == 8000
    with pytest.raises(AudioError, match=r"the stretch 0.5 s to 1.06 s lies outside .* 1.000 s"):
        load_audio(path, start_s=0.5, end_s=1.06)


@pytest.mark.parametrize(("start_s", "end_s"), [(1.0, None), (-0.1, 0.5), (0.5, 0.5), (0.6, 0.5)])
def test_a_stretch_that_is_empty_or_outside_is_refused(sound, start_s, end_s):
    path = sound("x.wav", noise(RATE))
    with pytest.raises(AudioError, match=r"x\.wav: the stretch .* lies outside the file"):
        load_audio(path, start_s=start_s, end_s=end_s)


# ---- Files that cannot be used -------------------------------------------------------------------


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name -> content, and what the message must say."""
    good = wav_bytes(pcm16(noise()))
    tags = b"LIST" + struct.pack("<I", 3000) + bytes(3000)
    return {
        "empty.wav": (b"", r"the file is empty \(0 bytes\)"),
        "header.wav": (wav_bytes(b""), "holds no samples"),
        "cut.wav": (good[:5000], "truncated: the header promises 8000 bytes of sound, 4956 are"),
        "cut at the header.wav": (good[:44], "8000 bytes of sound, 0 are there"),
        "cut after tags.wav": (
            wav_bytes(pcm16(noise()), tags=tags)[:5000],
            "truncated: the header promises 8000 bytes",
        ),
        "cut big-endian.wav": (
            wav_bytes(pcm16(noise()), big_endian=True)[:5000],
            "truncated: the header promises 8000 bytes",
        ),
        "cut in tags.wav": (
            wav_bytes(pcm16(noise()), tags=tags)[:1000],
            "cannot be decoded as audio",
        ),
        "cut in its header.wav": (good[:30], "cannot be decoded as audio"),
        "text.wav": (b"not a sound\n" * 50, r"cannot be decoded as audio \(Format not recognised"),
        "one byte.wav": (b"R", "cannot be decoded as audio"),
        "no rate.wav": (wav_bytes(pcm16(noise()), rate=0), "cannot be decoded as audio"),
        "slow.wav": (wav_bytes(pcm16(noise()), rate=5), "sample rate 5 Hz in the header"),
        "fast.wav": (
            wav_bytes(pcm16(noise()), rate=2**31 - 1),
            "sample rate 2147483647 Hz in the header, expected 1000 to 768000",
        ),
        "no channel.wav": (wav_bytes(pcm16(noise()), n_channels=0), "cannot be decoded as audio"),
        "film.m4a": (b"\0\0\0\x20ftypM4A " + bytes(400), "export its sound track as WAV or FLAC"),
        "film.wav": (b"\0\0\0\x20ftypM4A " + bytes(400), "export its sound track as WAV or FLAC"),
        "film.mkv": (b"\x1a\x45\xdf\xa3" + bytes(400), "export its sound track as WAV or FLAC"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_file_that_cannot_be_used_is_named_with_the_reason_in_one_line(raw, name):
    content, reason = bad_files()[name]
    path = raw(name, content)
    for read in (load_audio, probe):
        with pytest.raises(AudioError, match=reason) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [load_audio, probe])
def test_a_name_that_is_no_file_is_refused(tmp_path, read):
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
        read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="is a directory, expected a sound file"):
        read(tmp_path)
    with pytest.raises(AudioError, match="cannot be read"):
        read(tmp_path / ("x" * 300))
    with pytest.raises(AudioError, match=r"cannot be read \(embedded null byte\)"):
        read("a\0b.wav")


def test_a_truncated_aiff_is_refused(sound, raw):
    content = sound("x.aiff", noise()).read_bytes()
    with pytest.raises(AudioError, match=r"truncated: the header promises 8008 bytes"):
        load_audio(raw("cut.aiff", content[:5000]))


def test_a_truncated_flac_is_refused(sound, raw):
    content = sound("x.flac", noise(RATE)).read_bytes()
    with pytest.raises(AudioError, match=r"damaged or truncated .* get the file again"):
        load_audio(raw("cut.flac", content[: len(content) // 2]))


def test_a_truncated_mp3_is_refused(sound, raw):
    content = sound("x.mp3", noise(4 * RATE)).read_bytes()
    with pytest.raises(AudioError, match=r"truncated: the header promises 64000 samples, \d+ can"):
        load_audio(raw("cut.mp3", content[: len(content) // 2]))


def test_a_flac_that_does_not_tell_its_length_is_refused(sound, raw):
    content = bytearray(sound("x.flac", noise()).read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    with pytest.raises(AudioError, match="does not tell how long the sound is"):
        load_audio(raw("pipe.flac", bytes(content)))
    content[22:26] = b"\xff\xff\xff\xff"  # absurd: days of sound, in a small file
    with pytest.raises(AudioError, match="does not tell how long the sound is"):
        probe(raw("absurd.flac", bytes(content)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_file_with_nan_or_infinite_samples_is_refused(sound, value):
    x = noise(1000)
    x[[10, 500]] = value
    path = sound("x.wav", x, subtype="FLOAT")
    with pytest.raises(AudioError, match="2 of 1000 samples are NaN or infinite"):
        load_audio(path)
    assert len(load_audio(path, start_s=0.04)[0]) == 360  # the rest of it is sound


def test_infinite_samples_that_cancel_between_channels_are_refused(sound):
    x = noise(100, 2)
    x[50] = np.inf, -np.inf
    path = sound("x.wav", x, subtype="FLOAT")
    with pytest.raises(AudioError, match="2 of 200 samples are NaN or infinite"):
        load_audio(path)


def test_silence_is_refused_where_sound_is_required(sound):
    waveform, _ = load_audio(sound("x.wav", np.zeros(300)))
    with pytest.raises(AudioError, match=r"x\.wav: digital silence, all 300 samples are zero"):
        require_sound(waveform, "x.wav")
    waveform[-1] = 2**-15
    require_sound(waveform, "x.wav")


# ---- Resampling, rounding, hashes ----------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [1, 2, 100, 4001])
@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(16_000, 22_050), (48_000, 16_000), (8000, 16_000)]
)
def test_resampling_gives_the_ceiling_of_the_new_length(n_samples, from_rate, to_rate):
    resampled = resample(noise(n_samples + 2)[1:-1].astype(np.float32), from_rate, to_rate)
    assert len(resampled) == -(-n_samples * to_rate // from_rate)
    assert resampled.dtype == np.float32


def test_resampling_keeps_a_tone_a_tone():
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    resampled = resample(tone, RATE, 22_050)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
    assert np.abs(resampled - expected)[1000:-1000].max() < 1e-5
    assert resample(tone, RATE, RATE) is tone


@pytest.mark.parametrize(
    ("seconds", "rate", "n_samples"),
    [(0.0, 16_000, 0), (0.0125, 22_050, 276), (0.5, 3, 2), (0.1, 16_000, 1600), (2.0, 1, 2)],
)
def test_seconds_become_samples_rounding_half_up(seconds, rate, n_samples):
    assert seconds_to_samples(seconds, rate) == n_samples


def test_hashes_tell_content_from_container(sound):
    x = np.round(noise() * 32767) / 32768
    wav, flac = sound("x.wav", x), sound("x.flac", x)
    assert file_sha256(wav) != file_sha256(flac)
    assert waveform_sha256(load_audio(wav)[0]) == waveform_sha256(load_audio(flac)[0])
    assert waveform_sha256(load_audio(wav)[0]) != waveform_sha256(load_audio(wav)[0][1:])


# ---- Folders -------------------------------------------------------------------------------------


def test_sound_files_are_found_by_suffix_in_natural_order(tmp_path):
    for name in ("b/10.wav", "b/9.WAV", "A/x.flac", "b/notes.txt", ".hidden/x.wav", "b/._9.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "9.wav").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_sound_files(tmp_path)]
    assert found == ["A/x.flac", "b/9.WAV", "b/10.wav"]


def test_a_link_back_up_the_tree_is_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.wav").touch()
    os.symlink(tmp_path, tmp_path / "a" / "up", target_is_directory=True)
    assert [path.name for path in find_sound_files(tmp_path)] == ["x.wav"]


def test_natural_order_counts_numbers_as_numbers():
    assert sorted(["s10", "S9", "s1", "s09"], key=natural_key) == ["s1", "S9", "s09", "s10"]


# ---- Against librosa -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "n_channels", "subtype"),
    [(8000, 1, "PCM_16"), (16_000, 1, "PCM_16"), (44_100, 2, "PCM_24"), (48_000, 1, "FLOAT")],
)
def test_loading_equals_librosa_to_float_rounding(sound, rate, n_channels, subtype):
    librosa = pytest.importorskip("librosa")
    path = sound("x.wav", noise(rate, n_channels), rate, subtype=subtype)
    expected, _ = librosa.load(path, sr=22_050)
    waveform, got = load_audio(path, sample_rate=22_050)
    assert got == 22_050
    assert waveform.shape == expected.shape
    assert np.abs(waveform - expected).max() < 1e-6


@pytest.mark.corpus
def test_real_files_load_as_in_librosa():
    librosa = pytest.importorskip("librosa")
    root = os.environ.get("SERKIT_CORPORA")
    files = sorted(Path(root or "").glob("emodb/wav/*.wav"))[:20]
    if root is None or not files:
        pytest.skip("needs SERKIT_CORPORA with emodb/wav")
    for path in files:
        expected, _ = librosa.load(path, sr=22_050)
        assert np.abs(load_audio(path, sample_rate=22_050)[0] - expected).max() < 1e-6
