"""Networks for speech recognition: lengths, padding, streams, decoders, and that they learn."""

from __future__ import annotations

import json
import sys

import jiwer
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from serkit.features.fbank import Fbank, FbankConfig
from serkit.models.asr import ASR_MODELS, asr_model_to_dict, build_asr_model
from serkit.models.attention_decoder import attention_loss, decoder_targets
from serkit.models.conformer import FrameNorm, RelativeAttention, chunks_visible
from serkit.models.ctc_decode import greedy_decode
from serkit.training.ctc import ctc_loss
from serkit.transcripts import Symbols
from serkit.types import InputError

_BLOCKS = {"width": 32, "n_heads": 2, "n_ffn": 64, "kernel": 7, "n_symbols": 12}
TINY = {
    "conformer": _BLOCKS | {"n_blocks": 2},
    "deepspeech2": {"n_channels": 4, "n_layers": 2, "n_hidden": 16, "n_symbols": 12},
    "efficient_conformer": _BLOCKS | {"n_blocks": 3, "halve_at": 1},
    "squeezeformer": _BLOCKS | {"n_blocks": 3, "halve_at": 1, "restore_at": 2},
}
LENGTHS = [120, 3, 77, 7, 40]
VARIANTS = [(name, {}) for name in ASR_MODELS] + [
    ("conformer", {"conv_norm": "batch"}),
    ("conformer", {"streaming": True, "chunk": 3}),
    ("conformer", {"streaming": True, "chunk": 3, "n_left_chunks": 1, "kernel": 6}),
    ("deepspeech2", {"streaming": True}),
    ("efficient_conformer", {"group": 4, "halve_at": 0}),
    ("squeezeformer", {"restore_at": 3, "conv_norm": "layer"}),
]
STREAMS = [
    ("conformer", {"chunk": 1}),
    ("conformer", {"chunk": 4}),
    ("conformer", {"chunk": 4, "n_left_chunks": 0}),
    ("conformer", {"chunk": 3, "n_left_chunks": 2, "conv_norm": "batch", "kernel": 4}),
    ("deepspeech2", {}),
]


