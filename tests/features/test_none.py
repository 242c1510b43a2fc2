"""The front end that hears nothing."""

from __future__ import annotations

import torch

from serkit.features import build_front_end, front_end_to_dict


def test_every_utterance_is_one_zero():
    front_end = build_front_end("none", {})
    features, n_frames = front_end(torch.randn(3, 50), torch.tensor([50, 1, 20]))
    assert features.shape == (3, 1, front_end.config.n_features)
    assert not features.any()
    assert n_frames.tolist() == [1, 1, 1]
    assert not list(front_end.parameters())
    assert front_end_to_dict(front_end) == {"sample_rate": 16_000}
