"""Sections of the results page that compare networks under one protocol on one corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from claims import Claim, Group, Result, count
from comparisons import Comparison, find_comparison, update_comparisons
from costs import Cost, piece_of

from serkit.evaluation import holm
from serkit.experiment.config import load_experiment
from serkit.models.expert_fusion import N_STAGES
from serkit.types import InputError

__all__ = ["compare", "section"]

TITLES = {"moe": "Experts and fusion", "moe_light_sernet": "Experts and fusion over Light-SERNet"}

BASE = "moe/honest"  # preset that all of them shorten

# Networks whose costs differ by at most this factor are called equal in them.
ALIKE = 1.3

# What is to be equal: attribute of a cost, and its name.
MEASURES = {"n_parameters": "parameters", "n_macs": "multiply-accumulates"}

HELPS, SAME, HARMS = "helps", "makes no difference that these data can show", "harms"
NO_PARTNER, NOT_TESTED = "no plain network of nearly as many was run", "not compared yet"

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class Network:
    """One experiment of the section."""

    claim: Claim
    cost: Cost

    @property
    def name(self) -> str:
        """What the experiment calls it."""
        return self.claim.config.system

    @cached_property
    def shape(self) -> dict[str, Any]:
        """Settings of the model that say where experts are and how wide it is."""
        model = self.claim.config.model
        fusion = model["name"] == "expert_fusion"
        backbone = "macnn" if fusion else model["name"]
        share_until = 0 if fusion else N_STAGES
        defaults = {"backbone": backbone, "share_until": share_until, "merge_at": N_STAGES + 1}
        return defaults | {"width": 1.0} | model

    @property
    def has_experts(self) -> bool:
        """Whether there are several copies of a stage."""
        return bool(self.shape["share_until"] < N_STAGES)

    @property
    def is_mixture(self) -> bool:
        """Whether each expert is a whole network."""
        return self.shape["share_until"] == 0 and self.shape["merge_at"] > N_STAGES

    @property
    def has_expert_losses(self) -> bool:
        """Whether each expert has a logit of its own, and so a loss."""
        return self.has_experts and bool(self.shape["merge_at"] > N_STAGES)

    @property
    def is_plain_but_for_losses(self) -> bool:
        """Whether experts are nothing but the rows of one classifier."""
        return self.has_expert_losses and bool(self.shape["share_until"] == N_STAGES - 1)

    @property
    def weighs_classes(self) -> bool:
        """Whether rare classes count more in its loss."""
        return any(term.class_weights != "none" for term in self.claim.config.objective)

    @property
    def rank(self) -> tuple[object, ...]:
        """Plain networks by width, then forward fusion by level, backward fusion, both."""
        s = self.shape
        fusion = (s["merge_at"] <= N_STAGES) * (1 + (s["share_until"] > 0))
        level = s["share_until"] if fusion == 0 else s["merge_at"]
        return (s["backbone"], self.has_experts, s["width"], self.weighs_classes, fusion, level)


@dataclass(frozen=True, slots=True)
class Pair:
    """A network with experts and the plain one that it is held against."""

    network: Network
    against: Network

    @property
    def results(self) -> tuple[Result, Result]:
        """The results of both; only networks that were run are paired."""
        first, second = self.network.claim.result, self.against.claim.result
        assert first is not None
        assert second is not None
        return first, second

    def ratio(self, measure: str) -> float:
        """How many times the parameters or operations of the plain one."""
        return float(getattr(self.network.cost, measure) / getattr(self.against.cost, measure))

    def alike(self, measure: str) -> bool:
        """Whether both are equal in it, or nearly so."""
        return 1 / ALIKE <= self.ratio(measure) <= ALIKE


@dataclass(frozen=True, slots=True)
class Tested:
    """A comparison with its p after Holm's rule over all tests of the section."""

    comparison: Comparison
    p_adjusted: float

    @property
    def outcome(self) -> str:
        """What the test says about the network with experts."""
        if self.p_adjusted > SIGNIFICANT:
            return SAME
        return HELPS if self.comparison.difference > 0 else HARMS


def section(group: Group, experiments: Path) -> str:
    """Write the section: protocol, scores of the networks, paired tests, and what they answer."""
    networks = _networks(group)
    lines = [*_head(group, networks), *_scores(group, networks), "", *_recalls(networks)]
    pairs = _pairs(networks)
    if pairs:
        tested = _tested(pairs, _file(group, experiments))
        lines += ["", *_tests(pairs, tested), "", *_answers(networks, pairs, tested)]
    return "\n".join([*lines, ""])


def compare(group: Group, runs: Mapping[str, Path], experiments: Path) -> None:
    """Test those pairs of networks whose runs are at hand: name -> run folder."""
    pairs = [pair.results for pair in _pairs(_networks(group))]
    update_comparisons(_file(group, experiments), pairs, runs)


def _file(group: Group, experiments: Path) -> Path:
    return experiments / "comparisons" / f"{group.name}.json"


