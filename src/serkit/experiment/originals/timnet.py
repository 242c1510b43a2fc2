"""Files of TIM-Net's authors in experiments: their features as a corpus, their weights as a model.

``[corpus] features = "CASIA.npy"`` trains on the authors' own cepstra. Such a file has labels and
an order, and neither names nor speakers; see :mod:`serkit.features.author_features`. Where the
corpus itself is there as well (``corpus.root``), ids, speakers and sentences come from its file
names, by position: rows and utterances are both class-major, and inside a class both in the natural
order of the file names.

``serkit import-weights`` turns a Keras weight file of the authors into a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serkit.corpora import get_corpus, load_corpus
from serkit.corpora.manifest import sort_utterances
from serkit.corpora.splits import SPLITS, dev_rule_of, protocol_words
from serkit.experiment.config import ConfigError, CorpusConfig, ExperimentConfig, load_experiment
from serkit.features.author_features import AuthorFeatures, read_author_features
from serkit.features.cache import ExtractedFeatures
from serkit.features.mfcc import MFCC_PRESETS
from serkit.features.views import FixedView
from serkit.labels import map_label
from serkit.models.timnet_keras import load_keras_weights
from serkit.recognizer import Recognizer, RecognizerConfig
from serkit.types import Utterance

__all__ = ["AuthorCorpus", "ImportedWeights", "import_weights", "read_author_corpus"]

_FRONT_END = "timnet-code"
_UNKNOWN = "unknown"
_NAMELESS_DEV_RULES = ("none", "random", "test")  # all that look at labels alone


@dataclass(frozen=True, slots=True)
class AuthorCorpus:
    """Rows of a feature file as utterances.

    Attributes
    ----------
    name
        The file's name, for messages.
    utterances
        One per row, class-major.
    summary
        What was found and where it is from, for the report.
    complete
        Whether there are as many utterances of each class as in the release.
    features
        The file's content.
    rows
        Utterance id -> row.
    """

    name: str
    utterances: list[Utterance]
    summary: str
    complete: bool
    features: AuthorFeatures
    rows: Mapping[str, int]

    def extracted(
        self, recognizer: Recognizer, utterances: Sequence[Utterance]
    ) -> ExtractedFeatures:
        """Give the features of utterances, as if they had been extracted from sound.

        The hash of a row stands for the hash of its sound in the leak check.

        Raises
        ------
        ConfigError
            If the recognizer would make other features of sound than the file holds.
        """
        n_frames = self.features.x.shape[1]
        settings = recognizer.front_end_settings()
        # How librosa treated the edges depends on the version that the authors ran.
        wanted = {"name": "mfcc"} | asdict(MFCC_PRESETS[_FRONT_END]) | {"edge": settings["edge"]}
        if settings != wanted:
            raise ConfigError(
                f"corpus.features: {self.name} holds features of the front end mfcc with preset "
                f"{_FRONT_END}, the experiment asks for another: set front_end.preset = "
                f"'{_FRONT_END}'"
            )
        view, hop = recognizer.view, int(settings["hop_length"])
        if not isinstance(view, FixedView) or 1 + view.n_samples // hop != n_frames:
            raise ConfigError(
                f"corpus.features: {self.name} has {n_frames} frames per utterance, the "
                f"experiment's view ({_words(recognizer.config.view)}) makes another number: set "
                f"view.kind = 'fixed' and view.n_samples = {(n_frames - 1) * hop} to "
                f"{n_frames * hop - 1}"
            )
        ids = [u.id for u in utterances]
        x = self.features.x[[self.rows[i] for i in ids]]
        return ExtractedFeatures(
            features=x.reshape(-1, x.shape[-1]),
            n_frames=np.full(len(ids), n_frames, dtype=np.int64),
            owners=np.arange(len(ids)),
            audio_hashes={
                i: hashlib.sha256(row).hexdigest() for i, row in zip(ids, x, strict=True)
            },
            durations_s=dict.fromkeys(ids, n_frames * hop / recognizer.sample_rate),
            n_cached=0,
        )


def read_author_corpus(
    config: ExperimentConfig, path: Path, *, root: Path | None = None
) -> AuthorCorpus:
    """Read the feature file of an experiment as a corpus.

    Parameters
    ----------
    path
        The file that ``config.corpus.features`` names.
    root
        Folder of the corpus itself; its sound is not read, its file names are.

    Raises
    ------
    InputError
        If the file cannot be used, its classes are not the corpus's, the corpus at ``root`` has
        other utterances, or the protocol needs speakers or sentences and there is no ``root``.
    """
    corpus = config.corpus
    key, module = get_corpus(str(corpus.name))
    if root is None:
        _require_no_names(config, path.name)
    features = read_author_features(path)
    per_label, merged = _classes(config, module.EXPECTED.per_label, features, path)
    classes = sorted(per_label)
    counts = dict(zip(classes, features.class_counts, strict=True))
    complete = counts == per_label
    origin = (
        f"the authors' published file {features.original}.npy, byte for byte"
        if features.original
        else "not one of the files that the authors published"
    )
    text = (
        f"{key}: features from {path.name}, {origin}, not from sound: {len(features.y)} "
        f"utterances, {len(classes)} classes"
    )
    if not complete:
        differences = ", ".join(
            f"{c} {counts[c]} of {per_label[c]}" for c in classes if counts[c] != per_label[c]
        )
        text += f"; incomplete or of another corpus ({differences})"
        if not corpus.allow_incomplete:
            raise ConfigError(
                f"{text}: check corpus.name, or accept the file with corpus.allow_incomplete = true"
            )
    rows = [
        Utterance(
            id=f"row{row:04d}",
            # One path per row: utterances of one path would count as stretches of one recording.
            path=path.absolute() / f"row{row:04d}",
            corpus=key,
            label=classes[y],
            speaker=_UNKNOWN,
        )
        for row, y in enumerate(features.y)
    ]
    if root is None:
        utterances = sort_utterances(rows)
        ids = {u.id: int(u.id.removeprefix("row")) for u in utterances}
        summary = text + "; the file names no speakers"
        return AuthorCorpus(path.name, utterances, summary, complete, features, ids)
    named = _named(config, root, merged=merged)
    _require_same_counts(named, rows, features, path, root)
    # Both are class-major, so the n-th utterance is the n-th row.
    summary = text + f"; ids, speakers and sentences by position from the file names in {root.name}"
    ids = {utterance.id: row for row, utterance in enumerate(named)}
    return AuthorCorpus(path.name, named, summary, complete, features, ids)


def _require_no_names(config: ExperimentConfig, name: str) -> None:
    """Refuse a protocol that needs speakers, sentences or sessions."""
    protocol = config.protocol
    if protocol.folds_file is not None:
        return
    dev = dev_rule_of(protocol.split, protocol.dev)
    needs_names = None
    if SPLITS[protocol.split].separates or protocol.split == "official":
        needs_names = f"protocol.split = '{protocol.split}'"
    elif dev not in _NAMELESS_DEV_RULES:
        needs_names = f"protocol.dev = '{dev}'"
    if needs_names:
        raise ConfigError(
            f"{needs_names}: {name} holds no speaker ids and no sentences, so nothing can be kept "
            "apart by them: name the corpus itself as well (corpus.root), or take protocol.split = "
            "'random_folds' with dev 'random' or 'none'"
        )


def _classes(
    config: ExperimentConfig, expected: Mapping[str, int], features: AuthorFeatures, path: Path
) -> tuple[dict[str, int], bool]:
    """Find which of the corpus's classes the columns are, and whether labels are merged already.

    The authors' IEMOCAP has the four classes that the experiment makes by ``labels.map`` and
    ``labels.keep``; of the other corpora it has all classes.
    """
    merged: Counter[str] = Counter()
    for label, n in expected.items():
        after = map_label(label, mapping=config.labels.map, keep=config.labels.keep)
        if after is not None:
            merged[after] += n
    for per_label in (dict(expected), dict(merged)):
        if len(per_label) == features.n_classes:
            return per_label, per_label != dict(expected)
    raise ConfigError(
        f"{path}: the labels have {features.n_classes} classes, corpus {config.corpus.name} has "
        f"{len(expected)} ({', '.join(sorted(expected)) or 'none known'}): check corpus.name"
    )


def _named(config: ExperimentConfig, root: Path, *, merged: bool) -> list[Utterance]:
    """Read the corpus's own file names, in serkit's order, with labels as in the feature file."""
    corpus: CorpusConfig = config.corpus
    utterances, _ = load_corpus(
        str(corpus.name), root, allow_incomplete=corpus.allow_incomplete, options=corpus.options
    )
    labels = config.labels
    named = []
    for utterance in utterances:
        label = utterance.label
        if merged:
            label = map_label(label, mapping=labels.map, keep=labels.keep)
        if label is not None:
            named.append(replace(utterance, label=label))
    return sort_utterances(named)


def _require_same_counts(
    named: Sequence[Utterance],
    rows: Sequence[Utterance],
    features: AuthorFeatures,
    path: Path,
    root: Path,
) -> None:
    if not features.class_major:
        raise ConfigError(
            f"{path}: rows of one class do not stand together, so they cannot be matched with the "
            "files of the corpus: leave out corpus.root"
        )
    ours, theirs = Counter(u.label for u in named), Counter(u.label for u in rows)
    differences = [
        f"{label} {theirs[label]} and {ours[label]}"
        for label in sorted({*map(str, ours), *map(str, theirs)})
        if ours[label] != theirs[label]
    ]
    if differences:
        raise ConfigError(
            f"{path}: has other utterances than the corpus in {root} ({', '.join(differences)}), "
            "so rows cannot be matched with files: leave out corpus.root, or get the missing files"
        )


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


@dataclass(frozen=True, slots=True)
class ImportedWeights:
    """A checkpoint made of the authors' weights."""

    folder: Path
    corpus: str
    classes: tuple[str, ...]
    n_scales: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """Sentences for people."""
        return [
            f"TIM-Net with {self.n_scales} depths for {self.corpus}: {', '.join(self.classes)}",
            f"mind: {', '.join(self.warnings)}",
            f"model: {self.folder}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain objects for JSON."""
        return {
            "model": str(self.folder),
            "corpus": self.corpus,
            "classes": list(self.classes),
            "n_scales": self.n_scales,
            "warnings": list(self.warnings),
        }


def import_weights(path: Path, corpus: str, out: Path) -> ImportedWeights:
    """Turn one of the authors' Keras weight files into a checkpoint.

    Parameters
    ----------
    corpus
        The corpus it was trained on: gives the names of the classes and the length of input.
    out
        Folder to write; must not exist, or be empty.

    Raises
    ------
    InputError
        If the file or the corpus cannot be used, their numbers of classes differ, or ``out``
        holds something.
    """
    key, module = get_corpus(corpus)
    config = load_experiment("timnet/base", overrides=[f"corpus.name={key}"])
    model = load_keras_weights(path)
    kept = (
        map_label(label, mapping=config.labels.map, keep=config.labels.keep)
        for label in module.EXPECTED.per_label
    )
    classes = tuple(sorted({label for label in kept if label is not None}))
    if len(classes) != model.config.n_classes:
        raise ConfigError(
            f"{path}: the classifier has {model.config.n_classes} classes, corpus {key} has "
            f"{len(classes)} ({', '.join(classes) or 'none known'}): check --corpus"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is not an empty folder: choose another -o")
    # The authors' folds are random, and which of their weights were picked on the test fold is
    # not recorded in the files.
    words = tuple(
        "possibly selected on test" if word == "selected on test" else word
        for word in protocol_words("random_folds", "test")
    )
    recognizer = Recognizer(
        RecognizerConfig(
            system=config.system,
            classes=classes,
            view=config.view,
            front_end=config.front_end,
            model=dict(config.model) | {"n_scales": model.config.n_scales},
            normalise=config.normalise,
            channel="mean",  # as the authors' loader, for every corpus
            trained_on={
                "name": f"timnet-authors-{key}",
                "corpus": module.TITLE,
                "licence": module.LICENSE,
                "origin": f"imported from the authors' Keras weights, {path.name}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "protocol": {
                    "split": "random_folds, as published",
                    "speaker_independent": False,
                    "warnings": list(words),
                },
            },
        )
    )
    recognizer.model.load_state_dict(model.state_dict())
    recognizer.save(out, card=_card(recognizer, module.TITLE, module.LICENSE, path.name, words))
    return ImportedWeights(out, key, classes, model.config.n_scales, words)


def _card(recognizer: Recognizer, title: str, licence: str, file: str, words: Sequence[str]) -> str:
    count = f"{recognizer.n_parameters:,}"
    return f"""# {recognizer.config.system}, weights of its authors, {title}

**{" · ".join(word.upper() for word in words)}**

Recognises {", ".join(recognizer.labels.classes)} from speech. {count} parameters.

Imported from `{file}`, a Keras weight file of the authors; serkit did not train it. It is one fold
of their random cross-validation, in which the voices of the test part are heard in training, and in
part of their experiments the epoch was picked on the test part. No score is stated here: the file
does not say which utterances were in that test part.

The weights are the authors' work and stand under their terms. Corpus: {title}; its licence:
{licence}.

Corpora of acted emotion are not life: expect much lower scores on voices and microphones that are
not in the corpus.
"""
