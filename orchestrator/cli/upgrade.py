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
    """Show what runs and what lies on disk; 2 where something differs, else 1 where something does not run or could
    not be looked at. Raises OrchestratorError."""
    parts = asyncio.run(look(StatePaths(state.absolute())))
    differs = any(each.is_old for each in parts)
    if as_json:
        print(json.dumps([{**asdict(each), "is_old": each.is_old} for each in parts]))
    else:
        _draw(parts)
        console.print(_sum(parts))
    return EXIT_DIFFERS if differs else 1 if any(each.problem for each in parts) else 0


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
        errors.print(f"[yellow]{literal(each.node or each.name)} was left as it is: {literal(each.problem)}[/yellow]")
    told = ", ".join(upgraded.parts)
    console.print(f"started anew: {literal(told)}" if told else "everything runs what is on disk")
    return 1 if upgraded.unknown else 0


def _sum(parts: tuple[Running, ...]) -> str:
    if any(each.is_old for each in parts):
        return "`ollamactl upgrade` starts anew what differs"
    if any(each.is_down for each in parts):
        return "Redis does not run: `ollamactl upgrade` starts it"
    if any(each.problem for each in parts):
        return "everything else runs what is on disk"
    return "everything runs what is on disk"


def _draw(parts: tuple[Running, ...]) -> None:
    drawn = table("Part", "Node", "Runs", "On disk", "")
    for each in parts:
        word = "down" if each.is_down else "not looked at" if each.problem else "differs" if each.is_old else "same"
        shown = (each.name or each.kind, each.node or "here", each.problem or each.runs or "older", each.on_disk, word)
        drawn.add_row(*(literal(cell) for cell in shown))
    draw(drawn)
