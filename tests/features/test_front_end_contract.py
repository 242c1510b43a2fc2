"""What every front end promises, whatever it computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import serkit.features
from features.tiny_encoders import speech_folder
from serkit.features import FRONT_ENDS, build_front_end, front_end_to_dict

CASES = [(name, preset) for name, (_, _, presets) in FRONT_ENDS.items() for preset in presets]
LENGTHS = [12_000, 1, 30_000, 4_801]


TINY = [("speech_encoder", "group"), ("speech_encoder", "layer")]


@pytest.fixture(params=CASES + TINY, ids="/".join)
def case(request, tmp_path):
    name, preset = request.param
    if name == "speech_encoder":  # its weights are the user's, so it has no presets
        return name, build_front_end(name, {"model": str(speech_folder(tmp_path, norm=preset))})
    return name, build_front_end(name, {"preset": preset})


@pytest.fixture
def waveforms() -> torch.Tensor:
    """(4, 30 000), padded with zeros."""
    x = 0.1 * torch.randn(4, 30_000, generator=torch.Generator().manual_seed(0))
    return x * (torch.arange(30_000) < torch.tensor(LENGTHS).unsqueeze(1))


def test_features_have_the_promised_shape_and_are_finite(case, waveforms):
    _, front_end = case
    features, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    assert features.shape == (4, int(n_frames.max()), front_end.config.n_features)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert n_frames.dtype == torch.int64
    assert (n_frames >= 1).all()


def test_frames_grow_with_the_signal_and_padding_is_zero(case, waveforms):
    _, front_end = case
    features, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    assert sorted(n_frames.tolist()) == [n_frames.tolist()[i] for i in (1, 3, 0, 2)]
    for row, n in zip(features, n_frames.tolist(), strict=True):
        assert (row[n:] == 0).all()
        assert row[:n].abs().amax(1).min() > 0


def test_features_do_not_depend_on_neighbours_or_padding(case, waveforms):
    _, front_end = case
    together, n_frames = front_end(waveforms, torch.tensor(LENGTHS))
    for i, (n, frames) in enumerate(zip(LENGTHS, n_frames.tolist(), strict=True)):
        alone, alone_frames = front_end(waveforms[i : i + 1, :n], torch.tensor([n]))
        assert alone_frames.tolist() == [frames]
        assert torch.allclose(together[i, :frames], alone[0], atol=1e-3)


def test_the_same_input_gives_the_same_bits(case, waveforms):
    _, front_end = case
    first, _ = front_end(waveforms, torch.tensor(LENGTHS))
    again, _ = front_end(waveforms.clone(), torch.tensor(LENGTHS))
    assert torch.equal(first, again)


def test_inference_mode_gives_the_same_values(case, waveforms):
    _, front_end = case
    expected, _ = front_end(waveforms, torch.tensor(LENGTHS))
    with torch.inference_mode():
        got, _ = front_end(waveforms, torch.tensor(LENGTHS))
    assert torch.equal(got, expected)


def test_a_front_end_is_rebuilt_from_its_own_settings_and_weights(case, waveforms):
    name, front_end = case
    settings = json.loads(json.dumps(front_end_to_dict(front_end)))
    rebuilt = build_front_end(name, settings)
    assert rebuilt.config == front_end.config
    rebuilt.load_state_dict(front_end.state_dict())
    expected, _ = front_end(waveforms, torch.tensor(LENGTHS))
    got, _ = rebuilt(waveforms, torch.tensor(LENGTHS))
    assert torch.allclose(got, expected, atol=1e-5)  # where weights lie in memory changes last bits


def test_the_config_names_the_sample_rate(case):
    _, front_end = case
    assert front_end.config.sample_rate in range(8000, 48_001)


def test_every_front_end_is_listed():
    """A front end lives in a file of its name; add it to FRONT_ENDS in serkit/features."""
    no_front_end = {"__init__", "author_features", "cache", "normalise", "views"}
    no_front_end |= {"pretrained", "text", "text_cache", "spec_augment", "augment_list"}
    no_front_end |= {"pitch", "pitch_tracker", "acoustic", "face", "clip_features"}
    no_front_end |= {"resynthesis", "voice_activity"}
    folder = Path(serkit.features.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - no_front_end
    assert files == set(FRONT_ENDS)
