"""Named partitions of a corpus: who is trained on, who is selected by, who is judged by.

A *split* is a rule that makes folds; a *dev rule* says how each fold's dev part is carved out of
what the split leaves for training. Both are chosen by name from :data:`SPLITS` and
:data:`DEV_RULES`, both are deterministic, and both state which axes (speaker, sentence, script,
session, corpus) they keep apart, so that a report can say *speaker-independent* where it is true
and carry the warning words of :func:`protocol_words` where it is not.

Only labels and names are looked at, never audio. Parts keep the order in which the utterances were
given; apart from ``random_folds`` and ``stratified_folds``, whose definition is an order, the
membership does not depend on it. Where utterances of several corpora come together, a speaker (or
session, ...) is known by corpus and name: two corpora's speaker ``01`` are two people.

What a dialogue is named tells two things more, if it is named as IEMOCAP does, *recording*,
underscore, *script*: ``Ses05M_script01_1b`` is a take, here the second one (``b``), of the script
``script01_1`` in the recording ``Ses05M``.

``docs/protocols.md`` explains every rule and which published protocol it corresponds to.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from serkit.audio import natural_key
from serkit.corpora.manifest import CorpusError
from serkit.files import replacing
from serkit.types import Fold, Utterance

__all__ = [
    "AXES",
    "DEV_RULES",
    "SCRIPTS_SHARED",
    "SELECTED_ON_TEST",
    "SENTENCES_SHARED",
    "SPEAKER_DEPENDENT",
    "SPLITS",
    "DevRule",
    "Split",
    "SplitOptions",
    "dev_rule_of",
    "make_folds",
    "protocol_words",
    "read_folds_csv",
    "script_of",
    "write_folds_csv",
]

AXES = ("speaker", "sentence", "script", "session", "corpus")

# The words that tables, reports and checkpoints carry. Other code compares with these constants.
SPEAKER_DEPENDENT = "speaker-dependent"
SELECTED_ON_TEST = "selected on test"
SENTENCES_SHARED = "sentences shared"
SCRIPTS_SHARED = "scripts shared"
_DEV_SHARES = {
    "speaker": "dev shares speakers with train",
    "sentence": "dev shares sentences with train",
    "script": "dev shares scripts with train",
}

_PARTS = ("train", "dev", "test")
# Dev rule -> the split that prescribes its dev part.
_PRESCRIBING = {
    "official": "official",
    "other_speaker": "leave_one_session_out",
    "rotating": "rotating_folds_held_out",
}
_Axis = Literal["speaker", "sentence", "session", "recording", "script"]
_Rule = TypeVar("_Rule")
# What is named by a part of another field.
_FIELD_OF: Mapping[str, str] = {"recording": "dialogue", "script": "dialogue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """What a split and its dev rule can be told.

    Attributes
    ----------
    n_folds
        Number of folds, or of speaker groups for ``speaker_and_sentence`` and
        ``speaker_and_script``; the rotating splits make one rotation less. ``None``: the split's
        own number. The leave-one-out splits, ``shuffled_speakers``, ``recording_folds``,
        ``official`` and ``cross_corpus`` take none.
    n_sentence_folds
        Number of groups of sentences or scripts, for ``speaker_and_sentence`` and
        ``speaker_and_script`` alone.
    seed
        Shuffles the random and the rotating splits, ``shuffled_speakers`` and the ``random`` dev
        rule; nothing else.
    dev
        Name of a dev rule; ``None``: the split's own (``speaker`` wherever the split keeps
        speakers apart).
    n_dev
        How many speakers, sentences or sessions the dev part takes.
    dev_fraction
        Share of the training part that the ``random`` dev rule takes, in (0, 1).
    train_corpora, test_corpora
        Corpus keys, for ``cross_corpus`` alone; empty means all the others.
    """

    n_folds: int | None = None
    n_sentence_folds: int = 2
    seed: int = 0
    dev: str | None = None
    n_dev: int = 1
    dev_fraction: float = 0.1
    train_corpora: tuple[str, ...] = ()
    test_corpora: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cell:
    """A fold before its dev part is carved; ``dev`` is set where the split prescribes one."""

    name: str
    pool: list[Utterance]
    test: list[Utterance]
    dev: list[Utterance] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A rule that makes folds.

    Attributes
    ----------
    make
        The rule itself.
    separates
        Axes on which train and test, and dev and test, share nothing. For ``official`` nothing is
        promised: the corpus decides, and the leak check says what holds.
    default_dev
        Dev rule where none is chosen.
    summary
        One line for lists and reports.
    """

    make: Callable[[Sequence[Utterance], SplitOptions], list[_Cell]]
    separates: frozenset[str]
    default_dev: str
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DevRule:
    """A rule that carves a fold's dev part: ``carve(cell, fold_index, options)`` -> train, dev.

    ``separates`` names the axes on which the rule keeps train and dev apart.
    """

    carve: Callable[[_Cell, int, SplitOptions], tuple[list[Utterance], list[Utterance]]]
    separates: frozenset[str]
    summary: str


