"""Budgets of all gateways together: claimed before a call, settled to what it used, corrected by what a provider says.

It knows how the scripts are asked. What a call needs, and what a refusal means, is left to the gateway; by which rules
it is decided, `core.limits` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import orjson

from orchestrator.core.limits import KINDS, Need, Refusal, Used, nano_of
from orchestrator.core.target import Budget
from orchestrator.core.told import Told
from orchestrator.store import scripts
from orchestrator.store.admission import ms
from orchestrator.store.connection import Connection
from orchestrator.store.link import Arg
from orchestrator.store.schema import budget_keys, budget_record

# Of calls or scopes in one run of a script: a longer one would hold up everybody's.
_AT_ONCE = 200
_TOLD_OF_EACH = 9


class Claim(NamedTuple):
    """What one call wants of one scope."""

    scope: str
    budget: Budget
    need: Need


class Ended(NamedTuple):
    """A call whose claims were granted, and what it used of each."""

    name: str
    claims: Sequence[Claim]
    used: Sequence[Need]


class Standing(NamedTuple):
    """One scope as it stands: why it refuses the claim, None where it does not; and what is used of it by now."""

    refusal: Refusal | None
    used: Used


class Claimed(NamedTuple):
    """What became of a call's claims: all of them granted, or none. By Redis' clock."""

    is_granted: bool
    at_ms: int
    standings: tuple[Standing, ...]


async def load(connection: Connection) -> None:
    """Let Redis know the scripts: what is settled is then there for whoever asks next."""
    await connection.load(scripts.RESERVE, scripts.SPEND, scripts.HOLD, scripts.HEED)


async def reserve(connection: Connection, name: str, claims: Sequence[Claim], ttl_s: float) -> Claimed:
    """Claim all at once, or nothing. `name` is new for each call; '' is counted and never settled. Raises StoreError.

    A call under way is counted for `ttl_s`, unless it is held on.
    """
    return await _ask(connection, name, claims, ttl_s, only_look=False)


async def look(connection: Connection, claims: Sequence[Claim]) -> tuple[Standing, ...]:
    """How scopes stand, and when what is claimed of them could be had. Changes nothing. Raises StoreError."""
    standings: list[Standing] = []
    for at in range(0, len(claims), _AT_ONCE):
        told = await _ask(connection, "", claims[at : at + _AT_ONCE], 0, only_look=True)
        standings += told.standings
    return tuple(standings)


async def _ask(connection: Connection, name: str, claims: Sequence[Claim], ttl_s: float, *, only_look: bool) -> Claimed:
    wanted = [[*_numbers(each.need), *limits_of(each.budget)] for each in claims]
    asked = orjson.dumps((name, int(only_look), ms(ttl_s), wanted))
    granted, at_ms, *told = await connection.script(scripts.RESERVE, _keys(name, claims), (asked,))
    each_told = (told[at : at + _TOLD_OF_EACH] for at in range(0, len(told), _TOLD_OF_EACH))
    return Claimed(bool(granted), at_ms, tuple(map(_standing, each_told)))


def settle(connection: Connection, ended: Sequence[Ended]) -> None:
    """Count what was truly used of each claim; not waited for, and done once however often it is asked.

    It leaves behind whatever was asked before it: a reservation whose answer nobody waited for is settled, too.
    """
    for at in range(0, len(ended), _AT_ONCE):
        some = ended[at : at + _AT_ONCE]
        keys = [key for each in some for key in _keys(each.name, each.claims)]
        asked = orjson.dumps([(each.name, [_numbers(used)[:3] for used in each.used]) for each in some])
        connection.post("settling of budgets", scripts.SPEND, keys, (asked,))


async def hold(connection: Connection, under_way: Mapping[str, Sequence[str]], ttl_s: float) -> int:
    """Keep calls counted as under way, by scope; answers how many Redis had lost. Raises StoreError."""
    anew = 0
    for scope, names in under_way.items():
        key = budget_keys(scope)[2]
        for at in range(0, len(names), _AT_ONCE):
            asked = orjson.dumps((ms(ttl_s), [names[at : at + _AT_ONCE]]))
            anew += await connection.script(scripts.HOLD, (key,), (asked,), repeat=True)
    return anew


def heed(connection: Connection, scope: str, told: Told) -> None:
    """Keep to what a provider said, every gateway; not waited for."""
    args: tuple[Arg, ...] = (
        -1 if told.retry_after_s is None else ms(told.retry_after_s),
        -1 if told.remaining_requests is None else told.remaining_requests,
        ms(told.reset_requests_s),
        -1 if told.remaining_tokens is None else told.remaining_tokens,
        ms(told.reset_tokens_s),
    )
    connection.post(f"what {scope} says of its limits", scripts.HEED, budget_keys(scope)[:2], args)


@lru_cache(maxsize=4096)
def limits_of(budget: Budget) -> tuple[int, ...]:
    """Limits in the order of the script; -1: none."""
    whole = (budget.rpm, budget.tpm, budget.concurrent, budget.rpd, budget.tpd)
    money = (None if each is None else nano_of(each) for each in (budget.usd_day, budget.usd_month))
    return tuple(-1 if each is None else each for each in (*whole, *money))


def _keys(name: str, claims: Sequence[Claim]) -> list[str]:
    return [budget_record(name), *(key for each in claims for key in budget_keys(each.scope))]


def _numbers(need: Need) -> tuple[int, int, int, int]:
    return need.requests, need.tokens or 0, need.nano or 0, int(need.holds)


def _standing(told: Sequence[int]) -> Standing:
    kind, wait_ms, *used = told
    return Standing(Refusal(KINDS[kind - 1], wait_ms) if kind else None, Used(*used))
