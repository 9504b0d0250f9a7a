"""Another authority in place of the cluster's: begun by an operator, or when two thirds of its time are over.

The controller that leads takes each step, once every host and every machine has what the one before it asks for: so no
call meets somebody who does not trust it. What is to be had lies in the state folder, and goes on with whoever leads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from orchestrator.app import settings_in_use
from orchestrator.app.authority import authorities_of, put_authorities
from orchestrator.app.deployments import deploying
from orchestrator.app.held_up import CONTROLLER, HeldUp, held_up
from orchestrator.app.paths import StatePaths
from orchestrator.app.running import holder_of, redis_of, tell_controller
from orchestrator.core.errors import HostError, StoreError
from orchestrator.fleet.fenced import Leading
from orchestrator.nodes.authorities import Authorities
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.members import Met

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 3600.0
# While another authority takes its place: hosts are looked at again, those that could not be reached, too.
ROTATING_EVERY_S: Final = 3.0
# Between what a host was told and that each new connection goes by it; and for handshakes that are under way.
SETTLES_S: Final = 2.5
WATCH_EVERY_S: Final = 0.5

_SILENT: Final = "its controller has not said that it has what this step asks for"


class Rotating:
    """Of one controller; asked while it leads. `met`: who works with the same Redis, itself included."""

    def __init__(
        self,
        paths: StatePaths,
        settings: Callable[[], ClusterSettings],
        leading: Leading,
        met: Callable[[], Awaitable[tuple[Met, ...]]],
        held_up: HeldUp,
    ) -> None:
        self._paths, self._settings, self._leading, self._met = paths, settings, leading, met
        self._held_up = held_up
        self._said = ""
        self._whole: tuple[str, float] = "", 0.0  # what all have, and since when, by a clock of this process

    async def go_on(self, authorities: Authorities, hosts: Mapping[str, str]) -> float:
        """Take the next step where there is one and nobody is behind; `hosts`: which are, and why. This machine is not.

        Returns in how many seconds to look again. Raises StoreError, HostError.
        """
        if authorities.is_settled and time.time() < authorities.signs.renewed_unix_s:
            await self._held_up.by({})
            return LOOK_EVERY_S
        behind = {**hosts, **dict.fromkeys(behind_in(await self._met(), authorities), _SILENT)}
        if behind:
            self._say(f"its authority is being replaced, and waits for {', '.join(behind)}")
            self._whole = "", 0.0
            await self._held_up.by(behind)
            return ROTATING_EVERY_S
        if self._whole[0] != authorities.held.words:
            self._whole = authorities.held.words, time.monotonic()
        if (left_s := self._whole[1] + SETTLES_S - time.monotonic()) > 0:
            await self._held_up.by({})
            return left_s
        try:
            step = await asyncio.to_thread(self._take_step, authorities)
        except HostError as why:  # somebody deploys, by what he read before
            self._say(str(why))
            await self._held_up.by({CONTROLLER: str(why)})
            return ROTATING_EVERY_S
        self._say(step)
        await self._held_up.by({})
        return 0.0

    def _take_step(self, before: Authorities) -> str:
        with deploying(self._paths):
            found = authorities_of(self._paths, self._settings())
            if found is None or found.pem != before.pem:
                return "its authority was changed meanwhile"
            self._leading.check()
            after = before.begun(int(time.time())) if before.is_settled else before.followed()
            put_authorities(self._paths, self._settings(), after)
        return in_words(after)

    def _say(self, text: str) -> None:
        if text != self._said:
            log.info("%s", text)
        self._said = text


def in_words(authorities: Authorities) -> str:
    """How far it is."""
    if authorities.coming is not None:
        return "another authority is made known to hosts and gateways; the one before it still signs"
    if authorities.going:
        return "the new authority signs: hosts and gateways get its certificates, and still trust the one before it"
    if authorities.is_left:
        return "the new authority is alone: hosts and gateways stop trusting the one before it"
    return "the new authority is the only one that is trusted"


def behind_in(met: Sequence[Met], authorities: Authorities) -> list[str]:
    """Machines that have not yet what they are to have, or whose controller is silent while their gateways are not."""
    has = {each.member.place: each.member.papers for each in met if each.kind == "controller"}
    names = {each.member.place: each.member.name for each in met}
    return sorted(names[place] for place in names if has.get(place) != authorities.held.words)


async def begin(paths: StatePaths) -> AsyncIterator[str]:
    """Have another authority take the place of the cluster's, or go on watching that; each step as it is taken, and
    whom it waits for.

    Redis is not needed for it: without, only whom it waits for is not known. Raises HostError where there is none, or
    somebody deploys.
    """
    holder_of(paths)  # somebody is there to do it
    settings = settings_in_use.read(paths)
    if not settings.deploy.tls or (now := authorities_of(paths, settings)) is None:
        raise HostError("there is no authority: `deploy.tls: true` and the next `ollamactl deploy` make one")
    if now.is_settled:
        with deploying(paths):
            now = now.begun(int(time.time()))
            put_authorities(paths, settings, now)
    yield in_words(now)  # it is begun, whatever comes next
    await tell_controller(paths)
    async with redis_of(paths, settings, wait_s=0) as connection:
        async for step in _watched(paths, connection, now):
            yield step


async def _watched(paths: StatePaths, connection: Connection, now: Authorities) -> AsyncIterator[str]:
    """What follows upon `now`."""
    said = ""
    while not now.is_settled:
        before = now.pem
        while now.pem == before:
            await asyncio.sleep(WATCH_EVERY_S)  # a file is looked at: whoever leads may be on another machine
            if (told := await _waits_for(connection)) != said:
                said = told
                if told:
                    yield told
            settings = await asyncio.to_thread(settings_in_use.read, paths)
            found = await asyncio.to_thread(authorities_of, paths, settings)
            if found is None or not settings.deploy.tls:
                raise HostError("it is not gone on with: `deploy.tls` was switched off, or `authority.sealed` removed")
            now = found
        yield in_words(now)


async def _waits_for(connection: Connection) -> str:
    if not connection.is_up and not connection.has_failed:
        return ""  # it is being connected to
    try:
        return await held_up(connection)
    except StoreError as why:  # the steps are seen without it
        return f"whom it waits for is not known: {why}"
