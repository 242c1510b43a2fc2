"""The command ``serkit``: parse, call one function, print, exit code.

Exit codes: 0 done; 1 our fault; 2 the input's fault (one line that says what to do). Progress bars
go to standard error and only to a terminal; results go to standard output.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from serkit.types import InputError

if TYPE_CHECKING:
    from rich.progress import TaskID

app = typer.Typer(
    name="serkit",
    help="Speech emotion recognition, honestly judged.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CorporaDir = Annotated[
    Optional[Path],  # noqa: UP045  (typer evaluates it on Python 3.10)
    typer.Option("--corpora", envvar="SERKIT_CORPORA", help="Folder that holds the corpora."),
]

Jobs = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1, help="Members (a fold with a seed) trained side by side. Default: one per core."
    ),
]


def main() -> None:
    """Run the command and turn errors into exit codes."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        if debug:
            traceback.print_exc()
        print(f"serkit: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (serkit ... | head); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, whichever click typer brings along
            usage = getattr(error, "ctx", None)
            if usage is not None:
                print(usage.get_usage(), file=sys.stderr)
            print(f"serkit: {error.format_message()}", file=sys.stderr)
            sys.exit(2)
        if debug:
            traceback.print_exc()
        print(
            f"serkit: internal error: {type(error).__name__}: {error} (run with --debug for the "
            "traceback, and please report it)",
            file=sys.stderr,
        )
        sys.exit(1)
    if code == 130:
        print("serkit: stopped; what was done is kept (train --resume goes on)", file=sys.stderr)
    sys.exit(code or 0)


@app.command()
def demo(
    video: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="With --clip: the clip to judge, instead of a synthetic one."),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Voice, words and face of a clip instead of voice alone.")
    ] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder. Default: demo, or demo-clip."),
    ] = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train, judge and use a recognizer on the embedded synthetic corpus, in two minutes.

    With --clip, a speech recogniser and a model of voice, words and face, in some minutes more.
    """
    from serkit.experiment.clip_demo import ClipDemoResult, run_clip_demo
    from serkit.experiment.demo import DemoResult, run_demo

    if video is not None and not clip:
        raise InputError(f"{video}: a clip to judge goes with --clip: serkit demo --clip {video}")
    result: ClipDemoResult | DemoResult
    with _Bars(quiet=as_json) as bars:
        if clip:
            result = run_clip_demo(out or Path("demo-clip"), clip=video, progress=bars)
        else:
            result = run_demo(out or Path("demo"), n_jobs=jobs, progress=bars)
    if as_json:
        _print_json(result.to_dict())
        return
    print()
    for line in result.lines():
        print(line)


@app.command()
def corpora(as_json: Json = False) -> None:
    """List the corpora that can be read: size, licence, where to get them."""
    from serkit.corpora import catalogue
    from serkit.corpora.clips import clip_catalogue

    rows, clips = catalogue(), clip_catalogue()
    if as_json:
        _print_json([*rows, *clips])
        return
    _print_table(
        [
            {
                "corpus": r["name"],
                "utterances": r["n_utterances"] or "",
                "speakers": r["n_speakers"] or "",
                "language": r["language"],
                "licence": r["licence"],
                "where": r["where"],
            }
            for r in rows
        ]
    )
    print("\nVideo, for serkit extract:")
    _print_table(
        [
            {
                "corpus": r["name"],
                "clips": r["n_clips"] or "",
                "language": r["language"],
                "licence": r["licence"],
                "where": r["where"],
            }
            for r in clips
        ]
    )


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(help="Corpus key, or 'folder', 'table'.")],
    root: Annotated[Path, typer.Argument(help="Folder the release was unpacked into.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", help="Manifest to write (CSV; .jsonl for EmoBox)."),
    ] = None,
    manifest_format: Annotated[
        str, typer.Option("--format", help="serkit, audformat, nkululeko or emobox.")
    ] = "serkit",
    allow_incomplete: Annotated[
        bool, typer.Option(help="Go on with a copy that differs from the release.")
    ] = False,
    decode: Annotated[bool, typer.Option(help="Decode every file, not only its header.")] = False,
    as_json: Json = False,
) -> None:
    """Read a corpus as released, verify its counts and sound files, write a manifest."""
    from serkit.experiment.prepare import prepare_corpus

    result = prepare_corpus(
        corpus,
        root,
        out=out,
        manifest_format=manifest_format,
        allow_incomplete=allow_incomplete,
        decode=decode,
    )
    if as_json:
        _print_json(result.to_dict())
    else:
        for line in result.lines():
            print(line)
    if not result.usable:
        raise typer.Exit(2)


@app.command()
def extract(
    root: Annotated[Path, typer.Argument(help="Folder of the corpus, or table of clips.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write: .npz, or .pkl as MMSA reads it.")
    ],
    corpus: Annotated[
        str,
        typer.Option(help="ch_sims, table, or synthetic_clips, which are made if not there."),
    ] = "ch_sims",
    release: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="ch_sims: ch_sims, ch_sims_v2, cmu_mosi, cmu_mosei or other."),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What to extract: TOML, or the JSON of MMSA's extraction tool."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: in this one.")] = 1,
    on_failure: Annotated[
        str, typer.Option(help="What a failed stream becomes: mask, zero, skip or raise.")
    ] = "mask",
    max_failures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of failed clips above which to fail.")
    ] = 0.01,
    transcriber: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Who writes down what is said, beside the given words: own, vosk, ..."),
    ] = None,
    transcriber_model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the transcriber's model."),
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option(help="Go on with a copy that differs from the release.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Turn video clips into features of voice, words and face; a stopped run goes on by itself."""
    from serkit.experiment.extract_corpus import extract_corpus

    with _Bars(quiet=as_json) as bars:
        result = extract_corpus(
            corpus,
            root,
            out,
            release=release,
            config=config,
            n_workers=workers,
            on_failure=on_failure,
            max_failures=max_failures,
            transcriber=transcriber,
            transcriber_model=transcriber_model,
            allow_incomplete=allow_incomplete,
            overwrite=overwrite,
            progress=bars,
        )
    if as_json:
        _print_json(result.to_dict())
        return
    for line in result.lines():
        print(line)


