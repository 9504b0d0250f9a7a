"""Whose turn it is: classes before keys, keys by the tokens they were charged, a key's calls in the order they came."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from orchestrator.core.model import LeaseId
from orchestrator.store.admission import AdmitRequest, Leased, Outcome, Queued, Usage
from orchestrator.store.connection import Connection
from orchestrator.store.leases import Leases
from orchestrator.store.pools import sweep
from tests.store.playing import POOL, MakeGateway, look, offer, request
from tests.waiting import until

DAY = "2026-11-21"


def used(prompt: int, answer: int) -> Usage:
    return Usage(DAY, {}, (prompt, answer))


async def lease(leases: Leases, caller: str = "", **more: object) -> LeaseId:
    admitted = await leases.admit(request(caller=caller, **more))
    assert isinstance(admitted, Leased), admitted
    return admitted.lease


async def file(leases: Leases, caller: str, n: int = 1, **more: object) -> list[AdmitRequest]:
    """Tickets of one key, in the order they come."""
    asked = [request(caller=caller, **more) for _ in range(n)]
    for each in asked:
        assert isinstance(await leases.admit(each), Queued)
    return asked


async def next_of(leases: Leases, current: LeaseId, waiting: list[AdmitRequest], spent: Usage) -> AdmitRequest:
    """End the call that holds the only slot; who has it now."""
    before = set(leases.held) - {current}
    await leases.settle(POOL, current, Outcome.OK, usage=spent)

    async def is_told() -> bool:
        return len(set(leases.held) - before) == 1

    await until(is_told)
    (granted,) = [each for each in waiting if each.lease in leases.held]
    return granted


async def order(leases: Leases, current: LeaseId, waiting: list[AdmitRequest], spent: Usage) -> list[str]:
    """Callers in the order of their grants, until nobody waits; each call uses as many tokens."""
    left, turns = list(waiting), []
    while left:
        granted = await next_of(leases, current, left, spent)
        left.remove(granted)
        turns.append(granted.caller)
        current = granted.lease
    await leases.settle(POOL, current, Outcome.OK, usage=spent)
    return turns


async def charged(store: Connection) -> dict[str, int]:
    return {each.key: each.tokens for each in (await look(store)).keys}


async def test_keys_take_turns_however_many_calls_one_has_waiting(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    current = await lease(leases)
    waiting = await file(leases, "crowd", 5) + await file(leases, "guest", 2)
    turns = await order(leases, current, waiting, used(100, 100))
    assert sorted(turns[:4]) == ["crowd", "crowd", "guest", "guest"]
    assert turns[4:] == ["crowd"] * 3


async def test_calls_of_one_key_are_granted_in_the_order_they_came(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    current = await lease(leases)
    first, second = await file(leases, "a", 3), await file(leases, "b", 3)
    left = first + second
    while left:
        granted = await next_of(leases, current, left, used(10, 10))
        mine = [each for each in left if each.caller == granted.caller]
        assert granted is mine[0]
        left.remove(granted)
        current = granted.lease
    await leases.settle(POOL, current, Outcome.OK)


async def test_a_token_of_an_answer_counts_twice_one_of_a_prompt(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=2)
    leases = await gateway()
    for caller, spent in (("reads", used(150, 0)), ("writes", used(0, 100))):
        await leases.settle(POOL, await lease(leases, caller), Outcome.OK, usage=spent)
    tokens = await charged(store)
    # Each began where the one before stood.
    assert tokens["reads"] == 150
    assert tokens["writes"] - tokens["reads"] in (50, 200)


async def test_a_prompt_is_charged_when_its_slot_is_taken_and_corrected_at_the_end(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    held = await lease(leases, "a", prompt_tokens=500)
    assert (await charged(store))["a"] == 500
    await leases.settle(POOL, held, Outcome.OK, usage=used(400, 30))
    assert (await charged(store))["a"] == 460


async def test_a_repeated_admit_or_settle_charges_once(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    asked = request("twice", caller="a", prompt_tokens=50)
    for _ in range(3):
        assert isinstance(await leases.admit(asked), Leased)
    assert (await charged(store))["a"] == 50


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.DEAD])
async def test_a_call_that_its_instance_failed_costs_its_key_nothing(
    store: Connection, gateway: MakeGateway, outcome: Outcome
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await leases.settle(POOL, await lease(leases, "a", prompt_tokens=500), outcome)
    assert (await charged(store))["a"] == 0


async def test_a_grant_that_nobody_used_is_not_charged(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await leases.cancel(POOL, await lease(leases, "a", prompt_tokens=500))
    assert (await charged(store))["a"] == 0


async def test_a_key_that_was_away_has_saved_nothing_up(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    for _ in range(20):
        await leases.settle(POOL, await lease(leases, "busy"), Outcome.OK, usage=used(100, 100))
    current = await lease(leases, "busy")
    waiting = await file(leases, "back", 4) + await file(leases, "busy", 4)
    turns = await order(leases, current, waiting, used(100, 100))
    assert 1 <= turns[:4].count("busy") <= 3


async def test_a_higher_class_goes_first_whatever_its_key_has_used(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(priority_weight_s=600.0)
    current = await lease(leases, "heavy", prompt_tokens=10_000)
    waiting = await file(leases, "light", 1, priority=1) + await file(leases, "heavy", 2, priority=0)
    assert await order(leases, current, waiting, used(100, 100)) == ["heavy", "heavy", "light"]


async def test_a_ticket_of_a_lower_class_rises_with_time_and_is_then_a_key_among_others(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway(priority_weight_s=0.02)
    current = await lease(leases)
    (batch,) = await file(leases, "batch", 1, priority=3)
    waiting = [batch, *await file(leases, "person", 6)]

    async def has_risen() -> bool:
        await sweep(store, POOL)
        return await store.command("ZCARD", "olm:pool:{llama3.2:3b}:rises") == 0

    await until(has_risen)
    await look(store)
    assert "batch" in (await order(leases, current, waiting, used(100, 100)))[:2]


async def test_no_key_with_calls_waiting_falls_behind_by_more_than_two_calls_a_slot(
    store: Connection, gateway: MakeGateway
) -> None:
    """The bound that virtual token counters promise: two of the largest calls for each slot."""
    await offer(store, gpu_1=2)
    leases = await gateway()
    rng = random.Random(7)
    cost = {"short": (20, 10), "usual": (100, 80), "long": (300, 350)}
    largest = 300 + 2 * 350
    running = [(await lease(leases), ""), (await lease(leases), "")]
    waiting = {caller: await file(leases, caller, 3) for caller in cost}
    served: Counter[str] = Counter()
    for _ in range(150):
        at = rng.randrange(2)
        current, caller = running[at]
        tokens = cost.get(caller, (0, 0))
        left = [each for some in waiting.values() for each in some]
        granted = await next_of(leases, current, left, used(*tokens))
        if caller:
            served[caller] += tokens[0] + 2 * tokens[1]
        running[at] = (granted.lease, granted.caller)
        waiting[granted.caller].remove(granted)
        waiting[granted.caller] += await file(leases, granted.caller)
        assert max(served[each] for each in cost) - min(served[each] for each in cost) <= 2 * largest * 2
    assert min(served.values()) > 4 * largest


async def test_a_position_counts_those_of_other_keys_whose_turn_comes_before(
    store: Connection, gateway: MakeGateway
) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    await lease(leases)
    crowd = [request(caller="crowd") for _ in range(6)]
    assert [await leases.admit(each) for each in crowd] == [Queued(at) for at in range(6)]
    guest = await leases.admit(request(caller="guest"))
    assert isinstance(guest, Queued)
    assert guest.position <= 1  # not behind the crowd's six
    last = await leases.admit(crowd[5])
    assert last == Queued(6)  # its own five, and the guest
    person = await leases.admit(request(caller="other", priority=1))
    assert person == Queued(7)  # behind every ticket of a higher class


async def test_a_key_of_any_spelling_keeps_its_place(store: Connection, gateway: MakeGateway) -> None:
    await offer(store, gpu_1=1)
    leases = await gateway()
    current = await lease(leases, "şule\t1\n")
    waiting = await file(leases, "a\tb\nc", 2) + await file(leases, "a", 2) + await file(leases, "", 2)
    await look(store)
    turns = await order(leases, current, waiting, used(10, 10))
    assert Counter(turns) == {"a\tb\nc": 2, "a": 2, "": 2}
    assert set(turns[:3]) == {"a\tb\nc", "a", ""}
