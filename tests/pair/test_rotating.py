"""Another authority in place of the cluster's: a step is taken once every host and every machine is ready for it."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from orchestrator import telemetry
from orchestrator.app import rotating, settings_in_use
from orchestrator.app.authority import authorities_of, put_authorities
from orchestrator.app.deployments import deploying
from orchestrator.app.held_up import CONTROLLER, HeldUp, in_words, since_in
from orchestrator.app.paths import StatePaths
from orchestrator.app.rotating import LOOK_EVERY_S, Rotating, begin, behind_in
from orchestrator.core.errors import StoreError
from orchestrator.core.members import Member
from orchestrator.nodes.authorities import Authorities
from orchestrator.nodes.authority import YEARS
from orchestrator.nodes.state_lock import StateLock
from orchestrator.settings import ClusterSettings
from orchestrator.store.members import Kind, Met
from tests.store.playing import free_port
from tests.waiting import WITHIN_S

SETTINGS = ClusterSettings()
YEAR_S = 366 * 86_400


class Leads:
    term = 1

    def check(self) -> None:
        pass


class Place:
    """A state folder whose controller leads, and who else is there."""

    def __init__(self, folder: Path, made_unix_s: int) -> None:
        self.paths = StatePaths(folder)
        self.met: tuple[Met, ...] = ()
        self.line: str | None = "of a controller before"
        self.rotating = Rotating(self.paths, lambda: SETTINGS, Leads(), self.heard, HeldUp(self.tell, Leads().check))
        put_authorities(self.paths, SETTINGS, Authorities.made(made_unix_s))

    async def heard(self) -> tuple[Met, ...]:
        return self.met

    async def tell(self, line: str | None) -> None:
        self.line = line

    @property
    def authorities(self) -> Authorities:
        found = authorities_of(self.paths, SETTINGS)
        assert found is not None
        return found

    async def goes_on(self, *behind: str) -> bool:
        """Whether a step was taken."""
        before = self.authorities.pem
        await self.rotating.go_on(self.authorities, dict.fromkeys(behind, "no answer"))
        return self.authorities.pem != before


def met(kind: Kind, place: str, papers: str = "") -> Met:
    return Met(kind, Member(place, f"{place}:/state", 2, papers=papers), 0.5)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(rotating, "SETTLES_S", 0.0)
    return Place(tmp_path, int(time.time()))


async def test_each_step_waits_for_every_host_and_every_machine(place: Place) -> None:
    old = place.authorities.signs.id
    assert await place.rotating.go_on(place.authorities, {}) == LOOK_EVERY_S, "there is nothing to do"
    put_authorities(place.paths, SETTINGS, place.authorities.begun(int(time.time())))
    for step in range(3):
        now = place.authorities.held.words
        assert not await place.goes_on("gpu-1")
        place.met = (met("gateways", "two"), met("controller", "two", "something before"))
        assert not await place.goes_on()
        place.met = (met("gateways", "two"), met("controller", "two", now), met("gateways", "three"))
        assert not await place.goes_on(), "gateways whose controller says nothing"
        place.met = place.met[:2]
        assert await place.goes_on()
        assert place.authorities.is_settled == (step == 2)
    assert place.authorities.signs.id != old
    assert place.authorities.held.trusts == {place.authorities.signs.id}


async def test_what_all_have_is_gone_by_for_a_while_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotating, "SETTLES_S", 60.0)
    place = Place(tmp_path, int(time.time()))
    put_authorities(place.paths, SETTINGS, place.authorities.begun(int(time.time())))
    assert not await place.goes_on()
    monkeypatch.setattr(rotating, "SETTLES_S", 0.0)
    assert await place.goes_on()


async def test_nothing_is_changed_under_a_deployment(place: Place) -> None:
    put_authorities(place.paths, SETTINGS, place.authorities.begun(int(time.time())))
    with deploying(place.paths):
        assert not await place.goes_on()
    assert await place.goes_on()


@pytest.mark.parametrize(("years", "begins"), [(YEARS * 2 / 3 - 0.1, False), (YEARS * 2 / 3 + 0.1, True)])
async def test_it_begins_by_itself_when_two_thirds_of_its_time_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: float, begins: bool
) -> None:
    monkeypatch.setattr(rotating, "SETTLES_S", 0.0)
    place = Place(tmp_path, int(time.time() - years * YEAR_S))
    assert await place.goes_on() == begins
    assert (place.authorities.coming is not None) == begins


def test_machines_of_before_there_were_steps_are_waited_for() -> None:
    every: Any = Authorities.made(int(time.time()))
    old, new = met("controller", "one"), met("controller", "two", every.held.words)
    assert behind_in((old, new, met("gateways", "two")), every) == ["one:/state"]


def since(whose: str) -> float:
    """Since when the metric says that it is waited for; NaN: it is not."""
    (metric,) = telemetry.AUTHORITY_HELD_UP.collect()
    return next((each.value for each in metric.samples if each.labels == {"whose": whose}), math.nan)


async def test_who_holds_it_up_is_named_with_the_reason_since_the_same_moment_until_it_does_not(place: Place) -> None:
    await place.goes_on()
    assert place.line is None, "what another one said before is taken away"
    put_authorities(place.paths, SETTINGS, place.authorities.begun(int(time.time())))
    began = time.time()
    await place.goes_on("gpu-1")
    first, line = since("gpu-1"), place.line
    assert first >= began
    assert line is not None
    assert line.endswith("for gpu-1 (no answer)")
    place.met = (met("gateways", "two"),)
    await place.goes_on("gpu-1", "gpu-2")
    assert since("gpu-1") == first <= since("gpu-2")
    assert line.removesuffix("for gpu-1 (no answer)") in str(place.line), "the oldest moment counts"
    assert "gpu-2 (no answer); two:/state (its controller has not said" in str(place.line)
    await place.goes_on("gpu-2")
    assert math.isnan(since("gpu-1"))
    place.met = ()
    with deploying(place.paths):
        await place.goes_on()
        first = since(CONTROLLER)
        await place.goes_on()
        assert since(CONTROLLER) == first
        assert "is deploying from" in str(place.line)
    assert await place.goes_on()
    assert place.line is None
    assert all(math.isnan(since(each)) for each in ("gpu-1", "gpu-2", "two:/state", CONTROLLER))


def test_the_line_tells_since_when_to_a_second() -> None:
    line = in_words({"gpu-1": "waits since 2001-01-01 00:00:00 UTC for nobody"}, 1_800_000_000.7)
    assert since_in(line) == 1_800_000_000
    assert since_in("") is since_in("it waits since 2026-99-99 99:99:99 UTC for gpu-1") is None


async def test_a_line_that_redis_did_not_take_is_told_again(place: Place) -> None:
    said: list[str | None] = []

    async def tell(line: str | None) -> None:
        said.append(line)
        if len(said) == 1:
            raise StoreError("away")

    held_up = HeldUp(tell, Leads().check)
    with pytest.raises(StoreError):
        await held_up.by({})
    await held_up.by({})
    assert said == [None, None]


async def test_a_line_that_who_led_before_put_there_late_goes_with_the_next_look(place: Place) -> None:
    await place.goes_on()
    assert place.line is None
    place.line = "of a controller before, whose look ended only now"
    await place.goes_on()
    assert place.line is None


async def test_who_does_not_lead_any_more_says_nothing(place: Place) -> None:
    class Led:
        def check(self) -> None:
            raise StoreError("another controller leads")

    before = place.line
    with pytest.raises(StoreError, match="another controller leads"):
        await HeldUp(place.tell, Led().check).by({"gpu-9": "no answer"})
    assert place.line == before
    assert math.isnan(since("gpu-9"))


async def test_without_redis_each_step_is_told_at_once_and_that_it_is_not_known_whom_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = StatePaths(tmp_path)
    node = {"name": "gpu-1", "address": "10.0.0.1"}
    settings = ClusterSettings.model_validate(
        {"nodes": [node], "models": {"m": {}}, "deploy": {"tls": True}, "redis": f"redis://127.0.0.1:{free_port()}"}
    )
    settings_in_use.write(paths, settings)
    put_authorities(paths, settings, Authorities.made(int(time.time())))
    told: list[StatePaths] = []

    async def tell(whom: StatePaths) -> None:
        told.append(whom)

    def found() -> Authorities:
        seen = authorities_of(paths, settings)
        assert seen is not None
        return seen

    monkeypatch.setattr(rotating, "tell_controller", tell)
    with StateLock(tmp_path) as lock:
        lock.tell("127.0.0.1:1")
        async with asyncio.timeout(WITHIN_S), aclosing(begin(paths)) as steps:
            assert await anext(steps) == rotating.in_words(found())
            assert found().coming is not None
            assert (await anext(steps)).startswith("whom it waits for is not known: Redis at redis://127.0.0.1:")
            assert told == [paths]
            while not found().is_settled:
                put_authorities(paths, settings, found().followed())
                while (said := await anext(steps)).startswith("whom it waits for"):
                    pass
                assert said == rotating.in_words(found())
            with pytest.raises(StopAsyncIteration):
                await anext(steps)
