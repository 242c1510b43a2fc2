"""Fixtures that hand out the toy run, loaded by path because the tests are no package."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from serkit.evaluation import Predictions


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy_run", Path(__file__).parent / "toy_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy_predictions(toy: ModuleType) -> Callable[..., Predictions]:
    return toy.toy_predictions


@pytest.fixture
def write_toy_run(toy: ModuleType) -> Callable[..., Path]:
    return toy.write_toy_run


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a file and give its path."""

    def write(*lines: str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
