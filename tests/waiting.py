"""Waiting for a condition, not for a while, where nothing tells of it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
WITHIN_S = 90.0  # reached by what fails alone


@overload
async def until(
    look: Callable[[], Awaitable[T]],
    what: str | Callable[[], str] = "",
    *,
    holds: Callable[[T], object] = bool,
    within_s: float = WITHIN_S,
) -> T: ...


@overload
async def until(
    look: Callable[[], T],
    what: str | Callable[[], str] = "",
    *,
    holds: Callable[[T], object] = bool,
    within_s: float = WITHIN_S,
) -> T: ...


async def until(
    look: Callable[[], Any],
    what: str | Callable[[], str] = "",
    *,
    holds: Callable[[Any], object] = bool,
    within_s: float = WITHIN_S,
) -> Any:
    """What `look` saw, a coroutine of it or itself, once it holds. Raises AssertionError with `what` never came.

    Looks leave at least half of a core to what is waited for.
    """
    loop = asyncio.get_running_loop()
    seen: Any = "nothing was seen"
    try:
        async with asyncio.timeout(within_s) as limit:
            while True:
                began_s = loop.time()
                seen = look()
                seen = await seen if inspect.isawaitable(seen) else seen
                if holds(seen):
                    return seen
                await asyncio.sleep(min(0.2, max(0.01, loop.time() - began_s)))
    except TimeoutError as why:
        if not limit.expired():
            raise
        raise AssertionError(f"never: {what if isinstance(what, str) else what()}; last: {seen!r:.2000}") from why


def wait_until(condition: Callable[[], T], what: str | Callable[[], str], timeout_s: float = WITHIN_S) -> T:
    """The same where no loop runs: what `condition` saw, once that is something."""
    began_s = time.monotonic()
    deadline_s = began_s + timeout_s
    while not (found := condition()):
        now_s = time.monotonic()
        assert now_s < deadline_s, f"never: {what if isinstance(what, str) else what()}"
        time.sleep(min(0.2, max(0.02, now_s - began_s)))
        began_s = time.monotonic()
    return found
