"""Experiment files: layers, overrides, and errors that name the key."""

import pytest

from serkit.experiment.config import ConfigError, load_experiment, preset_names
from serkit.experiment.keys import explain_keys
from serkit.recognizer import Recognizer, RecognizerConfig

BASE = 'base = "timnet/base"\n[corpus]\nname = "emodb"\n'


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "x.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


TIMNET = [n for n in preset_names() if n.startswith("timnet/") and n != "timnet/cross-corpus"]
EXPERTS = [
    name
    for name in preset_names()
    if name.startswith(("moe/", "light_sernet/")) and name != "moe/cmu-mosei-multi"
]


@pytest.mark.parametrize("name", TIMNET)
@pytest.mark.parametrize("corpus", ["casia", "emodb", "emovo", "iemocap", "ravdess", "savee"])
def test_every_preset_is_valid_for_every_corpus_of_the_paper(name, corpus):
    config = load_experiment(name, overrides=[f"corpus.name={corpus}"])
    assert config.model["name"] == "timnet"
    assert (config.model["n_scales"] == 10) == (corpus == "iemocap")


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("corpus", ["cmu_mosei", "emodb", "iemocap", "ravdess"])
def test_presets_of_the_mixture_of_experts_differ_in_data_alone(name, corpus):
    config = load_experiment(name, overrides=[f"corpus.name={corpus}"])
    base = load_experiment(
        name.rpartition("/")[0] + "/base", overrides=[f"corpus.name={corpus}", "name=x"]
    )
    assert config.model == base.model
    assert config.objective == base.objective
    for key in ("optimizer", "learning_rate", "schedule", "epochs", "batch_size", "penalties"):
        assert getattr(config.training, key) == getattr(base.training, key)


NETWORKS = [name for name in preset_names(fragments=True) if name.startswith("networks/")]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("below", ["moe/honest", "moe/honest+networks/light-sernet-port"])
def test_every_network_can_be_laid_over_either_backbone(below, network):
    config = load_experiment(f"{below}+{network}", overrides=["corpus.name=ravdess"])
    model = Recognizer(
        RecognizerConfig(
            system=config.system,
            classes=("angry", "happy", "neutral", "sad"),
            view=config.view,
            front_end=config.front_end,
            model=config.model,
        )
    ).model
    port = "light-sernet-port" in below + network
    assert (getattr(model.config, "backbone", "macnn") == "light_sernet_port") == port
    assert config.name.endswith(network.rpartition("/")[2])
    assert (len(config.objective) == 2) == ("/level" in network or "/forward" in network)
    assert config.training.learning_rate == (1e-4 if port else 1e-3)


def test_a_fragment_alone_is_refused():
    with pytest.raises(ConfigError, match=r"holds a network alone: .* moe/honest\+networks"):
        load_experiment("networks/level-0", overrides=["corpus.name=emodb"])


def test_published_lengths_follow_the_corpus():
    lengths = {
        corpus: load_experiment("timnet/published-2023", overrides=[f"corpus.name={corpus}"]).view[
            "n_samples"
        ]
        for corpus in ("casia", "emodb", "emovo", "iemocap", "RAVDE", "savee")
    }
    assert lengths == {
        "casia": 88_000,
        "emodb": 96_000,
        "emovo": 96_000,
        "iemocap": 310_000,
        "RAVDE": 110_000,
        "savee": 130_000,
    }


def test_the_default_preset_is_speaker_independent_and_published_ones_are_named():
    honest = load_experiment("timnet/speaker-independent", overrides=["corpus.name=emodb"])
    assert (honest.protocol.split, honest.protocol.dev) == ("leave_one_speaker_out", "speaker")
    assert len(honest.seeds) >= 3
    old = load_experiment("timnet/published-2022", overrides=["corpus.name=emodb"])
    assert (old.protocol.dev, old.training.select_by) == ("test", "war")


def test_cross_corpus_keeps_the_shared_classes():
    config = load_experiment(
        "timnet/cross-corpus", overrides=["corpus.name=emodb", "test_corpus.name=ravdess"]
    )
    assert config.labels.keep == ("angry", "fear", "happy", "neutral", "sad")
    assert config.view["n_samples"] == 100_000


def test_a_file_states_only_the_difference(write):
    path = write(BASE + "[training]\nepochs = 7\n")
    config = load_experiment(path)
    assert (config.training.epochs, config.training.beta1) == (7, 0.93)


def test_bases_are_found_beside_the_file(write):
    write(BASE + "[training]\nepochs = 7\n", "below.toml")
    path = write('base = "below.toml"\n[training]\nbatch_size = 3\n', "above.toml")
    config = load_experiment(path)
    assert (config.training.epochs, config.training.batch_size) == (7, 3)


def test_overrides_come_last(write):
    path = write(BASE + "[training]\nepochs = 7\n[by_corpus.emodb]\ntraining.epochs = 8\n")
    assert load_experiment(path).training.epochs == 8
    assert load_experiment(path, overrides=["training.epochs=9"]).training.epochs == 9
    assert load_experiment(path, overrides=["labels.keep=['angry','sad']"]).labels.keep == (
        "angry",
        "sad",
    )