def build(name: str, **settings):
    """Build a small network with weights, statistics included, that are not at their start."""
    torch.manual_seed(0)
    model = build_asr_model(name, TINY[name] | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.set_cmvn(torch.full((80,), 0.5), torch.full((80,), 2.0))
    return model


def random_features(n_frames: list[int] = LENGTHS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(n_frames), max(n_frames), 80, generator=generator), torch.tensor(
        n_frames
    )


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_batch_equals_its_utterances_one_by_one(name, settings):
    model = build(name, **settings)
    features, n_frames = random_features()
    model.train()(features, n_frames)  # moves batch-norm statistics
    model.eval()
    together = model(F.pad(features, (0, 0, 0, 30), value=1e4), n_frames)
    for row, n in enumerate(LENGTHS):
        alone = model(features[row : row + 1, :n], torch.tensor([n]))
        m = int(alone["n_asr"])
        assert alone["asr"].shape == (1, m, 12)
        assert together["n_asr"][row] == m
        for key in ("asr", "encoded"):
            torch.testing.assert_close(together[key][row, :m], alone[key][0], atol=1e-4, rtol=1e-4)
        assert not together["encoded"][row, m:].any()


@pytest.mark.parametrize("name", sorted(ASR_MODELS))
def test_lengths_are_those_of_the_strides(name):
    model = build(name)
    features, n_frames = random_features([6, 7, 10, 11, 100, 1])
    quarter = torch.tensor([1, 1, 1, 2, 24, 1])
    expected = quarter if model.stride == 4 else (quarter + 1) // 2
    outputs = model.eval()(features, n_frames)
    for key in ("n_asr", "n_encoded"):
        assert outputs[key].dtype == torch.int64
        assert outputs[key].tolist() == expected.tolist()
    assert torch.isfinite(outputs["asr"]).all()


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_every_parameter_learns(name, settings):
    model = build(name, **settings, dropout=0.0)
    features, n_frames = random_features()
    outputs = model.train()(features.requires_grad_(), n_frames)
    (outputs["asr"].square().mean() + outputs["encoded"].pow(3).mean()).backward()
    assert torch.isfinite(features.grad).all()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # A bias right before a batch norm cancels, and one of all keys or distances in a softmax.
        if key.rpartition(".")[2] != "bias":
            assert parameter.grad.any(), key


@pytest.mark.parametrize("name", sorted(ASR_MODELS))
def test_a_network_is_rebuilt_from_its_settings_and_weights(name):
    model = build(name).eval()
    again = build_asr_model(name, json.loads(json.dumps(asr_model_to_dict(model)))).eval()
    assert again.config == model.config
    again.load_state_dict(model.state_dict())
    batch = random_features()
    torch.testing.assert_close(again(*batch)["asr"], model(*batch)["asr"], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(ASR_MODELS))
def test_the_page_of_a_network_gives_its_size(name):
    model = build_asr_model(name, {})
    statistics = sum(b.numel() for key, b in model.named_buffers() if "running_" in key)
    count = sum(p.numel() for p in model.parameters()) + statistics
    page = sys.modules[type(model).__module__].__doc__
    assert page is not None
    assert f"{count:,}" in page


@pytest.mark.parametrize("name", sorted(ASR_MODELS))
def test_statistics_normalise_features_and_are_saved(name):
    model = build(name).eval()
    features, n_frames = random_features()
    shifted, mean, istd = 3 * features + 7, torch.full((80,), 7.0), torch.full((80,), 1 / 3)
    plain = build(name).eval()
    plain.set_cmvn(torch.zeros(80), torch.ones(80))
    model.set_cmvn(mean, istd)
    torch.testing.assert_close(
        model(shifted, n_frames)["asr"], plain(features, n_frames)["asr"], atol=1e-4, rtol=1e-3
    )
    assert torch.equal(model.state_dict()["cmvn.mean"], mean)
    with pytest.raises(
        InputError, match=r"cmvn mean: expected 80 finite numbers, got shape \(40,\)"
    ):
        model.set_cmvn(torch.zeros(40), istd)
    with pytest.raises(InputError, match="cmvn istd: expected 80 finite numbers"):
        model.set_cmvn(mean, torch.full((80,), torch.inf))


@pytest.mark.parametrize(("name", "settings"), STREAMS)
@pytest.mark.parametrize("n_frames", [1, 6, 7, 50, 121])
@pytest.mark.parametrize("n_at_once", [1, 16, 200])
@torch.no_grad()
def test_a_stream_equals_the_whole(name, settings, n_frames, n_at_once):
    model = build(name, streaming=True, **settings).eval()
    features, lengths = random_features([n_frames, n_frames])
    expected = model(features, lengths)
    state, heard = None, []
    for piece in torch.split(features, n_at_once, dim=1):
        outputs, state = model.stream(state, piece)
        heard.append(outputs)
    outputs, state = model.stream(state, features[:, :0], last=True)
    heard.append(outputs)
    for key in ("asr", "encoded"):
        joined = torch.cat([one[key] for one in heard], dim=1)
        torch.testing.assert_close(joined, expected[key], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_stream_speaks_before_the_end():
    model = build("conformer", streaming=True, chunk=2).eval()
    features, _ = random_features([40])
    outputs, state = model.stream(None, features[:, :10])
    assert outputs["asr"].shape == (1, 0, 12)
    outputs, _ = model.stream(state, features[:, 10:11])
    assert outputs["asr"].shape == (1, 2, 12)


@torch.no_grad()
def test_a_stream_remembers_no_more_than_it_may_see():
    model = build("conformer", streaming=True, chunk=2, n_left_chunks=3).eval()
    state = None
    for _ in range(10):
        _, state = model.stream(state, torch.randn(1, 30, 80))
    assert state is not None
    assert {past.keys_values.shape[1] for past in state.memories} == {6}


@pytest.mark.parametrize("name", ["conformer", "deepspeech2"])
def test_a_network_of_whole_utterances_refuses_to_stream(name):
    with pytest.raises(InputError, match=r"model\.streaming is false: .* streaming = true"):
        build(name).stream(None, torch.zeros(1, 8, 80))


@torch.no_grad()
def test_later_chunks_change_nothing():
    model = build("conformer", streaming=True, chunk=3).eval()
    features, n_frames = random_features([120])
    before = model(features, n_frames)["asr"]
    features[:, 4 * 6 + 3 :] += 5  # behind what the first six encoded frames are made of
    after = model(features, n_frames)["asr"]
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:9], before[:, 6:9])


def test_chunks_see_themselves_and_those_before():
    seen = chunks_visible(5, chunk=2, n_left_chunks=1)
    assert seen.int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert chunks_visible(5, chunk=2, n_left_chunks=None)[4].all()


def test_training_draws_chunks_and_often_none():
    model = build("conformer", streaming=True).train()
    torch.manual_seed(0)
    drawn = [model._chunk(80) for _ in range(400)]
    lengths = {chunk for chunk in drawn if chunk is not None}
    assert lengths == set(range(1, 26))
    assert 140 < drawn.count(None) < 260
    assert model.eval()._chunk(80) == 16


