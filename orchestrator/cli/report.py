"""`ollamactl report`: what the request log says of a period, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from orchestrator.app.paths import StatePaths
from orchestrator.app.reporting import facts_of_litellm, facts_of_log
from orchestrator.cli.output import console, hanging, literal
from orchestrator.core.errors import OrchestratorError
from orchestrator.core.report.facts import Facts
from orchestrator.core.report.findings import Finding, Weight, findings
from orchestrator.core.report.markdown import markdown
from orchestrator.core.report.page import page
from orchestrator.core.report.words import headline, tables

_MARKS = {Weight.WRONG: "[red]✖[/red]", Weight.COSTLY: "[yellow]▲[/yellow]", Weight.WORTH_KNOWING: "[blue]●[/blue]"}


class ReportError(OrchestratorError):
    """The report cannot be written where it was to go."""


def run_report(
    state: Path, since: datetime | None, until: datetime | None, litellm: Path | None, form: str, out: Path | None
) -> int:
    """Print the report, or write it to `out`."""
    facts = facts_of_litellm(litellm) if litellm is not None else facts_of_log(StatePaths(state).calls, since, until)
    found = findings(facts)
    if form == "terminal" and out is None:
        _draw(facts, found)
        return 0
    text = _text(facts, found, form)
    if out is None:
        click.echo(text, nl=False)
        return 0
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as why:
        raise ReportError(f"{out}: {why.strerror}") from why
    console.print(f"{facts.all.calls} calls, {len(found)} findings: {literal(str(out))}")
    return 0


def _text(facts: Facts, found: tuple[Finding, ...], form: str) -> str:
    if form == "html":
        return page(facts, found)
    if form == "json":
        told: dict[str, Any] = {**asdict(facts), "findings": [asdict(each) for each in found]}
        return json.dumps(told, ensure_ascii=False, indent=2, default=_told) + "\n"
    return markdown(facts, found)


def _told(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _draw(facts: Facts, found: tuple[Finding, ...]) -> None:
    console.print(f"[bold]{literal(headline(facts))}[/bold]")
    for each in found:
        console.print(f"{_MARKS[each.weight]} {literal(each.told)}")
        hanging("  → ", literal(each.to_do))
    for told in tables(facts):
        drawn = Table(title=told.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for at, name in enumerate(told.head):
            drawn.add_column(name, justify="left" if at == 0 else "right", overflow="fold")
        for row in told.rows:
            drawn.add_row(*map(literal, row))
        console.print(drawn)
        console.print()
