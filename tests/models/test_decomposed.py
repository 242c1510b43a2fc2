"""The decomposed system: its variants, its heads, and the published baseline inside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.golden_speech_split import assert_checks, golden_values
from serkit.models import build_model
from serkit.models.decomposed import Decomposed, DecomposedConfig
from serkit.models.layers import lengths_to_mask
from serkit.models.speech_split import CODES, SpeechSplit, SpeechSplitConfig, SplitSizes
from serkit.training.ctc import ctc_loss
from serkit.types import InputError

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "goldens" / "text_normalisation.json").read_text()
)["ser_asr_loss"]
TINY = SplitSizes(
    n_mels=10,
    n_f0_bins=32,
    content_width=32,
    rhythm_width=16,
    pitch_width=16,
    timbre_width=16,
    n_timbre=8,
    decoder_units=12,
)
HEADS = {"n_symbols": 9, "n_speakers": 5}
VARIANTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "ser_only": ({"decomposition": "none"}, set()),
    "ser_asr": ({"decomposition": "none", "n_symbols": 9}, {"asr"}),
    "single_enc": (
        {"decomposition": "single"} | HEADS,
        {"asr", "speaker", "reconstruction"},
    ),
    "final": (HEADS, {"asr", "speaker", "reconstruction"}),
    "frame fusion": (HEADS | {"fusion": "frame"}, {"asr", "speaker", "reconstruction"}),
    "content spells": (HEADS | {"asr_uses_content": True}, {"asr", "speaker", "reconstruction"}),
    "own backbone": (
        HEADS | {"n_backbone_layers": 2, "backbone_width": 6},
        {"asr", "speaker", "reconstruction"},
    ),
    "without content": (
        HEADS | {"streams": ("timbre", "rhythm", "pitch")},
        {"asr", "speaker", "reconstruction"},
    ),
    "without timbre": (
        {"n_symbols": 9, "streams": ("content", "rhythm", "pitch")},
        {"asr", "reconstruction"},
    ),
    "rhythm alone": ({"streams": ("rhythm",), "fusion": "frame"}, {"reconstruction"}),
    "timbre alone": ({"n_speakers": 5, "streams": ("timbre",)}, {"speaker", "reconstruction"}),
    "codes only": ({"n_speakers": 5, "backbone": False}, {"speaker", "reconstruction"}),
    "not reconstructed": (HEADS | {"reconstruct": False}, {"asr", "speaker"}),
    "resampled": (HEADS | {"resample_in_training": True}, {"asr", "speaker", "reconstruction"}),
    "as published": (
        HEADS | {"pack": False, "mask_pooling": False, "layer_norm": False},
        {"asr", "speaker", "reconstruction"},
    ),
}
LENGTHS = {"n_asr", "n_reconstruction"}
ONE_PER_FRAME = {"asr", "reconstruction"}
Batch = dict[str, Tensor]


def tiny(**settings: Any) -> Decomposed:
    torch.manual_seed(0)
    return Decomposed(DecomposedConfig(**{"n_features": 12, "sizes": TINY} | settings)).eval()


def random_batch(n_frames: list[int], n_parts: list[int], *, seed: int = 0) -> Batch:
    """Frames and parts whose padding may hold anything."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(n_frames), max(n_frames), 12, generator=generator)
    parts = torch.rand(len(n_parts), max(n_parts), 11, generator=generator)
    unvoiced = torch.rand(parts.shape[:2], generator=generator) < 0.3
    parts[..., -1] = parts[..., -1].masked_fill(unvoiced, -1)
    return {
        "features": features,
        "n_frames": torch.tensor(n_frames),
        "parts": parts,
        "n_parts": torch.tensor(n_parts),
    }


