"""What SpecAugment and SpecSub may change, and what the list in a file makes of utterances."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from serkit.features.augment_list import TYPES, AugmentList
from serkit.features.spec_augment import (
    SpecAugmentSettings,
    SpecSubSettings,
    spec_augment,
    spec_sub,
)
from serkit.types import InputError

RATE = 16_000


def features(n_frames: int = 100, n_features: int = 80) -> torch.Tensor:
    return torch.randn(n_frames, n_features, generator=torch.Generator().manual_seed(0)) + 3


def tone(n_samples: int = 8_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(n_samples) / RATE)).astype(np.float32)


def test_masks_are_bounded_by_shares_and_filled_with_the_mean():
    x, settings = features(), SpecAugmentSettings(max_warp=0)
    widths = []
    for seed in range(200):
        changed = spec_augment(x, np.random.default_rng(seed), settings=settings)
        erased = changed != x
        assert torch.equal(changed[erased], x.mean().expand(int(erased.sum())))
        bands, frames = erased.all(0).sum().item(), erased.all(1).sum().item()
        assert bands <= 2 * 12
        assert frames <= 2 * 5
        widths.append((bands, frames))
    assert max(bands for bands, _ in widths) > 12  # two masks, not one
    assert max(frames for _, frames in widths) > 5


def test_a_fill_of_zero_can_be_chosen():
    settings = SpecAugmentSettings(fill="zero", max_warp=0)
    changed = spec_augment(features(), np.random.default_rng(1), settings=settings)
    assert not changed[changed != features()].any()


def test_a_warp_moves_frames_by_five_at_most():
    settings = SpecAugmentSettings(n_freq_masks=0, n_time_masks=0)
    x = torch.arange(60.0).unsqueeze(1)  # each frame holds its own place
    moved = [spec_augment(x, np.random.default_rng(seed), settings=settings) for seed in range(200)]
    farthest = max((one - x).abs().max().item() for one in moved)
    assert 4 < farthest < 6  # half a frame more, as the two sides are resampled
    assert all(one.shape == x.shape and (one.diff(dim=0) >= 0).all() for one in moved)


@pytest.mark.parametrize("n_frames", [0, 1, 2, 3, 4, 7, 19, 20, 21])
def test_short_utterances_keep_their_length(n_frames):
    for seed in range(20):
        x = features(n_frames)
        for change in (spec_augment, spec_sub):
            changed = change(x, np.random.default_rng(seed))
            assert changed.shape == x.shape
            assert torch.isfinite(changed).all()
        assert torch.equal(x, features(n_frames)), "the input is left as it was"


def test_substitutes_come_from_earlier_frames():
    x = torch.arange(200.0).unsqueeze(1)
    settings = SpecSubSettings(n_substitutions=1)
    lengths = []
    for seed in range(200):
        changed = spec_sub(x, np.random.default_rng(seed), settings=settings)
        replaced = (changed != x).squeeze(1)
        assert (changed[replaced] < x[replaced]).all()
        assert (changed[replaced].diff(dim=0) == 1).all()  # one stretch, in its own order
        lengths.append(int(replaced.sum()))
    assert min(lengths) >= 1
    assert max(lengths) == 30


def test_equal_generators_change_alike():
    for change in (spec_augment, spec_sub):
        one, again, other = (change(features(), np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def all_types() -> list[dict[str, object]]:
    return [{"type": name, "prob": 1.0} for name in TYPES]


def test_what_befalls_an_utterance_depends_on_seed_epoch_and_id_alone():
    waveform = tone()

    def changed(seed: int, epoch: int, utterance_id: str) -> tuple[np.ndarray, torch.Tensor]:
        augment = AugmentList(all_types(), seed=seed)
        augment.waveform(waveform, RATE, epoch=9, utterance_id="another")
        return (
            augment.waveform(waveform, RATE, epoch=epoch, utterance_id=utterance_id),
            augment.features(features(), epoch=epoch, utterance_id=utterance_id),
        )

    first = changed(0, 1, "a")
    again = changed(0, 1, "a")
    np.testing.assert_array_equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in (changed(1, 1, "a"), changed(0, 2, "a"), changed(0, 1, "b")):
        assert not np.array_equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
    assert first[0].dtype == np.float32
    assert not np.array_equal(first[0], waveform)


@pytest.mark.parametrize("name", ["noise", "resample", "shift", "volume", "reverb"])
def test_effects_on_waveforms_keep_the_length(name):
    augment = AugmentList([{"type": name, "prob": 1}])
    for n in (8_000, 7_999, 160):
        for epoch in range(5):
            waveform = augment.waveform(tone(n), RATE, epoch=epoch, utterance_id="a")
            assert waveform.shape == (n,)
            assert waveform.dtype == np.float32
            assert np.isfinite(waveform).all()


def test_speeds_are_the_three_of_the_default():
    augment = AugmentList([{"type": "speed"}])
    lengths = {
        len(augment.waveform(tone(9_900), RATE, epoch=epoch, utterance_id="a"))
        for epoch in range(40)
    }
    assert lengths == {9_000, 9_900, 11_000}


def test_a_shift_leaves_zeros_behind():
    augment = AugmentList([{"type": "shift", "params": {"max_shift_ms": 5}}])
    ones = np.ones(1_000, np.float32)
    moves = set()
    for epoch in range(300):
        shifted = augment.waveform(ones, RATE, epoch=epoch, utterance_id="a")
        moves.add(int((shifted == 0).sum()) * (1 if shifted[-1] else -1))
    assert min(moves) >= -80
    assert max(moves) <= 80
    assert max(moves) - min(moves) > 140


def test_noise_keeps_to_its_ratio():
    params = {"snr_db": [20, 20], "max_repetitions": 1}
    augment = AugmentList([{"type": "noise", "params": params, "prob": 1}])
    noise = augment.waveform(tone(), RATE, epoch=0, utterance_id="a") - tone()
    ratio = 10 * np.log10(np.mean(tone() ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(20, abs=0.1)


def test_recordings_serve_as_noise_and_as_rooms(tmp_path):
    soundfile.write(tmp_path / "click.wav", np.eye(1, 800, 0)[0], 8_000)
    for name, key in (("noise", "recordings"), ("reverb", "impulses")):
        entry = {"type": name, "params": {key: str(tmp_path)}, "prob": 1}
        changed = AugmentList([entry]).waveform(tone(), RATE, epoch=0, utterance_id="a")
        assert changed.shape == tone().shape
        assert np.isfinite(changed).all()


def test_silence_is_left_alone():
    silence = np.zeros(800, np.float32)
    changed = AugmentList(all_types()).waveform(silence, RATE, epoch=0, utterance_id="a")
    np.testing.assert_array_equal(changed, silence)


def test_entries_are_applied_with_their_probability():
    augment = AugmentList([{"type": "volume", "prob": 0.3}])
    n = sum(
        not np.array_equal(augment.waveform(tone(), RATE, epoch=0, utterance_id=str(i)), tone())
        for i in range(400)
    )
    assert 80 < n < 160


def test_no_file_is_no_augmentation():
    augment = AugmentList.read(None)
    assert len(augment) == 0
    np.testing.assert_array_equal(augment.waveform(tone(), RATE, epoch=0, utterance_id="a"), tone())
    assert torch.equal(augment.features(features(), epoch=0, utterance_id="a"), features())


def test_json_and_toml_say_the_same(tmp_path):
    entries = [
        {"type": "volume", "aug_type": "audio", "params": {"gain_db": [-3, 3]}, "prob": 0.5},
        {"type": "specaug", "params": {"n_time_masks": 1}},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    (tmp_path / "list.toml").write_text(
        '[[augment]]\ntype = "volume"\nparams = {gain_db = [-3, 3]}\nprob = 0.5\n'
        '[[augment]]\ntype = "specaug"\nparams = {n_time_masks = 1}\n'
    )
    lists = [AugmentList.read(tmp_path / name, seed=5) for name in ("list.json", "list.toml")]
    for epoch in range(4):
        one, other = (a.waveform(tone(), RATE, epoch=epoch, utterance_id="a") for a in lists)
        np.testing.assert_array_equal(one, other)
        one, other = (a.features(features(), epoch=epoch, utterance_id="a") for a in lists)
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"list\.json: is neither JSON nor"),
        ("{}", r"list\.json: expected a list of augmentations, .*got dict"),
        ("[3]", r"list\.json\[0\] = 3: expected an object"),
        ("[{}]", r"list\.json\[0\]\.type: missing"),
        (
            '[{"type": "echo"}]',
            r"list\.json\[0\]\.type is 'echo', expected one of noise, .*specsub",
        ),
        ('[{"type": "speed", "chance": 1}]', r"list\.json\[0\]\.chance: unknown setting"),
        ('[{"type": "speed", "prob": 1.5}]', r"list\.json\[0\]\.prob = 1\.5: .*less than or equal"),
        (
            '[{"type": "speed", "aug_type": "feature"}]',
            r"aug_type is 'feature', but speed changes the audio",
        ),
        (
            '[{"type": "speed"}, {"type": "speed", "params": {"factors": [0.8]}}]',
            r"list\.json\[1\]\.params\.factors\.0 = 0\.8: .*greater than or equal to 0\.9",
        ),
        (
            '[{"type": "noise", "params": {"snr_dB": [1, 2]}}]',
            r"list\.json\[0\]\.params\.snr_dB: unknown setting; did you mean 'snr_db'",
        ),
        (
            '[{"type": "noise", "params": {"snr_db": [9, 2]}}]',
            r"params\.snr_db = \[9, 2\]: expected the lowest and the highest",
        ),
        (
            '[{"type": "noise", "params": {"recordings": "/nowhere"}}]',
            r"list\.json\[0\]\.params\.recordings: no sound files in /nowhere",
        ),
        (
            '[{"type": "specaug", "params": {"max_time_share": 2}}]',
            r"params\.max_time_share = 2: .*less than or equal to 1",
        ),
    ],
)
def test_a_faulty_list_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as refusal:
        AugmentList.read(path)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_and_a_foreign_table_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.json: cannot be read \(No such file"):
        AugmentList.read(tmp_path / "absent.json")
    (tmp_path / "list.toml").write_text("[train]\nseed = 1\n")
    with pytest.raises(InputError, match=r"unknown table 'train'; expected \[\[augment\]\]"):
        AugmentList.read(tmp_path / "list.toml")
