"""Is this copy of a corpus the corpus? Counts first, then every file's header, then its samples.

Copies of speech corpora in circulation are often not what was published: speakers are missing,
files were cut in transfer, or all of them were cut to one length (EMO-DB to exactly 2.000 s at
22 050 Hz). A score on such a copy cannot be compared with anybody's, so the differences are found
before training and said in sentences.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serkit.audio import AudioError, AudioInfo, load_audio, probe, require_sound
from serkit.corpora.manifest import CorpusCounts
from serkit.machine import usable_cores
from serkit.types import Utterance

__all__ = [
    "AudioCheck",
    "CorpusCheck",
    "check_corpus",
    "count",
    "silence_note",
    "verify_audio",
]

_SAME_LENGTH_SHARE = 0.9  # of all files; natural recordings never agree to the sample
_SAME_LENGTH_FILES = 10  # fewer files say nothing
_SLACK_S = 0.05  # how far turn borders may exceed a file, as in serkit.audio.load_audio
_N_NAMED = 3  # examples in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusCheck:
    """How the utterances found compare with what a complete copy holds.

    Attributes
    ----------
    corpus
        Key of the corpus.
    found, expected
        Counts of this copy and of the release.
    speakers
        The speakers found, sorted.
    names
        Relative paths as the release has them, to show what was looked for.
    unexpected
        Sound files below the root, relative to it, that no utterance uses. They do not make a copy
        incomplete.
    options
        What the reader was told beyond the root; the summary states it.
    """

    corpus: str
    found: CorpusCounts
    expected: CorpusCounts
    speakers: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every count that is known in advance agrees."""
        return not self.differences()

    def differences(self) -> list[str]:
        """Phrases that say what is missing or too many, most general first."""
        found, expected = self.found, self.expected
        phrases = []
        if expected.n_utterances is not None and found.n_utterances != expected.n_utterances:
            phrases.append(f"{found.n_utterances} of {expected.n_utterances} utterances")
        if expected.n_speakers is not None and found.n_speakers != expected.n_speakers:
            listed = ", ".join(self.speakers[:_N_NAMED])
            more = "" if len(self.speakers) <= _N_NAMED else ", ..."
            phrases.append(f"{found.n_speakers} of {expected.n_speakers} speakers ({listed}{more})")
        for label in sorted({*found.per_label, *expected.per_label} if expected.per_label else ()):
            got, wanted = found.per_label.get(label, 0), expected.per_label.get(label, 0)
            if got != wanted:
                phrases.append(f"{label} {got} of {wanted}")
        if expected.per_label and found.n_unlabelled != expected.n_unlabelled:
            phrases.append(f"unlabelled {found.n_unlabelled} of {expected.n_unlabelled}")
        return phrases

    def lines(self) -> list[str]:
        """Sentences for people: what was found, what is missing, what is too much."""
        found, expected = self.found, self.expected
        lines = [self.summary]
        if expected.n_speakers is not None and found.n_speakers != expected.n_speakers:
            lines.append(
                f"Found {found.n_speakers} of {expected.n_speakers} speakers: "
                f"{', '.join(self.speakers)}."
            )
        if self.speakers == ("unknown",):
            lines.append(
                "The speakers are not known from this layout, so no split can keep them apart."
            )
        if expected.per_label:
            for label in sorted({*found.per_label, *expected.per_label}):
                got, wanted = found.per_label.get(label, 0), expected.per_label.get(label, 0)
                if got < wanted:
                    lines.append(f"Missing: {wanted - got} of {wanted} utterances of '{label}'.")
                elif got > wanted:
                    lines.append(f"Too many: {got} utterances of '{label}', expected {wanted}.")
        if not self.complete and self.names:
            lines.append(f"Files are looked for under names such as {self.names[0]}.")
        if self.unexpected:
            lines.append(
                f"Not read: {_files(len(self.unexpected))} that no utterance uses, "
                f"{_examples(self.unexpected)}."
            )
        return lines

    @property
    def summary(self) -> str:
        """One line: complete or not, the counts, and the options of the reader."""
        found = self.found
        told = ", ".join(f"{name} = {value}" for name, value in sorted(self.options.items()))
        told = f"; read with {told}" if told else ""
        size = (
            f"{found.n_utterances} utterances, {found.n_speakers} speakers, "
            f"{len(found.per_label)} classes"
        )
        if self.complete:
            known = self.expected.n_utterances is not None
            return f"{self.corpus}: {'complete, ' if known else ''}{size}{told}"
        return f"{self.corpus}: incomplete, {'; '.join(self.differences())}{told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioCheck:
    """What became of opening every sound file.

    Attributes
    ----------
    utterances
        The same utterances in the same order, with ``duration_s`` measured where possible.
    problems
        One sentence per fault: missing, empty, truncated, not audio, wrong length.
    notes
        Sentences about what is legal but suspicious.
    """

    utterances: tuple[Utterance, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no fault was found."""
        return not self.problems

    def lines(self) -> list[str]:
        """Sentences for people: the summary, every fault, every note."""
        return [self.summary, *self.problems, *self.notes]

    @property
    def summary(self) -> str:
        """One line: number of files, hours of speech, number of faults."""
        n_files = len({utterance.path for utterance in self.utterances})
        hours = sum(utterance.duration_s or 0.0 for utterance in self.utterances) / 3600
        n_faults = {0: "no faults", 1: "1 fault"}.get(
            len(self.problems), f"{len(self.problems)} faults"
        )
        return f"{_files(n_files)} opened, {hours:.2f} h of speech, {n_faults}"


def count(utterances: Iterable[Utterance]) -> CorpusCounts:
    """Count utterances, speakers and labels."""
    utterances = list(utterances)
    labels = Counter(one.label for one in utterances if one.label is not None)
    return CorpusCounts(
        n_utterances=len(utterances),
        n_speakers=len({one.speaker for one in utterances}),
        per_label=dict(sorted(labels.items())),
        n_unlabelled=sum(one.label is None for one in utterances),
    )


def check_corpus(
    utterances: Sequence[Utterance],
    expected: CorpusCounts,
    *,
    corpus: str,
    names: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> CorpusCheck:
    """Compare what was read with what a complete copy of the corpus holds.

    Parameters
    ----------
    utterances
        What the reader found.
    expected
        The corpus module's ``EXPECTED``.
    corpus
        Key of the corpus.
    names
        The corpus module's ``NAMES``.
    unexpected
        Sound files that no utterance uses, relative to the root.
    options
        Keyword arguments that the reader was given.
    """
    return CorpusCheck(
        corpus=corpus,
        found=count(utterances),
        expected=expected,
        speakers=tuple(sorted({one.speaker for one in utterances})),
        names=tuple(names),
        unexpected=tuple(unexpected),
        options=dict(options or {}),
    )


def verify_audio(
    utterances: Sequence[Utterance],
    *,
    expected: CorpusCounts | None = None,
    workers: int | None = None,
    decode: bool = False,
) -> AudioCheck:
    """Open every sound file and measure every utterance.

    Parameters
    ----------
    utterances
        Utterances of one corpus.
    expected
        The corpus module's ``EXPECTED``: lengths outside its bounds are faults, and so are files
        that all have one length although the release's do not.
    workers
        Files opened at the same time; ``None`` takes one per processor core.
    decode
        Also decode all samples: finds damage inside the files, and digital silence.

    Returns
    -------
    check with the utterances in their order, ``duration_s`` filled where the file could be opened
    """
    paths = list(dict.fromkeys(utterance.path for utterance in utterances))
    n_workers = workers or usable_cores()

    def open_file(path: Path) -> AudioInfo | str:
        try:
            info = probe(path)
            if decode:
                waveform, _ = load_audio(path)
                require_sound(waveform, path)
        except AudioError as error:
            return _pointer(path) or f"{error}"
        return info

    with ThreadPoolExecutor(max_workers=n_workers) as pool:
        opened = dict(zip(paths, pool.map(open_file, paths), strict=True))
    problems = [fault for fault in opened.values() if isinstance(fault, str)]
    measured = []
    for utterance in utterances:
        info = opened[utterance.path]
        if isinstance(info, AudioInfo):
            end_s = min(
                info.duration_s if utterance.end_s is None else utterance.end_s, info.duration_s
            )
            duration_s = end_s - utterance.start_s
            if duration_s <= 0 or (utterance.end_s or 0) > info.duration_s + _SLACK_S:
                problems.append(
                    f"{utterance.path}: the utterance {utterance.id} is said to end at "
                    f"{utterance.end_s or end_s:g} s (start {utterance.start_s:g} s), but the file "
                    f"lasts {info.duration_s:.3f} s"
                )
            else:
                utterance = replace(utterance, duration_s=duration_s)
                problems += _length_faults(utterance, expected)
        measured.append(utterance)
    notes: list[str] = []
    same = _same_length(
        {path: info for path, info in opened.items() if isinstance(info, AudioInfo)}
    )
    if same:
        bounds = (expected.min_duration_s, expected.max_duration_s) if expected else (None, None)
        (problems if bounds[0] != bounds[1] else notes).append(same)
    return AudioCheck(utterances=tuple(measured), problems=tuple(problems), notes=tuple(notes))


def silence_note(silent: Sequence[str], n_utterances: int) -> str:
    """Say which utterances are digital silence, for who goes on with them.

    >>> silence_note(["1076_MTI_SAD_XX"], 7442).partition(":")[0]
    '1 of 7442 utterances is digital silence (1076_MTI_SAD_XX)'
    """
    what, it = ("is", "it is") if len(silent) == 1 else ("are", "they are")
    return (
        f"{len(silent)} of {n_utterances} utterances {what} digital silence ({_examples(silent)}): "
        f"trained on and judged as {it}, although 'serkit predict' refuses such files: check the "
        "recordings"
    )


def _length_faults(utterance: Utterance, expected: CorpusCounts | None) -> list[str]:
    """Say when an utterance is shorter or longer than anything in the release."""
    if expected is None or utterance.duration_s is None:
        return []
    # One hundredth of a second: resampled and FLAC copies differ by a few samples.
    shortest, longest, slack_s = expected.min_duration_s, expected.max_duration_s, 0.01
    if shortest is not None and utterance.duration_s < shortest - slack_s:
        return [
            f"{utterance.path}: lasts {utterance.duration_s:.3f} s, the shortest of the release "
            f"{shortest:.3f} s: this copy was cut"
        ]
    if longest is not None and utterance.duration_s > longest + slack_s:
        return [
            f"{utterance.path}: lasts {utterance.duration_s:.3f} s, the longest of the release "
            f"{longest:.3f} s: this copy was changed"
        ]
    return []


def _same_length(infos: dict[Path, AudioInfo]) -> str:
    """Say when nearly all files have one length, as cut or padded copies do."""
    files: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for path, info in infos.items():
        files[info.n_samples, info.sample_rate].append(path)
    if len(infos) < _SAME_LENGTH_FILES:
        return ""
    (n_samples, sample_rate), members = max(files.items(), key=lambda item: len(item[1]))
    if len(members) < _SAME_LENGTH_SHARE * len(infos):
        return ""
    return (
        f"{len(members)} of {_files(len(infos))} last exactly {n_samples / sample_rate:.3f} s at "
        f"{sample_rate} Hz: this copy was cut or padded to one length; get the original release"
    )


def _pointer(path: Path) -> str:
    """Recognise what Git leaves in place of a large file."""
    try:
        with open(path, "rb") as file:
            head = file.read(40)
    except OSError:  # missing or unreadable: the caller already has the reason
        return ""
    if head.startswith(b"version https://git-lfs"):
        return f"{path}: a Git LFS pointer, not audio: run 'git lfs pull' in the corpus folder"
    return ""


def _files(n: int) -> str:
    return "1 file" if n == 1 else f"{n} files"


def _examples(names: Sequence[str]) -> str:
    return ("such as " if len(names) > _N_NAMED else "") + ", ".join(names[:_N_NAMED])