@app.command()
def train(
    experiment: Annotated[str, typer.Argument(help="TOML file or preset (see --list).")] = "",
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="Change a key: --set training.epochs=50"),
    ] = None,
    corpora_dir: CorporaDir = None,
    out: Annotated[Optional[Path], typer.Option(help="Run folder.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    jobs: Jobs = None,
    memory: Annotated[
        Optional[str],  # noqa: UP045
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
        Optional[Path],  # noqa: UP045
        typer.Option(help="folds.csv of another run, instead of the experiment's split."),
    ] = None,
    legacy_moe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Settings of the public mixture-of-experts code (TOML), instead of an experiment."
        ),
    ] = None,
    list_presets: Annotated[
        bool, typer.Option("--list", help="List the experiments that ship with serkit.")
    ] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Explain the keys of a file, of the experiment's task.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: all folds and seeds, then the report."""
    from serkit.experiment.config import explain_keys, preset_names

    if list_presets:
        print("\n".join(preset_names()))
        print("To be laid over one of them, as in moe/honest+networks/level-0:")
        print("\n".join(preset_names(fragments=True)))
        return
    if keys and experiment:
        from serkit.experiment.tasks import explain_task

        print(explain_task(experiment))
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
    from serkit.training.crew import with_crew
    from serkit.training.memory import parse_size

    notes: Sequence[str] = ()
    config: AnyConfig
    if legacy_moe is None:
        config = load_task(experiment, overrides=settings)
    else:
        from serkit.experiment.legacy_moe import load_legacy_experiment

        config, notes = load_legacy_experiment(legacy_moe, overrides=settings)

    limit = None if memory is None else parse_size(memory)

    def run() -> Path:
        with _Bars(quiet=as_json) as bars:
            for note in notes:
                bars.say(f"note: {note}")
            return run_task(
                config,
                out=out or Path("runs") / config.run_name,
                corpora_dir=corpora_dir,
                resume=resume,
                n_jobs=jobs,
                memory=limit,
                cohort=not no_cohort,
                progress=bars,
            )

    report_path = with_crew(run)
    if report_path is None:  # one of torchrun's processes that follow the first
        return
    metrics = json.loads((report_path.parent / "metrics.json").read_text(encoding="utf-8"))
    if as_json:
        _print_json({"report": str(report_path), "metrics": metrics})
        return
    from serkit.experiment.words import headline

    print("\n".join(headline(metrics)))
    print(f"report: {report_path}")