def target_of(batch: Batch) -> Tensor:
    valid = lengths_to_mask(batch["n_parts"], batch["parts"].shape[1]).unsqueeze(2)
    return batch["parts"][..., :-1].clamp(0, 1).masked_fill(~valid, 0)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_has_its_outputs(name):
    settings, heads = VARIANTS[name]
    model = tiny(**settings)
    n_frames, n_parts = [14, 9, 1], [19, 12, 2]
    outputs = model(**random_batch(n_frames, n_parts))
    lengths = {f"n_{head}" for head in heads & ONE_PER_FRAME}
    assert outputs.keys() == {"emotion", "embedding"} | heads | lengths
    shapes = {
        "emotion": (3, 4),
        "embedding": (3, model.classifier.in_features),
        "asr": (3, 14, 9),
        "speaker": (3, 5),
        "reconstruction": (3, 19, 10),
        "n_asr": (3,),
        "n_reconstruction": (3,),
    }
    assert {k: tuple(x.shape) for k, x in outputs.items()} == {k: shapes[k] for k in outputs}
    assert outputs.get("n_asr", torch.tensor(n_frames)).tolist() == n_frames
    assert outputs.get("n_reconstruction", torch.tensor(n_parts)).tolist() == n_parts


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_of_every_variant_is_trained(name):
    model = tiny(**VARIANTS[name][0]).train()
    batch = random_batch([14, 9, 1], [19, 40, 2])
    outputs = model(**batch)
    losses = [(x - 0.3).square().mean() for key, x in outputs.items() if key not in LENGTHS]
    sum(losses, start=torch.zeros(())).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"as published"}))
def test_padding_and_company_change_nothing(name):
    model = tiny(**VARIANTS[name][0])
    n_frames, n_parts = [14, 9, 1], [19, 33, 2]
    batch = random_batch(n_frames, n_parts)
    padded = batch | {
        "features": F.pad(batch["features"], (0, 0, 0, 5), value=torch.nan),
        "parts": F.pad(batch["parts"], (0, 0, 0, 21), value=torch.nan),
    }
    with torch.no_grad():
        together, longer = model(**batch), model(**padded)
        for row in range(3):
            alone = model(
                batch["features"][row : row + 1, : n_frames[row]],
                batch["n_frames"][row : row + 1],
                batch["parts"][row : row + 1, : n_parts[row]],
                batch["n_parts"][row : row + 1],
            )
            for key, expected in alone.items():
                for outputs in (together, longer):
                    got = outputs[key][row : row + 1]
                    got = got[:, : expected.shape[1]] if key in ONE_PER_FRAME else got
                    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=key)


def test_padding_counts_as_published():
    model = tiny(**VARIANTS["as published"][0])
    batch = random_batch([14, 9], [24, 16])
    with torch.no_grad():
        embedding = model(**batch)["embedding"]
    torch.testing.assert_close(embedding[:, :12], batch["features"].mean(1))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: f"alpha {g['alpha']}")
def test_emotion_with_transcription_is_the_published(golden):
    model = Decomposed(
        DecomposedConfig(
            n_features=golden["hidden"],
            n_symbols=32,
            decomposition="none",
            mask_pooling=False,
            layer_norm=False,
            dropout=0.0,
        )
    )
    names = {"ctc_head": "asr", "emotion_head": "classifier"}
    state = {}
    for tensor in golden["tensors"]:
        i = torch.arange(1, math.prod(tensor["shape"]) + 1, dtype=torch.float64)
        values = torch.sin(0.37 * i + 1.3 * tensor["k"] + 0.05 * i**1.3)
        is_matrix = tensor["rule"] == "matrix"
        values *= tensor["gain"] / math.sqrt(tensor["fan_in"]) if is_matrix else 0.1
        module, kind = tensor["role"].split(".")
        state[f"{names[module]}.{kind}"] = values.float().reshape(tensor["shape"])
    model.load_state_dict(state)
    labels = torch.tensor(golden["emotion_labels"])
    shape = len(labels), golden["padded_frames"], golden["hidden"]
    frames = torch.from_numpy(golden_values(*shape))
    outputs = model.train()(frames, torch.tensor(golden["ctc_input_lengths"]))
    assert_checks(outputs["asr"], golden["ctc_logits_check"], atol=2e-5)
    expected = torch.tensor(golden["emotion_logits"])
    torch.testing.assert_close(outputs["emotion"], expected, rtol=0, atol=2e-5)
    emotion = F.cross_entropy(outputs["emotion"], labels)
    targets = torch.tensor(golden["ctc_targets"])
    text = ctc_loss(outputs["asr"], outputs["n_asr"], targets, reduction="sum", zero_infinity=False)
    assert emotion.item() == pytest.approx(golden["ce_mean"], rel=1e-5)
    assert text.item() == pytest.approx(golden["ctc_sum"], rel=1e-5)
    (emotion + golden["alpha"] * text).backward()
    for role, norm in golden["grad_l2"].items():
        module, kind = role.split(".")
        gradient = getattr(model.get_submodule(names[module]), kind).grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), role


