"""What a provider says of its own limits in an answer's headers, whichever of the usual spellings it uses.

OpenAI, Groq: `x-ratelimit-remaining-requests` and `-tokens`, `x-ratelimit-reset-…` as "6m0s" or "340ms"; Mistral:
`x-ratelimit-remaining-req-minute` and `-tokens-minute`; OpenRouter: `x-ratelimit-remaining`, `x-ratelimit-reset` as a
unix time in ms; Anthropic: `anthropic-ratelimit-…` with a date; all of them: `Retry-After`, in seconds or as a date, or
`retry-after-ms`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

# A word for longer than that is a mistake, or no limit that waiting helps with: it is asked again after this.
LONGEST_S: Final = 86_400.0
# Told what is left and not for how long: until the next word, but no longer than the shortest window there is.
USUAL_RESET_S: Final = 60.0

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|s|m|h|d)")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_REQUESTS: Final = (
    *("x-ratelimit-{}-requests", "anthropic-ratelimit-requests-{}", "x-ratelimit-{}-req-minute"),
    *("x-ratelimit-{}-requests-minute", "x-ratelimit-{}", "ratelimit-{}"),
)
_TOKENS: Final = ("x-ratelimit-{}-tokens", "anthropic-ratelimit-tokens-{}", "x-ratelimit-{}-tokens-minute")
_MS_FROM: Final = 1e11  # a unix time above it is in milliseconds
_NEAR_S: Final = 1.5e8  # a number so near to now is a time, not a wait: some five years


class Told(NamedTuple):
    """What a provider allows at this moment. None: it did not say."""

    retry_after_s: float | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None
    reset_requests_s: float = USUAL_RESET_S
    reset_tokens_s: float = USUAL_RESET_S

    @property
    def is_silent(self) -> bool:
        """It said nothing that matters."""
        return self.retry_after_s is None and self.remaining_requests is None and self.remaining_tokens is None


def told_from(headers: Mapping[str, str], now_unix_s: float) -> Told:
    """What the headers say, their names in small letters. What cannot be read was not said."""
    after_ms = _number(headers.get("retry-after-ms"))
    after_s = _seconds(headers.get("retry-after"), now_unix_s) if after_ms is None else after_ms / 1e3
    return Told(
        None if after_s is None else _within(after_s),
        _left(headers, _REQUESTS),
        _left(headers, _TOKENS),
        _reset(headers, _REQUESTS, now_unix_s),
        _reset(headers, _TOKENS, now_unix_s),
    )


def _left(headers: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    told = next((headers[name] for each in names if (name := each.format("remaining")) in headers), None)
    number = _number(told)
    return None if number is None else int(number)


def _reset(headers: Mapping[str, str], names: tuple[str, ...], now_unix_s: float) -> float:
    told = next((headers[name] for each in names if (name := each.format("reset")) in headers), None)
    seconds = _seconds(told, now_unix_s)
    return USUAL_RESET_S if seconds is None else _within(seconds)


def _seconds(told: str | None, now_unix_s: float) -> float | None:
    """From now on: a number of seconds, a unix time, a duration as Go writes it, or a date."""
    if told is None:
        return None
    number = _number(told)
    if number is not None:
        if number > _MS_FROM:
            return number / 1e3 - now_unix_s
        return number - now_unix_s if abs(number - now_unix_s) < _NEAR_S else number
    text = told.strip()
    parts = _PART.findall(text)
    if parts and "".join(map("".join, parts)) == text:
        return float(sum(float(amount) * _UNITS[unit] for amount, unit in parts))
    at = _date(text)
    return None if at is None else at - now_unix_s


def _number(told: str | None) -> float | None:
    try:
        number = float(told) if told is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> float | None:
    """Unix seconds of a date as HTTP or as ISO 8601 writes it."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = read(text)
        except ValueError:
            continue
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return None


def _within(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)
