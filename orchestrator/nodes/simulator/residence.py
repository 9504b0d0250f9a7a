"""Which models of a simulated Ollama are in memory: loaded one at a time, kept as long as asked, evicted for others.

What real Ollama does, measured: requests to a loaded model pass the loader by; the others wait for it in a queue of
OLLAMA_MAX_QUEUE, beyond which they are refused; names of the same weights share a runner; another num_ctx loads the
model again; a load whose client leaves is given up; an unload lets the requests under way finish. Who is to make room
for another is marked to go when idle, and a request that names a keep-alive takes the mark away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from orchestrator.core.errors import CapacityError
from orchestrator.core.physics import load_s
from orchestrator.core.sizing import footprint
from orchestrator.nodes.simulator.config import SimulatedModel, SimulatorConfig
from orchestrator.nodes.simulator.runner import Runner, watched
from orchestrator.nodes.simulator.seats import CardSeats

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(slots=True, eq=False)
class Resident:
    """One model in memory. `expires_at` is real time (unix s); the timer runs while no request uses it.

    `size_bytes` is what /api/ps calls the size: the buffers at its load, without the CUDA context.
    """

    runner: Runner
    size_bytes: int
    keep_alive_s: float
    expires_at: float = 0.0
    users: int = 0
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def weights(self) -> str:
        return self.runner.model.weights

    def serves(self, context: int) -> bool:
        """Whether a request for this context needs no load."""
        return self.runner.context == context and not self.runner.is_dead


class LoadFailedError(Exception):
    """The runner ended before it had loaded the model; its text is Ollama's."""


@dataclass(slots=True, eq=False)
class _Wish:
    """One request that waits for the loader. `granted` is cancelled when its client leaves."""

    model: SimulatedModel
    context: int
    keep_alive_s: float | None
    granted: asyncio.Future[Resident]
    load_s: float = 0.0


class Residence:
    """The models of one instance that are in memory, by their weights, and the loader before them."""

    def __init__(self, config: SimulatorConfig, seats: CardSeats) -> None:
        self._config, self._seats = config, seats
        self._residents: dict[str, Resident] = {}
        self._wishes: asyncio.Queue[_Wish] = asyncio.Queue()
        self._is_loading = False
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

        Raises CapacityError where too many wait for the loader, and LoadFailedError.
        """
        wanted = min(context or model.context, model.shape.context_length)
        resident, load_s = self._residents.get(model.weights), 0.0
        if resident is None or not resident.serves(wanted):
            resident, load_s = await self._wait_for_loader(model, wanted, keep_alive_s)
        else:
            self._enter(resident, keep_alive_s)
        try:
            yield resident.runner, load_s
        finally:
            self._exit(resident)

    def unload(self, model: SimulatedModel) -> None:
        """Let `model` go: now, or when the requests under way are answered."""
        resident = self._residents.get(model.weights)
        if resident is not None:
            self._mark(resident)

    def kill_runners(self) -> None:
        """As if their processes were killed: what is in memory is listed on, until it is asked for or expires."""
        for resident in self._residents.values():
            resident.runner.kill()

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
        # Who is loaded for waits in no queue, nor does the first that an idle loader is about to see.
        if self._wishes.qsize() >= self._config.max_queue + (not self._is_loading):
            raise CapacityError(QUEUE_FULL, retry_after_s=1)
        wish = _Wish(model, context, keep_alive_s, asyncio.get_running_loop().create_future())
        self._wishes.put_nowait(wish)
        try:
            return await wish.granted, wish.load_s
        except asyncio.CancelledError:
            if wish.granted.done() and not wish.granted.cancelled() and wish.granted.exception() is None:
                self._exit(wish.granted.result())  # granted in the moment its client left
            raise

    def _enter(self, resident: Resident, keep_alive_s: float | None) -> None:
        resident.users += 1
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
        resident.expires_at = time.time() + resident.keep_alive_s
        if resident.keep_alive_s <= 0:
            self._drop(resident)
        else:
            loop = asyncio.get_running_loop()
            # Longer timers than a year are none: the event loop counts milliseconds in a machine word.
            if resident.keep_alive_s < 365 * 86400:
                resident.timer = loop.call_later(resident.keep_alive_s, self._drop, resident)

    def _mark(self, resident: Resident) -> None:
        """It goes when it is idle, unless a request names a keep-alive before."""
        resident.keep_alive_s = 0.0
        if resident.users == 0:
            self._drop(resident)

    def _drop(self, resident: Resident) -> None:
        if resident.timer is not None:
            resident.timer.cancel()
        if self._residents.get(resident.weights) is resident:
            del self._residents[resident.weights]
        resident.gone.set()
        closing = asyncio.get_running_loop().create_task(resident.runner.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # --- the loader --------------------------------------------------------------------------------------------------

    async def _load_in_turn(self) -> None:
        while True:
            self._is_loading = False
            wish = await self._wishes.get()
            self._is_loading = True
            if wish.granted.done():
                continue
            resident = self._residents.get(wish.model.weights)
            if resident is None or not resident.serves(wish.context):
                resident = await self._load(wish)
            if resident is not None and not wish.granted.done():
                self._enter(resident, wish.keep_alive_s)
                wish.granted.set_result(resident)

    async def _load(self, wish: _Wish) -> Resident | None:
        """The model, loaded; None where its client left before it was, or was told that it cannot be."""
        await self._make_room(wish)
        wish.load_s = load_s(wish.model.shape, self._config.load_bandwidth_bytes_s)
        await asyncio.wait([wish.granted], timeout=wish.load_s / self._config.speed)
        if wish.granted.done():
            return None
        if self._config.load_error:
            wish.granted.set_exception(LoadFailedError(self._config.load_error))
            return None
        config = self._config
        runner = Runner(
            wish.model, wish.context, config.hardware, self._seats, config.speed, jam_after=config.jam_after
        )
        keep_alive_s = config.keep_alive_s if wish.keep_alive_s is None else wish.keep_alive_s
        resident = Resident(runner, _size_bytes(wish.model, wish.context, on_gpu=bool(config.card)), keep_alive_s)
        self._residents[resident.weights] = resident
        return resident

    async def _make_room(self, wish: _Wish) -> None:
        """Unload what has the same weights in another context, and others until there are few enough."""
        same = self._residents.get(wish.model.weights)
        if same is not None:
            await self._evict(same, wish)
        while len(self._residents) >= self._config.max_loaded_models and not wish.granted.done():
            # Idle first, then the shortest keep-alive: a busy one is waited for.
            victim = min(self._residents.values(), key=lambda each: (each.users > 0, each.keep_alive_s))
            await self._evict(victim, wish)

    async def _evict(self, resident: Resident, wish: _Wish) -> None:
        """Have it go, and wait until it has; requests it can serve are served meanwhile, and may keep it for long."""
        self._mark(resident)
        gone = asyncio.ensure_future(resident.gone.wait())
        await asyncio.wait((gone, wish.granted), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()


def _size_bytes(model: SimulatedModel, context: int, *, on_gpu: bool) -> int:
    """The model's buffers with `context`: those of its default, and what another makes of them."""
    usual, wanted = (
        footprint(model.shape, each, model.slots, model.kv_type, on_gpu=on_gpu) for each in (model.context, context)
    )
    told = model.footprint
    grown = wanted.kv_cache + wanted.compute - usual.kv_cache - usual.compute
    return told.weights + told.kv_cache + told.compute + told.output + grown
