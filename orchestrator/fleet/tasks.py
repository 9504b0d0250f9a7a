"""What the controller's tasks have in common: done together, waiting for an event, and what several failed of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, NoReturn, TypeVar

from orchestrator.core.errors import OrchestratorError

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them come to, in their order. The first that fails ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in works]
    except BaseExceptionGroup as several:
        raise_first(several)
    return [each.result() for each in tasks]


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
