"""How near does the queue come to an ideal one? Mean and p99 response of ours ÷ one that binds late and knows speeds.

    python -m benchmarks.queue [--calls 1500] [--load 0.8] [--work-ms 60] [--seed 1] [--redis /usr/bin/redis-server]

Poisson arrivals, lognormal work (sigma 1), open loop; calls are admitted by the real scripts on a private server, sleep
for as long as their work takes on the instance they were given, and are settled. The ideal has the same arrivals and
works, as they were: a timer that fires late is neither's fault. Speeds are measured from nothing in each run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.queue.ideal import Call, Slot, bound_early, late_bound, mean, p99
from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Queued
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import server_command, server_url
from orchestrator.store.leases import Leases
from orchestrator.store.pools import publish_pool

ALIKE = [Slot(f"gpu-{n}", 1.0) for n in range(6) for _ in range(2)]
UNLIKE = [Slot("fast", 1.5), Slot("usual", 1.0), Slot("slow", 0.5)]


def planned(slots: list[Slot], n: int, load: float, work_s: float, seed: int) -> list[Call]:
    """Arrivals and works; the mean work keeps the slots busy for that share of the time."""
    rng = random.Random(seed)
    rate = load * sum(slot.speed for slot in slots) / work_s
    at_s, calls = 0.0, []
    for _ in range(n):
        at_s += rng.expovariate(rate)
        calls.append(Call(at_s, work_s * rng.lognormvariate(-0.5, 1.0)))
    return calls


async def played(leases: Leases, pool: PoolName, slots: list[Slot], plan: list[Call]) -> tuple[list[Call], list[float]]:
    """The calls as they really were, and how long each took from its arrival to its end."""
    loop = asyncio.get_running_loop()
    speeds = {slot.instance: slot.speed for slot in slots}
    began_s = loop.time() + 0.1
    served: Counter[str] = Counter()

    async def call(number: int, wanted: Call) -> tuple[Call, float]:
        await asyncio.sleep(began_s + wanted.at_s - loop.time())
        came_s = loop.time()
        asked = AdmitRequest(pool, LeaseId(f"{pool}-{number}"))
        held = await leases.admit(asked)
        if isinstance(held, Queued):
            waited = await leases.wait(pool, asked.lease, 60)
            assert waited is not None
            held = waited
        assert isinstance(held, Leased), held
        served[held.instance] += 1
        since_s = loop.time()
        await asyncio.sleep(wanted.work_s / speeds[held.instance])
        work_s = (loop.time() - since_s) * speeds[held.instance]
        ended_s = loop.time()
        await leases.settle(pool, held.lease, Outcome.OK)
        return Call(came_s, work_s), ended_s - came_s

    done = await asyncio.gather(*(call(number, each) for number, each in enumerate(plan)))
    print(f"  calls by instance: {dict(sorted(served.items()))}")
    done.sort()
    return [each for each, _ in done], [took for _, took in done]


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        server = subprocess.Popen(server_command(state, options.redis), stdout=subprocess.DEVNULL)
        connection = Connection(server_url(state))
        leases = Leases(connection, "gw0.bench", 30)
        try:
            await connection.open(10)
            await leases.start()
            for name, slots in (("6 alike x 2 slots", ALIKE), ("unlike: 1.5x, 1x, 0.5x", UNLIKE)):
                print(f"\n{name}, open loop at {options.load:.0%}, {options.calls} calls of {options.work_ms:g} ms")
                pool = PoolName(name.split(":")[0].replace(" ", "-"))
                await publish_pool(connection, pool, Counter(InstanceId(slot.instance) for slot in slots), token=1)
                plan = planned(slots, options.calls, options.load, options.work_ms / 1000, options.seed)
                calls, took = await played(leases, pool, slots, plan)
                ideal, early = late_bound(calls, slots), bound_early(calls, slots)
                print("                      mean ms  / ideal    p99 ms  / ideal")
                for what, times in (("ideal", ideal), ("ours", took), ("least calls, early", early)):
                    ratios = mean(times) / mean(ideal), p99(times) / p99(ideal)
                    print(
                        f"  {what:<18} {mean(times) * 1e3:>8.1f} {ratios[0]:>8.3f} "
                        f"{p99(times) * 1e3:>9.1f} {ratios[1]:>8.3f}"
                    )
        finally:
            await leases.close()
            await connection.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--work-ms", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--redis", type=Path)
    asyncio.run(main(parser.parse_args()))
