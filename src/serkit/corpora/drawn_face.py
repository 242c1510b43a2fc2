"""A face drawn with numbers: for synthetic clips whose expression is known.

The drawing is the least that OpenCV's frontal-face cascades take for a face: a shaded oval with
darker eye sockets, brows, the light bridge and the dark underside of a nose, a mouth and hair. What
an expression moves are the mouth (curve, opening) and the brows, so that what a network reads from
the features of a clip can be compared with what was drawn. Everything scales with the head: lengths
below are in half head heights, from the middle of the head, to the right and down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serkit.types import InputError

__all__ = ["draw_face"]

_Plane = NDArray[np.float64]
_Curve = Callable[[_Plane], _Plane]

_HEAD_WIDTH = 0.76  # of the head's height
_SKIN = np.array([1.0, 0.86, 0.76])  # tint of red, green and blue
_BACKGROUND = np.array([120.0, 128.0, 138.0])
_HAIR = np.array([38.0, 30.0, 26.0])
_INK = np.array([22.0, 18.0, 18.0])
_LIPS = np.array([0.62, 0.36, 0.36])  # of the skin's brightness


def draw_face(
    image_size: tuple[int, int],
    *,
    centre: tuple[float, float] = (0.5, 0.5),
    size: float = 0.7,
    tone: float = 0.7,
    mouth_curve: float = 0.0,
    mouth_open: float = 0.0,
    brow: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw one face on a plain background.

    Parameters
    ----------
    image_size
        Height and width in pixels.
    centre
        Middle of the head, to the right and down, as shares of width and height.
    size
        Height of the head as a share of the image's height.
    tone
        Brightness of the skin, in (0, 1].
    mouth_curve
        1: corners up, a smile; -1: corners down.
    mouth_open
        0: closed; 1: wide open.
    brow
        1: raised; -1: lowered and drawn together, a frown.

    Returns
    -------
    image : (height, width, 3), uint8, red, green, blue

    Raises
    ------
    InputError
        If a value lies outside its range.
    """
    _check(size=(size, 0.05, 2.0), tone=(tone, 0.05, 1.0), mouth_open=(mouth_open, 0.0, 1.0))
    _check(mouth_curve=(mouth_curve, -1.0, 1.0), brow=(brow, -1.0, 1.0))
    height, width = image_size
    image = np.broadcast_to(_BACKGROUND, (height, width, 3)).copy()
    middle = (centre[0] * width, centre[1] * height)
    face = _Painter(image, middle, unit=size * height / 2)
    skin = 255 * tone * _SKIN
    _draw_head(face, skin)
    for side in (-1, 1):
        _draw_eye(face, skin, side)
        _draw_brow(face, side, brow)
    _draw_nose(face, skin)
    _draw_mouth(face, skin, mouth_curve, mouth_open)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


