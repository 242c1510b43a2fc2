"""A speech recogniser: front end, network and symbols in one object.

What :mod:`serkit.recognizer` is for emotion, this is for words: what is trained, saved, loaded and
used, with :meth:`SpeechRecogniser.forward` as the only path from features to symbols. On disk it is
a folder: ``config.json`` with ``task = "transcription"``, ``model.safetensors`` and ``README.md``.
Nothing is ever unpickled.

Recordings that are longer than :data:`LONGEST_S` are cut where nobody speaks, and the texts joined.
Where nobody speaks at all, the text is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from serkit.audio import Waveform, resample
from serkit.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_checkpoint,
    load_tensors,
    read_checkpoint_config,
    write_checkpoint,
)
from serkit.features.fbank import FBANK_PRESETS, Fbank, FbankConfig
from serkit.features.voice_activity import speech_stretches
from serkit.models.asr import asr_model_to_dict, build_asr_model
from serkit.models.conformer_ctc import Conformer
from serkit.models.ctc_decode import Segment, beam_decode, greedy_decode
from serkit.models.deepspeech2 import DeepSpeech2
from serkit.settings import checked
from serkit.transcripts import CtcStyle, Symbols
from serkit.types import InputError

__all__ = [
    "LONGEST_S",
    "Decoding",
    "Heard",
    "SpeechRecogniser",
    "SpeechRecogniserConfig",
    "build_fbank",
    "load_matching",
    "load_speech_recogniser",
]

Decoding = Literal["greedy", "beam"]

FORMAT = 1  # of config.json; raised when an older serkit could misread a newer checkpoint
TASK = "transcription"

LONGEST_S = 20.0  # of what is recognised at once; the longest that is trained on by default
_AT_ONCE = 8  # stretches of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechRecogniserConfig:
    """All that is needed to rebuild a speech recogniser, and where it comes from.

    Attributes
    ----------
    symbols
        The first is the blank. Where the network has an attention decoder, the last one begins and
        ends every transcript.
    front_end
        ``preset`` of :data:`serkit.features.fbank.FBANK_PRESETS`, and settings that differ.
    model
        ``name``, and settings of the network; its numbers of features and symbols follow from the
        others.
    style
        How transcripts were cleaned; see :func:`serkit.transcripts.ctc_clean`.
    augment
        What was made different in training, entry by entry.
    """

    system: str
    symbols: tuple[str, ...]
    front_end: Mapping[str, Any] = field(default_factory=lambda: {"preset": "asr"})
    model: Mapping[str, Any] = field(default_factory=lambda: {"name": "conformer"})
    unknown: Literal["drop", "<unk>"] = "drop"
    style: CtcStyle = "spoken"
    augment: tuple[Mapping[str, Any], ...] = ()
    trained_on: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard in a recording.

    Attributes
    ----------
    segments
        Words, or characters where the symbols know no end of a word; none of beam search, which
        sums over all timings.
    confidence
        Greedy: mean probability of the frames that spell something, in [0, 1]; none if none do.
        Beam: probability of the text, per symbol.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    confidence: float | None = None


def build_fbank(settings: Mapping[str, Any]) -> Fbank:
    """Build a front end from a preset and what differs from it.

    Raises
    ------
    InputError
        If the preset or a setting is unknown, or a value is of the wrong kind.
    """
    settings = dict(settings)
    preset = settings.pop("preset", "asr")
    if preset not in FBANK_PRESETS:
        raise InputError(
            f"front_end.preset is '{preset}', expected one of {', '.join(FBANK_PRESETS)}"
        )
    values = asdict(FBANK_PRESETS[preset]) | settings
    return Fbank(checked(FbankConfig, values, where="front_end"))


class SpeechRecogniser(nn.Module):
    """Front end, network and symbols; see the module's page.

    Parameters
    ----------
    config
        See :class:`SpeechRecogniserConfig`.

    Raises
    ------
    InputError
        If settings are unknown or contradict each other.
    """

    def __init__(self, config: SpeechRecogniserConfig) -> None:
        super().__init__()
        self.config = config
        self.symbols = Symbols(config.symbols, config.unknown)
        self.front_end = build_fbank(config.front_end)
        settings = dict(config.model)
        name = str(settings.pop("name", "conformer"))
        for key, value in (
            ("n_features", self.front_end.config.n_features),
            ("n_symbols", len(self.symbols)),
        ):
            if settings.setdefault(key, value) != value:
                raise InputError(
                    f"model.{key} is {settings[key]}, and the front end and the symbols make it "
                    f"{value}: leave it out"
                )
        self.model_name = name
        self.model = build_asr_model(name, settings)
        if self.has_decoder and len(config.symbols[-1]) == 1:
            raise InputError(
                f"symbols end with '{config.symbols[-1]}', and the attention decoder needs a last "
                "one that stands for no character, such as '<eos>': add it"
            )

    @property
    def sample_rate(self) -> int:
        """Rate of the sound that is recognised, in Hz."""
        return self.front_end.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames of features per second."""
        return self.sample_rate / self.front_end.config.hop_length

    @property
    def n_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def has_decoder(self) -> bool:
        """Whether an attention decoder is trained beside CTC."""
        return isinstance(self.model, Conformer) and self.model.decoder is not None

    def trained_state(self) -> dict[str, Tensor]:
        """Give what training can change, and the statistics of the features."""
        return self.state_dict()

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`trained_state` gave."""
        self.load_state_dict(dict(state))

    def trained_encoders(self) -> Sequence[Any]:
        """Give its pre-trained encoders: none."""
        return ()

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map a batch of features to the network's named outputs.

        Parameters
        ----------
        batch
            ``features`` (batch, n_frames, n_features) and ``n_frames`` (batch,), as the front end
            gives them; ``tokens`` and ``n_tokens`` where a decoder is to be trained.

        Returns
        -------
        outputs : ``asr`` (batch, n_encoded, n_symbols), logits, and ``n_asr`` (batch,); see
            :mod:`serkit.models.asr`
        """
        if isinstance(self.model, Conformer):
            return self.model(  # type: ignore[no-any-return]
                batch["features"], batch["n_frames"], batch.get("tokens"), batch.get("n_tokens")
            )
        outputs: dict[str, Tensor] = self.model(batch["features"], batch["n_frames"])
        return outputs

    def read(
        self, logits: Tensor, n_frames: Tensor, seconds: Sequence[float], *, decoding: Decoding
    ) -> list[Heard]:
        """Read what the network's frames spell.

        Parameters
        ----------
        logits : (batch, n_encoded, n_symbols)
        n_frames : (batch,)
        seconds
            How long each utterance lasts.
        """
        if decoding == "beam":
            best = [one[0] for one in beam_decode(logits, n_frames, symbols=self.symbols)]
            return [
                Heard(one.text, (), float(np.exp(one.log_prob / max(1, len(one.ids)))))
                if one.ids
                else Heard("")
                for one in best
            ]
        frame_s = self.model.stride / self.frame_rate
        return [
            Heard(one.text, tuple(_within(part, s) for part in one.segments), one.score)
            for one, s in zip(
                greedy_decode(logits, n_frames, symbols=self.symbols, frame_s=frame_s),
                seconds,
                strict=True,
            )
        ]

    @torch.inference_mode()
    def transcribe(
        self, waveforms: Sequence[Waveform], *, decoding: Decoding = "greedy"
    ) -> list[Heard]:
        """Write down what is said.

        Parameters
        ----------
        waveforms : each (n_samples,), mono float32 at the recogniser's own rate, of any length
        decoding
            ``greedy`` or ``beam``.

        Returns
        -------
        heard : one of each; an empty text where nobody speaks

        Raises
        ------
        InputError
            If a waveform is no list of finite numbers, or ``decoding`` is unknown.
        """
        if decoding not in ("greedy", "beam"):
            raise InputError(f"decoding is '{decoding}', expected greedy or beam")
        self.eval()
        pieces: list[tuple[int, int, Waveform]] = []
        for owner, waveform in enumerate(waveforms):
            waveform = _sound(waveform)
            for start, stop in self._stretches(waveform):
                pieces.append((owner, start, waveform[start:stop]))
        heard: list[list[Heard]] = [[] for _ in waveforms]
        for i in range(0, len(pieces), _AT_ONCE):
            group = pieces[i : i + _AT_ONCE]
            texts = self._read_pieces([sound for _, _, sound in group], decoding)
            for (owner, start, _), one in zip(group, texts, strict=True):
                heard[owner].append(_later(one, start / self.sample_rate))
        return [_join(parts, self.symbols) for parts in heard]

    def transcribe_at(
        self, waveform: Waveform, sample_rate: int, *, decoding: Decoding = "greedy"
    ) -> Heard:
        """Write down what is said in a waveform of any rate; see :meth:`transcribe`."""
        sound = _sound(waveform)
        if len(sound):
            sound = resample(sound, sample_rate, self.sample_rate)
        return self.transcribe([sound], decoding=decoding)[0]

    @torch.inference_mode()
    def stream(self, chunks: Iterable[Waveform]) -> Iterator[str]:
        """Recognise sound as it arrives.

        Parameters
        ----------
        chunks : each (n_samples,), mono float32 at the recogniser's own rate; of any length

        Yields
        ------
        text : all that is said so far, after each chunk, and once more at the end, when it is what
            :meth:`transcribe` makes of the whole, uncut

        Raises
        ------
        InputError
            If the network sees whole utterances, or its front end measures their loudness.
        """
        self._refuse_whole()
        self.eval()
        front = self.front_end.config
        sound = np.zeros(0, dtype=np.float32)
        state: Any = None
        logits: list[Tensor] = []
        n_done = 0  # frames that the network has had
        for chunk in chunks:
            sound = np.concatenate([sound, _sound(chunk)])
            n_new = 1 + (len(sound) - front.win_length) // front.hop_length
            if n_new > 0:
                used = front.win_length + (n_new - 1) * front.hop_length
                outputs, state = self._stream(state, self._frames(sound[:used]))
                logits.append(outputs["asr"])
                sound, n_done = sound[n_new * front.hop_length :], n_done + n_new
            yield self._text_of(logits)
        rest = self._frames(sound) if not n_done and np.any(sound) else None
        if n_done or rest is not None:
            if rest is None:
                rest = torch.zeros(1, 0, front.n_features, device=self._placed_on)
            outputs, state = self._stream(state, rest, last=True)
            logits.append(outputs["asr"])
        yield self._text_of(logits)

    def save(self, folder: Path | str, *, card: str = "") -> Path:
        """Write the recogniser into a folder.

        Parameters
        ----------
        card
            Text of the model card.
        """
        folder = Path(folder)
        config = {
            "format": FORMAT,
            "task": TASK,
            "system": self.config.system,
            "sample_rate": self.sample_rate,
            "symbols": list(self.config.symbols),
            "unknown": self.config.unknown,
            "style": self.config.style,
            "front_end": asdict(self.front_end.config),
            "model": {"name": self.model_name} | asr_model_to_dict(self.model),
            "augment": [dict(entry) for entry in self.config.augment],
            "n_parameters": self.n_parameters,
            "trained_on": dict(self.config.trained_on),
        }
        return write_checkpoint(
            folder,
            config=config,
            weights=self.state_dict(),
            card=card or f"# {self.config.system}\n",
        )

    @property
    def _placed_on(self) -> torch.device:
        return next(self.parameters()).device

    def _stretches(self, waveform: Waveform) -> list[tuple[int, int]]:
        """Give what of a waveform is to be recognised; nothing of silence."""
        if not np.any(waveform):
            return []
        if len(waveform) <= LONGEST_S * self.sample_rate:
            return [(0, len(waveform))]
        return speech_stretches(waveform, self.sample_rate, longest_s=LONGEST_S)

    def _read_pieces(self, pieces: Sequence[Waveform], decoding: Decoding) -> list[Heard]:
        n_samples = torch.tensor([len(piece) for piece in pieces])
        padded = torch.zeros(len(pieces), int(n_samples.max()))
        for row, piece in zip(padded, pieces, strict=True):
            row[: len(piece)] = torch.from_numpy(piece)
        features, n_frames = self.front_end(
            padded.to(self._placed_on), n_samples.to(self._placed_on)
        )
        outputs = self({"features": features, "n_frames": n_frames})
        seconds = [len(piece) / self.sample_rate for piece in pieces]
        return self.read(outputs["asr"], outputs["n_asr"], seconds, decoding=decoding)

    def _frames(self, sound: Waveform) -> Tensor:
        waveform = torch.from_numpy(sound).unsqueeze(0).to(self._placed_on)
        features, _ = self.front_end(waveform, torch.tensor([len(sound)], device=self._placed_on))
        frames: Tensor = features
        return frames

    def _stream(
        self, state: Any, frames: Tensor, *, last: bool = False
    ) -> tuple[dict[str, Tensor], Any]:
        assert isinstance(self.model, Conformer | DeepSpeech2)
        return self.model.stream(state, frames, last=last)

    def _text_of(self, logits: list[Tensor]) -> str:
        if not logits:
            return ""
        joined = torch.cat(logits, dim=1)
        n_frames = torch.tensor([joined.shape[1]])
        return greedy_decode(joined, n_frames, symbols=self.symbols)[0].text

    def _refuse_whole(self) -> None:
        """Refuse to stream with what needs the whole utterance."""
        if not isinstance(self.model, Conformer | DeepSpeech2) or not self.model.config.streaming:
            raise InputError(
                f"this {self.model_name} sees whole utterances: train a conformer or deepspeech2 "
                "with model.streaming = true to recognise sound as it arrives"
            )
        front = self.front_end.config
        if front.target_db is not None or front.edge != "snip":
            raise InputError(
                "the front end measures whole utterances (target_db, edge = 'reflect'): train "
                "with front_end.preset = 'kaldi' to recognise sound as it arrives"
            )


