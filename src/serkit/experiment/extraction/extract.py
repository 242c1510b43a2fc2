"""Features of a corpus of clips: computed in parallel, kept in a cache, joined in their order.

A clip's features lie in a file of the cache, named by the content of the clip and every setting.
What was computed before a run was stopped is found again, and a clip that changed never meets old
features. The processes only fill the cache; this process reads it row by row. So the number of
processes cannot change a byte of the output.

No clip is lost silently. Beside the output ``features.npz`` lie

* ``features.clips.csv``: a row per clip, with the status of each stream;
* ``features.failures.csv``: a row per stream that failed, and why;
* ``features.log``: tracebacks, where something went wrong that should not.

A failure is a clip that cannot be read, a clip without sound, pictures or a face, and one that the
speech recogniser failed at. An empty text is none: the table says so.
"""

from __future__ import annotations

import csv
import io
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from serkit.audio import Waveform
from serkit.clip_data import LABELS, ClipData, Frames, write_clip_data
from serkit.corpora.clips import read_clip_corpus
from serkit.corpora.labelled_clips import LabelledClip
from serkit.experiment.extraction.cache import (
    ClipOutcome,
    ClipTask,
    extract_to_cache,
    fingerprint,
    read_entry,
    versions,
)
from serkit.experiment.extraction.config import ExtractConfig, load_extract_config
from serkit.experiment.extraction.processes import results_of
from serkit.experiment.originals.mmsa_files import write_mmsa_pickle
from serkit.experiment.progress import Progress, Quiet
from serkit.features.acoustic import ACOUSTIC_SETS
from serkit.features.cache import default_cache_dir
from serkit.features.face import VISION_SETS
from serkit.files import write_atomically
from serkit.training.workers import one_thread
from serkit.types import InputError
from serkit.video import read_sound

__all__ = ["Extracted", "Failure", "FeatureExtraction", "extract_clips", "run_dataset"]

OnFailure = Literal["mask", "skip", "zero", "raise"]

_ASR_RATE = 16_000  # Hz
_WRITERS: dict[str, Callable[[ClipData, Path], Path]] = {
    ".npz": write_clip_data,
    ".pkl": write_mmsa_pickle,
}


class Transcript(Protocol):
    """What a speech recogniser gives."""

    @property
    def text(self) -> str:
        """The words."""


class Transcriber(Protocol):
    """A speech recogniser."""

    def transcribe(self, waveform: Waveform, sample_rate: int) -> Transcript:
        """Listen."""


Listener = Transcriber | Callable[[Waveform, int], str]


@dataclass(frozen=True, slots=True)
class Failure:
    """A stream of a clip that is not there.

    Attributes
    ----------
    stream
        ``audio``, ``vision`` or ``asr``.
    status
        See :class:`serkit.features.clip_features.ClipFeatures`; ``asr_failed``.
    """

    id: str
    part: str
    stream: str
    status: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """What an extraction made.

    Attributes
    ----------
    path
        Of the features.
    n_listed
        Clips of the table, those that were left out included.
    n_cached
        How many of them came from the cache.
    n_computed
        How many of them were computed; the others could not be.
    compute_s
        How long that took, the start of the processes included; a speech recogniser is not.
    """

    path: Path
    data: ClipData
    n_listed: int
    n_cached: int
    n_computed: int
    compute_s: float
    failures: tuple[Failure, ...]

    @property
    def failed_share(self) -> float:
        """Share of the clips with at least one failure."""
        return len({failure.id for failure in self.failures}) / self.n_listed

    @property
    def clips_per_minute(self) -> float | None:
        """Speed of the clips that were computed; none if all came from the cache."""
        return 60 * self.n_computed / self.compute_s if self.n_computed else None

    def lines(self) -> list[str]:
        """Sentences for people."""
        data = self.data
        widths = f"audio {data.audio.n_features}, vision {data.vision.n_features} columns"
        lines = [
            f"{len(data)} clips, {widths}; {self.n_cached} of {self.n_listed} from the cache",
            f"features: {self.path}",
        ]
        if self.clips_per_minute is not None:
            lines.insert(
                1,
                f"{self.n_computed} computed in {self.compute_s:.1f} s: "
                f"{self.clips_per_minute:.3g} clips per minute",
            )
        if self.failures:
            lines.append(f"{self._counts()}: see {_beside(self.path, 'failures.csv')}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "features": str(self.path),
            "n_listed": self.n_listed,
            "n_clips": len(self.data),
            "n_cached": self.n_cached,
            "n_computed": self.n_computed,
            "clips_per_minute": self.clips_per_minute,
            "failed_share": self.failed_share,
            "failures": [asdict(failure) for failure in self.failures],
        }

    def _counts(self) -> str:
        n_failed = len({failure.id for failure in self.failures})
        counts = Counter(f"{one.stream} {one.status}" for one in self.failures)
        words = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        return f"{n_failed} of {self.n_listed} clips failed ({words})"

    def refuse_more_than(self, max_failures: float) -> None:
        """Complain where too many clips failed.

        Raises
        ------
        InputError
            If the share is above ``max_failures``.
        """
        if self.failed_share > max_failures:
            raise InputError(
                f"{self._counts()}, more than the {max_failures:.1%} of --max-failures; the "
                f"features are in {self.path}, the reasons in "
                f"{_beside(self.path, 'failures.csv').name} beside it"
            )