def make_folds(
    utterances: Sequence[Utterance], split_name: str, options: SplitOptions | None = None
) -> list[Fold]:
    """Partition utterances by a named split and dev rule.

    Parameters
    ----------
    utterances
        What the folds are made from, with unique ids.
    split_name
        A key of :data:`SPLITS`.
    options
        Numbers, seed and dev rule; ``None`` takes every default.

    Returns
    -------
    folds
        Within a fold no id is in two parts, except under the dev rule ``test``, where dev is test.

    Raises
    ------
    CorpusError
        If a name is unknown, an id occurs twice, an option has no meaning for the split, the
        corpus has too few speakers, sentences or sessions or does not name them, or the parts
        would share what the split promises to keep apart.
    """
    options = options or SplitOptions()
    split = _lookup(SPLITS, split_name, "split")
    rule_name = dev_rule_of(split_name, options.dev)
    rule = DEV_RULES[rule_name]
    options = replace(options, dev=rule_name)
    _check_options(options)
    if not utterances:
        raise CorpusError(f"{split_name}: no utterances to split: check the corpus and labels.keep")
    _refuse_repeated(utterances)
    folds = []
    for index, cell in enumerate(split.make(_qualified(utterances), options)):
        train, dev = rule.carve(cell, index, options)
        for part, members in (("training", train), ("test", cell.test)):
            if not members:
                raise CorpusError(
                    f"{split_name}, fold {cell.name}: the {part} part is empty with dev rule "
                    f"'{rule_name}': use fewer folds or a smaller dev part"
                )
        _require_apart(split_name, cell.name, ("train", train), ("test", cell.test), split)
        if rule_name != "test":
            _require_apart(split_name, cell.name, ("dev", dev), ("test", cell.test), split)
            _require_apart(split_name, cell.name, ("train", train), ("dev", dev), rule)
        folds.append(Fold(name=cell.name, train=_ids(train), dev=_ids(dev), test=_ids(cell.test)))
    return folds


def dev_rule_of(split_name: str, dev: str | None) -> str:
    """Name the dev rule that applies: the chosen one, or the split's own where ``dev`` is ``None``.

    >>> dev_rule_of("leave_one_speaker_out", None), dev_rule_of("sentence_folds", None)
    ('speaker', 'sentence')

    Raises
    ------
    CorpusError
        If either name is unknown.
    """
    split = _lookup(SPLITS, split_name, "split")
    if dev is None:
        return split.default_dev
    _lookup(DEV_RULES, dev, "dev rule")
    return dev


def protocol_words(
    split_name: str,
    dev: str | None = None,
    *,
    separates: Collection[str] | None = None,
    scripts_shared: bool = False,
) -> tuple[str, ...]:
    """List the warning words that every table and checkpoint made under a protocol must carry.

    Parameters
    ----------
    split_name
        A key of :data:`SPLITS`.
    dev
        A key of :data:`DEV_RULES`; ``None``: the split's own.
    separates
        Axes that were found apart (:attr:`serkit.corpora.leaks.LeakReport.kept_apart`), where
        the name alone cannot tell: ``official`` parts, folds read from a file.
    scripts_shared
        Whether scripts were found in train and test
        (:attr:`serkit.corpora.leaks.LeakReport.scripts_shared`), which no name can tell: few
        corpora have any.

    Returns
    -------
    words
        Empty for a protocol that shares neither speakers nor what they say.

    >>> protocol_words("random_folds", "test")
    ('speaker-dependent', 'sentences shared', 'selected on test')
    >>> protocol_words("leave_one_speaker_out")
    ('sentences shared',)

    Raises
    ------
    CorpusError
        If a name is unknown.
    """
    rule_name = dev_rule_of(split_name, dev)
    promised = SPLITS[split_name].separates if separates is None else frozenset(separates)
    words = []
    if split_name == "official" and separates is None:
        words.append("official parts")
    else:
        if "speaker" not in promised:
            words.append(SPEAKER_DEPENDENT)
        if scripts_shared:
            words.append(SCRIPTS_SHARED)
        elif not promised & {"sentence", "script", "corpus"}:
            words.append(SENTENCES_SHARED)
    if rule_name == "test":
        words.append(SELECTED_ON_TEST)
    elif rule_name != "none":
        kept = DEV_RULES[rule_name].separates
        words += [_DEV_SHARES[axis] for axis in _DEV_SHARES if axis in promised - kept]
    return tuple(words)


def script_of(utterance: Utterance) -> str | None:
    """Name the script that a dialogue plays, whatever the take; ``None`` without a dialogue.

    >>> from types import SimpleNamespace
    >>> script_of(SimpleNamespace(dialogue="Ses05M_script01_1b"))
    'script01_1'
    """
    if not utterance.dialogue:
        return None
    corpus, slash, name = utterance.dialogue.rpartition("/")
    script = name.partition("_")[2] or name
    return corpus + slash + re.sub(r"(?<=\d)[a-z]$", "", script)


def write_folds_csv(folds: Sequence[Fold], path: Path | str) -> None:
    """Write folds as a table with the columns fold, part, id: one row per utterance and part."""
    with replacing(path) as part_path, open(part_path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("fold", "part", "id"))
        for fold in folds:
            for part, ids in zip(_PARTS, (fold.train, fold.dev, fold.test), strict=True):
                writer.writerows((fold.name, part, name) for name in ids)


