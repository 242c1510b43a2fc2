r"""CMU Multimodal Opinion Sentiment and Emotion Intensity (CMU-MOSEI), English, 2018.

About a thousand people speak their opinion into a camera, in more than three thousand videos taken
from the web and cut into sentences: 23 453 sentences of 3228 videos in the paper, somewhat fewer
sentences of 3293 videos in the label file as it was handed out later. Every sentence was rated by
three people for sentiment and for six emotions, from 0 (not there) to 3 (strongly there); the file
holds the means.

Labels come from the computational sequence ``CMU_MOSEI_Labels.csd`` of the CMU Multimodal SDK, an
HDF5 file with, for each video, ``intervals`` (start and end in seconds) and ``features``
(sentiment, happy, sad, anger, surprise, disgust, fear). A clip is an utterance: that stretch of
``Audio/Full/WAV_16000/<video>.wav``, or of a sound file of that name anywhere below the root. It is
called ``<video>_<j>``, where j counts the video's intervals from 0 as they are stored, which is not
their order in time. Words come from ``Transcript/Segmented/Combined/<video>.txt`` where a line has
the clip's times.

Where there is no ``.csd``, the option ``labels`` names a table instead, with the columns video,
start, end, happy, sad, angry, surprise, disgust, fear; or, for clips that were cut already, file
(``<video>_<j>.wav``) and the six scores.

The means become labels by a rule, :func:`label_of`, for four classes: angry, happy, neutral, sad.
Clips that it drops are left out.

The release names no speakers, so the video stands for one. ``speaker_folds`` and the dev rule
``speaker`` keep videos apart. ``leave_one_speaker_out`` and ``leave_one_session_out`` would do so
too, in thousands of folds. The SDK's own partition is not in the label file: the option ``folds``
names the file that holds it, for the split ``official``.
"""

from __future__ import annotations

import ast
import csv
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from serkit.audio import SOUND_SUFFIXES, AudioError, find_sound_files, probe
from serkit.corpora.manifest import CorpusCounts, CorpusError, require_folder, sort_utterances
from serkit.types import MissingExtraError, Utterance

TITLE = "CMU Multimodal Opinion Sentiment and Emotion Intensity (CMU-MOSEI)"
LANGUAGE = "en"
LICENSE = "for research; the videos belong to those who made them"
CITATION = (
    "A. Zadeh, P. P. Liang, S. Poria, E. Cambria, L.-P. Morency: Multimodal Language Analysis in "
    "the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph. ACL 2018, 2236-2246"
)
URL_HINT = "http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/"
MANNER = "natural"
EXPECTED = CorpusCounts()
NAMES = (
    "Audio/Full/WAV_16000/--qXJuDtHPw.wav",
    "Audio/Full/WAV_16000/-3g5yACwYnA.wav",
    "Audio/Full/WAV_16000/102858.wav",
    "Audio/Full/WAV_16000/_0efYOjQYRc.wav",
    "Audio/Full/WAV_16000/hh04W3xXa5s.wav",
)
QUIRKS = (
    "The release names no speakers: a video has mostly one, and one person may have several "
    "videos, so folds that keep videos apart do not always keep people apart.",
    "Labels are means of three raters' scores, made into classes by a threshold; clips whose "
    "raters disagree are left out, which makes the task easier.",
    "Neighbouring clips of one video may overlap in time.",
    "In some long videos the intervals are said to miss the words they were made for.",
)
IGNORED = ("*Audio/Full/*", "Full/*", "WAV_16000/*")
OPTIONS = ("threshold", "multi_label", "conflicts", "labels", "folds")

Conflicts = Literal["argmax", "first_two"]

logger = logging.getLogger(__name__)

_EMOTIONS = ("happy", "sad", "angry", "surprise", "disgust", "fear")
_CLASSES = ("happy", "sad", "angry")
_NEUTRAL_BELOW = 0.3  # with three raters: nobody saw anything
_HIGHEST_SCORE = 3.0
_SHORTEST_S = 0.1
_SLACK_S = 0.05  # how far written times differ: clip and transcript, clip and end of recording
_MAX_INTERVALS = 100_000  # of one video; the longest of the release has fewer than a hundred
_MAX_FOLDS_BYTES = 1_000_000  # the SDK's file has fewer than fifty thousand
_LABELS = "CMU_MOSEI_Labels.csd"
_COLUMNS = {
    "video": ("video", "video_id", "file", "clip", "name"),
    "start": ("start", "start_s", "start_time"),
    "end": ("end", "end_s", "end_time"),
    "happy": ("happy", "happiness"),
    "sad": ("sad", "sadness"),
    "angry": ("angry", "anger"),
    "surprise": ("surprise",),
    "disgust": ("disgust",),
    "fear": ("fear",),
}
_TIMES = ("start", "end")
_PART_NAMES = {
    "train": ("train", "standard_train_fold"),
    "dev": ("dev", "valid", "standard_valid_fold"),
    "test": ("test", "standard_test_fold"),
}


