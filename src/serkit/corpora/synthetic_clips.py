"""Synthetic clips of talking faces: voice, words and face, each with a sentiment that was planted.

It exists so that everything that reads clips can be tried and tested without a corpus, and so that
what a model finds can be compared with what was put in. It says nothing about people.

The folder is laid out as :mod:`.ch_sims` is released: ``label.csv``, ``Raw/video_0001/0001.mp4``.
Beside them ``synthetic_clips.json`` has the parameters and what each clip was made of. In a clip

* the **words** are a sentence with two words of :data:`WORDS`; the label of the text is the mean of
  the two;
* the **voice** is that of :func:`.synthetic.speak`: happy above 0, sad below, else neutral; beyond
  that, it is faster and higher the higher its label is, by up to a fifth;
* the **face** smiles and raises its brows as far as its label is positive, and frowns as far as it
  is negative; its mouth opens with the loudness of the sound.

The label of the clip is the mix of the three by :data:`SHARES`, rounded to CH-SIMS's steps of 0.2.
Where a stream is missing, its label is empty and the others share its part. In a chosen share of
clips one stream disagrees: it has the other sign than the rest.

On request the clips show emotions instead: angry, happy, neutral, sad. Words are those of
:data:`EMOTION_WORDS`, the voice is that of :func:`.synthetic.speak`, the face that of
:data:`EXPRESSIONS`. ``label.csv`` then has no numbers, but the emotion of the clip as
``annotation`` and those of its streams as ``annotation_T``, ``annotation_A`` and
``annotation_V``; where one stream disagrees, the clip has the emotion of the two others.

Speakers are the voices of :mod:`.synthetic`, each with a face of its own, and parts are made of
speakers: the last one is for test, the one before for dev. The same parameters and the same eSpeak
NG give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serkit.audio import Waveform, resample
from serkit.corpora import ch_sims
from serkit.corpora.drawn_face import draw_face
from serkit.corpora.labelled_clips import ClipCounts, LabelledClip
from serkit.corpora.manifest import CorpusError
from serkit.corpora.synthetic import UNSEEN, VOICES, engine_name, speak
from serkit.video import write_clip

TITLE = "Synthetic clips of talking faces"
LANGUAGE = "en"
LICENSE = "made on your machine by eSpeak NG (GPL-3.0, extra 'demo'); the clips are yours"
CITATION = ""
URL_HINT = "nothing to download: serkit extract makes its it"
MANNER = "synthetic"
QUIRKS = (
    "Not people: scores on it say that a system works, not how well it recognises sentiment.",
    "Faces are drawn, and so alike that finding them is easier than in any recording.",
)
EXPECTED = ClipCounts()
OPTIONS: tuple[str, ...] = ()

SHARES: Mapping[str, float] = {"T": 0.5, "A": 0.3, "V": 0.2}
"""Of each stream in the label of a clip."""

WORDS: Mapping[str, float] = {
    "horrible": -1.0, "terrible": -1.0, "awful": -0.8, "dreadful": -0.8, "bad": -0.6,
    "poor": -0.6, "dull": -0.4, "weak": -0.4, "slow": -0.2, "odd": -0.2, "plain": 0.0,
    "usual": 0.0, "fair": 0.2, "decent": 0.2, "nice": 0.4, "pleasant": 0.4, "good": 0.6,
    "charming": 0.6, "great": 0.8, "lovely": 0.8, "wonderful": 1.0, "brilliant": 1.0,
}  # fmt: skip
"""Words that carry a sentiment, and which."""

EMOTION_WORDS: Mapping[str, tuple[str, ...]] = {
    "angry": ("outrageous", "insulting", "infuriating", "unfair", "maddening"),
    "happy": ("wonderful", "delightful", "lovely", "brilliant", "joyful"),
    "neutral": ("usual", "plain", "ordinary", "regular", "common"),
    "sad": ("tragic", "mournful", "gloomy", "hopeless", "dismal"),
}
"""Words that carry an emotion."""

EXPRESSIONS: Mapping[str, tuple[float, float]] = {
    "angry": (-0.3, -0.9),
    "happy": (0.8, 0.5),
    "neutral": (0.0, 0.0),
    "sad": (-0.9, 0.5),
}
"""Curve of the mouth and height of the brows of a face that shows an emotion."""

MISSING = ("face", "pictures", "sound")
"""What a clip can be made without."""

_THINGS = ("story", "dinner", "journey", "garden", "music", "house", "letter", "picture")
_GONE = {"sound": "A", "face": "V", "pictures": "V"}  # the stream that then is not there
_FORMAT = 1  # raised when the same parameters make other clips
_PARAMETERS = "synthetic_clips.json"
_SAMPLE_RATE = 16_000  # Hz
_STEP = 0.2  # of labels
_SPEED = 0.2  # by which the voice of the highest label is faster and higher
_CLIPS_PER_VIDEO = 8
_COLUMNS = (
    "video_id", "clip_id", "text", "label", "label_T", "label_A", "label_V", "annotation", "mode",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLook:
    """Size and rate of the pictures.

    Attributes
    ----------
    height, width
        Pixels.
    fps
        Pictures per second.
    """

    height: int = 120
    width: int = 160
    fps: float = 12.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one clip is made of."""

    video: str
    clip: str
    speaker: str
    part: str
    labels: dict[str, float]  # of M and of the streams; NaN: not there, or emotions are shown
    emotions: dict[str, str]  # of M and of the streams; empty where a number is shown
    disagrees: str  # the stream, or ""
    missing: str  # one of MISSING, or ""
    text: str
    key: tuple[int, ...] = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.video}{ch_sims.SEPARATOR}{self.clip}"


