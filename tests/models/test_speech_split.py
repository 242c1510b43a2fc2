"""SpeechSplit against the public implementation (golden numbers) and its own properties."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.golden_speech_split import (
    CASES,
    GOLDEN,
    Case,
    assert_checks,
    assert_gradients,
    golden_batch,
    golden_converter,
    golden_draws,
    golden_split,
    golden_values,
)
from serkit.models.layers import lengths_to_mask
from serkit.models.resampling import Draws, RandomResampler
from serkit.models.speech_split import (
    F0Converter,
    F0ConverterConfig,
    SpeechSplit,
    SpeechSplitConfig,
    SplitSizes,
    f0_bins,
)
from serkit.types import InputError

RUNS = [
    pytest.param("small", torch.float32, id="small, float32"),
    pytest.param("small", torch.float64, id="small, float64"),
    pytest.param("full_size", torch.float32, id="full size"),
]
OUTPUT_ATOL = {"small": 2e-5, "full_size": 2e-4}
LOSS_RTOL = {"small": 1e-5, "full_size": 1e-4}
GRADIENT_RTOL = {"small": 1e-4, "full_size": 1e-3}
ZEROED = {
    "content": "content_input_zeroed",
    "rhythm": "rhythm_input_zeroed",
    "pitch": "pitch_input_all_zero_vector",
}
TINY = SplitSizes(
    n_mels=10,
    n_f0_bins=32,
    content_width=32,
    rhythm_width=16,
    pitch_width=16,
    timbre_width=16,
    n_timbre=6,
    decoder_units=12,
)


def tiny_split(**settings: Any) -> SpeechSplit:
    torch.manual_seed(0)
    return SpeechSplit(SpeechSplitConfig(**{"sizes": TINY} | settings)).eval()


def random_parts(lengths: list[int], *, n_mels: int = 10) -> tuple[Tensor, Tensor]:
    """Mel somewhat beyond [0, 1], F0 with unvoiced frames, and padding that may hold anything."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(len(lengths), max(lengths), n_mels + 1, generator=generator) * 1.2 - 0.1
    unvoiced = torch.rand(features.shape[:2], generator=generator) < 0.3
    features[..., -1] = features[..., -1].clamp(0.01, 1).masked_fill(unvoiced, -1)
    return features, torch.tensor(lengths)


def prescribe(model: nn.Module, draws: list[dict[str, Any]], n_rows: int) -> None:
    remaining = golden_draws(draws, n_rows)
    model.decomposer.resampler.draw = lambda *args, **kwargs: next(remaining)


def target_of(features: Tensor, n_frames: Tensor) -> Tensor:
    valid = lengths_to_mask(n_frames, features.shape[1]).unsqueeze(2)
    return features[..., :-1].clamp(0, 1).masked_fill(~valid, 0)


