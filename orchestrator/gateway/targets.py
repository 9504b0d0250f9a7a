"""Which target answers a call: the tiers of its route in turn, and how long it waits where none can at this moment."""

from __future__ import annotations

import logging
import time

from orchestrator.core.cache_policy import Standing
from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError
from orchestrator.core.model import InstanceState
from orchestrator.gateway.answer_cache import Given
from orchestrator.gateway.asked import TRIES, Asked
from orchestrator.gateway.asking import Asking, GiveKept
from orchestrator.gateway.live import Live
from orchestrator.gateway.replies import Reply

log = logging.getLogger(__name__)

# A pool whose instances are all being restarted is asked again when it is published anew, and this often besides:
# the end of an ejection is not published.
ASK_AGAIN_S = 1.0
# Between the end of a pool's only instance and the start of the one in its place there is none; a pool that could not
# be placed has none either, and its callers are told so after this.
WITHOUT_INSTANCES_S = 10.0


class Targets:
    """The tiers of the settings, asked for calls."""

    def __init__(self, live: Live, asking: Asking, give_kept: GiveKept) -> None:
        self._live, self._asking, self._give_kept = live, asking, give_kept

    async def serve(self, asked: Asked) -> Reply | None:
        """Have an instance answer. An error is raised, or told within the stream where its head is out."""
        try:
            return await self._serve_patiently(asked)
        except OrchestratorError as why:
            client, spare = asked.client, asked.trace.spare
            if spare is not None and not isinstance(why, CallerError) and (client is None or not client.is_open):
                log.warning("%s: answered from the cache, late: %s", asked.trace.request_id, why)
                return await self._give_kept(asked, Given(spare, Standing.SPARE))
            if client is None or not client.is_open:
                raise
            log.warning("%s: %s", asked.trace.request_id, why)
            if asked.making is not None:
                asked.making.fail(why, asked.trace.failures)
            client.write([error_frame(asked.call.endpoint, str(why))])
            client.abandon()
            return None

    async def _serve_patiently(self, asked: Asked) -> Reply | None:
        """Ask until one answers; where all instances are away for a moment, wait for one as for a free slot."""
        came_s = time.perf_counter()
        while True:
            try:
                return await self._serve_by_tiers(asked)
            except (CapacityError, InstanceError) as why:
                waited_s = time.perf_counter() - came_s
                left_s = self._live.rules.limits.queue_wait_s - waited_s
                if left_s <= 0 or not self._may_pass(asked, why, waited_s):
                    raise
            began_s = time.perf_counter()
            await self._live.until_changed(min(ASK_AGAIN_S, left_s))
            asked.trace.queue_s += time.perf_counter() - began_s

    def _may_pass(self, asked: Asked, why: CapacityError | InstanceError, waited_s: float) -> bool:
        """Whether it is worth waiting: an instance is there, or on its way, that this call has not failed too often."""
        if asked.trace.spare is not None:
            return False
        if asked.trace.failures >= TRIES or (isinstance(why, CapacityError) and not why.is_passing):
            return False
        pools = [pool for tier in asked.tiers if (pool := self._live.pool(tier.pool)) is not None]
        if waited_s < WITHOUT_INSTANCES_S and any(not pool.instances for pool in pools):
            return True
        return any(each.state is not InstanceState.DOWN for pool in pools for each in pool.instances)

    async def _serve_by_tiers(self, asked: Asked) -> Reply | None:
        """Ask the tiers in turn until one answers."""
        last: CapacityError | InstanceError | None = None
        for tier in asked.tiers:
            pool = self._live.pool(tier.pool)
            if pool is None:
                continue
            asked.trace.tier = tier.name
            try:
                return await self._asking.serve_from(asked, pool)
            except (CapacityError, InstanceError) as why:
                last = why
        raise last or CapacityError(f"no instance serves {asked.name} now", retry_after_s=5)