@app.command()
def evaluate(
    predictions: Annotated[list[Path], typer.Argument(help="Predictions tables (CSV).")],
    as_json: Json = False,
) -> None:
    """Score predictions tables, ours or a foreign system's (columns id, truth, predicted)."""
    from serkit.evaluation.summary import evaluate_tables
    from serkit.experiment.words import headline

    summaries = evaluate_tables(predictions)
    if as_json:
        _print_json([s.to_dict() for s in summaries])
        return
    for summary in summaries:
        print("\n".join([summary.name, *headline(summary.to_dict())]))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders or predictions tables.")],
    xlsx: Annotated[Optional[Path], typer.Option(help="Write one workbook.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Put runs side by side, with a paired test over speakers."""
    from serkit.evaluation.compare import compare_runs

    comparison = compare_runs(runs)
    if xlsx is not None:
        comparison.write_xlsx(xlsx)
    if as_json:
        _print_json(comparison.to_dict())
        return
    _print_table(comparison.rows())
    for pair in comparison.pairs:
        print(pair.verdict)
        if pair.test is not None:  # otherwise the verdict has said it
            for caveat in pair.caveats:
                print(f"  mind: {caveat}")
    if xlsx is not None:
        print(f"workbook: {xlsx}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Json = False,
) -> None:
    """Write report.html, results.xlsx and metrics.json of a run again."""
    from serkit.experiment.reports import write_any_report

    path = write_any_report(run)
    if as_json:
        _print_json({"report": str(path)})
    else:
        print(f"report: {path}")


@app.command()
def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Sound files and folders; clips, for models of such.")
    ],
    model: Annotated[str, typer.Option(help="Checkpoint folder, run folder, or name.")],
    text: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is said in the one file, for models that read it."),
    ] = None,
    texts: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What is said in several files: a CSV with the columns file, text."),
    ] = None,
    text_features: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Token vectors of what is said, for models trained on such: FILE.npy, or a folder."
        ),
    ] = None,
    transcriber: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Who writes down what is said, for models that read it: own, vosk, ..."),
    ] = None,
    transcriber_model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the transcriber's model."),
    ] = None,
    without: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Of a clip, what not to use: text, audio or vision."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, csv, json or jsonl.")
    ] = "table",
    out: Annotated[Optional[Path], typer.Option(help="Write here, not to the screen.")] = None,  # noqa: UP045
    jobs: Annotated[Optional[int], typer.Option(help="Files at a time.")] = None,  # noqa: UP045
) -> None:
    """Recognise emotion in recordings; a broken file is a row with its error (exit code 2)."""
    formats = ("table", "csv", "json", "jsonl")
    if output_format not in formats:
        raise InputError(f"--format {output_format}: expected one of {', '.join(formats)}")
    from serkit.inference.clips import (
        collect_clips,
        format_clip_rows,
        holds_sentiment_model,
        open_clip_predictor,
        predict_clips,
    )
    from serkit.inference.predictor import (
        collect_files,
        format_rows,
        predict_files,
        text_features_of_files,
        texts_of_files,
    )
    from serkit.recognizer import load_recognizer

    of_clips = holds_sentiment_model(model)
    files = collect_clips(paths) if of_clips else collect_files(paths)
    if transcriber is not None and (text is not None or texts is not None):
        raise InputError("--transcriber goes without --text and --texts: who says what is said?")
    words = texts_of_files(files, text=text, table=texts)
    if of_clips:
        if text_features is not None:
            raise InputError("--text-features is for recognizers of emotion, and this is no such")
        predictor = open_clip_predictor(
            model, transcriber=transcriber, transcriber_model=transcriber_model
        )
        judged = []
        with _Bars() as bars:
            bars.stage("judging clips", len(files))
            for each in predict_clips(predictor, files, texts=words, without=without or ()):
                judged.append(each)
                bars.advance(len(judged))
        _write(format_clip_rows(judged, output_format), out)
        _fail_if_any([row.error for row in judged if row.error], len(judged))
        return
    if without:
        raise InputError("--without is for models of clips: this one hears voices alone")
    vectors = text_features_of_files(files, text_features)
    recognizer = load_recognizer(model)
    if transcriber is not None:
        from serkit.inference.transcribe import texts_heard

        words = texts_heard(files, transcriber, transcriber_model)
    rows = []
    with _Bars() as bars:
        bars.stage("recognising", len(files))
        for row in predict_files(
            recognizer, files, n_workers=jobs, texts=words, text_features=vectors
        ):
            rows.append(row)
            bars.advance(len(rows))
    table = format_rows(rows, recognizer.labels.classes, output_format)  # type: ignore[arg-type]
    _write(table, out)
    _fail_if_any([str(row.error) for row in rows if row.prediction is None], len(rows))


