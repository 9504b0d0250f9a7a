"""What is kept of each call in the request log: its fields, their types, and nothing of any text.

Written by gateways as lines of JSON, kept as Parquet, read by `ollamactl calls` and `ollamactl report`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class CallRecord(NamedTuple):
    """One call as it ended. Times are milliseconds; what a call had not is 0 or empty."""

    at_ms: int  # unix time at which it came
    id: str
    caller: str
    agent: str  # its User-Agent, cut
    session: str  # its X-Session-Id, cut
    path: str
    model: str  # as it was asked for: a pool's or a route's name
    tier: str  # that answered, `cache` too
    instance: str
    cache: str  # hit, faq, miss, bypass or off
    why: str  # of a hit how it was one, otherwise why it was none
    outcome: str  # ok, refused, cut, gone, or the error's name
    status: int  # of HTTP; 499: the caller left before there was one
    stream: bool
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None  # of the completion's; None: the engine does not tell them apart
    cached_tokens: int  # of the prompt's that needed no work
    queue_ms: float
    wait_ms: float  # for instances or providers, until they began to answer
    overhead_ms: float  # our own, until the answer began
    first_byte_ms: float
    total_ms: float
    failures: int  # instances that were asked and failed
    escalated: str  # why a higher tier answered; empty: it did not come to that
    usd: float
    simulated: bool
    continued: int | None = None  # times that its stream went on at another instance; None: not kept then
    tenant: str | None = None  # whose API key it was by; None: not kept then


# As DuckDB names them.
TYPES: Final[dict[str, str]] = {
    "at_ms": "BIGINT",
    **dict.fromkeys(("id", "caller", "agent", "session", "path", "model", "tier", "instance"), "VARCHAR"),
    **dict.fromkeys(("cache", "why", "outcome"), "VARCHAR"),
    "status": "SMALLINT",
    "stream": "BOOLEAN",
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens"), "INTEGER"),
    **dict.fromkeys(("queue_ms", "wait_ms", "overhead_ms", "first_byte_ms", "total_ms"), "FLOAT"),
    "failures": "SMALLINT",
    "escalated": "VARCHAR",
    "usd": "DOUBLE",
    "simulated": "BOOLEAN",
    "continued": "SMALLINT",
    "tenant": "VARCHAR",
}
assert tuple(TYPES) == CallRecord._fields, "each field has a type"
