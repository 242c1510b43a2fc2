"""Training many TIM-Nets: serkit's cohort against one-by-one training, a plain port, and Keras.

    python benchmarks/timnet_cohort.py [--quick] [--engine processes|stacked]

What is measured is model-epochs per second on synthetic features (480 utterances of 188 frames x
39, 7 classes, batches of 64), all forms taking turns in one run:

* ``plain port``: textbook PyTorch (plain_timnet.py), one model after the other, with as many
  threads as torch takes by default and with one;
* ``serkit, one by one``: one member through serkit's own training, one thread;
* ``serkit, cohort``: ten members through ``train_cohort``, as ``serkit train`` does it;
* ``Keras``: timnet_keras.py in an environment of its own, made by this script, default threads.

Warm-up epochs are not counted. The cohort is given twice: with all that a cohort costs, from the
call to the last result, and from its first finished epoch on; the difference is the start of the
processes, which a training of hundreds of epochs does not notice. Before all that, the
peak memory of the whole process tree is measured. Only ratios are claims.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from environments import Unavailable, environment, last_line
from memory import PeakMemory
from plain_timnet import PlainTraining

from serkit.features.cache import ExtractedFeatures
from serkit.recognizer import RecognizerConfig
from serkit.training.cohort import Resources, train_cohort
from serkit.training.config import TrainingConfig
from serkit.training.data import write_data
from serkit.training.member import Member
from serkit.training.objectives import Term
from serkit.types import Fold

N_FEATURES, CLASSES = 39, tuple("abcdefg")
N_TEST = 7  # utterances that a member predicts when it is trained
SAME_MOMENT_S = 0.1  # epochs heard of together were trained together

PLAIN_ONE, SERKIT, COHORT, COHORT_ALL, KERAS = (
    "plain port, 1 thread",
    "serkit, one by one",
    "serkit, cohort",
    "serkit, cohort with start-up",
    "Keras",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained, and how often it is measured."""

    n_utterances: int
    n_frames: int
    batch_size: int
    n_members: int
    n_epochs: int
    n_repeats: int
    device: Literal["cpu", "cuda"]
    engine: Literal["auto", "processes", "stacked"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=480)
    parser.add_argument("--frames", type=int, default=188)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6, help="per turn, without the warm-up")
    parser.add_argument("--repeats", type=int, default=3, help="turns of which the median counts")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--engine", choices=("auto", "processes", "stacked"), default="auto", help="of the cohort"
    )
    parser.add_argument("--without-keras", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one turn of two epochs")
    arguments = parser.parse_args()
    setting = Setting(
        n_utterances=arguments.utterances,
        n_frames=arguments.frames,
        batch_size=arguments.batch,
        n_members=arguments.members,
        n_epochs=2 if arguments.quick else arguments.epochs,
        n_repeats=1 if arguments.quick else arguments.repeats,
        device=arguments.device,
        engine=arguments.engine,
    )
    warn_if_busy()
    # First, because what a training leaves in this process would be counted.
    with tempfile.TemporaryDirectory() as name:
        report_memory(setting, Cohort(setting, Path(name)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cohort = Cohort(setting, folder)
        rates = measure(setting, forms(setting, cohort, stack, arguments.without_keras), cohort)
        report(setting, rates, n_at_once=cohort.n_at_once)


def warn_if_busy() -> None:
    """Say so if other programs compete: forms with several threads then suffer most."""
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1):
        print(
            f"mind: the load of this machine is {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores "
            "before anything is measured: compare with the one-thread forms only"
        )


def forms(
    setting: Setting, cohort: Cohort, stack: ExitStack, without_keras: bool
) -> dict[str, Callable[[], float]]:
    """Give, for each form but the cohort, a function that measures its model-epochs per second."""
    plain = PlainTraining(
        *cohort.training_part(), batch_size=setting.batch_size, device=setting.device
    )
    n_threads = os.cpu_count() or 1

    def plain_rate(n_threads: int) -> float:
        seconds = plain.epochs(1 + setting.n_epochs, n_threads=n_threads)
        return 1 / statistics.mean(seconds[1:])

    found: dict[str, Callable[[], float]] = {
        f"plain port, {n_threads} threads": lambda: plain_rate(n_threads),
        PLAIN_ONE: lambda: plain_rate(1),
        SERKIT: lambda: steady_rate(cohort.train(1, 1 + setting.n_epochs)[1]),
    }
    if n_threads == 1:
        del found["plain port, 1 threads"]
    if not without_keras:
        try:
            keras = stack.enter_context(Keras(setting))
        except Unavailable as reason:
            print(f"skipped: Keras ({reason})")
        else:
            found[KERAS] = lambda: 1 / statistics.mean(keras.epochs(setting.n_epochs))
    return found


class Cohort:
    """Members on the same features, trained through serkit's public interface."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self.folder = setting, folder
        self.n_started, self.n_at_once = 0, 1
        rng = np.random.default_rng(0)
        n = setting.n_utterances + N_TEST
        self.ids = tuple(f"utterance{i:05}" for i in range(n))
        self.features = rng.standard_normal((n, setting.n_frames, N_FEATURES)).astype(np.float32)
        self.truth = rng.integers(0, len(CLASSES), n)
        self.truth[-N_TEST:] = np.arange(N_TEST) % len(CLASSES)
        write_data(
            folder / "data",
            self.ids,
            training=ExtractedFeatures(
                self.features.reshape(-1, N_FEATURES),
                np.full(n, setting.n_frames),
                owners=np.arange(n),
                audio_hashes={},
                durations_s={},
                n_cached=0,
            ),
            emotion=self.truth,
        )

    def training_part(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and truth that every form trains on."""
        return torch.from_numpy(self.features[:-N_TEST]), torch.from_numpy(self.truth[:-N_TEST])

    def train(self, n_members: int, n_epochs: int) -> tuple[float, list[float]]:
        """Train members and return the seconds it took and when each epoch was heard of."""
        began = time.perf_counter()
        heard: list[float] = []

        def hear(_: str, row: dict[str, Any]) -> None:
            if "epoch" in row:
                heard.append(time.perf_counter() - began)

        members = [self.member(n_epochs) for _ in range(n_members)]
        resources = Resources(cohort=n_members > 1)
        plan = train_cohort(members, resources, on_event=hear, say=lambda _: None)
        self.n_at_once = max(self.n_at_once, plan.n_at_once)
        return time.perf_counter() - began, heard

    def member(self, n_epochs: int) -> Member:
        """Describe one more member; its seed is its number."""
        self.n_started += 1
        folder = self.folder / f"member{self.n_started}"
        front_end = {"name": "mfcc", "preset": "timnet-code"}
        return Member(
            recognizer=RecognizerConfig(
                system="TIM-Net",
                classes=CLASSES,
                view={"kind": "fixed", "n_samples": 512 * (self.setting.n_frames - 1)},
                front_end=front_end,
                model={"name": "timnet"},
            ),
            training=TrainingConfig(
                epochs=n_epochs,
                batch_size=self.setting.batch_size,
                beta1=0.93,
                beta2=0.98,
                select="last",
                accelerator=self.setting.device,
                cohort=self.setting.engine,
            ),
            objective=(Term(label_smoothing=0.1),),
            fold=Fold(name="fold", train=self.ids[:-N_TEST], dev=(), test=self.ids[-N_TEST:]),
            seed=self.n_started,
            folder=folder,
            data=self.folder / "data",
        )


class Keras:
    """The Keras training, waiting in its own process between its turns."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def __enter__(self) -> Keras:
        python = environment("keras", ["keras.txt"])
        # A file, because a full pipe that nobody reads would stop the process.
        self.complaints = tempfile.TemporaryFile("w+")
        command = [str(python), str(Path(__file__).with_name("timnet_keras.py"))]
        command += ["--utterances", str(self.setting.n_utterances)]
        command += ["--frames", str(self.setting.n_frames), "--batch", str(self.setting.batch_size)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        try:
            self.epochs(2)  # traces and compiles
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.complaints.close()

    def epochs(self, n: int) -> list[float]:
        """Train and return the seconds of each epoch."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.complaints.seek(0)
            raise Unavailable(f"its process has ended: {last_line(self.complaints.read())}")
        seconds: list[float] = json.loads(answer)
        return seconds


def steady_rate(heard: list[float]) -> float:
    """Model-epochs per second from the first finished epoch on."""
    n = sum(moment > heard[0] + SAME_MOMENT_S for moment in heard)
    return n / (heard[-1] - heard[0])


def measure(
    setting: Setting, others: dict[str, Callable[[], float]], cohort: Cohort
) -> dict[str, list[float]]:
    """Let the forms take turns and return the model-epochs per second of each turn."""
    rates: dict[str, list[float]] = {name: [] for name in (*others, COHORT, COHORT_ALL)}
    for _ in range(setting.n_repeats):
        for name, rate in others.items():
            rates[name].append(rate())
        n_epochs = 1 + setting.n_epochs
        seconds, heard = cohort.train(setting.n_members, n_epochs)
        rates[COHORT].append(steady_rate(heard))
        rates[COHORT_ALL].append(setting.n_members * n_epochs / seconds)
    return rates


def report(setting: Setting, rates: dict[str, list[float]], *, n_at_once: int) -> None:
    print(
        f"{setting.n_utterances} utterances of {setting.n_frames} frames, batches of "
        f"{setting.batch_size}; {setting.n_members} members in the cohort, {n_at_once} side "
        f"by side, on {setting.device}; median (range) of {setting.n_repeats} turns"
    )
    for name, values in rates.items():
        print(
            f"  {name:<29} {statistics.median(values):7.3f} model-epochs per second "
            f"({min(values):.3f} to {max(values):.3f})"
        )
    for name, values in rates.items():
        if name not in (COHORT, COHORT_ALL):
            ratios = [a / b for a, b in zip(rates[COHORT], values, strict=True)]
            whole = [a / b for a, b in zip(rates[COHORT_ALL], values, strict=True)]
            print(
                f"ratio cohort / {name}: {statistics.median(ratios):.2f} "
                f"(with start-up: {statistics.median(whole):.2f})"
            )


def report_memory(setting: Setting, cohort: Cohort) -> None:
    with PeakMemory() as before:
        pass
    with PeakMemory() as one:
        cohort.train(1, 1)
    with PeakMemory() as all_members:
        cohort.train(setting.n_members, 1)
    print(
        f"peak memory of the process tree: {before} before, {one} with one member here, "
        f"{all_members} with a cohort of {setting.n_members}, {cohort.n_at_once} side by side"
    )
    if one.mebibytes and all_members.mebibytes:
        print(f"ratio of memory cohort / one member: {all_members.mebibytes / one.mebibytes:.2f}")


if __name__ == "__main__":
    main()
