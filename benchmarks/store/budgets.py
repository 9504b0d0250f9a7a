"""What does a budget cost a call? CPU of this process and of Redis for its claims and their settling.

    python -m benchmarks.store.budgets [--seconds 3] [--uvloop] [--redis /usr/bin/redis-server]

Starts a private server on a unix socket. `key`: a key whose requests are limited; `tier`: a tier with requests, tokens
and calls at once limited, settled to other counts than were expected; `all`: both, with the key's tokens and a
provider's account. `nothing`: what a call pays that nothing limits.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from benchmarks.store.admission import cpu_s_of, own_cpu_s
from orchestrator.app.rules import rules_from
from orchestrator.core.admission import Share
from orchestrator.core.limits import Exhausted
from orchestrator.core.model import Call, Endpoint
from orchestrator.core.target import Budget, Price, Provider
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.budgets import Budgets
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.live import Live, Tier
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import server_command, server_url

MUCH = 10**9
WIDE = Budget(rpm=MUCH, tpm=MUCH, concurrent=10**6)
ACCOUNT = Provider("groq", "api.groq.com", 443, is_tls=True, prefix="/openai/v1", budget=Budget(tpd=MUCH))
KINDS: Mapping[str, tuple[Tier, Budget | None]] = {
    "nothing": (Tier("small", "m", None), None),
    "key": (Tier("small", "m", None), Budget(rpm=MUCH)),
    "tier": (Tier("small", "m", None, budget=WIDE), None),
    "all": (
        Tier("deep", "", None, provider=ACCOUNT, model="x", budget=WIDE, price=Price(0.1, 0.4)),
        Budget(rpm=MUCH, tpm=MUCH, usd_day=1e6),
    ),
}


def asked_by(budget: Budget | None) -> Asked:
    call = Call(Endpoint.OLLAMA_CHAT, "auto", False, {"messages": [{"role": "user", "content": "hello"}]})
    trace = Trace("call", 0.0, Caller("support", budget=budget))
    nobody = cast(Any, None)
    return Asked(nobody, nobody, call, bytes(800), "auto", (), "", True, trace, None)


async def measure(budgets: Budgets, kind: str, callers: int, seconds: float, pid: int) -> str:
    tier, limits = KINDS[kind]
    stop = time.monotonic() + seconds
    waits: list[float] = []

    async def calls() -> None:
        asked = asked_by(limits)
        while time.monotonic() < stop:
            since = time.perf_counter()
            of_key, of_tier = await budgets.reserve_key(asked), await budgets.reserve(asked, tier)
            waits.append(time.perf_counter() - since)
            assert not isinstance(of_key, Exhausted)
            assert not isinstance(of_tier, Exhausted)
            budgets.settle(of_tier, (190, 75), 0.0001)
            budgets.settle(of_key, (190, 75), 0.0001)
            if kind == "nothing" and len(waits) % 100 == 0:
                await asyncio.sleep(0)

    own, redis, since = own_cpu_s(), cpu_s_of(pid), time.perf_counter()
    await asyncio.gather(*(calls() for _ in range(callers)))
    elapsed, n = time.perf_counter() - since, len(waits)
    own, redis = own_cpu_s() - own, cpu_s_of(pid) - redis
    waits.sort()
    return (
        f"{kind:>8}  {callers:>7}  {n / elapsed:>9.0f}  {own / n * 1e6:>14.2f}  {redis / n * 1e6:>14.1f}  "
        f"{waits[n // 2] * 1e6:>10.0f}  {waits[int(n * 0.99)] * 1e6:>10.0f}"
    )


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        server = subprocess.Popen(server_command(state, options.redis), stdout=subprocess.DEVNULL)
        connection = Connection(server_url(state))
        rules = rules_from(ClusterSettings.model_validate({"models": {"m": {}}}))
        budgets = Budgets(Live(rules), connection, lambda: Share(0, 1), ttl_s=15)
        try:
            await connection.open(10)
            await budgets.start()
            print("    what  callers    calls/s  own us a call  Redis us/call  p50 wait us  p99 wait us")
            for kind in KINDS:
                for callers in (1, 16, 256):
                    print(await measure(budgets, kind, callers, options.seconds, server.pid))
        finally:
            await budgets.close()
            await connection.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--redis", type=Path)
    chosen = parser.parse_args()
    if chosen.uvloop:
        import uvloop

        uvloop.run(main(chosen))
    else:
        asyncio.run(main(chosen))
