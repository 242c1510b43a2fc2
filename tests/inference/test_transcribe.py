"""What is said, by every back-end: real networks in miniature, and packages that are played."""

import csv
import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from serkit.cli import app
from serkit.inference import transcribe as module
from serkit.inference.files import collect_files
from serkit.inference.transcribe import (
    BACKENDS,
    AsrUnavailableError,
    CachedTranscriber,
    TranscriberSettings,
    open_transcriber,
    texts_heard,
    transcribe_utterances,
    transcript_table,
    utterances_of_files,
)
from serkit.speech_recogniser import SpeechRecogniser, SpeechRecogniserConfig
from serkit.types import InputError, MissingExtraError, Utterance
from serkit.video import write_clip

RATE = 16_000
NEED_A_MODEL = ("own", "transformers", "faster-whisper", "vosk")


def noise(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (0.1 * generator.standard_normal(round(rate * seconds))).astype(np.float32)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    torch.manual_seed(0)
    recogniser = SpeechRecogniser(
        SpeechRecogniserConfig(
            system="t",
            symbols=("<blank>", "a", "b", "c"),
            front_end={"n_mels": 20},
            model={"name": "conformer", "width": 16, "n_blocks": 1, "n_heads": 2, "n_ffn": 16},
        )
    )
    with torch.no_grad():
        recogniser.model.classify.bias[0] = -100  # never blank: it always spells something
    return recogniser.save(tmp_path_factory.mktemp("own") / "model")


@pytest.fixture(scope="module")
def ctc(tmp_path_factory):
    """A wav2vec 2.0 with a CTC head, the blank last, as fine-tuned ones have it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("ctc") / "tiny"
    symbols = ["|", "a", "b", "c", "[UNK]", "[PAD]"]
    torch.manual_seed(0)
    network = transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            vocab_size=len(symbols),
            pad_token_id=5,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            conv_dim=(16, 16),
            conv_stride=(20, 16),
            conv_kernel=(20, 16),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        )
    )
    with torch.no_grad():
        network.lm_head.weight.mul_(50)
    network.save_pretrained(folder)
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("whisper") / "tiny"
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>"]
    special += ["<|translate|>", "<|nospeech|>", "<|notimestamps|>"]
    words = ["yes", "no", "maybe"]
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        additional_special_tokens=special[1:],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    network = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=len(vocabulary),
            num_mel_bins=20,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            d_model=16,
            max_source_positions=100,
            max_target_positions=20,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=1,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        )
    )
    network.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=0,
        max_length=12,
        is_multilingual=True,
        lang_to_id={"<|en|>": 2, "<|de|>": 3},
        task_to_id={"transcribe": 4, "translate": 5},
        no_timestamps_token_id=7,
        suppress_tokens=list(range(8)),  # what is left are words
        begin_suppress_tokens=[],
    )
    network.save_pretrained(folder)
    return folder


class FakeRecogniser:
    """Vosk's calls: bytes in blocks, JSON out."""

    def __init__(self, model, rate):
        assert (model, rate) == ("model", RATE)
        self.blocks = []

    def SetWords(self, wanted):  # noqa: N802
        assert wanted

    def AcceptWaveform(self, data):  # noqa: N802
        assert isinstance(data, bytes)
        self.blocks.append(len(data) // 2)
        return len(self.blocks) == 2

    def Result(self):  # noqa: N802
        words = [{"word": "你", "start": 0.0, "end": 0.2, "conf": 0.5}]
        return json.dumps({"text": "你", "result": words})

    def FinalResult(self):  # noqa: N802
        assert self.blocks == [4_000, 4_000, 4_000, 4_000]
        words = [
            {"word": one, "start": 0.5, "end": 1.0, "conf": 1.0} for one in ("好", "ok", "yes")
        ]
        return json.dumps({"text": "好 ok yes", "result": words})


@pytest.fixture
def vosk(monkeypatch, tmp_path):
    fake = SimpleNamespace(
        SetLogLevel=lambda level: None,
        Model=lambda model_path: "model",
        KaldiRecognizer=FakeRecogniser,
    )
    monkeypatch.setitem(sys.modules, "vosk", fake)
    (tmp_path / "vosk").mkdir()
    return tmp_path / "vosk"


@pytest.fixture
def faster(monkeypatch, tmp_path):
    asked = {}

    class WhisperModel:
        def __init__(self, folder, *, device, compute_type, local_files_only):
            assert (device, compute_type, local_files_only) == ("cpu", "int8", True)

        def transcribe(self, sound, **options):
            asked.update(options, n=len(sound), dtype=sound.dtype)

            def lazy():
                asked["exhausted"] = False
                yield SimpleNamespace(text=" Hello", start=0.0, end=1.0, avg_logprob=0.0)
                yield SimpleNamespace(text=" world.", start=1.0, end=2.0, avg_logprob=-1.0)
                asked["exhausted"] = True

            return lazy(), SimpleNamespace(language="en")

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    folder = tmp_path / "ct2"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    return folder, asked


def test_our_own_checkpoint_is_a_back_end(own):
    opened = open_transcriber("own", TranscriberSettings(model=own))
    heard = opened.transcribe(noise(rate=8_000), 8_000)
    assert heard.text
    assert heard.segments
    assert 0 < heard.confidence <= 1
    assert (heard.backend, heard.model_id.split("@")[0]) == ("own", "model")
    assert opened.transcribe(noise(rate=8_000), 8_000) == heard
    beam = open_transcriber("own", TranscriberSettings(model=own, decoding="beam"))
    assert beam.model_id != opened.model_id


def test_a_ctc_network_is_read_with_its_blank_wherever_that_is(ctc, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    opened = open_transcriber("transformers", TranscriberSettings(model=ctc, language="xx"))
    heard = opened.transcribe(noise(), RATE)
    assert heard.text
    assert set(heard.text) <= set("abc ")
    assert heard.language == "xx"
    assert heard.segments[-1].end_s <= 1.0
    assert opened.transcribe(noise(), RATE) == heard


def test_ctc_logits_are_the_network_s_own(ctc):
    transformers = pytest.importorskip("transformers")
    opened = open_transcriber("transformers", TranscriberSettings(model=ctc))
    sound = noise()
    extractor = transformers.Wav2Vec2FeatureExtractor()
    values = extractor(sound, sampling_rate=RATE, return_tensors="pt").input_values
    network = transformers.Wav2Vec2ForCTC.from_pretrained(ctc, local_files_only=True).eval()
    with torch.inference_mode():
        ids = network(values).logits[0].argmax(1).tolist()
    merged = [i for i, before in zip(ids, [None, *ids], strict=False) if i != before]
    written = "".join({0: " ", 1: "a", 2: "b", 3: "c"}.get(i, "") for i in merged)
    assert opened.transcribe(sound, RATE).text == " ".join(written.split())


def test_a_long_recording_is_heard_in_pieces(ctc, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_S", 1.5)
    opened = open_transcriber("transformers", TranscriberSettings(model=ctc))
    sound = np.concatenate([noise(), np.zeros(16_000, dtype=np.float32), noise()])
    heard = opened.transcribe(sound, RATE)
    assert heard.segments[-1].start_s > 1.9
    assert heard.segments[-1].end_s <= 3.0


def test_whisper_is_told_language_and_task(whisper, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings = TranscriberSettings(model=whisper, language="de", task="translate")
    opened = open_transcriber("transformers", settings)
    asked = {}
    plain = opened._network.generate
    monkeypatch.setattr(
        opened._network,
        "generate",
        lambda x, **options: asked.update(options) or plain(x, **options),
    )
    heard = opened.transcribe(noise(), RATE)
    assert (asked["language"], asked["task"], asked["do_sample"]) == ("de", "translate", False)
    assert heard.text
    assert not heard.text.replace("yes", "").replace("no", "").replace("maybe", "").strip()
    assert heard.language == "de"
    assert opened.transcribe(noise(), RATE) == heard


def test_faster_whisper_is_read_to_its_end(faster):
    folder, asked = faster
    opened = open_transcriber("faster-whisper", TranscriberSettings(model=folder, language="en"))
    heard = opened.transcribe(noise(rate=8_000), 8_000)
    assert asked["exhausted"]
    assert (asked["n"], asked["temperature"], asked["language"]) == (16_000, 0.0, "en")
    assert (heard.text, heard.language, len(heard.segments)) == ("Hello world.", "en", 2)
    assert heard.confidence == pytest.approx((1 + np.exp(-1)) / 2)


def test_vosk_hears_blocks_of_16_bit_samples_and_chinese_words_are_joined(vosk):
    opened = open_transcriber("vosk", TranscriberSettings(model=vosk))
    heard = opened.transcribe(noise(), RATE)
    assert heard.text == "你好 ok yes"
    assert heard.confidence == pytest.approx(3.5 / 4)
    assert [one.text for one in heard.segments] == ["你", "好", "ok", "yes"]


@pytest.mark.parametrize("n", [0, 1, 16_000])
@pytest.mark.parametrize("name", ["own", "ctc", "whisper", "faster"])
def test_silence_gives_an_empty_text(name, n, request):
    given = request.getfixturevalue(name)
    folder = given[0] if isinstance(given, tuple) else given
    backend = {"ctc": "transformers", "whisper": "transformers", "faster": "faster-whisper"}
    opened = open_transcriber(backend.get(name, name), TranscriberSettings(model=folder))
    heard = opened.transcribe(np.zeros(n, dtype=np.float32), RATE)
    assert (heard.text, heard.segments, heard.confidence) == ("", (), None)
    opened.close()


def test_given_words_and_nothing_are_back_ends():
    given = open_transcriber("manifest")
    assert given.transcribe(noise(), RATE, given="hello").text == "hello"
    with pytest.raises(InputError, match="none in it"):
        given.transcribe(noise(), RATE)
    nothing = open_transcriber("none")
    assert nothing.transcribe(noise(), RATE, given="hello").text == ""
    given.close()
    nothing.close()


@pytest.mark.parametrize("name", NEED_A_MODEL)
def test_a_model_that_is_not_there_is_said_at_once(name, tmp_path):
    began = time.monotonic()
    with pytest.raises(AsrUnavailableError, match=r"needs a model.* --model .*--transcriber-"):
        open_transcriber(name)
    with pytest.raises(AsrUnavailableError, match="is no folder on this machine"):
        open_transcriber(name, TranscriberSettings(model=tmp_path / "openai" / "whisper-tiny"))
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("name", NEED_A_MODEL)
def test_a_folder_without_a_model_is_refused(name, tmp_path, monkeypatch):
    fail = SimpleNamespace(SetLogLevel=lambda level: None, Model=_fail)
    monkeypatch.setitem(sys.modules, "vosk", fail)
    with pytest.raises(InputError, match=str(tmp_path)):
        open_transcriber(name, TranscriberSettings(model=tmp_path))


def _fail(model_path):
    raise Exception("Failed to create a model")


@pytest.mark.parametrize(
    ("name", "package"), [("vosk", "vosk"), ("faster-whisper", "faster_whisper")]
)
def test_a_missing_package_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"serkit\[asr\]"):
        open_transcriber(name, TranscriberSettings(model=tmp_path))


def test_a_missing_transformers_is_named_with_its_extra(ctc, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"serkit\[encoders\]"):
        open_transcriber("transformers", TranscriberSettings(model=ctc))


def test_unknown_back_ends_and_networks_are_refused(tmp_path):
    with pytest.raises(InputError, match="no speech recogniser 'x', expected one of own"):
        open_transcriber("x")
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(AsrUnavailableError, match="model_type is 'bert'"):
        open_transcriber("transformers", TranscriberSettings(model=tmp_path))


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"|": 0, "ab": 1, "[PAD]": 5}, "spell in pieces"),
        ({"deu": {"a": 1}}, "a vocabulary per language"),
        ({"|": 0, "a": 2, "[PAD]": 5}, "indices have holes"),
        ({"|": 0, "a": 1, "b": 2, "c": 3, "d": 4, "[PAD]": 5, "e": 6}, "tells 6 apart"),
    ],
)
def test_vocabularies_that_do_not_fit_are_refused(ctc, tmp_path, vocabulary, message):
    for path in ctc.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(AsrUnavailableError, match=message):
        open_transcriber("transformers", TranscriberSettings(model=tmp_path))


