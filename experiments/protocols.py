"""Sections of the results page that hold one network to several protocols on one corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from claims import Claim, Group, count, results_of
from gap_figure import GapRow, draw_gap

from serkit.corpora.splits import SELECTED_ON_TEST, SPEAKER_DEPENDENT
from serkit.types import InputError

__all__ = ["figure", "figure_name", "section", "under_trained"]

# Protocols by the end of an experiment's name, from the easiest question to the hardest.
PROTOCOLS = {
    "published-2022": "random folds, best test epoch",
    "best-test-fold": "shuffled speakers, best test epoch",
    "published-2023": "random folds, last epoch",
    "random-nested": "random folds, random dev part",
    "sentence-independent": "sentence-independent",
    "best-test-speaker": "speaker-independent, best test epoch",
    "speaker-independent": "speaker-independent",
    "speaker-and-sentence-independent": "speaker- and sentence-independent",
}

# What a step from one protocol to another takes away from the model.
STEPS = (
    ("random-nested", "sentence-independent", "knowing the sentence"),
    ("random-nested", "speaker-independent", "knowing the speaker"),
    ("random-nested", "speaker-and-sentence-independent", "knowing both"),
    ("best-test-fold", "best-test-speaker", "knowing the speaker"),
    ("best-test-speaker", "speaker-independent", "choosing the epoch on the test speaker"),
)

# Below this many steps the running statistics of batch norm (momentum 0.99), which a test uses,
# still lag behind the weights.
FEW_STEPS = 600


@dataclass(frozen=True, slots=True)
class Published:
    """Scores that the authors of a system report, in %, and how they came by them."""

    uar: float
    war: float
    split: str
    epochs: str
    seeds: str
    words: tuple[str, ...]


_RANDOM_LAST = ("random 10-fold", "500", "1", (SPEAKER_DEPENDENT,))
_RANDOM_BEST = ("random 10-fold", "300 to 500", "1", (SPEAKER_DEPENDENT, SELECTED_ON_TEST))
_SHUFFLED_BEST = ("shuffled-speakers", "300", "not stated", (SPEAKER_DEPENDENT, SELECTED_ON_TEST))

# By folder and corpus. TIM-Net: random 10-fold, last epoch (their correction of August 2023), and
# the best epoch on the test fold (the paper). Light-SERNet: confusion matrices in their repository,
# cross entropy, 3 s, with UAR as the mean of the printed recalls.
PUBLISHED = {
    ("timnet", "emodb"): {
        "published-2023": Published(89.19, 90.28, *_RANDOM_LAST),
        "published-2022": Published(95.17, 95.70, *_RANDOM_BEST),
    },
    ("timnet", "ravdess"): {
        "published-2023": Published(90.04, 90.07, *_RANDOM_LAST),
        "published-2022": Published(91.93, 92.08, *_RANDOM_BEST),
    },
    ("light_sernet", "emodb"): {
        "best-test-fold": Published(94.15, 94.21, *_SHUFFLED_BEST),
    },
}

# What others report under a speaker-independent protocol: who, protocol, UAR in %.
OTHERS = {
    "emodb": (
        "openSMILE ComParE_2016 + support vector machine (audEERING, w2v2-how-to)",
        "leave-one-speaker-out, speaker-independent",
        77.1,
    ),
    "ravdess": (
        "ResLSTM-SA, 47 k parameters (arXiv 2606.03359)",
        "5 actor folds, speaker-independent; how the epoch was chosen is not stated",
        62.3,
    ),
}


def section(group: Group) -> str:
    """Write the section: what was run under which protocol, others' scores, the gap."""
    first = group.results[0]
    about, baseline = first["corpus"], first["majority_baseline"]
    lines = [
        f"## {_title(group)}",
        "",
        f"{about['n_utterances']} utterances, {about['n_speakers']} speakers, "
        f"{len(first['labels'])} classes; {first['n_parameters']:,} parameters.",
        "",
        f"![UAR of {first['system']} by protocol]({figure_name(group)})",
        "",
        "| experiment | protocol | epochs | seeds | UAR | interval | WAR | interval | ECE |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_row, _ordered(group.claims)),
        f"| always *{baseline['label']}* | | | | {100 * baseline['uar']:.1f} | "
        f"| {100 * baseline['war']:.1f} | | |",
    ]
    lines += [_published_row(name, authors) for name, authors in _published(group).items()]
    if group.corpus in OTHERS:
        who, protocol, uar = OTHERS[group.corpus]
        lines.append(f"| *{who}* | {protocol} | | | *{uar}* | not given | | | |")
    gap = _gap(group.claims)
    if gap:
        lines += ["", "The gap, in points of UAR:", "", *gap]
    return "\n".join([*lines, ""])


def figure_name(group: Group) -> str:
    """Name the figure's file in ``docs``."""
    return f"gap-{group.name}.svg"


