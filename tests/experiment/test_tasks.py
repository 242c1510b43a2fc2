"""Tasks: what is trained is named in the file, and old names are understood."""

import pytest

from serkit.experiment.config import ConfigError, ExperimentConfig, preset_names
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


@pytest.mark.parametrize("name", ["06F_SER", "tmp_1F", "single_enc_03f", "00M_test"])
def test_a_run_of_no_published_fold_is_refused_with_the_folds_there_are(name):
    with pytest.raises(ConfigError, match=rf"^{name}: no fold .*runs are 01F, 01M, .*05M$"):
        load_task(name)


def test_resources_that_a_task_has_no_use_for_are_refused(tmp_path):
    config = load_task("self_mm/sims", overrides=["data=none.pkl"])
    with pytest.raises(InputError, match="--memory and --no-cohort are for experiments on emotion"):
        run_task(config, out=tmp_path / "run", memory=1)
    with pytest.raises(InputError, match="--jobs trains folds side by side"):
        run_task(config, out=tmp_path / "run", n_jobs=2)
    with pytest.raises(InputError, match=r"--resume-from is for speech recognisers.*'sentiment'"):
        run_task(config, out=tmp_path / "run", resume_from=tmp_path / "state.safetensors")


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("timnet/base", "protocol.split  (str; default 'leave_one_speaker_out')"),
        ("timnet/base", "model.n_scales  (int; default 8)  depths; the authors use 10 for IEMOCAP"),
        ("timnet/base", "front_end.n_mfcc  (int; default 20; here 39)"),
        ("timnet/base", "training.epochs  (int; default 100; here 500)"),
        ("asr/tiny", "augment  ("),
        ("asr/tiny", "model.width  (int; default 256; here 96)"),
        ("self_mm/sims", "labels."),
        (
            "self_mm/sims",
            "model.missing  (Literal['zero', 'learned']; default 'zero')  What stands",
        ),
        ("speech_split/tiny", "per_fold  ("),
        ("speech_split/small", "model.sizes.content_width  (int; default 512; here 64)  channels"),
        ("decomposed/small+variants/final", "parts.f0_tracker  (str; default 'nccf')"),
        ("encoders/frozen", "front_end.layer  (Literal['last', 'weighted'] | int; default 'last'"),
        ("tmp_01F", "corpus.name  (str | None; default None; here 'iemocap')"),
    ],
)
def test_keys_are_explained_with_what_the_experiment_chooses(preset, line):
    assert any(one.startswith(line) for one in explain_task(preset).splitlines())


@pytest.mark.parametrize("preset", preset_names())
def test_every_experiment_explains_its_network(preset):
    lines = explain_task(preset).splitlines()
    assert sum(line.startswith("model.") for line in lines) > 3
    assert not any(word in line for line in lines for word in ("MISSING", ":func:", "<class"))


def test_a_network_of_another_name_is_explained():
    lines = explain_task("timnet/base", overrides=["model.name=macnn"]).splitlines()
    assert "model.n_hidden  (int; default 64)  of a head" in lines
    assert not any(line.startswith("model.n_scales") for line in lines)