def test_another_rate_is_refused(ctc, tmp_path):
    for path in ctc.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(AsrUnavailableError, match="sampling_rate is 8000"):
        open_transcriber("transformers", TranscriberSettings(model=tmp_path))


def test_sound_that_is_none_is_refused(ctc):
    opened = open_transcriber("transformers", TranscriberSettings(model=ctc))
    with pytest.raises(InputError, match="finite numbers"):
        opened.transcribe(np.full(100, np.nan, dtype=np.float32), RATE)


class Counting:
    backend, model_id = "counting", "1"

    def __init__(self):
        self.calls = 0

    def transcribe(self, waveform, sample_rate, *, given=None):
        self.calls += 1
        return module.Transcript(text="ja", backend="counting", segments=(SEGMENT,))

    def close(self):
        self.calls = -1


SEGMENT = module.Segment("ja", 0.0, 0.5, 0.25)


def test_a_transcript_is_made_once(tmp_path):
    counting = Counting()
    cached = CachedTranscriber(counting, tmp_path)
    first = cached.transcribe(noise(), RATE)
    assert cached.transcribe(noise(), RATE) == first
    assert first.segments == (SEGMENT,)
    assert counting.calls == 1
    cached.transcribe(noise(), 8_000)
    cached.transcribe(noise(0.5), RATE)
    assert counting.calls == 3
    other = CachedTranscriber(counting, tmp_path)
    other.model_id = "2"
    other.transcribe(noise(), RATE)
    assert counting.calls == 4
    for path in tmp_path.rglob("*.json"):
        path.write_text("{")
    cached.transcribe(noise(), RATE)
    assert counting.calls == 5
    cached.close()
    assert counting.calls == -1


