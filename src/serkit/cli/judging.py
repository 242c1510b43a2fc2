"""The verbs that judge: predictions with a truth beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from serkit.cli.options import CorporaDir, Json
from serkit.cli.output import (
    Bars,
    fail_if_any,
    print_json,
    print_result,
    print_table,
    require_writable,
)
from serkit.types import InputError

__all__ = ["compare", "evaluate", "report", "robustness", "score"]


def evaluate(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions tables (CSV).")],
    as_json: Json = False,
) -> None:
    """Score predictions tables, ours or a foreign system's (columns id, truth, predicted)."""
    from serkit.evaluation.summary import evaluate_tables
    from serkit.experiment.words import headline

    summaries = evaluate_tables(predictions)
    if as_json:
        print_json([s.to_dict() for s in summaries])
        return
    for summary in summaries:
        print("\n".join([summary.name, *headline(summary.to_dict())]))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or predictions tables.")],
    xlsx: Annotated[Optional[Path], typer.Option(help="Write one workbook.")] = None,
    as_json: Json = False,
) -> None:
    """Put runs side by side, with a paired test over speakers."""
    from serkit.evaluation.compare import compare_runs

    require_writable("--xlsx", xlsx)
    comparison = compare_runs(runs)
    if xlsx is not None:
        comparison.write_xlsx(xlsx)
    if as_json:
        print_json(comparison.to_dict())
        return
    print_table(comparison.rows())
    for pair in comparison.pairs:
        print(pair.verdict)
        if pair.test is not None:  # otherwise the verdict has said it
            for caveat in pair.caveats:
                print(f"  mind: {caveat}")
    if xlsx is not None:
        print(f"workbook: {xlsx}")


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Json = False,
) -> None:
    """Write report.html, results.xlsx and metrics.json of a run again."""
    from serkit.experiment.reports import write_any_report

    path = write_any_report(run)
    if as_json:
        print_json({"report": str(path)})
    else:
        print(f"report: {path}")


def score(
    manifest: Annotated[Path, typer.Argument(help="Table of utterances with labels.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder, run folder, or name.")],
    out: Annotated[Path, typer.Option(help="Predictions table to write (CSV).")],
    label_map: Annotated[
        Optional[list[str]],
        typer.Option("--map", help="A label in the model's words: --map excited=happy"),
    ] = None,
    text_features: Annotated[
        Optional[Path],
        typer.Option(help="Folder of token vectors, instead of words."),
    ] = None,
    session: Annotated[
        Optional[int],
        typer.Option(help="The table is one of MMER's authors: the IEMOCAP session to judge."),
    ] = None,
    audio: Annotated[
        Optional[Path], typer.Option(help="With --session: folder of its sounds.")
    ] = None,
    corpora_dir: CorporaDir = None,
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Files at a time.")] = None,
    as_json: Json = False,
) -> None:
    """Let a recognizer answer for utterances whose truth is known; evaluate reads the table."""
    from serkit.experiment.originals.mmer import score_released
    from serkit.experiment.scoring import score_manifest

    require_writable("--out", out)
    if (session is None) != (audio is None):
        raise InputError(
            "--session and --audio go together: the table of MMER's authors needs both"
        )
    pairs = [entry.partition("=") for entry in label_map or []]
    wrong = [own for own, _, theirs in pairs if not (own and theirs)]
    if wrong:
        raise InputError(f"--map {wrong[0]}: expected label=model's label, such as excited=happy")
    if session is not None and pairs:
        raise InputError("--session goes without --map: the labels of that table are known")
    with Bars(quiet=as_json) as bars:
        if session is not None and audio is not None:
            result = score_released(
                model,
                manifest,
                out,
                session=session,
                audio=audio,
                text_features=text_features,
                n_workers=jobs,
                progress=bars,
            )
        else:
            result = score_manifest(
                model,
                manifest,
                out,
                corpora_dir=corpora_dir,
                label_map={own: theirs for own, _, theirs in pairs},
                text_features=text_features,
                n_workers=jobs,
                progress=bars,
            )
    print_result(result, as_json=as_json)
    fail_if_any(result.errors, result.n_utterances)


def robustness(
    run: Annotated[Path, typer.Argument(help="Run folder; with --manifest a checkpoint.")],
    noise: Annotated[
        str, typer.Option(help="Kinds of noise: babble, pink, hum, white, recorded.")
    ] = "babble,pink,hum",
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios in dB.")] = "20,10,5,0",
    noise_dir: Annotated[
        Optional[Path],
        typer.Option(help="Folder of your own noise recordings: the kind 'recorded'."),
    ] = None,
    corpora_dir: CorporaDir = None,
    manifest: Annotated[
        Optional[Path],
        typer.Option(help="Judge a checkpoint by a table; its speakers may have trained it."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 1,
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Members of all seeds, not of the first alone.")
    ] = False,
    out: Annotated[
        Optional[Path],
        typer.Option(help="Folder to write. Default: RUN/robustness."),
    ] = None,
    jobs: Annotated[
        Optional[int],
        typer.Option(min=1, help="Utterances at a time. Default: one per core."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add noise to the test parts of a run, judge its members again, draw UAR over the ratio."""
    from serkit.experiment.robustness import NoisePlan, measure_robustness

    plan = NoisePlan.parse(noise, snr, noise_dir=noise_dir, seed=seed, all_seeds=all_seeds)
    with Bars(quiet=as_json) as bars:
        result = measure_robustness(
            run,
            plan,
            out=out,
            corpora_dir=corpora_dir,
            manifest=manifest,
            n_jobs=jobs,
            progress=bars,
        )
    if as_json:
        print_json(result.to_dict())
        return
    print_table(result.table())
    for line in result.lines():
        print(line)
