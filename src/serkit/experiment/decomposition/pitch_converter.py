"""A trained F0 converter: the melody of one utterance in the rhythm of another.

On disk it is a folder, as that of a decomposition; see :mod:`.decomposition.model`.

What an utterance says, and how, with the melody of another, is the work of both: the converter
places the melody, the decomposition says the utterance again with it::

    parts = decomposition.extract(waveform, 16_000)
    other = decomposition.extract(other_waveform, 16_000)
    mel = decomposition.reconstruct(converter.impose(parts, other))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serkit.audio import Waveform
from serkit.experiment.decomposition.model import (
    build_parts_front_end,
    extract_parts,
    read_checkpoint,
    write_parts_checkpoint,
)
from serkit.features.speech_parts import SpeechParts
from serkit.models.layers import build_in_bounds
from serkit.models.speech_split import F0Converter, F0ConverterConfig
from serkit.settings import checked
from serkit.types import InputError

__all__ = ["PitchConverter", "load_pitch_converter"]

_TASK = "pitch_converter"


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchConverter:
    """Two utterances in, the pitch of one in the rhythm of the other out.

    Attributes
    ----------
    front_end
        Waveform to spectrogram and pitch. Pitch is scaled by the utterance's own mean and spread,
        so a melody goes up and down, and is neither high nor low.
    network
        See :class:`.F0Converter`.
    trained_on
        Corpora, speakers as ``[corpus, speaker]``, licence, fingerprint.
    """

    front_end: SpeechParts
    network: F0Converter
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def extract(self, waveform: Waveform, sample_rate: int) -> Tensor:
        """Compute spectrogram and pitch of a mono waveform, ``(n_frames, n_mels + 1)``."""
        return extract_parts(self.front_end, waveform, sample_rate)

    @torch.inference_mode()
    def convert(self, parts: Tensor, other: Tensor) -> Tensor:
        """Say the pitch of another utterance in the rhythm of this one.

        Parameters
        ----------
        parts : (n_frames, n_mels + 1), of :meth:`extract`; its mel gives the rhythm
        other : (n_other, n_mels + 1), its pitch gives the melody; cut off, or followed by silence,
            where the lengths differ

        Returns
        -------
        f0 : (n_frames,), in (0, 1] where voiced, -1 elsewhere

        Raises
        ------
        InputError
            If columns are missing.
        """
        n_columns = self.front_end.config.n_features
        for each in (parts, other):
            if each.ndim != 2 or each.shape[1] != n_columns:
                raise InputError(
                    f"parts of shape {tuple(each.shape)}, expected (n_frames, {n_columns}), as "
                    "extract() gives them"
                )
        n_frames = len(parts)
        read = parts.clone()
        read[:, -1] = -1.0
        n_shared = min(n_frames, len(other))
        read[:n_shared, -1] = other[:n_shared, -1]
        self.network.eval()
        logits = self.network(read.unsqueeze(0), torch.tensor([n_frames]))["f0"]
        bins = logits[0].argmax(1)
        # The middle of a bin; that of the lowest is 0, which would be unvoiced.
        n_bins = self.network.config.sizes.n_f0_bins
        f0: Tensor = ((bins - 1) / (n_bins - 1)).clamp_min(0.25 / (n_bins - 1))
        return f0.masked_fill(bins == 0, -1.0)

    def impose(self, parts: Tensor, other: Tensor) -> Tensor:
        """Give an utterance the pitch of another one, (n_frames, n_mels + 1); see :meth:`convert`.

        The mel stays as it is: what to hear is what a decomposition makes of it.
        """
        return torch.cat([parts[:, :-1], self.convert(parts, other).unsqueeze(1)], dim=1)

    def save(self, folder: Path, *, card: str) -> Path:
        """Write the checkpoint into a folder."""
        return write_parts_checkpoint(
            folder,
            _TASK,
            front_end=self.front_end,
            network=self.network,
            settings={"trained_on": dict(self.trained_on)},
            card=card,
        )


def load_pitch_converter(folder: Path | str) -> PitchConverter:
    """Load a trained F0 converter from its checkpoint, or from a run folder with one.

    Raises
    ------
    InputError
        If there is none, or its files are damaged or do not fit each other.
    """

    def build(saved: Mapping[str, Any], weights: Mapping[str, Tensor]) -> PitchConverter:
        settings = checked(F0ConverterConfig, saved["model"], where="model")
        network = build_in_bounds(F0Converter, settings)
        network.load_state_dict(weights)
        return PitchConverter(
            front_end=build_parts_front_end(saved["front_end"]),
            network=network.eval(),
            trained_on=saved["trained_on"],
        )

    return read_checkpoint(folder, _TASK, build)
