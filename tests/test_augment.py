"""Augmentation: what effects promise of length, level, ratio and band; and what is drawn when."""

import numpy as np
import pytest
import soundfile

from serkit.augment import (
    Augmenter,
    AugmentSettings,
    add_noise,
    change_gain,
    change_speed,
    reverberate,
    room_impulse,
    shift_pitch,
    stretch,
    telephone,
)
from serkit.settings import checked
from serkit.types import InputError
from tests_support import tone

RATE = 16_000
VOICE = tone(220, seconds=0.7, rate=RATE)
EFFECTS = ("pitch", "speed", "room", "noise", "telephone", "gain")


def level_db(wave) -> float:
    return 10 * np.log10(np.mean(np.square(wave, dtype=np.float64)))


def loudest_hz(wave, rate: int = RATE) -> float:
    return np.fft.rfftfreq(len(wave), 1 / rate)[np.abs(np.fft.rfft(wave)).argmax()]


def power_between(wave, low_hz: float, high_hz: float) -> float:
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    power = np.abs(np.fft.rfft(wave.astype(float))) ** 2
    return power[(frequencies >= low_hz) & (frequencies < high_hz)].sum()


def make(**settings) -> Augmenter:
    return Augmenter(AugmentSettings(**settings), sample_rate=RATE)


def only(effect: str, **settings) -> Augmenter:
    return make(effects=(effect,), **settings)


def test_gain_changes_the_level_alone():
    louder = change_gain(VOICE, 6.0)
    assert level_db(louder) - level_db(VOICE) == pytest.approx(6.0, abs=1e-3)
    assert louder.dtype == np.float32


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.25])
def test_speed_changes_length_and_pitch_by_one_factor(factor):
    played = change_speed(VOICE, factor)
    assert len(played) == np.ceil(len(VOICE) / factor)
    assert loudest_hz(played) == pytest.approx(220 * factor, rel=0.02)
    assert level_db(played) == pytest.approx(level_db(VOICE), abs=0.1)


@pytest.mark.parametrize("semitones", [-7.0, -2.0, 0.0, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("f0_hz", [90, 220, 400])
def test_pitch_moves_by_the_semitones_asked_for_and_the_length_stays(semitones, f0_hz):
    voice = tone(f0_hz, seconds=1.0, rate=RATE)
    shifted = shift_pitch(voice, RATE, semitones)
    assert shifted.shape == voice.shape
    assert shifted.dtype == np.float32
    assert loudest_hz(shifted) == pytest.approx(f0_hz * 2 ** (semitones / 12), rel=0.03)
    assert level_db(shifted) == pytest.approx(level_db(voice), abs=1.0)


def test_pitch_leaves_where_sounds_are_in_time():
    early = np.concatenate([VOICE[:4_000], np.zeros(8_000, dtype=np.float32), VOICE[:4_000]])
    for semitones in (-3.0, 3.0):
        shifted = shift_pitch(early, RATE, semitones)
        assert np.abs(shifted[4_800:11_200]).max() < 0.02
        assert level_db(shifted[500:3_500]) == pytest.approx(level_db(early[500:3_500]), abs=2.0)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 2.0])
def test_stretching_changes_the_length_and_not_the_pitch(factor):
    longer = stretch(VOICE, RATE, factor)
    assert len(longer) == round(len(VOICE) * factor)
    assert loudest_hz(longer) == pytest.approx(220, rel=0.03)


def test_stretching_by_1_changes_nothing():
    np.testing.assert_allclose(stretch(VOICE, RATE, 1.0), VOICE, atol=1e-6)


@pytest.mark.parametrize("n", [1, 100])
def test_the_shortest_sounds_can_be_shifted(n):
    shifted = shift_pitch(VOICE[:n], RATE, 3.0)
    assert shifted.shape == (n,)
    assert np.isfinite(shifted).all()


def test_pitch_is_drawn_only_where_it_is_named():
    assert "pitch" not in AugmentSettings().effects
    made = only("pitch", semitones=(3.0, 3.0))(VOICE, key="u", view=0)
    np.testing.assert_allclose(made, shift_pitch(VOICE, RATE, 3.0), atol=1e-6)


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "speech_shaped"])
@pytest.mark.parametrize("snr_db", [20.0, -3.0])
def test_noise_has_the_ratio_asked_for(kind, snr_db):
    generator = np.random.default_rng(1)
    noisy = add_noise(VOICE, RATE, kind=kind, snr_db=snr_db, generator=generator)
    assert level_db(VOICE) - level_db(noisy - VOICE) == pytest.approx(snr_db, abs=0.01)


def test_a_room_dies_away_in_the_time_given():
    impulse = room_impulse(RATE, rt60_s=0.5, generator=np.random.default_rng(2))
    assert impulse[0] == 1.0
    assert len(impulse) == 1 + RATE // 2
    quarters = [level_db(part) for part in np.array_split(impulse[1:], 4)]
    assert np.diff(quarters) == pytest.approx([-15.0] * 3, abs=1.5)


