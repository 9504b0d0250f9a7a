"""How many calls a server works on at once, found out by asking it for some: only where the settings say `probe`.

Asked is a model that is in memory and that no call is under way on; its answers are read to their ends, because an
Ollama can lose the slot of a stream that is closed early (OLLAMA.md 1.2).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orchestrator.core.errors import InstanceError
from orchestrator.core.slots import FIRST_ASKED, MOST_ASKED, Told, worked_on_at_once
from orchestrator.fleet.place import Place
from orchestrator.nodes.given_api import GivenApi

log = logging.getLogger(__name__)

AGAIN_S = 300.0

Ask = Callable[[int], Awaitable[Told]]


async def find_slots(ask: Ask, name: str) -> int:
    """Ask for twice as many answers each time until some have to wait, and once more: the fewer of both counts.

    `ask` has one answer made, whose question it tells apart by a number. Raises InstanceError where it cannot be told.
    """
    asked = FIRST_ASKED
    while (found := await _round(ask, asked, name)) == asked and asked < MOST_ASKED:
        asked *= 2
    return min(found, await _round(ask, found + 1, name))


async def _round(ask: Ask, count: int, name: str) -> int:
    """How many of so many are worked on at once. One that fails is not the end of the others: they are read."""
    answers = await asyncio.gather(*(ask(number) for number in range(count)), return_exceptions=True)
    for each in answers:
        if isinstance(each, BaseException):
            raise each
    found = worked_on_at_once([each for each in answers if not isinstance(each, BaseException)])
    if found is None:
        raise InstanceError(name, "its answers are too short to tell how many it works on at once")
    return found


class SlotProbe:
    """Asks places, and writes down there what was found."""

    def __init__(self, api: GivenApi, on_change: Callable[[], None]) -> None:
        self._api, self._on_change = api, on_change

    async def find(self, place: Place, pool: str) -> None:
        """Find out how many calls of a model are served at once, while none comes from here."""
        watched, model = place.watched, place.watched.sight.models[pool]
        at = watched.server.instance(pool, model.listed.name, watched.sight.engine)
        place.probing = pool
        self._on_change()
        try:
            found = await find_slots(lambda number: self._api.told(at, number), watched.name)
        except InstanceError as why:
            self.leave(place, pool, why.message)
        else:
            place.found_slots[pool] = found
            log.info("%s: calls of %s that it serves at once: %d, found by asking for more", watched.name, pool, found)

    def leave(self, place: Place, pool: str, why: str) -> None:
        """It could not be found out: it is not tried again for a while."""
        log.warning(
            "%s: how many calls of %s it serves at once was not found out: %s; one at a time, asked again in %g s",
            *(place.watched.name, pool, why, AGAIN_S),
        )
        place.unprobable.add(pool)
        asyncio.get_running_loop().call_later(AGAIN_S, self._again, place, pool)

    def _again(self, place: Place, pool: str) -> None:
        place.unprobable.discard(pool)
        self._on_change()
