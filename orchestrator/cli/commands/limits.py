"""How much may be used, and how much of it is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import ENDPOINT, JSON, KEY, STATE


@click.command()
@STATE
@ENDPOINT
@KEY
@JSON
def limits(state: Path, endpoint: str | None, key: str, as_json: bool) -> None:
    """What is used of the limits of tiers, providers and API keys, and when it is free again."""
    from orchestrator.cli.limits import run_limits

    sys.exit(run_limits(state, endpoint, key, as_json=as_json))
