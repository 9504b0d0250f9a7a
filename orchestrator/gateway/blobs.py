"""A file of a model on its way from a client to every server that lacks it, piece by piece, kept nowhere between.

The slowest of the servers says how fast it goes. Each of them checks the digest itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from orchestrator.core.address import address_text
from orchestrator.core.chores import Outcome, shortened
from orchestrator.core.tls_words import tls_trouble
from orchestrator.gateway.upstream import Contexts

if TYPE_CHECKING:
    import aiohttp  # loaded by who first asks: a worker that asks nobody is spared its 9 MiB

# Pieces that a server may be behind the client.
_AHEAD: Final = 4
_CONNECT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server that lacks the file."""

    name: str
    host: str
    port: int
    named: str = ""  # whom its certificate names; '': it has none, and is spoken to in clear


async def spread(
    targets: Sequence[Target],
    digest: str,
    length: int | None,
    pieces: AsyncIterator[bytes],
    silence_s: float,
    contexts: Contexts | None = None,
) -> list[Outcome]:
    """Send it to all of them; what came of it on each. Raises what `pieces` raises: then none of them has it."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        sendings = [_Sending(http, each, digest, length, silence_s, contexts) for each in targets]
        try:
            async for piece in pieces:
                await asyncio.gather(*(each.take(piece) for each in sendings))
                if not any(each.is_going for each in sendings):
                    break  # nobody takes it
            await asyncio.gather(*(each.take(b"") for each in sendings))
            await asyncio.wait([each.task for each in sendings], timeout=silence_s)
            for each in sendings:
                each.give_up(f"it had all of it, and said nothing for {silence_s:g} s")
            return [await each.task for each in sendings]
        finally:
            for each in sendings:
                each.task.cancel()
            await asyncio.gather(*(each.task for each in sendings), return_exceptions=True)


class _Sending:
    """It, to one server. A piece that is empty is the end."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        target: Target,
        digest: str,
        length: int | None,
        silence_s: float,
        contexts: Contexts | None,
    ) -> None:
        self._http, self._target, self._digest, self._length = http, target, digest, length
        self._silence_s, self._contexts = silence_s, contexts
        self._given_up = ""
        self._ahead: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)
        self.task = asyncio.create_task(self._send(), name=f"blob to {target.name}")

    @property
    def is_going(self) -> bool:
        return not self.task.done()

    async def take(self, piece: bytes) -> None:
        """The next piece, once there is room for it; nothing where the server takes no more."""
        putting = asyncio.ensure_future(self._ahead.put(piece))
        try:
            await asyncio.wait((putting, self.task), timeout=self._silence_s, return_when=asyncio.FIRST_COMPLETED)
            if not putting.done():
                self.give_up(f"it took nothing for {self._silence_s:g} s")
        finally:
            putting.cancel()

    def give_up(self, why: str) -> None:
        """Send no more, if it is not over."""
        if self.is_going:
            self._given_up = why
            self.task.cancel()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._ahead.get():
            yield piece

    async def _send(self) -> Outcome:
        import aiohttp

        target = self._target
        headers = {} if self._length is None else {"Content-Length": str(self._length)}
        try:
            url, tls = self._way()
            async with self._http.post(
                url, data=self._pieces(), headers=headers, allow_redirects=False, **tls
            ) as reply:
                body = await reply.read()
                if reply.status in (200, 201):
                    return Outcome(target.name)
                return Outcome(target.name, reply.status, shortened(_reason(body)))
        except (aiohttp.ClientError, OSError) as why:
            return Outcome(target.name, 0, shortened(tls_trouble(why) or str(why) or type(why).__name__))
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            return Outcome(target.name, 0, self._given_up)

    def _way(self) -> tuple[str, dict[str, Any]]:
        """Its address, and what is told of TLS. Raises OSError where that cannot be spoken."""
        target = self._target
        place = f"{address_text(target.host, target.port)}/api/blobs/{self._digest}"
        if not target.named:
            return f"http://{place}", {}
        if self._contexts is None:
            raise OSError("it is asked over TLS alone, and nothing to ask with was given")
        context = self._contexts.of(target.host, target.port)
        return f"https://{place}", {"ssl": context, "server_hostname": target.named}


def _reason(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body.decode(errors="replace") or "no reason given"
