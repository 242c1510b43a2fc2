"""Speech made different: higher, faster, in noise, in a room, over a telephone, louder.

Each effect is a function of a waveform, and of a NumPy generator where chance plays a part.
:class:`Augmenter` applies a random few of them, as a function of (seed, key, view): the same on
every machine and in every order. Nothing is clipped.

Speed changes pitch along with tempo. Pitch alone is changed by playing faster or slower what was
stretched before, which is done by joining overlapping pieces where they fit best (WSOLA: Verhelst
and Roelands, ICASSP 1993). The formants move with the pitch, and the joints can be heard; so it is
not among the effects that are drawn from unless it is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from serkit.audio import Waveform, find_sound_files, load_audio, require_sound, resample
from serkit.noise import hum, mix, pink, speech_shaped, white
from serkit.types import InputError

__all__ = [
    "AugmentSettings",
    "Augmenter",
    "Effect",
    "NoiseKind",
    "add_noise",
    "change_gain",
    "change_speed",
    "reverberate",
    "room_impulse",
    "shift_pitch",
    "stretch",
    "telephone",
]

Effect = Literal["pitch", "speed", "room", "noise", "telephone", "gain"]
NoiseKind = Literal["white", "pink", "hum", "speech_shaped"]
Range = tuple[float, float]

SPEED_STEPS = 1_000  # speeds are multiples of a thousandth
# Pieces that stretched speech is joined of: two periods of a low voice, moved by up to one.
PIECE_S, MOVED_S = 0.03, 0.012
DIRECT_TO_TAIL_DB = 3.0  # energy of direct sound over that of the room: near the microphone
TELEPHONE_RATE = 8_000  # Hz
# Gains at frequencies, straight lines between them: the band of ITU-T G.712 passes.
TELEPHONE_HZ, TELEPHONE_GAIN = (200.0, 300.0, 3_400.0, 3_800.0), (0.0, 1.0, 1.0, 0.0)
MU = 255.0  # of the mu-law, ITU-T G.711
MU_STEPS = 127  # on either side of zero, in 8 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """How augmented sounds are made; values are drawn from ranges, lowest and highest.

    Attributes
    ----------
    n_views
        Sounds made from each utterance.
    effects
        Those to draw from, applied in the order in which they befall sound: pitch, speed, room,
        noise, telephone, gain. By default all but pitch.
    probability
        Of each effect; where none is drawn, one of them is applied.
    semitones
        Change of pitch at a constant tempo.
    speed
        Factor of tempo and pitch.
    rt60_s
        Seconds in which a room's sound falls by 60 dB.
    impulses
        Sound file, or folder of such, with impulse responses of rooms; then ``rt60_s`` has no say.
    snr_db
        Speech over noise.
    noises
        Kinds of noise to draw from.
    gain_db
        Change of level.
    seed
        Of all that is drawn.
    """

    n_views: PositiveInt = 1
    effects: tuple[Effect, ...] = ("speed", "room", "noise", "telephone", "gain")
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    semitones: Range = (-2.0, 2.0)
    speed: Range = (0.9, 1.1)
    rt60_s: Range = (0.2, 0.6)
    impulses: str | None = None
    snr_db: Range = (5.0, 20.0)
    noises: tuple[NoiseKind, ...] = get_args(NoiseKind)
    gain_db: Range = (-6.0, 6.0)
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        for name, above in (
            ("semitones", -12.0),
            ("speed", 0.1),
            ("rt60_s", 0.01),
            ("snr_db", -60.0),
            ("gain_db", -60.0),
        ):
            low, high = getattr(self, name)
            if not above <= low <= high:
                raise InputError(
                    f"{name} = [{low:g}, {high:g}]: expected the lowest and the highest value, "
                    f"from {above:g} up"
                )
        for name in ("effects", "noises"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty: name at least one")


def change_gain(waveform: Waveform, gain_db: float) -> Waveform:
    """Change the level, ``(n_samples,)``."""
    return waveform * np.float32(10 ** (gain_db / 20))


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play faster or slower, as a tape would: tempo and pitch change by one factor.

    Parameters
    ----------
    waveform : (n_samples,)
    factor
        Above 1 is faster; rounded to thousandths.

    Returns
    -------
    played : (ceil(n_samples / factor),)
    """
    return resample(waveform, round(factor * SPEED_STEPS), SPEED_STEPS)


