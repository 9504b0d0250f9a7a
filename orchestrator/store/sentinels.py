"""Sentinels: whom they name as the master now, and word from each of them as soon as it is another one.

All that the settings name are asked at once, so that one that is gone costs nothing. What follows from their word, the
line to the master decides. They are asked without a password: they know no keys.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.core.address import address_text
from orchestrator.core.errors import StoreError
from orchestrator.store.address import Address, open_socket
from orchestrator.store.link import Link, pack
from orchestrator.store.slots import Host

log = logging.getLogger(__name__)

ANSWERS_WITHIN_S: Final = 0.5  # of two looks in one attempt to connect, which has 2 s
# Once more than half have answered, the others have this long: one of them may know of a newer master.
STRAGGLERS_WITHIN_S: Final = 0.1
HEAR_AGAIN_AFTER_S: Final = 1.0
_SWITCHED: Final = b"+switch-master"


@dataclass(frozen=True, slots=True)
class Named:
    """One Sentinel's word. `epoch`: of the election that made it the master; the higher one is the newer word."""

    host: Host
    epoch: int


async def master_of(address: Address) -> Host:
    """Whom the Sentinels name, and see up. Raises StoreError."""
    found, why = await _words_of(address)
    if not found:
        raise StoreError(f"no Sentinel of {address} knows its master: {why}")
    return max(found, key=lambda each: each.epoch).host


async def _words_of(address: Address) -> tuple[list[Named], str]:
    """What those say that answer in time, and why one did not."""
    loop = asyncio.get_running_loop()
    waiting = {asyncio.create_task(_word_of(address, host)) for host in address.hosts}
    found: list[Named] = []
    why, ends_s = "no answer in time", loop.time() + ANSWERS_WITHIN_S
    try:
        while waiting:
            left_s = max(0.0, ends_s - loop.time())
            done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for each in done:
                if (failure := each.exception()) is None:
                    found.append(each.result())
                elif not isinstance(failure, OSError | StoreError):
                    raise failure
                else:
                    why = str(failure)
            if len(found) > len(address.hosts) // 2:
                ends_s = min(ends_s, loop.time() + STRAGGLERS_WITHIN_S)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return found, why


async def _word_of(address: Address, host: Host) -> Named:
    link = await open_socket(address, lambda: Link(address_text(*host), ANSWERS_WITHIN_S, _nothing), host)
    try:
        told = _pairs(await link.ask(pack((b"SENTINEL", b"MASTER", address.master))))
    finally:
        link.close()
    flags = told[b"flags"].decode().split(",")
    if "master" not in flags or "s_down" in flags or "o_down" in flags:
        raise StoreError(f"{address_text(*host)} sees {address.master} as {told[b'flags'].decode()}")
    return Named((told[b"ip"].decode(), int(told[b"port"])), int(told[b"config-epoch"]))


def _pairs(reply: Sequence[Any]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


class Hearing:
    """Every Sentinel listened to: `switched` is told when one says that there is another master, or may have said so
    while it was not heard."""

    def __init__(self, address: Address, timeout_s: float, switched: Callable[[], None]) -> None:
        self._address, self._timeout_s, self._switched = address, timeout_s, switched
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._hear(host), name=f"hearing of {self._address.master}")
            for host in self._address.hosts
        ]

    async def close(self) -> None:
        for each in self._tasks:
            each.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def _hear(self, host: Host) -> None:
        while True:
            try:
                await self._hear_once(host)
            except (OSError, StoreError):  # the line to the master says what it lacks, where that is all of them
                log.debug("the Sentinel at %s is not heard", address_text(*host))
            await asyncio.sleep(HEAR_AGAIN_AFTER_S)

    async def _hear_once(self, host: Host) -> None:
        """Until the connection is lost."""
        async with asyncio.timeout(self._timeout_s):
            at = address_text(*host)
            link = await open_socket(self._address, lambda: Link(at, self._timeout_s, self._pushed), host)
        try:
            await asyncio.gather(*(link.ask(pack(each)) for each in ((b"HELLO", 3), (b"SUBSCRIBE", _SWITCHED))))
            self._switched()
            await asyncio.shield(link.lost)
        finally:
            link.close()

    def _pushed(self, channel: bytes, payload: bytes) -> None:
        if payload.partition(b" ")[0].decode() == self._address.master:
            self._switched()


def _nothing(channel: bytes, payload: bytes) -> None:
    """No channel is heard on a link that only asks."""
