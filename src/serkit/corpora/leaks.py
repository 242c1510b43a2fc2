"""The leak check: what the parts of a fold share, and whether the protocol allows it.

A split *promises* to keep some axes apart (``SPLITS[name].separates``). This module looks at the
folds themselves, wherever they come from, and reports what is really shared between train and
test, dev and test, train and dev: ids, speakers, sentences, scripts, sessions, corpora, identical
audio (equal hashes) and overlapping stretches of one recording.

Findings that break a promise are *broken*; everything else that is shared under the chosen
protocol is a *note*. The rules:

* A shared id is always broken, and so is an empty training or test part. The one exception is a
  dev part that *is* the test part: published protocols did that, so it is a note, and every line
  about it reads *selected on test*.
* Sharing a promised axis with the test part is broken. Sharing a session between dev and test is
  not, where the speakers differ: selection by the session's other speaker is such a protocol.
* Sharing between train and dev never touches the test part: a note.
* Identical audio, or overlapping stretches, between train (or dev) and test is broken wherever
  the protocol promises anything. Under random utterance folds it is a note: RAVDESS itself holds
  a pair of identical files, and those folds part it at random.

Which script an utterance belongs to is read off its dialogue's name, if the split promises to keep
scripts apart or the names are like IEMOCAP's, ``Ses05M_script01_1``, ``Ses05M_impro03``; of other
corpora it is not known.

Everything is done with sets and one sort, so ten thousand utterances in ten folds take less than
a second.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serkit.audio import natural_key
from serkit.corpora.manifest import CorpusError
from serkit.corpora.splits import AXES, SELECTED_ON_TEST, script_of
from serkit.types import Fold, Utterance

__all__ = ["Finding", "LeakReport", "check_leaks"]

_PAIRS = (("train", "test"), ("dev", "test"), ("train", "dev"))
_AUDIO = "identical audio"
_OVERLAP = "overlapping stretches"
_ID = "id"
_NAMES = {
    "speaker": ("speaker", "speakers"),
    "sentence": ("sentence", "sentences"),
    "script": ("script", "scripts"),
    "session": ("session", "sessions"),
    "corpus": ("corpus", "corpora"),
    _ID: ("id", "ids"),
    _AUDIO: ("pair of identical recordings", "pairs of identical recordings"),
    _OVERLAP: ("pair of overlapping stretches", "pairs of overlapping stretches"),
}
_N_EXAMPLES = 5  # named in a line; the rest is counted
# What follows an underscore elsewhere may be anything, such as a part of a video's id.
_LIKE_IEMOCAP = re.compile(r"(script|impro)\d+\w*")
_OVERLAP_S = 0.05  # neighbouring turns share this much by the rounding of their borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What two parts of one fold share.

    Attributes
    ----------
    fold, parts
        Where: the fold's name and the two parts, e.g. ``("train", "test")``.
    kind
        ``id``, an axis, ``identical audio``, ``overlapping stretches``, ``empty`` or
        ``selected on test``.
    items
        What is shared, in natural order; pairs are written ``one = other``.
    broken
        Whether it breaks what the split promised.
    """

    fold: str
    parts: tuple[str, str]
    kind: str
    items: tuple[str, ...]
    broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """What the leak check found.

    Attributes
    ----------
    findings
        In the order of folds.
    separates
        Axes that the split promised to keep apart.
    kept_apart
        Axes on which train and test of every fold are in fact apart; an axis that some
        utterance does not name is never among them.
    n_folds, n_utterances
        How much was checked.
    audio_checked
        Whether hashes of the audio were there to compare.
    """

    findings: tuple[Finding, ...]
    separates: frozenset[str]
    kept_apart: frozenset[str]
    n_folds: int
    n_utterances: int
    audio_checked: bool

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Violations of what the split promised."""
        return tuple(finding for finding in self.findings if finding.broken)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Known sharing that the protocol allows."""
        return tuple(finding for finding in self.findings if not finding.broken)

    @property
    def scripts_shared(self) -> bool:
        """Whether train and test of some fold share a script."""
        return any(f.kind == "script" and f.parts == ("train", "test") for f in self.findings)

    def lines(self) -> list[str]:
        """Say what was found in sentences for people, broken promises first."""
        promised = ", ".join(axis for axis in AXES if axis in self.separates) or "nothing"
        lines = [
            f"leak check: {self.n_folds} folds of {self.n_utterances} utterances; the split "
            f"promises to keep apart: {promised}"
        ]
        lines += [f"BROKEN: {line}" for line in _sentences(self.broken, self.n_folds)]
        lines += [f"note: {line}" for line in _sentences(self.notes, self.n_folds)]
        if not self.audio_checked:
            lines.append("note: identical audio was not looked for: no hashes were given")
        if not self.broken:
            lines.append("no promise is broken")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain objects that JSON can hold."""
        return {
            "broken": [_finding_dict(finding) for finding in self.broken],
            "notes": [_finding_dict(finding) for finding in self.notes],
            "separates": sorted(self.separates),
            "kept_apart": sorted(self.kept_apart),
            "n_folds": self.n_folds,
            "n_utterances": self.n_utterances,
            "audio_checked": self.audio_checked,
            "lines": self.lines(),
        }

    def raise_if_broken(self) -> None:
        """Refuse to go on with folds that break a promise.

        Raises
        ------
        CorpusError
            If anything is broken; the message names the first violation and counts the others.
        """
        sentences = _sentences(self.broken, self.n_folds)
        if sentences:
            more = f" (and {len(sentences) - 1} more)" if len(sentences) > 1 else ""
            raise CorpusError(
                f"leak check: {sentences[0]}{more}: repair the folds, or choose a split that does "
                "not promise to keep them apart"
            )


def check_leaks(
    utterances: Sequence[Utterance],
    folds: Sequence[Fold],
    *,
    separates: Collection[str],
    audio_hashes: Mapping[str, str] | None = None,
) -> LeakReport:
    """Look for what the parts of each fold share.

    Parameters
    ----------
    utterances
        All that the folds speak of, and possibly more.
    folds
        The partitions to check.
    separates
        Axes the split promises to keep apart, as in ``SPLITS[name].separates``; empty for
        folds of unknown origin, whose truth is then in :attr:`LeakReport.kept_apart`.
    audio_hashes
        Hash of the sound by utterance id; equal hashes mean identical audio. ``None``: not
        checked, and the report says so. Utterances without a hash are passed over.

    Raises
    ------
    CorpusError
        If there is no fold, a fold names an id that no utterance has, or an axis is unknown.
    """
    unknown_axes = sorted(set(separates) - set(AXES))
    if unknown_axes:
        raise CorpusError(f"unknown axis '{unknown_axes[0]}': expected some of {', '.join(AXES)}")
    if not folds:
        raise CorpusError("leak check: no folds to check: make them with a split first")
    promised = frozenset(separates)
    values = _axis_values(utterances, any_script="script" in promised)
    known = {utterance.id for utterance in utterances}
    twins = _twins(audio_hashes or {})
    overlapping = _overlapping(utterances)
    findings: list[Finding] = []
    kept_apart = {axis for axis in AXES if all(values[axis].values())}
    for fold in folds:
        parts = {"train": fold.train, "dev": fold.dev, "test": fold.test}
        sets = {name: set(ids) for name, ids in parts.items()}
        strangers = set().union(*sets.values()) - known
        if strangers:
            raise CorpusError(
                f"fold '{fold.name}': no utterance has the id '{min(strangers)}' "
                f"({len(strangers)} unknown ids): the folds belong to another corpus or selection"
            )
        findings += _faults_of_parts(fold, parts)
        on_test = bool(sets["dev"]) and sets["dev"] == sets["test"]
        if on_test:
            findings.append(_found(fold, ("dev", "test"), SELECTED_ON_TEST, (), broken=False))
        held = {
            axis: {name: {values[axis][uid] for uid in ids} - {""} for name, ids in sets.items()}
            for axis in AXES
        }
        for pair in _PAIRS:
            if on_test and pair != ("train", "test"):
                continue  # said above; train against dev is train against test
            one, other = pair
            to_test = other == "test"
            shared_ids = sets[one] & sets[other]
            if shared_ids:
                findings.append(_found(fold, pair, _ID, shared_ids, broken=True))
            for axis in AXES:
                shared = held[axis][one] & held[axis][other]
                if not shared:
                    continue
                if pair == ("train", "test"):
                    kept_apart.discard(axis)
                # One corpus is what most experiments have: no news unless it was promised.
                if axis == "corpus" and axis not in promised:
                    continue
                broken = to_test and axis in promised
                if axis in ("session", "corpus") and one == "dev":
                    broken = False
                findings.append(_found(fold, pair, axis, shared, broken=broken))
            same = _twin_pairs(twins, sets[one] - shared_ids, sets[other] - shared_ids)
            if same:
                findings.append(_found(fold, pair, _AUDIO, same, broken=to_test and bool(promised)))
            meeting = _overlap_pairs(overlapping, sets[one], sets[other])
            if meeting:
                findings.append(
                    _found(fold, pair, _OVERLAP, meeting, broken=to_test and bool(promised))
                )
    return LeakReport(
        findings=tuple(findings),
        separates=promised,
        kept_apart=frozenset(kept_apart),
        n_folds=len(folds),
        n_utterances=len(utterances),
        audio_checked=audio_hashes is not None,
    )


def _found(
    fold: Fold, parts: tuple[str, str], kind: str, items: Collection[str], *, broken: bool
) -> Finding:
    ordered = tuple(sorted(items, key=natural_key))
    return Finding(fold=fold.name, parts=parts, kind=kind, items=ordered, broken=broken)


def _faults_of_parts(fold: Fold, parts: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Find empty parts and ids that stand twice in one part."""
    faults = []
    for name, ids in parts.items():
        if not ids and name != "dev":
            faults.append(_found(fold, (name, name), "empty", (), broken=True))
        if len(set(ids)) < len(ids):
            twice = [uid for uid, count in Counter(ids).items() if count > 1]
            faults.append(_found(fold, (name, name), _ID, twice, broken=True))
    return faults


