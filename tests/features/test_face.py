"""Faces found, followed and described; tables of OpenFace; the calls that MediaPipe gets."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from serkit.corpora.drawn_face import draw_face
from serkit.features.face import (
    VISION_SETS,
    FaceFeatures,
    mediapipe_mesh,
    opencv_lite,
    read_openface,
    settle,
)
from serkit.types import InputError, MissingExtraError

SIZE = (160, 200)
DRIFT = 0.006  # of the width, per frame
NAMES = VISION_SETS["opencv_lite"].names


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2")


def grey(image: np.ndarray) -> np.ndarray:
    return (image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def moving_face(
    n: int = 12, *, image_size: tuple[int, int] = SIZE, centre=(0.45, 0.5), size=0.75, **look
) -> list:
    """Pictures of a face that drifts to the right and speaks, with their times."""
    return [
        (
            i / 25,
            grey(
                draw_face(
                    image_size,
                    centre=(centre[0] + DRIFT * i, centre[1]),
                    size=size,
                    mouth_open=0.5 * abs(np.sin(i / 2)),
                    **look,
                )
            ),
        )
        for i in range(n)
    ]


def plain(n: int = 5) -> list:
    return [(i / 25, np.full(SIZE, 120, dtype=np.uint8)) for i in range(n)]


def found(rows: list[list[float]], present: list[bool]) -> FaceFeatures:
    return FaceFeatures(np.array(rows, dtype=np.float32), np.array(present))


# ---- opencv_lite ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tone", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    ("size", "centre"), [(0.4, (0.3, 0.35)), (0.6, (0.6, 0.6)), (0.9, (0.45, 0.5))]
)
def test_a_face_is_found_whatever_its_tone_size_and_place(cv2, tone, size, centre):
    pictures = moving_face(image_size=(240, 320), tone=tone, size=size, centre=centre)
    faces = opencv_lite(pictures)
    assert faces.present.mean() >= 0.9
    x, y, width, height = faces.features[-1, 1:5]
    assert x == pytest.approx(centre[0] + 11 * DRIFT, abs=0.04)
    assert y == pytest.approx(centre[1], abs=0.1)
    assert 0.5 * size < height < 1.1 * size
    assert width * 320 == pytest.approx(height * 240)


def correlation_of_reading(name: str, values: np.ndarray) -> float:
    """Draw faces, read what was drawn linearly from features, from other faces."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    rows = []
    for value in values:
        look = {"mouth_curve": rng.uniform(-1, 1), "brow": rng.uniform(-1, 1)}
        look[name] = float(value)
        tone, centre = rng.uniform(0.35, 1), (rng.uniform(0.4, 0.55), 0.5)
        faces = opencv_lite(moving_face(4, tone=tone, centre=centre, **look))
        rows.append(faces.features[faces.present].mean(axis=0))
    reader = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    read = cross_val_predict(reader, np.array(rows), values, cv=4)
    return float(np.corrcoef(read, values)[0, 1])


@pytest.mark.parametrize("name", ["mouth_curve", "brow"])
def test_an_expression_can_be_read_linearly_from_the_features(cv2, name):
    values = np.random.default_rng(1).uniform(-1, 1, 40)
    assert correlation_of_reading(name, values) > 0.85


def test_a_speaking_mouth_moves_the_lower_half(cv2):
    still = [(i / 25, grey(draw_face(SIZE, size=0.8))) for i in range(8)]
    speaking = [
        (i / 25, grey(draw_face(SIZE, size=0.8, mouth_open=0.8 * (i % 2)))) for i in range(8)
    ]
    lower, upper = NAMES.index("flow_lower"), NAMES.index("flow_upper")
    at_rest, at_work = (opencv_lite(pictures).features[1:] for pictures in (still, speaking))
    assert at_rest[:, lower].max() < 1e-3
    assert at_work[:, lower].mean() > 2 * at_work[:, upper].mean()
    assert at_work[:, lower].mean() > 0.005


def test_motion_has_a_direction(cv2):
    right, down = NAMES.index("flow_right"), NAMES.index("flow_down")
    features = opencv_lite(moving_face(8, mouth_curve=0.2)).features[2:]
    assert features[:, right].mean() > 0.005
    assert abs(features[:, down].mean()) < features[:, right].mean() / 3


def test_features_are_named_finite_and_bounded(cv2):
    faces = opencv_lite(moving_face())
    assert len(NAMES) == len(set(NAMES)) == faces.features.shape[1] == 93
    assert faces.features.dtype == np.float32
    assert np.abs(faces.features).max() < 30
    assert faces.features[:, faces.flag].tolist() == faces.present.tolist()


