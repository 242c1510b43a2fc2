"""Text encoders: transcripts to one vector per token.

A text encoder is a module built from a frozen config. ``tokenize(texts)`` gives ``(ids, n_tokens)``
and ``forward(ids, n_tokens)`` gives ``(text, n_tokens)``. Its config names the width of a token.

* ``pretrained``: RoBERTa, XLM-RoBERTa or BERT, from a folder as in
  :mod:`serkit.features.pretrained`; the last hidden states, special tokens included. Its tokenizer
  is kept in the config, as the one string that ``tokenizer.json`` is (about half a megabyte for
  BERT, one for RoBERTa, ten or more for XLM-RoBERTa), so that a checkpoint needs no folder.
* ``small``: bytes, an embedding and a recurrent layer, to be trained from scratch.
* ``precomputed``: no network here; vectors that were computed elsewhere, by utterance id. A folder
  of them is what :func:`write_text_features` writes: one ``<id>.npy`` (n_tokens, n_features) each.
  So is one ``.npz`` file with the arrays ``ids`` (n,), ``lengths`` (n,), in tokens, and ``values``
  (sum of lengths, n_features).

Transcripts are cleaned by :func:`serkit.transcripts.clean_transcript` before they are tokenized.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from serkit.audio import file_sha256
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
from serkit.features.text_cache import ExtractedText
from serkit.files import replacing
from serkit.settings import checked
from serkit.transcripts import clean_transcript
from serkit.types import InputError

__all__ = [
    "TEXT_ENCODERS",
    "AnyTextEncoder",
    "PrecomputedText",
    "PrecomputedTextConfig",
    "SmallTextEncoder",
    "SmallTextEncoderConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "build_text_encoder",
    "build_text_input",
    "read_text_features",
    "text_encoder_to_dict",
    "write_text_features",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecomputedTextConfig:
    """Where the vectors of a corpus lie, and what they are.

    Attributes
    ----------
    folder
        Folder or ``.npz`` file; see the module's page.
    sha256
        Hash of all of them. Filled in; where it is given, others are refused.
    width
        Of a token's vector, filled in. Where it is given, the folder is not needed until the
        vectors of a corpus are read.
    """

    folder: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    width: PositiveInt | None = None

    @property
    def n_features(self) -> int:
        """Width of one token; known once the encoder has been built.

        Raises
        ------
        InputError
            If ``width`` is not filled in.
        """
        if self.width is None:
            raise InputError(
                f"text.width of the vectors in '{self.folder}' is not known yet: use the config of "
                "the built encoder"
            )
        return self.width


class PrecomputedText(nn.Module):
    """Stands where a text encoder would, for vectors that were computed elsewhere.

    Parameters
    ----------
    config
        See :class:`PrecomputedTextConfig`; the attribute ``config`` is the completed one.

    Raises
    ------
    InputError
        If there are no vectors, others than expected, or they cannot be read.
    """

    def __init__(self, config: PrecomputedTextConfig) -> None:
        super().__init__()
        if config.width is None:
            path = Path(config.folder).expanduser()
            got = _vectors_sha256(path)
            if config.sha256 not in (None, got):
                raise InputError(
                    f"text.sha256 is {config.sha256}, but the vectors in {path} have {got}: they "
                    "were computed again"
                )
            config = replace(config, sha256=got, width=_any_vectors(path).shape[1])
        self.config = config

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether training changes the vectors: never."""
        return False

    def read(self, ids: Sequence[str]) -> ExtractedText:
        """Read the vectors of utterances.

        Raises
        ------
        InputError
            If utterances have none, or theirs cannot be used.
        """
        stored = self.find(ids)
        missing = [identity for identity in ids if identity not in stored]
        if missing:
            raise InputError(
                f"text.folder: {len(missing)} of {len(ids)} utterances have no vectors in "
                f"{self.config.folder}, the first is {missing[0]}: compute them too"
            )
        rows = [stored[identity] for identity in ids]
        return ExtractedText(np.concatenate(rows), np.array([len(row) for row in rows]))

    def find(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Find the vectors, (n_tokens, n_features) each, of those utterances that have any.

        Raises
        ------
        InputError
            If some cannot be used.
        """
        path = Path(self.config.folder).expanduser()
        if path.is_file():
            archive = _read_archive(path)
            found = {identity: archive[identity] for identity in ids if identity in archive}
        else:
            _require_vectors(path)
            files = {identity: path / f"{identity}.npy" for identity in ids}
            found = {i: read_text_features(f) for i, f in files.items() if f.is_file()}
        for identity, row in found.items():
            if row.shape[1] != self.config.n_features:
                raise InputError(
                    f"text.folder: the vectors of {identity} in {path} have {row.shape[1]} "
                    f"numbers, expected {self.config.n_features}: they are of another encoder"
                )
        return found

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Refuse texts: there is no network here that could read them.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(
            f"got {len(texts)} texts, but this recognizer reads vectors that were computed "
            "elsewhere, and does not hold the network that computed them: give vectors"
        )

    def forward(self, text: Tensor, n_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Give the vectors as they are; shapes as those of :meth:`TextEncoder.forward`'s result."""
        return text, n_tokens


AnyTextEncoder = TextEncoder | SmallTextEncoder | PrecomputedText

# name -> (module, config class)
TEXT_ENCODERS: dict[str, tuple[type[TextEncoder | SmallTextEncoder], type[Any]]] = {
    "pretrained": (TextEncoder, TextEncoderConfig),
    "small": (SmallTextEncoder, SmallTextEncoderConfig),
}


def build_text_input(name: str, settings: dict[str, Any]) -> AnyTextEncoder:
    """Build a text encoder, or what stands in its place where vectors are precomputed.

    Raises
    ------
    InputError
        If the name or a setting is unknown, or a value is of the wrong kind.
    """
    if name == "precomputed":
        return PrecomputedText(checked(PrecomputedTextConfig, settings, where="text"))
    if name not in TEXT_ENCODERS:
        names = ", ".join(sorted([*TEXT_ENCODERS, "precomputed"]))
        raise InputError(f"text.name is '{name}', expected one of {names}")
    return build_text_encoder(name, settings)


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


def text_encoder_to_dict(encoder: AnyTextEncoder) -> dict[str, Any]:
    """Give the settings that :func:`build_text_input` rebuilds the encoder from."""
    return asdict(encoder.config)


@torch.inference_mode()
def write_text_features(
    folder: Path | str, encoder: TextEncoder | SmallTextEncoder, texts: Mapping[str, str]
) -> Path:
    """Write the vectors of utterances where ``[text] name = "precomputed"`` finds them.

    Parameters
    ----------
    folder
        Made where it does not exist.
    encoder
        What reads the texts, cleaned, each alone.
    texts
        Utterance id -> what is said.

    Returns
    -------
    The folder.

    Raises
    ------
    InputError
        If an id leads outside the folder; nothing is written then.
    """
    folder = Path(folder)
    for identity in texts:
        inside = PurePosixPath(identity.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts:
            raise InputError(
                f"utterance id '{identity}' leads outside {folder}: expected one without '..' that "
                "does not begin with a separator"
            )
    encoder.eval()
    for identity, text in texts.items():
        vectors, _ = encoder(*encoder.tokenize([clean_transcript(text)]))
        path = folder / f"{identity}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, vectors[0].cpu().numpy())
    return folder


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


def _require_vectors(path: Path) -> list[Path]:
    """List the files of a folder of vectors."""
    files = sorted(path.rglob("*.npy")) if path.is_dir() else []
    if not files:
        raise InputError(
            f"text.folder: no vectors in {path}: expected a folder with a .npy file for each "
            "utterance id, or an .npz file"
        )
    return files


def _vectors_sha256(path: Path) -> str:
    """Identify vectors: the hash of the file, or of the names and hashes of all of the folder."""
    if path.is_file():
        return file_sha256(path)
    names = [(file.relative_to(path).as_posix(), file) for file in _require_vectors(path)]
    rows = [[name, file_sha256(file)] for name, file in names]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _any_vectors(path: Path) -> NDArray[np.float32]:
    """Read the vectors of one utterance."""
    if path.is_file():
        return next(iter(_read_archive(path).values()))
    return read_text_features(_require_vectors(path)[0])


def _read_archive(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read the vectors in an ``.npz`` file, by utterance id."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            ids, lengths, values = (stored[name] for name in ("ids", "lengths", "values"))
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: no readable .npz file with the arrays ids, lengths and values "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    fits = ids.ndim == lengths.ndim == 1 and values.ndim == 2 and len(ids) == len(lengths) > 0
    numbers = lengths.dtype.kind in "iu" and values.dtype.kind == "f"
    if not (fits and numbers and lengths.min() > 0 and lengths.sum() == len(values)):
        raise InputError(
            f"{path}: ids {ids.shape}, lengths {lengths.shape} and values {values.shape} do not "
            "fit, expected (n,) of strings, (n,) of positive whole numbers, and floating-point "
            "(sum of lengths, n_features)"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds NaN or infinite values: compute it again")
    rows = np.split(values.astype(np.float32), np.cumsum(lengths)[:-1])
    return dict(zip(map(str, ids), rows, strict=True))


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