def assert_codes(outputs: dict[str, Tensor], golden: Case, *, atol: float) -> None:
    for stream in ZEROED:
        expected = golden[f"{stream}_codes"]
        got = outputs[stream]
        if isinstance(expected, dict):  # the first codes of the first utterance
            assert_checks(got, expected["check"], atol=atol)
            expected = next(value for key, value in expected.items() if key.startswith("sample0"))
            got = got[0, : len(expected)]
        expected = torch.tensor(expected)
        torch.testing.assert_close(got.float(), expected, rtol=0, atol=atol, msg=stream)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_codes_and_outputs_are_the_published(name, dtype):
    case, atol = CASES[name], OUTPUT_ATOL[name]
    model = golden_split(case, dtype).eval()
    for golden in case["eval"]:
        features, n, speaker = golden_batch(case, golden["valid_lengths"], golden["frames"])
        with torch.no_grad():
            outputs = model(features.to(dtype), n, speaker)
            assert_codes(outputs, golden, atol=atol)
            mel = outputs["reconstruction"]
            assert_checks(mel, golden["output"]["check"], atol=atol)
            values = torch.tensor(golden["output"]["values"])
            frames = golden["output"]["frames"][: values.shape[1]]
            torch.testing.assert_close(mel[:, frames].float(), values, rtol=0, atol=atol)
            for stream, key in ZEROED.items():
                ablated = model.reconstruct(features.to(dtype), n, speaker, without={stream})
                assert_checks(ablated, golden["ablations"][key], atol=atol)


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_training_is_the_published(name, dtype):
    case = CASES[name]
    golden, width = case["train"], case["config"]["max_len_pad"]
    model = golden_split(case, dtype).train()
    features, n, speaker = golden_batch(case, golden["valid_lengths"], width)
    prescribe(model, golden["draws"], len(n))
    mel = model(features.to(dtype), n, speaker)["reconstruction"]
    assert_checks(mel, golden["output_check"], atol=OUTPUT_ATOL[name])
    loss = F.mse_loss(mel, target_of(features.to(dtype), n))
    assert loss.item() == pytest.approx(golden["loss_mse"], rel=LOSS_RTOL[name])
    loss.backward()
    assert_gradients(model, golden["grad_l2"], rtol=GRADIENT_RTOL[name])


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_f0_converter_is_the_published(name, dtype):
    case, atol = CASES[name], OUTPUT_ATOL[name]
    model = golden_converter(case, dtype).eval()
    for golden in case["eval"]:
        features, n, _ = golden_batch(case, golden["valid_lengths"], golden["frames"])
        with torch.no_grad():
            outputs = model(features.to(dtype), n)
        assert_checks(outputs["pitch"], golden["f0_converter"]["pitch_codes_check"], atol=atol)
        assert_checks(outputs["f0"], golden["f0_converter"]["output_check"], atol=atol)
        assert outputs["n_f0"].tolist() == golden["valid_lengths"]
    trained, width = case["train_f0_converter"], case["config"]["max_len_pad"]
    features, n, _ = golden_batch(case, case["train"]["valid_lengths"], width)
    prescribe(model, case["train"]["draws"], len(n))
    logits = model.train()(features.to(dtype), n)["f0"]
    assert_checks(logits, trained["output_check"], atol=atol)
    f0 = features[..., -1].masked_fill(~lengths_to_mask(n, width), -1)
    bins = f0_bins(f0, case["config"]["dim_f0"] - 1)
    loss = F.cross_entropy(logits.flatten(0, 1), bins.flatten())
    assert loss.item() == pytest.approx(trained["loss_ce"], rel=LOSS_RTOL[name])
    loss.backward()
    assert_gradients(model, trained["grad_l2"], rtol=GRADIENT_RTOL[name])


@pytest.mark.parametrize("golden", GOLDEN["resampler_alone"], ids=["short", "published"])
def test_resampling_is_the_published(golden):
    config = golden["config"]
    resampler = RandomResampler(
        min_segment=config["min_len_seg"], max_segment=config["max_len_seg"] - 1
    )
    x = torch.from_numpy(golden_values(*golden["input_shape"]))
    lengths = torch.tensor(golden["lengths"])
    (draws,) = golden_draws(golden["draws"], len(x))
    assert resampler.draw(len(x), x.shape[1], device=x.device).lengths.shape == draws.lengths.shape
    resampled, n = resampler(x, lengths, draws)
    assert n.tolist() == [min(k, x.shape[1]) for k in golden["output_lengths"]]
    torch.testing.assert_close(resampled, torch.tensor(golden["output"]), rtol=0, atol=2e-5)
    unchanged, same = resampler.eval()(x, lengths, draws)
    assert torch.equal(unchanged, x)
    assert torch.equal(same, lengths)


