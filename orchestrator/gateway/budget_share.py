"""Budgets while Redis is away: this gateway's part of what was left when Redis was last heard of, counted here.

What it used is told to Redis afterwards. When it is asked, and who is told of it, is left to `budgets`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from orchestrator import telemetry
from orchestrator.core import limits
from orchestrator.core.admission import Share
from orchestrator.core.errors import StoreError
from orchestrator.core.limits import Counts, Need, Refusal, Reserved, Used
from orchestrator.core.target import ENDLESS, Budget
from orchestrator.core.told import Told
from orchestrator.store import budgets
from orchestrator.store.budgets import Claim
from orchestrator.store.connection import Connection

log = logging.getLogger(__name__)

_NOTHING: Final = Counts()


class BudgetShare:
    """What one gateway of several may use by itself, and what it used. `share`: its part, as gateways are known now."""

    def __init__(self, connection: Connection, share: Callable[[], Share]) -> None:
        self._connection, self._share = connection, share
        self._seen: dict[str, tuple[Used, int]] = {}  # by scope, and when (unix ms)
        self._own: dict[str, Counts] = {}  # by scope, since Redis is away
        self._untold: dict[str, Need] = {}  # by scope, what was used without it
        self._has_said = False
        connection.on_up(self._own.clear)

    def saw(self, scope: str, used: Used) -> None:
        """What all gateways together have used by now."""
        self._seen[scope] = used, now_ms()

    def forget(self, before_ms: int) -> None:
        """Leave out what was not heard of since: callers by token come and go."""
        self._seen = {scope: told for scope, told in self._seen.items() if told[1] >= before_ms}

    def seen(self, scope: str) -> Used:
        """The last that was heard of."""
        return self._seen[scope][0] if scope in self._seen else Used()

    def claim(self, claims: Sequence[Claim], under_way: Mapping[str, int], at_ms: int) -> list[Refusal | None]:
        """Why each claim is refused; all of them are counted where none is. `under_way`: this gateway's, by scope."""
        parts = (self._part(each, under_way.get(each.scope, 0), at_ms) for each in claims)
        refusals = [
            limits.refusal_of(self._own.get(each.scope, _NOTHING), part, each.need, at_ms)
            for each, part in zip(claims, parts, strict=True)
        ]
        if not any(refusals):
            for each in claims:
                own = self._own.get(each.scope, _NOTHING)
                # Those under way are counted by their names, whoever granted them.
                self._own[each.scope] = limits.reserved(own, "", each.need._replace(holds=False), at_ms, 0)
        return refusals

    def settle(self, claim: Claim, used: Need, at_ms: int) -> None:
        """What a call that was claimed at that time did use."""
        if (own := self._own.get(claim.scope)) is not None:
            taken = Reserved("", at_ms // 1000, claim.need)
            self._own[claim.scope] = limits.settled(own, taken, used, now_ms())
        self._note(claim.scope, used)

    def _note(self, scope: str, used: Need) -> None:
        """To be told to Redis."""
        before = self._untold.get(scope, Need())
        tokens, nano = (before.tokens or 0) + (used.tokens or 0), (before.nano or 0) + (used.nano or 0)
        self._untold[scope] = Need(before.requests + used.requests, tokens, nano)

    def heed(self, scope: str, told: Told) -> None:
        """Keep to a provider's word."""
        self._own[scope] = limits.heeded(self._own.get(scope, _NOTHING), told, now_ms())

    async def tell(self) -> None:
        """Let Redis know what was used without it. Raises StoreError; the rest is told the next time."""
        while self._untold and self._connection.is_up:
            scope, need = self._untold.popitem()
            try:
                await budgets.reserve(self._connection, "", (Claim(scope, ENDLESS, need),), 0)
            except BaseException:
                self._note(scope, need)
                raise

    def say_alone(self, why: StoreError | None = None) -> None:
        """Say once that budgets are divided, and why."""
        telemetry.STORE_ERRORS.inc()
        if not self._has_said:
            reason = why or self._connection.problem
            log.error("budgets: what was left is divided by %d gateways: %s", self._share().gateways, reason)
        self._has_said = True

    def say_together(self) -> None:
        """Say that all gateways count together, where something else was said before."""
        if self._has_said:
            log.warning("budgets: Redis is back, all gateways count together again")
            self._has_said = False

    def _part(self, claim: Claim, under_way: int, at_ms: int) -> Budget:
        seen, seen_ms = self._seen.setdefault(claim.scope, (Used(), at_ms))
        part = limits.share_of(claim.budget, seen, seen_ms, at_ms, self._share(), claim.scope)
        # A call more than that is refused, one less than none is none.
        return part if part.concurrent is None else replace(part, concurrent=max(0, part.concurrent - under_way))


def now_ms() -> int:
    """By this machine's clock: Redis' own is away."""
    return time.time_ns() // 1_000_000