def test_a_cache_is_used_where_there_is_one(own, tmp_path):
    opened = open_transcriber("own", TranscriberSettings(model=own), cache_dir=tmp_path)
    assert isinstance(opened, CachedTranscriber)
    assert not isinstance(open_transcriber("none", cache_dir=tmp_path), CachedTranscriber)


def test_a_broken_file_costs_its_own_row(own, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    (tmp_path / "b.wav").write_bytes(b"")
    opened = open_transcriber("own", TranscriberSettings(model=own))
    done = []
    rows = transcribe_utterances(
        opened,
        utterances_of_files([tmp_path / "a.wav", tmp_path / "b.wav"]),
        on_done=done.append,
    )
    assert done == [1, 2]
    assert rows[0].transcript.text
    assert "empty" in rows[1].error
    table = list(csv.DictReader(io.StringIO(transcript_table(rows))))
    assert [row["file"] for row in table] == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert table[0]["text"] == rows[0].transcript.text
    assert table[0]["backend"] == "own"
    assert "empty" in table[1]["error"]


def test_the_sound_of_a_video_is_read(own, tmp_path):
    pytest.importorskip("av")
    grey = [np.full((48, 64), 128, np.uint8)] * 10
    write_clip(tmp_path / "said.mp4", grey, fps=10, waveform=noise())
    write_clip(tmp_path / "mute.mkv", grey, fps=10)
    (tmp_path / "cut.mov").write_bytes((tmp_path / "said.mp4").read_bytes()[:300])
    write_clip(tmp_path / "voice.webm", None, waveform=noise())
    (tmp_path / "none").mkdir()
    files = collect_files([tmp_path, tmp_path / "none"])
    opened = open_transcriber("own", TranscriberSettings(model=own))
    rows = transcribe_utterances(opened, utterances_of_files(files))
    found = {row.utterance.path.name: row for row in rows}
    assert list(found) == ["cut.mov", "mute.mkv", "said.mp4", "voice.webm", "none"]
    assert found["said.mp4"].transcript.text
    assert found["voice.webm"].transcript.text
    assert found["mute.mkv"].error == f"{tmp_path / 'mute.mkv'}: no sound in it"
    assert "truncated or no clip" in found["cut.mov"].error
    assert "no sound files or videos in this folder" in found["none"].error


def test_the_extra_that_reads_videos_is_named(own, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "said.mp4").write_bytes(b"....ftyp")
    opened = open_transcriber("own", TranscriberSettings(model=own))
    (row,) = transcribe_utterances(opened, utterances_of_files([tmp_path / "said.mp4"]))
    assert "pip install 'serkit[video]'" in row.error


def test_words_of_a_table_are_given(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    known = Utterance(
        id="a",
        path=tmp_path / "a.wav",
        corpus="t",
        label=None,
        speaker="s",
        start_s=0.2,
        end_s=0.8,
        transcript="hello",
    )
    rows = transcribe_utterances(open_transcriber("manifest"), [known])
    assert rows[0].transcript.text == "hello"
    assert next(csv.DictReader(io.StringIO(transcript_table(rows))))["end_s"] == "0.8"


def test_every_back_end_is_named():
    assert list(BACKENDS) == ["own", "transformers", "faster-whisper", "vosk", "manifest", "none"]


def test_files_are_transcribed_from_the_command_line(own, tmp_path, monkeypatch):
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "a.wav", noise(), RATE)
    (tmp_path / "b.wav").write_bytes(b"")
    out = tmp_path / "said.csv"
    arguments = ["transcribe", str(tmp_path), "--with", "own", "--model", str(own)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 2  # for the empty file, whose row says why
    good, bad = csv.DictReader(io.StringIO(out.read_text()))
    assert (Path(good["file"]).name, good["backend"], good["error"]) == ("a.wav", "own", "")
    assert "b.wav" in bad["error"]


def test_texts_are_heard_for_whoever_reads_them(own, tmp_path, monkeypatch):
    monkeypatch.setenv("SERKIT_CACHE", str(tmp_path / "cache"))
    good, bad = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(good, noise(), RATE)
    bad.write_bytes(b"")
    heard = texts_heard([good, bad], "own", own)
    assert set(heard) == {good}
