"""A budget of retries: a few always, a share of what comes, and no storm."""

from __future__ import annotations

from orchestrator.core.retrying import FEW, MOST, SHARE, RetryBudget


def taken(budget: RetryBudget, now_s: float, tries: int = 1000) -> int:
    return sum(budget.takes(now_s) for _ in range(tries))


def test_a_pool_that_nobody_asked_before_may_retry_a_few_calls() -> None:
    assert taken(RetryBudget(0.0), 0.0) == FEW


def test_where_every_call_fails_a_fifth_is_retried_and_no_more() -> None:
    budget, retried = RetryBudget(0.0), 0
    for _ in range(1000):
        budget.called()
        retried += budget.takes(0.0)
    assert retried <= FEW + 1000 * SHARE
    assert retried >= 1000 * SHARE - 1


def test_a_second_gives_one_back_and_a_long_time_a_few() -> None:
    budget = RetryBudget(0.0)
    taken(budget, 0.0)
    assert taken(budget, 1.0) == 1
    assert taken(budget, 1000.0) == FEW


def test_calm_times_save_up_so_much_and_not_more() -> None:
    budget = RetryBudget(0.0)
    for _ in range(100_000):
        budget.called()
    assert MOST - 1 <= taken(budget, 0.0) <= MOST + 1
