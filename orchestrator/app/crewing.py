"""This place among those that share its Redis: said again and again, heard of the others, and written down.

A gateway that starts while Redis is away must not take the others' slots for its own, so what was heard last lies in
the state folder. What follows from who is there, `core.members` says.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import time
from contextlib import suppress
from typing import Final

from pydantic import TypeAdapter, ValidationError

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.core.admission import Share
from orchestrator.core.errors import StoreError
from orchestrator.core.members import Crew, Member
from orchestrator.settings import ClusterSettings
from orchestrator.store.connection import Connection
from orchestrator.store.members import BEAT_S, gateways_of, meet
from orchestrator.whole_file import write_whole

log = logging.getLogger(__name__)

_MEMBERS: Final = TypeAdapter(tuple[Member, ...])


def member_of(paths: StatePaths, settings: ClusterSettings, workers: int) -> Member:
    """This place, as the others hear of it."""
    is_bound = not settings.instances and any(each.address == "local" for each in settings.nodes)
    name = f"{socket.gethostname()}:{paths.root}"
    return Member(settings_in_use.place(paths), name, workers, is_bound, _works_by(settings))


def _works_by(settings: ClusterSettings) -> str:
    """What a controller would make of these settings is the same where this is."""
    told = settings.model_dump_json(include={"nodes", "models", "instances", "tiers", "deploy", "demand"})
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


class Crewing:
    """Of one gateway, number `index` of this place's `workers`."""

    def __init__(
        self, paths: StatePaths, settings: ClusterSettings, connection: Connection, index: int, workers: int
    ) -> None:
        self._connection, self._index = connection, index
        self._file = paths.root / "members.json"
        self._own = member_of(paths, settings, workers)
        # Nobody else reaches a Redis that lies in the state folder.
        self._is_alone = settings.redis == "embedded"
        self._crew = Crew() if self._is_alone else Crew({each.place: each for each in self._written()})
        self._share = self._crew.share(self._own, index)
        self._came_up = asyncio.Event()
        connection.on_up(self._note_up)

    def share(self) -> Share:
        """This gateway's share of every instance's slots while Redis is away."""
        return self._share

    async def run(self) -> None:
        """Until cancelled: say that this place is there, and hear who else is."""
        while not self._is_alone:
            self._came_up.clear()
            try:
                self._heard(gateways_of(await meet(self._connection, "gateways", self._own)))
            except StoreError as why:
                log.debug("who shares this Redis is not heard of: %s", why)
            with suppress(TimeoutError):  # The period is over.
                async with asyncio.timeout(BEAT_S):  # wait_for can swallow a cancellation (CPython 86296)
                    await self._came_up.wait()

    def _note_up(self) -> None:
        self._crew = self._crew.anew()
        self._came_up.set()

    def _heard(self, told: tuple[Member, ...]) -> None:
        before = self._crew
        self._crew = before.after(told, time.monotonic())
        self._share = self._crew.share(self._own, self._index)
        if self._crew.members == before.members:
            return
        for place, each in self._crew.members.items():
            if place != self._own.place and place not in before.members:
                log.info("%s shares this Redis: %d gateways more", each.name, each.workers)
        for place in before.members.keys() - self._crew.members.keys():
            log.warning("%s is not heard of any more: its share is divided", before.members[place].name)
        self._write()

    def _written(self) -> tuple[Member, ...]:
        try:
            return _MEMBERS.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as why:
            log.warning("%s cannot be read, who shares this Redis is heard anew: %s", self._file, why)
            return ()

    def _write(self) -> None:
        try:
            members = tuple(each for _, each in sorted(self._crew.members.items()))
            write_whole(self._file, _MEMBERS.dump_json(members), mode=0o600)
        except OSError as why:
            log.warning("%s cannot be written: a restart hears anew who shares this Redis: %s", self._file, why)
