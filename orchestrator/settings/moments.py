"""Points in time as people write them: a day, or a day and a time with its zone. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def check_moment(text: str) -> str:
    """`text`, if it is a moment. Raises ValueError, which says what one looks like."""
    moment_of(text)
    return text


def moment_of(text: str) -> datetime:
    """A day's beginning in UTC, or a time in its own zone. Raises ValueError."""
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        at = datetime.fromisoformat(text)
    except ValueError as why:
        raise ValueError("expected a day such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z") from why
    if at.tzinfo is None:
        raise ValueError("names no zone; write a Z behind it for UTC")
    return at


def unix_of(text: str) -> float:
    """Its seconds since 1970."""
    return moment_of(text).timestamp()


def written(at: datetime) -> str:
    """A moment as settings have it, to the second."""
    return at.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def span_of(text: str) -> timedelta:
    """A length of time: 90s, 30m, 24h, 90d, 52w. Raises ValueError."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a length of time such as 30m, 24h or 90d; got {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
