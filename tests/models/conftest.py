"""Fixtures that hand out helper modules, loaded by path because the tests are no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"models_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def goldens() -> ModuleType:
    """Formula weights and the authors' numbers for them."""
    return load("golden_timnet")


@pytest.fixture(scope="session")
def contract() -> ModuleType:
    """The checks of contract.py."""
    return load("contract")


@pytest.fixture(scope="session")
def moe_goldens() -> ModuleType:
    """The same for MACNN, the Light-SERNet port and their fusions."""
    return load("golden_moe")
