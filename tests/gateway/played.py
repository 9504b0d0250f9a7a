"""A gateway before simulated instances: real processes and a real Redis; only the controller is played, by a test."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.model import Engine, Instance, InstanceId, InstanceState, NodeName, Pool, PoolName, Snapshot
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster, pools
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import find_server
from tests.forking import Forked
from tests.gateway.stand_in import StandIn, standing_in
from tests.nodes.simulators import NO_AUTHORITIES, free_port
from tests.store.playing import Server
from tests.waiting import WITHIN_S, until

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Played:
    """What a test has in its hands."""

    url: str
    state: Path
    connection: Connection
    pools: tuple[Pool, ...]
    gateways: list[subprocess.Popen[bytes]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)  # of each worker; one and the same unless they were started apart
    version: int = 0

    async def publish(self, instances_of: Sequence[Pool] | None = None) -> None:
        """Publish as the controller would."""
        self.pools = tuple(instances_of) if instances_of is not None else self.pools
        self.version += 1
        leadership = await cluster.lead(self.connection, "test", 600)
        assert leadership is not None
        snapshot = Snapshot(self.version, time.time_ns() // 1_000_000, self.pools)
        assert await cluster.publish(self.connection, leadership, snapshot, grace_s=0)

    async def until_known(self, within_s: float = WITHIN_S) -> None:
        """Wait until every gateway serves by what was published last."""
        wanted = [(pool.name, each.id, each.context) for pool in self.pools for each in pool.instances]
        async with aiohttp.ClientSession() as http:
            for _ in range(3 * len(self.gateways)):  # connections spread over the workers
                await until(lambda: self._published(http), holds=wanted.__eq__, within_s=within_s)

    async def _published(self, http: aiohttp.ClientSession) -> list[tuple[str, str, int]]:
        async with http.get(f"{self.url}/status.json", headers={"Connection": "close"}) as reply:
            pools = (await reply.json())["pools"]
        return [(pool["name"], each["id"], each["context"]) for pool in pools for each in pool["instances"]]

    async def until_ready(self) -> None:
        """Wait until a gateway answers that it is."""
        async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http:
            while True:
                assert all(each.poll() is None for each in self.gateways), self.logs()
                try:
                    async with http.get(f"{self.url}/readyz") as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.02)

    async def until_all_listen(self) -> None:
        """Wait for every worker: one that answers tells nothing of the others behind its port."""
        await until(lambda: self.logs().count(" serves on ") >= len(self.gateways))

    def logs(self) -> str:
        """What the gateways said."""
        return "\n".join(path.read_text() for path in sorted(self.state.glob("gateway-*.log")))

    async def in_flight(self) -> dict[str, int]:
        """Calls by instance, as Redis counts them; a count that contradicts itself fails the test."""
        loads = await pools.in_flight(self.connection)
        assert all(not load.drift for load in loads), loads
        return {each.instance: each.in_flight for load in loads for each in load.instances}

    async def until_idle(self, within_s: float = 15.0) -> None:
        """Wait until no slot is taken."""

        async def taken() -> int:
            for pool in self.pools:
                await pools.sweep(self.connection, pool.name)
            return sum((await self.in_flight()).values())

        await until(taken, "no slot is taken", holds=lambda count: count == 0, within_s=within_s)


def pool_of(name: str, ports: Sequence[int], *, slots: int = 2, context: int = 4096, **more: Any) -> Pool:
    """A pool whose instances listen on `ports`."""
    instances = tuple(
        Instance(
            id=InstanceId(f"{name.replace(':', '-')}-{index}"),
            node=NodeName("sim"),
            pool=PoolName(name),
            host=more.get("host", "127.0.0.1"),
            port=port,
            engine=more.get("engine", Engine.OLLAMA),
            upstream_model=more.get("upstream_model", name),
            slots=slots,
            context=context,
            state=InstanceState.SERVING,
            is_simulated=True,
            engine_version=more.get("version", "0.33.0-rc2"),
        )
        for index, port in enumerate(ports)
    )
    return Pool(PoolName(name), context, bool(more.get("is_embedding")), instances, more.get("details", {}))


@asynccontextmanager
async def played(
    folder: Path,
    settings: ClusterSettings,
    served: Sequence[Pool],
    *,
    workers: int = 1,
    redis: Server | None = None,
    apart: bool = False,
) -> AsyncIterator[Played]:
    """Redis, `workers` gateway processes on one port (or each on its own), and `served` published. All of it is gone
    at the end."""
    with ExitStack() as stack:
        if redis is None:
            (folder / "store").mkdir()
            redis = Server(find_server(), folder / "store")
            redis.start()
            stack.callback(redis.kill)
        paths = StatePaths(folder / "state")
        paths.root.mkdir(mode=0o700)
        settings_in_use.write(paths, settings)
        address = f"127.0.0.1:{free_port()}"
        connection = Connection(redis.url, name="test")
        await connection.open(20)
        world = Played(f"http://{address}", paths.root, connection, tuple(served))
        try:
            await world.publish()
            for index in range(workers):
                own = f"127.0.0.1:{free_port()}" if apart and index else address
                world.urls.append(f"http://{own}")
                process = start_gateway(paths, own, redis.url, index, workers)
                world.gateways.append(process)
                stack.callback(_end, process)
            await world.until_ready()
            await world.until_all_listen()
            yield world
        finally:
            await connection.close()


@asynccontextmanager
async def played_before_three(folder: Path, settings: Mapping[str, Any]) -> AsyncIterator[tuple[Played, list[StandIn]]]:
    """One worker before three stand-ins: the pools little:1b, big:8b and m."""
    async with standing_in(3) as instances:
        pools = [pool_of(name, [each.port]) for name, each in zip(("little:1b", "big:8b", "m"), instances, strict=True)]
        async with played(folder, ClusterSettings.model_validate(settings), pools) as world:
            yield world, instances


def start_gateway(paths: StatePaths, address: str, redis_url: str, index: int, workers: int) -> subprocess.Popen[bytes]:
    """One real worker."""
    words = ["--state", str(paths.root), "--listen", address, "--index", str(index), "--workers", str(workers)]
    environment = {**os.environ, **NO_AUTHORITIES, "OLM_REDIS": redis_url}
    with (paths.root / f"gateway-{index}.log").open("ab") as log:
        return Forked("orchestrator.app.gateway", words, env=environment, output=log)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serving(pool: Pool, *, without: str) -> Pool:
    """The pool as published once `without` no longer serves."""
    kept = tuple(replace(each, state=InstanceState.DOWN) if each.id == without else each for each in pool.instances)
    return replace(pool, instances=kept)
