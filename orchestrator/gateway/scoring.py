"""How hard a question is by the word of a model of the cluster, where a route asks for that (`scorer: llm`).

A call of its own, in the pool's queue like any other and with the priority of the one it is about, within a time limit;
what was said of a text is remembered. It counts towards the budgets of its tier and of the caller's key. Whatever goes
wrong, and where those are used up, the trained weights decide. Texts go to pools alone, never outside: a provider's
tier is no scorer, whatever class the text is of.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import orjson

from orchestrator import telemetry
from orchestrator.core import limits, llm_score
from orchestrator.core.dialects.outcome import read_answer
from orchestrator.core.dialects.parse import parse_call, turns
from orchestrator.core.difficulty import Difficulty
from orchestrator.core.errors import CapacityError, InstanceError, OrchestratorError
from orchestrator.core.limits import Exhausted
from orchestrator.core.model import Endpoint, Pool
from orchestrator.gateway.admission import Admission, Grant, Wanted
from orchestrator.gateway.asked import BYTES_A_TOKEN, Asked
from orchestrator.gateway.budgets import Budgets, Reserved
from orchestrator.gateway.live import Live, Scorer
from orchestrator.gateway.orders import order_for
from orchestrator.gateway.relay import Refused, Relayed, relay
from orchestrator.gateway.upstream import Connections, Exchange

REMEMBERED: Final = 10_000
KEEP_BYTES: Final = 65_536  # of an answer that has a few dozen letters, with its counts
# A model that failed so often in a row is not asked for a while: each call would wait for it in vain.
FAILURES: Final = 3
LEFT_ALONE_S: Final = 30.0
USED_BY: Final = "scorer"  # what it costs is counted under this tier

Told = tuple[str, int]


class Scoring:
    """Models' words on texts. `clock`: seconds that only grow."""

    def __init__(
        self,
        live: Live,
        admission: Admission,
        connections: Connections,
        budgets: Budgets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._live, self._admission, self._connections, self._clock = live, admission, connections, clock
        self._budgets = budgets
        self._remembered: OrderedDict[bytes, Told] = OrderedDict()
        self._failures: dict[str, int] = {}
        self._alone_until_s: dict[str, float] = {}

    async def score(self, asked: Asked, scorer: Scorer, trained: Difficulty) -> Difficulty:
        """As the scorer's model says; as `trained` where it does not say. Never raises."""
        judged = llm_score.prompt(turns(asked.call))
        name = llm_score.digest(scorer.pool, judged)
        told = self._remembered.get(name)
        if told is not None:
            self._remembered.move_to_end(name)
            return self._told("remembered", llm_score.judged_by(scorer.pool, told, trained))
        if self._alone_until_s.get(scorer.pool, 0.0) > self._clock():
            return self._told("left alone", llm_score.unjudged(f"{scorer.pool} failed lately", trained))
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(scorer.timeout_s):
                said = await self._ask(judged, asked, scorer)
        except TimeoutError:
            return self._failed(scorer, "timeout", f"{scorer.pool} said nothing in {scorer.timeout_s:g} s", trained)
        except OrchestratorError as why:
            return self._failed(scorer, type(why).__name__, why.in_log, trained)
        finally:
            asked.trace.waited_s += time.perf_counter() - began_s  # none of it is ours
        if isinstance(said, Exhausted):  # no fault of the model's
            return self._told("used up", llm_score.unjudged(f"{said.scope} has used its {said.limit}", trained))
        if said is None:
            return self._failed(scorer, "invalid", f"{scorer.pool} did not answer as asked", trained)
        self._failures.pop(scorer.pool, None)
        self._remember(name, said)
        return self._told("ok", llm_score.judged_by(scorer.pool, said, trained))

    # --- one question -------------------------------------------------------------------------------------------------

    async def _ask(self, judged: str, asked: Asked, scorer: Scorer) -> Told | Exhausted | None:
        pool = self._live.pool(scorer.pool)
        if pool is None:
            raise CapacityError(f"no instance serves {scorer.pool} now", retry_after_s=5)
        raw = orjson.dumps(llm_score.body(scorer.pool, judged))
        judging = asked._replace(call=parse_call(Endpoint.OLLAMA_CHAT, raw), size=len(raw))
        reserved = await self._budgets.reserve(judging, scorer.tier)
        if isinstance(reserved, Exhausted):
            return reserved
        try:
            grant = await self._slot(judging, pool, scorer)
        except BaseException:
            self._budgets.release(reserved)
            raise
        return await self._on(grant, judging, pool, scorer, reserved._replace(tier=""))  # no answer of the tier's kind

    async def _slot(self, judging: Asked, pool: Pool, scorer: Scorer) -> Grant:
        caller = judging.trace.caller
        wanted = Wanted(
            caller=caller.name,
            affinity="",
            answer_key="",
            excluded=(),
            priority=caller.priority,
            wait_s=scorer.timeout_s,
            prompt_tokens=min(judging.size // BYTES_A_TOKEN, pool.context),
        )
        admitted = await self._admission.admit(pool, wanted)
        assert isinstance(admitted, Grant), "nothing of it is kept or shared"
        return admitted

    async def _on(self, grant: Grant, judging: Asked, pool: Pool, scorer: Scorer, reserved: Reserved) -> Told | None:
        """One instance asked, its slot given back and what was reserved settled whatever happens."""
        caller = judging.trace.caller.name
        try:
            order = order_for(judging.call, pool, grant.instance, self._live.rules.limits, KEEP_BYTES, caller)
            relayed = await relay(self._connections, order, None, _heard, None, _Unwatched())
        except InstanceError as why:
            self._admission.failed(grant, is_dead=why.is_unreachable, is_hung=why.is_hung)
            self._budgets.release(reserved)
            raise
        except BaseException:
            self._admission.gone(grant, is_answering=True)
            self._settle(judging, scorer, reserved, (limits.prompt_tokens(judging.size), 0))  # read at least
            raise
        tokens = (0, 0) if isinstance(relayed, Refused) else (relayed.end.prompt_tokens, relayed.end.completion_tokens)
        self._settle(judging, scorer, reserved, tokens)
        if isinstance(relayed, Refused) or not relayed.end.is_whole:
            self._admission.unused(grant)
            return None
        self._admission.served(grant, USED_BY, caller, None, tokens)
        for kind, amount in zip(("prompt", "completion"), tokens, strict=True):
            telemetry.TALLY.count(telemetry.TOKENS, (USED_BY, kind), amount)
        return _said(relayed)

    def _settle(self, judging: Asked, scorer: Scorer, reserved: Reserved, tokens: tuple[int, int]) -> None:
        """What it truly used, to the tier and the caller's key; what it cost is part of the caller's call."""
        price = scorer.tier.price
        usd = 0.0 if price is None else price.of(*tokens)
        judging.trace.usd += usd
        if usd:
            telemetry.TALLY.count(telemetry.USD, (USED_BY,), usd)
        self._budgets.settle(reserved, tokens, usd)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _failed(self, scorer: Scorer, outcome: str, why: str, trained: Difficulty) -> Difficulty:
        failures = self._failures[scorer.pool] = self._failures.get(scorer.pool, 0) + 1
        if failures >= FAILURES:
            self._failures[scorer.pool] = 0
            self._alone_until_s[scorer.pool] = self._clock() + LEFT_ALONE_S
        return self._told(outcome, llm_score.unjudged(why, trained))

    def _told(self, outcome: str, difficulty: Difficulty) -> Difficulty:
        telemetry.TALLY.count(telemetry.SCORED, (outcome,))
        return difficulty

    def _remember(self, name: bytes, told: Told) -> None:
        self._remembered[name] = told
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)


class _Unwatched:
    """Its time limit is the route's, far below what a hang is told by."""

    def sent(self, exchange: Exchange) -> None:
        """Nobody watches."""


def _heard() -> None:
    """When it began to answer is no matter."""


def _said(relayed: Relayed) -> Told | None:
    answer = read_answer(Endpoint.OLLAMA_CHAT, False, relayed.body or b"", relayed.end)
    return None if answer is None else llm_score.read(answer.text)
