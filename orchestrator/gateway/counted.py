"""A call counted as it ends: what became of it, how long it took, what it used."""

from __future__ import annotations

import time

from orchestrator import telemetry
from orchestrator.gateway.trace import Trace


def count_call(trace: Trace, outcome: str, tokens: tuple[int, int] = (0, 0)) -> None:
    """`outcome`: ok, refused, failed, cut, gone or error. `tokens`: of the prompt, of the answer."""
    tally, tier = telemetry.TALLY, trace.tier
    tally.count(telemetry.CALLS, (tier, trace.cache, outcome))
    tally.observe(telemetry.CALL_SECONDS, (tier,), time.perf_counter() - trace.began_s)
    prompt, completion = tokens
    if prompt:
        tally.count(telemetry.TOKENS, (tier, "prompt"), prompt)
    if completion:
        tally.count(telemetry.TOKENS, (tier, "completion"), completion)
