"""Instances on hosts: deployed, rolled back, destroyed; and single ones drained, started anew, looked into."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.options import CONFIG, JSON, STATE

LIMIT = click.option("--limit", multiple=True, metavar="HOST", help="Only on this host; may be given again.")
YES = click.option("--yes", is_flag=True, help="It is agreed to already: do not ask.")
TAKE_OVER = click.option("--take-over", is_flag=True, help="Also hosts that were deployed to from another place.")


@click.command()
@STATE
@CONFIG
@LIMIT
@YES
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
def deploy(state: Path, config: Path | None, limit: tuple[str, ...], yes: bool, take_over: bool, dry_run: bool) -> None:
    """Show what would change on hosts; once agreed to, change it, and wait until everything serves.

    Exit codes: 0 all serves · 1 not all of it does · 2 not agreed to; with --dry-run: there is a difference.
    """
    from orchestrator.cli.deploy import Asked, run_deploy

    sys.exit(run_deploy(Asked(state, config, limit, is_agreed=yes, is_dry=dry_run, take_over=take_over)))


@click.command()
@STATE
@CONFIG
@YES
def rollback(state: Path, config: Path | None, yes: bool) -> None:
    """Deploy once more what was good last, before what is deployed now."""
    from orchestrator.cli.deploy import Asked, run_rollback

    sys.exit(run_rollback(Asked(state, config, is_agreed=yes)))


@click.command()
@STATE
@CONFIG
@LIMIT
@YES
@TAKE_OVER
@click.option("--models", is_flag=True, help="Delete models, too.")
def destroy(state: Path, config: Path | None, limit: tuple[str, ...], yes: bool, take_over: bool, models: bool) -> None:
    """Stop every instance, and take what was installed from the hosts. Models stay."""
    from orchestrator.cli.deploy import Asked, run_destroy

    sys.exit(run_destroy(Asked(state, config, limit, is_agreed=yes, take_over=take_over), with_models=models))


@click.command()
@click.argument("name", metavar="INSTANCE|NODE")
@STATE
@click.option("--undo", is_flag=True, help="Let it have calls again.")
def drain(name: str, state: Path, undo: bool) -> None:
    """Give an instance, or all of a node, nothing new; what they have they finish."""
    from orchestrator.cli.operate import run_drain

    sys.exit(run_drain(state, name, is_undone=undo))


@click.command()
@click.argument("instance")
@STATE
def restart(instance: str, state: Path) -> None:
    """Have an instance finish what it has, and its process start anew."""
    from orchestrator.cli.operate import run_restart

    sys.exit(run_restart(state, instance))


@click.command()
@click.argument("instance")
@STATE
@CONFIG
@click.option("-n", "--lines", type=click.IntRange(0, 100_000), default=100, show_default=True, help="The last ones.")
@click.option("-f", "--follow", is_flag=True, help="Stay, and print what comes.")
def logs(instance: str, state: Path, config: Path | None, lines: int, follow: bool) -> None:
    """What an instance wrote."""
    from orchestrator.cli.operate import run_logs

    sys.exit(run_logs(state, config, instance, lines=lines, follow=follow))


@click.command("exec")
@click.argument("node")
@click.argument("command", nargs=-1, required=True)
@STATE
@CONFIG
@click.option("--sudo", is_flag=True, help="As root there.")
def exec_(node: str, command: tuple[str, ...], state: Path, config: Path | None, sudo: bool) -> None:
    """Run a command on a node: `ollamactl exec gpu-1 -- df -h`. No shell reads it.

    Its exit code is this command's.
    """
    from orchestrator.cli.operate import run_exec

    sys.exit(run_exec(state, config, node, command, sudo=sudo))


@click.command()
@STATE
@JSON
@click.option("-n", "--last", type=click.IntRange(1, 100_000), default=100, show_default=True, help="So many.")
@click.option("-f", "--follow", is_flag=True, help="Stay, and print what happens.")
@click.option("--audit", is_flag=True, help="Who had what done instead.")
def events(state: Path, as_json: bool, last: int, follow: bool, audit: bool) -> None:
    """What happened to instances and hosts; with --json, one object a line."""
    from orchestrator.cli.operate import run_audit, run_events

    if audit and follow:
        raise click.UsageError("--audit prints what was done so far; leave --follow out")
    if audit:
        sys.exit(run_audit(state, as_json=as_json, last=last))
    sys.exit(run_events(state, follow=follow, as_json=as_json, last=last))
