"""The loop: selection, patience, exact resume, and what it refuses."""

import inspect
import json
import math

import pytest
import torch

from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.training.data import Examples, derive_seed
from serkit.training.loop import TrainingConfig, fit, predict
from serkit.training.objectives import Term
from serkit.types import InputError

CONFIG = RecognizerConfig(
    system="TIM-Net",
    classes=("happy", "sad"),
    view={"kind": "fixed", "n_samples": 8192},
    front_end={"name": "mfcc", "preset": "timnet-code"},
    model={"name": "timnet", "n_scales": 3},
)
OBJECTIVE = (Term(label_smoothing=0.1),)


def examples(n: int = 24, *, seed: int = 0) -> Examples:
    """Frames whose mean tells the class."""
    generator = torch.Generator().manual_seed(seed)
    emotion = torch.arange(n) % 2
    features = torch.randn(n, 17, 39, generator=generator) + 2.0 * emotion.view(-1, 1, 1)
    return Examples(
        tuple(f"u{i}" for i in range(n)),
        {"features": features, "n_frames": torch.full((n,), 17), "emotion": emotion},
    )


def recognizer() -> Recognizer:
    torch.manual_seed(3)
    return Recognizer(CONFIG)


def config(**changes) -> TrainingConfig:
    settings = {"epochs": 5, "batch_size": 8, "learning_rate": 3e-3, "save_every_s": 0}
    return TrainingConfig(**(settings | changes))


def run(folder, settings, *, train=None, dev=None, on_epoch=None):
    model = recognizer()
    result = fit(
        model,
        examples() if train is None else train,
        examples(12, seed=9) if dev is None else dev,
        settings,
        objective=OBJECTIVE,
        seed=11,
        folder=folder,
        on_epoch=on_epoch,
    )
    return model, result


def test_fit_has_no_parameter_for_test_data():
    assert not [name for name in inspect.signature(fit).parameters if "test" in name]


