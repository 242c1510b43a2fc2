"""A recognizer: sample rate, view, front end, normalisation, model and label space in one object.

It is what is trained, saved, loaded and served, and :meth:`Recognizer.forward` is the only path
from sound to scores. On disk it is a folder: ``config.json``, ``model.safetensors`` and a model
card, ``README.md``; the weights of frozen encoders, where there are any, lie beside it in
``frozen.safetensors``. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from serkit.audio import Channel, Waveform, require_sound, resample
from serkit.checkpoints import (
    CONFIG_FILE,
    EMOTION,
    WEIGHTS_FILE,
    find_checkpoint,
    load_tensors,
    read_checkpoint_config,
    save_tensors,
    write_checkpoint,
)
from serkit.features import FrontEnd, build_front_end, front_end_to_dict
from serkit.features.none import NoSound
from serkit.features.normalise import FeatureNorm, Normalise, PitchNorm
from serkit.features.speech_encoder import SpeechEncoder
from serkit.features.text import (
    PrecomputedText,
    TextEncoder,
    build_text_input,
    text_encoder_to_dict,
)
from serkit.features.views import (
    FixedView,
    SegmentsView,
    View,
    aggregate,
    cut_pieces,
    view_from_dict,
)
from serkit.files import replacing
from serkit.labels import LabelSpace
from serkit.models import build_model, model_to_dict
from serkit.transcripts import Symbols, clean_transcript
from serkit.types import InputError, Prediction
from serkit.video import load_sound

__all__ = ["Batch", "Recognizer", "RecognizerConfig", "load_recognizer"]

Batch = Mapping[str, Tensor]

FORMAT = 1  # of config.json; raised when an older serkit could misread a newer checkpoint
FROZEN_FILE = "frozen.safetensors"

_MAX_RATE = 1_000_000  # Hz
_MAX_PIECE = 100_000_000  # samples: over an hour at 22,050 Hz, 400 MB
_MAX_OVERLAPPING = 1000  # segments over one moment
_SEGMENTS_AT_ONCE = 64  # lengths of a segment, beyond twice which a recording is cut up


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerConfig:
    """All that is needed to rebuild a recognizer, and where it comes from.

    ``front_end`` and ``model`` hold a ``name`` and that part's settings; ``view`` its ``kind`` and
    settings. ``multi_label``: several classes may hold at once, or none, and scores are those of
    independent decisions. ``text``: a text encoder's ``name`` and settings, for models that read
    the words as well. ``parts``: a second front end's, for models that read spectrogram and pitch
    beside the frames of the first; ``pitch_norm``: ``corpus``, if its log-F0 is scaled by the
    training part's statistics, ``given`` if it is as the front end gives it. ``symbols``: what a
    model with a CTC layer spells in, the blank first. ``speakers``: whom a model that tells
    speakers apart was trained on. ``trained_on`` is free-form: corpus, licence, protocol words,
    scores.
    """

    system: str
    classes: tuple[str, ...]
    view: Mapping[str, Any]
    front_end: Mapping[str, Any]
    model: Mapping[str, Any]
    normalise: Normalise = "none"
    channel: Channel = "mean"
    multi_label: bool = False
    text: Mapping[str, Any] | None = None
    parts: Mapping[str, Any] | None = None
    pitch_norm: Literal["given", "corpus"] = "given"
    symbols: tuple[str, ...] = ()
    speakers: tuple[str, ...] = ()
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stackable(self) -> bool:
        """Tell whether it reads one stream of ready features, which members of a stack can."""
        several = self.text is not None or self.parts is not None
        return not several and self.front_end.get("name") != "speech_encoder"


class Recognizer(nn.Module):
    """Sound in, scores out.

    Parameters
    ----------
    config
        See :class:`RecognizerConfig`. ``model.n_classes`` and ``model.n_features`` follow from the
        label space and the front end where they are not given, ``model.n_text_features``,
        ``model.n_symbols`` and ``model.n_speakers`` from the text encoder, the symbols and the
        speakers where there are such.

    Raises
    ------
    InputError
        If a name or a setting is unknown, out of bounds, or does not fit the label space.
    """

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__()
        self.labels = LabelSpace(tuple(config.classes))
        self.view: View = view_from_dict(dict(config.view))
        front_end = dict(config.front_end)
        self.front_end_name = front_end.pop("name")
        self.front_end = build_front_end(self.front_end_name, front_end)
        self._require_bounds(config)
        if not self.listens and config.text is None:
            raise InputError(
                "front_end.name = 'none' is for recognizers that read: add [text], or choose a "
                "front end"
            )
        # A front end with weights to be trained works inside of forward; what is computed once for
        # all epochs then is the sound itself.
        self.front_end_learns = any(p.requires_grad for p in self.front_end.parameters())
        if self.front_end_learns and config.normalise == "train":
            raise InputError(
                "normalise is 'train', but the front end is trained and its features keep "
                "changing: take 'none' or 'utterance', or a frozen front end"
            )
        self.norm = FeatureNorm(config.normalise, self.front_end.config.n_features)
        self.text_encoder = None
        if config.text is not None:
            text = dict(config.text)
            self.text_encoder = build_text_input(text.pop("name"), text)
        self.parts_front_end = self._second_front_end(config.parts)
        self.pitch_norm = PitchNorm() if config.pitch_norm == "corpus" else None
        self.symbols = Symbols(tuple(config.symbols)) if config.symbols else None
        model = dict(config.model)
        self.model_name = model.pop("name")
        given = {
            "n_classes": len(self.labels),
            "n_features": self.front_end.config.n_features,
        }
        if self.text_encoder is not None:
            given["n_text_features"] = self.text_encoder.config.n_features
        if self.symbols is not None:
            given["n_symbols"] = len(self.symbols)
        if config.speakers:
            given["n_speakers"] = len(config.speakers)
        self.model = build_model(self.model_name, given | model)
        n_classes = model_to_dict(self.model)["n_classes"]
        if n_classes != len(self.labels):
            raise InputError(
                f"model.n_classes = {n_classes}, expected {len(self.labels)}, one for each of the "
                f"classes {', '.join(self.labels.classes)}: leave it out"
            )
        self.config = config

    def _require_bounds(self, config: RecognizerConfig) -> None:
        """Refuse settings that would be noticed in the middle of the first prediction."""
        if config.channel not in get_args(Channel):
            raise InputError(
                f"channel is {config.channel!r}, expected one of {', '.join(get_args(Channel))}"
            )
        if not isinstance(config.trained_on, Mapping):
            raise InputError(f"trained_on is {config.trained_on!r}, expected a table of settings")
        if self.sample_rate > _MAX_RATE:
            raise InputError(
                f"front_end.sample_rate = {self.sample_rate} Hz, expected at most {_MAX_RATE} Hz"
            )
        if isinstance(self.view, FixedView | SegmentsView) and self.view.n_samples > _MAX_PIECE:
            raise InputError(
                f"view.n_samples = {self.view.n_samples}, expected at most {_MAX_PIECE}"
            )
        if isinstance(self.view, SegmentsView):
            for name in ("train_hop", "test_hop"):
                hop = getattr(self.view, name)
                if hop * _MAX_OVERLAPPING < self.view.n_samples:
                    raise InputError(
                        f"view.{name} = {hop}, expected at least 1/{_MAX_OVERLAPPING} of "
                        f"view.n_samples, {self.view.n_samples}: a sound would become "
                        f"{self.view.n_samples // hop} times as long in segments"
                    )

    def _second_front_end(self, settings: Mapping[str, Any] | None) -> FrontEnd | None:
        if settings is None:
            return None
        settings = dict(settings)
        front_end = build_front_end(settings.pop("name"), settings)
        if isinstance(self.view, SegmentsView) or isinstance(front_end, SpeechEncoder):
            raise InputError(
                "[parts] takes a front end without weights, and a view of whole utterances: set "
                "parts.name = 'speech_parts' and view.kind = 'whole' or 'fixed'"
            )
        if front_end.config.sample_rate != self.sample_rate:
            raise InputError(
                f"[parts] works at {front_end.config.sample_rate} Hz and the front end at "
                f"{self.sample_rate} Hz: set one sample_rate for both"
            )
        return front_end

    @property
    def name(self) -> str:
        """What it is called in predictions."""
        return str(self.config.trained_on.get("name", self.config.system))

    @property
    def sample_rate(self) -> int:
        """Rate the front end was made for, in Hz."""
        return self.front_end.config.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second, or samples where the front end is trained: what a batch holds."""
        if self.front_end_learns:
            return float(self.sample_rate)
        seconds = 1000
        return float(self.front_end.n_frames(torch.tensor([seconds * self.sample_rate]))) / seconds

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers, batch-norm statistics included (as Keras counts)."""
        statistics = sum(b.numel() for name, b in self.model.named_buffers() if "running_" in name)
        return sum(p.numel() for p in self.parameters() if p.requires_grad) + statistics

    @property
    def text_learns(self) -> bool:
        """Tell whether the text encoder is trained."""
        return self.text_encoder is not None and self.text_encoder.has_trainable_parameters

    @property
    def listens(self) -> bool:
        """Tell whether it has a front end for sound; one that has none reads only."""
        return not isinstance(self.front_end, NoSound)

    @property
    def reads_vectors(self) -> bool:
        """Tell whether what is said is given as vectors that were computed elsewhere."""
        return isinstance(self.text_encoder, PrecomputedText)

    def require_vectors_fit(self, name: str) -> None:
        """Refuse token vectors that were computed elsewhere, unless it can take such.

        It can where it holds no text encoder, and where its own is frozen: then it was trained on
        vectors that do not depend on it.

        Raises
        ------
        InputError
            If it does not read, or its text encoder was trained along.
        """
        if self.text_encoder is None:
            raise InputError(
                f"{name}: got token vectors, but this recognizer does not read what is said: leave "
                "out --text-features (text_features=...)"
            )
        if self.text_learns:
            raise InputError(
                f"{name}: got token vectors, but the text encoder of this recognizer was trained, "
                "and no other computes its vectors: give the words with --text (text=...)"
            )

    def trained_encoders(self) -> list[SpeechEncoder | TextEncoder]:
        """Give the pre-trained encoders that are trained further."""
        encoders = (self.front_end, self.text_encoder)
        return [
            encoder
            for encoder in encoders
            if isinstance(encoder, SpeechEncoder | TextEncoder) and encoder.has_trainable_parameters
        ]

    def trained_state(self) -> dict[str, Tensor]:
        """Give what training can change: the state without the weights of frozen encoders."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        return {name: t for name, t in self.state_dict().items() if name not in frozen}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`trained_state` gave.

        Raises
        ------
        InputError
            If it is that of another recognizer.
        """
        if state.keys() != self.trained_state().keys():
            key = min(state.keys() ^ self.trained_state().keys())
            raise InputError(f"state of another recognizer: '{key}' is in one of them alone")
        self.load_state_dict(self.state_dict() | dict(state))

    def text_settings(self) -> dict[str, Any] | None:
        """Name and settings of the text encoder, all spelled out; ``None`` where there is none."""
        if self.text_encoder is None or self.config.text is None:
            return None
        return {"name": self.config.text["name"]} | text_encoder_to_dict(self.text_encoder)

    def parts_settings(self) -> dict[str, Any] | None:
        """Name and settings of the second front end; ``None`` where there is none."""
        if self.parts_front_end is None or self.config.parts is None:
            return None
        return {"name": self.config.parts["name"]} | front_end_to_dict(self.parts_front_end)

    def front_end_settings(self) -> dict[str, Any]:
        """Name and settings of the front end, all spelled out."""
        return {"name": self.front_end_name} | front_end_to_dict(self.front_end)

    def extract(
        self, waveforms: Tensor, n_samples: Tensor, *, training: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the view and the front end, unless that is trained: then it is left to forward.

        Parameters
        ----------
        waveforms : (batch, n_samples), at ``sample_rate``
        n_samples : (batch,)
        training
            Whether the pieces that the view makes are trained on, or judged.

        Returns
        -------
        features : (n_pieces, n_frames, n_features); the samples, (n_pieces, n_samples, 1), where
            the front end is trained
        n_frames : (n_pieces,)
        owners : (n_pieces,), the row of ``waveforms`` that each piece is of
        """
        pieces, lengths, owners = cut_pieces(self.view, waveforms, n_samples, training=training)
        if self.front_end_learns:
            return pieces.unsqueeze(-1), lengths, owners
        if not len(pieces):
            return waveforms.new_zeros(0, 0, self.front_end.config.n_features), lengths, owners
        features, n_frames = self.front_end(pieces, lengths)
        return features, n_frames, owners

    def extract_parts(self, waveforms: Tensor, n_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the view and the second front end; see :meth:`extract`.

        Returns
        -------
        parts : (batch, n_frames, d)
        n_parts : (batch,)
        """
        assert self.parts_front_end is not None
        pieces, lengths, _ = cut_pieces(self.view, waveforms, n_samples, training=False)
        parts, n_parts = self.parts_front_end(pieces, lengths)
        return parts, n_parts

    def extract_text(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Apply the text encoder, unless that is trained: then only its tokenizer.

        Returns
        -------
        text : (n_texts, n_tokens, n_text_features); token numbers, (n_texts, n_tokens, 1), where
            the text encoder is trained
        n_tokens : (n_texts,)
        """
        assert self.text_encoder is not None
        ids, n_tokens = self.text_encoder.tokenize([clean_transcript(text) for text in texts])
        if self.text_learns:
            return ids.unsqueeze(-1), n_tokens
        device = next(self.parameters()).device
        text, n_tokens = self.text_encoder(ids.to(device), n_tokens.to(device))
        return text, n_tokens

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Map a batch of pieces to the model's named outputs.

        Parameters
        ----------
        batch
            ``features`` and ``n_frames``, as :meth:`extract` gives them; where there is a text
            encoder, ``text`` and ``n_tokens``, as :meth:`extract_text` gives them; where there is
            a second front end, ``parts`` and ``n_parts`` of :meth:`extract_parts`. In training
            there may be another view of each utterance under the same names after ``augmented_``.

        Returns
        -------
        outputs : dict with ``emotion`` (batch, n_classes), logits, and what else the model gives;
            ``contrast_augmented`` is that of the other view where there is one
        """
        outputs = self._outputs(batch, "")
        views = self.training and "augmented_features" in batch
        if views and "contrast_augmented" in outputs:
            other = self._outputs(batch, "augmented_")
            outputs["contrast_augmented"] = other["contrast_augmented"]
        return outputs

    def _outputs(self, batch: Batch, prefix: str) -> dict[str, Tensor]:
        """Read one view of a batch."""
        features, n_frames = batch[f"{prefix}features"], batch[f"{prefix}n_frames"]
        if self.front_end_learns:
            features, n_frames = self.front_end(features.squeeze(-1), n_frames)
        read: tuple[Tensor, ...] = ()
        if self.text_encoder is not None:
            read = (batch[f"{prefix}text"], batch[f"{prefix}n_tokens"])
            if self.text_learns:
                read = self.text_encoder(read[0].squeeze(-1), read[1])
        if self.parts_front_end is not None:
            parts = batch["parts"]
            parts = parts if self.pitch_norm is None else self.pitch_norm(parts)
            read += (parts, batch["n_parts"])
        outputs: dict[str, Tensor] = self.model(self.norm(features, n_frames), n_frames, *read)
        return outputs

    def pool(self, logits: Tensor, owners: Tensor, n: int) -> Tensor:
        """Join the logits of pieces into scores of utterances.

        Parameters
        ----------
        logits : (n_pieces, n_classes)
        owners : (n_pieces,), in [0, n)

        Returns
        -------
        scores : (n, n_classes), in [0, 1]; rows sum to 1 unless the recognizer is multi-label
        """
        view = self.view
        rule = view.aggregation if isinstance(view, SegmentsView) else "average_no_softmax"
        return aggregate(logits, owners, n, rule=rule, multi_label=self.config.multi_label)

    @torch.inference_mode()
    def score(
        self,
        waveforms: Sequence[Waveform],
        texts: Sequence[str] | None = None,
        *,
        text_features: Sequence[NDArray[np.float32]] | None = None,
    ) -> np.ndarray:
        """Score mono waveforms at the recognizer's own rate.

        Parameters
        ----------
        texts
            What is said in each, for a recognizer that reads.
        text_features
            The same as token vectors, (n_tokens, n_text_features) each, read instead of the texts.

        Returns
        -------
        scores : (n_waveforms, n_classes); see :meth:`pool`

        Raises
        ------
        InputError
            If a score is not finite.
        """
        self.eval()
        n_samples = torch.tensor([len(w) for w in waveforms])
        padded = torch.zeros(len(waveforms), int(n_samples.max()))
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        device = next(self.parameters()).device
        features, n_frames, owners = self.extract(padded.to(device), n_samples.to(device))
        batch = {"features": features, "n_frames": n_frames}
        if self.text_encoder is not None:
            if text_features is None:
                text, n_tokens = self.extract_text(texts or [""] * len(waveforms))
            else:
                n_tokens = torch.tensor([len(one) for one in text_features])
                text = pad_sequence([torch.from_numpy(v) for v in text_features], batch_first=True)
            batch |= {"text": text.to(device)[owners], "n_tokens": n_tokens.to(device)[owners]}
        if self.parts_front_end is not None:
            parts, n_parts = self.extract_parts(padded.to(device), n_samples.to(device))
            batch |= {"parts": parts, "n_parts": n_parts}
        logits = self(batch)["emotion"].float()
        scores: np.ndarray = self.pool(logits, owners, len(waveforms)).cpu().numpy()
        if not np.isfinite(scores).all():
            raise InputError(
                f"'{self.name}' gave scores that are not finite: its weights are damaged, or the "
                "sound is far beyond [-1, 1]; load another checkpoint, or scale the sound"
            )
        return scores

    def windows(self, waveform: Waveform) -> list[tuple[int, int]]:
        """Cut a waveform that is more than twice the view's length into stretches of that length.

        Up to twice the length the view itself decides (TIM-Net keeps the middle, as in training);
        beyond, the middle would speak for minutes it never heard.

        Returns
        -------
        borders : (start, stop) in samples, in order
        """
        match self.view:
            case FixedView(n_samples=length):
                limit: int | None = length
            case SegmentsView(n_samples=length):
                limit = _SEGMENTS_AT_ONCE * length
            case _:
                limit = self.view.max_samples
        n = len(waveform)
        if limit is None or n <= 2 * limit:
            return [(0, n)]
        n_windows = -(-n // limit)
        # The last window ends with the file and overlaps its neighbour, so none is mostly padding.
        return [
            (min(i * limit, n - limit), min(i * limit, n - limit) + limit) for i in range(n_windows)
        ]

    def predict(
        self,
        waveform: Waveform,
        sample_rate: int,
        *,
        name: str = "waveform",
        text: str | None = None,
        text_features: NDArray[np.float32] | None = None,
    ) -> Prediction:
        """Recognise the emotion of one utterance.

        Parameters
        ----------
        waveform : (n_samples,) mono or (n_channels, n_samples), float in [-1, 1]
        sample_rate
            Hz; resampled to the recognizer's own where it differs.
        name
            What to call it in the prediction and in messages.
        text
            What is said, for a recognizer that reads the words as well; others leave it unread.
        text_features : (n_tokens, n_text_features)
            What is said as token vectors that were computed elsewhere, read instead of the text;
            for a recognizer without a text encoder of its own, or with a frozen one.

        Raises
        ------
        InputError
            If the waveform is empty, silent, or holds NaN or infinite samples, the words are
            missing, or vectors are given that it cannot take.
        """
        self._require_words(name, text, text_features)
        waveform = np.asarray(waveform, dtype=np.float32)
        if waveform.ndim == 2:
            waveform = waveform[0] if self.config.channel == "first" else waveform.mean(0)
        if waveform.ndim != 1 or not len(waveform):
            raise InputError(
                f"{name}: got an array of shape {waveform.shape}, expected (n_samples,) or "
                "(n_channels, n_samples) with at least one sample"
            )
        if not np.isfinite(waveform).all():
            raise InputError(f"{name}: holds NaN or infinite samples: clean it first")
        require_sound(waveform, name)
        duration_s = len(waveform) / sample_rate
        waveform = resample(waveform, sample_rate, self.sample_rate)
        waveform, notes = self._long_enough(waveform)
        borders = self.windows(waveform)
        pieces = [waveform[a:b] for a, b in borders if np.any(waveform[a:b])]
        vectors = [] if text_features is None else [text_features]
        scores = np.concatenate(
            [
                self.score(
                    some, [text or ""] * len(some), text_features=vectors * len(some) or None
                )
                for some in (pieces[i : i + 16] for i in range(0, len(pieces), 16))
            ]
        )
        mean = scores.mean(0)
        if len(borders) > 1:
            notes = (*notes, f"mean of {len(pieces)} stretches")
        if self.config.multi_label:
            held = [c for c, s in zip(self.labels.classes, mean, strict=True) if s > 0.5]
            notes = (*notes, f"holds: {' + '.join(held) or 'none'}")
        return Prediction(
            file=name,
            start_s=0.0,
            end_s=duration_s,
            label=self.labels[int(mean.argmax())],
            scores={c: float(s) for c, s in zip(self.labels.classes, mean, strict=True)},
            model=self.name,
            notes=notes,
        )

    def predict_text(self, text: str, *, name: str = "text") -> Prediction:
        """Recognise the emotion of words alone, for a recognizer that does not listen.

        Raises
        ------
        InputError
            If it listens, or reads vectors instead of words.
        """
        if self.listens:
            raise InputError(f"{name}: this recognizer listens: give a sound file as well")
        unheard = np.ones(1, dtype=np.float32)
        prediction = self.predict(unheard, self.sample_rate, name=name, text=text)
        return replace(prediction, end_s=0.0)

    def _require_words(
        self, name: str, text: str | None, text_features: NDArray[np.float32] | None
    ) -> None:
        """Refuse to go on without what is said, in the form in which the recognizer reads it."""
        if text_features is not None:
            self._require_width(name, text_features)
        elif self.reads_vectors:
            raise InputError(
                f"{name}: this recognizer reads what is said as token vectors that were computed "
                "elsewhere, and cannot read words: give --text-features FILE.npy, or a folder of "
                "such (text_features=...)"
            )
        elif self.text_encoder is not None and text is None:
            raise InputError(
                f"{name}: this recognizer reads what is said as well: give the words with --text "
                "(text=...), or in a column 'transcript' of the manifest"
            )

    def _require_width(self, name: str, text_features: NDArray[np.float32]) -> None:
        """Refuse token vectors of another shape than it reads, or that it cannot read at all."""
        self.require_vectors_fit(name)
        assert self.text_encoder is not None
        width = self.text_encoder.config.n_features
        if text_features.ndim != 2 or not len(text_features) or text_features.shape[1] != width:
            raise InputError(
                f"{name}: got text features of shape {text_features.shape}, expected (n_tokens, "
                f"{width}) as those that this recognizer was trained on"
            )

    def _long_enough(self, waveform: Waveform) -> tuple[Waveform, tuple[str, ...]]:
        """Repeat an utterance that the view would leave out because it is too short."""
        view = self.view
        if not isinstance(view, SegmentsView) or view.short != "drop":
            return waveform, ()
        if view.n_segments(len(waveform), hop=view.test_hop):
            return waveform, ()
        repeated = np.resize(waveform, view.n_samples + view.strict)
        return repeated, ("shorter than anything the model was trained on: repeated",)

    def load_sound(self, path: Path | str) -> tuple[Waveform, int]:
        """Read the sound of a sound file or a video as :meth:`predict_file` does.

        Returns
        -------
        waveform : (n_samples,), float32
        sample_rate : Hz, a sound file's own

        Raises
        ------
        InputError
            If the file cannot be used; of a video, also if PyAV is not installed.
        """
        return load_sound(path, clip_rate=self.sample_rate, channel=self.config.channel)

    def predict_file(
        self,
        path: Path | str,
        *,
        text: str | None = None,
        text_features: NDArray[np.float32] | None = None,
    ) -> Prediction:
        """Recognise the emotion of a sound file, or of the sound of a video; see :meth:`predict`.

        Raises
        ------
        InputError
            If the file cannot be used; the message names it and says why.
        """
        waveform, sample_rate = self.load_sound(path)
        return self.predict(
            waveform, sample_rate, name=str(path), text=text, text_features=text_features
        )

    def save(self, folder: Path | str, *, card: str = "", frozen: Path | None = None) -> Path:
        """Write the recognizer into a folder.

        Parameters
        ----------
        card
            Text of the model card.
        frozen
            Where the weights of frozen encoders are shared by several checkpoints: linked from
            there, or put there for the next if they are not there yet.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format": FORMAT,
            "system": self.config.system,
            "classes": list(self.labels.classes),
            "sample_rate": self.sample_rate,
            "channel": self.config.channel,
            "multi_label": self.config.multi_label,
            "view": dict(self.config.view),
            "front_end": self.front_end_settings(),
            "normalise": self.config.normalise,
            "text": self.text_settings(),
            "parts": self.parts_settings(),
            "pitch_norm": self.config.pitch_norm,
            "symbols": list(self.config.symbols),
            "speakers": list(self.config.speakers),
            "model": {"name": self.model_name} | model_to_dict(self.model),
            "n_parameters": self.n_parameters,
            "trained_on": dict(self.config.trained_on),
        }
        trained = self.trained_state()
        never = {name: t for name, t in self.state_dict().items() if name not in trained}
        if never:
            _save_shared(folder / FROZEN_FILE, never, shared=frozen)
        return write_checkpoint(
            folder, config=config, weights=trained, card=card or f"# {self.config.system}\n"
        )


