"""CH-SIMS: clips of Chinese films and shows, labelled as a whole and stream by stream.

2281 clips of 60 videos. Five people gave each clip, its text, its sound and its pictures -1, 0 or
1; labels are their means. Released as::

    label.csv                       one row per clip
    Raw/video_0001/0001.mp4         the clip 0001 of video_0001

CH-SIMS v2, and CMU-MOSI and CMU-MOSEI as the same people hand them on, have this layout too, the
last two without labels of single streams and with labels from -3 to 3. Which of them a folder holds
is said with the option ``release``; ``other`` takes whatever is there.

Quirks: ids have leading zeros, which spreadsheets drop. The parts are of clips: several clips of a
video, and perhaps of a speaker, lie in different parts, and nobody published who speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serkit.corpora.labelled_clips import (
    ClipCounts,
    LabelledClip,
    clip_part,
    find_clip,
    read_annotation,
    read_label,
    read_stream_annotations,
    read_table,
    require_unique,
)
from serkit.corpora.manifest import CorpusError, require_folder

TITLE = "CH-SIMS (also CH-SIMS v2, CMU-MOSI and CMU-MOSEI in its layout)"
LANGUAGE = "zh"
LICENSE = "for research; ask the authors for the videos"
CITATION = (
    "W. Yu et al.: CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained "
    "Annotation of Modality. ACL 2020"
)
URL_HINT = "the authors' repository, thuiar/MMSA on GitHub, links the videos and label.csv"
MANNER = "acted"
QUIRKS = (
    "The official parts share videos: what is scored on them is no unseen film.",
    "Speakers are not named.",
    "Counts of dev and test, and of signs, are those of the literature; never checked on a copy.",
)
OPTIONS = ("release",)

RELEASES: Mapping[str, ClipCounts] = {
    "ch_sims": ClipCounts(
        n_clips=2281,
        parts={"train": 1368, "dev": 456, "test": 457},
        signs={"train": (742, 207, 419), "dev": (248, 69, 139), "test": (248, 69, 140)},
    ),
    "ch_sims_v2": ClipCounts(n_clips=4402, parts={"train": 2722}),
    "cmu_mosi": ClipCounts(parts={"train": 1284}),
    "cmu_mosei": ClipCounts(parts={"train": 16_326}),
    "other": ClipCounts(),
}

EXPECTED = RELEASES["ch_sims"]

SEPARATOR = "$_$"  # between video and clip in an id

_LIMITS = {"ch_sims": 1.0, "ch_sims_v2": 1.0}  # of labels; elsewhere 3
_REQUIRED = ("video_id", "clip_id", "text", "label", "mode")
_LABELS = {"M": "label", "T": "label_T", "A": "label_A", "V": "label_V"}


def read(root: Path, *, release: str = "ch_sims") -> list[LabelledClip]:
    """Read ``label.csv``, in its order.

    Parameters
    ----------
    root
        The folder that holds it and ``Raw``.
    release
        Key of :data:`RELEASES`.

    Raises
    ------
    CorpusError
        If the folder or the table is missing or cannot be understood; the message names the line.
    """
    counts_of(release)
    root = require_folder(Path(root), "ch_sims")
    table = root / "label.csv"
    numbered = [
        (line, _clip(root, row, f"{table}, line {line}", limit=_LIMITS.get(release, 3.0)))
        for line, row in read_table(table, required=_REQUIRED)
    ]
    require_unique(table, numbered)
    clips = [clip for _, clip in numbered]
    _refuse_lost_zeros(table, clips)
    return clips


def counts_of(release: str) -> ClipCounts:
    """Tell what a complete copy holds.

    Raises
    ------
    CorpusError
        If the release is unknown.
    """
    if release not in RELEASES:
        raise CorpusError(f"ch_sims: release '{release}', expected one of {', '.join(RELEASES)}")
    return RELEASES[release]


def read_with_counts(
    root: Path, *, release: str = "ch_sims"
) -> tuple[list[LabelledClip], ClipCounts]:
    """Read, and tell what a complete copy of this release holds."""
    return read(root, release=release), counts_of(release)


def _clip(root: Path, row: Mapping[str, str], where: str, *, limit: float) -> LabelledClip:
    video, name = (_name(row[key], f"{where}, column '{key}'") for key in ("video_id", "clip_id"))
    labels = {
        stream: read_label(row.get(column, ""), limit=limit, where=f"{where}, column '{column}'")
        for stream, column in _LABELS.items()
    }
    return LabelledClip(
        id=f"{video}{SEPARATOR}{name}",
        path=find_clip(root / "Raw" / video, name),
        text=row["text"],
        part=clip_part(row["mode"], where=f"{where}, column 'mode'"),
        group=video,
        labels=labels,
        annotation=read_annotation(row),
        stream_annotations=read_stream_annotations(row),
    )


def _name(cell: str, where: str) -> str:
    """Refuse what would lead out of the folder, or make two ids alike."""
    if not cell or cell in (".", "..") or set(cell) & set('/\\:"') or SEPARATOR in cell:
        raise CorpusError(f"{where}: got '{cell[:40]}', expected the name of a folder or file")
    return cell


def _refuse_lost_zeros(table: Path, clips: list[LabelledClip]) -> None:
    """Say what happened where no clip is found and names padded with zeros would be."""
    if any(clip.path.is_file() for clip in clips):
        return
    for clip in clips:
        name = clip.id.partition(SEPARATOR)[2]
        padded = find_clip(clip.path.parent, name.zfill(4))
        if name.isdecimal() and padded.is_file():
            raise CorpusError(
                f"{table}: names the clip '{name}' where the file is {padded.name}: the table lost "
                "its leading zeros, as in a spreadsheet: take it from the release again"
            )
