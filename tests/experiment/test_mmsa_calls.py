"""MMSA's calls: its names for settings, and runs that leave what its users look for."""

import json

import pytest

from experiment.toy_clips import toy_clips
from serkit.clip_data import write_clip_data
from serkit.experiment.config import ConfigError
from serkit.experiment.originals.mmsa_calls import (
    DATASETS,
    MMSA_run,
    MSA_run,
    get_config,
    get_config_regression,
)
from serkit.experiment.tasks import load_task
from serkit.models.self_mm import SELF_MM_PRESETS
from serkit.training.unimodal_labels import GROUP_RATES, LABEL_RANGES

SETTINGS = {"text": {"name": "small", "n_features": 8}, "tokens": "own", "training.epochs": 2}


@pytest.mark.parametrize("dataset", DATASETS)
def test_presets_hold_the_published_numbers(dataset):
    config = load_task(f"self_mm/{dataset}")
    for key, value in config.model.items():
        assert getattr(SELF_MM_PRESETS[dataset], key) == value
    rates, published = config.rates, GROUP_RATES[dataset]
    for stream in ("text", "audio", "vision"):
        assert getattr(rates, stream) == getattr(published, f"{stream}_rate")
        assert getattr(rates, f"{stream}_decay") == getattr(published, f"{stream}_decay")
    assert config.training.learning_rate == published.other_rate
    assert config.training.weight_decay == published.other_decay
    assert config.training.batch_size == published.batch_size
    assert config.training.accumulate == published.accumulate
    assert (config.training.accumulate_by, config.training.remainder) == ("sum", "drop")
    assert config.labels.label_range == LABEL_RANGES[dataset]
    assert config.seeds == (1111, 1112, 1113, 1114, 1115)


def test_settings_have_the_names_of_mmsa():
    config = get_config("SELF_MM", "SIMS")
    assert config == get_config_regression("self_mm", "sims")
    assert (config["model_name"], config["dataset_name"]) == ("self_mm", "sims")
    assert config["learning_rate_bert"] == 5e-5
    assert config["post_fusion_dim"] == 128
    assert config["H"] == 1.0
    assert config["update_epochs"] == 4
    assert get_config("mtme", "sims")["H"] == 1.0


def test_a_run_leaves_what_users_of_mmsa_look_for(tmp_path):
    path = write_clip_data(toy_clips(), tmp_path / "clips.npz")
    config = get_config("self_mm", "sims") | {
        "featurePath": str(path),
        "batch_size": 8,
        "post_text_dim": 20,
    }
    report = MSA_run(
        "self_mm",
        "sims",
        config=config,
        seeds=[7, 8],
        model_save_dir=tmp_path / "models",
        res_save_dir=tmp_path / "results",
        log_dir=tmp_path / "logs",
        settings=SETTINGS,
    )
    assert report == tmp_path / "models" / "self_mm-sims" / "report.html"
    assert (tmp_path / "results" / "sims.csv").read_text().startswith("Model,Mult_acc_2,")
    assert len((tmp_path / "logs" / "self_mm-sims.csv").read_text().splitlines()) == 5
    stored = json.loads((report.parent / "config.json").read_text())
    assert stored["training"]["batch_size"] == 8
    assert stored["model"]["n_text_units"] == 20
    assert stored["seeds"] == [7, 8]
    for seed in (7, 8):
        folder = report.parent / "members" / f"official-seed{seed}" / "model"
        assert (folder / "model.safetensors").exists()


def test_features_can_be_given_apart(tmp_path):
    path = write_clip_data(toy_clips(), tmp_path / "clips.npz")
    other = write_clip_data(toy_clips(), tmp_path / "other.npz")
    report = MMSA_run(
        "self_mm",
        "sims",
        seeds=[1],
        num_workers=4,
        model_save_dir=tmp_path / "models",
        res_save_dir=tmp_path / "results",
        log_dir=tmp_path / "logs",
        custom_feature=str(path),
        feature_A=str(other),
        settings=SETTINGS | {"training.batch_size": 8},
    )
    stored = json.loads((report.parent / "config.json").read_text())
    assert stored["streams"] == {"text": None, "audio": str(other), "vision": None}
    assert stored["data"] == str(path)


def test_what_is_not_there_is_said():
    with pytest.raises(ConfigError, match=r"no settings for model 'tfn' on 'sims': .*self_mm on"):
        get_config("tfn", "sims")
    with pytest.raises(ConfigError, match="no settings for model 'mtme' on 'mosi'"):
        get_config("mtme", "mosi")
    with pytest.raises(ConfigError, match=r"config\['smell'\]: unknown; expected one of"):
        MSA_run("self_mm", "sims", config={"smell": 1})
    with pytest.raises(ConfigError, match=r"config\['model_name'\] is not 'self_mm'"):
        MSA_run("self_mm", "sims", config=get_config("mtme", "sims"))
    with pytest.raises(ConfigError, match=r"unknown key 'training\.smell'"):
        MSA_run("self_mm", "sims", settings={"training.smell": 1})
