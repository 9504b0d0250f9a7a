"""Which node copies which model from which other one next, so that all have what they should after few rounds.

A tree that grows by itself: whoever has a model gives it to others, a few at a time, and they to others in turn. How
bytes travel is left to `nodes`, when to ask again to `fleet`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from orchestrator.core.model import ModelOnDisk, NodeFacts, NodeName

# To how many nodes one gives at the same time. One alone would be as quick where the line of the giver is what is
# short; with two, a receiver whose disk is slow keeps nobody waiting.
FAN_OUT: Final = 2


@dataclass(frozen=True, slots=True)
class Transfer:
    """One model on its way."""

    model: str
    source: NodeName
    target: NodeName


def next_transfers(
    has: Mapping[NodeName, AbstractSet[str]],
    wanted: Mapping[NodeName, Sequence[str]],
    under_way: Collection[Transfer] = (),
    broken: Collection[Transfer] = (),
    fan_out: int = FAN_OUT,
) -> tuple[Transfer, ...]:
    """What may begin now besides what is `under_way`, at most `fan_out` from a node and one to a node.

    The model that the fewest have goes first: until it has spread, it is what holds all up. What is `broken` is not
    begun again. Where nothing is under way and nothing can begin, what is still missing cannot be had.
    """
    giving = Counter(each.source for each in under_way)
    taking = {each.target for each in under_way}
    holders = _holders(has)
    begun: list[Transfer] = []
    missing = [
        (len(holders[model]), order, target, model)
        for order, (target, models) in enumerate(wanted.items())
        for model in models
        if model not in has.get(target, frozenset())
    ]
    for _, _, target, model in sorted(missing, key=lambda each: each[:2]):
        if target in taking:
            continue
        able = [
            each
            for each in holders[model]
            if each != target and giving[each] < fan_out and Transfer(model, each, target) not in broken
        ]
        if able:
            source = min(able, key=lambda each: (giving[each], each))
            giving[source] += 1
            taking.add(target)
            begun.append(Transfer(model, source, target))
    return tuple(begun)


def agreed_versions(facts: Iterable[NodeFacts]) -> Mapping[str, ModelOnDisk]:
    """Of each model the version that most nodes have: a tag may have moved between two pulls."""
    found: defaultdict[str, Counter[ModelOnDisk]] = defaultdict(Counter)
    for node in facts:
        for model in node.models:
            found[model.name][model] += 1
    return {name: max(versions, key=lambda each: (versions[each], each.digest)) for name, versions in found.items()}


def _holders(has: Mapping[NodeName, AbstractSet[str]]) -> defaultdict[str, list[NodeName]]:
    found: defaultdict[str, list[NodeName]] = defaultdict(list)
    for node, models in has.items():
        for model in models:
            found[model].append(node)
    return found
