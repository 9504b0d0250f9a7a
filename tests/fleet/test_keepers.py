"""Keepers side by side: each node's own is asked, and one that cannot be reached is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import NodeName
from orchestrator.fleet import following
from orchestrator.fleet.following import Following
from orchestrator.fleet.keepers import Claimed, Keepers, Post
from orchestrator.fleet.ports import Ports
from orchestrator.fleet.tasks import raise_first
from orchestrator.nodes.keeper_units import EventKind, Unit, UnitEvent, UnitState, UnitStatus
from tests.waiting import until

ONE, TWO = NodeName("gpu-1"), NodeName("gpu-2")
UNIT = Unit("engine-a", ("ollama", "serve"))


class Played:
    """A keeper that is told what to say."""

    def __init__(self) -> None:
        self.error = ""
        self.is_silent = False
        self.units = (UnitStatus("engine-a", 7, UnitState.RUNNING, 0, 0, None, Path("log")),)
        self.asked: list[str] = []
        self.news: asyncio.Queue[UnitEvent] = asyncio.Queue()
        self.is_kept = False

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.is_silent:
            await asyncio.Event().wait()
        if self.error:
            raise HostError(self.error)

    async def run(self) -> None:
        self.is_kept = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_kept = False

    async def start(self, unit: Unit) -> None:
        await self._answer(f"start {unit.name}")

    async def stop(self, name: str) -> None:
        await self._answer(f"stop {name}")

    async def restart(self, name: str) -> None:
        await self._answer(f"restart {name}")

    async def list(self) -> tuple[UnitStatus, ...]:
        await self._answer("list")
        return self.units

    async def marks(self) -> Mapping[str, str]:
        await self._answer("marks")
        return {"engine-a": "mark"}

    async def listens(self, name: str, port: int) -> bool:
        await self._answer(f"listens {name} {port}")
        return True

    async def events(self) -> AsyncIterator[UnitEvent]:
        if self.error:
            raise HostError(self.error)
        while True:
            yield await self.news.get()


class Heard:
    """Who is told, and what."""

    def __init__(self) -> None:
        self.told: list[tuple[str, NodeName | None]] = []
        self.events: list[UnitEvent] = []

    async def take_over(self, post: Post, units: Any, marks: Mapping[str, str]) -> None:
        assert marks == {"engine-a": "mark"}
        self.told.append(("take over", post.host))

    def look_at(self, post: Post, units: Any) -> None:
        self.told.append(("look", post.host))

    def happened(self, event: UnitEvent) -> None:
        self.events.append(event)

    def is_away(self, post: Post) -> None:
        self.told.append(("away", post.host))

    def is_back(self, post: Post) -> None:
        self.told.append(("back", post.host))

    async def until(self, what: str, host: NodeName | None, times: int = 1) -> None:
        await until(lambda: self.told.count((what, host)) >= times)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEARTBEAT_S", "EVENTS_AGAIN_S"):
        monkeypatch.setattr(following, name, 0.01)
    monkeypatch.setattr(following, "LOOK_WITHIN_S", 0.1)


@asynccontextmanager
async def followed(keepers: Keepers) -> AsyncIterator[Heard]:
    heard = Heard()
    each = Following(keepers, heard)
    task = asyncio.create_task(each.run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_node_is_kept_by_its_own_keeper_and_all_others_by_this_machines() -> None:
    here, host = Played(), Played()
    keepers = Keepers(here, {ONE: host})
    assert keepers.of(ONE).keeping is host
    assert keepers.of(NodeName("local")).keeping is here
    assert keepers.away == {ONE}, "nobody has asked it yet"


def test_a_host_that_left_the_settings_stays_while_something_of_ours_runs_there() -> None:
    keepers = Keepers(Played(), {ONE: Played(), TWO: Played()})
    was = keepers.of(ONE)
    keepers.set_hosts({}, in_use={ONE})
    assert [post.host for post in keepers.posts] == [None, ONE]
    assert keepers.of(ONE) is was
    keepers.set_hosts({}, in_use=())
    assert [post.host for post in keepers.posts] == [None]


async def test_each_host_is_taken_over_once_and_then_looked_at() -> None:
    one, two = Played(), Played()
    async with followed(Keepers(Played(), {ONE: one, TWO: two})) as heard:
        for host in (None, ONE, TWO):
            await heard.until("look", host, 3)
            assert heard.told.count(("take over", host)) == 1
        assert one.is_kept
        assert two.is_kept
    assert not one.is_kept


@pytest.mark.parametrize("how", ["error", "is_silent"])
async def test_a_host_that_cannot_be_reached_is_told_of_and_taken_over_anew_when_it_is_back(how: str) -> None:
    one, two = Played(), Played()
    keepers = Keepers(Played(), {ONE: one, TWO: two})
    async with followed(keepers) as heard:
        await heard.until("look", ONE)
        setattr(one, how, "refused" if how == "error" else True)
        await heard.until("away", ONE)
        assert keepers.away == {ONE}
        assert keepers.unreachable[ONE].startswith("gpu-1 cannot be reached: ")
        with pytest.raises(HostError, match="gpu-1 cannot be reached"):
            keepers.of(ONE).check()
        seen = heard.told.count(("look", TWO))
        await heard.until("look", TWO, seen + 3)
        setattr(one, how, "" if how == "error" else False)
        await heard.until("back", ONE)
        assert heard.told.count(("take over", ONE)) == 2
        assert keepers.away == frozenset()
        assert heard.told.count(("away", ONE)) == 1


async def test_what_happens_anywhere_is_heard() -> None:
    here, one = Played(), Played()
    async with followed(Keepers(here, {ONE: one})) as heard:
        for each in (here, one):
            each.news.put_nowait(UnitEvent("engine-a", EventKind.STARTED, 1))
        await until(lambda: len(heard.events) >= 2)


async def test_hosts_that_come_and_go_are_followed_as_they_do() -> None:
    one, two = Played(), Played()
    keepers = Keepers(Played(), {ONE: one})
    async with followed(keepers) as heard:
        await heard.until("look", ONE)
        keepers.set_hosts({TWO: two}, in_use=())
        await heard.until("look", TWO)
        assert not one.is_kept
        assert two.is_kept


async def test_without_this_machines_keeper_nothing_goes_on() -> None:
    here = Played()
    here.error = "no supervisor listens"

    async def follow() -> None:
        try:
            await asyncio.wait_for(Following(Keepers(here), Heard()).run(), 20)
        except BaseExceptionGroup as several:
            raise_first(several)

    with pytest.raises(HostError, match="no supervisor listens"):
        await follow()


async def test_nothing_is_changed_on_a_host_that_is_not_claimed_and_looking_is_free() -> None:
    host = Played()

    async def refuse() -> None:
        raise HostError("the host is another's")

    claimed = Claimed(host, refuse)
    for change in (lambda: claimed.start(UNIT), lambda: claimed.stop("engine-a"), lambda: claimed.restart("engine-a")):
        with pytest.raises(HostError, match="another's"):
            await change()
    assert await claimed.list() == host.units
    assert await claimed.listens("engine-a", 11500)
    assert host.asked == ["list", "listens engine-a 11500"]


def test_ports_of_a_host_are_drawn_from_its_range_and_none_twice_until_it_is_given_back() -> None:
    import random

    ports = Ports(random.Random(1))
    drawn = {ports.take("10.0.0.2", (11500, 11502), {11501}) for _ in range(2)}
    assert drawn == {11500, 11502}
    assert ports.take("10.0.0.3", (11500, 11500)) == 11500, "another host has its own"
    with pytest.raises(HostError, match=r"deploy\.ports"):
        ports.take("10.0.0.2", (11500, 11502), {11501})
    ports.forget("10.0.0.2", 11500)
    assert ports.take("10.0.0.2", (11500, 11502), {11501}) == 11500
