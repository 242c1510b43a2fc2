"""Tasks: what is trained is named in the file, and old names are understood."""

import pytest

from serkit.experiment.config import ConfigError, ExperimentConfig
from serkit.experiment.reports import REPORTS
from serkit.experiment.tasks import TASKS, explain_task, load_task, run_task
from serkit.types import InputError


def test_every_task_has_settings_and_a_report():
    assert set(TASKS) == set(REPORTS)
    for name, kind in TASKS.items():
        assert kind.model_fields["task"].default == name


def test_without_a_task_an_experiment_is_about_emotion():
    assert isinstance(load_task("timnet/base", overrides=["corpus.name=emodb"]), ExperimentConfig)


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"task is 'emotions', expected one of .*did you mean"):
        load_task("timnet/base", overrides=["task=emotions", "corpus.name=emodb"])


@pytest.mark.parametrize(
    ("name", "outputs", "decomposition"),
    [
        ("01F_SER", ["emotion"], "none"),
        ("tmp_05M", ["emotion", "asr"], "none"),
        ("single_enc_03F", ["emotion", "asr", "speaker", "reconstruction"], "single"),
        ("02M_test", ["emotion", "asr", "speaker", "reconstruction"], "split"),
    ],
)
def test_runs_of_the_decomposed_system_are_known_by_their_names(name, outputs, decomposition):
    config = load_task(name)
    assert isinstance(config, ExperimentConfig)
    assert [term.output for term in config.objective] == outputs
    assert config.model["decomposition"] == decomposition
    assert config.name == name
    assert config.protocol.split == "recording_folds"
    fold = name.replace("SER", "").replace("single_enc", "").replace("tmp", "").replace("test", "")
    assert config.protocol.only == (f"recording-Ses{fold.strip('_')}",)


def test_resources_that_a_task_has_no_use_for_are_refused(tmp_path):
    config = load_task("self_mm/sims", overrides=["data=none.pkl"])
    with pytest.raises(InputError, match="--memory and --no-cohort are for experiments on emotion"):
        run_task(config, out=tmp_path / "run", memory=1)
    with pytest.raises(InputError, match="--jobs trains folds side by side"):
        run_task(config, out=tmp_path / "run", n_jobs=2)
    with pytest.raises(InputError, match=r"--resume-from is for speech recognisers.*'sentiment'"):
        run_task(config, out=tmp_path / "run", resume_from=tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    ("preset", "key"),
    [
        ("timnet/base", "protocol.split"),
        ("asr/tiny", "augment"),
        ("self_mm/sims", "labels"),
        ("speech_split/tiny", "per_fold"),
    ],
)
def test_keys_are_explained_task_by_task(preset, key):
    assert any(line.startswith(f"{key} ") for line in explain_task(preset).splitlines())
