"""From sound files to 39 MFCC of a fixed view: serkit against librosa, in one run.

    python benchmarks/mfcc.py [--corpora DIR] [--files N] [--repeats 7]

Both read, resample to 22.05 kHz, pad or crop to 96 000 samples and compute the same coefficients
with one thread, taking turns over the same files: librosa file by file, serkit in groups, as its
extraction does. The medians of processor time and their ratio are printed. Then the whole corpus is
extracted into an empty cache and read back from it, with all cores, by the clock on the wall. Only
ratios are claims.

The files are EMO-DB's (``DIR/emodb/wav``; DIR is SERKIT_CORPORA by default) or, without a corpus,
200 synthetic ones like them: 16 kHz, 1.2 to 5 s.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from threadpoolctl import threadpool_limits

from serkit.audio import load_audio, resample
from serkit.features import build_front_end
from serkit.features.cache import Extractor, extract_features
from serkit.features.views import FixedView
from serkit.types import Utterance

RATE = 22_050
VIEW = FixedView(n_samples=96_000)
FRONT_END = build_front_end("mfcc", {"preset": "timnet-code"})
GROUP = 16  # files
STAGES = ("load", "resample", "view", "mfcc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default=os.environ.get("SERKIT_CORPORA"))
    parser.add_argument("--files", type=int, default=100, help="of the comparison with librosa")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(Path(arguments.corpora or folder).glob("emodb/wav/*.wav"))
        source = "EMO-DB"
        if not files:
            files, source = make_files(Path(folder, "sounds")), "synthetic files"
        torch.set_num_threads(1)
        with threadpool_limits(1):
            step = max(1, len(files) // arguments.files)
            compare(files[::step][: arguments.files], arguments.repeats, source)
        extract(files, Path(folder, "cache"))


def make_files(folder: Path, n_files: int = 200) -> list[Path]:
    """Write harmonics with a slow tremolo, some noise and pauses."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for i in range(n_files):
        t = np.arange(int(16_000 * rng.uniform(1.2, 5.0))) / 16_000
        phase = 2 * np.pi * rng.uniform(100, 300) * t
        sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * np.clip(np.sin(9 * t), 0, None)
        sound = 0.2 * sound + 1e-3 * rng.normal(size=len(t))
        files.append(folder / f"{i:03}.wav")
        soundfile.write(files[-1], sound, 16_000, subtype="PCM_16")
    return files


def ours(files: Sequence[Path]) -> tuple[list[np.ndarray], dict[str, float]]:
    """Features of each file, and the processor time that each stage took."""
    features: list[np.ndarray] = []
    spent = dict.fromkeys(STAGES, 0.0)
    for first in range(0, len(files), GROUP):
        waveforms = []
        for path in files[first : first + GROUP]:
            clock = [time.process_time()]
            waveform, rate = load_audio(path)
            clock.append(time.process_time())
            waveforms.append(resample(waveform, rate, RATE))
            clock.append(time.process_time())
            add(spent, ("load", "resample"), clock)
        for waveform in waveforms:
            clock = [time.process_time()]
            with torch.inference_mode():
                batch = torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)])
                viewed = VIEW(*batch)
                clock.append(time.process_time())
                features.append(FRONT_END(*viewed)[0][0].numpy())
                clock.append(time.process_time())
            add(spent, ("view", "mfcc"), clock)
    return features, spent


def add(spent: dict[str, float], stages: Sequence[str], clock: Sequence[float]) -> None:
    for stage, began, ended in zip(stages, clock, clock[1:], strict=False):
        spent[stage] += ended - began


def theirs(path: Path) -> np.ndarray:
    """Compute the same by librosa's default path."""
    import librosa

    waveform, rate = librosa.load(path, sr=RATE)
    missing = VIEW.n_samples - len(waveform)
    if missing >= 0:
        waveform = np.pad(waveform, (missing // 2, missing - missing // 2))
    else:
        waveform = waveform[-missing // 2 :][: VIEW.n_samples]
    return librosa.feature.mfcc(y=waveform, sr=rate, n_mfcc=39).T


def compare(files: Sequence[Path], repeats: int, source: str) -> None:
    pairs = zip(ours(files[:20])[0], map(theirs, files[:20]), strict=True)
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    times: dict[str, list[float]] = {name: [] for name in (*STAGES, "serkit", "librosa")}
    for _ in range(repeats):
        _, spent = ours(files)
        for name, seconds in spent.items():
            times[name].append(seconds / len(files))
        times["serkit"].append(sum(spent.values()) / len(files))
        began = time.process_time()
        for path in files:
            theirs(path)
        times["librosa"].append((time.process_time() - began) / len(files))
    print(f"{len(files)} files of {source}, one thread, median of {repeats} turns")
    for name, values in times.items():
        print(f"  {name:<10} {1e3 * statistics.median(values):7.3f} ms of processor time per file")
    ratios = [b / a for a, b in zip(times["serkit"], times["librosa"], strict=True)]
    print(f"  largest difference of a coefficient: {difference:.1e}")
    print(
        f"ratio librosa / serkit per core: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def extract(files: Sequence[Path], cache_dir: Path) -> None:
    utterances = [
        Utterance(id=path.stem, path=path, corpus="benchmark", label=None, speaker="any")
        for path in files
    ]
    extractor = Extractor(
        lambda waveforms, n_samples: FRONT_END(*VIEW(waveforms, n_samples)),
        sample_rate=RATE,
        channel="mean",
        settings={"preset": "timnet-code"},
    )
    seconds = []
    for name in ("cold", "warm"):
        started, processor = time.perf_counter(), time.process_time()
        n_cached = extract_features(utterances, extractor, cache_dir=cache_dir).n_cached
        seconds.append(time.perf_counter() - started)
        processor = 1e3 * (time.process_time() - processor) / len(files)
        print(
            f"extract_features {name}: {seconds[-1]:.2f} s for {len(files)} files on "
            f"{os.cpu_count()} cores, {processor:.2f} ms of processor time per file, "
            f"{n_cached} from the cache"
        )
    print(f"ratio cold / warm: {seconds[0] / seconds[1]:.1f}")


if __name__ == "__main__":
    main()