@app.command()
def score(
    manifest: Annotated[Path, typer.Argument(help="Table of utterances with labels.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder, run folder, or name.")],
    out: Annotated[Path, typer.Option(help="Predictions table to write (CSV).")],
    label_map: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--map", help="A label in the model's words: --map excited=happy"),
    ] = None,
    text_features: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of token vectors, for models trained on such."),
    ] = None,
    corpora_dir: CorporaDir = None,
    jobs: Annotated[Optional[int], typer.Option(help="Files at a time.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Let a recognizer answer for utterances whose truth is known; evaluate reads the table."""
    from serkit.experiment.scoring import score_manifest

    pairs = [entry.partition("=") for entry in label_map or []]
    wrong = [own for own, _, theirs in pairs if not (own and theirs)]
    if wrong:
        raise InputError(f"--map {wrong[0]}: expected label=model's label, such as excited=happy")
    with _Bars(quiet=as_json) as bars:
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
    if as_json:
        _print_json(result.to_dict())
        return
    for line in result.lines():
        print(line)


@app.command()
def transcribe(
    paths: Annotated[list[Path], typer.Argument(help="Sound files and folders.")],
    backend: Annotated[
        str,
        typer.Option("--with", help="own, transformers, faster-whisper, vosk, manifest or none."),
    ] = "own",
    model: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the recogniser's model; for own also a run folder."),
    ] = None,
    language: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of what is said, such as de, for models that know several."),
    ] = None,
    beam: Annotated[bool, typer.Option("--beam", help="own: search instead of greedy.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write here, not to the screen.")] = None,  # noqa: UP045
) -> None:
    """Write down what is said; the table is what predict --texts reads."""
    from serkit.features.cache import default_cache_dir
    from serkit.inference.predictor import collect_files
    from serkit.inference.transcribe import (
        TranscriberSettings,
        open_transcriber,
        transcribe_utterances,
        transcript_table,
        utterances_of_files,
    )

    settings = TranscriberSettings(
        model=model, language=language, decoding="beam" if beam else "greedy"
    )
    if backend == "manifest":
        from serkit.corpora.manifest import import_manifest

        utterances = [u for path in paths for u in import_manifest(path)]
    else:
        utterances = utterances_of_files(collect_files(paths))
    transcriber = open_transcriber(backend, settings, cache_dir=default_cache_dir())
    with _Bars() as bars:
        bars.stage("transcribing", len(utterances))
        rows = transcribe_utterances(transcriber, utterances, on_done=bars.advance)
    _write(transcript_table(rows), out)
    _fail_if_any([row.error for row in rows if row.error], len(rows))


@app.command()
def robustness(
    run: Annotated[Path, typer.Argument(help="Run folder; with --manifest a checkpoint.")],
    noise: Annotated[
        str, typer.Option(help="Kinds of noise: babble, pink, hum, white, recorded.")
    ] = "babble,pink,hum",
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios in dB.")] = "20,10,5,0",
    noise_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of your own noise recordings: the kind 'recorded'."),
    ] = None,
    corpora_dir: CorporaDir = None,
    manifest: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Judge a checkpoint by a table; its speakers may have trained it."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 1,
    all_seeds: Annotated[
        bool, typer.Option("--all-seeds", help="Members of all seeds, not of the first alone.")
    ] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder to write. Default: RUN/robustness."),
    ] = None,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Utterances at a time. Default: one per core."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Add noise to the test parts of a run, judge its members again, draw UAR over the ratio."""
    from serkit.experiment.robustness import NoisePlan, measure_robustness

    plan = NoisePlan.parse(noise, snr, noise_dir=noise_dir, seed=seed, all_seeds=all_seeds)
    with _Bars(quiet=as_json) as bars:
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
        _print_json(result.to_dict())
        return
    _print_table(result.table())
    for line in result.lines():
        print(line)


