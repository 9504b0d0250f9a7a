"""Changes of models on their way from gateways to the controller, and what it tells of them on their way back.

A change stays open until its end is told: a controller that takes the lead goes on with what another one began. Only
the one that leads may tell. Who follows and hears nothing for SILENT_S ends the change, so that nothing is done that
somebody was told is not. What a change means is left to those who ask and do it.

What is asked and told is sealed under a key of the machines (`chore_seals`): what was written to Redis without it is
neither done nor believed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import orjson

from orchestrator.core.chores import Chore, Ending
from orchestrator.core.errors import CapacityError, StoreError
from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.chore_seals import IS_OVER, NOT_SEALED, TOO_OLD, VALID_S, Memory, Seals, end_of
from orchestrator.store.connection import Connection
from orchestrator.store.schema import CHORES, CHORES_CHANNEL, LEADER, chore_told

log = logging.getLogger(__name__)

# More are refused: a controller does all of them at once.
OPEN_AT_MOST: Final = 64
# Longer than it takes to have another controller where one is lost, several times over.
SILENT_S: Final = 30.0
_LOOK_AGAIN_S: Final = 1.0  # a message may be lost
_ENTRIES_KEPT: Final = 512
_OPEN_TTL_S, _ENDED_TTL_S = 86_400.0, 300.0
_AT_ONCE: Final = 200
_NOBODY: Final = "no controller was at work on this for {0:g} s: it was given up; ask again once one leads"
_NOT_BELIEVED: Final = "what is told of this is not sealed with this machine's secret: give all the same `cache.secret`"
_LAST_WORDS: Final = 16
_ID: Final = re.compile(rb"[0-9a-f]{32}")


class Chores:
    """One process's ear and voice. `start` it once. `key`: the same on all machines, and nowhere in Redis."""

    def __init__(self, connection: Connection, key: bytes) -> None:
        self._connection, self._seals, self._memory = connection, Seals(key), Memory()
        self._ears: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._on_stir: Callable[[], None] = _nothing
        self._said: set[bytes] = set()  # of what cannot be read, and is still there

    async def start(self) -> None:
        await self._connection.subscribe(CHORES_CHANNEL, self._heard)

    def on_stir(self, callback: Callable[[], None]) -> None:
        """Call back where something is asked for or told: the last one who wants that."""
        self._on_stir = callback

    def _heard(self, message: bytes) -> None:
        for each in self._ears.get(message.decode(), ()):
            each.set()
        self._on_stir()

    # --- for who asks -------------------------------------------------------------------------------------------------

    async def ask(self, chore: Chore) -> Chore:
        """Have it done; with the id of the one under way where somebody asked for the same. Raises StoreError, and
        CapacityError where too much is under way."""
        asked = replace(chore, id=uuid.uuid4().hex, at_ms=await self._now_ms())
        args = (asked.digest, asked.id, self._seals.asked(asked), OPEN_AT_MOST, CHORES_CHANNEL)
        found = await self._connection.script(scripts.ASK_CHORE, (CHORES,), args, repeat=True)
        if not found:
            raise CapacityError(f"{OPEN_AT_MOST} changes of models are under way already", retry_after_s=30)
        return replace(chore, id=found.decode("ascii", "replace"))

    async def follow(self, chore: Chore) -> AsyncGenerator[Mapping[str, Any] | Ending | None, None]:
        """What is told of it, from its beginning to its end; None where it is merely still under way."""
        stirred, after, heard_s, nobody = asyncio.Event(), "-", time.monotonic(), _NOBODY.format(SILENT_S)
        self._ears[chore.id].add(stirred)
        try:
            while True:
                stirred.clear()
                for entry, told in await self._since(chore, after):
                    after = f"({entry}"
                    if told is None:
                        nobody = _NOT_BELIEVED
                        continue
                    heard_s = time.monotonic()
                    yield end_of(told) or told.get("line")
                    if "end" in told:
                        return
                if time.monotonic() - heard_s > SILENT_S:
                    yield await self._given_up(chore, after, nobody)
                    return
                await _within(_LOOK_AGAIN_S, stirred)
        finally:
            self._ears[chore.id].discard(stirred)
            if not self._ears[chore.id]:
                del self._ears[chore.id]

    async def _since(self, chore: Chore, after: str) -> list[tuple[str, dict[str, Any] | None]]:
        """What was told behind that entry, None for what is not to be believed; nothing while Redis is away."""
        try:
            entries = await self._connection.command(b"XRANGE", chore_told(chore.id), after, b"+", b"COUNT", _AT_ONCE)
        except StoreError:
            return []
        return [(entry.decode(), self._seals.read_told(chore, fields)) for entry, fields in entries]

    async def _given_up(self, chore: Chore, after: str, why: str) -> Ending:
        """End it, where nobody else has ended it meanwhile. Raises StoreError."""
        given_up = Ending(503, why)
        if not await self._tell(chore, "", {"end": asdict(given_up)}):
            endings = [end_of(told) for _, told in await self._since(chore, after) if told is not None]
            return next((each for each in endings if each is not None), given_up)
        return given_up

    # --- for the controller -------------------------------------------------------------------------------------------

    async def open(self, token: int) -> list[Chore]:
        """Everything that is to be done, in the order in which it was asked for. Raises StoreError.

        What is not to be done is dropped, with the token of who leads.
        """
        found: dict[bytes, bytes] = await self._connection.command(b"HGETALL", CHORES)
        now_ms, known = await self._now_ms(), []
        self._said &= {place + kept for place, kept in found.items()}
        for place, kept in found.items():
            chore, why = await self._judged(place, kept, now_ms)
            if why:
                await self._refuse(place, kept, token, chore, why)
            elif chore is not None:
                self._memory.begins(chore.id)
                known.append(chore)
        self._memory.saw(each.id for each in known)
        return sorted(known, key=lambda each: (each.at_ms, each.id))

    async def _judged(self, place: bytes, kept: bytes, now_ms: int) -> tuple[Chore | None, str]:
        """What is asked there, and why it is not done. Another version may ask for what this one does not know: who
        follows it is told that nobody does it."""
        try:
            chore = self._seals.read_asked(place, kept)
        except ValueError as why:
            if place + kept not in self._said:
                log.warning("a change of models cannot be read, and is not done: %s", why)
                self._said.add(place + kept)
            return None, ""
        if chore is None:
            return None, NOT_SEALED
        if self._memory.was(chore.id):
            return chore, IS_OVER
        if self._memory.goes(chore.id) or abs(now_ms - chore.at_ms) <= VALID_S * 1e3:
            return chore, ""
        return chore, "" if await self._is_under_way(chore, now_ms) else TOO_OLD

    async def _is_under_way(self, chore: Chore, now_ms: int) -> bool:
        """Whether another controller was at work on it lately, and has not ended it."""
        last = await self._connection.command(b"XREVRANGE", chore_told(chore.id), b"+", b"-", b"COUNT", _LAST_WORDS)
        told = [each for each in (self._seals.read_told(chore, fields) for _, fields in last) if each is not None]
        return any(abs(now_ms - each.get("at", 0)) <= VALID_S * 1e3 for each in told) and all(
            "end" not in each for each in told
        )

    async def _refuse(self, place: bytes, kept: bytes, token: int, chore: Chore | None, why: str) -> None:
        """Drop it, and tell whoever follows it why; said once."""
        told_of = (kept.split(None, 1) or [b""])[0] if not kept[:1].isspace() else b""
        stream = chore_told(told_of.decode()) if _ID.fullmatch(told_of) else chore_told("refused")
        told = orjson.dumps({"end": asdict(Ending(403, why)), "at": await self._now_ms()})
        seal = self._seals.told(chore, told) if chore is not None else b"-"
        args = (token, place, told_of, told, 1, _ENTRIES_KEPT, ms(_ENDED_TTL_S), CHORES_CHANNEL, seal)
        is_dropped = await self._connection.script(scripts.TELL_CHORE, (LEADER, CHORES, stream), args, repeat=True)
        if is_dropped:
            what = f"{chore.kind} of {chore.subject}" if chore is not None else repr(place[:64])
            log.warning("a change of models in Redis is not done (%s): %s", what, why)

    async def was_begun(self, chore: Chore) -> bool:
        """Whether somebody told of it. Raises StoreError."""
        return bool(await self._connection.command(b"EXISTS", chore_told(chore.id)))

    async def tell(self, chore: Chore, token: int, line: Mapping[str, Any] | None) -> bool:
        """How far it is; None: it is under way. False: it is no longer this controller's to do. Raises StoreError."""
        return await self._tell(chore, token, {"line": line})

    async def end(self, chore: Chore, token: int, ending: Ending) -> bool:
        """It is over. As `tell`."""
        is_told = await self._tell(chore, token, {"end": asdict(ending)})
        if is_told:
            self._memory.is_over(chore.id)
        return is_told

    async def _tell(self, chore: Chore, token: int | str, what: Mapping[str, Any]) -> bool:
        told, is_end = orjson.dumps({**what, "at": await self._now_ms()}), "end" in what
        keys = (LEADER, CHORES, chore_told(chore.id))
        ttl_ms = ms(_ENDED_TTL_S if is_end else _OPEN_TTL_S)
        seal = self._seals.told(chore, told)
        args = (token, chore.digest, chore.id, told, int(is_end), _ENTRIES_KEPT, ttl_ms, CHORES_CHANNEL, seal)
        return bool(await self._connection.script(scripts.TELL_CHORE, keys, args, repeat=True))

    async def _now_ms(self) -> int:
        """By Redis' clock, which all machines have in common. Raises StoreError."""
        seconds, micros = await self._connection.command(b"TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _nothing() -> None:
    """Nobody wants to know."""


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation (CPython 86296)
            await event.wait()
    except TimeoutError:
        return
