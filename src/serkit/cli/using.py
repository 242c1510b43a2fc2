"""The verbs that use recognizers, and those for a first look."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from serkit.cli.options import Jobs, Json
from serkit.cli.output import Bars, fail_if_any, print_json, print_table, require_writable, write
from serkit.types import InputError

__all__ = ["demo", "doctor", "predict", "transcribe"]


def demo(
    video: Annotated[
        Optional[Path],
        typer.Argument(help="With --clip: the clip to judge, instead of a synthetic one."),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Voice, words and face of a clip instead of voice alone.")
    ] = False,
    out: Annotated[
        Optional[Path],
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
    with Bars(quiet=as_json) as bars:
        if clip:
            result = run_clip_demo(out or Path("demo-clip"), clip=video, progress=bars)
        else:
            result = run_demo(out or Path("demo"), n_jobs=jobs, progress=bars)
    if as_json:
        print_json(result.to_dict())
        return
    print()
    for line in result.lines():
        print(line)


def predict(
    paths: Annotated[
        list[Path], typer.Argument(help="Sound files, videos (extra: video) and folders.")
    ],
    model: Annotated[str, typer.Option(help="Checkpoint folder, run folder, or name.")],
    text: Annotated[
        Optional[str],
        typer.Option(help="What is said in the one file, for models that read it."),
    ] = None,
    texts: Annotated[
        Optional[Path],
        typer.Option(help="What is said in several files: a CSV with the columns file, text."),
    ] = None,
    text_features: Annotated[
        Optional[Path],
        typer.Option(
            help="Token vectors of what is said, instead of words: FILE.npy, or a folder."
        ),
    ] = None,
    transcriber: Annotated[
        Optional[str],
        typer.Option(help="Who writes down what is said, for models that read it: own, vosk, ..."),
    ] = None,
    transcriber_model: Annotated[
        Optional[Path],
        typer.Option(help="Folder of the transcriber's model."),
    ] = None,
    without: Annotated[
        Optional[list[str]],
        typer.Option(help="Of a clip, what not to use: text, audio or vision."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, csv, json or jsonl.")
    ] = "table",
    out: Annotated[Optional[Path], typer.Option(help="Write here, not to the screen.")] = None,
    jobs: Annotated[Optional[int], typer.Option(min=1, help="Files at a time.")] = None,
) -> None:
    """Recognise emotion in recordings; a broken file is a row with its error (exit code 2)."""
    require_writable("--out", out)
    formats = ("table", "csv", "json", "jsonl")
    if output_format not in formats:
        raise InputError(f"--format {output_format}: expected one of {', '.join(formats)}")
    from serkit.inference.clips import (
        format_clip_rows,
        holds_sentiment_model,
        open_clip_predictor,
        predict_clips,
    )
    from serkit.inference.files import collect_files
    from serkit.inference.predictor import (
        format_rows,
        predict_files,
        refuse_unread,
        text_features_of_files,
        texts_of_files,
    )
    from serkit.recognizer import load_recognizer

    of_clips = holds_sentiment_model(model)
    files = collect_files(paths)
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
        with Bars() as bars:
            bars.stage("judging clips", len(files))
            for each in predict_clips(predictor, files, texts=words, without=without or ()):
                judged.append(each)
                bars.advance(len(judged))
        write(format_clip_rows(judged, output_format), out)
        fail_if_any([row.error for row in judged if row.error], len(judged))
        return
    if without:
        raise InputError("--without is for models of clips: this one hears voices alone")
    vectors = text_features_of_files(files, text_features)
    recognizer = load_recognizer(model)
    options = {"--text": text, "--texts": texts, "--transcriber": transcriber}
    for option in (name for name, given in options.items() if given is not None):
        refuse_unread(recognizer, option, has_vectors=vectors is not None)
    if transcriber_model is not None and transcriber is None:
        raise InputError(f"--transcriber-model {transcriber_model}: name the --transcriber as well")
    if transcriber is not None:
        from serkit.inference.transcribe import texts_heard

        words = texts_heard(files, transcriber, transcriber_model)
    rows = []
    with Bars() as bars:
        bars.stage("recognising", len(files))
        for row in predict_files(
            recognizer, files, n_workers=jobs, texts=words, text_features=vectors
        ):
            rows.append(row)
            bars.advance(len(rows))
    table = format_rows(rows, recognizer.labels.classes, output_format)  # type: ignore[arg-type]
    write(table, out)
    fail_if_any([str(row.error) for row in rows if row.prediction is None], len(rows))


def transcribe(
    paths: Annotated[list[Path], typer.Argument(help="Sound files, videos and folders.")],
    backend: Annotated[
        str,
        typer.Option("--with", help="own, transformers, faster-whisper, vosk, manifest or none."),
    ] = "own",
    model: Annotated[
        Optional[Path],
        typer.Option(help="Folder of the recogniser's model; for own also a run folder."),
    ] = None,
    language: Annotated[
        Optional[str],
        typer.Option(help="Of what is said, such as de, for models that know several."),
    ] = None,
    beam: Annotated[bool, typer.Option("--beam", help="own: search instead of greedy.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="Write here, not to the screen.")] = None,
) -> None:
    """Write down what is said; the table is what predict --texts reads."""
    from serkit.features.cache import default_cache_dir
    from serkit.inference.files import collect_files
    from serkit.inference.transcribe import (
        TranscriberSettings,
        open_transcriber,
        transcribe_utterances,
        transcript_table,
        utterances_of_files,
    )

    require_writable("--out", out)
    settings = TranscriberSettings(
        model=model, language=language, decoding="beam" if beam else "greedy"
    )
    if backend == "manifest":
        from serkit.corpora.manifest import import_manifest

        utterances = [u for path in paths for u in import_manifest(path)]
    else:
        utterances = utterances_of_files(collect_files(paths))
    transcriber = open_transcriber(backend, settings, cache_dir=default_cache_dir())
    with Bars() as bars:
        bars.stage("transcribing", len(utterances))
        rows = transcribe_utterances(transcriber, utterances, on_done=bars.advance)
    write(transcript_table(rows), out)
    fail_if_any([row.error for row in rows if row.error], len(rows))


def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and how to get it."""
    from serkit.experiment.doctor import examine

    findings = examine()
    if as_json:
        print_json(findings)
        return
    print_table(findings)
