"""What does admission cost? CPU of this process and of Redis for one admit and one settle, at several concurrencies.

    python -m benchmarks.store.admission [--seconds 3] [--instances 4] [--uvloop] [--redis /usr/bin/redis-server]

Starts a private server on a unix socket. Every call is admitted and settled with usage counted; the pool has a slot for
each caller, so nothing queues (first table), or one for two callers (second table: half of them wait for a grant).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Usage
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import server_command, server_environment, server_url
from orchestrator.store.leases import Leases
from orchestrator.store.pools import publish_pool
from orchestrator.store.usage import fields

POOL = PoolName("llama3.2:3b")
USAGE = Usage("2026-11-21", fields(tier="small", prompt_tokens=100, completion_tokens=50))


def own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_s_of(pid: int) -> float:
    fields_of_stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields_of_stat[11]) + int(fields_of_stat[12])) / os.sysconf("SC_CLK_TCK")


async def measure(leases: Leases, callers: int, seconds: float, pid: int) -> str:
    stop = time.monotonic() + seconds
    waits: list[float] = []
    since_start = time.monotonic_ns()  # lease ids are never used twice

    async def call(who: int) -> None:
        n = 0
        while time.monotonic() < stop:
            n += 1
            asked = AdmitRequest(POOL, LeaseId(f"{who}-{since_start}-{n}"), affinity="talk")
            since = time.perf_counter()
            admitted = await leases.admit(asked)
            if not isinstance(admitted, Leased):
                assert await leases.wait(POOL, asked.lease, 60) is not None
            waits.append(time.perf_counter() - since)
            await leases.settle(POOL, asked.lease, Outcome.OK, usage=USAGE)

    own, redis, since = own_cpu_s(), cpu_s_of(pid), time.perf_counter()
    await asyncio.gather(*(call(each) for each in range(callers)))
    elapsed, n = time.perf_counter() - since, len(waits)
    own, redis = own_cpu_s() - own, cpu_s_of(pid) - redis
    waits.sort()
    return (
        f"{callers:>7}  {n / elapsed:>9.0f}  {own / n * 1e6:>14.1f}  {redis / n * 1e6:>14.1f}  "
        f"{waits[n // 2] * 1e6:>10.0f}  {waits[int(n * 0.99)] * 1e6:>10.0f}"
    )


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        command, environment = server_command(state, options.redis), {**os.environ, **server_environment()}
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        connection = Connection(server_url(state))
        leases = Leases(connection, "gw0.bench", 30)
        try:
            await connection.open(10)
            await leases.start()
            for waiting, share in (("nobody waits", 1), ("half of them wait", 2)):
                print(f"\n{waiting}, {options.instances} instances")
                print("callers    calls/s  own us a call  Redis us/call  p50 wait us  p99 wait us")
                for callers in (1, 16, 256):
                    slots = max(1, -(-callers // options.instances // share))
                    pool = {InstanceId(f"gpu-{at}"): slots for at in range(options.instances)}
                    await publish_pool(connection, POOL, pool, token=1)
                    print(await measure(leases, callers, options.seconds, server.pid))
        finally:
            await leases.close()
            await connection.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--redis", type=Path)
    chosen = parser.parse_args()
    if chosen.uvloop:
        import uvloop

        uvloop.run(main(chosen))
    else:
        asyncio.run(main(chosen))
