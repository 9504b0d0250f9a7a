"""How far a deployment has come, read from the cluster as it was published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.core.model import Instance, InstanceState, NodeName, Placement, Snapshot
from orchestrator.core.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Course:
    """`late`: instances that do not serve yet, each with what it does. `silent`: those on `unreachable` nodes, serving
    or not: whether they are as they were deployed cannot be seen.

    `pools`: those of which an instance serves.
    """

    is_taken_up: bool
    is_settled: bool
    serving: int
    total: int
    late: tuple[str, ...]
    silent: tuple[str, ...]
    unreachable: Mapping[NodeName, str]
    pools: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Everything serves as it was deployed."""
        return self.is_taken_up and self.is_settled and not self.late and not self.silent

    @property
    def is_whole_elsewhere(self) -> bool:
        """Everything serves, but for what is on hosts that cannot be reached."""
        return self.is_taken_up and self.is_settled and not self.late and bool(self.silent)

    def sentence(self) -> str:
        """For people, in one line."""
        told = f"{self.serving} of {self.total} instances serve"
        if not self.is_taken_up:
            return f"{told}; the controller takes the deployment up"
        return "; ".join((told, *self.late, *self.unreachable.values()))


def course_of(snapshot: Snapshot, number: int, placements: Iterable[Placement], wishes: Wishes) -> Course:
    """The course of deployment `number` of `placements`. What an operator has drained is where it should be."""
    instances = [each for pool in snapshot.pools for each in pool.instances if not each.is_given]
    wanted = [each for each in instances if not wishes.is_drained(each.id, each.node)]
    not_serving = [each for each in wanted if each.state is not InstanceState.SERVING]
    silent = [each.instance for each in placements if each.node in snapshot.unreachable]
    late = [each for each in not_serving if each.node not in snapshot.unreachable]
    total = {each.id for each in wanted} | set(silent)
    return Course(
        is_taken_up=snapshot.deployment >= number,
        is_settled=snapshot.is_settled,
        serving=len(wanted) - len(not_serving),
        total=len(total),
        late=tuple(_told(each) for each in late),
        silent=tuple(silent),
        unreachable=snapshot.unreachable,
        pools=frozenset(pool.name for pool in snapshot.pools if pool.slots_serving),
    )


def _told(instance: Instance) -> str:
    return f"{instance.id} is {instance.state}" + (f": {instance.reason}" if instance.reason else "")
