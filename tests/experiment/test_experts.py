"""Experts as recognizers of their own, and recognizers joined from experts."""

import json
import sys

import numpy as np
import pytest
import torch

from serkit import cli, load_recognizer
from serkit.experiment.experts import ASSEMBLED, export_experts, join_experts
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.types import InputError
from tests_support import tone

RATE = 16_000
CLASSES = ("angry", "happy", "sad")
SEGMENTS = {"kind": "segments", "n_samples": 8000, "train_hop": 4000, "test_hop": 2000}


@pytest.fixture
def checkpoint(tmp_path):
    """Write a mixture with weights and statistics of its own for every seed."""

    def write(seed=0, *, classes=CLASSES, view=(), normalise="none", multi_label=False, **model):
        torch.manual_seed(seed)
        recognizer = Recognizer(
            RecognizerConfig(
                system="Mixture of experts",
                classes=classes,
                view=SEGMENTS | dict(view),
                front_end={"name": "mfcc", "preset": "moe-26"},
                model={"name": "expert_fusion", "width": 0.25} | model,
                normalise=normalise,
                multi_label=multi_label,
                trained_on={"name": f"mixture{seed}", "protocol": {"warnings": []}},
            )
        )
        for name, buffer in recognizer.named_buffers():
            if "running_" in name or "norm.std" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape))
        return recognizer.save(tmp_path / f"mixture{len(list(tmp_path.iterdir()))}")

    return write


def waveforms() -> list[np.ndarray]:
    return [tone(pitch, seconds=0.9, rate=RATE, seed=pitch) for pitch in (150, 300, 440)]


@torch.inference_mode()
def expert_scores(folder) -> np.ndarray:
    """Sigmoid of each expert's mean logit over an utterance's segments, by a forward pass."""
    recognizer = load_recognizer(folder)
    scores = []
    for waveform in waveforms():
        batch = torch.from_numpy(waveform)[None]
        features, n_frames, _ = recognizer.extract(batch, torch.tensor([len(waveform)]))
        assert len(features) > 1
        outputs = recognizer({"features": features, "n_frames": n_frames})
        scores.append(outputs["experts"].mean(0).sigmoid().numpy())
    return np.stack(scores)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"share_until": 3},
        {"share_until": 6, "normalise": "train"},
        {"head": "mixer"},
        {"multi_label": True},
        {"view": {"aggregation": "majority_vote"}},
        {"backbone": "light_sernet_port", "share_until": 4, "width": 0.1},
        {"backbone": "light_sernet"},
    ],
)
def test_an_exported_expert_scores_as_in_its_network(checkpoint, tmp_path, settings):
    mixture = checkpoint(**settings)
    expected = expert_scores(mixture)
    folders = export_experts(mixture, tmp_path / "experts")
    assert [folder.name for folder in folders] == list(CLASSES)
    for number, folder in enumerate(folders):
        expert = load_recognizer(folder)
        assert tuple(expert.labels.classes) == (CLASSES[number], f"not {CLASSES[number]}")
        scores = expert.score(waveforms())
        np.testing.assert_allclose(scores[:, 0], expected[:, number], atol=1e-6)
        assert expert.config.trained_on["name"] == f"mixture0-{CLASSES[number]}"
        assert str(mixture) in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [{}, {"share_until": 3}, {"multi_label": True}])
def test_experts_of_one_network_joined_again_are_that_network(checkpoint, tmp_path, settings):
    mixture = checkpoint(**settings)
    folders = export_experts(mixture, tmp_path / "experts")
    joined = load_recognizer(join_experts(folders[::-1], tmp_path / "joined"))
    whole = load_recognizer(mixture)
    np.testing.assert_array_equal(joined.score(waveforms()), whole.score(waveforms()))
    assert joined.config.multi_label == whole.config.multi_label


def test_experts_of_several_runs_are_joined_and_marked(checkpoint, tmp_path):
    ours = export_experts(checkpoint(1), tmp_path / "ours")
    theirs = export_experts(checkpoint(2), tmp_path / "theirs")
    folder = join_experts([ours[0], theirs[1], ours[2]], tmp_path / "joined")
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert saved["trained_on"]["origin"] == ASSEMBLED
    assert saved["trained_on"]["protocol"]["warnings"] == [ASSEMBLED]
    names = [source["name"] for source in saved["trained_on"]["sources"]]
    assert names == ["mixture1-angry", "mixture2-happy", "mixture1-sad"]
    assert ASSEMBLED.upper() in (folder / "README.md").read_text(encoding="utf-8")
    logits = np.stack(
        [load_recognizer(one).score(waveforms())[:, 0] for one in (ours[0], theirs[1], ours[2])], 1
    )
    odds = logits / (1 - logits)  # exp of the logits, whose softmax is the joined score
    scores = load_recognizer(folder).score(waveforms())
    np.testing.assert_allclose(scores, odds / odds.sum(1, keepdims=True), atol=1e-5)


