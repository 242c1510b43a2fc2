"""The model card that goes with every recognizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_card"]


def model_card(
    run: Mapping[str, Any], metrics: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    """Write the card: what it is, what it was trained on, how well it did under which protocol."""
    corpus, protocol = run["corpus"], run["protocol"]
    words = [word.upper() for word in protocol["warnings"]]
    if corpus["synthetic"]:
        words.insert(0, "SYNTHETIC SPEECH")
    if not corpus["complete"]:
        words.append("INCOMPLETE CORPUS")
    warning = f"\n**{' · '.join(words)}**\n" if words else ""
    n_speakers = corpus["n_speakers"] or "unknown"
    quirks = "".join(f"- {quirk}\n" for quirk in corpus["quirks"])
    return f"""# {run["title"]}
{warning}
Recognises {", ".join(run["labels"])} from speech{_several(run)}.
{run["n_parameters"]:,} parameters.

## How well

These are scores of the cross-validation, not of this very model: it was trained afterwards on all
{corpus["n_utterances"]} utterances for the median number of epochs that the folds selected.
{_not_judged(metrics)}
| | |
|---|---|
{_score_rows(metrics)}
| protocol | {protocol["split"]}, {protocol["n_folds"]} folds, dev: {protocol["dev"]} |
| epoch | {protocol["selection"]} |
| speaker-independent | {"yes" if protocol["speaker_independent"] else "no"} |
| seeds | {", ".join(map(str, run["seeds"]))} |

## Trained on

{corpus["title"]}: {corpus["n_utterances"]} utterances, {n_speakers} speakers.
Licence: {corpus["licence"]}. A model inherits the cautions of its corpus's licence.
{corpus["citation"]}

{corpus["check"]}

{quirks}
## Limits

Corpora of acted emotion are not life: expect lower scores on spontaneous speech, other languages,
other microphones. A score is the model's belief about the classes above, not a measurement of what
a person feels.

## Reproduce

Written by serkit {run["serkit_version"]} (commit {run["commit"] or "not known"}), corpus
fingerprint `{corpus["fingerprint"]}`. The resolved experiment is `config.json` in the run folder;
seeds {list(run["seeds"])}, {config["training"]["epochs"]} epochs at most.
"""


def _several(run: Mapping[str, Any]) -> str:
    return "; an utterance may have several of them, or none" if run.get("multi_label") else ""


def _not_judged(metrics: Mapping[str, Any]) -> str:
    return f"\n{metrics['not_judged']}.\n" if metrics.get("not_judged") else ""


def _score_rows(metrics: Mapping[str, Any]) -> str:
    """Write one line of the table per metric, then the baseline."""
    names, baseline = metrics["metric_names"], metrics["majority_baseline"]
    lines = []
    for key, interval in metrics["intervals"].items():
        lines.append(
            f"| {names[key]} | {metrics['pooled'][key]['mean']:.1%}, {interval['level']:.0%} "
            f"interval {interval['low']:.1%} to {interval['high']:.1%} |"
        )
    always = ", ".join(
        f"{names[key].split(' (')[0]} {baseline[key]:.1%}" for key in metrics["intervals"]
    )
    return "\n".join([*lines, f"| always answering {baseline['label']} | {always} |"])
