import pytest
import torch
import torch.nn.functional as F

from serkit.training.objectives import Term, total_loss


def test_terms_are_weighted_and_summed():
    outputs = {"emotion": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "rate": torch.tensor([1.0, 3.0])}
    batch = {"emotion": torch.tensor([0, 1]), "rate": torch.tensor([2.0, 3.0])}
    terms = [Term(), Term(output="rate", target="rate", loss="mse", weight=0.5)]
    loss, parts = total_loss(outputs, batch, terms)
    expected = F.cross_entropy(outputs["emotion"], batch["emotion"]).item()
    assert parts["emotion/cross_entropy"].item() == pytest.approx(expected)
    assert parts["rate/mse"].item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(expected + 0.25)


def test_smoothing_is_the_authors_formula():
    logits, truth = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([1])
    loss, _ = total_loss({"emotion": logits}, {"emotion": truth}, [Term(label_smoothing=0.1)])
    soft = torch.tensor([[0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]])
    assert loss.item() == pytest.approx(-(soft * logits.log_softmax(1)).sum().item(), rel=1e-6)


def test_missing_outputs_and_targets_are_named():
    with pytest.raises(ValueError, match="wants the output 'asr'"):
        total_loss({"emotion": torch.zeros(1, 2)}, {}, [Term(output="asr")])
    with pytest.raises(ValueError, match="wants the target 'emotion'"):
        total_loss({"emotion": torch.zeros(1, 2)}, {}, [Term()])


def test_l1_is_mean_absolute_difference():
    outputs, batch = {"emotion": torch.tensor([1.0, 4.0])}, {"emotion": torch.tensor([2.0, 2.0])}
    loss, _ = total_loss(outputs, batch, [Term(loss="l1")])
    assert loss.item() == pytest.approx(1.5)
