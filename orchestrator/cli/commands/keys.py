"""API keys: made, given new secrets, looked at, taken back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import CONFIG, JSON, STATE

_FILE = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Where the keys are kept.  [default: `keys_file` of the configuration, keys.json in --state]",
)
_NAME = click.argument("name", metavar="NAME", callback=lambda ctx, param, given: _checked_name(given))


def _checked_name(given: str) -> str:
    import re

    from orchestrator.settings.section import KEY_NAME, KEY_NAME_LETTERS, PATTERN_WORDS

    if not re.fullmatch(KEY_NAME, given) or len(given) > KEY_NAME_LETTERS:
        raise click.BadParameter(f"expected {PATTERN_WORDS[KEY_NAME]}")
    return given


def _end(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    """A day, a time, or how long from now."""
    from orchestrator.cli.keys import end_of

    if given is None:
        return None
    try:
        return end_of(given)
    except (ValueError, OverflowError) as why:
        raise click.BadParameter(f"{why}, or a length of time such as 90d") from why


def _span(ctx: click.Context, param: click.Parameter, given: str) -> Any:
    from orchestrator.settings.moments import span_of

    try:
        return span_of(given)
    except (ValueError, OverflowError) as why:
        raise click.BadParameter(str(why)) from why


def _terms(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a key may do, and for how long."""
    count = click.IntRange(min=1)
    options = (
        click.option(
            "--scope",
            "scopes",
            multiple=True,
            type=click.Choice(["infer", "admin", "models"]),
            help="infer: ask models; admin: see and change the cluster; models: pull, copy, delete models. Several "
            "are several options.  [default: infer]",
        ),
        click.option(
            "--model", "models", multiple=True, help="A model or route it may ask for, or a glob.  [default: all]"
        ),
        click.option("--expires", callback=_end, metavar="DAY|TIME|SPAN", help="2027-01-31, 90d from now, or never."),
        click.option("--tenant", default=None, help="Whose it is, where several keys are one customer's."),
        click.option("--priority", type=click.IntRange(0, 9), default=None, help="Its best class in a queue; 0 first."),
        click.option("--privacy", type=click.Choice(["internal", "local"]), default=None, help="Class of its calls."),
        click.option("--rpm", type=count, default=None, help="Requests a minute."),
        click.option("--rpd", type=count, default=None, help="Requests a day."),
        click.option("--tpm", type=count, default=None, help="Tokens a minute."),
        click.option("--tpd", type=count, default=None, help="Tokens a day."),
        click.option("--concurrent", type=count, default=None, help="Requests at once."),
        click.option("--usd-day", type=click.FloatRange(min=0, min_open=True), default=None, help="Dollars a day."),
        click.option("--usd-month", type=click.FloatRange(min=0, min_open=True), default=None, help="A month."),
    )
    for each in reversed(options):
        command = each(command)
    return command


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """What was said, as a key's fields."""
    limits = ("rpm", "rpd", "tpm", "tpd", "concurrent", "usd_day", "usd_month")
    fields = {name: value for name, value in given.items() if name not in limits and value not in (None, ())}
    said = {name: given[name] for name in limits if given[name] is not None}
    return {**fields, **({"limits": said} if said else {})}


@click.group()
def keys() -> None:
    """API keys: who may ask, for what, and until when. Kept as digests; running gateways take changes over at once."""


@keys.command("create")
@_NAME
@_terms
@STATE
@CONFIG
@_FILE
@JSON
def keys_create(name: str, state: Path, config: Path | None, file: Path | None, as_json: bool, **given: Any) -> None:
    """Make a key and print its secret, which nobody can read again. From the first one on every caller needs one."""
    from orchestrator.cli.keys import Where, run_create

    sys.exit(run_create(Where(state, config, file), {"name": name, **_fields(given)}, as_json=as_json))


@keys.command("list")
@STATE
@CONFIG
@_FILE
@JSON
def keys_list(state: Path, config: Path | None, file: Path | None, as_json: bool) -> None:
    """Every key, those of cluster.yaml too, without their secrets."""
    from orchestrator.cli.keys import Where, run_list

    sys.exit(run_list(Where(state, config, file), as_json=as_json))


@keys.command("show")
@click.argument("name")
@STATE
@CONFIG
@_FILE
@JSON
def keys_show(name: str, state: Path, config: Path | None, file: Path | None, as_json: bool) -> None:
    """One key, whole. NAME may also be a secret's first characters, as logs of callers show them."""
    from orchestrator.cli.keys import Where, run_show

    sys.exit(run_show(Where(state, config, file), name, as_json=as_json))


@keys.command("rotate")
@_NAME
@click.option(
    "--overlap", default="24h", show_default=True, callback=_span, help="So long the secret of before opens, too."
)
@STATE
@CONFIG
@_FILE
@JSON
def keys_rotate(name: str, overlap: Any, state: Path, config: Path | None, file: Path | None, as_json: bool) -> None:
    """Give a key a new secret and print it. The one of before goes on opening for --overlap; 0s: no longer."""
    from orchestrator.cli.keys import Where, run_rotate

    sys.exit(run_rotate(Where(state, config, file), name, overlap, as_json=as_json))


@keys.command("change")
@_NAME
@_terms
@STATE
@CONFIG
@_FILE
@JSON
def keys_change(name: str, state: Path, config: Path | None, file: Path | None, as_json: bool, **given: Any) -> None:
    """Give a key other terms: what is named here is replaced, the rest and its secret stay."""
    from orchestrator.cli.keys import Where, run_change

    sys.exit(run_change(Where(state, config, file), name, _fields(given), as_json=as_json))


@keys.command("revoke")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@STATE
@CONFIG
@_FILE
def keys_revoke(names: tuple[str, ...], state: Path, config: Path | None, file: Path | None) -> None:
    """Take keys back: from now on they open nothing. Calls under way are finished."""
    from orchestrator.cli.keys import Where, run_revoke

    sys.exit(run_revoke(Where(state, config, file), names))