def read_folds_csv(
    path: Path | str, *, utterances: Iterable[Utterance] | None = None
) -> list[Fold]:
    """Read folds from a table with the columns fold, part, id.

    Parameters
    ----------
    path
        As written by :func:`write_folds_csv`, or by hand.
    utterances
        Where given, every id in the table must belong to one of them.

    Raises
    ------
    CorpusError
        If the file is missing or not such a table, a part is not train, dev or test, an id is
        unknown, stands twice in one part, or a fold lacks a train or test part.
    """
    path = Path(path)
    known = None if utterances is None else {utterance.id for utterance in utterances}
    parts: dict[str, dict[str, dict[str, None]]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [c for c in ("fold", "part", "id") if c not in (reader.fieldnames or ())]
            if missing:
                raise CorpusError(
                    f"{path}: the column {missing[0]} is missing; a table of folds has the columns "
                    f"fold,part,id, got {','.join(reader.fieldnames or ()) or 'an empty file'}"
                )
            for row in reader:
                name, part, uid = (row[c] or "" for c in ("fold", "part", "id"))
                if part not in _PARTS:
                    raise CorpusError(
                        f"{path}, line {reader.line_num}: part '{part}', expected train, dev or "
                        "test"
                    )
                if not name or not uid:
                    raise CorpusError(
                        f"{path}, line {reader.line_num}: empty fold or id: fill in or delete the "
                        "line"
                    )
                if known is not None and uid not in known:
                    raise CorpusError(
                        f"{path}, line {reader.line_num}: no utterance has the id '{uid}'"
                        f"{_nearest(uid, known)}: the table belongs to another corpus or selection"
                    )
                members = parts.setdefault(name, {p: {} for p in _PARTS})[part]
                if uid in members:
                    raise CorpusError(
                        f"{path}, line {reader.line_num}: id '{uid}' stands twice in the {part} "
                        f"part of fold '{name}': delete one of the lines"
                    )
                members[uid] = None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            f"{path}: not a UTF-8 table of folds ({error}): save it as CSV with the columns "
            "fold,part,id"
        ) from None
    if not parts:
        raise CorpusError(f"{path}: the table names no fold: expected rows of fold,part,id")
    for name, fold in parts.items():
        for part in ("train", "test"):
            if not fold[part]:
                raise CorpusError(f"{path}: fold '{name}' has no {part} part: add its rows")
    return [
        Fold(name=name, train=tuple(p["train"]), dev=tuple(p["dev"]), test=tuple(p["test"]))
        for name, p in parts.items()
    ]


# Splits ---------------------------------------------------------------------------------------


