"""Generated labels: the authors' logs, their training from end to end, and what they left open."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.golden_self_mm import (
    GOLDENS,
    HEADS,
    assert_close,
    golden_input,
    golden_model,
    golden_weight,
    our_name,
    zeros_behind,
)
from serkit.evaluation.sentiment import sims_scores
from serkit.features.text import SmallTextEncoder, SmallTextEncoderConfig
from serkit.models.self_mm import SELF_MM_PRESETS, STREAMS, SelfMm
from serkit.training.unimodal_labels import (
    GROUP_RATES,
    LABEL_RANGES,
    GroupRates,
    UnimodalLabels,
    UnimodalLabelsConfig,
    parameter_groups,
    self_mm_loss,
)
from serkit.types import InputError

CASES = GOLDENS["label_generation"]
RUN = GOLDENS["training_run"]
OURS = {"fused": "fusion", "text": "text", "audio": "audio", "vision": "vision"}
WIDTHS = {"fused": 2, "text": 2, "audio": 2, "vision": 2}


def table_of(case: dict[str, Any], **settings: Any) -> UnimodalLabels:
    config = UnimodalLabelsConfig(
        label_range=case["H"],
        exclude_zero=case["zero_excluded_from_positive"],
        **{"floor": 0.0} | settings,
    )
    widths = {ours: case["stream_dims"][theirs] for ours, theirs in OURS.items()}
    return UnimodalLabels(torch.tensor(case["labels_M"]), widths, config=config)


def outputs_in(entry: dict[str, Any]) -> dict[str, Tensor]:
    outputs = {}
    for ours, theirs in OURS.items():
        outputs[ours] = torch.tensor(entry["predictions"][theirs])
        outputs[f"feature_{ours}"] = torch.tensor(entry["features"][theirs])
    return outputs


def labels_in(table: UnimodalLabels) -> dict[str, Tensor]:
    return table.labels(torch.arange(len(table.labels_fused)))


def steps(table: UnimodalLabels, case: dict[str, Any]):
    """Walk through a log; give each entry with the loss before it and the clipped labels."""
    clipped = {}
    for entry in case["log"]:
        rows, outputs = torch.tensor(entry["batch"]), outputs_in(entry)
        loss, parts = self_mm_loss(outputs, table.labels(rows))
        before = clipped.get(entry["epoch"], 0)
        table.update(rows, outputs, epoch=entry["epoch"])
        clipped[entry["epoch"]] = int(table.n_clipped)
        yield entry, loss, parts, int(table.n_clipped) - before


def assert_centres(table: UnimodalLabels, name: str, expected: dict[str, Any]) -> None:
    for centre, sign in zip(table.centre(name), ("pos", "neg"), strict=True):
        if None not in expected[sign]:
            assert_close(centre, expected[sign], tolerance=2e-6)


@pytest.mark.parametrize("floor", [0.0, 1e-3])
@pytest.mark.parametrize("name", ["main", "wide_range_zero_counts_as_positive"])
def test_labels_centres_and_losses_are_those_of_the_authors(name, floor):
    case = CASES[name]
    table = table_of(case, floor=floor)
    hits = []
    for entry, loss, parts, n_clipped in steps(table, case):
        assert loss.item() == pytest.approx(entry["loss_total"], rel=1e-5)
        for ours, theirs in HEADS.items():
            expected = entry["loss_per_task_before_update"][theirs]
            assert parts[ours].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        labels = labels_in(table)
        for ours, theirs in OURS.items():
            assert_close(labels[ours], entry["labels_after"][theirs], tolerance=5e-6)
            assert_centres(table, ours, entry["centres_after"][theirs])
        hits.append(n_clipped)
    assert hits == case["clip_hits_per_batch"]


def test_a_centre_that_loses_all_its_clips_stays_where_it_was():
    case = CASES["main"]
    table = table_of(case)
    before = None
    for entry, *_ in steps(table, case):
        lost = None in entry["centres_after"]["vision"]["pos"]
        after = table.centre("vision")[0].clone()
        assert not lost or torch.equal(after, before)
        before = after
    assert lost  # with the last batch


def test_where_the_authors_labels_are_no_numbers_any_more_ours_stay_labels():
    case = CASES["one_stream_loses_a_sign_and_becomes_nan"]
    table = table_of(case)
    lost = False
    for entry, *_ in steps(table, case):
        labels = labels_in(table)
        for name in ("audio", "vision"):  # a stream does not touch the others
            assert_close(labels[name], entry["labels_after"][name], tolerance=5e-6)
            assert_centres(table, name, entry["centres_after"][name])
        if not lost:
            assert_close(labels["text"], entry["labels_after"]["text"], tolerance=5e-6)
        lost = lost or None in entry["centres_after"]["text"]["pos"]
        assert labels["text"].isfinite().all()
        assert labels["text"].abs().max() <= case["H"]
    assert lost
    assert None in entry["labels_after"]["text"]
    assert (labels["text"] > 0).any()  # it finds back to both signs


def test_without_a_negative_clip_there_are_no_labels_but_those_given():
    case = CASES["no_negative_sample_gives_nan"]
    table = table_of(case)
    for entry, loss, *_ in steps(table, case):
        for name, labels in labels_in(table).items():
            assert_close(labels, case["labels_M"], tolerance=1e-7)
            positive, negative = table.centre(name)
            assert positive.isfinite().all()
            assert negative is None
        assert loss.item() == pytest.approx(entry["loss_total"], rel=1e-5)
        assert table.clipped_share is None


def toy(**settings: Any) -> UnimodalLabels:
    """Four clips, two of each sign, whose fused features lie 1 from their own centre."""
    human = settings.pop("human", None)
    config = UnimodalLabelsConfig(**settings)
    return UnimodalLabels(torch.tensor([0.8, 0.4, -0.4, -0.8]), WIDTHS, config=config, human=human)


def toy_outputs(audio: list[float], **others: list[float]) -> dict[str, Tensor]:
    """Features of one number each; fused, text and vision lean as their clips do."""
    straight = [2.0, 4.0, -2.0, -4.0]
    numbers = dict.fromkeys(("fused", "text", "vision"), straight) | {"audio": audio} | others
    return {
        f"feature_{name}": torch.stack([torch.tensor(x), torch.zeros(4)], dim=1)
        for name, x in numbers.items()
    }


def by_hand(y: float, own: float, fused: float, *, old: float, epoch: int) -> float:
    proposal = 0.5 * y * own / fused + 0.5 * (y + own - fused)
    return (epoch - 1) / (epoch + 1) * old + 2 / (epoch + 1) * max(-1.0, min(1.0, proposal))


def test_labels_of_three_epochs_by_hand():
    table, rows = toy(), torch.arange(4)
    outputs = toy_outputs([1.9, 4.1, -2.1, -3.9])
    table.update(rows, outputs, epoch=1)
    assert table.centre("fused")[0].tolist() == [3, 0]
    assert labels_in(table)["audio"].tolist() == labels_in(table)["fused"].tolist()
    expected = [0.8, 0.4, -0.4, -0.8]
    for epoch in (2, 3):
        table.update(rows, outputs, epoch=epoch)
        # Distances of the first clip: fused 1 and 5, audio 1.1 and 4.9; centres stay at 3 and -3.
        leanings = [
            (4.9 / 1.1 - 1, 5 / 1 - 1),
            (7.1 / 1.1 - 1, 7 / 1 - 1),
            (0.9 / 5.1 - 1, 1 / 5 - 1),
            (0.9 / 6.9 - 1, 1 / 7 - 1),
        ]
        expected = [
            by_hand(y, own, fused, old=old, epoch=epoch)
            for y, (own, fused), old in zip([0.8, 0.4, -0.4, -0.8], leanings, expected, strict=True)
        ]
        assert_close(labels_in(table)["audio"], expected, tolerance=1e-5)
        for name in ("text", "vision"):
            assert_close(labels_in(table)[name], [0.8, 0.4, -0.4, -0.8], tolerance=1e-6)


def test_squared_distances_are_those_of_the_paper():
    table, rows = toy(distance="l2sq"), torch.arange(4)
    outputs = toy_outputs([1.9, 4.1, -2.1, -3.9])
    for epoch in (1, 2):
        table.update(rows, outputs, epoch=epoch)
    third = by_hand(-0.4, 0.9**2 / 5.1**2 - 1, 1 / 25 - 1, old=-0.4, epoch=2)
    assert labels_in(table)["audio"][2].item() == pytest.approx(third, abs=1e-5)


def test_a_stream_that_disagrees_is_labelled_to_its_own_side():
    table, rows = toy(label_range=3.0), torch.arange(4)
    for epoch in (1, 2, 3):
        table.update(rows, toy_outputs([2.0, -3.0, 3.0, -4.0]), epoch=epoch)
    labels = labels_in(table)
    assert labels["audio"][1] < 0 < labels["audio"][2]
    assert labels["text"][1] > 0 > labels["text"][2]


def test_a_fused_leaning_near_zero_is_kept_from_it_with_its_sign():
    rows = torch.arange(4)
    proposals = {}
    for floor in (0.0, 1e-3, 0.5):
        table = toy(floor=floor, label_range=1e9)
        table.update(rows, toy_outputs([2.0, 4.0, -2.0, -4.0]), epoch=1)
        nearly = [1e-5, 4.0, -1e-5, -4.0]  # in the middle between the fused centres
        table.update(rows, toy_outputs([2.0, 4.0, -2.0, -4.0], fused=nearly), epoch=2)
        proposals[floor] = labels_in(table)["audio"][0].item()
    ratio = 0.8 * 4 * 0.5  # of the first clip's leaning of 4, halved
    leaning = 2e-5 / 3
    for floor, size in ((0.0, leaning), (1e-3, 1e-3), (0.5, 0.5)):
        expected = 0.8 / 3 + (ratio / size + 0.5 * (0.8 + 4)) * 2 / 3
        assert proposals[floor] == pytest.approx(expected, rel=0.03), floor
    table = toy(floor=0.5, label_range=1e9)
    table.update(rows, toy_outputs([2.0, 4.0, -2.0, -4.0]), epoch=1)
    table.update(rows, toy_outputs([2.0] * 4, fused=[-1e-5] * 4), epoch=2)
    expected = 0.8 / 3 + (-ratio / 0.5 + 0.5 * (0.8 + 4)) * 2 / 3
    assert labels_in(table)["audio"][0].item() == pytest.approx(expected, rel=0.01)


def test_the_share_of_clipped_labels_is_that_of_the_epoch():
    table, rows = toy(label_range=0.5), torch.arange(4)
    outputs = toy_outputs([2.0, 4.0, -2.0, -4.0])
    table.update(rows, outputs, epoch=1)
    assert table.clipped_share is None
    table.update(rows, outputs, epoch=2)
    assert table.clipped_share == 0.5  # those of 0.8, in all three streams
    table.update(rows[1:2], {key: x[1:2] for key, x in outputs.items()}, epoch=3)
    assert table.clipped_share == 0.0


def test_a_clip_without_a_stream_has_no_label_there_and_moves_no_centre():
    table, rows = toy(), torch.arange(4)
    outputs = toy_outputs([1.9, 999.0, -2.1, -3.9])
    outputs["present"] = torch.tensor([[True, row != 1, True] for row in range(4)])
    for epoch in (1, 2):
        table.update(rows, outputs, epoch=epoch)
    assert table.centre("audio")[0].tolist() == pytest.approx([1.9, 0])
    labels = labels_in(table)
    assert labels["audio"][1].item() == pytest.approx(0.4)
    assert labels["audio"][2].item() != pytest.approx(-0.4, abs=1e-3)
    assert table.n_generated == 11
    found = outputs | {"present": torch.ones(4, 3, dtype=torch.bool)}
    table.update(rows, found, epoch=1)
    assert table.centre("audio")[0].tolist() == pytest.approx([(1.9 + 999) / 2, 0])


def test_labels_of_people_stand_in_or_are_mixed():
    rows = torch.arange(4)
    human = {"audio": torch.tensor([1.0, -1.0, math.nan, 0.0])}
    outputs = toy_outputs([1.9, 4.1, -2.1, -3.9])
    tables = {
        source: toy(label_source=source, human_share=0.25, human=human)
        for source in ("generated", "human", "blend")
    }
    for table in tables.values():
        for epoch in (1, 2):
            table.update(rows, outputs, epoch=epoch)
    labels = {source: labels_in(table) for source, table in tables.items()}
    generated = labels["generated"]["audio"]
    assert labels["human"]["audio"].tolist() == [1, -1, generated[2], 0]
    mixed = 0.25 * human["audio"] + 0.75 * generated
    mixed[2] = generated[2]
    torch.testing.assert_close(labels["blend"]["audio"], mixed)
    for source in labels:  # nobody has labelled the text
        assert torch.equal(labels[source]["text"], labels["generated"]["text"])


def test_labels_of_people_that_are_not_asked_for_change_nothing():
    human = {name: torch.tensor([1.0, -1.0, 0.5, 0.0]) for name in STREAMS}
    plain, given, rows = toy(), toy(human=human), torch.arange(4)
    for epoch in (1, 2):
        for table in (plain, given):
            table.update(rows, toy_outputs([1.9, 4.1, -2.1, -3.9]), epoch=epoch)
    for name, labels in labels_in(plain).items():
        assert torch.equal(labels_in(given)[name], labels)


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_table_goes_on_where_its_stored_state_stopped(after, tmp_path):
    case = CASES["main"]
    table, again = table_of(case), table_of(case)
    for number, _ in enumerate(steps(table, case), 1):
        if number == after:
            save_file(table.state_dict(), tmp_path / "state.safetensors")
    again.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for _ in steps(again, case | {"log": case["log"][after:]}):
        pass
    ours, theirs = table.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    for key, x in ours.items():
        torch.testing.assert_close(theirs[key], x, rtol=0, atol=0, equal_nan=True, msg=key)


def test_weights_of_the_loss_have_no_gradient_and_even_ones_are_1():
    outputs = {name: torch.tensor([0.5, -0.5], requires_grad=True) for name in OURS}
    labels = {"fused": torch.tensor([1.0, 0.0])} | {
        name: torch.tensor([0.0, 0.0]) for name in STREAMS
    }
    loss, parts = self_mm_loss(outputs, labels)
    loss.backward()
    assert parts["fused"] == 0.5
    assert parts["text"].item() == pytest.approx(math.tanh(1) * 0.5 / 2)
    assert outputs["text"].grad.tolist() == pytest.approx([math.tanh(1) / 2, 0])
    assert not parts["text"].requires_grad
    _, even = self_mm_loss(outputs, labels, weighting="even")
    assert even == dict.fromkeys(OURS, torch.tensor(0.5))


def test_the_loss_of_a_stream_is_the_mean_over_the_clips_that_have_it():
    outputs = {name: torch.tensor([0.5, math.nan], requires_grad=True) for name in STREAMS}
    outputs["fused"] = torch.tensor([0.5, 0.5])
    labels = {name: torch.tensor([0.0, 0.0]) for name in STREAMS} | {
        "fused": torch.tensor([1.0, 1.0])
    }
    outputs["present"] = torch.tensor([[True, False, False], [False, False, False]])
    loss, parts = self_mm_loss(outputs, labels)
    assert parts["text"].item() == pytest.approx(math.tanh(1) * 0.5)
    assert parts["audio"] == parts["vision"] == 0
    assert loss.item() == pytest.approx(0.5 + math.tanh(1) * 0.5)
    loss.backward()
    assert outputs["audio"].grad.tolist() == [0, 0]


class TextStub(nn.Module):
    """The text encoder of the authors' run: one vector per clip."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(n_in, n_out)
        self.LayerNorm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.proj(x)).unsqueeze(1)


