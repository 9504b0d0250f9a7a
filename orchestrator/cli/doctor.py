"""`ollamactl doctor`: what is wrong, why it hurts and what mends it. Looks, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from orchestrator.app.checkup import Ways, look
from orchestrator.cli.output import below, console, draw, literal, table
from orchestrator.core.doctor import Finding, Severity, check, worst

EXIT_WARNINGS, EXIT_ERRORS = 1, 2
_COLOURS = {
    Severity.OK: "green",
    Severity.UNSEEN: "dim",
    Severity.NOTE: "cyan",
    Severity.WARNING: "yellow",
    Severity.ERROR: "red",
}


def run_doctor(state: Path, config: Path | None, key: str, *, as_json: bool, is_all: bool) -> int:
    """Print the findings, the worst first. Exit code 0 for none above a note, 1 for warnings, 2 for errors."""
    findings = check(asyncio.run(look(Ways(state, config, key))))
    if as_json:
        click.echo(json.dumps([{**asdict(each), "severity": each.severity.word} for each in findings], indent=2))
    else:
        _draw(findings, is_all=is_all)
    return {Severity.WARNING: EXIT_WARNINGS, Severity.ERROR: EXIT_ERRORS}.get(worst(findings), 0)


def _draw(findings: Iterable[Finding], *, is_all: bool) -> None:
    findings = sorted(findings, key=lambda each: -each.severity)
    shown = [each for each in findings if is_all or each.severity is not Severity.OK]
    drawn = table("Found", "Check", "Where", "What")
    for each in shown:
        colour = _COLOURS[each.severity]
        found = f"[{colour}]{each.severity.word}[/{colour}]"
        drawn.add_row(found, each.check, literal(each.where), literal(each.what))
        if each.mends:
            drawn.add_row("", "", "", below(each.hurts))
            drawn.add_row("", "", "", literal(f"→ {each.mends}"))
    if shown:
        draw(drawn)
    console.print(_summary(findings, is_all=is_all))


def _summary(findings: Iterable[Finding], *, is_all: bool) -> str:
    found = [each.severity for each in findings]
    ok = found.count(Severity.OK)
    more = "" if is_all or not ok else "; --all shows these too"
    worse = (Severity.ERROR, Severity.WARNING, Severity.NOTE)
    counted = [f"{found.count(each)} {each.word}{'s' * (found.count(each) != 1)}" for each in worse]
    return f"{', '.join(counted)}; {found.count(Severity.UNSEEN)} not looked at; {ok} ok{more}"
