"""The answer cache from an operator's side: what is in it, why a question hits or misses, and what is to be forgotten.

Works on the Redis of a state folder, as its gateways do; no gateway has to answer for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from orchestrator.app import settings_in_use
from orchestrator.app.paths import StatePaths
from orchestrator.app.rules import rules_from
from orchestrator.core.cache_entry import Entry, entry_from, told_of
from orchestrator.core.cache_policy import NO_WISH, standing
from orchestrator.core.dialects.conversation import each_turn
from orchestrator.core.dialects.parse import parse_call, turns
from orchestrator.core.errors import HostError, StoreError
from orchestrator.core.faq import Faq, question_of
from orchestrator.core.model import Call, Endpoint
from orchestrator.gateway import cache_words
from orchestrator.gateway.answer_cache import AnswerCache
from orchestrator.gateway.identity import ANONYMOUS, Caller
from orchestrator.gateway.live import Live, Rules
from orchestrator.gateway.trace import Trace
from orchestrator.settings import ClusterSettings
from orchestrator.store import cluster
from orchestrator.store.answer_books import AnswerBooks, Listed
from orchestrator.store.answers import Answers
from orchestrator.store.connection import Connection
from orchestrator.store.embedded import server_url
from orchestrator.store.questions import Questions
from orchestrator.store.schema import pool_answer, route_answer

WAIT_S = 3.0


@dataclass(frozen=True, slots=True)
class Found:
    """An answer that is kept, and what it may be used for."""

    listed: Listed | None  # None: in no book
    entry: Entry | None  # None: it cannot be opened with the keys of the settings
    key: str


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's word on a question: hit, miss, or not asked; and why, the most telling first."""

    layer: str
    verdict: str
    why: tuple[str, ...]


