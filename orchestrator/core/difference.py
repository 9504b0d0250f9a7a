"""What a deployment would change: from the instances that run and those wanted to a list that somebody can agree to.

Pure. In which order things are then done, and how many at once, is the rollout's to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.model import Accelerator, InstanceId, NodeFacts, NodeName, Placement, PoolName
from orchestrator.core.sizing import per_card_bytes

KV_TYPES = ("f16", "q8_0", "q4_0")
SHOWN = len("GPU-01234567")  # of a UUID, for people


class Kind(StrEnum):
    """What becomes of an instance."""

    CREATE = "create"
    CHANGE = "change"  # it stays where it is, and is started anew as something else
    MOVE = "move"  # it goes, and one of its pool comes elsewhere
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Existing:
    """An instance that runs. `terms`: what else it was started with; empty: not known any more."""

    placement: Placement
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one instance, and why. Of a move, `before` and `after` have different names."""

    kind: Kind
    before: Placement | None
    after: Placement | None
    reason: str

    @property
    def pool(self) -> PoolName:
        return self._one.pool

    @property
    def nodes(self) -> frozenset[NodeName]:
        return frozenset(each.node for each in (self.before, self.after) if each is not None)

    @property
    def name(self) -> InstanceId:
        """The instance that will be, or the one that goes."""
        return self._one.instance

    @property
    def _one(self) -> Placement:
        one = self.after or self.before
        assert one is not None
        return one


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of one accelerator, or of a node that has none, as it is and as it would be: ours as promised."""

    node: NodeName
    name: str
    total_bytes: int
    before_bytes: int
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that would be done, and everything that would not. `held`: nodes left as they are, with why."""

    changes: tuple[Change, ...]
    rooms: tuple[Room, ...] = ()
    held: Mapping[NodeName, str] | None = None

    @property
    def is_empty(self) -> bool:
        return all(each.kind is Kind.KEEP for each in self.changes)

    def of(self, kind: Kind) -> tuple[Change, ...]:
        return tuple(each for each in self.changes if each.kind is kind)

    def summary(self) -> str:
        """How many of each kind, as a sentence without its full stop."""
        counts = Counter(each.kind for each in self.changes)
        told = [f"{counts[kind]} to {kind}" for kind in Kind if counts[kind] and kind is not Kind.KEEP]
        kept = f"{counts[Kind.KEEP]} as they are" if counts[Kind.KEEP] else ""
        return ", ".join([*told, *([kept] if kept else [])]) or "no instances"


def difference(
    running: Iterable[Existing],
    wanted: Sequence[Placement],
    terms: Mapping[str, str],
    facts: Iterable[NodeFacts] = (),
    *,
    gone: Collection[str] = (),
    held: Mapping[NodeName, str] | None = None,
) -> Difference:
    """From what runs to what is `wanted`; `terms` by pool, `gone`: nodes that the settings no longer name.

    Instances of `held` nodes must be among those wanted as they are: they are neither moved nor changed.
    """
    before = {each.placement.instance: each for each in running}
    after = {each.instance: each for each in wanted}
    changes = [
        _same_name(before[name], placement, terms.get(placement.pool, ""), is_held=placement.node in (held or {}))
        for name, placement in after.items()
        if name in before
    ]
    created = [each for name, each in after.items() if name not in before]
    removed = [each.placement for name, each in before.items() if name not in after]
    changes += _moves_and_the_rest(created, removed, {each.pool for each in wanted}, gone)
    order = {kind: index for index, kind in enumerate(Kind)}
    changes.sort(key=lambda each: (each.pool, order[each.kind], each.name))
    rooms = _rooms(facts, [each.placement for each in before.values()], wanted)
    return Difference(tuple(changes), rooms, held or {})


def without(told: Difference, nodes: Collection[str]) -> tuple[Placement, ...]:
    """The placements that are left where nothing can be changed on `nodes`: what has to do with them stays as it is."""
    kept = (each.before if each.nodes & set(nodes) else each.after for each in told.changes)
    return tuple(each for each in kept if each is not None)


