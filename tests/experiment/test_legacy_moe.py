"""Settings of the public mixture-of-experts code as experiments."""

import json
import sys

import pytest

from serkit import cli
from serkit.experiment.config import ConfigError, experiment_from_table, load_experiment
from serkit.experiment.originals.moe import (
    Translation,
    import_config,
    load_legacy_experiment,
    read_legacy,
    translate,
)
from serkit.models import build_model
from serkit.models.expert_fusion import published_settings
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.types import InputError

LEVELS = [*range(7), *range(-7, -1)]
SEED_CONFIG = """
MIXTUREOFEXPERTS = false
FUSION_LEVEL = 0
SKIP_FINAL_FC = true
FC_BIAS = true
SAVE_IND_EXPERTS = false
LIKE_IEMOCAP = true
ACTIVATION = "nn.Sigmoid()"

MODEL_NAME = "test"
MODEL_TYPE = "MACNN"
DATASET = "iemocap"
NUM_FOLDS = 5

BATCH_SIZE = 32
EPOCHS = 50
SEEDS = [111111, 123456, 0, 999999, 987654]
"""


def experiment(**settings):
    return experiment_from_table(translate(settings).table, source="settings")


def network(config):
    recognizer = RecognizerConfig(
        system=config.system,
        classes=("angry", "happy", "neutral", "sad"),
        view=config.view,
        front_end=config.front_end,
        model=config.model,
    )
    return Recognizer(recognizer).model


def about(notes, word: str) -> list[str]:
    return [note for note in notes if word in note]


