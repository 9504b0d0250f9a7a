"""Counts of tokens, as an engine or a provider tells them."""

from __future__ import annotations

from typing import Final

# No context is as long, and so many a call can be added up for years.
_MOST: Final = 1_000_000_000


def tokens_told(told: object) -> int:
    """The count; 0 where it is none. Budgets, bills and Redis' scripts add up what comes from here."""
    return told if type(told) is int and 0 < told <= _MOST else 0