def figure(group: Group) -> str:
    """Draw every protocol of a corpus: ours, the authors', and those that are not run yet."""
    by_protocol = {claim.variant: claim for claim in _ordered(group.claims)}
    published = _published(group)
    return draw_gap(
        [
            _gap_row(protocol, by_protocol.get(protocol), published.get(protocol))
            for protocol in PROTOCOLS
            if protocol in by_protocol or protocol in published
        ],
        title=_title(group),
        chance=100 * group.results[0]["majority_baseline"]["uar"],
    )


def under_trained(groups: Sequence[Group]) -> str:
    """Name the runs of few training steps; the dev part, which is not counted, makes them fewer."""
    few = []
    for r in (result for group in groups for result in group.results):
        protocol, training = r["protocol"], r["config"]["training"]
        n_train = r["corpus"]["n_utterances"] * (1 - 1 / protocol["n_folds"])
        n_steps = protocol["epochs"] * math.ceil(n_train / training["batch_size"])
        if n_steps < FEW_STEPS:
            few.append(f"{r['name']} (at most {n_steps} steps)")
    if not few:
        return ""
    return (
        f"* Under-trained by far: {', '.join(few)}. The running statistics of batch norm alone "
        "(momentum 0.99) need several hundred steps. These rows show that the path works and "
        "reproduce nothing yet.\n"
    )


def _title(group: Group) -> str:
    first = group.results[0]
    return f"{first['system']} on {first['corpus']['title']}"


def _published(group: Group) -> dict[str, Published]:
    return PUBLISHED.get((group.folder, group.corpus), {})


def _ordered(claims: Sequence[Claim]) -> list[Claim]:
    """Put claims into the order of their protocols, which each must have a place in."""
    for claim in claims:
        if claim.variant not in PROTOCOLS:
            raise InputError(
                f"experiments/{claim.file}: protocol '{claim.variant}' has no place in PROTOCOLS: "
                "give it one"
            )
    return sorted(claims, key=lambda claim: list(PROTOCOLS).index(claim.variant))


def _row(claim: Claim) -> str:
    experiment = f"[{claim.config.name}]({claim.link}) | {claim.protocol}"
    r = claim.result
    if r is None:
        return f"| {experiment} | {claim.epochs} | | *not run yet* | | | | |"
    return (
        f"| {experiment} | {claim.epochs}{claim.overtaken} | {len(r['seeds'])} | "
        f"{claim.score('uar')} | {claim.interval('uar')} | "
        f"{claim.score('war')} | {claim.interval('war')} | "
        f"{100 * r['expected_calibration_error']:.1f} |"
    )


def _published_row(name: str, authors: Published) -> str:
    return (
        f"| *the authors, {name}* | {authors.split}: **{', '.join(authors.words)}** | "
        f"{authors.epochs} | {authors.seeds} | *{authors.uar}* | not given | *{authors.war}* | "
        "not given | |"
    )


def _gap(claims: Sequence[Claim]) -> list[str]:
    """Say what each step to a stricter protocol costs, where both ends were trained alike."""
    by_protocol = {claim.variant: claim for claim in claims}
    lines = []
    for easier, stricter, what in STEPS:
        if easier not in by_protocol or stricter not in by_protocol:
            continue
        ends = [by_protocol[easier], by_protocol[stricter]]
        results = results_of(ends)
        step = f"* {what} (*{PROTOCOLS[easier]}* to *{PROTOCOLS[stricter]}*):"
        if len(results) < 2:
            lines.append(f"{step} not known yet.")
        elif ends[0].epochs != ends[1].epochs:
            lines.append(
                f"{step} not told by runs of {ends[0].epochs} and {ends[1].epochs} epochs."
            )
        else:
            above, below = (100 * result["pooled"]["uar"]["mean"] for result in results)
            lines.append(f"{step} **{above - below:.1f}**, from {above:.1f} to {below:.1f}.")
    return lines


def _gap_row(protocol: str, claim: Claim | None, published: Published | None) -> GapRow:
    words = claim.words if claim else published.words if published else ()
    row = GapRow(
        name=PROTOCOLS[protocol],
        detail="not run yet" if claim else "the authors alone",
        words=", ".join(w for w in words if w in (SPEAKER_DEPENDENT, SELECTED_ON_TEST)),
        authors=published.uar if published else None,
        authors_detail=f"{published.epochs} epochs" if published else "",
    )
    if claim is None or claim.result is None:
        return row
    r = claim.result
    pooled, interval = r["pooled"]["uar"]["mean"], r["intervals"]["uar"]
    # The first results were kept without the values per seed; one seed is its own mean.
    seeds = r.get("per_seed", [{"uar": pooled}] if len(r["seeds"]) == 1 else [])
    return replace(
        row,
        detail=f"{claim.epochs} epochs, {count(len(r['seeds']), 'seed')}",
        mean=100 * pooled,
        low=100 * interval["low"],
        high=100 * interval["high"],
        seeds=tuple(100 * seed["uar"] for seed in seeds),
    )