def label_of(
    scores: Sequence[float],
    *,
    threshold: float = 0.5,
    multi_label: bool = False,
    conflicts: Conflicts = "argmax",
) -> str | None:
    """Make one label of the raters' mean scores; ``None``: the clip is left out.

    Parameters
    ----------
    scores : (6,), in [0, 3]
        Of happy, sad, angry, surprise, disgust, fear.
    threshold
        An emotion is there if its score lies above. Published: 0.3, 0.5, 1.0.
    multi_label
        Join happy, sad and angry, where several are there, in alphabetical order.
    conflicts
        Which of them counts otherwise: ``argmax`` the highest, ``first_two``, as published, the
        higher one of the first two in the order of ``scores``, whatever the third. Of two equal
        ones neither.

    Where nothing is there the clip is neutral if all scores are below 0.3, else its raters
    disagree. Surprise, disgust and fear are no classes: alone they leave the clip out.

    >>> label_of([0, 0, 0, 0, 0, 0]), label_of([1 / 3, 0, 0, 0, 0, 0])
    ('neutral', None)
    >>> label_of([1, 2, 0, 3, 0, 0]), label_of([1, 1, 0, 0, 0, 0])
    ('sad', None)
    >>> scores = [1, 2 / 3, 2, 0, 0, 0]
    >>> label_of(scores), label_of(scores, conflicts="first_two")
    ('angry', 'happy')
    >>> label_of(scores, multi_label=True), label_of(scores, threshold=1.0)
    ('angry+happy+sad', 'angry')
    """
    by_emotion = dict(zip(_EMOTIONS, scores, strict=True))
    if max(scores) <= threshold:
        return "neutral" if max(scores) < _NEUTRAL_BELOW else None
    there = [name for name in _CLASSES if by_emotion[name] > threshold]
    if multi_label:
        return "+".join(sorted(there)) or None
    if conflicts == "first_two":
        there = there[:2]
    highest = max((by_emotion[name] for name in there), default=0.0)
    winners = [name for name in there if by_emotion[name] == highest]
    return winners[0] if len(winners) == 1 else None


def read(
    root: Path,
    *,
    threshold: float = 0.5,
    multi_label: bool = False,
    conflicts: Conflicts = "argmax",
    labels: Path | str | None = None,
    folds: Path | str | None = None,
) -> list[Utterance]:
    """Read the clips that the label rule keeps.

    Parameters
    ----------
    root
        The folder that holds the labels and ``Audio``.
    threshold, multi_label, conflicts
        The rule: see :func:`label_of`.
    labels
        The label file, ``.csd`` or ``.csv``, below the root or anywhere; by default the one
        ``CMU_MOSEI_Labels.csd`` below the root.
    folds
        The official partition: JSON, lists of videos called train, dev and test, or the SDK's
        ``cmu_mosei_std_folds.py``, which is read and never executed. Clips of videos in none of the
        lists are left out.

    Returns
    -------
    utterances whose stretch lies within the recording: what reaches beyond it is cut off, and what
    then lasts less than 0.1 s is left out, as are clips without recording. A line of the log counts
    what was left out.

    Raises
    ------
    MissingExtraError
        If the labels are in a ``.csd`` and h5py is not installed.
    CorpusError
        If an option has no meaning, the label file or the folds are missing, damaged or something
        else, or no clip is left.
    """
    return read_with_counts(
        root,
        threshold=threshold,
        multi_label=multi_label,
        conflicts=conflicts,
        labels=labels,
        folds=folds,
    )[0]


