"""What all processes have counted so far, as the page reads it: counters and histograms by name, labels and value.

The page tells rates and quantiles by what came between two of them, so nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orchestrator import telemetry

# The page's own; the others are Prometheus' alone.
SHOWN: Final = frozenset({
    "olm_calls", "olm_tokens", "olm_usd", "olm_call_seconds", "olm_queue_seconds", "olm_cache_hits",
    "olm_cache_misses", "olm_cache_joins", "olm_retries", "olm_escalated", "olm_routed", "olm_handed_over",
})  # fmt: skip


def vitals() -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
    """By metric, each sample's labels and value; of a histogram `le` is one of them, and its sum is left out."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in telemetry.families():
        if family.name in SHOWN:
            found[family.name] = [_sample(each) for each in family.samples if each.name.endswith(("_total", "_bucket"))]
    return found


def _sample(sample: Any) -> tuple[Mapping[str, str], float]:
    return sample.labels, sample.value
