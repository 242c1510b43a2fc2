"""Sections of the results page that compare variants of one system, each with the simplest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from claims import Claim, Group, Result, count
from comparisons import find_comparison, update_comparisons

from serkit.evaluation import holm
from serkit.types import InputError

__all__ = ["compare", "section"]

TITLES = {"decomposed": "Decomposed speech, small and from scratch"}
SIMPLEST = {"decomposed": "ser-only"}


def section(group: Group, experiments: Path) -> str:
    """Write the section: scores of the variants, and each tested against the simplest."""
    ran = [claim for claim in group.claims if claim.result]
    about = group.results[0]["corpus"]
    lines = [
        f"## {TITLES[group.folder]} on {about['title']}",
        "",
        f"{about['n_utterances']} utterances, {count(about['n_speakers'], 'speaker')}; "
        f"{ran[0].protocol}; {count(len(ran[0].config.seeds), 'seed')}, {ran[0].epochs} epochs.",
        "",
        "| variant | parameters | UAR | interval | WAR | WER |",
        "|---|---:|---|---|---|---|",
        *map(_row, sorted(group.claims, key=lambda claim: claim.variant != SIMPLEST[group.folder])),
        "",
    ]
    return "\n".join([*lines, *_tests(group, experiments)])


def compare(group: Group, runs: Mapping[str, Path], experiments: Path) -> None:
    """Test those variants against the simplest whose runs are at hand: name -> run folder."""
    update_comparisons(_file(group, experiments), _pairs(group), runs)


def _row(claim: Claim) -> str:
    name = f"| [{claim.config.system}]({claim.link})"
    if claim.result is None:
        return f"{name} | | *not run yet* | | | |"
    heard = claim.result.get("heard") or {}
    said = f"{100 * heard['wer']:.1f}" if heard else ""
    return (
        f"{name}{claim.overtaken} | {claim.result['n_parameters']:,} | {claim.score('uar')} | "
        f"{claim.interval('uar')} | {claim.score('war')} | {said} |"
    )


def _tests(group: Group, experiments: Path) -> list[str]:
    pairs = _pairs(group)
    found = [find_comparison(_file(group, experiments), *pair) for pair in pairs]
    tested = [comparison for comparison in found if comparison is not None]
    if not tested:
        return []
    adjusted = holm([comparison.p for comparison in tested])
    lines = [
        "Paired test over speakers against the first of these systems, p once more by Holm's rule "
        "over the tests of this table; the difference in points of UAR with its 95 % interval.",
        "",
        "| variant | difference | interval | p | p, Holm |",
        "|---|---|---|---|---|",
    ]
    systems = {run["name"]: run["system"] for run, _ in pairs}
    for test, p in zip(tested, adjusted, strict=True):
        lines.append(
            f"| {systems[test.run]} | {100 * test.difference:+.1f} | {100 * test.low:+.1f} to "
            f"{100 * test.high:+.1f} | {test.p:.2g} | {p:.2g} |"
        )
    return [*lines, ""]


def _pairs(group: Group) -> list[tuple[Result, Result]]:
    simplest = f"{group.folder}-{group.corpus}-{SIMPLEST[group.folder]}"
    by_name = {claim.config.name: claim for claim in group.claims}
    if simplest not in by_name:
        raise InputError(
            f"experiments/{group.folder}: '{simplest}', which the variants are compared with, is "
            "not among the experiments"
        )
    first = by_name[simplest].result
    if first is None:
        return []
    return [(result, first) for result in group.results if result["name"] != simplest]


def _file(group: Group, experiments: Path) -> Path:
    return experiments / "comparisons" / f"{group.name}.json"
