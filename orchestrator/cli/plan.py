"""`ollamactl plan`: the placements a start would make, as a table with reasons; on hosts, what would change there."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from orchestrator.app.paths import StatePaths
from orchestrator.cli.difference import as_document, draw_proposal, propose_on_hosts
from orchestrator.cli.looking import looked_at
from orchestrator.cli.output import below, console, draw, literal, table
from orchestrator.core.cards import Card
from orchestrator.core.model import Demand, Engine, NodeFacts, Placement, PlacementPlan
from orchestrator.core.placement import HEADROOM_BYTES, usable_accelerators
from orchestrator.core.placement.alternatives import explain
from orchestrator.core.placement.serving import cards_of
from orchestrator.fleet.inventory import take_inventory
from orchestrator.fleet.wanted import engine_of, stood_in_for, want
from orchestrator.nodes.weights import ollama_models_dir
from orchestrator.settings import ClusterSettings

EXIT_DIFFERENCE = 2


def run_plan(
    state: Path, config: Path | None, simulate: str | None, *, as_json: bool, is_explained: bool = False
) -> int:
    """Print the plan, `is_explained` with what other ways would serve. Exit code 1 where a pool could not be placed."""
    settings = looked_at(config, simulate=simulate).settings
    if settings.hosts:
        return _plan_hosts(state, settings, as_json=as_json, is_explained=is_explained)
    if settings.instances and not as_json:
        console.print("nothing is deployed: the configuration names `instances` that run already")
        return 0
    plan, facts, demands, notes = asyncio.run(_plan(settings))
    told = explanations(demands, facts) if is_explained else ()
    if as_json:
        whole = {"plan": asdict(plan), "nodes": [asdict(each) for each in facts], "notes": notes}
        click.echo(json.dumps({**whole, **({"explained": told} if is_explained else {})}, indent=2))
    else:
        _draw(plan, facts)
        for note in notes:
            console.print(f"[yellow]note:[/yellow] {literal(note)}", soft_wrap=True)
        for line in (line for lines in told for line in lines):
            console.print(literal(line), highlight=False)
    return 1 if plan.refused else 0


def _plan_hosts(state: Path, settings: ClusterSettings, *, as_json: bool, is_explained: bool) -> int:
    """What `deploy` would do: exit code 0 for nothing, 2 for something, 1 where a pool has no place."""
    proposal = asyncio.run(propose_on_hosts(StatePaths(state.absolute()), settings))
    told = explanations(proposal.wanted.demands, proposal.facts) if is_explained else ()
    if as_json:
        click.echo(json.dumps({**as_document(proposal), **({"explained": told} if is_explained else {})}, indent=2))
    else:
        draw_proposal(proposal)
        for line in (line for lines in told for line in lines):
            console.print(literal(line), highlight=False)
    if proposal.refused:
        return 1
    return 0 if proposal.is_empty else EXIT_DIFFERENCE


async def _plan(
    settings: ClusterSettings,
) -> tuple[PlacementPlan, tuple[NodeFacts, ...], tuple[Demand, ...], tuple[str, ...]]:
    if settings.instances:
        return PlacementPlan(()), (), (), ()
    facts, engine = await take_inventory(settings.nodes, ollama_models_dir()), engine_of(settings)
    wanted = want(settings, facts, engine)
    return wanted.plan, facts, wanted.demands, _stand_in_notes(settings, stood_in_for(settings, engine))


def _stand_in_notes(settings: ClusterSettings, stood_in: Sequence[str]) -> tuple[str, ...]:
    """That the plan is of other weights than the models' names say, and how to have it of theirs."""
    if not stood_in:
        return ()
    is_chosen = settings.engine == Engine.LLAMA_CPP.value and shutil.which("ollama") is not None
    why = "`engine: llama.cpp` is set" if is_chosen else "`ollama` is not on PATH here"
    out = "take `engine` out" if is_chosen else "put `ollama` on PATH (ollama.com)"
    return (
        f"{why}, so SmolLM2-135M serves on the CPU as {', '.join(stood_in)}, and what is planned has its size; for "
        f'others and theirs {out}, name weights with `models.NAME.gguf`, or plan for cards: --simulate "RTX 4090"',
    )


def explanations(demands: Sequence[Demand], facts: Sequence[NodeFacts]) -> tuple[tuple[str, ...], ...]:
    """For each model and kind of card, several instances beside one with more slots: what either would serve."""
    cards = cards_of(facts)
    roomiest: dict[str, tuple[Card, int]] = {}
    for accelerator in (each for node in facts for each in usable_accelerators(node)):
        card = cards.get(accelerator.uuid)
        if card is not None:
            room = max(accelerator.vram_free_bytes - HEADROOM_BYTES, roomiest.get(card.name, (card, 0))[1])
            roomiest[card.name] = (card, room)
    told = tuple(explain(demand, card, room) for demand in demands for card, room in roomiest.values())
    return told or (("nothing can be predicted: no GPU here whose bandwidth is known",),)


def _draw(plan: PlacementPlan, facts: tuple[NodeFacts, ...]) -> None:
    for node in facts:
        marked = " (simulated)" if node.is_simulated else ""
        gpus = ", ".join(f"{each.name} #{each.index}" for each in node.accelerators) or "no GPU: the CPU serves"
        console.print(f"[bold]{literal(node.node)}[/bold]{marked}: {literal(gpus)}")
        for problem in node.problems:
            console.print(f"  [yellow]{literal(problem)}[/yellow]")
    draw(_placements(plan.placements))
    for pool, note in plan.notes:
        console.print(f"[yellow]note:[/yellow] {literal(pool)}: {literal(note)}")
    for pool, why in plan.refused:
        console.print(f"[red]not placed:[/red] {literal(pool)}: {literal(why)}")


def _placements(placements: tuple[Placement, ...]) -> Table:
    """A model, its instances, and below each its reason: side by side these long texts fit on no screen."""
    drawn = table("Instance", "Slots", "Context", "Needs")
    for pool in dict.fromkeys(each.pool for each in placements):
        drawn.add_row(f"[bold]{literal(pool)}[/bold]")
        for each in placements:
            if each.pool == pool:
                needs = f"{each.footprint.total / 2**30:.1f} GiB"
                drawn.add_row(f"  {literal(each.instance)}", str(each.slots), str(each.context), needs)
                drawn.add_row(below(each.why))
    return drawn