class Desk:
    """One state folder's answer cache."""

    def __init__(self, settings: ClusterSettings, connection: Connection, secret: bytes) -> None:
        self._settings, self._connection = settings, connection
        self.rules: Rules = rules_from(settings)
        self._live = Live(self.rules)
        self._cache = AnswerCache(self._live, connection, secret)
        self._books, self._answers = AnswerBooks(connection), Answers(connection)
        self._questions = Questions(connection)

    async def look(self) -> None:
        """See which models serve: their digests are in the keys."""
        if (snapshot := await cluster.read(self._connection)) is not None:
            self._live.snapshot = snapshot

    @property
    def first_caller(self) -> str:
        """Whose question it is where nobody is named: the first API key's, or anybody's where there are none."""
        return self._settings.keys[0].name if self._settings.keys else ANONYMOUS

    # --- what is there --------------------------------------------------------------------------------------------

    async def stats(self) -> dict[str, Any]:
        """What is on, what was counted, and whose answers there are."""
        by_scope, by_tenant, by_tag = Counter[str](), Counter[str](), Counter[str]()
        async for each in self._books.listed():
            by_scope[each.about.scope] += 1
            by_tenant[each.about.tenant or "(shared)"] += 1
            by_tag.update(each.about.tags)
        return {
            "state": "ON" if self.rules.cache.is_enabled else "OFF",
            "layers": [each._asdict() for each in cache_words.layers(self.rules)],
            "terms": cache_words.terms(self.rules),
            "room_bytes": self.rules.cache.max_bytes,
            **cache_words.in_numbers(await self._books.read()),
            "by_scope": dict(by_scope.most_common()),
            "by_key": dict(by_tenant.most_common()),
            "by_tag": dict(by_tag.most_common()),
        }

    async def get(self, name: str) -> list[Found]:
        """The answers whose digest begins with `name`, or that an `X-Cache-Key` names."""
        prefix = _digest_in(name)
        found = [each async for each in self._books.listed() if each.digest.startswith(prefix)]
        return [await self._opened(each.key, each) for each in found]

    async def _opened(self, key: str, listed: Listed | None) -> Found:
        kept = await self._answers.look(key)
        plain = self.rules.cache.seal.open(kept, key) if kept is not None else None
        try:
            return Found(listed, entry_from(plain) if plain is not None else None, key)
        except ValueError:
            return Found(listed, None, key)

    # --- why ------------------------------------------------------------------------------------------------------

    async def explain(self, call: Call, caller: str) -> list[Step]:
        """What each layer says of a call, in the order in which they are asked."""
        name = self._live.model(call.model)
        if name is None and call.model not in self.rules.routes:
            raise HostError(f"there is no model and no route {call.model!r} here")
        name = name or call.model
        return [
            self._by_faq(call, name),
            await self._by_key(call, name, caller),
            await self._by_other_words(call, name, caller),
        ]

    def _by_faq(self, call: Call, name: str) -> Step:
        rules = self.rules
        layer = cache_words.layers(rules)[0]
        if not layer.is_on:
            return Step("faq", "off", (layer.why,))
        if name not in rules.routes:
            return Step("faq", "not asked", (f"{name} is a model: curated answers are given to routes alone",))
        question = question_of(each_turn(call), call.body)
        if question is None:
            why = "not one plain question: there is a system's or an earlier turn, a picture, a tool or a format"
            return Step("faq", "miss", (why,))
        return _faq_step(rules.faq, question)

    async def _by_key(self, call: Call, name: str, caller: str) -> Step:
        key, why = self._key(call, name, caller)
        if not key:
            return Step("exact", "not asked", (cache_words.MEANT.get(why, why),))
        place = self._place(name, key)
        kept = await self._answers.look(place)
        if kept is None:
            also = [f"kept, however, for {each}" async for each in self._elsewhere(call, caller)]
            told = f"nothing is kept under its key {key}"
            counts = "options and all else that a call says count: --body FILE asks for a whole one"
            return Step("exact", "miss", (told, *also, counts))
        found = await self._opened(place, None)
        if found.entry is None:
            return Step("exact", "miss", (cache_words.MEANT["unreadable"],))
        stands = standing(found.entry, self.rules.freshness_of(name), NO_WISH, time.time())
        age_s = time.time() - found.entry.kept_at_s
        told = f"kept {age_s:.0f} s ago under its key {key}; it is {stands.value}"
        return Step("exact", "hit" if stands.value in ("fresh", "stale") else "miss", (told,))

    async def _by_other_words(self, call: Call, name: str, caller: str) -> Step:
        if not self.rules.answers_in_other_words(name):
            why = "`cache_paraphrases` is off" if name in self.rules.routes else "answers of routes alone are given so"
            return Step("paraphrase", "off", (f"{name}: {why}",))
        key, why = self._key(call, name, caller)
        if not key:
            return Step("paraphrase", "not asked", (cache_words.MEANT.get(why, why),))
        asks = self._cache.wording(call, name, _trace_of(caller), key)
        if asks is None:
            return Step("paraphrase", "not asked", ("not one plain short question in Turkish or English",))
        near = await self._cache.nearest(asks)
        told = [f"near {each.likeness:.2f} {one.digest}: {'; '.join(each.objections) or 'alike'}" for one, each in near]
        match = await self._cache.match(asks)
        if match is None:
            return Step("paraphrase", "miss", ("no kept answer is to a question that means the same", *told))
        return Step("paraphrase", "hit", (f"likeness {match.likeness:.2f}, kept under the key {match.digest}", *told))

    def _key(self, call: Call, name: str, caller: str) -> tuple[str, str]:
        """Its key, or '' and the reason."""
        trace = _trace_of(caller)
        return self._cache.key(call, name, trace, NO_WISH, is_alone=False), trace.cache_why

    def _place(self, name: str, key: str) -> str:
        return (route_answer if name in self.rules.routes else pool_answer)(name, key)

    async def _elsewhere(self, call: Call, caller: str) -> AsyncIterator[str]:
        """Calls next to this one whose answer is kept: what a miss mostly differs in."""
        for what, other, who in self._near(call, caller):
            name = self._live.model(other.model)
            key, _ = self._key(other, name, who) if name else ("", "")
            if name and key and await self._answers.look(self._place(name, key)) is not None:
                yield what

    def _near(self, call: Call, caller: str) -> Iterator[tuple[str, Call, str]]:
        for key in (*self._settings.keys, None):
            who = key.name if key else ANONYMOUS
            if who != caller:
                yield f"API key {who}", call, who
        for name in (*self.rules.routes, *(str(each.name) for each in self._live.snapshot.pools)):
            if name != call.model:
                body = {**call.body, "model": name}
                yield f"model {name}", Call(call.endpoint, name, call.is_stream, body), caller
        if len(said := turns(call)) == 1:
            for endpoint in Endpoint:
                if endpoint is not call.endpoint and endpoint.is_answered_in_words:
                    yield f"path {endpoint.value}", question_call(said[0].text, call.model, endpoint), caller

    # --- what is to be forgotten ------------------------------------------------------------------------------------

    async def purge_all(self) -> int:
        return await self._and_questions(await self._answers.purge_all())

    async def purge(self, is_meant: Callable[[Listed], bool]) -> int:
        return await self._and_questions(await self._books.purge(is_meant))

    async def _and_questions(self, purged: int) -> int:
        """Questions whose answers are gone are forgotten with them."""
        await self._questions.forget_lost()
        return purged

    async def purge_scope(self, name: str) -> int:
        """Every answer of a route or model, in the books or not."""
        if name in self.rules.routes:
            return await self._and_questions(await self._answers.purge_route(name))
        return await self._answers.purge_pool(self._live.model(name) or name)


