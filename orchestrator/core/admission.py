"""Who may use which slot while Redis is away: a fixed share of each instance for each gateway, without a word."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping

from orchestrator.core.model import Instance, InstanceState, Pool


def own_share(slots: int, instance: str, index: int, gateways: int) -> int:
    """Slots of an instance that gateway `index` of `gateways` may use. The shares of all add up to `slots`.

    What is left of an even split goes to gateways in an order that differs by instance, so that instances with a single
    slot are spread over the gateways and not all the first one's.
    """
    position = (index + zlib.crc32(instance.encode())) % gateways
    return slots // gateways + (1 if position < slots % gateways else 0)


def choose_alone(
    pool: Pool, in_flight: Mapping[str, int], index: int, gateways: int, excluded: Collection[str] = ()
) -> Instance | None:
    """The least loaded instance on which this gateway has a slot of its share free; None: it must wait."""
    fit = [
        (in_flight.get(each.id, 0) / each.slots, each.id, each)
        for each in pool.instances
        if each.state is InstanceState.SERVING
        and each.id not in excluded
        and in_flight.get(each.id, 0) < own_share(each.slots, each.id, index, gateways)
    ]
    return min(fit)[2] if fit else None
