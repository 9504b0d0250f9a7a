"""Answers that are made on one worker for calls on several: passed on there, followed here.

The worker that makes an answer tells each other one that asks for it what was said so far and then the rest. Messages
may be lost: each says from where on it goes on, and who follows asks each second for what it has not had, so that
nothing is said twice or left out. To calls that nobody joins it costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from orchestrator.core.cache_entry import answer_from
from orchestrator.core.errors import CallerError, CapacityError, InstanceError
from orchestrator.gateway.making import MakerGoneError, Making, Origin, Refusal
from orchestrator.store.joins import Joins, Kind
from orchestrator.store.sealing import Seal

log = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 1.0
# A worker that is there answers what it is asked within milliseconds; one that stands still is not waited for.
SILENT_S: Final = 5.0
ANY_PRIORITY: Final = 9  # join.lua has looked at it


class Elsewhere:
    """One worker's part.

    `find`: what it makes under a digest; `settled`: lets Redis know of what has ended; `seal`: answers travel as they
    lie, sealed or not.
    """

    def __init__(
        self,
        joins: Joins,
        find: Callable[[str], Making | None],
        settled: Callable[[], None],
        seal: Callable[[], Seal],
    ) -> None:
        self._joins, self._find, self._settled, self._seal = joins, find, settled, seal
        self._followed: dict[str, _Followed] = {}
        self._told: dict[tuple[str, str], _Told] = {}

    async def start(self) -> None:
        await self._joins.listen(self._heard)

    def close(self) -> None:
        """Follow nothing any more."""
        for each in tuple(self._followed.values()):
            self._drop(each)

    def follow(self, making: Making, holder: str, lease: str) -> None:
        """Let `making` say what that worker makes, who has been told already to pass it on."""
        making.void = lease
        followed = _Followed(making, holder, asyncio.get_running_loop().time())
        self._followed[making.key] = followed
        making.on_forsaken = partial(self._forsake, followed)
        self._look_later(followed)

    # --- what others make ---------------------------------------------------------------------------------------------

    def _look_later(self, followed: _Followed) -> None:
        followed.timer = asyncio.get_running_loop().call_later(ASK_AGAIN_S, self._look, followed)

    def _look(self, followed: _Followed) -> None:
        """Ask for what has not been heard; what its maker leaves unanswered is nobody's any more."""
        making = followed.making
        silent_s = asyncio.get_running_loop().time() - followed.heard_s
        if making.is_over or silent_s > SILENT_S or not self._joins.is_up:
            self._lose(followed)
            return
        rest = "\n".join((self._joins.holder, *map(str, making.letters))).encode()
        self._joins.tell(followed.holder, Kind.ASK, making.key, rest, partial(self._answered, followed))
        self._look_later(followed)

    def _answered(self, followed: _Followed, is_there: bool) -> None:
        if not is_there:
            self._lose(followed)

    def _lose(self, followed: _Followed) -> None:
        self._drop(followed)
        followed.making.fail(MakerGoneError())

    def _forsake(self, followed: _Followed) -> None:
        """Nobody here waits for it any more."""
        making = followed.making
        self._drop(followed)
        self._joins.tell(followed.holder, Kind.LEAVE, making.key, self._joins.holder.encode(), _nobody_minds)
        making.close()

    def _drop(self, followed: _Followed) -> None:
        followed.timer.cancel()
        if self._followed.get(followed.making.key) is followed:
            del self._followed[followed.making.key]

    # --- what is heard ------------------------------------------------------------------------------------------------

    def _heard(self, kind: Kind, digest: str, rest: bytes) -> None:
        if kind is Kind.ASK:
            holder, thinking, text = rest.decode().split("\n")
            self._asked(digest, holder, int(thinking), int(text))
        elif kind is Kind.LEAVE:
            told = self._told.pop((digest, rest.decode()), None)
            if told is not None:
                told.making.leave(told)
        else:
            followed = self._followed.get(digest)
            opened = self._seal().open(rest, _place(digest)) if followed is not None else None
            if followed is not None and opened is not None:
                followed.heard_s = asyncio.get_running_loop().time()
                self._take(followed, kind, orjson.loads(opened))

    def _take(self, followed: _Followed, kind: Kind, told: Any) -> None:
        making = followed.making
        if kind is Kind.SAID:
            followed.say(*told)
            return
        self._drop(followed)
        if kind is Kind.MADE:
            making.end(answer_from(told))
        elif told["refused"] is not None:
            status, content_type, body = told["refused"]
            making.refuse(Refusal(status, content_type, body.encode("latin-1")))
        else:
            making.fail(_failure_from(told), told["failures"])

    # --- what is made here --------------------------------------------------------------------------------------------

    def _asked(self, digest: str, holder: str, thinking: int, text: int) -> None:
        """A worker wants what is made here, from where on it has not heard it."""
        told = self._told.get((digest, holder))
        if told is None:
            making = self._find(digest)
            if making is None or not making.takes(ANY_PRIORITY):
                self._settled()  # who asks again finds the answer kept, if there was one
                broken = _broken(MakerGoneError(), 0, None)
                self._tell(holder, Kind.BROKEN, digest, broken, _nobody_minds)
                return
            told = self._told[digest, holder] = _Told(making, partial(self._pass_on, digest, holder))
            making.join(told)
        told.go_on(thinking, text)

    def _pass_on(self, digest: str, holder: str, kind: Kind, told: Any) -> None:
        if kind is not Kind.SAID:
            self._told.pop((digest, holder), None)
        self._tell(holder, kind, digest, told, partial(self._was_heard, digest, holder))

    def _was_heard(self, digest: str, holder: str, is_there: bool) -> None:
        if not is_there and (told := self._told.pop((digest, holder), None)) is not None:
            told.making.leave(told)

    def _tell(self, holder: str, kind: Kind, digest: str, told: Any, heard: Callable[[bool], None]) -> None:
        sealed = self._seal().close(orjson.dumps(told), _place(digest))
        self._joins.tell(holder, kind, digest, sealed, heard)