def _networks(group: Group) -> list[Network]:
    """Put the experiments in order; all must ask for one protocol."""
    classes = group.results[0]["labels"]
    first = group.claims[0]
    for claim in group.claims:
        if _conditions(claim) != _conditions(first):
            raise InputError(
                f"experiments/{claim.file}: protocol, seeds, classes, front end, view, epochs or "
                f"precision differ from those of {first.file}: a table compares networks alone"
            )
    networks = [Network(claim, piece_of(claim.config, classes).cost()) for claim in group.claims]
    return sorted(networks, key=lambda network: network.rank)


def _conditions(claim: Claim) -> tuple[object, ...]:
    c = claim.config
    training = (c.training.epochs, c.training.precision)
    return c.corpus, c.protocol, c.seeds, c.labels, c.front_end, c.view, training


def _head(group: Group, networks: Sequence[Network]) -> list[str]:
    """Say on what and under which protocol the networks were trained."""
    claim = next(network.claim for network in networks if network.claim.result)
    assert claim.result is not None
    about, training = claim.result["corpus"], claim.result["config"]["training"]
    preset = load_experiment(BASE, overrides=[f"corpus.name={claim.config.corpus.name}"])
    seeds = count(len(claim.result["seeds"]), "seed")
    return [
        f"## {TITLES[group.folder]} on {about['title']}, {len(claim.result['labels'])} classes",
        "",
        f"{about['n_utterances']} utterances, {about['n_speakers']} speakers; classes "
        f"{', '.join(claim.result['labels'])}. One protocol for all networks: {claim.protocol}; "
        f"{seeds}; {claim.epochs} of the preset's {preset.training.epochs} epochs; precision "
        f"{training['precision']}. Costs: trained weights, and multiply-accumulates of one "
        "segment; see *What experts cost*. Experts' UAR: the mean over experts of the UAR of "
        "each one's own yes or no, where chance is 50.",
        "",
    ]


def _scores(group: Group, networks: Sequence[Network]) -> list[str]:
    baseline = group.results[0]["majority_baseline"]
    return [
        "| network | parameters | MACs, M | UAR | interval | WAR | experts' UAR |",
        "|---|---:|---:|---|---|---|---|",
        *map(_row, networks),
        f"| always *{baseline['label']}* | | | {100 * baseline['uar']:.1f} | | "
        f"{100 * baseline['war']:.1f} | |",
    ]


def _recalls(networks: Sequence[Network]) -> list[str]:
    """Write the recall of each class, which tells networks of equal accuracy apart."""
    run = [network for network in networks if network.claim.result]
    recalls = {
        network.name: {c["label"]: c["recall"] for c in (network.claim.result or {})["per_class"]}
        for network in run
    }
    classes = list(recalls[run[0].name])
    return [
        "Recall of each class, in percent:",
        "",
        f"| network | {' | '.join(classes)} |",
        f"|---|{'---:|' * len(classes)}",
        *(
            f"| {name} | {' | '.join(f'{100 * own[c]:.1f}' for c in classes)} |"
            for name, own in recalls.items()
        ),
    ]


def _row(network: Network) -> str:
    claim, cost = network.claim, network.cost
    described = (
        f"| [{network.name}]({claim.link}){claim.overtaken} | {cost.n_parameters:,} | "
        f"{cost.n_macs / 1e6:.1f} |"
    )
    if claim.result is None:
        return f"{described} *not run yet* | | | |"
    experts = [expert["uar"] for expert in claim.result["experts"].values()]
    mean = f"{100 * sum(experts) / len(experts):.1f} |" if experts else "|"
    return (
        f"{described} {claim.score('uar')} | {claim.interval('uar')} | {claim.score('war')} | "
        f"{mean}"
    )


def _pairs(networks: Sequence[Network]) -> list[Pair]:
    """Hold networks with experts against the plain ones nearest to them, of those that were run.

    A mixture of whole experts is held against the network that its experts are made of as well, and
    every network with experts' losses against the plain ones that were trained with these, or with
    weights for the classes.
    """
    pairs: list[Pair] = []
    for network in networks:
        plain = _plain(network, networks)
        if not network.has_experts or network.claim.result is None or not plain:
            continue
        against = plain[:1] if network.is_mixture else []
        against += [_nearest(network, plain, measure) for measure in MEASURES]
        against += _with_other_losses(network, networks)
        pairs += [
            Pair(network, other) for i, other in enumerate(against) if other not in against[:i]
        ]
    return pairs


def _plain(network: Network, networks: Sequence[Network]) -> list[Network]:
    """List the networks of the same backbone without experts that were run, by width."""
    backbone = network.shape["backbone"]
    return [
        other
        for other in networks
        if other.shape["backbone"] == backbone
        and not other.has_experts
        and not other.weighs_classes
        and other.claim.result
    ]


def _with_other_losses(network: Network, networks: Sequence[Network]) -> list[Network]:
    """List the plain networks whose losses do what those of experts might do alone."""
    if not network.has_expert_losses:
        return []
    return [
        other
        for other in networks
        if other.shape["backbone"] == network.shape["backbone"]
        and other.claim.result
        and other is not network
        and (other.is_plain_but_for_losses or (other.weighs_classes and not other.has_experts))
    ]