def generate(
    root: Path | str,
    *,
    n_clips: int = 120,
    seed: int = 0,
    n_speakers: int = 6,
    disagree: float = 0.25,
    missing: Mapping[str, int] | None = None,
    emotions: Sequence[str] = (),
    look: ClipLook | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LabelledClip]:
    """Write the corpus into a folder, or read it where exactly this one is already there.

    Parameters
    ----------
    root
        A new or empty folder. The corpus appears in it complete or not at all.
    n_clips
        In all; ``n_speakers`` to 9999.
    seed
        Of all random variation.
    n_speakers
        3 to 6 voices, women and men in turn.
    disagree
        Share of the clips in which one stream contradicts the others.
    missing
        What of :data:`MISSING` how many clips lack.
    emotions
        Two or more of :data:`EMOTION_WORDS`, shown instead of numbers, each equally often.
    look
        Of the pictures.
    progress
        Called with (number done, number of all) after each clip.

    Returns
    -------
    clips as :func:`read` gives them

    Raises
    ------
    CorpusError
        If a number is out of bounds, or the folder holds something else.
    MissingExtraError
        If PyAV is not installed.
    """
    look = look or ClipLook()
    missing = dict(missing or {})
    _check(n_clips, seed, n_speakers, disagree, missing, emotions)
    parameters: dict[str, Any] = {
        "format": _FORMAT,
        "engine": engine_name(),
        "n_clips": n_clips,
        "seed": seed,
        "n_speakers": n_speakers,
        "disagree": disagree,
        "missing": missing,
        "look": asdict(look),
        "shares": dict(SHARES),
    }
    if emotions:
        parameters["emotions"] = list(emotions)
    root = Path(root).absolute()
    if _is_there(root, parameters):
        return read(root)
    plans = _plans(n_clips, seed, n_speakers, disagree, missing, emotions)
    with _workshop(root) as half_done:
        for number, plan in enumerate(plans, start=1):
            _write(half_done, plan, look)
            if progress is not None:
                progress(number, len(plans))
        (half_done / "label.csv").write_bytes(_label_csv(plans).encode())
        made = {plan.id: _made_of(plan) for plan in plans}
        content = json.dumps(parameters | {"clips": made}, indent=1) + "\n"
        (half_done / _PARAMETERS).write_text(content, encoding="utf-8")
    return read(root)