def load_speech_recogniser(folder: Path | str) -> SpeechRecogniser:
    """Load a speech recogniser from a checkpoint folder or a run folder.

    Raises
    ------
    InputError
        If there is none, it is of another task, or its files are damaged or do not fit each other.
    """
    folder = find_checkpoint(folder, TASK)
    path = folder / CONFIG_FILE
    saved = read_checkpoint_config(folder, TASK, version=FORMAT)
    known = {one.name for one in fields(SpeechRecogniserConfig)}
    try:
        config = checked(
            SpeechRecogniserConfig, {k: v for k, v in saved.items() if k in known}, where="config"
        )
        recogniser = SpeechRecogniser(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    try:
        recogniser.load_state_dict(load_tensors(folder / WEIGHTS_FILE))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(
            f"{folder / WEIGHTS_FILE}: weights do not fit {CONFIG_FILE} ({detail})"
        ) from None
    return recogniser.eval()


def load_matching(recogniser: SpeechRecogniser, folder: Path | str) -> list[str]:
    """Start from the weights of a checkpoint, as far as they are of the same shape.

    Parameters
    ----------
    folder
        A checkpoint or a run folder.

    Returns
    -------
    skipped : names of the recogniser's tensors that stay as they were

    Raises
    ------
    InputError
        If there is no checkpoint, it is of another kind, or none of its tensors fits.
    """
    folder = find_checkpoint(folder, TASK)
    read_checkpoint_config(folder, TASK, version=FORMAT)
    given = load_tensors(folder / WEIGHTS_FILE)
    own = recogniser.state_dict()
    fitting = {k: t for k, t in given.items() if k in own and own[k].shape == t.shape}
    if not fitting:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: none of its {len(given)} tensors has the name and shape of "
            "one of this network: start from a checkpoint of the same kind of network"
        )
    recogniser.load_state_dict(own | fitting)
    return sorted(set(own) - set(fitting))


