"""Clips per minute of ``serkit extract`` with 0 (in this process), 1, 2 and 4 workers.

    python benchmarks/extraction.py [--clips 24] [--repeats 3] [--root FOLDER]

Synthetic clips (or, with ``--root``, those of a folder laid out as CH-SIMS) go through
``extract_clips`` with the default sets, every time into an empty cache, the numbers of workers
taking turns. A run has the start of its processes in it, which the last column leaves out: it
counts from the first finished clip. Only ratios to the first line are claims, and only beyond the
number of cores do more workers stop helping.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from serkit.corpora.clips import read_clip_corpus
from serkit.corpora.labelled_clips import LabelledClip
from serkit.corpora.synthetic_clips import generate
from serkit.experiment.extraction.config import ExtractConfig
from serkit.experiment.extraction.extract import extract_clips
from serkit.experiment.progress import Quiet
from serkit.machine import usable_cores

WORKERS = (0, 1, 2, 4)


class FirstClip(Quiet):
    """Notes when the first clip was finished."""

    def __init__(self) -> None:
        self.time_s: float | None = None

    def advance(self, done: int) -> None:
        """Look at the clock once."""
        self.time_s = self.time_s or time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--root", type=Path, help="folder laid out as CH-SIMS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.root is None:
            clips = generate(Path(name, "clips"), n_clips=arguments.clips)
        else:
            options = {"release": "other"}
            clips, _ = read_clip_corpus(
                "ch_sims", arguments.root, allow_incomplete=True, options=options
            )
            clips = clips[: arguments.clips]
        measure(clips, Path(name), arguments.repeats)


def measure(clips: Sequence[LabelledClip], scratch: Path, n_repeats: int) -> None:
    whole: dict[int, list[float]] = {n: [] for n in WORKERS}
    running: dict[int, list[float]] = {n: [] for n in WORKERS}
    run(clips[:1], scratch / "first", n_workers=0)  # libraries are loaded and compiled
    for repeat in range(n_repeats):
        for n_workers in WORKERS:
            folder = scratch / f"{repeat}-{n_workers}"
            total_s, after_first_s = run(clips, folder, n_workers=n_workers)
            whole[n_workers].append(60 * len(clips) / total_s)
            running[n_workers].append(60 * (len(clips) - 1) / after_first_s)
    print(f"{len(clips)} clips, {usable_cores()} cores; medians of {n_repeats}")
    print("workers  clips/min  ratio  clips/min after the first  ratio")
    for n_workers in WORKERS:
        rate, after = (statistics.median(one[n_workers]) for one in (whole, running))
        ratio = rate / statistics.median(whole[0])
        ratio_after = after / statistics.median(running[0])
        print(f"{n_workers:7} {rate:10.0f} {ratio:6.2f} {after:26.0f} {ratio_after:6.2f}")


def run(clips: Sequence[LabelledClip], folder: Path, *, n_workers: int) -> tuple[float, float]:
    """Extract once; seconds of all, and from the first finished clip on."""
    first = FirstClip()
    start_s = time.perf_counter()
    extract_clips(
        clips,
        ExtractConfig(),
        folder / "features.npz",
        n_workers=n_workers,
        cache_dir=folder / "cache",
        max_failures=1,
        progress=first,
    )
    end_s = time.perf_counter()
    assert first.time_s is not None
    return end_s - start_s, max(end_s - first.time_s, 1e-9)


if __name__ == "__main__":
    main()