class _Followed:
    """An answer that another worker makes, as far as it was heard here."""

    def __init__(self, making: Making, holder: str, now_s: float) -> None:
        self.making, self.holder, self.heard_s = making, holder, now_s
        self.timer: asyncio.TimerHandle

    def say(self, is_begun: bool, thinking_at: int, text_at: int, thinking: str, text: str, origin: list[Any]) -> None:
        making = self.making
        making.told_origin = Origin(*origin)
        if is_begun and not making.is_begun:
            making.begin()
        had = making.letters
        if thinking_at <= had[0] and text_at <= had[1]:  # else one was lost: what it said is asked for
            making.say(thinking[had[0] - thinking_at :], text[had[1] - text_at :])


class _Told:
    """Another worker, as a follower of what is made here."""

    def __init__(self, making: Making, pass_on: Callable[[Kind, Any], None]) -> None:
        self.making, self._pass_on = making, pass_on
        self._is_going = False
        self._at = (0, 0)

    def go_on(self, thinking_at: int, text_at: int) -> None:
        """Say it from there on, if it is only that there is nothing to say yet."""
        self._is_going = True
        if not self.making.is_over:
            thinking, text = self.making.so_far
            self._say(thinking_at, text_at, thinking[thinking_at:], text[text_at:])

    def began(self) -> None:
        if self._is_going:
            self.go_on(*self.making.letters)

    def said(self, thinking: str, text: str) -> None:
        at = self._at
        self._at = at[0] + len(thinking), at[1] + len(text)
        if self._is_going:
            self._say(*at, thinking, text)

    def ended(self) -> None:
        making = self.making
        if making.answer is not None:
            self._pass_on(Kind.MADE, making.answer)
        else:
            self._pass_on(Kind.BROKEN, _broken(making.why, making.failures, making.refused))

    def _say(self, thinking_at: int, text_at: int, thinking: str, text: str) -> None:
        making = self.making
        self._pass_on(Kind.SAID, (making.is_begun, thinking_at, text_at, thinking, text, tuple(making.origin)))


def _broken(why: BaseException | None, failures: int, refused: Refusal | None) -> dict[str, Any]:
    """How it failed, as far as it decides what becomes of the others."""
    told: dict[str, Any] = {"why": "", "text": str(why), "failures": failures, "refused": None, "number": 0}
    if refused is not None:
        told["refused"] = (refused.status, refused.content_type, refused.body.decode("latin-1"))
    elif isinstance(why, CallerError):
        told |= {"why": "caller", "number": why.status}
    elif isinstance(why, CapacityError) and why.status != 429:  # a used-up key is its own caller's matter
        told |= {"why": "capacity", "number": why.retry_after_s}
    elif isinstance(why, InstanceError):
        told |= {"why": "instance", "text": why.said, "quoted": why.quoted, "instance": why.instance}
    elif why is not None:
        told["why"] = "gone"
    return told


def _failure_from(told: dict[str, Any]) -> BaseException | None:
    kind, text = told["why"], told["text"]
    if kind == "caller":
        return CallerError(told["number"], text)
    if kind == "capacity":
        return CapacityError(text, told["number"])
    if kind == "instance":
        return InstanceError(told["instance"], text, quoted=told["quoted"])
    return MakerGoneError() if kind == "gone" else None


def _place(digest: str) -> str:
    return f"join:{digest}"


def _nobody_minds(_: bool) -> None:
    """Who is not there needs not be told."""
