"""Terms, class weights and penalties: by hand, and against the published systems' numbers."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.data import Examples
from serkit.training.objectives import (
    Penalty,
    Term,
    class_shares,
    penalised_parameters,
    total_loss,
    with_penalties,
)
from serkit.types import InputError

GOLDENS = Path(__file__).parents[1] / "goldens"
MOE = json.loads((GOLDENS / "moe.json").read_text())["configs"]
LIGHT_SERNET = json.loads((GOLDENS / "light_sernet.json").read_text())["configs"]
EXPERTS = Term(output="experts", loss="bce")


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
    with pytest.raises(InputError, match="wants the output 'asr'"):
        total_loss({"emotion": torch.zeros(1, 2)}, {}, [Term(output="asr")])
    with pytest.raises(InputError, match="wants the target 'emotion'"):
        total_loss({"emotion": torch.zeros(1, 2)}, {}, [Term()])


def test_l1_is_mean_absolute_difference():
    outputs, batch = {"emotion": torch.tensor([1.0, 4.0])}, {"emotion": torch.tensor([2.0, 2.0])}
    loss, _ = total_loss(outputs, batch, [Term(loss="l1")])
    assert loss.item() == pytest.approx(1.5)


def loss_of(term: Term, logits, truth, *, shares=None) -> float:
    batch = {"emotion": torch.as_tensor(truth)}
    loss, _ = total_loss({term.output: torch.as_tensor(logits)}, batch, [term], shares=shares)
    return loss.item()


@pytest.mark.parametrize("name", MOE)
def test_main_and_experts_losses_sum_to_the_published_total(name):
    golden = MOE[name]
    train = golden["train"]
    logits = torch.tensor(train["logits"], dtype=torch.float64)
    outputs, terms = {"emotion": logits}, [Term()]
    if len(train["loss_parts"]) > 1:
        experts = torch.tensor(train.get("expert_logits", train["logits"]), dtype=torch.float64)
        outputs["experts"] = experts
        terms.append(EXPERTS)
    loss, parts = total_loss(outputs, {"emotion": torch.tensor(golden["labels"])}, terms)
    assert loss.item() == pytest.approx(train["loss"], rel=2e-6)
    main, *of_experts = train["loss_parts"].values()
    assert parts["emotion/cross_entropy"].item() == pytest.approx(main, rel=2e-6)
    if of_experts:
        assert parts["experts/bce"].item() == pytest.approx(sum(of_experts), rel=2e-6)


@pytest.mark.parametrize("name", LIGHT_SERNET)
def test_focal_loss_is_the_published_one(name):
    golden = LIGHT_SERNET[name]
    logits = torch.tensor(golden["train"]["softmax"]).log()
    value = loss_of(Term(loss="focal"), logits, golden["labels"])
    assert value == pytest.approx(golden["train"]["focal_gamma2"], rel=1e-6)


def test_focal_loss_with_gamma_0_is_cross_entropy():
    torch.manual_seed(0)
    logits, truth = torch.randn(6, 4), torch.randint(0, 4, (6,))
    expected = F.cross_entropy(logits, truth).item()
    assert loss_of(Term(loss="focal", gamma=0), logits, truth) == pytest.approx(expected)


def test_focal_loss_has_a_gradient_where_the_network_is_certain():
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss, _ = total_loss(
        {"emotion": logits}, {"emotion": torch.tensor([0])}, [Term(loss="focal", gamma=0.5)]
    )
    loss.backward()
    assert logits.grad.isfinite().all()


def test_bce_takes_indices_or_a_decision_per_class_and_sums_or_averages_over_classes():
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 0.5]])
    decisions = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    per_class = F.binary_cross_entropy_with_logits(logits, decisions, reduction="none").mean(0)
    for truth in (decisions, torch.tensor([1, 0])):
        for reduction, expected in (("sum", per_class.sum()), ("mean", per_class.mean())):
            term = Term(loss="bce", reduction=reduction)
            assert loss_of(term, logits, truth) == pytest.approx(expected.item())
    several = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(logits, several).item()
    assert loss_of(Term(loss="bce", reduction="mean"), logits, several) == pytest.approx(expected)


LOGITS = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.2, 0.1], [-0.5, 0.0, 0.4], [0.0, 0.7, 0.0]])
TRUTH = torch.tensor([0, 2, 1, 0])
COUNTS = torch.tensor([5.0, 3.0, 2.0])
SHARES = COUNTS / 10
WEIGHTS = {
    "balanced": 10 / (3 * COUNTS),
    "one_minus_share": torch.tensor([0.5, 0.7, 0.8]),
    "rarest_share": torch.tensor([2 / 5, 2 / 3, 1.0]),
}
ANSWERS = {
    "balanced": (10 / (2 * COUNTS), 10 / (2 * (10 - COUNTS))),
    "one_minus_share": (torch.tensor([0.5, 0.7, 0.8]), torch.tensor([0.5, 0.3, 0.2])),
    "rarest_share": (torch.ones(3), torch.tensor([0.5, 0.3, 0.2])),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_an_example_counts_as_often_as_the_weight_of_its_class(kind):
    expected = F.cross_entropy(LOGITS, TRUTH, weight=WEIGHTS[kind]).item()
    value = loss_of(Term(class_weights=kind), LOGITS, TRUTH, shares=SHARES)
    assert value == pytest.approx(expected, rel=1e-6)
    value = loss_of(Term(loss="focal", gamma=0, class_weights=kind), LOGITS, TRUTH, shares=SHARES)
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_yes_and_a_no_to_each_class_have_weights_of_their_own(kind):
    yes, no = ANSWERS[kind]
    truth = F.one_hot(TRUTH, 3).float()
    expected = F.binary_cross_entropy_with_logits(
        LOGITS, truth, weight=truth * yes + (1 - truth) * no, reduction="none"
    )
    value = loss_of(Term(loss="bce", class_weights=kind), LOGITS, TRUTH, shares=SHARES)
    assert value == pytest.approx(expected.sum().item() / 4, rel=1e-6)


def test_classes_weigh_only_where_shares_are_given_and_asked_for():
    plain = F.cross_entropy(LOGITS, TRUTH).item()
    assert loss_of(Term(class_weights="balanced"), LOGITS, TRUTH) == pytest.approx(plain)
    assert loss_of(Term(), LOGITS, TRUTH, shares=SHARES) == pytest.approx(plain)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "bce"])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shares", [[0.6, 0.0, 0.4], [1.0, 0.0, 0.0]])
def test_a_class_without_examples_leaves_loss_and_gradient_finite(loss, kind, shares):
    logits, truth = LOGITS.clone().requires_grad_(), torch.zeros(4, dtype=torch.long)
    value, _ = total_loss(
        {"emotion": logits},
        {"emotion": truth},
        [Term(loss=loss, class_weights=kind)],
        shares=torch.tensor(shares),
    )
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_shares_are_counted_over_the_training_part_alone():
    everyone = Examples(tuple("abcde"), {"emotion": torch.tensor([0, 1, 1, 2, 2])})
    shares = class_shares(everyone.select("abcb"), n_classes=4)
    assert shares.tolist() == [0.25, 0.75, 0.0, 0.0]
    several = Examples(tuple("ab"), {"emotion": torch.tensor([[1.0, 1.0], [0.0, 1.0]])})
    assert class_shares(several, n_classes=2).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "bce", "label_smoothing": 0.1}, "label_smoothing = 0.1 is for cross_entropy"),
        ({"gamma": 1.0}, "gamma = 1.0 is for focal, and this loss is cross_entropy"),
        ({"loss": "focal", "reduction": "mean"}, "reduction = mean is for bce"),
        ({"loss": "mse", "class_weights": "balanced"}, "for cross_entropy or focal or bce, and"),
        ({"target": "speaker", "class_weights": "balanced"}, "this target is speaker"),
    ],
)
def test_options_of_another_loss_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Term(**settings)


def test_targets_of_another_shape_are_refused():
    several = torch.zeros(4, 3)
    for loss in ("cross_entropy", "focal"):
        with pytest.raises(InputError, match=rf"{loss} wants .* as class indices .* loss = 'bce'"):
            loss_of(Term(loss=loss), LOGITS, several)
    with pytest.raises(InputError, match=r"as \(4, 3\) or class indices \(4,\), got \(4, 2\)"):
        loss_of(Term(loss="bce"), LOGITS, torch.zeros(4, 2))


def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(
        RecognizerConfig(
            system="TIM-Net",
            classes=("happy", "sad"),
            view={"kind": "fixed", "n_samples": 8192},
            front_end={"name": "mfcc", "preset": "timnet-code"},
            model={"name": "timnet", "n_scales": 1},
        )
    )


def test_penalties_are_added_by_the_names_of_parameters():
    model = recognizer()
    weight, bias = model.model.head.weight, model.model.head.bias
    torch.nn.init.constant_(bias, 2.0)
    penalties = [
        Penalty(parameters="head.*", weight=0.1),
        Penalty(parameters="head.bias", kind="norm", weight=1.0),
    ]
    found = penalised_parameters(model, penalties)
    loss = with_penalties(torch.tensor(1.0), dict(model.named_parameters()), found)
    squares = weight.square().sum().item() + 8.0
    assert loss.item() == pytest.approx(1.0 + 0.1 * squares + 8.0**0.5)


def test_the_norm_of_nothing_has_a_finite_gradient():
    model = recognizer()
    torch.nn.init.zeros_(model.model.head.bias)
    found = penalised_parameters(model, [Penalty(parameters="head.bias", kind="norm", weight=1.0)])
    with_penalties(torch.tensor(0.0), dict(model.named_parameters()), found).backward()
    assert model.model.head.bias.grad.tolist() == [0.0, 0.0]


def test_a_penalty_on_what_the_model_does_not_have_is_refused():
    model = recognizer()
    model.model.head.bias.requires_grad_(False)
    for name in ("stages.[1-5].conv.weight", "head.bias"):
        with pytest.raises(InputError, match=r"which is no parameter of TimNet: expected one of"):
            penalised_parameters(model, [Penalty(parameters=name, weight=1e-6)])
