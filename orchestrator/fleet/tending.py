"""One instance, brought from a fresh process to a serving one and watched from then on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from orchestrator.core.errors import InstanceError
from orchestrator.core.health import Health, after_probe
from orchestrator.core.model import Instance, InstanceState
from orchestrator.nodes.engine_api import EngineApi

log = logging.getLogger(__name__)

PROBE_EVERY_S = 2.0
# A process that has just been started answers within this, many times over; probed often so that `up` is quick.
START_PROBE_EVERY_S = 0.1
RETRY_AFTER_FAILURE_S = 5.0
PROGRESS_EVERY_S = 0.5


class Tended:
    """Keeps `instance` true to what is seen, and says so through `on_change`; ends with its task."""

    def __init__(
        self, instance: Instance, engine: EngineApi, *, is_embedding: bool, on_change: Callable[[Instance], None]
    ) -> None:
        self.instance = instance
        self._engine = engine
        self._is_embedding = is_embedding
        self._on_change = on_change
        self._restarted = asyncio.Event()

    def process_restarted(self) -> None:
        """Its process died and is back: it must load its model again. Known before any probe could tell."""
        self._restarted.set()
        self._become(InstanceState.STARTING, "its process was restarted")

    def drain(self) -> None:
        self._become(InstanceState.DRAINING, "being replaced")

    async def run(self) -> None:
        """Until cancelled: bring it up, watch it, and again."""
        while True:
            self._restarted.clear()
            try:
                await self._bring_up()
                await self._watch()
            except InstanceError as why:
                log.warning("%s", why)
                self._become(InstanceState.DOWN, str(why))
                await self._pause(RETRY_AFTER_FAILURE_S)

    async def _bring_up(self) -> None:
        version = await self._answering()
        self.instance = replace(self.instance, engine_version=version)
        if not await self._engine.has_model(self.instance):
            await self._pull()
        if not await self._engine.is_loaded(self.instance):
            self._become(InstanceState.LOADING, f"loading {self.instance.upstream_model}")
            await self._engine.load(self.instance, is_embedding=self._is_embedding)
        if not self._restarted.is_set():
            self._become(InstanceState.SERVING, "")

    async def _answering(self) -> str:
        while True:
            try:
                return await self._engine.version(self.instance)
            except InstanceError as why:
                log.debug("%s", why)
                self._become(InstanceState.STARTING, "not answering yet")
                await asyncio.sleep(START_PROBE_EVERY_S)

    async def _pull(self) -> None:
        said_s = 0.0

        def progress(status: str, done: int, total: int) -> None:
            nonlocal said_s
            if time.monotonic() - said_s >= PROGRESS_EVERY_S:
                said_s = time.monotonic()
                share = f" {done * 100 // total} % of {total / 1e9:.1f} GB" if total else ""
                self._become(InstanceState.LOADING, f"pulling {self.instance.upstream_model}: {status}{share}")

        await self._engine.pull(self.instance, progress)

    async def _watch(self) -> None:
        """Probe until the instance is down or its process was restarted. Raises InstanceError when it is down."""
        health = Health()
        while not self._restarted.is_set():
            await self._pause(PROBE_EVERY_S)
            try:
                await self._engine.version(self.instance)
                health = after_probe(health, None)
            except InstanceError as why:
                health = after_probe(health, str(why))
            if health.is_down and not self._restarted.is_set():
                raise InstanceError(self.instance.id, health.reason)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._restarted.wait()
        except TimeoutError:
            return

    def _become(self, state: InstanceState, reason: str) -> None:
        if self.instance.state is InstanceState.DRAINING:
            return
        if (state, reason) != (self.instance.state, self.instance.reason):
            self.instance = replace(self.instance, state=state, reason=reason)
            self._on_change(self.instance)
