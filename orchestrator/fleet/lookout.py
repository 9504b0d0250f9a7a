"""Every host of the fleet watched over one connection each: what changed on it is known within a second or so.

A host that cannot be seen is tried again, ever less often. What to do about any of it is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.fleet.inventory import LOCAL, Reach, Sight, address_of
from orchestrator.nodes.probe import Asked
from orchestrator.nodes.remote_probe import looks
from orchestrator.nodes.ssh import connected
from orchestrator.settings import NodeSettings

RETRY_FIRST_S, RETRY_MOST_S = 1.0, 30.0
HANDSHAKES_AT_ONCE = 32


class Lookout:
    """Watches hosts until it is cancelled. `on_sight` is called for each look that differs from the one before."""

    def __init__(self, nodes: Iterable[NodeSettings], reach: Reach, on_sight: Callable[[Sight], None]) -> None:
        self._nodes = [each for each in nodes if each.address != LOCAL]
        self._reach = reach
        self._on_sight = on_sight
        self._handshakes = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
        self.sights: dict[NodeName, Sight] = {}

    async def run(self) -> None:
        """Watch all of them; ends only by cancellation."""
        async with asyncio.TaskGroup() as hosts:
            for node in self._nodes:
                hosts.create_task(self._watch(node), name=f"watch {node.name}")

    async def _watch(self, node: NodeSettings) -> None:
        name, wait_s = NodeName(node.name), RETRY_FIRST_S
        while True:
            was_seen = False
            try:
                async with aclosing(self._facts(node)) as seen:
                    async for facts in seen:
                        was_seen = True
                        self._saw(Sight(name, facts))
            except HostError as error:
                self._saw(Sight(name, None, str(error)))
            wait_s = RETRY_FIRST_S if was_seen else min(2 * wait_s, RETRY_MOST_S)
            # Hosts that went away together must not all come back in the same moment.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)

    async def _facts(self, node: NodeSettings) -> AsyncGenerator[NodeFacts, None]:
        """What is seen of a host over one connection. Raises HostError, at the connection's end too."""
        asked = Asked(NodeName(node.name), node.models_dir, interval_s=self._reach.ssh.look_s)
        async with AsyncExitStack() as handshake:
            await handshake.enter_async_context(self._handshakes)
            async with (
                connected(address_of(node), self._reach.keys, self._reach.waits) as host,
                aclosing(looks(host, asked)) as seen,
            ):
                async for facts in seen:
                    await handshake.aclose()
                    yield facts

    def _saw(self, sight: Sight) -> None:
        if self.sights.get(sight.node) != sight:
            self.sights[sight.node] = sight
            self._on_sight(sight)
