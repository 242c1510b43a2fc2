"""Features of the face in a clip, frame by frame: three sources, no model in the package.

* ``opencv_lite`` needs no model file: a box from OpenCV's frontal-face cascade, followed through
  the clip, and what 48 x 48 pixels of it show: brightness and edges on a grid of 4 x 4 cells, and
  the motion since the frame before (Farneback's optical flow). 93 columns. It is weak and honest:
  it sees profiles badly, and where there are several faces it takes the one that is largest for
  longest.
* ``openface709`` and ``openface177`` read the tables that OpenFace 2 (``FeatureExtraction``) wrote.
  709 columns are all but the first five, as CH-SIMS was released with: gaze and eye landmarks 288,
  head pose 6, face landmarks 340, shape parameters 40, action units 35; three rows are averaged to
  one. 177 are the landmarks in the image, pose and action units, as in CH-SIMS v2.
* ``mediapipe`` needs the package and a ``.task`` file of the user's: 478 points of the face mesh,
  1434 columns, as shares of the image's size.

Every source gives a row per frame and says whether there is a face in it. What becomes of frames
without is one rule for all, :func:`settle`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError, MissingExtraError
from serkit.video import Colour, Frame

__all__ = [
    "NO_FACE_RULES",
    "VISION_SETS",
    "FaceFeatures",
    "NoFaceRule",
    "VisionSet",
    "mediapipe_mesh",
    "opencv_lite",
    "read_openface",
    "settle",
]

NoFaceRule = Literal["skip", "zero", "hold"]
NO_FACE_RULES: tuple[NoFaceRule, ...] = ("skip", "zero", "hold")

Pictures = Iterable[tuple[float, Frame]]  # seconds, picture
_Box = NDArray[np.float64]  # left, top, width, height in pixels

_PATCH = 48  # pixels, the side of a face after cropping
_CELLS = 4  # of the grid, along each side
_EDGE_DEGREES = (0, 45, 90, 135)  # direction in which brightness changes
_FLOW_NAMES = ("mean", "std", "p95", "right", "down", "coherence", "upper", "lower")

_SEARCH_EVERY = 12  # frames; between them a face is looked for where it was
_MOST_TRACKS = 3  # faces followed at a time
_LONGEST_GAP = 4  # frames in which a face that comes back was only not detected
_FEWEST_FRAMES = 3  # of a track; what is detected less often is no face
_SMOOTHING = 0.5  # weight of a new box against the box so far

_N_MESH = 478  # points
_MESH_HELP = (
    "download 'face_landmarker.task' from the MediaPipe documentation and give its path as "
    "landmarker"
)


@dataclass(frozen=True, slots=True, eq=False)
class FaceFeatures:
    """Features of the frames of a clip.

    Attributes
    ----------
    features : (n_frames, n_features), float32; 0 where there is no face
    present : (n_frames,), whether there is a face
    flag
        Column of ``features`` that says the same, if there is one.
    """

    features: NDArray[np.float32]
    present: NDArray[np.bool_]
    flag: int | None = None


@dataclass(frozen=True, slots=True)
class VisionSet:
    """One set of features.

    Attributes
    ----------
    names
        Of the columns.
    fps
        Frames per second it was made for.
    average_over
        Consecutive frames that become one.
    colour
        Of the pictures that ``function`` takes.
    function
        ``(pictures, landmarker) -> FaceFeatures``; ``None`` where features are read from a table.
    """

    names: tuple[str, ...]
    fps: float
    average_over: int = 1
    colour: Colour = "grey"
    function: Callable[[Pictures, str | None], FaceFeatures] | None = None


def settle(found: FaceFeatures, *, no_face: NoFaceRule, average_over: int = 1) -> FaceFeatures:
    """Apply the rule for frames without a face, then average consecutive frames.

    Parameters
    ----------
    no_face
        ``skip``: left out. ``zero``: a row of zeros. ``hold``: the last face seen, and zeros before
        the first; the frame still counts as one without a face.
    average_over
        Frames that become one; a remainder becomes one as well.

    Returns
    -------
    settled
        Never without a row: a clip without any face becomes one row of zeros.

    Raises
    ------
    InputError
        If the rule is unknown or ``average_over`` is less than 1.
    """
    if no_face not in NO_FACE_RULES:
        raise InputError(f"no_face is '{no_face}', expected one of {', '.join(NO_FACE_RULES)}")
    if average_over < 1:
        raise InputError(f"average_over is {average_over}, expected 1 or more")
    features: NDArray[Any] = found.features
    present = found.present
    if not present.any():
        nothing = np.zeros((1, features.shape[1]), dtype=np.float32)
        return replace(found, features=nothing, present=np.zeros(1, dtype=np.bool_))
    if no_face == "skip":
        features, present = features[present], present[present]
    elif no_face == "zero":
        features = features * present[:, None]
    else:
        last = np.maximum.accumulate(np.where(present, np.arange(len(present)), -1))
        features = features[last] * (last >= 0)[:, None]
        if found.flag is not None:
            features[:, found.flag] = present
    if average_over > 1:
        starts = np.arange(0, len(features), average_over)
        counts = np.diff([*starts, len(features)])[:, None]
        features = np.add.reduceat(features, starts) / counts
        present = np.logical_or.reduceat(present, starts)
    return replace(found, features=features.astype(np.float32), present=present)


# ---- opencv_lite ---------------------------------------------------------------------------------


def opencv_lite(pictures: Pictures) -> FaceFeatures:
    """Find and describe the main face of a clip.

    Parameters
    ----------
    pictures
        Seconds and a grey picture ``(height, width)``, uint8, in order of time. Read once, and no
        more than two are kept.

    Returns
    -------
    found : 93 columns, see :data:`VISION_SETS`; lengths are shares of the picture's width and
        height, motion is in widths of the face per frame

    Raises
    ------
    MissingExtraError
        If OpenCV is not installed.
    InputError
        If the installed OpenCV has no cascade classifier.
    """
    cv2 = _require_opencv()
    tracker = _Tracker(cv2)
    previous: Frame | None = None
    n_frames = 0
    for _, picture in pictures:
        for track in tracker.step(picture):
            track.add(n_frames, _describe(cv2, picture, previous, track.box))
        previous = picture
        n_frames += 1
    features = np.zeros((n_frames, len(_LITE_NAMES)), dtype=np.float32)
    present = np.zeros(n_frames, dtype=np.bool_)
    main = max(tracker.tracks, key=lambda track: track.weight, default=None)
    if main is not None and main.n_seen >= min(_FEWEST_FRAMES, n_frames):
        numbers = list(main.rows)
        features[numbers] = list(main.rows.values())
        present[numbers] = True
    return FaceFeatures(features, present, flag=_LITE_NAMES.index("face_present"))


@dataclass(slots=True, eq=False)
class _Track:
    """One face through the clip."""

    box: _Box  # smoothed
    rows: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # frame -> features
    gap: dict[int, NDArray[np.float32]] = field(default_factory=dict)  # of rows, until it is back
    weight: float = 0.0  # area, summed over the frames in which it was detected
    n_seen: int = 0
    n_missed: int = 0  # frames since it was last detected

    @property
    def live(self) -> bool:
        """Whether the face may still be there."""
        return self.n_missed <= _LONGEST_GAP

    def update(self, box: _Box | None) -> None:
        """Take the face's box in the next frame, or that it was not detected."""
        if box is None:
            self.n_missed += 1
            return
        if not self.live:
            self.gap.clear()
        self.box = self.box + (_SMOOTHING if self.live else 1.0) * (box - self.box)
        self.weight += float(box[2] * box[3])
        self.n_seen += 1
        self.n_missed = 0

    def add(self, number: int, row: NDArray[np.float32]) -> None:
        """Take the features of a frame; where it was not detected, they wait until it is back."""
        self.gap[number] = row
        if not self.n_missed:
            self.rows |= self.gap
            self.gap.clear()


