"""The worked example of docs/adding-a-model.md is executed and held to the contract."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from serkit import models
from serkit.experiment.config import load_experiment
from serkit.models import MODELS
from serkit.recognizer import Recognizer, RecognizerConfig

_PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put the page's model into the dict and give its key."""
    blocks = re.findall(r"^```python\n(.*?)^```$", _PAGE.read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 1
    file = tmp_path / "mean_std.py"
    file.write_text(blocks[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mean_std", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mean_std", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(MODELS, "mean_std", (module.MeanStd, module.MeanStdConfig))
    return "mean_std"


def test_documented_example_keeps_the_contract(
    example: str, contract: ModuleType, tmp_path: Path
) -> None:
    contract.assert_contract(example, tmp_path)


def test_documented_line_has_the_form_of_the_dict() -> None:
    assert '    "mean_std": (MeanStd, MeanStdConfig),\n' in _PAGE.read_text("utf-8")
    source = Path(models.__file__).read_text("utf-8")
    assert '    "timnet": (TimNet, TimNetConfig),\n' in source


def test_documented_experiments_are_accepted(example: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```\n(base = .*?)^```$", _PAGE.read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 2
    configs = []
    for i, block in enumerate(blocks):
        file = tmp_path / f"{i}.toml"
        file.write_text(block, encoding="utf-8")
        overrides = () if "[corpus]" in block else ("corpus.name=emodb",)
        configs.append(load_experiment(file, overrides=overrides))
    own, authors = configs
    assert own.model == {"name": example, "n_hidden": 64}
    assert authors.corpus.features == "CASIA.npy"
    recognizer = Recognizer(
        RecognizerConfig(
            system=own.system,
            classes=("angry", "sad"),
            view=own.view,
            front_end=own.front_end,
            model=own.model,
        )
    )
    assert type(recognizer.model).__name__ == "MeanStd"
