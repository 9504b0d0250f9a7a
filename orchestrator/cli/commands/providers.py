"""Who may be asked outside the cluster, at what price, and whether they answer."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON


@click.group()
def providers() -> None:
    """Who may be asked outside the cluster, at what price, and whether they answer."""


@providers.command("list")
@CONFIG
@JSON
def providers_list(config: Path | None, as_json: bool) -> None:
    """Providers of the configuration, and the catalogue of addresses, prices and quotas with its date. Asks nobody."""
    from orchestrator.cli.providers import run_list

    sys.exit(run_list(config, as_json=as_json))


@providers.command("check")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@CONFIG
@JSON
def providers_check(names: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Ask each provider of the configuration for its models, and for a short answer of each model that a tier names.

    Costs what that answer costs. Exit codes: 0 all answer · 1 one does not.
    """
    from orchestrator.cli.providers import run_check

    sys.exit(run_check(config, names, as_json=as_json))
