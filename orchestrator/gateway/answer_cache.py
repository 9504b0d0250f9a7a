"""The answer cache as a call meets it: its key, what was kept under it, whether that may be given, what is kept of it.

Policies are `core`'s; where answers lie is the store's. What is kept, given and missed is told to the books once a
second, so that no call waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from orchestrator import telemetry
from orchestrator.core.cache_entry import About, Entry, entry_bytes, entry_from, tags_from
from orchestrator.core.cache_policy import Standing, Wish, is_worth_keeping, standing
from orchestrator.core.cachekey import Bypass, answer_key, bypass, family_key, receipt, scope_key, target_of
from orchestrator.core.dialects.conversation import each_turn
from orchestrator.core.errors import StoreError
from orchestrator.core.faq import question_of
from orchestrator.core.model import Answer, Call
from orchestrator.core.paraphrase.asked import Match, Question
from orchestrator.core.paraphrase.plain import LETTERS_MAX, Judged
from orchestrator.core.privacy import Privacy
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.cache_words import hitless, in_numbers
from orchestrator.gateway.discretion import Private, said_of
from orchestrator.gateway.live import Live, Rules
from orchestrator.gateway.other_words import OtherWords, Wording, wording
from orchestrator.gateway.trace import Trace
from orchestrator.store.admission import Kept
from orchestrator.store.answer_books import AnswerBooks, Books, Noted
from orchestrator.store.connection import Connection
from orchestrator.store.near import Near
from orchestrator.store.schema import pool_answer, route_answer

log = logging.getLogger(__name__)

RECKON_EVERY_S: Final = 1.0
# What a caller would have its answer purged by.
TAGS: Final = b"x-cache-tags"
# Reasons for a miss, beside those for not asking (`Bypass`).
ABSENT, UNREADABLE, OLD, ANEW, AWAY = "absent", "unreadable", "old", "no_cache", "away"
PARAPHRASE: Final = "paraphrase"  # the layer that gives one question's answer to another


class Given(NamedTuple):
    """A kept answer that may be given."""

    entry: Entry
    standing: Standing


class Alike(NamedTuple):
    """A kept answer to a question that means the same; `asked`: as if that one had been asked."""

    asked: Asked
    entry: Entry
    likeness: float


class AnswerCache:
    """One gateway's part in the answer cache.

    `secret` keys its digests, unless the settings name another, so that a key says nothing of a question.
    """

    def __init__(self, live: Live, connection: Connection, secret: bytes) -> None:
        self._live, self._own_secret = live, secret
        self._books_of = AnswerBooks(connection)
        self._near = Near(connection, _near_bytes(live.rules))
        self._other_words = OtherWords(connection)
        self._private = Private()
        self._targets: dict[str, str] = {}
        self._targets_as_of = live.snapshot, live.rules
        self._noted: dict[str, Noted] = {}
        self._used: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._since: Mapping[str, int] | None = None
        self.books = Books(0, {})  # as of the last reckoning
        self.warning = ""

    def start(self) -> None:
        """Have answers that are given again near at hand."""
        self._near.start()

    @property
    def _secret(self) -> bytes:
        return self._live.rules.cache.secret or self._own_secret

    # --- a call -------------------------------------------------------------------------------------------------------

    def key(self, call: Call, name: str, trace: Trace, wish: Wish, *, is_alone: bool) -> str:
        """The call's key; '' where the cache has no part in it. What `X-Cache` says of that is noted in `trace`."""
        rules = self._live.rules
        route, is_on = rules.routes.get(name), rules.cache.is_enabled
        policy = rules.cache.models if route is None else route.cache
        why = bypass(policy, call, wish.no_store) if is_on else Bypass.OFF
        if is_alone:
            trace.cache, trace.cache_why = "off", AWAY
        elif why is None:
            trace.cache, trace.cache_why = "miss", ANEW if wish.no_cache else ABSENT
        else:
            trace.cache, trace.cache_why = "bypass" if is_on else "off", why.value
        if why is not None:
            return ""
        tenant, target = self._tenant(rules, name, trace, call), self._target(rules, name)
        question, folds = question_of(each_turn(call), call.body) or "", route is not None and route.has_spellings
        return answer_key(tenant=tenant, target=target, call=call, secret=self._secret, question=question, folds=folds)

    def curated(self, call: Call, trace: Trace) -> Answer | None:
        """The FAQ's answer to a call that asks a single plain question."""
        rules = self._live.rules
        if not rules.cache.is_enabled or not rules.faq or not call.endpoint.is_answered_in_words:
            return None
        question = question_of(each_turn(call), call.body)
        found = rules.faq.find(question, datetime.now(UTC).date()) if question else None
        if found is None:
            self._count_miss("faq", "no_entry" if question else "no_plain_question")
            return None
        trace.faq, trace.cache, trace.cache_why = found.told, "faq", found.how
        trace.cache_receipt = self.receipt(trace.caller.name, f"f.{found.how}.{found.told.partition(';')[0]}")
        telemetry.TALLY.count(telemetry.FAQ_ANSWERS, (found.how,))
        return Answer(found.entry.answer)

    def near(self, asked: Asked) -> Given | None:
        """What may be given without asking Redis, for a call that may have a kept answer."""
        place = _place(asked)
        kept = self._near.get(place)
        given = self._opened(asked, kept, place) if kept is not None else None
        telemetry.TALLY.count(telemetry.CACHE_NEAR, ("miss" if given is None else "hit",))
        return given

    def given(self, asked: Asked, kept: bytes) -> Given | None:
        """What may be given of what was kept; None: the call is answered anew. A spare is held in the trace."""
        place = _place(asked)
        given = self._opened(asked, kept, place)
        if given is not None:
            self._near.want(place, len(kept))
        return given

    def _opened(self, asked: Asked, kept: bytes, place: str) -> Given | None:
        trace, entry = asked.trace, self._entry(kept, place)
        if entry is None:
            trace.cache_why = UNREADABLE
            return None
        stands = standing(entry, self._live.rules.freshness_of(asked.name), asked.wish, time.time())
        if stands in (Standing.FRESH, Standing.STALE):
            return Given(entry, stands)
        trace.cache_why = OLD
        if stands is Standing.SPARE:
            trace.spare = entry
        return None

    def _entry(self, kept: bytes, place: str) -> Entry | None:
        plain = self._live.rules.cache.seal.open(kept, place)
        try:
            return entry_from(plain) if plain is not None else None
        except ValueError:
            return None

    def give(self, asked: Asked, entry: Entry, stands: Standing) -> Answer:
        """The answer, and in the trace how old it is and how it may be reported as wrong."""
        trace, name = asked.trace, f"{'r' if asked.is_route else 'p'}.{asked.cache_key}.{_quoted(asked.name)}"
        late = "" if stands is Standing.FRESH else f"; stale={'error' if stands is Standing.SPARE else 'revalidate'}"
        age_s = max(0.0, time.time() - entry.kept_at_s)
        trace.cache, trace.cache_why = "hit", stands.value
        trace.cache_more = f"; layer=exact; age={age_s:.0f}{late}"
        trace.cache_receipt = self.receipt(trace.caller.name, name)
        self._used[_place(asked)] += 1
        return entry.answer

    # --- a call in other words ----------------------------------------------------------------------------------------

    def wording(self, call: Call, name: str, trace: Trace, key: str) -> Wording | None:
        """The call's question, where it is plain enough to be answered as another one was that means the same."""
        rules = self._live.rules
        question = question_of(each_turn(call), call.body)
        if question is None or len(question) > LETTERS_MAX:
            return None
        tenant, target, secret = self._tenant(rules, name, trace, call), self._target(rules, name), self._secret
        family = family_key(tenant=tenant, target=target, call=call, question=question, secret=secret)
        return wording(name, scope_key(tenant=tenant, secret=secret), key, family, question)

    async def alike(self, asked: Asked) -> Alike | None:
        """The fresh answer to a question that means the same, where the route gives it."""
        rules = self._live.rules
        if not asked.may_be_kept or not rules.answers_in_other_words(asked.name):
            return None
        asks = self.wording(asked.call, asked.name, asked.trace, asked.cache_key)
        found = await self._other_words.find(asks, rules.cache.seal) if asks is not None else None
        if found is None:
            self._count_miss("paraphrase", "no_plain_question" if asks is None else "none_alike")
            return None
        match, kept = found
        other = asked._replace(cache_key=match.digest)
        entry = self._entry(kept, _place(other))
        if entry is None or not _is_fresh(entry, rules, asked):
            self._count_miss("paraphrase", UNREADABLE if entry is None else OLD)
            return None
        return Alike(other, entry, match.likeness)

    def give_alike(self, asked: Asked, alike: Alike) -> Answer:
        """The other question's answer. Reported as wrong, neither question is held for the other any more."""
        trace, other = asked.trace, alike.asked
        answer = self.give(other, alike.entry, Standing.FRESH)
        trace.cache_layer = PARAPHRASE
        more = trace.cache_more.replace("layer=exact", f"layer={PARAPHRASE}")
        trace.cache_more = f"{more}; likeness={alike.likeness:.2f}"
        name = f"a.{other.cache_key}.{asked.cache_key}.{quote(asked.name)}"
        trace.cache_receipt = self.receipt(trace.caller.name, name)
        return answer

    def learn(self, asked: Asked) -> None:
        """Its answer was kept: it may be given to who asks the same in other words."""
        rules = self._live.rules
        if rules.answers_in_other_words(asked.name):
            asks = self.wording(asked.call, asked.name, asked.trace, asked.cache_key)
            if asks is not None:
                self._other_words.learn(asks, rules.cache.seal, rules.freshness_of(asked.name).kept_s)

    async def report_not_alike(self, tenant: str, route: str, given: str, asked: str) -> None:
        """The answer of one question was given to the other, wrongly. Raises StoreError."""
        rules = self._live.rules
        for whose in {"" if rules.shares(route) else tenant, tenant}:  # its own questions are there in either case
            scope = scope_key(tenant=whose, secret=self._secret)
            await self._other_words.bar(route, scope, (given, asked), rules.freshness_of(route).kept_s)
        await self.report_wrong(PARAPHRASE, route_answer(route, given), "")

    async def match(self, asks: Wording) -> Match | None:
        """The question that means what is asked, of those whose answers are there: for people who look."""
        found = await self._other_words.find(asks, self._live.rules.cache.seal)
        return found[0] if found is not None else None

    async def nearest(self, asks: Wording) -> list[tuple[Question, Judged]]:
        """Questions that mean what is asked, or nearly: for people who look. Raises StoreError."""
        return await self._other_words.nearest(asks, self._live.rules.cache.seal)

    # --- what is told and kept of it ----------------------------------------------------------------------------------

    def receipt(self, tenant: str, name: str) -> str:
        """What its caller may show to report a hit as wrong: the name of what was given, and that it was given."""
        return f"{receipt(tenant=tenant, key=name, secret=self._secret)}.{name}"

    def kept(self, asked: Asked, answer: Answer) -> Kept | None:
        """What is kept of a whole answer, and is noted for the books; None where it is not one to give again."""
        rules = self._live.rules
        if not is_worth_keeping(asked.call, answer, tool_calls=rules.cache.keeps_tool_calls):
            return None
        freshness, place = rules.freshness_of(asked.name), _place(asked)
        entry = freshness.entry(answer, time.time(), random.random())  # noqa: S311 - so that not all end at once
        kept = rules.cache.seal.close(entry_bytes(entry), place)
        if len(kept) > rules.cache.max_answer_bytes:
            return None
        about = self._about(asked, rules)
        self._noted[place] = Noted(place, len(kept), int(entry.kept_at_s * 1e3), int(entry.ends_s * 1e3), about)
        self._near.drop(place)
        return Kept(asked.cache_key, kept, freshness.kept_s)

    def _about(self, asked: Asked, rules: Rules) -> About:
        tenant, request = self._tenant(rules, asked.name, asked.trace, asked.call), asked.request
        tags = tags_from(request.header(TAGS)) if TAGS in request.headers else ()
        return About(asked.name, asked.is_route, tenant, tags)

    def count(self, trace: Trace) -> None:
        """A call has ended: what the cache was to it."""
        if trace.cache == "hit":
            self._counts[f"hits:{trace.cache_layer}:{trace.cache_why}"] += 1
            telemetry.TALLY.count(telemetry.CACHE_HITS, (trace.cache_layer, trace.cache_why))
        elif trace.cache == "faq":
            self._counts["hits:faq:" + trace.cache_why] += 1
            telemetry.TALLY.count(telemetry.CACHE_HITS, ("faq", trace.cache_why))
        elif trace.cache == "joined":
            self._counts["joins"] += 1
        elif trace.cache_why:
            self._count_miss("exact", trace.cache_why)

    def count_join(self, where: str) -> None:
        """A call was answered by what was made for an identical one, `here` or `elsewhere`."""
        self._counts[f"joins:{where}"] += 1
        telemetry.TALLY.count(telemetry.CACHE_JOINS, (where,))

    def _count_miss(self, layer: str, why: str) -> None:
        self._counts[f"misses:{layer}:{why}"] += 1
        telemetry.TALLY.count(telemetry.CACHE_MISSES, (layer, why))

    def _tenant(self, rules: Rules, name: str, trace: Trace, call: Call) -> str:
        """Whose alone the answer is; '' where it is everybody's: of a call with private matter it never is."""
        if not rules.shares(name):
            return trace.caller.name
        if rules.keys.is_open:
            return ""
        is_private = (
            trace.has_class
            or said_of(name, trace.caller, None, rules).privacy is Privacy.LOCAL
            or trace.caller.privacy is not None
            or self._private.has(call, rules.privacy)
        )
        return trace.caller.name if is_private else ""

    def _target(self, rules: Rules, name: str) -> str:
        """What an answer of a pool or route depends on, found once for each publication and each change of settings."""
        snapshot, of_rules = self._targets_as_of
        if self._live.snapshot is not snapshot or rules is not of_rules:
            self._targets, self._targets_as_of = {}, (self._live.snapshot, rules)
        found = self._targets.get(name)
        if found is None:
            found = target_of(name, (self._digest(pool) for pool in rules.pools_of(name)))
            self._targets[name] = found
        return found

    def _digest(self, name: str) -> str:
        """What a pool's model is at this moment; of a provider's nobody knows more than its name."""
        pool = self._live.pool(name)
        return str(pool.details.get("tags", {}).get("digest", "")) if pool is not None else name

    # --- the books ----------------------------------------------------------------------------------------------------

    async def report_wrong(self, layer: str, place: str, faq: str) -> None:
        """A hit was wrong: an answer that was kept is dropped, a curated one is counted. Raises StoreError."""
        if place:
            self._noted.pop(place, None)
            self._near.drop(place)
            await self._books_of.delete([place])
        await self._books_of.count({f"wrong:{layer}": 1, **({f"wrong:faq:{faq}": 1} if faq else {})})
        telemetry.CACHE_FALSE_HITS.labels(layer).inc()

    def begin_anew(self) -> None:
        """The settings changed: whether there are hits is judged from here on."""
        self._since, self.warning = None, ""
        self._near.resize(_near_bytes(self._live.rules))

    async def keep_reckoning(self) -> None:
        """Tell the books what was noted each second, until cancelled."""
        while True:
            await asyncio.sleep(RECKON_EVERY_S)
            await self.reckon()

    async def reckon(self) -> None:
        """Tell the books what was noted; what Redis does not take is told the next time."""
        noted, used, counts = self._noted, self._used, self._counts
        self._noted, self._used, self._counts = {}, Counter(), Counter()
        rules = self._live.rules.cache
        telemetry.CACHE_NEAR_BYTES.set(self._near.bytes)
        try:
            books = await self._books_of.reckon(noted.values(), used, counts, rules.max_bytes)
        except StoreError:
            telemetry.STORE_ERRORS.inc()
            self._noted = noted | self._noted
            self._used.update(used)
            self._counts.update(counts)
            return
        self.books = books
        telemetry.CACHE_BYTES.set(books.bytes)
        telemetry.CACHE_ANSWERS.set(books.entries)
        if books.deleted:
            telemetry.CACHE_EVICTIONS.inc(books.deleted)
        if self._since is None:
            self._since = {name: amount - counts[name] for name, amount in books.counts.items()}
        self._look_for_hits(books, self._since)

    def _look_for_hits(self, books: Books, since: Mapping[str, int]) -> None:
        rules = self._live.rules.cache
        told = hitless(rules, since, books.counts)
        if told and not self.warning:
            log.warning("%s", told)
        self.warning = told
        telemetry.CACHE_HITLESS.set(bool(told))

    def told(self) -> dict[str, Any]:
        """What the books say, for the status page."""
        return {**in_numbers(self.books), "warning": self.warning}


@functools.lru_cache(maxsize=1024)
def _quoted(name: str) -> str:
    """The name of a pool or route, as a receipt has it."""
    return quote(name)


def _near_bytes(rules: Rules) -> int:
    return rules.cache.near_bytes if rules.cache.is_enabled else 0


def _is_fresh(entry: Entry, rules: Rules, asked: Asked) -> bool:
    return standing(entry, rules.freshness_of(asked.name), asked.wish, time.time()) is Standing.FRESH


def _place(asked: Asked) -> str:
    """Where the call's answer lies in Redis."""
    return (route_answer if asked.is_route else pool_answer)(asked.name, asked.cache_key)