def read(root: Path | str) -> list[LabelledClip]:
    """Read a generated corpus.

    Raises
    ------
    CorpusError
        If the folder is missing, or holds nothing of the corpus.
    """
    root = Path(root)
    clips = ch_sims.read(root, release="other")
    try:
        made = (_read_parameters(root) or {})["clips"]
        return [replace(clip, speaker=str(made[clip.id]["speaker"])) for clip in clips]
    except (KeyError, TypeError):
        raise CorpusError(
            f"synthetic_clips: {root / _PARAMETERS} does not say what the clips of label.csv were "
            "made of: generate the corpus again"
        ) from None


def read_with_counts(root: Path | str) -> tuple[list[LabelledClip], ClipCounts]:
    """Read, and tell how many were generated."""
    clips = read(root)
    return clips, ClipCounts(n_clips=len((_read_parameters(Path(root)) or {})["clips"]))


def sentence(label: float, key: tuple[int, ...]) -> str:
    """Make a sentence whose two words of sentiment have this mean; the bar is a pause."""
    generator = np.random.default_rng(key)
    near = [
        (one, other)
        for one, low in WORDS.items()
        for other, high in WORDS.items()
        if one != other and abs((low + high) / 2 - label) < 0.01 and abs(low - high) < 0.5
    ]
    one, other = near[generator.integers(len(near))]
    first, second = generator.permutation(_THINGS)[:2]
    return f"The {first} was {one} | and the {second} was {other}."


def emotion_sentence(emotion: str, key: tuple[int, ...]) -> str:
    """Make a sentence with two words of an emotion; the bar is a pause."""
    generator = np.random.default_rng(key)
    one, other = generator.permutation(EMOTION_WORDS[emotion])[:2]
    first, second = generator.permutation(_THINGS)[:2]
    return f"The {first} was {one} | and the {second} was {other}."


# Plan -----------------------------------------------------------------------------------------


def _plans(
    n_clips: int,
    seed: int,
    n_speakers: int,
    disagree: float,
    missing: Mapping[str, int],
    emotions: Sequence[str] = (),
) -> list[_Plan]:
    generator = np.random.default_rng((seed, _FORMAT))
    speakers = [name for name in VOICES if name not in UNSEEN][:n_speakers]
    parts = ["train"] * (n_speakers - 2) + ["dev", "test"]
    lacking = [what for what in MISSING for _ in range(missing.get(what, 0))]
    lacks = dict(zip(generator.permutation(n_clips).tolist(), lacking, strict=False))
    against = set(generator.permutation(n_clips)[: round(disagree * n_clips)].tolist())
    plans: list[_Plan] = []
    n_videos = 0
    for number, (speaker, part) in enumerate(zip(speakers, parts, strict=True)):
        own = range(number, n_clips, n_speakers)
        for place, clip in enumerate(own):
            n_videos += place % _CLIPS_PER_VIDEO == 0
            lack = lacks.get(clip, "")
            key = (seed, _FORMAT, clip)
            shown: dict[str, str] = {}
            if emotions:
                meant = emotions[place % len(emotions)]
                shown, odd = _emotions(generator, meant, emotions, lack, disagrees=clip in against)
                labels, text = (
                    dict.fromkeys(("M", *SHARES), np.nan),
                    emotion_sentence(shown["T"], key),
                )
            else:
                labels, odd = _labels(generator, lack, disagrees=clip in against)
                text = sentence(labels["T"], key)
            plans.append(
                _Plan(
                    video=f"video_{n_videos:04}",
                    clip=f"{place % _CLIPS_PER_VIDEO + 1:04}",
                    speaker=speaker,
                    part=part,
                    labels=labels,
                    emotions=shown,
                    disagrees=odd,
                    missing=lack,
                    text=text,
                    key=key,
                )
            )
    return plans


