"""Checkpoints of MMER's authors, written in miniature under their names, as recognizers."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from features.tiny_encoders import speech_folder, text_folder
from models import test_mmer_import
from models.test_mmer_import import CONFIG, our_weights
from serkit import cli
from serkit.experiment.config import ConfigError
from serkit.experiment.mmer_files import import_mmer
from serkit.features.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from serkit.features.text import TextEncoder, TextEncoderConfig
from serkit.models import mmer_import
from serkit.models.mmer import Mmer, MmerConfig
from serkit.models.mmer_import import MmerWeightsError
from serkit.types import InputError
from tests_support import tone

RATE = 16_000
WIDTH = CONFIG.width  # of both encoders


@pytest.fixture
def released(tmp_path, monkeypatch) -> SimpleNamespace:
    """A checkpoint as released, and the folders of the encoders that go with it, all 24 wide."""
    speech = speech_folder(tmp_path / "speech", hidden_size=WIDTH)
    text = text_folder(tmp_path / "text", hidden_size=WIDTH, max_position_embeddings=514)
    encoder = load_file(speech / "model.safetensors")
    encoder.setdefault("masked_spec_embed", torch.zeros(WIDTH))
    shapes = {name: tuple(value.shape) for name, value in encoder.items()}
    monkeypatch.setattr(mmer_import, "wav2vec2_base_shapes", lambda: shapes)
    monkeypatch.setattr(test_mmer_import, "wav2vec2_base_shapes", dict)
    weights = test_mmer_import.released_weights(prefix="module.")
    weights |= {f"module.model_mmi.wav2vec2.{name}": value for name, value in encoder.items()}
    torch.save({"state_dict": weights}, tmp_path / "1_model.pt")
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, tone(200, seconds=0.3, rate=RATE), RATE)
    return SimpleNamespace(
        file=tmp_path / "1_model.pt", speech=speech, text=text, clip=clip, out=tmp_path / "model"
    )


@pytest.fixture
def serkit(monkeypatch, capsys):
    """Run the command in this process; gives exit code, stdout, stderr."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["serkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


def expected_scores(released: SimpleNamespace, words: str) -> list[float]:
    """Put the parts together by hand."""
    waveform, _ = soundfile.read(released.clip, dtype="float32")
    speech = SpeechEncoder(SpeechEncoderConfig(model=str(released.speech)))
    text = TextEncoder(TextEncoderConfig(model=str(released.text)))
    mmer = Mmer(MmerConfig(n_features=WIDTH, n_text_features=WIDTH, width=WIDTH))
    mmer.load_state_dict(our_weights())
    with torch.inference_mode():
        sound = speech(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        logits = mmer.eval()(*sound, *text(*text.tokenize([words])))["emotion"]
    return logits.softmax(1)[0].tolist()


def test_a_released_checkpoint_predicts_from_sound_and_words(released, serkit):
    code, out, _ = serkit(
        *("import-weights", released.file, "--system", "mmer", "--out", released.out),
        *("--encoder", released.speech, "--text-encoder", released.text),
    )
    assert code == 0
    assert "happy, angry, neutral, sad" in out
    assert "mind: selected on test" in out
    code, out, _ = serkit(
        *("predict", released.clip, "--model", released.out, "--format", "json"),
        *("--text", "[LAUGHTER] hello world"),
    )
    assert code == 0
    scores = json.loads(out)[0]["scores"]
    assert list(scores) == ["happy", "angry", "neutral", "sad"]
    assert list(scores.values()) == pytest.approx(
        expected_scores(released, "hello world"), abs=1e-5
    )
    card = (released.out / "README.md").read_text(encoding="utf-8")
    assert "SELECTED ON TEST" in card
    assert "1_model.pt" in card


def test_encoders_that_do_not_fit_the_file_are_named(released, tmp_path):
    wider = text_folder(tmp_path / "wider", hidden_size=32, max_position_embeddings=514)
    with pytest.raises(ConfigError, match=r"wider: has vectors of 32 numbers, expected 24 as"):
        import_mmer(released.file, released.out, text_encoder=str(wider), encoder=released.speech)
    deeper = speech_folder(tmp_path / "deeper", hidden_size=WIDTH, num_hidden_layers=3)
    with pytest.raises(MmerWeightsError, match=r"holds another speech encoder than .*deeper"):
        import_mmer(released.file, released.out, text_encoder=str(released.text), encoder=deeper)
    assert not released.out.exists()


def test_a_folder_in_use_is_left_alone(released):
    released.out.mkdir()
    (released.out / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        import_mmer(released.file, released.out, text_encoder=str(released.text))


def test_a_folder_that_is_no_encoder_is_named(released, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"config\.json: no such file: not the folder of"):
        import_mmer(released.file, released.out, text_encoder=str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--system", "mmer"), "--system mmer needs --text-encoder"),
        ((), "--system timnet needs --corpus"),
        (("--system", "hal"), "--system hal: expected timnet or mmer"),
    ],
)
def test_what_a_system_needs_is_asked_for(serkit, options, message):
    code, _, err = serkit("import-weights", "1_model.pt", "--out", "x", *options)
    assert code == 2
    assert message in err
