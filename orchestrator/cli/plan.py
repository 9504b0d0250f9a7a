"""`ollamactl plan`: the placements a start would make, as a table with reasons."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from orchestrator.app.live_settings import Wish, resolve_settings
from orchestrator.cli.output import console
from orchestrator.core.model import Engine, NodeFacts, PlacementPlan
from orchestrator.fleet.engines import LocalEngine, find_engine
from orchestrator.fleet.inventory import take_inventory
from orchestrator.fleet.wanted import want
from orchestrator.nodes.weights import ollama_models_dir


def run_plan(config: Path | None, simulate: str | None, *, as_json: bool) -> int:
    """Print the plan. Exit code 1 where a pool could not be placed."""
    plan, facts = asyncio.run(_plan(config, simulate))
    if as_json:
        click.echo(json.dumps({"plan": asdict(plan), "nodes": [asdict(each) for each in facts]}, indent=2))
    else:
        _draw(plan, facts)
    return 1 if plan.refused else 0


async def _plan(config: Path | None, simulate: str | None) -> tuple[PlacementPlan, tuple[NodeFacts, ...]]:
    settings = (await resolve_settings(Wish(Path(), config, None, simulate, None))).settings
    facts = await take_inventory(settings.nodes, ollama_models_dir())
    is_simulated = any(node.simulate for node in settings.nodes)
    engine = LocalEngine(Engine.OLLAMA) if is_simulated else find_engine(settings.engine)
    return want(settings, facts, engine).plan, facts


def _draw(plan: PlacementPlan, facts: tuple[NodeFacts, ...]) -> None:
    for node in facts:
        marked = " (simulated)" if node.is_simulated else ""
        gpus = ", ".join(f"{each.name} #{each.index}" for each in node.accelerators) or "no GPU: the CPU serves"
        console.print(f"[bold]{node.node}[/bold]{marked}: {gpus}", highlight=False)
        for problem in node.problems:
            console.print(f"  [yellow]{problem}[/yellow]", highlight=False)
    table = Table("Instance", "Model", "Slots", "Context", "Needs", "Why")
    for each in plan.placements:
        needs = f"{each.footprint.total / 2**30:.1f} GiB"
        table.add_row(each.instance, each.pool, str(each.slots), str(each.context), needs, each.why)
    console.print(table)
    for pool, why in plan.refused:
        console.print(f"[red]not placed:[/red] {pool}: {why}", highlight=False)
