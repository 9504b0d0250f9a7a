"""One answer under way, and those who follow it: what was said so far, then the rest, then how it ended.

It knows neither who says it (an instance, another worker, the cache) nor how its followers pass it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from orchestrator.core.dialects.outcome import Listener
from orchestrator.core.model import Answer, Endpoint
from orchestrator.gateway.trace import Trace


class Follower(Protocol):
    """Who waits for an answer that is made for another call."""

    def began(self) -> None:
        """It has left the queue."""

    def said(self, thinking: str, text: str) -> None:
        """The next of what it says, what was said before first."""

    def ended(self) -> None:
        """It is over; the making tells how."""


class Source(Protocol):
    """Where an answer's bytes come by, that the first follower asks for what it missed."""

    def so_far(self) -> bytes | None:
        """All of the stream until now; None where that was too much to keep."""

    def hurry(self) -> None:
        """Others read it now, too: its own client being slow holds it up no more."""


class MakerGoneError(Exception):
    """Who made the answer is gone, or knows nothing of it: another may make it."""


class Refusal(NamedTuple):
    """What an instance said instead of an answer: the request itself is wrong."""

    status: int
    content_type: str
    body: bytes


class Origin(NamedTuple):
    """Where an answer comes from, as its headers tell."""

    tier: str
    instance: str
    is_simulated: bool


class Owner(Protocol):
    """Who knows all that is made on this worker."""

    def forget(self, making: Making) -> None:
        """It is over."""

    def keep(self, task: asyncio.Task[None]) -> None:
        """That task goes on though its own client has left."""


class Making:
    """One answer under way. `leader`: the call that it is made for, or was before its client left."""

    __slots__ = (
        "_endpoint",
        "_listener",
        "_owner",
        "_said",
        "_source",
        "answer",
        "failures",
        "followers",
        "is_begun",
        "is_heard",
        "is_over",
        "key",
        "leader",
        "letters",
        "on_forsaken",
        "priority",
        "refused",
        "told_origin",
        "void",
        "why",
    )

    def __init__(self, key: str, endpoint: Endpoint, leader: Trace, priority: int, owner: Owner) -> None:
        self.key, self._endpoint, self.leader, self.priority, self._owner = key, endpoint, leader, priority, owner
        self.followers: tuple[Follower, ...] = ()  # few have any: an empty list each would take room
        self.is_begun = self.is_over = False  # begun: it waits in no queue any more
        self.is_heard = False  # somebody wants to hear what is said, or has wanted to: from then on all has to be told
        self.answer: Answer | None = None  # once it has ended well
        self.refused: Refusal | None = None
        self.why: BaseException | None = None  # how it failed; None: it is of no use to anybody else
        self.failures = 0  # of instances
        self.void = ""  # the lease of another worker that makes it, or did
        self.told_origin: Origin | None = None  # by that worker
        self.on_forsaken: Callable[[], object] | None = None  # nobody wants it any more
        self.letters = (0, 0)  # of thinking and text, said so far
        self._said: list[tuple[str, str]] | None = None  # thinking and text, once somebody listens
        self._listener: Listener | None = None
        self._source: Source | None = None

    # --- for who makes it ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A slot was found."""
        self.is_begun = True
        for each in self.followers:
            each.began()

    def stream(self, source: Source) -> None:
        """Its bytes begin to come, by `source`."""
        self._source = source
        if self.followers:
            self._listen()

    def came(self, pieces: list[bytes]) -> None:
        """The next bytes."""
        if self._listener is not None:
            self.say(*self._listener.feed(b"".join(pieces)))

    def say(self, thinking: str, text: str) -> None:
        """The next words."""
        if thinking or text:
            if self._said is None:
                self._said = []
            self._said.append((thinking, text))
            self.letters = self.letters[0] + len(thinking), self.letters[1] + len(text)
            for each in self.followers:
                each.said(thinking, text)

    def end(self, answer: Answer) -> None:
        """It is whole."""
        if self.followers:
            thinking, text = self.so_far
            if not (answer.thinking.startswith(thinking) and answer.text.startswith(text)):
                self.fail(None)
                return
            self.say(answer.thinking[len(thinking) :], answer.text[len(text) :])
        if not self.is_over:
            self.answer = answer
            self.close()

    def refuse(self, refused: Refusal) -> None:
        """The request is wrong, whoever asks it."""
        if not self.is_over:
            self.refused = refused
            self.close()

    def fail(self, why: BaseException | None, failures: int = 0) -> None:
        """It will never be whole; so many instances have failed it. What is over stays as it is."""
        if not self.is_over:
            self.why, self.failures = why, failures
            self.close()

    def outlive(self, task: asyncio.Task[None]) -> bool:
        """Its leader's client has left. Whether `task` makes it to its end, for others."""
        if not self.followers or self.is_over:
            return False
        self.hurry()
        self.on_forsaken = task.cancel
        self._owner.keep(task)
        return True

    def hurry(self) -> None:
        """Its leader's client holds it up no more."""
        if self._source is not None:
            self._source.hurry()

    def close(self) -> None:
        """Nothing more comes. Twice is harmless."""
        if not self.is_over:
            self.is_over, self._source = True, None
            self._owner.forget(self)
            for each in self.followers:
                each.ended()

    # --- for who follows it -------------------------------------------------------------------------------------------

    @property
    def origin(self) -> Origin:
        return self.told_origin or Origin(self.leader.tier, self.leader.instance, self.leader.is_simulated)

    @property
    def so_far(self) -> tuple[str, str]:
        """Thinking and text of what was said, as far as somebody listened."""
        said = self._said or ()
        return "".join(each for each, _ in said), "".join(each for _, each in said)

    def takes(self, priority: int) -> bool:
        """Whether a call may follow: all of it can be told, and it waits in no class behind the call's own."""
        if self.is_over or (not self.is_begun and self.priority > priority):
            return False
        return self._source is None or self.is_heard or self._source.so_far() is not None

    def join(self, follower: Follower) -> None:
        """Follow it. What was said so far is told at once."""
        if self._source is not None and not self.is_heard:
            self._listen()
        self.hurry()
        self.followers += (follower,)
        if self.is_begun:
            follower.began()
        if any(told := self.so_far):
            follower.said(*told)

    def leave(self, follower: Follower) -> None:
        """Follow it no more. An answer that nobody wants any longer is not made to its end."""
        self.followers = tuple(each for each in self.followers if each is not follower)
        if not self.followers and not self.is_over and self.on_forsaken is not None:
            self.on_forsaken()

    def _listen(self) -> None:
        assert self._source is not None
        self._listener, self.is_heard = Listener(self._endpoint), True
        self.came([self._source.so_far() or b""])
