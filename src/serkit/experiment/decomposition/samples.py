"""Utterances to look at and listen to: what a decomposition says of them, whole and in parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from serkit.evaluation.reconstruction import (
    contours_png,
    envelope_correlation,
    panels_png,
    pitch_kept,
    shape_correlation,
)
from serkit.evaluation.reconstruction_report import AUDIO_FOLDER, sample_name
from serkit.experiment.decomposition.model import Decomposition
from serkit.experiment.decomposition.pitch_converter import PitchConverter
from serkit.features.pitch import track_f0
from serkit.files import replacing, write_atomically
from serkit.models.speech_split import CODES
from serkit.training.data import Examples
from serkit.training.f0_converter import contour_seed, resampled_contour

__all__ = ["draw_contours", "draw_samples", "reconstructions"]

_MIN_FRAMES = 16  # a quarter of a second


def draw_samples(
    decomposition: Decomposition,
    examples: Examples,
    *,
    n_samples: int,
    out: Path,
    on_sample: Callable[[int], None],
    converter: PitchConverter | None = None,
) -> list[dict[str, Any]]:
    """Write pictures and sounds of the first utterances that are long enough.

    Parameters
    ----------
    converter
        By which each utterance is said with the pitch of the next one as well.

    Returns
    -------
    samples
        Of each: ``id``, and ``panels`` with ``name``, ``mse``, ``envelope`` (see
        :func:`.envelope_correlation`), ``shape`` (:func:`.shape_correlation`), ``pitch`` and
        ``pitch_spread`` (:func:`.pitch_kept`); with a converter ``pitch_of``, the id of the next
        one.
    """
    rows = _long_enough(examples)[:n_samples]
    (out / AUDIO_FOLDER).mkdir(exist_ok=True)
    samples = []
    for done, row in enumerate(rows, start=1):
        identity, parts, speaker = _utterance(examples, row)
        panels = reconstructions(decomposition, parts, speaker=speaker)
        sample: dict[str, Any] = {"id": identity}
        if converter is not None and len(rows) > 1:
            sample["pitch_of"], other, _ = _utterance(examples, rows[done % len(rows)])
            mel = decomposition.reconstruct(converter.impose(parts, other), speaker=speaker)
            panels["other-pitch"] = mel.clamp(0, 1)
        name = sample_name(identity)
        samples.append(sample | {"panels": _measure(decomposition, panels, out, name)})
        settings = decomposition.front_end.config
        picture = panels_png(
            {panel: mel.numpy() for panel, mel in panels.items()},
            seconds_per_frame=settings.hop_length / settings.sample_rate,
            title=identity,
        )
        write_atomically(out / f"reconstruction-{name}.png", picture)
        on_sample(done)
    return samples


def draw_contours(
    converter: PitchConverter,
    examples: Examples,
    *,
    n_samples: int,
    out: Path,
    on_sample: Callable[[int], None],
) -> list[dict[str, Any]]:
    """Write pictures of what a converter makes of the first utterances that are long enough.

    Each shows the true contour, the resampled one that is read, and what is said.

    Returns
    -------
    samples
        Of each ``id``, and no ``panels``: there is nothing to be heard.
    """
    settings, sizes = converter.front_end.config, converter.network.config.sizes
    rows = _long_enough(examples)[:n_samples]
    for done, row in enumerate(rows, start=1):
        identity, parts, _ = _utterance(examples, row)
        read = parts.clone()
        read[:, -1] = resampled_contour(parts[:, -1], sizes, seed=contour_seed(identity))
        contours = {
            "truth": parts[:, -1],
            "read": read[:, -1],
            "said": converter.convert(parts, read),
        }
        picture = contours_png(
            {name: contour.numpy() for name, contour in contours.items()},
            seconds_per_frame=settings.hop_length / settings.sample_rate,
            title=identity,
        )
        write_atomically(out / f"reconstruction-{sample_name(identity)}.png", picture)
        on_sample(done)
    return [{"id": examples.ids[row], "panels": []} for row in rows]


def _long_enough(examples: Examples) -> list[int]:
    return [row for row, n in enumerate(examples.lengths().tolist()) if n >= _MIN_FRAMES]


def _utterance(examples: Examples, row: int) -> tuple[str, Tensor, int]:
    """Give id, parts (n_frames, n_mels + 1) and number of the speaker."""
    batch = examples.batch(torch.tensor([row]))
    return examples.ids[row], batch["features"][0], int(batch["speaker"][0])


def reconstructions(
    decomposition: Decomposition, parts: Tensor, *, speaker: int = -100
) -> dict[str, Tensor]:
    """Give the spectrogram of an utterance as it is, as it is said again, and without each code.

    Parameters
    ----------
    parts : (n_frames, n_mels + 1)

    Returns
    -------
    mels
        ``truth``, ``full``, ``no-content``, ``no-rhythm``, ``no-pitch`` or ``no-joint``, as there
        are codes: (n_frames, n_mels) each, in [0, 1].
    """
    streams = decomposition.split.config.streams
    n_mels = decomposition.split.config.sizes.n_mels
    said = {"full": decomposition.reconstruct(parts, speaker=speaker)} | {
        f"no-{code}": decomposition.reconstruct(parts, without=(code,), speaker=speaker)
        for code in CODES
        if code in streams
    }
    mels = {"truth": parts[:, :n_mels]} | said
    return {name: mel.clamp(0, 1) for name, mel in mels.items()}


def _measure(
    decomposition: Decomposition, panels: dict[str, Tensor], out: Path, name: str
) -> list[dict[str, Any]]:
    """Write the sound of each panel and say how near it is to the truth."""
    truth = panels["truth"].numpy()
    true_f0: NDArray[np.float64] | None = None
    measured = []
    for panel, mel in panels.items():
        sound = decomposition.to_sound(mel)
        f0 = _pitch(decomposition, sound)
        true_f0 = f0 if true_f0 is None else true_f0
        correlation, spread = pitch_kept(true_f0, f0)
        measured.append(
            {
                "name": panel,
                "mse": float(np.square(mel.numpy() - truth).mean()),
                "envelope": envelope_correlation(truth, mel.numpy()),
                "shape": shape_correlation(truth, mel.numpy()),
                "pitch": correlation,
                "pitch_spread": spread,
            }
        )
        with replacing(out / AUDIO_FOLDER / f"{name}-{panel}.wav") as part:
            rate = decomposition.front_end.config.sample_rate
            soundfile.write(part, sound, rate, format="WAV", subtype="PCM_16")
    return measured


def _pitch(decomposition: Decomposition, sound: NDArray[np.float32]) -> NDArray[np.float64]:
    settings = decomposition.front_end.config
    return track_f0(
        sound.astype(np.float64),
        settings.sample_rate,
        f_min_hz=settings.f0_min_hz,
        f_max_hz=settings.f0_max_hz,
        hop_length=settings.hop_length,
        tracker=settings.f0_tracker,
    )