def shift_pitch(waveform: Waveform, sample_rate: int, semitones: float) -> Waveform:
    """Change the pitch, formants along with it, at a constant tempo.

    Parameters
    ----------
    waveform : (n_samples,)
    semitones
        Twelve double the frequency.

    Returns
    -------
    shifted : (n_samples,)
    """
    factor = round(2 ** (semitones / 12) * SPEED_STEPS) / SPEED_STEPS
    shifted = change_speed(stretch(waveform, sample_rate, factor), factor)[: len(waveform)]
    return np.pad(shifted, (0, len(waveform) - len(shifted)))


def stretch(waveform: Waveform, sample_rate: int, factor: float) -> Waveform:
    """Make speech last longer or shorter at its own pitch.

    Parameters
    ----------
    waveform : (n_samples,)
    factor
        Above 1 is longer.

    Returns
    -------
    stretched : (round(n_samples * factor),)
    """
    hop = round(PIECE_S / 2 * sample_rate)
    moved = round(MOVED_S * sample_rate)
    window = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)  # two in a row sum to 1
    n = round(len(waveform) * factor)
    n_pieces = 2 + n // hop
    # Zeros where the first pieces and the last ones reach beyond the ends.
    behind = round(n_pieces * hop / factor) + 4 * hop + 2 * moved
    source = np.pad(waveform.astype(np.float64), (hop + moved, behind))
    stretched = np.zeros((n_pieces + 1) * hop)
    start = moved
    for piece in range(n_pieces):
        if piece:
            expected = source[start + hop : start + 3 * hop]  # what followed the last piece
            first = round(piece * hop / factor)
            start = first + _best_fit(source[first : first + 2 * moved + 2 * hop], expected)
        stretched[piece * hop : (piece + 2) * hop] += window * source[start : start + 2 * hop]
    return stretched[hop : hop + n].astype(np.float32)


def _best_fit(region: NDArray[np.float64], piece: NDArray[np.float64]) -> int:
    """Find where in a region a piece fits best, by normalised correlation."""
    products = np.correlate(region, piece, "valid")
    sums = np.concatenate([[0.0], np.cumsum(region**2)])
    energies = sums[len(piece) :] - sums[: -len(piece)]
    return int((products / np.sqrt(energies.clip(1e-12))).argmax())


def add_noise(
    waveform: Waveform,
    sample_rate: int,
    *,
    kind: NoiseKind,
    snr_db: float,
    generator: np.random.Generator,
) -> Waveform:
    """Add noise of a kind at a signal-to-noise ratio, ``(n_samples,)``; see :mod:`serkit.noise`."""
    if kind == "white":
        return mix(waveform, white(len(waveform), generator), snr_db)
    make = {"pink": pink, "hum": hum, "speech_shaped": speech_shaped}[kind]
    return mix(waveform, make(len(waveform), sample_rate, generator), snr_db)


