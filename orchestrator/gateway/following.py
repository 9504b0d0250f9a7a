"""A call that is answered by what is made for another one: told in its own form, as it comes or as a whole.

What becomes of it where that answer fails is left to `joining`; that its client has seen one stream, whoever made its
parts, is seen to here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from orchestrator import telemetry
from orchestrator.core.dialects.errors import error_frame
from orchestrator.core.dialects.frames import Stats, head_of, stream_type
from orchestrator.core.dialects.render import render_body
from orchestrator.core.dialects.streams import Stream, open_stream
from orchestrator.core.errors import CallerError
from orchestrator.core.model import Answer
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.making import Making, Refusal
from orchestrator.gateway.replies import Reply, whole

# What was said before a call came is told in pieces of this many letters, as answers from the cache are.
FRAME_LETTERS: Final = 64


class Following:
    """One call, on the heels of one making after another until one of them is whole."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.began_s = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._making: Making | None = None
        self._stream: Stream | None = None
        self._told = ("", "")  # of makings before: what the next one has to say again, and is not told again
        self._awaited = ["", ""]  # of that, what the present one has not said again yet
        self._unsaid: list[tuple[str, str]] = []  # while the client reads nothing
        self._is_late = False  # what it hears now was said before it came
        self.is_astray = False  # the present making says something else than the one before

    @property
    def has_told(self) -> bool:
        """The client has seen a part of the answer."""
        return self._asked.client is not None and self._asked.client.is_started

    async def follow(self, making: Making, within_s: float) -> bool:
        """Hear a making to its end. False: it was still waiting in a queue after `within_s`."""
        self._making, self.is_astray, self._awaited = making, False, list(self._told)
        self._ended, self._begun = self._loop.create_future(), self._loop.create_future()
        self._is_late = True
        making.join(self)
        self._is_late = False
        telemetry.CACHE_FOLLOWERS.inc()
        try:
            if not making.is_over and not making.is_begun:
                await asyncio.wait(
                    (self._ended, self._begun), timeout=max(0.0, within_s), return_when=asyncio.FIRST_COMPLETED
                )
                if not (making.is_over or making.is_begun):
                    return False
            if not making.is_over:
                await self._ended
        finally:
            making.leave(self)
            telemetry.CACHE_FOLLOWERS.dec()
        return True

    # --- what is heard ------------------------------------------------------------------------------------------------

    def began(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)

    def said(self, thinking: str, text: str) -> None:
        client = self._asked.client
        if client is None or self.is_astray:
            return
        beyond = self._beyond(0, thinking), self._beyond(1, text)
        if self.is_astray:
            self.ended()
        elif client.is_stalled:
            self._unsaid.append(beyond)
        else:
            self._tell(*beyond)

    def ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _beyond(self, of: int, said: str) -> str:
        """What the client has not been told by an earlier making."""
        awaited = self._awaited[of]
        if not awaited or not said:
            return said
        again = min(len(awaited), len(said))
        self.is_astray |= awaited[:again] != said[:again]
        self._awaited[of] = awaited[again:]
        return said[again:]

    # --- what is told -------------------------------------------------------------------------------------------------

    def _tell(self, thinking: str, text: str) -> None:
        client = self._asked.client
        if client is None or not (thinking or text):
            return
        stream, now = self._opened(), _now()
        frames: list[bytes] = []
        for piece in self._pieces(thinking):
            frames += stream.content(now, thinking=piece)
        for piece in self._pieces(text):
            frames += stream.content(now, text=piece)
        client.write(frames)

    def _pieces(self, text: str) -> Iterator[str]:
        """As it came, or where it was said long before, in parts."""
        letters = FRAME_LETTERS if self._is_late else max(1, len(text))
        return (text[at : at + letters] for at in range(0, len(text), letters))

    def _opened(self) -> Stream:
        """The stream of this call, its head told."""
        call, client = self._asked.call, self._asked.client
        assert client is not None, "made for each call that is to be streamed"
        if self._stream is None:
            self._stream = open_stream(head_of(call, call.model, _now()))
        if not client.is_started:
            self._note()
            client.source = self
            client.start(stream_type(call.endpoint))
        return self._stream

    def _note(self) -> None:
        """What the headers say of where the answer came from."""
        trace, making = self._asked.trace, self._making
        assert making is not None, "followed before anything is told"
        trace.tier, trace.instance, trace.is_simulated = making.origin
        trace.cache, trace.cache_why, trace.cache_more = "joined", "", ""
        trace.waited_s = time.perf_counter() - self.began_s

    def pause(self) -> None:
        """What its client is not told now is told when it reads again: whom it follows is held up by nobody."""

    def resume(self) -> None:
        """The client reads again."""
        unsaid, self._unsaid = self._unsaid, []
        self._tell("".join(thinking for thinking, _ in unsaid), "".join(text for _, text in unsaid))

    # --- how it ends --------------------------------------------------------------------------------------------------

    async def finish(self, answer: Answer, within_s: float) -> Reply | None:
        """All of a whole answer; a client that has not read it by then is cut off."""
        call, trace, client = self._asked.call, self._asked.trace, self._asked.client
        stats = Stats(
            total_ns=int((time.perf_counter() - trace.began_s) * 1e9),
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        if client is None:
            self._note()
            content_type, body = render_body(call, call.model, answer, _now(), stats)
            return whole(content_type, body, trace.fields())
        self.resume()
        stream, now = self._opened(), _now()
        called = stream.content(now, tool_calls=answer.tool_calls) if answer.tool_calls else []
        client.write([*called, *stream.end(now, answer.finish, stats)])
        await client.finish(within_s)
        return None

    @property
    def is_behind(self) -> bool:
        """The client has been told more than the present making says."""
        return any(self._awaited)

    def refuse(self, refused: Refusal) -> Reply:
        """What the instance said of the very same request. Raises CallerError where a stream's head is out."""
        client = self._asked.client
        if client is not None and client.is_open:
            raise CallerError(refused.status, refused.body[:300].decode("utf-8", "replace").strip())
        self._note()
        return whole(refused.content_type, refused.body, self._asked.trace.fields(), refused.status)

    def break_off(self, why: str) -> None:
        """End a stream that cannot be gone on with."""
        client = self._asked.client
        assert client is not None, "only streams are told in parts"
        client.write([error_frame(self._asked.call.endpoint, f"the answer was cut off: {why}")])
        client.abandon()

    def remember(self) -> None:
        """The present making has failed: the next one has to say again what this one said."""
        if self._making is not None and self.has_told:
            self.resume()
            said = self._making.so_far
            self._told = max(said[0], self._told[0], key=len), max(said[1], self._told[1], key=len)


def _now() -> datetime:
    return datetime.now(UTC)