def test_brightness_of_the_picture_hardly_matters(cv2):
    bright = [
        (t, np.clip(picture * 1.15, 0, 255).astype(np.uint8)) for t, picture in moving_face(6)
    ]
    one, other = opencv_lite(moving_face(6)), opencv_lite(bright)
    cells = slice(5, 5 + 80)
    assert np.abs(one.features[:, cells] - other.features[:, cells]).mean() < 0.05


def test_a_clip_without_a_face_has_none(cv2):
    noise = np.random.default_rng(0).integers(0, 255, (8, *SIZE)).astype(np.uint8)
    for pictures in (plain(), [(i / 25, picture) for i, picture in enumerate(noise)], []):
        faces = opencv_lite(pictures)
        assert not faces.present.any()
        assert (faces.features == 0).all()


def test_one_picture_is_enough(cv2):
    faces = opencv_lite(moving_face(1))
    assert faces.present.tolist() == [True]
    assert (faces.features[0, -8:] == 0).all()


def test_a_short_gap_is_bridged_and_a_long_one_is_not(cv2):
    pictures = moving_face(30)
    for i in (10, 11):
        pictures[i] = plain(1)[0]
    for i in range(18, 26):
        pictures[i] = plain(1)[0]
    present = opencv_lite(pictures).present
    assert present[:18].all()
    assert not present[18:26].any()
    assert present[26:].all()


def test_of_two_faces_the_larger_is_followed(cv2):
    pictures = []
    for i in range(14):
        both = draw_face((160, 320), centre=(0.75 - i / 400, 0.5), size=0.45)
        both[:, :160] = draw_face((160, 160), centre=(0.5 + i / 400, 0.5), size=0.85)
        pictures.append((i / 25, grey(both)))
    faces = opencv_lite(pictures)
    assert faces.present.all()
    assert (faces.features[:, NAMES.index("face_x")] < 0.4).all()


def test_a_face_that_appears_later_is_found_from_there_on(cv2):
    pictures = plain(10) + moving_face(10)
    present = opencv_lite(pictures).present
    assert present.tolist() == [False] * 10 + [True] * 10


def test_finding_twice_gives_the_same_bits(cv2):
    one, other = opencv_lite(moving_face()), opencv_lite(moving_face())
    assert np.array_equal(one.features, other.features)


def test_tiny_pictures_hold_no_face(cv2):
    assert not opencv_lite([(0.0, np.zeros((2, 2), dtype=np.uint8))]).present.any()


def test_a_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"'opencv-python-headless'.*serkit\[video\]"):
        opencv_lite(plain())


def test_an_opencv_without_cascades_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(InputError, match=r"OpenCV 5\.0\.0 has no cascade classifier.*headless<5"):
        opencv_lite(plain())


# ---- Frames without a face -----------------------------------------------------------------------


def test_frames_without_a_face_are_skipped_zeroed_or_held():
    faces = found([[9, 9], [1, 2], [9, 9], [3, 4], [9, 9]], [False, True, False, True, False])
    skipped = settle(faces, no_face="skip")
    assert skipped.features.tolist() == [[1, 2], [3, 4]]
    assert skipped.present.tolist() == [True, True]
    zeroed = settle(faces, no_face="zero")
    assert zeroed.features.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]]
    held = settle(faces, no_face="hold")
    assert held.features.tolist() == [[0, 0], [1, 2], [1, 2], [3, 4], [3, 4]]
    assert zeroed.present.tolist() == held.present.tolist() == faces.present.tolist()


def test_a_held_face_does_not_count_as_present():
    faces = FaceFeatures(np.array([[1, 7], [0, 0]], np.float32), np.array([True, False]), flag=0)
    assert settle(faces, no_face="hold").features.tolist() == [[1, 7], [0, 7]]


def test_three_rows_become_their_mean_and_so_does_the_remainder():
    faces = found([[1], [2], [6], [0], [5], [7], [4]], [True] * 3 + [False] * 3 + [True])
    averaged = settle(faces, no_face="zero", average_over=3)
    assert averaged.features.tolist() == [[3], [0], [4]]
    assert averaged.present.tolist() == [True, False, True]
    assert settle(faces, no_face="skip", average_over=3).features.tolist() == [[3], [4]]