def test_resampled_contour_is_the_published():
    case = CASES["small"]
    golden, sizes = case["train"], case["config"]
    features, n, _ = golden_batch(case, golden["valid_lengths"], sizes["max_len_pad"])
    draws = next(golden_draws(golden["draws"], len(n)))
    resampled, lengths = RandomResampler(min_segment=5, max_segment=8)(features, n, draws)
    assert lengths.tolist() == golden["resampled_output_lengths"]
    assert_checks(resampled[..., :-1], golden["resampled_mel_check"], atol=2e-5)
    bins = f0_bins(resampled[..., -1], sizes["dim_f0"] - 1)
    assert bins.tolist() == golden["resampled_f0_bins"]


def test_f0_is_quantised_as_published():
    golden = GOLDEN["f0_quantiser"]
    for dtype, key in (
        (torch.float32, "bins_from_float32_torch"),
        (torch.float64, "bins_from_float64_numpy"),
    ):
        assert f0_bins(torch.tensor(golden["values"], dtype=dtype)).tolist() == golden[key]
    contour = torch.tensor([torch.nan, -torch.inf, 1.5])
    assert f0_bins(contour).tolist() == [0, 0, 256]


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_numbers_of_parameters_are_the_published():
    with torch.device("meta"):
        for n_speakers, total, decoder in (
            (82, 19_437_800, 15_458_384),
            (10, 19_142_888, 15_163_472),
        ):
            model = SpeechSplit(SpeechSplitConfig(timbre="one_hot", n_speakers=n_speakers))
            assert n_parameters(model) == total
            assert n_parameters(model.decoder) == decoder
        encoders = model.decomposer.encoders
        counts = {stream: n_parameters(encoder) for stream, encoder in encoders.items()}
        assert counts == {"content": 2_865_920, "rhythm": 52_632, "pitch": 1_060_864}
        assert n_parameters(F0Converter(F0ConverterConfig())) == 3_485_849


def test_single_encoder_has_as_wide_a_code_and_the_same_decoder():
    with torch.device("meta"):
        split = SpeechSplit(SpeechSplitConfig())
        single = SpeechSplit(SpeechSplitConfig(streams=("joint", "timbre")))
    assert single.decomposer.widths == {"joint": 82, "timbre": 64}
    assert n_parameters(single.decoder) == n_parameters(split.decoder)


