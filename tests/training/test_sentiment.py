"""Clips as batches, the criterion with generated labels, and how gradients are accumulated."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from serkit.training.config import TrainingConfig
from serkit.training.data import Ragged
from serkit.training.learner import Trainable
from serkit.training.loop import fit_learner
from serkit.training.sentiment import ClassCriterion, ClipPart, ClipTensors, SentimentCriterion
from serkit.training.unimodal_labels import UnimodalLabels, UnimodalLabelsConfig
from serkit.types import InputError

N = 12


def clips(*, asr: bool = False) -> ClipTensors:
    lengths = torch.arange(N) + 1
    frames = Ragged(torch.arange(int(lengths.sum()), dtype=torch.float32).unsqueeze(1), lengths)
    words = torch.arange(2 * N if asr else N).unsqueeze(1)
    return ClipTensors(
        ids=tuple(f"c{i}" for i in range(N)),
        text=Ragged(words, torch.ones(len(words), dtype=torch.int64)),
        has_text=torch.ones(len(words), dtype=torch.bool),
        audio=frames,
        vision=frames,
        present=torch.ones(N, 2, dtype=torch.bool),
        labels=torch.linspace(-1, 1, N),
        human={"text": torch.zeros(N)},
    )


def test_a_batch_holds_the_clips_of_its_places():
    part = ClipPart(clips(), torch.tensor([3, 7, 9]))
    assert part.ids == ("c3", "c7", "c9")
    assert len(part) == 3
    assert part.lengths().tolist() == [4, 8, 10]
    assert part.human()["text"].shape == (3,)
    batch = part.training_batch(torch.tensor([2, 0]), seed=1, epoch=1)
    assert batch["text"][:, 0, 0].tolist() == [9, 3]
    assert batch["n_audio"].tolist() == [10, 4]
    assert batch["audio"].shape == (2, 10, 1)
    assert batch["rows"].tolist() == [2, 0]
    assert batch["present"].shape == (2, 3)


def test_texts_of_a_recogniser_take_the_place_of_some():
    rows = torch.arange(N)

    def heard(share: float, *, epoch: int = 1, seed: int = 1) -> list[bool]:
        part = ClipPart(clips(asr=True), rows, asr_share=share)
        batch = part.training_batch(rows, seed=seed, epoch=epoch)
        return (batch["text"][:, 0, 0] >= N).tolist()

    assert not any(heard(0.0))
    assert all(heard(1.0))
    assert 0 < sum(heard(0.5)) < N
    assert heard(0.5) == heard(0.5)
    assert heard(0.5) != heard(0.5, epoch=2)
    assert heard(0.5) != heard(0.5, seed=2)


def test_the_criterion_remembers_its_labels():
    torch.manual_seed(0)
    widths = {name: 4 for name in ("fused", "text", "audio", "vision")}

    def criterion() -> SentimentCriterion:
        labels = UnimodalLabels(clips().labels, widths, config=UnimodalLabelsConfig())
        return SentimentCriterion(labels, weighting="disagreement")

    one = criterion()
    outputs = {name: torch.zeros(N) for name in widths}
    outputs |= {f"feature_{name}": torch.randn(N, 4) for name in widths}
    batch = {"rows": torch.arange(N)}
    assert one.row()["labels_text"] == 0
    for epoch in (1, 2):
        one.remember(outputs, batch, epoch=epoch)
    assert one.row()["labels_text"] > 0
    other = criterion()
    other.load_state(one.state())
    assert other.row() == one.row()
    assert torch.equal(other.loss(outputs, batch, share=1.0), one.loss(outputs, batch, share=1.0))
    half = one.loss(outputs, batch, share=0.5)
    torch.testing.assert_close(2 * half, one.loss(outputs, batch, share=1.0))
    assert one.describe()["weighting"] == "disagreement"


class Line(Trainable):
    """One weight, whose gradient is the mean of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": self.weight * batch["x"]}


class Numbers:
    ids = tuple("abcdefg")

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Tensor:
        return torch.ones(len(self.ids), dtype=torch.int64)

    def training_batch(self, rows: Tensor, *, seed: int, epoch: int) -> dict[str, Tensor]:
        return {"x": torch.ones(len(rows))}


CRITERION = SimpleNamespace(
    describe=lambda: "mean",
    loss=lambda outputs, batch, share: outputs["y"].mean() * share,
    remember=lambda outputs, batch, epoch: None,
    state=dict,
    load_state=lambda state: None,
)


def gradients(tmp_path, monkeypatch, **changes) -> list[float]:
    """Train on seven examples, two at a time, and note the gradient at every step."""
    seen: list[float] = []
    step = torch.optim.Adam.step

    def noted(self, *args, **options):
        seen.append(float(self.param_groups[0]["params"][0].grad))
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    settings = {"epochs": 2, "batch_size": 2, "optimizer": "adam", "select": "last"}
    fit_learner(
        Line(),
        Numbers(),
        None,
        TrainingConfig(**(settings | changes)),
        criterion=CRITERION,
        judge_dev=lambda learner, dev: {},
        seed=1,
        folder=tmp_path / "members" / "one",
    )
    return seen