@pytest.mark.parametrize("rule", ["skip", "zero", "hold"])
@pytest.mark.parametrize("n", [0, 4])
def test_a_clip_without_any_face_becomes_one_row_of_zeros(rule, n):
    nobody = FaceFeatures(np.zeros((n, 5), np.float32), np.zeros(n, np.bool_))
    settled = settle(nobody, no_face=rule, average_over=3)
    assert settled.features.tolist() == [[0.0] * 5]
    assert settled.present.tolist() == [False]


def test_an_unknown_rule_and_an_average_over_nothing_are_refused():
    with pytest.raises(InputError, match="no_face is 'drop', expected one of skip, zero, hold"):
        settle(found([[1]], [True]), no_face="drop")
    with pytest.raises(InputError, match="average_over is 0, expected 1 or more"):
        settle(found([[1]], [True]), no_face="skip", average_over=0)


# ---- OpenFace ------------------------------------------------------------------------------------

HEADER = ("frame", "face_id", "timestamp", "confidence", "success")


def openface_row(i: int, *, face: int = 0, confidence: float = 0.98, success: int = 1) -> list:
    return [i + 1, face, i / 30, confidence, success, *(1000 * i + np.arange(709.0))]


def write_openface(path: Path, rows: list[list], *, leave_out: tuple[str, ...] = ()) -> Path:
    """Write a table as OpenFace does, with a space after every comma."""
    names = (*HEADER, *VISION_SETS["openface709"].names)
    kept = [number for number, name in enumerate(names) if name not in leave_out]
    lines = [[names[k] for k in kept], *([row[k] for k in kept] for row in rows)]
    path.write_text("\n".join(", ".join(map(str, line)) for line in lines) + "\n")
    return path


def test_the_709_columns_are_all_but_the_first_five(tmp_path):
    path = write_openface(tmp_path / "a.csv", [openface_row(i) for i in range(4)])
    faces = read_openface(path)
    assert faces.features.shape == (4, 709)
    assert faces.features[2].tolist() == [2000.0 + k for k in range(709)]
    assert faces.present.all()


def test_openface_columns_have_the_documented_groups():
    names = VISION_SETS["openface709"].names
    assert len(set(names)) == 709
    assert names[:8] == (
        *("gaze_0_x", "gaze_0_y", "gaze_0_z", "gaze_1_x", "gaze_1_y", "gaze_1_z"),
        *("gaze_angle_x", "gaze_angle_y"),
    )
    assert names.index("pose_Tx") == 288
    assert names.index("x_0") == 294
    assert names.index("p_scale") == 634
    assert names.index("AU01_r") == 674
    assert names[-18:] == tuple(
        f"AU{unit:02d}_c"
        for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45)
    )


def test_the_177_columns_are_chosen_by_name(tmp_path):
    path = write_openface(tmp_path / "a.csv", [openface_row(1)], leave_out=("gaze_0_x", "p_rx"))
    features = read_openface(path, columns="openface177").features
    assert features.shape == (1, 177)
    all_names, names = VISION_SETS["openface709"].names, VISION_SETS["openface177"].names
    assert features[0].tolist() == [1000.0 + all_names.index(name) for name in names]


def test_failed_doubtful_and_broken_rows_count_as_no_face(tmp_path):
    rows = [openface_row(i) for i in range(4)]
    rows[1][4] = 0
    rows[2][3] = 0.5
    rows[3][50] = "-nan(ind)"
    path = write_openface(tmp_path / "a.csv", rows)
    assert read_openface(path).present.tolist() == [True, False, True, False]
    faces = read_openface(path, min_confidence=0.8)
    assert faces.present.tolist() == [True, False, False, False]
    assert (faces.features[1:] == 0).all()


def test_of_several_faces_the_one_that_is_seen_most_is_read(tmp_path):
    rows = [
        openface_row(i, face=face, success=int(face < 2))
        for face in (0, 1, 2)
        for i in range(face + 2)
    ]
    faces = read_openface(write_openface(tmp_path / "a.csv", rows))
    assert len(faces.features) == 3
    assert faces.present.all()


def test_released_features_are_means_of_three_rows(tmp_path):
    chosen = VISION_SETS["openface709"]
    assert (chosen.fps, chosen.average_over) == (30.0, 3)
    path = write_openface(tmp_path / "a.csv", [openface_row(i) for i in range(7)])
    averaged = settle(read_openface(path), no_face="skip", average_over=chosen.average_over)
    assert averaged.features[:, 0].tolist() == [1000, 4000, 6000]


