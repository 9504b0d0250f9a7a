"""An operator's wishes for single instances: some get no calls until he says otherwise, some are started anew once.

Restarts go one after the other, the next once the one before it serves: a pool loses one instance at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.model import Instance, InstanceState
from orchestrator.core.wishes import Wishes
from orchestrator.fleet.instances import Instances
from orchestrator.fleet.keepers import Keepers
from orchestrator.fleet.publishing import Publisher
from orchestrator.fleet.stopping import has_drained, has_finished
from orchestrator.fleet.tending import Tended

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
# One that does not come back must not keep the others from their restart for ever.
SERVES_WITHIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Wished:
    """Where wishes are read, and who is told of one that was carried out; both raise HostError."""

    read: Callable[[], Wishes] = Wishes
    restarted: Callable[[str], None] = lambda name: None


class Heeding:
    """Of one controller's `instances`."""

    def __init__(
        self,
        wished: Wished,
        instances: Instances,
        keepers: Keepers,
        publisher: Publisher,
        rests: Callable[[Instance], Awaitable[bool]],
        drain_s: Callable[[], float],
    ) -> None:
        """`rests`: whether an instance answers nobody."""
        self._wished, self._instances, self._keepers = wished, instances, keepers
        self._publisher, self._rests, self._drain_s = publisher, rests, drain_s
        self._stirred = asyncio.Event()

    def look(self) -> None:
        """Wishes may be others than before. Raises HostError where they cannot be read."""
        self._instances.wishes = self._wished.read()
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled: restart what is wished to be, one after the other."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            for name in sorted(self._instances.wishes.restarts):
                try:
                    await self._restart(name)
                except OrchestratorError as why:
                    log.warning("%s is not restarted: %s", name, why)

    async def _restart(self, name: str) -> None:
        """Have one finish what it has, and its process start anew. Raises HostError; then the wish stays."""
        if name in self._instances:
            tended = self._instances[name]
            self._instances.rest(name, is_resting=True)
            try:
                await self._have_ended(tended)
            finally:
                if name in self._instances:
                    self._instances.rest(name, is_resting=False)
        self._wished.restarted(name)
        self._instances.wishes = self._wished.read()
        await self._until_it_serves(name)

    async def _have_ended(self, tended: Tended) -> None:
        began_s, never = time.monotonic(), asyncio.Event()
        await has_drained(tended.instance, self._publisher, never, self._drain_s)
        with tended.paused():
            if tended.serves:
                left_s = self._drain_s() - (time.monotonic() - began_s)
                await has_finished(tended.instance, self._rests, never, left_s)
            await self._keepers.of(tended.instance.node).keeping.restart(tended.made.unit)
            tended.process_is(None, "restarted, as its operator wished")

    async def _until_it_serves(self, name: str) -> None:
        until_s = time.monotonic() + SERVES_WITHIN_S
        while time.monotonic() < until_s:
            if name not in self._instances or self._instances[name].resting:
                return
            if self._instances[name].instance.state is InstanceState.SERVING:
                return
            await asyncio.sleep(LOOK_EVERY_S)
        log.warning("%s does not serve %g s after its restart", name, SERVES_WITHIN_S)
