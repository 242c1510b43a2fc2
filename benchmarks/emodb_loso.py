"""From sound files to judged predictions, leave-one-speaker-out on EMO-DB: serkit and nkululeko.

    python benchmarks/emodb_loso.py [--corpora DIR] [--epochs N] [--set KEY=VALUE] [--quick]

* nkululeko, in an environment of its own made by this script: openSMILE functionals, standardised,
  and its support vector machine (``[MODEL] type = svm``, ``logo`` = number of speakers), with the
  feature sets eGeMAPSv02 (its default) and ComParE_2016.
* serkit: ``serkit train timnet/speaker-independent`` with one seed, shortened from 300 epochs
  (``--epochs``; settings are else the preset's, and were not chosen by what comes out here), and
  without the final training on everything, which has no counterpart. The UAR of longer trainings
  with more seeds is in docs/results.md.

Each is one process, timed from start to end with nothing in its caches, and each table of
predictions is scored by the same code, that of ``serkit evaluate``. Two things differ in
nkululeko's favour: its scaler is fitted once, on eight speakers drawn at random, before the groups
are formed, so it has seen speakers that a fold leaves out (the draw alone moves its UAR by some
points; it is seeded here); and its machine is trained on all other speakers, while serkit keeps one
of them back to choose the epoch by. Only ratios and UAR are claims.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from environments import Unavailable, environment, last_line

from serkit.evaluation.compare import compare_runs
from serkit.evaluation.summary import Summary, evaluate_tables, percent

FEATURE_SETS = ("eGeMAPSv02", "ComParE_2016")
SETTINGS = ("seeds=[1]", "refit=false")
CONFIG = """\
[EXP]
root = {folder}/
name = loso
[DATA]
databases = ['emodb']
emodb = {manifest}
emodb.type = csv
emodb.absolute_path = True
emodb.split_strategy = speaker_split
target = emotion
labels = ['angry', 'boredom', 'disgust', 'fear', 'happy', 'neutral', 'sad']
[FEATS]
type = ['os']
set = {feature_set}
scale = standard
[MODEL]
type = svm
logo = 10
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", default=os.environ.get("SERKIT_CORPORA"))
    parser.add_argument("--epochs", type=int, default=100, help="of each member of serkit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=1, help="turns; the median time counts")
    parser.add_argument("--quick", action="store_true", help="20 epochs, eGeMAPSv02 only")
    arguments = parser.parse_args()
    corpora = Path(arguments.corpora or "")
    if not arguments.corpora or not (corpora / "emodb").is_dir():
        print(
            f"skipped: no EMO-DB (looked for '{corpora / 'emodb'}'; name the folder that holds "
            "'emodb' with --corpora or SERKIT_CORPORA)"
        )
        return
    epochs = 20 if arguments.quick else arguments.epochs
    feature_sets = FEATURE_SETS[:1] if arguments.quick else FEATURE_SETS
    settings = [f"training.epochs={epochs}", *SETTINGS, *arguments.settings]
    with tempfile.TemporaryDirectory() as name:
        systems = {f"serkit, {epochs} epochs": lambda folder: run_serkit(corpora, settings, folder)}
        try:
            systems = foreign_systems(corpora, Path(name), feature_sets) | systems
        except Unavailable as reason:
            print(f"skipped: nkululeko ({reason})")
        measure(systems, Path(name), arguments.repeats)


System = Callable[[Path], Path]


def foreign_systems(
    corpora: Path, folder: Path, feature_sets: tuple[str, ...]
) -> dict[str, System]:
    """Give, by name, functions that run nkululeko in a folder and return its predictions."""
    python = environment(
        "nkululeko", ["nkululeko-needs.txt"], without_dependencies=["nkululeko.txt"]
    )
    manifest = folder / "emodb.csv"
    prepare = ["prepare", "emodb", str(corpora / "emodb"), "--format", "nkululeko"]
    run([sys.executable, "-m", "serkit.cli", *prepare, "-o", str(manifest)], {})

    def run_nkululeko(feature_set: str, folder: Path) -> Path:
        config, table = folder / "loso.ini", folder / "predictions.csv"
        text = CONFIG.format(folder=folder, manifest=manifest, feature_set=feature_set)
        config.write_text(text, encoding="utf-8")
        script = str(Path(__file__).with_name("nkululeko_loso.py"))
        run([str(python), script, str(config), str(table)], {"MPLBACKEND": "Agg"})
        return table

    return {
        f"nkululeko, {feature_set} + SVM": partial(run_nkululeko, feature_set)
        for feature_set in feature_sets
    }


def run_serkit(corpora: Path, settings: list[str], folder: Path) -> Path:
    """Train and judge in a folder with an empty cache, and return the predictions."""
    command = [sys.executable, "-m", "serkit.cli", "train", "timnet/speaker-independent"]
    command += ["--corpora", str(corpora), "--out", str(folder / "run")]
    for setting in ['corpus.name="emodb"', *settings]:
        command += ["--set", setting]
    run(command, {"SERKIT_CACHE": str(folder / "cache")})
    return folder / "run" / "predictions.csv"


def run(command: list[str], variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unavailable(f"{Path(command[1]).name}: {last_line(done.stderr or done.stdout)}")


def measure(systems: Mapping[str, System], folder: Path, n_repeats: int) -> None:
    seconds: dict[str, list[float]] = {}
    tables: dict[str, Path] = {}
    for turn in range(n_repeats):
        for number, (name, system) in enumerate(systems.items()):
            place = folder / f"system{number}-turn{turn}"
            place.mkdir()
            began = time.perf_counter()
            try:
                tables[name] = system(place)
            except Unavailable as reason:
                print(f"skipped: {name} ({reason})")
                continue
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    if not tables:
        return
    report(seconds, dict(zip(tables, evaluate_tables(list(tables.values())), strict=True)))
    ours = next((name for name in tables if name.startswith("serkit")), None)
    for name in tables:
        if ours is not None and name != ours:
            compare(name, ours, tables, seconds)


def report(seconds: Mapping[str, list[float]], summaries: Mapping[str, Summary]) -> None:
    print(f"EMO-DB, leave-one-speaker-out, cold caches, {os.cpu_count()} cores")
    for name, summary in summaries.items():
        print(
            f"  {name:<29} {statistics.median(seconds[name]):7.1f} s   "
            f"UAR {percent(summary.scores.uar)} "
            f"({percent(summary.uar.low)} to {percent(summary.uar.high)})   "
            f"WAR {percent(summary.scores.war)}"
        )


def compare(
    theirs: str, ours: str, tables: Mapping[str, Path], seconds: Mapping[str, list[float]]
) -> None:
    ratio = statistics.median(seconds[theirs]) / statistics.median(seconds[ours])
    print(f"ratio of time {theirs} / {ours}: {ratio:.2f}")
    (pair,) = compare_runs([tables[theirs], tables[ours]]).pairs
    if pair.test is None:
        print(f"  UAR cannot be compared: {'; '.join(pair.caveats)}")
        return
    print(
        f"  UAR of serkit - nkululeko: {100 * pair.test.difference:+.1f} points (95 % interval "
        f"{100 * pair.test.low:+.1f} to {100 * pair.test.high:+.1f}, p = {pair.test.p:.2g})"
    )


if __name__ == "__main__":
    main()