def test_learns_what_there_is_to_learn(tmp_path):
    model, result = run(tmp_path, config(epochs=25))
    assert result.history[-1]["dev_uar"] > 0.9
    scores = predict(model, examples(12, seed=9))["scores"]
    assert scores.shape == (12, 2)
    assert abs(scores.sum(1) - 1).max() < 1e-5


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process in the middle of a training."""


@pytest.mark.parametrize("select", ["best_dev", "last"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, select, stop_after):
    settings = config(select=select, clip_norm=1.0)

    def die(row):
        if row["epoch"] == stop_after + 1:  # after the state of `stop_after` was saved
            raise Killed

    whole, expected = run(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        run(tmp_path / "parts", settings, on_epoch=die)
    resumed, result = run(tmp_path / "parts", settings)
    assert result.selected_epoch == expected.selected_epoch
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    log = [json.loads(x) for x in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4, 5]


EVERYTHING = {
    "optimizer": "adam",
    "weight_decay": 1e-3,
    "warmup_epochs": 1,
    "schedule": {"kind": "steps", "first": 3, "every": 1, "factor": 0.5},
    "penalties": [
        {"parameters": "*.weight", "weight": 1e-3},
        {"parameters": "head.*", "kind": "norm", "weight": 1e-2},
    ],
}


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_training_goes_on_with_the_rate_of_its_epoch(tmp_path, stop_after):
    def die(row):
        if row["epoch"] == stop_after + 1:
            raise Killed

    whole, expected = run(tmp_path / "whole", config(**EVERYTHING))
    with pytest.raises(Killed):
        run(tmp_path / "parts", config(**EVERYTHING), on_epoch=die)
    resumed, result = run(tmp_path / "parts", config(**EVERYTHING))
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([1.5e-3, 3e-3, 1.5e-3, 0.75e-3, 0.375e-3])


def test_an_epoch_is_trained_at_the_rate_that_is_logged(tmp_path):
    stop = {"kind": "steps", "first": 2, "every": 1, "factor": 1e-12}
    short, result = run(tmp_path / "a", config(epochs=1, select="last"))
    assert "learning_rate" not in result.history[0]
    longer, result = run(tmp_path / "b", config(epochs=3, select="last", schedule=stop))
    assert result.history[2]["learning_rate"] == pytest.approx(3e-27)
    for ours, theirs in zip(longer.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_the_training_loss_holds_penalties_and_class_weights_and_the_dev_loss_does_not(tmp_path):
    def first_row(folder, term, **changes):
        model = recognizer()
        settings = config(epochs=1, batch_size=24, learning_rate=1e-12, **changes)
        dev = examples(12, seed=9)
        result = fit(
            model, uneven(), dev, settings, objective=(term,), seed=11, folder=tmp_path / folder
        )
        return model, result.history[0]

    model, plain = first_row("plain", Term())
    penalty = {"parameters": "head.weight", "weight": 0.5}
    _, penalised = first_row("penalised", Term(), penalties=[penalty])
    squares = model.model.head.weight.square().sum().item()
    expected = plain["train_loss"] + 0.5 * squares
    assert penalised["train_loss"] == pytest.approx(expected, rel=1e-4)
    _, weighted = first_row("weighted", Term(class_weights="balanced"))
    assert weighted["train_loss"] != pytest.approx(plain["train_loss"], rel=1e-3)
    assert plain["dev_loss"] == penalised["dev_loss"] == weighted["dev_loss"]


def uneven() -> Examples:
    """Three quarters of them of one class."""
    even = examples(24)
    return even.select([f"u{i}" for i in range(24) if i % 2 or i % 3 == 0])


def test_a_finished_training_is_not_repeated(tmp_path):
    run(tmp_path, config())
    epochs = []
    run(tmp_path, config(), on_epoch=epochs.append)
    assert epochs == []


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(tmp_path):
    one, _ = run(tmp_path / "a", config())
    two, _ = run(tmp_path / "b", config())
    assert torch.equal(one.model.head.weight, two.model.head.weight)
    model = recognizer()
    fit(model, examples(), examples(12), config(), objective=OBJECTIVE, seed=12, folder=tmp_path)
    assert not torch.equal(one.model.head.weight, model.model.head.weight)


def test_keeps_the_best_dev_epoch(tmp_path):
    _, result = run(tmp_path, config(epochs=8))
    best = max(result.history, key=lambda row: (row["dev_uar"], -row["dev_loss"], -row["epoch"]))
    assert result.selected_epoch == best["epoch"]


def test_min_epochs_and_select_every_limit_the_choice(tmp_path):
    _, result = run(tmp_path / "a", config(epochs=6, min_epochs=5))
    assert result.selected_epoch >= 5
    _, result = run(tmp_path / "b", config(epochs=6, select_every=4))
    assert result.selected_epoch == 4


def test_last_keeps_the_last_epoch(tmp_path):
    _, result = run(tmp_path, config(select="last"))
    assert result.selected_epoch == 5


def test_patience_stops(tmp_path):
    # Dev labels are noise, so there is soon nothing to gain.
    dev = examples(12, seed=5)
    dev.tensors["emotion"].copy_(torch.randint(0, 2, (12,)))
    _, result = run(tmp_path, config(epochs=60, patience=3), dev=dev)
    assert len(result.history) == result.selected_epoch + 3


def test_tensorboard_events_are_written(tmp_path):
    run(tmp_path / "one", config(epochs=1, tracker={"kind": "tensorboard"}))
    assert list((tmp_path / "tensorboard" / "one").glob("events.*"))


def test_accumulation_steps_once_for_several_batches(tmp_path):
    # With every batch of the epoch in one step, Adam has taken exactly one step per epoch.
    run(tmp_path, config(epochs=2, accumulate=3, select="last"))
    from serkit.training.checkpoint import load_state

    state = load_state(tmp_path / "state.safetensors")
    assert {int(v["step"]) for v in state.optimizer.values()} == {2}


def test_selection_by_dev_needs_a_dev_part(tmp_path):
    with pytest.raises(InputError, match="there is no dev part"):
        fit(
            recognizer(),
            examples(),
            None,
            config(),
            objective=OBJECTIVE,
            seed=1,
            folder=tmp_path,
        )


def test_an_empty_training_part_is_refused(tmp_path):
    with pytest.raises(InputError, match="training part is empty"):
        run(tmp_path, config(), train=examples().select([]))


def test_a_state_of_another_training_is_refused(tmp_path):
    run(tmp_path, config())
    with pytest.raises(InputError, match="belongs to another training"):
        run(tmp_path, config(learning_rate=1e-4))


@pytest.mark.parametrize("content", [b"", b"\x80\x04cos\nsystem\n", b"{}" * 40])
def test_a_damaged_or_hostile_state_is_refused(tmp_path, content):
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a readable training state"):
        run(tmp_path, config())


def test_a_penalty_on_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"training.penalties names 'tail.\*', which is no"):
        run(tmp_path, config(penalties=[{"parameters": "tail.*", "weight": 1.0}]))


def test_divergence_is_said(tmp_path):
    data = examples()
    data.tensors["features"][0, 0, 0] = math.nan
    with pytest.raises(InputError, match="training diverged"):
        run(tmp_path, config(select="last"), train=data)


def test_derived_seeds_differ_by_every_part():
    seeds = {derive_seed(*parts) for parts in [(1, "a"), (1, "b"), (2, "a"), ("1", "a", 0)]}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_batches_by_seconds_hold_no_more_and_resume_exactly(tmp_path):
    lengths = torch.tensor([5, 17, 9, 12] * 6)
    base = examples()
    ragged = Examples(base.ids, dict(base.tensors) | {"n_frames": lengths})
    rate = recognizer().frame_rate
    assert rate == pytest.approx(22_050 / 512, rel=1e-3)
    settings = config(batch_seconds=40 / rate, select="last")
    seen: list[int] = []

    class Watched(Recognizer):
        def forward(self, batch):
            if self.training:
                seen.append(len(batch["n_frames"]) * int(batch["n_frames"].max()))
            return super().forward(batch)

    torch.manual_seed(3)
    whole = Watched(CONFIG)
    fit(whole, ragged, None, settings, objective=OBJECTIVE, seed=11, folder=tmp_path / "a")
    assert seen
    assert max(seen) <= 40

    class StopError(Exception):
        pass

    def stop(row):
        if row["epoch"] == 3:
            raise StopError

    torch.manual_seed(3)
    again = Recognizer(CONFIG)
    arguments = {"objective": OBJECTIVE, "seed": 11, "folder": tmp_path / "b"}
    with pytest.raises(StopError):
        fit(again, ragged, None, settings, on_epoch=stop, **arguments)
    torch.manual_seed(3)
    again = Recognizer(CONFIG)
    fit(again, ragged, None, settings, **arguments)
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


class Stops(Examples):
    """Raises when it is asked for the second batch of the third epoch."""

    asked = 0

    def training_batch(self, rows, *, seed, epoch):
        type(self).asked += epoch == 3
        if type(self).asked == 2:
            raise Killed
        return super().training_batch(rows, seed=seed, epoch=epoch)


def test_killed_within_an_epoch_and_resumed_equals_uninterrupted(tmp_path):
    settings = config(save_every_batches=1)
    whole, expected = run(tmp_path / "whole", settings)
    part = examples()
    with pytest.raises(Killed):
        run(tmp_path / "cut", settings, train=Stops(part.ids, part.tensors))
    resumed, result = run(tmp_path / "cut", settings)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    keys = ("epoch", "train_loss", "dev_loss", "dev_uar")
    assert [[r[k] for k in keys] for r in result.history] == [
        [r[k] for k in keys] for r in expected.history
    ]


def test_selection_by_what_the_dev_part_is_not_judged_by_is_refused(tmp_path):
    with pytest.raises(InputError, match="select_by is 'cer', and this dev part is judged by"):
        run(tmp_path, config(select_by="cer"))


def test_half_precision_rounds_operations_and_not_what_enters(tmp_path):
    # Cepstra of some hundred decibels would come in steps of two, in training alone.
    model = recognizer()
    entered, left = set(), set()
    model.norm.register_forward_pre_hook(lambda _, given: entered.add(given[0].dtype))
    model.model.head.register_forward_hook(lambda _, __, logits: left.add(logits.dtype))
    settings = config(epochs=1, select="last", precision="bf16-mixed", accelerator="cpu")
    fit(model, examples(), None, settings, objective=OBJECTIVE, seed=1, folder=tmp_path)
    assert entered == {torch.float32}
    assert left == {torch.bfloat16}
