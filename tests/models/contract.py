"""What every model must keep to; used by the tests of ours and of the documentation's.

A model is a module built from a frozen config with ``n_features`` and ``n_classes``, whose
``forward(features, n_frames)`` returns a dict of named outputs. Some read text as well, as
``text`` and ``n_text``.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from serkit.models import MODELS, build_model, model_to_dict
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer

N_FEATURES, N_CLASSES = 39, 7  # of timnet-code and EMO-DB
N_TEXT_FEATURES = 24

Batch = dict[str, Tensor]

N_MELS = 10

# Settings with which a model is small enough for these tests, and gives one row per utterance.
SMALL: dict[str, dict[str, Any]] = {
    "decomposed": {
        "sizes": {
            "n_mels": N_MELS,
            "n_f0_bins": 32,
            "content_width": 32,
            "rhythm_width": 16,
            "pitch_width": 16,
            "timbre_width": 16,
            "n_timbre": 8,
        },
        "reconstruct": False,
    },
    "mmer": {"n_text_features": N_TEXT_FEATURES, "width": 32, "n_heads": 4, "n_symbols": None},
}

# Models that read text, and settings with which they do without.
READ_TEXT: dict[str, dict[str, Any]] = {"mmer": {"streams": "speech"}}

# Models that read mel and F0 beside the features, and settings with which they do without.
READ_PARTS: dict[str, dict[str, Any]] = {"decomposed": {"decomposition": "none"}}

# Settings with which a model that is slow to train shows within the time of a test that it learns.
MEMORIZING: dict[str, dict[str, Any]] = {"light_sernet_port": {"dropout": 0.0}}


def build(name: str, **settings: Any) -> nn.Module:
    """Build a model with weights that depend on nothing but its settings."""
    torch.manual_seed(0)
    given = {"n_features": N_FEATURES, "n_classes": N_CLASSES} | SMALL.get(name, {})
    return build_model(name, given | settings)


def random_sequences(lengths: list[int], width: int, generator: torch.Generator) -> Tensor:
    """Draw sequences, ``(batch, length, width)`` with zeros as padding."""
    sequences = torch.randn(len(lengths), max(lengths), width, generator=generator)
    for row, n in zip(sequences, lengths, strict=True):
        row[n:] = 0
    return sequences


def random_batch(name: str, n_frames: list[int]) -> Batch:
    """Draw what a model reads: features, their lengths, and text for models that read it."""
    generator = torch.Generator().manual_seed(0)
    features = random_sequences(n_frames, N_FEATURES, generator)
    batch = {"features": features, "n_frames": torch.tensor(n_frames)}
    if name in READ_TEXT:
        n_text = [1 + (3 * i) % 5 for i in range(len(n_frames))]
        text = random_sequences(n_text, N_TEXT_FEATURES, generator)
        batch |= {"text": text, "n_text": torch.tensor(n_text)}
    if name in READ_PARTS:
        n_parts = [1 + (7 * n) % 40 for n in n_frames]
        parts = random_sequences(n_parts, N_MELS + 1, generator)
        batch |= {"parts": parts, "n_parts": torch.tensor(n_parts)}
    return batch


@torch.no_grad()
def evaluate(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Run a model in evaluation mode."""
    outputs: dict[str, Tensor] = model.eval()(**batch)
    return outputs


def assert_header(name: str) -> None:
    """The module's page says where the model is from and how large it is."""
    torch.manual_seed(0)
    model = build_model(name, {"n_features": N_FEATURES, "n_classes": N_CLASSES})
    page = sys.modules[type(model).__module__].__doc__
    assert page, "the file begins with a docstring"
    assert len(page.split()) > 30, "the docstring says where the model comes from"
    statistics = sum(b.numel() for key, b in model.named_buffers() if "running_" in key)
    count = sum(p.numel() for p in model.parameters()) + statistics
    assert f"{count:,}" in page, (
        f"the docstring gives the number of parameters (with batch-norm statistics) for "
        f"{N_FEATURES} features and {N_CLASSES} classes: {count:,}"
    )


def assert_config_survives(name: str) -> None:
    """Config -> dict -> JSON -> config gives the same model; unknown settings are refused."""
    model = build(name)
    assert is_dataclass(MODELS[name][1])
    settings = json.loads(json.dumps(model_to_dict(model)))
    assert settings["n_features"] == N_FEATURES
    assert settings["n_classes"] == N_CLASSES
    again = build_model(name, settings)
    assert again.config == model.config
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in again.state_dict().items()} == shapes


def assert_outputs(name: str) -> None:
    """``emotion`` holds finite logits of the right shape, down to a single frame."""
    for n_frames in ([9, 4, 7], [1], [1, 1, 1], [200, 1]):
        for n_classes in (2, N_CLASSES):
            model = build(name, n_classes=n_classes)
            for outputs in (
                evaluate(model, random_batch(name, n_frames)),
                # Batch statistics of a single frame do not exist.
                model.train()(**random_batch(name, n_frames)) if sum(n_frames) > 1 else None,
            ):
                if outputs is None:
                    continue
                assert outputs["emotion"].shape == (len(n_frames), n_classes)
                for key, output in outputs.items():
                    assert len(output) == len(n_frames), key
                    assert torch.isfinite(output).all(), key


