"""What of a deployment stands: cards that go and come back, memory that others take, and what is placed anew for it."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.core.catalogue import find
from orchestrator.core.deployment import Deployment
from orchestrator.core.model import (
    Accelerator,
    Demand,
    Event,
    Footprint,
    GpuProcess,
    InstanceId,
    Moment,
    NodeFacts,
    NodeName,
    Placement,
    PoolName,
)
from orchestrator.core.sizing import demand_footprint
from orchestrator.fleet.inventory import Sight
from orchestrator.fleet.sightings import LASTS_S, Sightings
from orchestrator.fleet.standing import Unfit, held_on_hosts, standing

GIB = 2**30
POOL = PoolName("llama3.2:3b")
SHAPE = find(POOL)
assert SHAPE is not None
SIZE = demand_footprint(Demand(POOL, SHAPE, 4096, 2), on_gpu=True)
GONE = Unfit("RTX 4090 #0 of gpu-1 is gone", is_hopeless=True)


def card(uuid: str, free: int = 23, *processes: GpuProcess) -> Accelerator:
    return Accelerator(uuid, int(uuid[-1]), "RTX 4090", 24 * GIB, free * GIB, (24 - free) * GIB, processes)


def host(name: str, *cards: Accelerator) -> NodeFacts:
    return NodeFacts(
        NodeName(name), name, "", 8, 64 * GIB, 60 * GIB, 500 * GIB, accelerators=cards, driver_version="550"
    )


def placed(name: str, node: str, uuid: str, size: Footprint = SIZE) -> Placement:
    return Placement(InstanceId(name), POOL, NodeName(node), (uuid,), 2, 4096, size, "")


def deployed(*placements: Placement) -> Deployment:
    assert SHAPE is not None
    return Deployment(1, 0, "", placements, {POOL: SHAPE}, {POOL: "ollama f16"}, {POOL: "f16"})


A = placed("gpu-1-gpu0-llama3.2-3b-0", "gpu-1", "GPU-0")
B = placed("gpu-2-gpu0-llama3.2-3b-0", "gpu-2", "GPU-2")


def test_what_is_well_stands_as_it_was_deployed() -> None:
    now = standing(deployed(A, B), {}, {}, [host("gpu-1", card("GPU-0"))], {}, "ollama")
    assert (now.placements, dict(now.moves), now.refused) == ((A, B), {}, ())


def test_only_what_is_lost_is_placed_anew_and_the_others_stay_where_they_are() -> None:
    facts = [host("gpu-1", card("GPU-1")), host("gpu-2", card("GPU-2"))]
    now = standing(deployed(A, B), {}, {A.instance: GONE}, facts, {}, "ollama")
    assert B in now.placements
    moved = now.moves[A.instance]
    assert moved.accelerators in (("GPU-1",), ("GPU-2",))
    assert moved.instance not in (A.instance, B.instance)
    assert A.instance in moved.why
    assert set(now.placements) == {B, moved}


def test_a_move_that_was_made_stays_when_the_card_is_back() -> None:
    moved = placed("gpu-1-gpu1-llama3.2-3b-0", "gpu-1", "GPU-1")
    facts = [host("gpu-1", card("GPU-0"), card("GPU-1")), host("gpu-2", card("GPU-2"))]
    now = standing(deployed(A, B), {A.instance: moved}, {}, facts, {}, "ollama")
    assert set(now.placements) == {moved, B}
    assert now.moves == {A.instance: moved}


def test_a_move_whose_own_card_is_lost_goes_back_where_that_is_well() -> None:
    moved = placed("gpu-1-gpu1-llama3.2-3b-0", "gpu-1", "GPU-1")
    facts = [host("gpu-1", card("GPU-0"))]
    now = standing(deployed(A), {A.instance: moved}, {moved.instance: GONE}, facts, {}, "ollama")
    assert (now.placements, dict(now.moves)) == ((A,), {})


def test_where_there_is_no_room_it_is_said_and_what_may_yet_load_is_tried_on() -> None:
    full = [host("gpu-2", card("GPU-2", 1))]
    lost = standing(deployed(A), {}, {A.instance: GONE}, full, {}, "ollama")
    assert lost.placements == ()
    assert "no other card has room" in dict(lost.refused)[POOL]
    short = standing(deployed(A), {}, {A.instance: Unfit("it cannot load", is_hopeless=False)}, full, {}, "ollama")
    assert short.placements == (A,)


def test_a_model_goes_nowhere_that_the_settings_keep_it_from() -> None:
    assert SHAPE is not None
    limit = Demand(POOL, SHAPE, 4096, 2, nodes=(NodeName("gpu-1"),))
    facts = [host("gpu-2", card("GPU-2"))]
    assert standing(deployed(A), {}, {A.instance: GONE}, facts, {POOL: limit}, "ollama").placements == ()


def test_what_ours_hold_is_promised_again_and_what_strangers_hold_is_not() -> None:
    size = Footprint(6 * GIB, 0, 0, 0, 0)
    ours = placed("a", "gpu-1", "GPU-0", size)

    def held(*processes: GpuProcess, free: int) -> int:
        return held_on_hosts([host("gpu-1", card("GPU-0", free, *processes))], [ours], "ollama")["GPU-0"]

    assert held(free=18) == 6 * GIB
    assert held(GpuProcess(1, 6 * GIB, "x", "root"), free=18) == 0
    assert held(GpuProcess(1, 6 * GIB, "ollama", "ollama"), free=18) == 6 * GIB
    assert held(GpuProcess(1, 20 * GIB, "x", "root"), free=4) == 2 * GIB, "it stays, though it would not come"


class Seen:
    """A lookout's sights over time, and what was told of them."""

    def __init__(self, *placements: Placement) -> None:
        self.events: list[Event] = []
        self.changes = 0
        self.sightings = Sightings(
            record=self.events.append, on_change=self._changed, placements=lambda: placements, user=lambda: "ollama"
        )
        self._now_s = 0.0

    def _changed(self) -> None:
        self.changes += 1

    def lasts(self, facts: NodeFacts, seconds: float = LASTS_S + 1) -> None:
        self.sightings.saw(Sight(facts.node, facts))
        self.sightings.look(self._now_s)
        self._now_s += seconds
        self.sightings.look(self._now_s)

    @property
    def kinds(self) -> list[Moment]:
        return [each.kind for each in self.events]


