"""Models brought into the memory of servers that somebody else runs, because calls wait for them.

What is to be loaded where is decided in `core.residency`. Here it is done: calls are kept off what has to go, the
server is waited for, and what it did is looked at. A load is the controller's own request: no client can abort it by
leaving, and however many wait, there is one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from orchestrator.core.errors import InstanceError, OrchestratorError, StoreError
from orchestrator.core.model import InstanceId, PoolName
from orchestrator.core.residency import Held, Line, Mean, Move, Pressure, choose_moves, mean_over_s
from orchestrator.fleet.offering import shape_bytes, slots_on
from orchestrator.fleet.place import Place
from orchestrator.fleet.publishing import Publisher
from orchestrator.fleet.slot_probe import SlotProbe
from orchestrator.fleet.watching import Watched
from orchestrator.nodes.given_api import GivenApi
from orchestrator.settings import ClusterSettings

log = logging.getLogger(__name__)

# Redis has no event for the first call in a line. A call that waits for a load of seconds does not feel this.
LOOK_EVERY_S = 0.05
AGAIN_S = 1.0  # while Redis is away
VACATED_WITHIN_S = 120.0
UNLOADED_WITHIN_S = 30.0
# For deciding on a load before any was seen: from the page cache over PCIe, and no less than a runner's start. Rather
# too short than too long (callers are told otherwise, `core.loads`): the first load tells better, and none is made that
# is thought too long.
LOAD_BYTES_S, SHORTEST_LOAD_S = 4e9, 0.25
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0


class Asking(Protocol):
    """Both raise StoreError."""

    async def queued(self, pools: Sequence[PoolName]) -> Mapping[PoolName, int]: ...
    async def pressure(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> Mapping[PoolName, Pressure]: ...


class Loader:
    """Loads what is waited for."""

    def __init__(
        self,
        places: Mapping[str, Place],
        *,
        api: GivenApi,
        asking: Asking,
        publisher: Publisher,
        settings: Callable[[], ClusterSettings],
        on_change: Callable[[], None],
    ) -> None:
        self._places, self._api, self._asking, self._publisher = places, api, asking, publisher
        self._settings, self._on_change = settings, on_change
        self._probe = SlotProbe(api, on_change)
        self._stirred = asyncio.Event()
        self._stands_since: dict[str, float] = {}
        self._means: dict[PoolName, Mean] = {}
        self._looked_s = self._last_line_s = float("-inf")

    def stir(self) -> None:
        """Something may be cold that was not."""
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        said = ""
        async with asyncio.TaskGroup() as moves:
            while True:
                self._stirred.clear()
                try:
                    if await self._begin_moves(moves):
                        await asyncio.sleep(LOOK_EVERY_S)
                    else:
                        await self._stirred.wait()
                    said = ""
                except StoreError as why:
                    if str(why) != said:
                        log.warning("nothing is loaded: %s", why)
                    said = str(why)
                    await asyncio.sleep(AGAIN_S)

    # --- what is to be done ------------------------------------------------------------------------------------------

    async def _begin_moves(self, moves: asyncio.TaskGroup) -> bool:
        """Begin what the lines ask for; False where nothing can be cold, and so nothing is to be looked at."""
        is_probing = self._begin_probes(moves)
        loadable = {url: place.loadable() for url, place in self._places.items()}
        resident = {url: place.watched.sight.resident for url, place in self._places.items()}
        cold = {pool for url, pools in loadable.items() for pool in pools if pool not in resident[url]}
        if not cold:
            self._stands_since.clear()
            return is_probing
        waiting = await self._asking.queued([PoolName(each) for each in sorted(cold)])
        now_s = time.monotonic()
        over_s = mean_over_s(max(map(self._expected_load_s, cold)))
        if any(waiting.values()):
            self._last_line_s = now_s
        elif now_s - self._last_line_s > over_s:
            self._stands_since.clear()
            self._means.clear()
            return True
        pools = sorted({pool for several in loadable.values() for pool in several})
        pressure = await self._asking.pressure({PoolName(each): self._instances(each, loadable) for each in pools})
        seconds, self._looked_s = min(now_s - self._looked_s, over_s), now_s
        self._means = {
            pool: self._means.get(pool, Mean()).after(each, seconds, over_s) for pool, each in pressure.items()
        }
        if not self._publisher.has_settled:
            return True  # what is under way is not all counted yet
        held = [
            self._held(self._places[url], several, pressure)
            for url, several in loadable.items()
            if several and url in self._places  # a server may have been taken out meanwhile
        ]
        for move in choose_moves(held, self._lines(pressure)):
            place = self._places[move.server]
            place.move = move
            moves.create_task(self._carry_out(place, move), name=f"load {move.pool} on {place.watched.name}")
        return True

    def _begin_probes(self, moves: asyncio.TaskGroup) -> bool:
        """Have models asked that were in memory already; whether one is yet to be."""
        due = False
        for url, place in self._places.items():
            place.forget_what_a_restart_changes()
            pool = place.unprobed() if place.move is None else ""
            if pool and self._publisher.has_settled:
                place.move, place.probing = Move(url, pool, vacates=(pool,), may_wait=True), pool
                moves.create_task(self._carry_out(place, place.move), name=f"probe {pool} on {place.watched.name}")
            due = due or bool(pool)
        return due

    def _instances(self, pool: str, loadable: Mapping[str, Sequence[str]]) -> list[InstanceId]:
        there = [url for url, pools in loadable.items() if pool in pools and url in self._places]
        return [self._places[url].watched.server.instance(pool).id for url in there]

    def _held(self, place: Place, loadable: Sequence[str], pressure: Mapping[PoolName, Pressure]) -> Held:
        server, sight, standing = place.watched.server, place.watched.sight, place.standing
        busy = {pool: pressure[PoolName(pool)].in_flight.get(server.instance(pool).id, 0) for pool in loadable}
        return Held(
            server=server.url,
            slots={pool: slots_on(standing, pool, self._settings()) for pool in loadable},
            resident=sight.resident & frozenset(loadable),
            busy=busy,
            room=max(1, place.room - sight.strangers) if place.room is not None else None,
            loading=place.move.pool if place.move is not None else "",
        )

    def _lines(self, pressure: Mapping[PoolName, Pressure]) -> list[Line]:
        now_s = time.monotonic()
        lines = []
        for pool, each in pressure.items():
            if not each.queued:
                self._stands_since.pop(pool, None)
            stands_s = now_s - self._stands_since.setdefault(pool, now_s) if each.queued else 0.0
            load_s = self._expected_load_s(pool)
            mean = self._means.get(pool, Mean())
            lines.append(Line(pool, each.queued, stands_s, each.service_s or 0.0, load_s, mean))
        return lines

    def _expected_load_s(self, pool: str) -> float:
        measured = [each.loads.took_s[pool] for each in self._places.values() if pool in each.loads.took_s]
        if measured:
            return sum(measured) / len(measured)
        size = max((shape_bytes(each.watched.sight.models.get(pool)) for each in self._places.values()), default=0)
        return max(SHORTEST_LOAD_S, size / LOAD_BYTES_S)

    # --- how it is done ----------------------------------------------------------------------------------------------

    async def _carry_out(self, place: Place, move: Move) -> None:
        """Load the model, or leave everything as it was. What goes wrong is said of the model on this server."""
        watched = place.watched
        try:
            await self._publisher.publish()
            if await self._is_vacated(place, move):
                for pool in move.evicts:
                    await self._unload(watched, pool)
                if not place.probing:
                    await self._load(place, move)
                    self._troubles_end(place, move.pool)
                if place.is_to_be_probed(move.pool):
                    await self._probe.find(place, move.pool)
            elif place.probing:
                self._probe.leave(place, move.pool, "calls were under way on it all the time")
        except StoreError as why:
            log.warning("%s is not loaded on %s: %s", move.pool, watched.name, why)
        except OrchestratorError as why:
            self._trouble(place, move.pool, why.message if isinstance(why, InstanceError) else str(why))
        finally:
            place.move, place.probing = None, ""
            self._on_change()

    async def _is_vacated(self, place: Place, move: Move) -> bool:
        """Whether no call is under way on what has to go; those there are waited for where the move may."""
        if not move.vacates:
            return True
        instances = {PoolName(pool): [place.watched.server.instance(pool).id] for pool in move.vacates}
        deadline_s = time.monotonic() + (VACATED_WITHIN_S if move.may_wait else 0.0)
        while True:
            pressure = await self._asking.pressure(instances)
            if not any(count for each in pressure.values() for count in each.in_flight.values()):
                return True
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(LOOK_EVERY_S)  # Redis has no event for the last lease

    async def _unload(self, watched: Watched, pool: str) -> None:
        """Have it go by name and see it gone: a request for another would wait where nobody sees it (OLLAMA.md 1.8)."""
        model = watched.sight.models.get(pool)
        if model is None:
            return
        await self._api.unload(watched.server.instance(pool, model.listed.name, watched.sight.engine))
        deadline_s = time.monotonic() + UNLOADED_WITHIN_S
        while pool in (await watched.look()).resident:
            if time.monotonic() > deadline_s:
                raise InstanceError(
                    watched.name, f"{pool} is still in memory {UNLOADED_WITHIN_S:g} s after it was to go"
                )
            await asyncio.sleep(LOOK_EVERY_S)

    async def _load(self, place: Place, move: Move) -> None:
        watched, before = place.watched, place.watched.sight
        model = before.models.get(move.pool)
        if model is None:
            raise InstanceError(watched.name, f"{move.pool} is no longer there")
        began_s = time.monotonic()
        at = watched.server.instance(move.pool, model.listed.name, before.engine)
        await self._api.load_as_it_is(at, is_embedding=bool(model.is_embedding))
        took_s = time.monotonic() - began_s
        place.loads = place.loads.after(move.pool, took_s, shape_bytes(model))
        self._means.pop(PoolName(move.pool), None)  # who waited for the load says nothing of what comes after it
        after = await watched.look()
        log.info("%s: loaded %s in %.1f s", watched.name, move.pool, took_s)
        if move.pool not in after.resident:
            watched.does_not_tell_memory()
        elif watched.server.room is None:
            self._find_out_room(place, lost=before.resident - after.resident)

    def _find_out_room(self, place: Place, *, lost: frozenset[str]) -> None:
        """What had to go for a load tells how many fit; more at once than that tell that it was wrong."""
        together = len(place.watched.sight.running or ())
        if lost:
            place.found_room, place.found_room_s = max(1, together), time.monotonic()
            log.info("%s: %s went for it, so it holds %d", place.watched.name, ", ".join(sorted(lost)), together)
        elif place.found_room is not None and together > place.found_room:
            place.found_room = None

    def _trouble(self, place: Place, pool: str, why: str) -> None:
        """It is not tried again for a while, and says so."""
        retry_s = place.retry_s[pool] = min(place.retry_s.get(pool, FIRST_RETRY_S / 2) * 2, LONGEST_RETRY_S)
        log.warning("%s: %s could not be loaded: %s; again in %g s", place.watched.name, pool, why, retry_s)
        place.troubles[pool] = f"could not be loaded: {why}"
        asyncio.get_running_loop().call_later(retry_s, self._try_again, place, pool)

    def _try_again(self, place: Place, pool: str) -> None:
        place.troubles.pop(pool, None)
        self._on_change()

    def _troubles_end(self, place: Place, pool: str) -> None:
        place.troubles.pop(pool, None)
        place.retry_s.pop(pool, None)