class FeatureExtraction:
    """Extraction with fixed settings, in the form of MMSA's tool.

    Parameters
    ----------
    config
        Settings, or a file of them (``.toml``, or MMSA's ``.json``); ``None``: all defaults.
    """

    def __init__(self, config: ExtractConfig | Path | str | None = None) -> None:
        if not isinstance(config, ExtractConfig):
            config, self.notes = load_extract_config(config)
        else:
            self.notes = []
        self.config = config

    def run_dataset(
        self, dataset_dir: Path | str, out_file: Path | str, num_workers: int = 4
    ) -> Extracted:
        """Compute the features of a folder laid out as CH-SIMS, whatever clips it holds.

        Raises
        ------
        InputError
            As :func:`extract_clips`.
        """
        clips, _ = read_clip_corpus(
            "ch_sims", dataset_dir, allow_incomplete=True, options={"release": "other"}
        )
        return extract_clips(clips, self.config, out_file, n_workers=num_workers)


def run_dataset(
    config: ExtractConfig | Path | str | None,
    dataset_dir: Path | str,
    out_file: Path | str,
    num_workers: int = 4,
) -> Extracted:
    """Do what :meth:`FeatureExtraction.run_dataset` does, in one call."""
    return FeatureExtraction(config).run_dataset(dataset_dir, out_file, num_workers)


