"""The verbs that make recognizers: train, and what turns others' files into ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from serkit.cli.options import CorporaDir, Jobs, Json
from serkit.cli.output import Bars, print_json, print_result
from serkit.types import InputError

__all__ = ["export_experts", "import_config", "import_weights", "join_experts", "train"]


def train(
    experiment: Annotated[str, typer.Argument(help="TOML file or preset (see --list).")] = "",
    overrides: Annotated[
        Optional[list[str]],
        typer.Option("--set", help="Change a key: --set training.epochs=50"),
    ] = None,
    corpora_dir: CorporaDir = None,
    out: Annotated[Optional[Path], typer.Option(help="Run folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    resume_from: Annotated[
        Optional[Path],
        typer.Option(
            help="Of a speech recogniser: a kept state of this run to go on from, not the last."
        ),
    ] = None,
    jobs: Jobs = None,
    memory: Annotated[
        Optional[str],
        typer.Option(
            help="Memory limit, such as 8GiB or 500MiB; on a GPU, of its memory. Default: most of "
            "what is free."
        ),
    ] = None,
    no_cohort: Annotated[
        bool,
        typer.Option("--no-cohort", help="Train one member after the other, in this process."),
    ] = False,
    folds: Annotated[
        Optional[Path],
        typer.Option(help="folds.csv of another run, instead of the experiment's split."),
    ] = None,
    legacy_moe: Annotated[
        Optional[Path],
        typer.Option(
            help="Settings of the public mixture-of-experts code (TOML), instead of an experiment."
        ),
    ] = None,
    list_presets: Annotated[
        bool, typer.Option("--list", help="List the experiments that ship with serkit.")
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="Explain the keys of a file; with an experiment its own, and its values."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: all folds and seeds, then the report."""
    from serkit.experiment.config import preset_names
    from serkit.experiment.keys import explain_keys

    if list_presets:
        print("\n".join(preset_names()))
        print("To be laid over one of them, as in moe/honest+networks/level-0:")
        print("\n".join(preset_names(fragments=True)))
        return
    if keys and experiment:
        from serkit.experiment.tasks import explain_task

        print(explain_task(experiment, overrides=overrides or ()))
        return
    if keys:
        print(explain_keys())
        return
    if not experiment and legacy_moe is None:
        raise InputError("name an experiment: a .toml file or a preset (serkit train --list)")
    if experiment and legacy_moe is not None:
        raise InputError(f"got {experiment} and --legacy-moe {legacy_moe}: name one of them")
    settings = list(overrides or [])
    if folds is not None:
        settings.append(f"protocol.folds_file={json.dumps(str(folds))}")
    from serkit.experiment.tasks import AnyConfig, load_task, run_task
    from serkit.machine import keep_freed_memory
    from serkit.training.crew import with_crew
    from serkit.training.memory import parse_size

    notes: Sequence[str] = ()
    config: AnyConfig
    if legacy_moe is None:
        config = load_task(experiment, overrides=settings)
    else:
        from serkit.experiment.originals.moe import load_legacy_experiment

        config, notes = load_legacy_experiment(legacy_moe, overrides=settings)

    limit = None if memory is None else parse_size(memory)

    def run() -> Path:
        with Bars(quiet=as_json) as bars:
            for note in notes:
                bars.say(f"note: {note}")
            return run_task(
                config,
                out=out or Path("runs") / config.run_name,
                corpora_dir=corpora_dir,
                resume=resume,
                resume_from=resume_from,
                n_jobs=jobs,
                memory=limit,
                cohort=not no_cohort,
                progress=bars,
            )

    keep_freed_memory()  # members may be trained in this process
    report_path = with_crew(run)
    if report_path is None:  # one of torchrun's processes that follow the first
        return
    metrics = json.loads((report_path.parent / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        print_json({"report": str(report_path), "metrics": metrics})
        return
    from serkit.experiment.words import headline

    print("\n".join(headline(metrics)))
    print(f"report: {report_path}")


def import_weights(
    file: Annotated[
        Path, typer.Argument(help="Weight file of the authors of TIM-Net (.hdf5) or MMER (.pt).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint folder to write.")],
    system: Annotated[str, typer.Option(help="timnet or mmer.")] = "timnet",
    corpus: Annotated[
        Optional[str],
        typer.Option(help="TIM-Net: corpus it was trained on, such as emodb."),
    ] = None,
    text_encoder: Annotated[
        Optional[str],
        typer.Option(help="MMER: folder of RoBERTa base; without it, token vectors are read."),
    ] = None,
    encoder: Annotated[
        Optional[Path],
        typer.Option(help="MMER: folder that describes the speech encoder. Default: wav2vec2-base"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn weights of a system's authors into a checkpoint for 'serkit predict'."""
    from serkit.experiment.originals.mmer import ImportedMmer, import_mmer
    from serkit.experiment.originals.timnet import ImportedWeights
    from serkit.experiment.originals.timnet import import_weights as import_timnet

    imported: ImportedWeights | ImportedMmer
    if system == "timnet":
        if corpus is None:
            raise InputError("--system timnet needs --corpus: the corpus it was trained on")
        imported = import_timnet(file, corpus, out)
    elif system == "mmer":
        imported = import_mmer(file, out, text_encoder=text_encoder, encoder=encoder)
    else:
        raise InputError(f"--system {system}: expected timnet or mmer")
    print_result(imported, as_json=as_json)


def import_config(
    file: Annotated[Path, typer.Argument(help="Settings of the mixture-of-experts code (TOML).")],
    out: Annotated[
        Optional[Path],
        typer.Option("-o", "--out", help="Experiment file to write. Default: print it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Translate settings of the public mixture-of-experts code into an experiment file."""
    from serkit.experiment.originals.moe import import_config as run_import

    text, notes = run_import(file, out)
    if as_json:
        print_json({"experiment": text, "file": out and str(out), "notes": notes})
    elif out is None:
        sys.stdout.write(text)  # its first lines are the notes
    else:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"experiment: {out}")


def export_experts(
    model: Annotated[str, typer.Argument(help="Run folder, checkpoint folder, or name.")],
    out: Annotated[Path, typer.Option(help="Folder to write: one checkpoint per expert.")],
    as_json: Json = False,
) -> None:
    """Write each expert of a mixture as a recognizer of its own, for its emotion alone."""
    from serkit.experiment.experts import export_experts as run_export

    folders = run_export(model, out)
    if as_json:
        print_json({"experts": [str(folder) for folder in folders]})
    else:
        print("\n".join(f"expert: {folder}" for folder in folders))


def join_experts(
    experts: Annotated[list[Path], typer.Argument(help="Folders of export-experts.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    as_json: Json = False,
) -> None:
    """Join exported experts, also of several runs, into one recognizer that says so."""
    from serkit.experiment.experts import join_experts as run_join

    folder = run_join(experts, out)
    if as_json:
        print_json({"model": str(folder)})
    else:
        print(f"checkpoint: {folder}")
