"""Contrastive losses: against MMER's recorded values and gradients, and by hand."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from serkit.training.objectives import Term, total_loss
from serkit.types import InputError

GOLDENS = json.loads(
    (Path(__file__).parents[1] / "goldens" / "contrastive_losses.json").read_text()
)["contrastive_losses"]
LOSSES = ("supcon", "scl_published", "info_nce", "acl_published")


def term(loss, **options):
    views = {} if loss in ("supcon", "scl_published") else {"against": "other"}
    return Term(output="z", loss=loss, **views, **options)


def value_of(loss, z, other=None, *, labels=None, has_view=None, **options):
    batch = {"emotion": torch.zeros(len(z), dtype=torch.long) if labels is None else labels}
    if has_view is not None:
        batch["has_view"] = torch.tensor(has_view)
    outputs = {"z": z} if other is None else {"z": z, "other": other}
    loss, _ = total_loss(outputs, batch, [term(loss, **options)])
    return loss


def tensors(golden):
    z, other = (
        torch.tensor(golden[name], dtype=torch.float64, requires_grad=True)
        for name in ("Z", "Z_augmented")
    )
    return z, other, torch.tensor(golden["labels"])


@pytest.mark.parametrize("golden", GOLDENS)
def test_published_losses_and_gradients_are_the_recorded_ones(golden):
    z, other, labels = tensors(golden)
    supervised = value_of("scl_published", z, labels=labels)
    assert supervised.item() == pytest.approx(golden["scl_as_published"], rel=1e-6, abs=1e-6)
    (gradient,) = torch.autograd.grad(supervised, z)
    expected = torch.tensor(golden["d_scl_dZ"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=2e-6)
    views = value_of("acl_published", z, other, labels=labels)
    assert views.item() == pytest.approx(golden["acl_as_published"], rel=1e-6, abs=1e-6)
    gradients = torch.autograd.grad(views, (z, other))
    for gradient, name in zip(gradients, ("d_acl_dZ", "d_acl_dZaug"), strict=True):
        expected = torch.tensor(golden[name], dtype=torch.float64)
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("golden", GOLDENS)
def test_sound_losses_agree_with_other_implementations(golden):
    z, other, labels = tensors(golden)
    expected = golden["info_nce_normalised_tau_0.07"]
    assert value_of("info_nce", z, other).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    both = value_of("supcon", torch.cat([z, other]), labels=torch.cat([labels, labels]))
    expected = golden["supcon_two_views_tau_0.07"]
    assert both.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_anchors_without_positives_are_left_out():
    z, _, labels = tensors(GOLDENS[0])
    assert labels.tolist() == [0, 1, 0]
    assert value_of("supcon", z, labels=labels).item() == pytest.approx(0.3466, abs=5e-5)


def test_supcon_is_the_mean_over_the_positives_of_each_anchor():
    torch.manual_seed(0)
    z, labels = torch.randn(7, 5), torch.tensor([0, 0, 1, 0, 1, 2, 1])
    units = F.normalize(z, dim=1)
    per_anchor = []
    for i in range(7):
        rest = [j for j in range(7) if j != i]
        scores = units[rest] @ units[i] / 0.2
        mine = [k for k, j in enumerate(rest) if labels[j] == labels[i]]
        if mine:
            per_anchor.append(-scores.log_softmax(0)[mine].mean())
    assert len(per_anchor) == 6
    value = value_of("supcon", z, labels=labels, temperature=0.2)
    torch.testing.assert_close(value, torch.stack(per_anchor).mean())


def test_symmetric_is_the_mean_of_both_directions():
    torch.manual_seed(0)
    z, other = torch.randn(5, 4), torch.randn(5, 4)
    forth, back = value_of("info_nce", z, other), value_of("info_nce", other, z)
    torch.testing.assert_close(value_of("info_nce", z, other, symmetric=True), (forth + back) / 2)
    assert abs(forth - back) > 0.01


@pytest.mark.parametrize("loss", ["info_nce", "acl_published"])
@pytest.mark.parametrize("absent", [0.0, 30.0, math.nan])
def test_utterances_without_a_view_are_neither_anchors_nor_negatives(loss, absent):
    torch.manual_seed(0)
    z, other = torch.randn(5, 4), torch.randn(5, 4)
    has_view = [True, False, True, True, False]
    present = torch.tensor(has_view)
    other[~present] = absent
    z.requires_grad_(), other.requires_grad_()
    value = value_of(loss, z, other, has_view=has_view)
    torch.testing.assert_close(value, value_of(loss, z[present], other[present]))
    for gradient in torch.autograd.grad(value, (z, other)):
        assert gradient.isfinite().all()
        assert (gradient[~present] == 0).all()
        assert (gradient[present] != 0).any()


@pytest.mark.parametrize(
    ("loss", "n"),
    [
        ("scl_published", 1),
        *((loss, n) for loss in LOSSES if loss != "scl_published" for n in (1, 2)),
    ],
)
def test_a_loss_over_nothing_is_0_with_a_gradient_of_0(loss, n):
    z, other = torch.randn(n, 4, requires_grad=True), torch.randn(n, 4)
    has_view = None if n == 1 else [False] * n
    value = value_of(loss, z, other, labels=torch.arange(n), has_view=has_view)
    value.backward()
    assert value.item() == 0
    assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", ["supcon", "info_nce"])
def test_sound_losses_do_not_depend_on_lengths_and_stay_finite_without_one(loss):
    torch.manual_seed(0)
    z, other, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    value = value_of(loss, z, other, labels=labels)
    torch.testing.assert_close(value_of(loss, 100 * z, other, labels=labels), value)
    nothing = torch.zeros(4, 3, requires_grad=True)
    value_of(loss, nothing, other, labels=labels).backward()
    assert nothing.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_left(loss):
    torch.manual_seed(0)
    z, other = torch.randn(4, 3).bfloat16(), torch.randn(4, 3).bfloat16()
    labels = torch.tensor([0, 0, 1, 1])
    value = value_of(loss, z, other, labels=labels)
    torch.testing.assert_close(value, value_of(loss, z.float(), other.float(), labels=labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_mapped_over_the_members_of_a_stack(loss):
    torch.manual_seed(0)
    z, other, labels = torch.randn(3, 6, 4), torch.randn(3, 6, 4), torch.randint(0, 3, (3, 6))
    has_view = torch.rand(3, 6) > 0.3

    def one(z, other, labels, has_view):
        batch = {"emotion": labels, "has_view": has_view}
        return total_loss({"z": z, "other": other}, batch, [term(loss)])[0]

    mapped = torch.func.vmap(one)(z, other, labels, has_view)
    alone = [one(*row) for row in zip(z, other, labels, has_view, strict=True)]
    torch.testing.assert_close(mapped, torch.stack(alone))


def test_accumulated_batches_have_fewer_negatives_than_one_large_batch():
    torch.manual_seed(0)
    z, other = torch.randn(8, 4), torch.randn(8, 4)
    parts = [value_of("info_nce", z[i : i + 2], other[i : i + 2]) for i in range(0, 8, 2)]
    assert value_of("info_nce", z, other) > torch.stack(parts).mean() + 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.1}, "temperature = 0.1 is for supcon or scl_published or info_nce or"),
        ({"loss": "info_nce"}, "info_nce compares two views: name the output"),
        ({"loss": "acl_published"}, "acl_published compares two views"),
        ({"loss": "supcon", "against": "x"}, "against = x is for info_nce or acl_published"),
        (
            {"loss": "acl_published", "against": "x", "symmetric": True},
            "symmetric = True is for info_nce, and this loss is acl_published",
        ),
        ({"loss": "supcon", "temperature": 0.0}, "greater than 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Term(**settings)


def test_the_other_view_must_be_an_output_and_classes_single():
    z = torch.randn(2, 3)
    with pytest.raises(InputError, match="objective wants the output 'other', the model gives"):
        value_of("info_nce", z)
    for loss in ("supcon", "scl_published"):
        with pytest.raises(InputError, match=f"{loss} wants the target 'emotion' as class indices"):
            value_of(loss, z, labels=torch.zeros(2, 4))
