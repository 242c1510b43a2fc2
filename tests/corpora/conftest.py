from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def contract() -> ModuleType:
    """The checks of contract.py, which is not a test module and so not imported by pytest."""
    path = Path(__file__).with_name("contract.py")
    spec = importlib.util.spec_from_file_location("corpora_contract", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corpora_dir() -> Path:
    """The folder of real corpora; without it tests marked `corpus` are skipped."""
    folder = os.environ.get("SERKIT_CORPORA")
    if not folder:
        pytest.skip("SERKIT_CORPORA does not name a folder of real corpora")
    return Path(folder)
