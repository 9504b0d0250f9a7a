"""Changes of models on their way from gateways to the controller, and what it tells of them on their way back.

A change stays open until its end is told: a controller that takes the lead goes on with what another one began. Only
the one that leads may tell. Who follows and hears nothing for SILENT_S ends the change, so that nothing is done that
somebody was told is not. What a change means is left to those who ask and do it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from orchestrator.core.chores import Chore, Ending
from orchestrator.core.errors import CapacityError, StoreError
from orchestrator.store import scripts
from orchestrator.store.admission import ms
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

_CHORE: TypeAdapter[Chore] = TypeAdapter(Chore)
_ENDING: TypeAdapter[Ending] = TypeAdapter(Ending)


class Chores:
    """One process's ear and voice. `start` it once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ears: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._on_stir: list[Callable[[], None]] = []

    async def start(self) -> None:
        await self._connection.subscribe(CHORES_CHANNEL, self._heard)

    def on_stir(self, callback: Callable[[], None]) -> None:
        """Call back where something is asked for or told."""
        self._on_stir.append(callback)

    def _heard(self, message: bytes) -> None:
        for each in self._ears.get(message.decode(), ()):
            each.set()
        for callback in self._on_stir:
            callback()

    # --- for who asks -------------------------------------------------------------------------------------------------

    async def ask(self, chore: Chore) -> Chore:
        """Have it done; with the id of the one under way where somebody asked for the same. Raises StoreError, and
        CapacityError where too much is under way."""
        asked = replace(chore, id=uuid.uuid4().hex)
        args = (asked.digest, asked.id, orjson.dumps(asdict(asked)), OPEN_AT_MOST, CHORES_CHANNEL)
        found = await self._connection.script(scripts.ASK_CHORE, (CHORES,), args, repeat=True)
        if not found:
            raise CapacityError(f"{OPEN_AT_MOST} changes of models are under way already", retry_after_s=30)
        return replace(asked, id=found.decode())

    async def follow(self, chore: Chore) -> AsyncGenerator[Mapping[str, Any] | Ending | None, None]:
        """What is told of it, from its beginning to its end; None where it is merely still under way."""
        stirred, after, heard_s = asyncio.Event(), "-", time.monotonic()
        self._ears[chore.id].add(stirred)
        try:
            while True:
                stirred.clear()
                for entry, told in await self._since(chore.id, after):
                    after, heard_s = f"({entry}", time.monotonic()
                    yield told
                    if isinstance(told, Ending):
                        return
                if time.monotonic() - heard_s > SILENT_S:
                    yield await self._given_up(chore, after)
                    return
                await _within(_LOOK_AGAIN_S, stirred)
        finally:
            self._ears[chore.id].discard(stirred)
            if not self._ears[chore.id]:
                del self._ears[chore.id]

    async def _since(self, chore_id: str, after: str) -> list[tuple[str, Mapping[str, Any] | Ending | None]]:
        """What was told behind that entry; nothing while Redis is away."""
        try:
            entries = await self._connection.command(b"XRANGE", chore_told(chore_id), after, b"+", b"COUNT", _AT_ONCE)
        except StoreError:
            return []
        return [(entry.decode(), _told(fields)) for entry, fields in entries]

    async def _given_up(self, chore: Chore, after: str) -> Ending:
        """End it, where nobody else has ended it meanwhile. Raises StoreError."""
        given_up = Ending(503, _NOBODY.format(SILENT_S))
        if not await self._tell(chore, "", _written(given_up), is_end=True):
            endings = [told for _, told in await self._since(chore.id, after) if isinstance(told, Ending)]
            return endings[0] if endings else given_up
        return given_up

    # --- for the controller -------------------------------------------------------------------------------------------

    async def open(self) -> list[Chore]:
        """Everything that is to be done, in the order in which it was asked for. Raises StoreError."""
        found = (await self._connection.command(b"HGETALL", CHORES)).values()
        known = [each for each in map(_chore, found) if each is not None]
        return sorted(known, key=lambda each: (each.at_ms, each.id))

    async def was_begun(self, chore: Chore) -> bool:
        """Whether somebody told of it. Raises StoreError."""
        return bool(await self._connection.command(b"EXISTS", chore_told(chore.id)))

    async def tell(self, chore: Chore, token: int, line: Mapping[str, Any] | None) -> bool:
        """How far it is; None: it is under way. False: it is no longer this controller's to do. Raises StoreError."""
        return await self._tell(chore, token, orjson.dumps({"line": line}))

    async def end(self, chore: Chore, token: int, ending: Ending) -> bool:
        """It is over. As `tell`."""
        return await self._tell(chore, token, _written(ending), is_end=True)

    async def _tell(self, chore: Chore, token: int | str, told: bytes, *, is_end: bool = False) -> bool:
        keys = (LEADER, CHORES, chore_told(chore.id))
        ttl_ms = ms(_ENDED_TTL_S if is_end else _OPEN_TTL_S)
        args = (token, chore.digest, chore.id, told, int(is_end), _ENTRIES_KEPT, ttl_ms, CHORES_CHANNEL)
        return bool(await self._connection.script(scripts.TELL_CHORE, keys, args, repeat=True))


def _written(ending: Ending) -> bytes:
    return orjson.dumps({"end": asdict(ending)})


def _told(fields: Any) -> Mapping[str, Any] | Ending | None:
    told = orjson.loads(fields[1])
    if "end" in told:
        return _ENDING.validate_python(told["end"])
    line: Mapping[str, Any] | None = told["line"]
    return line


def _chore(kept: bytes) -> Chore | None:
    """None where another version asked for what this one does not know: who follows it is told that nobody does it."""
    chore_id, at_ms, payload = kept.split(b" ", 2)
    try:
        return replace(_CHORE.validate_json(payload), id=chore_id.decode(), at_ms=int(at_ms))
    except ValidationError as why:
        log.warning("a change of models cannot be read, and is not done: %s", why)
        return None


async def _within(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation (CPython 86296)
            await event.wait()
    except TimeoutError:
        return
