"""Checkpoints of MMER's authors, written in miniature under their names, as recognizers."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from features.tiny_encoders import speech_folder, text_folder
from models import test_mmer_import
from models.test_mmer_import import CONFIG, our_weights
from serkit import cli
from serkit.experiment.config import ConfigError
from serkit.experiment.originals.mmer import import_mmer, read_released_table, score_released
from serkit.features.speech_encoder import SpeechEncoder, SpeechEncoderConfig
from serkit.features.text import TextEncoder, TextEncoderConfig, write_text_features
from serkit.models import mmer_import
from serkit.models.mmer import Mmer, MmerConfig
from serkit.models.mmer_import import MmerWeightsError
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
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
    text = TextEncoder(TextEncoderConfig(model=str(released.text)))
    with torch.inference_mode():
        vectors, _ = text(*text.tokenize([words]))
    return scores_of_vectors(released, released.clip, vectors[0])


def scores_of_vectors(released: SimpleNamespace, clip: Path, vectors: torch.Tensor) -> list[float]:
    """Give the network a sound, cut as the authors cut it, and the vectors of the words."""
    waveform, _ = soundfile.read(clip, dtype="float32", frames=210_000)
    speech = SpeechEncoder(SpeechEncoderConfig(model=str(released.speech)))
    mmer = Mmer(MmerConfig(n_features=WIDTH, n_text_features=WIDTH, width=WIDTH))
    mmer.load_state_dict(our_weights())
    with torch.inference_mode():
        sound = speech(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        logits = mmer.eval()(*sound, vectors[None], torch.tensor([len(vectors)]))["emotion"]
    return logits.softmax(1)[0].tolist()


@pytest.fixture
def session(released, tmp_path) -> SimpleNamespace:
    """What the authors' inference takes: their table, sounds, and vectors of random numbers."""
    turns = {
        "Ses01F_impro01_F000": ("hap", "Oh, [LAUGHTER] no.", 0.3),
        "Ses01F_impro01_M001": ("exc", "", 0.5),
        "Ses01M_script01_1_F002": ("sad", "I told you so.", 27.0),  # longer than two views
        "Ses02F_impro05a_M003": ("ang", "Stop.", 0.4),
    }
    audio, roberta = tmp_path / "iemocap", tmp_path / "roberta"
    audio.mkdir()
    roberta.mkdir()
    generator = np.random.default_rng(0)
    for number, (name, (_, _, seconds)) in enumerate(turns.items()):
        sound = tone(150 + 40 * number, seconds=seconds, rate=RATE)
        soundfile.write(audio / f"{name}.wav", sound, RATE)
        vectors = generator.standard_normal((1, 4 + number, WIDTH), dtype=np.float32)
        np.save(roberta / f"{name}.npy", vectors if number % 2 else vectors[0])
    table = tmp_path / "iemocap.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "FileName", "Sentences", "Label", "text", "AugmentedText"])
        for number, (name, (label, words, _)) in enumerate(turns.items()):
            writer.writerow([number, name, words, label, words.upper() + " .", words])
    return SimpleNamespace(table=table, audio=audio, roberta=roberta, names=list(turns))


def expected_of(released: SimpleNamespace, session: SimpleNamespace, name: str) -> list[float]:
    vectors = torch.from_numpy(np.load(session.roberta / f"{name}.npy"))
    vectors = vectors[0] if vectors.ndim == 3 else vectors
    return scores_of_vectors(released, session.audio / f"{name}.wav", vectors)


