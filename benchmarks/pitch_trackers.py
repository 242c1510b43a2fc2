"""Pitch trackers side by side: serkit's own, pYIN (librosa) and DIO (pyworld), in one run.

    python benchmarks/pitch_trackers.py [--corpora DIR] [--files 60] [--seeds 3 4 5]

On synthetic speech the true pitch is known (``tests/features/known_pitch.py``); the own tracker's
constants were chosen on seeds 1, 2 and 11 to 15, and on 30 files of EMO-DB. On EMO-DB
(``DIR/emodb/wav``; DIR is SERKIT_CORPORA by default) nobody knows it, so pYIN stands in: those rows
say how far trackers agree, not who is right. One thread; times are of the processor, and only their
ratios are claims. pyworld is left out, with the reason, where it cannot be imported.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from serkit.audio import load_audio, resample
from serkit.features.pitch import PITCH_TRACKERS, track_f0
from serkit.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from features.known_pitch import RATE, known_pitch

HOP = 256
LEVELS_DB = (None, 20, 10, 5)
PER_CONDITION = 12  # utterances of each gender at each level of noise
GROSS = 0.2  # of the true pitch


@dataclass(frozen=True)
class Judgement:
    """Contours of one tracker, those they are judged by, and what they cost."""

    true_hz: np.ndarray
    f0_hz: np.ndarray
    times_real_time: float

    def row(self, name: str, pyin_speed: float) -> str:
        """Write errors, speed and its ratio to pYIN's as a row of a table."""
        true_voiced, voiced = self.true_hz > 0, self.f0_hz > 0
        both = true_voiced & voiced
        ratio = self.f0_hz[both] / self.true_hz[both]
        shares = (
            np.mean(np.abs(ratio - 1) > GROSS),
            np.mean(true_voiced != voiced),
            np.mean(~voiced[true_voiced]),
            np.mean(voiced[~true_voiced]),
        )
        cells = [name, *(f"{100 * share:.2f}" for share in shares)]
        cells.append(f"{np.median(np.abs(1200 * np.log2(ratio))):.1f}")
        cells += [f"{self.times_real_time:.0f}", f"{self.times_real_time / pyin_speed:.1f}"]
        return "| " + " | ".join(cells) + " |"


HEADER = """
| {} | gross errors, % | voicing errors, % | missed, % | false, % | median, cents \
| x real time | speed / pYIN |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default=os.environ.get("SERKIT_CORPORA"))
    parser.add_argument("--files", type=int, default=60, help="of EMO-DB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="of the voices")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        trackers = importable(PITCH_TRACKERS)
        known_speech(trackers, arguments.seeds)
        files = sorted(Path(arguments.corpora or "").glob("emodb/wav/*.wav"))
        if arguments.corpora and files:
            step = max(1, len(files) // arguments.files)
            recordings(trackers, files[::step][: arguments.files])


def importable(names: Sequence[str]) -> list[str]:
    """Call each tracker once, which also compiles pYIN, and say which cannot be used."""
    usable = []
    for name in names:
        try:
            track_f0(np.sin(np.arange(8000) / 20), RATE, tracker=name)
            usable.append(name)
        except InputError as error:
            print(f"left out: {error}")
    return usable


def track_all(waveforms: Sequence[np.ndarray], tracker: str) -> tuple[list[np.ndarray], float]:
    """Contours of each waveform, and how many times faster than real time they were made."""
    began = time.process_time()
    contours = [track_f0(waveform, RATE, tracker=tracker) for waveform in waveforms]
    spent_s = time.process_time() - began
    return contours, sum(map(len, waveforms)) / RATE / spent_s


def known_speech(trackers: Sequence[str], seeds: Sequence[int]) -> None:
    conditions = [
        (gender, snr_db, known_pitch(gender, snr_db, seed=1000 * seed + 100 * i + j))
        for seed in seeds
        for i, snr_db in enumerate(LEVELS_DB)
        for gender in ("male", "female")
        for j in range(PER_CONDITION)
    ]
    waveforms = [voice.waveform for *_, voice in conditions]
    true_hz = [voice.at_frames(HOP) for *_, voice in conditions]
    tracked = {name: track_all(waveforms, name) for name in trackers}
    pyin_speed = tracked["pyin"][1]
    print(
        f"{len(waveforms)} synthetic utterances of seeds {', '.join(map(str, seeds))}, "
        f"{sum(map(len, waveforms)) / RATE:.0f} s, {sum(map(len, true_hz))} frames"
    )
    groups = {"all": range(len(conditions))}
    for level in LEVELS_DB:
        name = "no noise" if level is None else f"{level} dB"
        groups[name] = [i for i, (_, snr_db, _) in enumerate(conditions) if snr_db == level]
    for voice in ("male", "female"):
        groups[voice] = [i for i, (gender, *_) in enumerate(conditions) if gender == voice]
    print(HEADER.format("tracker, condition"))
    for group, members in groups.items():
        for name, (contours, speed) in tracked.items():
            true, got = (np.concatenate([c[i] for i in members]) for c in (true_hz, contours))
            print(Judgement(true, got, speed).row(f"{name}, {group}", pyin_speed))


def recordings(trackers: Sequence[str], files: Sequence[Path]) -> None:
    waveforms = [resample(*load_audio(path), RATE) for path in files]
    tracked = {name: track_all(waveforms, name) for name in trackers}
    reference, pyin_speed = tracked["pyin"]
    print(f"\n{len(files)} files of EMO-DB, {sum(map(len, waveforms)) / RATE:.0f} s")
    print(HEADER.format("tracker, judged by"))
    pairs = [(name, "pyin") for name in tracked if name != "pyin"]
    pairs += [("nccf", "pyworld")] if "pyworld" in tracked else []
    for name, judge in pairs:
        true, got = (np.concatenate(tracked[key][0]) for key in (judge, name))
        print(Judgement(true, got, tracked[name][1]).row(f"{name}, {judge}", pyin_speed))
    agreed(tracked, np.concatenate(reference))


def agreed(tracked: dict[str, tuple[list[np.ndarray], float]], pyin_hz: np.ndarray) -> None:
    """Judge the own tracker where the two others agree, which is as near as truth comes here."""
    if "pyworld" not in tracked:
        return
    own_hz, dio_hz = (np.concatenate(tracked[name][0]) for name in ("nccf", "pyworld"))
    both = (pyin_hz > 0) & (dio_hz > 0)
    same = both & (np.abs(pyin_hz - dio_hz) < 0.1 * np.where(both, dio_hz, 1.0))
    heard = same & (own_hz > 0)
    neither = (pyin_hz == 0) & (dio_hz == 0)
    gross = np.mean(np.abs(own_hz[heard] / dio_hz[heard] - 1) > GROSS)
    print(
        f"\nwhere pYIN and DIO agree within 10 % ({same.sum()} frames), nccf has "
        f"{100 * gross:.2f} % gross errors and misses {100 * np.mean(own_hz[same] == 0):.2f} %; "
        f"where neither hears a voice ({neither.sum()} frames), nccf hears one in "
        f"{100 * np.mean(own_hz[neither] > 0):.2f} %"
    )


if __name__ == "__main__":
    main()