def extract_clips(
    clips: Sequence[LabelledClip],
    config: ExtractConfig,
    out: Path | str,
    *,
    n_workers: int = 1,
    cache_dir: Path | None = None,
    on_failure: OnFailure = "mask",
    max_failures: float = 0.01,
    transcriber: Listener | None = None,
    overwrite: bool = False,
    corpus: str = "",
    progress: Progress | None = None,
) -> Extracted:
    """Compute the features of clips and write them.

    Parameters
    ----------
    out
        ``.npz``: :func:`serkit.clip_data.write_clip_data`; ``.pkl``: a pickle for MMSA.
    n_workers
        Processes; 0: this one.
    cache_dir
        ``None``: :func:`serkit.features.cache.default_cache_dir`.
    on_failure
        ``mask``: the clip stays, and models are told that the stream is not there. ``zero``: it
        stays, and its stream is a frame of zeros like any other. ``skip``: it is left out.
        ``raise``: the first failure, in the order of the clips, ends the run.
    max_failures
        Share of the clips, in [0, 1], that may fail.
    transcriber
        Listens to every clip with sound, at 16 kHz: has ``transcribe(waveform, sample_rate).text``,
        or is called so and gives the text. ``None``: the texts of the table alone.
    overwrite
        Replace an existing output. A run that was stopped needs it not: it has no output yet, and
        finds what it did in the cache.
    corpus
        Named in the settings of the output.

    Raises
    ------
    InputError
        If a setting is out of range, a package or a model file is missing, the output is there
        already, or a file cannot be written; and, after everything was written, if more than
        ``max_failures`` of the clips failed.
    """
    out = Path(out)
    _check(clips, out, n_workers, on_failure, max_failures, overwrite=overwrite)
    progress = progress or Quiet()
    one = config.clip_features()
    folder = (cache_dir or default_cache_dir()) / "clips" / fingerprint(one)[:32]
    _make_folders(folder, out.parent)
    tasks = [ClipTask(clip.path, one, _table_of(clip, config), folder) for clip in clips]
    began = time.perf_counter()
    outcomes = _compute(clips, tasks, n_workers, on_failure, progress)
    compute_s = time.perf_counter() - began
    rows = [_read_row(clip, task, o) for clip, task, o in zip(clips, tasks, outcomes, strict=True)]
    if transcriber is not None:
        rows = _listen(rows, transcriber, on_failure, progress)
    failures = tuple(failure for row in rows for failure in row.failures())
    kept = [row for row in rows if on_failure != "skip" or not row.failures()]
    _write_log(out, rows)
    _write_csv(_beside(out, "clips.csv"), _ROW_COLUMNS, (row.cells() for row in rows))
    _write_csv(_beside(out, "failures.csv"), _FAILURE_COLUMNS, (asdict(one) for one in failures))
    if not kept:
        raise InputError(
            f"{out}: all {len(rows)} clips failed, nothing is left to write; see "
            f"{_beside(out, 'failures.csv').name} beside it"
        )
    settings = {
        "acoustic": config.audio.set,
        "vision": config.video.set,
        "extraction": config.model_dump(),
        "corpus": corpus,
        "on_failure": on_failure,
        "asr": _name_of(transcriber),
        "packages": versions(),
    }
    data = _assemble(
        kept, config, masked=on_failure != "zero", heard=transcriber is not None, settings=settings
    )
    _WRITERS[out.suffix](data, out)
    extracted = Extracted(
        path=out,
        data=data,
        n_listed=len(rows),
        n_cached=sum(one.cached for one in outcomes),
        n_computed=sum(one.entry is not None and not one.cached for one in outcomes),
        compute_s=compute_s,
        failures=failures,
    )
    extracted.refuse_more_than(max_failures)
    return extracted


# All clips --------------------------------------------------------------------------------------


def _table_of(clip: LabelledClip, config: ExtractConfig) -> Path | None:
    """Find the table of OpenFace that belongs to a clip."""
    if VISION_SETS[config.video.set].function is not None:
        return None
    if config.video.tables is None:
        return clip.path.with_suffix(".csv")
    return Path(config.video.tables).expanduser() / clip.group / f"{clip.path.stem}.csv"


def _compute(
    clips: Sequence[LabelledClip],
    tasks: Sequence[ClipTask],
    n_workers: int,
    on_failure: OnFailure,
    progress: Progress,
) -> list[ClipOutcome]:
    """Fill the cache; outcomes in the order of the clips."""
    progress.stage("features of clips", len(tasks))
    outcomes: dict[int, ClipOutcome] = {}
    n_seen = 0  # outcomes without a gap before them
    with _one_by_one(tasks, n_workers) as results:
        for number, outcome in results:
            outcomes[number] = outcome or ClipOutcome.killed()
            progress.advance(len(outcomes))
            while on_failure == "raise" and n_seen in outcomes:
                _read_row(clips[n_seen], tasks[n_seen], outcomes[n_seen]).refuse()
                n_seen += 1
    return [outcomes[number] for number in range(len(tasks))]


