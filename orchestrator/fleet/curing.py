"""Instances that answer nobody while others of their pool do, seen to until they answer again.

What is to be tried, and how often, is decided in `core.patience`. Here it is done, one step after the other, each said
with its reason. How an instance is asked, unloaded and restarted is its keeper's affair: a `Patient`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from orchestrator.core.errors import OrchestratorError, StoreError
from orchestrator.core.model import Event, InstanceId, Moment, PoolName
from orchestrator.core.patience import CURES_WITHIN_S, Cure, Means, Suspicion, may_be_out, next_cure

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
# What a question of one token takes on an idle instance, and many times that: it may wait behind a long prompt.
ANSWERS_WITHIN_S: Final = 10.0
# Calls under way there are waited for, as far as gateways have not given them up; meanwhile it is asked now and then.
IDLE_WITHIN_S: Final = 120.0
ASK_BUSY_S: Final = 2.0
# One that is left alone is asked so often: who runs it may have seen to it.
ASK_AGAIN_S: Final = 30.0
# A cure is a load and what is around it. One that has hung has no other end.
CURE_LOADS: Final = 10
SHORTEST_CURE_S = 60.0
EVENTS_KEPT: Final = 20

_DOING: Final = {Cure.UNLOAD: "its model is unloaded and loaded again", Cure.RESTART: "its process is restarted"}


class Patient(Protocol):
    """One instance. What it cannot do is an OrchestratorError."""

    pool: PoolName
    instance: InstanceId
    means: Means
    load_s: float  # what a load of its model takes, as far as one can tell

    def says(self, reason: str) -> None:
        """It gets no calls, and this is why."""

    async def is_idle(self) -> bool:
        """Whether no call is under way on it, as far as the store knows."""

    async def answers(self, within_s: float) -> bool:
        """Whether a question of our own is answered, however."""

    async def cure(self, cure: Cure) -> None:
        """Have it unloaded and loaded, or restarted; it can be asked when this returns."""


class Suspicions(Protocol):
    """What gateways say. All raise StoreError."""

    async def suspected(self, instances: Mapping[PoolName, Sequence[InstanceId]]) -> Mapping[InstanceId, Suspicion]: ...
    async def acquit(self, pool: PoolName, instance: InstanceId) -> None: ...


class Ward:
    """Those that are seen to now, and what was done of late. `at_most`: cures of one instance within an hour."""

    def __init__(
        self,
        store: Suspicions,
        at_most: Callable[[], int],
        on_change: Callable[[], None],
        record: Callable[[Event], None],
    ) -> None:
        self._store, self._at_most, self._on_change, self._record = store, at_most, on_change, record
        self._out: dict[InstanceId, PoolName] = {}
        self._cured_at_s: dict[InstanceId, list[float]] = defaultdict(list)
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS_KEPT)

    @property
    def events(self) -> tuple[str, ...]:
        """What was done within the last hour, for people, the oldest first."""
        since_s = time.time() - CURES_WITHIN_S
        return tuple(text for at_s, text in self._events if at_s > since_s)

    async def watch(
        self,
        serving: Callable[[], Mapping[PoolName, Sequence[InstanceId]]],
        take: Callable[[PoolName, InstanceId, Suspicion], None],
    ) -> None:
        """Until cancelled: hand over who is suspected and may be taken out, of those `serving`, by pool."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)  # a suspicion is a key, and no event
            there = serving()
            try:
                found = await self._store.suspected(there)
            except StoreError as why:
                log.debug("no suspicions are known: %s", why)
                continue
            for pool, instances in there.items():
                for each in instances:
                    if each in found and self._takes(pool, each, len(instances)):
                        take(pool, each, found[each])

    def _takes(self, pool: PoolName, instance: InstanceId, serving: int) -> bool:
        out = list(self._out.values()).count(pool)
        if instance in self._out or not may_be_out(out, serving + out):
            return False
        self._out[instance] = pool
        return True

    def drop(self, instance: InstanceId) -> None:
        """It is no longer there, or was never seen to."""
        self._out.pop(instance, None)

    async def see_to(self, patient: Patient, why: Suspicion) -> None:
        """Until it answers. Raises OrchestratorError where it fails otherwise than by silence."""
        began_s = time.monotonic()
        self._out[patient.instance] = patient.pool
        try:
            self._tell(patient, f"{why}. It gets no calls and is asked")
            if await self._answers_when_idle(patient):
                self._tell(patient, "answers when it is asked, and is left as it is")
            else:
                await self._cure(patient)
                self._tell(patient, f"answers again, after {time.monotonic() - began_s:.0f} s")
            await self._acquit(patient)
        except OrchestratorError as fault:
            self._tell(patient, f"failed while it was seen to: {fault}")
            raise
        finally:
            self.drop(patient.instance)

    async def _acquit(self, patient: Patient) -> None:
        try:
            await self._store.acquit(patient.pool, patient.instance)
        except StoreError as why:
            log.debug("%s: its suspicion ends by itself: %s", patient.instance, why)

    async def _answers_when_idle(self, patient: Patient) -> bool:
        """Calls under way may be what an answer has to wait for: only an idle one that is silent has hung."""
        until_s = time.monotonic() + IDLE_WITHIN_S
        while True:
            is_idle = await patient.is_idle() or time.monotonic() > until_s
            if await self._answers(patient, ANSWERS_WITHIN_S if is_idle else ASK_BUSY_S):
                return True
            if is_idle:
                return False

    async def _answers(self, patient: Patient, within_s: float) -> bool:
        try:
            return await patient.answers(within_s)
        except OrchestratorError as why:
            log.info("%s: asked again: %s", patient.instance, why)  # what hung may have been cut just now
            return await patient.answers(within_s)

    async def _cure(self, patient: Patient) -> None:
        """Try one thing after the other, until it answers."""
        failed: list[Cure] = []
        said = ""
        while True:
            cured_at_s = self._cured_at_s[patient.instance]
            cure, why_not = next_cure(patient.means, failed, cured_at_s, time.monotonic(), self._at_most())
            if cure is Cure.NONE:
                if why_not != said:
                    self._tell(patient, f"answers nobody, and is left alone, without calls, until it does: {why_not}")
                said = why_not
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                cured_at_s.append(time.monotonic())
                del cured_at_s[:-EVENTS_KEPT]
                await self._try(patient, cure)
                failed.append(cure)
            if await self._answers(patient, ANSWERS_WITHIN_S):
                return

    async def _try(self, patient: Patient, cure: Cure) -> None:
        self._tell(patient, f"answers nobody: {_DOING[cure]}")
        within_s = max(SHORTEST_CURE_S, CURE_LOADS * patient.load_s)
        try:
            async with asyncio.timeout(within_s):
                await patient.cure(cure)
        except OrchestratorError as why:
            self._tell(patient, f"{cure} failed: {why}")
        except TimeoutError:
            self._tell(patient, f"{cure} was not done within {within_s:.3g} s")

    def _tell(self, patient: Patient, what: str) -> None:
        patient.says(what)
        at_s = time.time()
        self._events.append((at_s, f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S} UTC {patient.instance}: {what}"))
        self._record(Event(int(at_s * 1000), Moment.SEEN_TO, f"{patient.instance}: {what}", instance=patient.instance))
        self._on_change()
