"""Answers of a route for questions in other words, where the route gives them: the questions that a gateway knows of.

Those of all gateways lie in Redis, by route and by whose answers they are; a worker reads what is new to it when a
question comes whose own answer is not kept. Which two mean the same is `core.paraphrase`'s to say, whether an answer
may be given the answer cache's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from orchestrator import telemetry
from orchestrator.core.errors import StoreError
from orchestrator.core.paraphrase.asked import AskedQuestions, Match, Question
from orchestrator.core.paraphrase.plain import Judged, plain
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.questions import BEGIN, Questions, Told
from orchestrator.store.schema import route_answer, route_questions
from orchestrator.store.sealing import Seal

log = logging.getLogger(__name__)

# Questions that one call reads, some 0.1 ms of CPU each: a worker that has just started knows all after a few calls.
READ_AT_ONCE: Final = 100
# Questions that one worker has in memory; beyond it those nobody was compared with for longest are read anew.
KNOWN_MAX: Final = 20_000


class Wording(NamedTuple):
    """A question as it was asked of a route, by somebody who is given what is kept under `scope`."""

    route: str
    scope: str
    question: Question
    text: str

    @property
    def digest(self) -> str:
        return self.question.digest


def wording(route: str, scope: str, digest: str, family: str, text: str) -> Wording | None:
    """None where it is not plain enough to be told in other words."""
    read = plain(text)
    return Wording(route, scope, Question(digest, family, read), text) if read is not None and family else None


class _Known:
    """What is known of one scope's questions, and up to where it was read."""

    def __init__(self) -> None:
        self.asked = AskedQuestions()
        self.until = BEGIN


class OtherWords:
    """The questions that one worker knows of."""

    def __init__(self, connection: Connection) -> None:
        self._questions, self._answers = Questions(connection), Answers(connection)
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    def learn(self, asked: Wording, seal: Seal, ttl_s: float) -> None:
        """Its answer is kept; not waited for."""
        sealed = seal.close(asked.text.encode(), _place(asked.route, asked.scope, asked.digest))
        told = Told("", asked.digest, asked.question.family, sealed)
        self._questions.keep_soon(asked.route, asked.scope, told, ttl_s)

    async def find(self, asked: Wording, seal: Seal) -> tuple[Match, bytes] | None:
        """The question that means what is asked, and what is kept as its answer. None too where Redis does not tell."""
        try:
            known = await self._read_on(asked.route, asked.scope, seal)
            while (match := known.asked.find(asked.question)) is not None:
                kept = await self._answers.look(route_answer(asked.route, match.digest))
                if kept is not None:
                    return match, kept
                known.asked.drop(match.digest)
        except StoreError as why:
            telemetry.STORE_ERRORS.inc()
            log.debug("asked of nobody in other words: %s", why)
        return None

    async def nearest(self, asked: Wording, seal: Seal) -> list[tuple[Question, Judged]]:
        """The questions likest to it, and what speaks against them. Raises StoreError."""
        known, before = await self._read_on(asked.route, asked.scope, seal), BEGIN
        while known.until != before:
            before, known = known.until, await self._read_on(asked.route, asked.scope, seal)
        return known.asked.nearest(asked.question)

    async def bar(self, route: str, scope: str, digests: tuple[str, str], ttl_s: float) -> None:
        """One of these was taken for the other, and is not. Raises StoreError."""
        await self._questions.bar(route, scope, digests, ttl_s)

    async def _read_on(self, route: str, scope: str, seal: Seal) -> _Known:
        known = self._known.setdefault((route, scope), _Known())
        self._known.move_to_end((route, scope))
        for told in await self._questions.since(route, scope, known.until, READ_AT_ONCE):
            known.until = told.id
            for digest in told.barred:
                known.asked.bar(digest)
            for question in _read(route, scope, told, seal):
                known.asked.add(question)
        self._make_room()
        return known

    def _make_room(self) -> None:
        while len(self._known) > 1 and sum(len(each.asked) for each in self._known.values()) > KNOWN_MAX:
            self._known.popitem(last=False)


def _read(route: str, scope: str, told: Told, seal: Seal) -> Iterator[Question]:
    """The question that is told; none where it cannot be opened with the keys of the settings."""
    text = seal.open(told.text, _place(route, scope, told.digest)) if told.text else None
    read = plain(text.decode()) if text is not None else None
    if read is not None:
        yield Question(told.digest, told.family, read)


def _place(route: str, scope: str, digest: str) -> str:
    return f"{route_questions(route, scope)}:{digest}"
