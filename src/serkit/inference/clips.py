"""One clip in, its sentiment or its emotion out: as a whole, by stream, and over time.

A clip is a video, a sound file (voice alone) or a picture (face alone); sound and pictures may also
come from two files. Its frames are computed by the very functions that made those of the training
(:mod:`serkit.features.clip_features`), with the settings that the checkpoint has stored; frames of
other columns are refused. What is said comes from the user, else from a speech recogniser, else
nobody knows it. A stream that is not there is left out, with a warning.

A model of classes gives the probability of each of them where a model of sentiment gives a number,
and is also asked what any two streams say together.

Over time, the same model judges windows of the clip: the frames in them, and the words whose times
overlap them. Where nobody knows when a word is said, all words count in every window.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.audio import Waveform
from serkit.checkpoints import checkpoint_kind
from serkit.evaluation.sentiment import SENTIMENT_LIMITS
from serkit.features.acoustic import ACOUSTIC_SETS
from serkit.features.cache import default_cache_dir
from serkit.features.clip_features import ClipFeatureConfig, ClipFeatures, clip_features
from serkit.features.face import VISION_SETS, FaceFeatures, settle
from serkit.inference.files import refuse_folder
from serkit.inference.transcribe import (
    Transcriber,
    TranscriberSettings,
    Transcript,
    open_transcriber,
)
from serkit.models.ctc_decode import Segment
from serkit.models.self_mm import STREAMS
from serkit.sentiment_model import KIND, Score, SentimentModel, load_sentiment_model
from serkit.settings import checked
from serkit.types import InputError

__all__ = [
    "ClipPrediction",
    "ClipPredictor",
    "ClipRow",
    "FacesSeen",
    "WindowScores",
    "format_clip_rows",
    "holds_sentiment_model",
    "open_clip_predictor",
    "predict_clips",
    "read_clip_features",
    "stored_clip_config",
]

WINDOW_S, HOP_S = 2.0, 0.5
_FLAG = "face_present"  # column of vision sets that says so
_KEYS = dict(zip(("fused", *STREAMS), "MTAV", strict=True))

TextSource = Literal["user", "asr", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowScores:
    """What a stretch of a clip says; ``None``: the stream is not there.

    Attributes
    ----------
    start_s, end_s
        Seconds from the start of the clip.
    fused, text, audio, vision
        On the scale of the model, or probabilities of classes.
    """

    start_s: float
    end_s: float
    fused: Score | None = None
    text: Score | None = None
    audio: Score | None = None
    vision: Score | None = None


@dataclass(frozen=True, slots=True)
class FacesSeen:
    """How many pictures were looked at, and in how many there was a face."""

    frames: int
    with_face: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPrediction:
    """What a model makes of one clip.

    Attributes
    ----------
    file
        As it was given.
    duration_s
        Of what was decoded.
    text
        What is said, as the model read it; empty where nobody knows.
    text_source
        ``user``, ``asr`` or ``none``.
    transcript
        What the speech recogniser said, where it was asked.
    scores
        ``fused``, ``text``, ``audio``, ``vision``; ``None`` for a stream that is not there. A
        number on the scale of the model, or the probability of each class.
    labels
        ``label_2``, ``label_3``, ...: the class of the fused score; of a model of classes
        ``label``.
    pairs
        Of a model of classes, where all streams count: what the fused head says with two of them,
        by names such as ``text+audio``.
    modalities_used
        Streams that counted.
    over_time
        Windows in order; the clip as a whole where it is shorter than one.
    timings_ms
        How long each step took.
    """

    file: str
    duration_s: float
    text: str
    text_source: TextSource
    transcript: Transcript | None
    faces: FacesSeen
    scores: Mapping[str, Score | None]
    labels: Mapping[str, str | int]
    modalities_used: tuple[str, ...]
    warnings: tuple[str, ...]
    timings_ms: Mapping[str, float]
    over_time: tuple[WindowScores, ...]
    pairs: Mapping[str, Score] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        heard = self.transcript
        asr = None
        if heard is not None:
            asr = {
                "backend": heard.backend,
                "language": heard.language,
                "confidence": heard.confidence,
                "segments": [asdict(segment) for segment in heard.segments],
            }
        return {
            "file": self.file,
            "duration_s": round(self.duration_s, 3),
            "text": self.text,
            "text_source": self.text_source,
            "asr": asr,
            "faces": asdict(self.faces),
            "scores": dict(self.scores),
            **({"pairs": dict(self.pairs)} if self.pairs else {}),
            **self.labels,
            "modalities_used": list(self.modalities_used),
            "warnings": list(self.warnings),
            "timings_ms": {name: round(took, 1) for name, took in self.timings_ms.items()},
            "over_time": [asdict(window) for window in self.over_time],
        }

    def to_json(self) -> str:
        """Write the prediction as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Streams:
    """What there is of a clip."""

    text: str
    segments: tuple[Segment, ...]
    audio: NDArray[np.float32] | None  # (n_frames, n_features)
    faces: FaceFeatures | None  # every picture, before any rule
    duration_s: float


