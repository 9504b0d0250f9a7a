"""What the controller's tasks have in common: waiting for an event, and what a group of them failed of."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from orchestrator.core.errors import OrchestratorError


async def within(seconds: float | None, event: asyncio.Event) -> None:
    """Wait for the event, so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def raise_first(several: BaseExceptionGroup[BaseException]) -> NoReturn:
    """What went wrong first, alone: a bug before anything that is said to users."""
    leaves: list[BaseException] = []
    left: list[BaseException] = [several]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left.extend(each.exceptions)
        else:
            leaves.append(each)
    leaves.sort(key=lambda each: isinstance(each, OrchestratorError))
    raise leaves[0] from several
