"""What was asked and answered: single calls, and reports of a period."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import JSON, RESULT, STATE

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def _moment(ctx: click.Context, param: click.Parameter, given: str | None) -> datetime | None:
    """A moment, or a time before now."""
    if given is None:
        return None
    try:
        if given[-1:] in _UNITS and given[:-1].isdigit():
            return datetime.now(UTC) - int(given[:-1]) * _UNITS[given[-1]]
        moment = datetime.fromisoformat(given)
    except (ValueError, OverflowError) as why:
        raise click.BadParameter(f"{given!r}: 7d, 12h, 30m or 2026-11-01, 2026-11-01T08:00 (UTC) are wanted") from why
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _period(command: Any) -> Any:
    until = click.option("--until", default=None, callback=_moment, metavar="TIME", help="Before then. [default: now]")
    since = click.option(
        "--since", default="7d", callback=_moment, metavar="TIME", show_default=True, help="7d, 12h, or a date (UTC)."
    )
    return since(until(command))


@click.command()
@STATE
@_period
@click.option("--last", type=click.IntRange(1, 100_000), default=20, show_default=True, help="So many at most.")
@click.option("--id", "id_", default=None, metavar="ID", help="The call of this X-Request-Id.")
@click.option("--caller", default=None, metavar="KEY", help="Of this API key's name.")
@click.option("--tenant", default=None, metavar="NAME", help="Of this tenant's API keys.")
@click.option("--model", default=None, metavar="NAME", help="Asked of this model or route.")
@click.option("--tier", default=None, metavar="TIER", help="Answered by this tier, `cache` too.")
@click.option("--failed", is_flag=True, help="Those that were not answered.")
@click.option("--sql", default=None, metavar="QUERY", help="What DuckDB answers; the table is `calls`.")
@JSON
def calls(
    state: Path, since: datetime | None, until: datetime | None, last: int, id_: str | None, caller: str | None,
    tenant: str | None, model: str | None, tier: str | None, failed: bool, sql: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Single calls of the request log, the last ones first. No texts are in it."""
    from orchestrator.cli.calls import run_calls

    named = {"id": id_, "caller": caller, "tenant": tenant, "model": model, "tier": tier}
    only = {name: value for name, value in named.items() if value is not None}
    sys.exit(run_calls(state, since, until, last, only, failed=failed, sql=sql, as_json=as_json))


@click.command()
@STATE
@_period
@click.option(
    "--litellm",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Of a LiteLLM proxy's log instead: JSON lines, or a list.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["terminal", "markdown", "html", "json"]),
    default="terminal",
    show_default=True,
)
@click.option("--out", type=RESULT, default=None, help="Write it to this file.")
def report(
    state: Path, since: datetime | None, until: datetime | None, litellm: Path | None, form: str, out: Path | None
) -> None:
    """What a period's calls were, cost and waited for; what is wrong with it, and what to do."""
    from orchestrator.cli.report import run_report

    form = "html" if form == "terminal" and out is not None and out.suffix == ".html" else form
    sys.exit(run_report(state, since, until, litellm, form, out))
