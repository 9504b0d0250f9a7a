"""Questions whose answers a route keeps, for telling that another one means the same: a stream for those who share.

An entry names its answer and its family by their digests, and has the question's text as it is handed in: sealed, where
answers are. Gateways read what is new to them. An answer that ends leaves its question here until newer ones, a purge
or time take it away; who finds it looks for the answer and finds none.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.schema import QUESTIONS, route_answer, route_questions

KEPT: Final = 2000  # questions of one route and those who share its answers
BEGIN: Final = "0-0"
_AT_ONCE: Final = 500


class Told(NamedTuple):
    """One entry. A `text` of a question, or two digests of questions that were taken for each other wrongly."""

    id: str
    digest: str
    family: str
    text: bytes
    barred: tuple[str, ...] = ()


class Questions:
    """Questions by route and scope: a digest of whose answers they have."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def keep_soon(self, route: str, scope: str, told: Told, ttl_s: float) -> None:
        """Sent at once and not waited for."""
        key, what = route_questions(route, scope), f"a question of {route}"
        self._connection.post_command(what, *_added(key), "d", told.digest, "f", told.family, "q", told.text)
        self._connection.post_command(what, b"PEXPIRE", key, ms(ttl_s))

    async def bar(self, route: str, scope: str, digests: tuple[str, str], ttl_s: float) -> None:
        """These are compared with none any more. Raises StoreError."""
        key = route_questions(route, scope)
        await self._connection.command(*_added(key), "n", " ".join(digests))
        await self._connection.command(b"PEXPIRE", key, ms(ttl_s))

    async def since(self, route: str, scope: str, after: str, most: int) -> list[Told]:
        """The next entries behind that one. Raises StoreError."""
        key = route_questions(route, scope)
        return [
            _told(*each) for each in await self._connection.command(b"XRANGE", key, f"({after}", b"+", b"COUNT", most)
        ]

    async def forget_lost(self) -> None:
        """Delete every question whose answer is not there any more. Raises StoreError."""
        async for keys in self._connection.scan(f"{QUESTIONS}*"):
            for key in keys:
                await self._forget_lost_of(key.decode())

    async def _forget_lost_of(self, key: str) -> None:
        route = key.removeprefix(QUESTIONS).rpartition("}:")[0]
        found = [_told(*each) for each in await self._connection.command(b"XRANGE", key, b"-", b"+")]
        questions = [each for each in found if not each.barred]
        lost: list[str] = []
        for at in range(0, len(questions), _AT_ONCE):
            some = questions[at : at + _AT_ONCE]
            look = (self._connection.command(b"EXISTS", route_answer(route, each.digest)) for each in some)
            lost += [each.id for each, is_there in zip(some, await asyncio.gather(*look), strict=True) if not is_there]
        if len(lost) == len(questions):
            await self._connection.command(b"UNLINK", key)
        elif lost:
            await self._connection.command(b"XDEL", key, *lost)


def _added(key: str) -> tuple[str | bytes | int, ...]:
    return b"XADD", key, b"MAXLEN", b"~", KEPT, b"*"


def _told(entry: bytes, fields: Any) -> Told:
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    digest, family = told.get(b"d", b"").decode(), told.get(b"f", b"").decode()
    return Told(entry.decode(), digest, family, told.get(b"q", b""), tuple(told.get(b"n", b"").decode().split()))
