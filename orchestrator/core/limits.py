"""What a budget allows at a moment: counts of a minute that slides, of calendar days and months, of calls under way.

A scope is what a budget is of: a tier, a provider's account, an API key. Its counts are values here; the scripts
`reserve` and `spend` keep the same ones in Redis, by the same rules, for all gateways together. Who asks, and what the
answer means for a call, is left to the gateway. Money is counted in billionths of a US dollar: sums of whole numbers do
not drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from typing import Final, NamedTuple

from orchestrator.core.admission import Share
from orchestrator.core.errors import CapacityError
from orchestrator.core.target import Budget
from orchestrator.core.told import Told

__all__ = ["Budget", "Told"]

# A minute slides by whole seconds, and one is counted until all of it is a minute old: in no minute, wherever it
# begins, is more used than the limit, and what was used is free again at most a second late.
WINDOW_S: Final = 60
DAY_MS: Final = 86_400_000
# When a call that is under way will end, nobody can tell.
HELD_WAIT_MS: Final = 1000
NANO: Final = 1_000_000_000
BYTES_A_TOKEN: Final = 4
USUAL_ANSWER: Final = 256  # tokens, before a tier has answered anything
_NOISE: Final = 1e-3  # of a nano: what products of dollars are off by
# A moving mean of answers: one counts a sixteenth, since they are as unlike as their questions.
_WEIGHT: Final = 1 / 16
_EPOCH: Final = date(1970, 1, 1).toordinal()


class Kind(StrEnum):
    """What is limited; the words of the settings, and what a provider said of itself."""

    RPM = "rpm"
    TPM = "tpm"
    CONCURRENT = "concurrent"
    RPD = "rpd"
    TPD = "tpd"
    USD_DAY = "usd_day"
    USD_MONTH = "usd_month"
    TOLD = "told"


# In the order in which the scripts name them.
KINDS: Final = tuple(Kind)
LIMITED: Final = KINDS[:-1]
_WORDS: Final = {
    Kind.RPM: "{:,.0f} requests a minute",
    Kind.TPM: "{:,.0f} tokens a minute",
    Kind.CONCURRENT: "{:,.0f} requests at once",
    Kind.RPD: "{:,.0f} requests a day",
    Kind.TPD: "{:,.0f} tokens a day",
    Kind.USD_DAY: "{} dollars a day",
    Kind.USD_MONTH: "{} dollars a month",
}


class Need(NamedTuple):
    """What a call uses of a scope. None: that is counted elsewhere, or nowhere."""

    requests: int = 0
    tokens: int | None = None
    nano: int | None = None
    holds: bool = False  # it is counted as under way until it is settled

    def settled(self, tokens: int, nano: int) -> Need:
        """The same call, once it is known what it used."""
        return self._replace(
            tokens=None if self.tokens is None else tokens, nano=None if self.nano is None else nano, holds=False
        )

    @property
    def released(self) -> Need:
        """The same call, which did not happen."""
        return self.settled(0, 0)._replace(requests=0)


class Used(NamedTuple):
    """What of each kind is used at a moment."""

    rpm: int = 0
    tpm: int = 0
    concurrent: int = 0
    rpd: int = 0
    tpd: int = 0
    nano_day: int = 0
    nano_month: int = 0


class Refusal(NamedTuple):
    """The limit that lasts longest of those that are used up, and until when."""

    kind: Kind
    wait_ms: int


class Exhausted(NamedTuple):
    """An expected no: somebody's budget is used up for now."""

    scope: str  # "tier:deep", "provider:groq", "target:groq:llama", "key:support", "quota:auto:support"
    limit: str  # a Kind
    retry_after_s: float
    allowed: float | None = None

    @property
    def is_keys(self) -> bool:
        """The caller's own budget, whichever tier is asked."""
        return self.scope.startswith("key:")

    @property
    def ends_call(self) -> bool:
        """No other tier can help: only one that costs nothing is open to a key without dollars."""
        return self.is_keys and self.limit not in (Kind.USD_DAY, Kind.USD_MONTH)

    def __str__(self) -> str:
        kind, _, name = self.scope.partition(":")
        whose = "API key" if kind == "key" else kind
        if self.limit == Kind.TOLD or self.allowed is None:
            return f"{whose} {name} is asked to wait by its provider"
        amount = dollars(self.allowed) if self.limit in (Kind.USD_DAY, Kind.USD_MONTH) else self.allowed
        return f"{whose} {name} has used its {_WORDS[Kind(self.limit)].format(amount)} (`limits.{self.limit}`)"

    def as_error(self) -> CapacityError:
        """What a caller is told whom nothing else can answer."""
        status = 429 if self.is_keys else 503
        return CapacityError(str(self), max(1, math.ceil(self.retry_after_s)), status)


class Left(NamedTuple):
    """What a provider said is left until a moment; decided on until then, and forgotten."""

    amount: int
    until_ms: int


