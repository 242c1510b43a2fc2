"""A trained decomposition of speech: front end and network in one object, and its checkpoint.

On disk it is a folder: ``config.json``, ``model.safetensors`` and a card, ``README.md``. Nothing is
ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from serkit.audio import Waveform, resample
from serkit.checkpoints import CONFIG_FILE, WEIGHTS_FILE, write_checkpoint
from serkit.features import build_front_end, front_end_to_dict
from serkit.features.resynthesis import mel_to_sound
from serkit.features.speech_parts import SpeechParts
from serkit.models.speech_split import SpeechSplit, SpeechSplitConfig
from serkit.settings import checked
from serkit.types import InputError

__all__ = ["FRONT_END", "Decomposition", "build_parts_front_end", "load_decomposition"]

FORMAT = 1  # of config.json; raised when an older serkit could misread a newer checkpoint
FRONT_END = "speech_parts"


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

    @torch.inference_mode()
    def extract(self, waveform: Waveform, sample_rate: int) -> Tensor:
        """Compute spectrogram and pitch of a mono waveform, ``(n_frames, n_mels + 1)``."""
        rate = self.front_end.config.sample_rate
        samples = torch.from_numpy(resample(waveform, sample_rate, rate)).unsqueeze(0)
        parts: Tensor = self.front_end(samples, torch.tensor([samples.shape[1]]))[0]
        return parts[0]

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
        both say the same words, and pitch fits only the rhythm it was taken with.

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
        config = {
            "format": FORMAT,
            "task": "decomposition",
            "front_end": {"name": FRONT_END} | front_end_to_dict(self.front_end),
            "model": asdict(self.split.config),
            "n_parameters": sum(p.numel() for p in self.split.parameters()),
            "speakers": list(self.speakers),
            "trained_on": dict(self.trained_on),
        }
        return write_checkpoint(folder, config=config, weights=self.split.state_dict(), card=card)


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


def load_decomposition(folder: Path | str) -> Decomposition:
    """Load a trained decomposition from its checkpoint, or from a run folder with one.

    Raises
    ------
    InputError
        If there is none, or its files are damaged or do not fit each other.
    """
    given = Path(folder)
    home = given / "model" if (given / "model" / CONFIG_FILE).is_file() else given
    try:
        saved = json.loads((home / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{given}: no trained decomposition ({error}): give the folder of a run of 'serkit "
            "train speech_split/...', or folds/NAME in it where each fold has its own"
        ) from None
    if not isinstance(saved, dict) or saved.get("task") != "decomposition":
        raise InputError(f"{home / CONFIG_FILE}: is not of a decomposition")
    if saved.get("format") != FORMAT:
        raise InputError(
            f"{home / CONFIG_FILE}: checkpoint format {saved.get('format')!r}, expected {FORMAT}: "
            "one of another version of serkit"
        )
    try:
        split = SpeechSplit(checked(SpeechSplitConfig, saved["model"], where="model"))
        front_end = build_parts_front_end(saved["front_end"])
        split.load_state_dict(load_file(home / WEIGHTS_FILE))
        speakers, trained_on = tuple(saved["speakers"]), saved["trained_on"]
    except (InputError, SafetensorError, OSError, RuntimeError, KeyError, TypeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{home}: damaged or incomplete checkpoint ({detail})") from None
    return Decomposition(
        front_end=front_end, split=split.eval(), speakers=speakers, trained_on=trained_on
    )
