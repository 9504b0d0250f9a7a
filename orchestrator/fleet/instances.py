"""Every instance of the controller, found running or started by it, and how what is heard of their units reaches them.

Each is tended in a task of its own. Which there should be is the steward's to say.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from orchestrator.core.model import (
    Event,
    Instance,
    InstanceId,
    InstanceState,
    Moment,
    NodeName,
    Placement,
    PoolName,
    Snapshot,
)
from orchestrator.core.wishes import Wishes
from orchestrator.fleet.adoption import Adopted, adopt, unseen
from orchestrator.fleet.apply import Running
from orchestrator.fleet.keepers import Keepers, Post
from orchestrator.fleet.made import UNIT_PREFIX, Made, found
from orchestrator.fleet.means import Means
from orchestrator.fleet.moments import Moments
from orchestrator.fleet.tending import Tended
from orchestrator.nodes.keeper_units import EventKind, UnitEvent, UnitState, UnitStatus

log = logging.getLogger(__name__)

DRAINED = "drained by its operator: `ollamactl drain --undo` gives it calls again"
RESTARTS = "finishes what it has, then starts anew"


class Instances:
    """Who follows the keepers. `record` gets each event, `on_change` is called where anything is otherwise."""

    def __init__(
        self,
        keepers: Keepers,
        record: Callable[[Event], None],
        on_change: Callable[[], None],
        deployment: Callable[[], int],
    ) -> None:
        self._keepers, self._record = keepers, record
        self._on_change, self._deployment = on_change, deployment
        self._tended: dict[str, Tended] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._moments = Moments()
        self._odd: dict[Post, set[tuple[str, int | None]]] = {}
        self._means: Means
        self._group: asyncio.TaskGroup
        self._published: Snapshot | None = None
        self._wishes = Wishes()

    def begin(self, group: asyncio.TaskGroup, means: Means, published: Snapshot | None) -> None:
        """`group`: where tasks live; `published`: by an earlier controller."""
        self._group, self._means, self._published = group, means, published

    def __iter__(self) -> Iterator[Tended]:
        return iter(tuple(self._tended.values()))

    def __len__(self) -> int:
        return len(self._tended)

    def __getitem__(self, name: str) -> Tended:
        return self._tended[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tended

    @property
    def wishes(self) -> Wishes:
        """What an operator wants of some of them."""
        return self._wishes

    @wishes.setter
    def wishes(self, wishes: Wishes) -> None:
        self._wishes = wishes
        for each in self:
            self.rest(each.instance.id, is_resting=each.resting == RESTARTS)

    def rest(self, name: str, *, is_resting: bool) -> None:
        """Have one get no calls while it is restarted, or as long as its operator wishes."""
        tended = self._tended[name]
        is_drained = self._wishes.is_drained(name, tended.instance.node)
        tended.resting = RESTARTS if is_resting else DRAINED if is_drained else ""
        self.saw(tended.instance)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Of what runs, or is being started or stopped."""
        return tuple(each.made.placement for each in self)

    @property
    def serving(self) -> Mapping[PoolName, Sequence[InstanceId]]:
        """Those that serve, by pool."""
        found_so: dict[PoolName, list[InstanceId]] = {}
        for each in self:
            if each.instance.state is InstanceState.SERVING:
                found_so.setdefault(each.instance.pool, []).append(each.instance.id)
        return found_so

    @property
    def cannot_load(self) -> dict[InstanceId, str]:
        """Those whose model does not come into memory, and why."""
        return {each.instance.id: why for each in self if (why := each.cannot_load)}

    def running(self, unfit: Collection[InstanceId] = ()) -> dict[str, Running]:
        """All of them as a change sees them; `unfit` ones are of no use, whatever they say."""
        return {
            name: Running(
                each.made.placement,
                each.made.terms,
                each.instance.state is InstanceState.SERVING and name not in unfit,
                each.is_draining,
                each.resting == DRAINED,
            )
            for name, each in self._tended.items()
        }

    # --- begun and ended ----------------------------------------------------------------------------------------------

    def tend(
        self, made: Made, pid: int | None = None, before: Instance | None = None, *, has_unit: bool = False
    ) -> Tended:
        """Bring one up and watch it. `has_unit`: its keeper has it already."""
        name = made.placement.instance
        tended = Tended(made, self._means, pid=pid, before=before, has_unit=has_unit)
        self._means.ports.keep(tended.instance.host, made.port)
        if self._wishes.is_drained(name, tended.instance.node):
            tended.resting = DRAINED
        self._tended[name] = tended
        self.saw(tended.instance, is_adopted=has_unit or pid is not None)
        self._tasks[name] = self._group.create_task(tended.run(), name=f"tend {name}")
        return tended

    async def leave_alone(self, name: str) -> None:
        """Tend it no more; what runs of it runs on."""
        task = self._tasks[name]
        task.cancel()
        await asyncio.wait((task,))

    def forget(self, name: str) -> None:
        """It has ended."""
        tended = self._tended.pop(name)
        del self._tasks[name]
        tended.forget_port()
        self.tell(*self._moments.gone(tended.instance.id), tended.instance)
        self._on_change()

    def leaves(self, name: str, *, is_leaving: bool) -> None:
        """It finishes what it has and gets nothing new; or does not, after all."""
        tended = self._tended[name]
        if not is_leaving and self._tasks[name].done():  # its stop failed half-way
            tended = self.tend(tended.made, tended.pid, has_unit=tended.has_unit)
        tended.is_draining = is_leaving
        self.saw(tended.instance)

    # --- heard from keepers -------------------------------------------------------------------------------------------

    async def take_over(self, post: Post, units: Sequence[UnitStatus], marks: Mapping[str, str]) -> None:
        """Take over what runs there, as it was published: a restarted controller is nothing a caller sees."""
        adopted, strays = adopt(units, found(marks), self._published)
        for each in adopted:
            known = self._tended.get(each.made.placement.instance)
            if known is None:
                self._adopt(each, has_unit=each.pid is not None)
            elif each.pid is not None or known.has_unit:
                known.is_found(each.made, each.pid)
        for name in strays:
            log.warning(
                "%s runs%s, and nobody knows what it is; stopping it", name, f" on {post.host}" * bool(post.host)
            )
            await post.keeping.stop(name)
        self._on_change()

    def adopt_unseen(self) -> None:
        """What was published of hosts that cannot be asked is watched on: gateways may reach it all the same."""
        for host in self._keepers.away:
            for each in unseen(self._published, host):
                if each.made.placement.instance not in self._tended:
                    self._adopt(each, has_unit=True)

    def _adopt(self, each: Adopted, *, has_unit: bool) -> None:
        self.tend(each.made, each.pid, each.before, has_unit=has_unit).details = each.details

    def happened(self, event: UnitEvent) -> None:
        tended = self._tended.get(event.unit.removeprefix(UNIT_PREFIX))
        if tended is None or not event.unit.startswith(UNIT_PREFIX):
            return
        if event.kind is EventKind.STARTED:
            tended.process_is(event.pid)
        elif event.kind is EventKind.EXITED:
            # Who ends by itself says why last; who is killed was in the middle of something.
            said = event.lines[-1:] if event.exit is not None and event.exit.code else ()
            tended.process_is(None, ": ".join((str(event.exit), *said)))

    def look_at(self, post: Post, units: Sequence[UnitStatus]) -> None:
        """Events can be missed, before the first is heard above all: what two looks in a row show is so."""
        there = {each.name: each for each in units if each.state is not UnitState.EXITED}
        odd: set[tuple[str, int | None]] = set()
        for name, tended in self._tended.items():
            if not tended.has_unit or self._keepers.of(tended.instance.node) is not post:
                continue
            unit = there.get(UNIT_PREFIX + name)
            if unit is not None and unit.pid == tended.pid:
                continue
            look = (name, unit.pid if unit is not None else None)
            odd.add(look)
            if look not in self._odd.get(post, ()):
                continue
            if unit is None:  # taken away, stopped by hand, or given up
                tended.unit_is_gone()
            else:
                tended.process_is(unit.pid)
        self._odd[post] = odd

    def is_away(self, post: Post) -> None:
        self.tell(Moment.HOST_LOST, post.problem, node=post.host)
        self._on_change()

    def is_back(self, post: Post) -> None:
        self.tell(Moment.HOST_BACK, f"{post.host} can be reached again", node=post.host)
        for tended in self:
            if self._keepers.of(tended.instance.node) is post:
                tended.host_is_back()
        self._on_change()

    # --- told ---------------------------------------------------------------------------------------------------------

    def saw(self, instance: Instance, *, is_adopted: bool = False) -> None:
        """An instance is otherwise than it was."""
        if (happened := self._moments.saw(instance, is_adopted=is_adopted)) is not None:
            self.tell(*happened, instance)
        self._on_change()

    def tell(self, kind: Moment, text: str, about: Instance | None = None, *, node: NodeName | None = None) -> None:
        """Record what happened."""
        where = about.node if about is not None else node or ""
        name = about.id if about is not None else ""
        self._record(Event(time.time_ns() // 1_000_000, kind, text, where, name, self._deployment()))
