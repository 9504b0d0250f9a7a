"""What routes did by day, ratings that count once, and what is kept of drift and evaluations."""

from __future__ import annotations

from orchestrator.store import routed, usage
from orchestrator.store.connection import Connection
from orchestrator.store.routed import Routed
from orchestrator.store.schema import DRIFT

DAY = "2026-11-21"


async def test_routed_calls_are_read_by_route_and_day_beside_what_else_is_counted_there(store: Connection) -> None:
    for tier, why in (("small", ""), ("small", ""), ("full", "refusal"), ("full", "")):
        await usage.add(store, "auto", DAY, routed.fields(tier, why))
    await usage.add(store, "auto", DAY, usage.fields(tier="cache", cache_hits=1))
    await usage.add(store, "cached-only", DAY, usage.fields(tier="cache", cache_hits=1))
    told = await routed.read(store, DAY)
    assert told == {"auto": Routed({"small": 2, "full": 2}, {"refusal": 1})}
    assert (told["auto"].calls, told["auto"].escalations) == (4, 1)
    assert await routed.read(store, "2026-11-22") == {}
    assert (await usage.read(store, DAY))["auto"]["tier:cache:requests"] == 1


async def test_an_answer_is_rated_once(store: Connection) -> None:
    assert await routed.rate(store, "auto", DAY, "receipt-1", is_right=False)
    assert not await routed.rate(store, "auto", DAY, "receipt-1", is_right=True)
    assert await routed.rate(store, "auto", DAY, "receipt-2", is_right=True)
    assert await routed.rate(store, "other", DAY, "receipt-1", is_right=True)
    told = await routed.read(store, DAY)
    assert {name: (each.right, each.wrong) for name, each in told.items()} == {"auto": (1, 1), "other": (1, 0)}


async def test_what_is_accepted_is_learnt_anew_from_calls_to_come(store: Connection) -> None:
    assert not await routed.accept_drift(store, "auto")
    watched = {"seen": {"day": DAY, "calls": 7, "counted": 1}, "drift": {"calls": 5_000, "counted": 600}}
    await routed.keep_drift(store, "auto", {"escalations": {"alarm": "rise", "usual": 0.12, "watched": watched}})
    assert await routed.accept_drift(store, "auto")
    assert await routed.drifts(store) == {"auto": {"escalations": {"watched": {"seen": watched["seen"]}}}}
    await routed.forget_drift(store, "auto")
    assert await store.command(b"EXISTS", DRIFT) == 0


async def test_evaluations_of_targets_that_are_asked_no_more_are_forgotten(store: Connection) -> None:
    await routed.keep_replayed(store, {"small": {"accuracy": 0.5}, "full": {"accuracy": 0.9}})
    await routed.keep_replayed(store, {"full": {"accuracy": 0.8}})
    assert await routed.replayed(store) == {"full": {"accuracy": 0.8}}
