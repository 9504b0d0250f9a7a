"""What is known of outside providers: where they are, their prices, their plans' quotas, how they like to be asked.

Knows the table in `data/providers.json`, which says where it is from and of which day. Settings come before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

from orchestrator.core.target import Budget, Manners, Price

Told = TypeVar("Told")

WHOLE_ACCOUNT: Final = "*"
# A budget has days and no months: a month's tokens in equal parts, so that its last days have some.
_DAYS_A_MONTH: Final = 31
_SECONDS_A_MINUTE: Final = 60
# Another edition of the same model: its day, its month, or whichever is the newest.
_EDITION: Final = re.compile(r"-(latest|\d{3,4}|\d{8}|\d{4}-\d{2}-\d{2}|preview-\d{2}-\d{2,4})$")


@dataclass(frozen=True, slots=True)
class Known:
    """One provider of the table. `plans`: by plan, then by model or `WHOLE_ACCOUNT`."""

    name: str
    url: str
    page: str
    prices: Mapping[str, Price]
    plans: Mapping[str, Mapping[str, Budget]]
    manners: Manners

    def price_of(self, model: str) -> Price | None:
        """US dollars for a million tokens of it; None where the table has none."""
        return named(self.prices, model)

    def quota_of(self, plan: str, model: str) -> Budget:
        """What a plan allows of one model; without limit where the table says nothing of it."""
        by_model = {name: each for name, each in self.plans.get(plan, {}).items() if name != WHOLE_ACCOUNT}
        return named(by_model, model) or Budget()

    def account_of(self, plan: str) -> Budget:
        """What a plan allows of all models together."""
        return self.plans.get(plan, {}).get(WHOLE_ACCOUNT, Budget())


@dataclass(frozen=True, slots=True)
class Table:
    """The whole of it, with its day and its source."""

    written_on: str
    source: str
    providers: Mapping[str, Known]


def named(by_model: Mapping[str, Told], model: str) -> Told | None:
    """The entry of a model, whoever's name stands before it and whichever edition of it is meant; None for none."""
    lower = {name.lower(): each for name, each in by_model.items()}
    whole = model.strip().lower()
    tail = whole.rpartition("/")[2]
    for name in (whole, tail, _EDITION.sub("", tail)):
        if name in lower:
            return lower[name]
    return next((each for name, each in lower.items() if "*" in name and fnmatchcase(whole, name)), None)


def narrowed(budget: Budget, by: Budget) -> Budget:
    """`budget` where it says something, `by` where it does not."""
    given = {each.name: getattr(budget, each.name) for each in fields(Budget)}
    return Budget(**{name: getattr(by, name) if value is None else value for name, value in given.items()})


@cache
def table() -> Table:
    """The table that comes with the package."""
    read: dict[str, Any] = json.loads((files("orchestrator") / "data" / "providers.json").read_bytes())
    known = {name: _known(name, each) for name, each in read["providers"].items()}
    return Table(read["written_on"], read["source"], known)


def _known(name: str, entry: Mapping[str, Any]) -> Known:
    prices = {model: Price(*told) for model, told in entry.get("prices", {}).items()}
    plans = {
        plan: {model: _budget(told) for model, told in quotas.items()}
        for plan, quotas in entry.get("plans", {}).items()
    }
    return Known(name, entry["url"], entry["page"], prices, plans, _manners(entry.get("manners", {})))


def _budget(told: Mapping[str, int]) -> Budget:
    given = dict(told)
    if rps := given.pop("rps", None):
        given["rpm"] = rps * _SECONDS_A_MINUTE
    if month := given.pop("tokens_month", None):
        given["tpd"] = month // _DAYS_A_MONTH
    return Budget(**given)


def _manners(told: Mapping[str, Any]) -> Manners:
    efforts = told.get("efforts")
    return Manners(
        renames=told.get("renames", {}),
        refuses=frozenset(told.get("refuses", ())),
        efforts=None if efforts is None else {pattern: tuple(words) for pattern, words in efforts.items()},
        has_schemas=told.get("has_schemas", True),
        tool_id_letters=told.get("tool_id_letters", 0),
    )