class _Tracker:
    """Finds faces and follows them from frame to frame."""

    def __init__(self, cv2: Any) -> None:
        folder = Path(cv2.data.haarcascades)
        self.cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))
        self.tracks: list[_Track] = []
        self.n_steps = 0

    def step(self, picture: Frame) -> list[_Track]:
        """Follow the faces into the next picture; give those that may be in it."""
        live = [track for track in self.tracks if track.live]
        if self.n_steps % _SEARCH_EVERY == 0 or not live:
            self._match(self._search(picture), live)
        else:
            for track in live:
                track.update(self._look_near(picture, track.box))
        self.n_steps += 1
        return [track for track in self.tracks if track.live]

    def _match(self, boxes: list[_Box], live: Sequence[_Track]) -> None:
        """Give each box to the nearest track, or start one; live tracks have the first choice."""
        free = list(live) + [track for track in self.tracks if not track.live]
        for box in boxes:
            near = [track for track in free if _is_near(box, track.box)]
            track = min(
                near, key=lambda track: (not track.live, _distance(box, track.box)), default=None
            )
            if track is None:
                track = _Track(box)
                self.tracks.append(track)
            else:
                free.remove(track)
            track.update(box)
        for track in free:
            if track in live:
                track.update(None)

    def _search(self, picture: Frame) -> list[_Box]:
        """Look for faces everywhere, largest first."""
        least = max(24, min(picture.shape) // 10)
        found = self.cascade.detectMultiScale(picture, 1.1, 4, minSize=(least, least))
        boxes = sorted((np.array(box, dtype=float) for box in found), key=lambda box: -box[2])
        return boxes[:_MOST_TRACKS]

    def _look_near(self, picture: Frame, box: _Box) -> _Box | None:
        """Look for a face of about the same size around a box."""
        left, top = np.maximum(0, box[:2] - 0.4 * box[2:]).astype(int)
        right, bottom = (box[:2] + 1.4 * box[2:]).astype(int)
        around = np.ascontiguousarray(picture[top:bottom, left:right])
        least, most = int(0.75 * box[2]), int(1.35 * box[2])
        found = self.cascade.detectMultiScale(
            around, 1.08, 3, minSize=(least, least), maxSize=(most, most)
        )
        boxes = [np.add(near, (left, top, 0, 0), dtype=float) for near in found]
        return min(boxes, key=lambda near: _distance(near, box), default=None)


def _distance(one: _Box, other: _Box) -> float:
    """Give the distance of the middles, in widths of the second box."""
    apart = one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2
    return float(np.hypot(*apart) / other[2])


def _is_near(one: _Box, other: _Box) -> bool:
    return _distance(one, other) < 1 and 0.5 < one[2] / other[2] < 2


def _describe(cv2: Any, picture: Frame, previous: Frame | None, box: _Box) -> NDArray[np.float32]:
    """Describe a face, (93,)."""
    height, width = picture.shape
    left, top, box_width, box_height = box
    place = [
        (left + box_width / 2) / width,
        (top + box_height / 2) / height,
        box_width / width,
        box_height / height,
    ]
    patch = _crop(cv2, picture, box)
    motion = np.zeros(len(_FLOW_NAMES))
    if previous is not None and previous.shape == picture.shape:
        motion = _motion(cv2, _crop(cv2, previous, box), patch)
    parts: list[NDArray[np.float64]] = [
        np.ones(1),
        np.array(place),
        _brightness(patch),
        _edges(patch),
        motion,
    ]
    return np.concatenate(parts).astype(np.float32)


def _crop(cv2: Any, picture: Frame, box: _Box) -> Frame:
    height, width = picture.shape
    left, top = (
        int(np.clip(round(box[0]), 0, width - 2)),
        int(np.clip(round(box[1]), 0, height - 2)),
    )
    right, bottom = round(box[0] + box[2]), round(box[1] + box[3])
    cut = picture[top : max(bottom, top + 2), left : max(right, left + 2)]
    patch: Frame = cv2.resize(cut, (_PATCH, _PATCH), interpolation=cv2.INTER_AREA)
    return patch


def _brightness(patch: Frame) -> NDArray[np.float64]:
    """Give each cell's mean, in standard deviations from the mean of the patch."""
    values = patch.astype(np.float64)
    return _per_cell((values - values.mean()) / (values.std() + 1.0)).ravel()


def _edges(patch: Frame) -> NDArray[np.float64]:
    """Give the strength of edges per cell and direction, against the mean of the patch."""
    down, right = np.gradient(patch.astype(np.float64))
    strength = np.hypot(right, down)
    angle = np.degrees(np.arctan2(down, right)) % 180
    shares = []
    for degrees in _EDGE_DEGREES:
        away = np.abs((angle - degrees + 90) % 180 - 90)
        shares.append(_per_cell(strength * np.clip(1 - away / 45, 0, 1)))
    edges: NDArray[np.float64] = np.stack(shares, axis=-1).ravel() / (strength.mean() + 1.0)
    return edges


def _per_cell(values: NDArray[np.float64]) -> NDArray[np.float64]:
    side = _PATCH // _CELLS
    means: NDArray[np.float64] = values.reshape(_CELLS, side, _CELLS, side).mean(axis=(1, 3))
    return means


def _motion(cv2: Any, before: Frame, after: Frame) -> NDArray[np.float64]:
    """Summarise the motion between two patches, in widths of the face; see ``_FLOW_NAMES``."""
    flow = cv2.calcOpticalFlowFarneback(
        before,
        after,
        None,
        pyr_scale=0.5,
        levels=2,
        winsize=9,
        iterations=2,
        poly_n=5,
        poly_sigma=1.1,
        flags=0,
    ).astype(np.float64)
    flow /= _PATCH
    speed = np.hypot(flow[..., 0], flow[..., 1])
    right, down = flow[..., 0].mean(), flow[..., 1].mean()
    # 1 where everything moves one way, 0 where all directions are alike.
    coherence = np.hypot(right, down) / (speed.mean() + 1e-6)
    half = _PATCH // 2
    whole = [speed.mean(), speed.std(), np.percentile(speed, 95), right, down, coherence]
    return np.array([*whole, speed[:half].mean(), speed[half:].mean()])


def _require_opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError:
        raise MissingExtraError(
            "opencv-python-headless", extra="video", needed_for="finding faces"
        ) from None
    if not hasattr(cv2, "CascadeClassifier"):
        raise InputError(
            f"OpenCV {cv2.__version__} has no cascade classifier any more: "
            "pip install 'opencv-python-headless<5'"
        )
    # The same result every time, and one core per clip.
    cv2.setNumThreads(1)
    return cv2


# ---- OpenFace ------------------------------------------------------------------------------------


def read_openface(
    path: Path | str, *, columns: str = "openface709", min_confidence: float = 0.0
) -> FaceFeatures:
    """Read a table that OpenFace 2 wrote of one clip.

    A face is present where ``success`` is 1, ``confidence`` is high enough and all values are
    finite. Where the table has several faces, it is the one that was found in most rows.

    Parameters
    ----------
    columns
        ``openface709`` or ``openface177``.
    min_confidence
        In [0, 1].

    Returns
    -------
    found : rows and columns as in the table

    Raises
    ------
    InputError
        If the file is missing, no table of OpenFace, or lacks columns.
    """
    if columns not in _OPENFACE:
        raise InputError(f"columns is '{columns}', expected one of {', '.join(_OPENFACE)}")
    header, rows = _read_table(path)
    wanted = _OPENFACE[columns]
    missing = [name for name in ("confidence", "success", *wanted) if name not in header]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{path}: column '{missing[0]}'{more} missing, expected a table of OpenFace 2: run "
            "FeatureExtraction without options, which writes all columns"
        )
    numbers = {name: number for number, name in enumerate(header)}
    features: NDArray[Any] = rows[:, [numbers[name] for name in wanted]]
    present = (rows[:, numbers["success"]] == 1) & np.isfinite(features).all(axis=1)
    present &= rows[:, numbers["confidence"]] >= min_confidence
    if "face_id" in numbers:
        of_one = _most_frequent(rows[:, numbers["face_id"]], present)
        features, present = features[of_one], present[of_one]
    features = np.where(present[:, None], features, 0).astype(np.float32)
    return FaceFeatures(features, present)


