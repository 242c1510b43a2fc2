"""What MMER's authors publish: checkpoints as recognizers, and the inference that goes with them.

A checkpoint holds the fusion and the fine-tuned speech encoder, and neither the text encoder nor
settings (see :mod:`serkit.models.mmer_import`). The speech encoder is wav2vec 2.0 base, whose
configuration is known. Of RoBERTa base the authors read token vectors from files: so does what is
imported without it, and what is imported with it reads transcripts too. Both encoders are as wide
as the fusion between them.

Their inference takes a session of IEMOCAP, their table of its utterances, a folder of sounds, a
folder of token vectors and a checkpoint (:func:`score_released`). Of longer sounds it hears the
first 13.125 s.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serkit.audio import file_sha256, probe
from serkit.corpora import get_corpus
from serkit.experiment.config import ConfigError, load_experiment
from serkit.experiment.progress import Progress, Quiet
from serkit.experiment.scoring import ScoredManifest, score_utterances
from serkit.features.pretrained import find_folder, read_json
from serkit.models.mmer import Mmer
from serkit.models.mmer_import import MmerWeightsError, load_mmer_weights
from serkit.recognizer import Recognizer, RecognizerConfig, load_recognizer
from serkit.transcripts import WAV2VEC2
from serkit.types import InputError, Utterance

__all__ = ["ImportedMmer", "import_mmer", "read_released_table", "score_released"]

_CLASSES = ("happy", "angry", "neutral", "sad")  # in the order of the authors' classifier
_LABELS = {"hap": "happy", "exc": "happy", "ang": "angry", "neu": "neutral", "sad": "sad"}
_LONGEST_S = 13.125  # 210,000 samples
_WARNINGS = ("selected on test",)


@dataclass(frozen=True, slots=True)
class ImportedMmer:
    """A checkpoint made of the authors' weights."""

    folder: Path
    n_parameters: int
    reads_words: bool

    def lines(self) -> list[str]:
        """Sentences for people."""
        reads = "words or token vectors" if self.reads_words else "token vectors (--text-features)"
        return [
            f"MMER for IEMOCAP, {self.n_parameters:,} trained parameters: {', '.join(_CLASSES)}",
            f"reads: sound and {reads}",
            f"mind: {', '.join(_WARNINGS)}",
            f"model: {self.folder}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "model": str(self.folder),
            "classes": list(_CLASSES),
            "n_parameters": self.n_parameters,
            "reads_words": self.reads_words,
            "warnings": list(_WARNINGS),
        }