def _labels(
    generator: np.random.Generator, lack: str, *, disagrees: bool
) -> tuple[dict[str, float], str]:
    """Draw the labels of a clip, and which stream contradicts the others."""
    intent = int(generator.integers(-5, 6))  # in steps
    odd = ""
    if disagrees:
        odd = ("T", "A", "V")[generator.integers(3)]
        intent = int(generator.integers(2, 6)) * (1 if intent >= 0 else -1)
    steps = {}
    for stream in SHARES:
        varied = int(np.clip(intent + generator.integers(-1, 2), -5, 5))
        steps[stream] = -varied if stream == odd else varied
    gone = _GONE.get(lack)
    there = {stream: share for stream, share in SHARES.items() if stream != gone}
    mixed = sum(share * steps[stream] for stream, share in there.items()) / sum(there.values())
    labels = {"M": _STEP * round(mixed)}
    labels |= {s: _STEP * n if s in there else float("nan") for s, n in steps.items()}
    return {name: round(value, 1) + 0.0 for name, value in labels.items()}, (
        odd if odd != gone else ""
    )


def _emotions(
    generator: np.random.Generator,
    meant: str,
    emotions: Sequence[str],
    lack: str,
    *,
    disagrees: bool,
) -> tuple[dict[str, str], str]:
    """Choose the emotion of each stream that is there, and which of three is the odd one."""
    gone = _GONE.get(lack)
    shown = {"M": meant} | {stream: meant for stream in SHARES if stream != gone}
    if not disagrees or gone is not None:  # of two, nobody could say which is the odd one
        return shown, ""
    odd = ("T", "A", "V")[generator.integers(3)]
    shown[odd] = str(generator.choice([other for other in emotions if other != meant]))
    return shown, odd


# Clips ----------------------------------------------------------------------------------------


def _write(root: Path, plan: _Plan, look: ClipLook) -> None:
    waveform = _voice(plan)
    pictures = None if plan.missing == "pictures" else _pictures(plan, waveform, look)
    path = root / "Raw" / plan.video / f"{plan.clip}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(
        path,
        pictures,
        fps=look.fps,
        waveform=None if plan.missing == "sound" else waveform,
        sample_rate=_SAMPLE_RATE,
    )


def _voice(plan: _Plan) -> Waveform:
    """Say the sentence; of a clip without sound it moves the mouth alone."""
    label = np.nan_to_num(plan.labels["A"])
    emotion = "neutral" if label == 0 else "happy" if label > 0 else "sad"
    if plan.emotions:
        emotion = plan.emotions.get("A", "neutral")
    said, _ = speak(
        plan.text,
        plan.speaker,
        emotion,
        seed=10_000 * plan.key[0] + plan.key[-1],
        sample_rate=_SAMPLE_RATE,
    )
    # Played at another speed: both faster and higher, or slower and lower.
    return resample(said, round(_SAMPLE_RATE * (1 + _SPEED * label)), _SAMPLE_RATE)


def _pictures(plan: _Plan, waveform: Waveform, look: ClipLook) -> Iterator[NDArray[np.uint8]]:
    """Draw the speaker's face, picture by picture, talking."""
    generator = np.random.default_rng((*plan.key, 1))
    own = np.random.default_rng((plan.key[0], list(VOICES).index(plan.speaker)))
    tone, size = own.uniform(0.5, 0.9), own.uniform(0.72, 0.85)
    label = float(np.nan_to_num(plan.labels["V"]))
    expression = EXPRESSIONS[plan.emotions.get("V", "neutral")] if plan.emotions else (label, label)
    curve, brow = (float(np.clip(x + generator.normal(0, 0.05), -1, 1)) for x in expression)
    sway = generator.uniform(0.2, 0.6), generator.uniform(0, 2 * np.pi)  # per second; phase
    opening = _openings(waveform, look.fps)
    for number, mouth_open in enumerate(opening):
        turn = 2 * np.pi * sway[0] * number / look.fps + sway[1]
        if plan.missing == "face":
            shade = int(128 + 40 * np.sin(turn))
            yield np.full((look.height, look.width, 3), shade, dtype=np.uint8)
            continue
        yield draw_face(
            (look.height, look.width),
            centre=(0.5 + 0.04 * float(np.sin(turn)), 0.5 + 0.01 * float(np.cos(2 * turn))),
            size=float(size),
            tone=float(tone),
            mouth_curve=curve,
            mouth_open=float(mouth_open),
            brow=brow,
        )


