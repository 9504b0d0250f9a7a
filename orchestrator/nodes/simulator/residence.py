"""Which models of a simulated Ollama are in memory: loaded one at a time, kept as long as asked, evicted for others.

What real Ollama does, measured: requests to a loaded model pass the loader by; the others wait for it in a queue of
OLLAMA_MAX_QUEUE, beyond which they are refused; another num_ctx loads the model again; a load whose client leaves is
given up; an unload lets the requests under way finish.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.errors import CapacityError
from orchestrator.core.physics import kv_bytes_per_token, load_s
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig
from orchestrator.nodes.simulator.runner import Runner, watched
from orchestrator.nodes.simulator.seats import CardSeats

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(slots=True, eq=False)
class Resident:
    """One model in memory. `expires_at` is real time (unix s); the timer runs while no request uses it."""

    runner: Runner
    keep_alive_s: float
    expires_at: float = 0.0
    users: int = 0
    is_leaving: bool = False
    timer: asyncio.TimerHandle | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.runner.model.name

    @property
    def size_bytes(self) -> int:
        """What /api/ps calls the size: the buffers, without the CUDA context."""
        model, footprint = self.runner.model, self.runner.model.footprint
        per_token = kv_bytes_per_token(model.shape, model.kv_type)
        kv = footprint.kv_cache + int((self.runner.context - model.context) * per_token * model.slots)
        return footprint.weights + kv + footprint.compute + footprint.output


@dataclass(slots=True, eq=False)
class _Wish:
    """One request that waits for the loader. `granted` is cancelled when its client leaves."""

    model: SimulatedModel
    context: int
    keep_alive_s: float | None
    granted: asyncio.Future[Resident]
    load_s: float = 0.0


class Residence:
    """The models of one instance that are in memory, and the loader before them."""

    def __init__(self, config: SimulatorConfig, seats: CardSeats) -> None:
        self._config, self._seats = config, seats
        self._residents: dict[str, Resident] = {}
        self._wishes: asyncio.Queue[_Wish] = asyncio.Queue(config.max_queue)
        self._closing: set[asyncio.Task[None]] = set()
        self._loader = watched(self._load_in_turn())

    def listed(self) -> Iterator[Resident]:
        """What /api/ps shows: the last loaded first."""
        return reversed(self._residents.values())

    @asynccontextmanager
    async def use(
        self, model: SimulatedModel, context: int | None, keep_alive_s: float | None
    ) -> AsyncIterator[tuple[Runner, float]]:
        """The model in memory and the simulated seconds its load took, for one request; it stays until the block ends.

        Raises CapacityError where too many wait for the loader.
        """
        wanted = min(context or model.context, model.shape.context_length)
        resident, load_s = self._residents.get(model.name), 0.0
        if resident is None or resident.is_leaving or resident.runner.context != wanted:
            resident, load_s = await self._wait_for_loader(model, wanted, keep_alive_s)
        else:
            self._enter(resident, keep_alive_s)
        try:
            yield resident.runner, load_s
        finally:
            self._exit(resident)

    def unload(self, name: str) -> None:
        """Let `name` go: now, or when the requests under way are answered."""
        resident = self._residents.get(name)
        if resident is None:
            return
        resident.keep_alive_s = 0.0
        if resident.users == 0:
            self._drop(resident)

    async def close(self) -> None:
        self._loader.cancel()
        await asyncio.wait([self._loader])
        for resident in list(self._residents.values()):
            self._drop(resident)
        if self._closing:
            await asyncio.wait(self._closing)

    # --- one request's time in a resident model ----------------------------------------------------------------------

    async def _wait_for_loader(
        self, model: SimulatedModel, context: int, keep_alive_s: float | None
    ) -> tuple[Resident, float]:
        wish = _Wish(model, context, keep_alive_s, asyncio.get_running_loop().create_future())
        try:
            self._wishes.put_nowait(wish)
        except asyncio.QueueFull:
            raise CapacityError(QUEUE_FULL, retry_after_s=1) from None
        try:
            return await wish.granted, wish.load_s
        except asyncio.CancelledError:
            if wish.granted.done() and not wish.granted.cancelled():
                self._exit(wish.granted.result())  # granted in the moment its client left
            raise

    def _enter(self, resident: Resident, keep_alive_s: float | None) -> None:
        resident.users += 1
        resident.idle.clear()
        if keep_alive_s is not None:
            resident.keep_alive_s = keep_alive_s
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        resident.expires_at = time.time() + resident.keep_alive_s

    def _exit(self, resident: Resident) -> None:
        resident.users -= 1
        if resident.users:
            return
        resident.idle.set()
        resident.expires_at = time.time() + resident.keep_alive_s
        if resident.keep_alive_s <= 0:
            self._drop(resident)
        else:
            loop = asyncio.get_running_loop()
            # Longer timers than a year are none: the event loop counts milliseconds in a machine word.
            if resident.keep_alive_s < 365 * 86400:
                resident.timer = loop.call_later(resident.keep_alive_s, self._drop, resident)

    def _drop(self, resident: Resident) -> None:
        if resident.timer is not None:
            resident.timer.cancel()
        if self._residents.get(resident.name) is resident:
            del self._residents[resident.name]
        closing = asyncio.get_running_loop().create_task(resident.runner.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # --- the loader --------------------------------------------------------------------------------------------------

    async def _load_in_turn(self) -> None:
        while True:
            wish = await self._wishes.get()
            if wish.granted.done():
                continue
            resident = self._residents.get(wish.model.name)
            if resident is None or resident.is_leaving or resident.runner.context != wish.context:
                resident = await self._load(wish)
            if resident is not None and not wish.granted.done():
                self._enter(resident, wish.keep_alive_s)
                wish.granted.set_result(resident)

    async def _load(self, wish: _Wish) -> Resident | None:
        """The model, loaded; None where its client left before it was."""
        await self._make_room(wish)
        wish.load_s = load_s(wish.model.shape, self._config.load_bandwidth_bytes_s)
        await asyncio.wait([wish.granted], timeout=wish.load_s / self._config.speed)
        if wish.granted.done():
            return None
        runner = Runner(wish.model, wish.context, self._config.hardware, self._seats, self._config.speed)
        keep_alive_s = self._config.keep_alive_s if wish.keep_alive_s is None else wish.keep_alive_s
        resident = Resident(runner, keep_alive_s)
        self._residents[resident.name] = resident
        return resident

    async def _make_room(self, wish: _Wish) -> None:
        """Unload the model itself where it has another context, and others until there are few enough."""
        same = self._residents.get(wish.model.name)
        if same is not None:
            await self._evict(same, wish)
        while len(self._residents) >= self._config.max_loaded_models and not wish.granted.done():
            # Idle first, then the shortest keep-alive: a busy one is waited for.
            victim = min(self._residents.values(), key=lambda each: (each.users > 0, each.keep_alive_s))
            await self._evict(victim, wish)

    async def _evict(self, resident: Resident, wish: _Wish) -> None:
        resident.is_leaving = resident.runner.context != wish.context and resident.name == wish.model.name
        if resident.users:
            idle = asyncio.ensure_future(resident.idle.wait())
            waited_for: tuple[asyncio.Future[Any], ...] = (idle, wish.granted)
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
        if resident.users == 0 and self._residents.get(resident.name) is resident:
            self._drop(resident)
        elif resident.users:
            resident.is_leaving = False
