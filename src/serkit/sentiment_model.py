"""A model of clips: words, acoustic frames and face frames in, one number of sentiment out.

With ``classes``, such as emotions, it gives the probability of each of them instead.

It is what is trained, saved, loaded and served, and :meth:`SentimentModel.forward` is the only path
from frames to numbers: text encoder, standardisation, Self-MM. On disk it is a folder, as a
recognizer of emotion is: ``config.json``, ``model.safetensors`` and a model card, ``README.md``.
Nothing is ever unpickled.

A clip may lack any stream, as long as it has one. Frames of other features than the model was
trained on are refused, by their names where both sides know them, else by their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serkit.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_checkpoint,
    load_tensors,
    read_checkpoint_config,
    write_checkpoint,
)
from serkit.clip_data import finite
from serkit.evaluation.sentiment import SIMS_CLASSES, mosi_classes, sims_classes
from serkit.features.normalise import FeatureNorm
from serkit.features.text import TextEncoder, build_text_encoder, text_encoder_to_dict
from serkit.labels import LabelSpace
from serkit.models.self_mm import STREAMS, SelfMm, SelfMmConfig
from serkit.settings import checked
from serkit.transcripts import clean_transcript
from serkit.types import InputError

__all__ = [
    "TEXT_VECTORS",
    "FeatureSet",
    "Score",
    "SentimentModel",
    "SentimentModelConfig",
    "load_sentiment_model",
]

FORMAT = 1  # of config.json; raised when an older serkit could misread a newer checkpoint
KIND = "sentiment"

TEXT_VECTORS = "vectors"
"""Name of the text encoder of a model whose vectors of tokens come from elsewhere."""

Batch = Mapping[str, Tensor]

Score = float | Mapping[str, float]
"""A number, or the probability of each class by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSet:
    """What the frames of a stream are.

    Attributes
    ----------
    n_features
        Width of a frame.
    names
        Of the columns; empty where nobody knows.
    max_frames
        Longest that is read, from the training part; longer clips lose their end. ``None``: any.
    made_by
        Name of the set, such as ``sims33``; empty where nobody knows.
    """

    n_features: int
    names: tuple[str, ...] = ()
    max_frames: int | None = None
    made_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentimentModelConfig:
    """All that is needed to rebuild a model, and where it comes from.

    Attributes
    ----------
    system
        What to call it.
    scale
        On which corpus's scale the number is, and whose classes it is cut into: a key of
        :data:`serkit.evaluation.sentiment.SENTIMENT_METRICS`.
    classes
        What it tells apart, in the order of its outputs; empty: it gives a number.
    text
        A text encoder's ``name`` and settings; the name ``vectors`` with ``n_features``: there is
        none, and vectors are given.
    audio, vision
        What frames it reads.
    model
        Settings of :class:`serkit.models.self_mm.SelfMmConfig` but the widths of its inputs and
        the number of its outputs.
    modalities
        What it reads at all; others count as missing.
    standardize
        ``train``: frames have zero mean and unit variance over the training part.
    trained_on
        Free-form: data, protocol words, scores.
    """

    system: str
    scale: str
    text: Mapping[str, Any]
    audio: FeatureSet
    vision: FeatureSet
    model: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] = STREAMS
    standardize: Literal["none", "train"] = "none"
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()