def _axis_values(utterances: Sequence[Utterance], *, any_script: bool) -> dict[str, dict[str, str]]:
    """Map axis -> id -> value; names are unique within a corpus, so several corpora prefix them.

    Unless ``any_script``, a script counts only if it is named like IEMOCAP's.
    """
    several = len({utterance.corpus for utterance in utterances}) > 1

    def name(utterance: Utterance, value: str | None) -> str:
        if not value:
            return ""
        return f"{utterance.corpus}/{value}" if several else value

    def script(utterance: Utterance) -> str | None:
        played = script_of(utterance)
        return played if played and (any_script or _LIKE_IEMOCAP.fullmatch(played)) else None

    return {
        "speaker": {u.id: name(u, u.speaker) for u in utterances},
        "sentence": {u.id: name(u, u.sentence) for u in utterances},
        "script": {u.id: name(u, script(u)) for u in utterances},
        "session": {u.id: name(u, u.session) for u in utterances},
        "corpus": {u.id: u.corpus for u in utterances},
    }


def _twins(audio_hashes: Mapping[str, str]) -> list[list[str]]:
    """List groups of ids whose audio is identical."""
    by_hash: dict[str, list[str]] = defaultdict(list)
    for uid, digest in audio_hashes.items():
        by_hash[digest].append(uid)
    return [sorted(ids, key=natural_key) for ids in by_hash.values() if len(ids) > 1]


