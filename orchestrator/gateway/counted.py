"""A call counted as it ends: what became of it, how long it took, what it used."""

from __future__ import annotations

import time
from typing import Final

from orchestrator import telemetry
from orchestrator.gateway.trace import Trace

# Each tenant is a few time series for good; beyond so many, records alone tell them apart.
MOST_TENANTS: Final = 200
_TENANTS: set[str] = set()


def count_call(trace: Trace, outcome: str, tokens: tuple[int, int] = (0, 0)) -> None:
    """`outcome`: ok, refused, failed, cut, gone, escalated or error. `tokens`: of the prompt, of the answer.

    An escalated or failed call is counted for each tier, or instance, that was asked for it.
    """
    tally, tier = telemetry.TALLY, trace.tier
    trace.outcome, trace.tokens = outcome, tokens
    total_s = time.perf_counter() - trace.began_s
    tally.count(telemetry.CALLS, (tier, trace.cache, outcome))
    tally.observe(telemetry.CALL_SECONDS, (tier,), total_s)
    prompt, completion = tokens
    if prompt:
        tally.count(telemetry.TOKENS, (tier, "prompt"), prompt)
    if completion:
        tally.count(telemetry.TOKENS, (tier, "completion"), completion)
        if trace.is_stream and completion > 1 and outcome == "ok":
            streamed_s = total_s - trace.first_byte_s
            tally.observe(telemetry.TOKEN_SECONDS, (tier,), max(0.0, streamed_s) / (completion - 1))
    if trace.caller.tenant:
        _count_tenant(trace.caller.tenant, outcome, tokens)
    if trace.story is not None:
        trace.story.counted(trace)


def _count_tenant(tenant: str, outcome: str, tokens: tuple[int, int]) -> None:
    if len(_TENANTS) < MOST_TENANTS:
        _TENANTS.add(tenant)
    label = tenant if tenant in _TENANTS else "other"
    telemetry.TALLY.count(telemetry.TENANT_CALLS, (label, outcome))
    for kind, count in zip(("prompt", "completion"), tokens, strict=True):
        if count:
            telemetry.TALLY.count(telemetry.TENANT_TOKENS, (label, kind), count)


def count_overhead(trace: Trace) -> None:
    """Our own part of a call that is over, of whatever answered it; what had no answer's headers had none."""
    if trace.overhead_s and trace.tier:
        telemetry.TALLY.observe(telemetry.OVERHEAD_SECONDS, (trace.tier,), trace.overhead_s)