def _read_table(path: Path | str) -> tuple[list[str], NDArray[np.float64]]:
    """Read a table of numbers with a header."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run OpenFace first") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no table of OpenFace ({error})") from None
    if len(lines) < 2:
        raise InputError(f"{path}: the table has no rows: OpenFace failed; run it again")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise InputError(
                f"{path}: row {number} has {len(line)} values, the header {len(header)}: cut off"
            )
    try:
        rows = np.array([[_number(value) for value in line] for line in lines[1:]])
    except ValueError as error:
        raise InputError(f"{path}: no table of OpenFace ({error})") from None
    return header, rows


def _number(text: str) -> float:
    """Read a number, and every spelling of NaN that C++ knows, such as ``-nan(ind)``."""
    return float("nan") if "nan" in text.lower() else float(text)


def _most_frequent(faces: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Choose the rows of the face that is present most often; the lowest id of equals."""
    ids, counts = np.unique(faces[present] if present.any() else faces, return_counts=True)
    of_one: NDArray[np.bool_] = faces == ids[counts.argmax()]
    return of_one


# ---- MediaPipe -----------------------------------------------------------------------------------


def mediapipe_mesh(pictures: Pictures, *, landmarker: str | None) -> FaceFeatures:
    """Find the mesh of the main face with MediaPipe's FaceLandmarker.

    Parameters
    ----------
    pictures
        Seconds and a picture ``(height, width, 3)``, uint8, red, green, blue.
    landmarker
        Path of the ``.task`` file.

    Returns
    -------
    found : x, y and z of 478 points, (n_frames, 1434), as shares of the picture's size

    Raises
    ------
    InputError
        If no model file is named, it is not there, is none or gives another mesh, or MediaPipe is
        not installed.
    """
    if not landmarker:
        raise InputError(f"vision set 'mediapipe' needs a model file: {_MESH_HELP}")
    if not os.path.isfile(landmarker):
        raise InputError(f"{landmarker}: no such file; {_MESH_HELP}")
    try:
        import mediapipe
    except ModuleNotFoundError:
        raise InputError(
            "vision set 'mediapipe' needs the package 'mediapipe', which is not installed: "
            "pip install mediapipe"
        ) from None
    vision = mediapipe.tasks.vision
    options = vision.FaceLandmarkerOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=landmarker),
        running_mode=vision.RunningMode.VIDEO,
        num_faces=1,
        min_face_detection_confidence=0.35,
        min_tracking_confidence=0.5,
    )
    rows, present = [], []
    try:
        opened = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{landmarker}: no model of MediaPipe ({error}); {_MESH_HELP}") from None
    with opened as model:
        for time_s, picture in pictures:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
            faces = model.detect_for_video(image, round(1000 * time_s)).face_landmarks
            present.append(bool(faces))
            points = [(p.x, p.y, p.z) for p in faces[0]] if faces else np.zeros((_N_MESH, 3))
            if len(points) != _N_MESH:
                raise InputError(
                    f"{landmarker}: gives {len(points)} points, expected {_N_MESH}; {_MESH_HELP}"
                )
            rows.append(np.asarray(points, dtype=np.float32).ravel())
    features = np.array(rows, dtype=np.float32).reshape(-1, 3 * _N_MESH)
    return FaceFeatures(features, np.array(present, dtype=np.bool_))