def _openings(waveform: Waveform, fps: float) -> NDArray[np.float64]:
    """Give the opening of the mouth in each picture: its loudness against the loudest."""
    n_pictures = max(1, int(len(waveform) / _SAMPLE_RATE * fps))
    pieces = np.array_split(waveform.astype(np.float64), n_pictures)
    loudness = np.sqrt([float(np.mean(piece**2)) for piece in pieces])
    return np.asarray(np.clip(loudness / max(loudness.max(), 1e-6), 0, 1))


# Files ----------------------------------------------------------------------------------------


def _label_csv(plans: list[_Plan]) -> str:
    def cell(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.1f}"

    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    of_emotion = bool(plans[0].emotions)
    named = tuple(f"annotation_{stream}" for stream in SHARES) if of_emotion else ()
    table.writerow((*_COLUMNS, *named))
    for plan in plans:
        label = plan.labels["M"]
        annotation = "Neutral" if label == 0 else "Positive" if label > 0 else "Negative"
        annotation = plan.emotions.get("M", annotation)
        shown = [plan.emotions.get(stream, "") for stream in SHARES] if of_emotion else []
        labels = [cell(plan.labels[name]) for name in ("M", "T", "A", "V")]
        mode = "valid" if plan.part == "dev" else plan.part
        words = " ".join(plan.text.replace("|", " ").split())
        table.writerow([plan.video, plan.clip, words, *labels, annotation, mode, *shown])
    return text.getvalue()


def _made_of(plan: _Plan) -> dict[str, str]:
    return {"speaker": plan.speaker, "disagrees": plan.disagrees, "missing": plan.missing}


def _read_parameters(root: Path) -> dict[str, Any] | None:
    try:
        parameters = json.loads((root / _PARAMETERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return parameters if isinstance(parameters, dict) else None


def _is_there(root: Path, parameters: Mapping[str, Any]) -> bool:
    """Tell whether exactly this corpus is there; refuse a folder with anything else in it."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _read_parameters(root)
    if found is None:
        raise CorpusError(
            f"{root}: holds something else than synthetic clips: choose a new or empty folder"
        )
    found.pop("clips", None)
    if found != parameters:
        raise CorpusError(
            f"{root}: holds synthetic clips of other parameters: choose another folder, or delete "
            "this one"
        )
    missing = [clip.path for clip in read(root) if not clip.path.is_file()]
    if missing:
        raise CorpusError(f"{missing[0]}: is missing: delete {root} and generate it again")
    return True


@contextmanager
def _workshop(root: Path) -> Iterator[Path]:
    """Give a folder beside the corpus, which takes its place when all went well."""
    root = root.resolve()  # a link to a folder stays a link
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    except OSError as error:
        raise CorpusError(
            f"{root}: cannot be made ({error.strerror}): choose a folder you may write to"
        ) from None
    try:
        half_done = folder / "corpus"
        half_done.mkdir()
        yield half_done
        if root.exists():  # and is empty
            root.rmdir()
        os.replace(half_done, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(
    n_clips: int,
    seed: int,
    n_speakers: int,
    disagree: float,
    missing: Mapping[str, int],
    emotions: Sequence[str],
) -> None:
    n_voices = len(VOICES) - len(UNSEEN)
    for name, value, low, high in (
        ("n_speakers", n_speakers, 3, n_voices),
        ("n_clips", n_clips, n_speakers, 9999),
        ("seed", seed, 0, 2**32 - 1),
        ("disagree", disagree, 0, 1),
        ("the number of clips that lack something", sum(missing.values()), 0, n_clips),
    ):
        if not low <= value <= high:
            raise CorpusError(f"synthetic_clips: {name} = {value}: expected {low} to {high}")
    for what, number in missing.items():
        if what not in MISSING or number < 0:
            raise CorpusError(
                f"synthetic_clips: missing {what} = {number}: expected a number of clips for "
                f"{', '.join(MISSING)}"
            )
    if emotions and (len(set(emotions)) < 2 or not set(emotions) <= EMOTION_WORDS.keys()):
        raise CorpusError(
            f"synthetic_clips: emotions {', '.join(emotions)}: expected two or more of "
            f"{', '.join(EMOTION_WORDS)}"
        )
