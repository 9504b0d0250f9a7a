"""Who shares a Redis: heard of while they say so, forgotten by time; and files that all of them are to have."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.errors import StoreError
from orchestrator.core.members import Member
from orchestrator.store import kept, members
from orchestrator.store.cluster import lead
from orchestrator.store.connection import Connection
from orchestrator.store.kept import Kept
from orchestrator.store.members import gateways_of, leader, leaving, meet, who_is_there
from orchestrator.store.schema import MEMBERS
from tests.waiting import until

ONE, TWO = Member("1f0c", "one:/srv/state folder", 2), Member("a77b", "two:/srv", 3, is_bound=True)


async def test_everybody_hears_of_everybody_and_a_place_has_gateways_and_a_controller(store: Connection) -> None:
    await meet(store, "gateways", ONE)
    await meet(store, "controller", ONE)
    met = await meet(store, "gateways", TWO)
    assert set(gateways_of(met)) == {ONE, TWO}
    assert {(each.kind, each.member.place) for each in met} == {
        ("gateways", "1f0c"),
        ("controller", "1f0c"),
        ("gateways", "a77b"),
    }
    assert all(0 <= each.heard_s < 60 for each in met)
    assert len(await who_is_there(store)) == 3


async def test_who_is_silent_for_its_time_is_forgotten(store: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "TTL_S", {"gateways": 0.02, "controller": 60.0})
    await meet(store, "gateways", ONE)
    await meet(store, "controller", TWO)

    async def is_gone() -> bool:
        return [each.member for each in await who_is_there(store)] == [TWO]

    await until(is_gone)
    assert await store.command("HLEN", MEMBERS) == 1


async def test_who_leaves_is_gone_at_once(store: Connection) -> None:
    await meet(store, "controller", ONE)
    await leaving(store, "controller", ONE.place)
    assert await who_is_there(store) == ()


async def test_the_leader_is_known_by_its_place(store: Connection) -> None:
    assert await leader(store) == ""
    await lead(store, ONE.place, 600)
    assert await leader(store) == ONE.place


async def test_what_makes_no_sense_is_an_error(store: Connection) -> None:
    await store.command("HSET", MEMBERS, "gateways:x", "1 99999999999999 {}")
    with pytest.raises(StoreError, match="gateways:x"):
        await who_is_there(store)


async def test_a_file_is_put_where_what_lies_there_is_what_one_knew(store: Connection) -> None:
    assert await kept.version(store) == kept.Version()
    first, second = Kept(0, "d1", b"one \n two"), Kept(1, "d2", b"")
    assert await kept.put(store, "moves.json", None, first)
    assert await kept.put(store, "moves.json", None, first)  # the answer was lost: nothing changes twice
    assert (await kept.version(store)).number == 1
    assert not await kept.put(store, "moves.json", Kept(1, "d1", b""), second)
    assert await kept.read(store) == {"moves.json": first}
    assert await kept.put(store, "moves.json", first, second)
    assert await kept.read(store) == {"moves.json": second}
    assert await kept.put(store, "moves.json", second, Kept(2, "d2", None))
    assert await kept.read(store) == {"moves.json": Kept(2, "d2", None)}
    assert (await kept.version(store)).number == 3
    assert (await kept.version(store)).epoch


async def test_of_those_who_put_a_file_at_once_one_does(store: Connection) -> None:
    done = await asyncio.gather(*(kept.put(store, "f", None, Kept(1, f"d{n}", b"")) for n in range(8)))
    assert sum(done) == 1