def test_fewer_classes_may_be_joined(checkpoint, tmp_path):
    folders = export_experts(checkpoint(), tmp_path / "experts")
    joined = load_recognizer(join_experts(folders[:2], tmp_path / "joined"))
    assert tuple(joined.labels.classes) == ("angry", "happy")


def test_folders_are_named_safely(checkpoint, tmp_path):
    mixture = checkpoint(classes=("..", "a/b"))
    folders = export_experts(mixture, tmp_path / "experts")
    assert [folder.name for folder in folders] == ["%2E%2E", "a%2Fb"]
    assert all(folder.parent == tmp_path / "experts" for folder in folders)


def test_networks_without_experts_are_refused(checkpoint, tmp_path):
    for settings in ({"merge_at": 4}, {"share_until": 7}):
        with pytest.raises(InputError, match=r"\(expert_fusion\) has no expert per class"):
            export_experts(checkpoint(**settings), tmp_path / "experts")


def test_experts_that_share_a_trunk_are_joined_with_their_own_alone(checkpoint, tmp_path):
    ours = export_experts(checkpoint(1, share_until=2), tmp_path / "ours")
    theirs = export_experts(checkpoint(2, share_until=2), tmp_path / "theirs")
    with pytest.raises(InputError, match="which they share here"):
        join_experts([ours[0], theirs[1]], tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_experts_that_do_not_fit_are_refused(checkpoint, tmp_path):
    ours = export_experts(checkpoint(), tmp_path / "ours")
    out = tmp_path / "joined"
    with pytest.raises(InputError, match="got 1 expert, expected one for each"):
        join_experts(ours[:1], out)
    with pytest.raises(InputError, match="are both experts for 'angry'"):
        join_experts([ours[0], ours[0]], out)
    with pytest.raises(InputError, match="is no single expert"):
        join_experts([ours[0], checkpoint()], out)
    others = {
        "longer": checkpoint(view={"n_samples": 8001}),
        "wider": checkpoint(width=0.5),
        "trained": checkpoint(normalise="train"),
        "shared": checkpoint(share_until=1),
    }
    for name, mixture in others.items():
        theirs = export_experts(mixture, tmp_path / name)
        with pytest.raises(InputError, match="join experts that hear alike and are built alike"):
            join_experts([ours[0], theirs[1]], out)
    first = export_experts(checkpoint(1, normalise="train"), tmp_path / "first")
    second = export_experts(checkpoint(2, normalise="train"), tmp_path / "second")
    with pytest.raises(InputError, match="differ in front end, view, normalisation or network"):
        join_experts([first[0], second[1]], out)
    mixed = export_experts(checkpoint(head="mixer"), tmp_path / "mixed")
    with pytest.raises(InputError, match="was trained below a final layer"):
        join_experts(mixed, out)


def test_experts_that_do_not_say_what_they_were_taken_from_are_refused(checkpoint, tmp_path):
    folders = export_experts(checkpoint(), tmp_path / "experts")
    path = folders[1] / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    whole = config["trained_on"]["expert_of"]
    no_head = {name: value for name, value in whole.items() if name != "head"}
    for damaged in (no_head, 5, whole | {"model": 5}, whole | {"model": {"name": "timnet"}}):
        config["trained_on"]["expert_of"] = damaged
        path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(InputError, match=r"trained_on.expert_of is damaged: expected checkp"):
            join_experts(folders, tmp_path / "joined")


def test_folders_in_use_are_left_alone(checkpoint, tmp_path):
    mixture = checkpoint()
    folders = export_experts(mixture, tmp_path / "experts")
    with pytest.raises(InputError, match="is not an empty folder"):
        export_experts(mixture, tmp_path / "experts")
    with pytest.raises(InputError, match="is not an empty folder"):
        join_experts(folders, mixture)
    with pytest.raises(InputError, match="cannot be written"):
        export_experts(mixture, mixture / "model.safetensors" / "experts")


def test_the_commands(checkpoint, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().out

    code, out = run("export-experts", checkpoint(), "--out", tmp_path / "experts", "--json")
    assert code == 0
    folders = json.loads(out)["experts"]
    code, out = run("join-experts", *folders, "--out", tmp_path / "joined")
    assert code == 0
    assert out == f"checkpoint: {tmp_path / 'joined'}\n"
    assert run("export-experts", tmp_path / "joined", "--out", tmp_path / "again")[0] == 0
    code, out = run("join-experts", *folders, "--out", tmp_path / "second", "--json")
    assert json.loads(out) == {"model": str(tmp_path / "second")}