def _leave_one_speaker_out(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _leave_one_out(utterances, "leave_one_speaker_out", "speaker", options)


def _leave_one_sentence_out(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _leave_one_out(utterances, "leave_one_sentence_out", "sentence", options)


def _recording_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _leave_one_out(utterances, "recording_folds", "recording", options)


def _leave_one_session_out(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    sessions = defaultdict(set)
    for utterance in utterances:
        sessions[utterance.speaker].add(utterance.session)
    for speaker in sorted(sessions, key=natural_key):
        if len(sessions[speaker]) > 1 and None not in sessions[speaker]:
            raise CorpusError(
                f"leave_one_session_out: speaker '{speaker}' talks in "
                f"{len(sessions[speaker])} sessions, so sessions do not keep speakers apart: use "
                "leave_one_speaker_out"
            )
    cells = _leave_one_out(utterances, "leave_one_session_out", "session", options)
    if options.dev != "other_speaker":
        return cells
    halves = []
    for cell in cells:
        speakers = _values(cell.test, "speaker")
        if len(speakers) < 2:
            raise CorpusError(
                f"leave_one_session_out, fold {cell.name}: dev rule 'other_speaker' needs two "
                f"speakers in each session, this one has {len(speakers)}: use dev rule 'session'"
            )
        halves += [
            _Cell(
                f"{cell.name}_{_fold_name('test', speaker)}",
                cell.pool,
                [u for u in cell.test if u.speaker == speaker],
                [u for u in cell.test if u.speaker != speaker],
            )
            for speaker in speakers
        ]
    return halves


def _leave_one_out(
    utterances: Sequence[Utterance], split_name: str, axis: _Axis, options: SplitOptions
) -> list[_Cell]:
    if options.n_folds is not None:
        grouped = " (or speaker_folds, which takes a number)" if axis == "speaker" else ""
        grouped = " (or sentence_folds, which takes a number)" if axis == "sentence" else grouped
        raise CorpusError(
            f"{split_name}: makes one fold per {axis}, n_folds = {options.n_folds} has no meaning: "
            f"leave it out{grouped}"
        )
    values = _values_at_least(utterances, axis, 2, split_name)
    return [
        _Cell(
            _fold_name(axis, value),
            [u for u in utterances if _value(u, axis) != value],
            [u for u in utterances if _value(u, axis) == value],
        )
        for value in values
    ]


def _speaker_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _grouped_folds(utterances, "speaker_folds", "speaker", options)


def _sentence_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _grouped_folds(utterances, "sentence_folds", "sentence", options)


def _grouped_folds(
    utterances: Sequence[Utterance], split_name: str, axis: _Axis, options: SplitOptions
) -> list[_Cell]:
    groups = _balanced_groups(utterances, axis, options.n_folds, split_name)
    return [
        _Cell(
            f"fold-{index + 1:02d}",
            [u for u in utterances if _value(u, axis) not in group],
            [u for u in utterances if _value(u, axis) in group],
        )
        for index, group in enumerate(groups)
    ]


def _speaker_and_sentence(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _speaker_and(utterances, "sentence", options)


def _speaker_and_script(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    return _speaker_and(utterances, "script", options)


def _speaker_and(
    utterances: Sequence[Utterance], axis: _Axis, options: SplitOptions
) -> list[_Cell]:
    """Cross groups of speakers with groups of what they say."""
    name = f"speaker_and_{axis}"
    speaker_groups = _balanced_groups(utterances, "speaker", options.n_folds, name)
    text_groups = _balanced_groups(utterances, axis, options.n_sentence_folds, name)
    # Utterances that share only one of the two with the cell are left out of it altogether.
    # A cell nobody spoke (corpora whose sentences differ by speaker) makes no fold.
    cells = [
        _Cell(
            f"speakers-{row + 1:02d}_{axis}s-{column + 1:02d}",
            [u for u in utterances if u.speaker not in speakers and _value(u, axis) not in texts],
            [u for u in utterances if u.speaker in speakers and _value(u, axis) in texts],
        )
        for row, speakers in enumerate(speaker_groups)
        for column, texts in enumerate(text_groups)
    ]
    return [cell for cell in cells if cell.test]


def _random_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    from sklearn.model_selection import KFold

    n_folds = _n_folds_of_utterances(utterances, "random_folds", options)
    # Exactly this call, on the utterances in the given order: published folds are defined by it.
    splitter = KFold(n_splits=n_folds, shuffle=True, random_state=options.seed)
    return _indexed_cells(utterances, splitter.split(np.zeros((len(utterances), 1))))


def _stratified_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    from sklearn.model_selection import StratifiedKFold

    n_folds = _n_folds_of_utterances(utterances, "stratified_folds", options)
    labels = [u.label or "" for u in utterances]
    label, n_rarest = min(Counter(labels).items(), key=lambda item: (item[1], item[0]))
    if n_rarest < n_folds:
        raise CorpusError(
            f"stratified_folds: {n_folds} folds need {n_folds} utterances of every class, "
            f"'{label}' has {n_rarest}: use fewer folds or drop the class"
        )
    splitter = StratifiedKFold(n_splits=n_folds, shuffle=True, random_state=options.seed)
    return _indexed_cells(utterances, splitter.split(np.zeros((len(labels), 1)), labels))


def _shuffled_speakers(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    """Leave out a speaker by name, after names have changed hands within each class."""
    by_class: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in sorted(utterances, key=lambda u: natural_key(u.id)):
        by_class[utterance.label or ""].append(utterance)
    rng = np.random.default_rng(options.seed)
    names = {}
    for _, members in sorted(by_class.items()):
        order = rng.permutation(len(members))
        names.update({u.id: members[i].speaker for u, i in zip(members, order, strict=True)})
    own = {u.id: u for u in utterances}
    renamed = [replace(u, speaker=names[u.id]) for u in utterances]
    return [
        _Cell(cell.name, [own[u.id] for u in cell.pool], [own[u.id] for u in cell.test])
        for cell in _leave_one_out(renamed, "shuffled_speakers", "speaker", options)
    ]


def _rotating_folds(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    *rotating, _ = _dealt_folds(utterances, "rotating_folds", options)
    return _rotations(utterances, rotating)


def _rotating_folds_held_out(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    *rotating, last = _dealt_folds(utterances, "rotating_folds_held_out", options)
    test = [u for u in utterances if u.id in last]
    # Another dev rule carves from what is trained on; the fold of the rotation is then unused.
    prescribed = options.dev == "rotating"
    return [
        replace(cell, test=test, dev=cell.test if prescribed else None)
        for cell in _rotations(utterances, rotating)
    ]


def _dealt_folds(
    utterances: Sequence[Utterance], split_name: str, options: SplitOptions
) -> list[frozenset[str]]:
    """Shuffle the ids and deal them into folds in turn, whatever order they come in."""
    n_folds = _n_folds_of_utterances(utterances, split_name, options, default=5)
    if n_folds < 3:
        raise CorpusError(
            f"{split_name}: n_folds = {n_folds}: of the folds one is left out and one is judged "
            "by, so at least 3 are needed to train on the rest"
        )
    ids = sorted(u.id for u in utterances)
    order = np.random.default_rng(options.seed).permutation(len(ids))
    return [frozenset(ids[i] for i in order[first::n_folds]) for first in range(n_folds)]


def _rotations(utterances: Sequence[Utterance], rotating: Sequence[frozenset[str]]) -> list[_Cell]:
    """Take each fold once as test part and train on the others."""
    return [
        _Cell(
            f"fold-{number:02d}",
            [u for u in utterances if any(u.id in fold for fold in rotating if fold is not test)],
            [u for u in utterances if u.id in test],
        )
        for number, test in enumerate(rotating, start=1)
    ]


def _official(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    if options.n_folds is not None:
        raise CorpusError(
            f"official: the corpus prescribes one partition, n_folds = {options.n_folds} has no "
            "meaning: leave it out"
        )
    by_part = defaultdict(list)
    for utterance in utterances:
        by_part[utterance.official_part].append(utterance)
    strange = [part for part in by_part if part not in _PARTS]
    if strange:
        n_strange = sum(len(by_part[part]) for part in strange)
        raise CorpusError(
            f"official: {n_strange} of {len(utterances)} utterances have no official part train, "
            f"dev or test (first: {by_part[strange[0]][0].id}): use a speaker-independent split, "
            "e.g. speaker_folds"
        )
    for part in ("train", "test"):
        if not by_part[part]:
            raise CorpusError(
                f"official: no utterance has the official part '{part}': check the corpus copy "
                "and the selection of labels"
            )
    if options.dev != "official":
        # Another dev rule carves from all that is not test.
        pool = [u for u in utterances if u.official_part != "test"]
        return [_Cell("official", pool, by_part["test"])]
    if not by_part["dev"]:
        raise CorpusError(
            "official: the corpus prescribes no dev part: choose dev rule 'speaker' or 'none'"
        )
    return [_Cell("official", by_part["train"], by_part["test"], by_part["dev"])]


def _cross_corpus(utterances: Sequence[Utterance], options: SplitOptions) -> list[_Cell]:
    if options.n_folds is not None:
        raise CorpusError(
            f"cross_corpus: makes one fold per test corpus, n_folds = {options.n_folds} has no "
            "meaning: leave it out"
        )
    present = sorted({u.corpus for u in utterances})
    for name in (*options.train_corpora, *options.test_corpora):
        if name not in present:
            raise CorpusError(
                f"cross_corpus: no utterances of corpus '{name}'{_nearest(name, present)}; read "
                f"were: {', '.join(present)}"
            )
    both = sorted(set(options.train_corpora) & set(options.test_corpora))
    if both:
        raise CorpusError(
            f"cross_corpus: '{both[0]}' is named both as train and as test corpus: remove it from "
            "one"
        )
    if len(present) < 2:
        raise CorpusError(
            f"cross_corpus: needs utterances of at least two corpora, got only '{present[0]}': "
            "read another one as well"
        )
    tests = options.test_corpora or tuple(c for c in present if c not in options.train_corpora)
    if not tests:
        raise CorpusError(
            "cross_corpus: every corpus is named as train corpus, none is left to test on: "
            "remove one"
        )
    cells = []
    for test in tests:
        trains = options.train_corpora or tuple(
            c for c in present if c != test and c not in options.test_corpora
        )
        if not trains:
            raise CorpusError(
                "cross_corpus: every corpus is named as test corpus, none is left to train on: "
                "remove one"
            )
        cells.append(
            _Cell(
                _clean(f"{'+'.join(trains)}-to-{test}"),
                [u for u in utterances if u.corpus in trains],
                [u for u in utterances if u.corpus == test],
            )
        )
    return cells


# Dev rules ------------------------------------------------------------------------------------


def _dev_of_axis(
    cell: _Cell, index: int, options: SplitOptions, *, axis: _Axis
) -> tuple[list[Utterance], list[Utterance]]:
    chosen = _next_values(cell, index, axis, options.n_dev)
    return (
        [u for u in cell.pool if _value(u, axis) not in chosen],
        [u for u in cell.pool if _value(u, axis) in chosen],
    )


def _dev_speaker_and(
    cell: _Cell, index: int, options: SplitOptions, *, axis: _Axis
) -> tuple[list[Utterance], list[Utterance]]:
    speakers = _next_values(cell, index, "speaker", options.n_dev)
    texts = _next_values(cell, index, axis, options.n_dev)
    return (
        [u for u in cell.pool if u.speaker not in speakers and _value(u, axis) not in texts],
        [u for u in cell.pool if u.speaker in speakers and _value(u, axis) in texts],
    )


def _dev_session_partner(
    cell: _Cell, index: int, options: SplitOptions
) -> tuple[list[Utterance], list[Utterance]]:
    sessions = {u.session for u in cell.test} - {None}
    tested = {u.speaker for u in cell.test}
    partners = {u.speaker for u in cell.pool if u.session in sessions} - tested
    if not partners:
        raise CorpusError(
            f"fold {cell.name}: dev rule 'session_partner' finds nobody in training who talks in a "
            "session of the test part: use it with leave_one_speaker_out on a corpus that names "
            "sessions, or choose dev rule 'session' or 'speaker'"
        )
    return (
        [u for u in cell.pool if u.speaker not in partners],
        [u for u in cell.pool if u.speaker in partners],
    )


def _dev_random(
    cell: _Cell, index: int, options: SplitOptions
) -> tuple[list[Utterance], list[Utterance]]:
    by_label = defaultdict(list)
    for utterance in cell.pool:
        by_label[utterance.label or ""].append(utterance.id)
    generator = np.random.default_rng([options.seed, index])
    chosen: set[str] = set()
    for label in sorted(by_label):
        ids = sorted(by_label[label])
        # Every class that can spare one is represented, and none is emptied.
        n_wanted = min(max(1, round(options.dev_fraction * len(ids))), len(ids) - 1)
        chosen.update(ids[i] for i in generator.permutation(len(ids))[:n_wanted])
    return (
        [u for u in cell.pool if u.id not in chosen],
        [u for u in cell.pool if u.id in chosen],
    )


def _dev_prescribed(
    cell: _Cell, index: int, options: SplitOptions
) -> tuple[list[Utterance], list[Utterance]]:
    if cell.dev is None:
        split_name = _PRESCRIBING[options.dev or ""]
        raise CorpusError(
            f"dev rule '{options.dev}' belongs to the split {split_name}: choose that split, or "
            "another dev rule such as 'speaker'"
        )
    return cell.pool, cell.dev


def _dev_none(
    cell: _Cell, index: int, options: SplitOptions
) -> tuple[list[Utterance], list[Utterance]]:
    return cell.pool, []


def _dev_test(
    cell: _Cell, index: int, options: SplitOptions
) -> tuple[list[Utterance], list[Utterance]]:
    return cell.pool, cell.test


SPLITS: Mapping[str, Split] = {
    "leave_one_speaker_out": Split(
        make=_leave_one_speaker_out,
        separates=frozenset({"speaker"}),
        default_dev="speaker",
        summary="each speaker is the test part once",
    ),
    "leave_one_session_out": Split(
        make=_leave_one_session_out,
        separates=frozenset({"speaker", "session"}),
        default_dev="session",
        summary="each session, with all its speakers, is the test part once",
    ),
    "speaker_folds": Split(
        make=_speaker_folds,
        separates=frozenset({"speaker"}),
        default_dev="speaker",
        summary="k groups of speakers, balanced by gender and class",
    ),
    "leave_one_sentence_out": Split(
        make=_leave_one_sentence_out,
        separates=frozenset({"sentence"}),
        default_dev="sentence",
        summary="each sentence is the test part once; speakers are shared",
    ),
    "sentence_folds": Split(
        make=_sentence_folds,
        separates=frozenset({"sentence"}),
        default_dev="sentence",
        summary="k groups of sentences, balanced by class; speakers are shared",
    ),
    "speaker_and_sentence": Split(
        make=_speaker_and_sentence,
        separates=frozenset({"speaker", "sentence"}),
        default_dev="speaker",
        summary="speaker groups x sentence groups; the training part shares neither",
    ),
    "speaker_and_script": Split(
        make=_speaker_and_script,
        separates=frozenset({"speaker", "script"}),
        default_dev="speaker",
        summary="speaker groups x groups of scripts (from the dialogues' names), for corpora that "
        "play the same scripts in several sessions; the training part shares neither",
    ),
    "recording_folds": Split(
        make=_recording_folds,
        separates=frozenset(),
        default_dev="random",
        summary="each recording (from the dialogues' names; IEMOCAP's 01F to 05M), with both its "
        "speakers, is the test part once; speaker-dependent",
    ),
    "official": Split(
        make=_official,
        separates=frozenset(),
        default_dev="official",
        summary="the parts that the corpus itself prescribes",
    ),
    "cross_corpus": Split(
        make=_cross_corpus,
        separates=frozenset({"corpus", "speaker"}),
        default_dev="speaker",
        summary="train on some corpora, test on another",
    ),
    "random_folds": Split(
        make=_random_folds,
        separates=frozenset(),
        default_dev="random",
        summary="shuffled utterances, as many published protocols did; speaker-dependent",
    ),
    "stratified_folds": Split(
        make=_stratified_folds,
        separates=frozenset(),
        default_dev="random",
        summary="shuffled utterances with equal class shares; speaker-dependent",
    ),
    "shuffled_speakers": Split(
        make=_shuffled_speakers,
        separates=frozenset(),
        default_dev="random",
        summary="of each class as many utterances as a speaker has, whoever speaks: what becomes "
        "of leaving out a speaker in the code of Light-SERNet's authors; speaker-dependent",
    ),
    "rotating_folds": Split(
        make=_rotating_folds,
        separates=frozenset(),
        default_dev="random",
        summary="shuffled utterances dealt into k folds, the last one unused, each other one the "
        "test part once; speaker-dependent",
    ),
    "rotating_folds_held_out": Split(
        make=_rotating_folds_held_out,
        separates=frozenset(),
        default_dev="rotating",
        summary="the same folds, the last one the test part of every rotation; speaker-dependent",
    ),
}

DEV_RULES: Mapping[str, DevRule] = {
    "speaker": DevRule(
        carve=partial(_dev_of_axis, axis="speaker"),
        separates=frozenset({"speaker"}),
        summary="the next n_dev training speakers in order, alternating gender",
    ),
    "sentence": DevRule(
        carve=partial(_dev_of_axis, axis="sentence"),
        separates=frozenset({"sentence"}),
        summary="the next n_dev training sentences in order",
    ),
    "session": DevRule(
        carve=partial(_dev_of_axis, axis="session"),
        separates=frozenset({"session", "speaker"}),
        summary="the next n_dev training sessions in order",
    ),
    "speaker_and_sentence": DevRule(
        carve=partial(_dev_speaker_and, axis="sentence"),
        separates=frozenset({"speaker", "sentence"}),
        summary="n_dev speakers reading n_dev sentences; train keeps neither",
    ),
    "speaker_and_script": DevRule(
        carve=partial(_dev_speaker_and, axis="script"),
        separates=frozenset({"speaker", "script"}),
        summary="n_dev speakers playing n_dev scripts; train keeps neither",
    ),
    "session_partner": DevRule(
        carve=_dev_session_partner,
        separates=frozenset({"speaker", "session"}),
        summary="whoever shares a session with the test speaker; train keeps none of them",
    ),
    "other_speaker": DevRule(
        carve=_dev_prescribed,
        separates=frozenset({"speaker", "session"}),
        summary="within the held-out session one speaker is test, the other is dev",
    ),
    "official": DevRule(
        carve=_dev_prescribed,
        separates=frozenset(),
        summary="the dev part that the corpus itself prescribes",
    ),
    "rotating": DevRule(
        carve=_dev_prescribed,
        separates=frozenset(),
        summary="the fold that rotates, where the test part stays; same speakers as train",
    ),
    "random": DevRule(
        carve=_dev_random,
        separates=frozenset(),
        summary="a share of the training utterances, stratified; same speakers as train",
    ),
    "none": DevRule(
        carve=_dev_none,
        separates=frozenset(AXES),
        summary="no dev part: training runs a fixed number of epochs",
    ),
    "test": DevRule(
        carve=_dev_test,
        separates=frozenset(AXES),
        summary="dev IS the test part: only to repeat results that were selected on test",
    ),
}


# Helpers --------------------------------------------------------------------------------------


def _qualified(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Prefix whatever names something with the corpus where there are several corpora."""
    if len({u.corpus for u in utterances}) < 2:
        return list(utterances)
    return [
        replace(
            u,
            speaker=f"{u.corpus}/{u.speaker}",
            sentence=None if u.sentence is None else f"{u.corpus}/{u.sentence}",
            session=None if u.session is None else f"{u.corpus}/{u.session}",
            dialogue=None if u.dialogue is None else f"{u.corpus}/{u.dialogue}",
        )
        for u in utterances
    ]


def _value(utterance: Utterance, axis: _Axis) -> str | None:
    """Tell where an utterance lies on an axis; recording and script are parts of a dialogue's name.

    >>> from types import SimpleNamespace
    >>> turn = SimpleNamespace(dialogue="Ses05M_script01_1b", speaker="Ses05F")
    >>> [_value(turn, axis) for axis in ("recording", "script", "speaker")]
    ['Ses05M', 'script01_1', 'Ses05F']
    """
    if axis == "script":
        return script_of(utterance)
    if axis == "recording":
        corpus, slash, name = (utterance.dialogue or "").rpartition("/")
        return corpus + slash + name.partition("_")[0] or None
    value: str | None = getattr(utterance, axis)
    return value


def _values(utterances: Iterable[Utterance], axis: _Axis) -> list[str]:
    return sorted({_value(u, axis) or "" for u in utterances}, key=natural_key)


def _values_at_least(
    utterances: Sequence[Utterance],
    axis: _Axis,
    n_wanted: int,
    who: str,
    *,
    remedy: str = "use fewer folds or another split",
) -> list[str]:
    """List the speakers, sentences ... in natural order; refuse too few or unnamed ones."""
    unnamed = [u.id for u in utterances if not _value(u, axis)]
    if unnamed:
        field = _FIELD_OF.get(axis, axis)
        raise CorpusError(
            f"{who}: {len(unnamed)} of {len(utterances)} utterances name no {field} (first: "
            f"{unnamed[0]}): choose a split that needs none, or fill in the manifest's column "
            f"{field}"
        )
    values = _values(utterances, axis)
    if len(values) < n_wanted:
        raise CorpusError(
            f"{who}: needs at least {n_wanted} {axis}s, got {len(values)} "
            f"({', '.join(values)}): {remedy}"
        )
    return values


def _balanced_groups(
    utterances: Sequence[Utterance], axis: _Axis, n_groups: int | None, who: str
) -> list[frozenset[str]]:
    """Deal speakers or sentences into groups with like numbers of them, of genders and of classes.

    Greedy: the ones with most utterances first, each into the group that has fewest of its gender,
    then fewest members, then the least to lose in class balance.
    """
    values = _values_at_least(utterances, axis, 2 if n_groups is None else n_groups, who)
    if n_groups is None:
        n_groups = min(5, len(values))
    per_class: dict[str, Counter[str]] = {value: Counter() for value in values}
    gender: dict[str, str] = {}
    for utterance in utterances:
        value = _value(utterance, axis) or ""
        per_class[value][utterance.label or ""] += 1
        if axis == "speaker":
            gender[value] = utterance.gender or ""
    totals = Counter[str]()
    for counts in per_class.values():
        totals += counts
    members: list[list[str]] = [[] for _ in range(n_groups)]
    filled: list[Counter[str]] = [Counter() for _ in range(n_groups)]

    def cost(group: int, value: str) -> tuple[int, int, float, int]:
        same_gender = sum(gender.get(m, "") == gender.get(value, "") for m in members[group])
        # The increase of sum((n_class / total_class)^2): smallest where the classes are missing.
        skew = sum(
            (2 * filled[group][label] + n) * n / totals[label] ** 2
            for label, n in per_class[value].items()
        )
        return same_gender, len(members[group]), skew, group

    by_size = sorted(values, key=lambda v: (-per_class[v].total(), natural_key(v)))
    for value in by_size:
        best = min(range(n_groups), key=lambda group: cost(group, value))
        members[best].append(value)
        filled[best] += per_class[value]
    return [frozenset(group) for group in members]


def _next_values(cell: _Cell, index: int, axis: _Axis, n_wanted: int) -> set[str]:
    """Pick dev speakers (sentences, sessions): the next in order after the fold's first test one.

    Speakers alternate in gender where several are taken. Where the test part has none of the kind
    in its order (another corpus), the fold's number is the starting point.
    """
    who = f"fold {cell.name}: dev rule '{axis}' with n_dev = {n_wanted}"
    remedy = "take fewer, or choose another dev rule"
    candidates = _values_at_least(cell.pool, axis, n_wanted + 1, who, remedy=remedy)
    anchors = [value for u in cell.test if (value := _value(u, axis))]
    start = index
    if anchors:
        first = min(map(natural_key, anchors))
        start = sum(natural_key(value) <= first for value in candidates)
    ring = [candidates[(start + i) % len(candidates)] for i in range(len(candidates))]
    gender = {u.speaker: u.gender or "" for u in cell.pool} if axis == "speaker" else {}
    chosen: list[str] = []
    for _ in range(n_wanted):
        taken = Counter(gender.get(value, "") for value in chosen)
        rest = [value for value in ring if value not in chosen]
        chosen.append(min(rest, key=lambda value: taken[gender.get(value, "")]))
    return set(chosen)


def _n_folds_of_utterances(
    utterances: Sequence[Utterance], split_name: str, options: SplitOptions, *, default: int = 10
) -> int:
    n_folds = default if options.n_folds is None else options.n_folds
    if n_folds > len(utterances):
        raise CorpusError(
            f"{split_name}: {n_folds} folds need at least as many utterances, got "
            f"{len(utterances)}: use fewer folds"
        )
    return n_folds


def _indexed_cells(
    utterances: Sequence[Utterance], splits: Iterable[tuple[Iterable[int], Iterable[int]]]
) -> list[_Cell]:
    return [
        _Cell(f"fold-{number:02d}", [utterances[i] for i in train], [utterances[i] for i in test])
        for number, (train, test) in enumerate(splits, start=1)
    ]


def _require_apart(
    split_name: str,
    fold_name: str,
    one: tuple[str, list[Utterance]],
    other: tuple[str, list[Utterance]],
    promise: Split | DevRule,
) -> None:
    axes: tuple[_Axis, ...] = ("speaker", "sentence", "script")
    for axis in axes:
        if axis not in promise.separates:
            continue
        shared = {_value(u, axis) or "" for u in one[1]} & {_value(u, axis) for u in other[1]}
        shared.discard("")
        if shared:
            raise CorpusError(
                f"{split_name}, fold {fold_name}: {one[0]} and {other[0]} would share the {axis} "
                f"'{min(shared)}': choose another dev rule or split"
            )


def _check_options(options: SplitOptions) -> None:
    if options.n_folds is not None and options.n_folds < 2:
        raise CorpusError(f"n_folds = {options.n_folds}: expected at least 2")
    if options.n_sentence_folds < 2:
        raise CorpusError(f"n_sentence_folds = {options.n_sentence_folds}: expected at least 2")
    if options.n_dev < 1:
        raise CorpusError(
            f"n_dev = {options.n_dev}: expected at least 1; for no dev part choose dev rule 'none'"
        )
    if not 0 < options.dev_fraction < 1:
        raise CorpusError(
            f"dev_fraction = {options.dev_fraction}: expected a share between 0 and 1, e.g. 0.1"
        )
    if not 0 <= options.seed < 2**32:
        raise CorpusError(f"seed = {options.seed}: expected 0 to {2**32 - 1}")


def _refuse_repeated(utterances: Sequence[Utterance]) -> None:
    counts = Counter(u.id for u in utterances)
    repeated, n_times = counts.most_common(1)[0]
    if n_times > 1:
        corpora = sorted({u.corpus for u in utterances if u.id == repeated})
        raise CorpusError(
            f"id '{repeated}' occurs {n_times} times (corpora: {', '.join(corpora)}): ids must be "
            "unique among the utterances of one split"
        )


def _lookup(known: Mapping[str, _Rule], name: str, what: str) -> _Rule:
    if name not in known:
        raise CorpusError(
            f"unknown {what} '{name}'{_nearest(name, known)}; known are {', '.join(known)}"
        )
    return known[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


def _fold_name(kind: str, value: str) -> str:
    return _clean(f"{kind}-{value}")


def _clean(name: str) -> str:
    """Make a fold's name usable as a folder's name on every system."""
    return re.sub(r"[^\w.+-]+", "-", name)


def _ids(utterances: Iterable[Utterance]) -> tuple[str, ...]:
    return tuple(u.id for u in utterances)