def _sound(waveform: Waveform) -> Waveform:
    sound = np.ascontiguousarray(waveform, dtype=np.float32)
    if sound.ndim != 1 or not np.isfinite(sound).all():
        raise InputError(
            f"waveform of shape {sound.shape}: expected (n_samples,), finite numbers: average the "
            "channels and clean it first"
        )
    return sound


def _within(segment: Segment, seconds: float) -> Segment:
    """End a segment where the sound does: the last frame may reach beyond it."""
    end_s = max(segment.start_s, min(segment.end_s, round(seconds, 6)))
    return replace(segment, end_s=end_s)


def _later(heard: Heard, offset_s: float) -> Heard:
    segments = tuple(
        replace(one, start_s=round(one.start_s + offset_s, 6), end_s=round(one.end_s + offset_s, 6))
        for one in heard.segments
    )
    return replace(heard, segments=segments)


def _join(parts: Sequence[Heard], symbols: Symbols) -> Heard:
    """Join what was heard in the stretches of one recording."""
    spoken = [one for one in parts if one.text]
    if not spoken:
        return Heard("")
    between = " " if {"|", " "} & set(symbols.symbols) else ""
    lengths = [len(one.text) for one in spoken]
    sure = [one.confidence or 0.0 for one in spoken]
    return Heard(
        between.join(one.text for one in spoken),
        tuple(segment for one in spoken for segment in one.segments),
        float(np.average(sure, weights=lengths)),
    )
