"""`ollamactl config …`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from orchestrator.app.live_settings import Wish, check, resolve_settings
from orchestrator.cli.output import console, fail
from orchestrator.settings import ClusterSettings
from orchestrator.settings.file import load
from orchestrator.settings.show import json_schema, show


def run_check(config: Path | None) -> int:
    """Say that the file is valid; a SettingsError with every mistake otherwise."""
    if config is None:
        fail(
            "there is no cluster.yaml here; name one with --config, or see `ollamactl config show` for the defaults", 3
        )
    check(load(config))
    console.print(f"{config} is valid")
    return 0


def run_show(config: Path | None, *, as_json: bool) -> int:
    """Print the settings in full."""
    text = show(_settings(config))
    if as_json:
        click.echo(json.dumps(yaml.safe_load(text), ensure_ascii=False, indent=2, default=str))
    else:
        click.echo(text, nl=False)
    return 0


def run_schema() -> int:
    click.echo(json.dumps(json_schema(), indent=2))
    return 0


def _settings(config: Path | None) -> ClusterSettings:
    import asyncio

    wish = Wish(state=Path(), config=config, listen=None, simulate=None, ready_file=None)
    return asyncio.run(resolve_settings(wish)).settings
