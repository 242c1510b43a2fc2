"""Where somebody speaks."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from serkit.features.voice_activity import speech_stretches
from serkit.types import MissingExtraError

RATE = 8_000


def speech(seconds: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (0.1 * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return 1e-4 * speech(seconds)


def test_speech_is_found_between_pauses():
    sound = np.concatenate([silence(1), speech(2), silence(1), speech(1), silence(1)])
    found = speech_stretches(sound, RATE, longest_s=2.5, detector="energy")
    seconds = [border / RATE for stretch in found for border in stretch]
    assert seconds == pytest.approx([0.97, 3.03, 3.97, 5.03], abs=0.02)


def test_neighbours_are_joined_up_to_the_longest():
    sound = np.concatenate([speech(1), silence(0.5), speech(1), silence(0.5), speech(1)])
    assert len(speech_stretches(sound, RATE, longest_s=10, detector="energy")) == 1
    assert len(speech_stretches(sound, RATE, longest_s=2.7, detector="energy")) == 2
    assert len(speech_stretches(sound, RATE, longest_s=1.2, detector="energy")) == 3


def test_speech_without_a_pause_is_cut_where_it_is_softest():
    sound = speech(10)
    sound[round(4.5 * RATE) : round(4.8 * RATE)] *= 0.3  # no pause, only softer
    found = speech_stretches(sound, RATE, longest_s=6, detector="energy")
    assert found[0][1] == found[1][0]
    assert 4.5 <= found[0][1] / RATE <= 4.8
    assert found[-1][1] == len(sound)


def test_no_stretch_is_longer_than_asked_for():
    found = speech_stretches(speech(31.3), RATE, longest_s=3, detector="energy")
    assert all(stop - start <= 3 * RATE for start, stop in found)
    assert sum(stop - start for start, stop in found) == pytest.approx(31.3 * RATE, abs=RATE / 10)


@pytest.mark.parametrize("n", [0, 1, 50, 20_000])
def test_nobody_speaks_in_silence(n):
    assert speech_stretches(np.zeros(n, dtype=np.float32), RATE) == []


def test_silero_is_asked_at_16_khz(monkeypatch):
    asked = {}

    def find(sound, model, **options):
        asked.update(options, n=len(sound), model=model)
        return [{"start": 16_000, "end": 32_000}]

    fake = SimpleNamespace(get_speech_timestamps=find, load_silero_vad=lambda: "network")
    monkeypatch.setitem(sys.modules, "silero_vad", fake)
    assert speech_stretches(speech(3), RATE) == [(8_000, 16_000)]
    assert (asked["n"], asked["model"], asked["threshold"]) == (48_000, "network", 0.5)
    assert asked["min_silence_duration_ms"] == 100


def test_without_silero_energy_decides_unless_it_was_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert speech_stretches(speech(3), RATE)
    with pytest.raises(MissingExtraError, match="silero-vad"):
        speech_stretches(speech(3), RATE, detector="silero")
