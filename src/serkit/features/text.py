"""Text encoders: transcripts to one vector per token.

A text encoder is a module built from a frozen config. ``tokenize(texts)`` gives ``(ids, n_tokens)``
and ``forward(ids, n_tokens)`` gives ``(text, n_tokens)``. Its config names the width of a token.

* ``pretrained``: RoBERTa, XLM-RoBERTa or BERT, from a folder as in
  :mod:`serkit.features.pretrained`; the last hidden states, special tokens included. Its tokenizer
  is kept in the config, as the one string that ``tokenizer.json`` is (about half a megabyte for
  BERT, one for RoBERTa, ten or more for XLM-RoBERTa), so that a checkpoint needs no folder.
* ``small``: bytes, an embedding and a recurrent layer, to be trained from scratch.

Transcripts are cleaned by :func:`serkit.transcripts.clean_transcript` before they are tokenized.
Vectors computed elsewhere are read by :func:`read_text_features`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from serkit.features.pretrained import (
    build_network,
    complete_architecture,
    find_folder,
    hidden_size,
    load_network,
    parameter_groups,
    read_json,
    weights_sha256,
)
from serkit.settings import checked
from serkit.types import InputError

__all__ = [
    "TEXT_ENCODERS",
    "SmallTextEncoder",
    "SmallTextEncoderConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "build_text_encoder",
    "read_text_features",
    "text_encoder_to_dict",
]

FAMILIES = ("bert", "roberta", "xlm-roberta")

_OWN_POSITIONS = ("bert",)  # the other families count positions from behind the padding's number


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderConfig:
    """Which network, and whether it is trained.

    Attributes
    ----------
    model, revision, trainable, gradient_checkpointing, weights_sha256, architecture
        As in :class:`serkit.features.speech_encoder.SpeechEncoderConfig`.
    max_tokens
        Special tokens included; longer texts lose their end.
    tokenizer
        Content of the network's ``tokenizer.json``, filled in from its folder.
    """

    model: str
    revision: str | None = None
    trainable: bool = False
    gradient_checkpointing: bool = False
    max_tokens: Annotated[int, Field(ge=3)] = 512
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    architecture: dict[str, Any] | None = None
    tokenizer: str | None = None

    @property
    def n_features(self) -> int:
        """Width of one token; known once the encoder has been built.

        Raises
        ------
        InputError
            If ``architecture`` is not filled in.
        """
        return hidden_size(self.architecture, model=self.model, where="text")


class TextEncoder(nn.Module):
    """Tokens to the last hidden states of a pre-trained network.

    Parameters
    ----------
    config
        See :class:`TextEncoderConfig`; the attribute ``config`` is the completed one.

    Raises
    ------
    InputError
        If the network or its tokenizer cannot be found, is damaged or of an unknown family, or has
        fewer positions than ``max_tokens``.
    """

    encoder: Any

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        if config.architecture is None:
            folder = find_folder(config.model, config.revision, where="text")
            self.config = _completed_from(folder, config)
            self.encoder = load_network(folder, self.config.architecture or {}, pooler=False)
        else:
            self.config = _completed(config)
            where = "text.architecture"
            self.encoder = build_network(self.config.architecture or {}, where=where, pooler=False)
        self.encoder.requires_grad_(config.trainable)
        if config.trainable and config.gradient_checkpointing:
            self.encoder.activation_checkpointing_enable({"use_reentrant": False})
        self.train(self.training)

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether training changes the vectors."""
        return self.config.trainable

    def parameter_groups(self, *, decay: float = 1.0) -> list[tuple[list[str], float]]:
        """Group the trained parameters by layer, with factors of the learning rate.

        See :func:`serkit.features.pretrained.parameter_groups`.
        """
        names = [name for name, p in self.named_parameters() if p.requires_grad]
        n_layers = len(self.encoder.encoder.layer)
        return parameter_groups(names, n_layers=n_layers, decay=decay)

    def train(self, mode: bool = True) -> TextEncoder:
        """Switch training mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if not self.config.trainable:
            self.encoder.eval()
        return self

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn texts into token numbers, special tokens included.

        Returns
        -------
        ids : (batch, n_tokens), int64; padding has the network's own number for it
        n_tokens : (batch,), int64
        """
        rows = [self._tokenizer.encode(text).ids for text in texts]
        return _padded(rows, value=self._padding)

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = _parsed_tokenizer(self.config)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.config.max_tokens)
        return tokenizer

    @property
    def _padding(self) -> int:
        return int((self.config.architecture or {})["pad_token_id"])

    def forward(self, ids: Tensor, n_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the vectors of a batch.

        Parameters
        ----------
        ids : (batch, n_tokens)
        n_tokens : (batch,), valid tokens of each

        Returns
        -------
        text : (batch, n_tokens, n_features); vectors beyond a text's own are zero
        n_tokens : (batch,)
        """
        valid = torch.arange(ids.shape[1], device=n_tokens.device) < n_tokens.unsqueeze(1)
        # Two of the three families number positions by what is not padding.
        ids = ids.masked_fill(~valid, self._padding)
        text = self.encoder(ids, attention_mask=valid.long()).last_hidden_state
        return text.masked_fill(~valid.unsqueeze(2), 0.0), n_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallTextEncoderConfig:
    """Size of the encoder that is trained from scratch.

    Attributes
    ----------
    n_features
        Width of one token; even, a half for each direction.
    max_tokens
        Bytes and two border tokens; longer texts lose their end.
    """

    n_features: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    max_tokens: Annotated[int, Field(ge=3)] = 512


class SmallTextEncoder(nn.Module):
    """UTF-8 bytes to the states of one bidirectional recurrent layer (GRU).

    Token 0 is padding, 1 and 2 begin and end a text, and byte b is 3 + b.

    Parameters
    ----------
    config
        See :class:`SmallTextEncoderConfig`.
    """

    def __init__(self, config: SmallTextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.n_features
        self.embedding = nn.Embedding(3 + 256, width, padding_idx=0)
        self.recurrent = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether training changes the vectors."""
        return True

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Turn texts into token numbers; see :meth:`TextEncoder.tokenize`."""
        n_bytes = self.config.max_tokens - 2
        rows = [[1, *(3 + byte for byte in text.encode()[:n_bytes]), 2] for text in texts]
        return _padded(rows, value=0)

    def forward(self, ids: Tensor, n_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the vectors of a batch; shapes as in :meth:`TextEncoder.forward`."""
        packed = pack_padded_sequence(
            self.embedding(ids), n_tokens.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = self.recurrent(packed)
        text, _ = pad_packed_sequence(states, batch_first=True, total_length=ids.shape[1])
        return text, n_tokens


# name -> (module, config class)
TEXT_ENCODERS: dict[str, tuple[type[TextEncoder | SmallTextEncoder], type[Any]]] = {
    "pretrained": (TextEncoder, TextEncoderConfig),
    "small": (SmallTextEncoder, SmallTextEncoderConfig),
}


def build_text_encoder(name: str, settings: dict[str, Any]) -> TextEncoder | SmallTextEncoder:
    """Build a text encoder.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value is of the wrong kind.
    """
    if name not in TEXT_ENCODERS:
        raise InputError(
            f"text.name is '{name}', expected one of {', '.join(sorted(TEXT_ENCODERS))}"
        )
    module, config_class = TEXT_ENCODERS[name]
    return module(checked(config_class, settings, where="text"))


def text_encoder_to_dict(encoder: TextEncoder | SmallTextEncoder) -> dict[str, Any]:
    """Give the settings that :func:`build_text_encoder` rebuilds the encoder from."""
    return asdict(encoder.config)


def read_text_features(path: Path | str, *, n_tokens: int | None = None) -> NDArray[np.float32]:
    """Read the token vectors of one text from a ``.npy`` file.

    Parameters
    ----------
    path
        An array (n_tokens, n_features) or (1, n_tokens, n_features).
    n_tokens
        How many tokens the text has, where that is known.

    Returns
    -------
    text : (n_tokens, n_features)

    Raises
    ------
    InputError
        If the file cannot be read without unpickling, holds something else or another number of
        tokens.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable .npy file of numbers ({reason})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        got = getattr(array, "dtype", type(array).__name__)
        raise InputError(f"{path}: holds {got}, expected one array of floating-point numbers")
    vectors = array[0] if array.ndim == 3 and len(array) == 1 else array
    if vectors.ndim != 2 or not vectors.size:
        raise InputError(
            f"{path}: has shape {array.shape}, expected (n_tokens, n_features) or "
            "(1, n_tokens, n_features)"
        )
    if not np.isfinite(vectors).all():
        raise InputError(f"{path}: holds NaN or infinite values: compute it again")
    if n_tokens is not None and len(vectors) != n_tokens:
        raise InputError(
            f"{path}: has vectors of {len(vectors)} tokens, but the text has {n_tokens}: compute "
            "it again with the same tokenizer from the same cleaned text"
        )
    return vectors.astype(np.float32)


def _padded(rows: Sequence[list[int]], *, value: int) -> tuple[Tensor, Tensor]:
    n_tokens = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(n_tokens.max())), value)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = torch.tensor(row)
    return ids, n_tokens


def _completed_from(folder: Path, config: TextEncoderConfig) -> TextEncoderConfig:
    """Fill in what the folder of a network says."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file: make it once with AutoTokenizer.from_pretrained and "
            "save_pretrained of transformers"
        )
    return _completed(
        replace(
            config,
            architecture=read_json(folder / "config.json"),
            tokenizer=json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":")),
            weights_sha256=weights_sha256(folder, expected=config.weights_sha256, where="text"),
        ),
        where=str(folder / "config.json"),
    )


