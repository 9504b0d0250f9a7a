"""How many hosts can one controller watch over SSH, a line a second each, and how late does it see a change?

`python -m benchmarks.fleet --hosts 1000` plays the hosts in another process of this machine and measures this one:
CPU, memory, seconds until all are seen, and how old what it sees is. The connections, the keys and the code that
watches are the real ones; what the hosts print is played.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import psutil
import uvloop

from orchestrator.fleet.inventory import Reach, Sight
from orchestrator.fleet.lookout import Lookout
from orchestrator.nodes.host_keys import HostKeys
from orchestrator.settings import NodeSettings, SshSettings

MOST_CONNECT_S = 90.0


class Watch:
    """What the lookout saw, and how late."""

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        self.seen: set[str] = set()
        self.errors: dict[str, str] = {}
        self.all_seen = asyncio.Event()
        self.lines = 0
        self._versions: dict[str, str] = {}
        self.since_written_ms: list[float] = []
        self.since_changed_ms: list[float] = []

    def __call__(self, sight: Sight) -> None:
        now = time.monotonic_ns()
        if sight.facts is None:
            self.errors[sight.node] = sight.error
            return
        self.lines += 1
        self.seen.add(sight.node)
        for written in sight.facts.problems:
            self.since_written_ms.append((now - int(written.split()[1])) / 1e6)
        version = sight.facts.driver_version or ""
        if version.startswith("changed ") and self._versions.get(sight.node) != version:
            self._versions[sight.node] = version
            self.since_changed_ms.append((now - int(version.split()[1])) / 1e6)
        if len(self.seen) == self._hosts:
            self.all_seen.set()


@contextlib.contextmanager
def played_hosts(folder: Path) -> Iterator[tuple[int, asyncssh.SSHKey, Path, psutil.Process]]:
    """Their port, their host key, the key that opens them, and the process that plays them."""
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    for key, name in ((host_key, "host"), (user_key, "user")):
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
    user_key.write_public_key(folder / "user.pub")
    command = [sys.executable, "-m", "benchmarks.fleet.played_hosts", str(folder / "host"), str(folder / "user.pub")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as player:
        try:
            assert player.stdout is not None
            yield (
                int(player.stdout.readline()),
                host_key.convert_to_public(),
                folder / "user",
                psutil.Process(player.pid),
            )
        finally:
            player.kill()


def used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(hosts: int, seconds: float, interval_s: float, folder: Path) -> bool:
    with played_hosts(folder) as (port, host_key, key, player):
        keys = HostKeys(folder / "known_hosts")
        keys.pin("127.0.0.1", port, host_key)
        nodes = [
            NodeSettings(name=f"gpu-{number}", address=f"127.0.0.1:{port}", user="root", key=key)
            for number in range(hosts)
        ]
        watch = Watch(hosts)
        lookout = Lookout(nodes, Reach(keys, SshSettings(look_s=interval_s, connect_s=60)), watch)
        before_mb, started, used = rss_mb(), time.monotonic(), used_s()
        task = asyncio.create_task(lookout.run())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(watch.all_seen.wait(), MOST_CONNECT_S)
        connect_s, connect_cpu_s = time.monotonic() - started, used_s() - used
        print(
            f"hosts seen           {len(watch.seen)} of {hosts}, after {connect_s:.1f} s ({connect_cpu_s:.1f} s of CPU)"
        )
        for node, error in list(watch.errors.items())[:3]:
            print(f"  {node}: {error}")
        watch.lines = 0
        watch.since_written_ms.clear()
        watch.since_changed_ms.clear()
        started, used, player_used = time.monotonic(), used_s(), sum(player.cpu_times()[:2])
        await asyncio.sleep(seconds)
        took = time.monotonic() - started
        cpu_s, player_s = used_s() - used, sum(player.cpu_times()[:2]) - player_used
        grown_kb = 1000 * (rss_mb() - before_mb)
        print(f"watched              {took:.0f} s, {watch.lines / took:.0f} lines/s")
        print(
            f"controller           {100 * cpu_s / took:.0f} % of one core, {rss_mb():.0f} MB ({before_mb:.0f} before)"
        )
        print(
            f"  a host             {grown_kb / hosts:.0f} kB, {1e6 * cpu_s / max(1, watch.lines):.0f} µs of CPU a line"
        )
        print(f"played hosts         {100 * player_s / took:.0f} % of one core")
        print(f"line to sight        {quantiles(watch.since_written_ms)}")
        print(f"change to sight      {quantiles(watch.since_changed_ms)} (a line every {interval_s:g} s)")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(watch.seen) == hosts


def rss_mb() -> float:
    return float(psutil.Process(os.getpid()).memory_info().rss) / 1e6


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "nothing"
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99)]
    return "p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms, most {:.0f} ms of {}".format(*at, ordered[-1], len(ordered))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=1.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_whole = uvloop.run(measure(asked.hosts, asked.seconds, asked.interval, Path(folder)))
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
