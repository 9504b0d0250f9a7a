"""An instance's end: its gateways told, its calls waited for, its process gone. Each step may be given up half-way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from orchestrator.core.errors import HostError, InstanceError, StoreError
from orchestrator.core.model import Instance
from orchestrator.fleet.keepers import Post
from orchestrator.fleet.publishing import Publisher
from orchestrator.fleet.tasks import within

log = logging.getLogger(__name__)

DRAIN_LOOK_EVERY_S = 0.2
# A host that would not stop an instance is asked again so often.
STOP_AGAIN_S = 5.0


async def has_drained(
    instance: Instance, publisher: Publisher, given_up: asyncio.Event, drain_s: Callable[[], float]
) -> bool:
    """Wait until nothing is in flight there, once gateways were told, at most `drain_s`; False: it was given up.

    While the store is away gateways send on what they know: nothing may be stopped before they can be told.
    """
    told_s: float | None = None
    while not given_up.is_set():
        try:
            if told_s is None:
                await publisher.publish()
                told_s = time.monotonic()
            in_flight = (await publisher.in_flight(instance.pool)).get(instance.id, 0)
            if not in_flight and publisher.has_settled:
                return True
        except StoreError:
            told_s = None
        if told_s is not None and time.monotonic() - told_s > drain_s():
            log.warning("%s still answers after %g s; stopping it", instance.id, drain_s())
            return True
        await within(DRAIN_LOOK_EVERY_S, given_up)  # Redis has no event for the last lease
    return False


async def has_finished(
    instance: Instance, rests: Callable[[Instance], Awaitable[bool]], given_up: asyncio.Event, within_s: float
) -> bool:
    """Wait until it answers nobody any more, those included whom no gateway counts; False: it was given up.

    Its model may be gone from memory then. One that cannot be asked is not waited for.
    """
    until_s = time.monotonic() + within_s
    while not given_up.is_set():
        try:
            if await rests(instance):
                return True
        except InstanceError as why:
            log.info("%s: whether it answers somebody past the gateways is not known", why)
            return True
        if time.monotonic() > until_s:
            log.warning("%s still answers calls that no gateway made; stopping it", instance.id)
            return True
        await within(DRAIN_LOOK_EVERY_S, given_up)
    return False


async def has_ended(unit: str, post: Post, given_up: asyncio.Event) -> bool:
    """Have its keeper end it; a host that would not is asked again. False: it was given up.

    Raises HostError where this machine's keeper cannot.
    """
    while not given_up.is_set():
        try:
            await post.keeping.stop(unit)
        except HostError as why:
            if post.host is None:
                raise
            log.warning("%s is not stopped yet: %s", unit, why)
        else:
            return True
        await within(STOP_AGAIN_S, given_up)
    return False