class _Painter:
    """Lays colours over an image, with edges as soft as a pixel or softer.

    Parameters
    ----------
    image : (height, width, 3), float64, painted on in place
    middle
        Where 0 is, to the right and down, in pixels.
    unit
        Pixels per length 1.
    """

    def __init__(self, image: _Plane, middle: tuple[float, float], *, unit: float) -> None:
        self.image, self.middle, self.unit = image, middle, unit

    def ellipse(
        self,
        at: tuple[float, float],
        radii: tuple[float, float],
        colour: _Plane,
        *,
        soft: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        """Lay an ellipse; ``soft`` is the width of its edge, half of it outside."""
        window, x, y = self._window(at, (radii[0] + soft, radii[1] + soft))
        far = np.hypot((x - at[0]) / radii[0], (y - at[1]) / radii[1])
        self._lay(window, (1 - far) * min(radii), colour, soft=soft, strength=strength)

    def band(
        self, reach: tuple[float, float], colour: _Plane, *, line: _Curve, thick: _Curve
    ) -> None:
        """Lay a band along ``y = line(x)`` that is ``thick(x)`` high."""
        left, right = reach
        x_ends = np.linspace(left, right, 9)
        lines = line(x_ends)
        y_half = np.ptp(lines) / 2 + thick(x_ends).max()
        at = ((left + right) / 2, (lines.max() + lines.min()) / 2)
        window, x, y = self._window(at, ((right - left) / 2, y_half))
        within = thick(x) / 2 - np.abs(y - line(x))
        self._lay(window, np.minimum(within, np.minimum(x - left, right - x)), colour)

    def _window(
        self, at: tuple[float, float], half: tuple[float, float]
    ) -> tuple[tuple[slice, slice], _Plane, _Plane]:
        """Give a part of the image, and the x (1, n) and y (n, 1) of its pixels."""
        slices, places = [], []
        for axis, length in enumerate(self.image.shape[1::-1]):
            low = self.middle[axis] + (at[axis] - half[axis]) * self.unit - 1
            high = self.middle[axis] + (at[axis] + half[axis]) * self.unit + 1
            pixels = np.arange(max(0, int(low)), max(0, min(length, int(high) + 1)))
            slices.append(slice(pixels[0], pixels[-1] + 1) if len(pixels) else slice(0, 0))
            places.append((pixels + 0.5 - self.middle[axis]) / self.unit)
        return (slices[1], slices[0]), places[0][None, :], places[1][:, None]

    def _lay(
        self,
        window: tuple[slice, slice],
        inside: _Plane,
        colour: _Plane,
        *,
        soft: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        """Lay a colour where ``inside``, the distance from an outline, is positive."""
        cover = strength * np.clip(0.5 + inside / max(soft, 1 / self.unit), 0, 1)[..., None]
        self.image[window] += cover * (colour - self.image[window])


def _draw_head(face: _Painter, skin: _Plane) -> None:
    face.ellipse((0, -0.12), (1.12 * _HEAD_WIDTH, 0.94), _HAIR)
    face.ellipse((0, 0.08), (_HEAD_WIDTH, 0.92), skin)
    # Light comes from the front: the middle of the face is lighter than its sides.
    face.ellipse((0, 0.08), (_HEAD_WIDTH - 0.2, 0.72), 1.1 * skin, soft=0.4, strength=0.6)
    face.ellipse((0, -0.74), (0.62, 0.2), _HAIR)


def _draw_eye(face: _Painter, skin: _Plane, side: int) -> None:
    face.ellipse((side * 0.33, -0.16), (0.27, 0.17), 0.55 * skin, soft=0.16, strength=0.9)
    face.ellipse((side * 0.33, -0.14), (0.16, 0.075), 0.2 * skin + 0.67 * skin.max())
    face.ellipse((side * 0.33, -0.14), (0.075, 0.075), _INK)


def _draw_brow(face: _Painter, side: int, brow: float) -> None:
    raised, frown = max(brow, 0.0), max(-brow, 0.0)
    inner, outer = side * (0.1 - 0.05 * frown), side * 0.6

    def line(x: _Plane) -> _Plane:
        inwards = np.clip((0.6 - side * x) / 0.5, 0, 1)  # 0 at the temple, 1 at the nose
        arch = 0.05 * np.sin(np.pi * inwards)
        return -0.37 - arch - 0.1 * raised + frown * (0.02 + 0.16 * inwards)

    reach = (min(inner, outer), max(inner, outer))
    face.band(reach, _INK + 20, line=line, thick=lambda x: np.full(x.shape, 0.09))


def _draw_nose(face: _Painter, skin: _Plane) -> None:
    face.ellipse((0, 0.02), (0.09, 0.3), 1.18 * skin, soft=0.1, strength=0.8)
    face.ellipse((0, 0.34), (0.2, 0.05), 0.6 * skin, soft=0.08, strength=0.6)
    for side in (-1, 1):
        face.ellipse((side * 0.09, 0.3), (0.07, 0.04), 0.4 * skin, soft=0.05)


def _draw_mouth(face: _Painter, skin: _Plane, curve: float, opening: float) -> None:
    def sideways(x: _Plane) -> _Plane:
        return np.clip(x / 0.34, -1, 1) ** 2  # 0 in the middle, 1 at the corners

    def line(x: _Plane) -> _Plane:
        return 0.58 + 0.16 * curve * (0.5 - sideways(x))

    def lips(x: _Plane) -> _Plane:
        return 0.08 + (0.1 + 0.2 * opening) * (1 - 0.7 * sideways(x))

    def gap(x: _Plane) -> _Plane:
        return 0.03 + 0.2 * opening * (1 - sideways(x))

    face.band((-0.34, 0.34), _LIPS * skin, line=line, thick=lips)
    face.band((-0.31, 0.31), _INK, line=line, thick=gap)


def _check(**values: tuple[float, float, float]) -> None:
    for name, (value, low, high) in values.items():
        if not low <= value <= high:
            raise InputError(f"{name} is {value:g}, expected {low:g} to {high:g}")
