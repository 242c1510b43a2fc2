"""Every model keeps the contract."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from serkit import models
from serkit.models import MODELS, build_model
from serkit.types import InputError

# Parts of models, and importers of other programs' weights.
_HELPERS = {"__init__", "first_stage", "layers", "mmer_import", "native", "reading"}
_HELPERS |= {"timnet_keras", "timnet_step"}
_HELPERS |= {"asr", "asr_parts", "attention_decoder", "conformer", "ctc_decode", "resampling"}
# Networks of other tasks than to name an emotion.
_OTHER_TASKS = {"self_mm", "speech_split"}
_OTHER_TASKS |= {"conformer_ctc", "deepspeech2", "efficient_conformer", "squeezeformer"}

ASSERTIONS = (
    "assert_header",
    "assert_config_survives",
    "assert_outputs",
    "assert_every_parameter_learns",
    "assert_padding_is_inert",
    "assert_batch_is_inert",
    "assert_memorizes",
)


@pytest.mark.parametrize("assertion", ASSERTIONS)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_keeps_the_contract(name: str, assertion: str, contract: ModuleType) -> None:
    getattr(contract, assertion)(name)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_survives_a_checkpoint(name: str, contract: ModuleType, tmp_path: Path) -> None:
    contract.assert_checkpoint_survives(name, tmp_path)


def test_every_file_in_models_is_listed() -> None:
    folder = Path(models.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - _HELPERS - _OTHER_TASKS
    homes = {model.__module__.rpartition(".")[2] for model, _ in MODELS.values()}
    missing = sorted(files - homes)
    assert not missing, (
        f"{missing[0]}.py is in serkit/models but no model of it is in the dict: add "
        f'"{missing[0]}": (Model, ModelConfig) to MODELS in serkit/models/__init__.py'
    )
    assert homes <= files


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"model\.name is 'timnot', expected one of .*timnet"):
        build_model("timnot", {})
    with pytest.raises(InputError, match=r"model\.depth: unknown setting; .*n_scales"):
        build_model("timnet", {"depth": 8})