def _nearest(network: Network, plain: Sequence[Network], measure: str) -> Network:
    return min(plain, key=lambda other: abs(math.log(Pair(network, other).ratio(measure))))


def _tested(pairs: Sequence[Pair], path: Path) -> list[Tested | None]:
    """Look the tests up, and adjust their p."""
    found = [find_comparison(path, *pair.results) for pair in pairs]
    adjusted = iter(holm([comparison.p for comparison in found if comparison]))
    return [Tested(comparison, next(adjusted)) if comparison else None for comparison in found]


def _tests(pairs: Sequence[Pair], tested: Sequence[Tested | None]) -> list[str]:
    """Write the paired tests, with how many times the costs a network has."""
    lines = [
        "Each network with experts against the plain networks, of those that were run, that are "
        "nearest to it in parameters and in multiply-accumulates; how many times as many it has "
        "is given. Paired test over speakers, p once more by Holm's rule over the tests of this "
        "table; the difference in points of UAR with its 95 % interval.",
        "",
        "| network | against | parameters | MACs | difference | interval | p | p, Holm |",
        "|---|---|---:|---:|---:|---|---|---|",
    ]
    remarks = {}
    for pair, test in zip(pairs, tested, strict=True):
        costs = " | ".join(f"x {pair.ratio(measure):.2f}" for measure in MEASURES)
        names = f"| {pair.network.name} | {pair.against.name} | {costs} |"
        if test is None:
            lines.append(f"{names} *{NOT_TESTED}* | | | |")
            continue
        c = test.comparison
        lines.append(
            f"{names} {100 * c.difference:+.1f} | {100 * c.low:+.1f} to {100 * c.high:+.1f} | "
            f"{c.p:.2g} | {test.p_adjusted:.2g} |"
        )
        if c.remarks:
            remarks[f"{pair.network.name} against {pair.against.name}"] = "; ".join(c.remarks)
    return lines + [f"\n{names}: {remark}." for names, remark in remarks.items()]


def _answers(
    networks: Sequence[Network], pairs: Sequence[Pair], tested: Sequence[Tested | None]
) -> list[str]:
    """Answer from the tests, one sentence each, whether experts help at equal cost."""
    outcomes = {
        pair: test.outcome if test else NOT_TESTED for pair, test in zip(pairs, tested, strict=True)
    }
    lines = [
        f"Do experts or fusion help? Equal is what differs by at most {100 * (ALIKE - 1):.0f} %; a "
        f"difference counts where p by Holm's rule is at most {SIGNIFICANT}.",
        "",
    ]
    for measure, words in MEASURES.items():
        found: dict[str, list[Network]] = {}
        for network in dict.fromkeys(pair.network for pair in pairs):
            nearest = Pair(network, _nearest(network, _plain(network, networks), measure))
            outcome = outcomes[nearest] if nearest.alike(measure) else NO_PARTNER
            found.setdefault(outcome, []).append(network)
        lines.append(f"* At equal {words}: {_sentence(found)}.")
    for pair, outcome in outcomes.items():
        if pair.network.is_mixture and pair.against is _plain(pair.network, networks)[0]:
            times = " and ".join(f"{pair.ratio(m):.1f} times the {w}" for m, w in MEASURES.items())
            answer = _sentence({outcome: [pair.network]})
            lines.append(f"* Against *{pair.against.name}*, at {times}: {answer}.")
    others = [o for o in networks if o.is_plain_but_for_losses or o.weighs_classes]
    for other in others:
        beyond: dict[str, list[Network]] = {}
        for pair, outcome in outcomes.items():
            if pair.against is other:
                beyond.setdefault(outcome, []).append(pair.network)
        if beyond:
            losses = "weights for the classes" if other.weighs_classes else "the experts' losses"
            lines.append(
                f"* Against *{other.name}*, the plain network trained with {losses}: "
                f"{_sentence(beyond)}."
            )
    return lines + _what_size_costs(networks)


def _what_size_costs(networks: Sequence[Network]) -> list[str]:
    """Tell of wider plain networks that are below the plain one: better than these is little."""
    some = next(network for network in networks if network.claim.result)
    first, *wider = _plain(some, networks) or [some]
    return [
        f"* Mind that *{network.name}* scores {-points:.1f} points of UAR below *{first.name}*: "
        "to be above it is not to be above the plain network."
        for network in wider
        if (points := _uar(network) - _uar(first)) <= -1
    ]


def _uar(network: Network) -> float:
    """Mean over seeds, in percent; of a network that was run."""
    assert network.claim.result is not None
    return float(100 * network.claim.result["pooled"]["uar"]["mean"])


def _sentence(found: Mapping[str, Sequence[Network]]) -> str:
    order = (HELPS, SAME, HARMS, NO_PARTNER, NOT_TESTED)
    return "; ".join(
        f"{outcome}: {', '.join(f'*{network.name}*' for network in found[outcome])}"
        for outcome in order
        if outcome in found
    )