def test_a_room_keeps_length_and_level_and_begins_where_speech_does():
    silence = np.zeros(4_000, dtype=np.float32)
    speech = np.concatenate([silence, VOICE])
    generator = np.random.default_rng(3)
    late = np.concatenate([np.zeros(100), room_impulse(RATE, rt60_s=0.4, generator=generator)])
    heard = reverberate(speech, late.astype(np.float32))
    assert heard.shape == speech.shape
    assert level_db(heard) == pytest.approx(level_db(speech), abs=1e-3)
    assert np.abs(heard[:4_000]).max() < 1e-6
    np.testing.assert_allclose(reverberate(VOICE, np.ones(1, dtype=np.float32)), VOICE, atol=1e-6)


def test_a_telephone_passes_its_band_and_little_else():
    noise = 0.1 * np.random.default_rng(4).standard_normal(RATE).astype(np.float32)
    heard = telephone(noise, RATE)
    assert heard.shape == noise.shape
    assert power_between(heard, 400, 3300) == pytest.approx(
        power_between(noise, 400, 3300), rel=0.1
    )
    assert power_between(heard, 4_100, 8_000) < 1e-4 * power_between(noise, 4_100, 8_000)
    low = 0.3 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE).astype(np.float32)
    assert level_db(telephone(low, RATE)) < level_db(low) - 30


@pytest.mark.parametrize("amplitude", [0.5, 0.005])
def test_mu_law_costs_about_as_much_of_quiet_speech_as_of_loud(amplitude):
    inside = (amplitude * np.sin(2 * np.pi * 1_000 * np.arange(8_000) / 8_000)).astype(np.float32)
    heard = telephone(inside, 8_000)
    middle = slice(1_000, -1_000)
    ratio_db = level_db(inside[middle]) - level_db((heard - inside)[middle])
    assert 25 < ratio_db < 50


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_changes_the_sound_and_leaves_the_original_alone(effect):
    before = VOICE.copy()
    made = only(effect)(VOICE, key="u", view=0)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert len(made) != len(VOICE) or not np.array_equal(made, VOICE)
    np.testing.assert_array_equal(VOICE, before)


def test_what_is_drawn_is_a_function_of_seed_key_and_view():
    augmenter = make(probability=0.7)
    made = augmenter(VOICE, key="u", view=0)
    augmenter(VOICE, key="other", view=3)
    np.testing.assert_array_equal(augmenter(VOICE, key="u", view=0), made)
    others = [
        augmenter(VOICE, key="u", view=1),
        augmenter(VOICE, key="v", view=0),
        make(probability=0.7, seed=1)(VOICE, key="u", view=0),
    ]
    assert not any(np.array_equal(other, made) for other in others)


def test_at_least_one_effect_is_applied():
    augmenter = make(probability=0.0, effects=("gain", "noise"))
    made = [augmenter(VOICE, key=str(k), view=0) for k in range(20)]
    ratios = [np.ptp(wave / VOICE) < 1e-3 for wave in made]
    assert 0 < sum(ratios) < 20
    assert not any(np.array_equal(wave, VOICE) for wave in made)


def test_silence_stays_silence():
    silence = np.zeros(1_000, dtype=np.float32)
    assert not make(probability=1.0)(silence, key="u", view=0).any()


def test_rooms_may_be_recorded_ones(tmp_path):
    impulse = np.zeros(50, dtype=np.float32)
    impulse[[10, 30]] = [1.0, 0.5]
    soundfile.write(tmp_path / "room.wav", impulse, RATE, subtype="FLOAT")
    made = only("room", impulses=str(tmp_path))(VOICE, key="u", view=0)
    np.testing.assert_allclose(made, reverberate(VOICE, impulse), atol=1e-5)


def test_identity_says_what_sounds_depend_on(tmp_path):
    soundfile.write(tmp_path / "room.wav", np.eye(1, 50)[0], RATE, subtype="FLOAT")
    here = make(impulses=str(tmp_path / "room.wav"))
    (tmp_path / "room.wav").rename(tmp_path / "moved.wav")
    there = make(impulses=str(tmp_path / "moved.wav"), n_views=5)
    assert here.identity() == there.identity()
    assert here.identity() != make().identity() != make(seed=1).identity()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": [1.1, 0.9]}, r"speed = \[1.1, 0.9\]: expected the lowest and the highest"),
        ({"rt60_s": [0, 1]}, "rt60_s = .*from 0.01 up"),
        ({"effects": []}, "effects is empty: name at least one"),
        ({"noises": []}, "noises is empty"),
        ({"effects": ["echo"]}, r"make.effects.0 = .*input should be 'pitch', 'speed', 'room'"),
        ({"semitones": [-20, 2]}, "semitones = .*from -12 up"),
        ({"probability": 2}, "make.probability = 2"),
        ({"n_veiws": 2}, "make.n_veiws: unknown setting; did you mean 'n_views'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        checked(AugmentSettings, settings, where="make")


def test_impulses_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(InputError, match="impulses: no sound files in"):
        make(impulses=str(tmp_path))
    with pytest.raises(InputError, match=r"none\.wav: no such file"):
        make(impulses=str(tmp_path / "none.wav"))
    soundfile.write(tmp_path / "silent.wav", np.zeros(50), RATE)
    with pytest.raises(InputError, match=r"silent\.wav: digital silence"):
        make(impulses=str(tmp_path))
