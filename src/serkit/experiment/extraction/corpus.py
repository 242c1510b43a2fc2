"""Extract a corpus of clips from its folder: what the command line asks for, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from serkit.corpora import synthetic_clips
from serkit.corpora.clips import read_clip_corpus
from serkit.experiment.extraction.config import load_extract_config
from serkit.experiment.extraction.extract import Extracted, OnFailure, extract_clips
from serkit.experiment.progress import Progress, Quiet
from serkit.features.cache import default_cache_dir
from serkit.inference.transcribe import TranscriberSettings, open_transcriber
from serkit.types import InputError

__all__ = ["extract_corpus"]


def extract_corpus(
    name: str,
    root: Path,
    out: Path,
    *,
    release: str | None = None,
    config: Path | None = None,
    n_workers: int = 1,
    on_failure: str = "mask",
    max_failures: float = 0.01,
    transcriber: str | None = None,
    transcriber_model: Path | None = None,
    allow_incomplete: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extracted:
    """Read a corpus of clips, or make the synthetic one, and extract it.

    Parameters
    ----------
    name
        Key of :data:`serkit.corpora.clips.CLIP_CORPORA`.
    root
        Its folder or table. The synthetic corpus is made there if nothing is there yet.
    config
        See :func:`serkit.experiment.extraction.config.load_extract_config`.
    transcriber, transcriber_model
        See :func:`serkit.inference.transcribe.open_transcriber`.

    Others are those of :func:`serkit.experiment.extraction.extract.extract_clips`.

    Raises
    ------
    InputError
        If the corpus, a setting or the transcriber cannot be used, or more clips failed than may.
    """
    progress = progress or Quiet()
    if on_failure not in get_args(OnFailure):
        raise InputError(
            f"--on-failure {on_failure}: expected one of {', '.join(get_args(OnFailure))}"
        )
    settings, notes = load_extract_config(config)
    for note in notes:
        progress.say(f"note: {note}")
    if name == "synthetic_clips" and not root.exists():
        progress.stage("drawing and speaking clips", 120)
        synthetic_clips.generate(root, progress=lambda done, _: progress.advance(done))
    options = {} if release is None else {"release": release}
    clips, check = read_clip_corpus(name, root, allow_incomplete=allow_incomplete, options=options)
    progress.say(check.summary)
    listener = None
    if transcriber is not None:
        listener = open_transcriber(
            transcriber, TranscriberSettings(model=transcriber_model), cache_dir=default_cache_dir()
        )
    return extract_clips(
        clips,
        settings,
        out,
        n_workers=n_workers,
        on_failure=cast(OnFailure, on_failure),
        max_failures=max_failures,
        transcriber=listener,
        overwrite=overwrite,
        corpus=name,
        progress=progress,
    )