class ClipPredictor:
    """Judges clips with one model; both it and the speech recogniser are loaded once.

    Parameters
    ----------
    model
        See :func:`serkit.sentiment_model.load_sentiment_model`.
    clip_config
        How frames are made; ``None``: as the checkpoint says.
    transcriber
        Asked for what is said where the user does not tell; ``None``: nobody is.

    Raises
    ------
    InputError
        If nobody knows how the frames are made, or those of ``clip_config`` are not what the model
        was trained on.
    """

    def __init__(
        self,
        model: SentimentModel,
        *,
        clip_config: ClipFeatureConfig | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        self.model = model
        self.clip_config = clip_config or stored_clip_config(model)
        self.transcriber = transcriber
        self._rules = self.clip_config.no_face, self._average_over()
        _refuse_other_sets(model, self.clip_config)

    def predict(
        self,
        path: Path | str | None = None,
        *,
        audio: Path | str | None = None,
        image: Path | str | None = None,
        text: str | None = None,
        without: Collection[str] = (),
    ) -> ClipPrediction:
        """Judge a clip.

        Parameters
        ----------
        path
            A video, a sound file or a picture.
        audio, image
            Where sound and pictures are taken from instead of ``path``.
        text
            What is said; then no speech recogniser is asked.
        without
            Streams to leave out: ``text``, ``audio``, ``vision``.

        Raises
        ------
        InputError
            If a file is missing, empty or broken, a stream in ``without`` is unknown, or nothing is
            left to judge.
        MissingExtraError
            If a package is not installed.
        """
        for name in without:
            if name not in STREAMS:
                raise InputError(f"without {name}: expected one of {', '.join(STREAMS)}")
        timings: dict[str, float] = {}
        warnings: list[str] = []
        with _timed(timings, "features"):
            found = self._features(path, audio, image, text)
        heard = None
        with _timed(timings, "transcription"):
            if text is None and "text" not in without:
                heard = self._hear(found, warnings)
        streams = self._streams(found, heard, text, without)
        file = str(path or audio or image or "")
        messages = found.messages if found is not None else ()
        with _timed(timings, "model"):
            try:
                judged = self._judge(streams, None)
            except InputError as error:
                raise InputError(f"{'; '.join(messages) or file}: {error}") from None
            pairs = self._pairs(streams, judged)
        with _timed(timings, "over_time"):
            windows = tuple(self._over_time(streams))
        return ClipPrediction(
            file=file,
            duration_s=streams.duration_s,
            text=streams.text,
            text_source=_source(streams.text, text),
            transcript=heard,
            faces=FacesSeen(*(0, 0) if found is None else (found.n_pictures, found.n_with_face)),
            scores={name: judged["scores"][key] for name, key in _KEYS.items()},
            labels={key: value for key, value in judged.items() if key.startswith("label")},
            modalities_used=tuple(judged["modalities_used"]),
            warnings=(*messages, *warnings, *judged["warnings"]),
            timings_ms=timings,
            over_time=windows,
            pairs=pairs,
        )

    def _average_over(self) -> int:
        config = self.clip_config
        known = VISION_SETS.get(config.vision)
        return config.average_over or (1 if known is None else known.average_over)

    def _features(
        self,
        path: Path | str | None,
        audio: Path | str | None,
        image: Path | str | None,
        text: str | None,
    ) -> ClipFeatures | None:
        """Compute the frames; pictures one by one, for windows to settle theirs alone."""
        config = replace(self.clip_config, no_face="zero", average_over=1)
        sound_path, picture_path = audio or path, image or path
        if sound_path is None and picture_path is None:
            if text is None:
                raise InputError("nothing to judge: name a clip, a sound file or a picture")
            return None
        if sound_path is not None and sound_path == picture_path:
            return read_clip_features(sound_path, config)
        sound, pictures = (
            None if one is None else read_clip_features(one, config)
            for one in (sound_path, picture_path)
        )
        if sound is None or pictures is None:
            return sound or pictures
        return replace(
            sound,
            vision=pictures.vision,
            vision_status=pictures.vision_status,
            face_present=pictures.face_present,
            n_pictures=pictures.n_pictures,
            n_with_face=pictures.n_with_face,
            messages=(*sound.messages, *pictures.messages),
        )

    def _hear(self, found: ClipFeatures | None, warnings: list[str]) -> Transcript | None:
        """Ask the speech recogniser, if there is one and anything to hear."""
        if self.transcriber is None or "text" not in self.model.config.modalities:
            return None
        waveform = _sound_of(found)
        if found is None or waveform is None:
            return None
        heard = self.transcriber.transcribe(waveform, found.sample_rate)
        if not heard.text.strip():
            warnings.append(f"the speech recogniser ({heard.backend}) heard no words")
        return heard

    def _streams(
        self,
        found: ClipFeatures | None,
        heard: Transcript | None,
        text: str | None,
        without: Collection[str],
    ) -> _Streams:
        said = text if text is not None else "" if heard is None else heard.text
        audio = faces = None
        if found is not None and found.audio_status == "ok" and "audio" not in without:
            audio = found.audio
        if found is not None and found.vision_status == "ok" and "vision" not in without:
            names = VISION_SETS[self.clip_config.vision].names
            flag = names.index(_FLAG) if _FLAG in names else None
            faces = FaceFeatures(found.vision, found.face_present, flag=flag)
        return _Streams(
            text="" if "text" in without else said.strip(),
            segments=heard.segments if heard is not None else (),
            audio=audio,
            faces=faces,
            duration_s=0.0 if found is None else found.duration_s,
        )

    def _judge(self, streams: _Streams, window: tuple[float, float] | None) -> dict[str, Any]:
        """Let the model judge the clip, or the part of it in a window."""
        text, audio, faces = streams.text, streams.audio, streams.faces
        if window is not None:
            text = _words_in(streams, window)
            audio = None if audio is None else _stretch(audio, streams.duration_s, window)
            if faces is not None:
                features = _stretch(faces.features, streams.duration_s, window)
                present = _stretch(faces.present, streams.duration_s, window)
                faces = replace(faces, features=features, present=present)
        vision = None
        if faces is not None and faces.present.any():
            no_face, average_over = self._rules
            vision = settle(faces, no_face=no_face, average_over=average_over).features
        judged = self.model.predict(text, audio, vision)
        return judged | {"scores": {k: self._on_scale(s) for k, s in judged["scores"].items()}}

    def _on_scale(self, score: Score | None) -> Score | None:
        """Bring a number that leaves the scale to its end: networks know no end."""
        if score is None or isinstance(score, Mapping):
            return score
        limit = SENTIMENT_LIMITS[self.model.config.scale]
        return min(max(score, -limit), limit)

    def _pairs(self, streams: _Streams, judged: Mapping[str, Any]) -> dict[str, Score]:
        """Ask a model of classes what two of three streams say."""
        if not self.model.config.classes or len(judged["modalities_used"]) < len(STREAMS):
            return {}
        less = {
            "text+audio": replace(streams, faces=None),
            "text+vision": replace(streams, audio=None),
            "audio+vision": replace(streams, text=""),
        }
        return {name: self._judge(two, None)["scores"]["M"] for name, two in less.items()}

    def _over_time(self, streams: _Streams) -> Iterator[WindowScores]:
        for start_s, end_s in _windows(streams.duration_s):
            try:
                scores = self._judge(streams, (start_s, end_s))["scores"]
            except InputError:  # nobody speaks and nobody is seen in this one
                scores = dict.fromkeys("MTAV")
            named = {name: scores[key] for name, key in _KEYS.items()}
            yield WindowScores(start_s=start_s, end_s=end_s, **named)


def stored_clip_config(model: SentimentModel) -> ClipFeatureConfig:
    """Find out how a model's frames are made: from the settings of their extraction.

    A checkpoint that names its feature sets alone is taken to have all other settings by default.

    Raises
    ------
    InputError
        If it names none, or one that is unknown.
    """
    names = {"acoustic": model.config.audio.made_by, "vision": model.config.vision.made_by}
    for kind, known in (("acoustic", ACOUSTIC_SETS), ("vision", VISION_SETS)):
        if names[kind] not in known:
            raise InputError(
                f"this model does not say which {kind} features it was trained on (got "
                f"'{names[kind]}', known are {', '.join(known)}): train one on the output of "
                "'serkit extract' to judge clips"
            )
    extraction = model.config.trained_on.get("extraction") or {}
    video = dict(extraction.get("video", {}))
    for key in ("set", "tables"):  # the first is known, the second belongs to the training clips
        video.pop(key, None)
    return checked(ClipFeatureConfig, names | video, where="trained_on.extraction")


def _refuse_other_sets(model: SentimentModel, config: ClipFeatureConfig) -> None:
    for kind, name, known in (
        ("acoustic", config.acoustic, ACOUSTIC_SETS),
        ("vision", config.vision, VISION_SETS),
    ):
        if name not in known:
            raise InputError(f"{kind} is '{name}', expected one of {', '.join(known)}")
    columns = {
        "audio": ACOUSTIC_SETS[config.acoustic].names(),
        "vision": VISION_SETS[config.vision].names,
    }
    for stream, names in columns.items():
        if stream not in model.config.modalities:
            continue
        own = model.config.audio if stream == "audio" else model.config.vision
        if len(names) != own.n_features:
            raise InputError(
                f"{stream} features have {len(names)} columns, this model reads {own.n_features}: "
                "extract them with the same feature set"
            )
        model.refuse_other_features(stream, names)


def read_clip_features(path: Path | str, config: ClipFeatureConfig) -> ClipFeatures:
    """Compute the features of a clip, and refuse one that cannot be decoded.

    Raises
    ------
    InputError
        If it cannot.
    """
    found = clip_features(path, config)
    if found.audio_status == found.vision_status == "decode_error":
        raise InputError("; ".join(found.messages))
    return found


def _sound_of(found: ClipFeatures | None) -> Waveform | None:
    if found is None or found.audio_status != "ok":
        return None
    return found.waveform


def _source(text: str, given: str | None) -> TextSource:
    if not text:
        return "none"
    return "asr" if given is None else "user"


def _words_in(streams: _Streams, window: tuple[float, float]) -> str:
    """Give the words said in a window; all of them where their times are not known."""
    if not streams.segments or not streams.text:
        return streams.text
    start_s, end_s = window
    inside = [one for one in streams.segments if one.start_s < end_s and one.end_s > start_s]
    between = " " if " " in streams.text else ""  # segments of Chinese are characters
    return between.join(one.text for one in inside)


def _stretch(rows: NDArray[Any], duration_s: float, window: tuple[float, float]) -> NDArray[Any]:
    """Give the rows of a window; a stream of one row, such as functionals, has it everywhere."""
    if len(rows) == 1 or duration_s <= 0:
        return rows
    start, stop = (round(len(rows) * min(1.0, time_s / duration_s)) for time_s in window)
    return rows[start : max(stop, start + 1)]


def _windows(duration_s: float) -> list[tuple[float, float]]:
    """Cut a clip into overlapping windows, the last of which ends with the clip."""
    if duration_s <= WINDOW_S:
        return [(0.0, round(duration_s, 3))]
    n_hops = int(np.ceil((duration_s - WINDOW_S) / HOP_S - 1e-9))
    starts = [min(number * HOP_S, duration_s - WINDOW_S) for number in range(n_hops + 1)]
    return [(round(start, 3), round(start + WINDOW_S, 3)) for start in starts]


# Many clips -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One file: a prediction, or the reason why there is none."""

    file: str
    prediction: ClipPrediction | None
    error: str = ""


def holds_sentiment_model(folder: Path | str) -> bool:
    """Tell whether a checkpoint folder, a run folder or a name is that of a model of clips."""
    return checkpoint_kind(folder) == KIND


def open_clip_predictor(
    model: Path | str, *, transcriber: str | None = None, transcriber_model: Path | None = None
) -> ClipPredictor:
    """Load a model of sentiment and, if one is named, a speech recogniser.

    Parameters
    ----------
    model
        Checkpoint or run folder.
    transcriber
        Key of :data:`serkit.inference.transcribe.BACKENDS`.
    transcriber_model
        Its folder.

    Raises
    ------
    InputError
        If one of them cannot be used.
    """
    listener = None
    if transcriber is not None:
        settings = TranscriberSettings(model=transcriber_model)
        listener = open_transcriber(transcriber, settings, cache_dir=default_cache_dir())
    return ClipPredictor(load_sentiment_model(model), transcriber=listener)


def predict_clips(
    predictor: ClipPredictor,
    files: Iterable[Path],
    *,
    texts: Mapping[Path, str] | None = None,
    without: Collection[str] = (),
) -> Iterator[ClipRow]:
    """Judge clips, in order; one that cannot be used costs its own row alone.

    Parameters
    ----------
    files
        As :func:`serkit.inference.files.collect_files` gives them.
    texts
        What is said in each file; a file without an entry is left to the speech recogniser.
    """
    for path in files:
        text = None if texts is None else texts.get(path)
        try:
            refuse_folder(path)
            yield ClipRow(str(path), predictor.predict(path, text=text, without=without))
        except InputError as error:
            yield ClipRow(str(path), None, str(error))


def format_clip_rows(rows: Sequence[ClipRow], output_format: str) -> str:
    """Write rows as text.

    Parameters
    ----------
    output_format
        ``json`` and ``jsonl`` hold everything; ``csv`` and ``table`` one row per clip, without the
        windows over time.

    Raises
    ------
    InputError
        If the format is unknown.
    """
    if output_format in ("json", "jsonl"):
        records = [
            {"file": row.file, "error": row.error}
            if row.prediction is None
            else row.prediction.to_dict()
            for row in rows
        ]
        if output_format == "json":
            return json.dumps(records, indent=2, ensure_ascii=False) + "\n"
        return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    if output_format == "csv":
        buffer = io.StringIO()
        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(key for one in flat for key in one))
        writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return buffer.getvalue()
    if output_format != "table":
        raise InputError(f"format {output_format}: expected table, csv, json or jsonl")
    return _aligned([_short(row) for row in rows])


