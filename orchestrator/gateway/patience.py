"""Which instances are silent for longer than they may be, watched by one look a worker at all that is under way.

It knows each exchange until its call has ended, and when bytes came. What is too long is decided in `core.patience`; a
call whose exchange it ends is asked elsewhere by `pipeline`, as after any failure before the first byte.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from orchestrator import telemetry
from orchestrator.core.model import Call, Instance, InstanceId, InstanceState, PoolName
from orchestrator.core.patience import (
    LONE_TIMES,
    Asked,
    History,
    Suspicion,
    allowed_silence_s,
    asked_of,
    measure_of,
)
from orchestrator.gateway.live import Live
from orchestrator.gateway.upstream import Exchange

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.25
# As long as an instance is silent it is said again, more often than a suspicion is kept.
SAY_AGAIN_S: Final = 5.0

Suspect = Callable[[PoolName, InstanceId, Suspicion], None]


class Attempt:
    """One call at one instance. `exchange` is there once its request has gone out."""

    __slots__ = (
        "_at",
        "_body_bytes",
        "_call",
        "_failures",
        "_sent_s",
        "clock_s",
        "exchange",
        "is_answered",
        "is_last",
        "left",
    )

    def __init__(self, at: _Instance, call: Call, body_bytes: int, failures: int, is_last: bool) -> None:
        self._at, self._call, self._body_bytes, self._failures = at, call, body_bytes, failures
        self.clock_s = at.clock_s
        self.exchange: Exchange | None = None
        self.left: Exchange | None = None  # within a stream, by a client that went away
        self.is_answered = False
        self.is_last = is_last
        at.attempts.add(self)

    def sent(self, exchange: Exchange) -> None:
        """Its request has just gone out."""
        self.exchange, self._sent_s = exchange, exchange.last_read_s

    def answered(self) -> None:
        """Its first byte came just now, or where it is not streamed all of it."""
        exchange, at = self.exchange, self._at
        assert exchange is not None, "nothing is answered that was not asked"
        self.is_answered = True
        at.answered_s = now_s = exchange.last_read_s
        if exchange.head.status == 200:  # a refusal takes no time, and says nothing of answers
            kind, size = measure_of(self._call, self._body_bytes)
            at.history.add(kind, size, now_s - self._sent_s)

    def leave(self, exchange: Exchange) -> None:
        """Nobody wants the rest of its stream."""
        self.left = exchange

    def ended(self) -> None:
        """Whatever became of it."""
        at, exchange = self._at, self.exchange
        at.attempts.discard(self)
        if exchange is not None and exchange.was_answered and exchange.last_read_s > at.life_s:
            at.life_s = exchange.last_read_s

    @property
    def asked(self) -> Asked:
        """The call as far as it decides how long it may take."""
        return asked_of(self._call, self._body_bytes, self._failures)


class _Instance:
    """What was seen of one instance. `clock_s` counts the time in which others of its pool answered, and no other."""

    __slots__ = ("answered_s", "attempts", "clock_at_life_s", "clock_s", "history", "id", "known_s", "life_s", "said_s")

    def __init__(self, id: InstanceId, history: History) -> None:
        self.id, self.history = id, history
        self.attempts: set[Attempt] = set()
        self.answered_s = self.life_s = self.known_s = self.said_s = float("-inf")
        self.clock_s = self.clock_at_life_s = 0.0

    def look(self) -> list[Attempt]:
        """Take in what came since the last look; those that wait for a first byte."""
        waiting = []
        for each in self.attempts:
            exchange = each.exchange
            if exchange is None:
                continue
            if not exchange.was_answered:
                waiting.append(each)
            elif (read_s := exchange.last_read_s) > self.life_s:
                self.life_s = read_s
                if each.is_answered:
                    self.answered_s = max(self.answered_s, read_s)
        self.life_s = max(self.life_s, self.answered_s)
        if self.life_s > self.known_s:
            self.known_s, self.clock_at_life_s = self.life_s, self.clock_s
        return waiting

    def silent_s(self, waiting: Iterable[Attempt]) -> float:
        """How long it gave no byte to anybody, while others answered."""
        return self.clock_s - max(self.clock_at_life_s, min(each.clock_s for each in waiting))


class Patience:
    """One worker's. `suspect` is told of an instance that is silent for too long, now and then while it is."""

    def __init__(self, live: Live, suspect: Suspect) -> None:
        self._live, self._suspect = live, suspect
        self._pools: dict[PoolName, tuple[History, dict[InstanceId, _Instance]]] = {}
        self._instances: dict[InstanceId, _Instance] = {}  # the same, without a way through their pools
        self._looked_s: float | None = None
        self._version = 0

    def begin(
        self, pool: PoolName, instance: Instance, call: Call, body_bytes: int, failures: int, is_last: bool
    ) -> Attempt:
        """A call goes to an instance. `is_last`: it goes nowhere else afterwards, so it is never given up."""
        at = self._instances.get(instance.id)
        if at is None:
            history, instances = self._pools.setdefault(pool, (History(), {}))
            at = self._instances[instance.id] = instances[instance.id] = _Instance(instance.id, history)
        return Attempt(at, call, body_bytes, failures, is_last)

    async def watch(self) -> None:
        """Look every LOOK_EVERY_S, until cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look(now_s())

    def look(self, now_s: float) -> None:
        """See who is silent for too long, and give up the calls that wait there."""
        # While this process itself stood still, bytes have come that it has not read yet.
        passed_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, 2 * LOOK_EVERY_S)
        self._looked_s = now_s
        at_least_s = self._live.rules.limits.hang_s
        for pool, (history, instances) in self._pools.items():
            waiting = {each: found for each in instances.values() if (found := each.look())}
            if waiting and at_least_s:
                if self._is_lone(pool):
                    for each in instances.values():
                        each.clock_s += passed_s / LONE_TIMES
                else:
                    _pass_time(instances.values(), history.window_s(at_least_s), passed_s, now_s)
                for each, attempts in waiting.items():
                    self._judge(pool, each, attempts, at_least_s, now_s)
        if self._live.snapshot.version != self._version:
            self._version = self._live.snapshot.version
            self._forget_gone()

    def _judge(
        self, pool: PoolName, instance: _Instance, waiting: list[Attempt], at_least_s: float, now_s: float
    ) -> None:
        silent_s = instance.silent_s(waiting)
        if silent_s <= at_least_s:
            return
        allowed_s = allowed_silence_s(instance.history, (each.asked for each in waiting), at_least_s)
        if allowed_s is None or silent_s <= allowed_s:
            return
        is_lone = self._is_lone(pool)
        times = LONE_TIMES if is_lone else 1.0
        seen = Suspicion(round(silent_s * times, 2), round(allowed_s * times, 2), len(waiting), is_lone)
        if now_s - instance.said_s >= SAY_AGAIN_S:
            instance.said_s = now_s
            log.warning("%s: %s", instance.id, seen)
            self._suspect(pool, instance.id, seen)
        for each in waiting:
            if not each.is_last and each.exchange is not None:
                telemetry.TALLY.count(telemetry.GIVEN_UP, (pool,))
                each.exchange.fail(f"silent for {silent_s:.1f} s while others answered", is_hung=True)
                each.exchange.close()

    def _is_lone(self, name: PoolName) -> bool:
        pool = self._live.pool(name)
        return pool is not None and sum(each.state is InstanceState.SERVING for each in pool.instances) == 1

    def _forget_gone(self) -> None:
        """What is no longer published, and has no call."""
        for name, (_, instances) in list(self._pools.items()):
            pool = self._live.pool(name)
            there = {each.id for each in pool.instances} if pool is not None else set()
            for id in [id for id, each in instances.items() if id not in there and not each.attempts]:
                del instances[id], self._instances[id]
            if not instances and pool is None:
                del self._pools[name]


def _pass_time(instances: Collection[_Instance], window_s: float, passed_s: float, now_s: float) -> None:
    """Let each one's time pass, if another of its pool answered not long ago."""
    answering = [each for each in instances if now_s - each.answered_s <= window_s]
    for each in instances:
        if any(other is not each for other in answering):
            each.clock_s += passed_s