def test_vector_of_the_final_system_has_996_numbers():
    with torch.device("meta"):
        model = Decomposed(DecomposedConfig())
        frame = Decomposed(DecomposedConfig(fusion="frame"))
    assert model.classifier.in_features == 996
    assert frame.fuse.in_features == 768 + 82
    assert frame.fuse.out_features == 256


def test_vector_is_made_of_the_streams_in_order():
    model = tiny(layer_norm=False)
    batch = random_batch([14, 9], [24, 13])
    with torch.no_grad():
        embedding = model(**batch)["embedding"]
        codes = model.decomposer(batch["parts"], batch["n_parts"])
    n_codes = [3, 2]
    for row in range(2):
        expected = [batch["features"][row, : batch["n_frames"][row]].mean(0)]
        for stream in ("content", "rhythm", "pitch"):
            valid = codes[stream][row, : n_codes[row]]
            expected += [valid.mean(0), valid.std(0, correction=0).clamp_min(1e-4)]
        expected.append(codes["timbre"][row])
        torch.testing.assert_close(embedding[row], torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_streams_are_normalised_apart():
    model = tiny()
    batch = random_batch([14, 9], [24, 13])
    louder = batch | {"features": 100 * batch["features"]}
    with torch.no_grad():
        expected, got = model(**batch)["embedding"], model(**louder)["embedding"]
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_codes_are_aligned_in_time():
    model = tiny(fusion="frame")
    codes = {"content": torch.arange(4.0).view(1, 4, 1)}
    frames = torch.zeros(1, 40, 12)
    aligned = model._aligned("content", codes, torch.tensor([30]), frames).flatten()
    for i, value in enumerate(aligned.tolist()):
        place = min((12.5 + 20 * i) / 16, 29)  # of 30 frames of 16 ms
        left, right = math.floor(place) // 8, min(math.floor(place) + 1, 29) // 8
        fraction = place - math.floor(place)
        assert value == pytest.approx((1 - fraction) * left + fraction * right, abs=1e-4), i


def test_text_of_weight_zero_moves_nothing():
    model = tiny(**HEADS)
    batch = random_batch([14, 9], [24, 13])
    outputs = model(**batch)
    text = ctc_loss(
        outputs["asr"],
        outputs["n_asr"],
        torch.tensor([[1, 2, -100], [3, 4, 5]]),
        reduction="sum",
        zero_infinity=True,
    )
    (F.cross_entropy(outputs["emotion"], torch.tensor([0, 2])) + 0 * text).backward()
    assert not model.asr.weight.grad.any()
    assert model.classifier.weight.grad.any()


def test_unknown_speakers_teach_nothing():
    model = tiny(**HEADS)
    logits = model(**random_batch([14, 9], [24, 13]))["speaker"]
    both = F.cross_entropy(logits, torch.tensor([3, -100]))
    torch.testing.assert_close(both, F.cross_entropy(logits[:1], torch.tensor([3])))


def test_resampling_is_left_to_training_and_off_unless_asked_for():
    batch = random_batch([14, 9], [40, 33])
    for asked in (False, True):
        model = tiny(dropout=0.0, resample_in_training=asked)
        expected = model(**batch)["embedding"]
        trained = model.train()(**batch)["embedding"]
        assert torch.allclose(trained, expected, atol=1e-5) is not asked


def test_frozen_encoders_are_not_trained():
    model = tiny(freeze_decomposer=True, **HEADS).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    encoders = model.decomposer.encoders
    assert frozen == {f"decomposer.encoders.{name}" for name, _ in encoders.named_parameters()}
    sum(x.float().sum() for x in model(**random_batch([14], [24])).values()).backward()
    assert all(p.grad is None for p in encoders.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_final_system_learns_sixteen_clips_by_heart():
    generator = torch.Generator().manual_seed(0)
    n_frames = torch.randint(9, 17, (16,), generator=generator).tolist()
    batch = random_batch(n_frames, n_frames)  # two codes each
    # Smooth, so that a narrow code can say it.
    batch["parts"][..., :-1] = batch["parts"][..., :1]
    emotion, speaker = torch.arange(16) % 4, torch.arange(16) // 4
    text = torch.randint(1, 9, (16, 3), generator=generator)
    model = tiny(**HEADS, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    history = []
    for _ in range(40):
        outputs = model(**batch)
        losses = [
            F.cross_entropy(outputs["emotion"], emotion),
            ctc_loss(outputs["asr"], outputs["n_asr"], text, reduction="mean", zero_infinity=True),
            F.cross_entropy(outputs["speaker"], speaker),
            F.mse_loss(outputs["reconstruction"], target_of(batch)),
        ]
        history.append([loss.item() for loss in losses])
        optimizer.zero_grad()
        sum(losses[1:], start=losses[0]).backward()
        optimizer.step()
    first, last = history[0], history[-1]
    assert all(b < 0.8 * a for a, b in zip(first, last, strict=True)), (first, last)
    assert torch.equal(model.eval()(**batch)["emotion"].argmax(1), emotion)


def trained_split(**settings: Any) -> SpeechSplit:
    torch.manual_seed(1)
    return SpeechSplit(SpeechSplitConfig(**{"sizes": TINY} | settings)).eval()


def test_trained_split_is_taken_whole():
    split, model = trained_split(), tiny(**HEADS)
    loaded = model.load_split(split.state_dict())
    assert loaded.initial == loaded.unused == ()
    assert set(loaded.taken) == set(split.state_dict())
    batch = random_batch([14, 9], [24, 13])
    expected = split(batch["parts"], batch["n_parts"])["reconstruction"]
    torch.testing.assert_close(model(**batch)["reconstruction"], expected)


def test_single_encoder_is_taken_as_well():
    split, model = trained_split(streams=("joint", "timbre")), tiny(decomposition="single")
    assert model.load_split(split.state_dict()).initial == ()
    batch = random_batch([14, 9], [24, 13])
    expected = split(batch["parts"], batch["n_parts"])["reconstruction"]
    torch.testing.assert_close(model(**batch)["reconstruction"], expected)


def test_numbers_of_speakers_leave_the_columns_of_timbre_as_they_were():
    # As many speakers as the timbre has numbers, which must not be mistaken for each other.
    for n_speakers in (8, 11):
        split = trained_split(timbre="one_hot", n_speakers=n_speakers)
        model = tiny(**HEADS)
        before = model.decoder.lstm.weight_ih_l0.detach().clone()
        loaded = model.load_split(split.state_dict())
        timbre = [f"decomposer.timbre.{n}" for n, _ in model.decomposer.timbre.named_parameters()]
        columns = [f"decoder.lstm.weight_ih_l0{way}: columns of timbre" for way in ("", "_reverse")]
        assert set(loaded.initial) == {*timbre, *columns}
        n_codes = sum(model.decomposer.widths[s] for s in CODES[1:])
        after = model.decoder.lstm.weight_ih_l0
        assert torch.equal(after[:, n_codes:], before[:, n_codes:])
        assert torch.equal(after[:, :n_codes], split.decoder.lstm.weight_ih_l0[:, :n_codes])


def test_stream_that_is_left_out_is_a_stream_of_zeros():
    split = trained_split()
    model = tiny(streams=("content", "pitch", "timbre"))
    loaded = model.load_split(split.state_dict())
    assert loaded.initial == ()
    assert loaded.unused
    assert all(name.startswith("decomposer.encoders.rhythm.") for name in loaded.unused)
    batch = random_batch([14, 9], [24, 16])
    codes = split.decomposer(batch["parts"], batch["n_parts"])
    codes["rhythm"] = torch.zeros_like(codes["rhythm"])
    expected = split.decoder(codes, batch["n_parts"], width=24)
    torch.testing.assert_close(model(**batch)["reconstruction"], expected)


def test_states_that_do_not_fit_are_refused():
    state = trained_split().state_dict()
    wide = dict(state)
    wide["decoder.linear.weight"] = torch.zeros(10, 30)
    with pytest.raises(InputError, match=r"shape \(10, 30\), expected \(10, 24\): give"):
        tiny().load_split(wide)
    wide = dict(state)
    wide["decoder.lstm.weight_ih_l0"] = torch.zeros(64, 90)
    with pytest.raises(InputError, match=r"weight_ih_l0 .* has 64 rows, expected 48"):
        tiny().load_split(wide)
    for model in (tiny(), tiny(decomposition="none")):
        with pytest.raises(InputError, match=r"none of the 1 weights .* the state of a SpeechSpl"):
            model.load_split({"conv1.weight": torch.zeros(1)})


def test_missing_input_is_refused():
    batch = random_batch([14], [24])
    with pytest.raises(InputError, match=r"reads parts, and got none: .* leave out the decompos"):
        tiny()(batch["features"], batch["n_frames"])
    with pytest.raises(InputError, match=r"reads features, and got none: .* leave out the backb"):
        tiny()(None, None, batch["parts"], batch["n_parts"])
    codes_only = tiny(backbone=False)
    outputs = codes_only(None, None, batch["parts"], batch["n_parts"])
    assert torch.equal(outputs["emotion"], codes_only(**batch)["emotion"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"decomposition": "none", "streams": ["pitch"]},
            r"streams = \['pitch'\]: decomposition = none gives no stream",
        ),
        ({"streams": []}, r"streams = \[\]: for none of them, set decomposition to none"),
        ({"decomposition": "single", "streams": ["pitch"]}, r"has 'pitch': a single encoder gives"),
        ({"decomposition": "none", "backbone": False}, r"nothing is left to read"),
        ({"streams": ["pitch"], "n_speakers": 3}, r"n_speakers = 3: speakers are told apart by"),
        ({"n_symbols": 9, "backbone": False}, r"n_symbols = 9: CTC reads the backbone's frames"),
        ({"asr_uses_content": True}, r"asr_uses_content: there is no CTC layer"),
        (
            {"asr_uses_content": True, "n_symbols": 9, "streams": ["pitch"]},
            r"asr_uses_content: there is no content stream",
        ),
        ({"fusion": "frame", "backbone": False}, r"fusion = frame joins the backbone's frames"),
        ({"fusion": "frame", "streams": ["timbre"]}, r"fusion = frame joins"),
        ({"streams": ["timber"]}, r"model\.streams\.0 = \"timber\""),
        ({"sizes": {"n_mel": 3}}, r"model\.sizes\.n_mel = 3: unexpected keyword"),
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build_model("decomposed", settings)
