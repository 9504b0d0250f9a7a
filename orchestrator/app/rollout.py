"""A rollout followed as it is published, until everything serves, or one knows what does not.

It changes nothing: the controller does the work, and goes on with it whoever follows or stops following.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from orchestrator.app import wishes
from orchestrator.app.paths import StatePaths
from orchestrator.core.course import Course, course_of
from orchestrator.core.deployment import Deployment
from orchestrator.core.model import Snapshot
from orchestrator.store.cluster import watch
from orchestrator.store.connection import Connection

# A host that does not answer for a moment is no failed host.
AWAY_FOR_S = 10.0
LOOK_S = 1.0


class Ended(StrEnum):
    """How following a rollout ended."""

    WHOLE = "whole"
    ELSEWHERE = "all but what is on hosts that cannot be reached"
    LATE = "late"


async def follow(
    connection: Connection, paths: StatePaths, deployment: Deployment, serve_s: float, step: Callable[[str], None]
) -> tuple[Ended, Course]:
    """Follow a deployment for `serve_s` at most; `step` is told each change in words. Raises StoreError."""
    published: asyncio.Queue[Snapshot] = asyncio.Queue()
    watching = await watch(connection, published.put_nowait)
    course = _course(Snapshot(0, 0, ()), deployment, paths)
    away_since_s: float | None = None
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(serve_s):
            while not course.is_whole:
                if away_since_s is not None and clock() - away_since_s >= AWAY_FOR_S:
                    return Ended.ELSEWHERE, course
                snapshot = await _next(published, LOOK_S if away_since_s is not None else None)
                if snapshot is not None:
                    course = _course(snapshot, deployment, paths)
                    step(course.sentence())
                if not course.is_whole_elsewhere:
                    away_since_s = None
                elif away_since_s is None:
                    away_since_s = clock()
    except TimeoutError:
        return Ended.LATE, course
    finally:
        await watching.close()
    return Ended.WHOLE, course


def _course(snapshot: Snapshot, deployment: Deployment, paths: StatePaths) -> Course:
    return course_of(snapshot, deployment.number, deployment.placements, wishes.read(paths))


async def _next(published: asyncio.Queue[Snapshot], within_s: float | None) -> Snapshot | None:
    """The next snapshot; None where there was none that long."""
    waiting = asyncio.ensure_future(published.get())
    try:
        done, _ = await asyncio.wait((waiting,), timeout=within_s)
        return waiting.result() if done else None
    finally:
        waiting.cancel()
