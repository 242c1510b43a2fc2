"""Leave-one-speaker-out with nkululeko; run by emodb_loso.py in nkululeko's own environment.

    python benchmarks/nkululeko_loso.py CONFIG.ini TABLE.csv

Takes the steps that nkululeko's own entry script takes with a configuration file. When it leaves
groups out, nkululeko prints its scores and keeps the predictions in memory; this writes them as a
table that ``serkit evaluate`` reads.
"""

from __future__ import annotations

import argparse
import configparser
import csv
import random
from pathlib import Path

from nkululeko.experiment import Experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("table", type=Path)
    arguments = parser.parse_args()
    random.seed(1)  # the speakers that its scaler is fitted on are drawn with this
    config = configparser.ConfigParser()
    config.read(arguments.config, encoding="utf-8")
    experiment = Experiment(config)
    experiment.set_module("nkululeko")
    experiment.load_datasets()
    experiment.fill_train_and_tests()
    experiment.extract_feats()
    experiment.init_runmanager()
    reports, _ = experiment.run()
    print(f"own UAR: {experiment.get_best_report(reports).result.test:.6f}")
    write_table(experiment, Path(config["DATA"]["emodb"]), arguments.table)


def write_table(experiment: Experiment, manifest: Path, path: Path) -> None:
    model = experiment.runmgr.modelrunner.model
    classes = experiment.label_encoder.classes_
    with manifest.open(encoding="utf-8", newline="") as file:
        speakers = {row["file"]: row["speaker"] for row in csv.DictReader(file)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "corpus", "speaker", "fold", "truth", "predicted"))
        for where, truth, predicted in zip(
            model.truths.index, model.truths, model.preds, strict=True
        ):
            sound = where[0] if isinstance(where, tuple) else where
            speaker = speakers[sound]  # as written there: in memory '03' has become 3
            row = (classes[int(truth)], classes[int(predicted)])
            writer.writerow((Path(sound).stem, "emodb", speaker, speaker, *row))


if __name__ == "__main__":
    main()
