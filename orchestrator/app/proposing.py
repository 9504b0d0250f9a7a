"""What a deployment would do: hosts looked at, what runs there found by its marks, what is wanted worked out.

Looks, and changes nothing. A host that nobody can see now, and one that was not asked for, is left as it is: what runs
there is kept in the plan and counts. Nothing is moved away from a host because it is silent; who wants that takes it
out of the settings.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from orchestrator.app import deployments
from orchestrator.app.paths import StatePaths
from orchestrator.core.deployment import Deployment
from orchestrator.core.difference import Difference, Existing, difference
from orchestrator.core.errors import Barrier, HostError, SettingsError
from orchestrator.core.model import NodeFacts, NodeName, Placement, PoolName
from orchestrator.core.numbers import Followed
from orchestrator.fleet.apply import held_bytes
from orchestrator.fleet.inventory import LOCAL, LOOKS_AT_ONCE, Sight
from orchestrator.fleet.made import OVER_TLS, found
from orchestrator.fleet.standing import held_on_hosts
from orchestrator.fleet.wanted import Wanted, engine_of, numbers_of, want
from orchestrator.settings import ClusterSettings, NodeSettings

NOT_ASKED_FOR = "not among those to be deployed to"

_T = TypeVar("_T")

Look = Callable[[NodeSettings], Awaitable[Sight]]
Marks = Callable[[NodeSettings], Awaitable[Mapping[str, str]]]
# What would be done to bring a host to its base, each step in words. Raises HostError.
Base = Callable[[NodeSettings], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Eyes:
    """How nodes are looked at, each raises HostError; and the digest of the program for hosts, where one is named."""

    look: Look
    marks: Marks
    base: Base
    program: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """One node as it is: its facts, what runs there, what its base lacks; or why nobody can say."""

    node: NodeSettings
    facts: NodeFacts | None
    running: tuple[Existing, ...] = ()
    lacks: tuple[str, ...] = ()
    error: str = ""
    barrier: Barrier = Barrier.REACHED


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is wanted beside what is. `base`: by host, the steps that its base lacks."""

    wanted: Wanted
    kv_types: Mapping[str, str]
    difference: Difference
    facts: tuple[NodeFacts, ...]
    base: Mapping[NodeName, tuple[str, ...]]
    unreachable: Mapping[NodeName, str]
    current: Deployment | None = None
    program: str = ""  # its digest, as it is in a deployment
    notes: tuple[str, ...] = field(default=())

    @property
    def refused(self) -> bool:
        return bool(self.wanted.plan.refused)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do: all runs as it is wanted, and the controller keeps just that."""
        return self.difference.is_empty and not self.base and self.is_in_force

    @property
    def is_in_force(self) -> bool:
        """Whether the deployment that the controller keeps asks for what is wanted."""
        return self.current is not None and self.current.says_the_same(self.deployment(0, 0, ""))

    def deployment(self, number: int, now_unix_ms: int, who: str) -> Deployment:
        """What is wanted, as a deployment."""
        pools = {each.pool for each in self.wanted.plan.placements}
        return Deployment(
            number=number,
            made_at_unix_ms=now_unix_ms,
            made_by=who,
            placements=self.wanted.plan.placements,
            shapes=_only(self.wanted.shapes, pools),
            terms=_only(self.wanted.terms, pools),
            kv_types=_only(self.kv_types, pools),
            ranges={pool: limits for pool, limits in self.wanted.ranges.items() if pool in pools},
            program=self.program,
        )


def _only(by_pool: Mapping[str, _T], pools: Collection[str]) -> dict[str, _T]:
    return {name: value for name, value in by_pool.items() if name in pools}


async def propose(settings: ClusterSettings, paths: StatePaths, eyes: Eyes, limit: Collection[str] = ()) -> Proposal:
    """Look at every node at the same time, and work out what `settings` asks for; on the nodes of `limit` alone.

    Raises SettingsError, and HostError where not one node can be seen.
    """
    _check_limit(settings, limit)
    current = deployments.current(paths)
    at_once = asyncio.Semaphore(LOOKS_AT_ONCE)
    seen = await asyncio.gather(*(_see(each, eyes, at_once) for each in settings.nodes))
    if not any(each.facts for each in seen):
        raise HostError("\n".join((_none_seen([each.barrier for each in seen]), *(each.error for each in seen))))
    return await asyncio.to_thread(_proposal, settings, current, seen, frozenset(limit), eyes.program)


def _none_seen(barriers: Sequence[Barrier]) -> str:
    """What keeps everybody out: hosts that refuse are not said to be silent."""
    counts = Counter(barriers)
    if len(counts) == 1:
        return f"no host can be {barriers[0]}:"
    each = ", ".join(f"{count} cannot be {barrier}" for barrier, count in counts.items())
    return f"no host can be {Barrier.USED} ({each}):"


def _check_limit(settings: ClusterSettings, limit: Collection[str]) -> None:
    known = [each.name for each in settings.nodes]
    for name in limit:
        if name not in known:
            raise SettingsError(f"--limit {name}: no node of that name; there are {', '.join(known)}")


async def _see(node: NodeSettings, eyes: Eyes, at_once: asyncio.Semaphore) -> Seen:
    try:
        async with at_once:
            sight = await eyes.look(node)
            if sight.facts is None:
                return Seen(node, None, error=sight.error, barrier=sight.barrier)
            made = found(await eyes.marks(node))
            lacks = () if node.address == LOCAL else await eyes.base(node)
    except HostError as why:
        return Seen(node, None, error=str(why), barrier=why.barrier)
    return Seen(node, sight.facts, tuple(Existing(each.placement, each.terms) for each in made.values()), tuple(lacks))


def _proposal(
    settings: ClusterSettings,
    current: Deployment | None,
    seen: Sequence[Seen],
    limit: frozenset[str],
    program: str | None,
) -> Proposal:
    held = _held(seen, limit)
    running = [each for one in seen for each in _running(one, current)]
    gone = _on_nodes_gone(current, {each.name for each in settings.nodes})
    open_facts = tuple(each.facts for each in seen if each.facts is not None and each.node.name not in held)
    free = [each.placement for each in running if each.placement.node not in held]
    kept = [each.placement for each in running if each.placement.node in held]
    own = {**held_on_hosts(open_facts, free, settings.deploy.user), **_held_in_ram(open_facts, free)}
    numbers = _numbers(settings, current, running)
    wanted = want(settings, open_facts, engine_of(settings), free, own, kept, numbers)
    wanted = _with_shapes_of(current, replace(wanted, terms=_terms(wanted.terms, program)))
    kv_types = {**(current.kv_types if current else {}), **{name: m.kv_cache for name, m in settings.models.items()}}
    _check_terms(wanted, running, {name for name, why in held.items() if why == NOT_ASKED_FOR})
    _check_tls(wanted, running, held)
    facts = tuple(each.facts for each in seen if each.facts is not None)
    return Proposal(
        wanted=wanted,
        kv_types=kv_types,
        difference=difference(
            [*running, *gone],
            wanted.plan.placements,
            wanted.terms,
            facts,
            gone={each.placement.node for each in gone},
            held=held,
        ),
        facts=facts,
        base={NodeName(each.node.name): each.lacks for each in seen if each.lacks and each.node.name not in held},
        unreachable={NodeName(each.node.name): each.error for each in seen if each.facts is None},
        current=current,
        program=program or "",
        notes=(*_notes(gone, held), *_told_of_ranges(wanted)),
    )


def _numbers(settings: ClusterSettings, current: Deployment | None, running: Sequence[Existing]) -> dict[PoolName, int]:
    """What pools that follow their load have by now, so that to deploy once more changes nothing."""
    there = {each.placement.instance: each.placement for each in running}
    if current is None:
        return numbers_of(settings, {}, there.values())
    counts = Counter(each.pool for each in current.placements)
    followed = {PoolName(pool): Followed(limits, counts[PoolName(pool)]) for pool, limits in current.ranges.items()}
    return numbers_of(settings, followed, (there | {each.instance: each for each in current.placements}).values())


def _told_of_ranges(wanted: Wanted) -> Iterable[str]:
    """What is agreed to beside the instances."""
    counts = Counter(each.pool for each in wanted.plan.placements)
    for pool, limits in wanted.ranges.items():
        yield f"{pool} follows its load: {limits.words()}, now {counts[pool]}"


def _held(seen: Iterable[Seen], limit: Collection[str]) -> dict[NodeName, str]:
    """Nodes that are left as they are, and why."""
    held = {NodeName(each.node.name): each.error for each in seen if each.facts is None}
    if limit:
        others = [NodeName(each.node.name) for each in seen if each.node.name not in limit]
        held = {**held, **{name: NOT_ASKED_FOR for name in others if name not in held}}
    return held


def _running(seen: Seen, current: Deployment | None) -> tuple[Existing, ...]:
    """What runs there; on a node that nobody can see now, what was deployed there."""
    if seen.facts is not None or current is None:
        return seen.running
    there = [each for each in current.placements if each.node == seen.node.name]
    return tuple(Existing(each, current.terms.get(each.pool, "")) for each in there)


def _on_nodes_gone(current: Deployment | None, nodes: Collection[str]) -> tuple[Existing, ...]:
    """What was deployed to nodes that the settings no longer name."""
    placements = current.placements if current is not None else ()
    return tuple(Existing(each) for each in placements if each.node not in nodes)


def _notes(gone: Sequence[Existing], held: Mapping[NodeName, str]) -> Iterable[str]:
    for name in sorted({each.placement.node for each in gone}):
        yield (
            f"{name} is not in the settings any more: the cluster lets go of its instances, and what runs there stays; "
            f"to have it cleared, put it back and say `ollamactl destroy --limit {name}`"
        )
    for name, why in held.items():
        if why != NOT_ASKED_FOR:
            yield f"{name} is left as it is, nothing is moved away from it: {why.removeprefix(f'{name}: ')}"


def _held_in_ram(facts: Iterable[NodeFacts], current: Sequence[Placement]) -> dict[str, int]:
    """What instances on nodes without a GPU hold of their memory: what was promised, as far as it is in use."""
    promised = held_bytes(current)
    return {
        each.node: min(promised[each.node], each.ram_total_bytes - each.ram_free_bytes)
        for each in facts
        if not each.accelerators
    }


def _terms(terms: Mapping[str, str], program: str | None) -> dict[str, str]:
    """Another program is another instance."""
    added = f" program={program[:16]}" if program else ""
    return {pool: text + added for pool, text in terms.items()}


def _with_shapes_of(current: Deployment | None, wanted: Wanted) -> Wanted:
    """Pools that are gone from the settings and stay on held nodes are what they were."""
    if current is None:
        return wanted
    return replace(wanted, shapes={**current.shapes, **wanted.shapes}, terms={**current.terms, **wanted.terms})


def _check_tls(wanted: Wanted, running: Sequence[Existing], held: Mapping[NodeName, str]) -> None:
    """Instances of a host that cannot be made ready for TLS, or for none, would be started and reached by nobody."""
    for each in running:
        new = wanted.terms.get(each.placement.pool, each.terms)
        why = held.get(each.placement.node)
        if why is not None and each.terms and (OVER_TLS in each.terms.split()) != (OVER_TLS in new.split()):
            raise HostError(f"nothing is deployed: `deploy.tls` changes on all hosts that have instances, and {why}")


def _check_terms(wanted: Wanted, running: Sequence[Existing], others: Collection[str]) -> None:
    """What a pool's instances are started with holds for all of them: it cannot change on some hosts alone."""
    for each in running:
        new = wanted.terms.get(each.placement.pool, each.terms)
        if each.placement.node in others and each.terms not in ("", new):
            raise SettingsError(
                f"{each.placement.pool} would be started as `{new}` instead of `{each.terms}`, also on "
                f"{each.placement.node}: name that with --limit, too, or deploy to all"
            )
