"""The verbs about data: what can be read, manifests, features of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from serkit.cli.options import Json
from serkit.cli.output import Bars, print_json, print_result, print_table

__all__ = ["corpora", "extract", "prepare"]


def corpora(as_json: Json = False) -> None:
    """List the corpora that can be read: size, licence, where to get them."""
    from serkit.corpora import catalogue
    from serkit.corpora.clips import clip_catalogue

    rows, clips = catalogue(), clip_catalogue()
    if as_json:
        print_json([*rows, *clips])
        return
    print_table(
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
    print_table(
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


def prepare(
    corpus: Annotated[str, typer.Argument(help="Corpus key, or 'folder', 'table'.")],
    root: Annotated[Path, typer.Argument(help="Folder the release was unpacked into.")],
    out: Annotated[
        Optional[Path],
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
    print_result(result, as_json=as_json)
    if not result.usable:
        raise typer.Exit(2)


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
        Optional[str],
        typer.Option(help="ch_sims: ch_sims, ch_sims_v2, cmu_mosi, cmu_mosei or other."),
    ] = None,
    config: Annotated[
        Optional[Path],
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
        Optional[str],
        typer.Option(help="Who writes down what is said, beside the given words: own, vosk, ..."),
    ] = None,
    transcriber_model: Annotated[
        Optional[Path],
        typer.Option(help="Folder of the transcriber's model."),
    ] = None,
    allow_incomplete: Annotated[
        bool, typer.Option(help="Go on with a copy that differs from the release.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Json = False,
) -> None:
    """Turn video clips into features of voice, words and face; a stopped run goes on by itself."""
    from serkit.experiment.extraction.corpus import extract_corpus

    with Bars(quiet=as_json) as bars:
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
    print_result(result, as_json=as_json)
