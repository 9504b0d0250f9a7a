"""What a kept answer may be used for, what a caller's Cache-Control says of it, and which answers are kept at all.

No clock and no chance of its own: both are handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from orchestrator.core.cache_entry import Entry
from orchestrator.core.dialects.conversation import drawn_by
from orchestrator.core.model import Answer, Call, Finish


class Wish(NamedTuple):
    """A caller's Cache-Control (RFC 9111, 5.2.1), as far as it is heeded."""

    no_store: bool = False  # neither read nor kept
    no_cache: bool = False  # made anew, and kept in place of the old one
    max_age_s: float | None = None  # no older than that

    @property
    def may_read(self) -> bool:
        return not (self.no_store or self.no_cache)


NO_WISH: Final = Wish()


def wish_from(header: str) -> Wish:
    """Directives that are not known, or not well formed, are passed over, as RFC 9111 asks."""
    if not header:
        return NO_WISH
    told = dict(_directive(each) for each in header.lower().split(","))
    age = told.get("max-age", "")
    return Wish("no-store" in told, "no-cache" in told, float(age) if age.isascii() and age.isdigit() else None)


def _directive(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip().strip('"')


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long answers of one route or model are given."""

    ttl_s: float
    ttl_jitter: float = 0.0  # at most this part of it is taken off, so that what came together does not end together
    while_revalidate_s: float = 0.0  # past its time it is given at once and made anew behind that
    if_error_s: float = 0.0  # past its time it is given where nothing else can answer

    @property
    def kept_s(self) -> float:
        """How long Redis keeps it."""
        return self.ttl_s + max(self.while_revalidate_s, self.if_error_s)

    def entry(self, answer: Answer, now_s: float, chance: float) -> Entry:
        """`answer` as it is kept; `chance`: from 0 to 1."""
        fresh_s = self.ttl_s * (1 - self.ttl_jitter * chance)
        return Entry(answer, now_s, now_s + fresh_s, now_s + self.kept_s)


class Standing(StrEnum):
    """What a kept answer may be used for now."""

    FRESH = "fresh"
    STALE = "stale"  # given, and made anew behind that
    SPARE = "spare"  # given only where nothing else can answer
    OLD = "old"  # not given


def standing(entry: Entry, freshness: Freshness, wish: Wish, now_s: float) -> Standing:
    """A fresh entry that is older than its caller wants is a spare: late is better than never."""
    late_s = now_s - entry.fresh_until_s
    is_young = wish.max_age_s is None or now_s - entry.kept_at_s <= wish.max_age_s
    if is_young and late_s <= 0:
        return Standing.FRESH
    if is_young and late_s <= freshness.while_revalidate_s:
        return Standing.STALE
    return Standing.SPARE if late_s <= freshness.if_error_s else Standing.OLD


def is_worth_keeping(call: Call, answer: Answer, *, tool_calls: bool) -> bool:
    """Whether a whole answer is one to give again.

    Not one that ran into the end of its context: only a limit that the caller itself set makes a short answer the one
    that was asked for. Not one that calls tools, unless `tool_calls`: what it has done once is done again with each
    hit. Not one without a word.
    """
    if answer.tool_calls or answer.finish is Finish.TOOL_CALLS:
        return tool_calls
    if answer.finish is Finish.LENGTH:
        limit = drawn_by(call, "num_predict")
        return isinstance(limit, int) and 0 < limit <= answer.completion_tokens
    return bool(answer.text.strip())
