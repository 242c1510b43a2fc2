"""A trained decomposition of speech: front end and network in one object, and its checkpoint.

On disk it is a folder: ``config.json``, ``model.safetensors`` and a card, ``README.md``. Nothing is
ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from serkit.audio import Waveform, resample
from serkit.checkpoints import (
    WEIGHTS_FILE,
    find_checkpoint,
    read_checkpoint_config,
    write_checkpoint,
)
from serkit.features import build_front_end, front_end_to_dict
from serkit.features.resynthesis import mel_to_sound
from serkit.features.speech_parts import SpeechParts
from serkit.models.layers import build_in_bounds
from serkit.models.speech_split import F0Converter, SpeechSplit, SpeechSplitConfig
from serkit.settings import checked
from serkit.types import InputError, MissingExtraError

__all__ = [
    "FRONT_END",
    "Decomposition",
    "build_parts_front_end",
    "extract_parts",
    "load_decomposition",
    "read_checkpoint",
    "write_parts_checkpoint",
]

Built = TypeVar("Built")

FORMAT = 1  # of config.json; raised when an older serkit could misread a newer checkpoint
FRONT_END = "speech_parts"

_TASK = "decomposition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """Speech in, parts out, and speech again.

    Attributes
    ----------
    front_end
        Waveform to spectrogram and pitch.
    split
        Encoders and decoder.
    speakers
        Whom a network with numbered speakers (``timbre = "one_hot"``) knows, in their order.
    trained_on
        Corpora, speakers as ``[corpus, speaker]``, licence, fingerprint.
    """

    front_end: SpeechParts
    split: SpeechSplit
    speakers: tuple[str, ...] = ()
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    def extract(self, waveform: Waveform, sample_rate: int) -> Tensor:
        """Compute spectrogram and pitch of a mono waveform, ``(n_frames, n_mels + 1)``."""
        return extract_parts(self.front_end, waveform, sample_rate)

    def number_of(self, speaker: str) -> int:
        """Give the number of a speaker, -100 for strangers."""
        return self.speakers.index(speaker) if speaker in self.speakers else -100

    @torch.inference_mode()
    def reconstruct(
        self, parts: Tensor, *, without: Collection[str] = (), speaker: int = -100
    ) -> Tensor:
        """Say an utterance again while some encoders read zeros.

        Parameters
        ----------
        parts : (n_frames, n_mels + 1), of :meth:`extract`
        without
            Names of streams; see :meth:`.SpeechSplit.reconstruct`.
        speaker
            For a network with numbered speakers.

        Returns
        -------
        mel : (n_frames, n_mels)
        """
        self.split.eval()
        batch = parts.unsqueeze(0), torch.tensor([len(parts)]), torch.tensor([speaker])
        return self.split.reconstruct(*batch, without=without)[0]

    @torch.inference_mode()
    def swap(
        self,
        parts: Tensor,
        other: Tensor,
        *,
        taken: Collection[str],
        speaker: int = -100,
        other_speaker: int = -100,
    ) -> Tensor:
        """Say an utterance with some streams of another one.

        The shorter of the two is lengthened by silence. Nothing aligns them: it sounds best where
        both say the same words, and pitch fits only the rhythm it was taken with;
        :class:`.PitchConverter` fits it to another.

        Parameters
        ----------
        parts, other : (n_frames, n_mels + 1), of :meth:`extract`, of any lengths
        taken
            Streams of the other, such as ``{"rhythm", "pitch", "timbre"}``.
        speaker, other_speaker
            For a network with numbered speakers.

        Returns
        -------
        mel : (frames of the longer one, n_mels)

        Raises
        ------
        InputError
            If the network has no such stream.
        """
        streams = self.split.config.streams
        unknown = sorted(set(taken) - set(streams))
        if unknown:
            raise InputError(f"taken '{unknown[0]}': no such stream; known: {', '.join(streams)}")
        self.split.eval()
        n_frames = max(len(parts), len(other))
        both = parts.new_zeros(2, n_frames, parts.shape[1])
        both[..., -1] = -1.0  # unvoiced
        both[0, : len(parts)], both[1, : len(other)] = parts, other
        codes = self.split.decomposer(
            both, torch.tensor([n_frames] * 2), torch.tensor([speaker, other_speaker])
        )
        mixed = {stream: code[int(stream in taken)].unsqueeze(0) for stream, code in codes.items()}
        mel: Tensor = self.split.decoder(mixed, torch.tensor([n_frames]), width=n_frames)
        return mel[0]

    def to_sound(self, mel: Tensor) -> NDArray[np.float32]:
        """Resynthesise a spectrogram, ``(n_frames, n_mels) -> (n_samples,)``."""
        return mel_to_sound(mel.numpy(), self.front_end.config)

    def save(self, folder: Path, *, card: str) -> Path:
        """Write the checkpoint into a folder."""
        return write_parts_checkpoint(
            folder,
            _TASK,
            front_end=self.front_end,
            network=self.split,
            settings={"speakers": list(self.speakers), "trained_on": dict(self.trained_on)},
            card=card,
        )


def build_parts_front_end(settings: Mapping[str, Any]) -> SpeechParts:
    """Build the front end of a decomposition.

    Raises
    ------
    InputError
        If the settings are not those of ``speech_parts``.
    """
    given = dict(settings)
    name = given.pop("name", None)
    if name != FRONT_END:
        raise InputError(
            f"front_end.name is {name!r}: a decomposition is of the front end '{FRONT_END}', "
            "spectrogram and pitch"
        )
    front_end = build_front_end(FRONT_END, given)
    assert isinstance(front_end, SpeechParts)
    return front_end


def extract_parts(front_end: SpeechParts, waveform: Waveform, sample_rate: int) -> Tensor:
    """Compute spectrogram and pitch of a mono waveform, ``(n_frames, n_mels + 1)``."""
    rate = front_end.config.sample_rate
    samples = torch.from_numpy(resample(waveform, sample_rate, rate)).unsqueeze(0)
    with torch.inference_mode():
        parts: Tensor = front_end(samples, torch.tensor([samples.shape[1]]))[0]
    return parts[0]


def load_decomposition(folder: Path | str) -> Decomposition:
    """Load a trained decomposition from its checkpoint, or from a run folder with one.

    Raises
    ------
    InputError
        If there is none, or its files are damaged or do not fit each other.
    """

    def build(saved: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Decomposition:
        settings = checked(SpeechSplitConfig, saved["model"], where="model")
        split = build_in_bounds(SpeechSplit, settings)
        split.load_state_dict(weights)
        return Decomposition(
            front_end=build_parts_front_end(saved["front_end"]),
            split=split.eval(),
            speakers=tuple(saved["speakers"]),
            trained_on=saved["trained_on"],
        )

    return read_checkpoint(folder, _TASK, build)


def write_parts_checkpoint(
    folder: Path,
    task: str,
    *,
    front_end: SpeechParts,
    network: SpeechSplit | F0Converter,
    settings: Mapping[str, Any],
    card: str,
) -> Path:
    """Write the checkpoint of a network that reads parts of speech.

    Parameters
    ----------
    task
        What it is of; :func:`read_checkpoint` refuses others.
    settings
        What the caller wants back beside front end and network.
    """
    config = {
        "format": FORMAT,
        "task": task,
        "front_end": {"name": FRONT_END} | front_end_to_dict(front_end),
        "model": asdict(network.config),
        "n_parameters": sum(p.numel() for p in network.parameters()),
        **settings,
    }
    return write_checkpoint(folder, config=config, weights=network.state_dict(), card=card)


def read_checkpoint(
    folder: Path | str,
    task: str,
    build: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Built],
) -> Built:
    """Read what :func:`write_parts_checkpoint` wrote, from its folder or from that of its run.

    Parameters
    ----------
    build
        Makes the object of the stored settings and weights.

    Raises
    ------
    InputError
        If there is none, it is of another task, or its files are damaged or do not fit each other.
    MissingExtraError
        If its pitch tracker's package is not installed.
    """
    home = find_checkpoint(folder, task)
    saved = read_checkpoint_config(home, task, version=FORMAT)
    try:
        return build(saved, load_file(home / WEIGHTS_FILE))
    except MissingExtraError:
        raise
    except (InputError, SafetensorError, OSError, RuntimeError, KeyError, TypeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{home}: damaged or incomplete checkpoint ({detail})") from None
