"""The way of a corpus from sound files to features: computed (cold) and read back (warm).

    python benchmarks/data_path.py [FOLDER] [--quick]

All sound files below FOLDER (by default EMO-DB's, ``$SERKIT_CORPORA/emodb``; without it, the
embedded synthetic corpus) go through ``extract_features`` with the MFCC of TIM-Net: into an empty
cache and then back from it, with one worker and with one per core, taking turns. Cold refers to
the feature cache; the sound files are read before the first turn, so that the system's own file
cache is warm for all.

A warm run hashes every sound file, because features are found by content, and reads the features.
It is compared with a plain loop that reads the same feature files one after the other, with one
that reads the sound files as well, and with one that also hashes those: what a cache that trusts
content cannot do without. Only ratios are claims.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from serkit.audio import find_sound_files
from serkit.corpora.synthetic import generate
from serkit.features import build_front_end
from serkit.features.cache import Extractor, extract_features
from serkit.features.views import FixedView
from serkit.types import Utterance

RATE = 22_050
VIEW = FixedView(n_samples=96_000)
FRONT_END = build_front_end("mfcc", {"preset": "timnet-code"})
EXTRACTOR = Extractor(
    lambda waveforms, n_samples: FRONT_END(*VIEW(waveforms, n_samples)),
    sample_rate=RATE,
    channel="mean",
    settings={"preset": "timnet-code"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    corpora = os.environ.get("SERKIT_CORPORA")
    default = Path(corpora, "emodb") if corpora else None
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder
        if folder is None or not folder.is_dir():
            print(f"no folder of sound files ({folder}): the synthetic corpus is taken")
            folder = Path(name, "synthetic")
            generate(folder)
        measure(folder, Path(name), 3 if arguments.quick else arguments.repeats)


def measure(folder: Path, scratch: Path, n_repeats: int) -> None:
    files = find_sound_files(folder)
    utterances = [
        Utterance(id=str(path), path=path, corpus="benchmark", label=None, speaker="any")
        for path in files
    ]
    sound_bytes = read(files)
    n_cores = os.cpu_count() or 1
    workers = (1, n_cores) if n_cores > 1 else (1,)
    seconds: dict[str, list[float]] = {}

    def clock(name: str, function: Callable[..., object], *arguments: object) -> None:
        began = time.perf_counter()
        function(*arguments)
        seconds.setdefault(name, []).append(time.perf_counter() - began)

    def extract(cache: Path, n_workers: int) -> None:
        extract_features(utterances, EXTRACTOR, cache_dir=cache, n_workers=n_workers)

    for turn in range(n_repeats):
        for n_workers in workers:
            cache = scratch / f"cache{turn}-{n_workers}"
            clock(f"cold, workers: {n_workers}", extract, cache, n_workers)
            clock(f"warm, workers: {n_workers}", extract, cache, n_workers)
        entries = sorted(cache.rglob("*.safetensors"))
        clock("read features", read, entries)
        clock("read sound, features", read, [*files, *entries])
        clock("hash sound, read features", hash_and_read, files, entries)
    report(seconds, len(files), sound_bytes, read(entries))


def read(files: Sequence[Path]) -> int:
    """Read files one after the other and return their size."""
    return sum(len(path.read_bytes()) for path in files)


def hash_and_read(files: Sequence[Path], entries: Sequence[Path]) -> None:
    """Read and hash files one after the other, then read others."""
    for path in files:
        hashlib.sha256(path.read_bytes())
    read(entries)


def report(
    seconds: dict[str, list[float]], n_files: int, sound_bytes: int, feature_bytes: int
) -> None:
    print(
        f"{n_files} files, {1e-6 * sound_bytes:.1f} MB of sound, {1e-6 * feature_bytes:.1f} MB of "
        f"features; median of {len(seconds['read features'])} turns"
    )
    for name, values in seconds.items():
        size = feature_bytes * (not name.startswith("cold"))
        size += sound_bytes * (name != "read features")
        median = statistics.median(values)
        print(f"  {name:<25} {n_files / median:9.0f} files/s {1e-6 * size / median:8.1f} MB/s")

    def ratio(above: str, below: str) -> None:
        values = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
        print(f"ratio of time {above} / {below}: {statistics.median(values):.2f}")

    for warm in [name for name in seconds if name.startswith("warm")]:
        ratio(warm.replace("warm", "cold"), warm)
        for plain in ("read features", "read sound, features", "hash sound, read features"):
            ratio(warm, plain)


if __name__ == "__main__":
    main()