def read_with_counts(
    root: Path,
    *,
    threshold: float = 0.5,
    multi_label: bool = False,
    conflicts: Conflicts = "argmax",
    labels: Path | str | None = None,
    folds: Path | str | None = None,
) -> tuple[list[Utterance], CorpusCounts]:
    """Read as :func:`read` does, and count what there would be with every labelled recording."""
    root = require_folder(root, "cmu_mosei")
    _check_rule(threshold, multi_label=multi_label, conflicts=conflicts)
    clips = _read_clips(_find_labels(root) if labels is None else _locate(root, labels, "labels"))
    parts = None if folds is None else _read_folds(_locate(root, folds, "folds"))
    sounds = {path.stem: path for path in reversed(find_sound_files(root))}
    transcripts = _Transcripts(root)
    durations = _Durations()
    utterances: list[Utterance] = []
    lost: list[_Clip] = []
    left_out: Counter[str] = Counter()
    for clip in clips:
        if parts is not None and clip.video not in parts:
            left_out["in none of the folds"] += 1
            continue
        if not clip.is_sound():
            left_out["without sound scores and times"] += 1
            continue
        label = label_of(
            clip.scores, threshold=threshold, multi_label=multi_label, conflicts=conflicts
        )
        if label is None:
            left_out["dropped by the label rule"] += 1
            continue
        if clip.sound not in sounds:
            lost.append(clip)
            left_out["without recording"] += 1
            continue
        path = sounds[clip.sound]
        stretch = _stretch(clip, durations.of(path))
        if stretch is None:
            left_out["outside their recording"] += 1
            continue
        utterances.append(
            Utterance(
                id=clip.id,
                path=path,
                corpus="cmu_mosei",
                label=label,
                speaker=clip.video,
                start_s=stretch[0],
                end_s=stretch[1],
                transcript=transcripts.of(clip),
                language=LANGUAGE,
                session=clip.video,
                dialogue=clip.video,
                official_part=parts[clip.video] if parts else None,
            )
        )
    said = ", ".join(f"{n} {why}" for why, n in left_out.items()) or "none left out"
    if not utterances:
        raise CorpusError(
            f"cmu_mosei: none of {len(clips)} labelled clips below {root} can be used ({said}): "
            f"expected recordings such as {NAMES[0]} ({', '.join(SOUND_SUFFIXES)}) of the videos "
            "in the label file"
        )
    logger.info("cmu_mosei: %d of %d clips are read; %s", len(utterances), len(clips), said)
    counts = CorpusCounts(
        n_utterances=len(utterances) + len(lost),
        n_speakers=len({one.speaker for one in utterances} | {clip.video for clip in lost}),
    )
    return sort_utterances(utterances), counts


@dataclass(frozen=True, slots=True)
class _Clip:
    """A line of the label file; ``end_s`` is ``None`` for a clip that is a file of its own."""

    id: str
    video: str
    sound: str  # name of the sound file, without suffix
    start_s: float
    end_s: float | None
    scores: tuple[float, ...]

    def is_sound(self) -> bool:
        """Whether the scores are means of ratings and the times a stretch."""
        in_time = self.end_s is None or -math.inf < self.start_s < self.end_s < math.inf
        return in_time and all(0 <= score <= _HIGHEST_SCORE for score in self.scores)


class _Durations:
    """Seconds of each recording, opened once; ``None`` where it cannot be opened."""

    def __init__(self) -> None:
        self._known: dict[Path, float | None] = {}

    def of(self, path: Path) -> float | None:
        if path not in self._known:
            try:
                self._known[path] = probe(path).duration_s
            except AudioError:  # verify_audio names what is wrong with the file
                self._known[path] = None
        return self._known[path]


class _Transcripts:
    """The words of the clips, where the release's transcripts are there."""

    def __init__(self, root: Path) -> None:
        folders = sorted(root.glob("**/Transcript/Segmented/Combined"))
        self._folder = folders[0] if folders else None
        self._lines: dict[str, list[tuple[float, float, str]]] = {}

    def of(self, clip: _Clip) -> str | None:
        if self._folder is None or clip.end_s is None:
            return None
        if clip.video not in self._lines:
            path = self._folder / f"{clip.video}.txt"
            self._lines[clip.video] = list(_transcript(path)) if path.is_file() else []
        for start_s, end_s, words in self._lines[clip.video]:
            if abs(start_s - clip.start_s) < _SLACK_S and abs(end_s - clip.end_s) < _SLACK_S:
                return words
        return None


def _transcript(path: Path) -> Iterator[tuple[float, float, str]]:
    """Read lines of ``video___j___start___end___words``; others are passed over."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        cells = line.split("___", 4)
        if len(cells) != 5:
            continue
        start_s, end_s = _number(cells[2]), _number(cells[3])
        if start_s is not None and end_s is not None:
            yield start_s, end_s, cells[4].strip()


def _stretch(clip: _Clip, duration_s: float | None) -> tuple[float, float | None] | None:
    """Cut a clip's times to its recording; ``None`` where nothing is left."""
    if clip.end_s is None:
        return 0.0, None
    start_s = max(clip.start_s, 0.0)
    end_s = clip.end_s if duration_s is None else min(clip.end_s, duration_s)
    return (start_s, end_s) if end_s - start_s >= _SHORTEST_S else None


