"""The request log of a period, or LiteLLM's, as `Facts`: counted by DuckDB, where the records are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb

from orchestrator.app import call_log
from orchestrator.app.call_log import rows_of
from orchestrator.core.call_record import TYPES, CallRecord
from orchestrator.core.errors import HostError
from orchestrator.core.report import litellm
from orchestrator.core.report.facts import Bar, CacheFacts, Facts, Group, Spread

# Of callers, agents and sessions, those with most calls.
AT_MOST: Final = 10
_BARS: Final = {
    "prompt_tokens": (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000),
    "completion_tokens": (10, 30, 100, 300, 1_000, 3_000, 10_000),
    "total_ms": (10, 50, 100, 500, 1_000, 2_000, 5_000, 10_000, 60_000),
}


def facts_of_log(folder: Path, since: datetime | None, until: datetime | None) -> Facts:
    """Of our own request log. Raises HostError where there are no records of that time."""
    with call_log.opened(folder, since, until) as database:
        return _facts(database, "request log")


def facts_of_litellm(path: Path) -> Facts:
    """Of a LiteLLM proxy's log: JSON lines or a JSON list of its logging payloads, or of its spend logs.

    Raises HostError, with file and line.
    """
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE calls ({', '.join(f'{name} {kind}' for name, kind in TYPES.items())})")
        records = [list(each) for each in _litellm_records(path)]
        if records:
            database.executemany(f"INSERT INTO calls VALUES ({', '.join('?' * len(TYPES))})", records)  # noqa: S608
        return _facts(database, f"LiteLLM, {path.name}")


def _litellm_records(path: Path) -> Iterator[CallRecord]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as why:
        raise HostError(f"{path}: {why.strerror}") from why
    except UnicodeDecodeError as why:
        raise HostError(f"{path}: is no text in UTF-8: {why}") from why
    is_list = text.lstrip().startswith("[")
    lines = [text] if is_list else text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            yield from (litellm.record(each) for each in (told if is_list else [told]))
        except (ValueError, litellm.NoRecordError) as why:
            raise HostError(f"{path}:{number}: is no record of LiteLLM's: {why}") from why


def _facts(database: duckdb.DuckDBPyConnection, source: str) -> Facts:
    whole = rows_of(database, "SELECT min(at_ms) first, max(at_ms) last, count(*) n FROM calls")[0]
    if not whole["n"]:
        raise HostError(f"{source}: has no calls of that time")
    sums = rows_of(database, "SELECT sum(failures > 0) retried, sum(simulated::INT) simulated FROM calls")[0]
    return Facts(
        source=source,
        first=_moment(whole["first"]),
        last=_moment(whole["last"]),
        all=_groups(database, "'all'")[0],
        cache=_cache(database),
        outcomes=_pairs(database, "outcome", "TRUE"),
        latency_ms=_spread(database, "total_ms", "outcome = 'ok'"),
        first_byte_ms=_spread(database, "first_byte_ms", "outcome = 'ok' AND first_byte_ms > 0"),
        overhead_ms=_spread(database, "overhead_ms", "overhead_ms > 0"),
        queue_ms=_spread(database, "queue_ms", "outcome = 'ok' AND tier <> 'cache'"),
        prompt=_spread(database, "prompt_tokens", "prompt_tokens > 0"),
        completion=_spread(database, "completion_tokens", "completion_tokens > 0"),
        prompt_bars=_bars(database, "prompt_tokens"),
        completion_bars=_bars(database, "completion_tokens"),
        latency_bars=_bars(database, "total_ms"),
        tiers=_groups(database, "tier"),
        models=_groups(database, "CASE WHEN tier = 'cache' THEN 'cache' ELSE coalesce(nullif(model, ''), 'none') END"),
        callers=_groups(database, "caller")[:AT_MOST],
        tenants=_groups(database, "tenant", "tenant <> ''")[:AT_MOST],
        agents=_groups(database, "coalesce(nullif(agent, ''), 'unnamed')")[:AT_MOST],
        sessions=_groups(database, "session", "session <> ''")[:AT_MOST],
        days=_by_day(database),
        escalated=_pairs(database, "escalated", "escalated <> ''"),
        retried=int(sums["retried"] or 0),
        simulated=int(sums["simulated"] or 0),
        slowest=_slowest(database),
    )


def _groups(database: duckdb.DuckDBPyConnection, by: str, where: str = "TRUE") -> tuple[Group, ...]:
    """Calls by an expression of ours, those with most calls first."""
    query = f"""
        SELECT {by} AS name, count(*) calls, sum((outcome = 'ok')::INT) ok,
            sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens,
            sum(reasoning_tokens) reasoning_tokens, sum(usd) usd,
            coalesce(avg(total_ms) FILTER (outcome = 'ok'), 0) mean_ms,
            coalesce(quantile_cont(total_ms, .95) FILTER (outcome = 'ok'), 0) p95_ms
        FROM calls WHERE {where} GROUP BY 1 ORDER BY calls DESC, name
    """  # noqa: S608 - both are expressions of this module
    return tuple(Group(**each) for each in rows_of(database, query))


def _by_day(database: duckdb.DuckDBPyConnection) -> tuple[Group, ...]:
    days = _groups(database, "strftime(make_timestamp(at_ms * 1000), '%Y-%m-%d')")
    return tuple(sorted(days, key=lambda each: each.name))


# So many calls in a row that the cache was off for are no chance.
_STILL_ON: Final = 20


def _cache(database: duckdb.DuckDBPyConnection) -> CacheFacts:
    query = """
        WITH served AS (
            SELECT *, max(at_ms) FILTER (cache <> 'off') OVER () AS last_on FROM calls WHERE outcome = 'ok'
        )
        SELECT coalesce(sum((cache IN ('hit', 'faq'))::INT), 0) hits, coalesce(sum((cache = 'miss')::INT), 0) misses,
            coalesce(sum((cache = 'off')::INT), 0) off, coalesce(sum(cached_tokens), 0) cached_tokens,
            min(at_ms) FILTER (cache = 'off' AND at_ms > coalesce(last_on, -1)) off_since,
            count(*) FILTER (cache = 'off' AND at_ms > coalesce(last_on, -1)) off_lately
        FROM served
    """
    told = rows_of(database, query)[0]
    is_off = told["off_lately"] > (_STILL_ON if told["hits"] + told["misses"] else 0)
    off_since = _moment(told["off_since"]) if is_off and told["off_since"] is not None else None
    why_not = _pairs(database, "why", "cache IN ('miss', 'bypass', 'off') AND why <> ''")
    return CacheFacts(told["hits"], told["misses"], told["off"], told["cached_tokens"], off_since, why_not)


def _pairs(database: duckdb.DuckDBPyConnection, by: str, where: str) -> tuple[tuple[str, int], ...]:
    query = f"SELECT {by} AS name, count(*) n FROM calls WHERE {where} GROUP BY 1 ORDER BY n DESC, name"  # noqa: S608
    return tuple((each["name"], each["n"]) for each in rows_of(database, query))


def _spread(database: duckdb.DuckDBPyConnection, of: str, where: str) -> Spread:
    query = f"""
        SELECT min({of}) AS least, avg({of}) AS mean, quantile_cont({of}, .5) AS p50, quantile_cont({of}, .95) AS p95,
            quantile_cont({of}, .99) AS p99, max({of}) AS most
        FROM calls WHERE {where}
    """  # noqa: S608 - both are expressions of this module
    told = rows_of(database, query)[0]
    return Spread(**{name: float(value or 0.0) for name, value in told.items()})


def _bars(database: duckdb.DuckDBPyConnection, of: str) -> tuple[Bar, ...]:
    edges = [*_BARS[of], float("inf")]
    below = [f"sum(({of} < {edge})::INT) AS below_{edge}" for edge in _BARS[of]]
    query = f"SELECT {', '.join(below)}, count(*) FROM calls WHERE outcome = 'ok' AND {of} > 0"  # noqa: S608
    counts = [int(each or 0) for each in rows_of(database, query)[0].values()]
    before = [0, *counts[:-1]]
    return tuple(Bar(edge, count - less) for edge, count, less in zip(edges, counts, before, strict=True))


def _slowest(database: duckdb.DuckDBPyConnection) -> tuple[tuple[str, str, float], ...]:
    query = "SELECT id, model, total_ms FROM calls WHERE outcome = 'ok' ORDER BY total_ms DESC, id LIMIT 5"
    return tuple((each["id"], each["model"], float(each["total_ms"])) for each in rows_of(database, query))


def _moment(unix_ms: int) -> datetime:
    return datetime.fromtimestamp(unix_ms / 1e3, UTC)
