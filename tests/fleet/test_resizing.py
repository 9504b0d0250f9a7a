"""Pools of a deployment that follow their load: within what was agreed to, and with nothing left to deploy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.app import deployments
from orchestrator.app.deployed import Deployed
from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Proposal
from orchestrator.core.difference import Kind
from orchestrator.core.errors import HostError
from orchestrator.core.model import (
    Engine,
    Event,
    Instance,
    InstanceState,
    ModelOnDisk,
    Moment,
    NodeFacts,
    Placement,
    Pool,
    PoolName,
    Snapshot,
)
from orchestrator.core.numbers import AskedFor, Followed, Range
from orchestrator.core.placement.replicas import Pace
from orchestrator.fleet.following_load import FollowingLoad, Told
from orchestrator.fleet.inventory import Sight
from orchestrator.fleet.made import MARK, UNIT_PREFIX, Made, marked
from orchestrator.fleet.order import Order
from orchestrator.fleet.resizing import leaving
from orchestrator.fleet.sightings import LASTS_S, Sightings
from orchestrator.nodes.keeper_units import Unit
from orchestrator.settings import NodeSettings
from tests.fleet.test_proposing import FULL, SMALL, Hosts, kinds
from tests.fleet.world import until

MODELS = {SMALL: {"replicas": "auto", "replicas_max": 3}, FULL: {"replicas": 1}}


class Fleet(Hosts):
    """Hosts that have the models, and one controller after the other that keeps what is deployed there."""

    def __init__(self, paths: StatePaths) -> None:
        super().__init__(paths, "gpu-1", "gpu-2")
        self.have: dict[str, tuple[str, ...]] = dict.fromkeys(self.names, (SMALL, FULL))
        self.models: Mapping[str, object] = MODELS
        self.lost: set[str] = set()
        self.events: list[Event] = []
        self.next()

    def next(self) -> None:
        """A controller that knows nothing of the one before."""
        self.deployed = Deployed(self.paths, lambda: self.settings(self.models), self.events.append)
        self.sightings = Sightings(
            record=self.events.append,
            on_change=lambda: None,
            placements=lambda: self.deployed.placements,
            user=lambda: "ollama",
        )

    async def _look(self, node: NodeSettings) -> Sight:
        sight = await super()._look(node)
        if sight.facts is None:
            return sight
        models = tuple(ModelOnDisk(each, "sha256:1", 1) for each in self.have[node.name])
        cards = tuple(each for each in sight.facts.accelerators if each.uuid not in self.lost)
        return Sight(sight.node, replace(sight.facts, models=models, accelerators=cards))

    async def plan(self) -> Proposal:
        return await self.proposed(self.settings(self.models))

    async def deploy(self) -> None:
        self.run(await self.plan())
        await self.order()

    async def order(self, **numbers: int) -> Order:
        """What the controller wants, and its hosts then run; `small` and `full` are the two pools."""
        facts = [sight.facts for each in self.settings(self.models).nodes if (sight := await self._look(each)).facts]
        names = {"small": PoolName(SMALL), "full": PoolName(FULL)}
        followed = {names[each]: Followed(Range(1, 9), count) for each, count in numbers.items()}
        return self._ordered([each for each in facts if each is not None], followed)

    def _ordered(self, facts: Sequence[NodeFacts], followed: Mapping[PoolName, Followed]) -> Order:
        for now_s in (0.0, LASTS_S + 1):
            for each in facts:
                self.sightings.saw(Sight(each.node, each))
            self.sightings.look(now_s)
        order = self.deployed.order(facts, self.sightings, {}, followed)
        assert order.wanted is not None
        for node in self.names:
            self.marks[node] = {}
        for each in order.wanted.plan.placements:
            unit = Unit(UNIT_PREFIX + each.instance, ("ollama",))
            terms = order.wanted.terms[each.pool]
            self.marks[each.node][unit.name] = marked(unit, Made(each, 11500, terms, False)).env[MARK]
        return order


@pytest.fixture
async def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(StatePaths(tmp_path))
    await made.deploy()
    return made


def placed(order: Order) -> tuple[Placement, ...]:
    assert order.wanted is not None
    return order.wanted.plan.placements


def counts(order: Order) -> Counter[str]:
    return Counter(each.pool for each in placed(order))


async def test_a_plan_says_that_a_number_follows_its_load_and_between_which(tmp_path: Path) -> None:
    plan = await Fleet(StatePaths(tmp_path)).plan()
    assert plan.notes == (f"{SMALL} follows its load: 1 at least, at most 3, now 1",)


async def test_a_number_that_grew_is_no_difference_and_nothing_else_was_touched(fleet: Fleet) -> None:
    before = placed(await fleet.order())
    grown = await fleet.order(small=3)
    assert counts(grown) == {SMALL: 3, FULL: 1}
    assert set(before) <= set(placed(grown))
    assert grown.deployment == 1
    again = await fleet.plan()
    assert again.is_empty
    assert set(kinds(again)) == {Kind.KEEP}
    agreed = deployments.history(fleet.paths)[-1]
    assert len(agreed.placements) == 2, "what was agreed to is written as it was"


async def test_a_number_that_sank_again_is_no_difference_either(fleet: Fleet) -> None:
    before = placed(await fleet.order())
    await fleet.order(small=3)
    assert len(placed(await fleet.order(small=2))) == 3
    assert (await fleet.plan()).is_empty
    assert Counter(await fleet_counts(fleet, small=1)) == {SMALL: 1, FULL: 1}
    assert (await fleet.plan()).is_empty
    assert FULL in {each.pool for each in set(before) & set(placed(await fleet.order()))}


async def fleet_counts(fleet: Fleet, **numbers: int) -> Counter[str]:
    return counts(await fleet.order(**numbers))


async def test_the_next_controller_keeps_the_number(fleet: Fleet) -> None:
    grown = set(placed(await fleet.order(small=2)))
    fleet.next()
    assert set(placed(await fleet.order())) == grown


async def test_what_was_agreed_to_is_the_limit_and_a_fixed_number_is_never_another(fleet: Fleet) -> None:
    assert await fleet_counts(fleet, small=9, full=4) == {SMALL: 3, FULL: 1}
    fleet.models = {SMALL: {"replicas": "auto", "replicas_max": 8}, FULL: {"replicas": 1}}
    assert await fleet_counts(fleet, small=9) == {SMALL: 3, FULL: 1}, "the edited file was not deployed"
    assert not (await fleet.plan()).is_empty
    await fleet.deploy()
    assert await fleet_counts(fleet, small=4) == {SMALL: 4, FULL: 1}


async def test_a_lower_limit_is_a_difference_that_somebody_agrees_to(fleet: Fleet) -> None:
    await fleet.order(small=3)
    fleet.models = {SMALL: {"replicas": "auto", "replicas_max": 2}, FULL: {"replicas": 1}}
    lower = await fleet.plan()
    assert [each.pool for each in lower.difference.of(Kind.REMOVE)] == [SMALL]
    await fleet.deploy()
    assert await fleet_counts(fleet) == {SMALL: 2, FULL: 1}


async def test_numbers_of_a_deployment_before_are_over(fleet: Fleet) -> None:
    await fleet.order(small=3)
    current = deployments.current(fleet.paths)
    assert current is not None
    assert len(current.placements) == 4
    agreed = deployments.history(fleet.paths)[-1]
    deployments.write(fleet.paths, replace(agreed, number=2))
    assert await fleet_counts(fleet, small=3) == {SMALL: 1, FULL: 1}, "decided for the one before"


async def test_only_hosts_that_have_the_model_and_the_base_get_another_one(fleet: Fleet) -> None:
    (home,) = {each.node for each in placed(await fleet.order()) if each.pool == SMALL}
    fleet.have = {each: (SMALL, FULL) if each == home else () for each in fleet.names}
    grown = placed(await fleet.order(small=3))
    assert {each.node for each in grown if each.pool == SMALL} == {home}


async def test_as_many_come_as_there_is_room_for(tmp_path: Path) -> None:
    fleet = Fleet(StatePaths(tmp_path))
    large = {"replicas": "auto", "context": 65_536}  # one on a card
    fleet.models = {SMALL: large, FULL: {"replicas": 2, "hosts": 2, "context": 32_768}}
    await fleet.deploy()
    before = placed(await fleet.order())
    order = await fleet.order(small=9)
    assert counts(order) == {SMALL: 2, FULL: 2}
    assert order.due == counts(order)
    assert set(before) <= set(placed(order))


async def test_a_card_that_is_lost_for_a_while_gives_nothing_up(fleet: Fleet) -> None:
    grown = await fleet.order(small=3)
    fleet.lost = {next(each.accelerators[0] for each in placed(grown) if each.pool == SMALL)}
    fleet.next()
    lost = await fleet.order()
    assert lost.due == {SMALL: 3, FULL: 1}


async def test_damaged_numbers_are_said_with_the_way_out(fleet: Fleet) -> None:
    await fleet.order(small=3)
    (fleet.paths.root / "resized.json").write_text("{")
    with pytest.raises(HostError, match=r"resized\.json cannot be read; remove it"):
        await fleet.order()


# --- with the load ---------------------------------------------------------------------------------------------------


class Asking:
    """How the small pool is asked for."""

    def __init__(self) -> None:
        self.now = AskedFor()

    async def asked_for(self, pools: Sequence[PoolName]) -> Mapping[PoolName, AskedFor]:
        return dict.fromkeys(pools, self.now)


async def test_a_deployed_pool_grows_with_its_load_and_goes_back_and_deploy_finds_nothing_to_do(fleet: Fleet) -> None:
    asking, replan = Asking(), asyncio.Event()
    order = await fleet.order()
    told: list[str] = []

    def instances() -> list[Instance]:
        return [
            Instance(each.instance, each.node, each.pool, "", 1, Engine.OLLAMA, each.pool, each.slots, each.context,
                     state=InstanceState.SERVING)
            for each in placed(order)
        ]  # fmt: skip

    def happened(kind: Moment, text: str) -> None:
        told.append(f"{kind}: {text}")

    pace = Pace(quiet_s=0.0, quiet_loads=0.0, mean_s=0.001, look_s=0.005)
    load = FollowingLoad(asking, instances, lambda: True, lambda: pace, Told(happened, replan.set))
    load.take_up(order, {})
    task = asyncio.create_task(load.run())
    try:
        for asked, count in ((AskedFor(busy=2, queued=2, waited_s=20.0), 3), (AskedFor(), 1)):
            asking.now = asked
            await asyncio.wait_for(replan.wait(), 30)
            replan.clear()
            facts = [sight.facts for each in fleet.settings(MODELS).nodes if (sight := await fleet._look(each)).facts]
            numbers = load.numbers
            order = fleet._ordered([each for each in facts if each is not None], numbers)
            load.take_up(order, numbers)
            assert counts(order) == {SMALL: count, FULL: 1}
            assert (await fleet.plan()).is_empty
        await until(lambda: load.followed(PoolName(SMALL)) is not None, "followed")
    finally:
        task.cancel()
        await asyncio.wait((task,))
    assert told[0] == f"resized: {SMALL}: 1 → 3 instances: 2.0 of 2 slots at work, 2 waiting for 20 s"
    assert told[1].startswith(f"resized: {SMALL}: 3 → 1 instances: 1 have been enough for")
    assert load.followed(PoolName(FULL)) is None


async def test_the_next_controller_tells_the_reason_of_the_one_before(fleet: Fleet) -> None:
    order = await fleet.order(small=2)
    before = Followed(Range(1, 3), 2, "4.0 of 2 slots at work")
    pool = Pool(PoolName(SMALL), 4096, False, (), followed=before)
    for published, why in ((before, before.why), (replace(before, instances=3), "as it began")):
        snapshot = Snapshot(7, 1, (replace(pool, followed=published),), deployment=1)
        load = FollowingLoad(Asking(), tuple, lambda: True, Pace, Told(lambda kind, text: None, asyncio.Event().set))
        load.go_on_with(snapshot, {PoolName(SMALL)})
        load.take_up(order, load.numbers)
        followed = load.followed(PoolName(SMALL))
        assert followed is not None
        assert (followed.instances, followed.why) == (2, why)


# --- which go --------------------------------------------------------------------------------------------------------


async def test_the_copies_that_go_leave_the_others_spread_and_none_goes_where_nobody_sees(fleet: Fleet) -> None:
    one = next(each for each in placed(await fleet.order()) if each.pool == SMALL)

    def copy(name: str, node: str, card: str) -> Placement:
        return replace(one, instance=name, node=node, accelerators=(card,))

    copies = [copy("a", "one", "1"), copy("b", "one", "2"), copy("c", "two", "3"), copy("d", "one", "2")]
    assert leaving(copies, 1, {"one", "two"}) == {"d"}
    assert leaving(copies, 2, {"one", "two"}) == {"b", "d"}
    assert leaving(copies, 2, {"two"}) == {"c"}