def _flat(row: ClipRow) -> dict[str, object]:
    one = row.prediction
    if one is None:
        return {"file": row.file, "error": row.error}
    return {
        "file": row.file,
        "duration_s": f"{one.duration_s:.3f}",
        **_cells(one),
        **one.labels,
        "modalities_used": " ".join(one.modalities_used),
        "text_source": one.text_source,
        "text": one.text,
        "pictures": one.faces.frames,
        "with_face": one.faces.with_face,
        "warnings": "; ".join(one.warnings),
        "error": "",
    }


def _cells(one: ClipPrediction) -> dict[str, str]:
    """Lay scores out as cells; those of classes are called by the stream and the class."""
    fused = one.scores["fused"]
    cells: dict[str, str] = {}
    for name, score in {**one.scores, **one.pairs}.items():
        if not isinstance(fused, Mapping):
            cells[f"score_{name}"] = "" if score is None else f"{score:.4f}"
            continue
        values = score if isinstance(score, Mapping) else {}
        cells |= {
            f"score_{name}_{label}": f"{values[label]:.4f}" if label in values else ""
            for label in fused
        }
    return cells


def _short(row: ClipRow) -> list[str]:
    one = row.prediction
    if one is None:
        return [row.file, *["–"] * len(_KEYS), row.error]
    labels = one.labels
    label = labels.get("label") or labels.get("label_3") or labels["label_2"]
    return [row.file, *map(_brief, one.scores.values()), f"{label} {one.text}".rstrip()]


def _brief(score: Score | None) -> str:
    """Write a number, or the likeliest class with its probability."""
    if isinstance(score, Mapping):
        best = max(score, key=lambda name: score[name])
        return f"{best} {score[best]:.2f}"
    return "–" if score is None else f"{score:+.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    table = [["file", *_KEYS, "label, text"], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row[:-1], widths, strict=True)), row[-1]])
        for row in table
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = perf_counter()
    yield
    timings[name] = 1000 * (perf_counter() - started)
