"""What a card costs a month: rented by the hour, or bought, written off and fed with electricity.

Knows `data/cards.json`, whose entries say where a price was read and when. Prices move daily: they are data, not truth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final

from orchestrator.core.cards import CARDS, Card

HOURS_A_MONTH: Final = 730


class Basis(StrEnum):
    """Which price of a card counts."""

    RENT = "rent"
    BUY = "buy"


@dataclass(frozen=True, slots=True)
class Price:
    """One card's figures. None: nobody publishes one, or it was not found."""

    card: Card
    power_w: float
    rent_usd_h: float | None
    rent_source: str | None
    rent_on: str | None
    buy_usd: float | None
    buy_on: str | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a bought card costs beyond itself. All of it is assumed, none of it a quotation.

    `host_usd`: the rest of the machine, for each card. `host_w`: what it draws. A card is taken to draw its limit all
    the time: that is too much, and the safe side.
    """

    months: int = 36
    usd_kwh: float = 0.15
    host_usd: float = 700.0
    host_w: float = 100.0


@cache
def prices() -> tuple[Price, ...]:
    """Every card of the catalogue with its prices, in the catalogue's order."""
    table: dict[str, dict[str, Any]] = json.loads((files("orchestrator") / "data" / "cards.json").read_bytes())["cards"]
    return tuple(
        Price(
            card,
            told["power_w"],
            told["rent_usd_h"],
            told["rent_source"],
            told["rent_on"],
            told["buy_usd"],
            told["buy_on"],
        )
        for card in CARDS
        if (told := table.get(card.name)) is not None
    )


def monthly_usd(card: Card, basis: Basis, terms: Terms | None = None) -> float | None:
    """Dollars a month for one `card` with its part of a host; None where no price is known on that basis."""
    price = next((each for each in prices() if each.card.name == card.name), None)
    if price is None:
        return None
    if basis is Basis.RENT:
        return None if price.rent_usd_h is None else price.rent_usd_h * HOURS_A_MONTH
    if price.buy_usd is None:
        return None
    terms = terms or Terms()
    power = (price.power_w + terms.host_w) / 1000 * HOURS_A_MONTH * terms.usd_kwh
    return (price.buy_usd + terms.host_usd) / terms.months + power
