"""The configuration: checked, shown, described."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON


@click.group()
def config() -> None:
    """Check, show or describe the configuration."""


@config.command("check")
@CONFIG
def config_check(config: Path | None) -> None:
    """Check cluster.yaml: every mistake with its line, or the word that it is valid."""
    from orchestrator.cli.configuration import run_check

    sys.exit(run_check(config))


@config.command("show")
@CONFIG
@JSON
def config_show(config: Path | None, as_json: bool) -> None:
    """The configuration with every default filled in and every secret masked."""
    from orchestrator.cli.configuration import run_show

    sys.exit(run_show(config, as_json=as_json))


@config.command("schema")
def config_schema() -> None:
    """JSON Schema of cluster.yaml, for editors."""
    from orchestrator.cli.configuration import run_schema

    sys.exit(run_schema())
