"""What a deployment would change, drawn: a line for each instance, memory before and after, and the sum of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.app.paths import StatePaths
from orchestrator.app.proposing import Proposal, propose
from orchestrator.app.visits import visits
from orchestrator.cli.output import below, console, draw, literal, table
from orchestrator.core.difference import Change, Kind, Room
from orchestrator.core.model import Placement
from orchestrator.settings import ClusterSettings

GIB = 2**30
_SIGNS = {
    Kind.CREATE: ("+", "green"),
    Kind.CHANGE: ("~", "yellow"),
    Kind.MOVE: ("→", "cyan"),
    Kind.REMOVE: ("−", "red"),
    Kind.KEEP: (" ", "dim"),
}


async def propose_on_hosts(
    paths: StatePaths, settings: ClusterSettings, limit: Collection[str] = (), *, take_over: bool = False
) -> Proposal:
    """Look at the hosts, and work out what would change there. Raises OrchestratorError."""
    ways = await visits(settings, paths, take_over=take_over)
    return await propose(settings, paths, ways.eyes(), limit)


def draw_proposal(proposal: Proposal) -> None:
    """All of it, as `plan` and `deploy` show it."""
    for name, steps in proposal.base.items():
        console.print(f"[green]+[/green] [bold]{literal(name)}[/bold]: base")
        for step in steps:
            console.print(f"      {literal(step)}", soft_wrap=True)
    if proposal.difference.changes:
        cards = {card.uuid: f"{card.name} #{card.index}" for node in proposal.facts for card in node.accelerators}
        _draw_changes(proposal.difference.changes, cards)
    if not proposal.difference.is_empty:
        _draw_rooms(proposal.difference.rooms)
    for why in proposal.unreachable.values():
        console.print(f"[red]left out:[/red] {literal(why)}", soft_wrap=True)
    for note in proposal.notes:
        console.print(f"[yellow]note:[/yellow] {literal(note)}", soft_wrap=True)
    for pool, note in proposal.wanted.plan.notes:
        console.print(f"[yellow]note:[/yellow] {literal(pool)}: {literal(note)}", soft_wrap=True)
    for pool, why in proposal.wanted.plan.refused:
        console.print(f"[red]not placed:[/red] {literal(pool)}: {literal(why)}", soft_wrap=True)
    console.print(f"[bold]{literal(summary(proposal))}[/bold]", soft_wrap=True)


def summary(proposal: Proposal) -> str:
    """One line: what would be done."""
    if proposal.is_empty:
        return f"nothing to do: {proposal.difference.summary()}"
    told = [proposal.difference.summary()]
    if proposal.base:
        told.append(f"base of {len(proposal.base)} {'host' if len(proposal.base) == 1 else 'hosts'}")
    if proposal.difference.is_empty and not proposal.is_in_force:
        told.append("what runs is written down as the deployment")
    return "; ".join(told)


def _draw_changes(changes: tuple[Change, ...], cards: Mapping[str, str]) -> None:
    drawn = table("", "Instance", "Slots", "Context", "Needs", "Runs on")
    for pool in dict.fromkeys(each.pool for each in changes):
        drawn.add_row("", f"[bold]{literal(pool)}[/bold]")
        for each in (each for each in changes if each.pool == pool):
            sign, colour = _SIGNS[each.kind]
            one = each.after or each.before
            assert one is not None
            needs = f"{one.footprint.total / GIB:.1f} GiB"
            drawn.add_row(
                f"[{colour}]{sign}[/{colour}]",
                literal(each.name),
                _both(each, "slots"),
                _both(each, "context"),
                needs,
                literal(", ".join(cards.get(uuid, uuid) for uuid in one.accelerators) or "CPU"),
            )
            if each.kind is not Kind.KEEP:
                drawn.add_row("", below(each.reason))
    draw(drawn)


def _both(change: Change, field: str) -> str:
    """A figure, and where it changes the one before it, too."""
    told = [str(getattr(each, field)) for each in (change.before, change.after) if each is not None]
    return " → ".join(dict.fromkeys(told))


def _draw_rooms(rooms: tuple[Room, ...]) -> None:
    changed = [each for each in rooms if each.before_bytes != each.after_bytes]
    if not changed:
        return
    drawn = table("VRAM", "Before", "After", "Of")
    for each in changed:
        sizes = (each.before_bytes, each.after_bytes, each.total_bytes)
        drawn.add_row(literal(f"{each.node} {each.name}"), *(f"{size / GIB:.1f} GiB" for size in sizes))
    draw(drawn)


def as_document(proposal: Proposal) -> dict[str, Any]:
    """All of it for programs."""
    plan = proposal.wanted.plan
    return {
        "summary": summary(proposal),
        "is_empty": proposal.is_empty,
        "deployment": proposal.current.number if proposal.current is not None else 0,
        "changes": [_change(each) for each in proposal.difference.changes],
        "base": {name: list(steps) for name, steps in proposal.base.items()},
        "vram": [asdict(each) for each in proposal.difference.rooms],
        "unreachable": dict(proposal.unreachable),
        "notes": [*proposal.notes, *(f"{pool}: {note}" for pool, note in plan.notes)],
        "refused": dict(plan.refused),
        "plan": asdict(plan),
        "nodes": [asdict(each) for each in proposal.facts],
    }


def _change(change: Change) -> dict[str, Any]:
    def told(placement: Placement | None) -> dict[str, Any] | None:
        return None if placement is None else asdict(placement)

    return {
        "kind": change.kind,
        "instance": change.name,
        "pool": change.pool,
        "reason": change.reason,
        "before": told(change.before),
        "after": told(change.after),
    }
