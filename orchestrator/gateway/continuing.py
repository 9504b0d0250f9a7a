"""How a stream that broke goes on: what its client was shown is read, and another instance is asked for the rest.

All of this is done once a stream has broken. What may be continued is decided in `core.continuing`, the frames are made
in `core.dialects.resuming`; slots and instances are `asking`'s.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple

from orchestrator.core import continuing
from orchestrator.core.dialects.frames import stream_type
from orchestrator.core.dialects.resuming import Rest, SoFar, closing, read_so_far
from orchestrator.core.model import Call, Engine, Instance, Pool
from orchestrator.gateway.asked import Asked
from orchestrator.gateway.hidden_usage import asking_for_usage
from orchestrator.gateway.live import Limits
from orchestrator.gateway.orders import order_for
from orchestrator.gateway.relay import Order
from orchestrator.gateway.shown import CutShort, Shown


class Plan(NamedTuple):
    """What is asked of the next instance, and what its answer goes behind."""

    call: Call
    before: SoFar
    shown: Shown
    took_ns: int  # to tell what was shown
    is_full: bool


def may_continue(call: Call, pool: Pool, limits: Limits) -> bool:
    """Whether the stream of an answer may go on elsewhere, as far as the call and its model decide that."""
    return limits.continues and continuing.may_continue(call, pool, has_template=_has_template(pool))


def plan_of(asked: Asked, cut: CutShort) -> Plan | str:
    """How a broken stream goes on; or in a word why it does not."""
    trace, shown, endpoint = asked.trace, cut.shown, asked.call.endpoint
    if trace.continued >= continuing.MOST:
        return "often"
    told = shown.kept.told()
    if told is None:
        return "length"
    end = closing(endpoint, told)
    if end is None:
        return "torn"
    before = read_so_far(endpoint, told + end)
    if before.beside:
        return before.beside
    if before.repeats:
        return "repeats"
    if end:
        shown.show([end])
    following = continuing.next_call(asked.call, before)
    took_s = time.perf_counter() - trace.began_s - trace.first_byte_s
    return Plan(following.call, before, shown, max(0, int(took_s * 1e9)), following.is_full)


def order_of(asked: Asked, plan: Plan, pool: Pool, instance: Instance, limits: Limits) -> Order:
    """The request for the rest of an answer. Raises CallerError for what the instance's engine cannot do."""
    order = order_for(plan.call, pool, instance, limits, 0, asked.trace.caller.name)
    rest = Rest(
        asking_for_usage(asked.call),
        plan.call.endpoint,
        plan.before,
        lambda: datetime.now(UTC),
        order.translation,
        took_ns=plan.took_ns,
        is_full=plan.is_full,
    )
    return order._replace(
        call=asked.call,
        content_type=stream_type(asked.call.endpoint),
        translation=rest,
        continues=True,
        behind=plan.shown,
    )


def _has_template(pool: Pool) -> bool:
    """Ollama goes by the model's template; llama.cpp's server leaves an answer open that was begun for it."""
    return any(each.engine is Engine.OLLAMA for each in pool.instances)