def stub_of_the_run() -> TextStub:
    stub = TextStub(RUN["config"]["stub_text_in"], RUN["config"]["text_in"])
    prefix = "text_stub."
    stub.load_state_dict(
        {
            tensor["role"][len(prefix) :]: golden_weight(tensor)
            for tensor in RUN["tensors"]
            if tensor["role"].startswith(prefix)
        }
    )
    return stub


def data_of_the_run() -> dict[str, Tensor]:
    y, sizes = torch.tensor(RUN["labels_M"]), RUN["config"]
    n, (most_audio, most_vision) = len(y), RUN["padded_lengths"]
    audio = golden_input(n, most_audio, sizes["audio_in"], offset=3000) + 0.9 * y[:, None, None]
    vision = golden_input(n, most_vision, sizes["video_in"], offset=9000) - 0.8 * y[:, None, None]
    columns = torch.arange(1, sizes["stub_text_in"] + 1)
    text = golden_input(3 * n, sizes["stub_text_in"], offset=40000)[::3]
    return {
        "text": text + 1.1 * y[:, None] * columns.cos(),
        "n_tokens": torch.ones(n, dtype=torch.int64),
        "audio": zeros_behind(audio, RUN["audio_lengths"]),
        "n_audio": torch.tensor(RUN["audio_lengths"]),
        "vision": zeros_behind(vision, RUN["vision_lengths"]),
        "n_vision": torch.tensor(RUN["vision_lengths"]),
    }


