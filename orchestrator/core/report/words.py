"""A report as tables of words: what every form of it shows, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.core.report.facts import Facts, Group, Spread


class Table(NamedTuple):
    """`rows` have as many cells as `head`; the first column is a name."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(facts: Facts) -> str:
    """The period in one line."""
    span = f"{facts.first:%Y-%m-%d %H:%M} to {facts.last:%Y-%m-%d %H:%M} UTC"
    return f"{facts.source}: {facts.all.calls} calls, {facts.all.success:.2%} answered, {span}"


def tables(facts: Facts) -> Iterator[Table]:
    """All of it; a table without rows is left out."""
    told = (
        _cache(facts),
        _times(facts),
        _groups("By tier", facts.tiers, facts),
        _groups("By model", facts.models, facts),
        _tokens(facts),
        _groups("By caller", facts.callers, facts),
        _groups("By user agent", facts.agents, facts),
        _groups("By tenant", facts.tenants, facts),
        _groups("By session", facts.sessions, facts),
        _groups("By day", facts.days, facts),
        Table("How calls ended", ("outcome", "calls"), _counted(facts.outcomes)),
        Table("Escalated, and why", ("reason", "calls"), _counted(facts.escalated)),
        Table(
            "Slowest", ("call", "model", "ms"), tuple((name, model, f"{ms:,.0f}") for name, model, ms in facts.slowest)
        ),
    )
    return (each for each in told if each.rows)


def _cache(facts: Facts) -> Table:
    cache = facts.cache
    if cache.off_since is not None:
        state = f"OFF since {cache.off_since:%Y-%m-%d %H:%M} UTC"
    else:
        state = "ON" if cache.asked else "not asked"
    rows = (
        ("state", state),
        ("hit rate", f"{cache.hit_rate:.1%} ({cache.hits} of {cache.asked})"),
        ("calls it was off for", str(cache.off)),
        ("cached prompt tokens", f"{cache.cached_tokens:,}"),
        *((f"no hit: {why}", str(count)) for why, count in cache.why_not[:5]),
    )
    return Table("Answer cache", ("", ""), rows)


def _times(facts: Facts) -> Table:
    rows = (
        ("whole call", *_ms(facts.latency_ms)),
        ("until it began", *_ms(facts.first_byte_ms)),
        ("queue", *_ms(facts.queue_ms)),
        ("gateway's own", *_ms(facts.overhead_ms)),
    )
    return Table("Milliseconds", ("", "fastest", "mean", "p50", "p95", "p99", "slowest"), rows)


def _tokens(facts: Facts) -> Table:
    rows = (("prompt", *_whole(facts.prompt)), ("completion", *_whole(facts.completion)))
    return Table("Tokens of a call", ("", "least", "mean", "p50", "p95", "p99", "most"), rows)


def _groups(title: str, groups: Sequence[Group], facts: Facts) -> Table:
    head = ("", "calls", "share", "answered", "tokens in", "out", "reasoning", "$", "$ / M tokens", "mean ms", "p95 ms")
    return Table(title, head, tuple(_row(each, facts.all.calls) for each in groups))


def _row(group: Group, all_calls: int) -> tuple[str, ...]:
    share = group.reasoning_share
    return (
        group.name,
        f"{group.calls:,}",
        f"{group.calls / all_calls:.1%}",
        f"{group.success:.1%}",
        f"{group.prompt_tokens:,}",
        f"{group.completion_tokens:,}",
        "-" if share is None else f"{share:.0%}",
        f"{group.usd:.4f}",
        f"{group.usd_per_million:.2f}",
        f"{group.mean_ms:,.0f}",
        f"{group.p95_ms:,.0f}",
    )


def _ms(spread: Spread) -> tuple[str, ...]:
    values = (spread.least, spread.mean, spread.p50, spread.p95, spread.p99, spread.most)
    return tuple(f"{each:,.1f}" for each in values)


def _whole(spread: Spread) -> tuple[str, ...]:
    values = (spread.least, spread.mean, spread.p50, spread.p95, spread.p99, spread.most)
    return tuple(f"{each:,.0f}" for each in values)


def _counted(pairs: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], ...]:
    return tuple((name, f"{count:,}") for name, count in pairs)