@torch.no_grad()
def test_attention_scores_are_those_of_content_and_distance():
    torch.manual_seed(0)
    attention = RelativeAttention(8, n_heads=2, dropout=0.0)
    torch.nn.init.normal_(attention.content_bias)
    torch.nn.init.normal_(attention.distance_bias)
    frames = torch.randn(1, 5, 8)
    x = frames[:, 2:]  # three queries, which have two frames before them
    key, value = attention.key_value(frames)[0].chunk(2, dim=1)
    query, expected = attention.query(x)[0], torch.zeros(3, 8)
    slowness = 10_000 ** (-torch.arange(0, 8, 2) / 8)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = torch.zeros(3, 5)
        for i in range(3):
            for j in range(5):
                angle = (i + 2 - j) * slowness
                wave = torch.stack([angle.sin(), angle.cos()], dim=1).flatten()
                place = attention.distance(wave)[part]
                by_content = (query[i, part] + attention.content_bias[head, 0]) @ key[j, part]
                by_distance = (query[i, part] + attention.distance_bias[head, 0]) @ place
                scores[i, j] = (by_content + by_distance) / 2
        expected[:, part] = scores.softmax(1) @ value[:, part]
    got = attention(x, attention.key_value(frames), torch.ones(1, 1, 5, dtype=torch.bool))
    torch.testing.assert_close(got[0], attention.out(expected))


def test_padding_has_no_part_in_batch_statistics():
    norm = FrameNorm(3, batch=True)
    x, valid = torch.randn(2, 4, 3), torch.tensor([[True] * 4, [True, False, False, False]])
    x[1, 1:] = 1e6
    normal = norm(x, valid)
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * x[valid].mean(0))
    torch.testing.assert_close(normal[valid].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    single = norm(x[:1, :1], valid[:1, :1])
    assert torch.equal(single, x[:1, :1]), "one frame has no spread"


TOKENS, N_TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]]), torch.tensor([4, 2, 0])


def with_decoders():
    return build("conformer", n_decoder_layers=1, n_reverse_layers=1, n_decoder_ffn=32)


def test_decoders_predict_from_what_stands_before():
    model = with_decoders().eval()
    batch = random_features([60, 30, 40])
    outputs = model(*batch, TOKENS, N_TOKENS)
    assert outputs["decoder"].shape == outputs["decoder_reverse"].shape == (3, 5, 12)
    changed = TOKENS.clone()
    changed[0, 2] = 9
    after = model(*batch, changed, N_TOKENS)
    torch.testing.assert_close(after["decoder"][0, :3], outputs["decoder"][0, :3])
    assert not torch.allclose(after["decoder"][0, 3], outputs["decoder"][0, 3])
    # From right to left, the third symbol of four is the second that is read.
    reverse = outputs["decoder_reverse"][0]
    torch.testing.assert_close(after["decoder_reverse"][0, :2], reverse[:2])
    assert not torch.allclose(after["decoder_reverse"][0, 2], reverse[2])
    assert "decoder" not in model(*batch)


def test_decoders_do_not_read_padding():
    model = with_decoders().eval()
    features, n_frames = random_features([60, 30, 40])
    outputs = model(features, n_frames, TOKENS, N_TOKENS)
    alone = model(features[1:2, :30], n_frames[1:2], TOKENS[1:2, :2], N_TOKENS[1:2])
    for key in ("decoder", "decoder_reverse"):
        torch.testing.assert_close(outputs[key][1, :3], alone[key][0], atol=1e-4, rtol=1e-4)


def test_targets_of_a_decoder_end_with_the_last_symbol():
    assert decoder_targets(TOKENS, N_TOKENS, n_symbols=12).tolist() == [
        [1, 2, 3, 4, 11],
        [5, 6, 11, -100, -100],
        [11, -100, -100, -100, -100],
    ]


def test_the_loss_of_decoders_is_smoothed_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits, reverse = torch.randn(2, 3, 5, 12, generator=generator)
    outputs = {"decoder": logits, "decoder_reverse": reverse}

    def by_hand(logits: Tensor, symbols: list[list[int]]) -> float:
        total = 0.0
        for row, line in zip(logits.log_softmax(2), symbols, strict=True):
            for log_probs, symbol in zip(row, line, strict=False):
                total -= 0.9 * float(log_probs[symbol]) + 0.1 * float(log_probs.mean())
        return total / 3

    forward = by_hand(logits, [[1, 2, 3, 4, 11], [5, 6, 11], [11]])
    backward = by_hand(reverse, [[4, 3, 2, 1, 11], [6, 5, 11], [11]])
    loss = attention_loss({"decoder": logits}, TOKENS, N_TOKENS)
    assert float(loss) == pytest.approx(forward, rel=1e-4)
    both = attention_loss(outputs, TOKENS, N_TOKENS)
    assert float(both) == pytest.approx(0.7 * forward + 0.3 * backward, rel=1e-4)
    with pytest.raises(InputError, match=r"logits \(3, 5, 12\) for tokens \(3, 3\)"):
        attention_loss(outputs, TOKENS[:, :3], N_TOKENS)


