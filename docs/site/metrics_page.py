"""The site's page of metrics, from `telemetry`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter, Gauge, Histogram

from orchestrator import telemetry

Metric = Counter | Gauge | Histogram

_INTRODUCTION = """\
# Metrics

`/metrics` of any worker gives the sum over all processes, in Prometheus' text format. Which of them to be woken by:
[operations](operations.md#metrics).
"""


def metrics() -> Iterator[Metric]:
    """Every metric, in the order of `telemetry`."""
    return (each for each in vars(telemetry).values() if isinstance(each, Metric))


def page() -> str:
    return "\n".join([_INTRODUCTION, *(_section(each) for each in metrics())])


def _section(metric: Metric) -> str:
    told = next(iter(metric.describe()))
    name = f"{told.name}_total" if told.type == "counter" else told.name
    facts = [f"- {told.type}"]
    if metric._labelnames:
        facts.append(f"- by {', '.join(f'`{each}`' for each in metric._labelnames)}")
    if isinstance(metric, Histogram):
        bounds = ", ".join(f"{each:g}" for each in metric._upper_bounds[:-1])
        facts.append(f"- in seconds; up to {bounds}; with `{name}_bucket`, `{name}_sum`, `{name}_count`")
    return "\n".join([f"## `{name}`", "", told.documentation, "", *facts, ""])