def assert_every_parameter_learns(name: str) -> None:
    """Every parameter, and the input, get a finite gradient, also from utterances of one frame.

    The one exception is a parameter that cancels in training, as the bias of a convolution right
    before a batch norm does: it may go without a gradient, if moving it changes the outputs of
    evaluation (it is used) and none of training (it cancels).
    """
    model = build(name)
    batch = random_batch(name, [12, 1, 9, 1, 5])
    sequences = [value.requires_grad_() for value in batch.values() if value.is_floating_point()]

    def train() -> dict[str, Tensor]:
        torch.manual_seed(1)  # the same dropout
        outputs: dict[str, Tensor] = model.train()(**batch)
        return outputs

    evaluated = evaluate(model, batch)
    saved = copy.deepcopy(model.state_dict())
    trained = train()
    loss = sum(output.square().mean() for output in trained.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    for sequence in sequences:  # a front end may be trained as well
        assert sequence.grad is not None
        assert torch.isfinite(sequence.grad).all(), "the gradient of the features is not finite"
    for key, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert torch.isfinite(parameter.grad).all(), key
            continue
        model.load_state_dict(saved)
        with torch.no_grad():
            parameter += 0.5
            moved = evaluate(model, batch)
            assert any((moved[k] != evaluated[k]).any() for k in moved), f"{key} is never used"
            for output, expected in zip(train().values(), trained.values(), strict=True):
                torch.testing.assert_close(
                    output, expected, rtol=1e-4, atol=1e-4, msg=f"{key} has no gradient"
                )


def assert_padding_is_inert(name: str) -> None:
    """More padding changes nothing in evaluation."""
    model = build(name)
    batch = random_batch(name, [12, 30, 1, 25])
    expected = evaluate(model, batch)
    for more in (1, 70):
        padded = {
            key: F.pad(value, (0, 0, 0, more)) if value.is_floating_point() else value
            for key, value in batch.items()
        }
        for key, output in evaluate(model, padded).items():
            torch.testing.assert_close(output, expected[key], rtol=1e-4, atol=1e-5, msg=key)


def assert_batch_is_inert(name: str) -> None:
    """An utterance gets the same scores alone and in company, wherever it stands."""
    model = build(name)
    batch = random_batch(name, [12, 30, 1, 25])
    together = evaluate(model, batch)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = evaluate(model, {key: value[order] for key, value in batch.items()})
    for key, output in together.items():
        torch.testing.assert_close(shuffled[key], output[order], rtol=1e-4, atol=1e-5, msg=key)
        for row, n in enumerate(batch["n_frames"].tolist()):
            one = {part: value[row : row + 1] for part, value in batch.items()}
            alone = evaluate(model, one | {"features": one["features"][:, :n]})[key]
            torch.testing.assert_close(alone[0], output[row], rtol=1e-4, atol=1e-5, msg=key)


def assert_checkpoint_survives(name: str, folder: Path) -> None:
    """Saved and loaded as part of a recognizer, a trained model gives the same logits."""
    torch.manual_seed(0)
    recognizer = Recognizer(
        RecognizerConfig(
            system=name,
            classes=("angry", "happy", "sad"),
            view={"kind": "whole"},
            front_end={"name": "mfcc", "preset": "timnet-code"},
            model={"name": name}
            | READ_TEXT.get(name, {})
            | READ_PARTS.get(name, {})
            | SMALL.get(name, {}),
        )
    )
    batch = random_batch(name, [12, 30, 1, 25])
    recognizer.train()(batch)  # moves batch-norm statistics, so that these are checked too
    with torch.no_grad():
        for parameter in recognizer.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    expected = evaluate_recognizer(recognizer, batch)
    loaded = load_recognizer(recognizer.save(folder / "checkpoint"))
    assert loaded.model.config == recognizer.model.config
    for key, output in evaluate_recognizer(loaded, batch).items():
        assert torch.equal(output, expected[key]), key


@torch.no_grad()
def evaluate_recognizer(recognizer: Recognizer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a recognizer in evaluation mode."""
    return recognizer.eval()(batch)


def assert_memorizes(name: str, *, n_steps: int = 100) -> None:
    """Eight utterances with random labels are learnt by heart within a hundred steps."""
    model = build(name, **MEMORIZING.get(name, {}))
    batch = random_batch(name, [12, 15, 8, 18, 12, 10, 15, 11])
    labels = torch.arange(8) % N_CLASSES
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(**batch)["emotion"], labels)
        if loss.item() < 0.05:
            return
        loss.backward()
        optimizer.step()
    raise AssertionError(f"loss {loss.item():.2f} after {n_steps} steps on eight utterances")


def assert_contract(name: str, folder: Path) -> None:
    """All of the above, in a folder of its own."""
    assert_header(name)
    assert_config_survives(name)
    assert_outputs(name)
    assert_every_parameter_learns(name)
    assert_padding_is_inert(name)
    assert_batch_is_inert(name)
    assert_memorizes(name)
    assert_checkpoint_survives(name, folder)
