"""Which models are loaded where, on servers that keep only a few in memory: decided by who waits for what.

A load costs what many answers cost. So one is made for a model that is in memory nowhere, for a line that takes longer
to work off than a load, and where a line that is seldom gone shows that a model has too small a share of the servers.
What is in nobody's way stays where it is. Moving models is the fleet's work, and calls are the queue's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.model import InstanceId

# A line is worth a load when working it off where it stands takes so many times as long as the load. Less, and models
# are moved to and fro for lines that would have been gone by themselves.
OUTWEIGHS = 2.0
# So many calls in line for each slot, by and large, are a share too small.
LINE_A_SLOT = 0.2
# By and large is over so many loads: what changes faster is not worth one.
MEAN_LOADS, SHORTEST_MEAN_S, LONGEST_MEAN_S = 10.0, 2.0, 60.0
# A model that has so few calls at once, by and large, may lose its last place for the sake of others.
HARDLY_USED = 0.05
# So many loads a line stands before an instance at work is emptied for it.
PATIENCE_LOADS, LONGEST_PATIENCE_S = 4.0, 15.0


@dataclass(frozen=True, slots=True)
class Pressure:
    """How a pool is asked for: calls that wait, calls under way by instance, seconds that one takes (None: unknown)."""

    queued: int = 0
    in_flight: Mapping[InstanceId, int] = field(default_factory=dict)
    service_s: float | None = None


@dataclass(frozen=True, slots=True)
class Mean:
    """Calls waiting and under way, by and large."""

    queued: float = 0.0
    busy: float = 0.0

    def after(self, pressure: Pressure, seconds: float, over_s: float) -> Mean:
        """With what was seen `seconds` after the last look; what is older than `over_s` counts little."""
        kept = math.exp(-seconds / over_s)
        busy = sum(pressure.in_flight.values())
        return Mean(
            self.queued * kept + pressure.queued * (1 - kept),
            self.busy * kept + busy * (1 - kept),
        )


@dataclass(frozen=True, slots=True)
class Held:
    """A server as far as it matters here. Models are named by their pools."""

    server: str
    slots: Mapping[str, int]  # of each model that it can load
    resident: frozenset[str] = frozenset()
    busy: Mapping[str, int] = field(default_factory=dict)  # calls under way there, by model
    room: int | None = None  # models that it keeps in memory at once; None: not known
    loading: str = ""  # a model on its way; '' none


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for a model: calls, for how long there were any, and the times that a call and a load take.

    `service_s` is 0 where none was served yet: then no line outweighs a load.
    """

    pool: str
    queued: int
    stands_s: float
    service_s: float
    load_s: float
    mean: Mean = Mean()

    @property
    def is_impatient(self) -> bool:
        return self.stands_s > min(PATIENCE_LOADS * self.load_s, LONGEST_PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Move:
    """Load `pool` on `server`, once `vacates` have no call there any more; `evicts` of them are unloaded before.

    `may_wait`: calls under way may be waited for. Otherwise the move is off where there are any.
    """

    server: str
    pool: str
    evicts: tuple[str, ...] = ()
    vacates: tuple[str, ...] = ()
    may_wait: bool = False


def mean_over_s(load_s: float) -> float:
    """What `Mean` is taken over, where a load takes so long."""
    return min(max(MEAN_LOADS * load_s, SHORTEST_MEAN_S), LONGEST_MEAN_S)


def choose_moves(servers: Sequence[Held], lines: Iterable[Line]) -> tuple[Move, ...]:
    """The loads to begin now, one a server at most. `lines` has every pool; what is in memory nowhere comes first."""
    scene = _Scene({each.server: each for each in servers}, {each.pool: each for each in lines})
    moves: list[Move] = []
    for line in sorted(scene.waiting, key=lambda each: (scene.slots(each.pool) > 0, -each.stands_s, each.pool)):
        found = [move for each in scene.servers.values() if (move := scene.move(line, each)) is not None]
        if found:
            moves.append(min(found, key=scene.cost))
            scene = scene.with_move(moves[-1])
    return tuple(moves)


@dataclass(frozen=True, slots=True)
class _Scene:
    """All servers and lines, with the moves chosen so far."""

    servers: Mapping[str, Held]
    lines: Mapping[str, Line]

    @property
    def waiting(self) -> list[Line]:
        return [each for each in self.lines.values() if each.queued]

    def slots(self, pool: str) -> int:
        """Slots that serve a model now or will once its load is done."""
        held = self.servers.values()
        return sum(each.slots.get(pool, 0) for each in held if pool in each.resident or each.loading == pool)

    def copies(self, pool: str) -> int:
        return sum(pool in each.resident for each in self.servers.values())

    def is_in_line(self, pool: str) -> bool:
        return pool in self.lines and self.lines[pool].queued > 0

    def with_move(self, move: Move) -> _Scene:
        held = self.servers[move.server]
        moved = replace(held, loading=move.pool, resident=held.resident - frozenset(move.vacates))
        return replace(self, servers={**self.servers, move.server: moved})

    def move(self, line: Line, held: Held) -> Move | None:
        """How the model can be loaded on this server; None: not now, or it is not worth it."""
        pool, slots = line.pool, self.slots(line.pool)
        outweighs = not slots or line.queued * line.service_s >= OUTWEIGHS * line.load_s * slots
        is_coming = any(each.loading == pool for each in self.servers.values())
        is_short = not is_coming and line.mean.queued >= LINE_A_SLOT * slots
        if pool not in held.slots or pool in held.resident or held.loading or not (outweighs or is_short):
            return None
        if held.room is not None and len(held.resident) < held.room:
            return Move(held.server, pool)
        leaving = self._leaving(held)
        evicts = leaving if held.room is not None else ()
        is_free = not any(held.busy.get(each) or self.is_in_line(each) for each in leaving)
        if is_free and (outweighs or all(self._gives(each, line, held) for each in leaving)):
            return Move(held.server, pool, evicts, leaving)
        has_others = all(self.copies(each) > 1 and not self.is_in_line(each) for each in leaving)
        if outweighs and line.is_impatient and (not slots or has_others):
            return Move(held.server, pool, evicts, leaving, may_wait=True)
        return None

    def _leaving(self, held: Held) -> tuple[str, ...]:
        """What goes for another model. Where nobody knows how many fit it may be all, as the server decides."""
        surplus = len(held.resident) + 1 - (held.room or 0)
        order = sorted(
            held.resident, key=lambda each: (self.is_in_line(each), held.busy.get(each, 0), -self.copies(each), each)
        )
        return tuple(order[:surplus])

    def _gives(self, pool: str, line: Line, held: Held) -> bool:
        """Whether a model has more of the servers than it needs: without this one it has no more calls a slot, by and
        large, than the one in line with it."""
        mean = self.lines[pool].mean if pool in self.lines else Mean()
        left = self.slots(pool) - held.slots.get(pool, 0)
        if not left:
            return mean.busy + mean.queued <= HARDLY_USED
        gained = self.slots(line.pool) + held.slots[line.pool]
        return (mean.busy + mean.queued) / left <= (line.mean.busy + line.mean.queued) / gained

    def cost(self, move: Move) -> tuple[object, ...]:
        """What a move takes away, the least first: calls to be waited for, models lost, the last of its kind."""
        held = self.servers[move.server]
        at_work = sum(held.busy.get(each, 0) for each in move.vacates)
        rarest = min((self.copies(each) for each in move.vacates), default=0)
        return move.may_wait, at_work, len(move.vacates), -rarest, sum(held.busy.values()), move.server
