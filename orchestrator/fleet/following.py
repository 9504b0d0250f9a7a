"""Every keeper followed: what runs there, what happens there, and whether it can be reached at all.

Without this machine's keeper nothing goes on: its fault is raised. A host's is told, and the host tried again. What
follows from any of it is left to the steward.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final, Protocol, cast

from orchestrator.core.errors import HostError
from orchestrator.fleet.keepers import Keepers, Post
from orchestrator.fleet.publishing import HEARTBEAT_S
from orchestrator.fleet.tasks import within
from orchestrator.nodes.keeper_units import UnitEvent, UnitStatus
from orchestrator.nodes.ssh import SshError

log = logging.getLogger(__name__)

# A host that is there says in milliseconds what runs on it. One that was cut off says nothing, for minutes.
LOOK_WITHIN_S: Final = 5.0
EVENTS_AGAIN_S: Final = 1.0
# What runs on hosts that cannot be reached by then is taken over as it was published.
FIRST_LOOK_WITHIN_S: Final = 5.0


class Follower(Protocol):
    """Who is told."""

    async def take_over(self, post: Post, units: Sequence[UnitStatus], marks: Mapping[str, str]) -> None:
        """What runs there, at the first look and after each time that the host was away. Raises HostError."""

    def look_at(self, post: Post, units: Sequence[UnitStatus]) -> None:
        """What runs there, at every other look."""

    def happened(self, event: UnitEvent) -> None: ...
    def is_away(self, post: Post) -> None: ...
    def is_back(self, post: Post) -> None: ...


class Following:
    """Looks at every post again and again, and at once where something happened."""

    def __init__(self, keepers: Keepers, follower: Follower) -> None:
        self._keepers, self._follower = keepers, follower

    async def run(self) -> None:
        """Until cancelled. Raises HostError where this machine's keeper is gone."""
        followed: dict[Post, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._keepers.changed.clear()
                posts = self._keepers.posts
                for post in [each for each in followed if each not in posts]:
                    followed.pop(post).cancel()
                for post in posts:
                    if post not in followed:
                        followed[post] = group.create_task(self._follow(post), name=f"follow {post.host or 'here'}")
                await self._keepers.changed.wait()

    async def first_looks(self) -> None:
        """Wait until everybody was looked at, for hosts so long at most."""
        waiting = [asyncio.ensure_future(self._known(each)) for each in self._keepers.posts]
        done, late = await asyncio.wait(waiting, timeout=FIRST_LOOK_WITHIN_S)
        for each in late:
            each.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for each in done:
            each.result()

    async def _known(self, post: Post) -> None:
        while not post.is_known:
            await post.looked.wait()
            post.looked.clear()

    async def _follow(self, post: Post) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (self._events, self._looks):
                group.create_task(work(post), name=f"{work.__name__} {post.host or 'here'}")
            if post.run is not None:
                group.create_task(_run(post.run), name=f"keep up with {post.host}")

    async def _events(self, post: Post) -> None:
        while True:
            try:
                async with aclosing(cast(AsyncGenerator[UnitEvent, None], post.keeping.events())) as events:
                    async for event in events:
                        self._follower.happened(event)
                        post.stirred.set()
            except HostError as why:
                if post.host is None:
                    raise
                log.debug("%s: nothing is heard of its units: %s", post.host, why)
            await asyncio.sleep(EVENTS_AGAIN_S)

    async def _looks(self, post: Post) -> None:
        while True:
            post.stirred.clear()
            try:
                await self._look(post)
            except HostError as why:
                if post.host is None:
                    raise
                self._lost(post, why.message if isinstance(why, SshError) else str(why))
            except TimeoutError:
                self._lost(post, f"no answer within {LOOK_WITHIN_S:g} s")
            post.looked.set()
            await within(HEARTBEAT_S, post.stirred)

    async def _look(self, post: Post) -> None:
        async with asyncio.timeout(None if post.host is None else LOOK_WITHIN_S):
            units = await post.keeping.list()
            marks = {} if post.is_known else await post.keeping.marks()
        if post.is_known:
            self._follower.look_at(post, units)
            return
        await self._follower.take_over(post, units, marks)
        was_away = bool(post.problem)
        post.is_known, post.problem = True, ""
        if was_away:
            self._follower.is_back(post)

    def _lost(self, post: Post, why: str) -> None:
        was_away = bool(post.problem)
        post.is_known, post.problem = False, f"{post.host} cannot be reached: {why}"
        if not was_away:
            self._follower.is_away(post)


async def _run(run: Callable[[], Awaitable[None]]) -> None:
    await run()
