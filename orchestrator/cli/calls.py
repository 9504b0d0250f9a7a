"""`ollamactl calls`: single calls of the request log, the last ones first; or whatever a query asks of all of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from orchestrator.app.call_log import opened, rows_of
from orchestrator.app.paths import StatePaths
from orchestrator.cli.output import console, json_text, literal
from orchestrator.core.errors import HostError

_SHOWN = (
    "at_ms", "id", "caller", "model", "tier", "instance", "cache", "outcome",
    "prompt_tokens", "completion_tokens", "queue_ms", "first_byte_ms", "total_ms",
)  # fmt: skip


def run_calls(
    state: Path, since: datetime | None, until: datetime | None, last: int, only: dict[str, str], *,
    failed: bool, sql: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Print calls; `only`: columns that must have these values."""
    with opened(StatePaths(state).calls, since, until) as database:
        if sql is not None:
            rows = rows_of(database, sql)
        else:
            where = [f"{column} = ?" for column in only] + (["outcome <> 'ok'"] if failed else [])
            query = f"SELECT * FROM calls WHERE {' AND '.join(where or ['TRUE'])} ORDER BY at_ms DESC LIMIT {last:d}"  # noqa: S608 - names of columns
            rows = rows_of(database, query, list(only.values()))
    if "id" in only and not rows:
        raise HostError(f"{only['id']}: no such call is in the request log; --since reaches further back")
    if as_json:
        for each in rows:
            click.echo(json_text(each, indent=None))
    else:
        _draw(rows, rows[0].keys() if sql is not None and rows else _SHOWN)
    return 0


def _draw(rows: list[dict[str, Any]], columns: Any) -> None:
    drawn = Table(box=None, padding=(0, 1, 0, 0))
    for name in columns:
        drawn.add_column("at" if name == "at_ms" else name, overflow="fold")
    for each in rows:
        drawn.add_row(*(literal(_cell(name, each[name])) for name in columns))
    console.print(drawn)


def _cell(name: str, value: Any) -> str:
    if name == "at_ms":
        return f"{datetime.fromtimestamp(value / 1e3, UTC):%m-%d %H:%M:%S}"
    return f"{value:,.1f}" if isinstance(value, float) else "" if value is None else str(value)