def load_recognizer(name_or_folder: Path | str) -> Recognizer:
    """Load a trained recognizer from a checkpoint folder, a run folder, or by name.

    Raises
    ------
    InputError
        If there is no checkpoint, it is of another kind, or its files are damaged or do not fit
        each other.
    """
    folder = find_checkpoint(name_or_folder)
    saved = read_checkpoint_config(folder, EMOTION, version=FORMAT)
    try:
        known = {f.name for f in fields(RecognizerConfig)}
        config = RecognizerConfig(**{k: v for k, v in saved.items() if k in known})
        recognizer = Recognizer(config)
    except InputError as error:
        raise InputError(f"{folder / CONFIG_FILE}: {error}") from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / CONFIG_FILE}: damaged or incomplete ({_one_line(error)})"
        ) from None
    except (RuntimeError, MemoryError, OverflowError) as error:  # sizes beyond this machine
        raise InputError(
            f"{folder / CONFIG_FILE}: a recognizer of these settings cannot be built "
            f"({_one_line(error)})"
        ) from None
    weights = load_tensors(folder / WEIGHTS_FILE)
    if (folder / FROZEN_FILE).exists():
        weights |= load_tensors(folder / FROZEN_FILE)
    try:
        recognizer.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{folder / WEIGHTS_FILE}: weights do not fit {CONFIG_FILE} ({_one_line(error)})"
        ) from None
    _require_sound_weights(folder, recognizer, weights)
    return recognizer.eval()


def _require_sound_weights(
    folder: Path, recognizer: Recognizer, weights: Mapping[str, Tensor]
) -> None:
    """Refuse weights that are loaded without complaint and make every answer worthless."""
    for name, own in recognizer.state_dict().items():
        if own.is_floating_point() and not weights[name].is_floating_point():
            raise InputError(
                f"{folder}: damaged: '{name}' is stored as {weights[name].dtype}, expected "
                "floating-point weights; fetch or train the checkpoint again"
            )
    for name, weight in recognizer.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(
                f"{folder}: damaged: '{name}' holds weights that are not finite; fetch or train "
                "the checkpoint again"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _save_shared(path: Path, tensors: Mapping[str, Tensor], *, shared: Path | None) -> None:
    """Write a file, or link it to one of the same content."""
    if shared is None:
        return save_tensors(path, tensors)
    if not shared.exists():
        save_tensors(shared, tensors)
    with replacing(path) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(shared, part)
        except OSError:  # not every file system has links
            shutil.copyfile(shared, part)
