"""Pools that follow their load, in a controller with a real keeper, a real Valkey and instances that are processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest

from orchestrator.core.catalogue import find
from orchestrator.core.errors import StoreError
from orchestrator.core.model import (
    Engine,
    Footprint,
    Instance,
    InstanceId,
    InstanceState,
    LeaseId,
    Moment,
    NodeName,
    Placement,
    PlacementPlan,
    PoolName,
    Snapshot,
)
from orchestrator.core.numbers import AskedFor, Followed, Range
from orchestrator.core.placement.replicas import Pace
from orchestrator.fleet.following_load import FollowingLoad, Told
from orchestrator.fleet.order import Order
from orchestrator.fleet.wanted import Wanted
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Queued
from orchestrator.store.leases import Leases
from tests.fleet.world import FULL, SMALL, TIMEOUT_S, Controller, World, never_silent, settings_of, states, until

# As it is in a cluster, with a minute taken for a moment.
QUICK = Pace(quiet_s=0.2, quiet_loads=0.0, mean_s=0.05, look_s=0.05, again_s=0.2)
NEVER_FEWER = replace(QUICK, quiet_s=3600.0)


class Callers:
    """Calls that hold their slots until they are let go."""

    def __init__(self, leases: Leases) -> None:
        self.leases, self.held = leases, dict[LeaseId, Leased]()
        self.waiting: dict[LeaseId, asyncio.Task[None]] = {}
        self._pools: dict[LeaseId, PoolName] = {}

    async def ask(self, calls: int, pool: str = SMALL) -> set[InstanceId]:
        """The instances that have them; the others wait."""
        found = set()
        for _ in range(calls):
            call = LeaseId(f"call-{len(self._pools)}")
            self._pools[call] = PoolName(pool)
            admitted = await self.leases.admit(AdmitRequest(PoolName(pool), call))
            if isinstance(admitted, Queued):
                self.waiting[call] = asyncio.create_task(self._wait(call))
                continue
            assert isinstance(admitted, Leased)
            self.held[call] = admitted
            found.add(admitted.instance)
        return found

    async def _wait(self, call: LeaseId) -> None:
        leased = await self.leases.wait(self._pools[call], call, TIMEOUT_S)
        assert leased is not None
        self.held[call] = leased

    async def answered(self) -> set[InstanceId]:
        """The instances of those that waited, once each has its slot."""
        waited = list(self.waiting)
        await asyncio.gather(*self.waiting.values())
        return {self.held[call].instance for call in waited}

    async def let_go(self, *, but: str = "") -> None:
        """End all calls; of those on the instance `but`, one goes on."""
        for call, task in self.waiting.items():
            task.cancel()
            await asyncio.wait((task,))
            if call not in self.held:
                await self.leases.cancel(self._pools[call], call)
        self.waiting.clear()
        kept = next((call for call, leased in self.held.items() if leased.instance == but), None)
        for call in [each for each in self.held if each != kept]:
            del self.held[call]
            await self.leases.settle(self._pools[call], call, Outcome.OK)


@pytest.fixture
async def callers(world: World) -> AsyncIterator[Callers]:
    leases = Leases(world.connection, "gateway.1", 30.0)
    await leases.start()
    made = Callers(leases)
    yield made
    await made.let_go()
    await leases.close()


def auto(**more: int) -> dict[str, object]:
    return {"replicas": "auto", **more}


def resized(world: World) -> list[str]:
    return [each.text for each in world.happened if each.kind is Moment.RESIZED]


def notes(controller: Controller) -> str:
    return "\n".join(controller.store.snapshots[-1].notes)


def wanted(snapshot: Snapshot, pool: str = SMALL) -> int | None:
    found = snapshot.pool(pool)
    return found.followed.instances if found is not None and found.followed is not None else None


async def test_calls_that_wait_bring_an_instance_that_serves_them_and_it_goes_once_it_is_not_needed(
    world: World, callers: Callers
) -> None:
    world.settings, world.pace = settings_of(small=auto(replicas_max=2)), NEVER_FEWER
    controller = await world.serving(2)
    first = await callers.ask(4)
    new = await callers.answered()
    assert len(callers.held) == 4, "each has its slot"
    assert (len(first), len(new), first & new) == (1, 1, set())
    assert "1 → 2 instances: " in resized(world)[0]
    await until(lambda: controller.slots() == 4, "both serve", controller)

    seen, world.pace = len(controller.store.snapshots), QUICK
    gone = max(world.pids())
    await callers.let_go(but=gone)
    await until(lambda: InstanceState.DRAINING in states(controller), "one gets no more calls", controller)
    assert gone in world.pids(), "its last call has not ended"
    await callers.let_go()
    await until(lambda: len(world.pids()) == 1, "it ends after its last call", controller)
    assert "2 → 1 instances: 1 have been enough" in resized(world)[1]
    assert never_silent(controller.store.snapshots[seen:])
    assert len(resized(world)) == 2, "nothing goes to and fro"


async def test_a_pool_never_leaves_its_range_and_a_fixed_number_follows_no_load(world: World, callers: Callers) -> None:
    world.settings, world.pace = settings_of(small=auto(replicas_min=2, replicas_max=3), full={"replicas": 1}), QUICK
    controller = await world.serving(4)
    await until(lambda: controller.slots(FULL) == 2, "both pools serve", controller)
    for pool in (SMALL, FULL):
        await callers.ask(12, pool)
    await until(lambda: controller.slots() == 6, "as many as may be", controller)
    seen = len(controller.store.snapshots)
    await until(lambda: len(controller.store.snapshots) > seen + 1, "looked at again and again", controller)
    assert (controller.slots(), controller.slots(FULL)) == (6, 2)
    assert wanted(controller.store.snapshots[-1], FULL) is None
    await callers.let_go()
    await until(lambda: controller.slots() == 4, "as few as may be", controller)
    assert resized(world)[-1].startswith(f"{SMALL}: 3 → 2 instances")


async def test_a_restarted_controller_goes_on_with_the_number_that_its_pool_has(world: World, callers: Callers) -> None:
    world.settings, world.pace = settings_of(small=auto(replicas_max=2)), NEVER_FEWER
    first = await world.serving(2)
    await callers.ask(4)
    await until(lambda: first.slots() == 4, "two serve", first)
    pids, why = world.pids(), first.store.snapshots[-1].pool(SMALL).followed.why  # type: ignore[union-attr]
    await callers.answered()
    await callers.let_go()
    await first.kill()
    second = await world.controller()
    await until(lambda: len(second.store.snapshots) > 3, "published by the next one", second)
    assert {wanted(each) for each in second.store.snapshots} == {2}
    assert world.pids() == pids
    assert second.store.snapshots[-1].pool(SMALL).followed.why == why  # type: ignore[union-attr]
    assert never_silent(second.store.snapshots)
    assert len(resized(world)) == 1


async def test_a_restarted_controller_whose_redis_lost_everything_goes_on_with_what_runs(
    world: World, callers: Callers
) -> None:
    world.settings, world.pace = settings_of(small=auto(replicas_max=2)), NEVER_FEWER
    first = await world.serving(2)
    await callers.ask(4)
    await until(lambda: first.slots() == 4, "two serve", first)
    pids = world.pids()
    await first.kill()
    await world.connection.command("FLUSHALL")
    second = await world.serving(4)
    assert (wanted(second.store.snapshots[-1]), world.pids()) == (2, pids)


async def test_what_does_not_fit_is_said_once_and_comes_when_there_is_room(world: World, callers: Callers) -> None:
    small, full = auto(context=65_536, replicas_max=2), {"context": 32_768}  # a card holds one or the other
    world.settings, world.pace = settings_of(small=small, full=full), NEVER_FEWER
    controller = await world.serving(2)
    await until(lambda: controller.slots(FULL) == 2, "both pools serve", controller)
    before = world.pids()
    await callers.ask(4)
    await until(lambda: "its load asks for 2 instances, and there is room for 1" in notes(controller), "said")
    tried = len(controller.store.snapshots)
    await until(lambda: len(controller.store.snapshots) > tried + 2, "tried again", controller)
    assert notes(controller).count("its load asks for") == 1
    assert (resized(world), world.pids()) == ([], before), "nothing that runs is moved for it"
    world.settings = settings_of(small=small)
    controller.steward.replan()
    await until(lambda: controller.slots() == 4, "there is room", controller)
    await until(lambda: "its load asks for" not in notes(controller), "nothing is missing any more", controller)


# --- what is seen, without instances ---------------------------------------------------------------------------------


class Played:
    """How a pool is asked for, as a test says; None: the store is away."""

    def __init__(self) -> None:
        self.asked: AskedFor | None = AskedFor()
        self.looks, self.replans = 0, 0
        self.state = InstanceState.SERVING
        self.pace = replace(QUICK, look_s=0.005)
        self.load = FollowingLoad(
            self, self.instances, lambda: True, lambda: self.pace, Told(lambda kind, text: None, self.replanned)
        )
        self.order(2)

    def order(self, placed: int, least: int = 1, numbers: Mapping[PoolName, Followed] | None = None) -> None:
        shape = find(SMALL)
        assert shape is not None
        size = Footprint(1, 1, 1, 1, 1)
        placements = tuple(
            Placement(InstanceId(f"i-{n}"), PoolName(SMALL), NodeName("a"), (), 4, 4096, size, "")
            for n in range(placed)
        )
        ranges = {PoolName(SMALL): Range(least, 4, foretold=10.0)}
        wanted = Wanted(PlacementPlan(placements), {SMALL: shape}, {}, ranges=ranges)
        self.load.take_up(Order(wanted), self.load.numbers if numbers is None else numbers)
        self.placed = placed

    def instances(self) -> list[Instance]:
        return [
            Instance(InstanceId(f"i-{n}"), NodeName("a"), PoolName(SMALL), "", 1, Engine.OLLAMA, SMALL, 4, 4096,
                     state=self.state if n else InstanceState.SERVING, load_s=0.1)
            for n in range(self.placed)
        ]  # fmt: skip

    def replanned(self) -> None:
        self.replans += 1

    async def asked_for(self, pools: Sequence[PoolName]) -> Mapping[PoolName, AskedFor]:
        self.looks += 1
        if self.asked is None:
            raise StoreError("away")
        return {PoolName(SMALL): self.asked}

    @property
    def number(self) -> int:
        return self.load.numbers[PoolName(SMALL)].instances

    async def looked(self) -> None:
        """A few looks later."""
        until_looks = self.looks + 5
        await until(lambda: self.looks >= until_looks, "looked at")


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    made = Played()
    task = asyncio.create_task(made.load.run())
    yield made
    task.cancel()
    await asyncio.wait((task,))


async def test_a_time_in_which_nobody_knows_the_load_is_no_quiet_while(played: Played) -> None:
    played.pace = replace(played.pace, quiet_s=3600.0)
    await played.looked()
    played.asked = None
    await played.looked()
    assert played.load.followed(PoolName(SMALL)) is not None
    assert (played.number, played.replans) == (2, 0)
    played.pace = replace(played.pace, quiet_s=0.0)
    await played.looked()
    assert played.number == 2
    played.asked = AskedFor()
    await until(lambda: played.number == 1, "quiet, now that it is known")


async def test_what_is_on_its_way_is_awaited_before_more_is_wanted(played: Played) -> None:
    played.state, played.asked = InstanceState.LOADING, AskedFor(busy=8, queued=9, waited_s=60.0)
    await played.looked()
    assert (played.number, played.replans) == (2, 0)
    played.state = InstanceState.SERVING
    await until(lambda: played.number == 4, "more, as it did not do")
    assert played.replans == 1


async def test_what_was_decided_while_a_plan_was_made_is_not_taken_for_what_it_refused(played: Played) -> None:
    played.asked = AskedFor(busy=8)
    await until(lambda: played.number == 3, "one more")
    planned = played.load.numbers
    played.asked = AskedFor(busy=8, queued=3, waited_s=60.0)
    await until(lambda: played.number == 4, "and one more")
    played.order(3, numbers=planned)
    followed = played.load.followed(PoolName(SMALL))
    assert followed is not None
    assert (followed.instances, played.number, played.load.notes) == (3, 4, ())


async def test_a_line_that_is_soon_worked_off_is_worth_no_instance(played: Played) -> None:
    played.asked = AskedFor(busy=5, queued=9, waited_s=60.0, expected_s=0.4)
    await played.looked()
    assert played.number == 2
    played.asked = AskedFor(busy=5, queued=9, waited_s=60.0, expected_s=30.0)
    await until(lambda: played.number == 4, "worth some")


async def test_fewer_than_its_least_are_placements_affair_and_no_load(played: Played) -> None:
    played.order(2, least=3)
    await played.looked()
    assert (played.number, played.replans) == (2, 0)


async def test_a_number_without_room_is_not_asked_for_at_every_look(played: Played) -> None:
    played.pace = replace(played.pace, again_s=3600.0)
    played.asked = AskedFor(busy=8, queued=9, waited_s=60.0)
    await until(lambda: played.number == 4, "more is wanted")
    played.order(3)
    assert played.number == 3
    assert played.load.notes == (
        f"{SMALL}: its load asks for 4 instances, and there is room for 3; free memory of a card, add one, or ask for "
        "less elsewhere",
    )
    await played.looked()
    assert (played.number, played.replans) == (3, 1)
    played.pace = replace(played.pace, again_s=0.0)
    played.asked = AskedFor()
    await until(lambda: played.number == 1, "fewer are enough")