def _twin_pairs(twins: list[list[str]], one: set[str], other: set[str]) -> list[str]:
    """Pair each twin in one part with a twin in the other: no more pairs than utterances."""
    pairs = []
    for group in twins:
        left = [uid for uid in group if uid in one]
        right = [uid for uid in group if uid in other]
        if left and right:
            pairs += [
                _pair(left[min(i, len(left) - 1)], right[min(i, len(right) - 1)])
                for i in range(max(len(left), len(right)))
            ]
    return pairs


def _overlapping(utterances: Sequence[Utterance]) -> list[list[tuple[float, float, str]]]:
    """List, by recording, the stretches (start, end, id) that overlap with another one."""
    by_path: dict[Any, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_path[utterance.path].append(utterance)
    recordings = []
    for group in by_path.values():
        if len(group) < 2:
            continue
        stretches = sorted((u.start_s, _end_s(u), u.id) for u in group)
        touched: dict[str, tuple[float, float, str]] = {}
        longest = stretches[0]
        for stretch in stretches[1:]:
            if _overlap_s(longest, stretch) > _OVERLAP_S:
                touched[longest[2]] = longest
                touched[stretch[2]] = stretch
            if stretch[1] > longest[1]:
                longest = stretch
        if touched:
            recordings.append(sorted(touched.values()))
    return recordings


def _overlap_pairs(
    recordings: list[list[tuple[float, float, str]]], one: set[str], other: set[str]
) -> list[str]:
    """Pair each stretch with the longest earlier one of the other part that reaches into it."""
    pairs = []
    for stretches in recordings:
        longest: dict[bool, tuple[float, float, str]] = {}  # whether in `one` -> stretch
        for stretch in stretches:
            if (stretch[2] in one) == (stretch[2] in other):
                continue  # in neither, or a shared id, which is reported as such
            side = stretch[2] in one
            across = longest.get(not side)
            if across is not None and _overlap_s(across, stretch) > _OVERLAP_S:
                pairs.append(_pair(stretch[2], across[2]))
            if side not in longest or stretch[1] > longest[side][1]:
                longest[side] = stretch
    return pairs


def _pair(one: str, other: str) -> str:
    """Name two ids in natural order, so that a pair met in two folds is one pair."""
    return " = ".join(sorted((one, other), key=natural_key))


def _overlap_s(one: tuple[float, float, str], other: tuple[float, float, str]) -> float:
    return min(one[1], other[1]) - max(one[0], other[0])


def _end_s(utterance: Utterance) -> float:
    if utterance.end_s is not None:
        return utterance.end_s
    if utterance.duration_s is not None:
        return utterance.start_s + utterance.duration_s
    return float("inf")


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "fold": finding.fold,
        "parts": list(finding.parts),
        "kind": finding.kind,
        "n": len(finding.items),
        "items": list(finding.items),
    }


