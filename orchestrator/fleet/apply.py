"""The difference between the instances wanted and the ones that run, and the steps that remove it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.model import Instance, Placement


@dataclass(frozen=True, slots=True)
class Steps:
    """What would change: nothing, where both are empty. A changed instance is stopped and started."""

    start: tuple[Placement, ...]
    stop: tuple[Instance, ...]

    @property
    def is_empty(self) -> bool:
        return not self.start and not self.stop


def steps(wanted: Iterable[Placement], running: Mapping[str, Instance]) -> Steps:
    """What turns `running` (by instance id) into `wanted`; a second time there is nothing to do."""
    by_id = {each.instance: each for each in wanted}
    stop = tuple(each for each in running.values() if not _is_same(by_id.get(each.id), each))
    start = tuple(each for each in by_id.values() if not _is_same(each, running.get(each.instance)))
    return Steps(start, stop)


def _is_same(placement: Placement | None, instance: Instance | None) -> bool:
    if placement is None or instance is None:
        return False
    return (placement.pool, placement.slots, placement.context, placement.accelerators) == (
        instance.pool,
        instance.slots,
        instance.context,
        instance.accelerators,
    )