def _check_rule(threshold: object, *, multi_label: object, conflicts: object) -> None:
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not (is_number and 0 < threshold < _HIGHEST_SCORE):  # type: ignore[operator]
        raise CorpusError(
            f"cmu_mosei: threshold = {threshold}: expected a number between 0 and 3, such as 0.5"
        )
    if not isinstance(multi_label, bool):
        raise CorpusError(f"cmu_mosei: multi_label = {multi_label}: expected true or false")
    if conflicts not in get_args(Conflicts):
        raise CorpusError(
            f"cmu_mosei: conflicts = {conflicts}: expected {' or '.join(get_args(Conflicts))}"
        )
    if multi_label and conflicts != "argmax":
        raise CorpusError(
            f"cmu_mosei: conflicts = {conflicts} has no meaning with multi_label, where several "
            "emotions do not conflict: leave one of them out"
        )


# Files ----------------------------------------------------------------------------------------


def _locate(root: Path, name: Path | str, option: str) -> Path:
    """Find the file that an option names, below the root or anywhere."""
    if not isinstance(name, str | Path):
        raise CorpusError(f"cmu_mosei: {option} = {name}: expected the path of a file")
    path = root / Path(name).expanduser()
    if not path.is_file():
        raise CorpusError(
            f"cmu_mosei: no file {path}: the option {option} is the path of a file, absolute or "
            "from the corpus folder"
        )
    return path


def _find_labels(root: Path) -> Path:
    found = [
        path
        for path in sorted(root.rglob("*.csd"))
        if "label" in path.name.lower() and not path.name.startswith(".")
    ]
    named = [path for path in found if path.name == _LABELS] or found
    if not named:
        raise CorpusError(
            f"cmu_mosei: no {_LABELS} below {root}: get it with the CMU Multimodal SDK, or name "
            "another label file with the option labels"
        )
    if named[0].name != _LABELS and len(named) > 1:
        raise CorpusError(
            f"cmu_mosei: several label files below {root} ({named[0].name}, {named[1].name}): name "
            "one with the option labels"
        )
    return named[0]


def _read_clips(path: Path) -> list[_Clip]:
    """Read every clip of a label file, in its order; ids are unique."""
    is_table = path.suffix.lower() in (".csv", ".tsv")
    clips = _clips_of_table(path) if is_table else _clips_of_sequence(path)
    twice = [name for name, n in Counter(clip.id for clip in clips).items() if n > 1]
    if twice:
        raise CorpusError(f"{path}: the clip '{twice[0][:40]}' stands there twice: delete one")
    return clips


def _clips_of_sequence(path: Path) -> list[_Clip]:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError(
            "h5py", extra="cmu-mosei", needed_for=f"reading {path.name} of CMU-MOSEI"
        ) from None
    try:
        with h5py.File(path, "r") as file:
            data = _data_of_sequence(path, file)
            return [clip for video in data for clip in _clips_of_video(path, data, video)]
    except CorpusError:
        raise
    # h5py reports damage with any of these, depending on where it is.
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CorpusError(
            f"{path}: not an HDF5 file, or a damaged one ({reason}): get {_LABELS} again"
        ) from None


def _data_of_sequence(path: Path, file: Any) -> Any:
    """Return the group ``data`` of the only computational sequence in a file."""
    import h5py

    sequences = [name for name in file if isinstance(file.get(f"{name}/data"), h5py.Group)]
    if len(sequences) != 1:
        raise CorpusError(
            f"{path}: expected one computational sequence, such as 'All Labels', with a group "
            f"'data', got {len(sequences)}: is this {_LABELS}?"
        )
    return file[sequences[0]]["data"]


def _clips_of_video(path: Path, data: Any, video: str) -> list[_Clip]:
    intervals = _matrix(path, data, f"{video}/intervals", n_columns=2)
    features = _matrix(path, data, f"{video}/features", n_columns=1 + len(_EMOTIONS))
    if len(intervals) != len(features):
        raise CorpusError(
            f"{path}: the video '{video[:40]}' has {len(intervals)} intervals and {len(features)} "
            f"rows of scores, expected as many: get {_LABELS} again"
        )
    return [
        _Clip(f"{video}_{j}", video, video, float(start_s), float(end_s), tuple(row[1:].tolist()))
        for j, ((start_s, end_s), row) in enumerate(zip(intervals, features, strict=True))
    ]