@pytest.mark.parametrize("n_frames", [1, 7, 8, 9, 30])
def test_outputs_have_the_documented_shapes(n_frames):
    features, n = random_parts([n_frames, 1])
    n_codes = -(-n_frames // 8)
    for training in (False, True):
        outputs = tiny_split().train(training)(features, n)
        assert {key: tuple(x.shape) for key, x in outputs.items()} == {
            "content": (2, n_codes, 16),
            "rhythm": (2, n_codes, 2),
            "pitch": (2, n_codes, 64),
            "timbre": (2, 6),
            "n_codes": (2,),
            "reconstruction": (2, n_frames, 10),
            "n_reconstruction": (2,),
        }
        assert outputs["n_codes"].tolist() == [n_codes, 1]
        assert outputs["n_reconstruction"].tolist() == [n_frames, 1]
        assert all(x.isfinite().all() for x in outputs.values())
    joint = tiny_split(streams=("timbre", "joint"))(features, n)
    assert joint["joint"].shape == (2, n_codes, 82)
    assert {"content", "rhythm", "pitch"}.isdisjoint(joint)


@pytest.mark.parametrize("streams", [("content", "rhythm", "pitch", "timbre"), ("joint", "timbre")])
def test_utterance_is_encoded_as_if_alone(streams):
    model = tiny_split(streams=streams)
    lengths = [30, 5, 16, 1]
    features, n = random_parts(lengths)
    with torch.no_grad():
        together = model(features, n)
        # Alone, with the padding counted: what is published for an utterance of whole codes.
        counting = tiny_split(streams=streams, pack=False)
        longer = model(F.pad(features, (0, 0, 0, 19), value=torch.nan), n)
        for row, length in enumerate(lengths):
            alone = counting(features[row : row + 1, :length], n[row : row + 1])
            for key, expected in alone.items():
                for outputs in (together, longer):
                    got = outputs[key][row : row + 1]
                    got = got[:, : expected.shape[1]] if got.ndim > 1 else got
                    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=key)
        assert not longer["reconstruction"][1, 5:].any()
        counted = counting(features, n)["reconstruction"][1, :5]
    assert not torch.allclose(counted, together["reconstruction"][1, :5], atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pack": False},
        {"streams": ("joint", "timbre")},
        {"streams": ("content", "rhythm")},
        {"streams": ("pitch", "timbre")},
        {"streams": ("timbre",)},
        {"timbre": "one_hot", "n_speakers": 3},
    ],
    ids=str,
)
def test_every_parameter_is_trained(settings):
    model = tiny_split(**settings).train()
    features, n = random_parts([40, 1, 25])
    outputs = model(features.requires_grad_(), n, torch.tensor([1, 0, 2]))
    (outputs["reconstruction"] - target_of(features, n)).square().mean().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_reconstruction_is_learnt():
    model = tiny_split().train()
    features, n = random_parts([32, 30, 25])
    features[..., :-1] = features[..., :-1].cumsum(1) / 20  # smooth, so that it can be
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(25):
        loss = F.mse_loss(model(features, n)["reconstruction"], target_of(features, n))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_strangers_have_a_timbre_of_zeros_or_one_that_is_heard():
    features, n = random_parts([20, 12])
    known = tiny_split(timbre="one_hot", n_speakers=3)
    expected = [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert known(features, n, torch.tensor([2, -100]))["timbre"].tolist() == expected
    assert not known(features, n)["timbre"].any()
    with pytest.raises(InputError, match=r"speaker number 3: the network knows 3, from 0; give"):
        known(features, n, torch.tensor([3, 0]))
    heard = tiny_split()(features, n)["timbre"]
    assert not torch.allclose(heard[0], heard[1], atol=1e-3)


def test_streams_hear_what_they_should():
    model = tiny_split()
    features, n = random_parts([32])
    other_f0, other_mel = features.clone(), features.clone()
    other_f0[..., -1] = features[..., -1].flip(1)
    other_mel[..., :-1] = features[..., :-1].flip(1)
    with torch.no_grad():
        codes = model(features, n)
        for moved, deaf in ((other_f0, ("content", "rhythm", "timbre")), (other_mel, ("pitch",))):
            again = model(moved, n)
            same = {s for s in (*ZEROED, "timbre") if torch.equal(again[s], codes[s])}
            assert same == set(deaf)


def test_mel_is_clipped_and_any_f0_up_to_zero_is_unvoiced():
    model = tiny_split()
    features, n = random_parts([20])
    clipped = torch.cat([features[..., :-1].clamp(0, 1), features[..., -1:]], dim=2)
    unvoiced = clipped.masked_fill(clipped < 0, -1e10)
    zero = clipped.clamp_min(0)
    expected = model(features, n)["reconstruction"]
    for same in (clipped, unvoiced, zero):
        assert torch.equal(model(same, n)["reconstruction"], expected)


def test_unvoiced_frames_stay_unvoiced_when_resampled():
    # Half-way between 0.9 and -1 lies nothing voiced, although half of the sum may be above 0.
    model = tiny_split(streams=("pitch",)).train()
    features, n = random_parts([40])
    features[..., -1] = torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0)
    seen = []
    block = model.decomposer.encoders["pitch"].blocks[0]
    block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(features, n)
    # Of voiced bins only the highest, and the lowest nowhere.
    assert seen[0][:, 1:-1].sum() == 0
    assert seen[0][:, -1].sum() > 0


def test_only_rhythm_keeps_its_time_in_training():
    model = tiny_split().train()
    features, n = random_parts([40, 33])
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(features, n))
    for key in ("content", "pitch", "rhythm", "timbre"):
        assert torch.equal(outputs[0][key], outputs[1][key]), key
        kept = torch.equal(outputs[0][key], outputs[2][key])
        assert kept == (key in ("rhythm", "timbre")), key
    still = tiny_split(resample=False)
    expected = still(features, n)["reconstruction"]
    torch.testing.assert_close(still.train()(features, n)["reconstruction"], expected)