def test_the_settings_of_the_original_readme_are_the_published_baseline(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(SEED_CONFIG, encoding="utf-8")
    config, notes = load_legacy_experiment(path, overrides=["corpus.root=here"])
    published = load_experiment(
        "moe/published-2025", overrides=["corpus.name=iemocap", "corpus.root=here", "name=test"]
    )
    assert config == published
    # What the flag says is for another corpus.
    assert about(notes, "LIKE_IEMOCAP and EMO_THRESHOLD are for DATASET = cmu alone")


def test_without_any_setting_the_defaults_of_the_code_hold():
    assert experiment() == experiment(
        MIXTUREOFEXPERTS=False, FUSION_LEVEL=0, EPOCHS=50, BATCH_SIZE=32, LEARNING_RATE=1e-3
    )


@pytest.mark.parametrize("final_layer", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["MACNN", "LightSERNet"])
def test_every_level_becomes_the_published_network(kind, level, final_layer):
    config = experiment(
        MODEL_TYPE=kind,
        MIXTUREOFEXPERTS=True,
        FUSION_LEVEL=level,
        SKIP_FINAL_FC=not final_layer,
    )
    backbone = "macnn" if kind == "MACNN" else "light_sernet_port"
    settings = published_settings(backbone, level, final_layer=final_layer and level >= 0)
    assert network(config).config == build_model("expert_fusion", settings).config
    losses = [(term.output, term.loss) for term in config.objective]
    main = ("emotion", "cross_entropy")
    assert losses == ([main, ("experts", "bce")] if level >= 0 else [main])
    assert config.training.learning_rate == (1e-3 if kind == "MACNN" else 1e-4)


@pytest.mark.parametrize(
    ("settings", "n_parameters"),
    [
        ({"MODEL_TYPE": "MACNN"}, 155_636),
        ({"MODEL_TYPE": "MACNN", "FUSION_LEVEL": -1}, 618_468),
        ({"MODEL_TYPE": "MACNN_x4"}, 618_468),
        ({"MODEL_TYPE": "MACNN_x4", "FUSION_LEVEL": -1}, 618_468),
        ({"MODEL_TYPE": "LightSERNet"}, 423_876),
        ({"MODEL_TYPE": "LightSERNet", "FUSION_LEVEL": 22}, 1_687_428),
    ],
)
def test_without_experts_the_network_is_the_backbone_or_its_control(settings, n_parameters):
    model = network(experiment(**settings))
    assert sum(p.numel() for p in model.parameters()) == n_parameters


def test_bias_and_heads_are_heard_where_the_code_hears_them():
    level = {"MIXTUREOFEXPERTS": True, "SKIP_FINAL_FC": False}
    assert experiment(**level, FC_BIAS=False).model["mixer_bias"] is False
    heads = experiment(attention_head=2, attention_hidden=32).model
    assert (heads["n_heads"], heads["n_hidden"]) == (2, 32)
    ignored = translate({"MODEL_TYPE": "LightSERNet", "attention_head": 2})
    assert about(ignored.notes, "attention_head and attention_hidden are for MACNN alone")


def test_tables_and_flat_names_mean_the_same():
    flat = translate({"DATASET": "ravdess", "EPOCHS": 3, "SEEDS": [7, 8]})
    assert (
        translate({"data": {"DATASET": "ravdess"}, "run": {"EPOCHS": 3, "SEEDS": [7, 8]}}) == flat
    )
    config = experiment_from_table(flat.table, source="settings")
    assert (config.corpus.name, config.training.epochs, config.seeds) == ("ravdess", 3, (7, 8))
    assert config.protocol.split_seed == 7


def test_numbers_of_the_training_are_taken_over():
    config = experiment(BATCH_SIZE=8, LEARNING_RATE=0.01, WEIGHT_DECAY=0, MODEL_NAME="mine")
    training = config.training
    assert (training.batch_size, training.learning_rate, training.weight_decay) == (8, 0.01, 0)
    assert config.name == "mine"


@pytest.mark.parametrize(
    ("settings", "protocol"),
    [
        ({}, ("rotating_folds", "test", 5)),
        ({"NUM_FOLDS": 4}, ("rotating_folds", "test", 4)),
        ({"RUN_INFERENCE": "Test"}, ("rotating_folds", "test", 5)),
        ({"MoE": False}, ("rotating_folds", "test", 5)),
        ({"MoE": False, "RUN_INFERENCE": "Test"}, ("rotating_folds_held_out", "rotating", 5)),
        ({"SPEAKER_IND": True}, ("leave_one_session_out", "test", None)),
        ({"SPEAKER_IND": True, "DATASET": "ravdess"}, ("speaker_folds", "test", 5)),
    ],
)
def test_folds_are_those_of_the_code(settings, protocol):
    config = experiment(**settings)
    found = config.protocol
    assert (found.split, found.dev, found.n_folds) == protocol


def test_the_code_of_2022_is_known_by_its_names():
    config = experiment(MoE=True, FUSION_LEVEL=-3, CLASS_WEIGHTS=True, CLIP_LENGTH=2)
    published = load_experiment(
        "moe/published-2022+networks/backward-3", overrides=["corpus.name=iemocap"]
    )
    assert (config.view, config.front_end, config.model) == (
        *(published.view, published.front_end),
        published.model,
    )
    assert [term.class_weights for term in config.objective] == ["rarest_share"]


@pytest.mark.parametrize(
    ("settings", "hops"),
    [
        ({"T_STRIDE": 2}, (32_000, 16_000, 6399)),
        ({"T_STRIDE": 3, "T_OVERLAP": 2}, (48_000, 16_000, 22_400)),
        ({"T_STRIDE": 1}, (16_000, 8000, 8000)),  # an overlap of 1.6 s does not fit
        ({"T_OVERLAP": 0.5}, (32_000, 24_000, 6399)),
        ({"VALIDATION_OVERLAP": 1.5}, (32_000, 16_000, 8000)),
        ({"CLIP_LENGTH": 2}, (32_000, 16_000, 6400)),
    ],
)
def test_segments_and_hops(settings, hops):
    view = experiment(**settings).view
    assert (view["n_samples"], view["train_hop"], view["test_hop"]) == hops


def test_segments_are_joined_by_the_named_rule():
    assert experiment(acc_type="majority_vote").view["aggregation"] == "majority_vote"


def test_weighted_losses_are_those_of_2025():
    config = experiment(MIXTUREOFEXPERTS=True, USE_WEIGHTS_FOR_LOSS=True)
    assert [(t.output, t.loss, t.class_weights) for t in config.objective] == [
        ("emotion", "cross_entropy", "one_minus_share"),
        ("experts", "bce", "one_minus_share"),
    ]


def test_cmu_mosei_has_several_classes_to_a_clip_unless_it_is_like_iemocap():
    config = experiment(DATASET="cmu", MIXTUREOFEXPERTS=True, EMO_THRESHOLD=1, DATASET_PATH="m")
    assert config.labels.multi
    assert config.corpus.options == {"threshold": 1.0, "multi_label": True}
    assert (config.corpus.name, config.corpus.root) == ("cmu_mosei", "m")
    assert [(t.output, t.loss, t.reduction) for t in config.objective] == [
        ("emotion", "bce", "mean"),
        ("experts", "bce", "sum"),
    ]
    single = experiment(DATASET="cmu", LIKE_IEMOCAP=True)
    assert not single.labels.multi
    assert single.corpus.options == {"threshold": 0.5, "conflicts": "first_two"}
    assert [t.loss for t in single.objective] == ["cross_entropy"]


def test_styles_and_emotions_are_chosen_by_the_codes_of_the_code():
    assert experiment(impro_or_script="script").corpus.options == {"style": "scripted"}
    assert experiment(SESSION_TYPE="both").corpus.options == {"style": "all"}
    eight = {f"{code:02d}": "" for code in range(1, 9)}
    config = experiment(DATASET="ravdess", EMOTIONS_TO_USE=eight)
    assert len(config.labels.keep) == 8
    happy = experiment(EMOTIONS_TO_USE={"01": "neutral", "03": "happy", "04": "sad"})
    assert happy.labels.keep == ("happy", "neutral", "sad")
    both = experiment(EMOTIONS_TO_USE={"03": "happy", "05": "angry", "07": "happy"})
    assert (both.labels.keep, both.labels.map) == (("angry", "happy"), {"excited": "happy"})
    old = experiment(MoE=True, EMOTIONS_TO_USE={"04": "excited", "06": "angry"})
    assert old.labels.keep == ("angry", "excited")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"SKIP_FINAL_FC": False}, "SKIP_FINAL_FC = false has no effect"),
        (
            {"SKIP_FINAL_FC": False, "MIXTUREOFEXPERTS": True, "FUSION_LEVEL": -3},
            "SKIP_FINAL_FC = false has no effect",
        ),
        ({"FC_BIAS": False}, "FC_BIAS = false without effect"),
        ({"ACTIVATION": "nn.Tanh()", "FC_BIAS": False}, "FC_BIAS = false and ACTIVATION = Tanh"),
        ({"RUN_INFERENCE": "Test"}, "moe/published-2022 has a test fold of its own"),
        ({"SAVE_IND_EXPERTS": True}, "serkit export-experts"),
        ({"SPEAKER_IND": True}, "every fold is judged once"),
        ({"SPEAKER_IND": True}, "NUM_FOLDS has no effect: a fold is a session"),
        ({"EXP_DIR": "x", "WAV_PATH": "y"}, "EXP_DIR, WAV_PATH: not used"),
        ({"ALPHA_MAIN": 2, "VAL_OVERLAP": 1}, "ALPHA_MAIN, VAL_OVERLAP: without effect"),
        ({"CLASS_DICT": {"neutral": 0}}, "CLASS_DICT: not used"),
        ({"DATASET": "ravdess", "impro_or_script": "all"}, "impro_or_script is for"),
        (
            {"MODEL_TYPE": "LightSERNet", "MIXTUREOFEXPERTS": True, "FUSION_LEVEL": 2},
            "stops with an error at level 2 of LightSERNet",
        ),
    ],
)
def test_what_has_no_effect_or_another_one_is_said(settings, word):
    notes = translate(settings).notes
    assert len(about(notes, word)) == 1, notes
    assert about(notes, "one epoch is selected, by UAR (UA)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FUSION_LVL": 3}, r"FUSION_LVL: not a setting of the code; did you mean FUSION_LEVEL\?"),
        ({"Acc_Type": "x"}, r"did you mean acc_type\?"),
        ({"xyzzy": 3}, "xyzzy: not a setting of the code; known: MIXTUREOFEXPERTS"),
        ({"a": {"EPOCHS": 3}, "EPOCHS": 3}, "EPOCHS is stated twice: keep one"),
        ({"MoE": True, "SKIP_FINAL_FC": True}, "MoE is a setting of the code of 2022 and SKIP_FI"),
        ({"FUSION_LEVEL": "3"}, 'settings.FUSION_LEVEL = "3": input should be a valid integer'),
        ({"MODEL_TYPE": "CNN"}, "settings.MODEL_TYPE = .*'MACNN', 'MACNN_x4' or 'LightSERNet'"),
        ({"SEEDS": []}, "settings.SEEDS"),
        ({"T_STRIDE": float("inf")}, "settings.T_STRIDE"),
        ({"T_STRIDE": 604_800.0}, "settings.T_STRIDE = 604800.0: .* less than or equal to 3600"),
        ({"MIXTUREOFEXPERTS": True, "FUSION_LEVEL": -1}, "for which the code builds none"),
        ({"MIXTUREOFEXPERTS": True, "FUSION_LEVEL": 22}, "for which the code builds none"),
        ({"FUSION_LEVEL": 22}, "twice the width is -1 for MODEL_TYPE = MACNN"),
        ({"MODEL_TYPE": "LightSERNet", "FUSION_LEVEL": -1}, "is 22 for MODEL_TYPE = LightSERNet"),
        ({"MIXTUREOFEXPERTS": True, "FUSION_LEVEL": 7}, "FUSION_LEVEL = 7: expected 0"),
        ({"MIXTUREOFEXPERTS": True, "FUSION_LEVEL": -8}, "is level 0 with SKIP_FINAL_FC = false"),
        ({"FUSION_LEVEL": 3}, "FUSION_LEVEL = 3 needs MIXTUREOFEXPERTS = true"),
        ({"MODEL_TYPE": "MACNN_x4", "MIXTUREOFEXPERTS": True}, "is one network without experts"),
        ({"MODEL_TYPE": "MACNN_x4", "FUSION_LEVEL": 3}, "is one network without experts"),
        (
            {"MIXTUREOFEXPERTS": True, "SKIP_FINAL_FC": False, "ACTIVATION": "nn.Tanh()"},
            "ACTIVATION = Tanh: before the final layer stands a sigmoid",
        ),
        ({"SKIP_TRAIN": True}, "SKIP_TRAIN = true trains nothing.*serkit report"),
        ({"overlapTime": {"sad": 2}}, "overlapTime.sad = 2: a hop of its own"),
        ({"RATE": 8000}, "RATE = 8000: the preset is made for 16000"),
        ({"DATASET": "cmu", "USE_WEIGHTS_FOR_LOSS": True}, "no class weights for clips of several"),
        ({"MoE": True, "DATASET": "cmu"}, "DATASET = cmu came to the code in 2025"),
        ({"MoE": True, "MODEL_TYPE": "LightSERNet"}, "MODEL_TYPE = LightSERNet came to the code"),
        ({"EMOTIONS_TO_USE": {"09": "xxx"}}, "no emotion has the code '09' in iemocap of 2025"),
        ({"DATASET": "cmu", "EMOTIONS_TO_USE": {"0": "happy"}}, "leave it out"),
        ({"MODEL_NAME": "../esc"}, "MODEL_NAME = '../esc'"),
        ({"MODEL_NAME": r"a\b"}, "MODEL_NAME = "),
        ({"MODEL_NAME": ".."}, "MODEL_NAME = '..'"),
        ({"MODEL_NAME": ""}, "MODEL_NAME = ''"),
        ({"SEEDS": [1, 1]}, r"SEEDS = \[1, 1\]: holds a seed twice"),
        ({"T_STRIDE": 1e-9}, "T_STRIDE = 1e-09: makes n_samples 0 samples"),
        ({"T_STRIDE": 1.60001}, "T_STRIDE = 1.60001: makes test_hop 0 samples"),
        ({"T_OVERLAP": 1.99999}, "T_OVERLAP = 1.99999: makes train_hop 0 samples"),
        ({"VALIDATION_OVERLAP": 1.99999}, "VAL_OVERLAP = 1.99999: makes test_hop 0 samples"),
        ({"attention_head": 0}, "attention_head = 0"),
        ({"attention_hidden": -1}, "attention_hidden = -1"),
        ({"EMOTIONS_TO_USE": {}}, "EMOTIONS_TO_USE: keeps no class"),
        ({"EMOTIONS_TO_USE": {"03": "h", "07": "h"}}, "EMOTIONS_TO_USE: keeps happy, expected"),
        ({"EMO_THRESHOLD": float("nan")}, "EMO_THRESHOLD = NaN"),
        ({"EMO_THRESHOLD": 3.0}, "EMO_THRESHOLD = 3.0"),
    ],
)
def test_contradictions_and_mistakes_are_one_sentence(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        translate(settings)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        read_legacy(tmp_path / "none.toml")
    path = tmp_path / "config.toml"
    path.write_text("ACTIVATION = nn.Sigmoid()", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.toml: not valid TOML"):
        read_legacy(path)
    path.write_text("EPOCH = 3", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.toml: EPOCH: .*did you mean EPOCHS"):
        read_legacy(path)
    path.write_text("EPOCHS = 0", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.toml: training.epochs = 0"):
        import_config(path, None)
    path.write_text("EPOCHS = 3", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        import_config(path, path / "out.toml")


def test_an_experiment_file_that_exists_is_kept(tmp_path):
    path, out = tmp_path / "config.toml", tmp_path / "out.toml"
    path.write_text("EPOCHS = 3", encoding="utf-8")
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"out\.toml: already exists"):
        import_config(path, out)
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"MIXTUREOFEXPERTS": True, "FUSION_LEVEL": 3, "SEEDS": [1, 2], "DATASET": "ravdess"},
        {"DATASET": "cmu", "DATASET_PATH": 'a "b" \\ c', "MIXTUREOFEXPERTS": True},
        {"EMOTIONS_TO_USE": {"03": "happy", "04": "sad", "07": "happy"}, "LEARNING_RATE": 1e-5},
    ],
)
def test_the_written_experiment_is_the_translated_one(settings, tmp_path):
    translation = translate(settings)
    path = tmp_path / "experiment.toml"
    path.write_text(translation.to_toml(source="config.toml"), encoding="utf-8")
    assert load_experiment(path) == experiment_from_table(translation.table, source="settings")


def test_notes_are_comments_of_one_line():
    text = Translation({"name": "x"}, ("a\nb",)).to_toml(source="config.toml")
    assert text == '# Translated from config.toml.\n# Note: a b.\nname = "x"\n'


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def test_the_command_translates_to_a_file_or_the_screen(command, tmp_path):
    path, out = tmp_path / "config.toml", tmp_path / "experiment.toml"
    path.write_text("MIXTUREOFEXPERTS = true\nFUSION_LEVEL = 2\n", encoding="utf-8")
    code, printed, _ = command("import-config", path)
    assert code == 0
    assert 'base = ["moe/published-2025", "networks/forward-2"]' in printed
    code, _, err = command("import-config", path, "-o", out)
    assert code == 0
    assert "note: the code reports each metric" in err
    assert out.read_text(encoding="utf-8") == printed
    code, printed, _ = command("import-config", path, "--json")
    assert set(json.loads(printed)) == {"experiment", "file", "notes"}


def test_the_command_trains_on_settings_of_the_code(command, tone_corpus, tmp_path):
    path, out = tmp_path / "config.toml", tmp_path / "run"
    path.write_text('MIXTUREOFEXPERTS = true\nMODEL_NAME = "mine"\nEPOCHS = 1\n', encoding="utf-8")
    corpus = f"corpus={{name='folder', root={json.dumps(str(tone_corpus))}}}"
    settings = [corpus, "labels.keep=['happy','sad']", "view.short=repeat", "view.n_samples=8000"]
    settings += ["seeds=[1]", "refit=false", "model.width=0.25", "protocol.n_folds=3"]
    code, _, err = command(
        *("train", "--legacy-moe", path, "--out", out, "--no-cohort"),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert code == 0, err
    assert "note: the code reports each metric" in err
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["name"], config["model"]["name"]) == ("mine", "expert_fusion")
    assert (out / "report.html").exists()


def test_an_experiment_and_settings_of_the_code_are_one_too_many(command, tmp_path):
    code, _, err = command("train", "moe/honest", "--legacy-moe", tmp_path / "config.toml")
    assert code == 2
    assert "name one of them" in err
