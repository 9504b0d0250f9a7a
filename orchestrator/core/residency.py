"""Which models are loaded where, on servers that keep only a few in memory: decided by who waits for what.

A load costs what many answers cost. So none is made while a call can be answered without one in the time that it takes,
and what is in nobody's way stays where it is. Moving a model is the fleet's work, and calls are the queue's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.model import InstanceId

# A line is worth a load when working it off where it stands takes so many times as long as the load. Less, and models
# are moved to and fro for lines that would have been gone by themselves.
OUTWEIGHS = 2.0
# So many loads a line stands before an instance at work is emptied for it.
PATIENCE_LOADS, LONGEST_PATIENCE_S = 4.0, 15.0


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
class Pressure:
    """How a pool is asked for: calls that wait, calls under way by instance, seconds that one takes (None: unknown)."""

    queued: int = 0
    in_flight: Mapping[InstanceId, int] = field(default_factory=dict)
    service_s: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits for a model: calls, for how long there were any, and the times that a call and a load take."""

    pool: str
    queued: int
    stands_s: float
    service_s: float
    load_s: float

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


def choose_moves(servers: Sequence[Held], lines: Iterable[Line]) -> tuple[Move, ...]:
    """The loads to begin now, one a server at most. A model that is in memory nowhere comes first."""
    waiting = [each for each in lines if each.queued]
    moves: list[Move] = []
    now = {each.server: each for each in servers}
    for line in sorted(waiting, key=lambda each: (_slots(now.values(), each.pool) > 0, -each.stands_s, each.pool)):
        if not _is_worth_a_load(line, now.values()):
            continue
        in_line = frozenset(each.pool for each in waiting)
        found = [move for each in now.values() if (move := _move(line, each, in_line, now.values())) is not None]
        if not found:
            continue
        best = min(found, key=lambda each: _cost(each, now.values()))
        moves.append(best)
        left = now[best.server]
        now[best.server] = replace(left, loading=best.pool, resident=left.resident - frozenset(best.vacates))
    return tuple(moves)


def _is_worth_a_load(line: Line, servers: Iterable[Held]) -> bool:
    """It is in memory nowhere and not on its way; or the line outweighs a load, those on their way counted in."""
    slots = _slots(servers, line.pool)
    return not slots or line.queued * line.service_s >= OUTWEIGHS * line.load_s * slots


def _slots(servers: Iterable[Held], pool: str) -> int:
    """Slots that serve a model now or will once its load is done."""
    return sum(each.slots.get(pool, 0) for each in servers if pool in each.resident or each.loading == pool)


def _move(line: Line, held: Held, in_line: frozenset[str], servers: Iterable[Held]) -> Move | None:
    """How the model can be loaded on this server; None: not now."""
    if line.pool not in held.slots or line.pool in held.resident or held.loading:
        return None
    if held.room is not None and len(held.resident) < held.room:
        return Move(held.server, line.pool)
    copies = _copies(servers)
    # Where nobody knows how many it holds, whatever it has may have to go, as it decides by itself.
    surplus = len(held.resident) + 1 - (held.room or 0)
    order = sorted(held.resident, key=lambda each: (each in in_line, held.busy.get(each, 0), -copies[each], each))
    leaving = tuple(order[:surplus])
    evicts = leaving if held.room is not None else ()
    if not any(held.busy.get(each) or each in in_line for each in leaving):
        return Move(held.server, line.pool, evicts, leaving)
    is_nowhere = not _slots(servers, line.pool)
    has_others = all(copies[each] > 1 and each not in in_line for each in leaving)
    if line.is_impatient and (is_nowhere or has_others):
        return Move(held.server, line.pool, evicts, leaving, may_wait=True)
    return None


def _cost(move: Move, servers: Iterable[Held]) -> tuple[object, ...]:
    """What a move takes away, the least first: calls to be waited for, models lost, the last of its kind."""
    held = next(each for each in servers if each.server == move.server)
    copies = _copies(servers)
    at_work = sum(held.busy.get(each, 0) for each in move.vacates)
    rarest = min((copies[each] for each in move.vacates), default=0)
    return move.may_wait, at_work, len(move.vacates), -rarest, sum(held.busy.values()), move.server


def _copies(servers: Iterable[Held]) -> Counter[str]:
    """How many servers have each model in memory."""
    return Counter(pool for each in servers for pool in each.resident)
