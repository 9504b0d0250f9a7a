"""What a gateway's answer may add to a recorded one, and a cluster whose instances answer as recorded."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.core.model import InstanceId, Pool
from tests.gateway.played import Played, pool_of
from tests.wire_replay import Case, Exchange, Scenario, compare
from tests.wire_scenarios import Simulated, simulated

# What the gateway tells beside Ollama's headers: of every answer, and of where an answer of a model came from.
OURS = frozenset(
    {
        *("X-Request-Id", "Request-Id", "X-Cache", "Server-Timing", "X-Tier", "X-Instance", "X-Simulated"),
        *("X-Models", "X-Queue-Position", "Access-Control-Expose-Headers"),
    }
)


def differences(case: Case, exchange: Exchange, *, tolerate: Collection[str] = (), frames: bool = True) -> list[str]:
    """How an answer differs; the order of its headers has no meaning."""
    found = compare(case, exchange, ignore={"headers"}, tolerate=tolerate, frames=frames)
    ours = sorted(each for each in exchange.headers if each[0] not in OURS)
    recorded = sorted(case.answer_headers)
    if [name for name, _ in ours] != [name for name, _ in recorded]:
        found.append(f"headers {ours} instead of {recorded}")
    for (name, mine), (_, theirs) in zip(ours, recorded, strict=False):
        if name == "Access-Control-Allow-Headers":
            # Pages may send a key and a request id besides.
            same = set(theirs.split(",")) <= set(mine.split(","))
        else:
            same = mine == theirs or name in ("Date", "Content-Length")
        if not same:
            found.append(f"header {name}: {mine} instead of {theirs}")
    return found


@dataclass(slots=True)
class Cluster:
    """A gateway before instances of each scenario's own. `cases`: recordings whose answers these know besides."""

    world: Played
    folder: Path
    cases: Mapping[str, Case]
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return self.world.url

    @asynccontextmanager
    async def of(self, recording: Scenario, count: int = 1, **changes: Any) -> AsyncIterator[list[Simulated]]:
        """Simulated instances with one slot each that serve the scenario's model; no slot of theirs is taken after."""
        with ExitStack() as stack:
            names = [f"sim-{next(self._numbers)}" for _ in range(count)]
            instances = [
                stack.enter_context(simulated(recording, self.cases, self.folder, name, **changes)) for name in names
            ]
            await self.world.publish([_pool(recording, instances, names)])
            await self.world.until_known()
            yield instances
            await self.world.until_idle()


def _pool(recording: Scenario, instances: list[Simulated], names: list[str]) -> Pool:
    """Each with a name of its own, so that no scenario knows of another's failures."""
    bodies = [json.loads(each.body) for each in recording.exchanges if each.body]
    model = bodies[0]["model"] if bodies else "smollm2:135m"
    ports = [urlsplit(each.url).port or 0 for each in instances]
    pool = pool_of(model, ports, slots=1, version=recording.version)
    named = zip(pool.instances, names, strict=True)
    return replace(pool, instances=tuple(replace(each, id=InstanceId(name)) for each, name in named))