def _completed(config: TextEncoderConfig, *, where: str = "text.architecture") -> TextEncoderConfig:
    """Complete the architecture, and check it against the tokenizer and ``max_tokens``."""
    architecture = complete_architecture(config.architecture or {}, families=FAMILIES, where=where)
    n_positions = architecture["max_position_embeddings"]
    if architecture["model_type"] not in _OWN_POSITIONS:
        n_positions -= architecture["pad_token_id"] + 1
    if config.max_tokens > n_positions:
        raise InputError(
            f"text.max_tokens is {config.max_tokens}, but '{config.model}' has {n_positions} "
            "positions: set it to that or less"
        )
    tokenizer = _parsed_tokenizer(config)
    n_tokens, n_known = tokenizer.get_vocab_size(), architecture["vocab_size"]
    if n_tokens > n_known:
        raise InputError(
            f"the tokenizer of '{config.model}' knows {n_tokens} tokens, its network {n_known}: "
            "tokenizer.json belongs to another model"
        )
    if not tokenizer.encode("").ids:
        raise InputError(
            f"the tokenizer of '{config.model}' marks neither begin nor end of a text: "
            "tokenizer.json belongs to another model"
        )
    return replace(config, architecture=architecture)


def _parsed_tokenizer(config: TextEncoderConfig) -> Any:
    from tokenizers import Tokenizer

    if config.tokenizer is None:
        raise InputError("text.tokenizer: missing beside text.architecture")
    try:
        return Tokenizer.from_str(config.tokenizer)
    except Exception as error:  # the class that it raises is Exception itself
        raise InputError(
            f"tokenizer.json of '{config.model}' is damaged ({' '.join(str(error).split())[:200]})"
        ) from None