def test_content_and_pitch_are_warped_alike():
    resampler = RandomResampler()
    time = torch.arange(192.0).expand(3, 192)
    both, n = resampler(torch.stack([time, 2 * time], dim=2), torch.tensor([128, 64, 90]))
    torch.testing.assert_close(both[..., 1], 2 * both[..., 0])
    assert not torch.equal(both[0, :60], both[1, :60])
    for row, length in zip(both[..., 0], n.tolist(), strict=True):
        assert (row[length:] == 0).all()
        assert (row.diff()[: length - 1] > -32).all()


@pytest.mark.parametrize(("length", "low", "high"), [(128, 80, 192), (64, 35, 90)])
def test_resampled_lengths_stay_within_bounds(length, low, high):
    resampler = RandomResampler()
    torch.manual_seed(0)
    x, lengths = torch.rand(200, 192, 1), torch.full((200,), length)
    resampled, n = resampler(x, lengths)
    assert resampled.shape == x.shape
    assert low <= n.min() < n.max() <= high
    assert n.float().mean() == pytest.approx(length, rel=0.1)
    assert resampled.min() >= 0  # interpolated, never extrapolated
    assert resampled.max() <= 1
    torch.manual_seed(0)
    torch.rand(200, 192, 1)
    assert torch.equal(resampler(x, lengths)[0], resampled)


def test_speed_of_one_only_cuts_segments():
    draws = Draws(torch.full((1, 7), 0.5), torch.full((1, 7), 20))
    resampled, n = RandomResampler()(torch.arange(60.0).view(1, 60, 1), torch.tensor([60]), draws)
    # Each segment without its last frame, the sequence without its own.
    expected = [k for k in range(59) if k % 20 != 19]
    assert resampled[0, : int(n), 0].tolist() == expected


def test_decoder_mixes_utterances():
    model = tiny_split()
    features, n = random_parts([24, 24])
    with torch.no_grad():
        codes = model.decomposer(features, n)
        swapped = codes | {"timbre": codes["timbre"].flip(0)}
        mixed = model.decoder(swapped, n, width=24)
    assert mixed.shape == (2, 24, 10)
    assert not torch.allclose(mixed, model(features, n)["reconstruction"], atol=1e-4)


def test_longer_sequences_have_more_segments():
    draws = RandomResampler().draw(2, 768, device=torch.device("cpu"))
    assert draws.stretches.shape == (2, 512 // 19 + 1)
    assert draws.lengths.min() >= 19
    assert draws.lengths.max() <= 31


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"streams": ()}, r"streams = \[\]: expected one or more"),
        ({"streams": ("pitch", "pitch")}, r"none of them twice"),
        ({"streams": ("joint", "pitch")}, r"joint stands in place of .* leave out joint or pitch"),
        ({"n_speakers": 3}, r"n_speakers = 3 and timbre = encoder"),
        ({"timbre": "one_hot"}, r"n_speakers = 0 and timbre = one_hot"),
        (
            {"sizes": SplitSizes(pitch_width=40)},
            r"pitch_width = 40: groups of the group norm have 16 channels",
        ),
        (
            {"sizes": SplitSizes(min_segment=5, max_segment=4)},
            r"min_segment = 5 is more than max_segment = 4",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SpeechSplit(SpeechSplitConfig(**settings))


def test_wrong_input_is_refused():
    model = tiny_split()
    features, n = random_parts([20, 12])
    with pytest.raises(InputError, match=r"shape \(2, 20, 10\), expected \(2, n_frames, 11\)"):
        model(features[..., 1:], n)
    with pytest.raises(InputError, match=r"without 'joint': no such stream; known: content, rhy"):
        model.reconstruct(features, n, without={"joint"})