# ---- Names ---------------------------------------------------------------------------------------


def _lite_names() -> tuple[str, ...]:
    cells = [f"cell_{row}_{column}" for row in range(_CELLS) for column in range(_CELLS)]
    return (
        "face_present",
        *("face_x", "face_y", "face_width", "face_height"),
        *(f"{cell}_brightness" for cell in cells),
        *(f"{cell}_edge_{degrees:03d}" for cell in cells for degrees in _EDGE_DEGREES),
        *(f"flow_{name}" for name in _FLOW_NAMES),
    )


def _openface_names() -> dict[str, tuple[str, ...]]:
    """Name the columns that OpenFace 2 writes after the first five, by group."""

    def points(prefix: str, axes: str, n: int) -> tuple[str, ...]:
        return tuple(f"{prefix}{axis}_{i}" for axis in axes for i in range(n))

    gaze = (*(f"gaze_{eye}_{axis}" for eye in (0, 1) for axis in "xyz"),)
    units = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26)
    return {
        "gaze": (*gaze, "gaze_angle_x", "gaze_angle_y"),
        "eyes_2d": points("eye_lmk_", "xy", 56),
        "eyes_3d": points("eye_lmk_", "XYZ", 56),
        "pose": tuple(f"pose_{kind}{axis}" for kind in "TR" for axis in "xyz"),
        "face_2d": points("", "xy", 68),
        "face_3d": points("", "XYZ", 68),
        "shape": (
            *(f"p_{name}" for name in ("scale", "rx", "ry", "rz", "tx", "ty")),
            *(f"p_{i}" for i in range(34)),
        ),
        "intensities": tuple(f"AU{unit:02d}_r" for unit in (*units, 45)),
        "presences": tuple(f"AU{unit:02d}_c" for unit in (*units, 28, 45)),
    }


def _openface_sets() -> dict[str, tuple[str, ...]]:
    groups = _openface_names()
    some = ("face_2d", "pose", "intensities", "presences")
    return {
        "openface709": tuple(name for group in groups.values() for name in group),
        "openface177": tuple(name for group in some for name in groups[group]),
    }


_LITE_NAMES = _lite_names()
_OPENFACE = _openface_sets()

VISION_SETS: dict[str, VisionSet] = {
    "opencv_lite": VisionSet(
        _LITE_NAMES, fps=25.0, function=lambda pictures, _: opencv_lite(pictures)
    ),
    "openface709": VisionSet(_OPENFACE["openface709"], fps=30.0, average_over=3),
    "openface177": VisionSet(_OPENFACE["openface177"], fps=25.0),
    "mediapipe": VisionSet(
        tuple(f"point_{i}_{axis}" for i in range(_N_MESH) for axis in "xyz"),
        fps=25.0,
        colour="rgb",
        function=lambda pictures, landmarker: mediapipe_mesh(pictures, landmarker=landmarker),
    ),
}
