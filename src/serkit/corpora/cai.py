"""The tables of X. Cai et al. (Interspeech 2021) for IEMOCAP: ten folds, four classes, transcripts.

For each fold two tables, ``iemocap_01F.train.csv`` and ``iemocap_01F.test.csv``, with the columns
``file,emotion,text``. Emotions are codes: e0 neutral, e1 happy (with excited), e2 angry, e3 sad;
turns of other emotions are not in the tables. Texts are in capitals; dots are words of their own,
and ``{LG}``, ``{NS}`` and ``{BR}`` are events such as laughter. The style ``cai`` of
:func:`serkit.transcripts.ctc_clean` makes of them what the authors' network was to spell.

The paths in ``file`` are those of the authors' machine. Only the turn's name at their end counts:
the sound is looked for by it below the root, or below ``wavs``, where the IEMOCAP release may be as
it is.

``read`` gives every turn once, with what its name says (see :mod:`.iemocap`). The folds are those
of the split ``recording_folds``; :func:`read_folds` reads them from the tables.

Label order here: angry 1103, happy 1636, neutral 1708, sad 1084; 5531 turns.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path, PurePosixPath

from serkit.audio import find_sound_files
from serkit.corpora import iemocap
from serkit.corpora.manifest import CorpusCounts, CorpusError, require_folder, sort_utterances
from serkit.types import Fold, Utterance

TITLE = "IEMOCAP, tables of Cai et al. (ten folds, four classes)"
LANGUAGE = "en"
LICENSE = "tables published without a licence; sound " + iemocap.LICENSE
CITATION = (
    "X. Cai, J. Yuan, R. Zheng, L. Huang, K. Church: Speech Emotion Recognition with Multi-Task "
    "Learning. Interspeech 2021, 4508-4512; and " + iemocap.CITATION
)
URL_HINT = "https://github.com/TideDancer/interspeech21_emotion and " + iemocap.URL_HINT
MANNER = "acted"
EXPECTED = CorpusCounts(
    n_utterances=5531,
    n_speakers=10,
    per_label={"angry": 1103, "happy": 1636, "neutral": 1708, "sad": 1084},
)
NAMES = (
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
    "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M011.wav",
    "Session1/sentences/wav/Ses01F_impro02/Ses01F_impro02_F000.wav",
    "Session1/sentences/wav/Ses01F_impro03/Ses01F_impro03_F000.wav",
    "Session1/sentences/wav/Ses01M_script01_1/Ses01M_script01_1_F003.wav",
)
QUIRKS = (
    "The folds 01F to 05M are recordings, not speakers: both speakers of a session are in train "
    "and test of each.",
    *iemocap.QUIRKS[1:3],
    "Transcripts are in capitals and hold {LG}, {NS} and {BR}; their dots are words of their own.",
)
IGNORED = ("*Ses0[1-5]*",)
OPTIONS = ("wavs",)

_LABELS = {"e0": "neutral", "e1": "happy", "e2": "angry", "e3": "sad"}
_COLUMNS = ["file", "emotion", "text"]


def read(root: Path, *, wavs: Path | str | None = None) -> list[Utterance]:
    """Read all turns that the tables list; those whose sound is not there are left out.

    Parameters
    ----------
    root
        The folder of the tables, at any depth.
    wavs
        The folder of the sound files, at any depth; by default the root.

    Raises
    ------
    CorpusError
        If a folder is missing, there are no tables or no sound of their turns, a table cannot be
        understood, or two of them disagree about a turn.
    """
    root = require_folder(root, "cai")
    sound_folder = root if wavs is None else require_folder(Path(wavs), "cai")
    listed: dict[str, Utterance] = {}
    for tables in _table_pairs(root).values():
        for table in tables:
            for turn in _read_table(table):
                if listed.setdefault(turn.id, turn) != turn:
                    raise CorpusError(
                        f"{table}: {turn.id} has another emotion or text than in the tables before "
                        "it: get the tables again from their release"
                    )
    sounds = {path.stem: path for path in reversed(find_sound_files(sound_folder))}
    found = [replace(turn, path=sounds[turn.id]) for turn in listed.values() if turn.id in sounds]
    if not found:
        raise CorpusError(
            f"cai: the tables below {root} list {len(listed)} turns, but {sound_folder} has the "
            f"sound of none (first: {next(iter(listed))}.wav): name the folder of the IEMOCAP "
            "release with the option wavs"
        )
    return sort_utterances(found)


def read_folds(root: Path | str) -> list[Fold]:
    """Read the folds of the tables; they have no dev part.

    Raises
    ------
    CorpusError
        If there are no tables, one cannot be understood, or a turn is in both of a fold.
    """
    folds = []
    for name, tables in _table_pairs(require_folder(Path(root), "cai")).items():
        train, test = ({turn.id: None for turn in _read_table(table)} for table in tables)
        both = [uid for uid in test if uid in train]
        if both:
            raise CorpusError(
                f"{tables[1]}: {both[0]} is in the train table of fold {name} too "
                f"({len(both)} turns in both): get the tables again from their release"
            )
        folds.append(Fold(name=name, train=tuple(train), dev=(), test=tuple(test)))
    return folds


def _table_pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """Find each fold's train and test table; the fold is what follows the last underscore."""
    tests = sorted(path for path in root.glob("**/*.test.csv") if not path.name.startswith("."))
    if not tests:
        raise CorpusError(
            f"cai: no tables below {root}: expected pairs such as iemocap_01F.train.csv and "
            "iemocap_01F.test.csv"
        )
    pairs: dict[str, tuple[Path, Path]] = {}
    for test in tests:
        stem = test.name.removesuffix(".test.csv")
        train = test.with_name(f"{stem}.train.csv")
        name = stem.rpartition("_")[2]
        if not train.is_file():
            raise CorpusError(f"cai: {test} has no {train.name} beside it: get the pair")
        if name in pairs:
            raise CorpusError(
                f"cai: two pairs of tables for the fold {name}, {pairs[name][1]} and {test}: give "
                "the folder of one"
            )
        pairs[name] = (train, test)
    return pairs


def _read_table(path: Path) -> list[Utterance]:
    """Read one table; the sound files are yet unknown."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != _COLUMNS:
                raise CorpusError(
                    f"{path}: got the header '{','.join(header)}', expected {','.join(_COLUMNS)}"
                )
            turns = [_turn(f"{path}, line {reader.line_num}", row) for row in reader if row]
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: not a table in UTF-8 ({error}): get it again") from None
    seen: set[str] = set()
    for turn in turns:
        if turn.id in seen:
            raise CorpusError(f"{path}: lists {turn.id} twice: delete one of the rows")
        seen.add(turn.id)
    return turns


def _turn(where: str, row: list[str]) -> Utterance:
    turn = None
    if len(row) == len(_COLUMNS) and row[1] in _LABELS:
        name = PurePosixPath(row[0].replace("\\", "/")).stem
        turn = iemocap.parse(Path(name), name)
    if turn is None:
        raise CorpusError(
            f"{where}: got '{','.join(row)}', expected the file of an IEMOCAP turn, one of "
            f"{', '.join(_LABELS)} and a text, as in Ses01F_impro01_F000.wav,e0,EXCUSE ME ."
        )
    return replace(turn, corpus="cai", label=_LABELS[row[1]], transcript=row[2].strip() or None)