def _same_name(old: Existing, new: Placement, terms: str, *, is_held: bool) -> Change:
    """One that stays: as it is, as something else, or on other accelerators."""
    was = old.placement
    differs = _differs(was, new)
    if old.terms and terms and not is_held:
        differs += _terms_differ(old.terms, terms)
    if (was.node, was.accelerators) != (new.node, new.accelerators):
        return Change(Kind.MOVE, was, new, "; ".join((f"to {where(new)}", *differs)))
    if differs:
        return Change(Kind.CHANGE, was, new, "; ".join(differs))
    return Change(Kind.KEEP, was, new, "as it is")


def _differs(was: Placement, new: Placement) -> tuple[str, ...]:
    told = (
        (f"pool {was.pool} → {new.pool}", was.pool != new.pool),
        (f"slots {was.slots} → {new.slots}", was.slots != new.slots),
        (f"context {was.context} → {new.context}", was.context != new.context),
    )
    return tuple(text for text, is_told in told if is_told)


def _terms_differ(was: str, now: str) -> tuple[str, ...]:
    """What it is started with besides, word by word: terms are words, some of them `name=value`."""
    old, new = _words(was), _words(now)
    names = [name for name in (*old, *new) if old.get(name) != new.get(name)]
    return tuple(f"{name} {old.get(name, 'none')} → {new.get(name, 'none')}" for name in dict.fromkeys(names))


def _words(terms: str) -> dict[str, str]:
    words = terms.split()
    told = {"engine": words[0]} if words else {}
    for word in words[1:]:
        name, is_pair, value = word.partition("=")
        if word in KV_TYPES:
            told["KV cache"] = word
        elif is_pair:
            told[name] = value
        else:
            told[word] = "yes"
    return told


def _moves_and_the_rest(
    created: Sequence[Placement], removed: Sequence[Placement], pools: Collection[str], gone: Collection[str]
) -> list[Change]:
    """One that goes and one of its pool that comes are a move; of several, those nearest to each other."""
    left = sorted(removed, key=lambda each: each.instance)
    changes = []
    for new in sorted(created, key=lambda each: each.instance):
        fitting = [each for each in left if each.pool == new.pool and each.node not in gone]
        if not fitting:
            changes.append(Change(Kind.CREATE, None, new, new.why))
            continue
        old = min(fitting, key=lambda each: (each.node != new.node, each.slots != new.slots))
        left.remove(old)
        changes.append(
            Change(Kind.MOVE, old, new, "; ".join((f"from {where(old)} to {where(new)}", *_differs(old, new))))
        )
    return [*changes, *(Change(Kind.REMOVE, each, None, _why_removed(each, pools, gone)) for each in left)]


def _why_removed(placement: Placement, pools: Collection[str], gone: Collection[str]) -> str:
    if placement.node in gone:
        return f"{placement.node} is not in the settings any more"
    if placement.pool in pools:
        return f"fewer instances of {placement.pool} are wanted"
    return f"{placement.pool} is not wanted any more"


def where(placement: Placement) -> str:
    """An instance's place, for people: UUIDs by their beginnings."""
    return f"{placement.node}:{','.join(each[:SHOWN] for each in placement.accelerators) or 'CPU'}"


def _rooms(facts: Iterable[NodeFacts], before: Iterable[Placement], after: Iterable[Placement]) -> tuple[Room, ...]:
    """Each accelerator's memory: what others use is what is in use and was not promised to ours."""
    held, will_hold = _held(before), _held(after)
    rooms = []
    for node in facts:
        for card in node.accelerators:
            others = _others(card, held[card.uuid])
            name = f"{card.name} #{card.index}"
            told = (others + held[card.uuid], others + will_hold[card.uuid])
            rooms.append(Room(node.node, name, card.vram_total_bytes, *told))
    return tuple(rooms)


def _others(card: Accelerator, ours: int) -> int:
    return card.vram_used_bytes if card.is_simulated else max(0, card.vram_used_bytes - ours)


def _held(placements: Iterable[Placement]) -> Counter[str]:
    held: Counter[str] = Counter()
    for each in placements:
        for uuid in each.accelerators:
            held[uuid] += per_card_bytes(each.footprint, len(each.accelerators))
    return held
