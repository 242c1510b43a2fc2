"""Scores in a few lines for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["headline"]


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """Say the scores with their intervals and spread, the baseline and what limits them.

    Parameters
    ----------
    metrics
        Content of metrics.json, or a summary as a dict; of a table of any kind.
    """
    if metrics.get("task") == "sentiment":
        return _of_sentiment(metrics)
    if "decodings" in metrics:
        return _of_transcription(metrics)
    if "finding" in metrics:  # of a decomposition
        return [f"  {metrics['finding']}"]
    lines = []
    names = metrics["metric_names"]
    width = max(20, *(len(names[key]) for key in metrics["intervals"]))
    for key, interval in metrics["intervals"].items():
        pooled = metrics["pooled"][key]
        spread = "" if pooled["sd"] is None else f", sd over seeds {100 * pooled['sd']:.1f}"
        lines.append(
            f"  {names[key]:<{width}} {100 * pooled['mean']:5.1f} %   "
            f"({100 * interval['level']:.0f} % interval over {interval['n_clusters']} "
            f"{interval['cluster']}s {100 * interval['low']:.1f} to {100 * interval['high']:.1f}"
            f"{spread})"
        )
    lines.append(_baseline(metrics, width))
    heard = metrics.get("heard")
    if heard:
        words = f"words heard wrongly (WER), of {heard['n_words']}"
        lines.append(
            f"  {words:<{width}} {100 * heard['wer']:5.1f} %   (CER {100 * heard['cer']:.1f} %)"
        )
    if metrics.get("not_judged"):
        lines.append(f"  mind: {metrics['not_judged']}")
    if metrics.get("warnings"):
        lines.append(f"  mind: {', '.join(metrics['warnings'])}")
    return lines


def _baseline(metrics: Mapping[str, Any], width: int) -> str:
    """Say what the most frequent answer would score: the leading metric, then the others."""
    baseline = metrics["majority_baseline"]
    first, *others = metrics["intervals"]
    short = {key: metrics["metric_names"][key].split(" (")[0] for key in others}
    rest = ", ".join(f"{short[key]} {100 * baseline[key]:.1f} %" for key in others)
    always = f"always '{baseline['label']}'"
    return f"  {always:<{width}} {100 * baseline[first]:5.1f} %   ({rest})"


def _of_transcription(metrics: Mapping[str, Any]) -> list[str]:
    """Say the error rates of a speech recogniser's test part, by each way of decoding."""
    return [
        f"  {name:<14} CER {100 * scores['cer']:5.1f} %   WER {100 * scores['wer']:5.1f} %   "
        f"({metrics['n_test']} utterances that nothing was chosen on)"
        for name, scores in metrics["decodings"].items()
    ]


def _of_sentiment(metrics: Mapping[str, Any]) -> list[str]:
    """Say every score of a sentiment run beside what knows nothing of a clip."""
    baselines = metrics["baselines"]
    lines = []
    for key, spread in metrics["scores"].items():
        sd = "" if spread["sd"] is None else f", sd over seeds {spread['sd']:.3f}"
        interval = metrics["intervals"].get(key)
        between = "interval not known"
        if interval:
            between = (
                f"interval over {interval['n_clusters']} {interval['cluster']}s "
                f"{interval['low']:.3f} to {interval['high']:.3f}"
            )
        # Always the commonest class has no error: that of always the mean stands in its place.
        known = baselines["majority"][key]
        known = baselines["mean"][key] if known is None else known
        lines.append(
            f"  {key:<14} {_plain(spread['mean'])}   ({between}{sd}; "
            f"knowing nothing {_plain(known)})"
        )
    if metrics["warnings"]:
        lines.append(f"  mind: {', '.join(metrics['warnings'])}")
    return lines


def _plain(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
