"""Every model keeps the contract."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from serkit import models
from serkit.models import MODELS, build_model
from serkit.types import InputError

# Parts of models, and importers of other programs' weights.
_HELPERS = {
    "__init__",
    "first_stage",
    "head_fusion",
    "layers",
    "mmer_import",
    "native",
    "norm_pool",
    "norming",
    "reading",
}
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


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("macnn", {"n_hidden": 10**9}, r"has [\d,]{14,} weights, expected at most 500,000,000"),
        ("macnn", {"n_heads": 10**24}, "a network of these sizes cannot be built"),
        ("decomposed", {"n_symbols": 10**7}, r"has [\d,]{11,} weights, expected at most"),
    ],
)
def test_networks_beyond_any_machine_are_refused_before_memory_is_taken(
    name: str, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_model(name, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_counting_the_weights_first_changes_no_weight(name: str, contract: ModuleType) -> None:
    model, _ = MODELS[name]
    counted = contract.build(name)
    torch.manual_seed(0)
    alone = model(counted.config).state_dict()
    assert all(torch.equal(tensor, alone[key]) for key, tensor in counted.state_dict().items())