def test_a_card_is_lost_once_it_was_away_for_a_while_and_told_of_once_each_way() -> None:
    seen = Seen(A)
    seen.lasts(host("gpu-1", card("GPU-0"), card("GPU-1")))
    seen.lasts(host("gpu-1", card("GPU-1")), 1.0)
    seen.lasts(host("gpu-1", card("GPU-0"), card("GPU-1")), 1.0)
    assert (seen.kinds, seen.changes) == ([], 0)
    lost = replace(host("gpu-1", card("GPU-1")), problems=("GPU 0 has fallen off the bus; it is left out",))
    seen.lasts(lost)
    seen.lasts(lost)
    assert "fallen off the bus" in seen.events[0].text
    assert seen.sightings.unfit([A, B], {}).keys() == {A.instance}
    seen.lasts(host("gpu-1", card("GPU-0"), card("GPU-1")))
    assert seen.kinds == [Moment.CARD_LOST, Moment.CARD_BACK]
    assert (seen.changes, seen.sightings.unfit([A], {})) == (2, {})


def test_a_driver_that_tells_nothing_and_a_host_that_is_away_have_lost_no_card() -> None:
    seen = Seen(A)
    seen.lasts(replace(host("gpu-1"), driver_version=None, problems=("the driver did not answer",)))
    seen.sightings.saw(Sight(NodeName("gpu-1"), None, "gpu-1: cannot be reached"))
    seen.sightings.look(1e6)
    assert seen.kinds == []
    assert seen.sightings.facts == ()


def test_memory_that_others_take_is_told_and_matters_to_what_then_does_not_load() -> None:
    stranger = GpuProcess(7, 22 * GIB, "python", "alice")
    seen = Seen(A)
    seen.lasts(host("gpu-1", card("GPU-0", 1, stranger)))
    assert seen.kinds == [Moment.VRAM_TAKEN]
    assert "python (pid 7 of alice)" in seen.events[0].text
    assert seen.sightings.unfit([A], {}) == {}
    unfit = seen.sightings.unfit([A], {A.instance: "load answered 500"})
    assert not unfit[A.instance].is_hopeless
    seen.lasts(host("gpu-1", card("GPU-0")))
    assert seen.kinds == [Moment.VRAM_TAKEN, Moment.VRAM_BACK]


def test_what_ours_use_themselves_is_nobody_elses() -> None:
    seen = Seen(A, A)
    used = -(-SIZE.total // GIB)
    seen.lasts(host("gpu-1", card("GPU-0", 23 - used, GpuProcess(9, SIZE.total, "ollama", "ollama"))))
    assert seen.kinds == []
