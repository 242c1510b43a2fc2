"""Paired tests between runs, kept so that the results page can be made without the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from claims import Result

from serkit.evaluation import compare_runs
from serkit.types import InputError

__all__ = ["Comparison", "find_comparison", "update_comparisons"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired test over speakers: difference in UAR (a fraction), run minus ``against``.

    ``started`` holds when each of the two was, which tells a test of other runs of these names.
    """

    run: str
    against: str
    started: tuple[str, str]
    difference: float
    low: float
    high: float
    p: float
    n_speakers: int
    n_utterances: int
    remarks: tuple[str, ...]


def update_comparisons(
    path: Path, pairs: Sequence[tuple[Result, Result]], runs: Mapping[str, Path]
) -> None:
    """Test the pairs whose two runs are at hand, and keep what was known of the others.

    Parameters
    ----------
    path
        File of the comparisons.
    pairs
        Results that are to be compared: run, and what it is compared with.
    runs
        Name -> run folder, of those at hand.

    Raises
    ------
    InputError
        If the two runs of a pair have no utterance in common.
    """
    known = _read(path)
    comparisons = []
    for run, against in pairs:
        names = (run["name"], against["name"])
        if all(name in runs for name in names):
            comparisons.append(_compare(run, against, runs))
        elif names in known:
            comparisons.append(known[names])
    if comparisons:
        path.parent.mkdir(exist_ok=True)
        content = json.dumps([asdict(c) for c in comparisons], indent=1, ensure_ascii=False)
        path.write_text(content + "\n", encoding="utf-8")


def find_comparison(path: Path, run: Result, against: Result) -> Comparison | None:
    """Find the test of two results; ``None`` where these were never compared."""
    found = _read(path).get((run["name"], against["name"]))
    same = found is not None and found.started == (run["started"], against["started"])
    return found if same else None


def _compare(run: Result, against: Result, runs: Mapping[str, Path]) -> Comparison:
    (pair,) = compare_runs([runs[against["name"]], runs[run["name"]]]).pairs
    if pair.test is None:
        raise InputError(pair.verdict)
    return Comparison(
        run=run["name"],
        against=against["name"],
        started=(run["started"], against["started"]),
        difference=pair.test.difference,
        low=pair.test.low,
        high=pair.test.high,
        p=pair.test.p,
        n_speakers=pair.test.n_speakers,
        n_utterances=pair.test.n_utterances,
        remarks=(*pair.caveats, *pair.test.notes),
    )


def _read(path: Path) -> dict[tuple[str, str], Comparison]:
    if not path.is_file():
        return {}
    comparisons = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        row |= {"started": tuple(row["started"]), "remarks": tuple(row["remarks"])}
        comparisons[row["run"], row["against"]] = Comparison(**row)
    return comparisons
