"""A drawn face shows what it was told to, wherever and however large it is."""

from __future__ import annotations

import numpy as np
import pytest

from serkit.corpora.drawn_face import draw_face
from serkit.types import InputError

SIZE = (120, 160)


def changed(**expression: float) -> np.ndarray:
    """Where an expression differs from a face at rest, (height, width)."""
    rest = draw_face(SIZE).astype(int)
    return np.abs(draw_face(SIZE, **expression).astype(int) - rest).max(axis=2) > 10


def test_a_face_is_an_image_of_the_size_asked_for():
    image = draw_face((31, 47))
    assert image.shape == (31, 47, 3)
    assert image.dtype == np.uint8


def test_drawing_twice_gives_the_same_face():
    assert np.array_equal(draw_face(SIZE, mouth_curve=0.3), draw_face(SIZE, mouth_curve=0.3))


@pytest.mark.parametrize("curve", [-1.0, 1.0])
def test_the_mouth_curves_in_the_lower_half_alone(curve):
    rows, _ = np.nonzero(changed(mouth_curve=curve))
    assert len(rows) > 40
    assert rows.min() > 60


def test_an_open_mouth_is_dark_inside():
    place = (60 + round(0.58 * 42), 80)  # middle of the mouth: 42 pixels are half a head
    around = (slice(place[0] - 3, place[0] + 4), place[1])
    assert draw_face(SIZE, mouth_open=1.0)[around].mean() < draw_face(SIZE)[around].mean() - 20


@pytest.mark.parametrize("brow", [-1.0, 1.0])
def test_brows_move_in_the_upper_half_alone(brow):
    rows, _ = np.nonzero(changed(brow=brow))
    assert len(rows) > 40
    assert rows.max() < 60


def test_a_darker_skin_is_darker():
    cheek = (66, 80 + 18)
    shades = [draw_face(SIZE, tone=tone)[cheek].mean() for tone in (0.2, 0.5, 0.9)]
    assert shades == sorted(shades)
    assert shades[2] > 2 * shades[0]


def test_a_face_beyond_the_border_is_cut_off():
    image = draw_face(SIZE, centre=(1.1, 0.5))
    assert (image[:, :60] == image[0, 0]).all()
    assert (image[:, 120:] != image[0, 0]).any()
    assert (draw_face(SIZE, centre=(5.0, 5.0)) == image[0, 0]).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 0.0}, "size is 0, expected 0.05 to 2"),
        ({"tone": 1.5}, "tone is 1.5, expected 0.05 to 1"),
        ({"mouth_curve": -2.0}, "mouth_curve is -2, expected -1 to 1"),
        ({"mouth_open": -0.1}, "mouth_open is -0.1, expected 0 to 1"),
        ({"brow": 3.0}, "brow is 3, expected -1 to 1"),
    ],
)
def test_an_expression_out_of_range_is_refused(setting, message):
    with pytest.raises(InputError, match=message):
        draw_face(SIZE, **setting)
