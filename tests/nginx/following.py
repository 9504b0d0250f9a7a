"""What tests of nginx in step with a cluster share: waiting for a condition, and an instance in another state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from orchestrator.core.model import InstanceState, Pool

WITHIN_S = 60.0


async def until(holds: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
    try:
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError as why:
        raise AssertionError(otherwise()) from why


def state(pool: Pool, index: int, new: InstanceState) -> Pool:
    instances = list(pool.instances)
    instances[index] = replace(instances[index], state=new)
    return replace(pool, instances=tuple(instances))
