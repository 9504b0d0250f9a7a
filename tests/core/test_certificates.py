"""When a certificate of the cluster's own is made anew."""

from __future__ import annotations

import pytest

from orchestrator.core.certificates import LIFE_DAYS, Certificate, life_at, why_renewed

DAY_S = 86_400
NAMES = frozenset({"gpu-1", "10.0.0.7"})
MADE = 1_800_000_000


def certificate(authority: str = "ours", names: frozenset[str] = NAMES) -> Certificate:
    return Certificate(authority, names, *life_at(MADE))


@pytest.mark.parametrize(
    ("has", "days", "why"),
    [
        (None, 0, "there is none"),
        (certificate(), 0, ""),
        (certificate(), 59, ""),
        (certificate(), 60, "two thirds of its time are over"),
        (certificate(), LIFE_DAYS, "it has expired"),
        (certificate(authority="another's"), 0, "it is of another authority"),
        (certificate(names=frozenset({"gpu-1", "10.0.0.6"})), 0, "it is not for 10.0.0.7"),
        (certificate(names=NAMES | {"gpu-1.example"}), 0, ""),
    ],
)
def test_it_is_renewed_where_it_is_not_what_it_should_be_or_two_thirds_old(
    has: Certificate | None, days: int, why: str
) -> None:
    assert why_renewed(has, "ours", NAMES, MADE + days * DAY_S) == why


def test_it_holds_for_clocks_that_are_behind() -> None:
    since, until = life_at(MADE)
    assert since <= MADE - DAY_S
    assert until == MADE + LIFE_DAYS * DAY_S