@asynccontextmanager
async def opened(state: Path) -> AsyncIterator[Desk]:
    """The desk of a state folder. Raises SettingsError, HostError, StoreError."""
    paths, settings = _in_use(state)
    url = server_url(paths.root) if settings.redis == "embedded" else settings.redis
    connection = Connection(url, name="cache-desk")
    try:
        try:
            await connection.open(WAIT_S)
        except StoreError as why:
            hint = "; is `ollamactl up` running?" if settings.redis == "embedded" else ""
            raise StoreError(f"{why}{hint}") from why
        desk = Desk(settings, connection, settings_in_use.cache_secret(paths))
        await desk.look()
        yield desk
    finally:
        await connection.close()


def _in_use(state: Path) -> tuple[StatePaths, ClusterSettings]:
    paths = StatePaths(state.absolute())
    if not paths.settings.exists():
        raise HostError(f"no cluster was started with --state {state}; name the folder of one that was")
    return paths, settings_in_use.read(paths)


def question_call(question: str, model: str, endpoint: Endpoint) -> Call:
    """The call that asks this and nothing else."""
    body: dict[str, Any] = {"model": model, "stream": False}
    if endpoint is Endpoint.OPENAI_RESPONSES:
        body["input"] = question
    elif endpoint.is_chat:
        body["messages"] = [{"role": "user", "content": question}]
        body |= {"max_tokens": 4096} if endpoint is Endpoint.ANTHROPIC_MESSAGES else {}
    else:
        body["prompt"] = question
    return parse_call(endpoint, orjson.dumps(body))


def found_told(found: Found) -> dict[str, Any]:
    """A kept answer for people and programs."""
    told: dict[str, Any] = {"key": found.key}
    if found.listed is not None:
        told |= {"bytes": found.listed.bytes, **found.listed.about._asdict()}
    if found.entry is None:
        return {**told, "problem": "it is gone, or sealed with a key that the settings do not have"}
    return told | told_of(found.entry, time.time())


def _trace_of(caller: str) -> Trace:
    return Trace("", 0.0, Caller(caller))


def _faq_step(faq: Faq, question: str) -> Step:
    today = datetime.now(UTC).date()
    found = faq.find(question, today)
    if found is not None:
        return Step("faq", "hit", (found.told,))
    near = [
        f"near {each.compared.likeness:.2f} {each.entry.origin}: {each.question!r}: "
        + ("; ".join(each.compared.objections) or "nothing against it, but another answer may be meant too")
        for each in faq.neighbours(question, today, most=3)
    ]
    return Step("faq", "miss", ("no entry asks this", *near))


def _digest_in(name: str) -> str:
    """The digest that is named: itself or its beginning, or an `X-Cache-Key` with it."""
    parts = name.split(".")
    return parts[2] if len(parts) > 3 and parts[1] in ("r", "p") else name.rpartition(":")[2]
