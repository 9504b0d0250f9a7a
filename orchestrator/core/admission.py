"""Who may use which slot while Redis is away: a fixed share of each instance for each gateway, and room on it."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.core.model import Instance, InstanceState, Pool


@dataclass(frozen=True, slots=True)
class Share:
    """The part of every instance's slots that gateway `index` of `gateways` may use.

    `elsewhere`: how many of them are on other machines, where nobody here can see what they use.
    """

    index: int
    gateways: int
    elsewhere: int = 0

    def of(self, slots: int, instance: str) -> int:
        """Slots of an instance that are this gateway's. The shares of all add up to `slots`.

        What is left of an even split goes to gateways in an order that differs by instance, so that instances with a
        single slot are spread over the gateways and not all the first one's.
        """
        position = (self.index + zlib.crc32(instance.encode())) % self.gateways
        return slots // self.gateways + (1 if position < slots % self.gateways else 0)


def choose_alone(
    pool: Pool, own: Mapping[str, int], everyones: Mapping[str, int], share: Share, excluded: Collection[str] = ()
) -> Instance | None:
    """The least loaded instance on which this gateway has a slot of its share free; None: it must wait.

    `own` and `everyones` are the slots in use by instance, of this gateway and of all together. Shares alone would keep
    to the slots from the first call on. But Redis may have given one gateway more than its share before it went away:
    until those calls end, the others' shares are not free.
    """
    fit = [
        (everyones.get(each.id, 0) / each.slots, each.id, each)
        for each in pool.instances
        if each.state is InstanceState.SERVING
        and each.id not in excluded
        and own.get(each.id, 0) < share.of(each.slots, each.id)
        and everyones.get(each.id, 0) < each.slots
    ]
    return min(fit)[2] if fit else None
