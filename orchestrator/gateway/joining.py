"""One answer for many askers: identical calls that are under way at once are answered by one generation.

The first of them on a worker leads: it is served as if it were alone. Admission tells it where another worker leads
already; then it follows that one, like those behind it. Who follows is in no queue and takes no slot. Where a leader
fails, one that followed leads; where its client leaves, the answer is made for the others. Which calls are identical
is decided by their key in the answer cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.errors import CallerError, CapacityError, InstanceError, OrchestratorError
from orchestrator.gateway.admission import Admission
from orchestrator.gateway.asked import TRIES, Asked, priority_of, wait_of
from orchestrator.gateway.client_stream import Unheard
from orchestrator.gateway.elsewhere import Elsewhere
from orchestrator.gateway.following import Following
from orchestrator.gateway.live import Live
from orchestrator.gateway.making import MakerGoneError, Making
from orchestrator.gateway.relay import ClientGoneError
from orchestrator.gateway.replies import Reply
from orchestrator.gateway.trace import Trace

log = logging.getLogger(__name__)

# A leader that was refused within this was refused at once: who came behind it would be, too.
AT_ONCE_S = 0.5

Make = Callable[[Asked], Awaitable[Reply | None]]
# Counts a call that has ended, by its outcome.
Count = Callable[[Trace, str], None]


class MadeElsewhere(Exception):
    """No error: another worker makes the answer, under this lease."""

    def __init__(self, holder: str, lease: str) -> None:
        super().__init__(holder, lease)
        self.holder, self.lease = holder, lease


class Joining:
    """The answers under way on one worker.

    `make` serves a call by itself. `count` counts one that followed, `count_join` where its answer was made.
    """

    def __init__(
        self, live: Live, admission: Admission, make: Make, count: Count, count_join: Callable[[str], None]
    ) -> None:
        self._live, self._admission, self._make = live, admission, make
        self._count, self._count_join = count, count_join
        self._makings: dict[str, Making] = {}
        self._elsewhere = Elsewhere(
            admission.joins, self._makings.get, admission.leave_now, lambda: live.rules.cache.seal
        )
        self._tasks: set[asyncio.Task[None]] = set()  # of answers whose own client has left, or never was

    async def start(self) -> None:
        """Hear other workers."""
        await self._elsewhere.start()

    async def close(self) -> None:
        """End what is made for nobody any more."""
        self._elsewhere.close()
        for each in self._tasks:
            each.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def answer(self, asked: Asked) -> Reply | None:
        """Answer a call whose answer may be shared. Raises our errors, while no byte of an answer has gone out."""
        making = self._makings.get(asked.cache_key)
        if making is None or not making.takes(priority_of(asked)):
            making = self._new(asked, asked.trace)
            try:
                return await self._lead(asked, making)
            except MadeElsewhere:
                pass  # and so `making` is what is said there
        following = Following(asked)
        if asked.trace.story is not None:
            asked.trace.story.follow(making.leader.story)
        try:
            return await self._follow(asked, making, following)
        except asyncio.CancelledError:
            asked.trace.cache = "joined"
            self._count(asked.trace, "gone")
            raise
        except OrchestratorError as why:
            client = asked.client
            if client is None or not client.is_open:
                raise
            log.warning("%s: %s", asked.trace.request_id, why)
            client.write([error_frame(asked.call.endpoint, str(why))])
            client.abandon()
            return None

    # --- leading ------------------------------------------------------------------------------------------------------

    def _new(self, asked: Asked, leader: Trace) -> Making:
        making = Making(asked.cache_key, asked.call.endpoint, leader, priority_of(asked), self)
        self._makings[making.key] = making
        return making

    def forget(self, making: Making) -> None:
        """It is over: nobody joins it any more."""
        if self._makings.get(making.key) is making:
            del self._makings[making.key]

    async def _lead(self, asked: Asked, making: Making, *, is_unheard: bool = False) -> Reply | None:
        """Serve the call, for itself and for who follows. Raises MadeElsewhere; `making` then is what is made there.

        `is_unheard`: the client of its connection follows, too, and is free to leave.
        """
        why: BaseException | None = None
        connection = asked.connection
        if not is_unheard:
            connection.wanted = making
        try:
            return await self._make(asked.leading(making))
        except MadeElsewhere as found:
            making.on_forsaken = None
            self._elsewhere.follow(making, found.holder, found.lease)
            raise
        except BaseException as failure:
            why = failure
            raise
        finally:
            if not is_unheard:
                connection.wanted = None
            if not making.void or why is not None:
                making.fail(why, asked.trace.failures)

    def _lead_unheard(self, asked: Asked) -> Making:
        """Have the answer made anew, for a call that has told a part of it and for all others who wait."""
        trace = replace(asked.trace, cache="anew", cache_why="", failures=asked.trace.failures, story=None)
        client = Unheard(asked.request, asked.connection, trace.fields)
        making = self._new(asked, trace)

        async def make() -> None:
            try:
                await self._lead(asked._replace(trace=trace, client=client), making, is_unheard=True)
            except MadeElsewhere:
                pass  # it is followed there
            except OrchestratorError as why:
                log.warning("%s: %s", trace.request_id, why)  # who follows is told by `making`

        task = asyncio.get_running_loop().create_task(make())
        making.on_forsaken = task.cancel
        self.keep(task)
        return making

    def keep(self, task: asyncio.Task[None]) -> None:
        """It goes on without a client of its own; ended with the gateway at the latest."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- following ----------------------------------------------------------------------------------------------------

    async def _follow(self, asked: Asked, making: Making, following: Following) -> Reply | None:
        """Follow one making after another, until one is whole or nobody can be expected to make it."""
        until_s = following.began_s + self._admission.longest_wait_s(wait_of(asked))
        while True:
            if not await following.follow(making, until_s - time.perf_counter()):
                raise CapacityError(f"no slot for {asked.name} came free in time", retry_after_s=5)
            if following.is_astray or (making.answer is not None and following.is_behind):
                self._count(asked.trace, "cut")
                following.break_off("it was begun by an instance that failed, and another says something else")
                return None
            if making.answer is not None:
                self._count_join("elsewhere" if making.void else "here")
                reply = await following.finish(making.answer, self._live.rules.limits.between_bytes_s)
                self._count(asked.trace, "ok")
                return reply
            if making.refused is not None:
                reply = following.refuse(making.refused)
                self._count(asked.trace, "refused")
                return reply
            following.remember()
            if making.why is None:
                return await self._alone(asked, following)
            _see_whether_again(asked, making, until_s)
            found = self._makings.get(asked.cache_key)
            if found is None or not found.takes(priority_of(asked)):
                asked = asked._replace(void=making.void)
                if not following.has_told:
                    found = self._new(asked, asked.trace)
                    try:
                        return await self._lead(asked, found)
                    except MadeElsewhere:
                        pass  # and so `found` is what is said there
                else:
                    found = self._lead_unheard(asked)
            making = found

    async def _alone(self, asked: Asked, following: Following) -> Reply | None:
        """What was made cannot be shared (it was no answer in words, after all)."""
        if following.has_told:
            following.break_off("it was begun for another call, and cannot be shared to its end")
            return None
        return await self._make(asked)


def _see_whether_again(asked: Asked, making: Making, until_s: float) -> None:
    """Whether a call whose answer failed may hope for another one. Raises the failure if not."""
    why = making.why
    if isinstance(why, asyncio.CancelledError | ClientGoneError | MakerGoneError):
        return
    now_s = time.perf_counter()
    if isinstance(why, CapacityError):
        if why.status == 429 and now_s < until_s:
            return  # its leader's own budget is used up, and nobody else's
        # Its leader has waited longer than this call, or was ready to wait less.
        if now_s >= until_s or now_s - making.leader.began_s < AT_ONCE_S:
            raise why
        return
    asked.trace.failures += max(1, making.failures)
    if isinstance(why, CallerError):
        raise why
    if asked.trace.failures >= TRIES:
        raise why if isinstance(why, InstanceError) else OrchestratorError("a mistake of ours") from why
