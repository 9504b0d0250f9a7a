"""What does the request log cost: a call, a disk, somebody who asks it?

    python -m benchmarks.records [--calls N]

Question   CPU of a record on a call's path; bytes of a record while its hour runs, and packed; seconds that a report of
           a day takes.
Data       N calls of one day, drawn with a fixed seed: 500 callers, tiers 60/30/10, ids as the gateway makes them.
           The mix is our assumption; texts are not kept, so their lengths do not matter.

Nothing else runs in the process; CPU time is this process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from orchestrator.app import call_log
from orchestrator.app.reporting import facts_of_log
from orchestrator.core.call_record import CallRecord
from orchestrator.gateway.identity import Caller
from orchestrator.gateway.request import Request
from orchestrator.gateway.request_log import RequestLog
from orchestrator.gateway.trace import Trace, request_id

DAY = datetime(2026, 1, 5, tzinfo=UTC)
CALLERS = 500
A_SECOND = 500  # calls that are written together
TIERS = (("cache", 60, 5.0), ("small", 30, 1500.0), ("full", 10, 4000.0))


class _NoClient:
    def send_continue(self) -> None:
        raise AssertionError("nothing is sent here")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        print(
            f"a record on a call's path: {asyncio.run(_path_us(Path(folder) / 'path')):.1f} us of CPU, written included"
        )
        log = Path(folder) / "calls"
        lines = _write(log, calls)
        print(f"while its hour runs: {lines / calls:.0f} bytes a record")
        began_s = time.process_time()
        call_log.pack(log, DAY + timedelta(days=2))
        packed = sum(each.stat().st_size for each in log.iterdir())
        took_s = time.process_time() - began_s
        print(f"packed: {packed / calls:.0f} bytes a record, {took_s:.1f} s of CPU for {calls} calls")
        print(f"a year of {calls} calls a day: {packed * 365 / 2**30:.1f} GiB")
        began_s = time.perf_counter()
        facts = facts_of_log(log, None, None)
        print(f"a report of {facts.all.calls} calls: {time.perf_counter() - began_s:.1f} s")


async def _path_us(folder: Path, rounds: int = 20_000) -> float:
    log = RequestLog(folder, "gw0", lambda: True)
    request = Request(_NoClient())
    request.path, request.headers = "/v1/chat/completions", {b"user-agent": b"openai-python/2.1"}
    trace = Trace(request_id(""), time.perf_counter(), Caller("ada", False), tier="small", instance="small-0")
    began_s = time.process_time()
    for _ in range(rounds // A_SECOND):
        for _ in range(A_SECOND):
            log.add(request, trace, 200)
        await log.flush()
    return (time.process_time() - began_s) / rounds * 1e6


def _write(folder: Path, calls: int) -> int:
    """Bytes of a day's lines."""
    drawn, total = random.Random(11), 0
    names, weights = [each[0] for each in TIERS], [each[1] for each in TIERS]
    for hour in range(24):
        path = folder / f"{DAY:%Y-%m-%d}" / f"{hour:02d}-gw0-1.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        begin_ms = int((DAY + timedelta(hours=hour)).timestamp() * 1e3)
        count = calls // 24 + (hour < calls % 24)
        made = (
            _record(drawn, begin_ms + n * 3_600_000 // count, drawn.choices(names, weights)[0]) for n in range(count)
        )
        path.write_bytes(b"".join(orjson.dumps(each._asdict(), option=orjson.OPT_APPEND_NEWLINE) for each in made))
        total += path.stat().st_size
    return total


def _record(drawn: random.Random, at_ms: int, tier: str) -> CallRecord:
    usual_ms = next(each[2] for each in TIERS if each[0] == tier)
    total_ms, is_hit = drawn.expovariate(1 / usual_ms), tier == "cache"
    return CallRecord(
        at_ms=at_ms,
        id=request_id(""),
        caller=f"user{drawn.randrange(CALLERS)}",
        agent=drawn.choice(("openai-python/2.1", "n8n", "ollama/0.33")),
        session=f"{drawn.getrandbits(32):x}",
        path="/v1/chat/completions",
        model="auto",
        tier=tier,
        instance="" if is_hit else f"{tier}-{drawn.randrange(4)}",
        cache="hit" if is_hit else "miss",
        why="exact" if is_hit else "absent",
        outcome="ok",
        status=200,
        stream=True,
        prompt_tokens=drawn.randrange(20, 2000),
        completion_tokens=drawn.randrange(5, 600),
        reasoning_tokens=None,
        cached_tokens=0,
        queue_ms=round(drawn.expovariate(0.01), 3),
        wait_ms=round(total_ms / 4, 3),
        overhead_ms=round(drawn.uniform(0.2, 2), 3),
        first_byte_ms=round(total_ms / 3, 3),
        total_ms=round(total_ms, 3),
        failures=0,
        escalated="",
        usd=0.0,
        simulated=False,
    )


if __name__ == "__main__":
    main()