def written_scores(path: Path) -> dict[str, list[float]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    classes = ("happy", "angry", "neutral", "sad")
    return {row["id"]: [float(row[f"score_{c}"]) for c in classes] for row in rows}


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


def test_the_released_inference_is_two_commands_and_needs_no_text_encoder(
    released, session, serkit, tmp_path
):
    code, out, err = serkit(
        *("import-weights", released.file, "--system", "mmer", "--encoder", released.speech),
        *("--out", released.out, "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["reads_words"] is False
    card = (released.out / "README.md").read_text(encoding="utf-8")
    assert "without RoBERTa base, whose token vectors" in card
    code, out, err = serkit(
        *("score", session.table, "--model", released.out, "--out", tmp_path / "said.csv"),
        *("--session", 1, "--audio", session.audio, "--text-features", session.roberta, "--json"),
    )
    assert code == 0, err
    said = written_scores(tmp_path / "said.csv")
    assert list(said) == session.names[:3]
    for name, scores in said.items():
        assert scores == pytest.approx(expected_of(released, session, name), abs=2e-5)
    code, out, _ = serkit("evaluate", tmp_path / "said.csv", "--json")
    assert code == 0
    assert json.loads(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--session", 1), "--session and --audio go together"),
        (("--session", 1, "--audio", "x", "--map", "a=b"), "--session goes without --map"),
    ],
)
def test_options_of_the_released_table_go_together(serkit, options, message):
    code, _, err = serkit("score", "t.csv", "--model", "m", "--out", "x.csv", *options)
    assert code == 2
    assert message in err


def test_predict_and_score_take_the_released_vectors(released, session, serkit, tmp_path):
    import_mmer(released.file, released.out, encoder=released.speech)
    vectors = ("--text-features", session.roberta)
    code, out, _ = serkit(
        *("predict", session.audio, "--model", released.out, "--format", "json", *vectors)
    )
    assert code == 0
    rows = {Path(row["file"]).stem: row["scores"] for row in json.loads(out)}
    for name in (session.names[0], session.names[3]):
        expected = expected_of(released, session, name)
        assert list(rows[name].values()) == pytest.approx(expected, abs=1e-5)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "id,path,corpus,label,speaker\n"
        + "".join(f"{n},iemocap/{n}.wav,iemocap,happy,a\n" for n in session.names[:2]),
        encoding="utf-8",
    )
    said = tmp_path / "said.csv"
    command = ("score", manifest, "--model", released.out, "--out", said)
    code, _, _ = serkit(*command, *vectors)
    assert code == 0
    for name, scores in written_scores(said).items():
        assert scores == pytest.approx(expected_of(released, session, name), abs=2e-5)
    code, _, err = serkit(*command)
    assert code == 2
    assert "give the folder of those of the utterances with --text-features" in err


def test_without_a_text_encoder_words_are_not_read(released, serkit):
    import_mmer(released.file, released.out, encoder=released.speech)
    code, out, _ = serkit(
        *("predict", released.clip, "--model", released.out, "--format", "json"),
        *("--text", "hello world"),
    )
    assert code == 2
    error = json.loads(out)[0]["error"]
    assert "cannot read words: give --text-features FILE.npy, or a folder of such" in error


def test_with_a_text_encoder_vectors_are_read_instead_of_words(released, session, tmp_path):
    import_mmer(
        released.file, released.out, text_encoder=str(released.text), encoder=released.speech
    )
    text = TextEncoder(TextEncoderConfig(model=str(released.text)))
    folder = write_text_features(tmp_path / "own", text, {"clip": "hello [SIGH] world"})
    recognizer = load_recognizer(released.out)
    words = recognizer.predict_file(released.clip, text="hello world").scores
    own = np.load(folder / "clip.npy")
    assert recognizer.predict_file(released.clip, text_features=own).scores == pytest.approx(
        words, abs=1e-5
    )
    for vectors, how in ((None, "sentences"), (session.roberta, "vectors")):
        score_released(
            released.out,
            session.table,
            tmp_path / f"{how}.csv",
            session=2,
            audio=session.audio,
            text_features=vectors,
        )
    name = session.names[3]
    read = written_scores(tmp_path / "vectors.csv")
    assert read[name] == pytest.approx(expected_of(released, session, name), abs=2e-5)
    assert written_scores(tmp_path / "sentences.csv")[name] != pytest.approx(read[name], abs=1e-3)


def test_the_released_table_is_one_session_in_the_classes_of_the_checkpoint(session):
    utterances = read_released_table(session.table, session=1, audio=session.audio)
    assert [u.id for u in utterances] == session.names[:3]
    assert [u.label for u in utterances] == ["happy", "happy", "sad"]
    assert [u.speaker for u in utterances] == ["Ses01F", "Ses01M", "Ses01F"]
    assert utterances[0].transcript == "Oh, [LAUGHTER] no."
    assert [u.end_s for u in utterances] == [None, None, 13.125]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("FileName,Label\n", r"has the columns FileName, Label, expected FileName, Sentences and"),
        ("FileName,Sentences,Label\n", r"has no utterance of session 1, expected one of 1 to 5"),
        ("FileName,Sentences,Label\na,b,hap\n", r"row 2: got FileName 'a' and Label 'hap'"),
        ("FileName,Sentences,Label\nSes01F_impro01_F000,b,fru\n", r"and Label 'fru', expected"),
        ("FileName,Sentences,Label\nSes01F_impro01_F999,b,hap\n", r"F999\.wav: no such file"),
    ],
)
def test_released_tables_that_cannot_be_used_are_named(session, content, message):
    session.table.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_released_table(session.table, session=1, audio=session.audio)


def test_files_that_are_no_tables_are_named(session, tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        read_released_table(tmp_path / "gone.csv", session=1, audio=session.audio)
    session.table.write_bytes(b"FileName,Sentences,Label\n\xff,b,hap\n")
    with pytest.raises(InputError, match=r"iemocap\.csv: not a CSV file in UTF-8"):
        read_released_table(session.table, session=1, audio=session.audio)


def test_a_model_of_other_classes_cannot_answer_for_the_released_table(session, tmp_path):
    torch.manual_seed(0)
    config = RecognizerConfig(
        system="toy",
        classes=("happy", "sad"),
        view={"kind": "whole"},
        front_end={"name": "mfcc", "preset": "moe-26"},
        model={"name": "pooled", "n_projected": 8},
    )
    Recognizer(config).save(tmp_path / "toy")
    with pytest.raises(InputError, match="toy: knows happy, sad, expected a model of happy, angry"):
        score_released(
            tmp_path / "toy", session.table, tmp_path / "x.csv", session=1, audio=session.audio
        )


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
        ((), "--system timnet needs --corpus"),
        (("--system", "hal"), "--system hal: expected timnet or mmer"),
    ],
)
def test_what_a_system_needs_is_asked_for(serkit, options, message):
    code, _, err = serkit("import-weights", "1_model.pt", "--out", "x", *options)
    assert code == 2
    assert message in err
