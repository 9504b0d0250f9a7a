"""`ollamactl upgrade`: what runs beside what lies on disk, and a running cluster brought to the latter."""

from __future__ import annotations

import asyncio
import getpass
import json
from dataclasses import asdict
from pathlib import Path

from orchestrator.app import audit, builds
from orchestrator.app.paths import StatePaths
from orchestrator.app.running_code import Running, look
from orchestrator.app.upgrading import upgrade
from orchestrator.cli.output import console, draw, errors, literal, table

EXIT_DIFFERS = 2


def run_check(state: Path, *, as_json: bool) -> int:
    """Show what runs and what lies on disk; 2 where something would be started anew. Raises OrchestratorError."""
    parts = asyncio.run(look(StatePaths(state.absolute())))
    differs = any(each.is_old for each in parts)
    if as_json:
        print(json.dumps([{**asdict(each), "is_old": each.is_old} for each in parts]))
    else:
        _draw(parts)
        console.print("`ollamactl upgrade` starts anew what differs" if differs else "everything runs what is on disk")
    return EXIT_DIFFERS if differs else 0


def run_upgrade(state: Path, *, drain_s: float, is_forced: bool) -> int:
    """Bring what runs to what lies on disk. Raises OrchestratorError."""
    paths = StatePaths(state.absolute())
    said = [""]

    def tell(text: str) -> None:
        if said[-1] != text:
            said.append(text)
            console.print(literal(text))

    audit.record(paths.audit, getpass.getuser(), "command", "upgrade", builds.on_disk())
    upgraded = asyncio.run(upgrade(paths, drain_s, tell, is_forced=is_forced))
    for each in upgraded.unknown:
        errors.print(f"[yellow]{literal(each.node)} was left as it is: {literal(each.problem)}[/yellow]")
    told = ", ".join(upgraded.parts)
    console.print(f"started anew: {literal(told)}" if told else "everything runs what is on disk")
    return 1 if upgraded.unknown else 0


def _draw(parts: tuple[Running, ...]) -> None:
    drawn = table("Part", "Node", "Runs", "On disk", "")
    for each in parts:
        word = "not looked at" if each.problem else "differs" if each.is_old else "same"
        shown = (each.name or each.kind, each.node or "here", each.problem or each.runs or "older", each.on_disk, word)
        drawn.add_row(*(literal(cell) for cell in shown))
    draw(drawn)
