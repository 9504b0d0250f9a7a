"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.report.facts import Facts
from orchestrator.core.report.findings import Finding
from orchestrator.core.report.words import Table, headline, tables


def markdown(facts: Facts, found: Sequence[Finding]) -> str:
    """The whole report."""
    told = "\n".join(f"- **{_plain(each.told)}**: {each.to_do}" for each in found) or "- none"
    parts = [f"# Report\n\n{headline(facts)}", f"## Findings\n\n{told}", *map(_table, tables(facts))]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    ruler = ["---", *("---:" for _ in table.head[1:])]
    rows = [table.head, tuple(ruler), *(tuple(map(_plain, row)) for row in table.rows)]
    return f"## {table.title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """What callers say of themselves makes no cells and no markup."""
    marked = "".join(f"\\{each}" if each in "\\|`[]" else each for each in text)
    return " ".join(marked.replace("<", "&lt;").split())
