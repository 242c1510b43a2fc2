"""Scores in a few lines for the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["headline"]


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """Say UAR and WAR with their intervals and spread, the baseline and the warning words."""
    lines = []
    names = metrics["metric_names"]
    for key in ("uar", "war"):
        pooled, interval = metrics["pooled"][key], metrics["intervals"][key]
        spread = "" if pooled["sd"] is None else f", sd over seeds {100 * pooled['sd']:.1f}"
        lines.append(
            f"  {names[key]:<20} {100 * pooled['mean']:5.1f} %   "
            f"({100 * interval['level']:.0f} % interval over {interval['n_clusters']} "
            f"{interval['cluster']}s {100 * interval['low']:.1f} to {100 * interval['high']:.1f}"
            f"{spread})"
        )
    baseline = metrics["majority_baseline"]
    lines.append(
        f"  always '{baseline['label']}'".ljust(23)
        + f"{100 * baseline['uar']:5.1f} %   (WAR {100 * baseline['war']:.1f} %)"
    )
    if metrics.get("warnings"):
        lines.append(f"  mind: {', '.join(metrics['warnings'])}")
    return lines