def judge(model: SelfMm, stub: TextStub, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(**batch | {"text": stub(batch["text"])})


def test_a_training_from_end_to_end_is_that_of_the_authors():
    model, stub, data = golden_model(RUN), stub_of_the_run(), data_of_the_run()
    table = UnimodalLabels(
        torch.tensor(RUN["labels_M"]),
        model.feature_widths,
        config=UnimodalLabelsConfig(floor=0.0),
    )
    rates = GROUP_RATES["sims"]
    assert rates.accumulate == RUN["accumulate_batches"]
    optimizer = torch.optim.Adam(parameter_groups(model, stub, rates))
    for epoch, golden in enumerate(RUN["after_epoch"], 1):
        optimizer.zero_grad()  # what is left of the epoch before never counts
        for number, batch in enumerate(RUN["batch_order"], 1):
            rows = torch.tensor(batch)
            outputs = judge(model.train(), stub, {key: x[rows] for key, x in data.items()})
            loss, _ = self_mm_loss(outputs, table.labels(rows))
            loss.backward()
            table.update(rows, outputs, epoch=epoch)
            if number % rates.accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            judged = judge(model.eval(), stub, data)
        assert_as_published(golden, table, judged, model, stub)


def assert_as_published(
    golden: dict[str, Any],
    table: UnimodalLabels,
    judged: dict[str, Tensor],
    model: SelfMm,
    stub: TextStub,
) -> None:
    labels = labels_in(table)
    for ours, theirs in OURS.items():
        assert_close(labels[ours], golden["labels"][theirs], tolerance=1e-3)
        expected = golden["eval_predictions_all_samples"][HEADS[ours]]
        assert_close(judged[ours], expected, tolerance=1e-3)
    named = {f"text_stub.{name}": p for name, p in stub.named_parameters()}
    named |= dict(model.named_parameters())
    for role, expected in golden["weight_l2"].items():
        assert named[our_name(role)].norm().item() == pytest.approx(expected, rel=1e-4), role
    truth, predicted = (x[::2].numpy() for x in (labels["fused"], judged["fused"]))
    scores = sims_scores(truth, predicted) | {"Loss": np.abs(truth - predicted).mean()}
    for key, value in golden["valid"].items():
        assert scores[key] == pytest.approx(value, abs=2e-4), key


def test_groups_have_the_published_rates_and_hold_every_parameter_once():
    model, stub = golden_model(RUN), stub_of_the_run()
    groups = {group["name"]: group for group in parameter_groups(model, stub, GroupRates())}
    rates, decays = RUN["learning_rates"], RUN["weight_decay"]
    expected = {
        "text": (rates["text"], decays["text"], 1),
        "text_plain": (rates["text"], decays["text_norm_and_bias"], 3),
        "audio": (rates["audio"], decays["audio"], 6),
        "vision": (rates["vision"], decays["vision"], 6),
        "other": (rates["other"], decays["other"], 24),
    }
    got = {
        name: (group["lr"], group["weight_decay"], len(group["params"]))
        for name, group in groups.items()
    }
    assert got == expected
    held = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(held) == sorted(id(p) for net in (model, stub) for p in net.parameters())


def test_frozen_or_absent_text_encoders_have_no_group():
    model, stub = golden_model(RUN), stub_of_the_run().requires_grad_(False)
    for encoder in (None, stub):
        groups = parameter_groups(model, encoder, GroupRates())
        assert [group["name"] for group in groups] == ["audio", "vision", "other"]
    small = SmallTextEncoder(SmallTextEncoderConfig(n_features=8))
    names = [group["name"] for group in parameter_groups(model, small, GroupRates())]
    assert names == ["text", "text_plain", "audio", "vision", "other"]


def test_rates_ranges_and_sizes_are_published_for_the_same_corpora():
    assert GROUP_RATES.keys() == LABEL_RANGES.keys() == SELF_MM_PRESETS.keys()
    assert asdict(GROUP_RATES["mosei"])["vision_rate"] == 1e-4


def test_rows_outside_the_training_part_are_refused():
    table = toy()
    for rows in (torch.tensor([0, 4]), torch.tensor([-1])):
        with pytest.raises(InputError, match="of a training part of 4 clips: expected places"):
            table.labels(rows)
        with pytest.raises(InputError, match="of a training part of 4 clips"):
            table.update(rows, toy_outputs([0.0] * 4), epoch=1)


def test_labels_that_do_not_fit_are_refused():
    config = UnimodalLabelsConfig()
    for labels in (torch.zeros(0), torch.tensor([0.1, math.nan]), torch.zeros(2, 1)):
        with pytest.raises(InputError, match="expected one finite number per clip"):
            UnimodalLabels(labels, WIDTHS, config=config)
    with pytest.raises(InputError, match=r"people's labels of 'audio', \(3,\): expected"):
        toy(human={"audio": torch.zeros(3)})
    with pytest.raises(InputError, match="people's labels of 'face'"):
        toy(human={"face": torch.zeros(4)})
    for human in (None, {"text": torch.full((4,), math.nan)}):
        with pytest.raises(InputError, match="label_source = human: the corpus has no label"):
            toy(label_source="human", human=human)
    with pytest.raises(InputError, match=r"label_source = clip: .* this is for classes"):
        toy(label_source="clip")


def test_the_loss_refuses_classes():
    outputs = {name: torch.zeros(2, 2) for name in OURS}
    with pytest.raises(InputError, match=r"output 'fused' of shape \(2, 2\) for labels of shape"):
        self_mm_loss(outputs, {name: torch.zeros(2) for name in OURS})
