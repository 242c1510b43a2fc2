"""The plain head: its pools over valid frames alone, its shapes, what it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serkit.models.pooled import Pooled, PooledConfig


def head(**settings) -> Pooled:
    torch.manual_seed(0)
    return Pooled(PooledConfig(n_features=6, n_classes=3, n_projected=None, **settings)).eval()


def frames() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, 6, generator=generator), torch.tensor([5, 3])


def test_the_mean_is_taken_over_valid_frames():
    features, n_frames = frames()
    embedding = head()(features, n_frames)["embedding"]
    torch.testing.assert_close(embedding[0], features[0].mean(0))
    torch.testing.assert_close(embedding[1], features[1, :3].mean(0))


def test_the_standard_deviation_joins_the_mean():
    features, n_frames = frames()
    embedding = head(pooling="mean_std")(features, n_frames)["embedding"]
    spread = features[1, :3].std(0, correction=0)
    torch.testing.assert_close(embedding[1], torch.cat([features[1, :3].mean(0), spread]))


def test_attention_weighs_frames_by_a_query():
    features, n_frames = frames()
    model = head(pooling="attention")
    assert isinstance(model.query, nn.Linear)
    weights = model.query(features[1, :3]).softmax(0)
    embedding = model(features, n_frames)["embedding"]
    torch.testing.assert_close(embedding[1], (weights * features[1, :3]).sum(0))


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "attention"])
def test_padding_of_any_value_changes_nothing(pooling):
    features, n_frames = frames()
    model = head(pooling=pooling, n_hidden=4)
    expected = model(features, n_frames)["emotion"]
    features[1, 3:] = 1e6
    torch.testing.assert_close(model(features, n_frames)["emotion"], expected)


def test_the_default_is_the_published_head():
    model = Pooled(PooledConfig())
    assert sum(p.numel() for p in model.parameters()) == 768 * 256 + 256 + 256 * 4 + 4
    features, n_frames = torch.randn(2, 7, 768), torch.tensor([7, 4])
    # Linear all the way: the mean of the projections is the projection of the mean.
    mean = torch.stack([features[0].mean(0), features[1, :4].mean(0)])
    expected = model.classify(model.project(mean))
    torch.testing.assert_close(model(features, n_frames)["emotion"], expected)


def test_one_frame_has_a_finite_gradient_through_its_deviation():
    model = head(pooling="mean_std").train()
    features = torch.randn(1, 1, 6, requires_grad=True)
    model(features, torch.tensor([1]))["emotion"].sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