def test_another_split_starts_from_an_empty_protocol(write):
    path = write(
        'base = "timnet/speaker-independent"\n[corpus]\nname = "ravdess"\n'
        '[protocol]\nsplit = "leave_one_speaker_out"\n'
    )
    protocol = load_experiment(path).protocol
    assert (protocol.split, protocol.n_folds, protocol.n_dev) == ("leave_one_speaker_out", None, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = [", "not valid TOML"),
        (BASE + "[training]\nepoch = 7\n", r"unknown key 'training.epoch'; did you mean 'epochs'"),
        (BASE + "[objectiv]\nx = 1\n", "unknown key 'objectiv'; did you mean 'objective'"),
        (BASE + "[training]\nepochs = -1\n", "training.epochs = -1: input should be greater"),
        (BASE + '[training]\nselect = "test"\n', 'training.select = "test": input should be'),
        (BASE + '[[objective]]\nlos = "mse"\n', "unknown key 'objective.0.los'"),
        ('base = "timnet/base"\n', "names no corpus"),
        ('base = "timnet/base"\n[corpus]\nroot = "x"\n', "corpus.name or corpus.manifest"),
        ('base = "timnet/bass"\n', r"no experiment 'timnet/bass'.*did you mean timnet/base"),
        ('base = "speech_split/f0-convert"\n', "did you mean speech_split/f0-converter"),
        ('base = "light_sernet"\n', "mean light_sernet/as-described or light_sernet/base or"),
        ('base = "gone.toml"\n', "no such experiment file"),
        ('[corpus]\nname = "emodb"\n', "key 'name' is missing"),
        ('by_corpus = 3\n[corpus]\nname = "emodb"\n', "by_corpus must be a table"),
    ],
)
def test_mistakes_are_named_in_one_line(write, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(write(text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected key.key=value"),
        ("=3", "expected key.key=value"),
        ("training.epochs=many", 'training.epochs = "many": input should be a valid integer'),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment("timnet/base", overrides=["corpus.name=emodb", override])


def test_conflicting_overrides_are_named():
    with pytest.raises(ConfigError, match="was already set to a value"):
        load_experiment("timnet/base", overrides=["corpus=3", "corpus.name=emodb"])


def test_a_base_that_names_itself_is_refused(write):
    path = write('base = "x.toml"\n')
    with pytest.raises(ConfigError, match="names itself as base"):
        load_experiment(path)


def test_missing_files_and_presets_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such experiment file"):
        load_experiment(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="did you mean timnet/published-2023"):
        load_experiment("timnet/published-2033")


def test_a_seed_twice_is_refused():
    with pytest.raises(ConfigError, match=r"seeds = \[1, 1\]: holds a seed twice"):
        load_experiment(
            "timnet/speaker-independent", overrides=["corpus.name=emodb", "seeds=[1, 1]"]
        )


@pytest.mark.parametrize("preset", ["light_sernet/honest", "mmer/honest", "moe/honest"])
def test_dialogue_partners_and_videos_are_kept_together_by_the_honest_presets(preset):
    iemocap = load_experiment(preset, overrides=["corpus.name=iemocap"]).protocol
    assert (iemocap.split, iemocap.dev) == ("leave_one_session_out", "session")
    mosei = load_experiment(preset, overrides=["corpus.name=cmu_mosei"])
    assert (mosei.protocol.split, mosei.protocol.n_folds) == ("speaker_folds", 5)
    assert set(mosei.labels.keep) == {"angry", "happy", "neutral", "sad"}


def test_every_key_is_explained():
    text = explain_keys()
    assert "Undefined" not in text
    for key in ("training.epochs", "protocol.split", "corpus.allow_incomplete", "labels.keep"):
        assert any(line.startswith(f"{key} ") for line in text.splitlines()), key


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["corpus.name=emodb"], "timnet-emodb"),
        (["corpus.name=emodb", "name=my-emodb"], "my-emodb"),
        (["corpus.manifest=some/where.csv"], "timnet-where"),
    ],
)
def test_run_folders_are_named_after_experiment_and_corpus(overrides, expected):
    assert load_experiment("timnet/base", overrides=overrides).run_name == expected


VARIANTS = [name for name in preset_names(fragments=True) if name.startswith("variants/")]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("below", ["base", "published", "small"])
def test_every_variant_can_be_laid_over_every_base_of_decomposed_speech(below, variant):
    config = load_experiment(
        f"decomposed/{below}+{variant}", overrides=["corpus.name=iemocap", "ctc.symbols=wav2vec2"]
    )
    outputs = {term.output for term in config.objective}
    decoded = config.parts is not None and config.model.get("reconstruct", True)
    assert ("reconstruction" in outputs) == decoded
    assert (config.parts is None) == (variant in ("variants/ser-only", "variants/ser-asr"))
    assert config.name.endswith(variant.rpartition("/")[2])
    assert config.protocol.split == (
        "recording_folds" if below == "published" else "leave_one_session_out"
    )


def test_published_decomposed_speech_says_how_its_losses_are_reduced():
    config = load_experiment("decomposed/as-published", overrides=["corpus.name=iemocap"])
    by_output = {term.output: term for term in config.objective}
    assert by_output["asr"].ctc_reduction == "sum"
    assert not by_output["asr"].zero_infinity
    assert not by_output["reconstruction"].mask_padding
    assert config.model["mask_pooling"] is False
    assert config.training.select == "last"
    assert config.training.learning_rate == 5e-5