@contextmanager
def _one_by_one(
    tasks: Sequence[ClipTask], n_workers: int
) -> Iterator[Iterator[tuple[int, ClipOutcome | None]]]:
    """Give outcomes as they come, and end the processes whatever happens meanwhile."""
    if n_workers == 0:
        with one_thread(), threadpool_limits(1):
            yield ((number, extract_to_cache(task)) for number, task in enumerate(tasks))
        return
    with closing(results_of(extract_to_cache, tasks, n_workers=n_workers)) as results:
        yield results


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Row:
    """A clip of the output."""

    clip: LabelledClip
    audio: NDArray[np.float32]  # (n_audio_frames, n_audio_features)
    vision: NDArray[np.float32]  # (n_vision_frames, n_vision_features)
    audio_status: str
    vision_status: str
    n_pictures: int
    n_with_face: int
    duration_s: float
    messages: tuple[str, ...]
    trace: str = ""
    asr_text: str = ""
    asr_status: str = ""

    def statuses(self) -> dict[str, str]:
        text = "ok" if self.clip.text.strip() else "empty_text"
        streams = {"text": text, "audio": self.audio_status, "vision": self.vision_status}
        return streams | ({"asr": self.asr_status} if self.asr_status else {})

    def failures(self) -> list[Failure]:
        message = "; ".join(self.messages)
        return [
            Failure(self.clip.id, self.clip.part, stream, status, message)
            for stream, status in self.statuses().items()
            if status not in ("ok", "empty_text")
        ]

    def refuse(self) -> None:
        for failure in self.failures():
            raise InputError(
                f"{self.clip.path}: {failure.stream} {failure.status} ({failure.message}); "
                "--on-failure mask goes on with the others"
            )

    def cells(self) -> dict[str, object]:
        return self.statuses() | {
            "id": self.clip.id,
            "part": self.clip.part,
            "path": self.clip.path,
            "n_audio": len(self.audio),
            "n_vision": len(self.vision),
            "n_pictures": self.n_pictures,
            "n_with_face": self.n_with_face,
            "duration_s": f"{self.duration_s:.3f}",
            "message": "; ".join(self.messages),
        }


_ROW_COLUMNS = (
    "id", "part", "path", "text", "audio", "vision", "asr", "n_audio", "n_vision", "n_pictures",
    "n_with_face", "duration_s", "message",
)  # fmt: skip
_FAILURE_COLUMNS = ("id", "part", "stream", "status", "message")


def _read_row(clip: LabelledClip, task: ClipTask, outcome: ClipOutcome) -> _Row:
    """Take a clip's features from the cache; zeros where there are none."""
    if outcome.entry is None:
        return _Row(
            clip=clip,
            audio=np.zeros((1, ACOUSTIC_SETS[task.config.acoustic].n_features), np.float32),
            vision=np.zeros((1, len(VISION_SETS[task.config.vision].names)), np.float32),
            audio_status="decode_error",
            vision_status="decode_error",
            n_pictures=0,
            n_with_face=0,
            duration_s=0.0,
            messages=outcome.messages,
            trace=outcome.trace,
        )
    audio, vision, told = read_entry(outcome.entry)
    messages = tuple(told.pop("messages"))
    return _Row(clip=clip, audio=audio, vision=vision, messages=messages, **told)


def _assemble(
    rows: Sequence[_Row],
    config: ExtractConfig,
    *,
    masked: bool,
    heard: bool,
    settings: Mapping[str, Any],
) -> ClipData:
    clips = [row.clip for row in rows]
    audio, _ = Frames.of([r.audio for r in rows], names=ACOUSTIC_SETS[config.audio.set].names())
    vision, _ = Frames.of([r.vision for r in rows], names=VISION_SETS[config.video.set].names)
    streams = [stream for stream in rows[0].statuses()]
    statuses = {stream: tuple(row.statuses()[stream] for row in rows) for stream in streams}
    present = np.array(
        [
            [row.statuses()[s] == "ok" or (s != "text" and not masked) for s in streams[:3]]
            for row in rows
        ]
    )
    labels = {
        name: np.array([clip.labels.get(name, math.nan) for clip in clips]) for name in LABELS
    }
    return ClipData(
        ids=tuple(clip.id for clip in clips),
        parts=tuple(clip.part for clip in clips),
        groups=tuple(clip.group for clip in clips),
        texts=tuple(clip.text for clip in clips),
        audio=audio,
        vision=vision,
        present=present,
        labels={
            name: values
            for name, values in labels.items()
            if name == "M" or not np.isnan(values).all()
        },
        annotations=_if_any([clip.annotation for clip in clips]),
        stream_annotations={
            name: words
            for name in LABELS[1:]
            if (words := _if_any([clip.stream_annotations.get(name, "") for clip in clips]))
        },
        speakers=_if_any([clip.speaker or "" for clip in clips]),
        asr_texts=tuple(row.asr_text for row in rows) if heard else (),
        status=statuses,
        settings=settings,
    )


