"""What the tests of compiled parts share: who can run them, and how near two forms have to be."""

from __future__ import annotations

import pytest
from torch import Tensor

from serkit.models import native

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


def assert_near(
    got: Tensor, expected: Tensor, tolerance: float, name: str = "it", *, least: float = 1e-3
) -> None:
    """Hold the largest error to a share of the largest value, taken for ``least`` if it is less."""
    assert got.shape == expected.shape
    error = (got.double() - expected.double()).abs().max()
    error /= expected.double().abs().max().clamp_min(least)
    assert error < tolerance, f"{name} is off by {error}"