@app.command()
def import_weights(
    file: Annotated[
        Path, typer.Argument(help="Weight file of the authors of TIM-Net (.hdf5) or MMER (.pt).")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint folder to write.")],
    system: Annotated[str, typer.Option(help="timnet or mmer.")] = "timnet",
    corpus: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="TIM-Net: corpus it was trained on, such as emodb."),
    ] = None,
    text_encoder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="MMER: folder of RoBERTa base."),
    ] = None,
    encoder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="MMER: folder that describes the speech encoder. Default: wav2vec2-base"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn weights of a system's authors into a checkpoint for 'serkit predict'."""
    from serkit.experiment.author_files import ImportedWeights
    from serkit.experiment.author_files import import_weights as import_timnet
    from serkit.experiment.mmer_files import ImportedMmer, import_mmer

    imported: ImportedWeights | ImportedMmer
    if system == "timnet":
        if corpus is None:
            raise InputError("--system timnet needs --corpus: the corpus it was trained on")
        imported = import_timnet(file, corpus, out)
    elif system == "mmer":
        if text_encoder is None:
            raise InputError("--system mmer needs --text-encoder: the file does not hold RoBERTa")
        imported = import_mmer(file, out, text_encoder=text_encoder, encoder=encoder)
    else:
        raise InputError(f"--system {system}: expected timnet or mmer")
    if as_json:
        _print_json(imported.to_dict())
    else:
        print("\n".join(imported.lines()))


@app.command()
def import_config(
    file: Annotated[Path, typer.Argument(help="Settings of the mixture-of-experts code (TOML).")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", help="Experiment file to write. Default: print it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Translate settings of the public mixture-of-experts code into an experiment file."""
    from serkit.experiment.legacy_moe import import_config as run_import

    text, notes = run_import(file, out)
    if as_json:
        _print_json({"experiment": text, "file": out and str(out), "notes": notes})
    elif out is None:
        sys.stdout.write(text)  # its first lines are the notes
    else:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"experiment: {out}")


@app.command()
def export_experts(
    model: Annotated[str, typer.Argument(help="Run folder, checkpoint folder, or name.")],
    out: Annotated[Path, typer.Option(help="Folder to write: one checkpoint per expert.")],
    as_json: Json = False,
) -> None:
    """Write each expert of a mixture as a recognizer of its own, for its emotion alone."""
    from serkit.experiment.experts import export_experts as run_export

    folders = run_export(model, out)
    if as_json:
        _print_json({"experts": [str(folder) for folder in folders]})
    else:
        print("\n".join(f"expert: {folder}" for folder in folders))


@app.command()
def join_experts(
    experts: Annotated[list[Path], typer.Argument(help="Folders of export-experts.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    as_json: Json = False,
) -> None:
    """Join exported experts, also of several runs, into one recognizer that says so."""
    from serkit.experiment.experts import join_experts as run_join

    folder = run_join(experts, out)
    if as_json:
        _print_json({"model": str(folder)})
    else:
        print(f"checkpoint: {folder}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and how to get it."""
    from serkit.experiment.doctor import examine

    findings = examine()
    if as_json:
        _print_json(findings)
        return
    _print_table(findings)


class _Bars:
    """Progress on standard error: bars with time left on a terminal, plain facts elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.progress: Any = None
        self.task: TaskID | None = None

    def __enter__(self) -> _Bars:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left:"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def stage(self, text: str, total: int) -> None:
        if self.progress is not None:
            self.task = self.progress.add_task(text, total=total)
        elif not self.quiet:
            print(text, file=sys.stderr)

    def advance(self, done: int) -> None:
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done)

    def say(self, line: str) -> None:
        if self.quiet:
            return
        if self.progress is not None:
            self.progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr)


def _write(table: str, out: Path | None) -> None:
    """Write a table to the screen or into a file."""
    if out is None:
        sys.stdout.write(table)
        return
    try:
        out.write_text(table, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None


def _fail_if_any(errors: Sequence[str], n: int) -> None:
    """Say how many files failed, and end with exit code 2 if any did."""
    if errors:
        print(
            f"serkit: {len(errors)} of {n} files could not be used; first: {errors[0]}",
            file=sys.stderr,
        )
        raise typer.Exit(2)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print records as an aligned table; the last column takes what room is left."""
    if not rows:
        return
    header = list(rows[0])
    lines = [header, *([str(row[h]) for h in header] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    main()