def room_impulse(sample_rate: int, *, rt60_s: float, generator: np.random.Generator) -> Waveform:
    """Make the impulse response of a room: direct sound, then noise that dies away.

    Parameters
    ----------
    rt60_s
        Seconds in which the noise falls by 60 dB; it ends there.

    Returns
    -------
    impulse : (1 + rt60_s * sample_rate,)
    """
    n_tail = max(1, round(rt60_s * sample_rate))
    decay = 10 ** (-3 * np.arange(1, n_tail + 1) / n_tail)
    tail = decay * generator.standard_normal(n_tail)
    tail *= np.sqrt(10 ** (-DIRECT_TO_TAIL_DB / 10) / np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def reverberate(waveform: Waveform, impulse: Waveform) -> Waveform:
    """Put speech into a room; its length, its level and where its words begin stay.

    Parameters
    ----------
    waveform : (n_samples,)
    impulse : (n_impulse,), at the same rate; its greatest sample is taken for the direct sound

    Returns
    -------
    heard : (n_samples,), of the same mean square
    """
    n = len(waveform) + len(impulse) - 1
    size = 1 << (n - 1).bit_length()
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(impulse, size)
    first = int(np.abs(impulse).argmax())
    heard = np.fft.irfft(spectrum, size)[first : first + len(waveform)]
    power = float(np.mean(heard**2))
    if power > 0:
        heard *= np.sqrt(float(np.mean(np.square(waveform, dtype=np.float64))) / power)
    return np.asarray(heard, dtype=np.float32)


def telephone(waveform: Waveform, sample_rate: int) -> Waveform:
    """Send speech over a telephone line: 300 to 3400 Hz at 8 kHz, 8-bit mu-law, and back.

    Parameters
    ----------
    waveform : (n_samples,); what lies beyond [-1, 1] is more than the line can carry

    Returns
    -------
    heard : (n_samples,)
    """
    line = resample(waveform, sample_rate, TELEPHONE_RATE)
    size = 2 * len(line)  # zeros behind the end, so that the filter does not wrap around
    frequencies = np.fft.rfftfreq(size, 1 / TELEPHONE_RATE)
    gains = np.interp(frequencies, TELEPHONE_HZ, TELEPHONE_GAIN)
    passed = np.fft.irfft(np.fft.rfft(line, size) * gains, size)[: len(line)]
    heard = resample(_mu_law(passed), TELEPHONE_RATE, sample_rate)
    return heard[: len(waveform)]


def _mu_law(wave: NDArray[np.float64]) -> Waveform:
    """Code samples in 8 bits, finer where they are small, and decode them."""
    compressed = np.log1p(MU * np.minimum(np.abs(wave), 1.0)) / np.log1p(MU)
    steps = np.round(compressed * MU_STEPS) / MU_STEPS
    decoded: Waveform = (np.sign(wave) * np.expm1(steps * np.log1p(MU)) / MU).astype(np.float32)
    return decoded


class Augmenter:
    """Makes other sounds of an utterance.

    Parameters
    ----------
    settings
        See :class:`AugmentSettings`.
    sample_rate
        Hz, of the waveforms that it is given; impulse responses are resampled to it.

    Raises
    ------
    InputError
        If there are no impulse responses where the settings say, or one cannot be used.
    """

    def __init__(self, settings: AugmentSettings, *, sample_rate: int) -> None:
        self.settings, self.sample_rate = settings, sample_rate
        self._impulses: list[Waveform] = []
        if settings.impulses is not None:
            self._impulses = _read_impulses(Path(settings.impulses).expanduser(), sample_rate)

    def __call__(self, waveform: Waveform, *, key: str, view: int) -> Waveform:
        """Make one other sound, of about the same length; silence stays as it is.

        Parameters
        ----------
        waveform : (n_samples,), float32
        key
            Names the utterance: equal keys draw the same effects.
        view
            Number of the sound among those of the utterance.
        """
        if not np.any(waveform):
            return waveform
        generator = self._generator(key, view)
        drawn = self._draw(generator)
        for effect in get_args(Effect):
            if effect in drawn:
                waveform = self._apply(effect, waveform, generator)
        return waveform

    def identity(self) -> dict[str, Any]:
        """Say what the sounds depend on, as JSON; impulse responses by content."""
        hashes = [hashlib.sha256(impulse.tobytes()).hexdigest() for impulse in self._impulses]
        settings = asdict(self.settings) | {"impulses": hashes, "sample_rate": self.sample_rate}
        del settings["n_views"]  # each of them is the same, however many there are
        return settings

    def _generator(self, key: str, view: int) -> np.random.Generator:
        text = f"augment:{self.settings.seed}:{view}:{key}"
        digest = hashlib.sha256(text.encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def _draw(self, generator: np.random.Generator) -> Sequence[Effect]:
        effects = self.settings.effects
        chances = generator.random(len(effects))
        chosen = [
            effect
            for effect, chance in zip(effects, chances, strict=True)
            if chance < self.settings.probability
        ]
        return chosen or [effects[int(chances.argmin())]]

    def _apply(
        self, effect: Effect, waveform: Waveform, generator: np.random.Generator
    ) -> Waveform:
        settings = self.settings
        if effect == "pitch":
            return shift_pitch(waveform, self.sample_rate, generator.uniform(*settings.semitones))
        if effect == "speed":
            return change_speed(waveform, generator.uniform(*settings.speed))
        if effect == "room":
            return reverberate(waveform, self._impulse(generator))
        if effect == "noise":
            kind = settings.noises[generator.integers(len(settings.noises))]
            snr_db = generator.uniform(*settings.snr_db)
            return add_noise(
                waveform, self.sample_rate, kind=kind, snr_db=snr_db, generator=generator
            )
        if effect == "telephone":
            return telephone(waveform, self.sample_rate)
        return change_gain(waveform, generator.uniform(*settings.gain_db))

    def _impulse(self, generator: np.random.Generator) -> Waveform:
        if self._impulses:
            return self._impulses[generator.integers(len(self._impulses))]
        rt60_s = generator.uniform(*self.settings.rt60_s)
        return room_impulse(self.sample_rate, rt60_s=rt60_s, generator=generator)


def _read_impulses(path: Path, sample_rate: int) -> list[Waveform]:
    paths = find_sound_files(path) if path.is_dir() else [path]
    if not paths:
        raise InputError(f"impulses: no sound files in {path}: expected impulse responses of rooms")
    impulses = [load_audio(one, sample_rate=sample_rate)[0] for one in paths]
    for one, impulse in zip(paths, impulses, strict=True):
        require_sound(impulse, one)
    return impulses
