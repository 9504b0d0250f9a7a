"""Which instance the queue's script leases is what its twin in the capacity simulation says."""

from __future__ import annotations

import random

from orchestrator.core.capacity.leasing import choose_leased
from orchestrator.core.model import LeaseId
from orchestrator.store.admission import Leased, Outcome
from orchestrator.store.connection import Connection
from tests.store.playing import POOL, MakeGateway, offer, request

SLOTS = {"a": 2, "b": 4, "c": 1, "d": 4}


async def test_the_script_and_its_twin_lease_the_same_instances(store: Connection, gateway: MakeGateway):
    await offer(store, **SLOTS)
    leases = await gateway()
    names, slots, used = list(SLOTS), list(SLOTS.values()), [0] * len(SLOTS)
    rng, held = random.Random(3), list[tuple[LeaseId, int]]()
    for turn in range(150):
        expected = choose_leased(slots, used, turn)
        assert expected is not None
        admitted = await leases.admit(request())
        assert isinstance(admitted, Leased)
        assert admitted.instance == names[expected], f"call {turn}, slots in use {used}"
        used[expected] += 1
        held.append((admitted.lease, expected))
        while sum(used) == sum(slots) or (held and rng.random() < 0.45):
            lease, place = held.pop(rng.randrange(len(held)))
            await leases.settle(POOL, lease, Outcome.GONE)  # OK would have it learn how fast this machine is
            used[place] -= 1
    for lease, _ in held:
        await leases.settle(POOL, lease, Outcome.GONE)  # OK would have it learn how fast this machine is
