"""A cluster's upkeep: brought to the code on disk while it answers; what matters of it kept, and brought back."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON, STATE

PASSPHRASE = click.option(
    "--passphrase-file",
    "passphrase",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Its first line seals the backup, and opens it.",
)


@click.command()
@STATE
@JSON
@click.option("--check", "is_check", is_flag=True, help="Show what runs and what is on disk, and change nothing.")
@click.option(
    "--drain-s",
    type=click.FloatRange(1, 86_400),
    default=300.0,
    show_default=True,
    help="Longest that an old worker has for its answers.",
)
@click.option("--force", "is_forced", is_flag=True, help="Start anew also what runs the code on disk already.")
def upgrade(state: Path, as_json: bool, is_check: bool, drain_s: float, is_forced: bool) -> None:
    """Have a running cluster run the code on disk, without a call lost: supervisor, controller, workers, instances.

    Exit codes: 0 all runs what is on disk · 1 not all of it does · 2 with --check: something differs.
    """
    from orchestrator.cli.upgrade import run_check, run_upgrade

    if as_json and not is_check:
        raise click.UsageError("--json goes with --check")
    sys.exit(
        run_check(state, as_json=as_json) if is_check else run_upgrade(state, drain_s=drain_s, is_forced=is_forced)
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@STATE
@CONFIG
@PASSPHRASE
@click.option("--with-calls", is_flag=True, help="Also the request log.")
def backup(file: Path, state: Path, config: Path | None, passphrase: Path | None, with_calls: bool) -> None:
    """Keep in FILE what cannot be made anew: configuration, keys, deployments, counts, budgets. Also while it runs."""
    from orchestrator.cli.backup import run_backup

    sys.exit(run_backup(state, config, file, with_calls=with_calls, passphrase=passphrase))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@STATE
@PASSPHRASE
@click.option(
    "--config-to",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    show_default=True,
    help="Folder for cluster.yaml and what it names.",
)
@click.option("--check", "is_check", is_flag=True, help="Look whether the backup is whole, and change nothing.")
def restore(file: Path, state: Path, passphrase: Path | None, config_to: Path, is_check: bool) -> None:
    """Bring a backup back into a state folder and a Redis that hold no cluster."""
    from orchestrator.cli.backup import run_restore

    sys.exit(run_restore(file, state, config_to, is_check=is_check, passphrase=passphrase))
