"""The answer cache where no pool is chosen yet (routes), and what holds for all of it: purging and counting.

Answers of a pool are looked up by its admit script and kept by its settle script. Keys, and whether an answer
may be kept at all, are decided elsewhere; here they are bytes. What is known of them all is in `answer_books`.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.answer_books import AnswerBooks
from orchestrator.store.connection import Connection
from orchestrator.store.schema import pool_answer, route_answer, route_counts


@dataclass(frozen=True, slots=True)
class Counts:
    hits: int
    misses: int


class Answers:
    """Answers by route and digest."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def get(self, route: str, digest: str) -> bytes | None:
        """The answer, if it is there; counted either way."""
        keys = (route_answer(route, digest), route_counts(route))
        found: bytes | None = await self._connection.script(scripts.RECALL, keys)
        return found

    async def put(self, route: str, digest: str, answer: bytes, ttl_s: float) -> None:
        await self._connection.command(b"SET", route_answer(route, digest), answer, b"PX", ms(ttl_s))

    def put_soon(self, route: str, digest: str, answer: bytes, ttl_s: float) -> None:
        """`put`, sent at once and not waited for."""
        self._connection.post_command(
            f"an answer of {route}", b"SET", route_answer(route, digest), answer, b"PX", ms(ttl_s)
        )

    async def counts(self, route: str) -> Counts:
        hits, misses = await self._connection.command(b"HMGET", route_counts(route), b"hits", b"misses")
        return Counts(int(hits or 0), int(misses or 0))

    async def look(self, key: str) -> bytes | None:
        """What lies under a whole key, counted by nobody: for people who look."""
        found: bytes | None = await self._connection.command(b"GET", key)
        return found

    async def purge_all(self) -> int:
        """Forget every answer of every pool and route."""
        return await self._purge("olm:answers:{") + await self._purge("olm:pool:{", "}:answer:*")

    async def purge_route(self, route: str, prefix: str = "") -> int:
        """Forget a route's answers, or those whose digest starts with `prefix`; answers how many."""
        return await self._purge(route_answer(route, prefix))

    async def purge_pool(self, pool: str, prefix: str = "") -> int:
        return await self._purge(pool_answer(pool, prefix))

    async def _purge(self, prefix: str, rest: str = "") -> int:
        """By the keys there are, in the books or not."""
        removed, books = 0, AnswerBooks(self._connection)
        async for keys in self._connection.scan(f"{_literally(prefix)}*{rest}"):
            removed += await books.delete(key.decode() for key in keys)
        return removed


def _literally(text: str) -> str:
    """A glob that matches `text` and nothing else; model names come from callers."""
    return "".join(f"\\{each}" if each in "*?[]^\\" else each for each in text)