def test_gradients_are_averaged_summed_or_dropped(tmp_path, monkeypatch):
    def found(name: str, **changes) -> list[float]:
        return gradients(tmp_path / name, monkeypatch, **changes)

    assert found("each") == [1.0] * 8
    assert found("mean", accumulate=2) == [1.0] * 4
    assert found("sum", accumulate=2, accumulate_by="sum") == [2.0] * 4
    # Four batches: three and one that is left over.
    assert found("left", accumulate=3, accumulate_by="sum") == [3.0, 1.0] * 2
    assert found("drop", accumulate=3, accumulate_by="sum", remainder="drop") == [3.0] * 2


def test_an_epoch_without_a_step_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="an epoch has 4 batches: no step would be made"):
        gradients(tmp_path, monkeypatch, accumulate=5, remainder="drop")


def test_groups_have_rates_and_decays_of_their_own(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(self, *args, **options):
        rates.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    line = Line()
    line.bias = nn.Parameter(torch.zeros(()))
    fit_learner(
        line,
        Numbers(),
        None,
        TrainingConfig(
            epochs=2, batch_size=8, optimizer="adam", select="last", learning_rate=0.1,
            schedule={"kind": "steps", "first": 2, "every": 1, "factor": 0.5},
        ),
        criterion=CRITERION,
        judge_dev=lambda learner, dev: {},
        seed=1,
        folder=tmp_path / "members" / "one",
        groups=[
            {"params": [line.weight], "factor": 1.0, "weight_decay": 0.2},
            {"params": [line.bias], "factor": 0.1, "weight_decay": 0.0},
        ],
    )  # fmt: skip
    assert rates[0] == [pytest.approx((0.1, 0.2)), pytest.approx((0.01, 0.0))]
    assert rates[1] == [pytest.approx((0.05, 0.2)), pytest.approx((0.005, 0.0))]


def class_outputs(n_classes: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    outputs = {
        name: torch.randn(N, n_classes, requires_grad=True)
        for name in ("fused", "text", "audio", "vision")
    }
    return outputs | {"present": torch.ones(N, 3, dtype=torch.bool)}


def test_classes_are_learned_by_all_heads_alike():
    labels = torch.arange(N) % 3
    outputs, batch = class_outputs(), {"rows": torch.arange(N)}
    found = ClassCriterion(labels).loss(outputs, batch, share=1.0)
    heads = [outputs[name] for name in ("fused", "text", "audio", "vision")]
    expected = sum(nn.functional.cross_entropy(head, labels) for head in heads)
    torch.testing.assert_close(found, expected)
    half = ClassCriterion(labels).loss(outputs, batch, share=0.5)
    torch.testing.assert_close(2 * half, found)
    part = {"rows": torch.tensor([4, 1])}
    some = {name: head[:2] for name, head in class_outputs().items()}
    picked = ClassCriterion(labels).loss(some, part, share=1.0)
    expected = sum(
        nn.functional.cross_entropy(some[name], torch.tensor([1, 1]))
        for name in ("fused", "text", "audio", "vision")
    )
    torch.testing.assert_close(picked, expected)


def test_rare_classes_count_more_where_asked():
    labels = torch.tensor([0] * (N - 3) + [1] * 3)
    people = torch.full((N,), -1)
    people[0] = 2
    outputs = class_outputs()
    outputs["present"][:4, 1] = False
    criterion = ClassCriterion(labels, human={"vision": people}, weights="balanced")
    found = criterion.loss(outputs, {"rows": torch.arange(N)}, share=1.0)
    expected = torch.zeros(())
    for name in ("fused", "text", "audio", "vision"):
        truth = criterion.labels[name]
        counts = truth.bincount(minlength=3)
        weight = torch.where(counts > 0, N / (3 * counts), 0.0)
        rows = slice(4 if name == "audio" else 0, N)
        expected += nn.functional.cross_entropy(outputs[name][rows], truth[rows], weight=weight)
    torch.testing.assert_close(found, expected)
    assert criterion.describe() == ClassCriterion(labels, human={"vision": people}).describe() | {
        "weights": "balanced"
    }


def test_a_stream_that_is_missing_teaches_its_head_nothing():
    outputs = class_outputs()
    outputs["present"][:6, 1] = False
    outputs["present"][:, 2] = False
    loss = ClassCriterion(torch.arange(N) % 3).loss(outputs, {"rows": torch.arange(N)}, share=1.0)
    loss.backward()
    assert (outputs["audio"].grad[:6] == 0).all()
    assert (outputs["audio"].grad[6:] != 0).all()
    assert (outputs["vision"].grad == 0).all()
    assert (outputs["fused"].grad != 0).all()


def test_peoples_classes_of_streams_come_first():
    labels = torch.zeros(N, dtype=torch.int64)
    people = torch.full((N,), -1)
    people[3] = 2
    criterion = ClassCriterion(labels, human={"audio": people})
    assert criterion.labels["audio"].tolist() == [0, 0, 0, 2] + [0] * 8
    assert criterion.labels["text"].tolist() == [0] * N
    assert criterion.describe()["audio"] == [11, 0, 1]
    assert (criterion.state(), criterion.row(), criterion.generated()) == ({}, {}, {})
    criterion.remember({}, {}, epoch=1)
    criterion.load_state({})


@pytest.mark.parametrize("labels", [torch.zeros(N), torch.full((N,), -1), torch.zeros(2, 2).long()])
def test_labels_that_are_no_places_of_classes_are_refused(labels):
    with pytest.raises(InputError, match="expected one class per clip by its place"):
        ClassCriterion(labels)
