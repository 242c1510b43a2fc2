"""``serkit doctor`` tells what a machine has."""

from __future__ import annotations

import pytest

from serkit.experiment import doctor
from serkit.models import native, timnet_step


@pytest.mark.parametrize(
    ("available", "compiler", "state", "advice"),
    [
        (True, "/usr/bin/c++", "yes", ""),
        (False, None, "no", "install a C++ compiler"),
        (False, "/usr/bin/c++", "no: /usr/bin/c++ cannot build it", "CXX=g++"),
    ],
)
def test_doctor_tells_whether_training_is_compiled(
    monkeypatch, available, compiler, state, advice
) -> None:
    monkeypatch.setattr(timnet_step, "available", lambda: available)
    monkeypatch.setattr(native, "compiler", lambda: compiler)
    (row,) = [row for row in doctor.examine() if row["what"].startswith("networks compiled")]
    assert row["state"] == state
    assert advice in row["advice"]