def _matrix(path: Path, data: Any, name: str, *, n_columns: int) -> NDArray[np.float64]:
    """Read numbers, after a look at their shape: a damaged file may promise any size."""
    import h5py

    found = data.get(name)
    fits = (
        isinstance(found, h5py.Dataset)
        and found.dtype.kind in "fiu"
        and found.ndim == 2
        and found.shape[0] <= _MAX_INTERVALS
        and found.shape[1] == n_columns
    )
    if not fits:
        raise CorpusError(
            f"{path}: '{name[:60]}' is {str(found)[:80]}, expected numbers of shape (n, "
            f"{n_columns}): is this {_LABELS}?"
        )
    return np.asarray(found[()], dtype=np.float64)


def _clips_of_table(path: Path) -> list[_Clip]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            where = _columns(path, reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: not a UTF-8 table of labels ({error})") from None
    clips = []
    n_before: Counter[str] = Counter()
    for number, row in rows:
        name = PurePosixPath((row[where["video"]] or "").replace("\\", "/"))
        sound = name.stem if name.suffix.lower() in SOUND_SUFFIXES else name.name
        if not sound:
            raise CorpusError(f"{path}, line {number}: the clip has no name: fill in the cell")
        cells = {key: _cell(path, number, row, where[key]) for key in where if key != "video"}
        scores = tuple(cells[emotion] for emotion in _EMOTIONS)
        if "start" in where:
            j = n_before[sound]
            n_before[sound] += 1
            clip = _Clip(f"{sound}_{j}", sound, sound, cells["start"], cells["end"], scores)
        else:
            clip = _Clip(sound, sound.rpartition("_")[0] or sound, sound, 0.0, None, scores)
        clips.append(clip)
    return clips


def _columns(path: Path, found: Sequence[str]) -> dict[str, str]:
    """Find the table's columns by their usual names; start and end only together."""
    lowered = {column.strip().lower(): column for column in reversed(found)}
    where = {
        key: lowered[next(name for name in names if name in lowered)]
        for key, names in _COLUMNS.items()
        if not lowered.keys().isdisjoint(names)
    }
    timed = "start" in where or "end" in where
    missing = [key for key in _COLUMNS if key not in where and (timed or key not in _TIMES)]
    if missing:
        raise CorpusError(
            f"{path}: the column {missing[0]} is missing; a table of labels has the columns video, "
            f"start, end, {', '.join(_EMOTIONS)}, got {','.join(found) or 'an empty file'}"
        )
    return where


def _cell(path: Path, number: int, row: Mapping[str, str | None], column: str) -> float:
    text = (row[column] or "").strip()
    value = _number(text) if text else math.nan
    if value is None:
        raise CorpusError(
            f"{path}, line {number}: '{text[:40]}' in the column {column} is not a number"
        )
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_folds(path: Path) -> dict[str, str]:
    """Read the official partition: video -> train, dev or test."""
    help_ = "expected lists of videos called train, dev and test in JSON, or the SDK's Python file"
    try:
        if path.stat().st_size > _MAX_FOLDS_BYTES:
            raise CorpusError(f"{path}: {path.stat().st_size} bytes are no folds; {help_}")
        text = path.read_text(encoding="utf-8-sig")
        lists = _assigned(text) if path.suffix.lower() == ".py" else json.loads(text)
    except (OSError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, CorpusError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise CorpusError(f"{path}: cannot be read ({reason}); {help_}") from None
    if not isinstance(lists, dict):
        raise CorpusError(f"{path}: got a {type(lists).__name__}; {help_}")
    part_of: dict[str, str] = {}
    for part, names in _PART_NAMES.items():
        videos = next((lists[name] for name in names if name in lists), None)
        if not isinstance(videos, list) or not all(isinstance(one, str) for one in videos):
            raise CorpusError(f"{path}: no list of videos for the part {part}; {help_}")
        for video in videos:
            if part_of.setdefault(video, part) != part:
                raise CorpusError(
                    f"{path}: the video '{video[:40]}' is in {part_of[video]} and in {part}: "
                    "delete one"
                )
    return part_of


def _assigned(source: str) -> dict[str, Any]:
    """Read the lists that a Python file assigns to the SDK's names, without running it."""
    wanted = {name for names in _PART_NAMES.values() for name in names}
    return {
        target.id: ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name) and target.id in wanted
    }
