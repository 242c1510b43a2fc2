"""A speech recogniser: from sound to text, on disk, and while somebody speaks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serkit import speech_recogniser
from serkit.speech_recogniser import (
    SpeechRecogniser,
    SpeechRecogniserConfig,
    build_fbank,
    load_matching,
    load_speech_recogniser,
)
from serkit.types import InputError

SYMBOLS = ("<blank>", "<unk>", "|", "a", "b", "c", "<eos>")
SMALL = {"width": 16, "n_blocks": 1, "n_heads": 2, "n_ffn": 16, "kernel": 3, "dropout": 0.0}


def config(**changes):
    values = {
        "system": "test",
        "symbols": SYMBOLS,
        "front_end": {"preset": "kaldi", "n_mels": 20},
        "model": {"name": "conformer", **SMALL},
    }
    return SpeechRecogniserConfig(**(values | changes))


def recogniser(**changes) -> SpeechRecogniser:
    torch.manual_seed(0)
    made = SpeechRecogniser(config(**changes))
    with torch.no_grad():  # so that it spells something
        made.model.classify.weight.mul_(20)
    made.model.set_cmvn(torch.full((20,), 5.0), torch.full((20,), 0.3))
    return made.eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    n = round(16_000 * seconds)
    envelope = 0.1 * (1 + np.sin(np.arange(n) / 700))
    return (envelope * generator.standard_normal(n)).astype(np.float32)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    made = recogniser(augment=({"type": "speed"},), trained_on={"name": "x"})
    made.save(tmp_path / "m", card="# card")
    loaded = load_speech_recogniser(tmp_path / "m")
    assert loaded.config.symbols == SYMBOLS
    assert list(loaded.config.augment) == [{"type": "speed"}]
    assert loaded.config.trained_on == {"name": "x"}
    assert json.loads((tmp_path / "m" / "config.json").read_text())["task"] == "transcription"
    sound = [noise(1.0), noise(0.4, 1)]
    assert loaded.transcribe(sound) == made.transcribe(sound)
    assert made.transcribe(sound)[0].text


def test_a_run_folder_is_found_by_its_model(tmp_path):
    recogniser().save(tmp_path / "run" / "model")
    assert load_speech_recogniser(tmp_path / "run").n_parameters == recogniser().n_parameters


def test_a_text_does_not_depend_on_what_else_is_heard():
    made = recogniser()
    sounds = [noise(seconds, seed) for seed, seconds in enumerate((0.5, 2.0, 1.3))]
    together = made.transcribe(sounds)
    assert [one.text for one in together] == [made.transcribe([s])[0].text for s in sounds]


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
@pytest.mark.parametrize("n", [0, 1, 100, 16_000, 400_000])
def test_silence_gives_an_empty_text(decoding, n):
    heard = recogniser().transcribe([np.zeros(n, dtype=np.float32)], decoding=decoding)[0]
    assert (heard.text, heard.segments, heard.confidence) == ("", (), None)


def test_a_handful_of_samples_is_no_error():
    for n in (1, 39, 399, 401):
        recogniser().transcribe([np.ones(n, dtype=np.float32)])


def test_greedy_and_beam_both_say_how_sure_they_are():
    for decoding in ("greedy", "beam"):
        heard = recogniser().transcribe([noise(1.0)], decoding=decoding)[0]
        assert 0 < heard.confidence <= 1


def test_segments_lie_within_the_sound():
    heard = recogniser().transcribe([noise(1.013)])[0]
    assert heard.segments
    assert all(0 <= one.start_s <= one.end_s <= 1.013 for one in heard.segments)


def test_a_long_recording_is_cut_at_a_pause_and_its_texts_are_joined(monkeypatch):
    monkeypatch.setattr(speech_recogniser, "LONGEST_S", 2.0)
    made = recogniser()
    pause = np.zeros(16_000, dtype=np.float32)
    sound = np.concatenate([noise(1.5), pause, noise(1.5, 1)])
    calls = []
    plain = made.read
    made.read = lambda *a, **k: calls.append(a[0].shape[0]) or plain(*a, **k)
    heard = made.transcribe([sound])[0]
    assert sum(calls) == 2
    assert heard.text
    assert heard.segments[-1].start_s > 2.4
    starts = [one.start_s for one in heard.segments]
    assert starts == sorted(starts)


def test_another_rate_is_resampled():
    made = recogniser()
    assert made.transcribe_at(noise(1.0), 16_000) == made.transcribe([noise(1.0)])[0]
    assert made.transcribe_at(noise(1.0)[::2].copy(), 8_000).text is not None
    assert made.transcribe_at(np.zeros(0, dtype=np.float32), 8_000).text == ""


@pytest.mark.parametrize(
    "model",
    [
        {"name": "conformer", **SMALL, "streaming": True, "chunk": 4},
        {"name": "deepspeech2", "n_channels": 4, "n_layers": 1, "n_hidden": 16, "streaming": True},
    ],
)
@pytest.mark.parametrize("size", [160, 1_000, 40_000])
def test_a_stream_ends_with_the_text_of_the_whole(model, size):
    made = recogniser(model=model)
    sound = noise(1.7)
    texts = list(made.stream(sound[i : i + size] for i in range(0, len(sound), size)))
    assert texts[-1] == made.transcribe([sound])[0].text
    assert len(texts) == -(-len(sound) // size) + 1


def test_a_stream_of_nothing_is_empty():
    made = recogniser(model={"name": "conformer", **SMALL, "streaming": True, "chunk": 4})
    assert list(made.stream([])) == [""]
    assert list(made.stream([np.zeros(10, dtype=np.float32)])) == ["", ""]
    assert made.transcribe([noise(0.01)])[0].text == list(made.stream([noise(0.01)]))[-1]


def test_what_sees_whole_utterances_is_not_streamed():
    with pytest.raises(InputError, match="sees whole utterances"):
        list(recogniser().stream([noise(0.1)]))
    loud = recogniser(
        front_end={"preset": "asr", "n_mels": 20},
        model={"name": "conformer", **SMALL, "streaming": True},
    )
    with pytest.raises(InputError, match="measures whole utterances"):
        list(loud.stream([noise(0.1)]))


def test_weights_of_another_shape_are_skipped_and_named(tmp_path):
    given = recogniser()
    given.save(tmp_path)
    longer = config(symbols=(*SYMBOLS[:-1], "d", "<eos>"))
    torch.manual_seed(9)
    started = SpeechRecogniser(longer)
    skipped = load_matching(started, tmp_path)
    assert skipped == ["model.classify.bias", "model.classify.weight"]
    taken, wanted = started.state_dict(), given.state_dict()
    for name in set(wanted) - set(skipped):
        assert torch.equal(taken[name], wanted[name])


def test_weights_none_of_which_fit_are_refused(tmp_path):
    recogniser().save(tmp_path)
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="none of its 1 tensors"):
        load_matching(recogniser(), tmp_path)


def test_wrong_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint .* of a speech recogniser"):
        load_speech_recogniser(tmp_path)
    folder = recogniser().save(tmp_path / "m")
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | {"task": "emotion"}))
    with pytest.raises(InputError, match="a recognizer of emotion, expected a speech recogniser"):
        load_speech_recogniser(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_speech_recogniser(folder)
    (folder / "config.json").write_text(json.dumps(saved | {"symbols": ["a"]}))
    with pytest.raises(InputError, match="expected the blank first"):
        load_speech_recogniser(folder)
    (folder / "config.json").write_text(json.dumps(saved))
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.classify.bias")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match="weights do not fit"):
        load_speech_recogniser(folder)
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable safetensors"):
        load_speech_recogniser(folder)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match=r"model.n_symbols is 5"):
        SpeechRecogniser(config(model={"name": "conformer", "n_symbols": 5}))
    with pytest.raises(InputError, match="stands for no character"):
        SpeechRecogniser(
            config(
                symbols=SYMBOLS[:-1], model={"name": "conformer", **SMALL, "n_decoder_layers": 1}
            )
        )
    with pytest.raises(InputError, match=r"front_end\.preset is 'x'"):
        build_fbank({"preset": "x"})


def test_bad_sound_and_unknown_decoding_are_refused():
    with pytest.raises(InputError, match="finite numbers"):
        recogniser().transcribe([np.full(100, np.nan, dtype=np.float32)])
    with pytest.raises(InputError, match="decoding is 'x'"):
        recogniser().transcribe([noise(0.1)], decoding="x")