def test_decoders_train_the_encoder():
    model = with_decoders().train()
    outputs = model(*random_features([60, 30, 40]), TOKENS, N_TOKENS)
    attention_loss(outputs, TOKENS, N_TOKENS).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == key.startswith("classify"), key


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("conformer", {"n_heads": 3}, r"model\.n_heads = 3: .* width of 32 .*divisor"),
        ("conformer", {"kernel": 6}, r"model\.kernel = 6: .* choose 7"),
        ("conformer", {"n_reverse_layers": 1}, r"n_reverse_layers = 1: .* set n_decoder_layers"),
        ("conformer", {"n_features": 5}, r"model\.n_features = 5: .*greater than or equal to 7"),
        ("deepspeech2", {"layers": 3}, r"model\.layers: unknown setting; .*n_layers"),
        ("efficient_conformer", {"halve_at": 3}, r"model\.halve_at is 3, expected less than"),
        ("efficient_conformer", {"kernel": 6}, r"model\.kernel is 6, expected an odd number"),
        ("squeezeformer", {"n_heads": 5}, r"model\.n_heads is 5, expected a divisor of width, 32"),
        ("squeezeformer", {"restore_at": 1}, r"restore_at is 1, expected more than halve_at, 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        build_asr_model(name, TINY[name] | settings)


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match=r"model\.name is 'rnnt', expected one of conformer, deep"):
        build_asr_model("rnnt", {})


# What is learnt: tones that stand for characters, spoken one after the other.
LETTERS = Symbols(("<blank>", "<unk>", *"ABCDEFGH", "<eos>"))
TONE_HZ = {letter: 300 * 1.35**i for i, letter in enumerate("ABCDEFGH")}


def spoken_tones(n: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Features of ``n`` utterances of 3 to 6 tones in noise, and what they spell."""
    generator = torch.Generator().manual_seed(seed)
    waveforms, texts = torch.zeros(n, 16_000 * 6 // 4), []
    n_samples = torch.zeros(n, dtype=torch.int64)
    for i in range(n):
        n_tones = int(torch.randint(3, 7, (), generator=generator))
        text, at = "", 0
        for letter in torch.randint(8, (n_tones,), generator=generator).tolist():
            text += "ABCDEFGH"[letter]
            length = int(torch.randint(1_900, 2_900, (), generator=generator))
            t = torch.arange(length) / 16_000
            tone = torch.sin(2 * torch.pi * TONE_HZ[text[-1]] * t) * torch.hann_window(length)
            waveforms[i, at : at + length] = 0.3 * tone
            at += length + int(torch.randint(400, 900, (), generator=generator))
        waveforms[i, :at] += 0.01 * torch.randn(at, generator=generator)
        n_samples[i] = at
        texts.append(text)
    features, n_frames = Fbank(FbankConfig(target_db=-20.0))(waveforms, n_samples)
    return features, n_frames, texts


def character_error_rate(model, features: Tensor, n_frames: Tensor, texts: list[str]) -> float:
    with torch.no_grad():
        outputs = model.eval()(features, n_frames)
    found = greedy_decode(outputs["asr"], outputs["n_asr"], symbols=LETTERS)
    return jiwer.cer(texts, [one.text for one in found])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("conformer", {}),
        ("conformer", {"streaming": True, "chunk": 4}),
        ("deepspeech2", {"n_hidden": 64}),
        ("efficient_conformer", {}),
        ("squeezeformer", {}),
    ],
)
def test_tones_are_read_as_characters(name, settings):
    features, n_frames, texts = spoken_tones(256, seed=0)
    symbols = torch.full((len(texts), 6), -100)
    for row, text in zip(symbols, texts, strict=True):
        row[: len(text)] = torch.tensor(LETTERS.encode(text))
    torch.manual_seed(0)
    known = {"n_symbols": len(LETTERS), "dropout": 0.0}
    model = build_asr_model(name, TINY[name] | known | settings)
    valid = torch.cat([row[:n] for row, n in zip(features, n_frames.tolist(), strict=True)])
    model.set_cmvn(valid.mean(0), 1 / valid.std(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(25):
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(16):
            outputs = model.train()(features[rows], n_frames[rows])
            loss = ctc_loss(
                outputs["asr"],
                outputs["n_asr"],
                symbols[rows],
                reduction="mean",
                zero_infinity=True,
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    assert character_error_rate(model, *spoken_tones(64, seed=1)) < 0.05