_NOTHING_SAID: Final = Left(0, 0)


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted of one scope, as of the last time somebody looked."""

    minute: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # second -> requests, tokens
    day: int = 0  # since 1970, UTC
    requests: int = 0  # of that day, like the next two
    tokens: int = 0
    nano: int = 0
    month_ends: int = 0  # the first day of the next month
    month_nano: int = 0
    held: Mapping[str, int] = field(default_factory=dict)  # reservation -> when it ends by itself (unix ms)
    barred_until_ms: int = 0  # by the provider's word
    left_requests: Left = _NOTHING_SAID
    left_tokens: Left = _NOTHING_SAID


class Reserved(NamedTuple):
    """What a reservation took of a scope, and in which second."""

    name: str
    second: int
    need: Need


# --- what a call needs -----------------------------------------------------------------------------------------------


def prompt_tokens(prompt_bytes: int) -> int:
    """A first guess at a prompt's tokens, one at least."""
    return max(1, prompt_bytes // BYTES_A_TOKEN)


def usual_answer(before: float, tokens: int) -> float:
    """The moving mean of a tier's answers, one more counted."""
    return before + (tokens - before) * _WEIGHT


def dollars(amount: float) -> str:
    """Dollars and cents; of less than one cent two digits that tell something."""
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"


def nano_of(usd: float) -> int:
    """Dollars as they are counted: rounded up, so that a cheap call is not a free one."""
    return math.ceil(usd * NANO - _NOISE)


# --- what is allowed -------------------------------------------------------------------------------------------------


def counts_at(counts: Counts, now_ms: int) -> Counts:
    """The counts without what is over."""
    second, day = now_ms // 1000, now_ms // DAY_MS
    counts = replace(
        counts,
        minute={at: each for at, each in counts.minute.items() if at >= second - WINDOW_S},
        held={name: ends for name, ends in counts.held.items() if ends > now_ms},
    )
    if day > counts.day:
        counts = replace(counts, day=day, requests=0, tokens=0, nano=0)
    if day >= counts.month_ends:
        counts = replace(counts, month_ends=_next_month(day), month_nano=0)
    return counts


def used_of(counts: Counts, now_ms: int) -> Used:
    """What is used of each kind."""
    now = counts_at(counts, now_ms)
    return Used(
        rpm=sum(requests for requests, _ in now.minute.values()),
        tpm=sum(tokens for _, tokens in now.minute.values()),
        concurrent=len(now.held),
        rpd=now.requests,
        tpd=now.tokens,
        nano_day=now.nano,
        nano_month=now.month_nano,
    )


def refusal_of(counts: Counts, budget: Budget, need: Need, now_ms: int) -> Refusal | None:
    """Why a call may not be made now, and when it may; None: it may.

    A call that by its estimate needs more tokens than the limit is waits until nothing is used, and is let through:
    estimates are rough, and it would wait for ever. Money is not: what costs more than the budget is refused.
    """
    counts = counts_at(counts, now_ms)
    refusals = [each for each in _refusals(counts, budget, need, now_ms) if each.wait_ms > 0]
    return max(refusals, key=lambda each: each.wait_ms, default=None)


def _refusals(counts: Counts, budget: Budget, need: Need, now_ms: int) -> Iterator[Refusal]:
    used, tokens, nano = used_of(counts, now_ms), need.tokens or 0, need.nano or 0
    until_tomorrow = (counts.day + 1) * DAY_MS - now_ms
    if _is_over(used.rpm, need.requests, budget.rpm):
        yield Refusal(Kind.RPM, _minute_wait(counts, 0, used.rpm, need.requests, budget.rpm, now_ms))
    if _is_over(used.tpm, tokens, budget.tpm):
        yield Refusal(Kind.TPM, _minute_wait(counts, 1, used.tpm, tokens, budget.tpm, now_ms))
    if need.holds and _is_over(used.concurrent, 1, budget.concurrent):
        yield Refusal(Kind.CONCURRENT, HELD_WAIT_MS)
    if _is_over(used.rpd, need.requests, budget.rpd):
        yield Refusal(Kind.RPD, until_tomorrow)
    if _is_over(used.tpd, tokens, budget.tpd):
        yield Refusal(Kind.TPD, until_tomorrow)
    if nano and budget.usd_day is not None and used.nano_day + nano > nano_of(budget.usd_day):
        yield Refusal(Kind.USD_DAY, until_tomorrow)
    if nano and budget.usd_month is not None and used.nano_month + nano > nano_of(budget.usd_month):
        yield Refusal(Kind.USD_MONTH, counts.month_ends * DAY_MS - now_ms)
    yield Refusal(Kind.TOLD, _told_wait(counts, need, now_ms))


def _is_over(used: int, need: int, limit: int | None) -> bool:
    return limit is not None and need > 0 and (limit <= 0 or used + min(need, limit) > limit)


def _minute_wait(counts: Counts, part: int, used: int, need: int, limit: int | None, now_ms: int) -> int:
    """Until so much of the minute is over that the call fits."""
    for second, amounts in sorted(counts.minute.items()):
        used -= amounts[part]
        if not _is_over(used, need, limit):
            return (second + WINDOW_S + 1) * 1000 - now_ms
    return (WINDOW_S + 1) * 1000


def _told_wait(counts: Counts, need: Need, now_ms: int) -> int:
    """Until the provider would take the call, by its own word."""
    wait_ms = counts.barred_until_ms - now_ms
    for (amount, until_ms), needed in ((counts.left_requests, need.requests), (counts.left_tokens, need.tokens or 0)):
        if until_ms > now_ms and amount < needed:
            wait_ms = max(wait_ms, until_ms - now_ms)
    return wait_ms


def _next_month(day: int) -> int:
    today = date.fromordinal(_EPOCH + day)
    after = date(today.year + today.month // 12, today.month % 12 + 1, 1)
    return after.toordinal() - _EPOCH


# --- what is counted -------------------------------------------------------------------------------------------------


def reserved(counts: Counts, name: str, need: Need, now_ms: int, ttl_ms: int) -> Counts:
    """The counts with a call that may be made. `name` is the reservation's, held for `ttl_ms` unless it is renewed."""
    counts = _added(counts_at(counts, now_ms), now_ms // 1000, need, now_ms)
    tokens = need.tokens or 0
    return replace(
        counts,
        held={**counts.held, name: now_ms + ttl_ms} if need.holds else counts.held,
        left_requests=counts.left_requests._replace(amount=counts.left_requests.amount - need.requests),
        left_tokens=counts.left_tokens._replace(amount=counts.left_tokens.amount - tokens),
    )


def settled(counts: Counts, taken: Reserved, used: Need, now_ms: int) -> Counts:
    """The counts with what a call did use in place of what was reserved; of windows that are over nothing is left."""
    counts = counts_at(counts, now_ms)
    difference = Need(
        requests=used.requests - taken.need.requests,
        tokens=(used.tokens or 0) - (taken.need.tokens or 0),
        nano=(used.nano or 0) - (taken.need.nano or 0),
    )
    held = {name: ends for name, ends in counts.held.items() if name != taken.name}
    return replace(_added(counts, taken.second, difference, now_ms), held=held)


def _added(counts: Counts, second: int, need: Need, now_ms: int) -> Counts:
    """What a call of that second uses, added to the windows that it is still in."""
    tokens, nano = need.tokens or 0, need.nano or 0
    day = second * 1000 // DAY_MS
    if second >= now_ms // 1000 - WINDOW_S:
        requests_then, tokens_then = counts.minute.get(second, (0, 0))
        counts = replace(
            counts, minute={**counts.minute, second: (requests_then + need.requests, tokens_then + tokens)}
        )
    if day == counts.day:
        counts = replace(
            counts,
            requests=counts.requests + need.requests,
            tokens=counts.tokens + tokens,
            nano=counts.nano + nano,
        )
    if _next_month(day) == counts.month_ends:
        counts = replace(counts, month_nano=counts.month_nano + nano)
    return counts


def heeded(counts: Counts, told: Told, now_ms: int) -> Counts:
    """The counts with what a provider said. It can only forbid: what the settings allow is the operator's word."""
    if told.retry_after_s is not None:
        until_ms = now_ms + round(told.retry_after_s * 1000)
        counts = replace(counts, barred_until_ms=max(counts.barred_until_ms, until_ms))
    if told.remaining_requests is not None:
        left = Left(told.remaining_requests, now_ms + round(told.reset_requests_s * 1000))
        counts = replace(counts, left_requests=left)
    if told.remaining_tokens is not None:
        left = Left(told.remaining_tokens, now_ms + round(told.reset_tokens_s * 1000))
        counts = replace(counts, left_tokens=left)
    return counts


# --- without Redis ---------------------------------------------------------------------------------------------------


def share_of(budget: Budget, seen: Used, seen_ms: int, now_ms: int, share: Share, scope: str) -> Budget:
    """What one gateway may use by itself: its part of what was left when Redis was last heard of.

    What was used before a window began anew is used no more. The parts of all gateways add up to no more than the
    budget where all of them heard of the same use.
    """
    is_same_minute = now_ms - seen_ms <= (WINDOW_S + 1) * 1000
    is_same_day = now_ms // DAY_MS == seen_ms // DAY_MS
    is_same_month = _next_month(now_ms // DAY_MS) == _next_month(seen_ms // DAY_MS)

    def part(limit: int | None, used: int, is_same: bool) -> int | None:
        return None if limit is None else share.of(max(0, limit - (used if is_same else 0)), scope)

    def money(limit: float | None, used: int, is_same: bool) -> float | None:
        left = None if limit is None else max(0, nano_of(limit) - (used if is_same else 0))
        return None if left is None else left // share.gateways / NANO

    return Budget(
        rpm=part(budget.rpm, seen.rpm, is_same_minute),
        rpd=part(budget.rpd, seen.rpd, is_same_day),
        tpm=part(budget.tpm, seen.tpm, is_same_minute),
        tpd=part(budget.tpd, seen.tpd, is_same_day),
        concurrent=part(budget.concurrent, 0, is_same=True),
        usd_day=money(budget.usd_day, seen.nano_day, is_same_day),
        usd_month=money(budget.usd_month, seen.nano_month, is_same_month),
    )