def _sentences(findings: Sequence[Finding], n_folds: int) -> list[str]:
    """Join the findings of one kind between the same parts over all folds into one sentence."""
    groups: dict[tuple[str, tuple[str, str]], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.kind, finding.parts].append(finding)
    return [
        _sentence(kind, parts, group, n_folds)
        for (kind, parts), group in sorted(groups.items(), key=_severity)
    ]


def _severity(entry: tuple[tuple[str, tuple[str, str]], list[Finding]]) -> tuple[int, int]:
    """Order sentences: faults of a part first, then train and test, then dev."""
    kind, parts = entry[0]
    order = (SELECTED_ON_TEST, "empty", _ID, "speaker", _AUDIO, _OVERLAP)
    rank = order.index(kind) if kind in order else len(order)
    return (_PAIRS.index(parts) if parts in _PAIRS else -1, rank)


def _sentence(kind: str, parts: tuple[str, str], group: list[Finding], n_folds: int) -> str:
    where = f"in {len(group)} of {n_folds} folds"
    if len(group) <= 2:
        where = ("in fold " if len(group) == 1 else "in folds ") + " and ".join(
            finding.fold for finding in group
        )
    if kind == SELECTED_ON_TEST:
        return f"dev is the test part {where}: {SELECTED_ON_TEST}"
    if kind == "empty":
        return f"the {parts[0]} part is empty {where}"
    items = sorted({item for finding in group for item in finding.items}, key=natural_key)
    named = ", ".join(items[:_N_EXAMPLES]) + (", ..." if len(items) > _N_EXAMPLES else "")
    word = _NAMES[kind][len(items) > 1]
    if parts[0] == parts[1]:
        return f"{len(items)} {word} twice in the {parts[0]} part {where} ({named})"
    return f"{parts[0]} and {parts[1]} share {len(items)} {word} {where} ({named})"
