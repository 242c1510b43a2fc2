"""Checkpoints of MMER's authors as recognizers: ``serkit import-weights --system mmer``.

Such a file holds the fusion and the fine-tuned speech encoder, and neither the text encoder nor
settings (see :mod:`serkit.models.mmer_import`). The speech encoder is wav2vec 2.0 base, whose
configuration is known; RoBERTa base has to be given. Both are as wide as the fusion between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serkit.audio import file_sha256
from serkit.corpora import get_corpus
from serkit.experiment.config import ConfigError, load_experiment
from serkit.features.pretrained import find_folder, read_json
from serkit.models.mmer import Mmer
from serkit.models.mmer_import import MmerWeightsError, load_mmer_weights
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.transcripts import WAV2VEC2

__all__ = ["ImportedMmer", "import_mmer"]

_CLASSES = ("happy", "angry", "neutral", "sad")  # in the order of the authors' classifier
_WARNINGS = ("selected on test",)


@dataclass(frozen=True, slots=True)
class ImportedMmer:
    """A checkpoint made of the authors' weights."""

    folder: Path
    n_parameters: int

    def lines(self) -> list[str]:
        """Sentences for people."""
        return [
            f"MMER for IEMOCAP, {self.n_parameters:,} trained parameters: {', '.join(_CLASSES)}",
            f"mind: {', '.join(_WARNINGS)}",
            f"model: {self.folder}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "model": str(self.folder),
            "classes": list(_CLASSES),
            "n_parameters": self.n_parameters,
            "warnings": list(_WARNINGS),
        }


def import_mmer(
    path: Path, out: Path, *, text_encoder: str, encoder: Path | None = None
) -> ImportedMmer:
    """Turn one of the authors' checkpoints into ours, which reads transcripts by itself.

    Parameters
    ----------
    path
        The ``.pt`` file, or the same weights as ``.safetensors``.
    out
        Folder to write; must not exist, or be empty.
    text_encoder
        RoBERTa base, whose token vectors the authors trained on: a folder, or its identifier where
        it is in the local cache.
    encoder
        Folder of the speech encoder that was fine-tuned; of it, only the configuration is read.
        ``None``: wav2vec 2.0 base as it is published.

    Raises
    ------
    InputError
        If the file or an encoder cannot be used, they do not fit each other, or ``out`` holds
        something.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an empty folder: choose another -o")
    recognizer = _with_random_weights(path, text_encoder, encoder)
    assert isinstance(recognizer.model, Mmer)
    mmer, wav2vec2 = load_mmer_weights(path, config=recognizer.model.config)
    recognizer.model.load_state_dict(mmer)
    network = recognizer.get_submodule("front_end.encoder")
    wav2vec2 = {key: value for key, value in wav2vec2.items() if key != "masked_spec_embed"}
    try:
        network.load_state_dict(wav2vec2)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise MmerWeightsError(
            f"{path}: holds another speech encoder than {encoder or 'wav2vec 2.0 base'} describes "
            f"({detail})"
        ) from None
    recognizer.save(out, card=_card(recognizer, path.name))
    return ImportedMmer(out, recognizer.n_parameters)


def _with_random_weights(path: Path, text_encoder: str, encoder: Path | None) -> Recognizer:
    """Build the recognizer that the weights are for."""
    config = load_experiment("mmer/as-published", overrides=["corpus.name=iemocap"])
    # All else of the base network is the default.
    architecture: dict[str, Any] = {"model_type": "wav2vec2"}
    if encoder is not None:
        architecture = read_json(encoder / "config.json")
    width = architecture.get("hidden_size", 768)
    words = read_json(find_folder(text_encoder, None, where="text") / "config.json")
    if words.get("hidden_size") != width:
        raise ConfigError(
            f"{text_encoder}: has vectors of {words.get('hidden_size')} numbers, expected "
            f"{width} as those of the speech encoder: give the folder of RoBERTa base"
        )
    _, corpus = get_corpus("iemocap")
    trained_on = {
        "name": "mmer-authors",
        "corpus": corpus.TITLE,
        "licence": corpus.LICENSE,
        "origin": f"imported from the authors' checkpoint {path.name}",
        "sha256": file_sha256(path) if path.is_file() else None,
        "protocol": {
            "split": "leave_one_session_out, as published",
            "speaker_independent": True,
            "warnings": list(_WARNINGS),
        },
    }
    return Recognizer(
        RecognizerConfig(
            system=config.system,
            classes=_CLASSES,
            view=config.view,
            front_end=config.front_end | {"architecture": architecture, "normalise_waveform": True},
            model=config.model | {"width": width},
            text=(config.text or {}) | {"model": text_encoder},
            symbols=WAV2VEC2.symbols,
            trained_on=trained_on,
        )
    )


def _card(recognizer: Recognizer, file: str) -> str:
    licence = recognizer.config.trained_on["licence"]
    return f"""# MMER, weights of its authors, IEMOCAP

**{" · ".join(word.upper() for word in _WARNINGS)}**

Recognises {", ".join(_CLASSES)} from speech and its transcript. {recognizer.n_parameters:,} trained
parameters, and RoBERTa base as it was given.

Imported from `{file}`, a checkpoint of the authors; serkit did not train it. It is one fold of
their leave-one-session-out cross-validation, and the epoch was picked on the session left out.
Which one that was, the file does not say; no score is stated here. How the authors computed the
token vectors that they trained on was not published: RoBERTa's last layer is assumed.

The weights are the authors' work and stand under their terms. Corpus: {licence}.

Corpora of acted emotion are not life: expect much lower scores on voices and microphones that are
not in the corpus, and on transcripts written by a machine.
"""
