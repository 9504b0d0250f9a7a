"""From patterns to cards: which card gets which, so that the fewest running instances move.

Cards that hold the same instances now are one class. How many cards of each class get each pattern is a transportation
problem (a minimum-cost assignment of alike things), solved exactly. Within a class copies of a pool go to different
nodes. What spans cards is given its cards first, those it has already where it can.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.model import Demand, Placement, PoolName
from orchestrator.core.placement.kept import keep
from orchestrator.core.placement.program import Program
from orchestrator.core.placement.rooms import NO_LIMIT, Board, Room, fits
from orchestrator.core.sizing import per_card_bytes

Contents = tuple[tuple[PoolName, int], ...]  # copies of each pool that lie on one card alone


@dataclass(slots=True)
class Target:
    """What cards of one kind should hold. `groups`: a pattern over several cards, and what else lies on each."""

    rooms: Sequence[Room]
    singles: Counter[Contents] = field(default_factory=Counter)
    groups: list[tuple[Contents, tuple[Contents, ...]]] = field(default_factory=list)


def assign(board: Board, targets: Iterable[Target], demands: Sequence[Demand], current: Sequence[Placement]) -> Board:
    """Fill the empty `board` as `targets` say, with as much as possible of `current` where it is."""
    by_pool = {each.pool: each for each in demands}
    wanted: dict[str, Counter[PoolName]] = {}
    spans: list[tuple[PoolName, tuple[str, ...]]] = []
    for target in targets:
        taken = _give_groups(target, current, wanted, spans)
        rooms = [room for room in target.rooms if room.key not in taken]
        wanted |= _give_singles(rooms, target.singles, current)
    _keep_wanted(board, wanted, spans, demands, current)
    for pool, keys in spans:
        if not any(each.accelerators == keys and each.pool == pool for each in board.placed):
            _put(board, by_pool[pool], [board.rooms[key] for key in keys])
    _put_new(board, wanted, by_pool)
    return board


# --- what spans cards ------------------------------------------------------------------------------------------------


def _give_groups(
    target: Target,
    current: Sequence[Placement],
    wanted: dict[str, Counter[PoolName]],
    spans: list[tuple[PoolName, tuple[str, ...]]],
) -> set[str]:
    """Cards for each group, the largest first: those of a running instance of it, or a node with few of it."""
    taken: set[str] = set()
    here = {room.key for room in target.rooms}
    running: defaultdict[PoolName, list[tuple[str, ...]]] = defaultdict(list)
    for each in sorted(current, key=lambda each: each.instance):
        if len(each.accelerators) > 1 and here.issuperset(each.accelerators):
            running[each.pool].append(each.accelerators)
    copies: Counter[tuple[PoolName, str]] = Counter()
    for contents, rests in sorted(target.groups, key=lambda group: (-len(group[1]), group[0])):
        size, pool = len(rests), contents[0][0]
        keys = next((k for k in running[pool] if len(k) == size and taken.isdisjoint(k)), None)
        keys = keys or _free_together(target.rooms, size, pool, taken, copies)
        if keys is None:
            continue
        taken.update(keys)
        copies[pool, next(room.node for room in target.rooms if room.key == keys[0])] += 1
        spans += [(each, keys) for each, count in contents for _ in range(count)]
        wanted |= {key: Counter(dict(rest)) for key, rest in zip(keys, rests, strict=True)}
    return taken


def _free_together(
    rooms: Sequence[Room], size: int, pool: PoolName, taken: set[str], copies: Mapping[tuple[PoolName, str], int]
) -> tuple[str, ...] | None:
    by_node: defaultdict[str, list[str]] = defaultdict(list)
    for room in rooms:
        if room.key not in taken:
            by_node[room.node].append(room.key)
    able = [node for node, keys in by_node.items() if len(keys) >= size]
    if not able:
        return None
    # What stays free on a node should be whole groups again.
    node = min(able, key=lambda each: (copies.get((pool, each), 0), len(by_node[each]) % size, each))
    return tuple(by_node[node][:size])


# --- what lies on one card -------------------------------------------------------------------------------------------


def _give_singles(
    rooms: Sequence[Room], singles: Counter[Contents], current: Sequence[Placement]
) -> dict[str, Counter[PoolName]]:
    """Contents for each card; of those that would not be enough cards for, the rest is left out."""
    here = {room.key for room in rooms}
    holds: defaultdict[str, Counter[PoolName]] = defaultdict(Counter)
    for each in current:
        if len(each.accelerators) == 1 and each.accelerators[0] in here:
            holds[each.accelerators[0]][each.pool] += 1
    classes: defaultdict[Contents, list[Room]] = defaultdict(list)
    for room in _across_nodes(rooms):
        classes[tuple(sorted(holds[room.key].items()))].append(room)
    shares = _fewest_moves({each: len(cards) for each, cards in classes.items()}, singles)
    given: dict[str, Counter[PoolName]] = {}
    for now in sorted(classes):
        cards = iter(classes[now])
        for contents in _rarest_first([each for before, each in shares if before == now], singles):
            for _ in range(shares[now, contents]):
                given[next(cards).key] = Counter(dict(contents))
    return given


def _across_nodes(rooms: Sequence[Room]) -> list[Room]:
    """The first card of each node, then the second of each: neighbours in this list are on different nodes."""
    nth: Counter[str] = Counter()
    turns: list[tuple[int, str, int, str, Room]] = []
    for room in sorted(rooms, key=lambda each: (each.node, each.index, each.key)):
        turns.append((nth[room.node], room.node, room.index, room.key, room))
        nth[room.node] += 1
    return [room for *_, room in sorted(turns, key=lambda turn: turn[:-1])]


def _rarest_first(patterns: Sequence[Contents], all_of: Counter[Contents]) -> list[Contents]:
    """Those with the pools that have fewest copies first: they are the ones to be spread."""
    copies: Counter[PoolName] = Counter()
    for contents, count in all_of.items():
        for pool, each in contents:
            copies[pool] += each * count
    return sorted(patterns, key=lambda each: (sorted(copies[pool] for pool, _ in each), each))


def _fewest_moves(have: Mapping[Contents, int], want: Mapping[Contents, int]) -> dict[tuple[Contents, Contents], int]:
    """How many cards that hold the first get the second. A copy stays where both have it."""
    if len(have) == 1 or len(want) == 1:
        return _in_order(have, want)
    program = Program(time_limit_s=5.0)
    for side, counts in (("have", have), ("want", want)):
        for contents in sorted(counts):
            program.row((side, contents), 0, counts[contents])
    pairs = [(now, then) for now in sorted(have) for then in sorted(want)]
    columns = {
        pair: program.column(
            # Cards of the pattern's own are worth something even where nothing stays: all patterns are wanted.
            1000.0 + _staying(*pair),
            {("have", pair[0]): 1.0, ("want", pair[1]): 1.0},
        )
        for pair in pairs
    }
    found = program.relaxed()  # a transportation problem's corners are whole numbers
    if found is None:
        return _in_order(have, want)
    return {pair: count for pair, column in columns.items() if (count := round(found.values[column]))}


def _staying(now: Contents, then: Contents) -> int:
    return (Counter(dict(now)) & Counter(dict(then))).total()


def _in_order(have: Mapping[Contents, int], want: Mapping[Contents, int]) -> dict[tuple[Contents, Contents], int]:
    """The same, pair by pair, those first of which most stays: exact where one side is all alike."""
    left_have, left_want = dict(have), dict(want)
    found: dict[tuple[Contents, Contents], int] = {}
    pairs = sorted((-_staying(now, then), now, then) for now in have for then in want)
    for _, now, then in pairs:
        count = min(left_have[now], left_want[then])
        if count:
            found[now, then] = count
            left_have[now] -= count
            left_want[then] -= count
    return found


# --- on the board ----------------------------------------------------------------------------------------------------


def _keep_wanted(
    board: Board,
    wanted: Mapping[str, Counter[PoolName]],
    spans: Sequence[tuple[PoolName, tuple[str, ...]]],
    demands: Sequence[Demand],
    current: Sequence[Placement],
) -> None:
    """What runs and is in its card's pattern stays; a CPU's instances stay where they are."""
    left = {key: Counter(counts) for key, counts in wanted.items()}
    spanned = Counter(spans)
    staying = []
    for each in sorted(current, key=lambda each: each.instance):
        if not each.accelerators:
            staying.append(each)
        elif len(each.accelerators) > 1:
            if spanned[each.pool, each.accelerators]:
                spanned[each.pool, each.accelerators] -= 1
                staying.append(each)
        elif left.get(each.accelerators[0], Counter())[each.pool] > 0:
            left[each.accelerators[0]][each.pool] -= 1
            staying.append(each)
    keep(board, demands, staying, Counter({each.pool: NO_LIMIT for each in demands}))


def _put_new(board: Board, wanted: Mapping[str, Counter[PoolName]], demands: Mapping[PoolName, Demand]) -> None:
    """The copies that are not there yet, each pool's first on every card before any second."""
    missing = [
        (number, pool, key)
        for key, counts in wanted.items()
        for pool, count in counts.items()
        for number in range(board.rooms[key].pools.count(pool), count)
    ]
    order = {key: at for at, key in enumerate(wanted)}
    for _, pool, key in sorted(missing, key=lambda each: (bool(demands[each[1]].beside), each[0], order[each[2]])):
        demand = demands[pool]
        is_enough = board.counts[pool] >= demand.replicas_min and _is_served(board, demand)
        if not is_enough and (demand.replicas_max is None or board.counts[pool] < demand.replicas_max):
            _put(board, demand, [board.rooms[key]])


def _is_served(board: Board, demand: Demand) -> bool:
    """Whether slots for the whole load are there already; with a goal a copy is never left out."""
    if demand.load is None or (demand.usual is not None and demand.usual.answer_s is not None):
        return demand.load is None
    return board.counts[demand.pool] * demand.slots >= demand.load


def _put(board: Board, demand: Demand, rooms: Sequence[Room]) -> None:
    size = board.sizes.on_cards(demand, len(rooms))
    if all(fits(room, per_card_bytes(size, len(rooms))) for room in rooms):
        board.put(demand, rooms)