def import_mmer(
    path: Path, out: Path, *, text_encoder: str | None = None, encoder: Path | None = None
) -> ImportedMmer:
    """Turn one of the authors' checkpoints into ours.

    Parameters
    ----------
    path
        The ``.pt`` file, or the same weights as ``.safetensors``.
    out
        Folder to write; must not exist, or be empty.
    text_encoder
        RoBERTa base, whose token vectors the authors trained on: a folder, or its identifier where
        it is in the local cache. ``None``: what is said will come as such vectors, and words
        cannot be read.
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
    return ImportedMmer(out, recognizer.n_parameters, reads_words=not recognizer.reads_vectors)


def score_released(
    model: Path | str,
    table: Path,
    out: Path,
    *,
    session: int,
    audio: Path,
    text_features: Path | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> ScoredManifest:
    """Infer as the authors' command does, and write down scores and truth of every utterance.

    Parameters
    ----------
    model
        Checkpoint folder, run folder, or name.
    table, session, audio
        See :func:`read_released_table`.
    out
        The predictions table to write (CSV).
    text_features
        Folder with the token vectors of each utterance, ``<id>.npy``; ``None``: the model reads
        the table's sentences by itself.
    n_workers
        Utterances at a time; default: one per core.

    Raises
    ------
    InputError
        If the table or the model cannot be used, the model has other classes than the table, or
        no utterance can be recognised: names the first and counts the rest.
    """
    recognizer = load_recognizer(model)
    missing = set(_CLASSES) - set(recognizer.labels.classes)
    if missing:
        raise InputError(
            f"{model}: knows {', '.join(recognizer.labels.classes)}, expected a model of "
            f"{', '.join(_CLASSES)}, as the authors' table has them: choose another --model"
        )
    utterances = read_released_table(table, session=session, audio=audio)
    return score_utterances(
        recognizer,
        [(utterance, str(utterance.label)) for utterance in utterances],
        out,
        text_features=text_features,
        n_workers=n_workers,
        progress=progress or Quiet(),
    )


def read_released_table(path: Path, *, session: int, audio: Path) -> list[Utterance]:
    """Read the utterances of one session from the authors' table of IEMOCAP.

    Parameters
    ----------
    path
        CSV with the columns ``FileName``, ``Sentences`` and ``Label``, others aside.
    session
        1 to 5.
    audio
        Folder that holds ``<FileName>.wav`` of each, without folders below.

    Returns
    -------
    utterances
        In the order of the table. Happy and excited ones are both called happy; those of more than
        13.125 s end there, as the authors cut them.

    Raises
    ------
    InputError
        If the table cannot be read, holds other names or labels, or nothing of the session; or a
        sound file is missing or broken.
    """
    _, corpus = get_corpus("iemocap")
    utterances = []
    for number, row in enumerate(_rows(path), start=2):
        name, label = (row["FileName"] or "").strip(), (row["Label"] or "").strip()
        known = corpus.parse(audio / f"{name}.wav", name)
        if known is None or label not in _LABELS:
            raise InputError(
                f"{path}, row {number}: got FileName '{name}' and Label '{label}', expected a turn "
                f"of IEMOCAP such as Ses01F_impro01_F000 and one of {', '.join(_LABELS)}"
            )
        if known.session == f"Ses{session:02d}":
            words = row["Sentences"] or ""
            utterances.append(replace(known, label=_LABELS[label], transcript=words))
    if not utterances:
        raise InputError(f"{path}: has no utterance of session {session}, expected one of 1 to 5")
    return [replace(u, end_s=_LONGEST_S) if _is_cut(u.path) else u for u in utterances]


def _is_cut(path: Path) -> bool:
    """Tell whether the authors hear only the beginning of a sound."""
    return probe(path).duration_s > _LONGEST_S


def _rows(path: Path) -> list[dict[str, str | None]]:
    """Read the authors' table."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not {"FileName", "Sentences", "Label"} <= set(columns):
        raise InputError(
            f"{path}: has the columns {', '.join(columns) or '(none)'}, expected FileName, "
            "Sentences and Label, as the table of MMER's authors has"
        )
    return rows


def _with_random_weights(path: Path, text_encoder: str | None, encoder: Path | None) -> Recognizer:
    """Build the recognizer that the weights are for."""
    config = load_experiment("mmer/as-published", overrides=["corpus.name=iemocap"])
    # All else of the base network is the default.
    architecture: dict[str, Any] = {"model_type": "wav2vec2"}
    if encoder is not None:
        architecture = read_json(encoder / "config.json")
    width = architecture.get("hidden_size", 768)
    if text_encoder is None:
        # The release's name of the folder; another is given with each prediction.
        text = {"name": "precomputed", "folder": "data/roberta", "width": width}
    else:
        _require_width(text_encoder, width)
        text = (config.text or {}) | {"model": text_encoder}
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
            text=text,
            symbols=WAV2VEC2.symbols,
            trained_on=trained_on,
        )
    )


def _require_width(text_encoder: str, width: int) -> None:
    """Refuse a text encoder whose vectors do not fit the fusion."""
    words = read_json(find_folder(text_encoder, None, where="text") / "config.json")
    if words.get("hidden_size") != width:
        raise ConfigError(
            f"{text_encoder}: has vectors of {words.get('hidden_size')} numbers, expected "
            f"{width} as those of the speech encoder: give the folder of RoBERTa base"
        )


def _card(recognizer: Recognizer, file: str) -> str:
    licence = recognizer.config.trained_on["licence"]
    words = "and RoBERTa base as it was given."
    if recognizer.reads_vectors:
        words = "without RoBERTa base, whose token vectors it has to be given with every sound."
    return f"""# MMER, weights of its authors, IEMOCAP

**{" · ".join(word.upper() for word in _WARNINGS)}**

Recognises {", ".join(_CLASSES)} from speech and its transcript. {recognizer.n_parameters:,} trained
parameters, {words}

Imported from `{file}`, a checkpoint of the authors; serkit did not train it. It is one fold of
their leave-one-session-out cross-validation, and the epoch was picked on the session left out.
Which one that was, the file does not say; no score is stated here. How the authors computed the
token vectors that they trained on was not published: RoBERTa's last layer is assumed.

The weights are the authors' work and stand under their terms. Corpus: {licence}.

Corpora of acted emotion are not life: expect much lower scores on voices and microphones that are
not in the corpus, and on transcripts written by a machine.
"""
