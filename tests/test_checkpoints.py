"""Checkpoints of every kind: found, told apart, and refused where another is expected."""

import json
from pathlib import Path

import pytest

from serkit.checkpoints import checkpoint_kind, find_checkpoint, read_checkpoint_config
from serkit.experiment.decomposition.model import load_decomposition
from serkit.recognizer import load_recognizer
from serkit.sentiment_model import load_sentiment_model
from serkit.speech_recogniser import load_speech_recogniser
from serkit.types import InputError

KINDS = {
    "emotion": ({}, "a recognizer of emotion", "serkit predict"),
    "transcription": ({"task": "transcription"}, "a speech recogniser", "serkit transcribe"),
    "sentiment": ({"kind": "sentiment"}, "a model of clips", "serkit predict' on clips"),
    "decomposition": ({"task": "decomposition"}, "a decomposition of speech", "parts_from=RUN"),
    "pitch_converter": ({"task": "pitch_converter"}, "a pitch converter", "pitch_converter=RUN"),
}
LOADERS = {
    "emotion": load_recognizer,
    "transcription": load_speech_recogniser,
    "sentiment": load_sentiment_model,
    "decomposition": load_decomposition,
}


def checkpoint(folder: Path, kind: str, *, version: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"format": version} | KINDS[kind][0]))
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_another_kind_says_what_it_is_and_what_uses_it(tmp_path, kind):
    checkpoint(tmp_path / "run" / "model", kind)
    assert checkpoint_kind(tmp_path / "run") == kind
    _, name, used_by = KINDS[kind]
    for own, load in LOADERS.items():
        if own == kind:
            continue
        with pytest.raises(InputError) as caught:
            load(tmp_path / "run")
        line = str(caught.value)
        assert line.startswith(f"{tmp_path / 'run' / 'model'}: {name}, expected {KINDS[own][1]}")
        assert used_by in line
        assert "\n" not in line


def test_run_folders_and_names_are_found(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "model", "sentiment")
    assert find_checkpoint(tmp_path, "sentiment") == folder
    monkeypatch.setenv("SERKIT_MODELS", str(tmp_path))
    assert find_checkpoint("model") == folder
    assert checkpoint_kind("model") == "sentiment"


def test_what_is_no_checkpoint_has_no_kind(tmp_path):
    assert checkpoint_kind(tmp_path) is None
    folder = checkpoint(tmp_path / "model", "emotion")
    (folder / "config.json").write_text("{")
    assert checkpoint_kind(folder) is None


@pytest.mark.parametrize("kind", KINDS)
def test_other_versions_and_unknown_kinds_are_refused(tmp_path, kind):
    folder = checkpoint(tmp_path / "new", kind, version=99)
    with pytest.raises(InputError, match="checkpoint format 99, expected 1 of a "):
        read_checkpoint_config(folder, kind, version=1)
    (folder / "config.json").write_text('{"format": 1, "task": "singing"}')
    with pytest.raises(InputError, match="not a serkit checkpoint, or one of another version"):
        read_checkpoint_config(folder, kind, version=1)
