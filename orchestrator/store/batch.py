"""What one gateway's calls want of a pool in one turn of its loop, gathered for one run of the script `calls`.

It knows how the script is asked; when it leaves is left to `batches`, what is asked to `leases`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from functools import lru_cache
from struct import Struct, pack
from typing import Any, NamedTuple, Protocol, TypeVar

from orchestrator.core.errors import StoreError
from orchestrator.core.model import InstanceId, LeaseId, PoolName
from orchestrator.store.admission import AdmitRequest, Ejection, Kept, Leased, Outcome, Usage, ms
from orchestrator.store.link import Arg
from orchestrator.store.schema import pool_affinity, pool_answer, pool_keys, pool_making, pool_usage

T = TypeVar("T")

log = logging.getLogger(__name__)

USAGE_KEPT_S = 40 * 86_400
# What a token of an answer counts beside one of a prompt: it takes a turn of the engine by itself (weights of Sheng et
# al., "Fairness in Serving Large Language Models", OSDI 2024).
ANSWER_TOKEN = 2
LAST_CLASS = 9
# Lua takes some thousand values at once, and a longer run would hold up everybody's.
CALLS_AT_MOST = 256
# The numbers of a call and of the gateway, as the script takes them apart.
_OF_A_CALL = Struct("<10d")
_OF_A_GATEWAY = Struct("<8d")
_BEFORE_ANSWERS = 3  # arguments


class Held(NamedTuple):
    """A lease of this gateway, on a call that has not been settled."""

    pool: PoolName
    instance: InstanceId
    affinity: str = ""
    caller: str = ""
    making: str = ""  # digest of the call whose answer it makes, for who else asks it


class Count(Protocol):
    """Told of every slot as a call of this gateway takes it and gives it back."""

    def took(self, instance: InstanceId) -> None: ...

    def gave(self, instance: InstanceId, hold_s: float) -> None:
        """`hold_s`: the engine works on that much longer."""


def terms(holder: str, ttl_s: float, *, priority_weight_s: float, ejection: Ejection, affinity_ttl_s: float) -> bytes:
    """What the script is told of the gateway that asks, as its head says."""
    numbers = _OF_A_GATEWAY.pack(
        ms(ttl_s),
        round(priority_weight_s * 1_000_000),
        ejection.after_failures,
        ms(ejection.for_s),
        ms(ejection.at_most_s),
        ms(ejection.dead_for_s),
        ms(affinity_ttl_s),
        USAGE_KEPT_S,
    )
    return numbers + _texts([holder])


class Batch:
    """The calls of one pool that leave together."""

    __slots__ = ("_answers", "_by", "_came", "_ended", "_keys", "_pool", "_replies", "_settled")

    def __init__(self, pool: PoolName, by: bytes) -> None:
        self._pool, self._by = pool, by
        self._keys = _places(pool).copy()
        self._ended: list[bytes] = []
        self._came: list[bytes] = []
        self._answers: list[bytes] = []
        self._replies: list[asyncio.Future[Any]] = []  # for each that came
        self._settled: list[asyncio.Future[None]] = []  # for each that ended and is waited for

    @property
    def is_full(self) -> bool:
        return len(self._ended) + len(self._came) >= CALLS_AT_MOST

    def admit(self, request: AdmitRequest, waited_s: float, reply: asyncio.Future[Any]) -> None:
        key, pool = self._key, request.pool
        numbers = _OF_A_CALL.pack(
            request.queue_limit,
            ms(request.wait_s),
            ms(waited_s),
            min(max(request.priority, 0), LAST_CLASS),
            request.prompt_tokens,
            request.may_queue,
            key(pool_affinity(pool, request.affinity)) if request.affinity else 0,
            key(pool_answer(pool, request.answer_key)) if request.answer_key else 0,
            key(pool_usage(pool, request.day)) if request.answer_key else 0,
            key(pool_making(pool, request.making)) if request.making else 0,
        )
        excluded = "\t".join(("", *request.excluded, "")) if request.excluded else ""
        texts = (request.lease, on_one_line(request.caller), excluded, request.void, "")
        self._came.append(numbers + "\0".join(texts).encode())
        self._replies.append(reply)

    def settle(
        self,
        lease: LeaseId,
        held: Held,
        outcome: Outcome,
        hold_s: float,
        answer: Kept | None,
        usage: Usage | None,
        done: asyncio.Future[None] | None = None,
        alone_s: float = 0.0,
    ) -> None:
        key, pool = self._key, held.pool
        counts = usage.counts if usage is not None else {}
        if answer is not None:
            self._answers.append(answer.answer)
        numbers = _OF_A_CALL.pack(
            ms(hold_s) if hold_s else 0,
            -1 if usage is None or usage.tokens is None else usage.tokens[0] + ANSWER_TOKEN * usage.tokens[1],
            key(pool_affinity(pool, held.affinity)) if held.affinity else 0,
            0 if usage is None else key(pool_usage(pool, usage.day)),
            0 if answer is None else key(pool_answer(pool, answer.key)),
            len(self._answers) + _BEFORE_ANSWERS,
            0 if answer is None else ms(answer.ttl_s),
            key(pool_making(pool, held.making)) if held.making else 0,
            ms(alone_s) if alone_s else 0,
            len(counts),
        )
        op = numbers + "\0".join((lease, held.instance, outcome, held.caller, "")).encode()
        if counts:
            op += pack(f"<{len(counts)}d", *counts.values()) + _texts(counts)
        self._ended.append(op)
        if done is not None:
            self._settled.append(done)

    def asked(self) -> tuple[list[str | bytes], list[Arg]]:
        """Keys and arguments of the script."""
        return list(self._keys), [self._by, b"".join(self._ended), b"".join(self._came), *self._answers]

    def told(self, replies: Any, why: StoreError | None) -> None:
        """What the script answered, or why it did not: to all who wait for it and have not left."""
        if why is not None:
            for each in (*self._replies, *self._settled):
                if not each.done():
                    each.set_exception(why)
            if len(self._settled) < len(self._ended):
                log.warning("%s: %d calls ended, and Redis was not told: %s", self._pool, len(self._ended), why)
            return
        for waiter, reply in zip(self._replies, replies, strict=True):
            if not waiter.done():
                waiter.set_result(reply)
        for each in self._settled:
            if not each.done():
                each.set_result(None)

    def _key(self, key: str) -> int:
        """A key's place among those of the script."""
        keys = self._keys
        return keys.setdefault(key, len(keys) + 1)


@lru_cache(maxsize=4096)
def _places(pool: PoolName) -> dict[str | bytes, int]:
    """The places of the keys that every script of the pool takes; to be copied."""
    return {key: place for place, key in enumerate(pool_keys(pool), 1)}


def _texts(texts: Collection[str]) -> bytes:
    """As the script takes them apart: each ends with a zero byte, which is in none."""
    text = "\0".join((*texts, ""))
    if text.count("\0") > len(texts):
        text = "\0".join((*(each.replace("\0", " ") for each in texts), ""))
    return text.encode()


def on_one_line(caller: str) -> str:
    """As the scripts can keep it among other fields."""
    return caller if caller.isprintable() else "".join(each if each.isprintable() else " " for each in caller)


def held_of(request: AdmitRequest, leased: Leased) -> Held:
    """What a call holds that was granted a slot."""
    remembered = request.remembered or request.affinity
    return Held(request.pool, leased.instance, remembered, on_one_line(request.caller), request.making)


def in_parts(values: list[T]) -> Iterator[list[T]]:
    """A few hundred at a time: a longer script would hold up everybody's."""
    return (values[at : at + 500] for at in range(0, len(values), 500))