class SentimentModel(nn.Module):
    """Clips in, numbers or probabilities out.

    Parameters
    ----------
    config
        See :class:`SentimentModelConfig`.

    Raises
    ------
    InputError
        If a name or a setting is unknown.
    """

    frame_rate = 1.0  # lengths are those of acoustic frames, of which nobody knows the rate

    def __init__(self, config: SentimentModelConfig) -> None:
        super().__init__()
        unknown = set(config.modalities) - set(STREAMS)
        if unknown or not config.modalities:
            raise InputError(
                f"modalities are {list(config.modalities)}: expected some of {', '.join(STREAMS)}"
            )
        text = dict(config.text)
        name = text.pop("name", None)
        self.text_encoder = None
        if name == TEXT_VECTORS:
            width = text.get("n_features")
            if type(width) is not int or width < 1 or len(text) != 1:
                raise InputError(f"text is {text}: vectors have one setting, n_features, from 1")
        elif "text" in config.modalities:
            self.text_encoder = build_text_encoder(str(name), text)
            width = self.text_encoder.config.n_features
        else:
            width = 1  # of a vector of zeros
        self.norms = nn.ModuleDict(
            {
                stream: FeatureNorm(config.standardize, self._set(config, stream).n_features)
                for stream in ("audio", "vision")
            }
        )
        widths = {
            "n_text_features": width,
            "n_audio_features": config.audio.n_features,
            "n_vision_features": config.vision.n_features,
        }
        for key in widths.keys() & dict(config.model).keys():
            raise InputError(f"model.{key} follows from the features: leave it out")
        if "n_outputs" in config.model:
            raise InputError("model.n_outputs follows from the classes: leave it out")
        n_outputs = len(LabelSpace(config.classes)) if config.classes else 1
        settings = checked(
            SelfMmConfig, dict(config.model) | widths | {"n_outputs": n_outputs}, where="model"
        )
        self.model = SelfMm(settings)
        allowed = torch.tensor([stream in config.modalities for stream in STREAMS])
        self.register_buffer("allowed", allowed, persistent=False)
        self.config = config

    allowed: Tensor

    @property
    def n_parameters(self) -> int:
        """Number of trained numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def text_learns(self) -> bool:
        """Tell whether the text encoder is trained: then batches hold token numbers."""
        return self.text_encoder is not None and self.text_encoder.has_trainable_parameters

    def trained_encoders(self) -> list[TextEncoder]:
        """Give the pre-trained encoders that are trained further."""
        encoder = self.text_encoder
        return [encoder] if isinstance(encoder, TextEncoder) and self.text_learns else []

    def trained_state(self) -> dict[str, Tensor]:
        """Give what training can change: the state without a frozen text encoder."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        return {name: t for name, t in self.state_dict().items() if name not in frozen}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`trained_state` gave.

        Raises
        ------
        InputError
            If it is that of another model.
        """
        if state.keys() != self.trained_state().keys():
            key = min(state.keys() ^ self.trained_state().keys())
            raise InputError(f"state of another model: '{key}' is in one of them alone")
        self.load_state_dict(self.state_dict() | dict(state))

    def fit_norms(self, audio: Tensor, vision: Tensor) -> None:
        """Take the statistics of the training part; without effect if ``standardize`` is none.

        Parameters
        ----------
        audio, vision : (n_frames, n_features), of all its clips that have the stream
        """
        for name, frames in (("audio", audio), ("vision", vision)):
            if len(frames):
                ones = torch.ones(len(frames), dtype=torch.int64, device=frames.device)
                self._norm(name).fit(frames.unsqueeze(1), ones)

    def read_texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Apply the text encoder, unless that is trained: then only its tokenizer.

        Returns
        -------
        text : (n_texts, n_tokens, n_text_features); token numbers, (n_texts, n_tokens, 1), where
            the text encoder is trained
        n_tokens : (n_texts,)
        """
        assert self.text_encoder is not None
        ids, n_tokens = self.text_encoder.tokenize([clean_transcript(text) for text in texts])
        return self.read_tokens(ids, n_tokens)

    def read_tokens(self, ids: Tensor, n_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Do as :meth:`read_texts` with texts that are tokens already, (n_texts, n_tokens)."""
        assert self.text_encoder is not None
        if self.text_learns:
            return ids.unsqueeze(-1), n_tokens
        device = self.allowed.device
        text, n_tokens = self.text_encoder(ids.to(device), n_tokens.to(device))
        return text, n_tokens

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Judge a batch of clips.

        Parameters
        ----------
        batch
            ``text`` and ``n_tokens``, as :meth:`read_texts` gives them or vectors from elsewhere;
            ``audio``, ``n_audio``, ``vision``, ``n_vision``: padded frames as they are stored, and
            how many are valid, at least 1; ``present`` (batch, 3), bool.

        Returns
        -------
        outputs
            See :meth:`serkit.models.self_mm.SelfMm.forward`.
        """
        present = batch["present"] & self.allowed
        text, n_tokens = batch["text"], batch["n_tokens"]
        if self.text_learns and self.text_encoder is not None:
            text, n_tokens = self.text_encoder(text.squeeze(-1), n_tokens)
        elif not self.allowed[0]:
            text = text.new_zeros(len(text), 1, self.model.config.n_text_features).float()
            n_tokens = torch.ones_like(n_tokens)
        audio, n_audio = self._frames("audio", batch)
        vision, n_vision = self._frames("vision", batch)
        outputs: dict[str, Tensor] = self.model(
            text, n_tokens, audio, n_audio, vision, n_vision, present
        )
        return outputs

    def read_out(self, output: Tensor) -> Tensor:
        """Turn what a head gives into scores: numbers stay, logits become probabilities."""
        return output.softmax(1) if self.config.classes else output

    @torch.inference_mode()
    def predict(
        self,
        text: str | NDArray[Any] | None = None,
        audio: NDArray[Any] | None = None,
        vision: NDArray[Any] | None = None,
        *,
        audio_names: Sequence[str] = (),
        vision_names: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Judge one clip.

        Parameters
        ----------
        text
            What is said; for a model of vectors those of its tokens, (n_tokens, n_features).
        audio, vision : (n_frames, n_features)
        audio_names, vision_names
            Of the columns, where they are known: they must be those that it was trained on.

        Returns
        -------
        prediction
            ``scores``: ``M``, the sentiment of the clip, and ``T``, ``A``, ``V``, what each stream
            says by itself, ``None`` for one that is not there; ``label_2``, ``label_3``, ... the
            class of ``M``; ``modalities_used``; ``warnings``. Of a model of classes, each score is
            the probability of every class by its name, and ``label`` is the likeliest of ``M``.

        Raises
        ------
        InputError
            If no stream that the model reads is there, or frames are other features.
        """
        self.eval()
        self.refuse_other_features("audio", audio_names)
        self.refuse_other_features("vision", vision_names)
        warnings: list[str] = []
        there = []
        batch: dict[str, Tensor] = {}
        for name, given in (("text", text), ("audio", audio), ("vision", vision)):
            empty = given is None or len(given) == 0
            if isinstance(given, str) and not given.strip():
                empty = True
            if empty and name in self.config.modalities:
                warnings.append(f"no {name}: judged without it")
            there.append(not empty)
            if name == "text":
                batch["text"], batch["n_tokens"] = self._one_text(None if empty else text)
            else:
                frames = None if empty else self._checked_frames(name, given, warnings)
                batch |= self._one_stream(name, frames)
        used = [s for s, is_there in zip(STREAMS, there, strict=True) if is_there]
        used = [name for name in used if name in self.config.modalities]
        if not used:
            raise InputError(
                f"nothing to judge: this model reads {', '.join(self.config.modalities)}, give at "
                "least one of them"
            )
        batch["present"] = torch.tensor([there])
        device = self.allowed.device
        outputs = self({name: t.to(device) for name, t in batch.items()})
        scores = {
            key: self._score(outputs[name]) if name == "fused" or name in used else None
            for key, name in zip("MTAV", ("fused", *STREAMS), strict=True)
        }
        return {
            "scores": scores,
            **self._named(scores["M"]),
            "modalities_used": used,
            "warnings": warnings,
        }

    def refuse_other_features(self, stream: str, names: Sequence[str]) -> None:
        """Refuse frames whose columns are known to be others than it was trained on.

        Raises
        ------
        InputError
            If they are.
        """
        own = self._set(self.config, stream)
        if not names or not own.names or tuple(names) == own.names:
            return
        if len(names) != len(own.names):
            difference = f"{len(names)} columns, it was trained on {len(own.names)}"
        else:
            place = next(
                i for i, pair in enumerate(zip(names, own.names, strict=True)) if pair[0] != pair[1]
            )
            difference = (
                f"column {place} is '{names[place]}', it was trained on '{own.names[place]}'"
            )
        made_by = f" ({own.made_by})" if own.made_by else ""
        raise InputError(
            f"{stream} features are not those of this model{made_by}: {difference}; extract them "
            "with the same feature set"
        )

    def save(self, folder: Path | str, *, card: str = "") -> Path:
        """Write the model into a folder, with the text of the model card."""
        folder = Path(folder)
        config = {"format": FORMAT, "kind": KIND} | asdict(self.complete_config())
        return write_checkpoint(
            folder,
            config=config,
            weights=self.state_dict(),
            card=card or f"# {self.config.system}\n",
        )

    def complete_config(self) -> SentimentModelConfig:
        """Spell out the text encoder, so that no folder is needed to build it again."""
        if self.text_encoder is None:
            return self.config
        name = self.config.text["name"]
        return replace(self.config, text={"name": name} | text_encoder_to_dict(self.text_encoder))

    @staticmethod
    def _set(config: SentimentModelConfig, stream: str) -> FeatureSet:
        return config.audio if stream == "audio" else config.vision

    def _score(self, output: Tensor) -> Score:
        """Give the score of the only clip of a batch."""
        scores = self.read_out(output)[0]
        if not self.config.classes:
            return float(scores)
        return dict(zip(self.config.classes, scores.tolist(), strict=True))

    def _named(self, score: Score | None) -> dict[str, str | int]:
        """Say which class a score means."""
        if isinstance(score, Mapping):
            return {"label": max(score, key=lambda name: score[name])}
        assert score is not None
        return _labels(score, self.config.scale)

    def _norm(self, stream: str) -> FeatureNorm:
        norm = self.norms[stream]
        assert isinstance(norm, FeatureNorm)
        return norm

    def _frames(self, stream: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Shorten and standardise the frames of a batch."""
        frames, lengths = batch[stream], batch[f"n_{stream}"]
        limit = self._set(self.config, stream).max_frames
        if limit is not None:
            frames, lengths = frames[:, :limit], lengths.clamp_max(limit)
        return self._norm(stream)(frames, lengths), lengths

    def _one_text(self, text: str | NDArray[Any] | None) -> tuple[Tensor, Tensor]:
        """Give the text of one clip as a batch."""
        if self.text_encoder is not None:
            if text is not None and not isinstance(text, str):
                raise InputError("text is an array: this model reads words, give them as they are")
            return self.read_texts([text or ""])
        width = self.model.config.n_text_features
        if text is None or "text" not in self.config.modalities:
            return torch.zeros(1, 1, width), torch.ones(1, dtype=torch.int64)
        if isinstance(text, str):
            raise InputError(
                f"text is a str: this model has no text encoder and reads vectors of tokens, "
                f"(n_tokens, {width})"
            )
        if text.ndim != 2 or text.shape[1] != width:
            raise InputError(f"text of shape {text.shape}: expected (n_tokens, {width})")
        vectors = torch.from_numpy(finite(text)[0])
        return vectors.unsqueeze(0), torch.tensor([len(vectors)])

    def _checked_frames(self, stream: str, frames: Any, warnings: list[str]) -> NDArray[np.float32]:
        own = self._set(self.config, stream)
        array = np.asarray(frames)
        if array.ndim != 2 or array.shape[1] != own.n_features:
            made_by = f" of {own.made_by}" if own.made_by else ""
            raise InputError(
                f"{stream} of shape {array.shape}: this model reads (n_frames, {own.n_features})"
                f"{made_by}"
            )
        numbers, n_replaced = finite(array)
        if n_replaced:
            warnings.append(f"{n_replaced} values of {stream} were NaN or infinite, now 0")
        return numbers

    def _one_stream(self, stream: str, frames: NDArray[np.float32] | None) -> dict[str, Tensor]:
        if frames is None:
            frames = np.zeros((1, self._set(self.config, stream).n_features), np.float32)
        values = torch.from_numpy(frames).unsqueeze(0)
        return {stream: values, f"n_{stream}": torch.tensor([len(frames)])}


def load_sentiment_model(folder: Path | str) -> SentimentModel:
    """Load a trained model from a checkpoint folder or a run folder.

    Raises
    ------
    InputError
        If there is no checkpoint, it is of another kind, or its files are damaged or do not fit
        each other.
    """
    folder = find_checkpoint(folder, KIND)
    path = folder / CONFIG_FILE
    saved = read_checkpoint_config(folder, KIND, version=FORMAT)
    try:
        known = {f.name for f in fields(SentimentModelConfig)}
        settings = {key: value for key, value in saved.items() if key in known}
        config = checked(SentimentModelConfig, settings, where="config")
        model = SentimentModel(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    weights = folder / WEIGHTS_FILE
    tensors = load_tensors(weights)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{weights}: weights do not fit {CONFIG_FILE} ({detail})") from None
    return model.eval()


def _labels(value: float, scale: str) -> dict[str, str | int]:
    """Cut a number into the classes of a corpus."""
    number = np.array([value], dtype=np.float32)
    if scale in ("sims", "simsv2"):
        clipped = np.clip(number, -1, 1)
        return {
            f"label_{n}": names[sims_classes(clipped, n)[0]] for n, names in SIMS_CLASSES.items()
        }
    labels: dict[str, str | int] = {"label_2": "negative" if value < 0 else "positive"}
    for n, limit in ((5, 2), (7, 3)):
        labels[f"label_{n}"] = int(mosi_classes(number, n)[0]) - limit
    return labels