def test_a_table_that_is_none_is_named_and_explained(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(InputError, match=r"a\.csv: cannot be read .*run OpenFace first"):
        read_openface(path)
    path.write_text("")
    with pytest.raises(InputError, match="the table has no rows: OpenFace failed"):
        read_openface(path)
    path.write_bytes(b"\xff\xfe\x00\x01" * 9)
    with pytest.raises(InputError, match="no table of OpenFace"):
        read_openface(path)
    write_openface(path, [openface_row(0)], leave_out=("AU45_r", "AU45_c"))
    with pytest.raises(InputError, match="column 'AU45_r' and 1 more missing"):
        read_openface(path)
    write_openface(path, [openface_row(0), openface_row(1)[:300] + ["x"] * 414])
    with pytest.raises(InputError, match=r"no table of OpenFace .*could not convert string"):
        read_openface(path)
    path.write_text(write_openface(path, [openface_row(0), openface_row(1)]).read_text()[:-600])
    with pytest.raises(InputError, match=r"row 3 has \d+ values, the header 714: cut off"):
        read_openface(path)
    with pytest.raises(InputError, match="columns is 'openface', expected one of openface709"):
        read_openface(path, columns="openface")


# ---- MediaPipe -----------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path) -> str:
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"a model")
    return str(path)


def fake_mediapipe(*, n_points: int = 478) -> ModuleType:
    """Stand in for MediaPipe: the calls of its version 1.2, a face in every second picture."""

    class Landmarker:
        def __init__(self, options):
            self.options, self.times_ms = options, []

        @classmethod
        def create_from_options(cls, options):
            if options.base_options.model_asset_path.endswith("bad.task"):
                raise RuntimeError("Unable to open zip archive.")
            return cls(options)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def detect_for_video(self, image, time_ms):
            assert isinstance(time_ms, int)
            assert image.data.shape == (4, 6, 3)
            points = [SimpleNamespace(x=i, y=i + 0.25, z=time_ms) for i in range(n_points)]
            return SimpleNamespace(face_landmarks=[points] if time_ms % 80 == 0 else [])

    module = ModuleType("mediapipe")
    module.tasks = SimpleNamespace(
        BaseOptions=lambda *, model_asset_path: SimpleNamespace(model_asset_path=model_asset_path),
        vision=SimpleNamespace(
            FaceLandmarker=Landmarker,
            FaceLandmarkerOptions=lambda **options: SimpleNamespace(**options),
            RunningMode=SimpleNamespace(VIDEO="video"),
        ),
    )
    module.ImageFormat = SimpleNamespace(SRGB=1)
    module.Image = lambda *, image_format, data: SimpleNamespace(data=data)
    return module


def coloured(n: int) -> list:
    return [(i / 25, np.zeros((4, 6, 3), dtype=np.uint8)) for i in range(n)]


def test_a_mesh_is_x_y_and_z_of_478_points(monkeypatch, task):
    monkeypatch.setitem(sys.modules, "mediapipe", fake_mediapipe())
    faces = mediapipe_mesh(coloured(4), landmarker=task)
    assert faces.features.shape == (4, 1434)
    assert len(VISION_SETS["mediapipe"].names) == 1434
    assert faces.present.tolist() == [True, False, True, False]
    assert faces.features[2, :6].tolist() == [0, 0.25, 80, 1, 1.25, 80]
    assert (faces.features[1] == 0).all()
    assert mediapipe_mesh([], landmarker=task).features.shape == (0, 1434)


def test_mediapipe_says_what_it_needs(monkeypatch, task, tmp_path):
    with pytest.raises(InputError, match=r"needs a model file: download 'face_landmarker\.task'"):
        mediapipe_mesh(coloured(1), landmarker=None)
    with pytest.raises(InputError, match=r"gone\.task: no such file; download"):
        mediapipe_mesh(coloured(1), landmarker=str(tmp_path / "gone.task"))
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(InputError, match="not installed: pip install mediapipe"):
        mediapipe_mesh(coloured(1), landmarker=task)


def test_a_model_that_is_none_or_another_is_refused(monkeypatch, task, tmp_path):
    monkeypatch.setitem(sys.modules, "mediapipe", fake_mediapipe())
    (tmp_path / "bad.task").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"bad\.task: no model of MediaPipe \(Unable to open"):
        mediapipe_mesh(coloured(1), landmarker=str(tmp_path / "bad.task"))
    monkeypatch.setitem(sys.modules, "mediapipe", fake_mediapipe(n_points=468))
    with pytest.raises(InputError, match="gives 468 points, expected 478"):
        mediapipe_mesh(coloured(1), landmarker=task)