def _if_any(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(words) if any(words) else ()


# Speech recognition -----------------------------------------------------------------------------


def _listen(
    rows: Sequence[_Row], transcriber: Listener, on_failure: OnFailure, progress: Progress
) -> list[_Row]:
    """Let a speech recogniser listen to every clip with sound, in this process."""
    progress.stage("transcribing", len(rows))
    heard = []
    for number, row in enumerate(rows, start=1):
        if row.audio_status == "ok":
            row = _heard(row, transcriber)
        else:
            row = replace(row, asr_status=row.audio_status)
        if on_failure == "raise":
            row.refuse()
        heard.append(row)
        progress.advance(number)
    return heard


def _heard(row: _Row, transcriber: Listener) -> _Row:
    try:
        text = _ask(transcriber, read_sound(row.clip.path, sample_rate=_ASR_RATE))
    except InputError:  # a model or a package is missing
        raise
    except Exception as error:
        message = " ".join(f"transcription: {type(error).__name__}: {error}".split())
        return replace(
            row,
            asr_status="asr_failed",
            messages=(*row.messages, message),
            trace=row.trace + traceback.format_exc(),
        )
    return replace(row, asr_text=text, asr_status="ok")


def _ask(transcriber: Listener, waveform: Waveform) -> str:
    listen = getattr(transcriber, "transcribe", None)
    if listen is not None:
        return str(listen(waveform, _ASR_RATE).text).strip()
    return str(transcriber(waveform, _ASR_RATE)).strip()  # type: ignore[operator]


def _name_of(transcriber: Listener | None) -> str | None:
    """Name a recogniser as far as it names itself."""
    if transcriber is None:
        return None
    names = [str(getattr(transcriber, key, "")) for key in ("backend", "model_id")]
    return " ".join(filter(None, names)) or "unnamed"


# Files ------------------------------------------------------------------------------------------


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.stem}.{what}")


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _write_log(out: Path, rows: Sequence[_Row]) -> None:
    path = _beside(out, "log")
    traces = [f"{row.clip.id} ({row.clip.path})\n{row.trace}" for row in rows if row.trace]
    if traces:
        write_atomically(path, "\n".join(traces))
    else:
        path.unlink(missing_ok=True)  # of an earlier run


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}): choose a folder you may write to"
            ) from None


def _check(
    clips: Sequence[LabelledClip],
    out: Path,
    n_workers: int,
    on_failure: str,
    max_failures: float,
    *,
    overwrite: bool,
) -> None:
    if not clips:
        raise InputError("no clips to compute features of: the selection is empty")
    if out.suffix not in _WRITERS:
        raise InputError(f"{out}: suffix '{out.suffix}', expected {' or '.join(_WRITERS)}")
    if n_workers < 0:
        raise InputError(f"{n_workers} workers: expected 0 (this process) or more")
    if on_failure not in get_args(OnFailure):
        raise InputError(
            f"--on-failure {on_failure}: expected one of {', '.join(get_args(OnFailure))}"
        )
    if not 0 <= max_failures <= 1:
        raise InputError(f"--max-failures {max_failures:g}: expected a share, 0 to 1")
    if out.exists() and not overwrite:
        raise InputError(
            f"{out}: is there already: choose another name, or replace it with --overwrite"
        )
