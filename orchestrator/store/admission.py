"""What is asked of a pool and what it answers, as values; and how they travel to the scripts and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from orchestrator.core.model import InstanceId, LeaseId, PoolName


class AdmitRequest(NamedTuple):
    """One call before its pool. `lease` is new for each call and names its lease or ticket from then on."""

    pool: PoolName
    lease: LeaseId
    queue_limit: int = 1000
    wait_s: float = 60.0
    priority: int = 0  # class 0 to 9, 0 goes first; a ticket rises one for each `priority_weight_s` of waiting
    affinity: str = ""  # which instance it would rather have: the one that is remembered under this
    excluded: tuple[InstanceId, ...] = ()  # tried already
    answer_key: str = ""  # digest of the whole call; empty: the cache is not asked
    may_queue: bool = True
    day: str = ""  # UTC, "2026-11-21": where cache hits and misses are counted; needed with `answer_key`
    caller: str = ""  # API key: within a class the queue is fair between these
    prompt_tokens: int = 0  # as far as one can tell; charged to the caller until the true count is known
    remembered: str = ""  # what its own instance is remembered under, once it has answered; '': as `affinity` says
    making: str = ""  # digest of a call that may share its answer with those of other workers; empty: it may not
    void: str = ""  # of these, the lease of one that proved to make no answer any more


class Why(StrEnum):
    """Why a call was refused."""

    UNKNOWN = "unknown"  # no controller has published this pool
    EMPTY = "empty"  # none of its instances is serving
    EJECTED = "ejected"  # all of them failed a moment ago
    EXCLUDED = "excluded"  # those that serve were tried already
    BUSY = "busy"  # no slot is free, and the call may not queue
    FULL = "full"  # the queue is
    LATE = "late"  # a slot would come free too late by far
    ENDED = "ended"  # this lease id was settled or withdrawn before


class Leased(NamedTuple):
    instance: InstanceId
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Queued:
    position: int  # tickets ahead
    expected_wait_s: float | None = field(default=None, compare=False)  # as slots came free lately; None: not known


class Cached(NamedTuple):
    answer: bytes


class Joined(NamedTuple):
    """The answer is being made for another worker's call, who was told to pass it on."""

    holder: str
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class Refused:
    why: Why
    depth: int  # tickets waiting
    again_s: float | None = field(default=None, compare=False)  # until it may be otherwise; None: nobody can tell


Admission = Leased | Queued | Cached | Joined | Refused


class Outcome(StrEnum):
    """What became of a call, as far as its instance is to blame or to praise."""

    OK = "ok"
    FAILED = "failed"  # the instance broke its promise
    DEAD = "dead"  # it refused the connection
    BUSY = "busy"  # it said that it takes no calls for a while
    HUNG = "hung"  # it was silent while others answered: judged by time already, so one such call is enough
    GONE = "gone"  # the client left, or the call was at fault: says nothing about the instance


@dataclass(frozen=True, slots=True)
class Ejection:
    """When an instance is left out, and for how long."""

    after_failures: int = 3  # in a row
    for_s: float = 5.0  # doubled each time in a row
    at_most_s: float = 300.0
    dead_for_s: float = 1.0  # refused connections are cheap to try again


class Kept(NamedTuple):
    """An answer for the cache. Only whole, successful ones belong there."""

    key: str
    answer: bytes
    ttl_s: float


class Usage(NamedTuple):
    """What a call cost: amounts by field (`usage.fields`), on one UTC day."""

    day: str
    counts: Mapping[str, int]
    tokens: tuple[int, int] | None = None  # of prompt and answer: what the caller's turn in the queue goes by


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def admission_of(reply: list[Any], lease: LeaseId) -> Admission:
    """The admit script's reply as a value."""
    kind = reply[0]
    if kind == b"L":
        return Leased(InstanceId(reply[1].decode()), lease)
    if kind == b"Q":
        return Queued(reply[1], _seconds(reply[2]))
    if kind == b"C":
        return Cached(reply[1])
    if kind == b"J":
        return Joined(reply[1].decode(), LeaseId(reply[2].decode()))
    return Refused(Why(reply[1].decode()), reply[2], _seconds(reply[3]))


def _seconds(told_ms: int) -> float | None:
    return None if told_ms < 0 else told_ms / 1000
